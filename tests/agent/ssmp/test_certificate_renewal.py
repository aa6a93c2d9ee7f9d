"""Another certificate without a visit: whatever breaks off, and wherever the power goes, the device gets in again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import select

from agent.clock_floor import CertificateTime
from agent.https import HttpsError
from agent.ssmp.certificate_file import CertificateFile, ServerTrust
from agent.ssmp.certificate_store import ASKED_EVERY_S, CertificateStore
from headend.operator import lifecycle
from headend.operator.lifecycle import Actor
from headend.security import app, certificate_renewals, certificates, devices, records
from headend.security.certificates import Identity
from headend.security.service import SecurityService
from omadm.ssmp import certificates as x509
from omadm.ssmp.certificates import CertificateError
from omadm.ssmp.errors import SsmpError, SsmpRefused
from tests.agent.ssmp.renewing import (
    FOLDER,
    ID,
    ROUND_TRIPS,
    URL,
    Renewing,
    again_and_again,
    line_breaks,
    power_goes,
)
from tests.omadm.ssmp.certified import Pair, authority, issue
from tests.sim.faulty_disk import Operation

PERIOD = (1000.0, 100_000.0)
AUTHORITY = authority(period=PERIOD)
HOST = issue(AUTHORITY, "s.example", x509.SERVER, PERIOD)
OWN = issue(AUTHORITY, ID, period=PERIOD)


class World(Renewing):
    """A device with a certificate, at a head-end which issues certificates or has pinned the key."""

    def __init__(self, folder: Path, *, pinned: bool = False, own: Pair = OWN) -> None:
        self.device_now: float | None = 1500.0  # None: nothing vouches for its clock
        self.issuer = None if pinned else (AUTHORITY.certificate, AUTHORITY.key)
        self.issued_days = 730
        self.first = own.certificate.der
        super().__init__(folder, 1500.0)
        (folder / "ca.pem").write_bytes(AUTHORITY.pem())
        private = own.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "device.key").write_bytes(private)
        (folder / "device.key").chmod(0o600)
        trust = ServerTrust(folder / "ca.pem", URL, self.certificate_time, lambda: None)
        self.factory = CertificateFile(folder / "device.key", own.certificate, trust)
        with self.engine.begin() as connection:
            certificates.enrol(connection, ID, own.certificate.der if pinned else None, 1.0)

    def certificate_time(self) -> CertificateTime:
        return CertificateTime(1000.0, self.device_now)

    def identity(self) -> Identity:
        authorities = () if self.issuer is None else (AUTHORITY.certificate,)
        return Identity(HOST.certificate, HOST.key, authorities, self.issuer, self.issued_days)

    def want(self) -> None:
        with self.engine.begin() as connection:
            certificate_renewals.want(connection, ID, self.now)

    def store(self) -> CertificateStore:
        return CertificateStore(self.disk, FOLDER, self.factory, ID, self.certificate_time)

    def settled(self) -> bool:
        """Whether the device has one certificate that it tries, and the renewal is over."""
        with self.engine.begin() as connection:
            wanted = certificate_renewals.is_wanted(connection, ID)
        return len(self.store().candidates()) == 1 and not wanted

    def secret(self) -> bytes:
        """The certificate that the device tries first after a start."""
        return self.store().candidates()[0].certificate


@pytest.fixture(params=["issued", "pinned"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(tmp_path, pinned=request.param == "pinned")
    yield made
    made.engine.dispose()


def test_a_device_gets_another_certificate_and_uses_it_at_once(world: World) -> None:
    world.want()
    assert world.register()
    assert world.round_trips == ROUND_TRIPS
    assert world.settled()
    issued = x509.read(world.secret())
    assert issued.point != OWN.certificate.point
    assert issued.names == (ID,)
    assert not issued.authority
    with pytest.raises(SsmpRefused):  # the old one is dead, also in the hands of a thief
        world.register(world.factory)
    assert world.register()  # with the new one, after a start
    assert world.settled()


@pytest.mark.parametrize(("days", "period_s"), [(1, 86_400.0), (730, PERIOD[1] - 1560.0)])
def test_the_head_end_says_how_long_it_is_valid_within_its_authority_s_period(
    world: World, days: int, period_s: float
) -> None:
    world.issued_days = days
    world.start_server()
    world.want()
    assert world.register()
    issued = x509.read(world.secret())
    assert issued.not_after - issued.not_before == period_s


def test_it_can_be_done_again_and_again(world: World) -> None:
    again_and_again(world)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["request", "answer"])
@pytest.mark.parametrize("lost", range(1, ROUND_TRIPS + 1))
def test_a_line_that_breaks_anywhere_locks_nobody_out(world: World, lost: int, which: str) -> None:
    line_breaks(world, lost, which)


@pytest.mark.slow
@pytest.mark.parametrize("pinned", [False, True])
def test_the_power_may_go_at_any_operation_and_any_round_trip(tmp_path: Path, pinned: bool) -> None:
    power_goes(lambda folder: World(folder, pinned=pinned), tmp_path)


def test_a_device_whose_key_cannot_be_renewed_is_named_and_not_asked_again(world: World) -> None:
    """One with an earlier version of this software."""
    world.want()
    world.register(world.factory)
    with world.engine.begin() as connection:
        texts = connection.scalars(select(devices.registrations.c.text).order_by(devices.registrations.c.seq)).all()
        assert not certificate_renewals.is_wanted(connection, ID)
        (alarm,) = records.alarm_listing(connection, ID, 10, open_only=True)
    assert texts == ["cannot renew its certificate: its software is too old", "registered"]
    assert (alarm["kind"], alarm["text"]) == (records.RENEWAL, f"the device {texts[0]}")
    world.register()  # a release that can
    with world.engine.begin() as connection:
        assert records.alarm_listing(connection, ID, 10, open_only=True) == []
        assert records.audit_listing(connection, ID, 1)[0]["detail"] == "the device says that it can renew"


def test_a_key_that_cannot_be_stored_is_not_asked_a_certificate_for(world: World) -> None:
    def full(operation: Operation) -> None:
        raise OSError(28, "No space left on device")

    store = world.store()
    world.want()
    world.disk.on_operation = full
    with pytest.raises(SsmpError, match="cannot be stored"):
        world.register(store)
    world.disk.on_operation = None
    with world.engine.begin() as connection:
        assert not certificate_renewals.is_given(connection, ID, OWN.certificate)
    world.register(store)
    assert world.settled()


def test_a_head_end_that_lost_what_it_issued_takes_the_old_one(world: World) -> None:
    """Its database was put back: the pinned key is the old one. What an authority issued is good as before."""
    world.want()
    world.on_round_trip = lambda number, _: _gone() if number > 3 else None
    world.register()  # issued and stored, not used
    world.on_round_trip = lambda _, __: None
    with world.engine.begin() as connection:
        certificate_renewals.forget(connection, ID)
    assert world.register()
    assert world.settled()
    assert (world.secret() == OWN.certificate.der) == (world.issuer is None)


def _gone() -> None:
    raise HttpsError("gone")


def test_the_device_asks_by_itself_when_a_third_of_the_period_is_left(world: World) -> None:
    store = world.store()
    third = 1000.0 + 99_000.0 * 2 / 3
    world.device_now = third - 1.0
    assert not store.due(0.0)
    world.device_now = third
    assert store.due(0.0)
    world.device_now = None  # nobody vouches for the clock
    assert not store.due(0.0)
    world.register(store)
    assert world.secret() == OWN.certificate.der
    world.device_now = world.now = third
    world.register(store)
    assert world.settled()
    assert world.secret() != OWN.certificate.der


def test_a_server_that_issues_none_is_not_asked_again_for_a_day(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.issuer = None
    world.service = SecurityService(
        world.engine,
        app.dm_accounts("headend", "https://dm.example/dm"),
        monotonic=lambda: world.now,
        wall=lambda: world.now,
        identity=Identity(HOST.certificate, HOST.key, (AUTHORITY.certificate,)),
    )
    store = world.store()
    world.device_now = world.now = 90_000.0
    world.monotonic = 10.0
    assert store.due(10.0)
    assert world.register(store)  # which asks
    assert not store.due(9.0 + ASKED_EVERY_S)
    assert store.due(10.0 + ASKED_EVERY_S)
    assert world.secret() == OWN.certificate.der
    world.engine.dispose()


def test_a_certificate_that_the_device_could_not_use_is_not_stored(world: World) -> None:
    store = world.store()
    store.request()
    for wrong in (OWN.certificate.der, b"nonsense"):
        with pytest.raises(CertificateError):
            store.install(wrong)
    assert world.secret() == OWN.certificate.der


def test_another_certificate_file_ends_what_came_after_the_one_before(world: World, tmp_path: Path) -> None:
    world.want()
    world.register()
    (tmp_path / "other").mkdir()
    other = World(tmp_path / "other", own=issue(AUTHORITY, ID, period=PERIOD))
    other.disk = world.disk
    assert other.secret() == other.factory.certificate
    other.engine.dispose()


def test_stored_values_that_are_none_count_as_none(world: World) -> None:
    world.want()
    world.register()
    store = world.store()
    good = store._file.load()
    for value in ("zz", 5, None, {}, {"key": "00", "certificate": ""}, {**good["own"], "certificate": "00"}):
        store._file.save({**good, "own": value})
        assert world.secret() == OWN.certificate.der


def test_the_operator_orders_it_and_only_where_it_can_be_done(world: World) -> None:
    actor = Actor("test", 1.0)
    world.register()
    with world.engine.begin() as connection:
        if world.issuer is not None:
            with pytest.raises(lifecycle.LifecycleError, match="no authority"):
                lifecycle.renew_certificate(connection, actor, ID)
        lifecycle.renew_certificate(connection, actor, ID, issues=world.issuer is not None)
        assert certificate_renewals.is_wanted(connection, ID)
        lifecycle.replace_key(connection, actor, ID, bytes(32), end_account=False)
        with pytest.raises(lifecycle.LifecycleError, match="shared key"):
            lifecycle.renew_certificate(connection, actor, ID, issues=True)
