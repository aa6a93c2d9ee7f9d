"""Power cuts on the board: `python -m tests.board.emulation.cuts --cuts 50 --seed 7` plays more than the tests do.

One update is played and recorded. For each cut, a disk is made as the cut would have left it (`writelog`), and a board
is switched on with it. On some of them the emulator itself is killed once more in the middle, and what its disk then
had not flushed is lost as well; they are switched on a third time.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.board.emulation.emulator import GuestError, end_of, power_on
from tests.board.emulation.factory import Factory
from tests.board.emulation.story import BoardRunner, Outcome, listen, violations
from tests.board.emulation.writelog import Cut, Loss, Write, apply_cut, read
from tests.board.image import build, debian
from tests.board.image.build import ENV_AT

EMULATORS = 2
SECOND_CUT_EVERY = 3
KILL_AFTER_WRITES_MAX = 150
ENVIRONMENT_BYTES = ENV_AT[1] - ENV_AT[0] + 0x10000


@dataclass(frozen=True)
class Plan:
    """A cut of the recorded update. The emulator of the board that goes on is killed after `kill_after` writes."""

    number: int
    cut: Cut
    kill_after: int | None


@dataclass(frozen=True)
class Played:
    """What became of a cut."""

    plan: Plan
    losses: tuple[Loss, ...]
    outcomes: tuple[Outcome, ...]
    violations: tuple[str, ...]

    def __str__(self) -> str:
        last = self.outcomes[-1]
        end = last.end or {}
        result = end.get("result") or {}
        lost = "; ".join(f"{loss.kept} kept {loss.torn} torn {loss.lost} lost" for loss in self.losses)
        path = "".join(slot for outcome in self.outcomes for slot in [*outcome.started, "|"]).strip("|")
        said = ", ".join(self.violations) or "all holds"
        return (
            f"cut {self.plan.number} before write {self.plan.cut.index}: {lost}; {path}; {result.get('fumo')}; {said}"
        )


def is_environment(write: Write) -> bool:
    """Whether a write is one of the boot environment."""
    return ENV_AT[0] <= write.at < ENV_AT[0] + ENVIRONMENT_BYTES and write.size > 0


def plan(writes: Sequence[Write], cuts: int, seed: int) -> list[Plan]:
    """Half of the cuts at writes of the boot environment (done, but not flushed), the others spread over all writes."""
    chance = random.Random(seed)
    commits = [index + 1 for index, write in enumerate(writes) if is_environment(write)]
    wanted = chance.sample(commits, min(cuts // 2, len(commits)))
    rest = cuts - len(wanted)
    wanted += [
        chance.randrange(len(writes) * part // rest + 1, len(writes) * (part + 1) // rest) for part in range(rest)
    ]
    return [
        Plan(
            number,
            Cut(index, chance.randrange(1 << 32)),
            chance.randrange(5, KILL_AFTER_WRITES_MAX) if number % SECOND_CUT_EVERY == SECOND_CUT_EVERY - 1 else None,
        )
        for number, index in enumerate(sorted(wanted))
    ]


def play(runner: BoardRunner, base: Path, log: Path, job: Path, planned: Plan, folder: Path) -> Played:
    """Make the cut, switch on, and see what must hold."""
    disk = folder / f"cut-{planned.number}.img"
    losses = [apply_cut(base, log, planned.cut, disk)]
    outcomes: list[Outcome] = []
    name = f"cut-{planned.number}"
    try:
        if planned.kill_after is not None:
            second = _killed(runner, disk, job, planned, name + "-killed", outcomes)
            if second is not None:
                losses.append(second)
        if not outcomes or outcomes[-1].end is None:
            outcomes.append(runner.run(name, disk, job))
        whole = Outcome()
        for outcome in outcomes:
            for event in outcome.events:
                whole.take(event)
        found = violations(runner, whole, disk, cuts=len(losses))
        if whole.end is None:
            found.append(end_of(runner.console_of(name)))
    except GuestError as error:
        found = [str(error)]
    finally:
        disk.unlink(missing_ok=True)
    return Played(planned, tuple(losses), tuple(outcomes), tuple(found))


def _killed(
    runner: BoardRunner, disk: Path, job: Path, planned: Plan, name: str, outcomes: list[Outcome]
) -> Loss | None:
    """Go on, and kill the emulator after some writes; None when the board had ended before."""
    before, log = disk.with_suffix(".before"), disk.with_suffix(".log")
    debian.run("cp", "--sparse=always", disk, before)
    outcome = Outcome()
    outcomes.append(outcome)
    with power_on(runner.built, disk, runner.console(name), job=job, log=log) as board:
        listen(board, outcome, until=lambda: len(read(log)) >= (planned.kill_after or 0))
    if outcome.end is not None:
        return None
    loss = apply_cut(before, log, Cut(sys.maxsize, planned.cut.seed + 1), disk)
    before.unlink()
    log.unlink()
    return loss


def play_all(
    runner: BoardRunner, base: Path, log: Path, job: Path, plans: Sequence[Plan], folder: Path
) -> Iterator[Played]:
    """All cuts in their order, some at once."""
    with ThreadPoolExecutor(EMULATORS) as pool:
        yield from pool.map(lambda one: play(runner, base, log, job, one, folder), plans)


def main() -> int:
    import argparse

    parser = argparse.ArgumentParser(prog="tests.board.emulation.cuts")
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    built = build.build()
    runner = BoardRunner(built, build.CACHE / "consoles")
    with tempfile.TemporaryDirectory(prefix="runs-", dir=build.CACHE) as name:
        folder = Path(name)
        disk = Factory(built, folder).disk(folder, update="2")
        base, log, job = folder / "base.img", folder / "writes.log", runner.report_job(folder)
        debian.run("cp", "--sparse=always", disk, base)
        runner.run("update", disk, job, log)
        bad = 0
        for played in play_all(runner, base, log, job, plan(read(log), arguments.cuts, arguments.seed), folder):
            print(played, flush=True)
            bad += bool(played.violations)
    print(f"{arguments.cuts} cuts, {bad} with violations")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
