"""Fuzz targets for what the Update Agent reads of the device itself: environments, settings, its own journal.

Success or `UpdateError`; and the fast path, which may leave a case to the whole program, but never
returns a wrong status and never raises.
"""

from __future__ import annotations

import json
import struct
import tempfile
import zlib
from pathlib import Path

from tests.fuzz.guided import Target
from tests.sim.faulty_disk import FaultyDisk
from tests.sim.flash import Chip
from tests.updateagent.slots.facts import Facts
from updateagent import fast_path
from updateagent.boot.bootcount import BootcountPolicy, MenderPolicy
from updateagent.boot.grub import Block, RaucGrubPolicy
from updateagent.boot.policy import BootEnv
from updateagent.boot.rauc import RaucPolicy
from updateagent.boot.uboot.env import EnvironmentStore, emit_copy, parse_data
from updateagent.boot.uboot.flash import MtdMedium
from updateagent.boot.uboot.fw_env import EnvLocation, read_config
from updateagent.engine.health import parse_health
from updateagent.engine.journal import Record, emit, parse
from updateagent.errors import UpdateError
from updateagent.handover import InstallRequest
from updateagent.slots.identity import identify_mount, parse_mountinfo, root_of

SIZE = 0x200
FLASH = Path("/env")
SLOTS = ("A", "B", "R")
VARIABLES = {"BOOT_ORDER": "A B R", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "0", "BOOT_R_LEFT": "9", "dcu_boots": "1f"}
HERE = "/updateagent/"


class Kept:
    """Variables without a medium."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = variables

    def load(self) -> Kept:
        return self

    def places(self) -> tuple[tuple[Path, int, int | None], ...]:
        return ()

    def commit(self, changes: object, *, settle: bool = False) -> bool:
        return True


def run_fw_env_config(data: bytes) -> None:
    for place in read_config(data.decode("utf-8", "replace")).copies:
        assert 0 < place.size <= place.range_bytes


def run_mountinfo(data: bytes) -> None:
    """Whatever is mounted, every mount has an identity, and the root is one of them."""
    mounts = parse_mountinfo(data.decode("utf-8", "surrogateescape"))
    facts = Facts()
    for mount in mounts:
        identify_mount(facts, mount, mounts)
    root = root_of(mounts)
    assert root is None or root in mounts


def with_checksum(data: bytes) -> bytes:
    """Whatever the bytes are, a checksum that fits: most of what is to be found lies behind it."""
    raw = data[:SIZE].ljust(SIZE, b"\0")
    return struct.pack("=I", zlib.crc32(raw[5:])) + raw[4:]


def run_environment(data: bytes) -> None:
    """Two copies: the first with a checksum that fits, the second as it is."""
    disk = FaultyDisk()
    disk.write_durable(FLASH, with_checksum(data[:SIZE]) + data[SIZE : 2 * SIZE].ljust(SIZE, b"\0"))
    store = EnvironmentStore(disk, (EnvLocation(FLASH, 0, SIZE), EnvLocation(FLASH, SIZE, SIZE)))
    store.commit({"BOOT_ORDER": "B A"}, settle=True)
    assert store.load().variables["BOOT_ORDER"] == "B A"


def run_marked(data: bytes) -> None:
    """The same on NOR flash, where flags are marks."""
    disk = FaultyDisk()
    Chip.create(disk, FLASH, with_checksum(data[:SIZE]) + with_checksum(data[SIZE:]), SIZE)
    chip = Chip(disk, FLASH, SIZE, is_nand=False)
    locations = (EnvLocation(FLASH, 0, SIZE), EnvLocation(FLASH, SIZE, SIZE))
    store = EnvironmentStore(disk, locations, medium=lambda _, one: MtdMedium(one, lambda path, *, write: chip))
    store.commit({"BOOT_ORDER": "B A"}, settle=True)
    assert store.load().variables["BOOT_ORDER"] == "B A"


def use(policy: BootEnv) -> None:
    policy.view()
    policy.check_shared("1f")
    policy.needs_mark("A")
    policy.has_fallback("A")
    policy.trial("B")
    policy.protect("B", "A")


def run_policies(data: bytes) -> None:
    """The first byte chooses the policy, the rest are its variables."""
    kept = Kept(parse_data(data[1:] + b"\0\0"))
    kinds = (RaucPolicy, RaucGrubPolicy, BootcountPolicy, MenderPolicy)
    kind = kinds[data[0] % len(kinds) if data else 0]
    use(kind(kept, SLOTS, 3, "R") if kind.has_recovery else kind(kept, SLOTS[:2], 3))


def variables_seeds() -> list[bytes]:
    text = b"".join(f"{name}={value}\0".encode() for name, value in VARIABLES.items())
    counted = b"boot_slot=B\0upgrade_available=1\0bootcount=1\0bootlimit=3\0dcu_trial=B\0dcu_boots=1f\0"
    grub = b"ORDER=A B R\0A_OK=1\0A_TRY=0\0B_OK=0\0R_OK=1\0dcu_boots=1f\0"
    mender = counted.replace(b"boot_slot=B", b"mender_boot_part=3")
    return [b"\0" + text, b"\1" + grub, b"\2" + counted, b"\3" + mender]


def run_grub(data: bytes) -> None:
    raw = data[:1024].ljust(1024, b"#")
    block = Block.parse(raw)
    assert Block.parse(block.emit()).variables == block.variables


def run_fast_path(data: bytes) -> None:
    """Settings, kernel command line, fw_env.config and environment, with a zero between them."""
    parts = [*data.split(b"\0", 3), b"", b"", b""]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in zip(("settings", "cmdline", "fw_env.config", "env"), parts, strict=False):
            (folder / file).write_bytes(content.replace(b"/here", name.encode()))
        (folder / "status.json").write_text(json.dumps({"booted": "A", "error": ""}))
        assert fast_path.answer(str(folder / "settings")) in (None, 0, 11)


def fast_path_seeds() -> list[bytes]:
    settings = (
        b'update_dir = "/here"\ncmdline = "/here/cmdline"\n[bootenv]\ntype = "uboot"\nconfig = "/here/fw_env.config"\n'
    )
    where = b"/here/env 0 0x200\n/here/env 0x200 0x200\n"
    env = emit_copy(VARIABLES, SIZE, 1) + emit_copy(VARIABLES, SIZE, 0)
    return [b"\0".join([settings, b"quiet rauc.slot=A dcu.boots=1f", where, env])]


def target(run: object, seeds: object, mutations: int = 2000) -> Target:
    assert callable(run)
    assert callable(seeds)
    return Target(run, seeds, (UpdateError,), HERE, mutations=mutations)


CONFIGS = [
    b"/dev/mtd1 0x0 0x4000 0x10000 2 1\n/dev/mtd2 0x0 0x4000 0x10000 2\n",
    b"/dev/mmcblk0 -0x8000 4000 # end\n",
    b"uboot:\n  size : 0x4000\n  lockfile : /run/l\n  devices:\n    - path : /dev/mtd0\n      offset : 0100\n"
    b"      sectorsize : 0x10000\n      disablelock : yes\n"
    b"    - path: '/dev/mtd1'\n  writelist:\n    - a:sw\nb:\n  size: 1\n",
]
MOUNTS = [
    b"27 1 254:2 / / ro,relatime shared:1 master:2 - ext4 /dev/root ro\n"
    b"28 27 0:40 /sub /a\\040b rw - ubifs ubi0:rootfs rw\n29 27 31:4 / /m rw - jffs2 mtd4 rw\n"
]

TARGETS = {
    "fw_env.config": target(run_fw_env_config, lambda: CONFIGS),
    "mountinfo": target(run_mountinfo, lambda: MOUNTS),
    "environment": target(run_environment, lambda: [emit_copy(VARIABLES, SIZE, 1) + emit_copy(VARIABLES, SIZE, 0)]),
    "marked": target(run_marked, lambda: [emit_copy(VARIABLES, SIZE, 1) + emit_copy(VARIABLES, SIZE, 0)], 600),
    "policies": target(run_policies, variables_seeds),
    "grub": target(run_grub, lambda: [Block({"ORDER": "A B", "odd": "x\\\ny"}, ("# a comment",)).emit()]),
    "fast path": target(run_fast_path, fast_path_seeds, 500),
    "journal": target(parse, lambda: [emit(Record(), 3)]),
    "request": target(InstallRequest.parse, lambda: [InstallRequest("r", "p", "c", 1.0).emit()]),
    "health": target(
        lambda data: parse_health(data, "b1"), lambda: [b'{"version":1,"boot":"b1","checks":{"a":{"ok":true}}}']
    ),
}
