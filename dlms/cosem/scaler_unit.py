"""Scaler and unit of the registers (BB 4.3.2 to 4.3.4): which attribute holds them, and what they make of a value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from dlms.axdr import Data
from dlms.cosem.obis import AttributeRef

if TYPE_CHECKING:
    from decimal import Decimal

SHARED_MAX = 1024  # references, and scalers, that are one object for all meters

_SCALER_OF: dict[int, tuple[frozenset[int], int]] = {
    3: (frozenset({2}), 3),  # Register: value; scaler_unit
    4: (frozenset({2}), 3),  # Extended Register
    5: (frozenset({2, 3}), 4),  # Demand Register: current and last average
}
"""By class: the attributes that are scaled, and the attribute with scaler and unit (BB 4.3.2 to 4.3.4)."""


@dataclass(frozen=True, slots=True)
class ScalerUnit:
    """scal_unit_type: the value is raw x 10^`scaler`, in the unit with the code `unit` (`dlms.cosem.units`)."""

    scaler: int
    unit: int

    def scaled(self, raw: int | float) -> Decimal | float:  # noqa: PYI041 - a float is multiplied, an int is exact
        """`raw` with the scaler applied; exact unless `raw` is a float."""
        if isinstance(raw, float):
            return raw * 10.0**self.scaler
        from decimal import Decimal  # not at the top: who stores raw values never needs it

        return Decimal(raw).scaleb(self.scaler)


shared_scaler = lru_cache(SHARED_MAX)(ScalerUnit)
"""A `ScalerUnit` that is the same object for all that ask for it: the meters of a network have the same few."""


@lru_cache(SHARED_MAX)
def scaler_ref(ref: AttributeRef) -> AttributeRef | None:
    """The attribute that holds scaler and unit of `ref`; None when it has none."""
    found = _SCALER_OF.get(ref.class_id)
    if found is None or ref.attribute not in found[0]:
        return None
    return AttributeRef(ref.class_id, ref.obis, found[1])


def scaler_unit(data: Data) -> ScalerUnit | None:
    """Decode a scal_unit_type; None for anything else."""
    members = data.value
    if not isinstance(members, tuple) or len(members) != 2:
        return None
    scaler, unit = members[0].value, members[1].value
    if type(scaler) is not int or type(unit) is not int:
        return None
    return shared_scaler(scaler, unit)
