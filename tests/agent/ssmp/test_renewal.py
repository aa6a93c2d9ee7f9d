"""A new device key without a visit: whatever breaks off, and wherever the power goes, the device gets in again."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import Engine

from agent.https import HttpsClient, HttpsError, Response
from agent.settings.device import DeviceInfo
from agent.ssmp.key_store import KeyStore
from agent.ssmp.registration import Registrar
from headend.security import app, devices, renewals
from headend.security.service import SecurityService
from omadm.ssmp import wire
from omadm.ssmp.errors import SsmpError, SsmpRefused, SsmpUnsettledError
from omadm.ssmp.identity import SharedKey
from tests.headend.database import empty_database
from tests.sim.faulty_disk import FaultyDisk, Operation, PowerCut, Survival

DEVICE = DeviceInfo("urn:dcu:T-1", "Maker", "Model", "H", "F", "S")
KEY = bytes(range(32))
FOLDER = Path("/state/ssmp")
HEADERS = {"content-type": wire.CONTENT_TYPE}
ROUND_TRIPS = 6  # of a registration that brings a key, and the one that uses it


class World:
    """A device on a disk that may lose its power, and a head-end."""

    def __init__(self, folder: Path) -> None:
        self.engine: Engine = empty_database(folder / "headend.db")
        self.disk = FaultyDisk()
        self.now = 1000.0
        self.random = random.Random(9)
        self.start_server()
        self.on_round_trip: Callable[[int, str], None] = lambda _, __: None
        self.round_trips = 0
        with self.engine.begin() as connection:
            devices.enrol(connection, DEVICE.device_id, KEY, 1.0)

    def start_server(self) -> None:
        """It remembers what is in its database, and nothing else."""
        self.service = SecurityService(
            self.engine,
            app.dm_accounts("headend", "https://dm.example/dm"),
            monotonic=lambda: self.now,
            wall=lambda: self.now,
            random_bytes=self.random.randbytes,
        )

    def want(self) -> None:
        with self.engine.begin() as connection:
            renewals.want(connection, DEVICE.device_id, self.now)

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        assert (method, url, headers is not None, body is not None) == ("POST", "https://s/ssmp", True, True)
        self.round_trips += 1
        self.on_round_trip(self.round_trips, "request")
        status, answer = self.service.handle(body or b"", "192.0.2.1")
        self.on_round_trip(self.round_trips, "answer")
        return Response(status, HEADERS, answer)

    def store(self, factory: bytes = KEY) -> KeyStore:
        """What the device has after a start."""
        return KeyStore(self.disk, FOLDER, factory)

    def register(self, store: KeyStore | None = None) -> bytes:
        self.now += 60.0  # so that no limit is reached
        registrar = Registrar(cast("HttpsClient", self), "https://s/ssmp", DEVICE)
        return registrar.register(store or self.store(), "", b"")

    def key(self) -> bytes:
        """The key that the head-end has."""
        with self.engine.begin() as connection:
            found = devices.find(connection, DEVICE.device_id)
        assert found is not None
        return found.key

    def settled(self) -> bool:
        """Whether both ends have one key, the same, and the renewal is over."""
        keys = self.store().candidates()
        with self.engine.begin() as connection:
            wanted = renewals.is_wanted(connection, DEVICE.device_id)
        return len(keys) == 1 and keys[0].same(self.key()) and not wanted


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.engine.dispose()


def test_a_device_gets_a_new_key_and_uses_it_at_once(world: World) -> None:
    world.want()
    assert world.register()
    assert world.round_trips == ROUND_TRIPS
    assert world.settled()
    assert world.key() != KEY
    with pytest.raises(SsmpRefused):  # the old one is dead, also in the hands of a thief
        Registrar(cast("HttpsClient", world), "https://s/ssmp", DEVICE).register(SharedKey(KEY), "", b"")
    assert world.register()  # with the new one, after a start
    assert world.settled()


def test_the_old_key_ends_a_week_after_the_device_has_another_also_where_that_is_not_used(world: World) -> None:
    """The line breaks before the second registration, and the device needs no account for a long time."""

    def cut(round_trip: int, _: str) -> None:
        if round_trip > ROUND_TRIPS // 2:
            raise HttpsError("no route to host")

    def old_one_registers() -> bool:
        try:
            Registrar(cast("HttpsClient", world), "https://s/ssmp", DEVICE).register(SharedKey(KEY), "", b"")
        except SsmpRefused:
            return False
        return True

    world.now += 30 * 86_400.0
    world.want()
    world.now += 30 * 86_400.0  # it was away: the order is old when the key comes
    world.on_round_trip = cut
    with contextlib.suppress(SsmpError):
        world.register()
    world.on_round_trip = lambda _, __: None
    given_at = world.now
    assert not world.settled()
    world.now = given_at + renewals.OLD_KEY_S - 1.0
    assert old_one_registers()
    world.now = given_at + renewals.OLD_KEY_S
    world.start_server()
    assert not old_one_registers()
    assert world.register()
    assert world.settled()
    assert world.key() != KEY


def test_a_session_with_the_old_key_that_goes_over_its_end_brings_no_account(world: World) -> None:
    world.want()
    with world.engine.begin() as connection:
        renewals.stored(connection, DEVICE.device_id, bytes(32), now=world.now)
    world.now += renewals.OLD_KEY_S - 30.0

    def pass_it(round_trip: int, what: str) -> None:
        if (round_trip, what) == (ROUND_TRIPS // 2, "request"):  # CONFIRM
            world.now += 30.0

    world.on_round_trip = pass_it
    with pytest.raises(SsmpRefused):
        Registrar(cast("HttpsClient", world), "https://s/ssmp", DEVICE).register(SharedKey(KEY), "", b"")


def test_a_key_is_given_only_where_it_is_wanted_and_can_be_stored(world: World) -> None:
    world.register()
    assert (world.key(), world.round_trips) == (KEY, 3)
    world.want()
    Registrar(cast("HttpsClient", world), "https://s/ssmp", DEVICE).register(SharedKey(KEY), "", b"")
    assert world.key() == KEY
    assert not world.settled()  # it waits for a device that can


def test_it_can_be_done_again_and_again(world: World) -> None:
    seen = {KEY}
    for _ in range(3):
        world.want()
        world.register()
        assert world.settled()
        seen.add(world.key())
    assert len(seen) == 4


@pytest.mark.parametrize("which", ["request", "answer"])
@pytest.mark.parametrize("lost", range(1, ROUND_TRIPS + 1))
def test_a_line_that_breaks_anywhere_locks_nobody_out(world: World, lost: int, which: str) -> None:
    def lose(number: int, passing: str) -> None:
        if (number, passing) == (lost, which):
            raise HttpsError("gone")

    world.want()
    world.on_round_trip = lose
    if lost <= 3 or lost == ROUND_TRIPS:  # of the last one it is not known which registration counts
        with pytest.raises(SsmpError, match="gone") as caught:
            world.register()
        assert isinstance(caught.value, SsmpUnsettledError) is (lost in (3, ROUND_TRIPS))
    else:
        assert world.register()  # the first registration counts; the new key waits
    assert world.register()
    assert world.settled()
    assert world.key() != KEY


@pytest.mark.slow
def test_the_power_may_go_at_any_operation_and_any_round_trip(tmp_path: Path) -> None:
    """Each operation of the disk, with what was not synced lost, kept or in parts, and each moment of the line. Every
    second time the head-end is started again as well; what it commits is one transaction."""
    cuts = 0
    fates = (Survival.LOST, Survival.KEPT, Survival.HOLED)
    for survival in fates:
        for at in range(200):
            (tmp_path / f"{survival.name}{at}").mkdir()
            world = World(tmp_path / f"{survival.name}{at}")
            world.store()
            world.want()
            was_cut = cut(world, at, survival)
            if at % 2:
                world.start_server()
            for _ in range(2):  # a device tries again; a registration that was under way may end first
                world.register()
            assert world.settled(), (survival, at)
            world.engine.dispose()
            if not was_cut:
                break
            cuts += 1
    assert cuts > len(fates) * 2 * ROUND_TRIPS


def cut(world: World, at: int, survival: Survival) -> bool:
    """Register until event `at`, an operation of the disk or a moment of the line; returns whether there was one."""
    events = iter(range(10_000))

    def happens(*_: object) -> None:
        if next(events) == at:
            raise PowerCut

    def on_operation(_: Operation) -> None:
        happens()

    world.disk.on_operation = on_operation
    world.on_round_trip = happens
    try:
        world.register()
    except PowerCut:
        world.disk = world.disk.after_power_cut(survival, random.Random(at))
        return True
    finally:
        world.disk.on_operation = None
        world.on_round_trip = lambda _, __: None
    return False


def test_a_head_end_that_lost_the_new_key_takes_the_old_one(world: World) -> None:
    """Its database was put back."""
    store = world.store()
    store.offer(bytes(32))
    assert len(world.store().candidates()) == 2
    assert world.register()
    assert world.settled()
    assert world.key() == KEY


def test_a_device_that_is_refused_keeps_both_keys(world: World) -> None:
    world.store().offer(bytes(32))
    with world.engine.begin() as connection:
        devices.set_enabled(connection, DEVICE.device_id, False, 2.0)
    with pytest.raises(SsmpRefused):
        world.register()
    assert len(world.store().candidates()) == 2


def test_a_key_that_cannot_be_stored_is_not_taken_by_the_head_end_either(world: World) -> None:
    def full(operation: Operation) -> None:
        raise OSError(28, "No space left on device")

    store = world.store()
    world.want()
    world.disk.on_operation = full
    with pytest.raises(SsmpError, match="cannot be stored"):
        world.register(store)
    world.disk.on_operation = None
    with world.engine.begin() as connection:
        assert renewals.given(connection, DEVICE.device_id) == b""
    world.register(store)
    assert world.settled()


def test_another_key_file_ends_what_came_after_the_one_before(world: World) -> None:
    world.store().offer(bytes(32))
    assert [key.same(bytes(32)) for key in world.store().candidates()] == [True, False]
    (only,) = world.store(bytes(range(1, 33))).candidates()
    assert only.same(bytes(range(1, 33)))


def test_stored_keys_that_are_none_count_as_none(world: World) -> None:
    store = world.store()
    store.offer(bytes(32))
    for value in ("zz", "00" * 31, 5, None):
        document = {**store._file.load(), "next": value}
        store._file.save(document)
        assert len(world.store().candidates()) == 1
