"""Invocation counters in a file.

`next` returns a value only after a higher bound is durable, so no value is used twice whatever happens: `RESERVED`
values are reserved at a time, and a restart skips the rest of them. The peer's counter is written with each reservation
and by `close`; after a crash it may therefore be a few steps behind, but never ahead.

The file is one line of JSON, `{"version": 1, "next": n, "seen": n | null, "crc": n}`, mode 0600; the CRC is that of the
other three as text.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from pathlib import Path

from dlms.errors import LocalError
from dlms.security.settings import COUNTER_MAX

RESERVED = 64  # one file write per 64 APDUs; a restart skips at most that many of 2^32 values
VERSION = 1
FILE_BYTES_MAX = 4096


class FileCounters:
    """`dlms.security.settings.InvocationCounters` in the file `path`; starts at `start` when there is no file.

    Raises `LocalError` for a damaged file: a counter must never restart by itself. Methods raise OSError when the disk
    fails, before any value is returned.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        self._path = path
        self._next, self._seen = self._load(start)
        self._durable = self._next  # values below are recorded as used

    def next(self) -> int:
        value = self._next
        if value > COUNTER_MAX:
            raise LocalError("the invocation counter is used up: change the key")
        if value >= self._durable:
            bound = min(value + RESERVED, COUNTER_MAX + 1)
            self._store(bound)
            self._durable = bound
        self._next = value + 1
        return value

    def seen(self) -> int | None:
        return self._seen

    def note(self, counter: int) -> None:
        self._seen = counter

    def close(self) -> None:
        """Write the exact values of the counters, giving back what is reserved but unused."""
        self._store(self._next)
        self._durable = self._next

    def _load(self, start: int) -> tuple[int, int | None]:
        try:
            with self._path.open("rb") as file:
                raw = file.read(FILE_BYTES_MAX)
        except FileNotFoundError:
            return start, None
        try:
            held = json.loads(raw)
            following, seen = held["next"], held["seen"]
            if isinstance(held["version"], int) and held["version"] > VERSION:
                raise LocalError(f"{self._path}: the invocation counters are of a later version of this software")
            right = held["version"] == VERSION and held["crc"] == _crc(following, seen)
            right = right and isinstance(following, int) and isinstance(seen, int | None)
        except (ValueError, KeyError, TypeError):
            right = False
        if not right:
            raise LocalError(f"{self._path}: the invocation counters are damaged")
        return following, seen

    def _store(self, following: int) -> None:
        record = {"version": VERSION, "next": following, "seen": self._seen, "crc": _crc(following, self._seen)}
        temporary = self._path.with_name(self._path.name + ".new")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _crc(following: object, seen: object) -> int:
    return zlib.crc32(f"{VERSION} {following} {seen}".encode())
