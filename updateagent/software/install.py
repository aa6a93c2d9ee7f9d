"""A software package, from the file to the active version: verified, unpacked, its floor raised, activated.

The floor (the oldest security version still taken) is raised when the files are there and before they are used. So a
package that is reported as failed is not active, and every step can be repeated after a power cut.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from updateagent.engine.journal import Journal
from updateagent.package.manifest import Manifest, verify_package
from updateagent.package.verifier import SignedPackages
from updateagent.software.store import SoftwareStore


def install_software(
    store: SoftwareStore, journal: Journal, packages: SignedPackages, file: Path, *, activate: bool
) -> Manifest:
    """Install the package `file`. Raises `PackageError`, `DeviceError`."""
    record = journal.load()
    try:
        package = packages.open(file)
        manifest = verify_package(package, packages.trust(record, free=store.free_bytes()))
        if manifest.new_roots is not None:
            packages.keep_roots(manifest.new_roots)
        store.install(package, manifest)
        floors = dict(record.software_floors)
        floors[manifest.software_id] = max(floors.get(manifest.software_id, 0), manifest.security_version)
        signed_time = max(record.signed_time, manifest.signed_at)
        if (floors, signed_time) != (dict(record.software_floors), record.signed_time):
            journal.store(replace(record, software_floors=floors, signed_time=signed_time))
        if activate:
            store.activate(manifest.software_id, manifest.version)
    finally:
        packages.close()
    return manifest
