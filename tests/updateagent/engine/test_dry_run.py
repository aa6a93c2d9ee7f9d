"""A dry run of every verb says what it would commit, and changes nothing at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.updateagent.test_program import Device, device, firmware, keys

__all__ = ["device", "keys"]  # the fixtures

pytestmark = pytest.mark.process
INSTALL = ["BOOT_ORDER=A", "", "BOOT_ORDER=B A", "BOOT_A_LEFT=9", "BOOT_B_LEFT=2"]
CONFIRM = ["BOOT_B_LEFT=9"]
NOTHING = ["nothing would be written to the boot environment"]


def everything(folder: Path) -> dict[str, bytes]:
    """The device's files but for locks and health."""
    files = [path for path in folder.rglob("*") if path.is_file() and "lock" not in path.name]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if "run" not in path.parts}


def rehearse(device: Device, *words: object, code: int) -> list[str]:
    before = everything(device.folder)
    done = device.update(*words, "--dry-run")
    assert done.returncode == code, done.stderr
    assert everything(device.folder) == before
    return done.stdout.splitlines()


def test_each_verb_says_what_it_would_commit_and_then_commits_that(device: Device, keys: Path, tmp_path: Path) -> None:
    package = firmware(keys, tmp_path, "2")
    good = {"agent_up": True, "meter_port": True}

    device.publish_health(good)
    assert rehearse(device, "guard", code=0) == ["BOOT_A_LEFT=9"]
    assert rehearse(device, "boot", code=11) == NOTHING
    assert rehearse(device, "install", package, code=10) == INSTALL
    device.hand_over(package, "r2")
    assert rehearse(device, "boot", code=10) == INSTALL

    assert device.update("boot").returncode == 10
    assert device.power_on() == "B"
    assert device.update("boot").returncode == 11
    device.publish_health(good)
    assert rehearse(device, "confirm", code=0) == CONFIRM
    assert rehearse(device, "guard", code=0) == CONFIRM
    assert rehearse(device, "rollback", code=10) == ["BOOT_ORDER=A", "BOOT_B_LEFT=0"]
    assert device.update("confirm").returncode == 0

    assert rehearse(device, "rollback", code=10) == ["BOOT_ORDER=A B"]
    assert rehearse(device, "mark", "bad", "A", code=0) == ["BOOT_ORDER=B", "BOOT_A_LEFT=0"]
    assert rehearse(device, "install", firmware(keys, tmp_path, "3"), code=10) == [
        "BOOT_ORDER=B",
        "BOOT_A_LEFT=0",
        "",
        "BOOT_ORDER=A B",
        "BOOT_A_LEFT=2",
    ]


def test_a_package_that_would_be_refused_is_refused(device: Device, tmp_path: Path) -> None:
    bad = tmp_path / "bad.swu"
    bad.write_bytes(b"no package")

    done = device.update("install", bad, "--dry-run")

    assert done.returncode in range(20, 60)
    assert not list((device.folder / "update" / "inbox").iterdir())
