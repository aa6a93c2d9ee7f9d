"""The collector: tasks, meter registry and one reader per port, put together."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence

from agent.clock import Clock
from agent.metering.access.accessbook import AccessBook
from agent.metering.access.keystore import KeyStore
from agent.metering.orders.order_book import OrderBook
from agent.metering.ports.port_state import Bridge, PortHealth
from agent.metering.ports.portreader import PortReader, ReaderDeps
from agent.metering.registry import Meter, Registry
from agent.metering.scheduling.readinglist import ReadingLists
from agent.metering.scheduling.tasks import TaskBook
from agent.metering.store.reading_store import Store
from agent.settings.config import MeteringConfig, PortConfig
from agent.settings.provisioning import Provisioning, TaskStatus
from agent.status import MeterStatus

SHARE_EVERY_S = 10.0  # how often the share of meters that cannot be read is reckoned
UNREAD_SHARE_MAX = 0.1  # of a port's meters: a tenth is what churn and exchanges of meters make in a bad week


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
        meters_health: Callable[[bool, str], None] = lambda _ok, _detail: None,
        device: str = "",
    ) -> None:
        """`health` takes the check `meter_port`, `meters_health` the check `meters`. `device`: whose it is."""
        self.registry = registry
        self.orders = orders
        self.tasks = TaskBook(
            store,
            lists,
            clock,
            catch_up_s=metering.catch_up_s,
            meters=registry.meters,
            port_problem=self._problem_of,
            device=device,
        )
        self._clock = clock
        keystore = KeyStore(registry.disk, metering.registry_file.parent / "keys")
        self.access = AccessBook(keystore, clock, rng.random, registry.note_keys)
        self._health = health
        self._meters_health = meters_health
        self._look_at = 0.0
        self._lock = threading.Lock()
        self._ports = {port.name: PortHealth("not open yet") for port in ports}
        self._checked = [port.name for port in ports if port.health]
        shared = ReaderDeps(store, registry, self.tasks, self.access, clock, rng, orders, self._port_health)
        self.workers = tuple(PortReader(port, metering, shared, open_bridge) for port in ports)
        self._report()

    def configure(self, provisioning: Provisioning) -> None:
        """Follow these tasks and this access to meters from now on. Any thread."""
        self.tasks.configure(self.access.configure(provisioning))

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
        self.access.tick()
        self.tasks.tick()
        now = self._clock.monotonic()
        if now >= self._look_at:
            self._look_at = now + SHARE_EVERY_S
            self._report_meters()

    def forget(self, meter_id: str) -> list[Meter]:
        """Forget a meter that is gone for good, its keys and counters too. Returns what was known under that id."""
        gone = self.registry.remove(meter_id)
        self.access.forget(meter.key for meter in gone)
        return gone

    def close(self) -> None:
        """Write what is known of meters to disk. Called after the workers have ended."""
        self.registry.save()
        self.access.close()

    def _problem_of(self, port: str) -> str:
        with self._lock:
            return self._ports[port].problem if port in self._ports else ""

    def _port_health(self, port: str, health: PortHealth) -> None:
        with self._lock:
            if port not in self._ports or self._ports[port] == health:
                return
            self._ports[port] = health
        self._report()

    def _report(self) -> None:
        """Publish the check `meter_port`: it is good when every port with `health: true` works or is excused."""
        with self._lock:
            ports = {port: self._ports[port] for port in self._checked}
        wrong = [f"{port}: {health.problem}" for port, health in ports.items() if health.problem and not health.excused]
        right = [
            f"{port} (no meter to prove it: {health.problem})" if health.problem else port
            for port, health in ports.items()
        ]
        self._health(not wrong, "; ".join(wrong) or ", ".join(right) or "no ports")

    def _report_meters(self) -> None:
        """Publish the check `meters`: it is good while at most `UNREAD_SHARE_MAX` of the meters of every port with
        `health: true` cannot be read. A firmware is not judged by it: meters fall silent for reasons of their own."""
        meters = self.registry.meters() if self.tasks.in_force else ()
        good, details = True, []
        for port in self._checked:
            counted = self.tasks.count([meter for meter in meters if meter.port == port])
            if counted.total:
                good = good and counted.unread <= UNREAD_SHARE_MAX * counted.total
                details.append(f"{port}: {counted.text()}")
        self._meters_health(good, "; ".join(details))
