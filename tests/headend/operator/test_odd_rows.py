"""Rows that no check would let in today: API and pages show them, escaped, and they can be cancelled."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import Engine, insert, update
from starlette.applications import Starlette

from headend.dm import tables as dm
from headend.dm.jobs import queue
from headend.dm.jobs.order import told_by_device
from tests.headend.dm.jobs.test_unsendable import HALF, NO_CHARACTER, PARAMS, with_character
from tests.headend.operator.test_api import DEVICE, Push, ask, enrol, open_account, push, server
from tests.headend.operator.test_console import TOKEN, Browser

__all__ = ["Push", "push", "server"]  # the fixtures

RESULTS: list[dict[str, Any]] = [
    {"error": f"what the device said: {HALF}"},
    {"x": float("inf"), "y": [float("nan")], "z": -float("inf")},
    {"meters": 5, "counts": 5},
    {"meters": [{"meter": HALF, "state": HALF, "value": float("nan")}, 7]},
    {"replies": 5},
]


@pytest.fixture
def known(database: Engine, server: Starlette) -> Starlette:
    enrol(server)
    open_account(database)
    return server


def stands(database: Engine, kind: str, params: dict[str, Any], **row: Any) -> int:
    with database.begin() as connection:
        number = queue._queue(connection, DEVICE, kind, params, 1000.0)
        if row:
            connection.execute(update(dm.jobs).where(dm.jobs.c.id == number).values(**row))
    return number


@pytest.mark.parametrize("character", [HALF, NO_CHARACTER, "\x01"])
@pytest.mark.parametrize(("kind", "params", "where"), PARAMS)
def test_what_cannot_be_sent_is_400_and_nothing_is_queued(
    known: Starlette, kind: str, params: dict[str, Any], where: str, character: str
) -> None:
    body = json.dumps({"kind": kind, "params": with_character(params, character)}).encode()
    answer = ask(known, "POST", f"/v1/devices/{DEVICE}/jobs", content=body)
    assert answer.status_code == 400
    assert where in answer.json()["error"]
    assert ask(known, "GET", "/v1/jobs").json() == {"jobs": []}


def test_decommission_with_such_a_path_changes_nothing(known: Starlette) -> None:
    for character in (HALF, NO_CHARACTER):
        body = json.dumps({"path": f"./DMAcc/{character}"}).encode()
        answer = ask(known, "POST", f"/v1/devices/{DEVICE}/decommission", content=body)
        assert (answer.status_code, "path" in answer.json()["error"]) == (400, True)
    (device,) = ask(known, "GET", "/v1/devices").json()["devices"]
    assert (device["state"], ask(known, "GET", "/v1/jobs").json()) == ("in service", {"jobs": []})


@pytest.mark.parametrize("character", [HALF, NO_CHARACTER])
def test_jobs_that_stand_there_are_listed_and_cancelled(database: Engine, known: Starlette, character: str) -> None:
    browser = Browser(known)
    browser.log_in(TOKEN)
    numbers = [stands(database, kind, with_character(params, character)) for kind, params, _ in PARAMS]
    assert [job["id"] for job in ask(known, "GET", "/v1/jobs").json()["jobs"]] == numbers[::-1]
    assert ask(known, "GET", "/v1/orders").status_code == 200
    for path in ("/", "/jobs", "/orders", f"/device?id={DEVICE}", f"/order?job={numbers[9]}"):
        browser.page(path)
    for number in numbers:
        assert ask(known, "GET", f"/v1/jobs/{number}").json()["state"] == "queued"
        cancelled = ask(known, "POST", f"/v1/jobs/{number}/cancel")
        assert (cancelled.status_code, cancelled.json()["state"]) == (200, "failed")


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("kind", ["order", "get"])
def test_results_that_no_answer_could_carry_hide_no_others(
    database: Engine, known: Starlette, kind: str, result: dict[str, Any]
) -> None:
    params = {"order": "read", "meters": ["K"], "parameters": {}} if kind == "order" else {"paths": ["./A"]}
    number = stands(database, kind, params, state="failed", result=result)
    good = stands(database, "get", {"paths": ["./A"]})
    browser = Browser(known)
    browser.log_in(TOKEN)
    assert [job["id"] for job in ask(known, "GET", "/v1/jobs").json()["jobs"]] == [good, number]
    assert ask(known, "GET", "/v1/orders").status_code == 200
    for path in ("/", "/jobs", "/orders", f"/device?id={DEVICE}"):
        browser.page(path)
    if kind == "order":
        browser.page(f"/order?job={number}")
        assert ask(known, "GET", f"/v1/orders/{number}").status_code == 200


@pytest.mark.parametrize("told", ["5", "[]", '{"meters": 5}', '{"counts": {"done": "x"}}', '{"a": 1e999}', "[" * 9000,
                                  '{"meters": [{"meter": {}}]}', '{"meters": ["\\ud800"]}', "{"])  # fmt: skip
def test_progress_of_another_form_is_left_out(database: Engine, known: Starlette, told: str) -> None:
    number = stands(database, "order", {"order": "read", "meters": ["K"], "parameters": {}})
    with database.begin() as connection:
        row = {"device_id": DEVICE, "uri": f"./AMI/Order/job{number}/Status/Progress", "format": "chr", "updated": 1.0}
        connection.execute(insert(dm.values).values(value=told, **row))
    assert ask(known, "GET", f"/v1/orders/{number}").json()["meters"] == []
    kept, problem = told_by_device(told)
    assert problem
    assert not {"meters", "counts", "error"} & set(kept)
