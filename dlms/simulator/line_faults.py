"""Faults for a simulated line. They are seeded: the same seed damages the same bursts."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from random import Random

from dlms.link.hdlc.frames import CONTROLS, FrameType, HdlcDecoder, HdlcFrame, fcs16

FLAG = b"\x7e"
BURSTS_MAX = 1024


@dataclass(slots=True)
class LineFaults:
    """Probabilities per burst: `loss` drops it, `flip` damages one bit, `reorder` swaps two I frames of a window,
    `bad_fcs` gives an HDLC frame a wrong checksum whose last octet is 7E, `duplicate` delivers it twice. `silent` drops
    everything. `SlowLine` models how long bursts take."""

    loss: float = 0.0
    flip: float = 0.0
    reorder: float = 0.0
    bad_fcs: float = 0.0
    duplicate: float = 0.0
    silent: bool = False
    rng: Random = field(default_factory=lambda: Random(1))  # noqa: S311 (faults, not secrets)

    def apply(self, burst: bytes) -> bytes:
        """Return `burst` after the faults."""
        if not burst or self.silent or self._happens(self.loss):
            return b""
        if self._happens(self.reorder):
            burst = reorder_window(burst, self.rng)
        if self._happens(self.bad_fcs):
            burst = spoil_fcs(burst)
        if self._happens(self.flip):
            damaged = bytearray(burst)
            damaged[self.rng.randrange(len(damaged))] ^= 1 << self.rng.randrange(8)
            burst = bytes(damaged)
        return burst * 2 if self._happens(self.duplicate) else burst

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability


@dataclass(slots=True)
class SlowLine:
    """A line with latency: each burst arrives after `latency_s`; a share `late` of them takes `late_s` more, and can so
    arrive after bursts that were sent later. Sans-IO; at most `BURSTS_MAX` bursts are in transit."""

    latency_s: float = 0.0
    late: float = 0.0
    late_s: float = 0.0
    rng: Random = field(default_factory=lambda: Random(1))  # noqa: S311 (faults, not secrets)
    _waiting: list[tuple[float, int, bytes]] = field(default_factory=list)
    _number: int = 0

    def put(self, burst: bytes, now: float) -> None:
        """Send a burst; when the line is full it is lost."""
        if not burst or len(self._waiting) >= BURSTS_MAX:
            return
        is_late = self.late > 0 and self.rng.random() < self.late
        due = now + self.latency_s + (self.late_s if is_late else 0.0)
        self._number += 1
        heapq.heappush(self._waiting, (due, self._number, burst))

    def take(self, now: float) -> list[bytes]:
        """Return the bursts that have arrived."""
        arrived: list[bytes] = []
        while self._waiting and self._waiting[0][0] <= now:
            arrived.append(heapq.heappop(self._waiting)[2])
        return arrived

    def next_deadline(self) -> float | None:
        """When the next burst arrives; None when none is in transit."""
        return self._waiting[0][0] if self._waiting else None


def _frames(burst: bytes) -> list[HdlcFrame]:
    decoder = HdlcDecoder()
    decoder.feed(burst)
    found: list[HdlcFrame] = []
    while (item := decoder.next()) is not None:
        if isinstance(item, HdlcFrame):
            found.append(item)
    return found


def reorder_window(burst: bytes, rng: Random) -> bytes:
    """Swap two neighbouring I frames, leaving the F bit at the end; a burst with one frame is unchanged."""
    frames = _frames(burst)
    numbered = [at for at, frame in enumerate(frames[:-1]) if CONTROLS[frame.control].type is FrameType.I]
    swappable = [at for at in numbered if at + 1 in numbered]
    if not swappable:
        return burst
    at = rng.choice(swappable)
    frames[at], frames[at + 1] = frames[at + 1], frames[at]
    return b"".join(frame.emit() for frame in frames)


def spoil_fcs(burst: bytes) -> bytes:
    """Give the last frame a wrong checksum that ends in 7E: a receiver that looks for flags cuts it short."""
    frames = _frames(burst)
    if not frames:
        return burst
    wire = frames[-1].emit()
    wrong = bytes(((wire[-3] ^ 0x55), 0x7E))
    if int.from_bytes(wrong, "little") == fcs16(wire[1:-3]):
        wrong = bytes((wrong[0] ^ 0x0F, 0x7E))
    spoiled = wire[:-3] + wrong + FLAG
    return b"".join(frame.emit() for frame in frames[:-1]) + spoiled
