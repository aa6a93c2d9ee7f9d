"""Verifies packages for this device, according to what it trusts and has accepted so far.

Trust starts with the roots in the PEM file of the image. A list of roots that came with a verified package, and is
signed by enough of the roots trusted so far, is stored on the data partition and replaces them
(`updateagent.package.roots`). If the stored list is damaged, every package is refused: going back to the PEM file would
forget revocations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from updateagent import __version__
from updateagent.disk import RawFile, Storage
from updateagent.errors import DELTA_SOURCE, HOOK, IMAGE_ROLE, KIND, PACKAGE_MISSING, PackageError, storage_error
from updateagent.package.manifest import Image as SignedImage
from updateagent.package.manifest import Kind, Manifest, Role, Trust, verify_package
from updateagent.package.payload import IntegrityTags
from updateagent.package.readable import Readable
from updateagent.package.roots import apply_roots
from updateagent.package.roots import parse as parse_roots
from updateagent.package.trust import load_roots
from updateagent.package.verity import BLOCK_BYTES, RUN_BYTES

HOOK_STEPS = ("pre-install", "post-install", "adapt", "migrate")
"""The steps of an update that a package may have a hook for; `updateagent.engine.hooks` runs them."""


class Accepted(Protocol):
    """What this device has accepted so far, from its journal: the bounds for what it may install now.

    Times are in seconds since 1970. `from_version` is the version that the present update started from, or empty.
    """

    @property
    def signed_time(self) -> int: ...

    @property
    def security_floor(self) -> int: ...

    @property
    def software_floors(self) -> Mapping[str, int]: ...

    @property
    def from_version(self) -> str: ...


class Partition(Protocol):
    """Where one image of a system is written."""

    def capacity(self) -> int:
        """The maximum size of an image in bytes. Raises `DeviceError`."""

    def open(self) -> RawFile:
        """Open it for reading what it holds now. Raises `DeviceError`."""


@dataclass(frozen=True, slots=True)
class VerifierDeps:
    """The dependencies of the verifier.

    `roots` is the PEM file of the image, `newer_roots` the list that a package brought, `partitions[slot][image]` where
    each image is written. `clock` returns seconds since 1970, `clock_vouched` whether something vouches for them;
    `built` is when the image was built, 0 where that is not known. `run_hook(step, content, variables)` runs a verified
    program, and raises `PackageError` (hook) or `DeviceError` (storage).
    """

    disk: Storage
    roots: Path
    newer_roots: Path
    compatible: str
    partitions: Mapping[str, Mapping[str, Partition]]
    running_version: str
    clock: Callable[[], float]
    run_hook: Callable[[str, Iterable[bytes], Mapping[str, str]], None]
    built: float = 0.0
    clock_vouched: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class FirmwareImage:
    """One image of an open package, with the source of its delta if it is one."""

    _image: SignedImage
    _package: Readable
    _source: Readable | None
    _tags: IntegrityTags

    @property
    def name(self) -> str:
        return self._image.name

    @property
    def size(self) -> int:
        """Bytes that are written: whole blocks."""
        return self._image.block_count * BLOCK_BYTES

    @property
    def root(self) -> bytes:
        return self._image.root

    def blocks(self, start_block: int) -> Iterator[bytes]:
        """Runs of verified blocks. Raises `PackageError` or `DeviceError`."""
        for run in self._image.blocks(self._package, start_block, self._source, self._tags):
            yield run.data

    def known(self) -> Callable[[int, bytes], bool] | None:
        """Recognises runs that this process verified; None when it has not verified all (a delta that is resumed)."""
        name = self._image.payload_name
        if not self._tags.has_all(name, -(-self.size // RUN_BYTES)):
            return None
        return partial(self._tags.knows, name)


@dataclass(frozen=True, slots=True)
class FirmwarePackage:
    """A verified firmware package, open."""

    version: str
    security_version: int
    signed_time: int
    """As far as the clock has confirmed it."""
    images: tuple[FirmwareImage, ...]
    new_roots: bytes | None
    _hooks: tuple[tuple[str, Callable[[], Iterator[bytes]]], ...]
    _run_hook: Callable[[str, Iterable[bytes], Mapping[str, str]], None]

    @property
    def hooks(self) -> tuple[str, ...]:
        """The steps that the package has a hook for."""
        return tuple(name for name, _ in self._hooks)

    def run_hook(self, step: str, variables: Mapping[str, str]) -> None:
        """Run the hook of this step, if the package has one. Raises `PackageError` (hook), `DeviceError` (storage)."""
        for name, content in self._hooks:
            if name == step:
                self._run_hook(step, content(), variables)


class SignedPackages:
    """Verifies firmware packages for `Updater`. Files stay open until `close`, so that what was verified is written."""

    def __init__(self, deps: VerifierDeps) -> None:
        self._deps = deps
        self._open = ExitStack()

    def close(self) -> None:
        self._open.close()

    def trust(self, record: Accepted, *, capacity: Mapping[str, int] | None = None, free: int | None = None) -> Trust:
        """What this device trusts and requires now.

        Raises `DeviceError` (configuration, storage), or `PackageError` (roots) for a damaged list.
        """
        # A package is verified again while its own version is on trial: `requires` then means the version before.
        version = record.from_version or self._deps.running_version
        trust = Trust(
            roots=load_roots(self._deps.roots),
            compatible=self._deps.compatible,
            clock=self._deps.clock(),
            clock_vouched=self._deps.clock_vouched(),
            newest_signed=record.signed_time,
            built=self._deps.built,
            security_version=record.security_floor,
            software_security=record.software_floors,
            version=version or None,
            agent_version=__version__,
            capacity=capacity,
            free_bytes=free,
        )
        try:
            accepted = self._deps.disk.read_bytes(self._deps.newer_roots)
        except FileNotFoundError:
            return trust
        except OSError as error:
            raise storage_error(error, str(self._deps.newer_roots)) from error
        return apply_roots(trust, parse_roots(accepted))

    def keep_roots(self, envelope: bytes) -> None:
        """Trust a list of roots from a verified package from now on. Raises `DeviceError` (storage)."""
        try:
            self._deps.disk.write_durable(self._deps.newer_roots, envelope)
        except OSError as error:
            raise storage_error(error, str(self._deps.newer_roots)) from error

    def verify(self, path: Path, record: Accepted, target: str, fallback: str) -> FirmwarePackage:
        """Verify a firmware package whole, and the sources of its deltas, for writing it to slot `target`."""
        partitions = self._deps.partitions[target]
        package = self.open(path)
        capacity = {name: slot.capacity() for name, slot in partitions.items()}
        tags = IntegrityTags()
        manifest = verify_package(package, self.trust(record, capacity=capacity), tags)
        if manifest.kind is not Kind.FIRMWARE:
            raise PackageError(KIND, "a software package, where firmware is wanted")
        images = tuple(
            FirmwareImage(image, package, self._source(image, fallback), tags)
            for image in manifest.images
            if image.role is Role.IMAGE
        )
        self._check_roles(manifest)
        hooks = tuple(
            (image.name, partial(image.content, package)) for image in manifest.images if image.role is Role.HOOK
        )
        return FirmwarePackage(
            manifest.version,
            manifest.security_version,
            manifest.confirmed_at,
            images,
            manifest.new_roots,
            hooks,
            self._deps.run_hook,
        )

    def open(self, path: Path) -> Readable:
        """Open a package. Raises `PackageError` (package-missing) or `DeviceError` (storage)."""
        try:
            return self._open.enter_context(self._deps.disk.open_raw(path))
        except FileNotFoundError:
            raise PackageError(PACKAGE_MISSING, f"there is no package {path.name}") from None
        except OSError as error:
            raise storage_error(error, str(path)) from error

    def _source(self, image: SignedImage, fallback: str) -> Readable | None:
        if image.delta is None:
            return None
        if fallback not in self._deps.partitions:
            raise PackageError(DELTA_SOURCE, "the recovery system is nothing that a delta is made from")
        source = self._open.enter_context(self._deps.partitions[fallback][image.name].open())
        image.check_source(source)
        return source

    @staticmethod
    def _check_roles(manifest: Manifest) -> None:
        for image in manifest.images:
            if image.role is Role.FILE:
                raise PackageError(IMAGE_ROLE, f"a firmware package has no place for the file {image.name}")
            if image.role is Role.HOOK and image.name not in HOOK_STEPS:
                raise PackageError(HOOK, f"there is no step called {image.name}; {', '.join(HOOK_STEPS)} are")
