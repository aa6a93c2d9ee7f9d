"""TLS of every client of this daemon: HTTPS and MQTT.

The server's certificate must chain to a configured authority and name the host. Its validity, and that of every
certificate up to the authority's, is judged here and not by OpenSSL, which knows the machine's clock only: that clock
may say 1970, or 2030 (decision 13). The verdict falls in the handshake, before a byte is sent.

Whatever goes wrong is a `TlsError`, which says what: a `Fault` for programs, a sentence for people.
"""

from __future__ import annotations

import _ssl
import re
import ssl
import time
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from agent.clock_floor import SKEW_S, CertificateTime, Validity
from updateagent.errors import PackageError

NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of openssl/x509_vfy.h, which `ssl` has no name for


class Fault(Enum):
    """What kept TLS from being established."""

    EXPIRED = "expired"
    NOT_YET_VALID = "not yet valid"
    WRONG_NAME = "wrong name"
    UNKNOWN_ISSUER = "unknown issuer"
    REVOKED = "revoked"
    WEAK = "key or digest too weak"
    BAD_CERTIFICATE = "certificate of no use"
    OWN_CERTIFICATE = "this device's certificate is refused"
    NO_COMMON_GROUND = "no version or cipher in common"
    NO_TLS = "no TLS there"
    OTHER = "other"


class TlsError(OSError):
    """The server is not believed, or the two cannot agree. Trying again changes little."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


def by_system_clock() -> CertificateTime:
    """The machine's clock is believed as it stands: for tools."""
    return CertificateTime(0.0, time.time())


class TlsSocket(ssl.SSLSocket):
    """A client's connection. Its handshake raises `TlsError`; `valid` is known afterwards."""

    valid: Validity

    def do_handshake(self, block: bool = False) -> None:
        assert isinstance(self.context, TlsContext)  # noqa: S101 - nobody else makes these sockets
        try:
            super().do_handshake(block)
            self.valid = self.context.judge(self._verified())
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            raise
        except ssl.SSLError as error:
            self.close()
            raise explain(error, self.server_hostname or "") from error
        except TlsError:
            self.close()
            raise

    def _verified(self) -> list[bytes]:
        """The certificates from the server's to the authority's, in DER, as OpenSSL has verified them."""
        if hasattr(self, "get_verified_chain"):  # Python 3.13
            return [bytes(one) for one in self.get_verified_chain()]
        found = self._sslobj.get_verified_chain() or ()  # type: ignore[attr-defined]
        return [one.public_bytes(_ssl.ENCODING_DER) for one in found]


class TlsContext(ssl.SSLContext):
    """The settings of a client's connections; `client_context` makes one."""

    sslsocket_class = TlsSocket
    certificate_time: Callable[[], CertificateTime]
    on_verdict: Callable[[Fault | None], None]

    def judge(self, chain: Sequence[bytes]) -> Validity:
        """Check when the certificates of a verified chain are valid; return when they all are. Raises `TlsError`."""
        try:
            found = judge(self._renewed(chain), self.certificate_time())
        except TlsError as error:
            self.on_verdict(error.fault)
            raise
        self.on_verdict(None)
        return found

    def _renewed(self, chain: Sequence[bytes]) -> list[Validity]:
        """OpenSSL takes any authority of that name and key, and without a time it does not prefer one that is valid.
        An authority whose certificate was renewed is as valid as its latest one."""
        if not chain:
            raise TlsError(Fault.BAD_CERTIFICATE, "the server showed no certificate")
        *below, top = (parse(one) for one in chain)
        same = [
            known.valid for known in map(parse, self.get_ca_certs(binary_form=True)) if known.identity == top.identity
        ]
        return [*(one.valid for one in below), max([top.valid, *same], key=lambda valid: valid.not_after)]


def client_context(
    ca_file: Path,
    certificate_time: Callable[[], CertificateTime] = by_system_clock,
    on_verdict: Callable[[Fault | None], None] = lambda _fault: None,
    also: Sequence[str] = (),
) -> TlsContext:
    """Return what TLS connections are made with. `ca_file`: PEM of the authorities; each is believed by itself, whoever
    signed it. Where the file holds revocation lists too, a server's certificate must be on none of them, and its
    issuer's must be there. `also`: texts (PEM) with further authorities. `on_verdict` is told of each judgement of a
    certificate's time: its fault, `None` for valid.

    Raises `OSError` when the file cannot be read, `ssl.SSLError` (an `OSError` too) when it holds no certificate.
    """
    context = TlsContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME | ssl.VERIFY_X509_PARTIAL_CHAIN)
    context.load_verify_locations(cafile=str(ca_file))
    for text in also:
        context.load_verify_locations(cadata=text)
    if context.cert_store_stats()["crl"]:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    context.certificate_time, context.on_verdict = certificate_time, on_verdict
    return context


def check_anchors(pem: str) -> None:
    """Check that a text has certificates in PEM. Raises `ValueError`."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError("certificates in PEM expected") from error


# --- the time of certificates ---


class Certificate:
    """The parts of a certificate that are looked at here. `identity`: subject and key."""

    def __init__(self, valid: Validity, identity: tuple[bytes, bytes]) -> None:
        self.valid = valid
        self.identity = identity


def parse(data: bytes) -> Certificate:
    """Read a certificate (RFC 5280, 4.1). OpenSSL has checked everything else. Raises `TlsError`."""
    from updateagent.package import der

    try:
        body = der.Cursor(data, "certificate").enter(der.SEQUENCE, "body").enter(der.SEQUENCE, "tbsCertificate")
        if body.peek() == der.context(0):  # version 1 leaves it out
            body.raw(der.context(0))
        body.raw(der.INTEGER)  # serial number
        body.raw(der.SEQUENCE)  # signature algorithm
        body.raw(der.SEQUENCE)  # issuer
        validity = body.enter(der.SEQUENCE, "validity")
        valid = Validity(validity.time(), validity.time())
        return Certificate(valid, (body.raw(der.SEQUENCE), body.raw(der.SEQUENCE)))
    except PackageError as error:
        raise TlsError(Fault.BAD_CERTIFICATE, f"a certificate cannot be read: {error.message}") from error


def judge(chain: Sequence[Validity], moment: CertificateTime) -> Validity:
    """Return when all of a chain is valid, the server's certificate first. Raises `TlsError`.

    What had ended before the earliest time that it can be has expired, whatever any clock says. What begins later is
    not yet valid only where something vouches for the time: a lower bound cannot tell.
    """
    for place, valid in enumerate(chain):
        if valid.not_after < moment.least:
            raise TlsError(
                Fault.EXPIRED, f"{_whose(place, chain)} expired at {shown(valid.not_after)}; {_our_time(moment)}"
            )
        if moment.now is not None and valid.not_before > moment.least + SKEW_S:
            raise TlsError(
                Fault.NOT_YET_VALID,
                f"{_whose(place, chain)} is not valid before {shown(valid.not_before)}; {_our_time(moment)}",
            )
    return Validity.of_chain(chain)


def _whose(place: int, chain: Sequence[Validity]) -> str:
    if place == 0:
        return "the server's certificate"
    return "the authority's certificate" if place == len(chain) - 1 else "an intermediate certificate"


def _our_time(moment: CertificateTime) -> str:
    if moment.now is not None and moment.now >= moment.earliest:
        return f"here it is {shown(moment.now)}"
    return f"it cannot be before {shown(moment.earliest)}"


def shown(seconds: float) -> str:
    """Return a time as people read it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))


# --- errors ---

# X509_V_ERR_… of openssl/x509_vfy.h
_VERIFY_FAULTS: dict[int, tuple[Fault, str]] = {
    **dict.fromkeys(
        (2, 7, 18, 19, 20, 21, 27),  # 7: by one of the same name with another key
        (Fault.UNKNOWN_ISSUER, "the server's certificate is not from an authority that this device knows"),
    ),
    **dict.fromkeys((62, 64), (Fault.WRONG_NAME, "the server's certificate is for another name")),
    23: (Fault.REVOKED, "the server's certificate is revoked"),
    **dict.fromkeys((66, 67, 68), (Fault.WEAK, "a key or digest in the server's certificates is too weak")),
}
# Reasons of OpenSSL, which are stable names: the alerts a server sends (RFC 8446, 6), and what we found ourselves.
_OWN_CERTIFICATE = re.compile(
    r"ALERT_(UNKNOWN_CA|BAD_CERTIFICATE|CERTIFICATE_\w+|UNSUPPORTED_CERTIFICATE|ACCESS_DENIED)$"
)
_NO_COMMON_GROUND = re.compile(
    r"ALERT_(PROTOCOL_VERSION|HANDSHAKE_FAILURE|INSUFFICIENT_SECURITY|NO_APPLICATION_PROTOCOL)$"
    r"|UNSUPPORTED_PROTOCOL|NO_PROTOCOLS_AVAILABLE|NO_CIPHERS_AVAILABLE|UNKNOWN_CIPHER_RETURNED|WRONG_SSL_VERSION"
    r"|TLSV1_UNRECOGNIZED_NAME"
)
_NO_TLS = re.compile(r"WRONG_VERSION_NUMBER|HTTP_REQUEST|UNKNOWN_PROTOCOL|PACKET_LENGTH_TOO_LONG|RECORD_LAYER_FAILURE")


def explain(error: ssl.SSLError, host: str = "") -> TlsError:
    """Return what an error of `ssl` means. `host`: who was asked for."""
    reason: str = getattr(error, "reason", None) or ""  # only what OpenSSL raised has one
    if isinstance(error, ssl.SSLCertVerificationError):
        fault, text = _VERIFY_FAULTS.get(
            error.verify_code, (Fault.BAD_CERTIFICATE, "the server's certificate cannot be used")
        )
        if fault is Fault.WRONG_NAME and host:
            text = f"the server's certificate is not for {host}"
        elif fault is not Fault.WRONG_NAME:
            text += f" ({error.verify_message})"
        return TlsError(fault, text)
    if _OWN_CERTIFICATE.search(reason):
        return TlsError(Fault.OWN_CERTIFICATE, f"the server refuses this device's certificate ({reason})")
    if _NO_COMMON_GROUND.search(reason):
        return TlsError(Fault.NO_COMMON_GROUND, f"no TLS version or cipher in common with the server ({reason})")
    if _NO_TLS.search(reason):
        return TlsError(Fault.NO_TLS, f"what answers there is not TLS ({reason})")
    return TlsError(Fault.OTHER, reason or str(error))


def connection_validity(sock: Any) -> Validity | None:
    """When the certificates of an open connection are valid; `None` for one that is no TLS."""
    return sock.valid if isinstance(sock, TlsSocket) else None
