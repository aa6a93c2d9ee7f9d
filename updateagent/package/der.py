"""A strict reader and a small writer of DER (X.690), for the few structures of a signature.

Lengths must be definite and in their shortest form, tags have one byte, and nothing may follow the expected elements.
The reader's only state is an offset, and it never recurses: nesting is as deep as the caller's code.
"""

from __future__ import annotations

from datetime import UTC, datetime

from updateagent.errors import SIGNATURE_PROFILE, PackageError

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL, OID = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
UTC_TIME, GENERALIZED_TIME = 0x17, 0x18
SEQUENCE, SET = 0x30, 0x31
LENGTH_BYTES_MAX = 3
"""Bytes of a long length: 16 MiB, far above the limit of any structure that is read here."""


def context(number: int, *, constructed: bool = True) -> int:
    """The tag `[number]`."""
    return (0xA0 if constructed else 0x80) | number


class Cursor:
    """Reads the elements of `data` one after the other. Raises `PackageError` (`signature-profile`)."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._at = 0
        self._what = what

    def fail(self, why: str) -> PackageError:
        """An error at this position, to be raised by the caller."""
        return PackageError(SIGNATURE_PROFILE, f"{self._what}, byte {self._at}: {why}")

    def peek(self) -> int:
        """The tag of the next element, or -1 at the end."""
        return self._data[self._at] if self._at < len(self._data) else -1

    def value(self, tag: int) -> bytes:
        """The content of the next element, which must have this tag."""
        return self._element(tag)[0]

    def raw(self, tag: int) -> bytes:
        """The next element with its tag and length."""
        return self._element(tag)[1]

    def enter(self, tag: int, what: str) -> Cursor:
        """A cursor over the content of the next element."""
        return Cursor(self.value(tag), f"{self._what}, {what}")

    def integer(self) -> int:
        """The next INTEGER, which must not be negative."""
        content = self.value(INTEGER)
        if not content or content[0] & 0x80 or (len(content) > 1 and content[0] == 0 and not content[1] & 0x80):
            raise self.fail("an INTEGER that is negative or not in its shortest form")
        return int.from_bytes(content, "big")

    def boolean(self) -> bool:
        """The next BOOLEAN."""
        content = self.value(BOOLEAN)
        if content not in {b"\x00", b"\xff"}:
            raise self.fail("a BOOLEAN that is neither TRUE nor FALSE")
        return content == b"\xff"

    def bits(self) -> bytes:
        """The next BIT STRING, which must be made of whole bytes."""
        content = self.value(BIT_STRING)
        if content[:1] != b"\0":
            raise self.fail("a BIT STRING that is not made of whole bytes")
        return content[1:]

    def time(self) -> int:
        """The next UTCTime or GeneralizedTime as seconds since 1970."""
        tag = self.peek()
        text = self.value(tag if tag == UTC_TIME else GENERALIZED_TIME)
        if not text.isascii() or not text[:-1].isdigit() or text[-1:] != b"Z":
            raise self.fail("a time that is not written YYMMDDHHMMSSZ")
        digits = text[:-1].decode("ascii")
        if tag == UTC_TIME:
            digits = ("19" if digits[:2] >= "50" else "20") + digits  # RFC 5280, section 4.1.2.5.1
        if len(digits) != 14:
            raise self.fail("a time without seconds, or with fractions of them")
        try:
            numbers = [int(digits[0:4]), *(int(digits[at : at + 2]) for at in range(4, 14, 2))]
            return int(datetime(*numbers, tzinfo=UTC).timestamp())  # type: ignore[arg-type, misc]
        except ValueError as error:
            raise self.fail("a time that no clock shows") from error

    def check_end(self) -> None:
        """Raise unless everything was read."""
        if self._at != len(self._data):
            raise self.fail("bytes that do not belong here")

    def _element(self, tag: int) -> tuple[bytes, bytes]:
        data, start = self._data, self._at
        if start + 2 > len(data):
            raise self.fail("the structure ends early")
        if data[start] != tag:
            raise self.fail(f"tag 0x{data[start]:02x} where 0x{tag:02x} belongs")
        begin, length = start + 2, data[start + 1]
        if length >= 0x80:
            count = length & 0x7F
            field = data[begin : begin + count]
            length = int.from_bytes(field, "big")
            if not 1 <= count <= LENGTH_BYTES_MAX or len(field) < count or field[0] == 0 or length < 0x80:
                raise self.fail("a length that is indefinite, too long or not in its shortest form")
            begin += count
        if begin + length > len(data):
            raise self.fail("the structure ends early")
        self._at = begin + length
        return data[begin : self._at], data[start : self._at]


def tlv(tag: int, *contents: bytes) -> bytes:
    """Emit one element."""
    content = b"".join(contents)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def oid(dotted: str) -> bytes:
    """Emit an OBJECT IDENTIFIER."""
    first, second, *rest = (int(part) for part in dotted.split("."))
    encoded = bytearray()
    for part in (first * 40 + second, *rest):
        septets = [part & 0x7F]
        while part := part >> 7:
            septets.append(part & 0x7F | 0x80)
        encoded += bytes(reversed(septets))
    return tlv(OID, bytes(encoded))


def integer(number: int) -> bytes:
    """Emit a non-negative INTEGER."""
    return tlv(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def utc_time(seconds: int) -> bytes:
    """Emit a UTCTime, or from 2050 on a GeneralizedTime (RFC 5652, section 11.3)."""
    moment = datetime.fromtimestamp(seconds, UTC)
    if moment.year < 2050:
        return tlv(UTC_TIME, moment.strftime("%y%m%d%H%M%SZ").encode())
    return tlv(GENERALIZED_TIME, moment.strftime("%Y%m%d%H%M%SZ").encode())
