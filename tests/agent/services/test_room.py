"""What a program may keep: the measure, the limit and what comes of it, without a program."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.__main__ import Daemon
from agent.metering.store.reading_store import Store
from agent.services.folders import erase, kept_kib, make_room, together_kib_max
from agent.services.room import CLEAN_UP_S, COUNTED_TIMES, ENTRY_KIB, Room, alarm, crowding, file_kib_max
from omadm.readings import EVENT_FIELDS, emit, parse
from tests.agent.virtual import VirtualClock

LIMIT = 1000


@pytest.mark.parametrize(
    ("seen", "stopped"),
    [
        ([(0, 0), (LIMIT, 10)], ""),
        ([(0, 0), (LIMIT + 4, 10)], "keeps 1004 KiB in its folder, 1000 KiB are allowed"),
        ([(0, 0), (COUNTED_TIMES * LIMIT, 10)], "keeps 64000 KiB and more in its folder, 1000 KiB are allowed"),
        # What was there before may become less for a minute, and not more.
        ([(1500, 0), (1500, CLEAN_UP_S - 1), (900, CLEAN_UP_S + 1)], ""),
        ([(1500, 0), (1500, CLEAN_UP_S)], "keeps 1500 KiB"),
        ([(1500, 0), (1504, 1)], "keeps 1504 KiB"),
        ([(1500, 0), (900, 5), (1004, 6)], "keeps 1004 KiB"),
        ([(COUNTED_TIMES * LIMIT, 0)], "keeps 64000 KiB and more"),
    ],
)
def test_when_it_is_too_much(seen: list[tuple[int, float]], stopped: str) -> None:
    one = Room(LIMIT)
    said = [one.exceeded(kib, now) for kib, now in seen]
    assert said[:-1] == [""] * (len(seen) - 1)
    assert said[-1].startswith(stopped)
    assert bool(said[-1]) == bool(stopped)


@pytest.mark.parametrize(
    ("kept", "stopped"),
    [
        ({}, ""),
        ({"a": 600, "b": 400}, ""),
        ({"a": 401, "b": 600}, "b"),
        ({"a": 500, "b": 0, "c": 501}, "c"),
    ],
)
def test_all_programs_together_keep_a_part_of_the_file_system(kept: dict[str, int], stopped: str) -> None:
    found = crowding(kept, 1000)
    assert (found is not None) == bool(stopped)
    if found is not None:
        assert found[0] == stopped
        assert found[1].endswith("1001 KiB together, 1000 KiB are allowed")


def test_the_part_is_a_quarter_and_where_nothing_can_be_told_there_is_no_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(path: Path) -> SimpleNamespace:
        if path != tmp_path:
            raise FileNotFoundError(path)
        return SimpleNamespace(f_blocks=64 << 8, f_frsize=4096)  # 64 MiB

    monkeypatch.setattr(os, "statvfs", small)
    assert together_kib_max(tmp_path / "services") == 16 << 10
    assert together_kib_max(Path("/elsewhere")) > 1 << 50


def test_what_lies_on_the_disk_is_counted_and_every_entry_for_something(tmp_path: Path) -> None:
    home = tmp_path / "watch"
    assert kept_kib(home, LIMIT) == 0
    home.mkdir()
    assert kept_kib(home, LIMIT) == 0
    (home / "data").write_bytes(os.urandom(100 << 10))
    assert 100 <= kept_kib(home, LIMIT) <= 112
    (home / "data").unlink()
    with (home / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    for number in range(20):
        (home / f"empty{number}").touch()
    assert kept_kib(home, LIMIT) == 21 * ENTRY_KIB
    (home / "elsewhere").symlink_to("/usr")
    assert kept_kib(home, LIMIT) == 22 * ENTRY_KIB


def test_looking_takes_a_bounded_time_and_nothing_is_hidden_in_the_deep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "many").mkdir()
    for number in range(200):
        (tmp_path / "many" / str(number)).touch()
    looked: list[str] = []
    scandir = os.scandir

    def looking(path: str) -> object:
        looked.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", looking)
    assert kept_kib(tmp_path / "many", 10) == COUNTED_TIMES * 10
    home = tmp_path / "deep"
    here = os.open(tmp_path, os.O_RDONLY)
    for name in ["deep", *["d" * 250] * 20]:  # longer than any path may be
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    looked.clear()
    assert kept_kib(home, LIMIT) == COUNTED_TIMES * LIMIT
    assert len(looked) < 20
    erase(home)


@pytest.mark.parametrize(
    ("blocks", "free", "erased"),
    [(1 << 20, 1 << 14, False), (1 << 20, 100, True), (1000, 101, False), (1000, 99, True)],
)
def test_what_was_kept_goes_only_where_others_need_the_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, free: int, erased: bool
) -> None:
    home = tmp_path / "watch"
    home.mkdir()
    values = {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": blocks, "f_bfree": free, "f_bavail": free}
    monkeypatch.setattr(os, "statvfs", lambda _: type("Found", (), values))
    assert bool(make_room(home)) == erased
    assert home.exists() != erased
    monkeypatch.undo()
    assert make_room(tmp_path / "never") == ""


def test_the_alarm_is_a_grave_notice_of_its_own_time() -> None:
    first, later = (alarm("watch", "1.0", "keeps too much", wall) for wall in (1000.0, 2000.0))
    row = dict(zip(EVENT_FIELDS, first.row(), strict=True))
    assert (row["event"], row["grave"], row["sender"]) == ("notice", True, "service watch 1.0")
    assert row["values"] == [{"tag": "str", "raw": "keeps too much"}]
    assert first.key != later.key


def test_the_largest_file_is_just_too_much() -> None:
    assert file_kib_max(LIMIT) > LIMIT


def test_the_head_end_is_told_ahead_of_the_readings(tmp_path: Path) -> None:
    clock = VirtualClock()
    kept = Store(tmp_path / "readings.db", clock, records_max=100, keep_forwarded_max=0)
    daemon = SimpleNamespace(store=kept, clock=clock)
    Daemon._service_stopped(daemon, "watch", "1.0", "keeps too much")  # type: ignore[arg-type]
    batch = kept.batch(10)
    assert batch is not None
    (told,) = batch.records
    assert (told["event"], told["sender"], told["grave"]) == ("notice", "service watch 1.0", True)
    (arrived,) = parse(emit("urn:dcu:1", batch.store, batch.records)).events
    assert arrived.report.values == [{"tag": "str", "raw": "keeps too much"}]
    kept.close()
