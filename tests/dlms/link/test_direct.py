"""What the links have in common whose transport is connected already: the LLC and the wrapper, over TCP and UDP."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from dlms.errors import LinkError, LocalError
from dlms.link.datalink import ApduReceived, LinkDown, LinkUp
from dlms.link.direct import DirectLink, DirectState, DirectStep
from dlms.link.llc import LSDU_BYTES_MAX, LlcLink
from dlms.link.wrapper import APDU_BYTES_MAX, UDP_APDU_BYTES_MAX, WrapperFrame, WrapperLink, WrapperUdpLink
from tests.dlms.hdlc_frames import events
from tests.dlms.table_walk import take_step

TIMEOUT_S = 7.0
DATA_NOTIFICATION = bytes.fromhex("0f0000000100" + "0203")

LINKS: dict[str, tuple[Callable[[], DirectLink], int]] = {
    "llc": (lambda: LlcLink(16, 1, answer_timeout_s=TIMEOUT_S), LSDU_BYTES_MAX),
    "wrapper": (lambda: WrapperLink(16, 1, answer_timeout_s=TIMEOUT_S), APDU_BYTES_MAX),
    "wrapper over packets": (lambda: WrapperLink(16, 1, packet=True, answer_timeout_s=TIMEOUT_S), UDP_APDU_BYTES_MAX),
    "wrapper-udp": (lambda: WrapperUdpLink(16, 1, answer_timeout_s=TIMEOUT_S, apdu_bytes_max=1224), 1224),
}


def link_in(name: str, state: DirectState) -> DirectLink:
    link = LINKS[name][0]()
    if state is not DirectState.IDLE:
        link.connect(0.0)
    if state is DirectState.CLOSED:
        link.disconnect(0.0)
    events(link)
    return link


def answer(name: str, apdu: bytes) -> bytes:
    return apdu if name == "llc" else WrapperFrame(1, 16, apdu).emit()


@pytest.mark.parametrize(("state", "step"), list(itertools.product(DirectState, DirectStep)))
def test_every_pair_of_state_and_step_moves_as_the_table_says_or_changes_nothing(
    state: DirectState, step: DirectStep
) -> None:
    take_step(link_in("wrapper", state), step)


@pytest.mark.parametrize("name", LINKS)
def test_connecting_is_immediate_and_happens_once(name: str) -> None:
    make, longest = LINKS[name]
    link = make()
    link.connect(0.0)
    assert events(link) == [LinkUp(longest, apdu_bytes_max=longest, may_repeat=name != "wrapper")]
    with pytest.raises(LocalError):
        link.connect(0.0)


@pytest.mark.parametrize("name", LINKS)
def test_an_apdu_that_does_not_fit_is_refused(name: str) -> None:
    link = link_in(name, DirectState.UP)
    for apdu in (b"", bytes(LINKS[name][1] + 1)):
        with pytest.raises(LocalError):
            link.send(apdu, 0.0)
    link.send(bytes(LINKS[name][1]), 0.0)


@pytest.mark.parametrize("name", LINKS)
def test_an_answer_that_does_not_come_ends_the_link_and_nothing_is_sent_again(name: str) -> None:
    link = link_in(name, DirectState.UP)
    link.send(b"get", 5.0)
    link.take_output()
    assert link.next_deadline() == 5.0 + TIMEOUT_S
    link.on_deadline(5.0 + TIMEOUT_S)
    (down,) = events(link)
    assert isinstance(down, LinkDown)
    assert isinstance(down.error, LinkError)
    assert link.take_output() == b""
    assert link.next_deadline() is None
    with pytest.raises(LocalError):
        link.send(b"get", 40.0)


@pytest.mark.parametrize("name", LINKS)
def test_the_answer_is_still_waited_for_behind_a_notification(name: str) -> None:
    link = link_in(name, DirectState.UP)
    link.send(b"\xc0get", 5.0)
    link.receive(answer(name, DATA_NOTIFICATION), 6.0)
    assert events(link) == [ApduReceived(DATA_NOTIFICATION)]
    assert link.next_deadline() == 5.0 + TIMEOUT_S
    link.receive(answer(name, b"\xc4"), 7.0)
    assert link.next_deadline() is None


@pytest.mark.parametrize("name", LINKS)
def test_the_end_of_the_transport_ends_the_link_once(name: str) -> None:
    link = link_in(name, DirectState.UP)
    link.send(b"get", 0.0)
    link.receive_eof(0.0)
    link.receive_eof(0.0)
    (down,) = events(link)
    assert isinstance(down, LinkDown)
    assert isinstance(down.error, LinkError)
    assert link.take_output() == b""


@pytest.mark.parametrize("name", LINKS)
def test_what_comes_outside_a_connection_means_nothing(name: str) -> None:
    for state in (DirectState.IDLE, DirectState.CLOSED):
        link = link_in(name, state)
        link.receive(answer(name, b"late"), 0.0)
        assert events(link) == []
