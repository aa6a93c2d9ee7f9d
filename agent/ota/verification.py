"""Packages are believed only after verification: the Update Agent's own check, with what this device believes.

What reads packages is loaded with the first one: it brings a cryptographic library, and most starts of the daemon see
no package at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from agent.clock_floor import CertificateTime
from agent.ota.deps import VerifiedPackage
from agent.ota.errors import Rejected
from agent.settings.config import UpdateConfig
from updateagent.disk import Storage
from updateagent.errors import KIND, DeviceError, PackageError

if TYPE_CHECKING:
    from updateagent.package.manifest import Manifest
    from updateagent.package.trust import Trust

NEWER_ROOTS = "roots.json"  # in the folder shared with the Update Agent: the list of roots that it accepted last


def verified_firmware(verify: Callable[[Path], VerifiedPackage], package: Path) -> VerifiedPackage:
    """What the firmware package at `package` says, all of it verified. Raises `Rejected`."""
    return _verified(verify, package, "firmware")


def verified_software(verify: Callable[[Path], VerifiedPackage], package: Path) -> VerifiedPackage:
    """What the software package at `package` says, all of it verified. Raises `Rejected`."""
    return _verified(verify, package, "software")


def _verified(verify: Callable[[Path], VerifiedPackage], package: Path, kind: str) -> VerifiedPackage:
    """`kind`: the value of an `updateagent.package.description.Kind`."""
    try:
        manifest = verify(package)
    except (PackageError, DeviceError) as error:
        raise Rejected(error.code, error.message) from error
    if manifest.kind.value != kind:
        raise Rejected(KIND, f"a {manifest.kind.value} package, {kind} expected")
    return manifest


def verifier(
    update: UpdateConfig,
    disk: Storage,
    certificate_time: Callable[[], CertificateTime],
    fw_version: str,
    on_signed: Callable[[float], None] = lambda _time: None,
) -> Callable[[Path], Manifest]:
    """A function that verifies a package file, writes nothing, and raises `PackageError` or `DeviceError`.

    The Update Agent's journal and the roots that it believes are read anew each time: both change while we run.
    `fw_version` may be empty where it is not known. `on_signed` is told the newest signing time that was confirmed when
    the Update Agent accepted it.
    """

    def verify(package: Path) -> Manifest:
        from updateagent.package.manifest import verify_package

        trust = _trust(update, disk, fw_version)
        on_signed(trust.newest_signed)
        moment = certificate_time()
        judged = replace(
            trust, clock=moment.now or 0.0, clock_vouched=moment.now is not None, built=max(0.0, moment.earliest)
        )
        return verify_package(package, judged)

    return verify


def _trust(update: UpdateConfig, disk: Storage, fw_version: str) -> Trust:
    """What the Update Agent trusts, but for the time."""
    from updateagent.engine.journal import Journal
    from updateagent.package.roots import apply_roots, parse
    from updateagent.package.trust import Trust, load_roots

    record = Journal(disk, update.dir).load()
    record.check_known()
    trust = Trust(
        roots=load_roots(update.roots),
        compatible=update.compatible,
        clock=0.0,
        newest_signed=record.signed_time,
        security_version=record.security_floor,
        software_security=record.software_floors,
        version=fw_version or None,
    )
    newer = update.dir / NEWER_ROOTS
    return apply_roots(trust, parse(disk.read_bytes(newer))) if disk.exists(newer) else trust
