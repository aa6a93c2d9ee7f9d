"""A session that tells the access book what became of its keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dlms.client.association import Notified
from dlms.client.events import ItemRead, ReadDone, SessionEvent, SessionFailed, SessionOpened, Value
from dlms.client.knowledge import MeterKnowledge
from dlms.client.session import MeterSession
from dlms.cosem.obis import AttributeRef
from dlms.errors import DlmsError
from dlms.link.datalink import DataLink
from dlms.link.roundtrip import NodeRoundTrip
from dlms.security.settings import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.metering.access.accessbook import Opening
    from agent.metering.registry.entry import Meter


# The invocation counters that a meter has seen of its clients. Which e is ours is the maker's choice.
SEEN_COUNTERS = tuple(AttributeRef.parse(f"1/0.0.43.1.{e}.255/2") for e in range(4))


class Outcomes(Protocol):
    """Is told what became of an opening (`agent.metering.access.accessbook.AccessBook`)."""

    def opened(self, opening: Opening) -> None: ...

    def note_title(self, meter: Meter, title: bytes) -> None: ...

    def told_counter(self, opening: Opening, told: int) -> None: ...

    def failed(self, opening: Opening, error: DlmsError, *, was_open: bool) -> None: ...


class Pushes(Protocol):
    """Takes what meters send without being asked (`agent.metering.events.desk.EventDesk`). `in_session` returns `None`
    where an APDU is for the session, else the confirm to send, empty where there is none; so does `deciphered`,
    protected by `protect`."""

    def in_session(self, meter: Meter, apdu: bytes, *, ciphered: bool) -> bytes | None: ...

    def deciphered(self, meter: Meter, apdu: bytes, policy: Policy, protect: Callable[[bytes], bytes]) -> bytes: ...


class AccessSession(MeterSession):
    """A `MeterSession` opened as `opening` says. Sans-IO like its base."""

    def __init__(
        self,
        link: DataLink,
        opening: Opening,
        book: Outcomes,
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
            unasked=None if pushes is None else self._unasked_apdu,
        )
        self._pushes = pushes
        self._ciphered = ciphered
        if opening.first:
            known.undefined.clear()  # this client may see what the last one did not
        self._opening = opening
        self._book = book
        self._was_open = False
        self._asks = SEEN_COUNTERS if opening.asks_counters else ()
        self._told: int | None = None

    def read(self, refs: Sequence[AttributeRef], now: float) -> None:
        """As in `MeterSession`; with the first attributes the counters that the meter has seen, where they are due."""
        asks, self._asks = self._asks, ()
        super().read([*refs, *asks], now)

    def _unasked_apdu(self, apdu: bytes) -> bool:
        """Whether the pushes take an APDU. Their confirm goes with the next turn, or at once where there are none."""
        confirm = self._pushes.in_session(self._opening.meter, apdu, ciphered=self._ciphered) if self._pushes else None
        if confirm is None:
            return False
        self.aside(confirm)
        return True

    def _deciphered(self, event: Notified, pushes: Pushes) -> None:
        security = self._opening.credentials.security
        policy = Policy.NONE if security is None else security.policy
        self.aside(pushes.deciphered(self._opening.meter, event.notification.emit(), policy, self.protected))

    def next_event(self) -> SessionEvent | None:
        event = super().next_event()
        if isinstance(event, SessionOpened):
            self._was_open = True
            self._book.opened(self._opening)
            self._book.note_title(self._opening.meter, self.peer_title)
        elif isinstance(event, ItemRead) and event.ref in SEEN_COUNTERS and isinstance(event.result, Value):
            value = event.result.data.value
            if self._opening.asks_counters and isinstance(value, int):
                self._told = max(value, self._told or 0)
        elif isinstance(event, ReadDone) and self._told is not None:
            self._book.told_counter(self._opening, self._told)
            self._told = None
        elif isinstance(event, Notified) and self._pushes is not None:
            self._deciphered(event, self._pushes)
        elif isinstance(event, SessionFailed):
            self._book.failed(self._opening, event.error, was_open=self._was_open)
        return event
