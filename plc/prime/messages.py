"""Payloads of the PRIME API (USI protocol 0x30).

Every number is big-endian. `LSAP` are the 4-32 service access points: of the meter (1 = management logical device)
and of the client (16 = public client). `dst`, `src` and `addr` are 12-bit node addresses of the 4-32 layer.

    37 DL_DATA.req      dstLSAP  srcLSAP  dst(2)          len(2)  LSDU  linkClass      host → base node
    38 DL_DATA.ind      dstLSAP  srcLSAP  dst(2)  src(2)  len(2)  LSDU  linkClass      base node → host
    39 DL_DATA.cfm      dstLSAP  srcLSAP  dst(2)  status
    3A JOIN.ind         idLen  id(idLen)  addr(2)  EUI-48 (6, some firmware 8)  ae
    3B LEAVE.ind        addr(2)
    35 RELEASE.req      addr(2)
    4F NETWORK_EVENT    event  EUI-48  SID  LNID(2)  LSID  aliveRx  aliveTx  aliveTime  [PCH(2)  PCH-LSID(2)]
    5B 5C               whitelist add, remove: EUI-48
    5D                  whitelist acknowledge: command  code (0 ok)
    2D MLME_GET.req     PIB(2)
    2E MLME_GET.cfm     status  PIB(2)  size  value(size)
    31 MLME_SET.req     PIB(2)  size  value(size)
    32 MLME_SET.cfm     status
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from dlms.link.llc import LSDU_BYTES_MAX
from plc.errors import PlcLocalError
from plc.prime.cursor import ADDRESS_MAX, PayloadCursor

ADDRESS_BROADCAST = 0xFFF
ADDRESS_NEW = 0xFFE  # of a node that has no connection yet: never a node's own
EUI48_BYTES = 6
EUI64_BYTES = 8
PIB_BYTES_MAX = 0xFF


class Command(enum.IntEnum):
    """Commands of the PRIME API that this side of the bridge knows."""

    MLME_GET_REQ = 0x2D
    MLME_GET_CFM = 0x2E
    MLME_SET_REQ = 0x31
    MLME_SET_CFM = 0x32
    RELEASE_REQ = 0x35
    DATA_REQ = 0x37
    DATA_IND = 0x38
    DATA_CFM = 0x39
    JOIN_IND = 0x3A
    LEAVE_IND = 0x3B
    NETWORK_EVENT = 0x4F
    WHITELIST_ADD = 0x5B
    WHITELIST_REMOVE = 0x5C
    WHITELIST_ACK = 0x5D


class NetworkEventKind(enum.IntEnum):
    """First octet of NETWORK_EVENT, as the host sources of the base node's maker number them. `REBOOT` is the base
    node's own, `NO_KEY` (PRIME 1.4) and `UNKNOWN_NODE` are registrations that it refused, for want of a device key or
    by its whitelist; the others are about the node that is named. More of them are passed on as numbers."""

    REGISTER = 0
    UNREGISTER = 1
    PROMOTE = 2
    DEMOTE = 3
    ALIVE = 4
    REBOOT = 5
    NO_KEY = 6
    UNKNOWN_NODE = 7
    ERROR = 8


class ConfirmStatus(enum.IntEnum):
    """Status of DL_DATA.cfm. Others occur in the field and are passed on as numbers."""

    OK = 0x00
    TIMEOUT = 0x02
    BAD_ADDRESS = 0xC0
    BAD_HANDLER = 0xC1
    BUSY = 0xC2


_WHITELIST = frozenset({Command.WHITELIST_ADD, Command.WHITELIST_REMOVE})


def check_octet(name: str, value: int) -> None:
    if not 0 <= value <= 0xFF:
        raise PlcLocalError(f"{name} {value} is not an octet")


def check_address(name: str, value: int) -> None:
    if not 0 <= value <= ADDRESS_MAX:
        raise PlcLocalError(f"{name} {value} is not a 12-bit address")


def _check_lsdu(lsdu: bytes) -> None:
    if len(lsdu) > LSDU_BYTES_MAX:
        raise PlcLocalError(f"LSDU of {len(lsdu)} bytes, at most {LSDU_BYTES_MAX}")


def check_eui48(eui48: bytes) -> None:
    if len(eui48) != EUI48_BYTES:
        raise PlcLocalError(f"EUI-48 of {len(eui48)} bytes")


@dataclass(frozen=True, slots=True)
class DataRequest:
    """DL_DATA.req: carry this LSDU to the node `dst`."""

    command: ClassVar[Command] = Command.DATA_REQ
    dst_lsap: int
    src_lsap: int
    dst: int
    lsdu: bytes
    link_class: int = 0

    def __post_init__(self) -> None:
        check_octet("destination LSAP", self.dst_lsap)
        check_octet("source LSAP", self.src_lsap)
        check_octet("link class", self.link_class)
        check_address("destination", self.dst)
        _check_lsdu(self.lsdu)

    def emit(self) -> bytes:
        return b"".join(
            (
                bytes((self.dst_lsap, self.src_lsap)),
                self.dst.to_bytes(2, "big"),
                len(self.lsdu).to_bytes(2, "big"),
                self.lsdu,
                bytes((self.link_class,)),
            )
        )

    @classmethod
    def parse(cls, data: bytes) -> DataRequest:
        """Parse the encoded form, all of it. Raises `PlcDecodeError`."""
        cursor = PayloadCursor(data, "DL_DATA.req")
        dst_lsap, src_lsap = cursor.u8(), cursor.u8()
        dst = cursor.address()
        lsdu = _take_lsdu(cursor)
        link_class = cursor.u8()
        cursor.check_end()
        return cls(dst_lsap, src_lsap, dst, lsdu, link_class)


def _take_lsdu(cursor: PayloadCursor) -> bytes:
    length = cursor.u16()
    if length > LSDU_BYTES_MAX:
        raise cursor.error(f"LSDU of {length} bytes, at most {LSDU_BYTES_MAX}", back=2)
    return cursor.take(length)


@dataclass(frozen=True, slots=True)
class DataIndication:
    """DL_DATA.ind: the node `src` sent this LSDU."""

    command: ClassVar[Command] = Command.DATA_IND
    dst_lsap: int
    src_lsap: int
    dst: int
    src: int
    lsdu: bytes
    link_class: int = 0

    def __post_init__(self) -> None:
        check_octet("destination LSAP", self.dst_lsap)
        check_octet("source LSAP", self.src_lsap)
        check_octet("link class", self.link_class)
        check_address("destination", self.dst)
        check_address("source", self.src)
        _check_lsdu(self.lsdu)

    def emit(self) -> bytes:
        return b"".join(
            (
                bytes((self.dst_lsap, self.src_lsap)),
                self.dst.to_bytes(2, "big"),
                self.src.to_bytes(2, "big"),
                len(self.lsdu).to_bytes(2, "big"),
                self.lsdu,
                bytes((self.link_class,)),
            )
        )

    @classmethod
    def parse(cls, data: bytes) -> DataIndication:
        """Parse the encoded form, all of it. Raises `PlcDecodeError`."""
        cursor = PayloadCursor(data, "DL_DATA.ind")
        dst_lsap, src_lsap = cursor.u8(), cursor.u8()
        dst, src = cursor.address(), cursor.address()
        lsdu = _take_lsdu(cursor)
        link_class = cursor.u8()
        cursor.check_end()
        return cls(dst_lsap, src_lsap, dst, src, lsdu, link_class)


@dataclass(frozen=True, slots=True)
class DataConfirm:
    """DL_DATA.cfm: what became of the oldest request with these LSAPs and this destination."""

    command: ClassVar[Command] = Command.DATA_CFM
    dst_lsap: int
    src_lsap: int
    dst: int
    status: int

    def __post_init__(self) -> None:
        check_octet("destination LSAP", self.dst_lsap)
        check_octet("source LSAP", self.src_lsap)
        check_octet("status", self.status)
        check_address("destination", self.dst)

    def emit(self) -> bytes:
        return bytes((self.dst_lsap, self.src_lsap)) + self.dst.to_bytes(2, "big") + bytes((self.status,))

    @classmethod
    def parse(cls, data: bytes) -> DataConfirm:
        """Parse the encoded form, all of it. Raises `PlcDecodeError`."""
        cursor = PayloadCursor(data, "DL_DATA.cfm")
        dst_lsap, src_lsap = cursor.u8(), cursor.u8()
        dst, status = cursor.address(), cursor.u8()
        cursor.check_end()
        return cls(dst_lsap, src_lsap, dst, status)


@dataclass(frozen=True, slots=True)
class JoinIndication:
    """JOIN.ind: a node opened its 4-32 connection. `eui48` has eight octets where the firmware sends an EUI-64."""

    command: ClassVar[Command] = Command.JOIN_IND
    dlms_id: bytes
    address: int
    eui48: bytes
    ae: int = 0  # whether authentication and encryption are on

    def __post_init__(self) -> None:
        if len(self.dlms_id) > 0xFF:
            raise PlcLocalError(f"DLMS id of {len(self.dlms_id)} bytes")
        if len(self.eui48) not in (EUI48_BYTES, EUI64_BYTES):
            raise PlcLocalError(f"EUI of {len(self.eui48)} bytes")
        check_address("address", self.address)
        check_octet("ae", self.ae)

    def emit(self) -> bytes:
        head = bytes((len(self.dlms_id),)) + self.dlms_id
        return head + self.address.to_bytes(2, "big") + self.eui48 + bytes((self.ae,))

    @classmethod
    def parse(cls, data: bytes) -> JoinIndication:
        """Parse the payload; the length tells the size of the EUI. Raises `PlcDecodeError`."""
        cursor = PayloadCursor(data, "JOIN.ind")
        dlms_id = cursor.take(cursor.u8())
        address = cursor.address()
        size = EUI64_BYTES if cursor.remaining > EUI48_BYTES + 1 else EUI48_BYTES
        eui48 = cursor.take(size)
        ae = cursor.u8()
        cursor.check_end()
        return cls(dlms_id, address, eui48, ae)


@dataclass(frozen=True, slots=True)
class LeaveIndication:
    """LEAVE.ind: the node's 4-32 connection is closed."""

    command: ClassVar[Command] = Command.LEAVE_IND
    address: int

    def __post_init__(self) -> None:
        check_address("address", self.address)

    def emit(self) -> bytes:
        return self.address.to_bytes(2, "big")

    @classmethod
    def parse(cls, data: bytes) -> LeaveIndication:
        """Parse the encoded form, all of it. Raises `PlcDecodeError`."""
        cursor = PayloadCursor(data, "LEAVE.ind")
        address = cursor.address()
        cursor.check_end()
        return cls(address)


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """RELEASE.req: close the node's 4-32 connection."""

    command: ClassVar[Command] = Command.RELEASE_REQ
    address: int

    def __post_init__(self) -> None:
        check_address("address", self.address)

    def emit(self) -> bytes:
        return self.address.to_bytes(2, "big")

    @classmethod
    def parse(cls, data: bytes) -> ReleaseRequest:
        """Parse the encoded form, all of it. Raises `PlcDecodeError`."""
        cursor = PayloadCursor(data, "RELEASE.req")
        address = cursor.address()
        cursor.check_end()
        return cls(address)


@dataclass(frozen=True, slots=True)
class NetworkEvent:
    """NETWORK_EVENT: what the MAC layer of the base node saw of one node.

    `event` is a `NetworkEventKind`, or a number that has no name.
    """

    command: ClassVar[Command] = Command.NETWORK_EVENT
    event: int
    eui48: bytes
    sid: int
    lnid: int
    lsid: int
    alive_rx: int
    alive_tx: int
    alive_time: int
    pch: tuple[int, int] | None = None  # physical channel and that of the switch, on firmware that has channels

    def __post_init__(self) -> None:
        check_eui48(self.eui48)
        for name in ("event", "sid", "lsid", "alive_rx", "alive_tx", "alive_time"):
            check_octet(name, getattr(self, name))
        for value in (self.lnid, *(self.pch or ())):
            if not 0 <= value <= 0xFFFF:
                raise PlcLocalError(f"{value} is not sixteen bits")

    def emit(self) -> bytes:
        tail = b"".join(value.to_bytes(2, "big") for value in self.pch or ())
        return b"".join(
            (
                bytes((self.event,)),
                self.eui48,
                bytes((self.sid,)),
                self.lnid.to_bytes(2, "big"),
                bytes((self.lsid, self.alive_rx, self.alive_tx, self.alive_time)),
                tail,
            )
        )

    @classmethod
    def parse(cls, data: bytes) -> NetworkEvent:
        """Parse the encoded form, all of it. Raises `PlcDecodeError`."""
        cursor = PayloadCursor(data, "NETWORK_EVENT")
        event = cursor.u8()
        eui48 = cursor.take(EUI48_BYTES)
        sid, lnid, lsid = cursor.u8(), cursor.u16(), cursor.u8()
        alive = (cursor.u8(), cursor.u8(), cursor.u8())
        pch = (cursor.u16(), cursor.u16()) if cursor.remaining else None
        cursor.check_end()
        return cls(event, eui48, sid, lnid, lsid, *alive, pch)


@dataclass(frozen=True, slots=True)
class Whitelist:
    """Whitelist add or remove: which node the base node may let in."""

    command: Command
    eui48: bytes

    def __post_init__(self) -> None:
        if self.command not in _WHITELIST:
            raise PlcLocalError(f"{self.command!r} is no whitelist command")
        check_eui48(self.eui48)

    def emit(self) -> bytes:
        return self.eui48

    @classmethod
    def parse(cls, command: Command, data: bytes) -> Whitelist:
        """Parse the encoded form, all of it. Raises `PlcDecodeError`."""
        cursor = PayloadCursor(data, "whitelist")
        eui48 = cursor.take(EUI48_BYTES)
        cursor.check_end()
        return cls(command, eui48)


@dataclass(frozen=True, slots=True)
class WhitelistAck:
    """What became of the whitelist command `of`: `code` 0 is success. It does not say which node was meant."""

    command: ClassVar[Command] = Command.WHITELIST_ACK
    of: int
    code: int

    def __post_init__(self) -> None:
        check_octet("command", self.of)
        check_octet("code", self.code)

    def emit(self) -> bytes:
        return bytes((self.of, self.code))

    @classmethod
    def parse(cls, data: bytes) -> WhitelistAck:
        """Parse the encoded form, all of it. Raises `PlcDecodeError`."""
        cursor = PayloadCursor(data, "whitelist acknowledgement")
        ack = cls(cursor.u8(), cursor.u8())
        cursor.check_end()
        return ack


def _check_pib(pib: int, value: bytes = b"") -> None:
    if not 0 <= pib <= 0xFFFF:
        raise PlcLocalError(f"PIB attribute {pib} is not sixteen bits")
    if len(value) > PIB_BYTES_MAX:
        raise PlcLocalError(f"PIB value of {len(value)} bytes, at most {PIB_BYTES_MAX}")


@dataclass(frozen=True, slots=True)
class MlmeGet:
    """MLME_GET.req: read one PIB attribute of the base node."""

    command: ClassVar[Command] = Command.MLME_GET_REQ
    pib: int

    def __post_init__(self) -> None:
        _check_pib(self.pib)

    def emit(self) -> bytes:
        return self.pib.to_bytes(2, "big")

    @classmethod
    def parse(cls, data: bytes) -> MlmeGet:
        """Parse the encoded form, all of it. Raises `PlcDecodeError`."""
        cursor = PayloadCursor(data, "MLME_GET.req")
        request = cls(cursor.u16())
        cursor.check_end()
        return request


@dataclass(frozen=True, slots=True)
class MlmeGetConfirm:
    """MLME_GET.cfm: the value of a PIB attribute; `status` 0 is success."""

    command: ClassVar[Command] = Command.MLME_GET_CFM
    status: int
    pib: int
    value: bytes

    def __post_init__(self) -> None:
        check_octet("status", self.status)
        _check_pib(self.pib, self.value)

    def emit(self) -> bytes:
        return bytes((self.status,)) + self.pib.to_bytes(2, "big") + bytes((len(self.value),)) + self.value

    @classmethod
    def parse(cls, data: bytes) -> MlmeGetConfirm:
        """Parse the encoded form, all of it. Raises `PlcDecodeError`."""
        cursor = PayloadCursor(data, "MLME_GET.cfm")
        confirm = cls(cursor.u8(), cursor.u16(), cursor.take(cursor.u8()))
        cursor.check_end()
        return confirm


@dataclass(frozen=True, slots=True)
class MlmeSet:
    """MLME_SET.req: write one PIB attribute of the base node."""

    command: ClassVar[Command] = Command.MLME_SET_REQ
    pib: int
    value: bytes

    def __post_init__(self) -> None:
        _check_pib(self.pib, self.value)

    def emit(self) -> bytes:
        return self.pib.to_bytes(2, "big") + bytes((len(self.value),)) + self.value

    @classmethod
    def parse(cls, data: bytes) -> MlmeSet:
        """Parse the encoded form, all of it. Raises `PlcDecodeError`."""
        cursor = PayloadCursor(data, "MLME_SET.req")
        request = cls(cursor.u16(), cursor.take(cursor.u8()))
        cursor.check_end()
        return request


@dataclass(frozen=True, slots=True)
class MlmeSetConfirm:
    """MLME_SET.cfm: `status` 0 is success. It does not say which attribute was meant."""

    command: ClassVar[Command] = Command.MLME_SET_CFM
    status: int

    def __post_init__(self) -> None:
        check_octet("status", self.status)

    def emit(self) -> bytes:
        return bytes((self.status,))

    @classmethod
    def parse(cls, data: bytes) -> MlmeSetConfirm:
        """Parse the encoded form, all of it. Raises `PlcDecodeError`."""
        cursor = PayloadCursor(data, "MLME_SET.cfm")
        confirm = cls(cursor.u8())
        cursor.check_end()
        return confirm


def kind_of(event: NetworkEvent) -> str:
    """The name of a network event in lower case; its number where it has none."""
    try:
        return NetworkEventKind(event.event).name.lower()
    except ValueError:
        return str(event.event)


PrimePayload = (
    DataRequest | DataIndication | DataConfirm | JoinIndication | LeaveIndication | ReleaseRequest | NetworkEvent
    | Whitelist | WhitelistAck | MlmeGet | MlmeGetConfirm | MlmeSet | MlmeSetConfirm
)  # fmt: skip

_PARSERS = {
    kind.command: kind.parse
    for kind in (
        DataRequest,
        DataIndication,
        DataConfirm,
        JoinIndication,
        LeaveIndication,
        ReleaseRequest,
        NetworkEvent,
        WhitelistAck,
        MlmeGet,
        MlmeGetConfirm,
        MlmeSet,
        MlmeSetConfirm,
    )
}


def parse_payload(command: int, data: bytes) -> PrimePayload | None:
    """The payload of a PRIME API frame; `None` for a command this side has no use for (firmware upgrade and so on).

    Raises `PlcDecodeError`.
    """
    try:
        known = Command(command)
    except ValueError:
        return None
    if known in _WHITELIST:
        return Whitelist.parse(known, data)
    return _PARSERS[known](data)
