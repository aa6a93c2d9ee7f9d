"""The collector: tasks, meter registry and one reader per port, put together."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence

from agent.clock import Clock
from agent.metering.ports.portreader import Bridge, PortHealth, PortReader, ReaderDeps
from agent.metering.registry import Registry
from agent.metering.scheduling.readinglist import ReadingLists
from agent.metering.scheduling.tasks import TaskBook
from agent.metering.store.reading_store import Store
from agent.settings.config import MeteringConfig, PortConfig
from agent.settings.provisioning import Provisioning, TaskStatus
from agent.status import MeterStatus


class Collector:
    """`workers` go to the supervisor, `tick` is called about every second, the rest may be called from any thread."""

    def __init__(
        self,
        ports: Sequence[PortConfig],
        metering: MeteringConfig,
        *,
        store: Store,
        registry: Registry,
        lists: ReadingLists,
        clock: Clock,
        rng: random.Random,
        open_bridge: Callable[[PortConfig], Bridge],
        health: Callable[[bool, str], None] = lambda _ok, _detail: None,
    ) -> None:
        self.registry = registry
        self.tasks = TaskBook(store, lists, clock, catch_up_s=metering.catch_up_s)
        self._health = health
        self._lock = threading.Lock()
        self._ports = {port.name: PortHealth("not open yet") for port in ports if port.health}
        shared = ReaderDeps(store, registry, self.tasks, clock, rng, self._port_health)
        self.workers = tuple(PortReader(port, metering, shared, open_bridge) for port in ports)
        self._report()

    def configure(self, provisioning: Provisioning) -> None:
        """Follow these tasks from now on. Any thread."""
        self.tasks.configure(provisioning)

    def software_changed(self) -> None:
        """Look for reading lists again: a software package brought or removed some."""
        self.tasks.lists_changed()

    def task_status(self, task_id: str) -> TaskStatus:
        return self.tasks.status(task_id)

    def meters(self) -> tuple[MeterStatus, ...]:
        return self.registry.meters()

    def tick(self) -> None:
        self.registry.tick()

    def close(self) -> None:
        """Write what is known of meters to disk. Called after the workers have ended."""
        self.registry.save()

    def _port_health(self, port: str, health: PortHealth) -> None:
        with self._lock:
            if port not in self._ports or self._ports[port] == health:
                return
            self._ports[port] = health
        self._report()

    def _report(self) -> None:
        """Publish the check `meter_port`: it is good when every port with `health: true` works or is excused."""
        with self._lock:
            ports = dict(self._ports)
        wrong = [f"{port}: {health.problem}" for port, health in ports.items() if health.problem and not health.excused]
        right = [
            f"{port} (no meter to prove it: {health.problem})" if health.problem else port
            for port, health in ports.items()
        ]
        self._health(not wrong, "; ".join(wrong) or ", ".join(right) or "no ports")
