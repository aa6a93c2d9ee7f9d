"""The device's side of SSMP, sans-IO.

    IDLE --start--> HELLO_SENT --CHALLENGE--> AUTH_SENT --BOOTSTRAP--> CONFIRM_SENT --DONE--> REGISTERED

The server's proof is checked before the document is opened, and the document is returned only after DONE: before that,
the account is not in force at the server. An ERROR ends the attempt in every state that waits for an answer; so do a
wrong proof and a message out of order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from omadm.ssmp import wire
from omadm.ssmp.crypto import SessionKeys, Transcript, equal
from omadm.ssmp.errors import SsmpError, SsmpRefused, SsmpUsageError
from omadm.transitions import Transitions

REGISTRATION_TIMEOUT_S = 60.0  # three round trips; the server forgets a session after the same time


class State(Enum):
    """Where an attempt to register stands."""

    IDLE = auto()
    HELLO_SENT = auto()
    AUTH_SENT = auto()
    CONFIRM_SENT = auto()
    REGISTERED = auto()
    FAILED = auto()


class Event(Enum):
    """What moves an attempt to register on."""

    START = auto()
    CHALLENGE = auto()
    BOOTSTRAP = auto()
    DONE = auto()
    FAILURE = auto()


TRANSITIONS = Transitions(
    {
        (State.IDLE, Event.START): State.HELLO_SENT,
        (State.HELLO_SENT, Event.CHALLENGE): State.AUTH_SENT,
        (State.AUTH_SENT, Event.BOOTSTRAP): State.CONFIRM_SENT,
        (State.CONFIRM_SENT, Event.DONE): State.REGISTERED,
        (State.HELLO_SENT, Event.FAILURE): State.FAILED,
        (State.AUTH_SENT, Event.FAILURE): State.FAILED,
        (State.CONFIRM_SENT, Event.FAILURE): State.FAILED,
    },
    SsmpUsageError,
)


@dataclass(frozen=True, slots=True)
class Registered:
    """Both ends are authenticated; `document` is the bootstrap document, which contains secrets."""

    document: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RegistrationFailed:
    """The attempt has failed. The type of `error` says whose fault it is."""

    error: SsmpError


ClientEvent = Registered | RegistrationFailed


class SsmpClient:
    """One registration attempt. Time is monotonic seconds; randomness is an argument."""

    def __init__(self, device_id: str, key: bytes, info: wire.RegistrationInfo, client_nonce: bytes) -> None:
        """Prepare the attempt of `device_id`, whose symmetric key is `key`, with a fresh `client_nonce`.

        Raises `SsmpUsageError` for a key, id or nonce that cannot be sent.
        """
        self._hello = wire.Hello(device_id, client_nonce)
        SessionKeys(key, client_nonce, bytes(wire.NONCE_BYTES))  # refuses a key of the wrong size now, not half-way
        self._key = key
        self._info = info
        self._state = State.IDLE
        self._transcript = Transcript()
        self._keys: SessionKeys | None = None
        self._session = b""
        self._document = b""
        self._output: list[bytes] = []
        self._events: list[ClientEvent] = []
        self._deadline: float | None = None

    @property
    def state(self) -> State:
        return self._state

    def start(self, now: float) -> None:
        """Send HELLO. Raises `SsmpUsageError` when the attempt was started already."""
        self._move(Event.START)
        data = self._hello.emit()
        self._transcript.add(data)
        self._output.append(data)
        self._deadline = now + REGISTRATION_TIMEOUT_S

    def receive(self, data: bytes, now: float) -> None:
        """Take one whole message of the server. A bad one ends the attempt: see `next_event`."""
        del now
        if self._deadline is None:
            return  # before the start and after the end, messages change nothing
        try:
            self._take(wire.parse(data), data)
        except SsmpError as error:
            self._fail(error)

    def receive_eof(self, now: float) -> None:
        """Fail, because the transport ended before the attempt did."""
        del now
        if self._deadline is not None:
            self._fail(SsmpError("the security server closed the connection"))

    def take_output(self) -> bytes:
        """The message to send now, whole; empty when none is due."""
        return self._output.pop(0) if self._output else b""

    def next_event(self) -> ClientEvent | None:
        return self._events.pop(0) if self._events else None

    def next_deadline(self) -> float | None:
        return self._deadline

    def on_deadline(self, now: float) -> None:
        if self._deadline is not None and now >= self._deadline:
            self._fail(SsmpError(f"no registration within {REGISTRATION_TIMEOUT_S:.0f} s"))

    def _take(self, message: wire.Message, data: bytes) -> None:
        match message:
            case wire.Error():
                raise SsmpRefused(message.code, message.text)
            case wire.Challenge() if self._state is State.HELLO_SENT:
                self._on_challenge(message, data)
            case wire.Bootstrap() if self._state is State.AUTH_SENT:
                self._on_bootstrap(message, data)
            case wire.Done() if self._state is State.CONFIRM_SENT:
                self._on_done(message, data)
            case _:
                raise SsmpError(f"the server sent {message.type.name} while {self._state.name}")

    def _on_challenge(self, message: wire.Challenge, data: bytes) -> None:
        self._transcript.add(data)
        self._session = message.session
        self._keys = SessionKeys(self._key, self._hello.client_nonce, message.server_nonce)
        unsigned = wire.Auth(message.session, self._info, bytes(wire.MAC_BYTES)).emit()
        self._transcript.add(wire.unproven(unsigned))
        mac = self._keys.device_mac(self._transcript.digest())
        self._output.append(wire.Auth(message.session, self._info, mac).emit())
        self._move(Event.CHALLENGE)

    def _on_bootstrap(self, message: wire.Bootstrap, data: bytes) -> None:
        keys = self._check_session(message.session)
        sealed_for = self._transcript.digest()
        self._transcript.add(wire.unproven(data))
        if not equal(message.mac, keys.server_mac(self._transcript.digest())):
            raise SsmpError("the server did not prove that it knows the device key")
        self._document = keys.open(message.sealed, sealed_for)
        unsigned = wire.Confirm(self._session, bytes(wire.MAC_BYTES)).emit()
        self._transcript.add(wire.unproven(unsigned))
        self._output.append(wire.Confirm(self._session, keys.confirm_mac(self._transcript.digest())).emit())
        self._move(Event.BOOTSTRAP)

    def _on_done(self, message: wire.Done, data: bytes) -> None:
        keys = self._check_session(message.session)
        self._transcript.add(wire.unproven(data))
        if not equal(message.mac, keys.done_mac(self._transcript.digest())):
            raise SsmpError("the server's last message is not proven")
        self._move(Event.DONE)
        self._events.append(Registered(self._document))
        self._finish()

    def _check_session(self, session: bytes) -> SessionKeys:
        if self._keys is None or not equal(session, self._session):
            raise SsmpError("the message belongs to another session")
        return self._keys

    def _fail(self, error: SsmpError) -> None:
        self._move(Event.FAILURE)
        self._output.clear()
        self._events.append(RegistrationFailed(error))
        self._finish()

    def _finish(self) -> None:
        self._deadline = None
        self._keys = None
        self._document = b""

    def _move(self, event: Event) -> None:
        self._state = TRANSITIONS.after(self._state, event)
