"""What holds for every test: its tier, its time limit, no process or log set-up left behind, no skip that nobody sees.

Tiers (CONTRIBUTING.md says when each is run):

    fast     every test that is none of the others
    process  starts real processes; marked where the test is
    slow     takes more than about a fifth of a second: an enumeration, hours on a simulated line; marked where the test
             is, or by its file in `SLOW`
    board    runs on the emulated ARM board; marked where the test is

`--shuffle SEED` gives files, and the tests in each, a random order; the seed is printed in the header and gives the
same order again. Nothing else is seeded by it: the random numbers of the tests are their own.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import random
import select
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h

# Files and folders of enumerations: of power cuts, of flipped bits, of lines cut anywhere, of fuzzed input. And of what
# judges such an enumeration.
SLOW = (
    "tests/agent/ota/test_full_instead.py",
    "tests/agent/ota/test_worker.py",
    "tests/agent/settings/test_config_fuzz.py",
    "tests/bench",
    "tests/board/test_story.py",
    "tests/demo",
    "tests/dlms/client/test_session_splits.py",
    "tests/dlms/link/hdlc/test_pipes.py",
    "tests/dlms/link/test_line_time.py",
    "tests/fuzz",
    "tests/plc/prime/test_interleaving.py",
    "tests/updateagent/boot/test_loaders.py",
    "tests/updateagent/boot/uboot/test_flash.py",
    "tests/updateagent/engine/test_power.py",
    "tests/updateagent/software/test_store.py",
    "tests/updateagent/package/test_manifest.py",
    "tests/updateagent/test_damage.py",
)

PARAMETER_CHARS_MAX = 64  # of one that stands in the name of its test

# A hanging test, not a slow one: the slowest takes a few per cent of it on a busy machine.
TIMEOUT_S = {"board": 3600, "process": 900, "slow": 900, "fast": 300}
# How long a process that was told to end may take to do so; its end is waited for, so this is rarely spent.
GRACE_MS = 10_000

# Where `-m fast` puts the files of tests, some 100 MB: an fsync to a disk takes longer than most of these tests, and
# none of them is about the machine's disk. They are gone at the end; `--basetemp FOLDER` puts them elsewhere.
MEMORY = "/dev/shm"
MEMORY_FREE_BYTES_MIN = 1 << 30

# So many new objects may wait for the garbage collector, some megabytes. With Python's 700 it runs 9000 times.
GARBAGE_OBJECTS = 20_000

STRICT = os.environ.get("CI_STRICT", "") not in ("", "0")  # as .ci/run documents it: 0 is lenient


# --- tiers, time limits and order --------------------------------------------------------------------------------


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a long text or octets by the parameter: a key or certificate is another one in each worker, and the workers
    have to agree on what the tests are called."""
    return argname if isinstance(val, str | bytes) and len(val) > PARAMETER_CHARS_MAX else None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run files, and the tests in each, in a random order")


def pytest_report_header(config: pytest.Config) -> list[str]:
    seed = config.getoption("--shuffle")
    return ([] if seed is None else [f"shuffled: --shuffle {seed}"]) + (["CI_STRICT: a skip fails"] if STRICT else [])


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr == "fast" and not config.option.basetemp:
        keep_files_in_memory(config)
    if STRICT:
        config.pluginmanager.register(NoSkips(), "no-skips")
    # Orphans of the processes that a test starts become children of this one, and can be found.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def keep_files_in_memory(config: pytest.Config) -> None:
    """If there is room. Workers of pytest-xdist come with a folder in that of their controller."""
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < MEMORY_FREE_BYTES_MIN:
        return
    folder = tempfile.mkdtemp(prefix="pytest-", dir=MEMORY)
    config.option.basetemp = f"{folder}/files"
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    listed = [config.rootpath / path for path in SLOW]
    slow = {path for path in {item.path for item in items} if any(path.is_relative_to(above) for above in listed)}
    for item in items:
        if item.path in slow:
            item.add_marker("slow")
        tier = next((name for name in ("board", "process", "slow") if item.get_closest_marker(name)), "fast")
        if tier == "fast":
            item.add_marker("fast")
        item.add_marker(pytest.mark.timeout(TIMEOUT_S[tier]))
    seed = config.getoption("--shuffle")
    if seed is not None:
        shuffle(items, random.Random(seed))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What a collection makes, 400 000 objects that point at each other, stays to the end. The garbage collector does
    not look for what could go while it grows, nor again and again while tests run: that took a tenth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(GARBAGE_OBJECTS)
        gc.enable()


def shuffle(items: list[pytest.Item], chance: random.Random) -> None:
    """A random order in which a file's tests stay together, so that what they share is set up once."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    groups = list(files.values())
    chance.shuffle(groups)
    for group in groups:
        chance.shuffle(group)
    items[:] = [item for group in groups for item in group]


# --- no process is left behind -----------------------------------------------------------------------------------


def children() -> set[int]:
    """The processes whose parent is this one; orphans of its children are among them."""
    found: set[int] = set()
    with os.scandir("/proc/self/task") as tasks:  # twice per test, so without pathlib
        paths = [f"{task.path}/children" for task in tasks]
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # this thread has ended since
            continue
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            found.update(map(int, file.read().split()))
    return found


def command_line(pid: int) -> str:
    try:
        return f"{pid}: " + Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except FileNotFoundError:
        return f"{pid}"


def survivors(of: set[int]) -> list[str]:
    """Those that do not end, as text; they are killed. Those that have ended are taken off the system's list."""
    said = []
    for pid in sorted(of):
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            if not poll.poll(GRACE_MS):
                said.append(command_line(pid))
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.waitpid(pid, 0)
        except ChildProcessError:  # its own parent waits for it in a thread
            continue
        finally:
            os.close(handle)
    return said


@pytest.fixture(autouse=True)
def no_surviving_children() -> Iterator[None]:
    """Fails a test that leaves a process behind; what a fixture of wider scope started before is not the test's."""
    before = children()
    yield
    left = survivors(children() - before)
    if left:
        pytest.fail("processes survive this test:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(autouse=True, scope="session")
def no_children_survive_the_session() -> Iterator[None]:
    """The same for what fixtures of wider scope started."""
    before = children()
    yield
    left = survivors(children() - before)
    if left:
        pytest.fail("processes survive the tests:\n  " + "\n  ".join(left), pytrace=False)


# --- files that are left open ------------------------------------------------------------------------------------

OPEN_FILES_MAX = 256  # of one worker; what has a file open and is part of a cycle is collected seldom


def lowest_free_descriptor() -> int:
    """How many files are open, but for gaps: one system call, where a look into /proc costs a hundred."""
    handle = os.dup(0)
    os.close(handle)
    return handle


@pytest.fixture(autouse=True)
def few_open_files() -> Iterator[None]:
    """Fails the test after which too many files are open, of whichever test: nobody collects what is still held."""
    yield
    if lowest_free_descriptor() >= OPEN_FILES_MAX:
        gc.collect()
        left = lowest_free_descriptor()
        if left >= OPEN_FILES_MAX:
            pytest.fail(f"{left} files are open, which tests left so: {open_files()}", pytrace=False)


def open_files() -> str:
    """What is open most often."""
    names = Counter(one.readlink().name for one in Path("/proc/self/fd").iterdir() if one.is_symlink())
    return ", ".join(f"{count} {name}" for name, count in names.most_common(5))


# --- the log is as the test found it ----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    """A program that a test starts in this process sets the log up; the next test must not find its level or files."""
    root = logging.getLogger()
    handlers, level, raising = list(root.handlers), root.level, logging.raiseExceptions
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
        if handler not in handlers:
            handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    logging.raiseExceptions = raising
    logging.captureWarnings(capture=False)


# --- what a worker measured reaches the disk ---------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under `make coverage`: pytest-xdist kills a worker ten seconds after it said that it is done."""
    if hasattr(session.config, "workerinput") and "coverage" in sys.modules:
        measured = sys.modules["coverage"].Coverage.current()
        if measured is not None:
            measured.stop()
            measured.save()


# --- with CI_STRICT, a skip is a failure -------------------------------------------------------------------------


class NoSkips:
    """Ends the run with an error if anything was skipped, a test or a whole file, and says what and why."""

    def __init__(self) -> None:
        self.skipped: list[str] = []

    def note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.skipped.append(f"{report.nodeid}: {reason}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.note(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.skipped and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.skipped:
            terminalreporter.section(f"{len(self.skipped)} skipped, and CI_STRICT is set: this run failed", red=True)
            for line in self.skipped:
                terminalreporter.line(line)
