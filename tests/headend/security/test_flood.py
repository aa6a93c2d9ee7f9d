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

    def auth(self, device_id: str, peer: str, *, version: int = wire.VERSION, key: bytes = bytes(32)) -> bytes:
        """An AUTH that answers the challenge to a HELLO, with a wrong proof unless the key is the device's."""
        client = SsmpClient(device_id, SharedKey(key), INFO, self.rng.randbytes)
        of_version(client, version).start(0.0)
        client.receive(self.service.handle(client.take_output(), peer)[1], 0.0)
        return client.take_output()

    def guess(self, device_id: str, peer: str) -> int:
        """Try to register with a wrong key."""
        message = self.auth(device_id, peer)
        return self.service.handle(message, peer)[0] if message else 429


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
    assert others == [200] * 1706 + [429] * 94  # 2,000 in all, and 6 before they were in debt: all are one /48
    bench.now += 1.0
    assert bench.register("urn:dcu:1", "192.0.2.1")


def test_what_a_device_calls_itself_is_in_no_limit(bench: Bench) -> None:
    assert [bench.hello(f"x{number}", ATTACKER) for number in range(301)][-1] == 429
    assert bench.hello("urn:dcu:1", "192.0.2.1") == 200


def test_wrong_proofs_are_limited_and_others_are_not_held_up(bench: Bench) -> None:
    assert [bench.guess("urn:dcu:1", ATTACKER) for _ in range(110)] == [401] * 100 + [429] * 10
    assert bench.register("urn:dcu:1", "192.0.2.1")
    with bench.engine.begin() as connection:
        rows = devices.log_listing(connection, 100)
    assert sum(row["code"] == 401 for row in rows) == 10  # the log grows at the pace of the limit


def junk(bench: Bench, what: str, version: int) -> Callable[[], bytes]:
    """What makes messages that pass for an AUTH and answer no challenge of now, after one HELLO that was answered."""
    first = bench.auth("urn:dcu:1", ATTACKER, version=version)
    match what:
        case "one challenge, other octets each time":
            start = len(first) // 2
            return lambda: first[:start] + bench.rng.randbytes(len(first) - start)
        case "one challenge, a wrong proof":
            return lambda: first
        case "a challenge of nobody":
            at = first.find(b"SS", 8 + first[6:].find(b"SS", 1))
            return lambda: first[: at + 12] + bench.rng.randbytes(32) + first[at + 44 :]
    raise ValueError(what)


@pytest.mark.slow
@pytest.mark.parametrize("version", wire.VERSIONS)
@pytest.mark.parametrize("own", ["192.0.2.1", ATTACKER], ids=["elsewhere", "behind the same address"])
@pytest.mark.parametrize(
    "what", ["one challenge, other octets each time", "one challenge, a wrong proof", "a challenge of nobody"]
)
def test_devices_register_through_a_flood_of_auths_that_answer_no_challenge(
    bench: Bench, what: str, own: str, version: int
) -> None:
    """Before: ten a second from one address, or a hundred from ten, kept everybody else's AUTH out."""
    message = junk(bench, what, version)
    for number in range(20 * 500):
        bench.now += 1 / 500
        bench.service.handle(message(), ATTACKER)
        if number % 500 == number // 500:
            assert bench.register(f"urn:dcu:{number // 500}", own, version=version)
    assert len(bench.service._table) <= 1  # that HELLO, of version 1


@pytest.mark.slow
def test_a_device_registers_while_many_networks_guess_keys(bench: Bench) -> None:
    """Each within its own limit, and together far over the limit in all."""
    refused = 0
    for number in range(8000):
        bench.now += 1 / 800
        network = f"2001:db8:{number % 40:x}:{number % 16:x}::1" if number % 2 else f"198.51.100.{number % 40}"
        refused += bench.guess("urn:dcu:1", network) == 429
        if number % 800 == number // 800:
            assert bench.register(f"urn:dcu:{number // 800}", "192.0.2.1")
            assert bench.register(f"urn:dcu:{10 + number // 800}", "2001:db8:ffff::1")
    assert refused > 4000


@pytest.mark.slow
def test_the_devices_of_a_gateway_stay_in_good_standing(bench: Bench) -> None:
    """A registration pays for its HELLO and its AUTH: hundreds from one address are no flood."""
    for number in range(4000):
        bench.now += 1 / 800
        bench.guess("urn:dcu:1", f"198.51.100.{number % 40}")
        if number % 20 == 0:
            assert bench.register(f"urn:dcu:{number // 20 % 40}", "192.0.2.1"), number


def test_a_challenge_is_good_for_one_try(bench: Bench) -> None:
    wrong = bench.auth("urn:dcu:1", ATTACKER)
    assert [bench.service.handle(wrong, ATTACKER)[0] for _ in range(3)] == [401, 409, 409]
    table = bench.service._table
    table._failed_max = 10
    for number in range(30):
        bench.guess(f"x{number}", ATTACKER)
    assert len(table._failed) == 10
    bench.now += 61.0
    assert bench.register("urn:dcu:1", ATTACKER)
    assert not table._failed


def test_refusals_of_many_networks_are_written_down_at_one_pace(bench: Bench) -> None:
    for number in range(150):
        assert bench.guess("urn:dcu:1", f"198.51.{number}.1") == 401
    with bench.engine.begin() as connection:
        assert len(devices.log_listing(connection, 1000)) == 100


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
    assert sum(limits.hello(f"n{number}", 0.0) for number in range(5000)) == 2000 - 6  # none is in debt yet
    assert sum(limits.hello(f"n{number % 100}", 0.0) for number in range(5000)) == 1700 + 6  # the others' budget


def test_a_limit_that_is_not_used_costs_no_memory() -> None:
    limit = RateLimit(burst=1, clients_max=2)
    for number in range(100):
        limit.allow(str(number), 0.0)
    assert len(limit._buckets) == 2
