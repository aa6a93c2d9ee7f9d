"""What the head-end wants once more, of the records that it acknowledged and that are still kept.

An order is durable when it was taken, and goes on after a restart where its last acknowledged batch ended. What the
store has no more is reported by ranges of ids. A record that waits for its first delivery is left to that.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from agent.metering.store.blocks import BLOCKS_PER_BATCH_MAX, block_rows, blocks
from agent.metering.store.delivery import Range, open_ranges, without
from omadm.readings import RANGES_MAX, RESENDS_MAX, ResendOrder, ResendReport, record

ASKED = "asked"  # in `meta`: how many orders were taken


@dataclass(frozen=True, slots=True)
class ResendBatch:
    """The next records for an order; those up to `reached` are dealt with when they were acknowledged. `gone`: ranges
    on the way there that the store has no more."""

    request: int
    reached: int
    records: tuple[dict[str, object], ...]
    gone: tuple[Range, ...]


def take(db: sqlite3.Connection, counters: dict[str, int], uuid: str, orders: Iterable[ResendOrder]) -> int:
    """Remember the orders that are new. Returns how many those are."""
    known = {row[0] for row in db.execute("SELECT request FROM resend")}
    fresh = [order for order in orders if order.request not in known][: max(0, RESENDS_MAX - len(known))]
    for order in fresh:
        oldest = db.execute("SELECT MIN(first) FROM block").fetchone()[0] or counters["next"]
        ids = (order.first, order.last) if order.store else (oldest, counters["next"] - 1)
        db.execute(
            "INSERT INTO resend (request, store, reached, last, since, until) VALUES (?, ?, ?, ?, ?, ?)",
            (order.request, order.store or uuid, ids[0] - 1, ids[1], order.since, order.until),
        )
    if fresh:
        db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (ASKED, asked(db) + len(fresh)))
    return len(fresh)


def asked(db: sqlite3.Connection) -> int:
    """Return how many orders this store has taken."""
    row = db.execute("SELECT value FROM meta WHERE key=?", (ASKED,)).fetchone()
    return row[0] if row is not None and isinstance(row[0], int) else 0


def next_records(db: sqlite3.Connection, counters: dict[str, int], uuid: str, records_max: int) -> ResendBatch | None:
    """Return what is to be sent next, `None` when no order has anything left."""
    order = db.execute(
        "SELECT request, store, reached, last, since, until FROM resend WHERE reached < last ORDER BY request LIMIT 1"
    ).fetchone()
    if order is None:
        return None
    request, store, reached, last, since, until = order
    if store != uuid:  # an earlier one, of which at most what was never delivered is here (`recovered`)
        waits = db.execute("SELECT first, last FROM recovered WHERE store=? ORDER BY first", (store,))
        return ResendBatch(request, last, (), tuple(without((reached + 1, last), waits)))
    records: list[dict[str, object]] = []
    gone: list[Range] = []
    found = blocks(db, reached + 1, last, BLOCKS_PER_BATCH_MAX)
    for first, block_last, body in found:
        low, high = max(first, reached + 1), min(block_last, last)
        if low > reached + 1:
            gone.append((reached + 1, low - 1))
        if until and not _speaks_of(db, first, since, until):
            reached = high
            continue
        rows = block_rows(first, block_last, body)
        for begin, end in without((low, high), open_ranges(db, counters, low, high)):
            room = records_max - len(records)
            if room == 0:
                high = min(high, begin - 1)
                break
            if rows is None:
                gone.append((begin, end))
                continue
            taken = rows[begin - first : end - first + 1][:room]
            records += [record(record_id, row) for record_id, row in enumerate(taken, begin)]
            high = min(high, begin + room - 1) if end - begin + 1 > room else high
        reached = high
        if len(records) >= records_max:
            break
    if len(found) < BLOCKS_PER_BATCH_MAX and len(records) < records_max and reached < last:
        gone.append((reached + 1, last))
        reached = last
    return ResendBatch(request, reached, tuple(records), tuple(gone))


def advance(db: sqlite3.Connection, again: ResendBatch, *, refused: bool) -> None:
    """These were acknowledged, or refused for good."""
    row = db.execute("SELECT gone FROM resend WHERE request=?", (again.request,)).fetchone()
    if row is None:
        return
    gone = _bounded([*map(tuple, json.loads(row[0])), *again.gone])
    counts = (0, len(again.records)) if refused else (len(again.records), 0)
    db.execute(
        "UPDATE resend SET reached=?, sent=sent+?, refused=refused+?, gone=? WHERE request=?",
        (again.reached, *counts, json.dumps(gone), again.request),
    )


def reports(db: sqlite3.Connection) -> list[ResendReport]:
    """Return how the orders ended that have nothing left."""
    oldest = db.execute("SELECT since, made FROM block WHERE length(body) > 0 ORDER BY first LIMIT 1").fetchone()
    kept_since = (oldest[0] or oldest[1]) if oldest else 0.0
    rows = db.execute("SELECT request, sent, refused, gone FROM resend WHERE reached >= last ORDER BY request")
    return [
        ResendReport(request, sent, refused, tuple((first, last) for first, last in json.loads(gone)), kept_since)
        for request, sent, refused, gone in rows
    ]


def close(db: sqlite3.Connection, requests: Iterable[int]) -> None:
    """The head-end has the reports on these."""
    db.executemany("DELETE FROM resend WHERE request=?", [(request,) for request in requests])


def _speaks_of(db: sqlite3.Connection, first: int, since: float, until: float) -> bool:
    """Whether a visit has values of this time: it was stored after its beginning, and reaches back before its end."""
    query = "SELECT 1 FROM block WHERE first=? AND made >= ? AND since <= ?"
    return db.execute(query, (first, since, until)).fetchone() is not None


def _bounded(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and (first <= joined[-1][1] + 1 or len(joined) >= RANGES_MAX):
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined
