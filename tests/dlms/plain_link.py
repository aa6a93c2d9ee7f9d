"""A data link without framing for tests of what stands above: one APDU is one packet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dlms.client.events import SessionEvent
from dlms.client.session import MeterSession
from dlms.errors import LinkError, LocalError
from dlms.link.datalink import ApduReceived, LinkDown, LinkEvent, LinkUp
from dlms.server.server import ServerAssociation


class PacketLink:
    """Client side: `receive` takes one APDU, `take_output` gives one. Connects and disconnects at once."""

    def __init__(self, up: LinkUp | None = None, timeout_s: float = 10.0) -> None:
        self._up = up or LinkUp(0xFFFF)
        self._timeout_s = timeout_s
        self._events: deque[LinkEvent] = deque()
        self._output: deque[bytes] = deque()
        self._deadline: float | None = None
        self.connected = False

    def connect(self, now: float) -> None:
        self.connected = True
        self._events.append(self._up)

    def send(self, apdu: bytes, now: float) -> None:
        if not self.connected:
            raise LocalError("not connected")
        self._output.append(apdu)
        self._deadline = now + self._timeout_s

    def disconnect(self, now: float) -> None:
        self._down(None)

    def receive(self, data: bytes, now: float) -> None:
        if self.connected:
            self._deadline = None
            self._events.append(ApduReceived(data))

    def receive_eof(self, now: float) -> None:
        self._down(LinkError("closed"))

    def take_output(self) -> bytes:
        return self._output.popleft() if self._output else b""

    def next_event(self) -> LinkEvent | None:
        return self._events.popleft() if self._events else None

    def next_deadline(self) -> float | None:
        return self._deadline

    def on_deadline(self, now: float) -> None:
        if self._deadline is not None and self._deadline <= now:
            self._down(LinkError("no answer"))

    def _down(self, error: LinkError | None) -> None:
        self._deadline = None
        if self.connected:
            self.connected = False
            self._output.clear()
            self._events.append(LinkDown(error))


class Wire:
    """Everything that crossed between a session and a server, in order: ">" to the meter, "<" from it."""

    def __init__(self, association: ServerAssociation) -> None:
        self.association = association
        self.log: list[tuple[str, bytes]] = []

    def exchange(self, apdu: bytes, now: float) -> list[bytes]:
        answers = self.association.receive_apdu(apdu, now)
        self.log.append((">", apdu))
        self.log.extend(("<", answer) for answer in answers)
        return answers

    def carry(
        self, session: MeterSession, now: float = 0.0, alter: Callable[[bytes], bytes] = lambda answer: answer
    ) -> list[SessionEvent]:
        """Carry APDUs both ways until neither side has anything to say; `alter` may change an answer on its way."""
        events: list[SessionEvent] = []
        while True:
            told: list[SessionEvent] = []
            while (event := session.next_event()) is not None:
                told.append(event)
            events += told
            apdus = list(iter(session.take_output, b""))
            if not told and not apdus:
                return events
            for apdu in apdus:
                for answer in self.exchange(apdu, now):
                    session.receive(alter(answer), now)

    def run(
        self, session: MeterSession, now: float = 0.0, alter: Callable[[bytes], bytes] = lambda answer: answer
    ) -> list[SessionEvent]:
        """All events of a session that is closed once everything asked for is done."""
        events = self.carry(session, now, alter)
        session.close(now)
        return events + self.carry(session, now, alter)

    def requests(self, prefix: str = "") -> list[bytes]:
        """What went to the meter, of those that start with `prefix` in hexadecimal."""
        return [apdu for way, apdu in self.log if way == ">" and apdu.hex().startswith(prefix)]
