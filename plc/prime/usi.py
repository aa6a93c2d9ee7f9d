"""USI frames: Microchip's Universal Serial Interface, the framing of PRIME's serial management profile.

    +----+----+----+------------------------+-------------+----+
    | 7E | b0 | b1 | DATA                   | CRC         | 7E |
    +----+----+----+------------------------+-------------+----+
           |    |    |                        1, 2 or 4 octets, big-endian, by protocol id
           |    |    ids 0x25 0x26 0x30 0x31: the first octet is X CCCCCCC,
           |    |    X = 1024 more octets of DATA, C = command
           |    b1 = LL PPPPPP      L = length of DATA, low two bits; P = protocol id
           b0 = LLLLLLLL            L = length of DATA, high eight bits

Between the flags, after the CRC was made, 7D is sent as 7D 5D and 7E as 7D 5E: a raw 7E is always a flag. One flag
may close a frame and open the next. The "CRC-8" of ids 0x27, 0x30 and 0x31 is an XOR of the octets: weak, so the
payload parsers above check everything that can be checked.
"""

from __future__ import annotations

import enum
import functools
import operator
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import crcmod

from plc.errors import PlcDecodeError, PlcLocalError

FLAG = 0x7E
_FLAG = b"\x7e"
_ESCAPE = b"\x7d"
_ESCAPED_FLAG = b"\x7d\x5e"
_ESCAPED_ESCAPE = b"\x7d\x5d"

HEADER_BYTES = 2
LENGTH_MAX = 0x3FF  # 10 bits
EXTENSION_BYTES = 1024  # what the extension bit adds to the length
EXTENSION_BIT = 0x80
COMMAND_MASK = 0x7F
# The longest frame between two flags: every octet stuffed. More without a flag is noise, and is not kept.
WIRE_BYTES_MAX = 2 * (HEADER_BYTES + LENGTH_MAX + EXTENSION_BYTES + 4)


class ProtocolId(enum.IntEnum):
    """The protocol ids a frame may carry; each id fixes the checksum."""

    MNGP_GETQRY = 0x00
    MNGP_GETRSP = 0x01
    MNGP_SET = 0x02
    MNGP_RESET = 0x03
    MNGP_REBOOT = 0x04
    MNGP_FIRMWARE = 0x05
    MNGP_GETQRY_ENHANCED = 0x06
    MNGP_GETRSP_ENHANCED = 0x07
    SNIFFER_PRIME = 0x13
    PHY_SERIAL = 0x1F
    PHY = 0x22
    SNIFFER_G3 = 0x23
    MAC_G3 = 0x24
    ADP_G3 = 0x25
    COORDINATOR_G3 = 0x26
    USER_DEFINED = 0x27
    PHY_RF215 = 0x28
    PRIME_API = 0x30
    METERS_AND_MORE = 0x31


EXTENDED = frozenset(
    {ProtocolId.ADP_G3, ProtocolId.COORDINATOR_G3, ProtocolId.PRIME_API, ProtocolId.METERS_AND_MORE}
)  # fmt: skip

_crc32: Callable[[bytes], int] = crcmod.mkCrcFun(0x104C11DB7, initCrc=0, rev=False, xorOut=0)
_crc16_augmented: Callable[[bytes], int] = crcmod.mkCrcFun(0x11021, initCrc=0, rev=False, xorOut=0)


def _crc16(data: bytes) -> int:
    """CRC-16 without augmentation: the last two octets enter as they are, not through the register."""
    return _crc16_augmented(data[:-2]) ^ int.from_bytes(data[-2:], "big")


def _xor8(data: bytes) -> int:
    return functools.reduce(operator.xor, data, 0)


@dataclass(frozen=True, slots=True)
class _Checksum:
    """Its length in octets, and how it is reckoned."""

    size: int
    compute: Callable[[bytes], int]


_CRC32 = _Checksum(4, _crc32)
_CRC16 = _Checksum(2, _crc16)
_XOR8 = _Checksum(1, _xor8)

_CHECKSUMS: dict[int, _Checksum] = {
    **dict.fromkeys(range(0x08), _CRC32),
    **dict.fromkeys((0x13, 0x1F, 0x22, 0x23, 0x24, 0x25, 0x26, 0x28), _CRC16),
    **dict.fromkeys((0x27, 0x30, 0x31), _XOR8),
}


@dataclass(frozen=True, slots=True)
class UsiFrame:
    """One frame. `command` is the 7-bit command of an extended protocol and `None` for the others; `data` is what
    follows it."""

    protocol: ProtocolId
    data: bytes
    command: int | None = None

    def __post_init__(self) -> None:
        if (self.command is not None) != (self.protocol in EXTENDED):
            raise PlcLocalError(f"protocol 0x{self.protocol:02x}: a command belongs to extended protocols, and to all")
        if self.command is not None and not 0 <= self.command <= COMMAND_MASK:
            raise PlcLocalError(f"command {self.command} is not seven bits")
        limit = LENGTH_MAX + EXTENSION_BYTES - 1 if self.command is not None else LENGTH_MAX
        if len(self.data) > limit:
            raise PlcLocalError(f"{len(self.data)} bytes of data, at most {limit} fit")

    def emit(self) -> bytes:
        """The frame as it goes onto the line, both flags included."""
        data = self.data
        length = len(data)
        if self.command is not None:
            length += 1
            extension = EXTENSION_BIT if length > LENGTH_MAX else 0
            data = bytes((extension | self.command,)) + data
            if extension:
                length -= EXTENSION_BYTES
        content = bytes((length >> 2, (length & 0x03) << 6 | self.protocol)) + data
        checksum = _CHECKSUMS[self.protocol]
        content += checksum.compute(content).to_bytes(checksum.size, "big")
        stuffed = content.replace(_ESCAPE, _ESCAPED_ESCAPE).replace(_FLAG, _ESCAPED_FLAG)
        return _FLAG + stuffed + _FLAG

    @classmethod
    def parse(cls, content: bytes) -> UsiFrame:
        """Read what stood between two flags, with the stuffing taken out. Raises `PlcDecodeError`."""
        if len(content) < HEADER_BYTES + 1:
            raise PlcDecodeError("USI frame", len(content), "shorter than header and checksum")
        length = content[0] << 2 | content[1] >> 6
        number = content[1] & 0x3F
        checksum = _CHECKSUMS.get(number)
        if checksum is None:
            raise PlcDecodeError("USI frame", 1, f"unknown protocol id 0x{number:02x}")
        protocol = ProtocolId(number)
        extended = protocol in EXTENDED
        if extended and content[HEADER_BYTES] & EXTENSION_BIT:
            length += EXTENSION_BYTES
        if extended and length == 0:
            raise PlcDecodeError("USI frame", 0, "an extended protocol without its command")
        end = HEADER_BYTES + length
        if len(content) != end + checksum.size:
            raise PlcDecodeError("USI frame", 0, f"length says {end + checksum.size} bytes, {len(content)} came")
        if checksum.compute(content[:end]) != int.from_bytes(content[end:], "big"):
            raise PlcDecodeError("USI frame", end, "wrong checksum")
        if extended:
            return cls(protocol, content[HEADER_BYTES + 1 : end], content[HEADER_BYTES] & COMMAND_MASK)
        return cls(protocol, content[HEADER_BYTES:end])


@dataclass(frozen=True, slots=True)
class UsiNoise:
    """Bytes between two flags, or before the first, that are no frame."""

    dropped_bytes: int
    why: str


def unstuff(raw: bytes) -> bytes:
    """Take the stuffing out. Raises `PlcDecodeError` where 7D is followed by neither 5D nor 5E."""
    escapes = raw.count(_ESCAPE)
    if not escapes:
        return raw
    if escapes != raw.count(_ESCAPED_FLAG) + raw.count(_ESCAPED_ESCAPE):
        raise PlcDecodeError("USI stuffing", raw.find(_ESCAPE), "7D is not followed by 5D or 5E")
    return raw.replace(_ESCAPED_FLAG, _FLAG).replace(_ESCAPED_ESCAPE, _ESCAPE)


class UsiDecoder:
    """Cuts a byte stream into frames; any split of the stream gives the same results.

    `next()` returns a frame, `UsiNoise`, or `None` for "need more". After noise the decoder goes on at the next flag,
    so a frame is lost only when its own bytes are damaged.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._overflow_bytes = 0
        self._in_step = False  # a flag was seen, so what follows is a frame's inside
        self._ready: deque[UsiFrame | UsiNoise] = deque()

    def feed(self, data: bytes) -> None:
        """Add bytes from the line."""
        start = 0
        while (flag := data.find(_FLAG, start)) >= 0:
            self._keep(data[start:flag])
            self._end_content()
            self._in_step = True
            start = flag + 1
        self._keep(data[start:])

    def next(self) -> UsiFrame | UsiNoise | None:
        """The next result in the order of the line."""
        return self._ready.popleft() if self._ready else None

    def _keep(self, part: bytes) -> None:
        room = WIRE_BYTES_MAX - len(self._buffer)
        self._buffer += part[:room]
        self._overflow_bytes += max(0, len(part) - room)

    def _end_content(self) -> None:
        raw, overflow = bytes(self._buffer), self._overflow_bytes
        self._buffer.clear()
        self._overflow_bytes = 0
        if not raw:
            return  # two flags in a row, or the first one
        if not self._in_step:
            self._ready.append(UsiNoise(len(raw) + overflow, "bytes before the first flag"))
        elif overflow:
            self._ready.append(UsiNoise(len(raw) + overflow, "longer than any frame"))
        else:
            try:
                self._ready.append(UsiFrame.parse(unstuff(raw)))
            except PlcDecodeError as error:
                self._ready.append(UsiNoise(len(raw), str(error)))
