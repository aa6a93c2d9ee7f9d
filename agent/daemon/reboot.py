"""Asks the system for a reboot: the configured command, as a child process, until the system goes down."""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Callable, Sequence

from agent.clock import Clock

LOG = logging.getLogger("agent.reboot")

RETRY_S = 60.0  # after a command that failed; a reboot that was asked for must happen some time
ANSWER_S = 120.0  # a command that neither ends nor brings the system down by then is ended and tried again
LOOK_EVERY_S = 1.0  # how often the command is looked after
UNDER_WAY_S = 600.0  # init took the request; where we still run so long after, its shutdown hangs or was cancelled


class Rebooter:
    """`request()` from any thread; the main thread's `tick()` runs the command and watches it."""

    def __init__(self, command: Sequence[str], clock: Clock, wake: Callable[[], None] = lambda: None) -> None:
        self._command = tuple(command)
        self._clock = clock
        self._lock = threading.Lock()
        self._reason = ""
        self.child: subprocess.Popen[bytes] | None = None
        self._not_before = 0.0
        self.wake = wake

    @property
    def requested(self) -> bool:
        with self._lock:
            return bool(self._reason)

    def request(self, reason: str) -> None:
        """Reboot soon. A second request changes nothing."""
        with self._lock:
            if self._reason:
                return
            self._reason = reason or "asked for"
        LOG.info("reboot requested: %s", reason, extra={"event": "reboot.requested"})
        self.wake()

    def tick(self) -> float | None:
        """One look, not blocking. Main thread only. Returns in how many seconds to look again, `None` for whenever."""
        if not self.requested:
            return None
        self._look()
        return LOOK_EVERY_S

    def _look(self) -> None:
        now = self._clock.monotonic()
        if self.child is None:
            if now >= self._not_before:
                self._spawn(now)
            return
        code = self.child.poll()
        if code is None:
            if now >= self._not_before:
                self.child.kill()
            return
        self.child = None
        if code == 0:
            self._not_before = now + UNDER_WAY_S
            LOG.info("the reboot is under way", extra={"event": "reboot.accepted"})
        else:
            self._not_before = now + RETRY_S
            LOG.error("the reboot command ended with code %d", code, extra={"event": "reboot.failed"})

    def _spawn(self, now: float) -> None:
        try:
            self.child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, start_new_session=True)
            self._not_before = now + ANSWER_S
        except OSError as error:
            self._not_before = now + RETRY_S
            LOG.warning("the reboot command cannot be run: %s", error, extra={"event": "reboot.failed"})
