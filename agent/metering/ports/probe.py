"""Finds meters on a bus: connects a data link to one address at a time (HDLC: SNRM), between two visits.

An address whose link comes up (HDLC: it answers UA) has a meter; who it is, its first visit tells. Addresses of meters
that are present are not asked. The whole range is asked every `scan.every_s`, the addresses of known meters that fell
silent more often, each after pauses that grow (`agent.metering.ports.patience`). A scan that was cut short by the loss
of the port goes on where it stood.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from agent.metering.ports.line_watch import LineWatch
from agent.metering.ports.patience import FIRST, Patience
from agent.metering.registry.entry import Meter
from agent.metering.registry.registry import Registry
from agent.metering.visit.visit import Channel
from agent.settings.config import PortConfig
from dlms.link.datalink import DataLink, LinkDown, LinkUp, heard_by
from plc.events import DataReceived

LOOK_EVERY_S = 30.0  # how often silent meters are looked through for one that is due
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

    def __init__(self, port: PortConfig, registry: Registry, patience: Patience, watch: LineWatch) -> None:
        self._port = port
        self._registry = registry
        self._patience = patience
        self._watch = watch
        self._queue: deque[int] = deque()
        self._scan_at = NEVER
        self._silent_at = NEVER
        self._eager = False
        self._question: _Question | None = None

    @property
    def running(self) -> bool:
        return self._question is not None

    @property
    def asked(self) -> tuple[int, DataLink] | None:
        """The address that is being asked, and by which link."""
        return (self._question.address, self._question.link) if self._question else None

    def reset(self, now: float, *, eager: bool = False) -> None:
        """Make a scan due now, or let the one that was under way go on.

        `eager`: nothing at all is heard, so the line is free. Known meters are asked first, and all of them again and
        again, until one answers.
        """
        self.abandon()
        self._eager = eager
        if self._port.scan is not None:
            if eager:
                known = [meter.address for meter in self._registry.absent(self._port.name)]
                self._queue = deque([*known, *(address for address in self._queue if address not in known)])
            self._scan_at = NEVER if self._queue else now
            self._silent_at = now + LOOK_EVERY_S

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
        if self._registry.at(self._port.name, address) is not None:
            return  # it was found, or came back, since the queue was filled
        link = self._port.data_link(address, asking=self._patience.asking(address, FIRST))  # as the public client
        self._question = _Question(address, link, bus.channel(address))
        link.connect(now)
        self._question.write(now)

    def step(self, now: float) -> Meter | None:
        """Go on with the address that is being asked. Returns the meter at the moment when one is found there."""
        question = self._question
        if question is None:
            return None
        while (received := question.channel.next_event()) is not None:
            if isinstance(received, DataReceived):
                question.link.receive(received.lsdu, now)
        deadline = question.link.next_deadline()
        if deadline is not None and deadline <= now:
            question.link.on_deadline(now)
        found, over = None, False
        while (event := question.link.next_event()) is not None:
            if isinstance(event, LinkUp):
                found = self._registry.join(self._port.name, question.address)
                self._eager = False
                question.link.disconnect(now)  # the meter is left as it was found, free for its first visit
            elif isinstance(event, LinkDown):
                over = True
        question.write(now)
        if over:
            self._learn(question, now)
            self.abandon()
        return found

    def deadline(self) -> float:
        """Return when `step` is due at the latest, `NEVER` while no address is asked."""
        deadline = self._question.link.next_deadline() if self._question else None
        return NEVER if deadline is None else deadline

    def next_begin(self, now: float) -> float:
        """Return when `begin` has something to do, `NEVER` where nothing is scanned or an address is being asked."""
        if self._port.scan is None or self._question is not None:
            return NEVER
        return now if self._queue else min(self._scan_at, self._silent_at)

    def _learn(self, question: _Question, now: float) -> None:
        heard = heard_by(question.link)
        if heard is not None:
            self._watch.conversation(question.address, heard)
        if self._registry.at(self._port.name, question.address) is None:
            self._patience.unanswered(question.address, now)
        else:
            self._patience.answered(question.address, heard.turnaround_s if heard else None)

    def _fill(self, now: float) -> None:
        scan = self._port.scan
        if scan is None or self._queue:
            return
        self._scan_at = min(self._scan_at, now + scan.every_s)
        if now >= self._scan_at:
            present = {meter.address for meter in self._registry.heard(self._port.name)}
            self._queue.extend(address for address in range(scan.first, scan.last + 1) if address not in present)
            self._scan_at = now + scan.every_s
        elif now >= self._silent_at:
            absent = [meter.address for meter in self._registry.absent(self._port.name)]
            self._queue.extend(address for address in absent if self._eager or self._patience.is_due(address, now))
            self._silent_at = now + LOOK_EVERY_S
