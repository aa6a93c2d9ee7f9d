"""The boot environment, changed in turn by our code and by libubootenv's programs, on each kind of medium.

Runs on the board. A medium is a line of `MEDIA`: a function that makes it and returns its fw_env.config.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.board.guest.console import check, say
from updateagent.boot.uboot.env import EnvironmentStore, emit_copy
from updateagent.boot.uboot.fw_env import parse_fw_env_config
from updateagent.disk import RealDisk

SIZE = 0x4000
START = {"BOOT_ORDER": "A B", "BOOT_A_LEFT": "3", "spaces": "a b  c", "equals": "a=b=c"}
ROUNDS = 5
CONFIG = Path("/tmp/fw_env.config")
SAID = "said_by="


def shell(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{command[0]}: {done.returncode} {done.stderr}")
    return done.stdout


def copies() -> list[bytes]:
    """The two copies of a new environment; the first counts."""
    return [emit_copy(START, SIZE, flag) for flag in (1, 0)]


def make_block() -> str:
    path = Path("/tmp/environment")
    path.write_bytes(b"".join(copies()))
    loop = shell("losetup", "-f").strip()
    shell("losetup", loop, str(path))
    return f"{loop} 0 {SIZE:#x}\n{loop} {SIZE:#x} {SIZE:#x}\n"


def make_file() -> str:
    path = Path("/tmp/uboot.env")
    path.write_bytes(b"".join(copies()))
    return f"{path} 0 {SIZE:#x}\n{path} {SIZE:#x} {SIZE:#x}\n"


def fresh_nand(*options: str) -> None:
    shell("modprobe", "nandsim", "first_id_byte=0x20", "second_id_byte=0x33", *options)
    deadline = time.monotonic() + 10
    while not Path("/dev/mtd0").exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def make_nand() -> str:
    """Each copy has four blocks to lie in. The first one of the first copy is bad: that copy lies in the second."""
    fresh_nand("badblocks=0")
    for number, copy in enumerate(copies()):
        Path("/tmp/copy").write_bytes(copy)
        at = number * 4 * SIZE if number else SIZE
        shell("nandwrite", "-q", "-s", hex(at), "/dev/mtd0", "/tmp/copy")
    return "".join(f"/dev/mtd0 {at:#x} {SIZE:#x} {SIZE:#x} 4\n" for at in (0, 4 * SIZE))


MEDIA: dict[str, Callable[[], str]] = {"file": make_file, "block": make_block, "nand": make_nand}


def theirs() -> dict[str, str]:
    lines = shell("fw_printenv", "-c", str(CONFIG)).splitlines()
    return dict(line.split("=", 1) for line in lines)


def set_theirs(name: str, value: str | None) -> None:
    shell("fw_setenv", "-c", str(CONFIG), name, *([] if value is None else [value]))


def in_turn(medium: str) -> dict[str, object]:
    """What both say after each has changed the environment some times; they must agree at every step."""
    CONFIG.write_text(MEDIA[medium]())
    places = parse_fw_env_config(CONFIG.read_text())

    def ours() -> dict[str, str]:
        return EnvironmentStore(RealDisk(), places).load().variables

    agreed = [ours() == theirs() == START]
    expected = dict(START)
    for number in range(ROUNDS):
        for name in ("by_fw", "by_us", "settled"):
            value = None if number == ROUNDS - 2 else f"{name} {number}"
            if name == "by_fw":
                set_theirs(name, value)
            else:
                EnvironmentStore(RealDisk(), places).commit({name: value}, settle=name == "settled")
            if value is None:
                del expected[name]
            else:
                expected[name] = value
            agreed.append(ours() == theirs() == expected)
    return {"agreed": agreed, "end": ours() == expected}


def with_uboot() -> None:
    """Three boots: what fw_setenv and then our code put into the arguments of the kernel comes back through U-Boot."""
    config = Path("/etc/fw_env.config")
    words = Path("/proc/cmdline").read_text().split()
    said = [word for word in words if word.startswith(SAID)]
    boots = next((word for word in words if word.startswith("dcu.boots=")), "")
    store = EnvironmentStore(RealDisk(), parse_fw_env_config(config.read_text()))
    base = store.load().variables["bootargs_base"].split(f" {SAID}")[0]
    say(event="said", said=said, boots=boots, environment=store.load().variables.get("dcu_boots"))
    if not said:
        shell("fw_setenv", "bootargs_base", f"{base} {SAID}fw_setenv")
    elif said == [f"{SAID}fw_setenv"]:
        store.commit({"bootargs_base": f"{base} {SAID}dcu"})
    else:
        return
    shell("sync")
    subprocess.run(["reboot", "-f"], check=True)


if __name__ == "__main__":
    with_uboot()
    shell("modprobe", "loop")
    for one in MEDIA:
        check(one, partial(in_turn, one))
    say(event="done")
    sys.exit(subprocess.run(["poweroff"], check=False).returncode)
