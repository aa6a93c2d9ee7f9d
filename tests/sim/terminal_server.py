"""A terminal server of RFC 2217 with a loop-back plug, or another port of pyserial, for tests of `rfc2217://`."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import serial
import serial.rfc2217

TICK_S = 0.01


@dataclass(slots=True)
class TerminalServer:
    """Where it listens, the port it has, and whether the client has written something for that."""

    url: str
    plug: Any  # pyserial's stubs do not know its URL handlers
    heard: threading.Event


class _Terminal(serial.Serial):
    """A pseudo-terminal, which has a speed and no modem lines."""

    cts = dsr = ri = cd = False

    def _update_rts_state(self) -> None: ...

    def _update_dtr_state(self) -> None: ...


class _Writer:
    """What `PortManager` writes to."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def write(self, data: bytes) -> None:
        self._connection.sendall(data)


@contextlib.contextmanager
def terminal_server(port: str = "loop://") -> Iterator[TerminalServer]:
    """Serves one client with `port`."""
    plug: Any = serial.serial_for_url(port, timeout=0) if "://" in port else _Terminal(port, timeout=0)
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()
    server = TerminalServer(f"rfc2217://127.0.0.1:{listener.getsockname()[1]}", plug, threading.Event())
    thread = threading.Thread(target=_serve, args=(listener, server, stop), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        stop.set()
        listener.close()
        thread.join(5.0)


def _serve(listener: socket.socket, server: TerminalServer, stop: threading.Event) -> None:
    plug = server.plug
    with contextlib.suppress(OSError):
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(TICK_S)
            writer: Any = _Writer(connection)
            manager = serial.rfc2217.PortManager(plug, writer)
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    data = connection.recv(4096)
                    if not data:
                        return
                    if written := b"".join(manager.filter(data)):
                        plug.write(written)
                        server.heard.set()
                if echoed := plug.read(plug.in_waiting):
                    connection.sendall(b"".join(manager.escape(echoed)))
