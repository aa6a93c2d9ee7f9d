"""Which rows of a profile to ask for next: by their number in the buffer, or by their time.

Sans-IO. By number is better: the count of rows is known before they are asked for, empty time costs nothing, and a
clock that was set does not matter. It takes a buffer that keeps the oldest row first (sort method FIFO), the attribute
`entries_in_use`, and a meter that selects by entry. All others are asked by time, and what came is compared with what
the entries in use say.

A cursor says what to select (`next_selection`), is given the rows that came, and returns those that were not taken yet
(`take`). It does not change the `ProfilePosition`; who takes the rows does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from math import ceil
from typing import Final, Protocol

from agent.metering.visit.profile_position import BUFFER, OVERLAP_S, CapturedRow, ProfilePosition
from dlms import axdr
from dlms.cosem.obis import Selection
from dlms.cosem.profile import BEGIN_OF_TIME, END_OF_TIME, CaptureObject, by_entry, by_range
from dlms.cosem.time import CosemDateTime

OVERLAP_ROWS = 2  # known rows asked for again, to see that the numbers are still those of the last visit
SEARCH_ROWS = 3  # looked at in one place of the buffer: one with a wrong time stamp does not lead the search astray
STRETCH_MAX = 64  # an empty window is followed by one of twice its length, up to so many times that of the first
FIRST_ROWS_UNKNOWN = 96  # read at first where neither the meter nor we know the time
# Rows asked for at once because those in front of the new ones tell what these are relative to; and because rows that
# should be there were not found. A packed row is short.
BASE_ROWS_MAX = 4096
WIDE_ROWS_MAX = 1536
WIDER = 4  # each window of the search for rows is so many times as wide as the one before
# Without a row of its own before the first one of a clock that was set back, a search for others ends: longer than a
# meter is without power while its clock is put right. Events come when they come.
WIDE_AT_ONCE = 2  # the first of these windows where rows that are alike are to be told apart by those in front
BEFORE_FIRST_S = WIDER * OVERLAP_S
BEFORE_FIRST_EVENT_S = 24 * 3600
EVENT_S = 900  # an event log is searched as if it had an event in so many seconds
CAPTURED_MEANWHILE = 4  # rows: more than the entries in use said, since a visit takes its time


class Whole(Enum):
    """The type of `WHOLE`."""

    WHOLE = "whole"


WHOLE: Final = Whole.WHOLE  # the buffer without a selection, every row that there is


@dataclass(frozen=True, slots=True)
class Buffer:
    """What the meter says of a profile: `in_use` rows of at most `size` (0: it does not say), one per `period_s`
    seconds (0: at no fixed time), and the column of its clock. `now` is the time in the meter's own terms, `first` that
    of the row at which a first visit begins. Only the `newest` rows are wanted (0: all), and of these the `columns`
    (empty: all), which lie in `span`: first and last, counted from 1, 0 being the last there is."""

    clock: CaptureObject
    period_s: int
    in_use: int
    size: int
    now: datetime | None
    first: CosemDateTime | None
    newest: int = 0
    columns: tuple[CaptureObject, ...] = ()
    span: tuple[int, int] = (1, 0)
    in_order: bool = True  # of capture, from the oldest row to the newest, or the other way round
    set_back_s: float = 0.0  # by so much the clock was set back since the last visit, by our own
    due: int = 0  # rows that should have been captured since then
    unsure: bool = False  # that is by the meter's own clock, which may have been set ahead, and not by ours
    all_rows: bool = True  # whether every row is wanted
    most: int | None = None  # rows that can have been captured since the last visit, by our own clock
    clock_now: datetime | None = None  # what the meter's clock says, whatever we think of it
    said: datetime | None = None  # what it said when the last visit ended
    tail: datetime | None = None  # the time stamp of the row that was taken last, plausible or not

    @property
    def full(self) -> bool:
        """Whether rows may leave the buffer with each new one: it has no room for more, or does not tell."""
        return not self.in_use or (bool(self.size) and self.in_use >= self.size)


class Cursor(Protocol):
    """The next rows, step by step."""

    def next_selection(self, rows_max: int) -> Selection | Whole | None:
        """What to ask for; `None` at the end of the profile."""

    def take(self, rows: Sequence[CapturedRow]) -> list[CapturedRow]:
        """The rows of the answer that are new."""

    @property
    def from_first_row(self) -> bool:
        """Whether the rows asked for last begin with the first one of the buffer."""

    @property
    def reaches_back(self) -> bool:
        """Whether more was asked for last than is read in a step, since something was not found otherwise."""

    def reach_back(self) -> bool:
        """Ask for the same again with all that lies in front of it, since the answer began with a row that is relative
        to another. Returns whether that is possible."""

    def entry_of_last(self) -> int:
        """The number of the last row of the last answer in the buffer; 0 where it is not known."""


class EntryCursor:
    """By number, 1 for the oldest row.

    The number of the last row is remembered while the buffer is not full; later it is reckoned from the capture period.
    When known rows are not where they should be, they are searched by time, halving the buffer: at most
    log2(`in_use`) + 1 requests of `SEARCH_ROWS` rows, in a visit once.
    """

    def __init__(self, position: ProfilePosition, buffer: Buffer) -> None:
        self._place = position
        self._buffer = buffer
        self._joined = not position.known  # the next row is known to be a new one
        self._search: range | None = None  # the numbers among which the row searched for is
        self._back = False
        self._asked = self._asked_from = 0
        fresh = buffer.first is not None and not position.known and not buffer.newest
        self._first = buffer.first.local() if buffer.first is not None and fresh else None
        # What lies before the newest rows is not wanted: known rows there need not be searched.
        self._low = max(1, buffer.in_use - buffer.newest + 1) if buffer.newest else 1
        self._next = self._low if buffer.newest and not position.known else max(self._low, self._guess())
        self._searched = self._low > 1
        self._last = 0
        if self._first is not None and not buffer.period_s and buffer.in_use > FIRST_ROWS_UNKNOWN:
            self._begin_search()  # an event log, which may go back for years
        if position.packing == BUFFER:
            self.reach_back()

    @property
    def from_first_row(self) -> bool:
        return self._asked_from == 1

    @property
    def reaches_back(self) -> bool:
        return self._back

    def next_selection(self, rows_max: int) -> Selection | None:
        if self._search is not None:
            if len(self._search) > max(rows_max // 2, SEARCH_ROWS):
                middle = self._search[len(self._search) // 2]
                self._asked = min(SEARCH_ROWS, self._buffer.in_use - middle + 1)
                return self._rows(middle)
            self._next, self._search = max(1, self._search.start - 1), None
        if self._next > self._buffer.in_use:
            return None
        self._asked = min(BASE_ROWS_MAX if self._back else rows_max, self._buffer.in_use - self._next + 1)
        return self._rows(self._next)

    def take(self, rows: Sequence[CapturedRow]) -> list[CapturedRow]:
        if self._search is not None:
            self._halve(self._search, rows)
            return []
        if not rows:
            self._next = self._buffer.in_use + 1  # fewer rows than the meter said there are
            return []
        start, joined = 0, self._joined
        if not joined:
            found = self._place.after_known(rows)
            if found is None and not self._searched and not self._back and self._may_lie_elsewhere(rows):
                self._begin_search()
                return []
            if found is None and self._place.set_back and not self._back:
                self._reach_back()
                return []
            start = self._later_than_place(rows) if found is None else found
            joined = found is not None or start < len(rows)
        if self._back:  # the rows in front were asked for what the others are relative to
            start = max(start, self._low - self._next)
        new = [row for row in rows[start:] if self._wanted(row)]
        self._last = self._next + len(rows) - 1
        # The last rows again in front of the next ones: a full buffer may have moved on meanwhile.
        again = len(rows) > 2 * OVERLAP_ROWS and not self._back and joined and (bool(new) or self._place.known)
        self._next = self._last + 1 - (OVERLAP_ROWS if again and self._last < self._buffer.in_use else 0)
        self._joined = joined and self._next > self._last
        return new

    def reach_back(self) -> bool:
        if self._back or self._asked_from == 1:
            return False
        self._reach_back()
        return True

    def _reach_back(self) -> None:
        self._back, self._search = True, None
        self._next = max(1, self._buffer.in_use - BASE_ROWS_MAX + 1)

    def entry_of_last(self) -> int:
        return self._last

    # --- inside ---

    def _rows(self, first: int) -> Selection:
        self._asked_from = first
        return by_entry(first, first + self._asked - 1, *self._buffer.span)

    @property
    def _full(self) -> bool:
        """Whether rows may have left the buffer since the last visit: their numbers are others then."""
        buffer = self._buffer
        return buffer.in_use >= buffer.size if buffer.size else buffer.in_use <= self._place.entry

    def _guess(self) -> int:
        """Return the number of the row to begin with, which may be less than 1."""
        position, buffer = self._place, self._buffer
        if position.entry and not self._full and position.entry <= buffer.in_use:
            return position.entry - OVERLAP_ROWS + 1
        begin = position.local if position.known else self._first
        if not buffer.period_s:
            return 1
        if begin is None or buffer.now is None:
            return buffer.in_use - FIRST_ROWS_UNKNOWN + 1
        missed = ceil((buffer.now - begin).total_seconds() / buffer.period_s) + 1
        if position.known:  # an hour that the clock may have been set by since
            missed = max(missed, 0) + OVERLAP_S // buffer.period_s + OVERLAP_ROWS
        return buffer.in_use - max(missed, 0) + 1

    def _may_lie_elsewhere(self, rows: Sequence[CapturedRow]) -> bool:
        """Whether the known rows may be somewhere else in the buffer: before these, or far behind them."""
        last, known = rows[-1].local, self._place.local
        return self._next > 1 or (last is not None and known is not None and last < known)

    def _begin_search(self) -> None:
        self._searched = True
        if self._place.local is None and self._first is None:
            self._next = 1
        else:
            self._search = range(1, self._buffer.in_use + 1)

    def _halve(self, among: range, rows: Sequence[CapturedRow]) -> None:
        wanted = self._place.local or self._first
        stamps = sorted(local for row in rows if (local := row.local) is not None)
        middle = among[len(among) // 2]
        if not stamps or wanted is None:
            self._search, self._next = None, 1  # rows without times: the buffer from its beginning, step by step
        elif wanted - stamps[len(stamps) // 2] > timedelta(seconds=OVERLAP_S):
            self._search = range(middle + 1, among.stop)
        else:
            self._search = range(among.start, middle + 1)

    def _later_than_place(self, rows: Sequence[CapturedRow]) -> int:
        """Known rows have left the buffer, or come later: what is stamped later than the last one is new."""
        known = self._place.local
        return next((at for at, row in enumerate(rows) if known is None or (row.local or known) > known), len(rows))

    def _wanted(self, row: CapturedRow) -> bool:
        """Whether a first visit wants this row."""
        return self._first is None or row.local is None or row.local >= self._first


class RangeCursor:
    """By time, as far as the meter's clock goes, in windows of so many capture periods as rows are wanted.

    The first window of a visit begins an hour before the last known row, since a clock set back and the end of daylight
    saving time stamp rows so. Each window but the last ends where the next begins, both included: rows are told apart
    by what is in them. An empty window doubles the length of the next, so that empty time of n first windows takes
    log2(n) requests up to `STRETCH_MAX` windows at a time.

    With the last window, the rows that came are compared with those that should be there, by the entries in use. Where
    some are missing, wider windows are asked for, and the whole buffer where it has at most `WIDE_ROWS_MAX` rows.
    `missing` is how many were not found then, by the last answer, at least.

    Where the buffer keeps the order of capture, the new rows of the first window are those behind the known ones, found
    by their order (`ProfilePosition.ends`): after a clock was set, values that stay the same give the same rows again.
    Where that is not clear, or the clock was set back by more than anybody knows, wider windows are asked for, too.

    A meter whose rows are relative to the row before in the *buffer* leaves out the row before where that was stamped
    outside the window. So its whole buffer is asked for, where it has at most `BASE_ROWS_MAX` rows.
    """

    def __init__(self, position: ProfilePosition, buffer: Buffer) -> None:
        self._place = position
        self._buffer = buffer
        self._stretch = 1
        self._in_vain = False
        self._high: CosemDateTime | None = None
        self._done = False
        self._taken = 0
        self.missing = 0
        self.wide = position.wide
        self._probing = self._gave_up = self._to_end = False
        self._at_begin = True  # the first window is asked for, or a wider one in its place
        self._unclear = False  # nothing tells yet which rows of the last answer are new
        self._whole = position.packing == BUFFER and buffer.in_use <= BASE_ROWS_MAX
        self._begin_first = self._begin()
        self._low = self._begin_first
        if self.wide:
            self._widen_to(self.wide)

    @property
    def from_first_row(self) -> bool:
        return self._whole

    @property
    def reaches_back(self) -> bool:
        return self._whole or bool(self.wide)

    @property
    def probing(self) -> bool:
        """Whether the row of `ProfilePosition.probe` was asked for, and nothing else."""
        return self._probing

    @property
    def complete(self) -> bool:
        """Whether all was asked for that is there."""
        return self._done

    @property
    def settled(self) -> bool:
        """Whether there is no row left to be looked for: all were seen, or it is said that they are missing."""
        return bool(self.missing) or (self._whole and self._buffer.in_order)

    @property
    def searched(self) -> bytes:
        """How far the time was searched in vain, 12 octets; empty where new rows were found, or the end was reached."""
        low, now = self._low.local(), self._buffer.clock_now
        if self._done or not self._in_vain or self.reaches_back:  # a wider window begins further back
            return b""
        return b"" if low and now and low > now else self._low.emit()  # what the clock has yet to come to

    def is_contiguous(self, rows: int) -> bool:
        """Whether an answer of so many rows has every row of the buffer: each behind the one before."""
        return self._whole and rows >= self._buffer.in_use

    def next_selection(self, rows_max: int) -> Selection | Whole | None:
        if self._done:
            return None
        self._probing = self._place.probe is not None and not self._whole
        if self._probing and self._place.probe is not None:
            time = axdr.octets(self._place.probe[0])
            return by_range(self._buffer.clock, time, time, self._buffer.columns)
        if self._whole:
            self._high = None
            return WHOLE
        self._high = None if self._to_end else self._window_end(rows_max)
        low, high = (axdr.octets(time.emit()) for time in (self._low, self._high or END_OF_TIME))
        return by_range(self._buffer.clock, low, high, self._buffer.columns)

    def take(self, rows: Sequence[CapturedRow]) -> list[CapturedRow]:
        self._unclear, self.missing = False, 0
        new = self._new(rows)
        expected = self._expected()
        if self._at_begin and (self._unclear or self._begins_before(new)):
            if not self._gave_up and self._widen(at_once=self._unclear):
                return []
            self.missing = 1
        if self._high is None and not self._gave_up and self._differs(len(new), expected) and self._widen():
            self._to_end = True
            return []
        self._at_begin = False
        self._stretch = 1 if rows else min(2 * self._stretch, STRETCH_MAX)
        self._in_vain = not new
        self._taken += len(new)
        if self._high is None:
            self._done = True
            # The whole buffer has no more than it has: the meter may have been without power.
            due = self._counted() if self._whole and self._buffer.in_order else expected
            if self._buffer.unsure:  # by the meter's own clock, which may have been set ahead: at least one
                due = max(min(due, len(new) + 1), self._counted())
            self.missing = max(self.missing, due - len(new))
        else:
            self._low, self.wide = self._high, 0
        return new

    def reach_back(self) -> bool:
        if self._whole or self._buffer.in_use > BASE_ROWS_MAX:
            return False
        self._whole = True
        return True

    def give_up_search(self) -> None:
        """The meter does not answer what is asked for in search of rows: read as if there was none to find."""
        self._whole, self.wide, self._low = False, 0, self._begin_first
        self._gave_up = self._at_begin = True

    def entry_of_last(self) -> int:
        return 0

    # --- inside ---

    def _new(self, rows: Sequence[CapturedRow]) -> list[CapturedRow]:
        place, in_order = self._place, self._buffer.in_order
        end = self._behind(rows) if in_order and self._at_begin and self._buffer.all_rows else None
        if end is not None:
            return [*place.strays(rows[:end]), *rows[end:]]
        new = place.unknown(rows, in_order=in_order)
        if self._buffer.newest:  # nothing tells that a stray one is among the newest
            new = [row for row in new if not row.stray]
        first = self._begin_first.local()
        if not in_order and place.known:  # nothing tells old rows from new ones but their time
            return [row for row in new if first is None or (row.local or first) >= first]
        if self._whole:
            behind = place.after_known(rows) if in_order and place.known else None
            strays = [row for row in new if row.stray]
            if behind is not None and len(strays) + len(rows) - behind >= min(self._expected(), len(new)):
                new = [*strays, *rows[behind:]]
            if not place.known or not self._buffer.all_rows:  # no row from before the first one that is wanted
                new = [row for row in new if first is None or (row.local or first) >= first]
        return new

    def _behind(self, rows: Sequence[CapturedRow]) -> int | None:
        """Return the index of the first row behind the known ones; `None` where these are not side by side.

        Where rows are alike there may be several: then those that leave more or fewer new rows than there can be are
        none. Of what remains it is the last, and it is unclear."""
        ends = self._place.ends(rows, whole=self._whole, dropped=self._buffer.full, again=self._again)
        if len(ends) > 1:
            least, most = self._expected(), self._most()
            ends = [end for end in ends if most is None or len(rows) - end <= most] or ends
            ends = [end for end in ends if len(rows) - end >= least] or ends
            self._unclear = len(ends) > 1
        return ends[-1] if ends else None

    @property
    def _again(self) -> bool:
        """Whether the clock comes by times that rows before the last one have: these may be alike."""
        last, mark = self._buffer.tail or self._place.local, self._place.mark
        return last is not None and mark is not None and mark > last

    def _most(self) -> int | None:
        """Return how many new rows there can be at most, `None` where nobody knows."""
        counted = self._counted() + CAPTURED_MEANWHILE if self._place.count and not self._buffer.full else None
        return min((most for most in (counted, self._buffer.most) if most is not None), default=None)

    def _expected(self) -> int:
        """Return how many new rows should be among those that are asked for last, at least."""
        buffer, place = self._buffer, self._place
        if not buffer.all_rows or not place.known:
            return 0
        due = buffer.due - self._taken if buffer.full else 0
        return max(0, self._counted(), min(due, buffer.size) if buffer.size else due)

    def _counted(self) -> int:
        """The same by the entries in use alone, which say nothing once rows leave the buffer."""
        buffer, count = self._buffer, self._place.count
        known = count and self._place.known and buffer.all_rows and (not buffer.size or count < buffer.size)
        return buffer.in_use - count if known else 0

    def _differs(self, new: int, expected: int) -> bool:
        if new < expected:
            return True
        buffer, place = self._buffer, self._place
        counted = buffer.all_rows and place.count and place.count <= buffer.in_use < buffer.size
        return bool(counted and not self._whole and buffer.period_s and new > expected + CAPTURED_MEANWHILE)

    def _begins_before(self, new: Sequence[CapturedRow]) -> bool:
        """Whether the clock was set back, and rows of then may be stamped before all that was asked for."""
        buffer, low = self._buffer, self._low.local()
        times = [local for row in new if not row.stray and (local := row.local) is not None]
        if self._whole or not (buffer.all_rows and self._place.known and times and low):
            return False
        first = min(times)
        before = buffer.tail or self._place.local
        if before is None or first > before:
            return False
        margin_s = BEFORE_FIRST_S if buffer.period_s else BEFORE_FIRST_EVENT_S
        # By how much it was set back is known; or a wider window would have old rows, and nothing tells which are new.
        if buffer.most is not None or not buffer.in_order:
            margin_s = buffer.period_s
        return first - low < timedelta(seconds=margin_s)

    def _widen(self, *, at_once: bool = False) -> bool:
        """Ask for more around the last known row, `at_once` as much as it may be. Returns whether there is more to ask
        for."""
        if self._whole or not self._buffer.in_order:
            return False
        self._at_begin = True
        return self._widen_to(max(self.wide + 1, WIDE_AT_ONCE if at_once else 0), at_once=at_once)

    def _widen_to(self, level: int, *, at_once: bool = False) -> bool:
        buffer = self._buffer
        whole_rows = buffer.in_use or buffer.size or WIDE_ROWS_MAX + 1
        wide_s = OVERLAP_S * WIDER**level
        period_s = buffer.period_s or (EVENT_S if whole_rows > WIDE_ROWS_MAX else 0)
        rows = wide_s // period_s if period_s else WIDE_ROWS_MAX + 1
        most = whole_rows // 2 if buffer.in_use or buffer.size else WIDE_ROWS_MAX
        by_time = rows < min(most, WIDE_ROWS_MAX) and not (at_once and whole_rows <= WIDE_ROWS_MAX)
        if by_time and (low := self._begin_first.later(-wide_s)) is not None:
            self._low, self.wide = low, level
            return True
        self._whole = whole_rows <= WIDE_ROWS_MAX
        self.wide = level if self._whole else self.wide
        return self._whole

    def _begin(self) -> CosemDateTime:
        position, begin = self._place, self._buffer.first or BEGIN_OF_TIME
        octets = position.searched or position.clock
        oldest = self._oldest_wanted()
        if oldest is not None and (not octets or (CosemDateTime.parse(octets).local() or oldest[0]) < oldest[0]):
            return oldest[1]
        if not octets:
            return begin
        known = CosemDateTime.parse(octets)
        local = known.local()
        now = self._buffer.now
        # A clock that was set back stamps what it captures with what it says now.
        behind_s = (local - now).total_seconds() if local is not None and now is not None and local > now else 0.0
        behind_s = max(behind_s, self._behind_s(local))
        if self._buffer.period_s and behind_s > WIDE_ROWS_MAX * self._buffer.period_s:
            behind_s = 0.0  # a clock that is nowhere near: those rows are searched for by their count
        return known.later(-round(behind_s) - OVERLAP_S - self._buffer.period_s) or begin

    def _behind_s(self, known: datetime | None) -> float:
        """Return how long before `known`, up to where time was searched, new rows may be stamped: since the clock was
        set back, or had been when the last row was taken."""
        buffer, plausible = self._buffer, self._place.local
        if not buffer.in_order or known is None:  # nothing would tell the rows of then
            return buffer.set_back_s
        set_back_s = buffer.set_back_s
        if buffer.said is not None:  # all that is new is later than the time that the clock would have said then
            set_back_s = min(set_back_s, set_back_s + (known - buffer.said).total_seconds())
        tail = buffer.tail if buffer.tail and plausible and buffer.tail < plausible else None
        times = [time for time in (buffer.clock_now, tail) if time is not None]
        return max(set_back_s, *[(known - time).total_seconds() for time in times], 0.0)

    def _oldest_wanted(self) -> tuple[datetime, CosemDateTime] | None:
        """Return the time of the oldest row that is wanted, where only the newest ones are and it can be reckoned."""
        buffer = self._buffer
        if not (buffer.newest and buffer.period_s and buffer.now is not None):
            return None
        local = buffer.now - timedelta(seconds=buffer.newest * buffer.period_s - 1)
        clock = CosemDateTime.from_datetime(local)
        return local, clock if buffer.first is None else replace(clock, deviation=buffer.first.deviation)

    def _window_end(self, rows_max: int) -> CosemDateTime | None:
        """Return the end of the window; `None` for all up to the end of the profile, where no end can be computed: that
        takes a capture period, and somebody who knows what time it is. Likewise while the clock is behind what it has
        said: rows of then lie among the new ones, and only their order tells them apart."""
        buffer = self._buffer
        if not buffer.period_s or buffer.now is None:
            return None
        # The last known row is in the first window: the order of rows tells new ones from those of before.
        start = self._begin_first if self._at_begin else self._low  # a wider one ends where the first one would
        known, place = self._place.local, start.local()
        ahead_s = (known - place).total_seconds() if self._at_begin and known and place else 0.0
        end = start.later(round(max(0.0, ahead_s)) + buffer.period_s * rows_max * self._stretch)
        local = end.local() if end is not None else None
        if local is None or place is None or local >= buffer.now:
            return None
        top = max(filter(None, (self._place.mark, buffer.now)), default=buffer.now)
        mixed = not self._taken and (self._again or bool(self._place.ahead))
        if mixed and (top - place).total_seconds() <= WIDE_ROWS_MAX * buffer.period_s:
            return None
        return end
