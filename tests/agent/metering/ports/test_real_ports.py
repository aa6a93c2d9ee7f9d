"""Real ports in real time: `dlms simulate` over TCP and behind the opening of mode E, and an adapter that is replugged.

What takes minutes is in `test_bus.py`, in virtual time.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.clock_trust import Evidence
from agent.metering.collector import Collector
from agent.metering.orders.journal import Journal
from agent.metering.orders.order_book import OrderBook
from agent.metering.ports.opening import bridge_to
from agent.metering.registry.registry import Registry
from agent.metering.scheduling.readinglist import ReadingLists
from agent.metering.store.reading_store import Store
from agent.settings.config import PortConfig, PortMeterConfig, ScanConfig
from plc.errors import PlcPortError
from plc.events import DataReceived
from plc.protocols import HDLC, WRAPPER
from tests.agent.metering.test_collector import LISTS, PASSWORD, REPO, metering, provisioning
from updateagent.disk import RealDisk

pytestmark = pytest.mark.process
LIMIT_S = 60.0
METERS = 3


CODES = ("--codes", str(LISTS / "residential-108.csv"), "--auth", "low", "--password", PASSWORD.decode())


class Simulated:
    """`dlms simulate` in a process of its own."""

    def __init__(self, serial: int, listen: str, *options: str) -> None:
        arguments = ["--listen", listen, "--serial", str(serial), *options, *CODES]
        command = [sys.executable, "-m", "dlms", "simulate", *arguments]
        self.process = subprocess.Popen(command, cwd=REPO, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def wait(self, is_there: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT_S
        while not is_there():
            assert time.monotonic() < end, "the simulator does not start"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


class NetworkMeter(Simulated):
    """On the COSEM wrapper."""

    def __init__(self, serial: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        super().__init__(serial, f"tcp://127.0.0.1:{self.port}", "--link", "wrapper")

    @property
    def url(self) -> str:
        return f"socket://127.0.0.1:{self.port}"

    def is_there(self) -> bool:
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def meters() -> Iterator[list[NetworkMeter]]:
    started = [NetworkMeter(serial) for serial in range(1, METERS + 1)]
    for meter in started:
        meter.wait(meter.is_there)
    yield started
    for meter in started:
        meter.end()


def lan(urls: list[str]) -> PortConfig:
    entries = tuple(PortMeterConfig(number, url, 115_200, "none") for number, url in enumerate(urls, 1))
    return PortConfig("lan", WRAPPER, "", 115_200, meters=entries, response_timeout_s=10.0)


class ThisMachine:
    """A source of time that vouches for the clock of whatever machine runs the tests."""

    name = "tests"

    def evidence(self, monotonic: float, wall: float) -> Evidence:
        return Evidence(self.name, monotonic, wall - monotonic, 0.0)


class Station:
    """The collector with one port."""

    def __init__(self, tmp_path: Path, port: PortConfig) -> None:
        clock = SystemClock([ThisMachine()])
        config = metering(tmp_path)
        self.store = Store(config.store_file, clock, records_max=10**6, keep_forwarded_max=0)
        self.health: list[tuple[bool, str]] = []
        registry = Registry(RealDisk(), config.registry_file, clock, leave_after_s=60.0)
        self.collector = Collector(
            [port],
            config,
            store=self.store,
            registry=registry,
            orders=OrderBook(Journal(RealDisk(), tmp_path / "orders"), clock, allowed=(), known=registry.names),
            lists=ReadingLists(config.reading_lists_dir, tmp_path / "software"),
            clock=clock,
            rng=random.Random(3),
            open_bridge=bridge_to,
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
    tmp_path: Path, meters: list[NetworkMeter]
) -> None:
    meters[1].end()
    station = Station(tmp_path, lan([meter.url for meter in meters]))
    station.collector.configure(provisioning())
    statuses = station.collector.meters
    station.run(until=lambda: len(station.read()) == 2 and any(meter.last_error for meter in statuses()))
    assert len(station.read()) == 2
    assert {meter.address: meter.state for meter in statuses()} == {1: "read", 2: "silent", 3: "read"}
    missing = next(meter for meter in statuses() if meter.address == 2)
    assert missing.last_error == "the meter cannot be connected: Connection refused"
    assert station.health[-1] == (True, "lan")
    station.close()


def test_a_port_all_of_whose_meters_never_answered_is_excused(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"socket://127.0.0.1:{free.getsockname()[1]}"
    station = Station(tmp_path, lan([url]))
    station.collector.configure(provisioning())
    station.run(until=lambda: any(meter.last_error for meter in station.collector.meters()))
    assert station.health[-1] == (True, "lan (no meter to prove it: open, nothing heard yet)")
    station.close()


def test_a_meter_behind_the_opening_of_mode_e_is_read(tmp_path: Path) -> None:
    device = tmp_path / "optical"
    meter = Simulated(7, f"pty:{device}", "--mode-e")
    meter.wait(device.exists)
    own = PortMeterConfig(1, "", 9600, "none", mode_e="")
    options = {"address_bytes": 1}
    bus = PortConfig("bus", HDLC, str(device), 9600, scan=ScanConfig(1, 1), meters=(own,), options=options)
    station = Station(tmp_path, bus)
    station.collector.configure(provisioning())
    station.run(until=lambda: bool(station.read()))
    assert [(meter.address, meter.state) for meter in station.collector.meters()] == [(1, "read")]
    assert len(station.read()) == 1
    assert station.health[-1] == (True, "bus")
    station.close()
    meter.end()


class Adapter:
    """A serial adapter that is plugged in: a terminal, and the name that stays the same."""

    def __init__(self, by_id: Path) -> None:
        self._by_id = by_id
        self.far_end, own = os.openpty()
        tty.setraw(own)
        by_id.symlink_to(os.ttyname(own))
        os.close(own)

    def unplug(self) -> None:
        self._by_id.unlink()
        os.close(self.far_end)


def test_a_path_by_id_survives_that_the_adapter_is_plugged_in_again(tmp_path: Path) -> None:
    by_id = tmp_path / "by-id"
    port = PortConfig("bus", HDLC, str(by_id), 9600, scan=ScanConfig(1, 1))
    adapter, spare = Adapter(by_id), os.openpty()
    bridge = bridge_to(port)
    assert port.where == f"{by_id}, now {by_id.resolve()}"
    adapter.unplug()
    with pytest.raises(PlcPortError):
        bridge.poll(0.0, LIMIT_S)
    bridge.close()
    with pytest.raises(PlcPortError, match="by-id"):
        bridge_to(port)
    adapter = Adapter(by_id)  # another terminal than before, as the spare one has taken that number
    bridge = bridge_to(port)
    channel = bridge.channel(1)
    channel.send(b"to", 0.0)
    bridge.poll(0.0, 0.0)
    assert os.read(adapter.far_end, 10) == b"to"
    os.write(adapter.far_end, b"from")
    bridge.poll(0.0, LIMIT_S)
    assert channel.next_event() == DataReceived(1, 0, 0, b"from")
    bridge.close()
    adapter.unplug()
    for descriptor in spare:
        os.close(descriptor)
