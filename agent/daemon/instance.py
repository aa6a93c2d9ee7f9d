"""One instance per state folder: a lock that is taken before anything in it is touched.

The lock is flock(2)'s on a file in the folder. The system releases it with the process, however that ends, so a file
that is left behind means nothing. In the file is the process id of the holder, for the one who comes second.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

LOCK_FILE = "agent.lock"
MODE = 0o600
PID_BYTES_MAX = 32


class AlreadyRunningError(Exception):
    """Another instance has the state folder. `pid` is its process id, `None` where it has not been written yet."""

    def __init__(self, state_dir: Path, pid: int | None) -> None:
        holder = f"process {pid}" if pid is not None else "another process"
        super().__init__(f"{state_dir} is in use by a running dcu-agent ({holder}); one agent per state_dir")
        self.state_dir = state_dir
        self.pid = pid


class InstanceLock:
    """The lock on one state folder, held until `release` or the end of the process."""

    def __init__(self, state_dir: Path) -> None:
        """Take the lock; the folder is made where there is none.

        Raises `AlreadyRunningError`, or `OSError` when the folder cannot be used.
        """
        state_dir.mkdir(parents=True, exist_ok=True)
        # Not truncated before the lock is ours: the other's pid stands in it. Closed for children: they are not us.
        self._descriptor = os.open(state_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(self._descriptor, MODE)  # whatever mode an older file has
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)
        except BlockingIOError as error:
            pid = _pid(os.pread(self._descriptor, PID_BYTES_MAX, 0))
            os.close(self._descriptor)
            raise AlreadyRunningError(state_dir, pid) from error
        except OSError:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Let the next instance in."""
        os.close(self._descriptor)


def _pid(text: bytes) -> int | None:
    digits = text.strip()
    return int(digits) if digits.isdigit() else None
