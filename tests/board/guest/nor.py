"""A slot and the boot environment on SPI NOR flash, through the kernel's own driver. Runs on the board."""

from pathlib import Path

from tests.board.guest import environment, flash
from tests.board.guest.console import check, say
from updateagent.disk import RealDisk
from updateagent.rawflash import KernelMtd
from updateagent.slots.flash import MtdSlot

DEVICE = Path("/dev/mtd0")
SYNC_BYTES = 64 << 10
IMAGE_BYTES = 2 * SYNC_BYTES  # this flash takes two bytes a command


def make_nor() -> str:
    """Two copies, of four erase blocks each."""
    flash.shell("flash_erase", "-q", str(DEVICE), "0", "0")
    places = [number * environment.SIZE for number in range(2)]
    with DEVICE.open("r+b", buffering=0) as device:
        for at, copy in zip(places, environment.copies(), strict=True):
            device.seek(at)
            device.write(copy)
    return "".join(f"{DEVICE} {at:#x} {environment.SIZE:#x} 0x1000 4\n" for at in places)


def geometry() -> list[int]:
    device = KernelMtd(DEVICE, write=False)
    try:
        return [device.blocks, device.block_bytes]
    finally:
        device.close()


if __name__ == "__main__":
    flash.wait_for(DEVICE)
    slot = MtdSlot(RealDisk(), "B", DEVICE, None)
    one, two = flash.image("1")[:IMAGE_BYTES], flash.image("2")[:IMAGE_BYTES]
    check("nor-geometry", geometry)
    check("nor-write", lambda: flash.write(slot, one))
    check("nor-same-again", lambda: flash.write(slot, one))
    check("nor-plain-read", lambda: DEVICE.read_bytes()[:IMAGE_BYTES] == one)
    check("nor-resume", lambda: flash.resume("mtd", DEVICE, two, SYNC_BYTES))
    environment.MEDIA["nor"] = make_nor
    check("nor-environment", lambda: environment.in_turn("nor"))
    say(event="done")
