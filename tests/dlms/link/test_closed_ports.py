"""What goes away under a client ends it at once, as an error of the line and not as a timeout."""

from __future__ import annotations

import os
import socket
import struct
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from dlms import LinkError, Meter
from tests.sim.terminal_server import terminal_server

pytestmark = pytest.mark.process
LIMIT_S = 10.0
PATIENT_S = 3600.0  # a timeout of the link would hang the test
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@contextmanager
def behind(work: Callable[[], None]) -> Iterator[None]:
    """The other side, in a thread that ends."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    thread.join(LIMIT_S)
    assert not thread.is_alive()


@pytest.mark.parametrize("link", ["hdlc", "wrapper"])
@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_is_closed_or_reset_under_a_request(link: str, reset: bool) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def close() -> None:
        connection, _ = listener.accept()
        connection.recv(1)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        else:
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    client = Meter(f"socket://127.0.0.1:{listener.getsockname()[1]}", link=link, timeout_s=PATIENT_S)
    with listener, behind(close), pytest.raises(LinkError, match=r"closed|reset"):
        client.open()
    assert not client.is_open


def test_a_host_that_says_that_nobody_listens_to_datagrams() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(LinkError, match="refused"):
        Meter(f"udp://127.0.0.1:{port}", link="wrapper", timeout_s=PATIENT_S).open()


def test_a_serial_port_that_is_unplugged() -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    name = os.ttyname(slave)

    def unplug() -> None:
        os.read(master, 1)
        os.close(slave)
        os.close(master)

    with behind(unplug), pytest.raises(LinkError, match="serial port"):
        Meter(name, timeout_s=PATIENT_S).open()


@pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")  # pyserial's
def test_a_terminal_server_that_goes_away() -> None:
    serving = terminal_server()
    server = serving.__enter__()
    client = Meter(server.url, timeout_s=PATIENT_S)

    def stop() -> None:
        assert server.heard.wait(LIMIT_S)
        serving.__exit__(None, None, None)

    with behind(stop), pytest.raises(LinkError, match="serial port"):
        client.open()
