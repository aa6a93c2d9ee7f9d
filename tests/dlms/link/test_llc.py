"""The packet link over the PLC bridge; what it shares with others is in `test_direct`."""

from __future__ import annotations

from dlms.link.datalink import ApduReceived
from dlms.link.llc import ANSWER_TIMEOUT_S, LlcLink
from tests.dlms.hdlc_frames import events


def link_up(answer_timeout_s: float | None = ANSWER_TIMEOUT_S) -> LlcLink:
    link = LlcLink(16, 1, answer_timeout_s=answer_timeout_s)
    link.connect(0.0)
    events(link)
    return link


def test_one_lsdu_is_one_apdu_both_ways() -> None:
    link = link_up()
    link.send(b"one", 0.0)
    link.send(b"two", 0.0)
    assert [link.take_output(), link.take_output(), link.take_output()] == [b"one", b"two", b""]
    link.receive(b"ONE", 1.0)
    assert events(link) == [ApduReceived(b"ONE")]
    assert link.next_deadline() is None
    assert (link.client, link.server) == (16, 1)


def test_the_meters_side_waits_for_ever() -> None:
    link = link_up(answer_timeout_s=None)
    link.send(b"answer", 0.0)
    assert link.next_deadline() is None
