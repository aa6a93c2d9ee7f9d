"""Bounds-checked reading of one payload."""

from __future__ import annotations

from plc.errors import PlcDecodeError

ADDRESS_MAX = 0xFFF  # 12 bits


class Cursor:
    """Reads big-endian fields from the front; every method raises `PlcDecodeError` that names payload and byte."""

    def __init__(self, what: str, data: bytes) -> None:
        self.what = what
        self.data = data
        self.offset = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.offset

    def take(self, count: int, name: str) -> bytes:
        if count > self.left:
            raise PlcDecodeError(self.what, self.offset, f"{name} needs {count} bytes, {self.left} left")
        part = self.data[self.offset : self.offset + count]
        self.offset += count
        return part

    def u8(self, name: str) -> int:
        return self.take(1, name)[0]

    def u16(self, name: str) -> int:
        return int.from_bytes(self.take(2, name), "big")

    def address(self, name: str) -> int:
        value = self.u16(name)
        if value > ADDRESS_MAX:
            raise PlcDecodeError(self.what, self.offset - 2, f"{name} 0x{value:04x} is not a 12-bit address")
        return value

    def check_end(self) -> None:
        if self.left:
            raise PlcDecodeError(self.what, self.offset, f"{self.left} bytes too many")
