"""Slots: where an image is written, and the only way in which it is written.

`write_image` takes the verified blocks of an image, and

* skips what is there already (each run is read first; only blocks that differ are written);
* syncs after at most `SYNC_BYTES`, and then tells the caller how far it has got, so that a power cut costs at most that
  much again.

`read_back` then checks what the device returns, with the page cache dropped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from updateagent.disk import RawFile, Storage
from updateagent.errors import (
    IMAGE_SIZE,
    READ_BACK,
    SLOT,
    DeviceError,
    PackageError,
    storage_error,
)

BLOCK_BYTES = 4096
SYNC_BYTES = 1 << 20  # at most this much is written again after a power cut


class Slot(ABC):
    """Where one image of a system is written. `name` is the boot loader's name of the slot."""

    def __init__(self, disk: Storage, name: str, path: Path, size: int | None) -> None:
        self._disk = disk
        self.name = name
        self.path = path
        self._size = size

    @abstractmethod
    def open(self, *, write: bool = False) -> RawFile:
        """Open the slot. Raises `DeviceError` (slot, storage)."""

    def capacity(self) -> int:
        """The maximum size of an image in bytes."""
        if self._size is not None:
            return self._size
        with self.open() as file:
            return file.size()


class FileSlot(Slot):
    """A regular file, for boards whose boot loader loads from a file system, and for tests. Created when missing."""

    def open(self, *, write: bool = False) -> RawFile:
        try:
            if write and not self._disk.exists(self.path):
                with self._disk.open_raw(self.path, write=True, create=True, mode=0o600) as file:
                    file.sync()
                self._disk.sync_dir(self.path.parent)
            return self._disk.open_raw(self.path, write=write)
        except OSError as error:
            raise storage_error(error, f"slot {self.name}, {self.path}") from error


class BlockSlot(Slot):
    """A block device or partition (eMMC, SD card, disk). Never created here."""

    def open(self, *, write: bool = False) -> RawFile:
        try:
            return self._disk.open_raw(self.path, write=write)
        except FileNotFoundError:
            raise DeviceError(SLOT, f"slot {self.name}: there is no device {self.path}") from None
        except OSError as error:
            raise storage_error(error, f"slot {self.name}, {self.path}") from error


@dataclass(slots=True)
class WriteCount:
    """How many bytes of a slot were written, and how many were there already."""

    written: int = 0
    unchanged: int = 0


def write_image(
    slot: Slot,
    size: int,
    runs: Iterable[bytes],
    start_block: int,
    checkpoint: Callable[[int], None],
    *,
    sync_bytes: int = SYNC_BYTES,
) -> WriteCount:
    """Write `runs`, the verified bytes of an image from block `start_block` on, to `slot`.

    `size` is that of the whole image in bytes. `checkpoint(block)` is called after each sync: all blocks before
    `block` are safe. Raises `DeviceError` (storage, storage-full, slot), or whatever `runs` raises; what was written
    until then stays.
    """
    if size > slot.capacity():
        raise PackageError(IMAGE_SIZE, f"the image has {size} bytes, slot {slot.name} holds {slot.capacity()}")
    count = WriteCount()
    position = start_block * BLOCK_BYTES
    synced = position
    with slot.open(write=True) as file:
        try:
            for run in runs:
                _write_changed(file, run, position, count)
                position += len(run)
                if position - synced >= sync_bytes:
                    # Even when nothing differed: what a killed run wrote may still be in the page cache only.
                    file.sync()
                    synced = position
                    checkpoint(position // BLOCK_BYTES)
            file.sync()
        except OSError as error:
            raise storage_error(error, f"slot {slot.name}") from error
    if position != size:
        raise DeviceError(SLOT, f"slot {slot.name}: the image ended at byte {position} of {size}")
    return count


def _write_changed(file: RawFile, run: bytes, offset: int, count: WriteCount) -> None:
    """Write those blocks of `run` that differ from what is there."""
    present = file.pread(len(run), offset)
    if present == run:
        count.unchanged += len(run)
        return
    written = 0
    view = memoryview(run)
    for begin, end in _different(run, present):
        file.pwrite(view[begin:end], offset + begin)
        written += end - begin
    count.written += written
    count.unchanged += len(run) - written


def _different(run: bytes, present: bytes) -> Iterable[tuple[int, int]]:
    """The stretches of whole blocks of `run` that differ from `present`, neighbours joined."""
    begin: int | None = None
    for at in range(0, len(run), BLOCK_BYTES):
        if run[at : at + BLOCK_BYTES] != present[at : at + BLOCK_BYTES]:
            if begin is None:
                begin = at
        elif begin is not None:
            yield begin, at
            begin = None
    if begin is not None:
        yield begin, len(run)


def read_back(slot: Slot, size: int, root: bytes, known: Callable[[int, bytes], bool] | None = None) -> None:
    """Check that the first `size` bytes of the slot, read from the medium, are the image.

    `known(run, data)` tells whether a run of 64 KiB is the verified one; without it the data is hashed and compared
    with the image's signed root. Raises `DeviceError` (read-back).
    """
    from updateagent.package.verity import pieces, root_of

    with slot.open() as file:
        file.drop_cache()
        try:
            if known is None:
                same = root_of(file, size) == root
            else:
                same = all(known(run, data) for run, data in enumerate(pieces(file, 0, size)))
        except OSError as error:
            raise storage_error(error, f"slot {slot.name}") from error
        except PackageError as error:
            raise DeviceError(READ_BACK, f"slot {slot.name}: {error.message}") from error
    if not same:
        raise DeviceError(READ_BACK, f"slot {slot.name} does not return what was written to it")
