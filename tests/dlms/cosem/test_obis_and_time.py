"""OBIS codes, references, dates and times."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest

from dlms.cosem.obis import AttributeRef, MethodRef, Obis
from dlms.cosem.time import ClockPolicy, CosemDateTime, CosemTime
from dlms.errors import DecodeError, LocalError


def test_value_group_f_makes_another_code() -> None:
    assert Obis.parse("1.0.1.8.0.101") != Obis.parse("1.0.1.8.0.255")
    assert Obis.parse("1.0.1.8.0.101").code == bytes((1, 0, 1, 8, 0, 101))
    assert AttributeRef.parse("3/1.0.1.8.0.101/2").emit().hex() == "00030100010800" + "65" + "02"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("1.0.1.8.0.255", "1.0.1.8.0.255"),
        ("1-0:1.8.0", "1.0.1.8.0.255"),
        ("1-0:1.8.0*101", "1.0.1.8.0.101"),
        ("0-0:96.1.0.255", "0.0.96.1.0.255"),
        (" 1.0.1.8.0.255 ", "1.0.1.8.0.255"),
    ],
)
def test_a_code_is_read_in_both_spellings(text: str, code: str) -> None:
    assert str(Obis.parse(text)) == code


@pytest.mark.parametrize("text", ["", "1.0.1.8.0", "1.0.1.8.0.256", "1.0.1.8.0.255.1", "a.b.c.d.e.f", "1-0:1.8"])
def test_what_is_no_code_is_said_to_be_none(text: str) -> None:
    with pytest.raises(LocalError):
        Obis.parse(text)


@pytest.mark.parametrize(
    "text", ["3/1.0.1.8.0.255", "x/1.0.1.8.0.255/2", "3/1.0.1.8.0.255/200", "70000/1.0.1.8.0.255/2"]
)
def test_what_is_no_reference_is_said_to_be_none(text: str) -> None:
    with pytest.raises(LocalError):
        AttributeRef.parse(text)


def test_a_reference_reads_back_what_it_prints() -> None:
    ref = AttributeRef(8, Obis.parse("0.0.1.0.0.255"), -1)
    assert AttributeRef.parse(str(ref)) == ref


SUMMER = bytes.fromhex("07ea0616020e1e0f00ff8880")  # 2026-06-22 14:30:15, deviation -120, daylight saving


def test_a_time_keeps_every_octet() -> None:
    chance = random.Random(3)
    for _ in range(500):
        octets = chance.randbytes(12)
        assert CosemDateTime.parse(octets).emit() == octets


def test_by_the_standard_utc_is_local_time_plus_deviation() -> None:
    when = CosemDateTime.parse(SUMMER)
    assert when.daylight_saving
    assert when.to_datetime() == datetime(2026, 6, 22, 12, 30, 15, tzinfo=UTC)


def test_a_policy_corrects_the_makers_habits() -> None:
    when = CosemDateTime.parse(SUMMER)
    assert when.to_datetime(ClockPolicy(deviation_sign=-1)) == datetime(2026, 6, 22, 16, 30, 15, tzinfo=UTC)
    assert when.to_datetime(ClockPolicy(deviation_sign=0)) is None
    local = ClockPolicy(deviation_sign=0, utc_offset_minutes=540, dst_minutes=0)
    assert when.to_datetime(local) == datetime(2026, 6, 22, 5, 30, 15, tzinfo=UTC)
    fixed = ClockPolicy(deviation_has_dst=False)
    assert when.to_datetime(fixed) == datetime(2026, 6, 22, 11, 30, 15, tzinfo=UTC)
    with pytest.raises(LocalError):
        ClockPolicy(deviation_sign=2)


def test_a_missing_deviation_needs_a_policy() -> None:
    when = CosemDateTime.parse(bytes.fromhex("07ea0116040a0000ff8000ff"))
    assert when.to_datetime() is None
    assert when.to_datetime(ClockPolicy(utc_offset_minutes=60)) == datetime(2026, 1, 22, 9, tzinfo=UTC)


def test_wildcards_have_no_instant() -> None:
    assert CosemDateTime().to_datetime(ClockPolicy(utc_offset_minutes=0)) is None
    assert CosemDateTime(2026, 2, 30, 255, 0, 0, 0, 0, 0, 0).to_datetime() is None
    assert CosemDateTime(2026, 1, 1, 255, 24, 0, 0, 0, 0, 0).to_datetime() is None


def test_the_last_days_of_a_month_are_resolved() -> None:
    assert CosemDateTime(2028, 2, 0xFE, 255, 0, 0, 0, 0, 0, 0).local() == datetime(2028, 2, 29)  # noqa: DTZ001
    assert CosemDateTime(2026, 12, 0xFD, 255, 0, 0, 0, 0, 0, 0).local() == datetime(2026, 12, 30)  # noqa: DTZ001


def test_a_time_goes_there_and_back() -> None:
    zone = timezone(timedelta(hours=9))
    when = datetime(2026, 11, 22, 20, 15, 30, 250_000, tzinfo=zone)
    cosem = CosemDateTime.from_datetime(when)
    assert cosem.deviation == -540
    assert CosemDateTime.parse(cosem.emit()).to_datetime() == when
    assert str(cosem) == "2026-11-22 20:15:30.25 -540min"


def test_a_doubtful_clock_says_so() -> None:
    assert not CosemDateTime(2026, 1, 1, 255, 0, 0, 0, 0, 0, status=2).trustworthy
    assert CosemDateTime(2026, 1, 1, 255, 0, 0, 0, 0, 0, status=0x80).trustworthy
    assert CosemDateTime(2026, 1, 1, 255, 0, 0, 0, 0, 0, status=0xFF).trustworthy


@pytest.mark.parametrize("size", [0, 11, 13])
def test_a_time_has_twelve_octets(size: int) -> None:
    with pytest.raises(DecodeError):
        CosemDateTime.parse(bytes(size))


def test_instants_at_the_edge_of_the_calendar_are_none_and_no_crash() -> None:
    assert CosemDateTime(1, 1, 1, 255, 0, 0, 0, 0, -120, 0).to_datetime() is None
    assert CosemDateTime(9999, 12, 0xFE, 255, 23, 59, 0, 0, 120, 0).to_datetime() is None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Obis(bytes(5)),
        lambda: MethodRef(0x10000, Obis(bytes(6)), 1),
        lambda: MethodRef(70, Obis(bytes(6)), 128),
        lambda: CosemDateTime(year=0x10000),
        lambda: CosemDateTime(deviation=0x8000),
        lambda: CosemDateTime(hour=256),
        lambda: CosemDateTime(status=256),
        lambda: CosemTime.of("half past two"),
        lambda: CosemTime.of("2.30"),
    ],
)
def test_what_fits_no_field_on_the_line_is_not_made(wrong: Callable[[], object]) -> None:
    with pytest.raises(LocalError):
        wrong()


def test_a_code_shows_itself_and_its_octets() -> None:
    code = Obis.parse("1-0:1.8.0")
    assert repr(code) == "Obis(1.0.1.8.0.255)"
    assert bytes(code) == bytes.fromhex("0100010800ff")


def test_a_time_without_a_zone_is_the_meters_own() -> None:
    policy = ClockPolicy(utc_offset_minutes=120)
    local = datetime(2026, 7, 1, 2, 30)  # noqa: DTZ001 - without a zone is the case
    assert CosemDateTime.from_instant(local, policy) == CosemDateTime.from_datetime(local)
    assert CosemDateTime.from_instant(local, policy).hour == 2


@pytest.mark.parametrize(
    ("before", "seconds", "after"),
    [
        ("07ea0a1806102d00008000ff", 900, "07ea0a1806110000008000ff"),
        ("07ea0a1806172d00008000ff", 900, "07ea0a1907000000008000ff"),  # Saturday, and the Sunday after it
        ("07ea0a1907172d0000ff8880", 900, "07ea0a1a0100000000ff8880"),
        ("07ea0a18ff102dffff8000ff", 900, "07ea0a18ff1100ffff8000ff"),
        ("07ea0a18ff102dffff8000ff", 930, "07ea0a18ff11001eff8000ff"),
        ("07eaffffff102d00008000ff", 900, None),
        ("270f0c1f05173b00008000ff", 60, None),
    ],
)
def test_a_later_time_by_the_same_clock_is_what_that_clock_would_say(
    before: str, seconds: int, after: str | None
) -> None:
    later = CosemDateTime.parse(bytes.fromhex(before)).later(seconds)
    assert (later.emit().hex() if later is not None else None) == after
