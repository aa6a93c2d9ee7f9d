"""The client's HDLC link against meters and lines that are against it: each ends in bounded time, in a typed error or
by recovering, and talks no more than it has to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest

from dlms.client.events import SessionFailed
from dlms.client.session import MeterSession
from dlms.errors import DecodeError, DlmsError, LinkError, PeerError
from dlms.link.datalink import ApduReceived, LinkDown, LinkEvent, LinkUp
from dlms.link.hdlc.frames import CONTROLS, FrameType, HdlcAddress, HdlcFrame, information_control
from dlms.link.hdlc.params import FrameReject, LinkParameters
from dlms.link.hdlc.primary import ACK_TIMEOUT_S, ANSWER_TIMEOUT_S, RETRIES, HdlcClientLink, State
from dlms.link.hdlc.secondary import HdlcServerLink
from tests.dlms.hdlc_frames import CLIENT, DM, METER, UA, events, frames, i_frame, response, rr
from tests.sim.pipes import Loop, Slow

OCTET_S = 10 / 9600
TURNAROUND_S = 0.02
QUESTIONS_MAX = 200  # of one command: at POLL_INTERVAL_S for ANSWER_TIMEOUT_S
LIMIT_S = ANSWER_TIMEOUT_S + (RETRIES + 3) * ACK_TIMEOUT_S

Peer = Callable[[HdlcFrame], bytes]
"""What a meter says to the last frame of a burst."""


class Bout:
    """One link against one peer, which answers every burst of the client `TURNAROUND_S` after its end."""

    def __init__(self, peer: Peer, *, info_max: int = 64, window: int = 1, octet_s: float = OCTET_S) -> None:
        self.link = HdlcClientLink(17, METER, info_max=info_max, window=window, octet_s=octet_s)
        self.peer = peer
        self.octet_s = octet_s
        self.now = 0.0
        self.bursts = 0
        self.events: list[LinkEvent] = []

    def run(self, requests: Sequence[bytes]) -> None:
        """Connect, send the requests one after another, disconnect; all of it as far as it goes."""
        waiting = list(requests)
        self.link.connect(0.0)
        while not any(isinstance(event, LinkDown) for event in self.events):
            self._turn()
            for event in events(self.link):
                self.events.append(event)
                if isinstance(event, LinkUp | ApduReceived) and self.link.state is not State.CLOSED:
                    self.link.send(waiting.pop(0), self.now) if waiting else self.link.disconnect(self.now)
            assert self.now < 1000.0
            assert self.bursts < 10 * QUESTIONS_MAX

    def _turn(self) -> None:
        burst = self.link.take_output()
        answer = b""
        if burst:
            self.bursts += 1
            answer = self.peer(frames(burst)[-1])
        if answer:
            self.now += (len(burst) + len(answer)) * self.octet_s + TURNAROUND_S
            self.link.receive(answer, self.now)
        elif (deadline := self.link.next_deadline()) is not None:
            self.now = max(self.now, deadline)
            self.link.on_deadline(self.now)

    @property
    def error(self) -> DlmsError | None:
        (down,) = [event for event in self.events if isinstance(event, LinkDown)]
        return down.error

    @property
    def answers(self) -> list[bytes]:
        return [event.apdu for event in self.events if isinstance(event, ApduReceived)]


def connecting(peer: Peer) -> Peer:
    """`peer` behind an SNRM that is answered, and a DISC too."""

    def say(frame: HdlcFrame) -> bytes:
        if frame.type in (FrameType.SNRM, FrameType.DISC):
            return UA
        return peer(frame)

    return say


def honest() -> Peer:
    """A meter that answers every request with its own text."""
    expected = itertools.count()
    due, last = [next(expected)], [b""]

    def say(frame: HdlcFrame) -> bytes:
        control = CONTROLS[frame.control]
        if control.type is FrameType.I and control.send_number == due[0] % 8:
            last[0] = i_frame(due[0] % 8, (due[0] + 1) % 8, frame.info[3:])
            due[0] = next(expected)
        return last[0] or rr(due[0] % 8)

    return say


# ---- answers without an end


def always(answer: bytes) -> Peer:
    return lambda _frame: answer


def in_turn(*answers: bytes) -> Peer:
    endless = itertools.cycle(answers)
    return lambda _frame: next(endless)


DAMAGED = bytes(octet ^ (at == 20) for at, octet in enumerate(i_frame(0, 1, b"an answer of some length")))
SPEECHLESS: dict[str, Peer] = {
    "RNR for ever": always(rr(0, FrameType.RNR)),
    "RNR that acknowledges, for ever": always(rr(1, FrameType.RNR)),
    "REJ for ever": always(rr(0, FrameType.REJ)),
    "REJ that acknowledges, for ever": always(rr(1, FrameType.REJ)),
    "RR for ever": always(rr(0)),
    "RR that acknowledges, for ever": always(rr(1)),
    "busy and not, in turn": in_turn(rr(0, FrameType.RNR), rr(0)),
    "N(R) that cannot be": always(rr(5)),
    "any N(R), in turn": in_turn(*(rr(number) for number in range(8))),
    "a frame that cannot be next": always(i_frame(5, 1, b"x")),
    "frames that cannot be next and a wrong N(R)": in_turn(i_frame(5, 1, b"x"), rr(6), i_frame(3, 7, b"y")),
    "nothing but damage": always(DAMAGED),
    "damage and a question back, in turn": in_turn(DAMAGED, rr(0)),
    "garbage and RR, in turn": in_turn(b"\x7e\xa0\x00\xff" * 9, rr(0)),
    "UA for ever": always(UA),
    "a mode of its own": always(response(0x93)),
    "no final bit": always(response(0x01)),
    "other stations": always(HdlcFrame(HdlcAddress(18), METER, 0x11).emit()),
    "half a frame": always(i_frame(0, 1, b"x")[:-4]),
    "nothing": always(b""),
}


@pytest.mark.parametrize("window", [1, 7])
@pytest.mark.parametrize("octet_s", [0.0, OCTET_S])
@pytest.mark.parametrize("name", SPEECHLESS)
@pytest.mark.slow
def test_a_meter_that_never_answers_in_whatever_way_ends_the_link_in_bounded_time(
    name: str, octet_s: float, window: int
) -> None:
    bout = Bout(connecting(SPEECHLESS[name]), window=window, octet_s=octet_s)
    bout.run([bytes(100)])
    assert isinstance(bout.error, LinkError)
    assert bout.answers == []
    assert bout.now <= LIMIT_S
    assert bout.bursts <= QUESTIONS_MAX


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (DM, PeerError),
        (response(0x97, FrameReject(0x10, 0, 0, 8).emit()), PeerError),
        (response(0x97), DecodeError),
        (response(0x97, b"\x10"), DecodeError),
    ],
)
def test_a_meter_that_breaks_off_in_the_middle_ends_the_link_at_once(
    answer: bytes, kind: type[DlmsError], at: int
) -> None:
    good, count = honest(), itertools.count()
    bout = Bout(connecting(lambda frame: answer if next(count) == at else good(frame)))
    bout.run([b"request %d" % number for number in range(8)])
    assert isinstance(bout.error, kind)
    assert len(bout.answers) == at
    assert bout.now < 2.0


# ---- segments


def segments(info: bytes, *, final: bool = True) -> Peer:
    """More and more of one answer."""
    number = itertools.count()

    def say(_frame: HdlcFrame) -> bytes:
        return response(information_control(next(number) % 8, 1, poll_final=final), info, segmented=True)

    return say


@pytest.mark.parametrize("info", [bytes(64), bytes(2030)])
def test_segments_without_an_end_end_the_link(info: bytes) -> None:
    link = HdlcClientLink(17, METER)
    link.connect(0.0)
    link.receive(UA, 0.0)
    link.send(b"request", 0.0)
    more = segments(info)
    for _ in range(3000):
        if link.take_output():
            link.receive(more(HdlcFrame(METER, CLIENT, 0)), 0.0)
    down = events(link)[-1]
    assert isinstance(down, LinkDown)
    assert isinstance(down.error, LinkError)


@pytest.mark.slow
def test_segments_with_nothing_in_them_are_not_kept_for_ever() -> None:
    link = HdlcClientLink(17, METER)
    link.connect(0.0)
    link.receive(UA, 0.0)
    link.send(b"request", 0.0)
    more = segments(b"")
    for _ in range(70000):
        link.receive(more(HdlcFrame(METER, CLIENT, 0)), 0.0)
        link.take_output()
    down = events(link)[-1]
    assert isinstance(down, LinkDown)
    assert isinstance(down.error, LinkError)


@pytest.mark.parametrize("text", [b"\xc2event", b"\x0fnews"])
def test_notifications_for_ever_end_the_session_that_waits_for_an_answer(text: bytes) -> None:
    session = MeterSession(HdlcClientLink(17, METER), client=17, server=1)
    session.open(0.0)
    number, now, ended = itertools.count(), 0.0, False
    while not ended:
        burst = session.take_output()
        if burst and frames(burst)[-1].type in (FrameType.SNRM, FrameType.DISC):
            session.receive(UA, now)
        elif burst:
            session.receive(i_frame(next(number) % 8, 1, text), now)
        while (event := session.next_event()) is not None:
            ended = isinstance(event, SessionFailed)
        if not burst:
            deadline = session.next_deadline()
            assert deadline is not None
            now = max(now, deadline)
            session.on_deadline(now)
        assert now < 600.0


# ---- parameters


@pytest.mark.parametrize(
    "info",
    [
        "80",
        "818000ff",
        "8180",
        "81800a",
        "8180030501",
        "818003050100",
        "818006050400000000",
        "8180060704000000",
        "8180030701",
        "8180070505" + "00" * 5,
        "81800205" + "00",
        "ff" * 30,
        "00" * 200,
    ],
)
def test_a_ua_that_makes_no_sense_ends_the_connection_or_means_the_defaults(info: str) -> None:
    bout = Bout(always(response(0x73, bytes.fromhex(info))))
    bout.run([])
    assert bout.error is None or isinstance(bout.error, DecodeError)
    assert bout.now < LIMIT_S


@pytest.mark.parametrize(
    ("info", "taken"),
    [
        ("", (128, 128, 1, 1)),
        ("818000", (128, 128, 1, 1)),
        ("8180030501ff", (128, 255, 1, 1)),
        ("81800405020200", (128, 512, 1, 1)),
        ("8180060504" + "00000400", (128, 1024, 1, 1)),
        ("8180060604" + "ffffffff", (1024, 128, 1, 1)),
        ("8180030601" + "20", (32, 128, 1, 1)),
        ("8180030701" + "03", (128, 128, 1, 3)),
        ("8180040702" + "0005", (128, 128, 1, 5)),
        ("8180060804" + "00000006", (128, 128, 6, 1)),
        ("8180060804" + "80000000", (128, 128, 7, 1)),
        ("8180120501400601500701020801030904aabbccdd", (80, 64, 3, 2)),
    ],
)
def test_a_ua_takes_every_size_of_value_leaves_out_what_it_likes_and_promises_no_more_than_was_offered(
    info: str, taken: tuple[int, int, int, int]
) -> None:
    link = HdlcClientLink(17, METER, info_max=1024, window=7)
    link.connect(0.0)
    link.receive(response(0x73, bytes.fromhex(info)), 0.0)
    assert link.parameters == LinkParameters(*taken)


@pytest.mark.parametrize("info_max", [1, 2, 3])
def test_a_meter_that_takes_hardly_an_octet_a_frame_is_still_talked_to(info_max: int) -> None:
    client, server = HdlcClientLink(17, METER, info_max=128, window=7), HdlcServerLink(METER, info_max=info_max)
    client.connect(0.0)
    heard: list[bytes] = []

    def turn(now: float) -> bool:
        for event in events(server):
            if isinstance(event, ApduReceived):
                server.send(event.apdu[::-1], now)
        for event in events(client):
            if isinstance(event, LinkUp):
                client.send(b"a question", now)
            elif isinstance(event, ApduReceived):
                heard.append(event.apdu)
        return bool(heard)

    line = Slow(9600), Slow(9600)
    Loop(client, server, *line, turn).run(limit_s=60.0)
    assert heard == [b"noitseuq a"]


# ---- lines


@pytest.mark.parametrize("late_s", [0.0, 0.016])
@pytest.mark.parametrize(("client", "server"), [(17, "1/17"), (16, 1), (1, 1)])
def test_the_echo_of_the_own_frames_is_not_taken_for_the_meter(client: int, server: int | str, late_s: float) -> None:
    link, meter = HdlcClientLink(client, server, octet_s=OCTET_S), HdlcServerLink(server)
    link.connect(0.0)
    requests, answers, now, down = [b"\xc0%d" % number for number in range(20)], [], 0.0, None
    while down is None:
        burst = link.take_output()
        if burst:
            now += len(burst) * OCTET_S
            link.receive(burst, now + late_s)
            meter.receive(burst, now)
        for event in events(meter):
            if isinstance(event, ApduReceived):
                meter.send(b"\xc4" + event.apdu, now)
        if answer := meter.take_output():
            now += TURNAROUND_S + len(answer) * OCTET_S
            link.receive(answer, now)
        elif not burst and (deadline := link.next_deadline()) is not None:
            now = max(now, deadline)
            link.on_deadline(now)
        for event in events(link):
            if isinstance(event, LinkDown):
                down = event
            elif isinstance(event, ApduReceived):
                answers.append(event.apdu)
            if down is None:
                link.send(requests[len(answers)], now) if len(answers) < len(requests) else link.disconnect(now)
    assert down == LinkDown(None)
    assert answers == [b"\xc4" + request for request in requests]
    assert now < 10.0


class Speaking:
    """A station on a line that one side uses at a time: it hears nothing of what crosses its own speaking."""

    def __init__(self, link: HdlcClientLink | HdlcServerLink) -> None:
        self._link = link
        self._from = self._until = 0.0
        self._now = 0.0
        self.alarm: float | None = None
        self.crossed = 0

    def receive(self, data: bytes, now: float) -> None:
        self._now = now
        if now - len(data) * OCTET_S < self._until and now > self._from:
            self.crossed += 1
        else:
            self._link.receive(data, now)

    def take_output(self) -> bytes:
        data = self._link.take_output()
        if data:
            self._from, self._until = self._now, self._now + len(data) * OCTET_S
        return data

    def next_deadline(self) -> float | None:
        due = [at for at in (self._link.next_deadline(), self.alarm) if at is not None]
        return min(due, default=None)

    def on_deadline(self, now: float) -> None:
        self._now = now
        self._link.on_deadline(now)


CROSSING = (1.01,)  # seconds behind the request at which an answer meets the question for it


@pytest.mark.parametrize("think_s", [0.1, 0.9, 1.01, 1.05, 1.5, 2.0, 2.9])
def test_a_meter_that_answers_when_it_is_asked_again_on_a_half_duplex_line_is_understood_in_the_end(
    think_s: float,
) -> None:
    """Quick answers at first, so that the wait is short; then answers that cross the next question."""
    client, server = HdlcClientLink(17, 1, octet_s=OCTET_S), HdlcServerLink(1, answer_s=10.0)
    left, right = Speaking(client), Speaking(server)
    client.connect(0.0)
    thinking: list[tuple[float, bytes]] = []
    answers: list[bytes] = []
    down: list[LinkDown] = []

    def turn(now: float) -> bool:
        asked = [event.apdu for event in events(server) if isinstance(event, ApduReceived)]
        thinking.extend((now + (think_s if apdu[1] % 2 else 0.01), apdu) for apdu in asked)
        while thinking and thinking[0][0] <= now:
            server.send(b"\xc4" + thinking.pop(0)[1], now)
        right.alarm = thinking[0][0] if thinking else None
        for event in events(client):
            if isinstance(event, LinkDown):
                down.append(event)
                continue
            if isinstance(event, ApduReceived):
                answers.append(event.apdu)
            client.send(bytes((0xC0, len(answers))), now) if len(answers) < 9 else client.disconnect(now)
        return bool(down)

    Loop(left, right, Slow(9600), Slow(9600), turn).run(limit_s=120.0)
    assert down == [LinkDown(None)]
    assert answers == [bytes((0xC4, 0xC0, number)) for number in range(9)]
    assert (left.crossed > 0) == (think_s in CROSSING)
