"""The collector: tasks, meter registry and one reader per port, put together."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence

from agent.clock import Clock
from agent.metering.orders.order_book import OrderBook
from agent.metering.ports.portreader import Bridge, PortReader, ReaderDeps
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
        orders: OrderBook,
        lists: ReadingLists,
        clock: Clock,
        rng: random.Random,
        open_bridge: Callable[[PortConfig], Bridge],
        health: Callable[[bool, str], None] = lambda _ok, _detail: None,
    ) -> None:
        self.registry = registry
        self.orders = orders
        self.tasks = TaskBook(store, lists, clock, catch_up_s=metering.catch_up_s)
        self._health = health
        self._lock = threading.Lock()
        self._problems = {port.name: "not open yet" for port in ports if port.health}
        shared = ReaderDeps(store, registry, self.tasks, clock, rng, orders, self._port_health)
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
        self.orders.tick()

    def close(self) -> None:
        """Write what is known of meters to disk. Called after the workers have ended."""
        self.registry.save()

    def _port_health(self, port: str, problem: str) -> None:
        with self._lock:
            if port not in self._problems or self._problems[port] == problem:
                return
            self._problems[port] = problem
        self._report()

    def _report(self) -> None:
        """Publish the check `meter_port`: it is good when every port with `health: true` works."""
        with self._lock:
            wrong = [f"{port}: {problem}" for port, problem in self._problems.items() if problem]
            detail = "; ".join(wrong) or (", ".join(self._problems) or "no ports")
        self._health(not wrong, detail)
