"""The DM client as a worker of the daemon: registration, sessions and when to hold them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from agent.dm.ports import DmConfig, DmPorts, Worker
from agent.provisioning import Provisioning


class DmService:
    """Owns the management tree and holds all sessions with the DM server.

    Construct once; add every worker of `workers` to the supervisor; give `on_notification` to a
    `agent.dm.push.PushListener`. `provisioning` is what the stored tree says, available before `run`.
    """

    name = "dm"
    budget_s = 120.0

    def __init__(self, config: DmConfig, ports: DmPorts) -> None:
        self._config = config
        self._ports = ports
        self._provisioning = Provisioning()

    @property
    def provisioning(self) -> Provisioning:
        return self._provisioning

    @property
    def workers(self) -> tuple[Worker, ...]:
        """This worker and the one that carries out package jobs (`dm-packages`)."""
        return (self,)

    def on_notification(self, body: bytes) -> int:
        """A Package #0 arrived. Returns the HTTP status for the sender: 202, 400, 403, 503. Any thread."""
        return 503 if body else 400

    def session_now(self, trigger: str = "user") -> None:
        """Ask for a session soon (`dcuctl`). Any thread; returns at once."""

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        while not stop.wait(1.0):
            beat()
