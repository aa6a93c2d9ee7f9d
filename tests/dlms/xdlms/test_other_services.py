"""What is asked for less often: notifications, the access service, short names."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from dlms import axdr
from dlms.client.association import Answered, Notified
from dlms.client.events import ItemRead, ReadDone, SessionClosed, SessionEvent, SessionFailed, SessionOpened, Value
from dlms.client.knowledge import MeterKnowledge
from dlms.client.meter import Meter
from dlms.client.reading import Failed, ItemFailed, Reading
from dlms.client.session import MeterSession
from dlms.codes import LN_CLIENT_CONFORMANCE, SN_CLIENT_CONFORMANCE, Conformance, Context, Mechanism
from dlms.cosem.obis import AttributeRef, MethodRef, Selection
from dlms.cosem.short_names import method_name, name_of, names_of
from dlms.cosem.time import CosemDateTime
from dlms.errors import DecodeError, DlmsError, LocalError, PeerError
from dlms.security.settings import Auth, Policy, Security, open_auth
from dlms.server.objects import CosemObject, constant
from dlms.server.server import MeterServer
from dlms.server.short_names import ShortNameTable
from dlms.xdlms.acse import Aare, Aarq, InitiateRequest
from dlms.xdlms.apdu import access, notify, sn
from dlms.xdlms.apdu.access import Access, AccessOutcome, AccessRequest, AccessResponse
from dlms.xdlms.apdu.common import AccessError, DataBlock, Item
from dlms.xdlms.apdu.notify import (
    DataNotification,
    DataNotificationConfirm,
    EventNotification,
    InformationReport,
)
from dlms.xdlms.exchange import AccessAnswer, GetAnswer
from dlms.xdlms.exchange_sn import SnReadExchange
from dlms.xdlms.exchange_write import AccessExchange
from tests.dlms.client.test_association import ITEM, waiting
from tests.dlms.client.test_meter import PROFILE, START, World
from tests.dlms.meter_port import MeterPort
from tests.dlms.plain_link import PacketLink, Wire
from tests.dlms.security.test_security import AUTHS, pair
from tests.dlms.server.test_server import CODE, Store

WHEN = CosemDateTime.from_datetime(datetime(2026, 11, 22, 12, tzinfo=UTC))
TIME = "07ea0b16070c000000000000"

NOTIFICATIONS = [
    ("0f40000001" + "0c" + TIME + "1105", DataNotification(0x40000001, WHEN, axdr.u8(5))),
    ("0f00000002" + "00" + "1105", DataNotification(2, None, axdr.u8(5))),
    ("c200" + "000100006001 00ff02".replace(" ", "") + "1105", EventNotification(None, ITEM.ref, axdr.u8(5))),
    ("c2010c" + TIME + "00010000600100ff02" + "1105", EventNotification(WHEN, ITEM.ref, axdr.u8(5))),
    ("1800" + "01" + "021234" + "01" + "1105", InformationReport(None, (0x1234,), (axdr.u8(5),))),
    ("18010c" + TIME + "00" + "00", InformationReport(WHEN, (), ())),
]


@pytest.mark.parametrize(("encoded", "message"), NOTIFICATIONS, ids=[line[0] for line in NOTIFICATIONS])
def test_notifications_both_ways(encoded: str, message: notify.Notification) -> None:
    assert message.emit().hex() == encoded
    assert notify.parse(bytes.fromhex(encoded)) == message
    whole = bytes.fromhex(encoded)
    for end in range(len(whole)):
        with pytest.raises(DecodeError):
            notify.parse(whole[:end])


CONFIRMS = [
    ("1040000001" + "00", DataNotificationConfirm(0x40000001)),
    ("10c0ffffff" + "0c" + TIME, DataNotificationConfirm(0xC0FFFFFF, WHEN)),
]


@pytest.mark.parametrize(("encoded", "confirm"), CONFIRMS, ids=[line[0] for line in CONFIRMS])
def test_confirms_both_ways(encoded: str, confirm: DataNotificationConfirm) -> None:
    """Tag 16, and what a data-notification begins with (the ASN.1 of IEC 62056-5-3)."""
    assert confirm.emit().hex() == encoded
    whole = bytes.fromhex(encoded)
    assert DataNotificationConfirm.parse(whole) == confirm
    for wrong in (*(whole[:end] for end in range(len(whole))), whole + b"\0", b"\x0f" + whole[1:]):
        with pytest.raises(DecodeError):
            DataNotificationConfirm.parse(wrong)


@pytest.mark.parametrize("tag", ["090c", "19"])
def test_a_notification_whose_time_carries_a_tag_is_read(tag: str) -> None:
    apdu = bytes.fromhex("0f00000001" + tag + TIME + "1105")
    assert notify.parse(apdu) == DataNotification(1, WHEN, axdr.u8(5))


def test_a_notification_comes_between_request_and_answer() -> None:
    association = waiting()
    association.receive_apdu(bytes.fromhex(NOTIFICATIONS[0][0]))
    association.receive_apdu(bytes.fromhex("0f0000"))  # damaged: dropped
    association.receive_apdu(bytes.fromhex("c401c1001105"))
    assert association.next_event() == Notified(DataNotification(0x40000001, WHEN, axdr.u8(5)))
    assert isinstance(association.next_event(), Answered)
    assert association.next_event() is None


def test_a_plain_notification_in_a_ciphered_association_is_not_believed() -> None:
    client, meter = pair(Policy.BOTH)
    server = MeterServer([], security=meter)
    session = MeterSession(PacketLink(), client=1, server=1, security=client)
    wire = Wire(server.new_association(1))
    session.open(0.0)
    (aare,) = wire.exchange(session.take_output(), 0.0)
    session.receive(aare, 0.0)
    session.next_event()
    session.receive(bytes.fromhex(NOTIFICATIONS[0][0]), 0.0)
    assert session.next_event() is None


# --------------------------------------------------------------------------------------------------------- ACCESS

METHOD = MethodRef(1, CODE, 1)
ACCESS_REQUEST = AccessRequest(
    0x40000001,
    (
        Access(ITEM),
        Access(ITEM, axdr.u8(7)),
        Access(METHOD, axdr.u8(9)),
        Access(Item(ITEM.ref, Selection(2, axdr.u8(1)))),
        Access(Item(ITEM.ref, Selection(2, axdr.u8(1))), axdr.u8(3)),
    ),
)
ACCESS_RESPONSE = AccessResponse(
    0x40000001,
    (AccessOutcome(1, 0, axdr.u8(5)), AccessOutcome(2, 3, axdr.null()), AccessOutcome(3, 0, axdr.u8(9))),
    WHEN,
)


def test_access_both_ways() -> None:
    ref = "00010000600100ff02"
    assert ACCESS_REQUEST.emit().hex() == (
        f"d940000001000501{ref}02{ref}0300010000600100ff0104{ref}02110105{ref}021101050011071109001103"
    )
    assert AccessRequest.parse(ACCESS_REQUEST.emit()) == ACCESS_REQUEST
    assert ACCESS_RESPONSE.emit().hex() == f"da400000010c{TIME}0003110500110903010002030300"
    assert AccessResponse.parse(ACCESS_RESPONSE.emit()) == ACCESS_RESPONSE
    for message, parse in ((ACCESS_REQUEST, AccessRequest.parse), (ACCESS_RESPONSE, AccessResponse.parse)):
        whole = message.emit()
        for end in range(len(whole)):
            with pytest.raises(DecodeError):
                parse(whole[:end])
    with pytest.raises(LocalError):
        AccessResponse(1, (AccessOutcome(4, 0, axdr.null()),))


def test_the_access_service_gets_sets_and_calls() -> None:
    store = Store()
    conformance = LN_CLIENT_CONFORMANCE | Conformance.ACCESS
    port = MeterPort(MeterServer([store.item], conformance=conformance), "wrapper")
    absent = Item(AttributeRef.parse("1/0.0.96.2.0.255/2"))
    with Meter("loop://", link="wrapper", port=port, conformance=conformance) as meter:
        answer = meter.request(
            AccessExchange((Access(ITEM, axdr.u8(7)), Access(ITEM), Access(METHOD, axdr.u8(9)), Access(absent)))
        )
    assert isinstance(answer, AccessAnswer)
    assert answer.outcomes == (
        AccessOutcome(access.SET, 0, axdr.null()),
        AccessOutcome(access.GET, 0, axdr.u8(7)),
        AccessOutcome(access.ACTION, 0, axdr.u8(9)),
        AccessOutcome(access.GET, 4, axdr.null()),
    )


def test_access_that_was_not_negotiated_is_refused() -> None:
    port = MeterPort(MeterServer([Store().item]), "wrapper")
    with Meter("loop://", link="wrapper", port=port) as meter, pytest.raises(PeerError, match="not-supported"):
        meter.request(AccessExchange((Access(ITEM),)))


# ----------------------------------------------------------------------------------------------------- short names

SN = [
    ("0501021234", sn.ReadRequest((sn.Variable(0x1234),)), sn.parse_read_request),
    ("0501041234021105", sn.ReadRequest((sn.Variable(0x1234, Selection(2, axdr.u8(5))),)), sn.parse_read_request),
    ("0501050003", sn.ReadNext(3), sn.parse_read_request),
    ("0c020011050104", sn.ReadResponse((axdr.u8(5), AccessError(4))), sn.parse_read_response),
    ("0c0102000003 03616263".replace(" ", ""), sn.ReadBlock(DataBlock(last=False, number=3, data=b"abc")),
     sn.parse_read_response),
    ("0601021234011105", sn.WriteRequest((sn.Variable(0x1234),), (axdr.u8(5),)), sn.parse_write_request),
    ("0d02000103", sn.WriteResponse((0, 3)), sn.parse_write_response),
]  # fmt: skip


@pytest.mark.parametrize(("encoded", "message", "parse"), SN, ids=[line[0] for line in SN])
def test_read_and_write_both_ways(encoded: str, message, parse) -> None:  # type: ignore[no-untyped-def]
    assert message.emit().hex() == encoded
    assert parse(bytes.fromhex(encoded)) == message
    whole = bytes.fromhex(encoded)
    for end in range(len(whole)):
        with pytest.raises(DecodeError):
            parse(whole[:end])


def sn_meter(world: World, pdu_size: int = 1024) -> MeterPort:
    objects = [item for item in world.server.objects() if item.class_id != 15]
    server = MeterServer(objects, auth=open_auth("low", b"pw"), short_names=True, pdu_size=pdu_size)
    return MeterPort(server, "wrapper")


def sn_client(port: MeterPort, known: MeterKnowledge | None = None, pdu_size: int = 1024) -> Meter:
    auth = open_auth("low", b"pw")
    return Meter("loop://", link="wrapper", port=port, auth=auth, short_names=True, known=known, pdu_size=pdu_size)


def test_a_meter_with_short_names_is_read_like_any_other() -> None:
    world = World()
    known = MeterKnowledge()
    with sn_client(sn_meter(world), known) as meter:
        results = meter.read_many(["1.0.1.8.0.255", "1.0.32.7.0.255", "1.0.77.7.0.255"])
        assert isinstance(results[0], Reading)
        assert (str(results[0].value), results[0].unit) == ("1.23456E+6", "Wh")
        assert results[2] == Failed(results[2].ref, "object-undefined")
        assert meter.clock.get().value is not None
        meter.clock.set(START)
        assert world.clock.time() == START
        meter.disconnect()
        assert not world.contactor.connected
        with pytest.raises(ItemFailed, match="read-write-denied"):
            meter.set(AttributeRef.parse("3/1.0.1.8.0.255/2"), axdr.u32(1))
        with pytest.raises(LocalError):
            meter.set(AttributeRef.parse("3/1.0.99.8.0.255/2"), axdr.u32(1))
    assert known.short_names is not None
    assert MeterKnowledge.load(known.dump()) == known


def test_a_profile_comes_in_blocks_by_short_names_too() -> None:
    with sn_client(sn_meter(World(), 300), pdu_size=300) as meter:
        assert len(list(meter.profile(PROFILE))) == 500
        assert [row.raw[1] for row in meter.profile(PROFILE, entries=(3, 4))] == [1002, 1003]


def test_the_list_of_names_is_read_once_a_meter() -> None:
    known = MeterKnowledge()
    world = World()
    first = sn_meter(world)
    with sn_client(first, known) as meter:
        meter.read("1.0.1.8.0.255")
    second = sn_meter(world)
    with sn_client(second, known) as meter:
        meter.read("1.0.1.8.0.255")
    assert second.read_octets < first.read_octets


def test_names_are_eight_apart_and_methods_have_their_offset() -> None:
    table = ShortNameTable([CosemObject(3, CODE, readers={2: constant(axdr.u8(1))}), CosemObject(70, CODE)])
    names = names_of(table.object_list())
    register, contactor = names[3, CODE], names[70, CODE]
    assert contactor == register + 0x30
    assert name_of(names, AttributeRef(3, CODE, 3)) == register + 0x10
    assert method_name(names, MethodRef(3, CODE, 1)) == register + 0x28
    assert method_name(names, MethodRef(70, CODE, 2)) == contactor + 0x28
    assert table.find(register + 0x28) == MethodRef(3, CODE, 1)
    assert table.find(register + 8) == AttributeRef(3, CODE, 2)
    assert table.find(register + 1) is None
    assert table.find(0x20) is None
    assert name_of(names, AttributeRef(1, CODE, 2)) is None
    assert method_name(names, MethodRef(1, CODE, 1)) is None


def test_a_meter_without_short_names_refuses_them() -> None:
    wire = Wire(MeterServer([Store().item]).new_association(1))
    session = MeterSession(PacketLink(), client=1, server=1, short_names=True)
    session.open(0.0)
    (aare,) = wire.exchange(session.take_output(), 0.0)
    session.receive(aare, 0.0)
    failed = session.next_event()
    assert isinstance(failed, SessionFailed)
    assert "application-context-name" in str(failed.error)


@pytest.mark.parametrize("answer", ["0c010104", "0c0100 1105", "0c0100 0101 1105", "d80202"])
def test_a_meter_that_does_not_tell_its_names_fails_the_session(answer: str) -> None:
    session = MeterSession(PacketLink(), client=1, server=1, short_names=True)
    session.open(0.0)
    wire = Wire(MeterServer([], short_names=True).new_association(1))
    (aare,) = wire.exchange(session.take_output(), 0.0)
    session.receive(aare, 0.0)
    assert session.take_output().hex() == "050102fa08"
    session.receive(bytes.fromhex(answer.replace(" ", "")), 0.0)
    failed = session.next_event()
    assert isinstance(failed, SessionFailed)
    assert isinstance(failed.error, DlmsError)


@pytest.mark.parametrize("ciphered", [False, True])
@pytest.mark.parametrize(("name", "ours", "theirs"), AUTHS[2:], ids=[line[0] for line in AUTHS[2:]])
def test_high_level_security_by_short_names(name: str, ours: Auth, theirs: Auth, ciphered: bool) -> None:
    client, meter = pair() if ciphered or name == "gmac" else (None, None)
    if client is not None and meter is not None and not ciphered:
        client, meter = replace(client, ciphered_context=False), replace(meter, ciphered_context=False)
    events, wire = sn_run((ours, client), (theirs, meter))
    assert [type(event) for event in events] == [SessionOpened, ItemRead, ReadDone, SessionClosed]
    assert isinstance(events[1], ItemRead)
    assert events[1].result == Value(axdr.u32(7))
    if not ciphered:
        assert wire.requests()[1].hex().startswith("050104fa580109")  # READ of one parameterized name


@pytest.mark.parametrize("name", ["md5", "sha1", "sha256"])
def test_a_wrong_secret_is_refused_by_short_names_too(name: str) -> None:
    (failed,), wire = sn_run((open_auth(name, b"right"), None), (open_auth(name, b"wrong"), None))
    assert isinstance(failed, SessionFailed)
    assert "our proof was not accepted (read-write-denied)" in str(failed.error)
    assert wire.association.receive_apdu(bytes.fromhex("05010202fa08"), 0.0)[0][0] == 0xD8


def test_a_meter_that_proves_nothing_by_short_names_fails_the_session() -> None:
    auth = (open_auth("sha256", b"secret"), None)
    for answer in ("0c0100", "0c01000900", "0c010011ff", "0c0100090101", "0c020109010a", "0d0100"):
        (failed,), _wire = sn_run(auth, auth, bytes.fromhex(answer))
        assert isinstance(failed, SessionFailed)
        assert isinstance(failed.error, DlmsError)


@pytest.mark.parametrize(
    "request_", ["05010200fa08", "050102fa08", "050102fa58", "050104fa50010900", "06010201080100", "0501050001", "05"]
)
def test_nothing_else_is_served_before_the_proof_by_short_names(request_: str) -> None:
    server = MeterServer(
        [CosemObject(1, CODE, readers={2: constant(axdr.u32(7))})], auth=open_auth("md5", b"s"), short_names=True
    )
    association = server.new_association(1)
    initiate = InitiateRequest(SN_CLIENT_CONFORMANCE, 512).emit()
    aarq = Aarq(Context.SN, initiate, mechanism=Mechanism.HLS_MD5, authentication=b"12345678")
    assert Aare.parse(association.receive_apdu(aarq.emit(), 0.0)[0]).accepted
    (answer,) = association.receive_apdu(bytes.fromhex(request_), 0.0)
    assert answer[0] == 0xD8 or answer.hex() == "0c010103"
    (answer,) = association.receive_apdu(bytes.fromhex("0501020108"), 0.0)
    assert answer[0] == 0xD8


def sn_run(
    client: tuple[Auth, Security | None],
    meter: tuple[Auth, Security | None],
    forged: bytes | None = None,
) -> tuple[list[SessionEvent], Wire]:
    """A session by short names that reads one value; `forged` is the answer to the proof instead of the meter's."""
    objects = [CosemObject(1, CODE, readers={2: constant(axdr.u32(7))})]
    wire = Wire(MeterServer(objects, auth=meter[0], security=meter[1], short_names=True).new_association(1))
    session = MeterSession(PacketLink(), client=1, server=1, auth=client[0], security=client[1], short_names=True)
    session.read([ITEM.ref], 0.0)
    events = wire.run(
        session, alter=lambda answer: forged if forged is not None and len(wire.requests()) == 2 else answer
    )
    return events, wire


@pytest.mark.parametrize("counted", [True, False])
def test_blocks_of_a_read_are_taken_with_and_without_the_count_of_results(counted: bool) -> None:
    exchange = SnReadExchange((ITEM,), {(1, CODE): 0x100})
    assert exchange.start(0).hex() == "0501020108"
    raw = (b"\x01" if counted else b"") + b"\x00" + axdr.u32(5).emit()
    following = exchange.advance(bytes.fromhex("0c010200000103") + raw[:3])
    assert isinstance(following, bytes)
    assert following.hex() == "0501050001"
    answer = exchange.advance(bytes.fromhex("0c0102010002") + bytes((len(raw[3:]),)) + raw[3:])
    assert isinstance(answer, GetAnswer)
    assert answer.results() == (axdr.u32(5),)
    with pytest.raises(PeerError):
        SnReadExchange((ITEM,), {(1, CODE): 0x100}).advance(bytes.fromhex("0c010201000201") + b"a")
