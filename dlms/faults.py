"""Faults on demand for a simulated line. Seeded: the same seed damages the same bursts."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from dlms.hdlc import CONTROLS, FrameType, HdlcDecoder, HdlcFrame, fcs16

FLAG = b"\x7e"


@dataclass(slots=True)
class LineFaults:
    """Probabilities a burst: `loss` swallows it, `flip` damages one bit, `reorder` swaps two I frames of a window,
    `bad_fcs` gives an HDLC frame a wrong checksum whose last octet is 7E. `silent` swallows everything."""

    loss: float = 0.0
    flip: float = 0.0
    reorder: float = 0.0
    bad_fcs: float = 0.0
    silent: bool = False
    pick: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311 (faults, not secrets)

    def apply(self, burst: bytes) -> bytes:
        """What is left of one burst."""
        if not burst or self.silent or self._happens(self.loss):
            return b""
        if self._happens(self.reorder):
            burst = reorder_window(burst, self.pick)
        if self._happens(self.bad_fcs):
            burst = spoil_fcs(burst)
        if self._happens(self.flip):
            damaged = bytearray(burst)
            damaged[self.pick.randrange(len(damaged))] ^= 1 << self.pick.randrange(8)
            burst = bytes(damaged)
        return burst

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self.pick.random() < probability


def _frames(burst: bytes) -> list[HdlcFrame]:
    decoder = HdlcDecoder()
    decoder.feed(burst)
    found: list[HdlcFrame] = []
    while (item := decoder.next()) is not None:
        if isinstance(item, HdlcFrame):
            found.append(item)
    return found


def reorder_window(burst: bytes, pick: random.Random) -> bytes:
    """Two neighbouring I frames change places, the F bit stays at the end; a burst with one frame stays as it is."""
    frames = _frames(burst)
    numbered = [at for at, frame in enumerate(frames[:-1]) if CONTROLS[frame.control].type is FrameType.I]
    swappable = [at for at in numbered if at + 1 in numbered]
    if not swappable:
        return burst
    at = pick.choice(swappable)
    frames[at], frames[at + 1] = frames[at + 1], frames[at]
    return b"".join(frame.emit() for frame in frames)


def spoil_fcs(burst: bytes) -> bytes:
    """The last frame gets a wrong checksum that ends in 7E: who looks for flags instead of lengths cuts it short."""
    frames = _frames(burst)
    if not frames:
        return burst
    wire = frames[-1].emit()
    wrong = bytes(((wire[-3] ^ 0x55), 0x7E))
    if int.from_bytes(wrong, "little") == fcs16(wire[1:-3]):
        wrong = bytes((wrong[0] ^ 0x0F, 0x7E))
    spoiled = wire[:-3] + wrong + FLAG
    return b"".join(frame.emit() for frame in frames[:-1]) + spoiled
