"""Writing a slot: only what differs, synced often, read back."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.sim.faulty_disk import FaultyDisk, Operation
from updateagent.errors import (
    IMAGE_SIZE,
    READ_BACK,
    SLOT,
    STORAGE,
    STORAGE_FULL,
    Code,
    DeviceError,
    PackageError,
)
from updateagent.package.payload import IntegrityTags
from updateagent.package.verity import RUN_BYTES, build
from updateagent.slots.block import BLOCK_BYTES, BlockSlot, FileSlot, Slot, read_back, write_image

PATH = Path("/slot")
IMAGE = b"".join(bytes([number]) * BLOCK_BYTES for number in range(1, 9))
ROOT = build([IMAGE])[0]


def runs(image: bytes, start_block: int = 0, blocks: int = 2) -> Iterator[bytes]:
    for at in range(start_block * BLOCK_BYTES, len(image), blocks * BLOCK_BYTES):
        yield image[at : at + blocks * BLOCK_BYTES]


def noted(image: bytes) -> Callable[[int, bytes], bool]:
    """What a process that has verified this image knows of it."""
    tags = IntegrityTags()
    for run, at in enumerate(range(0, len(image), RUN_BYTES)):
        tags.note("rootfs", run, image[at : at + RUN_BYTES])
    return partial(tags.knows, "rootfs")


def slot_with(content: bytes) -> tuple[FaultyDisk, Slot]:
    disk = FaultyDisk()
    disk.write_durable(PATH, content)
    disk.sync_all()
    disk.operations = 0
    return disk, FileSlot(disk, "B", PATH, 16 * BLOCK_BYTES)


def test_an_image_is_written_whole_and_read_back() -> None:
    disk, slot = slot_with(b"\xff" * 16 * BLOCK_BYTES)

    count = write_image(slot, len(IMAGE), runs(IMAGE), 0, lambda _: None)

    assert count.written == len(IMAGE)
    assert disk.read_bytes(PATH)[: len(IMAGE)] == IMAGE
    read_back(slot, len(IMAGE), ROOT)


def test_what_is_there_already_is_not_written_again() -> None:
    disk, slot = slot_with(IMAGE)
    writes: list[Operation] = []
    disk.on_operation = lambda operation: writes.append(operation) if operation.kind == "write" else None

    count = write_image(slot, len(IMAGE), runs(IMAGE), 0, lambda _: None)

    assert (count.written, count.unchanged, writes) == (0, len(IMAGE), [])


def test_of_a_run_only_the_blocks_that_differ_are_written_neighbours_in_one_write() -> None:
    old = bytearray(IMAGE)
    for block in (1, 2, 5):
        old[block * BLOCK_BYTES] ^= 1
    disk, slot = slot_with(bytes(old))
    writes: list[int] = []
    disk.on_operation = lambda operation: writes.append(operation.size) if operation.kind == "write" else None

    count = write_image(slot, len(IMAGE), runs(IMAGE, blocks=8), 0, lambda _: None)

    assert writes == [2 * BLOCK_BYTES, BLOCK_BYTES]
    assert count.written == 3 * BLOCK_BYTES
    assert disk.read_bytes(PATH) == IMAGE


def test_a_checkpoint_is_told_only_after_a_sync() -> None:
    disk, slot = slot_with(b"\xff" * len(IMAGE))
    told: list[tuple[str, int]] = []
    disk.on_operation = lambda operation: told.append((operation.kind, operation.size))

    write_image(
        slot, len(IMAGE), runs(IMAGE), 0, lambda block: told.append(("checkpoint", block)), sync_bytes=4 * BLOCK_BYTES
    )

    size = 2 * BLOCK_BYTES
    once = [("write", size), ("write", size), ("sync", 0)]
    assert told == [*once, ("checkpoint", 4), *once, ("checkpoint", 8), ("sync", 0)]


def test_an_install_goes_on_at_a_checkpoint() -> None:
    _, slot = slot_with(IMAGE[: 4 * BLOCK_BYTES].ljust(len(IMAGE), b"\xff"))

    count = write_image(slot, len(IMAGE), runs(IMAGE, start_block=4), 4, lambda _: None)

    assert count.written == 4 * BLOCK_BYTES
    read_back(slot, len(IMAGE), ROOT)


def test_an_image_that_does_not_fit_is_refused_before_anything_is_written() -> None:
    disk, slot = slot_with(b"\xff" * BLOCK_BYTES)
    with pytest.raises(PackageError) as caught:
        write_image(slot, 17 * BLOCK_BYTES, runs(bytes(17 * BLOCK_BYTES)), 0, lambda _: None)
    assert caught.value.code is IMAGE_SIZE
    assert disk.operations == 0


def test_an_image_that_ends_early_is_an_error() -> None:
    _, slot = slot_with(b"")
    with pytest.raises(DeviceError) as caught:
        write_image(slot, len(IMAGE) + BLOCK_BYTES, runs(IMAGE), 0, lambda _: None)
    assert caught.value.code is SLOT


@pytest.mark.parametrize(("error", "code"), [(errno.EIO, STORAGE), (errno.ENOSPC, STORAGE_FULL)])
def test_errors_of_the_system_get_a_number(error: int, code: Code) -> None:
    disk, slot = slot_with(b"")

    def fail(operation: Operation) -> None:
        raise OSError(error, os.strerror(error))

    disk.on_operation = fail
    with pytest.raises(DeviceError) as caught:
        write_image(slot, len(IMAGE), runs(IMAGE), 0, lambda _: None)
    assert caught.value.code is code


def test_reading_back_something_else_is_noticed() -> None:
    changed = bytearray(IMAGE)
    changed[-1] ^= 1
    _, slot = slot_with(bytes(changed))
    for size in (len(IMAGE), len(IMAGE) + 1):
        for known in (None, noted(IMAGE)):
            with pytest.raises(DeviceError) as caught:
                read_back(slot, size, ROOT, known)
            assert caught.value.code is READ_BACK


def test_reading_back_by_what_was_verified_looks_at_every_run() -> None:
    image = random.Random(7).randbytes(3 * RUN_BYTES + BLOCK_BYTES)
    _, slot = slot_with(image)
    read_back(slot, len(image), ROOT, noted(image))
    for at in range(0, len(image), RUN_BYTES):
        other = bytearray(image)
        other[at] ^= 1
        with pytest.raises(DeviceError):
            read_back(slot, len(image), ROOT, noted(bytes(other)))


def test_a_file_slot_is_made_when_missing_and_a_device_is_not() -> None:
    disk = FaultyDisk()
    with FileSlot(disk, "B", PATH, 100).open(write=True) as file:
        assert file.size() == 0
    with pytest.raises(DeviceError) as caught:
        BlockSlot(disk, "B", Path("/dev/none"), None).open(write=True)
    assert caught.value.code is SLOT


def test_a_device_says_itself_how_much_it_holds() -> None:
    disk, _ = slot_with(bytes(12345))

    assert BlockSlot(disk, "B", PATH, None).capacity() == 12345
    assert BlockSlot(disk, "B", PATH, 100).capacity() == 100
