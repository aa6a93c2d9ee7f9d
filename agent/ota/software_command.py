"""Software components by way of the Update Agent's command line, as a child process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agent.dm.deps import DeployedSoftware, SoftwareResult
from agent.ota.update_command import MESSAGE_CHARS_MAX, ask

log = logging.getLogger("agent.update")

TIMEOUT_S = 600.0  # a large package unpacked on slow flash
LIST_TIMEOUT_S = 30.0  # nothing is unpacked, and nobody beats meanwhile: well below a worker's budget

SUCCESS = 1200
INSTALL_FAILED = 1405
REMOVE_FAILED = 1408
ACTIVATE_FAILED = 1409
DEACTIVATE_FAILED = 1410
UNDEFINED = 1412


class SoftwareCommand:
    """`command` is the program with its leading arguments, such as `["dcu-update", "--config", FILE]`."""

    def __init__(self, command: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> None:
        self._command = tuple(command)
        self._timeout_s = timeout_s

    def install(self, package: Path, *, activate: bool, beat: Callable[[], None]) -> SoftwareResult:
        extra = [] if activate else ["--inactive"]
        return self._run(["install", str(package), *extra], INSTALL_FAILED, beat)

    def activate(self, software_id: str, beat: Callable[[], None]) -> SoftwareResult:
        return self._run(["activate", software_id], ACTIVATE_FAILED, beat)

    def deactivate(self, software_id: str, beat: Callable[[], None]) -> SoftwareResult:
        return self._run(["deactivate", software_id], DEACTIVATE_FAILED, beat)

    def remove(self, software_id: str, beat: Callable[[], None]) -> SoftwareResult:
        return self._run(["remove", software_id], REMOVE_FAILED, beat)

    def deployed(self) -> Sequence[DeployedSoftware] | None:
        """One entry a component: its active version, else the last one listed. `None` when the list failed."""
        status, answer = self._child(["list"], lambda: None, min(LIST_TIMEOUT_S, self._timeout_s))
        entries = answer.get("software")
        if status != 0 or not isinstance(entries, list):
            log.warning("the installed software cannot be listed", extra={"event": "software.list"})
            return None
        found: dict[str, DeployedSoftware] = {}
        for entry in entries:
            if isinstance(entry, dict) and isinstance(entry.get("id"), str):
                one = DeployedSoftware(entry["id"], str(entry.get("version", "")), bool(entry.get("active")))
                if one.active or not (known := found.get(one.software_id)) or not known.active:
                    found[one.software_id] = one
        return tuple(found.values())

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
