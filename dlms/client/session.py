"""A meter session, sans-IO: a data link, an association over it, and a planner that reads attributes.

The contract is that of every core here:

    session = MeterSession(link, client=1, server=1, auth=Lls(secret), known=known)
    session.read(refs, now)              # or open, request, close; a read or request opens the session if needed
    while True:
        while output := session.take_output():
            port.write(output)           # a stream; over a packet link one packet per call
        while (event := session.next_event()) is not None:
            ...                          # SessionOpened, ItemRead, ReadDone, Replied, SessionClosed, SessionFailed
        ...                              # whatever was called meanwhile may have output: write it before waiting
        data = port.read(until=session.next_deadline())
        session.receive(data, now)       # or on_deadline(now) when the deadline has come, or receive_eof(now)

An event is final when it is returned. How often and in which order `take_output` and `next_event` are called makes no
difference to the octets sent, the events, or their order, as long as both have returned nothing before the driver
waits.

While an answer to a `read` is decoded, the meter already works on the next request: `receive` only issues that request,
and the answer is decoded once the driver has taken it, or asks for an event (`_settle`).

Events come in the order of the calls: for `read` an `ItemRead` per attribute in the order answered, then `ReadDone`;
for `request` one `Replied`. A failure of link or association is one `SessionFailed`; attributes not read by then have
no event. A session stays open until `close` and is used once: after `SessionClosed` or `SessionFailed` make a new one,
with the same `MeterKnowledge`.

Over a link that loses packets (`LinkUp.may_repeat`), a session with a `round_trip` repeats a request that is not
answered within the timeout learned there, a bounded number of times, and only if `Association.repeat` allows it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING

from dlms.client.association import (
    Answered,
    Association,
    AssociationEvent,
    AssociationFailed,
    Established,
    Notified,
    Proposal,
    Released,
    RequestRefused,
    ServiceRefused,
)
from dlms.client.events import (
    ItemError,
    ItemRead,
    ReadDone,
    Replied,
    SessionClosed,
    SessionEvent,
    SessionFailed,
    SessionOpened,
    Value,
)
from dlms.client.knowledge import MeterKnowledge
from dlms.client.planner import Limits, ReadJob
from dlms.codes import LN_CLIENT_CONFORMANCE, SN_CLIENT_CONFORMANCE, Conformance, DataAccessResult
from dlms.cosem.obis import AttributeRef
from dlms.cosem.scaler_unit import scaler_unit
from dlms.errors import DlmsError, LinkError, LocalError, PeerError
from dlms.link.datalink import ApduReceived, DataLink, LinkEvent, LinkUp, beside
from dlms.link.roundtrip import NodeRoundTrip
from dlms.security.settings import Auth, NoAuth, Security
from dlms.statemachine import Stateful, Transitions
from dlms.xdlms.acse import PDU_UNLIMITED
from dlms.xdlms.apdu.common import AccessError, Item, Result
from dlms.xdlms.exchange import Answer, Exchange, GetAnswer, GetExchange

if TYPE_CHECKING:
    from dlms.xdlms.exchange_sn import SnReadExchange

_UNDEFINED = ItemError(DataAccessResult.OBJECT_UNDEFINED.text)
_PASSING = (DataAccessResult.HARDWARE_FAULT, DataAccessResult.TEMPORARY_FAILURE, DataAccessResult.OTHER_REASON)
"""Results that may be different next time, and teach nothing about the meter."""
_UNKNOWN_NOW = (DataAccessResult.HARDWARE_FAULT, DataAccessResult.TEMPORARY_FAILURE)
"""Those for which a scaler will be known; some meters have `other-reason` for what they will never tell."""

RESPONSE_TIMEOUT_S = 300.0  # longer than any link takes to give up: a safeguard, and the limit of links that never do


class State(Enum):
    """The state of link and association together."""

    IDLE = auto()
    CONNECTING = auto()
    ASSOCIATING = auto()
    OPEN = auto()
    RELEASING = auto()
    DISCONNECTING = auto()
    CLOSED = auto()


class Event(Enum):
    """What changes the state."""

    OPEN = auto()
    LINK_UP = auto()
    ESTABLISHED = auto()
    RELEASE = auto()
    DISCONNECT = auto()
    LINK_DOWN = auto()


TRANSITIONS: Transitions[State, Event] = Transitions(
    {
        (State.IDLE, Event.OPEN): State.CONNECTING,
        (State.IDLE, Event.LINK_DOWN): State.CLOSED,
        (State.CONNECTING, Event.LINK_UP): State.ASSOCIATING,
        (State.CONNECTING, Event.DISCONNECT): State.DISCONNECTING,
        (State.CONNECTING, Event.LINK_DOWN): State.CLOSED,
        (State.ASSOCIATING, Event.ESTABLISHED): State.OPEN,
        (State.ASSOCIATING, Event.DISCONNECT): State.DISCONNECTING,
        (State.ASSOCIATING, Event.LINK_DOWN): State.CLOSED,
        (State.OPEN, Event.RELEASE): State.RELEASING,
        (State.OPEN, Event.DISCONNECT): State.DISCONNECTING,
        (State.OPEN, Event.LINK_DOWN): State.CLOSED,
        (State.RELEASING, Event.DISCONNECT): State.DISCONNECTING,
        (State.RELEASING, Event.LINK_DOWN): State.CLOSED,
        (State.DISCONNECTING, Event.LINK_DOWN): State.CLOSED,
    }
)


@dataclass(frozen=True, slots=True)
class _Undecoded:
    """A complete answer that is decoded while the meter works on the next request."""

    job: ReadJob
    refs: tuple[AttributeRef, ...]
    answer: GetAnswer


class MeterSession(Stateful[State, Event]):
    """One association with one meter, from connecting the link to its end.

    `client` and `server` are the SAPs, which `link` was made for. `auth`, `security`, `conformance` and `pdu_size`
    (octets) are proposed for the association. `known` is what earlier sessions learned about the meter; this session
    adds to it. `response_timeout_s` bounds the wait for an answer over links that have no timeout of their own.
    `round_trip` is what is known of the time that this meter's answers take, see above. `unasked` is shown each APDU
    first, and says whether it has taken it: for whoever collects the notifications of all sessions.
    """

    def __init__(
        self,
        link: DataLink,
        *,
        client: int,
        server: int,
        auth: Auth | None = None,
        security: Security | None = None,
        pdu_size: int = 1024,
        known: MeterKnowledge | None = None,
        conformance: Conformance | None = None,
        short_names: bool = False,
        response_timeout_s: float = RESPONSE_TIMEOUT_S,
        round_trip: NodeRoundTrip | None = None,
        unasked: Callable[[bytes], bool] | None = None,
    ) -> None:
        self.client = client
        self.server = server
        super().__init__(State.IDLE, TRANSITIONS)
        self.known = MeterKnowledge() if known is None else known
        self._link = link
        self._response_timeout_s = response_timeout_s
        self._round_trip = round_trip
        self._unasked = unasked
        self._short_names = short_names
        if conformance is None:
            conformance = SN_CLIENT_CONFORMANCE if short_names else LN_CLIENT_CONFORMANCE
        self._proposal = Proposal(
            NoAuth() if auth is None else auth, security, pdu_size, conformance, short_names=short_names
        )
        self._association = Association(self._proposal)
        self._link_up = LinkUp(0)
        self._jobs: deque[ReadJob | Exchange] = deque()  # the first one is being worked on
        self._events: deque[SessionEvent] = deque()
        self._undecoded: _Undecoded | None = None
        self._finishing = False
        self._failure: DlmsError | None = None
        self._deadline: float | None = None
        self._asked_at: list[float] = []  # when the request that waits for its answer was sent, each time
        self._now = 0.0

    # ---------------------------------------------------------------------------------------------------- requests

    def open(self, now: float) -> None:
        """Connect and associate. Does nothing when that has begun. Raises `LocalError` after the session has ended."""
        if self._state is State.CLOSED:
            raise LocalError("the session is over; make a new one")
        if self._state is not State.IDLE:
            return
        self._now = now
        self._step(Event.OPEN)
        self._arm()
        self._link.connect(now)
        self._pump()

    def read(self, refs: Sequence[AttributeRef], now: float) -> None:
        """Read `refs`, each once, after what is queued already. Raises `LocalError` when closing or closed."""
        self._add(ReadJob(refs, self.known), now)

    def request(self, exchange: Exchange, now: float) -> None:
        """Queue one service of `dlms.xdlms.exchange`; a `Replied` follows.

        Raises `LocalError` when the session is closing or closed.
        """
        self._add(exchange, now)

    def close(self, now: float) -> None:
        """Release and disconnect; unanswered requests are dropped. Does nothing when that has begun."""
        self._now = now
        self._settle()
        self._jobs.clear()
        if self._state is State.IDLE:
            self._step(Event.LINK_DOWN)
            self._events.append(SessionClosed())
        elif self._state in (State.CONNECTING, State.ASSOCIATING):
            self._disconnect()
        elif self._state is State.OPEN:
            self._release()
        self._pump()

    def finish(self, now: float) -> None:
        """Close as soon as the request in flight is answered, with its events; what is queued behind it is dropped.

        A request whose answer nobody waits for would still have the line, on a link where one side speaks at a time.
        """
        self._now = now
        self._settle()
        if self._state is State.OPEN and self._association.busy:
            self._finishing = True
        else:
            self.close(now)

    @property
    def request_octets(self) -> int:
        """The longest request that fits one APDU, in octets. Raises `LocalError` before the session is open."""
        return min(self._association.established.pdu_size, self._link_up.apdu_bytes_max)

    @property
    def overdue(self) -> bool:
        """Whether the request in flight was repeated, because the meter did not answer within its learned timeout."""
        return len(self._asked_at) > 1

    def packet_lost(self, now: float) -> None:
        """The last packet is known not to have arrived: repeat or give up now, without waiting for the timeout."""
        self._now = now
        self._settle()
        if self._asked_at and self._state is not State.CLOSED:
            self._no_answer(LinkError("the packet was not delivered"))

    def aside(self, apdu: bytes = b"") -> None:
        """What came last was a notification, so that an answer is still to come; `apdu`, as it is, goes beside that.
        None goes over a link that cannot (`dlms.link.datalink.SpeaksBeside`), or that is down."""
        link = beside(self._link)
        if link is None:
            return
        if apdu:
            with contextlib.suppress(LocalError):
                link.say(apdu, self._now)
        if self._asked_at:
            link.still_due(self._now)

    def protected(self, apdu: bytes) -> bytes:
        """`apdu` as this association protects what it sends. Raises `LocalError` as `Association.protected`."""
        return self._association.protected(apdu)

    @property
    def peer_title(self) -> bytes:
        """The meter's system title, in a session with keys; empty while it is not known."""
        return self._association.peer_title

    # ------------------------------------------------------------------------------------------- the sans-IO contract

    def receive(self, data: bytes, now: float) -> None:
        """Take octets: any piece of a stream, or one packet of a packet link. Never raises because of their
        contents."""
        self._now = now
        self._link.receive(data, now)
        self._pump()

    def receive_eof(self, now: float) -> None:
        """Note that the port has reached its end: nothing more will come."""
        self._now = now
        self._link.receive_eof(now)
        self._pump()

    def take_output(self) -> bytes:
        """Octets to send; b"" when there are none until something else happens."""
        output = self._link.take_output()
        if not output and self._undecoded is not None:  # the early request is on its way: now there is time to decode
            self._settle()
            output = self._link.take_output()
        return output

    def next_event(self) -> SessionEvent | None:
        """The next event; None when there is none until something else happens."""
        if not self._events:
            self._settle()
        return self._events.popleft() if self._events else None

    def next_deadline(self) -> float | None:
        """When `on_deadline` is due, on the clock of `now`; None for never."""
        self._settle()
        below = self._link.next_deadline()
        if self._deadline is None or (below is not None and below <= self._deadline):
            return below
        return self._deadline

    def on_deadline(self, now: float) -> None:
        """Handle timeouts at the time of `next_deadline`. Does nothing before."""
        self._now = now
        self._settle()
        below = self._link.next_deadline()
        if below is not None and below <= now:
            self._link.on_deadline(now)
        self._pump()
        if self._deadline is not None and self._deadline <= now:
            waited_s = now - self._asked_at[0] if self._asked_at else self._response_timeout_s
            self._no_answer(LinkError(f"no answer within {waited_s:g} s"))

    def _no_answer(self, error: LinkError) -> None:
        """Ask again where that is safe and has not been done too often; otherwise give up with `error`."""
        if self._round_trip is not None and self._may_repeat:
            self._round_trip.expired()
            if self._may_ask_again(self._round_trip):
                self._association.repeat()
                self._asked_at.append(self._now)
                self._flush(again=True)
                self._pump()
                return
        if self._state is State.DISCONNECTING:
            self._end(self._failure or error)
        else:
            self._fail(error)
            self._pump()

    # ------------------------------------------------------------------------------------------------------- events

    def _pump(self) -> None:
        while True:
            event = self._link.next_event()
            if event is None:
                return
            self._on_link(event)

    def _on_link(self, event: LinkEvent) -> None:
        self._decode()  # events keep the order in which their causes arrived
        if self._state in (State.IDLE, State.CLOSED):
            return
        if isinstance(event, ApduReceived):
            if self._unasked is not None and self._unasked(event.apdu):
                return
            if self._state is not State.DISCONNECTING:
                self._association.receive_apdu(event.apdu)
                self._flush()
        elif isinstance(event, LinkUp):
            if self._state is State.CONNECTING:
                self._link_up = event
                self._step(Event.LINK_UP)
                size = min(self._proposal.pdu_size, event.apdu_bytes_max)
                self._association = Association(
                    replace(self._proposal, pdu_size=size),
                    may_repeat=event.may_repeat,
                    invoke_id=(self.known.invoke_id or 0) if event.may_repeat else 0,
                )
                self._association.associate()
                self._flush()
        elif event.error is not None and self._state is not State.DISCONNECTING:
            self._end(event.error)
        elif self._state is State.DISCONNECTING:
            self._end(self._failure)
        else:
            self._end(LinkError("the meter disconnected"))

    def _flush(self, *, again: bool = False) -> None:
        """Handle the association's events, then send its APDUs; `again` when they repeat what got no answer."""
        while (event := self._association.next_event()) is not None:
            self._on_association(event)
        while apdu := self._association.take_output():
            if not again:  # the next block is asked for, so the one before has come
                self._answer_came(self._association.answered_asking)
                self._asked_at = [self._now]
            self._link.send(apdu, self._now)
            self._arm()
        self.known.invoke_id = self._association.invoke_id

    def _answer_came(self, asking: int | None) -> None:
        """What was asked last is answered. How long that took is worth knowing if it was asked once, or if it is known
        which asking was answered."""
        if asking is None and len(self._asked_at) == 1:
            asking = 0
        if asking is not None and asking < len(self._asked_at) and self._round_trip is not None and self._may_repeat:
            self._round_trip.measured(self._now - self._asked_at[asking])
        self._asked_at = []

    @property
    def _may_repeat(self) -> bool:
        return self._link_up.may_repeat

    def _on_association(self, event: AssociationEvent) -> None:
        if isinstance(event, Notified):
            self._events.append(event)
            self.aside()
            return
        self._deadline = None
        self._answer_came(self._association.answered_asking if isinstance(event, Answered) else None)
        if isinstance(event, Established):
            self._established()
        elif isinstance(event, Answered):
            if self._state is State.ASSOCIATING:
                self._names_read(event.answer)
                return
            self._answered(event.answer)
            self._next_request()
        elif isinstance(event, RequestRefused):
            if self._state is State.ASSOCIATING:
                self._fail(event.error)
                return
            self._excepted(event.error)
            self._next_request()
        elif isinstance(event, Released):
            if self._state is State.RELEASING:
                self._disconnect()
        elif isinstance(event, AssociationFailed):
            if self._state is not State.DISCONNECTING:
                self._fail(event.error)

    def _established(self) -> None:
        """The association is up. With short names, first read the meter's list of them, unless it is known."""
        if self._short_names and self.known.short_names is None:
            from dlms.cosem.associations import OBJECT_LIST
            from dlms.cosem.short_names import association_names
            from dlms.xdlms.exchange_sn import SnReadExchange

            self._association.request(SnReadExchange((Item(OBJECT_LIST),), association_names()))
            return
        established = self._association.established
        self._step(Event.ESTABLISHED)
        self._events.append(SessionOpened(established.conformance, established.pdu_size))
        self._next_request()

    def _names_read(self, answer: Answer) -> None:
        from dlms.cosem.short_names import names_of

        try:
            (result,) = answer.results() if isinstance(answer, GetAnswer) else (AccessError(250),)
            if isinstance(result, AccessError):
                raise PeerError(f"the list of short names: {result.text}")
            self.known.short_names = names_of(result)
        except DlmsError as error:
            self._fail(error)
            return
        self._established()

    def reading(self, items: tuple[Item, ...]) -> GetExchange | SnReadExchange:
        """The exchange that reads `items`. Raises `LocalError` for an item without a short name where those are
        used."""
        if not self._short_names:
            return GetExchange(items)
        from dlms.xdlms.exchange_sn import SnReadExchange

        return SnReadExchange(items, self.known.short_names or {})

    # ---------------------------------------------------------------------------------------------------- requests

    def _add(self, job: ReadJob | Exchange, now: float) -> None:
        self._now = now
        self._settle()
        if self._state in (State.RELEASING, State.DISCONNECTING, State.CLOSED):
            raise LocalError(f"the session is {self._state.name.lower()}")
        self._jobs.append(job)
        self.open(now)
        if self._state is State.OPEN and len(self._jobs) == 1:
            self._next_request()
            self._flush()
            self._pump()

    def _next_request(self) -> None:
        """Send the next request, if there is one; the answer to the last one may still be undecoded."""
        if self._finishing and self._state is State.OPEN:
            if self._undecoded is None:  # else it is decoded first, which comes back here
                self._jobs.clear()
                self._release()
            return
        while self._jobs and self._state is State.OPEN:
            job = self._jobs[0]
            if not isinstance(job, ReadJob):
                self._association.request(job)
                return
            refs = job.take(self._limits())
            if refs:
                if self._request_items(job, refs):
                    return
                continue
            if self._undecoded is not None:
                return  # its last answer: if it is malformed, the job asks again and is not done
            self._jobs.popleft()
            self._events.extend([ItemRead(ref, _UNDEFINED) for ref in job.undefined])
            self._events.append(ReadDone())

    def _request_items(self, job: ReadJob, refs: tuple[AttributeRef, ...]) -> bool:
        """Request `refs`. Where short names are in use, those without one are undefined without asking."""
        names = self.known.short_names
        if self._short_names and names is not None:
            job.undefined += [ref for ref in refs if ref in job.wanted and (ref.class_id, ref.obis) not in names]
            job.in_flight = refs = tuple([ref for ref in refs if (ref.class_id, ref.obis) in names])
        if refs:
            self._association.request(self.reading(tuple([Item(ref) for ref in refs])))
        return bool(refs)

    def _limits(self) -> Limits:
        established = self._association.established
        most = self._link_up.apdu_bytes_max
        burst = max(self._link_up.apdu_bytes_hint, self._link_up.apdu_bytes_burst) or PDU_UNLIMITED
        return Limits(
            request=min(established.pdu_size, burst, most),
            answer=min(self._proposal.pdu_size, burst, most),
            lists=bool(established.conformance & Conformance.MULTIPLE_REFERENCES),
        )

    def _answered(self, answer: Answer) -> None:
        if not self._jobs:
            return
        job = self._jobs[0]
        if not isinstance(job, ReadJob):
            self._jobs.popleft()
            self._events.append(Replied(answer))
        elif isinstance(answer, GetAnswer):
            self._undecoded = _Undecoded(job, job.in_flight, answer)
            job.in_flight = ()

    def _excepted(self, error: PeerError) -> None:
        if not self._jobs:
            return
        job = self._jobs[0]
        if not isinstance(job, ReadJob):
            self._jobs.popleft()
            self._events.append(Replied(error))
            return
        if len(job.in_flight) > 1:
            outright = isinstance(error, ServiceRefused) and error.unsupported
            self.known.list_refused(len(job.in_flight), outright=outright)
            job.put_back(job.in_flight)
            return
        code = error.code if isinstance(error, ServiceRefused) else "other-reason"
        for ref in job.in_flight:
            job.answered(ref)
            self._item(job, ref, ItemError(code))

    # ------------------------------------------------------------------------------------------------------- answers

    def _settle(self) -> None:
        """Decode the answer that is not decoded yet, with all that follows from it."""
        if self._undecoded is not None:
            self._decode()
            self._flush()
            self._pump()

    def _decode(self) -> None:
        if self._undecoded is None:
            return
        job, refs, answer = self._undecoded.job, self._undecoded.refs, self._undecoded.answer
        self._undecoded = None
        try:
            results = answer.results()
        except DlmsError as error:
            if len(refs) == 1:
                self._fail(error)
                return
            # Not the answer that the standard prescribes for a list: this meter gets shorter lists, in the end none.
            self.known.list_refused(len(refs), outright=False)
            job.put_back(refs)
        else:
            if len(refs) > 1:
                self.known.lists_work = True
            early = []
            for ref, result in zip(refs, results, strict=True):
                if job.is_early(ref):
                    early.append(ref)
                else:
                    self._result(job, ref, result)
            job.values.put_back(early)
        if not self._association.busy:
            self._next_request()

    def _result(self, job: ReadJob, ref: AttributeRef, result: Result) -> None:
        if isinstance(result, AccessError):
            if result.code == DataAccessResult.OBJECT_UNDEFINED:
                self.known.undefined.add(ref)
            if ref in job.missing:
                if result.code not in _PASSING:
                    self.known.scalers[ref] = None
                job.answered(ref, result.text if result.code in _UNKNOWN_NOW else "")
            self._item(job, ref, ItemError(result.text))
            return
        self.known.sizes[ref] = 1 + len(result.emit())
        if ref in job.missing:
            self.known.scalers[ref] = scaler_unit(result)
            job.answered(ref)
        if unknown := job.without_scaler(ref):
            self._item(job, ref, ItemError(unknown))  # without its scaler it may be anything
            return
        scaler = self.known.scaler_of(ref)
        value = Value(result) if scaler is None else Value(result, scaler.scaler, scaler.unit)
        self._item(job, ref, value)

    def _item(self, job: ReadJob, ref: AttributeRef, result: Value | ItemError) -> None:
        if ref in job.wanted:
            self._events.append(ItemRead(ref, result))

    # ---------------------------------------------------------------------------------------------------------- end

    def _release(self) -> None:
        if self._link_up.ends_association:
            self._disconnect()
            return
        self._step(Event.RELEASE)
        self._association.release()
        self._flush()

    def _disconnect(self) -> None:
        self._step(Event.DISCONNECT)
        self._arm()
        self._link.disconnect(self._now)

    def _fail(self, error: DlmsError) -> None:
        """Give up, but disconnect the link first: otherwise the meter's side would stay connected."""
        if self._state in (State.DISCONNECTING, State.CLOSED):
            return
        self._note_loss(error)
        self._failure = error
        self._jobs.clear()
        self._disconnect()

    def _end(self, error: DlmsError | None) -> None:
        if error is not None:
            self._note_loss(error)
        self._step(Event.LINK_DOWN)
        self._jobs.clear()
        self._deadline = None
        self._association.break_off(error or LinkError("disconnected"))
        if isinstance(error, LinkError) and self._association.replayed is not None:
            error = self._association.replayed  # the meter was not silent: its counter has gone back, or it is not it
        self._events.append(SessionClosed() if error is None else SessionFailed(error))

    def _note_loss(self, error: DlmsError) -> None:
        if self._jobs and isinstance(error, LinkError):
            job = self._jobs[0]
            if isinstance(job, ReadJob) and len(job.in_flight) > 1:
                self.known.list_lost()

    def _arm(self) -> None:
        self._deadline = self._now + self._wait_s()

    def _wait_s(self) -> float:
        """How long to wait for what was sent now, in seconds.

        What may be asked again, and the release, which nothing depends on, wait as long as was learned. What may not,
        and what was asked often enough, gets the longest time that an answer may take.
        """
        learned = self._round_trip
        if learned is None or not self._may_repeat or self._state is State.DISCONNECTING:
            return self._response_timeout_s
        if self._may_ask_again(learned) or self._state is State.RELEASING:
            return learned.timeout_s
        return max(learned.timeout_s, learned.longest_s - self._waited_s)

    def _may_ask_again(self, learned: NodeRoundTrip) -> bool:
        """Whether a request without an answer is repeated: not too often, and not when an answer is due no more."""
        enough = len(self._asked_at) > learned.repeats_max or self._waited_s >= learned.longest_s
        return not enough and self._association.may_ask_again

    @property
    def _waited_s(self) -> float:
        return self._now - self._asked_at[0] if self._asked_at else 0.0
