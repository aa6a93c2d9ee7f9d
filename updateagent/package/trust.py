"""What this device trusts: pinned roots, the paths from a signer to one of them, and the time of the check.

A device may have lost its time: its clock is then in 1970, or at the time of its image's build. What it knows for sure
are lower bounds: when its image was built, and the newest signing time that was confirmed. They, and the clock, prove
that a certificate has expired. That one is *not yet* valid, or a signature from the future, only a clock proves that
something vouches for: a signature is newer than a clock that is behind.

Nothing that a package says may move the bounds by itself, since no later package would take them back: a signing time
counts as far as a clock that is vouched for has confirmed it (docs/decisions/0018-a-signature-moves-no-clock.md).

Authorities are renewed, and then there are several certificates of one name and key. All paths are tried, and one that
is good in every respect is enough: the order of certificates, in a file or a signature, decides nothing.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
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
from updateagent.release import TIME_MAX

ROOTS_MAX = 16
AHEAD_S = 86_400
"""What a signature, a list or the start of a certificate may lie ahead of the time: a build host's clock may be set to
the wrong zone, which makes 14 hours at most."""

_CHECKS = (CERTIFICATE_REVOKED, CERTIFICATE_PURPOSE, CERTIFICATE_CHAIN, CERTIFICATE_TIME)
"""What a path is checked for, about in this order: the later, the nearer was it to being good."""
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
    clock_vouched: bool = False
    """Whether something vouches for the clock, as a time service does. One before the image's build is wrong all the
    same."""
    newest_signed: int = 0
    """The newest signing time that this device accepted and its clock confirmed (`confirmed`)."""
    built: float = 0.0
    """When the image was built, or a later time that is known to have passed; 0: not known."""
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
    def now(self) -> float | None:
        """The time, where something vouches for the clock."""
        return self.clock if self.clock_vouched and self.clock + AHEAD_S >= self.built else None

    @property
    def least(self) -> tuple[float, str]:
        """A moment that has passed, and how it is known."""
        known = [(self.clock, "by the clock"), (self.built, "when the image was built")]
        if self.now is None:  # what vouches for the clock corrects what was confirmed by an earlier one
            known.append((self.newest_signed, "when a package was signed that this device has accepted"))
        return max(known)

    def confirmed(self, signed_at: int) -> int:
        """How far a signing time is confirmed, to be kept as `newest_signed` if it is newer; 0: not at all."""
        return 0 if self.now is None else min(signed_at, int(self.now))

    def is_ahead(self, moment: float) -> bool:
        """Whether this moment is known to lie in the future."""
        return self.now is not None and moment > self.now + AHEAD_S

    def check_signer(self, signed: SignedContent) -> Certificate:
        """Check that the signer may sign packages, by any path; return the root that a good path ends at.

        Raises `PackageError`: `certificate-chain`, `certificate-time`, `certificate-purpose`, `certificate-revoked`.
        Where no path is good, that of the path which fails last is told, and of several that of the longest validity.
        """
        good = frozenset(certificate.unrevoked((signed.signer, *signed.others, *self.roots), self.revoked))
        refusals: list[tuple[tuple[int, int], PackageError]] = []
        for path in find_paths(signed, self.roots):
            try:
                _check_unrevoked(path, good)
                check_purposes(path)
                self.check_times(path, signed.signed_at)
            except PackageError as error:
                refusals.append(((_CHECKS.index(error.code), min(one.not_after for one in path)), error))
            else:
                return path[-1]
        raise max(refusals, key=lambda refusal: refusal[0])[1]

    def check_times(self, path: Sequence[Certificate], signed_at: int) -> None:
        """Check the validity of a path, the signer's certificate first. Raises `PackageError` (`certificate-time`)."""
        if not path[0].not_before <= signed_at <= path[0].not_after:
            raise PackageError(CERTIFICATE_TIME, "the time of signing is outside the validity of the signer")
        # The signature itself says that its time has passed, to whoever believes the rest of it.
        least, known = max(self.least, (signed_at, "when the package was signed"))
        for found in path:
            which = f"certificate {found.fingerprint[:16]}"
            if least > found.not_after:
                why = f"{which} expired at {_utc(found.not_after)}; it was {_utc(least)} {known}"
                raise PackageError(CERTIFICATE_TIME, why)
            if self.is_ahead(found.not_before):
                why = f"{which} is not valid before {_utc(found.not_before)}; here it is {_utc(self.clock)}"
                raise PackageError(CERTIFICATE_TIME, why)
        if self.is_ahead(signed_at):
            why = f"signed at {_utc(signed_at)}, in the future; here it is {_utc(self.clock)}"
            raise PackageError(CERTIFICATE_TIME, why)


def _check_unrevoked(path: Sequence[Certificate], good: frozenset[Certificate]) -> None:
    for found in path:
        if found not in good:
            raise PackageError(CERTIFICATE_REVOKED, f"certificate {found.fingerprint[:16]} was revoked")


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(min(max(seconds, 0), TIME_MAX), UTC):%Y-%m-%d %H:%M:%SZ}"


def find_paths(signed: SignedContent, roots: Sequence[Certificate]) -> list[list[Certificate]]:
    """All paths: signer, authorities that came along, pinned root. At least one.

    `cms.CERTIFICATES_MAX` and `ROOTS_MAX` bound them: each of 4 certificates is held against 3 others and 16 roots
    once, and there are 16 paths of one length for each order of up to three authorities, 256.

    Raises `PackageError` (`certificate-chain`) where there is none, and for a certificate that came along although
    nothing from the signer on was signed with its key.
    """
    pinned = list(dict.fromkeys(roots))
    others = [one for one in signed.others if one not in pinned]
    candidates = [*others, *pinned]
    issuers: dict[Certificate, list[Certificate]] = {}
    paths, growing = [], [[signed.signer]]
    while growing:
        path = growing.pop()
        last = path[-1]
        if last not in issuers:
            issuers[last] = [one for one in candidates if last.is_signed_by(one)]
        paths += [[*path, one] for one in issuers[last] if one in pinned]
        growing += [[*path, one] for one in issuers[last] if one not in pinned and one not in path]
    if not paths:
        raise PackageError(CERTIFICATE_CHAIN, "the signer is not certified by a root of this device")
    if len(others) != len(set(others)) or not issuers.keys() >= set(others):
        raise PackageError(CERTIFICATE_CHAIN, "a certificate came along that has no part in the signature")
    return paths


def check_purposes(path: Sequence[Certificate]) -> None:
    """Check that the first certificate may sign packages and the others certify it.

    Raises `PackageError`: `certificate-purpose`, `certificate-chain` (more authorities than one allows).
    """
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
