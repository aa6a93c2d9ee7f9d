"""Profile Generic (class 7; BB 4.3.6): captured columns, selection of rows, and decoding of rows to typed values.

A buffer is an array of structures that nearly always have the same shape, octet for octet. The shape of a row is
therefore learned once, runs of rows with that shape are unpacked in one go, and only a row of a new shape is decoded
member by member.

A value in a row is what `Data.value` would be (int, bool, float, bytes, str, None, tuple), except in the clock's
column: there it is a `datetime` in UTC where the clock policy gives one, else a `CosemDateTime`. `RowDecoder.typed`
gives the type of each value as well, by the same rules.

Cells may be relative to the row before: null-data stands for the same value, or for the time one capture period later
(earlier where the newest row comes first);
a delta type is added to the value in the row before, and the sum has that value's type. A cell is `UNRESOLVED` when the
value before is not known or is no integer, or when the sum is out of the range of its type. For the first row of an
answer, the row before is the one given to `RowDecoder.resume`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

from dlms import axdr
from dlms.axdr import DATE_TIME_OCTETS, Data, Tag
from dlms.cosem.obis import AttributeRef, Obis, Selection
from dlms.cosem.time import ANY, DEVIATION_UNKNOWN, STANDARD_CLOCK, ClockPolicy, CosemDateTime
from dlms.cursor import Cursor
from dlms.errors import DecodeError, LocalError

PROFILE_CLASS = 7
BUFFER, CAPTURE_OBJECTS, CAPTURE_PERIOD, SORT_METHOD, SORT_OBJECT, ENTRIES_IN_USE, ENTRIES = range(2, 9)
FIFO, LIFO = 1, 2  # sort methods: the oldest row first, the newest row first
CLOCK_CLASS, CLOCK_ATTRIBUTE = 8, 2
BEGIN_OF_TIME = CosemDateTime(1970, 1, 1, ANY, 0, 0, 0, 0)  # before and after every row, for a range
END_OF_TIME = CosemDateTime(2099, 12, 31, ANY, 23, 59, 59, 0)
CLOCK_OBIS = Obis.parse("0.0.1.0.0.255")
SELECT_RANGE, SELECT_ENTRY = 1, 2
SHAPES_MAX = 16  # shapes remembered for one buffer; rows of further shapes are decoded member by member
COLUMNS_MAX = 1024
LOOK_AHEAD_MIN = 64  # rows compared with a shape at a time; it grows with the runs, so that short runs stay cheap


class Unresolved(Enum):
    """The type of `UNRESOLVED`."""

    UNRESOLVED = "unresolved"

    def __str__(self) -> str:
        return self.value


UNRESOLVED: Final = Unresolved.UNRESOLVED  # a cell that is relative to something that is not known

Cell = axdr.Value | datetime | CosemDateTime | Unresolved
Row = tuple[Cell, ...]
TypedRow = tuple[Data | Unresolved, ...]
_RawCell = axdr.Value | Unresolved
_RawRow = tuple[_RawCell, ...]


@dataclass(frozen=True, slots=True)
class CaptureObject:
    """One column: an attribute, or a part of it where `data_index` is not 0."""

    ref: AttributeRef
    data_index: int = 0

    @property
    def is_clock(self) -> bool:
        return self.ref.class_id == CLOCK_CLASS and self.ref.attribute == CLOCK_ATTRIBUTE

    def data(self) -> Data:
        """Encode as capture_object_definition."""
        ref = self.ref
        return axdr.structure(
            axdr.u16(ref.class_id), axdr.octets(ref.obis.code), axdr.i8(ref.attribute), axdr.u16(self.data_index)
        )

    @classmethod
    def of(cls, data: Data) -> CaptureObject:
        """Decode a capture_object_definition. Raises `LocalError` when it is something else."""
        members = data.members()
        if len(members) != 4:
            raise LocalError(f"a capture object has four members, not {len(members)}")
        class_id, name, attribute, index = members
        ref = AttributeRef(class_id.integer(), Obis(name.octets()), attribute.integer())
        return cls(ref, index.integer())


def row_step_s(sort_method: int, period_s: int) -> int:
    """Return by how many seconds a row is later than the one in front of it, where rows follow each other: the capture
    period for FIFO, its negative for LIFO, 0 (not known) for buffers that are sorted by something."""
    return {FIFO: period_s, LIFO: -period_s}.get(sort_method, 0)


def columns_of(data: Data) -> tuple[CaptureObject, ...]:
    """Decode `capture_objects`. Raises `DecodeError` when the value is something else."""
    try:
        columns = tuple([CaptureObject.of(member) for member in data.members()])
    except LocalError as error:
        raise DecodeError("capture objects", 0, str(error)) from error
    if len(columns) > COLUMNS_MAX:
        raise DecodeError("capture objects", 0, f"more than {COLUMNS_MAX} columns")
    return columns


# --------------------------------------------------------------------------------------------------------- selection


def by_range(column: CaptureObject, first: Data, last: Data, wanted: Iterable[CaptureObject] = ()) -> Selection:
    """Select rows whose `column` lies between `first` and `last`, inclusive; all columns, or the `wanted` ones."""
    selected = axdr.array([capture.data() for capture in wanted])
    return Selection(SELECT_RANGE, axdr.structure(column.data(), first, last, selected))


def by_entry(first: int, last: int = 0, first_column: int = 1, last_column: int = 0) -> Selection:
    """Select rows `first` to `last` and columns likewise, counted from 1 in the buffer's order; 0 means to the end."""
    return Selection(
        SELECT_ENTRY,
        axdr.structure(axdr.u32(first), axdr.u32(last), axdr.u16(first_column), axdr.u16(last_column)),
    )


# -------------------------------------------------------------------------------------------------------------- rows

_FORMATS: dict[int, str] = {
    Tag.BOOLEAN: "?", Tag.DOUBLE_LONG: "i", Tag.DOUBLE_LONG_UNSIGNED: "I", Tag.BCD: "B", Tag.INTEGER: "b",
    Tag.LONG: "h", Tag.UNSIGNED: "B", Tag.LONG_UNSIGNED: "H", Tag.LONG64: "q", Tag.LONG64_UNSIGNED: "Q",
    Tag.ENUM: "B", Tag.FLOAT32: "f", Tag.FLOAT64: "d", Tag.DELTA_INTEGER: "b", Tag.DELTA_LONG: "h",
    Tag.DELTA_DOUBLE_LONG: "i", Tag.DELTA_UNSIGNED: "B", Tag.DELTA_LONG_UNSIGNED: "H",
    Tag.DELTA_DOUBLE_LONG_UNSIGNED: "I",
}  # fmt: skip
DELTAS = frozenset(range(Tag.DELTA_INTEGER, Tag.DELTA_DOUBLE_LONG_UNSIGNED + 1))
# The types that a delta may be added to, with their range. Not BCD, which counts in digits, and not enumerations.
_RANGES: dict[int, range] = {
    Tag.INTEGER: range(-(1 << 7), 1 << 7), Tag.UNSIGNED: range(1 << 8),
    Tag.LONG: range(-(1 << 15), 1 << 15), Tag.LONG_UNSIGNED: range(1 << 16),
    Tag.DOUBLE_LONG: range(-(1 << 31), 1 << 31), Tag.DOUBLE_LONG_UNSIGNED: range(1 << 32),
    Tag.LONG64: range(-(1 << 63), 1 << 63), Tag.LONG64_UNSIGNED: range(1 << 64),
}  # fmt: skip
_FIXED_STRINGS = {int(Tag.DATE_TIME): 12, int(Tag.DATE): 5, int(Tag.TIME): 4}
_SHORT_LENGTH = 0x80


@dataclass(frozen=True, slots=True)
class _Shape:
    """The shape of a row: `size` octets, with fixed octets (tags, counts, lengths) at `marks`, pairs (offset, octet).

    `tags` are those of all columns. `nulls` are the columns that hold null-data, which has no octets after its tag;
    `deltas` those of a delta type.
    """

    layout: struct.Struct
    marks: tuple[tuple[int, int], ...]
    tags: tuple[int, ...]
    nulls: tuple[int, ...]
    deltas: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.layout.size

    def run(self, data: bytes, start: int, rows_max: int) -> int:
        """How many consecutive rows from offset `start` on have this shape, at most `rows_max`."""
        size = self.size
        rows = min((len(data) - start) // size, rows_max)
        for offset, octet in self.marks:
            column = data[start + offset : start + rows * size : size]
            if column.count(octet) != rows:
                rows = len(column) - len(column.lstrip(bytes((octet,))))
            if not rows:
                break
        return rows


class RowDecoder:
    """Decodes the rows of one profile.

    The clock's column is found in `columns`. `period_s` is by how many seconds a row is later than the one in front of
    it (`row_step_s`): it gives the times that the meter leaves out (null-data).
    """

    def __init__(
        self, columns: tuple[CaptureObject, ...], policy: ClockPolicy = STANDARD_CLOCK, period_s: int = 0
    ) -> None:
        self._columns = columns
        self._clock = next((at for at, column in enumerate(columns) if column.is_clock), None)
        self._policy = policy
        self._period_s = period_s
        self._shapes: list[_Shape] = []
        self._look_ahead = LOOK_AHEAD_MIN
        self._before: _RawRow = ()  # the row before, after nulls and deltas were resolved
        self._tags: tuple[int, ...] = ()  # its types; without meaning where a cell is `UNRESOLVED`
        self.last_clock: bytes | None = None  # the last clock value decoded, as the meter wrote it

    def restart(self) -> None:
        """Start a new buffer: its first row does not follow from the last one. Learned shapes are kept."""
        self._before = ()
        self._tags = ()

    def resume(self, row: TypedRow | None, clock: bytes = b"") -> None:
        """Say which row the next one follows directly.

        `None` stands for a row of which nothing is known but its `clock` (the 12 octets, as the meter wrote them), or
        not even that. A cell that is relative to something unknown is `UNRESOLVED`.
        """
        if row is None:
            row = (UNRESOLVED,) * len(self._columns)
            if self._clock is not None and len(clock) == DATE_TIME_OCTETS:
                row = (*row[: self._clock], axdr.octets(clock), *row[self._clock + 1 :])
        self._before = tuple([cell if isinstance(cell, Unresolved) else cell.value for cell in row])
        self._tags = tuple([Tag.NULL if isinstance(cell, Unresolved) else cell.tag for cell in row])

    def typed(self, data: Data) -> list[TypedRow]:
        """The rows of a buffer that was decoded already, each cell with its type, times as the meter wrote them.

        The first row follows what `restart` or `resume` said. Raises `DecodeError` when a row does not fit the columns.
        """
        return [
            tuple([
                cell if isinstance(cell, Unresolved) else Data(tag, cell)
                for cell, tag in zip(row, self._tags, strict=True)
            ])
            for row in self._fitting(data)
        ]  # fmt: skip

    def _fitting(self, data: Data) -> Iterator[_RawRow]:
        for row in self._members(data):
            cells = self._cells(row, Cursor(b"", "profile buffer"))
            if len(cells) != len(self._columns):
                raise DecodeError("profile buffer", 0, f"{len(cells)} cells for {len(self._columns)} columns")
            yield cells

    def decode(self, data: bytes) -> list[Row]:
        """Decode a whole encoded buffer. Raises `DecodeError`."""
        self.restart()
        cursor = Cursor(data, "profile buffer")
        if cursor.peek() != Tag.ARRAY:
            return self.rows_of(axdr.decode(data, "profile buffer"))
        cursor.u8()
        count = cursor.length()
        if count > cursor.remaining:
            raise cursor.error(f"{count} rows cannot fit the {cursor.remaining} octets that are left")
        rows: list[Row] = []
        while len(rows) < count:
            rows.extend(self.decode_run(data, cursor, count - len(rows)))
        cursor.check_end()
        return rows

    def decode_run(self, data: bytes, cursor: Cursor, rows_max: int) -> Iterator[Row]:
        """Take one or more rows from `cursor`: a run of a known shape, or one row, whose shape is learned.

        Raises `DecodeError`; nothing has been taken then.
        """
        rows_max = min(rows_max, self._look_ahead)
        for at, shape in enumerate(self._shapes):
            count = shape.run(data, cursor.pos, rows_max)
            if count:
                if at:
                    self._shapes.insert(0, self._shapes.pop(at))
                self._look_ahead = max(LOOK_AHEAD_MIN, 4 * count)
                rows = list(shape.layout.iter_unpack(cursor.take(count * shape.size)))
                if shape.nulls or shape.deltas:
                    return self._finish([self._recovered(row, shape.tags, shape.nulls, shape.deltas) for row in rows])
                self._before, self._tags = rows[-1], shape.tags
                return self._finish(rows)
        start = cursor.pos
        row = axdr.read(cursor)
        learned = _shape_of(data[start : cursor.pos])
        if learned is not None and len(self._shapes) < SHAPES_MAX:
            self._shapes.insert(0, learned)
        return self._finish([self._cells(row, cursor)])

    def _cells(self, row: Data, cursor: Cursor) -> _RawRow:
        if row.tag not in (Tag.STRUCTURE, Tag.ARRAY):
            raise cursor.error(f"a row with tag {row.tag}")
        members = row.members()
        tags = tuple([member.tag for member in members])
        return self._recovered(
            tuple([member.value for member in members if member.tag != Tag.NULL]),
            tags,
            tuple([at for at, tag in enumerate(tags) if tag == Tag.NULL]),
            tuple([at for at, tag in enumerate(tags) if tag in DELTAS]),
        )

    def _recovered(
        self, present: _RawRow, tags: tuple[int, ...], nulls: tuple[int, ...], deltas: tuple[int, ...]
    ) -> _RawRow:
        """Resolve the nulls and deltas of a row; `present` holds its cells without the nulls."""
        cells, types = list(present), list(tags)
        before, types_before = self._before, self._tags
        for at in nulls:  # ascending, so that each index is right when its turn comes
            if at >= len(before):  # the first row of all: nothing that it could be relative to, so null-data it is
                cells.insert(at, None)
                continue
            cells.insert(at, self._later(before[at]) if at == self._clock else before[at])
            types[at] = types_before[at]
        for at in deltas:
            base, step = before[at] if at < len(before) else UNRESOLVED, cells[at]
            types[at] = types_before[at] if at < len(before) else Tag.NULL
            known = types[at] in _RANGES and isinstance(base, int) and isinstance(step, int)
            total = base + step if known and isinstance(base, int) and isinstance(step, int) else None
            cells[at] = total if total is not None and total in _RANGES[types[at]] else UNRESOLVED
        self._before, self._tags = tuple(cells), tuple(types)
        return self._before

    def _later(self, clock: _RawCell) -> _RawCell:
        """The time one row after `clock`, in the meter's own terms."""
        if clock is None or not isinstance(clock, bytes) or len(clock) != DATE_TIME_OCTETS or not self._period_s:
            return UNRESOLVED
        later = CosemDateTime.parse(clock).later(self._period_s)
        return UNRESOLVED if later is None else later.emit()

    def rows_of(self, data: Data) -> list[Row]:
        """The rows of a buffer decoded by A-XDR: a compact array, or null-data for an empty buffer."""
        cursor = Cursor(b"", "profile buffer")
        return list(self._finish([self._cells(row, cursor) for row in self._members(data)]))

    @staticmethod
    def _members(data: Data) -> tuple[Data, ...]:
        if data.value is None:
            return ()
        try:
            return data.members()
        except LocalError as error:
            raise DecodeError("profile buffer", 0, "neither array nor compact array") from error

    def _finish(self, rows: Iterable[_RawRow]) -> Iterator[Row]:
        clock = self._clock
        if clock is None:
            return iter(rows)
        return self._timed(rows, clock)

    def _timed(self, rows: Iterable[_RawRow], clock: int) -> Iterator[Row]:
        instant = self._instant
        for row in rows:
            if clock < len(row):
                yield (*row[:clock], instant(row[clock]), *row[clock + 1 :])
            else:
                yield row

    def _instant(self, raw: _RawCell) -> Cell:
        if not isinstance(raw, bytes) or len(raw) != DATE_TIME_OCTETS:
            return raw
        self.last_clock = raw
        when = _plain_instant(raw) if self._policy is STANDARD_CLOCK else None
        if when is None:
            cosem = CosemDateTime.parse(raw)
            when = cosem.to_datetime(self._policy)
            if when is None:
                return cosem
        return when


class RowStream:
    """Decodes one buffer that arrives in pieces: each row as soon as it is complete.

    An incomplete row is tried again only when twice as many octets have arrived: otherwise a row as long as the buffer
    would cost time in the square of its length.
    """

    def __init__(self, decoder: RowDecoder) -> None:
        decoder.restart()
        self._decoder = decoder
        self._pieces: list[bytes] = []
        self._octets = 0  # in `_pieces`
        self._worth_octets = 0  # with fewer octets, decoding is not tried
        self._base = 0  # octets decoded before `_pieces`
        self._rows_due: int | None = None  # None until the count of the array has come

    def feed(self, piece: bytes) -> list[Row]:
        """Take a piece; return the rows that it completed."""
        self._pieces.append(piece)
        self._octets += len(piece)
        return self._rows() if self._octets >= self._worth_octets else []

    def finish(self) -> list[Row]:
        """Return the remaining rows after the last piece. Raises `DecodeError`."""
        rows = self._rows()
        data = b"".join(self._pieces)
        if self._rows_due is None:
            return self._decoder.rows_of(axdr.decode(data, "profile buffer"))
        cursor = Cursor(data, "profile buffer", self._base)
        if self._rows_due:
            axdr.read(cursor)
            raise cursor.error("no row of the profile")
        cursor.check_end()
        return rows

    def _rows(self) -> list[Row]:
        data = b"".join(self._pieces)
        cursor = Cursor(data, "profile buffer", self._base)
        rows: list[Row] = []
        done = 0
        try:
            if self._rows_due is None and cursor.peek() == Tag.ARRAY:
                cursor.u8()
                self._rows_due = cursor.length()
                done = cursor.pos
            while self._rows_due:
                found = list(self._decoder.decode_run(data, cursor, self._rows_due))
                self._rows_due -= len(found)
                rows += found
                done = cursor.pos
        except DecodeError:
            pass  # incomplete or malformed: `finish` tells which
        self._base += done
        self._pieces = [data[done:]]
        self._octets = len(data) - done
        self._worth_octets = 2 * self._octets
        return rows


_TIME = struct.Struct(">HBBxBBBBhB")
_MINUTES = {minutes: timedelta(minutes=minutes) for minutes in range(-840, 841, 15)}


def _plain_instant(raw: bytes) -> datetime | None:
    """Fast path: the instant by the standard clock policy if no field is special; None: parse it in full."""
    year, month, day, hour, minute, second, hundredths, deviation, _status = _TIME.unpack(raw)
    if deviation == DEVIATION_UNKNOWN or hundredths not in (0, 0xFF):
        return None
    try:
        when = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        return when if not deviation else when + (_MINUTES.get(deviation) or timedelta(minutes=deviation))
    except (ValueError, OverflowError):
        return None


def _shape_of(row: bytes) -> _Shape | None:
    """The shape of one encoded row; None when it holds anything but numbers and short octet-strings."""
    cursor = Cursor(row, "profile row")
    if cursor.u8() != Tag.STRUCTURE or cursor.peek() >= _SHORT_LENGTH:
        return None
    marks = [(0, row[0]), (1, row[1])]
    layout = [">xx"]
    tags: list[int] = []
    nulls: list[int] = []
    deltas: list[int] = []
    for at in range(cursor.u8()):
        marks.append((cursor.pos, cursor.peek()))
        tag = cursor.u8()
        tags.append(tag)
        layout.append("x")
        number = _FORMATS.get(tag)
        if number is not None:
            layout.append(number)
            if tag in DELTAS:
                deltas.append(at)
            cursor.take(struct.calcsize(">" + number))
        elif tag in _FIXED_STRINGS:
            layout.append(f"{_FIXED_STRINGS[tag]}s")
            cursor.take(_FIXED_STRINGS[tag])
        elif tag == Tag.OCTET_STRING and cursor.peek() < _SHORT_LENGTH:
            marks.append((cursor.pos, cursor.peek()))
            size = cursor.u8()
            layout.append(f"x{size}s")
            cursor.take(size)
        elif tag == Tag.NULL:
            nulls.append(at)
        else:
            return None
    return _Shape(struct.Struct("".join(layout)), tuple(marks), tuple(tags), tuple(nulls), tuple(deltas))
