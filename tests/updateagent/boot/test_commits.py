"""How often the boot environment is written, for every environment and policy: the numbers of docs/update.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.sim.faulty_disk import FaultyDisk
from tests.updateagent.board import Board
from tests.updateagent.boot.boards import BOARDS, COUNTED, RAUC, CountedVariables, count_commits
from tests.updateagent.boot.loaders import GrubBoard
from tests.updateagent.engine.story_boards import WithRecovery
from updateagent.boot.uboot.env import EnvironmentStore
from updateagent.boot.uboot.medium import FileMedium
from updateagent.errors import EXIT_GUARD_WANTED, EXIT_OK, EXIT_REBOOT_WANTED

ALL = [*BOARDS, WithRecovery]


@dataclass
class Counter:
    """The commits of one board's Update Agent."""

    board: Board
    variables: CountedVariables

    def commits(self) -> int:
        """Since the last time."""
        count, self.variables.commits = self.variables.commits, 0
        return count

    def start(self) -> int:
        """Power on, `boot`, and the guard if it is wanted and there is no trial; the exit status of `boot`."""
        self.board.power_on()
        updater = self.board.updater()
        code = updater.boot()
        if code == EXIT_GUARD_WANTED and not updater.on_trial:
            self.board.updater().mark_good()
        return code


def counted(kind: type[Board]) -> Counter:
    folder = Path("/board")
    board = kind(folder, FaultyDisk())
    board.disk.mkdir_durable(folder)
    board.assemble()
    counter = Counter(board, count_commits(board))
    counter.start()  # the first start of a new board
    counter.commits()
    return counter


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_an_install_is_at_most_two_commits_and_a_confirmation_one(kind: type[Board]) -> None:
    counter = counted(kind)
    board = counter.board
    board.hand_over("2", request_id="r2")
    assert counter.start() == EXIT_REBOOT_WANTED
    # Two where the slot to be written is in the boot order: first it must not be started any more.
    assert counter.commits() == (1 if kind in (*COUNTED, WithRecovery) else 2)

    assert counter.start() == EXIT_GUARD_WANTED
    assert counter.commits() == 0
    board.updater().confirm()
    assert counter.commits() == 1

    counter.start()
    assert counter.commits() == (1 if kind is GrubBoard else 0)
    board.hand_over("3", request_id="r3")
    assert counter.start() == EXIT_REBOOT_WANTED
    assert counter.commits() == (1 if kind in COUNTED else 2)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_a_rollback_is_one_commit(kind: type[Board]) -> None:
    counter = counted(kind)
    counter.board.hand_over("2")
    counter.start()
    counter.commits()
    for _ in range(5):
        if counter.start() != EXIT_GUARD_WANTED or counter.board.booted == "A":
            break
    assert counter.board.booted == "A"
    assert counter.board.result() is not None
    assert counter.commits() == 1


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_with_nothing_to_do_nothing_is_committed(kind: type[Board]) -> None:
    counter = counted(kind)
    counter.start()
    counter.commits()
    for _ in range(3):
        assert counter.board.updater().boot() == EXIT_OK
        assert counter.board.updater().mark_good() is False
    assert counter.commits() == 0


@pytest.mark.parametrize("kind", [*RAUC, WithRecovery], ids=lambda kind: kind.__name__)
def test_of_seven_ordinary_starts_one_costs_a_commit(kind: type[Board]) -> None:
    counter = counted(kind)
    per_start = []
    for _ in range(21):
        counter.start()
        per_start.append(counter.commits())
    assert per_start == 3 * [0, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("kind", COUNTED, ids=lambda kind: kind.__name__)
def test_u_boots_own_counter_costs_an_ordinary_start_nothing_on_either_side(kind: type[Board]) -> None:
    counter = counted(kind)
    before = counter.board.disk.read_bytes(counter.board.environment.flash)
    for _ in range(5):
        assert counter.start() == EXIT_OK
    assert counter.board.disk.read_bytes(counter.board.environment.flash) == before


def test_grub_costs_every_start_a_commit() -> None:
    counter = counted(GrubBoard)
    for _ in range(3):
        counter.start()
        assert counter.commits() == 1


def test_a_commit_writes_one_copy_and_a_decision_both() -> None:
    writes: list[bytes] = []

    class CountedMedium(FileMedium):
        def write(self, raw: bytes) -> None:
            writes.append(raw)
            super().write(raw)

    board = counted(WithRecovery).board
    locations = board.env_locations()
    board.open_variables = lambda: EnvironmentStore(  # type: ignore[method-assign]
        board.disk, locations, medium=CountedMedium
    )
    board.hand_over("2")
    board.power_on()
    board.updater().boot()
    assert len(writes) == 1
    board.power_on()
    board.updater().boot()
    board.updater().confirm()
    assert len(writes) == 1 + 2
