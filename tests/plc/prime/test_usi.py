"""USI frames: the known vectors, every checksum, every split, and garbage."""

from __future__ import annotations

import random

import pytest

from plc.errors import PlcDecodeError, PlcLocalError
from plc.prime.usi import (
    EXTENSION_BYTES,
    LENGTH_MAX,
    WIRE_BYTES_MAX,
    ProtocolId,
    UsiDecoder,
    UsiFrame,
    UsiNoise,
    unstuff,
)
from tests.sim.pipes import all_splits, random_splits

VECTORS = [
    (UsiFrame(ProtocolId.PRIME_API, bytes.fromhex("0020"), 0x2D), "7e00f02d0020fd7e"),
    (UsiFrame(ProtocolId.MNGP_GETQRY, bytes.fromhex("002000")), "7e00c000200057569b6e7e"),
    (UsiFrame(ProtocolId.PRIME_API, bytes.fromhex("010100050003e6e60000"), 0x37), "7e02f037010100050003e6e60000c37e"),
]


def decode(pieces: list[bytes]) -> list[UsiFrame | UsiNoise]:
    decoder = UsiDecoder()
    found: list[UsiFrame | UsiNoise] = []
    for piece in pieces:
        decoder.feed(piece)
        while (item := decoder.next()) is not None:
            found.append(item)
    return found


@pytest.mark.parametrize(("frame", "wire"), VECTORS)
def test_known_frames_are_emitted_and_read(frame: UsiFrame, wire: str) -> None:
    assert frame.emit().hex() == wire
    assert decode([bytes.fromhex(wire)]) == [frame]


@pytest.mark.parametrize("protocol", list(ProtocolId))
def test_every_protocol_survives_the_round_trip_at_every_boundary_length(protocol: ProtocolId) -> None:
    extended = UsiFrame(ProtocolId.PRIME_API, b"", 1)
    pick = random.Random(protocol)
    lengths = [0, 1, 2, 3, 4, 5, 100, LENGTH_MAX - 1, LENGTH_MAX]
    command = None
    if protocol in (0x25, 0x26, 0x30, 0x31):
        lengths += [LENGTH_MAX + 1, EXTENSION_BYTES + LENGTH_MAX - 1]
        command = 0x5A
    for length in lengths:
        frame = UsiFrame(protocol, pick.randbytes(length), command)
        assert decode([frame.emit() + extended.emit()]) == [frame, extended]


def test_a_payload_of_flags_and_escapes_is_stuffed() -> None:
    frame = UsiFrame(ProtocolId.PHY, bytes.fromhex("7e7d5e7d5d7e7e7d"))
    assert frame.emit().count(0x7E) == 2
    assert decode([frame.emit()]) == [frame]


def test_too_much_data_is_refused_when_the_frame_is_made() -> None:
    with pytest.raises(PlcLocalError):
        UsiFrame(ProtocolId.PHY, bytes(LENGTH_MAX + 1))
    with pytest.raises(PlcLocalError):
        UsiFrame(ProtocolId.PRIME_API, bytes(LENGTH_MAX + EXTENSION_BYTES), 1)


@pytest.mark.parametrize(("protocol", "command"), [(ProtocolId.PHY, 1), (ProtocolId.PRIME_API, None), (0x30, 0x80)])
def test_a_command_belongs_to_extended_protocols_only(protocol: int, command: int | None) -> None:
    with pytest.raises(PlcLocalError):
        UsiFrame(ProtocolId(protocol), b"", command)


def test_one_flag_may_close_a_frame_and_open_the_next() -> None:
    first, second = VECTORS[0][0], VECTORS[1][0]
    assert decode([first.emit() + second.emit()[1:]]) == [first, second]


def test_every_split_of_a_stream_gives_the_same_results() -> None:
    stream = b"\x01\x02" + b"".join(frame.emit() for frame, _ in VECTORS)
    stream += bytes.fromhex("7e02f0377d00c37e") + VECTORS[1][0].emit()[:-3] + VECTORS[0][0].emit()
    whole = decode([stream])
    assert sum(isinstance(item, UsiFrame) for item in whole) == 4
    for pieces in all_splits(stream):
        assert decode(pieces) == whole
    for pieces in random_splits(stream, random.Random(7), 50):
        assert decode(pieces) == whole


def test_every_flipped_bit_is_noticed_and_the_next_frame_is_read() -> None:
    frame, following = VECTORS[2][0], VECTORS[1][0]
    wire = frame.emit()
    for bit in range(8 * len(wire)):
        damaged = bytearray(wire)
        damaged[bit // 8] ^= 1 << bit % 8
        found = decode([bytes(damaged) + following.emit()])
        assert found[-1] == following
        assert frame not in found


def test_more_than_the_longest_frame_without_a_flag_is_dropped_and_not_kept() -> None:
    decoder = UsiDecoder()
    decoder.feed(b"\x7e")
    for _ in range(100):
        decoder.feed(b"\x55" * WIRE_BYTES_MAX)
    assert len(decoder._buffer) <= WIRE_BYTES_MAX
    frame = VECTORS[0][0]
    decoder.feed(frame.emit())
    assert decoder.next() == UsiNoise(100 * WIRE_BYTES_MAX, "longer than any frame")
    assert decoder.next() == frame


@pytest.mark.parametrize("stuffed", ["7d", "7d00", "5d7d7d5e", "7d5d7d"])
def test_an_escape_without_its_second_octet_is_an_error(stuffed: str) -> None:
    with pytest.raises(PlcDecodeError):
        unstuff(bytes.fromhex(stuffed))


@pytest.mark.parametrize(
    "content",
    ["", "00", "0000", "003f00", "000800000000", "003000", "00b000ff", "01c00020007f00000000"],
    ids=["empty", "1 octet", "2 octets", "id 3f", "id 08", "no command", "wrong length", "wrong crc"],
)
def test_a_content_that_is_no_frame_is_an_error_with_a_place(content: str) -> None:
    with pytest.raises(PlcDecodeError) as caught:
        UsiFrame.parse(bytes.fromhex(content))
    assert caught.value.what == "USI frame"


def test_random_bytes_give_frames_noise_or_nothing_and_frames_survive_between_them() -> None:
    pick = random.Random(20)
    frame = VECTORS[1][0]
    for _ in range(300):
        garbage = bytes(pick.choice((0x7E, 0x7D, 0x5E, 0x30, pick.randrange(256))) for _ in range(pick.randrange(60)))
        found = decode([garbage + b"\x7e", frame.emit()])
        assert found[-1] == frame
        for item in found:
            if isinstance(item, UsiFrame):
                assert decode([item.emit()]) == [item]
