"""Slots on raw flash: UBI volumes, and MTD partitions of NOR or NAND.

Flash is written in erase blocks. Both kinds of file here collect what is written to one block and write it whole when
the next block is begun or `sync` is called; what `slots.write_image` leaves alone is then not erased either.

* **UBI**: a block is replaced by an atomic LEB change: after a power cut it has its old or its new content, never half
  of both. The volume must be a dynamic one. (A volume update, `ubiupdatevol`, would leave the whole volume unreadable.)
* **MTD**: a block is erased and written; a power cut in between leaves it erased, and the install that goes on sees
  that it differs and writes it again. On NAND, bad blocks are passed over, as the boot loader does; a block that fails
  while it is erased or written is marked bad, and the blocks behind it move up by one.

Numbers of ioctls: include/uapi/mtd/{ubi-user,mtd-abi}.h of Linux.
"""

from __future__ import annotations

import errno
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from updateagent.disk import RawFile
from updateagent.errors import KERNEL_FEATURE, SLOT, DeviceError
from updateagent.slots.block import Slot, storage_error

UBI_IOCEBCH = 0x40044F02
UBI_IOCVOLUP = 0x40084F00
UBI_DATA_UNKNOWN = 3  # how long the data will live; ignored by every kernel of this century
LEB_CHANGE = struct.Struct("=iib7x")

MEMGETINFO = 0x80204D01
MEMERASE = 0x40084D02
MEMLOCK = 0x40084D05
MEMUNLOCK = 0x40084D06
MEMISLOCKED = 0x80084D17
MEMGETBADBLOCK = 0x40084D0B
MEMSETBADBLOCK = 0x40084D0C
MTD_INFO = struct.Struct("=B3xIIIIIQ")  # type, flags, size, erase size, write size, oob size
MTD_NAND = (4, 8)  # SLC, MLC
MTD_TYPES = (1, 3, 6, *MTD_NAND)  # RAM (the kernel's mtdram), NOR, DataFlash
ERASED = 0xFF


class UbiVolume(Protocol):
    """A UBI volume. All raise `OSError`."""

    leb_bytes: int
    lebs: int

    def read(self, leb: int, size: int, offset: int) -> bytes: ...

    def change(self, leb: int, data: bytes) -> None:
        """Replace a logical erase block, atomically and for good."""

    def close(self) -> None: ...


class Mtd(Protocol):
    """An MTD partition. `blocks` physical erase blocks of `block_bytes`. All raise `OSError`."""

    block_bytes: int
    blocks: int

    def is_bad(self, block: int) -> bool: ...

    def mark_bad(self, block: int) -> None: ...

    def erase(self, block: int) -> None: ...

    def read(self, block: int, size: int, offset: int) -> bytes: ...

    def write(self, block: int, data: bytes) -> None:
        """Write an erased block from its start."""

    def close(self) -> None: ...


class _BlockFile(RawFile):
    """A file that is changed a block at a time."""

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
                self._mtd.erase(physical)
                # What is to be all ones is that already; some NAND may be written only once after an erase.
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


class KernelUbi:
    """A UBI volume of the kernel."""

    SYSFS = Path("/sys/class/ubi")

    def __init__(self, path: Path, *, write: bool, allow_static: bool = False) -> None:
        about = self.SYSFS / path.name
        self.dynamic = (about / "type").read_text().strip() == "dynamic"
        if not self.dynamic and not allow_static:
            raise DeviceError(SLOT, f"{path} is a static volume; a slot must be a dynamic one")
        self.leb_bytes = int((about / "usable_eb_size").read_text())
        self.lebs = int((about / "reserved_ebs").read_text())
        self._fd = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)

    def read(self, leb: int, size: int, offset: int) -> bytes:
        data = b""
        while len(data) < size:
            part = os.pread(self._fd, size - len(data), leb * self.leb_bytes + offset + len(data))
            if not part:
                break
            data += part
        return data

    def change(self, leb: int, data: bytes) -> None:
        import fcntl

        fcntl.ioctl(self._fd, UBI_IOCEBCH, LEB_CHANGE.pack(leb, len(data), UBI_DATA_UNKNOWN))
        self._write_all(data)

    def update(self, data: bytes) -> None:
        """Give the volume a new content. A power cut leaves it unreadable (EBADF) until the next update."""
        import fcntl

        fcntl.ioctl(self._fd, UBI_IOCVOLUP, struct.pack("=q", len(data)))
        self._write_all(data)

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class KernelMtd:
    """An MTD partition of the kernel."""

    def __init__(self, path: Path, *, write: bool) -> None:
        import fcntl

        self._ioctl = fcntl.ioctl
        self._fd = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            info = self._ioctl(self._fd, MEMGETINFO, bytes(MTD_INFO.size))
        except OSError:
            self.close()
            raise
        kind, _, size, self.block_bytes, *_ = MTD_INFO.unpack(info)
        if kind not in MTD_TYPES:
            self.close()
            raise DeviceError(SLOT, f"{path} is no flash that can be written")
        self.is_nand = kind in MTD_NAND
        self.blocks = size // self.block_bytes

    def is_bad(self, block: int) -> bool:
        if not self.is_nand:
            return False
        where = bytearray(struct.pack("=q", block * self.block_bytes))
        answer: int = self._ioctl(self._fd, MEMGETBADBLOCK, where)  # the result, because the argument is mutable
        return answer > 0

    def mark_bad(self, block: int) -> None:
        if not self.is_nand:
            raise OSError(errno.EIO, "a block of NOR flash has failed")
        self._ioctl(self._fd, MEMSETBADBLOCK, struct.pack("=q", block * self.block_bytes))

    def erase(self, block: int) -> None:
        self.unlock(block)
        self._ioctl(self._fd, MEMERASE, self._where(block))

    def unlock(self, block: int) -> bool:
        """Make a block of NOR flash writable; returns whether it was locked."""
        if self.is_nand:
            return False
        was_locked = self._if_known(MEMISLOCKED, block) > 0
        self._if_known(MEMUNLOCK, block)
        return was_locked

    def lock(self, block: int) -> None:
        """Protect a block that `unlock` found locked."""
        self._ioctl(self._fd, MEMLOCK, self._where(block))

    def _where(self, block: int) -> bytearray:
        return bytearray(struct.pack("=II", block * self.block_bytes, self.block_bytes))

    def _if_known(self, request: int, block: int) -> int:
        """The answer to a request that not all flash knows; 0 when this one does not."""
        try:
            answer: int = self._ioctl(self._fd, request, self._where(block))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY):
                raise
            return 0
        return answer

    def read(self, block: int, size: int, offset: int) -> bytes:
        data = b""
        while len(data) < size:
            part = os.pread(self._fd, size - len(data), block * self.block_bytes + offset + len(data))
            if not part:
                break
            data += part
        return data

    def write(self, block: int, data: bytes) -> None:
        self.program(block, data, 0)

    def program(self, block: int, data: bytes, inside: int) -> None:
        """Clear bits, without an erase. NAND takes whole pages only, and each of them once."""
        offset = block * self.block_bytes + inside
        view = memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, offset)
            view = view[done:]
            offset += done

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
