"""The life of one service: when its program is started, counts as ready, is ended, and is started again. Sans-IO.

The driver gives the time (monotonic seconds) and what it sees of the program, and does what `next_event` asks for:

    STOPPED ──START──► STARTING ──READY──► RUNNING          a program that has ended by itself, or that used too much
       ▲                  │ ENDED │ OVERDUE  │ OVERUSED     waits (WAITING) and is started again, or not (OVER), as its
       │STOP              ▼       ▼          ▼              package says; each wait is twice the one before
    STOPPING ◄──STOP── WAITING ◄─ENDED── ENDING

One that keeps more than it may (`agent.services.room`) is not started again, whatever its package says: what it keeps
would still be there. A program is asked to end with SIGTERM, and ended with SIGKILL `STOP_S` later.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from agent.services.room import KEPT_KIB, Room
from omadm.transitions import Stateful, Transitions
from updateagent.software.component import Restart, ServiceSpec

STOP_S = 10.0  # below the supervisor's grace for all workers
CHECK_S = 1.0  # between two questions whether a service is ready
STEADY_S = 60.0  # so long a program must have been up for its next wait to be the shortest again
CPU_WINDOW_S = 60.0  # over which the use of the processor is reckoned


class State(Enum):
    """What a service is doing; the value is what people and head-ends see."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"
    ENDING = "ending"
    STOPPING = "stopping"
    OVER = "over"


class Step(Enum):
    """What moves a service from one state to the next."""

    START = auto()
    READY = auto()
    ENDED = auto()
    GIVEN_UP = auto()
    OVERUSED = auto()
    STOP = auto()


class Command(Enum):
    """What the driver is to do: start the program, run its ready command, send its group SIGTERM or SIGKILL."""

    START = auto()
    CHECK = auto()
    TERMINATE = auto()
    KILL = auto()


class StepError(Exception):
    """The driver reports what cannot happen in this state; nothing was changed."""


_S, _T = State, Step
TRANSITIONS: Final = Transitions(
    {
        (_S.STOPPED, _T.START): _S.STARTING,
        (_S.STARTING, _T.READY): _S.RUNNING,
        (_S.STARTING, _T.ENDED): _S.WAITING,
        (_S.STARTING, _T.GIVEN_UP): _S.OVER,
        (_S.STARTING, _T.OVERUSED): _S.ENDING,
        (_S.STARTING, _T.STOP): _S.STOPPING,
        (_S.RUNNING, _T.ENDED): _S.WAITING,
        (_S.RUNNING, _T.GIVEN_UP): _S.OVER,
        (_S.RUNNING, _T.OVERUSED): _S.ENDING,
        (_S.RUNNING, _T.STOP): _S.STOPPING,
        (_S.ENDING, _T.ENDED): _S.WAITING,
        (_S.ENDING, _T.GIVEN_UP): _S.OVER,
        (_S.ENDING, _T.STOP): _S.STOPPING,
        (_S.WAITING, _T.START): _S.STARTING,
        (_S.WAITING, _T.GIVEN_UP): _S.OVER,
        (_S.WAITING, _T.STOP): _S.STOPPED,
        (_S.OVER, _T.STOP): _S.STOPPED,
        (_S.STOPPING, _T.ENDED): _S.STOPPED,
        (_S.STOPPING, _T.STOP): _S.STOPPING,
        (_S.STOPPED, _T.STOP): _S.STOPPED,
    },
    StepError,
)

UP = frozenset({State.STARTING, State.RUNNING, State.ENDING, State.STOPPING})
"""The states in which there is a program."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a program ended: the exit code, negative for a signal; `None` where it could not be started, with `why`."""

    code: int | None
    why: str = ""

    @property
    def good(self) -> bool:
        return self.code == 0

    def __str__(self) -> str:
        if self.code is None:
            return f"cannot be started: {self.why}"
        return f"ended by signal {-self.code}" if self.code < 0 else f"ended with exit code {self.code}"


class Service(Stateful[State, Step]):
    """One service. `detail` says in words why it is not simply running; `failed_starts` counts ends before it was
    ready since it was wanted; `restarts` all starts but the first; `since` is when its state began."""

    def __init__(self, spec: ServiceSpec, now: float, kept_kib_max: int = KEPT_KIB) -> None:
        """`kept_kib_max`: how much its program may keep in its folder."""
        self.spec = spec
        self.keeps_too_much = False  # it was stopped for that, and is not started again
        self._room = Room(kept_kib_max)
        super().__init__(State.STOPPED, TRANSITIONS)
        self.detail = ""
        self.failed_starts = 0
        self.starts = 0
        self.since = now
        self._commands: deque[Command] = deque()
        self._deadline: float | None = None
        self._overdue_at = 0.0
        self._check_at: float | None = None
        self._up_since = 0.0
        self._wait_s = float(spec.restart_min_s)
        self._ready_start = 0  # the number of the start that was the last to get ready
        self._cpu: deque[tuple[float, float]] = deque()

    @property
    def restarts(self) -> int:
        return max(0, self.starts - 1)

    def next_event(self) -> Command | None:
        """What the driver is to do next; `None` for nothing."""
        return self._commands.popleft() if self._commands else None

    def next_deadline(self) -> float | None:
        """When `on_deadline` is to be called at the latest."""
        return self._deadline

    # -- verbs

    def start(self, now: float) -> None:
        """The service is wanted, or its wait is over."""
        self._move(Step.START, now)
        self.starts += 1
        self._up_since = now
        self._cpu.clear()
        ready = self.spec.ready
        if ready.command:
            self._overdue_at = now + ready.deadline_s
            self._check_at = now + CHECK_S
            self._deadline = min(self._overdue_at, self._check_at)
        else:
            self._deadline = now + ready.after_s
        self._commands.append(Command.START)

    def stop(self, now: float) -> None:
        """The service is not wanted any more."""
        before = self._state
        self._move(Step.STOP, now)
        if before in (State.STARTING, State.RUNNING):
            self._ask_to_end(now)
        elif self._state is State.STOPPED:
            self._deadline = None

    # -- what the driver sees

    def ended(self, how: Exit, now: float) -> None:
        """The program is gone."""
        if self._state is State.STOPPING:
            self._move(Step.ENDED, now)
            self._deadline = None
            self.detail = ""
            return
        if self._state not in UP:
            raise StepError(f"a program ended in state {self._state.value}")
        if self._state is State.STARTING or (self._state is State.ENDING and not self._was_ready):
            self.failed_starts += 1
        if self._state is not State.ENDING:  # that says already why
            self.detail = str(how)
        never = (
            self.keeps_too_much
            or self.spec.restart is Restart.NEVER
            or (self.spec.restart is Restart.ON_FAILURE and how.good)
        )
        if never:
            self._move(Step.GIVEN_UP, now)
            self._deadline = None
            return
        if now - self._up_since >= STEADY_S:
            self._wait_s = float(self.spec.restart_min_s)
        self._move(Step.ENDED, now)
        self._deadline = now + self._wait_s
        self._wait_s = min(2 * self._wait_s, float(self.spec.restart_max_s))

    def checked(self, now: float, *, ready: bool) -> None:
        """The ready command has ended. A late answer means nothing."""
        if self._state is not State.STARTING or not self.spec.ready.command:
            return
        if ready:
            self._ready(now)
        else:
            self._check_at = now + CHECK_S
            self._deadline = min(self._overdue_at, self._check_at)

    def used(self, cpu_s: float, processes: int, now: float) -> None:
        """What the program has used: seconds of processor time since it was started, and how many processes (threads
        count) it is now."""
        if self._state not in (State.STARTING, State.RUNNING):
            return
        limits = self.spec.limits
        if processes > limits.processes:
            self._overused(f"{processes} processes and threads, {limits.processes} are allowed", now)
            return
        self._cpu.append((now, cpu_s))
        while len(self._cpu) > 1 and now - self._cpu[1][0] >= CPU_WINDOW_S:
            self._cpu.popleft()
        first, before = self._cpu[0]
        if now - first < CPU_WINDOW_S:
            return
        percent = 100 * (cpu_s - before) / (now - first)
        if percent > limits.cpu_percent:
            self._overused(f"used {percent:.0f} % of a processor for a minute, {limits.cpu_percent} % are allowed", now)

    def keeps(self, kib: int, now: float) -> None:
        """What lies in the folder of the program, whether or not it is up: before its first start, every so often, and
        after each end."""
        self.stop_for_room(self._room.exceeded(kib, now), now)

    def stop_for_room(self, why: str, now: float) -> None:
        """Stop the program for good, because of what is kept; nothing where `why` is empty, or it is not at work."""
        if not why or self._state not in (State.STARTING, State.RUNNING, State.WAITING):
            return
        self.keeps_too_much = True
        if self._state is State.WAITING:
            self._move(Step.GIVEN_UP, now)
            self._deadline, self.detail = None, why
        else:
            self._overused(why, now)

    def on_deadline(self, now: float) -> None:
        """Do what is due."""
        if self._deadline is None or now < self._deadline:
            return
        if self._state is State.WAITING:
            self.start(now)
        elif self._state in (State.ENDING, State.STOPPING):
            self._commands.append(Command.KILL)
            self._deadline = now + STOP_S  # a process in the kernel's hands ends when the kernel lets it
        elif self._state is State.STARTING and not self.spec.ready.command:
            self._ready(now)
        elif self._state is State.STARTING and now >= self._overdue_at:
            self._overused(f"not ready after {self.spec.ready.deadline_s} s", now)
        elif self._state is State.STARTING:
            self._commands.append(Command.CHECK)
            self._deadline = self._overdue_at

    # -- inside

    @property
    def _was_ready(self) -> bool:
        return self._ready_start == self.starts

    def _ready(self, now: float) -> None:
        self._move(Step.READY, now)
        self._ready_start = self.starts
        self._deadline = None
        self.detail = ""

    def _overused(self, why: str, now: float) -> None:
        self._move(Step.OVERUSED, now)
        self.detail = why
        self._ask_to_end(now)

    def _ask_to_end(self, now: float) -> None:
        self._commands.append(Command.TERMINATE)
        self._deadline = now + STOP_S

    def _move(self, step: Step, now: float) -> None:
        before = self._state
        self._step(step)
        if self._state is not before:
            self.since = now
