"""Packages are believed only after verification; the outcome in the words of FUMO and SCOMO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.dm.ports import VerifiedPackage
from updateagent.manifest import DeviceError, Kind, PackageError

WRONG_KIND_FUMO, WRONG_KIND_SCOMO = 405, 1405  # the Update Agent says the same


class Rejected(Exception):
    """The package is not for this device, or not for this job. Nothing was written because of it."""

    def __init__(self, fumo: int, scomo: int, message: str) -> None:
        super().__init__(message)
        self.fumo = fumo
        self.scomo = scomo


def verified(verify: Callable[[Path], VerifiedPackage], package: Path, kind: Kind) -> VerifiedPackage:
    """What the package at `package` says, all of it verified. Raises `Rejected`."""
    try:
        manifest = verify(package)
    except (PackageError, DeviceError) as error:
        raise Rejected(error.fumo, error.scomo, str(error)) from error
    if manifest.kind is not kind:
        raise Rejected(WRONG_KIND_FUMO, WRONG_KIND_SCOMO, f"a {manifest.kind.value} package, {kind.value} expected")
    return manifest
