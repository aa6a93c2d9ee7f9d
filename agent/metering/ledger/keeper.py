"""The ledger over the store: what changes in it becomes durable together with its report to the head-end."""

from __future__ import annotations

import logging
import math
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from agent.metering.ledger import gap_table
from agent.metering.ledger.ledger import (
    GOES_ON,
    PROFILE,
    READ,
    Change,
    Corrected,
    Gap,
    Ledger,
    Reason,
    Verdict,
    apply,
    refilled,
)
from agent.metering.store.reading_store import Progress, Store
from dlms.cosem.profile import BUFFER, PROFILE_CLASS
from omadm.readings import GapReport, Reading
from omadm.schedule import Range, Schedule

LOG = logging.getLogger("agent.metering.ledger")

ALIVE_EVERY_S = 300.0  # how exactly an outage of the concentrator can be told from one of its meters
TOO_MANY = "too many open gaps"

Code = tuple[int, str, int]  # class, logical name, attribute


class LedgerKeeper:
    """Not thread-safe: its owner has a lock. What the store would not take stays pending for the next `flush`.

    `orphaned`: in this store no ledger was ever in order, so it is new, or took the place of one that was lost with
    accounts in it."""

    def __init__(self, store: Store) -> None:
        self.ledger = Ledger()
        self.loaded = False
        self._store = store
        self._pending: list[Change | GapReport] = []
        self._touched: set[tuple[str, str]] = set()
        self._gone: set[tuple[str, str]] = set()
        self._marks: list[Progress] = []
        self._alive = 0.0
        self._loss, self._loss_of = 0, ""
        self.orphaned = False
        self._alive_before: tuple[float, ...] = ()

    def load(self, done: dict[tuple[str, str], int]) -> None:
        """Take up what an earlier life left; `done` are the last runs that were read. Raises `StoreError`."""
        kept = self._store.ask(gap_table.load)
        self.orphaned = not kept.alive
        signs = self._store.last_alive()
        self._alive_before = (kept.alive,) if kept.alive else signs
        self._add(self.ledger.load(kept.balances, kept.going_on, done, self._alive_before[0]))
        self._alive, self._loss, self._loss_of = kept.alive, kept.loss, self._store.file.uuid
        self.loaded = True

    def alive_before(self, wall: float) -> float:
        """When a life before this one had its ledger in order last, in whatever store; 0 where nobody knows. A time
        that lies ahead of `wall`, now, was told by a clock that was wrong: what was known before that one counts."""
        return next((at for at in self._alive_before if 0 < at <= wall + ALIVE_EVERY_S), 0.0)

    @property
    def last_sign(self) -> float:
        """The last sign of life as it stands there, whatever clock it was told by."""
        return self._alive_before[0] if self._alive_before else 0.0

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

    def correct(self, meter: str, task: str, now: Corrected, listed: Sequence[Gap]) -> bool:
        """The clock was corrected: see `Ledger.correct`. Returns whether that changes anything."""
        changes = self.ledger.correct(meter, task, now, listed)
        self._add(changes)
        return bool(changes)

    def judge(self, verdict: Verdict, schedule: Schedule | None, noted: float, generation: int) -> None:
        """Readings were said to be trusted, and are not; or the other way about. `schedule`: of the task, where it is
        known; `generation`: the place of the present store in the order of the device's stores."""
        first, last = verdict.first, verdict.last
        every, times = (schedule.every, schedule.times) if schedule is not None else (0, "")
        step = every if every and not (last - first) % every else max(1, last - first)
        self._pending.append(
            GapReport(
                "confirmed" if verdict.trusted else "doubted", verdict.meter, verdict.task, None, first, last, step,
                Reason.CLOCK, None, round(noted, 3), times or None, verdict.lowest, verdict.highest,
                verdict.store, generation,
            )
        )  # fmt: skip

    def mark(self, mark: Progress) -> None:
        """Have the store hold this mark."""
        self._marks.append(mark)

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

    def list_judged(self, meter: str, task: str, runs: Range, good: Sequence[Range]) -> None:
        """List these runs, whose readings were judged, but for those that are known to be `good`: what the ledger had
        made of that may be lost. Raises `StoreError`."""
        self._add(self.ledger.list_judged(meter, task, runs, good, self._gaps(meter, task)))

    # --- how gaps are closed ---

    def refill(
        self, readings: Sequence[Reading], periods: Mapping[str, float], codes_of: Callable[[str], frozenset[Code]]
    ) -> None:
        """Close what rows of profiles among these readings, which are stored, cover. Raises `StoreError`.

        `periods`: the capture period of each profile, by its logical name: rows at no fixed times, as those of event
        logs, hold no interval. `codes_of`: what a task reads; a row that has nothing of it tells nothing of its slots,
        unless the task reads this profile.
        """
        rows: dict[tuple[str, str], dict[Code, set[float]]] = {}
        for reading in readings:
            if reading.profile and reading.meter_time and reading.error is None and reading.doubt is None:
                at = _seconds(reading.meter_time)
                if at is not None and periods.get(reading.profile):
                    code = (reading.cls, reading.obis, reading.attr)
                    rows.setdefault((reading.meter, reading.profile), {}).setdefault(code, set()).add(at)
        for (meter, profile), cells in rows.items():
            for gap in self._gaps(meter):
                codes = codes_of(gap.task)
                of_its_own = (PROFILE_CLASS, profile, BUFFER) in codes
                held = cells.keys() if of_its_own else codes & cells.keys()
                times = sorted(set().union(*(cells[code] for code in held)))
                if gap.profile or not times:
                    continue
                end = self.ledger.settled(gap.meter, gap.task) if gap.last == GOES_ON else gap.last
                for first, last in reversed(refilled(gap, end, times, periods[profile])):
                    self._close(meter, gap.task, first, last, PROFILE)

    def caught_up(self, meter: str, task: str, run: int) -> None:
        """Logs were read to their ends for this run, and so is what the runs before would have read. Raises
        `StoreError`."""
        for gap in self._gaps(meter, task):
            if not gap.profile and gap.first <= run:
                end = self.ledger.settled(meter, task) if gap.last == GOES_ON else gap.last
                self._close(meter, task, gap.first, min(run, end), PROFILE)

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

    def by_account(self) -> dict[tuple[str, str], list[Gap]]:
        """The open gaps, those included that are not durable yet, by meter and task. Raises `StoreError`."""
        found: dict[tuple[str, str], list[Gap]] = {}
        for gap in self._gaps():
            found.setdefault((gap.meter, gap.task), []).append(gap)
        return found

    def count(self) -> tuple[int, int]:
        """Return how many gaps are open, and how many of them go on. Raises `StoreError`."""
        return self._store.ask(gap_table.count), len(self.ledger.going_on())

    # --- the store ---

    def flush(self, wall: float, *, alive: bool, beside: Callable[[sqlite3.Connection], None] | None = None) -> None:
        """Make everything durable. `alive`: the clock is trusted, and all is accounted for up to now; `beside` writes
        what belongs to it. Raises `StoreError`; then nothing was written, and it is tried again with the next flush."""
        due = alive and abs(wall - self._alive) >= ALIVE_EVERY_S
        if not (self._pending or self._touched or self._gone or self._marks or due or beside):
            return
        changes = [change for change in self._pending if isinstance(change, Change)]
        reports = [_report(one, wall) for one in self._pending if isinstance(one, GapReport) or one.told]
        balances = [one for one in self.ledger.balances() if (one.meter, one.task) in self._touched]
        stamp = (wall if alive else self._alive, self._loss)

        def also(db: sqlite3.Connection) -> None:
            gap_table.write(db, changes, balances, self._gone, stamp)
            if beside is not None:
                beside(db)

        lists_from = min((_lists_from(one.gap) for one in changes if _is_news(one)), default=math.inf)
        self._store.append(reports, self._marks, also=also, lists_from=lists_from)
        self._pending.clear()
        self._touched.clear()
        self._gone.clear()
        self._marks.clear()
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
        apply(
            found,
            (
                change
                for change in self._pending
                if isinstance(change, Change) and meter in ("", change.gap.meter) and task in ("", change.gap.task)
            ),
        )
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


def _is_news(change: Change) -> bool:
    """Whether slots are listed with it that no report told of before."""
    return change.told and change.was is None and not change.how


def _lists_from(gap: Gap) -> float:
    """The last moment at which the first slot of a gap was the newest of its task."""
    return float(gap.schedule.next(gap.first) - 1)


def _seconds(text: str) -> float | None:
    """Seconds since the epoch of an ISO time in UTC; `None` for what is none."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at.timestamp() if at.tzinfo is not None else None
