"""The host's side of a PRIME base node, sans-IO.

Bytes from the serial port go in with `receive`, bytes for it come out of `take_output`, what happened is read from
`next_event`, and time is an argument (`now`: monotonic seconds).

Five things keep the picture true when bytes are lost or one side restarts:

- At `start`, and every `relist_s` after that, the list of 4-32 nodes is read; nodes that joined before this program ran
  are found, and nodes that are gone without a LEAVE.ind are reported as left. While the network forms, after a start
  and whenever a node was heard to join or to register, it is read again after `RELIST_FORMING_S`: the frames that tell
  of nodes come once, and one that is lost would hide its node until the next list.
- A query of a list is asked again when its answer is late (`plc.prime.repeats`), since the query or its answer may be
  lost; what is not answered after `LIST_TIMEOUT_S` is asked after a pause, from the list's beginning.
- At most `IN_FLIGHT_MAX` requests are in flight; the others wait their turn here. A request leaves the flight with its
  confirm, with an answer of its node, when its node leaves or joins again, or when the time is over in which this node
  used to be confirmed (`dlms.link.roundtrip`). It is then reported as failed and never sent again, since the node may
  have received it: asking again is for the session above, which knows what may be asked twice. Only what the base node
  refuses as BUSY, and so has not sent, is handed to it once more.
- A base node that restarts says so, or does not know nodes that it had, or hears from nodes that it had not, or
  confirms nothing any more. Then what is in flight is given up, where that is certain, and the list is read at once.
- A payload that makes no sense is dropped with a note: the checksum of the PRIME API is a mere XOR.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

from dlms.link.roundtrip import Bounds, RoundTrips
from plc.errors import PlcDecodeError, PlcLocalError
from plc.events import (
    BaseNodeRestarted,
    BaseNodeSilent,
    DataConfirmed,
    DataFailed,
    DataReceived,
    FailReason,
    NetworkNoted,
    NodeEvent,
    NodeJoined,
    NodeLeft,
    NodesListed,
    ResyncNoted,
)
from plc.prime.lists import ListPib, ListQuery, ListResponse, Node432
from plc.prime.management import PIB_DEMOTE, PIB_PROMOTE, Management
from plc.prime.messages import (
    ADDRESS_BROADCAST,
    ADDRESS_NEW,
    ConfirmStatus,
    DataConfirm,
    DataIndication,
    DataRequest,
    JoinIndication,
    LeaveIndication,
    MlmeGet,
    MlmeGetConfirm,
    MlmeSet,
    MlmeSetConfirm,
    NetworkEvent,
    NetworkEventKind,
    ReleaseRequest,
    Whitelist,
    WhitelistAck,
    check_eui48,
    kind_of,
    parse_payload,
)
from plc.prime.repeats import Repeats
from plc.prime.topology import Topology
from plc.prime.usi import ProtocolId, UsiDecoder, UsiFrame, UsiNoise

IN_FLIGHT_MAX = 5  # what base nodes in the field hold
SHORT_IN_FLIGHT_MAX = 3  # short requests in flight while a long one is waiting
SHORT_OCTETS_MAX = 200  # 18 ms at 115,200 baud: less than the power line takes for anything
WAITING_MAX = 1024  # two packets for each of 500 nodes: more means that somebody does not listen to failures
CONFIRM_FIRST_S = 5.0  # before any node was confirmed
CONFIRM_SHORTEST_S = 1.0  # a confirm may stand behind several of the longest frames on the serial line
CONFIRM_TIMEOUT_S = 40.0  # what hosts in the field allow
UNCONFIRMED_MAX = 64  # requests given up whose confirm may still come
BUSY_MAX = 8  # times in a row that one request is refused as BUSY
BUSY_PAUSE_S = 0.2  # after the first BUSY, when there is no confirm to wait for; doubled with each further one
BUSY_PAUSE_MAX_S = 10.0
SILENT_FLIGHTS_MAX = IN_FLIGHT_MAX  # requests given up one after another, with no octet heard: is the base node there?
LIST_TIMEOUT_S = 5.0
LIST_RETRY_S = 10.0  # pause after an unanswered query: a base node boots within half a minute
LIST_GAP_S = 5.0  # between a list and the next one that a doubt asks for: doubts come in swarms
RELIST_S = 900.0
RELIST_FORMING_S = (30.0, 120.0)  # pauses before the next lists while nodes join
LIST_RECORDS_MAX = 32  # records asked for at once: 32 of 27 octets fit one frame
NODES_MAX = 4096  # the address space of the 4-32 layer

_REASONS = {
    ConfirmStatus.TIMEOUT: FailReason.NODE_TIMEOUT,
    ConfirmStatus.BAD_ADDRESS: FailReason.BAD_ADDRESS,
    ConfirmStatus.BAD_HANDLER: FailReason.BAD_HANDLER,
    ConfirmStatus.BUSY: FailReason.BUSY,
}


@dataclass(frozen=True, slots=True)
class _Request:
    """Octets that wait for their turn, or for their confirm."""

    ticket: int
    payload: DataRequest

    @property
    def key(self) -> tuple[int, int, int]:
        return self.payload.dst_lsap, self.payload.src_lsap, self.payload.dst

    @property
    def is_short(self) -> bool:
        return len(self.payload.lsdu) <= SHORT_OCTETS_MAX


@dataclass(frozen=True, slots=True)
class _Flight:
    """A request in flight; `until` is when it is given up."""

    request: _Request
    since: float
    until: float


class _Listing(enum.Enum):
    OFF = enum.auto()  # `start` was not called
    ASKED = enum.auto()  # a query is out; the deadlines are those of `Repeats`
    RESTING = enum.auto()  # the next query goes out at `_list_at`


class PlcLink:
    """One base node. Not thread-safe: one port thread owns it."""

    shared_bus = False

    def __init__(
        self,
        *,
        confirm_bounds: Bounds = Bounds(CONFIRM_FIRST_S, CONFIRM_SHORTEST_S, CONFIRM_TIMEOUT_S),  # noqa: B008 (frozen)
        list_timeout_s: float = LIST_TIMEOUT_S,
        list_retry_s: float = LIST_RETRY_S,
        relist_s: float = RELIST_S,
        reads_topology: bool = True,
    ) -> None:
        """`reads_topology`: whether the lists of `plc.prime.topology` are read after each list of nodes."""
        self._reads_topology = reads_topology
        self._confirms = RoundTrips(confirm_bounds)
        self._list_retry_s = list_retry_s
        self._relist_s = relist_s
        self.topology = Topology()
        self.management = Management(self.topology, line_s=self._line_s)
        self._decoder = UsiDecoder()
        self._output = bytearray()
        self._events: deque[NodeEvent] = deque()
        self._nodes: dict[int, bytes] = {}  # address → EUI-48
        self._waiting: deque[_Request] = deque()
        self._in_flight: dict[int, _Flight] = {}  # by ticket; oldest first
        self._unconfirmed: dict[int, _Flight] = {}  # given up, and still to be confirmed for all we know; oldest first
        self._busy: dict[int, int] = {}  # ticket → how often in a row it was refused as BUSY
        self._hold_until = 0.0  # nothing is sent before, after a BUSY
        self._silent_flights = 0
        self._last_ticket = 0
        self._listing = _Listing.OFF
        self._list_at = 0.0
        self._list_repeats = Repeats(list_timeout_s)
        self._list_iterator = 0
        self._list_attempts = 0
        self._listed: set[int] = set()
        self._listed_at = float("-inf")
        self._lists_forming = 0  # how many of RELIST_FORMING_S are taken

    # ---- verbs

    def start(self, now: float) -> None:
        """Read the list of nodes, now, after `RELIST_FORMING_S`, and every `relist_s`."""
        self._lists_forming = 0
        self.list_nodes(now)

    def list_nodes(self, now: float) -> None:
        """Read the list of 4-32 nodes from its beginning. Ends in `NodesListed` or `BaseNodeSilent`."""
        self._listed.clear()
        self._list_attempts = 0
        self._query_list(0, now)

    def send(self, address: int, lsdu: bytes, dst_lsap: int, src_lsap: int, now: float) -> int:
        """Queue one LSDU for a node; the ticket comes back in `DataConfirmed` or `DataFailed`.

        Raises `PlcLocalError` for an LSDU over 1021 bytes, a bad address or LSAP, or a full queue.
        """
        payload = DataRequest(dst_lsap, src_lsap, address, lsdu)
        if len(self._waiting) >= WAITING_MAX:
            raise PlcLocalError(f"{WAITING_MAX} packets are waiting already")
        self._last_ticket += 1
        self._waiting.append(_Request(self._last_ticket, payload))
        self._fill_flight(now)
        return self._last_ticket

    def release(self, address: int, now: float) -> None:
        """Ask the base node to close a node's connection; it answers with a leave indication."""
        del now
        self._emit(ReleaseRequest(address))

    def whitelist(self, entry: Whitelist, now: float) -> None:
        """Add or remove one entry of the base node's whitelist; `WhitelistChanged` or `ManagementUnanswered` follows.

        Raises `PlcLocalError`, like the other orders to the base node, when too many are waiting.
        """
        self.management.give(entry, now)

    def get_pib(self, pib: int, now: float) -> None:
        """Read a PIB attribute of the base node; `PibRead` or `ManagementUnanswered` follows."""
        self.management.give(MlmeGet(pib), now)

    def set_pib(self, pib: int, value: bytes, now: float) -> None:
        """Write a PIB attribute of the base node; `PibWritten` or `ManagementUnanswered` follows."""
        self.management.give(MlmeSet(pib, value), now)

    def promote(self, eui48: bytes, now: float) -> None:
        """Have a node become a switch; `PibWritten` says whether the base node took the order, and a network event
        whether the node did."""
        check_eui48(eui48)
        self.set_pib(PIB_PROMOTE, eui48, now)

    def demote(self, eui48: bytes, now: float) -> None:
        """Have a switch become a terminal again; see `promote`."""
        check_eui48(eui48)
        self.set_pib(PIB_DEMOTE, eui48, now)

    @property
    def nodes(self) -> dict[int, bytes]:
        """The nodes in the network: address → EUI-48."""
        return dict(self._nodes)

    # ---- the sans-IO contract

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the port. Never raises for what the base node sent."""
        self._silent_flights = 0
        self._decoder.feed(data)
        while (item := self._decoder.next()) is not None:
            if isinstance(item, UsiNoise):
                self._events.append(ResyncNoted(item.dropped_bytes, item.why))
                continue
            try:
                self._handle(item, now)
            except PlcDecodeError as error:
                self._events.append(ResyncNoted(len(item.data), str(error)))

    def take_output(self) -> bytes:
        """All bytes for the port since the last call."""
        output = bytes(self._output) + self.management.take_output()
        self._output.clear()
        return output

    def next_event(self) -> NodeEvent | None:
        """What happened, oldest first; `None` when there is nothing more."""
        return self._events.popleft() if self._events else self.management.next_event()

    def next_deadline(self) -> float | None:
        """When `on_deadline` is due."""
        deadlines = [flight.until for flight in self._in_flight.values()]
        if self._listing is _Listing.ASKED:
            deadlines.append(self._list_repeats.deadline())
        elif self._listing is _Listing.RESTING:
            deadlines.append(self._list_at)
        if self._waiting and len(self._in_flight) < IN_FLIGHT_MAX:
            deadlines.append(self._hold_until)
        ordered = self.management.next_deadline()
        if ordered is not None:
            deadlines.append(ordered)
        return min(deadlines, default=None)

    def on_deadline(self, now: float) -> None:
        """Time passed: give up what was not confirmed, ask for the list again."""
        self.management.on_deadline(now)
        for ticket, flight in list(self._in_flight.items()):
            if flight.until <= now:
                self._give_up(ticket, flight, now)
        self._fill_flight(now)
        if self._listing is _Listing.ASKED:
            self._ask_list_again(now)
        elif self._listing is _Listing.RESTING and self._list_at <= now:
            self._listed.clear()
            self._query_list(0, now)

    def _give_up(self, ticket: int, flight: _Flight, now: float) -> None:
        """The time is over in which this node used to be confirmed."""
        del self._in_flight[ticket]
        self._confirms.expired(flight.request.payload.dst)
        self._unconfirmed[ticket] = flight
        while len(self._unconfirmed) > UNCONFIRMED_MAX:
            del self._unconfirmed[next(iter(self._unconfirmed))]
        self._fail(flight.request, FailReason.NO_CONFIRM)
        self._silent_flights += 1
        if self._silent_flights >= SILENT_FLIGHTS_MAX:
            self._silent_flights = 0
            self._list_soon(now)

    # ---- what came in

    def _handle(self, frame: UsiFrame, now: float) -> None:
        if frame.protocol is ProtocolId.MNGP_GETRSP_ENHANCED:
            response = ListResponse.parse(frame.data)
            self._on_list(response, now)
            self.management.listed(response, now)
            return
        if frame.protocol is not ProtocolId.PRIME_API or frame.command is None:
            return  # sniffers and the other management answers: nothing asked for them
        payload = parse_payload(frame.command, frame.data)
        match payload:
            case DataIndication():
                self._on_data(payload, now)
            case DataConfirm():
                self._on_confirm(payload, now)
            case JoinIndication():
                self._join(payload.address, payload.eui48, payload.dlms_id, from_list=False)
                self._forms(now)
                self._fill_flight(now)
            case LeaveIndication():
                self._leave(payload.address)
                self._fill_flight(now)
            case NetworkEvent():
                self._on_network_event(payload, now)
            case MlmeGetConfirm() | MlmeSetConfirm() | WhitelistAck():
                self.management.answered(payload, now)
            case _:
                pass  # requests belong to the other direction

    def _on_data(self, payload: DataIndication, now: float) -> None:
        address = payload.src
        self._events.append(DataReceived(address, payload.dst_lsap, payload.src_lsap, payload.lsdu))
        self.topology.heard(self._nodes.get(address, b""), now)
        if address not in self._nodes and self._listing is not _Listing.OFF:
            self._list_soon(now)  # it joined, and nobody told us
        # What the node answers has arrived there, and what was sent to it before will not be confirmed any more.
        key = (payload.src_lsap, payload.dst_lsap, address)
        answered = next((ticket for ticket, flight in self._in_flight.items() if flight.request.key == key), None)
        for ticket in [ticket for ticket, flight in self._unconfirmed.items() if flight.request.key == key]:
            del self._unconfirmed[ticket]
        if answered is not None:
            self._confirmed(self._in_flight.pop(answered).request)
            self._fill_flight(now)

    def _on_confirm(self, confirm: DataConfirm, now: float) -> None:
        key = (confirm.dst_lsap, confirm.src_lsap, confirm.dst)
        late = [ticket for ticket, flight in self._unconfirmed.items() if flight.request.key == key]
        found = next((ticket for ticket, flight in self._in_flight.items() if flight.request.key == key), None)
        if late:  # the oldest is confirmed first, and that was given up
            flight = self._unconfirmed.pop(late[0])
            if len(late) == 1 and found is None:  # it can be no other's
                self._confirms.measured(confirm.dst, now - flight.since)
            return
        if found is None:
            return  # answered before its confirm, or sent before this program started
        flight = self._in_flight.pop(found)
        if confirm.status == ConfirmStatus.BUSY and self._busy.get(found, 0) < BUSY_MAX:
            again = self._busy[found] = self._busy.get(found, 0) + 1
            self._waiting.appendleft(flight.request)
            self._hold_until = now + min(BUSY_PAUSE_MAX_S, BUSY_PAUSE_S * (1 << (again - 1)))
            return
        self._busy.pop(found, None)
        if confirm.status == ConfirmStatus.OK:
            self._confirms.measured(confirm.dst, now - flight.since)
            self._confirmed(flight.request)
        else:
            self._fail(flight.request, _reason(confirm.status), confirm.status)
            if confirm.status == ConfirmStatus.BAD_ADDRESS and confirm.dst in self._nodes:
                self._list_soon(now)  # the base node has forgotten a node that we know
        self._hold_until = now
        self._fill_flight(now)

    def _confirmed(self, request: _Request) -> None:
        dst_lsap, src_lsap, address = request.key
        self._events.append(DataConfirmed(address, dst_lsap, src_lsap, request.ticket))

    def _on_network_event(self, event: NetworkEvent, now: float) -> None:
        self.topology.happened(event, now)
        self._events.append(
            NetworkNoted(
                kind_of(event),
                event.event,
                event.eui48,
                event.sid,
                event.lnid,
                event.lsid,
                event.alive_rx,
                event.alive_tx,
                event.alive_time,
            )
        )
        if event.event == NetworkEventKind.REBOOT:
            self._restarted(now)
        elif event.event == NetworkEventKind.REGISTER:
            self._forms(now)  # its connection follows

    def _restarted(self, now: float) -> None:
        """The base node has just started: it holds no request any more, and knows the nodes that its list has."""
        self._events.append(BaseNodeRestarted())
        self.management.restarted(now)
        for flight in self._in_flight.values():
            self._fail(flight.request, FailReason.BASE_NODE_RESTARTED)
        self._in_flight.clear()
        self._unconfirmed.clear()
        self._hold_until = now
        if self._listing is not _Listing.OFF:
            self.start(now)
        self._fill_flight(now)

    def _join(self, address: int, eui48: bytes, dlms_id: bytes, *, from_list: bool) -> None:
        if address in (ADDRESS_BROADCAST, ADDRESS_NEW):
            return
        self._listed.add(address)
        known_here = self._nodes.get(address) == eui48
        if from_list and known_here:
            return
        if known_here:
            self._drop(address)  # its old connection is gone, with all that was on its way there
        for other, known in list(self._nodes.items()):
            # The same address in other hands, or the same node with a new address: the old pair is gone.
            if (other == address) != (known == eui48):
                self._leave(other)
        self._nodes[address] = eui48
        self._events.append(NodeJoined(address, eui48, dlms_id, from_list))

    def _leave(self, address: int) -> None:
        eui48 = self._nodes.pop(address, None)
        self._drop(address)
        self._confirms.forget(address)
        if eui48 is not None:
            self._events.append(NodeLeft(address, eui48))

    def _drop(self, address: int) -> None:
        """Give up all requests to a node that is not there any more."""
        for ticket in [ticket for ticket, flight in self._in_flight.items() if flight.request.payload.dst == address]:
            self._fail(self._in_flight.pop(ticket).request, FailReason.NODE_LEFT)
        for request in [request for request in self._waiting if request.payload.dst == address]:
            self._waiting.remove(request)
            self._fail(request, FailReason.NODE_LEFT)
        for ticket in [t for t, flight in self._unconfirmed.items() if flight.request.payload.dst == address]:
            del self._unconfirmed[ticket]

    # ---- the node list

    def _list_soon(self, now: float) -> None:
        """Something does not fit what is known of the nodes: read the list, though not again and again."""
        if self._listing is _Listing.RESTING:
            self._list_at = min(self._list_at, max(now, self._listed_at + LIST_GAP_S))

    def _forms(self, now: float) -> None:
        """A node joins, and others with it: read the list again soon. The first join sets the time and the later ones
        do not put it off, so that a swarm of them costs one list per pause."""
        self._lists_forming = 0
        if self._listing is _Listing.RESTING:
            self._list_at = min(self._list_at, now + self._next_pause_s())

    def _next_pause_s(self) -> float:
        """Take the pause before the next list."""
        forming = RELIST_FORMING_S[self._lists_forming : self._lists_forming + 1]
        self._lists_forming += 1
        return min((self._relist_s, *forming))

    def _query_list(self, iterator: int, now: float) -> None:
        self._listing = _Listing.ASKED
        self._list_iterator = iterator
        self._list_repeats.asked(now, line_s=self._line_s())
        self._emit_query()

    def _line_s(self) -> float:
        """How long confirms take at present: what is asked of the base node stands in the same line."""
        return self._confirms.learned_s or 0.0

    def _ask_list_again(self, now: float) -> None:
        if self._list_repeats.is_over(now):
            self._list_attempts += 1
            self._events.append(BaseNodeSilent(self._list_attempts))
            self._rest(now + self._list_retry_s)
        elif self._list_repeats.again(now):
            self._emit_query()

    def _emit_query(self) -> None:
        query = ListQuery(ListPib.NODES_432, LIST_RECORDS_MAX, self._list_iterator)
        self._output += UsiFrame(ProtocolId.MNGP_GETQRY_ENHANCED, query.emit()).emit()

    def _on_list(self, response: ListResponse, now: float) -> None:
        if self._listing is not _Listing.ASKED or response.pib != ListPib.NODES_432:
            return
        last = self._list_iterator - 1
        nodes: list[Node432] = []
        for iterator, record in response.records:
            if iterator <= last:
                raise PlcDecodeError("list answer", 0, f"iterator {iterator} after {last}")
            last = iterator
            nodes.append(Node432.parse(record))
        self._list_attempts = 0
        self._list_repeats.answered(now)
        for node in nodes:
            self._join(node.address, node.eui48, node.dlms_id, from_list=True)
        if nodes and last < NODES_MAX:
            self._query_list(last + 1, now)
            return
        for address in [address for address in self._nodes if address not in self._listed]:
            self._leave(address)
        self._events.append(NodesListed(len(self._nodes)))
        self._listed_at = now
        self._rest(now + self._next_pause_s())
        self._fill_flight(now)
        if self._reads_topology:
            self.management.read_topology(now)

    def _rest(self, until: float) -> None:
        self._listing = _Listing.RESTING
        self._list_at = until

    # ---- requests

    def _fill_flight(self, now: float) -> None:
        while self._waiting and len(self._in_flight) < IN_FLIGHT_MAX and now >= self._hold_until:
            request = self._next_waiting()
            self._waiting.remove(request)
            until = now + self._confirms.timeout_s(request.payload.dst)
            self._in_flight[request.ticket] = _Flight(request, now, until)
            self._emit(request.payload)

    def _next_waiting(self) -> _Request:
        """Who goes next. Requests to one node keep their order.

        While a long request is on the serial line, short ones travel on the power line: a flight of both kinds keeps
        the two busy, and one of short requests alone leaves the first idle. So short ones go first, as long as they do
        not fill the flight.
        """
        short, long = self._first_waiting(is_short=True), self._first_waiting(is_short=False)
        if short is None or long is None:
            return short or long or self._waiting[0]
        in_flight = sum(flight.request.is_short for flight in self._in_flight.values())
        return short if in_flight < SHORT_IN_FLIGHT_MAX else long

    def _first_waiting(self, *, is_short: bool) -> _Request | None:
        seen: set[int] = set()
        for request in self._waiting:
            if request.is_short is is_short and request.payload.dst not in seen:
                return request
            seen.add(request.payload.dst)
        return None

    def _fail(self, request: _Request, reason: FailReason, status: int | None = None) -> None:
        self._busy.pop(request.ticket, None)
        dst_lsap, src_lsap, address = request.key
        self._events.append(DataFailed(address, dst_lsap, src_lsap, request.ticket, reason, status))

    def _emit(self, payload: DataRequest | ReleaseRequest) -> None:
        self._output += UsiFrame(ProtocolId.PRIME_API, payload.emit(), payload.command).emit()


def _reason(status: int) -> FailReason:
    try:
        return _REASONS.get(ConfirmStatus(status), FailReason.OTHER_STATUS)
    except ValueError:
        return FailReason.OTHER_STATUS
