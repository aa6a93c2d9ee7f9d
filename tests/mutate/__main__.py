"""Do the tests notice a fault? `python -m tests.mutate [all | MODULE...] [--workers 2] [--list] [--only FILE]`

Each module of `modules.toml` gets one small fault after another (mutations.py), and its tests are run over each. A
fault is *killed* if a test fails or does not end, *explained* if explained.txt says why no test can or need notice it,
and otherwise it *survives*. Fails if less than 95 % of a module's faults are killed or explained, and if an explanation
fits no survivor any more.

A whole module takes up to an hour. Whoever works on its survivors saves what a run printed, and gives that file to
`--only`: of each module only the faults named there are tried, and what is said then is about those alone. A line is
`path:line  name`, as `--list` prints it too; the number of the line is not looked at, and other lines are passed over.

No file is touched, so what else runs in the folder is not disturbed: every fault lives in a process of its own, forked
from one in which pytest is loaded, whose importer compiles the module with the fault in it. Why not mutmut or
cosmic-ray: mutmut 3 changes function bodies only and passes over properties and data, so no fault would ever be in a
state table; cosmic-ray starts pytest from scratch for each fault, some seconds each, over a copy that it edits.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import math
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

import pytest

from tests.mutate.mutations import Mutation, mutated, mutations

HERE = Path(__file__).parent
REPO = HERE.parents[1]
KILLED_PERCENT_MIN = 95
# A fault that makes a loop endless has this many times the processor's time of the good module, which other work on the
# machine does not make longer; one that waits for ever this much time by the clock; and each so much memory.
PATIENCE = 5
CPU_S_MIN = 5
WAIT_S_MAX = 600
MEMORY_BYTES_MAX = 3 << 30
# What tests write lies in memory: no fault is about the disk, and an fsync takes longer than most tests.
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

NAMED = re.compile(r"\s*(?P<path>\S+\.py):\d+  (?P<name>.+)")  # a fault, as it is printed

SURVIVED, KILLED, HUNG = "survived", "killed", "killed by the time limit"


@dataclass(frozen=True, slots=True)
class Target:
    """A module and the tests that look at it, as paths from the root of the project."""

    path: str
    tests: tuple[str, ...]

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").replace("/", ".")

    @property
    def source(self) -> str:
        return (REPO / self.path).read_text()


class Importer(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the module with the fault in the place of the file's."""

    def __init__(self, target: Target, code: CodeType) -> None:
        self.target = target
        self.code = code

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self.target.module:
            return None
        return importlib.util.spec_from_file_location(name, REPO / self.target.path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(self.code, module.__dict__)


def run_tests(target: Target, number: int | None, cpu_s: int, scratch: Path) -> int:
    """In a process of its own: the tests, with that fault; pytest's exit code."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    if number is not None:
        code = compile(mutated(target.source, number), target.path, "exec", dont_inherit=True)
        sys.meta_path.insert(0, Importer(target, code))
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # loading all of them takes longer than the tests
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "timeout", "-o", "faulthandler_timeout=0"]
    options += [f"--basetemp={scratch}", "-m", "not board and not process"]
    return int(pytest.main([*options, *target.tests]))


def in_a_child(target: Target, number: int | None, cpu_s: int, folder: Path) -> str:
    """What becomes of that fault. The child's output is in `log-NUMBER` of the folder."""
    log = log_of(folder, number)
    scratch = folder / f"scratch-{number}"
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            code = run_tests(target, number, cpu_s, scratch)
        finally:
            os._exit(code)
    ended = wait(child, WAIT_S_MAX)
    shutil.rmtree(scratch, ignore_errors=True)
    if ended in (None, -signal.SIGXCPU, -signal.SIGKILL):
        return HUNG
    return SURVIVED if ended == 0 else KILLED


def log_of(folder: Path, number: int | None) -> Path:
    return folder / f"log-{number}"


def wait(child: int, limit_s: float) -> int | None:
    """The exit code of a child of ours; None if it had to be killed, with all that it started."""
    handle = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        hung = not poll.poll(limit_s * 1000)
        if hung:
            os.killpg(child, signal.SIGKILL)
    finally:
        os.close(handle)
    _, status = os.waitpid(child, 0)
    return None if hung else os.waitstatus_to_exitcode(status)


def children_cpu_s() -> float:
    """The processor's time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@dataclass(frozen=True, slots=True)
class Result:
    target: Target
    outcomes: tuple[tuple[Mutation, str], ...]
    explained: frozenset[str]

    def count(self, outcome: str) -> int:
        return sum(each == outcome for _, each in self.outcomes)

    @property
    def survivors(self) -> list[Mutation]:
        return [each for each, outcome in self.outcomes if outcome == SURVIVED and each.name not in self.explained]

    @property
    def stale(self) -> list[str]:
        """Explanations of what does not survive, or is not there."""
        return sorted(self.explained - {each.name for each, outcome in self.outcomes if outcome == SURVIVED})

    @property
    def percent(self) -> float:
        return 100 * (1 - len(self.survivors) / len(self.outcomes)) if self.outcomes else 0.0

    def __str__(self) -> str:
        explained = self.count(SURVIVED) - len(self.survivors)
        return (
            f"{self.target.path}: {len(self.outcomes)} faults, {self.count(KILLED)} killed, {self.count(HUNG)} by the"
            f" time limit, {explained} explained, {len(self.survivors)} survived: {self.percent:.1f} %"
        )


def examine(target: Target, faults: Sequence[Mutation], explained: frozenset[str], workers: int) -> Result:
    """What becomes of these faults of a module; survivors are printed as they are found. Raises `SystemExit` if the
    tests do not pass without a fault."""
    with tempfile.TemporaryDirectory(prefix="mutate-", dir=SCRATCH) as name:
        folder = Path(name)
        before_s = children_cpu_s()
        if in_a_child(target, None, WAIT_S_MAX, folder) != SURVIVED:
            sys.exit(f"{target.path}: the tests fail without any fault:\n{log_of(folder, None).read_text()}")
        cpu_s = math.ceil(max(CPU_S_MIN, PATIENCE * (children_cpu_s() - before_s)))

        def judge(mutation: Mutation) -> tuple[Mutation, str]:
            outcome = in_a_child(target, mutation.number, cpu_s, folder)
            if outcome == SURVIVED and mutation.name not in explained:
                print(f"  {target.path}:{mutation.line}  {mutation.name}", flush=True)
            return mutation, outcome

        with ThreadPoolExecutor(workers) as pool:
            return Result(target, tuple(pool.map(judge, faults)), explained)


def load_targets() -> list[Target]:
    table = tomllib.loads((HERE / "modules.toml").read_text())["modules"]
    return [Target(path, tuple(tests)) for path, tests in table.items()]


def load_explained() -> dict[str, frozenset[str]]:
    """By module: the names of the faults that explained.txt speaks of, one per line, `path | name | why`."""
    found: dict[str, set[str]] = {}
    for line in (HERE / "explained.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            path, name, why = (part.strip() for part in line.split(" | "))
            if not why:
                sys.exit(f"explained.txt: no reason in: {line}")
            found.setdefault(path, set()).add(name)
    return {path: frozenset(names) for path, names in found.items()}


def load_only(file: Path) -> dict[str, frozenset[str]]:
    """By module: the names of the faults in a file of lines `path:line  name`."""
    found: dict[str, set[str]] = {}
    for line in file.read_text().splitlines():
        if match := NAMED.fullmatch(line):
            found.setdefault(match["path"], set()).add(match["name"])
    return {path: frozenset(names) for path, names in found.items()}


def report(results: Iterable[Result]) -> int:
    code = 0
    for result in results:
        for name in result.stale:
            print(f"  explained, but no survivor: {name}")
        print(result, flush=True)
        code |= result.percent < KILLED_PERCENT_MIN or bool(result.stale)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description="Do the tests notice a fault?")
    parser.add_argument("modules", nargs="*", default=["all"], help="paths, or parts of them; `all`")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--list", action="store_true", help="only name the faults")
    parser.add_argument("--only", type=Path, metavar="FILE", help="only the faults that are named in this file")
    arguments = parser.parse_args()
    chosen = [t for t in load_targets() if arguments.modules == ["all"] or any(m in t.path for m in arguments.modules)]
    if not chosen:
        parser.error("no such module in modules.toml")
    faults = {target: mutations(target.source) for target in chosen}
    explained = load_explained()
    if arguments.only:
        only = load_only(arguments.only)
        faults = {
            target: some
            for target, each in faults.items()
            if (some := [fault for fault in each if fault.name in only.get(target.path, ())])
        }
        explained = {path: names & only.get(path, frozenset()) for path, names in explained.items()}
    if arguments.list:
        for target, each in faults.items():
            for fault in each:
                print(f"{target.path}:{fault.line}  {fault.name}")
        return 0
    return report(
        examine(target, each, explained.get(target.path, frozenset()), arguments.workers)
        for target, each in faults.items()
    )


if __name__ == "__main__":
    sys.exit(main())
