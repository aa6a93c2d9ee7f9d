"""Runs the benchmarks: `python -m tests.bench [NAME…] [--write | --against DIR]`.

Every module beside this one that offers `run() -> list[Figure]` is a benchmark, named like its file. One whose `run`
takes arguments, or that has only a `main`, is run as a program; the lines of its table become figures. With `--write`
the sections of docs/benchmarks.md that were measured are written again, and the others stay as they are; each figure is
also appended to docs/benchmarks-history.csv, with the date and the commit. With `--against` a module that has a
`compare(checkout)` measures this checkout and that one in the same run, and nothing is written.

The exit status is 1 when a figure missed what was wanted of it or a benchmark failed, 0 otherwise. What is not on this
machine (a peer to compare with) is reported as missing and is no failure.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import inspect
import os
import platform
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType

from tests.bench.figure import MISSED, OK, Figure

FOLDER = Path(__file__).parent
REPO = FOLDER.parents[1]
PAGE = REPO / "docs" / "benchmarks.md"
HISTORY = REPO / "docs" / "benchmarks-history.csv"
HISTORY_COLUMNS = ("date", "commit", "bench", "figure", "value", "ratio", "verdict")
SECONDS_MAX = 900
_INTRODUCTION = """# Figures

Written by `python -m tests.bench --write`; with a NAME only its section is measured again. `make bench` measures and
prints. Absolute times depend on the machine, so what is wanted is stated as a ratio to something that was measured in
the same run: a tool that everybody has, a bare interpreter, or a peer as Debian ships it. Python's modules are compiled
beforehand, as they are on a device. Peers that are not installed are said to be absent: `apt-packages-bench.txt` names
Debian's, `make bench` fetches those from PyPI. What each run with `--write` measured is kept in
`docs/benchmarks-history.csv`.
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """A module of benchmarks."""

    name: str
    about: str
    figures: Callable[[], Sequence[Figure]]
    compare: Callable[[Path], Sequence[Figure]] | None = None


def find(folder: Path = FOLDER, package: str = "tests.bench") -> dict[str, Bench]:
    """The benchmarks of a folder, by name."""
    found = {}
    for path in sorted(folder.glob("[a-z]*.py")):
        if path.stem.startswith("test_"):
            continue
        module = importlib.import_module(f"{package}.{path.stem}")
        figures = _figures_of(module)
        if figures is not None:
            found[path.stem] = Bench(path.stem, _first_sentence(module), figures, getattr(module, "compare", None))
    return found


def _figures_of(module: ModuleType) -> Callable[[], Sequence[Figure]] | None:
    run = getattr(module, "run", None)
    if run is not None and not any(
        parameter.default is parameter.empty for parameter in inspect.signature(run).parameters.values()
    ):
        measure: Callable[[], Sequence[Figure]] = run
        return measure
    if hasattr(module, "main"):
        return lambda: printed(module.__name__)
    return None


def _first_sentence(module: ModuleType) -> str:
    paragraph = " ".join((module.__doc__ or "").strip().split("\n\n")[0].split())
    return paragraph.split(": `python")[0].rstrip(".:") + "."


def printed(module: str) -> list[Figure]:
    """Run a module that prints its table, and read the table. Raises `RuntimeError`."""
    done = subprocess.run(
        [sys.executable, "-m", module], cwd=REPO, capture_output=True, text=True, check=False, timeout=SECONDS_MAX
    )
    figures = [figure for line in done.stdout.splitlines() if (figure := parse_line(line))]
    if done.returncode not in (0, 1) or not figures or (done.returncode and "Traceback" in done.stderr):
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2] or f"ended with {done.returncode}")
    return figures


def parse_line(line: str) -> Figure | None:
    """What, value, and perhaps what was wanted and the verdict, in columns that are at least two spaces apart."""
    columns = re.split(r" {2,}", line.strip())
    if len(columns) < 2:
        return None
    what, value, wanted, verdict = (*columns, "", "")[:4]
    if verdict not in {OK, MISSED}:
        return Figure(what, value, wanted)
    return Figure(what, value, wanted, verdict == OK)


def table(figures: Sequence[Figure]) -> str:
    """The figures as a table for the terminal."""
    rows = [(figure.what, figure.value, figure.wanted, figure.verdict) for figure in figures]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    return "\n".join(
        f"  {what:<{widths[0]}}  {value:>{widths[1]}}  {wanted:<{widths[2]}}  {verdict}".rstrip()
        for what, value, wanted, verdict in rows
    )


def section(bench: Bench, figures: Sequence[Figure], machine: str) -> str:
    """One section of the page, with its markers."""
    rows = "\n".join(f"| {one.what} | {one.value} | {one.wanted} | {one.verdict} |" for one in figures)
    return (
        f"{_begin(bench.name)}\n## {bench.name}\n\n{textwrap.fill(bench.about, 118, break_on_hyphens=False)}\n\n"
        f"`python -m tests.bench {bench.name}` on {machine}.\n\n"
        f"| what | measured | wanted | |\n| --- | --- | --- | --- |\n{rows}\n{_end(bench.name)}\n"
    )


def _begin(name: str) -> str:
    return f"<!-- {name}: begin, written by tests.bench -->"


def _end(name: str) -> str:
    return f"<!-- {name}: end -->"


def replaced(page: str, name: str, new: str) -> str:
    """The page with the section `name` exchanged, or added at its end."""
    begin, end = page.find(_begin(name)), page.find(_end(name))
    if begin < 0 or end < begin:
        return f"{page.rstrip()}\n\n{new}"
    return page[:begin] + new + page[end + len(_end(name)) :].removeprefix("\n")


def machine_class() -> str:
    """What kind of machine this is, without anything that tells which one."""
    system = f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    sha = ""
    try:
        flags = Path("/proc/cpuinfo").read_text()
        sha = ", with SHA instructions" if re.search(r"\b(sha_ni|sha2)\b", flags) else ", without SHA instructions"
    except OSError:
        pass
    python = f"{platform.python_implementation()} {'.'.join(platform.python_version_tuple()[:2])}"
    return f"{platform.machine()}{sha}, {os.cpu_count()} CPUs, {memory:.0f} GiB, {system}, {python}"


def measure(bench: Bench) -> list[Figure]:
    """Run one; a failure of it is a figure too, and a bad one."""
    try:
        return list(bench.figures())
    except Exception as error:
        return [Figure("the benchmark failed", f"{type(error).__name__}: {error}"[:200], "to run", good=False)]


def main() -> int:
    """Measure, print, and write the page when asked to."""
    benches = find()
    parser = argparse.ArgumentParser(description="Run the benchmarks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(benches)}")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--write", action="store_true", help="write docs/benchmarks.md and its history")
    output.add_argument("--against", type=Path, metavar="DIR", help="measure this checkout and the one in DIR")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in benches]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(benches)}")
    chosen = [benches[name] for name in arguments.names or benches]
    if arguments.against is not None:
        chosen = _compared(chosen, arguments.against, parser)
    with compiled_modules():
        missed = sum(_report(bench, write=arguments.write) for bench in chosen)
    print(f"{missed} missed" if missed else "nothing missed")
    return 1 if missed else 0


def _compared(benches: Sequence[Bench], other: Path, parser: argparse.ArgumentParser) -> list[Bench]:
    if not (other / "agent" / "__main__.py").exists():
        parser.error(f"{other} is no checkout of this project")
    chosen = [
        Bench(bench.name, bench.about, partial(bench.compare, other)) for bench in benches if bench.compare is not None
    ]
    if not chosen:
        parser.error("none of these can measure another checkout")
    return chosen


def _report(bench: Bench, *, write: bool) -> int:
    """Measure one and say so; returns how many figures missed what was wanted."""
    begin = time.monotonic()
    figures = measure(bench)
    print(f"{bench.name} ({time.monotonic() - begin:.0f} s)\n{table(figures)}\n", flush=True)
    if write:
        page = PAGE.read_text() if PAGE.exists() else _INTRODUCTION
        PAGE.write_text(replaced(page, bench.name, section(bench, figures, machine_class())))
        keep(HISTORY, bench.name, figures, date=datetime.now(UTC).date().isoformat(), commit=commit())
    return sum(figure.verdict == MISSED for figure in figures)


def keep(history: Path, name: str, figures: Sequence[Figure], *, date: str, commit: str) -> None:
    """Append what was measured to a CSV file, which is begun with its header line."""
    begun = history.exists()
    with history.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not begun:
            writer.writerow(HISTORY_COLUMNS)
        for one in figures:
            ratio = "" if one.ratio is None else f"{one.ratio:g}"
            writer.writerow((date, commit, name, one.what, one.value, ratio, one.verdict))


def commit() -> str:
    """The commit that is measured, with a `+` when files differ from it; empty where there is no git."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=7", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


@contextmanager
def compiled_modules() -> Iterator[None]:
    """Let the programs that are measured keep compiled modules, whatever this shell says, and have them compiled."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="dcu-bench-modules-") as folder:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = folder
        packages = [str(REPO / name) for name in ("agent", "headend", "omadm", "dlms", "plc", "updateagent")]
        subprocess.run([sys.executable, "-m", "compileall", "-q", *packages], check=False, capture_output=True)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


if __name__ == "__main__":
    sys.exit(main())
