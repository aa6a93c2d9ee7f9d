"""The cursor: what each verb reads, where it then stands, and at which octet an error is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dlms.cursor import Cursor, length_octets
from dlms.errors import DecodeError

READ = [
    ("u8", Cursor.u8, "fe00", 0xFE, 1),
    ("i8 positive", Cursor.i8, "7f00", 127, 1),
    ("i8 negative", Cursor.i8, "8000", -128, 1),
    ("u16", Cursor.u16, "123400", 0x1234, 2),
    ("u32", Cursor.u32, "1234567800", 0x12345678, 4),
    ("flag unset", Cursor.flag, "0001", False, 1),
    ("flag set", Cursor.flag, "0100", True, 1),
    ("flag set otherwise", Cursor.flag, "ff00", True, 1),
    ("peek", Cursor.peek, "0102", 1, 0),
    ("octets", Cursor.octets, "02616263", b"ab", 3),
    ("rest", Cursor.rest, "616263", b"abc", 3),
    ("rest of nothing", Cursor.rest, "", b"", 0),
    ("length", Cursor.length, "0000", 0, 1),
    ("longest short length", Cursor.length, "7f00", 127, 1),
    ("long length of one octet", Cursor.length, "818000", 128, 2),
    ("long length that could be short", Cursor.length, "810100", 1, 2),
    ("long length of four octets", Cursor.length, "840001000200", 0x10002, 5),
]


@pytest.mark.parametrize(
    ("verb", "encoded", "value", "stands"), [row[1:] for row in READ], ids=[row[0] for row in READ]
)
def test_what_is_read_and_where_the_cursor_stands_then(
    verb: Callable[[Cursor], object], encoded: str, value: object, stands: int
) -> None:
    cursor = Cursor(bytes.fromhex("ff" + encoded), "test", 100)
    cursor.u8()
    assert verb(cursor) == value
    assert (cursor.pos, cursor.offset, cursor.remaining) == (1 + stands, 101 + stands, len(encoded) // 2 - stands)
    assert cursor.since(1) == bytes.fromhex(encoded)[:stands]


REFUSED = [
    ("u8", Cursor.u8, "", 1, "one more octet is due"),
    ("peek", Cursor.peek, "", 1, "one more octet is due"),
    ("u16", Cursor.u16, "12", 1, "ends 1 octets early"),
    ("u32", Cursor.u32, "12", 1, "ends 3 octets early"),
    ("octets", Cursor.octets, "0361", 2, "ends 2 octets early"),
    ("indefinite length", Cursor.length, "80", 1, "0x80 is neither"),
    ("length of five octets", Cursor.length, "850000000000", 1, "0x85 is neither"),
    ("length cut off", Cursor.length, "8200", 2, "ends 1 octets early"),
    ("end", Cursor.check_end, "0102", 1, "2 octets follow the end"),
]


@pytest.mark.parametrize(
    ("verb", "encoded", "at", "why"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_what_cannot_be_read_is_refused_at_the_octet_where_it_goes_wrong(
    verb: Callable[[Cursor], object], encoded: str, at: int, why: str
) -> None:
    cursor = Cursor(bytes.fromhex("ff" + encoded), "test", 100)
    cursor.u8()
    with pytest.raises(DecodeError, match=why) as caught:
        verb(cursor)
    assert (caught.value.what, caught.value.offset) == ("test", 100 + at)


def test_a_cursor_alone_is_a_whole_message_and_its_end_may_be_checked_when_nothing_follows() -> None:
    cursor = Cursor(b"\x01", "test")
    assert cursor.offset == 0
    cursor.u8()
    cursor.check_end()
    assert cursor.error("why").offset == 1


def test_a_part_with_a_length_is_read_on_its_own_and_errors_in_it_count_from_the_message() -> None:
    whole = Cursor(bytes.fromhex("ff02010299"), "whole", 100)
    whole.u8()
    part = whole.sub("part")
    assert (part.offset, part.rest(), whole.offset, whole.u8()) == (102, b"\x01\x02", 104, 0x99)
    with pytest.raises(DecodeError) as caught:
        part.u8()
    assert (caught.value.what, caught.value.offset) == ("part", 104)


def test_no_more_values_are_made_than_a_year_of_profile_rows_needs() -> None:
    cursor = Cursor(b"", "test")
    cursor.count_values(366 * 96 * 8)  # quarter-hours, 8 columns
    cursor.count_values(524_288 - 366 * 96 * 8)
    with pytest.raises(DecodeError, match="more than 524288 values"):
        cursor.count_values(1)


@pytest.mark.parametrize(
    ("count", "encoded"),
    [
        (0, "00"), (127, "7f"), (128, "8180"), (255, "81ff"), (256, "820100"), (65535, "82ffff"), (65536, "83010000"),
        (0xFFFFFFFF, "84ffffffff"),
    ],
)  # fmt: skip
def test_a_length_takes_the_fewest_octets(count: int, encoded: str) -> None:
    assert length_octets(count).hex() == encoded
    assert Cursor(bytes.fromhex(encoded), "test").length() == count
