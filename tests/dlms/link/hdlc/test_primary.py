"""The client's HDLC link: every state and step, and each rule of recovery by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from dlms.errors import DecodeError, LinkError, LocalError, PeerError
from dlms.link.datalink import ApduReceived, LineHeard, LinkDown, LinkUp
from dlms.link.hdlc.frames import FrameType, HdlcAddress, HdlcFrame
from dlms.link.hdlc.params import FrameReject, LinkParameters
from dlms.link.hdlc.primary import (
    ACK_TIMEOUT_S,
    ANSWER_TIMEOUT_S,
    POLL_INTERVAL_S,
    RETRIES,
    TRANSITIONS,
    HdlcClientLink,
    State,
    Step,
)
from tests.dlms.hdlc_frames import (
    CLIENT,
    COMMAND,
    DM,
    METER,
    RESPONSE,
    UA,
    events,
    frames,
    i_frame,
    response,
    rr,
    short,
    shown,
)
from tests.dlms.table_walk import take_step


def connected(*, info_max: int = 128, window: int = 1) -> HdlcClientLink:
    link = HdlcClientLink(17, METER, info_max=info_max, window=window)
    link.connect(0.0)
    link.take_output()
    info = LinkParameters(info_max, info_max, window, window).emit()
    link.receive(response(0x73, info), 0.0)
    assert events(link) == [LinkUp(info_max - 3, info_max * window - 3, ends_association=True)]
    return link


# ---- the state tables


def client_in(state: State) -> HdlcClientLink:
    """A link in this state, reached by what happens in life."""
    if state is State.IDLE:
        return HdlcClientLink(17, METER)
    if state is State.CONNECTING:
        link = HdlcClientLink(17, METER)
        link.connect(0.0)
        link.take_output()
        return link
    link = connected()
    if state in (State.WAITING, State.RESTING):
        link.send(b"request", 0.0)
    if state is State.RESTING:
        link.receive(rr(1), 0.0)
    if state in (State.DISCONNECTING, State.CLOSED):
        link.disconnect(0.0)
    if state is State.CLOSED:
        link.receive(UA, 0.0)
    assert link.state is state
    link.take_output()
    events(link)
    return link


@pytest.mark.parametrize(("state", "step"), list(itertools.product(State, Step)))
def test_every_pair_of_client_state_and_step_moves_as_the_table_says_or_changes_nothing(
    state: State, step: Step
) -> None:
    take_step(client_in(state), step)


@pytest.mark.parametrize("state", State)
def test_the_verbs_are_refused_or_obeyed_in_every_client_state(state: State) -> None:
    verbs: dict[Step, Callable[[HdlcClientLink], None]] = {
        Step.CONNECT: lambda link: link.connect(1.0),
        Step.SEND: lambda link: link.send(b"x", 1.0),
        Step.DISCONNECT: lambda link: link.disconnect(1.0),
    }
    for step, verb in verbs.items():
        link = client_in(state)
        if (state, step) in TRANSITIONS:
            verb(link)
        else:
            with pytest.raises(LocalError):
                verb(link)
            assert link.state is state
            assert link.take_output() == b""
            assert events(link) == []


@pytest.mark.parametrize("state", State)
@pytest.mark.slow
def test_no_frame_raises_or_hangs_the_client_in_any_state(state: State) -> None:
    for control, info in itertools.product(range(256), (b"", b"\x01\x02", RESPONSE + b"apdu")):
        link = client_in(state)
        link.receive(response(control, info), 0.0)
        link.take_output()
        if link.state not in (State.IDLE, State.READY, State.CLOSED):
            assert link.next_deadline() is not None


@pytest.mark.parametrize("state", State)
def test_the_end_of_the_port_ends_the_client_in_every_state_once(state: State) -> None:
    link = client_in(state)
    link.receive_eof(1.0)
    link.receive_eof(1.0)
    assert link.state is State.CLOSED
    assert link.next_deadline() is None
    downs = events(link)
    assert len(downs) == (0 if state is State.CLOSED else 1)


# ---- connecting and leaving


def test_snrm_offers_what_differs_from_the_default_and_ua_settles_it() -> None:
    link = HdlcClientLink(17, METER, info_max=1024, window=7)
    link.connect(0.0)
    (snrm,) = frames(link.take_output())
    assert LinkParameters.parse(snrm.info) == LinkParameters(1024, 1024, 7, 7)
    link.receive(response(0x73, LinkParameters(128, 256, 1, 3).emit()), 0.0)
    assert link.parameters == LinkParameters(256, 128, 3, 1)
    assert events(link) == [LinkUp(125, 125, ends_association=True)]


def test_snrm_is_repeated_and_given_up() -> None:
    link = HdlcClientLink(17, METER)
    link.connect(0.0)
    for _ in range(RETRIES + 1):
        assert shown(link.take_output()) == ["SNRM P"]
        deadline = link.next_deadline()
        assert deadline is not None
        link.on_deadline(deadline)
    (down,) = events(link)
    assert isinstance(down, LinkDown)
    assert isinstance(down.error, LinkError)
    assert link.take_output() == b""
    link.connect(100.0)
    assert shown(link.take_output()) == ["SNRM P"]


def test_dm_refuses_a_connection() -> None:
    link = HdlcClientLink(17, METER)
    link.connect(0.0)
    link.receive(DM, 0.0)
    (down,) = events(link)
    assert isinstance(down, LinkDown)
    assert isinstance(down.error, PeerError)


def test_parameters_that_make_no_sense_end_the_connection() -> None:
    link = HdlcClientLink(17, METER)
    link.connect(0.0)
    link.receive(response(0x73, b"\x81\x80\x05\x05"), 0.0)
    (down,) = events(link)
    assert isinstance(down, LinkDown)
    assert isinstance(down.error, DecodeError)


@pytest.mark.parametrize("answer", [UA, DM])
def test_disc_is_answered_by_ua_or_dm(answer: bytes) -> None:
    link = connected()
    link.disconnect(0.0)
    assert shown(link.take_output()) == ["DISC P"]
    link.receive(answer, 0.0)
    assert events(link) == [LinkDown(None)]
    link.disconnect(0.0)
    assert events(link) == []


def test_disc_without_an_answer_ends_the_link_all_the_same() -> None:
    link = connected()
    link.disconnect(0.0)
    for _ in range(RETRIES + 1):
        assert shown(link.take_output()) == ["DISC P"]
        deadline = link.next_deadline()
        assert deadline is not None
        link.on_deadline(deadline)
    assert events(link) == [LinkDown(None)]


def test_dm_and_frmr_end_a_connection_with_what_the_meter_said() -> None:
    for frame, text in ((DM, "not connected"), (response(0x97, FrameReject(0x10, 0, 0, 4).emit()), "too long")):
        link = connected()
        link.send(b"x", 0.0)
        link.receive(frame, 0.0)
        (down,) = events(link)
        assert isinstance(down, LinkDown)
        assert isinstance(down.error, PeerError)
        assert text in str(down.error)


def test_frames_of_others_on_the_bus_are_left_alone() -> None:
    link = HdlcClientLink(17, METER)
    link.connect(0.0)
    link.receive(HdlcFrame(CLIENT, HdlcAddress(1, 18), 0x73).emit(), 0.0)
    link.receive(HdlcFrame(HdlcAddress(16), METER, 0x73).emit(), 0.0)
    link.receive(HdlcFrame(METER, CLIENT, 0x93).emit(), 0.0)
    assert events(link) == []
    link.receive(HdlcFrame(CLIENT, HdlcAddress(1, 17, size=4), 0x73).emit(), 0.0)
    assert events(link) == [LinkUp(125, 125, ends_association=True)]


# ---- transfer


def test_an_exchange_takes_one_frame_each_way_and_the_next_request_acknowledges() -> None:
    link = connected()
    link.send(b"one", 0.0)
    (frame,) = frames(link.take_output())
    assert short(frame) == "I 0 0 P"
    assert frame.info == COMMAND + b"one"
    link.receive(i_frame(0, 1, b"ONE"), 0.1)
    assert events(link) == [ApduReceived(b"ONE")]
    assert link.take_output() == b""
    assert link.next_deadline() is None
    link.send(b"two", 0.2)
    assert shown(link.take_output()) == ["I 1 1 P"]


def test_a_long_request_is_sent_in_bursts_of_the_window() -> None:
    link = connected(info_max=32, window=3)
    link.send(bytes(32 * 4), 0.0)
    assert shown(link.take_output()) == ["I 0 0 S", "I 1 0 S", "I 2 0 P S"]
    link.receive(rr(3), 0.1)
    assert shown(link.take_output()) == ["I 3 0 S", "I 4 0 P"]


def test_a_long_answer_is_asked_for_segment_by_segment() -> None:
    link = connected()
    link.send(b"x", 0.0)
    link.take_output()
    link.receive(i_frame(0, 1, b"AB", more=True), 0.0)
    assert shown(link.take_output()) == ["RR 1 P"]
    link.receive(i_frame(1, 1, b"CD", first=False), 0.0)
    assert events(link) == [ApduReceived(b"ABCD")]


def test_requests_wait_for_the_turn() -> None:
    link = connected()
    link.send(b"one", 0.0)
    link.take_output()
    link.send(b"two", 0.0)
    assert link.take_output() == b""
    link.receive(i_frame(0, 1, b"ONE"), 0.0)
    assert shown(link.take_output()) == ["I 1 1 P"]


def test_an_answer_without_an_llc_header_ends_the_link() -> None:
    link = connected()
    link.send(b"x", 0.0)
    link.receive(i_frame(0, 1, b"abc", first=False), 0.0)
    (down,) = events(link)
    assert isinstance(down, LinkDown)
    assert isinstance(down.error, DecodeError)


def test_misuse_of_send_is_refused() -> None:
    link = connected()
    for apdu in (b"", bytes(65537)):
        with pytest.raises(LocalError):
            link.send(apdu, 0.0)
    assert link.take_output() == b""


def test_poll_asks_the_meter_for_what_it_has_to_say() -> None:
    link = connected()
    link.poll(0.0)
    assert shown(link.take_output()) == ["RR 0 P"]
    link.receive(i_frame(0, 0, b"news"), 0.0)
    assert events(link) == [ApduReceived(b"news")]
    with pytest.raises(LocalError):
        client_in(State.IDLE).poll(0.0)


def test_an_unnumbered_information_frame_is_an_apdu() -> None:
    link = connected()
    link.receive(response(0x03, RESPONSE + b"pushed"), 0.0)
    assert events(link) == [ApduReceived(b"pushed")]


@pytest.mark.parametrize(
    "frame",
    [
        response(0x03, RESPONSE + b"\x0fbegun", segmented=True),
        response(0x03, b"and the rest"),
        response(0x03, RESPONSE + b"\xe0\x40block"),
        response(0x03, RESPONSE),
    ],
    ids=["segmented", "rest", "in-blocks", "empty"],
)
def test_a_part_of_a_pushed_message_is_no_apdu_and_ends_no_conversation(frame: bytes) -> None:
    link = connected()
    link.send(b"\xc0get", 0.0)
    link.take_output()
    link.receive(frame, 0.1)
    assert events(link) == []
    link.receive(i_frame(0, 1, b"\xc4answer"), 0.2)
    assert events(link) == [ApduReceived(b"\xc4answer")]


# ---- recovery


def test_a_lost_request_is_found_out_by_rr_and_sent_again() -> None:
    link = connected()
    link.send(b"x", 0.0)
    (request,) = frames(link.take_output())
    assert link.next_deadline() == ACK_TIMEOUT_S
    link.on_deadline(ACK_TIMEOUT_S)
    assert shown(link.take_output()) == ["RR 0 P"]
    link.receive(rr(0), 3.1)
    assert frames(link.take_output()) == [request]


def test_a_lost_answer_is_asked_for_and_the_request_is_not_sent_again() -> None:
    link = connected()
    link.send(b"x", 0.0)
    link.take_output()
    link.on_deadline(ACK_TIMEOUT_S)
    assert shown(link.take_output()) == ["RR 0 P"]
    link.receive(i_frame(0, 1, b"X"), 3.1)
    assert events(link) == [ApduReceived(b"X")]


def test_a_damaged_answer_is_asked_for_without_waiting_for_the_whole_timeout() -> None:
    link = connected()
    link.send(b"x", 0.0)
    link.take_output()
    damaged = bytearray(i_frame(0, 1, b"X"))
    damaged[-3] ^= 1
    link.receive(bytes(damaged), 0.1)
    deadline = link.next_deadline()
    assert deadline is not None
    assert deadline < 1.0
    link.on_deadline(deadline)
    assert shown(link.take_output()) == ["RR 0 P"]


def test_an_old_answer_again_is_neither_delivered_nor_taken_for_the_new_one() -> None:
    link = connected()
    link.send(b"one", 0.0)
    link.receive(i_frame(0, 1, b"ONE"), 0.0)
    link.send(b"two", 0.0)
    events(link), link.take_output()
    link.receive(i_frame(0, 1, b"ONE"), 0.1)
    assert events(link) == []
    assert link.take_output() == b""
    assert link.state is State.WAITING
    link.receive(i_frame(1, 2, b"TWO"), 0.2)
    assert events(link) == [ApduReceived(b"TWO")]


def test_a_gap_in_a_window_is_asked_for_again() -> None:
    link = connected(info_max=32, window=3)
    link.send(b"x", 0.0)
    link.take_output()
    link.receive(i_frame(0, 1, b"A", final=False, more=True), 0.0)
    link.receive(i_frame(2, 1, b"C", first=False), 0.0)
    assert shown(link.take_output()) == ["RR 1 P"]
    link.receive(i_frame(1, 1, b"B", first=False, final=False, more=True) + i_frame(2, 1, b"C", first=False), 0.0)
    assert events(link) == [ApduReceived(b"ABC")]


@pytest.mark.parametrize("kind", [FrameType.RR, FrameType.REJ])
def test_the_rest_of_a_window_is_sent_again_from_where_the_meter_lost_it(kind: FrameType) -> None:
    link = connected(info_max=32, window=7)
    link.send(bytes(32 * 3), 0.0)
    assert len(frames(link.take_output())) == 4
    link.receive(rr(2, kind), 0.0)
    assert shown(link.take_output()) == ["I 2 0 S", "I 3 0 P"]


def test_a_busy_meter_is_asked_again_after_a_while_and_no_data_goes_out_meanwhile() -> None:
    link = connected()
    link.send(bytes(300), 0.0)
    link.take_output()
    link.receive(rr(1, FrameType.RNR), 0.0)
    assert link.state is State.RESTING
    assert link.take_output() == b""
    assert link.next_deadline() == POLL_INTERVAL_S
    link.on_deadline(POLL_INTERVAL_S)
    assert shown(link.take_output()) == ["RR 0 P"]
    link.receive(rr(1), 1.0)
    assert shown(link.take_output()) == ["I 1 0 P S"]


def test_a_meter_that_acknowledges_and_has_no_answer_yet_is_asked_until_the_answer_timeout() -> None:
    link = connected()
    link.send(b"x", 0.0)
    link.receive(rr(1), 0.0)
    now = 0.0
    while link.state is not State.CLOSED:
        deadline = link.next_deadline()
        assert deadline is not None
        now = deadline
        link.on_deadline(now)
        if link.take_output():
            link.receive(rr(1), now)
    assert ANSWER_TIMEOUT_S <= now <= ANSWER_TIMEOUT_S + 1.0
    (down,) = events(link)
    assert isinstance(down, LinkDown)
    assert isinstance(down.error, LinkError)


def test_answers_without_progress_end_the_link() -> None:
    link = connected(info_max=32, window=7)
    link.send(bytes(90), 0.0)
    now = 0.0
    for _ in range(100):
        if link.take_output():
            link.receive(rr(0), now)
        elif link.state is not State.CLOSED:
            deadline = link.next_deadline()
            assert deadline is not None
            now = deadline
            link.on_deadline(now)
    (down,) = events(link)
    assert isinstance(down, LinkDown)
    assert isinstance(down.error, LinkError)


def test_receive_numbers_that_cannot_be_are_left_alone() -> None:
    link = connected()
    link.send(b"x", 0.0)
    link.take_output()
    link.receive(rr(5), 0.0)
    assert link.state is State.WAITING
    link.receive(i_frame(0, 1, b"X"), 0.0)
    assert events(link) == [ApduReceived(b"X")]


def test_an_answer_that_grows_without_end_ends_the_link() -> None:
    link = connected(info_max=2030)
    link.send(b"x", 0.0)
    for number in range(60):
        link.receive(i_frame(number % 8, 1, bytes(2000), more=True, first=number == 0), 0.0)
    (down,) = events(link)
    assert isinstance(down, LinkDown)
    assert isinstance(down.error, LinkError)


def test_behind_a_notification_the_meter_is_asked_for_the_answer() -> None:
    link = connected()
    link.send(b"\xc0get", 0.0)
    link.take_output()
    notification = b"\xc2event"
    link.receive(i_frame(0, 1, notification), 0.1)
    assert events(link) == [ApduReceived(notification)]
    assert link.next_deadline() == 0.1 + POLL_INTERVAL_S
    link.on_deadline(0.1 + POLL_INTERVAL_S)
    assert shown(link.take_output()) == ["RR 1 P"]
    link.receive(i_frame(1, 1, b"\xc4answer"), 0.7)
    assert events(link) == [ApduReceived(b"\xc4answer")]
    assert link.next_deadline() is None


ASKING = (State.CONNECTING, State.WAITING, State.RESTING, State.DISCONNECTING)


def run_down(link: HdlcClientLink, now: float) -> float:
    """Let time pass until nothing is waited for; when that was."""
    while (deadline := link.next_deadline()) is not None:
        now = max(now, deadline)
        assert now < 1000.0
        link.on_deadline(now)
    return now


@pytest.mark.slow
@pytest.mark.parametrize("state", ASKING)
def test_after_any_frame_whole_or_damaged_the_link_comes_to_rest_in_bounded_time(state: State) -> None:
    for control, info in itertools.product(range(256), (b"", b"\x01", RESPONSE + b"\xc4x", RESPONSE + b"\xc2x")):
        wire = response(control, info, segmented=control % 3 == 0)
        flipped = wire[:-2] + bytes((wire[-2] ^ 1,)) + wire[-1:]
        for answer in (wire, flipped, wire[:-3], wire[1:-1]):
            link = client_in(state)
            link.receive(answer, 0.0)
            assert run_down(link, 0.0) <= (RETRIES + 2) * ACK_TIMEOUT_S


@pytest.mark.slow
@pytest.mark.parametrize("pause_s", [0.2, ACK_TIMEOUT_S - 0.1])
@pytest.mark.parametrize("state", ASKING)
def test_one_good_frame_after_another_that_does_not_help_ends_the_link_in_bounded_time(
    state: State, pause_s: float
) -> None:
    for control in range(256):
        link, now = client_in(state), 0.0
        while link.next_deadline() is not None:
            link.receive(response(control), now)
            now += pause_s
            link.on_deadline(now)
            assert now <= ANSWER_TIMEOUT_S + (RETRIES + 2) * ACK_TIMEOUT_S


# ---- what was heard, and how a station is asked that is likely not there


@pytest.mark.parametrize(
    ("answers", "octets", "kept"),
    [
        ([], False, LineHeard()),
        ([b"\x55\xaa\x55\xaa\x55"], True, LineHeard(octets=5)),
        ([UA], True, LineHeard(frames=1, turnaround_s=0.5)),
        ([UA + UA], True, LineHeard(frames=2, doubles=1, turnaround_s=0.5)),  # one SNRM, two stations
        ([HdlcFrame(HdlcAddress(18), METER, 0x73, b"").emit()], True, LineHeard(others=1)),
    ],
)
def test_a_link_says_what_it_has_heard(answers: list[bytes], octets: bool, kept: LineHeard) -> None:
    link = HdlcClientLink(17, METER)
    link.connect(0.0)
    for answer in answers:
        link.receive(answer, 0.5)
    kept.octets = sum(map(len, answers)) if octets else 0
    assert link.heard == kept


def test_an_echo_is_no_octet_of_anybody_else() -> None:
    link = HdlcClientLink(17, METER)
    link.connect(0.0)
    link.receive(link.take_output(), 0.1)
    assert link.heard == LineHeard(echoes=1)


def test_a_second_ua_after_a_second_snrm_is_no_second_station() -> None:
    link = HdlcClientLink(17, METER)
    link.connect(0.0)
    deadline = link.next_deadline()
    assert deadline is not None
    link.on_deadline(deadline)
    link.receive(UA + UA, deadline + 0.1)
    assert link.heard.doubles == 0
    assert link.heard.turnaround_s is None


@pytest.mark.parametrize(("second", "doubles"), [(b"\xc4\x01", 0), (b"\xc4\x02", 1)])
def test_one_number_with_two_contents_is_two_stations(second: bytes, doubles: int) -> None:
    link = connected()
    link.send(b"\xc0\x01", 0.0)
    link.take_output()
    link.receive(i_frame(0, 1, b"\xc4\x01") + i_frame(0, 1, second), 0.1)
    assert (link.heard.doubles, link.heard.contradictions) == (doubles, doubles)


def test_a_station_that_is_likely_not_there_is_asked_once_and_shortly_and_then_treated_like_any_other() -> None:
    def asked(link: HdlcClientLink) -> list[float]:
        link.connect(0.0)
        at = [0.0]
        while link.take_output():
            deadline = link.next_deadline()
            assert deadline is not None
            at.append(deadline)
            link.on_deadline(deadline)
        return at

    assert asked(HdlcClientLink(17, METER, connect_tries=1, connect_timeout_s=0.3)) == [0.0, 0.3]
    assert asked(HdlcClientLink(17, METER, connect_tries=2)) == [0.0, ACK_TIMEOUT_S, 2 * ACK_TIMEOUT_S]
    link = HdlcClientLink(17, METER, connect_tries=1, connect_timeout_s=0.3)
    link.connect(0.0)
    link.take_output()
    link.receive(UA, 0.2)
    link.send(b"\xc0\x01", 1.0)
    assert link.next_deadline() == 1.0 + ACK_TIMEOUT_S
