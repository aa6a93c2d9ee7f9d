"""Reading one payload of the base node: `dlms.cursor.Cursor` with this package's errors and 12-bit addresses."""

from __future__ import annotations

from dlms.cursor import Cursor
from plc.errors import PlcDecodeError

ADDRESS_MAX = 0xFFF  # 12 bits


class PayloadCursor(Cursor):
    """A cursor whose methods raise `PlcDecodeError`, which names payload and byte."""

    def error(self, why: str, back: int = 0) -> PlcDecodeError:
        """An error `back` bytes before the reading position."""
        return PlcDecodeError(self.what, self.offset - back, why)

    def address(self) -> int:
        """A node address of the 4-32 layer: two octets, of which 12 bits are in use."""
        value = self.u16()
        if value > ADDRESS_MAX:
            raise self.error(f"0x{value:04x} is not a 12-bit address", back=2)
        return value
