"""Tells when somebody has set the machine's clock, so that nobody has to look at it every second.

A timer on civil time with TFD_TIMER_CANCEL_ON_SET becomes readable when that time is set, and its read fails with
ECANCELED (timerfd_create(2), Linux 3.0). It is armed for a moment that does not come.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import weakref
from collections.abc import Callable
from typing import Any

CLOCK_REALTIME = 0  # linux/time.h
TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET = 1, 2  # linux/timerfd.h
NEVER_S = (1 << 31) - 1 if ctypes.sizeof(ctypes.c_long) == 4 else 1 << 33  # 2038, where time ends for such a kernel
LOOK_EVERY_S = 1.0  # where the system has no such timer
EXPIRATIONS_BYTES = 8


class _Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


class _Itimerspec(ctypes.Structure):
    _fields_ = [("it_interval", _Timespec), ("it_value", _Timespec)]


class ClockSteps:
    """Becomes readable for `select` once civil time was set; has no `descriptors` where the system cannot tell."""

    def __init__(self, libc: Any = None, read: Callable[[int, int], bytes] = os.read) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True) if libc is None else libc
        self._read = read
        self._descriptor: int | None = self._made()

    @property
    def descriptors(self) -> tuple[int, ...]:
        return () if self._descriptor is None else (self._descriptor,)

    @property
    def look_every_s(self) -> float:
        """How often the clock must be looked at, in seconds: infinity where a step makes itself known."""
        return LOOK_EVERY_S if self._descriptor is None else math.inf

    def clear(self) -> None:
        """A descriptor was readable: wait for the next step. What the clock says is to be looked at after this."""
        if self._descriptor is None:
            return
        try:
            self._read(self._descriptor, EXPIRATIONS_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno == errno.ECANCELED and self._armed(self._descriptor):
                return
        self._descriptor = None  # it ran out: from now on nobody tells

    def _made(self) -> int | None:
        try:
            descriptor = int(self._libc.timerfd_create(CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC))
        except AttributeError:  # a C library without it
            return None
        if descriptor < 0:
            return None
        weakref.finalize(self, os.close, descriptor)
        return descriptor if self._armed(descriptor) else None

    def _armed(self, descriptor: int) -> bool:
        when = _Itimerspec(_Timespec(0, 0), _Timespec(NEVER_S, 0))
        flags = TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET
        return bool(self._libc.timerfd_settime(descriptor, flags, ctypes.byref(when), None) == 0)
