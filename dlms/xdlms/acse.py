"""Association control: AARQ, AARE, RLRQ, RLRE in BER (GB 9.4.2, 9.5), and the xDLMS initiate inside them in A-XDR.

```
AARQ 60 l [80 version] A1 application-context-name [A6 calling-AP-title] [A7 calling-AE-qualifier] [A9 user id]
          [8A requirements 8B mechanism-name AC calling-authentication-value] [BE user-information]
AARE 61 l [80 version] A1 application-context-name A2 result A3 diagnostic [A4 responding-AP-title]
          [A5 responding-AE-qualifier] [88 requirements 89 mechanism-name AA responding-authentication-value] [BE ...]
RLRQ 62 l [80 reason] [BE user-information]        RLRE 63 l [80 reason] [BE user-information]
```

Every optional field may be missing, lengths may be in long form, and unknown fields are skipped: meters do all three.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dlms.codes import (
    CONFORMANCE_BITS,
    DLMS_VERSION,
    VAA_NAME_LN,
    Apdu,
    AssociationResult,
    Conformance,
    Context,
    Diagnostic,
    Mechanism,
)
from dlms.cursor import Cursor, length_octets
from dlms.errors import DecodeError

PDU_UNLIMITED = 0xFFFF  # the size that a pdu size of 0 ("no limit") stands for here
PDU_SIZE_MIN = 12  # an APDU smaller than this cannot carry a service (GB 9.4.2.5)

_CONTEXT_ARC = bytes.fromhex("60857405 0801")  # 2.16.756.5.8.1
_MECHANISM_ARC = bytes.fromhex("60857405 0802")  # 2.16.756.5.8.2
_OBJECT_IDENTIFIER = 0x06
_OCTET_STRING = 0x04
_INTEGER = 0x02
_CHARSTRING = 0x80  # choice of an authentication-value
_AUTHENTICATION_UNIT = bytes.fromhex("0780")  # bit 0 of the requirements: the authentication functional unit
_CONFORMANCE_TAG = b"\x5f\x1f"  # [APPLICATION 31] in two octets; the first edition wrote 5F alone


# -------------------------------------------------------------------------------------------------- xDLMS initiate


@dataclass(frozen=True, slots=True)
class InitiateRequest:
    """xDLMS InitiateRequest. `pdu_size` is the largest APDU that the client takes, in octets; 0 means no limit."""

    conformance: Conformance
    pdu_size: int
    dedicated_key: bytes | None = field(default=None, repr=False)
    response_allowed: bool = True
    quality_of_service: int | None = None
    version: int = DLMS_VERSION

    def emit(self) -> bytes:
        out = bytearray((Apdu.INITIATE_REQUEST,))
        if self.dedicated_key is None:
            out.append(0)
        else:
            out += b"\x01" + length_octets(len(self.dedicated_key)) + self.dedicated_key
        out += b"\x00" if self.response_allowed else b"\x01\x00"
        out += _optional_octet(self.quality_of_service)
        out.append(self.version)
        return bytes(out + _conformance_octets(self.conformance) + self.pdu_size.to_bytes(2, "big"))

    @classmethod
    def parse(cls, data: bytes) -> InitiateRequest:
        """Parse the encoded form. Raises `DecodeError`."""
        cursor = Cursor(data, "InitiateRequest")
        _expect(cursor, Apdu.INITIATE_REQUEST)
        key = cursor.octets() if cursor.flag() else None
        allowed = cursor.flag() if cursor.flag() else True
        quality = cursor.i8() if cursor.flag() else None
        version = cursor.u8()
        conformance = _conformance(cursor)
        size = cursor.u16()
        cursor.check_end()
        return cls(conformance, size, key, allowed, quality, version)


@dataclass(frozen=True, slots=True)
class InitiateResponse:
    """xDLMS InitiateResponse. `pdu_size` is the largest APDU that the server takes, in octets; 0 means no limit."""

    conformance: Conformance
    pdu_size: int
    vaa_name: int = VAA_NAME_LN
    quality_of_service: int | None = None
    version: int = DLMS_VERSION

    def emit(self) -> bytes:
        out = bytearray((Apdu.INITIATE_RESPONSE,)) + _optional_octet(self.quality_of_service)
        out.append(self.version)
        out += _conformance_octets(self.conformance) + self.pdu_size.to_bytes(2, "big")
        return bytes(out + self.vaa_name.to_bytes(2, "big"))

    @classmethod
    def parse(cls, data: bytes) -> InitiateResponse:
        """Parse the encoded form. Raises `DecodeError`."""
        cursor = Cursor(data, "InitiateResponse")
        _expect(cursor, Apdu.INITIATE_RESPONSE)
        quality = cursor.i8() if cursor.flag() else None
        version = cursor.u8()
        conformance = _conformance(cursor)
        size = cursor.u16()
        vaa_name = cursor.u16()
        cursor.check_end()
        return cls(conformance, size, vaa_name, quality, version)


def _optional_octet(value: int | None) -> bytes:
    return b"\x00" if value is None else b"\x01" + value.to_bytes(1, "big", signed=True)


def _conformance_octets(conformance: Conformance) -> bytes:
    return _CONFORMANCE_TAG + b"\x04\x00" + int(conformance).to_bytes(CONFORMANCE_BITS // 8, "big")


def _conformance(cursor: Cursor) -> Conformance:
    _expect(cursor, _CONFORMANCE_TAG[0])
    if cursor.peek() == _CONFORMANCE_TAG[1]:
        cursor.u8()
    bits = cursor.sub("conformance block")
    unused = bits.u8()
    octets = bits.rest()
    if unused != 0 or len(octets) != CONFORMANCE_BITS // 8:
        raise bits.error(f"a conformance block has {CONFORMANCE_BITS} bits", back=len(octets))
    return Conformance(int.from_bytes(octets, "big"))


def _expect(cursor: Cursor, octet: int) -> None:
    found = cursor.u8()
    if found != octet:
        raise cursor.error(f"0x{found:02x} where 0x{octet:02x} is due", back=1)


# ------------------------------------------------------------------------------------------------------------ BER


def _tlv(tag: int, contents: bytes) -> bytes:
    return bytes((tag,)) + length_octets(len(contents)) + contents


def _name(arc: bytes, last: int) -> bytes:
    return arc + bytes((last,))


def context_name(context: Context) -> bytes:
    """The contents of the application context's object identifier."""
    return _name(_CONTEXT_ARC, context)


def mechanism_name(mechanism: Mechanism) -> bytes:
    """The contents of the authentication mechanism's object identifier."""
    return _name(_MECHANISM_ARC, mechanism)


def _arc(octets: bytes, arc: bytes, cursor: Cursor) -> int:
    """Last arc of an object identifier below `arc`."""
    if len(octets) != len(arc) + 1 or not octets.startswith(arc):
        raise cursor.error(f"object identifier {octets.hex()} is not one of DLMS/COSEM")
    return octets[-1]


def _inside(cursor: Cursor, tag: int) -> bytes:
    """The contents of the single element, tagged `tag`, that fills the cursor."""
    _expect(cursor, tag)
    contents = cursor.octets()
    cursor.check_end()
    return contents


def _small_integer(cursor: Cursor) -> int:
    octets = _inside(cursor, _INTEGER)
    value = int.from_bytes(octets, "big")
    if not octets or value > 0xFF:
        raise cursor.error(f"{octets.hex()} is not a small integer")
    return value


def _fields(data: bytes, tag: int, what: str) -> dict[int, Cursor]:
    """The fields of an ACSE APDU by tag. A repeated field is an error."""
    cursor = Cursor(data, what)
    _expect(cursor, tag)
    body = cursor.sub(what)
    cursor.check_end()
    fields: dict[int, Cursor] = {}
    while body.remaining:
        field_tag = body.u8()
        if field_tag in fields:
            raise body.error(f"field 0x{field_tag:02x} comes twice", back=1)
        fields[field_tag] = body.sub(f"{what} field {field_tag:02x}")
    return fields


def _octet_string(fields: dict[int, Cursor], tag: int) -> bytes | None:
    found = fields.get(tag)
    return None if found is None else _inside(found, _OCTET_STRING)


def _mechanism(fields: dict[int, Cursor], tag: int) -> Mechanism | None:
    found = fields.get(tag)
    if found is None:
        return None
    octets = found.rest()
    if octets[:2] == bytes((_OBJECT_IDENTIFIER, len(_MECHANISM_ARC) + 1)):  # explicit tagging, by some meters
        octets = octets[2:]
    arc = _arc(octets, _MECHANISM_ARC, found)
    try:
        return Mechanism(arc)
    except ValueError as error:
        raise found.error(f"authentication mechanism {arc} does not exist") from error


def _context(fields: dict[int, Cursor], what: str) -> Context:
    found = fields.get(0xA1)
    if found is None:
        raise DecodeError(what, 0, "no application-context-name")
    arc = _arc(_inside(found, _OBJECT_IDENTIFIER), _CONTEXT_ARC, found)
    try:
        return Context(arc)
    except ValueError as error:
        raise found.error(f"application context {arc} does not exist") from error


def _authentication_value(fields: dict[int, Cursor], tag: int) -> bytes | None:
    found = fields.get(tag)
    return None if found is None else _inside(found, _CHARSTRING)


# ----------------------------------------------------------------------------------------------------------- APDUs


@dataclass(frozen=True, slots=True)
class Aarq:
    """Request for an association. `user_information` is an InitiateRequest, plain or ciphered."""

    context: Context
    user_information: bytes | None = field(default=None, repr=False)
    mechanism: Mechanism = Mechanism.NONE
    authentication: bytes | None = field(default=None, repr=False)
    system_title: bytes | None = None
    certificate: bytes | None = field(default=None, repr=False)
    user_id: int | None = None

    def emit(self) -> bytes:
        out = _tlv(0xA1, _tlv(_OBJECT_IDENTIFIER, _name(_CONTEXT_ARC, self.context)))
        if self.system_title is not None:
            out += _tlv(0xA6, _tlv(_OCTET_STRING, self.system_title))
        if self.certificate is not None:
            out += _tlv(0xA7, _tlv(_OCTET_STRING, self.certificate))
        if self.user_id is not None:
            out += _tlv(0xA9, _tlv(_INTEGER, bytes((self.user_id,))))
        if self.mechanism != Mechanism.NONE:
            out += _tlv(0x8A, _AUTHENTICATION_UNIT) + _tlv(0x8B, _name(_MECHANISM_ARC, self.mechanism))
        if self.authentication is not None:
            out += _tlv(0xAC, _tlv(_CHARSTRING, self.authentication))
        if self.user_information is not None:
            out += _tlv(0xBE, _tlv(_OCTET_STRING, self.user_information))
        return _tlv(Apdu.AARQ, out)

    @classmethod
    def parse(cls, data: bytes) -> Aarq:
        """Parse the encoded form. Raises `DecodeError`."""
        fields = _fields(data, Apdu.AARQ, "AARQ")
        user = fields.get(0xA9)
        return cls(
            context=_context(fields, "AARQ"),
            user_information=_octet_string(fields, 0xBE),
            mechanism=_mechanism(fields, 0x8B) or Mechanism.NONE,
            authentication=_authentication_value(fields, 0xAC),
            system_title=_octet_string(fields, 0xA6),
            certificate=_octet_string(fields, 0xA7),
            user_id=None if user is None else _small_integer(user),
        )


@dataclass(frozen=True, slots=True)
class Aare:
    """Answer to an AARQ. `diagnostic` is the service user's, or the provider's where `by_provider` is set.

    `user_information` is an InitiateResponse or a confirmedServiceError, plain or ciphered.
    """

    context: Context
    result: int
    diagnostic: int
    user_information: bytes | None = field(default=None, repr=False)
    mechanism: Mechanism | None = None
    authentication: bytes | None = field(default=None, repr=False)
    system_title: bytes | None = None
    certificate: bytes | None = field(default=None, repr=False)
    by_provider: bool = False

    @property
    def accepted(self) -> bool:
        return self.result == AssociationResult.ACCEPTED

    @property
    def about_keys(self) -> bool:
        """Whether the diagnostic is about authentication or ciphering."""
        return not self.by_provider and self.diagnostic in _ABOUT_KEYS

    @property
    def reason(self) -> str:
        """The diagnostic in the words of the standard."""
        if self.by_provider:
            names = {0: "null", 1: "no-reason-given", 2: "no-common-acse-version"}
            return names.get(self.diagnostic, f"provider diagnostic {self.diagnostic}")
        try:
            return Diagnostic(self.diagnostic).name.lower().replace("_", "-")
        except ValueError:
            return f"diagnostic {self.diagnostic}"

    def emit(self) -> bytes:
        source = 0xA2 if self.by_provider else 0xA1
        out = _tlv(0xA1, _tlv(_OBJECT_IDENTIFIER, _name(_CONTEXT_ARC, self.context)))
        out += _tlv(0xA2, _tlv(_INTEGER, bytes((self.result,))))
        out += _tlv(0xA3, _tlv(source, _tlv(_INTEGER, bytes((self.diagnostic,)))))
        if self.system_title is not None:
            out += _tlv(0xA4, _tlv(_OCTET_STRING, self.system_title))
        if self.certificate is not None:
            out += _tlv(0xA5, _tlv(_OCTET_STRING, self.certificate))
        if self.mechanism is not None:
            out += _tlv(0x88, _AUTHENTICATION_UNIT) + _tlv(0x89, _name(_MECHANISM_ARC, self.mechanism))
        if self.authentication is not None:
            out += _tlv(0xAA, _tlv(_CHARSTRING, self.authentication))
        if self.user_information is not None:
            out += _tlv(0xBE, _tlv(_OCTET_STRING, self.user_information))
        return _tlv(Apdu.AARE, out)

    @classmethod
    def parse(cls, data: bytes) -> Aare:
        """Parse the encoded form. Raises `DecodeError`."""
        fields = _fields(data, Apdu.AARE, "AARE")
        if 0xA2 not in fields:
            raise DecodeError("AARE", 0, "no result")
        diagnostic, by_provider = 0, False
        source = fields.get(0xA3)
        if source is not None:
            by_provider = source.remaining > 0 and source.peek() == 0xA2
            inner = _inside(source, 0xA2 if by_provider else 0xA1)
            diagnostic = _small_integer(Cursor(inner, "AARE diagnostic", source.offset - len(inner)))
        return cls(
            context=_context(fields, "AARE"),
            result=_small_integer(fields[0xA2]),
            diagnostic=diagnostic,
            user_information=_octet_string(fields, 0xBE),
            mechanism=_mechanism(fields, 0x89),
            authentication=_authentication_value(fields, 0xAA),
            system_title=_octet_string(fields, 0xA4),
            certificate=_octet_string(fields, 0xA5),
            by_provider=by_provider,
        )


_ABOUT_KEYS = frozenset(
    (
        Diagnostic.APPLICATION_CONTEXT_NAME_NOT_SUPPORTED,  # plain where the meter wants ciphering, or the reverse
        Diagnostic.AUTHENTICATION_MECHANISM_NAME_NOT_RECOGNISED,
        Diagnostic.AUTHENTICATION_MECHANISM_NAME_REQUIRED,
        Diagnostic.AUTHENTICATION_FAILURE,
        Diagnostic.AUTHENTICATION_REQUIRED,
    )
)


@dataclass(frozen=True, slots=True)
class ReleaseApdu:
    """RLRQ, or RLRE when `is_response`; `reason` 0 is "normal" in both."""

    is_response: bool = False
    reason: int | None = 0
    user_information: bytes | None = field(default=None, repr=False)

    def emit(self) -> bytes:
        out = b"" if self.reason is None else _tlv(0x80, bytes((self.reason,)))
        if self.user_information is not None:
            out += _tlv(0xBE, _tlv(_OCTET_STRING, self.user_information))
        return _tlv(Apdu.RLRE if self.is_response else Apdu.RLRQ, out)

    @classmethod
    def parse(cls, data: bytes) -> ReleaseApdu:
        """Parse the encoded form. Raises `DecodeError`."""
        is_response = data[:1] == bytes((Apdu.RLRE,))
        tag = Apdu.RLRE if is_response else Apdu.RLRQ
        fields = _fields(data, tag, tag.name)
        reason = fields.get(0x80)
        code = None
        if reason is not None:
            code = reason.u8()
            reason.check_end()
        return cls(is_response, code, _octet_string(fields, 0xBE))
