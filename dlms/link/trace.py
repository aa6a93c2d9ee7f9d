"""Traces: what crossed a port, as text that people read, `dlms decode` decodes and `ReplayPort` plays back.

    # dlms trace 1
    0.000000 > 7ea0070321930f017e
    0.031250 < 7ea01e210373c37a818012...7e

Seconds since the beginning, direction (`>` to the meter, `<` from it), the bytes of one write or one read in
hexadecimal. Empty lines and lines that begin with `#` mean nothing after the first.

A trace holds whatever crossed the port, passwords of low level security included: it is written for its owner alone.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dlms.errors import DecodeError, LinkError, LocalError

HEADER = "# dlms trace 1"
FILE_BYTES_MAX = 64 << 20  # a longer trace is not read
_LINE = re.compile(r"(\d+(?:\.\d+)?) ([<>]) ((?:[0-9a-fA-F]{2})+)")


@dataclass(frozen=True, slots=True)
class TraceLine:
    """One burst. `sent` is true for bytes to the meter."""

    seconds: float
    sent: bool
    data: bytes

    def __str__(self) -> str:
        return f"{self.seconds:.6f} {'>' if self.sent else '<'} {self.data.hex()}"


def parse_trace(text: str) -> list[TraceLine]:
    """The bursts of a trace. Raises `DecodeError` whose offset is the line number."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != HEADER:
        raise DecodeError("trace", 1, f"the first line is not {HEADER!r}")
    found: list[TraceLine] = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise DecodeError("trace", number, f"{line[:40]!r} is not SECONDS <|> HEX")
        seconds, direction, data = match.groups()
        found.append(TraceLine(float(seconds), direction == ">", bytes.fromhex(data)))
    return found


def read_trace(path: Path) -> list[TraceLine]:
    """The bursts of a trace file. Raises `LocalError` when it cannot be read, `DecodeError` when it is no trace."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise LocalError(f"{path}: longer than {FILE_BYTES_MAX} bytes")
        return parse_trace(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise LocalError(f"{path}: {error}") from error


class TraceWriter:
    """Writes a trace, readable by its owner alone; every burst is in the file when the call returns."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin a new trace; times in it are seconds of `clock` since now. Raises `OSError` when it cannot be made."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.fchmod(descriptor, 0o600)
        self._file = os.fdopen(descriptor, "w", encoding="utf-8")
        self._start = clock()
        self._put(HEADER)

    def note(self, way: str, now: float, data: bytes) -> None:
        """Bytes crossed the port: `way` is ">" to the meter or "<" from it, `now` of the clock. Fits `dlms.Meter`."""
        self._put(str(TraceLine(max(0.0, now - self._start), way == ">", data)))

    def close(self) -> None:
        """Nothing more follows."""
        self._file.close()

    def _put(self, line: str) -> None:
        if not self._file.closed:
            self._file.write(line + "\n")
            self._file.flush()


class ReplayPort:
    """A `dlms.link.port.Port` that plays a trace back: what is written must be what was written then, and what came
    then is read again.

    Writes are compared as one stream, so they may be split differently. Time does not pass: reads answer at once, and
    where the trace waited for a timeout the read is silent for `timeout_s`.
    """

    def __init__(self, lines: list[TraceLine], wait: Callable[[float], None] = time.sleep) -> None:
        self._lines = deque(lines)
        self._wait = wait
        self._expected = b""

    def read(self, timeout_s: float | None) -> bytes | None:
        """What came next; `b""` for a timeout, `None` at the end of the trace."""
        if not self._expected and not self._lines:
            return None
        if self._expected or self._lines[0].sent:
            self._wait(timeout_s or 0.0)  # the meter was silent here, and the client spoke again
            return b""
        return self._lines.popleft().data

    def write(self, data: bytes) -> None:
        """Compare with the trace. Raises `LinkError` where they part."""
        while len(self._expected) < len(data) and self._lines and self._lines[0].sent:
            self._expected += self._lines.popleft().data
        if not self._expected.startswith(data):
            raise LinkError(f"the trace has {self._expected[:40].hex() or 'an answer'} here, not {data[:40].hex()}")
        self._expected = self._expected[len(data) :]

    def close(self) -> None:
        """Nothing to give back."""
