"""The proofs of high level security (GB 9.2.2.2.2.4, 9.2.7.4): one side's answer to the other's challenge.

```
CtoS, StoC: the challenges in AARQ and AARE.   ST-C, ST-S: the system titles.
2 by agreement   f = transform(challenge), often `aes_ecb(secret)`
3 MD5            f = MD5(challenge | secret)
4 SHA-1          f = SHA-1(challenge | secret)
5 GMAC           f = SC | IC | GMAC(SC | AK | challenge)
6 SHA-256        f(StoC) = SHA-256(secret | ST-C | ST-S | StoC | CtoS), f(CtoS) with both pairs exchanged
7 ECDSA          f(StoC) = signature of ST-C | ST-S | StoC | CtoS, f(CtoS) with both pairs exchanged; challenges of 7
                 have 32 octets or more
```
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dlms.codes import Mechanism
from dlms.errors import LocalError, PeerError, SecurityError
from dlms.security.ecdsa import check_signature, sign
from dlms.security.random_octets import RandomOctets, system_random
from dlms.security.settings import CHALLENGE_OCTETS_MAX, CHALLENGE_OCTETS_MIN, Hls

if TYPE_CHECKING:
    from collections.abc import Callable


AES_BLOCK_OCTETS = 16
_PRINTABLE = (
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"  # 64 characters, so that all are equally likely
)


def make_challenge(hls: Hls, random_octets: RandomOctets = system_random) -> bytes:
    """A fresh challenge. It is printable because some meters expect text."""
    return bytes(_PRINTABLE[octet % len(_PRINTABLE)] for octet in random_octets(hls.challenge_octets))


def check_challenges(ours: bytes, theirs: bytes) -> None:
    """Check the challenge of the other side against ours: its length, and that it is not ours, which our own proof
    would answer. Raises `PeerError`.
    """
    if not CHALLENGE_OCTETS_MIN <= len(theirs) <= CHALLENGE_OCTETS_MAX:
        raise PeerError(f"a challenge of {len(theirs)} octets")
    if hmac.compare_digest(ours, theirs):
        raise PeerError("our own challenge came back")


class Gmac(Protocol):
    """Makes and checks the proofs of mechanism 5: the association's `dlms.security.ciphering.Ciphering`."""

    def gmac(self, challenge: bytes) -> bytes: ...

    def check_gmac(self, challenge: bytes, proof: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Challenges:
    """Challenges and system titles as one side sees them."""

    ours: bytes
    theirs: bytes
    our_title: bytes = b""
    their_title: bytes = b""


def prove(hls: Hls, challenges: Challenges, gmac: Gmac | None) -> bytes:
    """Our answer to their challenge. Raises `LocalError` when keys or titles that it needs are missing."""
    if hls.mechanism is Mechanism.HLS_GMAC:
        return _need(gmac).gmac(challenges.theirs)
    if hls.mechanism is Mechanism.HLS_ECDSA:
        return _sign(hls, challenges)
    return _digest(hls, challenges.theirs, challenges.ours, challenges.our_title, challenges.their_title)


def verify(hls: Hls, challenges: Challenges, proof: bytes, gmac: Gmac | None) -> None:
    """Check their answer to our challenge. Raises `PeerError` when it is wrong, and `LocalError` like `prove`."""
    if hls.mechanism is Mechanism.HLS_GMAC:
        _need(gmac).check_gmac(challenges.ours, proof)
    elif hls.mechanism is Mechanism.HLS_ECDSA:
        _check_signature(hls, challenges, proof)
    else:
        expected = _digest(hls, challenges.ours, challenges.theirs, challenges.their_title, challenges.our_title)
        if not hmac.compare_digest(expected, proof):
            raise SecurityError("the proof of the other side is wrong")


def _need(gmac: Gmac | None) -> Gmac:
    if gmac is None:
        raise LocalError("HLS_GMAC needs the keys of a Security")
    return gmac


def _digest(hls: Hls, challenge: bytes, other: bytes, prover: bytes, verifier: bytes) -> bytes:
    """The proof for `challenge`; `prover` is the system title of the side that answers it."""
    if hls.mechanism is Mechanism.HLS_MD5:
        return hashlib.md5(challenge + hls.secret, usedforsecurity=False).digest()
    if hls.mechanism is Mechanism.HLS_SHA1:
        return hashlib.sha1(challenge + hls.secret, usedforsecurity=False).digest()
    if hls.mechanism is Mechanism.HLS_SHA256:
        return hashlib.sha256(hls.secret + prover + verifier + challenge + other).digest()
    if hls.transform is None:
        raise LocalError("HLS 2 needs the transform agreed with the maker")
    return hls.transform(challenge)


def aes_ecb(secret: bytes) -> Callable[[bytes], bytes]:
    """A `transform` for mechanism 2 that many makers use: the challenge, padded with zeros, encrypted block by block
    with the secret (AES-128-ECB). Raises `LocalError` unless the secret has 16 octets."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    if len(secret) != AES_BLOCK_OCTETS:
        raise LocalError(f"a secret for AES-128 has {AES_BLOCK_OCTETS} octets")
    cipher = Cipher(algorithms.AES(secret), modes.ECB())  # noqa: S305 - a challenge never comes twice

    def transform(challenge: bytes) -> bytes:
        encryptor = cipher.encryptor()
        padded = challenge + bytes(-len(challenge) % AES_BLOCK_OCTETS)
        return encryptor.update(padded) + encryptor.finalize()

    return transform


def _signed(challenge: bytes, other: bytes, prover: bytes, verifier: bytes) -> bytes:
    return prover + verifier + challenge + other


def _sign(hls: Hls, challenges: Challenges) -> bytes:
    if hls.private_key is None:
        raise LocalError("HLS_ECDSA needs our private key")
    return sign(
        hls.private_key,
        _signed(challenges.theirs, challenges.ours, challenges.our_title, challenges.their_title),
    )


def _check_signature(hls: Hls, challenges: Challenges, proof: bytes) -> None:
    if hls.peer_key is None:
        raise LocalError("HLS_ECDSA needs the meter's public key")
    signed = _signed(challenges.ours, challenges.theirs, challenges.their_title, challenges.our_title)
    check_signature(hls.peer_key, signed, proof)
