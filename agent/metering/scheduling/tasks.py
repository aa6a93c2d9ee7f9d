"""The tasks in force: what each meter owes, and what became of each run. Shared by the port threads and the tree."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace

from agent.clock import Clock
from agent.metering.scheduling.readinglist import ReadingList, ReadingListError, ReadingLists
from agent.metering.scheduling.schedule import next_run, next_start, owed_run
from agent.metering.store.reading_store import Store
from agent.settings.provisioning import Provisioning, ReadingTask, TaskStatus

LOG = logging.getLogger("agent.metering.scheduling.tasks")

RESULT_CHARS_MAX = 160
UNTRUSTED_HOLD_S = 120.0  # so long after start, readings wait for a clock that has yet to be set


@dataclass(frozen=True, slots=True)
class Job:
    """Read `items` from a meter, for this run of this task. `trusted`: the clock that says so has been set."""

    task: ReadingTask
    run: int
    items: ReadingList
    trusted: bool = True


@dataclass(slots=True)
class _RunCount:
    """Counts of a task's newest run: meters read, meters given up, visits under way."""

    run: int = 0
    read: int = 0
    failed: int = 0
    active: int = 0


class TaskBook:
    """Thread-safe. What a meter was read for is remembered durably by the store, in the readings' own transaction; runs
    under a clock that was never set are remembered here only."""

    def __init__(self, store: Store, lists: ReadingLists, clock: Clock, *, catch_up_s: int) -> None:
        self._store = store
        self._lists = lists
        self._clock = clock
        self._catch_up_s = catch_up_s
        self._started = clock.monotonic()
        self._lock = threading.RLock()
        self._provisioning = Provisioning()
        self._progress: dict[tuple[str, str], int] | None = None
        self._untrusted: dict[tuple[str, str], int] = {}
        self._counts: dict[str, _RunCount] = {}
        self._reading_lists: dict[str, ReadingList | ReadingListError] = {}  # what was found, or why not
        self.generation = 0

    # --- settings ---

    def configure(self, provisioning: Provisioning) -> None:
        """Follow these tasks and this meter access from now on."""
        with self._lock:
            if replace(provisioning, uplink=self._provisioning.uplink) == self._provisioning:
                self._provisioning = provisioning
                return
            self._provisioning = provisioning
            self._counts = {task.task_id: self._counts.get(task.task_id, _RunCount()) for task in provisioning.tasks}
            self._reading_lists.clear()
            self._recall()
            self.generation += 1
        LOG.info(
            "%d reading tasks in force: %s",
            len(provisioning.tasks),
            ", ".join(f"{task.task_id} every {task.every_s} s" for task in provisioning.tasks) or "none",
            extra={"event": "tasks.configured"},
        )

    def lists_changed(self) -> None:
        """Look for the reading lists again: a software package was activated or removed."""
        with self._lock:  # both at once: a list that is just being read must not be kept as a new one
            self._lists.changed()
            self._reading_lists.clear()
            self.generation += 1

    @property
    def in_force(self) -> bool:
        """Whether there is anything to read: without a task nobody has said yet how meters are talked to."""
        return bool(self._provisioning.tasks)

    def tidy(self) -> None:
        """Have the store forget the progress of tasks that are gone. Raises `StoreError`."""
        with self._lock:
            known = {task.task_id for task in self._provisioning.tasks}
            gone = {task_id for _, task_id in self._done(trusted=True) if task_id not in known}
            if gone and self._progress is not None:
                self._progress = {key: run for key, run in self._progress.items() if key[1] in known}
        if gone:
            self._store.forget(tasks=gone)

    # --- what is owed ---

    def owed(self, meter_id: str) -> list[Job]:
        """Return what the meter owes now, the most important first.

        Raises `StoreError` while it is not known what the meter was read for.
        """
        wall, trusted = self._clock.wall(), self._clock.trusted()
        if not trusted and self._clock.monotonic() - self._started < UNTRUSTED_HOLD_S:
            return []
        with self._lock:
            done = self._done(trusted=trusted)
            jobs: list[Job] = []
            for task in self._provisioning.tasks:
                run = owed_run(task, done.get((meter_id, task.task_id), 0), wall, self._catch_up_s)
                items = self._list_of(task) if run is not None else None
                if run is not None and items is not None:
                    jobs.append(Job(task, run, items, trusted))
            return sorted(jobs, key=lambda job: (-job.task.priority, job.run, job.task.task_id))

    def next_start(self) -> float | None:
        """Return the seconds until some task has a new run; `None` without an enabled task."""
        wall = self._clock.wall()
        at = next_start(self._provisioning.tasks, wall)
        return None if at is None else max(0.0, at - wall)

    # --- what became of it ---

    def began(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._count_of(job).active += 1

    def ended(self, jobs: Iterable[Job], meter_id: str, *, ok: bool, final: bool) -> None:
        """Record that a visit for these jobs is over. `ok`: the readings are stored; `final`: no retry will follow."""
        with self._lock:
            for job in jobs:
                count = self._count_of(job)
                count.active = max(0, count.active - 1)
                if count.run != job.run:
                    continue
                if ok:
                    count.read += 1
                    self._note_done(meter_id, job)
                elif final:
                    count.failed += 1

    def status(self, task_id: str) -> TaskStatus:
        """Return the status of one task, for the management tree; the default for a task that is not known."""
        with self._lock:
            task = next((task for task in self._provisioning.tasks if task.task_id == task_id), None)
            count = self._counts.get(task_id)
            if task is None or count is None:
                return TaskStatus()
            state = "disabled" if not task.enabled else "running" if count.active else "idle"
            result = f"{count.read} read, {count.failed} failed" if count.run else ""
            items = self._reading_lists.get(task.reading_list)
            if isinstance(items, ReadingListError):
                result = str(items).splitlines()[0]
            return TaskStatus(
                state=state,
                last_run=count.run,
                next_run=next_run(task, self._clock.wall()) if task.enabled else 0,
                last_result=result[:RESULT_CHARS_MAX],
            )

    def statuses(self) -> dict[str, TaskStatus]:
        return {task.task_id: self.status(task.task_id) for task in self._provisioning.tasks}

    # --- inside ---

    def _done(self, *, trusted: bool) -> dict[tuple[str, str], int]:
        if not trusted:
            return self._untrusted
        if self._progress is None:
            self._progress = self._store.progress()
            self._recall()
        return self._progress

    def _recall(self) -> None:
        """Take over the last runs of an earlier life of this process from the store's progress."""
        for (_, task_id), run in (self._progress or {}).items():
            count = self._counts.get(task_id)
            if count is not None and count.read + count.failed + count.active == 0:
                count.run = max(count.run, run)

    def _note_done(self, meter_id: str, job: Job) -> None:
        self._done(trusted=job.trusted)[meter_id, job.task.task_id] = job.run

    def _count_of(self, job: Job) -> _RunCount:
        """Return the counts of the job's task; a new run begins with zeros."""
        with self._lock:
            count = self._counts.setdefault(job.task.task_id, _RunCount())
            if count.run != job.run and (count.active == 0 or job.run > count.run):
                count.run, count.read, count.failed = job.run, 0, 0
            return count

    def _list_of(self, task: ReadingTask) -> ReadingList | None:
        name = task.reading_list
        if name not in self._reading_lists:
            try:
                self._reading_lists[name] = self._lists.get(name)
            except ReadingListError as error:
                self._reading_lists[name] = error
                LOG.warning("task %s cannot run: %s", task.task_id, error, extra={"event": "tasks.list"})
        items = self._reading_lists[name]
        return None if isinstance(items, ReadingListError) else items
