"""Finds meters on a bus: connects a data link to one address at a time (HDLC: SNRM), between two visits.

An address whose link comes up (HDLC: it answers UA) has a meter; who it is, its first visit tells. Addresses of meters
that are present are not asked. The whole range is asked every `scan.every_s`, the addresses of known meters that fell
silent more often.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from agent.metering.registry import Registry
from agent.metering.visit.visit import Channel
from agent.settings.config import PortConfig
from dlms.link.datalink import DataLink, LinkDown, LinkUp
from plc.events import DataReceived

RETRIES = 1  # one lost frame must not hide a meter until the next scan
SILENT_EVERY_S = 300.0
NEVER = float("inf")


class Bus(Protocol):
    """The part of `plc.bridge.Bridge` that is used."""

    def channel(self, address: int, *, dst_lsap: int = 1, src_lsap: int = 16) -> Channel: ...


@dataclass(frozen=True, slots=True)
class _Question:
    """The address that is being asked."""

    address: int
    link: DataLink
    channel: Channel

    def write(self, now: float) -> None:
        output = self.link.take_output()
        if output:
            self.channel.send(output, now)


class Probe:
    """The scan of one port. Call `begin` to ask the next address that is due, and `step` while `running`."""

    def __init__(self, port: PortConfig, registry: Registry) -> None:
        self._port = port
        self._registry = registry
        self._queue: deque[int] = deque()
        self._scan_at = NEVER
        self._silent_at = NEVER
        self._question: _Question | None = None

    @property
    def running(self) -> bool:
        return self._question is not None

    def reset(self, now: float) -> None:
        """Make a scan due now; the addresses of silent meters are due `SILENT_EVERY_S` later."""
        self.abandon()
        self._queue.clear()
        self._scan_at = now if self._port.scan else NEVER
        self._silent_at = now + SILENT_EVERY_S if self._port.scan else NEVER

    def abandon(self) -> None:
        """Stop asking the present address: the bus is gone, or the answer has come."""
        if self._question is not None:
            self._question.channel.close()
            self._question = None

    def begin(self, bus: Bus, now: float) -> None:
        """Ask the next address, if one is due. Raises `dlms.errors.LocalError`, `plc.errors.PlcError`."""
        self._fill(now)
        if not self._queue:
            return
        address = self._queue.popleft()
        link = self._port.data_link(address, retries=RETRIES)  # as the public client
        self._question = _Question(address, link, bus.channel(address))
        link.connect(now)
        self._question.write(now)

    def step(self, now: float) -> bool:
        """Go on with the address that is being asked. Returns true at the moment when a meter is found there."""
        question = self._question
        if question is None:
            return False
        while (received := question.channel.next_event()) is not None:
            if isinstance(received, DataReceived):
                question.link.receive(received.lsdu, now)
        deadline = question.link.next_deadline()
        if deadline is not None and deadline <= now:
            question.link.on_deadline(now)
        found, over = False, False
        while (event := question.link.next_event()) is not None:
            if isinstance(event, LinkUp):
                found = True
                self._registry.join(self._port.name, question.address)
                question.link.disconnect(now)  # the meter is left as it was found, free for its first visit
            elif isinstance(event, LinkDown):
                over = True
        question.write(now)
        if over:
            self.abandon()
        return found

    def deadline(self) -> float:
        """Return when `step` is due at the latest, `NEVER` while no address is asked."""
        deadline = self._question.link.next_deadline() if self._question else None
        return NEVER if deadline is None else deadline

    def _fill(self, now: float) -> None:
        scan = self._port.scan
        if scan is None or self._queue:
            return
        if now >= self._scan_at:
            present = {meter.address for meter in self._registry.present(self._port.name)}
            self._queue.extend(address for address in range(scan.first, scan.last + 1) if address not in present)
            self._scan_at = now + scan.every_s
            self._silent_at = now + SILENT_EVERY_S
        elif now >= self._silent_at:
            self._queue.extend(meter.address for meter in self._registry.absent(self._port.name))
            self._silent_at = now + SILENT_EVERY_S
