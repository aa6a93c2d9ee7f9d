"""A transparent byte pipe (RS-485 converter, transparent modem, serial server) in the shape of the other bridges.

There is no framing here and no discovery: the bytes are HDLC, and who is on the bus is found by the user's scan. The
bus is half duplex and shared, so one conversation has it at a time: what comes in belongs to whoever sent last.
"""

from __future__ import annotations

from collections import deque

from plc.errors import PlcLocalError
from plc.events import DataReceived, NodeEvent, ResyncNoted

PACKETS_MAX = 64  # a session has one request under way
WRITE_BYTES_MAX = 65536  # between two `take_output`: a window of the longest HDLC frames is 14 KiB


class TransparentLink:
    """A byte pipe. `address` is the user's number for the conversation; LSAPs mean nothing here and come back as 0."""

    shared_bus = True

    def __init__(self) -> None:
        self._output = bytearray()
        self._events: deque[NodeEvent] = deque()
        self._speaker: int | None = None
        self._last_ticket = 0

    def start(self, now: float) -> None:
        """Nothing to ask: nobody announces himself on such a line."""

    def send(self, address: int, lsdu: bytes, dst_lsap: int, src_lsap: int, now: float) -> int:
        """Put bytes on the line; what comes next is from `address`. Raises `PlcLocalError` when nobody takes output."""
        del dst_lsap, src_lsap, now
        if len(self._output) + len(lsdu) > WRITE_BYTES_MAX:
            raise PlcLocalError("too many bytes for the port at once")
        self._output += lsdu
        self._speaker = address
        self._last_ticket += 1
        return self._last_ticket

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the port."""
        del now
        if self._speaker is None:
            self._events.append(ResyncNoted(len(data), "bytes on the bus before anybody was asked"))
        else:
            self._events.append(DataReceived(self._speaker, 0, 0, data))

    def take_output(self) -> bytes:
        """All bytes for the port since the last call."""
        output = bytes(self._output)
        self._output.clear()
        return output

    def next_event(self) -> NodeEvent | None:
        """What happened, oldest first."""
        return self._events.popleft() if self._events else None

    def next_deadline(self) -> float | None:
        """Never: the HDLC link above has all the timers."""
        return None

    def on_deadline(self, now: float) -> None:
        """Nothing is ever due."""


class StreamLink(TransparentLink):
    """The same over a connection that one meter has for itself."""

    shared_bus = False


class PacketLink(StreamLink):
    """The same over a socket that carries datagrams to one meter: one per `send` and per `receive`."""

    def __init__(self) -> None:
        super().__init__()
        self._packets: deque[bytes] = deque()

    def send(self, address: int, lsdu: bytes, dst_lsap: int, src_lsap: int, now: float) -> int:
        """Queue one datagram. Raises `PlcLocalError` when nobody takes output."""
        del dst_lsap, src_lsap, now
        if len(self._packets) >= PACKETS_MAX:
            raise PlcLocalError("too many datagrams for the meter at once")
        self._packets.append(lsdu)
        self._speaker = address
        self._last_ticket += 1
        return self._last_ticket

    def take_output(self) -> bytes:
        """The next datagram, `b""` for none."""
        return self._packets.popleft() if self._packets else b""
