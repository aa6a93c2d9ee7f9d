"""Faults on a simulated line: bursts lost, bits flipped, silence. Seeded."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Faults:
    """Probabilities a burst. `silent` swallows everything; `mute` names meters that hear and do not answer."""

    loss: float = 0.0
    flip: float = 0.0
    silent: bool = False
    mute: frozenset[str] = frozenset()
    pick: random.Random = field(default_factory=lambda: random.Random(1))

    def apply(self, burst: bytes) -> bytes:
        """What is left of one burst."""
        if self.silent or (self.loss and self.pick.random() < self.loss):
            return b""
        if burst and self.flip and self.pick.random() < self.flip:
            damaged = bytearray(burst)
            damaged[self.pick.randrange(len(damaged))] ^= 1 << self.pick.randrange(8)
            return bytes(damaged)
        return burst

    def set(self, command: dict[str, object]) -> None:
        """The control socket's `faults` command: what it does not name goes back to "none"."""
        self.loss = float(str(command.get("loss", 0.0)))
        self.flip = float(str(command.get("flip", 0.0)))
        self.silent = bool(command.get("silence", False))
        mute = command.get("mute", [])
        self.mute = frozenset(str(name) for name in mute) if isinstance(mute, list) else frozenset()
        if "seed" in command:
            self.pick = random.Random(str(command["seed"]))
