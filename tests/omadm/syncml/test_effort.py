"""What it takes to decode a hostile message, counted: calls, and bytes of text made. No clock."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from omadm.syncml import wbxml
from omadm.syncml.codec import DM_WBXML, DM_XML, decode
from omadm.syncml.element import ELEMENTS_MAX, TEXT_BYTES_MAX, Spent
from omadm.syncml.errors import SyncmlError
from omadm.syncml.messages import MgmtTree, Replace

HEAD = b"\x02\xa4\x01\x6a"
STR_I, STR_T, OPAQUE, ENTITY, END, PAGE = b"\x03", b"\x83", b"\xc3", b"\x02", b"\x01", b"\x00"
SYNCML, HDR, BODY, REPLACE, ITEM, DATA, NODE = b"\x6d", b"\x6c", b"\x6b", b"\x60", b"\x54", b"\x4f", b"\x64"
CALLS_PER_BYTE = 80  # an empty item is one byte, and is read like any other
SMALL, LARGE = 1 << 11, 1 << 13


def leaf(token: int, text: bytes) -> bytes:
    return bytes([token | 0x40]) + STR_I + text + b"\0" + END


TARGET, SOURCE = b"\x6e" + leaf(0x17, b"t") + END, b"\x67" + leaf(0x17, b"s") + END
HEADER = HDR + leaf(0x25, b"1") + leaf(0x1B, b"1") + TARGET + SOURCE + END


def message(body: bytes, table: bytes = b"") -> bytes:
    """A message with these commands, and a string table."""
    return HEAD + wbxml.number(len(table)) + table + SYNCML + HEADER + BODY + body + b"\x12" + END + END


def command(data: bytes) -> bytes:
    return REPLACE + leaf(0x0B, b"1") + ITEM + data + END + END


def embedded(size: int) -> bytes:
    """Documents inside Data that make the most of a string table each, within `size` bytes."""
    table = b"-//OMA//DTD-DM-DDF 1.2//EN\0" + b"x" * 900 + b"\0"
    node = NODE + b"\x63" + STR_I + b"n\0" + END
    value = b"\x76" + (STR_T + b"\x1b") * 450 + END
    document = b"\x02\x00\x00\x6a" + wbxml.number(len(table)) + table + b"\x00\x02\x60" + node + value + END + END
    kind = b"\x5a\x00\x01" + leaf(0x13, b"application/vnd.syncml.dmtnds+wbxml") + b"\x00\x00" + END
    one = command(kind + DATA + OPAQUE + wbxml.number(len(document)) + document + END)
    return one * max(1, size // len(one))


def deep_names(size: int) -> bytes:
    """A tree with a node of a long name, and thousands below it."""
    below = (NODE + b"\x63" + STR_I + b"n\0" + END + END) * (size // 20)
    return command(
        DATA
        + b"\x00\x02\x60"
        + NODE
        + b"\x63"
        + STR_I
        + b"x" * (size // 2)
        + b"\0"
        + END
        + below
        + END
        + END
        + b"\x00\x00"
        + END
    )


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "commands": lambda size: message(b"\x20" * size),
    "items": lambda size: message(REPLACE + b"\x14" * size + END),
    "nesting": lambda size: message((b"\x48" * 40 + END * 40) * (size // 80)),
    "entities": lambda size: message(command(DATA + (ENTITY + b"\x41") * (size // 2) + END)),
    "small strings": lambda size: message(command(DATA + (STR_I + b"\0") * (size // 2) + END)),
    "references": lambda size: message(command(DATA + (STR_T + b"\0") * (size // 4) + END), b"x" * (size // 2)),
    "references to names": lambda size: message((b"\x04\0") * (size // 4), b"x" * (size // 2)),
    "pages": lambda size: message((PAGE + b"\x01") * (size // 2) + PAGE + b"\0"),
    "long numbers": lambda size: message(command(DATA + (ENTITY + b"\x80\x80\x80\x80\x41") * (size // 6) + END)),
    "no end": lambda size: message(STR_I + b"x" * size),
    "documents": lambda size: message(embedded(size)),
    "names above nodes": lambda size: message(deep_names(size)),
    "statuses": lambda size: message((b"\x69" + leaf(0x0F, b"x") + END) * (size // 6)),
}


def counted(work: Callable[[], object]) -> int:
    """How many functions were called, of Python and of C."""
    calls = 0

    def count(_frame: object, event: str, _what: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


def tried(body: bytes) -> None:
    with suppress(SyncmlError):
        decode(body, DM_WBXML)


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_decoding_takes_a_few_calls_per_byte_however_large_the_message_is(name: str) -> None:
    small, large = HOSTILE[name](SMALL), HOSTILE[name](LARGE)
    few, many = counted(lambda: tried(small)), counted(lambda: tried(large))
    assert many <= CALLS_PER_BYTE * len(large)
    assert many - few <= 1.1 * CALLS_PER_BYTE * (len(large) - len(small))
    assert many <= 1.3 * few * len(large) / len(small)


@pytest.mark.parametrize("name", ["references", "references to names", "documents"])
def test_the_text_of_a_message_has_a_bound_whatever_its_string_tables_give(name: str) -> None:
    body = HOSTILE[name](1 << 19)
    spent = Spent()
    with suppress(SyncmlError):
        wbxml.read(body, spent)
    assert spent.text_bytes <= TEXT_BYTES_MAX + (1 << 20)  # the last string may go over, and is not kept


def test_documents_inside_each_other_share_one_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    inner = wbxml.Reader.account

    def account(reader: wbxml.Reader, size: int) -> None:
        inner(reader, size)
        made.append(size)

    monkeypatch.setattr(wbxml.Reader, "account", account)
    body = HOSTILE["documents"](1 << 19)
    tried(body)
    assert len(body) > 100 * 3000
    assert sum(made) <= TEXT_BYTES_MAX


def test_a_path_in_an_error_is_no_longer_than_one_line() -> None:
    body = message(deep_names(1 << 14).replace(b"n\0", b"", 1))
    (bad,) = decode(body, DM_WBXML).commands
    assert len(getattr(bad, "why", "")) < 300


def test_documents_in_the_text_of_an_xml_message_share_the_bound_of_the_message() -> None:
    """Each of the two would be within it by itself."""
    nodes = "<Node><NodeName>n</NodeName></Node>" * (ELEMENTS_MAX // 3)
    kind = "<Meta><Type xmlns='syncml:metinf'>application/vnd.syncml.dmtnds+xml</Type></Meta>"
    tree = f"<Data><![CDATA[<MgmtTree><VerDTD>1.2</VerDTD>{nodes}</MgmtTree>]]></Data>"
    commands = "".join(
        f"<Replace><CmdID>{at}</CmdID><Item>{kind}{data}</Item></Replace>"
        for at, data in enumerate((tree, tree.replace("<NodeName>n</NodeName>", "")), 1)
    )
    ends = "<Target><LocURI>t</LocURI></Target><Source><LocURI>s</LocURI></Source>"
    header = f"<SyncHdr><SessionID>1</SessionID><MsgID>1</MsgID>{ends}</SyncHdr>"
    body = f"<SyncML>{header}<SyncBody>{commands}<Final/></SyncBody></SyncML>"
    found = [each.items[0].data for each in decode(body.encode(), DM_XML).of(Replace)]
    assert [type(data) for data in found] == [MgmtTree, str]
