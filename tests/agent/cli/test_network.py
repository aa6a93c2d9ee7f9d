"""`dcuctl network`, `base-node` and `meters show|add`, asked of a collector over a simulated base node."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from agent.cli import network
from agent.cli.__main__ import meters
from agent.cli.client import RefusedError
from agent.daemon.control import ControlError
from agent.daemon.views.networks import NetworkViews
from tests.agent.metering.test_collector import BusRig, PlcRig, Rig, metering, provisioning
from tests.sim.plc_network import FIRST_ADDRESS, eui48_of


class Asking:
    """What `dcuctl` has for a context, with the handlers instead of a socket. Time goes on with each question."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.handlers = NetworkViews(rig.collector, may_change=True).handlers()

    def ask(self, command: str, **arguments: object) -> Any:
        self.rig.run(1)
        try:
            return json.loads(json.dumps(self.handlers[command](json.loads(json.dumps(arguments)))))
        except ControlError as error:
            raise RefusedError(str(error)) from error

    def tell(self, result: object, as_json: bool, text: Callable[[], str]) -> None:
        click.echo(json.dumps(result) if as_json else text())


def run(rig: Rig, command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, obj=Asking(rig))


@pytest.fixture
def rig(tmp_path: Path) -> PlcRig:
    made = PlcRig(tmp_path, meters=2, config=replace(metering(tmp_path), inventory=True))
    made.collector.configure(provisioning())
    made.run(20)
    return made


@pytest.mark.slow
def test_a_network_is_shown_level_by_level_and_then_what_happened(rig: PlcRig) -> None:
    assert run(rig, network.base_node, "plc0", "promote", "02:dc:00:00:00:01").output == "done\n"
    rig.network.hang(FIRST_ADDRESS + 1, below=FIRST_ADDRESS)
    rig.run(905)
    lines = run(rig, network.network, "plc0").output.splitlines()
    assert lines[0].startswith("port plc0: 2 nodes of 2 known, 1 of them switches, listed ")
    first, second = lines[3].split(), lines[4].split()
    assert first[:5] == ["0", eui48_of(1).hex(), rig.meters[0].id, "switch", "base"]
    assert second[:5] == ["1", eui48_of(2).hex(), rig.meters[1].id, "terminal", eui48_of(1).hex()]
    assert lines[3].index(eui48_of(1).hex()) < lines[4].index(eui48_of(2).hex()), "a lower level is indented"
    text = "\n".join(lines)
    for shown in ("DBPSK_C", "order promote", "register", "joined"):
        assert shown in text
    (told,) = json.loads(run(rig, network.network, "--json").output)
    assert told["history_total"] == len(told["history"]) == 5
    assert len(json.loads(run(rig, network.network, "--json", "--history", "1").output)[0]["history"]) == 1


def test_a_port_that_is_not_there_is_refused(rig: PlcRig) -> None:
    assert isinstance(run(rig, network.network, "plc9").exception, RefusedError)
    assert isinstance(run(rig, network.base_node, "plc9", "get", "0x20").exception, RefusedError)
    assert run(rig, network.base_node, "plc0", "get", "x").exit_code == 2


@pytest.mark.slow
def test_an_order_says_what_the_base_node_answered(rig: PlcRig) -> None:
    rig.network.pib[0x20] = b"\x07"
    assert run(rig, network.base_node, "plc0", "get", "0x20").output == "07\n"
    refused = run(rig, network.base_node, "plc0", "get", "0x21").exception
    assert str(refused) == "failed: status 0x01"


def test_a_meter_is_shown_with_what_it_is_and_can(rig: PlcRig) -> None:
    rig.run(905)  # until the lists of the base node are read again
    text = run(rig, network.show_meter, rig.meters[0].id).output
    for shown in (
        "model        DCU ",
        f"plc0/{eui48_of(1).hex()}, address {FIRST_ADDRESS}",
        "good; none failed",
        "APDUs of",
        "selective-access",
        "terminal at level 0, below the base node, signal 12, SNR 5",
    ):
        assert shown in text
    by_eui = json.loads(run(rig, network.show_meter, eui48_of(1).hex(), "--json").output)
    assert by_eui["meter_id"] == rig.meters[0].id
    assert isinstance(run(rig, network.show_meter, "nobody").exception, RefusedError)
    assert json.loads(run(rig, meters, rig.meters[0].id, "--json").output) == by_eui, "`show` may be left out"


def test_the_objects_of_a_meter_are_listed_when_asked_for(rig: PlcRig) -> None:
    rig.run(90)
    found = json.loads(run(rig, network.show_meter, rig.meters[0].id, "--objects", "--json").output)
    assert len(found["object_list"]) == found["objects"]["count"] or found["objects"]["why_none"]


def test_a_meter_is_added_by_hand(tmp_path: Path, rig: PlcRig) -> None:
    added = run(rig, network.add_meter, "plc0", "--eui", "02-DC-00-00-00-63")
    assert added.output == f"added: plc0/{eui48_of(0x63).hex()}\n"
    assert isinstance(run(rig, network.add_meter, "plc0", "--address", "5").exception, RefusedError)
    assert run(rig, network.add_meter, "plc0", "--mode-e-address", "5").exit_code == 2
    bus = BusRig(tmp_path / "bus")
    assert run(bus, network.add_meter, "rs485", "--address", "0x21", "--mode-e", "--parity", "even").exit_code == 0
    meter = bus.collector.added.ports[0].meter(33)
    assert meter is not None
    assert (meter.mode_e, meter.parity, meter.baudrate) == ("", "even", 9600)


def test_the_commands_are_where_the_documents_say() -> None:
    assert {"show", "add", "forget"} <= set(meters.commands)
