"""Devices that prove themselves with a certificate: which one each may show, and the server's own.

A device is let in by its own public key, which was pinned when it was enrolled, or by any certificate that a configured
authority has given to its name. Whoever has shown a newer certificate is not let in by an older one any more.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy import Column, Connection, Engine, Float, LargeBinary, String, Table, delete, insert, select, update

from headend import db
from headend.config import ISSUED_DAYS
from headend.security import devices
from omadm.ssmp import certificates
from omadm.ssmp.certificates import Certificate, CertificateError, Moment
from omadm.ssmp.limits import DEVICE_KEY_BYTES

certified = Table(
    "device_certificates",
    db.metadata,
    Column("device", String(128), primary_key=True),
    Column("pinned", LargeBinary),  # the public key, an uncompressed point; NULL: by an authority
    Column("newest", Float(53)),  # `not_before` of the newest certificate that it has registered with
    Column("wanted", Float(53)),  # since when it is to ask for another certificate; NULL: it is not to
    Column("given", LargeBinary),  # the key of the certificate that was issued and is not used yet, like `pinned`
)


class CertificateFilesError(Exception):
    """The files of the certificates cannot be used. The text is for the operator."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The server's certificate and its key, the authorities of devices, and the authority by which this server issues
    certificates of devices, with its key; None for none. `issued_days`: the period of what it issues."""

    own: Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    authorities: tuple[Certificate, ...] = ()
    issuer: tuple[Certificate, ec.EllipticCurvePrivateKey] | None = field(default=None, repr=False)
    issued_days: int = ISSUED_DAYS


def load_issuer(
    certificate: Path, key: Path, authorities: Sequence[Certificate]
) -> tuple[Certificate, ec.EllipticCurvePrivateKey]:
    """Read the files of the authority that issues certificates, PEM. Raises `CertificateFilesError`, also where it is
    none of `authorities`: this server would refuse what it has issued."""
    identity = load(certificate, key, None)
    if not identity.own.authority:
        raise CertificateFilesError(f"{certificate}: is no authority's")
    if identity.own.der not in [each.der for each in authorities]:
        raise CertificateFilesError(f"{certificate}: is not in device_ca, so what it issues would not be believed here")
    return identity.own, identity.key


def load(certificate: Path, key: Path, device_ca: Path | None) -> Identity:
    """Read the files, PEM. Raises `CertificateFilesError`."""
    try:
        own = certificates.read_all(certificate.read_bytes())
        private = load_pem_private_key(key.read_bytes(), None)
        authorities = () if device_ca is None else tuple(certificates.read_all(device_ca.read_bytes()))
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm, CertificateError) as error:
        raise CertificateFilesError(f"{certificate}, {key}, {device_ca or 'no authority'}: {error}") from error
    if not own or not isinstance(private, ec.EllipticCurvePrivateKey):
        raise CertificateFilesError(f"{certificate}, {key}: are not of a key of P-256")
    if private.public_key().public_numbers() != own[0].key.public_numbers():
        raise CertificateFilesError(f"{key}: is not the key of {certificate}")
    if device_ca is not None and not any(each.authority for each in authorities):
        raise CertificateFilesError(f"{device_ca}: holds no authority with a key of P-256")
    return Identity(own[0], private, authorities)


class Judge:
    """Judges the certificates of devices, and signs with the server's: `omadm.ssmp.identity.ServerCertificates`."""

    def __init__(self, engine: Engine, identity: Identity, wall: Callable[[], float]) -> None:
        self._engine = engine
        self._identity = identity
        self._wall = wall

    @property
    def certificate(self) -> bytes:
        return self._identity.own.der

    def sign(self, data: bytes) -> bytes:
        return certificates.sign(self._identity.key, data)

    def proves(self, device_id: str, certificate: bytes, signature: bytes, data: bytes) -> bool:
        try:
            shown = certificates.read(certificate)
            certificates.check_signature(shown, signature, data)
        except CertificateError:
            return False
        with db.reader(self._engine).begin() as connection:
            return admitted(connection, device_id, shown, self._identity.authorities, Moment.at(self._wall()))


def admitted(
    connection: Connection, device_id: str, shown: Certificate, authorities: Sequence[Certificate], now: Moment
) -> bool:
    """Whether a device may show this certificate now. That it has the key is another question."""
    row = connection.execute(select(certified).where(certified.c.device == device_id)).one_or_none()
    if row is None or (row.newest is not None and shown.not_before < row.newest):
        return False
    if row.pinned is not None and shown.point in (row.pinned, row.given):
        return shown.valid_at(now)
    if device_id not in shown.names:
        return False
    try:
        certificates.check(shown, authorities, certificates.DEVICE, now)
    except CertificateError:
        return False
    return True


def expected(connection: Connection, device_id: str) -> bool:
    """Whether this device proves itself with a certificate, and with nothing else."""
    found = select(certified.c.device).where(certified.c.device == device_id)
    return connection.scalars(found).one_or_none() is not None


def is_pinned(connection: Connection, device_id: str) -> bool:
    """Whether this device is let in by a public key that is known here."""
    query = select(certified.c.device).where(certified.c.device == device_id, certified.c.pinned.is_not(None))
    return connection.scalars(query).one_or_none() is not None


def used(connection: Connection, device_id: str, certificate: bytes) -> None:
    """A device has registered with this certificate: older ones are not good any more."""
    not_before = certificates.read(certificate).not_before
    newer = certified.c.newest.is_(None) | (certified.c.newest < not_before)
    connection.execute(update(certified).where(certified.c.device == device_id, newer).values(newest=not_before))


def enrol(connection: Connection, device_id: str, pinned: bytes | None, now: float, *, replace: bool = False) -> None:
    """Add a device that proves itself with a certificate: the one in `pinned` (DER), or any that an authority has given
    to its name. With `replace` one that exists proves itself so from now on, and by nothing else.

    Raises `devices.DeviceError`.
    """
    try:
        point = None if pinned is None else certificates.read(pinned).point
    except CertificateError as error:
        raise devices.DeviceError(str(error)) from error
    # The key of its row proves nothing. It is another one, so that whoever is registering now gets no account.
    devices.enrol(connection, device_id, secrets.token_bytes(DEVICE_KEY_BYTES), now, replace=replace)
    forget(connection, device_id)
    connection.execute(insert(certified).values(device=device_id, pinned=point))


def pinned_from(text: str) -> bytes:
    """The certificate (DER) that PEM text gives. Raises `devices.DeviceError` unless it is one of a P-256 key."""
    try:
        found = certificates.read_all(text.encode())
    except CertificateError as error:
        raise devices.DeviceError(str(error)) from error
    if len(found) != 1:
        raise devices.DeviceError(f"one certificate of a P-256 key in PEM is expected, there are {len(found)}")
    return found[0].der


def forget(connection: Connection, device_id: str) -> None:
    """No certificate is good for this device any more."""
    connection.execute(delete(certified).where(certified.c.device == device_id))
