"""The checks made after a power cut notice every state that must not occur."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.board.emulation.story import BoardRunner, Outcome, violations
from tests.board.image.build import DISK_BYTES, SLOT_AT, SLOT_BYTES, BuiltBoard

GOOD_END: dict[str, Any] = {
    "event": "end",
    "slot": "B",
    "result": {"id": "r2", "fumo": 200},
    "outbox": ["result.json"],
    "inbox": [],
    "environment": {"BOOT_ORDER": "B A"},
    "status": {"state": "idle"},
}


@pytest.fixture
def runner(tmp_path: Path) -> BoardRunner:
    """Images that are one byte and zeros."""
    for version in ("1", "2"):
        with (tmp_path / f"rootfs-{version}.ext4").open("wb") as image:
            image.write(version.encode())
            image.truncate(SLOT_BYTES)
    return BoardRunner(BuiltBoard(tmp_path), tmp_path / "consoles")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
        for slot, version in (("A", b"1"), ("B", b"2")):
            file.seek(SLOT_AT[slot])
            file.write(version)
    return path


def outcome(runner: BoardRunner, **changes: Any) -> Outcome:
    found = Outcome()
    found.take({"event": "starting", "slot": "B"})
    found.take({"event": "up", "slot": "B", "version": "2"})
    found.take({"event": "image", "slot": "B", "sha256": runner.hash_of("2")})
    found.take(copy.deepcopy(GOOD_END) | changes)
    return found


def test_a_good_end_has_no_violations(runner: BoardRunner, disk: Path) -> None:
    assert violations(runner, outcome(runner), disk, cuts=1) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"result": None}, "on slot B"),
        ({"result": {"id": "r2", "fumo": 410}}, "on slot B"),
        ({"slot": "A", "result": {"id": "r2", "fumo": 410}}, "on slot A"),
        ({"outbox": []}, "not exactly one report"),
        ({"outbox": [".result.pending", "result.json"]}, "not exactly one report"),
        ({"inbox": ["request.json"]}, "not exactly one report"),
        ({"environment": {"BOOT_ORDER": "A B"}}, "another slot"),
        ({"status": {"state": "trial"}}, "is trial"),
    ],
)
def test_an_end_that_must_not_be_is_a_violation(runner: BoardRunner, disk: Path, changes: Any, said: str) -> None:
    assert any(said in one for one in violations(runner, outcome(runner, **changes), disk, cuts=1))


def test_attempts_that_two_cuts_took_are_none(runner: BoardRunner, disk: Path) -> None:
    back = outcome(runner, slot="A", result={"id": "r2", "fumo": 410}, environment={"BOOT_ORDER": "A"})
    assert violations(runner, back, disk, cuts=2) == []


@pytest.mark.parametrize(("slot", "said"), [("A", "the slot that ran was written"), ("B", "slot B is not version 2")])
def test_one_changed_byte_of_a_slot_is_a_violation(runner: BoardRunner, disk: Path, slot: str, said: str) -> None:
    with disk.open("r+b") as file:
        file.seek(SLOT_AT[slot] + SLOT_BYTES - 1)
        file.write(b"x")
    assert violations(runner, outcome(runner), disk, cuts=1) == [said]


def test_a_system_that_is_not_its_image_is_a_violation(runner: BoardRunner, disk: Path) -> None:
    bad = outcome(runner)
    bad.take({"event": "image", "slot": "B", "sha256": runner.hash_of("1")})
    assert violations(runner, bad, disk, cuts=1) == ["slot B ran as version 2, and is not its image"]


def test_silence_is_a_violation(runner: BoardRunner, disk: Path) -> None:
    assert violations(runner, Outcome(), disk, cuts=1) == ["no end: [], []"]
