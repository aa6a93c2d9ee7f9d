"""SSMP messages: what is emitted parses back, and what is no message is an error with a place."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from omadm.ssmp import wire
from omadm.ssmp.errors import SsmpUsageError, SsmpWireError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "ssmp.json").read_text())
NAMES = ("hello", "challenge", "auth", "bootstrap", "confirm", "done", "error")
INFO = wire.RegistrationInfo("Maker", "Model", "1", "2", "3", "http://h/push")
NONCE = bytes(range(32))
SESSION = bytes(range(16))
MESSAGES: tuple[wire.Message, ...] = (
    wire.Hello("urn:dcu:Ä", NONCE),
    wire.Challenge(SESSION, NONCE),
    wire.Auth(SESSION, INFO, NONCE),
    wire.Bootstrap(SESSION, b"sealed", NONCE),
    wire.Confirm(SESSION, NONCE),
    wire.Done(SESSION, NONCE),
    wire.Error(401, "no"),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_is_emitted_parses_back(message: wire.Message) -> None:
    assert wire.parse(message.emit()) == message


@pytest.mark.parametrize("name", NAMES)
def test_the_known_answers_parse_and_come_out_again(name: str) -> None:
    data = bytes.fromhex(VECTORS[name])
    assert wire.parse(data).emit() == data


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_truncation_is_an_error(message: wire.Message) -> None:
    data = message.emit()
    for size in range(len(data)):
        with pytest.raises(SsmpWireError):
            wire.parse(data[:size])


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_followed_by_something_is_an_error(message: wire.Message) -> None:
    with pytest.raises(SsmpWireError, match="length says"):
        wire.parse(message.emit() + b"\0")


def with_fields(kind: int, *fields: tuple[int, bytes]) -> bytes:
    body = b"".join(bytes([tag]) + len(value).to_bytes(2, "big") + value for tag, value in fields)
    return b"SS\x01" + bytes([kind]) + len(body).to_bytes(2, "big") + body


def test_an_unknown_field_from_0x80_on_is_skipped() -> None:
    data = with_fields(5, (3, SESSION), (0x7F, NONCE), (0x80, b"later"))
    assert wire.parse(data) == wire.Confirm(SESSION, NONCE)
    assert wire.unproven(data) == data.replace(NONCE, b"")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "cut short"),
        (b"XX\x01\x01\0\0", "begin with SS"),
        (b"SS\x02\x01\0\0", "version 2"),
        (b"SS\x01\x63\0\0", "unknown type"),
        (with_fields(1), "lacks field"),
        (with_fields(1, (1, b"id")), "lacks field CLIENT_NONCE"),
        (with_fields(1, (2, NONCE), (1, b"id")), "out of order"),
        (with_fields(1, (1, b"id"), (1, b"id"), (2, NONCE)), "out of order or twice"),
        (with_fields(1, (1, b"id"), (2, NONCE), (3, SESSION)), "does not belong"),
        (with_fields(1, (0, b"")), "out of order"),
        (with_fields(1, (1, b""), (2, NONCE)), "empty"),
        (with_fields(1, (1, b"a\nb"), (2, NONCE)), "control characters"),
        (with_fields(1, (1, b"\xff"), (2, NONCE)), "not UTF-8"),
        (with_fields(1, (1, b"x" * 129), (2, NONCE)), "longer than 128"),
        (with_fields(1, (1, b"id"), (2, NONCE[:31])), "31 bytes, not 32"),
        (with_fields(4, (3, SESSION), (5, b""), (0x7F, NONCE)), "sealed is empty"),
        (with_fields(7, (6, b"\x01"), (7, b"x")), "1 bytes, not 2"),
        (with_fields(7, (6, b"\0\x01"), (7, b"x")), "three digits"),
        (b"SS\x01\x01\x00\x02\x01\x00", "field's header"),
        (b"SS\x01\x01\x00\x04\x01\x00\x09x", "9 bytes, 1 are left"),
        (b"SS" + bytes(wire.MESSAGE_BYTES_MAX), "longer than"),
    ],
)
def test_what_is_no_message_is_refused_with_a_reason(data: bytes, why: str) -> None:
    with pytest.raises(SsmpWireError, match=why):
        wire.parse(data)


def test_more_fields_than_the_limit_are_refused() -> None:
    many = [(0x80 + number, b"") for number in range(wire.FIELDS_MAX + 1)]
    with pytest.raises(SsmpWireError, match="more than 32 fields"):
        wire.parse(with_fields(5, (3, SESSION), (0x7F, NONCE), *many))


@pytest.mark.parametrize("size", [0, 129])
def test_a_device_id_that_does_not_fit_cannot_be_made(size: int) -> None:
    with pytest.raises(SsmpUsageError):
        wire.Hello("x" * size, NONCE)


def test_a_document_that_does_not_fit_cannot_be_sent() -> None:
    with pytest.raises(SsmpUsageError, match="longer than"):
        wire.Bootstrap(SESSION, bytes(wire.MESSAGE_BYTES_MAX), NONCE).emit()


def test_a_text_that_is_no_unicode_cannot_be_made() -> None:
    with pytest.raises(SsmpUsageError):
        wire.RegistrationInfo("\ud800", "", "", "", "", "")


def test_only_messages_with_a_mac_have_an_unproven_part() -> None:
    with pytest.raises(SsmpUsageError):
        wire.unproven(wire.Hello("id", NONCE).emit())


def test_mutated_messages_parse_or_fail_as_such() -> None:
    rng = random.Random(7)
    parsed = 0
    for _ in range(20_000):
        data = bytearray(rng.choice(MESSAGES).emit())
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
