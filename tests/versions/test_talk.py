"""Devices of each release with head-ends of each: they register, hold sessions, and deliver, by the releases' code."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.https import Response
from omadm.readings import GapReport, Reading
from tests.agent.metering.readings import event, visit
from tests.agent.metering.uplink.rig import Headend, Rig
from tests.versions.releases import RELEASES, TODAY, End, unpacked

pytestmark = pytest.mark.process

NODES = [
    {"path": "./SCHED/Task/load/Setting/Every", "value": 900},
    {"path": "./SCHED/Task/load/Setting/ReadingList", "value": "residential-108"},
]
DEVICE = "urn:dcu:KR-000042"
PAIRS = [pair for pair in itertools.product((*RELEASES, TODAY), repeat=2) if TODAY in pair]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return unpacked(tmp_path_factory.mktemp("programs"))


class Both:
    """A device and a head-end, and the line between them."""

    def __init__(self, device: End, headend: End) -> None:
        self.device, self.headend = device, headend
        self.posts: list[str] = []

    def device_does(self, what: str, **more: Any) -> Any:
        said = self.device.ask(do=what, **more)
        while "post" in said:
            post = said["post"]
            self.posts.append(post["url"])
            to = "ssmp" if post["url"].endswith("/ssmp") else "dm_post"
            answer = self.headend.ask(do=to, body=post["body"], headers=post["headers"])
            said = self.device.ask(**answer)
        return said["done"]

    def job(self, kind: str, params: Any) -> int:
        return int(self.headend.ask(do="job", kind=kind, params=params))


@pytest.fixture
def both(programs: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Both]:
    device, headend = request.param
    with (
        End(programs[device], "device", tmp_path / "device") as one,
        End(programs[headend], "headend", tmp_path / "headend") as other,
    ):
        yield Both(one, other)


@pytest.mark.parametrize("both", PAIRS, indirect=True, ids=[f"device {a}, head-end {b}" for a, b in PAIRS])
def test_a_device_of_one_version_and_a_head_end_of_another_work_together(both: Both) -> None:
    both.device_does("step")
    assert both.headend.ask(do="registered") == [1, "DCU-1", "https://dcu.example:8450/push"]
    both.device_does("session")

    provision = both.job("provision", {"nodes": NODES})
    assert both.device_does("session")["tasks"] == ["load"]
    assert both.headend.ask(do="show", job=provision)["state"] == "done"

    get = both.job("get", {"paths": ["./DevInfo/Man", "./SCHED"]})
    refused = both.job("get", {"paths": ["./Nowhere"]})
    note = both.headend.ask(do="notification")
    assert note["url"] == "https://dcu.example:8450/push"
    assert both.device_does("notified", body=note["body"]) == 202
    assert both.device_does("notified", body=note["body"]) == 403  # the same once more
    both.device_does("step")
    assert both.headend.ask(do="show", job=get)["state"] == "done"
    answer = both.headend.ask(do="show", job=refused)
    assert (answer["state"], answer["result"]["refused"]) == ("failed", {"./Nowhere": 404})
    kept = both.headend.ask(do="values")
    assert (kept["./DevInfo/Man"], kept["./SCHED/Task/load/Setting/Every"]) == ("Example Metering", "900")


# What a head-end of today can ask for, and a device of before does not have.
NEWER_JOBS = {
    "device": {"operation": "reboot"},
    "log": {"level": "warning"},
    "connectivity": {"time_servers": "ntp.example", "within_s": 600},
    "order": {"order": "ping", "meters": ["KEP0000001"]},
    "tasks": {"tasks": {"monthly": {"times": "0 6 1 * *", "reading_list": "residential-108"}}},
}


@pytest.mark.parametrize("both", [(old, TODAY) for old in RELEASES], indirect=True, ids=RELEASES)
def test_an_older_device_says_what_it_does_not_have_and_the_job_says_so(both: Both) -> None:
    both.device_does("step")
    jobs = {kind: both.job(kind, params) for kind, params in NEWER_JOBS.items()}
    after = both.job("get", {"paths": ["./DevInfo/Man"]})
    for _ in range(3):
        state = both.device_does("session")
    for kind, job in jobs.items():
        shown = both.headend.ask(do="show", job=job)
        assert shown["state"] == "failed", kind
        said = shown["result"].get("refused", {"": shown["result"].get("status")})
        assert set(said.values()) <= {404, 405, 215}, (kind, shown)
        assert {404, 405} & set(said.values()), (kind, shown)
    assert both.headend.ask(do="show", job=after)["state"] == "done"
    assert state["tasks"] == []


class Released(Headend):
    """The metering server of a release, in a process of its own."""

    def __init__(self, end: End) -> None:
        super().__init__()
        self.end = end

    def judge(self, document: dict[str, object]) -> Response:
        body = json.dumps({**document, "device": DEVICE}).encode()
        answer = self.end.ask(do="readings", body=body.hex())
        headers = {name.lower(): value for name, value in answer["headers"].items()}
        return Response(answer["status"], headers, bytes.fromhex(answer["body"]))


def gap(first: int) -> GapReport:
    return GapReport("open", "m", "load", None, first, first + 900, 900, "silent", None, 5.0)


def cells(first: int) -> list[Reading]:
    """One of each kind of value, no two of one slot."""
    plain = visit(first, 6)
    forms: list[dict[str, Any]] = [
        {"tag": "f64", "raw": 0.1},
        {"tag": "struct", "raw": [["u8", 1], ["oct", "ab"]], "scaler": None, "unit": None},
        {"tag": "null", "raw": None, "error": "access-denied"},
        {"cls": 7, "profile": "1.0.99.1.0.255", "meter_time": "2026-01-01T00:15:00Z"},
        {"cls": 7, "profile": "1.0.99.1.0.255", "doubt": "clock was set", "reread": "a1b2c3d4"},
        {"tag": "oct", "raw": "00ff", "scaler": None, "unit": None},
    ]
    return [
        replace(one, obis=f"1.0.{first % 200}.8.{n}.255", **form)
        for n, (one, form) in enumerate(zip(plain, forms, strict=True))
    ]


@pytest.mark.parametrize("release", RELEASES)
def test_what_an_older_head_end_does_not_know_is_delivered_to_its_next_version(
    programs: dict[str, Path], tmp_path: Path, release: str
) -> None:
    """Readings arrive at once; gaps and events wait, over an update of the head-end's database."""
    rig = Rig(tmp_path / "device")
    with End(programs[release], "headend", tmp_path / "headend") as older:
        rig.headend = Released(older)
        rig.start()
        for number in range(5):
            rig.store.append([*cells(6 * number), gap(9000 * number)], urgent=[event(f"e{number}")])
            rig.run(5)
        rig.run(600)
        assert len(older.ask(do="kept")["readings"]) == 30
        assert rig.store.stats().pending == 0
    with End(programs[TODAY], "headend", tmp_path / "headend") as newer:
        rig.headend = Released(newer)
        rig.start()
        rig.store.append(visit(400, 1))
        rig.run(600)
        kept = newer.ask(do="kept")
    assert len(kept["readings"]) == 31
    assert len(kept["gaps"]) == 5  # and closed: this store has no ledger that lists them
    assert kept["events"] == [f"e{number}" for number in range(5)]
    assert (rig.store.refused(10), rig.store.stats().pending) == ([], 0)
