"""Installs a software package: verify, unpack, raise its floor, activate.

The floor (the lowest security version still accepted) is raised after the files are there and before they are used.
Thus a package that is reported as failed is not active, and every step can be repeated after a power cut.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Self, TypeVar

from updateagent.package.manifest import Manifest, verify_package
from updateagent.package.verifier import Accepted, SignedPackages
from updateagent.software.store import SoftwareStore


class Record(Accepted, Protocol):
    """What the device has accepted so far, and how to record more."""

    def check_known(self) -> None:
        """Refuse to go on where it is not known what was accepted. Raises `DeviceError` (journal)."""

    def accept_software(self, software_id: str, security_version: int, signed_time: int) -> Self: ...


R = TypeVar("R", bound=Record)


class Records(Protocol[R]):
    """Where such a record is stored: the journal. Raises `DeviceError` (journal)."""

    def load(self) -> R: ...

    def store(self, record: R) -> R: ...


def install_software(
    store: SoftwareStore, records: Records[R], packages: SignedPackages, file: Path, *, activate: bool
) -> Manifest:
    """Install the package `file`. Raises `PackageError`, `DeviceError`."""
    record = records.load()
    record.check_known()
    try:
        package = packages.open(file)
        manifest = verify_package(package, packages.trust(record, free=store.free_bytes()))
        if manifest.new_roots is not None:
            packages.keep_roots(manifest.new_roots)
        store.install(package, manifest)
        accepted = record.accept_software(manifest.software_id, manifest.security_version, manifest.confirmed_at)
        if accepted != record:
            records.store(accepted)
        if activate:
            store.activate(manifest.software_id, manifest.version)
    finally:
        packages.close()
    return manifest
