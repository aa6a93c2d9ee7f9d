"""Files of a later version of this software, which this one cannot read, and files that the storage does not give.

Such a file is refused untouched: it is renamed, so that this program can go on with what it has or with nothing, and
stays for the program that made it or for a person (docs/versions.md). As long as one is there, it is reported.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from updateagent.disk import Disk

LOG = logging.getLogger("agent.versions")

SHOWN_MAX = 16  # files that a report names
UNREADABLE = ".unreadable"
_NEWER = re.compile(r"(.+)\.newer-(\d{1,9})")


class NewerFormatError(ValueError):
    """A document of a version that only a later program knows."""

    def __init__(self, version: int, why: str) -> None:
        super().__init__(why)
        self.version = version


def check_version(found: object, known: int) -> None:
    """Check the version that a document says. Raises `NewerFormatError` above `known`, `ValueError` for no version."""
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ValueError("no version")
    if found > known:
        raise NewerFormatError(found, f"version {found}, and this program knows {known}")


def set_aside(disk: Disk, file: Path, error: NewerFormatError) -> None:
    """Rename `file` to `NAME.newer-VERSION`. Raises `OSError`."""
    target = file.with_name(f"{file.name}.newer-{error.version}")
    disk.rename_durable(file, target)
    LOG.warning("%s: %s: kept as %s", file, error, target.name, extra={"event": "state.newer"})


def set_unreadable_aside(disk: Disk, file: Path, error: OSError) -> None:
    """Rename `file`, which cannot be read, to `NAME.unreadable`, in the place of one of before. Raises `OSError`."""
    target = file.with_name(f"{file.name}{UNREADABLE}")
    disk.rename_durable(file, target)
    LOG.error("%s cannot be read: %s: kept as %s", file, error, target.name, extra={"event": "state.unreadable"})


def files_set_aside(disk: Disk, folders: Iterable[Path]) -> tuple[str, ...]:
    """The files in `folders` that a later version of this software made and this one has set aside."""
    found = (str(folder / name) for folder in folders for name in disk.listdir(folder) if _NEWER.fullmatch(name))
    return tuple(found)[:SHOWN_MAX]


def warnings(disk: Disk, folders: Iterable[Path]) -> list[str]:
    """A sentence on each file that was set aside, for the status."""
    folders = tuple(folders)
    newer = files_set_aside(disk, folders)
    lost = [folder / name for folder in folders for name in disk.listdir(folder) if name.endswith(UNREADABLE)]
    return [
        *(f"{file} is of a later version of this software, and not in use" for file in newer),
        *(f"{file} could not be read, and is not in use" for file in lost[:SHOWN_MAX]),
    ]
