"""The client's side of an application association (GB 9.4), sans-IO: APDUs in, APDUs out, no link and no clock.

`associate` sends the AARQ. The AARE accepts, refuses, or (with high level security) asks for a proof: the client sends
it in an ACTION on the association object (a READ with short names), and the server answers with its own proof. The
state is PROVING meanwhile. After that, one confirmed service at a time is in flight: `request` sends it, blocks keep
the state WAITING, and the complete answer returns it to READY. An exception-response ends the service, not the
association. `release` ends the association in order. An APDU that violates the standard ends it with
`AssociationFailed`.

Over a link that may repeat packets, an answer whose invoke id is not the request's is a repeated old one and is
dropped. Over other links it is accepted, because some meters answer with an id of their own choice.

Over such a link `repeat` sends an unanswered request again where that is safe. The AARQ is repeated with the same
challenge, because the AARE that arrives may belong to either. A GET is repeated with a new invoke id, which tells which
attempt an answer belongs to: a late answer to an earlier attempt is accepted unless it comes in blocks, an answer to
another GET is dropped. SET and ACTION are never repeated, because the meter could not tell a repetition from a new
request. The proof is an ACTION too, so an unanswered proof makes `repeat` send the AARQ.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from dlms import axdr
from dlms.codes import CONFIRMED, LN_CLIENT_CONFORMANCE, UNASKED, Apdu, Conformance, Context, is_unconfirmed
from dlms.cosem.associations import REPLY_TO_HLS
from dlms.errors import DecodeError, DlmsError, LinkError, LocalError, PeerError, SecurityError
from dlms.security.random_octets import RandomOctets, system_random
from dlms.security.settings import Auth, Hls, Lls, NoAuth, Security, own_title
from dlms.statemachine import Stateful, Transitions
from dlms.xdlms.acse import PDU_SIZE_MIN, PDU_UNLIMITED, Aare, Aarq, InitiateRequest, InitiateResponse, ReleaseApdu
from dlms.xdlms.apdu import service_errors as faults
from dlms.xdlms.apdu.common import HIGH_PRIORITY, INVOKE_ID_MASK, AccessError
from dlms.xdlms.apdu.get import BLOCK as GET_BLOCK
from dlms.xdlms.exchange import ActionAnswer, Answer, Exchange, GetAnswer, GetExchange, ListRefused

if TYPE_CHECKING:
    from dlms.security.ciphering import Ciphering
    from dlms.security.hls import Challenges
    from dlms.xdlms.apdu.notify import Notification
    from dlms.xdlms.gbt import BlockTransfer


class State(Enum):
    """The state of the client's side of the association (GB 9.4)."""

    IDLE = auto()
    ASSOCIATING = auto()
    PROVING = auto()
    READY = auto()
    WAITING = auto()
    RELEASING = auto()
    CLOSED = auto()


class Event(Enum):
    """What changes the state: a request of ours, or an APDU of the server."""

    ASSOCIATE = auto()
    ACCEPT = auto()
    CHALLENGE = auto()
    REFUSE = auto()
    REQUEST = auto()
    BLOCK = auto()
    ANSWER = auto()
    EXCEPTION = auto()
    RELEASE = auto()
    RELEASED = auto()
    REPEAT = auto()
    BREAK = auto()


TRANSITIONS: Transitions[State, Event] = Transitions(
    {
        (State.IDLE, Event.ASSOCIATE): State.ASSOCIATING,
        (State.IDLE, Event.BREAK): State.CLOSED,
        (State.ASSOCIATING, Event.ACCEPT): State.READY,
        (State.ASSOCIATING, Event.REFUSE): State.CLOSED,
        (State.ASSOCIATING, Event.BREAK): State.CLOSED,
        (State.ASSOCIATING, Event.CHALLENGE): State.PROVING,
        (State.ASSOCIATING, Event.REPEAT): State.ASSOCIATING,
        (State.PROVING, Event.BLOCK): State.PROVING,
        (State.PROVING, Event.CHALLENGE): State.PROVING,
        (State.PROVING, Event.REPEAT): State.ASSOCIATING,
        (State.PROVING, Event.ACCEPT): State.READY,
        (State.PROVING, Event.REFUSE): State.CLOSED,
        (State.PROVING, Event.BREAK): State.CLOSED,
        (State.READY, Event.REQUEST): State.WAITING,
        (State.READY, Event.RELEASE): State.RELEASING,
        (State.READY, Event.BREAK): State.CLOSED,
        (State.WAITING, Event.BLOCK): State.WAITING,
        (State.WAITING, Event.ANSWER): State.READY,
        (State.WAITING, Event.EXCEPTION): State.READY,
        (State.WAITING, Event.RELEASE): State.RELEASING,
        (State.WAITING, Event.REPEAT): State.WAITING,
        (State.WAITING, Event.BREAK): State.CLOSED,
        (State.RELEASING, Event.RELEASED): State.CLOSED,
        (State.RELEASING, Event.BREAK): State.CLOSED,
    }
)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the client proposes. `pdu_size` is the largest APDU it takes, in octets; `block_window` the number of blocks
    it takes at a time, where the conformance includes general block transfer."""

    auth: Auth = field(default_factory=NoAuth)
    security: Security | None = None
    pdu_size: int = 1024
    conformance: Conformance = LN_CLIENT_CONFORMANCE
    high_priority: bool = True
    short_names: bool = False
    block_window: int = 4

    def __post_init__(self) -> None:
        if not PDU_SIZE_MIN <= self.pdu_size <= PDU_UNLIMITED:
            raise LocalError(f"a PDU size is {PDU_SIZE_MIN} to {PDU_UNLIMITED} octets, not {self.pdu_size}")


@dataclass(frozen=True, slots=True)
class Established:
    """The server accepted. `pdu_size` is the largest APDU that the server takes, in octets, minus what ciphering
    adds."""

    conformance: Conformance
    pdu_size: int


class AssociationRefused(PeerError):
    """The server refused the association; `reason` is in the words of the standard."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"association refused: {reason}")
        self.reason = reason


class AuthenticationRefused(AssociationRefused, SecurityError):
    """The server refused the association because of its authentication, or because it could not decipher it."""


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
    """The complete answer to the request in flight."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """The request in flight was refused as a whole; the association continues."""

    error: PeerError


@dataclass(frozen=True, slots=True)
class Released:
    """The server agreed to the release."""


@dataclass(frozen=True, slots=True)
class Notified:
    """The server sent a notification."""

    notification: Notification


@dataclass(frozen=True, slots=True)
class AssociationFailed:
    """The association is over: refused, or the server broke the protocol."""

    error: DlmsError


AssociationEvent = Established | Answered | RequestRefused | Released | Notified | AssociationFailed


class Association(Stateful[State, Event]):
    """One client's association with one server SAP.

    The caller passes each APDU of `take_output` to the link, and each APDU of the link to `receive_apdu`. `may_repeat`
    says that the link may deliver an APDU twice, and late; `invoke_id` is then that of the last request of the
    association before, whose answers are not to be taken for those of this one.
    """

    def __init__(
        self,
        proposal: Proposal,
        *,
        may_repeat: bool = False,
        invoke_id: int = 0,
        random_octets: RandomOctets = system_random,
    ) -> None:
        super().__init__(State.IDLE, TRANSITIONS)
        self._random_octets = random_octets
        self._proposal = proposal
        self._may_repeat = may_repeat
        self._invoke_id = invoke_id & INVOKE_ID_MASK
        self._exchange: Exchange | None = None
        self._output: deque[bytes] = deque()
        self._events: deque[AssociationEvent] = deque()
        self._established: Established | None = None
        self._ciphering = _ciphering(proposal.security)
        self._dedicated_key: bytes | None = None
        self._authentication: bytes | None = None
        self._challenge = b""
        self._challenges: Challenges | None = None
        self._transfer: BlockTransfer | None = None
        self._pdu_size = PDU_UNLIMITED
        self._invoke_ids: list[int] = []  # of the exchange in flight, one per asking
        self._answered_asking: int | None = None
        self._associations_asked = 0
        self._dropped: PeerError | None = None  # the last APDU that was genuine and sent again
        self._stale_refusals = 0  # refusals without an invoke id that may still come for a request that was repeated

    @property
    def established(self) -> Established:
        """The negotiated parameters. Raises `LocalError` before the server has accepted."""
        if self._established is None:
            raise LocalError("the association is not established")
        return self._established

    @property
    def replayed(self) -> PeerError | None:
        """Why the server is not heard, if all that came for an association that was never accepted was sent again."""
        return self._dropped if self._established is None else None

    @property
    def peer_title(self) -> bytes:
        """The server's system title; empty while it is not known."""
        return (self._ciphering.peer_title if self._ciphering is not None else None) or b""

    @property
    def invoke_id(self) -> int:
        """The invoke id of the last request."""
        return self._invoke_id

    @property
    def busy(self) -> bool:
        """Whether a request is in flight."""
        return self._exchange is not None

    # ---------------------------------------------------------------------------------------------------- requests

    def associate(self) -> None:
        """Send the AARQ. Raises `LocalError` unless IDLE."""
        self._step(Event.ASSOCIATE)
        auth, security = self._proposal.auth, self._proposal.security
        authentication = None
        if isinstance(auth, Lls):
            authentication = auth.password
        elif isinstance(auth, Hls):
            from dlms.security.hls import make_challenge

            authentication = self._challenge = make_challenge(auth, self._random_octets)
        if security is not None and security.dedicated:
            self._dedicated_key = self._random_octets(len(security.ek))
        self._authentication = authentication
        self._send_aarq()

    def _send_aarq(self) -> None:
        auth, security = self._proposal.auth, self._proposal.security
        aarq = Aarq(
            context=self._context,
            user_information=self._initiate(),
            mechanism=auth.mechanism,
            authentication=self._authentication,
            system_title=own_title(auth, security),
        )
        self._associations_asked += 1
        self._output.append(aarq.emit())

    @property
    def _context(self) -> Context:
        if self._proposal.short_names:
            return Context.SN_CIPHERED if self._ciphered else Context.SN
        return Context.LN_CIPHERED if self._ciphered else Context.LN

    @property
    def _ciphered(self) -> bool:
        security = self._proposal.security
        return security is not None and security.ciphered_context

    def _initiate(self) -> bytes:
        """The InitiateRequest, ciphered in a ciphered context."""
        proposal = self._proposal
        conformance = proposal.conformance
        if proposal.security is not None and proposal.security.named:
            conformance |= Conformance.GENERAL_PROTECTION
        plain = InitiateRequest(conformance, proposal.pdu_size, self._dedicated_key).emit()
        if self._ciphering is None or not self._ciphered:
            return plain
        return self._ciphering.protect_initiate(plain)

    def request(self, exchange: Exchange) -> None:
        """Send the first APDU of a service. Raises `LocalError` unless READY."""
        self._step(Event.REQUEST)
        self._invoke_ids.clear()
        self._answered_asking = None
        self._start(exchange)

    @property
    def may_ask_again(self) -> bool:
        """Whether `repeat` would send anything."""
        if not self._may_repeat:
            return False
        if self._state in (State.ASSOCIATING, State.PROVING):
            return True
        return self._state is State.WAITING and isinstance(self._exchange, GetExchange)

    def repeat(self) -> None:
        """Ask again for what was not answered in time. Raises `LocalError` where that is not safe, see above."""
        if not self.may_ask_again:
            raise LocalError(f"what is under way in state {self._state.name} is not asked twice")
        exchange = self._exchange
        self._step(Event.REPEAT)
        if self._state is State.ASSOCIATING:
            self._exchange = None
            self._send_aarq()
        elif exchange is not None:
            self._start(exchange)

    @property
    def answered_asking(self) -> int | None:
        """Which asking the last answer belongs to, 0 for the first; None where that cannot be known."""
        return self._answered_asking

    def _start(self, exchange: Exchange) -> None:
        self._invoke_id = (self._invoke_id + 1) & INVOKE_ID_MASK
        self._invoke_ids.append(self._invoke_id)
        priority = HIGH_PRIORITY if self._proposal.high_priority else 0
        if self._transfer is not None:
            self._transfer.reset()
        self._exchange = exchange
        self._send(exchange.start(self._invoke_id | CONFIRMED | priority))

    def _send(self, apdu: bytes) -> None:
        if self._ciphering is not None and self._ciphered:
            apdu = self._ciphering.protect(apdu)
        if self._transfer is not None and len(apdu) > self._pdu_size:
            self._output.extend(self._transfer.send(apdu))
        else:
            self._output.append(apdu)

    def protected(self, apdu: bytes) -> bytes:
        """`apdu`, which has no answer, protected as this association protects what it sends. Raises `LocalError` where
        the form of that belongs to a request that waits for its answer."""
        if self._ciphering is None or not self._ciphered:
            return apdu
        security = self._proposal.security
        if security is not None and security.named:
            raise LocalError("general-ciphering and general-signing have a transaction per request")
        return self._ciphering.protect(apdu)

    def send_unconfirmed(self, apdu: bytes) -> None:
        """Send one unconfirmed request: a SET or ACTION of service class 0, or an UNCONFIRMED-WRITE.

        In a ciphered context it is protected with the broadcast key, for every meter that has it. There is no answer.
        Raises `LocalError` unless READY, and for confirmed requests.
        """
        if self._state is not State.READY:
            raise LocalError(f"nothing can be sent in state {self._state.name}")
        if self._ciphering is not None and self._ciphered:
            apdu = self._ciphering.protect_broadcast(apdu)
        elif not is_unconfirmed(apdu):
            raise LocalError("only an unconfirmed request can be sent without an answer")
        self._output.append(apdu)

    def release(self) -> None:
        """Send the RLRQ. Raises `LocalError` unless associated."""
        self._step(Event.RELEASE)
        self._exchange = None
        # In a ciphered context the RLRQ carries a ciphered InitiateRequest, as proof that the same client sent it.
        self._output.append(ReleaseApdu(user_information=self._initiate() if self._ciphered else None).emit())

    def break_off(self, error: DlmsError) -> None:
        """Close because the link below has ended; `AssociationFailed` follows unless the association is closed."""
        if self._state is not State.CLOSED:
            self._break(error)

    def take_output(self) -> bytes:
        """The next APDU to send; b"" when there is none."""
        return self._output.popleft() if self._output else b""

    def next_event(self) -> AssociationEvent | None:
        """The next event; None when there is none."""
        return self._events.popleft() if self._events else None

    # ------------------------------------------------------------------------------------------------------- input

    def receive_apdu(self, apdu: bytes) -> None:
        """Take one APDU from the server. Never raises because of its contents."""
        if self._state is State.CLOSED:
            return
        try:
            self._receive(apdu)
        except ListRefused as error:
            self._end_exchange(Event.EXCEPTION, RequestRefused(error))
        except DlmsError as error:
            if not self._is_repetition(error):
                self._break(error)

    def _is_repetition(self, error: DlmsError) -> bool:
        """Whether a ciphered APDU was genuine and only came twice, or late, over a link that may do so."""
        if self._ciphering is None or not self._may_repeat:
            return False
        from dlms.security.gcm import Replayed

        if not isinstance(error, Replayed):
            return False
        self._dropped = error
        return True

    def _receive(self, apdu: bytes) -> None:
        if len(apdu) < 2:
            raise DecodeError("APDU", len(apdu), "ends where one more octet is due")
        if apdu[0] == Apdu.GENERAL_BLOCK_TRANSFER and self._transfer is not None:
            answers, complete = self._transfer.receive(apdu)
            self._output.extend(answers)
            if complete is None:
                return
            apdu = complete
        if apdu[0] in UNASKED and self._ciphered:
            return  # unprotected where protection was agreed: anybody could have sent it
        apdu = self._unprotect(apdu)
        tag = apdu[0]
        if tag == Apdu.EXCEPTION_RESPONSE:
            exception = faults.parse_exception(apdu)
            self._refused(exception.text, unsupported=exception.unsupported, about_keys=exception.about_keys)
        elif tag == Apdu.CONFIRMED_SERVICE_ERROR:
            self._refused(faults.parse_service_error(apdu).text)
        elif tag in UNASKED and self._state not in (State.IDLE, State.ASSOCIATING):
            self._notified(apdu)
        elif self._state is State.ASSOCIATING and tag == Apdu.AARE:
            self._aare(Aare.parse(apdu))
        elif self._state is State.RELEASING:
            if tag == Apdu.RLRE:
                self._step(Event.RELEASED)
                self._events.append(Released())
        elif self._exchange is not None and tag == self._exchange.response_tag:
            self._response(self._exchange, apdu)
        else:
            self._out_of_turn(apdu)

    def _out_of_turn(self, apdu: bytes) -> None:
        """An answer to nothing that is asked now: over a link that may repeat, late or come twice; else an error."""
        tag = apdu[0]
        if tag == Apdu.AARE and self._associations_asked > 1 and isinstance(self._proposal.auth, Hls):
            if self._state is not State.PROVING:
                raise LinkError("an old request had the meter begin another association, and it wants a proof again")
            self._aare(Aare.parse(apdu))  # the meter has begun anew, and wants a proof for this challenge
        elif not (self._may_repeat and tag in _ANSWERS):
            raise PeerError(f"APDU 0x{tag:02x} came in state {self._state.name}")

    def _unprotect(self, apdu: bytes) -> bytes:
        """The plain APDU. What the policy protects may not come in the clear, except for refusals."""
        if self._ciphering is None or not self._ciphered:
            return apdu
        if apdu[0] in self._ciphering.tags:
            return self._ciphering.unprotect(apdu)
        security = self._proposal.security
        if apdu[0] not in _ALWAYS_PLAIN and security is not None and (security.policy or security.signs):
            raise SecurityError(f"APDU 0x{apdu[0]:02x} came unprotected")
        return apdu

    def _notified(self, apdu: bytes) -> None:
        """A notification. One that cannot be decoded is dropped: it must not cost the association."""
        from dlms.xdlms.apdu import notify

        try:
            self._events.append(Notified(notify.parse(apdu)))
        except DecodeError:
            return

    def _response(self, exchange: Exchange, apdu: bytes) -> None:
        if len(apdu) < 3:
            raise DecodeError("APDU", len(apdu), "ends where one more octet is due")
        self._answered_asking = None
        if self._may_repeat and exchange.has_invoke_id:
            invoke = apdu[2] & INVOKE_ID_MASK
            if invoke != self._invoke_id and not self._is_late_answer(exchange, invoke, apdu):
                return
            self._answered_asking = self._invoke_ids.index(invoke)
        following = exchange.advance(apdu)
        self._stale_refusals = 0  # packets do not overtake each other: what was behind has come or is lost
        if isinstance(following, bytes):
            del self._invoke_ids[:-1]  # the next block is asked for by the number of this one
            self._step(Event.BLOCK)
            self._send(following)
        elif self._state is State.PROVING:
            self._proved(following)
        else:
            self._end_exchange(Event.ANSWER, Answered(following))

    def _is_late_answer(self, exchange: Exchange, invoke: int, apdu: bytes) -> bool:
        """Whether this is the whole answer to an earlier asking of the GET in flight. One in blocks is of no use, since
        the meter has begun anew meanwhile."""
        return (
            isinstance(exchange, GetExchange)
            and invoke in self._invoke_ids
            and not exchange.in_blocks
            and apdu[1] != GET_BLOCK
        )

    def _refused(self, reason: str, *, unsupported: bool = False, about_keys: bool = False) -> None:
        if self._state is State.PROVING and self._associations_asked > 1:
            raise self._unclear(reason)
        if self._state in (State.ASSOCIATING, State.PROVING):
            self._refuse(reason, about_keys=about_keys)
        elif self._state is State.WAITING:
            if self._stale_refusals:  # one refusal has ended the request that was sent more than once; this is another
                self._stale_refusals -= 1
                return
            self._stale_refusals = max(0, len(self._invoke_ids) - 1)
            self._end_exchange(Event.EXCEPTION, RequestRefused(ServiceRefused(reason, unsupported=unsupported)))
        elif self._state is State.RELEASING:  # some meters do not know RLRQ: the refusal is as good as an RLRE
            self._step(Event.RELEASED)
            self._events.append(Released())

    @staticmethod
    def _unclear(refusal: str) -> LinkError:
        """Not a wrong key: with two requests under way, nobody knows which challenge the meter had in mind."""
        return LinkError(f"the association was asked for twice, and the proof not accepted ({refusal})")

    def _end_exchange(self, event: Event, outcome: AssociationEvent) -> None:
        self._step(event)
        self._exchange = None
        self._events.append(outcome)

    def _refuse(self, reason: str, *, about_keys: bool = False) -> None:
        self._step(Event.REFUSE)
        self._exchange = None
        refusal = AuthenticationRefused if about_keys else AssociationRefused
        self._events.append(AssociationFailed(refusal(reason)))

    def _aare(self, aare: Aare) -> None:
        information = self._user_information(aare)
        error = None
        if information[:1] == bytes((Apdu.CONFIRMED_SERVICE_ERROR,)):
            error = faults.parse_service_error(information).text
        if not aare.accepted or error is not None:
            reason = aare.reason if error is None else f"{aare.reason}, {error}"
            self._refuse(reason, about_keys=aare.about_keys)
            return
        if not information:
            raise PeerError("the association is accepted without an InitiateResponse")
        response = InitiateResponse.parse(information)
        size = self._pdu_size = response.pdu_size or PDU_UNLIMITED
        if response.conformance & Conformance.GENERAL_BLOCK_TRANSFER:
            from dlms.xdlms.gbt import BlockTransfer

            self._transfer = BlockTransfer(size, self._proposal.block_window)
        security = self._proposal.security
        if security is not None and security.ciphered_context:
            self._agree_on_form(security, response.conformance)
            size = max(PDU_SIZE_MIN, size - security.overhead)
        self._established = Established(response.conformance, size)
        if isinstance(self._proposal.auth, Hls):
            self._prove(self._proposal.auth, aare)
        else:
            self._accept(self._established)

    def _agree_on_form(self, security: Security, conformance: Conformance) -> None:
        """Use general-ciphering if the server takes it. Signatures are never dropped for a server that does not."""
        if not security.named or self._ciphering is None:
            return
        if conformance & Conformance.GENERAL_PROTECTION:
            self._ciphering.use_named()
        elif security.signs:
            raise PeerError("the server does not take signed APDUs")

    def _user_information(self, aare: Aare) -> bytes:
        """The deciphered user information, b"" when there is none. Also stores the server's system title."""
        ciphering = self._ciphering
        if ciphering is not None and aare.system_title:
            if ciphering.peer_title is not None and ciphering.peer_title != aare.system_title:
                raise PeerError(f"the meter is {aare.system_title.hex()}, not {ciphering.peer_title.hex()}")
            ciphering.peer_title = aare.system_title
        information = aare.user_information or b""
        if ciphering is not None and information[:1] and information[0] in ciphering.tags:
            return ciphering.unprotect(information)
        if self._ciphered and aare.accepted and information[:1] == bytes((Apdu.INITIATE_RESPONSE,)):
            raise SecurityError("the InitiateResponse came unprotected")
        return information

    def _accept(self, established: Established) -> None:
        self._step(Event.ACCEPT)
        if self._ciphering is not None and self._dedicated_key is not None:
            self._ciphering.use_dedicated(self._dedicated_key)
        self._events.append(established)

    # ------------------------------------------------------------------------------------------ high level security

    def _prove(self, auth: Hls, aare: Aare) -> None:
        """Passes 2 and 3 of HLS: the server's challenge arrived; send our proof."""
        from dlms.security.hls import Challenges, check_challenges, prove
        from dlms.xdlms.exchange_write import ActionExchange

        if aare.mechanism not in (None, auth.mechanism) or aare.authentication is None:
            raise SecurityError("the server did not agree to the authentication that was proposed")
        check_challenges(self._challenge, aare.authentication)
        security = self._proposal.security
        ours = own_title(auth, security) or b""
        theirs = aare.system_title or (security.peer_title if security else None) or b""
        self._challenges = Challenges(self._challenge, aare.authentication, ours, theirs)
        self._step(Event.CHALLENGE)
        proof = prove(auth, self._challenges, self._ciphering)
        if self._proposal.short_names:
            from dlms.xdlms.exchange_sn import SnReadExchange

            self._start(SnReadExchange.reply_to_hls(proof))
        else:
            self._start(ActionExchange((REPLY_TO_HLS,), (axdr.octets(proof),), PDU_UNLIMITED))

    def _proved(self, answer: Answer) -> None:
        """Pass 4 of HLS: check the server's own proof, or take its refusal of ours."""
        from dlms.security.hls import verify

        auth, challenges = self._proposal.auth, self._challenges
        if not isinstance(auth, Hls) or challenges is None:
            raise PeerError("something else than the answer to our proof came")
        refusal, returned = _reply(answer)
        if refusal is not None and self._associations_asked > 1:
            raise self._unclear(refusal)
        if refusal is not None:
            self._refuse(f"our proof was not accepted ({refusal})", about_keys=True)
            return
        if not isinstance(returned, axdr.Data) or not isinstance(returned.value, bytes):
            raise PeerError("the server accepted our proof and gave none of its own")
        verify(auth, challenges, returned.value, self._ciphering)
        self._exchange = None
        self._accept(self.established)

    # ------------------------------------------------------------------------------------------------------- states

    def _break(self, error: DlmsError) -> None:
        self._step(Event.BREAK)
        self._exchange = None
        self._output.clear()
        self._events.append(AssociationFailed(error))


_ANSWERS = frozenset((Apdu.AARE, Apdu.GET_RESPONSE, Apdu.SET_RESPONSE, Apdu.ACTION_RESPONSE, Apdu.ACCESS_RESPONSE))
_ALWAYS_PLAIN = frozenset((Apdu.AARE, Apdu.RLRE, Apdu.EXCEPTION_RESPONSE, Apdu.CONFIRMED_SERVICE_ERROR))


def _reply(answer: Answer) -> tuple[str | None, object]:
    """Why the server refused our proof, and None; or None, and the value that it returned."""
    if isinstance(answer, ActionAnswer):
        (outcome,) = answer.outcomes
        return (None if outcome.code == 0 else outcome.text), outcome.returned
    if isinstance(answer, GetAnswer):  # by short names
        (result,) = answer.results()
        return (result.text, None) if isinstance(result, AccessError) else (None, result)
    raise PeerError("something else than the answer to our proof came")


def _ciphering(security: Security | None) -> Ciphering | None:
    if security is None:
        return None
    from dlms.security.ciphering import Ciphering

    return Ciphering(security)
