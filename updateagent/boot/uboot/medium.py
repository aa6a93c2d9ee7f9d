"""What a copy of the U-Boot environment is stored on: a file or block device, an MTD partition, a UBI volume.

The name of the device decides: `/dev/mtd1` and `/dev/ubi0_1` are raw flash (`flash`), everything else is a file or a
block device.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from updateagent.boot.uboot.fw_env import EnvLocation
from updateagent.disk import RawFile, Storage


class Medium(Protocol):
    """Where one copy is stored. Writes are durable. All methods raise `OSError`, and `DeviceError` for an unsuitable
    device."""

    def is_marked(self) -> bool:
        """Whether flags are marks there, as on NOR flash."""

    def read(self) -> bytes: ...

    def write(self, raw: bytes) -> None: ...

    def make_obsolete(self) -> None:
        """Mark the copy as obsolete; only where flags are marks."""


class FileMedium:
    """A copy in a file or on a block device."""

    def __init__(self, disk: Storage, location: EnvLocation) -> None:
        self._disk = disk
        self._location = location

    def is_marked(self) -> bool:
        return False

    def read(self) -> bytes:
        with self._disk.open_raw(self._location.device) as file:
            return file.pread(self._location.size, self._offset(file))

    def write(self, raw: bytes) -> None:
        with self._disk.open_raw(self._location.device, write=True) as file:
            file.pwrite(raw, self._offset(file))
            file.sync()

    def make_obsolete(self) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def _offset(self, file: RawFile) -> int:
        offset = self._location.offset
        return offset if offset >= 0 else file.size() + offset


def medium_of(disk: Storage, location: EnvLocation) -> Medium:
    """The medium that the device's name stands for."""
    name = str(location.device)
    if name.startswith("/dev/") and ":" not in name:
        name = os.path.realpath(name)
    location = replace(location, device=Path(name))
    if re.fullmatch(r"/dev/mtd\d+", name):
        from updateagent.boot.uboot.flash import MtdMedium

        return MtdMedium(location)
    if re.fullmatch(r"/dev/ubi\d+(_\d+|:.+)", name):
        from updateagent.boot.uboot.flash import UbiMedium

        return UbiMedium(location)
    return FileMedium(disk, location)
