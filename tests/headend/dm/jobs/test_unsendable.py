"""Text that no message can carry: refused when a job is queued, and what stands in the database fails its own job."""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, select, text

from headend.dm import accounts, tables
from headend.dm.jobs import queue
from headend.dm.jobs.params import JobError
from headend.dm.jobs.steps import Batch, Done, Job, Steps, get
from headend.dm.jobs.types import JOB_TYPES
from headend.dm.session_store import SessionStore
from omadm.syncml.codec import DM_WBXML, DM_XML
from tests.headend.dm.bench import DEVICE, connected
from tests.headend.dm.bench import job as shown
from tests.headend.dm_device import Device

HALF, NO_CHARACTER, CONTROL = "\ud800", "\ufffe", "\x01"

PARAMS: list[tuple[str, dict[str, Any], str]] = [
    ("get", {"paths": ["./A", "./B@"]}, "paths[1]"),
    ("provision", {"nodes": [{"path": "./A/@", "value": "1"}]}, "nodes[0].path"),
    ("provision", {"nodes": [{"path": "./A/B", "value": "1"}, {"path": "./A/C", "value": "a@b"}]}, "nodes[1].value"),
    ("tasks", {"tasks": {"day": {"every": 900, "reading_list": "x@"}}}, "tasks.day.reading_list"),
    ("tasks", {"tasks": {"day": {"every": 900, "reading_list": "x", "meters": ["a", "@"]}}}, "tasks.day.meters[1]"),
    ("firmware", {"url": "https://packages.example/@"}, "url"),
    ("firmware", {"version": "2@", "packages_url": "https://packages.example"}, "version"),
    ("software", {"id": "lists", "url": "https://packages.example/x", "name": "L@"}, "name"),
    ("software", {"id": "lists", "url": "https://packages.example/x", "version": "1@"}, "version"),
    ("order", {"order": "read", "meters": ["KEP@"], "parameters": {}}, "meters[0]"),
    ("order", {"order": "read", "meters": ["K"], "parameters": {"codes": ["@"]}}, "parameters.codes[0]"),
    ("order", {"order": "read", "meters": ["K"], "parameters": {"x@": 1}}, "parameters.x"),
    ("connectivity", {"access": "apn@", "within_s": 900}, "access"),
    ("connectivity", {"anchors": "PEM@", "within_s": 900}, "anchors"),
    ("device", {"operation": "lock@"}, "operation"),
    ("log", {"since": 0, "until": 0, "level": "info@"}, "level"),
    ("commands", {"commands": [{"command": "exec", "path": "./A", "value": "@"}]}, "commands[0].value"),
    ("commands", {"commands": [{"command": "delete", "path": "./A@"}]}, "commands[0].path"),
    ("commands", {"commands": [{"command": "copy", "path": "./A", "source": "./B@"}]}, "commands[0].source"),
    ("commands", {"commands": [{"command": "get", "path": "./A@"}], "mode": "sequence"}, "commands[0].path"),
    ("commands", {"commands": [{"command": "add", "path": "./A", "value": "@", "format": "chr"}], "mode": "atomic"},
     "commands[0].value"),
]  # fmt: skip


def with_character(part: Any, character: str) -> Any:
    """The parameters with `character` in the place of each @."""
    if isinstance(part, dict):
        return {name.replace("@", character): with_character(member, character) for name, member in part.items()}
    if isinstance(part, list):
        return [with_character(member, character) for member in part]
    return part.replace("@", character) if isinstance(part, str) else part


@pytest.fixture
def device(engine: Engine) -> Device:
    return connected(engine, {"./Good": "1"})


def stands(engine: Engine, kind: str, params: dict[str, Any]) -> int:
    """A job in the database that was not checked, as an earlier head-end has left it."""
    with engine.begin() as conn:
        return queue._queue(conn, DEVICE, kind, params, 1000.0)


def good_job(engine: Engine) -> int:
    with engine.begin() as conn:
        return queue.enqueue(conn, DEVICE, "get", {"paths": ["./Good"]})


# -- at the door


@pytest.mark.parametrize("character", [HALF, "\udfff", NO_CHARACTER, "\uffff", CONTROL, "\x00", "\x0b", "\x1f"])
@pytest.mark.parametrize(("kind", "params", "where"), PARAMS)
def test_a_text_that_no_message_can_carry_is_refused_by_name(
    engine: Engine, device: Device, kind: str, params: dict[str, Any], where: str, character: str
) -> None:
    bad = with_character(params, character)
    with engine.begin() as conn, pytest.raises(JobError) as refused:
        queue.enqueue(conn, DEVICE, kind, bad)
    assert str(refused.value).startswith(where)
    assert f"U+{ord(character):04X}" in str(refused.value)
    str(refused.value).encode()  # it can be told


def test_every_kind_of_job_is_among_them() -> None:
    assert {kind for kind, _, _ in PARAMS} == set(JOB_TYPES)


@pytest.mark.parametrize("text", ["\t\r\n", "é\u4e2d\U0001f600\ud7ff\ue000\ufffd", "", "\x7f\x85"])
def test_any_other_text_is_taken_and_arrives(engine: Engine, device: Device, text: str) -> None:
    device.tree.nodes["./A"] = "0"
    device.content_type = DM_XML
    with engine.begin() as conn:
        number = queue.enqueue(conn, DEVICE, "provision", {"nodes": [{"path": "./A", "value": text}]})
    device.session()
    assert (shown(engine, number)["state"], device.tree.nodes["./A"]) == ("done", text)


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"x": [float("inf")]}, r"parameters\.x\[0\]: inf is no number"),
        ({"x": float("nan")}, r"parameters\.x: nan is no number"),
        (json.loads("[" * 40 + "]" * 40), "nested deeper than 32"),
    ],
)
def test_numbers_that_are_none_and_endless_nesting_are_refused(
    engine: Engine, device: Device, parameters: object, why: str
) -> None:
    order = {
        "order": "read",
        "meters": ["K"],
        "parameters": {"y": parameters} if isinstance(parameters, list) else parameters,
    }
    with engine.begin() as conn, pytest.raises(JobError, match=why):
        queue.enqueue(conn, DEVICE, "order", order)


@pytest.mark.parametrize(
    ("kind", "params", "why"),
    [
        ("provision", {"nodes": [{"path": "./A", "value": "1", "delete": "no"}]}, "delete is true or false"),
        ("tasks", {"quiet_hours": 0}, "quiet_hours: a text wanted"),
        ("tasks", {"quiet_hours": []}, "quiet_hours: a text wanted"),
        ("tasks", {"quiet_hours": False}, "quiet_hours: a text wanted"),
    ],
)
def test_values_of_another_type_are_refused(
    engine: Engine, device: Device, kind: str, params: dict[str, Any], why: str
) -> None:
    with engine.begin() as conn, pytest.raises(JobError, match=why):
        queue.enqueue(conn, DEVICE, kind, params)


# -- what stands in the database


@pytest.mark.parametrize(("content_type", "character"), [(DM_XML, NO_CHARACTER), (DM_XML, HALF), (DM_WBXML, HALF)])
@pytest.mark.parametrize(("kind", "params", "where"), PARAMS)
def test_a_job_that_cannot_be_written_fails_and_the_next_one_runs(
    engine: Engine, device: Device, kind: str, params: dict[str, Any], where: str, content_type: str, character: str
) -> None:
    device.content_type = content_type
    device.tree.exec_status = 200
    bad = stands(engine, kind, with_character(params, character))
    good = good_job(engine)
    for _ in range(2):
        device.session()
    assert shown(engine, good)["state"] == "done"
    assert shown(engine, bad)["state"] in ("failed", "done", "waiting")  # not queued: it is in nobody's way


@pytest.mark.parametrize("content_type", [DM_XML, DM_WBXML])
@pytest.mark.parametrize("mode", ["plain", "sequence", "atomic"])
def test_the_reason_is_recorded_and_logged_and_repeats_no_value(
    engine: Engine, device: Device, mode: str, content_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    device.content_type = content_type
    command = {"command": "replace", "path": "./Good", "value": f"geheim{HALF}", "format": "chr"}
    bad = stands(engine, "commands", {"commands": [command], "mode": mode})
    with caplog.at_level(logging.ERROR, "headend.dm"):
        device.session()
    job = shown(engine, bad)
    assert job["state"] == "failed"
    assert job["result"]["error"].startswith("Replace ./Good cannot be written: Data: ")
    assert job["result"]["error"] in caplog.text
    assert "geheim" not in json.dumps(job) + caplog.text
    assert device.tree.nodes["./Good"] == "1"


def test_a_job_that_stands_there_is_shown_and_can_be_cancelled(engine: Engine, device: Device) -> None:
    for kind, params, _ in PARAMS:
        number = stands(engine, kind, with_character(params, HALF))
        assert shown(engine, number)["state"] == "queued"
        with engine.begin() as conn:
            assert queue.cancel(conn, number)
        assert shown(engine, number)["state"] == "failed"


# -- the guard


class Faulty:
    """A job type with a fault, in its first step or after an answer."""

    name = "faulty"

    def __init__(self, *, at_once: bool) -> None:
        self.at_once = at_once

    def check(self, params: Any) -> dict[str, Any]:
        return copy.deepcopy(dict(params))

    def steps(self, job: Job) -> Steps:
        if not self.at_once:
            yield Batch((get("./Good"),))
        return Done({"it": job.params["nothing"]})


@pytest.mark.parametrize("at_once", [True, False])
def test_a_fault_in_the_steps_of_a_job_fails_that_job(
    engine: Engine, device: Device, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(JOB_TYPES, "faulty", Faulty(at_once=at_once))
    bad, good = stands(engine, "faulty", {}), good_job(engine)
    device.session()
    assert shown(engine, bad)["result"] == {"error": "the head-end cannot carry the job out: KeyError: 'nothing'"}
    assert shown(engine, good)["state"] == "done"


def test_a_job_of_a_kind_that_is_not_known_here_fails(engine: Engine, device: Device) -> None:
    bad, good = stands(engine, "of a later release", {}), good_job(engine)
    device.session()
    assert "knows no job" in shown(engine, bad)["result"]["error"]
    assert shown(engine, good)["state"] == "done"


def test_a_session_that_breaks_at_a_job_breaks_three_times_and_no_more(
    engine: Engine, device: Device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever else goes wrong in the head-end when an answer to a job is stored."""
    device.tree.nodes["./Bad"] = "2"
    with engine.begin() as conn:
        bad = queue.enqueue(conn, DEVICE, "get", {"paths": ["./Bad"]})
    good = good_job(engine)
    kept = SessionStore.value_seen

    def value_seen(self: SessionStore, uri: str, item: Any) -> str:
        if uri == "./Bad":
            raise TypeError("a fault")
        return kept(self, uri, item)

    monkeypatch.setattr(SessionStore, "value_seen", value_seen)
    for attempt in range(3):
        account = device.account
        with pytest.raises(TypeError), caplog.at_level(logging.WARNING, "headend.dm"):
            device.session()
        assert f"broke at job {bad}: a fault" in caplog.text
        device.account = replace(device.account, server_nonce=account.server_nonce)  # as one challenge would do
        assert shown(engine, bad)["state"] == ("failed" if attempt == 2 else "queued")
    assert "3 times: TypeError: a fault" in shown(engine, bad)["result"]["error"]
    device.session()
    assert shown(engine, good)["state"] == "done"


def test_a_job_that_cannot_be_taken_is_passed_over_and_failed_at_last(
    engine: Engine, device: Device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault before its first step: no session breaks at it, and no job waits for it."""
    bad = good_job(engine)
    kept = queue._fail_overtaken

    def fault(conn: Any, job: Any, now: float) -> None:
        if job.id == bad:
            raise KeyError("order")
        kept(conn, job, now)

    monkeypatch.setattr(queue, "_fail_overtaken", fault)
    for state in ("queued", "failed"):  # it is looked at before each job and at the end
        good = good_job(engine)
        with caplog.at_level(logging.ERROR, "headend.dm"):
            device.session()
        assert f"job {bad} cannot be taken" in caplog.text
        assert (shown(engine, good)["state"], shown(engine, bad)["state"]) == ("done", state)
    assert "3 times: KeyError: 'order'" in shown(engine, bad)["result"]["error"]


def test_a_job_whose_row_cannot_be_read_fails_at_once(engine: Engine, device: Device) -> None:
    bad, good = good_job(engine), good_job(engine)
    with engine.begin() as conn:
        conn.execute(text("UPDATE dm_jobs SET params = '{cut' WHERE id = :id"), {"id": bad})
    device.session()
    assert shown(engine, good)["state"] == "done"
    assert shown(engine, bad)["state"] == "failed"  # and it hides no other from the operator
    assert "cannot read this job: JSONDecodeError" in shown(engine, bad)["result"]["error"]
    with engine.begin() as conn:
        assert [row["id"] for row in queue.listing(conn, DEVICE)] == [good, bad]


def test_a_job_whose_steps_cannot_even_be_made_fails_alone(
    engine: Engine, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoSteps(Faulty):
        def steps(self, job: Job) -> Steps:
            raise KeyError("nothing")

    monkeypatch.setitem(JOB_TYPES, "faulty", NoSteps(at_once=True))
    bad, good = stands(engine, "faulty", {}), good_job(engine)
    device.session()
    assert "KeyError: 'nothing'" in shown(engine, bad)["result"]["error"]
    assert shown(engine, good)["state"] == "done"


def test_a_header_that_no_answer_can_repeat_counts_against_no_job(engine: Engine, device: Device) -> None:
    """The device said it of itself, amid a session: the job is as innocent as when the line breaks."""
    good = good_job(engine)
    inline = b"\x03https://headend/dm\0"
    for _ in range(queue.BROKEN_MAX):
        first = device.take(device.server.handle(device.request(device.begin())))
        commands, final = device.reply(first)
        account = device.account
        device.rewrite = lambda body: body.replace(inline, b"\xc3\x03a\0b")
        assert device.server.handle(device.request(commands, final=final)).status == 400
        device.rewrite = bytes
        device.account = replace(account, server_nonce=first_nonce(engine))  # as one challenge would do
    device.session()
    assert (shown(engine, good)["state"], shown(engine, good)["attempts"]) == ("done", queue.BROKEN_MAX + 1)


def first_nonce(engine: Engine) -> bytes:
    """What the server proves itself with next: it has stored nothing of what it could not answer."""
    with engine.begin() as conn:
        row = accounts.load(conn, DEVICE)
    assert row is not None
    return bytes(row.server_nonce)


def test_a_stranger_breaks_no_session(engine: Engine, device: Device) -> None:
    """A message that cannot be answered costs a session only when its sender has proven itself."""
    good = good_job(engine)
    first = device.take(device.server.handle(device.request(device.begin())))
    stranger = Device(device.server, replace(device.account, client_secret="guessed"))
    inline = b"\x03https://headend/dm\0"
    stranger.rewrite = lambda body: body.replace(inline, b"\xc3\x03a\0b")  # a name that WBXML cannot repeat
    answer = device.server.handle(stranger.request(stranger.begin()))
    assert (answer.status, b"cannot be answered" in answer.body) == (400, True)
    commands, final = device.reply(first)
    device.take(device.server.handle(device.request(commands, final=final)))
    assert shown(engine, good)["state"] == "done"


def test_the_queue_of_one_device_is_what_its_rows_say(engine: Engine, device: Device) -> None:
    """Nothing is tried in vain: a job that cannot be written has run once."""
    bad = stands(engine, "get", {"paths": [f"./{HALF}"]})
    device.session()
    with engine.begin() as conn:
        row = conn.execute(select(tables.jobs).where(tables.jobs.c.id == bad)).one()
    assert (row.state, row.attempts) == ("failed", 1)


@pytest.mark.parametrize(
    ("told", "result"),
    [
        (
            '{"meters": [{"meter": "K", "state": "done"}], "result_code": 7}',
            {"meters": [{"meter": "K", "state": "done"}]},
        ),
        ('{"meters": 5}', {"unread": "meters: a list of objects, with texts for meter, state and error, is expected"}),
        ('{"meters": [{"meter": 5}], "counts": {"done": 1}}', {"counts": {"done": 1}, "unread": "meters: a list of"}),
        ('{"x": "\\ud800"}', {"unread": "x: the character U+D800"}),
        ('{"x": 1e999, "error": 5}', {"unread": "x: inf is no number"}),
        ("[" * 20_000, {"unread": "it is not JSON"}),
        ("5", {"unread": "it is no object"}),
    ],
)
def test_what_a_device_says_of_an_order_is_taken_by_member(
    engine: Engine, device: Device, told: str, result: dict[str, Any]
) -> None:
    with engine.begin() as conn:
        number = queue.enqueue(conn, DEVICE, "order", {"order": "read", "meters": ["K"]})
        correlator = queue.show(conn, number)["correlator"]  # type: ignore[index]
        queue.deliver_alert(conn, DEVICE, correlator, {"result_code": 1200}, 1.0)
    device.tree.nodes |= {f"./AMI/Order/job{number}/Status/Result": told}
    device.session()
    job = shown(engine, number)
    assert (job["state"], job["result"].pop("result_code")) == ("done", 1200)
    unread = result.pop("unread", "")
    assert job["result"].pop("unread", "").startswith(unread)
    assert job["result"] == result
