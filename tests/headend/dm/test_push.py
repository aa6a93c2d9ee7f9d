"""Where the head-end lets a device send it: nowhere but to devices."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, update

from headend import access, db
from headend.dm import accounts
from headend.dm.push import (
    DeviceOffError,
    PushError,
    PushForbiddenError,
    PushPolicy,
    notify,
    policy_of,
    resolve,
    set_policy,
)
from headend.security import devices
from tests.headend.database import open_database

DEVICE = "urn:dcu:1"
DEVICES = PushPolicy.of(["10.20.0.0/16", "2001:db8:20::/48"], [8030])


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(tmp_path / "headend.db")
    db.create_tables(engine)
    yield engine
    engine.dispose()


class Network:
    """What is called, and what it answers; and a name server."""

    def __init__(self, status: int = 202, headers: dict[str, str] | None = None) -> None:
        self.called: list[httpx.Request] = []
        self.status, self.headers = status, headers or {}
        self.names: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        self.dead: set[str] = set()
        self.transport = httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.called.append(request)
        if request.url.host in self.dead:
            raise httpx.ConnectError("no route to host")
        return httpx.Response(self.status, headers=self.headers)

    def resolve(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host not in self.names:
            return resolve(host, port)  # a number, as the C library reads it
        answers = self.names[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


def push(engine: Engine, url: str, network: Network, policy: PushPolicy = DEVICES) -> int:
    with engine.begin() as conn:
        accounts.create(conn, DEVICE, server_id="headend", url="https://dm.example/dm", push_url=url)
    return notify(engine, DEVICE, policy, transport=network.transport, resolver=network.resolve)


def test_a_device_in_its_network_is_called_at_the_address_that_was_checked(engine: Engine) -> None:
    network = Network()
    network.names["dcu.example"] = [["10.20.3.4"]]
    push(engine, "http://dcu.example:8030/push", network)
    (request,) = network.called
    assert (request.url.host, request.url.path, request.headers["host"]) == ("10.20.3.4", "/push", "dcu.example:8030")
    assert request.extensions["sni_hostname"] == "dcu.example"


@pytest.mark.parametrize(
    "url",
    [
        "http://10.21.0.1:8030/push",
        "http://10.20.0.1:22/push",
        "http://10.20.0.1/push",
        "http://127.0.0.1:8030/push",
        "http://localhost:8030/push",
        "http://2130706433:8030/push",
        "http://0x7f.1:8030/push",
        "http://0:8030/push",
        "http://169.254.169.254:8030/latest",
        "http://[::1]:8030/push",
        "http://[::ffff:127.0.0.1]:8030/push",
        "http://[::ffff:10.21.0.1]:8030/push",
        "http://[fe80::1]:8030/push",
        "http://[2001:db8:21::1]:8030/push",
        "http://10.20.0.1@192.0.2.1:8030/push",
        "http://user:word@10.20.0.1:8030/push",
        "http://10.20.0.1:8030@192.0.2.1/push",
        "ftp://10.20.0.1:8030/push",
        "file:///etc/passwd",
        "http://[10.20.0.1:8030/push",
        "http://10.20.0.1:99999/push",
        "http:///push",
    ],
)
def test_no_other_service_can_be_reached(engine: Engine, url: str) -> None:
    network = Network()
    with pytest.raises(PushForbiddenError):
        push(engine, url, network)
    assert network.called == []


@pytest.mark.parametrize(
    "url", ["http://10.20.255.255:8030/x", "http://[2001:db8:20::9]:8030/", "https://[::ffff:10.20.0.1]:8030/push"]
)
def test_every_way_to_write_an_allowed_address_is_allowed(engine: Engine, url: str) -> None:
    network = Network()
    push(engine, url, network)
    assert len(network.called) == 1


def test_a_name_that_changes_its_address_after_the_check_is_called_at_the_first(engine: Engine) -> None:
    network = Network(status=403)  # so that it is called twice
    network.names["rebinding.example"] = [["10.20.0.1"], ["127.0.0.1"]]
    with pytest.raises(PushError, match="HTTP status 403"):
        push(engine, "http://rebinding.example:8030/push", network)
    assert [request.url.host for request in network.called] == ["10.20.0.1", "10.20.0.1"]
    assert network.asked == ["rebinding.example"]


def test_of_several_addresses_only_the_allowed_ones_are_called(engine: Engine) -> None:
    network = Network()
    network.names["dcu.example"] = [["127.0.0.1", "10.20.0.1", "10.20.0.2", "192.0.2.1"]]
    network.dead = {"10.20.0.1"}
    push(engine, "http://dcu.example:8030/push", network)
    assert [request.url.host for request in network.called] == ["10.20.0.1", "10.20.0.2"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(engine: Engine, status: int) -> None:
    network = Network(status, {"location": "http://127.0.0.1:8030/admin"})
    with pytest.raises(PushError, match=f"HTTP status {status}"):
        push(engine, "http://10.20.0.1:8030/push", network)
    assert len(network.called) == 1


def test_a_name_without_an_address_is_an_error(engine: Engine) -> None:
    with pytest.raises(PushError):
        push(engine, "http://dcu.invalid:8030/push", Network())
    network = Network()
    network.names["dcu.example"] = [[]]
    with pytest.raises(PushForbiddenError, match="no address"):
        push(engine, "http://dcu.example:8030/push", network)


def test_without_networks_nobody_is_called(engine: Engine) -> None:
    with pytest.raises(PushForbiddenError, match=r"push\.networks"):
        push(engine, "http://10.20.0.1:8030/push", Network(), PushPolicy())


@pytest.mark.parametrize(
    ("networks", "address", "allowed"),
    [
        (["0.0.0.0/0"], "192.0.2.1", True),
        (["0.0.0.0/0"], "127.0.0.1", False),
        (["0.0.0.0/0"], "169.254.169.254", False),
        (["0.0.0.0/0"], "224.0.0.1", False),
        (["0.0.0.0/0"], "255.255.255.255", False),
        (["0.0.0.0/0"], "2001:db8::1", False),
        (["::/0"], "2001:db8::1", True),
        (["::/0"], "::1", False),
        (["::/0"], "fe80::1", False),
        (["::/0"], "64:ff9b::7f00:1", False),
        (["::/0"], "2002:7f00:1::", False),
        (["::/0"], "::ffff:127.0.0.1", False),
        (["127.0.0.0/8"], "127.0.0.1", True),
        (["127.0.0.1/32", "0.0.0.0/0"], "127.0.0.1", True),
        (["127.0.0.1/32", "0.0.0.0/0"], "127.0.0.2", False),
        (["fe80::/10"], "fe80::1", True),
    ],
)
def test_special_addresses_need_a_network_of_their_own(networks: list[str], address: str, allowed: bool) -> None:
    assert PushPolicy.of(networks).allows(ipaddress.ip_address(address), 80) is allowed


# ---- a policy of the device


def enrolled(engine: Engine, policy: PushPolicy | None) -> None:
    with engine.begin() as conn:
        devices.enrol(conn, DEVICE, bytes(32), 0.0)
        set_policy(conn, DEVICE, policy)


def test_a_device_with_a_policy_of_its_own_is_called_there_and_nowhere_else(engine: Engine) -> None:
    enrolled(engine, PushPolicy.of_device({"networks": ["10.30.7.0/24"], "ports": [9000]}))
    network = Network()
    push(engine, "http://10.30.7.1:9000/push", network)
    for elsewhere in ("http://10.20.3.4:8030/push", "http://10.30.8.1:9000/push", "http://10.30.7.1:8030/push"):
        with pytest.raises(PushForbiddenError, match="the device's own push policy"):
            push(engine, elsewhere, network)
    assert [str(request.url) for request in network.called] == ["http://10.30.7.1:9000/push"]


def test_a_device_without_one_has_that_of_the_configuration_also_again(engine: Engine) -> None:
    enrolled(engine, None)
    push(engine, "http://10.20.3.4:8030/push", Network())
    with engine.begin() as conn:
        set_policy(conn, DEVICE, PushPolicy.of_device({"networks": []}))
    with pytest.raises(PushForbiddenError):
        push(engine, "http://10.20.3.4:8030/push", Network())
    with engine.begin() as conn:
        set_policy(conn, DEVICE, None)
    push(engine, "http://10.20.3.4:8030/push", Network())


def test_the_same_rules_of_special_addresses_count_for_a_policy_of_a_device(engine: Engine) -> None:
    enrolled(engine, PushPolicy.of_device({"networks": ["0.0.0.0/0"]}))
    push(engine, "http://10.20.3.4:8030/push", Network())
    with pytest.raises(PushForbiddenError):
        push(engine, "http://127.0.0.1:8030/push", Network())


@pytest.mark.parametrize("damaged", [[], "10.0.0.0/8", {"networks": ["10.0.0.0/8"], "later": 1}, {"networks": [5]}, 7])
def test_a_policy_that_cannot_be_read_allows_nothing(engine: Engine, damaged: object) -> None:
    enrolled(engine, None)
    with engine.begin() as conn:
        conn.execute(update(access.devices).values(push_policy=damaged))
        assert policy_of(conn, DEVICE, DEVICES).networks == ()
    with pytest.raises(PushForbiddenError, match="damaged"):
        push(engine, "http://10.20.3.4:8030/push", Network())


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"ports": [8030]},
        {"networks": "10.0.0.0/8"},
        {"networks": ["10.20.0.1/16"]},
        {"networks": ["everywhere"]},
        {"networks": [167772160]},
        {"networks": ["10.0.0.0/8"], "ports": 8030},
        {"networks": ["10.0.0.0/8"], "ports": [0]},
        {"networks": ["10.0.0.0/8"], "ports": [65536]},
        {"networks": ["10.0.0.0/8"], "ports": [True]},
        {"networks": ["10.0.0.0/8"], "ports": ["8030"]},
        {"networks": ["10.0.0.0/8"], "hosts": []},
        {"networks": ["10.0.0.0/8"] * 33},
    ],
)
def test_what_is_no_policy_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|network|host bits"):
        PushPolicy.of_device(document)


def test_a_policy_is_kept_as_it_was_said() -> None:
    document = {"networks": ["10.20.0.0/16", "2001:db8::/48"], "ports": [80, 8030]}
    policy = PushPolicy.of_device(document)
    assert policy.document() == document
    assert str(policy) == "10.20.0.0/16, 2001:db8::/48; port 80, 8030"
    assert [str(PushPolicy.of_device({"networks": each})) for each in ([], ["10.0.0.0/8"])] == [
        "no network",
        "10.0.0.0/8",
    ]


# ---- the deadline


class Dripping:
    """A peer that sends one octet of its answer after the other, each well within any time that one octet may take."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.calls = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.calls += 1
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 202 Accepted\r\nX: ")
                while not self._stop.wait(0.01):
                    connection.sendall(b"x")

    def close(self) -> None:
        self._stop.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()


def test_a_peer_that_drips_its_answer_is_given_up_at_the_deadline(engine: Engine) -> None:
    peer = Dripping()
    with engine.begin() as conn:
        accounts.create(
            conn, DEVICE, server_id="h", url="https://dm.example/dm", push_url=f"http://127.0.0.1:{peer.port}/push"
        )
    try:
        with pytest.raises(PushError, match=r"no answer within 0\.2 s"):
            notify(engine, DEVICE, PushPolicy.of(["127.0.0.0/8"]), timeout_s=0.2)
        assert peer.calls == 1
    finally:
        peer.close()


def test_what_comes_after_the_head_of_an_answer_is_not_waited_for(engine: Engine) -> None:
    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                yield b"x"

    network = Network()
    network.transport = httpx.MockTransport(lambda _: httpx.Response(202, stream=Endless()))
    assert push(engine, "http://10.20.3.4:8030/push", network) > 0


def test_a_device_that_is_switched_off_is_not_called(engine: Engine) -> None:
    enrolled(engine, None)
    network = Network(status=403)  # asks for the notification once more, by the nonce of last resort
    answer = network._answer

    def switching_off(request: httpx.Request) -> httpx.Response:
        with engine.begin() as conn:
            devices.set_enabled(conn, DEVICE, False, 1.0)
        return answer(request)

    network.transport = httpx.MockTransport(switching_off)
    for _ in range(2):
        with pytest.raises(DeviceOffError, match="urn:dcu:1: the device is switched off"):
            push(engine, "http://10.20.3.4:8030/push", network)
    assert len(network.called) == 1
    with engine.begin() as conn:
        assert accounts.next_push(conn, DEVICE)[2] == 2, "a notification that is not sent takes no number"
        devices.set_enabled(conn, DEVICE, True, 2.0)
    push(engine, "http://10.20.3.4:8030/push", Network())
