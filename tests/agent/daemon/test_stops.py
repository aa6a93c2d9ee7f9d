"""A stop reaches each worker of the daemon at once, in whatever moment of its round it comes."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.daemon.control import ControlServer
from agent.daemon.supervisor import Worker
from agent.dm.push import PushListener
from agent.metering.events.listener import CallIn
from agent.metering.orders.images import FetchError, ImageStore, WantedImage
from agent.metering.registry.entry import Meter
from agent.metering.scheduling.schedule import Backoff
from agent.metering.store.reading_store import Store
from agent.metering.uplink.sink import SinkError, SinkWorker
from agent.settings.config import ListenConfig, PortConfig, PortMeterConfig
from plc.protocols import HDLC, PRIME_USI, WRAPPER
from tests.agent.dm.server import FakeDmServer
from tests.agent.dm_device import Device
from tests.agent.metering.ports.test_real_ports import Adapter, Station
from tests.agent.metering.uplink.rig import Rig
from tests.agent.metering.uplink.test_sink import Listener
from tests.agent.virtual import VirtualClock
from updateagent.disk import RealDisk

pytestmark = pytest.mark.process
PROMPT_S = 5.0  # the shortest wait of any of them is twice as long


@dataclass
class Made:
    """One worker, and what is to be put away after it."""

    worker: Worker
    end: Callable[[], None] = lambda: None


def control(folder: Path) -> Made:
    return Made(ControlServer(folder / "control.sock", {}))


def push(_folder: Path) -> Made:
    return Made(PushListener(lambda _body: 202, host="127.0.0.1", port=0))


def uplink(folder: Path) -> Made:
    rig = Rig(folder)
    return Made(rig.uplink, rig.store.close)


def uplink_after_a_failure(folder: Path) -> Made:
    rig = Rig(folder)
    rig.headend.mood = [503] * 20
    for _ in range(10):
        rig.uplink.step()
    return Made(rig.uplink, rig.store.close)


def sink(folder: Path) -> Made:
    clock = VirtualClock()
    store = Store(folder / "readings.db", clock, records_max=100, keep_forwarded_max=0)
    return Made(SinkWorker(store, Listener(), clock, backoff=Backoff(60, 60), rng=random.Random(1)), store.close)


class Broken(Listener):
    def tend(self) -> None:
        raise SinkError("the broker is away")


def sink_after_a_failure(folder: Path) -> Made:
    clock = VirtualClock()
    store = Store(folder / "readings.db", clock, records_max=100, keep_forwarded_max=0)
    return Made(SinkWorker(store, Broken(), clock, backoff=Backoff(60, 60), rng=random.Random(1)), store.close)


def dm(_folder: Path) -> Made:
    return Made(Device(FakeDmServer()).service)


def packages(_folder: Path) -> Made:
    return Made(Device(FakeDmServer()).packages)


def serial_port(folder: Path) -> Made:
    adapter = Adapter(folder / "by-id")
    station = Station(folder, PortConfig("plc", PRIME_USI, str(folder / "by-id"), 115_200))
    reader = station.collector.workers[0]
    reader.step()  # it is open now, and waits for bytes

    def end() -> None:
        station.store.close()
        adapter.unplug()

    return Made(reader, end)


def port_that_does_not_open(folder: Path) -> Made:
    station = Station(folder, PortConfig("bus", HDLC, str(folder / "nothing"), 9600))
    for _ in range(3):
        station.collector.workers[0].step()
    return Made(station.collector.workers[0], station.store.close)


def network_port(folder: Path) -> Made:
    entry = PortMeterConfig(1, "socket://127.0.0.1:9", 115_200, "none")
    station = Station(folder, PortConfig("lan", WRAPPER, "", 115_200, meters=(entry,)))
    station.collector.workers[0].step()
    return Made(station.collector.workers[0], station.store.close)


def images(folder: Path) -> Made:
    def fetch(*_: object, **__: object) -> tuple[int, str]:
        raise FetchError("no head-end")

    return Made(ImageStore(RealDisk(), folder, fetch, VirtualClock()))


def images_after_a_failure(folder: Path) -> Made:
    made = images(folder)
    assert isinstance(made.worker, ImageStore)
    made.worker.want([WantedImage("0" * 64, 1, "https://127.0.0.1:9/")])
    made.worker.step(threading.Event(), lambda: None)
    return made


class NobodysDesk:
    def called(self, where: str, apdu: bytes, meter: Meter | None) -> bytes:
        raise NotImplementedError


def calls_of_meters(_folder: Path) -> Made:
    return Made(CallIn(ListenConfig("127.0.0.1", 0, udp=True), NobodysDesk(), VirtualClock(), lambda _host: None))


WORKERS = [
    calls_of_meters,
    images,
    images_after_a_failure,
    control,
    push,
    uplink,
    uplink_after_a_failure,
    sink,
    sink_after_a_failure,
    dm,
    packages,
    serial_port,
    port_that_does_not_open,
    network_port,
]


@pytest.fixture(params=WORKERS, ids=lambda make: make.__name__)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Made]:
    one: Made = request.param(tmp_path)
    yield one
    one.end()


class StopAfterLook(threading.Event):
    """Is set, and the worker woken, right after the look at it with this number: whatever is cleared or waited for
    then comes later."""

    def __init__(self, worker: Worker, number: int) -> None:
        super().__init__()
        self._worker = worker
        self._number = number
        self.looks = 0

    def is_set(self) -> bool:
        found = super().is_set()
        self.looks += 1
        if self.looks == self._number:
            self.set()
            self._worker.wake()
        return found


def test_a_stop_before_the_first_round(made: Made) -> None:
    stop = threading.Event()
    stop.set()
    made.worker.wake()
    thread = threading.Thread(target=made.worker.run, args=(stop, lambda: None), daemon=True)
    thread.start()
    thread.join(PROMPT_S)
    assert not thread.is_alive()


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_stop_right_after_a_look_at_it(made: Made, number: int) -> None:
    stop = StopAfterLook(made.worker, number)
    thread = threading.Thread(target=made.worker.run, args=(stop, lambda: None), daemon=True)
    thread.start()
    while stop.looks < number:  # it waits: on to the next look
        made.worker.wake()
        thread.join(0.01)
    thread.join(PROMPT_S)
    assert not thread.is_alive()


def test_a_stop_during_the_wait(made: Made) -> None:
    stop, running = threading.Event(), threading.Event()
    thread = threading.Thread(target=made.worker.run, args=(stop, running.set), daemon=True)
    thread.start()
    assert running.wait(PROMPT_S)
    stop.set()
    made.worker.wake()
    thread.join(PROMPT_S)
    assert not thread.is_alive()


def test_the_push_listener_says_its_port_also_while_it_ends() -> None:
    listener = PushListener(lambda _body: 202, host="127.0.0.1", port=0)
    port, stop = listener.port, threading.Event()
    stop.set()
    listener.run(stop, lambda: None)
    assert listener.port == port
    with socket.socket() as caller:
        assert caller.connect_ex(("127.0.0.1", port)) != 0
