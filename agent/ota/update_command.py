"""The Update Agent's command line, asked as a child process: without a shell, with a deadline, one JSON object back.

The command comes from configuration (`update.command`). What the child prints is bounded; nothing of it is executed.
"""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.jobs.software import SUCCESS, DeployedSoftware
from agent.ota.deps import NO_VERSIONS, SoftwareResult
from agent.ota.errors import DeltaUnfit
from omadm.descriptor import DeltaSource
from updateagent.errors import DELTA_SOURCE
from updateagent.layout import version_order

LOG = logging.getLogger("agent.update")

POLL_S = 1.0  # between beats while the child works
OUTPUT_BYTES_MAX = 256 * 1024
MESSAGE_CHARS_MAX = 500
SOURCE_TIMEOUT_S = 300.0  # a slot of 1 GiB, hashed by a slow processor
NOT_RUN = -1
SOFTWARE_TIMEOUT_S = 600.0  # a large package unpacked on slow flash
LIST_TIMEOUT_S = 30.0  # nothing is unpacked, and nobody beats meanwhile: well below a worker's budget

INSTALL_FAILED = 1405
REMOVE_FAILED = 1408
ACTIVATE_FAILED = 1409
DEACTIVATE_FAILED = 1410


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
        """Ask the Update Agent whether each image of `sources` is on the slot that runs.

        Raises `DeltaUnfit` when one is known not to be. What cannot be told now the Update Agent finds at boot.
        """
        images = [f"{one.name}={one.version}:{one.size}:{one.root}" for one in sources]
        status, answer = ask([*self._command, "source", "--json", *images], beat, self._timeout_s)
        message = str(answer.get("message", ""))[:MESSAGE_CHARS_MAX]
        if answer.get("code") == DELTA_SOURCE.number:
            raise DeltaUnfit(DELTA_SOURCE, message)
        if status != 0:
            LOG.warning(
                "whether the delta fits is not known before the boot: %s",
                message or f"exit status {status}",
                extra={"event": "update.source"},
            )


def _rank(one: DeployedSoftware, but: str) -> tuple[bool, bool, Any]:
    """Which version of a component stands for it: the active one, else the newest that is not `but`."""
    return one.active, one.version != but, version_order(one.version)


class SoftwareCommand:
    """Operations on software components.

    `command` is the program with its leading arguments, such as `["dcu-update", "--config", FILE]`.
    """

    def __init__(self, command: Sequence[str], *, timeout_s: float = SOFTWARE_TIMEOUT_S) -> None:
        self._command = tuple(command)
        self._timeout_s = timeout_s

    def install(self, package: Path, *, activate: bool, beat: Callable[[], None]) -> SoftwareResult:
        extra = [] if activate else ["--inactive"]
        return self._run(["install", str(package), *extra], INSTALL_FAILED, beat)

    def activate(self, software_id: str, beat: Callable[[], None], version: str = "") -> SoftwareResult:
        return self._run(["activate", software_id, *([version] if version else [])], ACTIVATE_FAILED, beat)

    def deactivate(self, software_id: str, beat: Callable[[], None]) -> SoftwareResult:
        return self._run(["deactivate", software_id], DEACTIVATE_FAILED, beat)

    def remove(self, software_id: str, beat: Callable[[], None]) -> SoftwareResult:
        return self._run(["remove", software_id], REMOVE_FAILED, beat)

    def deployed(self, but: Mapping[str, str] = NO_VERSIONS) -> Sequence[DeployedSoftware] | None:
        """One entry per component. `None` when the list failed."""
        entries = self._entries()
        if entries is None:
            return None
        found: dict[str, DeployedSoftware] = {}
        for one in entries:
            known, last = found.get(one.software_id, one), but.get(one.software_id, "")
            found[one.software_id] = max(known, one, key=lambda entry: _rank(entry, last))
        return tuple(found.values())

    def newest(self, software_id: str, but: str = "") -> str:
        """The newest version that is installed; empty where there is none, or where that cannot be told."""
        found = [replace(one, active=False) for one in self._entries() or () if one.software_id == software_id]
        return max(found, key=lambda one: _rank(one, but)).version if found else ""

    def _entries(self) -> list[DeployedSoftware] | None:
        """Every version of every component; `None` when the list failed."""
        status, answer = self._child(["list"], lambda: None, min(LIST_TIMEOUT_S, self._timeout_s))
        entries = answer.get("software")
        if status != 0 or not isinstance(entries, list):
            LOG.warning("the installed software cannot be listed", extra={"event": "software.list"})
            return None
        return [
            DeployedSoftware(entry["id"], str(entry.get("version", "")), bool(entry.get("active")))
            for entry in entries
            if isinstance(entry, dict) and isinstance(entry.get("id"), str)
        ]

    def _run(self, arguments: list[str], failure: int, beat: Callable[[], None]) -> SoftwareResult:
        status, answer = self._child(arguments, beat, self._timeout_s)
        scomo = answer.get("scomo")
        if not isinstance(scomo, int) or (status == 0) != (scomo == SUCCESS):
            scomo = SUCCESS if status == 0 else failure
        return SoftwareResult(
            scomo,
            software_id=str(answer.get("id", "")),
            version=str(answer.get("version", "")),
            message=str(answer.get("message", ""))[:MESSAGE_CHARS_MAX],
            name=str(answer.get("name", "")),
        )

    def _child(self, arguments: list[str], beat: Callable[[], None], timeout_s: float) -> tuple[int, dict[str, Any]]:
        return ask([*self._command, "software", *arguments, "--json"], beat, timeout_s)
