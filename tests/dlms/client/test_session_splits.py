"""A session over HDLC or the wrapper tells the same, however the bytes of the line are cut up and however often and in
which order its driver asks for output and events."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import pytest

from dlms.client.events import ItemRead, ReadDone, SessionClosed, SessionEvent, SessionFailed, SessionOpened, Value
from dlms.client.knowledge import MeterKnowledge
from dlms.client.session import MeterSession
from dlms.link.hdlc.primary import HdlcClientLink
from dlms.link.wrapper import WrapperLink
from dlms.server.objects import objects_from_rows
from dlms.server.server import MeterServer
from tests.dlms.client.test_session import ENERGY, REFS, ROWS, SECRET, values
from tests.dlms.meter_port import MeterPort

Cut = Callable[[bytes], Iterable[bytes]]
Turn = Callable[[MeterSession, MeterPort, list[SessionEvent]], None]


def whole(data: bytes) -> Iterable[bytes]:
    return [data] if data else []


def octet_by_octet(data: bytes) -> Iterable[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def at_random(seed: int) -> Cut:
    chance = random.Random(seed)

    def cut(data: bytes) -> Iterable[bytes]:
        while data:
            size = chance.randrange(1, 40)
            yield data[:size]
            data = data[size:]

    return cut


def write(session: MeterSession, port: MeterPort, _events: list[SessionEvent]) -> None:
    while output := session.take_output():
        port.write(output)


def take(session: MeterSession, _port: MeterPort, events: list[SessionEvent]) -> None:
    while (event := session.next_event()) is not None:
        events.append(event)


def in_turns(session: MeterSession, port: MeterPort, events: list[SessionEvent]) -> None:
    """One of each, and the deadline between them."""
    while True:
        output = session.take_output()
        session.next_deadline()
        port.write(output)
        event = session.next_event()
        if event is None and not output:
            return
        events += [] if event is None else [event]


def run(link: str, cut: Cut, turn: tuple[Turn, ...], meter: MeterServer) -> tuple[list[SessionEvent], int]:
    """Events of one session with two reads, and the octets it sent."""
    port = MeterPort(meter, link)
    below = HdlcClientLink(16, 1) if link == "hdlc" else WrapperLink(16, 1)
    session = MeterSession(below, client=16, server=1, auth=SECRET, known=MeterKnowledge())
    session.read(REFS, 0.0)
    session.read([ENERGY], 0.0)
    events: list[SessionEvent] = []
    while not events or not isinstance(events[-1], SessionClosed | SessionFailed):
        for step in turn:
            step(session, port, events)
        if sum(isinstance(event, ReadDone) for event in events) == 2:
            session.close(0.0)
            write(session, port, events)
        for piece in cut(port.read(None) or b""):
            session.receive(piece, 0.0)
            for step in turn:
                step(session, port, events)
    return events, port.written


ORDERS: list[tuple[Turn, ...]] = [(write, take), (take, write), (write, take, write, take), (in_turns,)]


@pytest.mark.parametrize("link", ["hdlc", "wrapper"])
@pytest.mark.parametrize("damaged", [False, True])
def test_every_cut_of_the_line_and_every_order_of_calls_tells_the_same(link: str, *, damaged: bool) -> None:
    """Also where lists are answered with nonsense, and asked again behind the request that is under way by then."""
    meter = (Nonsense if damaged else MeterServer)(objects_from_rows(ROWS, values, phases=3), auth=SECRET)
    expected = run(link, whole, (write, take), meter)
    told = expected[0]
    assert isinstance(told[0], SessionOpened)
    assert [event.ref for event in told[-3:] if isinstance(event, ItemRead)] == [ENERGY]
    assert [type(event) for event in told[-2:]] == [ReadDone, SessionClosed]
    assert sorted(str(event.ref) for event in told[:-3] if isinstance(event, ItemRead)) == sorted(map(str, REFS))
    assert all(isinstance(event.result, Value) for event in told if isinstance(event, ItemRead))
    assert len(told) == 1 + len(REFS) + 1 + 1 + 2
    for order in ORDERS:
        for cut in (whole, octet_by_octet, *map(at_random, range(5))):
            assert run(link, cut, order, meter) == expected


class Nonsense(MeterServer):
    """Answers lists with one octet too few."""

    def new_association(self, client_sap: int):  # type: ignore[no-untyped-def]
        association = super().new_association(client_sap)
        right = association.receive_apdu

        def receive_apdu(apdu: bytes, now: float) -> list[bytes]:
            return [answer[:-1] if answer[:2] == b"\xc4\x03" else answer for answer in right(apdu, now)]

        association.receive_apdu = receive_apdu  # type: ignore[method-assign]
        return association
