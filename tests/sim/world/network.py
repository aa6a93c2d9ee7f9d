"""The base node of the world, which can be reset, and the line to it, at which the daemon can be killed."""

from __future__ import annotations

import math
import select
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from tests.agent.metering.lines import Line
from tests.agent.virtual import VirtualClock
from tests.sim.meters import SimMeter
from tests.sim.plc_network import BaseNode
from tests.sim.world.meters import WorldMeter

LATENCY_S = 0.05
REJOIN_AFTER_S = 20.0
JOIN_INTERVAL_S = 0.5


class Killed(BaseException):
    """The daemon is killed here. Not an `Exception`: nothing of it may notice."""


class WorldNode(BaseNode):
    """A base node whose modems come and go, and that can lose power itself."""

    def __init__(self, meters: Sequence[WorldMeter], start: float) -> None:
        super().__init__(
            cast("list[SimMeter]", list(meters)), start=start, join_interval_s=JOIN_INTERVAL_S, latency_s=LATENCY_S
        )

    def reset(self, now: float) -> None:
        """Everything that was on its way is gone, and no node is registered; they join again after a while."""
        self._bursts.clear()
        self._later.clear()
        for node in self._nodes.values():
            node.joined = False
            node.meter.forget_clients()
        self._joins = [
            (now + REJOIN_AFTER_S + JOIN_INTERVAL_S * number, address) for number, address in enumerate(self._nodes)
        ]

    def move(self, meter_id: str, *, joined: bool) -> None:
        """A modem leaves the network, or is back."""
        node = self._node_of(meter_id)
        if node.joined and not joined:
            self._leave(node)
        elif joined and not node.joined:
            self._join(node)


@dataclass(slots=True)
class Fate:
    """When the daemon is killed: in the middle of what it does, for the lines that it uses look at it."""

    kill_at: float = math.inf

    def strike(self, now: float) -> None:
        if now >= self.kill_at:
            self.kill_at = math.inf
            raise Killed


class WorldLine(Line):
    """A line whose waits end at `horizon`, when something else of the world has its turn. `due` is when whoever waits
    for the line wants to be called, should nothing come before."""

    def __init__(self, network: WorldNode, clock: VirtualClock, fate: Fate) -> None:
        super().__init__(network, clock)
        self.horizon = math.inf
        self.due = clock.now
        self._fate = fate
        self._wakes: list[int] = []

    def begin(self) -> None:
        """A new daemon looks at the line first of all. The one before may have been killed, and its descriptors with
        it."""
        self.due = self.clock.now
        self._wakes = []

    def wake_by(self, descriptor: int) -> None:
        self._wakes = [descriptor]

    @property
    def woken(self) -> bool:
        """Whether another thread has ended the wait."""
        return bool(self._wakes and select.select(self._wakes, [], [], 0)[0])

    def next_due(self) -> float:
        """When the wait for the line is over."""
        deadline = self.network.next_deadline()
        if (self.broken and not self.closed) or self.woken:
            return self.clock.now
        return self.due if deadline is None or self.closed else min(self.due, deadline)

    def read(self, wait_s: float) -> bytes:
        now = self.due = self.clock.now
        self._fate.strike(now)
        data = super().read(min(wait_s, max(0.0, self.horizon - now)))
        self.due = self.clock.now if data else max(self.clock.now, now + wait_s)
        return data

    def write(self, data: bytes) -> None:
        self._fate.strike(self.clock.now)
        super().write(data)
