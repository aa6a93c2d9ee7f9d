"""The head-end's database: one `MetaData` for all servers, and engines that commit durably.

SQLite is the default, and the only database in use; the tables use nothing that PostgreSQL lacks. Times are seconds
since the epoch (UTC). Every server imports `metadata` and declares its tables in its own package.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Table,
    column,
    create_engine,
    event,
    insert,
    inspect,
    make_url,
    select,
    table,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import ConnectionPoolEntry

from headend.sealing import keyring
from headend.sealing.keyring import KeyRing
from headend.sealing.rotation import seal_clear_values

BUSY_TIMEOUT_MS = 30_000  # a writer waits this long for another writer before the request fails
PRIVATE_MODE = 0o600
_READ_ONLY = "dcu_read_only"

SCHEMA_VERSION = 4


def _commands_instead_of_verbs(connection: Connection) -> None:
    """The entries of a job `commands`, and of its result, called the command `verb`."""
    if not inspect(connection).has_table("dm_jobs"):
        return
    jobs = table("dm_jobs", column("id"), column("kind"), column("params", JSON), column("result", JSON))
    for row in connection.execute(select(jobs).where(jobs.c.kind == "commands")).all():
        changed = {}
        for name, content, entries in (("params", row.params, "commands"), ("result", row.result, "replies")):
            if isinstance(content, dict) and any("verb" in entry for entry in content.get(entries, ())):
                renamed = [{"command" if k == "verb" else k: v for k, v in entry.items()} for entry in content[entries]]
                changed[name] = {**content, entries: renamed}
        if changed:
            connection.execute(update(jobs).where(jobs.c.id == row.id).values(**changed))


# From this version to the next, as SQL or a function; tables that are missing altogether need none.
_MIGRATIONS: dict[int, tuple[str | Callable[[Connection], None], ...]] = {
    1: (
        "ALTER TABLE readings ADD COLUMN profile VARCHAR(128)",
        "ALTER TABLE readings ADD COLUMN reread VARCHAR(128)",
        "ALTER TABLE readings ADD COLUMN identity VARCHAR(32)",
        "ALTER TABLE readings ADD COLUMN repeated BOOLEAN NOT NULL DEFAULT FALSE",
        "CREATE INDEX ix_readings_identity ON readings (device, identity)",
    ),
    2: (_commands_instead_of_verbs,),
    3: (seal_clear_values,),
}

metadata = MetaData()
keyring.data_keys.to_metadata(metadata)
schema = Table("schema_version", metadata, Column("version", Integer, nullable=False))


class SchemaError(Exception):
    """The database was made by a later version of the head-end. Nothing in it was changed."""


def open_engine(url: str, ring: KeyRing | None = None) -> Engine:
    """An engine for `url` (`sqlite:////abs/path.db`, later `postgresql+psycopg://…`), which seals and opens secrets
    with `ring`; without one, only what is not sealed can be read.

    A SQLite file is readable by its owner only. What `engine.begin()` commits is durable.
    Raises `SchemaError` for the file of a later head-end, before anything of it is touched.
    """
    parsed = make_url(url)
    options = {keyring.OPTION: ring}
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True, execution_options=options)
    if parsed.database and parsed.database != ":memory:":
        _refuse_later(Path(parsed.database))
        _make_private(Path(parsed.database))
    engine = create_engine(parsed, execution_options=options)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def create_tables(engine: Engine) -> None:
    """Create missing tables, bring a database of an earlier version forward, and open its keys. The modules that
    declare tables must have been imported.

    Raises `SchemaError` for a database that a later version of the head-end made, and `SealingError` when the keys of
    the engine are not those of the database, or there are none; the database is as it was then.
    """
    with engine.begin() as connection:
        found = None
        if inspect(connection).has_table(schema.name):
            found = connection.scalars(select(schema.c.version)).one_or_none()
            _check_version(found)
        schema.create(connection, checkfirst=True)
        for version in range(found or SCHEMA_VERSION, SCHEMA_VERSION):
            for step in _MIGRATIONS[version]:
                if isinstance(step, str):
                    connection.execute(text(step))
                else:
                    step(connection)
        metadata.create_all(connection)
        _add_columns(connection)
        _add_indexes(connection)
        ring = keyring.of(connection)
        if found is None:
            ring.make(connection, clear_gone=True)
            connection.execute(insert(schema).values(version=SCHEMA_VERSION))
        else:
            ring.unlock(connection)
            if found < SCHEMA_VERSION:
                connection.execute(update(schema).values(version=SCHEMA_VERSION))


def _check_version(found: object) -> None:
    """SQLite keeps a text in a column of numbers, and what is no number is no version that we know."""
    if found is not None and not (isinstance(found, int) and 0 < found <= SCHEMA_VERSION):
        raise SchemaError(f"the database has schema {found!r}, this head-end knows {SCHEMA_VERSION}")


def _refuse_later(path: Path) -> None:
    """Look at the version of a database without changing its mode, its journal or the files beside it."""
    if not path.exists():
        return
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        try:
            row = connection.execute("SELECT version FROM schema_version").fetchone()
        except sqlite3.Error:  # without the table, or damaged: said when it is opened
            return
    _check_version(None if row is None else row[0])


def _add_columns(connection: Connection) -> None:
    """Bring tables of an earlier head-end forward: a column that may be null changes nothing for the rows there are,
    nor for that head-end, should it come back."""
    found = inspect(connection)
    for each in metadata.sorted_tables:
        known = {known_column["name"] for known_column in found.get_columns(each.name)}
        for one in each.c:
            if one.name not in known and one.nullable:
                kind = one.type.compile(connection.dialect)
                connection.exec_driver_sql(f'ALTER TABLE "{each.name}" ADD COLUMN "{one.name}" {kind}')


def _add_indexes(connection: Connection) -> None:
    """The same for indexes: they change nothing but how fast rows are found."""
    found = inspect(connection)
    for each in metadata.sorted_tables:
        known = {index["name"] for index in found.get_indexes(each.name)}
        for one in each.indexes:
            if one.name not in known and not one.unique:
                one.create(connection)


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
    cursor.execute("PRAGMA secure_delete=ON")  # what is replaced or deleted is overwritten in the file
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at the start. A transaction that reads first and writes later could otherwise fail half-way,
    because another one wrote in between."""
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
