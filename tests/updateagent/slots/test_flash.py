"""Slots on raw flash, over models of UBI and of NAND with blocks that go bad; the ioctls themselves need a board."""

from __future__ import annotations

import errno
import os
from collections.abc import Set as AbstractSet
from pathlib import Path
from random import Random

import pytest

from tests.sim.faulty_disk import FaultyDisk, PowerCut
from updateagent.errors import KERNEL_FEATURE, SLOT, STORAGE, STORAGE_FULL, Code, DeviceError
from updateagent.package.verity import build
from updateagent.rawflash import LEB_CHANGE, MTD_INFO
from updateagent.slots.block import BLOCK_BYTES, read_back, write_image
from updateagent.slots.flash import MtdFile, MtdSlot, UbiFile, UbiSlot
from updateagent.slots.types import slot_type

ERASE_BLOCK = 3 * BLOCK_BYTES  # no power of two, as in UBI
BLOCKS = 8
IMAGE = b"".join(bytes([65 + number]) * BLOCK_BYTES for number in range(16))
ROOT = build([IMAGE])[0]


class Ubi:
    """A volume whose LEB change is atomic. `cut_after` changes, the power goes."""

    leb_bytes = ERASE_BLOCK
    lebs = BLOCKS

    def __init__(self) -> None:
        self.content = [b"\xff" * ERASE_BLOCK for _ in range(BLOCKS)]
        self.changes = 0
        self.cut_after = -1

    def read(self, leb: int, size: int, offset: int) -> bytes:
        return self.content[leb][offset : offset + size]

    def change(self, leb: int, data: bytes) -> None:
        if self.changes == self.cut_after:
            raise PowerCut
        assert len(data) == ERASE_BLOCK
        self.changes += 1
        self.content[leb] = data

    def close(self) -> None:
        """Stays as it is."""


class Nand:
    """NAND whose rules are enforced: a block is written once after an erase; some blocks fail when they are used."""

    block_bytes = ERASE_BLOCK
    blocks = BLOCKS + 2

    def __init__(self, bad: AbstractSet[int] = frozenset(), failing: AbstractSet[int] = frozenset()) -> None:
        self.content = [bytearray(b"\xff" * ERASE_BLOCK) for _ in range(self.blocks)]
        self.bad = set(bad)
        self.failing = set(failing)
        self.written: set[int] = set()
        self.erases = 0
        self.cut_after = -1
        self.operations = 0

    def is_bad(self, block: int) -> bool:
        return block in self.bad

    def mark_bad(self, block: int) -> None:
        self.bad.add(block)

    def unlock(self, block: int) -> bool:
        return False

    def erase(self, block: int) -> None:
        assert block not in self.bad
        self._step(block)
        self.erases += 1
        self.content[block][:] = b"\xff" * ERASE_BLOCK
        self.written.discard(block)

    def write(self, block: int, data: bytes) -> None:
        assert block not in self.bad
        assert block not in self.written, "written twice without an erase"
        self._step(block)
        self.written.add(block)
        if block in self.failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.content[block][:] = data

    def read(self, block: int, size: int, offset: int) -> bytes:
        return bytes(self.content[block][offset : offset + size])

    def close(self) -> None:
        """Stays as it is."""

    def _step(self, block: int) -> None:
        if self.operations == self.cut_after:
            for at in range(0, ERASE_BLOCK, 512):  # half done
                if Random(block + at).random() < 0.5:
                    self.content[block][at : at + 512] = b"\xff" * 512
            raise PowerCut
        self.operations += 1


def ubi_slot(volume: Ubi) -> UbiSlot:
    slot = UbiSlot(FaultyDisk(), "B", Path("/dev/ubi0_1"), None)
    slot.open_volume = lambda path, write: volume
    return slot


def mtd_slot(nand: Nand) -> MtdSlot:
    slot = MtdSlot(FaultyDisk(), "B", Path("/dev/mtd1"), None)
    slot.open_mtd = lambda path, write: nand
    return slot


def install(slot: UbiSlot | MtdSlot) -> int:
    runs = (IMAGE[at : at + 4 * BLOCK_BYTES] for at in range(0, len(IMAGE), 4 * BLOCK_BYTES))
    count = write_image(slot, len(IMAGE), runs, 0, lambda _: None, sync_bytes=4 * BLOCK_BYTES)
    read_back(slot, len(IMAGE), ROOT)
    return count.written


def test_an_image_goes_to_a_ubi_volume_and_a_second_time_nothing_is_changed() -> None:
    volume = Ubi()
    assert install(ubi_slot(volume)) == len(IMAGE)
    before = volume.changes
    assert install(ubi_slot(volume)) == 0
    assert volume.changes == before


def test_a_power_cut_at_any_leb_change_is_made_good_by_installing_again() -> None:
    whole = Ubi()
    install(ubi_slot(whole))
    for number in range(whole.changes):
        volume = Ubi()
        volume.cut_after = number
        with pytest.raises(PowerCut):
            install(ubi_slot(volume))
        volume.cut_after = -1
        install(ubi_slot(volume))
        assert volume.content == whole.content


def test_an_image_goes_around_the_bad_blocks_of_nand() -> None:
    nand = Nand(bad={1, 4})
    install(mtd_slot(nand))

    good = [bytes(nand.content[block]) for block in range(nand.blocks) if block not in nand.bad]
    assert b"".join(good)[: len(IMAGE)] == IMAGE
    assert install(mtd_slot(nand)) == 0


def test_a_block_that_fails_is_marked_bad_and_passed_over() -> None:
    nand = Nand(bad={1}, failing={3})
    install(mtd_slot(nand))

    assert nand.bad == {1, 3}
    good = [bytes(nand.content[block]) for block in range(nand.blocks) if block not in nand.bad]
    assert b"".join(good)[: len(IMAGE)] == IMAGE


def test_too_many_failing_blocks_leave_no_room() -> None:
    nand = Nand(failing=set(range(2, 10)))
    with pytest.raises(DeviceError) as caught:
        install(mtd_slot(nand))
    assert caught.value.code is STORAGE_FULL


def test_a_power_cut_at_any_erase_or_write_of_nand_is_made_good_by_installing_again() -> None:
    whole = Nand(bad={1})
    install(mtd_slot(whole))
    for number in range(whole.operations):
        nand = Nand(bad={1})
        nand.cut_after = number
        with pytest.raises(PowerCut):
            install(mtd_slot(nand))
        nand.cut_after = -1
        install(mtd_slot(nand))


def test_only_blocks_that_differ_are_erased() -> None:
    nand = Nand()
    install(mtd_slot(nand))
    nand.erases = 0
    nand.content[2][5] ^= 1
    assert install(mtd_slot(nand)) == BLOCK_BYTES
    assert nand.erases == 1


def test_reads_and_writes_over_the_border_of_blocks_see_each_other() -> None:
    file = UbiFile(Ubi())
    file.pwrite(b"border", ERASE_BLOCK - 3)
    assert file.pread(10, ERASE_BLOCK - 5) == b"\xff\xffborder\xff\xff"
    file.sync()
    assert file.pread(6, ERASE_BLOCK - 3) == b"border"
    assert file.pread(100, file.size() - 4) == b"\xff" * 4
    with pytest.raises(OSError, match="No space left"):
        file.pwrite(b"x", file.size())


def test_the_size_of_nand_is_that_of_its_good_blocks() -> None:
    assert MtdFile(Nand(bad={0, 9})).size() == BLOCKS * ERASE_BLOCK


def test_structures_have_the_sizes_of_the_kernel() -> None:
    assert (LEB_CHANGE.size, MTD_INFO.size) == (16, 32)


@pytest.mark.parametrize(("name", "code"), [("file", STORAGE), ("block", SLOT), ("ubi", SLOT), ("mtd", SLOT)])
def test_a_device_that_is_not_there_is_an_error_with_a_number(tmp_path: Path, name: str, code: Code) -> None:
    with pytest.raises(DeviceError) as caught:
        slot_type(name)(FaultyDisk(), "B", tmp_path / "none", None).open()
    assert caught.value.code is code


def test_a_file_is_no_mtd_device(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(DeviceError) as caught:
        MtdSlot(FaultyDisk(), "B", tmp_path / "file", None).open()
    assert caught.value.code is KERNEL_FEATURE
