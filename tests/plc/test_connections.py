"""Connections to meters, over real sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator

import pytest

from plc.connections import CONNECT_TIMEOUT_S, Connection, MeterConnections
from plc.errors import PlcLocalError
from plc.events import DataFailed, DataReceived, FailReason
from plc.protocols import WRAPPER
from plc.transparent import WRITE_BYTES_MAX

pytestmark = pytest.mark.process
LIMIT_S = 10.0


class Clock:
    """Real time, and as much more as a test adds."""

    def __init__(self) -> None:
        self.added_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.added_s


class World:
    """Three meters that listen, and the port that knows them; number 9 is a place where nobody listens."""

    def __init__(self) -> None:
        self.listeners = {address: socket.create_server(("127.0.0.1", 0)) for address in (1, 2, 3)}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            nobody = free.getsockname()[1]
        urls = {address: f"socket://127.0.0.1:{it.getsockname()[1]}" for address, it in self.listeners.items()}
        self.clock = Clock()
        urls[9] = f"socket://127.0.0.1:{nobody}"
        places = {address: WRAPPER.find_endpoint(address, url, {}) for address, url in urls.items()}
        self.port = MeterConnections(places.get, WRAPPER.make_core, self.clock)

    def answer(self, address: int) -> socket.socket:
        self.listeners[address].settimeout(LIMIT_S)
        connected, _ = self.listeners[address].accept()
        connected.settimeout(LIMIT_S)
        return connected

    def event(self, channel: Connection) -> object:
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            self.port.poll(self.clock(), 0.05)
            if (event := channel.next_event()) is not None:
                return event
        raise AssertionError("nothing happens")


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.port.close()
    for listener in made.listeners.values():
        listener.close()


def test_several_meters_are_talked_to_at_a_time(world: World) -> None:
    channels = {address: world.port.channel(address) for address in (1, 2, 3)}
    for address, channel in channels.items():
        channel.send(b"to %d" % address, world.clock())
    world.port.poll(world.clock(), 1.0)
    meters = {address: world.answer(address) for address in (1, 2, 3)}
    while any(channel.wants_to_write for channel in channels.values()):
        world.port.poll(world.clock(), 0.05)
    for address, meter in meters.items():
        assert meter.recv(100) == b"to %d" % address
        meter.sendall(b"from %d" % address)
    for address, channel in channels.items():
        assert world.event(channel) == DataReceived(address, 0, 0, b"from %d" % address)
    assert world.port.octets_heard == 3 * len("from 1")
    for address, channel in channels.items():
        channel.close()
        assert meters[address].recv(100) == b""  # the meter is free for the next one
        meters[address].close()


def test_a_meter_that_is_not_there_fails_alone(world: World) -> None:
    gone, there = world.port.channel(9), world.port.channel(1)
    gone.send(b"x", world.clock())
    event = world.event(gone)
    assert isinstance(event, DataFailed)
    assert event.reason is FailReason.NO_CONNECTION
    assert event.why == "the meter cannot be connected: Connection refused"
    there.send(b"x", world.clock())
    world.port.poll(world.clock(), 1.0)
    with world.answer(1) as meter:
        meter.sendall(b"y")
        assert world.event(there) == DataReceived(1, 0, 0, b"y")


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_connection_that_ends_is_said_of_its_meter(world: World, how: str) -> None:
    channel = world.port.channel(1)
    world.port.poll(world.clock(), 1.0)
    assert channel.connected
    with world.answer(1) as meter:
        if how == "reset":
            meter.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    event = world.event(channel)
    assert isinstance(event, DataFailed)
    assert event.reason is FailReason.CONNECTION_LOST
    assert ("closed by the meter" if how == "closed" else "reset") in event.why
    with pytest.raises(PlcLocalError):
        channel.send(b"x", world.clock())


def test_an_attempt_that_is_not_decided_ends_in_time(world: World) -> None:
    channel = world.port.channel(1)
    world.clock.added_s = CONNECT_TIMEOUT_S + 1
    channel.connected = False
    deaf = socket.socket()  # neither connected nor refused
    channel._socket, taken = deaf, channel._socket
    with contextlib.closing(deaf):
        channel.connect_by = world.clock() - 1
        world.port._open[1].connect_by = channel.connect_by
        channel.write = lambda: None  # type: ignore[method-assign]
        event = world.event(channel)
    assert taken is not None
    taken.close()
    assert isinstance(event, DataFailed)
    assert event.why == "the meter cannot be connected: no answer in 10 s"


def test_a_number_that_is_not_configured_or_in_use_is_the_callers_mistake(world: World) -> None:
    world.port.channel(1)
    for address in (1, 7):
        with pytest.raises(PlcLocalError):
            world.port.channel(address)


def test_what_a_meter_does_not_take_is_bounded(world: World) -> None:
    channel = world.port.channel(1)
    with pytest.raises(PlcLocalError):
        channel.send(bytes(WRITE_BYTES_MAX + 1), world.clock())


@pytest.mark.parametrize(
    "url", ["udp://h:1", "socket://h", "socket://:1", "socket://h:x", "/dev/ttyS1", "socket://h:99999"]
)
def test_a_url_that_is_no_tcp_place_is_refused(url: str) -> None:
    with pytest.raises(PlcLocalError):
        WRAPPER.find_endpoint(1, url, {})


def test_a_poll_ends_early_while_the_descriptor_to_wake_it_is_readable(world: World) -> None:
    wake = os.eventfd(1)
    world.port.wake_by(wake)
    world.port.poll(world.clock(), 60.0)  # with no connection at all
    channel = world.port.channel(1)
    channel.send(b"?", world.clock())
    while not channel.connected:
        world.port.poll(world.clock(), 60.0)
    with world.answer(1) as meter:
        world.port.poll(world.clock(), 60.0)
        meter.sendall(b"y")
        assert world.event(channel) == DataReceived(1, 0, 0, b"y")
    os.close(wake)
