"""Local time by POSIX TZ strings, beside zoneinfo."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from omadm.local_time import Zone, ZoneError
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
        "CET-1:60",
        "LMT0:14:44",
        "CET-1CEST,M3.5.0,M10.5.0 ",
        "A" * 65,
    ],
)
def test_what_is_no_zone_is_refused(text: str) -> None:
    with pytest.raises(ZoneError):
        Zone(text)


def test_times_of_any_clock_have_an_offset() -> None:
    for at in (0, -1, -(10**12), 4 * 10**9, 10**13):
        assert Zone(MADRID).offset(at) in (HOUR, 2 * HOUR)
