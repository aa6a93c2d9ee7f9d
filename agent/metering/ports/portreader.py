"""One port and all meters behind it: a worker that drives the bridge and as many visits at a time as the port can take.

Behind a base node (PRIME), meters announce themselves and several are visited at once: while one answers, the others'
packets travel. On an HDLC bus one conversation has the line, and meters are found by asking addresses. How meters are
found is said by the port (`scan`), how many are visited at once by its bridge (`shared_bus`).

Whether the port is open and works: `agent.metering.ports.port_state`.

How long a meter behind a base node takes to answer is learned per meter and per port; a request that is not answered by
then is asked again, see `dlms.client.session`. A visit that waits beyond that, or only for its end, gives its place to
another one, and so does from its start the visit of a meter that answered nothing the last time: silent meters cost the
line a few octets, of one question that is asked twice, and no time.

A visit that fails is tried again after a pause that doubles, `retries_max` times per run; then the run is given up for
that meter, until its next run or until it joins again. Other meters go first meanwhile, so one silent meter never keeps
the line idle.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, TypeGuard

from agent.clock import Clock
from agent.metering.access.accessbook import AccessBook, Opening, Which
from agent.metering.access.session import AccessSession
from agent.metering.events import scaler_check
from agent.metering.events.desk import EventDesk
from agent.metering.events.port_ears import PortEars
from agent.metering.ledger.ledger import Reason
from agent.metering.orders.order_book import OrderBook, Task
from agent.metering.ports.held_visits import HeldVisits
from agent.metering.ports.line_watch import LineWatch
from agent.metering.ports.patience import Patience
from agent.metering.ports.port_state import Bridge, PortHealth, PortState
from agent.metering.ports.probe import Probe
from agent.metering.ports.visit_results import VisitResults
from agent.metering.registry.counters import FailureKind, failure_kind
from agent.metering.registry.device_book import DeviceBook
from agent.metering.registry.entry import Meter
from agent.metering.registry.network import NetworkBook
from agent.metering.registry.registry import Registry
from agent.metering.scheduling.tasks import OwedRun, TaskBook
from agent.metering.store.reading_store import Store, StoreError
from agent.metering.visit.visit import Channel, ProfileKey, Visit
from agent.metering.visit.visit_memory import (
    KnowledgeCache,
    Leftovers,
    NameQuestions,
    Rests,
    Retries,
)
from agent.settings.config import MANAGEMENT_LOGICAL_DEVICE, MeteringConfig, PortConfig
from agent.wakeup import Wakeup
from dlms.client.knowledge import MeterKnowledge
from dlms.cosem.obis import AttributeRef
from dlms.cosem.time import ClockPolicy
from dlms.errors import DlmsError
from dlms.link.datalink import DataLink, LineSettings, heard_by
from dlms.link.roundtrip import Bounds, NodeRoundTrip, RoundTrips
from plc.errors import PlcDefectError, PlcError, PlcLocalError, PlcSilentError
from plc.events import (
    BaseNodeRestarted,
    BaseNodeSilent,
    DataReceived,
    ManagementUnanswered,
    NetworkNoted,
    NodeEvent,
    NodeJoined,
    NodeLeft,
    NodesListed,
    ResyncNoted,
)
from plc.protocols import Asking

if TYPE_CHECKING:
    from agent.metering.orders.order_visit import OrderVisit

LOG = logging.getLogger("agent.metering.port")

QUIET_S = 30.0  # nobody has needed the line for so long, and nobody will: meters are asked what they are
WAIT_S = 0.5  # the longest wait for bytes while a meter is visited, or an order waits
LOOK_EVERY_S = 1.0  # how often all meters are checked for what they owe, while some owe anything or are visited
LOOK_IDLE_S = 10.0  # the same with nothing to do. Bytes, `wake`, the end of a rest and a run that begins come before
IDLE_MAX = 32  # visits that wait without holding a place: those of silent meters
REPEATS_MAX = 3  # of a request that is not answered: with 3 % of all frames lost, four in ten thousand need one more
REPEATS_SILENT = 1  # of what a silent meter is asked: one lost frame must not pass for its silence
ANSWER_FIRST_S = 3.0  # how long to wait for an answer before any meter of the port has given one; slow lines: longer
FULL_FACTOR = 1.25  # framing, confirms and requests
OCTET_BITS = 10  # 8N1
ANSWER_SHORTEST_S = 1.0  # an answer may stand behind those of all other visits on the serial line
RESPONSE_TIMEOUT_MIN_S = 60.0  # of the session; a backstop, as the links below have timeouts of their own


@dataclass(frozen=True, slots=True)
class ReaderDeps:
    """What the readers of all ports share. `health(port, how it stands)` is told of every change. `busy()`: in this
    round something was done or came in, so there may be news."""

    store: Store
    registry: Registry
    tasks: TaskBook
    access: AccessBook
    clock: Clock
    rng: random.Random
    orders: OrderBook
    devices: DeviceBook
    network: NetworkBook
    health: Callable[[str, PortHealth], None] = lambda _port, _health: None
    events: EventDesk | None = None
    busy: Callable[[], None] = lambda: None


class PortReader:
    """The worker of one port."""

    budget_s = 90.0

    def __init__(
        self, port: PortConfig, metering: MeteringConfig, deps: ReaderDeps, open_bridge: Callable[[PortConfig], Bridge]
    ) -> None:
        """`open_bridge` raises `PlcError` when the port cannot be opened."""
        self.name = f"port-{port.name}"
        self._port = port
        self._metering = metering
        self._deps = deps
        self._clock = deps.clock
        self._parallel_max = port.parallel_max or metering.parallel_max
        self._policy = ClockPolicy(utc_offset_minutes=metering.meter_utc_offset_min)
        self._retries = Retries(metering, deps.clock, deps.rng.random)
        self._knowledge = KnowledgeCache(deps.store)
        self._results = VisitResults(deps.store, deps.tasks, deps.devices, self._knowledge, deps.clock, self._policy)
        self._wakeup = Wakeup()
        self._held = HeldVisits()
        self._leftovers = Leftovers()
        self._rests = Rests()
        self._rests_at = 0.0  # when it is looked again whether one of them can go on
        self._patience = Patience(port.response_timeout_s)
        self._watch = LineWatch(port.name, "HDLC" if port.scan is not None else port.protocol.name)
        self._probe = Probe(port, deps.registry, self._patience, self._watch)
        self._state = PortState(
            port,
            deps.registry,
            deps.tasks,
            deps.clock,
            deps.rng,
            watch=self._watch,
            probe=self._probe,
            open_bridge=open_bridge,
            health=deps.health,
            wakeup=self._wakeup,
        )
        self._ears = PortEars(port, deps.events, deps.clock) if deps.events is not None else None
        self._links: dict[int, DataLink] = {}  # of the visits, by address
        full_s = 0.0 if port.protocol.own_urls else self._parallel_max * metering.pdu_size * OCTET_BITS / port.baudrate
        self._round_trips = RoundTrips(answer_bounds(port.response_timeout_s, full_s))
        self._silent: set[str] = set()  # meters (their keys) whose last visit brought no answer at all
        self._visits: dict[int, Visit] = {}
        self._line: deque[Meter] = deque()
        self._nameless: deque[Meter] = deque()
        self._names = NameQuestions(deps.rng.random)
        self._background_at = 0.0  # on a bus: when an order that takes long may go on
        self._look_at = 0.0
        self._look_wanted = False  # by another thread
        self._generation = -1
        self._scalers_max: dict[str, int] = {}  # of meters (their keys) that took too long for all of them
        self._sets_line = False  # whether the line was ever to stand otherwise than the port has it
        self._busy_at = 0.0  # when a visit was last under way

    # --- the worker ---

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        self._deps.health(self._port.name, PortHealth("not open yet"))
        while not stop.is_set():
            beat()
            pause_s = self.step()
            if pause_s > 0:
                self._wakeup.wait(min(pause_s, LOOK_IDLE_S))
            self._wakeup.clear()  # and then it is looked what for
        self.close()

    def wake(self) -> None:
        """Have `run` look now for a stop, new settings, orders and the clock. Any thread."""
        self._look_wanted = True
        self._wakeup.set()

    def step(self) -> float:
        """Make one round. Waits in the bridge for at most `LOOK_IDLE_S`, while a meter is visited for `WAIT_S`.

        Returns how many seconds to wait before the next round: more than 0 only while there is no bridge.
        """
        bridge = self._state.bridge
        if bridge is None:
            pause_s = self._state.open()
            if self._ears is not None and self._state.bridge is not None:
                self._ears.attach(self._state.bridge)
            return pause_s
        try:
            self._round(bridge, self._clock.monotonic())
        except PlcDefectError as error:
            self._state.defective(str(error))
            self._drop(str(error))
        except PlcSilentError as error:
            self._state.silent(str(error))
            self._drop(str(error))
        except PlcError as error:
            self._state.lost(str(error))
            self._drop(str(error))
        return 0.0

    def close(self) -> None:
        """Close the port, store what visits have brought, and drop those under way."""
        self._store_held()
        for visit in self._visits.values():
            self._deps.tasks.ended(visit.runs, visit.meter.meter_id, ok=False, final=False)
        self._visits.clear()
        self._state.close()

    def _drop(self, why: str) -> None:
        """The port is gone: end what was under way through it."""
        for visit in list(self._visits.values()):
            self._over(visit, f"the port is lost: {why}", counts=False)
        self._probe.abandon()
        self.close()
        self._deps.registry.leave_all(self._port.name)
        self._state.try_again_later(why)

    # --- a round ---

    def _round(self, bridge: Bridge, now: float) -> None:
        if self._ears is not None:
            self._ears.send(bridge, now)
        self._begin(bridge, now)
        self._set_line(bridge)
        look_at = self._deps.network.look(self._port.name, bridge, now)
        events = bridge.poll(now, min(self._wait_s(bridge, now), max(0.0, look_at - now)))
        if events or self._visits:
            self._deps.busy()
        for event in events:
            self._on_event(event)
        now, wall = self._clock.monotonic(), self._clock.wall()
        for visit in list(self._visits.values()):
            self._advance(visit, partial(visit.step, now, wall))
        speaking = any(visit.meter.key not in self._silent for visit in self._visits.values())
        if self._held.due(now, more_to_come=bool(self._line) or speaking):
            self._store_held()
        if self._ears is not None:
            self._ears.flush()
        found = self._probe.step(now)
        if found is not None:
            self._retries.reset(found)  # it is back: what was given up is tried again
            self._look_at = 0.0
            self._state.meter_answered()
        elif self._state.problem and self._watch.trouble not in self._state.problem:
            self._state.report(self._watch.trouble)

    def _set_line(self, bridge: Bridge) -> None:
        """Have the line stand as the meter that is talked to needs it, where meters of one bus differ."""
        self._sets_line = self._sets_line or self._port.lines_differ  # and back, once the last such meter is gone
        if not self._sets_line:
            return
        asked = self._probe.asked
        for address, link in [*self._links.items(), *([asked] if asked else [])]:
            line = getattr(link, "line", None)  # of a link that changes it on its way
            bridge.set_line(line if isinstance(line, LineSettings) else self._port.line(address))

    def _advance(self, visit: Visit, take: Callable[[], None]) -> None:
        """Make one step of a visit."""
        with self._faults_of(visit):
            take()
            if visit.outcome is not None:
                self._finish(visit)
            elif visit.due:
                self._keep_step(visit)

    @contextlib.contextmanager
    def _faults_of(self, visit: Visit) -> Iterator[None]:
        """End a visit whose readings cannot be stored, or that brings a defect of ours to light: one meter must not
        keep all others from being read, start after start. A defect is logged as one, and counts as a failure of that
        visit."""
        try:
            yield
        except PlcError:
            raise
        except StoreError as error:
            self._unstored(visit, error)
        except Exception as error:
            LOG.exception("defect in the visit of %s", visit.meter.meter_id, extra={"event": "visit.defect"})
            self._over(visit, f"defect: {type(error).__name__}", trouble=Reason.FAILING)

    def _wait_s(self, bridge: Bridge, now: float) -> float:
        is_idle = not self._visits and not self._probe.running and not self._deps.orders.waiting
        longest = self._look_at if is_idle and self._look_at > now else now + WAIT_S
        deadlines = [longest, self._probe.deadline(), self._held.deadline()]
        deadlines += [visit.deadline() for visit in self._visits.values()]
        if self._room(bridge) > 0 and not self._deps.tasks.quiet():
            deadlines.append(self._probe.next_begin(now))
        start = self._deps.tasks.next_start()
        if start is not None:
            deadlines.append(now + start)
        return max(0.0, min(deadlines) - now)

    def _on_event(self, event: NodeEvent) -> None:
        registry, name = self._deps.registry, self._port.name
        self._deps.network.event(name, event)
        match event:
            case NodeJoined(address=address, eui48=eui48):
                meter = registry.join(name, address, eui48)
                self._cut_off(address, "the meter joined again")
                self._retries.reset(meter)  # it is back: what was given up is tried again
                self._names.reset(meter)
                self._silent.discard(meter.key)
                self._look_at = 0.0
                self._state.base_node_answers()
            case NodeLeft(address=address):
                left = registry.at(name, address)
                if left is not None:
                    registry.leave(left.key)
                    self._silent.discard(left.key)
                self._cut_off(address, "the meter left the network")
            case BaseNodeRestarted():
                LOG.warning("port %s: the base node restarted", name, extra={"event": "port.restarted"})
            case NodesListed(count=count):
                LOG.debug("port %s: %d nodes", name, count)
                self._state.base_node_answers()
            case BaseNodeSilent(attempts=attempts):
                self._state.base_node_is_silent(attempts)
            case NetworkNoted(kind=kind, eui48=node, sid=sid):
                LOG.debug("port %s: %s of %s, below switch %d", name, kind, node.hex(), sid)
            case ManagementUnanswered(what=what, pib=pib):
                LOG.debug("port %s: the base node has not answered a %s of 0x%04x", name, what, pib)
            case DataReceived() if self._ears is not None:
                self._ears.packet(event)
            case ResyncNoted(dropped_bytes=dropped, why=why):
                LOG.debug("port %s: %d bytes dropped: %s", name, dropped, why)
            case _:
                pass

    def _cut_off(self, address: int, why: str) -> None:
        """End the visit of a node whose connection is gone: nobody answers it any more."""
        visit = self._visits.get(address)
        if visit is not None:
            self._over(visit, why, counts=False)

    # --- who is next ---

    def _begin(self, bridge: Bridge, now: float) -> None:
        if self._generation != self._deps.tasks.generation:
            self._generation = self._deps.tasks.generation
            self._retries.reset_all()  # other tasks, or another password: everybody gets a new chance
            self._look_at = 0.0
            if self._state.problem:
                self._state.report(self._state.problem)  # whether it is excused depends on there being tasks
            with contextlib.suppress(StoreError):  # its owner reports it; the next change of tasks tidies up
                self._deps.tasks.tidy()
                self._deps.store.retain(
                    self._deps.registry.names() | self._deps.devices.rows() | self._deps.network.rows()
                )
        room = self._begin_orders(bridge, self._room(bridge), now)
        if self._look_wanted:
            self._look_wanted, self._look_at = False, 0.0
        if room > 0 and now >= self._look_at:
            self._line = deque(self._waiting(now))
            self._nameless = deque(self._without_names(now))
            self._look_at = self._next_look(now)
        while room > 0 and self._line:
            meter = self._line.popleft()
            runs = self._runs_of(meter, now)
            if runs:
                self._visit(bridge, meter, runs, now)
                room -= 1
        if self._deps.tasks.quiet():
            return
        if room > 0 and not self._state.proven and not self._visits and self._deps.tasks.in_force:
            room -= self._identify(bridge, now)
        while room > 0 and self._nameless:
            meter = self._nameless.popleft()
            if meter.address not in self._visits:
                self._names.asked(meter, now)
                self._visit(bridge, meter, [], now)
                room -= 1
        if room > 0 and self._is_quiet(now):
            room -= self._take_inventory(bridge, now)
        if room > 0:
            try:
                self._probe.begin(bridge, now)
            except DlmsError as error:
                LOG.warning("port %s: %s", self._port.name, error, extra={"event": "port.scan"})
        self._go_on_with_rests(bridge, now)

    def _next_look(self, now: float) -> float:
        """Return when all meters are to be checked again for what they owe."""
        start = self._deps.tasks.next_start()
        ends = [now + LOOK_IDLE_S, max(now + LOOK_EVERY_S, self._retries.next_end(now))]
        if self._line or self._visits:
            ends.append(now + LOOK_EVERY_S)
        if start is not None:
            ends.append(now + start)
        return min(ends)

    def _begin_orders(self, bridge: Bridge, room: int, now: float) -> int:
        """Begin what was ordered, before anything scheduled. Returns how many visits may still begin.

        A visit of the same meter gives way, and on a bus, where one conversation has the line, any visit. What takes
        long has half of the places at most, and on a bus half of the time.
        """
        if not self._deps.orders.waiting:
            return room
        present = {meter.meter_id: meter for meter in self._deps.registry.present(self._port.name)}
        due = self._deps.orders.due(present)
        for task in sorted(due, key=lambda task: task.background):
            meter = present[task.meter_id]
            if self._deps.access.resting(meter):  # too many wrong keys lock a meter, whoever tries them
                self._deps.orders.begun(task)
                self._deps.orders.lost(task, "the meter refused its keys and is not asked for a while", final=True)
                continue
            if task.background and not self._background_may_begin(bridge, now):
                continue
            if room > 0 and meter.address not in self._visits:
                self._visit(bridge, meter, [], now, task)
                room -= 1
                continue
            if task.background:
                continue
            for address, visit in list(self._visits.items()):
                if (bridge.shared_bus or address == meter.address) and _gives_way(visit, task):
                    self._advance(visit, partial(visit.give_way, now))
            room = 0  # nothing scheduled begins before this has its place
        return room

    def _background_may_begin(self, bridge: Bridge, now: float) -> bool:
        if bridge.shared_bus:
            return now >= self._background_at
        running = sum(_for_order(visit) and visit.task.background for visit in self._visits.values())
        return running < max(1, self._parallel_max // 2)

    def _room(self, bridge: Bridge) -> int:
        """How many visits may begin now."""
        if bridge.shared_bus:
            return 1 - len(self._visits) - self._probe.running
        idle = sum(visit.waits_idly or visit.meter.key in self._silent for visit in self._visits.values())
        return self._parallel_max - len(self._visits) + min(idle, IDLE_MAX) - self._probe.running

    def _identify(self, bridge: Bridge, now: float) -> int:
        """Visit one meter that owes nothing, for its name alone. Returns the number of visits begun."""
        for meter in self._deps.registry.present(self._port.name):
            if not (self._retries.resting(meter, now) or self._deps.access.resting(meter)):
                self._visit(bridge, meter, [], now)
                return 1
        return 0

    def _without_names(self, now: float) -> list[Meter]:
        """Return the meters that are in a task, or not, by a name that they have not told yet."""
        return [
            meter
            for meter in self._deps.registry.present(self._port.name)
            if not meter.named and self._names.due(meter, now) and self._deps.tasks.wants_name(meter.meter_id)
        ]

    def _is_quiet(self, now: float) -> bool:
        """Whether nobody needs the line, and nobody will soon."""
        if self._visits or self._line or self._probe.running or self._deps.orders.waiting or self._deps.store.waits():
            return False
        start = self._deps.tasks.next_start()
        soon = start is not None and start < QUIET_S
        return self._metering.inventory and self._state.proven and not soon and now >= self._busy_at + QUIET_S

    def _take_inventory(self, bridge: Bridge, now: float) -> int:
        """Ask a meter what it is, where somebody wants to know. Returns the number of visits begun."""
        question = self._deps.devices.due(self._port.name, now)
        if question is None:
            return 0
        meter, after = question.meter, question.scalers_after
        if self._retries.resting(meter, now) or self._deps.access.resting(meter):
            return 0
        most = self._scalers_max.get(meter.key, scaler_check.SCALERS_MAX)
        scalers = () if after is None else scaler_check.to_ask(self._knowledge.of(meter.key), after, most)
        if not question.refs and not scalers:  # they are known no more
            self._deps.devices.looked(meter.key, "")
            self._deps.devices.answered(meter.key)
            return 0
        self._visit(bridge, meter, [], now, extra=question.refs + scalers)
        return 1

    def _go_on_with_rests(self, bridge: Bridge, now: float) -> None:
        """Visit meters again whose profiles were not read to their ends, until the next run begins."""
        waiting = self._rests.waiting()
        if not waiting or self._line or self._deps.orders.waiting or self._room(bridge) <= 0 or now < self._rests_at:
            return
        self._rests_at = now + LOOK_EVERY_S
        start = self._deps.tasks.next_start()
        if start is not None and start < QUIET_S:
            return
        present = {meter.key: meter for meter in self._deps.registry.present(self._port.name)}
        for key in waiting:
            meter = present.get(key)
            if meter is None and self._deps.registry.get(key) is not None:
                continue  # it may be back before the next run
            if meter is not None and (self._room(bridge) <= 0 or not self._may_visit(meter, now)):
                continue
            runs, left = self._rests.take(key)
            runs = self._deps.tasks.open_runs(meter.meter_id, runs) if meter is not None else []
            if meter is not None and runs:
                self._visit(bridge, meter, runs, now, left=left, most_s=start)

    def _waiting(self, now: float) -> list[Meter]:
        """Return the meters that owe something and may be visited, the most important and longest waiting first."""
        ranked: list[tuple[tuple[int, int, float], Meter]] = []
        for meter in self._deps.registry.present(self._port.name):
            runs = self._runs_of(meter, now)
            if runs:
                ranked.append(((-runs[0].task.priority, runs[0].run, self._retries.since(meter)), meter))
        ranked.sort(key=lambda entry: (entry[0], entry[1].key))
        return [meter for _, meter in ranked]

    def _runs_of(self, meter: Meter, now: float) -> list[OwedRun]:
        """Return what this meter is to be read for now; nothing while it is visited, or what it gave is not stored yet,
        or it rests after a failure."""
        if self._held.has(meter) or not self._may_visit(meter, now):
            return []
        if self._deps.store.waits():
            return []  # what is read now could not be kept
        try:
            runs = self._deps.tasks.owed(meter.meter_id)
        except StoreError:
            return []  # its owner reports it; without knowing what was read, nothing is read
        return [owed for owed in runs if not self._retries.given_up(meter, owed)]

    def _may_visit(self, meter: Meter, now: float) -> bool:
        """Whether a meter is not visited now, and does not rest after a failure."""
        resting = self._retries.resting(meter, now) or self._deps.access.resting(meter)
        return meter.address not in self._visits and not resting

    # --- visits ---

    def _visit(
        self,
        bridge: Bridge,
        meter: Meter,
        runs: list[OwedRun],
        now: float,
        task: Task | None = None,
        extra: tuple[AttributeRef, ...] = (),
        left: Collection[ProfileKey] = (),
        most_s: float | None = None,
    ) -> None:
        """Begin a visit of a meter for these runs, for the order `task`, or for what it is (`extra`). `left`: the runs
        were read but for rows of these profiles. `most_s`: how long it may take, where that is less than any may."""
        if self._held.has(meter):  # how far it was read, and what was learned of it, is looked up
            self._store_held()
        knowledge = self._knowledge.of(meter.key)
        try:
            which = Which.USUAL if task is None else self._deps.orders.which_keys(task)
            pending, superseded = self._deps.access.pending(meter), self._deps.access.superseded(meter)
            as_ordered = None if task is None else self._as_ordered(task, meter)
            opening = self._deps.access.open(meter, which)
            if knowledge.invoke_id is None:  # a late answer may be one to an earlier process
                knowledge.invoke_id = int(now)
            session = self._session(meter, opening, knowledge)
            channel = bridge.channel(
                meter.address, dst_lsap=MANAGEMENT_LOGICAL_DEVICE, src_lsap=opening.credentials.client
            )
            if self._ears is not None:
                self._ears.conversation(meter.address, opening.credentials.client, channel)
        except (DlmsError, PlcLocalError) as error:
            # What was provisioned or configured does not make a session: say so, and wait like after any failure.
            if task is not None:
                self._deps.orders.begun(task)
                self._deps.orders.lost(task, str(error), final=True)
                return
            self._deps.registry.attempted(meter.key, str(error))
            self._retries.note(meter, runs)
            return
        if task is not None and not opening.identify:
            keys = pending, opening.wanted, superseded, as_ordered
            self._visit_for_order(task, keys, meter, session, channel, now)
            return
        if opening.identify or self._deps.registry.name_only(meter):
            # The public client reads the name; the next visit, with the meter's own keys, does the rest, or the order.
            runs, extra = [], ()
        profiles, done = self._results.profiles(meter, runs), {owed.task.task_id for owed in runs}
        visit = Visit(
            meter=meter,
            runs=runs,
            session=session,
            channel=channel,
            until=now + min(self._metering.visit_timeout_s, math.inf if most_s is None else most_s),
            knowledge=knowledge,
            policy=self._policy,
            profiles={key: profile for key, profile in profiles.items() if key in left} if left else profiles,
            first_s=self._metering.profile_first_s,
            best_now=self._best_now,
            tasks_stored=done if left else self._results.tasks_stored(meter, runs),
            taken={} if left else self._leftovers.take(meter, runs),
            extra=extra,
            goes_on=bool(left),
        )
        self._visits[meter.address] = visit
        self._deps.tasks.began(runs)
        self._advance(visit, partial(visit.start, now))

    def _session(self, meter: Meter, opening: Opening, knowledge: MeterKnowledge) -> AccessSession:
        """Make the session of a visit, over its link. Raises `DlmsError`."""
        silent = meter.key in self._silent
        if silent:
            self._round_trips.asked_anew(meter.key)
        return AccessSession(
            self._link(meter, opening.credentials.client),
            opening,
            self._deps.access,
            server=MANAGEMENT_LOGICAL_DEVICE,
            pdu_size=self._metering.pdu_size,
            known=knowledge,
            response_timeout_s=max(RESPONSE_TIMEOUT_MIN_S, 2 * self._port.response_timeout_s),
            pushes=self._ears,
            round_trip=NodeRoundTrip(self._round_trips, meter.key, REPEATS_SILENT if silent else REPEATS_MAX),
        )

    def _visit_for_order(
        self,
        task: Task,
        keys: tuple[Mapping[str, int], bool, bool, bool | None],
        meter: Meter,
        session: AccessSession,
        channel: Channel,
        now: float,
    ) -> None:
        """`keys`: what is provisioned anew, whether the session uses it, whether the meter was sent others, and whether
        it is what the order was made upon."""
        from agent.metering.orders.order import OrderType
        from agent.metering.orders.order_visit import OrderVisit  # not at the top: for days there may be no order
        from agent.metering.orders.types.steps import Keys

        pending, new_in_use, superseded, as_ordered = keys
        visit = OrderVisit(
            meter=meter,
            runs=[],
            session=session,
            channel=channel,
            until=now + self._metering.visit_timeout_s,
            knowledge=session.known,
            policy=self._policy,
            task=task,
            book=self._deps.orders,
            trusted=self._clock.trusted(),
            keys=Keys.of(pending, new_in_use=new_in_use, superseded=superseded, as_ordered=as_ordered),
            image=self._deps.orders.image(task),
            transfer=self._deps.access if task.order.kind is OrderType.KEYS else None,
            shared=self._watch.shared(meter.address),
        )
        self._visits[meter.address] = visit
        self._deps.orders.begun(task)
        self._advance(visit, partial(visit.start, now))

    def _as_ordered(self, task: Task, meter: Meter) -> bool | None:
        """Whether the keys that are provisioned are those of when the order was asked for; `None`: nobody knows."""
        edition, salt = task.edition
        return self._deps.access.edition(meter, salt) == edition if edition else None

    def _link(self, meter: Meter, client: int) -> DataLink:
        """Make the link of a visit. Raises `dlms.errors.LocalError`."""
        asking = self._patience.asking(meter.address, Asking()) if self._port.scan is not None else Asking()
        link = self._port.data_link(meter.address, client=client, asking=asking)
        self._links[meter.address] = link
        return link

    def _reached(self, visit: Visit) -> bool:
        """Whether the meter has answered: octets on a bus prove nobody before they are a frame of its."""
        link = self._links.get(visit.meter.address)
        heard = heard_by(link) if link is not None else None
        return visit.reached and (heard is None or heard.frames > 0)

    def _heard(self, meter: Meter) -> None:
        """Learn from what the link of a visit has heard, now that it is over."""
        link = self._links.pop(meter.address, None)
        heard = heard_by(link) if link is not None else None
        if heard is None:
            return
        self._watch.conversation(meter.address, heard)
        line = getattr(link, "line", None)
        if heard.frames and isinstance(line, LineSettings):
            self._patience.met(meter.address, line.baudrate)
        if heard.frames:
            self._patience.answered(meter.address, heard.turnaround_s)
        else:
            self._patience.unanswered(meter.address, self._clock.monotonic())

    def _best_now(self) -> datetime | None:
        return datetime.fromtimestamp(self._clock.wall(), UTC) if self._clock.trusted() else None

    def _keep_step(self, visit: Visit) -> None:
        """Take what a step of a visit gave, to be stored soon, and let it go on."""
        if self._is_of_two(visit):
            return
        meter = self._identified(visit)
        if meter is None:
            return
        if meter.meter_id != visit.meter.meter_id and not visit.described:
            visit.profiles_from(
                self._results.profiles(meter, visit.runs)
            )  # it may have been read under its name before
        if self._falls_short(visit):
            return
        self._hold(visit, meter, final=False)
        now, wall = self._clock.monotonic(), self._clock.wall()
        self._advance(visit, partial(visit.go_on, now, wall))

    def _finish(self, visit: Visit) -> None:
        outcome = visit.outcome
        if outcome is None:
            return
        if self._reached(visit):
            self._silent.discard(visit.meter.key)
            self._state.meter_answered()
        else:
            self._silent.add(visit.meter.key)
        if _for_order(visit):
            self._over(visit, outcome.error)
            return
        if self._is_of_two(visit):
            return
        if not outcome.ok:
            self._leftovers.keep(visit)
            self._over(visit, outcome.error)
            return
        meter = self._identified(visit)
        if meter is None or self._falls_short(visit):
            return
        self._hold(visit, meter, final=True)
        self._close(visit)

    def _hold(self, visit: Visit, meter: Meter, *, final: bool) -> None:
        """Take what a visit has brought, to be stored soon. Raises `StoreError`."""
        self._held.add(self._results.take(visit, meter, final=final), self._clock.monotonic())

    def _store_held(self) -> None:
        """Store what visits have brought, and end those that are over."""
        for taken, error in self._results.commit(self._held.take()):
            visit, meter = taken.visit, taken.meter
            if error is not None and not taken.final and self._visits.get(visit.meter.address) is not visit:
                LOG.debug("what the visit of %s had read is not stored: %s", meter.meter_id, error)
                continue  # it has failed since, and is over
            with self._faults_of(visit):
                if error is not None:
                    raise error
                self._results.stored(taken)
                if taken.final:
                    self._went_well(visit, meter)

    def _went_well(self, visit: Visit, meter: Meter) -> None:
        if visit.left and visit.steps:  # one that could come forward in none is not followed by another
            self._rests.note(visit, visit.left)
            self._rests_at = 0.0
        if visit.runs or visit.extra:
            self._retries.reset(meter)
            if not visit.goes_on:
                self._deps.registry.attempted(meter.key, flaws=visit.flaws(), tasks=self._deps.tasks.ids())
        else:
            self._deps.registry.identified(meter.key)
        self._results.learn(visit, meter)

    def _unstored(self, visit: Visit, error: StoreError) -> None:
        """What a visit brought cannot be stored. Where nothing can, no meter is visited until that is tried again, and
        then this one: it is not at fault."""
        counts = not self._deps.store.waits()
        trouble = Reason.STORE if counts else None
        self._over(visit, f"the readings cannot be stored: {error}", trouble=trouble, counts=counts)

    def _falls_short(self, visit: Visit) -> bool:
        """End a visit of a meter that has too many errors, or some that another visit may not get. Returns whether it
        was ended."""
        if visit.goes_on:
            return False
        short = visit.shortfall()
        passing = short.passing and not self._retries.is_last(visit.meter, visit.runs)
        if not (passing or (short.hopeless and visit.complete)):
            return False
        self._leftovers.keep(visit)
        self._over(visit, short.text, gained=0)
        return True

    def _is_of_two(self, visit: Visit) -> bool:
        """End a visit in which two meters have answered one question: each value may be of either. Returns whether it
        was ended."""
        link = self._links.get(visit.meter.address)
        heard = heard_by(link) if link is not None else None
        if heard is None or not heard.contradictions:
            return False
        self._over(visit, f"two meters answer at address {visit.meter.address}", gained=0)
        return True

    def _identified(self, visit: Visit) -> Meter | None:
        """Return the meter that a visit reached, under the name that it gave.

        A visit that reached another meter than expected is ended, and there is none.
        """
        meter, name = visit.meter, visit.device_name()
        if name:
            self._watch.named(meter.address, name)
        if name and meter.named and name != meter.meter_id:
            shared = self._watch.renamed(meter.address, meter.meter_id, name)
            if shared:  # what was read may be of either; and retries have to end, as for any failure
                self._over(visit, shared, gained=0)
                return None
            # What was remembered of the other meter, scalers among it, says nothing about this one: read it anew.
            LOG.warning(
                "%s answers as %s, it was %s", meter.key, name, meter.meter_id, extra={"event": "meter.exchanged"}
            )
            visit.knowledge.forget()
            self._deps.registry.name(meter.key, name)
            self._over(visit, "the meter was exchanged", counts=False)
            return None
        if name and not meter.named:
            meter = self._deps.registry.name(meter.key, name) or meter
            if meter.meter_id != visit.meter.meter_id:
                self._deps.tasks.renamed(visit.meter.meter_id, meter.meter_id)
        return meter

    def _over(
        self,
        visit: Visit,
        error: str,
        *,
        counts: bool = True,
        trouble: Reason | None = None,
        gained: int | None = None,
    ) -> None:
        """End a visit that failed. `counts`: the meter or the line is at fault; `trouble`: where it is neither
        silence nor a meter that answers something else. `gained`: how many values it has brought nevertheless;
        `None`: those that the visit itself counts."""
        reached = self._reached(visit)
        self._close(visit)
        if _for_order(visit):
            visit.give_up(error)  # where it has no outcome yet
            now = self._clock.monotonic()
            if visit.task.background:
                self._background_at = now + (now - visit.began)  # as much time for everything else
                self._look_at = 0.0
            return
        if visit.goes_on:  # its runs were read before, and the next ones will tell what is wrong
            rows = sum(profile.taken for profile in visit.profiles.values())
            if not counts or visit.gives_way or not self._retries.note(visit.meter, visit.runs, gained=rows):
                self._rests.note(visit, visit.profiles)
        if visit.gives_way or visit.goes_on:
            self._deps.tasks.ended(visit.runs, visit.meter.meter_id, ok=False, final=False)
            self._look_at = 0.0  # it goes on as soon as the order is done
            return
        outcome = visit.outcome
        if counts:
            kind: FailureKind = "other" if outcome is None or outcome.ok else failure_kind(outcome.cause)
            self._deps.devices.failed(visit.meter.key, kind)
        if visit.extra:  # nobody waits for it; the next one asks for less
            if counts and reached:
                self._scalers_max[visit.meter.key] = max(scaler_check.SCALERS_MIN, visit.gained // 2)
            return
        suspicion = self._watch.suspicion(visit.meter.address)
        error = f"{error}; {suspicion}" if suspicion and suspicion != error else error
        LOG.debug("visit of %s failed: %s", visit.meter.meter_id, error)
        if trouble is None and counts:
            trouble = Reason.FAILING if reached else Reason.SILENT
        self._deps.registry.attempted(visit.meter.key, error, silent=trouble is Reason.SILENT)
        gained = visit.gained if gained is None else gained
        final = self._retries.note(visit.meter, visit.runs, gained=gained) if counts else False
        if counts and self._deps.access.resting(visit.meter):
            final = True  # its keys are wrong: it will not be read for this run
        if final and not reached and self._port.scan is not None:
            self._deps.registry.leave(visit.meter.key)  # the scan finds it when it is back
        self._deps.tasks.ended(visit.runs, visit.meter.meter_id, ok=False, final=final, trouble=trouble)

    def _close(self, visit: Visit) -> None:
        """Give up the place of a visit, unless that was done: another may have it by now."""
        if self._visits.get(visit.meter.address) is not visit:
            return
        visit.channel.close()
        del self._visits[visit.meter.address]
        self._rests_at = 0.0
        self._heard(visit.meter)
        if not visit.extra and not visit.goes_on:
            self._busy_at = self._clock.monotonic()


def _for_order(visit: Visit) -> TypeGuard[OrderVisit]:
    return visit.for_order


def _gives_way(visit: Visit, task: Task) -> bool:
    """Whether a visit ends, so that an order need not wait. One that is for the name of a meter alone is short, and
    may be what the order waits for."""
    return visit.task.gives_way_to(task) if _for_order(visit) else bool(visit.runs)


def answer_bounds(response_timeout_s: float, full_s: float = 0.0) -> Bounds:
    """The bounds of what is learned of answers, where one may take `response_timeout_s`. `full_s` is what the line
    needs for the longest answers of all visits: before anything is learned, the last of them is not lost."""
    first_s = max(ANSWER_FIRST_S, FULL_FACTOR * full_s)
    return Bounds(min(first_s, response_timeout_s), min(ANSWER_SHORTEST_S, response_timeout_s), response_timeout_s)
