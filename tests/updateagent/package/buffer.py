"""A package in memory."""

from __future__ import annotations


class Buffer:
    """Bytes in memory, as a `Readable`."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def pread(self, size: int, offset: int) -> bytes:
        return self._data[offset : offset + size]

    def size(self) -> int:
        return len(self._data)
