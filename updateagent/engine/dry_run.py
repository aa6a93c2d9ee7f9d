"""A dry run: the commands of `dcu-update` over the real state of the device, without writing anything.

The state machine itself runs, but its dependencies keep changes to themselves; at the end, `DryVariables` has the
commits that would have been made to the boot environment. A package is verified as always, but its images are not
written, its hooks not run, its roots not kept. Behind all of it is a `ReadOnlyDisk`: a write that was overlooked is an
error.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from updateagent.boot.policy import Variables
from updateagent.disk import Lock, RawFile, Storage
from updateagent.engine.deps import EngineDeps, Package, Packages
from updateagent.engine.health import Check, CommandCheck
from updateagent.engine.journal import Journal, Record
from updateagent.engine.mailbox import Mailbox
from updateagent.engine.migration import StateFolders
from updateagent.errors import IMAGE_ROLE, PackageError
from updateagent.slots.block import Slot


class ReadOnlyDisk(Storage):
    """A disk that cannot write: every write raises `OSError` (EROFS) before anything happens.

    A write that a dry run failed to leave out is therefore an error, and never reaches the disk.
    """

    def __init__(self, real: Storage) -> None:
        self._real = real

    def open_raw(self, path: Path, *, write: bool = False, create: bool = False, mode: int = 0o600) -> RawFile:
        if write or create:
            raise _refused(path)
        return self._real.open_raw(path, mode=mode)

    def rename(self, src: Path, dst: Path) -> None:
        raise _refused(dst if self._real.exists(src) else src)

    def link(self, src: Path, dst: Path) -> None:  # noqa: ARG002
        raise _refused(dst)

    def unlink(self, path: Path) -> None:
        raise _refused(path)

    def symlink(self, target: str, path: Path) -> None:  # noqa: ARG002
        raise _refused(path)

    def mkdir(self, path: Path, mode: int) -> None:  # noqa: ARG002
        raise _refused(path)

    def rmdir(self, path: Path) -> None:
        raise _refused(path)

    def sync_dir(self, path: Path) -> None:
        raise _refused(path)

    def copy_owner_and_mode(self, source: Path, target: Path) -> None:  # noqa: ARG002
        raise _refused(target)

    def readlink(self, path: Path) -> str:
        return self._real.readlink(path)

    def exists(self, path: Path) -> bool:
        return self._real.exists(path)

    def is_dir(self, path: Path) -> bool:
        return self._real.is_dir(path)

    def is_link(self, path: Path) -> bool:
        return self._real.is_link(path)

    def is_file(self, path: Path) -> bool:
        return self._real.is_file(path)

    def listdir(self, path: Path) -> list[str]:
        return self._real.listdir(path)

    def free_bytes(self, path: Path) -> int:
        return self._real.free_bytes(path)

    def lock(self, path: Path, *, write: bool = False) -> Lock:  # noqa: ARG002
        """The lock of an existing file, which is opened to be read; a missing one is not made."""
        return self._real.lock(path, write=False)


def _refused(path: Path) -> OSError:
    return OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


@dataclass(frozen=True, slots=True)
class PlainVariables:
    """Variables in memory only."""

    variables: dict[str, str]


class DryVariables:
    """Reads the real variables, and keeps changes in memory. `commits` are those that would have been made."""

    def __init__(self, real: Variables) -> None:
        self._real = real
        self.commits: list[dict[str, str | None]] = []

    def places(self) -> Sequence[tuple[Path, int, int | None]]:
        return self._real.places()

    def load(self) -> PlainVariables:
        merged: dict[str, str | None] = {**self._real.load().variables}
        for commit in self.commits:
            merged |= commit
        return PlainVariables({name: value for name, value in merged.items() if value is not None})

    def commit(self, changes: Mapping[str, str | None], *, settle: bool = False) -> bool:  # noqa: ARG002
        before = self.load().variables
        changed = {name: value for name, value in changes.items() if before.get(name) != value}
        if changed:
            self.commits.append(changed)
        return bool(changed)


class DryJournal(Journal):
    """Reads the real journal once, and keeps changes in memory."""

    def __init__(self, real: Journal) -> None:
        self._record = real.load()

    def load(self) -> Record:
        return self._record

    def store(self, record: Record) -> Record:
        self._record = replace(record, stores=record.stores + 1)
        return self._record


class DryMailbox(Mailbox):
    """Reads the real request, and changes nothing."""

    def clear_inbox(self, package: str, *, request: bool = True) -> None:
        """Not cleared."""

    def clear_by_hand(self) -> None:
        """Not cleared."""

    def reserve(self) -> None:
        """Nothing is kept."""

    def hold_result(self, result: Mapping[str, Any]) -> None:
        """Not held."""

    def publish(self) -> bool:
        """Nothing is handed over."""
        return False

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Not written."""


class DryFolders(StateFolders):
    """Leaves the state folders unchanged."""

    def copy(self) -> None:
        """Not copied."""

    def sync(self) -> None:
        """There is nothing to sync."""

    def put_in_place(self) -> None:
        """Not renamed."""

    def put_back(self) -> None:
        """Not renamed."""

    def forget(self) -> None:
        """Not removed."""


@dataclass(frozen=True, slots=True)
class DryPackage:
    """A verified package whose images are not written and whose hooks are not run."""

    version: str
    security_version: int
    signed_time: int
    hooks: Sequence[str]
    images: Sequence[Any] = ()
    new_roots: bytes | None = None

    def run_hook(self, step: str, variables: Mapping[str, str]) -> None:
        """They are not run."""


@dataclass(frozen=True, slots=True)
class DryPackages:
    """Verifies the package `file`, if given, instead of the one in the inbox."""

    real: Packages
    partitions: Mapping[str, Mapping[str, Slot]]
    file: Path | None

    def verify(self, path: Path, record: Record, target: str, fallback: str) -> Package:
        found = self.real.verify(self.file or path, record, target, fallback)
        for image in found.images:
            if image.name not in self.partitions[target]:
                raise PackageError(IMAGE_ROLE, f"no place for an image named {image.name}")
        return DryPackage(found.version, found.security_version, found.signed_time, found.hooks)

    def keep_roots(self, envelope: bytes) -> None:
        """They are not kept."""


def dry_deps(deps: EngineDeps, disk: Storage, package: Path | None = None) -> EngineDeps:
    """`deps` with parts that do not write; `package` replaces the one in the inbox.

    Raises `DeviceError` (journal).
    """
    return replace(
        deps,
        journal=DryJournal(deps.journal),
        mailbox=DryMailbox(disk, deps.mailbox.folder),
        packages=DryPackages(deps.packages, deps.partitions, package),
        state_folders=lambda folders: DryFolders(disk, folders),
    )


def command_not_run(check: CommandCheck) -> Check:
    """The result of a health command that is not run, since it may write: good, so that the dry run goes on."""
    return Check(ok=True, detail=f"{check.name} was not run")


def lines(commits: Sequence[Mapping[str, str | None]]) -> Iterator[str]:
    """The lines of the commits that would have been made, with an empty line between commits."""
    if not commits:
        yield "nothing would be written to the boot environment"
    for number, commit in enumerate(commits):
        if number:
            yield ""
        for name, value in commit.items():
            yield f"{name}={value}" if value is not None else f"{name} is removed"
