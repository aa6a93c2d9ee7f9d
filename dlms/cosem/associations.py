"""The association objects (BB 4.4.3, 4.4.4): their logical names, and reading and writing their object list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dlms import axdr
from dlms.axdr import Data
from dlms.cosem.obis import AttributeRef, MethodRef, Obis
from dlms.errors import DecodeError, LocalError

ASSOCIATION = AttributeRef(15, Obis.parse("0.0.40.0.0.255"), 2)
REPLY_TO_HLS = MethodRef(ASSOCIATION.class_id, ASSOCIATION.obis, 1)  # reply_to_HLS_authentication
OBJECT_LIST = AttributeRef(12, ASSOCIATION.obis, 2)  # with short names
OBJECTS_MAX = 20_000

SN_ACCESS_RIGHTS = AttributeRef(OBJECT_LIST.class_id, OBJECT_LIST.obis, 3)
BITS_SINCE = 3  # from this version of Association LN (4 of SN) an access mode is a set of bits
_READ_BIT, _WRITE_BIT = 1, 2
_READ_MODES, _WRITE_MODES = frozenset({1, 3, 4, 6}), frozenset({2, 3, 5, 6})  # 4 to 6: authenticated requests only


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of the list, with its access modes by attribute and by method, as the numbers in the list.

    `bits` says how to read a mode: True for a set of bits (1 read or call, 2 write, 4 to 128 required protection), as
    from version 3 of Association LN on; False for a number of an enumeration; None where the association gives no
    modes. `selectors` holds the selectors of selective access by attribute.
    """

    class_id: int
    version: int
    obis: Obis
    attributes: dict[int, int]
    methods: dict[int, int]
    bits: bool | None = False
    selectors: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def readable(self, attribute: int) -> bool:
        """Whether this association may read the attribute, possibly with protected requests only."""
        return self._may(self.attributes.get(attribute, 0), _READ_BIT, _READ_MODES)

    def writable(self, attribute: int) -> bool:
        """Whether this association may write the attribute."""
        return self._may(self.attributes.get(attribute, 0), _WRITE_BIT, _WRITE_MODES)

    def callable(self, method: int) -> bool:
        """Whether this association may call the method."""
        return self.bits is None or bool(self.methods.get(method, 0) & (1 if self.bits else 3))

    def _may(self, mode: int, bit: int, modes: frozenset[int]) -> bool:
        if self.bits is None:
            return True
        return bool(mode & bit) if self.bits or mode > max(_READ_MODES) else mode in modes


def objects_of(data: Data) -> list[ObjectInfo]:
    """Decode `object_list` of Association LN. Raises `DecodeError` when the value is something else."""
    members = _members(data)
    try:
        found = [_object(member) for member in members]
    except (LocalError, ValueError) as error:
        raise DecodeError("object list", 0, str(error)) from error
    own = [info.version for info in found if info.class_id == ASSOCIATION.class_id]
    current = [info.version for info in found if info.obis == ASSOCIATION.obis]
    if max(current or own, default=0) < BITS_SINCE:
        return found
    return [replace(info, bits=True) for info in found]


def named_objects_of(data: Data, rights: Data | None) -> list[ObjectInfo]:
    """Decode `object_list` of Association SN, with `access_rights_list` (`rights`) where it could be read.

    Raises `DecodeError` when a value is something else.
    """
    try:
        found = [(base.integer(), _named(rest)) for base, *rest in map(Data.members, _members(data))]
        modes: dict[int, tuple[Data, Data]] = {}
        for member in _members(rights) if rights is not None else ():
            base, attributes, methods = member.members()
            modes[base.integer()] = attributes, methods
        bits = max((info.version for _, info in found if info.obis == OBJECT_LIST.obis), default=0) > BITS_SINCE
        return [_with_modes(info, modes.get(base), bits=bits) for base, info in found]
    except (LocalError, ValueError) as error:
        raise DecodeError("object list", 0, str(error)) from error


def _members(data: Data) -> tuple[Data, ...]:
    try:
        members = data.members()
    except LocalError as error:
        raise DecodeError("object list", 0, str(error)) from error
    if len(members) > OBJECTS_MAX:
        raise DecodeError("object list", 0, f"more than {OBJECTS_MAX} objects")
    return members


def _object(data: Data) -> ObjectInfo:
    *identity, rights = data.members()
    attributes, methods = rights.members()
    return _with_modes(_named(identity), (attributes, methods), bits=False)


def _named(members: Sequence[Data]) -> ObjectInfo:
    class_id, version, name = members
    return ObjectInfo(class_id.integer(), version.integer(), Obis(name.octets()), {}, {}, None)


def _with_modes(info: ObjectInfo, rights: tuple[Data, Data] | None, *, bits: bool) -> ObjectInfo:
    if rights is None:
        return info
    attributes, methods = rights
    selectors = {number: found for number, found in map(_selectors, attributes.members()) if found}
    return replace(info, attributes=_modes(attributes), methods=_modes(methods), bits=bits, selectors=selectors)


def _modes(data: Data) -> dict[int, int]:
    """The access mode by attribute or method number; in old versions the mode of a method is a boolean."""
    modes: dict[int, int] = {}
    for member in data.members():
        number, mode = member.members()[:2]
        modes[number.integer()] = int(mode.value) if isinstance(mode.value, bool) else mode.integer()
    return modes


def _selectors(data: Data) -> tuple[int, tuple[int, ...]]:
    number, _mode, *selectors = data.members()
    told = selectors[0].value if selectors else None
    return number.integer(), tuple([each.integer() for each in told]) if isinstance(told, tuple) else ()


def emit_objects(objects: list[ObjectInfo]) -> Data:
    """Encode `objects` as the value of `object_list` of Association LN."""
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
