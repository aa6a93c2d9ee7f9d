"""SSMP messages: parse and emit (docs/ssmp.md, "Messages").

One message is the whole body of one HTTP request or answer::

    0        2         3      4            6
    +--------+---------+------+------------+-----------------
    | "SS"   | version | type | length u16 | fields ...
    +--------+---------+------+------------+-----------------

    field:  | tag u8 | length u16 | value |

Numbers are big endian; `length` counts the bytes of all fields. Fields are in ascending order of tag, each at most
once. A tag below 0x80 that the message's type does not define is an error; one from 0x80 on is skipped (but covered by
the proofs, which are over the bytes as sent). The MAC field, if a type has one, has the tag 0x7F, and is therefore the
last of the fields that the type defines.

There are two versions. In version 1 the server remembers each HELLO; in version 2 it remembers nothing before the
device has proven itself, so CHALLENGE and AUTH carry other fields. `HELLO`, the proofs and ERROR are alike in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from omadm.ssmp.errors import SsmpUsageError, SsmpVersionError, SsmpWireError
from omadm.ssmp.limits import DEVICE_ID_BYTES_MAX, FINGERPRINT_BYTES, TEXT_BYTES_MAX

CONTENT_TYPE = "application/vnd.dcu.ssmp"
MAGIC = b"SS"
VERSION = 2
VERSION_1 = 1  # of devices and servers before challenges without a memory
VERSIONS = (VERSION_1, VERSION)
HEADER_BYTES = 6
FIELD_HEADER_BYTES = 3
MESSAGE_BYTES_MAX = 48 * 1024  # a bootstrap document is some hundred bytes; this leaves room for certificates in it
NONCE_BYTES = 32
SESSION_BYTES = 16
COOKIE_BYTES_MAX = 64  # only its server knows what is in it
MAC_BYTES = 32
ERROR_TEXT_BYTES_MAX = 200
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
    MAN = 0x10
    MOD = 0x11
    HW = 0x12
    FW = 0x13
    SW = 0x14
    PUSH_URL = 0x15
    HELD = 0x16
    MAC = 0x7F


FIRST_IGNORABLE_TAG = 0x80


class ErrorCode(IntEnum):
    """Codes of an ERROR message; the numbers have the meaning that they have in HTTP."""

    MALFORMED = 400  # not an SSMP message, or one that this end does not accept
    REFUSED = 401  # unknown device, wrong key, device switched off: one answer for all
    EXPIRED = 408  # the session is unknown or took too long
    OUT_OF_ORDER = 409  # a known session, but not the message that is due
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
    """Device → server: the device's id and nonce."""

    type: ClassVar[Type] = Type.HELLO
    device_id: str
    client_nonce: bytes
    version: int = VERSION

    def __post_init__(self) -> None:
        if not _text_bytes(self.device_id, DEVICE_ID_BYTES_MAX, "device_id"):
            raise SsmpUsageError("device_id is empty")
        _sized(self.client_nonce, NONCE_BYTES, "client_nonce")

    def emit(self) -> bytes:
        fields = [(Tag.DEVICE_ID, self.device_id.encode()), (Tag.CLIENT_NONCE, self.client_nonce)]
        return _message(self.version, self.type, fields)


@dataclass(frozen=True, slots=True)
class Challenge:
    """Server → device: the server's nonce, and a cookie by which it knows this message again, because it keeps nothing.

    Sent whether or not the device is known.
    """

    type: ClassVar[Type] = Type.CHALLENGE
    version: ClassVar[int] = VERSION
    server_nonce: bytes
    cookie: bytes

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
    """Device → server: the device's proof, over everything so far and its registration information.

    `hello` and `challenge` are the two messages before, whole; `held` is the fingerprint of the account that the device
    has (`omadm.bootstrap.Account.fingerprint`), empty for none.
    """

    type: ClassVar[Type] = Type.AUTH
    version: ClassVar[int] = VERSION
    hello: bytes
    challenge: bytes
    info: RegistrationInfo
    held: bytes
    mac: bytes

    def __post_init__(self) -> None:
        if not self.hello or not self.challenge:
            raise SsmpUsageError("AUTH repeats HELLO and CHALLENGE")
        if self.held:
            _sized(self.held, FINGERPRINT_BYTES, "held")
        _sized(self.mac, MAC_BYTES, "mac")

    def emit(self) -> bytes:
        before = [(Tag.HELLO, self.hello), (Tag.CHALLENGE, self.challenge)]
        fields = [*before, *_info_fields(self.info), (Tag.HELD, self.held), (Tag.MAC, self.mac)]
        return _message(self.version, self.type, fields)


@dataclass(frozen=True, slots=True)
class AuthV1:
    """AUTH of version 1: in the session that the server keeps."""

    type: ClassVar[Type] = Type.AUTH
    version: ClassVar[int] = VERSION_1
    session: bytes
    info: RegistrationInfo
    mac: bytes

    def __post_init__(self) -> None:
        _sized(self.session, SESSION_BYTES, "session")
        _sized(self.mac, MAC_BYTES, "mac")

    def emit(self) -> bytes:
        fields = [(Tag.SESSION, self.session), *_info_fields(self.info), (Tag.MAC, self.mac)]
        return _message(self.version, self.type, fields)


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Server → device: the sealed bootstrap document and the server's proof."""

    type: ClassVar[Type] = Type.BOOTSTRAP
    session: bytes
    sealed: bytes
    mac: bytes
    version: int = VERSION

    def __post_init__(self) -> None:
        _sized(self.session, SESSION_BYTES, "session")
        _sized(self.mac, MAC_BYTES, "mac")
        if not self.sealed:
            raise SsmpUsageError("sealed is empty")

    def emit(self) -> bytes:
        fields = [(Tag.SESSION, self.session), (Tag.SEALED, self.sealed), (Tag.MAC, self.mac)]
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

    def emit(self) -> bytes:
        return _message(self.version, self.type, [(Tag.SESSION, self.session), (Tag.MAC, self.mac)])


@dataclass(frozen=True, slots=True)
class Confirm(_Proof):
    """Device → server: the bootstrap document arrived and opened."""

    type: ClassVar[Type] = Type.CONFIRM


@dataclass(frozen=True, slots=True)
class Done(_Proof):
    """Server → device: the account is in force."""

    type: ClassVar[Type] = Type.DONE


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


Message = Hello | Challenge | ChallengeV1 | Auth | AuthV1 | Bootstrap | Confirm | Done | Error

_INFO_TAGS = (Tag.MAN, Tag.MOD, Tag.HW, Tag.FW, Tag.SW, Tag.PUSH_URL)
_TAGS: dict[Type, tuple[Tag, ...]] = {
    Type.HELLO: (Tag.DEVICE_ID, Tag.CLIENT_NONCE),
    Type.CHALLENGE: (Tag.SERVER_NONCE, Tag.COOKIE),
    Type.AUTH: (Tag.HELLO, Tag.CHALLENGE, *_INFO_TAGS, Tag.HELD, Tag.MAC),
    Type.BOOTSTRAP: (Tag.SESSION, Tag.SEALED, Tag.MAC),
    Type.CONFIRM: (Tag.SESSION, Tag.MAC),
    Type.DONE: (Tag.SESSION, Tag.MAC),
    Type.ERROR: (Tag.ERROR_CODE, Tag.ERROR_TEXT),
}
_TAGS_V1 = _TAGS | {
    Type.CHALLENGE: (Tag.SESSION, Tag.SERVER_NONCE),
    Type.AUTH: (Tag.SESSION, *_INFO_TAGS, Tag.MAC),
}


def parse(data: bytes) -> Message:
    """Parse one whole message. Raises `SsmpWireError` and nothing else; `SsmpVersionError` for a version that is not
    spoken here."""
    version, type_ = _parse_header(data)
    fields = _parse_fields(data, type_, (_TAGS_V1 if version == VERSION_1 else _TAGS)[type_])
    try:
        return _build(version, type_, fields)
    except SsmpUsageError as error:  # the constructors' checks, seen from the receiving side
        raise SsmpWireError(HEADER_BYTES, f"{type_.name}: {error}") from None


def unproven(data: bytes) -> bytes:
    """The part of an AUTH, BOOTSTRAP, CONFIRM or DONE message that its own MAC covers: all but the MAC field's value,
    up to and including that field's tag and length. `data` must have been emitted or parsed here before."""
    at = HEADER_BYTES
    while at < len(data):
        size = int.from_bytes(data[at + 1 : at + 3], "big")
        start = at + FIELD_HEADER_BYTES
        if data[at] == Tag.MAC:
            return data[:start] + data[start + size :]
        at = start + size
    raise SsmpUsageError("the message has no MAC field")


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
        if number in known:
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
            return Hello(_text(fields, Tag.DEVICE_ID), fields[Tag.CLIENT_NONCE], version)
        case Type.CHALLENGE if version == VERSION_1:
            return ChallengeV1(fields[Tag.SESSION], fields[Tag.SERVER_NONCE])
        case Type.CHALLENGE:
            return Challenge(fields[Tag.SERVER_NONCE], fields[Tag.COOKIE])
        case Type.AUTH:
            info = RegistrationInfo(*(_text(fields, tag) for tag in _INFO_TAGS))
            if version == VERSION_1:
                return AuthV1(fields[Tag.SESSION], info, fields[Tag.MAC])
            return Auth(fields[Tag.HELLO], fields[Tag.CHALLENGE], info, fields[Tag.HELD], fields[Tag.MAC])
        case Type.BOOTSTRAP:
            return Bootstrap(fields[Tag.SESSION], fields[Tag.SEALED], fields[Tag.MAC], version)
        case Type.CONFIRM:
            return Confirm(fields[Tag.SESSION], fields[Tag.MAC], version)
        case Type.DONE:
            return Done(fields[Tag.SESSION], fields[Tag.MAC], version)
        case Type.ERROR:
            code = fields[Tag.ERROR_CODE]
            _sized(code, 2, "error code")
            return Error(int.from_bytes(code, "big"), _text(fields, Tag.ERROR_TEXT), version)


def _info_fields(info: RegistrationInfo) -> list[tuple[Tag, bytes]]:
    texts = (info.man, info.mod, info.hw, info.fw, info.sw, info.push_url)
    return [(tag, text.encode()) for tag, text in zip(_INFO_TAGS, texts, strict=True)]


def _message(version: int, type_: Type, fields: list[tuple[Tag, bytes]]) -> bytes:
    body = b"".join(bytes([tag]) + len(value).to_bytes(2, "big") + value for tag, value in fields)
    if HEADER_BYTES + len(body) > MESSAGE_BYTES_MAX:
        raise SsmpUsageError(f"{type_.name} would be longer than {MESSAGE_BYTES_MAX} bytes")
    return MAGIC + bytes([version, type_]) + len(body).to_bytes(2, "big") + body


def _text(fields: dict[Tag, bytes], tag: Tag) -> str:
    try:
        return fields[tag].decode()
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


def _sized(value: bytes, size: int, name: str) -> None:
    if len(value) != size:
        raise SsmpUsageError(f"{name} has {len(value)} bytes, not {size}")
