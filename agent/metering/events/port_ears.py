"""What one port hears beside its conversations, on its way to the desk."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from agent.clock import Clock
from agent.metering.events.desk import EventDesk
from agent.metering.events.overheard import Overheard, WrapperEar
from agent.metering.registry.entry import Meter
from agent.settings.config import PortConfig
from dlms.link.datalink import MAY_BE_UNSOLICITED
from plc.events import DataReceived

if TYPE_CHECKING:
    from agent.metering.events.bus_ear import HdlcEar


class Audible(Protocol):
    """The part of a bridge that is used."""

    overhear: Callable[[int, bytes], None] | None


class PortEars:
    """The ears of one port, used by its thread only; its sessions give it what they get unasked
    (`agent.metering.access.session.Pushes`).

    A UI frame to the client of a running session is heard twice, by the session and by the ear of the bus: what the
    session takes is not taken again, so `flush` comes after the sessions.
    """

    def __init__(self, port: PortConfig, desk: EventDesk, clock: Clock) -> None:
        self._port = port
        self._desk = desk
        self._clock = clock
        self._bus: HdlcEar | None = None
        self._connections: dict[int, WrapperEar] = {}
        self._waiting: list[Overheard] = []

    def attach(self, bridge: Audible) -> None:
        """Listen to this bridge, where it carries octets and not packets."""
        bridge.overhear = self._on_connection if self._port.protocol.own_urls else None
        if self._port.scan is not None:
            from agent.metering.events.bus_ear import HdlcEar  # not at the top: only a bus needs it

            self._bus = self._bus or HdlcEar()
            bridge.overhear = partial(self._on_bus, self._bus)

    def packet(self, event: DataReceived) -> None:
        """A packet that belongs to no conversation. Behind a base node it is one APDU."""
        packets = self._port.scan is None and not self._port.protocol.own_urls
        if packets and event.lsdu and event.lsdu[0] in MAY_BE_UNSOLICITED:
            self._desk.heard(self._port.name, event.address, event.lsdu, client=event.dst_lsap)

    def conversation(self, address: int, client: int) -> None:
        """A conversation with a meter begins."""
        if self._port.protocol.own_urls:
            self._connections[address] = WrapperEar(client)

    def flush(self) -> None:
        """What nobody has taken in this round is for the desk."""
        waiting, self._waiting = self._waiting, []
        for heard in waiting:
            self._desk.heard(self._port.name, heard.source, heard.apdu, client=heard.destination)

    # --- for bridges ---

    def _on_bus(self, bus: HdlcEar, _: int, data: bytes) -> None:
        bus.receive(data, self._clock.monotonic())
        while (heard := bus.next_apdu()) is not None:
            self._waiting.append(heard)

    def _on_connection(self, address: int, data: bytes) -> None:
        ear = self._connections.get(address)
        for heard in ear.receive(data) if ear is not None else ():
            self._desk.heard(self._port.name, address, heard.apdu, client=heard.destination)

    # --- for sessions ---

    def in_session(self, meter: Meter, apdu: bytes, *, ciphered: bool) -> bool:
        taken = self._desk.in_session(meter, apdu, ciphered=ciphered)
        if taken:
            self._claim(apdu)
        return taken

    def deciphered(self, meter: Meter, apdu: bytes) -> None:
        self._desk.deciphered(meter, apdu)

    def _claim(self, apdu: bytes) -> None:
        for heard in self._waiting:
            if heard.apdu == apdu:
                self._waiting.remove(heard)
                return
