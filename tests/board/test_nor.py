"""A slot and the boot environment on SPI NOR flash, on a machine that has one (guest/nor.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.board.emulation.story import NOR_BYTES, BoardRunner, run_with_nor
from tests.board.guest import environment, nor

pytestmark = pytest.mark.board

ERASE_BLOCK = 4096
WANTED: dict[str, Any] = {
    "nor-geometry": [NOR_BYTES // ERASE_BLOCK, ERASE_BLOCK],
    "nor-write": {"written": nor.IMAGE_BYTES, "unchanged": 0},
    "nor-same-again": {"written": 0, "unchanged": nor.IMAGE_BYTES},
    "nor-plain-read": True,
    "nor-environment": {"agreed": [True] * (1 + 3 * environment.ROUNDS), "end": True},
}


@pytest.fixture(scope="module")
def found(runner: BoardRunner, scratch: Path) -> dict[str, dict[str, Any]]:
    folder = scratch / "nor"
    folder.mkdir()
    outcome = run_with_nor(runner, "nor", "nor", folder)
    return {event["check"]: event for event in outcome.events if event["event"] == "check"}


@pytest.mark.parametrize("check", list(WANTED))
def test_nor_flash_does_what_slot_and_environment_want(found: dict[str, dict[str, Any]], check: str) -> None:
    assert found[check]["ok"], found[check]["found"]
    assert found[check]["found"] == WANTED[check]


def test_an_install_on_nor_that_was_killed_writes_only_what_was_not_safe(found: dict[str, dict[str, Any]]) -> None:
    assert found["nor-resume"]["ok"], found["nor-resume"]["found"]
    resumed = found["nor-resume"]["found"]
    assert resumed["killed"]
    assert resumed["written"] <= nor.IMAGE_BYTES - nor.SYNC_BYTES
