"""How the store recovers what is left in a quarantined file, in bounded steps, each durable.

A file is quarantined because it is damaged, or because a later version of this software made it: after a rollback to
the other slot the earlier one cannot read it, and begins a store of its own. In either case what it held and the
head-end does not have belongs to this device's queue. `quarantined.reached` says how far a file has been recovered, so
a power cut in the middle costs one step and brings nothing twice.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from agent.metering.store import events
from agent.metering.store.blocks import marks_of, profile_reach
from agent.metering.store.delivery import Range, count, without
from agent.metering.store.events import WhenDone
from agent.metering.store.life_sign import JUMP_S, LifeSign
from agent.metering.store.store_schema import LEDGER

if TYPE_CHECKING:
    from agent.metering.store.salvage import Block, SalvageReader

LOG = logging.getLogger("agent.metering.store")

BLOCKS_PER_STEP = 64
LOSSES_MAX = 1000  # intervals remembered
_NOTE_LOSS = "INSERT INTO loss (noted, meter, since, until, records, why, reach) VALUES (?, ?, ?, ?, ?, ?, ?)"
UNSEEN_S = 86_400.0  # a profile is read at least so often: the longest period of a usual task


@dataclass(frozen=True, slots=True)
class QuarantinedFile:
    """A file in quarantine. `reached` counts in ids of its blocks; `store` names what they are records of.
    `uncounted`: more may be lost than `lost`, since its end could not be read. `at_most`: less may be, since the
    head-end may have had some of it: how much stood where nothing can be read any more, or in a log that is gone."""

    name: str
    store: str
    reached: int
    stored_at: float
    salvaged: int
    lost: int
    done: bool
    uncounted: bool = False
    at_most: bool = False


def recovery_state(db: sqlite3.Connection, name: str) -> QuarantinedFile | None:
    row = db.execute(
        "SELECT name, store, reached, stored_at, salvaged, lost, done FROM quarantined WHERE name=?", (name,)
    ).fetchone()
    if row is None:
        return None
    name, store, reached, stored_at, salvaged, lost, done = row
    return QuarantinedFile(name, store, reached, stored_at, salvaged, lost, done=bool(done))


def begin(
    db: sqlite3.Connection,
    counters: dict[str, int],
    name: str,
    salvage: SalvageReader,
    now: float,
    *,
    when_done: WhenDone,
) -> QuarantinedFile:
    """Recover all but the blocks: progress, the ledger, what is known of meters, refused records, losses before. What
    is to be said of it is said `when_done`."""
    head = salvage.head()
    file = QuarantinedFile(name, head.store or secrets.token_hex(16), head.released or 0, 0.0, 0, 0, done=False)
    db.executemany(
        "INSERT INTO progress (meter, task, run) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET run=max(run, excluded.run)",
        [row for row in salvage.progress() if _is_progress(*row)],
    )
    db.executemany(
        "INSERT OR IGNORE INTO knowledge VALUES (?, ?)",
        [row for row in salvage.knowledge() if isinstance(row[0], str) and isinstance(row[1], bytes)],
    )
    db.executemany(
        "INSERT INTO refused (record, why) VALUES (?, ?)",
        [row[1:] for row in salvage.refused() if isinstance(row[1], str) and isinstance(row[2], str)],
    )
    for table, (columns, _) in LEDGER.items():
        places = ", ".join("?" * len(columns))
        db.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({places})", salvage.ledger(table))  # noqa: S608
    db.executemany("INSERT OR IGNORE INTO quarantined VALUES (?, ?, ?, ?, ?, ?, ?, ?)", salvage.quarantined())
    for counter in ("forwarded", "lost", "refused"):
        counters[counter] += head.counts.get(counter, 0)
    for noted, meter, since, until, records, why, reach in salvage.losses():
        db.execute(_NOTE_LOSS, (noted, meter, since, until, records, why, reach))  # profiles are asked again for it
    if head.next is not None and salvage.losses_unread:  # of which profiles nobody knows
        sign = _sign_of(file.store, salvage)
        until = _latest(sign, now)
        note_loss(db, now, "", (min(sign.unlisted_since or until, until), until), 0.0, 0, "damaged")
    for _, store, block in salvage.recovered(0):
        _put(db, store, block)
    if head.next is not None and salvage.recovered_unread:  # else all since the last delivery is lost
        when_done(_note_lost_again(db, salvage, file.store, now))
    _save(db, file, now)
    return file


def _note_lost_again(db: sqlite3.Connection, salvage: SalvageReader, store: str, now: float) -> Callable[[], None]:
    """What an earlier damage had spared, and waited for the head-end, may be lost now: nobody knows how much. It was
    stored before the recovery of that file came to its end, and after all that the head-end has. Returns what says
    so."""
    sign = _sign_of(store, salvage)
    since = stored = sign.delivered_to
    if sign.unlisted_since and not salvage.gaps_whole:  # reports of gaps may be among them
        since = min(since, sign.unlisted_since)
    ended = [row[1] for row in salvage.quarantined() if row[-1] == 1 and isinstance(row[1], float)]
    until = max(ended, default=now)
    note_loss(db, now, "", (min(since, until), until), max(0.0, stored - UNSEEN_S), 0, "damaged")
    text = "records that were recovered from an earlier file are lost, stored up to %.0f; how many is not known"
    return lambda: LOG.error(text, until, extra={"event": "store.salvaged"})


def proceed(
    db: sqlite3.Connection,
    counters: dict[str, int],
    file: QuarantinedFile,
    salvage: SalvageReader,
    now: float,
    *,
    when_done: WhenDone,
) -> QuarantinedFile:
    """Recover some more blocks. The result is `done` when nothing is left. What is to be said is said `when_done`."""
    sign = _sign_of(file.store, salvage)
    known = bool(sign.store) and not salvage.life().doubtful
    head, losses = salvage.head(), _Losses(db, salvage, now, sign)
    blocks = list(islice(salvage.blocks(file.reached), BLOCKS_PER_STEP))
    reached, stored_at, salvaged = file.reached, file.stored_at, 0
    for block in blocks:
        if block.first <= reached < block.last:
            pass  # partly delivered: it goes again whole, and the head-end knows what it has
        elif block.last <= reached:
            continue
        elif block.first > reached + 1 and (reached or head.released is not None):
            losses.note_hole((reached + 1, block.first - 1), (stored_at, block.made))
        if not losses.waiting((block.first, block.last)):
            _mark(db, block)
        elif block.body:
            _put(db, file.store, block)
            salvaged += block.last - max(block.first - 1, reached)
            _mark(db, block)
        else:
            losses.note_block(block, max(block.first, reached + 1), stored_at)
        reached, stored_at = block.last, block.made
    done = len(blocks) < BLOCKS_PER_STEP
    if done and head.next is not None and head.next > reached + 1:
        losses.note_hole((reached + 1, head.next - 1), (stored_at, losses.until))
    newest = max(reached, (head.next or 1) - 1)
    if done and sign.reached > max(newest, sign.released):  # its log was cut short, or nothing is left at all
        losses.note_hole((max(newest, sign.released) + 1, sign.reached), (stored_at, losses.until))
    # What was in it and is not any more may have been delivered: only up to `released` that is certain.
    rolled_back = sign.reached > max(newest, sign.released)
    uncounted = done and (not salvage.end_found or rolled_back or (head.signed and not known))
    if done and sign.reached > newest and (gone := sign.events - salvage.events_waiting(sign.events_first)) > 0:
        since = max(sign.events_since, stored_at)
        events.say_lost(db, counters, now, sign, gone, since, when_done=when_done)
    if uncounted:
        losses.note_uncounted(newest, stored_at)
    lost = file.lost + losses.records
    if done and (lost or uncounted) and sign.unlisted_since and (rolled_back or not salvage.gaps_whole):
        losses.note_gaps(sign.unlisted_since)
    counters["lost"] += losses.records
    after = QuarantinedFile(
        file.name,
        file.store,
        reached,
        stored_at,
        file.salvaged + salvaged,
        lost,
        done=done,
        uncounted=uncounted,
        at_most=lost > 0 and (rolled_back or not salvage.delivery_known),
    )
    _save(db, after, now)
    return after


def note_store_lost(
    db: sqlite3.Connection, counters: dict[str, int], sign: LifeSign, now: float, *, when_done: WhenDone
) -> None:
    """Nothing is left of a store but its sign of life: note what the head-end did not have of it, at most, and tell it
    of the events. What was stored after the sign is owed, since accounts went with the store."""
    if sign.events:
        events.say_lost(db, counters, now, sign, sign.events, sign.events_since, when_done=when_done)
    lost = sign.reached - sign.released
    if lost > 0:
        since = min(sign.delivered_to, sign.unlisted_since or sign.delivered_to)
        until = max(now, sign.alive, sign.delivered_to)  # the clock may have lost its time
        note_loss(db, now, "", (since, until), max(0.0, sign.delivered_to - UNSEEN_S), lost, "damaged")
        counters["lost"] += lost


def _sign_of(store: str, salvage: SalvageReader) -> LifeSign:
    """The last sign of life of the store in a file; one that says nothing where it has none."""
    sign = salvage.life().sign
    return sign if sign is not None and sign.store == store else LifeSign()


def _latest(sign: LifeSign, now: float) -> float:
    """When the last record can have been stored: until now, or, where the clock has lost its time since, soon after
    the last sign of life."""
    return now if now >= sign.alive else sign.alive + JUMP_S


class _Losses:
    """What a step of the recovery finds to be lost. All that the head-end does not have was stored after the sign's
    `delivered_to`, which tells where no block is left in front of what is lost."""

    def __init__(self, db: sqlite3.Connection, salvage: SalvageReader, now: float, sign: LifeSign) -> None:
        self._db = db
        self._salvage = salvage
        self._now = now
        self._delivered_to = sign.delivered_to
        self._delivered = salvage.delivered()
        self.until = _latest(sign, now)
        self._lists_from = self.until  # all slots since then are listed for what was found to be lost
        self.records = 0

    def waiting(self, ids: Range) -> list[Range]:
        """The parts of a range that the head-end does not have."""
        return without(ids, self._delivered)

    def note_block(self, block: Block, first: int, stored_at: float) -> None:
        """A block is there without its body. `first`: the first id of it that was not delivered."""
        lost = count(self.waiting((first, block.last)))
        since = block.since or stored_at
        note_loss(self._db, self._now, block.meter, (since, block.made), block.since, lost, "damaged")
        self.records += lost

    def note_hole(self, ids: Range, stored: tuple[float, float]) -> None:
        """Blocks with these ids are not there; they were stored between these times."""
        lost = count(self.waiting(ids))
        if lost:
            reach = self._reach(ids[0], stored[0])
            span = (stored[0] or min(self._delivered_to, stored[1]), stored[1])
            self._note(span, reach, lost)
            self.records += lost

    def note_uncounted(self, newest: int, stored_at: float) -> None:
        """The end of the file could not be read: blocks that are newer than everything known may have been there."""
        self._note((stored_at or self._delivered_to, self.until), self._reach(newest + 1, stored_at), 0)

    def note_gaps(self, since: float) -> None:
        """Gaps are not in the ledger any more, and the reports of them may be lost, too. They tell of slots that passed
        before they were stored, and nothing of profiles."""
        if since < self._lists_from:
            self._note((since, self.until), self.until, 0)

    def _note(self, span: tuple[float, float], reach: float, lost: int) -> None:
        note_loss(self._db, self._now, "", span, reach, lost, "damaged")
        if span[0] and span[1] >= self.until:
            self._lists_from = min(self._lists_from, span[0])

    def _reach(self, first: int, stored_at: float) -> float:
        """The earliest time that rows in blocks from the id `first` on may speak of; 0 where nothing tells.

        Rows of a profile are stored in their order, so what is lost begins behind what the last block before it has
        of the same profile. A profile of which no block is left was read `UNSEEN_S` ago or less.
        """
        if not stored_at:
            return 0.0
        last: dict[tuple[str, str], float] = {}
        for block in takewhile(lambda block: block.first < first, self._salvage.blocks(0)):
            last |= profile_reach(block.body)
        return min([*last.values(), stored_at - UNSEEN_S])


def note_loss(
    db: sqlite3.Connection, now: float, meter: str, span: tuple[float, float], reach: float, records: int, why: str
) -> None:
    """Remember that records are gone for good; the fields are those of `Loss`, `span` is its `since` and `until`."""
    db.execute(_NOTE_LOSS, (now, meter, *span, records, why, reach))
    db.execute("DELETE FROM loss WHERE seq <= (SELECT MAX(seq) FROM loss) - ?", (LOSSES_MAX,))


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
