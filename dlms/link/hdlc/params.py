"""What SNRM and UA carry: the HDLC parameters of one side (IEC 62056-46, 6.4.4.4.3.2). And what FRMR carries.

    81 80 len   05 n  longest information field it sends      06 n  longest it takes
                07 4  frames it sends before it waits         08 4  frames it takes before it answers

81 is the format, 80 the group; values are big-endian, of the size that the sender likes. What is left out has its
default: 128 octets, window 1. FRMR is three octets: the refused control field, V(R) x V(S) 0, and the reasons W X Y Z.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlms.cursor import Cursor
from dlms.errors import LocalError
from dlms.link.hdlc.frames import INFO_BYTES_MAX

INFO_BYTES_DEFAULT = 128
WINDOW_DEFAULT = 1
WINDOW_MAX = 7
_FORMAT = 0x81
_GROUP = 0x80
_INFO_SENT, _INFO_TAKEN, _WINDOW_SENT, _WINDOW_TAKEN = 0x05, 0x06, 0x07, 0x08
_VALUE_BYTES_MAX = 4


@dataclass(frozen=True, slots=True)
class LinkParameters:
    """What one side sends and takes. Raises `LocalError` outside 1-2030 octets and windows of 1-7."""

    info_sent: int = INFO_BYTES_DEFAULT
    info_taken: int = INFO_BYTES_DEFAULT
    window_sent: int = WINDOW_DEFAULT
    window_taken: int = WINDOW_DEFAULT

    def __post_init__(self) -> None:
        for value in (self.info_sent, self.info_taken):
            if not 1 <= value <= INFO_BYTES_MAX:
                raise LocalError(f"information field of {value} octets: 1 to {INFO_BYTES_MAX}")
        for value in (self.window_sent, self.window_taken):
            if not 1 <= value <= WINDOW_MAX:
                raise LocalError(f"window of {value} frames: 1 to {WINDOW_MAX}")

    def emit(self) -> bytes:
        """The information field of SNRM or UA; empty when everything is default."""
        if self == LinkParameters():
            return b""
        return self.emit_full()

    def emit_full(self) -> bytes:
        """The information field with every parameter in it."""
        body = b"".join(
            (
                _emit_info(_INFO_SENT, self.info_sent),
                _emit_info(_INFO_TAKEN, self.info_taken),
                bytes((_WINDOW_SENT, 4)) + self.window_sent.to_bytes(4, "big"),
                bytes((_WINDOW_TAKEN, 4)) + self.window_taken.to_bytes(4, "big"),
            )
        )
        return bytes((_FORMAT, _GROUP, len(body))) + body

    @classmethod
    def parse(cls, info: bytes) -> LinkParameters:
        """Read SNRM's or UA's information field, empty included; values too big are cut to the biggest this side
        knows, unknown parameters are skipped. Raises `DecodeError`."""
        if not info:
            return cls()
        cursor = Cursor(info, "HDLC parameters")
        if cursor.u8() != _FORMAT:
            raise cursor.error(f"format 0x{info[0]:02x}", back=1)
        if (group := cursor.u8()) != _GROUP:
            raise cursor.error(f"group 0x{group:02x}", back=1)
        inner = cursor.sub("HDLC parameters")
        values: dict[int, int] = {}
        while inner.remaining:
            name = inner.u8()
            size = inner.u8()
            if not 1 <= size <= _VALUE_BYTES_MAX:
                raise inner.error(f"parameter {name} of {size} octets", back=1)
            value = int.from_bytes(inner.take(size), "big")
            if name in (_INFO_SENT, _INFO_TAKEN, _WINDOW_SENT, _WINDOW_TAKEN):
                if value == 0:
                    raise inner.error(f"parameter {name} is 0", back=size)
                limit = INFO_BYTES_MAX if name in (_INFO_SENT, _INFO_TAKEN) else WINDOW_MAX
                values[name] = min(value, limit)
        return cls(
            values.get(_INFO_SENT, INFO_BYTES_DEFAULT),
            values.get(_INFO_TAKEN, INFO_BYTES_DEFAULT),
            values.get(_WINDOW_SENT, WINDOW_DEFAULT),
            values.get(_WINDOW_TAKEN, WINDOW_DEFAULT),
        )

    def agree(self, peer: LinkParameters) -> LinkParameters:
        """What this side may do once the peer said what it can: the smaller of the two, crosswise."""
        return LinkParameters(
            min(self.info_sent, peer.info_taken),
            min(self.info_taken, peer.info_sent),
            min(self.window_sent, peer.window_taken),
            min(self.window_taken, peer.window_sent),
        )


def _emit_info(name: int, value: int) -> bytes:
    size = 1 if value < 0x100 else 2
    return bytes((name, size)) + value.to_bytes(size, "big")


_REASONS = (
    (0x01, "command unknown"),
    (0x02, "information where none is allowed"),
    (0x04, "information field too long"),
    (0x08, "wrong receive number"),
)


@dataclass(frozen=True, slots=True)
class FrameReject:
    """Why a frame was refused. `reasons` are the bits W 1, X 2, Y 4, Z 8."""

    control: int
    send_number: int
    receive_number: int
    reasons: int

    UNKNOWN_COMMAND = 0x01
    INFO_TOO_LONG = 0x04
    WRONG_NUMBER = 0x08

    def emit(self) -> bytes:
        """The information field of FRMR."""
        return bytes((self.control, self.receive_number << 5 | self.send_number << 1, self.reasons))

    @classmethod
    def parse(cls, info: bytes) -> FrameReject:
        """Parse the encoded form. Raises `DecodeError`; octets after the third are left alone, some meters add them."""
        cursor = Cursor(info, "FRMR")
        control, numbers, reasons = cursor.u8(), cursor.u8(), cursor.u8()
        return cls(control, numbers >> 1 & 7, numbers >> 5, reasons & 0x0F)

    def __str__(self) -> str:
        said = ", ".join(text for bit, text in _REASONS if self.reasons & bit) or "no reason given"
        return f"frame with control 0x{self.control:02x} refused: {said}"
