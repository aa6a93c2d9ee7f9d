"""The security server's side of SSMP, sans-IO: challenges without a memory, sessions, and the table of sessions.

    CHALLENGED --AUTH--> AUTHENTICATED --provide--> BOOTSTRAPPED --CONFIRM--> CONFIRMED --acknowledge--> DONE

A HELLO costs the server a few hashes and no memory: what it must know again is in the cookie of its CHALLENGE
(`Challenger`), and a session begins with an AUTH that proves itself; only then the server makes a key for the session.
A HELLO of version 1 opens a session at once; those have a small place of their own, in which no network can hold more
than a few.

Whether or not the device is known, it is challenged; an unknown one gets a substitute key, so that both cost and look
the same up to the refusal. Proofs are compared in constant time. A message out of order (such as a replay) is refused
and changes nothing; a wrong proof ends the session.
"""

from __future__ import annotations

import hmac
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto

from omadm.ssmp import wire
from omadm.ssmp.crypto import ISSUED, RENEW, REQUEST, Ephemeral, SessionKeys, Transcript, certified_keys, equal, sealing
from omadm.ssmp.errors import SsmpError, SsmpRefused, SsmpUsageError, SsmpWireError
from omadm.ssmp.identity import ServerCertificates, SharedKey
from omadm.transitions import Stateful, Transitions

SESSION_S = 60.0  # from HELLO to DONE
PROVEN_MAX = 4096  # proven ones at a time; each takes about a kilobyte
SESSIONS_PER_DEVICE = 2  # the one at work, and the one before it, whose answer may still be on its way
FAILED_MAX = 16_384  # cookies, of some 150 bytes each, whose AUTH was not proven
HALF_OPEN_MAX = 1000  # sessions of version 1 before their proof
HALF_OPEN_PER_NETWORK = 16
COOKIE_LABEL = b"dcu-ssmp 2 cookie"
_ISSUED_BYTES = 8

REFUSED_TEXT = "the device is not known here or did not prove itself"
EXPIRED_TEXT = "no such session, or it has expired"
ORDER_TEXT = "this message is not due"
VERSION_TEXT = "a session keeps to one version"
UPGRADE_TEXT = "this server speaks the later version as well"
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
    held: bytes | None = None  # fingerprint of the account it has, empty for none; None: it does not say (version 1)


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The device has the document: put the account in force durably, and call `acknowledge`."""

    device_id: str
    info: wire.RegistrationInfo
    held: bytes | None = None
    request: bytes = b""  # for another certificate, PKCS#10 in DER, not yet looked at; empty for none
    unable: str = ""  # why the device has not stored, or not asked for, what it was to; empty where it did


ServerEvent = Authenticated | Confirmed


@dataclass(frozen=True, slots=True)
class Opening:
    """What a session begins with: both messages whole, as they were sent, and the session's end."""

    hello: bytes
    challenge: bytes
    deadline: float
    cookie: bytes = b""  # from version 2 on


class Challenger:
    """Makes challenges and knows them again, and keeps nothing of them but a secret that changes with time.

    A cookie is `issued u64 | HMAC`: the HMAC under the secret of that minute, over what was said (HELLO with id and
    client nonce, the server's nonce), from which network, and when. `issued` is in milliseconds of the caller's clock.
    """

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._secrets: dict[int, bytes] = {}  # of this period and the one before

    def challenge(self, hello: bytes, network: str, now: float, version: int = wire.VERSION) -> bytes:
        """The CHALLENGE to a HELLO of `version`, 2 or later, that came from `network`."""
        period = int(now // SESSION_S)
        if period not in self._secrets:
            kept = {period - 1: self._secrets[period - 1]} if period - 1 in self._secrets else {}
            self._secrets = kept | {period: self._random_bytes(wire.MAC_BYTES)}
        nonce = self._random_bytes(wire.NONCE_BYTES)
        issued = int(now * 1000).to_bytes(_ISSUED_BYTES, "big")
        cookie = issued + self._mac(self._secrets[period], hello, network, nonce, issued)
        return wire.Challenge(nonce, cookie, version).emit()

    def opening(self, auth: wire.Auth | wire.AuthV2, network: str, now: float) -> Opening:
        """What was said before this AUTH. Raises `SsmpRefused` (408) unless the challenge in it is one of ours to that
        HELLO from that network, and is not too old."""
        try:
            challenge = wire.parse(auth.challenge)
        except SsmpWireError:
            raise SsmpRefused(wire.ErrorCode.EXPIRED, EXPIRED_TEXT) from None
        if not isinstance(challenge, wire.Challenge):
            raise SsmpRefused(wire.ErrorCode.EXPIRED, EXPIRED_TEXT)
        issued, mac = challenge.cookie[:_ISSUED_BYTES], challenge.cookie[_ISSUED_BYTES:]
        at = int.from_bytes(issued, "big") / 1000
        secret = self._secrets.get(int(at // SESSION_S))
        if secret is None or not at <= now < at + SESSION_S:
            raise SsmpRefused(wire.ErrorCode.EXPIRED, EXPIRED_TEXT)
        ours = wire.Challenge(challenge.server_nonce, challenge.cookie, auth.version).emit() == auth.challenge
        if not equal(mac, self._mac(secret, auth.hello, network, challenge.server_nonce, issued)) or not ours:
            raise SsmpRefused(wire.ErrorCode.EXPIRED, EXPIRED_TEXT)
        return Opening(auth.hello, auth.challenge, at + SESSION_S, challenge.cookie)

    @staticmethod
    def _mac(secret: bytes, hello: bytes, network: str, nonce: bytes, issued: bytes) -> bytes:
        said = (COOKIE_LABEL, network.encode("utf-8", "replace"), hello, nonce, issued)
        return hmac.digest(secret, b"".join(len(part).to_bytes(4, "big") + part for part in said), "sha256")


class ServerSession(Stateful[State, Event]):
    """One registration in progress."""

    def __init__(
        self,
        session: bytes,
        opening: Opening,
        key: bytes,
        *,
        known: bool,
        ephemeral: bytes,
        certificates: ServerCertificates | None = None,
        next_key: bytes = b"",
    ) -> None:
        """`key` is the device's, or a substitute when not `known`. `ephemeral`: 32 random bytes, used in version 3.
        `next_key` is one that was given to the device, which may use it already; empty for none. `certificates` is
        `None` where no device may prove itself with one. Raises `SsmpError` for an invalid HELLO."""
        hello, challenge = wire.parse(opening.hello), wire.parse(opening.challenge)
        if not isinstance(hello, wire.Hello) or not isinstance(challenge, wire.Challenge | wire.ChallengeV1):
            raise SsmpUsageError("a session begins with HELLO and CHALLENGE")
        self.session = session
        self.challenge = opening.challenge
        self.device_id = hello.device_id
        self.version = hello.version
        self.proven = False  # the device has shown that it has the key, whether or not it may register
        self._key = SharedKey(key)
        self._next_key = SharedKey(next_key) if next_key else None
        self._nonces = hello.client_nonce, challenge.server_nonce
        self._keys = SessionKeys(self._key, *self._nonces, hello.version)
        self._ephemeral = ephemeral
        self._certificates = certificates
        self._auth: wire.Auth | None = None  # of version 3, once it is proven
        self._known = known
        self.cookie, self.ends = opening.cookie, opening.deadline
        super().__init__(State.CHALLENGED, TRANSITIONS)
        self._info = wire.RegistrationInfo("", "", "", "", "", "")  # until AUTH says
        self.held: bytes | None = None  # once it is proven: fingerprint of the account it has, empty for none
        self._transcript = Transcript(hello.version)
        self._transcript.add(opening.hello)
        self._transcript.add(opening.challenge)
        self._output: list[bytes] = []
        self._events: list[ServerEvent] = []

    @property
    def over(self) -> bool:
        return self._state in (State.DONE, State.FAILED)

    @property
    def certificate(self) -> bytes:
        """What the device has proven itself with, in DER; empty for a shared key, and before its proof."""
        return self._auth.certificate if self._auth is not None else b""

    @property
    def renews(self) -> bool:
        """Whether the device, which is proven, can take a new key."""
        return self._auth is not None and self._auth.renews and not self._auth.certificate

    @property
    def renews_certificate(self) -> bool:
        """Whether the device, which is proven, can ask for another certificate."""
        return self._auth is not None and self._auth.renews and bool(self._auth.certificate)

    @property
    def unable(self) -> str:
        """Why the device, which is proven, can renew nothing; empty where it can, and where it does not say."""
        return self._auth.unable if self._auth is not None else ""

    def is_of(self, key: bytes) -> bool:
        """Whether this session was begun with that device key."""
        return self._key.same(key)

    def receive(self, data: bytes, now: float) -> None:
        """Take one whole message. Raises `SsmpRefused` (the answer to send) or `SsmpWireError`."""
        self.on_deadline(now)
        message = wire.parse(data)
        match message:
            case _ if message.version != self.version:
                raise SsmpRefused(wire.ErrorCode.MALFORMED, VERSION_TEXT)
            case wire.Auth() | wire.AuthV2() | wire.AuthV1() if self._state is State.CHALLENGED:
                self._on_auth(message, data)
            case wire.Confirm() if self._state is State.BOOTSTRAPPED:
                self._on_confirm(message, data)
            case _ if self._state is State.FAILED:
                raise SsmpRefused(wire.ErrorCode.EXPIRED, EXPIRED_TEXT)
            case _:
                raise SsmpRefused(wire.ErrorCode.OUT_OF_ORDER, ORDER_TEXT)

    def provide(self, document: bytes, new_key: bytes = b"", *, wanted: bool = False, time_ms: int = 0) -> None:
        """Seal and send the bootstrap document, after `Authenticated`, and a new key to a device that `renews`. With
        `Confirmed` it has stored that. `wanted`: a device that `renews_certificate` is to ask for another, and
        one that is `unable` hears that it was to. `time_ms`:
        what time it is, in milliseconds since 1970 (UTC), from version 3 on. Raises `SsmpUsageError`."""
        self._step(Event.PROVIDE)
        if self._auth is not None:
            self._output.append(self._bootstrap(self._auth, document, new_key, wanted, time_ms))
            return
        sealed = self._keys.seal(document, self._transcript.digest(), sealing(self.session, self.version))
        unsigned = wire.BootstrapV2(self.session, sealed, bytes(wire.MAC_BYTES), self.version)
        self._transcript.add(wire.unproven(unsigned.emit()))
        self._output.append(replace(unsigned, proof=self._keys.server_mac(self._transcript.digest())).emit())

    def _bootstrap(self, auth: wire.Auth, document: bytes, new_key: bytes, wanted: bool, time_ms: int) -> bytes:
        """BOOTSTRAP of version 3: with a key of this session, and the proof that goes with the device's."""
        own = Ephemeral(self._ephemeral)
        self._keys = self._keys.agreed(own.agree(auth.ephemeral))
        certificates = self._certificates if auth.certificate else None
        shown = certificates.certificate if certificates else b""
        sealed_for = self._transcript.digest()
        sealed = self._keys.seal(document, sealed_for, self.session)
        renewed = self._keys.seal(new_key, sealed_for, self.session, RENEW) if new_key else b""
        empty = bytes(wire.SIGNATURE_BYTES if certificates else wire.MAC_BYTES)
        unsigned = wire.Bootstrap(self.session, sealed, own.public, shown, empty, renewed, wanted, time_ms)
        self._transcript.add(wire.unproven(unsigned.emit()))
        digest = self._transcript.digest()
        keys = self._keys
        proof = certificates.sign(keys.signed(b"server", digest)) if certificates else keys.server_mac(digest)
        return replace(unsigned, proof=proof).emit()

    def acknowledge(self, issued: bytes = b"") -> None:
        """Tell the device that its account is in force, after `Confirmed`, and give it the certificate (DER) that it
        asked for. Raises `SsmpUsageError`."""
        self._step(Event.ACKNOWLEDGE)
        sealed = self._keys.seal(issued, self._transcript.digest(), self.session, ISSUED) if issued else b""
        unsigned = wire.Done(self.session, bytes(wire.MAC_BYTES), self.version, sealed)
        self._transcript.add(wire.unproven(unsigned.emit()))
        self._output.append(replace(unsigned, mac=self._keys.done_mac(self._transcript.digest())).emit())

    def abort(self) -> None:
        """End the session, because the server cannot continue it."""
        if not self.over:
            self._step(Event.FAILURE)

    def take_output(self) -> bytes:
        return self._output.pop(0) if self._output else b""

    def next_event(self) -> ServerEvent | None:
        return self._events.pop(0) if self._events else None

    def next_deadline(self) -> float | None:
        return None if self.over else self.ends

    def on_deadline(self, now: float) -> None:
        if now >= self.ends:
            self.abort()

    def _on_auth(self, message: wire.Auth | wire.AuthV2 | wire.AuthV1, data: bytes) -> None:
        self._transcript.add(wire.unproven(data))
        digest = self._transcript.digest()
        if isinstance(message, wire.Auth):
            self.proven = self._proves(message, digest)
            self._auth = message
        else:
            self.proven = equal(message.proof, self._keys.device_mac(digest))
        self.held = message.held if self.proven and not isinstance(message, wire.AuthV1) else None
        if not (self.proven and self._known):
            self._step(Event.FAILURE)
            raise SsmpRefused(wire.ErrorCode.REFUSED, REFUSED_TEXT)
        self._info = message.info
        self._step(Event.AUTH)
        self._events.append(Authenticated(self.device_id, message.info, self.held))

    def _proves(self, auth: wire.Auth, digest: bytes) -> bool:
        """Whether an AUTH of version 3 is the device's, and its key of the session one that can be agreed with."""
        if auth.certificate:
            self._keys = certified_keys(*self._nonces)
            signed = self._keys.signed(b"device", digest)
            judge = self._certificates
            proven = judge is not None and judge.proves(self.device_id, auth.certificate, auth.proof, signed)
        else:
            proven = equal(auth.proof, self._keys.device_mac(digest))
            if not proven and self._next_key is not None:
                self._key = self._next_key
                self._keys = SessionKeys(self._key, *self._nonces, self.version)
                proven = equal(auth.proof, self._keys.device_mac(digest))
        return proven and _is_key(auth.ephemeral)

    def _on_confirm(self, message: wire.Confirm, data: bytes) -> None:
        sealed_for = self._transcript.digest()
        self._transcript.add(wire.unproven(data))
        if not equal(message.mac, self._keys.confirm_mac(self._transcript.digest())):
            self._step(Event.FAILURE)
            raise SsmpRefused(wire.ErrorCode.REFUSED, REFUSED_TEXT)
        request = self._opened(message.request, sealed_for) if message.request and self.renews_certificate else b""
        self._step(Event.CONFIRM)
        self._events.append(Confirmed(self.device_id, self._info, self.held, request, message.unable))

    def _opened(self, request: bytes, sealed_for: bytes) -> bytes:
        try:
            return self._keys.open(request, sealed_for, self.session, REQUEST)
        except SsmpError:
            self._step(Event.FAILURE)
            raise SsmpRefused(wire.ErrorCode.REFUSED, REFUSED_TEXT) from None


def _is_key(public: bytes) -> bool:
    """Whether a public key of a session gives a secret: those of low order give everybody the same."""
    try:
        Ephemeral(bytes(wire.EPHEMERAL_BYTES)).agree(public)
    except SsmpError:
        return False
    return True


class SessionTable:
    """The sessions in progress; finished and expired ones are removed.

    A session comes in when it is proven. One of version 1 comes in with its HELLO: when there are too many
    of those, the network that holds the most loses its oldest.
    """

    def __init__(
        self,
        random_bytes: Callable[[int], bytes],
        *,
        sessions_max: int = PROVEN_MAX,
        half_open_max: int = HALF_OPEN_MAX,
        failed_max: int = FAILED_MAX,
    ) -> None:
        self._random_bytes = random_bytes
        self._failed_max = failed_max
        self._sessions_max = sessions_max
        self._half_open_max = half_open_max
        self._sessions: dict[bytes, ServerSession] = {}  # proven
        self._half_open: OrderedDict[bytes, tuple[ServerSession, str]] = OrderedDict()
        self._spent: dict[bytes, float] = {}  # cookies whose AUTH was proven, until they expire
        self._failed: dict[bytes, float] = {}  # and those whose AUTH was not; the oldest go when there are too many

    def __len__(self) -> int:
        return len(self._sessions) + len(self._half_open)

    def __contains__(self, identifier: bytes) -> bool:
        return identifier in self._sessions or identifier in self._half_open

    def refuse_answered(self, opening: Opening, now: float) -> None:
        """A challenge is good for one AUTH, proven or not. Raises `SsmpRefused` (409) for one that had its own."""
        self.on_deadline(now)
        if opening.cookie in self._spent or opening.cookie in self._failed:
            raise SsmpRefused(wire.ErrorCode.OUT_OF_ORDER, ORDER_TEXT)

    def prepare(
        self,
        opening: Opening,
        key: bytes,
        *,
        known: bool,
        now: float,
        certificates: ServerCertificates | None = None,
        next_key: bytes = b"",
    ) -> ServerSession:
        """A session of version 2 or later, which is in no table before `settle` finds it proven.

        Raises `SsmpRefused` for a challenge that was answered already, and when there are too many.
        """
        self.refuse_answered(opening, now)
        if len(self._sessions) >= self._sessions_max or len(self._spent) >= 2 * self._sessions_max:
            raise SsmpRefused(wire.ErrorCode.UNAVAILABLE, FULL_TEXT)
        identifier, ephemeral = self._random_bytes(wire.SESSION_BYTES), self._random_bytes(wire.EPHEMERAL_BYTES)
        return ServerSession(
            identifier, opening, key, known=known, ephemeral=ephemeral, certificates=certificates, next_key=next_key
        )

    def open(self, hello: bytes, key: bytes, network: str, *, known: bool, now: float) -> ServerSession:
        """Open a session for a HELLO of version 1; its `challenge` is the answer."""
        self.on_deadline(now)
        identifier = self._random_bytes(wire.SESSION_BYTES)
        challenge = wire.ChallengeV1(identifier, self._random_bytes(wire.NONCE_BYTES)).emit()
        session = ServerSession(identifier, Opening(hello, challenge, now + SESSION_S), key, known=known, ephemeral=b"")
        self._make_room(network)
        self._half_open[identifier] = (session, network)
        return session

    def find(self, identifier: bytes, now: float) -> ServerSession:
        """The session of a message. Raises `SsmpRefused` when there is none."""
        self.on_deadline(now)
        session = self._sessions.get(identifier)
        if session is None and identifier in self._half_open:
            session = self._half_open[identifier][0]
        if session is None:
            raise SsmpRefused(wire.ErrorCode.EXPIRED, EXPIRED_TEXT)
        return session

    def settle(self, session: ServerSession) -> None:
        """Put a session where it belongs after a message: away when it is over, among the proven when it is that."""
        if session.proven and session.cookie:
            self._spent.setdefault(session.cookie, session.ends)
        elif session.over and session.cookie:
            self._failed.setdefault(session.cookie, session.ends)
            if len(self._failed) > self._failed_max:
                del self._failed[next(iter(self._failed))]
        if session.over or session.proven:
            self._half_open.pop(session.session, None)
        if session.over:
            self._sessions.pop(session.session, None)
        elif session.proven:
            self._keep(session)

    def next_deadline(self) -> float | None:
        every = (*self._sessions.values(), *(session for session, _ in self._half_open.values()))
        return min((session.next_deadline() or 0.0 for session in every), default=None)

    def on_deadline(self, now: float) -> None:
        """Drop what has expired. Each list is in the order of its deadlines, within a session's length: this stops at
        the first that is alive, and one behind it that is over goes at most that much later."""
        while self._sessions:
            oldest = next(iter(self._sessions.values()))
            oldest.on_deadline(now)
            if not oldest.over:
                break
            del self._sessions[oldest.session]
        while self._half_open:
            oldest, _ = next(iter(self._half_open.values()))
            oldest.on_deadline(now)
            if not oldest.over:
                break
            del self._half_open[oldest.session]
        for cookies in (self._spent, self._failed):
            while cookies and now >= next(iter(cookies.values())):
                del cookies[next(iter(cookies))]

    def _keep(self, session: ServerSession) -> None:
        """A device has few sessions at a time: the oldest ends when it begins another."""
        if session.session in self._sessions:
            return
        own = [other for other in self._sessions.values() if other.device_id == session.device_id]
        for other in own[: max(0, len(own) - SESSIONS_PER_DEVICE + 1)]:
            other.abort()
            del self._sessions[other.session]
        self._sessions[session.session] = session

    def _make_room(self, network: str) -> None:
        held = Counter(holder for _, holder in self._half_open.values())
        if held[network] >= HALF_OPEN_PER_NETWORK:
            self._drop_oldest_of(network)
        elif len(self._half_open) >= self._half_open_max:
            self._drop_oldest_of(held.most_common(1)[0][0])

    def _drop_oldest_of(self, network: str) -> None:
        for identifier, (_, holder) in self._half_open.items():
            if holder == network:
                del self._half_open[identifier]
                return
