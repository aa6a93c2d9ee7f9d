"""Two sans-IO cores connected by two lines on virtual time: perfect, chopped, lossy, late, repeating, damaging, slow.

    loop = Loop(client, server, Lossy(0.03, seed=1), Lossy(0.03, seed=2), turn)
    loop.run(limit_s=600.0)

`turn(now)` is the test's application: it reads events from both cores and calls their verbs. The loop ends when nothing
can happen any more, when `turn` returns True, or with `OutOfTime` when virtual time is over the limit.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Protocol

STEPS_MAX = 2_000_000  # of one run: a pair that talks for ever without time passing is a bug


class Core(Protocol):
    """What the loop needs of a protocol core."""

    def receive(self, data: bytes, now: float) -> None: ...

    def take_output(self) -> bytes: ...

    def next_deadline(self) -> float | None: ...

    def on_deadline(self, now: float) -> None: ...


class Line(Protocol):
    """One direction: what becomes of a burst, as (arrival time, bytes) in order."""

    def carry(self, burst: bytes, now: float) -> list[tuple[float, bytes]]: ...


class Perfect:
    """Everything arrives at once."""

    def carry(self, burst: bytes, now: float) -> list[tuple[float, bytes]]:
        return [(now, burst)]


class ByteAtATime:
    """Every octet arrives alone, `gap_s` after the one before."""

    def __init__(self, gap_s: float = 0.0) -> None:
        self._gap_s = gap_s

    def carry(self, burst: bytes, now: float) -> list[tuple[float, bytes]]:
        return [(now + index * self._gap_s, burst[index : index + 1]) for index in range(len(burst))]


class Chopped:
    """Bursts arrive in pieces of random sizes."""

    def __init__(self, seed: int) -> None:
        self._pick = random.Random(seed)

    def carry(self, burst: bytes, now: float) -> list[tuple[float, bytes]]:
        pieces: list[tuple[float, bytes]] = []
        start = 0
        while start < len(burst):
            end = start + self._pick.randrange(1, 40)
            pieces.append((now, burst[start:end]))
            start = end
        return pieces


def flip_a_bit(burst: bytes, pick: random.Random) -> bytes:
    """`burst` with one bit changed."""
    damaged = bytearray(burst)
    damaged[pick.randrange(len(damaged))] ^= 1 << pick.randrange(8)
    return bytes(damaged)


def nothing_of(arrivals: list[tuple[float, bytes]]) -> list[tuple[float, bytes]]:
    """The line is busy as long, and nothing arrives."""
    return [(at, b"") for at, _ in arrivals]


class Lossy:
    """A burst is lost with probability `loss`: the line below carries it, and nothing comes out at the far end."""

    def __init__(self, loss: float, seed: int, below: Line | None = None) -> None:
        self._loss = loss
        self._pick = random.Random(seed)
        self._below = below or Perfect()

    def carry(self, burst: bytes, now: float) -> list[tuple[float, bytes]]:
        arrivals = self._below.carry(burst, now)
        return nothing_of(arrivals) if self._pick.random() < self._loss else arrivals


class Delayed:
    """Bursts arrive between `low_s` and `high_s` later, in order."""

    def __init__(self, low_s: float, high_s: float, seed: int) -> None:
        self._low_s = low_s
        self._high_s = high_s
        self._pick = random.Random(seed)
        self._last = 0.0

    def carry(self, burst: bytes, now: float) -> list[tuple[float, bytes]]:
        self._last = max(self._last, now + self._pick.uniform(self._low_s, self._high_s))
        return [(self._last, burst)]


class Repeating:
    """A burst arrives twice with probability `share`."""

    def __init__(self, share: float, seed: int) -> None:
        self._share = share
        self._pick = random.Random(seed)

    def carry(self, burst: bytes, now: float) -> list[tuple[float, bytes]]:
        copies = 2 if self._pick.random() < self._share else 1
        return [(now, burst)] * copies


class Flipping:
    """One bit of a burst is flipped with probability `share`."""

    def __init__(self, share: float, seed: int, below: Line | None = None) -> None:
        self._share = share
        self._pick = random.Random(seed)
        self._below = below or Perfect()

    def carry(self, burst: bytes, now: float) -> list[tuple[float, bytes]]:
        if burst and self._pick.random() < self._share:
            burst = flip_a_bit(burst, self._pick)
        return self._below.carry(burst, now)


class Spoiling:
    """A line on which each burst is lost with probability `loss`, and else damaged with probability `flip`.

    `spoiled` bursts had this happen to them, which took `spoiled_s`.
    """

    def __init__(self, loss: float, flip: float, seed: int, below: Line) -> None:
        self._loss = loss
        self._flip = flip
        self._pick = random.Random(seed)
        self._below = below
        self.spoiled = 0
        self.spoiled_s = 0.0

    def carry(self, burst: bytes, now: float) -> list[tuple[float, bytes]]:
        lost, damaged = self._pick.random() < self._loss, self._pick.random() < self._flip
        arrivals = self._below.carry(flip_a_bit(burst, self._pick) if damaged else burst, now)
        if lost or damaged:
            self.spoiled += 1
            self.spoiled_s += arrivals[-1][0] - now
        return nothing_of(arrivals) if lost else arrivals


class Slow:
    """A serial line: octets of 10 bits one after another, then `latency_s`. `octets` counts what was sent.

    Bursts arrive whole with their last octet, or in pieces of `piece_bytes` as they come. One object for both
    directions is a line that only one side can use at a time.
    """

    def __init__(self, baudrate: int, latency_s: float = 0.0, piece_bytes: int | None = None) -> None:
        self._octet_s = 10 / baudrate
        self._latency_s = latency_s
        self._piece_bytes = piece_bytes
        self._free_at = 0.0
        self.octets = 0
        self.bursts = 0

    def carry(self, burst: bytes, now: float) -> list[tuple[float, bytes]]:
        self.octets += len(burst)
        self.bursts += 1
        size = self._piece_bytes or len(burst) or 1
        arrivals: list[tuple[float, bytes]] = []
        for start in range(0, len(burst), size):
            piece = burst[start : start + size]
            self._free_at = max(self._free_at, now) + len(piece) * self._octet_s
            arrivals.append((self._free_at + self._latency_s, piece))
        return arrivals


class OutOfTime(AssertionError):
    """The pair did not come to an end."""


class Loop:
    """Runs two cores against each other. `waited_s` is the time in which nothing was on the line, lost bursts included:
    somebody waited for a timeout."""

    def __init__(self, left: Core, right: Core, there: Line, back: Line, turn: Callable[[float], bool | None]) -> None:
        self._cores = (left, right)
        self._lines = (there, back)
        self._turn = turn
        self._arrivals: list[tuple[float, int, int, bytes]] = []
        self._order = itertools.count()
        self.now = 0.0
        self.waited_s = 0.0

    def run(self, limit_s: float) -> None:
        """Until nothing can happen, or `turn` says so. Raises `OutOfTime` after `limit_s` of virtual time."""
        for _ in range(STEPS_MAX):
            if self._turn(self.now):
                return
            self._send()
            due = self._next_time()
            if due is None:
                return
            if not self._arrivals:
                self.waited_s += max(0.0, due - self.now)
            self.now = max(self.now, due)
            if self.now > limit_s:
                raise OutOfTime(f"still busy after {limit_s} s")
            self._advance()
        raise OutOfTime(f"{STEPS_MAX} steps")

    def _send(self) -> None:
        for side, core in enumerate(self._cores):
            while burst := core.take_output():
                for at, data in self._lines[side].carry(burst, self.now):
                    heapq.heappush(self._arrivals, (at, next(self._order), 1 - side, data))

    def _next_time(self) -> float | None:
        due = [self._arrivals[0][0]] if self._arrivals else []
        due += [deadline for core in self._cores if (deadline := core.next_deadline()) is not None]
        return min(due, default=None)

    def _advance(self) -> None:
        if self._arrivals and self._arrivals[0][0] <= self.now:
            _, _, side, data = heapq.heappop(self._arrivals)
            if data:  # else the end of what was lost
                self._cores[side].receive(data, self.now)
            return
        for core in self._cores:
            deadline = core.next_deadline()
            if deadline is not None and deadline <= self.now:
                core.on_deadline(self.now)


def all_splits(data: bytes) -> list[list[bytes]]:
    """Every way to cut `data` in two, and octet by octet, and whole."""
    halves = [[data[:cut], data[cut:]] for cut in range(1, len(data))]
    return [[data], [data[index : index + 1] for index in range(len(data))], *halves]


def random_splits(data: bytes, pick: random.Random, count: int) -> list[list[bytes]]:
    """`count` random ways to cut `data` into pieces."""
    found: list[list[bytes]] = []
    for _ in range(count):
        pieces: list[bytes] = []
        start = 0
        while start < len(data):
            end = start + pick.choice((1, 1, 2, 3, 7, 20, 200))
            pieces.append(data[start:end])
            start = end
        found.append(pieces)
    return found
