"""AES-GCM as DLMS uses it, and the check of the invocation counter (GB 9.2.3.3.7, 9.2.7.2).

SC   security control octet: bits 0-3 suite, 10 authenticated, 20 encrypted, 40 broadcast key, 80 compressed
IV   system title of the sender (8 octets) | invocation counter (4 octets)
tag  the first 12 octets of GCM's 16
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from dlms.cursor import length_octets
from dlms.errors import SecurityError
from dlms.security.settings import InvocationCounters

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TAG_OCTETS = 12
SUITE_MASK = 0x0F
BROADCAST_KEY = 0x40
COMPRESSED = 0x80


def counted(octets: bytes) -> bytes:
    """`octets` preceded by their length."""
    return length_octets(len(octets)) + octets


class Replayed(SecurityError):
    """An invocation counter was not higher than all before; `expected` is the lowest acceptable value."""

    def __init__(self, counter: int, expected: int) -> None:
        super().__init__(f"invocation counter {counter} where {expected} or more is due: replayed")
        self.expected = expected


def check_counter(counters: InvocationCounters, counter: int) -> None:
    """Accept the peer's `counter` once. Raises `Replayed`."""
    seen = counters.seen()
    if seen is not None and counter <= seen:
        raise Replayed(counter, seen + 1)
    counters.note(counter)


class Gcm:
    """AES-GCM with one key, its tags cut to 12 octets."""

    def __init__(self, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._gcm: AESGCM = AESGCM(key)

    def seal(self, iv: bytes, plain: bytes, aad: bytes) -> tuple[bytes, bytes]:
        """Encrypt and authenticate; return the ciphertext and the tag, cut to 12 octets."""
        sealed = self._gcm.encrypt(iv, plain, aad)
        return sealed[:-16], sealed[-16:-4]

    def open(self, iv: bytes, ciphertext: bytes, tag: bytes | None, aad: bytes) -> bytes | None:
        """Decrypt; return None when the tag is wrong. Without a tag nothing is checked.

        GCM encrypts by exclusive or with a key stream, so encrypting the ciphertext gives the plain text; encrypting
        that again gives the full tag, of which 12 octets are compared. (The library only verifies full tags.)
        """
        plain = self._gcm.encrypt(iv, ciphertext, None)[:-16]
        if tag is not None and not hmac.compare_digest(self.seal(iv, plain, aad)[1], tag):
            return None
        return plain
