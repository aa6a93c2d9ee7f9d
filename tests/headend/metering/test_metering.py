"""The metering server: batches in, each reading once, values exact."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine
from starlette.applications import Starlette

from dlms.cosem import units
from headend.metering import app
from headend.metering import readings as store
from omadm import readings
from tests.headend.asgi import call, pieces
from tests.omadm.test_readings import DEVICE, a_batch, a_record


@pytest.fixture
def token(database: Engine) -> str:
    return store.issue_token(database, DEVICE, 1.0)


@pytest.fixture
def server(database: Engine) -> Starlette:
    return app.create_app(database, wall=lambda: 1_770_000_100.0)


def post(server: Starlette, token: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    answer = call(server, "POST", "/v1/readings", content=body, headers={"Authorization": f"Bearer {token}"} | headers)
    return answer.status_code, answer.json()


def test_units_are_shown_with_the_symbols_of_the_standard() -> None:
    """131 has a symbol in the standard, 200 is reserved."""
    shown = [store.unit_shown(number) for number in (27, 30, 255, None, 131, 200)]
    assert shown == ["W", "Wh", "", "", units.symbol(131), "unit 200"]
    assert not shown[4].startswith("unit")


# ---- the server


def test_a_batch_is_acknowledged_up_to_its_highest_id_and_stored(
    server: Starlette, token: str, database: Engine
) -> None:
    assert post(server, token, a_batch(a_record(3), a_record(9, raw=5, scaler=-1))) == (200, {"acknowledged": 9})
    first, second = store.list_readings(database)
    assert (first["id"], first["value"], first["unit_symbol"], first["stored"]) == (3, "1234", "Wh", 1_770_000_100.0)
    assert (second["id"], second["value"]) == (9, "0.5")


def test_a_doubtful_reading_is_kept_with_its_doubt(server: Starlette, token: str, database: Engine) -> None:
    body = a_batch(a_record(1), a_record(2, profile="1.0.99.1.0.255", doubt="ahead"))
    for _ in range(2):
        assert post(server, token, body) == (200, {"acknowledged": 2})
    assert [(row["id"], row["value"], row["doubt"]) for row in store.list_readings(database)] == [
        (1, "1234", None),
        (2, "1234", "ahead"),
    ]


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
    post(server, token, a_batch(a_record(1, run=5), store="f" * 32))
    assert len(store.list_readings(database)) == 2


def test_an_answer_says_which_kinds_of_records_are_known(server: Starlette, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    answer = call(server, "POST", "/v1/readings", content=a_batch(a_record(1)), headers=headers)
    assert answer.headers["DCU-Accepts"] == "reading, gap, event"


def test_a_document_of_a_later_version_is_no_fault_of_its_records(server: Starlette, token: str) -> None:
    status, said = post(server, token, a_batch(a_record(1)).replace(b'"version": 1', b'"version": 2'))
    assert (status, said["error"]) == (415, "version: 2 is not known here, 1 is")


def test_records_of_a_later_kind_are_kept_once_and_the_others_are_stored(
    server: Starlette, token: str, database: Engine
) -> None:
    for _ in range(2):
        body = a_batch(a_record(1), {"id": 2, "kind": "weather", "sun": 1})
        assert post(server, token, body) == (200, {"acknowledged": 2})
    assert [row["id"] for row in store.list_readings(database)] == [1]
    with database.begin() as connection:
        (row,) = connection.execute(store.later_records.select()).all()
    assert (row.device, row.id, row.kind, json.loads(row.record)["sun"]) == (DEVICE, 2, "weather", 1)


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
        (gzip.compress(b" " * (readings.PLAIN_BYTES_MAX + 1)), 413),
    ],
)
@pytest.mark.slow
def test_bad_gzip_is_refused(server: Starlette, token: str, body: bytes, status: int) -> None:
    assert post(server, token, body, **{"Content-Encoding": "gzip"})[0] == status


def test_other_encodings_are_refused(server: Starlette, token: str) -> None:
    assert post(server, token, b"", **{"Content-Encoding": "br"})[0] == 415


@pytest.mark.parametrize("make", [lambda data: data, pieces], ids=["announced", "chunked"])
def test_a_body_that_is_too_large_is_refused(server: Starlette, token: str, make: Callable[[bytes], Any]) -> None:
    status, document = post(server, token, make(b" " * (readings.BODY_BYTES_MAX + 1)))
    assert (status, document) == (413, {"error": f"the body exceeds {readings.BODY_BYTES_MAX} bytes"})


def test_a_malformed_batch_is_refused_and_nothing_of_it_stored(server: Starlette, token: str, database: Engine) -> None:
    status, document = post(server, token, a_batch(a_record(1), a_record(2, unit="Wh")))
    assert (status, "records[1].unit" in document["error"]) == (400, True)
    assert store.list_readings(database) == []


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", "Basic abc", "Bearer ", "Bearer a b"])
def test_without_a_known_token_nothing_is_taken(
    server: Starlette, database: Engine, token: str, authorization: str
) -> None:
    assert token  # there is one, and it is not shown
    answer = call(
        server, "POST", "/v1/readings", content=a_batch(a_record(1)), headers={"Authorization": authorization}
    )
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert store.list_readings(database) == []


def test_a_device_cannot_deliver_for_another(server: Starlette, database: Engine, token: str) -> None:
    assert post(server, token, a_batch(a_record(1), device="urn:dcu:T-2"))[0] == 403
    assert store.list_readings(database) == []


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
    assert found == [("KR0000000000001", 3, 1770000900), ("KR2", 1, 1770000900)]


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
