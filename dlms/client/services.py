"""The services that the parts above a session need of a meter, on a connection that is opened when needed.

`dlms.client.meter.Meter` provides them. Clock, security setup, image transfer and profile depend on this protocol, so
that they are below `Meter`, which composes them.
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
    """All methods raise `LinkError` when the line fails, `PeerError` or `DecodeError` for what the meter answers."""

    @property
    def policy(self) -> ClockPolicy:
        """How to read and write the meter's time."""

    def get(self, ref: AttributeRef, selection: Selection | None = None) -> Data:
        """Read one attribute as the meter sends it. Raises `ItemFailed` when the meter refuses."""

    def read(self, what: AttributeRef | Obis | str, attribute: int = 2) -> Reading:
        """Read one attribute, scaled. Raises `ItemFailed` when the meter refuses."""

    def read_many(self, what: Sequence[AttributeRef | Obis | str]) -> list[Reading | Failed]:
        """Read attributes; return a reading, or why there is none, for each in the order given."""

    def scalers(self, refs: Sequence[AttributeRef]) -> dict[AttributeRef, ScalerUnit]:
        """Scaler and unit of those of `refs` that have them."""

    def set(self, what: AttributeRef | Obis | str, value: object) -> None:
        """Write one attribute. Raises `ItemFailed` when the meter refuses."""

    def action(self, method: MethodRef | str, parameters: object = None) -> Result | None:
        """Call one method and return its result. Raises `ItemFailed` when the meter refuses."""

    def pause(self) -> None:
        """Wait a moment before a failed line is tried again."""
