"""The registry at work over simulated lines, in virtual time: who is read, what is learned, what a network is like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.daemon.control import ControlError
from agent.daemon.views.networks import NetworkViews, forget_meter, meter_documents, network_documents
from agent.metering.events import scaler_check
from agent.metering.registry.history import EVENTS_MAX, FLUSH_S, SEGMENT_EVENTS, NetworkHistory
from agent.metering.store import reading_store
from agent.settings.config import PortMeterConfig
from agent.settings.provisioning import AddedMeter
from plc.prime.messages import NetworkEventKind
from tests.agent.metering.test_collector import (
    BUS,
    EVERY_S,
    PASSWORD,
    ROWS,
    BusRig,
    PlcRig,
    metering,
    provisioning,
    task,
)
from tests.sim.meters import SimMeter
from tests.sim.plc_network import FIRST_ADDRESS, eui48_of
from tests.sim.rs485_bus import Station

RUN = 1_800_000_000
ENERGY = "1.0.1.8.0.255"


def inventoried(tmp_path: Path, meters: int = 2) -> PlcRig:
    return PlcRig(tmp_path, meters=meters, config=replace(metering(tmp_path), inventory=True))


# --- who is read ---


def test_only_listed_meters_are_read_and_the_list_is_followed_live(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path)
    first, second, third = (meter.id for meter in rig.meters)
    listed = replace(provisioning(), whitelist=(first, eui48_of(2).hex()), whitelist_enforced=True)
    rig.collector.configure(listed)
    rig.run(60)
    assert rig.count() == {(first, RUN): 108, (second, RUN): 108}
    assert rig.statuses() == {first: "read", second: "read", third: "unlisted"}
    assert rig.collector.task_status("t1").last_result == "2 of 2 read", "who is not listed is not missed"
    rig.collector.configure(replace(listed, whitelist=(first, second, third)))
    rig.run(60)
    assert rig.statuses()[third] == "read"


def test_a_list_of_the_configuration_holds_before_anything_is_provisioned(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, config=replace(metering(tmp_path), whitelist=(eui48_of(1).hex(),)))
    rig.collector.configure(provisioning())
    rig.run(60)
    assert rig.count() == {(rig.meters[0].id, RUN): 108}
    assert sorted(rig.statuses().values()) == ["read", "unlisted", "unlisted"]


def test_a_meter_behind_a_base_node_is_expected_until_it_joins(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    away = eui48_of(9).hex()
    for eui48 in (eui48_of(1).hex(), away):
        rig.collector.add(AddedMeter("plc0", eui48=eui48))
    rig.collector.configure(replace(provisioning(), whitelist_enforced=True))
    rig.run(60)
    assert rig.statuses() == {rig.meters[0].id: "read", away: "expected"}
    assert rig.collector.task_status("t1").last_result == "1 of 2 read, 1 absent"


def test_a_meter_outside_the_scan_is_read_once_it_is_added_and_not_after_it_is_removed(tmp_path: Path) -> None:
    rig = BusRig(tmp_path, addresses=(17, 33), port=BUS)
    rig.collector.configure(provisioning())
    rig.run(60)
    assert set(rig.statuses()) == {rig.meters[0].id}
    rig.collector.add(AddedMeter("rs485", 33))
    rig.run(60)
    far = rig.meters[1].id
    assert rig.statuses()[far] == "read"
    rig.restart()
    rig.collector.configure(provisioning())
    rig.run(EVERY_S)
    assert (far, RUN + EVERY_S) in rig.count(), "it is known after a restart"
    assert forget_meter(rig.collector, far)
    assert not forget_meter(rig.collector, far)
    rig.run(2 * EVERY_S)
    assert far not in rig.statuses()
    assert rig.store.knowledge("rs485/33") is None
    assert (far, RUN + 3 * EVERY_S) not in rig.count()


def test_a_meter_that_the_tree_adds_goes_when_the_tree_drops_it(tmp_path: Path) -> None:
    rig = BusRig(tmp_path, addresses=(17, 33), port=BUS)
    rig.collector.configure(replace(provisioning(), added=(AddedMeter("rs485", 33),)))
    rig.run(60)
    assert rig.statuses()[rig.meters[1].id] == "read"
    rig.collector.configure(provisioning())
    assert set(rig.statuses()) == {rig.meters[0].id}


def test_a_wport_of_a_meter_is_its_logical_device() -> None:
    bus = replace(BUS, meters=(PortMeterConfig(17, "", 9600, "none"),))
    assert bus.meter(17) is not None
    assert bus.meter(18) is None


# --- what is learned ---


def test_a_meter_is_asked_what_it_is_once_the_line_is_quiet_and_never_before_it_is_read(tmp_path: Path) -> None:
    rig = inventoried(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(25)
    devices = [rig.collector.devices.device(meter.key) for meter in rig.registry.known()]
    assert [device.counters.read for device in devices] == [1, 1]
    assert not any(device.checked for device in devices), "the line was not quiet for long enough"
    assert all(device.offered for device in devices)
    rig.run(60)
    assert all(device.checked for device in devices)
    assert all(device.objects_for is not None for device in devices)
    assert all(device.object_count or device.objects_why for device in devices)
    assert rig.count() == {(meter.id, RUN): 108 for meter in rig.meters}, "and readings are as they were"
    assert [meter.model for meter in rig.collector.meters()] == [device.model for device in devices]


def test_a_bus_is_quiet_only_some_time_after_its_last_visit(tmp_path: Path) -> None:
    rig = BusRig(tmp_path)
    rig.config = replace(rig.config, inventory=True)
    rig.restart()
    rig.collector.configure(provisioning())
    rig.run(300, until=lambda: len(rig.count()) == 2)
    devices = [rig.collector.devices.device(meter.key) for meter in rig.registry.known()]
    rig.run(20)
    assert not any(device.checked for device in devices)
    rig.run(120)
    assert all(device.checked for device in devices)


def energies(rig: BusRig) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = rig.records()
    return [record for record in records if record["obis"] == ENERGY]


def all_events(rig: BusRig) -> list[dict[str, Any]]:
    return rig.store.events(10)


@pytest.mark.slow
@pytest.mark.parametrize("most", [scaler_check.SCALERS_MAX, 7])
def test_a_scaler_that_is_another_one_is_found_out_within_a_day_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """A meter behind transformers was set to show primary values: nothing else about it changed."""
    monkeypatch.setattr(scaler_check, "SCALERS_MAX", most)  # some meters have more than are asked for in a visit
    rig = BusRig(tmp_path, addresses=(17,))
    rig.config = replace(rig.config, inventory=True)
    rig.restart()
    rig.collector.configure(provisioning(task(every_s=6 * 3600)))
    rig.run(300)
    scaled = [replace(row, scaler=(row.scaler or 0) + 2) if str(row.obis) == ENERGY else row for row in ROWS]
    other = SimMeter(17, scaled, 3, PASSWORD)
    rig.network.stations[0] = Station(other, 17, 128, 1)
    rig.network.meters = {other.id: other}
    rig.run(2 * 86_400)
    told: list[tuple[int, int]] = [(record["run"], record["scaler"]) for record in energies(rig)]
    first = told[0][1]
    assert {scaler for run, scaler in told if run > RUN + 86_400 + 6 * 3600} == {first + 2}
    (event,) = [event for event in all_events(rig) if event["name"] == "scaler changed"]
    assert (event["event"], event["obis"], event["grave"]) == ("notice", ENERGY, True)
    assert [value["raw"] for value in event["values"]] == [
        f"before 10^{first}, unit 30",
        f"now 10^{first + 2}, unit 30",
    ]
    rig.restart()  # and it is kept
    rig.collector.configure(provisioning(task(every_s=6 * 3600)))
    rig.run(6 * 3600)
    assert energies(rig)[-1]["scaler"] == first + 2


def test_what_a_meter_is_asked_in_idle_time_is_no_failure_when_it_is_mute(tmp_path: Path) -> None:
    rig = inventoried(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(25)
    rig.network.faults.mute = frozenset({rig.meters[0].id})
    rig.run(300)
    assert rig.statuses() == {rig.meters[0].id: "read"}
    key = rig.registry.known()[0].key
    assert rig.collector.devices.device(key).counters.timeout >= 1


def test_failures_are_counted_by_kind_and_kept(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=2)
    rig.network.faults.mute = frozenset({rig.meters[0].id})
    rig.collector.configure(provisioning(secret=b"wrong"))
    rig.run(200)
    rig.restart()
    kinds = {}
    for about in meter_documents(rig.collector):
        counters = about["counters"]
        assert isinstance(counters, dict)
        kinds[about["eui48"]] = {kind for kind, count in counters.items() if count and kind != "read"}
    assert kinds == {eui48_of(1).hex(): {"timeout"}, eui48_of(2).hex(): {"auth"}}


# --- the network ---


def test_the_picture_has_levels_switches_signal_and_names(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=3)
    rig.collector.configure(provisioning())
    rig.run(20)
    rig.collector.network.order("plc0", "promote", value=eui48_of(1))
    rig.run(5)
    rig.network.hang(FIRST_ADDRESS + 1, below=FIRST_ADDRESS)
    rig.run(905)  # until the lists are read again
    nodes = {node.eui48: node for node in rig.collector.network.picture("plc0").nodes}
    switch, below = nodes[eui48_of(1).hex()], nodes[eui48_of(2).hex()]
    assert (switch.state, switch.level, switch.meter_id, switch.promotions) == ("switch", 0, rig.meters[0].id, 1)
    assert (below.state, below.level, below.path) == ("terminal", 1, (switch.eui48,))
    assert (below.rx_level, below.snr, below.modulation) == (10 + FIRST_ADDRESS + 1, 5, "DBPSK_C")
    assert 0 < rig.clock.wall() - below.last_heard < 950
    rig.collector.registry.name(f"plc0/{switch.eui48}", "KEP0099")  # another meter is behind that modem
    renamed = rig.collector.network.node("plc0", switch.eui48)
    assert renamed is not None
    assert renamed.meter_id == "KEP0099"
    kinds = [change.kind for change in rig.collector.network.history("plc0")]
    assert kinds == [*["joined"] * 3, "promote", "order promote", "register"]


def test_history_outlives_a_restart_and_is_bounded(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(20)
    node = next(iter(rig.network._nodes.values()))
    for _ in range(EVENTS_MAX + SEGMENT_EVENTS):
        rig.network.happen(NetworkEventKind.PROMOTE, node)
        rig.run(1)
    rig.run(int(FLUSH_S) + 2)
    before = rig.collector.network.history("plc0")
    assert len(before) == EVENTS_MAX
    rig.reader.close()
    rig.store.close()
    rig.start()  # without the orderly end of the collector
    after = rig.collector.network.history("plc0")
    assert after == before[-len(after) :]
    assert len(after) >= EVENTS_MAX - SEGMENT_EVENTS


def test_a_damaged_row_of_history_costs_its_events_alone(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    history = NetworkHistory(rig.store, "plc0")
    for number in range(2 * SEGMENT_EVENTS):
        history.note("promote", 0.0, float(number))
    history.flush(0.0)
    rig.store.append((), (), {"network/plc0/0": {"events": "nonsense"}})
    kept = NetworkHistory(rig.store, "plc0").changes
    assert [change.seq for change in kept] == list(range(SEGMENT_EVENTS, 2 * SEGMENT_EVENTS))
    history = NetworkHistory(rig.store, "plc0")
    history.note("demote", 0.0, 5.0)
    assert history.changes[-1].seq == 2 * SEGMENT_EVENTS


def test_orders_to_the_base_node_are_answered_by_state(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(20)
    rig.network.pib[0x0020] = b"\x01\x02"
    views = NetworkViews(rig.collector, may_change=True).handlers()
    asked = [
        views["network-order"]({"port": "plc0", "kind": "get", "pib": 0x0020}),
        views["network-order"]({"port": "plc0", "kind": "get", "pib": 0x0021}),
        views["network-order"]({"port": "plc0", "kind": "set", "pib": 0x0030, "value": "0a0b"}),
        views["network-order"]({"port": "plc0", "kind": "allow", "value": "02:dc:00:00:00:07"}),
        views["network-order"]({"port": "plc0", "kind": "promote", "value": "02dc00000063"}),
    ]
    rig.run(5)
    results = [views["network-result"]({"number": order["number"]}) for order in asked]  # type: ignore[index]
    assert [(it["state"], it["answer"]) for it in results] == [  # type: ignore[index]
        ("done", "0102"),
        ("failed", "status 0x01"),
        ("done", ""),
        ("done", ""),
        ("failed", "status 0x01"),
    ]
    assert rig.network.pib[0x0030] == b"\x0a\x0b"
    assert rig.network.admitted == {eui48_of(7)}
    (shown,) = network_documents(rig.collector, ["plc0"])
    orders = shown["orders"]
    assert isinstance(orders, list)
    assert [(it["kind"], it["state"]) for it in orders[:2]] == [("promote", "failed"), ("allow", "done")]


def test_an_order_that_may_change_something_needs_the_permission(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    views = NetworkViews(rig.collector, may_change=False).handlers()
    for wanted in ({"kind": 5}, {"kind": "get", "value": "xy"}, {"kind": "fly"}, {"kind": "promote", "value": "01"}):
        with pytest.raises(ControlError):
            views["network-order"]({"port": "plc0", **wanted})
    with pytest.raises(ControlError, match=r"orders\.change"):
        views["network-order"]({"port": "plc0", "kind": "promote", "value": eui48_of(1).hex()})
    views["network-order"]({"port": "plc0", "kind": "get", "pib": 1})


def test_a_port_without_a_management_plane_says_so(tmp_path: Path) -> None:
    rig = BusRig(tmp_path)
    rig.run(5)
    order = rig.collector.network.order("rs485", "get", pib=1)
    rig.run(5)
    assert rig.collector.network.result(order.number).state == "failed"
    (shown,) = network_documents(rig.collector)
    assert (shown["port"], shown["at"], shown["nodes"]) == ("rs485", 0.0, ())


def test_what_belongs_to_no_meter_outlives_the_tidying_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = inventoried(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(120)
    rig.network.happen(NetworkEventKind.PROMOTE, next(iter(rig.network._nodes.values())))
    rig.run(30)
    key = rig.registry.known()[0].key
    before = rig.collector.devices.objects(key), rig.collector.network.history("plc0")
    assert before[0] is not None
    monkeypatch.setattr(reading_store, "REMEMBERED_MAX", 0)
    rig.collector.configure(provisioning(replace(provisioning().tasks[0], task_id="t2")))
    rig.run(5)
    assert rig.store.knowledge(f"{key}#device") is not None
    rig.restart()
    assert (rig.collector.devices.objects(key), rig.collector.network.history("plc0")) == before
