"""What a service prints, kept within bounds: two files in the run folder, which is memory, of 64 KiB each."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

LOG_BYTES_MAX = 64 << 10
LINE_CHARS_MAX = 512
TAIL_LINES_MAX = 500


class ServiceLog:
    """The log of one service. One thread writes; any may read. What cannot be written is lost: it is only a log."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._begun = b""  # a line that has no end yet

    def add(self, data: bytes, wall: float) -> None:
        """Take what the program printed, in pieces of any size, at `wall` (epoch seconds)."""
        *lines, self._begun = (self._begun + data).split(b"\n")
        if len(self._begun) > LINE_CHARS_MAX:
            lines.append(self._begun)
            self._begun = b""
        self._write([line.decode("utf-8", "replace") for line in lines], wall)

    def note(self, text: str, wall: float) -> None:
        """Add a line of the supervisor's, after what the program printed last."""
        if self._begun:
            self.add(b"\n", wall)
        self._write([f"-- {text}"], wall)

    def tail(self, lines: int) -> list[str]:
        """The last lines, oldest first."""
        return tail(self._file, lines)

    def _write(self, lines: list[str], wall: float) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall))
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            size = self._file.stat().st_size if self._file.exists() else 0
            fits = bytearray()
            for line in lines:
                # Bytes count, not characters; and an empty line has its stamp, 22 times what the program printed.
                encoded = f"{stamp} {_printable(line)}\n".encode()
                if size + len(fits) + len(encoded) > LOG_BYTES_MAX:
                    self._append(fits)
                    self._turn()
                    size = 0
                    fits.clear()
                fits += encoded
            self._append(fits)

    def _append(self, data: bytes | bytearray) -> None:
        if data:
            with self._file.open("ab") as file:
                file.write(data)

    def _turn(self) -> None:
        """Begin the file anew; what it holds is kept as the one before, unless that is more than it may."""
        if self._file.exists() and self._file.stat().st_size > LOG_BYTES_MAX:
            self._file.unlink()
        elif self._file.exists():
            self._file.replace(_before(self._file))


def tail(file: Path, lines: int) -> list[str]:
    """The last lines of a log that may be somebody else's now, oldest first."""
    found: list[str] = []
    for one in (_before(file), file):
        with contextlib.suppress(OSError):
            found += one.read_text(encoding="utf-8", errors="replace").splitlines()
    return found[-min(lines, TAIL_LINES_MAX) :]


def _before(file: Path) -> Path:
    return file.with_name(f"{file.name}.1")


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in line[:LINE_CHARS_MAX])
