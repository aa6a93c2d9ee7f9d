"""Meters added by hand: what is taken, what is refused, and what a power cut leaves."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.metering.registry.added import AddedMeters, parse
from agent.metering.registry.registry import Registry
from agent.settings.config import PortConfig, PortMeterConfig, ScanConfig
from agent.settings.provisioning import AddedMeter
from plc.protocols import HDLC, PRIME_USI, WRAPPER, WRAPPER_UDP
from tests.agent.virtual import VirtualClock
from tests.sim.faulty_disk import FaultyDisk, Operation, PowerCut, Survival
from updateagent.disk import RealDisk

PORTS = (
    PortConfig("plc0", PRIME_USI, "/dev/plc", 115_200),
    PortConfig("rs485", HDLC, "/dev/bus", 9600, scan=ScanConfig(16, 20)),
    PortConfig("server", HDLC, "socket://10.0.0.1:4001", 9600, scan=ScanConfig(16, 20)),
    PortConfig("tcp", WRAPPER, "", 115_200),
    PortConfig("g3", WRAPPER_UDP, "", 115_200, options={"pan_id": 0x781D, "interface": "plc0"}),
)
EUI = "02dc00000001"


class Rig:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = VirtualClock()
        self.open()

    def open(self) -> None:
        self.registry = Registry(RealDisk(), self.folder / "meters.json", self.clock, leave_after_s=60.0)
        self.added = AddedMeters(RealDisk(), self.folder / "added.json", PORTS, self.registry)

    def port(self, name: str) -> PortConfig:
        return next(port for port in self.added.ports if port.name == name)

    def keys(self) -> list[str]:
        return sorted(meter.key for meter in self.registry.known())


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


GOOD = (
    (AddedMeter("plc0", eui48="02:DC:00:00:00:01"), f"plc0/{EUI}"),
    (AddedMeter("rs485", 17), "rs485/17"),
    (AddedMeter("rs485", 99, baudrate=19_200, parity="even"), "rs485/99"),
    (AddedMeter("rs485", 18, mode_e="123"), "rs485/18"),
    (AddedMeter("server", 17), "server/17"),
    (AddedMeter("tcp", 3, url="socket://10.0.0.9:4059", wport=17), "tcp/3"),
    (AddedMeter("g3", 0x12), "g3/18"),
    (AddedMeter("g3", 5, url="udp://[fd00::5]:4059"), "g3/5"),
)


@pytest.mark.parametrize(("meter", "key"), GOOD)
def test_a_meter_is_known_before_it_was_heard_and_after_a_restart(rig: Rig, meter: AddedMeter, key: str) -> None:
    assert rig.added.add(meter) == key
    assert rig.added.keys == {key}
    for _ in range(2):
        assert rig.keys() == [key]
        assert [it.state for it in rig.registry.meters()] == ["expected"]
        rig.open()


@pytest.mark.parametrize(
    "meter",
    [
        AddedMeter("nowhere", 17),
        AddedMeter("plc0", 17),
        AddedMeter("plc0", eui48="02dc"),
        AddedMeter("plc0", eui48="02dc0000000g"),
        AddedMeter("plc0", eui48=EUI, baudrate=9600),
        AddedMeter("rs485"),
        AddedMeter("rs485", 20_000),
        AddedMeter("rs485", 17, eui48=EUI),
        AddedMeter("rs485", 17, url="socket://10.0.0.9:4059"),
        AddedMeter("rs485", 17, wport=1),
        AddedMeter("rs485", 17, baudrate=7),
        AddedMeter("rs485", 17, parity="strange"),
        AddedMeter("server", 17, baudrate=2400),
        AddedMeter("tcp", 3),
        AddedMeter("tcp", 3, url="udp://10.0.0.9:4059"),
        AddedMeter("tcp", 3, url="socket://10.0.0.9:4059", baudrate=9600),
        AddedMeter("tcp", 3, url="socket://10.0.0.9:4059", wport=70_000),
        AddedMeter("g3", 0xFFFE),
        AddedMeter("g3", 5, url="udp://meter.example:4059"),
    ],
)
def test_a_meter_that_cannot_be_is_refused_and_nothing_changes(rig: Rig, meter: AddedMeter) -> None:
    with pytest.raises(ValueError):
        rig.added.add(meter)
    assert rig.keys() == []
    assert not (rig.folder / "added.json").exists()


LAN = (
    PortConfig("server", HDLC, "socket://10.0.0.1:4001", 9600, scan=ScanConfig(16, 20)),
    PortConfig("lan", WRAPPER, "", 0, meters=[PortMeterConfig(1, "socket://Meter.example:4059", 0, "none")]),
    PortConfig("tcp", WRAPPER, "", 0),
    PortConfig("bus", HDLC, "/dev/bus", 9600, scan=ScanConfig(16, 20), meters=[PortMeterConfig(17, "", 2400, "even")]),
)


@pytest.fixture
def lan(tmp_path: Path, rig: Rig) -> AddedMeters:
    return AddedMeters(RealDisk(), tmp_path / "lan.json", LAN, rig.registry)


@pytest.mark.parametrize(
    ("meter", "why"),
    [
        (
            AddedMeter("lan", 2, url="socket://meter.example.:4059"),
            "socket://meter.example.:4059 is the same as 'socket://Meter.example:4059' of meter 1 of port lan",
        ),
        (
            AddedMeter("tcp", 1, url="socket://meter.example:4059"),
            "socket://meter.example:4059 is the same as 'socket://Meter.example:4059' of meter 1 of port lan",
        ),
        (
            AddedMeter("lan", 2, url="socket://[::ffff:10.0.0.1]:4001"),
            "socket://[::ffff:10.0.0.1]:4001 is the same as 'socket://10.0.0.1:4001' of port server",
        ),
        (
            AddedMeter("lan", 4, url="socket://Added.example:1"),
            "socket://Added.example:1 is the same as 'socket://added.example:1' of meter 3 of port lan",
        ),
        (AddedMeter("lan", 1, url="socket://other.example:1"), "lan/1 is configured otherwise, and that counts"),
        (AddedMeter("bus", 17, baudrate=19_200), "bus/17 is configured otherwise, and that counts"),
        (AddedMeter("lan", 5, url="socket://h:1#x"), "the URL has a fragment (#)"),
        (AddedMeter("lan", 5, url="socket:// h:1"), "the URL holds a space"),
        (AddedMeter("lan", 5, url="socket://me:pw@h:1"), "the URL names a user"),
        (AddedMeter("lan", 5, url="socket://h:1/x"), "the URL has more than a host and a port"),
        (AddedMeter("lan", 5, url="socket://h:1?logging=debug"), "the URL has more than a host and a port"),
    ],
)
def test_a_second_name_of_one_place_is_refused(lan: AddedMeters, rig: Rig, meter: AddedMeter, why: str) -> None:
    lan.add(AddedMeter("lan", 3, url="socket://added.example:1"))
    with pytest.raises(ValueError) as caught:
        lan.add(meter)
    assert str(caught.value) == why
    assert rig.keys() == ["lan/3"]
    assert lan.problems == {}
    lan.remove(["lan/3"])
    lan.provisioned([AddedMeter("lan", 3, url="socket://added.example:1"), meter])
    assert lan.problems == {f"{meter.port}/{meter.address}": why}, "the tree says it to the head-end"
    assert rig.keys() == ["lan/3"]


def test_what_the_tree_adds_counts_before_what_the_field_added(lan: AddedMeters, rig: Rig) -> None:
    lan.add(AddedMeter("lan", 3, url="socket://added.example:1"))
    lan.add(AddedMeter("lan", 4, url="socket://other.example:1"))
    mine = AddedMeter("lan", 3, url="socket://moved.example:1"), AddedMeter("tcp", 9, url="socket://OTHER.example:1")
    lan.provisioned(mine)
    port = next(port for port in lan.ports if port.name == "lan")
    place = port.endpoint(3)
    assert place is not None
    assert place.host == "moved.example"
    assert port.endpoint(4) is None
    assert lan.problems == {
        "lan/4": "socket://other.example:1 is the same as 'socket://OTHER.example:1' of meter 9 of port tcp"
    }
    lan.provisioned([])
    assert lan.problems == {}
    assert port.endpoint(4) is not None


def test_a_meter_may_be_added_again_with_another_address_of_its_own(lan: AddedMeters) -> None:
    for url in ("socket://a.example:1", "socket://A.example:1", "socket://b.example:1", "socket://a.example:1/"):
        assert lan.add(AddedMeter("lan", 3, url=url)) == "lan/3"
    assert lan.add(AddedMeter("bus", 17)) == "bus/17", "of a configured one no more is said than that it is there"
    assert lan.problems == {}


def test_an_open_port_sees_what_is_added_and_what_is_removed(rig: Rig) -> None:
    port = rig.port("rs485")
    assert port.meter(17) is None
    key = rig.added.add(AddedMeter("rs485", 17, baudrate=2400, parity="odd"))
    assert (port.line(17).baudrate, port.line(17).parity) == (2400, "odd")
    assert [meter.address for meter in rig.registry.present("rs485")] == [17]
    rig.added.remove([key])
    assert port.meter(17) is None
    rig.open()
    assert rig.added.keys == frozenset()


def test_a_network_address_is_found_by_the_port(rig: Rig) -> None:
    rig.added.add(AddedMeter("g3", 0x12))
    place = rig.port("g3").endpoint(0x12)
    assert place is not None
    assert (place.host, place.port, place.datagrams) == ("fe80::781d:ff:fe00:12%plc0", 4059, True)
    assert rig.port("g3").endpoint(0x13) is None


def test_the_tree_says_which_of_its_meters_it_does_not_have_any_more(rig: Rig) -> None:
    rig.added.add(AddedMeter("rs485", 17))
    mine = AddedMeter("rs485", 18)
    assert rig.added.provisioned([mine, AddedMeter("rs485", 17), AddedMeter("nowhere", 1)]) == []
    assert rig.added.keys == {"rs485/17", "rs485/18"}
    assert rig.added.provisioned([]) == ["rs485/18"], "the one from the field stays"
    with pytest.raises(ValueError):
        rig.added.provisioned([mine])
        rig.added.add(mine)


def test_a_damaged_file_is_said_and_set_aside(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.added.add(AddedMeter("rs485", 17))
    file = rig.folder / "added.json"
    good = file.read_bytes()
    pick = random.Random(1)
    for _ in range(200):
        at = pick.randrange(len(good))
        damaged = good[:at] + bytes([pick.randrange(256)]) + good[at + 1 :]
        try:
            found = parse(damaged)
        except ValueError:
            continue
        assert found == parse(good)
    file.write_bytes(good[:-5])
    rig.open()
    assert rig.added.keys == frozenset()
    assert "meter.added.corrupt" in {getattr(record, "event", "") for record in caplog.records}
    assert not file.exists()
    assert (rig.folder / "added.json.corrupt").read_bytes() == good[:-5]


def test_a_meter_of_a_port_that_is_gone_is_kept_for_its_return(rig: Rig) -> None:
    rig.added.add(AddedMeter("rs485", 17))
    with_another = tuple(replace(port, name="other") if port.name == "rs485" else port for port in PORTS)
    AddedMeters(RealDisk(), rig.folder / "added.json", with_another, rig.registry)
    assert json.loads((rig.folder / "added.json").read_bytes())["meters"][0]["port"] == "rs485"
    rig.open()
    assert rig.added.keys == {"rs485/17"}


def added_on(disk: FaultyDisk) -> AddedMeters:
    registry = Registry(disk, Path("/state/meters.json"), VirtualClock(), leave_after_s=60.0)
    return AddedMeters(disk, Path("/state/added.json"), PORTS, registry)


@pytest.mark.parametrize("survival", Survival)
def test_a_power_cut_leaves_the_meters_of_before_or_of_after(survival: Survival) -> None:
    before, after = {"rs485/17"}, {"rs485/17", "rs485/18"}
    for cut in itertools.count():
        disk, operations = FaultyDisk(), itertools.count()
        added = added_on(disk)
        added.add(AddedMeter("rs485", 17))

        def plan(_: Operation, cut: int = cut, operations: Iterator[int] = operations) -> None:
            if next(operations) == cut:
                raise PowerCut

        disk.on_operation = plan
        try:
            added.add(AddedMeter("rs485", 18))
        except PowerCut:
            found = added_on(disk.after_power_cut(survival, random.Random(cut))).keys
            assert found in (before, after)
        else:
            break
    assert added_on(disk.after_power_cut(survival, random.Random(0))).keys == after, "durable when it returns"
    assert cut > 2
