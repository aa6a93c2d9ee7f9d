"""Which records of the store the head-end holds: all up to the watermark `released`, and ranges above it.

What was read just now is delivered before what an outage left behind, so what is delivered has gaps. The table
`delivered` has its ranges: disjoint, none adjoining another or the watermark, at most about `RANGES_MAX`. A range that
reaches the watermark moves it and goes. "Dealt with" is said of records that are delivered, refused or lost.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

RANGES_MAX = 64  # each is a row, looked at for every batch; one outage makes one

Range = tuple[int, int]  # the first and the last id


def open_ranges(db: sqlite3.Connection, counters: dict[str, int], first: int, last: int) -> list[Range]:
    """Return the parts of `first` to `last` that are not dealt with, ascending."""
    begin, last = max(first, counters["released"] + 1), min(last, counters["next"] - 1)
    query = "SELECT first, last FROM delivered WHERE last >= ? AND first <= ? ORDER BY first"
    return without((begin, last), db.execute(query, (begin, last)))


def without(whole: Range, parts: Iterable[Range]) -> list[Range]:
    """Return what is left of a range without these, which ascend."""
    begin, last = whole
    left: list[Range] = []
    for part_first, part_last in parts:
        if part_first > last:
            break
        if begin < part_first:
            left.append((begin, part_first - 1))
        begin = max(begin, part_last + 1)
    return [*left, (begin, last)] if begin <= last else left


def count(ranges: Iterable[Range]) -> int:
    """Return how many ids there are in these."""
    return sum(last - first + 1 for first, last in ranges)


def mark(db: sqlite3.Connection, counters: dict[str, int], first: int, last: int) -> int:
    """The ids `first` to `last` are dealt with. Returns how many of them were records that waited, and not holes."""
    waiting = open_ranges(db, counters, first, last)
    if not waiting:
        return 0
    holes = sum(damaged(db, *each) for each in waiting) if counters["holes"] else 0
    counters["holes"] -= holes
    first, last = waiting[0][0], waiting[-1][1]
    # What it overlaps or adjoins becomes one with it.
    near = (last + 1, first - 1)
    low, high = db.execute(
        "SELECT MIN(first), MAX(last) FROM delivered WHERE first <= ? AND last >= ?", near
    ).fetchone()
    if low is not None:
        db.execute("DELETE FROM delivered WHERE first <= ? AND last >= ?", near)
        first, last = min(first, low), max(last, high)
    if first <= counters["released"] + 1:
        counters["released"] = last
    else:
        db.execute("INSERT INTO delivered VALUES (?, ?)", (first, last))
    return count(waiting) - holes


def delivered_above(db: sqlite3.Connection) -> int:
    """Return how many records above the watermark are dealt with."""
    return int(db.execute("SELECT COALESCE(SUM(last - first + 1), 0) FROM delivered").fetchone()[0])


def bounded_start(db: sqlite3.Connection, first: int) -> int:
    """Return where a batch begins that should begin at `first`: earlier, behind the last range, when a range more
    would be too many."""
    ranges, top = db.execute("SELECT COUNT(*), MAX(last) FROM delivered").fetchone()
    return min(first, top + 1) if ranges >= RANGES_MAX else first


def damaged(db: sqlite3.Connection, first: int, last: int) -> int:
    """Return how many of these ids belong to blocks that cannot be read back."""
    query = (
        "SELECT COALESCE(SUM(MIN(last, ?2) - MAX(first, ?1) + 1), 0) FROM block"
        " WHERE length(body) = 0 AND last >= ?1 AND first <= ?2"
    )
    return int(db.execute(query, (first, last)).fetchone()[0])


def empty(db: sqlite3.Connection) -> int:
    """Return how many ids belong to blocks without a body: damaged ones, and delivered ones that made room."""
    return int(db.execute("SELECT COALESCE(SUM(last - first + 1), 0) FROM block WHERE length(body) = 0").fetchone()[0])
