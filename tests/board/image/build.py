"""Build the board: `python -m tests.board.image.build [FOLDER]`.

Two stages, each kept in `build/board` under a key made of its inputs: the base system from Debian's packages, and the
images with this repository's programs in them. What is there with the right key is not built again.

    disk: MBR | two copies of the environment at 1 MiB | 1 FAT: scripts, initrd | 2 slot A | 3 slot B | 4 data
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.board.image import debian
from tests.board.image.debian import BoardError, Kernel, run
from tests.board.image.system import Defect, SystemVersion, install_programs, set_version
from tests.demo.image import BUILT_AT
from tests.sim.board.uboot import pack_copy
from updateagent.boot.uboot.env import emit_copy

REPO = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
GUEST = HERE.parent / "guest"
CACHE = REPO / "build" / "board"

KEPT = 2  # builds of each stage; the one before may be in use by another run

MIB = 1 << 20
SECTOR = 512
ENV_AT = (1 * MIB, 1 * MIB + 0x10000)  # guest/environment.cmd, system.FW_ENV_CONFIG
BOOT_AT, BOOT_BYTES = 2 * MIB, 8 * MIB
SLOT_BYTES = 56 * MIB
SLOT_AT = {"A": 10 * MIB, "B": 10 * MIB + SLOT_BYTES}
DATA_AT = 10 * MIB + 2 * SLOT_BYTES
DATA_BYTES = 112 * MIB
DISK_BYTES = DATA_AT + DATA_BYTES
MEMORY_MIB = 128
WITHOUT = ("-display", "none", "-monitor", "none", "-nic", "none")
"""What the emulated machines lack."""
INITRD_AT = 0x43000000
INITRD_MODULES = ("virtio_mmio", "virtio_blk", "crc32c_generic", "ext4")
PACK_CPIO = "find . | LC_ALL=C sort | cpio --quiet --reproducible -o -H newc"
UUID = "6d1f3a52-0b43-4b44-9d3c-0c1e5a8f4b20"

FLASH_BYTES = 64 * MIB
FLASH_ENV_BYTES = 0x40000
FLASH_ENVIRONMENT = {
    # Straight to the script; the distribution's own search for something to boot takes some seconds more.
    "bootcmd": "virtio scan; load virtio 0:1 0x40200000 boot.scr && source 0x40200000",
    "bootdelay": "0",
    "kernel_addr_r": "0x40400000",
}
"""In the place and form in which this U-Boot keeps its own environment: one copy, 256 KiB, the start of NOR flash."""

VERSIONS = (
    SystemVersion("1"),
    SystemVersion("2"),
    SystemVersion("3", Defect.UNHEALTHY),
    SystemVersion("4", Defect.NO_UPDATE_AGENT),
)


@dataclass(frozen=True)
class BuiltBoard:
    """The files of a built board."""

    folder: Path

    @property
    def boot(self) -> Path:
        """The FAT partition."""
        return self.folder / "boot.fat"

    @property
    def kernel(self) -> Path:
        return self.folder / "zImage"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def nor_tree(self) -> Path:
        """The device tree of the machine with a NOR flash."""
        return self.folder / "nor.dtb"

    @property
    def nor_system(self) -> Path:
        """The whole system as an initial file system."""
        return self.folder / "nor.cpio.gz"

    @property
    def flash(self) -> Path:
        """The NOR flash that only U-Boot sees."""
        return self.folder / "flash.img"

    def image(self, version: str) -> Path:
        """The root file system of a version, exactly as long as a slot."""
        return self.folder / f"rootfs-{version}.ext4"


def build(cache: Path = CACHE, say: bool = True) -> BuiltBoard:
    """The board, built if need be. Raises `BoardError`."""
    why = debian.missing()
    if why:
        raise BoardError(why)
    found = debian.sources()
    base_key = _key([HERE / "debian.py"], found.codename)
    base = cache / f"debian-{base_key}"
    if not base.exists():
        _say(say, f"base system: packages of Debian {found.codename} for {debian.ARCHITECTURE}")
        _made(base, lambda work: _build_base(found, work))
    inputs = [
        path for folder in ("agent", "omadm", "dlms", "plc", "updateagent", "etc") for path in _files(REPO / folder)
    ]
    key = _key([*inputs, *_files(GUEST), HERE / "build.py", HERE / "system.py"], base_key)
    board = cache / f"board-{key}"
    if not board.exists():
        _say(say, "images: versions " + ", ".join(version.name for version in VERSIONS))
        _made(board, lambda work: _build_board(base, work))
        for kind in ("board", "debian"):
            newest = sorted(cache.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime)
            for old in newest[:-KEPT]:
                if old not in (board, base):
                    shutil.rmtree(old)
    return BuiltBoard(board)


def _say(wanted: bool, text: str) -> None:
    if wanted:
        print(text, file=sys.stderr, flush=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")


def _key(inputs: list[Path], more: str) -> str:
    digest = hashlib.sha256(more.encode())
    for path in inputs:
        digest.update(f"\0{path.relative_to(REPO)}\0{path.stat().st_mode & 0o111}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _made(target: Path, make: Callable[[Path], None]) -> None:
    """Make a folder that appears complete or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as name:
        work = Path(name) / "made"
        work.mkdir()
        make(work)
        work.rename(target)


def _build_base(found: debian.Sources, work: Path) -> None:
    root = work / "root"
    debian.unpack(found, root, work)
    kernel = debian.take_kernel(root, work / "kernel")
    debian.reduce(root)
    debian.finish(root)
    debian.compile_python(root)
    (work / "kernel" / "version").write_text(kernel.version)


def base_kernel(base: Path) -> Kernel:
    """The kernel of a base system."""
    kept = base / "kernel"
    return Kernel((kept / "version").read_text(), kept / "zImage", kept / debian.NOR_TREE)


def _build_board(base: Path, work: Path) -> None:
    kernel = base_kernel(base)
    root = work / "root"
    run("cp", "-a", base / "root", root)
    install_programs(root, REPO, GUEST)
    debian.compile_python(root)
    shutil.copyfile(kernel.image, work / "zImage")
    shutil.copyfile(kernel.nor_tree, work / "nor.dtb")
    _make_nor_system(root, work)
    _make_initrd(root, kernel, work)
    _make_boot(work)
    shutil.copyfile(kernel.image, root / "boot" / "zImage")
    run("qemu-system-arm", *machine(), "-M", f"dumpdtb={root / 'boot' / 'board.dtb'}")
    for version in VERSIONS:
        set_version(root, version)
        _make_file_system(root, work / f"rootfs-{version.name}.ext4", SLOT_BYTES, "^has_journal,^64bit,^metadata_csum")
    with (work / "flash.img").open("wb") as flash:
        flash.write(emit_copy(FLASH_ENVIRONMENT, FLASH_ENV_BYTES, None))
        flash.truncate(FLASH_BYTES)
    shutil.rmtree(root)


def machine() -> tuple[str, ...]:
    """The emulated machine. Its device tree does not depend on the devices that are added."""
    return ("-M", "virt,highmem=off", "-cpu", "cortex-a7", "-m", str(MEMORY_MIB), *WITHOUT)


def _make_file_system(root: Path, out: Path, size: int, features: str) -> None:
    out.write_bytes(b"")
    with out.open("r+b") as file:
        file.truncate(size)
    run(
        *(
            "mkfs.ext4",
            "-q",
            "-F",
            "-O",
            features,
            "-m",
            "0",
            "-b",
            "4096",
            "-I",
            "256",
            "-N",
            "6000",
            "-U",
            UUID,
            "-d",
            root,
        ),
        *("-E", f"hash_seed={UUID},lazy_itable_init=0", out),
        env={"E2FSPROGS_FAKE_TIME": str(BUILT_AT)},
    )


def _make_initrd(root: Path, kernel: Kernel, work: Path) -> None:
    tree = work / "initrd-tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "modules").mkdir()
    shutil.copy(root / "bin" / "busybox", tree / "bin" / "busybox")
    shutil.copy(GUEST / "init", tree / "init")
    (tree / "init").chmod(0o755)
    files = debian.module_files(root, kernel.version, INITRD_MODULES)
    for path in files:
        shutil.copy(path, tree / "modules" / path.name)
    (tree / "modules" / "order").write_text("".join(f"{path.name}\n" for path in files))
    run("sh", "-c", f"{PACK_CPIO} | gzip -9n > ../initrd", cwd=tree)
    shutil.rmtree(tree)


def _make_nor_system(root: Path, work: Path) -> None:
    """The whole system as an initial file system: what the machine with NOR flash has in place of a disk."""
    init = root / "init"
    shutil.copyfile(GUEST / "init-nor", init)
    init.chmod(0o755)
    run("sh", "-c", f"{PACK_CPIO} | gzip -1n > {work / 'nor.cpio.gz'}", cwd=root)
    init.unlink()


def _make_boot(work: Path) -> None:
    """The FAT partition: U-Boot finds boot.scr by itself; that one ends in our boot.cmd, unchanged."""
    image = work / "boot.fat"
    run("mkfs.vfat", "-C", "-n", "BOOT", image, str(BOOT_BYTES // 1024))
    for source, name in ((GUEST / "environment.cmd", "boot.scr"), (REPO / "etc" / "boot.cmd", "dcu.scr")):
        run("mkimage", "-A", "arm", "-T", "script", "-C", "none", "-d", source, work / name)
        run("mcopy", "-i", image, work / name, f"::{name}")
        (work / name).unlink()
    run("mcopy", "-i", image, work / "initrd", "::initrd")


def factory_environment(board: BuiltBoard) -> dict[str, str]:
    """What the board's maker put into the boot environment."""
    size = board.initrd.stat().st_size
    return {
        "BOOT_ORDER": "A B",
        "BOOT_A_LEFT": "3",
        "BOOT_B_LEFT": "0",
        "boot_dev": "virtio 0",
        "boot_disk": "/dev/vda",
        "fdt_addr_r": "0x43e00000",
        "bootargs_base": f"console=ttyAMA0 quiet loglevel=4 panic=5 cryptomgr.notests initrd={INITRD_AT:#x},{size:#x}",
    }


def make_disk(board: BuiltBoard, out: Path, data: Path, environment: dict[str, str] | None = None) -> None:
    """A disk as it leaves the factory: version 1 in slot A, nothing in slot B, the folder `data` as data partition."""
    variables = factory_environment(board) | (environment or {})
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        partition = Path(name) / "data.ext4"
        _make_file_system(data, partition, DATA_BYTES, "has_journal,^64bit")
        with out.open("wb") as file:
            file.truncate(DISK_BYTES)
            _put(file.fileno(), 0, _partition_table())
            for at, flag in zip(ENV_AT, (1, 0), strict=True):
                _put(file.fileno(), at, pack_copy(variables, flag))
            for at, source in ((BOOT_AT, board.boot), (SLOT_AT["A"], board.image("1")), (DATA_AT, partition)):
                _put_file(file.fileno(), at, source)


def _partition_table() -> bytes:
    table = bytearray(SECTOR)
    places = [(BOOT_AT, BOOT_BYTES), (SLOT_AT["A"], SLOT_BYTES), (SLOT_AT["B"], SLOT_BYTES), (DATA_AT, DATA_BYTES)]
    for index, (at, size) in enumerate(places):
        kind, active = (0x0C, 0x80) if index == 0 else (0x83, 0)
        entry = bytes([active, 0xFE, 0xFF, 0xFF, kind, 0xFE, 0xFF, 0xFF])
        entry += (at // SECTOR).to_bytes(4, "little") + (size // SECTOR).to_bytes(4, "little")
        table[446 + 16 * index : 462 + 16 * index] = entry
    table[510:512] = b"\x55\xaa"
    return bytes(table)


def _put(fd: int, at: int, data: bytes) -> None:
    os.pwrite(fd, data, at)


def _put_file(fd: int, at: int, source: Path) -> None:
    with source.open("rb") as file:
        while piece := file.read(MIB):
            if piece.strip(b"\0"):
                _put(fd, at, piece)
            at += len(piece)


if __name__ == "__main__":
    try:
        print(build(Path(sys.argv[1]) if len(sys.argv) > 1 else CACHE).folder)
    except BoardError as error:
        sys.exit(str(error))
