"""HDLC frames of IEC 62056-46 (format type 3): addresses, control field, HCS and FCS, and cutting a stream into frames.

    +----+--------+------+------+------+-------+------------------+-------+----+
    | 7E | format | dest | src  | ctrl | HCS   | information      | FCS   | 7E |
    |    | 2      | 1 2 4| 1 2 4| 1    | 2     | 1 … 2030         | 2     |    |
    +----+--------+------+------+------+-------+------------------+-------+----+
          1010 S LLL LLLLLLLL             only with information
          S: more segments follow      L: octets between the flags, FCS included

There is no transparency: 7E occurs inside a frame. So a frame is cut by its length field, never by looking for 7E, and
a damaged length is found by the HCS as soon as the header is in. Flags may be shared by neighbours.

Addresses have seven bits an octet, the lowest bit of the last octet is 1. The client's is one octet. A server's is its
upper (logical device) and lower (physical device) part: one octet for upper alone, two for both, four for 14 bits each.

    control      7 6 5   4   3 2 1   0
    I            N(R)   P/F  N(S)    0
    RR RNR REJ   N(R)   P/F  0 0 / 0 1 / 1 0    0 1
    SNRM 83  DISC 43  UA 63  DM 0F  FRMR 87  UI 03      (each with P/F = bit 4)
"""

from __future__ import annotations

import binascii
import enum
import functools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import NamedTuple

import crcmod

from dlms.errors import DecodeError, LocalError

FLAG = 0x7E
_FLAG = b"\x7e"
FORMAT_TYPE = 0xA0  # high nibble of the format field
FRAME_BYTES_MAX = 0x07FF  # between the flags: what 11 bits of the format field say
FRAME_BYTES_MIN = 7  # format, two one-octet addresses, control, FCS
INFO_BYTES_MAX = 2030  # what the parameter negotiation can express and every frame holds
POLL_FINAL = 0x10
ADDRESS_BYTES_MAX = 4
BROADCAST_UPPER = frozenset({0x7F, 0x3FFF})  # "all stations": heard, never answered

FCS_RESIDUE = 0x0F47  # the FCS of octets that end in their own FCS

_REVERSED = bytes(int(f"{octet:08b}"[::-1], 2) for octet in range(256))


def _fcs_plain(data: bytes) -> int:
    """FCS without an extension module: the CCITT polynomial of `binascii` over bit-reversed octets."""
    crc = binascii.crc_hqx(data.translate(_REVERSED), 0xFFFF) ^ 0xFFFF
    return _REVERSED[crc & 0xFF] << 8 | _REVERSED[crc >> 8]


def _choose_fcs() -> Callable[[bytes], int]:
    if getattr(import_module("crcmod.crcmod"), "_usingExtension", False):
        compiled: Callable[[bytes], int] = crcmod.mkCrcFun(0x11021, initCrc=0, rev=True, xorOut=0xFFFF)
        return compiled
    return _fcs_plain


fcs16 = _choose_fcs()
"""Frame check sequence (ISO/IEC 13239, "X-25") of some octets. It goes onto the line low octet first."""


class FrameType(enum.Enum):
    """What the control field says a frame is."""

    I = enum.auto()  # noqa: E741 (the standard's name)
    RR = enum.auto()
    RNR = enum.auto()
    REJ = enum.auto()
    SNRM = enum.auto()
    DISC = enum.auto()
    UA = enum.auto()
    DM = enum.auto()
    FRMR = enum.auto()
    UI = enum.auto()
    UNKNOWN = enum.auto()


class Control(NamedTuple):
    """A control field, read. `send_number` and `receive_number` are 0 where the frame type has none."""

    type: FrameType
    poll_final: bool
    send_number: int
    receive_number: int


UNNUMBERED = {
    FrameType.SNRM: 0x83,
    FrameType.DISC: 0x43,
    FrameType.UA: 0x63,
    FrameType.DM: 0x0F,
    FrameType.FRMR: 0x87,
    FrameType.UI: 0x03,
}
SUPERVISORY = {FrameType.RR: 0x01, FrameType.RNR: 0x05, FrameType.REJ: 0x09}


def _read_control(octet: int) -> Control:
    poll_final = bool(octet & POLL_FINAL)
    if not octet & 0x01:
        return Control(FrameType.I, poll_final, octet >> 1 & 7, octet >> 5)
    for kind, code in SUPERVISORY.items():
        if octet & 0x0F == code:
            return Control(kind, poll_final, 0, octet >> 5)
    for kind, code in UNNUMBERED.items():
        if octet & ~POLL_FINAL == code:
            return Control(kind, poll_final, 0, 0)
    return Control(FrameType.UNKNOWN, poll_final, 0, 0)


CONTROLS: tuple[Control, ...] = tuple(_read_control(octet) for octet in range(256))


def information_control(send_number: int, receive_number: int, *, poll_final: bool) -> int:
    """Control field of an I frame."""
    return receive_number << 5 | (POLL_FINAL if poll_final else 0) | send_number << 1


def supervisory_control(kind: FrameType, receive_number: int, *, poll_final: bool) -> int:
    """Control field of RR, RNR or REJ."""
    return receive_number << 5 | (POLL_FINAL if poll_final else 0) | SUPERVISORY[kind]


def unnumbered_control(kind: FrameType, *, poll_final: bool) -> int:
    """Control field of SNRM, DISC, UA, DM, FRMR or UI."""
    return UNNUMBERED[kind] | (POLL_FINAL if poll_final else 0)


@dataclass(frozen=True, slots=True)
class HdlcAddress:
    """One address. Two are equal when their parts are: how many octets they take on the line does not matter.

    `size` 0 takes the smallest form that holds the parts. Raises `LocalError` when the parts do not fit.
    """

    upper: int
    lower: int | None = None
    size: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        biggest = max(self.upper, self.lower or 0)
        if self.upper < 0 or (self.lower is not None and self.lower < 0) or biggest > 0x3FFF:
            raise LocalError(f"HDLC address {self.upper}/{self.lower}: each part has at most 14 bits")
        smallest = 1 if self.lower is None else 2 if biggest < 0x80 else 4
        if self.lower is None and self.upper > 0x7F:
            raise LocalError(f"HDLC address {self.upper}: an upper part over 127 needs a lower part too")
        if self.size == 0:
            object.__setattr__(self, "size", smallest)
        if self.size not in (1, 2, 4) or self.size < smallest or (self.lower is None) != (self.size == 1):
            raise LocalError(f"HDLC address {self.upper}/{self.lower} in {self.size} octets")

    def __str__(self) -> str:
        return str(self.upper) if self.lower is None else f"{self.upper}/{self.lower}"

    @classmethod
    def of(cls, value: HdlcAddress | int | str) -> HdlcAddress:
        """An address as people write it: `17` (upper part alone) or `"1/17"` (upper/lower). Raises `LocalError`."""
        if isinstance(value, HdlcAddress):
            return value
        if isinstance(value, int):
            return cls(value)
        upper, slash, lower = value.partition("/")
        try:
            return cls(int(upper), int(lower) if slash else None)
        except ValueError as error:
            raise LocalError(f"HDLC address {value!r}: write UPPER or UPPER/LOWER") from error

    def emit(self) -> bytes:
        """The octets on the line."""
        lower = self.lower or 0
        if self.size == 1:
            return bytes((self.upper << 1 | 1,))
        if self.size == 2:
            return bytes((self.upper << 1, lower << 1 | 1))
        return bytes((self.upper >> 6 & 0xFE, self.upper << 1 & 0xFE, lower >> 6 & 0xFE, lower << 1 & 0xFE | 1))

    @classmethod
    def parse(cls, octets: bytes) -> HdlcAddress:
        """One whole address field. Raises `DecodeError`."""
        if len(octets) not in (1, 2, 4):
            raise DecodeError("HDLC address", 0, f"{len(octets)} octets")
        parts = [octet >> 1 for octet in octets]
        if len(octets) == 1:
            return cls(parts[0])
        if len(octets) == 2:
            return cls(parts[0], parts[1])
        return cls(parts[0] << 7 | parts[1], parts[2] << 7 | parts[3], size=4)


@functools.lru_cache(maxsize=1024)
def _parse_addresses(octets: bytes) -> tuple[HdlcAddress, HdlcAddress]:
    """Destination and source, one behind the other. One bus has few, and every frame carries two of them."""
    source = next(at for at, octet in enumerate(octets) if octet & 1) + 1
    return HdlcAddress.parse(octets[:source]), HdlcAddress.parse(octets[source:])


class HdlcFrame(NamedTuple):
    """One frame. `control` is the raw octet; `CONTROLS[control]` reads it. A tuple, because it is made the fastest."""

    destination: HdlcAddress
    source: HdlcAddress
    control: int
    info: bytes = b""
    segmented: bool = False  # more of the same APDU follows in the next frame

    def emit(self) -> bytes:
        """The frame with both flags. Raises `LocalError` when it is too long."""
        return emit_frame(self.destination.emit() + self.source.emit(), self.control, self.info, self.segmented)

    @property
    def type(self) -> FrameType:
        """What the control field says this is."""
        return CONTROLS[self.control].type

    def __str__(self) -> str:
        control = CONTROLS[self.control]
        numbers = f" N(S)={control.send_number}" if control.type is FrameType.I else ""
        if control.type is FrameType.I or control.type in SUPERVISORY:
            numbers += f" N(R)={control.receive_number}"
        flags = (" P/F" if control.poll_final else "") + (" segmented" if self.segmented else "")
        tail = f" {len(self.info)} bytes" if self.info else ""
        return f"{control.type.name}{numbers}{flags} {self.source} to {self.destination}{tail}"


def emit_frame(addresses: bytes, control: int, info: bytes = b"", segmented: bool = False) -> bytes:
    """A frame from emitted addresses (destination, then source). Raises `LocalError` when it is too long."""
    head_bytes = len(addresses) + 3
    length = head_bytes + 2 + (len(info) + 2 if info else 0)
    if length > FRAME_BYTES_MAX:
        raise LocalError(f"HDLC frame of {length} bytes, at most {FRAME_BYTES_MAX}")
    first = FORMAT_TYPE | length >> 8 | (0x08 if segmented else 0)
    body = bytes((first, length & 0xFF)) + addresses + bytes((control,))
    if info:
        body += fcs16(body).to_bytes(2, "little") + info
    return _FLAG + body + fcs16(body).to_bytes(2, "little") + _FLAG


@dataclass(frozen=True, slots=True)
class HdlcNoise:
    """Bytes that belong to no frame. `why` is what was wrong with the first of them."""

    dropped_bytes: int
    why: str


class _Bad(Exception):
    """What stands at the flag is no frame. `began`: it looked like one up to a checksum."""

    def __init__(self, why: str, *, began: bool = False) -> None:
        super().__init__(why)
        self.began = began


class HdlcDecoder:
    """Cuts a byte stream into frames; any split of the stream gives the same results.

    `next()` returns a frame, `HdlcNoise` (before the frame that follows it), or `None` for "need more". After a damaged
    frame the search goes on at the next flag, inside the damaged one too.
    """

    def __init__(self) -> None:
        self._buffer = b""  # bytes: slices of it are copied once
        self._start = 0  # of what is not consumed
        self._noise_bytes = 0
        self._noise_why = ""
        self._broken = False
        self._ready: deque[HdlcFrame | HdlcNoise] = deque()

    def feed(self, data: bytes) -> None:
        """Add bytes from the line."""
        self._buffer += data
        self._cut(at_end=False)

    def idle(self) -> None:
        """The line was silent for longer than a frame may pause: what is incomplete will not be completed."""
        self._cut(at_end=True)
        self._note_noise()

    def next(self) -> HdlcFrame | HdlcNoise | None:
        """The next result in the order of the line."""
        return self._ready.popleft() if self._ready else None

    @property
    def pending(self) -> bool:
        """Whether part of a frame is waiting for the rest (one flag alone is not)."""
        return len(self._buffer) > 1

    @property
    def broken(self) -> bool:
        """Whether something came since the last frame that began like a frame and was not right."""
        return self._broken

    def _cut(self, *, at_end: bool) -> None:
        buffer = self._buffer
        while True:
            flag = buffer.find(_FLAG, self._start)
            if flag < 0:
                self._drop(len(buffer) - self._start, "no flag")
                break
            if flag != self._start:
                self._drop(flag - self._start, "no flag")
            while flag + 1 < len(buffer) and buffer[flag + 1] == FLAG:
                flag += 1
            self._start = flag
            try:
                end = self._try_frame(flag, at_end=at_end)
            except _Bad as bad:
                self._broken = self._broken or bad.began
                self._drop(1, str(bad))
                continue
            if end is None:
                if not at_end or flag + 1 == len(buffer):
                    break
                self._broken = True
                self._drop(1, "the frame stopped in its middle")
                continue
            self._start = end
            if end + 1 == len(buffer):  # the closing flag alone, as nearly always
                break
        self._buffer = buffer[self._start :]
        self._start = 0

    def _drop(self, count: int, why: str) -> None:
        if count:
            if not self._noise_bytes:
                self._noise_why = why
            self._noise_bytes += count
            self._start += count

    def _note_noise(self) -> None:
        if self._noise_bytes:
            self._ready.append(HdlcNoise(self._noise_bytes, self._noise_why))
            self._noise_bytes = 0

    def _try_frame(self, flag: int, *, at_end: bool) -> int | None:
        """Where the frame after this flag ends (its closing flag may open the next), `None` for "need more".

        Every check is made as soon as its octets are there and in one order, so splits do not matter.
        """
        buffer = self._buffer
        first = flag + 1
        have = len(buffer) - first
        if have < 1:
            return None
        if buffer[first] & 0xF0 != FORMAT_TYPE:
            raise _Bad("not format type 3")
        if have < 2:
            return None
        length = (buffer[first] & 0x07) << 8 | buffer[first + 1]
        if length < FRAME_BYTES_MIN:
            raise _Bad(f"length {length}")
        if have > 4 and buffer[first + 2] & buffer[first + 3] & 1:
            control = first + 4  # both of one octet, as nearly always
        else:
            source = _address_end(buffer, first + 2)
            end = _address_end(buffer, source) if source else None
            if end is None or first + have <= end:
                return None
            control = end
        head = control + 1 - first
        if length != head + 2:
            if length < head + 5:
                raise _Bad(f"length {length} with a header of {head}")
            if have < head + 2:
                return None
            if fcs16(buffer[first : control + 3]) != FCS_RESIDUE:
                raise _Bad("wrong HCS", began=True)
        # One octet more than the length: whoever may speak next has to wait for the closing flag.
        if have < length + (not at_end):
            return None
        end = first + length
        if fcs16(buffer[first:end]) != FCS_RESIDUE:
            raise _Bad("wrong FCS", began=True)
        if self._noise_bytes:
            self._note_noise()
        self._broken = False
        destination, sender = _parse_addresses(buffer[first + 2 : control])
        info = buffer[control + 3 : end - 2]
        self._ready.append(HdlcFrame(destination, sender, buffer[control], info, buffer[first] & 0x08 != 0))
        return end


def _address_end(buffer: bytes, start: int) -> int | None:
    """Behind the last octet of the address that starts here; `None` for "need more"."""
    if start < len(buffer) and buffer[start] & 1:
        return start + 1
    for offset in range(ADDRESS_BYTES_MAX):
        if start + offset >= len(buffer):
            return None
        if buffer[start + offset] & 1:
            if offset == 2:
                raise _Bad("address of 3 octets")
            return start + offset + 1
    raise _Bad("address without an end")
