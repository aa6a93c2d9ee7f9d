"""The notification listener: what it takes, what it refuses, and that nobody can hold it up for long."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from random import Random

import pytest

from agent.dm.push import (
    BIND_AGAIN_S,
    BODY_BYTES_MAX,
    BURST,
    CONNECTIONS_MAX,
    CONNECTIONS_PER_NETWORK_MAX,
    HEAD_BYTES_MAX,
    RATE_PER_S,
    REQUEST_S,
    PushListener,
    RequestError,
    TokenBucket,
    network_of,
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

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.answer = 202
        self.now = 0.0
        self.listener = PushListener(self._take, host="127.0.0.1", port=0, monotonic=lambda: self.now)
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


def test_a_flood_is_answered_429(running: Running) -> None:
    statuses = [running.status(request(b"hello")) for _ in range(BURST + 3)]
    assert statuses == [202] * BURST + [429] * 3
    running.now += 10
    assert running.status(request(b"hello")) == 202


# -- many connections ----------------------------------------------------------------------------------------------


class Stepped:
    """A listener whose rounds and time the test makes."""

    def __init__(self, port: int = 0) -> None:
        self.now = 0.0
        self.answer = 202
        self.reports: list[tuple[bool, str]] = []
        self.listener = PushListener(
            lambda _body: self.answer,
            host="127.0.0.1",
            port=port,
            monotonic=lambda: self.now,
            report=lambda ok, detail: self.reports.append((ok, detail)),
        )
        self.held: list[socket.socket] = []

    def connect(self, source: str = "127.0.0.1", first: bytes = b"") -> socket.socket:
        """A connection that the listener has seen, with its first octets."""
        made = socket.create_connection(("127.0.0.1", self.listener.port), timeout=5, source_address=(source, 0))
        self.held.append(made)
        if first:
            made.sendall(first)
        self.step()
        return made

    def pass_s(self, seconds: float) -> None:
        self.now += seconds
        self.step()

    def step(self) -> None:
        self.listener.wake()
        self.listener.step()

    def status(self, sent: bytes, source: str = "127.0.0.1") -> int:
        """The status of the answer to a request; 0 for none."""
        try:
            return int(self.connect(source, sent).recv(1024).split(b" ")[1])
        except ConnectionResetError:
            return 0


@pytest.fixture
def stepped() -> Iterator[Stepped]:
    one = Stepped()
    yield one
    for connection in one.held:
        connection.close()
    one.listener.close()


def test_a_request_that_takes_too_long_is_408(stepped: Stepped) -> None:
    connection = stepped.connect(first=b"POST")
    stepped.pass_s(REQUEST_S - 0.1)
    connection.sendall(b" /push")  # a drop does not prolong it
    stepped.pass_s(0.1)
    stepped.step()
    assert b" 408 " in connection.recv(1024)


def test_a_peer_that_always_has_one_more_octet_is_408_at_the_same_deadline(stepped: Stepped) -> None:
    connection = stepped.connect(first=b"POST /push HTTP/1.1\r\nX: ")
    for _ in range(int(REQUEST_S)):
        connection.sendall(b"x")  # there is something to read in every round, also in that of the deadline
        stepped.pass_s(1.0)
    assert b" 408 " in connection.recv(1024)


def test_junk_uses_up_no_token_and_is_one_line_of_the_log(stepped: Stepped, caplog: pytest.LogCaptureFixture) -> None:
    stepped.answer = 403
    assert [stepped.status(request(b"junk!")) for _ in range(5 * BURST)] == [403] * 5 * BURST
    stepped.answer = 202
    assert [stepped.status(request(b"hello")) for _ in range(BURST + 1)] == [202] * BURST + [429]
    refused = [record for record in caplog.records if getattr(record, "event", "") == "dm.push.refused"]
    assert len(refused) == 1


def test_idle_connections_of_one_peer_keep_nobody_out(stepped: Stepped) -> None:
    """Nor the head-end that has the same address, behind one translator."""
    others = [stepped.connect("127.0.1.1"), stepped.connect("127.0.1.2", b"PO")]
    for _ in range(3 * CONNECTIONS_MAX):
        stepped.connect("127.0.0.2")
    assert stepped.status(request(b"hello")) == 202
    assert stepped.status(request(b"hello"), source="127.0.0.2") == 202
    for one in others:  # who has another address has not given way
        one.settimeout(0)
        with pytest.raises(BlockingIOError):
            one.recv(1)


def test_a_request_in_two_pieces_gets_through_while_new_connections_do_not_fill_the_room(stepped: Stepped) -> None:
    """It has the time in which as many others of its network come as there is room for."""
    whole = request(b"hello")
    genuine = stepped.connect(first=whole[:20])
    for _ in range(CONNECTIONS_PER_NETWORK_MAX - 1):
        stepped.connect()
    genuine.sendall(whole[20:])
    stepped.step()
    assert b" 202 " in genuine.recv(1024)


def test_connections_of_everybody_give_way_to_a_genuine_request_however_young(stepped: Stepped) -> None:
    first = stepped.connect("127.0.1.1")
    for number in range(1, CONNECTIONS_MAX):
        stepped.connect(f"127.0.1.{1 + number}", b"POST /push HT")
    assert stepped.status(request(b"hello"), source="127.0.2.1") == 202, "a whole request needs no room"
    slow = stepped.connect("127.0.2.2", request(b"hello")[:30])
    assert b" 503 " in first.recv(1024)
    slow.sendall(request(b"hello")[30:])
    stepped.step()
    assert b" 202 " in slow.recv(1024)


def test_a_hundred_connections_that_drip_do_not_keep_a_genuine_request_out(stepped: Stepped) -> None:
    for number in range(100):
        stepped.connect(f"127.0.3.{1 + number}", b"P")
        stepped.pass_s(0.01)
    assert stepped.status(request(b"hello")) == 202


def test_a_peer_that_is_gone_costs_nothing(stepped: Stepped) -> None:
    for _ in range(3 * CONNECTIONS_MAX):
        connection = stepped.connect(first=b"POST")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset at the end
        connection.close()
        stepped.step()
    assert stepped.status(request(b"hello")) == 202


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("what is that", "what is this", False),
    ],
)
def test_limits_count_what_one_subscriber_is_given(one: str, other: str, same: bool) -> None:
    assert (network_of(one) == network_of(other)) is same


def test_an_address_that_is_taken_is_told_of_and_tried_again() -> None:
    holder = socket.create_server(("127.0.0.1", 0))
    port = int(holder.getsockname()[1])
    one = Stepped(port=port)
    problem = f"cannot listen on 127.0.0.1:{port}: Address already in use"
    assert (one.listener.port, one.reports) == (0, [(False, problem)])
    assert one.listener.warnings() == [f"no notification can reach this device: {problem}"]
    one.pass_s(BIND_AGAIN_S)
    assert not one.listener.port
    holder.close()
    one.pass_s(BIND_AGAIN_S)
    assert one.status(request(b"hello")) == 202
    assert (one.reports[-1], one.listener.warnings()) == ((True, f"listening on 127.0.0.1:{port}"), [])
    one.held[0].close()
    one.listener.close()


def test_a_host_that_is_none_is_a_problem_of_the_listener_alone() -> None:
    listener = PushListener(lambda _: 202, host="host.invalid", port=1)
    assert listener.warnings()[0].startswith("no notification can reach this device: cannot listen on host.invalid:1")
    listener.close()


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
