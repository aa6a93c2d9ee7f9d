"""The metering server: batches in, each reading once, values exact."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine
from starlette.applications import Starlette

from headend.metering import app, records, units
from headend.metering import readings as store
from tests.headend.asgi import call, pieces

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
        "run": 1770000000,
    } | changes


def a_batch(*entries: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({"version": 1, "device": DEVICE, "store": STORE, "records": list(entries)} | changes).encode()


@pytest.fixture
def token(database: Engine) -> str:
    return store.issue_token(database, DEVICE, 1.0)


@pytest.fixture
def server(database: Engine) -> Starlette:
    return app.create_app(database, wall=lambda: 1_770_000_100.0)


def post(server: Starlette, token: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    answer = call(server, "POST", "/v1/readings", content=body, headers={"Authorization": f"Bearer {token}"} | headers)
    return answer.status_code, answer.json()


# ---- values


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
    (record,) = records.parse(a_batch(a_record(tag=tag, raw=raw, scaler=scaler))).records
    assert record.value == value
    assert json.loads(record.raw) == raw


def test_units_have_the_symbols_of_the_standard() -> None:
    assert [units.symbol(number) for number in (27, 30, 32, 33, 35, 44, 255, None, 200)] == [
        "W", "Wh", "varh", "A", "V", "Hz", "", "", "unit 200",
    ]  # fmt: skip


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
        (a_batch(a_record(tag="f64", raw=7)).replace(b'"raw": 7', b'"raw": 1e999999'), "raw"),
        (a_batch(a_record(tag="f64", raw=7)).replace(b'"raw": 7', b'"raw": ' + b"7" * 4000), "raw"),
    ],
)
def test_what_is_no_batch_is_refused_with_its_place(body: bytes, why: str) -> None:
    with pytest.raises(records.BatchError) as error:
        records.parse(body)
    assert why in str(error.value)


def test_deep_nesting_is_refused() -> None:
    raw: Any = ["u8", 1]
    for _ in range(50):
        raw = ["array", [raw]]
    with pytest.raises(records.BatchError, match="nested deeper"):
        records.parse(a_batch(a_record(tag="array", raw=[raw])))


def test_mutated_batches_parse_or_fail_as_such() -> None:
    rng = random.Random(3)
    good = a_batch(a_record(1), a_record(2, tag="array", raw=[["u8", 1], ["f64", 1.5]], scaler=None))
    for _ in range(5000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data))
            data[at : at + rng.randint(0, 2)] = bytes([rng.choice(b'0123456789-+.eE"[]{},:ntu\\\xc3 ')])
        try:
            batch = records.parse(bytes(data))
        except records.BatchError:
            continue
        assert all(record.raw for record in batch.records)


# ---- the server


def test_a_batch_is_acknowledged_up_to_its_highest_id_and_stored(
    server: Starlette, token: str, database: Engine
) -> None:
    assert post(server, token, a_batch(a_record(3), a_record(9, raw=5, scaler=-1))) == (200, {"acknowledged": 9})
    first, second = store.list_readings(database)
    assert (first["id"], first["value"], first["unit_symbol"], first["stored"]) == (3, "1234", "Wh", 1_770_000_100.0)
    assert (second["id"], second["value"]) == (9, "0.5")


def test_a_repeated_batch_is_acknowledged_and_changes_nothing(server: Starlette, token: str, database: Engine) -> None:
    body = a_batch(a_record(1), a_record(2))
    for _ in range(3):
        assert post(server, token, body) == (200, {"acknowledged": 2})
    assert post(server, token, a_batch(a_record(2, raw=99), a_record(3))) == (200, {"acknowledged": 3})
    assert [(row["id"], row["value"]) for row in store.list_readings(database)] == [
        (1, "1234"),
        (2, "1234"),
        (3, "1234"),
    ]


def test_the_same_ids_of_another_store_are_other_readings(server: Starlette, token: str, database: Engine) -> None:
    post(server, token, a_batch(a_record(1)))
    post(server, token, a_batch(a_record(1), store="f" * 32))
    assert len(store.list_readings(database)) == 2


def test_an_empty_batch_acknowledges_nothing(server: Starlette, token: str) -> None:
    assert post(server, token, a_batch()) == (200, {"acknowledged": None})


def test_gzip_is_taken(server: Starlette, token: str) -> None:
    body = gzip.compress(a_batch(a_record(4)))
    assert post(server, token, body, **{"Content-Encoding": "gzip"}) == (200, {"acknowledged": 4})


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"no gzip", 400),
        (gzip.compress(a_batch(a_record(1)))[:-5], 400),
        (gzip.compress(a_batch(a_record(1))) + b"more", 400),
        (gzip.compress(b" " * (records.PLAIN_BYTES_MAX + 1)), 413),
    ],
)
def test_bad_gzip_is_refused(server: Starlette, token: str, body: bytes, status: int) -> None:
    assert post(server, token, body, **{"Content-Encoding": "gzip"})[0] == status


def test_other_encodings_are_refused(server: Starlette, token: str) -> None:
    assert post(server, token, b"", **{"Content-Encoding": "br"})[0] == 415


@pytest.mark.parametrize("make", [lambda data: data, pieces], ids=["announced", "chunked"])
def test_a_body_that_is_too_large_is_refused(server: Starlette, token: str, make: Callable[[bytes], Any]) -> None:
    status, document = post(server, token, make(b" " * (records.BODY_BYTES_MAX + 1)))
    assert (status, document) == (413, {"error": f"the body exceeds {records.BODY_BYTES_MAX} bytes"})


def test_a_malformed_batch_is_refused_and_nothing_of_it_stored(server: Starlette, token: str, database: Engine) -> None:
    status, document = post(server, token, a_batch(a_record(1), a_record(2, unit="Wh")))
    assert (status, "records[1].unit" in document["error"]) == (400, True)
    assert store.list_readings(database) == []


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", "Basic abc", "Bearer ", "Bearer a b"])
def test_without_a_known_token_nothing_is_taken(server: Starlette, token: str, authorization: str) -> None:
    answer = call(
        server, "POST", "/v1/readings", content=a_batch(a_record(1)), headers={"Authorization": authorization}
    )
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_device_cannot_deliver_for_another(server: Starlette, token: str) -> None:
    assert post(server, token, a_batch(a_record(1), device="urn:dcu:T-2"))[0] == 403


def test_of_a_devices_tokens_the_newest_two_are_valid(server: Starlette, database: Engine) -> None:
    tokens = [store.issue_token(database, DEVICE, float(number)) for number in range(3)]
    assert [post(server, each, a_batch())[0] for each in tokens] == [401, 200, 200]


def test_tokens_are_not_kept_in_plain(database: Engine, token: str) -> None:
    with database.begin() as connection:
        rows = connection.exec_driver_sql("select * from metering_tokens").all()
    assert token not in repr(rows)


def test_meters_are_known_from_their_readings(server: Starlette, token: str, database: Engine) -> None:
    post(server, token, a_batch(a_record(1), a_record(2), a_record(3, meter="KR2", run=1770000900)))
    post(server, token, a_batch(a_record(4, run=1760000000)))
    found = [(row["meter"], row["readings"], row["last_run"]) for row in store.list_meters(database, DEVICE)]
    assert found == [("KR0000000000001", 3, 1770000000), ("KR2", 1, 1770000900)]


def test_readings_can_be_chosen(server: Starlette, token: str, database: Engine) -> None:
    post(server, token, a_batch(a_record(1), a_record(2, obis="1.0.2.8.0.255"), a_record(3, meter="KR2", run=5)))
    ids = [
        [row["id"] for row in store.list_readings(database, **chosen)]
        for chosen in ({"meter": "KR2"}, {"obis": "1.0.2.8.0.255"}, {"run": 5}, {"device": "x"}, {"newest": True})
    ]
    assert ids == [[3], [2], [3], [], [3, 2, 1]]
    assert [row["id"] for row in store.list_readings(database, limit=1, offset=1)] == [2]


def test_an_unreadable_object_is_kept_with_its_error(server: Starlette, token: str, database: Engine) -> None:
    gone = a_record(1, tag="null", raw=None, scaler=None, unit=None, error="object-undefined")
    post(server, token, a_batch(gone))
    (row,) = store.list_readings(database)
    assert (row["value"], row["error"], row["unit_symbol"]) == (None, "object-undefined", "")
