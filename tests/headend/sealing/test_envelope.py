"""One sealed value: what opens it, and what does not."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from headend.sealing import envelope
from headend.sealing.envelope import Binding, seal, unseal
from headend.sealing.errors import SealedValueError

KEY, KEY_ID, NONCE = bytes(range(32)), bytes(range(8)), bytes(range(24))
BINDING = Binding("devices", "key", ("urn:dcu:1",))
SEALED = seal(KEY, KEY_ID, NONCE, b"secret", BINDING)


@pytest.mark.parametrize(
    ("key", "associated", "sealed"),
    [
        (b"\x01" * 32, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (b"\x03" * 32, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ],
)
def test_the_cipher_gives_the_known_answers_of_its_specification(key: bytes, associated: bytes, sealed: str) -> None:
    derived, nonce = envelope.xaes_256_gcm(key, b"ABCDEFGHIJKLMNOPQRSTUVWX")
    assert AESGCM(derived).encrypt(nonce, b"XAES-256-GCM", associated).hex() == sealed


def test_what_was_sealed_opens_where_it_is_bound_to() -> None:
    assert unseal(KEY, SEALED, BINDING) == b"secret"
    assert envelope.key_id_of(SEALED) == KEY_ID
    assert len(SEALED) == len(b"secret") + envelope.OVERHEAD_BYTES
    assert envelope.from_text(envelope.to_text(SEALED)) == SEALED
    assert b"secret" not in SEALED


@pytest.mark.parametrize(
    "binding",
    [
        Binding("devices", "key", ("urn:dcu:2",)),
        Binding("devices", "other", ("urn:dcu:1",)),
        Binding("accounts", "key", ("urn:dcu:1",)),
        Binding("devices", "key", ("urn:dcu:1", "")),
        Binding("devicesk", "ey", ("urn:dcu:1",)),
    ],
)
def test_a_value_that_is_moved_does_not_open(binding: Binding) -> None:
    with pytest.raises(SealedValueError):
        unseal(KEY, SEALED, binding)


def test_no_changed_bit_opens() -> None:
    for bit in range(8 * len(SEALED)):
        changed = bytearray(SEALED)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealedValueError):
            unseal(KEY, bytes(changed), BINDING)


def test_what_is_cut_lengthened_or_clear_does_not_open() -> None:
    for wrong in (*(SEALED[:size] for size in range(len(SEALED))), SEALED + b"\0", bytes(range(32)), b""):
        with pytest.raises(SealedValueError):
            unseal(KEY, wrong, BINDING)
    for text in ("", "ß", "AQ", None, {"a": 1}, "a secret in clear!"):
        with pytest.raises(SealedValueError):
            envelope.key_id_of(envelope.from_text(text))


def test_another_key_does_not_open() -> None:
    with pytest.raises(SealedValueError):
        unseal(KEY[::-1], SEALED, BINDING)


def test_two_values_that_are_the_same_look_different() -> None:
    assert seal(KEY, KEY_ID, NONCE[::-1], b"secret", BINDING)[33:] != SEALED[33:]
