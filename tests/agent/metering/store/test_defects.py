"""Work that breaks the rules of the tables: our own defect costs that piece of work; only damage condemns the file."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.metering.store.reading_store import StoreDefectError, StoreError
from tests.agent.metering.readings import event, visit
from tests.agent.metering.store.stores import raws, settled, spoil, store

DEFECTS: dict[str, Callable[[sqlite3.Connection], object]] = {
    "not null": lambda db: db.execute("INSERT INTO gap VALUES ('m', 't', 'p', 1, 2, 3, NULL)"),
    "unique": lambda db: db.executemany("INSERT INTO sink VALUES (?, 0, 0)", [("a",), ("a",)]),
    "check": lambda db: db.execute("INSERT INTO progress VALUES ('m', 't', 'noon', 1)"),
    "row id": lambda db: db.execute("INSERT INTO delivered VALUES ('one', 2)"),
    "too long": lambda db: db.execute("INSERT INTO event VALUES (1, 0, zeroblob(2000000000), 1)"),
}


def names(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "s").iterdir() if "quarantine" in path.name]


@pytest.mark.parametrize("broken", DEFECTS.values(), ids=DEFECTS)
def test_work_that_the_tables_do_not_take_is_a_defect_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: Callable[[sqlite3.Connection], object]
) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 3))
    uuid, told = opened.stats().uuid, list[str]()
    opened.on_health = told.append
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            with pytest.raises(StoreDefectError):
                opened.append(visit(3, 3), also=broken)  # type: ignore[arg-type]
    assert told[0]
    assert [record.levelname for record in caplog.records if getattr(record, "event", "") == "store.defect"] == [
        "ERROR"
    ]
    assert raws(opened) == [0, 1, 2]
    opened.append(visit(7, 1))
    assert (raws(opened), opened.stats().uuid, opened.stats().lost) == ([0, 1, 2, 7], uuid, 0)
    assert told[-1] == ""
    opened.close()
    again = store(tmp_path)
    assert (raws(again), again.stats().uuid, names(tmp_path)) == ([0, 1, 2, 7], uuid, [])


def test_a_defect_is_a_store_error_for_whoever_waits_and_tries_again() -> None:
    assert issubclass(StoreDefectError, StoreError)


def test_where_the_file_itself_breaks_its_rules_it_is_damaged(tmp_path: Path) -> None:
    """The index of names lacks a row that its table has: a second one of the name would be taken."""
    opened = store(tmp_path)
    opened.append(visit(0, 3))

    def spoiled(db: sqlite3.Connection) -> None:
        db.execute("PRAGMA writable_schema=ON")
        db.execute("UPDATE sqlite_master SET sql='CREATE TABLE refused (id INTEGER PRIMARY KEY, record TEXT NOT NULL,"
                   " why TEXT NOT NULL, CHECK (id < 0))' WHERE name='refused'")  # fmt: skip
        db.execute("PRAGMA writable_schema=RESET")

    opened.ask(lambda db: db.execute("INSERT INTO refused VALUES (7, '{}', '')"))
    opened.ask(spoiled)
    opened.ask(lambda db: db.execute("INSERT INTO refused VALUES (8, '{}', '')"))
    settled(opened)
    assert names(tmp_path), "quarantined"
    assert raws(opened) == [0, 1, 2], "and recovered"


def test_an_event_that_the_store_does_not_take_costs_that_event(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append([], urgent=[event("a")])
    with pytest.raises(StoreDefectError):
        opened.append([], urgent=[event("b"), event(None)])  # type: ignore[arg-type]
    opened.append([], urgent=[event("b")])
    batch = opened.urgent_batch(10)
    assert batch is not None
    assert [record["key"] for record in batch.records] == ["a", "b"]


@pytest.mark.parametrize(
    ("spoils", "said"),
    [
        (("DELETE FROM block WHERE first=4",), "3 are lost"),
        (("DELETE FROM block WHERE first=4", "DELETE FROM meta WHERE key='released'"), "at most 3 are lost"),
    ],
    ids=["the file knows", "nobody knows"],
)
def test_what_may_have_been_delivered_before_it_was_lost_is_at_most_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoils: tuple[str, ...], said: str
) -> None:
    opened = store(tmp_path, keep=100)
    for number in (0, 3, 6):
        opened.append(visit(number, 3))
    if len(spoils) > 1:  # delivered, as only the file knew
        opened.release(opened.stats().uuid, 9)
    for statement in (*spoils, "DROP TABLE knowledge"):
        spoil(opened, statement)
    caplog.clear()
    settled(store(tmp_path))
    (line,) = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "store.salvaged"]
    assert f", {said}" in line
