"""general-ciphering and general-signing (GB 9.2.7.2.4, 9.2.7.5, 9.5): APDU formats that name originator and recipient.

```
general-ciphering  DD transaction-id originator recipient date-time other-information (00 | 01 key-info) ciphered
general-signing    DF transaction-id originator recipient date-time other-information content signature
key-info           00 key-id(1) | 01 kek-id(1) ciphered-key | 02 key-parameters key-ciphered-data
ciphered           SC IC(4) contents [tag(12)]
```

Every field is an octet-string with its length. The tag is over SC | AK | the five fields before key-info with their
lengths (| the APDU, if it is not encrypted); the signature is over those fields and the content, with lengths. The
key-set bit of SC has no meaning here. `dlms.security.message_keys` deals with the keys in key-info.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dlms.axdr import DATE_TIME_OCTETS
from dlms.codes import Apdu
from dlms.cursor import Cursor
from dlms.errors import LocalError, PeerError, SecurityError
from dlms.security.ecdsa import check_signature, sign
from dlms.security.gcm import COMPRESSED, SUITE_MASK, TAG_OCTETS, Gcm, check_counter, counted
from dlms.security.settings import SYSTEM_TITLE_OCTETS, InvocationCounters, Policy, Security

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

IDENTIFIED, WRAPPED, AGREED = 0, 1, 2
TRANSACTION_OCTETS = 8
FIELD_OCTETS_MAX = 255


@dataclass(frozen=True, slots=True)
class Header:
    """The fields before the contents in both formats.

    `raw` keeps the octets as received: lengths may be in long form, and tag and signature are over them as they are.
    """

    transaction: bytes
    originator: bytes
    recipient: bytes
    date_time: bytes = b""
    other: bytes = b""
    raw: bytes = field(default=b"", repr=False, compare=False)

    def __post_init__(self) -> None:
        for octets in (self.transaction, self.originator, self.recipient, self.date_time, self.other):
            if len(octets) > FIELD_OCTETS_MAX:
                raise LocalError(f"a field of {len(octets)} octets before protected contents")

    def emit(self) -> bytes:
        if self.raw:
            return self.raw
        fields = (self.transaction, self.originator, self.recipient, self.date_time, self.other)
        return b"".join(map(counted, fields))

    @classmethod
    def read(cls, cursor: Cursor) -> Header:
        fields: list[bytes] = []
        start = cursor.pos
        for _ in range(5):
            fields.append(cursor.octets())
            if len(fields[-1]) > FIELD_OCTETS_MAX:
                raise cursor.error("a field before protected contents is too long", back=len(fields[-1]))
        if len(fields[3]) not in (0, DATE_TIME_OCTETS):
            raise cursor.error(f"a date-time of {len(fields[3])} octets before protected contents")
        transaction, originator, recipient, date_time, other = fields
        return cls(transaction, originator, recipient, date_time, other, cursor.since(start))


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """Which key: `choice` IDENTIFIED with `key_id`, WRAPPED with the id of the master key and the wrapped key as
    `data`, or AGREED with `parameters` and `data`."""

    choice: int
    key_id: int = 0
    parameters: bytes = b""
    data: bytes = field(default=b"", repr=False)

    def emit(self) -> bytes:
        if self.choice == IDENTIFIED:
            return bytes((IDENTIFIED, self.key_id))
        if self.choice == WRAPPED:
            return bytes((WRAPPED, self.key_id)) + counted(self.data)
        return bytes((AGREED,)) + counted(self.parameters) + counted(self.data)

    @classmethod
    def read(cls, cursor: Cursor) -> KeyInfo:
        choice = cursor.u8()
        if choice == IDENTIFIED:
            return cls(choice, cursor.u8())
        if choice == WRAPPED:
            return cls(choice, cursor.u8(), data=cursor.octets())
        if choice == AGREED:
            return cls(choice, parameters=cursor.octets(), data=cursor.octets())
        raise cursor.error(f"key-info of choice {choice}", back=1)


@dataclass(frozen=True, slots=True)
class GeneralCiphered:
    """A general-ciphering APDU."""

    header: Header
    key_info: KeyInfo | None
    contents: bytes

    def emit(self) -> bytes:
        info = b"\x00" if self.key_info is None else b"\x01" + self.key_info.emit()
        return bytes((Apdu.GENERAL_CIPHERING,)) + self.header.emit() + info + counted(self.contents)

    @classmethod
    def parse(cls, apdu: bytes) -> GeneralCiphered:
        """Parse the encoded form. Raises `DecodeError`."""
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
        return bytes((Apdu.GENERAL_SIGNING,)) + self.signed() + counted(self.signature)

    def signed(self) -> bytes:
        """The octets that the signature is over."""
        return self.header.emit() + counted(self.content)

    @classmethod
    def parse(cls, apdu: bytes) -> GeneralSigned:
        """Parse the encoded form. Raises `DecodeError`."""
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
    """Wrap `apdu` in general-signing."""
    unsigned = GeneralSigned(header, apdu, b"")
    return GeneralSigned(header, apdu, sign(key, unsigned.signed())).emit()


def open_signed(apdu: bytes, key: EllipticCurvePublicKey) -> GeneralSigned:
    """Parse general-signing and check it. Raises `DecodeError`, and `PeerError` for a wrong signature."""
    signed = GeneralSigned.parse(apdu)
    check_signature(key, signed.signed(), signed.signature)
    return signed


# -------------------------------------------------------------------------------------------------------- ciphering


def cipher_apdu(
    apdu: bytes,
    header: Header,
    security: Security,
    key_info: KeyInfo | None = None,
    key: bytes | None = None,
    *,
    counter: int | None = None,
    also: int = 0,
) -> bytes:
    """Wrap `apdu` in general-ciphering by the policy of `security`, with `key` or the global key.

    `also` adds protection (bits of `Policy`) to the policy. `counter` is given for a fresh key, or for one with
    counters of its own; otherwise the next counter of the global key is used.

    Raises `LocalError` when the policy requires nothing, and when counters are used up.
    """
    policy = int(security.policy) | also
    if not policy:
        raise LocalError("general-ciphering needs a policy")
    control = bytes((policy | security.suite,))
    invocation = (security.counters.next() if counter is None else counter).to_bytes(4, "big")
    sealing = Gcm(key or security.ek)
    iv = header.originator + invocation
    aad = control + security.ak + header.emit()
    if policy == Policy.AUTHENTICATE:
        contents = apdu + sealing.seal(iv, b"", aad + apdu)[1]
    else:
        ciphertext, tag = sealing.seal(iv, apdu, aad if policy & Policy.AUTHENTICATE else b"")
        contents = ciphertext + (tag if policy & Policy.AUTHENTICATE else b"")
    return GeneralCiphered(header, key_info, control + invocation + contents).emit()


def open_ciphered(
    apdu: bytes | GeneralCiphered,
    security: Security,
    counters: InvocationCounters | None,
    key: bytes | None = None,
) -> bytes:
    """Decipher and check general-ciphering.

    `counters` belong to the key and remember the originator's counter. They are None for a key that came with the
    message: its counter proves nothing, so such an APDU must be authenticated. `key` overrides the global key.

    Raises `DecodeError`, and `PeerError` for an APDU that is wrong, weaker than the policy of `security`, or replayed.
    """
    ciphered = GeneralCiphered.parse(apdu) if isinstance(apdu, bytes) else apdu
    cursor = Cursor(ciphered.contents, "general-ciphering contents")
    control, counter = cursor.take(1), cursor.take(4)
    policy = control[0] & int(Policy.BOTH)
    if len(ciphered.header.originator) != SYSTEM_TITLE_OCTETS:
        raise PeerError("general-ciphering by an originator without a system title")
    if control[0] & COMPRESSED:
        raise PeerError("compressed, which is not in use here")
    demanded = int(security.policy) | (int(Policy.AUTHENTICATE) if counters is None else 0)
    if not policy or control[0] & SUITE_MASK != security.suite or demanded & ~policy:
        raise PeerError("general-ciphering of another suite or weaker than agreed")
    plain = _opened(ciphered.header, cursor, control, counter, key or security.ek, security.ak)
    if not plain:
        raise SecurityError("the authentication tag is wrong")
    if counters is not None:
        check_counter(counters, int.from_bytes(counter, "big"))
    return plain


def _opened(header: Header, cursor: Cursor, control: bytes, counter: bytes, key: bytes, ak: bytes) -> bytes | None:
    opening = Gcm(key)
    iv = header.originator + counter
    if not control[0] & Policy.AUTHENTICATE:
        return opening.open(iv, cursor.rest(), None, b"")
    aad = control + ak + header.emit()
    contents = cursor.take(max(0, cursor.remaining - TAG_OCTETS))
    tag = cursor.take(TAG_OCTETS)
    if control[0] & Policy.ENCRYPT:
        return opening.open(iv, contents, tag, aad)
    right = hmac.compare_digest(opening.seal(iv, b"", aad + contents)[1], tag)
    return contents if right else None
