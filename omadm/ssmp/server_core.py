"""The security server's side of SSMP, sans-IO: challenges without a memory, sessions, and the table of sessions.

    CHALLENGED --AUTH--> AUTHENTICATED --provide--> BOOTSTRAPPED --CONFIRM--> CONFIRMED --acknowledge--> DONE

A HELLO of version 2 costs the server a few hashes and no memory: what it must know again is in the cookie of its
CHALLENGE (`Challenger`), and a session begins with an AUTH that proves itself. A HELLO of version 1 opens a session at
once; those have a small place of their own, in which no network can hold more than a few.

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
from omadm.ssmp.crypto import SessionKeys, Transcript, equal, sealing
from omadm.ssmp.errors import SsmpRefused, SsmpUsageError, SsmpWireError
from omadm.transitions import Transitions

SESSION_S = 60.0  # from HELLO to DONE
PROVEN_MAX = 4096  # proven ones at a time; each takes about a kilobyte
SESSIONS_PER_DEVICE = 2  # the one at work, and the one before it, whose answer may still be on its way
HALF_OPEN_MAX = 1000  # sessions of version 1 before their proof
HALF_OPEN_PER_NETWORK = 16
COOKIE_LABEL = b"dcu-ssmp 2 cookie"
_ISSUED_BYTES = 8

REFUSED_TEXT = "the device is not known here or did not prove itself"
EXPIRED_TEXT = "no such session, or it has expired"
ORDER_TEXT = "this message is not due"
VERSION_TEXT = "a session keeps to one version"
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


ServerEvent = Authenticated | Confirmed


@dataclass(frozen=True, slots=True)
class Opening:
    """What a session begins with: both messages whole, as they were sent, and the session's end."""

    hello: bytes
    challenge: bytes
    deadline: float
    cookie: bytes = b""  # of version 2


class Challenger:
    """Makes challenges and knows them again, and keeps nothing of them but a secret that changes with time.

    A cookie is `issued u64 | HMAC`: the HMAC under the secret of that minute, over what was said (HELLO with id and
    client nonce, the server's nonce), from which network, and when. `issued` is in milliseconds of the caller's clock.
    """

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._secrets: dict[int, bytes] = {}  # of this period and the one before

    def challenge(self, hello: bytes, network: str, now: float) -> bytes:
        """The CHALLENGE to a HELLO of version 2 that came from `network`."""
        period = int(now // SESSION_S)
        if period not in self._secrets:
            kept = {period - 1: self._secrets[period - 1]} if period - 1 in self._secrets else {}
            self._secrets = kept | {period: self._random_bytes(wire.MAC_BYTES)}
        nonce = self._random_bytes(wire.NONCE_BYTES)
        issued = int(now * 1000).to_bytes(_ISSUED_BYTES, "big")
        return wire.Challenge(nonce, issued + self._mac(self._secrets[period], hello, network, nonce, issued)).emit()

    def opening(self, auth: wire.Auth, network: str, now: float) -> Opening:
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
        ours = wire.Challenge(challenge.server_nonce, challenge.cookie).emit() == auth.challenge
        if not equal(mac, self._mac(secret, auth.hello, network, challenge.server_nonce, issued)) or not ours:
            raise SsmpRefused(wire.ErrorCode.EXPIRED, EXPIRED_TEXT)
        return Opening(auth.hello, auth.challenge, at + SESSION_S, challenge.cookie)

    @staticmethod
    def _mac(secret: bytes, hello: bytes, network: str, nonce: bytes, issued: bytes) -> bytes:
        said = (COOKIE_LABEL, network.encode("utf-8", "replace"), hello, nonce, issued)
        return hmac.digest(secret, b"".join(len(part).to_bytes(4, "big") + part for part in said), "sha256")


class ServerSession:
    """One registration in progress."""

    def __init__(self, session: bytes, opening: Opening, key: bytes, *, known: bool) -> None:
        """`key` is the device's, or a substitute when not `known`. Raises `SsmpError` for an invalid HELLO."""
        hello, challenge = wire.parse(opening.hello), wire.parse(opening.challenge)
        if not isinstance(hello, wire.Hello) or not isinstance(challenge, wire.Challenge | wire.ChallengeV1):
            raise SsmpUsageError("a session begins with HELLO and CHALLENGE")
        self.session = session
        self.challenge = opening.challenge
        self.device_id = hello.device_id
        self.version = hello.version
        self.proven = False  # the device has shown that it has the key, whether or not it may register
        self._key = key
        self._keys = SessionKeys(key, hello.client_nonce, challenge.server_nonce, hello.version)
        self._known = known
        self.cookie, self.ends = opening.cookie, opening.deadline
        self._state = State.CHALLENGED
        self._info = wire.RegistrationInfo("", "", "", "", "", "")  # until AUTH says
        self.held: bytes | None = None  # once it is proven: fingerprint of the account it has, empty for none
        self._transcript = Transcript(hello.version)
        self._transcript.add(opening.hello)
        self._transcript.add(opening.challenge)
        self._output: list[bytes] = []
        self._events: list[ServerEvent] = []

    @property
    def state(self) -> State:
        return self._state

    @property
    def over(self) -> bool:
        return self._state in (State.DONE, State.FAILED)

    def is_of(self, key: bytes) -> bool:
        """Whether this session was begun with that device key."""
        return equal(self._key, key)

    def receive(self, data: bytes, now: float) -> None:
        """Take one whole message. Raises `SsmpRefused` (the answer to send) or `SsmpWireError`."""
        self.on_deadline(now)
        message = wire.parse(data)
        match message:
            case _ if message.version != self.version:
                raise SsmpRefused(wire.ErrorCode.MALFORMED, VERSION_TEXT)
            case wire.Auth() | wire.AuthV1() if self._state is State.CHALLENGED:
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
        sealed = self._keys.seal(document, self._transcript.digest(), sealing(self.session, self.version))
        unsigned = wire.Bootstrap(self.session, sealed, bytes(wire.MAC_BYTES), self.version)
        self._transcript.add(wire.unproven(unsigned.emit()))
        self._output.append(replace(unsigned, mac=self._keys.server_mac(self._transcript.digest())).emit())

    def acknowledge(self) -> None:
        """Tell the device that its account is in force, after `Confirmed`. Raises `SsmpUsageError`."""
        self._move(Event.ACKNOWLEDGE)
        unsigned = wire.Done(self.session, bytes(wire.MAC_BYTES), self.version)
        self._transcript.add(wire.unproven(unsigned.emit()))
        self._output.append(replace(unsigned, mac=self._keys.done_mac(self._transcript.digest())).emit())

    def abort(self) -> None:
        """End the session, because the server cannot continue it."""
        if not self.over:
            self._move(Event.FAILURE)

    def take_output(self) -> bytes:
        return self._output.pop(0) if self._output else b""

    def next_event(self) -> ServerEvent | None:
        return self._events.pop(0) if self._events else None

    def next_deadline(self) -> float | None:
        return None if self.over else self.ends

    def on_deadline(self, now: float) -> None:
        if now >= self.ends:
            self.abort()

    def _on_auth(self, message: wire.Auth | wire.AuthV1, data: bytes) -> None:
        self._transcript.add(wire.unproven(data))
        self.proven = equal(message.mac, self._keys.device_mac(self._transcript.digest()))
        self.held = message.held if self.proven and isinstance(message, wire.Auth) else None
        if not (self.proven and self._known):
            self._move(Event.FAILURE)
            raise SsmpRefused(wire.ErrorCode.REFUSED, REFUSED_TEXT)
        self._info = message.info
        self._move(Event.AUTH)
        self._events.append(Authenticated(self.device_id, message.info, self.held))

    def _on_confirm(self, message: wire.Confirm, data: bytes) -> None:
        self._transcript.add(wire.unproven(data))
        if not equal(message.mac, self._keys.confirm_mac(self._transcript.digest())):
            self._move(Event.FAILURE)
            raise SsmpRefused(wire.ErrorCode.REFUSED, REFUSED_TEXT)
        self._move(Event.CONFIRM)
        self._events.append(Confirmed(self.device_id, self._info, self.held))

    def _move(self, event: Event) -> None:
        self._state = TRANSITIONS.after(self._state, event)


class SessionTable:
    """The sessions in progress; finished and expired ones are removed.

    A session of version 2 comes in when it is proven. One of version 1 comes in with its HELLO: when there are too many
    of those, the network that holds the most loses its oldest.
    """

    def __init__(
        self,
        random_bytes: Callable[[int], bytes],
        *,
        sessions_max: int = PROVEN_MAX,
        half_open_max: int = HALF_OPEN_MAX,
    ) -> None:
        self._random_bytes = random_bytes
        self._sessions_max = sessions_max
        self._half_open_max = half_open_max
        self._sessions: dict[bytes, ServerSession] = {}  # proven
        self._half_open: OrderedDict[bytes, tuple[ServerSession, str]] = OrderedDict()
        self._spent: dict[bytes, float] = {}  # cookies whose AUTH was proven, until they expire

    def __len__(self) -> int:
        return len(self._sessions) + len(self._half_open)

    def __contains__(self, identifier: bytes) -> bool:
        return identifier in self._sessions or identifier in self._half_open

    def prepare(self, opening: Opening, key: bytes, *, known: bool, now: float) -> ServerSession:
        """A session of version 2, which is in no table before `settle` finds it proven. Raises `SsmpRefused` for a
        challenge that has led to a session already, and when there are too many."""
        self.on_deadline(now)
        if opening.cookie in self._spent:
            raise SsmpRefused(wire.ErrorCode.OUT_OF_ORDER, ORDER_TEXT)
        if len(self._sessions) >= self._sessions_max or len(self._spent) >= 2 * self._sessions_max:
            raise SsmpRefused(wire.ErrorCode.UNAVAILABLE, FULL_TEXT)
        return ServerSession(self._random_bytes(wire.SESSION_BYTES), opening, key, known=known)

    def open(self, hello: bytes, key: bytes, network: str, *, known: bool, now: float) -> ServerSession:
        """Open a session for a HELLO of version 1; its `challenge` is the answer."""
        self.on_deadline(now)
        identifier = self._random_bytes(wire.SESSION_BYTES)
        challenge = wire.ChallengeV1(identifier, self._random_bytes(wire.NONCE_BYTES)).emit()
        session = ServerSession(identifier, Opening(hello, challenge, now + SESSION_S), key, known=known)
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
        while self._spent and now >= next(iter(self._spent.values())):
            del self._spent[next(iter(self._spent))]

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
