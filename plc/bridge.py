"""A serial bridge as its user sees it: poll it, and talk to nodes through channels.

    bridge = open_bridge(find_protocol("prime-usi"), "/dev/ttyS1")
    channel = bridge.channel(address, dst_lsap=1, src_lsap=17)
    channel.send(packet, now)
    for event in bridge.poll(now, wait_s=0.05):   # NodeJoined, NodeLeft, NodesListed, BaseNodeSilent, …
        ...
    while (event := channel.next_event()) is not None:   # DataReceived, DataConfirmed, DataFailed
        ...

What a channel carries depends on the protocol:

- `prime-usi`, `dlmsotcp`: one packet is one APDU. Any number of channels at a time.
- `hdlc`: a byte stream in pieces of any size. The bus is half duplex and shared (`bridge.shared_bus`): one
  open channel at a time, and no node is announced.
- `wrapper` has a connection per meter, without this class: `plc.connections.MeterConnections`.

A `PlcPortError` from `poll` is final: close the bridge and open a new one after a pause. One thread owns a bridge.

A terminal server that accepts a connection and swallows what it is sent looks like a bus on which nobody answers. So a
bridge with a `silence_s` gives up with `PlcSilentError` when for so long, and in answer to `SILENT_REQUESTS_MIN`
requests at least, not one byte has come.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from dlms.errors import LinkError, LocalError, PortBusyError
from dlms.link.datalink import MAY_BE_UNSOLICITED, LineSettings
from dlms.link.exclusive import THIS_PROCESS
from dlms.link.port import open_port
from plc.errors import PlcDefectError, PlcError, PlcLocalError, PlcPortError, PlcSilentError
from plc.events import DataConfirmed, DataFailed, DataReceived, NodeEvent, ProtocolBroken
from plc.peers import Claim, Peer
from plc.protocols import NodeLink, PortProtocol

if TYPE_CHECKING:
    import socket

WRITE_TIMEOUT_S = 5.0  # a port that takes no bytes for so long is dead
SILENT_REQUESTS_MIN = 8  # a few unanswered questions, hours apart, say nothing about the port
CHANNEL_EVENTS_MAX = 256  # unread events of one channel; older ones are dropped when their reader is gone

ChannelEvent = DataReceived | DataConfirmed | DataFailed


class BytePort(Protocol):
    """What a bridge needs of a port, such as `dlms.link.port.Port`. Both raise `LinkError` when the port fails."""

    def read(self, wait_s: float, /) -> bytes | None:
        """Bytes as soon as there are any, `b""` after `wait_s` of silence, `None` when the other side has closed."""

    def write(self, data: bytes, /) -> None:
        """Put all of it on the line."""

    def close(self) -> None:
        """Give the port back. Never raises."""


@runtime_checkable
class SettablePort(Protocol):
    """A port whose speed and parity can be changed. Raises `LinkError` when it fails."""

    def set_line(self, line: LineSettings, /) -> None: ...


@runtime_checkable
class WakeablePort(Protocol):
    """A port whose `read` can be cut short."""

    def wake_by(self, descriptor: int, /) -> None: ...


class Channel:
    """The way to one node. Made by `Bridge.channel`; `close` it when the conversation is over."""

    def __init__(self, bridge: Bridge, address: int, dst_lsap: int, src_lsap: int) -> None:
        self.address = address
        self.dst_lsap = dst_lsap
        self.src_lsap = src_lsap
        self._bridge = bridge
        self._events: deque[ChannelEvent] = deque(maxlen=CHANNEL_EVENTS_MAX)
        self._closed = False

    def send(self, data: bytes, now: float) -> int:
        """One packet to the node (on an HDLC bus: some bytes). The ticket comes back in `DataConfirmed` or
        `DataFailed`, on bridges that confirm. Raises `PlcLocalError` when closed, or when the packet is too long."""
        if self._closed:
            raise PlcLocalError(f"the channel to {self.address} is closed")
        return self._bridge.core.send(self.address, data, self.dst_lsap, self.src_lsap, now)

    def next_event(self) -> ChannelEvent | None:
        """What came for this channel since the last `poll`, oldest first."""
        return self._events.popleft() if self._events else None

    def close(self) -> None:
        """Stop listening. Later packets of this node come out of `poll`."""
        if not self._closed:
            self._closed = True
            self._bridge.forget(self)

    def deliver(self, event: ChannelEvent) -> None:
        """Note an event of this channel, which the bridge hands over."""
        self._events.append(event)


class Bridge:
    """A port and the core that speaks its protocol."""

    def __init__(
        self,
        port: BytePort,
        core: NodeLink,
        clock: Callable[[], float] = time.monotonic,
        *,
        silence_s: float = 0.0,
    ) -> None:
        """`silence_s`: how long requests may stay without one byte in answer; 0 for ever."""
        self.core = core
        self._port = port
        self._clock = clock
        self.octets_heard = 0
        self.overhear: Callable[[int, bytes], None] | None = None  # gets (0, octets) as they come from the port
        self._silence_s = silence_s
        self._line: LineSettings | None = None  # as far as it was set by us
        self._unanswered = 0  # requests since the last byte came,
        self._unanswered_since = 0.0  # the first of them
        self._channels: dict[int, Channel] = {}
        self._started = False

    @property
    def shared_bus(self) -> bool:
        """Whether only one conversation fits at a time."""
        return self.core.shared_bus

    def channel(self, address: int, *, dst_lsap: int = 1, src_lsap: int = 16) -> Channel:
        """Open the way to a node. Raises `PlcLocalError` when it is open, or when the bus is taken."""
        if address in self._channels:
            raise PlcLocalError(f"a channel to {address} is open")
        if self.shared_bus and self._channels:
            raise PlcLocalError("another conversation has the bus")
        channel = Channel(self, address, dst_lsap, src_lsap)
        self._channels[address] = channel
        return channel

    def wake_by(self, descriptor: int) -> None:
        """Have `poll` stop waiting while this file descriptor is readable. Ports that cannot do so wait on."""
        if isinstance(self._port, WakeablePort):
            self._port.wake_by(descriptor)

    def set_line(self, line: LineSettings) -> None:
        """Have the line stand like this for what is sent next. Raises `PlcPortError` when it cannot."""
        if line == self._line:
            return
        if not isinstance(self._port, SettablePort):
            raise PlcPortError(f"{line.baudrate} baud, parity {line.parity}: this port has no speed to set")
        try:
            self._port.set_line(line)
        except LinkError as error:
            raise PlcPortError(str(error)) from error
        self._line = line

    def forget(self, channel: Channel) -> None:
        """Forget the channel, which has been closed."""
        if self._channels.get(channel.address) is channel:
            del self._channels[channel.address]

    def poll(self, now: float, wait_s: float) -> list[NodeEvent]:
        """Write what is pending, wait at most `wait_s` for bytes (less when a deadline comes first), and take them in.

        Returns the events that belong to no open channel. Raises `PlcPortError`, `PlcSilentError` among them, and
        `PlcDefectError` for whatever a protocol raises that it may not: it costs this port, and no other one.
        """
        try:
            return self._poll(now, wait_s)
        except PlcError:
            raise
        except Exception as error:
            raise PlcDefectError(error) from error

    def _poll(self, now: float, wait_s: float) -> list[NodeEvent]:
        if not self._started:
            self._started = True
            self.core.start(now)
        self._flush(now)
        deadline = self.core.next_deadline()
        if deadline is not None:
            wait_s = min(wait_s, max(0.0, deadline - now))
        try:
            data = self._port.read(wait_s)
        except LinkError as error:
            raise PlcPortError(str(error)) from error
        if data is None:
            raise PlcPortError("the other side closed the connection")
        now = max(now, self._clock())
        if data:
            self._unanswered = 0
            self.octets_heard += len(data)
            if self.overhear is not None:
                self.overhear(0, data)
            self.core.receive(data, now)
        else:
            self._check_silence(now)
        deadline = self.core.next_deadline()
        if deadline is not None and deadline <= now:
            self.core.on_deadline(now)
        self._flush(now)
        return self._sort_events()

    def close(self) -> None:
        """Close the port. Channels stay readable and cannot send any more."""
        for channel in list(self._channels.values()):
            channel.close()
        self._port.close()

    def _check_silence(self, now: float) -> None:
        silent_s = now - self._unanswered_since
        if self._silence_s and self._unanswered >= SILENT_REQUESTS_MIN and silent_s >= self._silence_s:
            raise PlcSilentError(self._unanswered, silent_s)

    def _flush(self, now: float) -> None:
        output = self.core.take_output()
        if not output:
            return
        if not self._unanswered:
            self._unanswered_since = now
        self._unanswered += 1
        try:
            self._port.write(output)
        except LinkError as error:
            raise PlcPortError(str(error)) from error

    def _sort_events(self) -> list[NodeEvent]:
        rest: list[NodeEvent] = []
        while (event := self.core.next_event()) is not None:
            if isinstance(event, DataReceived | DataConfirmed | DataFailed):
                channel = self._channels.get(event.address)
                if channel is not None and not _is_for_another(event, channel):
                    channel.deliver(event)
                    continue
            elif isinstance(event, ProtocolBroken):
                raise PlcPortError(event.why)
            rest.append(event)
        return rest


def _is_for_another(event: ChannelEvent, channel: Channel) -> bool:
    """Whether a packet of this node is a push to another client than the one that is talking with it."""
    if not isinstance(event, DataReceived) or event.dst_lsap in (0, channel.src_lsap):
        return False
    return bool(event.lsdu) and event.lsdu[0] in MAY_BE_UNSOLICITED


def open_bridge(
    protocol: PortProtocol,
    url: str,
    baudrate: int = 0,
    *,
    parity: str = "none",
    silence_s: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    claim: Claim = lambda _peer, _is_open: "",
) -> Bridge:
    """Open a port (8 data bits, 1 stop bit) and speak `protocol`. `url` is anything `dlms.link.port.open_port`
    takes: `/dev/ttyS1`, `socket://host:port`, `rfc2217://host:port`. A `baudrate` of 0 is the protocol's own;
    `silence_s`: see `Bridge`. `claim` is asked whether anybody else is connected to the same place.

    Raises `PlcPortError` when the port cannot be opened.
    """
    try:
        port = open_port(url, baudrate or protocol.baudrate, parity=parity, write_timeout_s=WRITE_TIMEOUT_S)
    except PortBusyError as error:
        mine = error.holder == THIS_PROCESS
        raise PlcPortError(f"{error}: another port has it under another name" if mine else str(error)) from error
    except (LocalError, LinkError) as error:
        raise PlcPortError(str(error)) from error
    network: socket.socket | None = getattr(port, "network", None)
    peer = Peer.of_socket(network) if network is not None else None
    if network is not None and peer is not None and (holder := claim(peer, lambda: network.fileno() >= 0)):
        port.close()
        raise PlcPortError(f"{url}: leads to {peer}, to which {holder} is connected")
    return Bridge(port, protocol.make_core(), clock, silence_s=silence_s)
