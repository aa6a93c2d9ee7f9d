"""Reading lists: CSV files with the attributes of a meter and their types, to simulate a meter or to read one."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dlms.cosem.dictionary import usual_class
from dlms.cosem.obis import AttributeRef, Obis
from dlms.errors import LocalError
from dlms.server.objects import TYPE_TAGS, Row

LineT = TypeVar("LineT")

ROWS_MAX = 10_000
OCTETS_MAX = 0xFFFF  # of one octet-string


def rows_from_csv(path: Path) -> list[Row]:
    """The rows of a reading list with the columns name, obis, cls, attr, type, scaler, unit, ph.

    Raises `LocalError` that names the line, and OSError.
    """
    return _lines(path, _row)


def refs_from_csv(path: Path) -> list[AttributeRef]:
    """The attributes that a reading list names. Only the column obis is required: cls defaults to the usual class of
    the code, attr to 2. Raises `LocalError` that names the line, and OSError."""
    return _lines(path, _ref)


def _lines(path: Path, make: Callable[[dict[str, str | None]], LineT]) -> list[LineT]:
    reader: csv.DictReader[str] | None = None
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            found = [make(fields) for fields in itertools.islice(reader, ROWS_MAX + 1)]
    except (KeyError, ValueError, TypeError, csv.Error, LocalError) as error:
        why = f"no column {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise LocalError(f"{path}, line {reader.line_num if reader else 1}: {why}") from error
    if len(found) > ROWS_MAX:
        raise LocalError(f"{path}: more than {ROWS_MAX} rows")
    return found


def _ref(fields: dict[str, str | None]) -> AttributeRef:
    code = fields["obis"]
    if code is None:
        raise LocalError("a row that ends early")
    obis = Obis.parse(code)
    return AttributeRef(int(fields.get("cls") or usual_class(obis)), obis, int(fields.get("attr") or 2))


def _row(fields: dict[str, str | None]) -> Row:
    name, obis, kind = (fields[column] for column in ("name", "obis", "type"))
    if name is None or obis is None or kind is None:
        raise LocalError("a row that ends early")
    row = Row(
        name,
        Obis.parse(obis),
        int(fields["cls"] or ""),
        int(fields["attr"] or ""),
        kind,
        int(fields["scaler"]) if fields["scaler"] else None,
        int(fields["unit"]) if fields["unit"] else None,
        int(fields["ph"] or 1),
    )
    if row.type_name.partition(":")[0] not in TYPE_TAGS:
        raise LocalError(f"unknown type {row.type_name!r}")
    if not 0 <= row.octets <= OCTETS_MAX:
        raise LocalError(f"{row.octets} octets")
    return row
