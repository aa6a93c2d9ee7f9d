"""A meter session against the meter's side, over a link without framing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from dlms import axdr
from dlms.axdr import Data
from dlms.client.events import (
    ItemError,
    ItemRead,
    ReadDone,
    Replied,
    SessionClosed,
    SessionEvent,
    SessionFailed,
    SessionOpened,
    Value,
)
from dlms.client.knowledge import MeterKnowledge
from dlms.client.session import MeterSession
from dlms.codes import LN_CLIENT_CONFORMANCE, Conformance, DataAccessResult
from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.scaler_unit import ScalerUnit
from dlms.errors import LinkError, LocalError
from dlms.link.datalink import LinkUp
from dlms.security.settings import Auth, Lls, NoAuth
from dlms.server.objects import CosemObject, constant, objects_from_rows
from dlms.server.server import MeterServer
from dlms.simulator.reading_list import rows_from_csv
from dlms.xdlms.apdu.common import AccessError, Item, Result
from dlms.xdlms.exchange import GetAnswer, GetExchange, SetAnswer
from dlms.xdlms.exchange_write import SetExchange
from tests.dlms.plain_link import PacketLink, Wire

CSV = Path(__file__).parents[3] / "etc" / "reading-lists" / "residential-108.csv"
ROWS = rows_from_csv(CSV)
REFS = [AttributeRef(row.class_id, row.obis, row.attribute) for row in ROWS]
SECRET = Lls("correct horse")
ENERGY = AttributeRef.parse("3/1.0.1.8.0.255/2")


def values(class_id: int, obis: Obis, attribute: int) -> Result:
    """A different, reproducible value of the right type for every row."""
    row = next(row for row in ROWS if (row.class_id, row.obis, row.attribute) == (class_id, obis, attribute))
    seed = sum(obis.code) * 31 + attribute
    if row.tag is axdr.Tag.BOOLEAN:
        return axdr.boolean(value=True)
    if row.tag is axdr.Tag.OCTET_STRING:
        return axdr.octets(bytes((seed + at) % 256 for at in range(row.octets)))
    return Data(row.tag, seed % 100)


def server(auth: Auth = SECRET, *, phases: int = 1, conformance: Conformance = LN_CLIENT_CONFORMANCE) -> MeterServer:
    return MeterServer(objects_from_rows(ROWS, values, phases=phases), auth=auth, conformance=conformance)


def read(
    refs: list[AttributeRef], meter: MeterServer, known: MeterKnowledge | None = None, up: LinkUp | None = None
) -> tuple[dict[AttributeRef, Value | ItemError], Wire, list[SessionEvent]]:
    wire = Wire(meter.new_association(1))
    session = MeterSession(PacketLink(up), client=1, server=1, auth=SECRET, known=known)
    session.read(refs, 0.0)
    events = wire.run(session)
    return {event.ref: event.result for event in events if isinstance(event, ItemRead)}, wire, events


def test_reads_every_value_of_the_list_as_the_meter_holds_it() -> None:
    results, _wire, events = read(REFS, server(phases=3))
    assert isinstance(events[0], SessionOpened)
    assert isinstance(events[-2], ReadDone)
    assert events[-1] == SessionClosed()
    assert len(results) == 108
    for row in ROWS:
        result = results[AttributeRef(row.class_id, row.obis, row.attribute)]
        assert isinstance(result, Value)
        assert result.data == values(row.class_id, row.obis, row.attribute)
        if row.class_id in (3, 4, 5) and row.type_name != "dt":
            assert (result.scaler, result.unit) == (row.scaler, row.unit)
        else:
            assert (result.scaler, result.unit) == (None, None)


def test_objects_of_a_three_phase_meter_are_undefined_on_a_single_phase_meter_and_asked_only_once() -> None:
    known = MeterKnowledge()
    results, wire, _events = read(REFS, server(), known)
    absent = [AttributeRef(row.class_id, row.obis, row.attribute) for row in ROWS if row.phases == 3]
    assert all(results[ref] == ItemError("object-undefined") for ref in absent)
    assert sum(isinstance(result, Value) for result in results.values()) == 108 - len(absent)
    again, wire, _events = read(REFS, server(), known)
    assert again == results
    assert not any(ref.emit() in apdu for ref in absent for apdu in wire.requests())


def test_scaler_and_unit_are_fetched_once_a_meter() -> None:
    known = MeterKnowledge()
    first, wire, _events = read([ENERGY], server(), known)
    assert len(wire.requests("c0")) == 2
    second, wire, _events = read([ENERGY], server(), known)
    assert len(wire.requests("c0")) == 1
    assert first == second
    assert known.scalers[AttributeRef.parse("3/1.0.1.8.0.255/3")] == ScalerUnit(0, 30)


def test_knowledge_survives_its_dump() -> None:
    known = MeterKnowledge()
    read(REFS, server(), known)
    assert MeterKnowledge.load(known.dump()) == known
    with pytest.raises(LocalError):
        MeterKnowledge.load({"version": 1, "scalers": 3})


def test_what_is_loaded_for_a_second_meter_names_the_same_objects() -> None:
    known = MeterKnowledge()
    read(REFS, server(), known)
    first, second = (MeterKnowledge.load(known.dump()) for _ in range(2))
    assert {id(ref) for ref in first.sizes} == {id(ref) for ref in second.sizes}
    assert {id(ref) for ref in first.scalers} == {id(ref) for ref in second.scalers}
    assert {id(scaler) for scaler in first.scalers.values()} == {id(scaler) for scaler in second.scalers.values()}


def test_lists_fit_what_the_link_carries_in_one_go() -> None:
    known = MeterKnowledge()
    read(REFS, server(phases=3), known)
    _results, wire, _events = read(REFS, server(phases=3), known, LinkUp(125))
    lists = wire.requests("c003")
    assert all(len(apdu) <= 125 for apdu in lists)
    assert len(wire.requests("c0")) == 9
    assert all(len(apdu) <= 125 for way, apdu in wire.log if way == "<")


def test_lists_grow_to_the_window_where_the_link_has_one() -> None:
    known = MeterKnowledge()
    read(REFS, server(phases=3), known)
    _results, wire, _events = read(REFS, server(phases=3), known, LinkUp(125, apdu_bytes_burst=890))
    assert len(wire.requests("c0")) == 2


def test_a_meter_without_lists_is_read_one_by_one() -> None:
    meter = server(phases=3, conformance=LN_CLIENT_CONFORMANCE & ~Conformance.MULTIPLE_REFERENCES)
    known = MeterKnowledge(scalers=dict.fromkeys(REFS))
    results, wire, _events = read(REFS[:20], meter, known)
    assert len(results) == 20
    assert not wire.requests("c003")


class NoListsAfterAll(MeterServer):
    """Negotiates lists and refuses them."""

    answer = bytes.fromhex("d80202")

    def new_association(self, client_sap: int):  # type: ignore[no-untyped-def]
        association = super().new_association(client_sap)
        whole = association.receive_apdu

        def receive_apdu(apdu: bytes, now: float) -> list[bytes]:
            if apdu[:2] == b"\xc0\x03":
                self.lists += 1
                return [self.answer.replace(b"\x99", apdu[2:3])]
            return whole(apdu, now)

        association.receive_apdu = receive_apdu  # type: ignore[method-assign]
        return association

    lists = 0


@pytest.mark.parametrize(("answer", "lists"), [("d80202", 1), ("d80103", 2), ("c4019901fa", 2)])
def test_a_refused_list_is_asked_again_in_smaller_pieces_down_to_single_reads(answer: str, lists: int) -> None:
    meter = NoListsAfterAll(objects_from_rows(ROWS, values), auth=SECRET)
    meter.answer = bytes.fromhex(answer)
    known = MeterKnowledge()
    refs = [ref for ref in REFS if ref.class_id == 1][:9]  # in one list, then in three of three, then alone
    results, _wire, _events = read(refs, meter, known)
    assert meter.lists == lists
    assert all(isinstance(results[ref], Value) for ref in refs if ref.obis != Obis.parse("1.0.0.4.2.255"))
    assert known.list_max == 1
    read(refs, meter, known)
    assert meter.lists == lists


def test_an_answer_longer_than_the_pdu_size_comes_in_blocks() -> None:
    long = axdr.octets(bytes(range(256)) * 20)
    meter = MeterServer([CosemObject(1, Obis.parse("0.0.96.1.0.255"), readers={2: constant(long)})], auth=SECRET)
    ref = AttributeRef.parse("1/0.0.96.1.0.255/2")
    results, wire, _events = read([ref], meter)
    assert results == {ref: Value(long)}
    assert len(wire.requests("c002")) == 5
    assert all(len(apdu) <= 1024 for way, apdu in wire.log)


def test_a_list_answer_longer_than_the_pdu_size_comes_in_blocks() -> None:
    codes = [Obis(bytes((0, 0, 96, 1, at, 255))) for at in range(10)]
    objects = [CosemObject(1, code, readers={2: constant(axdr.octets(code.code * 50))}) for code in codes]
    refs = [AttributeRef(1, code, 2) for code in codes]
    results, wire, _events = read(refs, MeterServer(objects, auth=SECRET))
    assert results == {ref: Value(axdr.octets(ref.obis.code * 50)) for ref in refs}
    assert wire.requests("c002")


def test_the_next_request_is_out_before_the_last_answer_is_decoded() -> None:
    wire = Wire(server(phases=3).new_association(1))
    session = MeterSession(PacketLink(LinkUp(125)), client=1, server=1, auth=SECRET)
    session.read(REFS, 0.0)
    (aare,) = wire.exchange(session.take_output(), 0.0)
    session.receive(aare, 0.0)
    (answer,) = wire.exchange(session.take_output(), 0.0)
    session.receive(answer, 0.0)
    assert session.take_output()[:2] == b"\xc0\x03"
    assert session.known.scalers == {}
    while session.next_event():
        pass
    assert len(session.known.scalers) == 10


def test_a_wrong_password_fails_the_session_with_the_servers_reason() -> None:
    wire = Wire(server().new_association(1))
    session = MeterSession(PacketLink(), client=1, server=1, auth=Lls("wrong"))
    session.read([ENERGY], 0.0)
    (failed,) = wire.run(session)
    assert isinstance(failed, SessionFailed)
    assert "authentication-failure" in str(failed.error)


def test_no_authentication_is_refused_where_a_password_is_due() -> None:
    wire = Wire(server().new_association(1))
    session = MeterSession(PacketLink(), client=1, server=1)
    session.open(0.0)
    (failed,) = wire.run(session)
    assert isinstance(failed, SessionFailed)
    assert "authentication-required" in str(failed.error)


def test_a_session_reads_again_until_it_is_closed() -> None:
    wire = Wire(server().new_association(1))
    session = MeterSession(PacketLink(), client=1, server=1, auth=SECRET)
    session.open(0.0)
    assert [type(event) for event in wire.carry(session)] == [SessionOpened]
    for _ in range(2):
        session.read([ENERGY], 1.0)
        assert [type(event) for event in wire.carry(session)] == [ItemRead, ReadDone]
    session.close(2.0)
    assert wire.carry(session) == [SessionClosed()]
    session.close(2.0)
    with pytest.raises(LocalError):
        session.read([ENERGY], 3.0)


def test_a_session_that_finishes_keeps_the_answer_in_flight_and_asks_for_nothing_more() -> None:
    wire = Wire(server(phases=3).new_association(1))
    session = MeterSession(PacketLink(LinkUp(125)), client=1, server=1, auth=SECRET)
    session.read(REFS, 0.0)
    (aare,) = wire.exchange(session.take_output(), 0.0)
    session.receive(aare, 0.0)
    (answer,) = wire.exchange(session.take_output(), 0.0)
    session.finish(0.0)
    assert session.take_output() == b""
    session.receive(answer, 0.0)
    events = wire.carry(session)
    assert isinstance(events[0], SessionOpened)
    assert events[-1] == SessionClosed()
    assert not any(isinstance(event, ReadDone) for event in events)
    assert len(session.known.scalers) == 10  # what the answer brought
    assert len(wire.requests("c0")) == 1
    assert len(wire.requests("62")) == 1


def test_a_session_that_waits_for_nothing_finishes_at_once() -> None:
    wire = Wire(server().new_association(1))
    session = MeterSession(PacketLink(), client=1, server=1, auth=SECRET)
    session.open(0.0)
    wire.carry(session)
    session.finish(1.0)
    assert wire.carry(session) == [SessionClosed()]


def test_a_read_asked_for_when_the_last_one_is_done_goes_on_in_the_same_association() -> None:
    wire = Wire(server().new_association(1))
    session = MeterSession(PacketLink(), client=1, server=1, auth=SECRET)
    session.read([ENERGY], 0.0)
    events = wire.carry(session)
    for _ in range(3):
        assert isinstance(events[-1], ReadDone)
        session.read([ENERGY], 0.0)
        events += wire.carry(session)
    assert len(wire.requests("60")) == 1
    assert sum(isinstance(event, ItemRead) for event in events) == 4


def test_a_link_that_ends_the_association_is_not_released_first() -> None:
    _results, wire, events = read([ENERGY], server(), None, LinkUp(1000, ends_association=True))
    assert events[-1] == SessionClosed()
    assert not wire.requests("62")
    _results, wire, _events = read([ENERGY], server(), None, LinkUp(1000))
    assert len(wire.requests("62")) == 1


def test_silence_fails_the_session_at_its_deadline() -> None:
    session = MeterSession(PacketLink(timeout_s=1e9), client=1, server=1, auth=SECRET, response_timeout_s=5.0)
    session.read([ENERGY], 100.0)
    assert session.take_output()
    assert session.next_deadline() == 105.0
    session.on_deadline(104.0)
    assert session.next_event() is None
    session.on_deadline(105.0)
    event = session.next_event()
    assert isinstance(event, SessionFailed)
    assert isinstance(event.error, LinkError)
    assert session.next_deadline() is None


def test_the_end_of_the_line_fails_the_session_at_any_point() -> None:
    for steps in range(6):
        wire = Wire(server().new_association(1))
        session = MeterSession(PacketLink(), client=1, server=1, auth=SECRET)
        session.read(REFS, 0.0)
        for _ in range(steps):
            for answer in wire.exchange(session.take_output(), 0.0):
                session.receive(answer, 0.0)
        session.receive_eof(1.0)
        events = []
        while (event := session.next_event()) is not None:
            events.append(event)
        assert isinstance(events[-1], SessionFailed)
        assert session.take_output() == b""


def test_garbage_instead_of_an_answer_fails_the_session() -> None:
    for garbage in ("", "c4", "c401c1", "c401c10099", "61020000", "ffff", "c403c101", "c401c1001200"):
        wire = Wire(server().new_association(1))
        session = MeterSession(PacketLink(), client=1, server=1, auth=SECRET, known=MeterKnowledge({}, set()))
        session.read([AttributeRef.parse("8/0.0.1.0.0.255/2")], 0.0)
        (aare,) = wire.exchange(session.take_output(), 0.0)
        session.receive(aare, 0.0)
        request = session.take_output()
        session.receive(bytes.fromhex(garbage).replace(b"\xc1", request[2:3], 1), 0.0)
        events = []
        while (event := session.next_event()) is not None:
            events.append(event)
        assert isinstance(events[-1], SessionFailed), garbage


def test_an_old_answer_come_twice_is_dropped_where_the_link_may_repeat() -> None:
    wire = Wire(server().new_association(1))
    session = MeterSession(PacketLink(LinkUp(1000, may_repeat=True)), client=1, server=1, auth=SECRET)
    session.read([AttributeRef.parse("1/0.0.96.1.0.255/2")], 0.0)
    (aare,) = wire.exchange(session.take_output(), 0.0)
    session.receive(aare, 0.0)
    request = session.take_output()
    session.receive(bytes((0xC4, 1, request[2] ^ 1, 0, 0x11, 7)), 0.0)
    (answer,) = wire.exchange(request, 0.0)
    session.receive(answer, 0.0)
    result = next(event for event in iter(session.next_event, None) if isinstance(event, ItemRead)).result
    assert isinstance(result, Value)
    assert len(result.data.octets()) == 11


def test_a_late_answer_of_the_session_before_is_not_taken_where_packets_may_be_late() -> None:
    """Each session would number its requests from 1, and an answer says nothing but its number."""
    refs = [AttributeRef.parse(f"1/0.0.96.1.{item}.255/2") for item in range(2)]
    known, association, late = MeterKnowledge(invoke_id=14), server(), b""
    for ref in refs:
        wire = Wire(association.new_association(1))
        session = MeterSession(PacketLink(LinkUp(1000, may_repeat=True)), client=1, server=1, auth=SECRET, known=known)
        session.read([ref], 0.0)
        (aare,) = wire.exchange(session.take_output(), 0.0)
        session.receive(aare, 0.0)
        request = session.take_output()
        if late:
            session.receive(late, 0.0)
            assert not [event for event in iter(session.next_event, None) if isinstance(event, ItemRead)]
        (late,) = wire.exchange(request, 0.0)
    assert known.invoke_id == 0  # 15, and around
    session.receive(late, 0.0)
    (read,) = [event for event in iter(session.next_event, None) if isinstance(event, ItemRead)]
    assert read.ref == refs[1]


@pytest.mark.parametrize("result", [DataAccessResult.TEMPORARY_FAILURE, DataAccessResult.HARDWARE_FAULT])
def test_a_value_whose_scaler_failed_for_now_is_not_told_and_both_are_asked_again_next_time(
    result: DataAccessResult,
) -> None:
    answers: list[Result] = [AccessError(result)]
    scaler = axdr.structure(axdr.i8(-1), axdr.enum(35))
    register = CosemObject(3, ENERGY.obis, readers={2: constant(axdr.u16(2301))})
    register.readers[3] = lambda _selection: answers.pop() if answers else scaler
    known = MeterKnowledge()
    meter = MeterServer([register], auth=SECRET)
    assert read([ENERGY], meter, known)[0] == {ENERGY: ItemError(result.text)}
    again = read([ENERGY], meter, known)[0][ENERGY]
    assert again == Value(axdr.u16(2301), -1, 35)
    assert isinstance(again, Value)
    assert again.scaled() == Decimal("230.1")


@pytest.mark.parametrize("result", [DataAccessResult.OTHER_REASON, DataAccessResult.READ_WRITE_DENIED])
def test_a_meter_that_never_tells_a_scaler_has_its_values_as_they_are(result: DataAccessResult) -> None:
    readers = {2: constant(axdr.u16(2301)), 3: lambda _selection: AccessError(result)}
    register = CosemObject(3, ENERGY.obis, readers=readers)
    meter = MeterServer([register], auth=SECRET)
    assert read([ENERGY], meter, MeterKnowledge())[0] == {ENERGY: Value(axdr.u16(2301))}


@pytest.mark.parametrize("lost", range(6))
def test_a_list_answered_with_nonsense_costs_no_value_its_scaler(lost: int) -> None:
    """The request for the first values is on its way while the scalers are decoded."""

    def results(alter: Callable[[bytes], bytes]) -> dict[AttributeRef, Value | ItemError]:
        wire = Wire(server(phases=3).new_association(1))
        session = MeterSession(PacketLink(LinkUp(125)), client=1, server=1, auth=SECRET)
        session.read(REFS[:30], 0.0)
        events = [event for event in wire.run(session, alter=alter) if isinstance(event, ItemRead)]
        assert len(events) == 30
        return {event.ref: event.result for event in events}

    lists = itertools.count()

    def damaged(apdu: bytes) -> bytes:
        return apdu[:-1] if apdu[:2] == b"\xc4\x03" and next(lists) == lost else apdu

    assert results(damaged) == results(lambda apdu: apdu)


def test_other_services_share_the_session() -> None:
    stored: list[Data] = []

    def write(value: Data) -> DataAccessResult:
        stored.append(value)
        return DataAccessResult.SUCCESS

    data = CosemObject(1, ENERGY.obis, readers={2: constant(axdr.u8(1))}, writers={2: write})
    wire = Wire(MeterServer([data], auth=SECRET).new_association(1))
    session = MeterSession(PacketLink(), client=1, server=1, auth=SECRET)
    item = Item(AttributeRef(1, ENERGY.obis, 2))
    long = axdr.octets(bytes(5000))
    session.request(SetExchange((item,), (long,), 1024), 0.0)
    session.request(GetExchange((item,)), 0.0)
    events = wire.run(session)
    outcomes = [event.outcome for event in events if isinstance(event, Replied)]
    assert outcomes[0] == SetAnswer((item,), (0,))
    assert isinstance(outcomes[1], GetAnswer)
    assert outcomes[1].results() == (axdr.u8(1),)
    assert stored == [long]
    assert all(len(apdu) <= 1024 for apdu in wire.requests())


def test_a_meter_that_falls_silent_over_lists_is_read_one_by_one_from_the_third_session() -> None:
    known = MeterKnowledge()
    for _ in range(2):
        wire = Wire(server().new_association(1))
        session = MeterSession(PacketLink(), client=1, server=1, auth=SECRET, known=known)
        session.read(REFS[:8], 0.0)
        (aare,) = wire.exchange(session.take_output(), 0.0)
        session.receive(aare, 0.0)
        assert session.take_output()[:2] == b"\xc0\x03"
        session.on_deadline(60.0)
    results, wire, _events = read(REFS[:8], server(), known)
    assert len(results) == 8
    assert not wire.requests("c003")


def test_nobody_is_asked_for_nothing() -> None:
    meter = MeterServer([], auth=NoAuth())
    wire = Wire(meter.new_association(1))
    session = MeterSession(PacketLink(), client=1, server=1)
    session.read([], 0.0)
    assert [type(event) for event in wire.run(session)] == [SessionOpened, ReadDone, SessionClosed]


@pytest.mark.parametrize("damage", [lambda apdu: apdu[:-1], lambda apdu: apdu[:3] + b"\0", lambda apdu: apdu + b"\0"])
@pytest.mark.parametrize("count", [2, 5, 30])
def test_lists_answered_with_nonsense_are_asked_again_in_smaller_pieces(
    damage: Callable[[bytes], bytes], count: int
) -> None:
    wire = Wire(server(phases=3).new_association(1))
    known = MeterKnowledge()
    session = MeterSession(PacketLink(LinkUp(125)), client=1, server=1, auth=SECRET, known=known)
    session.read(REFS[:count], 0.0)
    session.read([ENERGY], 0.0)
    events = wire.run(session, alter=lambda answer: damage(answer) if answer[:2] == b"\xc4\x03" else answer)
    reads = [event for event in events if isinstance(event, ItemRead)]
    assert [event.ref for event in reads].count(ENERGY) == 1
    assert {
        event.ref: event.result.data for event in reads if isinstance(event.result, Value) and event.ref != ENERGY
    } == {ref: values(ref.class_id, ref.obis, ref.attribute) for ref in REFS[:count]}
    assert sum(isinstance(event, ReadDone) for event in events) == 2
    assert known.list_max == 1


def test_a_session_that_was_never_open_is_closed_without_a_word_and_not_opened_after() -> None:
    session = MeterSession(PacketLink(), client=1, server=1, auth=SECRET)
    session.close(0.0)
    assert session.next_event() == SessionClosed()
    assert not session.take_output()
    with pytest.raises(LocalError, match="over"):
        session.open(1.0)


def test_a_session_that_is_open_already_is_not_opened_again() -> None:
    wire = Wire(server().new_association(1))
    session = MeterSession(PacketLink(), client=1, server=1, auth=SECRET)
    session.open(0.0)
    session.open(0.0)
    wire.carry(session)
    session.open(1.0)
    assert wire.carry(session) == []
    assert len(wire.requests("60")) == 1


def test_a_session_that_is_closed_while_it_associates_disconnects_and_drops_what_was_asked() -> None:
    session = MeterSession(PacketLink(), client=1, server=1, auth=SECRET)
    session.read([ENERGY], 0.0)
    assert session.take_output()
    session.close(1.0)
    assert session.next_event() == SessionClosed()
    assert session.next_event() is None
    assert session.next_deadline() is None
