"""Retention: fails jobs that have waited too long, and deletes rows older than configured.

Each step is one small transaction. Its rows are looked up beforehand, without the write lock, so that no device waits
for more than `ROWS_PER_STEP` rows. Everything may be interrupted and repeated.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Engine, Table, delete, select, tuple_
from sqlalchemy.exc import SQLAlchemyError

from headend import db
from headend.config import Retention
from headend.dm import tables as dm
from headend.dm.jobs import queue
from headend.metering.events import events
from headend.metering.gaps import gap_reports, gaps
from headend.metering.readings import doubtful, later_records, readings
from headend.security.devices import registrations
from headend.software.repository import downloads, reports

LOG = logging.getLogger("headend.retention")

DAY_S = 86_400.0
EVERY_S = 3600.0
ROWS_PER_STEP = 500
PAUSE_S = 0.1  # between steps, so that others get the write lock


@dataclass(frozen=True, slots=True)
class _Rule:
    """Which rows of `table` are old."""

    table: Table
    old: ColumnElement[bool]


def _rules(keep: Retention, now: float) -> Iterator[_Rule]:
    """The rules, alerts before the sessions that brought them: a session is kept as long as one of its alerts."""

    def before(days: int) -> float:
        return now - days * DAY_S

    if keep.alerts_days:
        yield _Rule(dm.alerts, dm.alerts.c.received < before(keep.alerts_days))
    if keep.sessions_days:
        silent = dm.sessions.c.id.not_in(select(dm.alerts.c.session))
        yield _Rule(dm.sessions, (dm.sessions.c.updated < before(keep.sessions_days)) & silent)
    if keep.downloads_days:
        yield _Rule(downloads, downloads.c.at < before(keep.downloads_days))
        yield _Rule(reports, reports.c.at < before(keep.downloads_days))
    if keep.registrations_days:
        yield _Rule(registrations, registrations.c.at < before(keep.registrations_days))
    if keep.readings_days:
        # `run` narrows the search by its index; `stored` decides, because a concentrator's clock may be wrong.
        cutoff = before(keep.readings_days)
        for table in (readings, doubtful):
            yield _Rule(table, (table.c.run < int(cutoff)) & (table.c.stored < cutoff))
        yield _Rule(events, (events.c.received < cutoff) & (events.c.stored < cutoff))
        yield _Rule(gap_reports, gap_reports.c.stored < cutoff)
        yield _Rule(later_records, later_records.c.stored < cutoff)
        yield _Rule(gaps, (gaps.c.last < int(cutoff)) & (gaps.c.changed < cutoff))


def prune(engine: Engine, keep: Retention, now: float) -> Iterator[tuple[str, int]]:
    """Delete what is older than configured; yields after each transaction the table and the number of rows deleted."""
    for rule in _rules(keep, now):
        key = tuple_(*rule.table.primary_key.columns)
        found = select(*rule.table.primary_key.columns).where(rule.old).limit(ROWS_PER_STEP)
        while True:
            with db.reader(engine).begin() as connection:
                rows = [tuple(row) for row in connection.execute(found)]
            if not rows:
                break
            with engine.begin() as connection:
                gone = connection.execute(delete(rule.table).where(key.in_(rows), rule.old)).rowcount
            yield rule.table.name, gone
            if len(rows) < ROWS_PER_STEP or not gone:
                break


def expire_jobs(engine: Engine, waiting_days_max: int, now: float) -> Iterator[int]:
    """Fail jobs whose device has not reported for `waiting_days_max`; yields their number after each transaction."""
    before = now - waiting_days_max * DAY_S
    while True:
        with db.reader(engine).begin() as connection:
            overdue = queue.overdue(connection, before, ROWS_PER_STEP)
        if not overdue:
            return
        reason = f"the device has not reported for {waiting_days_max} days"
        with engine.begin() as connection:
            count = sum(queue.expire(connection, number, before, reason, now) for number in overdue)
        yield count
        if not count:
            return


class RetentionWorker:
    """Fails overdue jobs and deletes old rows of one head-end's database, every hour, in a thread of its own."""

    def __init__(
        self, engine: Engine, keep: Retention, waiting_days_max: int, *, wall: Callable[[], float] = time.time
    ) -> None:
        self._engine = engine
        self._keep = keep
        self._waiting_days_max = waiting_days_max
        self._wall = wall
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns once the step under way is committed."""
        self._stop.set()
        self._thread.join()

    def once(self) -> None:
        """Do everything that is due. Raises what the database raises."""
        now = self._wall()
        failed = 0
        for count in expire_jobs(self._engine, self._waiting_days_max, now):
            failed += count
            if self._stop.wait(PAUSE_S):
                return
        if failed:
            LOG.warning("%d jobs waited too long and failed", failed, extra={"event": "retention.jobs"})
        gone: dict[str, int] = {}
        for table, count in prune(self._engine, self._keep, now):
            gone[table] = gone.get(table, 0) + count
            if self._stop.wait(PAUSE_S):
                break
        for table, count in gone.items():
            LOG.info("%s: %d old rows deleted", table, count, extra={"event": "retention.pruned"})

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.once()
            except SQLAlchemyError:
                LOG.exception("retention failed; it is tried again", extra={"event": "retention.failed"})
            self._stop.wait(EVERY_S)
