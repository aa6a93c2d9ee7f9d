"""When a task is due, and when a failure is tried again: pure functions over a task and civil time, sans-IO.

One rule covers ordinary runs, late joiners, outages, a new task and a clock that jumps: *a meter owes a task its newest
run until it was read for that run, or the catch-up time has passed* (`agent.metering.scheduling.slots`). Runs in
between that were missed are not made up one by one, since the registers of a meter hold the present and its profiles
hold the past; they are listed as gaps (`agent.metering.ledger`).

Runs are aligned to the epoch, so all concentrators read at the same moments whenever they were started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agent.settings.provisioning import ReadingTask


def latest_run(task: ReadingTask, wall: float) -> int:
    """Return the newest aligned time that is not after `wall`, in seconds since the epoch."""
    seconds = int(wall // 1)
    return seconds - (seconds - task.offset_s) % task.every_s


def next_run(task: ReadingTask, wall: float) -> int:
    """Return the first aligned time after `wall`, in seconds since the epoch."""
    return latest_run(task, wall) + task.every_s


def next_start(tasks: Iterable[ReadingTask], wall: float) -> int | None:
    """Return the first time after `wall` at which an enabled task has a new run; `None` without such a task."""
    return min((next_run(task, wall) for task in tasks if task.enabled), default=None)


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
