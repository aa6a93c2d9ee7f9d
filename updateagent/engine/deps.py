"""The dependencies of the engine: packages, slots, boot environment, journal, files, time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from updateagent.boot.policy import BootEnv
from updateagent.engine.journal import Journal, Record
from updateagent.engine.mailbox import Mailbox
from updateagent.engine.migration import StateFolders
from updateagent.slots.block import SYNC_BYTES, Slot

CHECKPOINT_BYTES = 16 << 20  # a journal entry costs two syncs; a repetition only reads and compares


class Image(Protocol):
    """One image of a verified package. `size` in bytes; `root` is that of its hash tree."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def root(self) -> bytes: ...

    def blocks(self, start_block: int) -> Iterator[bytes]:
        """Yield the image from that block on, in runs, each verified before it is yielded."""

    def known(self) -> Callable[[int, bytes], bool] | None:
        """Returns a function that tells whether the 64 KiB run number N is the verified one; None: only hashes tell."""


class Package(Protocol):
    """A verified package."""

    @property
    def version(self) -> str: ...

    @property
    def security_version(self) -> int: ...

    @property
    def signed_time(self) -> int: ...

    @property
    def images(self) -> Sequence[Image]: ...

    @property
    def new_roots(self) -> bytes | None:
        """A list of roots to trust from now on; None when there is none."""

    @property
    def hooks(self) -> Sequence[str]:
        """The steps that the package has a hook for."""

    def run_hook(self, step: str, variables: Mapping[str, str]) -> None:
        """Run the package's hook of this step, if it has one. Raises `PackageError` (hook), `DeviceError`."""


class Packages(Protocol):
    """Verifies firmware packages."""

    def verify(self, path: Path, record: Record, target: str, fallback: str) -> Package:
        """Verify the whole package at `path`, to be written to slot `target`; deltas find their source in `fallback`.

        Raises `PackageError`, or `DeviceError` when it cannot be read.
        """

    def keep_roots(self, envelope: bytes) -> None:
        """Trust this list of roots from now on. Raises `DeviceError`."""


@dataclass(frozen=True, slots=True)
class EngineDeps:
    """The dependencies of the engine.

    `partitions[slot][image]` is where an image is written; a recovery slot, which is never written, has none. `wall`
    returns seconds since 1970. `canary` is what the boot loader passed, None for nothing; `image_floor`
    the lowest security version by the release file of the image. `state_dirs` are the folders
    that a package may migrate; `state_folders` makes the operations on some of them. A slot is synced after every
    `sync_bytes`, and its progress is stored in the journal after every `checkpoint_bytes`. `check_root` raises
    `DeviceError` (booted-slot) when another slot than `booted` is the mounted root; `check_target` raises `DeviceError`
    (slot) when something of a slot is mounted.
    """

    journal: Journal
    bootenv: BootEnv
    partitions: Mapping[str, Mapping[str, Slot]]
    mailbox: Mailbox
    packages: Packages
    booted: str
    boot_id: str
    booted_version: str
    wall: Callable[[], float]
    log_tail: Callable[[], tuple[str, ...]]
    state_folders: Callable[[Sequence[str]], StateFolders]
    state_dirs: tuple[str, ...] = ()
    canary: str | None = None
    image_floor: int = 0
    sync_bytes: int = SYNC_BYTES
    checkpoint_bytes: int = CHECKPOINT_BYTES
    check_root: Callable[[], None] = lambda: None
    check_target: Callable[[str], None] = lambda _slot: None
