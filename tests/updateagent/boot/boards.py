"""The boards of the tests of boot loaders: a new boot loader or a new medium of its variables gets a row here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.updateagent.board import Board
from tests.updateagent.boot.flashboards import NandBoard, NorBoard, UbiBoard
from tests.updateagent.boot.loaders import BootcountBoard, GrubBoard, MenderBoard
from updateagent.boot.policy import HasVariables, Variables

RAUC: list[type[Board]] = [Board, NorBoard, NandBoard, UbiBoard]
COUNTED: list[type[Board]] = [BootcountBoard, MenderBoard]
OTHER_LOADERS: list[type[Board]] = [*COUNTED, GrubBoard]
BOARDS = [*RAUC, *OTHER_LOADERS]


class CountedVariables:
    """Variables with a count of the commits that wrote something."""

    def __init__(self, variables: Variables) -> None:
        self._variables = variables
        self.commits = 0

    def places(self) -> Sequence[tuple[Path, int, int | None]]:
        return self._variables.places()

    def load(self) -> HasVariables:
        return self._variables.load()

    def commit(self, changes: Mapping[str, str | None], *, settle: bool = False) -> bool:
        wrote = self._variables.commit(changes, settle=settle)
        self.commits += wrote
        return wrote


def count_commits(board: Board) -> CountedVariables:
    """Count the commits that `board` makes from now on."""
    counted = CountedVariables(board.open_variables())
    board.open_variables = lambda: counted  # type: ignore[method-assign]
    return counted
