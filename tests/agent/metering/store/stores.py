"""Stores for the tests of this room: how one is opened, emptied, and spoiled."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from agent.metering.store.reading_store import Store
from tests.agent.virtual import VirtualClock


def store(tmp_path: Path, records_max: int = 10_000, keep: int = 0, bytes_max: int = 64 << 20) -> Store:
    return Store(
        tmp_path / "s" / "readings.db",
        VirtualClock(),
        records_max=records_max,
        keep_forwarded_max=keep,
        bytes_max=bytes_max,
    )


def raws(opened: Store, records_max: int = 1000) -> list[object]:
    batch = opened.batch(records_max)
    return [record["raw"] for record in batch.records] if batch else []


def spoil(opened: Store, statement: str) -> None:
    """Change the file behind the store's back, without regard to its rules."""
    opened.close()
    (file,) = opened.file.names()
    db = sqlite3.connect(file)
    db.execute("PRAGMA ignore_check_constraints=1")
    db.execute(statement)
    db.commit()
    db.close()


def settled(opened: Store) -> Store:
    """The store after it has recovered what is in quarantine."""
    opened.stats()
    while opened.file.recovering:
        opened.stats()
    return opened


def delivered(opened: Store, records_max: int = 700) -> list[tuple[str, object, object]]:
    """Everything that the head-end gets, as (store, id, value)."""
    got: list[tuple[str, object, object]] = []
    while (batch := opened.batch(records_max)) is not None:
        assert len(batch.records) <= records_max
        got += [(batch.store, record["id"], record["raw"]) for record in batch.records]
        opened.release(batch.store, batch.last)
    return got
