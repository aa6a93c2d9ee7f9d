"""The key store: durable, readable by nobody else, and no counter twice, wherever the power is cut."""

from __future__ import annotations

import contextlib
import itertools
import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from agent.metering.access.keystore import (
    BLOCK,
    LOST_FLOOR,
    PROVEN_FLUSH_S,
    RESERVE_MIN,
    SEEN_FLUSH_S,
    SENT_MAX,
    TOLD_MAX,
    TRY_EVERY_S,
    KeyStore,
    KeyStoreError,
)
from agent.settings.provisioning import MeterAccess
from dlms.errors import LocalError
from dlms.security.settings import COUNTER_MAX
from tests.sim.faulty_disk import FaultyDisk, Operation, PowerCut, Survival
from updateagent.disk import RealDisk

FOLDER = Path("/keys")
KEY, OTHER = bytes(range(16)), bytes(range(16, 32))
OLD, NEW = MeterAccess(1, "low", b"old-password"), MeterAccess(1, "low", b"new-password")


def drawn(count: int) -> bytes:
    return b"title"[:count]


def cut_at(number: int, disk: FaultyDisk, part: float) -> None:
    def plan(operation: Operation) -> float | None:
        return part if operation.number == number else None

    disk.on_operation = plan


# --- what is kept ---


def test_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    store = KeyStore(RealDisk(), tmp_path / "keys")
    store.set_provisioned({"default": {"secret": b"hush-hush"}})
    store.counters(KEY, "m").note(5)
    store.flush()
    files = list((tmp_path / "keys").iterdir())
    assert len(files) >= 2
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def test_secrets_and_what_works_survive_a_restart() -> None:
    disk = FaultyDisk()
    store = KeyStore(disk, FOLDER, drawn)
    store.set_provisioned({"meter/a": {"encryption_key": KEY}, "empty": {}})
    store.prove("a", OLD, durable=True)
    again = KeyStore(disk, FOLDER)
    assert again.provisioned() == {"meter/a": {"encryption_key": KEY}}
    assert again.proven("a") == OLD
    assert again.proven("b") is None
    assert again.system_title() == store.system_title() == b"DCUtitle"


def test_nothing_shows_a_secret() -> None:
    store = KeyStore(FaultyDisk(), FOLDER)
    store.set_provisioned({"default": {"secret": b"hush-hush", "encryption_key": KEY}})
    access = MeterAccess(1, "gmac", b"hush-hush", 0, "both", KEY, OTHER, KEY, KEY)
    for shown in (repr(store), repr(access), repr(store.counters(KEY, "m"))):
        assert "hush" not in shown
        assert KEY.hex() not in shown
        assert repr(KEY) not in shown


def test_an_access_that_many_meters_have_is_stored_once() -> None:
    disk = FaultyDisk()
    store = KeyStore(disk, FOLDER)
    for number in range(500):
        store.prove(f"plc0/{number}", OLD, durable=False)
    store.flush()
    newest = max(disk.read_bytes(FOLDER / name) for name in disk.listdir(FOLDER) if name.startswith("keys"))
    assert newest.count(b"old-password".hex().encode()) == 1


# --- counters ---


def test_counters_of_one_key_are_shared_by_its_meters_and_those_of_another_key_are_not() -> None:
    store = KeyStore(FaultyDisk(), FOLDER)
    one, two, other = store.counters(KEY, "a"), store.counters(KEY, "b"), store.counters(OTHER, "a")
    assert [one.next(), two.next(), one.next(), other.next()] == [0, 1, 2, 0]
    one.note(17)
    assert (one.seen(), two.seen(), other.seen()) == (17, None, None)


def test_a_write_reserves_values_for_every_key() -> None:
    disk = FaultyDisk()
    store = KeyStore(disk, FOLDER)
    counters = [store.counters(bytes((number,)) * 16, "m") for number in range(50)]
    before = disk.operations
    for _ in range(RESERVE_MIN):
        for one in counters:
            one.next()
    assert disk.operations == before


def test_a_session_finds_values_reserved() -> None:
    disk = FaultyDisk()
    store = KeyStore(disk, FOLDER)
    for _ in range(7):
        counters = store.counters(KEY, "m")
        before = disk.operations
        for _ in range(RESERVE_MIN):
            counters.next()
        assert disk.operations == before


def test_the_last_counter_is_the_last() -> None:
    disk = FaultyDisk()
    KeyStore(disk, FOLDER, drawn).counters(KEY, "m")
    edit(disk, lambda document: document["bounds"].update(dict.fromkeys(document["bounds"], COUNTER_MAX)))
    counters = KeyStore(disk, FOLDER).counters(KEY, "m")
    assert counters.next() == COUNTER_MAX
    with pytest.raises(LocalError, match="used up"):
        counters.next()
    with pytest.raises(LocalError, match="used up"):
        KeyStore(disk, FOLDER).counters(KEY, "m").next()


def edit(disk: FaultyDisk, change: object) -> None:
    from agent.tree.persistence import TwoGenerations

    files = TwoGenerations(disk, FOLDER, "keys")
    document = json.loads(files.load() or b"")
    change(document)  # type: ignore[operator]
    files.save(json.dumps(document).encode())


@pytest.mark.parametrize("survival", Survival)
@pytest.mark.slow
def test_no_counter_comes_twice_wherever_the_power_is_cut(survival: Survival) -> None:
    """Lives of a process that each end by a cut at another operation, or at none, one after another on one disk."""
    random = Random(7)
    for first in range(1, 30):
        disk = FaultyDisk()
        used: dict[tuple[bytes, bytes], set[int]] = {}
        for life in range(4):
            cut_at(disk.operations + first + 3 * life, disk, random.random())
            with contextlib.suppress(PowerCut):
                live(disk, used)
            disk = disk.after_power_cut(survival, random)


def live(disk: FaultyDisk, used: dict[tuple[bytes, bytes], set[int]]) -> None:
    store = KeyStore(disk, FOLDER)
    title = store.system_title()
    for turn in range(5):
        for key in (KEY, OTHER):
            counters = store.counters(key, "m")
            for _ in range(BLOCK // 2 + 7 * turn):
                value = counters.next()
                assert value not in used.setdefault((title, key), set()), (title, key, value)
                used[title, key].add(value)
        store.prove("m", (OLD, NEW)[turn % 2], durable=True)


def test_the_enumeration_finds_a_store_that_reserves_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: values are given out although the write of their bound failed to come first."""
    reserve = KeyStore._reserve

    def late(store: KeyStore) -> None:
        for name in store._bounds:
            store._bounds[name] += BLOCK

    monkeypatch.setattr(KeyStore, "_reserve", late)
    with pytest.raises(AssertionError):
        test_no_counter_comes_twice_wherever_the_power_is_cut(Survival.LOST)
    monkeypatch.setattr(KeyStore, "_reserve", reserve)


@pytest.mark.parametrize("survival", Survival)
def test_a_power_cut_during_a_change_of_keys_leaves_the_old_or_the_new_ones(survival: Survival) -> None:
    for number in itertools.count(1):
        disk = FaultyDisk()
        store = KeyStore(disk, FOLDER)
        store.prove("m", OLD, durable=True)
        start = disk.operations
        cut_at(start + number, disk, 0.5)
        try:
            store.prove("m", NEW, durable=True)
        except PowerCut:
            disk = disk.after_power_cut(survival, Random(number))
            assert KeyStore(disk, FOLDER).proven("m") in (OLD, NEW)
            continue
        disk = disk.after_power_cut(survival, Random(number))
        assert KeyStore(disk, FOLDER).proven("m") == NEW
        break
    assert number > 3


# --- damage ---


def damage(disk: FaultyDisk, *names: str) -> None:
    for name in names:
        content = disk.read_bytes(FOLDER / name)
        disk.write_durable(FOLDER / name, content[:-3] + b"???")


def newest(disk: FaultyDisk) -> str:
    held = {name: int(disk.read_bytes(FOLDER / name).split(b" ")[3]) for name in ("keys.0", "keys.1")}
    return max(held, key=lambda name: held[name])


def test_a_damaged_newest_file_costs_one_change_and_no_counter_comes_twice() -> None:
    disk = FaultyDisk()
    store = KeyStore(disk, FOLDER)
    store.prove("m", OLD, durable=True)
    counters = store.counters(KEY, "m")
    used = {counters.next() for _ in range(5 * BLOCK + 1)}
    damage(disk, newest(disk))
    again = KeyStore(disk, FOLDER)
    assert again.system_title() == store.system_title()
    assert again.proven("m") == OLD
    assert again.counters(KEY, "m").next() > max(used)


def test_a_new_key_whose_file_was_lost_begins_behind_its_counters() -> None:
    disk = FaultyDisk()
    store = KeyStore(disk, FOLDER)
    store.prove("m", OLD, durable=True)
    counters = store.counters(KEY, "m")
    used = {counters.next() for _ in range(BLOCK // 2)}
    damage(disk, newest(disk))
    assert KeyStore(disk, FOLDER).counters(KEY, "m").next() > max(used)


def test_when_everything_is_lost_nonces_are_new_by_a_new_title_and_counters_are_high() -> None:
    disk = FaultyDisk()
    store = KeyStore(disk, FOLDER)
    store.counters(KEY, "m").next()
    store.prove("m", OLD, durable=True)
    damage(disk, "keys.0", "keys.1")
    again = KeyStore(disk, FOLDER)
    assert again.system_title() != store.system_title()
    assert again.counters(KEY, "m").next() == LOST_FLOOR
    assert again.proven("m") is None


def test_files_of_a_newer_version_are_left_alone() -> None:
    disk = FaultyDisk()
    KeyStore(disk, FOLDER).system_title()
    edit(disk, lambda document: document.update(version=2))
    before = {name: disk.read_bytes(FOLDER / name) for name in disk.listdir(FOLDER)}
    store = KeyStore(disk, FOLDER)
    for use in (store.system_title, store.provisioned, lambda: store.counters(KEY, "m")):
        with pytest.raises(KeyStoreError, match="newer version"):
            use()
    store.flush()
    assert {name: disk.read_bytes(FOLDER / name) for name in disk.listdir(FOLDER)} == before


def test_a_disk_that_fails_gives_no_counter_and_what_was_known_stands() -> None:
    disk = FaultyDisk()
    store = KeyStore(disk, FOLDER)
    store.set_provisioned({"default": {"secret": b"one"}})
    store.prove("m", OLD, durable=True)
    counters = store.counters(KEY, "m")
    used = [counters.next() for _ in range(BLOCK)]

    def full(operation: Operation) -> float | None:
        raise OSError(28, "no space left on device")

    disk.on_operation = full
    for change in (
        counters.next,
        lambda: store.set_provisioned({"default": {"secret": b"two"}}),
        lambda: store.prove("m", NEW, durable=True),
        lambda: store.note_sent("m", NEW),
    ):
        with pytest.raises(KeyStoreError, match="no space left"):
            change()
    assert (store.proven("m"), store.sent("m")) == (OLD, ())
    assert store.provisioned() == {"default": {"secret": b"one"}}
    disk.on_operation = None
    assert counters.next() == max(used) + 1


# --- the meter's counters ---


def test_the_meter_s_counters_are_written_within_their_time_and_at_the_end() -> None:
    disk = FaultyDisk()
    store = KeyStore(disk, FOLDER)
    store.counters(KEY, "m").note(41)
    store.tick(100.0)
    assert KeyStore(disk, FOLDER).counters(KEY, "m").seen() is None
    store.tick(100.0 + SEEN_FLUSH_S)
    assert KeyStore(disk, FOLDER).counters(KEY, "m").seen() == 41
    store.counters(KEY, "m").note(42)
    store.flush()
    assert KeyStore(disk, FOLDER).counters(KEY, "m").seen() == 42


def test_what_works_the_first_time_is_written_soon() -> None:
    disk = FaultyDisk()
    store = KeyStore(disk, FOLDER)
    store.counters(KEY, "m").note(41)
    store.tick(100.0)
    store.prove("m", OLD, durable=False)
    store.tick(101.0)
    assert KeyStore(disk, FOLDER).proven("m") is None
    store.tick(101.0 + PROVEN_FLUSH_S)
    assert KeyStore(disk, FOLDER).proven("m") == OLD


def test_a_change_of_what_is_provisioned_takes_what_works_along() -> None:
    disk = FaultyDisk()
    store = KeyStore(disk, FOLDER)
    store.prove("m", OLD, durable=False)
    store.set_provisioned({"default": {"secret": NEW.secret}})
    assert KeyStore(disk, FOLDER).proven("m") == OLD


def test_a_meter_that_is_forgotten_may_begin_anew_and_our_counters_go_on() -> None:
    disk = FaultyDisk()
    store = KeyStore(disk, FOLDER)
    counters = store.counters(KEY, "m")
    counters.note(9)
    first = counters.next()
    store.prove("m", OLD, durable=True)
    store.forget(["m"])
    store.flush()
    again = KeyStore(disk, FOLDER)
    assert again.proven("m") is None
    assert again.counters(KEY, "m").seen() is None
    assert again.counters(KEY, "m").next() > first


def test_what_a_meter_may_have_been_given_survives_a_restart_is_bounded_and_ends_with_what_works() -> None:
    disk = FaultyDisk()
    store = KeyStore(disk, FOLDER)
    for number in range(SENT_MAX + 1):
        store.note_sent("m", replace(OLD, secret=bytes((number,) * 16)))
    again = KeyStore(disk, FOLDER)
    assert [one.secret[0] for one in again.sent("m")] == [4, 3, 2, 1]
    again.prove("m", OLD, durable=True)
    again.settle_sent("m")
    again.forget(["m"])
    again.flush()
    assert KeyStore(disk, FOLDER).sent("m") == (OLD,), "it may have them still"


def test_keys_that_are_forgotten_for_room_never_repeat_a_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.metering.access.keystore.KEYS_MAX", 3)
    store = KeyStore(FaultyDisk(), FOLDER)
    counters = store.counters(KEY, "m")
    used = {counters.next() for _ in range(BLOCK)}
    for number in range(5):
        store.counters(bytes((number,)) * 16, "m").next()
    assert store.counters(KEY, "m").next() > max(used)
    assert counters.next() > max(used)


def test_counters_go_ahead_of_what_a_meter_has_seen_and_never_back() -> None:
    disk = FaultyDisk()
    store = KeyStore(disk, FOLDER)
    counters = store.counters(KEY, "m")
    assert counters.next() == 0
    assert store.counters_behind(KEY, 0) is None  # the one that we used last
    assert store.counters_behind(KEY, 5000) == 1
    assert KeyStore(disk, FOLDER).counters(KEY, "m").next() > 5000 + BLOCK
    assert counters.next() == 5000 + BLOCK
    assert store.counters_behind(KEY, 4000) is None
    assert store.counters_behind(KEY, TOLD_MAX) is None
    assert counters.next() == 5000 + BLOCK + 1


def test_a_disk_that_fails_while_counters_go_ahead_repeats_none() -> None:
    disk = FaultyDisk()
    store = KeyStore(disk, FOLDER)
    counters = store.counters(KEY, "m")
    used = counters.next()

    def full(operation: Operation) -> float | None:
        raise OSError(28, "no space left on device")

    disk.on_operation = full
    with pytest.raises(KeyStoreError, match="no space left"):
        store.counters_behind(KEY, 5000)
    with pytest.raises(KeyStoreError, match="no space left"):
        counters.next()
    disk.on_operation = None
    assert KeyStore(disk, FOLDER).counters(KEY, "m").next() > used
    assert counters.next() > 5000


# --- what health says of it ---


def failing(_: Operation) -> float | None:
    raise OSError(30, "read-only file system")


def test_files_that_cannot_be_written_are_known_before_a_key_is_needed_and_tried_until_they_can() -> None:
    disk = FaultyDisk()
    KeyStore(disk, FOLDER).set_provisioned({"default": {"secret": b"one"}})
    store = KeyStore(disk, FOLDER)
    assert store.provisioned() == {"default": {"secret": b"one"}}
    tries: list[object] = []

    def read_only(operation: Operation) -> float | None:
        tries.append(operation)
        return failing(operation)

    disk.on_operation = read_only
    store.tick(0.0)
    assert "the keys' files cannot be written" in store.problem
    assert "read-only file system" in store.problem
    before = len(tries)
    store.tick(TRY_EVERY_S - 1)
    assert len(tries) == before
    disk.on_operation = None
    store.tick(TRY_EVERY_S)
    assert store.problem == ""
    assert store.provisioned() == {"default": {"secret": b"one"}}


def test_a_write_that_fails_later_is_a_problem_until_one_succeeds() -> None:
    disk = FaultyDisk()
    store = KeyStore(disk, FOLDER)
    store.tick(0.0)
    disk.on_operation = failing
    store.note_title("m", b"12345678")
    store.tick(1.0)
    store.tick(1.0 + PROVEN_FLUSH_S)
    assert "cannot be written" in store.problem
    disk.on_operation = None
    store.tick(2 * TRY_EVERY_S)
    assert store.problem == ""


@pytest.mark.parametrize(
    ("damaged", "text"), [(("keys.0", "keys.1"), "keys of the meters are lost"), (("keys.1",), "last change is lost")]
)
def test_damage_is_a_problem_until_secrets_are_provisioned_again(damaged: tuple[str, ...], text: str) -> None:
    disk = FaultyDisk()
    before = KeyStore(disk, FOLDER)
    before.set_provisioned({"default": {"secret": b"one"}})
    assert before.problem == ""
    newest = max(("keys.0", "keys.1"), key=lambda name: disk.read_bytes(FOLDER / name).split()[3])
    damage(disk, *(damaged if len(damaged) > 1 else (newest,)))
    store = KeyStore(disk, FOLDER)
    store.tick(0.0)
    assert text in store.problem
    store.set_provisioned({"default": {"secret": b"two"}})
    assert store.problem == ""


def test_files_of_a_newer_version_are_a_problem() -> None:
    disk = FaultyDisk()
    KeyStore(disk, FOLDER).system_title()
    edit(disk, lambda document: document.update(version=2))
    store = KeyStore(disk, FOLDER)
    store.tick(0.0)
    assert "newer version" in store.problem
