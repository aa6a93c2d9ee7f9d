"""A flood of strangers and a device that wants to register: in virtual time, and once over real sockets."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from headend.security import app, devices
from headend.security.limits import Limits, RateLimit, network_of
from headend.security.service import SecurityService
from omadm.ssmp import wire
from omadm.ssmp.client_core import Registered, SsmpClient
from omadm.ssmp.identity import SharedKey
from tests.omadm.ssmp.releases import of_version

KEY = bytes(range(32))
INFO = wire.RegistrationInfo("Maker", "Model", "H", "F", "S", "")
FLOOD_PER_S = 200
ATTACKER = "203.0.113.6"


class Bench:
    """A security server with one genuine device, and a clock that is set by the test."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.now = 1000.0
        self.rng = random.Random(11)
        draft = app.dm_accounts("headend", "https://dm.example/dm")
        self.service = SecurityService(
            engine, draft, monotonic=lambda: self.now, wall=lambda: self.now, random_bytes=self.rng.randbytes
        )
        with engine.begin() as connection:
            for number in range(40):
                devices.enrol(connection, f"urn:dcu:{number}", KEY, 1.0)

    def hello(self, device_id: str, peer: str, version: int = wire.VERSION) -> int:
        return self.service.handle(wire.Hello(device_id, self.rng.randbytes(32), version).emit(), peer)[0]

    def register(self, device_id: str, peer: str, *, version: int = wire.VERSION) -> bool:
        client = SsmpClient(device_id, SharedKey(KEY), INFO, self.rng.randbytes)
        of_version(client, version).start(0.0)
        while message := client.take_output():
            client.receive(self.service.handle(message, peer)[1], 0.0)
        return isinstance(client.next_event(), Registered)


@pytest.fixture
def bench(database: Engine) -> Bench:
    return Bench(database)


def flood(bench: Bench, seconds: int, ask: Callable[[int], object], **hello: int) -> list[object]:
    """`FLOOD_PER_S` HELLOs with invented names from one address; `ask` once a second at some moment of it."""
    asked: list[object] = []
    for number in range(seconds * FLOOD_PER_S):
        bench.now += 1 / FLOOD_PER_S
        bench.hello(f"x{number}", ATTACKER, **hello)
        if number % FLOOD_PER_S == number // FLOOD_PER_S:
            asked.append(ask(number // FLOOD_PER_S))
    return asked


@pytest.mark.slow
@pytest.mark.parametrize("version", wire.VERSIONS)
def test_devices_register_through_a_flood_of_200_hellos_per_second(bench: Bench, version: int) -> None:
    """Before: 1,000 invented names filled the table, and nobody got in for 60 seconds."""
    tried = flood(
        bench,
        20,
        lambda second: bench.register(f"urn:dcu:{second}", f"192.0.2.{second}", version=version),
        version=version,
    )
    assert tried == [True] * 20


@pytest.mark.slow
def test_a_device_of_version_1_registers_through_a_flood_of_today_and_the_other_way(bench: Bench) -> None:
    for flooded, own in ((wire.VERSION, 1), (1, wire.VERSION)):
        assert all(
            flood(
                bench,
                5,
                lambda second, own=own: bench.register(f"urn:dcu:{second}", "192.0.2.1", version=own),  # type: ignore[misc]
                version=flooded,
            )
        )


@pytest.mark.slow
def test_a_device_behind_the_address_of_the_flood_registers_too(bench: Bench) -> None:
    """Thousands of devices can come from the address of one gateway, and a stranger behind it."""
    assert flood(bench, 10, lambda second: bench.register(f"urn:dcu:{second}", ATTACKER)) == [True] * 10


@pytest.mark.slow
def test_a_hello_leaves_nothing_behind(bench: Bench) -> None:
    for number in range(5000):
        bench.now += 0.01
        assert bench.hello(f"x{number}", ATTACKER) == 200
    assert len(bench.service._table) == 0


@pytest.mark.slow
def test_hellos_are_limited_per_network_and_in_all(bench: Bench) -> None:
    same = [bench.hello("x", f"2001:db8:0:7::{number:x}") for number in range(350)]
    assert same == [200] * 300 + [429] * 50  # one /64, whatever the address in it
    others = [bench.hello("x", f"2001:db8:0:{number:x}::1") for number in range(0x100, 0x100 + 1800)]
    assert others == [200] * 1700 + [429] * 100  # 2,000 in all
    bench.now += 1.0
    assert bench.register("urn:dcu:1", "192.0.2.1")


def test_what_a_device_calls_itself_is_in_no_limit(bench: Bench) -> None:
    assert [bench.hello(f"x{number}", ATTACKER) for number in range(301)][-1] == 429
    assert bench.hello("urn:dcu:1", "192.0.2.1") == 200


def test_wrong_proofs_are_limited_and_others_are_not_held_up(bench: Bench) -> None:
    def guess(peer: str) -> int:
        client = SsmpClient("urn:dcu:1", SharedKey(bytes(32)), INFO, bench.rng.randbytes)
        client.start(0.0)
        client.receive(bench.service.handle(client.take_output(), peer)[1], 0.0)
        return bench.service.handle(client.take_output(), peer)[0]

    assert [guess(ATTACKER) for _ in range(60)] == [401] * 50 + [429] * 10
    assert bench.register("urn:dcu:1", "192.0.2.1")
    with bench.engine.begin() as connection:
        rows = devices.log_listing(connection, 100)
    assert sum(row["code"] == 401 for row in rows) == 10  # the log grows at the pace of the limit


def test_a_challenge_serves_the_network_that_it_was_given_to(bench: Bench) -> None:
    client = SsmpClient("urn:dcu:1", SharedKey(KEY), INFO, bench.rng.randbytes)
    client.start(0.0)
    client.receive(bench.service.handle(client.take_output(), "192.0.2.1")[1], 0.0)
    auth = client.take_output()
    assert bench.service.handle(auth, ATTACKER)[0] == 408
    assert bench.service.handle(auth, "::ffff:192.0.2.1")[0] == 200


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_the_network_of_an_address(peer: str, network: str) -> None:
    assert network_of(peer) == network


def test_a_network_over_its_limit_takes_nothing_from_the_others() -> None:
    limits = Limits()
    assert sum(limits.hello("a", 0.0) for _ in range(5000)) == 300
    assert sum(limits.hello(f"n{number}", 0.0) for number in range(5000)) == 1700


def test_a_limit_that_is_not_used_costs_no_memory() -> None:
    limit = RateLimit(burst=1, clients_max=2)
    for number in range(100):
        limit.allow(str(number), 0.0)
    assert len(limit._buckets) == 2
