"""The rows that a meter captured since it was last visited: how a gap is filled after an outage.

A reading list names a profile by its buffer (class 7, attribute 2). What is read is not the whole buffer but the rows
behind the last one taken, in steps that a slow line carries in some `STEP_S` seconds: each answer is measured, and the
next one asked for is made longer or shorter. After each step `position` is where to go on, to be stored with the rows.

`ProfileReading` is sans-IO: `describe` takes what the meter says of the profile, `next_item` says what to ask for,
`answer` takes what came. Requests of a visit: with selection by entry at most log2(entries in use) + 2 until the first
new row, then one per step. Where the meter selects only by time, one per step; n steps of empty time take log2(n), and
beyond `STRETCH_MAX` of them n / `STRETCH_MAX`.

Rows are plausible when their time stamp fits the time that we know and the rows beside them. All others are taken as
well, but `doubt` says what is wrong with them, and the position's time stamp stays where it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from agent.metering.visit.profile_cursors import CAPTURED_MEANWHILE, WHOLE, Buffer, Cursor, EntryCursor, RangeCursor
from agent.metering.visit.profile_position import (
    AHEAD,
    ANSWER,
    BACK_MAX_S,
    CLOCK_STATUS,
    DEVIATION,
    KEPT_ROWS,
    OFF_SEQUENCE,
    UNRESOLVED_TIME,
    CapturedRow,
    ProfilePosition,
)
from agent.metering.visit.profile_position import BUFFER as PACKED_IN_BUFFER
from agent.settings.reading_codes import ALL_ROWS, RowSelection
from dlms import axdr
from dlms.axdr import DATE_TIME_OCTETS, Data, Tag
from dlms.client.knowledge import MeterKnowledge
from dlms.codes import DataAccessResult
from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.profile import (
    BUFFER,
    CAPTURE_OBJECTS,
    CAPTURE_PERIOD,
    DELTAS,
    ENTRIES,
    ENTRIES_IN_USE,
    FIFO,
    LIFO,
    PROFILE_CLASS,
    SORT_METHOD,
    UNRESOLVED,
    CaptureObject,
    RowDecoder,
    TypedRow,
    Unresolved,
    columns_of,
    row_step_s,
)
from dlms.cosem.scaler_unit import scaler_ref
from dlms.cosem.time import DEVIATION_UNKNOWN, STANDARD_CLOCK, ZONE_UNKNOWN_S, ClockPolicy, CosemDateTime
from dlms.errors import DecodeError, DlmsError, LocalError
from dlms.xdlms.apdu.common import AccessError, Item, Result

DESCRIPTORS = CAPTURE_OBJECTS, CAPTURE_PERIOD, SORT_METHOD, ENTRIES_IN_USE, ENTRIES
STEP_S = 10.0  # of line time that a step should take: what a cut in the middle costs at most
STEP_ROWS = 48  # asked for in the first step of a visit: some 2 kB, 2 s at 9600 baud
STEP_ROWS_MAX = 384  # four days of quarter-hours: some 16 kB, what a visit holds in memory at a time
STEP_ROWS_MIN = 4
REREAD_MARGIN_S = 6 * 3600  # before what was lost: a clock set back once or twice, and the row that a time follows from
CLOCK_TOLERANCE_S = 3 * 3600  # ahead of now: an hour of daylight saving, an hour that a clock is wrong, and room
DEVIATION_CHANGE_MAX = 120  # minutes, by which a meter's deviation changes: an hour of summer time, in few places two
ROWS_NOT_FOUND = "rows-not-found"  # there should be more rows than came
ROWS_UNRESOLVED = "rows-unresolved"  # the rows are relative to others that the meter did not give
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - local time
KEPT_BY_TIME = 64  # rows that are known again where a window may have left out some and brought them later
_TRANSIENT = (DataAccessResult.HARDWARE_FAULT, DataAccessResult.TEMPORARY_FAILURE)
_REFUSED_WHOLE = (DataAccessResult.OBJECT_UNDEFINED, DataAccessResult.OBJECT_UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class MeterFacts:
    """What else is known in a visit: the meter's clock, where it was read; our own, where it can be trusted, in UTC;
    how times of this meter are to be read; how far back a first visit goes."""

    clock: CosemDateTime | None
    now: datetime | None
    policy: ClockPolicy = STANDARD_CLOCK
    first_s: float = 86_400.0

    def instant_now(self) -> datetime | None:
        """The best known time: ours where it can be trusted, else that of the meter's clock, if it is an instant."""
        if self.now is not None:
            return self.now
        return self.clock.to_datetime(self.policy) if self.clock is not None else None

    def local_now(self) -> tuple[datetime | None, float]:
        """The best known time in the meter's own terms, and by how many seconds it may be wrong.

        That is the meter's clock, unless we have a trusted one and it contradicts that by more than the tolerance.
        """
        local = self.clock.local() if self.clock is not None else None
        if self.now is None:
            return local, 0.0
        ours = self.now.astimezone(UTC).replace(tzinfo=None)
        if local is not None and self.clock is not None:
            instant = self.clock.to_datetime(self.policy)
            slack = CLOCK_TOLERANCE_S + (0.0 if instant is not None else ZONE_UNKNOWN_S)
            if abs((instant.replace(tzinfo=None) if instant is not None else local) - ours) <= timedelta(seconds=slack):
                return local, 0.0
        if self.policy.utc_offset_minutes is None:
            return ours, ZONE_UNKNOWN_S
        return ours + timedelta(minutes=self.policy.utc_offset_minutes), 0.0


class ProfileReading:
    """One profile in one visit, from `position` on; where that is empty, rows of the last `MeterFacts.first_s` seconds.

    `rows` are those of the last step. `error` is set when the meter would not give the profile. `turned` says that the
    rows of the last step were the first doubtful ones, or the first plausible ones again. `missing`: so many rows at
    least should be there, by the meter's own count, by the time that has passed or by a clock that was set back, and
    were not found in the visit; or nothing tells which are new.
    """

    def __init__(self, obis: Obis, position: ProfilePosition, selected: RowSelection = ALL_ROWS) -> None:
        """`selected`: which rows, and which of their columns."""
        self.obis = obis
        self.position = position
        self._selected = selected
        self.rows: list[CapturedRow] = []
        self.taken = 0
        self.error = ""
        self.turned = False
        self.missing = 0
        self._columns: tuple[CaptureObject, ...] = ()  # of the rows that the meter sends
        self._captured_columns: tuple[CaptureObject, ...] = ()  # all that it has
        self._decoder = RowDecoder(())
        self._facts = MeterFacts(None, None)
        self._now: datetime | None = None
        self._now_slack_s = 0.0
        self._buffer: Buffer | None = None
        self._in_use = 0
        self._probed_in_vain = False
        self._triggers: set[int] = set()  # columns that were relative in the first row of an answer
        self._cursor: Cursor | None = None
        self._sort_method = FIFO
        self._step_rows = STEP_ROWS
        self._done = False

    @property
    def descriptors(self) -> tuple[AttributeRef, ...]:
        """The attributes that say what a row is and how many there are: to be read first."""
        return tuple(self._ref(attribute) for attribute in DESCRIPTORS)

    def describe(self, described: Sequence[Data | None], facts: MeterFacts, refused: str = "") -> None:
        """Take what the descriptors gave, in their order (`None` where the meter refused), and what else is known.
        `refused`: the error that it had for the first of them, without which there is no reading."""
        captures, period, sort, in_use, size = described
        try:
            self._columns = columns_of(captures) if captures is not None else ()
        except DlmsError:
            self._columns = ()
        clock = next((column for column in self._columns if column.is_clock), None)
        if clock is None:
            not_read = "not-a-profile" if captures is not None else refused or "object-unavailable"
            self._fail("no-clock-column" if self._columns else not_read)
            return
        period_s = _number(period) or 0
        self._facts = facts
        self._now, self._now_slack_s = facts.local_now()
        self._captured_columns, wanted = self._columns, self._chosen(self._columns)
        self._sort_method = _number(sort) or FIFO
        self._heal()
        count, entries = _number(in_use), _number(size) or 0
        self._in_use = count or 0
        if self._in_use < self.position.count:  # the buffer was cleared
            self.position.count = 0
        passed_s = self._passed_s(facts)
        positions = [at for at, column in enumerate(self._columns) if column in wanted]
        tail = self._tail(wanted or self._columns)
        self._buffer = Buffer(
            clock, period_s, count or 0, entries, self._now, self._first(), self._selected.last,
            wanted, (positions[0] + 1, positions[-1] + 1) if wanted else (1, 0),
            in_order=self._sort_method in (FIFO, LIFO),
            set_back_s=self._set_back_s(facts, passed_s),
            due=self._due(facts, period_s, tail),
            unsure=facts.now is None,
            all_rows=not (self._selected.first or self._selected.end or self._selected.last),
            most=int(passed_s // period_s) + CAPTURED_MEANWHILE if passed_s and period_s else None,
            clock_now=facts.clock.local() if facts.clock is not None else None,
            said=_local(self.position.said),
            tail=tail,
        )  # fmt: skip
        if count is not None and self._sort_method == FIFO and not self.position.ranges_only:
            self._go_by(EntryCursor(self.position, self._buffer))
        else:
            self._go_by(RangeCursor(self.position, self._buffer))

    def wanted(
        self, cells: Sequence[tuple[AttributeRef, Data | Unresolved]]
    ) -> list[tuple[AttributeRef, Data | Unresolved]]:
        """Return the cells of the columns that are selected; a meter may have sent more."""
        columns = self._selected.columns
        return [(ref, cell) for ref, cell in cells if not columns or ref.obis in columns]

    def unscaled(self, known: MeterKnowledge) -> list[AttributeRef]:
        """Return the columns whose scaler is not known yet; a read of their present value brings it."""
        columns = [column for column in self._columns if not column.data_index]
        refs = [ref for ref, _ in self.wanted([(column.ref, UNRESOLVED) for column in columns])]
        return [ref for ref in refs if (where := scaler_ref(ref)) is not None and where not in known.scalers]

    def put_off(self, why: str) -> None:
        """Read none of its rows in this visit, because of an error that may pass."""
        self._fail(why)

    def next_item(self) -> Item | None:
        """Return the next step to ask for; `None` when there is nothing more to read in this visit."""
        if self._done or self._cursor is None:
            return None
        selection = self._cursor.next_selection(self._step_rows)
        return None if selection is None else Item(self._ref(BUFFER), None if selection is WHOLE else selection)

    def answer(self, result: Result, took_s: float) -> None:
        """Take the rows of a step, or the reason why there are none; `took_s`: how long the answer took to come."""
        self.rows, self.turned = [], False
        if self._cursor is None or self._buffer is None:
            return
        if isinstance(result, AccessError):
            self._refused(result)
            return
        try:
            self._take(self._cursor, result)
        except DlmsError:
            self._fail("not-a-profile")
        self._pace(took_s)

    # --- inside ---

    def _ref(self, attribute: int) -> AttributeRef:
        return AttributeRef(PROFILE_CLASS, self.obis, attribute)

    def _chosen(self, columns: Sequence[CaptureObject]) -> tuple[CaptureObject, ...]:
        """Return the columns to ask for, the clock among them; none for all there are."""
        names = self._selected.columns
        return tuple(column for column in columns if column.is_clock or column.ref.obis in names) if names else ()

    def _go_by(self, cursor: Cursor) -> None:
        """Ask with this cursor, which determines the columns of the rows that come."""
        columns, buffer = self._captured_columns, self._buffered
        if buffer.columns and isinstance(cursor, EntryCursor):  # by number, neighbouring columns only
            columns = columns[buffer.span[0] - 1 : buffer.span[1]]
        elif buffer.columns:
            columns = buffer.columns
        self._cursor = cursor
        self._expect(columns)

    def _expect(self, columns: tuple[CaptureObject, ...]) -> None:
        self._columns = columns
        self._decoder = RowDecoder(columns, period_s=row_step_s(self._sort_method, self._buffered.period_s))

    def _fail(self, why: str) -> None:
        self.error = why
        self._done = True

    def _first(self) -> CosemDateTime | None:
        """Return where a first visit, or one that reads again what was lost, begins, in the meter's terms."""
        facts, first_s = self._facts, self._facts.first_s
        if self._selected.first is not None and not self.position.since:
            clock = CosemDateTime.from_datetime(self._selected.first)
            return replace(clock, deviation=facts.clock.deviation) if facts.clock is not None else clock
        if self.position.since and facts.now is not None:
            first_s = max(0.0, facts.now.timestamp() - self.position.since) + REREAD_MARGIN_S
        if facts.clock is not None and self._now is not None and self._now == facts.clock.local():
            return facts.clock.later(-round(first_s))
        if facts.now is None:
            return None
        return CosemDateTime.from_instant(facts.now - timedelta(seconds=first_s), facts.policy)

    def _heal(self) -> None:
        """Forget a position that is ahead of now: a row with a wrong time stamp has moved it, or the clock was set.
        Likewise a deviation that cannot be right, which a row of an earlier version may have brought.

        Where the rows taken last are known, reading goes on from now; a position of the first version is begun anew.
        """
        position, local = self.position, self.position.local
        if position.clock and self._odd_deviation(CosemDateTime.parse(position.clock)):
            position.clock, position.latest, position.searched = [
                self._with_own_deviation(octets) for octets in (position.clock, position.latest, position.searched)
            ]
        if position.top and self._facts.now is not None and self._ahead(position.top):
            position.overtake(position.top)
            position.top = b""
        if local is None or self._now is None or not self._ahead(position.clock):
            return
        position.overtake(position.clock, position.latest)
        if position.digests:
            clock = CosemDateTime.parse(position.clock)
            now = CosemDateTime.from_datetime(self._now)
            position.clock = replace(now, deviation=clock.deviation, status=clock.status).emit()
        else:
            position.clock = b""
        position.latest, position.searched = position.clock, b""

    def _tail(self, columns: Sequence[CaptureObject]) -> datetime | None:
        """Return the time stamp of the row that was taken last, whatever is thought of it."""
        cells = self.position.base if len(self.position.base) == len(columns) else ()
        stamps = [cell for column, cell in zip(columns, cells, strict=False) if column.is_clock]
        octets = stamps[0].value if stamps else None
        return _local(octets) if isinstance(octets, bytes) and len(octets) == DATE_TIME_OCTETS else None

    def _passed_s(self, facts: MeterFacts) -> float:
        """Return the time since the last visit that came to its end, 0 where nobody knows."""
        if facts.now is None or not self.position.visited:
            return 0.0
        return max(0.0, facts.now.timestamp() - self.position.visited)

    def _due(self, facts: MeterFacts, period_s: int, tail: datetime | None) -> int:
        """Return how many rows must have been captured since they were counted last, by our clock; without a trusted
        one those since the last row, `tail`, by the meter's."""
        since = self.position.counted_to
        if facts.now and since and period_s:
            return max(0, int((facts.now.timestamp() - since) // period_s))
        if facts.now is None and facts.clock is not None and period_s:  # as far as the meter's clock was not set
            said = facts.clock.local()
            return max(0, int((said - tail).total_seconds() // period_s)) if tail and said else 0
        return 0

    def _set_back_s(self, facts: MeterFacts, passed_s: float) -> float:
        """Return by how much the meter's clock is behind what it said at the last visit and what has passed since."""
        then = CosemDateTime.parse(self.position.said).local() if self.position.said else None
        said = facts.clock.local() if facts.clock is not None else None
        return max(0.0, passed_s - (said - then).total_seconds()) if passed_s and then and said else 0.0

    def _refused(self, result: AccessError) -> None:
        cursor, known = self._cursor, result.code not in (*_TRANSIENT, *_REFUSED_WHOLE)
        if known and isinstance(cursor, RangeCursor) and cursor.probing:
            self.position.probe, self._probed_in_vain = None, True
        elif known and cursor is not None and cursor.reaches_back:
            if isinstance(cursor, RangeCursor) and self.position.packing != PACKED_IN_BUFFER:
                cursor.give_up_search()
                self.position.wide = 0
            else:
                self._fail(ROWS_UNRESOLVED)
        elif isinstance(self._cursor, EntryCursor) and result.code not in (*_TRANSIENT, *_REFUSED_WHOLE):
            self.position.ranges_only = True  # the meter may know times, but no entries
            self._go_by(RangeCursor(self.position, self._buffered))
        else:
            self._fail(result.text)

    def _take(self, cursor: Cursor, result: Data) -> None:
        """Take one answer. Raises `DlmsError` when a row does not fit the columns."""
        members = _rows_of(result)
        everything = len(self._captured_columns)
        if members and len(self._columns) != everything == len(members[0].members()):
            self._expect(self._captured_columns)  # the meter selects no columns
        if isinstance(cursor, RangeCursor) and cursor.probing:
            self._probed(cursor, members)
            return
        if not self._resolvable(cursor, members):
            return
        rows = self._in_order(self._decoded(members, from_first_row=cursor.from_first_row))
        if rows and not any(row.clock for row in rows):
            self._fail(ROWS_UNRESOLVED)
            return
        self._learn_packing(members, rows)
        new = self._bounded(self._judged(cursor.take(rows)))
        if isinstance(cursor, RangeCursor) and cursor.complete and self._tells_all:
            self.position.forget_ahead(rows)
        if self.is_log:
            taken = Counter(self.position.digests)
            new = [replace(row, alike=taken[row.digest]) for row in new]
        self.rows = new
        self.taken += len(new)
        least = 0 if isinstance(cursor, EntryCursor) else KEPT_BY_TIME if self._buffered.in_order else KEPT_ROWS.stop
        self.position.note(new, self._buffered.period_s, least=least)
        if not self._done:
            self.position.entry = cursor.entry_of_last() or self.position.entry
        if isinstance(cursor, RangeCursor):
            self._note_range(cursor)
        if new:
            doubtful = any(row.doubt for row in new)
            self.turned, self.position.doubtful = doubtful != self.position.doubtful, doubtful

    def _note_range(self, cursor: RangeCursor) -> None:
        position = self.position
        position.entry, position.searched = 0, cursor.searched or position.searched
        position.wide = 0 if cursor.complete else cursor.wide
        self.missing = max(self.missing, cursor.missing)
        if cursor.complete:
            position.count = max(self._in_use, position.count)
            now = position.visited = self._facts.now.timestamp() if self._facts.now is not None else 0.0
            seen_s = self.taken * self._buffered.period_s
            if position.counted_to and not cursor.settled:
                now = min(now, position.counted_to + seen_s)
            position.counted_to = now
            position.said = self._facts.clock.emit() if self._facts.clock is not None else b""

    # --- rows that are relative to others ---

    def _resolvable(self, cursor: Cursor, members: Sequence[Data]) -> bool:
        """Whether the rows of an answer can be decoded as they are. Where they cannot, the next request is for what
        they are relative to, or for a row that tells; where there is no such request, the profile fails."""
        position = self.position
        relative = self._relative(members[0]) if members else set()
        if relative and not cursor.from_first_row:
            position.packing, self._triggers = PACKED_IN_BUFFER, relative
        elif (
            not isinstance(cursor, RangeCursor)
            or cursor.is_contiguous(len(members))
            or position.packing == ANSWER
            or not any(self._relative(member) for member in members[1:])
        ):
            return True
        elif not position.packing and not self._probed_in_vain and (probe := self._probe(members)) is not None:
            position.probe = probe
            return False
        if not cursor.reach_back():
            self._fail(ROWS_UNRESOLVED)
        return False

    def _relative(self, row: Data) -> set[int]:
        """The columns whose cells are relative to the row before."""
        empty = self.position.empty_columns(self._columns)
        return {
            at
            for at, cell in enumerate(row.members())
            if cell.tag in DELTAS or (cell.tag == Tag.NULL and at not in empty)
        }

    def _probe(self, members: Sequence[Data]) -> tuple[bytes, bytes] | None:
        """A row that is relative, and the only one with its time stamp: asked for alone, it tells whether the meter's
        rows are relative to those of the same answer, or of the buffer whatever was asked for."""
        rows = self._decoded(members, from_first_row=False)
        times = Counter(row.clock for row in rows)
        for member, row in zip(reversed(members), reversed(rows), strict=True):
            if row.local is not None and times[row.clock] == 1 and self._relative(member):
                return row.clock, row.digest
        return None

    def _probed(self, cursor: RangeCursor, members: Sequence[Data]) -> None:
        probe, self.position.probe = self.position.probe, None
        if len(members) != 1 or probe is None:
            self._probed_in_vain = True
        elif not self._relative(members[0]) and self._decoded(members, from_first_row=False)[0].digest == probe[1]:
            self.position.packing = ANSWER
        else:
            self.position.packing = PACKED_IN_BUFFER
            cursor.reach_back()

    def _learn_packing(self, members: Sequence[Data], rows: Sequence[CapturedRow]) -> None:
        """Forget that rows are relative to others in the buffer where it was null-data that stands for nothing."""
        columns = {at for at in self._triggers if any(_has_value(row.typed[at]) for row in rows)}
        if self._triggers and members and not columns:
            self.position.packing = ""
        self._triggers = set()

    def _bounded(self, rows: list[CapturedRow]) -> list[CapturedRow]:
        """The rows up to the end that is selected; no more is asked for once it is reached."""
        selected = self._selected
        if selected.end is not None:
            rows = [row for row in rows if not row.stray or (row.local or selected.end) <= selected.end]
            times = [None if row.doubt else row.local for row in rows]  # a doubtful one is no sign of the end
            beyond = next((at for at, time in enumerate(times) if time and time > selected.end), len(rows))
            if beyond < len(rows):
                self._done = True
                rows = rows[:beyond]
        if selected.last and not self._buffered.period_s and isinstance(self._cursor, RangeCursor):
            rows = rows[-selected.last :]  # rows at no fixed time, by time: how many there are nobody knows before
        return rows

    @property
    def is_log(self) -> bool:
        """Whether the meter has told that rows come at no fixed times."""
        return self._buffer is not None and not self._buffer.period_s

    @property
    def period_s(self) -> float:
        """The capture period that the meter has told, in seconds: 0 for rows at no fixed times, or none told yet."""
        return self._buffer.period_s if self._buffer is not None else 0.0

    @property
    def _tells_all(self) -> bool:
        """Whether all rows are asked for, in the order of their capture."""
        return self._buffered.in_order and self._buffered.all_rows

    @property
    def _buffered(self) -> Buffer:
        if self._buffer is None:
            raise LocalError("the profile is not described yet")
        return self._buffer

    def _decoded(self, members: Sequence[Data], *, from_first_row: bool) -> list[CapturedRow]:
        """Decode the rows of an answer, in its own order. What the first one is relative to is not known; but in the
        first row of the buffer null-data may be just that."""
        first = members[0].members() if members else ()
        odd = any(cell.tag in DELTAS or (cell.tag == Tag.NULL and column.is_clock)
                  for column, cell in zip(self._columns, first, strict=False))  # fmt: skip
        if odd or (members and self._relative(members[0]) and not from_first_row):
            self._decoder.resume(None)
        else:
            self._decoder.restart()
        return self._captured(self._decoder.typed(axdr.array(members)))

    def _in_order(self, rows: list[CapturedRow]) -> list[CapturedRow]:
        """The same rows, the oldest first."""
        if self._sort_method == LIFO:
            return rows[::-1]
        if self._sort_method != FIFO:
            return sorted(rows, key=lambda row: (row.local is None, row.local or EPOCH))
        return rows

    def _captured(self, rows: Sequence[TypedRow]) -> list[CapturedRow]:
        return [CapturedRow.of(row, self._columns) for row in rows]

    def _judged(self, rows: Sequence[CapturedRow]) -> list[CapturedRow]:
        """The same rows, with what there is to doubt about their times."""
        judged: list[CapturedRow] = []
        last, latest = self.position.local, self.position.latest
        for at, row in enumerate(rows):
            if row.stray:  # rows that were captured after it are stamped earlier
                doubt = self._doubt(row, last, None)
                judged.append(replace(row, doubt=doubt if doubt in (AHEAD, DEVIATION) else OFF_SEQUENCE))
                continue
            later = next((local for other in rows[at + 1 :] if (local := other.local) is not None), None)
            doubt = self._doubt(row, last, later)
            repeated = not doubt and self._repeats(row.clock, latest, last)
            judged.append(replace(row, doubt=doubt, repeated=repeated))
            if not doubt:
                last = row.local
                latest = latest if repeated else row.clock
        return judged

    def _repeats(self, clock: bytes, latest: bytes, last: datetime | None) -> bool:
        """Whether this time stamp, without a deviation, is not later than one before it: daylight saving ended without
        a word of it, or the clock was set back. Which instant it is, the meter does not say. In a log, where one second
        may have several rows, the same as that of the row just before it repeats nothing."""
        policy = self._facts.policy
        if not latest or (policy.deviation_sign and CosemDateTime.parse(clock).deviation != DEVIATION_UNKNOWN):
            return False
        instants = [CosemDateTime.parse(octets).to_datetime(policy) for octets in (clock, latest)]
        if instants[0] is None or instants[1] is None:
            return False
        own = CosemDateTime.parse(clock).local()
        again = self.is_log and instants[0] == instants[1] and own == last
        return instants[0] <= instants[1] and not again

    def _doubt(self, row: CapturedRow, last: datetime | None, later: datetime | None) -> str:
        back = timedelta(seconds=BACK_MAX_S)
        local = row.local
        if local is None:
            return UNRESOLVED_TIME
        clock = CosemDateTime.parse(row.clock)
        if self._odd_deviation(clock):
            return DEVIATION
        if self._ahead(row.clock):
            return AHEAD
        if last is not None and last - local > back:
            return OFF_SEQUENCE
        # A leap ahead that the next row takes back, to where the rows were before.
        if last is not None and later is not None:
            if local - last > back and local - later > back and last - later <= back:
                return OFF_SEQUENCE
        return "" if clock.trustworthy else CLOCK_STATUS

    def _ahead(self, octets: bytes) -> bool:
        """Whether a time stamp is ahead of now, by the meter's clock or as an instant."""
        clock = CosemDateTime.parse(octets)
        local, instant = clock.local(), clock.to_datetime(self._facts.policy)
        slack = timedelta(seconds=CLOCK_TOLERANCE_S + self._now_slack_s)
        if local is not None and self._now is not None and local - self._now > slack:
            return True
        now = self._facts.instant_now()
        return instant is not None and now is not None and instant - now > timedelta(seconds=CLOCK_TOLERANCE_S)

    def _odd_deviation(self, clock: CosemDateTime) -> bool:
        """Whether no zone has this deviation, or it is not that of the meter's clock, summer or winter."""
        if clock.deviation == DEVIATION_UNKNOWN or not self._facts.policy.deviation_sign:
            return False
        if abs(clock.deviation) > ZONE_UNKNOWN_S // 60:
            return True
        own = self._own_deviation()
        return own != DEVIATION_UNKNOWN and abs(clock.deviation - own) > DEVIATION_CHANGE_MAX

    def _own_deviation(self) -> int:
        """Return the deviation of the meter's clock, unknown where it is none of any zone."""
        own = self._facts.clock.deviation if self._facts.clock is not None else DEVIATION_UNKNOWN
        return own if abs(own) <= ZONE_UNKNOWN_S // 60 else DEVIATION_UNKNOWN

    def _with_own_deviation(self, octets: bytes) -> bytes:
        return replace(CosemDateTime.parse(octets), deviation=self._own_deviation()).emit() if octets else b""

    def _pace(self, took_s: float) -> None:
        if took_s > STEP_S:
            self._step_rows = max(STEP_ROWS_MIN, self._step_rows // 2)
        elif took_s < STEP_S / 2:
            self._step_rows = min(STEP_ROWS_MAX, self._step_rows * 2)


def _rows_of(result: Data) -> tuple[Data, ...]:
    if result.value is None:
        return ()
    try:
        return result.members()
    except LocalError as error:
        raise DecodeError("profile buffer", 0, "neither array nor compact array") from error


def _has_value(cell: Data | Unresolved) -> bool:
    return isinstance(cell, Unresolved) or cell.tag != Tag.NULL


def _local(clock: bytes) -> datetime | None:
    return CosemDateTime.parse(clock).local() if clock else None


def _number(data: Data | None) -> int | None:
    """A count; `None` where the meter refused, or said something else."""
    value = data.value if data is not None else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def iso_time(clock: bytes, policy: ClockPolicy) -> str | None:
    """Return the instant of a COSEM date-time (12 octets) as ISO 8601 in UTC.

    It is `None` when the meter and the policy leave the instant open.
    """
    try:
        moment = CosemDateTime.parse(clock).to_datetime(policy)
    except DlmsError:
        return None
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
