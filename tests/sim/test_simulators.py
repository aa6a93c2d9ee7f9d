"""The serial simulators as processes: what the demo and the agent's tests rely on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dlms.client.events import ItemError, ItemRead, ReadDone, SessionClosed, SessionFailed, Value
from dlms.client.session import MeterSession
from dlms.cosem.obis import AttributeRef
from dlms.link.hdlc.primary import HdlcClientLink
from dlms.link.llc import LlcLink
from dlms.security.settings import Lls
from plc.bridge import Bridge, Channel, open_bridge
from plc.events import DataReceived, NodeEvent, NodeJoined, NodeLeft, NodesListed
from plc.protocols import HDLC, PRIME_USI
from tests.sim.control import ask

LIST = Path(__file__).parents[2] / "etc" / "reading-lists" / "residential-108.csv"
LIMIT_S = 20.0  # of one wait; nothing here takes a tenth of it
ENERGY = AttributeRef.parse("3/1.0.1.8.0.255/2")
NAME = AttributeRef.parse("1/0.0.42.0.0.255/2")

pytestmark = pytest.mark.process


class Simulator:
    """A running simulator."""

    def __init__(self, folder: Path, module: str, *options: str) -> None:
        self.link, self.control = folder / "tty", folder / "control"
        password = folder / "password"
        password.write_text("secret\n")
        command = [sys.executable, "-m", f"tests.sim.{module}", "--link", str(self.link), "--list", str(LIST)]
        command += ["--control", str(self.control), "--password-file", str(password), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=LIST.parents[2])
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "READY\n"

    def ask(self, cmd: str, **fields: object) -> dict[str, object]:
        return ask(self.control, {"cmd": cmd, **fields})

    def meters(self) -> list[dict[str, object]]:
        found = self.ask("meters")["meters"]
        assert isinstance(found, list)
        return found

    def values(self, meter: object) -> dict[str, dict[str, object]]:
        found = self.ask("values", meter=meter)["values"]
        assert isinstance(found, dict)
        return found


@contextmanager
def simulator(folder: Path, module: str, *options: str) -> Iterator[Simulator]:
    running = Simulator(folder, module, *options)
    try:
        yield running
    finally:
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(LIMIT_S) == 0
        assert running.process.stdout is not None
        running.process.stdout.close()
        assert not running.link.is_symlink()
        assert not running.control.exists()


def wait_for(bridge: Bridge, wanted: int, kind: type[NodeEvent]) -> list[NodeEvent]:
    found: list[NodeEvent] = []
    limit = time.monotonic() + LIMIT_S
    while sum(isinstance(event, kind) for event in found) < wanted:
        assert time.monotonic() < limit, found
        found += bridge.poll(time.monotonic(), 0.2)
    return found


def read(bridge: Bridge, channel: Channel, session: MeterSession, refs: list[AttributeRef]) -> dict[str, object]:
    """Open, read, close; what came, and the error under "failed"."""
    found: dict[str, object] = {}
    limit = time.monotonic() + LIMIT_S
    session.open(time.monotonic())
    session.read(refs, time.monotonic())
    while time.monotonic() < limit:
        while (event := session.next_event()) is not None:
            if isinstance(event, ItemRead):
                found[str(event.ref)] = event.result
            elif isinstance(event, ReadDone):
                session.close(time.monotonic())
            elif isinstance(event, SessionFailed):
                found["failed"] = event.error
            if isinstance(event, SessionClosed | SessionFailed):
                channel.close()
                return found
        while output := session.take_output():
            channel.send(output, time.monotonic())
        bridge.poll(time.monotonic(), 0.1)
        while (data := channel.next_event()) is not None:
            if isinstance(data, DataReceived):
                session.receive(data.lsdu, time.monotonic())
        deadline = session.next_deadline()
        if deadline is not None and deadline <= time.monotonic():
            session.on_deadline(time.monotonic())
    raise AssertionError(f"still busy: {found}")


def read_node(bridge: Bridge, address: int, refs: list[AttributeRef], password: str = "secret") -> dict[str, object]:
    session = MeterSession(LlcLink(17, 1), client=17, server=1, auth=Lls(password))
    return read(bridge, bridge.channel(address, dst_lsap=1, src_lsap=17), session, refs)


def raw(result: object) -> object:
    assert isinstance(result, Value)
    value = result.data.value
    return value.hex() if isinstance(value, bytes) else value


def test_nodes_join_are_read_and_their_values_are_what_the_control_socket_says(tmp_path: Path) -> None:
    with simulator(tmp_path, "plc_network", "--meters", "3", "--join-interval-s", "0.05") as running:
        bridge = open_bridge(PRIME_USI, str(running.link))
        joined = [event for event in wait_for(bridge, 3, NodeJoined) if isinstance(event, NodeJoined)]
        described = running.meters()
        assert [event.eui48.hex() for event in joined] == [meter["eui48"] for meter in described]
        refs = [AttributeRef.parse(ref) for ref in running.values(described[0]["id"])]
        assert len(refs) == 108
        for event, meter in zip(joined, described, strict=True):
            found = read_node(bridge, event.address, refs)
            expected = running.values(meter["id"])
            assert bytes.fromhex(str(raw(found[str(NAME)]))).decode() == meter["id"]
            for ref, record in expected.items():
                if ref != "8/0.0.1.0.0.255/2":
                    assert raw(found[ref]) == record["raw"]
        before = running.values(described[0]["id"])[str(ENERGY)]["raw"]
        running.ask("advance", wh=100)
        after = raw(read_node(bridge, joined[0].address, [ENERGY])[str(ENERGY)])
        assert isinstance(before, int)
        assert after == before + 100
        bridge.close()


def test_a_host_that_comes_back_finds_the_nodes_by_the_list(tmp_path: Path) -> None:
    with simulator(tmp_path, "plc_network", "--meters", "2", "--join-interval-s", "0") as running:
        for _ in range(2):
            bridge = open_bridge(PRIME_USI, str(running.link))
            limit = time.monotonic() + LIMIT_S
            nodes: set[int] = set()
            while len(nodes) < 2:
                assert time.monotonic() < limit
                events = bridge.poll(time.monotonic(), 0.1)
                nodes |= {event.address for event in events if isinstance(event, NodeJoined)}
            read_node(bridge, nodes.pop(), [ENERGY])
            bridge.close()
        bridge = open_bridge(PRIME_USI, str(running.link))
        assert NodesListed(2) in wait_for(bridge, 1, NodesListed)
        bridge.close()


def test_nodes_leave_and_join_by_command_and_a_wrong_password_is_refused(tmp_path: Path) -> None:
    with simulator(tmp_path, "plc_network", "--meters", "1", "--join-interval-s", "0") as running:
        meter = running.meters()[0]["id"]
        bridge = open_bridge(PRIME_USI, str(running.link))
        wait_for(bridge, 1, NodeJoined)
        assert "failed" in read_node(bridge, 2, [ENERGY], password="wrong")
        running.ask("leave", meter=meter)
        wait_for(bridge, 1, NodeLeft)
        running.ask("join", meter=meter)
        wait_for(bridge, 1, NodeJoined)
        assert isinstance(read_node(bridge, 2, [ENERGY])[str(ENERGY)], Value)
        assert "error" in running.ask("leave", meter="nobody")
        assert "error" in running.ask("dance")
        bridge.close()


def test_meters_on_the_bus_are_told_apart_by_address_and_noise_is_survived(tmp_path: Path) -> None:
    with simulator(tmp_path, "rs485_bus", "--addresses", "17,18", "--phases", "1") as running:
        bridge = open_bridge(HDLC, str(running.link), 9600)
        running.ask("faults", loss=0.05, flip=0.05, seed=7)
        three_phase = AttributeRef.parse("3/1.0.52.7.0.255/2")
        for address, meter in (("17", running.meters()[0]), ("1/18", running.meters()[1])):
            link = HdlcClientLink(17, address, ack_timeout_s=0.2, inter_octet_timeout_s=0.05, retries=8)
            session = MeterSession(link, client=17, server=1, auth=Lls("secret"))
            found = read(bridge, bridge.channel(1), session, [NAME, ENERGY, three_phase])
            assert bytes.fromhex(str(raw(found[str(NAME)]))).decode() == meter["id"]
            assert found[str(three_phase)] == ItemError("object-undefined")
        bridge.close()
