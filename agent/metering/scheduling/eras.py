"""Which clock the newest readings were made under, kept for the next life of the process.

A process that is killed while a trusted clock lies would leave its readings trusted for ever: the next life finds runs
without a word on the clock they were reckoned with. So the offset between civil and monotonic time is stored with the
first trusted readings that it was used for, in their transaction, among what is learned of meters; it counts for the
same store, and for the same boot, within which monotonic time goes on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from agent.metering.scheduling.slots import CORRECTION_S, ERAS_MAX, Done, Key, Moment
from agent.metering.store.blocks import pack
from agent.metering.store.reading_store import Store

NAME = "#clock"  # in place of a meter


@dataclass(frozen=True, slots=True)
class StoredEra:
    """Readings with ids from `first` on were made while civil time was monotonic time plus `offset`, which began at
    `since` by that civil time."""

    offset: float
    since: float
    first: int


class EraBook:
    """Not thread-safe. `boot` tells this boot from others; without one nothing is kept."""

    def __init__(self, store: Store, boot: str) -> None:
        self._store = store
        self._boot = boot
        self._eras: list[StoredEra] = []
        self._durable = ""  # the store that has them
        self._pending: list[StoredEra] = []

    def load(self) -> None:
        """Take up what an earlier life of this boot left. Raises `StoreError`."""
        kept = self._store.knowledge(NAME) if self._boot else None
        uuid = self._store.file.uuid
        if kept is None or kept.get("boot") != self._boot or kept.get("store") != uuid:
            return
        eras = kept.get("eras")
        for one in eras if isinstance(eras, list) else []:
            if isinstance(one, list) and len(one) == 3 and all(isinstance(each, int | float) for each in one):
                self._eras.append(StoredEra(float(one[0]), float(one[1]), int(one[2])))
        self._durable = uuid

    def done(self, progress: Mapping[Key, tuple[int, int]], before: Mapping[Key, int]) -> dict[Key, Done]:
        """What meters were read for, as the store says it, with the offset of their era where it is known."""
        found: dict[Key, Done] = {}
        for key, (at, run) in progress.items():
            era = next((one for one in reversed(self._eras) if one.first <= at), None)
            plain = Done(run, before.get(key, 0))
            found[key] = plain if era is None else Done(run, before.get(key, 0), era.offset, era.since)
        return found

    def write(self, db: sqlite3.Connection, now: Moment, first: int | None = None) -> None:
        """Within the transaction that stores readings of this trusted moment, or marks that were found right in it:
        keep its era, where it is a new one. `first`: the id of the transaction's first record, without it that of the
        newest visit."""
        uuid = self._store.file.uuid
        same_store = self._durable == uuid
        known = bool(self._eras) and abs(self._eras[-1].offset - now.offset) <= CORRECTION_S
        if not self._boot or (same_store and known):
            return
        if first is None:
            first = int(db.execute("SELECT COALESCE(MAX(first), 1) FROM block").fetchone()[0])
        self._pending = [*(self._eras if same_store else []), StoredEra(now.offset, now.wall, first)][-ERAS_MAX:]
        body = {"boot": self._boot, "store": uuid, "eras": [[e.offset, e.since, e.first] for e in self._pending]}
        db.execute(
            "INSERT INTO knowledge VALUES (?, ?) ON CONFLICT (meter) DO UPDATE SET body=excluded.body",
            (NAME, pack(body)),
        )

    def written(self) -> None:
        """The last transaction was committed."""
        if self._pending:
            self._eras, self._pending, self._durable = self._pending, [], self._store.file.uuid
