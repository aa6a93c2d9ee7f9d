"""The picture of a PRIME network: from lists, from events, and the orders that read and change it."""

from __future__ import annotations

import pytest

from plc.errors import PlcDecodeError, PlcLocalError
from plc.events import ManagementUnanswered, NodeEvent, PibRead, TopologyListed, WhitelistChanged
from plc.prime.lists import ListPib, ListQuery, ListResponse
from plc.prime.management import LIST_RECORDS_MAX, ORDER_TIMEOUT_S, ORDERS_MAX, Management
from plc.prime.messages import (
    Command,
    MlmeGet,
    MlmeGetConfirm,
    MlmeSetConfirm,
    NetworkEvent,
    NetworkEventKind,
    Whitelist,
    WhitelistAck,
)
from plc.prime.topology import HISTORY_MAX, LSID_NONE, NODES_MAX, NodeState, PhyLink, RegisteredDevice, Topology
from plc.prime.usi import UsiDecoder, UsiFrame


def eui(number: int) -> bytes:
    return number.to_bytes(6, "big")


def happening(kind: int, node: int, *, sid: int = 0, lnid: int = 1, lsid: int = LSID_NONE) -> NetworkEvent:
    return NetworkEvent(kind, eui(node), sid, lnid, lsid, 3, 4, 5)


def device(node: int, *, sid: int = 0, lsid: int = LSID_NONE, level: int = 0, lnid: int = 1) -> RegisteredDevice:
    state = NodeState.TERMINAL if lsid == LSID_NONE else NodeState.SWITCH
    return RegisteredDevice(eui(node), lnid, state, lsid, sid, level)


def events(management: Management) -> list[NodeEvent]:
    found: list[NodeEvent] = []
    while (event := management.next_event()) is not None:
        found.append(event)
    return found


def queries(management: Management) -> list[ListQuery]:
    decoder = UsiDecoder()
    decoder.feed(management.take_output())
    return [ListQuery.parse(frame.data) for frame in iter(decoder.next, None) if isinstance(frame, UsiFrame)]


def test_a_node_registers_is_promoted_demoted_and_leaves() -> None:
    topology = Topology()
    states = []
    for kind in (0, 2, 4, 3, 2, 1):
        topology.happened(happening(kind, 1, lsid=9 if kind == 2 else LSID_NONE), 1.0)
        (entry,) = topology.entries
        states.append((entry.state, entry.registered))
    assert states == [(1, True), (2, True), (2, True), (1, True), (2, True), (0, False)]
    assert (entry.promotions, entry.registrations, entry.alive_rx, entry.alive_tx) == (2, 1, 3, 4)
    assert [happened.event.event for happened in topology.history] == [0, 2, 4, 3, 2, 1]


@pytest.mark.parametrize("kind", [NetworkEventKind.NO_KEY, NetworkEventKind.UNKNOWN_NODE, NetworkEventKind.ERROR, 77])
def test_a_node_that_was_not_let_in_has_no_place_but_is_remembered(kind: int) -> None:
    topology = Topology()
    topology.happened(happening(kind, 1), 1.0)
    assert topology.entries == ()
    assert len(topology.history) == 1


def test_after_a_restart_of_the_base_node_nobody_is_registered_until_he_says_so() -> None:
    topology = Topology()
    topology.devices_listed([device(1, level=2), device(2)])
    topology.happened(happening(NetworkEventKind.REBOOT, 0), 1.0)
    assert [(entry.registered, entry.level) for entry in topology.entries] == [(False, None), (False, None)]
    topology.happened(happening(NetworkEventKind.REGISTER, 1), 2.0)
    assert {entry.eui48 for entry in topology.entries if entry.registered} == {eui(1)}


def test_the_list_says_who_is_there_and_at_which_level() -> None:
    topology = Topology()
    topology.happened(happening(NetworkEventKind.REGISTER, 1), 1.0)
    topology.devices_listed([device(2, sid=4, level=3), device(2, sid=5, level=1)])
    entries = {entry.eui48: entry for entry in topology.entries}
    assert not entries[eui(1)].registered
    assert (entries[eui(2)].registered, entries[eui(2)].sid, entries[eui(2)].level) == (True, 5, 1)


def test_what_was_heard_of_a_node_is_forgotten_when_it_hangs_elsewhere() -> None:
    topology = Topology()
    topology.devices_listed([device(1, level=1)])
    topology.links_listed([PhyLink(1, 0, 0, 80, 20, 0, 0, 0), PhyLink(1, 7, 0, 1, 1, 0, 0, 0)])
    assert [(entry.rx_level, entry.snr, entry.level) for entry in topology.entries] == [(80, 20, 1)]
    topology.happened(happening(NetworkEventKind.ALIVE, 1), 1.0)
    assert [(entry.rx_level, entry.snr, entry.level) for entry in topology.entries] == [(80, 20, 1)]
    topology.happened(happening(NetworkEventKind.REGISTER, 1, sid=7), 2.0)
    assert [(entry.rx_level, entry.snr, entry.level) for entry in topology.entries] == [(None, None, None)]


def test_the_way_to_a_node_goes_over_its_switches() -> None:
    topology = Topology()
    topology.devices_listed([device(1, lsid=10), device(2, sid=10, lsid=20, level=1), device(3, sid=20, level=2)])
    assert topology.path(eui(3)) == (eui(2), eui(1))
    assert topology.path(eui(1)) == topology.path(eui(99)) == ()


def test_a_picture_that_runs_in_a_circle_or_lacks_a_switch_ends_the_way() -> None:
    topology = Topology()
    topology.devices_listed(
        [device(1, sid=20, lsid=10), device(2, sid=10, lsid=20), device(3, sid=20), device(4, sid=9)]
    )
    assert topology.path(eui(3)) == (eui(2), eui(1))
    assert topology.path(eui(1)) == (eui(2),)
    assert topology.path(eui(4)) == ()


def test_history_and_picture_are_bounded() -> None:
    topology = Topology()
    for number in range(NODES_MAX + 5):
        topology.happened(happening(NetworkEventKind.REGISTER, 1 + number), float(number))
    assert len(topology.entries) == NODES_MAX
    assert len(topology.history) == HISTORY_MAX
    assert topology.history[-1].at == NODES_MAX + 4


# ---- orders


def answer(pib: int, first: int, *records: RegisteredDevice | PhyLink) -> ListResponse:
    size = records[0].SIZE if records else 0
    return ListResponse(pib, size, tuple((first + at, record.emit()) for at, record in enumerate(records)))


def test_both_lists_are_read_piece_by_piece_and_once_at_a_time() -> None:
    topology = Topology()
    management = Management(topology)
    management.read_topology(0.0)
    management.read_topology(0.0)
    assert queries(management) == [ListQuery(ListPib.REGISTERED_DEVICES, LIST_RECORDS_MAX, 0)]
    management.listed(answer(ListPib.REGISTERED_DEVICES, 3, device(1), device(2)), 0.1)
    assert queries(management) == [ListQuery(ListPib.REGISTERED_DEVICES, LIST_RECORDS_MAX, 5)]
    management.listed(answer(ListPib.REGISTERED_DEVICES, 0), 0.2)
    assert queries(management) == [ListQuery(ListPib.PHY_LINKS, LIST_RECORDS_MAX, 0)]
    assert not topology.path(eui(1))
    management.listed(answer(ListPib.PHY_LINKS, 0), 0.3)
    assert events(management) == [TopologyListed(2, 0)]
    assert len(topology.entries) == 2
    assert management.next_deadline() is None


def test_half_a_list_changes_nothing_of_the_picture() -> None:
    topology = Topology()
    topology.devices_listed([device(9)])
    management = Management(topology)
    management.read_topology(0.0)
    management.listed(answer(ListPib.REGISTERED_DEVICES, 0, device(1)), 0.1)
    management.on_deadline(0.1 + ORDER_TIMEOUT_S)
    assert events(management) == [ManagementUnanswered("list", ListPib.REGISTERED_DEVICES)]
    assert [entry.eui48 for entry in topology.entries if entry.registered] == [eui(9)]
    management.read_topology(10.0)
    for pib in (ListPib.REGISTERED_DEVICES, ListPib.PHY_LINKS):
        management.listed(answer(pib, 0), 10.1)
    assert events(management) == [TopologyListed(0, 0)]


def test_a_list_that_goes_round_in_circles_is_refused() -> None:
    management = Management(Topology())
    management.read_topology(0.0)
    management.listed(answer(ListPib.REGISTERED_DEVICES, 0, device(1)), 0.1)
    with pytest.raises(PlcDecodeError):
        management.listed(answer(ListPib.REGISTERED_DEVICES, 0, device(1)), 0.2)


def test_answers_to_nothing_that_was_asked_are_dropped() -> None:
    management = Management(Topology())
    strays = (MlmeSetConfirm(0), MlmeGetConfirm(0, 1, b""), WhitelistAck(Command.WHITELIST_ADD, 0))
    for stray in strays:
        management.answered(stray, 0.0)
    management.give(MlmeGet(7), 0.0)
    for stray in strays:
        management.answered(stray, 0.0)
    management.listed(answer(ListPib.REGISTERED_DEVICES, 0, device(1)), 0.0)
    assert events(management) == []
    management.answered(MlmeGetConfirm(2, 7, b"old"), 0.0)
    assert events(management) == [PibRead(7, 2, b"")]


def test_a_whitelist_entry_is_refused_by_name() -> None:
    management = Management(Topology())
    management.give(Whitelist(Command.WHITELIST_REMOVE, eui(5)), 0.0)
    management.answered(WhitelistAck(Command.WHITELIST_REMOVE, 1), 0.1)
    assert events(management) == [WhitelistChanged(eui(5), added=False, code=1)]


def test_an_order_that_a_restart_of_the_base_node_meets_is_not_answered() -> None:
    management = Management(Topology())
    management.give(Whitelist(Command.WHITELIST_ADD, eui(5)), 0.0)
    management.give(MlmeGet(7), 0.0)
    management.restarted(0.1)
    assert events(management) == [ManagementUnanswered("whitelist", 0, eui(5))]
    management.on_deadline(0.1 + ORDER_TIMEOUT_S)
    assert events(management) == [ManagementUnanswered("get", 7)]


def test_only_so_many_orders_wait() -> None:
    management = Management(Topology())
    for _ in range(1 + ORDERS_MAX):
        management.give(MlmeGet(7), 0.0)
    with pytest.raises(PlcLocalError):
        management.give(MlmeGet(7), 0.0)
