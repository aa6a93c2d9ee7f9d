"""A real U-Boot runs our boot.cmd, a real kernel our start scripts, and everything the device needs is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.board.emulation.factory import Factory
from tests.board.emulation.story import BoardRunner

pytestmark = pytest.mark.board


def test_uboot_counts_an_attempt_and_starts_slot_a_whose_programs_work(
    runner: BoardRunner, factory: Factory, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = runner.run("boot", factory.disk(folder), runner.guest_job(folder, "imports"))

    assert outcome.started == ["A"]
    assert outcome.up == [("A", "1")]
    found = {event["check"]: event for event in outcome.events if event["event"] == "check"}
    assert [name for name, event in found.items() if not event["ok"]] == [], found
    assert outcome.events[-1] == {"event": "done"}
    assert found["machine"]["found"][0] == "armv7l"
    assert found["imports"]["found"] > 100
    with capsys.disabled():
        print("\nboard:", ", ".join(f"{name} {event['found']}" for name, event in found.items()))
