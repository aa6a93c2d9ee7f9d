"""Events at the head-end: each once, and the grave ones as alarms."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from sqlalchemy import Engine

from headend.metering import events, readings
from omadm.readings import EVENT_FIELDS, BatchError, EventReport, emit, parse, record
from tests.omadm.test_readings import DEVICE, STORE, a_record

NOW = 1_800_100_000.0


def an_event(record_id: int, **fields: Any) -> dict[str, Any]:
    """A record of the document."""
    report = EventReport(
        event="push", meter="KFM1", sender="plc0/5", code=1, name="power down", grave=False, obis="0.0.99.98.0.255",
        meter_time="2027-01-15T08:00:00Z", received=80.0, trusted=True, invoke=7, security="none",
        values=[{"tag": "u8", "raw": 1, "obis": "0.0.96.11.0.255", "cls": 1, "attr": 2}], octets=None, error=None,
        count=1, key=f"k{record_id}",
    )  # fmt: skip
    return {**record(record_id, report.row()), **fields}


def post(database: Engine, *records: dict[str, Any], store: str = STORE) -> None:
    readings.store(database, parse(emit(DEVICE, store, list(records))), NOW)


def test_an_event_is_stored_once_however_often_its_batch_comes_and_from_whichever_store(database: Engine) -> None:
    for _ in range(3):
        post(database, an_event(1), a_record() | {"id": 2}, an_event(3))
    post(database, an_event(1), store="f" * 32)  # the device lost its store, and the meter sent it again
    rows = events.listing(database)
    assert sorted((row["key"], row["record"], row["store"]) for row in rows) == [("k1", 1, STORE), ("k3", 3, STORE)]
    assert rows[0]["values"] == an_event(1)["values"]
    assert len(readings.list_readings(database)) == 1


def test_two_events_of_one_batch_with_the_same_key_are_one(database: Engine) -> None:
    post(database, an_event(1), an_event(2, key="k1"))
    assert [row["record"] for row in events.listing(database)] == [1]


def test_a_grave_event_is_an_alarm_once(database: Engine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            post(database, an_event(1, grave=True), an_event(2))
    assert [record.event for record in caplog.records] == ["metering.alarm"]  # type: ignore[attr-defined]
    with database.begin() as connection:
        assert events.open_alarms(connection) == 1
        assert events.acknowledge(connection, events.listing(database, open_only=True)[0]["id"], NOW)
        assert events.open_alarms(connection) == 0


WRONG: tuple[dict[str, Any], ...] = (
    {"event": "rumour"},
    {"security": "maybe"},
    {"key": ""},
    {"count": 0},
    {"code": -1},
    {"obis": "1.2.3"},
    {"grave": 1},
    {"octets": "xyz"},
    {"octets": "00" * 8193},
    {"values": {}},
    {"values": [5]},
    {"values": [{"tag": "u8", "raw": 256}]},
    {"values": [{"tag": "u8", "raw": 1, "obis": "1.0.1.8.0.256"}]},
    {"values": [{"tag": "u8", "raw": 1}] * 513},
    {"values": [{"tag": "oct", "raw": "00" * 9000}]},
)


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_an_event_with_a_wrong_field_is_refused_whole(wrong: dict[str, Any]) -> None:
    body = json.dumps({"version": 1, "device": DEVICE, "store": STORE, "records": [an_event(1, **wrong)]})
    with pytest.raises(BatchError):
        parse(body.encode())


def test_what_the_device_makes_is_what_the_head_end_reads() -> None:
    (read,) = parse(emit(DEVICE, STORE, [an_event(9)])).events
    assert read.id == 9
    assert {name: getattr(read.report, name) for name in EVENT_FIELDS} == {
        name: value for name, value in an_event(9).items() if name != "id"
    }
