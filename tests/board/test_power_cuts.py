"""The power goes at some moment of an update: every boot starts a whole image, and the update ends once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.board.conftest import Recorded
from tests.board.emulation.cuts import Plan, Played, is_environment, plan, play_all
from tests.board.emulation.story import BoardRunner
from tests.board.emulation.writelog import read, torn_commit

pytestmark = pytest.mark.board

CUTS = 8
SEED = 20


@pytest.fixture(scope="module")
def played(runner: BoardRunner, recorded: Recorded, scratch: Path) -> list[Played]:
    folder = scratch / "cuts"
    folder.mkdir()
    plans = plan(read(recorded.log), CUTS, SEED)
    plans.append(Plan(CUTS, torn_commit(recorded.base, recorded.log, SEED), None))
    return list(play_all(runner, recorded.base, recorded.log, runner.report_job(folder), plans, folder))


@pytest.mark.parametrize("number", range(CUTS + 1))
def test_an_update_survives_a_power_cut(played: list[Played], number: int, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{played[number]}")
    assert played[number].violations == ()


def test_the_recorded_update_commits_the_boot_environment_as_often_as_promised(recorded: Recorded) -> None:
    """Two attempts counted by U-Boot, at most two commits of the install, one decision in both copies."""
    commits = [write for write in read(recorded.log) if is_environment(write)]
    assert 4 <= len(commits) <= 6
