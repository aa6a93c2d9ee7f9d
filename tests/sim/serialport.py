"""A pseudo-terminal that looks like a serial port: the simulator has one end, a symbolic link names the other."""

from __future__ import annotations

import os
import tty
from collections import deque
from pathlib import Path

UNREAD_BYTES_MAX = 65536  # nobody listens: a real line loses the bytes, this one drops the oldest bursts


class SimPort:
    """The far end of a serial line. The host may open, close and reopen `link` at will."""

    def __init__(self, link: Path) -> None:
        self.link = link
        self.master, self._slave = os.openpty()
        tty.setraw(self._slave)  # kept open: without it the host's close would end the line
        os.set_blocking(self.master, False)
        link.unlink(missing_ok=True)
        link.symlink_to(os.ttyname(self._slave))
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0

    def read(self) -> bytes:
        """What the host sent."""
        try:
            return os.read(self.master, 65536)
        except BlockingIOError:
            return b""

    def write(self, burst: bytes) -> None:
        """A burst for the host; what does not fit now goes out with `flush`."""
        if burst:
            self._unsent.append(burst)
            self._unsent_bytes += len(burst)
            self.flush()
        while self._unsent_bytes > UNREAD_BYTES_MAX:
            self._unsent_bytes -= len(self._unsent.popleft())

    def flush(self) -> None:
        """Send what fits."""
        while self._unsent:
            burst = self._unsent[0]
            try:
                sent = os.write(self.master, burst)
            except BlockingIOError:
                return
            self._unsent_bytes -= sent
            if sent < len(burst):
                self._unsent[0] = burst[sent:]
                return
            self._unsent.popleft()

    def close(self) -> None:
        """Take the line away."""
        self.link.unlink(missing_ok=True)
        os.close(self.master)
        os.close(self._slave)
