"""`dlms simulate`: a meter on a TCP port, a UDP port or a pseudo-terminal, with faults on demand."""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import signal
import socket
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import click

from dlms.datalink import ApduReceived, DataLink, LinkUp
from dlms.errors import DlmsError, LocalError
from dlms.faults import LineFaults
from dlms.hdlc import HdlcAddress
from dlms.hdlc_link import HdlcServerLink
from dlms.links import LINKS
from dlms.mode_e import Identification
from dlms.mode_e_meter import ModeEMeter
from dlms.objects import rows_from_csv
from dlms.security import MemoryCounters
from dlms.simulation import SERIAL_MAX, SimulatedMeter
from dlms.tool.protection import Protection, make_auth, make_security, protection_options
from dlms.wrapper import WrapperServerLink

BUILT_IN_LIST = Path(__file__).with_name("simulated.csv")
TICK_S = 0.5
CONNECTIONS_MAX = 16
READ_BYTES_MAX = 65536
SYSTEM_TITLE = "53494d3000000001"  # where none is given
ADVANCE_S = 60.0  # registers move this often
INACTIVITY_S = 120.0  # with mode E a lost client may not keep the meter at its speed (default of the HDLC setup class)


class Server:
    """The meter's side of one connection: link, faults and the meter behind; `greeting` stands before the link."""

    def __init__(
        self,
        link: HdlcServerLink | WrapperServerLink,
        meter: SimulatedMeter,
        faults: LineFaults,
        greeting: ModeEMeter | None = None,
    ) -> None:
        self.link = link
        self._meter = meter
        self._faults = faults
        self._greeting = greeting
        link.connect(time.monotonic())
        self.run()

    def receive(self, data: bytes) -> list[bytes]:
        """Bytes from the client; the bursts, or packets, that go back now."""
        heard = self._faults.apply(data)
        if heard and self._greeting is not None and not self._greeting.is_hdlc:
            self._greeting.receive(heard, time.monotonic())
        elif heard:
            self.link.receive(heard, time.monotonic())
        return self.run()

    @property
    def baudrate(self) -> int | None:
        """The speed the meter hears at; None for any."""
        return None if self._greeting is None else self._greeting.baudrate

    def run(self) -> list[bytes]:
        """Events to the meter, answers to the line."""
        now = time.monotonic()
        connected: bool | None = None
        while (event := self.link.next_event()) is not None:
            if isinstance(event, ApduReceived):
                with contextlib.suppress(LocalError):  # the client disconnected behind its request
                    for answer in self._meter.receive_apdu(self.link.client or 0, event.apdu, now):
                        self.link.send(answer, now)
            else:
                self._meter.forget_clients()
                connected = isinstance(event, LinkUp)
        bursts = self._take()
        if self._greeting is not None and connected:
            self._greeting.connected()
        elif self._greeting is not None and connected is False:
            self._greeting.reset()
        return bursts

    def wake(self) -> list[bytes]:
        """Time passed."""
        deadline = self.link.next_deadline()
        if deadline is not None and deadline <= time.monotonic():
            self.link.on_deadline(time.monotonic())
        if self._greeting is not None:
            self._greeting.on_deadline(time.monotonic())
        return self.run()

    def _take(self) -> list[bytes]:
        bursts = []
        link: DataLink = self.link
        while burst := (b"" if self._greeting is None else self._greeting.take_output()) or link.take_output():
            if damaged := self._faults.apply(burst):
                bursts.append(damaged)
        return bursts


class Place(Protocol):
    """Where the meter listens."""

    name: str

    def serve_once(self, wait_s: float) -> None: ...

    def close(self) -> None: ...


class TcpPlace:
    """Any number of clients, one after another or together, each with its own link."""

    def __init__(self, host: str, port: int, make: MakeServer) -> None:
        self._make = make
        self._listener = socket.create_server((host, port))
        self.name = f"tcp://{host}:{self._listener.getsockname()[1]}"
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._servers: dict[socket.socket, Server] = {}

    def serve_once(self, wait_s: float) -> None:
        for key, _ in self._selector.select(wait_s):
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.fileobj, socket.socket):
                self._read(key.fileobj)
        for connection, server in list(self._servers.items()):
            self._send(connection, server.wake())

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
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
        self._listener.close()


class UdpPlace:
    """Datagrams: what the meter says goes to whoever spoke last, a packet a datagram."""

    def __init__(self, host: str, port: int, make: MakeServer) -> None:
        self._server = make()
        self._peer: tuple[Any, ...] = ()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, port))
        self.name = f"udp://{host}:{self._socket.getsockname()[1]}"

    def serve_once(self, wait_s: float) -> None:
        self._socket.settimeout(max(wait_s, 0.001))
        packets: list[bytes] = []
        with contextlib.suppress(TimeoutError):
            data, self._peer = self._socket.recvfrom(READ_BYTES_MAX)
            packets = self._server.receive(data)
        for packet in packets + self._server.wake():
            self._socket.sendto(packet, self._peer)

    def close(self) -> None:
        self._socket.close()


class TerminalPlace:
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
        if self._selector.select(wait_s):
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


def open_place(listen: str, make: MakeServer) -> Place:
    """`tcp://host:port`, `udp://host:port` or `pty:PATH`; port 0 is any. Raises `LocalError`, OSError."""
    if listen.startswith("pty:") and len(listen) > len("pty:"):
        return TerminalPlace(Path(listen.removeprefix("pty:")), make)
    try:
        parts = urlsplit(listen)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise LocalError(f"--listen {listen!r}: {error}") from error
    if parts.scheme not in ("tcp", "udp") or not host or port is None:
        raise LocalError(f"--listen {listen!r}: write tcp://host:port, udp://host:port or pty:PATH")
    return TcpPlace(host, port, make) if parts.scheme == "tcp" else UdpPlace(host, port, make)


@contextlib.contextmanager
def _until_signal() -> Iterator[list[int]]:
    received: list[int] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in previous:
        signal.signal(number, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@click.command()
@click.option("--listen", default="tcp://127.0.0.1:4059", show_default=True, help="also udp://host:port, pty:PATH")
@click.option("--link", type=click.Choice(tuple(LINKS)), default="hdlc", show_default=True)
@click.option("--server", default="1", show_default=True, help="SAP; for HDLC also UPPER/LOWER; for llc the node")
@click.option("--serial", type=click.IntRange(1, SERIAL_MAX), default=1, show_default=True)
@click.option("--phases", type=click.Choice(("1", "3")), default="3", show_default=True)
@click.option("--codes", type=click.Path(path_type=Path), help="a reading list; a small one is built in")
@protection_options
@click.option("--pdu-size", type=click.IntRange(64, 0xFFFF), default=1024, show_default=True)
@click.option("--info-max", type=click.IntRange(1, 2030), default=128, show_default=True)
@click.option("--window", type=click.IntRange(1, 7), default=1, show_default=True)
@click.option("--mode-e", is_flag=True, help="on a pseudo-terminal: be greeted at 300 baud first, by number: --serial")
@click.option("--loss", type=click.FloatRange(0, 1), default=0.0, help="share of bursts swallowed, each way")
@click.option("--flip", type=click.FloatRange(0, 1), default=0.0, help="share of bursts with one bit flipped")
@click.option("--reorder", type=click.FloatRange(0, 1), default=0.0, help="share of HDLC windows out of order")
@click.option(
    "--bad-fcs", type=click.FloatRange(0, 1), default=0.0, help="share of frames with a wrong FCS ending in 7E"
)
@click.option("--silent", is_flag=True, help="hear, and say nothing")
@click.option("--seed", type=int, default=1, show_default=True, help="of the faults")
@click.option("--advance-wh", type=click.IntRange(0), default=0, help="energy a minute")
def simulate(
    listen: str,
    link: str,
    server: str,
    serial: int,
    phases: str,
    codes: Path | None,
    protection: Protection,
    pdu_size: int,
    info_max: int,
    window: int,
    mode_e: bool,
    loss: float,
    flip: float,
    reorder: float,
    bad_fcs: float,
    silent: bool,
    seed: int,
    advance_wh: int,
) -> None:
    """Be a meter until interrupted."""
    faults = LineFaults(loss, flip, reorder, bad_fcs, silent, random.Random(seed))  # noqa: S311 (not secrets)
    try:
        rows = rows_from_csv(codes or BUILT_IN_LIST)
        if protection.system_title is None:
            protection = replace(protection, system_title=SYSTEM_TITLE)
        proof = make_auth(protection)
        security = make_security(protection, MemoryCounters())
        meter = SimulatedMeter(
            serial, rows, phases=int(phases), auth=proof, security=security, pdu_size=pdu_size
        )  # fmt: skip
        packet = listen.startswith("udp:")
        if mode_e and (link != "hdlc" or not listen.startswith("pty:")):
            raise LocalError("--mode-e is for --link hdlc on pty:PATH, which has a speed")
        inactivity_s = INACTIVITY_S if mode_e else None

        def make() -> Server:
            below = _link(link, server, info_max, window, packet=packet, inactivity_s=inactivity_s)
            return Server(below, meter, faults, greeting(meter) if mode_e else None)

        make()  # wrong options are said now, not to the first client
        place = open_place(listen, make)
    except (DlmsError, OSError) as error:
        raise click.UsageError(str(error)) from error
    click.echo(f"{meter.id} listening on {place.name}")
    moved_at = time.monotonic()
    try:
        with _until_signal() as received:
            while not received:
                place.serve_once(TICK_S)
                if time.monotonic() - moved_at >= ADVANCE_S:
                    moved_at += ADVANCE_S
                    meter.advance(advance_wh)
    finally:
        place.close()


def greeting(meter: SimulatedMeter) -> ModeEMeter:
    """The greeting of mode E, up to 19200 baud; on a loop the meter's number is its serial number."""
    return ModeEMeter(Identification(meter.id[:3], "6", meter.id, offers_hdlc=True), str(meter.serial))


def _link(
    name: str, server: str, info_max: int, window: int, *, packet: bool, inactivity_s: float | None
) -> HdlcServerLink | WrapperServerLink:
    if name == "hdlc":
        address = HdlcAddress.of(server)
        return HdlcServerLink(address, info_max=info_max, window=window, inactivity_timeout_s=inactivity_s)
    if not server.isdigit():
        raise LocalError(f"--server {server!r}: only HDLC has UPPER/LOWER")
    # A base node's DLMS over TCP has the wrapper's layout with the node in the place of the SAP: see `nodeport`.
    return WrapperServerLink(int(server), packet=packet)
