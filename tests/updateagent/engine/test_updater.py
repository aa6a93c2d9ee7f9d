"""An update from the request to the report, over files and a boot loader."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from tests.updateagent.board import FILLER, SLOT_BYTES, Board, PlainImage, PlainPackage, content
from tests.updateagent.boot.boards import count_commits
from updateagent.engine.journal import STORES_MAX, Outcome
from updateagent.engine.machine import Event, State
from updateagent.errors import (
    EXIT_GUARD_WANTED,
    EXIT_OK,
    EXIT_REBOOT_WANTED,
    JOURNAL,
    SIGNATURE,
    PackageError,
    RequestError,
)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    made = Board(tmp_path)
    made.assemble()
    made.power_on()
    return made


def bring_on_trial(board: Board, version: str = "2") -> None:
    board.hand_over(version)
    assert board.updater().boot() == EXIT_REBOOT_WANTED
    board.power_on()
    assert board.updater().boot() == EXIT_GUARD_WANTED


def test_a_boot_with_nothing_to_do_and_all_attempts_left_wants_nothing(board: Board) -> None:
    board.updater().mark_good()
    before = board.environment.flash.read_bytes()

    assert board.updater().boot() == EXIT_OK
    assert board.environment.flash.read_bytes() == before


def test_an_ordinary_boot_wants_the_guard_to_give_the_attempts_back(board: Board) -> None:
    assert board.variables()["BOOT_A_LEFT"] == "2"
    assert board.updater().boot() == EXIT_GUARD_WANTED
    assert board.updater().mark_good() is True
    assert board.variables()["BOOT_A_LEFT"] == "9"
    assert board.updater().mark_good() is False


def test_a_good_update_runs_from_the_other_slot_and_reports_200(board: Board) -> None:
    board.hand_over("2")

    assert board.updater().boot() == EXIT_REBOOT_WANTED
    expected = {"BOOT_ORDER": "B A", "BOOT_A_LEFT": "9", "BOOT_B_LEFT": "3", "BOARD": FILLER}
    assert expected.items() <= board.variables().items()
    assert board.power_on().slot == "B"
    assert board.running_version() == "2"
    assert board.updater().boot() == EXIT_GUARD_WANTED
    assert board.result() is None
    board.updater().confirm()

    assert board.variables()["BOOT_B_LEFT"] == "9"
    result = board.result()
    assert result is not None
    assert (result["fumo"], result["scomo"], result["code"], result["name"]) == (200, 1200, 0, "ok")
    assert (result["id"], result["correlator"]) == ("r1", "correlator-r1")
    assert (result["from_version"], result["to_version"], result["attempts"]) == ("1", "2", 1)
    assert list((board.update_dir / "inbox").iterdir()) == []
    board.power_on()
    assert board.booted == "B"


def test_an_install_needs_two_commits_at_most_and_a_confirmation_one(board: Board) -> None:
    counted = count_commits(board)
    totals = []
    for version in ("2", "3"):
        board.hand_over(version, f"r{version}")
        board.updater().boot()
        totals.append(counted.commits)
        board.power_on()
        board.updater().boot()
        board.updater().confirm()
        totals.append(counted.commits)
    # The first time slot B is still in the order, the second time slot A is.
    assert totals == [2, 3, 5, 6]


def test_a_system_that_fails_its_health_check_falls_back_and_says_which(board: Board) -> None:
    board.hand_over("3")
    board.updater().boot()
    attempts = 0
    while board.power_on().slot == "B":
        attempts += 1
        assert board.updater().boot() == EXIT_GUARD_WANTED
        board.log_lines = (f"attempt {attempts}: no answer from the base node",)
        board.updater().record_failure("meter_port", "no frame in 10 s")

    assert attempts == 3
    assert board.running_version() == "1"
    assert board.updater().boot() == EXIT_GUARD_WANTED  # this board was never found well
    result = board.result()
    assert result is not None
    assert (result["fumo"], result["name"], result["failed_check"]) == (410, "trial-failed", "meter_port")
    assert result["attempts"] == 3
    assert result["log"][0] == "attempt 3: no answer from the base node"
    assert "no frame in 10 s" in result["log"][-1]
    assert result["message"] == "health check meter_port was not good in time"
    assert board.variables()["BOOT_ORDER"] == "A"
    assert board.variables()["BOOT_B_LEFT"] == "0"
    assert board.variables()["BOOT_A_LEFT"] == "9"


def test_a_system_that_never_reaches_its_update_agent_falls_back_with_the_log_it_left(board: Board) -> None:
    board.hand_over("3")
    board.updater().boot()
    while board.power_on().slot == "B":
        pass
    board.log_lines = ("kernel: no init found",)

    board.updater().boot()

    result = board.result()
    assert result is not None
    assert (result["fumo"], result["name"], result["failed_check"], result["attempts"]) == (
        410,
        "trial-silent",
        None,
        0,
    )
    assert result["log"] == ["kernel: no init found"]
    assert result["message"] == "version 3 never got as far as its Update Agent"


def test_a_boot_loader_that_cannot_load_the_new_slot_and_goes_on_counts_as_fallen_back(board: Board) -> None:
    board.hand_over("2")
    board.updater().boot()
    board.power_on()
    board.booted, board.boot_id = "A", "same power-on, next slot of the order"

    assert board.updater().boot() == EXIT_GUARD_WANTED  # this board was never found well
    result = board.result()
    assert result is not None
    assert result["fumo"] == 410
    assert board.power_on().slot == "A"


def test_a_trial_that_the_boot_loader_does_not_count_ends_after_its_attempts(board: Board) -> None:
    bring_on_trial(board)
    for number in range(2, 4):
        board.boot_id = f"boot {number} without a boot loader"
        assert board.updater().boot() == EXIT_GUARD_WANTED
    board.boot_id = "one too many"

    assert board.updater().boot() == EXIT_REBOOT_WANTED
    assert board.power_on().slot == "A"
    board.updater().boot()
    result = board.result()
    assert result is not None
    assert (result["fumo"], result["attempts"]) == (410, 4)
    assert result["message"] == "version 2 was started 4 times and never got well"


def test_an_environment_that_the_boot_loader_does_not_read_is_told_apart_from_a_bad_system(board: Board) -> None:
    board.hand_over("2")
    board.updater().boot()
    board.boot_id = "a boot whose loader used another environment"

    assert board.updater().boot() in (EXIT_OK, EXIT_GUARD_WANTED)
    result = board.result()
    assert result is not None
    assert result["name"] == "environment-not-shared"


def test_asking_again_in_the_same_boot_changes_nothing(board: Board) -> None:
    board.hand_over("2")
    assert board.updater().boot() == EXIT_REBOOT_WANTED
    before = board.environment.flash.read_bytes()

    assert board.updater().boot() == EXIT_REBOOT_WANTED
    assert board.environment.flash.read_bytes() == before


def test_a_tampered_package_is_refused_before_anything_is_written(board: Board) -> None:
    board.hand_over("2", package=PackageError(SIGNATURE, "the signature does not fit"))
    slot, environment = board.slot_file("B").read_bytes(), board.environment.flash.read_bytes()

    assert board.updater().boot() == EXIT_GUARD_WANTED
    result = board.result()
    assert result is not None
    assert (result["fumo"], result["scomo"], result["code"]) == (404, 1407, SIGNATURE.number)
    assert board.slot_file("B").read_bytes() == slot
    assert board.environment.flash.read_bytes() == environment


def test_a_request_that_cannot_be_read_is_answered_and_removed(board: Board) -> None:
    (board.update_dir / "inbox" / "request.json").write_text('{"version": 1, "id": ')

    board.updater().boot()

    result = board.result()
    assert result is not None
    assert (result["fumo"], result["name"]) == (400, "request")
    assert not (board.update_dir / "inbox" / "request.json").exists()


def test_an_image_without_a_place_is_refused(board: Board) -> None:
    package = PlainPackage("2", images=(PlainImage("kernel", content("2")),))
    board.hand_over("2", package=package)

    board.updater().boot()

    result = board.result()
    assert result is not None
    assert (result["fumo"], result["name"]) == (403, "image-role")


def test_an_image_larger_than_the_slot_is_refused_with_the_old_content_in_place(board: Board) -> None:
    package = PlainPackage("2", images=(PlainImage("rootfs", bytes(SLOT_BYTES + 4096)),))
    board.hand_over("2", package=package)
    before = board.slot_file("B").read_bytes()

    board.updater().boot()

    result = board.result()
    assert result is not None
    assert (result["fumo"], result["name"]) == (502, "image-size")
    assert board.slot_file("B").read_bytes() == before


def test_a_slot_that_failed_is_cleared_by_the_next_package(board: Board) -> None:
    board.hand_over("3")
    board.updater().boot()
    while board.power_on().slot == "B":
        pass
    board.updater().boot()
    (board.update_dir / "outbox" / "result.json").unlink()
    board.hand_over("2", "r2")

    assert board.updater().boot() == EXIT_REBOOT_WANTED
    assert board.power_on().slot == "B"
    board.updater().boot()
    board.updater().confirm()
    result = board.result()
    assert result is not None
    assert (result["id"], result["fumo"]) == ("r2", 200)


def test_the_result_of_a_request_is_given_once(board: Board) -> None:
    bring_on_trial(board)
    board.updater().confirm()
    (board.update_dir / "outbox" / "result.json").unlink()

    board.power_on()
    board.updater().boot()

    assert board.result() is None


def test_a_result_that_was_held_but_not_handed_over_comes_with_the_next_boot(board: Board) -> None:
    bring_on_trial(board)
    board.updater().confirm()
    outbox = board.update_dir / "outbox"
    (outbox / "result.json").rename(outbox / ".result.pending")
    board.hand_over("2", "r1")

    board.power_on()
    board.updater().boot()

    assert board.result() is not None
    assert list((board.update_dir / "inbox").iterdir()) == []


def test_a_step_that_is_begun_again_and_again_is_given_up(board: Board) -> None:
    board.hand_over("2")
    updater = board.updater()
    updater._stage_raw((board.update_dir / "inbox" / "request.json").read_bytes())
    stuck = replace(updater.record, stores=STORES_MAX)
    updater._store(stuck)

    assert board.updater().boot() == EXIT_GUARD_WANTED
    result = board.result()
    assert result is not None
    assert result["name"] == "loop"


def test_confirming_is_refused_when_nothing_is_on_trial(board: Board) -> None:
    with pytest.raises(RequestError, match="not on trial"):
        board.updater().confirm()


def test_a_trial_given_up_by_hand_reports_that_it_was_cancelled(board: Board) -> None:
    bring_on_trial(board)

    assert board.by_hand().rollback() == EXIT_REBOOT_WANTED
    assert board.power_on().slot == "A"
    board.updater().boot()
    result = board.result()
    assert result is not None
    assert result["fumo"] == 401


def test_rollback_without_a_trial_starts_the_other_good_system(board: Board) -> None:
    with pytest.raises(RequestError, match="no system known to be good"):
        board.by_hand().rollback()
    bring_on_trial(board)
    board.updater().confirm()

    assert board.by_hand().rollback() == EXIT_REBOOT_WANTED
    assert board.power_on().slot == "A"
    assert board.running_version() == "1"


def test_a_confirmed_version_raises_the_floor_for_the_next(board: Board) -> None:
    bring_on_trial(board)
    assert board.updater().record.security_floor == 0
    board.updater().confirm()
    assert board.updater().record.security_floor == 1


def test_a_lost_confirmation_commit_is_made_good_from_the_old_slot(board: Board) -> None:
    bring_on_trial(board)
    updater = board.updater()
    updater.record = updater._deps.journal.store(
        updater.record.advance(Event.CONFIRM, outcome=Outcome(0, "ok", 200, 1200))
    )
    variables = board.variables()
    board.environment.save({**variables, "BOOT_B_LEFT": "0"})
    assert board.power_on().slot == "A"

    assert board.updater().boot() == EXIT_REBOOT_WANTED
    assert board.power_on().slot == "B"
    board.updater().boot()
    result = board.result()
    assert result is not None
    assert result["fumo"] == 200
    assert board.updater().record.state is State.IDLE


def test_the_status_shows_slots_versions_and_the_trial(board: Board) -> None:
    bring_on_trial(board)

    status = json.loads(board.mailbox().status_file.read_bytes())

    assert (status["state"], status["booted"], status["progress"]) == ("trial", "B", 100)
    assert status["slots"] == [
        {"name": "A", "version": "1", "state": "good", "left": 9},
        {"name": "B", "version": "2", "state": "trial", "left": 2},
    ]


def test_a_journal_of_a_later_version_stops_updates_and_nothing_else_and_says_why(board: Board) -> None:
    payload = b'{"security_floor":9}'
    head = struct.pack("<4sHHII", b"DCUJ", 2, 0, 9, len(payload))
    newer = head + struct.pack("<I", zlib.crc32(payload, zlib.crc32(head))) + payload
    for copy in ("journal.0", "journal.1"):
        (board.update_dir / copy).write_bytes(newer)
    board.hand_over("2")

    assert board.updater().boot() == EXIT_GUARD_WANTED  # and that one asks for every check: this may be a trial
    result = board.result()
    assert result is not None
    assert (result["id"], result["code"]) == ("r1", JOURNAL.number)
    assert "version 2" in result["message"]
    assert list((board.update_dir / "inbox").iterdir()) == []
    assert "version 2" in json.loads((board.update_dir / "status.json").read_text())["error"]
    assert board.updater().mark_good() is True
    assert board.power_on().slot == "A"
    assert [(board.update_dir / copy).read_bytes() for copy in ("journal.0", "journal.1")] == [newer, newer]
