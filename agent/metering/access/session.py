"""A session that tells the access book what became of its keys."""

from __future__ import annotations

from typing import Protocol

from agent.metering.access.accessbook import AccessBook, Opening
from agent.metering.registry.entry import Meter
from dlms.client.association import Notified
from dlms.client.events import SessionEvent, SessionFailed, SessionOpened
from dlms.client.knowledge import MeterKnowledge
from dlms.client.session import MeterSession
from dlms.link.datalink import DataLink
from dlms.link.roundtrip import NodeRoundTrip


class Pushes(Protocol):
    """Takes what meters send without being asked (`agent.metering.events.desk.EventDesk`)."""

    def in_session(self, meter: Meter, apdu: bytes, *, ciphered: bool) -> bool: ...

    def deciphered(self, meter: Meter, apdu: bytes) -> None: ...


class AccessSession(MeterSession):
    """A `MeterSession` opened as `opening` says. Sans-IO like its base."""

    def __init__(
        self,
        link: DataLink,
        opening: Opening,
        book: AccessBook,
        *,
        server: int,
        pdu_size: int,
        known: MeterKnowledge,
        response_timeout_s: float,
        round_trip: NodeRoundTrip | None = None,
        pushes: Pushes | None = None,
    ) -> None:
        """`pushes` gets the notifications of the meter."""
        ciphered = opening.credentials.security is not None and opening.credentials.security.ciphered_context
        meter = opening.meter
        super().__init__(
            link,
            client=opening.credentials.client,
            server=server,
            auth=opening.credentials.auth,
            security=opening.credentials.security,
            pdu_size=pdu_size,
            known=MeterKnowledge() if opening.identify else known,  # what the public client does not see is there
            response_timeout_s=response_timeout_s,
            round_trip=round_trip,
            unasked=None if pushes is None else lambda apdu: pushes.in_session(meter, apdu, ciphered=ciphered),
        )
        self._pushes = pushes
        if opening.first:
            known.undefined.clear()  # this client may see what the last one did not
        self._opening = opening
        self._book = book
        self._was_open = False

    def next_event(self) -> SessionEvent | None:
        event = super().next_event()
        if isinstance(event, SessionOpened):
            self._was_open = True
            self._book.opened(self._opening)
            self._book.note_title(self._opening.meter, self.peer_title)
        elif isinstance(event, Notified) and self._pushes is not None:
            self._pushes.deciphered(self._opening.meter, event.notification.emit())
        elif isinstance(event, SessionFailed):
            self._book.failed(self._opening, event.error, was_open=self._was_open)
        return event
