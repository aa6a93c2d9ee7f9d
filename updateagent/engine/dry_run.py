"""A dry run: the verbs of `dcu-update` over the real state of the device, with nothing written.

The machine itself runs, over ports that keep what they are told to themselves; so what `bootenv.DryRun` has collected
at the end is what the verb would have committed to the boot environment. A package is verified as always; its images
are not written, its hooks not run, its roots not kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from updateagent.disk import Storage
from updateagent.engine.deps import Package, Packages, Ports
from updateagent.engine.journal import Journal, Record
from updateagent.engine.mailbox import Exchange, InstallRequest
from updateagent.engine.migration import StateFolders
from updateagent.errors import IMAGE_ROLE, PackageError
from updateagent.slots.block import Slot


class DryJournal(Journal):
    """Reads the journal once and then remembers."""

    def __init__(self, real: Journal) -> None:
        self._record = real.load()

    def load(self) -> Record:
        return self._record

    def store(self, record: Record) -> Record:
        self._record = replace(record, stores=record.stores + 1)
        return self._record


class DryExchange(Exchange):
    """Reads the request; everything else stays as it is."""

    def write_request(self, request: InstallRequest) -> None:
        """Not written."""

    def clear_inbox(self, package: str) -> None:
        """Not cleared."""

    def hold_result(self, result: Mapping[str, Any]) -> None:
        """Not held."""

    def publish(self) -> bool:
        """Nothing is handed over."""
        return False

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Not written."""


class DryFolders(StateFolders):
    """State that stays as it is."""

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
    """A verified package without anything to write."""

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
    """Verifies what is at `file`, if there is one, instead of what is in the inbox."""

    real: Packages
    places: Mapping[str, Mapping[str, Slot]]
    file: Path | None

    def verify(self, path: Path, record: Record, target: str, fallback: str) -> Package:
        found = self.real.verify(self.file or path, record, target, fallback)
        for image in found.images:
            if image.name not in self.places[target]:
                raise PackageError(IMAGE_ROLE, f"no place for an image named {image.name}")
        return DryPackage(found.version, found.security_version, found.signed_time, found.hooks)

    def keep_roots(self, envelope: bytes) -> None:
        """They are not kept."""


def rehearse(ports: Ports, disk: Storage, package: Path | None = None) -> Ports:
    """The same ports with nothing behind them that writes. Raises `DeviceError` (journal)."""
    return replace(
        ports,
        journal=DryJournal(ports.journal),
        exchange=DryExchange(disk, ports.exchange.folder),
        packages=DryPackages(ports.packages, ports.places, package),
        state_folders=lambda folders: DryFolders(disk, folders),
    )


def lines(commits: Sequence[Mapping[str, str | None]]) -> Iterator[str]:
    """What would have been written, a commit after the other with an empty line between them."""
    if not commits:
        yield "nothing would be written to the boot environment"
    for number, commit in enumerate(commits):
        if number:
            yield ""
        for name, value in commit.items():
            yield f"{name}={value}" if value is not None else f"{name} is removed"
