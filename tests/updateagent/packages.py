"""Keys and packages for tests. Keys are on P-256, which are made in no time."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from updateagent.buildhost import assemble, signing
from updateagent.buildhost.assemble import Input, PackageMetadata
from updateagent.buildhost.signing import Identity, PrivateKey
from updateagent.package.certificate import Certificate
from updateagent.package.description import Kind
from updateagent.package.payload import Encoding, Role
from updateagent.package.trust import Trust

DAY = 86_400
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
NOW = int(datetime(2026, 9, 1, tzinfo=UTC).timestamp())
HARDWARE = "dcu-a1"


@dataclass(frozen=True)
class Party:
    """A certificate with its key."""

    x509: x509.Certificate
    key: PrivateKey

    @property
    def certificate(self) -> Certificate:
        return signing.parsed(self.x509)

    def identity(self, *others: Party) -> Identity:
        kind = "rsa" if isinstance(self.key, rsa.RSAPrivateKey) else "ecdsa"
        return Identity(self.certificate, tuple(other.certificate for other in others), kind)

    def sign(self, data: bytes) -> bytes:
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))

    def cms(self, content: bytes, *others: Party, signed_at: int = NOW) -> bytes:
        return self.identity(*others).sign(content, signed_at, self.sign)


def party(subject: str, issuer: Party | None = None, algorithm: str = "p-256", **options: Any) -> Party:
    """Issue a certificate with a new key."""
    key = signing.new_key(algorithm)
    options.setdefault("begin", BEGIN)
    if issuer is not None:
        options.update(issuer=issuer.x509, issuer_key=issuer.key)
    return Party(signing.issue(subject, key, **options), key)


@functools.cache
def root() -> Party:
    return party("root", authority=True, days=20 * 365)


@functools.cache
def other_root() -> Party:
    return party("other root", authority=True, days=20 * 365)


@functools.cache
def signer() -> Party:
    return party("signer", root())


@functools.cache
def rsa_signer() -> Party:
    return party("RSA signer", root(), "rsa-2048")


def device(**options: Any) -> Trust:
    """A device that takes packages of `signer`."""
    options.setdefault("roots", (root().certificate,))
    options.setdefault("compatible", HARDWARE)
    options.setdefault("clock", NOW)
    return Trust(**options)


def release(**options: Any) -> PackageMetadata:
    options.setdefault("kind", Kind.FIRMWARE)
    options.setdefault("version", "2")
    options.setdefault("security_version", 2)
    options.setdefault("compatible", (HARDWARE,))
    return PackageMetadata(**options)


@dataclass
class Workshop:
    """Builds packages below one folder."""

    folder: Path

    def image(
        self, name: str, data: bytes, role: Role = Role.IMAGE, encoding: Encoding = Encoding.RAW, **options: Any
    ) -> Input:
        path = self.folder / f"image-{name.replace('/', '-')}"
        path.write_bytes(data)
        return Input(role, name, path, encoding, **options)

    def build(
        self,
        inputs: Sequence[Input],
        said: PackageMetadata | None = None,
        *,
        by: Party | None = None,
        change: Callable[[bytes], bytes] = bytes,
        signed_at: int = NOW,
    ) -> bytes:
        """Return a package; `change` edits the description before it is signed."""
        prepared = [assemble.prepare(one, index, self.folder) for index, one in enumerate(inputs)]
        text = change(assemble.describe(said or release(), prepared))
        out = io.BytesIO()
        assemble.write(out, text, (by or signer()).cms(text, signed_at=signed_at), prepared)
        return out.getvalue()
