"""The job `commands` after a lost answer: what depends on one another is not undone, nor refused, by being repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from headend.dm import accounts
from omadm.syncml.messages import Item
from tests.headend.database import empty_database
from tests.headend.dm.bench import DEVICE, connected, enqueue, job
from tests.headend.dm_device import Tree

NODES: dict[str, str | bytes | None] = {".": None, "./A": None, "./A/x": "1", "./A/y": "2", "./B": None, "./B/c": "1"}


def replaced(path: str, value: str) -> dict[str, Any]:
    return {"command": "replace", "path": path, "value": value}


def added(path: str, value: str | None = None) -> dict[str, Any]:
    return {"command": "add", "path": path, **({} if value is None else {"value": value})}


def deleted(path: str) -> dict[str, Any]:
    return {"command": "delete", "path": path}


def read(path: str) -> dict[str, Any]:
    return {"command": "get", "path": path}


class OwnWay(Tree):
    """A device that writes numbers in a way of its own, and whose node `./B` is never without a child."""

    def _store(self, item: Item, uri: str) -> int:
        code = super()._store(item, uri)
        value = self.nodes[uri]
        if isinstance(value, str) and value.isdigit():
            self.nodes[uri] = str(int(value))
        if uri == "./B":
            self.nodes["./B/own"] = "1"
        return code


def run(
    engine: Engine,
    commands: list[dict[str, Any]],
    mode: str,
    lost: str | None,
    kind: type[Tree] = Tree,
    **tree: Any,
) -> tuple[Any, ...]:
    """One job; its state, result, and the nodes of the device in the end. `lost`: the message of the device with its
    statuses, or the server's with the commands."""
    device = connected(engine, kind(dict(NODES), **tree))
    number = enqueue(engine, "commands", commands=commands, mode=mode)
    if lost is not None:
        message = device.take(device.server.handle(device.request(device.begin())))
        if lost == "answer":
            device.reply(message)
        with engine.begin() as conn:
            row = accounts.load(conn, DEVICE)
        assert row is not None
        device.account = accounts.from_row(row)
    device.session()
    found = job(engine, number)
    return found["state"], found["result"], device.tree.nodes


DEPENDENT = {
    "deleted and added": [deleted("./A/x"), added("./A/x", "5")],
    "replaced twice": [replaced("./A/x", "7"), replaced("./A/x", "8")],
    "there and back": [replaced("./A/x", "7"), replaced("./A/x", "1")],
    "added and deleted": [added("./A/z", "1"), deleted("./A/z")],
    "replaced and deleted": [replaced("./A/x", "7"), deleted("./A/x")],
    "added and replaced": [added("./A/z", "1"), replaced("./A/z", "2")],
    "a subtree made anew": [deleted("./B"), added("./B"), added("./B/d", "1")],
    "a subtree made anew, as it was": [deleted("./B"), added("./B"), added("./B/c", "1")],
    "a subtree emptied": [deleted("./B"), added("./B")],
    "added and its parent deleted": [added("./B/d", "1"), deleted("./B")],
    "two that do not depend": [added("./A/z", "1"), deleted("./A/y")],
    "made one below the other": [added("./A/s"), added("./A/s/t", "1"), added("./A/s/u", "2")],
}


@pytest.mark.parametrize("lost", [None, "commands", "answer"])
@pytest.mark.parametrize("mode", ["plain", "sequence", "atomic"])
@pytest.mark.parametrize("name", DEPENDENT)
def test_commands_that_depend_on_one_another_end_as_if_nothing_was_lost(
    tmp_path: Path, name: str, mode: str, lost: str | None
) -> None:
    ends = []
    for which in (None, lost):
        engine = empty_database(tmp_path / f"{which}.db")
        state, _, nodes = run(engine, DEPENDENT[name], mode, which)
        ends.append((state, nodes))
        engine.dispose()
    assert ends[1] == ends[0]
    assert ends[0][0] == "done"


def test_what_a_later_command_undid_has_no_status_of_its_own(engine: Engine) -> None:
    _, result, _ = run(engine, DEPENDENT["deleted and added"], "plain", "answer")
    assert result == {
        "repeated": True,
        "replies": [
            {"command": "delete", "path": "./A/x", "status": None, "superseded": True},
            {"command": "add", "path": "./A/x", "status": 200, "in_effect": True},
        ],
    }


@pytest.mark.parametrize(
    ("commands", "refuse", "statuses"),
    [
        ([replaced("./A/x", "7"), added("./A/z", "1")], {"./A/x": 405}, [405, 200]),
        ([deleted("./A/x"), added("./A/x", "5")], {"./A/x": 425}, [425, 425]),
        ([added("./A/z", "1"), replaced("./A/nowhere", "1")], {}, [200, 404]),
        ([replaced("./A/nowhere", "1"), added("./A/z", "1")], {}, [404, 200]),
    ],
)
@pytest.mark.parametrize("lost", [None, "commands", "answer"])
@pytest.mark.parametrize("mode", ["plain", "sequence"])
def test_what_the_device_refused_is_refused_after_a_loss_and_nothing_else_is(
    engine: Engine, commands: Any, refuse: dict[str, int], statuses: list[int], lost: str | None, mode: str
) -> None:
    state, result, _ = run(engine, commands, mode, lost, refuse=refuse)
    if mode == "sequence" and statuses[0] >= 400:
        statuses = [statuses[0], 215]
    assert (state, [one["status"] for one in result["replies"]]) == ("failed", statuses)


@pytest.mark.parametrize(
    ("commands", "statuses"),
    [
        ([read("./A/x"), replaced("./A/x", "7")], [None, 200]),  # the value of before is gone
        ([read("./B"), deleted("./B/c")], [None, 200]),
        ([added("./A/x", "9")], [None]),  # 418: from the first time, or from before it?
        ([{"command": "copy", "source": "./A/x", "path": "./A/z"}], [None]),
        ([replaced("./A/x?prop=Name", "z")], [None]),
    ],
)
def test_what_cannot_be_seen_any_more_is_not_known(engine: Engine, commands: Any, statuses: list[int | None]) -> None:
    state, result, _ = run(engine, commands, "plain", "answer")
    assert (state, [one["status"] for one in result["replies"]]) == ("failed", statuses)
    assert "not known" in result["error"]


B_ANEW = [replaced("./B/c", "5"), deleted("./B"), added("./B"), added("./B/c", "07")]
GONE_LATER = [replaced("./B/c", "5"), replaced("./A/x", "07"), deleted("./B")]


@pytest.mark.parametrize(
    ("commands", "mode", "statuses"),
    [
        # The device undid the second time of it, and says 215 and 216 of what stands since the first.
        ([replaced("./A/x", "7"), added("./A/z", "07"), replaced("./A/y", "8")], "atomic", [None] * 3),
        ([added("./A/z", "07"), added("./A/w", "1")], "atomic", [None] * 2),
        (GONE_LATER, "atomic", [None] * 3),  # 404: it was there the first time
        ([added("./A/z", "07"), replaced("./A/y", "08")], "sequence", [None] * 2),
        ([added("./A/z", "07"), replaced("./A/y", "8")], "sequence", [None, 200]),
        ([replaced("./A/x", "07"), added("./A/z", "07"), added("./A/w", "08")], "sequence", [200, None, None]),
        ([read("./B/c"), deleted("./B"), added("./B")], "sequence", [None] * 3),
    ],
)
def test_of_what_an_echo_kept_from_being_carried_out_again_nothing_is_known(
    engine: Engine, commands: Any, mode: str, statuses: list[int | None]
) -> None:
    state, result, _ = run(engine, commands, mode, "answer", OwnWay)
    assert (state, [one["status"] for one in result["replies"]]) == ("failed", statuses)
    assert "not known" in result["error"]


@pytest.mark.parametrize("lost", [None, "commands", "answer"])
def test_a_node_that_a_later_command_deleted_is_no_refusal(engine: Engine, lost: str | None) -> None:
    state, result, nodes = run(engine, B_ANEW, "plain", lost, OwnWay)
    assert state == "done", result
    assert nodes["./B/c"] == "7"


@pytest.mark.parametrize("lost", [None, "commands", "answer"])
def test_what_an_atomic_was_refused_for_is_told_after_a_loss(engine: Engine, lost: str | None) -> None:
    commands = [replaced("./A/x", "7"), replaced("./A/nowhere", "1"), added("./A/z", "1")]
    state, result, nodes = run(engine, commands, "atomic", lost)
    assert (state, [one["status"] for one in result["replies"]]) == ("failed", [216, 404, 215])
    assert nodes == NODES


def test_a_read_after_a_write_is_read_again(engine: Engine) -> None:
    state, result, _ = run(engine, [replaced("./A/x", "7"), read("./A/x")], "plain", "answer")
    assert state == "done"
    assert result["replies"][1]["values"] == {"./A/x": "7"}
