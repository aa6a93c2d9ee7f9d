"""Whatever commands are given, the boot loader ends in a verified system; and the faults that this must find."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from tests.updateagent.board import Board
from tests.updateagent.boot.loaders import BootcountBoard, GrubBoard, MenderBoard
from tests.updateagent.by_hand.sequences import COMMANDS, MakeBoard, explore
from updateagent.engine.by_hand import ByHand
from updateagent.engine.mailbox import Mailbox
from updateagent.slots.state import SlotState

LOADERS = (Board, BootcountBoard, MenderBoard, GrubBoard)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_any_command_leaves_a_board_that_starts() -> None:
    tally = explore(depth=1)
    assert tally.violations == []
    assert set(tally.by_command) == set(COMMANDS)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("make_board", LOADERS)
def test_any_three_commands_leave_a_board_that_starts(make_board: MakeBoard) -> None:
    tally = explore(make_board, depth=3 if make_board is Board else 2)
    print(make_board.__name__, tally)
    assert tally.violations == []
    assert set(tally.by_command) == set(COMMANDS)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("make_board", LOADERS)
def test_a_power_cut_in_any_command_leaves_a_board_that_starts(make_board: MakeBoard) -> None:
    tally = explore(make_board, depth=1, cuts_to=1)
    print(make_board.__name__, tally)
    assert tally.violations == []
    assert tally.cuts > 1000


# -- faults that were made once, or nearly


def _no_check(self: ByHand, slot: SlotState) -> None:
    """The content is taken for what it should be."""


def _takes_anything(self: ByHand, slot: SlotState, *, force: bool) -> None:
    """`mark bad` without looking for another system."""
    other = next(name for name in "AB" if name != slot.name)
    self._deps.bootenv.fall_back(slot.name, other)


def _confirms(self: ByHand, slot: SlotState, why: str, *, force: bool) -> int:
    """`rollback` and `mark active` without a trial."""
    self._deps.bootenv.confirm(slot.name)
    return 10


def _replaces(self: Mailbox) -> bool:
    """A result that replaces the one before."""
    if not self._disk.exists(self.pending_file):
        return False
    self._disk.rename_durable(self.pending_file, self.result_file)
    return True


def _clears_all(self: Mailbox, package: str, *, request: bool = True) -> None:
    """An install by hand that takes the agent's request with it."""
    self._disk.remove_durable(self.inbox / package)
    self._disk.remove_durable(self.request_file)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("owner", "name", "fault", "make_board"),
    [
        (ByHand, "_mark_bad", _takes_anything, Board),
        (ByHand, "_offer", _confirms, BootcountBoard),
        (ByHand, "_check_content", _no_check, BootcountBoard),
        (SlotState, "is_certain", True, Board),
        (Mailbox, "publish", _replaces, Board),
        (Mailbox, "clear_inbox", _clears_all, Board),
    ],
)
def test_a_planted_fault_is_found(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, fault: Callable[..., object], make_board: MakeBoard
) -> None:
    monkeypatch.setattr(owner, name, fault)
    assert explore(make_board, depth=2, stop_at_first=True).violations
