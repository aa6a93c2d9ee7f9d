"""Which columns are sealed, and their values on the way into and out of the database.

A table says so itself: `Column("key", LargeBinary, info=sealed_by("id"))` names the columns that tell the row from the
others and never change; they are bound to the value. Binary columns hold the sealed octets, text and JSON columns them
as base64.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import JSON, Column, ColumnElement, Connection, LargeBinary, MetaData, Row, Table, Text, cast, func

from headend.sealing import envelope, keyring
from headend.sealing.envelope import Binding
from headend.sealing.errors import SealedValueError

_INFO = "sealed_by"
_PREFIX_CHARS = 4 * envelope.PREFIX_BYTES // 3


class SealedColumn(NamedTuple):
    """A column whose values are sealed, and the columns that its rows are known by."""

    table: Table
    column: Column[Any]
    identity: tuple[str, ...]

    def binding(self, row: Mapping[str, Any]) -> Binding:
        return Binding(self.table.name, self.column.name, tuple(str(row[name]) for name in self.identity))

    def other_key(self, key_id: str) -> ColumnElement[bool]:
        """Whether a value is sealed under another key than this."""
        prefix = envelope.prefix_of(bytes.fromhex(key_id))
        if isinstance(self.column.type, LargeBinary):
            return func.substr(self.column, 1, len(prefix)) != prefix
        start = 2 if isinstance(self.column.type, JSON) else 1  # after the quotation mark
        return func.substr(cast(self.column, Text), start, _PREFIX_CHARS) != envelope.to_text(prefix)


def sealed_by(*identity: str) -> dict[str, tuple[str, ...]]:
    """What a column that is sealed has as its `info`."""
    return {_INFO: identity}


def sealed_columns(table: Table) -> Iterator[SealedColumn]:
    for column in table.c:
        if _INFO in column.info:
            yield SealedColumn(table, column, column.info[_INFO])


def all_sealed(metadata: MetaData) -> Iterator[SealedColumn]:
    for table in metadata.sorted_tables:
        yield from sealed_columns(table)


def seal(connection: Connection, table: Table, values: Mapping[str, Any], **identity: str) -> dict[str, Any]:
    """Return `values` as they are to be written, those of sealed columns sealed. `identity`: what the row is known by,
    where it is not among the values. Raises `SealingError`."""
    return _sealed(connection, None, table, values, identity)


def seal_rows(
    connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]]
) -> tuple[str, list[dict[str, Any]]]:
    """The same for many rows before the transaction that writes them, which holds up everybody else; and the id of the
    data key, which must still be `keyring.active` in that transaction. Raises `SealingError`."""
    key_id = keyring.active(connection)
    return key_id, [_sealed(connection, key_id, table, row, {}) for row in rows]


def _sealed(
    connection: Connection, key_id: str | None, table: Table, values: Mapping[str, Any], identity: Mapping[str, str]
) -> dict[str, Any]:
    ring = keyring.of(connection)
    written = dict(values)
    for one in sealed_columns(table):
        value = values.get(one.column.name)
        if value is not None:
            key_id = key_id or keyring.active(connection)
            octets, binding = _octets(one.column, value), one.binding({**values, **identity})
            sealed = ring.seal_under(connection, key_id, octets, binding)
            written[one.column.name] = sealed if isinstance(one.column.type, LargeBinary) else envelope.to_text(sealed)
    return written


def unseal(connection: Connection, table: Table, row: Row[Any]) -> dict[str, Any]:
    """Return the row as a mapping, its sealed values opened. Raises `SealingError`."""
    found = dict(row._mapping)
    for one in sealed_columns(table):
        if found.get(one.column.name) is not None:
            found[one.column.name] = unseal_value(connection, one, found)
    return found


def unseal_value(connection: Connection, one: SealedColumn, row: Mapping[str, Any]) -> Any:
    """The value of one column of a row that has its identity as well. Raises `SealingError`."""
    binding = one.binding(row)
    try:
        octets = keyring.of(connection).unseal(connection, sealed_octets(one, row[one.column.name]), binding)
    except SealedValueError as error:
        raise SealedValueError(f"{binding}: {error}") from error
    if isinstance(one.column.type, LargeBinary):
        return octets
    text = octets.decode("utf-8")
    return json.loads(text) if isinstance(one.column.type, JSON) else text


def sealed_octets(one: SealedColumn, value: object) -> bytes:
    """What a column holds, as octets. Raises `SealedValueError` for what cannot be a sealed value."""
    if not isinstance(one.column.type, LargeBinary):
        return envelope.from_text(value)
    if not isinstance(value, bytes):
        raise SealedValueError("this is no sealed value")
    return value


def _octets(column: Column[Any], value: Any) -> bytes:
    if isinstance(column.type, LargeBinary):
        return bytes(value)
    text = json.dumps(value) if isinstance(column.type, JSON) else str(value)
    return text.encode("utf-8")
