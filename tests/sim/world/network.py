"""The base node of the world, which can be reset, and the line to it, at which the daemon can be killed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from tests.agent.metering.lines import Line
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


class WorldLine(Line):
    """The line; `kill_at` is when the daemon that uses it is killed."""

    kill_at = float("inf")

    def read(self, wait_s: float) -> bytes:
        self._look()
        return super().read(wait_s)

    def write(self, data: bytes) -> None:
        self._look()
        super().write(data)

    def _look(self) -> None:
        if self.clock.now >= self.kill_at:
            self.kill_at = float("inf")
            raise Killed
