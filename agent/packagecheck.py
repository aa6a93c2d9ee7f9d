"""Package verification as the agent does it: the Update Agent's own check, with what this device believes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.clock import Clock
    from agent.config import UpdateConfig
    from updateagent.disk import Storage
    from updateagent.manifest import Manifest


def verifier(update: UpdateConfig, disk: Storage, clock: Clock, fw_version: str) -> Callable[[Path], Manifest]:
    """A function that verifies a package file, writes nothing, and raises `PackageError` or `DeviceError`.

    Trusted roots and the floors of the Update Agent's journal are read anew each time: both change while we run.
    """

    def verify(package: Path) -> Manifest:
        from updateagent.journal import Journal
        from updateagent.manifest import Trust, verify_package
        from updateagent.trust import load_roots

        record = Journal(disk, update.dir).load()
        trust = Trust(
            roots=load_roots(update.roots),
            compatible=update.compatible,
            clock=clock.wall(),
            newest_signed=record.signed_time,
            security_version=record.security_floor,
            software_security=record.software_floors,
            version=fw_version,
        )
        return verify_package(package, trust)

    return verify
