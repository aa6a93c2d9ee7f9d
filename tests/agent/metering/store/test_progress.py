"""How far each meter was read, and what was learned about it: the newest visit says so, wherever in the file it is."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from agent.metering.store import reading_store
from agent.metering.store.reading_store import Progress, Store
from tests.agent.metering.readings import visit
from tests.agent.metering.store.stores import store


def rows_of(opened: Store, table: str) -> list[tuple[object, ...]]:
    return opened.ask(lambda db: db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall())


def changes(opened: Store) -> int:
    """How many rows were written since the file was opened."""
    return opened.ask(lambda db: db.total_changes)


def test_the_newest_visit_says_how_far_a_meter_was_read_and_from_which_record_on(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 3), [Progress("m1", "t1", 900)])
    opened.append(visit(3, 3), [Progress("m1", "t1", 1800), Progress("m1", "t2", 3600)])
    assert opened.dated_progress() == {("m1", "t1"): (4, 1800), ("m1", "t2"): (4, 3600)}
    assert opened.progress() == {("m1", "t1"): 1800, ("m1", "t2"): 3600}


def test_a_visit_that_brought_nothing_counts_as_well_and_goes_by_its_place_among_the_others(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append([], [Progress("m1", "t1", 900)])
    assert opened.dated_progress() == {("m1", "t1"): (1, 900)}
    opened.append(visit(0, 3), [Progress("m1", "t1", 1800)])  # begins with the id that the one before it stands at
    assert opened.dated_progress() == {("m1", "t1"): (1, 1800)}
    opened.append([], [Progress("m1", "t1", 2700)])
    assert opened.dated_progress() == {("m1", "t1"): (4, 2700)}


@pytest.mark.parametrize("later", ["m1", "m2"])
def test_progress_stays_when_the_visit_that_says_so_goes(tmp_path: Path, later: str) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 3), [Progress("m1", "t1", 900), Progress("m1", "t2", 900)])
    opened.append(visit(3, 3, later), [Progress(later, "t1", 1800)])
    opened.release(opened.stats().uuid, 3)
    assert opened.stats().kept == 0
    assert opened.dated_progress() == {
        ("m1", "t1"): (1, 900), ("m1", "t2"): (1, 900), (later, "t1"): (4, 1800),
    }  # fmt: skip


def test_only_what_no_later_visit_says_is_written_down_when_a_visit_goes(tmp_path: Path) -> None:
    """A page less to write per visit, which on flash is a good part of the wear."""
    opened = store(tmp_path)
    opened.append(visit(0, 3), [Progress("m1", "t1", 900), Progress("m1", "t2", 900), Progress("m1", "t3", 900)])
    opened.append(visit(3, 3), [Progress("m1", "t1", 1800)])
    opened.append(visit(6, 3), [Progress("m1", "t2", 1800)])
    opened.release(opened.stats().uuid, 3)
    assert rows_of(opened, "progress") == [("m1", "t3", 900, 1)]
    assert opened.progress() == {("m1", "t1"): 1800, ("m1", "t2"): 1800, ("m1", "t3"): 900}


def test_a_visit_that_goes_takes_back_no_later_progress(tmp_path: Path) -> None:
    opened = store(tmp_path, records_max=6)
    opened.append(visit(0, 3), [Progress("m1", "t1", 900)])
    opened.append([], [Progress("m1", "t1", 1800)])
    opened.append(visit(3, 6, "m2"))
    assert opened.stats().lost == 3
    assert opened.dated_progress() == {("m1", "t1"): (4, 1800)}


def test_forgetting_reaches_the_visits_that_are_still_in_the_file(tmp_path: Path) -> None:
    opened = store(tmp_path)
    for meter in ("m1", "m2", "m3"):
        opened.append(visit(0, 2, meter), [Progress(meter, "t1", 900), Progress(meter, "t2", 900)])
    opened.forget(meters=["m1"])
    assert set(opened.progress()) == {("m2", "t1"), ("m2", "t2"), ("m3", "t1"), ("m3", "t2")}
    opened.forget(tasks=["t1"])
    assert set(opened.progress()) == {("m2", "t2"), ("m3", "t2")}
    opened.forget(meters=["m3"], tasks=["t7"])
    assert set(opened.progress()) == {("m2", "t2")}


def test_forgetting_what_nothing_is_known_of_writes_nothing(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 2), [Progress("m1", "t1", 900)], {"m1": {}})
    before = changes(opened)
    opened.forget(meters=["m2"], tasks=["t2"])
    assert changes(opened) == before


def test_meters_that_are_gone_are_forgotten_once_more_names_are_known_than_there_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_store, "REMEMBERED_MAX", 3)
    opened = store(tmp_path)
    opened.append([], [Progress(meter, "t1", 900) for meter in ("m1", "m2", "m3")], {"m1": {}, "m2#t1#x": {}})
    assert opened.retain(["m1"]) == 0
    opened.append([], [Progress("m4", "t1", 900)])
    assert opened.retain(["m1", "m4"]) == 2
    assert set(opened.progress()) == {("m1", "t1"), ("m4", "t1")}
    assert opened.knowledge("m2#t1#x") == {}, "so few names are no burden"


def test_what_the_ledger_writes_is_there_with_the_visit_or_not_at_all(tmp_path: Path) -> None:
    opened = store(tmp_path)

    def begins(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO account VALUES ('m1', 't1', 900, 0, 900)")

    opened.append(visit(0, 1), also=begins)
    assert rows_of(opened, "account") == [("m1", "t1", 900, 0, 900)]

    def fails(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO account VALUES ('m2', 't1', 900, 0, 900)")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        opened.append(visit(1, 1), [Progress("m1", "t1", 900)], also=fails)
    assert (opened.stats().pending, opened.progress()) == (1, {})
    assert rows_of(opened, "account") == [("m1", "t1", 900, 0, 900)]
