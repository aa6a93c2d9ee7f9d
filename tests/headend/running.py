"""A head-end in a process of its own, and a relay in front of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
END_TIMEOUT_S = 30


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`dcu-headend` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "headend", *arguments],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
        timeout=END_TIMEOUT_S,
    )


class Child:
    """A child process that says READY on its first line of output."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=REPO,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        self.ready: dict[str, Any] = {}

    def wait_ready(self) -> dict[str, Any]:
        line = self.line()
        assert line.startswith("READY "), line
        self.ready = json.loads(line.removeprefix("READY "))
        return self.ready

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(END_TIMEOUT_S)
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()


@contextmanager
def child(*arguments: str) -> Iterator[Child]:
    started = Child(*arguments)
    try:
        started.wait_ready()
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
            started.process.wait(END_TIMEOUT_S)
        if started.process.stdout is not None:
            started.process.stdout.close()
