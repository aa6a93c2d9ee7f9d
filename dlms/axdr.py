"""COSEM data in A-XDR (IEC 61334-6; type `Data` of GB 9.5): a tag, then the contents.

```
null-data 00 | array 01 n Data... | structure 02 n Data... | boolean 03 b | bit-string 04 bits octets...
double-long 05 | double-long-unsigned 06 | octet-string 09 n ... | visible-string 0a n ... | utf8-string 0c n ...
bcd 0d | integer 0f | long 10 | unsigned 11 | long-unsigned 12 | compact-array 13 type n contents
long64 14 | long64-unsigned 15 | enum 16 | float32 17 | float64 18 | date-time 19 | date 1a | time 1b
delta-integer 1c | delta-long 1d | delta-double-long 1e | delta-unsigned 1f | delta-long-unsigned 20
delta-double-long-unsigned 21 | dont-care ff
```

`Data` keeps the tag, so that what was read can be written back octet for octet. Strings keep every octet they came
with: visible strings as Latin-1, UTF-8 strings with surrogate escapes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from dlms.cursor import VALUES_MAX, Cursor, length_octets
from dlms.errors import LocalError

DATE_TIME_OCTETS = 12  # of a date-time, whether it is one by its type or an octet-string
DEPTH_MAX = 16  # structures of interface classes nest four deep; this bounds the stack
COMPACT_ELEMENTS_BASE = 1024  # null-data takes no octets in a compact array, so a few octets of type description
COMPACT_ELEMENTS_PER_OCTET = 16  # could ask for memory without end: elements are bounded by the octets there are


class Tag(IntEnum):
    """Tags of the choice `Data`."""

    NULL = 0
    ARRAY = 1
    STRUCTURE = 2
    BOOLEAN = 3
    BIT_STRING = 4
    DOUBLE_LONG = 5
    DOUBLE_LONG_UNSIGNED = 6
    OCTET_STRING = 9
    VISIBLE_STRING = 10
    UTF8_STRING = 12
    BCD = 13
    INTEGER = 15
    LONG = 16
    UNSIGNED = 17
    LONG_UNSIGNED = 18
    COMPACT_ARRAY = 19
    LONG64 = 20
    LONG64_UNSIGNED = 21
    ENUM = 22
    FLOAT32 = 23
    FLOAT64 = 24
    DATE_TIME = 25
    DATE = 26
    TIME = 27
    DELTA_INTEGER = 28
    DELTA_LONG = 29
    DELTA_DOUBLE_LONG = 30
    DELTA_UNSIGNED = 31
    DELTA_LONG_UNSIGNED = 32
    DELTA_DOUBLE_LONG_UNSIGNED = 33
    DONT_CARE = 255


# Names of the types for people and for JSON: of `dlms read` and `dlms set`, of reading lists, of typed JSON and of the
# uplink's records (docs/uplink.md). Types that are not here have their name of the standard.
TYPE_NAMES: Mapping[Tag, str] = {
    Tag.NULL: "null",
    Tag.BOOLEAN: "bool",
    Tag.INTEGER: "i8",
    Tag.UNSIGNED: "u8",
    Tag.LONG: "i16",
    Tag.LONG_UNSIGNED: "u16",
    Tag.DOUBLE_LONG: "i32",
    Tag.DOUBLE_LONG_UNSIGNED: "u32",
    Tag.LONG64: "i64",
    Tag.LONG64_UNSIGNED: "u64",
    Tag.ENUM: "enum",
    Tag.FLOAT32: "f32",
    Tag.FLOAT64: "f64",
    Tag.OCTET_STRING: "oct",
    Tag.VISIBLE_STRING: "str",
    Tag.UTF8_STRING: "utf8",
    Tag.BIT_STRING: "bits",
    Tag.DATE_TIME: "dt",
    Tag.DATE: "date",
    Tag.TIME: "time",
    Tag.ARRAY: "array",
    Tag.STRUCTURE: "struct",
}
INTEGER_TAGS = (
    Tag.INTEGER,
    Tag.UNSIGNED,
    Tag.LONG,
    Tag.LONG_UNSIGNED,
    Tag.DOUBLE_LONG,
    Tag.DOUBLE_LONG_UNSIGNED,
    Tag.LONG64,
    Tag.LONG64_UNSIGNED,
    Tag.ENUM,
)
FLOAT_TAGS = (Tag.FLOAT32, Tag.FLOAT64)


def tags_by_name(tags: Iterable[Tag]) -> dict[str, Tag]:
    """These tags by their names in `TYPE_NAMES`, in the order given."""
    return {TYPE_NAMES[tag]: tag for tag in tags}


@dataclass(frozen=True, slots=True)
class TypeDescription:
    """Type of the elements of a compact array. `count` is for arrays, `members` for arrays (one) and structures.

    Raises `LocalError` for a type that cannot be described.
    """

    tag: int
    count: int = 0
    members: tuple[TypeDescription, ...] = ()

    def __post_init__(self) -> None:
        if self.tag not in _CHECKS or self.tag == Tag.COMPACT_ARRAY:
            raise LocalError(f"tag {self.tag} cannot be described in a compact array")
        members_due = {Tag.ARRAY: 1, Tag.STRUCTURE: len(self.members)}.get(Tag(self.tag), 0)
        if len(self.members) != members_due or not 0 <= self.count <= 0xFFFF or (self.count and self.tag != Tag.ARRAY):
            raise LocalError("an array is described by one type and a count of two octets, a structure by its members")


@dataclass(frozen=True, slots=True)
class CompactArray:
    """Contents of a compact-array: one description, then the bare contents of every element."""

    description: TypeDescription
    contents: bytes

    def elements(self) -> tuple[Data, ...]:
        """The elements, typed. Raises `DecodeError` when the contents do not fit the description."""
        return _compact_elements(self.description, self.contents, 0)[0]


Value = None | bool | int | float | bytes | str | tuple["Data", ...] | CompactArray


@dataclass(frozen=True, slots=True)
class Data:
    """A value with the tag it has on the wire.

    `value` is None (null-data, dont-care), bool, int (also enum, bcd and the delta types), float, bytes (octet-string,
    date-time, date, time), str (visible-string, utf8-string, and bit-string as "0101"), a tuple of `Data` (array,
    structure) or a `CompactArray`. Raises `LocalError` when value and tag do not fit.
    """

    tag: int
    value: Value

    def __post_init__(self) -> None:
        check = _CHECKS.get(self.tag)
        if check is None:
            raise LocalError(f"{self.tag} is not a tag of a COSEM value")
        if not check(self.value):
            raise LocalError(f"{self.value!r} does not fit {Tag(self.tag).name.lower().replace('_', '-')}")

    def emit(self) -> bytes:
        """The encoding, tag first."""
        out = bytearray()
        _write(self, out)
        return bytes(out)

    def integer(self) -> int:
        """The value of an integer-like type. Raises `LocalError` for every other type."""
        if isinstance(self.value, int) and not isinstance(self.value, bool):
            return self.value
        raise LocalError(f"tag {self.tag} is not a number")

    def members(self) -> tuple[Data, ...]:
        """The members of an array, structure or compact array. Raises `LocalError` for every other type."""
        if isinstance(self.value, tuple):
            return self.value
        if isinstance(self.value, CompactArray):
            return self.value.elements()
        raise LocalError(f"tag {self.tag} has no members")

    def octets(self) -> bytes:
        """The value of an octet-string or a date-time type. Raises `LocalError` for every other type."""
        if isinstance(self.value, bytes):
            return self.value
        raise LocalError(f"tag {self.tag} is not a string of octets")


# ---------------------------------------------------------------------------------------- types of a fixed size

_INTEGERS: dict[int, tuple[int, bool]] = {
    Tag.DOUBLE_LONG: (4, True),
    Tag.DOUBLE_LONG_UNSIGNED: (4, False),
    Tag.BCD: (1, False),  # two decimal digits in one octet; kept as the octet
    Tag.INTEGER: (1, True),
    Tag.LONG: (2, True),
    Tag.UNSIGNED: (1, False),
    Tag.LONG_UNSIGNED: (2, False),
    Tag.LONG64: (8, True),
    Tag.LONG64_UNSIGNED: (8, False),
    Tag.ENUM: (1, False),
    Tag.DELTA_INTEGER: (1, True),
    Tag.DELTA_LONG: (2, True),
    Tag.DELTA_DOUBLE_LONG: (4, True),
    Tag.DELTA_UNSIGNED: (1, False),
    Tag.DELTA_LONG_UNSIGNED: (2, False),
    Tag.DELTA_DOUBLE_LONG_UNSIGNED: (4, False),
}
_FLOATS = {int(Tag.FLOAT32): struct.Struct(">f"), int(Tag.FLOAT64): struct.Struct(">d")}
_FIXED_OCTETS = {int(Tag.DATE_TIME): DATE_TIME_OCTETS, int(Tag.DATE): 5, int(Tag.TIME): 4}


def _integer_check(size: int, signed: bool) -> Callable[[Value], bool]:
    low, high = (-(1 << (8 * size - 1)), (1 << (8 * size - 1)) - 1) if signed else (0, (1 << (8 * size)) - 1)

    def check(value: Value) -> bool:
        return type(value) is int and low <= value <= high

    return check


def _octets_check(size: int) -> Callable[[Value], bool]:
    return lambda value: type(value) is bytes and len(value) == size


def _encodable(value: Value, encoding: str, errors: str) -> bool:
    if type(value) is not str:
        return False
    try:
        value.encode(encoding, errors)
    except UnicodeEncodeError:
        return False
    return True


def _is_sequence(value: Value) -> bool:
    return type(value) is tuple and all(type(member) is Data for member in value)


_CHECKS: dict[int, Callable[[Value], bool]] = {
    Tag.NULL: lambda value: value is None,
    Tag.DONT_CARE: lambda value: value is None,
    Tag.BOOLEAN: lambda value: type(value) is bool,
    Tag.ARRAY: _is_sequence,
    Tag.STRUCTURE: _is_sequence,
    Tag.COMPACT_ARRAY: lambda value: type(value) is CompactArray,
    Tag.OCTET_STRING: lambda value: type(value) is bytes,
    Tag.BIT_STRING: lambda value: type(value) is str and not value.strip("01"),
    Tag.VISIBLE_STRING: lambda value: _encodable(value, "latin-1", "strict"),
    Tag.UTF8_STRING: lambda value: _encodable(value, "utf-8", "surrogateescape"),
    Tag.FLOAT32: lambda value: type(value) is float and _fits_float32(value),
    Tag.FLOAT64: lambda value: type(value) is float,
    **{tag: _integer_check(size, signed) for tag, (size, signed) in _INTEGERS.items()},
    **{tag: _octets_check(size) for tag, size in _FIXED_OCTETS.items()},
}


def _fits_float32(value: float) -> bool:
    try:
        _FLOATS[Tag.FLOAT32].pack(value)
    except OverflowError:
        return False
    return True


_NULL = Data(Tag.NULL, None)  # one for all: a million of them in an array is a million references


# ------------------------------------------------------------------------------------------------------ reading


def decode(data: bytes, what: str = "COSEM data") -> Data:
    """One value that fills `data`. Raises `DecodeError`."""
    cursor = Cursor(data, what)
    value = read(cursor)
    cursor.check_end()
    return value


def read(cursor: Cursor, depth: int = 0) -> Data:
    """The value at the cursor. Raises `DecodeError`."""
    tag = cursor.u8()
    return _NULL if tag == Tag.NULL else Data(tag, _contents(cursor, tag, depth))


def _contents(cursor: Cursor, tag: int, depth: int) -> Value:
    integer = _INTEGERS.get(tag)
    if integer is not None:
        return int.from_bytes(cursor.take(integer[0]), "big", signed=integer[1])
    reader = _READERS.get(tag)
    if reader is None:
        raise cursor.error(f"{tag} is not a tag of a COSEM value", back=1)
    return reader(cursor, tag, depth)


def _read_sequence(cursor: Cursor, _tag: int, depth: int) -> Value:
    if depth >= DEPTH_MAX:
        raise cursor.error(f"arrays and structures nest more than {DEPTH_MAX} deep", back=1)
    count = cursor.length()
    if count > cursor.remaining:  # every element takes an octet at least
        raise cursor.error(f"{count} elements cannot fit the {cursor.remaining} octets that are left")
    cursor.count_values(count)
    return tuple([read(cursor, depth + 1) for _ in range(count)])


def _read_bits(cursor: Cursor, _tag: int, _depth: int) -> Value:
    count = cursor.length()
    octets = cursor.take((count + 7) // 8)  # what is too long for the data ends here, before there is any text
    return f"{int.from_bytes(octets, 'big'):0{8 * len(octets)}b}"[:count] if count else ""


def _read_compact(cursor: Cursor, _tag: int, depth: int) -> Value:
    description = _read_description(cursor, depth)
    count = cursor.length()
    base = cursor.offset
    contents = cursor.take(count)
    cursor.count_values(_compact_elements(description, contents, base)[1])  # what exists must be readable
    return CompactArray(description, contents)


def _read_description(cursor: Cursor, depth: int) -> TypeDescription:
    if depth >= DEPTH_MAX:
        raise cursor.error(f"type descriptions nest more than {DEPTH_MAX} deep")
    tag = cursor.u8()
    if tag == Tag.ARRAY:
        count = cursor.u16()
        return TypeDescription(tag, count, (_read_description(cursor, depth + 1),))
    if tag == Tag.STRUCTURE:
        count = cursor.length()
        if count > cursor.remaining:
            raise cursor.error(f"{count} members cannot fit the {cursor.remaining} octets that are left")
        return TypeDescription(tag, 0, tuple([_read_description(cursor, depth + 1) for _ in range(count)]))
    if tag == Tag.COMPACT_ARRAY or tag not in _CHECKS:
        raise cursor.error(f"tag {tag} cannot be described in a compact array", back=1)
    return TypeDescription(tag)


def _compact_elements(description: TypeDescription, contents: bytes, base: int) -> tuple[tuple[Data, ...], int]:
    """The elements, and of how many values they are made."""
    cursor = Cursor(contents, "compact array", base)
    most = min(VALUES_MAX, COMPACT_ELEMENTS_BASE + COMPACT_ELEMENTS_PER_OCTET * len(contents))
    budget = [most]
    out: list[Data] = []
    while cursor.remaining:
        before = cursor.pos
        out.append(_described(cursor, description, budget))
        if cursor.pos == before:
            raise cursor.error("the element type takes no octets, but contents follow")
    return tuple(out), most - budget[0]


def _described(cursor: Cursor, description: TypeDescription, budget: list[int]) -> Data:
    budget[0] -= 1
    if budget[0] < 0:
        raise cursor.error("more elements than the contents can hold")
    tag = description.tag
    if tag == Tag.ARRAY:
        member = description.members[0]
        return Data(tag, tuple([_described(cursor, member, budget) for _ in range(description.count)]))
    if tag == Tag.STRUCTURE:
        return Data(tag, tuple([_described(cursor, member, budget) for member in description.members]))
    return _NULL if tag == Tag.NULL else Data(tag, _contents(cursor, tag, DEPTH_MAX))


def _read_float(cursor: Cursor, tag: int, _depth: int) -> Value:
    layout = _FLOATS[tag]
    value: float = layout.unpack(cursor.take(layout.size))[0]
    return value


_READERS: dict[int, Callable[[Cursor, int, int], Value]] = {
    Tag.NULL: lambda _cursor, _tag, _depth: None,
    Tag.DONT_CARE: lambda _cursor, _tag, _depth: None,
    Tag.BOOLEAN: lambda cursor, _tag, _depth: cursor.u8() != 0,
    Tag.ARRAY: _read_sequence,
    Tag.STRUCTURE: _read_sequence,
    Tag.COMPACT_ARRAY: _read_compact,
    Tag.BIT_STRING: _read_bits,
    Tag.OCTET_STRING: lambda cursor, _tag, _depth: cursor.octets(),
    Tag.VISIBLE_STRING: lambda cursor, _tag, _depth: cursor.octets().decode("latin-1"),
    Tag.UTF8_STRING: lambda cursor, _tag, _depth: cursor.octets().decode("utf-8", "surrogateescape"),
    Tag.FLOAT32: _read_float,
    Tag.FLOAT64: _read_float,
    **{tag: (lambda cursor, tag, _depth: cursor.take(_FIXED_OCTETS[tag])) for tag in _FIXED_OCTETS},
}


# ------------------------------------------------------------------------------------------------------ writing


def _write(data: Data, out: bytearray) -> None:
    out.append(data.tag)
    _write_contents(data, out)


def _write_contents(data: Data, out: bytearray) -> None:
    tag, value = data.tag, data.value
    if type(value) is int:
        size, signed = _INTEGERS[tag]
        out += value.to_bytes(size, "big", signed=signed)
    elif type(value) is bytes:
        if tag == Tag.OCTET_STRING:
            out += length_octets(len(value))
        out += value
    elif type(value) is tuple:
        out += length_octets(len(value))
        for member in value:
            _write(member, out)
    elif type(value) is str:
        _write_text(tag, value, out)
    elif type(value) is bool:
        out.append(1 if value else 0)
    elif type(value) is float:
        out += _FLOATS[tag].pack(value)
    elif type(value) is CompactArray:
        _write_description(value.description, out)
        out += length_octets(len(value.contents)) + value.contents


def _write_text(tag: int, value: str, out: bytearray) -> None:
    if tag == Tag.BIT_STRING:
        out += length_octets(len(value))
        size = (len(value) + 7) // 8
        out += int(value.ljust(8 * size, "0") or "0", 2).to_bytes(size, "big")
        return
    octets = value.encode("latin-1") if tag == Tag.VISIBLE_STRING else value.encode("utf-8", "surrogateescape")
    out += length_octets(len(octets)) + octets


def _write_description(description: TypeDescription, out: bytearray) -> None:
    out.append(description.tag)
    if description.tag == Tag.ARRAY:
        out += description.count.to_bytes(2, "big")
    elif description.tag == Tag.STRUCTURE:
        out += length_octets(len(description.members))
    for member in description.members:
        _write_description(member, out)


# ------------------------------------------------------------------------------------------------- constructors


def null() -> Data:
    return Data(Tag.NULL, None)


def boolean(value: bool) -> Data:
    return Data(Tag.BOOLEAN, value)


def u8(value: int) -> Data:
    return Data(Tag.UNSIGNED, int(value))


def u16(value: int) -> Data:
    return Data(Tag.LONG_UNSIGNED, int(value))


def u32(value: int) -> Data:
    return Data(Tag.DOUBLE_LONG_UNSIGNED, int(value))


def u64(value: int) -> Data:
    return Data(Tag.LONG64_UNSIGNED, int(value))


def i8(value: int) -> Data:
    return Data(Tag.INTEGER, int(value))


def i16(value: int) -> Data:
    return Data(Tag.LONG, int(value))


def i32(value: int) -> Data:
    return Data(Tag.DOUBLE_LONG, int(value))


def i64(value: int) -> Data:
    return Data(Tag.LONG64, int(value))


def enum(value: int) -> Data:
    return Data(Tag.ENUM, int(value))


def octets(value: bytes) -> Data:
    return Data(Tag.OCTET_STRING, value)


def visible(value: str) -> Data:
    return Data(Tag.VISIBLE_STRING, value)


def utf8(value: str) -> Data:
    return Data(Tag.UTF8_STRING, value)


def bits(value: str) -> Data:
    """`value` as "0101", first bit first."""
    return Data(Tag.BIT_STRING, value)


def array(members: Iterable[Data]) -> Data:
    return Data(Tag.ARRAY, tuple(members))


def structure(*members: Data) -> Data:
    return Data(Tag.STRUCTURE, members)


def compact(description: TypeDescription, elements: Iterable[Data]) -> Data:
    """A compact array of `elements`, each of which must have the described type. Raises `LocalError`."""
    out = bytearray()
    for element in elements:
        _write_described(description, element, out)
    return Data(Tag.COMPACT_ARRAY, CompactArray(description, bytes(out)))


def _write_described(description: TypeDescription, element: Data, out: bytearray) -> None:
    if element.tag != description.tag:
        raise LocalError(f"an element with tag {element.tag} where {description.tag} is described")
    if description.tag in (Tag.ARRAY, Tag.STRUCTURE):
        members = element.members()
        types = description.members * description.count if description.tag == Tag.ARRAY else description.members
        if len(members) != len(types):
            raise LocalError(f"{len(members)} members where {len(types)} are described")
        for member_type, member in zip(types, members, strict=True):
            _write_described(member_type, member, out)
        return
    _write_contents(element, out)
