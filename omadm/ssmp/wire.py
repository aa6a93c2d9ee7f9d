"""SSMP messages: parse and emit (docs/ssmp.md, "Messages").

One message is the whole body of one HTTP request or answer::

    0        2         3      4            6
    +--------+---------+------+------------+-----------------
    | "SS"   | version | type | length u16 | fields ...
    +--------+---------+------+------------+-----------------

    field:  | tag u8 | length u16 | value |

Numbers are big endian; `length` counts the bytes of all fields. Fields are in ascending order of tag, each at most
once. A tag below 0x80 that the message's type does not define is an error; one from 0x80 on is skipped (but covered by
the proofs, which are over the bytes as sent). The proof, if a type has one, has the tag 0x7F, and is therefore the last
of the required fields.

There are three versions. In version 1 the server remembers each HELLO; from version 2 on it remembers nothing before
the device has proven itself. In version 3 AUTH and BOOTSTRAP carry keys of that session alone, and may carry
certificates. HELLO, CONFIRM, DONE and ERROR are alike in all.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from omadm.ssmp.errors import SsmpUsageError, SsmpVersionError, SsmpWireError
from omadm.ssmp.limits import DEVICE_ID_BYTES_MAX, FINGERPRINT_BYTES, TEXT_BYTES_MAX

CONTENT_TYPE = "application/vnd.dcu.ssmp"
MAGIC = b"SS"
VERSION = 3
VERSION_2 = 2  # before keys of one session
VERSION_1 = 1  # before challenges without a memory
VERSIONS = (VERSION_1, VERSION_2, VERSION)
HEADER_BYTES = 6
FIELD_HEADER_BYTES = 3
MESSAGE_BYTES_MAX = 48 * 1024  # a bootstrap document is some hundred bytes; this leaves room for certificates in it
NONCE_BYTES = 32
SESSION_BYTES = 16
COOKIE_BYTES_MAX = 64  # only its server knows what is in it
MAC_BYTES = 32
SIGNATURE_BYTES = 64  # ECDSA with P-256: r and s of 32 bytes each (IEEE 1363)
EPHEMERAL_BYTES = 32  # a public key of X25519 (RFC 7748)
OWN_CERTIFICATE_BYTES_MAX = 4000  # of a device or of the server, in DER
ERROR_TEXT_BYTES_MAX = 200
UNABLE_BYTES_MAX = 200
TIME_BYTES = 8
FIELDS_MAX = 32


class Type(IntEnum):
    """The type octet."""

    HELLO = 1
    CHALLENGE = 2
    AUTH = 3
    BOOTSTRAP = 4
    CONFIRM = 5
    DONE = 6
    ERROR = 7


class Tag(IntEnum):
    """The tag octet of a field. Tags below 0x80 must be understood."""

    DEVICE_ID = 0x01
    CLIENT_NONCE = 0x02
    SESSION = 0x03
    SERVER_NONCE = 0x04
    SEALED = 0x05
    ERROR_CODE = 0x06
    ERROR_TEXT = 0x07
    COOKIE = 0x08
    HELLO = 0x09
    CHALLENGE = 0x0A
    EPHEMERAL = 0x0B
    CERTIFICATE = 0x0C
    MAN = 0x10
    MOD = 0x11
    HW = 0x12
    FW = 0x13
    SW = 0x14
    PUSH_URL = 0x15
    HELD = 0x16
    PROOF = 0x7F
    OFFERED = 0x80
    RENEWS = 0x81
    RENEWED = 0x82
    WANTED = 0x83
    REQUEST = 0x84
    ISSUED = 0x85
    TIME = 0x86
    UNABLE = 0x87


FIRST_IGNORABLE_TAG = 0x80


class ErrorCode(IntEnum):
    """Codes of an ERROR message; the numbers have the meaning that they have in HTTP."""

    MALFORMED = 400  # not an SSMP message, or one that this end does not accept
    REFUSED = 401  # unknown device, wrong key, device switched off: one answer for all
    EXPIRED = 408  # the session is unknown or took too long
    OUT_OF_ORDER = 409  # a known session, but not the message that is due
    UPGRADE = 426  # both ends speak a later version, and something between them says otherwise
    TOO_MANY = 429  # this device asks too often
    UNAVAILABLE = 503  # the server cannot serve now
    VERSION = 505  # this version is not spoken here; a server of version 1 says 400 instead


@dataclass(frozen=True, slots=True)
class RegistrationInfo:
    """A device's information about itself. Each text has at most 256 bytes of UTF-8; empty means unknown."""

    man: str
    mod: str
    hw: str
    fw: str
    sw: str
    push_url: str

    def __post_init__(self) -> None:
        for name in ("man", "mod", "hw", "fw", "sw", "push_url"):
            _text_bytes(getattr(self, name), TEXT_BYTES_MAX, name)


@dataclass(frozen=True, slots=True)
class Hello:
    """Device → server: the device's id and nonce.

    `offered`, where it is not 0, is a later version that the device speaks and was told the server does not know.
    """

    type: ClassVar[Type] = Type.HELLO
    device_id: str
    client_nonce: bytes
    version: int = VERSION
    offered: int = 0

    def __post_init__(self) -> None:
        if not _text_bytes(self.device_id, DEVICE_ID_BYTES_MAX, "device_id"):
            raise SsmpUsageError("device_id is empty")
        _sized(self.client_nonce, NONCE_BYTES, "client_nonce")

    def emit(self) -> bytes:
        fields = [(Tag.DEVICE_ID, self.device_id.encode()), (Tag.CLIENT_NONCE, self.client_nonce)]
        offered = bytes([self.offered]) if self.offered else None
        return _message(self.version, self.type, fields, (Tag.OFFERED, offered))


@dataclass(frozen=True, slots=True)
class Challenge:
    """Server → device: the server's nonce, and a cookie by which it knows this message again, because it keeps nothing.

    Sent whether or not the device is known.
    """

    type: ClassVar[Type] = Type.CHALLENGE
    server_nonce: bytes
    cookie: bytes
    version: int = VERSION

    def __post_init__(self) -> None:
        _sized(self.server_nonce, NONCE_BYTES, "server_nonce")
        if not 0 < len(self.cookie) <= COOKIE_BYTES_MAX:
            raise SsmpUsageError(f"cookie has {len(self.cookie)} bytes, not 1 to {COOKIE_BYTES_MAX}")

    def emit(self) -> bytes:
        fields = [(Tag.SERVER_NONCE, self.server_nonce), (Tag.COOKIE, self.cookie)]
        return _message(self.version, self.type, fields)


@dataclass(frozen=True, slots=True)
class ChallengeV1:
    """CHALLENGE of version 1: the id of a session that the server keeps, and its nonce."""

    type: ClassVar[Type] = Type.CHALLENGE
    version: ClassVar[int] = VERSION_1
    session: bytes
    server_nonce: bytes

    def __post_init__(self) -> None:
        _sized(self.session, SESSION_BYTES, "session")
        _sized(self.server_nonce, NONCE_BYTES, "server_nonce")

    def emit(self) -> bytes:
        fields = [(Tag.SESSION, self.session), (Tag.SERVER_NONCE, self.server_nonce)]
        return _message(self.version, self.type, fields)


@dataclass(frozen=True, slots=True)
class Auth:
    """Device → server: the device's proof, over everything so far, its registration information, and the public key
    that it made for this session.

    `hello` and `challenge` are the two messages before, whole; `held` is the fingerprint of the account that the device
    has (`omadm.bootstrap.Account.fingerprint`), empty for none. `certificate` is the device's, in DER, and `proof` a
    signature then; it is empty for a device with a shared key, and `proof` a MAC. `renews`: it can take a new key,
    or certificate; `unable`: why it cannot, empty where it does not say.
    """

    type: ClassVar[Type] = Type.AUTH
    version: ClassVar[int] = VERSION
    hello: bytes
    challenge: bytes
    ephemeral: bytes
    certificate: bytes
    info: RegistrationInfo
    held: bytes
    proof: bytes
    renews: bool = False
    unable: str = ""

    def __post_init__(self) -> None:
        _repeating(self.hello, self.challenge, self.held)
        _text_bytes(self.unable, UNABLE_BYTES_MAX, "unable")
        _agreeing(self.ephemeral, self.certificate, self.proof)

    def emit(self) -> bytes:
        before = [(Tag.HELLO, self.hello), (Tag.CHALLENGE, self.challenge)]
        own = [(Tag.EPHEMERAL, self.ephemeral), (Tag.CERTIFICATE, self.certificate)]
        fields = [*before, *own, *_info_fields(self.info), (Tag.HELD, self.held), (Tag.PROOF, self.proof)]
        optional = (Tag.RENEWS, b"" if self.renews else None), (Tag.UNABLE, self.unable.encode() or None)
        return _message(self.version, self.type, fields, *optional)


@dataclass(frozen=True, slots=True)
class AuthV2:
    """AUTH of version 2: without keys of the session, and for shared keys only."""

    type: ClassVar[Type] = Type.AUTH
    version: ClassVar[int] = VERSION_2
    hello: bytes
    challenge: bytes
    info: RegistrationInfo
    held: bytes
    proof: bytes

    def __post_init__(self) -> None:
        _repeating(self.hello, self.challenge, self.held)
        _sized(self.proof, MAC_BYTES, "proof")

    def emit(self) -> bytes:
        before = [(Tag.HELLO, self.hello), (Tag.CHALLENGE, self.challenge)]
        fields = [*before, *_info_fields(self.info), (Tag.HELD, self.held), (Tag.PROOF, self.proof)]
        return _message(self.version, self.type, fields)


@dataclass(frozen=True, slots=True)
class AuthV1:
    """AUTH of version 1: in the session that the server keeps."""

    type: ClassVar[Type] = Type.AUTH
    version: ClassVar[int] = VERSION_1
    session: bytes
    info: RegistrationInfo
    proof: bytes

    def __post_init__(self) -> None:
        _sized(self.session, SESSION_BYTES, "session")
        _sized(self.proof, MAC_BYTES, "proof")

    def emit(self) -> bytes:
        fields = [(Tag.SESSION, self.session), *_info_fields(self.info), (Tag.PROOF, self.proof)]
        return _message(self.version, self.type, fields)


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Server → device: the sealed bootstrap document, the server's public key of this session, and its proof.

    `certificate` is the server's where the device proved itself with one, and `proof` a signature then. `renewed` is a
    new device key, sealed; empty for none. `wanted`: CONFIRM is to bring a request for another certificate. `time_ms`:
    what time it is at the server, in milliseconds since 1970 (UTC); 0 where it does not say.
    """

    type: ClassVar[Type] = Type.BOOTSTRAP
    version: ClassVar[int] = VERSION
    session: bytes
    sealed: bytes
    ephemeral: bytes
    certificate: bytes
    proof: bytes
    renewed: bytes = b""
    wanted: bool = False
    time_ms: int = 0

    def __post_init__(self) -> None:
        _sized(self.session, SESSION_BYTES, "session")
        if not self.sealed:
            raise SsmpUsageError("sealed is empty")
        if not 0 <= self.time_ms < 1 << 8 * TIME_BYTES:
            raise SsmpUsageError(f"time_ms {self.time_ms} is no time")
        _agreeing(self.ephemeral, self.certificate, self.proof)

    def emit(self) -> bytes:
        own = [(Tag.EPHEMERAL, self.ephemeral), (Tag.CERTIFICATE, self.certificate)]
        fields = [(Tag.SESSION, self.session), (Tag.SEALED, self.sealed), *own, (Tag.PROOF, self.proof)]
        optional = (Tag.RENEWED, self.renewed or None), (Tag.WANTED, b"" if self.wanted else None)
        time = self.time_ms.to_bytes(TIME_BYTES, "big") if self.time_ms else None
        return _message(self.version, self.type, fields, *optional, (Tag.TIME, time))


@dataclass(frozen=True, slots=True)
class BootstrapV2:
    """BOOTSTRAP of versions 1 and 2."""

    type: ClassVar[Type] = Type.BOOTSTRAP
    session: bytes
    sealed: bytes
    proof: bytes
    version: int = VERSION_2

    def __post_init__(self) -> None:
        _sized(self.session, SESSION_BYTES, "session")
        _sized(self.proof, MAC_BYTES, "proof")
        if not self.sealed:
            raise SsmpUsageError("sealed is empty")

    def emit(self) -> bytes:
        fields = [(Tag.SESSION, self.session), (Tag.SEALED, self.sealed), (Tag.PROOF, self.proof)]
        return _message(self.version, self.type, fields)


@dataclass(frozen=True, slots=True)
class _Proof:
    """A session id, and the sender's MAC over all messages so far."""

    type: ClassVar[Type]
    session: bytes
    mac: bytes
    version: int = VERSION

    def __post_init__(self) -> None:
        _sized(self.session, SESSION_BYTES, "session")
        _sized(self.mac, MAC_BYTES, "mac")

    def _emit(self, *optional: tuple[Tag, bytes | None]) -> bytes:
        return _message(self.version, self.type, [(Tag.SESSION, self.session), (Tag.PROOF, self.mac)], *optional)


@dataclass(frozen=True, slots=True)
class Confirm(_Proof):
    """Device → server: the bootstrap document arrived and opened. `request`: for another certificate, sealed; empty for
    none. `unable`: why the device did not store the key that it was given, or did not make the key pair that it was to
    make; empty where it did."""

    type: ClassVar[Type] = Type.CONFIRM
    request: bytes = b""
    unable: str = ""

    def __post_init__(self) -> None:
        _Proof.__post_init__(self)
        _text_bytes(self.unable, UNABLE_BYTES_MAX, "unable")

    def emit(self) -> bytes:
        return self._emit((Tag.REQUEST, self.request or None), (Tag.UNABLE, self.unable.encode() or None))


@dataclass(frozen=True, slots=True)
class Done(_Proof):
    """Server → device: the account is in force. `issued`: another certificate, sealed; empty for none."""

    type: ClassVar[Type] = Type.DONE
    issued: bytes = b""

    def emit(self) -> bytes:
        return self._emit((Tag.ISSUED, self.issued or None))


@dataclass(frozen=True, slots=True)
class Error:
    """Server → device: a refusal. It has no proof, so it can end an attempt but never change anything.

    It goes in the version of the message that it answers, or in version 1 where that is not known.
    """

    type: ClassVar[Type] = Type.ERROR
    code: int
    text: str
    version: int = VERSION

    def __post_init__(self) -> None:
        if not 100 <= self.code <= 999:
            raise SsmpUsageError(f"error code {self.code} is not of three digits")
        _text_bytes(self.text, ERROR_TEXT_BYTES_MAX, "text")

    def emit(self) -> bytes:
        fields = [(Tag.ERROR_CODE, self.code.to_bytes(2, "big")), (Tag.ERROR_TEXT, self.text.encode())]
        return _message(self.version, self.type, fields)


Message = Hello | Challenge | ChallengeV1 | Auth | AuthV2 | AuthV1 | Bootstrap | BootstrapV2 | Confirm | Done | Error

_INFO_TAGS = (Tag.MAN, Tag.MOD, Tag.HW, Tag.FW, Tag.SW, Tag.PUSH_URL)
_TAGS: dict[Type, tuple[Tag, ...]] = {
    Type.HELLO: (Tag.DEVICE_ID, Tag.CLIENT_NONCE),
    Type.CHALLENGE: (Tag.SERVER_NONCE, Tag.COOKIE),
    Type.AUTH: (Tag.HELLO, Tag.CHALLENGE, Tag.EPHEMERAL, Tag.CERTIFICATE, *_INFO_TAGS, Tag.HELD, Tag.PROOF),
    Type.BOOTSTRAP: (Tag.SESSION, Tag.SEALED, Tag.EPHEMERAL, Tag.CERTIFICATE, Tag.PROOF),
    Type.CONFIRM: (Tag.SESSION, Tag.PROOF),
    Type.DONE: (Tag.SESSION, Tag.PROOF),
    Type.ERROR: (Tag.ERROR_CODE, Tag.ERROR_TEXT),
}
_TAGS_V2 = _TAGS | {
    Type.AUTH: (Tag.HELLO, Tag.CHALLENGE, *_INFO_TAGS, Tag.HELD, Tag.PROOF),
    Type.BOOTSTRAP: (Tag.SESSION, Tag.SEALED, Tag.PROOF),
}
_TAGS_V1 = _TAGS_V2 | {
    Type.CHALLENGE: (Tag.SESSION, Tag.SERVER_NONCE),
    Type.AUTH: (Tag.SESSION, *_INFO_TAGS, Tag.PROOF),
}
_TAGS_OF = {VERSION_1: _TAGS_V1, VERSION_2: _TAGS_V2, VERSION: _TAGS}
_OPTIONAL = {
    Type.HELLO: (Tag.OFFERED,),
    Type.AUTH: (Tag.RENEWS, Tag.UNABLE),
    Type.BOOTSTRAP: (Tag.RENEWED, Tag.WANTED, Tag.TIME),
    Type.CONFIRM: (Tag.REQUEST, Tag.UNABLE),
    Type.DONE: (Tag.ISSUED,),
}


def parse(data: bytes) -> Message:
    """Parse one whole message. Raises `SsmpWireError` and nothing else; `SsmpVersionError` for a version that is not
    spoken here."""
    version, type_ = _parse_header(data)
    fields = _parse_fields(data, type_, _TAGS_OF[version][type_])
    try:
        return _build(version, type_, fields)
    except SsmpUsageError as error:  # the constructors' checks, seen from the receiving side
        raise SsmpWireError(HEADER_BYTES, f"{type_.name}: {error}") from None


def unproven(data: bytes) -> bytes:
    """The part of an AUTH, BOOTSTRAP, CONFIRM or DONE message that its own proof covers: all but that field's value, up
    to and including its tag and length. `data` must have been emitted or parsed here before."""
    at = HEADER_BYTES
    while at < len(data):
        size = int.from_bytes(data[at + 1 : at + 3], "big")
        start = at + FIELD_HEADER_BYTES
        if data[at] == Tag.PROOF:
            return data[:start] + data[start + size :]
        at = start + size
    raise SsmpUsageError("the message has no proof")


def _parse_header(data: bytes) -> tuple[int, Type]:
    if len(data) > MESSAGE_BYTES_MAX:
        raise SsmpWireError(0, f"longer than {MESSAGE_BYTES_MAX} bytes")
    if len(data) < HEADER_BYTES:
        raise SsmpWireError(len(data), "cut short in the header")
    if data[:2] != MAGIC:
        raise SsmpWireError(0, "does not begin with SS")
    if data[2] not in VERSIONS:
        raise SsmpVersionError(2, f"version {data[2]} is not spoken here")
    try:
        type_ = Type(data[3])
    except ValueError:
        raise SsmpWireError(3, f"unknown type {data[3]}") from None
    length = int.from_bytes(data[4:6], "big")
    if length != len(data) - HEADER_BYTES:
        raise SsmpWireError(4, f"length says {length} bytes of fields, there are {len(data) - HEADER_BYTES}")
    return data[2], type_


def _parse_fields(data: bytes, type_: Type, known: tuple[Tag, ...]) -> dict[Tag, bytes]:
    fields: dict[Tag, bytes] = {}
    at, last, count = HEADER_BYTES, 0, 0
    while at < len(data):
        count += 1
        if count > FIELDS_MAX:
            raise SsmpWireError(at, f"more than {FIELDS_MAX} fields")
        if len(data) - at < FIELD_HEADER_BYTES:
            raise SsmpWireError(at, "cut short in a field's header")
        number, size = data[at], int.from_bytes(data[at + 1 : at + 3], "big")
        if number <= last:
            raise SsmpWireError(at, f"field 0x{number:02x} is out of order or twice")
        last = number
        start = at + FIELD_HEADER_BYTES
        if len(data) - start < size:
            raise SsmpWireError(at, f"field 0x{number:02x} says {size} bytes, {len(data) - start} are left")
        if number in known or number in _OPTIONAL.get(type_, ()):
            fields[Tag(number)] = data[start : start + size]
        elif number < FIRST_IGNORABLE_TAG:
            raise SsmpWireError(at, f"field 0x{number:02x} does not belong in {type_.name}")
        at = start + size
    for tag in known:
        if tag not in fields:
            raise SsmpWireError(len(data), f"{type_.name} lacks field {tag.name}")
    return fields


def _build(version: int, type_: Type, fields: dict[Tag, bytes]) -> Message:
    match type_:
        case Type.HELLO:
            offered = fields.get(Tag.OFFERED, b"\0")
            _sized(offered, 1, "offered")
            return Hello(_text(fields, Tag.DEVICE_ID), fields[Tag.CLIENT_NONCE], version, offered[0])
        case Type.CHALLENGE if version == VERSION_1:
            return ChallengeV1(fields[Tag.SESSION], fields[Tag.SERVER_NONCE])
        case Type.CHALLENGE:
            return Challenge(fields[Tag.SERVER_NONCE], fields[Tag.COOKIE], version)
        case Type.AUTH:
            return _build_auth(version, fields)
        case Type.BOOTSTRAP if version == VERSION:
            keys = fields[Tag.EPHEMERAL], fields[Tag.CERTIFICATE]
            renewed, wanted = fields.get(Tag.RENEWED, b""), Tag.WANTED in fields
            told = fields.get(Tag.TIME, bytes(TIME_BYTES))
            _sized(told, TIME_BYTES, "time")
            time_ms = int.from_bytes(told, "big")
            return Bootstrap(
                fields[Tag.SESSION], fields[Tag.SEALED], *keys, fields[Tag.PROOF], renewed, wanted, time_ms
            )
        case Type.BOOTSTRAP:
            return BootstrapV2(fields[Tag.SESSION], fields[Tag.SEALED], fields[Tag.PROOF], version)
        case Type.CONFIRM:
            request, unable = fields.get(Tag.REQUEST, b""), _text(fields, Tag.UNABLE)
            return Confirm(fields[Tag.SESSION], fields[Tag.PROOF], version, request, unable)
        case Type.DONE:
            return Done(fields[Tag.SESSION], fields[Tag.PROOF], version, fields.get(Tag.ISSUED, b""))
        case Type.ERROR:
            code = fields[Tag.ERROR_CODE]
            _sized(code, 2, "error code")
            return Error(int.from_bytes(code, "big"), _text(fields, Tag.ERROR_TEXT), version)


def _build_auth(version: int, fields: dict[Tag, bytes]) -> Message:
    info = RegistrationInfo(*(_text(fields, tag) for tag in _INFO_TAGS))
    if version == VERSION_1:
        return AuthV1(fields[Tag.SESSION], info, fields[Tag.PROOF])
    hello, challenge, held, proof = (fields[tag] for tag in (Tag.HELLO, Tag.CHALLENGE, Tag.HELD, Tag.PROOF))
    if version == VERSION_2:
        return AuthV2(hello, challenge, info, held, proof)
    renews, unable = Tag.RENEWS in fields, _text(fields, Tag.UNABLE)
    keys = fields[Tag.EPHEMERAL], fields[Tag.CERTIFICATE]
    return Auth(hello, challenge, *keys, info, held, proof, renews, unable)


def _info_fields(info: RegistrationInfo) -> list[tuple[Tag, bytes]]:
    texts = (info.man, info.mod, info.hw, info.fw, info.sw, info.push_url)
    return [(tag, text.encode()) for tag, text in zip(_INFO_TAGS, texts, strict=True)]


def _message(version: int, type_: Type, fields: list[tuple[Tag, bytes]], *optional: tuple[Tag, bytes | None]) -> bytes:
    """The message with these fields, and of the `optional` ones those that have a value."""
    whole = [*fields, *((tag, value) for tag, value in optional if value is not None)]
    body = b"".join(bytes([tag]) + len(value).to_bytes(2, "big") + value for tag, value in whole)
    if HEADER_BYTES + len(body) > MESSAGE_BYTES_MAX:
        raise SsmpUsageError(f"{type_.name} would be longer than {MESSAGE_BYTES_MAX} bytes")
    return MAGIC + bytes([version, type_]) + len(body).to_bytes(2, "big") + body


def _text(fields: dict[Tag, bytes], tag: Tag) -> str:
    """A text; empty where it may be missing and is. Raises `SsmpUsageError`."""
    try:
        return fields.get(tag, b"").decode()
    except UnicodeDecodeError:
        raise SsmpUsageError(f"{tag.name} is not UTF-8") from None


def _text_bytes(text: str, size_max: int, name: str) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise SsmpUsageError(f"{name} is not Unicode text") from None
    if len(data) > size_max:
        raise SsmpUsageError(f"{name} is longer than {size_max} bytes")
    if any(character < " " or character == "\x7f" for character in text):
        raise SsmpUsageError(f"{name} holds control characters")
    return data


def _repeating(hello: bytes, challenge: bytes, held: bytes) -> None:
    """What AUTH has in common since version 2."""
    if not hello or not challenge:
        raise SsmpUsageError("AUTH repeats HELLO and CHALLENGE")
    if held:
        _sized(held, FINGERPRINT_BYTES, "held")


def _agreeing(ephemeral: bytes, certificate: bytes, proof: bytes) -> None:
    """What the two messages that agree on keys have in common: a signature goes with a certificate, a MAC without."""
    _sized(ephemeral, EPHEMERAL_BYTES, "ephemeral")
    if len(certificate) > OWN_CERTIFICATE_BYTES_MAX:
        raise SsmpUsageError(f"certificate is longer than {OWN_CERTIFICATE_BYTES_MAX} bytes")
    _sized(proof, SIGNATURE_BYTES if certificate else MAC_BYTES, "proof")


def _sized(value: bytes, size: int, name: str) -> None:
    if len(value) != size:
        raise SsmpUsageError(f"{name} has {len(value)} bytes, not {size}")
