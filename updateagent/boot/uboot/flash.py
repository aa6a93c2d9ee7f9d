"""Copies of the U-Boot environment on raw flash: MTD partitions of NOR or NAND, and UBI volumes.

This follows what U-Boot, its `fw_setenv` and libubootenv do:

* **NOR** (and DataFlash): the blocks of the copy are erased and written. Flags are marks: when the new copy is whole,
  the flag of the old one is set to 0 by programming that one byte. A power cut before that leaves two good copies, of
  which the first is in force: either the old environment or the new one, whole.
* **NAND**: the same block by block, skipping bad ones, within `sectors` times `sectorsize` bytes from the offset. Flags
  are numbers. A block that fails is marked bad, and the next one of the range replaces it, as long as there is one.
* **UBI**: a copy is at the beginning of a volume. A dynamic volume is changed by an atomic LEB change, so that even a
  single copy survives a power cut. A volume that is static, was left unreadable by an interrupted update, or has erase
  blocks smaller than the copy, is changed by a volume update.

Data after the copy in its last block is kept. Two copies must not share a block, and a copy starts at a block.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from updateagent.boot.uboot.bytes import FLAG_AT, MARK_OBSOLETE
from updateagent.boot.uboot.fw_env import EnvLocation
from updateagent.rawflash import ERASED, KernelMtd, KernelUbi, Mtd, UbiVolume

PAGE_BYTES_MAX = 4096  # the unwritten rest of a block is a multiple of this: NAND takes whole pages


class EnvMtd(Mtd, Protocol):
    """An MTD partition that holds a copy. All methods raise `OSError`."""

    is_nand: bool

    def program(self, block: int, data: bytes, inside: int) -> None:
        """Clear bits at offset `inside` of a block, without an erase."""

    def lock(self, block: int) -> None: ...


class EnvUbi(UbiVolume, Protocol):
    """A UBI volume that holds a copy. All methods raise `OSError`."""

    dynamic: bool

    def update(self, data: bytes) -> None:
        """Replace the content of the volume; a power cut leaves it unreadable (EBADF)."""


class OpenMtd(Protocol):
    """Opens an MTD partition that holds the environment. Raises `OSError`."""

    def __call__(self, path: Path, *, write: bool) -> EnvMtd: ...


class OpenVolume(Protocol):
    """Opens a UBI volume that holds the environment. Raises `OSError`."""

    def __call__(self, path: Path, *, write: bool) -> EnvUbi: ...


class MtdMedium:
    """One copy on an MTD partition. Raises `OSError`."""

    def __init__(self, location: EnvLocation, open_mtd: OpenMtd = KernelMtd) -> None:
        self._location = location
        self._open_mtd = open_mtd

    def is_marked(self) -> bool:
        with self._open(write=False) as mtd:
            return not mtd.is_nand

    def read(self) -> bytes:
        with self._open(write=False) as mtd:
            parts = []
            left = self._location.size
            for block in self._blocks(mtd):
                parts.append(mtd.read(block, min(left, mtd.block_bytes), 0))
                left -= len(parts[-1])
                if left <= 0:
                    break
            return b"".join(parts)

    def write(self, raw: bytes) -> None:
        with self._open(write=True) as mtd:
            blocks = list(self._blocks(mtd))
            pieces = [raw[at : at + mtd.block_bytes] for at in range(0, len(raw), mtd.block_bytes)]
            while pieces:
                if len(blocks) < len(pieces):
                    raise OSError(errno.ENOSPC, "too few good blocks are left for the environment")
                block = blocks.pop(0)
                try:
                    self._replace(mtd, block, pieces[0])
                except OSError as error:
                    # The last good blocks are never marked bad: the failure may be temporary.
                    if error.errno != errno.EIO or not mtd.is_nand or len(blocks) < len(pieces):
                        raise
                    mtd.mark_bad(block)
                else:
                    pieces.pop(0)

    def make_obsolete(self) -> None:
        with self._open(write=True) as mtd:
            block = next(self._blocks(mtd))
            with self._unlocked(mtd, block):
                mtd.program(block, bytes([MARK_OBSOLETE]), FLAG_AT)

    @contextmanager
    def _open(self, *, write: bool) -> Iterator[EnvMtd]:
        with closing(self._open_mtd(self._location.device, write=write)) as mtd:
            self._check(mtd)
            yield mtd

    def _check(self, mtd: EnvMtd) -> None:
        location = self._location
        if location.offset < 0 or location.offset % mtd.block_bytes:
            raise OSError(errno.EINVAL, f"offset {location.offset:#x} is not at an erase block ({mtd.block_bytes:#x})")
        if location.sector_size % mtd.block_bytes and mtd.block_bytes % (location.sector_size or 1):
            raise OSError(errno.EINVAL, f"sector size {location.sector_size:#x} does not fit {mtd.block_bytes:#x}")

    def _range_bytes(self, mtd: EnvMtd) -> int:
        """The bytes from the offset on in which the copy may be."""
        sector = self._location.sector_size or mtd.block_bytes
        needed = -(-self._location.size // mtd.block_bytes) * mtd.block_bytes
        return max(self._location.sectors * sector, needed)

    def _blocks(self, mtd: EnvMtd) -> Iterator[int]:
        """The good blocks of the range."""
        first = self._location.offset // mtd.block_bytes
        for block in range(first, first + self._range_bytes(mtd) // mtd.block_bytes):
            if block >= mtd.blocks:
                raise OSError(errno.EINVAL, f"the environment reaches beyond the end of {self._location.device}")
            if not mtd.is_bad(block):
                yield block

    def _replace(self, mtd: EnvMtd, block: int, piece: bytes) -> None:
        """Replace the start of a block."""
        behind = mtd.read(block, mtd.block_bytes - len(piece), len(piece)) if len(piece) < mtd.block_bytes else b""
        content = piece + behind.rstrip(bytes([ERASED]))
        content = content.ljust(min(mtd.block_bytes, -(-len(content) // PAGE_BYTES_MAX) * PAGE_BYTES_MAX), b"\xff")
        with self._unlocked(mtd, block):
            mtd.erase(block)
            mtd.program(block, content, 0)
        if mtd.read(block, len(content), 0) != content:
            raise OSError(errno.EIO, "a block does not return what was written to it")

    @contextmanager
    def _unlocked(self, mtd: EnvMtd, block: int) -> Iterator[None]:
        """Unlock a block that the driver protects, and lock it again afterwards; with `nolock` do neither."""
        was_locked = not self._location.no_lock and mtd.unlock(block)
        try:
            yield
        finally:
            if was_locked:
                mtd.lock(block)


class UbiMedium:
    """One copy at the beginning of a UBI volume. Raises `OSError`."""

    def __init__(self, location: EnvLocation, open_volume: OpenVolume | None = None) -> None:
        self._location = location
        self._open_volume = open_volume or _open_kernel_volume

    def is_marked(self) -> bool:
        return False

    def read(self) -> bytes:
        """The copy; empty when an update of the volume was interrupted."""
        with closing(self._open_volume(self._location.device, write=False)) as volume:
            return self._read(volume)

    def write(self, raw: bytes) -> None:
        with closing(self._open_volume(self._location.device, write=True)) as volume:
            if volume.dynamic and len(raw) <= volume.leb_bytes and self._read(volume):
                volume.change(0, raw)
            else:
                volume.update(raw)

    def make_obsolete(self) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def _read(self, volume: EnvUbi) -> bytes:
        parts = []
        left = self._location.size
        try:
            for leb in range(volume.lebs):
                parts.append(volume.read(leb, min(left, volume.leb_bytes), 0))
                left -= len(parts[-1])
                if left <= 0:
                    break
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            return b""
        return b"".join(parts)


def _open_kernel_volume(path: Path, *, write: bool) -> KernelUbi:
    return KernelUbi(volume_path(path), write=write, allow_static=True)


def volume_path(path: Path, sysfs: Path = KernelUbi.SYSFS) -> Path:
    """Resolve `/dev/ubi0:env` to `/dev/ubi0_3` by the volume names in sysfs. Raises `FileNotFoundError`."""
    device, colon, wanted = path.name.partition(":")
    if not colon:
        return path
    for about in sorted(sysfs.glob(f"{device}_*")):
        if re.fullmatch(rf"{re.escape(device)}_\d+", about.name) and (about / "name").read_text().strip() == wanted:
            return path.with_name(about.name)
    raise FileNotFoundError(errno.ENOENT, f"{device} has no volume named {wanted}")
