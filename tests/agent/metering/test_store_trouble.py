"""A medium without room, or one that fails: nothing is said to be lost before it is, attempts are spaced, and health
says why, after a restart too."""

from __future__ import annotations

import functools
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from agent.metering.store.reading_store import Store, StoreError
from agent.metering.store.store_file import StoreFile
from agent.metering.store.trouble import AGAIN_FIRST_S, AGAIN_MAX_S, Trouble
from tests.agent.metering.readings import visit
from tests.agent.metering.store.stores import raws
from tests.agent.virtual import VirtualClock

FULL, FAILING = (sqlite3.SQLITE_FULL, "database or disk is full"), (sqlite3.SQLITE_IOERR_FSYNC, "disk I/O error")


class Medium(sqlite3.Connection):
    """Takes no commit while `trouble` says so: SQLite learns of that when it writes its log, or has it synced."""

    trouble: ClassVar[tuple[int, str] | None] = None
    refused: ClassVar[int] = 0

    def commit(self) -> None:
        if Medium.trouble is not None and self.in_transaction:
            Medium.refused += 1
            error = sqlite3.OperationalError(Medium.trouble[1])
            error.sqlite_errorcode = Medium.trouble[0]
            raise error
        super().commit()


@pytest.fixture(autouse=True)
def medium(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Medium]]:
    Medium.trouble, Medium.refused = None, 0
    monkeypatch.setattr(
        "agent.metering.store.store_file.sqlite3.connect", functools.partial(sqlite3.connect, factory=Medium)
    )
    monkeypatch.setattr(StoreFile, "free_bytes", lambda _: 12 << 10 if Medium.trouble is FULL else 1 << 30)
    yield Medium
    Medium.trouble = None


def opened(folder: Path, clock: VirtualClock, records_max: int = 10_000, keep: int = 0) -> tuple[Store, list[str]]:
    store = Store(folder / "readings.db", clock, records_max=records_max, keep_forwarded_max=keep)
    health: list[str] = []
    store.on_health = health.append
    return store, health


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if getattr(entry, "event", "") == event]


def test_nothing_is_said_to_be_lost_that_the_medium_did_not_let_go(
    tmp_path: Path, medium: type[Medium], caplog: pytest.LogCaptureFixture
) -> None:
    store, _ = opened(tmp_path, VirtualClock(), records_max=20)
    store.append(visit(0, 20))
    medium.trouble = FULL
    with pytest.raises(StoreError):
        store.append(visit(20, 10))
    assert said(caplog, "store.loss") == []
    assert said(caplog, "store.failed") == [
        f"the store takes nothing: {tmp_path}/readings.db: database or disk is full"
        " (no room on the medium: 12 KiB are free)"
    ]
    medium.trouble = None
    assert (raws(store), store.stats().lost) == (list(range(20)), 0)
    store.append(visit(20, 10))
    assert (raws(store), store.stats().lost) == (list(range(20, 30)), 20)
    assert len(said(caplog, "store.loss")) == 1


def test_a_damaged_visit_is_said_to_be_unreadable_once_that_is_noted(
    tmp_path: Path, medium: type[Medium], caplog: pytest.LogCaptureFixture
) -> None:
    store, _ = opened(tmp_path, VirtualClock())
    store.append(visit(0, 5))
    store.file.run(lambda db, _: db.execute("UPDATE block SET body=x'00' WHERE first=1"))
    medium.trouble = FULL
    for _ in range(3):
        with pytest.raises(StoreError):
            store.batch(9)
    assert said(caplog, "store.rot") == []
    medium.trouble = None
    store.batch(9)
    assert len(said(caplog, "store.rot")) == 1


@pytest.mark.parametrize(("trouble", "why"), [(FULL, "no room on the medium"), (FAILING, "disk I/O error")])
def test_health_says_why_nothing_is_stored_until_something_is_also_after_a_restart(
    tmp_path: Path, medium: type[Medium], trouble: tuple[int, str], why: str
) -> None:
    clock = VirtualClock()
    store, health = opened(tmp_path, clock)
    store.append(visit(0, 3))
    medium.trouble = trouble
    with pytest.raises(StoreError):
        store.append(visit(3, 3))
    assert raws(store) == [0, 1, 2]
    assert store.stats().pending == 3
    assert why in health[-1]
    assert "nothing is stored since 20" in health[-1]
    assert health[-1] in store.warnings()[0]
    store.close()
    again, health = opened(tmp_path, clock)
    again.tend()
    assert raws(again) == [0, 1, 2]
    assert why in health[-1], "that it can be read says nothing of writing"
    clock.advance(AGAIN_MAX_S)
    again.tend()
    assert again.problem
    medium.trouble = None
    clock.advance(AGAIN_MAX_S)
    again.tend()
    assert (health[-1], again.problem, again.warnings()) == ("", "", [])
    again.append(visit(3, 1))
    assert raws(again) == [0, 1, 2, 3]


def test_whoever_can_wait_tries_again_after_pauses_that_double(tmp_path: Path, medium: type[Medium]) -> None:
    clock = VirtualClock()
    store, _ = opened(tmp_path, clock)
    store.append(visit(0, 3))
    medium.trouble = FAILING
    begin = clock.monotonic()
    tries: list[float] = []
    with pytest.raises(StoreError):
        store.append(visit(3, 3))
    while clock.monotonic() < begin + 400:
        assert store.waits() is (
            clock.monotonic() < begin + sum(AGAIN_FIRST_S * 2**each for each in range(len(tries) + 1))
        )
        before = medium.refused
        store.tend()
        if medium.refused > before:
            tries.append(clock.monotonic() - begin)
        clock.advance(1.0)
    assert tries == [5.0, 15.0, 35.0, 75.0, 155.0, 315.0]


def test_what_fails_within_a_pause_does_not_make_it_longer() -> None:
    trouble = Trouble()
    assert trouble.failed("a", 0.0, 100.0)
    for _ in range(9):
        assert not trouble.failed("b", 1.0, 101.0)
    assert trouble.waits_s(101.0) == 4.0
    assert trouble.text() == "b; nothing is stored since 1970-01-01 00:00:00Z"
    assert not trouble.failed("b", 6.0, 106.0)
    assert trouble.waits_s(106.0) == 10.0
    assert trouble.over()
    assert not trouble.over()
    assert (trouble.waits_s(106.0), trouble.text()) == (0.0, "")
    trouble.failed("c", 9.0, 109.0)
    assert (trouble.since, trouble.waits_s(109.0)) == (9.0, 5.0)


def test_a_full_medium_costs_delivered_readings_and_none_that_wait(tmp_path: Path, medium: type[Medium]) -> None:
    """Others have taken the room, and may give it back: what nobody has yet is not given up for a new visit."""
    store, _ = opened(tmp_path, VirtualClock(), keep=100)
    for number in range(10):
        store.append(visit(number * 10, 10))
    store.release(store.stats().uuid, 30)
    shed = store._shed_delivered
    store._shed_delivered = lambda db, counters: _with_room_again(medium, shed(db, counters))  # type: ignore[method-assign]
    medium.trouble = FULL
    store.append(visit(100, 10))
    stats = store.stats()
    assert (stats.kept, stats.pending, stats.lost) == (0, 80, 0)
    assert store.problem == ""


def _with_room_again(medium: type[Medium], gone: bool) -> bool:
    medium.trouble = None
    return gone


def test_a_medium_that_does_not_say_how_much_room_it_has_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()

    def unknown(_: object) -> None:
        raise OSError(38, "not implemented")

    monkeypatch.setattr(os, "statvfs", unknown)
    store, health = opened(tmp_path, VirtualClock())
    store.tend()
    store.append(visit(0, 1))
    assert not any(health)


def test_a_healthy_store_is_written_to_once_to_find_out(tmp_path: Path) -> None:
    store, health = opened(tmp_path, VirtualClock())
    store.tend()
    log = tmp_path / "readings.db-wal"
    size = log.stat().st_size
    for _ in range(9):
        store.tend()
    assert log.stat().st_size == size
    assert not any(health)
