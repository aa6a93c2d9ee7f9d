"""The demo's processes: started, watched at every wait, and ended. One that dies unasked ends the demo by name."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

POLL_S = 0.1
STOP_S = 15.0
Found = TypeVar("Found")


class DemoError(Exception):
    """Something did not happen as it must. The sentence is what the person sees."""


class Child:
    """One process with its output: lines go to a log file and, where they are JSON or READY, to `lines`."""

    def __init__(self, name: str, command: Sequence[str], log: Path, *, cwd: Path) -> None:
        self.name = name
        self.expected = False
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._log = log.open("ab")
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # a Ctrl-C goes to the demo alone, which ends the others in order
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._reader = threading.Thread(target=self._read, name=f"read-{name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            self._log.write(raw)
            self._log.flush()
            self.lines.put(raw.decode(errors="replace").rstrip("\n"))

    def stop(self) -> int:
        """Send TERM, wait a while, then KILL the whole group; returns the exit status."""
        self.expected = True
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join(STOP_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()
        return self.process.returncode

    def kill(self) -> None:
        self.expected = True
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait(STOP_S)


class Processes:
    def __init__(self, logs: Path, cwd: Path) -> None:
        self.logs = logs
        self.cwd = cwd
        self.children: dict[str, Child] = {}
        self.watchers: list[Callable[[], None]] = []

    def start(self, name: str, command: Sequence[str]) -> Child:
        child = Child(name, command, self.logs / f"{name}.log", cwd=self.cwd)
        self.children[name] = child
        return child

    def stop(self, name: str) -> None:
        """End a process in order. `DemoError` when it was dead already, or would not end well."""
        self.check()
        code = self.children.pop(name).stop()
        if code != 0:
            raise DemoError(f"the process {name!r} did not end in order when told to, but with {code}: see {name}.log")

    def check(self) -> None:
        """Raise `DemoError` when a process died that nobody ended, or a watcher saw something wrong."""
        for child in self.children.values():
            code = child.process.poll()
            if code is not None and not child.expected:
                raise DemoError(f"the process {child.name!r} ended by itself with {code}: see {child.name}.log")
        for watch in self.watchers:
            watch()

    def watch_for(self, seconds: float) -> None:
        """`check` again and again for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.check()
            time.sleep(POLL_S)

    def ready(self, name: str, within_s: float = 30.0) -> dict[str, Any]:
        """The JSON object behind the child's READY line (empty when it says READY alone)."""

        def look() -> dict[str, Any] | None:
            while not self.children[name].lines.empty():
                line = self.children[name].lines.get()
                if line.startswith("READY"):
                    text = line[len("READY") :].strip()
                    return json.loads(text) if text.startswith("{") else {}
            return None

        return self.until(look, within_s, f"{name} to become ready")

    def until(
        self,
        look: Callable[[], Found | None],
        within_s: float,
        what: str,
        *,
        each_s: float = POLL_S,
    ) -> Found:
        """Ask until there is an answer, and check everything alive each time. Raises `DemoError` after `within_s`."""
        end = time.monotonic() + within_s
        while True:
            self.check()
            found = look()
            if found is not None and found is not False:
                return found
            if time.monotonic() > end:
                raise DemoError(f"waited {within_s:.0f} s for {what}, in vain")
            time.sleep(each_s)

    def end(self) -> None:
        for name in reversed(list(self.children)):
            child = self.children.pop(name)
            child.stop()
            child.kill()
