"""COSEM data: every type there and back, known encodings, and bounds."""

from __future__ import annotations

import math
import random
import tracemalloc

import pytest

from dlms import axdr
from dlms.axdr import CompactArray, Data, Tag, TypeDescription, decode
from dlms.cursor import Cursor
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


NULLS = b"\x01\x83\x02\x00\x00" + bytes(0x20000)


@pytest.mark.parametrize(
    ("hostile", "offset"),
    [
        (b"\x01\x83\x0f\x42\x40" + b"\x03\x01" * 1_000_000, 5),  # an array of a million booleans: none is read
        (b"\x01\x05" + NULLS * 5, 2 + 3 * len(NULLS) + 5),  # no array of it is too long, four are
        # a structure of 15 null-data and an octet: 17 values per octet
        (
            b"\x13\x02\x10" + b"\x00" * 15 + b"\x11" + b"\x83\x0f\x42\x40" + bytes(1_000_000),
            23 + (1 << 19) // 17,
        ),
    ],
)
@pytest.mark.slow
def test_more_values_than_a_year_of_profile_rows_are_not_made(hostile: bytes, offset: int) -> None:
    with pytest.raises(DecodeError, match=r"more than 524288 values|more elements than") as caught:
        axdr.decode(hostile)
    assert caught.value.offset == offset


def test_a_value_takes_at_most_two_hundred_octets_and_null_data_and_bits_next_to_none() -> None:
    rows = b"\x01\x82\x02\x00" + (b"\x02\x08" + b"\x11\x01" * 8) * 0x200
    nulls = b"\x01\x82\x20\x00" + bytes(0x2000)
    bits = b"\x04\x83\x0c\x35\x00" + bytes(100_000)
    for encoded, octets_max in ((rows, 0x200 * 9 * 200), (nulls, 0x2000 * 80), (bits, 800_000 * 5)):
        tracemalloc.start()
        try:
            axdr.decode(encoded)
            assert tracemalloc.get_traced_memory()[1] < octets_max
        finally:
            tracemalloc.stop()


_OCTET = TypeDescription(Tag.UNSIGNED)


@pytest.mark.parametrize(
    ("tag", "count", "members"),
    [
        (Tag.ARRAY, 1, ()), (Tag.ARRAY, 0x10000, (_OCTET,)), (Tag.COMPACT_ARRAY, 0, ()), (7, 0, ()),
        (Tag.UNSIGNED, 0, (_OCTET,)), (Tag.UNSIGNED, 1, ()), (Tag.ARRAY, 2, (_OCTET, _OCTET)),
        (Tag.ARRAY, -1, (_OCTET,)), (Tag.STRUCTURE, 1, (_OCTET,)),
    ],
)  # fmt: skip
def test_a_type_that_cannot_be_described_cannot_be_made(
    tag: int, count: int, members: tuple[TypeDescription, ...]
) -> None:
    with pytest.raises(LocalError):
        TypeDescription(tag, count, members)


@pytest.mark.parametrize(
    ("description", "encoded"),
    [
        (TypeDescription(Tag.ARRAY, 0, (_OCTET,)), "1301000011"),
        (TypeDescription(Tag.ARRAY, 0xFFFF, (_OCTET,)), "1301ffff11"),
        (TypeDescription(Tag.STRUCTURE, 0, ()), "130200"),
        (TypeDescription(Tag.STRUCTURE, 0, (_OCTET, TypeDescription(Tag.NULL))), "1302021100"),
    ],
)
def test_types_that_can_be_described_are_written_and_read(description: TypeDescription, encoded: str) -> None:
    value = axdr.compact(description, [])
    assert value.emit().hex() == encoded + "00"
    assert decode(value.emit()) == value


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


@pytest.mark.parametrize(
    ("encoded", "what", "offset", "why"),
    [
        ("63", "COSEM data", 0, "99 is not a tag"),
        ("0202110116", "COSEM data", 5, "1 octets early"),
        ("0202110163", "COSEM data", 4, "99 is not a tag"),
        ("010500000000", "COSEM data", 2, "5 elements cannot fit the 4 octets"),
        ("1363", "COSEM data", 1, "tag 99 cannot be described"),
        ("1313", "COSEM data", 1, "tag 19 cannot be described"),
        ("130205110011", "COSEM data", 3, "5 members cannot fit the 3 octets"),
        ("1302021111", "COSEM data", 5, "one more octet"),
        ("13120101", "compact array", 3, "1 octets early"),
        ("13000100", "compact array", 3, "takes no octets"),
    ],
)
def test_an_error_says_at_which_octet_of_what(encoded: str, what: str, offset: int, why: str) -> None:
    with pytest.raises(DecodeError, match=why) as caught:
        decode(bytes.fromhex(encoded))
    assert (caught.value.what, caught.value.offset) == (what, offset)


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
    assert decode(b"\x02\x01" * 16 + b"\x00")
    with pytest.raises(DecodeError, match="more than 16 deep") as caught:
        decode(b"\x02\x01" * 17 + b"\x00")
    assert caught.value.offset == 32


@pytest.mark.parametrize("nested", [b"\x01\x00\x01", b"\x02\x01"])  # an array of one, a structure of one
def test_type_descriptions_nest_as_deep_as_values_and_no_deeper(nested: bytes) -> None:
    def described(levels: int) -> bytes:
        return b"\x13" + nested * (levels - 1) + b"\x11" + b"\x01\x05"

    assert decode(described(16)).members()
    for outside, levels in ((0, 17), (1, 16)):  # what the compact array lies in counts too
        with pytest.raises(DecodeError, match="type descriptions nest"):
            decode(b"\x02\x01" * outside + described(levels))


TARIFFS = TypeDescription(Tag.STRUCTURE, 0, (TypeDescription(Tag.LONG_UNSIGNED), TypeDescription(Tag.OCTET_STRING)))


def test_a_compact_array_gives_typed_elements() -> None:
    rows = [axdr.structure(axdr.u16(1), axdr.octets(b"a")), axdr.structure(axdr.u16(2), axdr.octets(b""))]
    value = axdr.compact(TARIFFS, rows)
    assert value.emit().hex() == "130202120907" + "00010161" + "000200"
    assert decode(value.emit()) == value
    assert value.members() == tuple(rows)


def test_contents_that_do_not_fit_their_description_are_refused_where_they_end() -> None:
    with pytest.raises(DecodeError, match="1 octets early") as caught:
        CompactArray(TypeDescription(Tag.LONG_UNSIGNED), b"\x00\x01\x02").elements()
    assert (caught.value.what, caught.value.offset) == ("compact array", 2)


def test_a_compact_array_of_arrays_takes_the_count_from_the_description() -> None:
    description = TypeDescription(Tag.ARRAY, 3, (TypeDescription(Tag.UNSIGNED),))
    value = decode(bytes.fromhex("13 01 0003 11 06 010203040506"))
    assert isinstance(value.value, CompactArray)
    assert value.value.description == description
    assert [[member.value for member in row.members()] for row in value.members()] == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("nulls", "octets"), [(1038, 1), (526, 2), (24, 100)], ids=["1040 values", "1056 values", "26 values per octet"]
)
def test_a_compact_array_makes_1024_values_and_16_per_octet_and_no_more(nulls: int, octets: int) -> None:
    """A structure of so many null-data, which take no octets, and one unsigned: null-data cost memory all the same."""

    def encoded(nulls: int) -> bytes:
        return (
            b"\x13\x02\x82" + (nulls + 1).to_bytes(2, "big") + bytes(nulls) + b"\x11" + bytes((octets,)) * (octets + 1)
        )

    cursor = Cursor(encoded(nulls), "test")
    before = cursor.values_left
    assert len(axdr.read(cursor).members()) == octets
    assert before - cursor.values_left == octets * (nulls + 2)  # they count in what lies around them, too
    with pytest.raises(DecodeError, match="more elements than the contents can hold"):
        decode(encoded(nulls + 1))


def test_arrays_of_arrays_in_a_compact_array_cannot_ask_for_values_without_end() -> None:
    with pytest.raises(DecodeError, match="more elements"):
        decode(bytes.fromhex("13 01ffff 01ffff 01ffff 00 01 00"))  # 2**48 elements out of nothing


def test_every_member_of_an_array_counts() -> None:
    cursor = Cursor(bytes.fromhex("0202 0103000000 11ff"), "test")
    before = cursor.values_left
    axdr.read(cursor)
    assert before - cursor.values_left == 5


def test_type_descriptions_nest_within_bounds() -> None:
    with pytest.raises(DecodeError, match="nest"):
        decode(b"\x13" + b"\x02\x01" * 1000 + b"\x11\x00")


RANGES = [
    (Tag.INTEGER, -128, 127), (Tag.LONG, -32768, 32767), (Tag.DOUBLE_LONG, -0x80000000, 0x7FFFFFFF),
    (Tag.LONG64, -0x8000000000000000, 0x7FFFFFFFFFFFFFFF), (Tag.UNSIGNED, 0, 255), (Tag.LONG_UNSIGNED, 0, 65535),
    (Tag.DOUBLE_LONG_UNSIGNED, 0, 0xFFFFFFFF), (Tag.LONG64_UNSIGNED, 0, 0xFFFFFFFFFFFFFFFF), (Tag.ENUM, 0, 255),
    (Tag.BCD, 0, 255), (Tag.DELTA_INTEGER, -128, 127), (Tag.DELTA_LONG, -32768, 32767),
    (Tag.DELTA_DOUBLE_LONG, -0x80000000, 0x7FFFFFFF), (Tag.DELTA_UNSIGNED, 0, 255), (Tag.DELTA_LONG_UNSIGNED, 0, 65535),
    (Tag.DELTA_DOUBLE_LONG_UNSIGNED, 0, 0xFFFFFFFF),
]  # fmt: skip


@pytest.mark.parametrize(("tag", "low", "high"), RANGES, ids=[row[0].name for row in RANGES])
def test_integers_have_the_range_of_their_type(tag: int, low: int, high: int) -> None:
    for value in (low, high):
        assert decode(Data(tag, value).emit()) == Data(tag, value)
    for wrong in (low - 1, high + 1, True, 1.0, "1"):
        with pytest.raises(LocalError):
            Data(tag, wrong)


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (Tag.BOOLEAN, 1),
        (Tag.OCTET_STRING, "text"),
        (Tag.VISIBLE_STRING, "€"),
        (Tag.VISIBLE_STRING, b"text"),
        (Tag.UTF8_STRING, "\ud800"),
        (Tag.BIT_STRING, "012"),
        (Tag.BIT_STRING, b"01"),
        (Tag.DATE_TIME, bytes(11)),
        (Tag.DATE_TIME, bytes(13)),
        (Tag.DATE, bytes(6)),
        (Tag.TIME, bytes(5)),
        (Tag.TIME, "4444"),
        (Tag.NULL, 0),
        (Tag.DONT_CARE, 0),
        (Tag.FLOAT32, 1e300),
        (Tag.FLOAT32, 1),
        (Tag.FLOAT64, 1),
        (Tag.ARRAY, [axdr.null()]),
        (Tag.STRUCTURE, (1,)),
        (Tag.COMPACT_ARRAY, b""),
        (7, 1.0),
        (300, None),
    ],
)
def test_a_value_that_its_tag_cannot_hold_cannot_be_made(tag: int, value: object) -> None:
    with pytest.raises(LocalError):
        Data(tag, value)  # type: ignore[arg-type]


COMPACT = CompactArray(TypeDescription(Tag.UNSIGNED), b"\x01\x02")


@pytest.mark.parametrize(
    ("data", "integer", "members", "octets"),
    [
        (axdr.u8(5), 5, None, None),
        (axdr.enum(5), 5, None, None),
        (axdr.boolean(value=True), None, None, None),
        (axdr.visible("5"), None, None, None),
        (axdr.octets(b"5"), None, None, b"5"),
        (Data(Tag.TIME, bytes(4)), None, None, bytes(4)),
        (axdr.array([axdr.u8(1)]), None, (axdr.u8(1),), None),
        (axdr.structure(), None, (), None),
        (Data(Tag.COMPACT_ARRAY, COMPACT), None, (axdr.u8(1), axdr.u8(2)), None),
    ],
)
def test_a_value_is_a_number_or_has_members_or_octets_or_says_that_it_does_not(
    data: Data, integer: int | None, members: tuple[Data, ...] | None, octets: bytes | None
) -> None:
    for verb, value in ((Data.integer, integer), (Data.members, members), (Data.octets, octets)):
        if value is None:
            with pytest.raises(LocalError):
                verb(data)
        else:
            assert verb(data) == value


@pytest.mark.parametrize("octet", ["01", "02", "ff"])
def test_every_boolean_but_zero_is_true_and_true_is_written_as_one(octet: str) -> None:
    assert decode(bytes.fromhex("03" + octet)).emit() == b"\x03\x01"


def test_not_a_number_is_a_float() -> None:
    value = decode(bytes.fromhex("177fc00000")).value
    assert isinstance(value, float)
    assert math.isnan(value)


@pytest.mark.parametrize(
    ("description", "element"),
    [
        (TARIFFS, axdr.u16(1)),
        (TARIFFS, axdr.structure(axdr.u16(1))),
        (TARIFFS, axdr.structure(axdr.u8(1), axdr.octets(b""))),
        (TypeDescription(Tag.ARRAY, 2, (_OCTET,)), axdr.array([axdr.u8(1)])),
        (TypeDescription(Tag.ARRAY, 2, (_OCTET,)), axdr.array([axdr.u8(1), axdr.u16(2)])),
    ],
)
def test_elements_of_another_type_do_not_fit_a_compact_array(description: TypeDescription, element: Data) -> None:
    with pytest.raises(LocalError):
        axdr.compact(description, [element])
