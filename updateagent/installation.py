"""A software package, from the file to the active version: verified, unpacked, its floor raised, activated.

The floor (the oldest security version still taken) is raised when the files are there and before they are used. So a
package that is reported as failed is not active, and every step can be repeated after a power cut.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from updateagent.disk import Storage
from updateagent.firmware import SignedPackages
from updateagent.journal import Journal
from updateagent.manifest import Manifest, verify_package
from updateagent.slots import storage_error
from updateagent.software import SoftwareStore


def install_software(
    disk: Storage, folder: Path, journal: Journal, packages: SignedPackages, file: Path, *, activate: bool
) -> Manifest:
    """Install the package `file` below `folder`. Raises `PackageError`, `DeviceError`."""
    record = journal.load()
    try:
        disk.mkdir_durable(folder, 0o755)
        free = disk.free_bytes(folder)
    except OSError as error:
        raise storage_error(error, str(folder)) from error
    try:
        package = packages.open(file)
        manifest = verify_package(package, packages.trust(record, free=free))
        if manifest.new_roots is not None:
            packages.keep_roots(manifest.new_roots)
        store = SoftwareStore(disk, folder)
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
