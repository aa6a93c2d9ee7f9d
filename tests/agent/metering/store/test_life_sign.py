"""Ids are used once, whatever becomes of the store's log; and the sign of life survives what it has to survive."""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import pytest

from agent.metering.store import life_sign
from agent.metering.store.life_sign import WAITING_MAX, LifeSign, LifeSignFile, Look, WaitingReports
from agent.metering.store.reading_store import Progress, Store
from tests.agent.metering.readings import visit
from tests.agent.virtual import VirtualClock
from tests.sim.faulty_disk import FaultyDisk, Operation, Survival
from updateagent.disk import RawFile, RealDisk

NAME = "readings.db"
VISITS, RECORDS = 3, 3
FRAME_HEADER, WAL_HEADER, PAGE = 24, 32, 512

Headend = dict[tuple[str, int], object]


def opened(folder: Path, clock: VirtualClock) -> Store:
    return Store(folder / NAME, clock, records_max=10_000, keep_forwarded_max=100)


def collect(store: Store, number: int) -> None:
    """One visit, with values that no other visit has."""
    store.append(visit(number * RECORDS, RECORDS), [Progress("m1", "t1", number)])


def deliver(store: Store, headend: Headend) -> None:
    """Send everything, as the head-end keeps it: what it knows by (store, id) it does not look at again."""
    while (batch := store.batch(100)) is not None:
        for record in batch.records:
            known = headend.setdefault((batch.store, int(str(record["id"]))), record["raw"])
            assert known == record["raw"], "a new reading under an id that was used before"
        store.release(batch.store, batch.last, first=batch.first)


def lived(folder: Path, delivered: int) -> Headend:
    """A store that took some visits, of which the first ones were delivered, each at once, and lost its power."""
    folder.mkdir()
    clock, headend = VirtualClock(), Headend()
    store = opened(folder, clock)
    for number in range(1, VISITS + 1):
        clock.advance(900.0)
        collect(store, number)
        if number <= delivered:
            deliver(store, headend)
    at_the_cut = folder.with_name(folder.name + "-cut")
    shutil.copytree(folder, at_the_cut)
    store.close()  # moves the log into the file, in the copy that nobody uses
    shutil.rmtree(folder)
    at_the_cut.rename(folder)
    return headend


def damages(log: bytes) -> Iterator[tuple[str, bytes]]:
    """The log, damaged at every frame, cut before every frame, without its header, and gone."""
    for at in range(WAL_HEADER, len(log), FRAME_HEADER + PAGE):
        spoiled = bytearray(log)
        spoiled[at + FRAME_HEADER + 100] ^= 0x40
        yield f"damaged at {at}", bytes(spoiled)
        yield f"cut at {at}", log[:at]
    yield "without header", bytes(WAL_HEADER) + log[WAL_HEADER:]
    yield "gone", b""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("delivered", range(VISITS + 1))
def test_no_damage_of_the_log_has_an_id_used_twice_or_loses_a_visit_in_silence(tmp_path: Path, delivered: int) -> None:
    before = lived(tmp_path / "s", delivered)
    log = (tmp_path / "s" / f"{NAME}-wal").read_bytes()
    rolled_back = 0
    for number, (what, damaged) in enumerate(damages(log)):
        folder = tmp_path / f"case-{number}"
        shutil.copytree(tmp_path / "s", folder)
        (folder / f"{NAME}-wal").write_bytes(damaged)
        headend = dict(before)
        clock = VirtualClock(wall=VirtualClock().wall() + 900.0 * (VISITS + 1))
        store = opened(folder, clock)
        done = store.progress().get(("m1", "t1"), 0)
        for fresh in range(VISITS + 1, VISITS + 3):
            collect(store, fresh)
        deliver(store, headend)  # and asserts that no id is used for the second time
        raws = list(headend.values())
        assert len(set(map(str, raws))) == len(raws), f"{what}: one reading under two ids"
        for fresh in range(VISITS + 1, VISITS + 3):
            assert all(reading.raw in raws for reading in visit(fresh * RECORDS, RECORDS)), what
        losses = store.losses()
        rolled_back += bool(losses)
        for earlier in range(1, VISITS + 1):
            there = all(reading.raw in raws for reading in visit(earlier * RECORDS, RECORDS))
            made = VirtualClock().wall() + 900.0 * earlier
            said = any(loss.since <= made <= loss.until for loss in losses)
            assert there or said or done < earlier, f"{what}: visit {earlier} is lost, and nobody says so"
        if all(key in headend for key in before) and done >= VISITS:
            assert not losses, f"{what}: nothing was lost"
        store.close()
        shutil.rmtree(folder)
    assert bool(rolled_back) == (delivered > 0)


def test_a_whole_log_is_no_loss(tmp_path: Path) -> None:
    headend = lived(tmp_path / "s", 3)
    store = opened(tmp_path / "s", VirtualClock())
    uuid = store.stats().uuid
    deliver(store, headend)
    assert len(headend) == VISITS * RECORDS
    assert {of_store for of_store, _ in headend} == {uuid}
    assert (store.losses(), store.stats().lost) == ([], 0)


def test_an_older_copy_of_the_store_is_no_store_to_go_on_with(tmp_path: Path) -> None:
    clock, headend = VirtualClock(), Headend()
    store = opened(tmp_path, clock)
    collect(store, 1)
    deliver(store, headend)
    store.close()
    older = (tmp_path / NAME).read_bytes()
    store = opened(tmp_path, clock)
    collect(store, 2)
    deliver(store, headend)
    uuid = store.stats().uuid
    store.close()
    (tmp_path / NAME).write_bytes(older)  # as somebody restores a backup
    store = opened(tmp_path, clock)
    collect(store, 3)
    assert store.stats().uuid != uuid
    deliver(store, headend)
    assert len(headend) == 3 * RECORDS


# --- the file ---

SIGN = LifeSign(5, "ab" * 16, 900, 880, 1_800_000_000.25, 1_800_000_300.5)


def test_a_sign_comes_back_as_it_was_written(tmp_path: Path) -> None:
    file = LifeSignFile(tmp_path / "a")
    assert file.read() is None
    for number in range(6):
        file.write(LifeSign(number, SIGN.store, number * 10**number))
        assert LifeSignFile(tmp_path / "a").read() == LifeSign(number, SIGN.store, number * 10**number)
    file.write(SIGN)  # a shorter line than the one that was there
    assert file.read() == LifeSign.parse(SIGN.emit()) == SIGN


def test_two_generations_lie_on_pages_of_their_own(tmp_path: Path) -> None:
    file = LifeSignFile(tmp_path / "a")
    signs = {number: LifeSign(number, SIGN.store, 10 * number) for number in range(4, 8)}
    for sign in signs.values():
        file.write(sign)
    octets = (tmp_path / "a").read_bytes()
    lines = [octets[at : at + 2048].rstrip(b"\0") for at in range(0, len(octets), 2048)]
    assert lines == [signs[number].emit() for number in (6, 6, 7, 7)]


def test_a_first_sign_says_nothing() -> None:
    assert LifeSign() == LifeSign(0, "", 0, 0, 0.0, 0.0, 0.0, 0, 0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("alive", "lists_from", "since"),
    [(0.0, 0.0, 0.0), (700.0, 0.0, 700.0), (0.0, 300.0, 300.0), (700.0, 300.0, 300.0), (300.0, 700.0, 300.0)],
)
def test_since_when_slots_may_be_listed_nowhere(alive: float, lists_from: float, since: float) -> None:
    sign = replace(SIGN, alive=alive, lists_from=lists_from)
    assert LifeSign.parse(sign.emit()) == sign
    assert sign.unlisted_since == since


def test_reports_of_gaps_count_until_they_are_delivered_and_the_oldest_time_of_them_all() -> None:
    waiting = WaitingReports()
    assert waiting.since(0, recovering=False) == 0.0
    waiting.add(10, 500.0)
    waiting.add(20, 700.0)
    assert [waiting.since(at, recovering=False) for at in (0, 9)] == [500.0, 500.0]
    assert waiting.since(25, recovering=True) == 500.0, "some of an earlier store may be of an earlier time still"
    assert [waiting.since(at, recovering=False) for at in (10, 19, 20)] == [700.0, 700.0, 0.0]
    waiting.add(30, 500.0)
    waiting.add(40, 500.0)
    waiting.add(50, 300.0)  # an earlier time is told later: after a correction of the clock
    assert [waiting.since(at, recovering=False) for at in (0, 49, 50)] == [300.0, 300.0, 0.0]


def test_times_of_reports_are_kept_apart_up_to_a_bound() -> None:
    waiting = WaitingReports()
    for number in range(1, WAITING_MAX + 11):
        waiting.add(number, 100.0 * number)
    assert waiting.since(WAITING_MAX - 1, recovering=False) == 100.0 * WAITING_MAX
    assert waiting.since(WAITING_MAX + 9, recovering=False) == 100.0 * WAITING_MAX, "earlier than it need be"
    assert waiting.since(WAITING_MAX + 10, recovering=False) == 0.0


@pytest.mark.parametrize(
    ("sign", "newest", "waits"),
    [
        (LifeSign(), 0, {0: 0.0}),
        (replace(SIGN, lists_from=0.0), SIGN.reached, {0: 0.0}),
        (replace(SIGN, lists_from=300.0), SIGN.reached, {SIGN.reached - 1: 300.0, SIGN.reached: 0.0}),
        # What was stored after the sign may be reports that needed no other one.
        (SIGN, SIGN.reached + 1, {SIGN.reached: SIGN.alive, SIGN.reached + 1: 0.0}),
        (replace(SIGN, store="cd" * 16), 0, {0: SIGN.alive, 1: 0.0}),
        (replace(SIGN, store="cd" * 16, lists_from=300.0), 7, {7: 300.0, 8: 0.0}),
    ],
)
def test_what_a_sign_says_holds_for_all_that_waits_at_a_start(
    sign: LifeSign, newest: int, waits: dict[int, float]
) -> None:
    waiting = WaitingReports()
    waiting.add(5000, 1.0)  # of a life before
    waiting.take_up(sign, SIGN.store, newest)
    assert {released: waiting.since(released, recovering=False) for released in waits} == waits


def test_a_sign_of_before_there_were_events_in_it_is_read() -> None:
    members = {"number": 5, "store": SIGN.store, "reached": 900, "released": 880, "delivered_to": 7.0, "alive": 8.0}
    text = json.dumps(members).encode()
    assert LifeSign.parse(b"%08x %s\n" % (zlib.crc32(text), text)) == LifeSign(5, SIGN.store, 900, 880, 7.0, 8.0)


@pytest.mark.parametrize(
    ("wall", "steady"),
    [(1000.0, 500.0), (1900.0, 500.0), (1900.5, 1000.0), (999.0, 500.0), (400.0, 400.0)],
)
def test_a_jump_of_more_than_a_quarter_of_an_hour_is_remembered(wall: float, steady: float) -> None:
    sign = replace(SIGN, alive=1000.0, steady=500.0)
    assert sign.alive_at(wall) == replace(SIGN, alive=wall, steady=steady)


def test_the_first_time_is_no_jump() -> None:
    assert LifeSign().alive_at(1_800_000_000.0) == LifeSign(alive=1_800_000_000.0)


def test_the_highest_id_that_there_can_be_is_one() -> None:
    sign = LifeSign(1, SIGN.store, 2**63 - 1)
    assert LifeSign.parse(sign.emit()) == sign
    assert LifeSign.parse(LifeSign(1, SIGN.store, 2**63).emit()) is None


def test_a_write_that_is_cut_anywhere_leaves_the_sign_before(tmp_path: Path) -> None:
    file = LifeSignFile(tmp_path / "a")
    file.write(LifeSign(4, "ab" * 16, 800))
    file.write(LifeSign(3, "ab" * 16, 700))
    octets = bytearray((tmp_path / "a").read_bytes())
    at = SIGN.number % life_sign.GENERATIONS * life_sign.GENERATION_BYTES
    for size in range(1, len(SIGN.emit()) - 1):
        torn = octets.copy()
        torn[at : at + size] = SIGN.emit()[:size]
        (tmp_path / "b").write_bytes(torn)
        assert LifeSignFile(tmp_path / "b").read() == LifeSign(4, "ab" * 16, 800)


def test_what_a_later_version_adds_is_passed_over_and_what_is_damaged_is_none() -> None:
    text = SIGN.emit()[9:].replace(b"{", b'{"more":[1],', 1).rstrip()
    assert LifeSign.parse(b"%08x %s\n" % (zlib.crc32(text), text)) == SIGN
    for at in range(len(SIGN.emit()) - 1):
        damaged = bytearray(SIGN.emit())
        damaged[at] ^= 0x01
        assert LifeSign.parse(bytes(damaged)) == (SIGN if at == 8 else None)  # the blank tells nothing
    assert LifeSign.parse(b"") is None
    assert LifeSign.parse(bytes(4096)) is None


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"NaN", b"9" * 400, b"9" * 5000])
@pytest.mark.parametrize("name", ["number", "reached", "released", "delivered_to", "alive", "lists_from"])
def test_a_number_that_is_none_makes_no_sign(name: str, number: bytes) -> None:
    members = asdict(SIGN) | {name: "here"}
    text = json.dumps(members).encode().replace(b'"here"', number)
    assert LifeSign.parse(b"%08x %s\n" % (zlib.crc32(text), text)) is None


FOLDER = Path("/state")
ALIVE = FOLDER / "readings.db-alive"


@pytest.fixture
def disk() -> FaultyDisk:
    made = FaultyDisk()
    made.mkdir(FOLDER, 0o755)
    made.sync_all()
    return made


def test_a_sign_is_durable_when_it_is_written(disk: FaultyDisk) -> None:
    file = LifeSignFile(ALIVE, disk)
    for number in range(1, 4):
        file.write(LifeSign(number, SIGN.store, 10 * number))
        found = disk.copy().after_power_cut(Survival.LOST, Random(1))
        assert LifeSignFile(ALIVE, found).read() == LifeSign(number, SIGN.store, 10 * number)


def failing(*faults: tuple[str, int]) -> Callable[[Operation], None]:
    """The next operation of each kind fails, with that number of an error."""
    left = list(faults)

    def plan(operation: Operation) -> None:
        for fault in left:
            if fault[0] == operation.kind:
                left.remove(fault)
                raise OSError(fault[1], "the medium")

    return plan


@pytest.mark.parametrize("kind", ["write", "sync"])
def test_a_write_that_fails_sets_the_file_aside_and_the_new_one_is_durable(disk: FaultyDisk, kind: str) -> None:
    file = LifeSignFile(ALIVE, disk)
    file.write(LifeSign(1, SIGN.store, 10))
    disk.on_operation = failing((kind, errno.EIO))
    file.write(LifeSign(2, SIGN.store, 20))
    disk.on_operation = None
    found = disk.after_power_cut(Survival.LOST, Random(1))
    assert LifeSignFile(ALIVE, found).read() == LifeSign(2, SIGN.store, 20)
    assert LifeSignFile(FOLDER / "readings.db-alive.bad", found).read() == LifeSign(1, SIGN.store, 10)


def test_a_write_that_fails_in_a_new_file_too_is_an_error(disk: FaultyDisk) -> None:
    disk.on_operation = failing(("write", errno.EIO), ("write", errno.EIO))
    with pytest.raises(OSError, match="the medium"):
        LifeSignFile(ALIVE, disk).write(SIGN)


def test_a_file_that_cannot_be_set_aside_is_not_written_again(disk: FaultyDisk) -> None:
    file = LifeSignFile(ALIVE, disk)
    file.write(LifeSign(1, SIGN.store, 10))
    disk.on_operation = failing(("write", errno.EIO), ("rename", errno.EACCES))
    with pytest.raises(OSError, match="the medium") as caught:
        file.write(LifeSign(2, SIGN.store, 20))
    assert caught.value.errno == errno.EIO
    assert file.read() == LifeSign(1, SIGN.store, 10)


def test_a_file_that_is_closed_is_opened_anew(disk: FaultyDisk) -> None:
    file = LifeSignFile(ALIVE, disk)
    file.close()
    file.write(LifeSign(1, SIGN.store, 10))
    file.close()
    disk.unlink(ALIVE)
    file.write(LifeSign(2, SIGN.store, 20))
    assert file.read() == LifeSign(2, SIGN.store, 20)


def test_a_file_that_somebody_removed_is_made_anew(disk: FaultyDisk) -> None:
    file = LifeSignFile(ALIVE, disk)
    file.write(LifeSign(1, SIGN.store, 10))
    disk.unlink(ALIVE)
    file.write(LifeSign(2, SIGN.store, 20))
    assert LifeSignFile(ALIVE, disk).read() == LifeSign(2, SIGN.store, 20)


def test_a_closed_file_holds_no_handle(tmp_path: Path) -> None:
    file = LifeSignFile(tmp_path / "a")
    file.write(SIGN)
    assert tmp_path / "a" in open_files()
    file.close()
    assert tmp_path / "a" not in open_files()


def open_files() -> list[Path]:
    return [Path(os.path.realpath(each)) for each in Path("/proc/self/fd").iterdir()]


def test_what_the_file_says_and_whether_it_may_have_said_more(disk: FaultyDisk) -> None:
    file = LifeSignFile(ALIVE, disk)
    assert file.look() == Look(None, doubtful=False)
    older, newer = LifeSign(2, SIGN.store, 20), LifeSign(3, SIGN.store, 30)
    file.write(older)
    assert file.look() == Look(older, doubtful=False)
    file.write(newer)
    with disk.open_raw(ALIVE, write=True) as raw:
        raw.pwrite(b"rotten", 4096)
        assert file.look() == Look(newer, doubtful=False)  # one line of two is enough
        raw.pwrite(b"rotten", 4096 + 2048)
        assert file.look() == Look(older, doubtful=True)
        raw.pwrite(bytes(512), 4096)
        raw.pwrite(bytes(512), 4096 + 2048)
        assert file.look() == Look(older, doubtful=False)


def test_what_cannot_be_read_is_doubtful_and_what_says_nothing_of_the_file_is_an_error(tmp_path: Path) -> None:
    file = LifeSignFile(tmp_path / "a", BadFile(errno.EIO))
    assert file.look() == Look(None, doubtful=True)
    file.copy(tmp_path / "kept")
    assert LifeSignFile(tmp_path / "kept").look() == Look(None, doubtful=True)
    with pytest.raises(OSError, match="the medium"):
        LifeSignFile(tmp_path / "a", BadFile(errno.EMFILE)).look()


def test_a_copy_holds_the_present_sign_where_there_is_one(disk: FaultyDisk) -> None:
    file, copy = LifeSignFile(ALIVE, disk), FOLDER / "kept"
    file.copy(copy)
    assert not disk.exists(copy)
    file.write(SIGN)
    file.copy(copy)
    found = disk.after_power_cut(Survival.LOST, Random(1))
    assert LifeSignFile(copy, found).read() == SIGN


class BadFile(RealDisk):
    """A medium that has lost the blocks under one file: neither read nor written, and renamed all the same."""

    def __init__(self, error: int) -> None:
        self.error, self.bad = error, True

    def open_raw(self, path: Path, *, write: bool = False, create: bool = False, mode: int = 0o600) -> RawFile:
        if self.bad and not create:
            raise OSError(self.error, "the medium")
        return super().open_raw(path, write=write, create=create, mode=mode)

    def rename(self, src: Path, dst: Path) -> None:
        super().rename(src, dst)
        self.bad = False


def test_a_sign_that_the_medium_does_not_take_is_set_aside_and_another_one_made(tmp_path: Path) -> None:
    file = tmp_path / "readings.db-alive"
    file.write_bytes(b"rotten")
    signs = LifeSignFile(file, BadFile(errno.EIO))
    assert signs.read() is None
    signs.write(LifeSign(3, "ab" * 16, 7))
    assert signs.read() == LifeSign(3, "ab" * 16, 7)
    assert (tmp_path / "readings.db-alive.bad").read_bytes() == b"rotten"


def test_a_folder_in_the_place_of_the_sign_does_not_stop_the_store(tmp_path: Path) -> None:
    (tmp_path / "readings.db-alive").mkdir()
    store = opened(tmp_path, VirtualClock())
    collect(store, 1)
    headend: Headend = {}
    deliver(store, headend)
    assert len(headend) == RECORDS
    assert (tmp_path / "readings.db-alive").is_file()


def test_a_full_disk_is_no_fault_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "readings.db-alive"
    file.touch()
    with pytest.raises(OSError, match="the medium"):
        LifeSignFile(file, BadFile(errno.ENOSPC)).write(LifeSign(1))
    assert file.exists()
