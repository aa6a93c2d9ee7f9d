"""A base node with meters on a modelled line, and a host that reads them all at once."""

from __future__ import annotations

from pathlib import Path

from dlms.client.events import ItemRead, ReadDone, SessionClosed, SessionEvent, Value
from dlms.client.knowledge import MeterKnowledge
from dlms.client.session import MeterSession
from dlms.cosem.obis import AttributeRef
from dlms.link.llc import LlcLink
from dlms.security.settings import Lls
from dlms.simulator.reading_list import rows_from_csv
from plc.events import DataReceived, NodeJoined
from plc.prime.link import PlcLink
from tests.sim.meters import SimMeter
from tests.sim.pipes import Loop, Slow
from tests.sim.plc_network import BaseNode

ROWS = rows_from_csv(Path(__file__).parents[2] / "etc" / "reading-lists" / "residential-108.csv")
REFS = [AttributeRef(row.class_id, row.obis, row.attribute) for row in ROWS]
BAUDRATE, LATENCY_S = 115_200, 0.05


class Network:
    """The base node as a core of the loop."""

    def __init__(self, meters: int, latency_s: float) -> None:
        self.node = BaseNode(
            [SimMeter(serial + 1, ROWS, 3, b"pw") for serial in range(meters)],
            start=0.0,
            join_interval_s=0.0,
            latency_s=latency_s,
        )

    def receive(self, data: bytes, now: float) -> None:
        self.node.receive(data, now)

    def take_output(self) -> bytes:
        return b"".join(self.node.take_bursts())

    def next_deadline(self) -> float | None:
        return self.node.next_deadline()

    def on_deadline(self, now: float) -> None:
        self.node.on_deadline(now)


class Host:
    """One session a node, all at once, over one base node link."""

    def __init__(self, meters: int, known: dict[int, MeterKnowledge]) -> None:
        self.link = PlcLink()
        self.link.start(0.0)
        self.meters = meters
        self.known = known
        self.sessions: dict[int, MeterSession] = {}
        self.events: dict[int, list[SessionEvent]] = {}

    def turn(self, now: float) -> bool:
        while (event := self.link.next_event()) is not None:
            if isinstance(event, NodeJoined):
                self._begin(event.address, now)
            elif isinstance(event, DataReceived):
                self.sessions[event.address].receive(event.lsdu, now)
        for address, session in self.sessions.items():
            while (happened := session.next_event()) is not None:
                self.events[address].append(happened)
                if isinstance(happened, ReadDone):
                    session.close(now)
            while output := session.take_output():
                self.link.send(address, output, 1, 17, now)
        ended = [events for events in self.events.values() if events and isinstance(events[-1], SessionClosed)]
        return len(ended) == self.meters

    def _begin(self, address: int, now: float) -> None:
        known = self.known.setdefault(address, MeterKnowledge())
        session = MeterSession(LlcLink(17, 1), client=17, server=1, auth=Lls(b"pw"), known=known)
        session.open(now)
        session.read(REFS, now)
        self.sessions[address] = session
        self.events[address] = []

    def values(self, address: int) -> int:
        return sum(isinstance(event, ItemRead) and isinstance(event.result, Value) for event in self.events[address])


def interleave(meters: int, latency_s: float, known: dict[int, MeterKnowledge], line: Slow, back: Slow) -> float:
    """Seconds that one session a meter takes, all at once."""
    host = Host(meters, known)
    loop = Loop(host.link, Network(meters, latency_s), line, back, host.turn)
    loop.run(limit_s=120.0)
    assert [host.values(address) for address in host.sessions] == [len(REFS)] * meters
    return loop.now
