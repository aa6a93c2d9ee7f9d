"""Programs run from a checkout and measured from outside: CPU time, memory, wake-ups."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).parents[2]
READY_S = 60.0
_POLL_S = 0.005


class ProgramError(Exception):
    """A program that was to be measured did not do what it must."""


def cpu_of(command: Sequence[str | Path], root: Path = REPO) -> float:
    """CPU seconds of a program, run to its end with `root` as its folder. Raises `ProgramError` when it fails."""
    child = subprocess.Popen(
        [str(word) for word in command], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    with child.stderr:
        said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise ProgramError(f"{' '.join(map(str, command))[:80]} ended with {child.returncode}: {said[-200:]}")
    return usage.ru_utime + usage.ru_stime


def least(rounds: int, commands: Sequence[tuple[Sequence[str | Path], Path]]) -> list[float]:
    """The least CPU seconds of each command, all of them interleaved, so that a busy moment hits no one alone."""
    best = [float("inf")] * len(commands)
    for _ in range(rounds):
        for at, (command, root) in enumerate(commands):
            best[at] = min(best[at], cpu_of(command, root))
    return best


@dataclass(frozen=True, slots=True)
class Process:
    """A running program, seen through /proc."""

    pid: int

    def memory_mib(self, field: str = "VmRSS") -> float:
        """`VmRSS` now, `VmHWM` at its highest."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024

    def cpu_s(self) -> float:
        """The time that all threads have run so far, to the nanosecond."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def wake_ups(self) -> int:
        """How often its threads went to sleep of their own will so far."""
        found = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    found += int(line.split()[1])
        return found


@contextmanager
def running(command: Sequence[str | Path], root: Path = REPO) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs until the block ends."""
    child = subprocess.Popen(
        [str(word) for word in command], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(READY_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def await_answer(child: subprocess.Popen[bytes], control: Path, command: str) -> dict[str, object]:
    """Ask a Unix socket until it answers one line of JSON. Raises `ProgramError`."""
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        if child.poll() is not None:
            raise ProgramError(f"the program ended with {child.returncode}")
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(READY_S)
                connection.connect(str(control))
                connection.sendall(json.dumps({"command": command}).encode() + b"\n")
                connection.shutdown(socket.SHUT_WR)
                answer: dict[str, object] = json.loads(b"".join(iter(lambda: connection.recv(65_536), b"")))
                return answer
        except OSError:
            time.sleep(_POLL_S)
    raise ProgramError(f"no answer at {control}")


def python(*arguments: str | Path) -> list[str]:
    """A command line of this interpreter."""
    return [sys.executable, *map(str, arguments)]
