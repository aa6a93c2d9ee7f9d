"""Seeded fuzz of everything above the links: a value or a `DlmsError`, no third outcome."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from dlms import axdr
from dlms.client.association import Answered, Association, Proposal
from dlms.cosem.obis import AttributeRef
from dlms.cosem.time import CosemDateTime
from dlms.errors import DlmsError
from dlms.security.settings import Lls
from dlms.server.server import MeterServer
from dlms.xdlms.acse import Aare, Aarq, InitiateRequest, InitiateResponse, ReleaseApdu
from dlms.xdlms.apdu import action, get, notify, sn
from dlms.xdlms.apdu import service_errors as faults
from dlms.xdlms.apdu import set as set_apdu
from dlms.xdlms.apdu.access import AccessRequest, AccessResponse
from dlms.xdlms.exchange import GetAnswer, GetExchange
from dlms.xdlms.exchange_write import ActionExchange, SetExchange
from dlms.xdlms.gbt import GeneralBlock
from tests.dlms import test_axdr
from tests.dlms.client import test_association
from tests.dlms.random_data import random_data
from tests.dlms.server import test_server
from tests.dlms.xdlms import test_acse
from tests.dlms.xdlms.apdu import test_apdu

DECODERS: list[Callable[[bytes], object]] = [
    axdr.decode,
    Aarq.parse,
    Aare.parse,
    ReleaseApdu.parse,
    InitiateRequest.parse,
    InitiateResponse.parse,
    get.parse_request,
    get.parse_response,
    get.parse_block,
    set_apdu.parse_request,
    set_apdu.parse_response,
    action.parse_request,
    action.parse_response,
    faults.parse_exception,
    faults.parse_service_error,
    CosemDateTime.parse,
    notify.parse,
    AccessRequest.parse,
    AccessResponse.parse,
    sn.parse_read_request,
    sn.parse_read_response,
    sn.parse_write_request,
    sn.parse_write_response,
    GeneralBlock.parse,
]
SEEDS = [
    *(bytes.fromhex(encoded) for encoded, _ in test_axdr.KNOWN),
    *(bytes.fromhex(line[0]) for line in test_apdu.EVERYTHING),
    *(
        bytes.fromhex(text)
        for name, text in vars(test_acse).items()
        if name.startswith("AAR") and isinstance(text, str)
    ),
    test_acse.PROPOSED.emit(),
    test_acse.NEGOTIATED.emit(),
    ReleaseApdu().emit(),
    *map(
        bytes.fromhex,
        (
            "0f400000010c07ea0b16070c0000000000001105",
            "c2010c07ea0b16070c00000000000000010000600100ff021105",
            "18000102123401" + "1105",
            "d940000001000101" + "00010000600100ff02" + "0100",
            "da40000001000001110501" + "0100",
            "0502021234041234021105",
            "0c020011050104",
            "0c010200000303616263",
            "0601021234011105",
            "0d02000103",
            "e0430005000103616263",
        ),
    ),
]


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Flip, drop, repeat or insert a few octets."""
    octets = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(octets) + 1)
        kind = chance.randrange(4)
        if kind == 0 and at < len(octets):
            octets[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del octets[at : at + chance.randrange(1, 4)]
        elif kind == 2:
            octets[at:at] = octets[at : at + 4]
        else:
            octets[at:at] = chance.choice((b"\xff", b"\x84\xff\xff\xff\xff", b"\x01\x82", b"\x00", b"\x80"))
    return bytes(octets)


@pytest.mark.parametrize("decoder", DECODERS, ids=[decoder.__qualname__ for decoder in DECODERS])
def test_a_decoder_gives_a_value_or_a_dlms_error(decoder: Callable[[bytes], object]) -> None:
    chance = random.Random(decoder.__qualname__)
    for turn in range(1500):
        data = chance.randbytes(chance.randrange(40)) if turn % 3 == 0 else mutate(chance, chance.choice(SEEDS))
        try:
            value = decoder(data)
        except DlmsError:
            continue
        emit = getattr(value, "emit", None)
        assert emit is None or isinstance(emit(), bytes)


def test_decoded_data_reads_back_as_itself() -> None:
    chance = random.Random(7)
    for _ in range(1500):
        data = mutate(chance, random_data(chance).emit())
        try:
            value = axdr.decode(data)
        except DlmsError:
            continue
        assert axdr.decode(value.emit()).emit() == value.emit()


def test_a_client_bears_any_answer_in_any_state() -> None:
    chance = random.Random(11)
    item = test_association.ITEM
    for turn in range(600):
        association = Association(Proposal(auth=Lls("pw")))
        if turn % 4:
            association.associate()
            association.receive_apdu(test_association.AARE)
            exchange: object = chance.choice(
                (
                    GetExchange((item,)),
                    GetExchange((item, item)),
                    SetExchange((item,), (axdr.octets(bytes(200)),), 64),
                    ActionExchange((test_association.METHOD,), (None,), 64),
                )
            )
            association.request(exchange)  # type: ignore[arg-type]
        elif turn % 8:
            association.associate()
        for _ in range(4):
            association.receive_apdu(mutate(chance, chance.choice(SEEDS)))
            while (event := association.next_event()) is not None:
                if isinstance(event, Answered) and isinstance(event.answer, GetAnswer):
                    with contextlib.suppress(DlmsError):
                        event.answer.results()


def test_a_meter_bears_any_request_in_any_state() -> None:
    chance = random.Random(13)
    for turn in range(600):
        store = test_server.Store()
        store.value = random_data(chance)
        association = MeterServer([store.item], auth=Lls("pw")).new_association(1)
        if turn % 4:
            association.receive_apdu(test_server.aarq(64), 0.0)
        for _ in range(5):
            for answer in association.receive_apdu(mutate(chance, chance.choice(SEEDS)), 0.0):
                assert isinstance(answer, bytes)
                assert answer


def test_references_and_codes_from_text() -> None:
    chance = random.Random(17)
    for _ in range(2000):
        text = "".join(chance.choice("0123456789./-:*& ab²") for _ in range(chance.randrange(25)))
        try:
            AttributeRef.parse(text)
        except DlmsError:
            continue


def test_the_reading_list_is_there() -> None:
    assert (Path(__file__).parents[3] / "etc" / "reading-lists" / "residential-108.csv").is_file()
