"""Raw flash through the kernel: MTD partitions (NOR, DataFlash, NAND) and UBI volumes.

Both slots and copies of the boot environment can be on raw flash. The protocols describe what they need of a partition
or a volume; the classes implement them with the kernel, and tests have models.

The numbers of the ioctls are those of include/uapi/mtd/{ubi-user,mtd-abi}.h of Linux.
"""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import Protocol

from updateagent.errors import SLOT, DeviceError

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
        """Replace a logical erase block, atomically and durably."""

    def close(self) -> None: ...


class Mtd(Protocol):
    """An MTD partition. `blocks` physical erase blocks of `block_bytes`. All raise `OSError`."""

    block_bytes: int
    blocks: int

    def is_bad(self, block: int) -> bool: ...

    def mark_bad(self, block: int) -> None: ...

    def unlock(self, block: int) -> bool:
        """Make a block writable that was protected; returns whether it was."""

    def erase(self, block: int) -> None: ...

    def read(self, block: int, size: int, offset: int) -> bytes: ...

    def write(self, block: int, data: bytes) -> None:
        """Write an erased block from its start."""

    def close(self) -> None: ...


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
        """Replace the content of the volume. A power cut leaves it unreadable (EBADF) until the next update."""
        import fcntl

        fcntl.ioctl(self._fd, UBI_IOCVOLUP, struct.pack("=q", len(data)))
        self._write_all(data)

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def close(self) -> None:
        fd, self._fd = self._fd, -1  # first: the number is free after close also when it fails
        if fd >= 0:
            os.close(fd)


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
        """The result of an ioctl that not all flash supports; 0 when this one does not."""
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
        fd, self._fd = self._fd, -1  # first: the number is free after close also when it fails
        if fd >= 0:
            os.close(fd)
