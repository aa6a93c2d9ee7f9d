"""When a meter may be visited for a run, and when a failure is tried again: pure functions over a task and civil time,
sans-IO.

One rule covers ordinary runs, late joiners, outages, a new task and a clock that jumps: *a meter owes a task its newest
run until it was read for that run, or the run's time is over* (`agent.metering.scheduling.slots`). Runs in between that
were missed are not made up one by one, since the registers of a meter hold the present and its profiles hold the past;
they are listed as gaps (`agent.metering.ledger`).

Which runs there are is said by `omadm.schedule`; they are the same on all concentrators. When they begin is not:
`begin` spreads them, so that ten thousand do not deliver to the head-end at once. The moment is a device's own for each
task, and not a meter's: between two visits that follow each other a line stays warm, and one wake-up serves all meters.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agent.settings.provisioning import ReadingTask
from omadm.local_time import NO_TIMES, DayTimes


@dataclass(frozen=True, slots=True)
class Hours:
    """What holds for all tasks: the times of day at which nothing scheduled goes over the lines, how long a run may be
    read that has no deadline, in seconds, and whose device this is."""

    quiet: DayTimes = NO_TIMES
    catch_up_s: int = 86_400
    device: str = ""

    def begin(self, task: ReadingTask, run: int) -> int:
        """Return when this device begins with a run: within `spread_s`, at the same moment each time."""
        if not task.spread_s:
            return run
        return run + zlib.crc32(f"{self.device}/{task.task_id}".encode()) % task.spread_s

    def limit(self, task: ReadingTask) -> int:
        """Return how many seconds after a run it is given up."""
        return self.catch_up_s if task.deadline_s is None else task.deadline_s

    def settled(self, task: ReadingTask, wall: float) -> int:
        """Return the run before which nothing will be read any more: the newest, and once that is given up the next."""
        newest = task.schedule.newest(wall)
        return newest if wall - newest <= self.limit(task) else task.schedule.next(wall)

    def closed(self, task: ReadingTask, wall: float) -> bool:
        """Whether this is no time of day for this task."""
        return self.quiet.hold(wall) or (bool(task.open_times) and not task.open_times.hold(wall))

    def may_visit(self, task: ReadingTask, wall: float) -> bool:
        """Whether meters may be visited now for the newest run of a task."""
        newest = task.schedule.newest(wall)
        return self.begin(task, newest) <= wall <= newest + self.limit(task) and not self.closed(task, wall)

    def next_start(self, tasks: Iterable[ReadingTask], wall: float) -> int | None:
        """Return the first time after `wall` at which an enabled task may have something to do that it had not before;
        `None` without such a task."""
        return min((self._next_start(task, wall) for task in tasks if task.enabled), default=None)

    def _next_start(self, task: ReadingTask, wall: float) -> int:
        newest, following = task.schedule.newest(wall), task.schedule.next(wall)
        given_up = newest + self.limit(task) + 1
        openings = task.open_times.next_begin(wall), self.quiet.next_end(wall)
        found = [self.begin(task, newest), following, given_up, *openings]
        return min(at for at in found if at is not None and at > wall)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses in seconds after failures in a row: `first_s`, doubled up to `max_s`.

    Each pause is drawn from its upper half, so that ten thousand concentrators do not come back at the same moment.
    """

    first_s: float
    max_s: float

    def pause(self, failures: int, jitter: Callable[[], float]) -> float:
        """The pause in seconds after this many failures in a row (1 and more). `jitter` draws from 0 to 1."""
        longest = min(self.max_s, self.first_s * float(1 << min(failures - 1, 30)))
        return longest * (0.5 + 0.5 * jitter())
