"""New keys for a meter (GB 9.2.5, 9.2.6; BB 4.4.7): wrapped under the master key, or agreed on by ECDH.

```
key_transfer parameter    array of structure { key id (enum), wrapped key (octet-string) }
key_agreement parameter   array of structure { key id (enum), ephemeral public key x | y | signature (octet-string) }
                          the signature is over key id (one octet) | x | y
K = Hash(00000001 | Z | AlgorithmID | PartyU | PartyV), cut to the length of the key
```

Suite 1 uses P-256, SHA-256 and 16 octets of key, suite 2 P-384, SHA-384 and 32.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from enum import IntEnum
from typing import TYPE_CHECKING

from dlms import axdr
from dlms.axdr import Data
from dlms.errors import LocalError, PeerError
from dlms.security.ecdsa import check_signature, sign
from dlms.security.random_octets import new_key_pair
from dlms.security.settings import KEY_OCTETS, MemoryCounters, Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurve,
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

    from dlms.security.settings import InvocationCounters, Security

AES_GCM_128 = bytes.fromhex("60857405080300")
AES_GCM_256 = bytes.fromhex("60857405080301")
AES_WRAP_128 = bytes.fromhex("60857405080302")
AES_WRAP_256 = bytes.fromhex("60857405080303")
GCM_ALGORITHM = {1: AES_GCM_128, 2: AES_GCM_256}
WRAP_ALGORITHM = {1: AES_WRAP_128, 2: AES_WRAP_256}


class KeyId(IntEnum):
    """The keys of the security setup (BB 4.4.7, key_id)."""

    GLOBAL_UNICAST_ENCRYPTION = 0
    GLOBAL_BROADCAST_ENCRYPTION = 1
    AUTHENTICATION = 2
    MASTER = 3


# ---------------------------------------------------------------------------------------------------------- wrapping


def wrap(master: bytes, key: bytes) -> bytes:
    """Wrap `key` under the master key (AES key wrap, RFC 3394). Raises `LocalError` for keys of a wrong length."""
    from cryptography.hazmat.primitives.keywrap import aes_key_wrap

    try:
        return aes_key_wrap(master, key)
    except ValueError as error:
        raise LocalError(f"keys for wrapping: {error}") from error


def unwrap(master: bytes, wrapped: bytes) -> bytes:
    """Unwrap a key. Raises `PeerError` when it was not wrapped under this master key, or was changed."""
    from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

    try:
        return aes_key_unwrap(master, wrapped)
    except (InvalidUnwrap, ValueError) as error:
        raise PeerError("a wrapped key that does not unwrap") from error


def key_transfer(master: bytes, keys: Mapping[KeyId, bytes]) -> Data:
    """The parameter of `key_transfer` (`global_key_transfer` in version 0). Raises `LocalError`."""
    return axdr.array(axdr.structure(axdr.enum(key_id), axdr.octets(wrap(master, key))) for key_id, key in keys.items())


def transferred_keys(master: bytes, parameter: Data) -> dict[KeyId, bytes]:
    """Unwrap the keys in the parameter of `key_transfer`. Raises `PeerError`."""
    try:
        pairs = [member.members() for member in parameter.members()]
        return {KeyId(key_id.integer()): unwrap(master, wrapped.octets()) for key_id, wrapped in pairs}
    except (LocalError, ValueError) as error:
        raise PeerError(f"key_transfer: {error}") from error


def rekeyed(
    security: Security, keys: Mapping[KeyId, bytes], new_counters: Callable[[], InvocationCounters] = MemoryCounters
) -> Security:
    """`security` with new keys. A new encryption key gets new counters, because a counter value may be used once per
    key. Raises `LocalError` for keys of a wrong length."""
    options = security.options
    if KeyId.GLOBAL_BROADCAST_ENCRYPTION in keys:
        broadcast = keys[KeyId.GLOBAL_BROADCAST_ENCRYPTION]
        options = replace(options, broadcast_key=broadcast, broadcast_counters=new_counters())
    if KeyId.MASTER in keys:
        options = replace(options, master_key=keys[KeyId.MASTER])
    ek, ak = keys.get(KeyId.GLOBAL_UNICAST_ENCRYPTION), keys.get(KeyId.AUTHENTICATION)
    counters = security.counters if ek is None else new_counters()
    return replace(
        security,
        ek=security.ek if ek is None else ek,
        ak=security.ak if ak is None else ak,
        counters=counters,
        options=options,
    )


# ------------------------------------------------------------------------------------------------- security_policy

_REQUEST_BITS = {Policy.AUTHENTICATE: 0x04, Policy.ENCRYPT: 0x08}
_SIGNED_REQUEST = 0x10
_TO_RESPONSE = 3  # bits from those of a request to those of its response
POLICY_BITS = 0xFC


def policy_bits(security: Security) -> int:
    """The security_policy (version 1) that requires what `security` requires, in both directions."""
    bits = sum(bit for policy, bit in _REQUEST_BITS.items() if security.policy & policy)
    bits |= _SIGNED_REQUEST if security.signs else 0
    return bits | bits << _TO_RESPONSE


def policy_of(bits: int) -> tuple[Policy, bool]:
    """What a security_policy requires in either direction, and whether that includes signing. Raises `LocalError`."""
    if not 0 <= bits <= POLICY_BITS or bits & ~POLICY_BITS:
        raise LocalError(f"a security policy {bits}")
    either = bits | bits >> _TO_RESPONSE
    policy = Policy(sum(policy for policy, bit in _REQUEST_BITS.items() if either & bit))
    return policy, bool(either & _SIGNED_REQUEST)


# --------------------------------------------------------------------------------------------------------- agreement


def curve_of(suite: int) -> EllipticCurve:
    """The curve of a security suite. Raises `LocalError` for suite 0, which has none."""
    from cryptography.hazmat.primitives.asymmetric import ec

    if suite == 1:
        return ec.SECP256R1()
    if suite == 2:
        return ec.SECP384R1()
    raise LocalError(f"security suite {suite} has no key agreement")


def public_octets(key: EllipticCurvePublicKey) -> bytes:
    """The public key as x | y."""
    numbers, size = key.public_numbers(), (key.curve.key_size + 7) // 8
    return numbers.x.to_bytes(size, "big") + numbers.y.to_bytes(size, "big")


def public_key(suite: int, octets: bytes) -> EllipticCurvePublicKey:
    """The inverse of `public_octets`. Raises `PeerError` unless it is a point of the curve."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    try:
        return EllipticCurvePublicKey.from_encoded_point(curve_of(suite), b"\x04" + octets)
    except ValueError as error:
        raise PeerError("a public key that is no point of the curve") from error


def kdf(suite: int, secret: bytes, algorithm: bytes, party_u: bytes, party_v: bytes) -> bytes:
    """Derive a key of the suite's length from a shared secret (NIST SP 800-56A, one-step key derivation)."""
    digest = hashlib.sha384 if suite == 2 else hashlib.sha256
    return digest(bytes((0, 0, 0, 1)) + secret + algorithm + party_u + party_v).digest()[: KEY_OCTETS[suite]]


def shared_secret(private: EllipticCurvePrivateKey, public: EllipticCurvePublicKey) -> bytes:
    """Z: the x coordinate of the shared point."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return private.exchange(ec.ECDH(), public)


class KeyAgreement:
    """One side of the ephemeral unified model C(2e, 0s): an ephemeral key pair, signed with the static key.

    `party_u` is the system title of the client, `party_v` that of the meter. Raises `LocalError` for suite 0.
    """

    def __init__(
        self,
        suite: int,
        key_id: KeyId,
        signing: EllipticCurvePrivateKey,
        *,
        party_u: bytes,
        party_v: bytes,
        ephemeral: EllipticCurvePrivateKey | None = None,
    ) -> None:
        self._suite = suite
        self._key_id = key_id
        self._signing = signing
        self._party_u = party_u
        self._party_v = party_v
        self._ephemeral = ephemeral or new_key_pair(curve_of(suite))

    def data(self) -> Data:
        """Our part for the other side: one member of the parameter, or of the result, of `key_agreement`."""
        point = public_octets(self._ephemeral.public_key())
        signature = sign(self._signing, bytes((self._key_id,)) + point)
        return axdr.structure(axdr.enum(self._key_id), axdr.octets(point + signature))

    def agree(self, theirs: Data, verifying: EllipticCurvePublicKey) -> bytes:
        """Derive the key from the other side's part; `verifying` is its static public key. Raises `PeerError`."""
        try:
            key_id, octets = theirs.members()
            number, raw = key_id.integer(), octets.octets()
        except (LocalError, ValueError) as error:
            raise PeerError(f"key_agreement: {error}") from error
        size = 2 * ((curve_of(self._suite).key_size + 7) // 8)
        point, signature = raw[:size], raw[size:]
        if number != self._key_id:
            raise PeerError(f"key_agreement for key {number} where {int(self._key_id)} is due")
        check_signature(verifying, bytes((number,)) + point, signature)
        secret = shared_secret(self._ephemeral, public_key(self._suite, point))
        uses = WRAP_ALGORITHM if self._key_id is KeyId.MASTER else GCM_ALGORITHM  # AlgorithmID says what the key is for
        return kdf(self._suite, secret, uses[self._suite], self._party_u, self._party_v)
