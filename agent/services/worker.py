"""The thread that has the services of active components run, and what others ask of it.

What is wanted is never kept: it is what is active. So the same services run after a restart, once each.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.clock import Clock
from agent.services.active import ActiveService, Components, Found
from agent.status import ServiceStatus, StatusBoard
from agent.wakeup import Wakeup

LOG = logging.getLogger("agent.services")

IDLE_S = 30.0  # between two beats with nothing to do
SETTLE_S_MAX = 180.0  # for the ready command of a start, and the end of what ran before
SETTLE_BEAT_S = 1.0
UNUSABLE = "unusable"
FAILED = frozenset({"over", UNUSABLE})


class Backend(Protocol):
    """Who runs programs: `agent.services.own.OwnSupervisor`, `agent.services.systemd.Systemd`."""

    def begin(self) -> None:
        """Prepare. Called once, before anything else."""

    def apply(self, wanted: Mapping[str, ActiveService]) -> None:
        """Have exactly these services run. Returns before they do."""

    def step(self) -> float:
        """Do what is due; returns seconds until there may be more."""

    def descriptors(self) -> Sequence[int]:
        """Readable when `step` has something to do."""

    def statuses(self) -> Sequence[ServiceStatus]: ...

    def log(self, service_id: str, lines: int) -> list[str]:
        """The last lines that a service printed, oldest first. Any thread."""

    def forget(self, service_id: str) -> None:
        """Remove the state of a service whose component was removed."""

    def close(self) -> None:
        """End all services, because the agent ends."""


@dataclass(frozen=True, slots=True)
class _Descriptor:
    """A number that `Wakeup.wait` takes."""

    number: int

    def fileno(self) -> int:
        return self.number


class ServiceWorker:
    """Runs services. `reload`, `settle`, `log` may be called from any thread."""

    name = "services"
    budget_s = 60.0

    def __init__(
        self,
        components: Components,
        make: Callable[[], Backend],
        board: StatusBoard,
        clock: Clock,
        *,
        left_behind: bool = False,
        on_anchors: Callable[[Sequence[str]], None] = lambda _texts: None,
    ) -> None:
        """`make` is called when there is a service for the first time, or at the start where an agent before this one
        may have left some behind: on most devices there is nothing to load. `on_anchors` is told which authorities'
        certificates active components have, whenever that has changed; raises `OSError`."""
        self._on_anchors = on_anchors
        self._anchors: Sequence[str] = ()
        self._components = components
        self._make = make
        self._made: Backend | None = None
        self._left_behind = left_behind
        self._board = board
        self._clock = clock
        self._wakeup = Wakeup()
        self._changed = threading.Condition()
        self._asked = 1
        self._done = 0
        self._ended = False
        self._problems: Mapping[str, str] = {}
        self._known: set[str] = set()

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Have services run until `stop`; none does afterwards."""
        if self._left_behind:
            self._backend()
        try:
            while not stop.is_set():
                beat()
                due = self.step()
                if not stop.is_set():
                    numbers = self._made.descriptors() if self._made else ()
                    descriptors = [_Descriptor(number) for number in numbers]
                    self._wakeup.wait(min(due, IDLE_S), descriptors)
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            if self._made:
                self._made.close()

    def wake(self) -> None:
        """Have `run` look at its `stop` now. Any thread."""
        self._wakeup.set()

    def step(self) -> float:
        """Do what is due; returns seconds until there may be more."""
        asked = self._asked
        if asked != self._done:
            self._look()
        due = self._made.step() if self._made else IDLE_S
        self._publish()
        with self._changed:
            self._done = asked
            self._changed.notify_all()
        return due

    def reload(self) -> int:
        """The set of active components has changed. Returns the number of this request."""
        with self._changed:
            self._asked += 1
            asked = self._asked
        self._wakeup.set()
        return asked

    def settle(self, software_id: str, version: str, beat: Callable[[], None]) -> str | None:
        """Look at what is active now, and wait until the service of a component is ready, or has ended where no
        `version` is given. Returns why it does not get ready; empty for success, and for a component without a service;
        `None` where it will not be known, because the agent ends.
        """
        asked = self.reload()
        end = self._clock.monotonic() + SETTLE_S_MAX
        with self._changed:
            while True:
                beat()
                if self._ended:
                    return None
                if self._done >= asked:
                    found = self._outcome(software_id, version)
                    if found is not None:
                        return found
                if self._clock.monotonic() >= end:
                    return f"no end after {SETTLE_S_MAX:.0f} s"
                self._changed.wait(SETTLE_BEAT_S)

    def log(self, service_id: str, lines: int) -> list[str]:
        """The last lines that a service printed, oldest first."""
        return self._made.log(service_id, lines) if self._made else []

    def warnings(self) -> list[str]:
        """Sentences about services that do not run as they should."""
        found: list[str] = []
        for one in self._board.current.services:
            if one.state not in ("running", "starting", "stopping"):
                found.append(" ".join(filter(None, ("service", one.id, one.version, f"is {one.state}: {one.detail}"))))
            if one.warning:
                found.append(f"service {one.id}: {one.warning}")
        return found

    def _backend(self) -> Backend:
        if self._made is None:
            self._made = self._make()
            self._made.begin()
        return self._made

    def look_at_anchors(self) -> None:
        """Have the authorities of active components believed. Before the first connection; then the thread does it."""
        self._trust(self._components.look())

    def _trust(self, found: Found) -> None:
        anchors = [found.anchors[name] for name in sorted(found.anchors)]
        if anchors == list(self._anchors):
            return
        try:
            self._on_anchors(anchors)
        except OSError as error:
            LOG.error("trust anchors stay as they were: %s", error, extra={"event": "anchors.failed"})  # noqa: TRY400
            return
        self._anchors = anchors
        shown = ", ".join(sorted(found.anchors)) or "none"
        LOG.warning("trust anchors of software packages: %s", shown, extra={"event": "anchors.changed"})

    def _look(self) -> None:
        found = self._components.look()
        self._trust(found)
        for software_id, problem in found.problems.items():
            if self._problems.get(software_id) != problem:
                LOG.error("component %s: %s", software_id, problem, extra={"event": "service.unusable"})
        self._problems = found.problems
        if found.services or self._made:
            self._backend().apply(found.services)
        for gone in [each for each in self._known if not self._components.is_installed(each)]:
            self._backend().forget(gone)
            self._known.discard(gone)
        self._known |= set(found.services)

    def _publish(self) -> None:
        unusable = [ServiceStatus(name, state=UNUSABLE, detail=text) for name, text in self._problems.items()]
        statuses = (*(self._made.statuses() if self._made else ()), *unusable)
        if statuses != self._board.current.services:
            self._board.publish(services=statuses)

    def _outcome(self, software_id: str, version: str) -> str | None:
        """What `settle` returns for a request; `None` while that cannot be told."""
        status = next((one for one in self._board.current.services if one.id == software_id), None)
        if not version:
            return "" if status is None or status.state == UNUSABLE else None
        if status is None:
            return ""  # files, and no service
        if status.state == UNUSABLE:
            return status.detail
        if status.version != version or status.state == "stopping":
            return None
        if status.state == "running":
            return ""
        return (status.detail or status.state) if status.failed_starts or status.state in FAILED else None
