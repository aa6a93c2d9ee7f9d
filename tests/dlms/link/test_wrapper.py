"""The COSEM wrapper over streams and datagrams; what its links share with others is in `test_direct`."""

from __future__ import annotations

import random

import pytest

from dlms.errors import DecodeError, LocalError
from dlms.link.datalink import ApduReceived, LinkDown, LinkEvent, LinkUp
from dlms.link.wrapper import (
    UDP_APDU_BYTES_MAX,
    WrapperDecoder,
    WrapperFrame,
    WrapperLink,
    WrapperServerLink,
    WrapperUdpLink,
)
from tests.dlms.hdlc_frames import events
from tests.sim.pipes import all_splits, random_splits

GET = bytes.fromhex("c001c100")


def link_up(*, packet: bool = False) -> WrapperLink:
    link = WrapperLink(16, 1, packet=packet)
    link.connect(0.0)
    longest = UDP_APDU_BYTES_MAX if packet else 0xFFFF
    assert events(link) == [LinkUp(longest, apdu_bytes_max=longest, may_repeat=packet)]
    return link


def test_an_apdu_travels_with_the_ports_of_both_sides() -> None:
    link = link_up()
    link.send(GET, 0.0)
    assert link.take_output().hex() == "0001" + "0010" + "0001" + "0004" + "c001c100"
    link.receive(WrapperFrame(1, 16, b"\xc4\x01").emit(), 0.1)
    assert events(link) == [ApduReceived(b"\xc4\x01")]
    assert link.next_deadline() is None


def test_frames_of_other_associations_on_the_connection_are_left_alone() -> None:
    link = link_up()
    link.receive(WrapperFrame(1, 17, b"x").emit() + WrapperFrame(2, 16, b"y").emit(), 0.0)
    assert events(link) == []


def test_disconnecting_is_immediate_and_later_bytes_mean_nothing() -> None:
    link = link_up()
    link.disconnect(0.0)
    link.receive(WrapperFrame(1, 16, b"late").emit(), 0.0)
    assert events(link) == [LinkDown(None)]


def test_another_version_ends_the_link_at_its_first_octet() -> None:
    link = link_up()
    link.receive(b"\x01", 0.0)
    (down,) = events(link)
    assert isinstance(down, LinkDown)
    assert isinstance(down.error, DecodeError)


def test_every_split_of_the_stream_gives_the_same_events() -> None:
    stream = b"".join(
        WrapperFrame(source, 16, apdu).emit() for source, apdu in ((1, b"a"), (2, b"bb"), (1, b""), (1, bytes(300)))
    )

    def run(pieces: list[bytes]) -> list[LinkEvent]:
        link = link_up()
        for piece in pieces:
            link.receive(piece, 0.0)
        return events(link)

    assert run([stream]) == [ApduReceived(b"a"), ApduReceived(bytes(300))]
    for pieces in [*all_splits(stream), *random_splits(stream, random.Random(1), 20)]:
        assert run(pieces) == run([stream])


def test_datagrams_go_out_and_come_in_one_by_one_and_a_bad_one_is_dropped() -> None:
    link = link_up(packet=True)
    link.send(b"a", 0.0)
    link.send(b"b", 0.0)
    assert link.take_output() == WrapperFrame(16, 1, b"a").emit()
    assert link.take_output() == WrapperFrame(16, 1, b"b").emit()
    assert link.take_output() == b""
    link.receive(b"\xff", 0.0)
    link.receive(WrapperFrame(1, 16, b"cut").emit()[:-1], 0.0)
    link.receive(WrapperFrame(1, 16, b"whole").emit(), 0.0)
    assert events(link) == [ApduReceived(b"whole")]


def test_the_server_answers_the_client_that_spoke_last() -> None:
    link = WrapperServerLink(1)
    link.connect(0.0)
    events(link)
    with pytest.raises(LocalError):
        link.send(b"x", 0.0)
    link.receive(WrapperFrame(16, 1, b"a").emit() + WrapperFrame(16, 2, b"other").emit(), 0.0)
    assert events(link) == [ApduReceived(b"a")]
    assert link.client == 16
    link.send(b"A", 0.0)
    assert link.take_output() == WrapperFrame(1, 16, b"A").emit()
    assert link.next_deadline() is None


def test_clients_that_share_a_connection_are_answered_each_by_itself() -> None:
    link = WrapperServerLink(1)
    link.connect(0.0)
    events(link)
    link.receive(WrapperFrame(16, 1, b"a").emit() + WrapperFrame(2, 1, b"b").emit(), 0.0)
    while (event := link.next_event()) is not None:
        assert isinstance(event, ApduReceived)
        link.send(event.apdu.upper(), 0.0)
    assert link.take_output() == WrapperFrame(1, 16, b"A").emit() + WrapperFrame(1, 2, b"B").emit()
    link.address(16)
    link.send(b"news", 0.0)
    assert link.take_output() == WrapperFrame(1, 16, b"news").emit()


def test_random_bytes_give_frames_need_more_or_a_decode_error() -> None:
    pick = random.Random(2)
    for _ in range(2000):
        decoder = WrapperDecoder()
        decoder.feed(bytes(pick.choice((0, 0, 1, pick.randrange(256))) for _ in range(pick.randrange(40))))
        try:
            while decoder.next() is not None:
                pass
        except DecodeError:
            with pytest.raises(DecodeError):
                decoder.next()


@pytest.mark.parametrize("values", [(-1, 1, b""), (1, 0x10000, b""), (1, 1, bytes(0x10000))])
def test_a_frame_that_does_not_fit_cannot_be_made(values: tuple[int, int, bytes]) -> None:
    with pytest.raises(LocalError):
        WrapperFrame(*values)


def udp_link() -> WrapperUdpLink:
    link = WrapperUdpLink(16, 1, apdu_bytes_max=200)
    link.connect(0.0)
    assert events(link) == [LinkUp(200, apdu_bytes_max=200, may_repeat=True)]
    return link


def test_over_udp_a_datagram_that_comes_twice_counts_once() -> None:
    link = udp_link()
    datagrams = [WrapperFrame(1, 16, bytes((number,))).emit() for number in range(3)]
    for datagram in (datagrams[0], datagrams[0], datagrams[1], datagrams[0], datagrams[2], datagrams[1]):
        link.receive(datagram, 0.0)
    assert events(link) == [ApduReceived(bytes((number,))) for number in range(3)]


def test_over_udp_the_same_answer_counts_again_once_invoke_ids_have_come_round() -> None:
    link = udp_link()
    for number in [*range(16), 0]:
        link.receive(WrapperFrame(1, 16, bytes((0xC4, 1, number))).emit(), 0.0)
    assert len(events(link)) == 17


@pytest.mark.parametrize(
    "datagram",
    [
        WrapperFrame(1, 16, b"ab").emit()[:-1],
        WrapperFrame(1, 16, b"ab").emit() + b"c",
        WrapperFrame(1, 16, b"ab").emit() + WrapperFrame(1, 16, b"cd").emit(),
        WrapperFrame(2, 16, b"ab").emit(),
        WrapperFrame(1, 17, b"ab").emit(),
        WrapperFrame(1, 16, b"").emit(),
        b"\x00\x02" + WrapperFrame(1, 16, b"ab").emit()[2:],
        b"\x00",
        b"",
    ],
)
def test_over_udp_a_datagram_that_is_none_of_ours_is_dropped_and_the_link_goes_on(datagram: bytes) -> None:
    link = udp_link()
    link.receive(datagram, 0.0)
    assert events(link) == []
    link.receive(WrapperFrame(1, 16, b"ok").emit(), 0.0)
    assert events(link) == [ApduReceived(b"ok")]


def test_over_udp_random_datagrams_never_end_the_link() -> None:
    pick = random.Random(4)
    link = udp_link()
    good = WrapperFrame(1, 16, b"answer").emit()
    for _ in range(3000):
        mangled = bytearray(good[: pick.randrange(len(good) + 1)])
        for _ in range(pick.randrange(3)):
            mangled.insert(pick.randrange(len(mangled) + 1), pick.randrange(256))
        link.receive(bytes(mangled), 0.0)
    assert not any(isinstance(event, LinkDown) for event in events(link))
    link.send(b"still here", 0.0)
