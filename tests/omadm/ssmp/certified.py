"""Devices and a server that prove themselves with certificates, of keys in memory."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from omadm.ssmp import certificates
from omadm.ssmp.certificates import Certificate, Moment
from omadm.ssmp.errors import SsmpError
from omadm.ssmp.identity import CertificateModule

PERIOD = (1000.0, 2000.0)
NOW = Moment.at(1500.0)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    def pem(self) -> bytes:
        return self.certificate.parsed.public_bytes(Encoding.PEM)


def authority(name: str = "Authority", period: tuple[float, float] = PERIOD) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(name, _name(name), key, period)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return _signed(builder, key, key)


def issue(
    by: Pair,
    name: str,
    purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    period: tuple[float, float] = PERIOD,
) -> Pair:
    """A certificate with a URI, or a host name, in the subject alternative name."""
    key = ec.generate_private_key(ec.SECP256R1())
    general = x509.UniformResourceIdentifier(name) if ":" in name else x509.DNSName(name)
    builder = _builder("x", by.certificate.parsed.subject, key, period)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([general]), critical=False)
    return _signed(builder, key, by.key)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, period: tuple[float, float]
) -> x509.CertificateBuilder:
    begin, end = (dt.datetime.fromtimestamp(second, dt.UTC) for second in period)
    builder = x509.CertificateBuilder().subject_name(_name(name)).issuer_name(issuer).public_key(key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey) -> Pair:
    made = builder.sign(by, hashes.SHA256())
    return Pair(certificates.read(made.public_bytes(Encoding.DER)), key)


class DeviceModule(CertificateModule):
    """A device with a certificate, which believes the servers of one authority."""

    def __init__(self, own: Pair, trusted: Pair) -> None:
        self._own = own
        self._trusted = trusted

    @property
    def certificate(self) -> bytes:
        return self._own.certificate.der

    def sign(self, data: bytes) -> bytes:
        return certificates.sign(self._own.key, data)

    def check_server(self, certificate: bytes, signature: bytes, data: bytes) -> None:
        shown = certificates.read(certificate)
        certificates.check(shown, [self._trusted.certificate], certificates.SERVER, NOW)
        certificates.check_signature(shown, signature, data)


class Server:
    """A server with a certificate, which believes devices of one authority."""

    def __init__(self, own: Pair, trusted: Pair) -> None:
        self._own = own
        self._trusted = trusted

    @property
    def certificate(self) -> bytes:
        return self._own.certificate.der

    def sign(self, data: bytes) -> bytes:
        return certificates.sign(self._own.key, data)

    def proves(self, device_id: str, certificate: bytes, signature: bytes, data: bytes) -> bool:
        try:
            shown = certificates.read(certificate)
            certificates.check(shown, [self._trusted.certificate], certificates.DEVICE, NOW)
            certificates.check_signature(shown, signature, data)
        except SsmpError:
            return False
        return device_id in shown.names
