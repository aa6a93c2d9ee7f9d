"""Keys, certificates and signatures, on the build host.

A signer turns bytes into a signature. There are three: a key in a file, a key in a PKCS#11 token used through
`openssl`, and a signature that was made elsewhere (offline).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from updateagent.buildhost.token import token_signer
from updateagent.errors import REQUEST, PackageError, RequestError
from updateagent.package import certificate, cms, trust
from updateagent.package.certificate import Certificate

if TYPE_CHECKING:  # cryptography has this name from version 40 on
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
Sign = Callable[[bytes], bytes]
"""Signs with SHA-256: PKCS #1 v1.5 for an RSA key, a DER ECDSA-Sig-Value for a key on a curve."""
Passphrase = Callable[[Path], bytes]
"""Asked for the passphrase of an encrypted key. Raises `RequestError` when there is none."""

ALGORITHMS = ("rsa-3072", "rsa-2048", "rsa-4096", "p-256", "p-384")
"""RSA is the default although its keys are long: its signatures are reproducible with every library, and they are the
fastest to verify on a small ARM core."""
ROOT_DAYS = 30 * 365
SIGNER_DAYS = 10 * 365
CLOCK_SKEW = timedelta(hours=1)
"""How far the validity of a new certificate is backdated, for build hosts whose clocks differ."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A signer's certificate, and the authorities between it and the root."""

    signer: Certificate
    others: tuple[Certificate, ...]
    kind: str
    """"rsa" or "ecdsa"."""

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read a PEM file: the signer's certificate first. Raises `RequestError` or `PackageError`."""
        found = trust.parse_pem(path.read_bytes())
        if not found:
            raise RequestError(REQUEST, f"{path}: no certificate")
        return cls.of(found[0], found[1:])

    @classmethod
    def of(cls, signer: Certificate, others: tuple[Certificate, ...]) -> Identity:
        """From certificates that were read. Raises `PackageError` (signature-profile)."""
        return cls(signer, others, certificate.key_kind(signer))

    def sign(self, content: bytes, signed_at: int, sign: Sign) -> bytes:
        """Return the detached CMS signature of `content`, after checking that the key belongs to the certificate."""
        return self.join(content, cms.signed_attributes(content, signed_at), sign)

    def join(self, content: bytes, attributes: bytes, sign: Sign) -> bytes:
        """Sign `attributes` and put the signature together. Raises `RequestError` when it does not fit."""
        signature = cms.emit(attributes, sign(attributes), self.signer, self.others, self.kind)
        try:
            cms.verify(content, signature)
        except PackageError as error:
            raise RequestError(REQUEST, f"key and certificate do not belong together: {error.message}") from error
        return signature


def file_signer(path: Path, passphrase: Passphrase) -> Sign:
    """A signer with a key in a PEM file, whose `passphrase` is asked for if it is encrypted. Raises `RequestError`."""
    text = path.read_bytes()
    try:
        try:
            key = serialization.load_pem_private_key(text, password=None)
        except TypeError:  # how the library says that it is encrypted
            key = _decrypted(path, text, passphrase(path))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RequestError(REQUEST, f"{path}: not a private key that can be used here") from error
    if isinstance(key, rsa.RSAPrivateKey):
        rsa_key = key
        return lambda data: rsa_key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    if isinstance(key, ec.EllipticCurvePrivateKey):
        ec_key = key
        return lambda data: _sign_ecdsa(ec_key, data)
    raise RequestError(REQUEST, f"{path}: a key of a kind that packages are not signed with")


def _decrypted(path: Path, text: bytes, passphrase: bytes) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(text, passphrase)
    except ValueError as error:
        raise RequestError(REQUEST, f"{path}: this passphrase does not open it") from error


def _sign_ecdsa(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """Sign deterministically (RFC 6979) where the library can, for reproducible packages."""
    try:
        return key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    except (TypeError, UnsupportedAlgorithm):
        return key.sign(data, ec.ECDSA(hashes.SHA256()))


def signer(key: str, passphrase: Passphrase) -> Sign:
    """The signer for the option `--key`: a `pkcs11:` URI, or the path of a file. Raises `RequestError`."""
    return token_signer(key) if key.startswith("pkcs11:") else file_signer(Path(key), passphrase)


def new_key(algorithm: str) -> PrivateKey:
    """Make a private key; `algorithm` is one of `ALGORITHMS`."""
    if algorithm.startswith("rsa-"):
        return rsa.generate_private_key(public_exponent=65537, key_size=int(algorithm[4:]))
    curves: dict[str, ec.EllipticCurve] = {"p-256": ec.SECP256R1(), "p-384": ec.SECP384R1()}
    return ec.generate_private_key(curves[algorithm])


def write_key(path: Path, key: PrivateKey, passphrase: bytes = b"") -> None:
    """Write a private key, readable by its owner alone, and encrypted if there is a passphrase.

    Raises `FileExistsError`: a key is never overwritten.
    """
    protected: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protected)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(text)


def issue(
    subject: str,
    key: PrivateKey,
    *,
    issuer: x509.Certificate | None = None,
    issuer_key: PrivateKey | None = None,
    authority: bool = False,
    path_length: int | None = None,
    begin: datetime | None = None,
    days: int = SIGNER_DAYS,
) -> x509.Certificate:
    """Issue a certificate: a root without `issuer`, an authority, or a signer of packages."""
    begin = begin or datetime.now(UTC).replace(microsecond=0) - CLOCK_SKEW
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    signing_key = issuer_key or key
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=path_length), critical=True)
        .add_extension(_key_usage(authority=authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()),
            critical=False,
        )
    )
    if not authority:
        # This project's devices require codeSigning. `openssl cms -verify` and SWUpdate require the second purpose
        # unless they are told otherwise.
        purposes = [ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.EMAIL_PROTECTION]
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return builder.sign(signing_key, hashes.SHA256())


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def pem(*certificates: x509.Certificate) -> bytes:
    """Certificates as the content of a PEM file."""
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def parsed(one: x509.Certificate) -> Certificate:
    """The same certificate, as the device reads it."""
    return certificate.parse(one.public_bytes(serialization.Encoding.DER))


def keygen(folder: Path, algorithm: str, passphrase: Passphrase | None = None) -> None:
    """Make root.key, root.crt, signer.key and signer.crt in `folder`, the keys encrypted if there is a `passphrase`.

    Raises `FileExistsError`, `RequestError`.
    """
    paths = {name: folder / name for name in ("root.key", "signer.key")}
    words = {name: b"" if passphrase is None else passphrase(path) for name, path in paths.items()}
    folder.mkdir(parents=True, exist_ok=True)
    root_key, signer_key = new_key(algorithm), new_key(algorithm)
    root = issue("DCU packages root", root_key, authority=True, path_length=1, days=ROOT_DAYS)
    signer = issue("DCU packages signer", signer_key, issuer=root, issuer_key=root_key)
    write_key(paths["root.key"], root_key, words["root.key"])
    write_key(paths["signer.key"], signer_key, words["signer.key"])
    for name, one in (("root.crt", root), ("signer.crt", signer)):
        with (folder / name).open("xb") as file:
            file.write(pem(one))
