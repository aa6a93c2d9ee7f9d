"""What was written to the disk of a board, and what is left of it after a power cut.

QEMU's `blklogwrites` keeps every write and every flush of the guest in the format of Linux's dm-log-writes
(drivers/md/dm-log-writes.c), little-endian:

    super : u64 magic | u64 version 1 | u64 entries | u32 sector size, padded to a sector
    entry : u64 sector | u64 sectors | u64 flags | u64 length of data, padded to a sector | the sectors' data
    flags : 1 flush, 2 forced unit access, 4 discard (without data), 8 mark

The model of a power cut: what was written before the last flush is on the disk. Of what was written after it, every
write is there, or lost, or there in part (its first sectors), each for itself: a disk's cache keeps no order. This
includes what U-Boot writes, which does not flush.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tests.board.image.debian import run

MAGIC = 0x6A736677736872
SUPER = struct.Struct("<QQQI")
ENTRY = struct.Struct("<QQQQ")
FLUSH, FUA, DISCARD = 1, 2, 4
SECTOR = 512
SEEDS_TRIED = 1000
JOURNAL_COMMIT = struct.pack(">II", 0xC03B3998, 2)  # how a commit block of ext4's journal begins


@dataclass(frozen=True, slots=True)
class Write:
    """One entry. `at`, `size`: bytes on the disk; `data_at`: where its data is in the log."""

    at: int
    size: int
    flags: int
    data_at: int

    @property
    def is_flush(self) -> bool:
        return bool(self.flags & FLUSH)


def read(log: Path) -> list[Write]:
    """The entries of a log; an unfinished last one, of an emulator that was killed, is left out."""
    found = []
    length = log.stat().st_size
    with log.open("rb") as file:
        head = file.read(SUPER.size)
        if len(head) < SUPER.size:
            return []
        magic, version, _, sector = SUPER.unpack(head)
        if (magic, version) != (MAGIC, 1):
            raise ValueError(f"{log} is no log of writes")
        # The head's number of entries may be old when the emulator was killed: the entries speak for themselves.
        at = sector
        while at + sector <= length:
            file.seek(at)
            start, sectors, flags, _ = ENTRY.unpack(file.read(ENTRY.size))
            size = 0 if flags & DISCARD else sectors * sector
            if at + sector + size > length or (start, sectors, flags) == (0, 0, 0):
                break
            found.append(Write(start * sector, size, flags, at + sector))
            at += sector + size
    return found


@dataclass(frozen=True, slots=True)
class Cut:
    """A power cut: everything from entry `index` on never happened; `seed` decides about what was not flushed."""

    index: int
    seed: int


@dataclass(frozen=True, slots=True)
class Loss:
    """What a cut cost: writes that were not flushed, by what became of them."""

    kept: int
    torn: int
    lost: int


def survivors(writes: Sequence[Write], cut: Cut) -> tuple[list[tuple[Write, int]], Loss]:
    """(write, its bytes that are on the disk) in the order in which they were made, and what was lost."""
    before = writes[: cut.index]
    safe = max((number for number, write in enumerate(before) if write.is_flush), default=-1)
    chance = random.Random(cut.seed)
    left = [(write, write.size) for write in before[: safe + 1] if write.size]
    kept = torn = lost = 0
    for write in before[safe + 1 :]:
        fate = "kept" if write.flags & FUA else chance.choice(("kept", "torn", "lost"))
        size = write.size
        if fate == "torn":
            size = chance.randrange(write.size // SECTOR) * SECTOR if write.size else 0
        kept, torn, lost = kept + (fate == "kept"), torn + (fate == "torn"), lost + (fate == "lost")
        if size and fate != "lost":
            left.append((write, size))
    return left, Loss(kept, torn, lost)


def torn_commit(base: Path, log: Path, seed: int) -> Cut:
    """A cut in the middle of a commit block of ext4's journal: its first sectors are new, the others an older block's.

    Nothing else is lost. Raises `ValueError` when the log has no such block over an older one.
    """
    writes = read(log)
    with log.open("rb") as source, base.open("rb") as disk:
        found = [number for number in range(1, len(writes)) if _commits_over_another(writes, number, source, disk)]
    if not found:
        raise ValueError(f"{log} has no commit of a journal over an older block")
    index = random.Random(seed).choice(found) + 1
    for number in range(seed, seed + SEEDS_TRIED):
        left, loss = survivors(writes, Cut(index, number))
        if loss.torn and left[-1][0] is writes[index - 1] and left[-1][1] <= left[-1][0].size // 2:
            return Cut(index, number)
    raise ValueError(f"no seed from {seed} on tears write {index - 1}")


def _commits_over_another(writes: Sequence[Write], number: int, source: BinaryIO, disk: BinaryIO) -> bool:
    """Whether this write, the first after a flush, is a commit block, and its later sectors were in use before."""
    write = writes[number]
    if not writes[number - 1].is_flush or writes[number - 1].size or not write.size:
        return False
    source.seek(write.data_at)
    if source.read(len(JOURNAL_COMMIT)) != JOURNAL_COMMIT:
        return False
    disk.seek(write.at)
    old = bytearray(disk.read(write.size))
    for earlier in writes[:number]:
        begin, end = max(earlier.at, write.at), min(earlier.at + earlier.size, write.at + write.size)
        if begin < end:
            source.seek(earlier.data_at + begin - earlier.at)
            old[begin - write.at : end - write.at] = source.read(end - begin)
    return any(old[SECTOR:])


def apply_cut(base: Path, log: Path, cut: Cut, out: Path) -> Loss:
    """Make `out` the disk `base` with what is left of `log` after `cut`."""
    left, loss = survivors(read(log), cut)
    run("cp", "--sparse=always", base, out)
    with log.open("rb") as source, out.open("r+b") as disk:
        for write, size in left:
            source.seek(write.data_at)
            disk.seek(write.at)
            disk.write(source.read(size))
    return loss
