"""Runs a program for its exit status and the end of its output: with a deadline, in bounded memory, leaving nothing
running.

The program gets a session of its own. At its end, or at the deadline, everything in that session is killed, and then
everything else that it started: this process is the sub-reaper meanwhile (prctl(2)), so that what left the session, or
outlived its parent, becomes a child of this process. Children may hold the program's output open, and are not waited
for. A SIGTERM for this process takes effect after that, so that stopping `dcu-update` leaves nothing running either.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

PIECE_BYTES = 4096
LOOK_S = 0.05  # between two checks whether a program without output has ended
ROUNDS_MAX = 200  # of ending what is left: each ends the children of those that the one before ended
PR_SET_CHILD_SUBREAPER = 36

LOG = logging.getLogger("update.hook")


def run(
    command: Sequence[str | os.PathLike[str]],
    timeout_s: float,
    said_bytes_max: int,
    *,
    environment: Mapping[str, str] | None = None,
    with_output: bool = False,
) -> tuple[int | None, str]:
    """Run `command`; return its exit status (None when it did not end in `timeout_s`) and the end of its output.

    Its output is its standard error, `with_output` also its standard output. Raises `OSError` when it cannot be run.
    """
    # The handler is installed before there is a child and until it is gone: a SIGTERM never hits the time in between.
    with _Stop() as stop, _Reaper():
        child = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if with_output else subprocess.DEVNULL,
            stderr=subprocess.STDOUT if with_output else subprocess.PIPE,
            start_new_session=True,
        )
        stream = child.stdout or child.stderr
        with child:
            try:
                deadline = time.monotonic() + timeout_s
                said, ended = _listen(child, stream.fileno() if stream else -1, deadline, said_bytes_max, stop)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
            status = child.wait()
    return (status if ended else None), said.decode("utf-8", "replace").strip()


class _Reaper:
    """Ends, at the end of a block, every process that was begun in it, whatever became of its parent and session."""

    def __enter__(self) -> None:
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl
        self._prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._others = _children()

    def __exit__(self, *_: object) -> None:
        for _round in range(ROUNDS_MAX):
            left = _children() - self._others
            if not left:
                break
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(LOOK_S)  # never waited for: one that hangs in the kernel would keep this program for ever
            for pid in left:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        else:
            LOG.error("processes of a program that was run do not end: %s", sorted(_children() - self._others))
        self._prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _children() -> set[int]:
    """The numbers of this process's children, from /proc; none where there is no /proc."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()  # the usual case, and quicker to find out
    try:
        processes = [folder for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    except OSError:
        return set()
    return {int(folder.name) for folder in processes if _parent(folder) == os.getpid()}


def _parent(process: Path) -> int:
    """The parent's number; 0 for a process that has gone."""
    try:
        # "PID (NAME) STATE PARENT …": a name may hold blanks and brackets.
        return int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


class _Stop:
    """Delays a SIGTERM until the end of a block; `asked` tells whether one came."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)
        if self.asked:
            signal.raise_signal(signal.SIGTERM)

    def _note(self, *_: object) -> None:
        self.asked = True


def _listen(
    child: subprocess.Popen[bytes], stream: int, deadline: float, said_bytes_max: int, stop: _Stop
) -> tuple[bytes, bool]:
    """Read the child's output; return its end, and whether the child ended before the deadline and any SIGTERM."""
    said = b""
    is_open = True
    poll = select.poll()  # `select` takes no descriptor from 1024 on
    poll.register(stream, select.POLLIN)
    while True:
        ended = child.poll() is not None
        if is_open and poll.poll(0 if ended else LOOK_S * 1000):
            piece = os.read(stream, PIECE_BYTES)
            is_open = bool(piece)
            said = (said + piece)[-said_bytes_max:]
        elif ended:
            return said, True
        elif not is_open:
            with suppress(subprocess.TimeoutExpired):
                child.wait(LOOK_S)
        if stop.asked or time.monotonic() >= deadline:
            return said, child.poll() is not None
