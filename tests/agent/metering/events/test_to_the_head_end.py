"""From a push on a line to a row of the head-end's database: once, whatever is killed and lost on the way."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from sqlalchemy import Engine

from agent.https import HttpsError, Response
from agent.metering.scheduling.schedule import Backoff
from agent.metering.uplink.replay import ReplayLimits
from agent.metering.uplink.worker import Uplink
from agent.settings.provisioning import UplinkSettings
from headend.metering import events, readings
from omadm.readings import parse
from tests.agent.metering.events.test_pushes_on_lines import CLOCK, cover_opened, joined, ui
from tests.agent.metering.test_collector import BusRig, PlcRig, Rig, provisioning
from tests.headend.database import empty_database
from tests.sim.plc_network import FIRST_ADDRESS

DEVICE = "urn:dcu:1"
SETTINGS = UplinkSettings("https://head.example/v1/readings", "token", 50)


class RealHeadend:
    """The head-end's own parser and database. `lost`: so many answers do not arrive."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.lost = 0
        self.batches: list[list[str]] = []

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        assert (method, url) == ("POST", SETTINGS.url)
        assert body is not None
        assert headers is not None
        plain = gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body
        batch = parse(plain)
        readings.store(self.engine, batch, 1_800_000_100.0)
        self.batches.append(["event"] * len(batch.events) + ["reading"] * len(batch.records))
        if self.lost:
            self.lost -= 1
            raise HttpsError("the connection was lost before the answer")
        return Response(200, {}, json.dumps({"acknowledged": batch.last}).encode())


@pytest.fixture
def headend(tmp_path: Path) -> RealHeadend:
    engine = empty_database(tmp_path / "headend.db")
    return RealHeadend(engine)


def uplink(rig: Rig, headend: RealHeadend) -> Uplink:
    made = Uplink(
        rig.store,
        headend,
        rig.clock,
        device_id=DEVICE,
        backoff=Backoff(2.0, 60.0),
        rng=random.Random(5),
        replay=ReplayLimits(60_000, 0),
    )
    made.configure(SETTINGS)
    return made


def deliver(rig: Rig, worker: Uplink, seconds: float = 30) -> None:
    end = rig.clock.now + seconds
    while rig.clock.now < end:
        rig.clock.advance(min(max(worker.step(), 0.001), 1.0))


def push(rig: Rig, invoke: int) -> None:
    """The same message on whatever line there is."""
    apdu = cover_opened(invoke, time=CLOCK)
    if isinstance(rig, PlcRig):
        rig.network.push(FIRST_ADDRESS, apdu, rig.clock.now)
    elif isinstance(rig, BusRig):
        rig.network.push(ui(17, apdu))


@pytest.mark.parametrize("kind", [PlcRig, BusRig])
def test_a_push_is_one_event_at_the_head_end_through_a_kill_and_lost_answers(
    tmp_path: Path, headend: RealHeadend, kind: type[PlcRig | BusRig]
) -> None:
    rig: Rig = joined(PlcRig(tmp_path, 1)) if kind is PlcRig else BusRig(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(40)  # a backlog of readings stands in front
    worker = uplink(rig, headend)
    headend.lost = 2
    push(rig, 7)
    rig.run(1)
    deliver(rig, worker, 1)  # stored there, and the answer is lost
    rig.restart()
    rig.collector.configure(provisioning())
    worker = uplink(rig, headend)
    rig.run(5)
    push(rig, 7)  # the meter, too, has heard nothing
    push(rig, 8)
    rig.run(5)
    deliver(rig, worker, 120)
    found = events.listing(headend.engine, event="push")
    assert sorted(row["invoke"] for row in found) == [7, 8]
    assert {row["meter"] for row in found} == {rig.meters[0].id}  # type: ignore[attr-defined]
    assert set(headend.batches[0]) == {"event"}, "ahead of the readings"
    assert rig.store.stats().pending == 0
    with headend.engine.begin() as connection:
        assert events.open_alarms(connection) >= 2
