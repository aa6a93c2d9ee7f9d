"""WBXML: the header's forms, the tokens of practice, limits, damage."""

from __future__ import annotations

import random

import pytest

from omadm.syncml import tokens, wbxml
from omadm.syncml.codec import DM_WBXML, decode, encode, encode_tnds
from omadm.syncml.document import TNDS_WBXML, TNDS_XML
from omadm.syncml.element import BODY_BYTES_MAX, DEPTH_MAX, ELEMENTS_MAX, TEXT_BYTES_MAX, Element
from omadm.syncml.errors import SyncmlError
from omadm.syncml.messages import Add, Item, Meta, Replace, SyncML, SyncmlValueError, Unsupported
from tests.omadm.syncml.samples import EVERYTHING, HEADER, TREE, Generator

MESSAGE = SyncML(HEADER, (Replace("1", (Item(target="./x", meta=Meta("chr"), data="v"),)),))
BODY = encode(MESSAGE, DM_WBXML)[len(b"\x02\xa4\x01\x6a\x00") :]
FPI = tokens.FPI_SYNCML.encode()


def test_the_header_is_1_2_with_the_numeric_id_of_syncml_1_2() -> None:
    assert encode(MESSAGE, DM_WBXML).startswith(b"\x02\xa4\x01\x6a\x00\x6d\x6c\x71\x03" + b"1.2\x00")


def test_a_tnds_document_names_its_type_in_the_string_table_and_begins_on_page_2() -> None:
    document = encode_tnds(TREE, TNDS_WBXML)
    name = b"-//OMA//DTD-DM-DDF 1.2//EN\x00"
    assert document.startswith(b"\x02\x00\x00\x6a" + bytes([len(name)]) + name + b"\x00\x02\x60\x77\x031.2\x00\x01")


@pytest.mark.parametrize("version", [0x01, 0x02, 0x03])
@pytest.mark.parametrize(
    "public_id",
    [
        b"\xa4\x01\x6a\x00",
        b"\x9f\x53\x6a\x00",  # SyncML 1.1
        b"\x01\x6a\x00",  # unknown
        b"\x00\x00\x6a" + bytes([len(FPI)]) + FPI,
        b"\x00\x00\x6a" + bytes([len(FPI) + 1]) + FPI + b"\0",
        b"\x00\x04\x6a" + bytes([len(FPI) + 5]) + b"abc\0" + FPI + b"\0",
    ],
)
def test_every_header_of_version_1_is_read(version: int, public_id: bytes) -> None:
    assert decode(bytes([version]) + public_id + BODY, DM_WBXML) == MESSAGE


@pytest.mark.parametrize(
    ("header", "where", "why"),
    [
        (b"\x00\xa4\x01\x6a\x00", 1, "version"),
        (b"\x04\xa4\x01\x6a\x00", 1, "version"),
        (b"\x02\x04\x6a\x00", 4, "public identifier"),
        (b"\x02\x00\x00\x6a\x06OTHER\0", 11, "public identifier"),
        (b"\x02\x00\x40\x6a\x06OTHER\0", 11, "string table index 64, the table has 6 bytes"),
        (b"\x02\x00\x06\x6a\x06OTHER\0", 11, "string table index 6, the table has 6 bytes"),
        (b"\x02\xa4\x01\x04\x00", 4, "character set"),
        (b"\x02\xa4\x01\x6a\x8f\xff\xff\xff\x7f", 9, "4294967295 bytes announced, 51 left"),
        (b"\x02\xff\xff\xff\xff\xff\x01", 6, "longer than 5"),
        (b"\x02\x90\x80\x80\x80\x00", 6, "32 bits"),
    ],
)
def test_other_headers_are_refused_by_name(header: bytes, where: int, why: str) -> None:
    with pytest.raises(SyncmlError, match=why) as caught:
        decode(header + BODY[:51], DM_WBXML)
    assert caught.value.where == where


def test_a_document_that_ends_in_its_header_is_refused() -> None:
    for length in range(5):
        with pytest.raises(SyncmlError, match="ends too early"):
            wbxml.read(b"\x02\xa4\x01\x6a\x00"[:length])


def test_strings_come_from_the_string_table_too() -> None:
    body = BODY.replace(b"\x03v\x00", b"\x83\x02")
    assert decode(b"\x02\xa4\x01\x6a\x04a\0v\0" + body, DM_WBXML) == MESSAGE


def test_text_in_pieces_and_as_characters_is_joined() -> None:
    body = BODY.replace(b"\x03v\x00", b"\x03a\x00\x02\x81\x64\x03b\x00\xc3\x01c")
    item = next(decode(b"\x02\xa4\x01\x6a\x00" + body, DM_WBXML).of(Replace)).items[0]
    assert item.data == "aäbc"


@pytest.mark.parametrize(("raw", "expected"), [(b"v", "v"), (b"\xff", b"\xff"), (b"a\0b", b"a\0b")])
@pytest.mark.parametrize("meta", [Meta("chr"), None])
def test_opaque_data_is_text_if_it_can_be_and_no_binary_format_is_given(
    raw: bytes, expected: str | bytes, meta: Meta | None
) -> None:
    message = SyncML(HEADER, (Replace("1", (Item(target="./x", meta=meta, data="v"),)),))
    body = encode(message, DM_WBXML).replace(b"\x03v\x00", _opaque(raw))
    assert next(decode(body, DM_WBXML).of(Replace)).items[0].data == expected


@pytest.mark.parametrize("data_format", ["b64", "bin"])
@pytest.mark.parametrize(("text", "expected"), [("AAE=", b"\x00\x01"), ("not base64", "not base64")])
def test_base64_text_in_wbxml_is_read_as_its_bytes(data_format: str, text: str, expected: str | bytes) -> None:
    message = SyncML(HEADER, (Replace("1", (Item(target="./x", meta=Meta(data_format), data=text),)),))
    assert next(decode(encode(message, DM_WBXML), DM_WBXML).of(Replace)).items[0].data == expected


def _with_tree(data: bytes, kind: str) -> bytes:
    """An Add whose Data holds `data` as it is."""
    marker = Item(target="./Inbox", meta=Meta("bin", kind), data=b"MARK")
    body = encode(SyncML(HEADER, (Add("1", (marker,)),)), DM_WBXML)
    assert body.count(b"\xc3\x04MARK") == 1
    return body.replace(b"\xc3\x04MARK", data)


def _opaque(data: bytes) -> bytes:
    return b"\xc3" + wbxml.number(len(data)) + data


INLINE_TREE = encode_tnds(TREE, TNDS_WBXML).partition(b"EN\0")[2]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_opaque(encode_tnds(TREE, TNDS_WBXML)), id="a document of its own"),
        pytest.param(INLINE_TREE + b"\x00\x00", id="elements on page 2"),
        pytest.param(_opaque(encode_tnds(TREE, TNDS_XML)), id="XML as opaque"),
    ],
)
@pytest.mark.parametrize("kind", [TNDS_WBXML, TNDS_XML])
def test_a_tree_inside_data_is_read_in_every_form(data: bytes, kind: str) -> None:
    message = decode(_with_tree(data, kind), DM_WBXML)
    assert next(message.of(Add)).items[0].data == TREE


def test_the_case_of_node_matters() -> None:
    pages = tokens.TOKENS[2]
    assert (pages["Node"], pages["node"], pages["NodeName"]) == (0x24, 0x25, 0x26)


@pytest.mark.parametrize(
    ("page", "last", "token"), [(0, "Correlator", 0x3C), (1, "FieldLevel", 0x16), (2, "ZeroOrOne", 0x3C)]
)
def test_the_code_pages_end_where_the_standard_says(page: int, last: str, token: int) -> None:
    assert tokens.TOKENS[page][last] == token
    assert max(tokens.TAGS[page]) == token


def test_an_unknown_tag_in_the_body_is_an_unsupported_command() -> None:
    body = BODY.replace(b"\x12\x01\x01", b"\x3f\x12\x01\x01")
    assert decode(b"\x02\xa4\x01\x6a\x00" + body, DM_WBXML).commands[-1] == Unsupported("", "0:0x3f")


def test_a_literal_tag_takes_its_name_from_the_string_table() -> None:
    body = BODY.replace(b"\x12\x01\x01", b"\x04\x00\x12\x01\x01")
    assert decode(b"\x02\xa4\x01\x6a\x02Hi" + body, DM_WBXML).commands[-1] == Unsupported("", "Hi")


HEAD = b"\x02\xa4\x01\x6a\x00"


@pytest.mark.parametrize(
    ("body", "where", "why"),
    [
        (b"\x01", 1, "end without"),
        (b"\x03a\0", 3, "outside"),
        (b"\x6d", 1, "ends too early"),
        (b"\x6d\x01\x01", 2, "after the document"),
        (b"\x2d\x01", 1, "after the document"),
        (b"\x6d\x03abc", 2, "without its end"),
        (b"\x6d\x03", 2, "without its end"),
        (b"\x6d\xc3\x7fabc\x01", 3, "127 bytes announced, 4 left"),
        (b"\x6d\xc3\x01", 3, "1 bytes announced, 0 left"),
        (b"\x6d\xc3\x01a", 4, "ends too early"),
        (b"\x6d\x83\x05\x01", 3, "string table"),
        (b"\xed\x01\x01", 1, "attributes"),
        (b"\x85\x01", 1, "attributes"),
        (b"\x6d\x43\x01", 2, "no meaning"),
        (b"\x6d\x02\x00\x01", 3, "character 0x0 does not exist"),
        (b"\x6d\x02\x83\xb0\x00\x01", 5, "character 0xd800 does not exist"),
        (b"\x6d\x02\x83\xbf\x7f\x01", 5, "character 0xdfff does not exist"),
        (b"\x6d\x02\xc4\x80\x00\x01", 5, "character 0x110000 does not exist"),
        (b"\x6d\x03\xff\0\x01", 4, "UTF-8"),
    ],
)
def test_a_body_that_breaks_the_rules_is_refused_by_name(body: bytes, where: int, why: str) -> None:
    with pytest.raises(SyncmlError, match=why) as caught:
        wbxml.read(HEAD + body)
    assert caught.value.where == len(HEAD) + where


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"\x2d", Element("SyncML")),
        (b"\x6d\x01", Element("SyncML")),
        (b"\x05", Element("Add")),
        (b"\x45\x03\x00\x01", Element("Add", content=[""])),
        (b"\x45\x83\x00\x83\x02\x83\x03\x01", Element("Add", content=["", "a", ""])),
        (b"\x45\xc3\x00\xc3\x01\x00\x01", Element("Add", content=[b"", b"\0"])),
        (b"\x45\x02\x01\x02\x83\xaf\x7f\x01", Element("Add", content=["\x01", "\ud7ff"])),
        (b"\x45\x02\x83\xc0\x00\x02\xc3\xff\x7f\x01", Element("Add", content=["\ue000", "\U0010ffff"])),
        (b"\x44\x01\x01", Element("", content=[])),
        # A page stays in force to the next switch, also over the end of an element.
        (
            b"\x45\x00\x01\x47\x0c\x01\x0c\x00\x00\x05\x01",
            Element(
                "Add", 0, [Element("Format", 1, [Element("MaxMsgSize", 1)]), Element("MaxMsgSize", 1), Element("Add")]
            ),
        ),
        (b"\x00\x07\x7f\x05\x01", Element("7:0x3f", 7, [Element("7:0x05", 7)])),
    ],
)
def test_every_form_of_content_is_read(body: bytes, expected: Element) -> None:
    assert wbxml.read(b"\x02\xa4\x01\x6a\x04\0\0a\0" + body) == expected


@pytest.mark.slow
def test_depth_and_number_are_limited() -> None:
    wbxml.read(HEAD + b"\x6d" * DEPTH_MAX + b"\x01" * DEPTH_MAX)
    with pytest.raises(SyncmlError, match="deeper"):
        wbxml.read(HEAD + b"\x6d" * (DEPTH_MAX + 1) + b"\x01" * (DEPTH_MAX + 1))
    assert len(wbxml.read(HEAD + b"\x6d" + b"\x12" * (ELEMENTS_MAX - 1) + b"\x01").content) == ELEMENTS_MAX - 1
    with pytest.raises(SyncmlError, match="elements"):
        wbxml.read(HEAD + b"\x6d" + b"\x12" * ELEMENTS_MAX + b"\x01")


def test_the_length_is_limited() -> None:
    opaque = wbxml.number(BODY_BYTES_MAX - 11)
    body = HEAD + b"\x6d\xc3" + opaque + bytes(BODY_BYTES_MAX - 11) + b"\x01"
    assert len(body) == BODY_BYTES_MAX
    wbxml.read(body)
    with pytest.raises(SyncmlError, match="longer than") as caught:
        wbxml.read(body + b"\x01")
    assert caught.value.where == BODY_BYTES_MAX


TABLE = b"x" * (1 << 16) + b"\0"
REPEATED = b"\x02\xa4\x01\x6a" + wbxml.number(len(TABLE)) + TABLE + b"\x6d" + b"\x83\x00" * (TEXT_BYTES_MAX >> 16)


@pytest.mark.parametrize("more", [b"\x03y\0", b"\xc3\x01y", b"\x83\x83\xff\x7f", b"\x02\x41"])
def test_text_is_limited_although_the_string_table_repeats_it(more: bytes) -> None:
    assert len(wbxml.read(REPEATED + b"\x01").text()) == TEXT_BYTES_MAX
    with pytest.raises(SyncmlError, match="text"):
        wbxml.read(REPEATED + more + b"\x01")


def test_a_character_by_number_counts_as_four_bytes_of_text() -> None:
    document = REPEATED.removesuffix(b"\x83\x00") + b"\x83\x04\x02\x41\x01"
    assert len(wbxml.read(document).text()) == TEXT_BYTES_MAX - 3
    with pytest.raises(SyncmlError, match="text"):
        wbxml.read(document.removesuffix(b"\x01") + b"\x02\x41\x01")


def test_a_page_is_switched_when_it_changes_and_only_then() -> None:
    add = Element("Add")
    maximum = Element("MaxMsgSize", 1)
    root = Element("Add", 0, [Element("Format", 1, [maximum]), maximum, add, add, "a", b"\0b"])
    switched = b"\x45\x00\x01\x47\x0c\x01\x0c\x00\x00\x05\x05\x03a\0\xc3\x02\0b\x01"
    assert wbxml.write(root) == HEAD + switched
    assert wbxml.read(HEAD + switched) == root


def test_a_name_without_a_token_is_our_mistake() -> None:
    with pytest.raises(SyncmlValueError):
        wbxml.write(Element("Nonsense"))


@pytest.mark.parametrize("text", ["a\0", "\ud800"])
def test_text_without_a_wbxml_form_is_our_mistake(text: str) -> None:
    with pytest.raises(SyncmlValueError):
        wbxml.write(Element("Add", content=[text]))


@pytest.mark.parametrize(
    ("value", "octets"),
    [
        (0, b"\0"),
        (0x7F, b"\x7f"),
        (0x80, b"\x81\0"),
        (0x1201, b"\xa4\x01"),
        (0x4000, b"\x81\x80\0"),
        (0xFFFFFFFF, b"\x8f\xff\xff\xff\x7f"),
    ],
)
def test_numbers_are_written_as_mb_u_int32(value: int, octets: bytes) -> None:
    assert wbxml.number(value) == octets


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_numbers_of_more_than_32_bits_are_our_mistake(value: int) -> None:
    with pytest.raises(SyncmlValueError, match="not a 32 bit number"):
        wbxml.number(value)


@pytest.mark.parametrize("seed", range(60))
def test_damaged_documents_are_read_or_refused_and_nothing_else(seed: int) -> None:
    pick = random.Random(seed)
    body = encode(EVERYTHING if seed % 2 else Generator(seed).message(), DM_WBXML)
    for _ in range(20):
        damaged = bytearray(body[: pick.choice([len(body), pick.randrange(len(body) + 1)])])
        for _ in range(pick.randrange(1, 5)):
            at = pick.randrange(len(damaged) + 1)
            damaged[at : at + pick.randrange(3)] = pick.randbytes(pick.randrange(3))
        try:
            decode(bytes(damaged), DM_WBXML)
        except SyncmlError:
            continue


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_after_a_good_header_are_read_or_refused_and_nothing_else(seed: int) -> None:
    pick = random.Random(seed)
    for _ in range(30):
        try:
            wbxml.read(b"\x02\xa4\x01\x6a\x04abc\0" + bytes(pick.choices(range(256), k=pick.randrange(80))))
        except SyncmlError:
            continue
