"""Values for people and programs: scaled, with a unit, times as times; and the way back, for writing."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from dlms.axdr import Data, Tag
from dlms.client.events import Value
from dlms.codes import DataAccessResult, kebab
from dlms.cosem import units
from dlms.cosem.obis import AttributeRef, MethodRef
from dlms.cosem.scaler_unit import ScalerUnit
from dlms.cosem.time import STANDARD_CLOCK, ClockPolicy, CosemDateTime
from dlms.errors import DlmsError, LocalError, PeerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlms.cosem.types import CosemType
    from dlms.cosem.values import Typed

    Presented = Typed | Decimal | datetime


@dataclass(frozen=True, slots=True)
class Reading:
    """One attribute, read.

    `value` is a scaled `Decimal` where there is a scaler; a `datetime` in UTC for a time that has an instant; for other
    attributes in the table of classes what `dlms.cosem.values` makes of them (structures are dicts with the names of
    the Blue Book); and `Data.value` for all others. `raw` is the value as it came. `quality` is "good", or what the
    meter itself says of a time: "doubtful" or "invalid".
    """

    ref: AttributeRef
    value: Presented
    unit: str
    raw: Data
    scaler: int | None = None
    quality: str = "good"


@dataclass(frozen=True, slots=True)
class Failed:
    """One attribute that could not be read.

    `error` is the meter's reason, such as `object-undefined`, or `session-failed` when the session ended before the
    attribute was read; `cause` then has the error.
    """

    ref: AttributeRef
    error: str
    cause: DlmsError | None = field(default=None, compare=False)


class ItemFailed(PeerError):
    """The meter refused one attribute or method.

    `what` is its reference; `code` the reason in the standard's spelling, such as `object-undefined`.
    """

    def __init__(self, what: AttributeRef | MethodRef, code: str) -> None:
        super().__init__(f"{what}: {code}")
        self.what = what
        self.code = code


class TemporaryFailure(ItemFailed):
    """The meter cannot do it now (temporary-failure); it may later."""


def refusal(what: AttributeRef | MethodRef, code: int, text: str) -> ItemFailed:
    """The error for a Data-Access-Result or an Action-Result; temporary failure has the same number in both."""
    temporary = code == DataAccessResult.TEMPORARY_FAILURE
    return TemporaryFailure(what, text) if temporary else ItemFailed(what, text)


def present(
    ref: AttributeRef, value: Value, policy: ClockPolicy = STANDARD_CLOCK, version: int | None = None
) -> Reading:
    """Make a `Reading` of the attribute `ref`. `version` is that of its interface class, if known."""
    data = value.data
    if value.scaler is not None:
        scaled = value.scaled()
        if scaled is not None:
            return Reading(ref, scaled, unit_symbol(value.unit), data, value.scaler)
        if isinstance(data.value, float):
            scaler = ScalerUnit(value.scaler, value.unit or 0)
            return Reading(ref, scaler.scaled(data.value), unit_symbol(value.unit), data, value.scaler)
    shown = _named(ref, data, version)
    if isinstance(shown, CosemDateTime):
        when = shown.to_datetime(policy)
        return Reading(ref, shown if when is None else when, "", data, quality=_quality(shown))
    shown = data.value if shown is data else shown
    return Reading(ref, shown, unit_symbol(value.unit), data, value.scaler)


def _named(ref: AttributeRef, data: Data, version: int | None) -> Typed:
    """Convert `data` by its declared type. The table is loaded on first use: most readings do not need it."""
    from dlms.cosem.classes import attribute_type
    from dlms.cosem.types import ANY, CosemType
    from dlms.cosem.values import typed

    kind = attribute_type(ref.class_id, ref.attribute, version)
    if kind is None or kind.tag is None:
        kind = CosemType(kebab(Tag(data.tag))) if data.tag in (Tag.DATE_TIME, Tag.DATE, Tag.TIME) else ANY
    return typed(kind, data)


def _quality(time: CosemDateTime) -> str:
    if time.trustworthy:
        return "good"
    return "invalid" if time.status & 1 else "doubtful"


def unit_symbol(code: int | None) -> str:
    """The symbol of a unit code; "" for no unit, the number in brackets for an unknown one."""
    if code is None:
        return ""
    known = units.symbol(code)
    return f"[{code}]" if known is None else known


def declared(ref: AttributeRef, version: int | None, present: Callable[[], Data]) -> CosemType:
    """The type to encode `ref` in: the declared one, or else that of its present value, which `present` reads."""
    from dlms.cosem.classes import attribute_type
    from dlms.cosem.types import ANY, TAGS, CosemType

    kind = attribute_type(ref.class_id, ref.attribute, version)
    if kind is not None and kind.tag is not None:
        return kind
    try:
        tag = present().tag
    except PeerError:
        return ANY  # it cannot be read: a value that has only one A-XDR type can still be written
    return next((CosemType(name) for name, known in TAGS.items() if known == tag), ANY)


def unscaled(value: object, scaler: ScalerUnit | None) -> object:
    """Remove the scaler: a number in the attribute's unit as the meter counts it. Raises `LocalError` if not exact."""
    if not isinstance(value, int | Decimal) or isinstance(value, bool):
        return value
    raw = Decimal(value) if scaler is None else Decimal(value).scaleb(-scaler.scaler)
    if raw != raw.to_integral_value():
        step = Decimal(1).scaleb(scaler.scaler) if scaler is not None else 1
        raise LocalError(f"{value} is no multiple of {step}, the smallest step of the attribute")
    return int(raw)
