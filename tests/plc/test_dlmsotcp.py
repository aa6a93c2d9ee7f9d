"""DLMS over TCP at a base node."""

from __future__ import annotations

import random

import pytest

from plc.dlmsotcp import LIST_SETTLE_S, DlmsOverTcpLink, emit_message
from plc.errors import PlcLocalError
from plc.events import DataReceived, NodeEvent, NodeJoined, NodeLeft, NodesListed, ProtocolBroken, ResyncNoted
from tests.sim.pipes import all_splits, random_splits

EUI = bytes.fromhex("02dc00000001")


def new_device(address: int, dlms_id: bytes = b"DCU1", eui48: bytes = EUI) -> bytes:
    payload = b"\x01" + address.to_bytes(2, "big") + b"\x00\x01" + bytes((len(dlms_id),)) + dlms_id + eui48
    return emit_message(0, 1, payload)


def events(link: DlmsOverTcpLink) -> list[NodeEvent]:
    found: list[NodeEvent] = []
    while (event := link.next_event()) is not None:
        found.append(event)
    return found


def test_the_list_is_asked_for_at_the_start_and_is_complete_when_no_more_nodes_come() -> None:
    link = DlmsOverTcpLink()
    link.start(0.0)
    assert link.take_output().hex() == "0001" + "0001" + "0000" + "0001" + "03"
    link.receive(new_device(5), 1.0)
    assert link.next_deadline() == 1.0 + LIST_SETTLE_S
    link.on_deadline(1.0 + LIST_SETTLE_S)
    assert events(link) == [NodeJoined(5, EUI, b"DCU1", from_list=True), NodesListed(1)]
    assert link.next_deadline() is None
    link.receive(new_device(6, b"", bytes(6)) + emit_message(0, 1, b"\x02\x00\x05"), 9.0)
    assert events(link) == [NodeJoined(6, bytes(6), b""), NodeLeft(5, EUI)]


def test_data_carries_the_client_lsap_one_way_and_the_node_the_other() -> None:
    link = DlmsOverTcpLink()
    link.send(5, b"\xc0\x01", 1, 16, 0.0)
    assert link.take_output().hex() == "0001" + "0010" + "0005" + "0002" + "c001"
    link.receive(bytes.fromhex("0001000500100002c401"), 0.0)
    assert events(link) == [DataReceived(5, 16, 0, b"\xc4\x01")]


def test_release_asks_the_base_node_to_delete_the_device() -> None:
    link = DlmsOverTcpLink()
    link.release(5, 0.0)
    assert link.take_output().hex() == "0001" + "0001" + "0000" + "0003" + "040005"


def test_a_control_message_that_makes_no_sense_is_noted() -> None:
    link = DlmsOverTcpLink()
    link.receive(emit_message(0, 1, b"\x01\x00") + emit_message(0, 1, b"\x77") + new_device(5), 0.0)
    first, second = events(link)
    assert isinstance(first, ResyncNoted)
    assert second == NodeJoined(5, EUI, b"DCU1")


def test_another_version_breaks_the_connection_at_its_first_octet() -> None:
    link = DlmsOverTcpLink()
    link.receive(new_device(5) + b"\x01", 0.0)
    found = events(link)
    assert isinstance(found[-1], ProtocolBroken)
    link.receive(new_device(6), 0.0)
    assert events(link) == []


def test_misuse_is_refused() -> None:
    link = DlmsOverTcpLink()
    for arguments in ((5, b"", 1, 16), (0x10000, b"a", 1, 16), (5, b"a", 1, -1), (5, bytes(0x10000), 1, 16)):
        with pytest.raises(PlcLocalError):
            link.send(*arguments, 0.0)


def test_every_split_of_the_stream_gives_the_same_events() -> None:
    stream = new_device(5) + bytes.fromhex("0001000500100002c401") + emit_message(0, 1, b"\x02\x00\x05") + b"\x00\x02"

    def run(pieces: list[bytes]) -> list[NodeEvent]:
        link = DlmsOverTcpLink()
        for piece in pieces:
            link.receive(piece, 0.0)
        return events(link)

    whole = run([stream])
    assert len(whole) == 4
    for pieces in [*all_splits(stream), *random_splits(stream, random.Random(2), 30)]:
        assert run(pieces) == whole


def test_random_bytes_never_raise() -> None:
    pick = random.Random(4)
    for _ in range(500):
        link = DlmsOverTcpLink()
        for _ in range(5):
            link.receive(emit_message(0, 1, pick.randbytes(pick.randrange(30))), 0.0)
        link.receive(pick.randbytes(50), 0.0)
        events(link)
