"""The objects of a meter, seen from its server: readers, writers and methods by number, and the reading-list CSV."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from dlms import axdr
from dlms.axdr import Data, Tag
from dlms.codes import ActionResult, DataAccessResult
from dlms.cosem.dictionary import usual_class
from dlms.cosem.obis import AttributeRef, Obis, Selection
from dlms.cosem.scaler_unit import scaler_ref
from dlms.errors import LocalError
from dlms.xdlms.apdu.common import AccessError, ActionOutcome, Result

Reader = Callable[[Selection | None], Result]
Writer = Callable[[Data], DataAccessResult]
Method = Callable[[Data | None], ActionOutcome]
ValueSource = Callable[[int, Obis, int], Result]
"""Class, code and attribute to the value at this moment; an `AccessError` is answered as such."""

LineT = TypeVar("LineT")

LOGICAL_NAME = 1  # attribute 1 of every class
ROWS_MAX = 10_000
OCTETS_MAX = 0xFFFF  # of one octet-string


@dataclass(slots=True)
class CosemObject:
    """One COSEM object. What has no reader (writer, method) is denied; the logical name needs none."""

    class_id: int
    obis: Obis
    version: int = 0
    readers: dict[int, Reader] = field(default_factory=dict)
    writers: dict[int, Writer] = field(default_factory=dict)
    methods: dict[int, Method] = field(default_factory=dict)

    def get(self, attribute: int, selection: Selection | None) -> Result:
        if attribute == LOGICAL_NAME:
            return axdr.octets(self.obis.code)
        reader = self.readers.get(attribute)
        return AccessError(DataAccessResult.READ_WRITE_DENIED) if reader is None else reader(selection)

    def set(self, attribute: int, value: Data) -> DataAccessResult:
        writer = self.writers.get(attribute)
        return DataAccessResult.READ_WRITE_DENIED if writer is None else writer(value)

    def act(self, method: int, parameters: Data | None) -> ActionOutcome:
        found = self.methods.get(method)
        return ActionOutcome(ActionResult.READ_WRITE_DENIED) if found is None else found(parameters)


def constant(value: Data) -> Reader:
    """A reader that always answers `value`."""
    return lambda _selection: value


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a reading list."""

    name: str
    obis: Obis
    class_id: int
    attribute: int
    type_name: str
    scaler: int | None
    unit: int | None
    phases: int

    @property
    def tag(self) -> Tag:
        """The A-XDR tag that the type column asks for."""
        return TYPE_TAGS[self.type_name.partition(":")[0]]

    @property
    def octets(self) -> int:
        """Length of an octet-string; 12 for the date-times."""
        if self.type_name in ("clock", "dt"):
            return 12
        return int(self.type_name.partition(":")[2] or 0)


TYPE_TAGS: dict[str, Tag] = {
    "bool": Tag.BOOLEAN,
    "u8": Tag.UNSIGNED,
    "u16": Tag.LONG_UNSIGNED,
    "u32": Tag.DOUBLE_LONG_UNSIGNED,
    "u64": Tag.LONG64_UNSIGNED,
    "i8": Tag.INTEGER,
    "i16": Tag.LONG,
    "i32": Tag.DOUBLE_LONG,
    "i64": Tag.LONG64,
    "enum": Tag.ENUM,
    "oct": Tag.OCTET_STRING,
    "clock": Tag.OCTET_STRING,
    "dt": Tag.OCTET_STRING,
}


def rows_from_csv(path: Path) -> list[Row]:
    """The rows of a reading list with the columns name, obis, cls, attr, type, scaler, unit, ph.

    Raises `LocalError` that names the line, and OSError.
    """
    return _lines(path, _row)


def refs_from_csv(path: Path) -> list[AttributeRef]:
    """The attributes that a reading list names. Only the column obis must be there: cls is the usual class of the code
    where there is none, attr 2. Raises `LocalError` that names the line, and OSError."""
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


def objects_from_rows(rows: Iterable[Row], value_source: ValueSource, *, phases: int = 1) -> list[CosemObject]:
    """Objects that answer every row from `value_source`, and scaler and unit from the row itself.

    Rows for more phases than the meter has are left out, so that the meter answers "object undefined".
    """
    objects: dict[tuple[int, Obis], CosemObject] = {}
    for row in rows:
        if row.phases > phases:
            continue
        found = objects.setdefault((row.class_id, row.obis), CosemObject(row.class_id, row.obis))
        found.readers[row.attribute] = _live(value_source, row)
        where = scaler_ref_of(row)
        if where is not None:
            found.readers[where] = constant(axdr.structure(axdr.i8(row.scaler or 0), axdr.enum(row.unit or 255)))
    return list(objects.values())


def _live(value_source: ValueSource, row: Row) -> Reader:
    return lambda _selection: value_source(row.class_id, row.obis, row.attribute)


def scaler_ref_of(row: Row) -> int | None:
    """The attribute of the row's object that holds scaler and unit of the row's attribute."""
    where = scaler_ref(AttributeRef(row.class_id, row.obis, row.attribute))
    return None if where is None else where.attribute


def objects_from_csv(path: Path, value_source: ValueSource, *, phases: int = 1) -> list[CosemObject]:
    """`objects_from_rows` of the file at `path`. Raises `LocalError` that names the line, and OSError."""
    return objects_from_rows(rows_from_csv(path), value_source, phases=phases)
