"""The ledger over the store: what changes in it becomes durable together with its report to the head-end."""

from __future__ import annotations

import itertools
import logging
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Literal

from agent.metering.ledger import gap_table
from agent.metering.ledger.ledger import GOES_ON, PROFILE, READ, Change, Gap, Ledger, Reason, refilled
from agent.metering.store.reading_store import Progress, Store
from omadm.readings import GapReport, Reading
from omadm.schedule import Schedule

LOG = logging.getLogger("agent.metering.ledger")

ALIVE_EVERY_S = 300.0  # how exactly an outage of the concentrator can be told from one of its meters
TOO_MANY = "too many open gaps"


class LedgerKeeper:
    """Not thread-safe: its owner has a lock. What the store would not take stays pending for the next `flush`.

    `orphaned`: in this store no ledger was ever in order, so it is new, or took the place of one that was lost with
    accounts in it. `last_alive`: when a life before this one had its ledger in order last, in whatever store; 0 where
    nobody knows."""

    def __init__(self, store: Store) -> None:
        self.ledger = Ledger()
        self.loaded = False
        self._store = store
        self._pending: list[Change | GapReport] = []
        self._touched: set[tuple[str, str]] = set()
        self._gone: set[tuple[str, str]] = set()
        self._marks: list[Progress] = []
        self._before: dict[tuple[str, str], int] = {}
        self._alive = 0.0
        self._loss, self._loss_of = 0, ""
        self.orphaned = False
        self.last_alive = 0.0

    def load(self, done: dict[tuple[str, str], int]) -> dict[tuple[str, str], int]:
        """Take up what an earlier life left; `done` are the last runs that were read. Returns the runs before theirs,
        see `agent.metering.scheduling.slots.Done`. Raises `StoreError`."""
        kept = self._store.ask(gap_table.load)
        self.orphaned = not kept.alive
        self.last_alive = kept.alive or self._store.last_alive()
        self._add(self.ledger.load(kept.balances, kept.going_on, done, self.last_alive))
        self._alive, self._loss, self._loss_of = kept.alive, kept.loss, self._store.file.uuid
        self.loaded = True
        return dict(kept.before)

    # --- what happens to accounts ---

    def expect(self, meter: str, task: str, schedule: Schedule, latest: int, settled: int | None = None) -> bool:
        """The meter owes this task its run `latest` and all after it. Returns whether that is news. `settled`: see
        `Ledger.expect`."""
        new, changes = self.ledger.expect(meter, task, schedule, latest, settled)
        if new:
            self._touched.add((meter, task))
            self._gone.discard((meter, task))
        self._add(changes)
        return new

    def release(self, meter: str, task: str) -> None:
        self._add(self.ledger.release(meter, task))
        self._touched.discard((meter, task))
        self._gone.add((meter, task))

    def rename(self, old: str, new: str) -> None:
        """A meter that had no name has told it. Raises `StoreError`."""
        moved = [task for meter, task in self.ledger.series() if meter == old]
        self._add(self.ledger.rename(old, new, self._gaps(old)))
        for task in moved:
            self._touched.discard((old, task))
            self._gone.add((old, task))
            self._touched.add((new, task))
            self._gone.discard((new, task))

    def read(self, meter: str, task: str, run: int, since: int | None = None) -> None:
        """The meter was read for this run, and for all from `since` on. Raises `StoreError`."""
        settled = self.ledger.settled(meter, task)
        if settled and run <= settled:  # a visit that began before the next run did, after which this one was listed
            self._close(meter, task, run, run, READ)
        else:
            self._add(self.ledger.read(meter, task, run, since))

    def settle(self, meter: str, task: str, latest: int, reason: Reason) -> None:
        self._add(self.ledger.settle(meter, task, latest, reason))

    def reopen(self, meter: str, task: str, run: int) -> None:
        """What was read after `run` was read under a clock that was not right. Raises `StoreError`."""
        self._add(self.ledger.reopen(meter, task, run, self._gaps(meter, task)))
        self._touched.add((meter, task))

    def judge(
        self, verdict: Literal["doubted", "confirmed"], meter: str, task: str, runs: tuple[int, int],
        schedule: Schedule | None, noted: float,
    ) -> None:  # fmt: skip
        """Readings of these runs, first to last, were said to be trusted, and are not; or the same was said before and
        was wrong. `schedule`: of the task, where it is known."""
        first, last = runs
        every, times = (schedule.every, schedule.times) if schedule is not None else (0, "")
        step = every if every and not (last - first) % every else max(1, last - first)
        self._pending.append(
            GapReport(verdict, meter, task, None, first, last, step, Reason.CLOCK, None, round(noted, 3), times or None)
        )

    def correct(self, mark: Progress, before: int) -> None:
        """Have the store hold this mark."""
        self._marks.append(mark)
        self._before[mark.meter, mark.task] = before

    def list_losses(self) -> None:
        """List what the store had and lost before the head-end got it. Raises `StoreError`.

        A lost visit takes the slot with it that was the newest then, of each task of its meter. Where it is not known
        whose visits were lost, all slots of the time that is given are listed, of all meters.
        """
        if self._loss_of not in ("", self._store.file.uuid):  # another file took its place, and counts anew
            self._loss = 0
            self._write_anew()
        losses = self._store.losses(self._loss)
        self._loss_of = self._store.file.uuid
        for loss in losses:
            for meter, task in self.ledger.series():
                if loss.meter in ("", meter):
                    since = loss.since if not loss.meter and loss.since else loss.until
                    self._add(self.ledger.lose(meter, task, since, loss.until, self._gaps(meter, task)))
            self._loss = loss.seq
        if losses:  # among what was lost there may be reports of gaps: the head-end is told of all that are open
            told = {change.gap.key for change in self._pending if isinstance(change, Change)}
            self._add([Change(None, gap) for gap in self._gaps() if gap.key not in told])

    # --- how gaps are closed ---

    def refill(self, readings: Sequence[Reading]) -> None:
        """Close what rows of profiles among these readings, which are stored, cover. Raises `StoreError`."""
        rows: dict[tuple[str, str], set[float]] = {}
        for reading in readings:
            if reading.profile and reading.meter_time and reading.error is None and reading.doubt is None:
                at = _seconds(reading.meter_time)
                if at is not None:
                    rows.setdefault((reading.meter, reading.profile), set()).add(at)
        for (meter, _), times in rows.items():
            ascending = sorted(times)
            period = min((b - a for a, b in itertools.pairwise(ascending)), default=0.0)
            for gap in self._gaps(meter):
                if gap.profile:
                    continue
                end = self.ledger.settled(gap.meter, gap.task) if gap.last == GOES_ON else gap.last
                for first, last in reversed(refilled(gap, end, ascending, period or 1.0)):
                    self._close(meter, gap.task, first, last, PROFILE)

    def give_up(self, meter: str, task: str, why: str) -> int:
        """Close all gaps of a meter, or of one task of it, for a person's reason. Returns how many. Raises
        `StoreError`."""
        gaps = self._gaps(meter, task)
        for gap in gaps:
            end = self.ledger.settled(gap.meter, gap.task) if gap.last == GOES_ON else gap.last
            self._add(self.ledger.close(gap, gap.first, max(end, gap.first), why))
        return len(gaps)

    def listing(self, meter: str = "", limit: int = gap_table.GAPS_MAX) -> list[tuple[Gap, bool]]:
        """Return the open gaps, with the last slot that is listed in each, and whether they go on. Raises
        `StoreError`."""
        return [
            (replace(gap, last=max(gap.first, self.ledger.settled(gap.meter, gap.task))), True)
            if gap.last == GOES_ON
            else (gap, False)
            for gap in self._gaps(meter, limit=limit)
        ]

    def count(self) -> tuple[int, int]:
        """Return how many gaps are open, and how many of them go on. Raises `StoreError`."""
        return self._store.ask(gap_table.count), len(self.ledger.going_on())

    # --- the store ---

    def flush(
        self, wall: float, *, alive: bool, beside: Callable[[sqlite3.Connection], None] = lambda _db: None
    ) -> None:
        """Make everything durable. `alive`: the clock is trusted, and all is accounted for up to now; `beside` writes
        what belongs to it. Raises `StoreError`; then nothing was written, and it is tried again with the next flush."""
        due = alive and abs(wall - self._alive) >= ALIVE_EVERY_S
        if not (self._pending or self._touched or self._gone or self._marks or due):
            return
        changes = [change for change in self._pending if isinstance(change, Change)]
        reports = [_report(one, wall) for one in self._pending if isinstance(one, GapReport) or one.told]
        balances = [one for one in self.ledger.balances() if (one.meter, one.task) in self._touched]
        stamp = (wall if alive else self._alive, self._loss)

        def also(db: sqlite3.Connection) -> None:
            gap_table.write(db, changes, balances, self._before, self._gone, stamp)
            beside(db)

        self._store.append(reports, self._marks, also=also)
        self._pending.clear()
        self._touched.clear()
        self._gone.clear()
        self._marks.clear()
        self._before.clear()
        if alive:
            self._alive = wall
        if due:
            self._store.note_alive(wall)
        self._bound()

    # --- inside ---

    def _write_anew(self) -> None:
        """Another store took the place of the one that had the ledger: it gets the accounts, and what goes on."""
        self._touched |= set(self.ledger.series())
        known = {gap.key for gap in self._gaps()}
        self._add([Change(None, replace(gap, last=GOES_ON)) for gap in self.ledger.going_on() if gap.key not in known])

    def _add(self, changes: Sequence[Change]) -> None:
        self._pending += changes
        self._touched |= {(change.gap.meter, change.gap.task) for change in changes}

    def _close(self, meter: str, task: str, first: int, last: int, how: str) -> None:
        for gap in self._gaps(meter, task):
            self._add(self.ledger.close(gap, first, last, how))

    def _gaps(self, meter: str = "", task: str = "", limit: int = gap_table.GAPS_MAX) -> list[Gap]:
        """The open gaps, those included that are not durable yet."""
        found = {gap.key: gap for gap in self._store.ask(lambda db: gap_table.open_gaps(db, meter, task, limit))}
        for change in self._pending:
            if isinstance(change, Change) and meter in ("", change.gap.meter) and task in ("", change.gap.task):
                if change.was is not None:
                    found.pop(change.was.key, None)
                if not change.how:
                    found[change.gap.key] = change.gap
        return [found[key] for key in sorted(found)][:limit]

    def _bound(self) -> None:
        over = self._store.ask(gap_table.count) - gap_table.GAPS_MAX
        if over <= 0:
            return
        gone = self._store.ask(lambda db: gap_table.oldest(db, over + gap_table.GAPS_MAX // 10))
        for gap in gone:
            self._add(self.ledger.close(gap, gap.first, gap.last, TOO_MANY))
        LOG.error("more than %d gaps: the oldest %d are given up", gap_table.GAPS_MAX, len(gone),
                  extra={"event": "ledger.full"})  # fmt: skip


def _report(what: Change | GapReport, wall: float) -> GapReport:
    return what if isinstance(what, GapReport) else gap_table.report(what, wall)


def _seconds(text: str) -> float | None:
    """Seconds since the epoch of an ISO time in UTC; `None` for what is none."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at.timestamp() if at.tzinfo is not None else None
