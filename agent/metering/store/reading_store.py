"""The store of readings: durable when `append` returns, kept until the head-end has acknowledged.

A block is what one visit of one meter gave, compressed, with consecutive record ids: one row and one synchronous commit
per visit, which is what flash can bear. Ids are never used again within a store; a store has a random uuid, so that
(store, id) names a record for ever, and a store that was lost and made anew cannot be mistaken for the old one.

How far each meter has been read for each task is written in the same transaction as the readings, so a power cut can
neither lose a run nor repeat one.

Bounds: `records_max` records, `bytes_max` bytes of file. Blocks go oldest first, and those that were delivered are
always the oldest. When a block goes that was not delivered, its records are counted as `lost`, and that is logged.
As only the oldest ever go, the ids in the file have no gaps, and counting is a subtraction.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from agent.clock import Clock
from agent.metering.store.store_file import StoreError, StoreFile
from agent.status import QueueStatus
from omadm.readings import ROW_SIZES, GapReport, Reading, record

__all__ = ["Batch", "Progress", "Refusal", "Store", "StoreError", "StoreStats"]

LOG = logging.getLogger("agent.metering.store")

BYTES_MAX = 128 << 20  # of the database file; half a million readings take about 15 MB
BLOCKS_PER_BATCH_MAX = 64  # looked at for one uplink batch
COMPRESSION = 6
FULL_RETRIES = 4  # each one gives up an eighth of the blocks first
REMEMBERED_MAX = 16_384  # names, before those that nobody knows any more are looked for; the registry holds 4096
REFUSED_MAX = 1000  # records that the head-end would not take, kept for a person to look at
REFUSED_AT = "refused_at"  # beside the fields of a record that is set aside

ResultT = TypeVar("ResultT")
_Counters = dict[str, int]


@dataclass(frozen=True, slots=True)
class Progress:
    """`meter` has been read for `run` of `task`."""

    meter: str
    task: str
    run: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Records in the order of their ids, for the uplink; the ids `first` to `last` are dealt with when it is
    released. `skipped`: records among them that could not be read back."""

    store: str
    first: int
    last: int
    records: tuple[dict[str, object], ...]
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record that the head-end will never take, and its reason. `refused_at`: seconds since the epoch by this
    device's clock, 0 when it is not known; `record` has the fields of docs/uplink.md."""

    id: int
    refused_at: float
    why: str
    record: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class StoreStats:
    """`pending`: records not delivered yet, the oldest stored at `oldest`; `kept`: delivered ones that are still here;
    the others count since the store began. `refused_at`: when the last record was refused, 0 when none was."""

    uuid: str
    pending: int
    kept: int
    oldest: float
    forwarded: int
    lost: int
    refused: int
    refused_at: float

    def on(self, status: QueueStatus) -> QueueStatus:
        """The published status, with these counts."""
        return replace(
            status,
            records=self.pending,
            oldest=self.oldest,
            forwarded=self.forwarded,
            lost=self.lost,
            refused=self.refused,
            refused_at=self.refused_at,
        )


class Store:
    """Thread-safe: collectors append, the uplink takes and releases. Every method may raise `StoreError`."""

    def __init__(
        self, file: Path, clock: Clock, *, records_max: int, keep_forwarded_max: int, bytes_max: int = BYTES_MAX
    ) -> None:
        self.file = StoreFile(file, bytes_max)
        self._clock = clock
        self._records_max = records_max
        self._keep_forwarded_max = keep_forwarded_max
        self._loss_logged = False
        self.on_append: Callable[[], None] = lambda: None
        self.on_health: Callable[[str], None] = lambda _problem: None  # "" when the store works

    # --- for collectors ---

    def append(
        self,
        readings: Sequence[Reading | GapReport],
        progress: Iterable[Progress] = (),
        knowledge: Mapping[str, Mapping[str, object]] | None = None,
        also: Callable[[sqlite3.Connection], None] = lambda _db: None,
    ) -> tuple[int, int]:
        """Store the readings of one visit, and return their first and last id. All of it is durable on return; on
        `StoreError` nothing of it is stored. `knowledge`: what was learned about meters, by meter. `also` writes tables
        of its own in the same transaction."""
        body = _pack([reading.row() for reading in readings]) if readings else b""
        marks = [(mark.meter, mark.task, mark.run) for mark in progress]
        learned = [(meter, _pack(what)) for meter, what in (knowledge or {}).items()]

        def work(db: sqlite3.Connection, counters: _Counters) -> tuple[int, int]:
            first = counters["next"]
            if body:
                counters["next"] += len(readings)
                row = (first, counters["next"] - 1, self._clock.wall(), body)
                db.execute("INSERT INTO block VALUES (?, ?, ?, ?)", row)
            db.executemany("INSERT OR REPLACE INTO progress VALUES (?, ?, ?)", marks)
            db.executemany("INSERT OR REPLACE INTO knowledge VALUES (?, ?)", learned)
            also(db)
            while counters["next"] - _oldest(db, counters) > self._records_max and self._drop_oldest(db, counters):
                pass
            return first, counters["next"] - 1

        ids = self._with_room(work)
        self.on_append()
        return ids

    def ask(self, query: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Return what `query` reads from tables of its own."""
        return self._run(lambda db, _: query(db))

    def progress(self) -> dict[tuple[str, str], int]:
        """(meter, task) → the last run the meter was read for."""
        return self._run(lambda db, _: {(m, t): run for m, t, run in db.execute("SELECT * FROM progress")})

    def knowledge(self, meter: str) -> dict[str, object] | None:
        """What was learned about a meter before; `None` when nothing is known, or it cannot be read back."""
        row = self._run(lambda db, _: db.execute("SELECT body FROM knowledge WHERE meter=?", (meter,)).fetchone())
        learned = _unpack(row[0]) if row else None
        return learned if isinstance(learned, dict) else None

    def forget(self, meters: Iterable[str] = (), tasks: Iterable[str] = ()) -> None:
        """Remove the progress of tasks that are gone, and all that is remembered of meters that are gone."""
        gone_meters, gone_tasks = [(meter,) for meter in meters], [(task,) for task in tasks]

        def work(db: sqlite3.Connection, _: _Counters) -> None:
            db.executemany("DELETE FROM progress WHERE meter=?", gone_meters)
            db.executemany("DELETE FROM knowledge WHERE meter=?", gone_meters)
            db.executemany("DELETE FROM knowledge WHERE instr(meter, ? || '#') = 1", gone_meters)
            db.executemany("DELETE FROM progress WHERE task=?", gone_tasks)
            db.executemany("DELETE FROM knowledge WHERE instr(meter, '#' || ? || '#')", gone_tasks)

        if gone_meters or gone_tasks:
            self._run(work)

    def retain(self, meters: Collection[str]) -> int:
        """Forget all meters but these, once so much is remembered that most of it must be of meters that are gone.
        Returns how many rows went."""

        def work(db: sqlite3.Connection, _: _Counters) -> int:
            gone = 0
            for table in ("knowledge", "progress"):
                names = [name for (name,) in db.execute(f"SELECT DISTINCT meter FROM {table}")]  # noqa: S608
                if len(names) > REMEMBERED_MAX:
                    stale = [(name,) for name in names if name.partition("#")[0] not in meters]
                    gone += db.executemany(f"DELETE FROM {table} WHERE meter=?", stale).rowcount  # noqa: S608
            return gone

        return self._run(work)

    # --- for the uplink ---

    def batch(self, records_max: int) -> Batch | None:
        """The oldest records that are not delivered yet, at most `records_max`; `None` when there are none."""
        return self._run(lambda db, counters: self._take(db, counters["released"], records_max))

    def release(self, store: str, last: int) -> int:
        """The head-end holds every record of `store` up to id `last`. Returns how many of these were pending. An
        acknowledgement for another store, the one before this one, changes nothing."""

        def work(db: sqlite3.Connection, counters: _Counters) -> int:
            if store != self.file.uuid or not counters["released"] < last < counters["next"]:
                return 0
            fresh = last - counters["released"]
            counters["released"] = last
            counters["forwarded"] += fresh
            while last - _oldest(db, counters) + 1 > self._keep_forwarded_max and self._drop_oldest(db, counters, last):
                pass
            self._loss_logged = False
            return fresh

        return self._run(work)

    def refuse(self, batch: Batch, why: str) -> None:
        """The head-end will never take this batch: keep it aside, so that the others get through."""
        # The time goes into the record's text and not into a column of its own: an older version of this software,
        # started again after a rollback, would take a table of another shape for a damaged file.
        refused_at = self._clock.wall()
        rows = [(entry["id"], json.dumps({**entry, REFUSED_AT: refused_at}), why) for entry in batch.records]

        def work(db: sqlite3.Connection, counters: _Counters) -> None:
            if batch.store != self.file.uuid or batch.last <= counters["released"]:
                return
            db.executemany("INSERT OR REPLACE INTO refused VALUES (?, ?, ?)", rows)
            keep = "SELECT id FROM refused ORDER BY id DESC LIMIT ?"
            db.execute(f"DELETE FROM refused WHERE id NOT IN ({keep})", (REFUSED_MAX,))  # noqa: S608 - constants only
            counters["refused"] += len(rows)
            counters["released"] = batch.last

        self._run(work)
        for entry in batch.records:
            LOG.error(
                "record %s (meter %s, %s/%s/%s) was refused by the head-end for good: %s",
                *(entry.get(name) for name in ("id", "meter", "cls", "obis", "attr")),
                why,
                extra={"event": "store.refused"},
            )

    # --- for everybody ---

    def refused(self, limit: int) -> list[Refusal]:
        """The records that were refused last, newest first, at most `limit`; `REFUSED_MAX` are kept."""
        rows = self._run(
            lambda db, _: db.execute(
                "SELECT id, record, why FROM refused ORDER BY id DESC LIMIT ?", (limit,)
            ).fetchall()
        )
        return [_refusal(*row) for row in rows]

    def stats(self) -> StoreStats:
        """Return the counts for the status."""

        def work(db: sqlite3.Connection, counters: _Counters) -> StoreStats:
            pending = counters["next"] - 1 - counters["released"]
            first_pending = "SELECT made FROM block WHERE first <= ? ORDER BY first DESC LIMIT 1"
            oldest = db.execute(first_pending, (counters["released"] + 1,)).fetchone() if pending else None
            refused = db.execute("SELECT id, record, why FROM refused ORDER BY id DESC LIMIT 1").fetchone()
            return StoreStats(
                uuid=self.file.uuid,
                pending=pending,
                kept=max(0, counters["released"] - _oldest(db, counters) + 1),
                oldest=oldest[0] if oldest else 0.0,
                forwarded=counters["forwarded"],
                lost=counters["lost"],
                refused=counters["refused"],
                refused_at=_refusal(*refused).refused_at if refused else 0.0,
            )

        return self._run(work)

    def close(self) -> None:
        self.file.close()

    # --- inside ---

    def _run(self, work: Callable[[sqlite3.Connection, _Counters], ResultT]) -> ResultT:
        try:
            result = self.file.run(work)
        except StoreError as error:
            self.on_health(str(error))
            raise
        self.on_health("")
        return result

    def _with_room(self, work: Callable[[sqlite3.Connection, _Counters], ResultT]) -> ResultT:
        """Run `work`; where the file may not grow any more, give up old records and try again. Raises `StoreError`."""
        for _ in range(FULL_RETRIES):
            try:
                return self._run(work)
            except StoreError as error:
                if not error.full or not self._run(self._shed):
                    raise
        return self._run(work)

    def _shed(self, db: sqlite3.Connection, counters: _Counters) -> bool:
        blocks = db.execute("SELECT COUNT(first) FROM block").fetchone()[0]
        return sum(self._drop_oldest(db, counters) for _ in range(-(-blocks // 8))) > 0

    def _drop_oldest(self, db: sqlite3.Connection, counters: _Counters, up_to: int | None = None) -> bool:
        """Remove the oldest block and return whether one went.

        Without `up_to`, to make room: never the only block, which is the visit that is just being stored. With it,
        after a delivery: only a block all of whose records have ids up to `up_to`; that may be the only one.
        """
        rows = db.execute("SELECT first, last FROM block ORDER BY first LIMIT 2").fetchall()
        if not rows or (up_to is None and len(rows) < 2) or (up_to is not None and rows[0][1] > up_to):
            return False
        first, last = rows[0]
        db.execute("DELETE FROM block WHERE first=?", (first,))
        lost = last - max(first - 1, counters["released"])
        if lost > 0:
            counters["lost"] += lost
            counters["released"] = last
            if not self._loss_logged:  # once until the next delivery: a full store would otherwise fill the log as well
                self._loss_logged = True
                LOG.error(
                    "the store is full: the oldest undelivered readings are being given up (%d so far)",
                    counters["lost"],
                    extra={"event": "store.loss"},
                )
        return True

    def _take(self, db: sqlite3.Connection, released: int, records_max: int) -> Batch | None:
        start = db.execute("SELECT MAX(first) FROM block WHERE first <= ?", (released + 1,)).fetchone()[0]
        rows = db.execute(
            "SELECT first, last, body FROM block WHERE first >= ? ORDER BY first LIMIT ?",
            (released + 1 if start is None else start, BLOCKS_PER_BATCH_MAX),
        )
        records: list[dict[str, object]] = []
        skipped, reached = 0, released
        for first, last, body in rows:
            begin = max(first, released + 1)
            if begin > last:
                continue
            unpacked = _block_rows(first, last, body)
            if unpacked is None:
                # Bit rot inside one block must not hold up all that follow.
                LOG.error("records %d to %d cannot be read back", begin, last, extra={"event": "store.rot"})
                skipped += last - begin + 1
                reached = last
                continue
            room = records_max - len(records)
            taken = unpacked[begin - first :][:room]
            records += [record(record_id, row) for record_id, row in enumerate(taken, begin)]
            reached = begin + len(taken) - 1
            if len(records) >= records_max:
                break
        return Batch(self.file.uuid, released + 1, reached, tuple(records), skipped) if reached > released else None


def _oldest(db: sqlite3.Connection, counters: Mapping[str, int]) -> int:
    """Return the lowest id in the file; the next id to be given out when it is empty."""
    first = db.execute("SELECT MIN(first) FROM block").fetchone()[0]
    return counters["next"] if first is None else int(first)


def _pack(value: object) -> bytes:
    return zlib.compress(json.dumps(value, separators=(",", ":"), allow_nan=False).encode(), COMPRESSION)


def _unpack(body: bytes) -> object:
    """Return what was packed; `None` when the checksum says that this is not it."""
    try:
        return json.loads(zlib.decompress(body))
    except (zlib.error, ValueError, TypeError):
        return None


def _refusal(record_id: int, text: str, why: str) -> Refusal:
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        entry = None
    entry = entry if isinstance(entry, dict) else {}  # a damaged one is still worth its id and its reason
    at = entry.pop(REFUSED_AT, 0.0)
    return Refusal(record_id, float(at) if isinstance(at, int | float) else 0.0, why, entry)


def _block_rows(first: int, last: int, body: bytes) -> list[list[object]] | None:
    rows = _unpack(body)
    if not isinstance(rows, list) or len(rows) != last - first + 1:
        return None
    return rows if all(isinstance(row, list) and len(row) in ROW_SIZES for row in rows) else None
