"""Slots on raw flash: UBI volumes, and MTD partitions of NOR or NAND.

Flash is written in erase blocks. Both kinds of file collect what is written to one block, and write it as a whole when
the next block is begun or `sync` is called; what `write_image` skips is not erased either.

* **UBI**: a block is replaced by an atomic LEB change: after a power cut it has its old or its new content, never half
  of both. The volume must be a dynamic one. (A volume update, `ubiupdatevol`, would leave the whole volume unreadable.)
* **MTD**: a block is erased and written; a power cut in between leaves it erased, and when the installation continues
it
  differs and is written again. On NAND, bad blocks are skipped, as the boot loader does; a block that fails to be
  erased or written is marked bad, and the following blocks move up by one.
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from updateagent.disk import RawFile
from updateagent.errors import KERNEL_FEATURE, SLOT, DeviceError, storage_error
from updateagent.rawflash import ERASED, KernelMtd, KernelUbi, Mtd, UbiVolume
from updateagent.slots.block import Slot


class _BlockFile(RawFile):
    """A file that is changed one erase block at a time."""

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._open_block = -1
        self._content = bytearray()
        self._changed = False

    def pread(self, size: int, offset: int) -> bytes:
        size = max(0, min(size, self.size() - offset))
        parts = []
        while size > 0:
            block, inside = divmod(offset, self._block_bytes)
            length = min(size, self._block_bytes - inside)
            if block == self._open_block:
                parts.append(bytes(self._content[inside : inside + length]))
            else:
                parts.append(self._read(block, length, inside))
            offset += length
            size -= length
        return b"".join(parts)

    def pwrite(self, data: bytes | memoryview, offset: int) -> None:
        if offset + len(data) > self.size():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = memoryview(data)
        while view:
            block, inside = divmod(offset, self._block_bytes)
            length = min(len(view), self._block_bytes - inside)
            self._begin(block)
            self._content[inside : inside + length] = view[:length]
            self._changed = True
            view = view[length:]
            offset += length

    def sync(self) -> None:
        if self._changed:
            self._write(self._open_block, bytes(self._content))
            self._changed = False

    def truncate(self, size: int) -> None:  # noqa: ARG002  flash has the length it has
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def drop_cache(self) -> None:
        self._open_block = -1

    def _begin(self, block: int) -> None:
        if block != self._open_block:
            self.sync()
            self._content = bytearray(self._read(block, self._block_bytes, 0))
            self._open_block = block

    @abstractmethod
    def _read(self, block: int, size: int, inside: int) -> bytes: ...

    @abstractmethod
    def _write(self, block: int, content: bytes) -> None: ...


class UbiFile(_BlockFile):
    """A UBI volume as a file."""

    def __init__(self, volume: UbiVolume) -> None:
        super().__init__(volume.leb_bytes)
        self._volume = volume

    def size(self) -> int:
        return self._volume.lebs * self._volume.leb_bytes

    def close(self) -> None:
        self._volume.close()

    def _read(self, block: int, size: int, inside: int) -> bytes:
        return self._volume.read(block, size, inside)

    def _write(self, block: int, content: bytes) -> None:
        self._volume.change(block, content)


class MtdFile(_BlockFile):
    """The good blocks of an MTD partition as a file."""

    def __init__(self, mtd: Mtd) -> None:
        super().__init__(mtd.block_bytes)
        self._mtd = mtd
        self._good = [block for block in range(mtd.blocks) if not mtd.is_bad(block)]

    def size(self) -> int:
        return len(self._good) * self._mtd.block_bytes

    def close(self) -> None:
        self._mtd.close()

    def _read(self, block: int, size: int, inside: int) -> bytes:
        return self._mtd.read(self._good[block], size, inside)

    def _write(self, block: int, content: bytes) -> None:
        while block < len(self._good):
            physical = self._good[block]
            try:
                self._mtd.unlock(physical)
                self._mtd.erase(physical)
                # A block of all ones is erased already, and some NAND may be written only once after an erase.
                if content.strip(bytes([ERASED])):
                    self._mtd.write(physical, content)
                if self._mtd.read(physical, len(content), 0) == content:
                    return
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
            self._mtd.mark_bad(physical)
            del self._good[block]
        raise OSError(errno.ENOSPC, "no good block is left")


class _FlashSlot(Slot, ABC):
    """A slot whose file is made from an open device."""

    def open(self, *, write: bool = False) -> RawFile:
        try:
            return self._open(write=write)
        except FileNotFoundError:
            raise DeviceError(SLOT, f"slot {self.name}: there is no device {self.path}") from None
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP):
                raise DeviceError(KERNEL_FEATURE, f"slot {self.name}: {self.path} is not what its type says") from error
            raise storage_error(error, f"slot {self.name}, {self.path}") from error

    @abstractmethod
    def _open(self, *, write: bool) -> RawFile: ...


class UbiSlot(_FlashSlot):
    """A dynamic UBI volume, `/dev/ubi0_3`."""

    open_volume: Callable[[Path, bool], UbiVolume] = staticmethod(lambda path, write: KernelUbi(path, write=write))

    def _open(self, *, write: bool) -> RawFile:
        return UbiFile(self.open_volume(self.path, write))


class MtdSlot(_FlashSlot):
    """An MTD partition, `/dev/mtd4`."""

    open_mtd: Callable[[Path, bool], Mtd] = staticmethod(lambda path, write: KernelMtd(path, write=write))

    def _open(self, *, write: bool) -> RawFile:
        return MtdFile(self.open_mtd(self.path, write))
