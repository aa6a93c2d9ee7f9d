"""A whole port from another distribution: its framing, its way to announce meters, its network, its options.

Nothing of it is known here but the entry point. Its meters are read over a real connection, its network is in the
picture, and an order that its base node does not know is refused by name.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.metering.registry.network import NO_PLANE
from agent.settings.config import load
from tests.agent.metering.ports.test_real_ports import Station
from tests.agent.metering.test_collector import PASSWORD, ROWS, provisioning
from tests.agent.settings.test_port_protocols import Site, configuration, site
from tests.sim.meters import SimMeter

__all__ = ["site"]  # a fixture

pytestmark = pytest.mark.process
EUI = bytes.fromhex("02ac00000007")
ADDRESS = 7

MESH = '''
"""A mesh: frames of kind (1), address (2), length (2) and data. Kind 0 asks who is there, 1 says it, 2 carries."""

from collections import deque

from dlms.link.llc import LlcLink
from plc.errors import PlcLocalError
from plc.events import DataReceived, NodeJoined, NodesListed, TopologyListed
from plc.protocols import Option, PortProtocol
from plc.prime.topology import LSID_NONE, RegisteredDevice, Topology

HEAD = 5


class Mesh:
    shared_bus = False

    def __init__(self):
        self.topology = Topology()
        self._buffer = bytearray()
        self._output = bytearray()
        self._events = deque()
        self._tickets = 0

    def start(self, now):
        self._output += self._frame(0, 0, b"")

    def send(self, address, lsdu, dst_lsap, src_lsap, now):
        if len(lsdu) > 0xFFFE:
            raise PlcLocalError("too long for the mesh")
        self._output += self._frame(2, address, bytes((src_lsap,)) + lsdu)
        self._tickets += 1
        return self._tickets

    def receive(self, data, now):
        self._buffer += data
        while len(self._buffer) >= HEAD:
            end = HEAD + int.from_bytes(self._buffer[3:5], "big")
            if len(self._buffer) < end:
                return
            kind, address, rest = self._buffer[0], int.from_bytes(self._buffer[1:3], "big"), bytes(self._buffer[5:end])
            del self._buffer[:end]
            if kind == 1:
                self.topology.devices_listed([RegisteredDevice(rest[:6], address, 1, LSID_NONE, 0, rest[6])])
                self._events += [NodeJoined(address, rest[:6], b""), NodesListed(1), TopologyListed(1, 0)]
            elif kind == 2:
                self._events.append(DataReceived(address, rest[0], 1, rest[1:]))

    def take_output(self):
        output, self._output = bytes(self._output), bytearray()
        return output

    def next_event(self):
        return self._events.popleft() if self._events else None

    def next_deadline(self):
        return None

    def on_deadline(self, now):
        pass

    @staticmethod
    def _frame(kind, address, data):
        return bytes((kind,)) + address.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data


def link(request):
    return LlcLink(request.client, request.server, answer_timeout_s=request.response_timeout_s)


PROTOCOL = PortProtocol(
    "acme-mesh", 9600, 5.0, make_core=Mesh, make_link=link, options=(Option("channel", 11, 1, 26),)
)
'''


class MeshBaseNode:
    """The other end of the connection: a base node with one meter."""

    def __init__(self) -> None:
        self.meter = SimMeter(ADDRESS, ROWS, 3, PASSWORD)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"socket://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as stream:
            while len(head := stream.read(5)) == 5:
                data = stream.read(int.from_bytes(head[3:5], "big"))
                if head[0] == 0:
                    connection.sendall(self._frame(1, EUI + b"\x02"))
                elif head[0] == 2:
                    for answer in self.meter.receive_apdu(data[0], data[1:], time.monotonic()):
                        connection.sendall(self._frame(2, data[:1] + answer))

    @staticmethod
    def _frame(kind: int, data: bytes) -> bytes:
        return bytes((kind,)) + ADDRESS.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data

    def end(self) -> None:
        self._listener.close()
        self._thread.join()


@pytest.fixture
def base_node() -> Iterator[MeshBaseNode]:
    node = MeshBaseNode()
    yield node
    node.end()


def test_a_port_of_another_distribution_is_a_port_like_any_other(
    site: Site,
    tmp_path: Path,
    base_node: MeshBaseNode,
) -> None:
    site.install("acme-mesh", {"acme-mesh": "acme_mesh:PROTOCOL"}, {"acme_mesh": MESH})
    ports = f"ports:\n  - {{name: mesh, protocol: acme-mesh, url: '{base_node.url}', channel: 15}}\n"
    port = load(configuration(tmp_path, ports)).ports[0]
    assert port.options == {"channel": 15}
    station = Station(tmp_path, port)
    station.collector.configure(provisioning())
    station.run(until=lambda: bool(station.read()))
    order = station.collector.network.order("mesh", "get", pib=1)
    station.collector.workers[0].step()
    (meter,) = station.collector.meters()
    picture = station.collector.network.picture("mesh")
    result = station.collector.network.result(order.number)
    station.close()
    assert (meter.meter_id, meter.state, meter.address) == (base_node.meter.id, "read", ADDRESS)
    assert [(node.eui48, node.level, node.meter_id) for node in picture.nodes] == [(EUI.hex(), 2, meter.meter_id)]
    assert (result.state, result.answer) == ("failed", NO_PLANE)
    assert station.health[-1] == (True, "mesh")
