"""What SNRM, UA and FRMR carry."""

from __future__ import annotations

import contextlib
import random

import pytest

from dlms.errors import DecodeError, LocalError
from dlms.link.hdlc.params import FrameReject, LinkParameters


@pytest.mark.parametrize(
    ("parameters", "wire"),
    [
        (LinkParameters(), "818012050180060180070400000001080400000001"),
        (LinkParameters(512, 1024, 3, 7), "8180140502020006020400070400000003080400000007"),
    ],
)
def test_parameters_are_emitted_and_read(parameters: LinkParameters, wire: str) -> None:
    assert parameters.emit_full().hex() == wire
    assert LinkParameters.parse(bytes.fromhex(wire)) == parameters


def test_default_parameters_need_no_octets() -> None:
    assert LinkParameters().emit() == b""
    assert LinkParameters.parse(b"") == LinkParameters()


@pytest.mark.parametrize(
    ("wire", "parameters"),
    [
        ("818000", LinkParameters()),
        ("81800305017e", None),
        ("818004050200f0", LinkParameters(info_sent=240)),
        ("81800605040000ffff", LinkParameters(info_sent=2030)),
        ("818003070109", LinkParameters(window_sent=7)),
        ("8180060901ff050140", LinkParameters(info_sent=64)),
    ],
    ids=["empty group", "truncated", "two octets", "too big is cut", "window is cut", "unknown is skipped"],
)
def test_meters_may_leave_out_parameters_and_choose_sizes(wire: str, parameters: LinkParameters | None) -> None:
    if parameters is None:
        assert LinkParameters.parse(bytes.fromhex(wire)).info_sent == 0x7E
    else:
        assert LinkParameters.parse(bytes.fromhex(wire)) == parameters


@pytest.mark.parametrize("wire", ["80", "8180", "81800305", "818003050100", "818002050a", "81810305017e", "818005"])
def test_wrong_parameters_are_an_error(wire: str) -> None:
    with pytest.raises(DecodeError):
        LinkParameters.parse(bytes.fromhex(wire))


@pytest.mark.parametrize("values", [(0, 1, 1, 1), (1, 2031, 1, 1), (1, 1, 0, 1), (1, 1, 1, 8)])
def test_parameters_out_of_range_cannot_be_made(values: tuple[int, int, int, int]) -> None:
    with pytest.raises(LocalError):
        LinkParameters(*values)


def test_each_side_agrees_to_the_smaller_value_crosswise() -> None:
    client, meter = LinkParameters(1024, 512, 7, 5), LinkParameters(128, 256, 1, 3)
    assert client.agree(meter) == LinkParameters(256, 128, 3, 1)
    assert meter.agree(client) == LinkParameters(128, 256, 1, 3)


def test_a_frame_reject_is_emitted_and_read_and_says_why() -> None:
    reject = FrameReject(0x3F, 2, 5, 0x03)
    assert reject.emit().hex() == "3fa403"
    assert FrameReject.parse(bytes.fromhex("3fa403ff")) == reject
    assert "command unknown" in str(reject)
    with pytest.raises(DecodeError):
        FrameReject.parse(b"\x3f")


def test_random_bytes_give_parameters_or_a_decode_error() -> None:
    pick = random.Random(8)
    for _ in range(3000):
        data = b"\x81\x80" + bytes(pick.choice((5, 6, 7, 8, 1, 2, 4, pick.randrange(256))) for _ in range(20))
        with contextlib.suppress(DecodeError):
            assert LinkParameters.parse(data[: pick.randrange(len(data))])
