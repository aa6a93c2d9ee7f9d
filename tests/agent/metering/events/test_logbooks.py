"""Rows of event logs and bits of alarm registers become events."""

from __future__ import annotations

from dataclasses import replace

from agent.metering.events.logbooks import Circumstances, alarm_events, log_events
from agent.metering.visit.profile_position import CapturedRow
from dlms import axdr
from dlms.axdr import Data
from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.profile import CLOCK_OBIS, CaptureObject
from dlms.cosem.time import STANDARD_CLOCK

FRAUD_LOG = Obis.parse("0.0.99.98.1.255")
REGISTER = AttributeRef.parse("1/0.0.97.98.0.255/2")
ABOUT = Circumstances("KEP1", "events", "plc0/5", 1_800_000_000.25, trusted=True, policy=STANDARD_CLOCK)
COLUMNS = (
    CaptureObject(AttributeRef(8, CLOCK_OBIS, 2)),
    CaptureObject(AttributeRef.parse("1/0.0.96.11.1.255/2")),
    CaptureObject(AttributeRef.parse("3/1.0.1.8.0.255/2")),
)


def row(minute: int, code: int, energy: int = 7) -> CapturedRow:
    clock = axdr.octets(bytes((0x07, 0xEA, 11, 28, 6, 10, minute, 0, 0, 0, 0, 0)))
    cells: tuple[Data, ...] = (clock, axdr.u8(code), axdr.u32(energy))
    return CapturedRow.of(cells, COLUMNS)


def test_each_row_of_a_log_is_an_event_with_its_code_its_time_and_what_was_captured_with_it() -> None:
    first, second = log_events(ABOUT, FRAUD_LOG, [row(1, 40), row(2, 41)])
    assert (first.event, first.meter, first.obis, first.task) == ("log", "KEP1", "0.0.99.98.1.255", "events")
    assert (first.code, first.name, first.grave) == (40, "terminal cover removed", True)
    assert (second.code, second.name, second.grave) == (41, "terminal cover closed", False)
    assert first.meter_time == "2026-11-28T10:01:00Z"
    assert first.values[1] == {"tag": "u32", "raw": 7, "obis": "1.0.1.8.0.255", "cls": 3, "attr": 2}


def test_the_same_row_read_again_has_the_same_key_and_two_alike_have_two() -> None:
    keys = [report.key for report in log_events(ABOUT, FRAUD_LOG, [row(1, 40), row(1, 40), row(1, 41)])]
    assert len(set(keys)) == 3
    again = [report.key for report in log_events(ABOUT, FRAUD_LOG, [row(1, 40), row(1, 40), row(1, 41)])]
    assert again == keys


def test_rows_of_a_clock_that_begins_anew_are_of_the_visits_that_brought_them() -> None:
    """Each power-up is stamped alike: the head-end keeps one event per key, and dropped the second."""
    rows = [replace(row(15, 2), doubt="time-behind")] * 2
    visits = [replace(ABOUT, received=at) for at in (0.0, 86_400.0)]
    assert len({report.key for visit in visits for report in log_events(visit, FRAUD_LOG, rows)}) == 4


def test_rows_of_other_profiles_are_no_events_and_a_doubtful_time_is_none() -> None:
    assert log_events(ABOUT, Obis.parse("1.0.99.1.0.255"), [row(1, 40)]) == []
    doubtful = CapturedRow(row(1, 40).typed, COLUMNS, row(1, 40).clock, doubt="ahead")
    (event,) = log_events(ABOUT, FRAUD_LOG, [doubtful])
    assert (event.meter_time, event.error, event.code) == (None, "ahead", 40)


def test_a_code_that_nobody_names_stays_a_number_and_a_cleared_log_says_so() -> None:
    unknown, cleared = log_events(ABOUT, FRAUD_LOG, [row(1, 219), row(2, 255)])
    assert (unknown.code, unknown.name, unknown.grave) == (219, "", False)
    assert cleared.name == "event log cleared"


def test_only_bits_that_were_not_set_are_events() -> None:
    events, known = alarm_events(ABOUT, [(REGISTER, axdr.u32(0b10))], {})
    assert [(event.code, event.name, event.grave) for event in events] == [(1, "replace battery", True)]
    assert known == {"0": 0b10}
    assert alarm_events(ABOUT, [(REGISTER, axdr.u32(0b10))], known) == ([], known)
    events, later = alarm_events(ABOUT, [(REGISTER, axdr.u32(1 << 13))], known)
    assert ([event.code for event in events], later) == ([13], {"0": 1 << 13})
    refused = alarm_events(ABOUT, [(REGISTER, axdr.null())], later)
    assert refused == ([], later)
