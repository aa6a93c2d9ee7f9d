"""Our codec against libwbxml's command line tools, an independent implementation (Debian: libwbxml2-utils)."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from omadm.syncml.codec import DM_WBXML, DM_XML, decode, encode
from omadm.syncml.document import TNDS_WBXML
from omadm.syncml.messages import Add, Command, Item, Meta, Replace, Results, SyncML, TndsNode
from tests.omadm.syncml.samples import EVERY_KIND, HEADER, TREE, Generator

pytestmark = pytest.mark.skipif(
    shutil.which("wbxml2xml") is None or shutil.which("xml2wbxml") is None,
    reason="libwbxml's wbxml2xml and xml2wbxml are not installed (Debian: libwbxml2-utils)",
)

DOCTYPE = b'<!DOCTYPE SyncML PUBLIC "-//SYNCML//DTD SyncML 1.2//EN" "http://www.openmobilealliance.org/x.dtd">'
TIMEOUT_S = 20


def text_only(node: TndsNode) -> TndsNode:
    """The tool writes raw binary as it is, which is no XML: leave those values out."""
    children = tuple(text_only(child) for child in node.children if not isinstance(child.value, bytes))
    return replace(node, children=children)


def for_the_tool(command: Command) -> Command:
    """`command` without what the tool cannot carry: binary data, and white space at the ends of text."""
    if not isinstance(command, Add | Replace | Results):
        return command
    items = []
    for item in command.items:
        data = item.data
        if isinstance(data, bytes):
            item = replace(item, data="binary")
        elif isinstance(data, str):
            item = replace(item, data=" ".join(data.replace("]]>", "").split()) or "x")
        items.append(replace(item, meta=replace(item.meta or Meta(), format="chr")) if data is not TREE else item)
    return replace(command, items=tuple(items))


TEXT_TREE = replace(TREE, nodes=tuple(text_only(node) for node in TREE.nodes))
MESSAGE = SyncML(
    HEADER,
    (
        *(for_the_tool(c) for c in EVERY_KIND if c.cmd_id not in {"4", "5", "15"}),
        Add("4", (Item(target="./Inbox", meta=Meta("xml", TNDS_WBXML), data=TEXT_TREE),)),
    ),
)


def to_xml(document: bytes, folder: Path) -> bytes:
    """WBXML through the tool; without the document type, which our reader refuses."""
    source, target = folder / "in.wbxml", folder / "out.xml"
    source.write_bytes(document)
    subprocess.run(
        ["wbxml2xml", "-k", "-o", str(target), str(source)], check=True, capture_output=True, timeout=TIMEOUT_S
    )
    head, _, rest = target.read_bytes().partition(b"<!DOCTYPE")
    return head + rest.partition(b">")[2]


def to_wbxml(document: bytes, folder: Path, *options: str) -> bytes:
    head, _, rest = document.partition(b"?>")
    source, target = folder / "in.xml", folder / "out.wbxml"
    source.write_bytes(head + b"?>" + DOCTYPE + rest)
    command = ["xml2wbxml", "-k", *options, "-o", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_S)
    return target.read_bytes()


def test_what_we_write_as_wbxml_the_tool_reads_as_the_same_message(tmp_path: Path) -> None:
    decoded = decode(to_xml(encode(MESSAGE, DM_WBXML), tmp_path), DM_XML)
    assert encode(decoded, DM_WBXML) == encode(MESSAGE, DM_WBXML)


@pytest.mark.parametrize("options", [["-n"], [], ["-v", "1.1"], ["-v", "1.2", "-n"], ["-v", "1.3"]])
def test_what_the_tool_writes_as_wbxml_we_read_as_the_same_message(tmp_path: Path, options: list[str]) -> None:
    decoded = decode(to_wbxml(encode(MESSAGE, DM_XML), tmp_path, *options), DM_WBXML)
    assert encode(decoded, DM_XML) == encode(MESSAGE, DM_XML)


@pytest.mark.parametrize("seed", range(12))
def test_random_messages_survive_the_tool_in_both_directions(tmp_path: Path, seed: int) -> None:
    message = Generator(seed).message()
    kept = tuple(for_the_tool(c) for c in message.commands if isinstance(c, Add | Replace) and c.items)
    message = replace(message, commands=kept)
    assert decode(to_xml(encode(message, DM_WBXML), tmp_path), DM_XML) == message
    assert decode(to_wbxml(encode(message, DM_XML), tmp_path), DM_WBXML) == message


def test_binary_values_of_a_tree_that_the_tool_converts_from_xml_are_read_as_their_bytes(tmp_path: Path) -> None:
    message = SyncML(HEADER, (Add("2", (Item(target="./Inbox", meta=Meta("xml"), data=TREE),)),))
    decoded = decode(to_wbxml(encode(message, DM_XML), tmp_path), DM_WBXML)
    assert next(decoded.of(Add)).items[0].data == TREE
