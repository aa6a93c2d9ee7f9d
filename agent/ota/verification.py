"""Packages are believed only after verification; the outcome in the words of FUMO and SCOMO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.dm.deps import VerifiedPackage
from updateagent.errors import KIND, Code
from updateagent.package.manifest import DeviceError, Kind, PackageError


class Rejected(Exception):
    """The package is not for this device, or not for this job. Nothing was written because of it."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{code.name} ({code.number}): {message}")
        self.code = code
        self.message = message


def verified(verify: Callable[[Path], VerifiedPackage], package: Path, kind: Kind) -> VerifiedPackage:
    """What the package at `package` says, all of it verified. Raises `Rejected`."""
    try:
        manifest = verify(package)
    except (PackageError, DeviceError) as error:
        raise Rejected(error.code, error.message) from error
    if manifest.kind is not kind:
        raise Rejected(KIND, f"a {manifest.kind.value} package, {kind.value} expected")
    return manifest
