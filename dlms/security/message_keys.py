"""The keys of single messages: key-info of general-ciphering (GB 9.2.3.3, 9.2.3.4, 9.2.5, 9.5).

```
identified-key  00 | 01                      the global unicast or broadcast encryption key
wrapped-key     kek-id 0, wrapped key        a fresh key under the master key (AES key wrap, RFC 3394)
agreed-key      01, x | y | signature        one-pass Diffie-Hellman C(1e, 1s): party U's ephemeral public key, and its
                                             ECDSA signature over x | y
                02, nothing                  static unified model C(0e, 2s)
K = Hash(00000001 | Z | AlgorithmID | ID_U | [length | transaction-id] | ID_V), cut to the length of the key
```

Party U is the sender of the message. The transaction id is used as a nonce in the static unified model only. Z is the
x coordinate of ephemeral times static, or of static times static.

A wrapped or one-pass key is fresh, and its invocation counter is 0. A static key is derived again whenever a
transaction id is repeated (an answer repeats that of its request), so it is used with the counter of the global key,
which never repeats.
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
from dlms.security.random_octets import RandomOctets, new_key_pair, system_random
from dlms.security.settings import KEY_OCTETS, KeyChoice, Security, coordinate_octets

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

ONE_PASS, STATIC = b"\x01", b"\x02"
MASTER_KEK_ID = 0
GLOBAL_UNICAST = KeyInfo(IDENTIFIED, KeyId.GLOBAL_UNICAST_ENCRYPTION)
GLOBAL_BROADCAST = KeyInfo(IDENTIFIED, KeyId.GLOBAL_BROADCAST_ENCRYPTION)


def wrapped_key(master: bytes, key: bytes) -> KeyInfo:
    """Key-info that carries `key` wrapped under the master key. Raises `LocalError`."""
    return KeyInfo(WRAPPED, MASTER_KEK_ID, data=wrap(master, key))


def key_of(info: KeyInfo, master: bytes) -> bytes:
    """Unwrap the key in a wrapped-key key-info. Raises `PeerError`."""
    if info.choice != WRAPPED or info.key_id != MASTER_KEK_ID:
        raise PeerError("the key-info has no key wrapped under the master key")
    return unwrap(master, info.data)


def one_pass_originator(
    suite: int, header: Header, recipient: EllipticCurvePublicKey, signing: EllipticCurvePrivateKey
) -> tuple[bytes, KeyInfo]:
    """Agree on a fresh key by one-pass Diffie-Hellman; return it, and the key-info for `recipient` to derive it."""
    ephemeral = new_key_pair(curve_of(suite))
    point = public_octets(ephemeral.public_key())
    key = _derived(suite, shared_secret(ephemeral, recipient), header)
    return key, KeyInfo(AGREED, parameters=ONE_PASS, data=point + sign(signing, point))


def one_pass_recipient(
    suite: int, header: Header, info: KeyInfo, static: EllipticCurvePrivateKey, verifying: EllipticCurvePublicKey
) -> bytes:
    """Derive the same key from the key-info, whose signature must be the originator's. Raises `PeerError`."""
    if info.choice != AGREED or info.parameters != ONE_PASS:
        raise PeerError("the key was not agreed on by one-pass Diffie-Hellman")
    point, signature = ephemeral_of(suite, info)
    check_signature(verifying, point, signature)
    return one_pass_key(suite, header, point, static)


def ephemeral_of(suite: int, info: KeyInfo) -> tuple[bytes, bytes]:
    """Party U's ephemeral public key, and the signature that follows it."""
    size = 2 * coordinate_octets(suite)
    return info.data[:size], info.data[size:]


def one_pass_key(suite: int, header: Header, point: bytes, static: EllipticCurvePrivateKey) -> bytes:
    """Derive the key as party V, without checking the signature. Raises `PeerError`."""
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
    """The key of one message. `choice` is None for the broadcast key.

    `fresh` says that the key is new with this message: when sending, its invocation counter is 0; when receiving, its
    counter does not protect from replay.
    """

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
    """The key for a message to send. Raises `LocalError` when our keys do not allow `choice`."""
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
    raise LocalError(f"our keys do not allow sending with the choice of key {choice.value}")


def incoming(security: Security, header: Header, info: KeyInfo | None) -> MessageKey:
    """The key of a received message; without key-info it is the global key.

    Raises `PeerError` for a key that we do not have or cannot answer with, that does not unwrap, or whose ephemeral key
    is not signed.
    """
    if info is None or info == GLOBAL_UNICAST:
        return MessageKey(security.ek, GLOBAL_UNICAST)
    if info == GLOBAL_BROADCAST and security.options.broadcast_key:
        return MessageKey(security.options.broadcast_key, info, None)
    if info.choice == WRAPPED and security.options.master_key:
        key = key_of(info, security.options.master_key)
        if len(key) != KEY_OCTETS[security.suite]:
            raise PeerError(f"a wrapped key of {len(key)} octets")
        return MessageKey(key, info, KeyChoice.WRAPPED, fresh=True)
    if info.choice == AGREED:
        return _agreed(security, header, info)
    raise PeerError("ciphered with a key that we do not have")


def _agreed(security: Security, header: Header, info: KeyInfo) -> MessageKey:
    ours, theirs = security.options.agreement_key, security.options.peer_agreement_key
    if ours is None or theirs is None:
        raise PeerError("ciphered with an agreed key, and our key agreement keys are not known")
    if info.parameters == STATIC:
        if info.data or not header.transaction:
            raise PeerError("the static unified model with key data, or without a transaction id")
        key = static_key(security.suite, header, ours, theirs)
        return MessageKey(key, info, KeyChoice.STATIC, fresh=True)
    verifying = security.peer_signing_key
    if info.parameters != ONE_PASS or verifying is None:
        raise PeerError("ciphered with an agreed key, and the peer's public signing key is not known")
    key = one_pass_recipient(security.suite, header, info, ours, verifying)
    return MessageKey(key, info, KeyChoice.ONE_PASS, fresh=True)
