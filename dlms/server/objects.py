"""COSEM objects on the meter's side: readers, writers and methods by number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from dlms import axdr
from dlms.axdr import Data, Tag
from dlms.codes import ActionResult, DataAccessResult
from dlms.cosem.obis import AttributeRef, Obis, Selection
from dlms.cosem.scaler_unit import scaler_ref
from dlms.xdlms.apdu.common import AccessError, ActionOutcome, Result

# The outcomes of methods that return nothing but how it went.
DONE = ActionOutcome(ActionResult.SUCCESS)
UNFIT = ActionOutcome(ActionResult.TYPE_UNMATCHED)
DENIED = ActionOutcome(ActionResult.READ_WRITE_DENIED)
LATER = ActionOutcome(ActionResult.TEMPORARY_FAILURE)
UNAVAILABLE = ActionOutcome(ActionResult.OBJECT_UNAVAILABLE)
OTHER_REASON = ActionOutcome(ActionResult.OTHER_REASON)

Reader = Callable[[Selection | None], Result]
Writer = Callable[[Data], DataAccessResult]
Method = Callable[[Data | None], ActionOutcome]
ValueSource = Callable[[int, Obis, int], Result]
"""Returns the present value for class, code and attribute; an `AccessError` is passed on to the client."""

LOGICAL_NAME = 1  # attribute 1 of every class


@dataclass(slots=True)
class CosemObject:
    """One COSEM object. An attribute without reader or writer, or a missing method, is denied.

    The logical name needs no reader.
    """

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
    """A reader that always returns `value`."""
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
        """The A-XDR tag that the column "type" names."""
        return TYPE_TAGS[self.type_name.partition(":")[0]]

    @property
    def octets(self) -> int:
        """The length of an octet-string; 12 for a date-time."""
        if self.type_name in ("clock", "dt"):
            return 12
        return int(self.type_name.partition(":")[2] or 0)


# A clock and a date-time are octet-strings of meters, not the types of these names.
TYPE_TAGS: dict[str, Tag] = {
    **axdr.tags_by_name((Tag.BOOLEAN, *axdr.INTEGER_TAGS, Tag.OCTET_STRING)),
    "clock": Tag.OCTET_STRING,
    "dt": Tag.OCTET_STRING,
}


def objects_from_rows(rows: Iterable[Row], value_source: ValueSource, *, phases: int = 1) -> list[CosemObject]:
    """Make the objects of a reading list: values come from `value_source`, scaler and unit from the rows.

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
    """The number of the attribute that holds scaler and unit of the row's attribute; None when it has none."""
    where = scaler_ref(AttributeRef(row.class_id, row.obis, row.attribute))
    return None if where is None else where.attribute
