"""Keys that come with a message: the key-info of general-ciphering (GB 9.2.3.3, 9.2.3.4, 9.2.5, 9.5).

```
identified-key  00 | 01                      the global unicast or broadcast encryption key
wrapped-key     kek-id 0, wrapped key        a fresh key under the master key (AES key wrap, RFC 3394)
agreed-key      01, x | y | signature        one-pass Diffie-Hellman C(1e, 1s): party U's ephemeral public key, and its
                                             ECDSA signature over x | y
                02, nothing                  static unified model C(0e, 2s)
K = Hash(00000001 | Z | AlgorithmID | ID_U | [length | transaction-id] | ID_V), cut to the length of the key
```

Party U is whoever sends the message; its transaction id is the nonce of the static unified model and of that alone. Z
is the x coordinate of ephemeral times static, or static times static.

A wrapped or one-pass key is fresh, and its invocation counter 0. A static key comes again when a transaction id does
(an answer repeats the one of its request), so it goes with the counter of the global key, which never does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlms.cursor import length_octets
from dlms.errors import LocalError, PeerError
from dlms.security.ecdsa import check_signature, sign
from dlms.security.general_formats import AGREED, IDENTIFIED, WRAPPED, Header, KeyInfo
from dlms.security.keys import (
    GCM_ALGORITHM,
    KeyId,
    curve_of,
    kdf,
    public_key,
    public_octets,
    shared_secret,
    unwrap,
    wrap,
)
from dlms.security.random_octets import RandomOctets, system_random
from dlms.security.settings import KEY_OCTETS, KeyChoice, Security, coordinate_octets

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

ONE_PASS, STATIC = b"\x01", b"\x02"
MASTER_KEK_ID = 0
GLOBAL_UNICAST = KeyInfo(IDENTIFIED, KeyId.GLOBAL_UNICAST_ENCRYPTION)
GLOBAL_BROADCAST = KeyInfo(IDENTIFIED, KeyId.GLOBAL_BROADCAST_ENCRYPTION)


def wrapped_key(master: bytes, key: bytes) -> KeyInfo:
    """Key-info that brings `key` along under the master key. Raises `LocalError`."""
    return KeyInfo(WRAPPED, MASTER_KEK_ID, data=wrap(master, key))


def key_of(info: KeyInfo, master: bytes) -> bytes:
    """The key that such a key-info brings. Raises `PeerError`."""
    if info.kind != WRAPPED or info.key_id != MASTER_KEK_ID:
        raise PeerError("no key wrapped under the master key came along")
    return unwrap(master, info.data)


def one_pass_originator(
    suite: int, header: Header, recipient: EllipticCurvePublicKey, signing: EllipticCurvePrivateKey
) -> tuple[bytes, KeyInfo]:
    """A fresh key for `recipient` by one-pass Diffie-Hellman, and the key-info that tells it."""
    from cryptography.hazmat.primitives.asymmetric import ec

    ephemeral = ec.generate_private_key(curve_of(suite))
    point = public_octets(ephemeral.public_key())
    key = _derived(suite, shared_secret(ephemeral, recipient), header)
    return key, KeyInfo(AGREED, parameters=ONE_PASS, data=point + sign(signing, point))


def one_pass_recipient(
    suite: int, header: Header, info: KeyInfo, static: EllipticCurvePrivateKey, verifying: EllipticCurvePublicKey
) -> bytes:
    """The same key from the key-info, whose signature must be the originator's. Raises `PeerError`."""
    if info.kind != AGREED or info.parameters != ONE_PASS:
        raise PeerError("the key was not agreed on by one-pass Diffie-Hellman")
    point, signature = ephemeral_of(suite, info)
    check_signature(verifying, point, signature)
    return one_pass_key(suite, header, point, static)


def ephemeral_of(suite: int, info: KeyInfo) -> tuple[bytes, bytes]:
    """Party U's ephemeral public key, and the signature behind it."""
    size = 2 * coordinate_octets(suite)
    return info.data[:size], info.data[size:]


def one_pass_key(suite: int, header: Header, point: bytes, static: EllipticCurvePrivateKey) -> bytes:
    """The key as party V derives it, with no signature looked at. Raises `PeerError`."""
    return _derived(suite, shared_secret(static, public_key(suite, point)), header)


def static_key(suite: int, header: Header, ours: EllipticCurvePrivateKey, theirs: EllipticCurvePublicKey) -> bytes:
    """The key of the static unified model, the same on both sides. Raises `LocalError` without a transaction id."""
    if not header.transaction:
        raise LocalError("the static unified model needs a transaction id")
    nonce = length_octets(len(header.transaction)) + header.transaction
    return _derived(suite, shared_secret(ours, theirs), header, nonce)


def _derived(suite: int, secret: bytes, header: Header, nonce: bytes = b"") -> bytes:
    return kdf(suite, secret, GCM_ALGORITHM[suite], header.originator + nonce, header.recipient)


# ------------------------------------------------------------------------------------------ one message, either way


@dataclass(frozen=True, slots=True)
class MessageKey:
    """The key of one message. `choice` is None for the broadcast key. `fresh`: of one we send, that the key is new and
    its invocation counter 0; of one that came, that its counter tells no replay."""

    key: bytes
    info: KeyInfo
    choice: KeyChoice | None = KeyChoice.GLOBAL
    fresh: bool = False

    @property
    def broadcast(self) -> bool:
        return self.choice is None


def outgoing(
    security: Security, header: Header, choice: KeyChoice, random_octets: RandomOctets = system_random
) -> MessageKey:
    """A key for a message that we send. Raises `LocalError` when our keys do not allow `choice`."""
    options, suite = security.options, security.suite
    if choice is KeyChoice.GLOBAL:
        return MessageKey(security.ek, GLOBAL_UNICAST)
    if choice is KeyChoice.WRAPPED:
        key = random_octets(KEY_OCTETS[suite])
        return MessageKey(key, wrapped_key(options.master_key, key), choice, fresh=True)
    theirs = options.peer_agreement_key
    if choice is KeyChoice.ONE_PASS and theirs is not None and security.signing_key is not None:
        key, info = one_pass_originator(suite, header, theirs, security.signing_key)
        return MessageKey(key, info, choice, fresh=True)
    if choice is KeyChoice.STATIC and theirs is not None and options.agreement_key is not None:
        key = static_key(suite, header, options.agreement_key, theirs)
        return MessageKey(key, KeyInfo(AGREED, parameters=STATIC), choice)
    raise LocalError(f"our keys do not allow to send with a key of the kind {choice.value}")


def incoming(security: Security, header: Header, info: KeyInfo | None) -> MessageKey:
    """The key of a message that came; no key-info is the global key. Raises `PeerError` for a key that we do not have
    or cannot answer with, that does not unwrap, or whose ephemeral key nobody vouches for."""
    if info is None or info == GLOBAL_UNICAST:
        return MessageKey(security.ek, GLOBAL_UNICAST)
    if info == GLOBAL_BROADCAST and security.options.broadcast_key:
        return MessageKey(security.options.broadcast_key, info, None)
    if info.kind == WRAPPED and security.options.master_key:
        key = key_of(info, security.options.master_key)
        if len(key) != KEY_OCTETS[security.suite]:
            raise PeerError(f"a wrapped key of {len(key)} octets")
        return MessageKey(key, info, KeyChoice.WRAPPED, fresh=True)
    if info.kind == AGREED:
        return _agreed(security, header, info)
    raise PeerError("ciphered with a key that we do not have")


def _agreed(security: Security, header: Header, info: KeyInfo) -> MessageKey:
    ours, theirs = security.options.agreement_key, security.options.peer_agreement_key
    if ours is None or theirs is None:
        raise PeerError("ciphered with an agreed key, and our key agreement keys are not known")
    if info.parameters == STATIC:
        if info.data or not header.transaction:
            raise PeerError("the static unified model with more than a transaction id, or without one")
        key = static_key(security.suite, header, ours, theirs)
        return MessageKey(key, info, KeyChoice.STATIC, fresh=True)
    verifying = security.peer_signing_key
    if info.parameters != ONE_PASS or verifying is None:
        raise PeerError("ciphered with an agreed key, and nobody vouches for how it was agreed on")
    key = one_pass_recipient(security.suite, header, info, ours, verifying)
    return MessageKey(key, info, KeyChoice.ONE_PASS, fresh=True)
