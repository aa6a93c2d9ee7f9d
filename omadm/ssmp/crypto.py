"""Keys and proofs of SSMP (docs/ssmp.md, "Keys and proofs").

A session's keys are derived by HKDF-SHA-256 (RFC 5869) from the device key and from keys that both ends make for this
session alone (X25519, RFC 7748), and each has one use::

    early    = HMAC(device_key, "dcu-ssmp 3 key" || client_nonce || server_nonce)     with a certificate: 32 zero bytes
    prk      = HKDF-Extract(salt = early, ikm = X25519(ephemeral keys))
    key_X    = HKDF-Expand(prk, "dcu-ssmp 3 " + X, 32)        X: server, confirm, done, "seal" || session
    nonce    = HKDF-Expand(prk, "dcu-ssmp 3 seal nonce" || session, 12)

The device's proof, which comes before the server has made its key, is under `key_device` of `early`. Versions 1 and 2
have one prk for everything, HKDF-Extract(salt = client_nonce || server_nonce, ikm = device_key), and say 1 and 2 in
their texts. A server that keeps nothing may see the same AUTH twice; the session, which is new each time, keeps the
seal from using a nonce twice. Version 1 has no session in the seal.

The transcript is the SHA-256 of all messages so far, each preceded by its length as u32; a message with a MAC is
included without the value of its proof.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from omadm.ssmp.errors import SsmpError, SsmpUsageError
from omadm.ssmp.identity import KeyModule, SharedKey
from omadm.ssmp.limits import DEVICE_KEY_BYTES
from omadm.ssmp.wire import MAC_BYTES, NONCE_BYTES, VERSION, VERSION_1, VERSION_2

SEAL_NONCE_BYTES = 12
RENEW = b"renew"  # the use of the seal of a new device key
REQUEST, ISSUED = b"request", b"issued"  # of a request for another certificate, and of that
_LABELS = {VERSION_1: b"dcu-ssmp 1 ", VERSION_2: b"dcu-ssmp 2 ", VERSION: b"dcu-ssmp 3 "}
_NO_KEY = SharedKey(bytes(DEVICE_KEY_BYTES))  # stands for the device key where there is a certificate instead


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


class Ephemeral:
    """A key pair for one session. Its repr does not show the private key."""

    __slots__ = ("_private", "public")

    def __init__(self, private: bytes) -> None:
        """`private`: 32 random bytes."""
        self._private = X25519PrivateKey.from_private_bytes(private)
        self.public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def __repr__(self) -> str:
        return "Ephemeral(...)"

    def agree(self, public: bytes) -> bytes:
        """What only the two ends know. Raises `SsmpError` for a public key that agrees on nothing (RFC 7748, 6.1)."""
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise SsmpError("the other end's key of this session is none") from None


class SessionKeys:
    """The keys of one session. Its repr does not show them."""

    __slots__ = ("_label", "_prk")

    def __init__(self, module: KeyModule, client_nonce: bytes, server_nonce: bytes, version: int = VERSION) -> None:
        """Before anything is agreed on: in version 3 good for the device's proof only."""
        if len(client_nonce) != NONCE_BYTES or len(server_nonce) != NONCE_BYTES:
            raise SsmpUsageError(f"a nonce has {NONCE_BYTES} bytes")
        self._label = _LABELS[version]
        if version == VERSION:
            self._prk = module.mac(self._label + b"key" + client_nonce + server_nonce)
        else:
            self._prk = module.extract(client_nonce + server_nonce)

    def agreed(self, secret: bytes) -> SessionKeys:
        """The keys of version 3 after `Ephemeral.agree` has given `secret`."""
        keys = SessionKeys.__new__(SessionKeys)
        keys._label, keys._prk = self._label, hmac.digest(self._prk, secret, "sha256")
        return keys

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

    def signed(self, use: bytes, transcript: bytes) -> bytes:
        """What a certificate's key signs: as `use`, `device` or `server`, over `transcript`."""
        return self._label + use + b" signature" + transcript

    def seal(self, document: bytes, transcript: bytes, session: bytes, use: bytes = b"seal") -> bytes:
        """AES-256-GCM: ciphertext and 16-byte tag, bound to `transcript`. Use it once per session: the nonce is derived
        from the session's keys. `session` is empty in version 1; `use` says what else is sealed."""
        key, nonce = self._sealing(session, use)
        return AESGCM(key).encrypt(nonce, document, transcript)

    def open(self, sealed: bytes, transcript: bytes, session: bytes, use: bytes = b"seal") -> bytes:
        """Decrypt the document, or what was sealed for another use. Raises `SsmpError` unless it was sealed with these
        keys for this transcript."""
        key, nonce = self._sealing(session, use)
        try:
            return AESGCM(key).decrypt(nonce, sealed, transcript)
        except (InvalidTag, ValueError):
            raise SsmpError("the bootstrap document does not open: it was altered or sealed with other keys") from None

    def _sealing(self, session: bytes, use: bytes) -> tuple[bytes, bytes]:
        return self._expand(use + session, 32), self._expand(use + b" nonce" + session, SEAL_NONCE_BYTES)

    def _mac(self, use: bytes, transcript: bytes) -> bytes:
        return hmac.digest(self._expand(use, MAC_BYTES), transcript, "sha256")

    def _expand(self, use: bytes, size: int) -> bytes:
        return HKDFExpand(algorithm=hashes.SHA256(), length=size, info=self._label + use).derive(self._prk)


def certified_keys(client_nonce: bytes, server_nonce: bytes) -> SessionKeys:
    """The keys that a session begins with in which the ends prove themselves with certificates: no secret is in them
    before both have agreed on one."""
    return SessionKeys(_NO_KEY, client_nonce, server_nonce)


def sealing(session: bytes, version: int) -> bytes:
    """The session as the seal's keys have it: not at all in version 1."""
    return b"" if version == VERSION_1 else session


def equal(left: bytes, right: bytes) -> bool:
    """Constant-time comparison of two proofs."""
    return hmac.compare_digest(left, right)
