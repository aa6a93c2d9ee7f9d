"""The fields of another key and another certificate (81 to 85), octet by octet, against docs/ssmp.md.

What is expected is computed here from that document with HMAC, X25519 and AES-GCM of other libraries; nothing of
`omadm.ssmp` takes part in it. The keys of the session are those of RFC 7748, section 6.1.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from omadm.ssmp import certificates
from omadm.ssmp.client_core import CertificateIssued, CertificateWanted, KeyOffered, Registered, SsmpClient
from omadm.ssmp.identity import SharedKey
from omadm.ssmp.server_core import Authenticated, Confirmed, Opening, ServerSession
from omadm.ssmp.wire import RegistrationInfo
from tests.omadm.ssmp.certified import DeviceModule, Pair, Server, authority, issue

# RFC 7748, 6.1: Alice is the device, Bob the server.
ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
ALICE_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")

DEVICE, INFO = "urn:dcu:KR-000042", RegistrationInfo("Example", "DCU-1", "A", "1", "2", "")
CLIENT_NONCE, SERVER_NONCE, SESSION, COOKIE = b"c" * 32, b"s" * 32, b"x" * 16, b"k" * 40
KEY, NEW_KEY, DOCUMENT = bytes(range(32)), bytes(range(32, 64)), b"a document"
REQUEST, ISSUED = b"\x30\x82 a request", b"\x30\x82 a certificate"
LABEL = b"dcu-ssmp 3 "

AUTHORITY = authority()
BOX, HOST = issue(AUTHORITY, DEVICE), issue(AUTHORITY, "headend.example", certificates.SERVER)


def field(tag: int, value: bytes) -> bytes:
    return struct.pack(">BH", tag, len(value)) + value


def message(kind: int, *fields: tuple[int, bytes]) -> bytes:
    body = b"".join(field(tag, value) for tag, value in fields)
    return b"SS" + struct.pack(">BBH", 3, kind, len(body)) + body


def fields_of(data: bytes) -> dict[int, bytes]:
    found, at = {}, 6
    while at < len(data):
        tag, size = struct.unpack_from(">BH", data, at)
        found[tag] = data[at + 3 : at + 3 + size]
        at += 3 + size
    return found


def covered(data: bytes) -> bytes:
    """A message without its proof's value: lengths, tag and length of the field as they are."""
    proof = fields_of(data)[0x7F]
    at = data.index(field(0x7F, proof)) + 3
    return data[:at] + data[at + len(proof) :]


def expand(prk: bytes, info: bytes, size: int) -> bytes:
    """HKDF-Expand (RFC 5869, 2.3) with SHA-256."""
    okm, block = b"", b""
    for number in range(1, -(-size // 32) + 1):
        block = hmac.digest(prk, block + info + bytes([number]), "sha256")
        okm += block
    return okm[:size]


def test_the_expansion_of_these_tests_is_that_of_rfc_5869() -> None:
    prk = hmac.digest(bytes(range(13)), b"\x0b" * 22, "sha256")  # A.1
    okm = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert expand(prk, bytes(range(0xF0, 0xFA)), 42).hex() == okm
    agreed = X25519PrivateKey.from_private_bytes(ALICE).exchange(X25519PublicKey.from_public_bytes(BOB_PUBLIC))
    assert agreed == SHARED


class Expected:
    """One session as the document has it, from HELLO on."""

    def __init__(self, secret: bytes) -> None:
        """`secret`: the device key, or 32 zero bytes with certificates."""
        self.hello = message(1, (0x01, DEVICE.encode()), (0x02, CLIENT_NONCE))
        self.challenge = message(2, (0x04, SERVER_NONCE), (0x08, COOKIE))
        self.early = hmac.digest(secret, LABEL + b"key" + CLIENT_NONCE + SERVER_NONCE, "sha256")
        self.prk = hmac.digest(self.early, SHARED, "sha256")
        self._said = LABEL
        self.add(self.hello, self.challenge)

    def add(self, *said: bytes) -> None:
        for data in said:
            self._said += len(data).to_bytes(4, "big") + data

    @property
    def transcript(self) -> bytes:
        return hashlib.sha256(self._said).digest()

    def sealed(self, use: bytes, content: bytes, transcript: bytes) -> bytes:
        key = expand(self.prk, LABEL + use + SESSION, 32)
        nonce = expand(self.prk, LABEL + use + b" nonce" + SESSION, 12)
        return AESGCM(key).encrypt(nonce, content, transcript)

    def mac(self, use: bytes) -> bytes:
        return hmac.digest(expand(self.prk, LABEL + use, 32), self.transcript, "sha256")

    def proven(self, use: bytes, kind: int, *fields: tuple[int, bytes]) -> bytes:
        """A message with a MAC under the key of this use."""
        empty = message(kind, *((tag, bytes(32) if tag == 0x7F else value) for tag, value in fields))
        self.add(covered(empty))
        return message(kind, *((tag, self.mac(use) if tag == 0x7F else value) for tag, value in fields))


def signature(pair: Pair, data: bytes) -> bytes:
    r, s = decode_dss_signature(pair.key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def check_signature(pair: Pair, raw: bytes, data: bytes) -> None:
    encoded = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    pair.certificate.key.verify(encoded, data, ec.ECDSA(hashes.SHA256()))


def auth_fields(expected: Expected, shown: bytes, proof: bytes) -> tuple[tuple[int, bytes], ...]:
    texts = tuple((0x10 + n, text) for n, text in enumerate((b"Example", b"DCU-1", b"A", b"1", b"2", b"")))
    own = ((0x09, expected.hello), (0x0A, expected.challenge), (0x0B, ALICE_PUBLIC), (0x0C, shown))
    return (*own, *texts, (0x16, b""), (0x7F, proof), (0x81, b""))


def a_client(module: SharedKey | DeviceModule, *, asks: bool = False) -> SsmpClient:
    drawn = iter((CLIENT_NONCE, ALICE))
    client = SsmpClient(DEVICE, module, INFO, lambda _: next(drawn), renews=True, asks=asks)
    client.start(0.0)
    return client


def signed_bootstrap(expected: Expected, *more: tuple[int, bytes]) -> bytes:
    """BOOTSTRAP of a server with a certificate, in the session of which AUTH was said."""
    content = ((0x03, SESSION), (0x05, expected.sealed(b"seal", DOCUMENT, expected.transcript)), (0x0B, BOB_PUBLIC))
    fields = (*content, (0x0C, HOST.certificate.der), (0x7F, bytes(64)), *more)
    expected.add(covered(message(4, *fields)))
    proof = signature(HOST, LABEL + b"server signature" + expected.transcript)
    return message(4, *((tag, proof if tag == 0x7F else value) for tag, value in fields))


@pytest.mark.parametrize("by_itself", [False, True])
def test_a_device_asks_for_another_certificate_as_the_document_says(by_itself: bool) -> None:
    """Where field 83 is in BOOTSTRAP, or the device asks by itself: field 84 goes out, field 85 is opened."""
    expected = Expected(bytes(32))
    client = a_client(DeviceModule(BOX, AUTHORITY), asks=by_itself)
    assert client.take_output() == expected.hello
    client.receive(expected.challenge, 1.0)
    auth = client.take_output()
    proof = fields_of(auth)[0x7F]
    assert auth == message(3, *auth_fields(expected, BOX.certificate.der, proof))
    expected.add(covered(auth))
    check_signature(BOX, proof, LABEL + b"device signature" + expected.transcript)

    client.receive(signed_bootstrap(expected, *(() if by_itself else ((0x83, b""),))), 1.0)
    assert client.next_event() == CertificateWanted()
    assert client.take_output() == b""
    client.request(REQUEST)
    sealed = expected.sealed(b"request", REQUEST, expected.transcript)
    confirm = expected.proven(b"confirm", 5, (0x03, SESSION), (0x7F, b""), (0x84, sealed))
    assert client.take_output() == confirm

    sealed = expected.sealed(b"issued", ISSUED, expected.transcript)
    client.receive(expected.proven(b"done", 6, (0x03, SESSION), (0x7F, b""), (0x85, sealed)), 1.0)
    assert [client.next_event(), client.next_event()] == [CertificateIssued(ISSUED), Registered(DOCUMENT)]


def test_a_server_has_another_certificate_asked_for_and_issues_it_as_the_document_says() -> None:
    expected = Expected(bytes(32))
    opening = Opening(expected.hello, expected.challenge, 60.0)
    server = Server(HOST, AUTHORITY)
    session = ServerSession(SESSION, opening, KEY, known=True, ephemeral=BOB, certificates=server)
    expected.add(covered(message(3, *auth_fields(expected, BOX.certificate.der, bytes(64)))))
    proof = signature(BOX, LABEL + b"device signature" + expected.transcript)
    session.receive(message(3, *auth_fields(expected, BOX.certificate.der, proof)), 1.0)
    assert session.next_event() == Authenticated(DEVICE, INFO, b"")

    session.provide(DOCUMENT, wanted=True)
    bootstrap = session.take_output()
    sealed, proof = expected.sealed(b"seal", DOCUMENT, expected.transcript), fields_of(bootstrap)[0x7F]
    content = ((0x03, SESSION), (0x05, sealed), (0x0B, BOB_PUBLIC), (0x0C, HOST.certificate.der))
    assert bootstrap == message(4, *content, (0x7F, proof), (0x83, b""))
    expected.add(covered(bootstrap))
    check_signature(HOST, proof, LABEL + b"server signature" + expected.transcript)

    sealed = expected.sealed(b"request", REQUEST, expected.transcript)
    session.receive(expected.proven(b"confirm", 5, (0x03, SESSION), (0x7F, b""), (0x84, sealed)), 1.0)
    assert session.next_event() == Confirmed(DEVICE, INFO, b"", REQUEST)
    session.acknowledge(ISSUED)
    sealed = expected.sealed(b"issued", ISSUED, expected.transcript)
    assert session.take_output() == expected.proven(b"done", 6, (0x03, SESSION), (0x7F, b""), (0x85, sealed))


def test_another_device_key_is_given_and_taken_as_the_document_says() -> None:
    """Field 82 from a server to a device with a shared key; both ends at once."""
    expected = Expected(KEY)
    client = a_client(SharedKey(KEY))
    assert client.take_output() == expected.hello
    client.receive(expected.challenge, 1.0)
    early = expand(expected.early, LABEL + b"device", 32)
    expected.add(covered(message(3, *auth_fields(expected, b"", bytes(32)))))
    proof = hmac.digest(early, expected.transcript, "sha256")
    auth = message(3, *auth_fields(expected, b"", proof))
    assert client.take_output() == auth

    opening = Opening(expected.hello, expected.challenge, 60.0)
    session = ServerSession(SESSION, opening, KEY, known=True, ephemeral=BOB)
    session.receive(auth, 1.0)
    assert session.next_event() == Authenticated(DEVICE, INFO, b"")
    session.provide(DOCUMENT, NEW_KEY)
    sealed = expected.sealed(b"seal", DOCUMENT, expected.transcript)
    renewed = expected.sealed(b"renew", NEW_KEY, expected.transcript)
    content = ((0x03, SESSION), (0x05, sealed), (0x0B, BOB_PUBLIC), (0x0C, b""), (0x7F, b""), (0x82, renewed))
    bootstrap = expected.proven(b"server", 4, *content)
    assert session.take_output() == bootstrap
    client.receive(bootstrap, 1.0)
    assert client.next_event() == KeyOffered(NEW_KEY)
    assert client.take_output() == expected.proven(b"confirm", 5, (0x03, SESSION), (0x7F, b""))
