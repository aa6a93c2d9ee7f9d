"""The blocks of the store: what one visit gave, packed, with consecutive ids."""

from __future__ import annotations

import json
import sqlite3
import zlib
from datetime import UTC, datetime

from agent.metering.store.store_schema import NO_MARKS
from dlms.cosem.time import ZONE_UNKNOWN_S, CosemDateTime
from dlms.errors import DlmsError
from omadm.readings import FIELDS, ROW_SIZE_MIN, ROW_SIZES

BLOCKS_PER_BATCH_MAX = 64  # looked at for one uplink batch

COMPRESSION = 6
_METER, _TAG, _RAW, _METER_TIME, _PROFILE = map(FIELDS.index, ("meter", "tag", "raw", "meter_time", "profile"))


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


def row_time(meter_time: object, tag: object, raw: object) -> float | None:
    """Return the earliest instant, seconds since the epoch, that the time stamp of a profile's row may mean: the row's
    instant, or where that is not known what its first cell says, in whatever time zone the meter is. `None` where
    neither says one."""
    try:
        if isinstance(meter_time, str):
            return datetime.fromisoformat(meter_time).timestamp()
        if tag == "dt" and isinstance(raw, str):
            local = CosemDateTime.parse(bytes.fromhex(raw)).local()
            return local.replace(tzinfo=UTC).timestamp() - ZONE_UNKNOWN_S if local is not None else None
    except (ValueError, OverflowError, DlmsError):
        return None
    return None


def marks_of(text: object) -> list[tuple[str, str, int]]:
    """The progress that a block carries: (meter, task, run). A damaged one carries none."""
    try:
        entries = json.loads(text) if isinstance(text, str) and text != NO_MARKS else []
        return [(str(meter), str(task), int(run)) for meter, task, run in entries]
    except (ValueError, TypeError, RecursionError):
        return []


def profile_reach(body: bytes) -> dict[tuple[str, str], float]:
    """Return the earliest time that the rows of each (meter, profile) in a block speak of."""
    found: dict[tuple[str, str], float] = {}
    rows = unpack(body)
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, list) and len(row) > ROW_SIZE_MIN and isinstance(row[_PROFILE], str):
            time = row_time(row[_METER_TIME], row[_TAG], row[_RAW])
            key = (str(row[_METER]), row[_PROFILE])
            if time is not None:
                found[key] = min(time, found.get(key, time))
    return found


def block_rows(first: int, last: int, body: bytes) -> list[list[object]] | None:
    """Return the rows of a block, `None` when they cannot be read back."""
    rows = unpack(body)
    if not isinstance(rows, list) or len(rows) != last - first + 1:
        return None
    return rows if all(isinstance(row, list) and len(row) in ROW_SIZES for row in rows) else None
