"""From what people write to what an attribute takes: its type where the table leaves it open, its scaler undone."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from dlms.axdr import Data
from dlms.cosem.classes import attribute_type
from dlms.cosem.obis import AttributeRef
from dlms.cosem.scaler_unit import ScalerUnit
from dlms.cosem.types import ANY, TAGS, CosemType
from dlms.errors import LocalError, PeerError


def declared(ref: AttributeRef, version: int | None, present: Callable[[], Data]) -> CosemType:
    """The type to write `ref` in: that of the table, or that of the value it has at `present`."""
    kind = attribute_type(ref.class_id, ref.attribute, version)
    if kind is not None and kind.tag is not None:
        return kind
    try:
        tag = present().tag
    except PeerError:
        return ANY  # it cannot be read: what can be nothing else may still be written
    return next((CosemType(name) for name, known in TAGS.items() if known == tag), ANY)


def unscaled(value: object, scaler: ScalerUnit | None) -> object:
    """A number in the attribute's unit as the meter counts it, exactly. Raises `LocalError` when it cannot."""
    if not isinstance(value, int | Decimal) or isinstance(value, bool):
        return value
    raw = Decimal(value) if scaler is None else Decimal(value).scaleb(-scaler.scaler)
    if raw != raw.to_integral_value():
        step = Decimal(1).scaleb(scaler.scaler) if scaler is not None else 1
        raise LocalError(f"{value} is no multiple of {step}, the smallest step of the attribute")
    return int(raw)
