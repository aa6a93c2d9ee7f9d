"""Faults on a simulated line, as the control socket sets them."""

from __future__ import annotations

import random

from dlms.simulator.line_faults import LineFaults


class Faults(LineFaults):
    """The faults of the line, and `mute`: meters that hear and do not answer."""

    mute: frozenset[str] = frozenset()

    def set(self, command: dict[str, object]) -> None:
        """The control socket's `faults` command: what it does not name goes back to "none"."""
        self.loss = float(str(command.get("loss", 0.0)))
        self.flip = float(str(command.get("flip", 0.0)))
        self.reorder = float(str(command.get("reorder", 0.0)))
        self.bad_fcs = float(str(command.get("bad_fcs", 0.0)))
        self.duplicate = float(str(command.get("duplicate", 0.0)))
        self.silent = bool(command.get("silence", False))
        mute = command.get("mute", [])
        self.mute = frozenset(str(name) for name in mute) if isinstance(mute, list) else frozenset()
        if "seed" in command:
            self.rng = random.Random(str(command["seed"]))
