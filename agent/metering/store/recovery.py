"""How the store recovers what is left in a quarantined file, in bounded steps, each durable.

A file is quarantined because it is damaged, or because a later version of this software made it: after a rollback to
the other slot the earlier one cannot read it, and begins a store of its own. In either case what it held and the
head-end does not have belongs to this device's queue. `quarantined.reached` says how far a file has been recovered, so
a power cut in the middle costs one step and brings nothing twice.
"""

from __future__ import annotations

import sqlite3
import uuid
from dataclasses import dataclass
from itertools import islice

from agent.metering.store.delivery import Range, count, without
from agent.metering.store.salvage import Block, SalvageReader, marks_of
from agent.metering.store.store_schema import LEDGER

BLOCKS_PER_STEP = 64
LOSSES_MAX = 1000  # intervals remembered


@dataclass(frozen=True, slots=True)
class QuarantinedFile:
    """A file in quarantine. `reached` counts in ids of its blocks; `store` names what they are records of."""

    name: str
    store: str
    reached: int
    stored_at: float
    salvaged: int
    lost: int
    done: bool


def recovery_state(db: sqlite3.Connection, name: str) -> QuarantinedFile | None:
    row = db.execute(
        "SELECT name, store, reached, stored_at, salvaged, lost, done FROM quarantined WHERE name=?", (name,)
    ).fetchone()
    if row is None:
        return None
    name, store, reached, stored_at, salvaged, lost, done = row
    return QuarantinedFile(name, store, reached, stored_at, salvaged, lost, done=bool(done))


def begin(
    db: sqlite3.Connection, counters: dict[str, int], name: str, salvage: SalvageReader, now: float
) -> QuarantinedFile:
    """Recover all but the blocks: progress, the ledger, what is known of meters, refused records, losses before."""
    head = salvage.head()
    file = QuarantinedFile(name, head.store or uuid.uuid4().hex, head.released or 0, 0.0, 0, 0, done=False)
    db.executemany(
        "INSERT INTO progress (meter, task, run) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET run=max(run, excluded.run)",
        [row for row in salvage.progress() if _is_progress(*row)],
    )
    db.executemany(
        "INSERT OR IGNORE INTO knowledge VALUES (?, ?)",
        [row for row in salvage.knowledge() if isinstance(row[0], str) and isinstance(row[1], bytes)],
    )
    db.executemany(
        "INSERT OR IGNORE INTO refused VALUES (?, ?, ?)",
        [row for row in salvage.refused() if isinstance(row[1], str) and isinstance(row[2], str)],
    )
    for table, (columns, _) in LEDGER.items():
        places = ", ".join("?" * len(columns))
        db.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({places})", salvage.ledger(table))  # noqa: S608
    db.executemany("INSERT OR IGNORE INTO quarantined VALUES (?, ?, ?, ?, ?, ?, ?, ?)", salvage.quarantined())
    for counter in ("forwarded", "lost", "refused"):
        counters[counter] += head.counts.get(counter, 0)
    for _, store, block in salvage.recovered(0):
        _put(db, store, block)
    _save(db, file, now)
    return file


def proceed(
    db: sqlite3.Connection, counters: dict[str, int], file: QuarantinedFile, salvage: SalvageReader, now: float
) -> QuarantinedFile:
    """Recover some more blocks. The result is `done` when nothing is left."""
    head, delivered = salvage.head(), salvage.delivered()
    blocks = list(islice(salvage.blocks(file.reached), BLOCKS_PER_STEP))
    reached, stored_at, salvaged, lost = file.reached, file.stored_at, 0, 0
    for block in blocks:
        if block.first <= reached < block.last:
            pass  # partly delivered: it goes again whole, and the head-end knows what it has
        elif block.last <= reached:
            continue
        elif block.first > reached + 1 and (reached or head.released is not None):
            lost += _note_hole(db, (reached + 1, block.first - 1), delivered, stored_at, block.made, now)
        if not without((block.first, block.last), delivered):
            _mark(db, block)
        elif block.body:
            _put(db, file.store, block)
            salvaged += block.last - max(block.first - 1, reached)
            _mark(db, block)
        else:
            gone = count(without((max(block.first, reached + 1), block.last), delivered))
            note_loss(db, now, block.meter, block.since or stored_at, block.made, gone, "damaged")
            lost += gone
        reached, stored_at = block.last, block.made
    done = len(blocks) < BLOCKS_PER_STEP
    if done and head.next is not None and head.next > reached + 1:
        lost += _note_hole(db, (reached + 1, head.next - 1), delivered, stored_at, 0.0, now)
    if done and not reached and not head.counts:  # not a single page of it could be read: nobody knows how many
        note_loss(db, now, "", 0.0, now, 0, "damaged")
    counters["lost"] += lost
    after = QuarantinedFile(
        file.name, file.store, reached, stored_at, file.salvaged + salvaged, file.lost + lost, done=done
    )
    _save(db, after, now)
    return after


def note_loss(
    db: sqlite3.Connection, now: float, meter: str, since: float, until: float, records: int, why: str
) -> None:
    """Remember that records of this meter (`""`: of whichever) that speak of this time are gone for good."""
    row = (now, meter, since, until, records, why)
    db.execute("INSERT INTO loss (noted, meter, since, until, records, why) VALUES (?, ?, ?, ?, ?, ?)", row)
    db.execute("DELETE FROM loss WHERE seq <= (SELECT MAX(seq) FROM loss) - ?", (LOSSES_MAX,))


def _note_hole(
    db: sqlite3.Connection, hole: Range, delivered: list[Range], since: float, until: float, now: float
) -> int:
    lost = count(without(hole, delivered))
    if lost:
        note_loss(db, now, "", since, until or now, lost, "damaged")
    return lost


def _mark(db: sqlite3.Connection, block: Block) -> None:
    db.executemany(
        "INSERT INTO progress (meter, task, run) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET run=max(run, excluded.run)",
        marks_of(block.marks),
    )


def _put(db: sqlite3.Connection, store: str, block: Block) -> None:
    db.execute(
        "INSERT OR IGNORE INTO recovered (store, first, last, made, meter, marks, since, body)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (store, block.first, block.last, block.made, block.meter, block.marks, block.since, block.body),
    )


def _is_progress(meter: object, task: object, run: object) -> bool:
    return isinstance(meter, str) and isinstance(task, str) and isinstance(run, int)


def _save(db: sqlite3.Connection, file: QuarantinedFile, now: float) -> None:
    db.execute(
        "INSERT OR REPLACE INTO quarantined VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (file.name, now, file.store, file.reached, file.stored_at, file.salvaged, file.lost, file.done),
    )
