"""Power cuts and disk errors at every operation of an update; and the bugs that must not escape this net."""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import cast

import pytest

from agent.jobs.software import DownloadStatus, Job, Trial, finish, set_jobs
from agent.ota.software_jobs import SoftwareJobs
from tests.sim.board.uboot import BootLoaderError, Choice
from tests.sim.faulty_disk import FaultyDisk, SimulatedFile, Survival
from tests.updateagent.board import SLOT_BYTES, Board, DiskEnvironment
from tests.updateagent.engine.power import ROOT, Story, Tally, Trouble, explore, explore_errors, stories
from tests.updateagent.engine.story_boards import HookedBoard
from tests.updateagent.package.signed import SignedBoard, SignedStory, signed_stories
from tests.updateagent.software.scomo import SoftwareStory, software_stories
from updateagent.boot.uboot.bytes import parse_copy
from updateagent.boot.uboot.env import EnvironmentStore, emit_copy, parse_data
from updateagent.boot.uboot.fw_env import EnvLocation
from updateagent.disk import RawFile, Storage
from updateagent.engine.deps import EngineDeps
from updateagent.engine.journal import Journal, Record, emit, parse
from updateagent.engine.machine import Event, State
from updateagent.engine.mailbox import result_document
from updateagent.engine.migration import StateFolders
from updateagent.engine.sealed import seal
from updateagent.engine.updater import Updater
from updateagent.errors import DeviceError
from updateagent.package.manifest import Image
from updateagent.package.readable import Readable
from updateagent.package.verifier import SignedPackages
from updateagent.slots.block import FileSlot, Slot
from updateagent.software.store import SoftwareStore

GOOD, UNHEALTHY, TAMPERED, WORN, MIGRATION, *HOOKED = stories()
THROWS = (Survival.LOST, Survival.NAMES_ONLY, Survival.KEPT, *[Survival.HOLED] * 4)
QUICK = (Survival.LOST, Survival.NAMES_ONLY, Survival.HOLED)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def check(tally: Tally) -> None:
    assert tally.violations == []
    assert (tally.fired, tally.double_fired) == (tally.planned, tally.double_planned)
    assert tally.fired > 0


@pytest.mark.parametrize(
    ("story", "stride"),
    [(GOOD, 1), (UNHEALTHY, 5), (TAMPERED, 1), (WORN, 3), (MIGRATION, 5), *((story, 19) for story in HOOKED)],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_power_cut_at_any_operation_is_survived(story: Story, stride: int) -> None:
    tally = explore(story, survivals=QUICK, stride=stride)
    print(tally)
    check(tally)
    assert set(tally.by_phase.values()) == {len(range(0, tally.operations, stride))}


@pytest.mark.parametrize("story", stories(), ids=lambda story: story.name)
def test_a_second_power_cut_in_the_recovery_is_survived(story: Story) -> None:
    stride = 13 if story not in (MIGRATION, *HOOKED) else 41
    check(explore(story, phases=("torn",), survivals=(Survival.HOLED,), stride=stride, double_stride=2))


@pytest.mark.parametrize("story", stories(), ids=lambda story: story.name)
def test_a_disk_error_at_any_operation_is_reported_or_overcome(story: Story) -> None:
    check(explore_errors(story, stride=2 if story not in (MIGRATION, *HOOKED) else 11))


def test_every_state_is_cut_in_and_failed_in() -> None:
    killed: Counter[State] = Counter()
    failed: Counter[State] = Counter()
    for story in (UNHEALTHY, TAMPERED, WORN, GOOD):
        killed.update(explore(story, phases=("torn",), survivals=(Survival.KEPT,), stride=2).states)
        failed.update(explore_errors(story, troubles=(Trouble(errno.EIO, lasting=True),), stride=2).states)
    assert set(killed) == set(failed) == set(State)


@pytest.mark.parametrize("place", range(24))
def test_a_package_changed_or_cut_off_anywhere_is_refused_with_nothing_written(tmp_path: Path, place: int) -> None:
    story = signed_stories(tmp_path)[0]
    assert isinstance(story, SignedStory)
    random = Random(place)
    for number in range(8):
        raw = bytearray(story.raw)
        at = random.randrange(len(raw))
        if number % 2:
            raw[at] ^= 1 << random.randrange(8)
        else:
            del raw[at:]
        bad = replace(story, raw=bytes(raw))
        world = bad.begin()
        flash, slot = (world.disk.read_bytes(ROOT / name) for name in ("uboot.env", "slot-b.img"))
        board = bad.make_board(ROOT, world.disk)
        board.updater().boot()
        result = board.result()
        assert result is not None
        assert result["fumo"] in (402, 404)
        assert world.disk.read_bytes(ROOT / "uboot.env") == flash
        assert world.disk.read_bytes(ROOT / "slot-b.img") == slot


@pytest.mark.parametrize("index", range(4), ids=["compressed", "delta", "new roots", "one byte changed"])
def test_signed_packages_survive_cuts_and_errors_too(tmp_path: Path, index: int) -> None:
    story = signed_stories(tmp_path)[index]
    check(explore(story, survivals=(Survival.LOST, Survival.HOLED), phases=("torn",), stride=3))
    check(explore_errors(story, troubles=(Trouble(errno.EIO, lasting=False),), stride=3))


# -- planted bugs: each must be found, or the tests above mean nothing


class UnsyncedFile(SimulatedFile):
    def sync(self) -> None:
        self._disk._alive()


class ForgetsFsync(FaultyDisk):
    """Writes the journal and the results without waiting for the data."""

    def open_raw(self, path: Path, *, write: bool = False, create: bool = False, mode: int = 0o600) -> RawFile:
        file = super().open_raw(path, write=write, create=create, mode=mode)
        if path.is_relative_to(ROOT / "update"):
            file.__class__ = UnsyncedFile
        return file


class ForgetsTheFolder(FaultyDisk):
    """Does not sync the folder after a rename."""

    def sync_dir(self, path: Path) -> None:
        return


class NeverSyncs(RawFile):
    """A slot's file whose sync does nothing."""

    def __init__(self, file: RawFile) -> None:
        self._file = file

    def pread(self, size: int, offset: int) -> bytes:
        return self._file.pread(size, offset)

    def pwrite(self, data: bytes | memoryview, offset: int) -> None:
        self._file.pwrite(data, offset)

    def sync(self) -> None:
        return

    def size(self) -> int:
        return self._file.size()

    def truncate(self, size: int) -> None:
        self._file.truncate(size)

    def drop_cache(self) -> None:
        return

    def close(self) -> None:
        self._file.close()


class UnsyncedSlot(FileSlot):
    def open(self, *, write: bool = False) -> RawFile:
        return NeverSyncs(super().open(write=write))


class TriesAnUnsyncedSlot(Board):
    def partitions(self) -> dict[str, dict[str, Slot]]:
        return {
            name: {"rootfs": UnsyncedSlot(self.disk, name, self.slot_file(name), SLOT_BYTES)} for name in ("A", "B")
        }


class OneCopy(DiskEnvironment):
    """A boot loader without a redundant environment."""

    SIZE = 0x1000

    def load(self) -> tuple[int, int, dict[str, str]]:
        found = parse_copy(self._disk.read_bytes(self.flash)[: self.SIZE], redundant=False)
        if found is None:
            raise BootLoaderError("the environment is bad")
        return 0, 0, parse_data(found[1])

    def save(self, variables: dict[str, str]) -> None:
        with self._disk.open_raw(self.flash, write=True) as file:
            file.pwrite(emit_copy(variables, self.SIZE, None), 0)
            file.sync()

    def create(self, variables: dict[str, str]) -> None:
        self._disk.write_durable(self.flash, emit_copy(variables, self.SIZE, None))


class HasOneEnvironment(Board):
    def __init__(self, folder: Path, disk: Storage | None = None) -> None:
        super().__init__(folder, disk)
        self.environment = OneCopy(self.disk, folder / "uboot.env")

    def store(self) -> EnvironmentStore:
        return EnvironmentStore(self.disk, (EnvLocation(self.environment.flash, 0, OneCopy.SIZE),))


class CountsNoAttempts(DiskEnvironment):
    def save(self, variables: dict[str, str]) -> None:
        return


class BootLoaderCountsNoAttempts(Board):
    def __init__(self, folder: Path, disk: Storage | None = None) -> None:
        super().__init__(folder, disk)
        self.environment = CountsNoAttempts(self.disk, folder / "uboot.env")

    def start_boot_loader(self) -> Choice:
        return replace(super().start_boot_loader(), boots=None)  # an old script: it would be found out at once


class TrustingJournal(Journal):
    """One copy, written in place, its checksum never looked at."""

    def load(self) -> Record:
        try:
            raw = self._disk.read_bytes(self._copies[0])
        except FileNotFoundError:
            return Record()
        length = int.from_bytes(raw[12:16], "little")
        payload = raw[20 : 20 + length]
        try:
            sequence, record = parse(seal(payload, 1))
        except DeviceError:
            return Record()
        self._sequence = sequence
        return record

    def store(self, record: Record) -> Record:
        counted = replace(record, stores=record.stores + 1)
        create = not self._disk.exists(self._copies[0])
        with self._disk.open_raw(self._copies[0], write=True, create=create) as file:
            file.pwrite(emit(counted, self._sequence + 1), 0)
            file.sync()
        if create:
            self._disk.sync_dir(self._copies[0].parent)
        return counted


class TrustsItsJournal(Board):
    def deps(self) -> EngineDeps:
        return replace(super().deps(), journal=TrustingJournal(self.disk, self.update_dir))


class TriesBeforeWriting(Board):
    """Asks for the trial when the package is verified, because the slot will surely be written in a moment."""

    class Hasty(Updater):
        def _write(self) -> None:
            self._deps.bootenv.try_slot(self._update.target, self._update.fallback)
            super()._write()

    def updater(self) -> Updater:
        return _with_handler(self.Hasty(self.deps()))


class ReportsBeforeForgetting(Board):
    """Hands the result over while the journal still has the update."""

    class Talkative(Updater):
        def _finish(self) -> None:
            deps, update = self._deps, self._update
            assert update.outcome is not None
            deps.mailbox.hold_result(result_document(update, update.outcome, deps.wall()))
            deps.mailbox.publish()
            deps.mailbox.clear_inbox(update.package)
            self._store(self._settled().advance(Event.REPORT))

    def updater(self) -> Updater:
        return _with_handler(self.Talkative(self.deps()))


class SkipsBlocksOnResume(Board):
    """Notes blocks as safe that come after the checkpoint."""

    class Hasty(Updater):
        def _advance(self, event: Event, **changes: object) -> None:
            if event is Event.CHECKPOINT:
                changes["block"] = int(str(changes["block"])) + 1
            super()._advance(event, **changes)

    def updater(self) -> Updater:
        return self.Hasty(self.deps())


class CarelessWithRoots(SignedPackages):
    """Keeps new roots without waiting for the data."""

    def keep_roots(self, envelope: bytes) -> None:
        temporary = self._deps.newer_roots.with_name(".roots.tmp")
        with self._deps.disk.open_raw(temporary, write=True, create=True) as file:
            file.pwrite(envelope, 0)
        self._deps.disk.rename(temporary, self._deps.newer_roots)
        self._deps.disk.sync_dir(self._deps.newer_roots.parent)


class ForgetsToSyncTheRoots(SignedBoard):
    packages_type = CarelessWithRoots


class UnsyncedFolders(StateFolders):
    def sync(self) -> None:
        return


class ForgetsToSyncTheState(HookedBoard):
    def deps(self) -> EngineDeps:
        return replace(super().deps(), state_folders=partial(UnsyncedFolders, self.disk))


class SwapsBeforeTheJournalKnows(HookedBoard):
    """Puts the migrated copy in place and says so afterwards."""

    class Hasty(Updater):
        def _advance(self, event: Event, **changes: object) -> None:
            if event is Event.MIGRATE:
                self._deps.state_folders(self._update.state_dirs).put_in_place()
            super()._advance(event, **changes)

    def updater(self) -> Updater:
        return self.Hasty(self.deps())


class SkipsTheHook(HookedBoard):
    """Takes a hook that was begun for one that has ended."""

    class Careless(Updater):
        def _run_hook(self, step: str, **more: str) -> None:
            if self.record.stores < 2:
                super()._run_hook(step, **more)

    def updater(self) -> Updater:
        return self.Careless(self.deps())


def _with_handler(updater: Updater) -> Updater:
    """The machine calls the methods of `Updater` by a table; make it call this object's own."""
    run = updater._run

    def own_run() -> int:
        from updateagent.engine import steps as module

        before = dict(module.STEPS)
        for state, handler in before.items():
            module.STEPS[state] = getattr(type(updater), handler.__name__)
        try:
            return run()
        finally:
            module.STEPS.update(before)

    updater._run = own_run  # type: ignore[method-assign]
    return updater


PLANTED: dict[str, Callable[[], Story]] = {
    "no fsync of journal and results": lambda: replace(GOOD, make_disk=ForgetsFsync),
    "no fsync of the folder": lambda: replace(GOOD, make_disk=ForgetsTheFolder),
    "trial of a slot that was not synced": lambda: replace(GOOD, make_board=TriesAnUnsyncedSlot),
    "trial asked for before the slot is written": lambda: replace(GOOD, make_board=TriesBeforeWriting),
    "a single environment": lambda: replace(GOOD, make_board=HasOneEnvironment),
    "attempts that are not stored": lambda: replace(UNHEALTHY, make_board=BootLoaderCountsNoAttempts),
    "a journal whose checksum is not checked": lambda: replace(UNHEALTHY, make_board=TrustsItsJournal),
    "a result handed over before the journal forgets": lambda: replace(GOOD, make_board=ReportsBeforeForgetting),
    "migrated state that is not synced": lambda: replace(MIGRATION, make_board=ForgetsToSyncTheState),
    "migrated state in place before the journal knows": lambda: replace(
        MIGRATION, make_board=SwapsBeforeTheJournalKnows
    ),
    "a hook that was cut is not run again": lambda: replace(MIGRATION, make_board=SkipsTheHook),
    "a resume that leaves out a block": lambda: replace(GOOD, make_board=SkipsBlocksOnResume),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug: str) -> None:
    from tests.updateagent.engine.power import Violation

    throws = QUICK if "migrated" in bug else THROWS  # found by any, and the way there is long
    try:
        tally = explore(PLANTED[bug](), phases=("torn", "after"), survivals=throws, stop_at_first=True)
    except Violation:
        return  # it fails even without a cut
    assert tally.violations, f"{bug}: {tally.fired} cuts found nothing"


def test_new_roots_that_are_not_synced_are_found(tmp_path: Path) -> None:
    story = signed_stories(tmp_path)[2]
    assert isinstance(story.make_board, partial)
    careless = partial(ForgetsToSyncTheRoots, **story.make_board.keywords)
    bad = replace(story, make_board=cast("type[Board]", careless))
    assert explore(bad, phases=("torn", "after"), survivals=QUICK, stop_at_first=True).violations


# -- software packages


SOFTWARE = (
    "first",
    "update",
    "one byte changed",
    "does not run",
    "first one does not run",
    "remove",
    "repair",
    "step by step",
)


def software(folder: Path, name: str) -> SoftwareStory:
    return software_stories(folder)[SOFTWARE.index(name)]


@pytest.mark.parametrize("name", SOFTWARE)
def test_software_survives_cuts_and_errors_from_the_exec_to_the_report(tmp_path: Path, name: str) -> None:
    story = software(tmp_path, name)
    stride = 11 if name == "step by step" else 5
    check(explore(story, survivals=(Survival.LOST, Survival.HOLED), stride=stride))
    check(explore_errors(story, troubles=(Trouble(errno.EIO, lasting=False),), stride=stride))


@pytest.mark.parametrize("name", ["update", "step by step"])
def test_a_second_power_cut_in_the_recovery_of_software_is_survived(tmp_path: Path, name: str) -> None:
    stride = 61 if name == "step by step" else 29
    story = software(tmp_path, name)
    check(explore(story, phases=("torn",), survivals=(Survival.HOLED,), stride=stride, double_stride=2))


class UnpacksUnsynced(SoftwareStore):
    def _unpack(self, image: Image, package: Readable, path: Path) -> None:
        self._disk.mkdir_durable(path.parent, 0o755)
        with self._disk.open_raw(path, write=True, create=True) as file:
            file.pwrite(b"".join(image.content(package)), 0)
        self._disk.sync_dir(path.parent)


class UnpacksUnderTheName(SoftwareStore):
    """A version has its name before its files are there."""

    def _unpack(self, image: Image, package: Readable, path: Path) -> None:
        home = path.parents[len(image.name.split("/")) - 1]
        super()._unpack(image, package, home.with_name(home.name.removeprefix(".new-")) / image.name)


class LinksInTwoSteps(SoftwareStore):
    """Takes the old link away before it makes the new one."""

    def activate(self, software_id: str, version: str | None = None, *, floor: int = 0, running: str = "") -> str:
        self._disk.remove_durable(self._active / software_id)
        return super().activate(software_id, version, floor=floor, running=running)


class RemovesUnderTheName(SoftwareStore):
    def _discard(self, folder: Path) -> None:
        self._disk.remove_tree_durable(folder)


class ForgetsTheJobFirst(SoftwareJobs):
    """The job is gone before its report is durable."""

    def _finish(self, job: Job, result: int, identifier: str, status: DownloadStatus | None, why: str = "") -> None:
        with self._tree.transaction() as changing:
            set_jobs(changing, [])
        super()._finish(job, result, identifier, status, why)


class ReportsTwice(SoftwareJobs):
    """The job stays after its report."""

    def _finish(self, job: Job, result: int, identifier: str, status: DownloadStatus | None, why: str = "") -> None:
        with self._tree.transaction() as changing:
            finish(changing, job, result, identifier, status, why)
            set_jobs(changing, [job])
        with self._tree.transaction() as changing:
            set_jobs(changing, [])


class RemovesTwice(SoftwareJobs):
    """A removal that was cut is tried again, and what is gone cannot be removed."""

    def _deployed(self, job: Job, beat: Callable[[], None]) -> None:
        self._done(job, replace(self._deps.software.remove("lists", beat), name=""), "lists")


class ForgetsTheTrial(SoftwareJobs):
    """After a power cut nobody knows which version was active before."""

    def _save(self, trial: Trial) -> None:
        """Kept nowhere."""


class LeavesPackages(SoftwareJobs):
    def refresh(self) -> None:
        self._inventory({})


STORES: dict[str, type[SoftwareStore]] = {
    "files that are not synced": UnpacksUnsynced,
    "files under the name of the version": UnpacksUnderTheName,
    "a link in two steps": LinksInTwoSteps,
    "a removal under the name of the version": RemovesUnderTheName,
}
JOBS: dict[str, tuple[str, type[SoftwareJobs]]] = {
    "a job forgotten before its report": ("remove", ForgetsTheJobFirst),
    "a job that outlives its report": ("remove", ReportsTwice),
    "packages of ended jobs": ("first", LeavesPackages),
    "a removal that cannot be taken up again": ("remove", RemovesTwice),
    "a trial that is kept nowhere": ("does not run", ForgetsTheTrial),
}


def found(story: SoftwareStory) -> bool:
    from tests.updateagent.engine.power import Violation

    try:
        return bool(explore(story, phases=("torn", "after"), survivals=QUICK, stop_at_first=True).violations)
    except Violation:
        return True  # it fails even without a cut


@pytest.mark.parametrize("bug", STORES)
def test_a_planted_bug_of_the_software_store_is_found(tmp_path: Path, bug: str) -> None:
    story = software(tmp_path, "update")
    assert found(replace(story, make_store=STORES[bug]))


@pytest.mark.parametrize("bug", JOBS)
def test_a_planted_bug_of_the_software_jobs_is_found(tmp_path: Path, bug: str) -> None:
    name, jobs = JOBS[bug]
    assert found(replace(software(tmp_path, name), make_jobs=jobs))
