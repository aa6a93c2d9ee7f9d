"""The send window and the reassembly that both HDLC stations share."""

from __future__ import annotations

import pytest

from dlms.errors import LinkError, LocalError
from dlms.link.hdlc.window import Reassembly, Segment, SendWindow

LLC = bytes.fromhex("e6e600")


def window(apdu_bytes: int, *, info_max: int = 10, size: int = 3) -> SendWindow:
    """A window with one APDU in it."""
    one = SendWindow(info_max, size)
    one.queue(LLC, bytes(apdu_bytes))
    return one


def numbers(one: SendWindow) -> list[int]:
    return [number for number, _ in one.burst()]


@pytest.mark.parametrize(
    ("apdu", "segments"),
    [
        (b"", [Segment(LLC, more=False)]),
        (b"1234567", [Segment(LLC + b"1234567", more=False)]),
        (b"12345678", [Segment(LLC + b"1234567", more=True), Segment(b"8", more=False)]),
        (bytes(17), [Segment(LLC + bytes(7), more=True), Segment(bytes(10), more=False)]),
    ],
)
def test_an_apdu_is_cut_behind_its_llc_header_and_all_but_the_last_segment_say_that_more_follows(
    apdu: bytes, segments: list[Segment]
) -> None:
    one = SendWindow(10, 7)
    one.queue(LLC, apdu)
    assert one.burst() == list(enumerate(segments))


def test_no_more_than_the_window_goes_out_before_an_acknowledgement_and_the_numbers_wrap_at_eight() -> None:
    one = window(97)  # ten segments
    assert (one.sendable, one.unacknowledged, one.send_number) == (True, False, 0)
    assert numbers(one) == [0, 1, 2]
    assert (one.sendable, one.unacknowledged, one.send_number) == (False, True, 3)
    assert numbers(one) == []
    assert one.acknowledge(2) == 2
    assert (one.sendable, one.unacknowledged, one.send_number) == (True, True, 3)
    assert numbers(one) == [3, 4]
    assert one.acknowledge(5) == 3
    assert (one.unacknowledged, one.send_number) == (False, 5)
    assert numbers(one) == [5, 6, 7]
    assert one.acknowledge(0) == 3
    assert one.send_number == 0
    assert numbers(one) == [0, 1]
    assert one.send_number == 2
    assert one.acknowledge(2) == 2
    assert (one.sendable, one.unacknowledged, one.send_number) == (False, False, 2)


@pytest.mark.parametrize("receive_number", [3, 4, 7])
def test_what_was_not_sent_cannot_be_acknowledged(receive_number: int) -> None:
    one = window(97, size=2)
    assert numbers(one) == [0, 1]
    assert one.acknowledge(receive_number) is None
    assert one.acknowledge(1) == 1  # nothing was changed
    assert numbers(one) == [2]


def test_after_a_rewind_the_unacknowledged_goes_out_again_and_may_be_acknowledged_before_it_did() -> None:
    one = window(97)
    assert numbers(one) == [0, 1, 2]
    one.acknowledge(1)
    one.rewind()
    assert (one.sendable, one.unacknowledged, one.send_number) == (True, True, 1)
    assert numbers(one) == [1, 2, 3]
    one.rewind()
    assert one.acknowledge(3) == 2  # of what went out before the rewind
    assert (one.unacknowledged, one.send_number) == (True, 3)
    assert one.acknowledge(5) is None
    assert numbers(one) == [3, 4, 5]


def test_the_longest_apdu_has_65536_bytes() -> None:
    SendWindow(100, 1).queue(LLC, bytes(65536))
    with pytest.raises(LocalError):
        SendWindow(100, 1).queue(LLC, bytes(65537))


def test_four_times_the_longest_apdu_may_wait_and_what_is_acknowledged_does_not_count() -> None:
    one = SendWindow(65536, 7)
    for _ in range(3):
        one.queue(b"", bytes(65536))
    one.queue(LLC, bytes(30000))
    room = 65536 - 30003  # LLC headers that are waiting count
    with pytest.raises(LocalError):
        one.queue(b"", bytes(room + 1))
    one.queue(b"", bytes(room))
    with pytest.raises(LocalError):
        one.queue(b"", b"1")
    one.burst()
    assert one.acknowledge(1) == 1
    with pytest.raises(LocalError):
        one.queue(b"", bytes(65536) + b"1")
    one.queue(b"", bytes(65536))
    with pytest.raises(LocalError):
        one.queue(b"", b"1")


def test_frames_in_order_give_whole_apdus_and_others_change_nothing() -> None:
    one = Reassembly()
    assert one.accept(1, b"x", more=False) == (False, None)
    assert (one.receive_number, one.inside) == (0, False)
    assert one.accept(0, b"ab", more=True) == (True, None)
    assert (one.receive_number, one.inside) == (1, True)
    assert one.accept(0, b"ab", more=True) == (False, None)  # a repetition
    assert one.accept(1, b"", more=True) == (True, None)
    assert one.accept(2, b"cd", more=False) == (True, b"abcd")
    assert (one.receive_number, one.inside) == (3, False)
    assert one.accept(3, b"ef", more=False) == (True, b"ef")


def test_numbers_received_wrap_at_eight() -> None:
    one = Reassembly()
    for number in [*range(8), 0, 1]:
        assert one.receive_number == number
        assert one.accept(number, bytes((number,)), more=False) == (True, bytes((number,)))


def test_an_apdu_that_began_with_an_empty_segment_has_begun() -> None:
    one = Reassembly()
    assert one.accept(0, b"", more=True) == (True, None)
    assert one.inside
    assert one.accept(1, b"ab", more=False) == (True, b"ab")


def longest(one: Reassembly) -> int:
    """Take in all but the last byte of an APDU of 65536 bytes and its LLC header, and return the next number."""
    half = 32767 + len(LLC)
    assert one.accept(one.receive_number, bytes(half), more=True) == (True, None)
    assert one.accept(one.receive_number, bytes(65538 - half), more=True) == (True, None)
    return one.receive_number


def test_the_longest_apdu_arrives_whole_each_time_and_a_longer_one_not_at_all() -> None:
    one = Reassembly()
    for _ in range(2):
        assert one.accept(longest(one), b"!", more=False) == (True, bytes(65538) + b"!")
    with pytest.raises(LinkError):
        one.accept(longest(one), b"!!", more=False)


def test_empty_segments_count_as_one_byte_each_and_are_not_kept() -> None:
    one = Reassembly()
    one.accept(0, bytes(65537), more=True)
    one.accept(1, b"", more=True)
    one.accept(2, b"", more=True)
    with pytest.raises(LinkError):
        one.accept(3, b"", more=True)
