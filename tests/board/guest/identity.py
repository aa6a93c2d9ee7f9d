"""Which device a slot is, by the kernel's own facts: partitions, loop devices, flash, what is mounted, and the root.

Runs on the board, slot A. Each check returns what it found; the test on the host says what that must be.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.board.guest.console import check, say
from updateagent.errors import UpdateError
from updateagent.slots.identity import Identity, Place, identify, parse_mountinfo
from updateagent.slots.survey import Survey
from updateagent.slots.system import KernelSystem

SYSTEM = KernelSystem()
SLOTS = {name: [Place(f"slot {name}", path)] for name, path in (("A", "/dev/vda2"), ("B", "/dev/vda3"))}
SETTINGS = Path("/tmp/dcu-update.toml")
CMDLINE = Path("/tmp/cmdline")


def shell(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.returncode} {done.stderr}")
    return done.stdout


def wait_for(path: str) -> str:
    deadline = time.monotonic() + 10
    while not Path(path).exists():
        if time.monotonic() > deadline:
            raise FileNotFoundError(path)
        time.sleep(0.05)
    return path


def identity(path: str) -> Identity:
    return identify(SYSTEM, Place("it", path), parse_mountinfo(SYSTEM.text("/proc/self/mountinfo") or ""))


def same(*paths: str) -> bool:
    one, other = map(identity, paths)
    return bool(one.meets(other))


def said(what: str, slot: str) -> str:
    """The name of the error of a check of the survey; empty for none."""
    try:
        getattr(Survey(SYSTEM, SLOTS), what)(slot)
    except UpdateError as error:
        return error.name
    return ""


def loop(path: str, *more: str) -> str:
    device = shell("losetup", "-f").strip()
    shell("losetup", *more, device, path)
    return device


def disk_checks() -> None:
    Path("/tmp/link").symlink_to("/dev/vda3")
    os.mknod("/tmp/node", 0o60600, Path("/dev/vda3").stat().st_rdev)
    check("link", lambda: same("/tmp/link", "/dev/vda3"))
    check("node", lambda: same("/tmp/node", "/dev/vda3"))
    check("disk", lambda: same("/dev/vda", "/dev/vda3"))
    check("slots", lambda: same("/dev/vda2", "/dev/vda3"))
    shell("modprobe", "loop")
    wait_for("/dev/loop-control")
    check("loop", lambda: same(loop("/dev/vda3"), "/tmp/link"))
    Path("/data/image").write_bytes(bytes(1 << 20))
    second = loop("/data/image", "-o", str(512 << 10))
    check("loop-file", lambda: same(second, "/data/image"))
    check("loop-file-partition", lambda: same(second, wait_for("/dev/vda4")))
    check("loop-file-slot", lambda: same(second, "/dev/vda3"))
    for device in Path("/dev").glob("loop[0-9]*"):
        subprocess.run(["losetup", "-d", str(device)], check=False, capture_output=True)


def flash_checks() -> None:
    shell("modprobe", "nandsim", "first_id_byte=0x20", "second_id_byte=0x33", "parts=512")
    wait_for("/dev/mtd1")
    shell("modprobe", "ubi")
    shell("ubiformat", "-q", "-y", "/dev/mtd1")
    shell("ubiattach", "-m", "1")
    wait_for("/dev/ubi0")
    for name in ("one", "two"):
        shell("ubimkvol", "/dev/ubi0", "-N", name, "-s", "1MiB")
    wait_for("/dev/ubi0_1")
    check("mtd-read-only", lambda: same("/dev/mtd0", "/dev/mtd0ro"))
    check("mtd-parts", lambda: same("/dev/mtd0", "/dev/mtd1"))
    check("ubi-name", lambda: same("/dev/ubi0:two", "/dev/ubi0_1"))
    check("ubi-volumes", lambda: same("/dev/ubi0_0", "/dev/ubi0_1"))
    check("ubi-flash", lambda: same("/dev/ubi0_0", "/dev/mtd1"))
    check("ubi-other-flash", lambda: same("/dev/ubi0_0", "/dev/mtd0"))


def mount_checks() -> None:
    check("root-is-a", lambda: said("check_root", "A"))
    check("root-is-not-b", lambda: said("check_root", "B"))
    check("target-a", lambda: said("check_target", "A"))
    check("target-b", lambda: said("check_target", "B"))
    check("data-in-use", lambda: SYSTEM.in_use("/dev/vda4"))
    check("b-in-use", lambda: SYSTEM.in_use("/dev/vda3"))
    Path("/tmp/point").mkdir()
    shell("dd", "if=/dev/vda2", "of=/dev/vda3", "bs=1M")  # slot B of a new board is empty
    shell("mount", "-o", "ro", "/dev/vda3", "/tmp/point")
    check("target-b-mounted", lambda: said("check_target", "B"))
    shell("umount", "/tmp/point")


def update(*arguments: str) -> list[object]:
    """Exit status of dcu-update with the settings of these checks, and what it said last."""
    done = subprocess.run(
        ["dcu-update", "--config", str(SETTINGS), *arguments], capture_output=True, text=True, check=False
    )
    lines = (done.stderr or done.stdout).strip().splitlines()
    return [done.returncode, lines[-1] if lines else ""]


def program_checks() -> None:
    shipped = Path("/etc/dcu-update.toml").read_text()
    SETTINGS.write_text(shipped)
    check("shipped", lambda: update("status")[0])
    SETTINGS.write_text(shipped.replace('"/dev/vda3"', '"/tmp/link-a"'))
    Path("/tmp/link-a").symlink_to("/dev/vda2")
    check("one-slot-twice", lambda: update("mark", "active", "B"))
    SETTINGS.write_text(shipped.replace('cmdline = "/proc/cmdline"', f'cmdline = "{CMDLINE}"'))
    words = Path("/proc/cmdline").read_text()
    CMDLINE.write_text(words.replace("rauc.slot=A", "rauc.slot=B"))
    check("wrong-command-line", lambda: update("mark", "good"))
    CMDLINE.write_text(words)
    check("right-command-line", lambda: update("mark", "good")[0])


if __name__ == "__main__":
    disk_checks()
    flash_checks()
    mount_checks()
    program_checks()
    say(event="done")
    sys.exit(subprocess.run(["poweroff"], check=False).returncode)
