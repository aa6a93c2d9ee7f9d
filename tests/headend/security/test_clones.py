"""What replaces a device's account, and what two devices with one identity look like."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from sqlalchemy import Engine, insert

from headend.dm import accounts
from headend.dm.jobs import queue
from headend.dm.jobs.steps import Done
from headend.dm.tables import sessions
from headend.security import app, clones, devices, records
from headend.security.service import SecurityService
from omadm import bootstrap
from omadm.bootstrap import Account
from omadm.ssmp import wire
from omadm.ssmp.client_core import Registered, SsmpClient
from omadm.ssmp.identity import SharedKey
from tests.omadm.ssmp.releases import of_version

DEVICE = "urn:dcu:T-1"
KEY = bytes(range(32))
INFO = wire.RegistrationInfo("Maker", "Model", "H", "F", "S", "")


@dataclass
class Bench:
    """A security server, and boxes that register with it."""

    engine: Engine
    now: float = 1000.0
    rng: random.Random = field(default_factory=lambda: random.Random(3))

    def __post_init__(self) -> None:
        draft = app.dm_accounts("headend", "https://dm.example/dm")
        self.service = SecurityService(
            self.engine, draft, monotonic=lambda: self.now, wall=lambda: self.now, random_bytes=self.rng.randbytes
        )
        with self.engine.begin() as connection:
            devices.enrol(connection, DEVICE, KEY, 1.0)

    def in_force(self) -> Account:
        with self.engine.begin() as connection:
            row = accounts.load(connection, DEVICE)
        assert row is not None
        return accounts.from_row(row)

    def alarms(self) -> list[str]:
        with self.engine.begin() as connection:
            return [row["kind"] for row in records.alarm_listing(connection, DEVICE, 10)]

    def session(self) -> None:
        """Somebody holds a DM session with the account in force."""
        self.now += 10.0
        with self.engine.begin() as connection:
            row = {"device_id": DEVICE, "session_id": "1", "state": "done", "messages": 1, "commands": 0}
            connection.execute(insert(sessions).values(started=self.now, updated=self.now, **row))
        self.now += 10.0


@dataclass
class Box:
    """One concentrator; two of them can have the same factory data."""

    bench: Bench
    peer: str
    version: int = wire.VERSION
    account: Account | None = None

    def register(self, *, lost_after: int = 9) -> None:
        """Register; the server's answers from the `lost_after`th on do not arrive."""
        held = b"" if self.account is None else self.account.fingerprint()
        client = SsmpClient(DEVICE, SharedKey(KEY), INFO, self.bench.rng.randbytes, held)
        of_version(client, self.version).start(0.0)
        number = 0
        while message := client.take_output():
            number += 1
            answer = self.bench.service.handle(message, self.peer)[1]
            if number >= lost_after:
                return
            client.receive(answer, 0.0)
        event = client.next_event()
        assert isinstance(event, Registered)
        self.account = bootstrap.account_from_tnds(bootstrap.parse_profile(event.document))
        self.bench.now += 10.0


@pytest.fixture
def bench(database: Engine) -> Bench:
    return Bench(database)


@pytest.fixture
def box(bench: Bench) -> Box:
    return Box(bench, "192.0.2.1")


@pytest.mark.parametrize("version", wire.VERSIONS)
def test_an_auth_without_its_confirm_leaves_the_account_as_it_is(bench: Bench, box: Box, version: int) -> None:
    box.version = version
    box.register()
    before = bench.in_force()
    box.register(lost_after=2)
    assert bench.in_force() == before == box.account
    box.register()
    assert bench.in_force() == box.account != before


def test_a_device_that_is_switched_off_after_its_auth_gets_no_account(bench: Bench, box: Box) -> None:
    client = SsmpClient(DEVICE, SharedKey(KEY), INFO, bytes)
    client.start(0.0)
    for _ in range(2):
        client.receive(bench.service.handle(client.take_output(), box.peer)[1], 0.0)
    with bench.engine.begin() as connection:
        devices.set_enabled(connection, DEVICE, False, 1.0)
    assert bench.service.handle(client.take_output(), box.peer)[0] == 401
    with bench.engine.begin() as connection:
        assert accounts.load(connection, DEVICE) is None


def test_a_device_whose_key_was_replaced_after_its_auth_gets_no_account(bench: Bench, box: Box) -> None:
    client = SsmpClient(DEVICE, SharedKey(KEY), INFO, bytes)
    client.start(0.0)
    for _ in range(2):
        client.receive(bench.service.handle(client.take_output(), box.peer)[1], 0.0)
    with bench.engine.begin() as connection:
        devices.enrol(connection, DEVICE, bytes(32), 1.0, replace=True)
    assert bench.service.handle(client.take_output(), box.peer)[0] == 401


def test_two_devices_with_one_identity_raise_an_alarm(bench: Bench, box: Box) -> None:
    other = Box(bench, "198.51.100.7")
    box.register()
    bench.session()
    other.register()  # the first is cut off here, and sees it at its next session
    bench.session()
    assert bench.alarms() == []  # it could be the same device, which has lost its account
    box.register()
    assert bench.alarms() == [clones.TWO_DEVICES]
    with bench.engine.begin() as connection:
        (alarm,) = records.alarm_listing(connection, DEVICE, 10)
        told = records.audit_listing(connection, DEVICE, 10)
    assert ("192.0.2.1" in alarm["text"], "198.51.100.7" in alarm["text"]) == (True, True)
    assert [entry["action"] for entry in told] == ["alarm two-devices"]
    bench.session()
    other.register()
    with bench.engine.begin() as connection:
        (alarm,) = records.alarm_listing(connection, DEVICE, 10)
        assert alarm["count"] == 2
        assert records.acknowledge(connection, alarm["id"], "operator", 5.0)
        assert not records.acknowledge(connection, alarm["id"], "operator", 5.0)
        assert records.alarm_listing(connection, DEVICE, 10, open_only=True) == []


def test_a_lost_last_answer_is_no_second_device(bench: Bench, box: Box) -> None:
    box.register()
    bench.session()
    box.register(lost_after=3)  # the server has replaced the account, and the device does not know
    box.register()
    bench.session()
    box.register()
    assert bench.alarms() == []
    assert bench.in_force() == box.account


def test_one_device_that_registers_now_and_then_raises_no_alarm(bench: Bench, box: Box) -> None:
    for _ in range(10):
        box.register()
        bench.session()
    box.account = None  # it was put back to factory settings
    box.register()
    bench.session()
    bench.now += 2 * clones.AGAIN_S
    box.account = None
    box.register()
    assert bench.alarms() == []


@pytest.mark.parametrize("version", wire.VERSIONS)
def test_devices_that_do_not_say_what_they_hold_are_seen_by_their_number_of_accounts(
    bench: Bench, version: int
) -> None:
    boxes = [Box(bench, f"192.0.2.{number}", version) for number in range(2)]
    for turn in range(4):
        boxes[turn % 2].account = None
        boxes[turn % 2].register()
        bench.session()
    assert bench.alarms() == [clones.AGAIN_AND_AGAIN]


def test_an_account_that_the_operator_made_raises_no_alarm(bench: Bench, box: Box) -> None:
    box.register()
    bench.session()
    with bench.engine.begin() as connection:
        accounts.create(connection, DEVICE, server_id="headend", url="https://dm.example/dm", now=bench.now)
    bench.session()
    box.register()
    assert bench.alarms() == []


def test_what_is_kept_of_accounts_is_bounded(bench: Bench, box: Box) -> None:
    for _ in range(clones.KEPT_PER_DEVICE + 8):
        bench.now += 100.0
        box.register()
    with bench.engine.begin() as connection:
        kept = connection.execute(clones.issued.select()).all()
    assert len(kept) == clones.KEPT_PER_DEVICE


# ---- what a registration costs


def provisioned(bench: Bench) -> None:
    """The head-end has set something, which the device has."""
    with bench.engine.begin() as connection:
        nodes = {"nodes": [{"path": "./SCHED/Task/t/Setting/Every", "value": 900}]}
        number = queue.enqueue(connection, DEVICE, "provision", nodes, now=bench.now)
        queue.finish(connection, number, Done({}), bench.now)
    bench.session()


def waiting(bench: Bench) -> int:
    """How many jobs wait; they are cancelled."""
    with bench.engine.begin() as connection:
        found = [job["id"] for job in queue.listing(connection, DEVICE) if job["state"] == "queued"]
        for number in found:
            queue.cancel(connection, number, now=bench.now)
    return len(found)


def test_a_device_that_has_the_account_in_use_is_not_provisioned_again(bench: Bench, box: Box) -> None:
    """It registers for another certificate, twice: with the old one for the new one, and with the new one."""
    box.register()
    provisioned(bench)
    account = box.account
    for lost_after in (9, 2, 3, 9):
        box.account = account
        box.register(lost_after=lost_after)
        assert waiting(bench) == 0
    bench.session()
    box.register()
    assert waiting(bench) == 0


def test_a_device_that_may_have_lost_its_tree_is_provisioned_again(bench: Bench, box: Box) -> None:
    box.register()
    provisioned(bench)
    before = box.account
    box.account = None  # back to factory settings
    box.register()
    assert waiting(bench) == 1
    bench.session()
    box.account = before  # an old state of its storage was put back
    box.register()
    assert waiting(bench) == 1
    box.version = wire.VERSION_1  # it does not say what it has
    box.register()
    assert waiting(bench) == 1
