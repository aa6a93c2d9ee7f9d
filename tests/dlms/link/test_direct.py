"""What the links have in common whose transport is connected already: the LLC and the wrapper, over TCP and UDP."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import pytest

from dlms.errors import LinkError, LocalError
from dlms.link.datalink import ApduReceived, LinkDown, LinkUp
from dlms.link.direct import DirectLink, DirectState, DirectStep
from dlms.link.llc import LSDU_BYTES_MAX, LlcLink
from dlms.link.options import LinkOptions
from dlms.link.registry import DATA_LINKS
from dlms.link.wrapper import APDU_BYTES_MAX, UDP_APDU_BYTES_MAX, WrapperFrame, WrapperLink, WrapperUdpLink
from tests.dlms.hdlc_frames import events
from tests.dlms.table_walk import take_step

TIMEOUT_S = 7.0
DATA_NOTIFICATION = bytes.fromhex("0f0000000100" + "0203")


class Row(NamedTuple):
    """A link; the longest APDU that it takes; how the meter frames one; whether a packet may come twice."""

    make: Callable[[], DirectLink]
    longest: int
    framed: Callable[[bytes], bytes]
    may_repeat: bool


def wrapped(apdu: bytes) -> bytes:
    return WrapperFrame(1, 16, apdu).emit()


LINKS = {
    "llc": Row(lambda: LlcLink(16, 1, answer_timeout_s=TIMEOUT_S), LSDU_BYTES_MAX, bytes, may_repeat=True),
    "wrapper": Row(lambda: WrapperLink(16, 1, answer_timeout_s=TIMEOUT_S), APDU_BYTES_MAX, wrapped, may_repeat=False),
    "wrapper over packets": Row(
        lambda: WrapperLink(16, 1, packet=True, answer_timeout_s=TIMEOUT_S),
        UDP_APDU_BYTES_MAX,
        wrapped,
        may_repeat=True,
    ),
    "wrapper-udp": Row(
        lambda: WrapperUdpLink(16, 1, answer_timeout_s=TIMEOUT_S, apdu_bytes_max=1224), 1224, wrapped, may_repeat=True
    ),
}


def test_every_registered_link_over_a_transport_that_is_connected_has_a_row() -> None:
    options = LinkOptions()
    made = {type(link) for kind in DATA_LINKS.values() if isinstance(link := kind.open(options), DirectLink)}
    assert made <= {type(row.make()) for row in LINKS.values()}


def link_in(name: str, state: DirectState) -> DirectLink:
    link = LINKS[name].make()
    if state is not DirectState.IDLE:
        link.connect(0.0)
    if state is DirectState.CLOSED:
        link.disconnect(0.0)
    events(link)
    return link


@pytest.mark.parametrize(("state", "step"), list(itertools.product(DirectState, DirectStep)))
def test_every_pair_of_state_and_step_moves_as_the_table_says_or_changes_nothing(
    state: DirectState, step: DirectStep
) -> None:
    take_step(link_in("wrapper", state), step)


@pytest.mark.parametrize("name", LINKS)
def test_connecting_is_immediate_and_happens_once(name: str) -> None:
    row = LINKS[name]
    link = row.make()
    link.connect(0.0)
    assert events(link) == [LinkUp(row.longest, apdu_bytes_max=row.longest, may_repeat=row.may_repeat)]
    with pytest.raises(LocalError):
        link.connect(0.0)


@pytest.mark.parametrize("name", LINKS)
def test_an_apdu_that_does_not_fit_is_refused(name: str) -> None:
    link = link_in(name, DirectState.UP)
    for apdu in (b"", bytes(LINKS[name].longest + 1)):
        with pytest.raises(LocalError):
            link.send(apdu, 0.0)
    link.send(bytes(LINKS[name].longest), 0.0)


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
    link.receive(LINKS[name].framed(DATA_NOTIFICATION), 6.0)
    assert events(link) == [ApduReceived(DATA_NOTIFICATION)]
    assert link.next_deadline() == 5.0 + TIMEOUT_S
    link.receive(LINKS[name].framed(b"\xc4"), 7.0)
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
        link.receive(LINKS[name].framed(b"late"), 0.0)
        assert events(link) == []
