"""What devices will say of a package or a list of roots, asked before it leaves the build host.

A device cannot be asked later: what it takes can move what it takes next, and what it refuses costs a download.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import click

from updateagent.buildhost.signing import Identity
from updateagent.errors import ROOTS, PackageError
from updateagent.package import manifest, roots, trust
from updateagent.package.trust import Trust

OLD_S = 366 * 86_400
"""Something that claims to be older than this was dated back, or its time was forgotten."""
ENDS_SOON_S = 90 * 86_400
"""Packages lie about before the last device has fetched them."""


@dataclass(frozen=True, slots=True)
class Devices:
    """What devices know: what time it is, and whom they trust; None where that was not said."""

    now: float
    trusted: Path | None = None

    @classmethod
    def of(cls, clock: float | None, device_roots: Path | None = None) -> Devices:
        """From the options; without a clock, the time is that of this machine."""
        return cls(time.time() if clock is None else clock, device_roots)

    def trust(self) -> Trust:
        """Whom they trust. Raises `DeviceError` (configuration), `PackageError` (roots)."""
        # A clock at 1970 is that of a device which has none; nothing vouches for it.
        nobody = Trust(roots=(), compatible="", clock=self.now, clock_vouched=self.now > 0)
        if self.trusted is None:
            return nobody
        data = self.trusted.read_bytes()
        if data.lstrip().startswith(b"{"):
            return roots.apply_roots(nobody, roots.parse(data))
        return replace(nobody, roots=trust.load_roots(self.trusted))

    def check_signer(self, identity: Identity, signed_at: int) -> None:
        """Check what can be told of a signer without roots. Raises `PackageError` (certificate-purpose, -time)."""
        trust.check_purposes([identity.signer])
        self.trust().check_times([identity.signer], signed_at)
        if signed_at < self.now - OLD_S:
            warn(f"the signature is dated back, to {_day(signed_at)}")
        for one in (identity.signer, *identity.others):
            self.warn_of_end(one.not_after, f"certificate {one.fingerprint[:16]}")

    def warn_of_end(self, not_after: int, what: str) -> None:
        """Warn of a certificate that ends soon."""
        if not_after < self.now + ENDS_SOON_S:
            warn(f"{what} ends at {_day(not_after)}, and what it signed is refused from then on")

    def check_lists(self, lists: list[roots.RootList]) -> None:
        """Check lists of roots that a package carries as a device would, but for who must sign the first.

        Raises `PackageError` (roots).
        """
        here = self.trust()
        for before, one in zip([None, *lists], lists, strict=False):
            self.check_issued(one.version, one.issued)
            if before is not None and one.version != before.version + 1:
                raise PackageError(ROOTS, f"roots version {one.version} does not follow {before.version}")
            roots.apply_roots(here, one)

    def check_issued(self, version: int, issued: int) -> None:
        """Check the time of a list. Raises `PackageError` (roots)."""
        if self.trust().is_ahead(issued):
            raise PackageError(ROOTS, f"roots version {version} would be issued in the future, at {_day(issued)}")
        if issued < self.now - OLD_S:
            warn(f"roots version {version} is dated back, to {_day(issued)}")

    def check_package(self, package: Path, shown: Path) -> None:
        """Verify a package with all its payloads, as devices with these roots do; without roots, all but who signed it.

        Raises `PackageError` as they would.
        """
        said = manifest.read_unverified(package)
        if self.trusted is None:
            with manifest.opened(package) as file:
                for image in said.images:
                    image.check_payload(file)
            warn(f"{shown} was not verified as devices do, since it was not said whom they trust (--device-roots)")
            return
        device = replace(self.trust(), compatible=said.compatible[0], version=next(iter(said.requires_version), None))
        try:
            manifest.verify_package(package, device)
        except PackageError as error:
            raise PackageError(error.code, f"devices would refuse it: {error.message}") from error


def warn(text: str) -> None:
    """Say something that is no error."""
    click.echo(f"dcu-pack: warning: {text}", err=True)


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%SZ}"
