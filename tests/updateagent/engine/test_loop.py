"""An install on block devices whose process is killed again and again, with SIGKILL, at whatever it is doing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.updateagent.test_program import IMAGE_BYTES, REPO, SLOT_BYTES, Device, firmware, image, keys

__all__ = ["keys"]  # the fixture

PATIENCE_S = 20.0


def attach(path: Path) -> Path | None:
    """A loop device over a file; None when this machine has none to give."""
    if os.geteuid() != 0 or shutil.which("losetup") is None:
        return None
    done = subprocess.run(["losetup", "--find", "--show", str(path)], capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()) if done.returncode == 0 else None


class BlockDevice(Device):
    """The device of the other tests, with its slots on loop devices."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.loops: dict[str, Path] = {}

    def slot(self, name: str) -> Path:
        return self.loops.get(name, self.folder / f"slot-{name}")

    def power_on(self) -> str:
        slot = super().power_on()
        if slot in self.loops:
            number = self.loops[slot].stat().st_rdev
            self.mount(f"{os.major(number)}:{os.minor(number)} / / ro - ext4 /dev/root ro")
        return slot


@pytest.fixture
def device(tmp_path: Path, keys: Path) -> Iterator[BlockDevice]:
    made = BlockDevice(tmp_path / "device")
    made.folder.mkdir()
    with ExitStack() as stack:
        for name in ("A", "B"):
            backing = made.slot(name)
            backing.write_bytes(bytes(SLOT_BYTES))
            loop = attach(backing)
            if loop is None:
                pytest.skip("no loop devices: not root, or losetup or free devices are missing")
            stack.callback(subprocess.run, ["losetup", "--detach", str(loop)], check=False)
            made.loops[name] = loop
        made.assemble(keys)
        config = made.folder / "dcu-update.toml"
        config.write_text(
            config.read_text().replace('type = "file"', 'type = "block"').replace(f"size = {SLOT_BYTES}\n", "")
        )
        yield made


def kill_after(device: Device, stores: int) -> int | None:
    """Run `boot` and kill it after so many stores of the journal; its exit status if it was faster."""
    command = [sys.executable, "-m", "updateagent", "--config", str(device.folder / "dcu-update.toml"), "boot"]
    child = subprocess.Popen(command, cwd=REPO, stderr=subprocess.DEVNULL)
    copies = [device.folder / "update" / f"journal.{index}" for index in (0, 1)]

    def newest() -> tuple[bytes, ...]:
        return tuple(copy.read_bytes()[8:12] if copy.exists() else b"" for copy in copies)

    before = newest()
    deadline = time.monotonic() + PATIENCE_S
    while stores and child.poll() is None and time.monotonic() < deadline:
        os.sched_yield()
        now = newest()
        if now != before:
            before = now
            stores -= 1
    child.kill()
    code = child.wait()
    return None if code < 0 else code


@pytest.mark.process
def test_an_install_on_block_devices_survives_being_killed_at_every_step(
    device: BlockDevice, keys: Path, tmp_path: Path
) -> None:
    device.hand_over(firmware(keys, tmp_path, "2"), "r2")
    kills = 0
    for stores in range(1, 5):
        code = kill_after(device, stores)
        assert code in (None, 10, 11)
        kills += code is None
        if device.power_on() == "B":
            break
    else:
        assert device.update("boot").returncode == 10
        assert device.power_on() == "B"
    assert kills >= 1

    assert device.slot("B").read_bytes()[:IMAGE_BYTES] == image("2")
    assert device.update("boot").returncode == 11
    device.publish_health({"agent_up": True, "meter_port": True})
    assert device.update("guard").returncode == 0
    assert (device.result()["fumo"], device.result()["to_version"]) == (200, "2")
