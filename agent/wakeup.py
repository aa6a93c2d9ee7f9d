"""Ends a wait from outside, so that a thread with nothing to do sleeps until there is something."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Sequence

from dlms.link.readable import HasDescriptor, readable


class Wakeup:
    """A flag with a file descriptor (eventfd(2)), which is readable while the flag is set.

    Unlike `threading.Event` it can be waited for together with sockets and serial ports, and set by a signal handler,
    which must not take a lock that the thread it interrupts may hold.

    Whoever waits clears the flag *before* it looks for what it may have been woken for: what comes after that look
    ends the next wait.
    """

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def set(self) -> None:
        """End the wait under way, or else the next one. Any thread."""
        with contextlib.suppress(BlockingIOError):  # the counter is full: it wakes anyhow
            os.eventfd_write(self._descriptor, 1)

    def clear(self) -> None:
        """Take the flag down. Only for the thread that waits."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._descriptor)

    def wait(self, seconds: float, others: Sequence[HasDescriptor] = ()) -> bool:
        """Wait for the flag, or until one of `others` is readable, at most so many seconds.

        Returns whether one of `others` is readable. The flag is down afterwards.
        """
        ready = readable([self, *others], seconds)
        if self._descriptor in ready:
            self.clear()
        return bool(ready - {self._descriptor})
