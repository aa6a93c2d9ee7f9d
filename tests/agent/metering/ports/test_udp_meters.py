"""Meters with the COSEM wrapper over UDP on ::1: read through losses, duplicates, strangers and a meter that is away.

This is how meters of a G3-PLC network are reached through a coordinator that gives its host an IPv6 interface. The
sockets are real; no G3 hardware stands behind them.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.settings.config import PortConfig, PortMeterConfig
from dlms.link.datalink import ApduReceived
from dlms.link.wrapper import WrapperServerLink
from plc.connections import MeterConnections
from plc.endpoint import Endpoint
from plc.errors import PlcLocalError
from plc.events import DataFailed, DataReceived, FailReason
from plc.protocols import WRAPPER_UDP
from tests.agent.metering.ports.test_real_ports import Station
from tests.agent.metering.test_collector import PASSWORD, ROWS, provisioning
from tests.sim.meters import SimMeter

pytestmark = pytest.mark.process
LIMIT_S = 10.0


class UdpMeter:
    """A simulated meter behind a socket. Of what it receives and sends, shares are lost or come twice."""

    def __init__(self, serial: int, *, lost: float = 0.0, doubled: float = 0.0, host: str = "::1") -> None:
        self.meter = SimMeter(serial, ROWS, 3, PASSWORD)
        self._pick = random.Random(serial)
        self._lost, self._doubled = lost, doubled
        self.socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.socket.settimeout(0.05)
        self.received = self.swallowed = self.longest = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"udp://[::1]:{self.socket.getsockname()[1]}"

    @property
    def place(self) -> Endpoint:
        return Endpoint("::1", self.socket.getsockname()[1], datagrams=True)

    def _serve(self) -> None:
        link = WrapperServerLink(1, packet=True)
        link.connect(0.0)
        while not self._stop.is_set():
            try:
                datagram, peer = self.socket.recvfrom(65_536)
            except TimeoutError:
                continue
            self.received += 1
            if self._pick.random() < self._lost:
                self.swallowed += 1
                continue
            link.receive(datagram, 0.0)
            while (event := link.next_event()) is not None:
                if isinstance(event, ApduReceived):
                    for apdu in self.meter.receive_apdu(link.client or 0, event.apdu, time.monotonic()):
                        link.send(apdu, 0.0)
            while answer := link.take_output():
                self.longest = max(self.longest, len(answer))
                copies = (self._pick.random() >= self._lost) + (self._pick.random() < self._doubled)
                self.swallowed += not copies
                for _ in range(copies):
                    self.socket.sendto(answer, peer)

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        self.socket.close()


@pytest.fixture
def ends() -> Iterator[list[UdpMeter]]:
    started: list[UdpMeter] = []
    yield started
    for meter in started:
        meter.end()


def g3(urls: list[str]) -> PortConfig:
    entries = tuple(PortMeterConfig(number, url, 115_200, "none") for number, url in enumerate(urls, 1))
    return PortConfig("g3", WRAPPER_UDP, "", 115_200, meters=entries, response_timeout_s=5.0)


def test_meters_are_read_though_datagrams_are_lost_and_come_twice(tmp_path: Path, ends: list[UdpMeter]) -> None:
    ends += [UdpMeter(1, lost=0.1, doubled=0.2), UdpMeter(2), UdpMeter(3, doubled=1.0)]
    station = Station(tmp_path, g3([meter.url for meter in ends]))
    station.collector.configure(provisioning())
    station.run(until=lambda: len(station.read()) == 3)
    batch = station.store.batch(10**6)
    station.close()
    assert batch is not None
    for meter in ends:
        mine = [record for record in batch.records if record["meter"] == meter.meter.id and "event" not in record]
        assert len(mine) == len(ROWS), "every value, and none twice"
        assert meter.longest <= 1224 + 8, "an answer fits one packet of the least MTU"
    assert ends[0].swallowed, "the line was as bad as it was meant to be"


def test_a_place_where_nobody_listens_fails_alone(tmp_path: Path, ends: list[UdpMeter]) -> None:
    ends.append(UdpMeter(1))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as free:
        free.bind(("::1", 0))
        nobody = f"udp://[::1]:{free.getsockname()[1]}"
    station = Station(tmp_path, g3([nobody, ends[0].url]))
    station.collector.configure(provisioning())
    station.run(until=lambda: len(station.read()) == 1 and any(it.last_error for it in station.collector.meters()))
    states = {meter.address: meter.state for meter in station.collector.meters()}
    station.close()
    assert states == {1: "silent", 2: "read"}


def test_a_stranger_who_knows_our_port_is_not_heard(ends: list[UdpMeter]) -> None:
    ends.append(UdpMeter(1))
    port = MeterConnections({1: ends[0].place}.get, WRAPPER_UDP.make_core)
    channel = port.channel(1)
    channel.send(b"a question", time.monotonic())
    with socket.socket(fileno=os.dup(channel.fileno())) as ours:
        mine = ours.getsockname()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"\x00\x01\x00\x01\x00\x10\x00\x01!", mine[:2])
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            port.poll(time.monotonic(), 0.05)
            assert channel.next_event() is None
    ends[0].socket.sendto(b"from the meter", mine[:2])
    end = time.monotonic() + LIMIT_S
    while (event := channel.next_event()) is None and time.monotonic() < end:
        port.poll(time.monotonic(), 0.05)
    assert isinstance(event, DataReceived)
    assert event.lsdu == b"from the meter"
    port.close()


def test_each_datagram_stays_one_and_their_number_is_bounded(ends: list[UdpMeter]) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as meter:
        meter.bind(("::1", 0))
        meter.settimeout(LIMIT_S)
        place = Endpoint("::1", meter.getsockname()[1], datagrams=True)
        port = MeterConnections({1: place}.get, WRAPPER_UDP.make_core)
        channel = port.channel(1)
        sent = 0
        with pytest.raises(PlcLocalError):
            while True:
                channel.send(bytes((sent,)) * 20, time.monotonic())
                sent += 1
        for _ in range(sent + 1):
            port.poll(time.monotonic(), 0.01)
        assert [meter.recv(100) for _ in range(sent)] == [bytes((number,)) * 20 for number in range(sent)]
        port.close()


def test_an_interface_that_is_not_there_is_said(ends: list[UdpMeter]) -> None:
    place = Endpoint("fe80::781d:ff:fe00:1%nosuchif0", 4059, datagrams=True)
    port = MeterConnections({1: place}.get, WRAPPER_UDP.make_core)
    channel = port.channel(1)
    event = channel.next_event()
    assert isinstance(event, DataFailed)
    assert event.reason is FailReason.NO_CONNECTION
    port.close()
