"""Ports: sockets and what pyserial opens."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import socket
import tty
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dlms.errors import LinkError, LocalError
from dlms.link.port import Port, SerialPort, SocketPort, open_port, open_serial
from tests.sim.terminal_server import terminal_server

pytestmark = pytest.mark.process
LIMIT_S = 10.0
EVERY_OCTET = bytes(range(256))


def read_all(port: Port, count: int) -> bytes:
    found = b""
    while len(found) < count and (data := port.read(LIMIT_S)):
        found += data
    return found


@pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")  # pyserial's
def test_a_terminal_server_carries_every_octet_and_changes_its_speed() -> None:
    with terminal_server() as server:
        port = open_serial(server.url, 300)
        assert server.plug.baudrate == 300
        port.write(EVERY_OCTET)
        assert read_all(port, 256) == EVERY_OCTET
        port.set_speed(9600)
        assert server.plug.baudrate == 9600
        assert port.read(0.0) == b""
        port.close()


@pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")  # pyserial's
def test_a_silent_terminal_server_is_waited_for_without_looking_again_and_again() -> None:
    with terminal_server() as server:
        port = open_serial(server.url, 9600)
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        assert port.read(0.2) == b""
        assert resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before < 5
        port.write(b"ok")
        assert read_all(port, 2) == b"ok"
        port.close()


@pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")  # pyserial's
def test_a_read_from_a_terminal_server_ends_early_as_well() -> None:
    with terminal_server() as server:
        port = open_serial(server.url, 9600)
        wake = os.eventfd(1, os.EFD_NONBLOCK)
        port.wake_by(wake)
        assert port.read(LIMIT_S) == b""
        port.write(b"ok")
        os.eventfd_read(wake)
        assert read_all(port, 2) == b"ok"
        port.close()
        os.close(wake)


@pytest.mark.parametrize("url", ["socket://127.0.0.1", "udp://:1", "nothing://x"])
def test_a_url_that_cannot_be_is_a_local_error(url: str) -> None:
    with pytest.raises(LocalError):
        open_port(url)


@pytest.mark.parametrize("url", ["socket://127.0.0.1:1", "rfc2217://127.0.0.1:1", "/dev/there-is-no-such-port"])
def test_a_port_that_does_not_open_is_a_link_error(url: str) -> None:
    with pytest.raises(LinkError):
        open_port(url)


@pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")  # pyserial's
def test_connections_are_kept_alive_and_end_when_the_other_host_is_gone() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, terminal_server() as server:
        for url in (f"socket://127.0.0.1:{listener.getsockname()[1]}", server.url):
            port: Any = open_port(url)
            connected = port._socket if url.startswith("socket") else port._port._socket
            assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            of_tcp = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT]
            assert [connected.getsockopt(socket.IPPROTO_TCP, option) for option in of_tcp] == [30, 10, 3, 60_000]
            port.close()


@pytest.fixture(params=["pty", "socket", "udp", "loop"])
def line(request: pytest.FixtureRequest) -> Iterator[tuple[SerialPort | SocketPort, Callable[[bytes], object]]]:
    """A port, and what sends to it from the other end."""
    with contextlib.ExitStack() as stack:
        if request.param == "pty":
            far_end, own = os.openpty()
            stack.callback(os.close, far_end)
            tty.setraw(own)
            port: Port = open_port(os.ttyname(own))
            os.close(own)
            send: Callable[[bytes], object] = functools.partial(os.write, far_end)
        elif request.param == "loop":
            port = open_port("loop://")
            send = port.write
        else:
            kind = socket.SOCK_STREAM if request.param == "socket" else socket.SOCK_DGRAM
            near, far = socket.socketpair(type=kind)
            stack.enter_context(far)
            port, send = SocketPort(near), far.send
        stack.callback(port.close)
        assert isinstance(port, SerialPort | SocketPort)
        yield port, send


def test_a_read_ends_early_while_the_descriptor_to_wake_it_is_readable(
    line: tuple[SerialPort | SocketPort, Callable[[bytes], object]],
) -> None:
    port, send = line
    wake = os.eventfd(0, os.EFD_NONBLOCK)
    port.wake_by(wake)
    assert port.read(0.0) == b""
    os.eventfd_write(wake, 1)
    assert port.read(LIMIT_S) == b""
    send(b"ok")
    assert read_all(port, 2) == b"ok"  # bytes come first
    os.eventfd_read(wake)
    send(b"ok")
    assert read_all(port, 2) == b"ok"
    os.close(wake)
