"""The lock on a state folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.daemon.instance import LOCK_FILE, AlreadyRunningError, InstanceLocks

HOLD = """
import sys
from pathlib import Path
from agent.daemon.instance import InstanceLocks
lock = InstanceLocks(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_the_second_is_told_the_process_id_of_the_first(tmp_path: Path) -> None:
    first = InstanceLocks(tmp_path / "state")
    with pytest.raises(AlreadyRunningError, match=f"process {os.getpid()}") as caught:
        InstanceLocks(tmp_path / "state")
    assert caught.value.pid == os.getpid()
    first.release()
    InstanceLocks(tmp_path / "state").release()


def test_the_file_belongs_to_its_owner_alone_whatever_it_was_before(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text("4711 and more of an older file\n")
    (tmp_path / LOCK_FILE).chmod(0o666)
    lock = InstanceLocks(tmp_path)
    assert (tmp_path / LOCK_FILE).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()}\n"
    lock.release()


def test_a_folder_under_two_names_is_one_folder(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "link").symlink_to("state")
    lock = InstanceLocks(tmp_path / "state")
    with pytest.raises(AlreadyRunningError):
        InstanceLocks(tmp_path / "link")
    lock.release()


def test_a_store_in_another_folder_is_for_one_agent_too(tmp_path: Path) -> None:
    """The second one waited for the database of the first, without a word."""
    store = tmp_path / "one" / "readings.db"
    first = InstanceLocks(tmp_path / "one", [store, store])
    with pytest.raises(AlreadyRunningError, match=r"readings\.db is in use") as caught:
        InstanceLocks(tmp_path / "two", [tmp_path / "two" / "meters.json", store])
    assert (caught.value.what, caught.value.pid) == (store, os.getpid())
    InstanceLocks(tmp_path / "two", [tmp_path / "two" / "meters.json"]).release()  # and what it had taken is free
    first.release()
    InstanceLocks(tmp_path / "two", [store]).release()


@pytest.mark.parametrize(("left", "pid"), [("", None), ("what?", None), ("12\n", 12)])
def test_what_stands_in_the_file_is_told_only_where_it_is_a_process_id(
    tmp_path: Path, left: str, pid: int | None
) -> None:
    lock = InstanceLocks(tmp_path)
    (tmp_path / LOCK_FILE).write_text(left)
    with pytest.raises(AlreadyRunningError) as caught:
        InstanceLocks(tmp_path)
    assert caught.value.pid == pid
    lock.release()


@pytest.mark.parametrize("obstacle", ["file", "link"])
def test_a_folder_that_cannot_be_used_is_the_systems_error(tmp_path: Path, obstacle: str) -> None:
    if obstacle == "file":
        (tmp_path / "state").touch()
    else:
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / LOCK_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="state"):
        InstanceLocks(tmp_path / "state")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.process
def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(AlreadyRunningError, match=f"process {holder.pid}"):
            InstanceLocks(tmp_path)
        holder.kill()
        holder.wait()
        InstanceLocks(tmp_path).release()
