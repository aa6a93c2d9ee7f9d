"""A boot environment that the boot loader does not share is found out before anything is installed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sim.board.uboot import Choice
from tests.updateagent.board import Board
from tests.updateagent.boot.boards import BOARDS
from tests.updateagent.engine.test_health import Bench
from updateagent.engine.health import HealthConfig
from updateagent.engine.machine import State
from updateagent.errors import ENVIRONMENT_NOT_SHARED, EXIT_GUARD_WANTED, EXIT_OK, EXIT_REBOOT_WANTED, DeviceError


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Apart(Board):
    """The boot loader's environment is a clone of ours, somewhere else."""

    def start_boot_loader(self) -> Choice:
        elsewhere = Board(self.folder / "elsewhere", self.disk)
        if not self.disk.exists(elsewhere.folder):
            self.disk.mkdir_durable(elsewhere.folder)
            elsewhere.disk.write_durable(elsewhere.environment.flash, self.disk.read_bytes(self.environment.flash))
        return elsewhere.start_boot_loader()


class CannotSave(Board):
    """The boot loader reads our environment and cannot write it."""

    def start_boot_loader(self) -> Choice:
        before = self.disk.read_bytes(self.environment.flash)
        choice = super().start_boot_loader()
        self.disk.write_durable(self.environment.flash, before)
        return replace(choice, boots="none")


def started(board: Board) -> Board:
    board.disk.mkdir_durable(board.folder)
    board.assemble()
    board.power_on()
    return board


@pytest.mark.parametrize("kind", BOARDS, ids=lambda kind: kind.__name__)
def test_a_boot_loader_that_shares_the_environment_is_believed_all_through_the_boot(
    kind: type[Board], tmp_path: Path
) -> None:
    board = started(kind(tmp_path))
    for _ in range(4):
        board.updater().mark_good()
        assert board.canary
        board.bootenv().check_shared(board.canary)
        board.power_on()
    board.hand_over("2")
    assert board.updater().boot() == EXIT_REBOOT_WANTED
    board.bootenv().check_shared(board.canary)
    board.power_on()
    board.bootenv().check_shared(board.canary)


@pytest.mark.parametrize("kind", [Apart, CannotSave], ids=lambda kind: kind.__name__)
def test_nothing_is_installed_and_nothing_committed_where_it_is_not_shared(kind: type[Board], tmp_path: Path) -> None:
    board = started(kind(tmp_path))
    environment, slot = (board.disk.read_bytes(path) for path in (board.environment.flash, board.slot_file("B")))
    assert board.updater().boot() == EXIT_GUARD_WANTED  # it has no journal yet
    assert board.updater().mark_good() is False
    assert "environment-not-shared (68)" in json.loads(board.mailbox().status_file.read_bytes())["error"]
    assert board.updater().boot() == EXIT_OK

    board.hand_over("2")
    board.updater().boot()

    result = board.result()
    assert result is not None
    assert (result["code"], result["name"], result["fumo"]) == (68, "environment-not-shared", 410)
    assert board.updater().record.state is State.IDLE
    assert board.shelf.verified == 0
    assert board.disk.read_bytes(board.environment.flash) == environment
    assert board.disk.read_bytes(board.slot_file("B")) == slot
    for name, how in (("A", "good"), ("A", "bad"), ("B", "active")):
        with pytest.raises(DeviceError) as caught:
            board.by_hand().mark(name, how)
        assert caught.value.code is ENVIRONMENT_NOT_SHARED


def test_an_environment_cloned_and_then_apart_is_found_at_the_next_start(tmp_path: Path) -> None:
    board = started(Board(tmp_path))
    board.updater().mark_good()
    apart = Apart(tmp_path)
    apart.power_on()
    with pytest.raises(DeviceError, match="dcu_boots=2, this environment has 1"):
        apart.bootenv().check_shared(apart.canary)


def test_a_script_that_passes_nothing_is_treated_as_before(tmp_path: Path) -> None:
    board = started(Apart(tmp_path))
    board.canary = None
    board.hand_over("2")

    assert board.updater().boot() == EXIT_REBOOT_WANTED
    board.power_on()
    board.canary = None
    assert board.updater().boot() in (EXIT_OK, EXIT_GUARD_WANTED)
    result = board.result()
    assert result is not None
    assert result["name"] == "environment-not-shared"


def test_it_is_looked_at_again_before_the_trial_is_asked_for(tmp_path: Path) -> None:
    board = started(Board(tmp_path))
    board.hand_over("2")
    board.updater().boot()
    # Written in a boot that shared it; the power went before the commit, and the next start cannot save.
    board.environment.save({**board.variables(), "BOOT_ORDER": "A", "BOOT_B_LEFT": "0"})
    board.power_on()
    board.canary = "none"
    board.updater().boot()

    result = board.result()
    assert result is not None
    assert result["name"] == "environment-not-shared"
    assert board.variables()["BOOT_ORDER"].split()[0] == "A"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, HealthConfig(deadline_s=30, poll_s=1, checks=("agent_up",)))


def test_a_new_system_that_reads_another_environment_is_not_confirmed_and_goes_back(bench: Bench) -> None:
    bench.bring_on_trial()
    line = (bench.folder / "cmdline").read_text()
    (bench.folder / "cmdline").write_text(line.replace("dcu.boots=", "dcu.boots=f"))
    bench.publish(agent_up=True)

    assert bench.guard() == EXIT_REBOOT_WANTED
    update = bench.board.updater().record.update
    assert update is not None
    assert update.failed_check == "environment"
    assert "the boot loader has saved" in update.log[-1]


def test_the_guard_of_a_system_with_its_own_environment_confirms_it(bench: Bench) -> None:
    bench.bring_on_trial()
    bench.publish(agent_up=True)

    assert bench.guard() == EXIT_OK
    assert json.loads((bench.board.update_dir / "status.json").read_text())["error"] == ""


def test_without_a_journal_an_environment_that_is_not_shared_is_no_reason_to_reboot(bench: Bench) -> None:
    bench.bring_on_trial()
    for name in ("journal.0", "journal.1"):
        (bench.board.update_dir / name).unlink()
    (bench.folder / "cmdline").write_text("rauc.slot=B dcu.boots=none")

    assert bench.guard() == EXIT_OK
