"""Looks after the machine's clock: keeps the earliest time that it can be over restarts, sets the clock where that is
allowed, and says what is wrong with it (docs/clock.md).

The file is replaced whole and durably, about once a day. One that is damaged or missing costs nothing but what it knew:
the floor starts with the time of the image's build again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from agent.clock import TOLD
from agent.clock_floor import Stored
from agent.clock_trust import TOLERANCE_S

if TYPE_CHECKING:
    from agent.clock import SystemClock
    from agent.clock_trust import Judgement
    from updateagent.disk import Disk

LOG = logging.getLogger("agent.clock")

FLOOR_FILE = "clock-floor.json"
AGAIN_S = 3600.0  # after the clock was set, or was not let set; whoever else sets it shall not have a fight


def load_floor(disk: Disk, file: Path) -> Stored:
    """Return what was kept. A file that cannot be read is told of, and counts as none."""
    try:
        return Stored.parse(disk.read_bytes(file))
    except FileNotFoundError:
        return Stored()
    except (OSError, ValueError) as error:
        LOG.warning("%s is of no use: %s", file, error, extra={"event": "clock.floor.damaged"})
        return Stored()


def set_machine_clock(seconds: float) -> None:
    """Set civil time (clock_settime(2)). Raises `OSError`: it needs CAP_SYS_TIME."""
    time.clock_settime(time.CLOCK_REALTIME, seconds)


class ClockKeeper:
    """`tick` is for the main thread. `may_set`: whether the clock is set to what a server has told, where no time
    service disciplines it."""

    def __init__(
        self,
        clock: SystemClock,
        disk: Disk,
        file: Path,
        *,
        may_set: bool,
        set_clock: Callable[[float], None] = set_machine_clock,
    ) -> None:
        self._clock = clock
        self._disk = disk
        self._file = file
        self._may_set = may_set
        self._set_clock = set_clock
        self._set_at = self._write_at = float("-inf")
        self._refusal = ""
        self._trusted: bool | None = None

    def tick(self) -> None:
        """Look at the clock; write the floor when it has moved enough."""
        judged = self._clock.judge()
        now = self._clock.monotonic()
        self._tell(judged)
        if self._is_off(judged) and self._may_set and judged.alone and now >= self._set_at:
            self._set_at = now + AGAIN_S
            self._set(judged)
        if now >= self._write_at:
            self._keep(now)

    def close(self) -> None:
        """Write the floor: an orderly end."""
        self._keep(self._clock.monotonic(), at_end=True)

    def warnings(self) -> list[str]:
        """What an operator should know. Any thread."""
        judged, found = self._clock.judge(), []
        if self._is_off(judged):
            side = "ahead of" if judged.ahead_s > 0 else "behind"
            found.append(
                f"the machine's clock is {abs(judged.ahead_s):.0f} s {side} what {judged.source} says: "
                f"{self._why_not_set(judged)}"
            )
        with self._clock.lock:
            aside = self._clock.floor.is_aside(self._clock.monotonic())
        if aside:
            found.append("no certificate is valid by the latest time told or signed: only the build's time counts now")
        return found

    # --- inside ---

    def _is_off(self, judged: Judgement) -> bool:
        return judged.source in TOLD and abs(judged.ahead_s) > TOLERANCE_S

    def _why_not_set(self, judged: Judgement) -> str:
        if not self._may_set:
            return "setting it is not allowed (clock.set)"
        if not judged.alone:
            return "a time service says otherwise"
        return self._refusal or "it will be set"

    def _tell(self, judged: Judgement) -> None:
        if judged.trusted == self._trusted:
            return
        first, self._trusted = self._trusted is None, judged.trusted
        if judged.trusted:
            LOG.info("the time is believed, by %s", judged.source, extra={"event": "clock.trusted"})
        else:
            level = logging.INFO if first else logging.WARNING
            LOG.log(level, "the time is not believed: %s", judged.why, extra={"event": "clock.untrusted"})

    def _set(self, judged: Judgement) -> None:
        try:
            self._set_clock(judged.wall)
        except OSError as error:
            if not self._refusal:
                LOG.warning("the clock cannot be set: %s", error, extra={"event": "clock.set.refused"})
            self._refusal = f"the system does not let it be set ({error.strerror or error})"
            return
        self._refusal = ""
        LOG.warning(
            "the machine's clock was set by %.0f s, to what %s said", -judged.ahead_s, judged.source,
            extra={"event": "clock.set"},
        )  # fmt: skip

    def _keep(self, now: float, *, at_end: bool = False) -> None:
        with self._clock.lock:
            kept = self._clock.floor.to_store(at_end=at_end)
        if kept is None:
            return
        try:
            self._disk.write_durable(self._file, kept.emit())
        except OSError as error:
            self._write_at = now + AGAIN_S
            LOG.warning("%s cannot be written: %s", self._file, error, extra={"event": "clock.floor.unwritten"})
            return
        with self._clock.lock:
            self._clock.floor.stored(kept)
