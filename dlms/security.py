"""Who a client is and how APDUs are protected: the settings. (The work is done in `dlms.ciphering` and `dlms.hls`.)

Authentication of the association (GB 9.2.2.2): none, a password (low level security), or a proof of both sides in four
passes (high level security, HLS). Protection of APDUs (GB 9.2.7): AES-GCM with a security suite,

    suite 0   AES-128-GCM
    suite 1   AES-128-GCM, ECDSA and ECDH on P-256, SHA-256
    suite 2   AES-256-GCM, ECDSA and ECDH on P-384, SHA-384

Nothing here shows a secret in its repr.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntFlag
from typing import TYPE_CHECKING, Protocol

from dlms.codes import Mechanism
from dlms.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

PASSWORD_OCTETS_MAX = 64
SYSTEM_TITLE_OCTETS = 8
CHALLENGE_OCTETS = 16  # of 8 to 64; some meters fail with more
CHALLENGE_OCTETS_MIN, CHALLENGE_OCTETS_MAX = 8, 64
COUNTER_MAX = 0xFFFF_FFFF
KEY_OCTETS = {0: 16, 1: 16, 2: 32}
SERVICE_OVERHEAD_OCTETS = 29  # general-glo head 10, length 2, control and counter 5, tag 12
_HEADER_OCTETS = 1 + 9 + 9 + 9 + 1 + 1  # tag, transaction, both titles, no date-time, no other information
CIPHERING_OVERHEAD_OCTETS = _HEADER_OCTETS + 3 + 3 + 5 + 12  # key-info, length, control and counter, tag
SIGNING_OVERHEAD_OCTETS = _HEADER_OCTETS + 3 + 2  # two lengths; the signature comes on top


class Policy(IntFlag):
    """What is done to every APDU. The bits are those of the security control octet."""

    NONE = 0
    AUTHENTICATE = 0x10
    ENCRYPT = 0x20
    BOTH = 0x30


class InvocationCounters(Protocol):
    """The counters that go with one key. A counter value is used once, whatever happens to the process."""

    def next(self) -> int:
        """A value never given before, and recorded durably as used before this returns.

        Raises `LocalError` when there is none left: the key must be changed.
        """

    def seen(self) -> int | None:
        """The highest counter accepted from the peer so far; None before the first."""

    def note(self, counter: int) -> None:
        """The peer used `counter`, which was checked to be new."""


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


@dataclass(frozen=True, slots=True)
class Security:
    """Keys and habits for ciphered associations with one meter.

    `ek` is the global unicast encryption key, `ak` the authentication key, `system_title` our own. `counters` belong to
    `ek`. With `dedicated` a key is made for the one association. `general` sends general-glo/ded-ciphering, which says
    whose key it is, instead of the forms that belong to a service. `peer_title` is the other side's system title where
    it does not say it itself. Without `ciphered_context` the keys serve HLS 5 alone and APDUs stay plain.

    `general_ciphering` sends general-ciphering, which names both ends, where the other side takes it; a meter's side
    always takes it and answers in kind. With `signing_key` and `peer_signing_key` (suites 1 and 2) every APDU of the
    association is signed in general-signing, and one that is not signed is refused. Both go with the global key.

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

    def __post_init__(self) -> None:
        octets = KEY_OCTETS.get(self.suite)
        if octets is None:
            raise LocalError(f"security suite {self.suite} does not exist: 0, 1 or 2")
        if len(self.ek) != octets or len(self.ak) not in (0, octets):
            raise LocalError(f"keys of suite {self.suite} have {octets} octets")
        if self.policy & Policy.AUTHENTICATE and not self.ak:
            raise LocalError("authenticated APDUs need an authentication key")
        if (self.signing_key is None) != (self.peer_signing_key is None):
            raise LocalError("signing needs our private key and the other side's public key")
        if self.signs and not self.suite:
            raise LocalError("suite 0 signs nothing")
        if self.named and (self.dedicated or self.general or not self.ciphered_context):
            raise LocalError("general-ciphering and signing go with the global key of a ciphered context, in one form")
        for title in (self.system_title, self.peer_title):
            if title is not None and len(title) != SYSTEM_TITLE_OCTETS:
                raise LocalError(f"a system title has {SYSTEM_TITLE_OCTETS} octets")

    @property
    def signs(self) -> bool:
        """Whether every APDU is signed, ours and the other side's."""
        return self.signing_key is not None

    @property
    def named(self) -> bool:
        """Whether the form wanted is one that names both ends."""
        return self.general_ciphering or self.signs

    @property
    def overhead(self) -> int:
        """How much protection adds to an APDU at most, in octets."""
        if not self.named:
            return SERVICE_OVERHEAD_OCTETS
        signature = 2 * (32 if self.suite == 1 else 48)
        return CIPHERING_OVERHEAD_OCTETS + (SIGNING_OVERHEAD_OCTETS + signature if self.signs else 0)


# -------------------------------------------------------------------------------------------------- authentication


@dataclass(frozen=True, slots=True)
class NoAuth:
    """Lowest level: nothing is proved."""

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
    """High level security; `mechanism` says which.

    MD5, SHA-1 and SHA-256 prove knowledge of `secret`. GMAC proves knowledge of the keys of the association's
    `Security`, ECDSA of `private_key` (and `peer_key` checks the other side's). Mechanism 2 is whatever its maker
    agreed on: `transform` turns a challenge into its proof. `challenge_octets` is the length of our challenge.
    """

    mechanism: Mechanism
    secret: bytes = field(default=b"", repr=False)
    private_key: EllipticCurvePrivateKey | None = field(default=None, repr=False)
    peer_key: EllipticCurvePublicKey | None = field(default=None, repr=False)
    transform: Callable[[bytes], bytes] | None = field(default=None, repr=False)
    challenge_octets: int = CHALLENGE_OCTETS

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
        if not CHALLENGE_OCTETS_MIN <= self.challenge_octets <= CHALLENGE_OCTETS_MAX:
            raise LocalError(f"a challenge has {CHALLENGE_OCTETS_MIN} to {CHALLENGE_OCTETS_MAX} octets")


Auth = NoAuth | Lls | Hls

_NAMED = {
    "md5": Mechanism.HLS_MD5,
    "sha1": Mechanism.HLS_SHA1,
    "gmac": Mechanism.HLS_GMAC,
    "sha256": Mechanism.HLS_SHA256,
}


def open_auth(name: str, secret: bytes = b"") -> Auth:
    """The authentication called `name` ("none", "low", "md5", "sha1", "gmac", "sha256") with `secret`.

    Raises `LocalError` for an unknown name or an unfit secret.
    """
    if name == "none":
        return NoAuth()
    if name == "low":
        return Lls(secret)
    mechanism = _NAMED.get(name)
    if mechanism is None:
        raise LocalError(f"{name!r} is not an authentication: use none, low, {', '.join(_NAMED)}")
    return Hls(mechanism, secret)
