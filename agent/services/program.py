"""Programs of services as processes: started with limits and as another user, watched, ended with all they started.

What belongs to a service is known by two marks in its environment, which its children inherit: `DCU_AGENT`, our state
folder, and `DCU_SERVICE`. So the next agent finds the programs that a killed one left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from updateagent.software.component import Limits

PROCESSES = Path("/proc")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
AGENT_MARK, SERVICE_MARK = "DCU_AGENT", "DCU_SERVICE"
READ_BYTES = 16 << 10  # at once; a pipe holds 64 KiB
SWEEP_S = 5.0  # for what was killed to be gone
KERNEL_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a program. `owner`: user and group number, `None` for the agent's own; `file_kib`: the largest file
    that it may write."""

    service_id: str
    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str]
    limits: Limits
    owner: tuple[int, int] | None
    agent: str
    file_kib: int


class Program:
    """A program that was started. One thread, which must outlive it: see `agent.services.launch`."""

    def __init__(self, launch: Launch) -> None:
        """Start it. Raises `OSError`."""
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writer, True)
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", _launcher(), _wanted(launch)],
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                cwd=launch.folder,
                env={AGENT_MARK: launch.agent, SERVICE_MARK: launch.service_id},
                start_new_session=True,
            )
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        self._reader: int | None = reader
        self._exit: int | None = None
        try:
            self._exit = os.pidfd_open(self._child.pid)
        except OSError:  # before Linux 5.3: whoever waits has to look
            self._exit = None

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def descriptors(self) -> list[int]:
        """Readable when the program has ended, and when it has printed something."""
        return [each for each in (self._exit, self._reader) if each is not None]

    @property
    def exit_descriptor(self) -> int | None:
        return self._exit

    def poll(self) -> int | None:
        """The exit code, negative for a signal; `None` while it runs."""
        return self._child.poll()

    def read(self) -> bytes:
        """What it has printed, at most `READ_BYTES`; empty for nothing now."""
        if self._reader is None:
            return b""
        try:
            data = os.read(self._reader, READ_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            os.close(self._reader)
            self._reader = None
        return data

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program and all of its process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, number)

    def close(self) -> None:
        """Let go of the descriptors of a program that has ended."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self._reader = self._exit = None


def _launcher() -> str:
    found = find_spec("agent.services.launch")
    if found is None or not found.origin:
        raise FileNotFoundError("agent.services.launch")
    return found.origin


def _wanted(launch: Launch) -> str:
    limits = {
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": launch.limits.files,
        "RLIMIT_AS": launch.limits.memory_kib << 10,
        "RLIMIT_FSIZE": launch.file_kib << 10,
    }
    if launch.owner is not None:  # it counts all processes of a user: of our own, it would be the wrong number
        limits["RLIMIT_NPROC"] = launch.limits.processes
    uid, gid = launch.owner or (None, None)
    program = str(launch.folder / launch.command[0])
    marks = {"PATH": PATH, AGENT_MARK: launch.agent, SERVICE_MARK: launch.service_id}
    return json.dumps(
        {
            "uid": uid,
            "gid": gid,
            "parent": os.getpid(),
            "limits": limits,
            "program": program,
            "arguments": list(launch.command[1:]),
            "environment": {**marks, **launch.environment},
        }
    )


@dataclass(frozen=True, slots=True)
class Used:
    """What all processes of one session use: seconds of processor time, processes and threads, KiB of memory."""

    cpu_s: float = 0.0
    processes: int = 0
    memory_kib: int = 0


def usage(sessions: Sequence[int]) -> dict[int, Used]:
    """What each of these sessions uses now; a session that is gone uses nothing."""
    found = dict.fromkeys(sessions, Used())
    page_kib = os.sysconf("SC_PAGE_SIZE") // 1024
    for stat in _stats():
        fields = stat.rpartition(")")[2].split()  # the name before it may hold anything; proc(5): from the state on
        session = int(fields[3])
        if session in found:
            before = found[session]
            ticks = sum(map(int, fields[11:15]))
            found[session] = Used(
                before.cpu_s + ticks / KERNEL_TICKS,
                before.processes + int(fields[17]),
                before.memory_kib + int(fields[21]) * page_kib,
            )
    return found


def _stats() -> Iterator[str]:
    for pid in _pids():
        with contextlib.suppress(OSError):
            yield (PROCESSES / pid / "stat").read_text(encoding="utf-8", errors="replace")


def _pids() -> list[str]:
    return [name for name in os.listdir(PROCESSES) if name.isdigit()]  # noqa: PTH208 - names are wanted


def sweep(agent: str, service_id: str = "", *, sleep: Callable[[float], None] = time.sleep) -> int:
    """Kill whatever runs with our mark, of one service or of all; returns how many processes that were.

    Waits until they are gone, `SWEEP_S` at most.
    """
    killed: set[int] = set()
    for _ in range(int(SWEEP_S / 0.05)):
        left = _marked(agent, service_id)
        if not left:
            break
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed.update(left)
        sleep(0.05)
    return len(killed)


def _marked(agent: str, service_id: str) -> list[int]:
    marks = {f"{AGENT_MARK}={agent}".encode()}
    if service_id:
        marks.add(f"{SERVICE_MARK}={service_id}".encode())
    found: list[int] = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            # A zombie has no environment any more.
            if int(pid) != os.getpid() and marks <= set((PROCESSES / pid / "environ").read_bytes().split(b"\0")):
                found.append(int(pid))
    return found
