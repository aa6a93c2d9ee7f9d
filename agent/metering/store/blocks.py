"""The blocks of the store: what one visit gave, packed, with consecutive ids."""

from __future__ import annotations

import json
import sqlite3
import zlib

from omadm.readings import ROW_SIZES

BLOCKS_PER_BATCH_MAX = 64  # looked at for one uplink batch

COMPRESSION = 6


def blocks(db: sqlite3.Connection, begin: int, end: int, limit: int) -> list[tuple[int, int, bytes]]:
    """Return (first, last, body) of the first blocks that have ids from `begin` to `end`."""
    start = db.execute("SELECT MAX(first) FROM block WHERE first <= ?", (begin,)).fetchone()[0]
    query = "SELECT first, last, body FROM block WHERE first >= ? AND first <= ? AND last >= ? ORDER BY first LIMIT ?"
    return db.execute(query, (begin if start is None else start, end, begin, limit)).fetchall()


def pack(value: object) -> bytes:
    return zlib.compress(json.dumps(value, separators=(",", ":"), allow_nan=False).encode(), COMPRESSION)


def unpack(body: bytes) -> object:
    """Return what was packed; `None` when the checksum says that this is not it."""
    try:
        return json.loads(zlib.decompress(body))
    except (zlib.error, ValueError, TypeError, RecursionError):
        return None


def block_rows(first: int, last: int, body: bytes) -> list[list[object]] | None:
    """Return the rows of a block, `None` when they cannot be read back."""
    rows = unpack(body)
    if not isinstance(rows, list) or len(rows) != last - first + 1:
        return None
    return rows if all(isinstance(row, list) and len(row) in ROW_SIZES for row in rows) else None
