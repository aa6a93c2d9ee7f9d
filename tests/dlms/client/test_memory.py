"""What hostile lengths cost: memory in proportion to what came, whatever it says of itself."""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from dlms import axdr
from dlms.axdr import TypeDescription
from dlms.cosem.profile import RowDecoder
from dlms.errors import DlmsError
from dlms.link.hdlc.frames import HdlcDecoder
from dlms.link.hdlc.primary import HdlcServerLink
from dlms.link.hdlc.window import Reassembly
from dlms.link.mode_e.opening import ModeEOpening
from dlms.link.wrapper import WrapperDecoder, WrapperLink
from dlms.xdlms.apdu.common import Item
from dlms.xdlms.exchange import GetExchange
from dlms.xdlms.gbt import BlockTransfer, GeneralBlock
from tests.dlms.client.test_association import ITEM
from tests.dlms.cosem import test_profile_and_tables as test_cosem
from tests.dlms.server.test_server import associated
from tests.dlms.xdlms.test_app_fuzz import SEEDS
from tests.fuzz.targets.dlms_app import run_apdu, run_data
from tests.fuzz.targets.dlms_meter import run_small, run_values, value_seeds

BOMBS = [bytes.fromhex(text) for text in ("84ffffffff", "847fffffff", "83ffffff", "82ffff", "ffff", "81ff", "ff")]
PEAK_BYTES_MAX = 200_000  # the longest seed has some hundred octets; a message object and an error text take some too


def peak_of(act: Callable[[], object]) -> int:
    """The most that was allocated at once beyond what was there before, in octets."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def bombed(seeds: list[bytes]) -> Iterator[bytes]:
    """Each seed with a huge length at every place, in place of what was there and before it."""
    for seed in seeds:
        for at in range(min(len(seed), 60)):
            for bomb in BOMBS[at % 2 :: 2]:
                yield seed[:at] + bomb + seed[at:]
                yield seed[:at] + bomb + seed[at + 1 :]


@pytest.mark.parametrize("run", [run_apdu, run_data, run_small, run_values], ids=lambda run: run.__name__)
@pytest.mark.slow
def test_a_length_that_lies_allocates_nothing(run: Callable[[bytes], object]) -> None:
    inputs = list(bombed([*SEEDS, *value_seeds()]))
    chance = random.Random(run.__name__)

    def attempt(data: bytes) -> None:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with contextlib.suppress(DlmsError):
            run(data)
        assert tracemalloc.get_traced_memory()[1] - before < PEAK_BYTES_MAX, data.hex()

    def attempts() -> None:
        for data in chance.sample(inputs, 800):
            attempt(data)

    peak_of(attempts)


@pytest.mark.parametrize(
    "data",
    [
        b"\x01\x84\xff\xff\xff\xff",
        b"\x09\x84\xff\xff\xff\xff" + bytes(100),
        b"\x04\x84\xff\xff\xff\xf8" + bytes(100),
        b"\x13\x01\xff\xff\x01\xff\xff\x01\xff\xff\x00\x01\x00",
        b"\x13\x02\x82\xff\xff" + b"\x00" * 50,
        b"\x02\x01" * 5000,
        b"\x01\x7f" * 5000,
        b"\x13" + b"\x01\xff\xff" * 17 + b"\x00\x00",
    ],
    ids=lambda data: data[:8].hex(),
)
def test_values_that_nest_or_count_without_end_are_refused_in_little_memory(data: bytes) -> None:
    def attempt() -> None:
        with pytest.raises(DlmsError):
            axdr.decode(data)

    assert peak_of(attempt) < 40 * len(data) + 100_000


def test_a_compact_array_gives_no_more_elements_than_its_contents_pay_for() -> None:
    description = TypeDescription(axdr.Tag.ARRAY, 0xFFFF, (TypeDescription(axdr.Tag.NULL),))
    raw = axdr.compact(TypeDescription(axdr.Tag.STRUCTURE, 0, (TypeDescription(axdr.Tag.UNSIGNED),)), []).emit()
    assert axdr.decode(raw).members() == ()
    bomb = b"\x13\x02\x02" + b"\x01" + description.count.to_bytes(2, "big") + b"\x00" + b"\x11" + b"\x01\x05"

    def attempt() -> None:
        with pytest.raises(DlmsError):
            axdr.decode(bomb).members()

    assert peak_of(attempt) < 1_000_000


def test_a_profile_buffer_that_counts_too_far_is_refused() -> None:
    whole = test_cosem.buffer(3)
    for lie in (b"\x01\x84\xff\xff\xff\xff", b"\x01\x83\xff\xff\xff"):

        def attempt(lie: bytes = lie) -> None:
            with pytest.raises(DlmsError):
                RowDecoder(test_cosem.COLUMNS, period_s=900).decode(lie + whole[2:])

        assert peak_of(attempt) < PEAK_BYTES_MAX


# ---- streams that never end keep nothing that is not needed

MEGABYTE = 1 << 20


def feed_hdlc(piece: bytes) -> None:
    decoder = HdlcDecoder()
    for _ in range(MEGABYTE // len(piece)):
        decoder.feed(piece)
        while decoder.next() is not None:
            pass


def feed_server(piece: bytes) -> None:
    link = HdlcServerLink(1)
    for _ in range(MEGABYTE // len(piece)):
        link.receive(piece, 0.0)
        link.take_output()
        while link.next_event() is not None:
            pass


def feed_wrapper(piece: bytes) -> None:
    decoder = WrapperDecoder()
    try:
        for _ in range(MEGABYTE // len(piece)):
            decoder.feed(piece)
            while decoder.next() is not None:
                pass
    except DlmsError:
        return


def feed_wrapper_link(piece: bytes) -> None:
    link = WrapperLink(16, 1)
    link.connect(0.0)
    for _ in range(MEGABYTE // len(piece)):
        link.receive(piece, 0.0)
        while link.next_event() is not None:
            pass


def feed_mode_e(piece: bytes) -> None:
    opening = ModeEOpening()
    opening.start(0.0)
    for _ in range(MEGABYTE // len(piece)):
        opening.receive(piece, 0.0)
        opening.take_output()


@pytest.mark.parametrize("feed", [feed_hdlc, feed_server, feed_wrapper, feed_wrapper_link, feed_mode_e])
@pytest.mark.parametrize(
    "piece",
    [bytes(1024), b"\x7e\x7e\xa0" + bytes(1021), b"\xff" * 1024,
     b"\x7e\xa7\xff" + b"\x01" * 1021, b"\x00\x01\x00\x10\x00\x01\xff\xff" + bytes(1016),
     b"/ABC5" + b"x" * 1019],
    ids=lambda piece: piece[:4].hex(),
)  # fmt: skip
def test_a_stream_that_never_ends_is_not_kept(feed: Callable[[bytes], None], piece: bytes) -> None:
    assert peak_of(lambda: feed(piece)) < 400_000


@pytest.mark.slow
def test_flags_are_not_kept() -> None:
    decoder = HdlcDecoder()

    def feed() -> None:
        for _ in range(100):
            decoder.feed(b"\x7e" * 1024)

    assert peak_of(feed) < 20_000
    assert not decoder.pending


def test_segments_without_anything_in_them_are_not_kept() -> None:
    parts = Reassembly()

    def feed() -> None:
        for number in range(20_000):
            parts.accept(number % 8, b"", True)  # noqa: FBT003 - more follows

    assert peak_of(feed) < 10_000
    assert parts.inside


def test_blocks_that_never_end_are_given_up() -> None:
    transfer = BlockTransfer(64)
    data = bytes(60_000)

    def attempt() -> None:
        with pytest.raises(DlmsError):
            for number in range(1, 0xFFFF):
                block = GeneralBlock(last=False, streaming=True, window=1, number=number, acknowledged=0, data=data)
                transfer.receive(block.emit())

    assert peak_of(attempt) < 40 * MEGABYTE


def test_an_answer_in_blocks_that_never_ends_is_given_up() -> None:
    exchange = GetExchange((Item(ITEM.ref),))
    exchange.start(0xC1)
    block = bytes(60_000)

    def attempt() -> None:
        with pytest.raises(DlmsError):
            for number in range(1, 0xFFFF):
                head = (
                    bytes.fromhex("c402c100") + number.to_bytes(4, "big") + b"\x00\x82" + len(block).to_bytes(2, "big")
                )
                exchange.advance(head + block)

    assert peak_of(attempt) < 40 * MEGABYTE


def test_a_request_in_blocks_that_never_ends_is_given_up() -> None:
    association = associated(pdu_size=1024)
    answers: list[bytes] = []

    def attempt() -> None:
        first = bytes.fromhex("c102c1" + ITEM.ref.emit().hex() + "00" + "00" + "00000001" + "82ea60")
        for number in range(1, 40):
            head = first if number == 1 else bytes.fromhex("c103c100") + number.to_bytes(4, "big") + b"\x82\xea\x60"
            answers[:] = association.receive_apdu(head + bytes(60_000), 0.0)

    assert peak_of(attempt) < 4 * MEGABYTE
    assert answers[0][0] == 0xD8
