"""An empty database of the head-end in a file, as a copy: most tests want one, and its tables take 15 ms to make."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from sqlalchemy import Engine

from headend import db


def empty_database(path: Path) -> Engine:
    """An engine for a new database at `path`, with the tables that `headend.db.create_tables` would make there."""
    path.write_bytes(_file_with(frozenset(db.metadata.tables)))
    return db.open_engine(f"sqlite:///{path}")


@cache
def _file_with(tables: frozenset[str]) -> bytes:  # which those are depends on what was imported by now
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        engine = db.open_engine(f"sqlite:///{path}")
        db.create_tables(engine)
        engine.dispose()
        return path.read_bytes()
