"""Each member of each JSON document that the head-end takes, with a value of another type: a refusal, and no fault.

What is taken all the same must be shown again: the lists are asked after each document.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Engine, delete, insert
from starlette.applications import Starlette

from headend import config, web
from headend.dm import accounts
from headend.dm import tables as dm
from headend.dm.jobs.order import told_by_device
from headend.metering import app as metering
from headend.metering import readings as store
from headend.operator import app
from headend.software.repository import PackageStore
from omadm import readings
from tests.headend.asgi import call
from tests.headend.dm.jobs.test_unsendable import PARAMS, with_character
from tests.headend.metering.test_events import an_event
from tests.headend.operator.test_console import Browser
from tests.omadm.test_readings import DEVICE, STORE, a_record

pytestmark = pytest.mark.slow

TOKEN = "operator-token"
AT = f"/v1/devices/{DEVICE}"
Path_ = tuple[str | int, ...]
# As JSON, since not all of it can be made by `json.dumps` of a value.
WRONG = (
    *('"text"', '""', '"1"', '"-1"', '"\\ud800"', '"\\ufffe"', '"\\u0000"', '"2026-11-28T10:00:00Z"', '" 1 "'),
    *("0", "1", "-1", "1.5", "-0.0", "1e999", "-1e999", "1e300", "1e-400", "9" * 30, "9" * 4000, "true", "false"),
    *("null", "[]", "{}", "[null]", "[[]]", '["x"]', "[1]", "[{}]", '{"a": 1}', '{"a": {"b": []}}', '{"": null}'),
    "[" * 40 + "]" * 40,
)


def members(part: Any, here: Path_ = ()) -> Iterator[Path_]:
    """The place of each value in a document, its own among them."""
    yield here
    if isinstance(part, dict | list):
        for name, member in part.items() if isinstance(part, dict) else enumerate(part):
            yield from members(member, (*here, name))


def variants(document: Any) -> Iterator[tuple[str, bytes]]:
    """The document with one value after the other replaced, or missing, or named otherwise; and what that is."""
    for place in members(document):
        for text in WRONG:
            changed: Any = {"": copy.deepcopy(document)}
            above, last = ("", *place)[:-1], ("", *place)[-1]
            inner = changed
            for name in above:
                inner = inner[name]
            inner[last] = "@@"
            yield f"{place}: {text[:40]}", json.dumps(changed[""]).replace('"@@"', text).encode()
        if place and isinstance(place[-1], str):
            changed = copy.deepcopy(document)
            inner = changed
            for name in place[:-1]:
                inner = inner[name]
            value = inner.pop(place[-1])
            yield f"{place} is missing", json.dumps(changed).encode()
            inner["unknown"] = value
            yield f"{place} is unknown", json.dumps(changed).encode()


# -- the operator's


DOCUMENTS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/devices", {"id": "urn:dcu:T-2", "key": "00" * 32, "replace": True}),
    ("POST", "/v1/devices", {"id": "urn:dcu:T-3", "certificate": "PEM", "replace": False}),
    ("POST", "/v1/devices", {"id": "urn:dcu:T-4", "by_authority": True, "replace": False}),
    ("PATCH", AT, {"enabled": True}),
    ("POST", f"{AT}/key", {"key": "00" * 32, "end_account": False}),
    ("POST", f"{AT}/renew-key", {}),
    ("PUT", f"{AT}/push-policy", {"networks": ["10.20.7.42/32"], "ports": [8030]}),
    ("POST", f"{AT}/dm-account", {"auth": "HMAC", "accepts": "message", "push_url": "https://x.example/"}),
    ("POST", f"{AT}/resend", {"store": STORE, "first": 1, "last": 2}),
    ("POST", f"{AT}/resend", {"since": 1.0, "until": 2.0}),
    ("POST", "/v1/gaps/give-up", {"device": DEVICE, "meter": "K", "task": "t", "why": "gone"}),
    ("POST", f"{AT}/decommission", {"path": "./DMAcc/main"}),
    *(
        ("POST", f"{AT}/jobs", {"kind": kind, "params": with_character(params, "")})
        for kind, params, _ in PARAMS
        if kind not in ("firmware",)
    ),
    ("POST", f"{AT}/jobs", {"kind": "firmware", "params": {"version": "2", "delta": True, "full_after_delta": False}}),
    ("POST", f"{AT}/jobs", {"kind": "firmware", "params": {"url": "https://p.example/packages/x", "version": "2"}}),
    ("POST", f"{AT}/jobs", {"kind": "device", "params": {"operation": "lock"}}),
    (
        "POST",
        f"{AT}/jobs",
        {"kind": "order", "params": {"order": "read", "meters": ["K"], "priority": 5, "deadline_s": 300}},
    ),
    (
        "POST",
        f"{AT}/jobs",
        {
            "kind": "tasks",
            "params": {
                "tasks": {"a": {"every": 900, "offset": 0, "codes": "3/1.0.1.8.0.255/2", "enabled": True, "spread": 5}},
                "zone": "Europe/Madrid",
                "quiet_hours": "17:00-21:00",
            },
        },
    ),
    (
        "POST",
        f"{AT}/jobs",
        {"kind": "provision", "params": {"nodes": [{"path": "./A", "value": 1, "format": "int"}], "atomic": True}},
    ),
]
LISTS = ("/v1/devices", "/v1/jobs", "/v1/orders", "/v1/audit", f"{AT}/resend", "/v1/gaps", "/v1/security-alarms")


@pytest.fixture
def server(database: Engine, tmp_path: Path) -> Starlette:
    urls = {"dm": "https://dm.example", "software": "https://p.example", "metering": "https://metering.example"}
    packages = PackageStore(database, tmp_path / "files")
    made = app.create_app(
        app.OperatorDeps(database, packages, lambda _: 1, lambda: urls, web.token_hash(TOKEN), wall=lambda: 1000.0)
    )
    assert ask(made, "POST", "/v1/devices", json.dumps({"id": DEVICE, "key": "00" * 32}).encode())[0] == 201
    with database.begin() as connection:
        accounts.create(connection, DEVICE, server_id="headend", url="https://dm.example/dm")
    return made


def ask(server: Starlette, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    answer = call(server, method, path, content=body, headers={"Authorization": f"Bearer {TOKEN}"})
    return answer.status_code, answer.json() if answer.content else None


@pytest.mark.parametrize(("method", "path", "document"), DOCUMENTS)
def test_a_body_of_the_operators_with_another_type_is_refused_in_words(
    server: Starlette, method: str, path: str, document: Any
) -> None:
    for what, body in variants(document):
        try:
            status, answer = ask(server, method, path, body)
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
        assert status < 500, what
        if status >= 400:
            assert answer["error"], what
    for lists in LISTS:
        assert ask(server, "GET", lists)[0] == 200


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b'{"id": "a", "key": "b", "id": "c"}', "id"),
        (b'{"kind": "get", "params": {"paths": [], "paths": ["./A"]}}', "paths"),
        (b'{"\\ud800": 1, "\\ud800": 2}', "\\ud800"),
    ],
)
def test_a_name_that_stands_twice_in_a_body_is_refused(server: Starlette, body: bytes, where: str) -> None:
    for path in ("/v1/devices", f"{AT}/jobs"):
        assert ask(server, "POST", path, body) == (400, {"error": f"{where}: stands more than once"})


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "", "9" * 30, "\u0661", "1e5", "true", "null", "\ufffd", "\x00"])
@pytest.mark.parametrize(
    "name", ["limit", "offset", "device", "meter", "obis", "run", "state", "grave", "code", "since"]
)
def test_a_query_of_another_type_is_refused_in_words(server: Starlette, name: str, text: str) -> None:
    for path in ("/v1/events", "/v1/gaps", "/v1/readings", "/v1/jobs", "/v1/values", "/v1/networks", "/v1/audit"):
        answer = call(server, "GET", path, params={name: text}, headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code in (200, 400)


# -- the devices'


def batch(*records: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"version": 1, "device": DEVICE, "store": STORE, "records": list(records), **members}


GAP = {
    "id": 1, "gap": "open", "meter": "K", "task": "t", "profile": "1.0.99.1.0.255", "first": 1770000000,
    "last": 1770001800, "every": 900, "reason": "silent", "how": None, "noted": 1770000000.0, "times": None,
    "lowest": 1, "highest": 2, "about": STORE, "generation": 1,
}  # fmt: skip
LISTED_GAP = {name: value for name, value in GAP.items() if name not in ("id", "about", "lowest", "highest")}
BATCHES = {
    "reading": batch(a_record()),
    "text": batch(a_record(tag="str", raw="x", scaler=None)),
    "double": batch(a_record(tag="f64", raw=1.5)),
    "structure": batch(a_record(tag="struct", raw=[["u8", 1], ["array", [["str", "x"]]]], scaler=None)),
    "profile": batch(a_record(profile="1.0.99.1.0.255", doubt="ahead", reread="x")),
    "gap": batch(GAP),
    "event": batch(an_event(1)),
    "event with octets": batch(an_event(1, octets="00ff", values=[])),
    "later kind": batch({"id": 1, "kind": "of a later release", "x": [1.5]}),
    "list": batch(listed={"as_of": 1, "gaps": [LISTED_GAP], "from": ["K", "t", "", 0], "before": None}),
    "digest": batch(listed={"as_of": 1, "digest": "0" * 64}),
    "reports": batch(resent=[{"request": 1, "sent": 1, "refused": 0, "gone": [[1, 2]], "kept_since": 1.0}]),
}


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_of_another_type_is_refused_and_names_the_member(
    database: Engine, server: Starlette, name: str
) -> None:
    bearer = {"Authorization": f"Bearer {store.issue_token(database, DEVICE, 1.0)}"}
    taker = metering.create_app(database, wall=lambda: 1_770_000_100.0)
    refusals: set[str] = set()
    for number, (what, variant) in enumerate(variants(BATCHES[name])):
        body = variant.replace(STORE.encode(), f"{number:032x}".encode())  # what is known already is not stored
        try:
            readings.parse(body)
        except readings.BatchError as error:
            refusals.add(str(error))
            continue
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
        try:
            answer = call(taker, "POST", "/v1/readings", content=body, headers=bearer)
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
        assert answer.status_code in (200, 403), what
    assert all(refusals)
    assert len(refusals) > 5  # each names its member
    for path in ("/v1/readings", "/v1/events", "/v1/gaps", "/v1/meters", f"{AT}/resend"):
        assert ask(server, "GET", path)[0] == 200


LEAVES: dict[str, Any] = {
    "./AMI/Network/plc0/Topology": [
        {"eui48": "0" * 12, "meter_id": "K", "registered": True, "state": "x", "level": 1, "sid": 1, "lsid": 2,
         "path": ["a"], "rx_level": 1, "snr": 2, "modulation": "x", "promotions": 1, "registrations": 1,
         "last_heard": 1.0}
    ],
    "./AMI/Network/plc0/History": [
        {"seq": 1, "at": 1.0, "kind": "x", "eui48": "x", "sid": 1, "lsid": 1, "detail": "x"}
    ],
    "./AMI/Registry/Meters": [
        {"meter_id": "K", "port": "p", "address": 1, "eui48": "x", "state": "x", "model": "m", "firmware": "f",
         "last_success": 1.0, "last_error": "", "key_failures": 0, "counters": {"read": 1}, "objects": {"count": 1},
         "offered": {"pdu_size": 1, "get_with_list": True, "selective_access": False}}
    ],
    "./AMI/Order/job1/Status/Progress": {
        "counts": {"done": 1},
        "meters": [{"meter": "K", "state": "done", "progress": {"stage": "x", "blocks": 1, "of": 2}, "error": None}],
    },
    "./SCHED/Task/t/Setting/Every": "900",
    "./SCHED/Task/t/Setting/Times": "0 0 * * *",
    "./SCHED/Zone": "UTC",
}  # fmt: skip


@pytest.mark.parametrize("uri", LEAVES)
def test_what_a_device_tells_in_a_leaf_is_shown_or_left_out(database: Engine, server: Starlette, uri: str) -> None:
    order = {"kind": "order", "params": {"order": "read", "meters": ["K"]}}
    assert ask(server, "POST", f"{AT}/jobs", json.dumps(order).encode())[1]["id"] == 1
    browser = Browser(server)
    browser.log_in(TOKEN)
    paths = {
        "./AMI/Network": ("/v1/networks", "/network"),
        "./AMI/Registry": ("/v1/registered", "/network"),
        "./AMI/Order": ("/v1/orders", "/v1/orders/1", "/orders", "/order?job=1"),
        "./SCHED/Task": (f"{AT}/tasks", f"/device?id={DEVICE}"),
        "./SCHED/Zone": (f"{AT}/tasks", f"/device?id={DEVICE}"),
    }["/".join(uri.split("/")[:3])]
    told = LEAVES[uri]
    texts = WRONG if isinstance(told, str) else [body.decode() for _, body in variants(told)]
    for text in texts:
        shown = json.loads(text) if isinstance(told, str) and text.startswith('"') else text
        if isinstance(shown, str) and "\ud800" in shown:
            continue  # a database has no form for it, and no message
        with database.begin() as connection:
            connection.execute(delete(dm.values))
            for name, value in LEAVES.items():
                if isinstance(value, str) and name != uri:
                    connection.execute(
                        insert(dm.values).values(device_id=DEVICE, uri=name, value=value, format="chr", updated=1.0)
                    )
            connection.execute(
                insert(dm.values).values(device_id=DEVICE, uri=uri, value=shown, format="chr", updated=1.0)
            )
        for path in paths:
            try:
                if path.startswith("/v1"):
                    assert ask(server, "GET", path)[0] == 200
                else:
                    browser.page(path)
            except Exception as error:
                raise AssertionError(f"{path}, {text[:200]}: {error!r}") from error


def test_a_configuration_of_another_type_is_refused_in_words(tmp_path: Path) -> None:
    ports = {name: 1000 + number for number, name in enumerate(config.SERVERS)}
    tls = {"certificate": "server.pem", "key": "server.key", "ca": "/etc/ca.pem"}
    document = yaml.safe_load(config.template("headend", ports, "127.0.0.1", tls)) | {
        "push": {"networks": ["10.0.0.0/8"], "ports": [8030]},
        "sealing": {"pkcs11": {"module": "m", "token": "t", "key": "k", "pin_file": "p"}},
        "ssmp": {"certificate": "c", "key": "k", "device_ca": "d", "issued_days": 5},
        "log": {"level": "info"},
        "jobs": {"waiting_days_max": 3},
    }
    file = tmp_path / config.CONFIG_NAME
    refused = 0
    for what, body in variants(document):
        file.write_bytes(body)
        try:
            config.load(file)
        except config.ConfigError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
    assert refused > 100


def test_what_a_device_says_of_an_order_never_raises() -> None:
    for what, body in variants(LEAVES["./AMI/Order/job1/Status/Progress"]):
        found, problem = told_by_device(body.decode())
        assert isinstance(problem, str), what
        json.dumps(found, allow_nan=False).encode()
