"""Values as a person or a program wants them: scaled, with a unit, times as times."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from dlms.axdr import Data, Tag
from dlms.axdr import Value as RawValue
from dlms.codes import UNITS
from dlms.cosem.obis import AttributeRef
from dlms.cosem.time import DATE_TIME_OCTETS, STANDARD_CLOCK, ClockPolicy, CosemDateTime
from dlms.session import Value

Presented = RawValue | Decimal | datetime | CosemDateTime

_TIMES = {(4, 5), (5, 6), (5, 7), (8, 2), (8, 5), (8, 6)}
"""Class and attribute of octet-strings that are date-times by definition."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One attribute, read. `value` is a `Decimal` with the scaler applied where there is one, a `datetime` in UTC for a
    time that has an instant, and otherwise what `Data.value` is. `quality` is "good", or what the meter itself says of
    a time: "doubtful", or "invalid".
    """

    ref: AttributeRef
    value: Presented
    unit: str
    raw: Data
    scaler: int | None = None
    unit_code: int | None = None
    quality: str = "good"


@dataclass(frozen=True, slots=True)
class Failed:
    """One attribute that could not be read: `error` is the meter's reason, as `object-undefined`."""

    ref: AttributeRef
    error: str


def present(ref: AttributeRef, value: Value, policy: ClockPolicy = STANDARD_CLOCK) -> Reading:
    """`value` of the attribute `ref` as a `Reading`."""
    data = value.data
    if value.scaler is not None:
        scaled = value.scaled()
        if scaled is not None:
            return Reading(ref, scaled, unit_symbol(value.unit), data, value.scaler, value.unit)
    time = _time(ref, data)
    if time is None:
        return Reading(ref, data.value, unit_symbol(value.unit), data, value.scaler, value.unit)
    when = time.to_datetime(policy)
    return Reading(ref, time if when is None else when, "", data, quality=_quality(time))


def _time(ref: AttributeRef, data: Data) -> CosemDateTime | None:
    raw = data.value
    if not isinstance(raw, bytes) or len(raw) != DATE_TIME_OCTETS:
        return None
    if data.tag == Tag.DATE_TIME or (ref.class_id, ref.attribute) in _TIMES:
        return CosemDateTime.parse(raw)
    return None


def _quality(time: CosemDateTime) -> str:
    if time.trustworthy:
        return "good"
    return "invalid" if time.status & 1 else "doubtful"


def unit_symbol(code: int | None) -> str:
    """The symbol of a unit code; "" for none, the number in brackets for an unknown one."""
    return "" if code is None else UNITS.get(code, f"[{code}]")
