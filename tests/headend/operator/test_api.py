"""The operator's API: what it shows, what it does, and whom it does not answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, insert
from starlette.applications import Starlette
from starlette.routing import Route

from headend import web
from headend.dm import accounts
from headend.dm import tables as dm
from headend.dm.push import DeviceOffError, PushError
from headend.metering import readings
from headend.operator import app
from headend.security import records
from headend.software.repository import PackageStore
from omadm.readings import parse
from tests.headend.asgi import call, pieces
from tests.headend.metering.test_events import an_event
from tests.omadm.test_addresses import UNUSABLE

TOKEN = "operator-token"
DEVICE = "urn:dcu:T-1"
KEY = "00" * 32
URLS = {"dm": "https://dm.example", "software": "https://packages.example", "metering": "https://metering.example"}


class Push:
    """Stands for the notification: remembers, and fails on demand."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.error: Exception | None = None

    def __call__(self, device_id: str) -> int:
        if self.error is not None:
            raise self.error
        self.sent.append(device_id)
        return 0x1234


@pytest.fixture
def push() -> Push:
    return Push()


@pytest.fixture
def server(database: Engine, tmp_path: Path, push: Push) -> Starlette:
    packages = PackageStore(database, tmp_path / "files")
    return app.create_app(
        app.OperatorDeps(database, packages, push, lambda: URLS, web.token_hash(TOKEN), wall=lambda: 1000.0)
    )


def ask(server: Starlette, method: str, path: str, **arguments: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {TOKEN}"} | arguments.pop("headers", {})
    return call(server, method, path, headers=headers, **arguments)


def enrol(server: Starlette) -> None:
    assert ask(server, "POST", "/v1/devices", json={"id": DEVICE, "key": KEY}).status_code == 201


def open_account(database: Engine) -> None:
    with database.begin() as connection:
        accounts.create(connection, DEVICE, server_id="headend", url="https://dm.example/dm")


# ---- the token


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer"])
@pytest.mark.parametrize("path", ["/v1/devices", "/v1/packages/x", "/v1/nothing"])
def test_without_the_token_nothing_is_answered(server: Starlette, authorization: str, path: str) -> None:
    for method in ("GET", "PUT", "POST"):
        assert call(server, method, path, headers={"Authorization": authorization}).status_code == 401


def test_every_route_is_below_the_guarded_path_or_known_to_guard_itself(server: Starlette) -> None:
    paths = {route.path for route in server.routes if isinstance(route, Route)}
    beside = {path for path in paths if not path.startswith(app.API)}
    pages = {
        "/",
        "/device",
        "/service",
        "/meters",
        "/meter",
        "/readings",
        "/events",
        "/gaps",
        "/jobs",
        "/alerts",
        "/packages",
    }
    pages |= {"/network", "/registrations", "/orders", "/order", "/security"}
    forms = {"/login", "/logout", "/jobs/cancel", "/device/step", "/security/acknowledge"}
    assert beside == pages | forms | {"/style.css", "/healthz"}


def test_health_needs_no_token(server: Starlette) -> None:
    assert call(server, "GET", "/healthz").json() == {"status": "ok"}


# ---- devices


def test_a_device_is_enrolled_once_and_shown_without_its_key(server: Starlette) -> None:
    enrol(server)
    again = ask(server, "POST", "/v1/devices", json={"id": DEVICE, "key": KEY})
    assert (again.status_code, again.json()) == (409, {"error": f"{DEVICE} is enrolled already"})
    assert ask(server, "POST", "/v1/devices", json={"id": DEVICE, "key": KEY, "replace": True}).status_code == 201
    (device,) = ask(server, "GET", "/v1/devices").json()["devices"]
    assert (device["id"], device["enrolled"], device["account_since"]) == (DEVICE, 1000.0, None)
    assert "key" not in device


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"id": DEVICE},
        {"id": DEVICE, "key": "zz"},
        {"id": DEVICE, "key": "00"},
        {"id": "a b", "key": KEY},
        {"id": 5, "key": KEY},
        {"id": DEVICE, "key": KEY, "replace": "yes"},
    ],
)
def test_what_is_no_enrolment_is_refused(server: Starlette, document: dict[str, Any]) -> None:
    assert ask(server, "POST", "/v1/devices", json=document).status_code == 400


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a": NaN}', b"\xff", b"[" * 50_000])
def test_what_is_no_json_object_is_refused(server: Starlette, content: bytes) -> None:
    assert ask(server, "POST", "/v1/devices", content=content).status_code == 400


def test_a_device_can_be_switched_off(server: Starlette) -> None:
    enrol(server)
    assert ask(server, "PATCH", f"/v1/devices/{DEVICE}", json={"enabled": False}).status_code == 200
    assert ask(server, "GET", "/v1/devices").json()["devices"][0]["enabled"] is False
    assert ask(server, "PATCH", f"/v1/devices/{DEVICE}", json={}).status_code == 400
    assert ask(server, "PATCH", "/v1/devices/nobody", json={"enabled": True}).status_code == 404


def test_a_metering_token_is_issued_with_the_address_to_use_it_at(server: Starlette, database: Engine) -> None:
    enrol(server)
    answer = ask(server, "POST", f"/v1/devices/{DEVICE}/metering-token")
    assert answer.status_code == 201
    issued = answer.json()
    assert issued["url"] == "https://metering.example/v1/readings"
    assert readings.device_of_token(database, issued["token"]) == DEVICE
    assert ask(server, "POST", "/v1/devices/nobody/metering-token").status_code == 404


def test_a_device_is_shown_with_its_account_and_last_session(server: Starlette, database: Engine) -> None:
    enrol(server)
    open_account(database)
    with database.begin() as connection:
        for number in (1, 2):
            connection.execute(
                insert(dm.sessions).values(
                    device_id=DEVICE, session_id=str(number), state="done", messages=4, commands=2, started=5, updated=6
                )
            )
        connection.execute(
            insert(dm.values).values(device_id=DEVICE, uri="./DevDetail/FwV", format="chr", value="7", updated=8)
        )
    (device,) = ask(server, "GET", "/v1/devices").json()["devices"]
    assert device["account_since"] > 0
    assert (device["fw"], device["fw_version"]) == ("", "7")
    assert (device["last_session"]["session_id"], device["last_session"]["state"]) == ("2", "done")
    sessions = ask(server, "GET", "/v1/sessions", params={"device": DEVICE, "limit": 1}).json()["sessions"]
    assert [session["session_id"] for session in sessions] == ["2"]


@pytest.mark.parametrize("auth", ["HMAC", "DIGEST", "BASIC"])
def test_an_account_for_a_device_of_another_make_is_told_once(server: Starlette, database: Engine, auth: str) -> None:
    enrol(server)
    document = {"auth": auth, "push_url": "http://192.0.2.7/push"}
    answer = ask(server, "POST", f"/v1/devices/{DEVICE}/dm-account", json=document)
    assert answer.status_code == 201
    made = answer.json()
    with database.begin() as connection:
        row = accounts.load(connection, DEVICE)
    assert row is not None
    assert (row.auth_type, row.client_secret, row.push_url) == (auth, made["client_secret"], document["push_url"])
    assert (made["url"], made["server_id"], made["client_name"]) == ("https://dm.example/dm", "dcu-headend", DEVICE)
    assert made["client_secret"] not in ask(server, "GET", "/v1/devices").text


@pytest.mark.parametrize(("wanted", "stored"), [("session", "session"), (None, "message")])
def test_what_credentials_are_accepted_for_is_the_operators_choice(
    server: Starlette, database: Engine, wanted: str | None, stored: str
) -> None:
    enrol(server)
    document = {"auth": "DIGEST"} | ({"accepts": wanted} if wanted else {})
    assert ask(server, "POST", f"/v1/devices/{DEVICE}/dm-account", json=document).status_code == 201
    with database.begin() as connection:
        assert accounts.load(connection, DEVICE).accepts == stored  # type: ignore[union-attr]


BAD_ACCEPTS = [{"accepts": "session"}, {"auth": "DIGEST", "accepts": 1}]


@pytest.mark.parametrize(
    "document",
    [
        *(*BAD_ACCEPTS, {"auth": "NONE"}, {"auth": 5}, {"push_url": 5}, {"push_url": "ftp://x/"}),
        *({"push_url": url} for url, _ in UNUSABLE.values()),
    ],
)
def test_an_account_that_cannot_be_changes_nothing(
    server: Starlette, database: Engine, document: dict[str, Any]
) -> None:
    assert ask(server, "POST", f"/v1/devices/{DEVICE}/dm-account", json={}).status_code == 404
    enrol(server)
    answer = ask(server, "POST", f"/v1/devices/{DEVICE}/dm-account", json=document)
    assert answer.status_code == 400
    assert any(name in answer.json()["error"] for name in document)
    with database.begin() as connection:
        assert accounts.load(connection, DEVICE) is None


# ---- jobs


def test_a_job_is_queued_and_shown(server: Starlette, database: Engine) -> None:
    open_account(database)
    answer = ask(server, "POST", f"/v1/devices/{DEVICE}/jobs", json={"kind": "get", "params": {"paths": ["./DevInfo"]}})
    assert answer.status_code == 201
    job = answer.json()
    assert (job["kind"], job["state"], job["device_id"]) == ("get", "queued", DEVICE)
    assert ask(server, "GET", f"/v1/jobs/{job['id']}").json() == job
    assert ask(server, "GET", "/v1/jobs", params={"device": DEVICE}).json()["jobs"] == [job]
    assert ask(server, "GET", "/v1/jobs", params={"device": "other"}).json()["jobs"] == []


def test_a_queued_job_is_cancelled_once(server: Starlette, database: Engine) -> None:
    open_account(database)
    document = {"kind": "get", "params": {"paths": ["./DevInfo"]}}
    number = ask(server, "POST", f"/v1/devices/{DEVICE}/jobs", json=document).json()["id"]
    answer = ask(server, "POST", f"/v1/jobs/{number}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (200, "failed")
    assert "cancelled" in answer.json()["result"]["error"]
    again = ask(server, "POST", f"/v1/jobs/{number}/cancel")
    assert (again.status_code, "failed" in again.json()["error"]) == (409, True)
    assert ask(server, "POST", "/v1/jobs/77/cancel").status_code == 404
    assert call(server, "POST", f"/v1/jobs/{number}/cancel").status_code == 401


def test_values_that_a_job_sets_are_shown_to_nobody(server: Starlette, database: Engine) -> None:
    open_account(database)
    nodes = [{"path": "./AMI/Uplink/Token", "value": "secret-token"}]
    document = {"kind": "provision", "params": {"nodes": nodes}}
    answer = ask(server, "POST", f"/v1/devices/{DEVICE}/jobs", json=document)
    assert answer.status_code == 201
    assert "secret-token" not in answer.text + ask(server, "GET", "/v1/jobs").text


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({}, 400),
        ({"kind": 5}, 400),
        ({"kind": "dance"}, 400),
        ({"kind": "get", "params": []}, 400),
        ({"kind": "get", "params": {"paths": []}}, 400),
        ({"kind": "firmware", "params": {"url": "http://plain"}}, 400),
    ],
)
@pytest.mark.slow
def test_what_is_no_job_is_refused(server: Starlette, database: Engine, document: dict[str, Any], status: int) -> None:
    open_account(database)
    assert ask(server, "POST", f"/v1/devices/{DEVICE}/jobs", json=document).status_code == status


def test_jobs_for_devices_without_account_are_refused(server: Starlette) -> None:
    document = {"kind": "get", "params": {"paths": ["./DevInfo"]}}
    assert ask(server, "POST", f"/v1/devices/{DEVICE}/jobs", json=document).status_code == 404
    assert ask(server, "GET", "/v1/jobs/77").status_code == 404


def test_a_push_tells_the_session_it_announces_and_is_audited(server: Starlette, database: Engine, push: Push) -> None:
    answer = ask(server, "POST", f"/v1/devices/{DEVICE}/push")
    assert (answer.json(), push.sent) == ({"session_id": 0x1234}, [DEVICE])
    push.error = accounts.UnknownDevice(DEVICE)
    assert ask(server, "POST", f"/v1/devices/{DEVICE}/push").status_code == 404
    push.error = PushError("unreachable")
    answer = ask(server, "POST", f"/v1/devices/{DEVICE}/push")
    assert (answer.status_code, answer.json()) == (502, {"error": "unreachable"})
    push.error = DeviceOffError("switched off")
    assert ask(server, "POST", f"/v1/devices/{DEVICE}/push").status_code == 409
    with database.begin() as connection:
        told = [(row["action"], row["detail"]) for row in records.audit_listing(connection, DEVICE, 3)]
    assert told == [("call", f"not called: {why}") for why in ("switched off", "unreachable")] + [
        ("call", "session 1234")
    ]


def test_alerts_and_values_are_shown(server: Starlette, database: Engine) -> None:
    open_account(database)
    with database.begin() as connection:
        session = connection.execute(
            insert(dm.sessions).values(
                device_id=DEVICE, session_id="1", state="done", messages=1, commands=0, started=5, updated=6
            )
        ).inserted_primary_key
        assert session is not None
        connection.execute(
            insert(dm.alerts).values(
                device_id=DEVICE,
                session=session[0],
                identity="i",
                code=1226,
                correlator="c",
                result_code=200,
                received=7,
            )
        )
        connection.execute(
            insert(dm.values).values(device_id=DEVICE, uri="./X", format="bin", data=b"\x01\xff", updated=8)
        )
    (alert,) = ask(server, "GET", "/v1/alerts").json()["alerts"]
    assert (alert["code"], alert["correlator"], alert["result_code"]) == (1226, "c", 200)
    (value,) = ask(server, "GET", "/v1/values", params={"device": DEVICE}).json()["values"]
    assert (value["uri"], value["data"]) == ("./X", "01ff")


# ---- readings


@pytest.mark.parametrize("query", ["limit=x", "run=-1", "offset=1.5", "run=" + "9" * 20])
def test_queries_with_no_number_are_refused(server: Starlette, query: str) -> None:
    assert ask(server, "GET", f"/v1/readings?{query}").status_code == 400


def test_lists_are_empty_where_nothing_is(server: Starlette) -> None:
    for name in ("readings", "meters", "jobs", "alerts", "sessions", "values", "registrations", "downloads", "reports"):
        assert ask(server, "GET", f"/v1/{name}").json() == {name: []}


# ---- packages


def test_a_package_is_uploaded_shown_with_its_address_and_removed(server: Starlette) -> None:
    answer = ask(
        server, "PUT", "/v1/packages/fw.swu", content=pieces(b"x" * 5000), headers={"Content-Type": "application/x-swu"}
    )
    assert answer.status_code == 201
    (shown,) = ask(server, "GET", "/v1/packages").json()["packages"]
    assert (shown["size"], shown["content_type"]) == (5000, "application/x-swu")
    assert shown["url"] == answer.json()["url"] == "https://packages.example/packages/fw.swu"
    assert shown["descriptor"] == "https://packages.example/descriptors/fw.swu"
    assert ask(server, "DELETE", "/v1/packages/fw.swu").status_code == 204
    assert ask(server, "DELETE", "/v1/packages/fw.swu").status_code == 404


@pytest.mark.parametrize(("name", "content"), [(".x", b"x"), ("a%20b", b"x"), ("ok", b"")])
def test_what_is_no_package_is_refused(server: Starlette, name: str, content: bytes) -> None:
    assert ask(server, "PUT", f"/v1/packages/{name}", content=content).status_code == 400


def test_readings_are_ordered_once_more_and_the_orders_can_be_seen(server: Starlette) -> None:
    enrol(server)
    path = f"/v1/devices/{DEVICE}/resend"
    assert ask(server, "POST", path, json={"since": 10, "until": 20.5}).json() == {"request": 1}
    assert ask(server, "POST", path, json={"store": "a" * 32, "first": 3, "last": 9}).status_code == 201
    assert ask(server, "POST", path, json={"store": "a" * 32, "first": 9, "last": 3}).status_code == 400
    assert ask(server, "POST", "/v1/devices/nobody/resend", json={"since": 10, "until": 20}).status_code == 404
    newest, oldest = ask(server, "GET", path).json()["orders"]
    assert (newest["store"], newest["first"], newest["last"], newest["ended"]) == ("a" * 32, 3, 9, None)
    assert (oldest["since"], oldest["until"]) == (10.0, 20.5)


# ---- events


def test_events_are_listed_by_filters_and_alarms_end_with_an_acknowledgement(
    server: Starlette, database: Engine
) -> None:
    rows = [an_event(1), an_event(2, meter="KFM2", grave=True, code=40, name="terminal cover removed", received=90.0)]
    batch = {"version": 1, "device": DEVICE, "store": "0" * 32, "records": rows}
    readings.store(database, parse(json.dumps(batch).encode()), 5.0)

    def codes(**query: object) -> list[object]:
        return [row["code"] for row in ask(server, "GET", "/v1/events", params=query).json()["events"]]

    assert codes() == [40, 1]
    queries: list[dict[str, object]] = [{"meter": "KFM2"}, {"code": 40}, {"since": 90}, {"grave": "true"}]
    queries.append({"state": "open"})
    for query in queries:
        assert codes(**query) == [40]
    assert codes(until=89) == codes(grave="false") == [1]
    assert codes(event="alarm") == codes(device="another") == []
    (alarm,) = ask(server, "GET", "/v1/events", params={"state": "open"}).json()["events"]
    assert ask(server, "POST", f"/v1/events/{alarm['id']}/acknowledge").json() == {"id": alarm["id"]}
    assert codes(state="open") == []
    assert ask(server, "POST", "/v1/events/99/acknowledge").status_code == 404
    for wrong in ({"grave": "perhaps"}, {"state": "closed"}, {"code": "x"}):
        assert ask(server, "GET", "/v1/events", params=wrong).status_code == 400


# ---- gaps


def test_gaps_are_listed_and_given_up_for_a_reason(server: Starlette, database: Engine) -> None:
    gap = {
        "gap": "open", "meter": "KFM1", "task": "t1", "profile": None, "first": 1770000300, "last": 1770002100,
        "every": 900, "reason": "concentrator-off", "how": None, "noted": 1.0,
    }  # fmt: skip
    rows = [gap | {"id": 1}, gap | {"id": 2, "meter": "KFM2", "last": None}]
    batch = {"version": 1, "device": DEVICE, "store": "0" * 32, "records": rows}
    readings.store(database, parse(json.dumps(batch).encode()), 5.0)
    listed = ask(server, "GET", "/v1/gaps", params={"device": DEVICE, "state": "open"}).json()["gaps"]
    assert {row["meter"]: row["slots"] for row in listed} == {"KFM1": 3, "KFM2": None}
    order = {"device": DEVICE, "meter": "KFM1", "why": "meter exchanged"}
    assert ask(server, "POST", "/v1/gaps/give-up", json=order).json() == {"closed": 1}
    (closed,) = ask(server, "GET", "/v1/gaps", params={"state": "closed"}).json()["gaps"]
    assert (closed["meter"], closed["how"], closed["changed"]) == ("KFM1", "meter exchanged", 1000.0)


@pytest.mark.parametrize("path", ["/v1/gaps", "/v1/events", "/v1/security-alarms"])
def test_a_state_that_there_is_not_is_no_empty_list(server: Starlette, path: str) -> None:
    """An empty list would say that nothing is missing, and that there is no alarm."""
    assert ask(server, "GET", path, params={"state": "opne"}).status_code == 400
    assert ask(server, "GET", path, params={"state": "open"}).status_code == 200


@pytest.mark.parametrize("order", [{}, {"device": "d", "meter": "m"}, {"device": "d", "meter": "m", "why": ""},
                                   {"device": "d", "meter": "m", "why": "w" * 129},
                                   {"device": "d", "meter": "m", "why": "w", "task": 5}])  # fmt: skip
def test_gaps_are_not_given_up_without_a_reason(server: Starlette, order: dict[str, Any]) -> None:
    assert ask(server, "POST", "/v1/gaps/give-up", json=order).status_code == 400


def test_orders_are_shown_with_their_meters_and_asked_how_far_they_are(server: Starlette, database: Engine) -> None:
    open_account(database)
    document = {"kind": "order", "params": {"order": "ping", "meters": ["A", "port:plc0"]}}
    number = ask(server, "POST", f"/v1/devices/{DEVICE}/jobs", json=document).json()["id"]
    reading = {"kind": "get", "params": {"paths": ["./DevInfo"]}}
    other = ask(server, "POST", f"/v1/devices/{DEVICE}/jobs", json=reading)
    (listed,) = ask(server, "GET", "/v1/orders").json()["orders"]
    assert (listed["id"], listed["order"], listed["meters"]) == (number, "ping", [])
    assert listed["targets"] == ["A", "port:plc0"]
    asked = ask(server, "POST", f"/v1/orders/{number}/progress")
    assert asked.status_code == 201
    assert asked.json()["params"] == {"paths": [f"./AMI/Order/job{number}/Status/Progress"]}
    result = {"meters": [{"meter": "A", "state": "done", "value": {"name": "A"}}, {"meter": "B", "state": "unknown"}]}
    with database.begin() as connection:
        connection.execute(dm.jobs.update().where(dm.jobs.c.id == number).values(state="failed", result=result))
    shown = ask(server, "GET", f"/v1/orders/{number}").json()
    assert shown["counts"] == {"done": 1, "unknown": 1}
    assert [meter["state"] for meter in shown["meters"]] == ["done", "unknown"]
    assert ask(server, "POST", f"/v1/orders/{number}/progress").status_code == 409
    assert ask(server, "GET", f"/v1/orders/{other.json()['id']}").status_code == 404
