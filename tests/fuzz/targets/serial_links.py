"""Fuzz targets for everything that comes from a serial port: bytes into decoders, and bytes into whole links.

Decoders answer a value, "need more" or their own error. Links take anything without raising; the first byte of the
input cuts the rest into pieces, and the pieces must give the same events as the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlms.codes import Conformance, Context
from dlms.errors import DlmsError
from dlms.explain.apdus import Keys
from dlms.explain.streams import explain_bytes
from dlms.link.datalink import DataLink, LinkDown
from dlms.link.hdlc.frames import HdlcAddress, HdlcDecoder, HdlcFrame, HdlcNoise, information_control
from dlms.link.hdlc.params import FrameReject, LinkParameters
from dlms.link.hdlc.primary import HdlcClientLink, HdlcServerLink
from dlms.link.llc import LlcLink
from dlms.link.mode_e.link import ModeELink
from dlms.link.mode_e.meter import ModeEMeter
from dlms.link.mode_e.opening import Identification, ModeEOpening
from dlms.link.trace import HEADER, parse_trace
from dlms.link.wrapper import WrapperFrame, WrapperLink, WrapperUdpLink
from dlms.xdlms.acse import Aarq, InitiateRequest
from plc.dlmsotcp import DlmsOverTcpLink, emit_message
from plc.errors import PlcError
from plc.prime.link import PlcLink
from plc.prime.lists import ListPib, ListQuery, ListResponse, Node432
from plc.prime.messages import (
    Command,
    DataConfirm,
    DataIndication,
    JoinIndication,
    LeaveIndication,
    MlmeGetConfirm,
    MlmeSetConfirm,
    NetworkEvent,
    Whitelist,
    WhitelistAck,
    parse_payload,
)
from plc.prime.topology import PhyLink, RegisteredDevice
from plc.prime.usi import ProtocolId, UsiDecoder, UsiFrame, UsiNoise
from tests.fuzz.guided import Target

CLIENT, METER = HdlcAddress(17), HdlcAddress(1)
EUI = bytes.fromhex("02dc00000001")
GET = bytes.fromhex("c001c100030100010800ff0200")
ANSWER = bytes.fromhex("e6e700c401c10006000004d2")


def pieces(data: bytes) -> list[bytes]:
    """The rest of `data`, cut as its first byte says."""
    if not data:
        return []
    size, rest = data[0] % 31 + 1, data[1:]
    return [rest[start : start + size] for start in range(0, len(rest), size)]


# ---- decoders


def run_usi(data: bytes) -> None:
    def decode(parts: Sequence[bytes]) -> list[UsiFrame | UsiNoise]:
        decoder = UsiDecoder()
        for part in parts:
            decoder.feed(part)
        return list(iter(decoder.next, None))

    found = decode(pieces(data))
    assert found == decode([data[1:]])
    for item in found:
        if isinstance(item, UsiFrame):
            assert decode([item.emit()]) == [item]


def run_payload(data: bytes) -> None:
    command = data[0] & 0x7F if data else 0
    payload = parse_payload(command, data[1:])
    if payload is not None:
        assert payload.emit() == data[1:]


def run_list(data: bytes) -> None:
    response = ListResponse.parse(data)
    assert response.emit() == data
    for _, record in response.records:
        Node432.parse(record)


def run_topology(data: bytes) -> None:
    """Records, events and answers into the picture of a network and the orders that read it."""
    link = PlcLink()
    link.get_pib(0x8102, 0.0)
    link.whitelist(Whitelist(Command.WHITELIST_ADD, EUI), 0.0)
    link.management.read_topology(0.0)
    now = 0.0
    for part in pieces(data):
        now += 1.0
        link.receive(part, now)
        link.on_deadline(now)
        link.take_output()
    list(iter(link.next_event, None))
    for entry in link.topology.entries:
        link.topology.path(entry.eui48)
    for parse in (RegisteredDevice.parse, PhyLink.parse):
        record = parse(data)
        assert record.emit() == data


def run_hdlc(data: bytes) -> None:
    def decode(parts: Sequence[bytes]) -> list[HdlcFrame | HdlcNoise]:
        decoder = HdlcDecoder()
        for part in parts:
            decoder.feed(part)
        decoder.idle()
        return list(iter(decoder.next, None))

    found = decode(pieces(data))
    assert found == decode([data[1:]])
    for item in found:
        if isinstance(item, HdlcFrame):
            assert decode([item.emit()]) == [item]


def run_params(data: bytes) -> None:
    parameters = LinkParameters.parse(data)
    assert LinkParameters.parse(parameters.emit_full()) == parameters


# ---- links


def _both(data: bytes, make: Callable[[], DataLink]) -> None:
    """The same events from the pieces and from the whole; then time passes until the link is at rest or down."""

    def run(parts: Sequence[bytes]) -> list[object]:
        link = make()
        for part in parts:
            link.receive(part, 1.0)
        found: list[object] = list(iter(link.next_event, None))
        now = 1.0
        for _ in range(300):
            deadline = link.next_deadline()
            if deadline is None:
                break
            now = max(now, deadline)
            link.on_deadline(now)
            link.take_output()
        else:
            raise AssertionError("the link is still waiting after 300 deadlines")
        return [_comparable(event) for event in found]

    assert run(pieces(data)) == run([data[1:]])


def _comparable(event: object) -> object:
    error = getattr(event, "error", None)
    return (type(event), str(error)) if error is not None else event


def client() -> HdlcClientLink:
    link = HdlcClientLink(17, 1, window=3, answer_timeout_s=5.0)
    link.connect(0.0)
    link.receive(HdlcFrame(CLIENT, METER, 0x73, LinkParameters(128, 128, 3, 3).emit()).emit(), 0.0)
    link.send(GET, 0.0)
    while link.next_event() is not None:
        pass
    return link


def server() -> HdlcServerLink:
    link = HdlcServerLink(1, inactivity_timeout_s=10.0)
    link.receive(HdlcFrame(METER, CLIENT, 0x93).emit(), 0.0)
    while link.next_event() is not None:
        pass
    return link


def wrapper() -> WrapperLink:
    link = WrapperLink(16, 1)
    link.connect(0.0)
    link.send(GET, 0.0)
    return link


def llc() -> LlcLink:
    link = LlcLink(16, 1)
    link.connect(0.0)
    link.send(GET, 0.0)
    return link


def run_client(data: bytes) -> None:
    _both(data, client)


def run_server(data: bytes) -> None:
    _both(data, server)


def run_wrapper(data: bytes) -> None:
    _both(data, wrapper)


def run_wrapper_udp(data: bytes) -> None:
    """Datagrams, each with its length before it: the link never ends because of them."""
    link = WrapperUdpLink(16, 1)
    link.connect(0.0)
    while data:
        datagram, data = data[1 : 1 + data[0]], data[1 + data[0] :]
        for _ in range(2):
            link.receive(datagram, 1.0)
    heard = list(iter(link.next_event, None))
    assert not any(isinstance(event, LinkDown) for event in heard)
    link.send(GET, 2.0)


def datagram_seeds() -> list[bytes]:
    datagrams = [WrapperFrame(1, 16, apdu).emit() for apdu in (b"\xc4\x01\xc1\x00\x00", b"\x61\x00")]
    return [b"".join(bytes((len(datagram),)) + datagram for datagram in datagrams)]


def run_llc(data: bytes) -> None:
    link = llc()
    link.receive(data, 1.0)


def run_plc(data: bytes) -> None:
    def run(parts: Sequence[bytes]) -> list[object]:
        link = PlcLink()
        link.start(0.0)
        link.send(5, GET, 1, 16, 0.0)
        for part in parts:
            link.receive(part, 1.0)
        return list(iter(link.next_event, None))

    assert run(pieces(data)) == run([data[1:]])


def run_dlmsotcp(data: bytes) -> None:
    def run(parts: Sequence[bytes]) -> list[object]:
        link = DlmsOverTcpLink()
        link.start(0.0)
        for part in parts:
            link.receive(part, 1.0)
        return list(iter(link.next_event, None))

    assert run(pieces(data)) == run([data[1:]])


def run_mode_e(data: bytes) -> None:
    opening = ModeEOpening()
    opening.start(0.0)
    opening.receive(data, 1.0)
    list(iter(opening.next_event, None))


def run_mode_e_link(data: bytes) -> None:
    link = ModeELink(ModeEOpening(), lambda _: HdlcClientLink(17, 1), lost_at=9600)
    link.connect(0.0)
    now = 0.0
    for start in range(0, len(data), 8):
        link.receive(data[start : start + 8], now)
        list(iter(link.next_event, None))
        link.take_output()
        if (deadline := link.next_deadline()) is not None:
            now = max(now, deadline)
            link.on_deadline(now)


def run_mode_e_meter(data: bytes) -> None:
    meter = ModeEMeter(Identification("ABC", "5", "METER", offers_hdlc=True), "17")
    meter.receive(data, 1.0)
    meter.take_output()
    meter.on_deadline(100.0)


def run_explain(data: bytes) -> None:
    keys = Keys(bytes(16), bytes(16), bytes(16), b"CLIENT00", b"SERVER00")
    for node in explain_bytes(data, keys):
        node.lines()


# ---- seeds


def _usi(
    *payloads: DataIndication | JoinIndication | LeaveIndication | NetworkEvent | MlmeGetConfirm | WhitelistAck,
) -> bytes:
    return b"".join(UsiFrame(ProtocolId.PRIME_API, one.emit(), one.command).emit() for one in payloads)


def usi_seeds() -> list[bytes]:
    node = Node432(5, b"DCU0000000000001", EUI)
    answer = ListResponse(ListPib.NODES_432, Node432.SIZE, ((0, node.emit()),)).emit()
    listed = UsiFrame(ProtocolId.MNGP_GETRSP_ENHANCED, answer).emit()
    joined = _usi(JoinIndication(b"A", 5, EUI), DataIndication(16, 1, 0, 5, b"~}answer"), LeaveIndication(5))
    return [b"\x05" + listed + joined, b"\x01noise" + joined[3:] + listed, b"\x1e" + listed[:-4] + joined]


def payload_seeds() -> list[bytes]:
    join, data = JoinIndication(b"A", 5, EUI), DataIndication(16, 1, 0, 5, b"answer")
    event = bytes((Command.NETWORK_EVENT, 4)) + EUI + bytes.fromhex("01000203040506")
    read = MlmeGetConfirm(0, 0x8102, b"1.4")
    return [
        bytes((join.command,)) + join.emit(),
        bytes((data.command,)) + data.emit(),
        event,
        b"\x5b" + EUI,
        bytes((read.command,)) + read.emit(),
        b"\x31\x00\x65\x06" + EUI,
        *(bytes((one.command,)) + one.emit() for one in (DataConfirm(16, 1, 0, 0), MlmeSetConfirm(0))),
    ]


def topology_seeds() -> list[bytes]:
    device, phy = RegisteredDevice(EUI, 1, 2, 3, 0, 1), PhyLink(1, 0, 1, 80, 20, 2, 0, 5)
    happened = _usi(NetworkEvent(0, EUI, 0, 1, 255, 1, 1, 1), NetworkEvent(2, EUI, 0, 1, 3, 1, 1, 1))
    answered = _usi(MlmeGetConfirm(0, 0x8102, b"1.4"), WhitelistAck(Command.WHITELIST_ADD, 0))
    lists = b"".join(
        UsiFrame(ProtocolId.MNGP_GETRSP_ENHANCED, ListResponse(pib, len(record), ((0, record),)).emit()).emit()
        for pib, record in ((ListPib.REGISTERED_DEVICES, device.emit()), (ListPib.PHY_LINKS, phy.emit()))
    )
    return [device.emit(), phy.emit(), b"\x1e" + answered + lists + happened, b"\x05" + happened + answered]


def list_seeds() -> list[bytes]:
    node = Node432(5, b"DCU0000000000001", EUI)
    records = ((1, node.emit()), (9, node.emit()))
    return [ListResponse(ListPib.NODES_432, Node432.SIZE, records).emit(), ListQuery(0x50, 1, 2).emit()]


def frames(*, to_client: bool) -> bytes:
    ends = (CLIENT, METER) if to_client else (METER, CLIENT)
    llc_header = b"\xe6\xe7\x00" if to_client else b"\xe6\xe6\x00"
    parts = [
        HdlcFrame(*ends, 0x73 if to_client else 0x93, LinkParameters(64, 64, 3, 3).emit()),
        HdlcFrame(*ends, information_control(0, 1, poll_final=False), llc_header + GET, segmented=True),
        HdlcFrame(*ends, information_control(1, 1, poll_final=True), ANSWER),
        HdlcFrame(*ends, 0x97, FrameReject(0x10, 0, 0, 4).emit()),
        HdlcFrame(*ends, 0x31),
    ]
    return b"".join(frame.emit() for frame in parts)


def hdlc_seeds() -> list[bytes]:
    return [b"\x03" + frames(to_client=True), b"\x07" + frames(to_client=False), b"\x01\x7e\x7e\xa7\xff\x03"]


def mode_e_seeds() -> list[bytes]:
    connected = HdlcFrame(CLIENT, METER, 0x73, LinkParameters().emit()).emit()
    return [b"/ABC5\\2METER\r\n\x06252\r\n".ljust(32) + connected, connected]


def wrapper_seeds() -> list[bytes]:
    return [b"\x04" + WrapperFrame(1, 16, GET).emit() + WrapperFrame(2, 16, b"").emit(), b"\x02\x00\x01\x00"]


def dlmsotcp_seeds() -> list[bytes]:
    joined = emit_message(0, 1, b"\x01\x00\x05\x00\x01\x01A" + EUI)
    return [b"\x06" + joined + emit_message(5, 16, GET) + emit_message(0, 1, b"\x02\x00\x05")]


def explain_seeds() -> list[bytes]:
    aarq = Aarq(Context.LN, InitiateRequest(Conformance.GET, 1024).emit()).emit()
    return [
        frames(to_client=True),
        WrapperFrame(1, 16, GET).emit(),
        aarq,
        GET,
        bytes.fromhex("c80d30000000011122334455"),
    ]


DLMS, PLC = (DlmsError,), (PlcError,)

TARGETS = {
    "usi": Target(run_usi, usi_seeds, PLC, "/plc/"),
    "payload": Target(run_payload, payload_seeds, PLC, "/plc/"),
    "list": Target(run_list, list_seeds, PLC, "/plc/"),
    "topology": Target(run_topology, topology_seeds, PLC, "/plc/"),
    "plc": Target(run_plc, usi_seeds, (), "/plc/"),
    "dlmsotcp": Target(run_dlmsotcp, dlmsotcp_seeds, (), "/plc/"),
    "hdlc": Target(run_hdlc, hdlc_seeds, (), "/dlms/"),
    "params": Target(run_params, lambda: [LinkParameters(512, 1024, 3, 7).emit()], DLMS, "/dlms/"),
    "reject": Target(FrameReject.parse, lambda: [FrameReject(0x10, 1, 2, 3).emit()], DLMS, "/dlms/"),
    "client": Target(run_client, hdlc_seeds, (), "/dlms/", mutations=400),
    "server": Target(run_server, hdlc_seeds, (), "/dlms/", mutations=400),
    "wrapper": Target(run_wrapper, wrapper_seeds, (), "/dlms/"),
    "wrapper-udp": Target(run_wrapper_udp, datagram_seeds, (), "/dlms/"),
    "llc": Target(run_llc, lambda: [GET], (), "/dlms/"),
    "mode-e": Target(run_mode_e, lambda: [rb"/ABC5\2METER" + b"\r\n\x06252\r\n"], (), "/dlms/"),
    "mode-e-link": Target(run_mode_e_link, mode_e_seeds, (), "/dlms/", mutations=400),
    "mode-e-meter": Target(run_mode_e_meter, lambda: [b"/?17!\r\n\x06252\r\n"], (), "/dlms/"),
    "trace": Target(
        lambda data: parse_trace(data.decode("latin-1")),
        lambda: [f"{HEADER}\n0.5 > 7e\n1 < 7e".encode()],
        DLMS,
        "/dlms/",
    ),
    "explain": Target(run_explain, explain_seeds, (), "/dlms/", mutations=600),
}
