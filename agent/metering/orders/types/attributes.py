"""Orders that write settings and read them back: limiter, clock-parameters, display. Sans-IO.

Each is a list of attributes with what they are to hold; `agent.metering.orders.types.steps.write` does the rest, and
does it again after a cut without sending twice what the meter holds already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agent.metering.orders.order import OrderRefusedError, OrderType
from agent.metering.orders.types import parameters as check
from agent.metering.orders.types.parameters import Checked
from agent.metering.orders.types.steps import AttributeSetting, Context, Plan, TypeFunctions, write
from dlms import axdr
from dlms.axdr import Data
from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.time import CosemDate, CosemDateTime, CosemTime

CLOCK, PROFILE, LIMITER = 8, 7, 71
DISPLAY_LIST = "0.0.21.0.1.255"  # general display readout (BB 6.2.42)
LIMITER_CODE = "0.0.17.0.0.255"
CLOCK_CODE = "0.0.1.0.0.255"
CAPTURES_MAX = 64
GROUPS_MAX = 32
U16_MAX, U32_MAX = 0xFFFF, 0xFFFFFFFF
ZONE_MIN_MAX = 720  # BB 4.5.1
DST_MIN_MAX = 120
_BUFFERED = (98, 99)  # value group C of profiles with measured values and events (BB 6.2, 6.3)


def _plan(
    wanted: Callable[[Mapping[str, object]], Sequence[AttributeSetting]],
) -> Callable[[Mapping[str, object], Context], Plan]:
    def plan(parameters: Mapping[str, object], _context: Context) -> Plan:
        return (yield from write(wanted(parameters))).ended()

    return plan


# --------------------------------------------------------------------------------------------------------- limiter


def check_limiter(given: dict[str, object]) -> Checked:
    """Class 71 (BB 4.5.9). Thresholds are typed JSON, or plain numbers in the type that the meter has."""
    wanted = {"obis": LIMITER_CODE} | given
    code = check.obis(wanted)
    if not _limiter(wanted):
        raise OrderRefusedError("nothing is to be set")
    return wanted, check.needed(LIMITER, code)


def _limiter(given: Mapping[str, object]) -> list[AttributeSetting]:
    """Durations and thresholds before the emergency profile: that may come into force at once."""
    makers: dict[str, tuple[int, Callable[[object, str], Data | int]]] = {
        "min_over_duration_s": (6, lambda value, path: axdr.u32(check.number(value, path, 0, U32_MAX))),
        "min_under_duration_s": (7, lambda value, path: axdr.u32(check.number(value, path, 0, U32_MAX))),
        "threshold_normal": (4, _threshold),
        "threshold_emergency": (5, _threshold),
        "emergency_groups": (9, _groups),
        "emergency_profile": (8, _emergency),
        "actions": (11, _actions),
    }
    check.only(given, "obis", *makers)
    code = check.obis(given)
    return [
        AttributeSetting(AttributeRef(LIMITER, code, attribute), make(given[name], name))
        for name, (attribute, make) in makers.items()
        if name in given
    ]


def _threshold(value: object, path: str) -> Data | int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return check.value(value, path)


def _groups(value: object, path: str) -> Data:
    found = check.members(value, path, 0, GROUPS_MAX)
    return axdr.array(axdr.u16(check.number(one, f"{path}[{at}]", 0, U16_MAX)) for at, one in enumerate(found))


def _emergency(value: object, path: str) -> Data:
    found = check.record(value, path, ("id", "from", "duration_s"))
    return axdr.structure(
        axdr.u16(check.number(found["id"], f"{path}.id", 0, U16_MAX)),
        axdr.octets(date_time(found["from"], f"{path}.from").emit()),
        axdr.u32(check.number(found["duration_s"], f"{path}.duration_s", 0, U32_MAX)),
    )


def _actions(value: object, path: str) -> Data:
    found = check.record(value, path, ("over", "under"))
    return axdr.structure(*(_script(found[name], f"{path}.{name}") for name in ("over", "under")))


def _script(value: object, path: str) -> Data:
    found = check.record(value, path, ("table", "script"))
    return axdr.structure(
        axdr.octets(check.at(f"{path}.table", Obis.parse, check.text(found, "table")).code),
        axdr.u16(check.number(found["script"], f"{path}.script", 0, U16_MAX)),
    )


plan_limiter = _plan(_limiter)

# ------------------------------------------------------------------------------------------------ clock parameters


def check_clock_parameters(given: dict[str, object]) -> Checked:
    """Class 8 (BB 4.5.1): time zone, and when daylight saving begins and ends."""
    wanted = {"obis": CLOCK_CODE} | given
    code = check.obis(wanted)
    if not _clock_parameters(wanted):
        raise OrderRefusedError("nothing is to be set")
    return wanted, check.needed(CLOCK, code)


def _clock_parameters(given: Mapping[str, object]) -> list[AttributeSetting]:
    makers: dict[str, tuple[int, Callable[[object, str], Data]]] = {
        "time_zone_min": (3, lambda value, at: axdr.i16(check.number(value, at, -ZONE_MIN_MAX, ZONE_MIN_MAX))),
        "dst_begin": (5, lambda value, path: axdr.octets(date_time(value, path).emit())),
        "dst_end": (6, lambda value, path: axdr.octets(date_time(value, path).emit())),
        "dst_deviation_min": (7, lambda value, at: axdr.i8(check.number(value, at, -DST_MIN_MAX, DST_MIN_MAX))),
        "dst_enabled": (8, lambda _value, path: axdr.boolean(check.flag(given, path))),
    }
    check.only(given, "obis", *makers)
    code = check.obis(given)
    return [
        AttributeSetting(AttributeRef(CLOCK, code, attribute), make(given[name], name))
        for name, (attribute, make) in makers.items()
        if name in given
    ]


plan_clock_parameters = _plan(_clock_parameters)


def date_time(value: object, path: str) -> CosemDateTime:
    """`2027-01-01T00:00`, in the meter's local time, or with wildcards as `****-DB-LDT02:00`, or `unspecified`."""
    if value == "unspecified":
        return CosemDateTime()
    if not isinstance(value, str) or value.count("T") != 1:
        raise OrderRefusedError(f"{path}: a time as 2027-01-01T00:00 or ****-DB-LDT02:00 is expected")
    day_text, time_text = value.split("T")
    day, time = check.at(path, CosemDate.of, day_text), check.at(path, CosemTime.of, time_text)
    in_range(day, path)
    if time.hour not in (*range(24), 0xFF) or any(
        part not in (*range(60), 0xFF) for part in (time.minute, time.second)
    ):
        raise OrderRefusedError(f"{path}: there is no such time of the day")
    return CosemDateTime(
        day.year, day.month, day.day, day.day_of_week, time.hour, time.minute, time.second, time.hundredths
    )


def in_range(day: CosemDate, path: str) -> None:
    """Refuse months and days that no year has."""
    whole = day.year != 0xFFFF and day.month <= 12 and day.day <= 31
    if day.month == 0 or 12 < day.month < 0xFD or day.day == 0 or 31 < day.day < 0xFD or (whole and day.date() is None):
        raise OrderRefusedError(f"{path}: there is no such day")


# ---------------------------------------------------------------------------------------------------- display lists


def check_display(given: dict[str, object]) -> Checked:
    """What a display shows is a readout list: capture_objects of class 7 (BB 4.3.6, 6.2.42). The standard has no class
    for how it is shown."""
    wanted = {"obis": DISPLAY_LIST} | given
    code = check.obis(wanted)
    _display(wanted)
    if code.code[2] in _BUFFERED:
        raise OrderRefusedError("obis: setting the columns of this profile would empty it; it is no display list")
    return wanted, check.needed(PROFILE, code)


def _display(given: Mapping[str, object]) -> list[AttributeSetting]:
    check.only(given, "obis", "captures")
    captures = check.members(given.get("captures"), "captures", 1, CAPTURES_MAX)
    columns = [_capture(capture, f"captures[{at}]") for at, capture in enumerate(captures)]
    return [AttributeSetting(AttributeRef(PROFILE, check.obis(given), 3), axdr.array(columns))]


def _capture(value: object, path: str) -> Data:
    """`3/1.0.1.8.0.255/2`, or `{"code": …, "index": 1}` for one member of a structure."""
    index = 0
    if isinstance(value, dict):
        found = check.record(value, path, ("code", "index"))
        index, value = check.number(found["index"], f"{path}.index", 0, U16_MAX), found["code"]
    ref = check.attribute(value, path)
    return axdr.structure(axdr.u16(ref.class_id), axdr.octets(ref.obis.code), axdr.i8(ref.attribute), axdr.u16(index))


plan_display = _plan(_display)


FUNCTIONS: Mapping[OrderType, TypeFunctions] = {
    OrderType.LIMITER: TypeFunctions(check_limiter, plan_limiter),
    OrderType.CLOCK_PARAMETERS: TypeFunctions(check_clock_parameters, plan_clock_parameters),
    OrderType.DISPLAY: TypeFunctions(check_display, plan_display),
}
