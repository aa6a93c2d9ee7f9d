"""What is missing, said once more as a whole, so that the device and the head-end list the same.

A report of a gap may be lost for good: with the store's log, as a record that the head-end refused, with the head-end's
database. A range would then stay open there for ever, or never be known. So a digest of all open gaps is sent soon
after a start and every hour, at a moment at which nothing else waits. Where the head-end has another one, all gaps
follow, in pages. A list counts only while the head-end knows of no later report than the list does.

A page that the head-end does not take, in time or at all, is sent again half as large, and so are all that follow it;
the pause before it doubles with each failure in a row.
"""

from __future__ import annotations

from agent.metering.ledger import gap_table
from agent.metering.store.reading_store import Store
from omadm.readings import GapKey, GapList, ListAnswer

FIRST_S = 300.0  # after a start: readings first
STATED_EVERY_S = 3600.0
AGAIN_S = 60.0  # after a list that came too late: reports made after it were there before it; and after a failure
PAGE_GAPS = 500  # some 100 KB before compression
PAGE_CHARS = 256 * 1024  # with the longest names a gap has some 4 KB
PAGE_GAPS_MIN = 8


class GapLists:
    """Not thread-safe."""

    def __init__(self, store: Store, now: float) -> None:
        """`now`: monotonic seconds, as everywhere here."""
        self._store = store
        self._due_at = now + FIRST_S
        self._paging = False  # the head-end has another digest, and wants the gaps
        self._begin: GapKey | None = None  # where the next page begins, and the one after it
        self._before: GapKey | None = None
        self._gaps_max = PAGE_GAPS
        self.failures = 0  # in a row

    def next(self, now: float) -> GapList | None:
        """Return what is to be sent now, `None` for nothing. Raises `StoreError`."""
        if now < self._due_at:
            return None
        if not self._paging:
            found = self._store.ask_delivered(gap_table.digest)
            return GapList(found[0], found[1]) if found is not None else None
        begin, size = self._begin, self._gaps_max
        page = self._store.ask_delivered(lambda db: gap_table.page(db, begin, size, PAGE_CHARS))
        if page is None:
            return None
        as_of, (self._before, gaps) = page
        return GapList(as_of, "", begin, self._before, gaps)

    def answered(self, answer: object, now: float) -> None:
        """The head-end has answered what was returned last; `answer` is the member `listed`."""
        self.failures = 0
        if answer == ListAnswer.DIFFERS and not self._paging:
            self._paging, self._begin = True, None
        elif answer == ListAnswer.TAKEN and self._paging and self._before is not None:
            self._begin = self._before
        else:
            late = answer == ListAnswer.LATER
            self._paging, self._gaps_max, self._due_at = False, PAGE_GAPS, now + (AGAIN_S if late else STATED_EVERY_S)

    def failed(self, now: float) -> None:
        """There was no answer to what was returned last, or one that says that it was not taken now."""
        self.failures += 1
        if self._paging:
            self._gaps_max = max(self._gaps_max // 2, PAGE_GAPS_MIN)
        self._due_at = now + min(AGAIN_S * 2 ** (self.failures - 1), STATED_EVERY_S)
