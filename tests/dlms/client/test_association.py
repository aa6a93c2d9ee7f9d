"""The client's association: its state table, and what a meter may answer."""

from __future__ import annotations

import pytest

from dlms import axdr
from dlms.client.association import (
    TRANSITIONS,
    Answered,
    Association,
    AssociationFailed,
    AssociationRefused,
    Established,
    Event,
    Proposal,
    Released,
    RequestRefused,
    ServiceRefused,
    State,
)
from dlms.codes import Conformance, Context
from dlms.cosem.obis import AttributeRef, MethodRef
from dlms.errors import DecodeError, LocalError, PeerError
from dlms.xdlms.acse import Aare, InitiateResponse
from dlms.xdlms.apdu.common import Item
from dlms.xdlms.exchange import ActionAnswer, GetAnswer, GetExchange
from dlms.xdlms.exchange_write import ActionExchange, SetExchange

ITEM = Item(AttributeRef.parse("1/0.0.96.1.0.255/2"))
METHOD = MethodRef(9, ITEM.ref.obis, 1)
AARE = Aare(Context.LN, 0, 0, InitiateResponse(Conformance(0x1010), 0).emit()).emit()


def ready(*, may_repeat: bool = False) -> Association:
    association = Association(Proposal(), may_repeat=may_repeat)
    association.associate()
    association.take_output()
    association.receive_apdu(AARE)
    assert association.next_event() == Established(Conformance(0x1010), 0xFFFF)
    return association


def waiting() -> Association:
    association = ready()
    association.request(GetExchange((ITEM,)))
    assert association.take_output().hex() == "c001c100010000600100ff0200"
    return association


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", list(Event))
def test_every_pair_of_state_and_event_is_in_the_table_or_an_error_that_changes_nothing(
    state: State, event: Event
) -> None:
    association = Association(Proposal())
    association._state = state
    following = TRANSITIONS.get((state, event))
    if following is None:
        with pytest.raises(LocalError, match=f"{event.name.lower()} in state {state.name}"):
            association._step(event)
        assert association.state is state
    else:
        association._step(event)
        assert association.state is following


def test_every_state_but_the_end_can_be_broken_off_and_every_state_is_reached() -> None:
    assert {state for state, event in TRANSITIONS if event is Event.BREAK} == set(State) - {State.CLOSED}
    assert {State.IDLE, *TRANSITIONS.values()} == set(State)


def test_verbs_out_of_turn_are_errors() -> None:
    association = Association(Proposal())
    for verb in (association.release, lambda: association.request(GetExchange((ITEM,)))):
        with pytest.raises(LocalError):
            verb()
    with pytest.raises(LocalError):
        _ = association.established
    association.associate()
    with pytest.raises(LocalError):
        association.associate()


def test_a_value_in_blocks_is_put_together() -> None:
    association = waiting()
    association.receive_apdu(bytes.fromhex("c402c10000000001 00 02 0904".replace(" ", "")))
    assert association.take_output().hex() == "c002c100000001"
    association.receive_apdu(bytes.fromhex("c402c10100000002 00 04 61626364".replace(" ", "")))
    event = association.next_event()
    assert isinstance(event, Answered)
    assert isinstance(event.answer, GetAnswer)
    assert event.answer.results() == (axdr.octets(b"abcd"),)
    assert event.answer.single() == bytes.fromhex("090461626364")
    assert association.state is State.READY


def test_a_block_out_of_order_breaks_the_association() -> None:
    association = waiting()
    association.receive_apdu(bytes.fromhex("c402c10000000002000209 04".replace(" ", "")))
    event = association.next_event()
    assert isinstance(event, AssociationFailed)
    assert isinstance(event.error, PeerError)
    assert association.state is State.CLOSED


def test_an_aborted_block_transfer_is_an_error_of_the_item() -> None:
    association = waiting()
    association.receive_apdu(bytes.fromhex("c402c100000000010001 09".replace(" ", "")))
    association.take_output()
    association.receive_apdu(bytes.fromhex("c402c10100000001 01 0f".replace(" ", "")))
    event = association.next_event()
    assert isinstance(event, Answered)
    assert isinstance(event.answer, GetAnswer)
    (result,) = event.answer.results()
    assert getattr(result, "text", "") == "long-get-aborted"


@pytest.mark.parametrize("refusal", ["d80102", "0e040300", "0e050500"])
def test_a_refused_service_leaves_the_association_standing(refusal: str) -> None:
    association = waiting()
    association.receive_apdu(bytes.fromhex(refusal))
    event = association.next_event()
    assert isinstance(event, RequestRefused)
    assert isinstance(event.error, ServiceRefused)
    association.request(GetExchange((ITEM,)))
    assert association.take_output()[2] == 0xC2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("6117a109060760857405080101a203020101a305a10302010d", "authentication-failure"),
        ("611fa109060760857405080101a203020101a305a103020101be0604040e010603", "pdu-size-too-short"),
        ("0e010602", "incompatible-conformance"),
        ("d80101", "operation-not-possible"),
    ],
)
def test_a_refused_association_says_why(answer: str, reason: str) -> None:
    association = Association(Proposal())
    association.associate()
    association.receive_apdu(bytes.fromhex(answer))
    event = association.next_event()
    assert isinstance(event, AssociationFailed)
    assert isinstance(event.error, AssociationRefused)
    assert reason in event.error.reason


@pytest.mark.parametrize("answer", ["c401c100", "6117a109060760857405080101a203020100a305a103020100", "61", ""])
def test_what_is_no_aare_breaks_the_association(answer: str) -> None:
    association = Association(Proposal())
    association.associate()
    association.receive_apdu(bytes.fromhex(answer))
    event = association.next_event()
    assert isinstance(event, AssociationFailed)
    assert not isinstance(event.error, LocalError)
    association.receive_apdu(AARE)
    assert association.next_event() is None


@pytest.mark.parametrize("answer", ["6303800100", "d80102", "0e010600"])
def test_a_release_ends_whether_the_meter_knows_it_or_not(answer: str) -> None:
    association = ready()
    association.release()
    assert association.take_output().hex() == "6203800100"
    association.receive_apdu(bytes.fromhex("c401c1001105"))  # late
    assert association.next_event() is None
    association.receive_apdu(bytes.fromhex(answer))
    assert association.next_event() == Released()
    assert association.state is State.CLOSED


def test_an_answer_with_an_id_of_the_meters_own_is_taken_where_nothing_can_come_twice() -> None:
    association = waiting()
    association.receive_apdu(bytes.fromhex("c401ce001105"))
    assert isinstance(association.next_event(), Answered)


def test_invoke_ids_go_round_and_answers_of_old_ones_are_dropped_where_they_may_come_twice() -> None:
    association = ready(may_repeat=True)
    seen = []
    for _ in range(17):
        association.request(GetExchange((ITEM,)))
        invoke = association.take_output()[2]
        seen.append(invoke & 0x0F)
        association.receive_apdu(bytes((0xC4, 1, invoke ^ 0x0F, 0, 0x11, 9)))
        assert association.next_event() is None
        association.receive_apdu(bytes((0xC4, 1, invoke & 0x0F, 0, 0x11, 5)))  # without the priority bits
        assert isinstance(association.next_event(), Answered)
    assert seen[:3] == [1, 2, 3]
    assert seen[15:] == [0, 1]


def test_a_list_answered_with_one_value_breaks_the_protocol() -> None:
    association = ready()
    association.request(GetExchange((ITEM, ITEM)))
    association.receive_apdu(bytes.fromhex("c401c1001105"))
    assert isinstance(association.next_event(), AssociationFailed)


def test_a_list_with_too_few_results_is_noticed() -> None:
    association = ready()
    association.request(GetExchange((ITEM, ITEM)))
    association.receive_apdu(bytes.fromhex("c403c101001105"))
    event = association.next_event()
    assert isinstance(event, Answered)
    assert isinstance(event.answer, GetAnswer)
    with pytest.raises(PeerError):
        event.answer.results()


def test_parameters_and_results_of_an_action_go_in_blocks() -> None:
    association = ready()
    association.request(ActionExchange((METHOD,), (axdr.octets(bytes(100)),), 64))
    first = association.take_output()
    assert first[:3] == bytes.fromhex("c304c1")
    sent = first[-(64 - 16 - 9) :]
    for number in range(1, 10):
        association.receive_apdu(bytes.fromhex("c704c1") + number.to_bytes(4, "big"))
        block = association.take_output()
        assert len(block) <= 64
        sent += block[9:]
        if block[3]:
            break
    assert sent == axdr.octets(bytes(100)).emit()
    association.receive_apdu(bytes.fromhex("c702c1000000000102 0001".replace(" ", "")))
    assert association.take_output().hex() == "c302c100000001"
    association.receive_apdu(bytes.fromhex("c702c1010000000203 001105".replace(" ", "")))
    event = association.next_event()
    assert isinstance(event, Answered)
    assert isinstance(event.answer, ActionAnswer)
    assert event.answer.outcomes[0].returned == axdr.u8(5)


@pytest.mark.parametrize("answer", ["c502c100000001", "c501c1", "c505c1020000", "c401c1001105"])
def test_a_wrong_answer_to_a_set_breaks_the_protocol(answer: str) -> None:
    association = ready()
    association.request(SetExchange((ITEM,), (axdr.u8(1),), 1000))
    association.receive_apdu(bytes.fromhex(answer))
    event = association.next_event()
    assert isinstance(event, AssociationFailed)
    assert isinstance(event.error, PeerError | DecodeError)


def test_an_answer_without_end_is_stopped() -> None:
    association = waiting()
    piece = bytes(60_000)
    for number in range(1, 1000):
        association.receive_apdu(bytes.fromhex("c402c100") + number.to_bytes(4, "big") + b"\x00\x82\xea\x60" + piece)
        if association.state is State.CLOSED:
            break
        association.take_output()
    assert number == 4 * 1024 * 1024 // 60_000 + 1


def test_a_pdu_size_that_cannot_be_is_refused() -> None:
    with pytest.raises(LocalError):
        Proposal(pdu_size=11)
    with pytest.raises(LocalError):
        Proposal(pdu_size=70_000)
