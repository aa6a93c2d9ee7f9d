"""Run times: periods and calendars, beside zoneinfo and by themselves."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from omadm.local_time import LATEST, Zone, ZoneError
from omadm.schedule import Calendar, Periodic, Schedule, ScheduleError, schedule_of
from tests.omadm.zones import NAMES, posix

DAY = 86_400
MADRID = "CET-1CEST,M3.5.0,M10.5.0/3"
FIRST, LAST = date(2026, 12, 1), date(2029, 12, 1)

MID = range(3, 10)


def sunday(day: date) -> bool:
    return day.isoweekday() == 7


# fields: (minutes, hours, does the task run on this day, both times where an hour comes twice)
PATTERNS: dict[str, tuple[Iterable[int], Iterable[int], Callable[[date], bool], bool]] = {
    "0 0 * * *": ((0,), (0,), lambda day: True, False),
    "30 2 * * *": ((30,), (2,), lambda day: True, False),
    "*/30 * * * *": ((0, 30), range(24), lambda day: True, True),
    "5 */6 * * *": ((5,), (0, 6, 12, 18), lambda day: True, False),
    "0 1-3 * * mon-fri": ((0,), (1, 2, 3), lambda day: day.isoweekday() <= 5, False),
    "15,45 1,2 L * *": ((15, 45), (1, 2), lambda day: (day + timedelta(1)).day == 1, False),
    "0 0 1 * *": ((0,), (0,), lambda day: day.day == 1, False),
    "0 23 29 2 *": ((0,), (23,), lambda day: (day.month, day.day) == (2, 29), False),
    "10 1 1,15 3-9 7": ((10,), (1,), lambda day: day.month in MID and (day.day in (1, 15) or sunday(day)), False),
}  # fmt: skip


def peers_runs(pattern: str, zone: ZoneInfo) -> list[int]:
    """The same by zoneinfo, day by day of local time: what does not exist has the offset before the switch (PEP 495,
    fold 0), what exists twice its first instant, or both."""
    minutes, hours, falls_on, both = PATTERNS[pattern]
    runs: set[int] = set()
    day = FIRST
    while day < LAST:
        for hour, minute in itertools.product(hours, minutes) if falls_on(day) else ():
            local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
            first = int(local.timestamp())
            runs.add(first)
            if both and datetime.fromtimestamp(first, zone).replace(tzinfo=None) == local.replace(tzinfo=None):
                runs.add(int(local.replace(fold=1).timestamp()))
        day += timedelta(1)
    return sorted(runs)


def runs_of(schedule: Schedule, low: int, high: int) -> list[int]:
    """By `next` alone, without what `between` may know."""
    found = []
    at = low - 1
    while (at := schedule.next(at)) <= high:
        found.append(at)
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pattern", list(PATTERNS))
@pytest.mark.slow
def test_the_runs_of_three_years_are_those_of_zoneinfo(name: str, pattern: str) -> None:
    calendar = Calendar(pattern, Zone(posix(name)))
    expected = peers_runs(pattern, ZoneInfo(name))
    low = int(datetime(2026, 12, 3, tzinfo=UTC).timestamp())
    high = int(datetime(2029, 11, 28, tzinfo=UTC).timestamp())
    expected = [run for run in expected if low <= run <= high]
    assert list(calendar.between(low, high)) == expected
    assert calendar.count(low, high) == len(expected)
    rng = random.Random(f"{name} {pattern}")
    for _ in range(20):
        at, to = sorted(rng.sample(range(low, high), 2))
        inside = [run for run in expected if at <= run <= to]
        assert calendar.count(at, to) == len(inside)
    for before, after in rng.sample(list(itertools.pairwise(expected)), min(50, len(expected) - 1)):
        for wall in (before, before + 0.5, rng.uniform(before, after), after - 1, after - 0.001):
            fresh = Calendar(pattern, Zone(posix(name)))
            assert (fresh.next(wall), fresh.newest(wall)) == (after, before)
            assert (calendar.next(wall), calendar.newest(wall)) == (after, before)
        assert calendar.previous(after) == before


def around(year: int, month: int, day: int) -> tuple[int, int]:
    at = int(datetime(year, month, day, tzinfo=UTC).timestamp())
    return at - 2 * 3600, at + 21 * 3600


def shown(runs: Iterator[int]) -> list[str]:
    return [datetime.fromtimestamp(run, ZoneInfo("Europe/Madrid")).strftime("%H:%M%z") for run in runs]


SWITCHES = [
    # fields, spring (28 March 2027: 02:00 is 03:00), autumn (31 October 2027: 03:00 is 02:00)
    ("0 1 * * *", ["01:00+0100"], ["01:00+0200"]),
    ("0 2 * * *", ["03:00+0200"], ["02:00+0200"]),
    ("30 2 * * *", ["03:30+0200"], ["02:30+0200"]),
    ("0 3 * * *", ["03:00+0200"], ["03:00+0100"]),
    ("30 1,2,3 * * *", ["01:30+0100", "03:30+0200"], ["01:30+0200", "02:30+0200", "03:30+0100"]),
    ("0 1-3 * * *", ["01:00+0100", "03:00+0200"], ["01:00+0200", "02:00+0200", "03:00+0100"]),
]


@pytest.mark.parametrize(("fields", "spring", "autumn"), SWITCHES)
def test_what_becomes_of_a_local_time_at_each_switch(fields: str, spring: list[str], autumn: list[str]) -> None:
    calendar = Calendar(fields, Zone(MADRID))
    assert shown(calendar.between(*around(2027, 3, 28))) == spring
    assert shown(calendar.between(*around(2027, 10, 31))) == autumn


@pytest.mark.parametrize("fields", ["0 * * * *", "*/15 * * * *", "0,30 0-23 * * *", "7 */1 * * *"])
@pytest.mark.parametrize("day", [(2027, 3, 28), (2027, 10, 31)])
def test_what_runs_in_every_hour_runs_evenly_through_a_switch(fields: str, day: tuple[int, int, int]) -> None:
    runs = list(Calendar(fields, Zone(MADRID)).between(*around(*day)))
    assert len({after - before for before, after in itertools.pairwise(runs)}) == 1


def test_a_day_has_23_24_or_25_hours() -> None:
    daily = Calendar("0 0 * * *", Zone(MADRID))
    low, high = (int(datetime(2027, month, 1, tzinfo=UTC).timestamp()) for month in (1, 12))
    hours = [(after - before) // 3600 for before, after in itertools.pairwise(daily.between(low, high))]
    assert (hours.count(23), hours.count(25), set(hours)) == (1, 1, {23, 24, 25})


def test_a_leap_day_is_found_over_eight_years_and_from_any_moment() -> None:
    leap = Calendar("0 0 29 2 *")
    at = int(datetime(2096, 2, 29, tzinfo=UTC).timestamp())
    assert leap.newest(at + 3 * 365 * DAY) == at
    assert datetime.fromtimestamp(leap.next(at), UTC).date() == date(2104, 2, 29)
    assert Calendar("0 0 1 1 *").newest(-5) == 0 == Calendar("0 0 29 2 *").newest(10 * DAY)


def test_a_clock_that_is_out_of_all_calendars_is_answered() -> None:
    calendar = Calendar("0 0 * * *", Zone(MADRID))
    assert calendar.newest(10.0**15) <= LATEST < calendar.next(10.0**15)


def test_periods_are_aligned_to_the_epoch() -> None:
    rng = random.Random(4711)
    for _ in range(2000):
        every = rng.randint(1, 31 * DAY)
        schedule = Periodic(every, rng.randrange(every))
        wall = rng.uniform(0, 4e9)
        newest, following = schedule.newest(wall), schedule.next(wall)
        assert newest <= wall < following == newest + every
        assert (newest - schedule.phase) % every == 0
        assert (schedule.previous(following), schedule.previous(following - 1)) == (newest, newest)
        assert list(schedule.between(newest - 1, following)) == [newest, following]
        assert schedule.count(newest, following) == 2 == schedule.count(newest, following + every - 1)
        assert schedule.count(newest + 1, following - 1) == 0


def test_a_calendar_in_one_zone_is_the_period_that_it_says() -> None:
    calendar, period = Calendar("*/15 * * * *"), Periodic(900)
    low = 1_800_014_437
    assert list(calendar.between(low, low + 3 * DAY)) == list(period.between(low, low + 3 * DAY))
    assert runs_of(calendar, low, low + DAY) == runs_of(period, low, low + DAY)


def test_a_schedule_is_made_again_of_what_is_kept_of_it() -> None:
    for one in (Periodic(900, 60), Calendar("0 6 * * mon-fri", Zone(MADRID))):
        again = schedule_of(one.every, one.phase, one.times)
        assert runs_of(again, 1_800_000_000, 1_801_000_000) == runs_of(one, 1_800_000_000, 1_801_000_000)
        assert (again.every, again.phase, again.times) == (one.every, one.phase, one.times)
    with pytest.raises(ZoneError):
        schedule_of(60, 0, "0 6 * * * Nowhere")
    with pytest.raises(ScheduleError):
        schedule_of(60, 0, "MET-1")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ("", "five fields expected"),
        ("0 0 * *", "five fields expected"),
        ("60 0 * * *", "minute: 0 to 59 expected, not '60'"),
        ("0 24 * * *", "hour: 0 to 23"),
        ("0 0 0 * *", "day of month: 1 to 31"),
        ("0 0 * 13 *", "month: 1 to 12"),
        ("0 0 * * 8", "day of week: 0 to 7"),
        ("0 0 * jam *", "month: 1 to 12 expected, not 'jam'"),
        ("0 0 31 2,4 *", "no such day"),
        ("0 0 30 2 *", "no such day"),
        ("0 5-3 * * *", "hour: '5-3' names nothing"),
        ("*/0 * * * *", "minute: '*/0' names nothing"),
        ("1,,2 * * * *", "minute: '' is no number"),
        ("a * * * *", "minute: 0 to 59"),
        ("٣ * * * *", "minute: 0 to 59"),
        ("0 L * * *", "hour: 0 to 23"),
        ("0 0 * * * *", "five fields"),
        ("0 " * 70, "five fields"),
    ],
)
def test_what_is_no_calendar_is_refused_with_its_field(fields: str, why: str) -> None:
    with pytest.raises(ScheduleError, match=why.replace("*", r"\*").replace("(", r"\(")):
        Calendar(fields)
