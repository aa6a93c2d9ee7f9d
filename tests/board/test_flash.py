"""Slots on flash, through the kernel's MTD and UBI: ioctls, bad blocks, and mtd-utils as judge (guest/flash.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.board.emulation.factory import Factory
from tests.board.emulation.story import BoardRunner
from tests.board.guest import flash

pytestmark = pytest.mark.board

NAND_BLOCKS, NAND_BLOCK_BYTES = 1024, 16 << 10
IMAGE = flash.IMAGE_BYTES
ALL = {"written": IMAGE, "unchanged": 0}
NOTHING = {"written": 0, "unchanged": IMAGE}
BAD = list(flash.BAD_BLOCKS)

WANTED: dict[str, Any] = {
    "mtd-bad-blocks": BAD,
    "mtd-capacity": (NAND_BLOCKS - len(BAD)) * NAND_BLOCK_BYTES,
    "mtd-write": ALL,
    "mtd-same-again": NOTHING,
    "mtd-write-over-weak-block": ALL,
    "mtd-bad-blocks-after": sorted([*BAD, flash.WEAK_BLOCK]),
    "mtd-capacity-after": (NAND_BLOCKS - len(BAD) - 1) * NAND_BLOCK_BYTES,
    "mtd-nanddump": True,
    "mtd-nandwrite": NOTHING,
    "mtd-full": "PackageError",
    "ubi-static": "slot",
    "ubi-not-ubi": "slot",
    "ubi-write": ALL,
    "ubi-same-again": NOTHING,
    "ubi-one-block": {"written": 4096, "unchanged": IMAGE - 4096},
    "ubi-plain-read": True,
    "ubi-killed-kernel-change": True,
    "ubi-after-attach": True,
}


@pytest.fixture(scope="module")
def found(runner: BoardRunner, factory: Factory, scratch: Path) -> dict[str, dict[str, Any]]:
    folder = scratch / "flash"
    folder.mkdir()
    outcome = runner.run("flash", factory.disk(folder), runner.guest_job(folder, "flash"))
    return {event["check"]: event for event in outcome.events if event["event"] == "check"}


@pytest.mark.parametrize("check", list(WANTED))
def test_flash_does_what_the_slot_wants(found: dict[str, dict[str, Any]], check: str) -> None:
    assert found[check]["ok"], found[check]["found"]
    assert found[check]["found"] == WANTED[check]


@pytest.mark.parametrize("check", ["mtd-resume", "ubi-resume"])
def test_an_install_that_was_killed_writes_only_what_was_not_safe(found: dict[str, dict[str, Any]], check: str) -> None:
    assert found[check]["ok"], found[check]["found"]
    resumed = found[check]["found"]
    assert resumed["killed"]
    assert resumed["written"] <= IMAGE - (1 << 20)
    assert resumed["written"] + resumed["unchanged"] == IMAGE


def test_a_killed_change_of_a_ubi_block_leaves_one_of_the_two_contents(found: dict[str, dict[str, Any]]) -> None:
    assert found["ubi-killed-changes"]["ok"], found["ubi-killed-changes"]["found"]
    changes = found["ubi-killed-changes"]["found"]
    assert changes["first"] + changes["second"] == changes["kills"] == flash.KILLS
