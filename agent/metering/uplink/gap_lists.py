"""What is missing, said once more as a whole, so that the device and the head-end list the same.

A report of a gap may be lost for good: with the store's log, as a record that the head-end refused, with the head-end's
database. A range would then stay open there for ever, or never be known. So a digest of all open gaps is sent soon
after a start and every hour, at a moment at which nothing else waits. Where the head-end has another one, all gaps
follow, in pages of whole meters. A list counts only while the head-end knows of no later report than the list does.
"""

from __future__ import annotations

from agent.metering.ledger import gap_table
from agent.metering.store.reading_store import Store
from omadm.readings import GapList, ListAnswer

FIRST_S = 300.0  # after a start: readings first
STATED_EVERY_S = 3600.0
AGAIN_S = 60.0  # after a list that came too late: reports made after it were there before it
PAGE_GAPS = 500  # some 100 KB before compression


class GapLists:
    """Not thread-safe."""

    def __init__(self, store: Store, now: float) -> None:
        """`now`: monotonic seconds, as everywhere here."""
        self._store = store
        self._due_at = now + FIRST_S
        self._after: str | None = None  # the meter after which the next page begins; `None` while none is wanted
        self._until: str | None = None

    def next(self, now: float) -> GapList | None:
        """Return what is to be sent now, `None` for nothing. Raises `StoreError`."""
        if now < self._due_at:
            return None
        after = self._after
        if after is None:
            found = self._store.ask_delivered(gap_table.digest)
            return GapList(found[0], found[1]) if found is not None else None
        page = self._store.ask_delivered(lambda db: gap_table.page(db, after, PAGE_GAPS))
        if page is None:
            return None
        as_of, (self._until, gaps) = page
        return GapList(as_of, "", after, self._until, gaps)

    def answered(self, answer: object, now: float) -> None:
        """The head-end has answered what was returned last; `answer` is the member `listed`."""
        if answer == ListAnswer.DIFFERS and self._after is None:
            self._after = ""
        elif answer == ListAnswer.TAKEN and self._after is not None and self._until is not None:
            self._after = self._until
        else:
            late = answer == ListAnswer.LATER
            self._after, self._due_at = None, now + (AGAIN_S if late else STATED_EVERY_S)
