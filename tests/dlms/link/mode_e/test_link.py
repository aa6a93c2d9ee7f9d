"""HDLC behind the opening of mode E as one data link, against the meter's side of both."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from dlms.errors import LinkError, LocalError, PeerError
from dlms.link.datalink import ApduReceived, LineHeard, LineSettings, LinkDown, LinkEvent, LinkUp
from dlms.link.hdlc.primary import HdlcClientLink
from dlms.link.hdlc.secondary import HdlcServerLink
from dlms.link.mode_e.link import MODE_E_LINK_TRANSITIONS, ModeELink, ModeELinkState, ModeELinkStep
from dlms.link.mode_e.meter import ModeEMeter
from dlms.link.mode_e.opening import Identification, ModeEOpening
from tests.dlms.table_walk import take_step

LIMIT = 9600
REQUEST, ANSWER = b"\xc0\x01", b"\xc4\x01"


def make_link(baudrate: int) -> HdlcClientLink:
    return HdlcClientLink(16, 1, octet_s=10 / baudrate, connect_tries=2, ack_timeout_s=1.5)


def opened(**options: object) -> ModeELink:
    return ModeELink(ModeEOpening(baudrate_max=LIMIT, **options), make_link, lost_at=LIMIT)  # type: ignore[arg-type]


class MeterSide:
    """A meter that hears only what comes at the speed it stands at, and answers `REQUEST`."""

    def __init__(self, speed: str = "5", text: str = "\\2test") -> None:
        self.opening = ModeEMeter(Identification.parse(f"/DCU{speed}{text}"))
        self.hdlc = HdlcServerLink(1)
        self.present = True

    def hear(self, data: bytes, line: LineSettings, now: float) -> bytes:
        """What it says to this, at the speed it stood at before."""
        if not self.present or line.baudrate != self.opening.baudrate:
            return b""
        if not self.opening.is_hdlc:
            self.opening.receive(data, now)
            return self.opening.take_output()
        self.hdlc.receive(data, now)
        while (event := self.hdlc.next_event()) is not None:
            if isinstance(event, ApduReceived):
                self.hdlc.send(ANSWER, now)
            elif isinstance(event, LinkDown):
                self.opening.reset()
        return self.hdlc.take_output()


def talk(link: ModeELink, meter: MeterSide, now: float = 0.0) -> tuple[list[LinkEvent], float]:
    """Carry octets until both have nothing to say for now; deadlines pass at once."""
    events: list[LinkEvent] = []
    for _ in range(200):
        if output := link.take_output():
            if answer := meter.hear(output, link.line, now):
                now += 0.05
                link.receive(answer, now)
        while (event := link.next_event()) is not None:
            events.append(event)
        deadline = link.next_deadline()
        if events or deadline is None:
            return events, now
        now = max(now, deadline)
        link.on_deadline(now)
    raise AssertionError("no end")


def test_the_opening_ends_in_a_link_at_the_speed_agreed_to() -> None:
    link, meter = opened(), MeterSide(speed="4")
    assert link.line == LineSettings(300)
    link.connect(0.0)
    events, now = talk(link, meter)
    assert [type(event) for event in events] == [LinkUp]
    assert link.line == LineSettings(4800)
    assert now >= 0.2  # the pause in which both sides change
    link.send(REQUEST, now)
    events, now = talk(link, meter, now)
    assert events == [ApduReceived(ANSWER)]
    link.disconnect(now)
    events, now = talk(link, meter, now)
    assert events == [LinkDown(None)]
    assert meter.opening.baudrate == 300
    assert link.state is ModeELinkState.CLOSED
    assert link.heard.frames >= 3


def test_a_meter_that_was_left_at_its_speed_is_met_there() -> None:
    first, meter = opened(), MeterSide()
    first.connect(0.0)
    _, now = talk(first, meter)
    second = opened(retries=0)  # the first one was lost without a word
    second.connect(now)
    events, _ = talk(second, meter, now)
    assert [type(event) for event in events] == [LinkUp]
    assert second.line == LineSettings(LIMIT)


def test_where_nobody_is_the_opening_is_what_failed() -> None:
    link, meter = opened(), MeterSide()
    meter.present = False
    link.connect(0.0)
    events, _ = talk(link, meter)
    assert isinstance(events[0], LinkDown)
    assert isinstance(events[0].error, LinkError)
    assert "opening" in str(events[0].error)
    assert link.heard.frames == 0


def test_what_is_heard_in_the_opening_tells_echoes_from_garbage() -> None:
    link = opened()
    link.connect(0.0)
    link.receive(link.take_output(), 0.5)
    assert link.heard == LineHeard(echoes=1)
    link.receive(b"\x55\xd5\x2a", 0.6)
    assert link.heard == LineHeard(octets=3, echoes=1)


def test_a_meter_that_refuses_is_not_asked_at_another_speed() -> None:
    link, meter = opened(require_mark=True), MeterSide(text="plain")
    link.connect(0.0)
    events, _ = talk(link, meter)
    assert isinstance(events[0], LinkDown)
    assert isinstance(events[0].error, PeerError)
    assert link.line == LineSettings(300)


def idle(link: ModeELink) -> None:
    del link


def opening(link: ModeELink) -> None:
    link.connect(0.0)


def pause(link: ModeELink) -> None:
    link.connect(0.0)
    meter = MeterSide()
    while link.state is not ModeELinkState.PAUSE:
        link.receive(meter.hear(link.take_output(), link.line, 0.0), 0.0)


def linked(link: ModeELink) -> None:
    link.connect(0.0)
    talk(link, MeterSide())


def closed(link: ModeELink) -> None:
    link.disconnect(0.0)
    link.next_event()


REACH: dict[ModeELinkState, Callable[[ModeELink], None]] = {
    ModeELinkState.IDLE: idle,
    ModeELinkState.OPENING: opening,
    ModeELinkState.PAUSE: pause,
    ModeELinkState.LINKED: linked,
    ModeELinkState.CLOSED: closed,
}


def link_in(state: ModeELinkState) -> ModeELink:
    link = opened()
    REACH[state](link)
    assert link.state is state
    return link


@pytest.mark.parametrize(("state", "step"), list(itertools.product(ModeELinkState, ModeELinkStep)))
def test_every_pair_of_state_and_step_moves_as_the_table_says_or_changes_nothing(
    state: ModeELinkState, step: ModeELinkStep
) -> None:
    take_step(link_in(state), step)
    assert {step for _, step in MODE_E_LINK_TRANSITIONS} == set(ModeELinkStep)


@pytest.mark.parametrize("state", [ModeELinkState.OPENING, ModeELinkState.PAUSE])
def test_before_the_link_stands_there_is_nothing_to_take_down_and_nothing_to_send_by(state: ModeELinkState) -> None:
    link = link_in(state)
    with pytest.raises(LocalError):
        link.send(REQUEST, 1.0)
    link.disconnect(1.0)
    assert link.next_event() == LinkDown(None)
    link.disconnect(1.0)
    assert link.next_event() is None
    assert link.next_deadline() is None


@pytest.mark.parametrize("state", [ModeELinkState.OPENING, ModeELinkState.PAUSE, ModeELinkState.LINKED])
def test_a_port_that_is_closed_ends_it_once(state: ModeELinkState) -> None:
    link = link_in(state)
    for _ in range(2):
        link.receive_eof(1.0)
    found = [event for event in iter(link.next_event, None) if isinstance(event, LinkDown)]
    assert len(found) == 1
    assert isinstance(found[0].error, LinkError)


def test_what_comes_in_the_pause_is_of_the_old_speed_and_dropped() -> None:
    link = link_in(ModeELinkState.PAUSE)
    link.receive(bytes(range(256)), 0.1)
    assert link.state is ModeELinkState.PAUSE
    assert link.next_event() is None


@pytest.mark.parametrize(("parity", "octet_s"), [("none", 10 / 2400), ("even", 11 / 2400), ("odd", 11 / 2400)])
def test_a_parity_bit_takes_its_time(parity: str, octet_s: float) -> None:
    assert LineSettings(2400, parity).octet_s == octet_s


@pytest.mark.parametrize(("baudrate", "parity"), [(0, "none"), (9600, "mark")])
def test_a_line_that_cannot_be_is_a_local_error(baudrate: int, parity: str) -> None:
    with pytest.raises(LocalError):
        LineSettings(baudrate, parity)
