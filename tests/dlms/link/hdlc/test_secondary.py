"""The meter's HDLC link: every state and step, and when it speaks."""

from __future__ import annotations

import itertools

import pytest

from dlms.errors import DlmsError, LocalError
from dlms.link.datalink import ApduReceived, LinkDown, LinkUp
from dlms.link.hdlc.frames import CONTROLS, FrameType, HdlcAddress, HdlcFrame, information_control
from dlms.link.hdlc.params import FrameReject, LinkParameters
from dlms.link.hdlc.primary import HdlcServerLink
from dlms.link.hdlc.secondary import ANSWER_S, ServerState, ServerStep
from tests.dlms.hdlc_frames import (
    CLIENT,
    COMMAND,
    METER,
    RESPONSE,
    command,
    events,
    frames,
    i_command,
    rr_command,
    short,
    shown,
)
from tests.dlms.table_walk import take_step


def server_in(state: ServerState) -> HdlcServerLink:
    link = HdlcServerLink(METER)
    if state in (ServerState.CONNECTED, ServerState.REJECTING):
        link.receive(HdlcFrame(METER, CLIENT, 0x93).emit(), 0.0)
    if state is ServerState.REJECTING:
        link.receive(HdlcFrame(METER, CLIENT, 0x3F).emit(), 0.0)
    if state is ServerState.CLOSED:
        link.receive_eof(0.0)
    assert link.state is state
    link.take_output()
    events(link)
    return link


@pytest.mark.parametrize(("state", "step"), list(itertools.product(ServerState, ServerStep)))
def test_every_pair_of_server_state_and_step_moves_as_the_table_says_or_changes_nothing(
    state: ServerState, step: ServerStep
) -> None:
    take_step(server_in(state), step)


@pytest.mark.parametrize("state", ServerState)
def test_no_frame_raises_in_any_state_of_the_server_and_it_never_speaks_without_the_turn(state: ServerState) -> None:
    for control, info in itertools.product(range(256), (b"", b"\x01\x02", COMMAND + b"apdu")):
        link = server_in(state)
        link.receive(HdlcFrame(METER, CLIENT, control, info).emit(), 0.0)
        link.on_deadline(10.0)
        output = frames(link.take_output())
        assert len(output) <= 1
        if not CONTROLS[control].poll_final and CONTROLS[control].type not in (FrameType.SNRM, FrameType.DISC):
            assert output == []


def test_the_server_agrees_to_the_smaller_parameters_and_says_them() -> None:
    link = HdlcServerLink(METER, info_max=256, window=3)
    link.receive(command(0x93, LinkParameters(1024, 128, 7, 1).emit()), 0.0)
    (ua,) = frames(link.take_output())
    assert short(ua) == "UA P"
    assert LinkParameters.parse(ua.info) == LinkParameters(128, 256, 1, 3)
    assert events(link) == [LinkUp(125)]
    assert link.client == 17


def test_the_server_answers_in_the_burst_that_gives_the_turn_back() -> None:
    link = server_in(ServerState.CONNECTED)
    link.receive(i_command(0, 0, b"get"), 0.0)
    assert events(link) == [ApduReceived(b"get")]
    assert link.take_output() == b""
    link.send(b"answer", 0.1)
    (frame,) = frames(link.take_output())
    assert short(frame) == "I 0 1 P"
    assert frame.info == RESPONSE + b"answer"


def test_a_server_whose_application_is_slow_gives_the_turn_back_and_answers_when_asked() -> None:
    link = server_in(ServerState.CONNECTED)
    link.receive(i_command(0, 0, b"get"), 0.0)
    assert link.next_deadline() == ANSWER_S
    link.on_deadline(ANSWER_S)
    assert shown(link.take_output()) == ["RR 1 P"]
    link.send(b"answer", 1.0)
    assert link.take_output() == b""
    link.receive(rr_command(0), 1.1)
    assert shown(link.take_output()) == ["I 0 1 P"]


def test_the_server_repeats_an_answer_that_was_not_acknowledged_and_hears_no_request_twice() -> None:
    link = server_in(ServerState.CONNECTED)
    link.receive(i_command(0, 0, b"get"), 0.0)
    link.send(b"answer", 0.0)
    first = link.take_output()
    events(link)
    for again in (rr_command(0), i_command(0, 0, b"get"), rr_command(0, FrameType.REJ)):
        link.receive(again, 0.0)
        assert link.take_output() == first
        assert events(link) == []
    link.receive(i_command(1, 1, b"next"), 0.0)
    assert events(link) == [ApduReceived(b"next")]


def test_the_server_holds_back_data_from_a_busy_client() -> None:
    link = server_in(ServerState.CONNECTED)
    link.send(b"news", 0.0)
    link.receive(rr_command(0, FrameType.RNR), 0.0)
    assert shown(link.take_output()) == ["RR 0 P"]
    link.receive(rr_command(0), 0.0)
    assert shown(link.take_output()) == ["I 0 0 P"]


def test_the_server_refuses_who_is_not_connected_with_dm() -> None:
    link = server_in(ServerState.DISCONNECTED)
    link.receive(rr_command(0), 0.0)
    assert shown(link.take_output()) == ["DM P"]
    link = server_in(ServerState.CONNECTED)
    link.receive(command(0x53, source=HdlcAddress(16)), 0.0)
    assert shown(link.take_output()) == ["DM P"]
    assert link.state is ServerState.CONNECTED


@pytest.mark.parametrize(
    ("frame", "reasons"),
    [
        (command(0x3F), FrameReject.UNKNOWN_COMMAND),
        (i_command(0, 0, bytes(200)), FrameReject.INFO_TOO_LONG),
        (rr_command(3), FrameReject.WRONG_NUMBER),
    ],
)
def test_the_server_rejects_what_cannot_be_until_it_is_connected_anew(frame: bytes, reasons: int) -> None:
    link = server_in(ServerState.CONNECTED)
    link.receive(frame, 0.0)
    link.receive(rr_command(0), 0.0)
    first, second = frames(link.take_output())
    assert FrameReject.parse(first.info).reasons == reasons
    assert second == first
    link.receive(command(0x93), 0.0)
    assert shown(link.take_output()) == ["UA P"]
    assert link.state is ServerState.CONNECTED


def test_a_new_snrm_begins_a_new_connection() -> None:
    link = server_in(ServerState.CONNECTED)
    link.receive(i_command(0, 0, b"get"), 0.0)
    events(link)
    link.receive(command(0x93, source=HdlcAddress(16)), 0.0)
    assert events(link) == [LinkDown(None), LinkUp(125)]
    assert link.client == 16


def test_the_server_hears_its_addresses_and_no_others() -> None:
    link = HdlcServerLink(17, aliases=("1/17",))
    link.receive(command(0x93, to=HdlcAddress(1, 18)), 0.0)
    link.receive(command(0x93, to=HdlcAddress(0x7F)), 0.0)
    assert link.take_output() == b""
    link.receive(command(0x93, to=HdlcAddress(1, 17, size=4)), 0.0)
    (ua,) = frames(link.take_output())
    assert ua.source.emit() == HdlcAddress(1, 17, size=4).emit()


@pytest.mark.parametrize("info", [b"", COMMAND, b"\xe6", b"\xe6\xe6\x01x"])
def test_the_server_leaves_a_client_that_sends_no_apdu(info: bytes) -> None:
    link = server_in(ServerState.CONNECTED)
    link.receive(command(0x10, info), 0.0)
    (down,) = events(link)
    assert isinstance(down, LinkDown)
    assert isinstance(down.error, DlmsError)
    assert link.state is ServerState.DISCONNECTED


def test_the_server_leaves_a_client_whose_request_grows_without_end() -> None:
    link = HdlcServerLink(METER, info_max=2030, window=7)
    link.receive(command(0x93, LinkParameters(2030, 2030, 7, 7).emit()), 0.0)
    events(link), link.take_output()
    for number in range(40):
        control = information_control(number % 8, 0, poll_final=True)
        link.receive(HdlcFrame(METER, CLIENT, control, bytes(2000), segmented=True).emit(), 0.0)
        assert len(link.take_output()) < 20
    (down,) = events(link)
    assert isinstance(down, LinkDown)
    assert isinstance(down.error, DlmsError)


def test_a_broadcast_is_heard_and_not_answered() -> None:
    link = server_in(ServerState.CONNECTED)
    link.receive(command(0x03, COMMAND + b"all", to=HdlcAddress(0x7F)), 0.0)
    assert events(link) == [ApduReceived(b"all")]
    assert link.take_output() == b""


def test_the_server_forgets_a_client_that_is_silent_for_too_long() -> None:
    link = HdlcServerLink(METER, inactivity_timeout_s=120.0)
    link.receive(command(0x93), 0.0)
    link.receive(rr_command(0), 60.0)
    assert link.next_deadline() == 180.0
    events(link), link.take_output()
    link.on_deadline(180.0)
    (down,) = events(link)
    assert isinstance(down, LinkDown)
    assert isinstance(down.error, DlmsError)
    assert link.state is ServerState.DISCONNECTED


def test_the_server_does_not_send_before_a_connection() -> None:
    for state in (ServerState.DISCONNECTED, ServerState.REJECTING, ServerState.CLOSED):
        link = server_in(state)
        with pytest.raises(LocalError):
            link.send(b"x", 0.0)
    with pytest.raises(LocalError):
        server_in(ServerState.CLOSED).connect(0.0)
