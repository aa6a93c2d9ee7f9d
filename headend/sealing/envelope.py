"""How a secret lies in the database, sans-IO.

    octets   1         8        24        n          16
          ┌─────────┬────────┬───────┬────────────┬───────┐
          │ version │ key id │ nonce │ ciphertext │  tag  │
          └─────────┴────────┴───────┴────────────┴───────┘

The cipher is XAES-256-GCM (C2SP): AES-256-GCM under a key that is derived for each value from the data key and half of
a nonce of 24 octets. Nonces of that length may be drawn at random for ever; those of 12 octets that AES-GCM alone takes
may be for 2^32 values under one key (NIST SP 800-38D, 8.3), which 20,000 devices reach within two years.

The associated data are the version, the key's id, and what the value is bound to: table, column and row. A value that
is copied elsewhere does not open there.
"""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from headend.sealing.errors import SealedValueError

LAYOUT_VERSION = 1
DATA_KEY_BYTES = 32
KEY_ID_BYTES = 8
NONCE_BYTES = 24
SEAL_TAG_BYTES = 16
PREFIX_BYTES = 1 + KEY_ID_BYTES
OVERHEAD_BYTES = PREFIX_BYTES + NONCE_BYTES + SEAL_TAG_BYTES
_GCM_NONCE_BYTES = 12
_CONTEXT = b"dcu-headend sealed value"


@dataclass(frozen=True, slots=True)
class Binding:
    """What a sealed value is bound to. `row` tells its row from the others of the table, and does not change."""

    table: str
    column: str
    row: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.table}.{self.column} of {', '.join(self.row)}"


def seal(key: bytes, key_id: bytes, nonce: bytes, secret: bytes, binding: Binding) -> bytes:
    """Return `secret` sealed, and bound by `binding`. `nonce` are 24 octets that were drawn for this value."""
    prefix = prefix_of(key_id)
    cipher, short = _derived(key, nonce)
    return prefix + nonce + cipher.encrypt(short, secret, _associated(prefix, binding))


def key_id_of(sealed: bytes) -> bytes:
    """Return the id of the data key. Raises `SealedValueError` for what is no sealed value of this version."""
    if len(sealed) < OVERHEAD_BYTES or sealed[0] != LAYOUT_VERSION:
        raise SealedValueError("this is no sealed value")
    return sealed[1:PREFIX_BYTES]


def unseal(key: bytes, sealed: bytes, binding: Binding) -> bytes:
    """Return the secret. Raises `SealedValueError` when it was changed, moved, or sealed under another key."""
    key_id_of(sealed)
    nonce = sealed[PREFIX_BYTES : PREFIX_BYTES + NONCE_BYTES]
    cipher, short = _derived(key, nonce)
    try:
        return cipher.decrypt(short, sealed[PREFIX_BYTES + NONCE_BYTES :], _associated(sealed[:PREFIX_BYTES], binding))
    except InvalidTag:
        raise SealedValueError("the value was changed, or belongs elsewhere") from None


def prefix_of(key_id: bytes) -> bytes:
    """What every value begins with that is sealed under a key. Nine octets are twelve characters of base64."""
    return bytes([LAYOUT_VERSION]) + key_id


def to_text(sealed: bytes) -> str:
    """A sealed value as text, for columns that hold text or JSON."""
    return base64.b64encode(sealed).decode("ascii")


def from_text(text: object) -> bytes:
    """The reverse of `to_text`. Raises `SealedValueError`."""
    if not isinstance(text, str):
        raise SealedValueError("this is no sealed value")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise SealedValueError("this is no sealed value") from None


def xaes_256_gcm(key: bytes, nonce: bytes) -> tuple[bytes, bytes]:
    """The key and nonce for AES-256-GCM that XAES-256-GCM derives (c2sp.org/XAES-256-GCM): NIST SP 800-108 in counter
    mode with CMAC, label X, context the first half of the nonce."""
    context, short = nonce[:_GCM_NONCE_BYTES], nonce[_GCM_NONCE_BYTES:]
    halves = []
    for counter in (1, 2):
        mac = CMAC(AES(key))
        mac.update(struct.pack(">HcB", counter, b"X", 0) + context)
        halves.append(mac.finalize())
    return b"".join(halves), short


def _derived(key: bytes, nonce: bytes) -> tuple[AESGCM, bytes]:
    derived, short = xaes_256_gcm(key, nonce)
    return AESGCM(derived), short


def _associated(prefix: bytes, binding: Binding) -> bytes:
    """Each part with its length before it: no two bindings give the same octets."""
    parts = (
        _CONTEXT,
        prefix,
        binding.table.encode(),
        binding.column.encode(),
        *(each.encode() for each in binding.row),
    )
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)
