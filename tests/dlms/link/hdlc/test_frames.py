"""HDLC frames: known ones, all address sizes, the checksum sweep, every split, and garbage."""

from __future__ import annotations

import random

import pytest

from dlms.errors import DecodeError, LocalError
from dlms.link.hdlc.frames import (
    CONTROLS,
    FRAME_BYTES_MAX,
    FrameType,
    HdlcAddress,
    HdlcDecoder,
    HdlcFrame,
    HdlcNoise,
    _fcs_plain,
    emit_frame,
    fcs16,
    information_control,
    supervisory_control,
    unnumbered_control,
)
from tests.sim.pipes import all_splits, random_splits

SNRM = HdlcFrame(HdlcAddress(1), HdlcAddress(16), 0x93)
UA_INFO = bytes.fromhex("818012050180060180070400000001080400000001")
UA = HdlcFrame(HdlcAddress(16), HdlcAddress(1), 0x73, UA_INFO)

ADDRESSES = [
    (HdlcAddress(0), "01"),
    (HdlcAddress(1), "03"),
    (HdlcAddress(0x7F), "ff"),
    (HdlcAddress(1, 17), "0223"),
    (HdlcAddress(1, 0), "0201"),
    (HdlcAddress(0x7F, 0x7F), "feff"),
    (HdlcAddress(1, 17, size=4), "00020023"),
    (HdlcAddress(1, 0x1234), "00024869"),
    (HdlcAddress(0x3FFF, 0x3FFF), "fefefeff"),
]


def decode(pieces: list[bytes], *, idle: bool = False) -> list[HdlcFrame | HdlcNoise]:
    decoder = HdlcDecoder()
    found: list[HdlcFrame | HdlcNoise] = []
    for piece in pieces:
        decoder.feed(piece)
        while (item := decoder.next()) is not None:
            found.append(item)
    if idle:
        decoder.idle()
        while (item := decoder.next()) is not None:
            found.append(item)
    return found


def frames(items: list[HdlcFrame | HdlcNoise]) -> list[HdlcFrame]:
    return [item for item in items if isinstance(item, HdlcFrame)]


@pytest.mark.parametrize(
    ("frame", "wire"),
    [
        (SNRM, "7ea0070321930f017e"),
        (UA, "7ea01e210373c37a818012050180060180070400000001080400000001533b7e"),
    ],
)
def test_known_frames_are_emitted_and_read(frame: HdlcFrame, wire: str) -> None:
    assert frame.emit().hex() == wire
    assert decode([bytes.fromhex(wire)]) == [frame]


def test_a_frame_is_made_of_addresses_and_control_alone_too() -> None:
    assert emit_frame(bytes.fromhex("0321"), 0x93) == SNRM.emit()


def test_the_checksum_is_x25_with_and_without_an_extension_module() -> None:
    pick = random.Random(1)
    assert fcs16(b"123456789") == _fcs_plain(b"123456789") == 0x906E
    for length in range(200):
        data = pick.randbytes(length)
        assert fcs16(data) == _fcs_plain(data)


@pytest.mark.parametrize(("address", "wire"), ADDRESSES)
def test_addresses_of_one_two_and_four_octets_are_emitted_and_read(address: HdlcAddress, wire: str) -> None:
    assert address.emit().hex() == wire
    assert HdlcAddress.parse(bytes.fromhex(wire)) == address
    frame = HdlcFrame(HdlcAddress(16), address, 0x73, UA_INFO)
    back = HdlcFrame(address, HdlcAddress(16), 0x93)
    assert decode([frame.emit() + back.emit()]) == [frame, back]
    assert frames(decode([b"\x01" + back.emit()])) == [back]  # whatever stands before the flag


def test_addresses_are_equal_by_their_parts_and_not_by_their_size() -> None:
    assert HdlcAddress(1, 17) == HdlcAddress(1, 17, size=4)
    assert HdlcAddress(1) != HdlcAddress(1, 0)


@pytest.mark.parametrize(
    ("upper", "lower", "size"),
    [(128, None, 0), (-1, None, 0), (1, -1, 0), (1, 0x4000, 0), (1, 128, 2), (1, 1, 1), (1, None, 2), (1, 1, 3)],
)
def test_an_address_that_does_not_fit_cannot_be_made(upper: int, lower: int | None, size: int) -> None:
    with pytest.raises(LocalError):
        HdlcAddress(upper, lower, size)


def test_addresses_are_read_as_people_write_them() -> None:
    assert HdlcAddress.of(17) == HdlcAddress.of("17") == HdlcAddress(17)
    assert HdlcAddress.of("1/17") == HdlcAddress.of(HdlcAddress(1, 17))
    assert str(HdlcAddress(1, 17)) == "1/17"
    for text in ("", "a", "1/", "1/2/3"):
        with pytest.raises(LocalError):
            HdlcAddress.of(text)


@pytest.mark.parametrize("octets", ["", "020202", "0202020203"])
def test_an_address_field_of_another_size_is_an_error(octets: str) -> None:
    with pytest.raises(DecodeError) as caught:
        HdlcAddress.parse(bytes.fromhex(octets))
    assert caught.value.offset == 0


@pytest.mark.parametrize(
    ("octet", "control"),
    [
        (0x00, (FrameType.I, False, 0, 0)),
        (0xBC, (FrameType.I, True, 6, 5)),
        (0x71, (FrameType.RR, True, 0, 3)),
        (0xE5, (FrameType.RNR, False, 0, 7)),
        (0x19, (FrameType.REJ, True, 0, 0)),
        (0x93, (FrameType.SNRM, True, 0, 0)),
        (0x43, (FrameType.DISC, False, 0, 0)),
        (0x73, (FrameType.UA, True, 0, 0)),
        (0x1F, (FrameType.DM, True, 0, 0)),
        (0x87, (FrameType.FRMR, False, 0, 0)),
        (0x13, (FrameType.UI, True, 0, 0)),
        (0xFF, (FrameType.UNKNOWN, True, 0, 0)),
        (0xEF, (FrameType.UNKNOWN, False, 0, 0)),
    ],
)
def test_a_control_octet_says_type_poll_and_numbers(octet: int, control: tuple[FrameType, bool, int, int]) -> None:
    assert CONTROLS[octet] == control


def test_every_control_octet_is_read_and_the_known_ones_are_made_again() -> None:
    assert len(CONTROLS) == 256
    kinds = set()
    for octet, control in enumerate(CONTROLS):
        kinds.add(control.type)
        if control.type is FrameType.I:
            made = information_control(control.send_number, control.receive_number, poll_final=control.poll_final)
        elif control.type in (FrameType.RR, FrameType.RNR, FrameType.REJ):
            made = supervisory_control(control.type, control.receive_number, poll_final=control.poll_final)
        elif control.type is FrameType.UNKNOWN:
            continue
        else:
            made = unnumbered_control(control.type, poll_final=control.poll_final)
        assert made == octet
    assert kinds == set(FrameType)


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (SNRM, "SNRM P/F 16 to 1"),
        (HdlcFrame(HdlcAddress(16), HdlcAddress(1, 17), 0x54, b"12345", segmented=True),
         "I N(S)=2 N(R)=2 P/F segmented 1/17 to 16 5 bytes"),
        (HdlcFrame(HdlcAddress(16), HdlcAddress(1), 0x20), "I N(S)=0 N(R)=1 1 to 16"),
        (HdlcFrame(HdlcAddress(1), HdlcAddress(16), 0x61), "RR N(R)=3 16 to 1"),
        (HdlcFrame(HdlcAddress(1), HdlcAddress(16), 0x65), "RNR N(R)=3 16 to 1"),
    ],
)  # fmt: skip
def test_a_frame_as_text_says_what_its_type_has(frame: HdlcFrame, text: str) -> None:
    assert str(frame) == text


@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("octets", [0, 1, 100, 246, 247, 300, 2000])
def test_length_and_segmentation_do_not_disturb_each_other(octets: int, segmented: bool) -> None:
    frame = HdlcFrame(HdlcAddress(1), HdlcAddress(16), 0x10, bytes(octets), segmented)
    wire = frame.emit()
    assert int.from_bytes(wire[1:3], "big") == 0xA000 | segmented << 11 | len(wire) - 2
    assert decode([wire]) == [frame]


def test_frames_share_a_flag_and_many_flags_between_them_mean_nothing() -> None:
    assert decode([SNRM.emit() + UA.emit()[1:]]) == [SNRM, UA]
    assert decode([b"\x7e\x7e\x7e" + SNRM.emit() + b"\x7e\x7e" + UA.emit() + b"\x7e"]) == [SNRM, UA]


def test_a_frame_is_not_read_before_its_closing_flag_because_the_line_is_not_free_before() -> None:
    assert decode([SNRM.emit()[:-1]]) == []
    assert decode([SNRM.emit()[:-1]], idle=True) == [SNRM]


def test_a_frame_survives_a_closing_flag_that_was_damaged() -> None:
    assert frames(decode([SNRM.emit()[:-1] + b"\x7f" + UA.emit()])) == [SNRM, UA]


def test_the_longest_frame_is_read_and_a_longer_one_cannot_be_made() -> None:
    room = FRAME_BYTES_MAX - 9
    frame = HdlcFrame(HdlcAddress(1), HdlcAddress(16), 0x10, b"\x7e" * room, segmented=True)
    assert len(frame.emit()) == FRAME_BYTES_MAX + 2
    assert decode([frame.emit()]) == [frame]
    with pytest.raises(LocalError):
        HdlcFrame(HdlcAddress(1), HdlcAddress(16), 0x10, bytes(room + 1)).emit()


@pytest.mark.slow
def test_frames_with_every_possible_checksum_are_read() -> None:
    """FCS values that hold flags, or end in one, cut nothing: all 65536 of them occur here."""
    decoder = HdlcDecoder()
    head = HdlcFrame(HdlcAddress(1), HdlcAddress(16), 0x10, b"\x00\x00").emit()[1:-5]
    seen = bytearray(0x10000)
    # The checksum of a header and two octets takes every value exactly once.
    for number in range(0x10000):
        body = head + number.to_bytes(2, "big")
        check = fcs16(body)
        seen[check] = 1
        wire = b"\x7e" + body + check.to_bytes(2, "little") + b"\x7e"
        decoder.feed(wire)
        frame = decoder.next()
        assert isinstance(frame, HdlcFrame)
        assert frame.emit() == wire
        assert frame.info == number.to_bytes(2, "big")
        assert decoder.next() is None
    assert all(seen)


def test_header_checksums_with_flags_in_them_are_read() -> None:
    found = set()
    for upper in range(0x80):
        for control in range(256):
            frame = HdlcFrame(HdlcAddress(upper, 0x7E), HdlcAddress(16), control, b"~")
            wire = frame.emit()
            found.add(wire[7:9])
            if 0x7E in wire[7:9]:
                assert decode([wire]) == [frame]
    assert any(0x7E in check for check in found)


def test_a_damaged_length_is_noticed_when_the_header_is_in_and_not_waited_for() -> None:
    wire = bytearray(UA.emit())
    wire[1] |= 0x07
    wire[2] = 0xFF
    assert frames(decode([bytes(wire) + SNRM.emit()])) == [SNRM]


def test_every_flipped_bit_is_noticed_and_the_next_frame_is_read() -> None:
    wire = UA.emit()
    for bit in range(8, 8 * (len(wire) - 1)):
        damaged = bytearray(wire)
        damaged[bit // 8] ^= 1 << bit % 8
        assert frames(decode([bytes(damaged) + SNRM.emit()], idle=True)) == [SNRM]


def test_every_truncation_is_noticed_and_the_next_frame_is_read() -> None:
    wire = UA.emit()
    for cut in range(len(wire) - 1):
        assert frames(decode([wire[:cut] + SNRM.emit()], idle=True)) == [SNRM]


def test_every_split_of_a_stream_gives_the_same_results() -> None:
    broken = bytearray(UA.emit())
    broken[9] ^= 0x40
    stream = b"\x00noise\x7e\xa0" + UA.emit() + bytes(broken) + SNRM.emit() + b"\x7e\xa7\xff\x03" + UA.emit()
    stream += b"\x7e\xa0\x06\x02" + SNRM.emit() + UA.emit()[1:] + b"\x7e\xa0\x1e\x02\x02\x02\x02\x02" + SNRM.emit()
    whole = decode([stream])
    assert frames(whole) == [UA, SNRM, UA, SNRM, UA, SNRM]
    for pieces in [*all_splits(stream), *random_splits(stream, random.Random(5), 60)]:
        assert decode(pieces) == whole


def test_dropped_bytes_are_counted_and_what_was_wrong_first_is_said() -> None:
    broken = bytearray(UA.emit())
    broken[-2] ^= 1
    noise, frame = decode([bytes(broken) + SNRM.emit()])
    # The broken frame's closing flag is the next one's opening flag as well.
    assert noise == HdlcNoise(len(broken) - 1, "wrong FCS")
    assert frame == SNRM


def test_garbage_is_not_kept() -> None:
    decoder = HdlcDecoder()
    for _ in range(200):
        decoder.feed(b"\x55\xaa" * 500)
    assert not decoder.pending
    decoder.feed(b"\x7e\xa7")
    for _ in range(200):
        decoder.feed(b"\x01" * 500)
    assert len(decoder._buffer) < 4096
    decoder.feed(SNRM.emit())
    noise, frame = decoder.next(), decoder.next()
    assert isinstance(noise, HdlcNoise)
    assert frame == SNRM


def test_random_bytes_give_frames_noise_or_nothing_and_a_frame_after_silence_is_read() -> None:
    pick = random.Random(6)
    for _ in range(400):
        common = (0x7E, 0xA0, 0xA8, 0x03, 0x21, 0x93, pick.randrange(256))
        garbage = bytes(pick.choice(common) for _ in range(pick.randrange(80)))
        decoder = HdlcDecoder()
        decoder.feed(garbage)
        decoder.idle()
        while decoder.next() is not None:
            pass
        assert not decoder.pending
        decoder.feed(UA.emit())
        assert decoder.next() == UA


def checked(octets: str, info: bytes = b"") -> bytes:
    """A frame of any header with right checksums."""
    head = bytes.fromhex(octets)
    body = head + fcs16(head).to_bytes(2, "little") + info if info else head
    return b"\x7e" + body + fcs16(body).to_bytes(2, "little") + b"\x7e"


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        (checked("9007032193"), "not format type 3"),
        (checked("a0090202052393"), "address of 3 octets"),
        (checked("a00b02020202032193"), "address without an end"),
        (checked("a00703210f")[:-3] + b"\x00\x00\x7e", "wrong FCS"),
    ],
)
def test_what_is_wrong_with_a_frame_is_said_though_its_checksums_hold(wire: bytes, why: str) -> None:
    noise, frame = decode([wire + SNRM.emit()])
    assert isinstance(noise, HdlcNoise)
    assert (noise.why, frame) == (why, SNRM)


@pytest.mark.parametrize(
    ("octets", "enough"),
    [
        ("90", 1),  # format type 1
        ("a006", 2),  # too short for any frame
        ("a008032193", 5),  # too short for information after this header
        ("a00902232193", 6),
        ("a009020202232193", 8),
        ("a01e2103730000", 7),  # a wrong HCS
    ],
)
def test_what_cannot_become_a_frame_is_waited_for_no_longer_than_needed_to_see_that(octets: str, enough: int) -> None:
    decoder = HdlcDecoder()
    decoder.feed(b"\x7e")
    for count, octet in enumerate(bytes.fromhex(octets), start=1):
        decoder.feed(bytes((octet,)))
        assert decoder.pending == (count < enough)


@pytest.mark.parametrize("octets", ["a0", "a007", "a0070321", "a00703219312", "a01e210373c37a8180"])
def test_a_frame_that_stops_in_its_middle_is_broken_and_one_flag_is_not(octets: str) -> None:
    decoder = HdlcDecoder()
    decoder.feed(b"\x7e" + bytes.fromhex(octets))
    assert not decoder.broken
    decoder.idle()
    assert (decoder.broken, decoder.pending) == (True, False)
    assert decoder.next() == HdlcNoise(1 + len(octets) // 2, "the frame stopped in its middle")


def test_a_flag_before_a_silence_still_opens_the_frame_behind_it() -> None:
    decoder = HdlcDecoder()
    decoder.feed(b"\x7e")
    decoder.idle()
    assert (decoder.broken, decoder.next()) == (False, None)
    decoder.feed(SNRM.emit()[1:])
    assert decoder.next() == SNRM


@pytest.mark.parametrize("octets", ["00", "a000", "a0070000000000", "a00702040823"])
def test_noise_that_never_looked_like_a_frame_breaks_nothing(octets: str) -> None:
    decoder = HdlcDecoder()
    decoder.feed(b"\x7e" + bytes.fromhex(octets) + b"\x7e")
    assert not decoder.broken


@pytest.mark.parametrize("damaged", [-2, 7])
def test_a_frame_that_failed_a_checksum_is_broken_until_a_whole_one_comes(damaged: int) -> None:
    wire = bytearray(UA.emit())
    wire[damaged] ^= 1  # of the FCS, of the HCS
    decoder = HdlcDecoder()
    decoder.feed(bytes(wire))
    assert decoder.broken
    decoder.feed(b"\x7e\x00\x7e")  # noise that is no frame mends nothing
    assert decoder.broken
    decoder.feed(SNRM.emit())
    assert not decoder.broken


def test_one_flag_is_nothing_to_wait_for_and_one_octet_behind_it_is() -> None:
    decoder = HdlcDecoder()
    assert not decoder.pending
    decoder.feed(b"\x7e")
    assert not decoder.pending
    decoder.feed(b"\xa0")
    assert decoder.pending
