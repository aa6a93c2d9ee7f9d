"""Reads octets in order, never past the end, and says where it was when they ran out."""

from __future__ import annotations

from dlms.errors import DecodeError

VALUES_MAX = 1 << 19  # a year of quarter-hours with 8 columns is 280,320


class Cursor:
    """A place in `data`. `what` names the thing being read; `base` is where `data` starts in the whole message.

    `values_left` is how many values may still be made of it: what takes an octet on the line takes a hundred in memory.
    """

    __slots__ = ("_data", "_end", "base", "pos", "values_left", "what")

    def __init__(self, data: bytes, what: str, base: int = 0) -> None:
        self._data = data
        self._end = len(data)
        self.pos = 0
        self.what = what
        self.base = base
        self.values_left = VALUES_MAX

    @property
    def offset(self) -> int:
        """Where the next octet stands in the whole message."""
        return self.base + self.pos

    @property
    def remaining(self) -> int:
        return self._end - self.pos

    def error(self, why: str, back: int = 0) -> DecodeError:
        """The error to raise about the octet `back` octets before the current one."""
        return DecodeError(self.what, self.base + self.pos - back, why)

    def count_values(self, values: int) -> None:
        """`values` more are going to be read. Raises `DecodeError` when that is too many in all."""
        self.values_left -= values
        if self.values_left < 0:
            raise self.error(f"more than {VALUES_MAX} values at once")

    def u8(self) -> int:
        pos = self.pos
        if pos >= self._end:
            raise self.error("ends where one more octet is due")
        self.pos = pos + 1
        return self._data[pos]

    def i8(self) -> int:
        value = self.u8()
        return value - 256 if value > 127 else value

    def peek(self) -> int:
        """The next octet, left where it is."""
        if self.pos >= self._end:
            raise self.error("ends where one more octet is due")
        return self._data[self.pos]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def take(self, count: int) -> bytes:
        """The next `count` octets."""
        pos = self.pos
        end = pos + count
        if end > self._end:
            raise self.error(f"ends {end - self._end} octets early")
        self.pos = end
        return self._data[pos:end]

    def since(self, pos: int) -> bytes:
        """What was read since `pos`, an earlier value of the attribute of that name."""
        return self._data[pos : self.pos]

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(self._end - self.pos)

    def length(self) -> int:
        """A length or count: one octet below 128, else 0x81..0x84 and that many octets (IEC 61334-6, X.690 8.1.3).

        The long form is taken for short lengths too, because meters write it; the indefinite form is not.
        """
        first = self.u8()
        if first < 0x80:
            return first
        if first == 0x80 or first > 0x84:
            raise self.error(f"length octet 0x{first:02x} is neither short nor long form", back=1)
        return int.from_bytes(self.take(first - 0x80), "big")

    def octets(self) -> bytes:
        """A length and that many octets."""
        return self.take(self.length())

    def flag(self) -> bool:
        """A-XDR presence flag or boolean: 0 is false, anything else true (IEC 61334-6 6.2)."""
        return self.u8() != 0

    def sub(self, what: str) -> Cursor:
        """A cursor over a length and that many octets."""
        count = self.length()
        base = self.offset
        return Cursor(self.take(count), what, base)

    def check_end(self) -> None:
        """Nothing may follow."""
        if self.pos != self._end:
            raise self.error(f"{self._end - self.pos} octets follow the end")


def length_octets(count: int) -> bytes:
    """The shortest encoding of a length: the inverse of `Cursor.length`."""
    if count < 0x80:
        return bytes((count,))
    size = (count.bit_length() + 7) // 8
    return bytes((0x80 + size,)) + count.to_bytes(size, "big")
