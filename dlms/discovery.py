"""What an association shows: its object list, decoded (BB 4.4.3, 4.4.4)."""

from __future__ import annotations

from dataclasses import dataclass

from dlms import axdr
from dlms.axdr import Data
from dlms.cosem.obis import AttributeRef, Obis
from dlms.errors import DecodeError, LocalError

ASSOCIATION = AttributeRef(15, Obis.parse("0.0.40.0.0.255"), 2)
OBJECTS_MAX = 20_000

READ, WRITE = 1, 2  # of an access mode up to version 2: 0 none, 1 read, 2 write, 3 both; 4 to 6 the same, authenticated


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of the list: access modes by attribute and by method, as numbers of the class version's enum."""

    class_id: int
    version: int
    obis: Obis
    attributes: dict[int, int]
    methods: dict[int, int]

    def readable(self, attribute: int) -> bool:
        """Whether this association may read the attribute."""
        mode = self.attributes.get(attribute, 0)
        return mode in (1, 3, 4, 6) or (mode > 6 and bool(mode & READ))


def objects_of(data: Data) -> list[ObjectInfo]:
    """The value of `object_list` of Association LN. Raises `DecodeError` when it is something else."""
    try:
        members = data.members()
        found = [_object(member) for member in members[:OBJECTS_MAX]]
    except (LocalError, ValueError) as error:
        raise DecodeError("object list", 0, str(error)) from error
    if len(members) > OBJECTS_MAX:
        raise DecodeError("object list", 0, f"more than {OBJECTS_MAX} objects")
    return found


def _object(data: Data) -> ObjectInfo:
    class_id, version, name, rights = data.members()
    attributes, methods = rights.members()
    return ObjectInfo(class_id.integer(), version.integer(), Obis(name.octets()), _modes(attributes), _modes(methods))


def _modes(data: Data) -> dict[int, int]:
    """Number and mode of every attribute or method; the mode of a method is a boolean in old versions."""
    modes: dict[int, int] = {}
    for member in data.members():
        number, mode = member.members()[:2]
        modes[number.integer()] = int(mode.value) if isinstance(mode.value, bool) else mode.integer()
    return modes


def emit_objects(objects: list[ObjectInfo]) -> Data:
    """The value of `object_list` that says `objects`."""
    return axdr.array(
        axdr.structure(
            axdr.u16(info.class_id),
            axdr.u8(info.version),
            axdr.octets(info.obis.code),
            axdr.structure(
                axdr.array(
                    axdr.structure(axdr.i8(number), axdr.enum(mode), axdr.null())
                    for number, mode in sorted(info.attributes.items())
                ),
                axdr.array(
                    axdr.structure(axdr.i8(number), axdr.enum(mode)) for number, mode in sorted(info.methods.items())
                ),
            ),
        )
        for info in objects
    )
