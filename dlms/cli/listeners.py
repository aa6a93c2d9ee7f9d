"""Where `dlms simulate` listens: a TCP port, a UDP port or a pseudo-terminal, and the meter's side of a connection."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import termios
import time
import tty
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from dlms.errors import LocalError
from dlms.link.datalink import ApduReceived, LinkUp, ServerLink
from dlms.link.mode_e.meter import ModeEMeter
from dlms.simulator.line_faults import LineFaults, SlowLine
from dlms.simulator.meter import SimulatedMeter

CONNECTIONS_MAX = 16
READ_BYTES_MAX = 65536


class Server:
    """The meter's side of one connection: link, faults and the meter behind; `mode_e` opens the link, if given.

    A connection on which nothing was heard for `inactivity_s` seconds has `expired`, and its associations are gone.
    """

    def __init__(
        self,
        link: ServerLink,
        meter: SimulatedMeter,
        faults: LineFaults,
        line: SlowLine,
        inactivity_s: float | None = None,
        mode_e: ModeEMeter | None = None,
    ) -> None:
        self.link = link
        self._meter = meter
        self._connection = meter.connect()
        self._faults = faults
        self._line = line
        self._inactivity_s = inactivity_s
        self._mode_e = mode_e
        self._heard_at = time.monotonic()
        link.connect(self._heard_at)
        self.run()

    def receive(self, data: bytes) -> list[bytes]:
        """Bytes from the client; the bursts, or packets, that go back now."""
        self._heard_at = time.monotonic()
        heard = self._faults.apply(data)
        if heard and self._mode_e is not None and not self._mode_e.is_hdlc:
            self._mode_e.receive(heard, self._heard_at)
        elif heard:
            self.link.receive(heard, self._heard_at)
        return self.run()

    @property
    def baudrate(self) -> int | None:
        """The speed the meter hears at; None for any."""
        return None if self._mode_e is None else self._mode_e.baudrate

    def run(self) -> list[bytes]:
        """Events to the meter, answers and what the meter says unasked to the line."""
        now = time.monotonic()
        link = self.link
        connected: bool | None = None
        while (event := link.next_event()) is not None:
            if isinstance(event, ApduReceived):
                self._answer(self._connection.receive_apdu(link.client or 0, event.apdu, now), now)
            else:
                self._connection.forget(link.client)
                connected = isinstance(event, LinkUp)
        for client, apdu in self._connection.take_notifications():
            link.address(client)
            self._answer([apdu], now)
        while burst := (b"" if self._mode_e is None else self._mode_e.take_output()) or link.take_output():
            self._line.put(self._faults.apply(burst), now)
        if self._mode_e is not None and connected is not None:
            self._mode_e.connected() if connected else self._mode_e.reset()
        return self._line.take(now)

    def _answer(self, apdus: list[bytes], now: float) -> None:
        with contextlib.suppress(LocalError):  # the client disconnected behind its request
            for apdu in apdus:
                self.link.send(apdu, now)

    def wake(self) -> list[bytes]:
        """Time passed; the bursts, or packets, that go out now."""
        now = time.monotonic()
        deadline = self.link.next_deadline()
        if deadline is not None and deadline <= now:
            self.link.on_deadline(now)
        if self._mode_e is not None:
            self._mode_e.on_deadline(now)
        if self.expired:
            self._connection.forget()
        return self.run()

    @property
    def expired(self) -> bool:
        """Whether nothing was heard for too long."""
        return self._inactivity_s is not None and time.monotonic() - self._heard_at >= self._inactivity_s

    def next_deadline(self) -> float | None:
        """When `wake` has something to do, in monotonic seconds; None for never."""
        opening = None if self._mode_e is None else self._mode_e.next_deadline()
        deadlines = (self.link.next_deadline(), self._line.next_deadline(), opening)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)


def _wait(servers: Iterable[Server], longest_s: float) -> float:
    """How long there is nothing to do."""
    deadlines = [deadline for server in servers if (deadline := server.next_deadline()) is not None]
    return min([longest_s, *(max(0.0, deadline - time.monotonic()) for deadline in deadlines)])


class Listener(Protocol):
    """Where the meter listens; `name` is what a client opens."""

    name: str

    def serve_once(self, wait_s: float) -> None:
        """Serve what comes within `wait_s` seconds, and what is due. Raises `OSError` when the socket fails."""

    def close(self) -> None:
        """Stop listening, drop every client."""


class TcpListener:
    """Any number of clients, one after another or together, each with its own link."""

    def __init__(self, host: str, port: int, make: MakeServer) -> None:
        self._make = make
        self._socket = socket.create_server((host, port))
        self.name = f"tcp://{host}:{self._socket.getsockname()[1]}"
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._servers: dict[socket.socket, Server] = {}

    def serve_once(self, wait_s: float) -> None:
        for key, _ in self._selector.select(_wait(self._servers.values(), wait_s)):
            if key.fileobj is self._socket:
                self._accept()
            elif isinstance(key.fileobj, socket.socket):
                self._read(key.fileobj)
        for connection, server in list(self._servers.items()):
            self._send(connection, server.wake())
            if server.expired:
                self._drop(connection)

    def _accept(self) -> None:
        connection, _ = self._socket.accept()
        if len(self._servers) >= CONNECTIONS_MAX:
            connection.close()
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._servers[connection] = self._make()
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(READ_BYTES_MAX)
        except OSError:
            data = b""
        if data:
            self._send(connection, self._servers[connection].receive(data))
        else:
            self._drop(connection)

    def _send(self, connection: socket.socket, bursts: list[bytes]) -> None:
        if bursts:
            try:
                connection.sendall(b"".join(bursts))
            except OSError:
                self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        if self._servers.pop(connection, None) is not None:
            self._selector.unregister(connection)
            connection.close()

    def close(self) -> None:
        for connection in list(self._servers):
            self._drop(connection)
        self._selector.close()
        self._socket.close()


class UdpListener:
    """Datagrams: what the meter says goes to whoever spoke last, one packet per datagram."""

    def __init__(self, host: str, port: int, make: MakeServer) -> None:
        self._server = make()
        self._peer: tuple[Any, ...] = ()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, port))
        self.name = f"udp://{host}:{self._socket.getsockname()[1]}"

    def serve_once(self, wait_s: float) -> None:
        self._socket.settimeout(max(_wait([self._server], wait_s), 0.001))
        packets: list[bytes] = []
        with contextlib.suppress(TimeoutError):
            data, self._peer = self._socket.recvfrom(READ_BYTES_MAX)
            packets = self._server.receive(data)
        for packet in packets + self._server.wake():
            if self._peer:
                self._socket.sendto(packet, self._peer)

    def close(self) -> None:
        self._socket.close()


class TerminalListener:
    """A pseudo-terminal behind a symbolic link; clients open and close it as they like. A meter that stands at a speed
    hears nothing at another."""

    def __init__(self, link: Path, make: MakeServer) -> None:
        self._server = make()
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self._link = link
        link.unlink(missing_ok=True)
        link.symlink_to(os.ttyname(self._slave))
        self.name = str(link)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._master, selectors.EVENT_READ)

    def serve_once(self, wait_s: float) -> None:
        bursts: list[bytes] = []
        if self._selector.select(_wait([self._server], wait_s)):
            data = os.read(self._master, READ_BYTES_MAX)
            baudrate = self._server.baudrate
            if baudrate is None or termios.tcgetattr(self._master)[5] == getattr(termios, f"B{baudrate}"):
                bursts = self._server.receive(data)
        for burst in bursts + self._server.wake():
            os.write(self._master, burst)

    def close(self) -> None:
        self._selector.close()
        self._link.unlink(missing_ok=True)
        os.close(self._master)
        os.close(self._slave)


class MakeServer(Protocol):
    """Makes the meter's side of a new connection."""

    def __call__(self) -> Server: ...


def open_listener(listen: str, make: MakeServer) -> Listener:
    """`tcp://host:port`, `udp://host:port` or `pty:PATH`; port 0 is any.

    Raises `LocalError` for another form, `OSError` when the port cannot be had.
    """
    if listen.startswith("pty:") and len(listen) > len("pty:"):
        return TerminalListener(Path(listen.removeprefix("pty:")), make)
    try:
        parts = urlsplit(listen)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise LocalError(f"--listen {listen!r}: {error}") from error
    if parts.scheme not in ("tcp", "udp") or not host or port is None:
        raise LocalError(f"--listen {listen!r}: write tcp://host:port, udp://host:port or pty:PATH")
    return TcpListener(host, port, make) if parts.scheme == "tcp" else UdpListener(host, port, make)
