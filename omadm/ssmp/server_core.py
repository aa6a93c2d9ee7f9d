"""The security server's side of SSMP, sans-IO: one session, and the table of sessions in progress.

    CHALLENGED --AUTH--> AUTHENTICATED --provide--> BOOTSTRAPPED --CONFIRM--> CONFIRMED --acknowledge--> DONE

A HELLO opens a session whether or not the device is known; an unknown one gets a substitute key, so that both cost and
look the same up to the refusal. Proofs are compared in constant time. A message out of order (such as a replay) is
refused and changes nothing; a wrong proof ends the session.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from omadm.ssmp import wire
from omadm.ssmp.crypto import SessionKeys, Transcript, equal
from omadm.ssmp.errors import SsmpRefused, SsmpUsageError
from omadm.transitions import Transitions

SESSION_S = 60.0  # from HELLO to DONE
SESSIONS_MAX = 1000  # in progress at a time; each takes a few hundred bytes

REFUSED_TEXT = "the device is not known here or did not prove itself"
EXPIRED_TEXT = "no such session, or it has expired"
ORDER_TEXT = "this message is not due"
FULL_TEXT = "too many registrations at this moment"


class State(Enum):
    """Where the registration of one device stands."""

    CHALLENGED = auto()
    AUTHENTICATED = auto()
    BOOTSTRAPPED = auto()
    CONFIRMED = auto()
    DONE = auto()
    FAILED = auto()


class Event(Enum):
    """What moves the registration of one device on."""

    AUTH = auto()
    PROVIDE = auto()
    CONFIRM = auto()
    ACKNOWLEDGE = auto()
    FAILURE = auto()


TRANSITIONS = Transitions(
    {
        (State.CHALLENGED, Event.AUTH): State.AUTHENTICATED,
        (State.AUTHENTICATED, Event.PROVIDE): State.BOOTSTRAPPED,
        (State.BOOTSTRAPPED, Event.CONFIRM): State.CONFIRMED,
        (State.CONFIRMED, Event.ACKNOWLEDGE): State.DONE,
        (State.CHALLENGED, Event.FAILURE): State.FAILED,
        (State.AUTHENTICATED, Event.FAILURE): State.FAILED,
        (State.BOOTSTRAPPED, Event.FAILURE): State.FAILED,
        (State.CONFIRMED, Event.FAILURE): State.FAILED,
    },
    SsmpUsageError,
)


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The device is authenticated: make its bootstrap document, and call `provide`."""

    device_id: str
    info: wire.RegistrationInfo


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The device has the document: put the account in force durably, and call `acknowledge`."""

    device_id: str
    info: wire.RegistrationInfo


ServerEvent = Authenticated | Confirmed


class ServerSession:
    """One registration in progress."""

    def __init__(
        self, session: bytes, server_nonce: bytes, hello: bytes, key: bytes, *, known: bool, now: float
    ) -> None:
        """`hello` is the HELLO as received; `key` is the device's, or a substitute when not `known`. Raises `SsmpError`
        for an invalid HELLO."""
        message = wire.parse(hello)
        if not isinstance(message, wire.Hello):
            raise SsmpUsageError("a session begins with HELLO")
        challenge = wire.Challenge(session, server_nonce).emit()
        self.session = session
        self.device_id = message.device_id
        self._keys = SessionKeys(key, message.client_nonce, server_nonce)
        self._known = known
        self._deadline = now + SESSION_S
        self._state = State.CHALLENGED
        self._info = wire.RegistrationInfo("", "", "", "", "", "")  # until AUTH says
        self._transcript = Transcript()
        self._transcript.add(hello)
        self._transcript.add(challenge)
        self._output = [challenge]
        self._events: list[ServerEvent] = []

    @property
    def state(self) -> State:
        return self._state

    @property
    def over(self) -> bool:
        return self._state in (State.DONE, State.FAILED)

    def receive(self, data: bytes, now: float) -> None:
        """Take one whole message. Raises `SsmpRefused` (the answer to send) or `SsmpWireError`."""
        self.on_deadline(now)
        message = wire.parse(data)
        match message:
            case wire.Auth() if self._state is State.CHALLENGED:
                self._on_auth(message, data)
            case wire.Confirm() if self._state is State.BOOTSTRAPPED:
                self._on_confirm(message, data)
            case _ if self._state is State.FAILED:
                raise SsmpRefused(wire.ErrorCode.EXPIRED, EXPIRED_TEXT)
            case _:
                raise SsmpRefused(wire.ErrorCode.OUT_OF_ORDER, ORDER_TEXT)

    def provide(self, document: bytes) -> None:
        """Seal and send the bootstrap document, after `Authenticated`. Raises `SsmpUsageError`."""
        self._move(Event.PROVIDE)
        sealed = self._keys.seal(document, self._transcript.digest())
        unsigned = wire.Bootstrap(self.session, sealed, bytes(wire.MAC_BYTES)).emit()
        self._transcript.add(wire.unproven(unsigned))
        mac = self._keys.server_mac(self._transcript.digest())
        self._output.append(wire.Bootstrap(self.session, sealed, mac).emit())

    def acknowledge(self) -> None:
        """Tell the device that its account is in force, after `Confirmed`. Raises `SsmpUsageError`."""
        self._move(Event.ACKNOWLEDGE)
        unsigned = wire.Done(self.session, bytes(wire.MAC_BYTES)).emit()
        self._transcript.add(wire.unproven(unsigned))
        self._output.append(wire.Done(self.session, self._keys.done_mac(self._transcript.digest())).emit())

    def abort(self) -> None:
        """End the session, because the server cannot continue it."""
        if not self.over:
            self._move(Event.FAILURE)

    def take_output(self) -> bytes:
        return self._output.pop(0) if self._output else b""

    def next_event(self) -> ServerEvent | None:
        return self._events.pop(0) if self._events else None

    def next_deadline(self) -> float | None:
        return None if self.over else self._deadline

    def on_deadline(self, now: float) -> None:
        if now >= self._deadline:
            self.abort()

    def _on_auth(self, message: wire.Auth, data: bytes) -> None:
        self._transcript.add(wire.unproven(data))
        proven = equal(message.mac, self._keys.device_mac(self._transcript.digest()))
        if not (proven and self._known):
            self._move(Event.FAILURE)
            raise SsmpRefused(wire.ErrorCode.REFUSED, REFUSED_TEXT)
        self._info = message.info
        self._move(Event.AUTH)
        self._events.append(Authenticated(self.device_id, message.info))

    def _on_confirm(self, message: wire.Confirm, data: bytes) -> None:
        self._transcript.add(wire.unproven(data))
        if not equal(message.mac, self._keys.confirm_mac(self._transcript.digest())):
            self._move(Event.FAILURE)
            raise SsmpRefused(wire.ErrorCode.REFUSED, REFUSED_TEXT)
        self._move(Event.CONFIRM)
        self._events.append(Confirmed(self.device_id, self._info))

    def _move(self, event: Event) -> None:
        self._state = TRANSITIONS.after(self._state, event)


class SessionTable:
    """The sessions in progress, at most `SESSIONS_MAX`; finished and expired ones are removed."""

    def __init__(self, random_bytes: Callable[[int], bytes], *, sessions_max: int = SESSIONS_MAX) -> None:
        self._random_bytes = random_bytes
        self._sessions_max = sessions_max
        self._sessions: dict[bytes, ServerSession] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, hello: bytes, key: bytes, *, known: bool, now: float) -> ServerSession:
        """Open a session for a HELLO. Raises `SsmpRefused` when the table is full."""
        self.on_deadline(now)
        if len(self._sessions) >= self._sessions_max:
            raise SsmpRefused(wire.ErrorCode.UNAVAILABLE, FULL_TEXT)
        identifier = self._random_bytes(wire.SESSION_BYTES)
        session = ServerSession(identifier, self._random_bytes(wire.NONCE_BYTES), hello, key, known=known, now=now)
        self._sessions[identifier] = session
        return session

    def find(self, identifier: bytes, now: float) -> ServerSession:
        """The session of a message. Raises `SsmpRefused` when there is none."""
        self.on_deadline(now)
        session = self._sessions.get(identifier)
        if session is None:
            raise SsmpRefused(wire.ErrorCode.EXPIRED, EXPIRED_TEXT)
        return session

    def forget_finished(self, session: ServerSession) -> None:
        if session.over:
            self._sessions.pop(session.session, None)

    def next_deadline(self) -> float | None:
        return min((session.next_deadline() or 0.0 for session in self._sessions.values()), default=None)

    def on_deadline(self, now: float) -> None:
        """Drop expired sessions. They are in the order of their deadlines, so this stops at the first live one."""
        while self._sessions:
            oldest = next(iter(self._sessions.values()))
            oldest.on_deadline(now)
            if not oldest.over:
                return
            del self._sessions[oldest.session]
