"""The agent as supervisor of services, where there is no systemd. Drives an `agent.services.service.Service` for each.

Called from one thread, which must live as long as the services: they end with it.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.clock import Clock
from agent.services.active import ActiveService
from agent.services.folders import FOLDER, ServiceFolders, kept_kib, make_room
from agent.services.log import ServiceLog, tail
from agent.services.program import READ_BYTES, Launch, Program, sweep, usage
from agent.services.room import KEPT_KIB, OnAlarm, crowding, file_kib_max
from agent.services.service import STOP_S, UP, Command, Exit, Service, State
from agent.status import ServiceStatus
from dlms.link.readable import readable

LOG = logging.getLogger("agent.services")

LOG_BYTES_PER_S = 32 << 10  # of one service; who prints more waits for its pipe
USE_EVERY_S = 10.0
LOOK_S = 0.5  # where no descriptor tells of an end
AT_WORK = frozenset({State.STARTING, State.RUNNING, State.WAITING})
AS_AGENT = "runs as the agent's own user: the agent is not root"


class OwnSupervisor:
    """Runs programs as children of this process."""

    def __init__(
        self,
        clock: Clock,
        *,
        state_dir: Path,
        run_dir: Path,
        root: bool | None = None,
        enabled: bool = True,
        kept_kib_max: int = KEPT_KIB,
        on_alarm: OnAlarm = lambda *_: None,
    ) -> None:
        """`run_dir` is in memory: logs lie there. `root`: whether to become other users; found out where `None`.
        Without `enabled` every service is over before it begins, and says why. `kept_kib_max`: what each program may
        keep in its folder; `on_alarm` is told of one that was stopped for more."""
        self._kept_kib_max = kept_kib_max
        self._on_alarm = on_alarm
        self._enabled = enabled
        self._clock = clock
        self._mark = str(state_dir)
        self._logs = run_dir / FOLDER
        self._root = os.geteuid() == 0 if root is None else root
        self._folders = ServiceFolders(state_dir, root=self._root)
        self._running: dict[str, _Running] = {}
        self._wanted: dict[str, ActiveService] = {}
        self._use_at = 0.0

    def begin(self) -> None:
        """End the programs that a killed agent left behind: each service runs once."""
        found = sweep(self._mark)
        if found:
            LOG.warning("%d processes of services were left behind", found, extra={"event": "service.left_behind"})

    def apply(self, wanted: Mapping[str, ActiveService]) -> None:
        """Have exactly these services run."""
        self._wanted = dict(wanted)
        now = self._clock.monotonic()
        for service_id, running in self._running.items():
            if self._wanted.get(service_id) != running.active and running.core.state is not State.STOPPING:
                running.core.stop(now)

    def forget(self, service_id: str) -> None:
        """Remove the state of a service whose component was removed."""
        self._folders.forget(service_id)

    def step(self) -> float:
        """Do what is due; returns seconds until there may be more."""
        now = self._clock.monotonic()
        for service_id in {*self._running, *self._wanted}:
            running = self._running.get(service_id)
            if running is not None and running.core.state is State.STOPPED:
                del self._running[service_id]
                running = None
            if running is None and service_id in self._wanted:
                running = self._running[service_id] = self._made(self._wanted[service_id], now)
                running.core.start(now)
            if running is not None:
                running.step(self._clock)
        if self._is_any_at_work() and now >= self._use_at:
            self._use_at = now + USE_EVERY_S
            self._see_use(now)
        return self._pause(now)

    def descriptors(self) -> list[int]:
        """Readable when `step` has something to do."""
        return [each for running in self._running.values() for each in running.descriptors()]

    def statuses(self) -> tuple[ServiceStatus, ...]:
        warning = "" if self._root else AS_AGENT
        return tuple(running.status(warning) for _, running in sorted(self._running.items()))

    def log(self, service_id: str, lines: int) -> list[str]:
        return tail(self._log_file(service_id), lines)

    def close(self) -> None:
        """End everything: politely, then not. Takes at most `STOP_S` and a little."""
        self._wanted = {}
        now = self._clock.monotonic()
        deadline = now + STOP_S
        for running in self._running.values():
            running.core.stop(now)
        while (due := self.step()) is not None and self._running and self._clock.monotonic() < deadline:
            readable(self.descriptors(), min(due, LOOK_S))
        for running in self._running.values():
            if running.program is not None:
                running.program.signal(signal.SIGKILL)
        if self._running:
            sweep(self._mark)

    # -- inside

    def _made(self, active: ActiveService, now: float) -> _Running:
        made = _Running(
            active, Service(active.spec, now, self._kept_kib_max), ServiceLog(self._log_file(active.id)), self
        )
        made.look_at_room(now)
        return made

    def _log_file(self, service_id: str) -> Path:
        return self._logs / f"{service_id}.log"

    def launch(self, active: ActiveService, command: Sequence[str]) -> Launch:
        """How a command of a service is started, with its folders made. Raises `OSError`, `ValueError`."""
        if not self._enabled:
            raise ValueError("services are switched off in the settings")
        self._folders.open_files(active)
        state = self._folders.state(active)
        return Launch(
            active.id,
            command,
            active.folder,
            environment(active, state),
            active.spec.limits,
            self._folders.owner(active),
            self._mark,
            file_kib_max(self._kept_kib_max),
        )

    def sweep(self, service_id: str) -> None:
        sweep(self._mark, service_id)

    def kept_kib(self, service_id: str) -> int:
        """What a service keeps, as far as it is counted."""
        return kept_kib(self._folders.home(service_id), self._kept_kib_max)

    def stopped_for_room(self, active: ActiveService, why: str) -> str:
        """A service is over because of what it keeps. Returns what became of that."""
        what = make_room(self._folders.home(active.id))
        self._on_alarm(active.id, active.version, why + what)
        return what

    def _is_any_at_work(self) -> bool:
        return any(one.program or one.core.state is State.WAITING for one in self._running.values())

    def _see_use(self, now: float) -> None:
        by_session = {one.program.pid: one for one in self._running.values() if one.program is not None}
        for session, used in usage(list(by_session)).items():
            running = by_session[session]
            running.memory_kib = used.memory_kib
            running.core.used(used.cpu_s, used.processes, now)
            running.step(self._clock)
        for running in self._running.values():
            running.look_at_room(now)
            running.step(self._clock)
        kept = {name: one.kept_kib for name, one in self._running.items() if one.core.state in AT_WORK}
        crowded = crowding(kept, self._folders.together_kib_max())
        if crowded is not None:
            service_id, why = crowded
            self._running[service_id].core.stop_for_room(why, now)
            self._running[service_id].step(self._clock)

    def _pause(self, now: float) -> float:
        due = [self._use_at] if self._is_any_at_work() else []
        for running in self._running.values():
            deadline = running.core.next_deadline()
            due += [deadline] if deadline is not None else []
            due += [now + LOOK_S] if running.must_be_looked_at() else []
        if any(running.core.state is State.STOPPED for running in self._running.values()):
            due.append(now)
        return max(0.0, min(due) - now) if due else USE_EVERY_S


def environment(active: ActiveService, state: Path) -> dict[str, str]:
    """The variables of a service's program, beside those that every program here has."""
    found = dict(active.spec.environment)
    found |= {"HOME": str(state), "STATE_DIRECTORY": str(state), "DCU_SERVICE_VERSION": active.version}
    if active.spec.libraries:
        found["LD_LIBRARY_PATH"] = ":".join(str(active.folder / name) for name in active.spec.libraries)
    if active.spec.python:
        # Not -u and -B, which would be arguments: what it prints is wanted now, and its folder is not its own.
        found["PYTHONPATH"] = ":".join(str(active.folder / name) for name in active.spec.python)
        found |= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    if active.configuration is not None:
        found["DCU_CONFIGURATION"] = str(active.configuration)
    return found


class _Running:
    """A service with its core, its program and its log."""

    def __init__(self, active: ActiveService, core: Service, log: ServiceLog, home: OwnSupervisor) -> None:
        self.active = active
        self.core = core
        self.program: Program | None = None
        self.memory_kib = 0
        self.kept_kib = 0
        self._told = core.state
        self._check: Program | None = None
        self._log = log
        self._home = home
        self._second = 0
        self._printed = 0  # bytes in this second

    def step(self, clock: Clock) -> None:
        """Carry commands out, and see what became of the programs, until there is nothing more to do."""
        now, wall = clock.monotonic(), clock.wall()
        self._obey(now, wall)
        self._read(now, wall)
        self._look(now, wall)
        self.core.on_deadline(now)  # after the start, which may have failed
        self._obey(now, wall)
        if self.core.state is not self._told:
            self._told = self.core.state
            self._tell(wall)

    def look_at_room(self, now: float) -> None:
        """See whether it keeps too much, unless that is settled."""
        if self.core.keeps_too_much and self.core.state is State.OVER:
            return
        self.kept_kib = self._home.kept_kib(self.active.id)
        self.core.keeps(self.kept_kib, now)

    def descriptors(self) -> list[int]:
        found: list[int] = []
        for program in (self.program, self._check):
            if program is not None:
                full = program is self.program and self._printed >= LOG_BYTES_PER_S
                exit_only = [program.exit_descriptor] if program.exit_descriptor is not None else []
                found += exit_only if full else program.descriptors
        return found

    def must_be_looked_at(self) -> bool:
        """Whether something may happen that no descriptor tells."""
        programs = [program for program in (self.program, self._check) if program is not None]
        return self._printed >= LOG_BYTES_PER_S or any(program.exit_descriptor is None for program in programs)

    def status(self, warning: str) -> ServiceStatus:
        core = self.core
        return ServiceStatus(
            id=self.active.id,
            version=self.active.version,
            state=core.state.value,
            since=self._since_wall(),
            restarts=core.restarts,
            failed_starts=core.failed_starts,
            pid=self.program.pid if self.program else 0,
            memory_kib=self.memory_kib if self.program else 0,
            kept_kib=self.kept_kib,
            detail=core.detail,
            warning=warning,
        )

    def _since_wall(self) -> float:
        clock = self._home._clock
        return float(round(clock.wall() - (clock.monotonic() - self.core.since)))

    def _obey(self, now: float, wall: float) -> None:
        while (command := self.core.next_event()) is not None:
            if command is Command.START:
                self._start(now, wall)
            elif command is Command.CHECK:
                self._start_check(now)
            elif self.program is not None:
                self.program.signal(signal.SIGTERM if command is Command.TERMINATE else signal.SIGKILL)

    def _start(self, now: float, wall: float) -> None:
        spec = self.active.spec
        try:
            self.program = Program(self._home.launch(self.active, (spec.program, *spec.arguments)))
        except (OSError, ValueError) as error:
            self.core.ended(Exit(None, str(error)), now)
            return
        self._log.note(f"version {self.active.version} started, process {self.program.pid}", wall)

    def _start_check(self, now: float) -> None:
        try:
            self._check = Program(self._home.launch(self.active, self.active.spec.ready.command))
        except (OSError, ValueError):
            self.core.checked(now, ready=False)

    def _read(self, now: float, wall: float) -> None:
        if int(now) != self._second:
            self._second, self._printed = int(now), 0
        for program in (self.program, self._check):
            if program is not None and (program is self._check or self._printed < LOG_BYTES_PER_S):
                data = program.read()
                self._printed += len(data)
                if data:
                    self._log.add(data, wall)

    def _look(self, now: float, wall: float) -> None:
        check, program = self._check, self.program
        if check is not None and self.core.state is not State.STARTING:
            check.signal(signal.SIGKILL)
        if check is not None and (code := check.poll()) is not None:
            check.close()
            self._check = None
            self.core.checked(now, ready=code == 0)
        if program is not None and (code := program.poll()) is not None:
            program.signal(signal.SIGKILL)  # what it started goes with it
            self._home.sweep(self.active.id)
            last = program.read()
            if last:
                self._log.add(last[-READ_BYTES:], wall)
            program.close()
            self.program = None
            how = Exit(code)
            self._log.note(str(how), wall)
            self.core.ended(how, now)
            self.look_at_room(now)

    def _tell(self, wall: float) -> None:
        core = self.core
        state = core.state
        if state is State.OVER and core.keeps_too_much:
            core.detail += self._home.stopped_for_room(self.active, core.detail)
            self.kept_kib = self._home.kept_kib(self.active.id)
        wrong = state in (State.WAITING, State.OVER, State.ENDING)
        LOG.log(
            logging.WARNING if wrong else logging.INFO,
            "service %s %s: %s%s",
            self.active.id,
            self.active.version,
            state.value,
            f": {core.detail}" if core.detail else "",
            extra={"event": f"service.{state.value}"},
        )
        if core.detail and state not in UP:
            self._log.note(core.detail, wall)
