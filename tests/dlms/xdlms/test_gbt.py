"""General block transfer: windows, lost blocks, and both sides of an association."""

from __future__ import annotations

import random

import pytest

from dlms import axdr
from dlms.client.events import ItemRead, Value
from dlms.client.session import MeterSession
from dlms.codes import LN_CLIENT_CONFORMANCE, Conformance
from dlms.cosem.obis import AttributeRef
from dlms.errors import DecodeError, DlmsError, LocalError, PeerError
from dlms.security.settings import Policy
from dlms.server.objects import CosemObject, constant
from dlms.server.server import MeterServer
from dlms.xdlms.gbt import HEAD_OCTETS, BlockTransfer, GeneralBlock
from tests.dlms.plain_link import PacketLink, Wire
from tests.dlms.security.test_security import pair
from tests.dlms.xdlms.test_app_fuzz import mutate

WITH_BLOCKS = LN_CLIENT_CONFORMANCE | Conformance.GENERAL_BLOCK_TRANSFER
REF = AttributeRef.parse("1/0.0.96.1.0.255/2")


def test_a_block_is_as_the_standard_draws_it() -> None:
    block = GeneralBlock(last=False, streaming=True, window=3, number=5, acknowledged=1, data=b"abc")
    assert block.emit().hex() == "e0430005000103616263"
    assert GeneralBlock.parse(block.emit()) == block
    for wrong in ("", "e0", "e043000500010461", "e04300050001036162 6300".replace(" ", ""), "c043000500010361"):
        with pytest.raises(DecodeError):
            GeneralBlock.parse(bytes.fromhex(wrong))
    with pytest.raises(LocalError):
        GeneralBlock(last=True, streaming=False, window=64, number=1, acknowledged=0)
    with pytest.raises(LocalError):
        GeneralBlock(last=True, streaming=False, window=1, number=65536, acknowledged=0)


def carry(apdu: bytes, window: int, chance: random.Random | None = None, loss: float = 0.0) -> tuple[bytes, int]:
    """Send `apdu` from one side to the other over a line that loses blocks; what arrived, and in how many turns."""
    sender, receiver = BlockTransfer(64), BlockTransfer(64, window)
    # the receiver's window is told in a block of its own, as a request before would
    sender.receive(GeneralBlock(last=True, streaming=False, window=window, number=1, acknowledged=0).emit())
    blocks = sender.send(apdu)
    for turn in range(1, 5000):
        answers: list[bytes] = []
        for at, block in enumerate(blocks):
            last = at == len(blocks) - 1
            if chance is not None and not last and chance.random() < loss:
                continue
            out, complete = receiver.receive(block)
            if complete is not None:
                return complete, turn
            answers += out
        blocks = []
        for answer in answers:
            out, _none = sender.receive(answer)
            blocks += out
        assert blocks, "nobody has anything to say"
    raise AssertionError("no end")


@pytest.mark.parametrize("window", [1, 2, 3, 7, 63])
@pytest.mark.parametrize("size", [1, 54, 55, 56, 110, 1000, 5000])
def test_an_apdu_arrives_whole_in_as_few_turns_as_the_window_allows(window: int, size: int) -> None:
    apdu = bytes(at % 251 for at in range(size))
    got, turns = carry(apdu, window)
    assert got == apdu
    blocks = -(-size // (64 - HEAD_OCTETS))
    assert turns == -(-blocks // window)


@pytest.mark.parametrize("window", [2, 5, 20])
def test_lost_blocks_are_sent_again(window: int) -> None:
    chance = random.Random(window)
    for _ in range(20):
        apdu = chance.randbytes(chance.randrange(100, 3000))
        assert carry(apdu, window, chance, 0.3)[0] == apdu


def test_asking_for_the_same_blocks_without_end_is_stopped() -> None:
    sender = BlockTransfer(64)
    sender.send(bytes(500))
    ack = GeneralBlock(last=True, streaming=False, window=1, number=1, acknowledged=0).emit()
    with pytest.raises(PeerError, match="again and again"):
        for _ in range(20):
            sender.receive(ack)


def test_an_acknowledgement_of_what_was_not_sent_is_an_error() -> None:
    sender = BlockTransfer(64)
    sender.send(bytes(500))
    with pytest.raises(PeerError):
        sender.receive(GeneralBlock(last=True, streaming=False, window=1, number=1, acknowledged=99).emit())


def test_damaged_blocks_give_blocks_or_an_error() -> None:
    chance = random.Random(23)
    for _ in range(300):
        transfer = BlockTransfer(64, 3)
        seeds = BlockTransfer(64, 3).send(bytes(300)) + BlockTransfer(64, 3).send(bytes(30))
        if chance.random() < 0.5:
            transfer.send(bytes(400))
        for _ in range(8):
            try:
                out, complete = transfer.receive(mutate(chance, chance.choice(seeds)))
            except DlmsError:
                continue
            assert all(len(block) <= 64 for block in out)
            assert complete is None or isinstance(complete, bytes)


@pytest.mark.parametrize("policy", [None, Policy.BOTH])
def test_a_session_reads_what_is_longer_than_its_pdu_in_general_blocks(policy: Policy | None) -> None:
    long = axdr.octets(bytes(range(256)) * 30)
    client, meter = pair(policy) if policy else (None, None)
    item = CosemObject(1, REF.obis, readers={2: constant(long)})
    wire = Wire(MeterServer([item], security=meter, conformance=WITH_BLOCKS).new_association(1))
    session = MeterSession(PacketLink(), client=1, server=1, security=client, pdu_size=256, conformance=WITH_BLOCKS)
    session.read([REF, REF], 0.0)
    session.read([REF], 0.0)
    events = wire.run(session)
    assert all(len(apdu) <= 256 for way, apdu in wire.log if way == "<")
    assert [event.result for event in events if isinstance(event, ItemRead)] == [Value(long)] * 2
    assert wire.requests("e0")
    assert not wire.requests("c002")
