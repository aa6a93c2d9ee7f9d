"""Byte ports for blocking drivers: TCP and UDP sockets directly, everything else by pyserial's URLs.

`socket://host:port` is TCP, `udp://host:port` UDP, a datagram per read; `/dev/ttyUSB0`, `rfc2217://...`, `loop://` and
the rest go to `serial.serial_for_url`. Foreign exceptions become `LinkError` here, once.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from typing import TYPE_CHECKING, Any, Protocol

from dlms.errors import LinkError, LocalError, PortBusyError
from dlms.link.datalink import LineSettings
from dlms.link.exclusive import BUSY, holder_of, keep_others_out
from dlms.link.readable import readable

if TYPE_CHECKING:
    import socket

    import serial

CONNECT_TIMEOUT_S = 10.0
READ_BYTES_MAX = 65536
WRITE_TIMEOUT_S = 30.0
KEEPALIVE_IDLE_S = 30  # a connection without traffic is probed after this,
KEEPALIVE_INTERVAL_S = 10  # then so often,
KEEPALIVE_PROBES = 3  # and is over when so many probes in a row were not answered
UNACKNOWLEDGED_MS = 60_000  # or when what was written is not acknowledged for so long (TCP_USER_TIMEOUT, tcp(7))
SLICE_S = 0.02  # how late a port that cannot be waited for (loop) may notice that a read has timed out


class Port(Protocol):
    """An open port. Every method raises `LinkError` when the port fails."""

    def read(self, timeout_s: float | None) -> bytes | None:
        """What has arrived, waiting at most `timeout_s` (None: for ever) for the first byte; b"" for silence.

        None says that nothing will ever come again.
        """

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class SocketPort:
    """A connected TCP or UDP socket."""

    def __init__(self, connected: socket.socket, write_timeout_s: float = WRITE_TIMEOUT_S) -> None:
        self._socket = connected
        self._write_timeout_s = write_timeout_s
        self._wake: list[int] = []

    @property
    def network(self) -> socket.socket:
        """The socket that this is."""
        return self._socket

    def wake_by(self, descriptor: int) -> None:
        """Have a `read` return b"" early while this file descriptor is readable."""
        self._wake = [descriptor]

    def read(self, timeout_s: float | None) -> bytes | None:
        try:
            if self._wake:
                ready = readable([self._socket, *self._wake], timeout_s)
                if self._socket.fileno() not in ready:
                    return b""
                timeout_s = 0.0
            self._socket.settimeout(None if timeout_s is None else max(timeout_s, 1e-6))
            data = self._socket.recv(READ_BYTES_MAX)
        except TimeoutError:
            return b""
        except (OSError, ValueError) as error:  # the latter for a socket that was closed
            raise LinkError(f"socket: {error}") from error
        return data or None

    def write(self, data: bytes) -> None:
        try:
            self._socket.settimeout(self._write_timeout_s)
            self._socket.sendall(data)
        except OSError as error:
            raise LinkError(f"socket: {error}") from error

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()


class SerialPort:
    """A port of pyserial.

    One with a file descriptor is waited for and then read without waiting; for rfc2217, whose octets a
    thread of pyserial's puts into a queue, `_Arrivals` is waited for. The others (loop) have a timeout of `SLICE_S` of
    their own: setting another one for each read would configure the line anew.
    """

    def __init__(self, port: serial.Serial) -> None:
        self._port = port
        self._name = str(port.name)
        self._descriptor: int | None = port.fileno() if _has_descriptor(port) else None
        queue = getattr(port, "_read_buffer", None)
        self._arrivals = None if queue is None else _Arrivals(queue)
        self._wake: list[int] = []

    def wake_by(self, descriptor: int) -> None:
        """Have a `read` return b"" early while this file descriptor is readable."""
        self._wake = [descriptor]

    def read(self, timeout_s: float | None) -> bytes | None:
        try:
            if self._arrivals is not None:
                return self._read_arrived(self._arrivals, timeout_s)
            if self._descriptor is None:
                return self._read_in_slices(timeout_s)
            wait_s = None if timeout_s is None else max(0.0, timeout_s)
            ready = readable([self._descriptor, *self._wake], wait_s)
            # Readable and yet no byte means that the other side hung up. pyserial raises that itself; its b"" is
            # silence, never the end.
            return bytes(self._port.read(READ_BYTES_MAX)) if self._descriptor in ready else b""
        except (OSError, ValueError, TypeError) as error:  # SerialException is an OSError
            raise LinkError(f"serial port {self._name}: {error}") from error

    def _read_arrived(self, arrivals: _Arrivals, timeout_s: float | None) -> bytes:
        limit = None if timeout_s is None else time.monotonic() + timeout_s
        while not (waiting := arrivals.begin_look()):
            wait_s = None if limit is None else max(0.0, limit - time.monotonic())
            ready = readable([arrivals, *self._wake], wait_s)
            if arrivals.fileno() not in ready:
                return b""
        received = bytes(self._port.read(min(waiting, READ_BYTES_MAX)))
        if not received and arrivals.ended:
            raise LinkError(f"serial port {self._name}: the connection has ended")
        return received

    def _read_in_slices(self, timeout_s: float | None) -> bytes:
        limit = None if timeout_s is None else time.monotonic() + timeout_s
        while not (first := bytes(self._port.read(1))):
            if limit is not None and time.monotonic() >= limit:
                return b""
            if self._wake and readable(self._wake, 0):
                return b""
        waiting = int(getattr(self._port, "in_waiting", 0))
        return first + bytes(self._port.read(min(waiting, READ_BYTES_MAX - 1))) if waiting else first

    def write(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except (OSError, ValueError) as error:
            raise LinkError(f"serial port {self._name}: {error}") from error

    @property
    def network(self) -> socket.socket | None:
        """The socket to the port of another machine; `None` for one of this machine."""
        found = getattr(self._port, "_socket", None)  # pyserial has no other way to it
        return found if hasattr(found, "getpeername") else None

    @property
    def baudrate(self) -> int:
        """The speed the line stands at."""
        return int(self._port.baudrate)

    def set_speed(self, baudrate: int) -> None:
        """Go on at another speed; what came at the old one is dropped. Raises `LinkError`."""
        try:
            self._port.baudrate = baudrate
            self._port.reset_input_buffer()
        except (OSError, ValueError) as error:
            raise LinkError(f"serial port {self._name} at {baudrate} baud: {error}") from error

    def set_line(self, line: LineSettings) -> None:
        """Go on at another speed and parity; what came before is dropped. Raises `LinkError`."""
        try:
            self._port.parity = _parity(line.parity)
        except (OSError, ValueError) as error:
            raise LinkError(f"serial port {self._name} with parity {line.parity}: {error}") from error
        self.set_speed(line.baudrate)

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # it was gone already
            self._port.close()
        if self._arrivals is not None:
            self._arrivals.close()


class _Arrivals:
    """Tells whoever waits that something was put into the queue of a port: a file descriptor that is then readable.

    `ended`: the last that was put there says that the connection is over.
    """

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._put = queue.put
        self._told = False
        self.ended = False
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        queue.put = self._arrived  # what is there already is found by the first look

    def fileno(self) -> int:
        return self._descriptor

    def begin_look(self) -> int:
        """Return how much there is. What comes after that look ends the next wait."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._descriptor)
        self._told = False
        return int(self._queue.qsize())

    def close(self) -> None:
        """The port is closed: nothing more arrives."""
        self._queue.put = self._put
        os.close(self._descriptor)

    def _arrived(self, item: bytes | None) -> None:
        self._put(item)
        self.ended = item is None
        if not self._told:  # once for all octets that come together
            self._told = True
            os.eventfd_write(self._descriptor, 1)


def _parity(name: str) -> str:
    """Return pyserial's letter."""
    return name[:1].upper()


def _has_descriptor(port: serial.Serial) -> bool:
    """POSIX devices and sockets have one; rfc2217 and loop ports do not."""
    return type(port).fileno is not io.RawIOBase.fileno


def open_port(
    url: str, baudrate: int = 9600, *, parity: str = "none", write_timeout_s: float = WRITE_TIMEOUT_S
) -> Port:
    """Open the port at `url`, serial ones with 8 data bits, one stop bit, and `parity` (see `LineSettings`).

    A write that takes longer than `write_timeout_s` fails. Raises `LocalError` for a URL that cannot be, `LinkError`
    when it cannot be opened.
    """
    if url.startswith(("socket://", "udp://")):
        return _open_socket(url, write_timeout_s)
    return open_serial(url, baudrate, parity=parity, write_timeout_s=write_timeout_s)


def open_serial(
    url: str, baudrate: int, *, parity: str = "none", write_timeout_s: float = WRITE_TIMEOUT_S
) -> SerialPort:
    """Open what pyserial opens. Raises `LocalError`, `LinkError`; `PortBusyError` where another process has it.

    A device of this machine is opened for this process alone (`dlms.link.exclusive`).
    """
    import serial

    # pyserial's rfc2217 refuses a write timeout; its socket has one of its own.
    timeout_s = None if url.startswith("rfc2217://") else write_timeout_s
    try:
        port = serial.serial_for_url(
            url, do_not_open=True, baudrate=baudrate, parity=_parity(parity), write_timeout=timeout_s
        )
        port.timeout = 0 if _has_descriptor(port) else SLICE_S
        if isinstance(port, serial.Serial):  # a device, not something behind a URL
            port.exclusive = True  # pyserial's word for the lock
    except ValueError as error:
        raise LocalError(f"{url}: {error}") from error
    try:
        port.open()
        if port.exclusive:
            keep_others_out(port.fileno())
        network = getattr(port, "_socket", None)  # of rfc2217, which has no other way to it
        if network is not None:
            keep_alive(network)
    except (OSError, ValueError) as error:
        port.close()
        if getattr(error, "errno", None) in BUSY and isinstance(port, serial.Serial):
            raise PortBusyError(url, holder_of(str(port.name))) from error
        raise LinkError(f"{url}: {error}") from error
    return SerialPort(port)


def keep_alive(connected: socket.socket) -> None:
    """Have the system notice that the host at the other end is gone, also while nothing is written: a terminal server
    that lost its power says no good-bye."""
    import socket

    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS),
    ):
        if hasattr(socket, name):  # Linux has them all
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _open_socket(url: str, write_timeout_s: float) -> SocketPort:
    import socket
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        address = (parts.hostname, parts.port)
    except ValueError as error:
        raise LocalError(f"{url}: {error}") from error
    if not address[0] or not address[1]:
        raise LocalError(f"{url}: host and port are due, as in socket://127.0.0.1:4059")
    try:
        if parts.scheme == "udp":
            family, _kind, _proto, _name, where = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
            connected = socket.socket(family, socket.SOCK_DGRAM)
            connected.connect(where)
        else:
            connected = socket.create_connection((address[0], address[1]), CONNECT_TIMEOUT_S)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(connected)
    except OSError as error:
        raise LinkError(f"{url}: {error}") from error
    return SocketPort(connected, write_timeout_s)
