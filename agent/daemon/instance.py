"""One instance per state folder, store and registry: locks that are taken before anything there is touched.

A lock is flock(2)'s on a file in the folder, or beside the file. The system releases it with the process, however that
ends, so a file that is left behind means nothing. In the file is the process id of the holder, for the one who comes
second.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

LOCK_FILE = "agent.lock"
LOCK_SUFFIX = "-lock"
MODE = 0o600
PID_BYTES_MAX = 32


class AlreadyRunningError(Exception):
    """Another instance has the folder or file `what`. `pid` is its process id, `None` where it has not been written
    yet."""

    def __init__(self, what: Path, pid: int | None) -> None:
        holder = f"process {pid}" if pid is not None else "another process"
        super().__init__(f"{what} is in use by a running dcu-agent ({holder}); it is for one agent")
        self.what = what
        self.pid = pid


class InstanceLocks:
    """The locks on a state folder and on the files of an agent, which may lie elsewhere, held until `release` or the
    end of the process."""

    def __init__(self, state_dir: Path, files: Iterable[Path] = ()) -> None:
        """Take the locks; folders are made where there are none.

        Raises `AlreadyRunningError`, or `OSError` when a folder cannot be used; then none is held.
        """
        self._held: list[_Lock] = []
        beside = [(file, file.with_name(file.name + LOCK_SUFFIX)) for file in dict.fromkeys(files)]
        try:
            for what, lock_file in [(state_dir, state_dir / LOCK_FILE), *beside]:
                self._held.append(_Lock(what, lock_file))
        except (AlreadyRunningError, OSError):
            self.release()
            raise

    def release(self) -> None:
        """Let the next instance in."""
        while self._held:
            self._held.pop().release()


class _Lock:
    def __init__(self, what: Path, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Not truncated before the lock is ours: the other's pid stands in it. Closed for children: they are not us.
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(self._descriptor, MODE)  # whatever mode an older file has
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)
        except BlockingIOError as error:
            pid = _pid(os.pread(self._descriptor, PID_BYTES_MAX, 0))
            os.close(self._descriptor)
            raise AlreadyRunningError(what, pid) from error
        except OSError:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        os.close(self._descriptor)


def _pid(text: bytes) -> int | None:
    digits = text.strip()
    return int(digits) if digits.isdigit() else None
