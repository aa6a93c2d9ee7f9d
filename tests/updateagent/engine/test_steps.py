"""What each state of an update stands for: what is told to whom, in which order, and what is done again after a cut."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest

from tests.sim.faulty_disk import FaultyDisk, Operation, PowerCut, Survival
from tests.updateagent.board import TRIES, Board, PlainImage, PlainPackage, Shelf
from tests.updateagent.engine.power import ROOT, Story, stories
from tests.updateagent.engine.story_boards import hooked_stories, recovery_stories
from updateagent.boot import CANARY
from updateagent.boot.policy import BootEnv
from updateagent.boot.rauc import RaucPolicy
from updateagent.engine.deps import EngineDeps, Package
from updateagent.engine.journal import Journal, Outcome, Record, SlotRecord, Update
from updateagent.engine.machine import State
from updateagent.engine.mailbox import Mailbox
from updateagent.engine.updater import Updater
from updateagent.errors import (
    BOOTED_SLOT,
    ENVIRONMENT_NOT_SHARED,
    EXIT_GUARD_WANTED,
    EXIT_OK,
    EXIT_REBOOT_WANTED,
    SIGNATURE,
    SLOT,
    Code,
    DeviceError,
    PackageError,
)
from updateagent.package.verity import BLOCK_BYTES
from updateagent.slots.block import FileSlot, Slot
from updateagent.slots.state import instead_of

BLOCKS = 50  # of each image: one is two per cent of the package
IMAGES = {name: Random(name).randbytes(BLOCKS * BLOCK_BYTES) for name in ("kernel", "rootfs")}
OK = Outcome(0, "ok", 200, 1200)


@pytest.mark.parametrize("story", [*stories(), *recovery_stories()], ids=lambda story: story.name)
def test_every_story_ends_as_it_must_when_nothing_happens_to_it(story: Story) -> None:
    story.begin().play()


# --- what is told to whom ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NotedImage(PlainImage):
    notes: list[object] = field(default_factory=list)

    def blocks(self, start_block: int) -> Iterator[bytes]:
        self.notes.append(f"{self.name} from block {start_block}")
        return super().blocks(start_block)


@dataclass(frozen=True)
class NotedPackage(PlainPackage):
    board: NotedBoard | None = None

    def run_hook(self, step: str, variables: Mapping[str, str]) -> None:
        assert self.board is not None
        if step not in self.hooks:
            return
        self.board.notes.append(f"hook {step}, BOOT_ORDER={self.board.variables()['BOOT_ORDER']}")
        self.board.hooks[step] = dict(variables)
        if step == self.board.changing:
            slot = self.board.partitions()[variables["DCU_SLOT"]]["rootfs"]
            with slot.open(write=True) as file:
                file.pwrite(b"changed", 5000)
                file.sync()


class NotedShelf(Shelf):
    """Hands out one package, and keeps roots."""

    board: NotedBoard

    def with_disk(self, package: Package) -> Package:
        board = self.board
        images = tuple(NotedImage(name, data, notes=board.notes) for name, data in board.images.items())
        return NotedPackage("2", 7, images=images, new_roots=b"roots", hooks=board.package_hooks, board=board)

    def keep_roots(self, envelope: bytes) -> None:
        self.board.notes.append(f"roots {envelope.decode()}")


class NotedMailbox(Mailbox):
    notes: list[object]

    def write_status(self, status: Mapping[str, object]) -> None:
        self.notes.append((status["state"], status["progress"]))
        super().write_status(status)


class NotedJournal(Journal):
    notes: list[object]

    def store(self, record: Record) -> Record:
        update = record.update
        self.notes.append(f"stored {record.state.value}" + (f" {update.image}/{update.block}" if update else ""))
        return super().store(record)


class NotedBoard(Board):
    """A board whose systems are two images, and which notes all that is told to anybody."""

    def __init__(self, disk: FaultyDisk) -> None:
        super().__init__(ROOT, disk)
        self.notes: list[object] = []
        self.images = IMAGES
        self.hooks: dict[str, dict[str, str]] = {}
        self.package_hooks: tuple[str, ...] = ("pre-install", "post-install")
        self.changing = ""
        self.shelf = NotedShelf(disk)
        self.shelf.board = self
        self.shelf.packages["2"] = PlainPackage("2")

    def running_version(self) -> str:
        return "1" if self.booted == "A" else "2"

    def partitions(self) -> dict[str, dict[str, Slot]]:
        size = BLOCKS * BLOCK_BYTES
        return {
            slot: {name: FileSlot(self.disk, name, self.folder / f"{slot}-{name}.img", size) for name in IMAGES}
            for slot in ("A", "B")
        }

    def deps(self) -> EngineDeps:
        mailbox = NotedMailbox(self.disk, self.update_dir)
        journal = NotedJournal(self.disk, self.update_dir)
        mailbox.notes = journal.notes = self.notes
        return replace(
            super().deps(),
            mailbox=mailbox,
            journal=journal,
            sync_bytes=2 * BLOCK_BYTES,
            checkpoint_bytes=20 * BLOCK_BYTES,
        )


@pytest.fixture
def board() -> NotedBoard:
    disk = FaultyDisk()
    disk.mkdir_durable(ROOT)
    made = NotedBoard(disk)
    made.assemble()
    made.hand_over("2", package=PlainPackage("2"))
    made.environment.save({**made.variables(), "BOOT_B_LEFT": "2"})
    made.power_on()
    return made


def per_cents(first: int, last: int) -> list[object]:
    return [("writing", number) for number in range(first, last + 1, 4)]


def test_an_install_tells_each_step_before_the_next(board: NotedBoard) -> None:
    assert board.updater().boot() == EXIT_REBOOT_WANTED

    assert board.notes == [
        "stored staged 0/0",
        "roots roots",
        "stored verified 0/0",
        ("verified", 0),
        "hook pre-install, BOOT_ORDER=A B",
        "stored writing 0/0",
        "kernel from block 0",
        *per_cents(2, 18),
        "stored writing 0/20",
        *per_cents(22, 38),
        "stored writing 0/40",
        *per_cents(42, 50),
        "rootfs from block 0",
        *per_cents(52, 68),
        "stored writing 1/20",
        *per_cents(72, 88),
        "stored writing 1/40",
        *per_cents(92, 100),
        "hook post-install, BOOT_ORDER=A",
        "stored written 1/40",
        "stored trial 1/40",
        ("trial", 100),
    ]
    assert board.hooks == {
        step: {
            "DCU_SLOT": "B",
            "DCU_FROM_VERSION": "1",
            "DCU_TO_VERSION": "2",
            "DCU_UPDATE_DIR": str(ROOT / "update"),
        }
        for step in ("pre-install", "post-install")
    }
    for name, data in IMAGES.items():
        assert board.disk.read_bytes(ROOT / f"B-{name}.img") == data


def changing(board: NotedBoard, step: str) -> NotedBoard:
    """A board whose package has a hook of this step that changes the slot."""
    board.package_hooks = (step,)
    board.changing = step
    return board


def test_a_hook_that_changes_what_was_written_ends_the_update(board: NotedBoard) -> None:
    assert changing(board, "post-install").updater().boot() != EXIT_REBOOT_WANTED
    result = board.result()
    assert result is not None
    assert result["name"] == "hook"
    assert "hook post-install changed it, and only a hook adapt may" in result["message"]
    assert board.variables()["BOOT_ORDER"] == "A"


def test_what_a_hook_adapts_is_not_claimed_to_be_the_signed_image(board: NotedBoard) -> None:
    assert changing(board, "adapt").updater().boot() == EXIT_REBOOT_WANTED
    note = board.updater().record.slots["B"]
    assert (note.state, note.images) == ("trial", {})
    assert "stored writing 0/0" in board.notes[-6:]  # all of it is compared again after a power cut in the hook


def test_without_such_a_hook_the_roots_of_the_images_are_known(board: NotedBoard) -> None:
    board.updater().boot()
    images = board.updater().record.slots["B"].images
    assert {name: size for name, (size, _) in images.items()} == {name: len(data) for name, data in IMAGES.items()}


def test_progress_is_rounded_down(board: NotedBoard) -> None:
    board.images = {"rootfs": bytes(6 * BLOCK_BYTES)}
    board.updater().boot()
    assert [note for note in board.notes if note in [("writing", number) for number in range(101)]] == [
        ("writing", 33),
        ("writing", 66),
        ("writing", 100),
    ]


def test_a_write_goes_on_at_its_checkpoint_after_a_cut(board: NotedBoard) -> None:
    disk = board.disk
    assert isinstance(disk, FaultyDisk)

    def cut(_: Operation) -> None:
        if board.notes[-1:] == [("writing", 76)]:
            raise PowerCut

    disk.on_operation = cut
    with pytest.raises(PowerCut):
        board.updater().boot()

    board = NotedBoard(disk.after_power_cut(Survival.LOST, Random(1)))
    assert board.power_on().slot == "A"
    assert board.updater().boot() == EXIT_REBOOT_WANTED
    assert board.notes == [
        "stored writing 1/20",
        "rootfs from block 20",
        *per_cents(72, 88),
        "stored writing 1/40",
        *per_cents(92, 100),
        "hook post-install, BOOT_ORDER=A",
        "stored written 1/40",
        "stored trial 1/40",
        ("trial", 100),
    ]
    for name, data in IMAGES.items():
        assert board.disk.read_bytes(ROOT / f"B-{name}.img") == data


# --- refusals ----------------------------------------------------------------------------------------------------


def name_of_result(board: Board) -> object:
    result = board.result()
    assert result is not None
    return result["name"]


def resume(board: Board, state: State, **changes: object) -> None:
    """The journal's update is in that state."""
    update = Update("r1", "package.swu", target="B", fallback="A", to_version="2", security_version=7)
    Journal(board.disk, board.update_dir).store(Record(state, replace(update, **changes)))  # type: ignore[arg-type]


def test_the_slot_that_runs_is_never_written(board: NotedBoard) -> None:
    resume(board, State.WRITING, target="A")
    board.updater().boot()
    assert name_of_result(board) == "slot"
    assert not board.disk.exists(ROOT / "A-kernel.img")


def refuse(code: Code) -> Callable[..., None]:
    def check(*_slot: str) -> None:
        raise DeviceError(code, "so it is")

    return check


@pytest.mark.parametrize("state", [State.STAGED, State.VERIFIED, State.WRITING])
@pytest.mark.parametrize(
    "check", [{"check_target": refuse(SLOT)}, {"check_root": refuse(BOOTED_SLOT)}], ids=["target", "root"]
)
def test_nothing_of_a_mounted_slot_or_from_another_root_is_written(
    board: NotedBoard, state: State, check: dict[str, Callable[..., None]]
) -> None:
    resume(board, state)
    order = board.variables()["BOOT_ORDER"]
    Updater(replace(board.deps(), **check)).boot()  # type: ignore[arg-type]
    assert name_of_result(board) == ("slot" if "check_target" in check else "booted-slot")
    assert not board.disk.exists(ROOT / "B-kernel.img")
    assert board.hooks == {}
    assert "roots roots" not in board.notes
    assert board.variables()["BOOT_ORDER"] == order


@pytest.mark.parametrize(("state", "order"), [(State.STAGED, "A B"), (State.TRIAL, "A")])
def test_nothing_is_begun_where_the_boot_loader_uses_another_environment(
    board: NotedBoard, state: State, order: str
) -> None:
    resume(board, state)
    board.canary = "what the boot loader has saved elsewhere"
    board.updater().boot()
    assert name_of_result(board) == "environment-not-shared"
    assert "roots roots" not in board.notes
    assert board.variables()["BOOT_ORDER"] == order


def test_a_long_reason_is_cut_to_500_characters(board: NotedBoard) -> None:
    board.shelf.packages["2"] = PackageError(SIGNATURE, "x" * 501)
    board.updater().boot()
    result = board.result()
    assert result is not None
    assert result["message"] == "x" * 500


def test_an_update_by_hand_leaves_no_result_for_the_agent(board: NotedBoard) -> None:
    resume(board, State.REFUSED, outcome=Outcome(1, "signature", 404, 1407), by_hand=True)
    board.updater().boot()
    assert board.result() is None
    assert board.updater().record.last_id == "r1"


def test_a_decided_update_without_an_outcome_is_a_mistake_of_the_program(board: NotedBoard) -> None:
    resume(board, State.REFUSED)
    with pytest.raises(AssertionError, match="refused without an outcome"):
        board.updater().boot()


# --- the trial ---------------------------------------------------------------------------------------------------


def test_a_trial_whose_commit_was_lost_is_asked_for_again(board: NotedBoard) -> None:
    resume(board, State.TRIAL, boot_id="an earlier start")
    assert board.updater().boot() == EXIT_REBOOT_WANTED
    assert board.notes == ["stored trial 0/0", "stored trial 0/0", ("trial", 100)]
    assert board.variables()["BOOT_ORDER"] == "B A"
    record = board.updater().record
    assert record.update is not None
    assert record.update.boot_id == board.boot_id

    board.notes.clear()
    assert board.updater().boot() == EXIT_REBOOT_WANTED
    assert board.notes == ["stored trial 0/0"], "only this run was counted"


def test_a_trial_that_was_noted_but_not_asked_for_is_asked_for(board: NotedBoard) -> None:
    resume(board, State.TRIAL, boot_id=board.boot_id)
    assert board.updater().boot() == EXIT_REBOOT_WANTED
    assert board.notes == ["stored trial 0/0", ("trial", 100)], "it was noted in this start already"
    assert board.variables()["BOOT_ORDER"] == "B A"


@pytest.mark.parametrize(
    ("attempts", "said", "kept"),
    [
        (0, (), ()),  # the log is that of the start that installed
        (1, (), ("of the attempt before",)),
        (1, ("goodbye",), ("goodbye",)),
        (0, ("goodbye",), ("goodbye",)),
    ],
)
def test_the_log_is_that_of_the_attempt_before(
    board: NotedBoard, attempts: int, said: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    resume(board, State.TRIAL, attempts=attempts, log=said, boot_id="the start before")
    board.booted = "B"
    board.log_lines = ("of the attempt before",)
    assert board.updater().boot() == EXIT_GUARD_WANTED
    record = board.updater().record
    assert record.update is not None
    assert (record.update.attempts, record.update.log) == (attempts + 1, kept)
    assert board.notes[-1] == ("trial", 100)


def test_a_migration_is_durable_before_the_journal_calls_it_done() -> None:
    world = next(story for story in hooked_stories() if story.name == "migration").begin()

    def cut(operation: Operation) -> None:
        update = Journal(world.disk, ROOT / "update").load().update
        if update is not None and update.migrated and operation.path.is_relative_to(ROOT / "data"):
            raise PowerCut

    world.disk.on_operation = cut
    with pytest.raises(PowerCut):
        world.play()
    world.copy(world.disk.after_power_cut(Survival.LOST, Random(1))).play()


DIRS = ("/board/state",)


@pytest.mark.parametrize(
    ("state", "booted", "dirs", "order", "code"),
    [
        # The new system does not see the old state, nor the old one the new state.
        (State.TRIAL, "B", DIRS, "B A", EXIT_REBOOT_WANTED),
        (State.ROLLED_BACK, "B", DIRS, "B A", EXIT_REBOOT_WANTED),
        (State.CONFIRMED, "A", DIRS, "A B", EXIT_REBOOT_WANTED),
        # It is its own.
        (State.CONFIRMED, "B", DIRS, "B A", EXIT_OK),
        (State.TRIAL, "A", DIRS, "A B", EXIT_OK),
        (State.ROLLED_BACK, "A", DIRS, "A B", EXIT_OK),
        (State.WRITING, "A", DIRS, "A B", EXIT_OK),
        # Nothing is migrated.
        (State.TRIAL, "B", (), "B A", EXIT_GUARD_WANTED),
        # There is no other system to go to, or none that is known.
        (State.TRIAL, "B", DIRS, "B", EXIT_GUARD_WANTED),
        (State.TRIAL, "B", DIRS, "", EXIT_GUARD_WANTED),
        # No update.
        (State.IDLE, "A", (), "A B", EXIT_OK),
    ],
)
def test_with_a_broken_journal_a_system_that_could_see_the_state_of_the_other_does_not_start(
    board: NotedBoard, state: State, booted: str, dirs: tuple[str, ...], order: str, code: int
) -> None:
    if state is not State.IDLE:
        resume(board, state, state_dirs=dirs, outcome=OK)
    board.booted = booted
    disk = board.disk
    if order:
        variables = {**board.variables(), "BOOT_ORDER": order, "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "3"}
        board.environment.save(variables)
    else:
        disk.write_durable(board.environment.flash, b"no environment")
    assert isinstance(disk, FaultyDisk)

    def fail(operation: Operation) -> None:
        if "journal" in operation.path.name:
            raise OSError(5, "Input/output error")

    disk.on_operation = fail
    assert board.updater().boot() == code
    status = json.loads(disk.read_bytes(board.mailbox().status_file))
    assert "the journal cannot be written: Input/output error" in status["error"]


# --- what is known afterwards ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("floor", "after"), [(0, 7), (9, 9)])
def test_a_confirmed_slot_is_good_and_the_floor_never_goes_back(board: NotedBoard, floor: int, after: int) -> None:
    resume(board, State.CONFIRMED, outcome=OK)
    updater = board.updater()
    updater.record = replace(updater.record, security_floor=floor, lost=True, damaged=True)
    board.booted = "B"
    board.updater()._deps.journal.store(updater.record)
    board.updater().boot()
    record = board.updater().record
    assert (record.slots["B"], record.security_floor, record.lost) == (
        SlotRecord("2", 7, "good", proven=True),
        after,
        False,
    )
    assert record.last == OK
    assert not record.damaged


@pytest.mark.parametrize(
    ("state", "note"), [(State.ROLLED_BACK, SlotRecord("2", 7, "bad")), (State.FAILED, SlotRecord("2", 7, "trial"))]
)
def test_a_slot_that_fell_back_is_bad(board: NotedBoard, state: State, note: SlotRecord) -> None:
    resume(board, state, outcome=Outcome(72, "trial-failed", 410, 1405))
    updater = board.updater()
    updater._store(updater.record.note("B", SlotRecord("2", 7, "trial")))
    board.updater().boot()
    assert board.updater().record.slots["B"] == note
    assert board.updater().record.security_floor == 0


def test_what_is_under_way_at_the_end_of_a_hand_over_is_completed(board: NotedBoard) -> None:
    """The power went after the journal had forgotten the update, before its files were gone."""
    Journal(board.disk, board.update_dir).store(Record(last_id="r1", last=OK))
    assert board.updater().boot() in (EXIT_OK, EXIT_GUARD_WANTED)
    assert board.disk.listdir(board.update_dir / "inbox") == []

    board.hand_over("2", "r2")
    assert board.updater().boot() == EXIT_REBOOT_WANTED, "another request is not taken for it"


# --- slots -------------------------------------------------------------------------------------------------------


class ManySlots(Board):
    """Three slots and a recovery slot. The order of the environment is not that of the settings."""

    def __init__(self, folder: Path, booted: str, notes: Mapping[str, str]) -> None:
        super().__init__(folder, FaultyDisk())
        self.assemble()
        self.environment.save({**self.variables(), "BOOT_ORDER": "C A R"})
        self.booted = booted
        slots = {slot: SlotRecord("1", 1, state) for slot, state in notes.items()}
        Journal(self.disk, self.update_dir).store(Record(slots=slots))

    def running_version(self) -> str:
        return "1"

    def partitions(self) -> dict[str, dict[str, Slot]]:
        return {slot: {} for slot in "ABC"}

    def bootenv(self) -> BootEnv:
        return RaucPolicy(self.store(), ("A", "B", "C", "R"), TRIES, "R")


@pytest.mark.parametrize(
    ("booted", "good", "target"),
    [
        ("A", "", "B"),
        ("B", "", "C"),
        ("C", "", "A"),
        ("C", "AB", "A"),
        # From recovery: what is not good first, and of those the last that the boot loader would start.
        ("R", "", "B"),
        ("R", "B", "A"),
        ("R", "BA", "C"),
        ("R", "ABC", "B"),
    ],
)
def test_the_slot_to_write_is_the_next_one_or_the_one_that_is_missed_least(booted: str, good: str, target: str) -> None:
    board = ManySlots(ROOT, booted, dict.fromkeys(good, "good"))
    assert board.updater()._target() == target


@pytest.mark.parametrize(
    ("bad", "notes", "then"),
    [
        ("A", {"B": "good"}, "BR"),
        ("A", {"B": "bad"}, "R"),
        ("A", {}, "R"),
        ("C", {"A": "good"}, "AR"),
        ("B", {"C": "good", "A": "good"}, "ACR"),
    ],
)
def test_instead_of_a_bad_slot_a_good_one_starts_or_recovery(bad: str, notes: dict[str, str], then: str) -> None:
    board = ManySlots(ROOT, "D", notes)
    assert "".join(slot.name for slot in instead_of(board.updater().slot_states(), bad)) == then


def test_the_running_system_comes_before_the_others_unless_it_is_bad() -> None:
    board = ManySlots(ROOT, "C", {"A": "good"})
    assert [slot.name for slot in instead_of(board.updater().slot_states(), "B")] == ["C", "A", "R"]
    board = ManySlots(ROOT, "C", {"A": "good", "C": "bad"})
    assert [slot.name for slot in instead_of(board.updater().slot_states(), "B")] == ["A", "R"]


def test_a_system_that_no_setting_names_has_nothing_to_write() -> None:
    board = ManySlots(ROOT, "D", {})
    with pytest.raises(DeviceError, match="slot D is not configured") as caught:
        board.updater()._target()
    assert caught.value.code is SLOT


# --- the boot environment ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("saved", "marked", "left"), [("1", True, "9"), ("2", False, "2"), (None, True, "9")])
def test_attempts_are_given_back_where_the_boot_loader_reads_and_nowhere_else(
    board: NotedBoard, saved: str | None, marked: bool, left: str
) -> None:
    board.environment.save({**board.variables(), CANARY: "1", "BOOT_A_LEFT": "2"})
    board.canary = saved
    assert board.updater().mark_good() is marked
    assert board.variables()["BOOT_A_LEFT"] == left


def test_an_environment_that_cannot_be_read_now_is_not_taken_for_another_one(board: NotedBoard) -> None:
    board.disk.write_durable(board.environment.flash, b"no environment")
    board.canary = "1"
    with pytest.raises(DeviceError) as caught:
        board.updater().mark_good()
    assert caught.value.code is not ENVIRONMENT_NOT_SHARED


# --- the display -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
def test_progress_is_100_when_all_is_written_and_0_otherwise(board: NotedBoard, state: State) -> None:
    if state is not State.IDLE:
        resume(board, state)
    expected = 100 if state in (State.WRITTEN, State.TRIAL, State.CONFIRMED) else 0
    updater = board.updater()
    assert updater.status()["progress"] == expected
    assert [updater.status(progress=number)["progress"] for number in (0, 7, 100)] == [0, 7, 100]


def test_the_status_of_a_board_with_nothing_to_do(board: NotedBoard) -> None:
    assert board.updater().status() == {
        "version": 1,
        "state": "idle",
        "progress": 0,
        "booted": "A",
        "slots": [
            {"name": "A", "version": "1", "state": "good", "left": 2},
            {"name": "B", "version": "", "state": "empty", "left": 2},
        ],
        "order": ["A", "B"],
        "floors": {"firmware": 0},
        "update": None,
        "last": None,
        "error": "",
    }


def test_the_status_of_a_trial_with_an_update_before_it_and_an_error(board: NotedBoard) -> None:
    record = Record(
        State.TRIAL,
        Update("r1", "package.swu", target="B", to_version="2", attempts=3),
        slots={"A": SlotRecord("1", 1, "good"), "B": SlotRecord("2", 7, "trial")},
        last_id="r0",
        last=Outcome(1, "signature", 404, 1407, "why"),
    )
    Journal(board.disk, board.update_dir).store(record)
    board.booted = "B"
    updater = board.updater()
    assert updater.status(error="the disk is full") == {
        "version": 1,
        "state": "trial",
        "progress": 100,
        "booted": "B",
        "slots": [
            {"name": "A", "version": "1", "state": "good", "left": 2},
            {"name": "B", "version": "2", "state": "trial", "left": 2},
        ],
        "order": ["A", "B"],
        "floors": {"firmware": 0},
        "update": {"id": "r1", "to_version": "2", "attempts": 3},
        "last": {"id": "r0", "name": "signature", "message": "why"},
        "error": "the disk is full",
    }
    board.canary = "what the boot loader has saved elsewhere"
    assert str(board.updater().status()["error"]).startswith("environment-not-shared (68): ")


@pytest.mark.parametrize("booted", ["A", "R"])
def test_the_recovery_slot_is_shown_as_such_unless_it_runs(booted: str) -> None:
    board = ManySlots(ROOT, booted, {"B": "bad"})
    slots = board.updater().status()["slots"]
    assert isinstance(slots, list)
    assert {each["name"]: each["state"] for each in slots} == {
        "A": "good" if booted == "A" else "empty",
        "B": "bad",
        "C": "empty",
        "R": "good" if booted == "R" else "recovery",
    }
