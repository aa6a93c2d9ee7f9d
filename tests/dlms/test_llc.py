"""The packet link over the PLC bridge."""

from __future__ import annotations

import itertools

import pytest

from dlms.datalink import ApduReceived, LinkDown, LinkUp
from dlms.errors import LinkError, LocalError
from dlms.llc import ANSWER_TIMEOUT_S, LLC_TRANSITIONS, LSDU_BYTES_MAX, LlcLink, LlcState, LlcStep
from tests.dlms.hdlc_frames import events


def link_in(state: LlcState) -> LlcLink:
    link = LlcLink(16, 1)
    if state is not LlcState.IDLE:
        link.connect(0.0)
    if state is LlcState.CLOSED:
        link.disconnect(0.0)
    events(link)
    return link


@pytest.mark.parametrize(("state", "step"), list(itertools.product(LlcState, LlcStep)))
def test_every_pair_of_state_and_step_moves_as_the_table_says_or_changes_nothing(
    state: LlcState, step: LlcStep
) -> None:
    link = link_in(state)
    target = LLC_TRANSITIONS.get((state, step))
    if target is None:
        with pytest.raises(LocalError):
            link._step(step)
        assert link.state is state
    else:
        link._step(step)
        assert link.state is target


def test_one_lsdu_is_one_apdu_both_ways() -> None:
    link = LlcLink(16, 1)
    link.connect(0.0)
    assert events(link) == [LinkUp(LSDU_BYTES_MAX, apdu_bytes_max=LSDU_BYTES_MAX, may_repeat=True)]
    link.send(b"one", 0.0)
    link.send(b"two", 0.0)
    assert [link.take_output(), link.take_output(), link.take_output()] == [b"one", b"two", b""]
    link.receive(b"ONE", 1.0)
    assert events(link) == [ApduReceived(b"ONE")]
    assert link.next_deadline() is None
    assert (link.client, link.server) == (16, 1)


@pytest.mark.parametrize("apdu", [b"", bytes(LSDU_BYTES_MAX + 1)])
def test_an_apdu_that_does_not_fit_is_refused(apdu: bytes) -> None:
    with pytest.raises(LocalError):
        link_in(LlcState.UP).send(apdu, 0.0)


def test_an_answer_that_does_not_come_ends_the_link_and_nothing_is_sent_again() -> None:
    link = link_in(LlcState.UP)
    link.send(b"get", 0.0)
    link.take_output()
    assert link.next_deadline() == ANSWER_TIMEOUT_S
    link.on_deadline(ANSWER_TIMEOUT_S)
    (down,) = events(link)
    assert isinstance(down, LinkDown)
    assert isinstance(down.error, LinkError)
    assert link.take_output() == b""


def test_the_meters_side_waits_for_ever() -> None:
    link = LlcLink(16, 1, answer_timeout_s=None)
    link.connect(0.0)
    link.send(b"answer", 0.0)
    assert link.next_deadline() is None


@pytest.mark.parametrize("end", ["packet_failed", "receive_eof"])
def test_a_packet_that_was_not_delivered_or_a_closed_bridge_ends_the_link_once(end: str) -> None:
    link = link_in(LlcState.UP)
    link.send(b"get", 0.0)
    for _ in range(2):
        if end == "packet_failed":
            link.packet_failed("the base node does not know the address")
        else:
            link.receive_eof(0.0)
    (down,) = events(link)
    assert isinstance(down, LinkDown)
    assert isinstance(down.error, LinkError)
    assert link.take_output() == b""
    assert link.next_deadline() is None


def test_what_comes_outside_a_connection_means_nothing() -> None:
    for state in (LlcState.IDLE, LlcState.CLOSED):
        link = link_in(state)
        link.receive(b"late", 0.0)
        assert events(link) == []
