"""Cuts the power at every operation of a story, lets the board recover, and checks what must always hold.

A story is an update from the request to the report, over the production code; only the disk, the boot loader, the
health of a version and the DM server are models. Every operation is cut before, inside (torn) and after it; after
each cut the unsynced rest survives in several ways (`Survival`); the recovery runs in new objects over what the disk
then holds, and can be cut again.

Always:
* every boot lands on an image that is known and whole;
* once the server has heard of success only the new version runs, once it has heard of failure only the old one;
* a version that never gets well is started at most `TRIES` times;
* the server hears of the update exactly once, whatever happens, and what it hears is what the story must end in;
* the agent finds the state of its own version, and what is kept over updates as it was;
* it ends: idle, nothing in the inbox, and the next power-on gives the right version.

`python -m tests.updateagent.engine.power` runs everything and prints the table.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Protocol, Self

from tests.sim.board.uboot import BootLoaderError
from tests.sim.faulty_disk import FaultyDisk, Operation, PowerCut, SimulatedFile, Survival
from tests.updateagent.board import SLOT_BYTES, TRIES, Board
from updateagent.disk import RawFile
from updateagent.engine.deps import Package
from updateagent.engine.journal import Journal
from updateagent.engine.machine import State
from updateagent.errors import EXIT_GUARD_WANTED, EXIT_OK, EXIT_REBOOT_WANTED, OK_FUMO, DeviceError, PackageError
from updateagent.slots.block import BLOCK_BYTES, FileSlot, Slot

ROOT = Path("/board")
LIVES_MAX = 30  # a good story needs four
TEARS = {"before": 0.0, "torn": 0.5, "after": 1.0}
SURVIVALS = (*Survival, Survival.HOLED, Survival.HOLED)  # chance gets three throws


class Playable(Protocol):
    """What the enumeration needs of a world: `World`, and that of `tests.updateagent.software.scomo`."""

    disk: FaultyDisk
    in_boot_loader: bool
    lives: int
    troubled: int

    def play(self) -> None: ...
    def copy(self, disk: FaultyDisk) -> Self: ...
    def expect_trouble(self) -> None: ...
    def state(self, disk: FaultyDisk) -> State | None: ...
    def resumes(self, disk: FaultyDisk) -> bool: ...


class Played(Protocol):
    """A story of either kind."""

    @property
    def name(self) -> str: ...
    def begin(self) -> Playable: ...


class Violation(AssertionError):
    """Something that must always hold did not."""


@dataclass(frozen=True)
class Story:
    """What happens: the version handed over, whether it gets well, and the FUMO result that it must end with."""

    name: str
    version: str
    package: Package | PackageError
    healthy: bool
    fumo: int
    make_board: Callable[[Path, FaultyDisk], Board] = Board
    make_disk: Callable[[], FaultyDisk] = FaultyDisk
    also_allowed: frozenset[int] = frozenset()
    """Results that a power cut may turn this story into."""
    old_version: str = "1"
    one_attempt: bool = False
    """A confirmed system has one attempt, too: a cut before it is marked good starts the other one."""

    def may_run_after(self, fumo: int) -> set[str]:
        """The version that must run for good once the server has heard this result."""
        runs = self.version if fumo == OK_FUMO else self.old_version
        return {runs, self.old_version} if self.one_attempt else {runs}

    def hand_over(self, board: Board) -> None:
        """What the agent did before the story begins."""
        board.hand_over(self.version, package=self.package)

    def begin(self) -> World:
        """The board as delivered, with the request handed over."""
        disk = self.make_disk()
        board = self.make_board(ROOT, disk)
        disk.mkdir_durable(ROOT)
        board.assemble()
        self.hand_over(board)
        disk.sync_all()
        disk.operations = 0
        return World(self, disk, self.also_allowed | {self.fumo})


@dataclass
class World:
    """The board's disk, and everything outside that remembers."""

    story: Story
    disk: FaultyDisk
    allowed: frozenset[int] = frozenset()
    """The FUMO results that may be reported."""
    heard: int | None = None
    """The result the server was told. It knows reports by their id: one sent again before the agent forgot it is no
    news, but must say the same."""
    forgotten: bool = False
    """The agent has removed the result for good, after the server had acknowledged it."""
    in_boot_loader: bool = False
    starts: Counter[str] = field(default_factory=Counter)
    lives: int = 0
    troubled: int = 0
    """The life in which the disk had errors."""
    ended: bool = False

    def expect_trouble(self) -> None:
        """From now on the update may fail, and say so."""
        self.allowed |= RESULTS_OF_TROUBLE

    def state(self, disk: FaultyDisk) -> State | None:
        """What the journal on a disk says."""
        return Journal(disk, ROOT / "update").load().state

    def resumes(self, disk: FaultyDisk) -> bool:
        """Whether writing a slot goes on in its middle."""
        record = Journal(disk, ROOT / "update").load()
        update = record.update
        return record.state is State.WRITING and update is not None and (update.image, update.block) > (0, 0)

    def copy(self, disk: FaultyDisk) -> Self:
        return replace(self, disk=disk, starts=Counter(self.starts))

    def play(self) -> None:
        """Lives, one after the other, to the end of the story. Raises `Violation`, or `PowerCut`."""
        while not self.ended:
            self.lives += 1
            if self.lives > LIVES_MAX:
                raise Violation(f"no end after {LIVES_MAX} boots")
            self._live()
        self._check_end()

    def _live(self) -> None:
        board = self._power_on()
        code = board.updater().boot()
        if code == EXIT_REBOOT_WANTED:
            return
        board.agent = partial(self._report, board)  # from here on the agent runs, beside the guard
        self._start_agent(board)
        if code == EXIT_GUARD_WANTED and self._guard(board) == EXIT_REBOOT_WANTED:
            return
        self._report(board)
        try:
            idle = board.updater().record.state is State.IDLE and board.mailbox().read_request() is None
        except DeviceError:
            return
        self.ended = idle and self.heard is not None and board.result() is None

    def _power_on(self) -> Board:
        board = self.story.make_board(ROOT, self.disk)
        board.shelf.packages[self.story.version] = self.story.package
        self.in_boot_loader = True
        try:
            board.power_on()
            version = board.running_version()
        except (BootLoaderError, AssertionError) as error:
            raise Violation(f"a brick: {error}") from error
        self.in_boot_loader = False
        self.starts[version] += 1
        if self.heard is not None and version not in self.story.may_run_after(self.heard):
            raise Violation(f"version {version} runs, although the server was told {self.heard}")
        if not self.story.healthy and version == self.story.version and self.starts[version] > TRIES:
            raise Violation(f"version {version} was started {self.starts[version]} times")
        return board

    def _start_agent(self, board: Board) -> None:
        if self.troubled == self.lives:
            return  # the state may be that of the other version until the disk works again; see docs/update.md
        try:
            board.start_agent()
        except OSError:
            return
        except AssertionError as error:
            raise Violation(f"the agent of version {board.running_version()}: {error}") from error

    def _guard(self, board: Board) -> int:
        """What `updateagent.engine.guard` does: tries again while there is trouble, and in the end asks for a
        reboot.
        """
        for _ in range(2):
            try:
                updater = board.updater()
                if not updater.on_trial:
                    updater.mark_good()
                    return EXIT_OK
                if self.story.healthy:
                    return updater.confirm()
                updater.record_failure("meter_port", "no answer")
            except DeviceError:
                continue
            return EXIT_REBOOT_WANTED
        return EXIT_REBOOT_WANTED

    def _report(self, board: Board) -> None:
        """What the agent does: tells the server, then forgets."""
        try:
            result = board.result()
            if result is None:
                return
            if self.forgotten:
                raise Violation("a second result, after the server had acknowledged the first")
            if result["fumo"] not in self.allowed or self.heard not in (None, result["fumo"]):
                raise Violation(f"reported {result['fumo']} {result['name']}")
            self.heard = result["fumo"]
            board.disk.remove_durable(board.mailbox().result_file)
            self.forgotten = True
        except ValueError as error:
            raise Violation(f"a result that cannot be read: {error}") from error
        except OSError:
            return

    def _check_end(self) -> None:
        if self.heard is None:
            raise Violation("the server was never told")
        board = self._power_on()
        if board.running_version() not in self.story.may_run_after(self.heard):
            raise Violation(f"version {board.running_version()} runs at the end")
        try:
            board.check_at_rest()
        except AssertionError as error:
            raise Violation(f"at the end: {error}") from error
        inbox = board.disk.listdir(board.update_dir / "inbox")
        if inbox:
            raise Violation(f"left in the inbox: {inbox}")


@dataclass(frozen=True)
class Cut:
    """One place to cut the power at."""

    number: int
    phase: str
    survival: Survival
    throw: int

    def __str__(self) -> str:
        return f"operation {self.number}, {self.phase}, {self.survival.value}, throw {self.throw}"


@dataclass
class Tally:
    """What an enumeration did. `fired` counts the cuts that took place."""

    story: str
    operations: int = 0
    planned: int = 0
    fired: int = 0
    double_planned: int = 0
    double_fired: int = 0
    by_phase: Counter[str] = field(default_factory=Counter)
    """How many different operations were cut in each phase."""
    states: Counter[State] = field(default_factory=Counter)
    """How often the journal said which state after a cut, or when an operation failed."""
    resumed: int = 0
    """Cuts after which a slot is written on from its middle."""
    violations: list[str] = field(default_factory=list)

    def note_state(self, state: State | None) -> None:
        """A cut or an error in this state; None: in no state of the machine."""
        if state is not None:
            self.states[state] += 1

    def __str__(self) -> str:
        return (
            f"{self.story:<34}{self.operations:>6}{self.planned:>9}{self.fired:>9}"
            f"{self.double_planned:>9}{self.double_fired:>9}{len(self.violations):>7}"
        )


HEADING = f"{'story':<34}{'ops':>6}{'planned':>9}{'fired':>9}{'double':>9}{'fired':>9}{'wrong':>7}"


def count_operations(story: Played) -> int:
    """How many operations the story has when nothing happens to it. Raises `Violation`."""
    world = story.begin()
    world.play()
    return world.disk.operations


def cut_at(world: Playable, number: int, phase: str, seed: int) -> bool:
    """Play `world` to operation `number` and cut there; whether the cut fired. Raises `Violation`."""
    fired = False

    def plan(operation: Operation) -> float | None:
        nonlocal fired
        if operation.number != number:
            return None
        fired = True
        if phase == "before":
            raise PowerCut
        return TEARS[phase]

    world.disk.operations = 0
    world.disk.random = Random(seed)
    world.disk.on_operation = plan
    try:
        world.play()
    except PowerCut:
        return fired
    finally:
        world.disk.on_operation = None
    return False


def enumerate_cuts(
    story: Played,
    *,
    phases: tuple[str, ...] = tuple(TEARS),
    survivals: tuple[Survival, ...] = SURVIVALS,
    stride: int = 1,
) -> Iterator[tuple[Cut, Playable]]:
    """Every cut of the story, with the world as it is found when the power is back. Raises `Violation`."""
    for number in range(1, count_operations(story) + 1, stride):
        for phase in phases:
            world = story.begin()
            if not cut_at(world, number, phase, seed=number):
                continue
            for throw, survival in enumerate(survivals):
                cut = Cut(number, phase, survival, throw)
                yield cut, world.copy(world.disk.after_power_cut(survival, Random(str(cut))))


def explore(
    story: Played,
    *,
    phases: tuple[str, ...] = tuple(TEARS),
    survivals: tuple[Survival, ...] = SURVIVALS,
    stride: int = 1,
    double_stride: int = 0,
    stop_at_first: bool = False,
) -> Tally:
    """Cut a story everywhere. With `double_stride` every so many single cuts are cut a second time, everywhere."""
    tally = Tally(story.name, count_operations(story))
    numbers = len(range(1, tally.operations + 1, stride))
    tally.planned = numbers * len(phases) * len(survivals)
    for cut, world in enumerate_cuts(story, phases=phases, survivals=survivals, stride=stride):
        tally.fired += 1
        tally.by_phase[cut.phase] += cut.throw == 0
        tally.note_state(world.state(world.disk))
        tally.resumed += world.resumes(world.disk)
        if double_stride and tally.fired % double_stride == 0:
            _cut_again(cut, world, tally)
        try:
            world.play()
        except Violation as violation:
            tally.violations.append(f"{cut}: {violation}")
            if stop_at_first:
                break
    return tally


def _cut_again(first: Cut, found: Playable, tally: Tally) -> None:
    """Cut the recovery from `first` at each of its operations."""
    whole = found.copy(found.disk.copy())
    try:
        whole.play()
    except Violation:
        return  # counted where the single cut is played
    for number in range(1, whole.disk.operations + 1):
        tally.double_planned += 1
        world = found.copy(found.disk.copy())
        try:
            if not cut_at(world, number, "torn", seed=number):
                continue
            tally.double_fired += 1
            again = world.copy(world.disk.after_power_cut(Survival.HOLED, Random(f"{first} {number}")))
            again.play()
        except Violation as violation:
            tally.violations.append(f"{first}; then operation {number}, torn: {violation}")


@dataclass(frozen=True)
class Trouble:
    """What the disk answers instead of doing an operation, once or for the rest of that boot."""

    error: int
    lasting: bool

    def __str__(self) -> str:
        return f"{errno.errorcode[self.error]}{' from then on' if self.lasting else ''}"


TROUBLES = tuple(Trouble(error, lasting) for error in (errno.EIO, errno.ENOSPC) for lasting in (False, True))
RESULTS_OF_TROUBLE = frozenset({410, 502, 409})


def explore_errors(story: Played, *, troubles: tuple[Trouble, ...] = TROUBLES, stride: int = 1) -> Tally:
    """Let every operation of the story fail. The update may then fail, too, but must say so and harm nothing."""
    numbers = operations_of_the_system(story)
    tally = Tally(f"{story.name}, with errors", len(numbers))
    for number in numbers[::stride]:
        for trouble in troubles:
            world = story.begin()
            world.expect_trouble()
            tally.planned += 1
            try:
                tally.fired += fail_at(world, number, trouble, tally)
            except Violation as violation:
                tally.fired += 1
                tally.violations.append(f"operation {number}, {trouble}: {violation}")
    return tally


def operations_of_the_system(story: Played) -> list[int]:
    """The numbers of the story's operations without those of the boot loader, which has no way to go on."""
    world = story.begin()
    numbers: list[int] = []

    def note(operation: Operation) -> None:
        if not world.in_boot_loader:
            numbers.append(operation.number)

    world.disk.on_operation = note
    world.play()
    return numbers


def fail_at(world: Playable, number: int, trouble: Trouble, tally: Tally) -> bool:
    """Play `world` with trouble at operation `number`; whether it took place. Raises `Violation`."""
    first_life = 0

    def plan(operation: Operation) -> float | None:
        nonlocal first_life
        if operation.number < number or world.in_boot_loader:
            return None
        if not first_life:
            first_life = world.troubled = world.lives
            tally.note_state(world.state(world.disk.copy()))
        elif not trouble.lasting or world.lives > first_life:
            return None
        raise OSError(trouble.error, os.strerror(trouble.error), str(operation.path))

    world.disk.on_operation = plan
    try:
        world.play()
    finally:
        world.disk.on_operation = None
    return bool(first_life)


class WornFile(SimulatedFile):
    """Flash that has stopped taking what is written to its first block."""

    def pwrite(self, data: bytes | memoryview, offset: int) -> None:
        if offset == 0:
            data = bytes(BLOCK_BYTES) + bytes(data)[BLOCK_BYTES:]
        super().pwrite(data, offset)


class WornSlot(FileSlot):
    def open(self, *, write: bool = False) -> RawFile:
        file = super().open(write=write)
        if isinstance(file, SimulatedFile):
            file.__class__ = WornFile
        return file


class WornBoard(Board):
    def partitions(self) -> dict[str, dict[str, Slot]]:
        return {name: {"rootfs": WornSlot(self.disk, name, self.slot_file(name), SLOT_BYTES)} for name in ("A", "B")}


def stories() -> list[Story]:
    """Everything that can happen to an update."""
    from tests.updateagent.board import plain_package
    from tests.updateagent.engine.story_boards import hooked_stories
    from updateagent.errors import SIGNATURE

    return [
        Story("good", "2", plain_package("2"), healthy=True, fumo=200),
        Story("never healthy", "3", plain_package("3"), healthy=False, fumo=410),
        Story("tampered", "2", PackageError(SIGNATURE, "no"), healthy=True, fumo=404),
        Story("worn slot", "2", plain_package("2"), healthy=True, fumo=410, make_board=WornBoard),
        *hooked_stories(),
    ]


def main() -> int:
    """Run every story with single and double cuts; 1 when anything was wrong or a cut did not fire."""
    from tests.updateagent.boot.flashboards import flash_stories
    from tests.updateagent.engine.story_boards import recovery_stories
    from tests.updateagent.package.signed import signed_stories
    from tests.updateagent.software.scomo import software_stories

    logging.disable(logging.CRITICAL)
    print(HEADING)
    wrong = False
    stride = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    killed: Counter[State] = Counter()
    failed: Counter[State] = Counter()
    operations = errors = resumed = 0
    by_phase: Counter[str] = Counter()
    with TemporaryDirectory() as folder:
        folders = Path(folder)
        played: list[Played] = [*stories(), *signed_stories(folders), *software_stories(folders)]
        played += [*recovery_stories(), *flash_stories()]
        runs = [partial(explore, story, double_stride=stride) for story in played]
        runs += [partial(explore_errors, story) for story in played]
        for run in runs:
            tally = run()
            print(tally, flush=True)
            for line in tally.violations[:20]:
                print("  ", line)
            if "with errors" in tally.story:
                failed.update(tally.states)
                errors += tally.operations
            else:
                killed.update(tally.states)
                operations += tally.operations
                resumed += tally.resumed
                by_phase.update(tally.by_phase)
            wrong |= bool(tally.violations)
            wrong |= tally.fired != tally.planned or tally.double_fired != tally.double_planned
    cuts = ", ".join(f"{by_phase[phase]} cut {phase}" for phase in TEARS)
    troubles = ", ".join(map(str, TROUBLES))
    print(f"\n{operations} operations: {cuts}; {resumed} cuts were followed by a resume in the middle of a slot")
    print(f"{errors} operations failed, each with {troubles}\n")
    wrong |= not resumed
    wrong |= any(by_phase[phase] != operations for phase in TEARS)
    for state in State:
        name = state.value.replace(" ", "_")
        print(f"{'Killed_in_' + name:<24}{killed[state]:>8}    {'Error_in_' + name:<24}{failed[state]:>8}")
        wrong |= not killed[state] or not failed[state]
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
