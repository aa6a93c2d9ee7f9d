"""Captured pushes become values with their codes, and nothing of a message is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.metering.events.notification import Notice, meaning, opaque, read_notice, values_of
from agent.metering.events.protection import open_pushed
from dlms import axdr
from dlms.axdr import Data
from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.time import CosemDateTime
from dlms.security.settings import MemoryCounters, Policy, Security
from dlms.xdlms.apdu.notify import DataNotification, EventNotification, InformationReport, parse
from omadm.readings import EVENT_OCTETS_MAX
from tests.agent.metering.events.captured import AM550, E450, GH740, KAIFA, OF_HDLC, OMNIPOWER, Capture, kaifa_apdu


def keys_of(capture: Capture, suite: int = 0) -> Security:
    policy = Policy.BOTH if capture.ak else Policy.ENCRYPT
    return Security(b"DCUDCU01", capture.ek, capture.ak, suite, policy, MemoryCounters())


def plain(capture: Capture) -> bytes:
    apdu = kaifa_apdu() if capture is KAIFA else capture.apdu()
    if not capture.ek:
        return apdu
    opened = open_pushed(apdu, [keys_of(capture, apdu_suite(apdu))])
    assert opened.apdu is not None, opened.error
    return opened.apdu


def apdu_suite(apdu: bytes) -> int:
    """From the security control octet behind title and length."""
    at = 2 + apdu[1]
    at += 1 if apdu[at] < 0x80 else 1 + (apdu[at] & 0x7F)
    return apdu[at] & 0x0F


def leaves(data: Data) -> Iterator[int | str]:
    if isinstance(data.value, tuple):
        for member in data.value:
            yield from leaves(member)
    elif isinstance(data.value, bytes):
        yield data.value.hex()
    elif isinstance(data.value, str):
        yield data.value.encode().hex()
    elif isinstance(data.value, int):
        yield data.value


@pytest.mark.parametrize("capture", [*OF_HDLC, KAIFA], ids=lambda capture: capture.name)
def test_a_captured_push_is_decoded_whole(capture: Capture) -> None:
    apdu = plain(capture)
    message = parse(apdu)
    assert isinstance(message, DataNotification)
    assert list(leaves(message.body)) == capture.leaves
    notice = read_notice(apdu)
    assert (notice.error, notice.octets) == (None, None)
    found: list[object] = []
    for value in values_of(message.body):
        found += leaves(value.data)
        found += [] if value.obis is None else [value.obis.code.hex()]
        found += [number for number in (value.scaler, value.unit) if number is not None]
    # What the shape says of a value is said once per value, so the definitions of the GH740 come on top.
    assert sorted(map(str, capture.leaves)) == sorted(map(str, found)) or capture is GH740
    assert len(notice.values) == len(values_of(message.body))


def by_code(notice: Notice) -> dict[str, dict[str, object]]:
    return {str(value["obis"]): value for value in notice.values if "obis" in value}


@pytest.mark.parametrize(
    ("capture", "clock", "code", "value"),
    [
        (OMNIPOWER, "07ea030c040f181eff800000", "1.1.1.8.0.255", {"tag": "u32", "raw": 6307498}),
        (E450, "07e602150111251eff800000", "1.0.2.8.0.255", {"tag": "u32", "raw": 0}),
        (AM550, "07e50b020215330000ffc400", "1.1.1.8.0.255", {"tag": "u32", "raw": 58276, "scaler": 0, "unit": 30}),
        (KAIFA, "07e50713010f2e2300ff8880", "1.0.32.7.0.255", {"tag": "u16", "raw": 2308, "scaler": -1, "unit": 35}),
        (GH740, "07e8021d04163032ff800000", "1.1.1.8.0.255", {"tag": "u32", "raw": 2302502, "cls": 3, "attr": 2}),
    ],
    ids=lambda each: each.name if isinstance(each, Capture) else "",
)
def test_a_captured_push_says_which_value_is_which_and_when(
    capture: Capture, clock: str, code: str, value: dict[str, object]
) -> None:
    notice = read_notice(plain(capture))
    assert notice.clock.hex() == clock
    assert by_code(notice)[code] == {"obis": code, **value}


def test_an_event_code_gives_the_event_its_name() -> None:
    body = axdr.structure(axdr.octets(Obis.parse("0.0.96.11.1.255").code), axdr.u8(40))
    notice = read_notice(DataNotification(5, None, body).emit())
    assert (notice.invoke, notice.code, notice.name, notice.grave) == (5, 40, "terminal cover removed", True)
    assert str(notice.obis) == "0.0.96.11.1.255"


@pytest.mark.parametrize(
    ("obis", "bits", "code", "name", "grave"),
    [
        ("0.0.97.98.0.255", 1 << 13, 13, "fraud attempt", True),
        ("0.0.97.98.20.255", 0b11, None, "clock invalid, replace battery", True),
        ("0.0.97.98.1.255", 0b10, 1, "power back", False),
        ("0.0.97.98.5.255", 0b100, 2, "alarm bit 2", True),
        ("0.0.97.98.0.255", 0, None, "", False),
        ("0.0.97.98.10.255", 1, None, "", False),
    ],
)
def test_an_alarm_register_or_descriptor_gives_it_the_names_of_its_bits(
    obis: str, bits: int, code: int | None, name: str, grave: bool
) -> None:
    body = axdr.structure(axdr.structure(axdr.octets(Obis.parse(obis).code), axdr.u32(bits)))
    found = meaning(values_of(body))
    assert found[:3] == (code, name, grave)


def test_an_event_notification_says_which_attribute_and_when() -> None:
    when = CosemDateTime.parse(bytes.fromhex("07ea030c040f181eff800000"))
    apdu = EventNotification(when, AttributeRef.parse("1/0.0.96.11.2.255/2"), axdr.u16(62)).emit()
    notice = read_notice(apdu)
    assert (notice.clock, notice.invoke, notice.code) == (when.emit(), None, 62)
    assert notice.name == "remote disconnection"
    assert notice.values == [{"tag": "u16", "raw": 62, "obis": "0.0.96.11.2.255", "cls": 1, "attr": 2}]


def test_an_unknown_code_stays_a_number_and_an_information_report_has_its_values() -> None:
    apdu = EventNotification(None, AttributeRef.parse("1/0.0.96.11.0.255/2"), axdr.u16(777)).emit()
    assert (read_notice(apdu).code, read_notice(apdu).name) == (777, "")
    report = InformationReport(None, (0x2000,), (axdr.u32(4),)).emit()
    assert read_notice(report).values == [{"tag": "u32", "raw": 4}]


@pytest.mark.parametrize("apdu", [b"\x0f\x00", b"\x0f" + b"\xff" * 40, b"\xc2\x00\x00", b"\x18\x00\xff"], ids=bytes.hex)
def test_what_cannot_be_decoded_is_kept_as_it_came(apdu: bytes) -> None:
    notice = read_notice(apdu)
    assert notice.octets == apdu
    assert notice.error


def test_what_is_too_large_for_values_is_kept_as_octets_with_what_is_known() -> None:
    apdu = DataNotification(9, None, axdr.structure(*[axdr.u64(2**60)] * 900)).emit()
    notice = read_notice(apdu)
    assert (notice.invoke, notice.values, notice.error) == (9, [], "too-large; the first 8192 of 8109 octets"[:9])
    assert notice.octets == apdu
    assert opaque(b"\x0f" * (EVENT_OCTETS_MAX + 5), "x").error == f"x; the first {EVENT_OCTETS_MAX} of 8197 octets"
