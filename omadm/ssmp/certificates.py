"""Certificates of SSMP, sans-IO: X.509 v3 of ECDSA keys with P-256 (docs/ssmp.md, "Certificates").

A certificate is good when one of the authorities that are trusted has signed it directly, now lies in both their
periods, and the extended key usage says what the key is for. An intermediate authority is configured as an authority.
"""

from __future__ import annotations

import datetime as dt
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from omadm.ssmp.errors import SsmpError
from omadm.ssmp.wire import OWN_CERTIFICATE_BYTES_MAX, SIGNATURE_BYTES

DEVICE = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
_HALF = SIGNATURE_BYTES // 2
_ECDSA_WITH_SHA256 = bytes.fromhex("06082a8648ce3d040302")  # 1.2.840.10045.4.3.2
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class CertificateError(SsmpError):
    """A certificate, or a signature with its key, that is not believed."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known of the time, in seconds since the epoch: it is not before `earliest`, and not after `latest`."""

    earliest: float
    latest: float

    @classmethod
    def at(cls, now: float) -> Moment:
        """A time that is believed."""
        return cls(now, now)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What SSMP looks at in a certificate. Times are seconds since the epoch."""

    der: bytes = field(repr=False)
    names: tuple[str, ...]  # of the subject alternative name, or else the common name
    purposes: frozenset[str]  # of the extended key usage, as dotted numbers
    authority: bool
    not_before: float
    not_after: float
    key: ec.EllipticCurvePublicKey
    parsed: x509.Certificate = field(repr=False)

    @property
    def point(self) -> bytes:
        """The public key as an uncompressed point (SEC 1), 65 bytes."""
        return point_of(self.key)

    def valid_at(self, now: Moment) -> bool:
        return self.not_before <= now.latest and now.earliest <= self.not_after


def read(der: bytes) -> Certificate:
    """Parse a certificate. Raises `CertificateError` unless it is a readable one of a P-256 key."""
    if len(der) > OWN_CERTIFICATE_BYTES_MAX:
        raise CertificateError(f"a certificate of {len(der)} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # of what it will refuse in future
            parsed = x509.load_der_x509_certificate(der)
            key = parsed.public_key()
            names, purposes, authority = _extensions(parsed.extensions, parsed.subject)
            not_before, not_after = _period(parsed)
            # `cryptography` parses lazily: touch what is used later, so that errors appear here
            _ = parsed.issuer, parsed.signature_hash_algorithm, parsed.signature
    except (
        KeyError,  # of `cryptography` before version 42, for a name with a tag that no name has
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise CertificateError("a certificate that cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateError("a certificate of another kind of key than P-256")
    return Certificate(der, names, purposes, authority, not_before, not_after, key, parsed)


def read_all(pem: bytes) -> list[Certificate]:
    """The certificates in PEM text, without those of other kinds of keys. Raises `CertificateError` for one that is no
    certificate at all."""
    found = []
    for block in _PEM.findall(pem):
        try:
            der = x509.load_pem_x509_certificate(block).public_bytes(Encoding.DER)
        except ValueError as error:
            raise CertificateError("PEM that holds no certificate") from error
        try:
            found.append(read(der))
        except CertificateError:
            continue
    return found


def check(
    certificate: Certificate, authorities: Iterable[Certificate], purpose: x509.ObjectIdentifier, now: Moment
) -> None:
    """Check that one of `authorities` vouches for the certificate, for that purpose, now. Raises `CertificateError`."""
    if purpose.dotted_string not in certificate.purposes:
        raise CertificateError("a certificate for another purpose")
    if not certificate.valid_at(now):
        raise CertificateError("a certificate that is not valid now")
    if not any(_issued(certificate, each) for each in authorities if each.authority and each.valid_at(now)):
        raise CertificateError("a certificate of no authority that is trusted")


def make_request(point: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """A request (PKCS#10, RFC 2986) for a certificate of the key with this public `point`, in DER. It names nobody:
    whose it is says the session in which it is sent. `sign` signs as `sign` here does, also in a token."""
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    public = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    # Version 0, no subject, the key, no attributes.
    info = _sequence(b"\x02\x01\x00", _sequence(), public, b"\xa0\x00")
    signature = sign(info)
    r, s = (int.from_bytes(half, "big") for half in (signature[:_HALF], signature[_HALF:]))
    bits = b"\0" + encode_dss_signature(r, s)
    return _sequence(info, _sequence(_ECDSA_WITH_SHA256), b"\x03" + bytes([len(bits)]) + bits)


def _sequence(*parts: bytes) -> bytes:
    """A SEQUENCE in DER, of up to 255 octets."""
    content = b"".join(parts)
    size = bytes([len(content)]) if len(content) < 0x80 else bytes([0x81, len(content)])
    return b"\x30" + size + content


def read_request(der: bytes) -> ec.EllipticCurvePublicKey:
    """The key of a request (PKCS#10) in DER. Nothing else that stands in it counts. Raises `CertificateError` unless it
    is a readable one of a P-256 key, signed with that."""
    if len(der) > OWN_CERTIFICATE_BYTES_MAX:
        raise CertificateError(f"a request of {len(der)} bytes")
    try:
        parsed = x509.load_der_x509_csr(der)
        key = parsed.public_key()
        signed = isinstance(key, ec.EllipticCurvePublicKey) and parsed.is_signature_valid
    except (ValueError, TypeError, KeyError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise CertificateError("a request that cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateError("a request for another kind of key than P-256")
    if not signed:
        raise CertificateError("a request that its key has not signed")
    return key


def point_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as an uncompressed point (SEC 1), 65 bytes."""
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def check_signature(certificate: Certificate, signature: bytes, data: bytes) -> None:
    """Check that the certificate's key signed `data`; `signature` is r and s. Raises `CertificateError`."""
    r, s = int.from_bytes(signature[:_HALF], "big"), int.from_bytes(signature[_HALF:], "big")
    try:
        certificate.key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise CertificateError("a signature that is not by the certificate's key") from None


def sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA with SHA-256: r and s, 64 bytes."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")


def _issued(certificate: Certificate, authority: Certificate) -> bool:
    digest = certificate.parsed.signature_hash_algorithm
    if certificate.parsed.issuer != authority.parsed.subject or not isinstance(digest, hashes.SHA256 | hashes.SHA384):
        return False
    try:
        authority.key.verify(certificate.parsed.signature, certificate.parsed.tbs_certificate_bytes, ec.ECDSA(digest))
    except InvalidSignature:
        return False
    return True


def _extensions(extensions: x509.Extensions, subject: x509.Name) -> tuple[tuple[str, ...], frozenset[str], bool]:
    """Names, purposes, and whether it is an authority's."""
    names: list[str] = []
    purposes: frozenset[str] = frozenset()
    authority = alternative = False
    for extension in extensions:
        match extension.value:
            case x509.SubjectAlternativeName() as found:
                alternative = True
                names += found.get_values_for_type(x509.UniformResourceIdentifier)
                names += found.get_values_for_type(x509.DNSName)
                names += [str(address) for address in found.get_values_for_type(x509.IPAddress)]
            case x509.ExtendedKeyUsage() as found:
                purposes = frozenset(each.dotted_string for each in found)
            case x509.BasicConstraints() as found:
                authority = found.ca
            case _ if extension.critical and not isinstance(extension.value, x509.KeyUsage):
                raise ValueError("a critical extension that is not known here")
    if not alternative:
        names = [str(each.value) for each in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return tuple(names), purposes, authority


def _period(parsed: x509.Certificate) -> tuple[float, float]:
    try:
        return parsed.not_valid_before_utc.timestamp(), parsed.not_valid_after_utc.timestamp()
    except AttributeError:  # `cryptography` before version 42
        both = parsed.not_valid_before, parsed.not_valid_after
        return both[0].replace(tzinfo=dt.UTC).timestamp(), both[1].replace(tzinfo=dt.UTC).timestamp()
