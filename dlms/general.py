"""general-ciphering and general-signing (GB 9.2.7.2.4, 9.2.7.5, 9.5): protection that names both ends.

```
general-ciphering  DD transaction-id originator recipient date-time other-information (00 | 01 key-info) ciphered
general-signing    DF transaction-id originator recipient date-time other-information content signature
key-info           00 key-id(1) | 01 kek-id(1) ciphered-key | 02 key-parameters key-ciphered-data
ciphered           SC IC(4) contents [tag(12)]
```

Every field is an octet-string with its length. The tag is over SC | AK | the five fields before key-info with their
lengths (| the APDU, where it is not encrypted); the signature is over those fields and the content, with lengths.
With a wrapped key the key travels along under the master key; with an agreed key both sides derive it: key-parameters
1 is one-pass Diffie-Hellman C(1e, 1s), and key-ciphered-data the originator's ephemeral public key and its signature.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dlms.ciphering import TAG_OCTETS, Key, Replayed
from dlms.codes import Apdu
from dlms.cursor import Cursor, length_octets
from dlms.errors import LocalError, PeerError
from dlms.hls import check_signature, sign
from dlms.keys import GCM_ALGORITHM, curve_of, kdf, public_key, public_octets, shared_secret, unwrap, wrap
from dlms.security import SYSTEM_TITLE_OCTETS, InvocationCounters, Policy, Security

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

IDENTIFIED, WRAPPED, AGREED = 0, 1, 2
ONE_PASS = b"\x01"
TRANSACTION_OCTETS = 8
FIELD_OCTETS_MAX = 255


def _counted(octets: bytes) -> bytes:
    return length_octets(len(octets)) + octets


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the contents in both."""

    transaction: bytes
    originator: bytes
    recipient: bytes
    date_time: bytes = b""
    other: bytes = b""

    def __post_init__(self) -> None:
        for octets in (self.transaction, self.originator, self.recipient, self.date_time, self.other):
            if len(octets) > FIELD_OCTETS_MAX:
                raise LocalError(f"a field of {len(octets)} octets before protected contents")

    def emit(self) -> bytes:
        fields = (self.transaction, self.originator, self.recipient, self.date_time, self.other)
        return b"".join(map(_counted, fields))

    @classmethod
    def read(cls, cursor: Cursor) -> Header:
        fields: list[bytes] = []
        for _ in range(5):
            fields.append(cursor.octets())
            if len(fields[-1]) > FIELD_OCTETS_MAX:
                raise cursor.error("a field before protected contents is too long", back=len(fields[-1]))
        return cls(*fields)


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """Which key: `kind` IDENTIFIED with `key_id`, WRAPPED with the id of the master key and the wrapped key as `data`,
    or AGREED with `parameters` and `data`."""

    kind: int
    key_id: int = 0
    parameters: bytes = b""
    data: bytes = field(default=b"", repr=False)

    def emit(self) -> bytes:
        if self.kind == IDENTIFIED:
            return bytes((IDENTIFIED, self.key_id))
        if self.kind == WRAPPED:
            return bytes((WRAPPED, self.key_id)) + _counted(self.data)
        return bytes((AGREED,)) + _counted(self.parameters) + _counted(self.data)

    @classmethod
    def read(cls, cursor: Cursor) -> KeyInfo:
        kind = cursor.u8()
        if kind == IDENTIFIED:
            return cls(kind, cursor.u8())
        if kind == WRAPPED:
            return cls(kind, cursor.u8(), data=cursor.octets())
        if kind == AGREED:
            return cls(kind, parameters=cursor.octets(), data=cursor.octets())
        raise cursor.error(f"key-info of kind {kind}", back=1)


@dataclass(frozen=True, slots=True)
class GeneralCiphered:
    """A general-ciphering APDU."""

    header: Header
    key_info: KeyInfo | None
    contents: bytes

    def emit(self) -> bytes:
        info = b"\x00" if self.key_info is None else b"\x01" + self.key_info.emit()
        return bytes((Apdu.GENERAL_CIPHERING,)) + self.header.emit() + info + _counted(self.contents)

    @classmethod
    def parse(cls, apdu: bytes) -> GeneralCiphered:
        """Raises `DecodeError`."""
        cursor = Cursor(apdu, "general-ciphering")
        tag = cursor.u8()
        if tag != Apdu.GENERAL_CIPHERING:
            raise cursor.error(f"0x{tag:02x} is not general-ciphering", back=1)
        header = Header.read(cursor)
        info = KeyInfo.read(cursor) if cursor.flag() else None
        contents = cursor.octets()
        cursor.check_end()
        return cls(header, info, contents)


@dataclass(frozen=True, slots=True)
class GeneralSigned:
    """A general-signing APDU."""

    header: Header
    content: bytes
    signature: bytes

    def emit(self) -> bytes:
        return bytes((Apdu.GENERAL_SIGNING,)) + self.signed() + _counted(self.signature)

    def signed(self) -> bytes:
        """What the signature is over."""
        return self.header.emit() + _counted(self.content)

    @classmethod
    def parse(cls, apdu: bytes) -> GeneralSigned:
        """Raises `DecodeError`."""
        cursor = Cursor(apdu, "general-signing")
        tag = cursor.u8()
        if tag != Apdu.GENERAL_SIGNING:
            raise cursor.error(f"0x{tag:02x} is not general-signing", back=1)
        header = Header.read(cursor)
        content = cursor.octets()
        signature = cursor.octets()
        cursor.check_end()
        return cls(header, content, signature)


# ---------------------------------------------------------------------------------------------------------- signing


def sign_apdu(apdu: bytes, header: Header, key: EllipticCurvePrivateKey) -> bytes:
    """`apdu` in general-signing."""
    unsigned = GeneralSigned(header, apdu, b"")
    return GeneralSigned(header, apdu, sign(key, unsigned.signed())).emit()


def open_signed(apdu: bytes, key: EllipticCurvePublicKey) -> GeneralSigned:
    """The APDU inside, checked. Raises `DecodeError`, and `PeerError` for a wrong signature."""
    signed = GeneralSigned.parse(apdu)
    check_signature(key, signed.signed(), signed.signature)
    return signed


# -------------------------------------------------------------------------------------------------------- ciphering


def new_header(originator: bytes, recipient: bytes) -> Header:
    """A header with a transaction id of its own."""
    return Header(secrets.token_bytes(TRANSACTION_OCTETS), originator, recipient)


def cipher_apdu(
    apdu: bytes, header: Header, security: Security, key_info: KeyInfo | None = None, key: bytes | None = None
) -> bytes:
    """`apdu` in general-ciphering by the policy of `security`, whose counters are used, with `key` or the global key.

    Raises `LocalError` when the policy is to do nothing.
    """
    policy = int(security.policy)
    if not policy:
        raise LocalError("general-ciphering needs a policy")
    control = bytes((policy | security.suite,))
    counter = security.counters.next().to_bytes(4, "big")
    sealing = Key(key or security.ek, security.counters)
    iv = header.originator + counter
    aad = control + security.ak + header.emit()
    if policy == Policy.AUTHENTICATE:
        contents = apdu + sealing.seal(iv, b"", aad + apdu)[1]
    else:
        ciphertext, tag = sealing.seal(iv, apdu, aad if policy & Policy.AUTHENTICATE else b"")
        contents = ciphertext + (tag if policy & Policy.AUTHENTICATE else b"")
    return GeneralCiphered(header, key_info, control + counter + contents).emit()


def open_ciphered(apdu: bytes, security: Security, counters: InvocationCounters, key: bytes | None = None) -> bytes:
    """The APDU inside. `counters` belong to the key and remember the originator's. `key` overrides the global key.

    Raises `DecodeError`, and `PeerError` for what is wrong, weaker than the policy of `security`, or replayed.
    """
    ciphered = GeneralCiphered.parse(apdu)
    cursor = Cursor(ciphered.contents, "general-ciphering contents")
    control, counter = cursor.take(1), cursor.take(4)
    policy = control[0] & int(Policy.BOTH)
    if len(ciphered.header.originator) != SYSTEM_TITLE_OCTETS:
        raise PeerError("general-ciphering by somebody without a system title")
    if not policy or control[0] & ~int(Policy.BOTH) != security.suite or int(security.policy) & ~policy:
        raise PeerError("general-ciphering of another suite or weaker than agreed")
    opening = Key(key or security.ek, counters)
    iv = ciphered.header.originator + counter
    aad = control + security.ak + ciphered.header.emit()
    plain: bytes | None
    if not policy & Policy.AUTHENTICATE:
        plain = opening.open(iv, cursor.rest(), None, b"")
    else:
        contents = cursor.take(max(0, cursor.remaining - TAG_OCTETS))
        tag = cursor.take(TAG_OCTETS)
        if policy & Policy.ENCRYPT:
            plain = opening.open(iv, contents, tag, aad)
        else:
            right = hmac.compare_digest(opening.seal(iv, b"", aad + contents)[1], tag)
            plain = contents if right else None
    if not plain:
        raise PeerError("the authentication tag is wrong")
    seen, number = counters.seen(), int.from_bytes(counter, "big")
    if seen is not None and number <= seen:
        raise Replayed(number, seen + 1)
    counters.note(number)
    return plain


def wrapped_key(master: bytes, key: bytes) -> KeyInfo:
    """Key-info that brings `key` along under the master key."""
    return KeyInfo(WRAPPED, 0, data=wrap(master, key))


def key_of(info: KeyInfo, master: bytes) -> bytes:
    """The key that such a key-info brings. Raises `PeerError`."""
    if info.kind != WRAPPED:
        raise PeerError("no wrapped key came along")
    return unwrap(master, info.data)


def one_pass_originator(
    suite: int, header: Header, recipient: EllipticCurvePublicKey, signing: EllipticCurvePrivateKey
) -> tuple[bytes, KeyInfo]:
    """A fresh key for `recipient` by one-pass Diffie-Hellman, and the key-info that tells it."""
    from cryptography.hazmat.primitives.asymmetric import ec

    ephemeral = ec.generate_private_key(curve_of(suite))
    point = public_octets(ephemeral.public_key())
    secret = shared_secret(ephemeral, recipient)
    key = kdf(suite, secret, GCM_ALGORITHM[suite], header.originator, header.recipient)
    return key, KeyInfo(AGREED, parameters=ONE_PASS, data=point + sign(signing, point))


def one_pass_recipient(
    suite: int, header: Header, info: KeyInfo, static: EllipticCurvePrivateKey, verifying: EllipticCurvePublicKey
) -> bytes:
    """The same key from the key-info, whose signature must be the originator's. Raises `PeerError`."""
    if info.kind != AGREED or info.parameters != ONE_PASS:
        raise PeerError("the key was not agreed on by one-pass Diffie-Hellman")
    size = 2 * ((curve_of(suite).key_size + 7) // 8)
    point, signature = info.data[:size], info.data[size:]
    check_signature(verifying, point, signature)
    secret = shared_secret(static, public_key(suite, point))
    return kdf(suite, secret, GCM_ALGORITHM[suite], header.originator, header.recipient)
