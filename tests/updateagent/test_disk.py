"""The disk of the machine does what its port promises, and the simulated one the same."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.sim.faulty_disk import FaultyDisk, Operation, PowerCut, Survival
from updateagent.disk import READ_BYTES_MAX, RealDisk, Storage


def simulated(folder: Path) -> Storage:
    disk = FaultyDisk()
    disk.mkdir_durable(folder)
    return disk


@pytest.fixture(params=[lambda _: RealDisk(), simulated], ids=["real", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    make: Callable[[Path], Storage] = request.param
    return make(tmp_path)


def test_what_is_written_is_read_and_replaced_whole(disk: Storage, tmp_path: Path) -> None:
    path = tmp_path / "file"
    disk.write_durable(path, b"a long first content")
    disk.write_durable(path, b"short")

    assert disk.read_bytes(path) == b"short"
    assert disk.listdir(tmp_path) == ["file"]


def test_a_missing_file_is_not_found_and_removing_it_is_no_error(disk: Storage, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        disk.read_bytes(tmp_path / "none")
    disk.remove_durable(tmp_path / "none")
    assert disk.listdir(tmp_path / "none") == []
    assert not disk.exists(tmp_path / "none")


def test_folders_are_made_with_those_above_and_removed_with_all_below(disk: Storage, tmp_path: Path) -> None:
    disk.mkdir_durable(tmp_path / "a/b/c")
    disk.mkdir_durable(tmp_path / "a/b/c")
    disk.write_durable(tmp_path / "a/b/file", b"x")
    disk.link_durable("b/file", tmp_path / "a/link")

    assert disk.is_dir(tmp_path / "a/b/c")
    assert disk.read_bytes(tmp_path / "a/link") == b"x"
    disk.remove_tree_durable(tmp_path / "a")
    assert not disk.exists(tmp_path / "a")
    disk.remove_tree_durable(tmp_path / "a")


def test_a_second_name_leads_to_the_same_file_and_replaces_nothing(disk: Storage, tmp_path: Path) -> None:
    disk.write_durable(tmp_path / "one", b"x")
    disk.link(tmp_path / "one", tmp_path / "two")
    with disk.open_raw(tmp_path / "one", write=True) as file:
        file.pwrite(b"y", 0)
    assert disk.read_bytes(tmp_path / "two") == b"y"
    with pytest.raises(FileExistsError):
        disk.link(tmp_path / "one", tmp_path / "two")
    with pytest.raises(FileNotFoundError):
        disk.link(tmp_path / "none", tmp_path / "three")
    disk.unlink(tmp_path / "one")
    assert disk.read_bytes(tmp_path / "two") == b"y"


def test_removing_a_folder_does_not_follow_links_out_of_it(disk: Storage, tmp_path: Path) -> None:
    disk.mkdir_durable(tmp_path / "precious")
    disk.write_durable(tmp_path / "precious/file", b"x")
    disk.mkdir_durable(tmp_path / "a")
    disk.link_durable("../precious", tmp_path / "a/link")

    disk.remove_tree_durable(tmp_path / "a")
    assert disk.read_bytes(tmp_path / "precious/file") == b"x"


def test_a_link_is_replaced_in_one_step(disk: Storage, tmp_path: Path) -> None:
    disk.link_durable("one", tmp_path / "link")
    disk.link_durable("two", tmp_path / "link")

    assert disk.readlink(tmp_path / "link") == "two"
    assert disk.listdir(tmp_path) == ["link"]


def test_a_file_and_a_folder_are_renamed(disk: Storage, tmp_path: Path) -> None:
    disk.mkdir_durable(tmp_path / "old")
    disk.write_durable(tmp_path / "old/file", b"x")
    disk.rename_durable(tmp_path / "old", tmp_path / "new")
    disk.rename_durable(tmp_path / "new/file", tmp_path / "file")

    assert disk.read_bytes(tmp_path / "file") == b"x"
    assert disk.listdir(tmp_path) == ["file", "new"]


def test_bytes_are_read_and_written_at_offsets(disk: Storage, tmp_path: Path) -> None:
    path = tmp_path / "device"
    disk.write_durable(path, bytes(1000))
    with disk.open_raw(path, write=True) as file:
        file.pwrite(b"middle", 500)
        file.sync()
        assert (file.pread(6, 500), file.pread(10, 995), file.size()) == (b"middle", bytes(5), 1000)
        file.truncate(503)
        assert file.pread(100, 500) == b"mid"


def test_a_lock_is_held_by_one(disk: Storage, tmp_path: Path) -> None:
    first, second = disk.lock(tmp_path / "lock"), disk.lock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_the_mode_asked_for_is_the_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        RealDisk().write_durable(tmp_path / "secret", b"x")
        RealDisk().write_durable(tmp_path / "open", b"x", mode=0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o644


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"x")
    (tmp_path / ".file.tmp").symlink_to("precious")
    with pytest.raises(OSError, match="symbolic links"):
        RealDisk().write_durable(tmp_path / "file", b"y")
    assert (tmp_path / "precious").read_bytes() == b"x"


def test_a_file_that_nobody_holds_any_more_is_closed(tmp_path: Path) -> None:
    file = RealDisk().open_raw(tmp_path / "file", write=True, create=True)
    free = os.dup(0)
    os.close(free)
    del file
    lower = os.dup(0)
    os.close(lower)
    assert lower < free


def test_a_file_of_the_kernel_that_says_it_is_empty_is_read() -> None:
    assert RealDisk().read_bytes(Path("/proc/sys/kernel/random/boot_id")).strip()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        RealDisk().read_bytes(tmp_path)


def test_a_file_too_large_for_a_record_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(READ_BYTES_MAX + 100_000)
    with pytest.raises(OSError, match="too large"):
        RealDisk().read_bytes(tmp_path / "large")


# -- the simulated disk itself: what it forgets, and what it must not


def test_what_was_synced_survives_every_cut() -> None:
    for survival in Survival:
        disk = FaultyDisk()
        disk.write_durable(Path("/file"), b"kept" * 500)
        found = disk.after_power_cut(survival, Random(1))
        assert found.read_bytes(Path("/file")) == b"kept" * 500


def test_what_was_not_synced_is_lost_kept_or_holed_by_sectors() -> None:
    def cut(survival: Survival, seed: int = 0) -> bytes:
        disk = FaultyDisk()
        disk.write_durable(Path("/file"), b"-" * 4096)
        disk.open_raw(Path("/file"), write=True).pwrite(b"+" * 4096, 0)
        return disk.after_power_cut(survival, Random(seed)).read_bytes(Path("/file"))

    assert cut(Survival.LOST) == b"-" * 4096
    assert cut(Survival.KEPT) == b"+" * 4096
    holed = {cut(Survival.HOLED, seed) for seed in range(10)}
    assert len(holed) > 5
    for content in holed:
        assert {content[at : at + 512] for at in range(0, 4096, 512)} <= {b"-" * 512, b"+" * 512}


def test_names_that_were_not_synced_are_lost() -> None:
    disk = FaultyDisk()
    disk.write_durable(Path("/old"), b"x")
    disk.rename(Path("/old"), Path("/new"))

    assert disk.after_power_cut(Survival.LOST, Random(0)).listdir(Path("/")) == ["old"]
    assert disk.after_power_cut(Survival.KEPT, Random(0)).listdir(Path("/")) == ["new"]


def test_a_name_may_survive_without_its_data() -> None:
    disk = FaultyDisk()
    disk.open_raw(Path("/file"), write=True, create=True).pwrite(b"data", 0)

    assert disk.after_power_cut(Survival.NAMES_ONLY, Random(0)).read_bytes(Path("/file")) == b""


def test_a_cut_takes_place_and_the_dead_process_can_do_nothing_more() -> None:
    disk = FaultyDisk()

    def plan(operation: Operation) -> None:
        if operation.kind == "rename":
            raise PowerCut

    disk.on_operation = plan
    with pytest.raises(PowerCut):
        disk.write_durable(Path("/file"), b"x")
    disk.after_power_cut(Survival.KEPT, Random(0))
    with pytest.raises(AssertionError, match="dead process"):
        disk.exists(Path("/file"))


def test_a_tree_deeper_than_any_path_is_removed(tmp_path: Path) -> None:
    """A program in its own folder makes one with a loop of `mkdir` and `cd`; recursion ends in an error."""
    top = tmp_path / "top"
    top.mkdir()
    before = Path.cwd()
    try:
        os.chdir(top)
        for depth in range(1500):
            name = f"moved.{depth % 3}".ljust(20, "x")
            Path(name).mkdir()
            Path("beside").mkdir()
            Path("link").symlink_to("..")
            os.chdir(name)
    finally:
        os.chdir(before)
    (top / "moved.0").mkdir()
    RealDisk().remove_tree_durable(top)
    assert list(tmp_path.iterdir()) == []
