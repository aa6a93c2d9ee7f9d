"""The watchdog port: systemd's (by its notification socket), the kernel's (/dev/watchdog), or none.

The notification protocol is sd_notify(3): datagrams of `KEY=value` lines to the UNIX socket in `NOTIFY_SOCKET`; plain
sockets do, so no library is needed. The kernel's is Documentation/watchdog/watchdog-api: every write feeds, a `V`
before closing disarms (an orderly stop), closing without it lets the board reset.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

LOG = logging.getLogger("agent.watchdog")

WDIOC_SETTIMEOUT = 0xC0045706  # _IOWR('W', 6, int), linux/watchdog.h
FEEDS_PER_TIMEOUT = 4  # one or two late feeds must not reset the board


class Watchdog(Protocol):
    """Ends or resets us when we stop feeding it."""

    @property
    def active(self) -> bool:
        """Whether somebody acts when the feeding stops."""

    @property
    def every_s(self) -> float:
        """How often `feed` is to be called at least, in seconds."""

    def ready(self) -> None: ...

    def feed(self, now: float) -> None:
        """Everything is healthy. Called often; passes on as often as the watchdog needs."""

    def stopping(self) -> None: ...

    def close(self, *, orderly: bool) -> None:
        """`orderly`: do not reset because of us."""


class NoWatchdog:
    """Nobody watches."""

    active = False
    every_s = math.inf

    def ready(self) -> None: ...

    def feed(self, now: float) -> None: ...

    def stopping(self) -> None: ...

    def close(self, *, orderly: bool) -> None: ...


class SystemdWatchdog:
    """Notifies systemd (or anything that speaks its protocol)."""

    def __init__(self, address: str, interval_s: float) -> None:
        """`interval_s` is what WATCHDOG_USEC asks for; 0 means that readiness is told and nothing is watched."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.active = interval_s > 0
        self.every_s = interval_s / FEEDS_PER_TIMEOUT if self.active else math.inf
        self._next = 0.0

    def ready(self) -> None:
        self._send(f"READY=1\nMAINPID={os.getpid()}")

    def feed(self, now: float) -> None:
        if self.active and now >= self._next:
            self._next = now + self.every_s
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def close(self, *, orderly: bool) -> None: ...

    def _send(self, text: str) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.settimeout(1.0)
                notify.sendto(text.encode(), self._address)
        except OSError as error:
            LOG.warning("systemd cannot be notified: %s", error, extra={"event": "watchdog.notify.failed"})


class DeviceWatchdog:
    """The kernel's watchdog device. Opening it arms it."""

    active = True

    def __init__(self, path: Path, timeout_s: int) -> None:
        """Open and arm the device. Raises `OSError` when another process holds it, or there is none."""
        self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(self._fd, WDIOC_SETTIMEOUT, struct.pack("i", timeout_s))
        except OSError as error:
            # Many drivers have a fixed timeout; feeding four times in ours is then still the best that can be done.
            LOG.info("%s keeps its own timeout: %s", path, error, extra={"event": "watchdog.timeout.fixed"})
        self.every_s = timeout_s / FEEDS_PER_TIMEOUT
        self._next = 0.0

    def ready(self) -> None: ...

    def feed(self, now: float) -> None:
        if now >= self._next:
            self._next = now + self.every_s
            self._write(b"\0")

    def stopping(self) -> None: ...

    def close(self, *, orderly: bool) -> None:
        if orderly:
            self._write(b"V")
        os.close(self._fd)

    def _write(self, data: bytes) -> None:
        try:
            os.write(self._fd, data)
        except OSError as error:
            LOG.warning("the watchdog device cannot be fed: %s", error, extra={"event": "watchdog.feed.failed"})


class BothWatchdogs:
    """systemd's notifications and a device of our own."""

    def __init__(self, first: Watchdog, second: Watchdog) -> None:
        self._all = (first, second)

    @property
    def active(self) -> bool:
        return any(watchdog.active for watchdog in self._all)

    @property
    def every_s(self) -> float:
        return min(watchdog.every_s for watchdog in self._all)

    def ready(self) -> None:
        for watchdog in self._all:
            watchdog.ready()

    def feed(self, now: float) -> None:
        for watchdog in self._all:
            watchdog.feed(now)

    def stopping(self) -> None:
        for watchdog in self._all:
            watchdog.stopping()

    def close(self, *, orderly: bool) -> None:
        for watchdog in self._all:
            watchdog.close(orderly=orderly)


def find(environment: Mapping[str, str], device: str, timeout_s: int) -> Watchdog:
    """The watchdog that this process has: by the environment systemd gives, and the device that is configured."""
    found: Watchdog = NoWatchdog()
    address = environment.get("NOTIFY_SOCKET", "")
    if address.startswith(("/", "@")):
        interval_s = 0.0
        with contextlib.suppress(ValueError):
            if environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
                interval_s = int(environment.get("WATCHDOG_USEC", "0")) / 1e6
        found = SystemdWatchdog(address, interval_s)
    if device:
        try:
            hardware = DeviceWatchdog(Path(device), timeout_s)
        except OSError as error:
            LOG.warning("watchdog %s cannot be opened: %s", device, error, extra={"event": "watchdog.open.failed"})
        else:
            return BothWatchdogs(found, hardware) if isinstance(found, SystemdWatchdog) else hardware
    return found
