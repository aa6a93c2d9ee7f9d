"""Certificates of a meter's security setup (GB 9.2.6.4; BB 4.4.7): X.509 v3 in DER.

The system title of a certificate's subject is in the common name, as 16 hexadecimal digits, or in hwSerialNum of a
HardwareModuleName in the subject alternative name. The purpose of the key is in the key usage.

`certificate_info` is a structure of entity, type, serial number, issuer, subject and subject alternative name. A
certificate is identified by (entity, type, system title) or by (serial number, issuer); names and numbers are in DER.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from dlms import axdr
from dlms.axdr import Data
from dlms.errors import LocalError, PeerError
from dlms.security.ecdsa import hash_of
from dlms.security.settings import SYSTEM_TITLE_OCTETS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.x509 import Certificate

CERTIFICATE_BYTES_MAX = 8192
BY_ENTITY, BY_SERIAL = 0, 1
_HARDWARE_MODULE_NAME = "1.3.6.1.5.5.7.8.4"  # RFC 4108: hwType, then hwSerialNum
_TITLE_HEAD = bytes((0x04, SYSTEM_TITLE_OCTETS))  # an OCTET STRING of eight octets


class Entity(IntEnum):
    """The subject of a certificate (BB 4.4.7, certificate_entity)."""

    SERVER = 0
    CLIENT = 1
    CERTIFICATION_AUTHORITY = 2
    OTHER = 3


class CertificateType(IntEnum):
    """The purpose of a certificate's key (BB 4.4.7, certificate_type). Key pairs have the same numbers."""

    DIGITAL_SIGNATURE = 0
    KEY_AGREEMENT = 1
    TLS = 2
    OTHER = 3


@dataclass(frozen=True, slots=True)
class StoredCertificate:
    """A certificate as the security setup keeps it. Names and serial number are in DER, as is the whole (`der`)."""

    entity: Entity
    certificate_type: CertificateType
    title: bytes
    serial: bytes
    issuer: bytes
    subject: bytes
    alternative: bytes
    der: bytes = field(repr=False)

    def info(self) -> Data:
        """Encode as `certificate_info`."""
        octets = (self.serial, self.issuer, self.subject, self.alternative)
        return axdr.structure(axdr.enum(self.entity), axdr.enum(self.certificate_type), *map(axdr.octets, octets))


def read_certificate(der: bytes) -> Certificate:
    """Parse a certificate. Raises `PeerError` unless it is a readable one of an elliptic curve key."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.utils import CryptographyDeprecationWarning

    if len(der) > CERTIFICATE_BYTES_MAX:
        raise PeerError(f"a certificate of {len(der)} octets")
    try:
        # `cryptography` warns about what it will refuse in future; we refuse it below
        with warnings.catch_warnings(action="ignore", category=CryptographyDeprecationWarning):
            certificate = x509.load_der_x509_certificate(der)
            # `cryptography` parses lazily: touch everything that is used later, so that errors appear here
            key, *_rest = certificate.public_key(), certificate.extensions, certificate.subject, certificate.issuer
            serial_number = certificate.serial_number
    except (
        KeyError,  # of `cryptography` before version 42, for a name with a tag that no name has
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise PeerError("a certificate that cannot be read") from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise PeerError("a certificate of another kind of key")
    if serial_number <= 0:
        raise PeerError("a certificate whose serial number is not positive")
    return certificate


def public_key_of(certificate: Certificate) -> EllipticCurvePublicKey:
    """The public key of a certificate from `read_certificate`."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    key = certificate.public_key()
    if not isinstance(key, EllipticCurvePublicKey):
        raise PeerError("a certificate of another kind of key")
    return key


def check_issued(certificate: Certificate, authorities: Iterable[Certificate]) -> None:
    """Check that one of `authorities` issued and signed the certificate. Raises `PeerError` otherwise."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec

    signed = certificate.tbs_certificate_bytes
    for authority in authorities:
        key = authority.public_key()
        if certificate.issuer != authority.subject or not isinstance(key, ec.EllipticCurvePublicKey):
            continue
        try:
            digest = certificate.signature_hash_algorithm
            if digest is not None:
                key.verify(certificate.signature, signed, ec.ECDSA(digest))
                return
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            continue
    raise PeerError("a certificate that no authority we know has signed")


def stored_certificate(
    certificate: Certificate, der: bytes, server_title: bytes, client_title: bytes | None
) -> StoredCertificate:
    """Make the record that is kept of a certificate from `read_certificate`."""
    from cryptography import x509

    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        alternative_der = alternative.public_bytes()
    except x509.ExtensionNotFound:
        alternative, alternative_der = None, b""
    title = _title(certificate, alternative)
    certificate_type = _type_of(certificate)
    entity = Entity.OTHER
    if _is_authority(certificate):
        entity = Entity.CERTIFICATION_AUTHORITY
    elif title == server_title:
        entity = Entity.SERVER
    elif client_title is not None and title == client_title:
        entity = Entity.CLIENT
    number = certificate.serial_number
    serial = number.to_bytes(number.bit_length() // 8 + 1, "big")
    issuer, subject = certificate.issuer.public_bytes(), certificate.subject.public_bytes()
    return StoredCertificate(entity, certificate_type, title, serial, issuer, subject, alternative_der, der)


def _title(certificate: Certificate, alternative: object) -> bytes:
    """The system title of the subject; b"" when there is none."""
    from cryptography import x509

    for attribute in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME):
        try:
            title = bytes.fromhex(str(attribute.value))
        except ValueError:
            continue
        if len(title) == SYSTEM_TITLE_OCTETS:
            return title
    if isinstance(alternative, x509.SubjectAlternativeName):
        for name in alternative.get_values_for_type(x509.OtherName):
            head = name.value[-SYSTEM_TITLE_OCTETS - 2 : -SYSTEM_TITLE_OCTETS]
            if name.type_id.dotted_string == _HARDWARE_MODULE_NAME and head == _TITLE_HEAD:
                return name.value[-SYSTEM_TITLE_OCTETS:]
    return b""


def _type_of(certificate: Certificate) -> CertificateType:
    from cryptography import x509

    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return CertificateType.OTHER
    signs, agrees = usage.digital_signature, usage.key_agreement
    if signs and agrees:
        return CertificateType.TLS
    if signs:
        return CertificateType.DIGITAL_SIGNATURE
    return CertificateType.KEY_AGREEMENT if agrees else CertificateType.OTHER


def _is_authority(certificate: Certificate) -> bool:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def certificate_request(title: bytes, key: EllipticCurvePrivateKey) -> bytes:
    """A PKCS #10 certificate request in DER for `key`, with the system title as the subject's common name."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, title.hex().upper())])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hash_of(key.curve))
    return request.public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True, slots=True)
class CertificateQuery:
    """Identifies a certificate: by entity, type and title, or, if `serial` is not empty, by serial number and
    issuer."""

    entity: Entity = Entity.SERVER
    certificate_type: CertificateType = CertificateType.DIGITAL_SIGNATURE
    title: bytes = b""
    serial: bytes = b""
    issuer: bytes = b""

    def data(self) -> Data:
        """Encode as `certificate_identification`."""
        if self.serial:
            options = axdr.structure(axdr.octets(self.serial), axdr.octets(self.issuer))
            return axdr.structure(axdr.enum(BY_SERIAL), options)
        options = axdr.structure(axdr.enum(self.entity), axdr.enum(self.certificate_type), axdr.octets(self.title))
        return axdr.structure(axdr.enum(BY_ENTITY), options)

    @classmethod
    def of(cls, data: Data) -> CertificateQuery:
        """Decode a `certificate_identification`. Raises `PeerError`."""
        try:
            how, options = data.members()
            if how.integer() == BY_SERIAL:
                serial, issuer = options.members()
                return cls(serial=serial.octets(), issuer=issuer.octets())
            entity, certificate_type, title = options.members()
            return cls(Entity(entity.integer()), CertificateType(certificate_type.integer()), title.octets())
        except (LocalError, ValueError) as error:
            raise PeerError(f"certificate identification: {error}") from error

    def matches(self, one: StoredCertificate) -> bool:
        if self.serial:
            return (self.serial, self.issuer) == (one.serial, one.issuer)
        return (self.entity, self.certificate_type, self.title) == (one.entity, one.certificate_type, one.title)
