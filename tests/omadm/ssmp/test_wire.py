"""SSMP messages: what is emitted parses back, and what is no message is an error with a place."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from omadm.ssmp import wire
from omadm.ssmp.errors import SsmpUsageError, SsmpVersionError, SsmpWireError

FOLDER = Path(__file__).parents[2] / "vectors"
VECTORS = {number: json.loads((FOLDER / f"ssmp-{number}.json").read_text()) for number in wire.VERSIONS}
NAMES = ("hello", "challenge", "auth", "bootstrap", "confirm", "done", "error")
INFO = wire.RegistrationInfo("Maker", "Model", "1", "2", "3", "http://h/push")
NONCE = bytes(range(32))
SESSION = bytes(range(16))
KEY = bytes(range(100, 132))
MESSAGES: tuple[wire.Message, ...] = (
    wire.Hello("urn:dcu:Ä", NONCE),
    wire.Challenge(NONCE[::-1], b"cookie"),
    wire.Auth(b"hello", b"challenge", KEY, b"", INFO, SESSION, NONCE),
    wire.Bootstrap(SESSION, b"sealed", KEY, b"", NONCE),
    wire.Confirm(SESSION, NONCE),
    wire.Done(SESSION, NONCE),
    wire.Error(401, "no"),
)
OTHER_KINDS: tuple[wire.Message, ...] = (
    wire.Auth(b"hello", b"challenge", KEY, b"certificate", INFO, b"", 2 * NONCE),
    wire.Bootstrap(SESSION, b"sealed", KEY, b"certificate", 2 * NONCE),
    wire.Auth(b"hello", b"challenge", KEY, b"", INFO, b"", NONCE, renews=True),
    wire.Bootstrap(SESSION, b"sealed", KEY, b"", NONCE, b"renewed"),
    wire.Bootstrap(SESSION, b"sealed", KEY, b"certificate", bytes(64), wanted=True),
    wire.Bootstrap(SESSION, b"sealed", KEY, b"", NONCE, time_ms=1_800_000_000_250),
    wire.Confirm(SESSION, NONCE, request=b"request"),
    wire.Done(SESSION, NONCE, issued=b"issued"),
)
MESSAGES_V2: tuple[wire.Message, ...] = (
    wire.Hello("urn:dcu:Ä", NONCE, 2, 3),
    wire.Challenge(NONCE[::-1], b"cookie", 2),
    wire.AuthV2(b"hello", b"challenge", INFO, SESSION, NONCE),
    wire.BootstrapV2(SESSION, b"sealed", NONCE),
    wire.Confirm(SESSION, NONCE, 2),
    wire.Done(SESSION, NONCE, 2),
    wire.Error(401, "no", 2),
)
MESSAGES_V1: tuple[wire.Message, ...] = (
    wire.Hello("urn:dcu:Ä", NONCE, 1),
    wire.ChallengeV1(SESSION, NONCE),
    wire.AuthV1(SESSION, INFO, NONCE),
    wire.BootstrapV2(SESSION, b"sealed", NONCE, 1),
    wire.Confirm(SESSION, NONCE, 1),
    wire.Done(SESSION, NONCE, 1),
    wire.Error(401, "no", 1),
)
EVERY = MESSAGES + OTHER_KINDS + MESSAGES_V2 + MESSAGES_V1


@pytest.mark.parametrize("message", EVERY, ids=lambda message: f"{type(message).__name__}-{message.version}")
def test_what_is_emitted_parses_back(message: wire.Message) -> None:
    assert wire.parse(message.emit()) == message


@pytest.mark.parametrize("version", wire.VERSIONS)
@pytest.mark.parametrize("name", NAMES)
def test_the_known_answers_parse_and_come_out_again(name: str, version: int) -> None:
    data = bytes.fromhex(VECTORS[version][name])
    message = wire.parse(data)
    assert (message.emit(), message.version) == (data, version)


def test_another_version_is_an_error_of_its_own() -> None:
    for version in (0, 4, 255):
        with pytest.raises(SsmpVersionError, match=f"version {version}"):
            wire.parse(b"SS" + bytes([version, 1, 0, 0]))


def test_challenge_and_auth_of_one_version_are_no_messages_of_the_other() -> None:
    for message, other in (
        *((each, 1) for each in MESSAGES_V2[1:3]),
        *((each, 2) for each in (*MESSAGES[2:4], *MESSAGES_V1[1:3])),
        *((each, 3) for each in (*MESSAGES_V2[2:4], *MESSAGES_V1[1:4])),
    ):
        data = bytearray(message.emit())
        data[2] = other
        with pytest.raises(SsmpWireError, match=r"does not belong|lacks field"):
            wire.parse(bytes(data))


@pytest.mark.parametrize("message", EVERY, ids=lambda message: f"{type(message).__name__}-{message.version}")
def test_every_truncation_is_an_error(message: wire.Message) -> None:
    data = message.emit()
    for size in range(len(data)):
        with pytest.raises(SsmpWireError):
            wire.parse(data[:size])


@pytest.mark.parametrize("message", EVERY, ids=lambda message: f"{type(message).__name__}-{message.version}")
@pytest.mark.slow
def test_a_message_followed_by_something_is_an_error(message: wire.Message) -> None:
    with pytest.raises(SsmpWireError, match="length says"):
        wire.parse(message.emit() + b"\0")


def with_fields(kind: int, *fields: tuple[int, bytes]) -> bytes:
    body = b"".join(bytes([tag]) + len(value).to_bytes(2, "big") + value for tag, value in fields)
    return b"SS\x03" + bytes([kind]) + len(body).to_bytes(2, "big") + body


def test_an_unknown_field_from_0x80_on_is_skipped() -> None:
    data = with_fields(5, (3, SESSION), (0x7F, NONCE), (0x80, b"later"))
    assert wire.parse(data) == wire.Confirm(SESSION, NONCE)
    assert wire.unproven(data) == data.replace(NONCE, b"")


@pytest.mark.parametrize(
    ("data", "offset", "why"),
    [
        (b"", 0, "cut short"),
        (b"SS\x02\x05\0", 5, "cut short in the header"),
        (b"XX\x01\x01\0\0", 0, "begin with SS"),
        (b"SS\x04\x01\0\0", 2, "version 4"),
        (b"SS\x02\x63\0\0", 3, "unknown type"),
        (b"SS\x02\x01\0\x01", 4, "length says 1 bytes of fields, there are 0"),
        (with_fields(1), 6, "lacks field"),
        (with_fields(1, (1, b"id")), 11, "lacks field CLIENT_NONCE"),
        (with_fields(1, (2, NONCE), (1, b"id")), 41, "out of order"),
        (with_fields(1, (1, b"id"), (1, b"id"), (2, NONCE)), 11, "out of order or twice"),
        (with_fields(1, (1, b"id"), (2, NONCE), (3, SESSION)), 46, "does not belong"),
        (with_fields(5, (3, SESSION), (0x7E, b""), (0x7F, NONCE)), 25, "does not belong"),
        (with_fields(1, (0, b"")), 6, "out of order"),
        (with_fields(1, (1, b""), (2, NONCE)), 6, "empty"),
        (with_fields(1, (1, b"a\nb"), (2, NONCE)), 6, "control characters"),
        (with_fields(1, (1, b"a\x7f"), (2, NONCE)), 6, "control characters"),
        (with_fields(1, (1, b"\xff"), (2, NONCE)), 6, "not UTF-8"),
        (with_fields(1, (1, b"x" * 129), (2, NONCE)), 6, "longer than 128"),
        (with_fields(1, (1, b"id"), (2, NONCE[:31])), 6, "31 bytes, not 32"),
        (with_fields(2, (4, NONCE), (8, b"")), 6, "cookie has 0 bytes"),
        (with_fields(2, (4, NONCE), (8, bytes(65))), 6, "cookie has 65 bytes"),
        (with_fields(4, (3, SESSION), (5, b""), (11, KEY), (12, b""), (0x7F, NONCE)), 6, "sealed is empty"),
        (with_fields(7, (6, b"\x01"), (7, b"x")), 6, "1 bytes, not 2"),
        (with_fields(7, (6, b"\0\x01"), (7, b"x")), 6, "three digits"),
        (b"SS\x03\x01\x00\x02\x01\x00", 6, "field's header"),
        (b"SS\x03\x01\x00\x04\x01\x00\x09x", 6, "9 bytes, 1 are left"),
        (b"SS" + bytes(wire.MESSAGE_BYTES_MAX), 0, "longer than"),
    ],
)
def test_what_is_no_message_is_refused_with_a_place_and_a_reason(data: bytes, offset: int, why: str) -> None:
    with pytest.raises(SsmpWireError, match=why) as caught:
        wire.parse(data)
    assert caught.value.offset == offset


def test_more_fields_than_the_limit_are_refused() -> None:
    own = ((3, SESSION), (0x7F, NONCE))
    others = [(0x80 + number, b"") for number in range(31)]
    assert wire.parse(with_fields(5, *own, *others[:30])) == wire.Confirm(SESSION, NONCE)
    with pytest.raises(SsmpWireError, match="more than 32 fields"):
        wire.parse(with_fields(5, *own, *others))


def test_a_message_of_the_largest_size_is_made_and_read() -> None:
    rest = len(wire.BootstrapV2(SESSION, b"x", NONCE).emit()) - 1
    largest = wire.BootstrapV2(SESSION, bytes(48 * 1024 - rest), NONCE)
    assert wire.parse(largest.emit()) == largest
    with pytest.raises(SsmpUsageError, match="BOOTSTRAP would be longer than 49152 bytes"):
        wire.BootstrapV2(SESSION, bytes(48 * 1024 - rest + 1), NONCE).emit()
    ignored = with_fields(5, (3, SESSION), (0x7F, NONCE), (0x80, bytes(48 * 1024 - 63)))
    assert len(ignored) == 48 * 1024
    assert wire.parse(ignored) == wire.Confirm(SESSION, NONCE)
    with pytest.raises(SsmpWireError, match="longer than 49152 bytes"):
        wire.parse(ignored + b"x")


def _info(place: int, text: str) -> wire.RegistrationInfo:
    return wire.RegistrationInfo(*(text if at == place else "" for at in range(6)))


@pytest.mark.parametrize(
    ("size_max", "make"),
    [
        pytest.param(128, lambda text: wire.Hello(text, NONCE), id="device id"),
        pytest.param(200, lambda text: wire.Error(401, text), id="error text"),
        *(
            pytest.param(256, lambda text, place=place: _info(place, text), id=name)
            for place, name in enumerate(("man", "mod", "hw", "fw", "sw", "push_url"))
        ),
    ],
)
def test_texts_have_a_limit_in_bytes_and_no_control_characters(size_max: int, make: Callable[[str], object]) -> None:
    make("Ä" * (size_max // 2))
    make(" ~\x80")
    for text in ("Ä" * (size_max // 2) + "x", "a\x1fb", "a\x7f", "\0", "\ud800"):
        with pytest.raises(SsmpUsageError):
            make(text)


@pytest.mark.parametrize("wrong", [-1, 1])
def test_nonces_sessions_and_proofs_have_one_size(wrong: int) -> None:
    nonce, session = bytes(32 + wrong), bytes(16 + wrong)
    for make in (
        lambda: wire.Hello("id", nonce),
        lambda: wire.Challenge(nonce, b"cookie"),
        lambda: wire.ChallengeV1(session, NONCE),
        lambda: wire.ChallengeV1(SESSION, nonce),
        lambda: wire.Auth(b"h", b"c", KEY, b"", INFO, b"", nonce),
        lambda: wire.Auth(b"h", b"c", nonce, b"", INFO, b"", NONCE),
        lambda: wire.Auth(b"h", b"c", KEY, b"", INFO, session, NONCE),
        lambda: wire.AuthV2(b"h", b"c", INFO, b"", nonce),
        lambda: wire.AuthV2(b"h", b"c", INFO, session, NONCE),
        lambda: wire.AuthV1(session, INFO, NONCE),
        lambda: wire.AuthV1(SESSION, INFO, nonce),
        lambda: wire.Bootstrap(session, b"sealed", KEY, b"", NONCE),
        lambda: wire.Bootstrap(SESSION, b"sealed", KEY, b"", nonce),
        lambda: wire.Bootstrap(SESSION, b"sealed", nonce, b"", NONCE),
        lambda: wire.BootstrapV2(session, b"sealed", NONCE),
        lambda: wire.BootstrapV2(SESSION, b"sealed", nonce),
        lambda: wire.Confirm(session, NONCE),
        lambda: wire.Done(SESSION, nonce),
    ):
        with pytest.raises(SsmpUsageError, match=f"has {32 + wrong} bytes, not 32|has {16 + wrong} bytes, not 16"):
            make()


@pytest.mark.parametrize("size", [1, 64])
def test_a_cookie_has_1_to_64_bytes(size: int) -> None:
    challenge = wire.Challenge(NONCE, bytes(size))
    assert wire.parse(challenge.emit()) == challenge
    for wrong in (b"", bytes(65)):
        with pytest.raises(SsmpUsageError, match=f"cookie has {len(wrong)} bytes"):
            wire.Challenge(NONCE, wrong)


def test_error_codes_have_three_digits() -> None:
    for code in (100, 999):
        assert wire.parse(wire.Error(code, "").emit()) == wire.Error(code, "")
    for code in (99, 1000):
        with pytest.raises(SsmpUsageError, match="three digits"):
            wire.Error(code, "")


def test_types_tags_and_codes_are_those_of_the_document() -> None:
    document = (Path(__file__).parents[3] / "docs" / "ssmp.md").read_text()
    types = re.findall(r"^\| (\d) \| ([A-Z]+) \| ([0-9A-F, \u2013]+) \|$", document, re.MULTILINE)
    assert {name: int(number) for number, name, _ in types} == {each.name: each.value for each in wire.Type}
    for message, (number, _, tags) in zip(MESSAGES, types, strict=True):
        data = message.emit()
        assert (data[3], wire.parse(data).type) == (int(number), message.type)
        assert fields_of(data) == expand(tags)
    tags_known = re.findall(r"^\| ([0-9A-F]{2}) \| [a-zA-Z]", document, re.MULTILINE)
    assert [int(tag, 16) for tag in tags_known] == sorted(wire.Tag)
    codes = re.findall(r"^\| (\d{3}) \|", document, re.MULTILINE)
    assert [int(code) for code in codes] == sorted(wire.ErrorCode)


def fields_of(data: bytes) -> list[int]:
    """The tags in a message, in order."""
    found, at = [], 6
    while at < len(data):
        found.append(data[at])
        at += 3 + int.from_bytes(data[at + 1 : at + 3], "big")
    return found


def expand(tags: str) -> list[int]:
    """The tags in the document's short form, in which a dash stands for all between."""
    ends = [[int(end, 16) for end in re.findall("[0-9A-F]+", part)] for part in tags.split(", ")]
    return [tag for part in ends for tag in range(part[0], part[-1] + 1)]


def test_a_device_without_an_id_and_an_empty_document_cannot_be_sent() -> None:
    with pytest.raises(SsmpUsageError, match="device_id is empty"):
        wire.Hello("", NONCE)
    for hello, challenge in ((b"", b"c"), (b"h", b"")):
        with pytest.raises(SsmpUsageError, match="repeats HELLO and CHALLENGE"):
            wire.Auth(hello, challenge, KEY, b"", INFO, b"", NONCE)
        with pytest.raises(SsmpUsageError, match="repeats HELLO and CHALLENGE"):
            wire.AuthV2(hello, challenge, INFO, b"", NONCE)
    with pytest.raises(SsmpUsageError, match="sealed is empty"):
        wire.Bootstrap(SESSION, b"", KEY, b"", NONCE)
    with pytest.raises(SsmpUsageError, match="sealed is empty"):
        wire.BootstrapV2(SESSION, b"", NONCE)


def test_a_signature_goes_with_a_certificate_and_a_mac_without() -> None:
    for certificate, proof in ((b"", 2 * NONCE), (b"certificate", NONCE)):
        with pytest.raises(SsmpUsageError, match="proof has"):
            wire.Auth(b"h", b"c", KEY, certificate, INFO, b"", proof)
        with pytest.raises(SsmpUsageError, match="proof has"):
            wire.Bootstrap(SESSION, b"sealed", KEY, certificate, proof)
    wire.Bootstrap(SESSION, b"sealed", KEY, bytes(4000), 2 * NONCE)
    with pytest.raises(SsmpUsageError, match="longer than 4000 bytes"):
        wire.Bootstrap(SESSION, b"sealed", KEY, bytes(4001), 2 * NONCE)


def test_what_was_offered_before_is_one_octet() -> None:
    fields = ((1, b"id"), (2, NONCE))
    assert wire.parse(with_fields(1, *fields, (0x80, b"\x03"))) == wire.Hello("id", NONCE, offered=3)
    with pytest.raises(SsmpWireError, match="offered has 2 bytes"):
        wire.parse(with_fields(1, *fields, (0x80, b"\x03\x03")))


def test_the_unproven_part_lacks_the_mac_and_nothing_else() -> None:
    for message in MESSAGES[2:6] + MESSAGES_V2[2:6] + MESSAGES_V1[2:6]:
        data = message.emit()
        assert data.count(NONCE) == 1
        assert wire.unproven(data) == data.replace(NONCE, b"")
    data = wire.BootstrapV2(SESSION, bytes(0x1_02), NONCE).emit()  # a size with two octets
    assert wire.unproven(data) == data.removesuffix(NONCE)


def test_only_messages_with_a_mac_have_an_unproven_part() -> None:
    with pytest.raises(SsmpUsageError):
        wire.unproven(wire.Hello("id", NONCE).emit())


@pytest.mark.slow
def test_mutated_messages_parse_or_fail_as_such() -> None:
    rng = random.Random(7)
    parsed = 0
    for _ in range(20_000):
        data = bytearray(rng.choice(EVERY).emit())
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[at] ^= 1 << rng.randrange(8)
                case 1:
                    del data[at]
                case 2:
                    data.insert(at, rng.randrange(256))
                case 3:
                    data[at] = rng.randrange(256)
        try:
            message = wire.parse(bytes(data))
        except SsmpWireError:
            continue
        parsed += 1
        again = wire.parse(message.emit())  # ignorable fields are dropped, the rest survives
        assert again == message
    assert parsed > 100


def test_a_field_that_only_says_yes_is_the_last_and_empty() -> None:
    auth = wire.Auth(b"hello", b"challenge", KEY, b"", INFO, b"", NONCE, renews=True)
    bootstrap = wire.Bootstrap(SESSION, b"sealed", KEY, b"certificate", bytes(64), wanted=True)
    assert auth.emit()[-3:] == bytes.fromhex("810000")
    assert bootstrap.emit()[-3:] == bytes.fromhex("830000")
