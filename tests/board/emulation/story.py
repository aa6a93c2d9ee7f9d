"""A board with a job, from switching it on to its end, and what must hold of it whatever happened in between."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.board.emulation.emulator import Board, make_job, power_on, power_on_with_nor
from tests.board.image.build import MIB, SLOT_AT, SLOT_BYTES, BuiltBoard

GUEST = Path(__file__).resolve().parents[1] / "guest"
REPORT_PATIENCE_S = 150
RUN_PATIENCE_S = 420.0
NOR_BYTES = 2 * MIB


@dataclass
class Outcome:
    """What the host heard of a board."""

    started: list[str] = field(default_factory=list)
    """The slots that U-Boot started."""
    up: list[tuple[str, str]] = field(default_factory=list)
    """(slot, version) of the systems that came up."""
    images: list[tuple[str, str]] = field(default_factory=list)
    """(slot, SHA-256) of the running slot, as the board read it."""
    end: dict[str, Any] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)

    def take(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        match event["event"]:
            case "starting":
                self.started.append(event["slot"])
            case "up":
                self.up.append((event["slot"], event["version"]))
            case "image":
                self.images.append((event["slot"], event["sha256"]))
            case "end":
                self.end = event


class BoardRunner:
    """Runs boards, and keeps what they say on their consoles in a folder. Disks are the caller's."""

    def __init__(self, built: BuiltBoard, consoles: Path) -> None:
        self.built = built
        self.consoles = consoles
        consoles.mkdir(parents=True, exist_ok=True)
        self._hashes: dict[str, str] = {}

    def console_of(self, name: str) -> Path:
        """The file of what the board said."""
        return self.consoles / f"{name}.txt"

    def console(self, name: str) -> Path:
        """A fresh file for what the board says."""
        path = self.console_of(name)
        path.unlink(missing_ok=True)
        return path

    def hash_of(self, version: str) -> str:
        """SHA-256 of a version's root file system, which fills its slot."""
        if version not in self._hashes:
            with self.built.image(version).open("rb") as file:
                self._hashes[version] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._hashes[version]

    def report_job(self, folder: Path) -> Path:
        """The job of all stories of updates: see guest/report.py."""
        return self.guest_job(folder, f"report {REPORT_PATIENCE_S}")

    def guest_job(self, folder: Path, command: str) -> Path:
        """A job that runs a program of guest/ and, whatever becomes of it, switches the board off."""
        script = f"python3 -m tests.board.guest.{command} || poweroff\n"
        return make_job(folder / "job.img", script, guest_files())

    def run(
        self, name: str, disk: Path | None, job: Path | None, log: Path | None = None, flash: Path | None = None
    ) -> Outcome:
        """Switch on, listen until the board is off. Raises `GuestError` when that takes too long."""
        outcome = Outcome()
        with power_on(self.built, disk, self.console(name), job=job, log=log, flash=flash) as board:
            listen(board, outcome)
        return outcome


def guest_files() -> dict[str, bytes]:
    """The programs of guest/, as the packages that they are."""
    files = {f"tests/board/guest/{path.name}": path.read_bytes() for path in GUEST.glob("*.py")}
    return files | {"tests/__init__.py": b"", "tests/board/__init__.py": b""}


def listen(board: Board, outcome: Outcome, until: Callable[[], bool] | None = None) -> None:
    """Take what the board says until it is off; with `until`, look at that too, and cut the power when it holds."""
    for event in board.follow(RUN_PATIENCE_S, ticks=until is not None):
        if event is not None:
            outcome.take(event)
        elif until is not None and until():
            board.unplug()
            return


def run_with_nor(runner: BoardRunner, name: str, program: str, folder: Path) -> Outcome:
    """Run a program of guest/ on the machine with NOR flash, until it says that it is done."""
    job = folder / "job"
    for path, data in {**guest_files(), "job": f"python3 -m tests.board.guest.{program}\n".encode()}.items():
        (job / path).parent.mkdir(parents=True, exist_ok=True)
        (job / path).write_bytes(data)
    nor = folder / "nor.img"
    nor.write_bytes(b"\xff" * NOR_BYTES)
    outcome = Outcome()
    with power_on_with_nor(runner.built, nor, runner.console(name), job) as board:
        for event in board.follow(RUN_PATIENCE_S):
            if event is not None:
                outcome.take(event)
                if event["event"] == "done":
                    break
    return outcome


def slot_hash(disk: Path, slot: str) -> str:
    """SHA-256 of a slot of a disk."""
    digest = hashlib.sha256()
    with disk.open("rb") as file:
        file.seek(SLOT_AT[slot])
        for _ in range(SLOT_BYTES // MIB):
            digest.update(file.read(MIB))
    return digest.hexdigest()


def violations(runner: BoardRunner, outcome: Outcome, disk: Path, *, cuts: int) -> list[str]:
    """What does not hold of a board on which version 1 ran and version 2, a good one, was to be installed as `r2`.

    One cut costs at most one of the trial's two attempts. With more they may run out, and the old version stays.
    """
    found = []
    for slot, version in outcome.up:
        if version not in ("1", "2"):
            found.append(f"slot {slot} came up with version {version!r}")
    versions = dict(outcome.up)
    for slot, digest in outcome.images:
        if digest != runner.hash_of(versions[slot]):
            found.append(f"slot {slot} ran as version {versions[slot]}, and is not its image")
    if slot_hash(disk, "A") != runner.hash_of("1"):
        found.append("the slot that ran was written")
    end = outcome.end
    if end is None:
        return [*found, f"no end: {outcome.started}, {outcome.up}"]
    result = end["result"] or {}
    wanted = [("B", 200)] if cuts < 2 else [("B", 200), ("A", 410)]
    if result.get("id") != "r2" or (end["slot"], result.get("fumo")) not in wanted:
        found.append(f"on slot {end['slot']}: {result}")
    if end["outbox"] != ["result.json"] or end["inbox"]:
        found.append(f"not exactly one report: outbox {end['outbox']}, inbox {end['inbox']}")
    if end["status"]["state"] != "idle":
        found.append(f"the Update Agent is {end['status']['state']}")
    if end["slot"] == "B" and slot_hash(disk, "B") != runner.hash_of("2"):
        found.append("slot B is not version 2")
    if end["environment"]["BOOT_ORDER"].split()[0] != end["slot"]:
        found.append(f"the next boot would start another slot: {end['environment']}")
    return found
