"""Whether a port is open and works, and what is reported of it.

The port counts as working once a *meter* has answered through it: a base node that talks about its meters proves the
wire to it and nothing beyond. A new firmware has to be judged within minutes, and the next run may be hours away: after
a port was opened, some meter is visited just to identify it, by reading its name. Where no meter was ever known there
is nothing to prove: what is wrong with such a port is told, and excused.

A port that takes bytes and gives none is opened anew, after pauses that grow.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.clock import Clock
from agent.metering.ports.line_watch import LineWatch
from agent.metering.ports.probe import Probe
from agent.metering.registry.registry import Registry
from agent.metering.scheduling.schedule import Backoff
from agent.metering.scheduling.tasks import TaskBook
from agent.metering.visit.visit import Channel
from agent.settings.config import PortConfig
from agent.wakeup import Wakeup
from dlms.link.datalink import LineSettings
from plc.errors import PlcError
from plc.events import NodeEvent

LOG = logging.getLogger("agent.metering.port")

REOPEN = Backoff(1.0, 60.0)
SILENT_MAX = 3  # unanswered list queries before the port counts as not working


class Bridge(Protocol):
    """The part of `plc.bridge.Bridge` that is used."""

    overhear: Callable[[int, bytes], None] | None

    @property
    def shared_bus(self) -> bool: ...
    @property
    def octets_heard(self) -> int: ...
    def set_line(self, line: LineSettings) -> None: ...
    def wake_by(self, descriptor: int) -> None: ...
    def channel(self, address: int, *, dst_lsap: int = 1, src_lsap: int = 16) -> Channel: ...
    def poll(self, now: float, wait_s: float) -> Sequence[NodeEvent]: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class PortHealth:
    """How a port stands. `problem` is empty when it works. `excused`: there is no meter that could prove the port, so
    the problem says nothing against the software."""

    problem: str
    excused: bool = False


class PortState:
    """One port: opens it and says how it stands. `bridge` is there while the port is open.

    `proven`: since the port was opened, a meter has answered. `problem`: what was last reported.
    """

    def __init__(
        self,
        port: PortConfig,
        registry: Registry,
        tasks: TaskBook,
        clock: Clock,
        rng: random.Random,
        *,
        watch: LineWatch,
        probe: Probe,
        open_bridge: Callable[[PortConfig], Bridge],
        health: Callable[[str, PortHealth], None],
        wakeup: Wakeup,
    ) -> None:
        """`wakeup` ends the waits of the bridges that are opened."""
        self.bridge: Bridge | None = None
        self.proven = False
        self.problem = ""
        self._port = port
        self._registry = registry
        self._tasks = tasks
        self._clock = clock
        self._rng = rng
        self._watch = watch
        self._probe = probe
        self._open_bridge = open_bridge
        self._health = health
        self._wakeup = wakeup
        self._mute = ""  # why the port was last opened anew, until something is heard
        self._gone = ""  # why the port was last lost, until something is heard
        self._base_node_heard = False  # since it was opened, it has said which meters it knows, or was given up
        self._octets_heard = 0  # until the base node was last found silent
        self._open_at = 0.0
        self._open_failures = 0

    def open(self) -> float:
        """Open the port when that is due. Returns in how many seconds it is, 0 when the port is open."""
        if self._clock.monotonic() >= self._open_at:
            self._open()
        return max(0.0, self._open_at - self._clock.monotonic()) if self.bridge is None else 0.0

    def close(self) -> None:
        if self.bridge is not None:
            self.bridge.close()
            self.bridge = None

    def silent(self, why: str) -> None:
        """The port takes bytes and gives none: it will be opened anew. The first time in a row is news."""
        level = logging.DEBUG if self._mute else logging.WARNING
        LOG.log(level, "port %s is opened anew: %s", self._port.name, why, extra={"event": "port.silent"})
        self._mute = why

    def lost(self, why: str) -> None:
        """The port has failed. The first time in a row is news: what opens and fails again and again is said once."""
        level = logging.DEBUG if self._gone else logging.WARNING
        LOG.log(level, "port %s is lost: %s", self._port.name, why, extra={"event": "port.lost"})
        self._gone = why

    def defective(self, why: str) -> None:
        """What speaks the port's protocol has a defect, whose exception is being handled. News once, as above."""
        level = logging.DEBUG if self._gone else logging.ERROR
        LOG.log(level, "port %s is lost: %s", self._port.name, why, exc_info=True, extra={"event": "port.defect"})
        self._gone = why

    def try_again_later(self, why: str) -> None:
        """The port is closed: open it after a pause."""
        self._open_failures += 1
        self._open_at = self._clock.monotonic() + REOPEN.pause(self._open_failures, self._rng.random)
        self.report(why)

    def report(self, problem: str) -> None:
        """Report what is wrong with the port, empty when it works."""
        self.problem = problem
        self._health(self._port.name, PortHealth(problem, excused=bool(problem) and self._is_excused()))

    def report_working(self) -> None:
        """Report that the port works: a meter answered, or there is none that could."""
        self._heard()
        self.report("")

    def meter_answered(self) -> None:
        self.proven = True
        self.report_working()

    def base_node_answers(self) -> None:
        """The base node answers. That is enough for a port that never had a meter, or whose meters are not to be read;
        otherwise a meter must answer as well."""
        self._heard()
        self._base_node_heard = True
        self._watch.frame()
        registry, name = self._registry, self._port.name
        known = len(registry.present(name)) + len(registry.absent(name))
        if self.proven or known == 0 or not self._tasks.in_force:
            self.report_working()
        else:
            self.report(f"the base node answers, none of {known} meters has yet")

    def base_node_is_silent(self, attempts: int) -> None:
        """The base node has not answered so many times."""
        if attempts < SILENT_MAX:
            return
        self._base_node_heard = True  # or rather not: nobody will say whether there are meters
        octets, self._octets_heard = self._octets_heard, self.bridge.octets_heard if self.bridge else 0
        self._watch.noise(self._octets_heard - octets)
        before = self._mute or self._gone
        opened = f"opened anew: {before}" if before else ""
        silent = f"the base node has not answered {attempts} times"
        self.report("; ".join(filter(None, (silent, opened, self._watch.trouble))))

    def _heard(self) -> None:
        if self._mute or self._gone:
            LOG.info("port %s is heard again", self._port.name, extra={"event": "port.heard"})
        self._open_failures = 0
        self._mute = self._gone = ""

    def _open(self) -> None:
        try:
            bridge = self._open_bridge(self._port)
        except PlcError as error:
            level = logging.DEBUG if self._open_failures else logging.WARNING
            LOG.log(level, "port %s cannot be opened: %s", self._port.name, error, extra={"event": "port.open.failed"})
            self.try_again_later(str(error))
            return
        bridge.wake_by(self._wakeup.fileno())
        self.bridge = bridge
        self.proven = self._base_node_heard = False
        self._octets_heard = 0
        before = self._mute or self._gone
        level = logging.DEBUG if before else logging.INFO
        LOG.log(level, "port %s is open (%s)", self._port.name, self._port.where, extra={"event": "port.open"})
        self.report(f"opened anew: {before}" if before else "open, nothing heard yet")
        if self._port.protocol.own_urls:
            for entry in self._port.meters:
                self._registry.join(self._port.name, entry.address)
        if self._port.scan is not None:
            # No meter announces itself on a bus: those known before are tried again, new ones are looked for. Where
            # nothing at all was heard before, they are asked first: who is there and who has left is no news each time.
            for meter in [] if self._mute else self._registry.absent(self._port.name):
                self._registry.join(self._port.name, meter.address)
            self._probe.reset(self._clock.monotonic(), eager=bool(self._mute))

    def _is_excused(self) -> bool:
        """Whether there is no meter that could prove the port: none was ever known, or none is to be read. A base node
        has to say first whether it knows any; where it failed to, nobody waits for that again after an opening."""
        registry, name = self._registry, self._port.name
        known = [*registry.present(name), *registry.absent(name)]
        if self._port.protocol.own_urls:
            known = [meter for meter in known if meter.named]  # the others stand in the configuration, no more
        if known:
            return self._port.scan is not None and self.bridge is not None and not self._tasks.in_force
        announced = self._port.scan is None and not self._port.protocol.own_urls
        return self.bridge is None or not announced or self._base_node_heard or bool(self._mute or self._gone)
