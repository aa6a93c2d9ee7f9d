"""The device's side of SSMP, sans-IO.

    IDLE --start--> HELLO_SENT --CHALLENGE--> AUTH_SENT --BOOTSTRAP--> CONFIRM_SENT --DONE--> REGISTERED
                                              AUTH_SENT --BOOTSTRAP--> REQUEST_DUE --request--> CONFIRM_SENT
                                              AUTH_SENT --BOOTSTRAP--> TOLD, where only the time is asked for

The server's proof is checked before the document is opened, and the document is returned only after DONE: before that,
the account is not in force at the server. An ERROR ends the attempt in every state that waits for an answer; so do a
wrong proof and a message out of order.

The device begins with version 3. A server that does not know it says so (ERROR of a lower version to HELLO), and hears
a HELLO of the version before then, in which the device says what it had offered: a server that knows better refuses it.
The secret may be of a kind that only later versions know (`version_min` of the security module).

BOOTSTRAP tells the time, under the server's proof. A device that asks for nothing else says no CONFIRM: it keeps the
account that it has, and the server drops the session when its time is over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from omadm.ssmp import wire
from omadm.ssmp.crypto import ISSUED, RENEW, REQUEST, Ephemeral, SessionKeys, Transcript, certified_keys, equal, sealing
from omadm.ssmp.errors import SsmpError, SsmpRefused, SsmpUsageError
from omadm.ssmp.identity import CertificateModule, KeyModule, SecurityModule
from omadm.ssmp.limits import DEVICE_KEY_BYTES
from omadm.transitions import Stateful, Transitions

UNPROVEN_TEXT = "the server did not prove that it knows the device key"
REGISTRATION_TIMEOUT_S = 60.0  # three round trips; the server forgets a session after the same time


class State(Enum):
    """Where an attempt to register stands."""

    IDLE = auto()
    HELLO_SENT = auto()
    AUTH_SENT = auto()
    REQUEST_DUE = auto()  # another certificate is to be asked for
    CONFIRM_SENT = auto()
    REGISTERED = auto()
    TOLD = auto()
    FAILED = auto()


class Event(Enum):
    """What moves an attempt to register on."""

    START = auto()
    OLDER = auto()
    CHALLENGE = auto()
    BOOTSTRAP = auto()
    WANTED = auto()
    TIME = auto()
    DONE = auto()
    FAILURE = auto()


TRANSITIONS = Transitions(
    {
        (State.IDLE, Event.START): State.HELLO_SENT,
        (State.HELLO_SENT, Event.OLDER): State.HELLO_SENT,
        (State.HELLO_SENT, Event.CHALLENGE): State.AUTH_SENT,
        (State.AUTH_SENT, Event.BOOTSTRAP): State.CONFIRM_SENT,
        (State.AUTH_SENT, Event.WANTED): State.REQUEST_DUE,
        (State.AUTH_SENT, Event.TIME): State.TOLD,
        (State.REQUEST_DUE, Event.BOOTSTRAP): State.CONFIRM_SENT,
        (State.CONFIRM_SENT, Event.DONE): State.REGISTERED,
        (State.HELLO_SENT, Event.FAILURE): State.FAILED,
        (State.AUTH_SENT, Event.FAILURE): State.FAILED,
        (State.REQUEST_DUE, Event.FAILURE): State.FAILED,
        (State.CONFIRM_SENT, Event.FAILURE): State.FAILED,
    },
    SsmpUsageError,
)


@dataclass(frozen=True, slots=True)
class Registered:
    """Both ends are authenticated; `document` is the bootstrap document, which contains secrets."""

    document: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TimeTold:
    """An attempt that asked for nothing but the time is over: it is `SsmpClient.time_told`."""


@dataclass(frozen=True, slots=True)
class RegistrationFailed:
    """The attempt has failed. The type of `error` says whose fault it is."""

    error: SsmpError


@dataclass(frozen=True, slots=True)
class KeyOffered:
    """The server, which has proven itself, gives this device a new key of 32 bytes.

    It must be stored durably before the next message is sent: with that the server takes it as stored. The old one is
    good until the new one was used.
    """

    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CertificateWanted:
    """Another certificate is to be asked for: make a key pair, store it durably, and call `request`."""


@dataclass(frozen=True, slots=True)
class RenewalDeclined:
    """The server wants this device to have another key, or certificate, and was told why that cannot be."""

    why: str


@dataclass(frozen=True, slots=True)
class CertificateIssued:
    """The server, which has proven itself, gives this device the certificate (DER) that it asked for.

    It comes before `Registered`. The old one is good until the new one was used.
    """

    certificate: bytes


ClientEvent = (
    Registered | RegistrationFailed | TimeTold | KeyOffered | CertificateWanted | CertificateIssued | RenewalDeclined
)


class SsmpClient(Stateful[State, Event]):
    """One registration attempt. Time is monotonic seconds; randomness is an argument."""

    def __init__(
        self,
        device_id: str,
        module: SecurityModule,
        info: wire.RegistrationInfo,
        random_bytes: Callable[[int], bytes],
        held: bytes = b"",
        *,
        renews: bool = False,
        asks: bool = False,
        unable: str = "",
        only_time: bool = False,
    ) -> None:
        """Prepare the attempt of `device_id`, whose secret is in `module`. `renews`: a new key can be stored
        (`KeyOffered`), or another key pair (`CertificateWanted`), which is so also where the device itself `asks`.
        `unable`: why neither can be, empty where it is not known; the server is told.
        `only_time`: the attempt ends with `TimeTold`, and changes nothing at either end.

        `held` is the fingerprint of the account that the device has, empty for none. Raises `SsmpUsageError` for an
        id or fingerprint that cannot be sent.
        """
        self._hello = wire.Hello(device_id, random_bytes(wire.NONCE_BYTES))
        self._ephemeral = Ephemeral(random_bytes(wire.EPHEMERAL_BYTES))
        wire.AuthV2(b"-", b"-", info, held, bytes(wire.MAC_BYTES))  # refuses what AUTH cannot carry
        self._module = module
        self._info = info
        self._held = held
        self._renews = renews
        self._asks = asks
        self._unable = unable
        self._only_time = only_time
        self.time_told: float | None = None  # what time it is, s since 1970 (UTC), by a server that proved itself
        super().__init__(State.IDLE, TRANSITIONS)
        self._transcript = Transcript()
        self._keys: SessionKeys | None = None
        self._session = b""
        self._document = b""
        self._requested = False  # another certificate, in this attempt
        self._output: list[bytes] = []
        self._due: bytes | None = None  # CONFIRM, with this request; what is declined until it is sent goes with it
        self._events: list[ClientEvent] = []
        self._deadline: float | None = None

    def start(self, now: float) -> None:
        """Send HELLO. Raises `SsmpUsageError` when the attempt was started already."""
        self._step(Event.START)
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

    def request(self, request: bytes) -> None:
        """Confirm, with a request for another certificate (PKCS#10 in DER, of a key that is stored durably), after
        `CertificateWanted`. Raises `SsmpUsageError` for a call that is not due."""
        if self._state is not State.REQUEST_DUE or self._keys is None:
            raise SsmpUsageError("no certificate is to be asked for")
        self._confirm(self._keys.seal(request, self._transcript.digest(), self._session, REQUEST))

    def decline(self, why: str) -> None:
        """Say that what the server gave is not stored, or that what it asked for cannot be made: after `KeyOffered`,
        before the next message is sent, or after `CertificateWanted`. Everything else of the registration goes on.
        Raises `SsmpUsageError` for a call that is not due."""
        self._unable = why
        if self._state is State.REQUEST_DUE:
            self._confirm(b"")
        elif self._due is None:
            raise SsmpUsageError("nothing is to be declined")

    def receive_eof(self, now: float) -> None:
        """Fail, because the transport ended before the attempt did."""
        del now
        if self._deadline is not None:
            self._fail(SsmpError("the security server closed the connection"))

    def take_output(self) -> bytes:
        """The message to send now, whole; empty when none is due."""
        if self._due is not None:
            self._output.append(self._confirmation(self._due))
            self._due = None
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
                self._hello = replace(self._hello, version=self._hello.version - 1, offered=wire.VERSION)
                self._say_hello()
                self._step(Event.OLDER)
            case wire.Error():
                raise SsmpRefused(message.code, message.text)
            case _ if message.version != self._hello.version:
                raise SsmpError(f"the server answered in version {message.version}")
            case wire.Challenge() | wire.ChallengeV1() if self._state is State.HELLO_SENT:
                self._on_challenge(message, data)
            case wire.Bootstrap() | wire.BootstrapV2() if self._state is State.AUTH_SENT:
                self._on_bootstrap(message, data)
            case wire.Done() if self._state is State.CONFIRM_SENT:
                self._on_done(message, data)
            case _:
                raise SsmpError(f"the server sent {message.type.name} while {self._state.name}")

    def _is_older(self, error: wire.Error) -> bool:
        """Whether the server does not know the version of our HELLO, which is all that it has heard yet."""
        unknown = error.code in (wire.ErrorCode.MALFORMED, wire.ErrorCode.VERSION)
        may_go_back = self._module.version_min < self._hello.version and not self._only_time  # they tell no time
        return self._state is State.HELLO_SENT and unknown and error.version < self._hello.version and may_go_back

    def _on_challenge(self, message: wire.Challenge | wire.ChallengeV1, data: bytes) -> None:
        self._transcript.add(data)
        nonces = self._hello.client_nonce, message.server_nonce
        empty = bytes(wire.MAC_BYTES)
        unsigned: wire.Auth | wire.AuthV2 | wire.AuthV1
        if isinstance(message, wire.ChallengeV1):
            self._session = message.session
            unsigned = wire.AuthV1(message.session, self._info, empty)
        elif message.version == wire.VERSION_2:
            unsigned = wire.AuthV2(self._hello.emit(), data, self._info, self._held, empty)
        else:
            unsigned = self._auth(data)
        self._transcript.add(wire.unproven(unsigned.emit()))
        digest = self._transcript.digest()
        match self._module:
            case KeyModule() as module:
                self._keys = SessionKeys(module, *nonces, message.version)
                proof = self._keys.device_mac(digest)
            case CertificateModule() as module:
                self._keys = certified_keys(*nonces)
                proof = module.sign(self._keys.signed(b"device", digest))
        self._output.append(replace(unsigned, proof=proof).emit())
        self._step(Event.CHALLENGE)

    def _auth(self, challenge: bytes) -> wire.Auth:
        """AUTH of version 3, not yet proven."""
        shown = self._module.certificate if isinstance(self._module, CertificateModule) else b""
        empty = bytes(wire.SIGNATURE_BYTES if shown else wire.MAC_BYTES)
        return wire.Auth(
            self._hello.emit(),
            challenge,
            self._ephemeral.public,
            shown,
            self._info,
            self._held,
            empty,
            self._renews,
            self._unable,
        )

    def _on_bootstrap(self, message: wire.Bootstrap | wire.BootstrapV2, data: bytes) -> None:
        if not self._session:
            self._session = message.session  # from version 2 on the session begins here
        keys = self._check_session(message.session)
        sealed_for = self._transcript.digest()
        self._transcript.add(wire.unproven(data))
        if isinstance(message, wire.Bootstrap):
            keys = self._keys = keys.agreed(self._ephemeral.agree(message.ephemeral))
            self._check_server(message, keys)
        elif not equal(message.proof, keys.server_mac(self._transcript.digest())):
            raise SsmpError(UNPROVEN_TEXT)
        if isinstance(message, wire.Bootstrap) and message.time_ms:
            self.time_told = message.time_ms / 1000
        if self._only_time:
            self._end_with_time()
            return
        self._document = keys.open(message.sealed, sealed_for, sealing(self._session, message.version))
        if isinstance(message, wire.Bootstrap) and message.renewed and self._renews:
            self._offer(keys.open(message.renewed, sealed_for, self._session, RENEW))
        if isinstance(message, wire.Bootstrap) and message.wanted and not self._renews and self._unable:
            self._events.append(RenewalDeclined(self._unable))
        if isinstance(message, wire.Bootstrap) and message.certificate and self._renews:
            if message.wanted or self._asks:
                self._step(Event.WANTED)
                self._events.append(CertificateWanted())
                return
        self._confirm(b"")

    def _end_with_time(self) -> None:
        if self.time_told is None:
            raise SsmpError("the security server does not tell the time")
        self._step(Event.TIME)
        self._events.append(TimeTold())
        self._finish()

    def _confirm(self, request: bytes) -> None:
        self._requested = bool(request)
        self._due = request
        self._step(Event.BOOTSTRAP)

    def _confirmation(self, request: bytes) -> bytes:
        if self._keys is None:
            raise SsmpUsageError("nothing is to be confirmed")
        unable = self._unable if self._hello.version == wire.VERSION else ""
        unsigned = wire.Confirm(self._session, bytes(wire.MAC_BYTES), self._hello.version, request, unable)
        self._transcript.add(wire.unproven(unsigned.emit()))
        return replace(unsigned, mac=self._keys.confirm_mac(self._transcript.digest())).emit()

    def _offer(self, key: bytes) -> None:
        if len(key) != DEVICE_KEY_BYTES:
            raise SsmpError(f"the server gives a key of {len(key)} bytes")
        self._events.append(KeyOffered(key))

    def _check_server(self, message: wire.Bootstrap, keys: SessionKeys) -> None:
        """Check the server's proof, which is of the kind of ours."""
        digest = self._transcript.digest()
        module = self._module
        if bool(message.certificate) != isinstance(module, CertificateModule):
            raise SsmpError("the server proves itself in another way than this device does")
        if isinstance(module, CertificateModule):
            module.check_server(message.certificate, message.proof, keys.signed(b"server", digest))
        elif not equal(message.proof, keys.server_mac(digest)):
            raise SsmpError(UNPROVEN_TEXT)

    def _on_done(self, message: wire.Done, data: bytes) -> None:
        keys = self._check_session(message.session)
        sealed_for = self._transcript.digest()
        self._transcript.add(wire.unproven(data))
        if not equal(message.mac, keys.done_mac(self._transcript.digest())):
            raise SsmpError("the server's last message is not proven")
        if message.issued and self._requested:
            self._events.append(CertificateIssued(keys.open(message.issued, sealed_for, self._session, ISSUED)))
        self._step(Event.DONE)
        self._events.append(Registered(self._document))
        self._finish()

    def _check_session(self, session: bytes) -> SessionKeys:
        if self._keys is None or not equal(session, self._session):
            raise SsmpError("the message belongs to another session")
        return self._keys

    def _fail(self, error: SsmpError) -> None:
        self._step(Event.FAILURE)
        self._output.clear()
        self._due = None
        self._events.append(RegistrationFailed(error))
        self._finish()

    def _finish(self) -> None:
        self._deadline = None
        self._keys = None
        self._document = b""
