"""The events among the records of the store: which go ahead of everything else, and which are known already.

An event is a record like any other; a row of the table `event` says so, with its key. The newest `KEPT` rows stay, so
that what a meter sends again is known for one it sent before, after a restart too. `urgent` ends with the delivery.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from agent.metering.store.blocks import block_rows, blocks, pack
from agent.metering.store.delivery import open_ranges
from agent.metering.store.life_sign import LifeSign
from agent.metering.store.store_schema import NO_MARKS
from omadm.readings import EventReport, record

LOG = logging.getLogger("agent.metering.store")

WhenDone = Callable[[Callable[[], None]], None]  # takes what is to be done once the work of now is durable

KEPT = 1024  # some 50 bytes each; more than a meter's own repetitions and a busy day bring


def new_ones(db: sqlite3.Connection, reports: Sequence[EventReport]) -> list[EventReport]:
    """Return the reports whose keys are not known, each once."""
    found = {report.key: report for report in reversed(reports)}
    for key in list(found):
        if db.execute("SELECT 1 FROM event WHERE key=?", (key,)).fetchone():
            del found[key]
    return list(reversed(found.values()))


def add(db: sqlite3.Connection, first: int, now: float, reports: Sequence[EventReport]) -> None:
    """Note the reports that were stored from id `first` on."""
    rows = [(record_id, now, report.key) for record_id, report in enumerate(reports, first)]
    db.executemany("INSERT OR REPLACE INTO event VALUES (?, ?, ?, 1)", rows)
    excess = db.execute("SELECT COUNT(*) FROM event").fetchone()[0] - KEPT
    if excess > 0:
        db.execute("DELETE FROM event WHERE id IN (SELECT id FROM event ORDER BY id LIMIT ?)", (excess,))


def append(db: sqlite3.Connection, counters: dict[str, int], now: float, reports: Sequence[EventReport]) -> int:
    """Store those reports whose keys are not known, in a block of their own. Returns how many."""
    fresh = new_ones(db, reports)
    if fresh:
        first = counters["next"]
        counters["next"] += len(fresh)
        about = (fresh[0].meter, NO_MARKS, min(report.received for report in fresh))
        db.execute(
            "INSERT INTO block (first, last, made, meter, marks, since, body) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (first, counters["next"] - 1, now, *about, pack([report.row() for report in fresh])),
        )
        add(db, first, now, fresh)
    return len(fresh)


def waiting(db: sqlite3.Connection, first: int = 0) -> tuple[int, int, float]:
    """Return how many events with ids from `first` on the head-end does not have, the id of the first of them, and when
    that was stored."""
    query = "SELECT COUNT(*), MIN(id), MIN(at) FROM event WHERE urgent=1 AND id >= ?"
    count, lowest, since = db.execute(query, (first,)).fetchone()
    return (count, lowest, since) if count else (0, 0, 0.0)


def say_lost(
    db: sqlite3.Connection,
    counters: dict[str, int],
    now: float,
    sign: LifeSign,
    count: int,
    since: float,
    *,
    when_done: WhenDone,
) -> None:
    """Tell the head-end that events are lost which meters have told once only: an event of its own. The log hears of it
    `when_done`."""
    begin, end = _iso(since), _iso(now)
    name = f"events were stored from {begin} to {end}, and lost with the store"
    span: list[dict[str, object]] = [{"tag": "str", "raw": begin}, {"tag": "str", "raw": end}]
    text = "%d events of meters are lost with the store, stored from %s on"
    when_done(lambda: LOG.error(text, count, begin, extra={"event": "event.lost"}))
    append(db, counters, now, [EventReport(
        event="notice", meter="", sender="the concentrator", code=None, name=name, grave=True, obis=None,
        meter_time=None, received=now, trusted=False, invoke=None, security="none", values=span, octets=None,
        error=None, count=count, key=hashlib.sha256(f"{sign.store} {sign.events_first}".encode()).hexdigest()[:32],
    )])  # fmt: skip


def _iso(at: float) -> str:
    # Python has no year after 9999; 2**37 is in 6325.
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if 0 < at < 2**37 else "an unknown time"


def delivered(db: sqlite3.Connection, first: int, last: int) -> int:
    """The head-end holds the records `first` to `last`. Returns how many of them were urgent."""
    return db.execute("UPDATE event SET urgent=0 WHERE urgent=1 AND id BETWEEN ? AND ?", (first, last)).rowcount


def next_span(db: sqlite3.Connection, counters: dict[str, int], first: int, limit: int) -> tuple[int, int] | None:
    """Return the ids of the oldest events that the head-end does not have, at most `limit` with consecutive ids, none
    below `first`.

    Those that it has by another way are urgent no longer.
    """
    query = "SELECT id FROM event WHERE urgent=1 AND id >= ? ORDER BY id LIMIT ?"
    while True:
        ids = [row[0] for row in db.execute(query, (first, limit))]
        if not ids:
            return None
        waiting = [each for each in ids if open_ranges(db, counters, each, each)]
        if len(waiting) < len(ids):
            done = set(ids) - set(waiting)
            db.executemany("UPDATE event SET urgent=0 WHERE id=?", [(each,) for each in done])
        if waiting:
            last = waiting[0]
            while last + 1 in waiting:
                last += 1
            return waiting[0], last


def newest(db: sqlite3.Connection, limit: int) -> list[dict[str, object]]:
    """Return the records of the newest events, newest first, as far as they can be read."""
    found: list[dict[str, object]] = []
    for (record_id,) in db.execute("SELECT id FROM event ORDER BY id DESC LIMIT ?", (limit,)).fetchall():
        for first, last, body in blocks(db, record_id, record_id, 1):
            rows = block_rows(first, last, body)
            if rows is not None:
                found.append(record(record_id, rows[record_id - first]))
    return found
