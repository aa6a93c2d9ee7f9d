"""A dry run of every verb says what it would commit, and changes nothing at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.updateagent.test_program import Device, device, firmware, keys
from updateagent.compose import UpdateAgent
from updateagent.config import load
from updateagent.disk import RealDisk, Storage
from updateagent.engine.dry_run import ReadOnlyDisk
from updateagent.errors import BUSY, STATE, STORAGE, DeviceError

__all__ = ["device", "keys"]  # the fixtures

pytestmark = pytest.mark.process
INSTALL = ["BOOT_ORDER=A", "", "BOOT_ORDER=B A", "BOOT_A_LEFT=9", "BOOT_B_LEFT=2"]
CONFIRM = ["dcu_floor=1", "BOOT_B_LEFT=9"]
NOTHING = ["nothing would be written to the boot environment"]


WRITES = {"rename", "link", "unlink", "symlink", "mkdir", "rmdir", "sync_dir", "copy_owner_and_mode"}
READS = {"open_raw", "readlink", "exists", "is_dir", "is_link", "is_file", "listdir", "free_bytes", "lock"}


def everything(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """The whole tree, folders too: mode, inode, time of the last change, and the bytes of files."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        about = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = (about.st_mode, about.st_ino, about.st_mtime_ns, content)
    return found


def dry_run(device: Device, *words: object, code: int) -> list[str]:
    before = everything(device.folder)
    done = device.update(*words, "--dry-run")
    assert done.returncode == code, done.stderr
    assert everything(device.folder) == before
    return done.stdout.splitlines()


def test_each_verb_says_what_it_would_commit_and_then_commits_that(device: Device, keys: Path, tmp_path: Path) -> None:
    package = firmware(keys, tmp_path, "2")
    good = {"agent_up": True, "meter_port": True}

    device.publish_health(good)
    assert dry_run(device, "guard", code=0) == ["BOOT_A_LEFT=9"]
    assert dry_run(device, "boot", code=11) == NOTHING
    assert dry_run(device, "install", package, code=10) == INSTALL
    device.hand_over(package, "r2")
    assert dry_run(device, "boot", code=10) == INSTALL

    assert device.update("boot").returncode == 10
    assert device.power_on() == "B"
    assert device.update("boot").returncode == 11
    device.publish_health(good)
    assert dry_run(device, "confirm", code=0) == CONFIRM
    assert dry_run(device, "guard", code=0) == CONFIRM
    assert dry_run(device, "rollback", code=10) == ["BOOT_ORDER=A", "BOOT_B_LEFT=0"]
    assert device.update("confirm").returncode == 0

    assert dry_run(device, "rollback", code=10) == ["BOOT_ORDER=A B", "BOOT_A_LEFT=2"]
    assert dry_run(device, "mark", "bad", "A", code=0) == ["BOOT_ORDER=B", "BOOT_A_LEFT=0"]
    assert dry_run(device, "install", firmware(keys, tmp_path, "3"), code=10) == [
        "BOOT_ORDER=B",
        "BOOT_A_LEFT=0",
        "",
        "BOOT_ORDER=A B",
        "BOOT_A_LEFT=2",
    ]


def test_a_dry_run_on_a_board_that_was_never_started_makes_no_folder_and_no_lock(device: Device, keys: Path) -> None:
    assert not (device.folder / "update").exists()
    device.publish_health({"agent_up": True, "meter_port": True})
    assert dry_run(device, "boot", code=11) == NOTHING
    assert dry_run(device, "guard", code=0) == ["BOOT_A_LEFT=9"]
    assert dry_run(device, "mark", "good", "B", "--force", code=0) == ["BOOT_B_LEFT=9"]
    assert dry_run(device, "install", firmware(keys, keys.parent, "2"), code=10) == INSTALL
    dry_run(device, "confirm", code=STATE.number)
    dry_run(device, "rollback", code=STATE.number)


def test_a_dry_run_does_not_begin_while_another_dcu_update_is_at_work(device: Device) -> None:
    assert device.update("boot").returncode == 11
    lock = RealDisk().lock(device.folder / "update" / "lock")
    assert lock.acquire()
    dry_run(device, "mark", "good", "B", code=BUSY.number)
    lock.release()


def test_a_disk_that_cannot_write_refuses_every_write_and_reads_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "folder").mkdir()
    file, new = tmp_path / "file", tmp_path / "new"
    disk = ReadOnlyDisk(RealDisk())
    attempts: dict[str, Callable[[], object]] = {
        "rename": lambda: disk.rename(file, new),
        "link": lambda: disk.link(file, new),
        "unlink": lambda: disk.unlink(file),
        "symlink": lambda: disk.symlink("file", new),
        "mkdir": lambda: disk.mkdir(new, 0o700),
        "rmdir": lambda: disk.rmdir(tmp_path / "folder"),
        "sync_dir": lambda: disk.sync_dir(tmp_path),
        "copy_owner_and_mode": lambda: disk.copy_owner_and_mode(tmp_path / "folder", file),
    }
    durable: list[Callable[[], object]] = [
        lambda: disk.open_raw(file, write=True),
        lambda: disk.open_raw(new, create=True),
        lambda: disk.write_durable(file, b"x"),
        lambda: disk.remove_durable(file),
        lambda: disk.rename_durable(file, new),
        lambda: disk.mkdir_durable(new),
        lambda: disk.link_durable("file", new),
        lambda: disk.remove_tree_durable(tmp_path / "folder"),
    ]
    assert set(attempts) == WRITES
    assert Storage.__abstractmethods__ == WRITES | READS, "a new primitive: does it write?"
    before = everything(tmp_path)
    for attempt in [*attempts.values(), *durable]:
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EROFS
    assert disk.lock(new).acquire()
    assert everything(tmp_path) == before

    assert (disk.read_bytes(file), disk.readlink(tmp_path / "link")) == (b"content", "file")
    assert disk.listdir(tmp_path) == ["file", "folder", "link"]


def test_what_a_dry_run_should_have_left_out_is_an_error(device: Device) -> None:
    agent = UpdateAgent(load(device.folder / "dcu-update.toml"), RealDisk()).dry()
    with pytest.raises(DeviceError, match="the result") as caught:
        agent.mailbox().hold_result({})
    assert caught.value.code is STORAGE


def test_a_package_that_would_be_refused_is_refused(device: Device, tmp_path: Path) -> None:
    bad = tmp_path / "bad.swu"
    bad.write_bytes(b"no package")

    done = device.update("install", bad, "--dry-run")

    assert done.returncode in range(20, 60)
    assert not (device.folder / "update").exists()


def test_the_operators_health_commands_are_not_run(device: Device, tmp_path: Path) -> None:
    file = device.folder / "dcu-update.toml"
    ran = tmp_path / "ran"
    command = f'[[health.command]]\nname = "touch"\ncommand = ["/bin/touch", "{ran}"]\n'
    text = file.read_text()
    checks = 'checks = ["agent_up", "meter_port"'
    assert text.count(checks) == 1
    file.write_text(text.replace(checks, f'{checks}, "touch"') + command)
    device.publish_health({"agent_up": True, "meter_port": True})
    said = dry_run(device, "guard", code=0)
    assert said == ["# health command touch is not run, and taken as good", "BOOT_A_LEFT=9"]
    assert not ran.exists()
    done = device.update("guard")
    assert done.returncode == 0, done.stderr
    assert ran.exists(), done.stderr


def test_a_lock_is_only_read_and_excludes_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    file.touch(mode=0o400)
    one, other = ReadOnlyDisk(RealDisk()).lock(file), ReadOnlyDisk(RealDisk()).lock(file)
    assert one.acquire()
    about = Path(f"/proc/self/fdinfo/{descriptor_of(file)}").read_text()
    flags = dict(line.split(maxsplit=1) for line in about.splitlines())["flags:"]
    assert int(flags, 8) & os.O_ACCMODE == os.O_RDONLY
    assert not other.acquire()
    one.release()
    assert other.acquire()
    other.release()


def descriptor_of(file: Path) -> int:
    """The descriptor that this process has of `file`."""
    return next(int(fd.name) for fd in Path("/proc/self/fd").iterdir() if fd.exists() and fd.samefile(file))
