"""What stands twice where it may stand once, and a number that is empty, costs its command; in XML and in WBXML."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from omadm.syncml import build, wbxml, xml
from omadm.syncml.codec import DM_WBXML, DM_XML, decode
from omadm.syncml.element import PAGE_DDF, PAGE_METINF, Element
from omadm.syncml.errors import SyncmlError
from omadm.syncml.messages import (
    Add,
    Alert,
    Atomic,
    Chal,
    Cred,
    Exec,
    Get,
    Item,
    Malformed,
    Meta,
    MgmtTree,
    Replace,
    Results,
    Status,
    SyncHdr,
    SyncML,
    TndsNode,
)

META = Meta(format="chr", type="text/plain", mark="low", size=3, next_nonce=b"n", max_msg_size=4000, max_obj_size=5000)
ITEM = Item("./A", "./B", "a", "b", META, "abc", more_data=True)
TREE = MgmtTree(
    (TndsNode("N", ".", "chr", "text/plain", "Get=*", "t", "20260101T000000Z", 3, 1, "v"),), "1.2", "m", "d"
)
CHAL, CRED = Chal("syncml:auth-md5", "b64", b"nonce"), Cred("data", "syncml:auth-basic")
HEADER = SyncHdr("1", 2, "t", "s", "tn", "sn", "https://x/", no_resp=True, cred=CRED, meta=META)
COMMANDS = (
    Add("1", (ITEM,), META, no_resp=True),
    Replace("2", (Item("./A", data=TREE),)),
    Get("3", (Item("./A"),)),
    Exec("4", (ITEM,), "correlator", META),
    Alert("5", 1226, (ITEM,), "correlator"),
    Status("6", "1", "2", "Get", 200, ("./A", "./B"), ("./C", "./D"), CHAL, CRED, (ITEM,)),
    Results("7", "2", (ITEM,), "1", META, "./A", "./B"),
    Atomic("8", (Add("9", (ITEM,)),), META),
)
MESSAGE = SyncML(HEADER, COMMANDS)
MAY_REPEAT = {"Item", "Node", "TargetRef", "SourceRef", "Final", *(type(one).__name__ for one in COMMANDS)}
NEEDED = {"SessionID", "MsgID", "Target", "Source", "LocURI", "LocName"}
PATHS = tuple[str, ...]


def root(*, binary: bool) -> Element:
    tree = build.build(MESSAGE, binary=binary)
    if binary:  # an embedded tree on its code page, to be changed like the rest
        (data,) = (e for e in walk(tree) if e.name == "Data" and any(isinstance(p, bytes) for p in e.content))
        data.content = [wbxml.read(part) if isinstance(part, bytes) else part for part in data.content]
        data.content = [on_ddf_page(part) if isinstance(part, Element) else part for part in data.content]
    return tree


def on_ddf_page(element: Element) -> Element:
    for each in walk(element):
        each.page = PAGE_DDF
    return element


def walk(element: Element) -> Iterator[Element]:
    yield element
    for child in element.elements():
        yield from walk(child)


def places(element: Element, above: PATHS = ()) -> Iterator[PATHS]:
    """Each element that may stand once, by the names above it and its position."""
    for at, child in enumerate(element.elements()):
        here = (*above, f"{at}:{child.name}")
        if child.name not in MAY_REPEAT or (child.name in ("TargetRef", "SourceRef") and "Results" in above[-1]):
            yield here
        yield from places(child, here)


def at(element: Element, path: PATHS) -> tuple[Element, Element]:
    """The element above the one at `path`, and that itself."""
    parent = element
    for step in path:
        parent, element = element, list(element.elements())[int(step.partition(":")[0])]
    return parent, element


def read(tree: Element, *, binary: bool) -> SyncML:
    return decode(wbxml.write(tree) if binary else xml.write(tree), DM_WBXML if binary else DM_XML)


BOTH = [pytest.param(False, id="xml"), pytest.param(True, id="wbxml")]
ALL = [path for path in places(root(binary=False)) if path[-1].partition(":")[2] not in ("chr", "MIME")]


def test_the_message_itself_is_good() -> None:
    for binary in (False, True):
        assert not list(read(root(binary=binary), binary=binary).of(Malformed))
    assert len(ALL) > 100


@pytest.mark.parametrize("binary", BOTH)
@pytest.mark.parametrize("path", ALL, ids="/".join)
def test_what_stands_twice_costs_its_command_and_no_other(path: PATHS, binary: bool) -> None:
    tree = root(binary=binary)
    parent, twice = at(tree, path)
    parent.content.append(copy.deepcopy(twice))  # of the same value, even: it is not for us to say which one is meant
    check(tree, path, binary=binary)


@pytest.mark.parametrize("binary", BOTH)
@pytest.mark.parametrize("inner", ["Size", "MaxMsgSize", "MaxObjSize", "VerNo", "Code"])
@pytest.mark.parametrize("text", ["", "  ", "x", "4294967296", "99999999999", "1.0", "-1"])
def test_a_number_that_is_none_costs_its_command_and_no_other(inner: str, text: str, binary: bool) -> None:
    name = "Data" if inner == "Code" else inner
    wanted = [p for p in ALL if p[-1].endswith(f":{name}") and (inner != "Code" or ("Status" in p[-2]))]
    assert wanted
    for path in wanted:
        tree = root(binary=binary)
        at(tree, path)[1].content = [text] if text else []
        check(tree, path, binary=binary)


@pytest.mark.parametrize("binary", BOTH)
@pytest.mark.parametrize("name", ["CmdID", "LocURI", "Format", "CmdRef", "Correlator", "NodeName"])
def test_elements_in_the_place_of_text_cost_their_command(name: str, binary: bool) -> None:
    """`<LocURI>./A<x/>/B</LocURI>` is not ./A/B. (`Format` of a tree has an element; two are none.)"""
    for path in (p for p in ALL if p[-1].endswith(f":{name}") and "SyncHdr" not in p[0]):
        tree = root(binary=binary)
        _, leaf = at(tree, path)
        leaf.content.append(Element("Size", PAGE_METINF))
        check(tree, path, binary=binary)


def check(tree: Element, path: PATHS, *, binary: bool) -> None:
    """The command at `path` is bad, and the others are as they were. In the header, what is not needed is not said."""
    good = read(root(binary=binary), binary=binary)
    if len(path) == 1 or (path[0].endswith("SyncHdr") and (set(names(path)) & NEEDED)):
        with pytest.raises(SyncmlError):
            read(tree, binary=binary)
        return
    found = read(tree, binary=binary)
    if path[0].endswith("SyncHdr"):
        assert found.commands == good.commands
        assert found.hdr != good.hdr
        assert found.hdr.unread or "NoResp" in path[-1]
        return
    number = int(path[1].partition(":")[0])
    for index, (one, other) in enumerate(zip(found.commands, good.commands, strict=True)):
        if index != number:
            assert one == other
        elif isinstance(one, Atomic) and len(path) > 3:
            assert [type(inner) for inner in one.commands] == [Malformed]
        else:
            assert isinstance(one, Malformed)
            assert one.cmd_id == ("" if path[-1].endswith(":CmdID") else other.cmd_id)


def names(path: PATHS) -> list[str]:
    return [step.partition(":")[2] for step in path]


@pytest.mark.parametrize("binary", BOTH)
def test_a_tree_and_something_else_in_data_is_bad(binary: bool) -> None:
    for extra in ("text", Element("MgmtTree", PAGE_DDF, [Element("Node", PAGE_DDF)])):
        tree = root(binary=binary)
        data = next(e for e in walk(tree) if e.name == "Data" and any(p.name == "MgmtTree" for p in e.elements()))
        data.content.append(extra)
        (bad,) = read(tree, binary=binary).of(Malformed)
        assert (bad.cmd_id, "something else" in bad.why) == ("2", True)


@pytest.mark.parametrize("binary", BOTH)
@pytest.mark.parametrize(
    "extra", [Element("bin", PAGE_DDF), Element("Node", PAGE_DDF, [Element("NodeName", PAGE_DDF, ["x"])])]
)
def test_a_tree_with_two_formats_or_a_value_above_nodes_is_bad(extra: Element, binary: bool) -> None:
    tree = root(binary=binary)
    above = "Format" if extra.name == "bin" else "Node"
    next(e for e in walk(tree) if e.name == above and e.page == PAGE_DDF).content.append(extra)
    assert [bad.cmd_id for bad in read(tree, binary=binary).of(Malformed)] == ["2"]
