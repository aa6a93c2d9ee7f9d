"""Software packages: files beside the firmware, installed and activated without a reboot.

    <software_dir>/<id>/<version>/…     the files of one version, complete when the folder has this name; in `.dcu.json`
                                        what its signed description asks of the device (`Terms`); and, until
                                        it is active for the first time, the empty file `.never-active`
    <software_dir>/<id>/.new-<version>/ the same while it is being unpacked
    <software_dir>/<id>/.old-<version>/ and while it is being removed
    <software_dir>/active/<id>          a symbolic link to the active version's folder

Every step is repeatable after a power cut: a version's folder appears by one rename when all its files are durable,
and activation is one rename of a link. Readers open files below `active/<id>/`.

The active version, installed again because its files are damaged, is unpacked to `<version>,2` (or the next number),
the link turned, and the damaged folder removed: no reader ever finds nothing active. One that was active before is
repaired in the same way, so that it is there at any time for who goes back to it.

The active version and the one that was active before it are kept, so that `activate` can go back to what worked. Of
those that were never active the newest is kept: it waits for its activation, and takes the place of the one before it.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from updateagent.disk import Storage
from updateagent.errors import (
    DOWNGRADE,
    HOOK,
    KIND,
    NOT_FOUND,
    SOFTWARE_ACTIVATE,
    SOFTWARE_DEACTIVATE,
    SOFTWARE_REMOVE,
    VERSION_REQUIRED,
    Code,
    DeviceError,
    PackageError,
    RequestError,
    storage_error,
)
from updateagent.layout import ACTIVE, AGAIN, COMPONENT_FILE, folder_name, repair_number, version_of, version_order
from updateagent.package.manifest import Image, Kind, Manifest, Role
from updateagent.package.readable import Readable
from updateagent.software import component

LOG = logging.getLogger("update")

NEW = ".new-"
OLD = ".old-"
VERSIONS_KEPT = 2  # that were active: the one that is and the one before, so that `activate` can go back
NEVER_KEPT = 1  # that were never active: what is installed and waits for its activation
TERMS = ".dcu.json"  # no file of a package can have this name, nor the next one
NEVER_ACTIVE = ".never-active"
TERMS_VERSION = 1


@dataclass(frozen=True, slots=True)
class Installed:
    """One installed version of a software component."""

    id: str
    version: str
    active: bool


@dataclass(frozen=True, slots=True)
class Terms:
    """What the signed description of an installed version asks of the device, kept beside its files."""

    security_version: int = 0
    requires_version: tuple[str, ...] = ()

    def emit(self) -> bytes:
        found = {"security_version": self.security_version, "requires_version": list(self.requires_version)}
        return json.dumps({"version": TERMS_VERSION, **found}).encode()


class SoftwareStore:
    """The folder of installed software. Methods raise `DeviceError` (storage, storage-full), and what they name."""

    def __init__(self, disk: Storage, folder: Path) -> None:
        self._disk = disk
        self._folder = folder
        self._active = folder / ACTIVE

    def free_bytes(self) -> int:
        """The free space in bytes."""
        try:
            self._disk.mkdir_durable(self._folder, 0o755)
            return self._disk.free_bytes(self._folder)
        except OSError as error:
            raise storage_error(error, str(self._folder)) from error

    def install(self, package: Readable, manifest: Manifest) -> None:
        """Unpack a verified software package. Raises `PackageError` (kind, hook, and whatever its payload has)."""
        if manifest.kind is not Kind.SOFTWARE:
            raise PackageError(KIND, "a firmware package, where software is wanted")
        if manifest.software_id == ACTIVE:
            raise PackageError(KIND, f"no software may be called {ACTIVE}")
        if any(image.role is Role.HOOK for image in manifest.images):
            raise PackageError(HOOK, "this program runs no hooks of software packages")
        home = self._folder / manifest.software_id
        fresh = home / f"{NEW}{manifest.version}"
        try:
            target = self.folder(manifest.software_id, manifest.version)
            active = self.active_version(manifest.software_id) == manifest.version
            if active and self._same(package, manifest, target):
                return
            self._disk.mkdir_durable(home, 0o755)
            self._remove_leftovers(home)
            self._disk.mkdir_durable(fresh, 0o755)
            for image in manifest.images:
                self._unpack(image, package, fresh / image.name)
            self._check_component(manifest, fresh)
            terms = Terms(manifest.security_version, manifest.requires_version)
            self._disk.write_durable(fresh / TERMS, terms.emit(), 0o644)
            there = self._disk.exists(target)
            if active or (there and not self._was_never_active(target)):
                self._repair(fresh, target, self._active / manifest.software_id if active else None)
                return
            self._disk.write_durable(fresh / NEVER_ACTIVE, b"", 0o644)
            if there:
                self._discard(target)
            self._disk.rename_durable(fresh, target)
            self._drop_never_active(manifest.software_id, manifest.version)
        except OSError as error:
            raise storage_error(error, f"software {manifest.software_id}") from error

    def activate(self, software_id: str, version: str | None = None, *, floor: int = 0, running: str = "") -> str:
        """Make a version (the only one, or the newest installed) the active one; returns it. `floor` is the lowest
        security version that may be active, `running` the version of the firmware, empty where it is not known.

        Raises `RequestError` (not-found), `PackageError` (downgrade, version-required), `DeviceError`
        (software-activate).
        """
        chosen = version or self._newest(software_id)
        if chosen is None or chosen not in self._versions(software_id):
            raise RequestError(NOT_FOUND, f"software {software_id} {version or ''} is not installed".replace("  ", " "))
        before = self.active_version(software_id)
        if chosen != before:
            self._check_terms(software_id, chosen, floor, running)
        # Before the link changes: done again after a power cut, it would not know any more which version was active.
        self._note_active(software_id, SOFTWARE_ACTIVATE)
        try:
            self._drop_old_versions(software_id, {chosen, before or chosen})
        except OSError as error:  # old ones are removed with the next activation
            LOG.warning("old versions of %s stay: %s", software_id, error, extra={"event": "software.leftovers"})
        try:
            self._disk.mkdir_durable(self._active, 0o755)
            name = self.folder(software_id, chosen).name
            self._disk.link_durable(f"../{software_id}/{name}", self._active / software_id)
        except OSError as error:
            raise DeviceError(SOFTWARE_ACTIVATE, f"software {software_id}: {error.strerror or error}") from error
        with contextlib.suppress(DeviceError):  # it is active; what changes the link next does this first
            self._note_active(software_id, SOFTWARE_ACTIVATE)
        return chosen

    def terms(self, software_id: str, version: str) -> Terms | None:
        """What an installed version asks of the device; `None` where an earlier Update Agent has installed it."""
        try:
            found = json.loads(self._disk.read_bytes(self.folder(software_id, version) / TERMS))
            return Terms(int(found["security_version"]), tuple(map(str, found["requires_version"])))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _check_terms(self, software_id: str, version: str, floor: int, running: str) -> None:
        terms = self.terms(software_id, version)
        if (terms or Terms()).security_version < floor:
            why = (
                f"security version {terms.security_version}" if terms else "installed before its floor was kept with it"
            )
            raise PackageError(DOWNGRADE, f"software {software_id} {version}: {why}; {floor} is the lowest now")
        if terms and terms.requires_version and running and running not in terms.requires_version:
            raise PackageError(
                VERSION_REQUIRED, f"software {software_id} {version} is for {', '.join(terms.requires_version)}"
            )

    def deactivate(self, software_id: str) -> None:
        """Make no version active. Raises `RequestError` (not-found), `DeviceError` (software-deactivate)."""
        if not self._versions(software_id):
            raise RequestError(NOT_FOUND, f"software {software_id} is not installed")
        self._note_active(software_id, SOFTWARE_DEACTIVATE)
        try:
            self._disk.remove_durable(self._active / software_id)
        except OSError as error:
            raise DeviceError(SOFTWARE_DEACTIVATE, f"software {software_id}: {error.strerror or error}") from error

    def remove(self, software_id: str) -> None:
        """Remove all versions, including the active one and the remains of an interrupted removal.

        Raises `RequestError` (not-found), `DeviceError` (software-deactivate, software-remove).
        """
        home = self._folder / software_id
        if not self._versions(software_id) and not self._disk.is_dir(home):
            raise RequestError(NOT_FOUND, f"software {software_id} is not installed")
        try:
            self._disk.remove_durable(self._active / software_id)
        except OSError as error:
            raise DeviceError(SOFTWARE_DEACTIVATE, f"software {software_id}: {error.strerror or error}") from error
        try:
            for name in self._names(software_id):
                self._discard(home / name)
            self._disk.remove_tree_durable(home)
        except OSError as error:
            raise DeviceError(SOFTWARE_REMOVE, f"software {software_id}: {error.strerror or error}") from error

    def installed(self) -> tuple[Installed, ...]:
        """Everything installed, by id and version."""
        return tuple(
            Installed(software_id, version, version == self.active_version(software_id))
            for software_id in self._disk.listdir(self._folder)
            if software_id != ACTIVE and not software_id.startswith(".")
            for version in self._versions(software_id)
        )

    def active_version(self, software_id: str) -> str | None:
        """The version that the link points to; None when there is no link or its folder is missing."""
        try:
            said = self._disk.readlink(self._active / software_id)
        except OSError:
            return None
        name = said.rpartition("/")[2]
        return version_of(name) if name in self._names(software_id) else None

    def folder(self, software_id: str, version: str) -> Path:
        """Where the files of a version are; where they would be, for one that is not installed."""
        try:
            linked = self._disk.readlink(self._active / software_id).rpartition("/")[2]
        except OSError:
            linked = ""
        return self._folder / software_id / folder_name(self._names(software_id), version, linked)

    def _versions(self, software_id: str) -> list[str]:
        return sorted({version_of(name) for name in self._names(software_id)})

    def _names(self, software_id: str) -> list[str]:
        """The folders of the versions."""
        if not software_id or "/" in software_id or software_id.startswith("."):
            raise RequestError(NOT_FOUND, f"{software_id!r} is no name of software")
        home = self._folder / software_id
        return [
            name for name in self._disk.listdir(home) if not name.startswith(".") and self._disk.is_dir(home / name)
        ]

    def _newest(self, software_id: str) -> str | None:
        return max(self._versions(software_id), key=version_order, default=None)

    def _unpack(self, image: Image, package: Readable, path: Path) -> None:
        self._disk.mkdir_durable(path.parent, 0o755)
        with self._disk.open_raw(path, write=True, create=True, mode=0o755 if image.executable else 0o644) as file:
            offset = 0
            for piece in image.content(package):
                file.pwrite(piece, offset)
                offset += len(piece)
            file.sync()
        self._disk.sync_dir(path.parent)

    def _check_component(self, manifest: Manifest, fresh: Path) -> None:
        """What the package says it is for must be readable, and there. Raises `PackageError` (description, limit)."""
        files = {image.name: image.executable for image in manifest.images}
        if COMPONENT_FILE in files:
            with self._disk.open_raw(fresh / COMPONENT_FILE) as file:
                said = component.parse(file.pread(component.COMPONENT_BYTES_MAX + 1, 0))
            component.check_files(said, files)

    def _same(self, package: Readable, manifest: Manifest, target: Path) -> bool:
        """Whether the installed folder already holds exactly these files."""
        for image in manifest.images:
            try:
                with self._disk.open_raw(target / image.name) as file:
                    if file.size() != image.size:
                        return False
                    offset = 0
                    for piece in image.content(package):
                        if file.pread(len(piece), offset) != piece:
                            return False
                        offset += len(piece)
            except FileNotFoundError:
                return False
        return True

    def _repair(self, fresh: Path, damaged: Path, link: Path | None) -> None:
        """Put a good copy of a version in the place of the one that is there, without a moment between. `link` is
        turned to it, where the version is active."""
        version = version_of(damaged.name)
        target = damaged.with_name(f"{version}{AGAIN}{repair_number(damaged.name) + 1}")
        if self._disk.exists(target):  # of a repair that the power ended; nothing points to it
            self._discard(target)
        self._disk.rename_durable(fresh, target)
        if link is not None:
            self._disk.link_durable(f"../{target.parent.name}/{target.name}", link)
        for name in self._names(damaged.parent.name):
            if version_of(name) == version and name != target.name:
                self._discard(damaged.with_name(name))

    def _was_never_active(self, folder: Path) -> bool:
        return self._disk.exists(folder / NEVER_ACTIVE)

    def _note_active(self, software_id: str, code: Code) -> None:
        """Before the link leaves the active version, and after it has come to it: this one was active, and may be what
        somebody goes back to. Raises `DeviceError` with this code."""
        version = self.active_version(software_id)
        if version is None:
            return
        try:
            self._disk.remove_durable(self.folder(software_id, version) / NEVER_ACTIVE)
        except OSError as error:
            raise DeviceError(code, f"software {software_id}: {error.strerror or error}") from error

    def _drop_never_active(self, software_id: str, newest: str) -> None:
        """Remove the versions that were never active but for the `newest`, which is there already."""
        for version in self._versions(software_id):
            folder = self.folder(software_id, version)
            if version not in (newest, self.active_version(software_id)) and self._was_never_active(folder):
                self._discard(folder)

    def _discard(self, folder: Path) -> None:
        """Remove a version, after renaming it: a power cut must not leave half of it under its name."""
        old = folder.with_name(OLD + folder.name)
        self._disk.remove_tree_durable(old)
        self._disk.rename_durable(folder, old)
        self._disk.remove_tree_durable(old)

    def _remove_leftovers(self, home: Path) -> None:
        for name in self._disk.listdir(home):
            if name.startswith((NEW, OLD)):
                self._disk.remove_tree_durable(home / name)

    def _drop_old_versions(self, software_id: str, keep: Collection[str]) -> None:
        home = self._folder / software_id
        others = sorted((v for v in self._versions(software_id) if v not in keep), key=version_order)
        never = [v for v in others if self._was_never_active(self.folder(software_id, v))]
        once = [v for v in others if v not in never]
        gone = [*never[: max(0, len(never) - NEVER_KEPT)], *once[: max(0, len(once) - (VERSIONS_KEPT - len(keep)))]]
        for name in self._names(software_id):
            version = version_of(name)
            if version in gone or name != self.folder(software_id, version).name:
                self._discard(home / name)
        self._remove_leftovers(home)
