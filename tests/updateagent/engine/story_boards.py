"""Stories of power cuts with hooks, with state whose form changes between versions, and with a recovery system.

The hooks are values that work on the simulated disk. What must hold, beside what holds of every update: `pre-install`
has ended before a byte of the target slot is written, `post-install` before the new version is started, and `migrate`
before its agent is; each may have been begun more often. `migrate` always finds a fresh copy of the old state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from tests.updateagent.board import SLOT_BYTES, TRIES, Board, PlainPackage, Shelf, content, plain_package
from tests.updateagent.engine.power import Story, Violation
from updateagent.boot.policy import BootEnv
from updateagent.boot.rauc import RaucPolicy
from updateagent.disk import RawFile, Storage
from updateagent.engine.deps import EngineDeps, Package
from updateagent.errors import HOOK, PackageError
from updateagent.slots.block import FileSlot, Slot

STATE = {
    "1": {"form": b"1", "account": b"the head-end's address", "readings/0": b"r" * 700},
    "2": {"form": b"2", "account": b"the head-end's address", "records/main/0": b"R" * 900},
}
NOTE = "last-start"  # what an agent of each version writes for itself
STEPS = ("pre-install", "post-install", "migrate")


@dataclass(frozen=True)
class HookedPackage(PlainPackage):
    """A package with hooks; the step named by `failing` does its work and then fails."""

    disk: Storage | None = None
    done: Path = Path()
    failing: str = ""

    def run_hook(self, step: str, variables: Mapping[str, str]) -> None:
        assert self.disk is not None
        if step not in self.hooks:
            return
        try:
            if step == "migrate":
                migrate(self.disk, Path(variables["DCU_STATE"]))
            self.disk.write_durable(self.done / step, b"done")
        except OSError as error:
            raise PackageError(HOOK, f"hook {step} ended with 2: {error}") from error
        if step == self.failing:
            raise PackageError(HOOK, f"hook {step} ended with 1")


def migrate(disk: Storage, copy: Path) -> None:
    """From form 1 to form 2, in place and synced nowhere, as a shell script would."""
    found = read_state(disk, copy)
    found.pop(NOTE, None)
    if found != STATE["1"]:
        raise Violation("the migration does not begin with the old state")
    disk.mkdir(copy / "records", 0o700)
    disk.mkdir(copy / "records" / "main", 0o700)
    with disk.open_raw(copy / "records" / "main" / "0", write=True, create=True) as file:
        file.pwrite(STATE["2"]["records/main/0"], 0)
    disk.unlink(copy / "readings" / "0")
    disk.rmdir(copy / "readings")
    with disk.open_raw(copy / "form", write=True) as file:
        file.pwrite(b"2", 0)


def read_state(disk: Storage, folder: Path, below: str = "") -> dict[str, bytes]:
    """The files of a folder, by their path in it."""
    found: dict[str, bytes] = {}
    for name in disk.listdir(folder):
        if disk.is_dir(folder / name):
            found |= read_state(disk, folder / name, f"{below}{name}/")
        else:
            found[below + name] = disk.read_bytes(folder / name)
    return found


class HookedShelf(Shelf):
    """Hands out packages whose hooks work on the board's disk."""

    done = Path()

    def with_disk(self, package: Package) -> Package:
        return replace(package, disk=self.disk, done=self.done) if isinstance(package, HookedPackage) else package


class SlotAfterHook(FileSlot):
    """A slot that may be written only when the hook before has ended."""

    done = Path()

    def open(self, *, write: bool = False) -> RawFile:
        if write and not self._disk.exists(self.done / "pre-install"):
            raise Violation("written before the hook had ended")
        return super().open(write=write)


class HookedBoard(Board):
    """A board with a state folder, which knows what each hook has done."""

    def __init__(self, folder: Path, disk: Storage | None = None) -> None:
        super().__init__(folder, disk)
        self.state = folder / "data" / "state"
        self.done = folder / "done"
        self.shelf = HookedShelf(self.disk)
        self.shelf.done = self.done

    def assemble(self) -> None:
        super().assemble()
        self.disk.mkdir_durable(self.done)
        for name, data in STATE["1"].items():
            self.disk.mkdir_durable((self.state / name).parent)
            self.disk.write_durable(self.state / name, data)

    def deps(self) -> EngineDeps:
        return replace(super().deps(), state_dirs=(str(self.state),))

    def partitions(self) -> dict[str, dict[str, Slot]]:
        partitions: dict[str, dict[str, Slot]] = {}
        for name in ("A", "B"):
            slot = SlotAfterHook(self.disk, name, self.slot_file(name), SLOT_BYTES)
            slot.done = self.done
            partitions[name] = {"rootfs": slot}
        return partitions

    def running_version(self) -> str:
        version = super().running_version()
        assert version == "1" or self.disk.exists(self.done / "post-install"), "started before the hook had ended"
        return version

    def start_agent(self) -> None:
        super().start_agent()
        version = self.running_version()
        self._check_state(version)
        self.disk.write_durable(self.state / NOTE, version.encode())

    def check_at_rest(self) -> None:
        version = self.running_version()
        found = self._check_state(version)
        assert found in (None, version.encode()), f"the state of version {version} holds what another one wrote"
        assert self.disk.listdir(self.state.parent) == [self.state.name], "copies of the state are left"

    def _check_state(self, version: str) -> bytes | None:
        found = read_state(self.disk, self.state)
        note = found.pop(NOTE, None)
        found.pop(f".{NOTE}.tmp", None)
        assert found == STATE[version], f"finds the state {sorted(found)}, of form {found.get('form')!r}"
        return note


def hooked_stories() -> list[Story]:
    """Updates with hooks: good, never healthy after the migration, and with a hook that fails at each step."""

    def story(name: str, fumo: int, *, healthy: bool = True, failing: str = "") -> Story:
        image = plain_package("2").images
        package = HookedPackage("2", images=image, hooks=STEPS, failing=failing)
        return Story(name, "2", package, healthy, fumo, make_board=HookedBoard)

    return [
        story("migration", 200),
        story("migration, never healthy", 410, healthy=False),
        story("migration that fails", 410, failing="migrate"),
        story("hook before that fails", 410, failing="pre-install"),
        story("hook after that fails", 410, failing="post-install"),
    ]


# --- boards with a recovery system in a third slot, R ---

RECOVERY_VERSION = "9"


class WithRecovery(Board):
    """A good system in A, nothing in B, and a recovery system that nobody needs."""

    ENVIRONMENT: ClassVar = {"BOOT_ORDER": "A R", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "0", "BOOT_R_LEFT": "3"}

    def assemble(self) -> None:
        super().assemble()
        self.disk.write_durable(self.slot_file("R"), content(RECOVERY_VERSION).ljust(SLOT_BYTES, b"\xff"))

    def make_environment(self) -> None:
        self.environment.create(self.ENVIRONMENT)

    def bootenv(self) -> BootEnv:
        return RaucPolicy(self.open_variables(), ("A", "B", "R"), TRIES, "R")


class InRecovery(WithRecovery):
    """Both systems are broken, their attempts are used up."""

    ENVIRONMENT: ClassVar = {"BOOT_ORDER": "A B R", "BOOT_A_LEFT": "0", "BOOT_B_LEFT": "0", "BOOT_R_LEFT": "3"}

    def assemble(self) -> None:
        super().assemble()
        for name in "AB":
            self.disk.write_durable(self.slot_file(name), b"\0" * SLOT_BYTES)


def recovery_stories() -> list[Story]:
    """An update with a recovery slot behind it, and one from the recovery system; each for good and for bad."""
    good = Story("good, with recovery", "2", plain_package("2"), healthy=True, fumo=200, make_board=WithRecovery)
    bad = replace(good, name="never healthy, with recovery", version="3", package=plain_package("3"), healthy=False)
    return [
        good,
        replace(bad, fumo=410),
        replace(good, name="good, from recovery", make_board=InRecovery, old_version=RECOVERY_VERSION),
        replace(
            bad, name="never healthy, from recovery", make_board=InRecovery, old_version=RECOVERY_VERSION, fumo=410
        ),
    ]
