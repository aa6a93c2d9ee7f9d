"""The networks behind base nodes as everybody else sees them: nodes, switches, levels, signal, and what happened.

A port's thread owns the topology (`plc.prime.topology`); here is what others may look at: an immutable picture that is
replaced whole, and the durable history. Orders to the management plane of a base node (attributes of its PIB, promotion
and demotion, its own whitelist) wait here for the thread of their port, and so do their results for whoever asked.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from agent.clock import Clock
from agent.metering.registry.device_book import Memory
from agent.metering.registry.history import NetworkChange, NetworkHistory, rows_of
from agent.metering.registry.registry import Registry
from omadm.orders import NETWORK_ORDERS
from plc.errors import PlcError
from plc.events import (
    BaseNodeRestarted,
    ManagementUnanswered,
    NetworkNoted,
    NodeEvent,
    NodeJoined,
    NodeLeft,
    PibRead,
    PibWritten,
    TopologyListed,
    WhitelistChanged,
)

if TYPE_CHECKING:  # what a port without a base node need not load
    from plc.prime.messages import Whitelist
    from plc.prime.topology import NodeEntry, Topology

PICTURE_EVERY_S = 5.0  # a picture of a full network takes some milliseconds
ORDERS_MAX = 32  # waiting or in flight, per port
RESULTS_MAX = 64
CHANGING_KINDS = frozenset(NETWORK_ORDERS) - {"get"}
NO_PLANE = "nothing on this port has a management plane"

# Modulations as PRIME 1.4 numbers them in the header of its PHY frames: how robust the way to a node is.
MODULATIONS = {
    0: "DBPSK",
    1: "DQPSK",
    2: "D8PSK",
    4: "DBPSK_C",
    5: "DQPSK_C",
    6: "D8PSK_C",
    12: "R_DBPSK",
    13: "R_DQPSK",
}


@runtime_checkable
class Mapped(Protocol):
    """A core that knows where the nodes of its network stand: `plc.prime.link.PlcLink`, or one from elsewhere."""

    @property
    def topology(self) -> Topology: ...


@runtime_checkable
class Managed(Mapped, Protocol):
    """The core of a base node with a management plane: `plc.prime.link.PlcLink`."""

    def get_pib(self, pib: int, now: float) -> None: ...
    def set_pib(self, pib: int, value: bytes, now: float) -> None: ...
    def promote(self, eui48: bytes, now: float) -> None: ...
    def demote(self, eui48: bytes, now: float) -> None: ...
    def whitelist(self, entry: Whitelist, now: float) -> None: ...


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node. `state`: terminal, switch, disconnected, or a number in words; `path`: the switches (EUI-48) from the
    node to the base node. `level`, `rx_level`, `snr` and `modulation` are `None` where the base node does not tell
    them; levels and SNR are in the standard's own steps. `last_heard`: seconds since the epoch, 0 for never."""

    eui48: str
    meter_id: str
    registered: bool
    state: str
    level: int | None
    lnid: int
    sid: int
    lsid: int
    path: tuple[str, ...]
    rx_level: int | None
    snr: int | None
    modulation: str | None
    alive_rx: int
    alive_tx: int
    promotions: int
    registrations: int
    last_heard: float


@dataclass(frozen=True, slots=True)
class NetworkPicture:
    """One network as it was at `at` (seconds since the epoch; 0: nothing is known). `listed`: when the base node last
    gave both of its lists, 0 for never."""

    port: str
    at: float = 0.0
    listed: float = 0.0
    nodes: tuple[NodeView, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkOrder:
    """One order to a base node and what came of it. `state`: waiting, done, failed, unanswered."""

    number: int
    port: str
    kind: str
    pib: int = 0
    value: bytes = b""
    state: str = "waiting"
    answer: str = ""


class NetworkOrderError(ValueError):
    """There is no such order, or it cannot be taken; the text is for whoever asked."""


class _Port:
    """What is kept of one port."""

    def __init__(self, memory: Memory, name: str) -> None:
        self.picture = NetworkPicture(name)
        self.history = NetworkHistory(memory, name)
        self.waiting: deque[NetworkOrder] = deque()
        self.sent: deque[NetworkOrder] = deque()
        self.changed = False
        self.look_at = 0.0
        self.listed = 0.0


class NetworkBook:
    """Thread-safe. `event` and `look` are called by the thread of the port, the rest by anybody."""

    def __init__(self, memory: Memory, registry: Registry, clock: Clock, ports: Sequence[str]) -> None:
        self._registry = registry
        self._clock = clock
        self._lock = threading.Lock()
        self._ports = {port: _Port(memory, port) for port in ports}
        self._numbers = itertools.count(1)
        self._results: OrderedDict[int, NetworkOrder] = OrderedDict()
        self.on_order: Callable[[], None] = lambda: None  # called when an order waits for the thread of its port

    # --- the port's thread ---

    def event(self, port: str, event: NodeEvent) -> None:
        """Something happened on a port."""
        kept = self._ports[port]
        now, wall = self._clock.monotonic(), self._clock.wall()
        with self._lock:
            match event:
                case NetworkNoted(kind="alive"):
                    kept.changed = True
                case NetworkNoted(kind=kind, eui48=eui48, sid=sid, lsid=lsid):
                    kept.history.note(kind, now, wall, eui48=eui48.hex(), sid=sid, lsid=lsid)
                    kept.changed = True
                case NodeJoined(eui48=eui48, from_list=False):
                    kept.history.note("joined", now, wall, eui48=eui48.hex())
                case NodeLeft(eui48=eui48):
                    kept.history.note("left", now, wall, eui48=eui48.hex())
                case BaseNodeRestarted():
                    kept.history.note("restarted", now, wall)
                case TopologyListed():
                    kept.listed, kept.changed, kept.look_at = wall, True, now
                case _:
                    self._answered(kept, event, now, wall)

    def look(self, port: str, bridge: object, now: float) -> float:
        """Give the base node what was ordered, and make a new picture where something has changed. Returns when to look
        again, infinity where that has time until the next event."""
        kept = self._ports[port]
        core = getattr(bridge, "core", None)
        if kept.waiting:
            self._send(kept, core, now)
        if kept.changed and now >= kept.look_at and isinstance(core, Mapped):
            kept.changed, kept.look_at = False, now + PICTURE_EVERY_S
            picture = self._picture(port, core.topology, now, kept.listed)
            with self._lock:
                kept.picture = picture
        return kept.look_at if kept.changed and isinstance(core, Managed) else math.inf

    # --- anybody ---

    def picture(self, port: str) -> NetworkPicture:
        """Return the newest picture of a port. Raises `KeyError` for one that is not configured."""
        picture = self._ports[port].picture
        known = [meter for meter in self._registry.known() if meter.port == port and not meter.displaced]
        names = {meter.eui48: meter.meter_id for meter in known}
        nodes = (replace(node, meter_id=names.get(node.eui48, "")) for node in picture.nodes)  # by the names of now
        return replace(picture, nodes=tuple(nodes))

    def node(self, port: str, eui48: str) -> NodeView | None:
        """Return one node, `None` where the base node says nothing about it."""
        kept = self._ports.get(port)
        return next((node for node in self.picture(port).nodes if node.eui48 == eui48), None) if kept else None

    def history(self, port: str) -> tuple[NetworkChange, ...]:
        """Return the last events of a port, oldest first. Raises `KeyError` for one that is not configured."""
        with self._lock:
            return self._ports[port].history.changes

    @property
    def ports(self) -> tuple[str, ...]:
        return tuple(self._ports)

    def order(self, port: str, kind: str, *, pib: int = 0, value: bytes = b"") -> NetworkOrder:
        """Have the base node of a port do something: `get` or `set` an attribute (`pib`), `promote` or `demote` a node,
        `allow` or `deny` it in the base node's whitelist (`value` is its EUI-48). Raises `NetworkOrderError`."""
        with self._lock:
            kept = self._ports.get(port)
            if kept is None:
                raise NetworkOrderError(f"there is no port {port!r}")
            if kind not in NETWORK_ORDERS:
                raise NetworkOrderError(f"{kind!r}: {', '.join(NETWORK_ORDERS)}")
            if not 0 <= pib <= 0xFFFF or len(value) > 0xFF:
                raise NetworkOrderError("an attribute has sixteen bits, a value at most 255 octets")
            if kind not in ("get", "set") and len(value) != EUI48_OCTETS:
                raise NetworkOrderError("the EUI-48 of a node has 6 octets")
            if len(kept.waiting) + len(kept.sent) >= ORDERS_MAX:
                raise NetworkOrderError(f"{ORDERS_MAX} orders are waiting already")
            order = NetworkOrder(next(self._numbers), port, kind, pib, value)
            kept.waiting.append(order)
            self._keep(order)
        self.on_order()
        return order

    def orders(self, port: str) -> tuple[NetworkOrder, ...]:
        """Return the orders to the base node of a port that are still kept, the newest first."""
        with self._lock:
            return tuple(order for order in reversed(self._results.values()) if order.port == port)

    def result(self, number: int) -> NetworkOrder:
        """Return how an order stands. Raises `NetworkOrderError` for one that is not kept any more."""
        with self._lock:
            order = self._results.get(number)
            if order is None:
                raise NetworkOrderError(f"there is no order {number}")
            return order

    def rows(self) -> set[str]:
        """Return the names of the rows in the store that hold the history."""
        return {row for port in self._ports for row in rows_of(port)}

    def tick(self) -> None:
        """Write what is due. Called about every second."""
        now = self._clock.monotonic()
        with self._lock:
            for kept in self._ports.values():
                kept.history.tick(now)

    def flush(self) -> None:
        """Write everything that is not written yet."""
        with self._lock:
            for kept in self._ports.values():
                kept.history.flush(self._clock.monotonic())

    # --- inside ---

    def _send(self, kept: _Port, core: object, now: float) -> None:
        with self._lock:
            while kept.waiting:
                order = kept.waiting.popleft()
                if not isinstance(core, Managed):
                    self._keep(replace(order, state="failed", answer=NO_PLANE))
                    continue
                try:
                    _give(core, order, now)
                except PlcError as error:
                    self._keep(replace(order, state="failed", answer=str(error)))
                    continue
                kept.sent.append(order)

    def _answered(self, kept: _Port, event: NodeEvent, now: float, wall: float) -> None:
        match event:
            case PibRead(pib=pib, status=status, value=value):
                self._end(kept, "get", pib, b"", status, value.hex(), now, wall)
            case PibWritten(pib=pib, status=status):
                self._end(kept, _kind_of_write(pib), pib, b"", status, "", now, wall)
            case WhitelistChanged(eui48=eui48, added=added, code=code):
                self._end(kept, "allow" if added else "deny", 0, eui48, code, "", now, wall)
            case ManagementUnanswered(what=what) if what != "list":
                self._unanswered(kept, event)
            case _:
                pass

    def _end(
        self, kept: _Port, kind: str, pib: int, eui48: bytes, status: int, answer: str, now: float, wall: float
    ) -> None:
        # The management plane has one order at a time, so the oldest that fits is the one that was answered.
        fitting = {"promote": ("promote", "set"), "demote": ("demote", "set")}.get(kind, (kind,))
        order = next(
            (
                order
                for order in kept.sent
                if order.kind in fitting and (not eui48 or order.value == eui48) and (order.pib in (0, pib))
            ),
            None,
        )
        if order is None:
            return
        kept.sent.remove(order)
        state, text = ("failed", f"status 0x{status:02x}") if status else ("done", answer)
        self._keep(replace(order, state=state, answer=text))
        if order.kind in CHANGING_KINDS:
            node = order.value.hex() if order.kind != "set" else ""
            detail = f"0x{order.pib:04x} " if order.kind == "set" else ""
            kept.history.note(f"order {order.kind}", now, wall, eui48=node, detail=f"{detail}{text or state}".strip())

    def _unanswered(self, kept: _Port, event: ManagementUnanswered) -> None:
        kinds = {"get": ("get",), "set": ("set", "promote", "demote"), "whitelist": ("allow", "deny")}[event.what]
        order = next((order for order in kept.sent if order.kind in kinds), None)
        if order is not None:
            kept.sent.remove(order)
            self._keep(replace(order, state="unanswered", answer="nobody knows whether it was carried out"))

    def _keep(self, order: NetworkOrder) -> None:
        self._results.pop(order.number, None)
        self._results[order.number] = order
        while len(self._results) > RESULTS_MAX:
            self._results.popitem(last=False)

    def _picture(self, port: str, topology: Topology, now: float, listed: float) -> NetworkPicture:
        wall = self._clock.wall()
        nodes = [_view(entry, topology, wall - now) for entry in topology.entries]
        nodes.sort(key=lambda node: (node.level is None, node.level or 0, node.eui48))
        return NetworkPicture(port, wall, listed, tuple(nodes))


EUI48_OCTETS = 6


def _kind_of_write(pib: int) -> str:
    """Which order wrote this attribute."""
    from plc.prime.management import PIB_DEMOTE, PIB_PROMOTE

    return {PIB_PROMOTE: "promote", PIB_DEMOTE: "demote"}.get(pib, "set")


def _give(core: Managed, order: NetworkOrder, now: float) -> None:
    """Hand `order` to the base node. Raises `PlcError`."""
    match order.kind:
        case "get":
            core.get_pib(order.pib, now)
        case "set":
            core.set_pib(order.pib, order.value, now)
        case "promote":
            core.promote(order.value, now)
        case "demote":
            core.demote(order.value, now)
        case _:
            from plc.prime.messages import Command, Whitelist

            command = Command.WHITELIST_ADD if order.kind == "allow" else Command.WHITELIST_REMOVE
            core.whitelist(Whitelist(command, order.value), now)


def _view(entry: NodeEntry, topology: Topology, epoch: float) -> NodeView:
    """One node, without the id of its meter. `epoch`: what is to be added to monotonic seconds to have civil ones."""
    from plc.prime.topology import NodeState

    names = {state.value: state.name.lower() for state in NodeState}
    modulation = entry.modulation
    return NodeView(
        eui48=entry.eui48.hex(),
        meter_id="",
        registered=entry.registered,
        state=names.get(entry.state, f"state {entry.state}"),
        level=entry.level,
        lnid=entry.lnid,
        sid=entry.sid,
        lsid=entry.lsid,
        path=tuple(eui48.hex() for eui48 in topology.path(entry.eui48)),
        rx_level=entry.rx_level,
        snr=entry.snr,
        modulation=None if modulation is None else MODULATIONS.get(modulation, f"number {modulation}"),
        alive_rx=entry.alive_rx,
        alive_tx=entry.alive_tx,
        promotions=entry.promotions,
        registrations=entry.registrations,
        last_heard=0.0 if entry.heard_at is None else entry.heard_at + epoch,
    )
