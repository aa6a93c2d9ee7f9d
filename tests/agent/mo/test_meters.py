"""The nodes of meters, registry and networks: what a server reads, provisions and has done."""

from __future__ import annotations

import json

import pytest

from agent.mo.ami import provisioning_from_tree
from agent.mo.meters import ROOT
from agent.settings.provisioning import AddedMeter
from agent.status import MeterStatus
from agent.tree.schema import ExecCall
from omadm.codes import Code, Refusal
from tests.agent.dm.server import FakeDmServer
from tests.agent.dm_device import Device

DETAIL = {
    "firmware": "V1.2",
    "offered": {"pdu_size": 512, "selective_access": True},
    "objects": {"count": 2, "digest": "ab", "why_none": ""},
    "counters": {"read": 3, "timeout": 1},
    "node": None,
}
NETWORK = {
    "port": "plc0",
    "at": 5.0,
    "listed": 4.5,
    "nodes": [
        {"eui48": "02dc00000001", "registered": True, "state": "switch"},
        {"eui48": "02dc00000002", "registered": True, "state": "terminal"},
        {"eui48": "02dc00000003", "registered": False, "state": "disconnected"},
    ],
    "history": [{"seq": 1, "kind": "promote"}],
}


@pytest.fixture
def device() -> Device:
    made = Device(FakeDmServer())
    made.meters.append(MeterStatus("KFM/1", "plc0", 17, "read", 1.0, model="KFM V1.2"))
    made.meter_details["KFM/1"] = DETAIL
    made.networks.append(NETWORK)
    return made


def value(device: Device, uri: str) -> str:
    found = device.tree.view()
    return str(found.value(found.get(tuple(uri.split("/")))))


def test_a_meter_says_what_it_is_and_can(device: Device) -> None:
    base = "AMI/Meter/KFM%2F1"
    assert value(device, f"{base}/Model") == "KFM V1.2"
    assert value(device, f"{base}/Firmware") == "V1.2"
    assert json.loads(value(device, f"{base}/Offered")) == DETAIL["offered"]
    assert json.loads(value(device, f"{base}/Objects"))["count"] == 2
    assert json.loads(value(device, f"{base}/Counters")) == {"read": 3, "timeout": 1}
    assert json.loads(value(device, f"{base}/Node")) is None


def test_all_meters_are_read_in_one_leaf(device: Device) -> None:
    assert json.loads(value(device, "AMI/Registry/Meters")) == [DETAIL]


def test_a_network_is_read_in_one_leaf(device: Device) -> None:
    assert value(device, "AMI/Network/plc0/Nodes") == "2"
    assert value(device, "AMI/Network/plc0/Switches") == "1"
    assert value(device, "AMI/Network/plc0/Listed") == "4"
    assert json.loads(value(device, "AMI/Network/plc0/Topology")) == NETWORK["nodes"]
    assert json.loads(value(device, "AMI/Network/plc0/History")) == NETWORK["history"]
    with pytest.raises(Refusal):
        value(device, "AMI/Network/plc1/Nodes")


def test_a_whitelist_and_meters_to_come_are_provisioned(device: Device) -> None:
    with device.tree.transaction() as changing:
        changing.put((*ROOT, "Whitelist", "Enforce"), "true")
        changing.put((*ROOT, "Whitelist", "Entry", "KFM0001"), "")
        changing.put((*ROOT, "Whitelist", "Entry", "all"), "")
        changing.put((*ROOT, "Whitelist", "Entry", "all", "Id"), "plc0/*")
        changing.put((*ROOT, "Add", "a"), "")
        for leaf, text in (("Port", "rs485"), ("Address", "17"), ("ModeE", "true"), ("ModeEAddress", "123")):
            changing.put((*ROOT, "Add", "a", leaf), text)
        changing.put((*ROOT, "Add", "b"), "")
        changing.put((*ROOT, "Add", "b", "EUI48"), "02dc00000001")
    found = provisioning_from_tree(device.tree.view())
    assert found.whitelist_enforced
    assert set(found.whitelist) == {"KFM0001", "plc0/*"}
    assert set(found.added) == {AddedMeter("rs485", 17, mode_e="123"), AddedMeter("", eui48="02dc00000001")}


def test_a_meter_is_forgotten_by_exec(device: Device) -> None:
    def forget(data: str) -> Code:
        call = ExecCall((*ROOT, "Operations", "Forget"), "", data)
        with device.tree.transaction() as changing:
            return device.objects.registry.execute(changing, call)

    assert forget(" KFM/1 ") == Code.OK
    assert device.forgotten == ["KFM/1"]
    with pytest.raises(Refusal) as caught:
        forget("KFM/9")
    assert caught.value.code == Code.NOT_FOUND
    with pytest.raises(Refusal), device.tree.transaction() as changing:
        device.objects.registry.execute(changing, ExecCall((*ROOT, "Whitelist"), "", "KFM/1"))


def test_a_base_node_is_given_an_order_by_exec(device: Device) -> None:
    def order(data: str, *, port: str = "plc0", name: str = "Order") -> Code:
        call = ExecCall(("AMI", "Network", port, "Operations", name), "", data)
        with device.tree.transaction() as changing:
            return device.objects.registry.execute(changing, call)

    assert order('{"kind": "get", "pib": 80}') == Code.ACCEPTED
    assert device.network_orders == [("plc0", {"kind": "get", "pib": 80})]
    for data in ("", "[]", "{", "[" * 100_000):
        with pytest.raises(Refusal) as caught:
            order(data)
        assert caught.value.code == Code.BAD_REQUEST
    with pytest.raises(Refusal) as caught:
        order("{}", name="Other")
    assert caught.value.code == Code.NOT_ALLOWED
    assert json.loads(value(device, "AMI/Network/plc0/Orders")) == []
