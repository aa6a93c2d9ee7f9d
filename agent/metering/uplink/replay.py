"""What is sent first, and how fast a backlog follows: sans-IO, the time is an argument.

After an outage what is read now goes first, and what was left behind follows, oldest first, at a rate that ten thousand
concentrators together do not drown a head-end with. What is fresh is told by when its id was given out on the monotonic
clock: civil time may jump.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

FRESH_S = 60.0  # what was stored within this time is fresh
MARK_EVERY_S = 1.0  # so `FRESH_S` takes some 60 marks at most
MINUTE_S = 60.0
JITTER = 0.25  # of each pause between two batches of a replay, up and down


class TrafficClass(Enum):
    """Why a batch is sent. `urgency` is that of RFC 9218, 0 the highest: a head-end or a proxy that has to shed load
    may begin at the other end."""

    EVENT = "event"  # something happened at a meter: ahead of everything else
    FRESH = "fresh"
    REPLAY = "replay"
    RESEND = "resend"  # delivered before; the head-end asked for it

    @property
    def urgency(self) -> int:
        return {TrafficClass.EVENT: 1, TrafficClass.FRESH: 3, TrafficClass.REPLAY: 5, TrafficClass.RESEND: 7}[self]

    @property
    def may_wait(self) -> bool:
        """Whether it is sent at the pace of a backlog."""
        return self in (TrafficClass.REPLAY, TrafficClass.RESEND)


@dataclass(frozen=True, slots=True)
class ReplayLimits:
    """How fast a backlog may go: `records_per_min`, beginning at a moment drawn from `spread_s` seconds after the
    connection is back."""

    records_per_min: int = 6000
    spread_s: float = 60.0


class Freshness:
    """Knows which ids were given out within the last `FRESH_S`, and `MARK_EVERY_S` more."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def note(self, next_id: int, now: float) -> None:
        """The next record will have this id."""
        if self._marks and next_id < self._marks[-1][1]:
            self._marks.clear()  # another store
        if not self._marks or now - self._marks[-1][0] >= MARK_EVERY_S:
            self._marks.append((now, next_id))
        while len(self._marks) > 1 and self._marks[1][0] <= now - FRESH_S:
            self._marks.popleft()

    @property
    def first(self) -> int:
        """The first id that is fresh. What a start of the process finds in the store is not."""
        return self._marks[0][1]


class Throughput:
    """How many records were delivered within the last minute, as nearly as two numbers can say. May be asked by another
    thread than the one that delivers."""

    def __init__(self) -> None:
        self._window = (0.0, 0, 0)  # the minute that began then: records in it, records in the one before

    def delivered(self, records: int, now: float) -> None:
        began, count, before = self._at(now)
        self._window = (began, count + records, before)

    def per_min(self, now: float) -> int:
        began, count, before = self._at(now)
        return round(count + before * (1 - (now - began) / MINUTE_S))

    def _at(self, now: float) -> tuple[float, int, int]:
        began, count, before = self._window
        if now - began >= 2 * MINUTE_S:
            return now, 0, 0
        return (began + MINUTE_S, 0, count) if now - began >= MINUTE_S else (began, count, before)


class Pace:
    """When the next batch of a backlog may go. `chance` draws from 0 to 1."""

    def __init__(self, limits: ReplayLimits, chance: Callable[[], float]) -> None:
        self.limits = limits
        self._chance = chance
        self.ready_at = 0.0

    def restart(self, now: float) -> None:
        """The head-end can be reached again, for all concentrators at the same moment."""
        self.hold(now, self.limits.spread_s * self._chance())

    def hold(self, now: float, seconds: float) -> None:
        """Nothing for this long."""
        self.ready_at = max(self.ready_at, now + seconds)

    def sent(self, records: int, now: float) -> None:
        """So many were sent."""
        pause_s = records * 60 / self.limits.records_per_min
        self.ready_at = max(self.ready_at, now) + pause_s * (1 - JITTER + 2 * JITTER * self._chance())
