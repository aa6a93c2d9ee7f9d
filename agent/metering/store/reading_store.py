"""The store of readings: durable when `append` returns, kept until the head-end has acknowledged.

A block is what one visit of one meter gave, compressed, with consecutive record ids: one row per visit, and one
synchronous commit for as many visits as their port has brought together (`agent.metering.ports.held_visits`), which is
what flash can bear. Ids are never used again within a store; a store has a random uuid, so that
(store, id) names a record for ever, and a store that was lost and made anew cannot be mistaken for the old one.

How far each meter has been read for each task is written in the same transaction as the readings, so a power cut can
neither lose a run nor repeat one.

What happened at meters (`EventReport`) is stored in blocks of its own and goes ahead of everything else (events.py).

Bounds: `records_max` records, `bytes_max` bytes of file. Blocks go oldest first. Where the oldest is not delivered yet
and a later one is (delivery.py), the later one makes room: its body goes, and its row stays as a stub. So the ids in
the file have no gaps, and counting is a subtraction.

What cannot be delivered any more is counted as `lost`, logged, and remembered as a `Loss` with the meter and the time
that the values speak of, so that profiles can be asked for it again: blocks given up because the store is full, blocks
whose checksum says that they are damaged, and what was on bad pages of a file. `holes` counts the ids of damaged blocks
that the head-end has not been told to pass over yet. Blocks of an earlier file of this device (`recovered`, see
store_file.py) are delivered first, under the identity that they have.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from agent.clock import Clock
from agent.metering.store import events, resend, sinks
from agent.metering.store.blocks import BLOCKS_PER_BATCH_MAX, block_rows, blocks, marks_of, pack, row_time, unpack
from agent.metering.store.delivery import bounded_start, count, delivered_above, empty, mark, open_ranges
from agent.metering.store.recovery import note_loss
from agent.metering.store.resend import ResendBatch
from agent.metering.store.sinks import BY_A_SINK, REFUSED_AT, REFUSED_BY, SinkBatch, SinkState
from agent.metering.store.store_file import StoreDefectError, StoreError, StoreFile
from agent.metering.store.store_schema import NO_MARKS
from agent.metering.store.trouble import Trouble, room_wanted
from agent.status import QueueStatus
from omadm.readings import (
    EVENT_FIELDS,
    GAP_FIELDS,
    ID_MAX,
    EventReport,
    GapReport,
    Reading,
    ResendOrder,
    ResendReport,
    Stored,
    kind_of,
    record,
)

__all__ = ["Batch", "Brought", "Loss", "Progress", "Refusal", "Store", "StoreDefectError", "StoreError", "StoreStats"]

LOG = logging.getLogger("agent.metering.store")

BYTES_MAX = 128 << 20  # of the database file; half a million readings take about 15 MB
FULL_RETRIES = 4  # each one gives up an eighth of the blocks first
REMEMBERED_MAX = 16_384  # names, before those that nobody knows any more are looked for; the registry holds 4096
REFUSED_MAX = 1000  # records that the head-end would not take, kept for a person to look at
SINK_SHARE = 4  # this part of `records_max` is kept at most for a sink that is behind
DROP_SHARE = 1 / 4  # so many more delivered records than are to be kept may be there: few at a time wear the flash
REFUSED_STORE = "refused_store"  # beside the fields of a record that is set aside: the store whose record it is
UNKNOWN_KIND = "unknown_kind"  # likewise: the head-end did not know this kind of record, and may one day

# An update, not a row in place of another: that would change the index and free pages as well.
_LEARN = "INSERT INTO knowledge VALUES (?, ?) ON CONFLICT (meter) DO UPDATE SET body=excluded.body"
_PROGRESS = "SELECT meter, task, run, at FROM progress"
_BY_HEAD_END = f"instr(record, '{BY_A_SINK}') = 0"
_MARKS = f"SELECT first, marks FROM block WHERE marks != '{NO_MARKS}' ORDER BY first"  # noqa: S608 - a constant

ResultT = TypeVar("ResultT")
BatchT = TypeVar("BatchT", "Batch | None", "SinkBatch | None")
_Counters = dict[str, int]


@dataclass(frozen=True, slots=True)
class Progress:
    """`meter` has been read for `run` of `task`."""

    meter: str
    task: str
    run: int


@dataclass(frozen=True, slots=True)
class Brought:
    """What one visit brought: readings of one meter, how far it has been read with them, what was learned about meters
    (by meter), and events that go to the head-end before anything else."""

    readings: Sequence[Reading | GapReport]
    progress: Sequence[Progress] = ()
    knowledge: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    urgent: Sequence[EventReport] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """Records in the order of their ids, for the uplink; the ids `first` to `last` are dealt with when it is
    released: those of them that are not here are delivered already, or (`skipped`) could not be read back."""

    store: str
    first: int
    last: int
    records: tuple[dict[str, object], ...]
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Loss:
    """Records that are gone. `meter`: whose, `""` when that is not known; `since` and `until`: the earliest and latest
    time (seconds since the epoch) that they may speak of, where the meter is not known at which they were stored;
    `reach`: the earliest time that rows of profiles among them may speak of, 0 where nobody knows; `noted`: when that
    was found out; `seq` ascends. `records` is 0 where their number is not known."""

    seq: int
    noted: float
    meter: str
    since: float
    until: float
    records: int
    reason: str
    reach: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record that the head-end, or `sink` where that is not empty, will never take, and its reason. `store`: the
    store that it has its id in, empty where that is not known; `refused_at`: seconds since the epoch by this device's
    clock, 0 when it is not known; `record` has the fields of docs/uplink.md."""

    store: str
    id: int
    refused_at: float
    reason: str
    record: Mapping[str, object]
    sink: str = ""


@dataclass(frozen=True, slots=True)
class StoreStats:
    """`pending`: records not delivered yet, the oldest stored at `oldest`; `kept`: delivered ones that are still here;
    the others count since the store began. `refused_at`: when the last record was refused, `lost_at`: when
    the last was lost; 0 when none was."""

    uuid: str
    pending: int
    kept: int
    oldest: float
    forwarded: int
    lost: int
    refused: int
    refused_at: float
    lost_at: float

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
            lost_at=self.lost_at,
        )


class Store:
    """Thread-safe: collectors append, the uplink takes and releases. Every method may raise `StoreError`."""

    def __init__(
        self, file: Path, clock: Clock, *, records_max: int, keep_forwarded_max: int, bytes_max: int = BYTES_MAX
    ) -> None:
        self.file = StoreFile(file, bytes_max, clock)
        self._clock = clock
        self._records_max = records_max
        self._keep_forwarded_max = keep_forwarded_max
        self._loss_logged = False
        self._trouble = Trouble()
        self._tried = False  # to write, in this life
        self._sinks: set[str] = set()
        self.on_append: Callable[[], None] = lambda: None
        self.on_health: Callable[[str], None] = lambda _problem: None  # "" when the store works

    # --- for collectors ---

    def append(
        self,
        readings: Sequence[Reading | GapReport],
        progress: Iterable[Progress] = (),
        knowledge: Mapping[str, Mapping[str, object]] | None = None,
        also: Callable[[sqlite3.Connection], None] = lambda _db: None,
        *,
        urgent: Sequence[EventReport] = (),
        lists_from: float = math.inf,
    ) -> tuple[int, int]:
        """Store the readings of one visit, and return their first and last id. All of it is durable on return; on
        `StoreError` nothing of it is stored. `knowledge`: what was learned about meters, by meter. `also` writes the
        ledger's tables in the same transaction, and `urgent` are events, which go to the head-end before anything
        else. One whose key is among the newest `events.KEPT` is there already and is not stored again. `lists_from`:
        of the reports of gaps among these, as `LifeSign` has it."""
        return self.append_all([Brought(readings, tuple(progress), knowledge or {}, urgent)], also, lists_from)[0]

    def append_all(
        self,
        visits: Sequence[Brought],
        also: Callable[[sqlite3.Connection], None] = lambda _db: None,
        lists_from: float = math.inf,
    ) -> list[tuple[int, int]]:
        """Store what these visits brought, a block each, in one commit: all of it or, on `StoreError`, nothing of it.
        Returns the first and last id of each. `lists_from`: see `append`."""
        packed = [(brought, _packed(brought)) for brought in visits]

        def work(db: sqlite3.Connection, counters: _Counters) -> list[tuple[int, int]]:
            self._will_list(db, counters, lists_from)
            ids = [self._add(db, counters, brought, body) for brought, body in packed]
            also(db)
            while _size(db, counters) > self._records_max and self._make_room(db, counters):
                pass
            return ids

        ids = self._with_room(work, sum(len(body) for _, body in packed))
        self._written()
        if any(brought.urgent for brought in visits):
            self._sign()
        # The ledger's sign of life, every few minutes, is nothing to send.
        if any(brought.readings or brought.urgent for brought in visits):
            self.on_append()
        return ids

    def ask(self, query: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Return what `query` reads from the ledger's tables."""
        return self._run(lambda db, _: query(db))

    def ask_delivered(self, query: Callable[[sqlite3.Connection], ResultT]) -> tuple[int, ResultT] | None:
        """Return the last id, and what `query` reads, while the head-end has all that is stored; else `None`."""

        def work(db: sqlite3.Connection, counters: _Counters) -> tuple[int, ResultT] | None:
            recovered = db.execute("SELECT 1 FROM recovered LIMIT 1").fetchone()
            if self.file.recovering or recovered or _pending(db, counters):
                return None
            return counters["next"] - 1, query(db)

        return self._run(work)

    def progress(self) -> dict[tuple[str, str], int]:
        """(meter, task) → the last run the meter was read for."""
        return {key: run for key, (_, run) in self.dated_progress().items()}

    def dated_progress(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(meter, task) → the id from which on the visit was stored that says so, 0 where that is not known; and the
        last run the meter was read for."""

        def work(db: sqlite3.Connection, _: _Counters) -> dict[tuple[str, str], tuple[int, int]]:
            newest = {(meter, task): (at, run) for meter, task, run, at in db.execute(_PROGRESS)}
            for first, text in db.execute(_MARKS):
                for meter, task, run in marks_of(text):
                    if (meter, task) not in newest or newest[meter, task][0] <= first:
                        newest[meter, task] = (first, run)
            return newest

        return self._run(work)

    def knowledge(self, meter: str) -> dict[str, object] | None:
        """What was learned about a meter before; `None` when nothing is known, or it cannot be read back."""
        row = self._run(lambda db, _: db.execute("SELECT body FROM knowledge WHERE meter=?", (meter,)).fetchone())
        learned = unpack(row[0]) if row else None
        return learned if isinstance(learned, dict) else None

    def forget(self, meters: Iterable[str] = (), tasks: Iterable[str] = ()) -> None:
        """Remove the progress of tasks that are gone, and all that is remembered of meters that are gone."""
        gone_meters, gone_tasks = [(meter,) for meter in meters], [(task,) for task in tasks]

        def work(db: sqlite3.Connection, _: _Counters) -> None:
            db.executemany("DELETE FROM progress WHERE meter=?", gone_meters)
            db.executemany("DELETE FROM knowledge WHERE meter=?", gone_meters)
            db.executemany("DELETE FROM knowledge WHERE instr(meter, ? || '#') = 1", gone_meters)
            db.executemany("DELETE FROM progress WHERE task=?", gone_tasks)
            _forget_marks(db, {meter for (meter,) in gone_meters}, {task for (task,) in gone_tasks})
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

    def batch(self, records_max: int, *, first: int = 0, last: int = ID_MAX) -> Batch | None:
        """The oldest records that are not delivered yet, at most `records_max`; `None` when there are none.

        `first`, `last`: only records of this store with these ids. Without `first`, those of earlier stores come
        before all.
        """

        def work(db: sqlite3.Connection, counters: _Counters) -> Batch | None:
            recovered = None if first else self._take_recovered(db, counters, records_max)
            return recovered or self._leaving(
                db, counters, self._take(db, counters, records_max, bounded_start(db, first), last)
            )

        return self._run(work)

    def urgent_batch(self, records_max: int, *, first: int = 0) -> Batch | None:
        """The oldest events of this store that are not delivered yet and have ids from `first` on; `None` when there
        are none, or so much was delivered out of turn already that they have to wait for theirs."""

        def work(db: sqlite3.Connection, counters: _Counters) -> Batch | None:
            span = events.next_span(db, counters, first, records_max)
            if span is None or bounded_start(db, span[0]) != span[0]:
                return None
            return self._leaving(db, counters, self._take(db, counters, records_max, *span))

        return self._run(work)

    def next_id(self) -> int:
        """The id that the next record will have."""
        return self._run(lambda _, counters: counters["next"])

    def release(self, store: str, last: int, *, first: int = 0) -> int:
        """The head-end holds every record of `store` from id `first` (all, without it) to `last`. Returns how many of
        these were pending. An acknowledgement for another store, the one before this one, changes nothing."""

        signs: list[int] = []

        def work(db: sqlite3.Connection, counters: _Counters) -> int:
            if store != self.file.uuid:
                fresh = _release_recovered(db, store, last)
                counters["forwarded"] += fresh
                return fresh
            if not counters["released"] < last < counters["next"]:
                return 0
            fresh = mark(db, counters, first, last)
            signs.append(events.delivered(db, first, last))
            counters["forwarded"] += fresh
            self._drop_kept(db, counters)
            self.file.when_done(self._delivered)
            return fresh

        released = self._run(work)
        if any(signs):
            self._sign()
        return released

    def refuse(self, batch: Batch, why: str, *, unknown_kind: bool = False) -> None:
        """The head-end will never take this batch: set it aside, so that the others get through. `unknown_kind`: this
        head-end will not, since it is of before such records (`offer_again`)."""
        # Time and store go into the record's text and not into columns of their own: an older version of this software,
        # started again after a rollback, would take a table of another shape for a damaged file. The row has a number
        # of its own: stores that followed each other have the same ids.
        beside = {REFUSED_AT: self._clock.wall(), REFUSED_STORE: batch.store}
        beside |= {UNKNOWN_KIND: True} if unknown_kind else {}
        rows = [(json.dumps({**entry, **beside}), why) for entry in batch.records]

        def work(db: sqlite3.Connection, counters: _Counters) -> None:
            if batch.store != self.file.uuid:
                if not _release_recovered(db, batch.store, batch.last):
                    return
            elif not open_ranges(db, counters, batch.first, batch.last):
                return
            else:
                mark(db, counters, batch.first, batch.last)
            db.executemany("INSERT INTO refused (record, why) VALUES (?, ?)", rows)
            keep = f"SELECT id FROM refused WHERE {_BY_HEAD_END} ORDER BY id DESC LIMIT ?"  # noqa: S608
            gone = f"DELETE FROM refused WHERE {_BY_HEAD_END} AND id NOT IN ({keep})"  # noqa: S608 - constants only
            db.execute(gone, (REFUSED_MAX,))
            counters["refused"] += len(rows)

        self._run(work)
        if unknown_kind:
            return  # its caller says so once for all
        for entry in batch.records:
            LOG.error(
                "record %s (meter %s, %s/%s/%s) was refused by the head-end for good: %s",
                *(entry.get(name) for name in ("id", "meter", "cls", "obis", "attr")),
                why,
                extra={"event": "store.refused"},
            )

    def offer_again(self, kinds: Collection[str]) -> int:
        """The head-end knows these kinds of records by now: store anew those that were set aside for that. Returns how
        many. They get new ids, under which no head-end holds them."""
        rows = self._run(lambda db, _: db.execute("SELECT id, record FROM refused ORDER BY id").fetchall())
        found = [(number, _again(text, kinds)) for number, text in rows]
        gaps: dict[str, list[tuple[int, Reading | GapReport]]] = {}
        for number, report in found:
            if isinstance(report, GapReport):
                gaps.setdefault(report.meter, []).append((number, report))
        events_ = [(number, report) for number, report in found if isinstance(report, EventReport)]
        for entries in gaps.values():
            also = _forget_refused([number for number, _ in entries])
            opened = [one.first for _, one in entries if isinstance(one, GapReport) and one.gap == "open"]
            self.append([one for _, one in entries], also=also, lists_from=min(opened, default=math.inf))
        if events_:
            numbers = [number for number, _ in events_]
            texts = dict(rows)
            keys = [(_refusal(number, texts[number], "").id, report.key) for number, report in events_]
            # Their keys first, or they would be taken for repetitions of themselves. One with another id came since.
            self._run(lambda db, _: db.executemany("DELETE FROM event WHERE id=? AND key=?", keys))
            self.append([], urgent=[report for _, report in events_], also=_forget_refused(numbers))
        return sum(map(len, gaps.values())) + len(events_)

    def order_resend(self, orders: Iterable[ResendOrder]) -> int:
        """Remember that the head-end wants these once more. Returns how many of the orders are new."""
        return self._run(lambda db, counters: resend.take(db, counters, self.file.uuid, orders))

    def resends_asked(self) -> int:
        """How many orders to send again this store has taken."""
        return self._run(lambda db, _: resend.asked(db))

    def resend_batch(self, records_max: int) -> ResendBatch | None:
        """The next delivered records, at most `records_max`, that the head-end wants once more."""
        return self._run(lambda db, counters: resend.next_records(db, counters, self.file.uuid, records_max))

    def resend_sent(self, again: ResendBatch, *, refused: bool = False) -> None:
        """The head-end acknowledged these, or refused them."""
        self._run(lambda db, _: resend.advance(db, again, refused=refused))

    def resend_reports(self) -> list[ResendReport]:
        """How the orders ended that have nothing left."""
        return self._run(lambda db, _: resend.reports(db))

    def close_resends(self, requests: Iterable[int]) -> None:
        """The head-end has the reports on these orders."""
        self._run(lambda db, _: resend.close(db, requests))

    # --- for further sinks ---

    def add_sink(self, name: str) -> None:
        """A sink of this name is in use; it gets what is stored from the first such moment on."""
        self._run(lambda db, counters: sinks.add(db, counters, name))
        self._sinks.add(name)

    def sink_batch(
        self, name: str, records_max: int, *, store: str = "", after: int = 0, last: int = ID_MAX
    ) -> SinkBatch | None:
        """What a sink gets next, at most `records_max` records; `None` when it has everything. `after`, `last`: only
        of the ids behind `after`, and up to `last`, while this is the store of that name."""

        def work(db: sqlite3.Connection, counters: _Counters) -> SinkBatch | None:
            uuid = self.file.uuid
            low, high = (after, last) if store == uuid else (0, ID_MAX)
            found = sinks.next_records(db, counters, uuid, name, records_max, after=low, last=high)
            return self._leaving(db, counters, found)

        return self._run(work)

    def sink_done(
        self,
        name: str,
        store: str,
        last: int,
        missed: int,
        aside: Iterable[tuple[Mapping[str, object], str]] = (),
    ) -> None:
        """A sink has the records of `store` up to `last`, without those that it missed. `aside`: records that it would
        not take, with the reasons; they are kept for a person to look at. Said of a store before this one, it moves
        nothing."""
        beside = {REFUSED_AT: self._clock.wall(), REFUSED_STORE: store, REFUSED_BY: name}
        rows = [(json.dumps({**entry, **beside}), why) for entry, why in aside]

        def work(db: sqlite3.Connection, _: _Counters) -> None:
            if store == self.file.uuid:
                sinks.done(db, name, last, missed)
            if rows:
                sinks.set_aside(db, name, rows)

        self._run(work)

    def sink_states(self) -> dict[str, SinkState]:
        """Return how every sink stands that was ever used."""
        return self._run(sinks.states)

    # --- signs of life ---

    def last_alive(self) -> tuple[float, float]:
        """When the ledger was in order last, also in a store before this one, seconds since the epoch, 0 for never; and
        when it was before the clock moved on at once (`LifeSign.steady`)."""
        return self._run(lambda _db, _counters: (self.file.sign.alive, self.file.sign.steady))

    def note_alive(self, wall: float) -> None:
        """The ledger is in order up to now, in this store."""
        self._run(lambda db, counters: self.file.note_sign(db, counters, wall))

    # --- for everybody ---

    def event_keys(self) -> list[tuple[str, float]]:
        """The keys of the newest events, oldest first, each with the time at which it was stored."""
        return self._run(lambda db, _: db.execute("SELECT key, at FROM event ORDER BY id").fetchall())

    def events(self, limit: int) -> list[dict[str, object]]:
        """The records of the newest events, newest first, as far as they are still here; at most `limit`."""
        return self._run(lambda db, _: events.newest(db, limit))

    def refused(self, limit: int) -> list[Refusal]:
        """The records that were refused last, newest first, at most `limit`; `REFUSED_MAX` are kept."""
        rows = self._run(
            lambda db, _: db.execute(
                "SELECT id, record, why FROM refused ORDER BY id DESC LIMIT ?", (limit,)
            ).fetchall()
        )
        return [_refusal(*row) for row in rows]

    def losses(self, after: int = 0) -> list[Loss]:
        """What was lost for good, in the order in which that was found out, with numbers above `after`."""
        columns = "seq, noted, meter, since, until, records, why, reach"
        query = f"SELECT {columns} FROM loss WHERE seq > ? ORDER BY seq"  # noqa: S608 - constants only
        return [Loss(*row) for row in self._run(lambda db, _: db.execute(query, (after,)).fetchall())]

    def lost_since(self, meter: str, heard: tuple[str, int]) -> tuple[str, int, float | None]:
        """Return what was lost since a reader of this meter's profiles heard of it last: the store, its last loss, and
        the earliest time (seconds since the epoch, 0 where nobody knows) that rows of the meter among it may speak of,
        `None` where nothing was lost. What a full store gave up does not count: read again, it would fill the store.

        `heard`: the first two of these as of then; a reader who names no store hears of nothing that was before."""
        store, seq = heard

        def work(db: sqlite3.Connection, _: _Counters) -> tuple[str, int, float | None]:
            uuid = self.file.uuid
            newest = int(db.execute("SELECT COALESCE(MAX(seq), 0) FROM loss").fetchone()[0])
            after = newest if not store else seq if store == uuid else 0
            query = "SELECT MIN(reach) FROM loss WHERE seq > ? AND meter IN ('', ?) AND why != 'full'"
            return uuid, newest, db.execute(query, (after, meter)).fetchone()[0]

        return self._run(work)

    def stats(self) -> StoreStats:
        """Return the counts for the status."""

        def work(db: sqlite3.Connection, counters: _Counters) -> StoreStats:
            own = _pending(db, counters)
            recovered, since = db.execute(
                "SELECT COALESCE(SUM(last - first + 1), 0), MIN(made) FROM recovered"
            ).fetchone()
            lost_at = db.execute("SELECT noted FROM loss ORDER BY seq DESC LIMIT 1").fetchone()
            first_pending = "SELECT made FROM block WHERE first <= ? ORDER BY first DESC LIMIT 1"
            oldest = db.execute(first_pending, (counters["released"] + 1,)).fetchone() if own else None
            newest = f"SELECT id, record, why FROM refused WHERE {_BY_HEAD_END} ORDER BY id DESC LIMIT 1"  # noqa: S608
            refused = db.execute(newest).fetchone()
            return StoreStats(
                uuid=self.file.uuid,
                pending=own + recovered,
                kept=_size(db, counters) - own,
                oldest=since if since is not None else oldest[0] if oldest else 0.0,
                forwarded=counters["forwarded"],
                lost=counters["lost"],
                refused=counters["refused"],
                refused_at=_refusal(*refused).refused_at if refused else 0.0,
                lost_at=lost_at[0] if lost_at else 0.0,
            )

        return self._run(work)

    def close(self) -> None:
        self.file.close()

    # --- what keeps it from being written to ---

    @property
    def problem(self) -> str:
        """Why nothing can be stored, and since when; empty while all is well. Any thread."""
        return self._trouble.text()

    def waits(self) -> bool:
        """Whether nothing could be stored, and it is not yet time to try again, for whoever can wait. Any thread."""
        return self._trouble.waits_s(self._clock.monotonic()) > 0

    def warnings(self) -> list[str]:
        return [f"the store takes nothing: {self.problem}"] if self.problem else []

    def tend(self) -> None:
        """Find out whether the store can be written to, once after a start and while there is trouble when it is time
        to try: whoever wants to store something need not be the first one to learn of it."""
        if self._tried and not (self._trouble.problem and not self.waits()):
            return
        self._tried = True
        free = self.file.free_bytes()
        if free < room_wanted(0):
            self._failed(_no_room(f"{self.file.names()[0]}: cannot grow", free))
            return
        with contextlib.suppress(StoreError):  # it is noted
            self._run(lambda db, _: db.execute("UPDATE meta SET value=value WHERE key='format'"))
            self._written()

    # --- inside ---

    def _failed(self, problem: str) -> None:
        if self._trouble.failed(problem, self._clock.wall(), self._clock.monotonic()):
            LOG.error("the store takes nothing: %s", problem, extra={"event": "store.failed"})
        self.on_health(self.problem)

    def _written(self) -> None:
        self._tried = True
        if self._trouble.over():
            LOG.info("the store takes readings again", extra={"event": "store.recovered"})
            self.on_health("")

    def _add(self, db: sqlite3.Connection, counters: _Counters, brought: Brought, body: bytes) -> tuple[int, int]:
        if brought.urgent:
            events.append(db, counters, self._clock.wall(), brought.urgent)
        first = counters["next"]
        marks = [(mark.meter, mark.task, mark.run) for mark in brought.progress]
        if body:
            readings = brought.readings
            counters["next"] += len(readings)
            about = (readings[0].meter, json.dumps(marks, separators=(",", ":")), _earliest(readings))
            db.execute(
                "INSERT INTO block (first, last, made, meter, marks, since, body) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (first, counters["next"] - 1, self._clock.wall(), *about, body),
            )
        else:
            _set_progress(db, marks, first)
        db.executemany(_LEARN, [(meter, pack(what)) for meter, what in brought.knowledge.items()])
        return first, counters["next"] - 1

    def _will_list(self, db: sqlite3.Connection, counters: _Counters, lists_from: float) -> None:
        """Reports of gaps are about to be stored: should they be lost with the ledger, the sign tells since when slots
        are to be listed anew. Those that tell of nothing older than it need no other one."""
        if lists_from == math.inf:
            return
        covered = self.file.sign.unlisted_since
        if not covered or lists_from < covered:
            self.file.note_sign(db, counters, lists_from=lists_from)
        self.file.when_done(lambda: self.file.gap_reports.add(self.file.newest, lists_from))

    def _leaving(self, db: sqlite3.Connection, counters: _Counters, batch: BatchT) -> BatchT:
        """These records are about to be sent: no other will ever have their ids, whatever happens to the file."""
        if batch is not None and batch.last > self.file.sign.reached:
            self.file.note_sign(db, counters)
        return batch

    def _sign(self) -> None:
        """Which events wait has changed, durably. Without a sign of it a damaged log could take them in silence."""
        with contextlib.suppress(StoreError):  # the next one that succeeds says it
            self._run(self.file.note_sign)

    def _run(self, work: Callable[[sqlite3.Connection, _Counters], ResultT], room: int = 0) -> ResultT:
        """`room`: how many octets it stores, where they are many."""
        try:
            result = self.file.run(work)
        except StoreDefectError as error:
            self.on_health(str(error))
            raise
        except StoreError as error:
            free = self.file.free_bytes()
            if not error.full:
                self._failed(str(error))
            elif free < room_wanted(room):
                self._failed(_no_room(str(error), free))
            else:  # the bound of the file: a smaller visit may be stored
                self.on_health(str(error))
            raise
        if not self._trouble.problem:  # that something can be read says nothing of writing
            self.on_health("")
        return result

    def _with_room(self, work: Callable[[sqlite3.Connection, _Counters], ResultT], octets: int) -> ResultT:
        """Run `work`, which stores so much; where the file may not grow any more, give up old records and try again.
        Raises `StoreError`.

        Where the medium has no room, which others may have taken and give back, only what was delivered is given up,
        and once: whatever else went would be lost for a visit that may not be stored after all.
        """
        for _ in range(FULL_RETRIES):
            try:
                return self._run(work, octets)
            except StoreError as error:
                # Not by `_run`: that something could be given up does not mean that the visit is stored.
                if not error.full:
                    raise
                if self._trouble.problem:
                    if not self.file.run(self._shed_delivered):
                        raise
                    break
                if not self.file.run(self._shed):
                    raise
        return self._run(work, octets)

    def _shed_delivered(self, db: sqlite3.Connection, counters: _Counters) -> bool:
        gone = False
        while _empty_delivered(db) or self._drop_oldest(db, counters, counters["released"]):
            gone = True
        return gone

    def _shed(self, db: sqlite3.Connection, counters: _Counters) -> bool:
        blocks = db.execute("SELECT COUNT(first) FROM block").fetchone()[0]
        return sum(self._make_room(db, counters) for _ in range(-(-blocks // 8))) > 0

    def _make_room(self, db: sqlite3.Connection, counters: _Counters) -> bool:
        """Give up the block that is missed least. Returns whether one went; never the only one, which is the visit
        that is just being stored."""
        oldest = db.execute("SELECT last FROM block ORDER BY first LIMIT 1").fetchone()
        if oldest and oldest[0] > counters["released"] and _empty_delivered(db):
            return True
        return self._drop_oldest(db, counters)

    def _drop_kept(self, db: sqlite3.Connection, counters: _Counters) -> None:
        """Remove delivered blocks that are more than are to be kept: a good number at once, since each removal writes
        the pages that say what is free."""
        last = counters["released"]
        lag = min(sinks.lag(db, self._sinks, last), self._records_max // SINK_SHARE)
        keep = max(self._keep_forwarded_max, lag)
        if last - _oldest(db, counters) + 1 > keep * (1 + DROP_SHARE):
            while last - _oldest(db, counters) + 1 > keep and self._drop_oldest(db, counters, last):
                pass

    def _drop_oldest(self, db: sqlite3.Connection, counters: _Counters, up_to: int | None = None) -> bool:
        """Remove the oldest block and return whether one went.

        Without `up_to`, to make room: never the only block, which is the visit that is just being stored. With it,
        after a delivery: only a block all of whose records have ids up to `up_to`; that may be the only one.
        """
        rows = db.execute("SELECT first, last, made, meter, since, marks FROM block ORDER BY first LIMIT 2").fetchall()
        if not rows or (up_to is None and len(rows) < 2) or (up_to is not None and rows[0][1] > up_to):
            return False
        first, last, made, meter, since, marks = rows[0]
        _keep_progress(db, first, meter, marks)
        lost = mark(db, counters, first, last)  # of a damaged block none: its loss was noted when that was found
        db.execute("DELETE FROM block WHERE first=?", (first,))
        if lost:
            counters["lost"] += lost
            note_loss(db, self._clock.wall(), meter, (since, made), since, lost, "full")
            self.file.when_done(partial(self._say_lost, counters["lost"]))
        return True

    def _delivered(self) -> None:
        self._loss_logged = False

    def _say_lost(self, lost: int) -> None:
        """Once until the next delivery: a full store would otherwise fill the log as well."""
        if not self._loss_logged:
            self._loss_logged = True
            text = "the store is full: the oldest undelivered readings are being given up (%d so far)"
            LOG.error(text, lost, extra={"event": "store.loss"})

    def _take(
        self, db: sqlite3.Connection, counters: _Counters, records_max: int, first: int, last: int
    ) -> Batch | None:
        records: list[dict[str, object]] = []
        start, reached, skipped, blocks_left = 0, 0, 0, BLOCKS_PER_BATCH_MAX
        for begin, end in open_ranges(db, counters, first, last):
            start = start or begin
            for block_first, block_last, body in blocks(db, begin, end, blocks_left):
                blocks_left -= 1
                low, high = max(block_first, begin), min(block_last, end)
                unpacked = block_rows(block_first, block_last, body)
                if unpacked is None:
                    # Damage inside one block must not hold up all that follow.
                    skipped, reached = skipped + high - low + 1, high
                    if body:
                        self._note_damaged(db, counters, block_first, block_last)
                    continue
                taken = unpacked[low - block_first : high - block_first + 1][: records_max - len(records)]
                records += [record(record_id, row) for record_id, row in enumerate(taken, low)]
                reached = low + len(taken) - 1
                if len(records) >= records_max:
                    break
            if len(records) >= records_max or not blocks_left:
                break
        return Batch(self.file.uuid, start, reached, tuple(records), skipped) if reached else None

    def _note_damaged(self, db: sqlite3.Connection, counters: _Counters, first: int, last: int) -> None:
        """A block cannot be read back: it counts as lost once, and its row stays, empty, until its ids are passed."""
        made, meter, since = db.execute("SELECT made, meter, since FROM block WHERE first=?", (first,)).fetchone()
        lost = count(open_ranges(db, counters, first, last))
        counters["lost"] += lost
        counters["holes"] += lost
        note_loss(db, self._clock.wall(), meter, (since, made), since, lost, "damaged")
        db.execute("UPDATE block SET body=x'' WHERE first=?", (first,))
        text, event = "records %d to %d cannot be read back (meter %s)", {"event": "store.rot"}
        self.file.when_done(partial(LOG.error, text, first, last, meter or "unknown", extra=event))

    def _take_recovered(self, db: sqlite3.Connection, counters: _Counters, records_max: int) -> Batch | None:
        """The next records of an earlier store; whole blocks, or the beginning of one that is larger than a batch."""
        rows = db.execute(
            "SELECT seq, store, first, last, made, meter, since, body FROM recovered ORDER BY seq LIMIT ?",
            (BLOCKS_PER_BATCH_MAX,),
        ).fetchall()
        records: list[dict[str, object]] = []
        store, reached, start = "", 0, 0
        for seq, of_store, first, last, made, meter, since, body in rows:
            unpacked = block_rows(first, last, body)
            if unpacked is None:
                db.execute("DELETE FROM recovered WHERE seq=?", (seq,))
                counters["lost"] += last - first + 1
                note_loss(db, self._clock.wall(), meter, (since, made), since, last - first + 1, "damaged")
                text, event = "records %d to %d of store %s cannot be read back", {"event": "store.rot"}
                self.file.when_done(partial(LOG.error, text, first, last, of_store, extra=event))
                continue
            if records and (of_store != store or first <= reached):
                break
            store, start = of_store, start or first
            room = records_max - len(records)
            records += [record(record_id, row) for record_id, row in enumerate(unpacked[:room], first)]
            reached = first + min(len(unpacked), room) - 1
            if len(records) >= records_max:
                break
        return Batch(store, start, reached, tuple(records)) if records else None


def _no_room(what: str, free: int) -> str:
    return f"{what} (no room on the medium: {free >> 10} KiB are free)"


def _packed(brought: Brought) -> bytes:
    return pack([reading.row() for reading in brought.readings]) if brought.readings else b""


def _pending(db: sqlite3.Connection, counters: Mapping[str, int]) -> int:
    """Return how many records of this store wait for the head-end."""
    return counters["next"] - 1 - counters["released"] - counters["holes"] - delivered_above(db)


def _oldest(db: sqlite3.Connection, counters: Mapping[str, int]) -> int:
    """Return the lowest id in the file; the next id to be given out when it is empty."""
    first = db.execute("SELECT MIN(first) FROM block").fetchone()[0]
    return counters["next"] if first is None else int(first)


def _keep_progress(db: sqlite3.Connection, first: int, meter: str, text: object) -> None:
    """Keep the marks of a block that goes, but for those that a later visit of its meter brought again: that is a page
    less to write for most blocks."""
    marks = marks_of(text)
    later = db.execute(
        f"SELECT marks FROM block WHERE first > ? AND meter = ? AND marks != '{NO_MARKS}' ORDER BY first",  # noqa: S608
        (first, meter),
    )
    left = {mark[:2] for mark in marks}
    while left and (row := later.fetchone()) is not None:
        left -= {mark[:2] for mark in marks_of(row[0])}
    _set_progress(db, [mark for mark in marks if mark[:2] in left], first)


def _set_progress(db: sqlite3.Connection, marks: Iterable[tuple[str, str, int]], at: int) -> None:
    """Keep marks in the table, unless it has later ones. `at`: the id of the first record of the visit, or of the one
    after it when the visit brought none."""
    db.executemany(
        "INSERT INTO progress (meter, task, run, at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET run=excluded.run, at=excluded.at WHERE excluded.at >= at",
        [(*mark, at) for mark in marks],
    )


def _forget_marks(db: sqlite3.Connection, meters: Collection[str], tasks: Collection[str]) -> None:
    for first, text in db.execute(_MARKS).fetchall():
        marks = marks_of(text)
        kept = [mark for mark in marks if mark[0] not in meters and mark[1] not in tasks]
        if len(kept) < len(marks):
            db.execute("UPDATE block SET marks=? WHERE first=?", (json.dumps(kept, separators=(",", ":")), first))


def _size(db: sqlite3.Connection, counters: Mapping[str, int]) -> int:
    """Return how many records are in the file, those not counted whose bodies are gone."""
    return counters["next"] - _oldest(db, counters) - empty(db)


def _empty_delivered(db: sqlite3.Connection) -> bool:
    """Remove the body of the oldest block that was delivered before those below it; its row becomes one with the stub
    before it. Returns whether there was one."""
    for first, last in db.execute("SELECT first, last FROM delivered ORDER BY first").fetchall():
        query = "SELECT first, last, meter, marks FROM block WHERE first >= ? AND last <= ? AND length(body) > 0"
        row = db.execute(query + " ORDER BY first LIMIT 1", (first, last)).fetchone()
        if row is None:
            continue
        block_first, block_last, meter, marks = row
        _keep_progress(db, block_first, meter, marks)
        query = "SELECT first FROM block WHERE length(body) = 0 AND first >= ? AND last = ?"
        stub = db.execute(query, (first, block_first - 1)).fetchone()
        if stub is None:
            db.execute(f"UPDATE block SET body=x'', marks='{NO_MARKS}' WHERE first=?", (block_first,))  # noqa: S608
        else:
            db.execute("DELETE FROM block WHERE first=?", (block_first,))
            db.execute("UPDATE block SET last=? WHERE first=?", (block_last, stub[0]))
        return True
    return False


def _release_recovered(db: sqlite3.Connection, store: str, last: int) -> int:
    """The head-end holds the records of an earlier store up to `last`, those of the first blocks. A part of a block
    that it holds goes on from there. Returns how many of them waited."""
    fresh = 0
    for seq, first, block_last, body in db.execute(
        "SELECT seq, first, last, body FROM recovered WHERE store=? AND first <= ? ORDER BY seq", (store, last)
    ).fetchall():
        fresh += min(block_last, last) - first + 1
        if block_last <= last:
            db.execute("DELETE FROM recovered WHERE seq=?", (seq,))
            continue
        rest = (block_rows(first, block_last, body) or [])[last - first + 1 :]
        db.execute("UPDATE recovered SET first=?, body=? WHERE seq=?", (last + 1, pack(rest), seq))
    return fresh


def _earliest(readings: Sequence[Stored]) -> float:
    """The earliest time that a reading speaks of: its row's in a profile, else when it was received or noted."""
    return min(_time_of(reading) for reading in readings)


def _time_of(reading: Stored) -> float:
    if isinstance(reading, GapReport):
        return reading.noted
    if isinstance(reading, EventReport):
        return reading.received
    time = None
    if reading.profile is not None:
        time = row_time(reading.meter_time, reading.tag, reading.raw)
    return reading.received if time is None else time


def _forget_refused(numbers: Sequence[int]) -> Callable[[sqlite3.Connection], None]:
    def forget(db: sqlite3.Connection) -> None:
        db.executemany("DELETE FROM refused WHERE id=?", [(each,) for each in numbers])

    return forget


def _again(text: str, kinds: Collection[str]) -> GapReport | EventReport | None:
    """The report in a record that was set aside because its kind was not known; `None` for another record."""
    try:
        entry = json.loads(text)
        if entry.get(UNKNOWN_KIND) is not True or (kind := kind_of(entry)) not in kinds:
            return None
        if kind == "gap":
            return GapReport(**{name: entry.get(name) for name in GAP_FIELDS})
        return EventReport(**{name: entry.get(name) for name in EVENT_FIELDS}) if kind == "event" else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _refusal(number: int, text: str, why: str) -> Refusal:
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        entry = None
    entry = entry if isinstance(entry, dict) else {}  # a damaged one is still worth its id and its reason
    at = entry.pop(REFUSED_AT, 0.0)
    entry.pop(UNKNOWN_KIND, None)
    store, record_id = entry.pop(REFUSED_STORE, ""), entry.get("id", number)  # before, the row's number was the id
    sink = str(entry.pop(REFUSED_BY, ""))
    refused_at = float(at) if isinstance(at, int | float) else 0.0
    return Refusal(str(store), record_id if isinstance(record_id, int) else number, refused_at, why, entry, sink)
