"""Meters that have a network address each: one connection per conversation, many at a time, one thread.

A `MeterConnections` is used like a `plc.bridge.Bridge`: open a channel to a meter's number, send, `poll`. The channel
connects without waiting, and closes its connection when it is closed. Trouble of one connection is a `DataFailed` of
its channel, never the end of the others. What the bytes are is the business of the data link above.

Over datagrams a conversation has a socket of its own, connected to the meter's address and port: the system hands over
nothing from anybody else, and what comes after the end of a conversation finds no socket. That nobody listens there
(ICMP) ends a conversation, and so does a network without a route; that a datagram is lost does not, for the session
above asks again.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable

from dlms.link.datalink import LineSettings
from dlms.link.port import keep_alive
from plc.bridge import CHANNEL_EVENTS_MAX, ChannelEvent
from plc.endpoint import Endpoint
from plc.errors import PlcLocalError
from plc.events import DataFailed, DataReceived, FailReason, NodeEvent
from plc.peers import Peer
from plc.protocols import NodeLink

CONNECT_TIMEOUT_S = 10.0
READ_BYTES_MAX = 65536


class Connection:
    """The channel to one meter, with its connection. `close` it when the conversation is over."""

    def __init__(self, owner: MeterConnections, address: int, endpoint: Endpoint, core: NodeLink) -> None:
        self.address = address
        self._datagrams = endpoint.datagrams
        self._owner = owner
        self._core = core
        self._unsent = b""
        self._events: deque[ChannelEvent] = deque(maxlen=CHANNEL_EVENTS_MAX)
        self._socket: socket.socket | None = None
        self.connected = False
        self.connect_by = owner.clock() + CONNECT_TIMEOUT_S
        self._connect(endpoint)

    def send(self, data: bytes, now: float) -> int:
        """Queue bytes for the meter. Raises `PlcLocalError` when closed, or when nobody takes them."""
        if self._socket is None and not self._events:
            raise PlcLocalError(f"the connection to {self.address} is closed")
        return self._core.send(self.address, data, 0, 0, now)

    def next_event(self) -> ChannelEvent | None:
        """What came since the last `poll`, oldest first."""
        return self._events.popleft() if self._events else None

    def close(self) -> None:
        """End the connection."""
        self._owner.forget(self)
        self._end()

    # --- for the owner ---

    def fileno(self) -> int:
        """Return the descriptor to wait for, -1 when there is no connection."""
        return self._socket.fileno() if self._socket is not None else -1

    @property
    def wants_to_write(self) -> bool:
        """Whether bytes wait, or the connection is not yet made."""
        if not (self._datagrams and self._unsent):  # one at a time: two in one are neither
            self._unsent += self._core.take_output()
        return self._socket is not None and (bool(self._unsent) or not self.connected)

    def write(self) -> None:
        """The socket takes bytes, or the attempt to connect is decided."""
        if self._socket is None:
            return
        if not self.connected:
            error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self.fail(FailReason.NO_CONNECTION, os.strerror(error))
                return
            self.connected = True
        try:
            sent = self._socket.send(self._unsent) if self._unsent else 0
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(FailReason.CONNECTION_LOST, error.strerror or str(error))
            return
        self._unsent = b"" if self._datagrams else self._unsent[sent:]

    def read(self, now: float) -> int:
        """The socket has bytes, or has ended. Returns how many there were."""
        if self._socket is None or not self.connected:
            return 0
        try:
            data = self._socket.recv(READ_BYTES_MAX)
        except BlockingIOError:
            return 0
        except OSError as error:
            self.fail(FailReason.CONNECTION_LOST, error.strerror or str(error))
            return 0
        if not data and not self._datagrams:
            self.fail(FailReason.CONNECTION_LOST, "closed by the meter")
            return 0
        self._owner.heard(self.address, data)
        self._core.receive(data, now)
        while (event := self._core.next_event()) is not None:
            if isinstance(event, DataReceived):
                self._events.append(event)
        return len(data)

    def fail(self, reason: FailReason, detail: str) -> None:
        """The connection is of no use any more."""
        self._events.append(DataFailed(self.address, 0, 0, 0, reason, detail=detail))
        self._end()

    def _connect(self, endpoint: Endpoint) -> None:
        wanted = socket.SOCK_DGRAM if endpoint.datagrams else socket.SOCK_STREAM
        try:
            family, kind, proto, _, address = socket.getaddrinfo(endpoint.host, endpoint.port, type=wanted)[0]
            peer = Peer.of(address, datagrams=endpoint.datagrams)
            if holder := self._owner.holder_of(self.address, peer):
                where = f"{endpoint.host}:{endpoint.port}"
                self.fail(FailReason.NO_CONNECTION, f"{where} leads to {peer}, which is {holder}")
                return
            self._socket = socket.socket(family, kind, proto)
            self._socket.settimeout(0.0)
            if not endpoint.datagrams:
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                keep_alive(self._socket)
            self._socket.connect(address)
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(FailReason.NO_CONNECTION, error.strerror or str(error))

    def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class MeterConnections:
    """Meters by number, each at a place of its own."""

    shared_bus = False

    def __init__(
        self,
        find_endpoint: Callable[[int], Endpoint | None],
        make_core: Callable[[], NodeLink],
        clock: Callable[[], float] = time.monotonic,
        claim: Callable[[int, Peer, Callable[[], bool]], str] = lambda _address, _peer, _is_open: "",
    ) -> None:
        """`find_endpoint` is asked for each conversation: `None` for a number that no meter has. It raises
        `PlcLocalError` for what is no endpoint. `claim` is asked whether the place of a meter (its number,
        `plc.peers.Claim`) is somebody else's."""
        self._find_endpoint = find_endpoint
        self._make_core = make_core
        self._claim = claim
        self._led_to: dict[int, Peer] = {}  # where the last conversation with each meter went
        self.clock = clock
        self.octets_heard = 0
        self.overhear: Callable[[int, bytes], None] | None = None  # gets (address, octets) as they come from a meter
        self._open: dict[int, Connection] = {}
        self._wake: list[int] = []

    def channel(self, address: int, *, dst_lsap: int = 1, src_lsap: int = 16) -> Connection:
        """Begin to connect to a meter. Raises `PlcLocalError` for an unknown one, or one that is being talked to."""
        del dst_lsap, src_lsap  # the data link has them in its own frames
        endpoint = self._find_endpoint(address)
        if endpoint is None:
            raise PlcLocalError(f"no meter {address} is configured on this port")
        if address in self._open:
            raise PlcLocalError(f"a connection to {address} is open")
        connection = Connection(self, address, endpoint, self._make_core())
        self._open[address] = connection
        return connection

    def poll(self, now: float, wait_s: float) -> list[NodeEvent]:
        """Write what is pending, wait at most `wait_s` for bytes, and take them in. There are no events of the port."""
        open_ones = [connection for connection in self._open.values() if connection.fileno() >= 0]
        deadlines = [connection.connect_by - now for connection in open_ones if not connection.connected]
        wait_s = max(0.0, min([wait_s, *deadlines]))
        if len(open_ones) < len(self._open):
            wait_s = 0.0  # one has failed already, and its reader is to hear it
        happened = self._wait(open_ones, wait_s)
        now = max(now, self.clock())
        for connection, events in happened:
            if connection.wants_to_write and events & ~select.POLLIN:  # an error too: its write says which
                connection.write()
            if events & ~select.POLLOUT:
                self.octets_heard += connection.read(now)
        for connection in open_ones:
            if connection.fileno() >= 0 and not connection.connected and now >= connection.connect_by:
                connection.fail(FailReason.NO_CONNECTION, f"no answer in {CONNECT_TIMEOUT_S:g} s")
        return []

    def holder_of(self, address: int, peer: Peer) -> str:
        """Return whose place `peer` is, where it is somebody else's than this meter's; empty for nobody's.

        It stays a meter's between its conversations, as long as it has an endpoint and that led there: two names of one
        meter would have it read twice, one after the other.
        """
        self._led_to.pop(address, None)
        holder = self._claim(address, peer, lambda: self._led_to.get(address) == peer and self._is_known(address))
        if not holder:
            self._led_to[address] = peer
        return holder

    def _is_known(self, address: int) -> bool:
        try:
            return self._find_endpoint(address) is not None
        except PlcLocalError:
            return False

    def _wait(self, open_ones: list[Connection], wait_s: float) -> list[tuple[Connection, int]]:
        """Wait for octets, or room for some that are to be written; return whose, and the events of poll(2)."""
        waiting = select.poll()  # `select` takes no descriptor from 1024 on
        for connection in open_ones:
            waiting.register(connection, select.POLLIN | (select.POLLOUT if connection.wants_to_write else 0))
        for descriptor in self._wake:
            waiting.register(descriptor, select.POLLIN)
        happened = dict(waiting.poll(wait_s * 1000))
        events = ((connection, happened.get(connection.fileno(), 0)) for connection in open_ones)
        return [(connection, those) for connection, those in events if those]

    def wake_by(self, descriptor: int) -> None:
        """Have `poll` stop waiting while this file descriptor is readable."""
        self._wake = [descriptor]

    def set_line(self, line: LineSettings) -> None:
        """A connection has no line that could be set."""

    def heard(self, address: int, data: bytes) -> None:
        """Note octets that a connection has read."""
        if self.overhear is not None:
            self.overhear(address, data)

    def forget(self, connection: Connection) -> None:
        """Leave out a connection that is closed."""
        if self._open.get(connection.address) is connection:
            del self._open[connection.address]

    def close(self) -> None:
        """End all connections."""
        for connection in list(self._open.values()):
            connection.close()
        self._led_to.clear()
