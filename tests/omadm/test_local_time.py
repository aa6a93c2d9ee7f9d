"""Local time by POSIX TZ strings, beside zoneinfo."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from omadm.local_time import LATEST, DayTimes, Zone, ZoneError
from tests.omadm.zones import NAMES, posix

FROM, TO = datetime(2026, 11, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)
HOUR = 3600
MADRID = "CET-1CEST,M3.5.0,M10.5.0/3"


def seconds(*fields: int) -> int:
    return int(datetime(*fields, tzinfo=UTC).timestamp())  # type: ignore[misc, arg-type]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_every_half_hour_of_three_years_has_the_offset_that_zoneinfo_says(name: str) -> None:
    zone, peer = Zone(posix(name)), ZoneInfo(name)
    at = FROM
    while at < TO:
        offset = at.astimezone(peer).utcoffset()
        assert offset is not None
        assert zone.offset(int(at.timestamp())) == offset.total_seconds(), at
        at += timedelta(minutes=30)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_every_local_half_hour_has_the_instants_that_zoneinfo_says(name: str) -> None:
    zone, peer = Zone(posix(name)), ZoneInfo(name)
    local = datetime(2027, 1, 1)  # noqa: DTZ001 - of local time
    twice = missing = 0
    while local < datetime(2028, 1, 1):  # noqa: DTZ001
        both = [int(local.replace(tzinfo=peer, fold=fold).timestamp()) for fold in (0, 1)]
        exists = datetime.fromtimestamp(both[0], peer).replace(tzinfo=None) == local
        expected = sorted(set(both)) if exists else both[:1]
        assert list(zone.instants(seconds(*local.timetuple()[:6]))) == expected, local
        twice += len(expected) == 2
        missing += not exists
        local += timedelta(minutes=30)
    assert (twice > 0) == (missing > 0) == (zone.standard != zone.summer)


def test_a_switch_of_madrid_to_the_second() -> None:
    zone = Zone(MADRID)
    spring, autumn = seconds(2027, 3, 28, 1), seconds(2027, 10, 31, 1)
    assert [zone.offset(spring + by) for by in (-1, 0)] == [HOUR, 2 * HOUR]
    assert [zone.offset(autumn + by) for by in (-1, 0)] == [2 * HOUR, HOUR]
    assert zone.instants(seconds(2027, 3, 28, 2, 30)) == (seconds(2027, 3, 28, 1, 30),)
    assert zone.instants(seconds(2027, 10, 31, 2, 30)) == (seconds(2027, 10, 31, 0, 30), seconds(2027, 10, 31, 1, 30))


def test_the_offset_holds_between_two_switches_only() -> None:
    zone = Zone(MADRID)
    spring = seconds(2027, 3, 28, 1)
    assert zone.steady(spring - 7200, spring - 1) == HOUR
    assert zone.steady(spring - 1, spring) is None
    assert zone.steady(spring, spring + 100 * 86_400) == 2 * HOUR
    assert Zone("IST-5:30").steady(0, 300 * 86_400) == 19_800


def test_days_of_the_year_and_summer_all_the_year_round() -> None:
    julian, counted = Zone("AAA0BBB,J60/0,J300/0"), Zone("AAA0BBB,59/0,299/0")
    assert julian.offset(seconds(2028, 2, 29, 12)) == 0  # 29 February is not counted
    assert julian.offset(seconds(2028, 3, 1)) == HOUR
    assert counted.offset(seconds(2028, 2, 29)) == HOUR  # and here it is day 59
    always = Zone("XXX3EDT4,0/0,J365/23")  # RFC 9636, 3.3.1
    assert {always.offset(seconds(2027, month, 1)) for month in range(1, 13)} == {-4 * HOUR}
    assert always.offset(seconds(2028, 1, 1, 3)) == -4 * HOUR


@pytest.mark.parametrize(
    ("rule", "day"),
    [
        ("M1.1.0", (2027, 1, 3)),
        ("M1.1.5", (2027, 1, 1)),  # the first of a month is one of its first week
        ("M1.5.0", (2027, 1, 31)),  # and the last one of its last
        ("M2.4.6", (2027, 2, 27)),
        ("M2.5.6", (2027, 2, 27)),  # where there is no fifth one, it is the fourth
        ("M2.5.2", (2028, 2, 29)),
        ("M6.2.6", (2027, 6, 12)),
        ("M11.5.2", (2027, 11, 30)),
        ("M11.5.3", (2027, 11, 24)),
        ("M12.5.5", (2027, 12, 31)),
        ("M12.5.6", (2027, 12, 25)),
        ("J1", (2027, 1, 1)),
        ("J59", (2028, 2, 28)),
        ("J60", (2027, 3, 1)),
        ("J60", (2028, 3, 1)),
        ("J365", (2027, 12, 31)),
        ("J365", (2028, 12, 31)),
        ("0", (2027, 1, 1)),
        ("59", (2028, 2, 29)),
        ("364", (2027, 12, 31)),
        ("365", (2028, 12, 31)),
    ],
)
def test_the_day_of_a_switch(rule: str, day: tuple[int, int, int]) -> None:
    other = "J200" if day[1] not in (6, 7) else "J30"
    zone, midnight = Zone(f"AAA0BBB,{rule}/12,{other}"), seconds(*day)
    assert [zone.offset(midnight + 12 * HOUR + by) for by in (-1, 0)] == [0, HOUR]


@pytest.mark.parametrize(
    ("text", "standard", "summer"),
    [
        ("UTC0", 0, 0),
        ("EST5", -5 * HOUR, -5 * HOUR),
        ("<+1030>-10:30", 37_800, 37_800),
        ("<-24>24", -24 * HOUR, -24 * HOUR),
        ("AAA+24:00:00", -24 * HOUR, -24 * HOUR),
        ("AAA-0:59", 3540, 3540),
        ("CET-1CEST,M3.5.0,M10.5.0", HOUR, 2 * HOUR),
        ("IST-1GMT0,M10.5.0,M3.5.0/1", HOUR, 0),
        ("<+1030>-10:30<+11>-11,M10.1.0,M4.1.0", 37_800, 39_600),
        ("AAA24BBB24,J1,J2", -24 * HOUR, -24 * HOUR),
    ],
)
def test_offsets_are_positive_in_the_east(text: str, standard: int, summer: int) -> None:
    zone = Zone(text)
    assert (zone.text, zone.standard, zone.summer) == (text, standard, summer)


@pytest.mark.parametrize(
    ("time", "after_s"),
    [("", 2 * HOUR), ("/0", 0), ("/2:30", 9000), ("/-1", -HOUR), ("/-0:30", -1800), ("/+3", 3 * HOUR),
     ("/0:59:59", 3599), ("/167:59:59", 167 * HOUR + 3599)],
)  # fmt: skip
def test_the_time_of_a_switch(time: str, after_s: int) -> None:
    switch = seconds(2027, 3, 28) + after_s
    zone = Zone(f"AAA0BBB,M3.5.0{time},M10.5.0")
    assert [zone.offset(switch + by) for by in (-1, 0)] == [0, HOUR]
    assert zone.next_switch(switch - 1) == switch


def test_the_next_switch_is_the_first_one_after_an_instant() -> None:
    zone = Zone(MADRID)
    spring, autumn, again = seconds(2027, 3, 28, 1), seconds(2027, 10, 31, 1), seconds(2028, 3, 26, 1)
    assert [zone.next_switch(at) for at in (spring - 1, spring, autumn - 1, autumn)] == [spring, autumn, autumn, again]
    assert zone.next_switch(seconds(2027, 12, 31, 23, 59)) == again
    assert Zone("UTC0").next_switch(spring) is None


@pytest.mark.parametrize("name", ["Europe/Madrid", "Pacific/Auckland", "America/Santiago"])
def test_the_first_and_the_last_year_have_their_offsets(name: str) -> None:
    zone, peer = Zone(posix(name)), ZoneInfo(name)
    for at in (LATEST, LATEST - 180 * 86_400):
        assert timedelta(seconds=zone.offset(at)) == datetime.fromtimestamp(at, peer).utcoffset()
    assert Zone(MADRID).offset(seconds(1970, 7, 1)) == 2 * HOUR
    first = zone.offset(0)
    assert (first, zone.offset(-(10**9))) == (zone.offset(365 * 86_400), first)


def test_a_zone_has_64_characters_at_most() -> None:
    longest = "<AAAAAAAA>-01:00:00<BBBBBBBB>-02:00:00,M3.5.0/02:00:00,M10.5.0/3"
    assert (len(longest), Zone(longest).summer) == (64, 2 * HOUR)
    with pytest.raises(ZoneError):
        Zone(longest.replace("A>", "AA>"))


def test_no_more_than_16_years_are_remembered() -> None:
    zone = Zone(MADRID)
    for year in range(1970, 2100):
        zone.offset(seconds(year, 6, 1))
        assert len(zone._years) <= 16


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Europe/Madrid",
        "CET",
        "CET-1CEST",
        "CET-1CEST,M3.5.0",
        "CET-1CEST,M13.5.0,M10.5.0",
        "CET-1CEST,M3.6.0,M10.5.0",
        "CET-1CEST,M3.5.7,M10.5.0",
        "CET-1CEST,J0,M10.5.0",
        "CET-1CEST,366,M10.5.0",
        "CET-1CEST,M3.5.0/168,M10.5.0",
        "CET-25",
        "CET-1CEST-25,M3.5.0,M10.5.0",
        "CET-1CEST-2:00:30,M3.5.0,M10.5.0",
        "CET-1CEST,M0.5.0,M10.5.0",
        "CET-1CEST,M3.0.0,M10.5.0",
        "CET-1CEST,J366,M10.5.0",
        "CET-1CEST,M3.5.0/1:60,M10.5.0",
        "CET-1CEST,M3.5.0/1:00:60,M10.5.0",
        "CET-1:60",
        "CET-1:00:60",
        "LMT0:14:44",
        "CET-1CEST,M3.5.0,M10.5.0 ",
        "A" * 65,
    ],
)
def test_what_is_no_zone_is_refused(text: str) -> None:
    with pytest.raises(ZoneError):
        Zone(text)


def test_a_span_begins_and_ends_at_whole_minutes() -> None:
    span = DayTimes("00:59-01:59,23:59-24:00")
    borders = (59 * 60, HOUR + 59 * 60, 24 * HOUR - 60, 24 * HOUR)
    assert [span.hold(at + by) for at in borders for by in (-1, 0)] == [False, True, True, False] * 2


@pytest.mark.parametrize("text", ["01:60-03:00", "01:00-03:60", "24:00-25:00", "24:00-01:00", "01:00-24:01", "2-3"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(ZoneError):
        DayTimes(text)


def test_times_of_a_day_before_1970() -> None:
    times = DayTimes("00:00-12:00")
    assert [times.hold(-0.5), times.hold(0)] == [False, True]
    assert [times.next_begin(-0.5), times.next_begin(0), times.next_end(-0.5)] == [0, 24 * HOUR, 12 * HOUR]


def test_times_of_any_clock_have_an_offset() -> None:
    for at in (0, -1, -(10**12), 4 * 10**9, 10**13):
        assert Zone(MADRID).offset(at) in (HOUR, 2 * HOUR)
