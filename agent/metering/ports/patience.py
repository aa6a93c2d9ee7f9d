"""How long an address of a bus is asked before it is given up, and when it is asked again. Sans-IO.

An address where nobody answers costs the others their time on the line: every question waits for an answer that does
not come. So an address that was silent once is asked a single time from then on, and no longer than three times what
the slowest meter of this bus has needed so far. The pause before the next question doubles. Now and then it gets the
full time all the same: what was learned from others may be too short for this one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from plc.protocols import Asking

FIRST = Asking(tries=2)  # one lost frame must not hide a meter until the next scan
TURNAROUND_FACTOR = 3.0
SHORT_MIN_S = 0.25  # serial servers and USB adapters deliver in lumps
SHORT_UNKNOWN_S = 0.75  # while no meter of this bus has answered yet
FULL_EVERY = 8  # of so many questions to a silent address one gets the full time
PAUSE_MIN_S = 300.0
PAUSE_MAX_S = 3600.0


@dataclass(slots=True)
class _Silent:
    """An address that did not answer: how often in a row, how long it rests now, and until when."""

    failures: int
    pause_s: float
    due_at: float


class Patience:
    """What is remembered of the addresses of one bus. Times are monotonic seconds."""

    def __init__(self, response_timeout_s: float) -> None:
        """`response_timeout_s` is how long a meter may take to answer: the full time."""
        self._full_s = response_timeout_s
        self._slowest_s: float | None = None  # of all meters of the bus, to answer the first question
        self._silent: dict[int, _Silent] = {}
        self._speeds: dict[int, int] = {}

    def asking(self, address: int, habit: Asking) -> Asking:
        """Return how to ask an address: one that has not been silent by `habit`."""
        silent = self._silent.get(address)
        if silent is not None:
            shortly = silent.failures % FULL_EVERY != 0
            habit = Asking(tries=1, wait_s=min(self._short_s, self._full_s) if shortly else None)
        return replace(habit, last_baudrate=self._speeds.get(address))

    def met(self, address: int, baudrate: int) -> None:
        """A meter whose speed is agreed to anew each time was talked to at this one."""
        self._speeds[address] = baudrate

    def is_due(self, address: int, now: float) -> bool:
        """Whether an address may be asked again beside the scans of the whole range."""
        silent = self._silent.get(address)
        return silent is None or now >= silent.due_at

    def answered(self, address: int, turnaround_s: float | None) -> None:
        """Somebody answered there, and took so long to begin (`None`: that is not known)."""
        self._silent.pop(address, None)
        if turnaround_s is not None:
            self._slowest_s = max(self._slowest_s or 0.0, turnaround_s)

    def unanswered(self, address: int, now: float) -> None:
        """Nobody answered there."""
        silent = self._silent.get(address)
        if silent is None:
            self._silent[address] = _Silent(1, PAUSE_MIN_S, now + PAUSE_MIN_S)
            return
        silent.failures += 1
        if now >= silent.due_at:  # the retries of one visit in a row are one experience
            silent.pause_s = min(PAUSE_MAX_S, 2 * silent.pause_s)
            silent.due_at = now + silent.pause_s

    @property
    def _short_s(self) -> float:
        if self._slowest_s is None:
            return SHORT_UNKNOWN_S
        return max(SHORT_MIN_S, TURNAROUND_FACTOR * self._slowest_s)
