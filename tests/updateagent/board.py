"""A board for the tests of the Update Agent: slots and environment on files, a boot loader, packages without crypto.

The boot loader is the simulated board's (`tests.sim.board.uboot`), written from the format alone. Packages here are
values: what signed packages are is the business of the tests of `manifest`.
"""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.sim.board.uboot import (
    ENV_BYTES,
    ENV_OFFSETS,
    HEADER,
    BootLoaderError,
    Choice,
    Environment,
    choose,
    pack_copy,
)
from updateagent.boot.policy import BootEnv, Variables
from updateagent.boot.rauc import RaucPolicy
from updateagent.boot.uboot.env import EnvironmentStore
from updateagent.boot.uboot.fw_env import EnvLocation
from updateagent.disk import RealDisk, Storage
from updateagent.engine.by_hand import ByHand
from updateagent.engine.deps import EngineDeps, Image, Package
from updateagent.engine.journal import Journal, Record
from updateagent.engine.mailbox import Mailbox
from updateagent.engine.migration import StateFolders
from updateagent.engine.updater import Updater
from updateagent.errors import PACKAGE_MISSING, PackageError
from updateagent.handover import InstallRequest
from updateagent.package.verity import BLOCK_BYTES, RUN_BYTES, build
from updateagent.slots.block import FileSlot, Slot

SLOT_BYTES = 8 * BLOCK_BYTES
TRIES = 3
IDENTITY = b"urn:dcu:7 and its key"  # on the data partition, as everything that no update may touch
FILLER = "x" * 472
"""Puts the end of the environment's first sector between BOOT_B_LEFT and BOOT_ORDER: a torn copy mixes old and new."""


def content(version: str, blocks: int = 6) -> bytes:
    """The image of a version: blocks that differ from each other and between versions, but for one."""
    return b"".join(
        (f"{'same' if index == 1 else version} {index} ".encode() * BLOCK_BYTES)[:BLOCK_BYTES]
        for index in range(blocks)
    )


@dataclass(frozen=True)
class PlainImage:
    name: str
    data: bytes
    run_blocks: int = 2

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def root(self) -> bytes:
        return build([self.data])[0]

    def blocks(self, start_block: int) -> Iterator[bytes]:
        step = self.run_blocks * BLOCK_BYTES
        for at in range(start_block * BLOCK_BYTES, self.size, step):
            yield self.data[at : at + step]

    def known(self) -> Callable[[int, bytes], bool] | None:
        return lambda run, data: self.data[run * RUN_BYTES : (run + 1) * RUN_BYTES] == data


@dataclass(frozen=True)
class PlainPackage:
    version: str
    security_version: int = 1
    signed_time: int = 1_800_000_000
    images: tuple[Image, ...] = ()
    new_roots: bytes | None = None
    hooks: tuple[str, ...] = ()

    def run_hook(self, step: str, variables: Mapping[str, str]) -> None:
        """There are none."""


@dataclass
class Shelf:
    """The packages that can be verified, by version; the file in the inbox holds the version's name."""

    disk: Storage
    packages: dict[str, Package | PackageError] = field(default_factory=dict)
    verified: int = 0
    floors: list[int] = field(default_factory=list)
    """The lowest security version that was asked for, each time a package was accepted or written."""

    def verify(self, path: Path, record: Record, target: str, fallback: str) -> Package:
        try:
            version = self.disk.read_bytes(path).decode()
        except FileNotFoundError:
            raise PackageError(PACKAGE_MISSING, f"there is no package {path.name}") from None
        self.verified += 1
        self.floors.append(record.security_floor)
        found = self.packages[version]
        if isinstance(found, PackageError):
            raise found
        return self.with_disk(found)

    def with_disk(self, package: Package) -> Package:
        """The package, able to work on this board's disk."""
        return package

    def keep_roots(self, envelope: bytes) -> None:
        raise AssertionError("no package here brings roots")


def plain_package(version: str, **changes: Any) -> PlainPackage:
    return PlainPackage(version, images=(PlainImage("rootfs", content(version)),), **changes)


def _unpack(raw: bytes) -> tuple[int, dict[str, str]] | None:
    """Flag and variables of one copy: `unpack_copy`, quick enough for some ten thousand boots."""
    if len(raw) != ENV_BYTES:
        return None
    crc, flag = HEADER.unpack_from(raw)
    data = raw[HEADER.size :]
    if zlib.crc32(data) != crc:
        return None
    entries = data[: data.index(b"\0\0")].decode().split("\0")
    return flag, dict(entry.split("=", 1) for entry in entries)


class DiskEnvironment(Environment):
    """The boot loader's view of the environment on a disk that may fail."""

    def __init__(self, disk: Storage, flash: Path) -> None:
        super().__init__(flash)
        self._disk = disk

    def read(self, index: int) -> bytes:
        """One copy; not whole where it cannot be read."""
        return self._disk.read_bytes(self.flash)[ENV_OFFSETS[index] :][:ENV_BYTES]

    def load(self) -> tuple[int, int, dict[str, str]]:
        copies = [_unpack(self.read(index)) for index in (0, 1)]
        good = {index: copy for index, copy in enumerate(copies) if copy is not None}
        if not good:
            raise BootLoaderError("both copies of the environment are bad")
        # 255 is followed by 0; otherwise the higher flag is the newer one.
        ages = {index: copy[0] for index, copy in good.items()}
        wrapped = set(ages.values()) == {0, 255}
        index = max(good, key=lambda one: ((ages[one] == 0) if wrapped else ages[one], -one))
        return index, *good[index]

    def save(self, variables: dict[str, str]) -> None:
        index, flag, _ = self.load()
        with self._disk.open_raw(self.flash, write=True) as file:
            file.pwrite(pack_copy(variables, (flag + 1) & 0xFF), ENV_OFFSETS[1 - index])
            file.sync()

    def create(self, variables: dict[str, str]) -> None:
        self._disk.write_durable(self.flash, pack_copy(variables, 1) + pack_copy(variables, 0))


class WatchedMailbox(Mailbox):
    """An agent that waits for the result takes it the moment it is handed over."""

    def __init__(self, disk: Storage, folder: Path, agent: Callable[[], None] | None) -> None:
        super().__init__(disk, folder)
        self._agent = agent

    def publish(self) -> bool:
        done = super().publish()
        if done and self._agent is not None:
            self._agent()
        return done


class Board:
    """The board between two power cuts: `power_on` runs the boot loader, `updater` the Update Agent's parts."""

    def __init__(self, folder: Path, disk: Storage | None = None) -> None:
        self.disk = disk or RealDisk()
        self.folder = folder
        self.update_dir = folder / "update"
        self.identity = folder / "device.key"
        self.environment = DiskEnvironment(self.disk, folder / "uboot.env")
        self.shelf = Shelf(self.disk)
        self.booted = "A"
        self.boot_id = "factory"
        self.canary: str | None = None
        self.wall = 1_800_000_000.0
        self.log_lines: tuple[str, ...] = ()
        self.agent: Callable[[], None] | None = None

    def assemble(self) -> None:
        """Factory state: version 1 in slot A, nothing in slot B."""
        self.disk.mkdir_durable(self.update_dir / "inbox")
        self.disk.write_durable(self.identity, IDENTITY)
        self.disk.write_durable(self.slot_file("A"), content("1").ljust(SLOT_BYTES, b"\xff"))
        self.disk.write_durable(self.slot_file("B"), b"\xff" * SLOT_BYTES)
        self.make_environment()

    def slot_file(self, name: str) -> Path:
        return self.folder / f"slot-{name.lower()}.img"

    def power_on(self) -> Choice:
        choice = self.start_boot_loader()
        self.booted = choice.slot
        self.canary = choice.boots
        self.boot_id = str(uuid.uuid4())
        return choice

    def start_boot_loader(self) -> Choice:
        return choose(self.environment)

    def make_environment(self) -> None:
        """The factory's environment."""
        self.environment.create({"BOOT_ORDER": "A B", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "0", "BOARD": FILLER})

    def running_version(self) -> str:
        """What the bytes of the slot that runs are; a board that booted anything else is a brick."""
        data = self.disk.read_bytes(self.slot_file(self.booted))
        for version in "123456789":
            image = content(version)
            if data[: len(image)] == image:
                return version
        raise AssertionError(f"slot {self.booted} was started and holds no known image")

    def partitions(self) -> dict[str, dict[str, Slot]]:
        return {name: {"rootfs": FileSlot(self.disk, name, self.slot_file(name), SLOT_BYTES)} for name in ("A", "B")}

    def env_locations(self) -> tuple[EnvLocation, ...]:
        return tuple(EnvLocation(self.environment.flash, offset, ENV_BYTES) for offset in ENV_OFFSETS)

    def store(self) -> EnvironmentStore:
        return EnvironmentStore(self.disk, self.env_locations())

    def open_variables(self) -> Variables:
        return self.store()

    def bootenv(self) -> BootEnv:
        return RaucPolicy(self.open_variables(), ("A", "B"), TRIES)

    def mailbox(self) -> Mailbox:
        return WatchedMailbox(self.disk, self.update_dir, self.agent)

    def deps(self) -> EngineDeps:
        return EngineDeps(
            journal=Journal(self.disk, self.update_dir),
            bootenv=self.bootenv(),
            partitions=self.partitions(),
            mailbox=self.mailbox(),
            packages=self.shelf,
            booted=self.booted,
            boot_id=self.boot_id,
            booted_version=self.running_version(),
            wall=lambda: self.wall,
            log_tail=lambda: self.log_lines,
            state_folders=lambda folders: StateFolders(self.disk, folders),
            canary=self.canary,
            sync_bytes=2 * BLOCK_BYTES,
            checkpoint_bytes=2 * BLOCK_BYTES,
        )

    def updater(self) -> Updater:
        return Updater(self.deps())

    def by_hand(self) -> ByHand:
        return ByHand(self.deps())

    def variables(self) -> dict[str, str]:
        return self.environment.load()[2]

    # -- the agent's side

    def start_agent(self) -> None:
        """What the agent does with its state when it starts. Raises `AssertionError` when it is not its own."""
        kept = self.disk.read_bytes(self.identity)
        assert kept == IDENTITY, "what is kept over updates was changed"

    def check_at_rest(self) -> None:
        """What must hold of the agent's files when the story has ended."""
        self.start_agent()

    def hand_over(self, version: str, request_id: str = "r1", package: Package | PackageError | None = None) -> None:
        self.shelf.packages[version] = package or plain_package(version)
        self.disk.write_durable(self.update_dir / "inbox" / "package.swu", version.encode())
        request = InstallRequest(request_id, "package.swu", f"correlator-{request_id}", self.wall)
        self.disk.write_durable(self.update_dir / "inbox" / "request.json", request.emit())

    def result(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self.disk.read_bytes(self.update_dir / "outbox" / "result.json"))
        except FileNotFoundError:
            return None
        return found
