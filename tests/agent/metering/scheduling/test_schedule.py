"""When a meter may be visited for a run: spread, windows, quiet hours, deadlines."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from agent.metering.scheduling.schedule import Hours
from agent.settings.provisioning import ReadingTask
from omadm.local_time import DayTimes, Zone, ZoneError

DAY = 86_400
NOON = 1_800_014_400  # 2027-01-15T12:00:00Z
MADRID = Zone("CET-1CEST,M3.5.0,M10.5.0/3")


def task(every_s: int = 900, offset_s: int = 0, *, enabled: bool = True, **more: object) -> ReadingTask:
    return ReadingTask("t1", every_s, "residential", offset_s=offset_s, enabled=enabled, **more)  # type: ignore[arg-type]


def local(text: str, fold: int = 0) -> int:
    """An instant, by what clocks in Madrid show."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Madrid"), fold=fold).timestamp())


def test_a_run_may_be_read_from_its_time_to_its_deadline() -> None:
    hours = Hours(catch_up_s=7200)
    for one, limit in ((task(DAY), 7200), (task(DAY, deadline_s=600), 600), (task(DAY, deadline_s=DAY - 60), DAY - 60)):
        midnight = NOON + DAY // 2
        assert [hours.may_visit(one, midnight + at) for at in (-1, 0, limit)] == [False, True, True]
        assert not hours.may_visit(one, midnight + limit + 1)
        assert hours.settled(one, midnight + limit) == midnight
        assert hours.settled(one, midnight + limit + 1) == midnight + DAY


def test_devices_begin_a_run_within_its_spread_each_at_its_own_moment_and_always_at_the_same() -> None:
    spread = task(DAY, spread_s=3600)
    midnight = NOON + DAY // 2
    begins = [Hours(device=f"DCU-{number:05d}").begin(spread, midnight) - midnight for number in range(10_000)]
    assert set(begins) <= set(range(3600))
    per_minute = [sum(at // 60 == minute for at in begins) for minute in range(60)]
    assert max(per_minute) < 2 * 10_000 / 60, "10,000 concentrators come evenly"
    assert Hours(device="DCU-00017").begin(spread, midnight + DAY) - midnight - DAY == begins[17]
    assert Hours(device="DCU-00017").begin(task(DAY), midnight) == midnight
    hours = Hours(device="DCU-00017")
    assert [hours.may_visit(spread, midnight + begins[17] + by) for by in (-1, 0, 1)] == [False, True, True]


def test_a_spread_that_leaves_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="spread"):
        task(DAY, spread_s=600, deadline_s=600)


@pytest.mark.parametrize("times", ["", "*/15 * * * *", "0,15 3 1 * *"])
def test_a_spread_that_reaches_the_next_run_is_refused(times: str) -> None:
    """The device whose moment lies behind the next run would never read."""
    every = 0 if times else 900
    task(every, times=times, spread_s=899)
    with pytest.raises(ValueError, match="from one run to the next"):
        task(every, times=times, spread_s=900)


def test_windows_are_in_local_time_and_may_go_over_midnight() -> None:
    times = DayTimes("01:00-05:00, 22:30-00:30", MADRID)
    shown = {"00:29": True, "00:30": False, "00:59": False, "01:00": True, "04:59": True, "05:00": False,
             "22:29": False, "22:30": True, "23:59": True}  # fmt: skip
    for day in ("2027-01-15", "2027-07-15"):
        assert {clock: times.hold(local(f"{day}T{clock}")) for clock in shown} == shown
    assert not DayTimes("")
    assert DayTimes("").next_begin(NOON) is None
    assert all(DayTimes("00:00-24:00", MADRID).hold(NOON + by) for by in range(0, DAY, 1800))


@pytest.mark.parametrize("text", ["1", "01:00", "01:00-", "24:00-01:00", "01:60-02:00", "01:00-25:00", "02:00-02:00",
                                  "01:00-24:01", "01:00-02:00,", "01:00 - 02:00", "a-b"])  # fmt: skip
def test_what_says_no_times_of_a_day_is_refused(text: str) -> None:
    with pytest.raises(ZoneError):
        DayTimes(text)


def minutes(first: int, last: int) -> Iterator[int]:
    return iter(range(first, last, 60))


@pytest.mark.parametrize("day", ["2027-03-28", "2027-10-31", "2027-06-15"])
@pytest.mark.parametrize(
    "text", ["02:30-05:00", "01:00-02:30", "23:00-03:00", "00:00-24:00", "01:30-01:45,02:15-02:45"]
)
def test_nobody_sleeps_through_the_beginning_or_the_end_of_a_window(text: str, day: str) -> None:
    """At every change of `hold` there is a wake-up, on both switches as well."""
    times = DayTimes(text, MADRID)
    begin = local(f"{day}T00:00") - 7200
    for before, after in itertools.pairwise(minutes(begin, begin + 36 * 3600)):
        if times.hold(before) != times.hold(after):
            woken = times.next_begin(before) if times.hold(after) else times.next_end(before)
            assert woken == after


def test_a_window_that_the_switch_leaves_out_is_shorter_or_is_not_that_day() -> None:
    left_out, halved = DayTimes("02:15-02:45", MADRID), DayTimes("02:30-03:30", MADRID)
    night = range(local("2027-03-28T00:00"), local("2027-03-28T06:00"), 60)
    assert not any(left_out.hold(at) for at in night)
    assert [sum(times.hold(at) for at in night) for times in (halved,)] == [30]
    twice = range(local("2027-10-31T00:00"), local("2027-10-31T06:00"), 60)
    assert sum(left_out.hold(at) for at in twice) == 60


def test_quiet_hours_are_stronger_than_any_window() -> None:
    hours = Hours(quiet=DayTimes("17:00-21:00", MADRID))
    one = task(3600, windows="16:00-18:00", zone=MADRID.text)
    shown = {"15:59": False, "16:00": True, "16:59": True, "17:00": False, "17:59": False, "21:30": False}
    assert {clock: hours.may_visit(one, local(f"2027-01-15T{clock}")) for clock in shown} == shown
    assert [hours.closed(one, local(f"2027-01-15T{clock}")) for clock in shown] == [
        not is_open for is_open in shown.values()
    ]


def test_the_next_start_is_never_late() -> None:
    """Whatever a meter may be visited for that it might not a minute before, somebody is awake."""
    hours = Hours(quiet=DayTimes("17:00-21:00,02:00-02:20", MADRID), catch_up_s=DAY, device="DCU-1")
    kinds = [
        task(),
        task(3600, 600, spread_s=1800),
        task(0, times="0 0 * * *", zone=MADRID.text, windows="01:00-05:00"),
        task(0, times="30 2 * * *", zone=MADRID.text, deadline_s=3 * 3600, spread_s=600),
        task(0, times="0 6 L * *", zone=MADRID.text, windows="22:00-04:00"),
    ]
    for one in kinds:
        for day in ("2027-03-27", "2027-10-30"):
            begin = local(f"{day}T12:00")
            for before, after in itertools.pairwise(minutes(begin, begin + 36 * 3600)):
                new_run = one.schedule.newest(before) != one.schedule.newest(after)
                if hours.may_visit(one, after) and (new_run or not hours.may_visit(one, before)):
                    woken = hours.next_start([one], before)
                    assert woken in range(before + 1, after + 1)


def test_a_disabled_task_starts_nothing() -> None:
    assert Hours().next_start([task(enabled=False)], NOON) is None


@pytest.mark.parametrize("wall", [NOON, NOON + 1, NOON + 899])
def test_the_next_start_is_that_of_the_earliest_task(wall: int) -> None:
    tasks = [task(), task(600), task(DAY), task(60, enabled=False)]
    assert Hours().next_start(tasks, wall) == min(one.schedule.next(wall) for one in tasks[:3])
    assert Hours().next_start([], wall) is None
