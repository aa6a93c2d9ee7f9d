"""Meters on the COSEM wrapper over TCP, read by the collector end to end from `dlms simulate`, in real time."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.metering.collector import Collector
from agent.metering.ports.opening import open_configured
from agent.metering.registry import Registry
from agent.metering.scheduling.readinglist import ReadingLists
from agent.metering.store.reading_store import Store
from agent.settings.config import PortConfig, PortMeterConfig
from plc.protocols import WRAPPER
from tests.agent.metering.test_collector import LISTS, PASSWORD, REPO, metering, provisioning
from updateagent.disk import RealDisk

pytestmark = pytest.mark.process
LIMIT_S = 60.0
METERS = 3


class Simulated:
    """`dlms simulate --link wrapper` in a process of its own."""

    def __init__(self, serial: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = ["--link", "wrapper", "--listen", f"tcp://127.0.0.1:{self.port}", "--serial", str(serial)]
        codes = ["--codes", str(LISTS / "residential-108.csv"), "--auth", "low", "--password", PASSWORD.decode()]
        command = [sys.executable, "-m", "dlms", "simulate", *options, *codes]
        self.process = subprocess.Popen(command, cwd=REPO, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    @property
    def url(self) -> str:
        return f"socket://127.0.0.1:{self.port}"

    def wait(self) -> None:
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            with socket.socket() as caller:
                if caller.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
        raise AssertionError("the simulator does not start")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def meters() -> Iterator[list[Simulated]]:
    started = [Simulated(serial) for serial in range(1, METERS + 1)]
    for meter in started:
        meter.wait()
    yield started
    for meter in started:
        meter.end()


class Station:
    """The collector with one port of protocol `wrapper`."""

    def __init__(self, tmp_path: Path, urls: list[str]) -> None:
        clock = SystemClock()
        config = metering(tmp_path)
        entries = tuple(PortMeterConfig(number, url, 115_200, "none") for number, url in enumerate(urls, 1))
        port = PortConfig("lan", WRAPPER, "", 115_200, meters=entries, response_timeout_s=10.0)
        self.store = Store(config.store_file, clock, records_max=10**6, keep_forwarded_max=0)
        self.health: list[tuple[bool, str]] = []
        self.collector = Collector(
            [port],
            config,
            store=self.store,
            registry=Registry(RealDisk(), config.registry_file, clock, leave_after_s=60.0),
            lists=ReadingLists(config.reading_lists_dir, tmp_path / "software"),
            clock=clock,
            rng=random.Random(3),
            open_bridge=open_configured,
            health=lambda ok, detail: self.health.append((ok, detail)),
        )

    def run(self, until: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT_S
        while not until() and time.monotonic() < end:
            self.collector.workers[0].step()

    def read(self) -> set[object]:
        batch = self.store.batch(10**6)
        return {record["meter"] for record in batch.records} if batch else set()

    def close(self) -> None:
        self.collector.workers[0].close()
        self.store.close()


def test_meters_with_an_address_each_are_read_and_a_missing_one_fails_alone(
    tmp_path: Path, meters: list[Simulated]
) -> None:
    meters[1].end()
    station = Station(tmp_path, [meter.url for meter in meters])
    station.collector.configure(provisioning())
    statuses = station.collector.meters
    station.run(until=lambda: len(station.read()) == 2 and any(meter.last_error for meter in statuses()))
    assert len(station.read()) == 2
    assert {meter.address: meter.state for meter in statuses()} == {1: "read", 2: "failing", 3: "read"}
    missing = next(meter for meter in statuses() if meter.address == 2)
    assert missing.last_error == "the meter cannot be connected: Connection refused"
    assert station.health[-1] == (True, "lan")
    station.close()


def test_a_port_all_of_whose_meters_never_answered_is_excused(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"socket://127.0.0.1:{free.getsockname()[1]}"
    station = Station(tmp_path, [url])
    station.collector.configure(provisioning())
    station.run(until=lambda: any(meter.last_error for meter in station.collector.meters()))
    assert station.health[-1] == (True, "lan (no meter to prove it: open, nothing heard yet)")
    station.close()
