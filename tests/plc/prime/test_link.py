"""The host's side of a base node: who is there, what is in flight, and what happens when nothing comes back."""

from __future__ import annotations

import random

import pytest

from plc.errors import PlcLocalError
from plc.events import (
    BaseNodeRestarted,
    BaseNodeSilent,
    DataConfirmed,
    DataFailed,
    DataReceived,
    FailReason,
    ManagementUnanswered,
    NetworkNoted,
    NodeEvent,
    NodeJoined,
    NodeLeft,
    NodesListed,
    PibRead,
    PibWritten,
    ResyncNoted,
    TopologyListed,
    WhitelistChanged,
)
from plc.prime import repeats
from plc.prime.link import (
    BUSY_MAX,
    BUSY_PAUSE_MAX_S,
    BUSY_PAUSE_S,
    CONFIRM_FIRST_S,
    CONFIRM_SHORTEST_S,
    CONFIRM_TIMEOUT_S,
    IN_FLIGHT_MAX,
    LIST_GAP_S,
    LIST_RETRY_S,
    LIST_TIMEOUT_S,
    RELIST_S,
    SHORT_IN_FLIGHT_MAX,
    SHORT_OCTETS_MAX,
    WAITING_MAX,
    PlcLink,
)
from plc.prime.lists import ListPib, ListQuery, ListResponse, Node432
from plc.prime.management import ORDER_TIMEOUT_S
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
    NetworkEventKind,
    PrimePayload,
    ReleaseRequest,
    Whitelist,
    WhitelistAck,
    parse_payload,
)
from plc.prime.topology import NodeState, PhyLink, RegisteredDevice
from plc.prime.usi import ProtocolId, UsiDecoder, UsiFrame
from tests.sim.pipes import all_splits, random_splits


def eui(number: int) -> bytes:
    return number.to_bytes(6, "big")


def wire(payload: PrimePayload) -> bytes:
    return UsiFrame(ProtocolId.PRIME_API, payload.emit(), payload.command).emit()


def list_wire(*nodes: tuple[int, int], first: int = 0) -> bytes:
    """A list answer with (address, EUI number) pairs, iterators ascending from `first`."""
    records = tuple(
        (first + index, Node432(address, b"id", eui(number)).emit()) for index, (address, number) in enumerate(nodes)
    )
    response = ListResponse(ListPib.NODES_432, Node432.SIZE if records else 0, records)
    return UsiFrame(ProtocolId.MNGP_GETRSP_ENHANCED, response.emit()).emit()


def sent(link: PlcLink) -> list[PrimePayload | ListQuery]:
    decoder = UsiDecoder()
    decoder.feed(link.take_output())
    found: list[PrimePayload | ListQuery] = []
    while (frame := decoder.next()) is not None:
        assert isinstance(frame, UsiFrame)
        if frame.command is None:
            found.append(ListQuery.parse(frame.data))
        else:
            payload = parse_payload(frame.command, frame.data)
            assert payload is not None
            found.append(payload)
    return found


def events(link: PlcLink) -> list[NodeEvent]:
    found: list[NodeEvent] = []
    while (event := link.next_event()) is not None:
        found.append(event)
    return found


def test_nodes_that_joined_before_the_host_started_are_found_by_the_list() -> None:
    link = PlcLink()
    link.start(0.0)
    assert sent(link) == [ListQuery(ListPib.NODES_432, 32, 0)]
    link.receive(list_wire((5, 1), (6, 2)), 0.1)
    assert events(link) == [NodeJoined(5, eui(1), b"id", from_list=True), NodeJoined(6, eui(2), b"id", from_list=True)]
    assert sent(link) == [ListQuery(ListPib.NODES_432, 32, 2)]
    link.receive(list_wire(), 0.2)
    assert events(link) == [NodesListed(2)]
    assert link.nodes == {5: eui(1), 6: eui(2)}


def test_a_silent_base_node_is_asked_again_after_a_pause_and_for_ever() -> None:
    link = PlcLink()
    link.start(0.0)
    now = 0.0
    for attempt in range(1, 4):
        assert queries_until(link, now + LIST_TIMEOUT_S - 0.1)
        now += LIST_TIMEOUT_S
        assert link.next_deadline() == now
        link.on_deadline(now)
        assert events(link) == [BaseNodeSilent(attempt)]
        assert sent(link) == []
        now += LIST_RETRY_S
        assert link.next_deadline() == now
        link.on_deadline(now)


def queries_until(link: PlcLink, end: float) -> list[tuple[float, PrimePayload | ListQuery]]:
    """What is sent until then, with the deadlines at which it was."""
    found = [(0.0, one) for one in sent(link)]
    while (now := link.next_deadline()) is not None and now <= end:
        link.on_deadline(now)
        found += [(now, one) for one in sent(link)]
    return found


FIRST_PAGE = ListQuery(ListPib.NODES_432, 32, 0)


def test_a_query_that_is_lost_is_asked_again_and_after_so_long_as_answers_were_seen_to_take() -> None:
    link = PlcLink(reads_topology=False, relist_s=20.0)
    link.start(0.0)
    assert queries_until(link, 2.0) == [(0.0, FIRST_PAGE), (repeats.REPEAT_FIRST_S, FIRST_PAGE)]
    link.receive(list_wire(), 2.1)
    assert events(link) == [NodesListed(0)]
    for start in (22.1, 42.1):  # forgets what was doubled with the first answer to what was asked once
        link.on_deadline(start)
        assert sent(link) == [FIRST_PAGE]
        link.receive(list_wire(), start)
    link.on_deadline(62.1)
    asked = [at for at, _ in queries_until(link, 62.1 + LIST_TIMEOUT_S)]
    assert asked[1:] == pytest.approx([62.1 + repeats.REPEAT_SHORTEST_S, 62.1 + 3 * repeats.REPEAT_SHORTEST_S])
    assert events(link)[-1] == BaseNodeSilent(1)


def test_a_page_of_the_list_that_is_lost_is_asked_again_and_the_others_are_not() -> None:
    link = PlcLink()
    link.start(0.0)
    link.receive(list_wire((5, 1), (6, 2)), 0.1)
    sent(link)
    second = ListQuery(ListPib.NODES_432, 32, 2)
    assert [one for _, one in queries_until(link, 0.1 + repeats.REPEAT_SHORTEST_S)] == [second]
    link.receive(list_wire((5, 1), (6, 2)), 1.2)  # what comes twice is not the page that was asked for
    assert isinstance(events(link)[-1], ResyncNoted)
    link.receive(list_wire((7, 3), first=2) + list_wire(), 1.3)
    assert events(link) == [NodeJoined(7, eui(3), b"id", from_list=True), NodesListed(3)]


def test_the_list_is_read_again_and_nodes_that_are_gone_are_reported_as_left() -> None:
    link = PlcLink(reads_topology=False)
    link.start(0.0)
    link.receive(list_wire((5, 1), (6, 2)) + list_wire(), 0.0)
    events(link), sent(link)
    assert relisted(link, 0.0, 5) == [30.0, 150.0, 150.0 + RELIST_S, 150.0 + 2 * RELIST_S, 150.0 + 3 * RELIST_S]
    now = link.next_deadline()
    assert now is not None
    link.on_deadline(now)
    assert sent(link) == [ListQuery(ListPib.NODES_432, 32, 0)]
    link.receive(list_wire((6, 2)) + list_wire(), now)
    assert events(link) == [NodeLeft(5, eui(1)), NodesListed(1)]


def relisted(link: PlcLink, now: float, count: int) -> list[float]:
    """When the next lists are asked for. Each is answered with nodes 5 and 6."""
    times = []
    for _ in range(count):
        deadline = link.next_deadline()
        assert deadline is not None
        assert deadline > now
        now = deadline
        link.on_deadline(now)
        assert sent(link) == [ListQuery(ListPib.NODES_432, 32, 0)]
        link.receive(list_wire((5, 1), (6, 2)) + list_wire(), now)
        assert events(link) == [NodesListed(2)]
        sent(link)
        times.append(now)
    return times


@pytest.mark.parametrize(
    "announced_by", [JoinIndication(b"id", 6, eui(2)), NetworkEvent(0, eui(2), 0, 0, 0xFF, 0, 0, 0)]
)
def test_joins_have_the_list_read_again_soon_for_those_that_were_not_heard(announced_by: PrimePayload) -> None:
    link = PlcLink(reads_topology=False)
    link.start(0.0)
    link.receive(list_wire((5, 1), (6, 2)) + list_wire(), 0.0)
    events(link), sent(link)
    (_, _, now) = relisted(link, 0.0, 3)
    for later in range(20):  # a swarm of them does not put the list off
        link.receive(wire(announced_by), now + later)
    events(link)
    assert relisted(link, now, 3) == [now + 30.0, now + 150.0, now + 150.0 + RELIST_S]


def test_a_node_that_joins_while_the_list_is_read_is_not_reported_as_left() -> None:
    link = PlcLink()
    link.start(0.0)
    link.receive(wire(JoinIndication(b"new", 9, eui(9))) + list_wire((5, 1)) + list_wire(), 0.0)
    assert events(link) == [NodeJoined(9, eui(9), b"new"), NodeJoined(5, eui(1), b"id", from_list=True), NodesListed(2)]


def test_a_list_whose_iterators_do_not_ascend_is_dropped_and_the_timeout_asks_again() -> None:
    link = PlcLink()
    link.start(0.0)
    link.receive(list_wire((5, 1)), 0.0)
    link.receive(list_wire((6, 2), first=0), 0.0)
    assert isinstance(events(link)[-1], ResyncNoted)
    link.on_deadline(LIST_TIMEOUT_S)
    assert events(link) == [BaseNodeSilent(1)]


def test_join_and_leave_indications_are_reported() -> None:
    link = PlcLink()
    link.receive(wire(JoinIndication(b"DCU1", 5, eui(1))), 0.0)
    link.receive(wire(LeaveIndication(5)), 0.0)
    link.receive(wire(LeaveIndication(5)), 0.0)
    assert events(link) == [NodeJoined(5, eui(1), b"DCU1"), NodeLeft(5, eui(1))]


def test_a_node_with_a_new_address_leaves_its_old_one() -> None:
    link = PlcLink()
    link.receive(wire(JoinIndication(b"A", 5, eui(1))), 0.0)
    link.receive(wire(JoinIndication(b"A", 6, eui(1))), 0.0)
    link.receive(wire(JoinIndication(b"B", 6, eui(2))), 0.0)
    joined = [NodeJoined(5, eui(1), b"A"), NodeLeft(5, eui(1)), NodeJoined(6, eui(1), b"A"), NodeLeft(6, eui(1))]
    assert events(link) == [*joined, NodeJoined(6, eui(2), b"B")]
    assert link.nodes == {6: eui(2)}


def test_broadcast_entries_of_the_list_are_not_nodes() -> None:
    link = PlcLink()
    link.start(0.0)
    link.receive(list_wire((0xFFF, 1), (0xFFE, 2), (5, 3)) + list_wire(), 0.0)
    assert events(link) == [NodeJoined(5, eui(3), b"id", from_list=True), NodesListed(1)]


def test_at_most_five_requests_are_in_flight_and_the_next_goes_out_with_a_confirm() -> None:
    link = PlcLink()
    tickets = [link.send(5 + index, b"get", 1, 16, 0.0) for index in range(7)]
    assert sent(link) == [DataRequest(1, 16, 5 + index, b"get") for index in range(IN_FLIGHT_MAX)]
    link.receive(wire(DataConfirm(1, 16, 6, 0)), 1.0)
    assert events(link) == [DataConfirmed(6, 1, 16, tickets[1])]
    assert sent(link) == [DataRequest(1, 16, 10, b"get")]


def test_requests_to_one_node_are_confirmed_in_order() -> None:
    link = PlcLink()
    first, second = link.send(5, b"a", 1, 16, 0.0), link.send(5, b"b", 1, 16, 0.0)
    link.receive(wire(DataConfirm(1, 16, 5, 0)) * 3, 0.0)
    assert events(link) == [DataConfirmed(5, 1, 16, first), DataConfirmed(5, 1, 16, second)]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (0x02, FailReason.NODE_TIMEOUT),
        (0xC0, FailReason.BAD_ADDRESS),
        (0xC1, FailReason.BAD_HANDLER),
        (0x77, FailReason.OTHER_STATUS),
    ],
)
def test_a_confirm_with_a_bad_status_fails_the_request(status: int, reason: FailReason) -> None:
    link = PlcLink()
    ticket = link.send(5, b"a", 1, 16, 0.0)
    link.receive(wire(DataConfirm(1, 16, 5, status)), 0.0)
    assert events(link) == [DataFailed(5, 1, 16, ticket, reason, status)]


def test_a_request_without_a_confirm_fails_after_its_timeout_and_is_never_sent_again() -> None:
    link = PlcLink()
    tickets = [link.send(5, bytes((index,)), 1, 16, 0.0) for index in range(6)]
    assert len(sent(link)) == IN_FLIGHT_MAX
    assert link.next_deadline() == CONFIRM_FIRST_S
    link.on_deadline(CONFIRM_FIRST_S)
    failed = [DataFailed(5, 1, 16, ticket, FailReason.NO_CONFIRM) for ticket in tickets[:IN_FLIGHT_MAX]]
    assert events(link) == failed
    assert sent(link) == [DataRequest(1, 16, 5, b"\x05")]


def busy_link(nodes: int, now: float = 0.0) -> tuple[PlcLink, list[int]]:
    """A listed link with `nodes` nodes from address 5 on, and one request to each."""
    link = PlcLink(reads_topology=False)
    link.start(now)
    link.receive(list_wire(*((5 + index, 1 + index) for index in range(nodes))) + list_wire(), now)
    tickets = [link.send(5 + index, b"get", 1, 16, now) for index in range(nodes)]
    events(link), sent(link)
    return link, tickets


def test_what_is_in_flight_or_waits_for_a_node_that_leaves_fails_at_once_and_the_next_goes_out() -> None:
    link, tickets = busy_link(IN_FLIGHT_MAX + 1)
    second = link.send(5, b"more", 1, 16, 0.0)
    link.receive(wire(LeaveIndication(5)), 0.1)
    assert events(link) == [
        DataFailed(5, 1, 16, tickets[0], FailReason.NODE_LEFT),
        DataFailed(5, 1, 16, second, FailReason.NODE_LEFT),
        NodeLeft(5, eui(1)),
    ]
    assert sent(link) == [DataRequest(1, 16, 5 + IN_FLIGHT_MAX, b"get")]


def test_a_node_that_joins_again_has_lost_what_was_on_its_way() -> None:
    link, tickets = busy_link(IN_FLIGHT_MAX + 1)
    link.receive(wire(JoinIndication(b"id", 5, eui(1))), 0.1)
    assert events(link) == [DataFailed(5, 1, 16, tickets[0], FailReason.NODE_LEFT), NodeJoined(5, eui(1), b"id")]
    assert len(sent(link)) == 1


def test_an_answer_of_the_node_takes_the_place_of_a_confirm_that_was_lost() -> None:
    link, tickets = busy_link(IN_FLIGHT_MAX + 1)
    link.receive(wire(DataIndication(16, 1, 0, 6, b"answer")), 0.1)
    assert events(link) == [DataReceived(6, 16, 1, b"answer"), DataConfirmed(6, 1, 16, tickets[1])]
    assert sent(link) == [DataRequest(1, 16, 5 + IN_FLIGHT_MAX, b"get")]
    link.receive(wire(DataConfirm(1, 16, 6, 0)), 0.2)
    assert events(link) == []


def test_what_a_node_says_to_another_client_confirms_nothing() -> None:
    link, _ = busy_link(IN_FLIGHT_MAX + 1)
    link.receive(wire(DataIndication(17, 1, 0, 6, b"push")), 0.1)
    assert events(link) == [DataReceived(6, 17, 1, b"push")]
    assert sent(link) == []


def test_a_lost_confirm_costs_what_was_learned_of_this_node_and_the_next_time_twice_as_much() -> None:
    link = PlcLink()
    now = 0.0
    for _ in range(20):
        link.send(5, b"a", 1, 16, now)
        link.receive(wire(DataConfirm(1, 16, 5, 0)), now + 0.05)
        now += 0.05
    events(link), sent(link)
    ticket = link.send(5, b"b", 1, 16, now)
    assert link.next_deadline() == now + CONFIRM_SHORTEST_S
    link.on_deadline(now + CONFIRM_SHORTEST_S)
    assert events(link) == [DataFailed(5, 1, 16, ticket, FailReason.NO_CONFIRM)]
    waits = []
    for _ in range(8):
        now += 100.0
        link.send(5, b"b", 1, 16, now)
        deadline = link.next_deadline()
        assert deadline is not None
        waits.append(deadline - now)
        link.on_deadline(deadline)
    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, 40.0, 40.0, 40.0] == [*waits[:5], *[CONFIRM_TIMEOUT_S] * 3]


def test_a_slow_node_makes_no_other_node_s_requests_wait_longer() -> None:
    link = PlcLink()
    now = 0.0
    for _ in range(20):
        link.send(5, b"a", 1, 16, now)
        link.send(6, b"a", 1, 16, now)
        link.receive(wire(DataConfirm(1, 16, 5, 0)), now + 0.05)
        link.receive(wire(DataConfirm(1, 16, 6, 0)), now + 3.0)
        now += 3.0
    link.send(6, b"a", 1, 16, now)
    slow = link.next_deadline()
    link.send(5, b"a", 1, 16, now)
    fast = link.next_deadline()
    assert fast is not None
    assert slow is not None
    assert fast - now < 2.0 < 3.0 <= slow - now


def test_a_confirm_that_comes_late_is_not_taken_for_that_of_the_next_request() -> None:
    link = PlcLink()
    link.send(5, b"a", 1, 16, 0.0)
    link.on_deadline(CONFIRM_FIRST_S)
    second = link.send(5, b"b", 1, 16, CONFIRM_FIRST_S)
    events(link)
    link.receive(wire(DataConfirm(1, 16, 5, 2)), 6.0)
    assert events(link) == []
    link.receive(wire(DataConfirm(1, 16, 5, 0)), 6.1)
    assert events(link) == [DataConfirmed(5, 1, 16, second)]


def test_a_confirm_after_its_timeout_teaches_how_long_confirms_take() -> None:
    link = PlcLink()
    link.send(5, b"a", 1, 16, 0.0)
    link.on_deadline(CONFIRM_FIRST_S)
    link.receive(wire(DataConfirm(1, 16, 5, 0)), 12.0)
    link.send(5, b"b", 1, 16, 12.0)
    deadline = link.next_deadline()
    assert deadline is not None
    assert deadline - 12.0 > 12.0


def test_what_a_busy_base_node_refuses_is_handed_to_it_again_after_a_pause_and_given_up_in_the_end() -> None:
    link = PlcLink()
    ticket = link.send(5, b"a", 1, 16, 0.0)
    now = 0.0
    for attempt in range(BUSY_MAX):
        assert sent(link) == [DataRequest(1, 16, 5, b"a")]
        link.receive(wire(DataConfirm(1, 16, 5, 0xC2)), now)
        assert (events(link), sent(link)) == ([], [])
        now += min(BUSY_PAUSE_MAX_S, BUSY_PAUSE_S * 2**attempt)
        assert link.next_deadline() == now
        link.on_deadline(now)
    link.receive(wire(DataConfirm(1, 16, 5, 0xC2)), now)
    assert events(link) == [DataFailed(5, 1, 16, ticket, FailReason.BUSY, 0xC2)]


def test_after_a_busy_the_next_confirm_lets_the_request_go_at_once() -> None:
    link = PlcLink()
    link.send(5, b"a", 1, 16, 0.0)
    link.send(6, b"b", 1, 16, 0.0)
    sent(link)
    link.receive(wire(DataConfirm(1, 16, 6, 0xC2)), 0.01)
    assert sent(link) == []
    link.receive(wire(DataConfirm(1, 16, 5, 0)), 0.02)
    assert sent(link) == [DataRequest(1, 16, 6, b"b")]


def test_a_base_node_that_restarts_is_listed_at_once_and_what_it_held_is_given_up() -> None:
    link, tickets = busy_link(IN_FLIGHT_MAX + 1)
    link.receive(wire(NetworkEvent(NetworkEventKind.REBOOT, bytes(6), 0, 0, 0, 0, 0, 0)), 20.0)
    failed = [DataFailed(5 + at, 1, 16, tickets[at], FailReason.BASE_NODE_RESTARTED) for at in range(IN_FLIGHT_MAX)]
    noted, restarted, *rest = events(link)
    assert noted == NetworkNoted("reboot", NetworkEventKind.REBOOT, bytes(6), 0, 0, 0, 0, 0, 0)
    assert restarted == BaseNodeRestarted()
    assert rest == failed
    assert sent(link)[0] == ListQuery(ListPib.NODES_432, 32, 0)
    link.receive(list_wire(), 20.1)
    assert [event.address for event in events(link) if isinstance(event, NodeLeft)] == [5, 6, 7, 8, 9, 10]
    assert link.nodes == {}


def test_a_base_node_that_has_forgotten_a_node_is_listed_at_once() -> None:
    link, _ = busy_link(2, now=90.0)
    link.receive(wire(DataConfirm(1, 16, 6, 0)) + wire(DataConfirm(1, 16, 5, 0xC0)), 100.0)
    assert link.next_deadline() == 100.0
    link.on_deadline(100.0)
    assert sent(link) == [ListQuery(ListPib.NODES_432, 32, 0)]


def test_a_node_that_speaks_and_is_on_no_list_has_the_list_read() -> None:
    link, _ = busy_link(1)
    link.receive(wire(DataIndication(16, 1, 0, 77, b"hello")), 100.0)
    link.on_deadline(100.0)
    assert sent(link) == [ListQuery(ListPib.NODES_432, 32, 0)]


def test_doubts_in_swarms_have_the_list_read_once_in_a_while() -> None:
    link, _ = busy_link(1)
    for _ in range(50):
        link.receive(wire(DataIndication(16, 1, 0, 77, b"hello")), 1.0)
    link.receive(wire(DataConfirm(1, 16, 5, 0)), 1.0)
    assert link.next_deadline() == LIST_GAP_S
    link.on_deadline(LIST_GAP_S)
    assert sent(link) == [ListQuery(ListPib.NODES_432, 32, 0)]


def test_a_base_node_that_confirms_nothing_any_more_is_asked_for_its_list() -> None:
    link, _ = busy_link(IN_FLIGHT_MAX)
    link.on_deadline(CONFIRM_FIRST_S)
    assert sent(link) == [ListQuery(ListPib.NODES_432, 32, 0)]


def test_short_requests_go_first_but_do_not_fill_the_flight_while_a_long_one_waits() -> None:
    link = PlcLink()
    short, long = b"s", bytes(SHORT_OCTETS_MAX + 1)
    for index in range(IN_FLIGHT_MAX):
        link.send(5 + index, short, 1, 16, 0.0)
    for index in range(6):
        link.send(20 + index, short if index else long, 1, 16, 0.0)
    sent(link)
    order = []
    for index in range(IN_FLIGHT_MAX):
        link.receive(wire(DataConfirm(1, 16, 5 + index, 0)), 0.1)
        order += [payload.dst for payload in sent(link) if isinstance(payload, DataRequest)]
    assert order[0] == 20  # four short ones are in flight
    assert order[1:] == [21, 22, 23, 24]
    assert SHORT_IN_FLIGHT_MAX < IN_FLIGHT_MAX


def test_requests_to_one_node_keep_their_order_whatever_their_length() -> None:
    link = PlcLink()
    for index in range(IN_FLIGHT_MAX):
        link.send(5 + index, b"s", 1, 16, 0.0)
    long, short = bytes(SHORT_OCTETS_MAX + 1), b"s"
    link.send(30, long, 1, 16, 0.0)
    link.send(30, short, 1, 16, 0.0)
    sent(link)
    for index in range(2):
        link.receive(wire(DataConfirm(1, 16, 5 + index, 0)), 0.1)
    assert [payload for payload in sent(link) if isinstance(payload, DataRequest)] == [
        DataRequest(1, 16, 30, long),
        DataRequest(1, 16, 30, short),
    ]


def test_misuse_is_refused_and_changes_nothing() -> None:
    link = PlcLink()
    for arguments in ((0x1000, b"a", 1, 16), (5, bytes(1022), 1, 16), (5, b"a", 256, 16), (-1, b"a", 1, 16)):
        with pytest.raises(PlcLocalError):
            link.send(*arguments, 0.0)
    assert link.take_output() == b""
    for _ in range(WAITING_MAX + IN_FLIGHT_MAX):
        link.send(5, b"a", 1, 16, 0.0)
    with pytest.raises(PlcLocalError):
        link.send(5, b"a", 1, 16, 0.0)


def test_data_and_network_events_are_reported() -> None:
    link = PlcLink()
    link.receive(wire(DataIndication(16, 1, 0, 5, b"answer")) + wire(NetworkEvent(4, eui(1), 1, 2, 3, 4, 5, 6)), 0.0)
    noted = NetworkNoted("alive", 4, eui(1), sid=1, lnid=2, lsid=3, alive_rx=4, alive_tx=5, alive_time=6)
    assert events(link) == [DataReceived(5, 16, 1, b"answer"), noted]


def test_release_and_whitelist_go_out() -> None:
    link = PlcLink()
    link.release(5, 0.0)
    link.whitelist(Whitelist(Command.WHITELIST_ADD, eui(1)), 0.0)
    assert sent(link) == [ReleaseRequest(5), Whitelist(Command.WHITELIST_ADD, eui(1))]


def test_the_topology_is_read_after_each_list_of_nodes() -> None:
    link = PlcLink()
    link.start(0.0)
    link.receive(list_wire((5, 1)) + list_wire(), 0.0)
    assert sent(link)[-1] == ListQuery(ListPib.REGISTERED_DEVICES, 64, 0)
    device = RegisteredDevice(eui(1), 7, NodeState.SWITCH, 3, 0, 1)
    for pib, record in ((ListPib.REGISTERED_DEVICES, device), (ListPib.PHY_LINKS, PhyLink(7, 0, 1, 80, 20, 2, 0, 5))):
        for records in (((0, record.emit()),), ()):
            answer = ListResponse(pib, record.SIZE if records else 0, records).emit()
            link.receive(UsiFrame(ProtocolId.MNGP_GETRSP_ENHANCED, answer).emit(), 0.1)
    assert events(link)[-1] == TopologyListed(1, 1)
    (entry,) = link.topology.entries
    assert (entry.eui48, entry.level, entry.rx_level, entry.snr, entry.is_switch) == (eui(1), 1, 80, 20, True)


def test_orders_to_the_base_node_wait_for_each_other() -> None:
    link = PlcLink(reads_topology=False)
    link.get_pib(0x8102, 0.0)
    link.promote(eui(1), 0.0)
    link.demote(eui(2), 0.0)
    link.whitelist(Whitelist(Command.WHITELIST_ADD, eui(3)), 0.0)
    assert sent(link) == [MlmeGet(0x8102)]
    link.receive(wire(MlmeGetConfirm(0, 0x8102, b"1.4")), 0.1)
    assert sent(link) == [MlmeSet(0x0065, eui(1))]
    link.receive(wire(MlmeSetConfirm(0)), 0.2)
    assert sent(link) == [MlmeSet(0x0066, eui(2))]
    link.receive(wire(MlmeSetConfirm(3)), 0.3)
    assert sent(link) == [Whitelist(Command.WHITELIST_ADD, eui(3))]
    link.receive(wire(WhitelistAck(Command.WHITELIST_ADD, 0)), 0.4)
    assert events(link) == [
        PibRead(0x8102, 0, b"1.4"),
        PibWritten(0x0065, 0),
        PibWritten(0x0066, 3),
        WhitelistChanged(eui(3), added=True, code=0),
    ]
    assert link.next_deadline() is None


def test_an_order_without_an_answer_is_given_up_and_the_next_one_goes_out() -> None:
    link = PlcLink(reads_topology=False)
    link.set_pib(0x8107, b"\x01", 0.0)
    link.get_pib(0x0024, 0.0)
    sent(link)
    assert link.next_deadline() == ORDER_TIMEOUT_S
    link.on_deadline(ORDER_TIMEOUT_S)
    assert events(link) == [ManagementUnanswered("set", 0x8107)]
    assert sent(link) == [MlmeGet(0x0024)]


def test_what_only_reads_is_asked_again_and_what_changes_something_never() -> None:
    reading = PlcLink(reads_topology=False)
    reading.get_pib(0x0024, 0.0)
    assert [one for _, one in queries_until(reading, ORDER_TIMEOUT_S)] == 2 * [MlmeGet(0x0024)]
    assert events(reading) == [ManagementUnanswered("get", 0x0024)]
    reading.get_pib(0x0024, 10.0)
    queries_until(reading, 14.0)  # twice as late as before
    reading.receive(wire(MlmeGetConfirm(0, 0x0024, b"1")), 14.1)
    reading.receive(wire(MlmeGetConfirm(0, 0x0024, b"1")), 14.1)
    assert events(reading) == [PibRead(0x0024, 0, b"1")]
    link = PlcLink(reads_topology=False)
    link.set_pib(0x8107, b"\x01", 0.0)
    link.whitelist(Whitelist(Command.WHITELIST_ADD, eui(3)), 0.0)
    whole = [MlmeSet(0x8107, b"\x01"), Whitelist(Command.WHITELIST_ADD, eui(3))]
    assert [one for _, one in queries_until(link, 3 * ORDER_TIMEOUT_S)] == whole


def test_a_list_of_the_topology_that_is_lost_is_asked_again() -> None:
    link = PlcLink()
    link.start(0.0)
    link.receive(list_wire(), 0.0)
    query = ListQuery(ListPib.REGISTERED_DEVICES, 64, 0)
    assert queries_until(link, repeats.REPEAT_FIRST_S)[1:] == [(0.0, query), (repeats.REPEAT_FIRST_S, query)]
    for pib in (ListPib.REGISTERED_DEVICES, ListPib.PHY_LINKS):
        link.receive(UsiFrame(ProtocolId.MNGP_GETRSP_ENHANCED, ListResponse(pib, 0, ()).emit()).emit(), 2.1)
    assert events(link)[-1] == TopologyListed(0, 0)


def test_every_split_of_the_stream_gives_the_same_events() -> None:
    stream = b"noise" + list_wire((5, 1), (6, 2)) + wire(JoinIndication(b"A", 7, eui(7)))[:-4]
    stream += wire(DataIndication(16, 1, 0, 5, b"answer~}")) + wire(LeaveIndication(6)) + list_wire()

    def run(pieces: list[bytes]) -> list[NodeEvent]:
        link = PlcLink()
        link.start(0.0)
        for piece in pieces:
            link.receive(piece, 1.0)
        return events(link)

    whole = run([stream])
    assert NodeLeft(6, eui(2)) in whole
    for pieces in [*all_splits(stream), *random_splits(stream, random.Random(1), 30)]:
        assert run(pieces) == whole


def test_damaged_streams_never_raise_and_the_picture_is_right_again_after_the_next_list() -> None:
    pick = random.Random(9)
    for round_number in range(200):
        link = PlcLink()
        link.start(0.0)
        stream = bytearray(list_wire((5, 1), (6, 2)) + wire(JoinIndication(b"A", 7, eui(7))) + list_wire())
        for _ in range(pick.randrange(1, 6)):
            stream[pick.randrange(len(stream))] = pick.randrange(256)
        link.receive(bytes(stream), 1.0)
        now = 2.0
        for _ in range(4):
            deadline = link.next_deadline()
            assert deadline is not None, round_number
            now = max(now, deadline)
            link.on_deadline(now)
        link.list_nodes(now)
        link.receive(b"\x7e" + list_wire((5, 1), (6, 2)), now)
        link.receive(list_wire(), now)
        assert link.nodes == {5: eui(1), 6: eui(2)}
