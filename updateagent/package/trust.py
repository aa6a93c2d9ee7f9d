"""What this device trusts: pinned roots, the path from a signer to one of them, and the time of the check.

A device may have lost its time: its clock is then in 1970, or at any time before the earliest one that it can be: when
the image was built, and the newest signed time seen. The time of a check is therefore the latest of these and the
clock, a lower bound of the real time. It proves that a certificate has expired. It proves that a certificate is *not
yet* valid only if the clock is credible; while the clock is behind what the device knows, or it knows nothing, the
start of the validity is not checked.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from updateagent.errors import (
    CERTIFICATE_CHAIN,
    CERTIFICATE_PURPOSE,
    CERTIFICATE_REVOKED,
    CERTIFICATE_TIME,
    CONFIGURATION,
    DeviceError,
    PackageError,
)
from updateagent.package import certificate
from updateagent.package.certificate import CODE_SIGNING, DIGITAL_SIGNATURE, KEY_CERT_SIGN, Certificate
from updateagent.package.cms import SignedContent

ROOTS_MAX = 16

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class Trust:
    """Everything about the device that decides whether it accepts a package.

    A field at its default is not checked where its comment says so. Sizes in bytes, times in seconds since 1970.
    """

    roots: tuple[Certificate, ...]
    compatible: str
    """The name of this hardware; a package lists the names it is made for."""
    clock: float
    newest_signed: int = 0
    """The newest signing time of any package or list of roots that this device accepted."""
    built: float = 0.0
    """When the image was built; 0: not known."""
    security_version: int = 0
    """The floor for firmware: nothing below it is installed again."""
    software_security: Mapping[str, int] = field(default_factory=dict)
    """The same floor for each software package, by its id."""
    version: str | None = None
    """Version of the running firmware; None: a required version is not checked."""
    agent_version: str | None = None
    """Version of the Update Agent; None: a minimum is not checked."""
    capacity: Mapping[str, int] | None = None
    """The size of the partition for each image, by the image's name; None: not checked."""
    free_bytes: int | None = None
    """The free space of the file system for software; None: not checked."""
    revoked: frozenset[str] = frozenset()
    """SHA-256 fingerprints, in hexadecimal, of revoked certificates."""
    root_version: int = 0
    """Version of the list that `roots` come from (see `updateagent.package.roots`); 0: the device's PEM file."""
    root_threshold: int = 0
    """How many of the roots must sign the next list; 0: a majority."""

    @property
    def time(self) -> float:
        """The time of this check, a lower bound of the real time."""
        return max(self.clock, self.earliest)

    @property
    def earliest(self) -> float:
        """The moment that now cannot lie before; 0: not known."""
        return max(self.newest_signed, self.built)

    @property
    def clock_is_credible(self) -> bool:
        """Whether the device knows something of the time, and the clock is not behind that."""
        return 0 < self.earliest <= self.clock

    def check_signer(self, signed: SignedContent) -> Certificate:
        """Check that the signer may sign packages; return the root that its path ends at.

        Raises `PackageError`: `certificate-chain`, `certificate-time`, `certificate-purpose`, `certificate-revoked`.
        """
        path = _find_path(signed, self.roots)
        for found in path:
            if found.fingerprint in self.revoked:
                raise PackageError(CERTIFICATE_REVOKED, f"certificate {found.fingerprint[:16]} was revoked")
        _check_purposes(path)
        for found in path:
            self._check_time(found)
        if not path[0].not_before <= signed.signed_at <= path[0].not_after:
            raise PackageError(CERTIFICATE_TIME, "the time of signing is outside the validity of the signer")
        return path[-1]

    def _check_time(self, found: Certificate) -> None:
        if self.time > found.not_after:
            raise PackageError(CERTIFICATE_TIME, f"certificate {found.fingerprint[:16]} has expired")
        if self.clock_is_credible and self.clock < found.not_before:
            raise PackageError(CERTIFICATE_TIME, f"certificate {found.fingerprint[:16]} is not valid yet")


def _find_path(signed: SignedContent, roots: Sequence[Certificate]) -> list[Certificate]:
    """The path: signer, intermediate authorities, pinned root. Every certificate in the signature must be part of
    it."""
    path = [signed.signer]
    left = list(signed.others)
    while True:
        root = next((root for root in roots if path[-1].is_signed_by(root)), None)
        if root is not None:
            break
        issuer = next((other for other in left if path[-1].is_signed_by(other)), None)
        if issuer is None:
            raise PackageError(CERTIFICATE_CHAIN, "the signer is not certified by a root of this device")
        left.remove(issuer)
        path.append(issuer)
    if any(other.der != root.der for other in left):
        raise PackageError(CERTIFICATE_CHAIN, "a certificate came along that has no part in the signature")
    return [*path, root]


def _check_purposes(path: Sequence[Certificate]) -> None:
    signer, *authorities = path
    if not signer.may(DIGITAL_SIGNATURE) or signer.purposes is None or CODE_SIGNING not in signer.purposes:
        raise PackageError(CERTIFICATE_PURPOSE, "the signer's certificate is not for signing code")
    if signer.is_authority:
        raise PackageError(CERTIFICATE_PURPOSE, "the signer's certificate is one of an authority")
    for below, authority in enumerate(authorities):
        if not authority.is_authority or not authority.may(KEY_CERT_SIGN):
            raise PackageError(CERTIFICATE_PURPOSE, "a certificate on the way up is not one of an authority")
        if authority.path_length is not None and below > authority.path_length:
            raise PackageError(CERTIFICATE_CHAIN, "more authorities between root and signer than the root allows")
        if authority.purposes is not None and CODE_SIGNING not in authority.purposes:
            raise PackageError(CERTIFICATE_PURPOSE, "an authority on the way up is not for signing code")


def parse_pem(text: bytes) -> tuple[Certificate, ...]:
    """Read the certificates of a PEM file. Raises `PackageError` (`signature-profile`) for one that is not usable."""
    found = []
    for match in _PEM.finditer(text):
        try:
            data = base64.b64decode(b"".join(match[1].split()), validate=True)
        except binascii.Error as error:
            raise DeviceError(CONFIGURATION, "a certificate file is not PEM") from error
        found.append(certificate.parse(data))
    return tuple(found)


def load_roots(path: Path) -> tuple[Certificate, ...]:
    """Read the pinned roots. Raises `DeviceError` (`configuration`) when there are none, or too many."""
    try:
        roots = parse_pem(path.read_bytes())
    except OSError as error:
        raise DeviceError(CONFIGURATION, f"cannot read the roots: {error}") from error
    except PackageError as error:
        raise DeviceError(CONFIGURATION, f"{path}: {error.message}") from error
    if not 1 <= len(roots) <= ROOTS_MAX:
        raise DeviceError(CONFIGURATION, f"{path}: {len(roots)} root certificates, 1 to {ROOTS_MAX} expected")
    return roots
