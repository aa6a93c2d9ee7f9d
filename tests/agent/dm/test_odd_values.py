"""What the device cannot write, or cannot tell, costs the command that asked for it; the session goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from agent.daemon.diagnostics import excerpt
from agent.mo.diagmon import Excerpt, Pictures
from agent.status import MeterStatus
from agent.tree.nodes import value_bytes
from agent.tree.uri import node_name
from omadm.syncml.codec import DM_WBXML, DM_XML
from omadm.syncml.messages import Item, Meta, MgmtTree, Results, Status, TndsNode
from tests.agent.dm.server import FakeDmServer, execute, get, put
from tests.agent.dm_device import Device

DATA = "./DiagMon/Log/Data"
HALF = "\ud800"


class Log:
    """A source whose lines are as they are."""

    def __init__(self, text: str) -> None:
        self.text = text

    def collect(self, since: int, until: int, level: str) -> Excerpt:
        return Excerpt(self.text, 1)


def device(content_type: str, **pictures: object) -> Device:
    made = Device(
        FakeDmServer(content_type=content_type), content_type=content_type, pictures=Pictures(**pictures)  # type: ignore[arg-type]
    )  # fmt: skip
    return made.registered()


def codes(device: Device) -> list[int]:
    """Of the answers to commands, in order, a 0 for each value."""
    replies = [r for r in device.server.replies if isinstance(r, Results) or r.cmd != "SyncHdr"]  # type: ignore[union-attr]
    return [one.code if isinstance(one, Status) else 0 for one in replies]


def below(nodes: tuple[TndsNode, ...]) -> Iterator[TndsNode]:
    for node in nodes:
        yield node
        yield from below(node.children)


BAD = [
    (DM_XML, f"a{HALF}b"),
    (DM_XML, "\x1b[31m"),
    (DM_XML, "\ufffe"),
    (DM_WBXML, f"a{HALF}b"),
    (DM_WBXML, "\x00"),
]


@pytest.mark.parametrize(("content_type", "text"), BAD)
def test_a_value_that_text_cannot_carry_goes_as_octets(content_type: str, text: str) -> None:
    """OMA-TS-SyncML_MetaInfo 1.2, Format: b64. Its type says that it is text."""
    made = device(content_type, log=Log(text))
    made.session(
        [
            execute("./DiagMon/Log/Operations/Collect"),
            get(DATA),
            get("./DevInfo/Man"),
            get(f"{DATA}?prop=Size"),
            get("./DiagMon?list=TNDS"),
            get("./DiagMon?list=StructData"),
            put("./DiagMon/Log/Level", "debug"),
        ],
        [get("./DiagMon/Log/Level")],
    )
    assert made.last_result == "ok"
    assert codes(made) == [200, 200, 0, 200, 0, 200, 0, 200, 0, 200, 0, 200, 200, 0]
    octets = text.encode("utf-8", "surrogatepass")
    value, _, _, tree, struct, _ = (one for one in made.server.replies if isinstance(one, Results))
    assert value.items == (Item(source=DATA, meta=Meta(format="b64", type="text/plain"), data=octets),)
    assert isinstance(tree.items[0].data, MgmtTree)
    assert ("Data", "b64", octets) in [(node.name, node.format, node.value) for node in below(tree.items[0].data.nodes)]
    assert [(one.meta.format, one.data) for one in struct.items if one.source == DATA and one.meta] == [("b64", octets)]


@pytest.mark.parametrize("content_type", [DM_XML, DM_WBXML])
def test_a_node_that_fails_is_500_and_the_rest_is_carried_out(
    content_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> dict[str, object]:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a file")

    made = device(content_type, storage=fails)
    with caplog.at_level(logging.ERROR, "agent.dm"):
        made.session([get("./DiagMon/Storage"), put("./DiagMon/Log/Level", "debug"), get("./DiagMon/Log/Level")])
    assert made.last_result == "ok"
    assert codes(made) == [500, 200, 200, 0]
    assert "Get ./DiagMon/Storage" in caplog.text


@pytest.mark.parametrize("content_type", [DM_XML, DM_WBXML])
def test_a_meter_with_such_a_name_hides_no_other(content_type: str) -> None:
    made = device(content_type)
    made.meters[:] = [MeterStatus(name, "p", 1, "read", 1.0) for name in (f"K{HALF}", "K\x01", "KEP1")]
    made.session([get("./AMI/Registry"), get("./AMI/Registry?list=TNDS"), get("./AMI/Registry?list=StructData")])
    assert made.last_result == "ok"
    assert len(codes(made)) >= 3


def test_an_exec_that_fails_changes_nothing_and_is_500() -> None:
    class Broken:
        def collect(self, since: int, until: int, level: str) -> Excerpt:
            raise ZeroDivisionError

    made = device(DM_WBXML, log=Broken())
    before = made.tree.view().state
    made.session([execute("./DiagMon/Log/Operations/Collect"), get("./DevInfo/Man")])
    assert (made.last_result, codes(made)) == ("ok", [500, 200, 0])
    assert made.tree.view().state.root == before.root


def test_a_log_is_collected_without_what_no_message_can_carry() -> None:
    found = excerpt([f"a{HALF}b\n", "\x1b[31mred\x00\n", "good\n"])
    assert found.text == "a\ufffdb\n\ufffd[31mred\ufffd\ngood"


def test_sizes_and_names_are_told_of_any_text() -> None:
    assert value_bytes(f"a{HALF}") == 4
    assert node_name(f"a{HALF}") == "a%ED%A0%80"
