"""The environment on raw flash: cut at every erase and program, at bytes and at bits; bad blocks; what does not fit."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sim.board.uboot import ENV_BYTES
from tests.sim.faulty_disk import FaultyDisk, PowerCut, Survival
from tests.sim.flash import Chip, Volume, erase_partly, program_partly
from tests.updateagent.board import Board
from tests.updateagent.boot.flashboards import (
    FLASH_BOARDS,
    LEB,
    NOR_BLOCK,
    FlashBoard,
    NandBoard,
    NandEnvironment,
    NorBoard,
    NorEnvironment,
    UbiBoard,
    UbiEnvironment,
)
from tests.updateagent.engine.power import Story, Trouble, explore, explore_errors, stories
from updateagent.boot.uboot.bytes import choose, parse_copy
from updateagent.boot.uboot.env import EnvironmentStore, emit_copy
from updateagent.boot.uboot.flash import MtdMedium, UbiMedium, volume_path
from updateagent.boot.uboot.fw_env import EnvLocation, parse_fw_env_config
from updateagent.boot.uboot.medium import FileMedium, medium_of
from updateagent.errors import ENVIRONMENT, ENVIRONMENT_WRITE, DeviceError

GOOD, UNHEALTHY = stories()[:2]
ROOT = Path("/board")
SIZE = 0x1000  # of a copy on the small chips
BLOCK = 0x1000
THROWS = 120
OLD = {"BOOT_ORDER": "A B", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "0", "FILLER": "x" * 900}
NEW = OLD | {"BOOT_ORDER": "B A", "BOOT_B_LEFT": "3"}
CHANGES: dict[str, str | None] = {"BOOT_ORDER": "B A", "BOOT_B_LEFT": "3"}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def board(kind: type[FlashBoard]) -> FlashBoard:
    made = kind(ROOT)
    made.disk.mkdir_durable(ROOT)
    made.assemble()
    return made


@pytest.mark.parametrize("kind", FLASH_BOARDS)
@pytest.mark.parametrize("story", [GOOD, UNHEALTHY], ids=lambda story: story.name)
def test_an_update_survives_cuts_and_errors_at_every_operation(kind: type[Board], story: Story) -> None:
    played = replace(story, make_board=kind)
    for tally in (
        explore(
            played, phases=("torn", "after"), survivals=(Survival.LOST, Survival.HOLED), stride=5, double_stride=60
        ),
        explore_errors(played, troubles=(Trouble(errno.EIO, lasting=True),), stride=5),
    ):
        assert tally.violations == []
        assert (tally.fired, tally.double_fired) == (tally.planned, tally.double_planned)
        assert tally.fired > 0


class ForgetsTheMark(NorBoard):
    """Leaves two copies that count."""

    class Medium(MtdMedium):
        def make_obsolete(self) -> None:
            return

    def medium(self, location: EnvLocation) -> MtdMedium:
        return self.Medium(location, lambda path, *, write: self.environment.chip())  # type: ignore[attr-defined]


class WritesTheCopyInForce(NorBoard):
    def store(self) -> EnvironmentStore:
        first, _ = self.env_locations()
        return EnvironmentStore(self.disk, (first, first), medium=lambda _, location: self.medium(location))


@pytest.mark.parametrize("kind", [ForgetsTheMark, WritesTheCopyInForce])
def test_a_planted_bug_is_found(kind: type[Board]) -> None:
    story = replace(GOOD, make_board=kind)
    world = story.begin()
    with pytest.raises(AssertionError):
        world.play()
        tally = explore(story, phases=("torn",), survivals=(Survival.LOST,))
        assert tally.violations == []


# -- a small NOR chip, cut at every byte and in bytes


def nor_store(disk: FaultyDisk, block: int = BLOCK) -> EnvironmentStore:
    chip = Chip(disk, Path("/mtd0"), block, is_nand=False)
    locations = (EnvLocation(Path("/mtd0"), 0, SIZE), EnvLocation(Path("/mtd0"), max(SIZE, block), SIZE))
    return EnvironmentStore(disk, locations, medium=lambda _, one: MtdMedium(one, lambda path, *, write: chip))


def nor(first: bytes, second: bytes) -> FaultyDisk:
    disk = FaultyDisk()
    Chip.create(disk, Path("/mtd0"), first + second, BLOCK)
    disk.operations = 0
    return disk


def flags(disk: FaultyDisk) -> tuple[int, int]:
    raw = disk.read_bytes(Path("/mtd0"))
    return raw[4], raw[SIZE + 4]


def test_a_commit_marks_the_new_copy_and_then_the_old_one() -> None:
    disk = nor(emit_copy(OLD, SIZE, 1), b"\xff" * SIZE)
    store = nor_store(disk)
    kinds: list[str] = []
    disk.on_operation = lambda operation: kinds.append(operation.kind)

    assert store.commit(CHANGES) is True
    assert kinds == ["erase", "program", "program"]
    assert flags(disk) == (0, 1)
    assert store.load().variables == NEW
    assert store.commit({"x": "1"}, settle=True) is True
    assert flags(disk) == (0, 1)
    copies = [parse_copy(disk.read_bytes(Path("/mtd0"))[at : at + SIZE], redundant=True) for at in (0, SIZE)]
    assert copies[0] is not None
    assert copies[1] is not None
    assert copies[0][1] == copies[1][1]


@pytest.mark.parametrize("active", [0, 1])
@pytest.mark.parametrize("settle", [False, True])
def test_a_commit_cut_anywhere_leaves_the_old_or_the_new_environment(active: int, settle: bool) -> None:
    copies = [emit_copy(OLD, SIZE, 1), emit_copy({**OLD, "BOOT_ORDER": "stale"}, SIZE, 0)]
    seen = {"old": 0, "new": 0}
    for number in range(1, 4 + 3 * settle):
        for throw in range(THROWS):
            disk = nor(*(copies if active == 0 else copies[::-1]))
            disk.random.seed(throw)
            disk.on_operation = lambda operation, number=number: 0.5 if operation.number == number else None
            with pytest.raises(PowerCut):
                nor_store(disk).commit(CHANGES, settle=settle)
            found = disk.after_power_cut(Survival.LOST, disk.random)
            variables = nor_store(found).load().variables
            assert variables in (OLD, NEW), (number, throw)
            seen["old" if variables == OLD else "new"] += 1
            nor_store(found).commit(CHANGES, settle=settle)
            assert nor_store(found).load().variables == NEW
    assert min(seen.values()) > THROWS // 4


def test_an_erase_or_program_cut_at_any_byte_leaves_the_other_copy_in_force() -> None:
    stale, fresh = emit_copy({"x": "stale"}, SIZE, 0), emit_copy(NEW, SIZE, 1)
    blank = b"\xff" * SIZE
    for cut in range(SIZE):
        for torn in (blank[:cut] + stale[cut:], stale[:cut] + blank[cut:], fresh[:cut] + blank[cut:]):
            chosen = choose(
                [parse_copy(torn, redundant=True), parse_copy(emit_copy(OLD, SIZE, 1), redundant=True)], marked=True
            )
            assert chosen == 1, cut


def test_whatever_bits_of_the_old_mark_are_cleared_one_of_two_whole_copies_counts() -> None:
    for old_mark in (1, 0xFF):
        for bits in range(256):
            torn = emit_copy(OLD, SIZE, old_mark & bits)
            disk = nor(torn, emit_copy(NEW, SIZE, 1))
            assert nor_store(disk).load().variables in (OLD, NEW)
            nor_store(disk).commit({"BOOT_ORDER": "again"})
            assert nor_store(disk).load().variables["BOOT_ORDER"] == "again"


@pytest.mark.parametrize(
    ("first", "second", "counts"), [(1, 0, "0"), (0, 1, "1"), (1, 1, "0"), (255, 1, "0"), (1, 255, "1"), (255, 0, "0")]
)
def test_of_two_marked_copies_the_one_counts_that_libubootenv_takes(first: int, second: int, counts: str) -> None:
    disk = nor(emit_copy({"copy": "0"}, SIZE, first), emit_copy({"copy": "1"}, SIZE, second))
    assert nor_store(disk).load().variables == {"copy": counts}


def test_what_lies_behind_the_copy_in_its_block_is_kept() -> None:
    disk = FaultyDisk()
    behind = b"calibration".ljust(SIZE, b"\xff")
    Chip.create(disk, Path("/mtd0"), emit_copy(OLD, SIZE, 1) + behind + emit_copy(OLD, SIZE, 0) + behind, 2 * BLOCK)
    for order in ("B", "A", "B"):
        nor_store(disk, 2 * BLOCK).commit({"BOOT_ORDER": order})
    raw = disk.read_bytes(Path("/mtd0"))
    assert raw[SIZE : 2 * SIZE] == raw[3 * SIZE : 4 * SIZE] == behind


def test_a_block_that_was_locked_is_locked_again() -> None:
    disk = nor(emit_copy(OLD, SIZE, 1), emit_copy(OLD, SIZE, 0))
    chip = Chip(disk, Path("/mtd0"), BLOCK, is_nand=False)
    chip.locked = {0, 1}
    locations = (EnvLocation(Path("/mtd0"), 0, SIZE), EnvLocation(Path("/mtd0"), SIZE, SIZE))
    store = EnvironmentStore(disk, locations, medium=lambda _, one: MtdMedium(one, lambda path, *, write: chip))
    store.commit(CHANGES)
    assert chip.locked == {0, 1}


class Unlockable(Chip):
    """A driver that does not let blocks be unlocked and locked."""

    def unlock(self, block: int) -> bool:
        raise OSError(errno.EIO, f"block {block} cannot be unlocked")


@pytest.mark.parametrize("no_lock", [False, True])
def test_with_nolock_blocks_are_written_without_unlocking_them(*, no_lock: bool) -> None:
    disk = nor(emit_copy(OLD, SIZE, 1), emit_copy(OLD, SIZE, 0))
    chip = Unlockable(disk, Path("/mtd0"), BLOCK, is_nand=False)
    text = "".join(f"/mtd0 {at:#x} {SIZE:#x} {BLOCK:#x} 1 {int(no_lock)}\n" for at in (0, SIZE))
    locations = parse_fw_env_config(text)
    store = EnvironmentStore(disk, locations, medium=lambda _, one: MtdMedium(one, lambda path, *, write: chip))

    if no_lock:
        assert store.commit({"a": "new"})
        assert store.load().variables["a"] == "new"
    else:
        with pytest.raises(DeviceError, match="cannot be unlocked"):
            store.commit({"a": "new"})


@pytest.mark.parametrize(
    "location",
    [
        EnvLocation(Path("/mtd0"), 0x10, SIZE),
        EnvLocation(Path("/mtd0"), -SIZE, SIZE),
        EnvLocation(Path("/mtd0"), SIZE, 2 * SIZE),
        EnvLocation(Path("/mtd0"), 0, SIZE, 0x1800),
    ],
    ids=["not at a block", "from the end", "beyond the end", "sectors that do not fit"],
)
def test_a_location_that_does_not_fit_the_flash_is_an_error_with_a_number(location: EnvLocation) -> None:
    disk = nor(emit_copy(OLD, SIZE, 1), b"\xff" * SIZE)
    chip = Chip(disk, Path("/mtd0"), BLOCK, is_nand=False)
    store = EnvironmentStore(disk, (location,), medium=lambda _, one: MtdMedium(one, lambda path, *, write: chip))
    with pytest.raises(DeviceError) as caught:
        store.load()
    assert caught.value.code is ENVIRONMENT


def test_copies_on_different_kinds_of_flash_are_an_error_with_a_number() -> None:
    disk = nor(emit_copy(OLD, SIZE, 1), emit_copy(OLD, SIZE, 0))
    media = iter(
        [
            MtdMedium(
                EnvLocation(Path("/mtd0"), 0, SIZE), lambda path, *, write: Chip(disk, path, BLOCK, is_nand=False)
            ),
            None,
        ]
    )
    locations = (EnvLocation(Path("/mtd0"), 0, SIZE), EnvLocation(Path("/mtd0"), SIZE, SIZE))
    store = EnvironmentStore(disk, locations, medium=lambda one, location: next(media) or FileMedium(one, location))
    with pytest.raises(DeviceError, match="different kinds") as caught:
        store.load()
    assert caught.value.code is ENVIRONMENT


# -- NAND


def test_bad_blocks_of_nand_are_passed_over_as_the_boot_loader_does() -> None:
    made = board(NandBoard)
    made.store().commit(CHANGES)
    assert made.environment.load()[2]["BOOT_ORDER"] == "B A"
    made.environment.save(made.environment.load()[2] | {"BOOT_ORDER": "A"})
    assert made.store().load().variables["BOOT_ORDER"] == "A"


def test_a_block_that_fails_is_marked_bad_but_never_the_last_one() -> None:
    made = board(NandBoard)
    environment = made.environment
    assert isinstance(environment, NandEnvironment)
    chip = Chip(environment.faulty, environment.flash, ENV_BYTES, is_nand=True, failing={3, 4, 5})
    locations = made.env_locations()
    store = EnvironmentStore(made.disk, locations, medium=lambda _, one: MtdMedium(one, lambda path, *, write: chip))

    with pytest.raises(DeviceError) as caught:
        store.commit(CHANGES)
    assert caught.value.code is ENVIRONMENT_WRITE
    assert [block for block in range(6) if chip.is_bad(block)] == [0, 3, 4]
    made.store().commit(CHANGES)  # the trouble has passed
    assert environment.load()[2]["BOOT_ORDER"] == "B A"
    assert environment.block(1) == 5


def test_a_range_without_a_good_block_is_a_copy_that_does_not_count() -> None:
    made = board(NandBoard)
    environment = made.environment
    assert isinstance(environment, NandEnvironment)
    for block in (3, 4, 5):
        environment.chip().mark_bad(block)

    assert made.store().load().variables["BOOT_ORDER"] == "A B"
    with pytest.raises(DeviceError, match="too few good blocks") as caught:
        made.store().commit(CHANGES)
    assert caught.value.code is ENVIRONMENT_WRITE


# -- UBI


def test_a_volume_whose_update_was_interrupted_does_not_count_and_is_made_whole_again() -> None:
    made = board(UbiBoard)
    environment = made.environment
    assert isinstance(environment, UbiEnvironment)
    environment.faulty.on_operation = lambda _: 0.5
    with pytest.raises(PowerCut):
        environment.save({"BOOT_ORDER": "lost"})
    environment.faulty.on_operation = None
    assert environment.read(1) == b""

    assert made.store().load().variables["BOOT_ORDER"] == "A B"
    made.store().commit(CHANGES)
    assert environment.load()[:1] == (1,)
    assert environment.load()[2]["BOOT_ORDER"] == "B A"


def test_a_single_copy_in_a_dynamic_volume_survives_a_cut() -> None:
    for tear in (0.5, 1.0):
        made = board(UbiBoard)
        faulty = made.faulty
        (first, _) = made.env_locations()
        Volume.create(faulty, first.device, emit_copy(OLD, ENV_BYTES, None).ljust(2 * LEB, b"\xff"))

        def store(disk: FaultyDisk, location: EnvLocation = first) -> EnvironmentStore:
            return EnvironmentStore(
                disk,
                (location,),
                medium=lambda _, one: UbiMedium(one, lambda path, *, write: Volume(disk, path, LEB)),
            )

        faulty.on_operation = lambda _, tear=tear: tear
        with pytest.raises(PowerCut):
            store(faulty).commit(CHANGES)
        found = faulty.after_power_cut(Survival.LOST, faulty.random)
        assert store(found).load().variables == (OLD if tear < 1 else NEW)


def test_a_static_volume_is_updated_whole() -> None:
    made = board(UbiBoard)
    faulty = made.faulty

    def static(path: Path, *, write: bool) -> Volume:
        return Volume(faulty, path, LEB, dynamic=False)

    store = EnvironmentStore(
        faulty,
        made.env_locations(),
        medium=lambda _, one: UbiMedium(one, static),
    )
    store.commit(CHANGES)
    assert made.environment.load()[2]["BOOT_ORDER"] == "B A"


def test_a_volume_is_found_by_its_name(tmp_path: Path) -> None:
    for number, name in ((0, "env"), (1, "env-redund"), (10, "env2")):
        (tmp_path / f"ubi0_{number}").mkdir()
        (tmp_path / f"ubi0_{number}" / "name").write_text(f"{name}\n")

    assert volume_path(Path("/dev/ubi0:env2"), tmp_path) == Path("/dev/ubi0_10")
    assert volume_path(Path("/dev/ubi0_1"), tmp_path) == Path("/dev/ubi0_1")
    with pytest.raises(FileNotFoundError):
        volume_path(Path("/dev/ubi0:none"), tmp_path)


# -- which medium


@pytest.mark.parametrize(
    ("device", "kind"),
    [
        ("/dev/mtd1", MtdMedium),
        ("/dev/ubi0_1", UbiMedium),
        ("/dev/ubi0:env", UbiMedium),
        ("/dev/mtdblock1", FileMedium),
        ("/dev/mmcblk0", FileMedium),
        ("/boot/uboot.env", FileMedium),
    ],
)
def test_the_medium_follows_from_the_name_of_the_device(device: str, kind: type) -> None:
    assert type(medium_of(FaultyDisk(), EnvLocation(Path(device), 0, SIZE))) is kind


@pytest.mark.parametrize("device", ["/dev/mtd99", "/dev/ubi9_9", "/dev/ubi9:env"])
def test_flash_that_is_not_there_is_an_error_with_a_number(device: str) -> None:
    with pytest.raises(DeviceError) as caught:
        EnvironmentStore(FaultyDisk(), (EnvLocation(Path(device), 0, SIZE),)).load()
    assert caught.value.code is ENVIRONMENT


def test_the_models_tear() -> None:
    """A cut that does nothing, or everything, every time would prove nothing."""
    disk = FaultyDisk()
    old = os.urandom(BLOCK)
    erased = {erase_partly(old, disk.random) for _ in range(50)}
    written = {program_partly(b"\xff" * 64, old[:64], disk.random) for _ in range(50)}
    assert len(erased) > 20
    assert len(written) > 20
    assert NOR_BLOCK * NorEnvironment.PER_COPY == ENV_BYTES
