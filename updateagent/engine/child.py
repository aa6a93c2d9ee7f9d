"""Runs a program for its exit status and the end of its output: with a deadline, in bounded memory, leaving nothing
running.

The program gets a session of its own. At its end, or at the deadline, everything in that session is killed; children
may hold its output open, and are not waited for. A SIGTERM for this process takes effect after that, so that stopping
`dcu-update` leaves nothing running either.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Self

PIECE_BYTES = 4096
LOOK_S = 0.05  # between two checks whether a program without output has ended


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
    with _Stop() as stop:
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
