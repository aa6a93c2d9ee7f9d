"""The main thread: starts the workers, watches their beats, feeds the watchdog, ends the process.

A worker is one named thread. It calls `beat()` at least every `budget_s` seconds, and returns soon after `stop` is
set; `wake()` ends whatever it waits for meanwhile, so that nobody has to look up every second. A worker that returns
before, or raises, ends the process with exit code 70: whoever started us starts us again, from a known state. The
watchdog is fed only while *every* beat is younger than its worker's budget. Where there is no watchdog, a stalled
worker ends the process the same way.

The main thread sleeps until a signal, until a worker ends, until the clock is set, or until the next of its own
deadlines: the watchdog's, and what the ticks asked for.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol

from agent.clock import Clock
from agent.daemon.clock_steps import ClockSteps
from agent.daemon.watchdog import Watchdog
from agent.wakeup import Wakeup
from dlms.link.readable import readable

LOG = logging.getLogger("agent.supervisor")

EXIT_OK = 0
EXIT_WORKER = 70  # EX_SOFTWARE of sysexits.h
TICK_S = 5.0  # as often as health.json is due
SOON_S = 1.0  # so far apart are two rounds that `soon` asks for
STOP_GRACE_S = 15.0  # below systemd's TimeoutStopSec in our unit
THREAD_NAME_CHARS = 15  # proc(5), /proc/pid/comm


class Worker(Protocol):
    """One thread's work. `budget_s`: the longest time between two beats that is still healthy, in seconds."""

    name: str
    budget_s: float

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Work until `stop` is set. Returning earlier, or raising, ends the process."""

    def wake(self) -> None:
        """Have `run` look at `stop` now instead of after its wait. Called from another thread."""


class _Running:
    """A worker with its thread, its last beat, and how it ended."""

    def __init__(self, worker: Worker, now: float) -> None:
        self.worker = worker
        self.beat_at = now
        self.ended = threading.Event()
        self.reason = ""
        self.stalled = False
        self.thread: threading.Thread | None = None


class Supervisor:
    """Runs workers until a signal, a dead worker, or a stalled one without a watchdog."""

    def __init__(
        self,
        workers: Sequence[Worker],
        clock: Clock,
        watchdog: Watchdog,
        *,
        ticks: Sequence[Callable[[], float | None]] = (),
        wait: Callable[[float], None] | None = None,
        tick_s: float = TICK_S,
        stop_grace_s: float = STOP_GRACE_S,
    ) -> None:
        """`ticks` are called on this thread at least every `tick_s` seconds; they must not block, and return after how
        many seconds they want to be called again, `None` for whenever. `wait` replaces the sleep of at most so many
        seconds between two rounds."""
        self._clock = clock
        self._watchdog = watchdog
        self._ticks = ticks
        self._tick_s = tick_s
        self._stop_grace_s = stop_grace_s
        self._stop = threading.Event()
        self._wait = wait
        self._wakeup = Wakeup()
        self._clock_steps = ClockSteps()
        self._next_s = tick_s  # until the next round
        self._round_at = -math.inf
        self._urgent = False  # wanted at once
        self._hurried = False  # wanted soon
        self._signalled = False
        now = clock.monotonic()
        self._running = [_Running(worker, now) for worker in workers]
        self._exit_code = EXIT_OK

    @property
    def stop(self) -> threading.Event:
        """Set when the process is to end."""
        return self._stop

    def wake(self) -> None:
        """Have the main thread make its round now. Callable from any thread."""
        self._urgent = True
        self._wakeup.set()

    def soon(self) -> None:
        """Have the main thread make a round, `SOON_S` after the last one. Callable from any thread, and cheap."""
        if not self._hurried:
            self._hurried = True
            self._wakeup.set()

    def ages(self) -> dict[str, float]:
        """Seconds since the last beat of each worker."""
        now = self._clock.monotonic()
        return {running.worker.name: now - running.beat_at for running in self._running}

    def run(self, *, handle_signals: bool = True) -> int:
        """Run until the end; returns the process's exit code. `handle_signals` needs the main thread."""
        if handle_signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)
        for running in self._running:
            self._start(running)
        self._watchdog.ready()
        LOG.info("%d workers started", len(self._running), extra={"event": "agent.start"})
        while not self._stop.is_set():
            self._round()
            if not self._stop.is_set():
                self._pause(min(self._next_s, self._watchdog.every_s))
        self._watchdog.stopping()
        for running in self._running:
            running.worker.wake()
        self._join()
        self._watchdog.close(orderly=self._exit_code == EXIT_OK)
        LOG.info("ended with code %d", self._exit_code, extra={"event": "agent.stop"})
        return self._exit_code

    # --- inside ---

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        # No lock and no logging here: the handler may interrupt whoever holds it.
        self._signalled = True
        self.wake()

    def _pause(self, seconds: float) -> None:
        if self._wait is not None:
            self._wait(seconds)
        else:
            self._sleep(seconds)
        if self._signalled:
            self._stop.set()

    def _sleep(self, seconds: float) -> None:
        self._sleep_once(seconds)
        left = self._round_at + SOON_S - self._clock.monotonic()
        if self._hurried and not self._urgent and left > 0:
            self._sleep_once(min(seconds, left))
        self._urgent = False

    def _sleep_once(self, seconds: float) -> None:
        steps = self._clock_steps
        ready = readable([self._wakeup, *steps.descriptors], min(seconds, steps.look_every_s))
        if ready.intersection(steps.descriptors):
            steps.clear()
            self._urgent = True
        self._wakeup.clear()

    def _start(self, running: _Running) -> None:
        def main() -> None:
            _name_in_system(running.worker.name)
            try:
                running.worker.run(self._stop, lambda: self._beat(running))
                running.reason = "returned"
            except BaseException as error:  # the last frame of the thread: whatever it is, it is our exit code
                running.reason = f"{type(error).__name__}: {error}"
                LOG.critical(
                    "worker %s died", running.worker.name, exc_info=error, extra={"event": "agent.worker.died"}
                )
            finally:
                running.ended.set()
                self.wake()

        running.beat_at = self._clock.monotonic()
        running.thread = threading.Thread(target=main, name=running.worker.name, daemon=True)
        running.thread.start()

    def _beat(self, running: _Running) -> None:
        running.beat_at = self._clock.monotonic()

    def _round(self) -> None:
        now = self._round_at = self._clock.monotonic()
        self._hurried = False
        for running in self._running:
            if running.ended.is_set() and not self._stop.is_set():
                self._fail(f"worker {running.worker.name} ended by itself: {running.reason}")
        stalled = [running for running in self._running if now - running.beat_at > running.worker.budget_s]
        for running in self._running:
            self._note_stall(running, now, is_stalled=running in stalled)
        if not stalled:
            self._watchdog.feed(now)
        elif not self._watchdog.active and not self._stop.is_set():
            self._fail(f"worker {stalled[0].worker.name} stalled, and no watchdog will end it")
        asked = [tick() for tick in self._ticks]
        self._next_s = min([self._tick_s, *(max(SOON_S, each) for each in asked if each is not None)])

    def _note_stall(self, running: _Running, now: float, *, is_stalled: bool) -> None:
        if is_stalled and not running.stalled:
            LOG.critical(
                "worker %s has not answered for %.0f s (budget %.0f s); it is at: %s",
                running.worker.name,
                now - running.beat_at,
                running.worker.budget_s,
                _where(running.thread),
                extra={"event": "agent.worker.stalled"},
            )
        running.stalled = is_stalled

    def _fail(self, text: str) -> None:
        LOG.critical("%s", text, extra={"event": "agent.fail"})
        self._exit_code = EXIT_WORKER
        self._stop.set()

    def _join(self) -> None:
        """Wait for the workers, feeding the watchdog meanwhile: the wait is bounded, the stop is wanted."""
        deadline = self._clock.monotonic() + self._stop_grace_s
        while (now := self._clock.monotonic()) < deadline:
            self._watchdog.feed(now)
            if all(running.ended.is_set() for running in self._running):
                return
            self._pause(min(self._tick_s, self._watchdog.every_s, deadline - now))
        for running in self._running:
            if not running.ended.is_set():
                LOG.warning(
                    "worker %s did not stop within %.0f s; it is at: %s",
                    running.worker.name,
                    self._stop_grace_s,
                    _where(running.thread),
                    extra={"event": "agent.stop.slow"},
                )


def _name_in_system(name: str) -> None:
    """Tell the kernel this thread's name, as Python does itself from 3.14 on: `top -H` then says which one is busy."""
    with contextlib.suppress(OSError):  # no /proc, or a read-only one: a name is a comfort
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name[:THREAD_NAME_CHARS])


def _where(thread: threading.Thread | None) -> str:
    """The innermost places of a thread's stack, for the log line that a person debugs a stall from."""
    frame = sys._current_frames().get(thread.ident or 0) if thread else None
    if frame is None:
        return "nowhere (the thread is gone)"
    places = traceback.extract_stack(frame)[-4:]
    return " < ".join(f"{place.filename.rpartition('/')[2]}:{place.lineno} {place.name}" for place in reversed(places))
