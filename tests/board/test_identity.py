"""Which device a slot is, told by a real kernel of partitions, loop devices, NAND and UBI (guest/identity.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.board.emulation.factory import Factory
from tests.board.emulation.story import BoardRunner

pytestmark = pytest.mark.board

ONE_SLOT_TWICE = "dcu-update: slot A, /dev/vda2 and slot B, /tmp/link-a are the same bytes"
WRONG_COMMAND_LINE = "dcu-update: the command line names slot B, and the root file system is slot A's"

WANTED: dict[str, Any] = {
    "link": True,
    "node": True,
    "disk": True,
    "slots": False,
    "loop": True,
    "loop-file": True,
    "loop-file-partition": True,
    "loop-file-slot": False,
    "mtd-read-only": True,
    "mtd-parts": False,
    "ubi-name": True,
    "ubi-volumes": False,
    "ubi-flash": True,
    "ubi-other-flash": False,
    "root-is-a": "",
    "root-is-not-b": "booted-slot",
    "target-a": "slot",
    "target-b": "",
    "data-in-use": True,
    "b-in-use": False,
    "target-b-mounted": "slot",
    "shipped": 0,
    "right-command-line": 0,
}


@pytest.fixture(scope="module")
def found(runner: BoardRunner, factory: Factory, scratch: Path) -> dict[str, dict[str, Any]]:
    folder = scratch / "identity"
    folder.mkdir()
    outcome = runner.run("identity", factory.disk(folder), runner.guest_job(folder, "identity"))
    return {event["check"]: event for event in outcome.events if event["event"] == "check"}


@pytest.mark.parametrize("check", list(WANTED))
def test_the_kernel_tells_which_bytes_are_the_same_and_what_is_mounted(
    found: dict[str, dict[str, Any]], check: str
) -> None:
    assert found[check]["ok"], found[check]["found"]
    assert found[check]["found"] == WANTED[check]


@pytest.mark.parametrize(
    ("check", "code", "said"), [("one-slot-twice", 2, ONE_SLOT_TWICE), ("wrong-command-line", 70, WRONG_COMMAND_LINE)]
)
def test_the_program_on_the_board_refuses_and_says_why(
    found: dict[str, dict[str, Any]], check: str, code: int, said: str
) -> None:
    assert found[check]["ok"], found[check]["found"]
    assert found[check]["found"][0] == code
    assert found[check]["found"][1].startswith(said)
