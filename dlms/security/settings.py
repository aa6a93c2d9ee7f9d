"""Settings of authentication and protection. `dlms.security.hls` and `dlms.security.ciphering` do the work.

Authentication of the association (GB 9.2.2.2): none, a password (low level security), or mutual proofs in four passes
(high level security, HLS). Protection of APDUs (GB 9.2.7): AES-GCM with a security suite,

    suite 0   AES-128-GCM
    suite 1   AES-128-GCM, ECDSA and ECDH on P-256, SHA-256
    suite 2   AES-256-GCM, ECDSA and ECDH on P-384, SHA-384

Nothing here shows a secret in its repr.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntFlag
from typing import TYPE_CHECKING, Protocol

from dlms.axdr import DATE_TIME_OCTETS
from dlms.codes import Mechanism
from dlms.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

PASSWORD_OCTETS_MAX = 64
SYSTEM_TITLE_OCTETS = 8
CHALLENGE_OCTETS = 16  # of 8 to 64; some meters fail with more
CHALLENGE_OCTETS_ECDSA = 32  # of 32 to 64
CHALLENGE_OCTETS_MIN, CHALLENGE_OCTETS_MAX = 8, 64
COUNTER_MAX = 0xFFFF_FFFF
KEY_OCTETS = {0: 16, 1: 16, 2: 32}
SERVICE_OVERHEAD_OCTETS = 29  # general-glo head 10, length 2, control and counter 5, tag 12
_HEADER_OCTETS = 1 + 9 + 9 + 9 + 1 + 1  # tag, transaction, both titles, no date-time, no other information
CIPHERING_OVERHEAD_OCTETS = _HEADER_OCTETS + 3 + 3 + 5 + 12  # identified key, length, control and counter, tag
SIGNING_OVERHEAD_OCTETS = _HEADER_OCTETS + 3 + 2  # two lengths; the signature comes on top
OTHER_INFORMATION_OCTETS_MAX = 64  # sent by us; `dlms.security.general_formats` bounds what is received


class Policy(IntFlag):
    """The protection of every APDU. The bits are those of the security control octet."""

    NONE = 0
    AUTHENTICATE = 0x10
    ENCRYPT = 0x20
    BOTH = 0x30


class InvocationCounters(Protocol):
    """The invocation counters of one key. A value is used only once, whatever happens to the process."""

    def next(self) -> int:
        """A value that was never returned before, and is durably recorded as used before this returns.

        Raises `LocalError` when none is left: the key must be changed.
        """

    def seen(self) -> int | None:
        """The highest counter accepted from the peer so far; None before the first."""

    def note(self, counter: int) -> None:
        """Record that the peer used `counter`, which was checked to be new."""


class MemoryCounters:
    """Counters for tests, and for keys that live no longer than the process, such as dedicated keys."""

    def __init__(self, start: int = 0, seen: int | None = None) -> None:
        self._next = start
        self._seen = seen

    def next(self) -> int:
        value = self._next
        if value > COUNTER_MAX:
            raise LocalError("the invocation counter is used up: change the key")
        self._next = value + 1
        return value

    def seen(self) -> int | None:
        return self._seen

    def note(self, counter: int) -> None:
        self._seen = counter


class KeyChoice(Enum):
    """The choice of key in general-ciphering (key-info, GB 9.2.3 and 9.5)."""

    GLOBAL = "global"  # the global unicast encryption key, identified
    WRAPPED = "wrapped"  # a fresh key per message, wrapped under the master key
    ONE_PASS = "one-pass"  # a fresh key per message, by one-pass Diffie-Hellman C(1e, 1s)
    STATIC = "static"  # a key per transaction, by the static unified model C(0e, 2s)

    @property
    def agreed(self) -> bool:
        return self in (KeyChoice.ONE_PASS, KeyChoice.STATIC)


@dataclass(frozen=True, slots=True)
class GeneralOptions:
    """Options of general-ciphering and general-signing beyond the global keys.

    `key` is the choice of key that we send with; whatever the keys here allow is accepted. `agreement_key` and
    `peer_agreement_key` are the static key agreement keys, ours and the peer's. `date_time` returns the 12 octets for
    the header of each message; `other_information` is in the header of each.

    `broadcast_key` and its counters are for unconfirmed requests to many meters at once. All of them know the key, so
    confirmed requests are not accepted with it.
    """

    key: KeyChoice = KeyChoice.GLOBAL
    master_key: bytes = field(default=b"", repr=False)
    agreement_key: EllipticCurvePrivateKey | None = field(default=None, repr=False)
    peer_agreement_key: EllipticCurvePublicKey | None = field(default=None, repr=False)
    broadcast_key: bytes = field(default=b"", repr=False)
    broadcast_counters: InvocationCounters = field(default_factory=MemoryCounters, repr=False)
    date_time: Callable[[], bytes] | None = field(default=None, repr=False)
    other_information: bytes = b""

    def __post_init__(self) -> None:
        if len(self.other_information) > OTHER_INFORMATION_OCTETS_MAX:
            raise LocalError(f"other information of more than {OTHER_INFORMATION_OCTETS_MAX} octets")
        if self.key is KeyChoice.WRAPPED and not self.master_key:
            raise LocalError("keys cannot be wrapped without a master key")
        if self.key.agreed and self.peer_agreement_key is None:
            raise LocalError("key agreement needs the other side's key agreement key")
        if self.key is KeyChoice.STATIC and self.agreement_key is None:
            raise LocalError("the static unified model needs our own key agreement key")

    def overhead(self, suite: int) -> int:
        """How much these options add to the key-info and the header at most, in octets."""
        date_time = DATE_TIME_OCTETS if self.date_time is not None else 0
        point = 2 * coordinate_octets(suite) if suite else 0
        sizes = (KEY_OCTETS[suite] + 9 if self.master_key else 0, 2 * point + 5 if self.peer_agreement_key else 0)
        return date_time + len(self.other_information) + max(sizes)


def coordinate_octets(suite: int) -> int:
    """The octets of one coordinate of a point, and of each half of a signature, in suites 1 and 2."""
    return 32 if suite == 1 else 48


@dataclass(frozen=True, slots=True)
class Security:
    """Keys and options for ciphered associations with one meter.

    `ek` is the global unicast encryption key, `ak` the authentication key, `system_title` our own. `counters` belong to
    `ek`. With `dedicated` each association has a key of its own. `general` sends general-glo/ded-ciphering, which
    carries the system title, instead of the service-specific forms. `peer_title` is the peer's system title, for a peer
    that does not send it. Without `ciphered_context` the keys are used for HLS 5 only and APDUs stay plain.

    `general_ciphering` sends general-ciphering, which names both ends, if the peer takes it; a meter always accepts it
    and answers with it, using the same choice of key. `options` has the choice of key, and more. With `signing_key` and
    `peer_signing_key` (suites 1 and 2) every APDU of the association is signed (general-signing), and unsigned ones are
    refused; with `sign` off the two keys only authenticate ephemeral keys.

    Raises `LocalError` for keys and titles of a wrong length.
    """

    system_title: bytes
    ek: bytes = field(repr=False)
    ak: bytes = field(default=b"", repr=False)
    suite: int = 0
    policy: Policy = Policy.BOTH
    counters: InvocationCounters = field(default_factory=MemoryCounters, repr=False)
    dedicated: bool = False
    general: bool = False
    peer_title: bytes | None = None
    ciphered_context: bool = True
    general_ciphering: bool = False
    signing_key: EllipticCurvePrivateKey | None = field(default=None, repr=False)
    peer_signing_key: EllipticCurvePublicKey | None = field(default=None, repr=False)
    sign: bool = True
    options: GeneralOptions = field(default_factory=GeneralOptions)

    def __post_init__(self) -> None:
        octets = KEY_OCTETS.get(self.suite)
        if octets is None:
            raise LocalError(f"security suite {self.suite} does not exist: 0, 1 or 2")
        if len(self.ek) != octets or len(self.ak) not in (0, octets):
            raise LocalError(f"keys of suite {self.suite} have {octets} octets")
        if self.policy & Policy.AUTHENTICATE and not self.ak:
            raise LocalError("authenticated APDUs need an authentication key")
        if self.named and (self.dedicated or self.general or not self.ciphered_context):
            raise LocalError("general-ciphering and signing go with the global key of a ciphered context, in one form")
        if self.dedicated and not self.ciphered_context:
            raise LocalError("a dedicated key does not travel in a plain context")
        self._check_asymmetric()
        self._check_options(octets)
        for title in (self.system_title, self.peer_title):
            if title is not None and len(title) != SYSTEM_TITLE_OCTETS:
                raise LocalError(f"a system title has {SYSTEM_TITLE_OCTETS} octets")

    def _check_asymmetric(self) -> None:
        if (self.signing_key is None) != (self.peer_signing_key is None):
            raise LocalError("signing needs our private key and the other side's public key")
        keys = (
            self.signing_key,
            self.peer_signing_key,
            self.options.agreement_key,
            self.options.peer_agreement_key,
        )
        for key in keys:
            if key is not None and not self.suite:
                raise LocalError("suite 0 signs nothing and agrees on nothing")
            if key is not None and key.curve.key_size != 8 * coordinate_octets(self.suite):
                raise LocalError(f"a key of another curve than that of suite {self.suite}")

    def _check_options(self, octets: int) -> None:
        options = self.options
        if options.key is not KeyChoice.GLOBAL and not (self.general_ciphering and self.policy & Policy.AUTHENTICATE):
            # the transaction id protects from replay, since the counter restarts with each key
            raise LocalError("keys of a message are for general-ciphering that authenticates")
        if options.key is KeyChoice.ONE_PASS and self.signing_key is None:
            raise LocalError("one-pass Diffie-Hellman needs a signing key, to sign the ephemeral key")
        if len(options.broadcast_key) not in (0, octets):
            raise LocalError(f"keys of suite {self.suite} have {octets} octets")
        if len(options.master_key) not in (0, octets):
            raise LocalError(f"the master key of suite {self.suite} has {octets} octets")

    @property
    def signs(self) -> bool:
        """Whether every APDU is signed, ours and the peer's."""
        return self.sign and self.signing_key is not None

    @property
    def named(self) -> bool:
        """Whether APDUs are sent in a form that names both ends."""
        return self.general_ciphering or self.signs

    @property
    def overhead(self) -> int:
        """The octets that protection adds to an APDU at most."""
        if not self.named:
            return SERVICE_OVERHEAD_OCTETS
        ciphering = CIPHERING_OVERHEAD_OCTETS + self.options.overhead(self.suite)
        if not self.signs:
            return ciphering
        header = (DATE_TIME_OCTETS if self.options.date_time else 0) + len(self.options.other_information)
        return ciphering + SIGNING_OVERHEAD_OCTETS + header + 2 * coordinate_octets(self.suite)


# -------------------------------------------------------------------------------------------------- authentication


@dataclass(frozen=True, slots=True)
class NoAuth:
    """Lowest level security: no authentication."""

    @property
    def mechanism(self) -> Mechanism:
        return Mechanism.NONE


@dataclass(frozen=True, slots=True)
class Lls:
    """Low level security: a password in the AARQ, in the clear. Text is taken as UTF-8."""

    secret: bytes | str = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 < len(self.password) <= PASSWORD_OCTETS_MAX:
            raise LocalError(f"a password has 1 to {PASSWORD_OCTETS_MAX} octets")

    @property
    def password(self) -> bytes:
        return self.secret.encode() if isinstance(self.secret, str) else self.secret

    @property
    def mechanism(self) -> Mechanism:
        return Mechanism.LLS


@dataclass(frozen=True, slots=True)
class Hls:
    """High level security by one `mechanism`.

    MD5, SHA-1 and SHA-256 prove knowledge of `secret`; GMAC of the keys in the association's `Security`; ECDSA of
    `private_key` (`peer_key` checks the peer's proof). Mechanism 2 is defined by the maker: `transform` turns a
    challenge into its proof. `challenge_octets` is the length of our challenge; 0 means 16, or 32 for ECDSA. SHA-256
    and ECDSA also prove system titles: `system_title` is ours, unless a `Security` has it.
    """

    mechanism: Mechanism
    secret: bytes = field(default=b"", repr=False)
    private_key: EllipticCurvePrivateKey | None = field(default=None, repr=False)
    peer_key: EllipticCurvePublicKey | None = field(default=None, repr=False)
    transform: Callable[[bytes], bytes] | None = field(default=None, repr=False)
    challenge_octets: int = 0
    system_title: bytes = b""

    def __post_init__(self) -> None:
        mechanism = self.mechanism
        if mechanism < Mechanism.HLS:
            raise LocalError(f"{mechanism.name} is not a mechanism of high level security")
        if mechanism in (Mechanism.HLS_MD5, Mechanism.HLS_SHA1, Mechanism.HLS_SHA256) and not self.secret:
            raise LocalError(f"{mechanism.name} needs a secret")
        if mechanism is Mechanism.HLS and self.transform is None:
            raise LocalError("HLS 2 needs the transform agreed with the maker")
        if mechanism is Mechanism.HLS_ECDSA and (self.private_key is None or self.peer_key is None):
            raise LocalError("HLS_ECDSA needs our private key and the meter's public key")
        ecdsa = mechanism is Mechanism.HLS_ECDSA
        if not self.challenge_octets:
            object.__setattr__(self, "challenge_octets", CHALLENGE_OCTETS_ECDSA if ecdsa else CHALLENGE_OCTETS)
        shortest = CHALLENGE_OCTETS_ECDSA if ecdsa else CHALLENGE_OCTETS_MIN
        if not shortest <= self.challenge_octets <= CHALLENGE_OCTETS_MAX:
            raise LocalError(f"a challenge of {mechanism.name} has {shortest} to {CHALLENGE_OCTETS_MAX} octets")
        if len(self.system_title) not in (0, SYSTEM_TITLE_OCTETS):
            raise LocalError(f"a system title has {SYSTEM_TITLE_OCTETS} octets")


Auth = NoAuth | Lls | Hls


def own_title(auth: Auth, security: Security | None) -> bytes | None:
    """Our system title, from `security` or `auth`; None when neither has it."""
    if security is not None:
        return security.system_title
    return auth.system_title or None if isinstance(auth, Hls) else None


_NAMED = {
    "md5": Mechanism.HLS_MD5,
    "sha1": Mechanism.HLS_SHA1,
    "gmac": Mechanism.HLS_GMAC,
    "sha256": Mechanism.HLS_SHA256,
}


def open_auth(name: str, secret: bytes = b"", system_title: bytes = b"") -> Auth:
    """Make the authentication `name` ("none", "low", "md5", "sha1", "gmac", "sha256") with `secret`.

    Raises `LocalError` for an unknown name or an unsuitable secret.
    """
    if name == "none":
        return NoAuth()
    if name == "low":
        return Lls(secret)
    mechanism = _NAMED.get(name)
    if mechanism is None:
        raise LocalError(f"{name!r} is not an authentication: use none, low, {', '.join(_NAMED)}")
    return Hls(mechanism, secret, system_title=system_title)
