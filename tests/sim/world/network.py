"""The base node of the world, which can be reset, and the line to it, at which the daemon can be killed."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

from dlms.codes import Apdu
from dlms.errors import LinkError
from dlms.link.readable import readable
from plc.errors import PlcPortError
from plc.prime.messages import DataConfirm, DataIndication, DataRequest, parse_payload
from plc.prime.usi import ProtocolId, UsiDecoder, UsiFrame
from tests.agent.metering.lines import Line
from tests.agent.virtual import VirtualClock
from tests.sim.faults import Faults
from tests.sim.meters import SimMeter
from tests.sim.plc_network import BaseNode
from tests.sim.rs485_bus import Bus, Station
from tests.sim.world.meters import WorldMeter

INSTANT_S = 1e-6  # a wait that is lost in the rounding of two clocks would never end
FIRST_ADDRESS = 17
INFO_MAX = 128
REJOIN_AFTER_S = 20.0
NUMBERED = (Apdu.GET_RESPONSE, Apdu.SET_RESPONSE, Apdu.ACTION_RESPONSE)  # they say which request they answer
JOIN_INTERVAL_S = 0.5


class Killed(BaseException):
    """The daemon is killed here. Not an `Exception`: nothing of it may notice."""


class DeviceClock(VirtualClock):
    """`now` is the time of the world, which goes on; the device's monotonic clock begins with its boot."""

    booted_at = 0.0

    def monotonic(self) -> float:
        return self.now - self.booted_at


class WatchedFaults(Faults):
    """Faults of the line. `lost`: the last burst was."""

    lost = False

    def apply(self, burst: bytes) -> bytes:
        arrived = super().apply(burst)
        self.lost = bool(burst) and not arrived and not self.silent
        return arrived


@dataclass(frozen=True, slots=True)
class Loss:
    """A lost frame, and for how long nothing was said to its node afterwards while it was being visited. `alone`: it
    costs a timeout that was learned, which is doubled once at most. Where nothing is learned yet, where more than two
    askings in a row were not answered, and where a node that was silent before is asked the second time, it is not."""

    at: float
    cost_s: float
    alone: bool


class Losses:
    """What lost frames cost, of the nodes of one port."""

    def __init__(self) -> None:
        self.known: list[Loss] = []
        self._since: dict[int, tuple[float, bool]] = {}
        self._learned = False
        self._askings: dict[int, int] = {}  # of a node since an answer has last taught how long it takes
        self._visited: set[int] = set()
        self._answered: set[int] = set()  # nodes that were heard in this visit
        self._silent: set[int] = set()  # nodes that were not in their last one

    def begin(self) -> None:
        """A daemon starts, which has learned nothing."""
        self._learned = False
        self._askings.clear()

    def lost(self, address: int, now: float) -> None:
        """A request to this node, its confirm, or the node's answer."""
        alone = self._learned and self._askings.get(address, 0) <= (1 if address in self._silent else 2)
        self._since[address] = now, alone

    def asked(self, address: int, now: float) -> None:
        """It is asked something, once more or anew."""
        self._over(address, now)
        self._askings[address] = self._askings.get(address, 0) + 1

    def heard(self, address: int, apdu: bytes) -> None:
        """An answer of this node has arrived. One that has no number teaches nothing where its question was asked
        twice."""
        if self._askings.get(address, 0) <= 1 or apdu[0] in NUMBERED:
            self._learned = True
            self._askings.pop(address, None)
        self._answered.add(address)

    def visited(self, addresses: Collection[int], now: float) -> None:
        """These are being visited, and no others."""
        for address in self._since.keys() - addresses:
            self._over(address, now)
        for address in self._visited - set(addresses):
            if address in self._answered:
                self._silent.discard(address)
                self._answered.discard(address)
            else:
                self._silent.add(address)
                self._askings.pop(address, None)  # waiting for it begins anew with what was learned
        self._visited = set(addresses)

    def forget(self, address: int | None = None) -> None:
        """Something else happens to this node, or to all of them: what was lost is not what costs now."""
        if address is None:
            self._since.clear()
        else:
            self._since.pop(address, None)

    def _over(self, address: int, now: float) -> None:
        if address in self._since:
            since, alone = self._since.pop(address)
            self.known.append(Loss(since, now - since, alone))


class WorldNode(BaseNode):
    """A base node whose modems come and go, and that can lose power itself."""

    faults: WatchedFaults

    def __init__(self, meters: Sequence[WorldMeter], start: float, latency_s: float) -> None:
        super().__init__(
            cast("list[SimMeter]", list(meters)), start=start, join_interval_s=JOIN_INTERVAL_S, latency_s=latency_s
        )
        self.faults = WatchedFaults()
        self.losses = Losses()
        self.unheard: set[str] = set()  # meters that were asked something while they were deaf, and nothing since
        self._now = start

    def receive(self, data: bytes, now: float) -> None:
        self._now = now
        super().receive(data, now)
        if self.faults.lost:
            for payload in payloads(data):
                if isinstance(payload, DataRequest):
                    self.losses.asked(payload.dst, now)
                    self.losses.lost(payload.dst, now)

    def take_bursts(self) -> list[bytes]:
        bursts, self._bursts = self._bursts, []
        arrived: list[bytes] = []
        for burst in bursts:
            arrived.append(self.faults.apply(burst))
            for payload in payloads(burst):
                if isinstance(payload, DataIndication) and not self.faults.lost:
                    self.losses.heard(payload.src, payload.lsdu)
                elif isinstance(payload, DataIndication):
                    self.losses.lost(payload.src, self._now)
                elif isinstance(payload, DataConfirm) and self.faults.lost:
                    self.losses.lost(payload.dst, self._now)
        return arrived

    def on_deadline(self, now: float) -> None:
        self._now = now
        super().on_deadline(now)

    def _carry(self, request: DataRequest, now: float) -> None:
        node = self._nodes.get(request.dst)
        if node is None or not node.joined or self.is_deaf(node.meter.id):
            self.losses.forget(request.dst)
        if node is not None:
            deaf = self.is_deaf(node.meter.id)
            self.unheard = self.unheard | {node.meter.id} if deaf else self.unheard - {node.meter.id}
        self.losses.asked(request.dst, now)
        super()._carry(request, now)

    def is_deaf(self, meter_id: str) -> bool:
        """Whether a meter of the network hears nothing, or says nothing."""
        return meter_id in self.faults.mute or not cast("WorldMeter", self.meters[meter_id]).powered

    def is_joined(self, meter_id: str) -> bool:
        return self._node_of(meter_id).joined

    def reset(self, now: float) -> None:
        """Everything that was on its way is gone, and no node is registered; they join again after a while."""
        self.losses.forget()
        self._bursts.clear()
        self._later.clear()
        for node in self._nodes.values():
            node.joined = False
            node.meter.forget_clients()
        self._joins = [
            (now + REJOIN_AFTER_S + JOIN_INTERVAL_S * number, address) for number, address in enumerate(self._nodes)
        ]

    def move(self, meter_id: str, *, joined: bool) -> None:
        """A modem leaves the network, or is back."""
        node = self._node_of(meter_id)
        self.losses.forget(node.address)
        if node.joined and not joined:
            self._leave(node)
        elif joined and not node.joined:
            self._join(node)


class WorldBus(Bus):
    """HDLC meters at the addresses `FIRST_ADDRESS` and following, on one bus. Meters are taken off it and put back; one
    without power neither hears nor says anything. What a lost frame costs is not measured here."""

    faults: WatchedFaults

    def __init__(self, meters: Sequence[WorldMeter], pick: random.Random) -> None:
        super().__init__([_station(meter, FIRST_ADDRESS + at) for at, meter in enumerate(meters)])
        self.faults = WatchedFaults()
        self.losses = Losses()
        self.unheard: set[str] = set()  # no meter of a bus refuses its password, so nobody asks
        self.collides = False  # whether two at one address speak at the same time, or one after the other
        self._off: set[str] = set()
        self._pick = pick

    def receive(self, data: bytes, now: float) -> None:
        for station in self.stations:
            meter = cast("WorldMeter", station.meter)
            station.connected = meter.powered and meter.id not in self._off
        super().receive(data, now)

    def take_bursts(self) -> list[bytes]:
        bursts = super().take_bursts()
        if len(bursts) > 1 and self.collides:
            longest = max(bursts, key=len)
            return [bytes(octet ^ self._pick.getrandbits(8) for octet in longest)]
        return bursts

    def is_deaf(self, meter_id: str) -> bool:
        meter = cast("WorldMeter", self.meters[meter_id])
        return meter_id in self.faults.mute or not meter.powered or meter_id in self._off

    def is_joined(self, meter_id: str) -> bool:
        return meter_id not in self._off

    def reset(self, now: float) -> None:
        """The converter has lost its power: what was on its way is gone."""
        del now
        for station in self.stations:
            station.link.take_output()

    def move(self, meter_id: str, *, joined: bool) -> None:
        """A meter is taken off the bus, or put back."""
        self._off = self._off - {meter_id} if joined else self._off | {meter_id}

    def add_stranger(self, stranger: WorldMeter, beside: WorldMeter, *, collides: bool) -> None:
        """Somebody puts another meter on the bus, with the address of one that is there."""
        address = next(station.address for station in self.stations if station.meter.id == beside.id)
        self.stations.append(_station(stranger, address))
        self.collides = collides

    def remove_stranger(self, stranger: WorldMeter) -> None:
        self.stations = [station for station in self.stations if station.meter.id != stranger.id]


def _station(meter: WorldMeter, address: int) -> Station:
    return Station(cast("SimMeter", meter), address, INFO_MAX, window=1)


def payloads(burst: bytes) -> list[object]:
    """What is in frames of the PRIME API."""
    decoder = UsiDecoder()
    decoder.feed(burst)
    found: list[object] = []
    while (item := decoder.next()) is not None:
        if isinstance(item, UsiFrame) and item.command is not None and item.protocol is ProtocolId.PRIME_API:
            found.append(parse_payload(item.command, item.data))
    return found


@dataclass(slots=True)
class Fate:
    """When the daemon is killed: in the middle of what it does, for the lines that it uses look at it."""

    kill_at: float = math.inf

    def strike(self, now: float) -> None:
        if now >= self.kill_at:
            self.kill_at = math.inf
            raise Killed


class WorldLine(Line):
    """A line whose waits end at `horizon`, when something else of the world has its turn. `due` is when whoever waits
    for the line wants to be called, should nothing come before."""

    def __init__(self, network: WorldNode | WorldBus, clock: VirtualClock, fate: Fate, *, octet_s: float = 0.0) -> None:
        super().__init__(network, clock, octet_s)
        self.horizon = math.inf
        self.due = clock.now
        self.swallows = False  # what it is given, and gives nothing, until it is opened anew
        self.hangs_up = False  # with the next read
        self.refuses_until = -math.inf  # a connection
        self._fate = fate
        self._wakes: list[int] = []

    def begin(self) -> None:
        """A new daemon looks at the line first of all. The one before may have been killed, and its descriptors with
        it."""
        self.due = self.clock.now
        self._wakes = []

    def wake_by(self, descriptor: int) -> None:
        self._wakes = [descriptor]

    @property
    def woken(self) -> bool:
        """Whether another thread has ended the wait."""
        return bool(self._wakes and readable(self._wakes, 0))

    def next_due(self) -> float:
        """When the wait for the line is over."""
        deadline = self.network.next_deadline()
        if ((self.broken or self.hangs_up) and not self.closed) or self.woken:
            return self.clock.now
        return self.due if deadline is None or self.closed or self.swallows else min(self.due, deadline)

    def open(self) -> None:
        """Raises `PlcPortError` while nobody takes the connection."""
        self.hangs_up = False
        self.closed = self.clock.now < self.refuses_until
        if self.closed:
            raise PlcPortError("connection refused")

    def read(self, wait_s: float) -> bytes:
        now = self.due = self.clock.now
        self._fate.strike(now)
        if self.hangs_up:
            raise LinkError("the other side closed the connection")
        wait_s_now = min(wait_s, max(0.0, self.horizon - now))
        if self.swallows and not self.broken:
            self.clock.now += wait_s_now
            data = b""
        else:
            data = super().read(wait_s_now)
        self.due = self.clock.now if data else max(self.clock.now, now + wait_s)
        if 0 < wait_s < INSTANT_S and not data:
            self.due = self.clock.now + INSTANT_S
        return data

    def write(self, data: bytes) -> None:
        self._fate.strike(self.clock.now)
        if not self.swallows:
            super().write(data)

    def close(self) -> None:
        self.swallows = False
        super().close()
