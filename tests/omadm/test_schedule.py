"""Run times: periods and calendars, beside zoneinfo and by themselves."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from omadm.local_time import LATEST, Zone, ZoneError
from omadm.schedule import Calendar, Periodic, Range, Schedule, ScheduleError, joined, same, schedule_of, without
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


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


YEAR = (utc("2027-01-01"), utc("2027-12-31T23:59"))


def days(fields: str) -> list[str]:
    """The days of 2027 that a calendar falls on, as month and day."""
    return [datetime.fromtimestamp(run, UTC).strftime("%m-%d") for run in Calendar(fields).between(*YEAR)]


@pytest.mark.parametrize("number", range(1, 13))
def test_months_have_names(number: int) -> None:
    name = date(2027, number, 1).strftime("%B")
    expected = [f"{number:02d}-05"]
    assert days(f"0 0 5 {name[:3].lower()} *") == days(f"0 0 5 {name.upper()} *") == expected
    assert days(f"0 0 5 {number} *") == expected


@pytest.mark.parametrize("number", range(7))
def test_days_of_the_week_have_names_and_sunday_is_0_and_7(number: int) -> None:
    first = date(2027, 8, 1) + timedelta(number)  # a Sunday, and the days after it
    name = first.strftime("%A")
    expected = [(first + timedelta(7 * week)).strftime("%m-%d") for week in range(5) if first.day + 7 * week <= 31]
    for text in (name[:3].lower(), name.upper(), str(number), "7" if number == 0 else str(number)):
        assert days(f"0 0 * 8 {text}") == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("0 0 13 8 *", ["08-13"]),
        ("0 0 * 8 fri", ["08-06", "08-13", "08-20", "08-27"]),
        ("0 0 10 8 fri", ["08-06", "08-10", "08-13", "08-20", "08-27"]),  # where both are restricted, either will do
        ("0 0 L * *", [
            "01-31", "02-28", "03-31", "04-30", "05-31", "06-30", "07-31", "08-31", "09-30", "10-31", "11-30", "12-31",
        ]),
        ("0 0 L,5 6 *", ["06-05", "06-30"]),
        ("0 0 30 2,6 *", ["06-30"]),
        ("0 0 29-31 1-3 *", ["01-29", "01-30", "01-31", "03-29", "03-30", "03-31"]),
        ("0 0 */10 2 *", ["02-01", "02-11", "02-21"]),
        ("0 0 5/12 4 *", ["04-05", "04-17", "04-29"]),
        ("0 0 1-31/30 5 *", ["05-01", "05-31"]),
        ("0 0 * 8 */3", ["08-01", "08-04", "08-07", "08-08", "08-11", "08-14", "08-15", "08-18", "08-21", "08-22",
                         "08-25", "08-28", "08-29"]),
        ("0 0 * 8 */7", ["08-01", "08-08", "08-15", "08-22", "08-29"]),
        ("0 0 * 8 5-7", ["08-01", "08-06", "08-07", "08-08", "08-13", "08-14", "08-15", "08-20", "08-21", "08-22",
                         "08-27", "08-28", "08-29"]),
    ],
)  # fmt: skip
def test_the_days_of_a_calendar_are_those_of_cron(fields: str, expected: list[str]) -> None:
    assert days(fields) == expected


@pytest.mark.parametrize("fields", ["0 0 31 1,3,5,7,8,10,12 *", "59 23 30 4,6,9,11 *", "0 0 29 2 *", "0 0 31 4 1"])
def test_the_last_day_of_each_month_is_possible(fields: str) -> None:
    assert Calendar(fields).next(0) > 0


@pytest.mark.parametrize("fields", ["0 0 31 4 *", "0 0 31 6 *", "0 0 31 9 *", "0 0 31 11 *", "0 0 30 2 *"])
def test_the_day_after_the_last_one_of_a_month_is_none(fields: str) -> None:
    with pytest.raises(ScheduleError, match="no such day"):
        Calendar(fields)


def test_fields_have_63_characters_at_most() -> None:
    longest = "0 0 * * " + ",".join(["1"] * 28)
    assert len(longest) == 63
    assert days(longest) == days("0 0 * * 1")
    with pytest.raises(ScheduleError, match="five fields"):
        Calendar(longest + " ")


def test_what_a_calendar_says_of_itself() -> None:
    calendar = Calendar(" 0  6 * *  mon-fri ", Zone(MADRID))
    assert (calendar.every, calendar.phase) == (60, 0)
    assert calendar.times == f"0 6 * * mon-fri {MADRID}"


WALK = [
    # fields, zone, a run, and the runs before and after it
    ("0 6 * * *", "UTC0", utc("2027-05-01T06:00"), utc("2027-04-30T06:00"), utc("2027-05-02T06:00")),
    ("0 6 * * *", MADRID, utc("2027-03-28T04:00"), utc("2027-03-27T05:00"), utc("2027-03-29T04:00")),
    ("59 23 L * *", MADRID, utc("2027-10-31T22:59"), utc("2027-09-30T21:59"), utc("2027-11-30T22:59")),
    ("0 0 1 1 *", MADRID, utc("2026-12-31T23:00"), utc("2025-12-31T23:00"), utc("2027-12-31T23:00")),
    ("*/30 * * * *", MADRID, utc("2027-10-31T01:00"), utc("2027-10-31T00:30"), utc("2027-10-31T01:30")),
    ("0 0 * * *", "<+14>-14", utc("2027-05-01T10:00"), utc("2027-04-30T10:00"), utc("2027-05-02T10:00")),
    # Far in the east, a midnight that does not exist.
    ("30 0 * * *", "<+12>-12<+13>,M10.1.0/0,M4.1.0/0",
     utc("2027-10-02T12:30"), utc("2027-10-01T12:30"), utc("2027-10-03T11:30")),
    ("0 23 * * *", "<-12>12", utc("2027-05-01T11:00"), utc("2027-04-30T11:00"), utc("2027-05-02T11:00")),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "zone", "run", "before", "after"), WALK)
def test_a_run_and_its_neighbours(fields: str, zone: str, run: int, before: int, after: int) -> None:
    walked = Calendar(fields, Zone(zone))  # one that remembers where it was
    for wall in (run - 1, run, run + 1, run, run - 0.5, run + 0.5):
        past = wall >= run
        for calendar in (walked, Calendar(fields, Zone(zone))):
            assert calendar.newest(wall) == (run if past else before)
            assert calendar.next(wall) == (after if past else run)
    assert (walked.previous(run), walked.previous(run + 1), walked.previous(after)) == (before, run, run)
    assert list(walked.between(before, after)) == [before, run, after]
    assert list(walked.between(before + 1, after - 1)) == [run]
    assert list(walked.between(run + 1, after - 1)) == []
    assert [walked.count(before, after), walked.count(before + 1, after - 1), walked.count(run, run)] == [3, 1, 1]
    assert [walked.count(run + 1, after - 1), walked.count(after, before)] == [0, 0]


@pytest.mark.parametrize("fields", ["*/30 * * * *", "30 2 * * *", "0 0 L * *", "15 1,3 * * sun"])
def test_runs_are_counted_as_they_are_walked(fields: str) -> None:
    calendar = Calendar(fields, Zone(MADRID))
    rng = random.Random(fields)
    switches = [utc("2027-03-28T01:00"), utc("2027-10-31T01:00")]
    for at in switches + rng.sample(range(*YEAR), 6):
        first, last = at - rng.randrange(15 * DAY), at + rng.randrange(15 * DAY)
        assert calendar.count(first, last) == len(runs_of(calendar, first, last))


def test_no_more_than_eight_days_are_remembered() -> None:
    calendar = Calendar("0 6 * * *", Zone(MADRID))
    for _ in calendar.between(*YEAR):
        assert len(calendar._kept) <= 8


def test_before_1970_there_are_periods_and_no_calendars() -> None:
    assert (Periodic(900).newest(-0.5), Periodic(900).next(-0.5)) == (-900, 0)
    calendar = Calendar("0 0 * * *")
    assert (calendar.newest(-0.5), calendar.next(-0.5), calendar.next(0)) == (0, 0, DAY)
    assert Calendar("0 0 * * *", Zone("<-01>1")).next(-5 * DAY) == 3600
    assert Calendar("0 1 * * *").newest(0) == 0


def test_the_first_day_of_all_has_its_run() -> None:
    assert Calendar("0 1 * * *").newest(2 * 3600) == 3600
    assert Calendar("0 1 1 1 *").newest(3 * DAY) == 3600


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
        assert list(schedule.between(newest + 1, following - 1)) == []
        assert schedule.count(newest, following) == 2 == schedule.count(newest, following + every - 1)
        assert schedule.count(newest + 1, following - 1) == 0


def test_a_period_may_be_a_second() -> None:
    assert [Periodic(1).newest(5.9), Periodic(1).next(5.9), Periodic(1).previous(5)] == [5, 6, 4]
    assert list(Periodic(1).between(5, 7)) == [5, 6, 7]


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
    assert (schedule_of(900).phase, schedule_of(900).next(0)) == (0, 900)
    with pytest.raises(ZoneError):
        schedule_of(60, 0, "0 6 * * * Nowhere")
    with pytest.raises(ScheduleError):
        schedule_of(60, 0, "MET-1")


def test_schedules_are_the_same_where_all_their_runs_are() -> None:
    assert same(Periodic(900), Periodic(900, 0))
    assert same(Calendar("0  6 * * *"), Calendar("0 6 * * *"))
    others: list[Schedule] = [
        Periodic(900, 60),
        Periodic(60),
        Calendar("0 6 * * *"),
        Calendar("0 6 * * *", Zone(MADRID)),
    ]
    assert [same(one, other) for one, other in itertools.combinations(others, 2)] == [False] * 6


TENS = Periodic(10)


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([], []),
        ([(10, 10)], [(10, 10)]),
        ([(10, 20), (30, 40)], [(10, 40)]),  # neighbours
        ([(10, 20), (40, 50)], [(10, 20), (40, 50)]),
        ([(40, 50), (10, 20), (20, 30)], [(10, 50)]),
        ([(10, 90), (20, 30), (40, 100)], [(10, 100)]),
        ([(10, 20), (40, 50), (60, 60), (90, 90)], [(10, 20), (40, 60), (90, 90)]),
    ],
)
def test_ranges_are_joined_where_no_run_is_between_them(ranges: list[Range], expected: list[Range]) -> None:
    assert joined(ranges, TENS) == expected


@pytest.mark.parametrize(
    ("ranges", "taken", "expected"),
    [
        ([(10, 50)], [], [(10, 50)]),
        ([(10, 10)], [], [(10, 10)]),
        ([(10, 50)], [(60, 90), (-10, 0)], [(10, 50)]),
        ([(10, 50)], [(70, 90), (-30, -10)], [(10, 50)]),
        ([(10, 50)], [(30, 30)], [(10, 20), (40, 50)]),
        ([(10, 50)], [(10, 20)], [(30, 50)]),
        ([(10, 50)], [(0, 10)], [(20, 50)]),
        ([(10, 50)], [(50, 60)], [(10, 40)]),
        ([(10, 50)], [(40, 50)], [(10, 30)]),
        ([(10, 50)], [(10, 40)], [(50, 50)]),
        ([(10, 50)], [(10, 50)], []),
        ([(10, 50)], [(0, 90)], []),
        ([(10, 50)], [(40, 40), (20, 20)], [(10, 10), (30, 30), (50, 50)]),
        ([(10, 50)], [(10, 20), (30, 50)], []),
        ([(10, 50)], [(0, 20), (20, 40)], [(50, 50)]),
        ([(60, 90), (10, 50)], [(40, 70)], [(10, 30), (80, 90)]),
    ],
)
def test_what_is_left_of_ranges(ranges: list[Range], taken: list[Range], expected: list[Range]) -> None:
    assert without(ranges, taken, TENS) == expected


def test_a_range_to_the_end_of_time_has_no_run_behind_it() -> None:
    class Ends(Periodic):
        def next(self, wall: float) -> int:
            assert wall < 50
            return super().next(wall)

    assert without([(10, 50)], [(30, 50)], Ends(10)) == [(10, 20)]


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
