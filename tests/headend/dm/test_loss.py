"""Whatever a line loses, a job's result is right or the job runs again. The whole table: `tests.headend.dm.loss`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.headend.dm.loss import CASES, FATES, TRIGGERS, WRONG, Case, patterns, tried

# A notification's SessionID is used again after a loss: the others are much alike, and take their time.
SOME = ["pushed", *(pytest.param(trigger, marks=pytest.mark.slow) for trigger in TRIGGERS if trigger != "pushed")]


@pytest.mark.parametrize("trigger", SOME)
@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
@pytest.mark.slow
def test_no_single_loss_makes_a_result_wrong(tmp_path: Path, case: Case, trigger: str) -> None:
    for at in range(case.exchanges):
        for fate in FATES:
            verdict, job = tried(tmp_path, case, trigger, {at: fate})
            assert verdict != WRONG, (at, fate, job)


@pytest.mark.slow
@pytest.mark.parametrize("trigger", TRIGGERS)
@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_no_two_losses_make_a_result_wrong(tmp_path: Path, case: Case, trigger: str) -> None:
    pairs = [lost for lost in patterns(case.exchanges) if len(lost) == 2]
    for lose in random.Random(f"{case.title}{trigger}").sample(pairs, 12):
        verdict, job = tried(tmp_path, case, trigger, lose)
        assert verdict != WRONG, (lose, job)


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_without_loss_every_job_is_right(tmp_path: Path, case: Case) -> None:
    verdict, job = tried(tmp_path, case, "user", {})
    assert verdict == "right", job
