"""DLMS over TCP as PRIME base nodes offer it (port 4059): the host's side, sans-IO.

    version 0001 (2)   source (2)   destination (2)   length (2)   payload

    data      up: source = node, destination = client LSAP      down: source = client LSAP, destination = node
    control   up: source 0, destination 1                       down: source 1, destination 0

    up    01 addr(2) caps(2) idLen id EUI-48     a node joined (or is in the list)
          02 addr(2)                             a node left
    down  03 enable notifications, and list      04 addr(2) close      05 addr(2) / 06 addr(2) auto-close on / off

The layout is that of the COSEM wrapper (`dlms.link.wrapper`), the addresses are not: the meter's SAP is not carried.
TCP neither loses nor damages, so a header that makes no sense ends the connection (`ProtocolBroken`) instead of a
search for the next one.
"""

from __future__ import annotations

import enum
from collections import deque

from dlms.errors import DecodeError, LocalError
from dlms.link.wrapper import WrapperDecoder, WrapperFrame
from plc.errors import PlcDecodeError, PlcLocalError
from plc.events import DataReceived, NodeEvent, NodeJoined, NodeLeft, NodesListed, ProtocolBroken, ResyncNoted
from plc.prime.cursor import PayloadCursor
from plc.prime.messages import EUI48_BYTES

WRITE_BYTES_MAX = 1 << 20  # between two `take_output`: hundreds of requests
LIST_SETTLE_S = 2.0  # the list has no end mark: after this long without a new node it is taken as complete
BASE_NODE = 0
HOST = 1


class Control(enum.IntEnum):
    """First octet of a control payload."""

    NEW_DEVICE = 0x01
    DEVICE_REMOVED = 0x02
    ENABLE_AND_LIST = 0x03
    DELETE_DEVICE = 0x04
    AUTO_CLOSE_ON = 0x05
    AUTO_CLOSE_OFF = 0x06


def emit_message(source: int, destination: int, payload: bytes) -> bytes:
    """One message. Raises `PlcLocalError` when a field does not fit."""
    try:
        return WrapperFrame(source, destination, payload).emit()
    except LocalError as error:
        raise PlcLocalError(str(error)) from error


class DlmsOverTcpLink:
    """One base node over TCP. Nothing is confirmed at this level, so there are no `DataConfirmed` events."""

    shared_bus = False

    def __init__(self, *, list_settle_s: float = LIST_SETTLE_S) -> None:
        self._list_settle_s = list_settle_s
        self._decoder = WrapperDecoder()
        self._output = bytearray()
        self._events: deque[NodeEvent] = deque()
        self._nodes: dict[int, bytes] = {}
        self._last_ticket = 0
        self._settle_deadline: float | None = None
        self._broken = False

    def start(self, now: float) -> None:
        """Ask for the list of nodes and for news of them."""
        self._output += emit_message(HOST, BASE_NODE, bytes((Control.ENABLE_AND_LIST,)))
        self._settle_deadline = now + self._list_settle_s

    def send(self, address: int, lsdu: bytes, dst_lsap: int, src_lsap: int, now: float) -> int:
        """One APDU for a node. Raises `PlcLocalError` when it is too long or nobody takes the output."""
        del dst_lsap, now
        if not lsdu or len(self._output) + len(lsdu) > WRITE_BYTES_MAX:
            raise PlcLocalError(f"{len(lsdu)} bytes: none, or too many for the connection at once")
        self._output += emit_message(src_lsap, address, lsdu)
        self._last_ticket += 1
        return self._last_ticket

    def release(self, address: int, now: float) -> None:
        """Ask the base node to close a node's connection."""
        del now
        payload = bytes((Control.DELETE_DEVICE,)) + address.to_bytes(2, "big")
        self._output += emit_message(HOST, BASE_NODE, payload)

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the connection, split anyhow. Never raises for what the base node sent."""
        if self._broken:
            return
        self._decoder.feed(data)
        try:
            while (message := self._decoder.next()) is not None:
                self._on_message(message, now)
        except DecodeError as error:
            self._broken = True
            self._events.append(ProtocolBroken(str(error)))

    def take_output(self) -> bytes:
        """All bytes for the connection since the last call."""
        output = bytes(self._output)
        self._output.clear()
        return output

    def next_event(self) -> NodeEvent | None:
        """What happened, oldest first."""
        return self._events.popleft() if self._events else None

    def next_deadline(self) -> float | None:
        """When `on_deadline` is due."""
        return self._settle_deadline

    def on_deadline(self, now: float) -> None:
        """End the list of nodes when no further node has come by the deadline."""
        if self._settle_deadline is not None and self._settle_deadline <= now:
            self._settle_deadline = None
            self._events.append(NodesListed(len(self._nodes)))

    def _on_message(self, message: WrapperFrame, now: float) -> None:
        payload = message.apdu
        if message.source != BASE_NODE:
            if payload:
                self._events.append(DataReceived(message.source, message.destination, 0, payload))
            return
        try:
            self._on_control(payload, now)
        except PlcDecodeError as error:  # one control message is lost, the connection stays in step
            self._events.append(ResyncNoted(len(payload), str(error)))

    def _on_control(self, payload: bytes, now: float) -> None:
        cursor = PayloadCursor(payload, "control message")
        command = cursor.u8()
        if command == Control.NEW_DEVICE:
            address, _capabilities = cursor.u16(), cursor.u16()
            dlms_id = cursor.take(cursor.u8())
            eui48 = cursor.take(EUI48_BYTES)
            cursor.check_end()
            self._join(address, eui48, dlms_id)
            if self._settle_deadline is not None:
                self._settle_deadline = now + self._list_settle_s
        elif command == Control.DEVICE_REMOVED:
            address = cursor.u16()
            cursor.check_end()
            self._leave(address)

    def _join(self, address: int, eui48: bytes, dlms_id: bytes) -> None:
        for other, known in list(self._nodes.items()):
            if (other == address) != (known == eui48):
                self._leave(other)
        self._nodes[address] = eui48
        self._events.append(NodeJoined(address, eui48, dlms_id, self._settle_deadline is not None))

    def _leave(self, address: int) -> None:
        eui48 = self._nodes.pop(address, None)
        if eui48 is not None:
            self._events.append(NodeLeft(address, eui48))
