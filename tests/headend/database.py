"""Databases of the head-end in files, with keys: an empty one as a copy, because its tables take 15 ms to make."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from sqlalchemy import Engine, and_, select, update

from headend import db
from headend.sealing import columns, envelope, keyring
from headend.sealing.envelope import Binding
from headend.sealing.errors import KeyMissingError, SealedValueError, WrongKeyError
from headend.sealing.keyring import KeyRing

KEK_ID = "0a" * 8


class KeyInMemory:
    """A `KeySource` with one key, the same in every test."""

    name = "the tests' key"

    def __init__(self, key: bytes = bytes(range(32)), key_id: str = KEK_ID) -> None:
        self.keys = {key_id: key}

    def ids(self) -> list[str]:
        return list(self.keys)

    def make(self) -> str:
        key_id = f"{len(self.keys):016x}"
        self.keys[key_id] = bytes(31) + bytes([len(self.keys)])
        return key_id

    def wrap(self, key_id: str, data_key: bytes, associated: str) -> bytes:
        return envelope.seal(self.keys[key_id], bytes(8), bytes(24), data_key, Binding("test", associated, ()))

    def unwrap(self, key_id: str, wrapped: bytes, associated: str) -> bytes:
        if key_id not in self.keys:
            raise KeyMissingError(f"{self.name}: no key {key_id}")
        try:
            return envelope.unseal(self.keys[key_id], wrapped, Binding("test", associated, ()))
        except SealedValueError as error:
            raise WrongKeyError(f"{self.name}: wrong key {key_id}") from error

    def retire(self, keep: Iterable[str]) -> list[str]:
        gone = [key_id for key_id in list(self.keys)[:-1] if key_id not in set(keep)]
        for key_id in gone:
            del self.keys[key_id]
        return gone


def open_database(path: Path | str) -> Engine:
    """An engine for a database at `path`, with the tests' key."""
    return db.open_engine(f"sqlite:///{path}", KeyRing(KeyInMemory()))


def empty_database(path: Path) -> Engine:
    """An engine for a new database at `path`, with the tables that `headend.db.create_tables` would make there."""
    path.write_bytes(_file_with(frozenset(db.metadata.tables)))
    return open_database(path)


def back_to_schema_3(engine: Engine) -> None:
    """Make the database what a head-end of before sealing left: every secret in clear, and no data key."""
    with engine.begin() as connection:
        for table in db.metadata.sorted_tables:
            names = [one.column.name for one in columns.sealed_columns(table)]
            for row in connection.execute(select(table)).all() if names else ():
                clear = columns.unseal(connection, table, row)
                mine = and_(*(each == row._mapping[each.name] for each in table.primary_key.columns))
                connection.execute(update(table).where(mine).values({name: clear[name] for name in names}))
        keyring.data_keys.drop(connection)
        connection.execute(update(db.schema).values(version=3))


@cache
def _file_with(tables: frozenset[str]) -> bytes:  # which those are depends on what was imported by now
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        engine = open_database(path)
        db.create_tables(engine)
        engine.dispose()
        return path.read_bytes()
