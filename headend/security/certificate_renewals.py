"""Other certificates for devices, without a visit: who is to ask for one, and the key for which one was issued.

A device that registers with its certificate asks, with a request for a key that it has stored, and gets the certificate
with the answer. From its first registration with that on the old one is dead; until then both are good, so that nothing
that breaks off locks a device out.
"""

from __future__ import annotations

import datetime as dt
import secrets

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Connection, select, update

from headend.security import devices
from headend.security.certificates import Identity, certified, is_pinned
from omadm.ssmp import certificates
from omadm.ssmp.certificates import Certificate
from omadm.ssmp.limits import DEVICE_KEY_BYTES


def want(connection: Connection, device_id: str, now: float) -> None:
    """Have a device ask for another certificate when it registers next. One that was issued and was not used yet is
    forgotten."""
    _set(connection, device_id, wanted=now, given=None)


def is_wanted(connection: Connection, device_id: str) -> bool:
    """Whether a device that registers with its old certificate is to ask for another."""
    query = select(certified.c.device).where(certified.c.device == device_id, certified.c.wanted.is_not(None))
    return connection.scalars(query).one_or_none() is not None


def wanted_since(connection: Connection, device_id: str) -> float | None:
    """When it was ordered that a device asks for another certificate; `None` where it was not."""
    query = select(certified.c.wanted).where(certified.c.device == device_id)
    return connection.scalars(query).one_or_none()


def is_given(connection: Connection, device_id: str, shown: Certificate) -> bool:
    """Whether this certificate is of the key for which one was issued that is not used yet."""
    query = select(certified.c.given).where(certified.c.device == device_id)
    return connection.scalars(query).one_or_none() == shown.point


def may_issue(connection: Connection, device_id: str, identity: Identity) -> bool:
    """Whether this server can issue a certificate that it then believes: its own authority's, or for a key that is
    pinned."""
    return identity.issuer is not None or is_pinned(connection, device_id)


def issue(
    connection: Connection, device_id: str, request: bytes, identity: Identity, now: float, after: float
) -> bytes:
    """Issue a certificate (DER) for a request, and remember its key. Its period begins now, or at `after`, when that of
    the certificate before began, where the clock has gone back.

    Raises `CertificateError` for a request that is none.
    """
    key = certificates.read_request(request)
    issuer, issuer_key = (identity.own, identity.key) if identity.issuer is None else identity.issuer
    begin = max(now, after)
    period_s = dt.timedelta(days=identity.issued_days).total_seconds()
    end = min(begin + period_s, issuer.not_after)
    # The server's own key is no authority: what it signs is good for a pinned key only, by which it is believed.
    made = _signed(device_id, key, issuer, issuer_key, (begin, end))
    _set(connection, device_id, given=certificates.point_of(key))
    return made


def used(connection: Connection, device_id: str, shown: Certificate, now: float) -> None:
    """A device has registered with this certificate: if it is the one that was issued, it is the only one."""
    query = select(certified.c.pinned, certified.c.given).where(certified.c.device == device_id)
    row = connection.execute(query).one_or_none()
    if row is None or row.given is None or row.given != shown.point:
        return
    _set(connection, device_id, pinned=None if row.pinned is None else row.given, wanted=None, given=None)
    # The key of its row proves nothing. It is another one, so that a session with the old one gets no account.
    devices.enrol(connection, device_id, secrets.token_bytes(DEVICE_KEY_BYTES), now, replace=True)


def forget(connection: Connection, device_id: str) -> None:
    """The device is not to ask any more."""
    _set(connection, device_id, wanted=None, given=None)


def _set(connection: Connection, device_id: str, **values: object) -> None:
    connection.execute(update(certified).where(certified.c.device == device_id).values(values))


def _signed(
    device_id: str,
    key: ec.EllipticCurvePublicKey,
    issuer: Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    period: tuple[float, float],
) -> bytes:
    begin, end = (dt.datetime.fromtimestamp(int(second), dt.UTC) for second in period)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))  # RFC 5280, 4.1.2.6: then the alternative name is critical
        .issuer_name(issuer.parsed.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(device_id)]), critical=True)
        .add_extension(x509.ExtendedKeyUsage([certificates.DEVICE]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key), critical=False)
        .sign(issuer_key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
