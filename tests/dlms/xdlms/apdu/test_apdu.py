"""GET, SET, ACTION and the refusals: known octets, and everything emitted is read back."""

from __future__ import annotations

import pytest

from dlms import axdr
from dlms.cosem.obis import AttributeRef, MethodRef, Obis, Selection
from dlms.errors import DecodeError, LocalError
from dlms.xdlms.apdu import action, get
from dlms.xdlms.apdu import service_errors as faults
from dlms.xdlms.apdu import set as set_apdu
from dlms.xdlms.apdu.common import AccessError, ActionOutcome, DataBlock, Item

CLOCK = Obis.parse("0.0.1.0.0.255")
TIME = Item(AttributeRef(8, CLOCK, 2))
PART = Item(AttributeRef(7, Obis.parse("1.0.99.1.0.255"), 2), Selection(2, axdr.structure(axdr.u32(1), axdr.u32(5))))
METHOD = MethodRef(70, Obis.parse("0.0.96.3.10.255"), 1)
BLOCK = DataBlock(last=True, number=2, data=b"abc")

GETS = [
    ("c001c100080000010000ff0200", get.GetRequest(0xC1, TIME)),
    ("c001c1000701006301 00ff0201020202060000000106 00000005".replace(" ", ""), get.GetRequest(0xC1, PART)),
    ("c002c100000007", get.GetNext(0xC1, 7)),
    ("c003c10100080000010000ff0200", get.GetListRequest(0xC1, (TIME,))),
]
GET_ANSWERS = [
    ("c401c1001105", get.GetResponse(0xC1, axdr.u8(5))),
    ("c401c10104", get.GetResponse(0xC1, AccessError(4))),
    ("c402c1010000000200" + "03616263", get.GetBlock(0xC1, last=True, number=2, content=b"abc")),
    ("c402c101000000020113", get.GetBlock(0xC1, last=True, number=2, content=AccessError(19))),
    ("c403c10200110501fa", get.GetListResponse(0xC1, (axdr.u8(5), AccessError(250)))),
]
SETS = [
    ("c101c100080000010000ff020011 05".replace(" ", ""), set_apdu.SetRequest(0xC1, TIME, axdr.u8(5))),
    ("c102c100080000010000ff0200010000000203616263", set_apdu.SetFirstBlock(0xC1, (TIME,), BLOCK)),
    ("c103c1010000000203616263", set_apdu.SetBlock(0xC1, BLOCK)),
    ("c104c10100080000010000ff0200011105", set_apdu.SetListRequest(0xC1, (TIME,), (axdr.u8(5),))),
    (
        "c105c10100080000010000ff0200010000000203616263",
        set_apdu.SetFirstBlock(0xC1, (TIME,), BLOCK, as_list=True),
    ),
]
SET_ANSWERS = [
    ("c501c100", set_apdu.SetResponse(0xC1, (0,))),
    ("c502c100000001", set_apdu.SetBlockAck(0xC1, 1)),
    ("c503c10300000002", set_apdu.SetResponse(0xC1, (3,), 2)),
    ("c504c102000300000002", set_apdu.SetResponse(0xC1, (0, 3), 2, as_list=True)),
    ("c505c1020003", set_apdu.SetResponse(0xC1, (0, 3), as_list=True)),
]
ACTIONS = [
    ("c301c100460000600 30aff0100".replace(" ", ""), action.ActionRequest(0xC1, METHOD)),
    ("c301c1004600006003 0aff01010f00".replace(" ", ""), action.ActionRequest(0xC1, METHOD, axdr.i8(0))),
    ("c302c100000001", action.ActionNext(0xC1, 1)),
    ("c303c1010046000060030aff01010f00", action.ActionListRequest(0xC1, (METHOD,), (axdr.i8(0),))),
    ("c304c10046000060030aff01010000000203616263", action.ActionFirstBlock(0xC1, (METHOD,), BLOCK)),
    (
        "c305c1010046000060030aff01010000000203616263",
        action.ActionFirstBlock(0xC1, (METHOD,), BLOCK, as_list=True),
    ),
    ("c306c1010000000203616263", action.ActionBlock(0xC1, BLOCK)),
]
ACTION_ANSWERS = [
    ("c701c10000", action.ActionResponse(0xC1, ActionOutcome(0))),
    ("c701c10001001105", action.ActionResponse(0xC1, ActionOutcome(0, axdr.u8(5)))),
    ("c701c10c010104", action.ActionResponse(0xC1, ActionOutcome(12, AccessError(4)))),
    ("c702c1010000000203616263", action.ActionResponseBlock(0xC1, BLOCK)),
    ("c703c10200000300", action.ActionListResponse(0xC1, (ActionOutcome(0), ActionOutcome(3)))),
    ("c704c100000001", action.ActionBlockAck(0xC1, 1)),
]
FAULTS = [
    ("d80102", faults.ExceptionResponse(1, 2)),
    ("d8010600000007", faults.ExceptionResponse(1, 6, 7)),
]
EVERYTHING = [
    *((encoded, message, get.parse_request) for encoded, message in GETS),
    *((encoded, message, get.parse_response) for encoded, message in GET_ANSWERS),
    *((encoded, message, set_apdu.parse_request) for encoded, message in SETS),
    *((encoded, message, set_apdu.parse_response) for encoded, message in SET_ANSWERS),
    *((encoded, message, action.parse_request) for encoded, message in ACTIONS),
    *((encoded, message, action.parse_response) for encoded, message in ACTION_ANSWERS),
    *((encoded, message, faults.parse_exception) for encoded, message in FAULTS),
    ("0e060300", faults.ConfirmedServiceError(6, 3, 0), faults.parse_service_error),
]


@pytest.mark.parametrize(("encoded", "message", "parse"), EVERYTHING, ids=[line[0] for line in EVERYTHING])
def test_messages_both_ways(encoded: str, message, parse) -> None:  # type: ignore[no-untyped-def]
    assert message.emit().hex() == encoded
    assert parse(bytes.fromhex(encoded)) == message


@pytest.mark.parametrize(("encoded", "message", "parse"), EVERYTHING, ids=[line[0] for line in EVERYTHING])
def test_every_shortened_or_lengthened_message_is_a_decode_error(encoded: str, message, parse) -> None:  # type: ignore[no-untyped-def]
    whole = bytes.fromhex(encoded)
    for end in range(len(whole)):
        if encoded == "d8010600000007" and end == 3:
            continue  # the counter may be left out
        with pytest.raises(DecodeError):
            parse(whole[:end])
    with pytest.raises(DecodeError):
        parse(whole + b"\0")


@pytest.mark.parametrize(
    "parse",
    [
        get.parse_request, get.parse_response, set_apdu.parse_request, set_apdu.parse_response, action.parse_request,
        action.parse_response,
    ],
)  # fmt: skip
def test_an_unknown_form_of_a_service_is_a_decode_error(parse) -> None:  # type: ignore[no-untyped-def]
    for form in (0, 9, 255):
        with pytest.raises(DecodeError, match="not a form"):
            parse(bytes((0xC0, form, 0xC1)))


def test_lists_of_unequal_length_cannot_be_made() -> None:
    with pytest.raises(LocalError):
        set_apdu.SetListRequest(1, (TIME,), ())
    with pytest.raises(LocalError):
        action.ActionListRequest(1, (METHOD,), ())
    with pytest.raises(LocalError):
        set_apdu.SetFirstBlock(1, (TIME, TIME), BLOCK)
    with pytest.raises(DecodeError):
        set_apdu.parse_request(bytes.fromhex("c104c10100080000010000ff020002110511 05".replace(" ", "")))


def test_refusals_speak() -> None:
    assert faults.ExceptionResponse(2, 2).text == "service-not-supported"
    assert faults.ExceptionResponse(2, 3).unsupported
    assert not faults.ExceptionResponse(1, 3).unsupported
    assert faults.ConfirmedServiceError(1, 6, 3).text == "initiate refused: initiate pdu-size-too-short"
    assert AccessError(77).text == "data-access-result-77"
    assert ActionOutcome(12).text == "type-unmatched"
