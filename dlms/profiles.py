"""Reads a profile over a line that may fail: rows as they are whole, and the rest asked for again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from dlms import axdr
from dlms.apdu.common import AccessError, Item, Selection
from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.profile import (
    BUFFER,
    CAPTURE_OBJECTS,
    CAPTURE_PERIOD,
    CaptureObject,
    Cell,
    Row,
    RowDecoder,
    by_entry,
    by_range,
    columns_of,
)
from dlms.cosem.time import CosemDateTime
from dlms.errors import LinkError, LocalError, PeerError
from dlms.exchange import GetAnswer
from dlms.knowledge import ScalerUnit
from dlms.reading import unit_symbol

if TYPE_CHECKING:
    from dlms.client import Meter

PROFILE_CLASS = 7
FRUITLESS_MAX = 3  # failures in a row that brought no new row
_END_OF_TIME = CosemDateTime(2099, 12, 31, 0xFF, 23, 59, 59, 0).emit()


@dataclass(frozen=True, slots=True)
class Column:
    """What one cell of a row is."""

    capture: CaptureObject
    scaler: ScalerUnit | None

    @property
    def ref(self) -> AttributeRef:
        return self.capture.ref

    @property
    def unit(self) -> str:
        return unit_symbol(None if self.scaler is None else self.scaler.unit)


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One row. `raw` are the cells as the meter counts them, the clock's as a `datetime`."""

    columns: tuple[Column, ...]
    raw: Row

    @property
    def time(self) -> datetime | None:
        """When the row was captured, in UTC, if the profile has a clock and its time is an instant."""
        for column, cell in zip(self.columns, self.raw, strict=False):
            if column.capture.is_clock:
                return cell if isinstance(cell, datetime) else None
        return None

    @property
    def values(self) -> tuple[Cell | Decimal, ...]:
        """The cells, numbers with a unit as `Decimal` with the scaler applied."""
        return tuple([_scaled(column, cell) for column, cell in zip(self.columns, self.raw, strict=False)])


def _scaled(column: Column, cell: Cell) -> Cell | Decimal:
    if column.scaler is None or type(cell) is not int:
        return cell
    return Decimal(cell).scaleb(column.scaler.scaler)


@dataclass(slots=True)
class _Place:
    """How far the reading has come: rows given, and the last one's clock, as the meter wrote it and as an instant."""

    rows: int = 0
    clock: bytes | None = None
    time: datetime | None = None


def read_profile(
    meter: Meter, obis: Obis, since: datetime | None, until: datetime | None, entries: tuple[int, int] | None
) -> Iterator[ProfileRow]:
    """See `Meter.profile`."""
    if entries is not None and (since is not None or until is not None):
        raise LocalError("rows are chosen by time or by entry, not by both")
    columns, period_s = _columns(meter, obis)
    decoder = RowDecoder(tuple([column.capture for column in columns]), meter.policy, period_s)
    clock = next((column.capture for column in columns if column.capture.is_clock), None)
    if clock is None and (since is not None or until is not None):
        raise LocalError(f"profile {obis} has no clock to choose by")
    place = _Place()
    fruitless = 0
    while True:
        selection = _selection(place, clock, since, until, entries)
        exchange = meter.reading(Item(AttributeRef(PROFILE_CLASS, obis, BUFFER), selection))
        failure: LinkError | None = None
        try:
            rows = decoder.decode(_buffer(obis, meter.request(exchange)))
        except LinkError as error:
            failure = error
            rows = decoder.decode_partial(exchange.partial)
        before = place.rows
        for row in rows:
            profile_row = ProfileRow(columns, row)
            if _is_new(place, profile_row):
                place.rows += 1
                place.time = profile_row.time or place.time
                yield profile_row
        place.clock = decoder.last_clock
        if failure is None:
            return
        fruitless = fruitless + 1 if place.rows == before else 0
        if fruitless >= FRUITLESS_MAX:
            raise failure


def _is_new(place: _Place, row: ProfileRow) -> bool:
    """After a failure the last row is asked for again, because a range includes its ends."""
    time = row.time
    return place.time is None or time is None or time > place.time


def _buffer(obis: Obis, answer: object) -> bytes:
    content = answer.single() if isinstance(answer, GetAnswer) else AccessError(250)
    if isinstance(content, AccessError):
        raise PeerError(f"profile {obis}: {content.text}")
    return content


def _selection(
    place: _Place,
    clock: CaptureObject | None,
    since: datetime | None,
    until: datetime | None,
    entries: tuple[int, int] | None,
) -> Selection | None:
    """What to ask for: the range or entries wanted, less what was given already."""
    if entries is not None:
        return by_entry(entries[0] + place.rows, entries[1])
    if clock is None or (since is None and until is None and place.clock is None):
        return by_entry(place.rows + 1) if place.rows else None
    first = place.clock or (CosemDateTime(1970, 1, 1) if since is None else CosemDateTime.from_datetime(since)).emit()
    last = _END_OF_TIME if until is None else CosemDateTime.from_datetime(until).emit()
    return by_range(clock, axdr.octets(first), axdr.octets(last))


def _columns(meter: Meter, obis: Obis) -> tuple[tuple[Column, ...], int]:
    """The columns with their scalers, and the capture period in seconds; asked for once a `Meter`."""
    found = meter.columns.get(obis)
    if found is None:
        captures = columns_of(meter.get(AttributeRef(PROFILE_CLASS, obis, CAPTURE_OBJECTS)))
        period = meter.get(AttributeRef(PROFILE_CLASS, obis, CAPTURE_PERIOD)).value
        scalers = meter.scalers([capture.ref for capture in captures])
        columns = tuple([Column(capture, scalers.get(capture.ref)) for capture in captures])
        found = meter.columns[obis] = columns, period if isinstance(period, int) else 0
    return found
