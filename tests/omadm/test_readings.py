"""The batch of readings: what the device emits and what the head-end reads of it."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import asdict, fields
from decimal import Decimal
from typing import Any

import pytest

from omadm import readings
from omadm.readings import FIELDS, Reading, Record

DEVICE = "urn:dcu:T-1"
STORE = "0123456789abcdef" * 2


def a_record(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "id": number,
        "task": "hourly",
        "meter": "KR0000000000001",
        "cls": 3,
        "obis": "1.0.1.8.0.255",
        "attr": 2,
        "tag": "u32",
        "raw": 1234,
        "scaler": 0,
        "unit": 30,
        "meter_time": "2026-11-22T10:00:00Z",
        "received": 1770000000.123,
        "trusted": True,
        "error": None,
        "run": 1770000000 + 900 * (number - 1),
    } | changes


def a_batch(*entries: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({"version": 1, "device": DEVICE, "store": STORE, "records": list(entries)} | changes).encode()


# ---- values


@pytest.mark.parametrize(
    ("cls", "attr", "tag", "value"),
    [
        (3, 2, "u32", None), (4, 2, "u32", None), (5, 2, "u32", None), (5, 3, "i64", None), (3, 2, "f32", None),
        (3, 2, "enum", "7"), (5, 4, "u32", "7"), (1, 2, "u32", "7"), (70, 2, "u8", "7"),
    ],
)  # fmt: skip
def test_a_register_without_its_scaler_has_no_value(cls: int, attr: int, tag: str, value: str | None) -> None:
    """What a meter shows as 7 may be 700 or 0.07: the raw value is kept, and is none."""
    made = a_record(cls=cls, attr=attr, tag=tag, raw=7, scaler=None, unit=None)
    (record,) = readings.parse(a_batch(made)).records
    assert (record.value, record.raw) == (value, "7")


@pytest.mark.parametrize(
    ("tag", "raw", "scaler", "value"),
    [
        ("u32", 1234, 0, "1234"),
        ("u32", 1234, -2, "12.34"),
        ("u32", 1234, 3, "1234000"),
        ("i32", -5, -3, "-0.005"),
        ("u64", 2**64 - 1, -3, "18446744073709551.615"),
        ("u64", 2**64 - 1, 127, str((2**64 - 1) * 10**127)),
        ("i64", -(2**63), -128, "-0." + str(2**63).zfill(128)),
        ("u16", 230, None, "230"),
        ("enum", 7, None, "7"),
        ("f64", 0.1, 0, "0.1"),
        ("f64", 1.5e300, None, str(int(Decimal("1.5e300")))),
        ("f32", 2, None, "2"),
        ("f64", "NaN", None, "NaN"),
        ("bool", True, None, "true"),
        ("bool", False, None, "false"),
        ("oct", "00FFab", None, "00FFab"),
        ("dt", "07ea0b1607140000ff800000", None, "07ea0b1607140000ff800000"),
        ("bits", "0101", None, "0101"),
        ("str", "Ä", None, "Ä"),
        ("null", None, None, None),
        ("array", [["u8", 1], ["struct", [["oct", ""], ["null", None]]]], None, None),
    ],
)
def test_values_are_exact_and_raw_values_are_kept(tag: str, raw: Any, scaler: int | None, value: str | None) -> None:
    cls = 1 if scaler is None else 3
    (record,) = readings.parse(a_batch(a_record(cls=cls, tag=tag, raw=raw, scaler=scaler))).records
    assert record.value == value
    assert json.loads(record.raw) == raw


# ---- what is refused


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"[]", "an object is expected"),
        (b"{" * 100_000, "not JSON"),
        (b"\xff", "not JSON"),
        (a_batch(version=2), "version"),
        (a_batch(device=""), "identifier"),
        (a_batch(device="x" * 200), "device"),
        (a_batch(store="zz"), "identifier"),
        (a_batch(records=5), "records"),
        (a_batch(records=[5]), "records[0]."),
        (a_batch(a_record(2), a_record(2)), "records[1].id: ids ascend"),
        (a_batch(a_record(2), a_record(1)), "ids ascend"),
        (a_batch(a_record(-1)), "records[0].id"),
        (a_batch(a_record(2**63)), "id"),
        (a_batch(a_record(id=True)), "id"),
        (a_batch(a_record(obis="1.0.1.8.0")), "obis"),
        (a_batch(a_record(obis="1.0.1.8.0.256")), "obis"),
        (a_batch(a_record(tag="u33")), "tag 'u33'"),
        (a_batch(a_record(tag="u8", raw=256)), "raw"),
        (a_batch(a_record(tag="u8", raw=True)), "raw"),
        (a_batch(a_record(tag="u8", raw="1")), "raw"),
        (a_batch(a_record(tag="oct", raw="abc")), "raw"),
        (a_batch(a_record(tag="dt", raw="00")), "raw"),
        (a_batch(a_record(tag="bits", raw="012")), "raw"),
        (a_batch(a_record(tag="f64", raw="fast")), "raw"),
        (a_batch(a_record(tag="array", raw=[5])), "raw[0]"),
        (a_batch(a_record(tag="array", raw=[["u8", 300]])), "raw[0]"),
        (a_batch(a_record(tag="str", raw="x" * 20_000)), "raw"),
        (a_batch(a_record(scaler=128)), "scaler"),
        (a_batch(a_record(unit=256)), "unit"),
        (a_batch(a_record(trusted=1)), "trusted"),
        (a_batch(a_record(received="now")), "received"),
        (a_batch(a_record(meter="\ud800")), "meter"),
        (a_batch(a_record(meter="a\0b")), "meter"),
        (a_batch(a_record(error=5)), "error"),
        (a_batch(a_record(received=5)).replace(b'"raw": 1234', b'"raw": NaN'), "not JSON"),
        (a_batch(a_record(raw=7)).replace(b'"raw": 7', b'"raw": 7, "raw": 8'), "raw: stands more than once"),
        (a_batch(a_record()).replace(b'"store"', b'"device": "another", "store"'), "device: stands more than once"),
        (a_batch(a_record(tag="f64", raw=7)).replace(b'"raw": 7', b'"raw": 1e999999'), "raw"),
        (a_batch(a_record(tag="f64", raw=7)).replace(b'"raw": 7', b'"raw": ' + b"7" * 4000), "raw"),
    ],
)
def test_what_is_no_batch_is_refused_with_its_place(body: bytes, why: str) -> None:
    with pytest.raises(readings.BatchError) as error:
        readings.parse(body)
    assert why in str(error.value)


def test_deep_nesting_is_refused() -> None:
    raw: Any = ["u8", 1]
    for _ in range(50):
        raw = ["array", [raw]]
    with pytest.raises(readings.BatchError, match="nested deeper"):
        readings.parse(a_batch(a_record(tag="array", raw=[raw])))


def test_mutated_batches_parse_or_fail_as_such() -> None:
    rng = random.Random(3)
    good = a_batch(a_record(1), a_record(2, tag="array", raw=[["u8", 1], ["f64", 1.5]], scaler=None))
    for _ in range(5000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data))
            data[at : at + rng.randint(0, 2)] = bytes([rng.choice(b'0123456789-+.eE"[]{},:ntu\\\xc3 ')])
        try:
            batch = readings.parse(bytes(data))
        except readings.BatchError:
            continue
        assert all(record.raw for record in batch.records)


# ---- both ends


def a_reading(**changes: Any) -> Reading:
    entry = {name: value for name, value in a_record().items() if name != "id"}
    return Reading(**(entry | changes))


@pytest.mark.parametrize(
    "reading",
    [
        a_reading(),
        a_reading(tag="null", raw=None, scaler=None, unit=None, meter_time=None, error="object-undefined"),
        a_reading(tag="struct", raw=[["u8", 1], ["oct", "ff"]], scaler=None, unit=None, profile="1.0.99.1.0.255"),
        a_reading(tag="f64", raw=1.5, trusted=False),
        a_reading(profile="1.0.99.1.0.255", doubt="ahead"),
    ],
)
def test_what_the_device_emits_is_what_the_head_end_reads(reading: Reading) -> None:
    body = readings.emit(DEVICE, STORE, [readings.record(7, reading.row())])
    batch = readings.parse(body)
    (taken,) = batch.records
    assert (batch.device, batch.store, taken.id) == (DEVICE, STORE, 7)
    found = asdict(taken)
    assert {name: found[name] for name in FIELDS if name != "raw"} == {
        name: getattr(reading, name) for name in FIELDS if name != "raw"
    }
    assert json.loads(taken.raw) == reading.raw


@pytest.mark.parametrize(
    "count", [0, 1, readings.PIECE_RECORDS, readings.PIECE_RECORDS + 1, 3 * readings.PIECE_RECORDS]
)
def test_records_that_are_encoded_in_pieces_are_one_document(count: int) -> None:
    records = [readings.record(number, a_reading().row()) for number in range(1, count + 1)]
    reports = [readings.ResendReport(3, 1, 0, ((1, 2),), 5.0)]
    assert json.loads(readings.emit("d", "a" * 32, records, reports)) == {
        "version": readings.VERSION,
        "device": "d",
        "store": "a" * 32,
        "records": records,
        "resent": [{"request": 3, "sent": 1, "refused": 0, "gone": [[1, 2]], "kept_since": 5.0}],
    }


def test_both_ends_have_the_same_fields() -> None:
    assert {field.name for field in fields(Record)} == {"id", "value", *FIELDS}


def test_a_packed_body_is_read_and_a_larger_one_has_an_error_of_its_own() -> None:
    assert readings.inflate(gzip.compress(b"{}")) == b"{}"
    with pytest.raises(readings.BatchTooLargeError):
        readings.inflate(gzip.compress(b" " * (readings.PLAIN_BYTES_MAX + 1)))
    with pytest.raises(readings.BatchError) as error:
        readings.inflate(b"no gzip")
    assert not isinstance(error.value, readings.BatchTooLargeError)


def test_a_profile_is_a_text() -> None:
    with pytest.raises(readings.BatchError, match="profile"):
        readings.parse(a_batch(a_record(profile=5)))


# ---- gaps


def a_gap(record_id: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "id": record_id, "gap": "open", "meter": "KEP1", "task": "t1", "profile": None, "first": 900, "last": 2700,
        "every": 900, "reason": "concentrator-off", "how": None, "noted": 1770000000.5, **fields,
    }  # fmt: skip


def test_reports_of_gaps_travel_among_the_readings() -> None:
    batch = readings.parse(a_batch(a_record(3), a_gap(4), a_record(7), a_gap(9, last=None)))
    assert [record.id for record in batch.records] == [3, 7]
    assert [(gap.id, gap.report.first, gap.report.last) for gap in batch.gaps] == [(4, 900, 2700), (9, 900, None)]
    assert batch.last == 9


def test_a_report_survives_the_store_and_the_wire() -> None:
    report = readings.GapReport(
        "closed", "KEP1", "t1", "1.0.99.1.0.255", 900, 2700, 900, "meter-silent", "profile", 5.5
    )
    body = readings.emit(DEVICE, STORE, [readings.record(5, json.loads(json.dumps(report.row())))])
    (gap,) = readings.parse(body).gaps
    assert (gap.id, gap.report) == (5, report)
    assert len(report.row()) in readings.ROW_SIZES
    assert len(readings.EVENT_FIELDS) not in readings.GAP_SIZES, "reports are told apart by their length"


def test_a_judgement_names_its_store_and_is_not_taken_for_a_reading_of_the_same_length() -> None:
    of_earlier = "f" * 32
    report = readings.GapReport(
        "doubted", "", "", None, 0, 900, 900, "clock-unknown", None, 5.5, None, 7, 2**63 - 1, of_earlier, 2
    )
    row = json.loads(json.dumps(report.row()))
    assert len(row) in readings.ROW_SIZES
    assert len(row) in range(readings.ROW_SIZE_MIN, len(readings.FIELDS) + 1)
    (gap,) = readings.parse(readings.emit(DEVICE, STORE, [readings.record(5, row)])).gaps
    assert gap.report == report
    without = {name: value for name, value in readings.record(5, row).items() if name not in ("about", "generation")}
    (gap,) = readings.parse(readings.emit(DEVICE, STORE, [without])).gaps
    assert (gap.report.about, gap.report.generation, gap.report.highest) == (None, None, 2**63 - 1)
    for wrong in ({"about": "F" * 32}, {"about": "f" * 31}, {"lowest": None, "highest": None}, {"generation": 0}):
        with pytest.raises(readings.BatchError):
            readings.parse(readings.emit(DEVICE, STORE, [readings.record(5, row) | wrong]))


MADRID = "CET-1CEST,M3.5.0,M10.5.0/3"


def test_a_gap_of_calendar_runs_says_which_and_one_of_an_earlier_device_does_not() -> None:
    report = readings.GapReport(
        "open", "KEP1", "t1", None, 1_792_879_200, 1_793_055_600, 60, "meter-silent", None, 5.5, f"0 0 * * * {MADRID}"
    )
    (gap,) = readings.parse(readings.emit(DEVICE, STORE, [readings.record(5, report.row())])).gaps
    assert gap.report == report
    assert gap.report.schedule.count(report.first, report.last or 0) == 3  # one of the two days between has 25 hours
    earlier = readings.record(
        6, readings.GapReport("open", "KEP1", "t1", None, 900, None, 900, "x", None, 5.5).row()[:-1]
    )
    assert "times" not in earlier
    (gap,) = readings.parse(readings.emit(DEVICE, STORE, [earlier])).gaps
    assert gap.report.times is None
    wrong = readings.record(5, report.row()) | {"times": f"0 0 * * {MADRID}"}
    with pytest.raises(readings.BatchError, match=r"records\[0\].times: five fields expected"):
        readings.parse(readings.emit(DEVICE, STORE, [wrong]))


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"gap": "perhaps"}, "gap"),
        ({"gap": "closed", "last": None}, "last"),
        ({"gap": "doubted", "last": None}, "last"),
        ({"last": 899}, "last"),
        ({"last": 2701}, "last"),
        ({"every": 0}, "every"),
        ({"first": -1}, "first"),
        ({"reason": None}, "reason"),
        ({"how": "x" * 129}, "how"),
        ({"noted": "now"}, "noted"),
    ],
)
def test_what_is_no_report_of_a_gap_is_refused(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(readings.BatchError, match=where):
        readings.parse(a_batch(a_gap(**fields)))


@pytest.mark.parametrize("raw", ["1.8e308", "-1.8e308", "1e309", "1e999", "9" * 400, '"\\ud800"'])
def test_a_number_that_no_double_can_hold_is_no_value(raw: str) -> None:
    """It was stored as Infinity, beside a value that is finite."""
    body = a_batch(a_record(tag="f64", raw="@")).replace(b'"@"', raw.encode())
    with pytest.raises(readings.BatchError, match=r"records\[0\].raw: no value of tag 'f64'"):
        readings.parse(body)
    event = a_batch({"id": 1, "kind": "of a later release", "x": "@"}).replace(b'"@"', b"1e999")
    with pytest.raises(readings.BatchError, match="no double can hold"):
        readings.parse(event)


@pytest.mark.parametrize("raw", [1.7976931348623157e308, -1.7976931348623157e308, 5e-324, 0.0])
def test_every_double_is_a_value(raw: float) -> None:
    (found,) = readings.parse(a_batch(a_record(cls=1, tag="f64", raw=raw, scaler=None))).records
    assert float(found.raw) == float(str(found.value)) == raw


@pytest.mark.parametrize("text", ["\ud800", "a\udfff"])
def test_a_text_that_no_database_takes_is_no_value(text: str) -> None:
    for tag, raw in (("str", text), ("struct", [["str", text]])):
        with pytest.raises(readings.BatchError, match="no value of tag 'str'"):
            readings.parse(a_batch(a_record(tag=tag, raw=raw, scaler=None)))
    assert readings.parse(a_batch(a_record(tag="str", raw="padded\0", scaler=None))).records[0].value == "padded\0"
