"""What a line carries beside our conversations: whole messages, bounded, whoever they are for."""

from __future__ import annotations

import pytest

from agent.metering.events.bus_ear import HdlcEar
from agent.metering.events.overheard import UNFINISHED_MAX, UNFINISHED_S, BlockAssembly, Overheard, WrapperEar
from dlms.link.hdlc.frames import FrameType, HdlcAddress, HdlcFrame, information_control, unnumbered_control
from dlms.link.hdlc.window import LLC_RESPONSE
from dlms.link.wrapper import WrapperFrame
from dlms.xdlms.gbt import GeneralBlock
from omadm.readings import EVENT_OCTETS_MAX
from tests.agent.metering.events.captured import AM550, OF_HDLC, Capture
from tests.agent.metering.events.test_pushes_on_lines import cover_opened, ui

UI = unnumbered_control(FrameType.UI, poll_final=False)


def heard(ear: HdlcEar) -> list[Overheard]:
    found = []
    while (one := ear.next_apdu()) is not None:
        found.append(one)
    return found


@pytest.mark.parametrize("capture", OF_HDLC, ids=lambda capture: capture.name)
def test_captured_octets_are_the_same_message_however_they_are_cut(capture: Capture) -> None:
    for size in (1, 7, 64):
        ear = HdlcEar()
        for at in range(0, len(capture.octets), size):
            ear.receive(capture.octets[at : at + size], at / 9600)
        whole = [BlockAssembly().take(0, one.apdu, 0.0)[0] for one in heard(ear)]
        assert whole[:1] == ([capture.apdu()] if len(whole) == 1 else [None])


def test_the_answers_of_a_conversation_and_other_frames_are_not_overheard() -> None:
    ear = HdlcEar()
    answer = information_control(0, 0, poll_final=True)
    ear.receive(HdlcFrame(HdlcAddress(16), HdlcAddress(1, 17), answer, LLC_RESPONSE + cover_opened(1)).emit(), 0.0)
    ear.receive(HdlcFrame(HdlcAddress(16), HdlcAddress(1, 17), UI, LLC_RESPONSE + b"\xc4\x01\xc1\x00\x00").emit(), 0.0)
    ear.receive(HdlcFrame(HdlcAddress(16), HdlcAddress(1, 17), UI, b"\x0f\x00\x00").emit(), 0.0)
    ear.receive(b"\x7e\xa0\x05 noise that is no frame \x7e", 0.0)
    assert heard(ear) == []
    ear.receive(ui(17, cover_opened(2)), 1.0)
    assert heard(ear) == [Overheard(17, 102, cover_opened(2))]


def test_the_rest_of_a_message_that_came_late_is_none() -> None:
    frames = ui(17, cover_opened(3), size=20)
    first = frames[: frames[2] + 2]
    ear = HdlcEar()
    ear.receive(first, 0.0)
    ear.receive(frames[len(first) :], UNFINISHED_S + 1)
    assert heard(ear) == []


def piece(station: int, *, first: bool = False, last: bool = False) -> bytes:
    """900 octets of a long notification of one sender."""
    info = (LLC_RESPONSE if first else b"") + b"\x0f" * 900
    return HdlcFrame(HdlcAddress(16), HdlcAddress(1, station), UI, info, segmented=not last).emit()


def test_of_messages_that_have_begun_the_newest_are_kept() -> None:
    ear = HdlcEar()
    for station in range(1, 120):
        ear.receive(piece(station, first=True), 0.0)
    for station in range(1, 120):
        ear.receive(piece(station, last=True), 0.0)
    kept = range(120 - UNFINISHED_MAX, 120)
    assert [(told.source, len(told.apdu)) for told in heard(ear)] == [(station, 1800) for station in kept]


def test_a_message_that_never_ends_is_cut_off() -> None:
    ear = HdlcEar()
    ear.receive(piece(119, first=True), 0.0)
    for _ in range(20):
        ear.receive(piece(119), 0.0)
    (told, *others) = heard(ear)
    assert EVENT_OCTETS_MAX < len(told.apdu) <= EVENT_OCTETS_MAX + 900
    assert others == []


def block(number: int, data: bytes, *, last: bool = False) -> bytes:
    return GeneralBlock(last=last, streaming=True, window=0, number=number, acknowledged=0, data=data).emit()


def test_blocks_are_put_together_by_sender_and_a_missing_one_is_said() -> None:
    blocks = BlockAssembly()
    assert blocks.take("a", block(1, b"\x0f12"), 0.0) == (None, "")
    assert blocks.take("b", block(1, b"\x0f99"), 0.0) == (None, "")
    assert blocks.take("a", block(2, b"345", last=True), 0.0) == (b"\x0f12345", "")
    whole, why = blocks.take("b", block(3, b"77"), 0.0)
    assert (whole, why) == (b"\x0f9977", "block 3 came where 2 was due")
    assert blocks.take("c", block(2, b"zz"), 0.0) == (b"zz", "block 2 came where 1 was due")
    assert blocks.take("d", b"\xe0\x80", 0.0)[1]
    assert blocks.take("e", b"\x0f1", 0.0) == (b"\x0f1", "")


def test_blocks_without_end_are_cut_off() -> None:
    blocks = BlockAssembly()
    taken = [blocks.take("a", block(number, bytes(1000)), 0.0) for number in range(1, 11)]
    assert [whole is not None for whole, _ in taken[:9]] == [False] * 8 + [True]
    assert "more than" in taken[8][1]


def test_frames_to_the_client_of_the_conversation_are_its_own() -> None:
    ear = WrapperEar(16)
    octets = b"".join(WrapperFrame(1, client, AM550.apdu()).emit() for client in (16, 102))
    found = [one for at in range(0, len(octets), 9) for one in ear.receive(octets[at : at + 9])]
    assert found == [Overheard(1, 102, AM550.apdu())]
    assert ear.receive(b"\x00\x02") == []
    assert ear.broken
