"""The names of events and alarms, against those of public implementations of the profile."""

from __future__ import annotations

import pytest

from agent.metering.events.codes import (
    ALARMS,
    EVENTS,
    alarm_name,
    bits_of,
    event_name,
    is_grave_alarm,
    is_grave_event,
    register_of,
)
from dlms import axdr


@pytest.mark.parametrize(
    ("register", "bit", "name", "grave"),
    [
        (0, 0, "clock invalid", True),
        (0, 1, "replace battery", True),
        (0, 2, "", True),  # DSMR: power up; IDIS has none
        (0, 8, "program memory error", True),
        (0, 13, "fraud attempt", True),
        (0, 16, "M-Bus channel 1: communication error", True),
        (0, 23, "M-Bus channel 4: fraud attempt", True),
        (0, 24, "M-Bus channel 1: permanent error", True),
        (0, 31, "M-Bus channel 4: battery low", True),
        (1, 0, "total power failure", True),
        (1, 1, "power back", False),
        (1, 7, "voltage normal L3", False),
        (1, 11, "phase sequence reversed", True),
        (1, 13, "keys exchanged", False),
        (1, 16, "bad voltage quality L3", True),
        (1, 19, "M-Bus channel 1: new device", False),
        (1, 22, "M-Bus channel 4: new device", False),
        (1, 23, "", True),
        (1, 27, "M-Bus channel 1: valve alarm", True),
        (1, 30, "M-Bus channel 4: valve alarm", True),
        (1, 31, "disconnection or reconnection failed", True),
        (2, 4, "", True),
    ],
)
def test_bits_of_alarm_registers(register: int, bit: int, name: str, grave: bool) -> None:
    assert (alarm_name(register, bit), is_grave_alarm(register, bit)) == (name, grave)


@pytest.mark.parametrize(
    ("code", "name", "grave"),
    [
        (6, "clock invalid", True),
        (19, "passive tariff programmed", False),
        (21, "end of a non-periodic billing interval", False),
        (22, "", False),
        (51, "firmware verification failed", True),
        (75, "supervision monitor 3 threshold kept again", False),
        (94, "bad voltage quality L3", False),
        (254, "load profile cleared", False),
        (255, "event log cleared", False),
    ],
)
def test_codes_of_events(code: int, name: str, grave: bool) -> None:
    assert (event_name(code), is_grave_event(code)) == (name, grave)


def test_all_fit_into_their_objects() -> None:
    """Alarm registers have 32 bits, event codes are octets."""
    assert all(0 <= bit < 32 for bits in ALARMS.values() for bit in bits)
    assert all(0 < code < 255 for code in EVENTS)


@pytest.mark.parametrize(
    ("data", "bits"),
    [
        (axdr.u32(0x80000001), [0, 31]),
        (axdr.Data(axdr.Tag.DOUBLE_LONG, -(1 << 31)), [31]),
        (axdr.Data(axdr.Tag.INTEGER, -1), list(range(8))),
        (axdr.Data(axdr.Tag.BIT_STRING, "1001"), [0, 3]),
        (axdr.octets(bytes.fromhex("00000102")), [1, 8]),
        (axdr.octets(b""), None),
        (axdr.octets(bytes(9)), None),
        (axdr.Data(axdr.Tag.BOOLEAN, value=True), None),
        (axdr.Data(axdr.Tag.NULL, None), None),
    ],
)
def test_a_register_is_its_bits_in_whatever_type_it_comes(data: axdr.Data, bits: list[int] | None) -> None:
    value = register_of(data)
    assert (None if value is None else bits_of(value)) == bits
