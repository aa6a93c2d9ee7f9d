"""PRIME API payloads and lists: round trips, sizes derived from lengths, and garbage."""

from __future__ import annotations

import contextlib
import random

import pytest

from dlms.link.llc import LSDU_BYTES_MAX
from plc.errors import PlcDecodeError, PlcLocalError
from plc.prime.lists import ListPib, ListQuery, ListResponse, Node432
from plc.prime.messages import (
    Command,
    DataConfirm,
    DataIndication,
    DataRequest,
    JoinIndication,
    LeaveIndication,
    MlmeGet,
    MlmeGetConfirm,
    MlmeSet,
    MlmeSetConfirm,
    NetworkEvent,
    PrimePayload,
    ReleaseRequest,
    Whitelist,
    WhitelistAck,
    kind_of,
    parse_payload,
)
from plc.prime.topology import PhyLink, RegisteredDevice
from plc.prime.usi import ProtocolId, UsiFrame

EUI = bytes.fromhex("02dc00000001")

PAYLOADS: list[tuple[PrimePayload, str]] = [
    (DataRequest(1, 1, 5, bytes.fromhex("e6e600")), "010100050003e6e60000"),
    (DataRequest(1, 16, 0xFFF, b""), "01100fff000000"),
    (DataIndication(16, 1, 0, 5, b"\xc4\x01"), "1001000000050002c40100"),
    (DataConfirm(1, 16, 5, 0xC2), "01100005c2"),
    (JoinIndication(b"ABC", 5, EUI), "03414243000502dc0000000100"),
    (JoinIndication(b"", 5, EUI + b"\xff\xfe", 1), "00000502dc00000001fffe01"),
    (LeaveIndication(0xFFE), "0ffe"),
    (ReleaseRequest(7), "0007"),
    (NetworkEvent(4, EUI, 1, 2, 3, 4, 5, 6), "0402dc0000000101000203040506"),
    (NetworkEvent(0, EUI, 1, 2, 3, 4, 5, 6, (7, 8)), "0002dc000000010100020304050600070008"),
    (Whitelist(Command.WHITELIST_ADD, EUI), "02dc00000001"),
    (Whitelist(Command.WHITELIST_REMOVE, EUI), "02dc00000001"),
    (WhitelistAck(Command.WHITELIST_ADD, 1), "5b01"),
    (MlmeGet(0x0020), "0020"),
    (MlmeGetConfirm(0, 0x0020, b"\x12\x34"), "000020021234"),
    (MlmeSet(0x0065, EUI), "00650602dc00000001"),
    (MlmeSetConfirm(4), "04"),
]


@pytest.mark.parametrize(("payload", "wire"), PAYLOADS)
def test_every_payload_is_emitted_and_read(payload: PrimePayload, wire: str) -> None:
    assert payload.emit().hex() == wire
    assert parse_payload(payload.command, bytes.fromhex(wire)) == payload


@pytest.mark.parametrize(("payload", "wire"), PAYLOADS)
def test_a_truncated_or_longer_payload_is_an_error(payload: PrimePayload, wire: str) -> None:
    data = bytes.fromhex(wire)
    for cut in range(len(data)):
        try:
            # A shorter one may only be read where its length says that a part is missing.
            assert parse_payload(payload.command, data[:cut]) != payload
        except PlcDecodeError:
            continue
    with pytest.raises(PlcDecodeError):
        parse_payload(payload.command, data + bytes(9))


def test_commands_without_use_are_not_read() -> None:
    assert parse_payload(0x3D, b"anything") is None


def test_what_cannot_be_emitted_cannot_be_made() -> None:
    for make in (
        lambda: DataRequest(256, 1, 5, b""),
        lambda: DataRequest(1, 1, 0x1000, b""),
        lambda: DataRequest(1, 1, 5, bytes(LSDU_BYTES_MAX + 1)),
        lambda: JoinIndication(b"", 5, b"short"),
        lambda: NetworkEvent(0, EUI, 1, 0x10000, 3, 4, 5, 6),
        lambda: Whitelist(Command.DATA_REQ, EUI),
        lambda: Whitelist(Command.WHITELIST_ACK, EUI),
        lambda: WhitelistAck(256, 0),
        lambda: MlmeGet(0x10000),
        lambda: MlmeSet(0x0065, bytes(256)),
        lambda: MlmeGetConfirm(256, 0x0065, b""),
        lambda: MlmeSetConfirm(-1),
        lambda: RegisteredDevice(EUI, 0x10000, 1, 2, 3, 4),
        lambda: RegisteredDevice(EUI, 1, 1, 2, 3, 256),
        lambda: PhyLink(0x10000, 0, 0, 0, 0, 0, 0, 0),
        lambda: PhyLink(1, 0, 0, 0, 0, 0, 0, 0x10000),
        lambda: PhyLink(1, 256, 0, 0, 0, 0, 0, 0),
        lambda: Node432(5, bytes(17), EUI),
        lambda: ListQuery(0x8250, 256, 0),
        lambda: ListResponse(0x8250, 2, ((0, b"\x00"),)),
    ):
        with pytest.raises(PlcLocalError):
            make()


def test_list_query_and_answer_are_emitted_and_read() -> None:
    query = ListQuery(ListPib.NODES_432, 32, 7)
    assert query.emit().hex() == "0e8250200007"
    assert ListQuery.parse(query.emit()) == query
    node = Node432(5, b"DCU0000000000001", EUI)
    response = ListResponse(ListPib.NODES_432, Node432.SIZE, ((1, node.emit()), (9, node.emit())))
    assert response.emit().hex().startswith("0f82500219" + "0001" + "0005")
    assert ListResponse.parse(response.emit()) == response
    assert Node432.parse(node.emit()) == node


def test_a_short_dlms_id_is_padded_on_the_wire_only() -> None:
    node = Node432(5, b"AB", EUI)
    assert len(node.emit()) == Node432.SIZE
    assert Node432.parse(node.emit()).dlms_id == b"AB"


def test_the_query_of_one_attribute_is_the_frame_that_the_vendor_s_tables_give() -> None:
    request = MlmeGet(0x0020)
    frame = UsiFrame(ProtocolId.PRIME_API, request.emit(), request.command)
    assert frame.emit().hex() == "7e00f02d0020fd7e"


def test_network_events_have_names_and_unknown_ones_their_number() -> None:
    names = [kind_of(NetworkEvent(number, EUI, 0, 0, 0, 0, 0, 0)) for number in range(10)]
    assert names == [
        "register", "unregister", "promote", "demote", "alive", "reboot", "no_key", "unknown_node", "error", "9"
    ]  # fmt: skip


def test_records_of_the_topology_are_emitted_and_read() -> None:
    device = RegisteredDevice(EUI, 0x0102, 2, 3, 4, 5, 6, 7)
    assert device.emit().hex() == "02dc00000001" + "0102" + "020304050607"
    assert RegisteredDevice.parse(device.emit()) == device
    assert len(device.emit()) == RegisteredDevice.SIZE
    link = PhyLink(0x0102, 3, 4, 5, 6, 7, 8, 0x0900)
    assert link.emit().hex() == "0102" + "030405060708" + "0900"
    assert PhyLink.parse(link.emit()) == link
    assert len(link.emit()) == PhyLink.SIZE


@pytest.mark.slow
def test_random_bytes_into_every_payload_parser_give_a_payload_or_a_decode_error() -> None:
    pick = random.Random(3)
    for _ in range(4000):
        data = pick.randbytes(pick.randrange(40))
        for command in Command:
            try:
                payload = parse_payload(command, data)
            except PlcDecodeError:
                continue
            assert payload is not None
            assert payload.emit() == data
        for parse in (ListQuery.parse, ListResponse.parse, Node432.parse, RegisteredDevice.parse, PhyLink.parse):
            with contextlib.suppress(PlcDecodeError):
                parse(data)
