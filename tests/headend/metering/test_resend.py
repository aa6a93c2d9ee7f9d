"""Orders to send readings again: with each answer until the device has reported."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import Engine
from starlette.applications import Starlette

from headend.metering import app, resend
from headend.metering import readings as store
from omadm import readings
from omadm.readings import ResendOrder, ResendReport
from tests.headend.asgi import call
from tests.omadm.test_readings import DEVICE, STORE, a_batch, a_record


@pytest.fixture
def token(database: Engine) -> str:
    return store.issue_token(database, DEVICE, 1.0)


@pytest.fixture
def server(database: Engine) -> Starlette:
    return app.create_app(database, wall=lambda: 1_770_000_100.0)


def post(server: Starlette, token: str, body: bytes) -> tuple[int, dict[str, Any]]:
    answer = call(server, "POST", "/v1/readings", content=body, headers={"Authorization": f"Bearer {token}"})
    return answer.status_code, answer.json()


def order(database: Engine, wanted: ResendOrder, device: str = DEVICE) -> int:
    with database.begin() as connection:
        return resend.order(connection, device, wanted, 5.0)


def test_orders_go_out_with_each_answer_until_the_device_has_reported(
    server: Starlette, token: str, database: Engine
) -> None:
    first = order(database, ResendOrder(0, STORE, 3, 9))
    second = order(database, ResendOrder(0, since=100.0, until=200.0))
    order(database, ResendOrder(0, STORE, 1, 1), device="urn:dcu:other")
    wanted = [
        {"request": first, "store": STORE, "first": 3, "last": 9},
        {"request": second, "since": 100.0, "until": 200.0},
    ]
    for number in (1, 2):
        assert post(server, token, a_batch(a_record(number))) == (200, {"acknowledged": number, "resend": wanted})
    report = ResendReport(first, sent=4, refused=1, gone=((3, 4),), kept_since=77.5)
    body = readings.emit(DEVICE, STORE, [], [report])
    for _ in range(2):
        assert post(server, token, body) == (200, {"acknowledged": None, "resend": wanted[1:]})
    with database.begin() as connection:
        newest, oldest = resend.listing(connection, DEVICE)
    assert (newest["request"], newest["ended"], newest["gone"]) == (second, None, None)
    assert (oldest["ended"], oldest["sent"], oldest["refused"]) == (1_770_000_100.0, 4, 1)
    assert (oldest["gone"], oldest["kept_since"]) == ([[3, 4]], 77.5)


def test_a_device_cannot_end_the_order_of_another(server: Starlette, token: str, database: Engine) -> None:
    others = order(database, ResendOrder(0, STORE, 1, 1), device="urn:dcu:other")
    report = ResendReport(others, sent=1, refused=0, gone=(), kept_since=0)
    assert post(server, token, readings.emit(DEVICE, STORE, [], [report]))[0] == 200
    assert [open_order.request for open_order in resend.open_orders(database, "urn:dcu:other")] == [others]


@pytest.mark.parametrize("wanted", [ResendOrder(3, STORE, 1, 7), ResendOrder(4, since=1.5, until=2.5)])
def test_what_the_head_end_orders_is_what_the_device_reads(wanted: ResendOrder) -> None:
    assert readings.parse_orders(json.loads(json.dumps([wanted.entry()]))) == [wanted]


@pytest.mark.parametrize(
    "reports",
    [
        3,
        [{}],
        [{"request": 1, "sent": -1, "refused": 0, "gone": [], "kept_since": 0}],
        [{"request": 1, "sent": 1, "refused": 0, "gone": [[2, 1]], "kept_since": 0}],
        [{"request": 1, "sent": 1, "refused": 0, "gone": [[True, 1]], "kept_since": 0}],
        [{"request": 1, "sent": 1, "refused": 0, "gone": [[1, 1]] * 33, "kept_since": 0}],
        [{"request": 1, "sent": 1, "refused": 0, "gone": [], "kept_since": 0}] * 33,
    ],
)
def test_a_report_that_is_none_is_refused(server: Starlette, token: str, reports: Any) -> None:
    assert post(server, token, a_batch(a_record(1), resent=reports))[0] == 400
