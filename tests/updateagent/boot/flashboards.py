"""Boards whose U-Boot environment is on raw flash: SPI NOR, NAND with bad blocks, UBI volumes.

The boot loader's side is written from what U-Boot does (env/sf.c, env/nand.c, env/ubi.c), on the models of `sim.flash`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

from tests.sim.board.uboot import ENV_BYTES, BootLoaderError, pack_copy
from tests.sim.faulty_disk import FaultyDisk
from tests.sim.flash import Chip, Volume
from tests.updateagent.board import Board, DiskEnvironment
from tests.updateagent.engine.power import Story, stories
from updateagent.boot.uboot.env import EnvironmentStore
from updateagent.boot.uboot.flash import MtdMedium, UbiMedium
from updateagent.boot.uboot.fw_env import EnvLocation
from updateagent.boot.uboot.medium import Medium
from updateagent.disk import Storage

NOR_BLOCK = 0x2000  # the environment takes two
NAND_BLOCK = 0x4000
LEB = 0x5000


class FlashEnvironment(DiskEnvironment):
    """U-Boot's two copies, `read` and `write` where they are. Flags are numbers; chosen as everywhere, on NOR too."""

    def save(self, variables: dict[str, str]) -> None:
        index, flag, _ = self.load()
        self.write(1 - index, pack_copy(variables, self.next_flag(flag)))

    def next_flag(self, flag: int) -> int:
        return (flag + 1) & 0xFF

    def write(self, index: int, raw: bytes) -> None:
        raise NotImplementedError

    @property
    def faulty(self) -> FaultyDisk:
        return cast("FaultyDisk", self._disk)


class NorEnvironment(FlashEnvironment):
    """A copy takes two erase blocks, something else is behind it; the old copy is marked obsolete."""

    PER_COPY = ENV_BYTES // NOR_BLOCK
    BEHIND = b"not the environment's"

    def create(self, variables: dict[str, str]) -> None:
        content = pack_copy(variables, 1) + pack_copy(variables, 0)
        Chip.create(self.faulty, self.flash, content + self.BEHIND.ljust(NOR_BLOCK, b"\xff"), NOR_BLOCK)

    def chip(self) -> Chip:
        return Chip(self.faulty, self.flash, NOR_BLOCK, is_nand=False)

    def read(self, index: int) -> bytes:
        chip = self.chip()
        first = index * self.PER_COPY
        return b"".join(chip.read(block, NOR_BLOCK, 0) for block in range(first, first + self.PER_COPY))

    def write(self, index: int, raw: bytes) -> None:
        chip = self.chip()
        for block in range(self.PER_COPY):
            chip.erase(index * self.PER_COPY + block)
        for block in range(self.PER_COPY):
            chip.write(index * self.PER_COPY + block, raw[block * NOR_BLOCK : (block + 1) * NOR_BLOCK])
        chip.program((1 - index) * self.PER_COPY, b"\0", 4)

    def next_flag(self, flag: int) -> int:
        return 1


class NandEnvironment(FlashEnvironment):
    """Each copy has a range of three blocks; the first copy's first one is bad."""

    RANGE = 3
    BAD = frozenset({0})

    def create(self, variables: dict[str, str]) -> None:
        blank = b"\xff" * NAND_BLOCK
        first, second = pack_copy(variables, 1), pack_copy(variables, 0)
        Chip.create(self.faulty, self.flash, blank + first + blank + second + 2 * blank, NAND_BLOCK, self.BAD)

    def chip(self) -> Chip:
        return Chip(self.faulty, self.flash, NAND_BLOCK, is_nand=True)

    def block(self, index: int) -> int | None:
        chip = self.chip()
        blocks = range(index * self.RANGE, (index + 1) * self.RANGE)
        return next((block for block in blocks if not chip.is_bad(block)), None)

    def read(self, index: int) -> bytes:
        block = self.block(index)
        return b"" if block is None else self.chip().read(block, ENV_BYTES, 0)

    def write(self, index: int, raw: bytes) -> None:
        block = self.block(index)
        if block is None:
            raise BootLoaderError("no good block is left for the environment")
        chip = self.chip()
        chip.erase(block)
        chip.write(block, raw)


class UbiEnvironment(FlashEnvironment):
    """Two volumes, which U-Boot changes by volume updates."""

    def create(self, variables: dict[str, str]) -> None:
        for index in (0, 1):
            content = pack_copy(variables, 1 - index).ljust(2 * LEB, b"\xff")
            Volume.create(self.faulty, self.volume_path(index), content)

    def volume_path(self, index: int) -> Path:
        return self.flash.with_name(f"ubi0_{index}")

    def read(self, index: int) -> bytes:
        try:
            return Volume(self.faulty, self.volume_path(index), LEB).read(0, ENV_BYTES, 0)
        except OSError:
            return b""

    def write(self, index: int, raw: bytes) -> None:
        Volume(self.faulty, self.volume_path(index), LEB).update(raw)


class FlashBoard(Board):
    """A board whose environment is on flash."""

    make: type[FlashEnvironment]

    def __init__(self, folder: Path, disk: Storage | None = None) -> None:
        super().__init__(folder, disk or FaultyDisk())
        self.environment = self.make(self.disk, folder / "mtd0")

    @property
    def faulty(self) -> FaultyDisk:
        return cast("FaultyDisk", self.disk)

    def store(self) -> EnvironmentStore:
        return EnvironmentStore(self.disk, self.env_locations(), medium=lambda _, location: self.medium(location))

    def env_locations(self) -> tuple[EnvLocation, EnvLocation]:
        raise NotImplementedError

    def medium(self, location: EnvLocation) -> Medium:
        raise NotImplementedError


class NorBoard(FlashBoard):
    make = NorEnvironment

    def env_locations(self) -> tuple[EnvLocation, EnvLocation]:
        flash = self.environment.flash
        return EnvLocation(flash, 0, ENV_BYTES, NOR_BLOCK, 2), EnvLocation(flash, ENV_BYTES, ENV_BYTES, NOR_BLOCK, 2)

    def medium(self, location: EnvLocation) -> Medium:
        return MtdMedium(location, lambda path, *, write: cast("NorEnvironment", self.environment).chip())


class NandBoard(FlashBoard):
    make = NandEnvironment

    def env_locations(self) -> tuple[EnvLocation, EnvLocation]:
        flash, size = self.environment.flash, NandEnvironment.RANGE * NAND_BLOCK
        return EnvLocation(flash, 0, ENV_BYTES, NAND_BLOCK, 3), EnvLocation(flash, size, ENV_BYTES, NAND_BLOCK, 3)

    def medium(self, location: EnvLocation) -> Medium:
        return MtdMedium(location, lambda path, *, write: cast("NandEnvironment", self.environment).chip())


class UbiBoard(FlashBoard):
    make = UbiEnvironment

    def env_locations(self) -> tuple[EnvLocation, EnvLocation]:
        environment = cast("UbiEnvironment", self.environment)
        return EnvLocation(environment.volume_path(0), 0, ENV_BYTES), EnvLocation(
            environment.volume_path(1), 0, ENV_BYTES
        )

    def medium(self, location: EnvLocation) -> Medium:
        return UbiMedium(location, lambda path, *, write: Volume(cast("FaultyDisk", self.disk), path, LEB))


FLASH_BOARDS = (NorBoard, NandBoard, UbiBoard)


def flash_stories() -> list[Story]:
    """An update that is good and one that is not, with the environment on each kind of flash."""
    return [
        replace(story, name=f"{story.name}, {kind.__name__}", make_board=kind)
        for kind in FLASH_BOARDS
        for story in stories()[:2]
    ]
