"""A port with all that hangs on it in virtual time: the real collector, reader, bridge and link, over a half-duplex
line with a baud rate, to a base node with meters behind it.

    site = Site(folder, meters=200)
    site.join()                       # all nodes are in the network and nothing is asked of them yet
    first = site.timed_run()          # provisioned now: the meters' first run, with scalers and units
    second = site.timed_run()         # the next aligned time, and how long it takes until the last value is stored

Whatever happens is a function of the arguments: seconds are counted on the virtual clock, so that a figure is exact and
a test may compare it. A frame that is lost takes its time on the line like any other.
"""

from __future__ import annotations

import heapq
import itertools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from agent.metering.collector import Collector
from agent.metering.orders.journal import Journal
from agent.metering.orders.order_book import OrderBook
from agent.metering.registry.registry import Registry
from agent.metering.scheduling.readinglist import ReadingLists
from agent.metering.store.reading_store import Store
from agent.settings.config import MeteringConfig, PortConfig
from agent.settings.provisioning import MeterAccess, Provisioning, ReadingTask
from dlms.simulator.reading_list import rows_from_csv
from plc.bridge import Bridge
from plc.prime.link import PlcLink
from plc.prime.usi import UsiDecoder, UsiFrame
from plc.protocols import PRIME_USI
from tests.agent.virtual import VirtualClock
from tests.sim.meters import SimMeter
from tests.sim.plc_network import BaseNode
from updateagent.disk import RealDisk

LISTS = Path(__file__).parents[2] / "etc" / "reading-lists"
LIST = "residential-108"
PASSWORD = b"pole42-lls"
CLIENT = 16
EVERY_S = 900
BAUDRATE = 115_200
LATENCY_S = 0.05
OCTET_BITS = 10  # 8N1
_FRAME = re.compile(rb"\x7e[^\x7e]+\x7e")

Lost = Callable[[UsiFrame, bool], bool]
"""Whether this frame is lost; the second argument says that it comes from the host."""


def nothing_lost(_frame: UsiFrame, _from_host: bool) -> bool:
    """A clean line."""
    return False


def share_lost(share: float, seed: int) -> Lost:
    """Of all frames, either way, this share is lost."""
    pick = random.Random(seed)
    return lambda _frame, _from_host: pick.random() < share


class HalfDuplexLine:
    """A `plc.bridge.BytePort` to a base node: one frame at a time, whichever way, at `baudrate`.

    `busy_s` is the time in which octets were carried since `mark`, `span_s` that from the first to the last of them.
    """

    def __init__(self, network: BaseNode, clock: VirtualClock, baudrate: int, lost: Lost = nothing_lost) -> None:
        self.network = network
        self.lost = lost
        self._clock = clock
        self._octet_s = OCTET_BITS / baudrate
        self._free_at = 0.0
        self._on_way: list[tuple[float, int, bool, bytes]] = []
        self._order = itertools.count()
        self._incoming = bytearray()
        self.mark()

    def mark(self) -> None:
        """Count from now on."""
        self.octets = 0
        self.frames = 0
        self.busy_s = 0.0
        self._first_at: float | None = None

    @property
    def span_s(self) -> float:
        return 0.0 if self._first_at is None else self._free_at - self._first_at

    def read(self, wait_s: float) -> bytes:
        end = self._clock.now + max(wait_s, 0.0)
        while True:
            self._due()
            if self._incoming or self._clock.now >= end:
                break
            times = [end, *(at for at, *_ in self._on_way[:1])]
            deadline = self.network.next_deadline()
            if deadline is not None:
                times.append(deadline)
            self._clock.now = max(self._clock.now + 1e-6, min(times))
        data = bytes(self._incoming)
        self._incoming.clear()
        return data

    def write(self, data: bytes) -> None:
        for frame in _FRAME.findall(data):
            self._put(frame, from_host=True)
        self._due()

    def close(self) -> None:
        pass

    def _put(self, wire: bytes, *, from_host: bool) -> None:
        start = max(self._free_at, self._clock.now)
        self._free_at = start + len(wire) * self._octet_s
        self._first_at = start if self._first_at is None else self._first_at
        self.busy_s += len(wire) * self._octet_s
        self.octets += len(wire)
        self.frames += 1
        decoder = UsiDecoder()
        decoder.feed(wire)
        frame = decoder.next()
        if not isinstance(frame, UsiFrame) or not self.lost(frame, from_host):
            heapq.heappush(self._on_way, (self._free_at, next(self._order), from_host, wire))

    def _due(self) -> None:
        while True:
            deadline = self.network.next_deadline()
            if deadline is not None and deadline <= self._clock.now:
                self.network.on_deadline(self._clock.now)
            for burst in self.network.take_bursts():
                for frame in _FRAME.findall(burst):
                    self._put(frame, from_host=False)
            if not self._on_way or self._on_way[0][0] > self._clock.now:
                return
            _, _, from_host, wire = heapq.heappop(self._on_way)
            if from_host:
                self.network.receive(wire, self._clock.now)
            else:
                self._incoming += wire


@dataclass(frozen=True, slots=True)
class Run:
    """One run: seconds until the last value that could be had was stored, and what the line did meanwhile."""

    seconds: float
    values: int
    wanted: int
    busy_s: float
    span_s: float
    octets: int
    frames: int

    @property
    def complete(self) -> bool:
        return self.values == self.wanted

    @property
    def busy(self) -> float:
        """The share of the time from the first to the last octet in which the line carried one."""
        return self.busy_s / self.span_s if self.span_s else 0.0


class Site:
    """One collector, one port, one base node. `dead` is the number of meters that hear and never answer."""

    def __init__(
        self,
        folder: Path,
        meters: int,
        *,
        dead: int = 0,
        baudrate: int = BAUDRATE,
        latency_s: float = LATENCY_S,
        parallel_max: int = 8,
        network: BaseNode | None = None,
        **settings: float,
    ) -> None:
        rows = rows_from_csv(LISTS / f"{LIST}.csv")
        self.codes = len(rows)
        self.clock = VirtualClock(wall=1_800_000_007.0)
        self.meters = [SimMeter(serial + 1, rows, 3, PASSWORD) for serial in range(meters)]
        self.network = network or BaseNode(
            self.meters, start=self.clock.now, join_interval_s=0.001, latency_s=latency_s
        )
        self.alive = meters - dead
        # Spread over the network, as they would be: every so many meters one is dead.
        mute = {self.meters[at * meters // dead].id for at in range(dead)} if dead else set()
        self.network.faults.set({"mute": sorted(mute)})
        self.line = HalfDuplexLine(self.network, self.clock, baudrate)
        config = replace(site_config(folder), parallel_max=parallel_max, **settings)  # type: ignore[arg-type]
        self.store = Store(config.store_file, self.clock, records_max=10**7, keep_forwarded_max=0)
        self.registry = Registry(RealDisk(), config.registry_file, self.clock, leave_after_s=config.leave_after_s)
        self.collector = Collector(
            [PortConfig("plc0", PRIME_USI, "/dev/plc", baudrate, response_timeout_s=20.0)],
            config,
            store=self.store,
            registry=self.registry,
            orders=OrderBook(Journal(RealDisk(), folder / "orders"), self.clock, allowed=(), known=self.registry.names),
            lists=ReadingLists(LISTS, folder / "software"),
            clock=self.clock,
            rng=random.Random(3),
            open_bridge=lambda _port: Bridge(self.line, PlcLink(), clock=self.clock.monotonic),
        )
        self.reader = self.collector.workers[0]
        self.provisioned = False

    def advance(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let `seconds` pass, or fewer when `until` says so before."""
        end = self.clock.now + seconds
        while self.clock.now < end and not until():
            pause = self.reader.step()
            self.collector.tick()
            self.clock.now += pause

    def join(self) -> None:
        """Let all nodes join. Raises `RuntimeError` when they have not within a minute."""
        self.advance(60.0, lambda: len(self.registry.present("plc0")) == len(self.meters))
        if len(self.registry.present("plc0")) < len(self.meters):
            raise RuntimeError("the nodes have not joined")

    def timed_run(self, limit_s: float = EVERY_S - 10.0, lost: Lost = nothing_lost) -> Run:
        """Let the next run happen, on a line that loses what `lost` says, until every living meter is read."""
        if self.provisioned:
            self.advance(EVERY_S - self.clock.wall() % EVERY_S)
        begin, before = self.clock.now, self.stored()
        if not self.provisioned:
            self.provisioned = True
            tasks = (ReadingTask("t1", EVERY_S, LIST),)
            self.collector.configure(Provisioning(tasks=tasks, access=MeterAccess(CLIENT, "low", PASSWORD)))
        wanted = before + self.alive * self.codes
        self.line.mark()
        self.line.lost = lost
        self.advance(limit_s, lambda: self.stored() >= wanted)
        self.line.lost = nothing_lost
        return Run(
            self.clock.now - begin,
            self.stored() - before,
            wanted - before,
            self.line.busy_s,
            self.line.span_s,
            self.line.octets,
            self.line.frames,
        )

    def stored(self) -> int:
        return self.store.stats().pending

    def close(self) -> None:
        self.reader.close()
        self.collector.close()
        self.store.close()


def site_config(folder: Path) -> MeteringConfig:
    """The settings of a device as it is shipped, with files in `folder`."""
    return MeteringConfig(
        reading_lists_dir=LISTS,
        store_file=folder / "readings.db",
        registry_file=folder / "meters.json",
        store_records_max=10**7,
        store_keep_forwarded_max=0,
        parallel_max=8,
        retries_max=3,
        retry_backoff_s=15.0,
        visit_timeout_s=120.0,
        catch_up_s=86_400,
        leave_after_s=60.0,
        pdu_size=1024,
        profile_first_s=86_400,
        meter_utc_offset_min=None,
        uplink_backoff_min_s=1.0,
        uplink_backoff_max_s=60.0,
    )
