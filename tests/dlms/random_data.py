"""Random COSEM values from a seed."""

from __future__ import annotations

import random
import struct

from dlms import axdr
from dlms.axdr import Data, Tag, TypeDescription

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
        return axdr.compact(TypeDescription(Tag.LONG_UNSIGNED), [axdr.u16(at) for at in range(chance.randrange(5))])
    members = [random_data(chance, depth + 1) for _ in range(chance.randrange(5))]
    return axdr.array(members) if kind == 10 else axdr.structure(*members)


def random_integer(chance: random.Random) -> Data:
    tag = chance.choice(list(_INTEGERS))
    size, signed = _INTEGERS[tag]
    low = -(1 << (8 * size - 1)) if signed else 0
    return Data(tag, chance.choice((low, low + (1 << (8 * size)) - 1, chance.randrange(1 << 7))))
