"""Bytes explained as trees."""

from __future__ import annotations

import json
import random

import pytest

from dlms import axdr
from dlms.codes import Conformance, Context, Mechanism
from dlms.explain.apdus import Keys, explain_apdu
from dlms.explain.node import Node
from dlms.explain.streams import explain_bytes, explain_trace
from dlms.explain.values import data_node
from dlms.link.hdlc.frames import HdlcAddress, HdlcFrame
from dlms.link.trace import TraceLine
from dlms.link.wrapper import WrapperFrame
from dlms.security.ciphering import Ciphering
from dlms.security.settings import MemoryCounters, Security
from dlms.xdlms.acse import Aarq, InitiateRequest
from dlms.xdlms.apdu.common import AccessError, emit_results
from dlms.xdlms.apdu.get import GetBlock, GetResponse

EK, AK = bytes(range(16)), bytes(range(16, 32))
GET = bytes.fromhex("c001c100030100010800ff0200")
ANSWER = bytes.fromhex("c401c10006000004d2")


def text(nodes: list[Node]) -> str:
    return "\n".join(line for node in nodes for line in node.lines())


def explained(data: str | bytes, keys: Keys | None = None) -> str:
    return text(explain_bytes(bytes.fromhex(data) if isinstance(data, str) else data, keys or Keys()))


def test_frames_are_shown_with_their_parameters() -> None:
    shown = explained("7ea0070321930f017e7ea01e210373c37a818012050180060180070400000001080400000001533b7e")
    assert "HDLC: SNRM P/F 16 to 1" in shown
    assert "information field: sends 128, takes 128" in shown


def test_an_apdu_is_shown_with_names_for_its_numbers() -> None:
    shown = explained(GET)
    assert "get-request" in shown
    assert "register 1.0.1.8.0.255 attribute 2 value" in shown
    assert "double-long-unsigned: 1234" in explained(ANSWER)


def test_segments_are_put_together_and_shown_with_the_last_one() -> None:
    apdu = bytes.fromhex("e6e700") + GetResponse(0xC1, axdr.octets(bytes(150))).emit()
    client, meter = HdlcAddress(16), HdlcAddress(1)
    first = HdlcFrame(client, meter, 0x30, apdu[:128], segmented=True).emit()
    second = HdlcFrame(client, meter, 0x32, apdu[128:]).emit()
    shown = explained(first + first + second)
    assert "segment: 128 octets, 128 so far" in shown
    assert "repeated: 128 octets" in shown
    assert "result octet-string: " + bytes(150).hex() in shown


def test_an_answer_in_blocks_is_shown_whole_with_its_last_block() -> None:
    value = axdr.array([axdr.octets(bytes(40)), axdr.u32(7)]).emit()
    keys = Keys()

    def told(number: int, piece: bytes, *, last: bool = False) -> str:
        return "\n".join(explain_apdu(GetBlock(0xC1, last, number, piece).emit(), keys).lines())

    assert "whole" not in told(1, value[:10])
    assert "whole" not in told(1, value[:10])
    assert "whole" not in told(2, value[10:20])
    assert "whole" not in told(2, value[10:20])
    assert "the whole value: array: 2 elements" in told(3, value[20:], last=True)
    assert "whole" not in told(9, value, last=True)
    results = emit_results((axdr.u8(1), AccessError(4)))
    assert "all results: 2" in told(1, results, last=True)
    assert "the whole value: cannot be read" in told(1, b"\xfe", last=True)


def test_wrapper_messages_are_shown() -> None:
    shown = explained(WrapperFrame(16, 1, GET).emit() + WrapperFrame(1, 16, ANSWER).emit() + b"\x00")
    assert "wrapper: 16 to 1, 13 octets" in shown
    assert "wrapper: 1 to 16, 9 octets" in shown
    assert "incomplete: 1 octets" in shown


def test_a_bare_value_is_shown_and_times_are_read() -> None:
    shown = explained("0203090c07ea0116050a1e00ff0000000600000001110a")
    assert shown.startswith("structure: 3 elements")
    assert "2026-01-22 10:30:00" in shown


def test_passwords_and_dedicated_keys_are_not_shown() -> None:
    initiate = InitiateRequest(Conformance.GET, 1024, dedicated_key=bytes.fromhex("dd" * 16)).emit()
    shown = explained(Aarq(Context.LN, initiate, Mechanism.LLS, b"hunter2").emit())
    assert "not shown" in shown
    assert b"hunter2".hex() not in shown
    assert "hunter2" not in shown
    assert "dd" * 16 not in shown


def ciphered(apdu: bytes, title: bytes, *, general: bool = False) -> bytes:
    return Ciphering(Security(title, EK, AK, counters=MemoryCounters(7), general=general)).protect(apdu)


@pytest.mark.parametrize("general", [False, True])
def test_ciphered_apdus_are_opened_with_the_keys(general: bool) -> None:
    apdu = ciphered(GET, b"CLIENT00", general=general)
    closed = explained(apdu)
    assert "invocation counter: 7" in closed
    assert "give the key" in closed
    assert "1.0.1.8.0.255" in explained(apdu, Keys(EK, AK, client_title=b"CLIENT00"))


def test_a_wrong_key_is_said_and_nothing_is_made_up() -> None:
    apdu = ciphered(GET, b"CLIENT00")
    shown = explained(apdu, Keys(EK[::-1], AK, client_title=b"CLIENT00"))
    assert "cannot be deciphered" in shown
    assert "1.0.1.8.0.255" not in shown


def test_system_titles_are_learned_from_the_association_and_told_apart_by_direction() -> None:
    initiate = InitiateRequest(Conformance.GET, 1024).emit()
    aarq = Aarq(Context.LN_CIPHERED, initiate, system_title=b"CLIENT00").emit()
    keys = Keys(EK, AK, server_title=b"SERVER00")
    stream = b"".join(
        WrapperFrame(1, 1, apdu).emit() for apdu in (aarq, ciphered(GET, b"CLIENT00"), ciphered(ANSWER, b"SERVER00"))
    )
    shown = explained(stream, keys)
    assert "1.0.1.8.0.255" in shown
    assert "double-long-unsigned: 1234" in shown


def test_a_trace_is_shown_burst_by_burst_with_frames_that_span_bursts() -> None:
    frame = HdlcFrame(HdlcAddress(16), HdlcAddress(1), 0x30, bytes.fromhex("e6e700") + ANSWER).emit()
    lines = [
        TraceLine(0.0, sent=True, data=HdlcFrame(HdlcAddress(1), HdlcAddress(16), 0x93).emit()),
        TraceLine(0.1, sent=False, data=frame[:10]),
        TraceLine(0.2, sent=False, data=frame[10:]),
        TraceLine(0.3, sent=False, data=frame[:5]),
    ]
    shown = text(explain_trace(lines, Keys()))
    assert "0.000 s to the meter: 9 octets" in shown
    assert "double-long-unsigned: 1234" in shown
    assert "at the end: from the meter" in shown


def test_a_trace_of_bare_apdus_is_shown() -> None:
    shown = text(explain_trace([TraceLine(0.0, sent=True, data=GET)], Keys()))
    assert "get-request" in shown


def test_the_tree_is_json_too() -> None:
    (node,) = explain_bytes(GET, Keys())
    tree = json.loads(json.dumps(node.as_json()))
    assert tree["label"] == "get-request"
    assert {"label": "invoke", "value": "193"} in tree["children"]


def test_random_bytes_are_always_explained_somehow() -> None:
    pick = random.Random(11)
    starts = [b"", b"\x7e\xa0", b"\x00\x01\x00", b"\x60", b"\x61", b"\xc0\x01", b"\xc4", b"\xdb\x08", b"\xcc", b"\x02"]
    for _ in range(1500):
        data = pick.choice(starts) + pick.randbytes(pick.randrange(60))
        nodes = explain_bytes(data, Keys(EK, AK, EK, b"CLIENT00", b"SERVER00"))
        assert text(nodes) or not data
        json.dumps([node.as_json() for node in nodes])


def test_damaged_apdus_of_every_kind_are_explained() -> None:
    pick = random.Random(12)
    keys = Keys(EK, AK, client_title=b"CLIENT00", server_title=b"SERVER00")
    aarq = Aarq(Context.LN, InitiateRequest(Conformance.GET, 1024).emit(), Mechanism.LLS, b"pw").emit()
    for apdu in (GET, ANSWER, aarq, ciphered(GET, b"CLIENT00"), ciphered(GET, b"CLIENT00", general=True)):
        for _ in range(200):
            damaged = bytearray(apdu[: pick.randrange(1, len(apdu) + 1)])
            damaged[pick.randrange(len(damaged))] = pick.randrange(256)
            assert explain_apdu(bytes(damaged), keys).lines()


@pytest.mark.parametrize(
    ("apdu", "label", "inside"),
    [
        ("0f00000001000202120001120002", "data-notification", "long-unsigned: 1"),
        ("c20000030100010800ff020600000005", "event-notification", "double-long-unsigned: 5"),
        ("0501020008", "read-request", "8"),
        ("0c01000600000005", "read-response", "double-long-unsigned: 5"),
        ("e0810001000009c401c10006000004d2", "general-block-transfer", "double-long-unsigned: 1234"),
        ("62 03 800100", "rlrq", "reason: 0"),
    ],
)
def test_every_kind_of_apdu_is_shown_with_what_is_inside(apdu: str, label: str, inside: str) -> None:
    shown = text([explain_apdu(bytes.fromhex(apdu), Keys())])
    assert label in shown
    assert inside in shown


@pytest.mark.parametrize(
    ("tag", "name"),
    [(0x21, "glo-initiate-request"), (0xC8, "glo-get-request"), (0xD4, "ded-get-response"), (0x45, "ded-read-request"),
     (0xCF, "glo-action-response"), (0xFE, "APDU 0xfe")],
)  # fmt: skip
def test_ciphered_apdus_are_called_by_what_they_hold(tag: int, name: str) -> None:
    assert name in str(explain_apdu(bytes((tag, 5, 0x30, 0, 0, 0, 1)), Keys()).lines())


CLIENT, METER = HdlcAddress(16), HdlcAddress(1)
UI, SNRM, DISC, UA = 0x03, 0x93, 0x53, 0x73


def test_a_notification_in_a_ui_frame_is_shown_as_an_apdu() -> None:
    shown = explained(HdlcFrame(CLIENT, METER, UI, bytes.fromhex("e6e700") + ANSWER).emit())
    assert "get-response" in shown
    assert "double-long-unsigned: 1234" in shown


@pytest.mark.parametrize(
    ("control", "info", "said"),
    [
        (UI, "0102030405", "information: 0102030405"),  # without the octets of the LLC sublayer
        (DISC, "0102", "information: 0102"),  # a frame that has no information field
        (SNRM, "8180", "information: 8180: "),  # parameters that end too soon, and why they cannot be read
    ],
)
def test_information_that_is_none_of_the_known_is_shown_as_octets(control: int, info: str, said: str) -> None:
    assert said in explained(HdlcFrame(CLIENT, METER, control, bytes.fromhex(info)).emit())


def test_segments_of_before_are_forgotten_when_the_link_begins_anew() -> None:
    apdu = bytes.fromhex("e6e700") + ANSWER
    first = HdlcFrame(CLIENT, METER, 0x30, apdu[:6], segmented=True).emit()
    again = HdlcFrame(CLIENT, METER, UA, b"").emit()
    whole = HdlcFrame(CLIENT, METER, 0x30, apdu).emit()
    assert "double-long-unsigned: 1234" in explained(first + again + whole)
    assert "double-long-unsigned: 1234" not in explained(first + whole)


def test_a_stream_of_wrapper_messages_that_breaks_is_noise_from_there_on() -> None:
    good = WrapperFrame(16, 1, GET).emit()
    bursts = (good, bytes.fromhex("000200100001000101"), GET)  # version 2 is none
    lines = [TraceLine(float(at), sent=True, data=data) for at, data in enumerate(bursts)]
    shown = text(explain_trace(lines, Keys()))
    assert "get-request" in shown
    assert shown.count("noise") == 2
    assert f"noise: {len(GET)} octets" in shown


def test_a_compact_array_is_shown_with_its_elements_or_why_it_has_none() -> None:
    assert "2 elements" in text([data_node(axdr.decode(bytes.fromhex("13120400010002")))])
    cut_short = axdr.CompactArray(axdr.TypeDescription(axdr.Tag.LONG_UNSIGNED), bytes.fromhex("000100"))
    shown = text([data_node(axdr.Data(axdr.Tag.COMPACT_ARRAY, cut_short))])
    assert "early" in shown
    assert "elements" not in shown


def test_a_method_is_shown_with_its_name() -> None:
    shown = explained("c301c100460000600300ff0100")
    assert "disconnect-control 0.0.96.3.0.255 method 1 remote-disconnect" in shown.replace("_", "-").lower()
