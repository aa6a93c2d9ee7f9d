"""Simulated lines in virtual time: the real bridge and the simulated network, joined by a port that makes time pass."""

from __future__ import annotations

import math
from typing import Protocol

from dlms.errors import LinkError
from plc.bridge import Bridge
from tests.agent.virtual import VirtualClock


class Network(Protocol):
    """The sans-IO side of `tests.sim.plc_network.BaseNode` and `tests.sim.rs485_bus.Bus`."""

    def receive(self, data: bytes, now: float) -> None: ...

    def take_bursts(self) -> list[bytes]: ...

    def next_deadline(self) -> float | None: ...

    def on_deadline(self, now: float) -> None: ...


class Line:
    """A `plc.bridge.BytePort` over a network. Waiting moves the clock; `octet_s` is what an octet takes on the line. No
    wait goes on beyond `wake_at`: then another thread has something to say."""

    def __init__(self, network: Network, clock: VirtualClock, octet_s: float = 0.0) -> None:
        self.network = network
        self.clock = clock
        self.octet_s = octet_s
        self.broken = False
        self.closed = False
        self.incoming = bytearray()
        self.wake_at = math.inf

    def read(self, wait_s: float) -> bytes:
        if self.broken:
            raise LinkError("the line is cut")
        end = self.clock.now + max(wait_s, 0.0)
        if self.wake_at > self.clock.now:
            end = min(end, self.wake_at)
        while not self.incoming:
            self._due()
            if self.incoming or self.clock.now >= end:
                break
            deadline = self.network.next_deadline()
            self.clock.now = end if deadline is None else min(end, max(deadline, self.clock.now + 1e-6))
        data, self.incoming = bytes(self.incoming), bytearray()
        self.clock.now += len(data) * self.octet_s
        return data

    def write(self, data: bytes) -> None:
        if self.broken:
            raise LinkError("the line is cut")
        self.clock.now += len(data) * self.octet_s
        self.network.receive(data, self.clock.now)
        self._due()

    def close(self) -> None:
        self.closed = True

    def _due(self) -> None:
        deadline = self.network.next_deadline()
        if deadline is not None and deadline <= self.clock.now:
            self.network.on_deadline(self.clock.now)
        for burst in self.network.take_bursts():
            self.incoming += burst


def bridge_over(line: Line, core: object, *, silence_s: float = 0.0) -> Bridge:
    return Bridge(line, core, line.clock.monotonic, silence_s=silence_s)  # type: ignore[arg-type]
