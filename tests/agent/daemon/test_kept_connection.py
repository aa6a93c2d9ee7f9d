"""A connection that is kept, against a real server that closes it in every way that servers do."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.https import (
    CONNECTION_AGE_MAX_S,
    CONNECTION_IDLE_MAX_S,
    HttpsClient,
    HttpsError,
    HttpsRefused,
    KeptConnection,
)
from headend import pki
from tests.agent.virtual import VirtualClock

pytestmark = pytest.mark.process

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n"
OLD = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLOSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


class Server:
    """`script` has what happens per request: an answer, and whether the connection is closed after it (`close`),
    before the request is read to the end (`drop`), or in the middle of the answer (`cut`)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        made = pki.make(folder, ["127.0.0.1"])
        self.ca = folder / made["ca"]
        self.use(folder, made)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self.listener.getsockname()[1]}/x"
        self.script: list[tuple[bytes, str]] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def use(self, folder: Path, made: dict[str, str]) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / made["certificate"], folder / made["key"])

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                with self.context.wrap_socket(plain, server_side=True) as line:
                    self._talk(line)
                    line.unwrap()
            except OSError:
                plain.close()

    def _talk(self, line: ssl.SSLSocket) -> None:
        rest = b""
        while True:
            while b"\r\n\r\n" not in rest:
                piece = line.recv(4096)
                if not piece:
                    return
                rest += piece
            head, _, rest = rest.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            while len(rest) < length:
                rest += line.recv(4096)
            body, rest = rest[:length], rest[length:]
            answer, fate = self.script.pop(0) if self.script else (OK, "")
            self.bodies.append(body)
            if fate == "drop":
                return
            line.sendall(answer[:-1] if fate == "cut" else answer)
            if fate:
                return

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "pki")
    yield made
    made.close()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def kept(server: Server, clock: VirtualClock) -> Iterator[KeptConnection]:
    made = KeptConnection(HttpsClient(server.ca, monotonic=clock.monotonic))
    yield made
    made.close()  # before the server, which waits for the connection that it serves


def post(kept: KeptConnection, server: Server, body: bytes) -> bytes:
    return kept.request("POST", server.url, body=body).body


@pytest.mark.parametrize("answer", [OK, CHUNKED])
def test_requests_share_one_connection(server: Server, kept: KeptConnection, answer: bytes) -> None:
    server.script = [(answer, "")] * 5
    for number in range(5):
        assert post(kept, server, b"%d" % number) == b"ok"
    assert server.bodies == [b"0", b"1", b"2", b"3", b"4"]
    assert server.connections == 1


@pytest.mark.parametrize("answer", [OLD, CLOSE])
def test_a_server_that_says_it_closes_gets_a_new_connection_for_the_next_request(
    server: Server, kept: KeptConnection, answer: bytes
) -> None:
    server.script = [(answer, "close"), (answer, "close")]
    assert [post(kept, server, b"1"), post(kept, server, b"2")] == [b"ok", b"ok"]
    assert (server.bodies, server.connections) == ([b"1", b"2"], 2)


@pytest.mark.parametrize("cut", [OK[20:], OK[30:], OK[-5:], b"k"], ids=["name", "value", "blank line", "body"])
def test_an_answer_that_has_begun_and_breaks_off_is_an_error_and_not_asked_for_again_at_once(
    server: Server, kept: KeptConnection, cut: bytes
) -> None:
    server.script = [(OK, ""), (OK[: -len(cut)], "close")]
    post(kept, server, b"1")
    with pytest.raises(HttpsError):
        post(kept, server, b"2")
    assert server.bodies == [b"1", b"2"]
    assert post(kept, server, b"3") == b"ok"


LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + bytes(9000)


@pytest.mark.parametrize("first", [OK, CHUNKED, LONG], ids=["short", "chunked", "long"])
@pytest.mark.parametrize("behind", [OK.replace(b"ok", b"no"), b"H"], ids=["an answer", "an octet"])
def test_what_comes_behind_an_answer_is_not_the_next_one(
    server: Server, kept: KeptConnection, first: bytes, behind: bytes
) -> None:
    server.script = [(first + behind, ""), (OK, "")]
    post(kept, server, b"1")
    assert post(kept, server, b"2") == b"ok"
    assert (server.bodies, server.connections) == ([b"1", b"2"], 2)


def test_a_connection_closed_between_two_requests_is_opened_again_and_no_request_is_lost(
    server: Server, kept: KeptConnection
) -> None:
    server.script = [(OK, "close")]
    post(kept, server, b"1")
    assert post(kept, server, b"2") == b"ok"
    assert server.bodies == [b"1", b"2"]
    assert server.connections == 2


def test_a_request_that_a_used_connection_swallowed_is_sent_once_more(server: Server, kept: KeptConnection) -> None:
    server.script = [(OK, ""), (b"", "drop")]
    post(kept, server, b"1")
    assert post(kept, server, b"2") == b"ok"
    assert server.bodies == [b"1", b"2", b"2"]


def test_a_request_that_a_new_connection_swallowed_is_an_error_and_not_repeated(
    server: Server, kept: KeptConnection
) -> None:
    server.script = [(b"", "drop")]
    with pytest.raises(HttpsError):
        post(kept, server, b"1")
    assert server.bodies == [b"1"]
    assert post(kept, server, b"2") == b"ok"


def test_an_answer_that_breaks_off_is_an_error_and_the_next_request_has_a_new_connection(
    server: Server, kept: KeptConnection
) -> None:
    server.script = [(OK, ""), (OK, "cut")]
    post(kept, server, b"1")
    with pytest.raises(HttpsError, match="closed after 1 of 2 bytes"):
        post(kept, server, b"2")
    assert post(kept, server, b"3") == b"ok"
    assert server.bodies == [b"1", b"2", b"3"]


@pytest.mark.parametrize("limit", [CONNECTION_IDLE_MAX_S, CONNECTION_AGE_MAX_S])
def test_a_connection_that_is_idle_or_old_is_replaced(
    server: Server, kept: KeptConnection, clock: VirtualClock, limit: float
) -> None:
    pause = min(limit, CONNECTION_IDLE_MAX_S)
    for _ in range(round(limit / pause) + 1):
        post(kept, server, b"x")
        clock.advance(pause)
    assert server.connections == 1
    clock.advance(1)
    post(kept, server, b"x")
    assert server.connections == 2


def test_each_new_connection_is_verified(server: Server, kept: KeptConnection, tmp_path: Path) -> None:
    post(kept, server, b"1")
    other = tmp_path / "other"
    other.mkdir()
    server.use(other, pki.make(other, ["127.0.0.1"]))
    post(kept, server, b"2")
    kept.close()
    with pytest.raises(HttpsRefused, match="TLS"):
        post(kept, server, b"3")
    assert server.bodies == [b"1", b"2"]


def test_another_server_has_a_connection_of_its_own(server: Server, kept: KeptConnection) -> None:
    post(kept, server, b"1")
    with pytest.raises(HttpsError):
        kept.request("POST", server.url.replace("127.0.0.1", "127.0.0.2"), body=b"2")
    assert server.bodies == [b"1"]
