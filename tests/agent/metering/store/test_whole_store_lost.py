"""A store that is gone as a whole, or all but its first pages, while its sign of life is there: what the sign tells."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import pytest

from agent.metering.store import store_file
from agent.metering.store.life_sign import LifeSign, LifeSignFile
from agent.metering.store.reading_store import Store
from agent.metering.store.recovery import UNSEEN_S
from tests.agent.metering.readings import event
from tests.agent.metering.store.stores import settled
from tests.agent.metering.store.test_life_sign import NAME, RECORDS, Headend, collect, deliver, opened
from tests.agent.virtual import VirtualClock

if TYPE_CHECKING:
    from _typeshed import TraceFunction

ALIVE, LOG = f"{NAME}-alive", f"{NAME}-wal"
T0 = VirtualClock().wall()
VISITS = 6
ROOM = str(Path(store_file.__file__).parent)


def lived(folder: Path, delivered: int = 2, events: int = 0) -> str:
    """A store that took a visit every quarter of an hour, of which the first ones were delivered, then some events, and
    then a sign of life; it lost its power. Returns its name."""
    clock, headend = VirtualClock(), Headend()
    store = opened(folder / "now", clock)
    for number in range(1, VISITS + 1):
        clock.advance(900.0)
        collect(store, number)
        if number <= delivered:
            deliver(store, headend)
    for number in range(events):
        store.append([], urgent=[event(f"k{number}")])
    store.note_alive(clock.wall())
    uuid = store.file.uuid
    shutil.copytree(folder / "now", folder / "s")
    store.close()
    return uuid


def gone(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != ALIVE:
            path.unlink()


def empty(folder: Path) -> None:
    gone(folder)
    (folder / NAME).touch()


def without_log(folder: Path) -> None:
    (folder / LOG).unlink()


def without_log_that_had_everything(folder: Path) -> None:
    """As earlier versions left it, which moved nothing out of the log before that was full."""
    gone(folder)
    db = sqlite3.connect(folder / NAME)
    db.execute("PRAGMA page_size=512")
    db.execute("PRAGMA journal_mode=WAL")
    db.close()
    assert (folder / NAME).stat().st_size == 512


def log_alone(folder: Path) -> None:
    (folder / NAME).unlink()


def garbage(folder: Path) -> None:
    gone(folder)
    (folder / NAME).write_bytes(b"\xa5" * 40_960)


WAYS = [gone, empty, without_log, without_log_that_had_everything, log_alone, garbage]


def after(folder: Path, wall: float = T0 + 36_000.0) -> Store:
    return settled(opened(folder, VirtualClock(wall=wall)))


@pytest.mark.parametrize("lose", WAYS)
def test_what_was_not_delivered_is_counted_and_its_time_is_known(
    tmp_path: Path, lose: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    uuid = lived(tmp_path)
    lose(tmp_path / "s")
    store = after(tmp_path / "s")
    lost = (VISITS - 2) * RECORDS
    assert store.file.uuid != uuid
    assert (store.stats().lost, store.stats().pending) == (lost, 0)
    assert store.stats().lost_at == T0 + 36_000.0
    losses = store.losses()
    assert sum(loss.records for loss in losses) == lost
    for loss in losses:
        assert (loss.meter, loss.reason) == ("", "damaged")
        assert T0 + 900.0 * 2 <= loss.since <= T0 + 900.0 * 3, (
            "when the last that was delivered was stored, or the next"
        )
        assert loss.until == T0 + 36_000.0
        assert loss.reach <= T0 + 900.0 * 3 - UNSEEN_S
    assert "store.corrupt" in [
        getattr(record, "event", "") for record in caplog.records if record.levelname == "CRITICAL"
    ]
    store.close()
    again = after(tmp_path / "s")
    assert (again.stats().lost, again.losses()) == (lost, losses)  # once
    again.close()


@pytest.mark.parametrize("lose", [gone, empty, without_log_that_had_everything])
def test_where_everything_was_delivered_nothing_is_lost(
    tmp_path: Path, lose: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    lived(tmp_path, delivered=VISITS)
    lose(tmp_path / "s")
    store = after(tmp_path / "s")
    assert (store.stats().lost, store.losses()) == (0, [])
    assert "store.corrupt" in [getattr(record, "event", "") for record in caplog.records]
    store.close()


def test_a_new_device_has_lost_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        store = after(tmp_path / "s")
        store.close()
        store = after(tmp_path / "s")
    assert (store.stats().lost, store.losses(), caplog.records) == (0, [], [])
    assert [path.name for path in (tmp_path / "s").iterdir() if "quarantine" in path.name] == []
    store.close()


@pytest.mark.parametrize("wall", [0.0, T0 - 86_400.0, T0 + 36_000.0])
def test_a_clock_that_has_lost_its_time_does_not_hide_the_time_of_the_loss(tmp_path: Path, wall: float) -> None:
    lived(tmp_path)
    gone(tmp_path / "s")
    (loss,) = after(tmp_path / "s", wall).losses()
    assert loss.since <= T0 + 900.0 * 3
    assert loss.until >= T0 + 900.0 * VISITS


def test_a_sign_that_lost_its_newest_generation_still_tells(tmp_path: Path) -> None:
    lived(tmp_path)
    signs = LifeSignFile(tmp_path / "s" / ALIVE)
    newest = signs.read()
    assert newest is not None
    older = replace(newest, number=newest.number + 1, released=RECORDS, delivered_to=T0 + 900.0)
    signs.write(older)
    octets = bytearray((tmp_path / "s" / ALIVE).read_bytes())
    for copy in (0, 2048):
        octets[newest.number % 2 * 4096 + copy + 20] ^= 0xFF
    (tmp_path / "s" / ALIVE).write_bytes(octets)
    gone(tmp_path / "s")
    store = after(tmp_path / "s")
    assert store.stats().lost == (VISITS - 1) * RECORDS
    assert store.losses()[0].since == T0 + 900.0
    store.close()


# ---- power cuts


def states(folder: Path, start: Callable[[], Store]) -> list[dict[str, bytes]]:
    """Every state that the folder is in while a store starts, as a kill after any line of this room would leave it."""
    found: list[dict[str, bytes]] = []

    def look(frame: FrameType, what: str, _: object) -> TraceFunction | None:
        if not frame.f_code.co_filename.startswith(ROOM):
            return None
        if what == "line":
            now = {path.name: path.read_bytes() for path in sorted(folder.iterdir())} if folder.exists() else {}
            if not found or found[-1] != now:
                found.append(now)
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        store = start()
    finally:
        sys.settrace(before)
    store.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("lose", WAYS)
def test_a_power_cut_anywhere_in_the_start_after_it_loses_no_loss_and_says_none_twice(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    uuid = lived(tmp_path, events=2)
    lose(tmp_path / "s")
    lost = (VISITS - 2) * RECORDS + 2
    cuts = states(tmp_path / "s", lambda: after(tmp_path / "s"))
    assert len(cuts) > 6
    for number, files in enumerate(cuts):
        case = tmp_path / f"cut-{number}"
        case.mkdir()
        for name, octets in files.items():
            (case / name).write_bytes(octets)
        store = after(case, T0 + 36_060.0)
        assert store.file.uuid != uuid
        assert store.stats().lost == lost, number
        assert sum(loss.records for loss in store.losses()) == lost, number
        told = []
        while (batch := store.batch(100)) is not None:
            told += [one for one in batch.records if "event" in one]
            store.release(batch.store, batch.last, first=batch.first)
        assert [(one["event"], one["count"]) for one in told] == [("notice", 2)], number
        kept = len([path for path in case.iterdir() if "quarantine" in path.name and path.suffix[-1].isdigit()])
        assert kept == (lose in (without_log, garbage)), number
        sign = LifeSignFile(case / ALIVE).read()
        assert sign is not None
        assert sign.store == store.file.uuid, number
        store.close()
        shutil.rmtree(case)


@pytest.mark.slow
def test_a_power_cut_anywhere_in_the_very_first_start_is_no_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, files in enumerate(states(tmp_path / "s", lambda: after(tmp_path / "s"))):
        case = tmp_path / f"cut-{number}"
        case.mkdir()
        for name, octets in files.items():
            (case / name).write_bytes(octets)
        store = after(case)
        collect(store, 1)
        assert (store.stats().lost, store.losses()) == (0, []), number
        store.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_sign_of_nothing_is_no_loss(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    LifeSignFile(tmp_path / "s" / ALIVE).write(LifeSign(1, "ab" * 16))
    assert after(tmp_path / "s").losses() == []
