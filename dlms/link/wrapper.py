"""The COSEM wrapper (IEC 62056-47): a header before each APDU, over TCP as a stream, over UDP as packets.

    +---------------+-------------+-------------+-------------+------+
    | version 0001  | source WPort| dest. WPort | length      | APDU |
    | 2             | 2           | 2           | 2           |      |
    +---------------+-------------+-------------+-------------+------+

A WPort is the SAP of the client or of the logical device. What else a link does is in `dlms.link.direct`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from dlms.errors import DecodeError, LocalError
from dlms.link.datalink import ApduReceived, LinkEvent
from dlms.link.direct import DirectLink
from dlms.link.options import LinkOptions

VERSION = 1
VERSION_OCTETS = VERSION.to_bytes(2, "big")
HEADER_BYTES = 8
APDU_BYTES_MAX = 0xFFFF
UDP_APDU_BYTES_MAX = 65507 - HEADER_BYTES  # the longest UDP payload over IPv4
ANSWER_TIMEOUT_S = 30.0
REMEMBERED = 4  # datagrams; invoke ids come round after sixteen


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

    @property
    def due_bytes(self) -> int:
        """How long the APDU of the incomplete frame is going to be; 0 while its header is not there."""
        return int.from_bytes(self._buffer[6:8], "big") if len(self._buffer) >= HEADER_BYTES else 0


class _WrapperBase(DirectLink):
    """What both sides share."""

    def __init__(self, local: int, remote: int | None, *, packet: bool, answer_timeout_s: float | None) -> None:
        longest = UDP_APDU_BYTES_MAX if packet else APDU_BYTES_MAX
        super().__init__(longest, packet=packet, answer_timeout_s=answer_timeout_s)
        self._local = local
        self._remote = remote
        self._decoder = WrapperDecoder()

    def _frame(self, apdu: bytes) -> bytes:
        return WrapperFrame(self._local, self._remote or 0, apdu).emit()

    def _take(self, data: bytes) -> None:
        if self._packet:
            self._decoder = WrapperDecoder()
        self._decoder.feed(data)
        try:
            while (frame := self._decoder.next()) is not None:
                if frame.destination == self._local and self._is_peer(frame.source) and frame.apdu:
                    self._deliver(frame.apdu)
        except DecodeError as error:
            if not self._packet:  # a bad datagram is just dropped
                self._fail(error)

    def _is_peer(self, source: int) -> bool:
        """Whether a frame from there belongs to this association; others may share the connection."""
        return source == self._remote


class WrapperLink(_WrapperBase):
    """The client's side: a `dlms.link.datalink.DataLink` from a client SAP to a logical device."""

    def __init__(
        self, client: int, server: int, *, packet: bool = False, answer_timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        super().__init__(client, server, packet=packet, answer_timeout_s=answer_timeout_s)

    @classmethod
    def from_options(cls, options: LinkOptions) -> WrapperLink:
        """A link between the SAPs of `options`, with its timeout. Raises `LocalError` for a server that is no SAP."""
        timeout_s = options.timeout_s or ANSWER_TIMEOUT_S
        return cls(options.client, options.sap, packet=options.packet, answer_timeout_s=timeout_s)


class WrapperUdpLink(WrapperLink):
    """The client's side over UDP, where datagrams are lost, come twice, and come late.

    A datagram that is the same as one of the `REMEMBERED` before it is a duplicate and dropped: two answers differ in
    their invoke id, their block number or their counter. Asking again after a loss is for the session, which knows what
    may be asked twice (`LinkUp.may_repeat`). Whose datagrams these are is for the socket, which is connected.

    `apdu_bytes_max`: longer APDUs are not sent, and no longer ones are asked for. A datagram that fits one packet is
    not lost as a whole because one of its fragments was.
    """

    def __init__(
        self,
        client: int,
        server: int,
        *,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        apdu_bytes_max: int = UDP_APDU_BYTES_MAX,
    ) -> None:
        super().__init__(client, server, packet=True, answer_timeout_s=answer_timeout_s)
        self._apdu_bytes_max = min(apdu_bytes_max, UDP_APDU_BYTES_MAX)
        self._remembered: deque[bytes] = deque(maxlen=REMEMBERED)

    @classmethod
    def from_options(cls, options: LinkOptions) -> WrapperUdpLink:
        """A link between the SAPs of `options` in datagrams. Raises `LocalError` for a server that is no SAP."""
        return cls(options.client, options.sap, answer_timeout_s=options.timeout_s or ANSWER_TIMEOUT_S)

    def _take(self, data: bytes) -> None:
        if data in self._remembered:
            return
        self._remembered.append(data)
        if len(data) == HEADER_BYTES + int.from_bytes(data[6:8], "big"):  # else it is cut short, or two in one
            super()._take(data)


class WrapperServerLink(_WrapperBase):
    """The meter's side: hears one WPort. `client` is the SAP of the client whose APDU `next_event` gave last, and who
    gets what is sent; clients may share the connection."""

    def __init__(self, server: int, *, packet: bool = False) -> None:
        super().__init__(server, None, packet=packet, answer_timeout_s=None)
        self._came_from = 0
        self._sources: deque[int] = deque()  # of the APDUs among the events

    @property
    def client(self) -> int | None:
        """SAP of the client that is heard or answered; None before the first."""
        return self._remote

    def address(self, client: int) -> None:
        """What is sent next goes to this client."""
        self._remote = client

    def send(self, apdu: bytes, now: float) -> None:
        """Queue one APDU for `client`. Raises `LocalError` when there is none."""
        if self._remote is None:
            raise LocalError("no client has spoken")
        super().send(apdu, now)

    def next_event(self) -> LinkEvent | None:
        """What happened, oldest first."""
        event = super().next_event()
        if isinstance(event, ApduReceived):
            self._remote = self._sources.popleft()
        return event

    def _is_peer(self, source: int) -> bool:
        self._came_from = source
        return True

    def _deliver(self, apdu: bytes) -> None:
        self._sources.append(self._came_from)
        super()._deliver(apdu)
