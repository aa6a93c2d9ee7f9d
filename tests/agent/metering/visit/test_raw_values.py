"""The names of types are one table: what a value is called on the device, in records, and what the head-end takes."""

from __future__ import annotations

import pytest

from agent.metering.visit.raw_values import encode
from dlms import axdr
from dlms.axdr import FLOAT_TAGS, INTEGER_TAGS, TYPE_NAMES, Data, Tag, Value
from dlms.errors import LocalError
from omadm import readings
from tests.omadm.test_readings import a_batch, a_record

OTHERS: dict[Tag, Value] = {
    Tag.NULL: None,
    Tag.BOOLEAN: True,
    Tag.OCTET_STRING: b"ab",
    Tag.VISIBLE_STRING: "day",
    Tag.UTF8_STRING: "Tag",
    Tag.BIT_STRING: "0101",
    Tag.DATE_TIME: bytes(12),
    Tag.DATE: bytes(5),
    Tag.TIME: bytes(4),
    Tag.ARRAY: (axdr.u8(1), axdr.u8(2)),
    Tag.STRUCTURE: (axdr.u8(1), axdr.enum(2)),
}
SAME_NAME = {Tag.UTF8_STRING: "str"}  # a record does not tell the two kinds of text apart


def taken(tag: str, raw: object) -> bool:
    """Whether the head-end takes this raw value under this name."""
    try:
        readings.parse(a_batch(a_record(tag=tag, raw=raw, scaler=None)))
    except readings.BatchError:
        return False
    return True


def fits(tag: Tag, value: int) -> bool:
    """Whether the type can hold the value."""
    try:
        Data(tag, value)
    except LocalError:
        return False
    return True


@pytest.mark.parametrize("tag", TYPE_NAMES, ids=TYPE_NAMES.get)
def test_every_type_has_the_same_name_in_a_record_and_at_the_head_end(tag: Tag) -> None:
    value = 1 if tag in INTEGER_TAGS else 0.5 if tag in FLOAT_TAGS else OTHERS[tag]
    name, raw = encode(Data(tag, value))
    assert name == SAME_NAME.get(tag, TYPE_NAMES[tag])
    assert taken(name, raw)
    assert not taken(name.upper(), raw)


@pytest.mark.parametrize("tag", INTEGER_TAGS, ids=TYPE_NAMES.get)
def test_the_head_end_has_the_bounds_of_every_integer_type(tag: Tag) -> None:
    edges = [
        sign * 2**bits + step for sign in (1, -1) for bits in (7, 8, 15, 16, 31, 32, 63, 64) for step in (-1, 0, 1)
    ]
    assert [taken(TYPE_NAMES[tag], edge) for edge in edges] == [fits(tag, edge) for edge in edges]
