"""Values by the types of the table of classes: names for what is nested, and the way back."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal

import pytest

from dlms import axdr
from dlms.axdr import Data, Tag
from dlms.client.events import Value
from dlms.client.profile import Column, ProfileRow
from dlms.client.reading import present
from dlms.cosem.classes import attribute_type, method_type
from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.profile import CaptureObject
from dlms.cosem.scaler_unit import ScalerUnit
from dlms.cosem.time import ClockPolicy, CosemDate, CosemDateTime, CosemTime
from dlms.cosem.types import ANY, TAGS, CosemType
from dlms.cosem.values import Named, encode, typed
from dlms.errors import DlmsError, LocalError
from tests.dlms.cosem.every_class import every_class
from tests.dlms.random_data import random_data, random_of

DATE = CosemDate(2026, 3, 29, 7)


def kinds() -> list[tuple[str, CosemType]]:
    found = []
    for known in every_class():
        name = f"{known.class_id} v{known.version}"
        for number, member in [*known.attributes.items(), *known.methods.items()]:
            found.append((f"{name} {number} {member.name}", member.type))
    return found


def of(class_id: int, attribute: int, version: int | None = None) -> CosemType:
    found = attribute_type(class_id, attribute, version)
    assert found is not None
    return found


@pytest.mark.parametrize(("what", "kind"), kinds())
def test_what_was_read_is_written_back_octet_for_octet(what: str, kind: CosemType) -> None:
    chance = random.Random(what)
    for _ in range(20):
        data = random_of(kind, chance)
        value = typed(kind, data)
        assert kind.tag is None or not isinstance(value, Data)
        assert encode(kind, value).emit() == data.emit()


def test_anything_at_all_is_shown_somehow_and_written_back() -> None:
    chance = random.Random(41)
    every = [kind for _, kind in kinds() if kind.name != "-"]
    for _ in range(3000):
        kind, data = chance.choice(every), random_data(chance)
        value = typed(kind, data)
        if isinstance(value, Data):
            assert value is data
        elif data.tag == kind.tag:
            assert encode(kind, value).emit() == data.emit()


def test_an_activity_calendar_has_the_names_of_the_blue_book() -> None:
    winter = CosemDateTime.of("****-11-01 **:**:**")
    season = axdr.structure(axdr.octets(b"W"), axdr.octets(winter.emit()), axdr.octets(b"1"))
    assert typed(of(20, 3), axdr.array([season])) == [
        {"season_profile_name": b"W", "season_start": winter, "week_name": b"1"}
    ]
    action = axdr.structure(axdr.octets(bytes((6, 30, 0, 0))), axdr.octets(bytes((0, 0, 10, 0, 100, 255))), axdr.u16(2))
    day = axdr.structure(axdr.u8(1), axdr.array([action]))
    shown = {
        "start_time": CosemTime(6, 30, 0, 0),
        "script_logical_name": Obis.parse("0.0.10.0.100.255"),
        "script_selector": 2,
    }
    assert typed(of(20, 5), axdr.array([day])) == [{"day_id": 1, "day_schedule": [shown]}]
    week = {"week_profile_name": b"1", **dict.fromkeys(DAYS[:5], 1), **dict.fromkeys(DAYS[5:], 2)}
    assert encode(of(20, 4), [week]).emit().hex() == "0101" + "0208" + "090131" + "1101" * 5 + "1102" * 2


DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def test_a_limiter_can_be_written_as_it_is_read() -> None:
    actions = {
        "action_over_threshold": {"script_logical_name": "0.0.10.0.106.255", "script_selector": 1},
        "action_under_threshold": ("0.0.10.0.106.255", 2),
    }
    code = "09060000" + "0a006aff"
    assert encode(of(71, 11), actions).emit().hex() == "0202" + "0202" + code + "120001" + "0202" + code + "120002"
    start = datetime(2026, 3, 1, tzinfo=UTC)
    emergency = {"emergency_profile_id": 7, "emergency_activation_time": start, "emergency_duration": 60}
    profile = encode(of(71, 8), emergency)
    assert profile.emit().hex() == "0203" + "120007" + "090c07ea030107000000000000" + "00" + "060000003c"


def test_numbers_with_a_meaning_know_it() -> None:
    state = typed(of(70, 3), axdr.enum(2))
    assert state == 2
    assert isinstance(state, Named)
    assert state.name == "ready_for_reconnection"
    assert str(state) == "2 ready_for_reconnection"
    assert typed(of(70, 3), axdr.enum(9)) == 9
    assert encode(of(70, 3), "connected") == axdr.enum(1)
    assert typed(of(3, 3), axdr.structure(axdr.i8(-1), axdr.enum(35))) == {"scaler": -1, "unit": 35}
    assert encode(of(3, 3), {"scaler": -3, "unit": "1/(Wh)"}) == axdr.structure(axdr.i8(-3), axdr.enum(45))
    with pytest.raises(LocalError):
        encode(of(70, 3), "melted")


def test_the_version_of_the_class_decides() -> None:
    delays = axdr.structure(axdr.u16(1), axdr.u16(2), axdr.u16(3))
    assert typed(of(40, 7, 0), delays) is delays
    assert typed(of(40, 7, 0), axdr.u16(60)) == 60
    found = typed(of(40, 7, 2), delays)
    assert found == {"repetition_delay_min": 1, "repetition_delay_exponent": 2, "repetition_delay_max": 3}
    assert attribute_type(40, 11, 1) is None
    assert method_type(15, 5, 1) is None
    assert method_type(15, 5, 2) is not None


def test_what_is_not_as_declared_stays_as_it_came() -> None:
    odd = axdr.structure(axdr.octets(b"W"), axdr.u8(1))
    assert typed(of(20, 3), axdr.array([odd])) == [odd]
    assert typed(of(20, 3), axdr.u8(1)) == axdr.u8(1)
    assert typed(of(8, 2), axdr.octets(b"short")) == axdr.octets(b"short")
    reading = present(AttributeRef(20, Obis.parse("0.0.13.0.0.255"), 3), Value(axdr.u8(1)))
    assert reading.value == 1
    unknown = present(AttributeRef(9999, Obis.parse("0.0.1.0.0.255"), 2), Value(axdr.u8(1)))
    assert unknown.value == 1


@pytest.mark.parametrize(
    ("kind", "value", "encoded"),
    [
        ("logical-name", "1-0:1.8.0", "09060100010800ff"),
        ("logical-name", Obis.parse("1.0.1.8.0.255"), "09060100010800ff"),
        ("date", "****-DB-LD", "0905fffffefeff"),
        ("date", "2026-03-29", "090507ea031d07"),
        ("date", date(2026, 3, 29), "090507ea031d07"),
        ("date", DATE, "090507ea031d07"),
        ("date", "07ea031d07", "090507ea031d07"),
        ("time", "02:30", "0904021e0000"),
        ("time", "**:**:**", "0904ffffff00"),
        ("time", time(2, 30, 0, 500_000), "0904021e0032"),
        ("datetime", "2026-03-01T00:00:00+01:00", "090c07ea03010700000000ffc400"),
        ("datetime", "****-12-25 00:00", "090cffff0c19ff000000008000ff"),
        ("datetime", "****-12-25 00:00 -60min", "090cffff0c19ff00000000ffc4ff"),
        ("date-time", datetime(2026, 3, 1, tzinfo=UTC), "1907ea03010700000000000000"),
        ("octet-string", "00ff", "090200ff"),
        ("octet-string", bytearray(b"\x01"), "090101"),
        ("bit-string", "101", "0403a0"),
        ("float32", 1, "173f800000"),
        ("-", None, "0f00"),
        ("any", None, "00"),
        ("any", True, "0301"),
        ("any", b"x", "090178"),
        ("any", Obis.parse("1.0.1.8.0.255"), "09060100010800ff"),
        ("any", axdr.u16(5), "120005"),
    ],
)
def test_values_are_written_in_many_ways(kind: str, value: object, encoded: str) -> None:
    assert encode(CosemType(kind), value).emit().hex() == encoded


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        ("unsigned", 256, "256"), ("unsigned", True, "True"), ("unsigned", "5", "5"), ("any", 5, "choice"),
        ("boolean", 1, "boolean"), ("date", "2026-3-1", "date"), ("time", 5, "CosemTime"), ("datetime", "soon", "soon"),
        ("logical-name", b"abc", "6 octets"), ("octet-string", "xyz", "hex"), ("octet-string", 5, "octet-string"),
        ("datetime", "2026-03-01 00:00 +1h", "deviation"), ("logical-name", 7, "Obis"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(kind: str, value: object, says: str) -> None:
    with pytest.raises(LocalError, match=says):
        encode(CosemType(kind), value)


def test_an_error_names_the_part_it_is_about() -> None:
    week = {"week_profile_name": b"1", **dict.fromkeys(DAYS, 1), "friday": 300}
    with pytest.raises(LocalError, match=r"20/4\[1\]\.friday: 300"):
        encode(of(20, 4), [{**week, "friday": 1}, week], what="20/4")
    with pytest.raises(LocalError, match="has the members week_profile_name, monday"):
        encode(of(20, 4), [{"monday": 1}])
    with pytest.raises(LocalError, match="list"):
        encode(of(20, 4), "abc")
    with pytest.raises(LocalError, match="has the members"):
        encode(of(71, 11), 5)


def test_random_values_fit_or_are_refused() -> None:
    chance = random.Random(47)
    every = [kind for _, kind in kinds()]
    values = [None, True, 5, -1, 2**70, 1.5, "", "00", "1.0.1.8.0.255", b"", b"123456", [], [1], {}, {"a": 1}, (), DATE]
    for _ in range(5000):
        try:
            encode(chance.choice(every), chance.choice(values))
        except DlmsError:
            continue


def test_a_time_is_written_as_the_meters_clock_would() -> None:
    chance = random.Random(53)
    policies = [
        ClockPolicy(sign, offset, has, dst)
        for sign in (-1, 0, 1)
        for offset in (None, 0, 540, -210)
        for has in (True, False)
        for dst in (60, 30)
    ]
    for _ in range(2000):
        policy = chance.choice(policies)
        zone = timezone(timedelta(minutes=chance.choice((0, 60, -300, 345))))
        when = datetime(2026, 1, 1, tzinfo=zone) + timedelta(seconds=chance.randrange(10**8))
        written = CosemDateTime.from_instant(when, policy, dst=chance.random() < 0.5)
        if policy.deviation_sign or policy.utc_offset_minutes is not None:
            assert written.to_datetime(policy) == when
        else:
            assert written.to_datetime(policy) is None
            assert written.local() == when.replace(tzinfo=None)


def test_dates_and_times_read_back_what_they_print() -> None:
    chance = random.Random(59)
    for _ in range(500):
        day = CosemDate(
            chance.choice((0xFFFF, 2026)), chance.choice((0xFF, 0xFE, 0xFD, 2)), chance.choice((0xFF, 0xFE, 0xFD, 28))
        )
        again = CosemDate.of(str(day))
        assert (again.year, again.month, again.day) == (day.year, day.month, day.day)
        at = CosemTime(
            chance.choice((0xFF, 23)), chance.choice((0xFF, 0)), chance.choice((0xFF, 59)), chance.randrange(100)
        )
        assert CosemTime.of(str(at)) == at
    assert CosemDate.of("2026-03-29").date() == date(2026, 3, 29)
    assert CosemDate.of("****-12-25").date() is None
    for cut in (CosemDate.parse, CosemTime.parse, CosemDateTime.parse):
        with pytest.raises(DlmsError):
            cut(b"\x07\xea\x01")
    for wrong in (lambda: CosemDate(70000), lambda: CosemDate(2026, 256), lambda: CosemTime(-1)):
        with pytest.raises(LocalError):
            wrong()


def test_readings_are_scaled_and_timed_whatever_their_type() -> None:
    code = Obis.parse("1.0.1.8.0.255")
    value = AttributeRef(3, code, 2)
    assert present(value, Value(Data(Tag.FLOAT32, 2.5), 3, 30)).value == 2500.0
    assert present(value, Value(axdr.u32(25), -1, 30)).value == Decimal("2.5")
    assert present(value, Value(axdr.u64(2**64 - 1), -7, 30)).value == Decimal("1844674407370.9551615")
    assert present(value, Value(Data(Tag.DATE, DATE.emit()))).value == DATE
    assert present(value, Value(Data(Tag.TIME, bytes((2, 30, 0, 0))))).value == CosemTime(2, 30, 0, 0)
    at = CosemDateTime.from_datetime(datetime(2026, 3, 1, tzinfo=UTC))
    for reading in (
        present(value, Value(Data(Tag.DATE_TIME, at.emit()))),
        present(AttributeRef(4, code, 5), Value(axdr.octets(at.emit()))),
        present(AttributeRef(4, code, 5), Value(Data(Tag.DATE_TIME, at.emit()))),
    ):
        assert reading.value == datetime(2026, 3, 1, tzinfo=UTC)
    doubtful = present(AttributeRef(8, code, 2), Value(axdr.octets(replace(at, status=2, hour=255).emit())))
    assert isinstance(doubtful.value, CosemDateTime)
    assert doubtful.quality == "doubtful"
    assert present(AttributeRef(3, code, 1), Value(axdr.octets(code.code))).value == code


def test_columns_of_a_profile_that_are_times_are_times() -> None:
    maximum = AttributeRef(4, Obis.parse("1.0.1.6.0.255"), 5)
    at = CosemDateTime.from_datetime(datetime(2026, 3, 1, tzinfo=UTC))
    columns = (
        Column(CaptureObject(maximum), None),
        Column(CaptureObject(AttributeRef(3, maximum.obis, 2)), ScalerUnit(-1, 30)),
        Column(CaptureObject(AttributeRef(1, maximum.obis, 2)), None),
    )
    unclear = replace(at, hour=255)
    assert ProfileRow(columns, (at.emit(), 25, b"x" * 12)).values[:2] == (
        datetime(2026, 3, 1, tzinfo=UTC),
        Decimal("2.5"),
    )
    assert ProfileRow(columns, (unclear.emit(), 2.5, b"x" * 12)).values == (unclear, 0.25, b"x" * 12)


def test_every_type_of_the_table_is_one_that_exists() -> None:
    def check(kind: CosemType) -> None:
        assert kind.name in {*TAGS, "any", "array", "structure"}
        for part in [kind.element] if kind.element else [member for _, member in kind.members]:
            check(part)

    for _, kind in kinds():
        check(kind)
    assert ANY.tag is None
    assert CosemType("array", element=ANY).tag is Tag.ARRAY
