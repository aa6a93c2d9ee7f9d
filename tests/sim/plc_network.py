"""A PRIME base node on a terminal, speaking USI, with meters behind it.

    python -m tests.sim.plc_network --link PATH --control SOCK --meters 10 --first-serial 1 --list CSV --phases 3

Nodes join one after another after the start, the node list is answered, and each meter answers its APDUs behind
DL_DATA. Commands of the control socket beside the common ones: `join` and `leave` of a `meter`.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import sys
import time
from dataclasses import dataclass

from plc.errors import PlcDecodeError
from plc.prime.lists import ListPib, ListQuery, ListResponse, Node432
from plc.prime.management import PIB_DEMOTE, PIB_PROMOTE
from plc.prime.messages import (
    EUI48_BYTES,
    Command,
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
    parse_payload,
)
from plc.prime.topology import LSID_NONE, NodeState, PhyLink, RegisteredDevice
from plc.prime.usi import ProtocolId, UsiDecoder, UsiFrame
from tests.sim.faults import Faults
from tests.sim.meters import CONFIRM_TAGS, SimMeter, make_meters
from tests.sim.simulator import parse_arguments, serve

FIRST_ADDRESS = 2
LIST_RECORDS_MAX = 32


def eui48_of(serial: int) -> bytes:
    """A locally administered EUI-48."""
    return bytes((0x02, 0xDC, 0x00)) + serial.to_bytes(3, "big")


@dataclass(slots=True)
class Node:
    """One meter's modem. `sid`: the switch that it hangs on, `lsid`: its own number as a switch."""

    address: int
    eui48: bytes
    meter: SimMeter
    joined: bool = False
    sid: int = 0
    lsid: int = LSID_NONE
    level: int = 0

    @property
    def state(self) -> NodeState:
        return NodeState.TERMINAL if self.lsid == LSID_NONE else NodeState.SWITCH


class BaseNode:
    """The base node, sans-IO. `latency_s` is the way over the power line and back."""

    def __init__(self, meters: list[SimMeter], *, start: float, join_interval_s: float, latency_s: float) -> None:
        self.meters = {meter.id: meter for meter in meters}
        self.faults = Faults()
        self.pib: dict[int, bytes] = {}
        self.admitted: set[bytes] = set()
        self.confirms: list[tuple[int, int, int, bytes]] = []  # of pushes: to which node, from and to which LSAP
        self._latency_s = latency_s
        self._nodes = {
            FIRST_ADDRESS + index: Node(FIRST_ADDRESS + index, eui48_of(meter.serial), meter)
            for index, meter in enumerate(meters)
        }
        self._decoder = UsiDecoder()
        self._bursts: list[bytes] = []
        self._later: list[tuple[float, int, bytes]] = []
        self._order = itertools.count()
        self._joins = [(start + join_interval_s * (1 + index), address) for index, address in enumerate(self._nodes)]

    # ---- the sans-IO contract

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the host."""
        self._decoder.feed(self.faults.apply(data))
        while (item := self._decoder.next()) is not None:
            if isinstance(item, UsiFrame):
                try:
                    self._handle(item, now)
                except PlcDecodeError as error:
                    sys.stderr.write(f"base node: {error}\n")

    def take_bursts(self) -> list[bytes]:
        """Frames for the host, faults applied."""
        bursts, self._bursts = self._bursts, []
        return [self.faults.apply(burst) for burst in bursts]

    def next_deadline(self) -> float | None:
        """When something is due."""
        due = [at for at, _ in self._joins[:1]] + [at for at, _, _ in self._later[:1]]
        return min(due, default=None)

    def on_deadline(self, now: float) -> None:
        """Joins and delayed answers."""
        while self._joins and self._joins[0][0] <= now:
            self._join(self._nodes[self._joins.pop(0)[1]])
        while self._later and self._later[0][0] <= now:
            self._bursts.append(heapq.heappop(self._later)[2])

    # ---- requests of the host

    def _handle(self, frame: UsiFrame, now: float) -> None:
        if frame.protocol is ProtocolId.MNGP_GETQRY_ENHANCED:
            self._answer_list(ListQuery.parse(frame.data))
        elif frame.protocol is ProtocolId.PRIME_API and frame.command is not None:
            match parse_payload(frame.command, frame.data):
                case DataRequest() as request:
                    self._carry(request, now)
                case ReleaseRequest() as request:
                    node = self._nodes.get(request.address)
                    if node is not None:
                        self._leave(node)
                case MlmeGet(pib=pib):
                    self._answer(MlmeGetConfirm(0 if pib in self.pib else 1, pib, self.pib.get(pib, b"")))
                case MlmeSet() as order:
                    self._answer(MlmeSetConfirm(self._set(order)))
                case Whitelist(command=command, eui48=eui48):
                    (self.admitted.add if command is Command.WHITELIST_ADD else self.admitted.discard)(eui48)
                    self._answer(WhitelistAck(command, 0))
                case _:
                    pass

    def _answer(self, payload: MlmeGetConfirm | MlmeSetConfirm | WhitelistAck | NetworkEvent) -> None:
        self._bursts.append(UsiFrame(ProtocolId.PRIME_API, payload.emit(), payload.command).emit())

    def _set(self, order: MlmeSet) -> int:
        """Write an attribute, or promote or demote a node. Returns the status."""
        if order.pib not in (PIB_PROMOTE, PIB_DEMOTE):
            self.pib[order.pib] = order.value
            return 0
        node = next((node for node in self._nodes.values() if node.eui48 == order.value and node.joined), None)
        if node is None:
            return 1
        promoted = order.pib == PIB_PROMOTE
        node.lsid = node.address if promoted else LSID_NONE
        self.happen(NetworkEventKind.PROMOTE if promoted else NetworkEventKind.DEMOTE, node)
        return 0

    def happen(self, kind: NetworkEventKind, node: Node) -> None:
        """Tell a network event of a node."""
        self._answer(NetworkEvent(kind, node.eui48, node.sid, node.address, node.lsid, 1, 1, 8))

    def hang(self, address: int, *, below: int) -> None:
        """A node hangs on another one, which is a switch, from now on."""
        node, switch = self._nodes[address], self._nodes[below]
        node.sid, node.level = switch.lsid, switch.level + 1
        self.happen(NetworkEventKind.REGISTER, node)

    def _carry(self, request: DataRequest, now: float) -> None:
        node = self._nodes.get(request.dst)
        known = node is not None and node.joined
        status = ConfirmStatus.OK if known else ConfirmStatus.BAD_ADDRESS
        self._send(DataConfirm(request.dst_lsap, request.src_lsap, request.dst, status), now)
        if node is None or not known or node.meter.id in self.faults.mute:
            return
        if request.lsdu[0] in CONFIRM_TAGS:
            self.confirms.append((request.dst, request.src_lsap, request.dst_lsap, request.lsdu))
            return
        for answer in node.meter.receive_apdu(request.src_lsap, request.lsdu, now):
            self._send(DataIndication(request.src_lsap, request.dst_lsap, 0, node.address, answer), now)

    def _send(self, payload: DataConfirm | DataIndication, now: float) -> None:
        burst = UsiFrame(ProtocolId.PRIME_API, payload.emit(), payload.command).emit()
        if self._latency_s:
            heapq.heappush(self._later, (now + self._latency_s, next(self._order), burst))
        else:
            self._bursts.append(burst)

    def push(self, address: int, apdu: bytes, now: float, client: int = 102) -> None:
        """The meter at `address` says something to a client, unasked."""
        self._send(DataIndication(client, 1, 0, address, apdu), now)

    def _answer_list(self, query: ListQuery) -> None:
        records: list[tuple[int, bytes]] = []
        if query.pib == ListPib.NODES_432:
            for node in self._nodes.values():
                if node.joined and node.address >= query.iterator:
                    record = Node432(node.address, node.meter.id.encode(), node.eui48)
                    records.append((node.address, record.emit()))
        elif query.pib == ListPib.REGISTERED_DEVICES:
            for node in self._nodes.values():
                if node.joined and node.address >= query.iterator:
                    device = RegisteredDevice(node.eui48, node.address, node.state, node.lsid, node.sid, node.level)
                    records.append((node.address, device.emit()))
        elif query.pib == ListPib.PHY_LINKS:
            for node in self._nodes.values():
                if node.joined and node.address >= query.iterator:
                    link = PhyLink(node.address, node.sid, 0, (10 + node.address) % 256, 5, 4, 0, 3)
                    records.append((node.address, link.emit()))
        chosen = tuple(records[: min(query.count_max, LIST_RECORDS_MAX)])
        response = ListResponse(query.pib, len(chosen[0][1]) if chosen else 0, chosen)
        self._bursts.append(UsiFrame(ProtocolId.MNGP_GETRSP_ENHANCED, response.emit()).emit())

    # ---- the network

    def _join(self, node: Node) -> None:
        node.joined = True
        payload = JoinIndication(node.meter.id.encode(), node.address, node.eui48)
        self._bursts.append(UsiFrame(ProtocolId.PRIME_API, payload.emit(), payload.command).emit())

    def _leave(self, node: Node) -> None:
        node.joined = False
        node.meter.forget_clients()
        payload = LeaveIndication(node.address)
        self._bursts.append(UsiFrame(ProtocolId.PRIME_API, payload.emit(), payload.command).emit())

    def restart(
        self, now: float, *, rejoin_after_s: float, join_interval_s: float = 0.1, announced: bool = True
    ) -> None:
        """The base node loses its power for a moment: what it held is gone, and no node is in the network until it has
        joined again, from `rejoin_after_s` on. It says that it restarted where `announced`."""
        self._later.clear()
        self._bursts.clear()
        for node in self._nodes.values():
            node.joined = False
            node.meter.forget_clients()
        self._joins = [
            (now + rejoin_after_s + join_interval_s * index, address) for index, address in enumerate(self._nodes)
        ]
        if announced:
            payload = NetworkEvent(NetworkEventKind.REBOOT, bytes(EUI48_BYTES), 0, 0, 0, 0, 0, 0)
            self._bursts.append(UsiFrame(ProtocolId.PRIME_API, payload.emit(), payload.command).emit())

    # ---- the control socket

    def describe(self, meter: SimMeter) -> dict[str, object]:
        """What `meters` says of a meter beside its id."""
        node = self._node_of(meter.id)
        return {"eui48": node.eui48.hex(), "address": node.address, "joined": node.joined}

    def command(self, command: dict[str, object], now: float) -> dict[str, object]:
        """`join` and `leave`."""
        del now
        match command.get("cmd"):
            case "join":
                self._join(self._node_of(str(command["meter"])))
            case "leave":
                self._leave(self._node_of(str(command["meter"])))
            case other:
                return {"error": f"unknown command {other!r}"}
        return {"ok": True}

    def _node_of(self, meter_id: str) -> Node:
        for node in self._nodes.values():
            if node.meter.id == meter_id:
                return node
        raise KeyError(meter_id)


def main(argv: list[str] | None = None) -> None:
    """Run the simulator until SIGTERM."""
    parser = argparse.ArgumentParser(prog="plc_network", description="a PRIME base node with meters, on a terminal")
    parser.add_argument("--meters", type=int, default=10)
    parser.add_argument("--first-serial", type=int, default=1)
    parser.add_argument("--join-interval-s", type=float, default=0.1)
    parser.add_argument("--latency-s", type=float, default=0.0)
    options = parse_arguments(parser, argv)
    serials = [options.first_serial + index for index in range(options.meters)]
    meters = make_meters(options.list, options.phases, serials, options.password_file, options.pdu_size)
    node = BaseNode(
        meters,
        start=time.monotonic(),
        join_interval_s=options.join_interval_s,
        latency_s=options.latency_s,
    )
    serve(node, options.link, options.control)


if __name__ == "__main__":
    main()
