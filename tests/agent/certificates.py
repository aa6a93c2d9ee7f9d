"""Certificates of every kind, good and bad, and a server that shows them."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import threading
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
DAY = 86_400.0


def weak_key() -> rsa.RSAPrivateKey:
    """A key that OpenSSL takes for too weak."""
    return rsa.generate_private_key(65537, 1024)


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


@dataclass(frozen=True)
class Made:
    """A certificate with its key, and the ones above it up to the authority's, which is left out of `path`."""

    certificate: x509.Certificate
    key: Key
    path: tuple[x509.Certificate, ...] = ()

    def pem(self) -> bytes:
        """What a server is given: certificate, path, key."""
        every = b"".join(one.public_bytes(Encoding.PEM) for one in (self.certificate, *self.path))
        return every + self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def ca_pem(self) -> bytes:
        """What a client is given of an authority."""
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        valid: tuple[float, float],
        *,
        name: str = "127.0.0.1",
        authority: bool = False,
        claims_authority: bool = True,
        purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
        key: Key | None = None,
    ) -> Made:
        """Sign a certificate. `claims_authority`: whether one of an authority says that it is one."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, self.certificate.subject, key, valid).add_extension(
            x509.BasicConstraints(ca=authority and claims_authority, path_length=None), critical=True
        )
        if not authority:
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name)]), critical=False)
        return Made(builder.sign(self.key, hashes.SHA256()), key, (*self._below(),))

    def _below(self) -> tuple[x509.Certificate, ...]:
        return () if self.certificate.issuer == self.certificate.subject else (self.certificate, *self.path)

    def revocation_list(self, *revoked: Made) -> bytes:
        """PEM of the list of this authority."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(_moment(0)).next_update(_moment(DAY))
        for one in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(one.certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(_moment(0)).build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def authority(valid: tuple[float, float], key: Key | None = None, name: str = "Authority") -> Made:
    """Make a certificate that signs itself."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(name, subject, key, valid).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True
    )
    return Made(builder.sign(key, hashes.SHA256()), key)


def _builder(name: str, issuer: x509.Name, key: Key, valid: tuple[float, float]) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(valid[0]))
        .not_valid_after(_moment(valid[1]))
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class TlsServer:
    """Answers each request with a `Date` that a test chooses. `plain`: it speaks no TLS."""

    def __init__(self, folder: Path, shown: Made, *, plain: bool = False) -> None:
        self._folder = folder
        self.show(shown)
        self.plain = plain
        self.date = 0.0
        self.requests = 0
        self.refused = threading.Event()  # a client has hung up
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.url = f"https://127.0.0.1:{self.port}/x"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def show(self, shown: Made) -> None:
        """Show another certificate from now on."""
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.set_ciphers("DEFAULT@SECLEVEL=0")  # a weak key is the client's to refuse
        file = self._folder / "shown.pem"
        file.write_bytes(shown.pem())
        self.context.load_cert_chain(file)

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self.listener.accept()
            except OSError:
                return
            with line if self.plain else self._wrapped(line) as speaking:
                try:
                    if isinstance(speaking, ssl.SSLSocket):
                        speaking.do_handshake()
                    self._answer(speaking)
                except OSError:  # one does not want the other: some tests want just that
                    with contextlib.suppress(OSError):
                        while socket.socket.recv(speaking, 4096):  # so that no reset overtakes our alert
                            pass
                    self.refused.set()

    def _wrapped(self, line: socket.socket) -> ssl.SSLSocket:
        return self.context.wrap_socket(line, server_side=True, do_handshake_on_connect=False)

    def _answer(self, line: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = line.recv(4096)
            if not piece:
                self.refused.set()
                return
            if self.plain and piece[:1] == b"\x16":
                line.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                return
            head += piece
        self.requests += 1
        date = f"Date: {formatdate(self.date, usegmt=True)}\r\n" if self.date else ""
        line.sendall(f"HTTP/1.1 200 OK\r\n{date}Content-Length: 2\r\nConnection: close\r\n\r\nok".encode())

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join(10)
