"""The notification listener: what it takes, what it refuses, and that nobody can hold it up for long."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from random import Random

import pytest

from agent.dm.push import (
    BODY_BYTES_MAX,
    BURST,
    HEAD_BYTES_MAX,
    RATE_PER_S,
    PushListener,
    RequestError,
    TokenBucket,
    own_url,
    parse_head,
)
from omadm.notification import MIME, Notification, emit
from tests.agent.dm.server import ACCOUNT, FakeDmServer
from tests.agent.dm_device import Device

GOOD = f"POST /push HTTP/1.1\r\nHost: x\r\nContent-Type: {MIME}\r\nContent-Length: 5"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /push HTTP/1.1\r\nContent-Length: 5", 405),
        (GOOD.replace("/push", "/"), 404),
        (GOOD.replace("/push", "/push?x=1"), 404),
        (GOOD.replace("HTTP/1.1", "HTTP/2"), 400),
        ("nonsense", 400),
        ("", 400),
        (GOOD.replace(MIME, "text/plain"), 415),
        (GOOD.replace("Content-Length: 5", "X: y"), 411),
        (GOOD + "\r\nTransfer-Encoding: chunked", 411),
        (GOOD + "\r\nContent-Length: 6", 400),
        (GOOD.replace("Content-Length: 5", "Content-Length: -5"), 400),
        (GOOD.replace("Content-Length: 5", "Content-Length: 5x"), 400),
        (GOOD.replace("Content-Length: 5", f"Content-Length: {BODY_BYTES_MAX + 1}"), 413),
        (GOOD.replace("Content-Length: 5", "Content-Length: " + "9" * 30), 400),
        (GOOD + "\r\n folded: line", 400),
        (GOOD + "\r\nno colon", 400),
        (GOOD + "\r\nX: \xe9", 400),
    ],
)
def test_a_request_that_is_no_notification_has_its_status(head: str, status: int) -> None:
    with pytest.raises(RequestError) as found:
        parse_head(head.encode("latin-1"))
    assert found.value.status == status


def test_a_good_head_gives_the_length_of_the_body() -> None:
    assert parse_head(GOOD.encode()) == 5
    assert parse_head(GOOD.replace(MIME, MIME.upper() + "; charset=x").encode()) == 5


def test_random_heads_are_read_or_refused() -> None:
    random = Random(5)
    base = GOOD.encode()
    for _ in range(3000):
        damaged = bytearray(base)
        for _ in range(random.randint(1, 6)):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        with contextlib.suppress(RequestError):
            assert 0 <= parse_head(bytes(damaged)) <= BODY_BYTES_MAX


def test_the_bucket_lets_a_burst_through_and_then_the_rate() -> None:
    bucket = TokenBucket(RATE_PER_S, BURST)
    assert [bucket.take(0.0) for _ in range(BURST + 1)] == [True] * BURST + [False]
    assert not bucket.take(0.4)
    assert bucket.take(1.0)
    assert sum(bucket.take(1000.0) for _ in range(BURST + 5)) == BURST


class Running:
    """A listener on a thread, and what it handed on."""

    def __init__(self, request_s: float = 5.0) -> None:
        self.bodies: list[bytes] = []
        self.answer = 202
        self.now = 0.0
        self.listener = PushListener(
            self._take, host="127.0.0.1", port=0, monotonic=lambda: self.now, request_s=request_s
        )
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.listener.run, args=(self.stop, lambda: None))
        self.thread.start()

    def _take(self, body: bytes) -> int:
        self.bodies.append(body)
        return self.answer

    def send(self, *pieces: bytes, close: bool = False) -> bytes:
        with socket.create_connection(("127.0.0.1", self.listener.port), timeout=5) as connection:
            for piece in pieces:
                connection.sendall(piece)
            if close:
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := connection.recv(1024):
                answer += piece
            return answer

    def status(self, *pieces: bytes, close: bool = False) -> int:
        return int(self.send(*pieces, close=close).split(b" ")[1])

    def end(self) -> None:
        self.stop.set()
        self.listener.wake()
        self.thread.join()


@pytest.fixture
def running() -> Iterator[Running]:
    one = Running()
    yield one
    one.end()


def request(body: bytes) -> bytes:
    return GOOD.replace("Length: 5", f"Length: {len(body)}").encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("host", "server", "url"),
    [
        ("192.0.2.7", "https://head.example", "http://192.0.2.7:80/push"),
        ("2001:db8::7", "https://head.example", "http://[2001:db8::7]:80/push"),
        ("0.0.0.0", "https://127.0.0.1:4430/ssmp", "http://127.0.0.1:80/push"),
        ("0.0.0.0", "https://127.0.0.1", "http://127.0.0.1:80/push"),
        ("0.0.0.0", "https://[::1]/ssmp", ""),
        ("0.0.0.0", "https://127.0.0.1:99999/", ""),
    ],
)
def test_the_own_url_is_that_of_the_interface_towards_the_server(host: str, server: str, url: str) -> None:
    assert own_url(host, 80, server) == url


def test_a_notification_is_handed_on_and_its_status_is_the_answer(running: Running) -> None:
    assert running.status(request(b"hello")) == 202
    running.answer = 403
    whole = request(b"other")
    assert running.status(whole[:20], whole[20:100], whole[100:]) == 403
    assert running.bodies == [b"hello", b"other"]


def test_nothing_else_reaches_the_client(running: Running) -> None:
    assert running.status(b"GET / HTTP/1.1\r\n\r\n") == 404
    assert running.status(b"x" * (HEAD_BYTES_MAX + 10)) == 431
    assert running.status(request(b"hello")[:-2], close=True) == 400
    assert running.status(b"\x16\x03\x01\x02\x00\r\n\r\n") == 400
    assert running.bodies == []


def test_a_request_that_takes_too_long_is_408() -> None:
    one = Running(request_s=0.01)
    with socket.create_connection(("127.0.0.1", one.listener.port), timeout=5) as connection:
        connection.sendall(b"POST")
        assert b" 408 " in connection.recv(1024)
    one.end()


def test_a_flood_is_answered_429(running: Running) -> None:
    statuses = [running.status(request(b"hello")) for _ in range(BURST + 3)]
    assert statuses == [202] * BURST + [429] * 3
    running.now += 10
    assert running.status(request(b"hello")) == 202


def test_an_address_that_is_taken_is_an_error_at_once(running: Running) -> None:
    with pytest.raises(OSError, match="in use"):
        PushListener(lambda _: 202, host="127.0.0.1", port=running.listener.port)


# -- verification ------------------------------------------------------------------------------------------------


def package_0(counter: int | None, *, secret: str = ACCOUNT.server_secret, server_id: str = ACCOUNT.server_id) -> bytes:
    return emit(Notification(0x2B, server_id), secret, b"\0\0\0\0", counter=counter)


def test_a_believed_notification_starts_the_session_it_announces() -> None:
    device = Device(FakeDmServer()).registered()
    assert device.service.on_notification(package_0(1)) == 202
    device.turn()
    last = device.board.current.dm.last_session
    assert last is not None
    assert (last.trigger, last.session_id, last.result) == ("push", "2B", "ok")
    (first,) = device.server.received
    assert first.hdr.session_id == "2B"
    assert [alert.code for alert in device.server.alerts] == [1200]


def test_a_notification_is_believed_once_also_across_a_restart() -> None:
    device = Device(FakeDmServer()).registered()
    assert device.service.on_notification(package_0(7)) == 202
    assert device.service.on_notification(package_0(7)) == 403
    assert device.service.on_notification(package_0(6)) == 403
    device.restart()
    assert device.service.on_notification(package_0(7)) == 403
    assert device.service.on_notification(package_0(8)) == 202


def test_what_the_configured_server_did_not_send_starts_nothing() -> None:
    device = Device(FakeDmServer()).registered()
    for body in (
        b"",
        b"x" * 60,
        package_0(None),
        package_0(1, secret="another"),
        package_0(1, server_id="another"),
        package_0(1)[:-1] + b"\0",
    ):
        assert device.service.on_notification(body) == 403
    device.turn()
    assert device.server.received == []


def test_without_an_account_notifications_are_503() -> None:
    device = Device(FakeDmServer())
    assert device.service.on_notification(package_0(1)) == 503


def test_a_notification_cuts_a_long_wait_short() -> None:
    device = Device(FakeDmServer()).registered()
    device.server.fail_next = ["down"] * 8
    for _ in range(8):
        device.session()
    device.service.session_now("alert")
    device.turn()
    before = device.server.exchanges
    device.turn()
    assert device.server.exchanges == before
    device.service.on_notification(package_0(1))
    device.turn()
    assert device.server.exchanges == before + 1
