"""The schedule: aligned runs."""

from __future__ import annotations

import random

import pytest

from agent.metering.scheduling.schedule import latest_run, next_run, next_start
from agent.settings.provisioning import ReadingTask

DAY = 86_400
NOON = 1_800_014_400  # 2027-01-15T12:00:00Z


def task(every_s: int = 900, offset_s: int = 0, *, enabled: bool = True) -> ReadingTask:
    return ReadingTask("t1", every_s, "residential", offset_s=offset_s, enabled=enabled)


def test_runs_are_aligned_to_the_epoch() -> None:
    assert latest_run(task(), NOON + 1) == NOON
    assert latest_run(task(), NOON) == NOON
    assert latest_run(task(), NOON - 0.5) == NOON - 900
    assert next_run(task(), NOON) == NOON + 900
    assert next_run(task(), NOON - 0.5) == NOON


def test_the_offset_moves_every_run() -> None:
    assert latest_run(task(offset_s=60), NOON) == NOON - 840
    assert latest_run(task(offset_s=60), NOON + 60) == NOON + 60
    daily = task(DAY, 300)
    assert latest_run(daily, NOON) % DAY == 300


def test_any_moment_lies_between_its_latest_and_its_next_run() -> None:
    rng = random.Random(4711)
    for _ in range(2000):
        every = rng.randint(1, 31 * DAY)
        some = task(every, rng.randrange(every))
        wall = rng.uniform(0, 4e9)
        assert latest_run(some, wall) <= wall < next_run(some, wall)
        assert (latest_run(some, wall) - some.offset_s) % every == 0


def test_a_disabled_task_starts_nothing() -> None:
    assert next_start([task(enabled=False)], NOON) is None


@pytest.mark.parametrize("wall", [NOON, NOON + 1, NOON + 899])
def test_the_next_start_is_that_of_the_earliest_task(wall: int) -> None:
    tasks = [task(), task(600), task(DAY), task(60, enabled=False)]
    assert next_start(tasks, wall) == min(next_run(one, wall) for one in tasks[:3])
    assert next_start([], wall) is None
