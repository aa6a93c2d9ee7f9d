"""The boot environment is one for U-Boot, for libubootenv's programs, and for us."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.board.emulation.factory import Factory
from tests.board.emulation.story import BoardRunner, Outcome
from tests.board.guest import environment
from tests.board.image.build import FLASH_BYTES, FLASH_ENV_BYTES
from updateagent.boot.uboot.env import EnvironmentStore, emit_copy
from updateagent.boot.uboot.fw_env import EnvLocation
from updateagent.disk import RealDisk

pytestmark = pytest.mark.board

# U-Boot says what we wrote, counts, and leaves its environment as `saveenv` would write it, on a disk: QEMU's NOR flash
# does not take blocks as large as this U-Boot writes them ("buffer write timeout").
UBOOT_COUNTS = (
    """echo '@@ {"event": "uboot", "ours": "'${ours}'"}'; """
    'setexpr count ${count} + 1; setenv greeting "from U-Boot; a=b"; setenv gone; virtio scan; virtio dev 0; '
    f"env export -c -s {FLASH_ENV_BYTES:#x} 0x42000000; virtio write 0x42000000 0 {FLASH_ENV_BYTES // 512:#x}; poweroff"
)


@pytest.fixture(scope="module")
def outcome(runner: BoardRunner, factory: Factory, scratch: Path) -> Outcome:
    folder = scratch / "environment"
    folder.mkdir()
    return runner.run("environment", factory.disk(folder), runner.guest_job(folder, "environment"))


@pytest.mark.parametrize("medium", list(environment.MEDIA))
def test_ours_and_libubootenv_agree_after_every_change(outcome: Outcome, medium: str) -> None:
    found: dict[str, dict[str, Any]] = {event["check"]: event for event in outcome.events if event["event"] == "check"}
    assert found[medium]["ok"], found[medium]["found"]
    assert found[medium]["found"]["end"]
    assert found[medium]["found"]["agreed"] == [True] * (1 + 3 * environment.ROUNDS)


def test_uboot_boots_with_what_fw_setenv_and_then_we_put_into_its_environment(outcome: Outcome) -> None:
    said = [event for event in outcome.events if event["event"] == "said"]
    assert [event["said"] for event in said] == [[], ["said_by=fw_setenv"], ["said_by=dcu"]]
    # And what U-Boot counted in its environment is what it told the kernel.
    assert [event["boots"] for event in said] == [f"dcu.boots={event['environment']}" for event in said]


def test_uboot_loads_what_we_wrote_and_we_and_fw_printenv_read_what_it_exports(
    runner: BoardRunner, folder: Path
) -> None:
    """A single copy, in the NOR flash from which this U-Boot loads its environment by itself, first of all."""
    flash, disk = folder / "flash.img", folder / "disk.img"
    start = {"bootcmd": UBOOT_COUNTS, "bootdelay": "0", "count": "1", "ours": "first", "gone": "soon"}
    disk.write_bytes(emit_copy(start, FLASH_ENV_BYTES, None))
    store = EnvironmentStore(RealDisk(), (EnvLocation(disk, 0, FLASH_ENV_BYTES),))

    def start_uboot(name: str) -> list[str]:
        with flash.open("wb") as file:
            file.write(disk.read_bytes())
            file.truncate(FLASH_BYTES)
        outcome = runner.run(name, disk, None, flash=flash)
        assert "Loading Environment from Flash... OK" in (runner.consoles / f"{name}.txt").read_text()
        return [event["ours"] for event in outcome.events]

    assert start_uboot("uboot") == ["first"]
    saved = store.load().variables
    assert (saved["count"], saved["greeting"], saved["ours"]) == ("2", "from U-Boot; a=b", "first")
    assert "gone" not in saved
    assert saved["bootcmd"] == UBOOT_COUNTS

    store.commit({"ours": "second"})
    assert start_uboot("uboot-again") == ["second"]
    assert store.load().variables["count"] == "3"

    config = folder / "fw_env.config"
    config.write_text(f"{disk} 0 {FLASH_ENV_BYTES:#x}\n")
    done = subprocess.run(["fw_printenv", "-c", str(config)], capture_output=True, text=True, check=True)
    assert dict(line.split("=", 1) for line in done.stdout.splitlines()) == store.load().variables
