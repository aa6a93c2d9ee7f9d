"""A new device key without a visit: whatever breaks off, and wherever the power goes, the device gets in again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.https import HttpsError
from agent.ssmp.key_store import KeyStore
from headend.security import devices, renewals
from omadm.ssmp.errors import SsmpError, SsmpRefused
from omadm.ssmp.identity import SharedKey
from tests.agent.ssmp.renewing import FOLDER, ID, ROUND_TRIPS, Renewing, again_and_again, line_breaks, power_goes
from tests.sim.faulty_disk import Operation

KEY = bytes(range(32))


class World(Renewing):
    """A device with a shared key."""

    first = KEY

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 1000.0)
        with self.engine.begin() as connection:
            devices.enrol(connection, ID, KEY, 1.0)

    def want(self) -> None:
        with self.engine.begin() as connection:
            renewals.want(connection, ID, self.now)

    def store(self, factory: bytes = KEY) -> KeyStore:
        return KeyStore(self.disk, FOLDER, factory)

    def secret(self) -> bytes:
        """The key that the head-end has."""
        with self.engine.begin() as connection:
            found = devices.find(connection, ID)
        assert found is not None
        return found.key

    def settled(self) -> bool:
        """Whether both ends have one key, the same, and the renewal is over."""
        keys = self.store().candidates()
        with self.engine.begin() as connection:
            wanted = renewals.is_wanted(connection, ID)
        return len(keys) == 1 and keys[0].same(self.secret()) and not wanted


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
    assert world.secret() != KEY
    with pytest.raises(SsmpRefused):  # the old one is dead, also in the hands of a thief
        world.registrar().register(SharedKey(KEY), "", b"")
    assert world.register()  # with the new one, after a start
    assert world.settled()


def test_the_old_key_ends_a_week_after_the_device_has_another_also_where_that_is_not_used(world: World) -> None:
    """The line breaks before the second registration, and the device needs no account for a long time."""

    def cut(round_trip: int, _: str) -> None:
        if round_trip > ROUND_TRIPS // 2:
            raise HttpsError("no route to host")

    def old_one_registers() -> bool:
        try:
            world.registrar().register(SharedKey(KEY), "", b"")
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
    assert world.secret() != KEY


def test_a_session_with_the_old_key_that_goes_over_its_end_brings_no_account(world: World) -> None:
    world.want()
    with world.engine.begin() as connection:
        renewals.stored(connection, ID, bytes(32), now=world.now)
    world.now += renewals.OLD_KEY_S - 30.0

    def pass_it(round_trip: int, what: str) -> None:
        if (round_trip, what) == (ROUND_TRIPS // 2, "request"):  # CONFIRM
            world.now += 30.0

    world.on_round_trip = pass_it
    with pytest.raises(SsmpRefused):
        world.registrar().register(SharedKey(KEY), "", b"")


def test_a_key_is_given_only_where_it_is_wanted_and_can_be_stored(world: World) -> None:
    world.register()
    assert (world.secret(), world.round_trips) == (KEY, 3)
    world.want()
    world.registrar().register(SharedKey(KEY), "", b"")
    assert world.secret() == KEY
    assert not world.settled()  # it waits for a device that can


def test_it_can_be_done_again_and_again(world: World) -> None:
    again_and_again(world)


@pytest.mark.parametrize("which", ["request", "answer"])
@pytest.mark.parametrize("lost", range(1, ROUND_TRIPS + 1))
def test_a_line_that_breaks_anywhere_locks_nobody_out(world: World, lost: int, which: str) -> None:
    line_breaks(world, lost, which)


@pytest.mark.slow
def test_the_power_may_go_at_any_operation_and_any_round_trip(tmp_path: Path) -> None:
    power_goes(World, tmp_path)


def test_a_head_end_that_lost_the_new_key_takes_the_old_one(world: World) -> None:
    """Its database was put back."""
    store = world.store()
    store.offer(bytes(32))
    assert len(world.store().candidates()) == 2
    assert world.register()
    assert world.settled()
    assert world.secret() == KEY


def test_a_device_that_is_refused_keeps_both_keys(world: World) -> None:
    world.store().offer(bytes(32))
    with world.engine.begin() as connection:
        devices.set_enabled(connection, ID, False, 2.0)
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
        assert renewals.given(connection, ID) == b""
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
