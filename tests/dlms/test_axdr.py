"""COSEM data: every type there and back, known encodings, and bounds."""

from __future__ import annotations

import math
import random
import tracemalloc

import pytest

from dlms import axdr
from dlms.axdr import CompactArray, Data, Tag, TypeDescription, decode
from dlms.errors import DecodeError, LocalError
from tests.dlms.random_data import random_data, random_described, random_description, random_simple, simple_tags

KNOWN = [
    ("00", axdr.null()),
    ("0300", axdr.boolean(value=False)),
    ("0301", axdr.boolean(value=True)),
    ("040ab2c0", axdr.bits("1011001011")),
    ("0400", axdr.bits("")),
    ("05ffffffff", axdr.i32(-1)),
    ("0600000064", axdr.u32(100)),
    ("0906010001080 0ff".replace(" ", ""), axdr.octets(bytes.fromhex("0100010800ff"))),
    ("0a03414243", axdr.visible("ABC")),
    ("0c03e282ac", axdr.utf8("€")),
    ("0d99", Data(Tag.BCD, 0x99)),
    ("0ffe", axdr.i8(-2)),
    ("108000", axdr.i16(-32768)),
    ("11ff", axdr.u8(255)),
    ("12ffff", axdr.u16(65535)),
    ("14fffffffffffffffe", axdr.i64(-2)),
    ("15ffffffffffffffff", axdr.u64(2**64 - 1)),
    ("161e", axdr.enum(30)),
    ("173f800000", Data(Tag.FLOAT32, 1.0)),
    ("18c000000000000000", Data(Tag.FLOAT64, -2.0)),
    ("1907ea0b16070a1e0000ff8880", Data(Tag.DATE_TIME, bytes.fromhex("07ea0b16070a1e0000ff8880"))),
    ("1a07ea0b1607", Data(Tag.DATE, bytes.fromhex("07ea0b1607"))),
    ("1b0a1e0000", Data(Tag.TIME, bytes.fromhex("0a1e0000"))),
    ("1cff", Data(Tag.DELTA_INTEGER, -1)),
    ("1dff00", Data(Tag.DELTA_LONG, -256)),
    ("1e00000001", Data(Tag.DELTA_DOUBLE_LONG, 1)),
    ("1fff", Data(Tag.DELTA_UNSIGNED, 255)),
    ("20ff00", Data(Tag.DELTA_LONG_UNSIGNED, 0xFF00)),
    ("21ffffffff", Data(Tag.DELTA_DOUBLE_LONG_UNSIGNED, 0xFFFFFFFF)),
    ("ff", Data(Tag.DONT_CARE, None)),
    ("02020ffd161b", axdr.structure(axdr.i8(-3), axdr.enum(27))),
    ("010212000112 0002".replace(" ", ""), axdr.array([axdr.u16(1), axdr.u16(2)])),
    ("0100", axdr.array([])),
]


@pytest.mark.parametrize(("encoded", "value"), KNOWN, ids=[encoded for encoded, _ in KNOWN])
def test_known_encodings_both_ways(encoded: str, value: Data) -> None:
    assert decode(bytes.fromhex(encoded)) == value
    assert value.emit().hex() == encoded


def test_random_values_survive_the_round_trip() -> None:
    chance = random.Random(1)
    for _ in range(1500):
        value = random_data(chance)
        assert decode(value.emit()) == value


@pytest.mark.parametrize("tag", simple_tags())
def test_random_values_of_every_simple_type_survive(tag: int) -> None:
    chance = random.Random(tag)
    for _ in range(50):
        value = random_simple(tag, chance)
        assert axdr.decode(value.emit()) == value


def test_random_compact_arrays_give_the_elements_they_were_made_of() -> None:
    chance = random.Random(61)
    for _ in range(500):
        description = random_description(chance)
        elements = tuple([random_described(description, chance) for _ in range(chance.randrange(6))])
        compact = axdr.compact(description, elements)
        again = axdr.decode(compact.emit())
        assert again == compact
        assert isinstance(compact.value, CompactArray)
        # Elements that take no octets (an array of none) cannot be counted: the standard has no count for them.
        assert again.members() == (elements if compact.value.contents else ())


def test_giant_counts_and_deep_nesting_cost_no_memory() -> None:
    hostile = [
        "0184ffffffff" + "00" * 8,  # an array of 4 billion
        "0484ffffffff" + "ff" * 8,  # bits
        "0984ffffffff" + "ff" * 8,
        "13" + "01ffff" * 15 + "11" + "01ff",  # arrays of arrays of 65535 in a compact array
        "13" + "02ff" * 15 + "11" + "01ff",
        "0101" * 4000,
        "13" + "010001" * 4000,
    ]
    tracemalloc.start()
    try:
        for encoded in hostile:
            with pytest.raises(DecodeError):
                axdr.decode(bytes.fromhex(encoded))
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    "hostile",
    [
        b"\x01\x83\x0f\x42\x40" + b"\x03\x01" * 1_000_000,  # an array of a million booleans
        b"\x01\x83\x02\x00\x00" + (b"\x02\x08" + b"\x0f\x01" * 8) * 0x20000,  # no array of it is too long, all are
        b"\x13\x02\x10" + b"\x00" * 15 + b"\x11" + b"\x83\x0f\x42\x40" + bytes(1_000_000),  # 15 values for nothing
    ],
)
def test_more_values_than_a_year_of_profile_rows_are_not_made(hostile: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match=r"more than 524288 values|more elements than"):
            axdr.decode(hostile)
        assert tracemalloc.get_traced_memory()[1] < 150_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_null_data_takes_a_reference_each_and_long_bit_strings_their_own_length() -> None:
    tracemalloc.start()
    try:
        many = axdr.decode(b"\x01\x83\x07\xa1\x20" + bytes(500_000))
        assert len(many.members()) == 500_000
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
        del many
        tracemalloc.reset_peak()
        assert len(str(axdr.decode(b"\x04\x84\x00\x7a\x12\x00" + bytes(1_000_000)).value)) == 8_000_000
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


_OCTET = TypeDescription(Tag.UNSIGNED)


@pytest.mark.parametrize(
    ("tag", "count", "members"),
    [
        (Tag.ARRAY, 1, ()), (Tag.ARRAY, 0x10000, (_OCTET,)), (Tag.COMPACT_ARRAY, 0, ()), (7, 0, ()),
        (Tag.UNSIGNED, 0, (_OCTET,)), (Tag.UNSIGNED, 1, ()), (Tag.ARRAY, 2, (_OCTET, _OCTET)),
    ],
)  # fmt: skip
def test_a_type_that_cannot_be_described_cannot_be_made(
    tag: int, count: int, members: tuple[TypeDescription, ...]
) -> None:
    with pytest.raises(LocalError):
        TypeDescription(tag, count, members)


def test_every_octet_string_of_text_survives() -> None:
    raw = bytes(range(256))
    for tag in ("0a", "0c"):
        encoded = bytes.fromhex(tag + "820100") + raw
        assert decode(encoded).emit() == encoded


def test_long_form_lengths_are_taken_for_short_contents() -> None:
    assert decode(bytes.fromhex("098103616263")) == axdr.octets(b"abc")
    assert decode(bytes.fromhex("098400000003616263")) == axdr.octets(b"abc")


def test_indefinite_and_oversized_lengths_are_refused() -> None:
    for encoded in ("0980", "098500000000016161", "09ff"):
        with pytest.raises(DecodeError):
            decode(bytes.fromhex(encoded))


def test_an_error_says_at_which_octet_of_what() -> None:
    with pytest.raises(DecodeError) as caught:
        decode(bytes.fromhex("0202110116"))
    assert (caught.value.what, caught.value.offset) == ("COSEM data", 5)
    with pytest.raises(DecodeError) as caught:
        decode(bytes.fromhex("0202110163"))
    assert caught.value.offset == 4


def test_octets_after_the_value_are_an_error() -> None:
    with pytest.raises(DecodeError, match="2 octets follow"):
        decode(bytes.fromhex("11010000"))


def test_a_count_beyond_the_data_is_refused_before_anything_is_allocated() -> None:
    tracemalloc.start()
    with pytest.raises(DecodeError):
        decode(bytes.fromhex("0184ffffffff00"))
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_deep_nesting_is_an_error_and_not_the_end_of_the_stack() -> None:
    with pytest.raises(DecodeError, match="deep"):
        decode(b"\x02\x01" * 100_000 + b"\x00")
    assert decode(b"\x02\x01" * axdr.DEPTH_MAX + b"\x00")


@pytest.mark.parametrize("nested", [b"\x01\x00\x01", b"\x02\x01"])  # an array of one, a structure of one
def test_type_descriptions_nest_as_deep_as_values_and_no_deeper(nested: bytes) -> None:
    def described(levels: int) -> bytes:
        return b"\x13" + nested * (levels - 1) + b"\x11" + b"\x01\x05"

    assert decode(described(axdr.DEPTH_MAX)).members()
    for outside, levels in ((0, axdr.DEPTH_MAX + 1), (1, axdr.DEPTH_MAX)):  # what the compact array lies in counts too
        with pytest.raises(DecodeError, match="type descriptions nest"):
            decode(b"\x02\x01" * outside + described(levels))


TARIFFS = TypeDescription(Tag.STRUCTURE, 0, (TypeDescription(Tag.LONG_UNSIGNED), TypeDescription(Tag.OCTET_STRING)))


def test_a_compact_array_gives_typed_elements() -> None:
    rows = [axdr.structure(axdr.u16(1), axdr.octets(b"a")), axdr.structure(axdr.u16(2), axdr.octets(b""))]
    value = axdr.compact(TARIFFS, rows)
    assert value.emit().hex() == "130202120907" + "00010161" + "000200"
    assert decode(value.emit()) == value
    assert value.members() == tuple(rows)


def test_a_compact_array_of_arrays_takes_the_count_from_the_description() -> None:
    description = TypeDescription(Tag.ARRAY, 3, (TypeDescription(Tag.UNSIGNED),))
    value = decode(bytes.fromhex("13 01 0003 11 06 010203040506"))
    assert isinstance(value.value, CompactArray)
    assert value.value.description == description
    assert [[member.value for member in row.members()] for row in value.members()] == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    "encoded",
    [
        "1300 01 00",  # null-data takes no octets, but one follows
        "13 01ffff 01ffff 01ffff 00 01 00",  # 2**48 elements out of nothing
        "1313",  # a compact array of compact arrays
        "13 12 01 00",  # half a long-unsigned
        "1363",  # no such tag
    ],
)
def test_a_compact_array_that_cannot_be_is_refused(encoded: str) -> None:
    with pytest.raises(DecodeError):
        decode(bytes.fromhex(encoded))


def test_type_descriptions_nest_within_bounds() -> None:
    with pytest.raises(DecodeError, match="nest"):
        decode(b"\x13" + b"\x02\x01" * 1000 + b"\x11\x00")


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (Tag.UNSIGNED, 256),
        (Tag.UNSIGNED, -1),
        (Tag.INTEGER, 128),
        (Tag.BOOLEAN, 1),
        (Tag.UNSIGNED, True),
        (Tag.OCTET_STRING, "text"),
        (Tag.VISIBLE_STRING, "€"),
        (Tag.BIT_STRING, "012"),
        (Tag.DATE_TIME, bytes(11)),
        (Tag.NULL, 0),
        (Tag.FLOAT32, 1e300),
        (Tag.ARRAY, [axdr.null()]),
        (7, 1.0),
        (300, None),
    ],
)
def test_a_value_that_its_tag_cannot_hold_cannot_be_made(tag: int, value: object) -> None:
    with pytest.raises(LocalError):
        Data(tag, value)  # type: ignore[arg-type]


def test_not_a_number_is_a_float() -> None:
    value = decode(bytes.fromhex("177fc00000")).value
    assert isinstance(value, float)
    assert math.isnan(value)


def test_elements_of_another_type_do_not_fit_a_compact_array() -> None:
    with pytest.raises(LocalError):
        axdr.compact(TARIFFS, [axdr.u16(1)])
    with pytest.raises(LocalError):
        axdr.compact(TARIFFS, [axdr.structure(axdr.u16(1))])
