"""A meter with a real profile buffer and a clock that is set, changes to summer time, or is wrong; and visits of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from agent.metering.visit.profile_catchup import MeterFacts, ProfileReading
from agent.metering.visit.profile_position import CapturedRow, ProfilePosition
from agent.settings.reading_codes import ALL_ROWS, RowSelection
from dlms import axdr
from dlms.axdr import Data, Tag
from dlms.codes import DataAccessResult
from dlms.cosem.obis import AttributeRef, Obis, Selection
from dlms.cosem.profile import (
    CLOCK_OBIS,
    FIFO,
    LIFO,
    SELECT_ENTRY,
    SELECT_RANGE,
    CaptureObject,
    Unresolved,
)
from dlms.cosem.time import DEVIATION_UNKNOWN, STANDARD_CLOCK, STATUS_UNKNOWN, ClockPolicy, ClockStatus, CosemDateTime
from dlms.server.profile import ProfileObject
from dlms.xdlms.apdu.common import AccessError, Item, Result

PROFILE = Obis.parse("1.0.99.1.0.255")
CLOCK = CaptureObject(AttributeRef(8, CLOCK_OBIS, 2))
VALUE = CaptureObject(AttributeRef(3, Obis.parse("1.0.1.8.0.255"), 2))
BUFFER = 2
LARGEST = 3  # sort method: the largest value first
NO_ENTRIES = AccessError(DataAccessResult.OTHER_REASON)

OffsetAt = Callable[[float], int]  # true time (seconds since the epoch) → minutes that local time is ahead of UTC


@dataclass(slots=True)
class MeterModel:
    """`offset_at` is what the clock shows, `summer_at` whether it says daylight saving. `stamps`: `local` gives neither
    deviation nor status, `status` the daylight saving bit, `deviation` both; `sign` is how it counts the deviation.
    `packing`: `plain` rows, `answer` for rows compressed within an answer, `buffer` for rows relative to the one in
    front of them in the buffer, whatever was asked for."""

    at: float
    offset_at: OffsetAt = lambda _at: 60
    summer_at: Callable[[float], bool] = lambda _at: False
    stamps: str = "local"
    sign: int = 1
    period_s: int = 900
    size: int = 4000
    by_entry: bool = True
    packing: str = "plain"
    order: int = FIFO  # sort method; `LARGEST`: by value
    constant: bool = False
    refused: tuple[int, ...] = ()
    count: int = 0
    more: tuple[CaptureObject, ...] = ()  # columns beside the clock and the value; the first of these is at the front
    columns_selected: bool = True
    profile: ProfileObject = field(init=False)
    history: list[tuple[bytes, object]] = field(default_factory=list)  # of every row, its stamp and value

    def __post_init__(self) -> None:
        columns = [*self.more[:1], CLOCK, VALUE, *self.more[1:]]
        self.profile = ProfileObject(PROFILE, columns, period_s=self.period_s, entries=self.size)
        self.profile.item.readers[5] = lambda _selection: axdr.enum(self.order)

    @property
    def rows(self) -> list[tuple[Data, ...]]:
        return self.profile.rows

    def clock(self, at: float | None = None) -> CosemDateTime:
        at = self.at if at is None else at
        offset = self.offset_at(at)
        local = CosemDateTime.from_datetime(
            datetime.fromtimestamp(at, UTC).replace(tzinfo=None) + timedelta(minutes=offset)
        )
        summer = self.summer_at(at)
        parts = {
            "local": (DEVIATION_UNKNOWN, STATUS_UNKNOWN),
            "status": (DEVIATION_UNKNOWN, int(ClockStatus.DAYLIGHT_SAVING) if summer else 0),
            "deviation": (-self.sign * (60 + 60 * summer), int(ClockStatus.DAYLIGHT_SAVING) if summer else 0),
        }
        deviation, status = parts[self.stamps]
        return CosemDateTime.parse(local.emit()[:9] + deviation.to_bytes(2, "big", signed=True) + bytes((status,)))

    def live(self, seconds: float, *, off: bool = False) -> None:
        """Time passes, and rows are captured, unless the meter is without power."""
        end = self.at + seconds
        while (due := (self.at // self.period_s + 1) * self.period_s) <= end:
            self.at = due
            if not off:
                self.capture()
        self.at = end

    def capture(self, clock: CosemDateTime | None = None) -> None:
        self.count += 1
        row = (axdr.octets((clock or self.clock()).emit()), axdr.u32(7 if self.constant else self.count))
        others = [axdr.u32(1000 * at + self.count) for at, _ in enumerate(self.more, 1)]
        self.profile.capture((*others[:1], *row, *others[1:]))
        self.history.append((CapturedRow.of(row, (CLOCK, VALUE)).stamp, row[1].value))

    def read(self, attribute: int, selection: Selection | None = None) -> Result:
        if attribute in self.refused:
            return AccessError(DataAccessResult.READ_WRITE_DENIED)
        if selection is not None and selection.selector == SELECT_ENTRY and not self.by_entry:
            return NO_ENTRIES
        if (
            selection is not None
            and selection.selector == SELECT_RANGE
            and self.stamps == "deviation"
            and self.sign < 0
        ):
            return self._by_local_time(selection)
        if selection is not None and not self.columns_selected:
            members = selection.parameters.members()
            entry = selection.selector == SELECT_ENTRY
            whole = [axdr.u16(1), axdr.u16(0)] if entry else [axdr.array([])]
            selection = replace(selection, parameters=axdr.structure(*members[: 2 if entry else 3], *whole))
        found = self.profile.item.readers[attribute](selection)
        if attribute != BUFFER or (self.packing == "plain" and self.order == FIFO) or not isinstance(found, Data):
            return found
        rows = self._ordered([member.members() for member in found.members()])
        return axdr.array([axdr.structure(*row) for row in rows] if self.packing == "plain" else self._packed(rows))

    def _ordered(self, rows: Sequence[tuple[Data, ...]]) -> list[tuple[Data, ...]]:
        if self.order == LARGEST:
            return sorted(rows, key=lambda row: -row[1].integer())
        return list(rows if self.order == FIFO else reversed(rows))

    def _by_local_time(self, selection: Selection) -> Result:
        """A meter that counts the deviation the other way compares local times."""
        low, high = [_local(member) for member in selection.parameters.members()[1:3]]
        return axdr.array([axdr.structure(*row) for row in self.rows if low <= _local(row[0]) <= high])

    def _packed(self, rows: Sequence[tuple[Data, ...]]) -> list[Data]:
        packed: list[Data] = []
        buffer = self._ordered(self.rows)
        index = -1
        for at, row in enumerate(rows):
            before = rows[at - 1] if at else None
            if self.packing == "buffer":
                index = next(index for index in range(index + 1, len(buffer)) if buffer[index] == row)
                before = buffer[index - 1] if index else None
            packed.append(axdr.structure(*row) if before is None else self._relative(row, before))
        return packed

    def _relative(self, row: tuple[Data, ...], before: tuple[Data, ...]) -> Data:
        step_s = {FIFO: self.period_s, LIFO: -self.period_s}.get(self.order)
        later = CosemDateTime.parse(before[0].octets()).later(step_s) if step_s is not None else None
        mine = CosemDateTime.parse(row[0].octets())
        follows = later is not None and (later.local(), later.deviation, later.status) == (
            mine.local(), mine.deviation, mine.status,
        )  # fmt: skip
        step = row[1].integer() - before[1].integer()
        tag = Tag.DELTA_UNSIGNED if 0 <= step < 256 else Tag.DELTA_LONG
        small = -0x8000 <= step < 0x8000
        return axdr.structure(
            axdr.null() if follows else row[0],
            axdr.null() if not step else Data(tag, step) if small else row[1],
        )


def _local(clock: Data) -> datetime:
    local = CosemDateTime.parse(clock.octets()).local()
    assert local is not None
    return local


@dataclass(slots=True)
class Reader:
    """Visits of one profile of one meter. What it knows between two of them went through the store's JSON."""

    meter: MeterModel
    policy: ClockPolicy = STANDARD_CLOCK
    trusted: bool = True
    first_s: float = 86_400.0
    now: Callable[[], float] | None = None
    took_s: float = 5.0
    selected: RowSelection = ALL_ROWS
    octets: int = 0  # of all answers
    stored: str = "{}"
    taken: list[CapturedRow] = field(default_factory=list)
    requests: int = 0
    turns: int = 0
    wanted: list[tuple[AttributeRef, Data | Unresolved]] = field(default_factory=list)
    error: str = ""
    missing: int = 0  # rows that were said not to be found, in all visits

    def visit(self, *, steps_max: int = 10_000) -> list[CapturedRow]:
        """Read what is new, at most so many steps; each is kept when it is done. Returns the rows."""
        position = ProfilePosition.load(json.loads(self.stored))
        reading = ProfileReading(PROFILE, position, self.selected)
        now = (
            datetime.fromtimestamp(self.now() if self.now is not None else self.meter.at, UTC) if self.trusted else None
        )
        described = [self.meter.read(ref.attribute) for ref in reading.descriptors]
        reading.describe(
            [data if isinstance(data, Data) else None for data in described],
            MeterFacts(self.meter.clock(), now, self.policy, self.first_s),
        )
        found: list[CapturedRow] = []
        self.requests = 0
        while self.requests < steps_max and (item := reading.next_item()) is not None:
            self.requests += 1
            reading.answer(self._answer(item), self.took_s)
            self.turns += reading.turned
            found += reading.rows
            self.wanted += [cell for row in reading.rows for cell in reading.wanted(row.cells)]
            self.stored = json.dumps(position.dump())
        self.error = reading.error
        self.missing += reading.missing
        self.taken += found
        return found

    def _answer(self, item: Item) -> Result:
        answer = self.meter.read(BUFFER, item.selection)
        self.octets += len(answer.emit()) if isinstance(answer, Data) else 0
        return answer

    def values(self) -> list[object]:
        return [cell.value if isinstance(cell, Data) else str(cell) for row in self.taken for _, cell in row.cells]

    def held(self) -> list[tuple[bytes, object]]:
        """The rows taken, as (time stamp, value)."""
        cells = [row.cells[0][1] for row in self.taken]
        values = [cell.value if isinstance(cell, Data) else str(cell) for cell in cells]
        return list(zip([row.stamp for row in self.taken], values, strict=True))
