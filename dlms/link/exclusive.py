"""One serial port, one process: what keeps others out, and who they are.

Two programs that read one line each get half of every answer. A port is therefore opened with two guards:

- a lock (flock) on the device, which every program of ours takes, and many others. The system releases it with the
  process, and it also holds against root;
- `TIOCEXCL` (tty_ioctl(4)): no later open succeeds, whichever program tries, unless it is root's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import termios
from collections.abc import Iterator
from pathlib import Path

BUSY = frozenset({errno.EBUSY, errno.EWOULDBLOCK})  # of TIOCEXCL, of flock
PSEUDO_TERMINALS = range(136, 144)  # majors of Unix98 slaves, Documentation/admin-guide/devices.txt
PROC = Path("/proc")
THIS_PROCESS = "this process"  # where it holds a device itself


def keep_others_out(descriptor: int) -> None:
    """Have later opens of this terminal fail. Raises `OSError` when the descriptor is none.

    Not on a pseudo-terminal: there the mark outlives the process that set it, until the other end is closed too, and a
    program that was killed could not open its port again.
    """
    device = os.fstat(descriptor)
    if stat.S_ISCHR(device.st_mode) and os.major(device.st_rdev) not in PSEUDO_TERMINALS:
        fcntl.ioctl(descriptor, termios.TIOCEXCL)


def holder_of(device: str, proc: Path = PROC) -> str:
    """Return who has `device` open, such as `dcu-agent (process 417)`; empty where /proc does not tell."""
    for pid in (*_lockers(device, proc), *_openers(device, proc)):
        if pid == os.getpid():
            return THIS_PROCESS
        try:
            name = (proc / str(pid) / "comm").read_text(errors="replace").strip()
        except OSError:
            continue  # it has just ended
        return f"{name} (process {pid})"
    return ""


def _lockers(device: str, proc: Path) -> Iterator[int]:
    """Processes with a lock on the device: proc_locks(5), readable for everybody."""
    try:
        node = Path(device).stat()
        lines = (proc / "locks").read_text().splitlines()
    except OSError:
        return
    place = f"{os.major(node.st_dev):02x}:{os.minor(node.st_dev):02x}:{node.st_ino}"
    for line in lines:
        fields = line.split()  # 1: FLOCK ADVISORY WRITE 417 00:05:12 0 EOF
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == place and fields[4].isdigit():
            yield int(fields[4])


def _openers(device: str, proc: Path) -> Iterator[int]:
    """Processes that have the device open, as far as we may look."""
    real = os.path.realpath(device)
    for folder in proc.glob("[0-9]*"):
        try:
            open_here = [os.readlink(entry) for entry in (folder / "fd").iterdir()]  # noqa: PTH115 - text is compared
        except OSError:
            continue  # another user's, or it has just ended
        if real in open_here:
            yield int(folder.name)
