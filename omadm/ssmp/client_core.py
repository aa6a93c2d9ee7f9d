"""The device's side of SSMP, sans-IO.

    IDLE --start--> HELLO_SENT --CHALLENGE--> AUTH_SENT --BOOTSTRAP--> CONFIRM_SENT --DONE--> REGISTERED

The server's proof is checked before the document is opened, and the document is returned only after DONE: before that,
the account is not in force at the server. An ERROR ends the attempt in every state that waits for an answer; so do a
wrong proof and a message out of order.

The device begins with version 2. A server that knows only version 1 says so (ERROR of version 1 to HELLO), and hears a
HELLO of version 1 then: its proofs are the same, only its server can be kept busy by strangers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, auto

from omadm.ssmp import wire
from omadm.ssmp.crypto import SessionKeys, Transcript, equal, sealing
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
    OLDER = auto()
    CHALLENGE = auto()
    BOOTSTRAP = auto()
    DONE = auto()
    FAILURE = auto()


TRANSITIONS = Transitions(
    {
        (State.IDLE, Event.START): State.HELLO_SENT,
        (State.HELLO_SENT, Event.OLDER): State.HELLO_SENT,
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

    def __init__(
        self, device_id: str, key: bytes, info: wire.RegistrationInfo, client_nonce: bytes, held: bytes = b""
    ) -> None:
        """Prepare the attempt of `device_id`, whose symmetric key is `key`, with a fresh `client_nonce`.

        `held` is the fingerprint of the account that the device has, empty for none. Raises `SsmpUsageError` for a
        key, id, nonce or fingerprint that cannot be sent.
        """
        self._hello = wire.Hello(device_id, client_nonce)
        wire.Auth(b"-", b"-", info, held, bytes(wire.MAC_BYTES))  # refuses what AUTH cannot carry
        SessionKeys(key, client_nonce, bytes(wire.NONCE_BYTES))  # refuses a key of the wrong size now, not half-way
        self._key = key
        self._info = info
        self._held = held
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
        self._say_hello()
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

    def _say_hello(self) -> None:
        data = self._hello.emit()
        self._transcript = Transcript(self._hello.version)
        self._transcript.add(data)
        self._output.append(data)

    def _take(self, message: wire.Message, data: bytes) -> None:
        match message:
            case wire.Error() if self._is_older(message):
                self._hello = replace(self._hello, version=message.version)
                self._say_hello()
                self._move(Event.OLDER)
            case wire.Error():
                raise SsmpRefused(message.code, message.text)
            case _ if message.version != self._hello.version:
                raise SsmpError(f"the server answered in version {message.version}")
            case wire.Challenge() | wire.ChallengeV1() if self._state is State.HELLO_SENT:
                self._on_challenge(message, data)
            case wire.Bootstrap() if self._state is State.AUTH_SENT:
                self._on_bootstrap(message, data)
            case wire.Done() if self._state is State.CONFIRM_SENT:
                self._on_done(message, data)
            case _:
                raise SsmpError(f"the server sent {message.type.name} while {self._state.name}")

    def _is_older(self, error: wire.Error) -> bool:
        """Whether the server does not know the version of our HELLO, which is all that it has heard yet."""
        unknown = error.code in (wire.ErrorCode.MALFORMED, wire.ErrorCode.VERSION)
        return self._state is State.HELLO_SENT and unknown and error.version < self._hello.version

    def _on_challenge(self, message: wire.Challenge | wire.ChallengeV1, data: bytes) -> None:
        self._transcript.add(data)
        version = self._hello.version
        self._keys = SessionKeys(self._key, self._hello.client_nonce, message.server_nonce, version)
        unsigned: wire.Auth | wire.AuthV1
        if isinstance(message, wire.ChallengeV1):
            self._session = message.session
            unsigned = wire.AuthV1(message.session, self._info, bytes(wire.MAC_BYTES))
        else:
            unsigned = wire.Auth(self._hello.emit(), data, self._info, self._held, bytes(wire.MAC_BYTES))
        self._transcript.add(wire.unproven(unsigned.emit()))
        self._output.append(replace(unsigned, mac=self._keys.device_mac(self._transcript.digest())).emit())
        self._move(Event.CHALLENGE)

    def _on_bootstrap(self, message: wire.Bootstrap, data: bytes) -> None:
        if not self._session:
            self._session = message.session  # in version 2 the session begins here
        keys = self._check_session(message.session)
        sealed_for = self._transcript.digest()
        self._transcript.add(wire.unproven(data))
        if not equal(message.mac, keys.server_mac(self._transcript.digest())):
            raise SsmpError("the server did not prove that it knows the device key")
        self._document = keys.open(message.sealed, sealed_for, sealing(self._session, message.version))
        unsigned = wire.Confirm(self._session, bytes(wire.MAC_BYTES), message.version)
        self._transcript.add(wire.unproven(unsigned.emit()))
        self._output.append(replace(unsigned, mac=keys.confirm_mac(self._transcript.digest())).emit())
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
