"""Many meters behind one bridge at once: while one thinks, the line carries another's bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlms.cosem.obis import AttributeRef
from dlms.knowledge import MeterKnowledge
from dlms.llc import LlcLink
from dlms.objects import rows_from_csv
from dlms.security import Lls
from dlms.session import ItemRead, MeterSession, SessionClosed, SessionEvent, Value
from plc.events import DataReceived, NodeJoined
from plc.link import IN_FLIGHT_MAX, PlcLink
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


def run(meters: int, latency_s: float, known: dict[int, MeterKnowledge], line: Slow, back: Slow) -> float:
    host = Host(meters, known)
    loop = Loop(host.link, Network(meters, latency_s), line, back, host.turn)
    loop.run(limit_s=120.0)
    assert [host.values(address) for address in host.sessions] == [len(REFS)] * meters
    return loop.now


@pytest.mark.parametrize("meters", [8, 16])
def test_a_line_that_one_side_uses_at_a_time_is_busy_but_for_the_first_and_the_last_answer(meters: int) -> None:
    known: dict[int, MeterKnowledge] = {}
    fast = Slow(10_000_000)
    run(meters, 0.0, known, fast, fast)  # scalers and units are read once in a meter's life
    line = Slow(BAUDRATE, piece_bytes=16)
    seconds = run(meters, LATENCY_S, known, line, line)
    carrying_s = line.octets * 10 / BAUDRATE
    assert carrying_s / (seconds - 2 * LATENCY_S) >= 0.95
    # One after another each of the exchanges would have its own latency.
    assert seconds < 0.6 * (carrying_s + line.bursts / 2 * LATENCY_S)


def test_a_duplex_line_takes_less_time_than_its_octets_one_after_another() -> None:
    known: dict[int, MeterKnowledge] = {}
    fast = Slow(10_000_000)
    run(8, 0.0, known, fast, fast)
    there, back = Slow(BAUDRATE, piece_bytes=16), Slow(BAUDRATE, piece_bytes=16)
    seconds = run(8, LATENCY_S, known, there, back)
    assert seconds < (there.octets + back.octets) * 10 / BAUDRATE


def test_never_more_than_five_requests_are_unconfirmed() -> None:
    class Counting(Network):
        most = 0

        def next_deadline(self) -> float | None:
            Counting.most = max(Counting.most, len(host.link._in_flight))
            return super().next_deadline()

    host = Host(16, {})
    loop = Loop(host.link, Counting(16, LATENCY_S), Slow(BAUDRATE), Slow(BAUDRATE), host.turn)
    loop.run(limit_s=120.0)
    assert Counting.most == IN_FLIGHT_MAX
