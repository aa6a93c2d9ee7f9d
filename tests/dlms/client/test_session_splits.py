"""A session over HDLC or the wrapper tells the same, however the bytes of the line are cut up."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import pytest

from dlms.client.knowledge import MeterKnowledge
from dlms.client.session import MeterSession, SessionClosed, SessionEvent
from dlms.link.hdlc.primary import HdlcClientLink
from dlms.link.wrapper import WrapperLink
from tests.dlms.client.test_session import REFS, SECRET, server
from tests.dlms.meter_port import MeterPort

Cut = Callable[[bytes], Iterable[bytes]]


def run(link: str, cut: Cut) -> tuple[list[SessionEvent], int]:
    """Events of one session that reads the list, and the octets it sent."""
    port = MeterPort(server(phases=3), link)
    below = HdlcClientLink(16, 1) if link == "hdlc" else WrapperLink(16, 1)
    session = MeterSession(below, client=16, server=1, auth=SECRET, known=MeterKnowledge())
    session.read(REFS, 0.0)
    events: list[SessionEvent] = []
    while not events or not isinstance(events[-1], SessionClosed):
        while output := session.take_output():
            port.write(output)
        for piece in cut(port.read(None) or b""):
            session.receive(piece, 0.0)
            while (event := session.next_event()) is not None:
                events.append(event)
        while (event := session.next_event()) is not None:
            events.append(event)
    return events, port.written


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


@pytest.mark.parametrize("link", ["hdlc", "wrapper"])
def test_every_cut_of_the_line_tells_the_same(link: str) -> None:
    whole = run(link, lambda data: [data] if data else [])
    assert len(whole[0]) == 108 + 3
    assert run(link, octet_by_octet) == whole
    for seed in range(10):
        assert run(link, at_random(seed)) == whole
