"""The search for the one record of a batch that the head-end does not take, and the doubt about its verdict: sans-IO.

Each request halves what the record can be in, so that one of n costs log2(n) + 2 requests; halves without it are
delivered on the way.

A head-end that refuses everything, or something else that answers in its place, must not empty the store. So a record
is set aside only by a head-end that has taken something since it refused the last ones: `credit` counts. Without, the
record stays, and the batches go on behind it until one is taken; if none is, they begin again.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.metering.store.reading_store import Batch

CREDIT_MAX = 8  # records that may be refused in a row


@dataclass(frozen=True, slots=True)
class Window:
    """The record is among `count` that wait with these ids of this store."""

    store: str
    first: int
    last: int
    count: int


class PoisonSearch:
    """Halves the batches that a sink refuses, until the one record that it cannot take is found."""

    def __init__(self) -> None:
        self.window: Window | None = None
        self._credit = 0
        self._behind: tuple[str, int] | None = None

    def limit(self) -> int:
        """Return how many records the next batch may have: half of those in the window; one without a window."""
        return max(1, self.window.count // 2) if self.window else 1

    def first(self, store: str) -> int:
        """Return the id at which batches begin, 0 for the very first. `store`: the uuid of the present store."""
        if self._behind is None:
            return 0
        of_store, last = self._behind
        return last + 1 if of_store == store else 1

    def narrow(self, batch: Batch) -> bool:
        """A batch was refused. Returns whether there is more than one record in it, so that the search goes on."""
        alone = len(batch.records) == 1
        self.window = None if alone else Window(batch.store, batch.first, batch.last, len(batch.records))
        return not alone

    def taken(self, batch: Batch) -> None:
        """A batch was taken."""
        self._credit = min(CREDIT_MAX, self._credit + 1)
        self._behind = None
        window = self.window
        if window is not None and window.store == batch.store and window.first <= batch.last < window.last:
            count = window.count - len(batch.records)
            self.window = Window(window.store, batch.last + 1, window.last, count) if count > 0 else None
        else:
            self.window = None

    def condemn(self, batch: Batch) -> bool:
        """A record was refused alone. Returns whether that is to be believed; if not, batches go on behind it."""
        if self._credit:
            self._credit -= 1
            return True
        self._behind = (batch.store, batch.last)
        return False

    def begin_again(self) -> bool:
        """Nothing waits where batches would go on. Returns whether something may wait before."""
        before, self._behind = self._behind is not None, None
        return before
