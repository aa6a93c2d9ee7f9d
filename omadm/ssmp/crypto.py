"""Keys and proofs of SSMP (docs/ssmp.md, "Keys and proofs").

A session's keys are derived by HKDF-SHA-256 (RFC 5869) from the device key, salted with both nonces; each has one use::

    prk      = HKDF-Extract(salt = client_nonce || server_nonce, ikm = device_key)
    key_X    = HKDF-Expand(prk, "dcu-ssmp 2 " + X, 32)        X: device, server, confirm, done, "seal" || session
    nonce    = HKDF-Expand(prk, "dcu-ssmp 2 seal nonce" || session, 12)

A server that keeps nothing may see the same AUTH twice; the session, which is new each time, keeps the seal from using
a nonce twice. Version 1 says 1 in its texts, and has no session in the seal.

The transcript is the SHA-256 of all messages so far, each preceded by its length as u32; a message with a MAC is
included without the value of the MAC.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from omadm.ssmp.errors import SsmpError, SsmpUsageError
from omadm.ssmp.limits import DEVICE_KEY_BYTES
from omadm.ssmp.wire import MAC_BYTES, NONCE_BYTES, VERSION, VERSION_1

SEAL_NONCE_BYTES = 12
_LABELS = {VERSION_1: b"dcu-ssmp 1 ", VERSION: b"dcu-ssmp 2 "}


class Transcript:
    """The running hash over the messages of one session."""

    __slots__ = ("_hash",)

    def __init__(self, version: int = VERSION) -> None:
        self._hash = hashlib.sha256(_LABELS[version])

    def add(self, message: bytes) -> None:
        """Add a message, without the value of its MAC if it has one (`wire.unproven`)."""
        self._hash.update(len(message).to_bytes(4, "big"))
        self._hash.update(message)

    def digest(self) -> bytes:
        """The hash of the messages so far; more can be added."""
        return self._hash.digest()


class SessionKeys:
    """The keys of one session. Its repr does not show them."""

    __slots__ = ("_label", "_prk")

    def __init__(self, device_key: bytes, client_nonce: bytes, server_nonce: bytes, version: int = VERSION) -> None:
        if len(device_key) != DEVICE_KEY_BYTES:
            raise SsmpUsageError(f"a device key has {DEVICE_KEY_BYTES} bytes, not {len(device_key)}")
        if len(client_nonce) != NONCE_BYTES or len(server_nonce) != NONCE_BYTES:
            raise SsmpUsageError(f"a nonce has {NONCE_BYTES} bytes")
        self._label = _LABELS[version]
        self._prk = hmac.digest(client_nonce + server_nonce, device_key, "sha256")

    def __repr__(self) -> str:
        return "SessionKeys(...)"

    def device_mac(self, transcript: bytes) -> bytes:
        """The device's proof in AUTH."""
        return self._mac(b"device", transcript)

    def server_mac(self, transcript: bytes) -> bytes:
        """The server's proof in BOOTSTRAP."""
        return self._mac(b"server", transcript)

    def confirm_mac(self, transcript: bytes) -> bytes:
        """The device's receipt in CONFIRM."""
        return self._mac(b"confirm", transcript)

    def done_mac(self, transcript: bytes) -> bytes:
        """The server's receipt in DONE."""
        return self._mac(b"done", transcript)

    def seal(self, document: bytes, transcript: bytes, session: bytes) -> bytes:
        """AES-256-GCM: ciphertext and 16-byte tag, bound to `transcript`. Use it once per session: the nonce is derived
        from the session's keys. `session` is empty in version 1."""
        key, nonce = self._sealing(session)
        return AESGCM(key).encrypt(nonce, document, transcript)

    def open(self, sealed: bytes, transcript: bytes, session: bytes) -> bytes:
        """Decrypt the document. Raises `SsmpError` unless it was sealed with these keys for this transcript."""
        key, nonce = self._sealing(session)
        try:
            return AESGCM(key).decrypt(nonce, sealed, transcript)
        except (InvalidTag, ValueError):
            raise SsmpError("the bootstrap document does not open: it was altered or sealed with other keys") from None

    def _sealing(self, session: bytes) -> tuple[bytes, bytes]:
        return self._expand(b"seal" + session, 32), self._expand(b"seal nonce" + session, SEAL_NONCE_BYTES)

    def _mac(self, use: bytes, transcript: bytes) -> bytes:
        return hmac.digest(self._expand(use, MAC_BYTES), transcript, "sha256")

    def _expand(self, use: bytes, size: int) -> bytes:
        return HKDFExpand(algorithm=hashes.SHA256(), length=size, info=self._label + use).derive(self._prk)


def sealing(session: bytes, version: int) -> bytes:
    """The session as the seal's keys have it: not at all in version 1."""
    return b"" if version == VERSION_1 else session


def equal(left: bytes, right: bytes) -> bool:
    """Constant-time comparison of two proofs."""
    return hmac.compare_digest(left, right)
