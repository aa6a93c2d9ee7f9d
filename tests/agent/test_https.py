"""HTTP over TLS against a real server on loopback: what is verified, bounded, and said when it fails."""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.clock_floor import Validity
from agent.https import ANSWER_S, BODY_BYTES_MAX, HttpsClient, HttpsError, HttpsRefused
from headend import pki

pytestmark = pytest.mark.process


class Server:
    """Answers each connection with the same bytes, once the request's head has come."""

    def __init__(self, folder: Path, name: str = "127.0.0.1") -> None:
        folder.mkdir()
        made = pki.make(folder, [name])
        self.ca = folder / made["ca"]
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / made["certificate"], folder / made["key"])
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self.listener.getsockname()[1]}"
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Name: Value\r\n\r\nok"
        self.heads: list[bytes] = []
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self.listener.accept()
            except OSError:
                return
            try:
                with self.context.wrap_socket(plain, server_side=True) as line:
                    head = b""
                    while b"\r\n\r\n" not in head and (piece := line.recv(4096)):
                        head += piece
                    self.heads.append(head)
                    if head.startswith(b"POST") and head.endswith(b"\r\n\r\n"):
                        line.recv(4096)
                    line.sendall(self.answer)
            except OSError:  # the client hung up: some tests want just that
                plain.close()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "pki")
    yield made
    made.close()


def test_an_answer_comes_whole_with_lower_case_header_names(server: Server) -> None:
    answer = HttpsClient(server.ca).request("POST", f"{server.url}/a?b=c", body=b"x", headers={"Content-Type": "t"})
    assert (answer.status, answer.headers["x-name"], answer.body) == (200, "Value", b"ok")
    assert server.heads[0].startswith(b"POST /a?b=c HTTP/1.1\r\n")


def test_any_status_is_an_answer_and_no_error(server: Server) -> None:
    server.answer = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    assert HttpsClient(server.ca).request("GET", server.url).status == 503


def test_a_server_of_another_authority_is_refused(server: Server, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    client = HttpsClient(other / pki.make(other, ["127.0.0.1"])["ca"])
    with pytest.raises(HttpsRefused, match="TLS"):
        client.request("GET", server.url)
    assert server.heads == []


def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    server = Server(tmp_path / "pki", name="headend.example")
    try:
        with pytest.raises(HttpsRefused, match="TLS"):
            HttpsClient(server.ca).request("GET", server.url)
    finally:
        server.close()


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1:99999/", "https://127.0.0.1:x/", "https://[::1/", "https://127.0.0.1:1/\u00e4"]
)
def test_a_url_that_is_none_is_an_error_of_ours(server: Server, url: str) -> None:
    with pytest.raises(HttpsError):
        HttpsClient(server.ca).request("GET", url)


def test_whoever_wants_to_is_told_of_each_answer_and_how_long_it_took(server: Server) -> None:
    ticks = itertools.count(100.0, 0.25)
    client = HttpsClient(server.ca, monotonic=lambda: next(ticks))
    told: list[tuple[dict[str, str], float, float, Validity]] = []
    client.on_answer = lambda headers, sent, received, valid: told.append((dict(headers), sent, received, valid))
    client.request("GET", server.url)
    ((headers, sent, received, _),) = told
    assert headers["x-name"] == "Value"
    assert 100.0 <= sent < received <= next(ticks)
    assert told[0][3].not_before < time.time() < told[0][3].not_after


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "https://", "ftp://127.0.0.1/x", "nonsense"])
def test_only_https_is_spoken(server: Server, url: str) -> None:
    with pytest.raises(HttpsRefused, match="only https"):
        HttpsClient(server.ca).request("GET", url)


def test_a_body_without_end_is_cut_off(server: Server) -> None:
    server.answer = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(BODY_BYTES_MAX + 1)
    with pytest.raises(HttpsError, match=f"exceeds {BODY_BYTES_MAX} bytes"):
        HttpsClient(server.ca).request("GET", server.url)


def test_an_answer_that_drips_is_given_up(server: Server) -> None:
    ticks = itertools.count(step=ANSWER_S + 1)
    with pytest.raises(HttpsError, match="not complete after"):
        HttpsClient(server.ca, monotonic=lambda: next(ticks)).request("GET", server.url)


@pytest.mark.parametrize(
    "drip",
    [b"X", b"X-Name: value\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"],
    ids=["a header", "headers", "interim answers"],
)
@pytest.mark.parametrize("whole", [True, False], ids=["request", "stream"])
def test_the_head_of_an_answer_that_drips_is_given_up(tmp_path: Path, drip: bytes, whole: bool) -> None:
    """Each octet comes in time, and the answer never does."""
    now = [0.0]
    server = Dripping(tmp_path / "pki", b"" if drip.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n", drip, now)
    client = HttpsClient(server.ca, monotonic=lambda: now[0])
    with pytest.raises(HttpsError, match="not complete after"):
        client.request("GET", server.url) if whole else client.stream("GET", server.url)
    assert now[0] >= ANSWER_S
    server.close()


@pytest.mark.parametrize("drip", [b"0", b"X-Name: value\r\n"], ids=["a chunk's size", "trailers"])
@pytest.mark.parametrize("whole", [True, False], ids=["request", "stream"])
def test_a_chunk_that_drips_is_given_up(tmp_path: Path, drip: bytes, whole: bool) -> None:
    now, head = [0.0], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"
    server = Dripping(tmp_path / "pki", head if drip == b"0" else head + b"0\r\n", drip, now)
    client = HttpsClient(server.ca, monotonic=lambda: now[0])
    with pytest.raises(HttpsError, match="not complete after"):
        if whole:
            client.request("GET", server.url)
        else:
            with client.stream("GET", server.url) as stream:
                for piece in stream.chunks():
                    assert piece == b"ok"
    assert now[0] >= ANSWER_S
    server.close()


class Dripping(Server):
    """Sends `first`, and then `drip` again and again; each time a second passes."""

    def __init__(self, folder: Path, first: bytes, drip: bytes, now: list[float]) -> None:
        self.first, self.drip, self.now = first, drip, now
        super().__init__(folder)

    def _serve(self) -> None:
        plain, _ = self.listener.accept()
        try:
            with self.context.wrap_socket(plain, server_side=True) as line:
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                line.recv(4096)
                line.sendall(self.first)
                for _ in range(5000):
                    time.sleep(0.001)  # not faster than the client reads
                    self.now[0] += 1.0
                    line.sendall(self.drip)
        except OSError:  # the client has given up
            plain.close()


def test_a_connection_that_breaks_hands_out_what_came_first(server: Server) -> None:
    server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + bytes(40)
    got = b""
    with HttpsClient(server.ca).stream("GET", server.url) as stream:
        pieces = stream.chunks()
        with pytest.raises(HttpsError, match="40 of 100 bytes"):
            for piece in pieces:
                got += piece
    assert got == bytes(40)


@pytest.mark.parametrize(
    ("url", "header"),
    [
        ("https://dcu..example/x", "Bearer ok"),
        (f"https://{'a' * 70}.example/x", "Bearer ok"),
        ("https://a\0b/x", "Bearer ok"),
        ("https://127.0.0.1:1/x", "Bearer hush-\nhush"),
        ("https://127.0.0.1:1/x", "Bearer hush-\u20ac"),
    ],
)
def test_an_address_or_token_that_cannot_be_sent_is_refused_and_not_shown(
    server: Server, url: str, header: str
) -> None:
    with pytest.raises(HttpsRefused) as caught:
        HttpsClient(server.ca).request("POST", url, body=b"", headers={"Authorization": header})
    assert "hush" not in str(caught.value)


def test_what_is_no_http_is_an_error_of_ours(server: Server) -> None:
    server.answer = b"220 smtp.example ESMTP\r\n"
    with pytest.raises(HttpsError):
        HttpsClient(server.ca).request("GET", server.url)


def test_nobody_listening_is_an_error_that_shows_neither_query_nor_user(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(HttpsError) as caught:
        HttpsClient(server.ca).request("GET", f"https://user:word@127.0.0.1:{port}/path?token=hush")
    assert "hush" not in str(caught.value)
    assert "word" not in str(caught.value)
    assert f"127.0.0.1:{port}/path" in str(caught.value)


def test_an_authority_file_that_cannot_be_used_is_known_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        HttpsClient(tmp_path / "none.pem")
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(ssl.SSLError):
        HttpsClient(tmp_path / "empty.pem")
