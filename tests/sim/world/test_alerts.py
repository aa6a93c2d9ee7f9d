"""Real processes, killed between an order and its report: 120 runs in `make alerts`, two of each phase here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from omadm.codes import AlertCode
from omadm.syncml.messages import Add, Alert, Atomic, Item, Status, SyncHdr, SyncML
from tests.sim.world import alerts
from tests.sim.world.alerts import Told

RUNS = 2 * len(alerts.PHASES)
HEADER = SyncHdr("1", 1, target="t", source="s")


@pytest.mark.process
@pytest.mark.timeout(900)
def test_each_update_is_told_once_with_its_correlator_whatever_is_killed(tmp_path: Path) -> None:
    found = alerts.run(RUNS, 7, tmp_path)
    assert found.wrong == []
    assert found.runs == RUNS
    assert set(found.kills) >= {"atomic", "chunk", "download", "report"}


# ---- the judge


def done(kind: str, code: int | None = None) -> dict[str, Any]:
    return {"kind": kind, "state": "done", "result": {} if code is None else {"result_code": code}}


JOBS = [done("provision"), done("provision"), done("firmware", 200)]
GOOD = Told("c", ("source type 200",), 200)


def judged(*told: Told, kept: int = 1, phase: str = "atomic", jobs: list[dict[str, Any]] = JOBS) -> list[str]:
    return alerts.judged(jobs, "c", told, kept, phase)[0]


def test_one_acknowledged_alert_is_right() -> None:
    assert judged(GOOD) == []


def test_an_alert_whose_acknowledgement_was_cut_off_may_come_once_more() -> None:
    cut = Told("c", GOOD.content, None)
    for first in (cut, GOOD):
        assert judged(first, GOOD, phase="report") == []
        assert judged(first, GOOD, phase="download") == ["the final alert came 2 times"]
    refused = Told("c", GOOD.content, 401)
    assert judged(cut, refused, GOOD, phase="report") == []
    assert judged(refused, refused) != []
    assert judged(cut, cut, GOOD, phase="report") == ["the final alert came 3 times"]
    assert alerts.judged(JOBS, "c", (GOOD, GOOD), 1, "report")[1] == 1


@pytest.mark.parametrize(
    ("told", "kept", "jobs", "said"),
    [
        ((), 0, JOBS, "0 different final alerts"),
        ((GOOD, Told("other", GOOD.content, 200)), 1, JOBS, "another Correlator, other"),
        ((Told("c", GOOD.content, 500),), 1, JOBS, "statuses [500]"),
        ((Told("c", GOOD.content, None),), 1, JOBS, "statuses [None]"),
        ((GOOD,), 2, JOBS, "counts 2"),
        ((GOOD,), 1, [*JOBS[:2], done("firmware", 410)], "the result is 410"),
        ((GOOD,), 1, [{"kind": "provision", "state": "failed", "result": None}, *JOBS[1:]], "is failed"),
    ],
)
def test_what_is_not_right_is_found_out(
    told: tuple[Told, ...], kept: int, jobs: list[dict[str, Any]], said: str
) -> None:
    assert said in "; ".join(judged(*told, kept=kept, jobs=jobs))


def test_two_alerts_that_differ_are_found_out() -> None:
    assert "2 different final alerts" in judged(GOOD, Told("c", ("source type 410",), 200), phase="report")


def test_the_wire_is_read() -> None:
    alert = Alert("3", AlertCode.GENERIC, (Item(source="./FUMO", data="200"),), correlator="c")
    asked = SyncML(HEADER, (Alert("2", AlertCode.GENERIC, (Item(data="no order's"),)), alert))
    status = Status("2", "1", "3", "Alert", 200)
    said = SyncML(HEADER, (status, Atomic("4", (Add("5", (Item(target="./A", data="x", more_data=True),)),))))
    assert [(told.correlator, told.status) for told in alerts.alerts_of(asked, said)] == [("c", 200)]
    assert [told.status for told in alerts.alerts_of(asked, None)] == [None]
    assert list(alerts.phases_of(asked, said)) == ["atomic", "report"]
    chunk = SyncML(HEADER, (Add("5", (Item(target="./A", data="x", more_data=True),)),))
    assert list(alerts.phases_of(SyncML(HEADER, ()), chunk)) == ["chunk"]
