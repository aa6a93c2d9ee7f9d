"""The positions of further sinks: who listens beside the head-end has a place of its own in the store.

A sink gets the records in the order of their ids, whether or not the head-end has them, from the moment on at which it
was first used. It holds up nothing: delivered records are kept for it up to a quarter of the store's bound, and what
goes before it came for it is counted as missed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from agent.metering.store.blocks import BLOCKS_PER_BATCH_MAX, block_rows, blocks
from omadm.readings import ID_MAX, record

KEPT_MAX = 1000  # records that a sink would not take
REFUSED_AT = "refused_at"  # beside the fields of a record that is set aside
REFUSED_BY = "refused_by"  # likewise, the last one: the sink that would not take it; not there: the head-end
BY_A_SINK = f'"{REFUSED_BY}": '  # in its JSON text


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
    """How many records wait for a sink, and how many it did not get, or will not: they are gone, or were set aside.
    `refused`: how many of those that it did not take are kept for a person to look at, the last one at `refused_at`,
    for `refused_why`."""

    waiting: int
    missed: int
    refused: int = 0
    refused_at: float = 0.0
    refused_why: str = ""


def add(db: sqlite3.Connection, counters: dict[str, int], name: str) -> None:
    """A sink of this name is in use: one that was never seen begins here."""
    db.execute("INSERT OR IGNORE INTO sink VALUES (?, ?, 0)", (name, counters["next"] - 1))


def next_records(
    db: sqlite3.Connection,
    counters: dict[str, int],
    uuid: str,
    name: str,
    records_max: int,
    *,
    after: int = 0,
    last: int = ID_MAX,
) -> SinkBatch | None:
    """Return what a sink gets next of the ids behind its position and `after`, up to `last`; `None` when it has
    everything."""
    db.execute("INSERT OR IGNORE INTO sink VALUES (?, 0, 0)", (name,))  # a store that took the place of another
    position = max(after, db.execute("SELECT position FROM sink WHERE name=?", (name,)).fetchone()[0])
    records: list[dict[str, object]] = []
    reached, missed = position, 0
    for first, block_last, body in blocks(db, position + 1, min(last, counters["next"] - 1), BLOCKS_PER_BATCH_MAX):
        low, high = max(first, reached + 1), min(block_last, last)
        missed += low - reached - 1
        rows = block_rows(first, block_last, body)
        if rows is None:
            missed, reached = missed + high - low + 1, high
            continue
        taken = rows[low - first : high - first + 1][: records_max - len(records)]
        records += [record(record_id, row) for record_id, row in enumerate(taken, low)]
        reached = low + len(taken) - 1
        if len(records) >= records_max:
            break
    return SinkBatch(uuid, reached, tuple(records), missed) if reached > position else None


def done(db: sqlite3.Connection, name: str, last: int, missed: int) -> None:
    """A sink has the records up to `last`; so many of them it did not get."""
    db.execute("UPDATE sink SET position=?, missed=missed+? WHERE name=? AND position < ?", (last, missed, name, last))


def set_aside(db: sqlite3.Connection, name: str, rows: Iterable[tuple[str, str]]) -> None:
    """Keep records that a sink did not take, as JSON with `REFUSED_BY`, each with the reason; the newest `KEPT_MAX`."""
    db.executemany("INSERT INTO refused (record, why) VALUES (?, ?)", rows)
    mine = "SELECT id FROM refused WHERE instr(record, ?) > 0 ORDER BY id DESC"
    db.execute(
        f"DELETE FROM refused WHERE id <= (SELECT id FROM ({mine}) LIMIT 1 OFFSET ?) AND instr(record, ?) > 0",  # noqa: S608
        (_by(name), KEPT_MAX, _by(name)),
    )


def _by(name: str) -> str:
    """Return what stands in the JSON of each record that this sink refused, and in no other: within a text of JSON
    there is no quotation mark without a backslash before it."""
    return json.dumps({REFUSED_BY: name})[1:-1]


def states(db: sqlite3.Connection, counters: dict[str, int]) -> dict[str, SinkState]:
    """Return how every sink stands that was ever used."""
    found = {}
    for name, position, missed in db.execute("SELECT name, position, missed FROM sink ORDER BY name").fetchall():
        ahead = "SELECT COALESCE(SUM(last - MAX(first, ?) + 1), 0) FROM block WHERE last >= ?"
        waiting = db.execute(ahead, (position + 1, position + 1)).fetchone()[0]
        gone = max(0, counters["next"] - 1 - position - waiting)
        mine = "FROM refused WHERE instr(record, ?) > 0"
        count = db.execute(f"SELECT COUNT(*) {mine}", (_by(name),)).fetchone()[0]
        newest = db.execute(f"SELECT record, why {mine} ORDER BY id DESC LIMIT 1", (_by(name),)).fetchone()
        found[name] = SinkState(waiting, missed + gone, count, *(_refusal(*newest) if newest else ()))
    return found


def _refusal(text: str, why: str) -> tuple[float, str]:
    """Return when a record was refused, 0 where that cannot be read, and why."""
    try:
        at = json.loads(text)[REFUSED_AT]
    except (ValueError, RecursionError, KeyError, TypeError):
        at = None
    return float(at) if isinstance(at, int | float) else 0.0, why


def lag(db: sqlite3.Connection, names: Iterable[str], released: int) -> int:
    """Return how many records that the head-end has the slowest of these sinks is still to get."""
    positions = [row[0] for name in names for row in db.execute("SELECT position FROM sink WHERE name=?", (name,))]
    return max(0, released - min(positions)) if positions else 0
