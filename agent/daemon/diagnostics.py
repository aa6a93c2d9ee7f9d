"""What ./DiagMon tells: lines of the log, and pictures of the whole daemon, of meters, ports, storage and clock.

The log is read where `agent.log` writes it: in its file and the one before, in systemd's journal, or, where it goes to
the error output only, from the last lines that are kept in memory for this.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from agent.log import SECRETS, JournalHandler, LineFormatter
from agent.metering.store.store_file import StoreError
from agent.mo.diagmon import Excerpt, Pictures
from omadm.syncml.text import NO_XML_CHAR

if TYPE_CHECKING:
    from agent.clock import SystemClock
    from agent.daemon.views.daemon import Views
    from agent.metering.collector import Collector
    from agent.metering.store.reading_store import Store
    from agent.settings.config import Config

LOG_BYTES_MAX = 192 * 1024  # fits MaxObjSize in every encoding: the tree's lock is held while it is made
MEMORY_CHARS_MAX = 64 * 1024  # of lines that are kept nowhere else
JOURNAL_LINES_MAX = 4000
JOURNAL_S = 10.0
_RANKS: Final = {"DEBUG": 0, "INFO": 1, "WARNING": 2, "ERROR": 3, "CRITICAL": 4}
_SYSLOG: Final = {"debug": "debug", "info": "info", "warning": "warning", "error": "err"}


def chosen(lines: Iterable[str], since: int, until: int, level: str) -> Iterator[str]:
    """The lines of `agent.log` within a time and from a level on. A line without both belongs to the one before."""
    begin, end = _stamp(since), _stamp(until) if until else "9"
    lowest, within = _RANKS[level.upper()], False
    for line in lines:
        stamp, _, rest = line.partition(" ")
        rank = _RANKS.get(rest.partition(" ")[0])
        if rank is not None and stamp.endswith("Z"):
            within = rank >= lowest and begin <= stamp[: len(begin)] <= end
        if within:
            yield line


def excerpt(lines: Iterable[str]) -> Excerpt:
    """The newest lines that fit, without secrets; what no message can carry is replaced, or none of it could go."""
    kept: deque[str] = deque()
    size, shortened = 0, False
    for line in lines:
        shown = NO_XML_CHAR.sub("\N{REPLACEMENT CHARACTER}", SECRETS.redact(line.rstrip("\n")))
        kept.append(shown)
        size += len(shown.encode("utf-8", "replace")) + 1
        while size > LOG_BYTES_MAX:
            size -= len(kept.popleft().encode("utf-8", "replace")) + 1
            shortened = True
    return Excerpt("\n".join(kept), len(kept), shortened)


def _stamp(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class FileLog:
    """The log file and the one before it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def collect(self, since: int, until: int, level: str) -> Excerpt:
        """Collect from both files. Raises `OSError` when the current one cannot be read."""
        return excerpt(chosen(self._lines(), since, until, level))

    def _lines(self) -> Iterator[str]:
        before = self._file.with_name(f"{self._file.name}.1")
        for file in (before, self._file):
            if file == before and not file.exists():
                continue
            with file.open(encoding="utf-8", errors="replace") as opened:
                yield from opened


class JournalLog:
    """systemd's journal, by journalctl(1)."""

    def __init__(self, run: Callable[[Sequence[str]], bytes] | None = None) -> None:
        self._run = run or _output_of

    def collect(self, since: int, until: int, level: str) -> Excerpt:
        """Collect by running journalctl. Raises `OSError`, `TimeoutError` among them, when it fails."""
        command = ["journalctl", "--quiet", "--no-pager", "--utc", "--output=short-iso", "--identifier=dcu-agent"]
        command += [f"--priority={_SYSLOG[level]}", f"--since=@{since}", f"--lines={JOURNAL_LINES_MAX}"]
        command += [f"--until=@{until}"] if until else []
        lines = self._run(command).decode("utf-8", "replace").splitlines()
        found = excerpt(lines)
        return Excerpt(found.text, found.lines, found.shortened or len(lines) >= JOURNAL_LINES_MAX)


def _output_of(command: Sequence[str]) -> bytes:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=JOURNAL_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{command[0]} did not end within {JOURNAL_S:.0f} s") from error
    if done.returncode:
        raise OSError(f"{command[0]} ended with {done.returncode}")
    return done.stdout


class MemoryLog(logging.Handler):
    """The last lines of a log that goes to the error output only."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(LineFormatter())
        self._kept: deque[str] = deque()
        self._size = 0

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)  # under the handler's lock
        self._kept.append(line)
        self._size += len(line) + 1
        while self._size > MEMORY_CHARS_MAX:
            self._size -= len(self._kept.popleft()) + 1

    def collect(self, since: int, until: int, level: str) -> Excerpt:
        """Collect from the lines that are kept in memory. Lines of before, or that were dropped, are gone."""
        self.acquire()
        try:
            lines = [line for record in self._kept for line in record.split("\n")]
        finally:
            self.release()
        return excerpt(chosen(lines, since, until, level))


def log_source(file: Path | None) -> FileLog | JournalLog | MemoryLog:
    """Where this process's log can be read, once it is set up."""
    if file is not None:
        return FileLog(file)
    root = logging.getLogger()
    if any(isinstance(handler, JournalHandler) for handler in root.handlers):
        return JournalLog()
    memory = MemoryLog()
    root.addHandler(memory)
    return memory


# -- pictures --------------------------------------------------------------------------------------------------


class Parts(Protocol):
    """The parts of the daemon that pictures are made of. They are looked up at each Get, so that a part may be made
    after the objects of the tree. A picture that needs another part of `agent.__main__.Daemon` names it here."""

    config: Config
    clock: SystemClock
    store: Store
    collector: Collector
    views: Views


def pictures_of(parts: Parts) -> Pictures:
    """All pictures, and the log of this process, which must have been set up."""
    config = parts.config
    folders = {"state": config.state_dir, "store": config.metering.store_file.parent, "update": config.update.dir}
    return Pictures(
        status=lambda: status_picture(parts.views),
        meters=lambda: meters_picture(parts.collector),
        ports=lambda: ports_picture(parts.collector),
        storage=lambda: storage_picture(parts.store, folders),
        clock=lambda: clock_picture(parts.clock),
        log=log_source(config.log.file),
    )


def status_picture(views: Views) -> dict[str, object]:
    """What `dcuctl status` is told, but for the list of meters, which is long and is
    in `./AMI/Registry/Meters`."""
    return {name: part for name, part in views.document().items() if name != "meters"}


def meters_picture(collector: Collector) -> dict[str, object]:
    """How many meters are in which state, and how their visits ended since they were registered."""
    meters = collector.meters()
    return {
        "meters": len(meters),
        "states": dict(Counter(meter.state for meter in meters)),
        "visits": _visits(collector, None),
        "key_failures": sum(meter.key_failures for meter in meters),
    }


def ports_picture(collector: Collector) -> dict[str, object]:
    """The same per port, with what is wrong there."""
    meters = collector.meters()
    return {
        port: {
            "problem": health.problem,
            "excused": health.excused,
            "states": dict(Counter(meter.state for meter in meters if meter.port == port)),
            "visits": _visits(collector, port),
        }
        for port, health in collector.port_healths().items()
    }


def _visits(collector: Collector, port: str | None) -> dict[str, int]:
    total: Counter[str] = Counter()
    for meter in collector.registry.known():
        if port in (None, meter.port):
            total.update(collector.devices.device(meter.key).counters.dump())
    return dict(total)


def storage_picture(store: Store, folders: Mapping[str, Path]) -> dict[str, object]:
    """The store of readings, and the room that is left where the agent keeps things."""
    try:
        stats: dict[str, object] = asdict(store.stats())
    except StoreError as error:
        stats = {"error": str(error)}
    return {"store": stats, "free": {name: _free(folder) for name, folder in folders.items()}}


def _free(folder: Path) -> dict[str, object]:
    try:
        found = os.statvfs(folder)
    except OSError as error:
        return {"error": error.strerror}
    return {"free_bytes": found.f_bavail * found.f_frsize, "bytes": found.f_blocks * found.f_frsize}


def clock_picture(clock: SystemClock) -> dict[str, object]:
    """Civil time, who vouches for it, by how much the machine's clock is off, and the earliest time that it can be."""
    with clock.lock:
        judged, now = clock.judge(), clock.monotonic()
        floor = {
            "earliest": clock.floor.earliest(now),
            "built": clock.floor.built,
            "set_aside": clock.floor.is_aside(now),
        }
    return {**asdict(judged), "floor": floor, "up_s": round(now, 1)}
