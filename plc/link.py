"""The host's side of a PRIME base node, sans-IO.

Bytes from the serial port go in with `receive`, bytes for it come out of `take_output`, what happened is read from
`next_event`, and time is an argument (`now`: monotonic seconds).

Three things keep the picture true when bytes are lost or one side restarts:

- At `start`, and every `relist_s` after that, the list of 4-32 nodes is read; nodes that joined before this program ran
  are found, and nodes that are gone without a LEAVE.ind are reported as left.
- At most `IN_FLIGHT_MAX` requests wait for their confirm; the others wait their turn here. A request whose confirm does
  not come is reported as failed and never sent again: the node may have received it.
- A payload that makes no sense is dropped with a note: the checksum of the PRIME API is a mere XOR.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

from plc.errors import PlcDecodeError, PlcLocalError
from plc.events import (
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
from plc.lists import ListPib, ListQuery, ListResponse, Node432
from plc.prime import (
    ADDRESS_BROADCAST,
    ADDRESS_NEW,
    ConfirmStatus,
    DataConfirm,
    DataIndication,
    DataRequest,
    JoinIndication,
    LeaveIndication,
    NetworkEvent,
    ReleaseRequest,
    Whitelist,
    parse_payload,
)
from plc.usi import ProtocolId, UsiDecoder, UsiFrame, UsiNoise

IN_FLIGHT_MAX = 5  # what base nodes in the field hold
WAITING_MAX = 1024  # two packets for each of 500 nodes: more means that somebody does not listen to failures
CONFIRM_TIMEOUT_S = 40.0  # what hosts in the field allow
LIST_TIMEOUT_S = 5.0
LIST_RETRY_S = 10.0  # pause after an unanswered query: a base node boots within half a minute
RELIST_S = 900.0
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
    ticket: int
    payload: DataRequest

    @property
    def key(self) -> tuple[int, int, int]:
        return self.payload.dst_lsap, self.payload.src_lsap, self.payload.dst


class _Listing(enum.Enum):
    OFF = enum.auto()  # `start` was not called
    ASKED = enum.auto()  # a query is out; the deadline is the answer's
    RESTING = enum.auto()  # the deadline is the next query's


class PlcLink:
    """One base node. Not thread-safe: one port thread owns it."""

    carries = "apdu"
    shared_bus = False

    def __init__(
        self,
        *,
        confirm_timeout_s: float = CONFIRM_TIMEOUT_S,
        list_timeout_s: float = LIST_TIMEOUT_S,
        list_retry_s: float = LIST_RETRY_S,
        relist_s: float = RELIST_S,
    ) -> None:
        self._confirm_timeout_s = confirm_timeout_s
        self._list_timeout_s = list_timeout_s
        self._list_retry_s = list_retry_s
        self._relist_s = relist_s
        self._decoder = UsiDecoder()
        self._output = bytearray()
        self._events: deque[NodeEvent] = deque()
        self._nodes: dict[int, bytes] = {}  # address → EUI-48
        self._waiting: deque[_Request] = deque()
        self._in_flight: dict[int, tuple[_Request, float]] = {}  # ticket → request, deadline; oldest first
        self._last_ticket = 0
        self._listing = _Listing.OFF
        self._list_deadline = 0.0
        self._list_iterator = 0
        self._list_attempts = 0
        self._listed: set[int] = set()

    # ---- verbs

    def start(self, now: float) -> None:
        """Read the list of nodes, now and every `relist_s`."""
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
        """Add or remove one entry of the base node's whitelist."""
        del now
        self._emit(entry)

    @property
    def nodes(self) -> dict[int, bytes]:
        """The nodes in the network: address → EUI-48."""
        return dict(self._nodes)

    # ---- the sans-IO contract

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the port. Never raises for what the base node sent."""
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
        output = bytes(self._output)
        self._output.clear()
        return output

    def next_event(self) -> NodeEvent | None:
        """What happened, oldest first; `None` when there is nothing more."""
        return self._events.popleft() if self._events else None

    def next_deadline(self) -> float | None:
        """When `on_deadline` is due."""
        deadlines = [deadline for _, deadline in self._in_flight.values()]
        if self._listing is not _Listing.OFF:
            deadlines.append(self._list_deadline)
        return min(deadlines, default=None)

    def on_deadline(self, now: float) -> None:
        """Time passed: give up what was not confirmed, ask for the list again."""
        for ticket, (request, deadline) in list(self._in_flight.items()):
            if deadline <= now:
                del self._in_flight[ticket]
                self._fail(request, FailReason.NO_CONFIRM)
        self._fill_flight(now)
        if self._listing is _Listing.OFF or self._list_deadline > now:
            return
        if self._listing is _Listing.ASKED:
            self._list_attempts += 1
            self._events.append(BaseNodeSilent(self._list_attempts))
            self._rest(now + self._list_retry_s)
        else:
            self._listed.clear()
            self._query_list(0, now)

    # ---- what came in

    def _handle(self, frame: UsiFrame, now: float) -> None:
        if frame.protocol is ProtocolId.MNGP_GETRSP_ENHANCED:
            self._on_list(ListResponse.parse(frame.data), now)
            return
        if frame.protocol is not ProtocolId.PRIME_API or frame.command is None:
            return  # sniffers and the other management answers: nothing asked for them
        payload = parse_payload(frame.command, frame.data)
        match payload:
            case DataIndication():
                event = DataReceived(payload.src, payload.dst_lsap, payload.src_lsap, payload.lsdu)
                self._events.append(event)
            case DataConfirm():
                self._on_confirm(payload, now)
            case JoinIndication():
                self._join(payload.address, payload.eui48, payload.dlms_id, from_list=False)
            case LeaveIndication():
                self._leave(payload.address)
                self._fill_flight(now)
            case NetworkEvent():
                self._events.append(NetworkNoted(payload.event, payload.eui48))
            case _:
                pass  # requests belong to the other direction; a whitelist acknowledgement changes nothing here

    def _on_confirm(self, confirm: DataConfirm, now: float) -> None:
        key = (confirm.dst_lsap, confirm.src_lsap, confirm.dst)
        found = next((request for request, _ in self._in_flight.values() if request.key == key), None)
        if found is None:
            return  # confirmed after its timeout, or sent before this program started
        del self._in_flight[found.ticket]
        if confirm.status == ConfirmStatus.OK:
            dst_lsap, src_lsap, address = key
            self._events.append(DataConfirmed(address, dst_lsap, src_lsap, found.ticket))
        else:
            self._fail(found, _reason(confirm.status), confirm.status)
        self._fill_flight(now)

    def _join(self, address: int, eui48: bytes, dlms_id: bytes, *, from_list: bool) -> None:
        if address in (ADDRESS_BROADCAST, ADDRESS_NEW):
            return
        self._listed.add(address)
        if from_list and self._nodes.get(address) == eui48:
            return
        for other, known in list(self._nodes.items()):
            # The same address in other hands, or the same node with a new address: the old pair is gone.
            if (other == address) != (known == eui48):
                self._leave(other)
        self._nodes[address] = eui48
        self._events.append(NodeJoined(address, eui48, dlms_id, from_list))

    def _leave(self, address: int) -> None:
        eui48 = self._nodes.pop(address, None)
        for request in [request for request in self._waiting if request.payload.dst == address]:
            self._waiting.remove(request)
            self._fail(request, FailReason.NODE_LEFT)
        if eui48 is not None:
            self._events.append(NodeLeft(address, eui48))

    # ---- the node list

    def _query_list(self, iterator: int, now: float) -> None:
        self._listing = _Listing.ASKED
        self._list_iterator = iterator
        self._list_deadline = now + self._list_timeout_s
        query = ListQuery(ListPib.NODES_432, LIST_RECORDS_MAX, iterator)
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
        for node in nodes:
            self._join(node.address, node.eui48, node.dlms_id, from_list=True)
        if nodes and last < NODES_MAX:
            self._query_list(last + 1, now)
            return
        for address in [address for address in self._nodes if address not in self._listed]:
            self._leave(address)
        self._events.append(NodesListed(len(self._nodes)))
        self._rest(now + self._relist_s)
        self._fill_flight(now)

    def _rest(self, until: float) -> None:
        self._listing = _Listing.RESTING
        self._list_deadline = until

    # ---- requests

    def _fill_flight(self, now: float) -> None:
        while self._waiting and len(self._in_flight) < IN_FLIGHT_MAX:
            request = self._waiting.popleft()
            self._in_flight[request.ticket] = (request, now + self._confirm_timeout_s)
            self._emit(request.payload)

    def _fail(self, request: _Request, reason: FailReason, status: int | None = None) -> None:
        dst_lsap, src_lsap, address = request.key
        self._events.append(DataFailed(address, dst_lsap, src_lsap, request.ticket, reason, status))

    def _emit(self, payload: DataRequest | ReleaseRequest | Whitelist) -> None:
        self._output += UsiFrame(ProtocolId.PRIME_API, payload.emit(), payload.command).emit()


def _reason(status: int) -> FailReason:
    try:
        return _REASONS.get(ConfirmStatus(status), FailReason.OTHER_STATUS)
    except ValueError:
        return FailReason.OTHER_STATUS
