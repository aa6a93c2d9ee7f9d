"""Short names (GB 9.4.3, BB 4.4.2): the 16-bit names of attributes and methods.

An attribute has the short name base + 8 x (attribute - 1); methods follow from an offset that each class fixes. The
bases are in the object list of the association, whose own base is 0xFA00.
"""

from __future__ import annotations

from dlms.axdr import Data
from dlms.cosem.associations import OBJECT_LIST
from dlms.cosem.obis import AttributeRef, MethodRef, Obis
from dlms.errors import DecodeError, LocalError

ASSOCIATION_BASE = 0xFA00
REPLY_TO_HLS_NAME = ASSOCIATION_BASE + 0x58  # method 8 of Association SN (BB 4.4.3)
NAMES_MAX = 0x10000 // 8

_METHODS: dict[int, int] = {
    3: 0x28, 4: 0x38, 5: 0x48, 6: 0x30, 7: 0x58, 8: 0x60, 9: 0x20, 10: 0x20, 11: 0x10, 12: 0x20, 17: 0x20, 18: 0x40,
    20: 0x50, 40: 0x38, 64: 0x30, 70: 0x20, 72: 0x60,
}  # fmt: skip
"""By class: the offset of method 1; the others follow 8 apart."""

ShortNames = dict[tuple[int, Obis], int]


def association_names() -> ShortNames:
    """The short name that is known before the object list is read: that of the association itself."""
    return {(OBJECT_LIST.class_id, OBJECT_LIST.obis): ASSOCIATION_BASE}


def names_of(data: Data) -> ShortNames:
    """Decode `object_list` of Association SN. Raises `DecodeError` when the value is something else."""
    names = association_names()
    try:
        for member in data.members()[:NAMES_MAX]:
            base, class_id, _version, name = member.members()
            names[class_id.integer(), Obis(name.octets())] = base.integer() & 0xFFFF
    except (LocalError, ValueError) as error:
        raise DecodeError("object list", 0, str(error)) from error
    return names


def name_of(names: ShortNames, ref: AttributeRef) -> int | None:
    """The short name of an attribute; None when the object has none, or the attribute number is impossible."""
    base = names.get((ref.class_id, ref.obis))
    name = None if base is None else base + 8 * (ref.attribute - 1)
    return name if name is not None and 0 <= name <= 0xFFFF else None


def method_name(names: ShortNames, ref: MethodRef) -> int | None:
    """The short name of a method; None where the object has none."""
    base, offset = names.get((ref.class_id, ref.obis)), _METHODS.get(ref.class_id)
    name = None if base is None or offset is None else base + offset + 8 * (ref.method - 1)
    return name if name is not None and 0 <= name <= 0xFFFF else None


def method_offset(class_id: int) -> int | None:
    """The offset of method 1 from the base name; None for a class whose offset is not known."""
    return _METHODS.get(class_id)
