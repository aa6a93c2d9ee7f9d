"""The Update Agent's command line, asked as a child process: without a shell, with a deadline, one JSON object back.

The command comes from configuration (`update.command`). What the child prints is bounded; nothing of it is executed.
"""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from agent.ota.download_errors import DeltaUnfit
from omadm.descriptor import DeltaSource
from updateagent.errors import DELTA_SOURCE

log = logging.getLogger("agent.update")

POLL_S = 1.0  # between beats while the child works
OUTPUT_BYTES_MAX = 256 * 1024
MESSAGE_CHARS_MAX = 500
SOURCE_TIMEOUT_S = 300.0  # a slot of 1 GiB, hashed by a slow processor
NOT_RUN = -1


def ask(command: Sequence[str], beat: Callable[[], None], timeout_s: float) -> tuple[int, dict[str, Any]]:
    """Exit status and answer; `NOT_RUN` when the child could not be run or did not end in `timeout_s` seconds."""
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    except OSError as error:
        return NOT_RUN, {"message": f"{command[0]}: {error.strerror or error}"}
    deadline = time.monotonic() + timeout_s
    with child:
        while True:
            beat()
            try:
                output, _ = child.communicate(timeout=POLL_S)
            except subprocess.TimeoutExpired:
                if time.monotonic() < deadline:
                    continue
                child.kill()
                child.communicate()
                return NOT_RUN, {"message": f"no end after {timeout_s:.0f} seconds"}
            return child.returncode, _answer(output)


def _answer(output: bytes) -> dict[str, Any]:
    try:
        document = json.loads(output[:OUTPUT_BYTES_MAX])
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


class SourceCheck:
    """Whether the system that runs is what a delta was made from: `dcu-update source`."""

    def __init__(self, command: Sequence[str], *, timeout_s: float = SOURCE_TIMEOUT_S) -> None:
        self._command = tuple(command)
        self._timeout_s = timeout_s

    def __call__(self, sources: Sequence[DeltaSource], beat: Callable[[], None]) -> None:
        """Raises `DeltaUnfit` when it is known not to be. What cannot be told now the Update Agent finds at boot."""
        images = [f"{one.name}={one.version}:{one.size}:{one.root}" for one in sources]
        status, answer = ask([*self._command, "source", "--json", *images], beat, self._timeout_s)
        message = str(answer.get("message", ""))[:MESSAGE_CHARS_MAX]
        if answer.get("code") == DELTA_SOURCE.number:
            raise DeltaUnfit(DELTA_SOURCE, message)
        if status != 0:
            log.warning(
                "whether the delta fits is not known before the boot: %s",
                message or f"exit status {status}",
                extra={"event": "update.source"},
            )
