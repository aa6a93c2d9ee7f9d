"""Byte ports for the blocking client: TCP and UDP sockets directly, everything else by pyserial's URLs.

`socket://host:port` is TCP, `udp://host:port` UDP (one datagram a read); `/dev/ttyUSB0`, `rfc2217://...`, `loop://` and
the rest go to `serial.serial_for_url`. Foreign exceptions become `LinkError` here, once.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from dlms.errors import LinkError, LocalError

if TYPE_CHECKING:
    import socket

    import serial

CONNECT_TIMEOUT_S = 10.0
READ_BYTES_MAX = 65536
WRITE_TIMEOUT_S = 30.0


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

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def read(self, timeout_s: float | None) -> bytes | None:
        try:
            self._socket.settimeout(None if timeout_s is None else max(timeout_s, 1e-6))
            data = self._socket.recv(READ_BYTES_MAX)
        except TimeoutError:
            return b""
        except OSError as error:
            raise LinkError(f"socket: {error}") from error
        return data or None

    def write(self, data: bytes) -> None:
        try:
            self._socket.settimeout(WRITE_TIMEOUT_S)
            self._socket.sendall(data)
        except OSError as error:
            raise LinkError(f"socket: {error}") from error

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()


class SerialPort:
    """A port of pyserial."""

    def __init__(self, port: serial.Serial) -> None:
        self._port = port

    def read(self, timeout_s: float | None) -> bytes | None:
        import serial

        try:
            self._port.timeout = timeout_s
            first = self._port.read(1)
            waiting = self._port.in_waiting if first else 0
            return bytes(first + self._port.read(waiting)) if waiting else bytes(first)
        except (serial.SerialException, OSError) as error:
            raise LinkError(f"serial port: {error}") from error

    def write(self, data: bytes) -> None:
        import serial

        try:
            self._port.write(data)
        except (serial.SerialException, OSError) as error:
            raise LinkError(f"serial port: {error}") from error

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._port.close()


def open_port(url: str, baudrate: int = 9600) -> Port:
    """Open the port at `url`, serial ones with 8 data bits, no parity, one stop bit.

    Raises `LocalError` for a URL that cannot be, `LinkError` when it cannot be opened.
    """
    if url.startswith(("socket://", "udp://")):
        return _open_socket(url)
    import serial

    try:
        port = serial.serial_for_url(url, baudrate=baudrate, write_timeout=WRITE_TIMEOUT_S)
    except ValueError as error:
        raise LocalError(f"{url}: {error}") from error
    except (serial.SerialException, OSError) as error:
        raise LinkError(f"{url}: {error}") from error
    return SerialPort(port)


def _open_socket(url: str) -> SocketPort:
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
    except OSError as error:
        raise LinkError(f"{url}: {error}") from error
    return SocketPort(connected)
