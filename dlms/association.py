"""The client's side of an application association (GB 9.4), sans-IO: APDUs in, APDUs out, no link and no clock.

`associate` sends the AARQ. The AARE accepts, refuses, or (high level security) asks for a proof, which is an ACTION on
the association object and answered by the server's own proof. Then one confirmed service at a time is in flight:
`request` sends it, blocks keep it WAITING, its answer brings READY back. An exception-response ends the service, not
the association. `release` ends it in order. An APDU that is not what the standard says closes it: `Broken`.

An answer with another invoke id than the request's belongs to a request given up earlier and is dropped.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

from dlms.acse import Aare, Aarq, InitiateRequest, InitiateResponse, Release
from dlms.apdu import faults
from dlms.apdu.common import CONFIRMED, HIGH_PRIORITY, INVOKE_ID_MASK
from dlms.codes import LN_CLIENT_CONFORMANCE, Apdu, Conformance, Context
from dlms.errors import DecodeError, DlmsError, LocalError, PeerError
from dlms.exchange import Answer, Exchange, ListRefused
from dlms.security import Auth, Lls, NoAuth

PDU_UNLIMITED = 0xFFFF  # what a pdu size of 0 ("no limit") is taken for
PDU_SIZE_MIN = 12  # an APDU smaller than this cannot carry a service (GB 9.4.2.5)


class State(Enum):
    IDLE = auto()
    ASSOCIATING = auto()
    READY = auto()
    WAITING = auto()
    RELEASING = auto()
    CLOSED = auto()


class Event(Enum):
    ASSOCIATE = auto()
    ACCEPT = auto()
    REFUSE = auto()
    REQUEST = auto()
    BLOCK = auto()
    ANSWER = auto()
    EXCEPTION = auto()
    RELEASE = auto()
    RELEASED = auto()
    BREAK = auto()


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.IDLE, Event.ASSOCIATE): State.ASSOCIATING,
    (State.IDLE, Event.BREAK): State.CLOSED,
    (State.ASSOCIATING, Event.ACCEPT): State.READY,
    (State.ASSOCIATING, Event.REFUSE): State.CLOSED,
    (State.ASSOCIATING, Event.BREAK): State.CLOSED,
    (State.READY, Event.REQUEST): State.WAITING,
    (State.READY, Event.RELEASE): State.RELEASING,
    (State.READY, Event.BREAK): State.CLOSED,
    (State.WAITING, Event.BLOCK): State.WAITING,
    (State.WAITING, Event.ANSWER): State.READY,
    (State.WAITING, Event.EXCEPTION): State.READY,
    (State.WAITING, Event.RELEASE): State.RELEASING,
    (State.WAITING, Event.BREAK): State.CLOSED,
    (State.RELEASING, Event.RELEASED): State.CLOSED,
    (State.RELEASING, Event.BREAK): State.CLOSED,
}


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the client asks of the association. `pdu_size` is the largest APDU it takes, in octets."""

    auth: Auth = field(default_factory=NoAuth)
    pdu_size: int = 1024
    conformance: Conformance = LN_CLIENT_CONFORMANCE
    high_priority: bool = True

    def __post_init__(self) -> None:
        if not PDU_SIZE_MIN <= self.pdu_size <= PDU_UNLIMITED:
            raise LocalError(f"a PDU size is {PDU_SIZE_MIN} to {PDU_UNLIMITED} octets, not {self.pdu_size}")


@dataclass(frozen=True, slots=True)
class Established:
    """The server accepted. `pdu_size` is the largest APDU the server takes, in octets."""

    conformance: Conformance
    pdu_size: int


class AssociationRefused(PeerError):
    """The server did not accept the association; `reason` in the standard's words."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"association refused: {reason}")
        self.reason = reason


class ServiceRefused(PeerError):
    """The server answered a request with an exception-response or a confirmedServiceError.

    `code` is the reason in the standard's spelling; `unsupported` says that the server does not know the service.
    """

    def __init__(self, code: str, *, unsupported: bool = False) -> None:
        super().__init__(f"service refused: {code}")
        self.code = code
        self.unsupported = unsupported


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer of the request in flight."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Excepted:
    """The request in flight was refused as a whole; the association stands."""

    error: PeerError


@dataclass(frozen=True, slots=True)
class Released:
    """The server agreed to the release."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The association is over: refused, or the server broke the protocol."""

    error: DlmsError


AssociationEvent = Established | Answered | Excepted | Released | Broken


class Association:
    """See the module. The caller passes each APDU of `take_output` to the link, and each APDU of the link here."""

    def __init__(self, proposal: Proposal) -> None:
        self.state = State.IDLE
        self._proposal = proposal
        self._invoke_id = 0
        self._exchange: Exchange | None = None
        self._output: deque[bytes] = deque()
        self._events: deque[AssociationEvent] = deque()
        self._established: Established | None = None

    @property
    def established(self) -> Established:
        """What was negotiated. Raises `LocalError` before the server accepted."""
        if self._established is None:
            raise LocalError("the association is not established")
        return self._established

    # ------------------------------------------------------------------------------------------------------- verbs

    def associate(self) -> None:
        """Send the AARQ. Raises `LocalError` in another state than IDLE."""
        self._step(Event.ASSOCIATE)
        auth = self._proposal.auth
        aarq = Aarq(
            context=Context.LN,
            user_information=InitiateRequest(self._proposal.conformance, self._proposal.pdu_size).emit(),
            mechanism=auth.mechanism,
            authentication=auth.password if isinstance(auth, Lls) else None,
        )
        self._output.append(aarq.emit())

    def request(self, exchange: Exchange) -> None:
        """Send the first APDU of a service. Raises `LocalError` unless READY."""
        self._step(Event.REQUEST)
        self._invoke_id = (self._invoke_id + 1) & INVOKE_ID_MASK
        priority = HIGH_PRIORITY if self._proposal.high_priority else 0
        self._exchange = exchange
        self._output.append(exchange.start(self._invoke_id | CONFIRMED | priority))

    def release(self) -> None:
        """Send the RLRQ. Raises `LocalError` unless associated."""
        self._step(Event.RELEASE)
        self._exchange = None
        self._output.append(Release().emit())

    def break_off(self, error: DlmsError) -> None:
        """The link ended below: close, and say so unless closed already."""
        if self.state is not State.CLOSED:
            self._break(error)

    def take_output(self) -> bytes:
        """The next APDU to send, b"" when there is none."""
        return self._output.popleft() if self._output else b""

    def next_event(self) -> AssociationEvent | None:
        return self._events.popleft() if self._events else None

    # ------------------------------------------------------------------------------------------------------- input

    def receive_apdu(self, apdu: bytes) -> None:
        """One APDU from the server. Never raises for what it holds."""
        if self.state is State.CLOSED:
            return
        try:
            self._receive(apdu)
        except ListRefused as error:
            self._end_exchange(Event.EXCEPTION, Excepted(error))
        except DlmsError as error:
            self._break(error)

    def _receive(self, apdu: bytes) -> None:
        if len(apdu) < 2:
            raise DecodeError("APDU", len(apdu), "ends where one more octet is due")
        tag = apdu[0]
        if tag == Apdu.EXCEPTION_RESPONSE:
            exception = faults.parse_exception(apdu)
            self._refused(exception.text, unsupported=exception.unsupported)
        elif tag == Apdu.CONFIRMED_SERVICE_ERROR:
            self._refused(faults.parse_service_error(apdu).text)
        elif self.state is State.ASSOCIATING and tag == Apdu.AARE:
            self._aare(Aare.parse(apdu))
        elif self.state is State.RELEASING:
            if tag == Apdu.RLRE:
                self._step(Event.RELEASED)
                self._events.append(Released())
        elif self._exchange is not None and tag == self._exchange.response_tag:
            self._response(self._exchange, apdu)
        else:
            raise PeerError(f"APDU 0x{tag:02x} came in state {self.state.name}")

    def _response(self, exchange: Exchange, apdu: bytes) -> None:
        if len(apdu) < 3:
            raise DecodeError("APDU", len(apdu), "ends where one more octet is due")
        if (apdu[2] & INVOKE_ID_MASK) != self._invoke_id:
            return  # of a request given up earlier
        following = exchange.advance(apdu)
        if isinstance(following, bytes):
            self._step(Event.BLOCK)
            self._output.append(following)
        else:
            self._end_exchange(Event.ANSWER, Answered(following))

    def _refused(self, reason: str, *, unsupported: bool = False) -> None:
        if self.state is State.ASSOCIATING:
            self._step(Event.REFUSE)
            self._events.append(Broken(AssociationRefused(reason)))
        elif self.state is State.WAITING:
            self._end_exchange(Event.EXCEPTION, Excepted(ServiceRefused(reason, unsupported=unsupported)))
        elif self.state is State.RELEASING:  # some meters do not know the release and say so
            self._step(Event.RELEASED)
            self._events.append(Released())

    def _end_exchange(self, event: Event, outcome: AssociationEvent) -> None:
        self._step(event)
        self._exchange = None
        self._events.append(outcome)

    def _aare(self, aare: Aare) -> None:
        if not aare.accepted:
            self._step(Event.REFUSE)
            self._events.append(Broken(AssociationRefused(_refusal(aare))))
            return
        if aare.user_information is None:
            raise PeerError("the association is accepted without an InitiateResponse")
        if aare.user_information[:1] == bytes((Apdu.CONFIRMED_SERVICE_ERROR,)):
            raise AssociationRefused(faults.parse_service_error(aare.user_information).text)
        response = InitiateResponse.parse(aare.user_information)
        self._established = Established(response.conformance, response.pdu_size or PDU_UNLIMITED)
        self._step(Event.ACCEPT)
        self._events.append(self._established)

    # ------------------------------------------------------------------------------------------------------- states

    def _break(self, error: DlmsError) -> None:
        self._step(Event.BREAK)
        self._exchange = None
        self._output.clear()
        self._events.append(Broken(error))

    def _step(self, event: Event) -> None:
        """Take the transition. Raises `LocalError`, and changes nothing, when there is none."""
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            raise LocalError(f"{event.name} in state {self.state.name}")
        self.state = following


def _refusal(aare: Aare) -> str:
    """The reason of a refusal: the diagnostic, and the InitiateError when one came along."""
    reason = aare.reason
    if aare.user_information is not None and aare.user_information[:1] == bytes((Apdu.CONFIRMED_SERVICE_ERROR,)):
        reason = f"{reason}, {faults.parse_service_error(aare.user_information).text}"
    return reason
