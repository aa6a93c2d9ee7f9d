"""The collector: tasks, meter registry and one reader per port, put together."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Sequence

from agent.clock import Clock
from agent.metering.access.accessbook import AccessBook
from agent.metering.access.keystore import KeyStore
from agent.metering.events.desk import EventDesk
from agent.metering.orders.order_book import OrderBook
from agent.metering.ports.port_state import Bridge, PortHealth
from agent.metering.ports.portreader import PortReader, ReaderDeps
from agent.metering.registry.added import AddedMeters
from agent.metering.registry.device_book import DeviceBook
from agent.metering.registry.entry import Meter
from agent.metering.registry.network import NetworkBook
from agent.metering.registry.registry import Registry
from agent.metering.registry.whitelist import Whitelist
from agent.metering.scheduling.readinglist import ReadingLists
from agent.metering.scheduling.tasks import UNTRUSTED_HOLD_S, TaskBook
from agent.metering.store.reading_store import Store, StoreError
from agent.settings.config import EventsConfig, MeteringConfig, PortConfig
from agent.settings.provisioning import AddedMeter, Provisioning, TaskStatus
from agent.status import MeterStatus
from dlms.cosem.time import ClockPolicy

ADDED_FILE = "added-meters.json"  # beside the registry's own file
BUSY_S = 1.0  # between two ticks while an order waits, or the time
CLOCK_STEP_S = 0.5  # civil time that moved by more against monotonic time was set; by less, somebody was held up
SHARE_EVERY_S = 10.0  # how often the share of meters that cannot be read is reckoned
UNREAD_SHARE_MAX = 0.1  # of a port's meters: a tenth is what churn and exchanges of meters make in a bad week


class Collector:
    """`workers` go to the supervisor, `tick` is called by the main thread, the rest may be called from any thread."""

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
        keys_health: Callable[[bool, str], None] = lambda _ok, _detail: None,
        device: str = "",
        boot: str = "",
        events: EventsConfig = EventsConfig(),  # noqa: B008 - a value that cannot change
        busy: Callable[[], None] = lambda: None,
    ) -> None:
        """`health` takes the check `meter_port`, `meters_health` the check `meters`, `keys_health` the check
        `key_store`. `device`: whose it is; `boot` tells this boot from others, "" where nobody knows. `busy()`: `tick`
        may have something to do."""
        self.registry = registry
        self.orders = orders
        self.added = AddedMeters(registry.disk, metering.registry_file.with_name(ADDED_FILE), ports, registry)
        ports = self.added.ports
        self.devices = DeviceBook(store, registry, clock, device_type=metering.device_type)
        self.network = NetworkBook(store, registry, clock, [port.name for port in ports])
        self._store = store
        self._whitelist = metering.whitelist
        self._admit(Provisioning())
        self.tasks = TaskBook(
            store,
            lists,
            clock,
            catch_up_s=metering.catch_up_s,
            meters=registry.due,
            port_problem=self._problem_of,
            device=device,
            boot=boot,
        )
        self._clock = clock
        keystore = KeyStore(registry.disk, metering.registry_file.parent / "keys")
        self.access = AccessBook(keystore, clock, rng.random, registry.note_keys)
        self.events = EventDesk(
            store,
            registry,
            self.access,
            clock,
            policy=ClockPolicy(utc_offset_minutes=metering.meter_utc_offset_min),
            plain_refused=events.plain_push == "refuse",
        )
        self._health = health
        self._meters_health = meters_health
        self._keys_health = keys_health
        self._keys_problem: str | None = None  # as it was told last
        self._look_at = 0.0
        self._lock = threading.Lock()
        self._ports = {port.name: PortHealth("not open yet") for port in ports}
        self._where = {port.name: port for port in ports}
        self._since = dict.fromkeys(self._ports, clock.wall())
        self._checked = [port.name for port in ports if port.health]
        shared = ReaderDeps(
            store, registry, self.tasks, self.access, clock, rng, orders, self.devices, self.network,
            self._port_health, self.events, busy,
        )  # fmt: skip
        self.workers = tuple(PortReader(port, metering, shared, open_bridge) for port in ports)
        self._busy = busy
        self._started = clock.monotonic()
        self._time: tuple[bool, float] | None = None  # whether civil time is used, and its offset, at the last tick
        orders.on_submit = self.network.on_order = self.wake
        registry.on_named = orders.named
        orders.edition = self._edition
        self._report()

    def configure(self, provisioning: Provisioning) -> None:
        """Follow these tasks, this access to meters and this list of meters from now on. Any thread."""
        gone = self.added.provisioned(provisioning.added)
        self._admit(provisioning)
        for meter in filter(None, map(self.registry.get, gone)):
            with contextlib.suppress(StoreError):  # its owner reports it
                self.remove(meter.meter_id)
        self.tasks.configure(self.access.configure(provisioning))
        self.wake()

    def software_changed(self) -> None:
        """Look for reading lists again: a software package brought or removed some."""
        self.tasks.lists_changed()
        self.wake()

    def wake(self) -> None:
        """Have all ports, and soon `tick`, look for what there is to do. Any thread."""
        for worker in self.workers:
            worker.wake()
        self._busy()

    def task_status(self, task_id: str) -> TaskStatus:
        return self.tasks.status(task_id)

    def meters(self) -> tuple[MeterStatus, ...]:
        return self.registry.meters()

    def tick(self) -> float:
        """Do what time alone brings. Returns in how many seconds to call it again at the latest."""
        self._store.tend()
        self.registry.tick()
        self.devices.tick()
        self.network.tick()
        self.orders.tick()
        self.access.tick()
        self._report_keys()
        self.events.tick()
        self.tasks.tick()
        now = self._clock.monotonic()
        looked = now >= self._look_at
        if looked:
            self._look_at = now + SHARE_EVERY_S
            self._report_meters()
        used = self._look_at_clock(now)
        start = self.tasks.next_start()
        again = BUSY_S if self.orders.waiting or not used else SHARE_EVERY_S if start is None else start
        # Somebody was busy since the share was reckoned: what has come of it is published, too.
        return again if looked else min(again, self._look_at - now)

    def _look_at_clock(self, now: float) -> bool:
        """Wake the ports when civil time was set, or has come to be used. Returns whether it is used for tasks: a clock
        that nothing vouches for is not, for a while."""
        used = self._clock.trusted() or now - self._started >= UNTRUSTED_HOLD_S
        offset = self._clock.wall() - self._clock.monotonic()
        before, self._time = self._time, (used, offset)
        if before is not None and (before[0] != used or abs(before[1] - offset) > CLOCK_STEP_S):
            self.wake()
        return used

    def add(self, meter: AddedMeter) -> str:
        """Know a meter before it is heard. Returns its key in the registry. Raises `ValueError`, `OSError`."""
        key = self.added.add(meter)
        self._admit(self._provisioned)
        self.wake()
        return key

    def remove(self, meter_id: str) -> list[Meter]:
        """Forget a meter that is gone for good, and all that is known of it: its gaps are closed, its keys, counters,
        capabilities and positions go. Returns what was known under that id; it may join again. The meter may also be
        named by its EUI-48 or its key.

        Raises `StoreError`, and `OSError` when a meter that was added by hand cannot be taken out of its file.
        """
        meter_id = self.id_of(meter_id)
        self.added.remove(meter.key for meter in self.registry.known() if meter.meter_id == meter_id)
        gone = self.registry.remove(meter_id)
        keys = [meter.key for meter in gone]
        self.access.forget(keys)
        self.devices.forget(keys)
        for meter in gone:
            self.tasks.give_up(meter.meter_id, "", "meter forgotten")
        if gone:
            self._store.forget(meters=[name for meter in gone for name in (meter.meter_id, meter.key)])
        self.wake()
        return gone

    def id_of(self, name: str) -> str:
        """Return the id of the meter with this id, EUI-48 or key; the name itself where there is none."""
        found = self.registry.find(name)
        return name if found is None else found[0].meter_id

    def close(self) -> None:
        """Write what is known of meters to disk. Called after the workers have ended."""
        self.registry.save()
        self.access.close()
        self.devices.flush()
        self.network.flush()

    def _admit(self, provisioning: Provisioning) -> None:
        """Visit only meters on the lists of the configuration and of the management tree, where there are any."""
        self._provisioned = provisioning
        self.registry.admit(
            Whitelist(
                (*self._whitelist, *provisioning.whitelist),
                enforced=bool(self._whitelist) or provisioning.whitelist_enforced,
                always=self.added.keys,
            )
        )

    def port_healths(self) -> dict[str, PortHealth]:
        """How each port stands, by its name. Any thread."""
        with self._lock:
            return dict(self._ports)

    def _edition(self, meter_id: str, salt: str) -> str:
        """Which keys are provisioned for a meter (`access.editions`); empty for one that is not known."""
        found = self.registry.find(meter_id)
        return self.access.edition(found[0], salt) if found else ""

    def port_statuses(self) -> list[dict[str, object]]:
        """Every port, with what it leads to, whether it works and why not, and since when, seconds since the epoch.
        `excused`: nothing tells that it ought to. Any thread."""
        with self._lock:
            healths, since = dict(self._ports), dict(self._since)
        return [
            {
                "port": name,
                "where": self._where[name].where,
                "works": not health.problem,
                "problem": health.problem,
                "excused": health.excused,
                "since": since[name],
            }
            for name, health in healths.items()
        ]

    def _problem_of(self, port: str) -> str:
        with self._lock:
            return self._ports[port].problem if port in self._ports else ""

    def _port_health(self, port: str, health: PortHealth) -> None:
        with self._lock:
            if port not in self._ports or self._ports[port] == health:
                return
            if bool(self._ports[port].problem) != bool(health.problem):
                self._since[port] = self._clock.wall()
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

    def _report_keys(self) -> None:
        problem = self.access.problem
        if problem != self._keys_problem:
            self._keys_problem = problem
            self._keys_health(not problem, problem)

    def _report_meters(self) -> None:
        """Publish the check `meters`: it is good while at most `UNREAD_SHARE_MAX` of the meters of every port with
        `health: true` cannot be read. A firmware is not judged by it: meters fall silent for reasons of their own."""
        meters = self.registry.due() if self.tasks.in_force else ()
        good, details = True, []
        for port in self._checked:
            counted = self.tasks.count([meter for meter in meters if meter.port == port])
            if counted.total:
                good = good and counted.unread <= UNREAD_SHARE_MAX * counted.total
                details.append(f"{port}: {counted.text()}")
        self._meters_health(good, "; ".join(details))
