"""Random COSEM values from a seed."""

from __future__ import annotations

import random
import struct

from dlms import axdr
from dlms.axdr import Data, Tag, TypeDescription
from dlms.cosem.types import CosemType

_INTEGERS = {
    Tag.DOUBLE_LONG: (4, True), Tag.DOUBLE_LONG_UNSIGNED: (4, False), Tag.INTEGER: (1, True), Tag.LONG: (2, True),
    Tag.UNSIGNED: (1, False), Tag.LONG_UNSIGNED: (2, False), Tag.LONG64: (8, True), Tag.LONG64_UNSIGNED: (8, False),
    Tag.ENUM: (1, False), Tag.BCD: (1, False), Tag.DELTA_INTEGER: (1, True), Tag.DELTA_LONG: (2, True),
    Tag.DELTA_DOUBLE_LONG: (4, True), Tag.DELTA_UNSIGNED: (1, False), Tag.DELTA_LONG_UNSIGNED: (2, False),
    Tag.DELTA_DOUBLE_LONG_UNSIGNED: (4, False),
}  # fmt: skip


def random_data(chance: random.Random, depth: int = 0) -> Data:
    """A value of any type, structures nested at most three deep."""
    kind = chance.randrange(12 if depth < 3 else 9)
    if kind < 4:
        return random_integer(chance)
    if kind == 4:
        return axdr.octets(chance.randbytes(chance.choice((0, 1, 12, 127, 128, 300))))
    if kind == 5:
        return axdr.bits("".join(chance.choice("01") for _ in range(chance.randrange(40))))
    if kind == 6:
        return chance.choice((axdr.null(), axdr.boolean(value=True), Data(Tag.DONT_CARE, None), axdr.utf8("héllo €")))
    if kind == 7:
        tag, size = chance.choice(((Tag.DATE_TIME, 12), (Tag.DATE, 5), (Tag.TIME, 4)))
        return Data(tag, chance.randbytes(size))
    if kind == 8:
        value: float = struct.unpack(">f", struct.pack(">f", chance.uniform(-1e6, 1e6)))[0]
        return Data(chance.choice((Tag.FLOAT32, Tag.FLOAT64)), value)
    if kind == 9:
        description = random_description(chance)
        return axdr.compact(description, [random_described(description, chance) for _ in range(chance.randrange(5))])
    members = [random_data(chance, depth + 1) for _ in range(chance.randrange(5))]
    return axdr.array(members) if kind == 10 else axdr.structure(*members)


def random_integer(chance: random.Random) -> Data:
    tag = chance.choice(list(_INTEGERS))
    size, signed = _INTEGERS[tag]
    low = -(1 << (8 * size - 1)) if signed else 0
    return Data(tag, chance.choice((low, low + (1 << (8 * size)) - 1, chance.randrange(1 << 7))))


_TEXT = "".join(map(chr, range(0x20, 0x100))) + "€漢"
_PLAIN = (*_INTEGERS, Tag.BOOLEAN, Tag.BIT_STRING, Tag.OCTET_STRING, Tag.VISIBLE_STRING, Tag.UTF8_STRING, Tag.FLOAT32,
          Tag.FLOAT64, Tag.DATE_TIME, Tag.DATE, Tag.TIME)  # fmt: skip


def random_simple(tag: int, chance: random.Random) -> Data:
    """A value of one simple type, its extremes as likely as what is between."""
    if tag in _INTEGERS:
        size, signed = _INTEGERS[Tag(tag)]
        low = -(1 << (8 * size - 1)) if signed else 0
        return Data(tag, chance.choice((low, low + (1 << (8 * size)) - 1, low + chance.randrange(1 << (8 * size)))))
    if tag in (Tag.NULL, Tag.DONT_CARE):
        return Data(tag, None)
    if tag == Tag.BOOLEAN:
        return Data(tag, chance.random() < 0.5)
    if tag == Tag.BIT_STRING:
        return Data(tag, "".join(chance.choice("01") for _ in range(chance.choice((0, 1, 7, 8, 9, 130)))))
    if tag in (Tag.FLOAT32, Tag.FLOAT64):
        layout = ">f" if tag == Tag.FLOAT32 else ">d"
        value: float = struct.unpack(layout, struct.pack(layout, chance.choice((0.0, -1.5, 1e30, float("inf"), 3.1))))[
            0
        ]
        return Data(tag, value)
    fixed = {Tag.DATE_TIME: 12, Tag.DATE: 5, Tag.TIME: 4}.get(Tag(tag))
    if fixed is not None:
        return Data(tag, chance.randbytes(fixed))
    size = chance.choice((0, 1, 12, 127, 128, 300))
    if tag == Tag.OCTET_STRING:
        return Data(tag, chance.randbytes(size))
    letters = _TEXT if tag == Tag.UTF8_STRING else _TEXT[:-2]
    return Data(tag, "".join(chance.choice(letters) for _ in range(size)))


def random_description(chance: random.Random, depth: int = 0) -> TypeDescription:
    """A type that a compact array can have: simple, an array, a structure, nested."""
    kind = chance.randrange(3 if depth < 3 else 1)
    if kind == 1:
        return TypeDescription(Tag.ARRAY, chance.randrange(4), (random_description(chance, depth + 1),))
    if kind == 2:
        members = [random_description(chance, depth + 1) for _ in range(chance.randrange(4))]
        return TypeDescription(Tag.STRUCTURE, 0, tuple(members))
    return TypeDescription(chance.choice(_PLAIN))


def random_described(description: TypeDescription, chance: random.Random) -> Data:
    """An element of a compact array."""
    if description.tag == Tag.ARRAY:
        return axdr.array([random_described(description.members[0], chance) for _ in range(description.count)])
    if description.tag == Tag.STRUCTURE:
        return axdr.structure(*[random_described(member, chance) for member in description.members])
    return random_simple(description.tag, chance)


def random_of(kind: CosemType, chance: random.Random) -> Data:
    """A value that an attribute of this type may have."""
    if kind.element is not None:
        return axdr.array([random_of(kind.element, chance) for _ in range(chance.randrange(4))])
    if kind.name == "structure":
        return axdr.structure(*[random_of(member, chance) for _, member in kind.members])
    octets = {"logical-name": 6, "datetime": 12, "date": 5, "time": 4}.get(kind.name)
    if octets is not None:
        return axdr.octets(chance.randbytes(octets))
    if kind.name == "-":
        return axdr.i8(0)
    return random_data(chance) if kind.tag is None else random_simple(kind.tag, chance)


def simple_tags() -> tuple[int, ...]:
    """Every type that has no parts."""
    return (*_PLAIN, Tag.NULL, Tag.DONT_CARE)
