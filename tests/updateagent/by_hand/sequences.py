"""Every sequence of commands of `dcu-update` from every state of a board, and what must hold after each.

From a number of states, all commands are given one after the other, up to a depth; boards that have come to the same
state are followed once. After each command the board is switched on without anybody's help, and

* the boot loader comes, within the attempts that it has, to a system whose content is whole, and stays there;
* that system is one that was known to be good: a version that never gets well does not run for good, unless a person
  confirmed it on trial;
* the agent's request is answered at most once, and an answer is not replaced before it was taken.

With `cuts`, each command is also cut at each of its operations, in the same two dimensions.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.sim.board.uboot import BootLoaderError
from tests.sim.faulty_disk import FaultyDisk, Operation, PowerCut, Survival
from tests.updateagent.board import Board, content, plain_package
from updateagent.engine.mailbox import BY_HAND_PACKAGE
from updateagent.engine.updater import Updater
from updateagent.errors import EXIT_GUARD_WANTED, EXIT_OK, EXIT_REBOOT_WANTED, UpdateError
from updateagent.handover import InstallRequest

ROOT = Path("/board")
STARTS_MAX = 60
THE_AGENTS = "agent takes the answer"  # no command of `dcu-update`; its cuts are those of the agent's own tests
NEVER_WELL = "3"  # this version starts, and its health check is never good
MakeBoard = Callable[[Path, FaultyDisk], Board]
TEARS = {"before": 0.0, "torn": 0.5, "after": 1.0}


class Violation(AssertionError):
    """Something that must always hold did not."""


@dataclass
class Place:
    """A board's disk, which slot runs, and the answers that the agent has taken (by the request's id)."""

    disk: FaultyDisk
    booted: str
    boot_id: str = "b0"
    canary: str | None = None
    make_board: MakeBoard = Board
    taken: tuple[str, ...] = ()
    confirmed: frozenset[str] = frozenset()
    """Versions that a person said were good."""
    handed: int = 0
    starts: int = 0

    def copy(self, disk: FaultyDisk | None = None) -> Place:
        return Place(
            disk or self.disk.copy(), self.booted, self.boot_id, self.canary, self.make_board, self.taken,
            self.confirmed, self.handed, self.starts,
        )  # fmt: skip

    def board(self) -> Board:
        board = self.make_board(ROOT, self.disk)
        board.booted, board.boot_id, board.canary = self.booted, self.boot_id, self.canary
        for version in ("2", NEVER_WELL):
            board.shelf.packages[version] = plain_package(version)
        return board

    def key(self) -> tuple[object, ...]:
        """What tells this state from another: everything but counters that only grow."""
        files = []
        for name in ("uboot.env", "grubenv", "slot-a.img", "slot-b.img", *_below(self.disk, ROOT / "update")):
            path = ROOT / name
            if self.disk.exists(path) and self.disk.is_file(path):
                files.append((name, _without_counters(name, self.disk.read_bytes(path), self)))
        return (self.booted, self.taken, self.confirmed, tuple(files))


def _below(disk: FaultyDisk, folder: Path) -> Iterator[str]:
    for name in disk.listdir(folder):
        if name in ("status.json", ".spare") or name.startswith("journal"):
            continue
        path = folder / name
        if disk.is_dir(path):
            yield from _below(disk, path)
        else:
            yield str(path.relative_to(ROOT))


def _without_counters(name: str, raw: bytes, place: Place) -> object:
    if name in ("uboot.env", "grubenv"):
        try:
            variables = dict(place.board().open_variables().load().variables)
        except UpdateError as error:
            return str(error)
        variables.pop("dcu_boots", None)
        record = place.board().updater().record
        update = record.update
        here = update is not None and update.boot_id == place.boot_id
        slots = sorted((name, note.version, note.state, note.why, note.proven) for name, note in record.slots.items())
        known = update and (update.target, update.attempts, update.by_hand, update.to_version, update.id)
        return repr((sorted(variables.items()), record.state, slots, record.last, known, here, record.lost))
    return hash(raw)


# -- the commands


def _mark(how: str, slot: str, *, force: bool) -> Callable[[Place], None]:
    return lambda place: place.board().by_hand().mark(slot, how, force=force)


def _rollback(*, force: bool) -> Callable[[Place], None]:
    def run(place: Place) -> None:
        place.board().by_hand().rollback(force=force)

    return run


def _confirm(place: Place) -> None:
    board = place.board()
    place.confirmed |= {board.running_version()}  # also where the power goes meanwhile: it may be durable
    board.updater().confirm()


def _cancel(place: Place) -> None:
    place.board().by_hand().cancel()


def _install(version: str) -> Callable[[Place], None]:
    def run(place: Place) -> None:
        board = place.board()
        person = board.by_hand()
        person.check_free()
        board.disk.write_durable(board.mailbox().inbox / BY_HAND_PACKAGE, version.encode())
        person.install(InstallRequest(f"by-hand-{version}", BY_HAND_PACKAGE, "", board.wall))

    return run


def _hand_over(version: str) -> Callable[[Place], None]:
    def run(place: Place) -> None:
        board = place.board()
        if board.mailbox().read_request() is None:
            board.hand_over(version, f"r{place.handed + 1}")
            place.handed += 1

    return run


def _start(place: Place) -> None:
    for _ in range(STARTS_MAX):
        version, _done = switch_on(place)
        if version is not None:  # nobody gives commands to a system that does not start
            return
    raise Violation(f"no system starts in {STARTS_MAX} tries")


def _agent_takes(place: Place) -> None:
    take_answer(place, place.board())


COMMANDS: dict[str, Callable[[Place], None]] = {
    **{
        f"mark {how} {slot}{' --force' if force else ''}": _mark(how, slot, force=force)
        for how in ("good", "bad", "active")
        for slot in "AB"
        for force in (False, True)
    },
    "rollback": _rollback(force=False),
    "rollback --force": _rollback(force=True),
    "confirm": _confirm,
    "cancel": _cancel,
    "install 2": _install("2"),
    "install 3": _install(NEVER_WELL),
    "hand over 2": _hand_over("2"),
    "start": _start,
    THE_AGENTS: _agent_takes,
}


# -- the world around


def take_answer(place: Place, board: Board) -> None:
    """What the agent does with a result. Raises `Violation` for a second one of the same request."""
    result = board.result()
    if result is None:
        return
    if result["id"] in place.taken:
        raise Violation(f"a second answer to {result['id']}: {result['name']}")
    place.taken += (result["id"],)
    board.disk.remove_durable(board.mailbox().result_file)


def whole_version(board: Board) -> str | None:
    """The version whose image the running slot holds; None when it holds none, and does not start."""
    data = board.disk.read_bytes(board.slot_file(board.booted))
    return next((one for one in "123" if data[: len(content(one))] == content(one)), None)


def switch_on(place: Place) -> tuple[str | None, bool]:
    """One start: the version that started (None: it did not) and whether nothing is left to do. Raises `Violation`."""
    board = place.board()
    try:
        board.power_on()
    except BootLoaderError as error:
        raise Violation(f"a brick: {error}") from error
    place.starts += 1
    place.booted, place.boot_id, place.canary = board.booted, f"b{place.starts}", board.canary
    board.boot_id = place.boot_id
    version = whole_version(board)
    if version is None:
        return None, False
    code = board.updater().boot()
    if code == EXIT_REBOOT_WANTED:
        return version, False
    if code == EXIT_GUARD_WANTED and _guard(board.updater(), version) == EXIT_REBOOT_WANTED:
        return version, False
    return version, True


def _guard(updater: Updater, version: str) -> int:
    healthy = version != NEVER_WELL
    if not updater.on_trial:
        if healthy:
            updater.mark_good()
        return EXIT_OK
    if healthy:
        return updater.confirm()
    updater.record_failure("meter_port", "no answer")
    return EXIT_REBOOT_WANTED


def check(place: Place) -> None:
    """Switch on until the board has settled. Raises `Violation`."""
    settled: list[str] = []
    for _ in range(STARTS_MAX):
        version, done = switch_on(place)
        if version is None or not done:
            settled = []
            continue
        board = place.board()
        take_answer(place, board)
        settled.append(version)
        if len(settled) >= 2 and settled[-1] == settled[-2] and board.mailbox().read_request() is None:
            if version == NEVER_WELL and version not in place.confirmed:
                raise Violation("a version that never gets well runs for good")
            if board.mailbox().is_full() or board.result() is not None:
                continue
            missing = {f"r{number + 1}" for number in range(place.handed)} - set(place.taken)
            if missing:
                raise Violation(f"never answered: {' '.join(sorted(missing))}")
            return
    raise Violation(f"no system runs for good after {STARTS_MAX} starts (booted {place.booted})")


# -- where it begins


def beginnings(make_board: MakeBoard = Board) -> dict[str, Place]:
    """The states that sequences begin in."""
    made: dict[str, Place] = {}

    def begin(name: str, *commands: str) -> Place:
        place = factory(make_board)
        for command in commands:
            COMMANDS[command](place)
        made[name] = place
        return place

    begin("factory")
    begin("a request waits", "hand over 2")
    begin("written, not started", "install 2")
    begin("written, not started, for the agent", "hand over 2", "start")
    begin("confirmed", "install 2", "start")
    begin("confirmed, the answer not taken", "hand over 2", "start", "start")
    begin("on trial", "install 3", "start")
    begin("given up", "install 3", *["start"] * 6)
    begin("gone back", "install 2", "start", "rollback", "start")
    rotten = begin("gone back, and the other one has rotted", "install 2", "start", "rollback", "start")
    damage(rotten, "B")
    rotten = begin("confirmed, and the other one has rotted", "install 2", "start")
    damage(rotten, "A")
    begin("half written", "install 2")
    _half_written(made["half written"])
    wiped = begin("the data partition was lost", "install 2", "start")
    wiped.disk.remove_tree_durable(ROOT / "update")
    wiped.disk.mkdir_durable(ROOT / "update" / "inbox")
    for place in made.values():
        place.disk.sync_all()
    return made


def factory(make_board: MakeBoard) -> Place:
    disk = FaultyDisk()
    disk.mkdir_durable(ROOT)
    make_board(ROOT, disk).assemble()
    place = Place(disk, "A", make_board=make_board)
    switch_on(place)
    return place


def damage(place: Place, slot: str) -> None:
    path = place.board().slot_file(slot)
    with place.disk.open_raw(path, write=True) as file:
        file.pwrite(b"rotten", 5000)
        file.sync()


def _half_written(place: Place) -> None:
    """An install that lost its power in the middle of the slot."""
    fresh = factory(place.make_board)

    def plan(operation: Operation) -> float | None:
        return 0.5 if operation.path.name == "slot-b.img" and operation.kind == "sync" else None

    fresh.disk.on_operation = plan
    try:
        COMMANDS["install 2"](fresh)
    except PowerCut:
        place.disk = fresh.disk.after_power_cut(Survival.KEPT, Random(1))
        place.booted = "A"
        switch_on(place)
        return
    raise AssertionError("the cut did not fire")


# -- the enumeration


@dataclass
class Tally:
    """What was tried: commands given, cuts fired, states followed, and what was wrong."""

    given: int = 0
    refused: int = 0
    cuts: int = 0
    states: int = 0
    by_command: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.states} states, {self.given} commands ({self.refused} refused), {self.cuts} power cuts, "
            f"{len(self.violations)} wrong"
        )


def explore(make_board: MakeBoard = Board, *, depth: int = 3, cuts_to: int = 0, stop_at_first: bool = False) -> Tally:
    """Every sequence of up to `depth` commands from every beginning; the first `cuts_to` of them are also cut, at
    every operation."""
    tally = Tally()
    seen: set[tuple[object, ...]] = set()
    level: list[tuple[tuple[str, ...], Place]]
    level = [((name,), place) for name, place in beginnings(make_board).items()]
    for number in range(depth):
        following: list[tuple[tuple[str, ...], Place]] = []
        for way, place in level:
            key = place.key()
            if key in seen:
                continue
            seen.add(key)
            tally.states += 1
            for name in COMMANDS:
                after = _give(tally, way, place, name)
                if after is not None:
                    following.append(((*way, name), after))
                if number < cuts_to and name != THE_AGENTS:
                    _cut(tally, way, place, name)
                if tally.violations and stop_at_first:
                    return tally
        level = following
    return tally


def _give(tally: Tally, way: tuple[str, ...], place: Place, name: str) -> Place | None:
    """Give one command; the state after it, or None when it was refused, or anything is wrong."""
    after = place.copy()
    tally.given += 1
    try:
        COMMANDS[name](after)
    except UpdateError:
        tally.refused += 1
    except Violation as violation:
        tally.violations.append(f"{' > '.join((*way, name))}: {violation}")
        return None
    else:
        tally.by_command[name] += 1
    try:
        check(after.copy())
    except Violation as violation:
        tally.violations.append(f"{' > '.join((*way, name))}: {violation}")
        return None
    return after


def _cut(tally: Tally, way: tuple[str, ...], place: Place, name: str) -> None:
    """Give one command, and cut the power at each of its operations."""
    whole = place.copy()
    whole.disk.operations = 0
    with suppress(UpdateError):
        COMMANDS[name](whole)
    for number in range(1, whole.disk.operations + 1):
        for phase, tear in TEARS.items():
            after = place.copy()
            if not _cut_at(after, name, number, tear):
                continue
            tally.cuts += 1
            found = after.disk.after_power_cut(Survival.HOLED, Random(f"{way} {name} {number} {phase}"))
            try:
                check(after.copy(found))
            except Violation as violation:
                tally.violations.append(f"{' > '.join((*way, name))}, cut at {number} {phase}: {violation}")


def _cut_at(place: Place, name: str, number: int, tear: float) -> bool:
    def plan(operation: Operation) -> float | None:
        if operation.number != number:
            return None
        if not tear:
            raise PowerCut
        return tear

    place.disk.operations = 0
    place.disk.on_operation = plan
    try:
        COMMANDS[name](place)
    except PowerCut:
        return True
    except UpdateError:
        return False
    finally:
        place.disk.on_operation = None
    return False


def main() -> int:
    """Explore every boot loader; 1 when anything is wrong."""
    from tests.updateagent.boot.loaders import BootcountBoard, GrubBoard, MenderBoard

    logging.disable(logging.CRITICAL)
    depth = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    cuts_to = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    wrong = False
    for make_board in (Board, BootcountBoard, MenderBoard, GrubBoard):
        tally = explore(make_board, depth=depth, cuts_to=cuts_to)
        print(make_board.__name__, tally, flush=True)
        print("  ", json.dumps(dict(sorted(tally.by_command.items()))))
        for line in tally.violations[:20]:
            print("  ", line)
        wrong |= bool(tally.violations)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
