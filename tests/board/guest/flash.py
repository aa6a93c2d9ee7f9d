"""Slots on the kernel's own flash drivers: raw NAND with bad blocks, and a UBI volume on another NAND.

Runs on the board (nandsim is a NAND in memory that the kernel treats as a real one). Each check returns what it
found; the test on the host says what that must be.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.board.guest.console import check, say
from updateagent.disk import RealDisk
from updateagent.errors import DeviceError
from updateagent.package.verity import build
from updateagent.rawflash import KernelMtd, KernelUbi
from updateagent.slots.block import BLOCK_BYTES, SYNC_BYTES, Slot, read_back, write_image
from updateagent.slots.flash import MtdSlot, UbiSlot

# Samsung's 16 MiB: 512-byte pages, blocks of 16 KiB. The weak block fails when it is erased the second time.
NAND = ("first_id_byte=0x20", "second_id_byte=0x33")
BAD_BLOCKS = (3, 11)
WEAK_BLOCK = 7
RUN_BYTES = 64 << 10
IMAGE_BYTES = 2 << 20
KILLS = 12


def image(version: str) -> bytes:
    return random.Random(version).randbytes(IMAGE_BYTES)


def runs(data: bytes, start: int = 0) -> Iterator[bytes]:
    for at in range(start, len(data), RUN_BYTES):
        yield data[at : at + RUN_BYTES]


def shell(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def nand(*options: str) -> Path:
    """A fresh NAND."""
    subprocess.run(["modprobe", "-r", "ubi"], check=False, capture_output=True)
    subprocess.run(["modprobe", "-r", "nandsim"], check=False, capture_output=True)
    shell("modprobe", "nandsim", *NAND, *options)
    return wait_for(Path("/dev/mtd0"))


def wait_for(path: Path) -> Path:
    deadline = time.monotonic() + 10
    while not path.exists():
        if time.monotonic() > deadline:
            raise FileNotFoundError(path)
        time.sleep(0.05)
    return path


def write(slot: Slot, data: bytes) -> dict[str, int]:
    count = write_image(slot, len(data), runs(data), 0, lambda block: None)
    read_back(slot, len(data), build([data])[0])
    return {"written": count.written, "unchanged": count.unchanged}


def make_slot(slot_type: str, path: Path) -> Slot:
    return (UbiSlot if slot_type == "ubi" else MtdSlot)(RealDisk(), "B", path, None)


def resume(slot_type: str, path: Path, data: bytes, sync_bytes: int) -> dict[str, object]:
    """A process that writes is ended with SIGKILL when it has said that its first part is safe; another goes on."""
    hears, tells = os.pipe()

    def checkpoint(block: int) -> None:
        os.write(tells, bytes(1))
        if block * BLOCK_BYTES == len(data):
            signal.pause()  # the kill is to find it alive

    child = os.fork()
    if child == 0:
        write_image(make_slot(slot_type, path), len(data), runs(data), 0, checkpoint, sync_bytes=sync_bytes)
        os._exit(0)
    os.read(hears, 1)
    os.kill(child, signal.SIGKILL)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    os.close(hears)
    os.close(tells)
    return {"killed": killed, **write(make_slot(slot_type, path), data)}


# -- raw NAND


def mtd_checks() -> None:
    path = nand(f"badblocks={','.join(map(str, BAD_BLOCKS))}", f"weakblocks={WEAK_BLOCK}:1")
    slot = MtdSlot(RealDisk(), "B", path, None)

    def bad() -> list[int]:
        device = KernelMtd(path, write=False)
        try:
            return [block for block in range(device.blocks) if device.is_bad(block)]
        finally:
            device.close()

    check("mtd-bad-blocks", bad)
    check("mtd-capacity", slot.capacity)
    check("mtd-write", lambda: write(slot, image("1")))
    check("mtd-same-again", lambda: write(slot, image("1")))
    # The weak block has been erased once; now it fails.
    check("mtd-write-over-weak-block", lambda: write(slot, image("2")))
    check("mtd-bad-blocks-after", bad)
    check("mtd-capacity-after", slot.capacity)
    check("mtd-nanddump", lambda: nanddump(path) == image("2"))
    check("mtd-nandwrite", lambda: nandwrite(path, slot))
    check("mtd-resume", lambda: resume("mtd", path, image("resumed"), SYNC_BYTES))
    check("mtd-full", lambda: refused(slot))


def nanddump(path: Path) -> bytes:
    shell("nanddump", "-q", "--bb=skipbad", "-l", str(IMAGE_BYTES), "-f", "/tmp/dump", str(path))
    return Path("/tmp/dump").read_bytes()


def nandwrite(path: Path, slot: MtdSlot) -> dict[str, int]:
    """What mtd-utils wrote is what we find: an install of the same writes nothing."""
    Path("/tmp/image").write_bytes(image("3"))
    shell("flash_erase", "-q", str(path), "0", "0")
    shell("nandwrite", "-q", str(path), "/tmp/image")
    return write(slot, image("3"))


def refused(slot: Slot) -> str:
    size = slot.capacity() + BLOCK_BYTES
    try:
        write_image(slot, size, iter(()), 0, lambda block: None)
    except Exception as error:
        return type(error).__name__
    return "accepted"


# -- UBI


def ubi_checks() -> None:
    path = nand(f"badblocks={BAD_BLOCKS[0]}")
    shell("modprobe", "ubi")
    shell("ubiformat", "-q", "-y", str(path))
    shell("ubiattach", "-m", "0")
    wait_for(Path("/dev/ubi0"))
    shell("ubimkvol", "/dev/ubi0", "-N", "slot-b", "-s", "4MiB")
    shell("ubimkvol", "/dev/ubi0", "-N", "fixed", "-s", "256KiB", "-t", "static")
    volume = wait_for(Path("/dev/ubi0_0"))
    slot = UbiSlot(RealDisk(), "B", volume, None)
    check("ubi-static", lambda: opened(wait_for(Path("/dev/ubi0_1"))))
    check("ubi-not-ubi", lambda: opened(Path("/dev/null")))
    check("ubi-capacity", slot.capacity)
    check("ubi-write", lambda: write(slot, image("1")))
    check("ubi-same-again", lambda: write(slot, image("1")))
    check("ubi-one-block", lambda: write(slot, one_block_changed()))
    check("ubi-plain-read", lambda: plain_read(volume) == one_block_changed())
    check("ubi-resume", lambda: resume("ubi", volume, image("resumed"), SYNC_BYTES))
    check("ubi-killed-changes", lambda: killed_changes(volume))
    check("ubi-killed-kernel-change", lambda: half_a_change(volume))
    check("ubi-after-attach", lambda: attached_again(slot))


def opened(path: Path) -> str:
    try:
        UbiSlot(RealDisk(), "B", path, None).open().close()
    except DeviceError as error:
        return error.name
    return "opened"


def plain_read(volume: Path) -> bytes:
    with volume.open("rb") as file:
        return file.read(IMAGE_BYTES)


def one_block_changed() -> bytes:
    data = bytearray(image("1"))
    data[9 * BLOCK_BYTES] ^= 1
    return bytes(data)


def killed_changes(volume: Path) -> dict[str, int]:
    """A process that changes one block between two contents without end is killed; one of the two is there, whole.

    Nobody else may have the volume open meanwhile: the kernel wants a block to be changed by its only user.
    """
    device = KernelUbi(volume, write=True)
    contents = [bytes([65 + number]) * device.leb_bytes for number in range(2)]
    device.change(5, contents[0])
    device.close()
    seen = [0, 0]
    moments = random.Random("moments")
    for _ in range(KILLS):
        child = os.fork()
        if child == 0:
            own = KernelUbi(volume, write=True)
            for number in range(1_000_000):
                own.change(5, contents[number % 2])
            os._exit(0)
        time.sleep(moments.uniform(0.1, 0.4))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        device = KernelUbi(volume, write=False)
        seen[contents.index(device.read(5, device.leb_bytes, 0))] += 1
        device.close()
    return {"first": seen[0], "second": seen[1], "kills": KILLS}


def half_a_change(volume: Path) -> bool:
    """A change that was begun and half of it written: the file is closed, the old content stays."""
    import fcntl

    from updateagent.rawflash import LEB_CHANGE, UBI_DATA_UNKNOWN, UBI_IOCEBCH

    device = KernelUbi(volume, write=True)
    size = device.leb_bytes
    device.change(6, b"o" * size)
    device.close()
    child = os.fork()
    if child == 0:
        fd = os.open(volume, os.O_RDWR)
        fcntl.ioctl(fd, UBI_IOCEBCH, LEB_CHANGE.pack(6, size, UBI_DATA_UNKNOWN))
        os.write(fd, b"n" * (size // 2))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    device = KernelUbi(volume, write=False)
    try:
        return device.read(6, size, 0) == b"o" * size
    finally:
        device.close()


def attached_again(slot: UbiSlot) -> bool:
    """Everything that was written is on the flash, not in the memory of the driver."""
    write(slot, image("last"))
    shell("ubidetach", "-m", "0")
    shell("ubiattach", "-m", "0")
    wait_for(Path("/dev/ubi0_0"))
    read_back(slot, IMAGE_BYTES, build([image("last")])[0])
    return True


if __name__ == "__main__":
    mtd_checks()
    ubi_checks()
    say(event="done")
    sys.exit(subprocess.run(["poweroff"], check=False).returncode)
