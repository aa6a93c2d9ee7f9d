"""Where meters call in to push: TCP, and UDP where that is configured, with COSEM wrappers around the APDUs.

Anybody can call. So connections are few and short, a message is bounded before it is kept, and what comes is nothing
but octets until the desk has found whose they are. Nothing is answered but what asks for a confirm, once it is kept.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from agent.clock import Clock
from agent.metering.events.overheard import WrapperEar
from agent.metering.registry.entry import Meter
from agent.settings.config import ListenConfig, PortConfig
from agent.wakeup import Wakeup
from omadm.readings import EVENT_OCTETS_MAX

LOG = logging.getLogger("agent.metering.events")

CALLS_MAX = 64
CALL_IDLE_S = 60.0  # a connection on which nothing came for so long is closed
LISTEN_S = 15.0  # the worker beats as often, also while nobody calls
READ_BYTES_MAX = 4096


class Desk(Protocol):
    """Takes what came (`agent.metering.events.desk.EventDesk`)."""

    def called(self, where: str, apdu: bytes, meter: Meter | None) -> bytes: ...


class CallIn:
    """A worker. `meter_at` tells whose an IP address is, where that is known. Raises `OSError` for an address that
    cannot be listened on."""

    name = "meter-events"
    budget_s = 60.0

    def __init__(self, listen: ListenConfig, desk: Desk, clock: Clock, meter_at: Callable[[str], Meter | None]) -> None:
        self._desk = desk
        self._clock = clock
        self._meter_at = meter_at
        self._selector = selectors.DefaultSelector()
        self._tcp = socket.create_server((listen.host, listen.port))
        self.port: int = self._tcp.getsockname()[1]
        self._selector.register(self._tcp, selectors.EVENT_READ)
        self._udp: socket.socket | None = None
        if listen.udp:
            self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._udp.bind((listen.host, self.port))
            self._selector.register(self._udp, selectors.EVENT_READ)
        self._calls: dict[socket.socket, _Call] = {}
        self._wakeup = Wakeup()
        self._selector.register(self._wakeup, selectors.EVENT_READ)

    @property
    def calls(self) -> int:
        """How many connections there are."""
        return len(self._calls)

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Serve until `stop` is set."""
        try:
            while not stop.is_set():
                beat()
                self.serve(LISTEN_S)
        finally:
            self.close()

    def wake(self) -> None:
        """Have `run` look at its `stop` now. Any thread."""
        self._wakeup.set()

    def serve(self, wait_s: float) -> None:
        """Take what comes within `wait_s` seconds."""
        ready = {key.fileobj for key, _ in self._selector.select(wait_s)}
        if self._wakeup in ready:
            self._wakeup.clear()
        for connection in [each for each in self._calls if each in ready]:
            self._read(connection)
        if self._udp is not None and self._udp in ready:
            self._datagram(self._udp)
        if self._tcp in ready:  # last: who calls now may take the place of one that was read just before
            self._accept()
        now = self._clock.monotonic()
        for connection, call in list(self._calls.items()):
            if now - call.heard_at >= CALL_IDLE_S:
                self._drop(connection)

    def close(self) -> None:
        """Stop listening and drop every connection."""
        for connection in list(self._calls):
            self._drop(connection)
        self._selector.close()
        self._tcp.close()
        if self._udp is not None:
            self._udp.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, peer = self._tcp.accept()
            connection.settimeout(0.0)
            if len(self._calls) >= CALLS_MAX:
                self._drop(min(self._calls, key=lambda each: self._calls[each].heard_at))
            self._calls[connection] = _Call(str(peer[0]), f"{peer[0]}:{peer[1]}", self._clock.monotonic())
            self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        call = self._calls[connection]
        try:
            data = connection.recv(READ_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return
        call.heard_at = self._clock.monotonic()
        for heard in call.ear.receive(data):
            confirm = self._desk.called(call.where, heard.apdu, self._meter_at(call.host))
            if confirm:
                with contextlib.suppress(OSError):  # a caller that takes nothing calls again
                    connection.send(heard.framed(confirm))
        if call.ear.broken:
            LOG.debug("%s: %s", call.where, call.ear.broken)
            self._drop(connection)

    def _datagram(self, udp: socket.socket) -> None:
        with contextlib.suppress(OSError):
            data, peer = udp.recvfrom(0xFFFF)
            for heard in WrapperEar(apdu_bytes_max=EVENT_OCTETS_MAX).receive(data):
                confirm = self._desk.called(f"{peer[0]}:{peer[1]}", heard.apdu, self._meter_at(str(peer[0])))
                if confirm:
                    udp.sendto(heard.framed(confirm), peer)

    def _drop(self, connection: socket.socket) -> None:
        if self._calls.pop(connection, None) is not None:
            self._selector.unregister(connection)
            connection.close()


class _Call:
    """One connection."""

    def __init__(self, host: str, where: str, now: float) -> None:
        self.host = host
        self.where = where
        self.heard_at = now
        self.ear = WrapperEar(apdu_bytes_max=EVENT_OCTETS_MAX)


def meters_by_host(
    ports: Sequence[PortConfig], at: Callable[[str, int], Meter | None]
) -> Callable[[str], Meter | None]:
    """Return what finds a meter by its IP address, where the configuration has that. `at`: the meter by port and
    address."""
    places: dict[str, tuple[str, int]] = {}
    for port in ports:
        for meter in port.meters if port.protocol.own_urls else ():
            endpoint = port.endpoint(meter.address)
            if endpoint is not None:
                places[endpoint.host] = (port.name, meter.address)

    def find(host: str) -> Meter | None:
        place = places.get(host)
        return at(*place) if place is not None else None

    return find
