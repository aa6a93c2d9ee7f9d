"""The job `log`: a span of a device's log."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, select

from headend.dm import tables
from headend.dm.jobs.log import DATA, NODE
from headend.dm.jobs.params import JobError
from tests.headend.dm.bench import connected, enqueue, job


def nodes() -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(("./DiagMon", NODE, f"{NODE}/Operations", f"{NODE}/Status"))
    found |= {f"{NODE}/{leaf}": "" for leaf in ("From", "To", "Level", "Operations/Collect")}
    return found | {f"{NODE}/Status/Lines": "2", f"{NODE}/Status/Shortened": "false", DATA: "one\ntwo"}


def test_the_span_is_set_and_what_was_collected_is_kept(engine: Engine) -> None:
    device = connected(engine, nodes())
    number = enqueue(engine, "log", since=5, level="error")
    device.session()
    with engine.begin() as conn:
        kept = conn.scalar(select(tables.values.c.value).where(tables.values.c.uri == DATA))
    found = job(engine, number)
    assert (found["state"], found["result"]) == ("done", {"node": DATA, "lines": "2", "shortened": "false"})
    assert kept == "one\ntwo"
    set_to = [device.tree.nodes[f"{NODE}/{leaf}"] for leaf in ("From", "To", "Level")]
    assert set_to == ["5", "0", "error"]


def test_a_device_that_cannot_collect_fails_the_job(engine: Engine) -> None:
    device = connected(engine, nodes())
    device.tree.exec_status = 500
    number = enqueue(engine, "log")
    device.session()
    found = job(engine, number)
    assert (found["state"], found["result"]["refused"]) == ("failed", {f"{NODE}/Operations/Collect": 500})


@pytest.mark.parametrize("params", [{"since": -1}, {"until": True}, {"level": "loud"}, {"since": 2, "until": 1}])
def test_a_span_that_makes_no_sense_is_refused(engine: Engine, params: dict[str, Any]) -> None:
    connected(engine, nodes())
    with pytest.raises(JobError):
        enqueue(engine, "log", **params)
