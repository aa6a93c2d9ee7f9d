"""A whole update on the board: handed over, installed, tried, and confirmed or taken back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.board.conftest import Recorded
from tests.board.emulation.factory import Factory
from tests.board.emulation.story import BoardRunner, slot_hash, violations

pytestmark = pytest.mark.board


def test_a_good_version_is_installed_tried_and_confirmed(runner: BoardRunner, recorded: Recorded) -> None:
    outcome = recorded.outcome

    assert violations(runner, outcome, recorded.disk, cuts=0) == []
    assert outcome.started == ["A", "B"]
    assert outcome.up == [("B", "2")]  # version 1 asked for a reboot before anything else was started
    assert outcome.end is not None
    result = outcome.end["result"]
    assert (result["fumo"], result["from_version"], result["to_version"], result["attempts"]) == (200, "1", "2", 1)
    environment = outcome.end["environment"]
    assert environment["BOOT_ORDER"] == "B A"
    assert int(environment["BOOT_B_LEFT"]) >= 2


def test_an_unhealthy_version_is_tried_twice_and_taken_back(
    runner: BoardRunner, factory: Factory, folder: Path
) -> None:
    """On its first attempt a start script never ends, so that init cannot be asked for the reboot."""
    disk = factory.disk(folder, update="3")
    outcome = runner.run("rollback", disk, runner.report_job(folder))

    assert outcome.started == ["A", "B", "B", "A"]
    assert outcome.up[-1] == ("A", "1")
    assert outcome.end is not None
    result = outcome.end["result"]
    assert (result["id"], result["fumo"], result["attempts"], result["failed_check"]) == ("r3", 410, 2, "self_test")
    assert "health check self_test: no answer from the radio" in result["log"]
    assert outcome.end["environment"]["BOOT_ORDER"] == "A"
    assert (outcome.end["outbox"], outcome.end["inbox"]) == (["result.json"], [])
    assert slot_hash(disk, "A") == runner.hash_of("1")


def test_a_version_whose_update_agent_does_not_work_is_taken_back(
    runner: BoardRunner, factory: Factory, folder: Path
) -> None:
    disk = factory.disk(folder, update="4")
    outcome = runner.run("no-update-agent", disk, runner.report_job(folder))

    assert outcome.started == ["A", "B", "B", "A"]
    assert outcome.end is not None
    result = outcome.end["result"]
    assert (result["id"], result["fumo"], result["name"]) == ("r4", 410, "trial-silent")
    assert outcome.end["environment"]["BOOT_ORDER"] == "A"
    assert slot_hash(disk, "A") == runner.hash_of("1")
