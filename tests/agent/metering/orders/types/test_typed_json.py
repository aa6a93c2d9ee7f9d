"""Typed JSON for parameters: the inverse of what readings are encoded as, and nothing that is no value."""

from __future__ import annotations

import pytest

from agent.metering.orders.types.typed_json import TypedJsonError, decode
from agent.metering.visit.raw_values import encode
from dlms.axdr import Data, Tag

VALUES: list[object] = [
    ["null", None],
    ["bool", True],
    ["bits", "0101"],
    ["i8", -128],
    ["u8", 255],
    ["i16", -32768],
    ["u16", 65535],
    ["i32", -(2**31)],
    ["u32", 2**32 - 1],
    ["i64", -(2**63)],
    ["u64", 2**64 - 1],
    ["enum", 3],
    ["str", "day"],
    ["oct", "00ff"],
    ["dt", "07ea0b1c06000000008000ff"],
    ["date", "07ea0b1c06"],
    ["time", "0c000000"],
    ["f32", 1.5],
    ["f64", -0.25],
    ["f64", "Infinity"],
    ["array", [["u8", 1], ["u8", 2]]],
    ["struct", [["oct", ""], ["array", []], ["struct", [["i8", 0]]]]],
]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_what_is_read_can_be_written_back(value: object) -> None:
    assert list(encode(decode(value))) == value


def test_a_text_in_utf8_has_a_tag_of_its_own() -> None:
    assert decode(["utf8", "é"]) == Data(Tag.UTF8_STRING, "é")


@pytest.mark.parametrize(
    "value",
    [
        5,
        "u8",
        ["u8"],
        ["u8", 1, 2],
        ["u8", 256],
        ["u8", -1],
        ["i8", 128],
        ["u8", True],
        ["bool", 1],
        ["u9", 1],
        ["null", 0],
        ["oct", "0"],
        ["oct", "zz"],
        ["dt", "00"],
        ["bits", "012"],
        ["str", "€"],
        ["f64", "1"],
        ["f32", 1e300],
        ["f64", float("nan")],
        ["array", 5],
        ["struct", [5]],
        [5, 5],
    ],
    ids=str,
)
def test_what_is_no_value_is_refused(value: object) -> None:
    with pytest.raises(TypedJsonError):
        decode(value)


def test_nesting_is_bounded() -> None:
    value: object = ["u8", 1]
    for _ in range(9):
        value = ["struct", [value]]
    with pytest.raises(TypedJsonError, match="deeper"):
        decode(value)
