"""The COSEM wrapper (IEC 62056-47): a header before each APDU, over TCP as a stream, over UDP as packets.

    +---------------+-------------+-------------+-------------+------+
    | version 0001  | source WPort| dest. WPort | length      | APDU |
    | 2             | 2           | 2           | 2           |      |
    +---------------+-------------+-------------+-------------+------+

A WPort is the SAP of the client or of the logical device. The transport below connects, repeats and orders; this link
adds one thing: an answer that does not come in time ends it with a `LinkError`. Nothing is sent twice, because over UDP
nobody could tell a repeated ACTION from a new one.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

from dlms.datalink import ApduReceived, LinkDown, LinkEvent, LinkUp
from dlms.errors import DecodeError, LinkError, LocalError

VERSION = 1
VERSION_OCTETS = VERSION.to_bytes(2, "big")
HEADER_BYTES = 8
APDU_BYTES_MAX = 0xFFFF
UDP_APDU_BYTES_MAX = 65507 - HEADER_BYTES  # the longest UDP payload over IPv4
ANSWER_TIMEOUT_S = 30.0
BROADCAST_WPORT = 0x007F


@dataclass(frozen=True, slots=True)
class WrapperFrame:
    """One APDU with its header."""

    source: int
    destination: int
    apdu: bytes

    def __post_init__(self) -> None:
        for value in (self.source, self.destination):
            if not 0 <= value <= 0xFFFF:
                raise LocalError(f"WPort {value} is not sixteen bits")
        if len(self.apdu) > APDU_BYTES_MAX:
            raise LocalError(f"APDU of {len(self.apdu)} bytes, at most {APDU_BYTES_MAX}")

    def emit(self) -> bytes:
        """Header and APDU."""
        numbers = (VERSION, self.source, self.destination, len(self.apdu))
        return b"".join(number.to_bytes(2, "big") for number in numbers) + self.apdu


class WrapperDecoder:
    """Cuts a byte stream into wrapper frames. There is nothing to find one's step again by: an error is final."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add bytes from the connection."""
        self._buffer += data

    def next(self) -> WrapperFrame | None:
        """The next frame, `None` for "need more". Raises `DecodeError` for a wrong version, then and ever after."""
        buffer = self._buffer
        # The version is checked as soon as it is there: garbage must not wait for a length that is garbage too.
        for offset, (came, due) in enumerate(zip(buffer, VERSION_OCTETS, strict=False)):
            if came != due:
                raise DecodeError("wrapper header", offset, f"0x{came:02x} where version {VERSION} has 0x{due:02x}")
        if len(buffer) < HEADER_BYTES:
            return None
        source, destination, length = (int.from_bytes(buffer[at : at + 2], "big") for at in (2, 4, 6))
        end = HEADER_BYTES + length
        if len(buffer) < end:
            return None
        apdu = bytes(buffer[HEADER_BYTES:end])
        del buffer[:end]
        return WrapperFrame(source, destination, apdu)

    @property
    def pending_bytes(self) -> int:
        """Bytes of an incomplete frame."""
        return len(self._buffer)


class WrapperState(enum.Enum):
    """IDLE until `connect`, UP while APDUs flow, CLOSED for good."""

    IDLE = enum.auto()
    UP = enum.auto()
    CLOSED = enum.auto()


class WrapperStep(enum.Enum):
    """What moves a wrapper link."""

    CONNECT = enum.auto()
    SEND = enum.auto()
    DISCONNECT = enum.auto()
    FAIL = enum.auto()


WRAPPER_TRANSITIONS: dict[tuple[WrapperState, WrapperStep], WrapperState] = {
    (WrapperState.IDLE, WrapperStep.CONNECT): WrapperState.UP,
    (WrapperState.IDLE, WrapperStep.DISCONNECT): WrapperState.CLOSED,
    (WrapperState.IDLE, WrapperStep.FAIL): WrapperState.CLOSED,
    (WrapperState.UP, WrapperStep.SEND): WrapperState.UP,
    (WrapperState.UP, WrapperStep.DISCONNECT): WrapperState.CLOSED,
    (WrapperState.UP, WrapperStep.FAIL): WrapperState.CLOSED,
    (WrapperState.CLOSED, WrapperStep.DISCONNECT): WrapperState.CLOSED,
    (WrapperState.CLOSED, WrapperStep.FAIL): WrapperState.CLOSED,
}


class _WrapperBase:
    """What both sides share."""

    def __init__(self, local: int, remote: int | None, *, packet: bool) -> None:
        self._local = local
        self._remote = remote
        self._packet = packet
        self._state = WrapperState.IDLE
        self._decoder = WrapperDecoder()
        self._output: deque[bytes] = deque()
        self._events: deque[LinkEvent] = deque()
        self._deadline: float | None = None

    @property
    def state(self) -> WrapperState:
        """Where the link is."""
        return self._state

    @property
    def _apdu_max(self) -> int:
        return UDP_APDU_BYTES_MAX if self._packet else APDU_BYTES_MAX

    def connect(self, now: float) -> None:
        """The transport is there already, so `LinkUp` follows at once."""
        del now
        self._step(WrapperStep.CONNECT)
        self._events.append(LinkUp(self._apdu_max, apdu_bytes_max=self._apdu_max, may_repeat=self._packet))

    def _send(self, apdu: bytes) -> None:
        if not apdu or len(apdu) > self._apdu_max:
            raise LocalError(f"APDU of {len(apdu)} bytes: 1 to {self._apdu_max}")
        self._step(WrapperStep.SEND)
        self._output.append(WrapperFrame(self._local, self._remote or 0, apdu).emit())

    def disconnect(self, now: float) -> None:
        """`LinkDown(None)` follows at once; closing the transport is the driver's."""
        del now
        before = self._state
        self._step(WrapperStep.DISCONNECT)
        self._deadline = None
        if before is not WrapperState.CLOSED:
            self._events.append(LinkDown(None))

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the connection; with `packet` one whole datagram. Never raises for what the peer sent."""
        del now
        if self._state is not WrapperState.UP:
            return
        if self._packet:
            self._decoder = WrapperDecoder()
        self._decoder.feed(data)
        try:
            while (frame := self._decoder.next()) is not None:
                if frame.destination == self._local and self._is_peer(frame.source):
                    self._deadline = None
                    if frame.apdu:
                        self._events.append(ApduReceived(frame.apdu))
        except DecodeError as error:
            if not self._packet:  # a bad datagram is just dropped
                self._fail(error)

    def _is_peer(self, source: int) -> bool:
        """Whether a frame from there belongs to this association; others may share the connection."""
        return source == self._remote

    def receive_eof(self, now: float) -> None:
        """The connection is closed for good."""
        del now
        if self._state is not WrapperState.CLOSED:
            self._fail(LinkError("the connection was closed"))

    def take_output(self) -> bytes:
        """Bytes for the connection; with `packet` one datagram a call."""
        if self._packet:
            return self._output.popleft() if self._output else b""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def next_event(self) -> LinkEvent | None:
        """What happened, oldest first."""
        return self._events.popleft() if self._events else None

    def next_deadline(self) -> float | None:
        """When `on_deadline` is due."""
        return self._deadline

    def on_deadline(self, now: float) -> None:
        """Time passed: give up when the answer did not come."""
        if self._deadline is not None and self._deadline <= now:
            self._fail(LinkError("no answer in time"))

    def _fail(self, error: DecodeError | LinkError) -> None:
        self._step(WrapperStep.FAIL)
        self._deadline = None
        self._events.append(LinkDown(error))

    def _step(self, step: WrapperStep) -> None:
        target = WRAPPER_TRANSITIONS.get((self._state, step))
        if target is None:
            raise LocalError(f"{step.name.lower()} in state {self._state.name}")
        self._state = target


class WrapperLink(_WrapperBase):
    """The client's side: a `dlms.datalink.DataLink` from a client SAP to a logical device."""

    def __init__(
        self, client: int, server: int, *, packet: bool = False, answer_timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        super().__init__(client, server, packet=packet)
        self._answer_timeout_s = answer_timeout_s

    def send(self, apdu: bytes, now: float) -> None:
        """Queue one APDU. Raises `LocalError` before `LinkUp` or after `LinkDown`, or when it is too long."""
        self._send(apdu)
        self._deadline = now + self._answer_timeout_s


class WrapperServerLink(_WrapperBase):
    """The meter's side: hears one WPort, answers the client that spoke last. `client` is its SAP."""

    def __init__(self, server: int, *, packet: bool = False) -> None:
        super().__init__(server, None, packet=packet)

    @property
    def client(self) -> int | None:
        """SAP of the client that spoke last."""
        return self._remote

    def send(self, apdu: bytes, now: float) -> None:
        """Queue one APDU for the client that spoke last. Raises `LocalError` when there is none."""
        del now
        if self._remote is None:
            raise LocalError("no client has spoken")
        self._send(apdu)

    def _is_peer(self, source: int) -> bool:
        self._remote = source
        return True
