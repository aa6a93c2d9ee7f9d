"""What one port hears beside its conversations, on its way to the desk; and the confirms on their way back.

A confirm goes back on the connection on which the notification came, at once, and in the conversation in which it came.
What came beside one, on a bus and behind a base node, is confirmed when the meter, or the bus, has none: a frame beside
a conversation could meet an answer.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from agent.clock import Clock
from agent.metering.events.desk import Confirm, EventDesk
from agent.metering.events.overheard import Overheard, WrapperEar
from agent.metering.registry.entry import Meter
from agent.settings.config import PortConfig
from dlms.link.datalink import MAY_BE_UNSOLICITED
from dlms.security.settings import Policy
from plc.errors import PlcLocalError
from plc.events import DataReceived

if TYPE_CHECKING:
    from agent.metering.events.bus_ear import HdlcEar


CONFIRM_S = 60.0  # after this long the meter has given up, or sent again
CONFIRMS_MAX = 64


class Channel(Protocol):
    """The way to one node."""

    def send(self, data: bytes, now: float) -> int: ...
    def close(self) -> None: ...


class Audible(Protocol):
    """The part of a bridge that is used."""

    overhear: Callable[[int, bytes], None] | None

    def channel(self, address: int, *, dst_lsap: int = 1, src_lsap: int = 16) -> Channel: ...


@dataclass(frozen=True, slots=True)
class _Confirm:
    """A confirm for a node, which is of no use after `until`; `framed` makes the octets of it."""

    address: int
    dst_lsap: int
    src_lsap: int
    confirm: Confirm
    framed: Callable[[bytes], bytes]
    until: float


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
        self._connections: dict[int, tuple[WrapperEar, Channel]] = {}
        self._waiting: list[Overheard] = []
        self._confirms: deque[_Confirm] = deque(maxlen=CONFIRMS_MAX)

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
            confirm = self._desk.heard(self._port.name, event.address, event.lsdu, client=event.dst_lsap)
            self._send_later(event.address, confirm, bytes, event.src_lsap, event.dst_lsap)

    def conversation(self, address: int, client: int, channel: Channel) -> None:
        """A conversation with a meter begins, over this channel."""
        if self._port.protocol.own_urls:
            self._connections[address] = WrapperEar(client), channel

    def flush(self) -> None:
        """What nobody has taken in this round is for the desk."""
        waiting, self._waiting = self._waiting, []
        for heard in waiting:
            confirm = self._desk.heard(self._port.name, heard.source, heard.apdu, client=heard.destination)
            self._send_later(heard.source, confirm, heard.framed)

    def send(self, bridge: Audible, now: float) -> None:
        """Send the confirms that can go now; a round calls this before it begins conversations."""
        for _ in range(len(self._confirms)):
            one = self._confirms.popleft()
            if now >= one.until:
                continue
            try:
                channel = bridge.channel(one.address, dst_lsap=one.dst_lsap, src_lsap=one.src_lsap)
            except PlcLocalError:  # there is a conversation
                self._confirms.append(one)
                continue
            octets = one.confirm.emit()
            with contextlib.suppress(PlcLocalError):
                if octets:
                    channel.send(one.framed(octets), now)
            channel.close()

    def _send_later(
        self, address: int, confirm: Confirm, framed: Callable[[bytes], bytes], dst_lsap: int = 1, src_lsap: int = 16
    ) -> None:
        if confirm:
            until = self._clock.monotonic() + CONFIRM_S
            self._confirms.append(_Confirm(address, dst_lsap, src_lsap, confirm, framed, until))

    # --- for bridges ---

    def _on_bus(self, bus: HdlcEar, _: int, data: bytes) -> None:
        bus.receive(data, self._clock.monotonic())
        while (heard := bus.next_apdu()) is not None:
            self._waiting.append(heard)

    def _on_connection(self, address: int, data: bytes) -> None:
        if address not in self._connections:
            return
        ear, channel = self._connections[address]
        for heard in ear.receive(data):
            confirm = self._desk.heard(self._port.name, address, heard.apdu, client=heard.destination).emit()
            if confirm:
                with contextlib.suppress(PlcLocalError):
                    channel.send(heard.framed(confirm), self._clock.monotonic())

    # --- for sessions ---

    def in_session(self, meter: Meter, apdu: bytes, *, ciphered: bool) -> bytes | None:
        """Take an APDU that a session got, if it is a notification, as `EventDesk.in_session`. Returns the confirm that
        is the session's to send: not that of a UI frame, which goes back in one, and may not amid a conversation."""
        confirm = self._desk.in_session(meter, apdu, ciphered=ciphered)
        if confirm is None:
            return None
        heard = self._claim(apdu)
        if heard is None:
            return confirm.emit()
        self._send_later(heard.source, confirm, heard.framed)
        return b""

    def deciphered(self, meter: Meter, apdu: bytes, policy: Policy, protect: Callable[[bytes], bytes]) -> bytes:
        return self._desk.deciphered(meter, apdu, policy, protect)

    def _claim(self, apdu: bytes) -> Overheard | None:
        """What the ear of the bus heard of this APDU as well."""
        for heard in self._waiting:
            if heard.apdu == apdu:
                self._waiting.remove(heard)
                return heard
        return None
