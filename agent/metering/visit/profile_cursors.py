"""Which rows of a profile to ask for next: by their number in the buffer, or by their time.

Sans-IO. By number is better: the count of rows is known before they are asked for, empty time costs nothing, and a
clock that was set does not matter. It takes a buffer that keeps the oldest row first (sort method FIFO), the attribute
`entries_in_use`, and a meter that selects by entry. All others are asked by time.

A cursor says what to select (`next_selection`), is given the rows that came, and returns those that were not taken yet
(`take`). It does not change the `ProfilePosition`; who takes the rows does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import ceil
from typing import Protocol

from agent.metering.visit.profile_position import OVERLAP_S, CapturedRow, ProfilePosition
from dlms import axdr
from dlms.cosem.obis import Selection
from dlms.cosem.profile import BEGIN_OF_TIME, END_OF_TIME, CaptureObject, by_entry, by_range
from dlms.cosem.time import CosemDateTime

OVERLAP_ROWS = 2  # known rows asked for again, to see that the numbers are still those of the last visit
SEARCH_ROWS = 3  # looked at in one place of the buffer: one with a wrong time stamp does not lead the search astray
STRETCH_MAX = 64  # an empty window is followed by one of twice its length, up to so many times that of the first
FIRST_ROWS_UNKNOWN = 96  # read at first where neither the meter nor we know the time


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


class Cursor(Protocol):
    """The next rows, step by step."""

    @property
    def overlaps(self) -> bool:
        """Whether the rows asked for last begin with known ones, or could."""

    def next_selection(self, rows_max: int) -> Selection | None:
        """What to ask for; `None` at the end of the profile."""

    def take(self, rows: Sequence[CapturedRow]) -> list[CapturedRow]:
        """The rows of the answer that are new."""

    def go_on_behind(self) -> bool:
        """Ask for nothing known again, since the meter's answer begins with a row whose time is relative. Returns
        whether that is possible."""

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
        self._behind = False
        self._asked = 0
        fresh = buffer.first is not None and not position.known and not buffer.newest
        self._first = buffer.first.local() if buffer.first is not None and fresh else None
        # What lies before the newest rows is not wanted: known rows there need not be searched.
        self._low = max(1, buffer.in_use - buffer.newest + 1) if buffer.newest else 1
        self._next = self._low if buffer.newest and not position.known else max(self._low, self._guess())
        self._searched = self._low > 1
        self._last = 0
        if self._first is not None and not buffer.period_s and buffer.in_use > FIRST_ROWS_UNKNOWN:
            self._begin_search()  # an event log, which may go back for years

    @property
    def overlaps(self) -> bool:
        return not self._behind and not self._joined

    def next_selection(self, rows_max: int) -> Selection | None:
        if self._search is not None:
            if len(self._search) > max(rows_max // 2, SEARCH_ROWS):
                middle = self._search[len(self._search) // 2]
                self._asked = min(SEARCH_ROWS, self._buffer.in_use - middle + 1)
                return self._rows(middle)
            self._next, self._search = max(1, self._search.start - 1), None
        if self._next > self._buffer.in_use:
            return None
        self._asked = min(rows_max, self._buffer.in_use - self._next + 1)
        return self._rows(self._next)

    def take(self, rows: Sequence[CapturedRow]) -> list[CapturedRow]:
        if self._search is not None:
            self._halve(self._search, rows)
            return []
        if not rows:
            self._next = self._buffer.in_use + 1  # fewer rows than the meter said there are
            return []
        start, joined = 0, self._joined or self._behind
        if not joined:
            found = self._place.after_known(rows)
            if found is None and not self._searched and self._may_lie_elsewhere(rows):
                self._begin_search()
                return []
            start = self._later_than_place(rows) if found is None else found
            joined = found is not None or start < len(rows)
        new = [row for row in rows[start:] if self._wanted(row)]
        self._last = self._next + len(rows) - 1
        # The last rows again in front of the next ones: a full buffer may have moved on meanwhile.
        again = len(rows) > 2 * OVERLAP_ROWS and not self._behind and joined and (bool(new) or self._place.known)
        self._next = self._last + 1 - (OVERLAP_ROWS if again and self._last < self._buffer.in_use else 0)
        self._joined = joined and self._next > self._last
        return new

    def go_on_behind(self) -> bool:
        if self._behind or not self._place.entry or self._full or self._search is not None:
            return False
        self._behind = True
        self._next = self._place.entry + 1
        return True

    def entry_of_last(self) -> int:
        return self._last

    # --- inside ---

    def _rows(self, first: int) -> Selection:
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
    """

    def __init__(self, position: ProfilePosition, buffer: Buffer) -> None:
        self._place = position
        self._buffer = buffer
        self._stretch = 1
        self._in_vain = False
        self._behind = False
        self._high: CosemDateTime | None = None
        self._done = False
        self._first_window = position.known
        self._low = self._begin()

    @property
    def overlaps(self) -> bool:
        return self._first_window and not self._behind

    @property
    def searched(self) -> bytes:
        """How far the time was searched in vain, 12 octets; empty where new rows were found, or the end was reached."""
        return self._low.emit() if self._in_vain and not self._done else b""

    def next_selection(self, rows_max: int) -> Selection | None:
        if self._done:
            return None
        self._high = self._window_end(rows_max)
        low, high = (axdr.octets(time.emit()) for time in (self._low, self._high or END_OF_TIME))
        return by_range(self._buffer.clock, low, high, self._buffer.columns)

    def take(self, rows: Sequence[CapturedRow]) -> list[CapturedRow]:
        new = self._place.unknown(rows)
        self._first_window = False
        self._stretch = 1 if rows else min(2 * self._stretch, STRETCH_MAX)
        self._in_vain = not new
        if self._high is None:
            self._done = True
        else:
            self._low = self._high
        return new

    def go_on_behind(self) -> bool:
        behind = CosemDateTime.parse(self._place.clock).later(1) if self._place.clock else None
        if self._behind or behind is None:
            return False
        self._behind, self._low = True, behind
        return True

    def entry_of_last(self) -> int:
        return 0

    # --- inside ---

    def _begin(self) -> CosemDateTime:
        position, begin = self._place, self._buffer.first or BEGIN_OF_TIME
        octets = position.searched or position.clock
        oldest = self._oldest_wanted()
        if oldest is not None and (not octets or (CosemDateTime.parse(octets).local() or oldest[0]) < oldest[0]):
            return oldest[1]
        if not octets:
            return begin
        known = CosemDateTime.parse(octets)
        local, now = known.local(), self._buffer.now
        # A clock that was set back stamps what it captures with what it says now.
        behind_s = (local - now).total_seconds() if local is not None and now is not None and local > now else 0.0
        return known.later(-round(behind_s) - OVERLAP_S - self._buffer.period_s) or begin

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
        takes a capture period, and somebody who knows what time it is."""
        buffer = self._buffer
        if not buffer.period_s or buffer.now is None:
            return None
        end = self._low.later(buffer.period_s * rows_max * self._stretch)
        local = end.local() if end is not None else None
        return None if local is None or local >= buffer.now else end
