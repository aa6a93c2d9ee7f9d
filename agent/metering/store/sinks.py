"""The positions of further sinks: who listens beside the head-end has a place of its own in the store.

A sink gets the records in the order of their ids, whether or not the head-end has them, from the moment on at which it
was first used. It holds up nothing: delivered records are kept for it up to a quarter of the store's bound, and what
goes before it came for it is counted as missed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from agent.metering.store.blocks import BLOCKS_PER_BATCH_MAX, block_rows, blocks
from omadm.readings import record


@dataclass(frozen=True, slots=True)
class SinkBatch:
    """The next records for a sink; the ids up to `last` are dealt with when it has them. `missed`: how many on the way
    there are gone."""

    store: str
    last: int
    records: tuple[dict[str, object], ...]
    missed: int


@dataclass(frozen=True, slots=True)
class SinkState:
    """How many records wait for a sink, and how many it did not get, or will not: they are gone."""

    waiting: int
    missed: int


def add(db: sqlite3.Connection, counters: dict[str, int], name: str) -> None:
    """A sink of this name is in use: one that was never seen begins here."""
    db.execute("INSERT OR IGNORE INTO sink VALUES (?, ?, 0)", (name, counters["next"] - 1))


def next_records(
    db: sqlite3.Connection, counters: dict[str, int], uuid: str, name: str, records_max: int
) -> SinkBatch | None:
    """Return what a sink gets next, `None` when it has everything."""
    db.execute("INSERT OR IGNORE INTO sink VALUES (?, 0, 0)", (name,))  # a store that took the place of another
    position = db.execute("SELECT position FROM sink WHERE name=?", (name,)).fetchone()[0]
    records: list[dict[str, object]] = []
    reached, missed = position, 0
    for first, last, body in blocks(db, position + 1, counters["next"] - 1, BLOCKS_PER_BATCH_MAX):
        low = max(first, reached + 1)
        missed += low - reached - 1
        rows = block_rows(first, last, body)
        if rows is None:
            missed, reached = missed + last - low + 1, last
            continue
        taken = rows[low - first :][: records_max - len(records)]
        records += [record(record_id, row) for record_id, row in enumerate(taken, low)]
        reached = low + len(taken) - 1
        if len(records) >= records_max:
            break
    return SinkBatch(uuid, reached, tuple(records), missed) if reached > position else None


def done(db: sqlite3.Connection, name: str, last: int, missed: int) -> None:
    """A sink has the records up to `last`; so many of them it did not get."""
    db.execute("UPDATE sink SET position=?, missed=missed+? WHERE name=? AND position < ?", (last, missed, name, last))


def states(db: sqlite3.Connection, counters: dict[str, int]) -> dict[str, SinkState]:
    """Return how every sink stands that was ever used."""
    found = {}
    for name, position, missed in db.execute("SELECT name, position, missed FROM sink ORDER BY name").fetchall():
        ahead = "SELECT COALESCE(SUM(last - MAX(first, ?) + 1), 0) FROM block WHERE last >= ?"
        waiting = db.execute(ahead, (position + 1, position + 1)).fetchone()[0]
        found[name] = SinkState(waiting, missed + max(0, counters["next"] - 1 - position - waiting))
    return found


def lag(db: sqlite3.Connection, names: Iterable[str], released: int) -> int:
    """Return how many records that the head-end has the slowest of these sinks is still to get."""
    positions = [row[0] for name in names for row in db.execute("SELECT position FROM sink WHERE name=?", (name,))]
    return max(0, released - min(positions)) if positions else 0
