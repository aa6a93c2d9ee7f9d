"""What keeps the store from being written to, since when, and when that is tried again: sans-IO.

A medium without room, or one that fails, does not get better by being asked more often: each attempt costs a flash
writes and a meter a visit. So attempts are spaced, for everybody who wants to write.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

AGAIN_FIRST_S, AGAIN_MAX_S = 5.0, 300.0  # pauses between attempts, which double
MARGIN_BYTES = 64 << 10  # beside what is to be written: pages of the tables, the log's frames, the sign of life


def room_wanted(octets: int) -> int:
    """Return how much room on the medium a write of this size is sure to find enough: it goes to the log first and to
    its place later."""
    return 2 * octets + MARGIN_BYTES


@dataclass(slots=True)
class Trouble:
    """`problem`: why nothing can be written, empty while all is well; `since`: seconds since the epoch."""

    problem: str = ""
    since: float = 0.0
    failures: int = 0
    _again_at: float = 0.0

    def waits_s(self, now: float) -> float:
        """Return in how many seconds the next attempt is; 0 for now. `now`: monotonic."""
        return max(0.0, self._again_at - now) if self.problem else 0.0

    def failed(self, problem: str, wall: float, now: float) -> bool:
        """An attempt failed. Returns whether that is news."""
        news = not self.problem
        if news:
            self.since, self.failures = wall, 0
        if not self.waits_s(now):  # those that fail within a pause are no attempts of their own
            self.failures += 1
            self._again_at = now + min(AGAIN_MAX_S, AGAIN_FIRST_S * float(1 << min(self.failures - 1, 30)))
        self.problem = problem
        return news

    def over(self) -> bool:
        """Something was written. Returns whether that is news."""
        news = bool(self.problem)
        self.problem, self._again_at = "", 0.0
        return news

    def text(self) -> str:
        """Return the problem with its beginning; empty without one."""
        if not self.problem:
            return ""
        since = f"{datetime.fromtimestamp(self.since, UTC):%Y-%m-%d %H:%M:%SZ}"
        return f"{self.problem}; nothing is stored since {since}"
