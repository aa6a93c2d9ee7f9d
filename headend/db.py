"""The head-end's database: one `MetaData` for all servers, and engines that commit durably.

SQLite is the default, and the only database in use; the tables use nothing that PostgreSQL lacks. Times are seconds
since the epoch (UTC). Every server imports `metadata` and declares its tables in its own package.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Table,
    create_engine,
    event,
    insert,
    inspect,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import ConnectionPoolEntry

BUSY_TIMEOUT_MS = 30_000  # a writer waits this long for another writer before the request fails
PRIVATE_MODE = 0o600
_READ_ONLY = "dcu_read_only"

SCHEMA_VERSION = 2
# From this version to the next; tables that are missing altogether need none.
_MIGRATIONS = {
    1: (
        "ALTER TABLE readings ADD COLUMN profile VARCHAR(128)",
        "ALTER TABLE readings ADD COLUMN reread VARCHAR(128)",
        "ALTER TABLE readings ADD COLUMN identity VARCHAR(32)",
        "ALTER TABLE readings ADD COLUMN repeated BOOLEAN NOT NULL DEFAULT FALSE",
        "CREATE INDEX ix_readings_identity ON readings (device, identity)",
    ),
}

metadata = MetaData()
schema = Table("schema_version", metadata, Column("version", Integer, nullable=False))


class SchemaError(Exception):
    """The database was made by a later version of the head-end. Nothing in it was changed."""


def open_engine(url: str) -> Engine:
    """An engine for `url` (`sqlite:////abs/path.db`, later `postgresql+psycopg://…`).

    A SQLite file is readable by its owner only, because it holds device keys. What `engine.begin()` commits is durable.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True)
    if parsed.database and parsed.database != ":memory:":
        _make_private(Path(parsed.database))
    engine = create_engine(parsed)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def create_tables(engine: Engine) -> None:
    """Create missing tables, and bring a database of an earlier version forward. The modules that declare tables must
    have been imported.

    Raises `SchemaError` for a database that a later version of the head-end made.
    """
    with engine.begin() as connection:
        schema.create(connection, checkfirst=True)
        found = connection.scalars(select(schema.c.version)).one_or_none()
        if found is not None and not 0 < found <= SCHEMA_VERSION:
            raise SchemaError(f"the database has schema {found}, this head-end needs {SCHEMA_VERSION}")
        for version in range(found or SCHEMA_VERSION, SCHEMA_VERSION):
            for statement in _MIGRATIONS[version]:
                connection.execute(text(statement))
        metadata.create_all(connection)
        _add_columns(connection)
        if found is None:
            connection.execute(insert(schema).values(version=SCHEMA_VERSION))
        elif found < SCHEMA_VERSION:
            connection.execute(update(schema).values(version=SCHEMA_VERSION))


def _add_columns(connection: Connection) -> None:
    """Bring tables of an earlier head-end forward: a column that may be null changes nothing for the rows there are,
    nor for that head-end, should it come back."""
    found = inspect(connection)
    for table in metadata.sorted_tables:
        known = {column["name"] for column in found.get_columns(table.name)}
        for column in table.c:
            if column.name not in known and column.nullable:
                kind = column.type.compile(connection.dialect)
                connection.exec_driver_sql(f'ALTER TABLE "{table.name}" ADD COLUMN "{column.name}" {kind}')


def reader(engine: Engine) -> Engine:
    """The same database for `begin()` blocks that only read: they do not wait for writers."""
    return engine.execution_options(**{_READ_ONLY: True})


def insert_new(connection: Connection, table: Table, rows: list[dict[str, object]]) -> None:
    """Insert rows; a row whose primary key exists already is left unchanged."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        connection.execute(postgresql.insert(table).on_conflict_do_nothing(), rows)
    else:
        connection.execute(sqlite.insert(table).on_conflict_do_nothing(), rows)


def _make_private(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
    os.close(descriptor)
    path.chmod(PRIVATE_MODE)


def _prepare_sqlite(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver begins no transactions of its own: `_begin_sqlite` does
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # an acknowledged reading survives a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at the start. A transaction that reads first and writes later could otherwise fail half-way,
    because another one wrote in between."""
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
