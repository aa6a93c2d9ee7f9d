"""What the parts above a session ask of a meter: the services of xDLMS on one connection that opens by itself.

`dlms.client.meter.Meter` is one. The clock, the security setup, the image transfer and the profile are written against
this, so that they stand below `Meter`, which composes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dlms.axdr import Data
from dlms.client.reading import Failed, Reading
from dlms.cosem.obis import AttributeRef, MethodRef, Obis, Selection
from dlms.cosem.scaler_unit import ScalerUnit
from dlms.cosem.time import ClockPolicy
from dlms.xdlms.apdu.common import Result


class MeterServices(Protocol):
    """All methods raise `LinkError` when the line fails and `PeerError` or `DecodeError` for what the meter says."""

    @property
    def policy(self) -> ClockPolicy:
        """How to read and write the meter's time."""

    def get(self, ref: AttributeRef, selection: Selection | None = None) -> Data:
        """One attribute as the meter sends it. Raises `ItemFailed` when the meter refuses."""

    def read(self, what: AttributeRef | Obis | str, attribute: int = 2) -> Reading:
        """One attribute, scaled. Raises `ItemFailed` when the meter refuses."""

    def read_many(self, what: Sequence[AttributeRef | Obis | str]) -> list[Reading | Failed]:
        """A reading, or why there is none, per attribute, in the order given."""

    def scalers(self, refs: Sequence[AttributeRef]) -> dict[AttributeRef, ScalerUnit]:
        """Scaler and unit of those of `refs` that have them."""

    def set(self, what: AttributeRef | Obis | str, value: object) -> None:
        """Write one attribute. Raises `ItemFailed` when the meter refuses."""

    def action(self, method: MethodRef | str, parameters: object = None) -> Result | None:
        """Call one method; what it returned. Raises `ItemFailed` when the meter refuses."""

    def pause(self) -> None:
        """Give a line that failed a moment before it is tried again."""
