"""Several clients of one meter, and several meters, on one line."""

from __future__ import annotations

import random

import pytest

from dlms.errors import LocalError
from dlms.link.datalink import ApduReceived, LinkDown, LinkEvent, LinkUp
from dlms.link.hdlc.bus import CLIENTS_MAX, HdlcServerBus
from dlms.link.hdlc.frames import HdlcAddress
from tests.dlms.hdlc_frames import COMMAND, METER, command, frames, i_command, short
from tests.sim.pipes import all_splits, random_splits

SNRM, DISC = 0x93, 0x53


def heard(bus: HdlcServerBus) -> list[tuple[int | None, LinkEvent]]:
    found: list[tuple[int | None, LinkEvent]] = []
    while (event := bus.next_event()) is not None:
        found.append((bus.client, event))
    return found


def from_client(client: int, control: int, info: bytes = b"") -> bytes:
    return command(control, info, source=HdlcAddress(client))


def apdu_from(client: int, send: int, receive: int, apdu: bytes) -> bytes:
    (frame,) = frames(i_command(send, receive, apdu))
    return from_client(client, frame.control, frame.info)


def said(bus: HdlcServerBus) -> list[tuple[int, str]]:
    return [(frame.destination.upper, short(frame)) for frame in frames(bus.take_output())]


def test_two_clients_have_a_connection_each() -> None:
    bus = HdlcServerBus(METER)
    bus.connect(0.0)
    bus.receive(from_client(1, SNRM), 0.0)
    bus.receive(from_client(16, SNRM), 0.0)
    assert [(client, type(event)) for client, event in heard(bus)] == [(1, LinkUp), (16, LinkUp)]
    assert said(bus) == [(1, "UA P"), (16, "UA P")]
    bus.receive(apdu_from(1, 0, 0, b"one"), 0.0)
    assert heard(bus) == [(1, ApduReceived(b"one"))]
    bus.send(b"ONE", 0.0)
    assert said(bus) == [(1, "I 0 1 P")]
    bus.receive(apdu_from(16, 0, 0, b"sixteen"), 0.0)
    assert heard(bus) == [(16, ApduReceived(b"sixteen"))]
    bus.send(b"SIXTEEN", 0.0)
    assert said(bus) == [(16, "I 0 1 P")]
    bus.receive(apdu_from(1, 1, 1, b"again"), 0.0)
    assert heard(bus) == [(1, ApduReceived(b"again"))]
    bus.receive(from_client(16, DISC), 0.0)
    assert heard(bus) == [(16, LinkDown(None))]
    bus.address(1)
    bus.send(b"AGAIN", 0.0)
    assert said(bus) == [(1, "I 1 2 P"), (16, "UA P")]


def test_a_client_that_is_not_connected_is_told_so_and_others_are_left_alone() -> None:
    bus = HdlcServerBus(METER, aliases=("17",))
    bus.receive(apdu_from(5, 0, 0, b"x"), 0.0)
    assert said(bus) == [(5, "DM P")]
    bus.receive(command(SNRM, to=HdlcAddress(99)), 0.0)
    bus.receive(command(SNRM, source=HdlcAddress(1, 99)), 0.0)
    assert bus.take_output() == b""
    assert heard(bus) == []
    bus.receive(command(SNRM, to=HdlcAddress(17)), 0.0)
    assert said(bus) == [(17, "UA P")]
    with pytest.raises(LocalError):
        HdlcServerBus(METER).send(b"x", 0.0)


@pytest.mark.parametrize("everybody", [HdlcAddress(0x7F), HdlcAddress(0x7F, 0x7F), HdlcAddress(0x3FFF, 0x3FFF)])
def test_a_broadcast_reaches_everybody_who_is_connected(everybody: HdlcAddress) -> None:
    bus = HdlcServerBus(METER)
    for client in (1, 2):
        bus.receive(from_client(client, SNRM), 0.0)
    heard(bus), said(bus)
    bus.receive(command(0x03, COMMAND + b"all", to=everybody), 0.0)
    assert heard(bus) == [(1, ApduReceived(b"all")), (2, ApduReceived(b"all"))]
    assert bus.take_output() == b""


def test_clients_that_left_make_room_and_those_that_stay_are_not_pushed_out() -> None:
    bus = HdlcServerBus(METER)
    for client in range(1, CLIENTS_MAX + 1):
        bus.receive(from_client(client, SNRM), 0.0)
    said(bus), heard(bus)
    bus.receive(from_client(50, SNRM), 0.0)
    assert said(bus) == []
    bus.receive(from_client(3, DISC), 0.0)
    bus.receive(from_client(50, SNRM), 0.0)
    assert said(bus)[-1] == (50, "UA P")


def test_silence_ends_each_connection_by_itself() -> None:
    bus = HdlcServerBus(METER, inactivity_timeout_s=100.0)
    bus.receive(from_client(1, SNRM), 0.0)
    bus.receive(from_client(2, SNRM), 50.0)
    heard(bus), said(bus)
    assert bus.next_deadline() == 100.0
    bus.on_deadline(100.0)
    ((client, down),) = heard(bus)
    assert client == 1
    assert isinstance(down, LinkDown)
    assert bus.next_deadline() == 150.0


def test_an_end_of_the_port_ends_all() -> None:
    bus = HdlcServerBus(METER)
    for client in (1, 2):
        bus.receive(from_client(client, SNRM), 0.0)
    heard(bus)
    bus.receive_eof(1.0)
    assert [client for client, _event in heard(bus)] == [1, 2]
    with pytest.raises(LocalError):
        bus.connect(1.0)
    bus.receive(from_client(1, SNRM), 2.0)
    assert heard(bus) == []
    other = HdlcServerBus(METER)
    other.receive(from_client(1, SNRM), 0.0)
    other.disconnect(1.0)
    assert [type(event) for _client, event in heard(other)] == [LinkUp, LinkDown]


def test_every_split_gives_the_same_and_a_cut_frame_is_given_up_after_a_pause() -> None:
    stream = b"\x7e\xa0\x07noise" + from_client(1, SNRM) + from_client(2, SNRM)[1:] + apdu_from(2, 0, 0, b"two")

    def run(pieces: list[bytes]) -> tuple[list[tuple[int | None, LinkEvent]], list[tuple[int, str]]]:
        bus = HdlcServerBus(METER)
        for piece in pieces:
            bus.receive(piece, 0.0)
        return heard(bus), said(bus)

    whole = run([stream])
    assert len(whole[0]) == 3
    for pieces in [*all_splits(stream), *random_splits(stream, random.Random(1), 30)]:
        assert run(pieces) == whole
    bus = HdlcServerBus(METER)
    bus.receive(from_client(1, SNRM)[:-4], 0.0)
    assert bus.next_deadline() == pytest.approx(0.3)
    bus.on_deadline(0.3)
    bus.receive(from_client(1, SNRM), 0.4)
    assert said(bus) == [(1, "UA P")]


def test_wrong_options_are_said_at_once() -> None:
    with pytest.raises(LocalError):
        HdlcServerBus(METER, info_max=5000)
