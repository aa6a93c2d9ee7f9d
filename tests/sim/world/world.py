"""One world: the daemon's own collector, store and uplink between simulated meters and a simulated head-end.

The loop is the daemon's threads one after another. All waiting is virtual; a day of a calm world is some ten thousand
steps. What the daemon dies of is an exception that none of its code may catch; what it leaves behind is what it had
committed, and the next one starts from that.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.daemon.instance import AlreadyRunningError, InstanceLocks
from agent.daemon.supervisor import SOON_S
from agent.metering.collector import Collector
from agent.metering.orders.journal import Journal
from agent.metering.orders.order_book import OrderBook
from agent.metering.ports import portreader
from agent.metering.ports.port_state import Bridge
from agent.metering.registry.registry import Registry
from agent.metering.scheduling.readinglist import ReadingLists
from agent.metering.scheduling.schedule import Backoff
from agent.metering.store.reading_store import Brought, Store
from agent.metering.uplink import worker
from agent.metering.uplink.worker import Uplink
from agent.settings.config import MeteringConfig, PortConfig, ScanConfig
from agent.settings.provisioning import MeterAccess, Provisioning, ReadingTask, UplinkSettings
from plc.prime.link import PlcLink
from plc.protocols import HDLC, PRIME_USI
from plc.transparent import TransparentLink
from tests.agent.metering.lines import bridge_over
from tests.sim.world.headend import DEVICE, URL, WorldHeadend
from tests.sim.world.judges.picture import LOOK_EVERY_S, Picture
from tests.sim.world.meters import CLIENT, PASSWORD, PROFILE, REGISTER, Clockwork, Packing, WorldMeter
from tests.sim.world.network import (
    FIRST_ADDRESS,
    INSTANT_S,
    DeviceClock,
    Fate,
    Killed,
    WorldBus,
    WorldLine,
    WorldNode,
)
from tests.sim.world.plan import BERLIN, DAY_S, HOUR_S, RING_S, TROUBLE_DAYS, ZONE, Happening, Plan
from updateagent.disk import RealDisk

LOG = logging.getLogger("world")

BAUDRATE, OCTET_BITS = 9600, 10
PORTS = tuple(
    PortConfig(f"plc{number}", PRIME_USI, f"/dev/plc{number}", 115_200, response_timeout_s=5.0) for number in range(2)
)
BUS_PORTS = tuple(
    PortConfig(
        f"bus{number}",
        HDLC,
        f"socket://bus{number}:4001",
        BAUDRATE,
        scan=ScanConfig(FIRST_ADDRESS - 1, FIRST_ADDRESS + 3, every_s=600),
        response_timeout_s=1.5,
        options={"address_bytes": 1},
    )
    for number in range(2)
)
LOAD_TASK, REGISTER_TASK = "load", "registers"
LISTS = {
    LOAD_TASK: f"obis,cls,attr,type\n{PROFILE},7,2,\n",
    REGISTER_TASK: f"obis,cls,attr,type\n{REGISTER.obis},3,2,\n0.0.1.0.0.255,8,2,clock\n",
}
FIRST_DAYS = 7.0  # so old are the rows that a first visit asks for
# In place of the daemon's own, which are there for beats. What gives it something to do wakes it, here as there.
WAIT_S, IDLE_S = 30.0, 900.0
BATCHES_MAX = 1000  # that wait in the last moment
BEFORE_NTP_S = 600.0  # a device without a battery starts in 1970, and is told the time so much later
LATENCY_S, SLOW_LATENCY_S = 0.05, 4.0
VISIT_S, SLOW_VISIT_S = 120.0, 60.0  # how long a visit may take
SILENCE_S = 60.0  # after which a port is opened anew
STRANGER = 9  # the number of a meter that does not belong here
BOOT_S = 20.0  # from power to the daemon
REFUSED_MAX_S = 6 * HOUR_S
OFF_MAX_S = 8 * HOUR_S
TOLD_AFTER_S = (2.0, 60.0, 600.0, 1500.0)  # a device whose power is back hears a time server so much later


class World:
    """`run` lets the plan happen; what there is to judge afterwards are `meters`, `headend`, `picture` and what lost
    frames did cost in `networks`."""

    register_task = REGISTER_TASK
    changes_meters = False  # whether meters are asked for what may not be asked for twice

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        for name, text in LISTS.items():
            (folder / f"{name}.csv").write_text(text)
        self.pick = random.Random(f"world/{plan.seed}/run")
        self.clock = DeviceClock(wall=plan.start.timestamp(), monotonic=1000.0)
        self.true_offset = self.clock.wall_offset
        self.began = self.clock.now
        self.starts = self.boots = 0
        self.told_off_s = 0.0  # how far what time servers say is from the truth
        self._power = random.Random(f"world/{plan.seed}/power")
        self._tick_at = self._ticked_at = self._uplink_at = self._look_at = self.clock.now
        self._hurried = False  # somebody wants the main thread
        self.meters = [self._meter(serial + 1) for serial in range(plan.meters)]
        self.fate = Fate()
        self.ports = (BUS_PORTS if plan.bus else PORTS)[: plan.ports]
        self.networks = [self._network(number) for number in range(plan.ports)]
        octet_s = OCTET_BITS / BAUDRATE if plan.bus else 0.0
        self.lines = [WorldLine(network, self.clock, self.fate, octet_s=octet_s) for network in self.networks]
        self.strangers: list[WorldMeter] = []  # at the address of another meter, now
        self.strange: dict[str, int] = {}  # their names, with the number of their port
        self.headend = WorldHeadend(random.Random(f"world/{plan.seed}/headend"))
        self.headend.trouble = plan.trouble
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.disturbed_at = self.clock.now  # when something happened last that all of the picture needs time for
        self.disturbances = 0
        self.picture = Picture(self)
        for happening in plan.happenings:
            self.at(happening.at, self._act(happening))
        self.at(TROUBLE_DAYS * DAY_S, self._calm)

    def _meter(self, serial: int) -> WorldMeter:
        plan = self.plan
        return WorldMeter(
            serial,
            self.civil,
            clockwork=Clockwork(BERLIN if plan.zone else None, plan.deviation),
            period_s=plan.period_s,
            entries=int(RING_S // plan.period_s) if plan.ring else 4000,
            packing=Packing(plan.compress, plan.packed_in_buffer, plan.order, plan.by_time),
            backlog_s=plan.backlog_days * DAY_S,
        )

    def _network(self, number: int) -> WorldNode | WorldBus:
        """The base node or the bus of a port, with its share of the meters."""
        meters = self.meters[number :: self.plan.ports]
        pick = random.Random(f"world/{self.plan.seed}/line{number or ''}")
        network: WorldNode | WorldBus
        if self.plan.bus:
            network = WorldBus(meters, pick)
        else:
            network = WorldNode(meters, self.clock.now, SLOW_LATENCY_S if self.plan.slow else LATENCY_S)
        network.faults.rng = pick
        network.faults.loss = self.plan.loss
        return network

    def network_of(self, meter: WorldMeter) -> WorldNode | WorldBus:
        return self.networks[self.meters.index(meter) % len(self.networks)]

    def _line_of(self, meter: WorldMeter) -> WorldLine:
        return self.lines[self.meters.index(meter) % len(self.lines)]

    # ---- time

    def civil(self) -> float:
        """True civil time, whatever the device believes."""
        return self.clock.now + self.true_offset

    def at(self, seconds: float, what: Callable[[], None]) -> None:
        """Do that so long after the beginning."""
        self._agenda.append((self.began + seconds, len(self._agenda), what))
        self._agenda.sort(reverse=True)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        self.at(self.clock.now - self.began + seconds, what)

    def disturb(self) -> None:
        """Something happens to the device or its lines: to say what is so now will take it a while."""
        self.disturbed_at = self.clock.now
        self.disturbances += 1
        for network in self.networks:
            network.losses.forget()

    def run(self) -> None:
        """Let everything happen."""
        with self.picture.listening():
            self._run_quickly()

    def _run_quickly(self) -> None:
        waits = portreader.WAIT_S, portreader.LOOK_IDLE_S, worker.LOOK_EVERY_S
        portreader.WAIT_S, portreader.LOOK_IDLE_S, worker.LOOK_EVERY_S = WAIT_S, IDLE_S, IDLE_S
        try:
            self._run()
        finally:
            portreader.WAIT_S, portreader.LOOK_IDLE_S, worker.LOOK_EVERY_S = waits

    def _run(self) -> None:
        self.start()
        end = self.began + self.plan.end_s
        while self.clock.now < end:
            try:
                self._turn(end)
            except Killed:
                self._dies()
                self.start()
        for meter in self.meters:
            meter.tick()
        self._deliver()
        self.stop()

    def _turn(self, end: float) -> None:
        """Let everybody act whose time has come; then let time pass until somebody's has."""
        while self._agenda and self._agenda[-1][0] <= self.clock.now:
            self._agenda.pop()[2]()
        now = self.clock.now  # hours may have passed without power
        self.fate.strike(now)
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            self.picture.look()
        if now >= self._tick_at or (self._hurried and now >= self._ticked_at + SOON_S):
            self._tick()
        if now >= self._uplink_at:
            pause = self.uplink.step()
            self._uplink_at = now + (max(pause, INSTANT_S) if pause > 0 else 0.0)
        line, others = self.lines[0], math.inf
        if len(self.lines) > 1:
            line, other = sorted(self.lines, key=WorldLine.next_due)
            others = other.next_due()
        horizon = min(others, self._next(end))
        if line.next_due() <= now:
            self._read(line, horizon)
        else:
            self.clock.now = max(now, min(horizon, line.next_due()))

    def _next(self, end: float) -> float:
        """When somebody other than a port has something to do."""
        ticks_at = min(self._tick_at, self._ticked_at + SOON_S) if self._hurried else self._tick_at
        agenda = self._agenda[-1][0] if self._agenda else end
        return min(end, ticks_at, self._uplink_at, self._look_at, self.fate.kill_at, agenda)

    def _read(self, line: WorldLine, horizon: float) -> None:
        """A round of a port's thread. It waits in it, for nobody else has anything to do before `horizon`."""
        reader = self.collector.workers[self.lines.index(line)]
        line.horizon = horizon
        reader._wakeup.clear()
        pause = reader.step()
        self.networks[self.lines.index(line)].losses.visited(reader._visits.keys(), self.clock.now)
        if pause > 0:
            line.due = self.clock.now + max(pause, INSTANT_S)

    def _tick(self) -> None:
        """A round of the main thread, as the supervisor makes them."""
        self._ticked_at, self._hurried = self.clock.now, False
        self._tick_at = self.clock.now + min(max(self.collector.tick(), SOON_S), IDLE_S)

    def _soon(self) -> None:
        self._hurried = True

    def _stored(self) -> None:
        """The store has something new: the uplink looks, unless it pauses after a failure."""
        self._uplink_at = min(self._uplink_at, self.clock.now + self.uplink.sink_status().again_in_s)

    def _deliver(self) -> None:
        """Let the uplink send what was stored in the last moment."""
        for _ in range(BATCHES_MAX):
            if self.uplink.step() > 0:
                return

    # ---- the daemon

    def start(self) -> None:
        """A start of the daemon, with what lies in its folder."""
        self.instance = InstanceLocks(self.folder)
        self.starts += 1
        self._hurried = False
        self.disturb()
        config = self.config()
        self.store = KillableStore(
            config.store_file, self.clock, records_max=10**6, keep_forwarded_max=self.plan.keep_forwarded
        )
        registry = Registry(RealDisk(), config.registry_file, self.clock, leave_after_s=config.leave_after_s)
        self.collector = Collector(
            self.ports,
            config,
            store=self.store,
            registry=registry,
            orders=self.make_orders(registry.names),
            lists=ReadingLists(self.folder, self.folder / "software"),
            clock=self.clock,
            rng=random.Random(self.starts),
            boot=f"boot {self.boots}",
            open_bridge=self._open,
            busy=self._soon,
            meters_health=self.picture.checked,
        )
        self.uplink = Uplink(
            self.store,
            self.headend,
            self.clock,
            device_id=DEVICE,
            backoff=Backoff(2.0, 300.0),
            rng=random.Random(self.starts),
        )
        provisioning = self.provisioning()
        self.collector.configure(provisioning)
        self.uplink.configure(provisioning.uplink)
        self.store.on_append = self._stored
        self._tick_at = self._uplink_at = self.clock.now
        self._ticked_at = -math.inf
        for line in self.lines:
            line.begin()
        for network in self.networks:
            network.losses.begin()

    def _open(self, port: PortConfig) -> Bridge:
        line = self.lines[[one.name for one in self.ports].index(port.name)]
        line.open()
        swallows = any(one.what == "swallow" for one in self.plan.happenings)
        core = TransparentLink() if self.plan.bus else PlcLink(reads_topology=self.plan.topology)
        return bridge_over(line, core, silence_s=SILENCE_S if swallows else 0.0)

    def make_orders(self, known: Callable[[], set[str]]) -> OrderBook:
        """The orders to meters, of which there are none here."""
        return OrderBook(Journal(RealDisk(), self.folder / "orders"), self.clock, allowed=(), known=known)

    def stop(self) -> None:
        """An orderly end."""
        self.instance.release()
        for reader in self.collector.workers:
            reader.close()
        self.collector.close()
        self.store.close()

    def _dies(self) -> None:
        """Nothing is closed; but the operating system gives the locks back."""
        LOG.info("the daemon is killed at %.0f", self.clock.now - self.began)
        self.instance.release()
        self.store.close()

    def config(self) -> MeteringConfig:
        return MeteringConfig(
            reading_lists_dir=self.folder,
            store_file=self.folder / "readings.db",
            registry_file=self.folder / "meters.json",
            store_records_max=10**6,
            store_keep_forwarded_max=self.plan.keep_forwarded,
            parallel_max=4,
            retries_max=3,
            retry_backoff_s=15.0,
            visit_timeout_s=SLOW_VISIT_S if self.plan.slow else VISIT_S,
            catch_up_s=86_400,
            leave_after_s=120.0,
            pdu_size=1024,
            profile_first_s=int(FIRST_DAYS * DAY_S),
            meter_utc_offset_min=0 if not self.plan.zone else None,
            uplink_backoff_min_s=2.0,
            uplink_backoff_max_s=300.0,
        )

    def provisioning(self) -> Provisioning:
        calendar = self.plan.calendar
        registers = ReadingTask(
            REGISTER_TASK,
            0 if calendar else self.plan.register_every_s,
            REGISTER_TASK,
            priority=1,
            times=calendar.fields if calendar else "",
            zone=ZONE,
        )
        return Provisioning(
            tasks=(ReadingTask(LOAD_TASK, self.plan.every_s, LOAD_TASK), registers),
            zone=ZONE,
            uplink=UplinkSettings(URL, "token", 300),
            access=MeterAccess(CLIENT, "low", PASSWORD),
        )

    # ---- what happens

    def _act(self, happening: Happening) -> Callable[[], None]:
        act = _ACTS[happening.what]

        def work() -> None:
            LOG.info("%.0f: %s, meter %d, %.2f", happening.at, happening.what, happening.meter, happening.amount)
            act(self, self.meters[happening.meter], happening.amount)

        return work

    def _calm(self) -> None:
        """The trouble is over: what is wrong now is put right, as a truck would."""
        LOG.info("calm from now on")
        if any(network.faults.silent for network in self.networks) or any(line.broken for line in self.lines):
            self.disturb()
        for network in self.networks:
            network.faults.loss = 0.0
            network.faults.silent = False
        self.headend.trouble, self.headend.down = 0.0, False
        for line in self.lines:
            line.broken = False
            line.refuses_until = -math.inf
        for stranger in list(self.strangers):
            self._take_off(stranger)
        for meter in self.meters:
            self._mute(meter, mute=False)
            self._refuse(meter, refuses=False)
            self._ail(meter, 0.0)
            self._switch(meter, on=True)
            self._move(meter, joined=True)
        self.tell_time(0.0)

    def tell_time(self, off_s: float) -> None:
        """What time servers say is so far from the truth from now on, and the device believes it."""
        self.told_off_s = off_s
        self.set_clock(off_s, trusted=True)

    def set_clock(self, off_s: float, *, trusted: bool) -> None:
        """The device's clock is now so far from the truth."""
        before = self.clock.wall_offset, self.clock.is_trusted
        self.clock.wall_offset = self.true_offset + off_s
        self.clock.is_trusted = trusted
        if before != (self.clock.wall_offset, trusted):
            self.disturb()
        self._tick_at = self.clock.now  # the kernel tells the main thread

    def kill(self, _meter: WorldMeter, _amount: float) -> None:
        self.fate.kill_at = self.clock.now

    def kill_in_append(self, _meter: WorldMeter, amount: float) -> None:
        self.store.kill_in = "before" if amount < 0.5 else "after"

    def kill_after_upload(self, _meter: WorldMeter, _amount: float) -> None:
        self.headend.kill_after = True

    def off(self, _meter: WorldMeter, amount: float) -> None:
        """The concentrator loses its power for up to eight hours, in the middle of what it does; its line and its
        modems wait. Another boot begins: monotonic time starts anew, and nothing vouches for civil time until a server
        has told it. Until then the device goes by its battery, which may have kept what a liar had said; by 1970; or by
        the time that was written last before the power failed."""
        self._dies()
        written = self.clock.wall()
        self.clock.now += amount * OFF_MAX_S + BOOT_S
        for line, network in zip(self.lines, self.networks, strict=True):
            network.reset(self.clock.now)
            line.incoming.clear()
        wall = self._power.choice((self.clock.wall(), BOOT_S, written + BOOT_S))
        self.boots += 1
        self.clock.booted_at = self.clock.now - BOOT_S
        self.set_clock(wall - self.civil(), trusted=False)
        self.later(self._power.choice(TOLD_AFTER_S), lambda: self.tell_time(self.told_off_s))
        self.start()

    def node_reset(self, meter: WorldMeter, _amount: float) -> None:
        self.network_of(meter).reset(self.clock.now)
        self.disturb()

    def leave(self, meter: WorldMeter, amount: float) -> None:
        self._move(meter, joined=False)
        self.later(amount * 12 * HOUR_S, lambda: self._move(meter, joined=True))

    def _move(self, meter: WorldMeter, *, joined: bool) -> None:
        network = self.network_of(meter)
        if network.is_joined(meter.id) != joined:
            network.move(meter.id, joined=joined)
            meter.disturb()

    def mute(self, meter: WorldMeter, amount: float) -> None:
        self._mute(meter, mute=True)
        self.later(amount * 12 * HOUR_S, lambda: self._mute(meter, mute=False))

    def _mute(self, meter: WorldMeter, *, mute: bool) -> None:
        faults = self.network_of(meter).faults
        if (meter.id in faults.mute) != mute:
            faults.mute = faults.mute | {meter.id} if mute else faults.mute - {meter.id}
            meter.disturb()

    def meter_off(self, meter: WorldMeter, amount: float) -> None:
        self._switch(meter, on=False)
        self.later(amount * 12 * HOUR_S, lambda: self._switch(meter, on=True))

    def _switch(self, meter: WorldMeter, *, on: bool) -> None:
        if meter.powered != on:
            meter.switch_power(on=on)

    def refuse(self, meter: WorldMeter, amount: float) -> None:
        """Somebody gives the meter another password for up to six hours."""
        self._refuse(meter, refuses=True)
        self.later(amount * REFUSED_MAX_S, lambda: self._refuse(meter, refuses=False))

    def _refuse(self, meter: WorldMeter, *, refuses: bool) -> None:
        if meter.refuses == refuses:
            return
        meter.refuse(refuses=refuses)
        if not refuses:  # keys that were refused rest, and the longer, the longer they were
            meter.disturbed_at += REFUSED_MAX_S

    def ail(self, meter: WorldMeter, amount: float) -> None:
        """For up to three hours the meter answers some of what it is asked for with errors, or all of it."""
        self._ail(meter, self.pick.choice((0.2, 0.6, 1.0)))
        self.later(amount * 3 * HOUR_S, lambda: self._ail(meter, 0.0))

    @staticmethod
    def _ail(meter: WorldMeter, share: float) -> None:
        if meter.ails != share:
            meter.ail(share)

    def columns(self, meter: WorldMeter, _amount: float) -> None:
        meter.capture_more()

    def second(self, _meter: WorldMeter, _amount: float) -> None:
        """Somebody starts a second daemon with the same configuration."""
        with contextlib.suppress(AlreadyRunningError):
            InstanceLocks(self.folder).release()
            self.picture.wrong.append("a second daemon runs in the folder of the first")

    def swallow(self, meter: WorldMeter, _amount: float) -> None:
        """A terminal server takes what it is given, and gives nothing, on the connection that there is."""
        self._line_of(meter).swallows = True
        self.disturb()

    def hang_up(self, meter: WorldMeter, _amount: float) -> None:
        """A terminal server ends the connection, and takes the next one."""
        self._line_of(meter).hangs_up = True
        self.disturb()

    def refused(self, meter: WorldMeter, amount: float) -> None:
        """It ends the connection, and takes none for up to three hours."""
        line = self._line_of(meter)
        line.hangs_up = True
        line.refuses_until = self.clock.now + amount * 3 * HOUR_S
        self.disturb()
        self.later(amount * 3 * HOUR_S, self.disturb)

    def double(self, meter: WorldMeter, amount: float) -> None:
        """For up to three hours somebody has another meter at the address of this one."""
        network = self.network_of(meter)
        if isinstance(network, WorldBus) and not self.strangers:
            stranger = self._meter(STRANGER)
            network.add_stranger(stranger, meter, collides=self.pick.random() < 0.5)
            self.strangers.append(stranger)
            self.strange[stranger.id] = self.networks.index(network)
            self.disturb()
            self.later(amount * 3 * HOUR_S, lambda: self._take_off(stranger))

    def _take_off(self, stranger: WorldMeter) -> None:
        if stranger in self.strangers:
            self.strangers.remove(stranger)
            for network in self.networks:
                if isinstance(network, WorldBus):
                    network.remove_stranger(stranger)
            self.disturb()

    def headend_down(self, _meter: WorldMeter, amount: float) -> None:
        self.headend.down = True
        self.later(amount * 12 * HOUR_S, lambda: setattr(self.headend, "down", False))

    def meter_clock(self, meter: WorldMeter, amount: float) -> None:
        """Somebody sets the meter's clock: by minutes, or by an hour either way, or back to the truth."""
        meter.set_clock(self.pick.choice((-3600.0, 3600.0, -600.0, 600.0, 0.0, -7000.0 * amount)))

    def meter_2028(self, meter: WorldMeter, amount: float) -> None:
        """The meter's clock is two years ahead for a few rows, and then right again."""
        meter.set_clock(2 * 365 * DAY_S)
        self.later((0.2 + amount) * 4 * meter.period_s, lambda: meter.set_clock(0.0))

    def clock_back(self, _meter: WorldMeter, amount: float) -> None:
        self.tell_time(-2 * HOUR_S)
        self.later(amount * 4 * HOUR_S, lambda: self.tell_time(0.0))

    def clock_ahead(self, _meter: WorldMeter, amount: float) -> None:
        self.tell_time(DAY_S)
        self.later(600 + amount * HOUR_S, lambda: self.tell_time(0.0))

    def clock_1970(self, _meter: WorldMeter, amount: float) -> None:
        """A start without time: 1970, until somebody tells it."""
        self.fate.kill_at = self.clock.now
        self.set_clock(-self.civil() + 100.0, trusted=False)
        self.later(BEFORE_NTP_S * (1 + amount), lambda: self.tell_time(0.0))

    def store_page(self, _meter: WorldMeter, amount: float) -> None:
        """A page of the store's file goes bad, at rest, and the daemon starts anew."""
        self.stop()
        file = self.folder / "readings.db"
        data = bytearray(file.read_bytes())
        at = int(amount * (len(data) // 512)) * 512
        if at >= 512:  # without its first page no file is a database
            data[at : at + 512] = self.pick.randbytes(512)
            file.write_bytes(data)
        self.start()

    def store_pages(self, _meter: WorldMeter, amount: float) -> None:
        """Up to a third of the store's pages go bad, at rest."""
        self.stop()
        file = self.folder / "readings.db"
        data = bytearray(file.read_bytes())
        pages = range(1, len(data) // 512)
        for page in self.pick.sample(pages, int(amount * len(pages) / 3)):
            data[page * 512 : (page + 1) * 512] = self.pick.randbytes(512)
        file.write_bytes(data)
        self.start()

    def restore(self, _meter: WorldMeter, amount: float) -> None:
        """The head-end's database is put back by up to six hours; what came in them is asked for again."""
        self.headend.back_up()
        self.later(600 + amount * 6 * HOUR_S, lambda: self.headend.restore(self.civil()))

    def line_cut(self, meter: WorldMeter, amount: float) -> None:
        line = self._line_of(meter)
        line.broken = True
        self.disturb()
        self.later(amount * 3 * HOUR_S, lambda: self._over(lambda: setattr(line, "broken", False)))

    def silence(self, meter: WorldMeter, amount: float) -> None:
        faults = self.network_of(meter).faults
        faults.silent = True
        self.disturb()
        self.later(amount * 2 * HOUR_S, lambda: self._over(lambda: setattr(faults, "silent", False)))

    def _over(self, what: Callable[[], None]) -> None:
        what()
        self.disturb()


_ACTS: dict[str, Callable[[World, WorldMeter, float], None]] = {
    "kill": World.kill,
    "kill-in-append": World.kill_in_append,
    "kill-after-upload": World.kill_after_upload,
    "off": World.off,
    "node-reset": World.node_reset,
    "leave": World.leave,
    "mute": World.mute,
    "meter-off": World.meter_off,
    "headend-down": World.headend_down,
    "meter-clock": World.meter_clock,
    "meter-2028": World.meter_2028,
    "clock-back": World.clock_back,
    "clock-ahead": World.clock_ahead,
    "clock-1970": World.clock_1970,
    "store-page": World.store_page,
    "store-pages": World.store_pages,
    "restore": World.restore,
    "line-cut": World.line_cut,
    "silence": World.silence,
    "second": World.second,
    "swallow": World.swallow,
    "refuse": World.refuse,
    "ail": World.ail,
    "columns": World.columns,
    "hang-up": World.hang_up,
    "refused": World.refused,
    "double": World.double,
}


class KillableStore(Store):
    """The store, at whose next commit the daemon can be killed: just before it, or just after."""

    kill_in = ""

    def append_all(
        self,
        visits: Sequence[Brought],
        also: Callable[[sqlite3.Connection], None] = lambda _db: None,
        lists_from: float = math.inf,
    ) -> list[tuple[int, int]]:
        kill, self.kill_in = self.kill_in, ""
        if kill == "before":
            raise Killed
        ids = super().append_all(visits, also, lists_from)
        if kill == "after":
            raise Killed
        return ids
