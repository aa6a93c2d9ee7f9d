"""The schedule: aligned runs, one rule for what is owed, and clocks that jump."""

from __future__ import annotations

import random

import pytest

from agent.metering.scheduling.schedule import latest_run, next_run, next_start, owed_run
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


def test_a_meter_owes_the_newest_run_until_it_was_read() -> None:
    assert owed_run(task(), 0, NOON + 5, DAY) == NOON
    assert owed_run(task(), NOON - 900, NOON + 5, DAY) == NOON
    assert owed_run(task(), NOON, NOON + 5, DAY) is None
    assert owed_run(task(), NOON, NOON + 900, DAY) == NOON + 900


def test_missed_runs_are_made_up_by_the_newest_one_only() -> None:
    assert owed_run(task(), NOON - 10 * 900, NOON + 5, DAY) == NOON
    assert owed_run(task(), NOON, NOON + 5, DAY) is None


def test_a_run_is_not_made_up_after_the_catch_up_time() -> None:
    daily = task(DAY)
    midnight = latest_run(daily, NOON)
    assert owed_run(daily, 0, midnight + 3600, 3600) == midnight
    assert owed_run(daily, 0, midnight + 3601, 3600) is None
    assert owed_run(daily, 0, midnight + DAY, 0) == midnight + DAY


def test_a_disabled_task_owes_nothing() -> None:
    assert owed_run(task(enabled=False), 0, NOON, DAY) is None
    assert next_start([task(enabled=False)], NOON) is None


def test_a_clock_set_back_a_little_waits_and_does_not_repeat_a_run() -> None:
    assert owed_run(task(), NOON, NOON - 3, DAY) is None
    assert owed_run(task(), NOON, NOON + 1, DAY) is None
    assert owed_run(task(), NOON, NOON + 900, DAY) == NOON + 900


def test_a_run_done_under_a_clock_that_was_years_ahead_does_not_stop_the_reading() -> None:
    assert owed_run(task(), NOON + 365 * DAY, NOON + 5, DAY) == NOON


def test_a_clock_set_forward_owes_one_run() -> None:
    assert owed_run(task(), 900, NOON + 5, DAY) == NOON
    assert owed_run(task(), NOON, NOON + 5, DAY) is None


def test_before_the_epoch_s_first_run_nothing_is_owed() -> None:
    assert owed_run(task(DAY, 7200), 0, 5.0, DAY) is None


@pytest.mark.parametrize("wall", [NOON, NOON + 1, NOON + 899])
def test_the_next_start_is_that_of_the_earliest_task(wall: int) -> None:
    tasks = [task(), task(600), task(DAY), task(60, enabled=False)]
    assert next_start(tasks, wall) == min(next_run(one, wall) for one in tasks[:3])
    assert next_start([], wall) is None
