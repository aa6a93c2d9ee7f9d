"""Answers that a device of another make may give, and what they amount to: nothing is done that it did not say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from sqlalchemy import Engine

from omadm.syncml.messages import Command, Item, Meta, Results, Status
from tests.headend.dm.bench import connected, enqueue, job
from tests.headend.dm_device import Tree

NODES: dict[str, str | bytes | None] = {".": None, "./A": None, "./A/x": "1", "./A/y": "2"}
NODES |= {"./SCHED": None, "./SCHED/Zone": "UTC0"}
TEXT = Meta(format="chr")

Change = Callable[[list[Command]], list[Command]]


@dataclass
class OddTree(Tree):
    """A device that carries everything out, and says something else."""

    change: Change = field(default=list)

    def run(self, command: Command, msg_ref: str) -> list[Command]:
        return self.change(super().run(command, msg_ref))


def run(engine: Engine, kind: str, params: dict[str, Any], change: Change) -> tuple[str, dict[str, Any]]:
    """The state and result of one job of such a device."""
    device = connected(engine, OddTree(dict(NODES), change=change))
    number = enqueue(engine, kind, **params)
    device.session()
    found = job(engine, number)
    return found["state"], found["result"]


def statuses(code: int, name: str = "") -> Change:
    """Every status, or that of the command `name`, is this one."""

    def change(answers: list[Command]) -> list[Command]:
        return [replace(a, code=code) if isinstance(a, Status) and name in ("", a.cmd) else a for a in answers]

    return change


def without(name: str) -> Change:
    return lambda answers: [a for a in answers if not (isinstance(a, Status) and a.cmd == name)]


def values(*items: Item) -> Change:
    return lambda answers: [replace(a, items=items) if isinstance(a, Results) else a for a in answers]


REPLACE: dict[str, Any] = {"commands": [{"command": "replace", "path": "./A/x", "value": "9"}]}
TWO: dict[str, Any] = {"commands": [*REPLACE["commands"], {"command": "add", "path": "./A/z", "value": "8"}]}
ATOMIC, SEQUENCE = {**TWO, "mode": "atomic"}, {**TWO, "mode": "sequence"}
EXEC = {"commands": [{"command": "exec", "path": "./A/x"}]}
PROVISION = {"nodes": [{"path": "./A/x", "value": "9"}]}
GET = {"paths": ["./A/x"]}
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "replace": ("commands", REPLACE),
    "provision": ("provision", PROVISION),
    "provision atomic": ("provision", {**PROVISION, "atomic": True}),
    "get": ("get", GET),
    "atomic": ("commands", ATOMIC),
    "sequence": ("commands", SEQUENCE),
}
SETTING: dict[str, dict[str, Any]] = {
    "provision": PROVISION,
    "tasks": {"zone": "CET-1"},
    "connectivity": {"time_servers": "ntp.example"},
    "log": {},
}
NO_SUCCESS = (100, 101, 202, 206, 213, 214, 215, 216, 300, 304, 401, 417, 418, 500, 507, 516, 999)


@pytest.mark.parametrize("code", NO_SUCCESS)
@pytest.mark.parametrize("name", JOBS)
def test_a_status_that_does_not_say_done_is_not_done(engine: Engine, name: str, code: int) -> None:
    state, _ = run(engine, *JOBS[name], statuses(code))
    assert state == "failed"


@pytest.mark.parametrize("kind", SETTING)
def test_what_was_not_answered_is_not_known_and_no_refusal(engine: Engine, kind: str) -> None:
    state, result = run(engine, kind, SETTING[kind], without("Replace"))
    assert state == "failed"
    assert None in result["refused"].values()
    assert "was not answered: what the device did is not known" in result["error"]


@pytest.mark.parametrize("code", [200, 250])
@pytest.mark.parametrize("name", JOBS)
def test_a_status_of_success_is_done(engine: Engine, name: str, code: int) -> None:
    state, _ = run(engine, *JOBS[name], statuses(code))
    assert state == "done"


@pytest.mark.parametrize("code", NO_SUCCESS)
@pytest.mark.parametrize(("name", "outer"), [("atomic", "Atomic"), ("sequence", "Sequence")])
def test_the_status_of_the_parent_counts(engine: Engine, name: str, outer: str, code: int) -> None:
    state, result = run(engine, *JOBS[name], statuses(code, outer))
    assert state == "failed"
    assert [reply["status"] for reply in result["replies"]] == [code, code]


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("atomic", without("Atomic"), [None, None]),
        ("atomic", lambda answers: [a for a in answers if a.cmd == "Atomic"], [200, 200]),
        ("sequence", lambda answers: [a for a in answers if a.cmd == "Sequence"], [None, None]),
        ("sequence", without("Sequence"), [200, 200]),
    ],
)
def test_a_status_that_is_missing_is_not_made_up(
    engine: Engine, name: str, change: Change, told: list[int | None]
) -> None:
    def outermost(answers: list[Command]) -> list[Command]:
        """Only the answers to a whole Atomic or Sequence are changed."""
        is_whole = any(isinstance(a, Status) and a.cmd in ("Atomic", "Sequence") for a in answers)
        return change(answers) if is_whole else answers

    state, result = run(engine, *JOBS[name], outermost)
    assert [reply["status"] for reply in result["replies"]] == told
    assert state == ("failed" if None in told else "done")


@pytest.mark.parametrize(("code", "state"), [(200, "done"), (202, "done"), (206, "failed"), (215, "failed")])
def test_only_an_exec_may_be_carried_out_later(engine: Engine, code: int, state: str) -> None:
    assert run(engine, "commands", EXEC, statuses(code))[0] == state


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (values(Item(source="./A/y", meta=TEXT, data="2")), None),
        (values(Item(target="./A/y", meta=TEXT, data="2")), None),
        (values(Item(source="./A/xy", meta=TEXT, data="2")), None),
        (values(Item(source="./A/x")), None),
        (values(), None),
        (lambda answers: [a for a in answers if isinstance(a, Status)], None),
        (lambda answers: [a for a in answers if isinstance(a, Results)], None),
        (values(Item(source="./A/x", meta=Meta(format="chr", size=5), data="1")), 424),
        (values(Item(source="./A/x", meta=Meta(format="bin", size=5), data=b"123")), 424),
    ],
    ids=[
        "other node",
        "other target",
        "longer name",
        "no data",
        "no item",
        "no results",
        "no status",
        "short text",
        "short octets",
    ],
)
def test_a_get_without_the_value_of_its_node_is_not_done(engine: Engine, change: Change, missing: int | None) -> None:
    state, result = run(engine, "get", GET, change)
    assert (state, result["refused"]) == ("failed", {"./A/x": missing})


@pytest.mark.parametrize(
    "item",
    [
        Item(source="A/x", meta=TEXT, data="1"),
        Item(target="./A/x", meta=TEXT, data="1"),
        Item(source="./A/x", data="1"),
        Item(source="./A/x", meta=Meta(format="chr", size=1), data="1"),
        Item(source="./A/x", meta=Meta(format="bin", size=8), data=b"12345"),  # the size of its base64 text
    ],
)
def test_a_value_told_in_another_way_is_a_value(engine: Engine, item: Item) -> None:
    state, result = run(engine, "get", GET, values(item))
    assert (state, result["values"]) == ("done", 1)
