"""Raw flash below a `FaultyDisk`: MTD partitions of NOR and NAND, and UBI volumes, durable at once and torn by cuts.

The rules of flash are enforced: programming only clears bits, a page of NAND is programmed once after an erase, a bad
block is neither erased nor programmed. Each erase, program and volume update is an operation of the disk. One that is
cut inside leaves

* an erase: some of the block erased: its beginning, its end, some sectors, or some bits everywhere;
* a program: the bytes before some byte, and in that byte some of the bits;
* a volume update: a volume that cannot be read (EBADF) until it is updated again; a LEB change: the old content.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Set as AbstractSet
from pathlib import Path
from random import Random

from tests.sim.faulty_disk import SECTOR_BYTES, FaultyDisk, Node, PowerCut

ERASED = 0xFF
PAGE_BYTES = 2048


def erase_partly(old: bytes, random: Random) -> bytes:
    """A block whose erase was cut."""
    new = bytearray(old)
    at = random.randrange(len(old) + 1)
    way = random.randrange(4)
    if way == 0:
        new[:at] = bytes([ERASED]) * at
    elif way == 1:
        new[at:] = bytes([ERASED]) * (len(old) - at)
    elif way == 2:
        for sector in range(0, len(old), SECTOR_BYTES):
            if random.random() < 0.5:
                new[sector : sector + SECTOR_BYTES] = bytes([ERASED]) * len(new[sector : sector + SECTOR_BYTES])
    else:
        for index in range(len(old)):
            new[index] |= random.getrandbits(8)
    return bytes(new)


def program(old: bytes, data: bytes) -> bytes:
    """Flash after programming: a bit that is 0 stays 0."""
    return bytes(before & after for before, after in zip(old, data, strict=True))


def program_partly(old: bytes, data: bytes, random: Random) -> bytes:
    """Flash after programming that was cut inside a byte."""
    whole = program(old, data)
    at = random.randrange(len(data))
    byte = whole[at] | (old[at] & random.getrandbits(8))
    return whole[:at] + bytes([byte]) + old[at + 1 :]


class Chip:
    """An MTD partition at `path` of the disk: its bytes, then one byte per block, 1 for a bad one.

    It implements `updateagent.boot.uboot.flash.EnvMtd`. `failing` blocks give an error when they are programmed.
    """

    def __init__(
        self, disk: FaultyDisk, path: Path, block_bytes: int, *, is_nand: bool, failing: AbstractSet[int] = frozenset()
    ) -> None:
        self._disk = disk
        self._path = path
        self.block_bytes = block_bytes
        self.is_nand = is_nand
        self.blocks = len(self._node.durable) // (block_bytes + 1)
        self._failing = failing
        self.locked: set[int] = set()

    @classmethod
    def create(
        cls, disk: FaultyDisk, path: Path, content: bytes, block_bytes: int, bad: AbstractSet[int] = frozenset()
    ) -> None:
        """A partition as it leaves the factory."""
        blocks = len(content) // block_bytes
        assert len(content) == blocks * block_bytes
        disk.write_durable(path, content + bytes(int(block in bad) for block in range(blocks)))

    def is_bad(self, block: int) -> bool:
        return bool(self._node.durable[self.blocks * self.block_bytes + block])

    def mark_bad(self, block: int) -> None:
        self._change(self.blocks * self.block_bytes + block, b"\1")

    def unlock(self, block: int) -> bool:
        was_locked = block in self.locked
        self.locked.discard(block)
        return was_locked

    def lock(self, block: int) -> None:
        self.locked.add(block)

    def read(self, block: int, size: int, offset: int) -> bytes:
        self._disk._alive()
        at = block * self.block_bytes + offset
        return self._node.durable[at : at + size]

    def erase(self, block: int) -> None:
        self._check(block)
        tear = self._disk._operation("erase", self._path, self.block_bytes)
        old = self.read(block, self.block_bytes, 0)
        blank = bytes([ERASED]) * self.block_bytes
        torn = tear is not None and tear < 1
        self._change(block * self.block_bytes, erase_partly(old, self._disk.random) if torn else blank)
        if tear is not None:
            raise PowerCut

    def write(self, block: int, data: bytes) -> None:
        self.program(block, data, 0)

    def program(self, block: int, data: bytes, inside: int) -> None:
        self._check(block)
        assert inside + len(data) <= self.block_bytes
        old = self.read(block, len(data), inside)
        if self.is_nand:
            assert inside % PAGE_BYTES == len(data) % PAGE_BYTES == 0, "NAND takes whole pages"
            assert not old.strip(bytes([ERASED])), "programmed twice without an erase"
        tear = self._disk._operation("program", self._path, len(data))
        torn = tear is not None and tear < 1
        new = program_partly(old, data, self._disk.random) if torn else program(old, data)
        self._change(block * self.block_bytes + inside, new)
        if tear is not None:
            raise PowerCut
        if block in self._failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def close(self) -> None:
        """Does nothing: flash is durable at once."""

    @property
    def _node(self) -> Node:
        node = self._disk._names[self._path]
        assert isinstance(node, Node)
        return node

    def _check(self, block: int) -> None:
        assert block not in self.locked, "a locked block"
        assert not self.is_bad(block), "a bad block"

    def _change(self, at: int, data: bytes) -> None:
        node = self._node
        node.change((at, data))
        node.sync()


class Volume:
    """A UBI volume at `path` of the disk: 1 when it can be read, then its bytes.
    `updateagent.boot.uboot.flash.EnvUbi`.
    """

    def __init__(self, disk: FaultyDisk, path: Path, leb_bytes: int, *, dynamic: bool = True) -> None:
        self._disk = disk
        self._path = path
        self.leb_bytes = leb_bytes
        self.dynamic = dynamic
        self.lebs = len(disk.read_bytes(path)) // leb_bytes

    @classmethod
    def create(cls, disk: FaultyDisk, path: Path, content: bytes) -> None:
        """A volume with that content, which is a whole number of its blocks."""
        disk.write_durable(path, b"\1" + content)

    def read(self, leb: int, size: int, offset: int) -> bytes:
        raw = self._disk.read_bytes(self._path)
        if raw[0] != 1:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        at = 1 + leb * self.leb_bytes + offset
        return raw[at : at + size]

    def change(self, leb: int, data: bytes) -> None:
        assert self.dynamic
        assert len(data) <= self.leb_bytes
        self._replace(1 + leb * self.leb_bytes, data.ljust(self.leb_bytes, b"\xff"), torn=None)

    def update(self, data: bytes) -> None:
        whole = data.ljust(self.lebs * self.leb_bytes, b"\xff")
        self._replace(0, b"\1" + whole, torn=b"\0" + whole[: self.leb_bytes // 2])

    def close(self) -> None:
        """Does nothing: flash is durable at once."""

    def _replace(self, at: int, data: bytes, torn: bytes | None) -> None:
        node = self._disk._names[self._path]
        assert isinstance(node, Node)
        tear = self._disk._operation("volume", self._path, len(data))
        if tear is None or tear >= 1:
            node.change((at, data))
        elif torn is not None:
            node.change((at, torn))
        node.sync()
        if tear is not None:
            raise PowerCut
