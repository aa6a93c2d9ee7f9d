"""The private key of a certificate in a file that only the agent's user may read, and the certificate beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agent.clock_floor import SKEW_S, CertificateTime, Validity
from agent.settings.identity import SecretError, read_private
from omadm.ssmp import certificates
from omadm.ssmp.certificates import Certificate, CertificateError, Moment
from omadm.ssmp.errors import SsmpError
from omadm.ssmp.identity import CertificateModule

CERTIFICATE_FILE_BYTES_MAX = 64 << 10


class ServerTrust:
    """Which security server a device with a certificate believes: the one where it registers, by these authorities."""

    def __init__(
        self,
        ca_file: Path,
        url: str,
        certificate_time: Callable[[], CertificateTime],
        instead: Callable[[], Path | None],
        moved: Callable[[], str] = lambda: "",
    ) -> None:
        """`instead()`: the authorities that the head-end has set in the place of those in `ca_file`; None for none.
        `moved()`: the address that it has set in the place of `url`; empty for none."""
        self._ca_file = ca_file
        self._instead = instead
        self._url = url
        self._moved = moved
        self._certificate_time = certificate_time

    def _now(self) -> Moment:
        known = self._certificate_time()
        return Moment(known.least, float("inf") if known.now is None else known.least + SKEW_S)

    def check(self, der: bytes, signature: bytes, data: bytes) -> None:
        """Check the server's certificate and its signature. Raises `SsmpError`."""
        file = self._instead() or self._ca_file
        try:
            authorities = certificates.read_all(file.read_bytes())
            shown = certificates.read(der)
            certificates.check(shown, authorities, certificates.SERVER, self._now())
            certificates.check_signature(shown, signature, data)
        except OSError as error:
            raise SsmpError(f"{file}: cannot be read: {error.strerror}") from error
        except CertificateError as error:
            raise SsmpError(f"the security server shows {error}") from error
        host = urlsplit(self._moved() or self._url).hostname or ""
        if host not in shown.names:
            raise SsmpError(f"the security server's certificate is not for {host}")


class DeviceCertificate(CertificateModule):
    """A certificate of this device, wherever its private key is. Its repr does not show that."""

    def __init__(self, certificate: Certificate, trust: ServerTrust) -> None:
        self._certificate = certificate
        self.trust = trust

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

    @property
    def period(self) -> Validity:
        """When the certificate is valid."""
        return Validity(self._certificate.not_before, self._certificate.not_after)

    @property
    def certificate(self) -> bytes:
        return self._certificate.der

    def check_server(self, certificate: bytes, signature: bytes, data: bytes) -> None:
        self.trust.check(certificate, signature, data)


class HeldCertificate(DeviceCertificate):
    """A certificate with its private key in memory."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: Certificate, trust: ServerTrust) -> None:
        super().__init__(certificate, trust)
        self._key = key

    def sign(self, data: bytes) -> bytes:
        return certificates.sign(self._key, data)


class CertificateFile(HeldCertificate):
    """The key and the certificate that the files of the configuration hold."""

    def __init__(self, key_file: Path, certificate: Certificate, trust: ServerTrust) -> None:
        """Read the key of `certificate` from `key_file`, PEM without a password. Raises `SecretError`."""
        key = read_private_key(key_file)
        if key.public_key().public_numbers() != certificate.key.public_numbers():
            raise SecretError(f"{key_file}: is not the key of the certificate")
        super().__init__(key, certificate, trust)


def read_private_key(file: Path) -> ec.EllipticCurvePrivateKey:
    """Read a private key of P-256 from a file that nobody else may use. Raises `SecretError`."""
    try:
        key = load_pem_private_key(read_private(file), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SecretError(f"{file}: holds no private key in PEM without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise SecretError(f"{file}: is not a key of P-256")
    return key


def read_certificate(file: Path, device_id: str) -> Certificate:
    """Read the certificate of this device. Raises `SecretError` unless it is one and names the device."""
    try:
        with file.open("rb") as stream:
            found = certificates.read_all(stream.read(CERTIFICATE_FILE_BYTES_MAX))
    except OSError as error:
        raise SecretError(f"{file}: cannot be read: {error.strerror}") from error
    except CertificateError as error:
        raise SecretError(f"{file}: {error}") from error
    if not found:
        raise SecretError(f"{file}: holds no certificate of a P-256 key in PEM")
    if device_id not in found[0].names:
        raise SecretError(f"{file}: the certificate is for {', '.join(found[0].names)}, not for {device_id}")
    if certificates.DEVICE.dotted_string not in found[0].purposes:
        raise SecretError(f"{file}: the certificate is for another purpose than client authentication")
    return found[0]
