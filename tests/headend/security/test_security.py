"""The security server: who gets an account, who does not, and what is written down."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from headend.dm import accounts
from headend.dm.jobs import queue
from headend.dm.jobs.steps import Done
from headend.metering import readings
from headend.security import app, devices
from headend.security.limits import RateLimit
from headend.security.service import DraftAccount, SecurityService
from omadm import bootstrap
from omadm.bootstrap import Account
from omadm.ssmp import wire
from omadm.ssmp.client_core import Registered, RegistrationFailed, SsmpClient
from omadm.ssmp.errors import SsmpRefused
from omadm.ssmp.identity import SharedKey
from tests.headend.asgi import call
from tests.omadm.ssmp.releases import of_version

DEVICE = "urn:dcu:T-1"
KEY = bytes(range(32))
INFO = wire.RegistrationInfo("Maker", "Model", "H", "F", "S", "http://192.0.2.7/push")
SSMP = {"Content-Type": wire.CONTENT_TYPE}


class Times:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A security server with one enrolled device."""

    def __init__(self, engine: Engine, draft: DraftAccount | None = None) -> None:
        self.engine = engine
        self.time = Times()
        self.rng = random.Random(4)
        draft = draft or app.dm_accounts("headend", "https://dm.example/dm")
        self.service = SecurityService(
            engine, draft, monotonic=self.time, wall=lambda: 5.0, random_bytes=self.rng.randbytes
        )
        self.server = app.create_app(self.service)
        with engine.begin() as connection:
            devices.enrol(connection, DEVICE, KEY, 1.0)

    def post(self, body: bytes) -> tuple[int, bytes]:
        answer = call(self.server, "POST", "/ssmp", content=body, headers=SSMP)
        assert answer.headers["content-type"] == wire.CONTENT_TYPE
        return answer.status_code, answer.content

    def register(self, device_id: str = DEVICE, key: bytes = KEY) -> bytes | Exception:
        """The bootstrap document, or why there is none."""
        client = SsmpClient(device_id, SharedKey(key), INFO, self.rng.randbytes)
        client.start(0.0)
        while message := client.take_output():
            client.receive(self.post(message)[1], 0.0)
        match client.next_event():
            case Registered(document):
                return document
            case RegistrationFailed(error):
                return error
        raise AssertionError

    def log(self) -> list[tuple[object, object]]:
        with self.engine.begin() as connection:
            return [(row["device"], row["code"]) for row in devices.log_listing(connection, 10)]

    def device(self) -> dict[str, object]:
        with self.engine.begin() as connection:
            return devices.listing(connection)[0]


@pytest.fixture
def bench(database: Engine) -> Bench:
    return Bench(database)


def test_a_registration_makes_the_account_that_the_document_holds(bench: Bench, database: Engine) -> None:
    document = bench.register()
    assert isinstance(document, bytes)
    account = bootstrap.account_from_tnds(bootstrap.parse_profile(document))
    assert (account.url, account.server_id) == ("https://dm.example/dm", "headend")
    with database.begin() as connection:
        row = accounts.load(connection, DEVICE)
    assert row is not None
    assert accounts.from_row(row) == account
    assert row.push_url == INFO.push_url
    assert bench.log() == [(DEVICE, 200)]
    shown = bench.device()
    assert (shown["registrations"], shown["registered"], shown["fw"], shown["push_url"]) == (1, 5.0, "F", INFO.push_url)


@pytest.mark.parametrize("url", ["http://h/a b", "http://h/#x", "ftp://h/", "http://u@h/"])
def test_a_device_that_tells_no_address_registers_and_is_not_called_there(
    bench: Bench, database: Engine, url: str
) -> None:
    client = SsmpClient(DEVICE, SharedKey(KEY), replace(INFO, push_url=url), bench.rng.randbytes)
    client.start(0.0)
    while message := client.take_output():
        client.receive(bench.post(message)[1], 0.0)
    assert isinstance(client.next_event(), Registered)
    with database.begin() as connection:
        row = accounts.load(connection, DEVICE)
        (entry,) = devices.log_listing(connection, 10)
    assert row is not None
    assert (row.push_url, bench.device()["push_url"]) == ("", "")
    assert str(entry["text"]).startswith("registered; its push URL ")


def test_a_second_registration_brings_new_secrets(bench: Bench) -> None:
    first, second = bench.register(), bench.register()
    assert isinstance(first, bytes)
    assert isinstance(second, bytes)
    old, new = (bootstrap.account_from_tnds(bootstrap.parse_profile(document)) for document in (first, second))
    assert old.client_secret != new.client_secret
    assert bench.device()["registrations"] == 2


def test_a_device_that_registers_anew_is_provisioned_again(bench: Bench, database: Engine) -> None:
    bench.register()
    with database.begin() as connection:
        number = queue.enqueue(connection, DEVICE, "provision", {"nodes": [{"path": "./A/B", "value": 1}]})
        queue.finish(connection, number, Done({}), 2.0)
    bench.register(key=bytes(32))
    with database.begin() as connection:
        assert [job["state"] for job in queue.listing(connection, DEVICE)] == ["done"]
    bench.register()
    with database.begin() as connection:
        assert [job["state"] for job in queue.listing(connection, DEVICE)] == ["queued", "done"]


def test_wrong_key_unknown_device_and_disabled_device_get_the_same_answer(bench: Bench, database: Engine) -> None:
    refusals = [bench.register(key=bytes(32)), bench.register("urn:dcu:nobody")]
    with database.begin() as connection:
        assert devices.set_enabled(connection, DEVICE, False, 2.0)
    refusals.append(bench.register())
    assert {str(refusal) for refusal in refusals} == {str(refusals[0])}
    assert isinstance(refusals[0], SsmpRefused)
    assert refusals[0].code == 401
    assert bench.log() == [(DEVICE, 401), ("urn:dcu:nobody", 401), (DEVICE, 401)]
    with database.begin() as connection:
        assert accounts.load(connection, DEVICE) is None
        assert accounts.load(connection, "urn:dcu:nobody") is None


def test_a_replayed_registration_gets_nothing(bench: Bench) -> None:
    sent: list[bytes] = []
    client = SsmpClient(DEVICE, SharedKey(KEY), INFO, bench.rng.randbytes)
    client.start(0.0)
    while message := client.take_output():
        sent.append(message)
        client.receive(bench.post(message)[1], 0.0)
    assert isinstance(client.next_event(), Registered)
    statuses = [bench.post(message)[0] for message in sent]
    assert statuses == [200, 409, 408]  # HELLO is answered and not kept; its AUTH was used; the session is gone
    assert bench.device()["registrations"] == 1


def test_a_message_repeated_within_its_session_is_refused_and_the_session_goes_on(bench: Bench) -> None:
    client = SsmpClient(DEVICE, SharedKey(KEY), INFO, bytes)
    client.start(0.0)
    client.receive(bench.post(client.take_output())[1], 0.0)
    auth = client.take_output()
    client.receive(bench.post(auth)[1], 0.0)
    assert bench.post(auth)[0] == 409
    client.receive(bench.post(client.take_output())[1], 0.0)
    assert isinstance(client.next_event(), Registered)


@pytest.mark.parametrize("version", [1, 2])
def test_a_device_that_was_talked_into_an_older_version_is_told_so(bench: Bench, version: int) -> None:
    """Somebody inside TLS says that this server does not know version 3: it does, and gives no such proof."""
    client = SsmpClient(DEVICE, SharedKey(KEY), INFO, bench.rng.randbytes)
    client.start(0.0)
    for _ in range(version, wire.VERSION):
        client.take_output()
        client.receive(wire.Error(505, "no", 1).emit(), 0.0)
    status, answer = bench.post(client.take_output())
    assert status == 426
    client.receive(answer, 0.0)
    assert isinstance(client.next_event(), RegistrationFailed)


@pytest.mark.parametrize("version", [1, 2])
def test_a_device_of_an_earlier_release_registers_in_its_version(bench: Bench, version: int) -> None:
    client = of_version(SsmpClient(DEVICE, SharedKey(KEY), INFO, bench.rng.randbytes), version)
    client.start(0.0)
    while message := client.take_output():
        status, answer = bench.post(message)
        assert (status, answer[2]) == (200, version)
        client.receive(answer, 0.0)
    assert isinstance(client.next_event(), Registered)


def test_a_session_that_takes_too_long_is_gone(bench: Bench) -> None:
    client = SsmpClient(DEVICE, SharedKey(KEY), INFO, bytes)
    client.start(0.0)
    client.receive(bench.post(client.take_output())[1], 0.0)
    bench.time.now += 61.0
    assert bench.post(client.take_output())[0] == 408


def test_a_device_that_asks_too_often_is_told_so_and_others_are_not_held_up(bench: Bench) -> None:
    with bench.engine.begin() as connection:
        devices.enrol(connection, "urn:dcu:other", KEY, 1.0)
    tries = [bench.register() for _ in range(12)]
    assert [isinstance(each, bytes) for each in tries] == [True] * 10 + [False] * 2
    assert "429" in str(tries[-1])
    assert isinstance(bench.register("urn:dcu:other"), bytes)
    bench.time.now += 6.0
    assert [isinstance(bench.register(), bytes) for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", wire.Done(bytes(16), bytes(32)).emit(), wire.Error(401, "x").emit()]
)
def test_what_a_server_does_not_take_is_malformed(bench: Bench, body: bytes) -> None:
    status, answer = bench.post(body)
    assert status == 400
    assert isinstance(wire.parse(answer), wire.Error)


def test_other_content_types_and_large_bodies_are_refused(bench: Bench) -> None:
    assert call(bench.server, "POST", "/ssmp", content=b"x").status_code == 415
    large = bytes(wire.MESSAGE_BYTES_MAX + 1)
    assert call(bench.server, "POST", "/ssmp", content=large, headers=SSMP).status_code == 413


def test_a_database_that_fails_is_unavailable_and_leaves_no_half_registration(database: Engine) -> None:
    def broken(_: str) -> Account:
        raise OperationalError("statement", {}, Exception("disk I/O error"))

    bench = Bench(database, broken)
    refusal = bench.register()
    assert isinstance(refusal, SsmpRefused)
    assert refusal.code == 503
    assert bench.device()["registrations"] == 0


# ---- devices


@pytest.mark.parametrize(
    ("device_id", "key", "why"),
    [
        ("", KEY, "1 to 128"),
        ("a b", KEY, "1 to 128"),
        ("x" * 129, KEY, "1 to 128"),
        ("urn:dcu:T-2", KEY[:31], "32 bytes"),
        (DEVICE, KEY, "already"),
    ],
)
def test_what_cannot_be_enrolled_is_refused(bench: Bench, device_id: str, key: bytes, why: str) -> None:
    with bench.engine.begin() as connection, pytest.raises(devices.DeviceError, match=why):
        devices.enrol(connection, device_id, key, 1.0)


def test_a_new_key_replaces_the_old_one(bench: Bench) -> None:
    with bench.engine.begin() as connection:
        devices.enrol(connection, DEVICE, bytes(32), 1.0, replace=True)
    assert isinstance(bench.register(), SsmpRefused)
    assert isinstance(bench.register(key=bytes(32)), bytes)


def test_keys_are_in_no_listing_and_no_representation(bench: Bench) -> None:
    with bench.engine.begin() as connection:
        found = devices.find(connection, DEVICE)
    assert found is not None
    assert found.key == KEY
    assert repr(KEY) not in repr(found)
    assert "key" not in bench.device()


def test_the_registration_log_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "LOG_ROWS_MAX", 50)
    with bench.engine.begin() as connection:
        for number in range(300):
            devices.note(connection, f"d{number}", "p", 401, "no", 1.0)
        rows = devices.log_listing(connection, 1000)
    assert len(rows) == 50
    assert rows[0]["device"] == "d299"


# ---- the rate limit


def test_tokens_come_back_with_time_up_to_the_burst() -> None:
    limit = RateLimit(burst=2, refill_every_s=10.0)
    assert [limit.allow("a", 0.0) for _ in range(3)] == [True, True, False]
    assert not limit.allow("a", 9.9)
    assert limit.allow("a", 10.1)
    assert [limit.allow("a", 1000.0) for _ in range(3)] == [True, True, False]


def test_the_number_of_clients_is_bounded() -> None:
    limit = RateLimit(burst=1, clients_max=2)
    assert [limit.allow(key, 0.0) for key in ("a", "b", "c")] == [True] * 3
    assert limit.allow("a", 0.0)  # forgotten, the least recent
    assert not limit.allow("c", 0.0)


def test_what_a_stolen_database_gives(bench: Bench, tmp_path: Path) -> None:
    """No key, no DM secret, no token: what lies in it is sealed, or a hash. docs/security.md says so."""
    bench.register()
    token = readings.issue_token(bench.engine, DEVICE, 5.0)
    with bench.engine.begin() as connection:
        row = accounts.load(connection, DEVICE)
    assert row is not None
    stolen = b"".join(file.read_bytes() for file in tmp_path.glob("headend.db*"))
    assert DEVICE.encode() in stolen
    for secret in (KEY, row.client_secret.encode(), row.server_secret.encode(), token.encode()):
        assert secret not in stolen
