"""Orders to a PRIME base node's management plane, one at a time, sans-IO: PIB attributes, whitelist, topology.

The answers to MLME_SET and to the whitelist commands do not say what they answer, so the next order waits for the
answer to the one before, or for its timeout. What only reads is asked again when its answer is late
(`plc.prime.repeats`). What changes something is never sent twice by itself: whoever gave it hears that it was not
answered, and knows whether it may be given again.

Promotion and demotion are writes of the attributes 0x0065 and 0x0066, with the node's EUI-48 as the value. These, like
the records of the topology, are taken from the host sources of the base node's maker; they were not tried on hardware,
and a firmware may refuse them, which the status of `PibWritten` then says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from plc.errors import PlcDecodeError, PlcLocalError
from plc.events import ManagementUnanswered, NodeEvent, PibRead, PibWritten, TopologyListed, WhitelistChanged
from plc.prime.lists import ListPib, ListQuery, ListResponse
from plc.prime.messages import Command, MlmeGet, MlmeGetConfirm, MlmeSet, MlmeSetConfirm, Whitelist, WhitelistAck
from plc.prime.repeats import Repeats
from plc.prime.topology import NODES_MAX, PhyLink, RegisteredDevice, Topology
from plc.prime.usi import ProtocolId, UsiFrame

PIB_PROMOTE = 0x0065
PIB_DEMOTE = 0x0066
ORDER_TIMEOUT_S = 5.0
ORDERS_MAX = 256  # waiting: a whitelist of a whole network, given piece by piece
LIST_RECORDS_MAX = 64  # records asked for at once: 64 of 16 octets fit one frame

_TOPOLOGY = (ListPib.REGISTERED_DEVICES, ListPib.PHY_LINKS)


@dataclass(frozen=True, slots=True)
class _List:
    """Read one list of the topology, from this iterator on."""

    pib: int
    iterator: int = 0


Order = MlmeGet | MlmeSet | Whitelist | _List


class Management:
    """The orders of one base node."""

    def __init__(
        self, topology: Topology, timeout_s: float = ORDER_TIMEOUT_S, line_s: Callable[[], float] = lambda: 0.0
    ) -> None:
        """`line_s` says how long the line takes to bring an answer at present, as far as others tell."""
        self._topology = topology
        self._line_s = line_s
        self._repeats = Repeats(timeout_s)
        self._waiting: deque[Order] = deque()
        self._order: Order | None = None
        self._output = bytearray()
        self._events: deque[NodeEvent] = deque()
        self._devices: list[RegisteredDevice] = []
        self._links: list[PhyLink] = []

    def give(self, order: MlmeGet | MlmeSet | Whitelist, now: float) -> None:
        """Queue an order. Raises `PlcLocalError` when too many are waiting."""
        if len(self._waiting) >= ORDERS_MAX:
            raise PlcLocalError(f"{ORDERS_MAX} orders are waiting already")
        self._waiting.append(order)
        self._next(now)

    def read_topology(self, now: float) -> None:
        """Queue the reading of both lists, unless that is under way. Ends in `TopologyListed`, or unanswered."""
        if not any(isinstance(order, _List) for order in (self._order, *self._waiting)):
            self._waiting.extend(_List(pib) for pib in _TOPOLOGY)
            self._next(now)

    def restarted(self, now: float) -> None:
        """The base node has forgotten what it was told last."""
        self._give_up(now)

    # ---- the sans-IO contract, as far as `plc.prime.link` leaves it to this class

    def take_output(self) -> bytes:
        output = bytes(self._output)
        self._output.clear()
        return output

    def next_event(self) -> NodeEvent | None:
        return self._events.popleft() if self._events else None

    def next_deadline(self) -> float | None:
        return None if self._order is None else self._repeats.deadline()

    def on_deadline(self, now: float) -> None:
        if self._order is None:
            return
        if self._repeats.is_over(now):
            self._give_up(now)
        elif self._repeats.again(now):
            self._emit(self._order)

    def answered(self, answer: MlmeGetConfirm | MlmeSetConfirm | WhitelistAck, now: float) -> None:
        """Take an answer; one to nothing that was asked is dropped."""
        match self._order, answer:
            case MlmeGet(pib=pib), MlmeGetConfirm() if answer.pib == pib:
                self._events.append(PibRead(pib, answer.status, b"" if answer.status else answer.value))
            case MlmeSet(pib=pib), MlmeSetConfirm():
                self._events.append(PibWritten(pib, answer.status))
            case Whitelist() as order, WhitelistAck() if answer.of == order.command:
                added = order.command is Command.WHITELIST_ADD
                self._events.append(WhitelistChanged(order.eui48, added, answer.code))
            case _:
                return
        self._repeats.answered(now)
        self._done(now)

    def listed(self, response: ListResponse, now: float) -> None:
        """Take a piece of a list of the topology. Raises `PlcDecodeError` for records that make no sense."""
        order = self._order
        if not isinstance(order, _List) or response.pib != order.pib:
            return
        last = order.iterator - 1
        devices: list[RegisteredDevice] = []
        links: list[PhyLink] = []
        for iterator, record in response.records:
            if iterator <= last:
                raise PlcDecodeError("list answer", 0, f"iterator {iterator} after {last}")
            last = iterator
            if order.pib == ListPib.REGISTERED_DEVICES:
                devices.append(RegisteredDevice.parse(record))
            else:
                links.append(PhyLink.parse(record))
        self._repeats.answered(now)
        self._devices += devices
        self._links += links
        if response.records and last < 0xFFFF and max(len(self._devices), len(self._links)) < NODES_MAX:
            self._ask(_List(order.pib, last + 1), now)
            return
        if order.pib == _TOPOLOGY[-1]:
            self._topology.devices_listed(self._devices)
            self._topology.links_listed(self._links)
            self._events.append(TopologyListed(len(self._devices), len(self._links)))
            self._forget_lists()
        self._done(now)

    # ---- inside

    def _next(self, now: float) -> None:
        if self._order is None and self._waiting:
            self._ask(self._waiting.popleft(), now)

    def _ask(self, order: Order, now: float) -> None:
        self._order = order
        self._repeats.asked(now, line_s=self._line_s(), may_repeat=isinstance(order, MlmeGet | _List))
        self._emit(order)

    def _emit(self, order: Order) -> None:
        if isinstance(order, _List):
            query = ListQuery(order.pib, LIST_RECORDS_MAX, order.iterator)
            self._output += UsiFrame(ProtocolId.MNGP_GETQRY_ENHANCED, query.emit()).emit()
        else:
            self._output += UsiFrame(ProtocolId.PRIME_API, order.emit(), order.command).emit()

    def _done(self, now: float) -> None:
        self._order = None
        self._next(now)

    def _give_up(self, now: float) -> None:
        match self._order:
            case MlmeGet(pib=pib):
                self._events.append(ManagementUnanswered("get", pib))
            case MlmeSet(pib=pib):
                self._events.append(ManagementUnanswered("set", pib))
            case Whitelist(eui48=eui48):
                self._events.append(ManagementUnanswered("whitelist", 0, eui48))
            case _List(pib=pib):
                # What is not whole says nothing: the picture stays as it was, and the other list is of no use.
                self._events.append(ManagementUnanswered("list", pib))
                self._forget_lists()
                self._waiting = deque(order for order in self._waiting if not isinstance(order, _List))
            case None:
                return
        self._done(now)

    def _forget_lists(self) -> None:
        self._devices, self._links = [], []
