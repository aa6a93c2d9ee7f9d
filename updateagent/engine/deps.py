"""What the Update Agent's work needs from outside: packages, slots, boot environment, journal, files, time."""

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

CHECKPOINT_BYTES = 16 << 20  # a journal entry costs two syncs; what is repeated is read and compared, not written


class Image(Protocol):
    """One image of a verified package. `size` in bytes; `root` is that of its hash tree."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def root(self) -> bytes: ...

    def blocks(self, start_block: int) -> Iterator[bytes]:
        """The image from that block on, in runs, each checked before it is handed out."""

    def known(self) -> Callable[[int, bytes], bool] | None:
        """Tells whether run number N, of 64 KiB, is the one that was verified; None when only its hash tells."""


class Package(Protocol):
    """A package that was verified."""

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
        """A list of roots to believe from now on."""

    @property
    def hooks(self) -> Sequence[str]:
        """The steps that the package has a hook for."""

    def run_hook(self, step: str, variables: Mapping[str, str]) -> None:
        """Run the package's hook of this step, if it has one. Raises `PackageError` (hook), `DeviceError`."""


class Packages(Protocol):
    """The way to a verified firmware package."""

    def verify(self, path: Path, record: Record, target: str, fallback: str) -> Package:
        """Raises `PackageError`, or `DeviceError` when it cannot be read."""

    def keep_roots(self, envelope: bytes) -> None:
        """Believe these roots from now on. Raises `DeviceError`."""


@dataclass(frozen=True, slots=True)
class EngineDeps:
    """What the Update Agent's work needs from outside.

    `partitions[slot][image]` is where an image of a system goes; there are none of a recovery slot, which is not
    written. `wall` returns seconds since 1970. `canary` is what the boot loader has passed, None when nothing.
    `state_dirs` are the folders that a package may migrate; `state_folders` gives the verbs for some of them.
    A slot is synced after `sync_bytes`, and the journal notes how far it is after `checkpoint_bytes`.
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
    sync_bytes: int = SYNC_BYTES
    checkpoint_bytes: int = CHECKPOINT_BYTES
