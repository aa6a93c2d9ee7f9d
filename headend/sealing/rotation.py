"""Sealing what is not sealed yet, or under another key: the migration of a database from before, and rotations.

A rotation makes a new key-encryption key and a new data key, seals every value anew, some rows at a time, and then
deletes the old data key and destroys the old key-encryption key. Until then both are there, so a rotation may be broken
off at any moment and begun again, and servers go on meanwhile.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    MetaData,
    and_,
    inspect,
    not_,
    select,
    tuple_,
    update,
)
from sqlalchemy import column as sql_column
from sqlalchemy import table as sql_table

from headend.sealing import envelope, keyring
from headend.sealing.columns import SealedColumn, all_sealed, seal, unseal_value
from headend.sealing.envelope import Binding
from headend.sealing.errors import SealedValueError
from headend.sealing.keyring import data_keys

LOG = logging.getLogger("headend.sealing")

ROWS_PER_STEP = 200  # in one transaction of a rotation: a device waits for no more

# What was sealed first, as the tables were in schema 3: table, identity, columns and whether they are binary.
_SEALED_IN_4: tuple[tuple[str, tuple[str, ...], tuple[tuple[str, bool], ...]], ...] = (
    ("devices", ("id",), (("key", True),)),
    (
        "dm_accounts",
        ("device_id",),
        (("client_secret", False), ("server_secret", False), ("last_answer", True)),
    ),
    ("dm_jobs", ("device_id", "correlator"), (("params", False), ("progress", False))),
    ("dm_desired", ("device_id", "kind", "name"), (("content", False),)),
    ("secrets", ("name",), (("value", True),)),
)
_JSON = frozenset({"params", "progress", "content"})


def seal_clear_values(connection: Connection) -> None:
    """From schema 3 to 4: seal what was stored in clear. Raises `SealingError` without a key; nothing is changed then.

    The columns keep their types; `clear_gone` of the key says whether the file still holds what was there before.
    """
    ring = keyring.of(connection)
    data_keys.create(connection, checkfirst=True)
    ring.make(connection, clear_gone=False)
    found = inspect(connection)
    for name, identity, columns in _SEALED_IN_4:
        if not found.has_table(name):
            continue
        there = {one["name"] for one in found.get_columns(name)}
        now = [(column, binary) for column, binary in columns if column in there]
        clear = sql_table(name, *(sql_column(each) for each in (*identity, *(column for column, _ in now))))
        for row in connection.execute(select(clear)).mappings().all():
            sealed = _sealed_row(connection, name, identity, now, row)
            if sealed:
                mine = and_(*(clear.c[each] == row[each] for each in identity))
                connection.execute(update(clear).where(mine).values(sealed))


def _sealed_row(
    connection: Connection, table: str, identity: tuple[str, ...], columns: list[tuple[str, bool]], row: Any
) -> dict[str, Any]:
    """The values to write into a row in place of the clear ones. JSON was stored as text, and is sealed as that."""
    ring = keyring.of(connection)
    sealed: dict[str, Any] = {}
    for column, binary in columns:
        value = row[column]
        if value is None:
            continue
        octets = value if isinstance(value, bytes) else str(value).encode("utf-8")
        binding = Binding(table, column, tuple(str(row[each]) for each in identity))
        text = ring.seal(connection, octets, binding)
        if binary:
            sealed[column] = text
        else:
            sealed[column] = f'"{envelope.to_text(text)}"' if column in _JSON else envelope.to_text(text)
    return sealed


@dataclass(frozen=True, slots=True)
class Step:
    """What a rotation has just committed. `table` is empty for a step that sealed no rows."""

    what: str
    rows: int = 0


def rotate(engine: Engine, metadata: MetaData) -> Generator[Step, None, None]:
    """Rotate the keys; yields after each step that is durable. Begun again, a rotation that was broken off goes on.

    Raises `SealedValueError` at the end when values could not be opened: both keys stay then. Raises `SealingError`.
    """
    with engine.begin() as connection:
        ring = keyring.of(connection)
        ring.unlock(connection)
        rows = connection.execute(select(data_keys.c.wrapped_by, data_keys.c.active)).all()
    if all(row.active for row in rows):
        used = {row.wrapped_by for row in rows}
        known = ring.source.ids()
        if not known or known[-1] in used:  # else it is left from a rotation that was broken off just here
            yield Step(f"key-encryption key {ring.source.make()} made")
        with engine.begin() as connection:
            clear = connection.scalars(select(data_keys.c.clear_gone).where(data_keys.c.active)).one()
            made = ring.make(connection, clear_gone=clear is not None)
        yield Step(f"data key {made} made")
    damaged: dict[str, SealedValueError] = {}
    for one in all_sealed(metadata):
        yield from _sealed_anew(engine, one, damaged)
    if damaged:
        shown = "; ".join(str(error) for error in list(damaged.values())[:5])
        raise SealedValueError(f"{len(damaged)} values cannot be opened, and the old key is kept: {shown}")
    with engine.begin() as connection:
        kept = _drop(connection, metadata)
    yield Step("old data keys deleted")
    for gone in ring.source.retire(kept):
        yield Step(f"key-encryption key {gone} destroyed")


def _sealed_anew(engine: Engine, one: SealedColumn, damaged: dict[str, SealedValueError]) -> Iterator[Step]:
    key = tuple_(*one.table.primary_key.columns)
    wanted = {*one.identity, *(each.name for each in one.table.primary_key.columns)}
    columns = [one.table.c[name] for name in sorted(wanted)]
    passed: list[tuple[Any, ...]] = []
    while True:
        with engine.begin() as connection:
            query = select(*columns, one.column).where(one.other_key(keyring.active(connection)))
            if passed:
                query = query.where(not_(key.in_(passed)))
            rows = [dict(row) for row in connection.execute(query.limit(ROWS_PER_STEP)).mappings()]
            for row in rows:
                try:
                    value = unseal_value(connection, one, row)
                except SealedValueError as error:
                    passed.append(tuple(row[each.name] for each in one.table.primary_key.columns))
                    damaged[str(one.binding(row))] = error
                    continue
                sealed = seal(connection, one.table, {**row, one.column.name: value})
                mine = and_(*(each == row[each.name] for each in one.table.primary_key.columns))
                connection.execute(update(one.table).where(mine).values({one.column.name: sealed[one.column.name]}))
        if not rows:
            return
        yield Step(f"{one.table.name}.{one.column.name}", len(rows))


def _drop(connection: Connection, metadata: MetaData) -> set[str]:
    """Delete the old data keys. Raises `SealedValueError` when a value is sealed under one of them, written after its
    column had its turn."""
    now = keyring.active(connection)
    for one in all_sealed(metadata):
        if connection.execute(select(one.column).where(one.other_key(now)).limit(1)).first() is not None:
            raise SealedValueError(f"{one.table.name}.{one.column.name}: something is sealed under the old key again")
    keyring.drop_retired(connection)
    return set(connection.scalars(select(data_keys.c.wrapped_by)))


def forget_clear(engine: Engine) -> bool:
    """After the migration: rewrite the database's file, so that no value of before is left in its free pages or its
    log. Returns whether that is done; else other connections were in the way, and the next start tries again."""
    with engine.begin() as connection:
        if connection.scalars(select(data_keys.c.clear_gone).where(data_keys.c.active)).one() is not None:
            return True
        now = keyring.of(connection).now()
    if engine.dialect.name == "sqlite" and not _rewritten(engine):
        LOG.warning(
            "secrets of before sealing may be left in the database's file: it was in use; the next start tries again",
            extra={"event": "sealing.clear.left"},
        )
        return False
    with engine.begin() as connection:
        connection.execute(update(data_keys).where(data_keys.c.active).values(clear_gone=now))
    LOG.info("the secrets of the database are sealed", extra={"event": "sealing.clear.gone"})
    return True


def _rewritten(engine: Engine) -> bool:
    """Rewrite the file, and return whether that could be done. On a connection of the driver, because SQLAlchemy would
    begin a transaction, in which this is not allowed."""
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout=0")  # whoever is at it now, the next start does it: none waits for that
        cursor.execute("VACUUM")
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        busy: int = (cursor.fetchone() or (1,))[0]
    except sqlite3.OperationalError:
        return False
    finally:
        connection.invalidate()  # nobody else is to have it with that timeout
    return not busy
