"""What the board's process says, and the rule that no reset comes unasked."""

from __future__ import annotations

import json
from typing import Any

from tests.demo.processes import DemoError, Processes

REBOOT = "reboot command"
INSTALLED = "update agent asked for it"
UNHEALTHY = "guard ended with 10"


class BoardWatch:
    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.events: list[dict[str, Any]] = []
        self.allowed: frozenset[str] = frozenset()
        processes.watchers.append(self.pump)

    def pump(self) -> None:
        """Take in what the board said. Raises `DemoError` for a reset that this stage did not ask for."""
        board = self.processes.children.get("board")
        while board is not None and not board.lines.empty():
            line = board.lines.get()
            if line.startswith("{"):
                event = json.loads(line)
                self.events.append(event)
                if event["event"] == "reset" and event["reason"] not in self.allowed:
                    raise DemoError(f"the board was reset in boot {event['boot']}: {event['reason']}")

    def expect(self, *reasons: str) -> None:
        self.allowed = frozenset(reasons)

    def boots(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == "boot"]

    def running(self) -> bool:
        """Whether the agent of the last boot has said that it is ready."""
        for event in reversed(self.events):
            if event["event"] == "ready":
                return True
            if event["event"] in {"boot", "reset"}:
                return False
        return False
