"""What a person may do to the slots: never anything that leaves the boot loader without a good system."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.updateagent.board import Board, plain_package
from tests.updateagent.boot.loaders import BootcountBoard, GrubBoard, MenderBoard
from updateagent.engine.deps import EngineDeps
from updateagent.errors import CANCELLED, EXIT_REBOOT_WANTED, STATE, UpdateError
from updateagent.handover import InstallRequest


@pytest.fixture
def board(tmp_path: Path) -> Board:
    made = Board(tmp_path)
    made.assemble()
    made.power_on()
    made.updater().boot()
    made.updater().mark_good()
    return made


def start(board: Board) -> None:
    """A start of a system that gets well."""
    board.power_on()
    board.updater().boot()
    updater = board.updater()
    if updater.on_trial:
        updater.confirm()
    else:
        updater.mark_good()


def updated(board: Board) -> Board:
    """Version 2 in slot B runs and is confirmed; version 1 in A came from the factory."""
    board.hand_over("2")
    board.updater().boot()
    start(board)
    assert board.booted == "B"
    return board


def twice_updated(board: Board) -> Board:
    """Version 3 in slot A runs; version 2 in B was written by an update as well."""
    updated(board)
    board.disk.remove_durable(board.mailbox().result_file)
    board.hand_over("3", "r2")
    board.updater().boot()
    start(board)
    assert (board.booted, board.running_version()) == ("A", "3")
    return board


def refused(board: Board, name: str, how: str, *, force: bool = False) -> str:
    before = board.variables()
    with pytest.raises(UpdateError) as caught:
        board.by_hand().mark(name, how, force=force)
    assert board.variables() == before
    return str(caught.value)


@pytest.mark.parametrize("force", [False, True])
def test_the_only_system_cannot_be_marked_bad(board: Board, force: bool) -> None:
    assert "slot A is the last one that is known to start" in refused(board, "A", "bad", force=force)
    start(board)
    assert board.booted == "A"


def test_an_empty_slot_cannot_be_made_the_first(board: Board) -> None:
    said = refused(board, "B", "active")
    assert "slot B is empty, or nothing is known of it" in said
    assert "with --force slot B is started 3 times at most, and must get well" in said


def test_an_empty_slot_that_is_forced_is_tried_and_left(board: Board) -> None:
    person = board.by_hand()
    person.mark("B", "active", force=True)
    assert "started 3 times at most" in person.cost
    assert [board.power_on().slot for _ in range(4)] == ["B", "B", "B", "A"]
    board.updater().boot()
    assert board.updater().slot_states()[1].why == "what slot B holds never got as far as its Update Agent"


def test_a_slot_from_the_factory_cannot_be_checked_and_is_tried(board: Board) -> None:
    updated(board)
    assert "what another slot holds, if anything, cannot be checked" in refused(board, "B", "bad")
    person = board.by_hand()
    person.mark("A", "active")
    assert person.cost.startswith("what slot A holds cannot be checked")
    start(board)
    assert board.booted == "A"
    assert board.updater().slot_states()[0].content == "good"


def test_the_running_system_can_be_marked_bad_where_another_one_is_verified(board: Board) -> None:
    twice_updated(board)
    person = board.by_hand()
    person.mark("A", "bad")
    assert person.cost == "slot B starts next"
    slots = board.updater().slot_states()
    assert [(slot.content, slot.why) for slot in slots] == [("bad", "marked by hand"), ("good", "")]
    assert "last one" in refused(board, "B", "bad")
    start(board)
    assert board.running_version() == "2"


def test_what_was_marked_bad_by_mistake_can_be_marked_good_again(board: Board) -> None:
    twice_updated(board)
    board.by_hand().mark("B", "bad")
    assert board.updater().slot_states()[1].content == "bad"
    board.by_hand().mark("B", "good")
    assert board.updater().slot_states()[1].content == "good"


def test_a_slot_that_rotted_is_neither_started_nor_relied_upon(board: Board) -> None:
    twice_updated(board)
    with board.slot_file("B").open("r+b") as file:
        file.seek(5000)
        file.write(b"rotten")
    with pytest.raises(UpdateError) as caught:
        board.by_hand().rollback()
    assert "slot B does not return what was written to it" in str(caught.value)
    slot = board.updater().slot_states()[1]
    assert (slot.content, slot.proven) == ("bad", False)
    assert "does not return" in slot.why
    assert "last one" in refused(board, "A", "bad")
    with pytest.raises(UpdateError) as caught:
        board.by_hand().mark("B", "good")
    assert caught.value.code is STATE


def test_who_goes_back_must_get_well(board: Board) -> None:
    twice_updated(board)
    assert board.by_hand().rollback() == EXIT_REBOOT_WANTED
    board.power_on()
    assert board.booted == "B"
    board.updater().boot()
    board.updater().record_failure("meter_port", "no answer")
    for _ in range(3):
        board.power_on()
        board.updater().boot()
    assert board.booted == "A"
    assert board.updater().slot_states()[1].why == "health check meter_port was not good in time"
    told = board.result()
    assert told is not None
    assert told["id"] == "r2"  # of the update before: what a person does is no result of the agent's


@pytest.mark.parametrize("make_board", [Board, BootcountBoard, MenderBoard, GrubBoard])
def test_before_a_slot_is_written_the_running_one_can_start_again(tmp_path: Path, make_board: type[Board]) -> None:
    """Also where a person has marked it bad: the boot order would else have nothing that may start."""
    board = make_board(tmp_path)
    board.assemble()
    board.power_on()
    board.bootenv().fall_back("A", "B")
    assert board.bootenv().view().primary == "B"
    board.bootenv().protect("B", "A")
    assert board.bootenv().view().primary == "A"
    assert board.power_on().slot == "A"


# -- requests of the agent


def test_an_install_by_hand_leaves_the_agents_request_alone(board: Board) -> None:
    board.hand_over("2")
    with pytest.raises(UpdateError, match="handed over waits"):
        board.by_hand().install(InstallRequest("by-hand-1", "by-hand.swu", "", 0.0))
    assert board.mailbox().read_request() is not None


def test_a_result_is_not_replaced_before_the_agent_took_it(board: Board) -> None:
    updated(board)
    board.hand_over("3", "r2")
    board.updater().boot()
    start(board)
    first = board.result()
    assert first is not None
    assert first["id"] == "r1"
    board.hand_over("2", "r3")
    start(board)  # two results wait: the request waits, too
    assert board.booted == "A"
    assert board.mailbox().read_request() is not None
    board.disk.remove_durable(board.mailbox().result_file)
    start(board)
    second = board.result()
    assert second is not None
    assert second["id"] == "r2"


@pytest.mark.parametrize("starts", [0, 1], ids=["before it is written", "when it is written"])
def test_an_update_that_was_not_started_can_be_cancelled(board: Board, starts: int) -> None:
    before = board.variables()
    board.hand_over("2")
    for _ in range(starts):
        board.updater().boot()
    board.by_hand().cancel()
    result = board.result()
    assert result is not None
    assert (result["id"], result["name"], result["fumo"]) == ("r1", CANCELLED.name, 401)
    assert board.mailbox().read_request() is None
    assert board.variables()["BOOT_ORDER"].split()[0] == "A"
    start(board)
    assert board.booted == "A"
    assert before["BOOT_B_LEFT"] == board.variables()["BOOT_B_LEFT"] == "0"


def test_what_was_cancelled_when_it_was_written_is_whole_and_can_be_tried(board: Board) -> None:
    board.hand_over("2")
    board.updater().boot()
    board.by_hand().cancel()
    slot = board.updater().slot_states()[1]
    assert (slot.content, slot.version) == ("trial", "2")
    board.by_hand().mark("B", "active", force=True)
    start(board)
    assert board.running_version() == "2"


def test_who_would_go_back_and_cancels_it_has_two_systems_as_before(board: Board) -> None:
    twice_updated(board)
    before = board.variables()["BOOT_ORDER"]
    board.by_hand().rollback()
    board.by_hand().cancel()
    assert board.variables()["BOOT_ORDER"] == before == "A B"
    assert board.updater().slot_states()[1].content == "good"
    start(board)
    assert board.booted == "A"


def test_there_is_nothing_to_cancel(board: Board) -> None:
    with pytest.raises(UpdateError, match="no update to cancel"):
        board.by_hand().cancel()
    board.hand_over("2")
    board.updater().boot()
    board.power_on()
    board.updater().boot()
    with pytest.raises(UpdateError, match="runs already, on trial"):
        board.by_hand().cancel()


def test_status_tells_order_attempts_floors_and_why(board: Board) -> None:
    updated(board)
    status = json.loads((board.update_dir / "status.json").read_text())
    assert status["order"] == ["B", "A"]
    assert status["floors"] == {"firmware": 1}
    assert status["slots"] == [
        {"name": "A", "version": "1", "state": "good", "left": 9},
        {"name": "B", "version": "2", "state": "good", "left": 9},
    ]


def test_the_floor_outlives_the_data_partition(board: Board) -> None:
    updated(board)
    assert board.variables()["dcu_floor"] == "1"
    for name in ("journal.0", "journal.1"):
        board.disk.remove_durable(board.update_dir / name)
    assert board.updater().record.lost
    assert board.updater().status()["floors"] == {"firmware": 1}
    board.environment.save({**board.variables(), "dcu_floor": "9" * 11})  # nothing that was ever written there
    assert board.updater().status()["floors"] == {"firmware": 0}


class OldImage(Board):
    """A board whose image says what is too old for it."""

    def deps(self) -> EngineDeps:
        return replace(super().deps(), image_floor=5)


def test_the_image_says_what_is_too_old(tmp_path: Path) -> None:
    board = OldImage(tmp_path)
    board.assemble()
    board.power_on()
    board.hand_over("2", package=plain_package("2", security_version=7))
    board.updater().boot()
    assert board.shelf.floors == [5]
