"""Reads a profile over a line that may fail: yields rows as they complete, and requests the rest again."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Protocol

from dlms import axdr
from dlms.axdr import DATE_TIME_OCTETS
from dlms.client.reading import Failed, ItemFailed, Reading, unit_symbol
from dlms.client.services import MeterServices
from dlms.client.streaming import AnswerStream
from dlms.cosem.classes import attribute_type
from dlms.cosem.obis import AttributeRef, Obis, Selection
from dlms.cosem.profile import (
    BEGIN_OF_TIME,
    BUFFER,
    CAPTURE_OBJECTS,
    CAPTURE_PERIOD,
    END_OF_TIME,
    FIFO,
    LIFO,
    PROFILE_CLASS,
    SORT_METHOD,
    CaptureObject,
    Cell,
    Row,
    RowDecoder,
    RowStream,
    by_entry,
    by_range,
    columns_of,
    row_step_s,
)
from dlms.cosem.scaler_unit import ScalerUnit
from dlms.cosem.time import STANDARD_CLOCK, ClockPolicy, CosemDateTime
from dlms.errors import DlmsError, LinkError, LocalError
from dlms.xdlms.apdu.common import Item

FRUITLESS_MAX = 3  # failures in a row without a new row
ENTRIES_AGAIN = 16  # rows requested again by number: a full buffer may have dropped that many at its end meanwhile


@dataclass(frozen=True, slots=True)
class Column:
    """The meaning of one column. `policy` says how to read a time that is not the profile's clock."""

    capture: CaptureObject
    scaler: ScalerUnit | None
    policy: ClockPolicy = STANDARD_CLOCK

    @property
    def ref(self) -> AttributeRef:
        """The attribute that is captured."""
        return self.capture.ref

    def time_of(self, cell: bytes) -> bytes | datetime | CosemDateTime:
        """`cell` as a time where its attribute is one by its type, such as the time of a maximum."""
        kind = attribute_type(self.ref.class_id, self.ref.attribute)
        if kind is None or kind.name not in ("datetime", "date-time") or len(cell) != DATE_TIME_OCTETS:
            return cell
        time = CosemDateTime.parse(cell)
        return time.to_datetime(self.policy) or time

    @property
    def unit(self) -> str:
        """The symbol of the unit; "" for none."""
        return unit_symbol(None if self.scaler is None else self.scaler.unit)


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One row. `raw` has the cells unscaled; the clock's is a `datetime`."""

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
        """The cells; numbers with a unit are scaled `Decimal`s, times are times."""
        return tuple([_scaled(column, cell) for column, cell in zip(self.columns, self.raw, strict=False)])


def _scaled(column: Column, cell: Cell) -> Cell | Decimal:
    if type(cell) is bytes:
        return column.time_of(cell)
    if column.scaler is None or (type(cell) is not int and type(cell) is not float):
        return cell
    return column.scaler.scaled(cell)


class _YieldedRows:
    """The rows yielded so far: how many, their digests, and the clock value of the last, as the meter wrote it."""

    def __init__(self) -> None:
        self.rows = 0
        self.clock: bytes | None = None
        self._digests = array("Q")

    def note(self, digest: int, clock: bytes | None) -> None:
        self.rows += 1
        self.clock = clock
        self._digests.append(digest)

    def counted(self, rows: int) -> Counter[int]:
        """How often each of the last `rows` was yielded. Rows can be equal: two events in a second, or no clock."""
        return Counter(self._digests[max(0, self.rows - rows) :])


def _digest(raw: Row) -> int:
    """A digest to recognise a row by. 64 bits: `hash` may have 32, and a year of rows would soon have two alike."""
    return int.from_bytes(blake2b(repr(raw).encode(), digest_size=8).digest(), "big")


class ProfileMeter(MeterServices, Protocol):
    """A meter that can deliver long answers in pieces."""

    @property
    def columns(self) -> dict[Obis, tuple[tuple[Column, ...], int, int]]:
        """Columns, capture period in seconds, and sort method of the profiles read so far."""

    def stream(self, item: Item) -> AnswerStream:
        """One attribute's encoded value in pieces, as they arrive."""


@dataclass(frozen=True, slots=True)
class _RowRange:
    """The rows asked for: by time, by entry, or all."""

    clock: CaptureObject | None
    since: datetime | None
    until: datetime | None
    entries: tuple[int, int] | None
    policy: ClockPolicy
    sort_method: int

    @property
    def by_clock(self) -> bool:
        return self.since is not None or self.until is not None

    def selection(self, given: _YieldedRows, *, by_clock: bool) -> Selection | None:
        """The selection to request. After a failure it is narrower, but overlaps what has been read: rows that come
        again are recognised by their contents."""
        if not by_clock or self.clock is None:
            first, last = self.entries or (1, 0)
            if not given.rows and self.entries is None:
                return None
            return by_entry(first + max(0, given.rows - ENTRIES_AGAIN), last)
        low = given.clock if self.sort_method == FIFO else None
        high = given.clock if self.sort_method == LIFO else None
        low = low or (BEGIN_OF_TIME.emit() if self.since is None else self._low(self.since))
        high = high or (END_OF_TIME.emit() if self.until is None else self._high(self.until))
        return by_range(self.clock, axdr.octets(low), axdr.octets(high))

    def _low(self, when: datetime) -> bytes:
        return CosemDateTime.from_instant(when, self.policy).emit()

    def _high(self, when: datetime) -> bytes:
        return CosemDateTime.from_instant(when, self.policy, dst=self._vague).emit()

    @property
    def _vague(self) -> bool:
        """Whether the meter knows only local time. Whether daylight saving holds at a limit is then unknown, so an hour
        more is requested and surplus rows are left out here."""
        return self.policy.deviation_sign == 0 and self.policy.utc_offset_minutes is not None

    def has(self, row: ProfileRow) -> bool:
        """Whether the row is one of those asked for."""
        time = row.time if self._vague else None
        if time is None:
            return True
        return not (
            (self.since is not None and self.since.tzinfo is not None and time < self.since)
            or (self.until is not None and self.until.tzinfo is not None and time > self.until)
        )


def read_profile(
    meter: ProfileMeter, obis: Obis, since: datetime | None, until: datetime | None, entries: tuple[int, int] | None
) -> Iterator[ProfileRow]:
    """Yield the rows of the profile `obis` in the meter's order: between two instants, or by entry from 1, or all.

    Each row is yielded as soon as the block that completes it has arrived. After a failure of the line the rest is
    requested again; after `FRUITLESS_MAX` failures in a row without a new row, the last one is raised. Raises
    `ItemFailed` when the meter refuses, and `LocalError` for a selection that the profile does not allow.
    """
    if entries is not None and (since is not None or until is not None):
        raise LocalError("rows are chosen by time or by entry, not by both")
    columns, period_s, sort_method = _columns(meter, obis)
    clock = next((column.capture for column in columns if column.capture.is_clock), None)
    if clock is None and (since is not None or until is not None):
        raise LocalError(f"profile {obis} has no clock to choose by")
    captures = tuple([column.capture for column in columns])
    decoder = RowDecoder(captures, meter.policy, row_step_s(sort_method, period_s))
    wanted = _RowRange(clock, since, until, entries, meter.policy, sort_method)
    by_clock = wanted.by_clock
    ref = AttributeRef(PROFILE_CLASS, obis, BUFFER)
    given = _YieldedRows()
    fruitless = 0
    while True:
        before, again = given.rows, given.counted(given.rows if by_clock else ENTRIES_AGAIN)
        try:
            for raw in _rows(meter, Item(ref, wanted.selection(given, by_clock=by_clock)), decoder):
                digest = _digest(raw)
                if again[digest]:
                    again[digest] -= 1
                    continue
                given.note(digest, decoder.last_clock)
                row = ProfileRow(columns, raw)
                if wanted.has(row):
                    yield row
        except LinkError as error:
            failure: DlmsError = error
        except ItemFailed as error:
            failure = error
            if given.rows == before:
                if by_clock or clock is None or entries is not None or not given.rows:
                    raise
                by_clock = True  # the meter may not support selection by entry, but by clock
        else:
            return
        fruitless = fruitless + 1 if given.rows == before else 0
        if fruitless >= FRUITLESS_MAX:
            raise failure
        if fruitless:
            meter.pause()


def _rows(meter: ProfileMeter, item: Item, decoder: RowDecoder) -> Iterator[Row]:
    """The rows of one answer, each as soon as it is complete."""
    stream = meter.stream(item)
    rows = RowStream(decoder)
    try:
        for piece in stream:
            yield from rows.feed(piece)
        yield from rows.finish()
    finally:
        stream.close()


def _columns(meter: ProfileMeter, obis: Obis) -> tuple[tuple[Column, ...], int, int]:
    """Columns with their scalers, capture period in seconds, sort method; read from the meter once per `Meter`."""
    found = meter.columns.get(obis)
    if found is None:
        refs = [AttributeRef(PROFILE_CLASS, obis, number) for number in (CAPTURE_OBJECTS, CAPTURE_PERIOD, SORT_METHOD)]
        described, period, sort_method = meter.read_many(refs)
        if isinstance(described, Failed):
            raise ItemFailed(described.ref, described.error)
        captures = columns_of(described.raw)
        scalers = meter.scalers([capture.ref for capture in captures])
        columns = tuple([Column(capture, scalers.get(capture.ref), meter.policy) for capture in captures])
        found = meter.columns[obis] = columns, _number(period, 0), _number(sort_method, FIFO)
    return found


def _number(result: Reading | Failed, otherwise: int) -> int:
    value = None if isinstance(result, Failed) else result.raw.value
    return value if isinstance(value, int) else otherwise
