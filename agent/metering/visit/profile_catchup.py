"""The rows that a meter captured since it was last visited: how a gap is filled after an outage.

A reading list names a profile by its buffer (class 7, attribute 2). What is read is not the whole buffer but the rows
after the last known one, in windows that a slow line carries in a few seconds, at most `ROWS_PER_VISIT_MAX` per visit.
A long gap is made up over several runs. Rows are asked for in the meter's own terms: the lower end of the range is the
clock of the last row, octet for octet as the meter gave it. That clock is the *position* in the profile.

`ProfileReading` is sans-IO: `next_item` says what to ask for, `answer` takes what came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from dlms import axdr
from dlms.axdr import Data
from dlms.client.knowledge import MeterKnowledge
from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.profile import BUFFER, CAPTURE_OBJECTS, CAPTURE_PERIOD, CaptureObject, by_range, columns_of
from dlms.cosem.scaler_unit import scaler_ref
from dlms.cosem.time import ANY, DATE_TIME_OCTETS, ClockPolicy, CosemDateTime
from dlms.errors import DlmsError, LocalError
from dlms.xdlms.apdu.common import AccessError, Item, Result

PROFILE_CLASS = 7
ROWS_PER_WINDOW = 96  # a day of quarter-hours: some 4 kB, 5 s at 9600 baud
ROWS_PER_VISIT_MAX = 480
END_OF_TIME = CosemDateTime(2099, 12, 31, ANY, 23, 59, 59, 0)


@dataclass(frozen=True, slots=True)
class CapturedRow:
    """One row. `clock` is its time stamp as the meter gave it, 12 octets; `cells` are the other columns."""

    clock: bytes
    cells: tuple[tuple[AttributeRef, Data], ...]


class ProfileReading:
    """One profile in one visit.

    `position` is the clock of the last row in the store (12 octets). Where it is empty, rows since `first` are read.
    After the visit `position` is where to go on. `error` is set when the meter would not give the profile.
    """

    def __init__(self, obis: Obis, position: bytes, first: datetime) -> None:
        self.obis = obis
        self.position = position
        self.rows: list[CapturedRow] = []
        self.error = ""
        self._first = first
        self._columns: tuple[CaptureObject, ...] = ()
        self._period_s = 0
        self._now_local: datetime | None = None
        self._low: CosemDateTime | None = None
        self._high: CosemDateTime | None = None
        self._done = False

    @property
    def descriptors(self) -> tuple[AttributeRef, AttributeRef]:
        """The attributes that say what a row is: to be read first."""
        return self._ref(CAPTURE_OBJECTS), self._ref(CAPTURE_PERIOD)

    def describe(self, captures: Data | None, period: Data | None, meter_clock: CosemDateTime | None) -> None:
        """Take what the descriptors gave (`None` where the meter refused), and the meter's clock, where it was read."""
        try:
            self._columns = columns_of(captures) if captures is not None else ()
        except DlmsError:
            self._columns = ()
        if not any(column.is_clock for column in self._columns):
            self._fail("no-clock-column" if self._columns else "object-unavailable")
            return
        value = period.value if period is not None else None
        self._period_s = value if isinstance(value, int) and value > 0 else 0
        self._now_local = meter_clock.local() if meter_clock is not None else None
        first = CosemDateTime.from_datetime(self._first)
        try:
            self._low = CosemDateTime.parse(self.position) if self.position else first
        except DlmsError:  # a damaged position: begin where a first visit would
            self._low = first

    def unscaled(self, known: MeterKnowledge) -> list[AttributeRef]:
        """Return the columns whose scaler is not known yet; a read of their present value brings it."""
        refs = [column.ref for column in self._columns if not column.data_index]
        return [ref for ref in refs if (where := scaler_ref(ref)) is not None and where not in known.scalers]

    def next_item(self) -> Item | None:
        """Return the next window to ask for; `None` when there is nothing more to read in this visit."""
        clock = next((column for column in self._columns if column.is_clock), None)
        if self._done or clock is None or self._low is None:
            return None
        self._high = self._window_end(self._low)
        low, high = axdr.octets(self._low.emit()), axdr.octets((self._high or END_OF_TIME).emit())
        return Item(self._ref(BUFFER), by_range(clock, low, high))

    def answer(self, result: Result) -> None:
        """Take the rows of the window, or the reason why there are none."""
        if isinstance(result, AccessError):
            self._fail(result.text)
            return
        try:
            rows = self._decode(result)
        except DlmsError:
            self._fail("not-a-profile")
            return
        fresh = _after(rows, self.position)
        self.rows += fresh
        if fresh:
            self.position = fresh[-1].clock
        self._advance()

    # --- inside ---

    def _ref(self, attribute: int) -> AttributeRef:
        return AttributeRef(PROFILE_CLASS, self.obis, attribute)

    def _fail(self, why: str) -> None:
        self.error = why
        self._done = True

    def _window_end(self, low: CosemDateTime) -> CosemDateTime | None:
        """Return the end of the window; `None` for all up to the end of the profile, where no end can be computed: that
        takes a capture period, and a clock that says where now is."""
        if not self._period_s or self._now_local is None:
            return None
        end = shifted(low, self._period_s * ROWS_PER_WINDOW)
        reached = end is None or (end.local() or self._now_local) >= self._now_local
        return None if reached else end

    def _advance(self) -> None:
        if self._high is None or len(self.rows) >= ROWS_PER_VISIT_MAX:
            self._done = True
            return
        # A window may be empty (the meter was without power): the next one begins where it ended.
        self._low = self._high

    def _decode(self, result: Data) -> list[CapturedRow]:
        """Decode the rows of one answer. Raises `DlmsError` when a row does not fit the columns."""
        rows: list[CapturedRow] = []
        before: Sequence[Data] = ()
        for member in result.members():
            cells = list(member.members())
            if len(cells) != len(self._columns):
                raise LocalError(f"a row of {len(cells)} cells for {len(self._columns)} columns")
            # Blue Book 4.3.6: null-data stands for what follows from the row before, which is the same value, or for a
            # clock the time one capture period later.
            for index, column in enumerate(self._columns):
                if cells[index].value is None and before:
                    cells[index] = self._later(before[index]) if column.is_clock else before[index]
            before = cells
            clock = b""
            others: list[tuple[AttributeRef, Data]] = []
            for column, cell in zip(self._columns, cells, strict=True):
                if column.is_clock:
                    clock = cell.octets()
                else:
                    others.append((column.ref, cell))
            if len(clock) != DATE_TIME_OCTETS:
                raise LocalError("a row without its time")
            rows.append(CapturedRow(clock, tuple(others)))
        return rows

    def _later(self, clock: Data) -> Data:
        later = shifted(CosemDateTime.parse(clock.octets()), self._period_s)
        return clock if later is None else axdr.octets(later.emit())


def _after(rows: list[CapturedRow], position: bytes) -> list[CapturedRow]:
    """Drop the row at `position`, which the range includes although it is known, and everything before it."""
    known = [index for index, row in enumerate(rows) if row.clock == position]
    return rows[known[-1] + 1 :] if known else rows


def shifted(clock: CosemDateTime, seconds: int) -> CosemDateTime | None:
    """Return the time `seconds` later by the meter's own clock; `None` when it has no definite time."""
    local = clock.local()
    if local is None:
        return None
    try:
        later = local + timedelta(seconds=seconds)
    except OverflowError:
        return None
    return replace(
        clock,
        year=later.year,
        month=later.month,
        day=later.day,
        day_of_week=ANY,
        hour=later.hour,
        minute=later.minute,
        second=later.second,
        hundredths=0,
    )


def iso_time(clock: bytes, policy: ClockPolicy) -> str | None:
    """Return the instant of a COSEM date-time (12 octets) as ISO 8601 in UTC.

    It is `None` when the meter and the policy leave the instant open.
    """
    try:
        moment = CosemDateTime.parse(clock).to_datetime(policy)
    except DlmsError:
        return None
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
