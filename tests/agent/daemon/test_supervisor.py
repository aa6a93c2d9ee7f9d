"""Supervision: a dead worker ends the process, a stalled one starves the watchdog, a signal stops in order."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.daemon import watchdog as watchdogs
from agent.daemon.supervisor import EXIT_OK, EXIT_WORKER, SOON_S, TICK_S, Supervisor, Worker
from agent.daemon.watchdog import BothWatchdogs, NoWatchdog, SystemdWatchdog

REPO = Path(__file__).resolve().parents[3]


class VirtualClock:
    """Time that passes only when the supervisor waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    def trusted(self) -> bool:
        return True


class RecordingWatchdog:
    def __init__(self, *, active: bool) -> None:
        self.active = active
        self.every_s = math.inf
        self.calls: list[str] = []
        self.fed_at: list[float] = []

    def ready(self) -> None:
        self.calls.append("ready")

    def feed(self, now: float) -> None:
        self.fed_at.append(now)

    def stopping(self) -> None:
        self.calls.append("stopping")

    def close(self, *, orderly: bool) -> None:
        self.calls.append(f"close orderly={orderly}")


class Obedient:
    """Beats once, then waits until it is woken for the stop."""

    def __init__(self, name: str = "obedient", budget_s: float = 1e9) -> None:
        self.name = name
        self.budget_s = budget_s
        self.stopped = False
        self.beat: Callable[[], None] = lambda: None
        self.started = threading.Event()
        self._wake = threading.Event()

    def wake(self) -> None:
        self._wake.set()

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        self.beat = beat
        beat()
        self.started.set()
        self._wake.wait()
        self.stopped = stop.is_set()


class Returns:
    name = "returns"
    budget_s = 60.0

    def wake(self) -> None: ...

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        beat()


class Raises:
    name = "raises"
    budget_s = 60.0

    def wake(self) -> None: ...

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        raise RuntimeError("the port is on fire")


class Deaf:
    """Does not stop when asked to."""

    name = "deaf"
    budget_s = 1e9

    def __init__(self) -> None:
        self.release = threading.Event()

    def wake(self) -> None: ...

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        self.release.wait()


def stop(supervisor: Supervisor) -> None:
    """As a signal does it, from any thread."""
    supervisor.stop.set()
    supervisor.wake()


class Rig:
    """A supervisor in virtual time: `script` is called once a round, and makes things happen."""

    def __init__(
        self, workers: list[Worker], script: Callable[[Rig], None], *, watched: bool = True, rounds_max: int = 50
    ) -> None:
        self.clock = VirtualClock()
        self.watchdog = RecordingWatchdog(active=watched)
        self.rounds = 0
        self.rounds_max = rounds_max
        self.script = script
        self.supervisor = Supervisor(workers, self.clock, self.watchdog, wait=self.wait, tick_s=1.0, stop_grace_s=10.0)

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.rounds += 1
        self.script(self)
        if self.rounds >= self.rounds_max:
            stop(self.supervisor)

    def run(self) -> int:
        return self.supervisor.run(handle_signals=False)


def wait_for_end_of(name: str) -> Callable[[Rig], None]:
    """A script that lets the named thread come to its end before the next round."""

    def script(_: Rig) -> None:
        for thread in threading.enumerate():
            if thread.name == name:
                thread.join()

    return script


def let_start(worker: Obedient) -> Callable[[Rig], None]:
    def script(_: Rig) -> None:
        worker.started.wait()

    return script


def test_a_stop_request_stops_every_worker_and_the_process_ends_well() -> None:
    workers = [Obedient("a"), Obedient("b")]

    def script(rig: Rig) -> None:
        if not rig.supervisor.stop.is_set():
            stop(rig.supervisor)
            return
        wait_for_end_of("a")(rig)
        wait_for_end_of("b")(rig)

    rig = Rig(list(workers), script)
    assert rig.run() == EXIT_OK
    assert all(worker.stopped for worker in workers)
    assert rig.watchdog.calls == ["ready", "stopping", "close orderly=True"]


@pytest.mark.parametrize("worker", [Returns(), Raises()])
def test_a_worker_that_ends_by_itself_ends_the_process_with_70(worker: Worker) -> None:
    other = Obedient()
    rig = Rig([other, worker], wait_for_end_of(worker.name))
    rig.rounds_max = 1000
    assert rig.run() == EXIT_WORKER
    assert rig.watchdog.calls[-1] == "close orderly=False"


def test_the_reason_of_a_death_is_logged_with_the_worker_s_name(caplog: pytest.LogCaptureFixture) -> None:
    Rig([Raises()], wait_for_end_of("raises")).run()
    assert "worker raises ended by itself: RuntimeError: the port is on fire" in caplog.text


def test_the_watchdog_is_fed_while_every_beat_is_fresh_and_not_after() -> None:
    lively, stuck = Obedient("lively", 5.0), Obedient("stuck", 5.0)

    def script(rig: Rig) -> None:
        lively.started.wait()
        stuck.started.wait()
        lively.beat()
        if rig.rounds < 10:
            stuck.beat()

    rig = Rig([lively, stuck], script, rounds_max=40)
    rig.run()
    feeds_while_running = [at for at in rig.watchdog.fed_at if at <= 1000.0 + 39]
    assert max(feeds_while_running) == 1000.0 + 9 + 5


def test_a_worker_that_recovers_gets_the_watchdog_fed_again() -> None:
    worker = Obedient("slow", 3.0)

    def script(rig: Rig) -> None:
        worker.started.wait()
        if not 10 <= rig.rounds < 20:
            worker.beat()

    rig = Rig([worker], script, rounds_max=30)
    rig.run()
    fed = [int(at - 1000) for at in rig.watchdog.fed_at]
    assert 11 in fed
    assert not set(range(13, 20)) & set(fed)
    assert 25 in fed


def test_a_stall_is_logged_once_with_the_place_where_the_thread_is(caplog: pytest.LogCaptureFixture) -> None:
    worker = Obedient("stuck", 2.0)
    Rig([worker], let_start(worker), rounds_max=20).run()
    stalls = [r for r in caplog.records if getattr(r, "event", "") == "agent.worker.stalled"]
    assert len(stalls) == 1
    assert "test_supervisor.py" in stalls[0].getMessage()


def test_without_a_watchdog_a_stalled_worker_ends_the_process_with_70() -> None:
    worker = Obedient("stuck", 2.0)
    rig = Rig([worker], let_start(worker), watched=False)
    assert rig.run() == EXIT_WORKER


def test_a_worker_that_ignores_the_stop_does_not_hold_the_process_up_for_ever() -> None:
    deaf = Deaf()
    rig = Rig([deaf], lambda rig: stop(rig.supervisor))
    try:
        assert rig.run() == EXIT_OK
        assert rig.clock.now <= 1000 + 12
    finally:
        deaf.release.set()


def test_ticks_run_on_the_main_thread_every_round() -> None:
    seen: list[threading.Thread] = []
    clock = VirtualClock()

    def wait(seconds: float) -> None:
        clock.now += seconds
        if len(seen) >= 3:
            stop(supervisor)

    supervisor = Supervisor([], clock, NoWatchdog(), ticks=[lambda: seen.append(threading.current_thread())], wait=wait)
    supervisor.run(handle_signals=False)
    assert seen == [threading.current_thread()] * 3


def test_the_next_round_comes_when_the_first_of_all_who_wait_for_it_wants_it() -> None:
    waits: list[float] = []
    asked: list[float | None] = [None, 3.0, 0.2]

    def wait(seconds: float) -> None:
        waits.append(seconds)
        asked.pop()
        if not asked:
            stop(supervisor)

    supervisor = Supervisor([], VirtualClock(), NoWatchdog(), ticks=[lambda: None, lambda: asked[-1]], wait=wait)
    supervisor.run(handle_signals=False)
    assert waits == [SOON_S, 3.0, TICK_S]


def test_the_watchdog_does_not_wait_for_the_ticks() -> None:
    waits: list[float] = []

    def script(seconds: float) -> None:
        waits.append(seconds)
        stop(supervisor)

    watchdog = RecordingWatchdog(active=True)
    watchdog.every_s = 2.5
    supervisor = Supervisor([], VirtualClock(), watchdog, wait=script)
    supervisor.run(handle_signals=False)
    assert waits == [2.5]


@pytest.mark.parametrize("how", ["wake", "soon"])
def test_another_thread_ends_the_wait_for_the_next_round(how: str) -> None:
    """In real time, with a round that would come in a minute."""
    clock, rounds = VirtualClock(), []

    def tick() -> float:
        rounds.append(1)
        clock.now += SOON_S  # so that even `soon` is now
        if len(rounds) == 3:
            stop(supervisor)
        threading.Thread(target=getattr(supervisor, how)).start()
        return 60.0

    supervisor = Supervisor([], clock, NoWatchdog(), ticks=[tick], tick_s=60.0)
    began = time.monotonic()
    supervisor.run(handle_signals=False)
    assert len(rounds) == 3
    assert time.monotonic() - began < 30.0


# --- the watchdogs ---


def receive_all(server: socket.socket) -> list[str]:
    server.settimeout(0)
    found = []
    while True:
        try:
            found.append(server.recv(1000).decode())
        except BlockingIOError:
            return found


def test_systemd_is_told_about_readiness_and_fed_four_times_an_interval(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        watchdog = watchdogs.find(
            {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "40000000", "WATCHDOG_PID": str(os.getpid())},
            "",
            60,
        )
        assert watchdog.active
        watchdog.ready()
        for second in range(25):
            watchdog.feed(1000.0 + second)
        watchdog.stopping()
        got = receive_all(server)
    assert got[0].startswith("READY=1")
    assert got[1:-1] == ["WATCHDOG=1"] * 3
    assert got[-1] == "STOPPING=1"


def test_systemd_without_a_watchdog_setting_is_only_notified(tmp_path: Path) -> None:
    watchdog = watchdogs.find({"NOTIFY_SOCKET": "@nobody"}, "", 60)
    assert isinstance(watchdog, SystemdWatchdog)
    assert not watchdog.active
    assert watchdog.every_s == math.inf
    watchdog.ready()  # nobody listens: a warning, not an error


def test_a_watchdog_meant_for_another_process_is_left_alone() -> None:
    watchdog = watchdogs.find({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, "", 60)
    assert not watchdog.active


def test_the_device_is_fed_in_time_and_disarmed_only_by_an_orderly_end(tmp_path: Path) -> None:
    for orderly, end in ((True, b"V"), (False, b"")):
        device = tmp_path / f"watchdog-{orderly}"
        device.touch()
        watchdog = watchdogs.find({}, str(device), 40)
        assert watchdog.active
        assert watchdog.every_s == 10.0
        for second in range(25):
            watchdog.feed(float(second))
        watchdog.close(orderly=orderly)
        assert device.read_bytes() == b"\0" * 3 + end


def test_no_watchdog_at_all_is_possible_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(watchdogs.find({}, "", 60), NoWatchdog)
    assert isinstance(watchdogs.find({}, str(tmp_path / "none"), 60), NoWatchdog)
    assert "cannot be opened" in caplog.text


def test_both_watchdogs_are_served() -> None:
    first, second = RecordingWatchdog(active=False), RecordingWatchdog(active=True)
    both = BothWatchdogs(first, second)
    assert both.active
    both.ready()
    both.feed(1.0)
    both.stopping()
    both.close(orderly=True)
    assert first.calls == second.calls == ["ready", "stopping", "close orderly=True"]
    assert both.every_s == math.inf
    first.every_s = 2.0
    assert both.every_s == 2.0


# --- real signals ---

PROGRAM = """
import sys, threading
from agent.clock import SystemClock
from agent.daemon.supervisor import SOON_S, TICK_S, Supervisor
from agent.daemon.watchdog import NoWatchdog

class Waits:
    name = "waits"
    budget_s = 60.0
    def run(self, stop, beat):
        print("running", flush=True)
        while not stop.wait(0.05):
            beat()
    def wake(self):
        pass

sys.exit(Supervisor([Waits()], SystemClock(), NoWatchdog()).run())
"""


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_in_order(number: int) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=REPO, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        process.send_signal(number)
        assert process.wait(10) == 0
