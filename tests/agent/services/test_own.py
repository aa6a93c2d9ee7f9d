"""The agent as supervisor, with real programs: what they are given, how they end, and that none stays behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from agent.daemon.device_orders import Marker, erase_if_ordered, erased_by_reset
from agent.services.active import Components
from agent.services.backends import end_services
from agent.services.folders import DYNAMIC_FIRST, DYNAMIC_LAST
from agent.services.own import AS_AGENT, OwnSupervisor
from agent.status import ServiceStatus
from tests.agent.services.packages import Installed, RealClock, until
from tests.agent.settings.test_config import MINIMAL, read
from updateagent.disk import RealDisk

pytestmark = pytest.mark.process
REPO = Path(__file__).resolve().parents[3]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
GIVEN = ("LEVEL", "DCU_SERVICE", "DCU_SERVICE_VERSION", "PATH", "PWD", "STATE_DIRECTORY", "HOME")
FOREVER = "echo up; exec sleep 1000"


class Rig:
    def __init__(self, folder: Path, *, root: bool) -> None:
        self.installed = Installed(folder / "state" / "software")
        self.components = Components(self.installed.folder)
        self.state, self.run = folder / "state", folder / "run"
        self.own = OwnSupervisor(RealClock(), state_dir=self.state, run_dir=self.run, root=root)

    def apply(self) -> None:
        found = self.components.look()
        assert not found.problems
        self.own.apply(found.services)
        self.own.step()

    def start(self, software_id: str, version: str = "1") -> ServiceStatus:
        self.installed.activate(software_id, version)
        self.apply()
        self.until(software_id, "running", version)
        return self.status(software_id)

    def until(self, software_id: str, state: str, version: str = "1") -> None:
        def holds() -> bool:
            found = [one for one in self.own.statuses() if one.id == software_id]
            return [(one.state, one.version) for one in found] == [(state, version)]

        until(holds, self.own.step)

    def status(self, software_id: str) -> ServiceStatus:
        (found,) = [one for one in self.own.statuses() if one.id == software_id]
        return found

    def lines(self, software_id: str) -> list[str]:
        return [line.split(" ", 1)[1] for line in self.own.log(software_id, 100)]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, root=False)
    yield made
    made.own.close()


@pytest.fixture
def root_rig() -> Iterator[Rig]:
    """Where another user can pass: folders of pytest are its own user's alone."""
    folder = Path(tempfile.mkdtemp(prefix="services-"))
    folder.chmod(0o711)
    made = Rig(folder, root=True)
    yield made
    made.own.close()
    shutil.rmtree(folder)


def sleepers(*seconds: int) -> list[int]:
    """The processes that sleep for so many seconds."""
    wanted = {f"sleep\0{one}\0".encode() for one in seconds}
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            found += [int(path.name)] if (path / "cmdline").read_bytes() in wanted else []
    return found


def is_one_new(seconds: int, seen: set[int]) -> bool:
    found = sleepers(seconds)
    return len(found) == 1 and not seen & set(found)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_service_runs_while_its_component_is_active_and_its_log_is_kept(rig: Rig) -> None:
    rig.installed.service("watch", "1", FOREVER)
    status = rig.start("watch")
    assert (status.restarts, status.failed_starts, status.warning) == (0, 0, AS_AGENT)
    assert is_alive(status.pid)
    until(lambda: "up" in rig.lines("watch"), rig.own.step)
    rig.installed.activate("watch", None)
    rig.apply()
    until(lambda: not rig.own.statuses(), rig.own.step)
    assert not is_alive(status.pid)


def test_what_a_program_is_given(rig: Rig) -> None:
    variables = "|".join(f"${name}" for name in ("1", *GIVEN, "SECRET"))
    script = f'echo "{variables}"; exec sleep 1000'
    home = rig.installed.service("watch", "1", script, arguments=["a b"], environment={"LEVEL": "info"})
    os.environ["SECRET"] = "of the agent's"
    try:
        rig.start("watch")
    finally:
        del os.environ["SECRET"]
    state = rig.state / "services" / "watch"
    wanted = f"a b|info|watch|1|/usr/sbin:/usr/bin:/sbin:/bin|{home}|{state}|{state}|"
    until(lambda: wanted in rig.lines("watch"), rig.own.step)
    assert state.stat().st_mode & 0o777 == 0o700


def test_a_python_program_finds_its_library_and_its_configuration(rig: Rig) -> None:
    rig.installed.put("settings", "7", {"format": 1, "kind": "configuration"}, {"level": "high"})
    rig.installed.activate("settings", "7")
    program = (
        "#!/usr/bin/env python3\nimport grid, os, time\n"
        "print(grid.NAME, open(os.environ['DCU_CONFIGURATION'] + '/level').read())\ntime.sleep(1000)\n"
    )
    spec = {"program": "run", "python": ["lib"], "ready": {"after_s": 0}, "configuration": "settings"}
    files = {"run": program, "lib/grid.py": "NAME = 'grid library'\n"}
    rig.installed.put("watch", "1", {"format": 1, "kind": "service", "service": spec}, files)
    first = rig.start("watch")
    until(lambda: "grid library high" in rig.lines("watch"), rig.own.step)
    rig.installed.put("settings", "8", {"format": 1, "kind": "configuration"}, {"level": "low"})
    rig.installed.activate("settings", "8")
    rig.apply()
    until(lambda: "grid library low" in rig.lines("watch"), rig.own.step)
    assert rig.status("watch").pid != first.pid


def test_libraries_of_a_package_are_the_programs_alone(rig: Rig) -> None:
    """What makes a program of it runs with the agent's rights first, and must load nothing that came in a package."""
    files = {"lib/libc.so.6": "no library"}
    rig.installed.service("watch", "1", FOREVER, files, libraries=["lib"], restart={"when": "never"})
    rig.installed.activate("watch", "1")
    rig.apply()
    rig.until("watch", "over")
    assert any(line.startswith("/bin/sh: error while loading") for line in rig.lines("watch"))


@needs_cc
def test_a_program_finds_the_shared_library_of_its_package(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "grid.c").write_text("int grid(void) { return 42; }\n")
    (tmp_path / "main.c").write_text(
        "#include <stdio.h>\n#include <unistd.h>\nint grid(void);\n"
        'int main(void) { printf("grid %d\\n", grid()); fflush(stdout); for (;;) pause(); }\n'
    )
    home = rig.installed.service("watch", "1", "", {"lib/libgrid.so": ""}, libraries=["lib"])
    subprocess.run(["cc", "-shared", "-fPIC", "-o", home / "lib/libgrid.so", tmp_path / "grid.c"], check=True)
    subprocess.run(["cc", "-o", home / "run", tmp_path / "main.c", home / "lib/libgrid.so"], check=True)
    built = (home / "run").read_bytes()
    assert b"libgrid.so" in built
    rig.start("watch")
    until(lambda: "grid 42" in rig.lines("watch"), rig.own.step)


def test_a_program_that_ends_is_started_again_and_one_that_is_not_there_says_so(rig: Rig) -> None:
    rig.installed.service("watch", "1", "exit 3", ready={"after_s": 5})
    rig.installed.activate("watch", "1")
    rig.apply()
    rig.until("watch", "waiting")
    status = rig.status("watch")
    assert (status.detail, status.failed_starts, status.pid) == ("ended with exit code 3", 1, 0)
    until(lambda: rig.status("watch").restarts >= 1, rig.own.step)
    (rig.installed.folder / "watch" / "1" / "run").unlink()
    until(lambda: rig.status("watch").detail == "ended with exit code 126", rig.own.step)
    assert any("cannot be started" in line for line in rig.lines("watch"))


def test_what_a_program_has_started_ends_with_it_also_in_a_session_of_its_own(rig: Rig) -> None:
    rig.installed.service("watch", "1", "setsid sleep 1001 & sleep 1002 & echo $!; exec sleep 1003")
    rig.start("watch")

    until(lambda: len(sleepers(1001, 1002, 1003)) == 3, rig.own.step)
    rig.own.close()
    assert sleepers(1001, 1002, 1003) == []


def test_a_program_that_does_not_want_to_end_is_killed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.services.service.STOP_S", 0.3)
    rig.installed.service("watch", "1", "trap '' TERM; echo up; while :; do sleep 1; done")
    status = rig.start("watch")
    until(lambda: "up" in rig.lines("watch"), rig.own.step)
    rig.installed.activate("watch", None)
    rig.apply()
    until(lambda: not rig.own.statuses(), rig.own.step)
    assert not is_alive(status.pid)


def test_limits_are_the_programs_own(rig: Rig) -> None:
    script = "ulimit -n; ulimit -v; ulimit -c; nice; exec sleep 1000"
    rig.installed.service("watch", "1", script, limits={"files": 20, "memory_kib": 50_000})
    rig.start("watch")
    until(lambda: rig.lines("watch")[-1:] == ["5"], rig.own.step)
    assert rig.lines("watch")[-4:] == ["20", "50000", "0", "5"]


def test_who_has_too_many_processes_is_ended(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.services.own.USE_EVERY_S", 0.2)
    rig.installed.service("watch", "1", "for i in 1 2 3 4 5; do sleep 1000 & done; wait", limits={"processes": 3})
    rig.installed.activate("watch", "1")
    rig.apply()
    until(lambda: "processes and threads, 3 are allowed" in rig.status("watch").detail, rig.own.step)


def test_a_program_that_prints_without_end_fills_no_disk_and_keeps_no_one_busy(rig: Rig) -> None:
    rig.installed.service("watch", "1", "exec yes 0123456789")
    rig.installed.service("other", "1", FOREVER)
    rig.start("watch")
    rig.start("other")
    until((rig.run / "services" / "watch.log.1").exists, rig.own.step)
    sizes = [path.stat().st_size for path in (rig.run / "services").glob("watch.log*")]
    assert max(sizes) <= 64 << 10
    assert len(sizes) == 2


FILL = {
    "one file": 'exec cat /dev/zero >"$STATE_DIRECTORY/data"',
    "many files": 'i=0; while :; do i=$((i+1)); echo >"$STATE_DIRECTORY/$i"; done',
    "and ends": 'for i in 1 2 3 4; do head -c 100000 /dev/zero >"$STATE_DIRECTORY/$i"; done; exit 1',
}


@pytest.mark.parametrize("how", FILL)
def test_who_fills_the_disk_is_stopped_and_says_why_and_others_go_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("agent.services.own.USE_EVERY_S", 0.1)
    alarms: list[tuple[str, str, str]] = []
    rig.own = OwnSupervisor(
        RealClock(),
        state_dir=rig.state,
        run_dir=rig.run,
        root=False,
        kept_kib_max=256,
        on_alarm=lambda *told: alarms.append(told),
    )
    rig.installed.service("watch", "1", FILL[how])
    rig.installed.service("other", "1", f'echo x >"$STATE_DIRECTORY/x"; {FOREVER}')
    rig.start("other")
    rig.installed.activate("watch", "1")
    rig.apply()
    rig.until("watch", "over")
    found = rig.status("watch")
    assert "in its folder, 256 KiB are allowed" in found.detail
    assert found.kept_kib > 256
    assert [(one, version) for one, version, _ in alarms] == [("watch", "1")]
    assert alarms[0][2] == found.detail
    assert any("256 KiB are allowed" in line for line in rig.lines("watch"))
    for _ in range(20):
        rig.own.step()
    assert (rig.status("watch").state, rig.status("other").state) == ("over", "running")
    assert sum(path.stat().st_size for path in (rig.state / "services" / "watch").iterdir()) <= 2 * (256 << 10)

    rig.installed.service("watch", "2", f'rm -f "$STATE_DIRECTORY"/*; {FOREVER}')
    rig.installed.activate("watch", "2")
    rig.apply()
    rig.until("watch", "running", "2")
    until(lambda: rig.status("watch").kept_kib == 0, rig.own.step)
    assert rig.status("watch").state == "running"


def test_of_programs_that_fill_a_small_disk_together_the_one_that_keeps_the_most_is_stopped(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.services.own.USE_EVERY_S", 0.1)
    monkeypatch.setattr("agent.services.folders.together_kib_max", lambda _: 300)
    for name, kib in (("watch", 120), ("other", 100), ("third", 120 - 20)):
        rig.installed.service(name, "1", f'head -c {kib << 10} /dev/urandom >"$STATE_DIRECTORY/x"; {FOREVER}')
        rig.installed.activate(name, "1")
    rig.apply()
    rig.until("watch", "over")
    assert "KiB together, 300 KiB are allowed" in rig.status("watch").detail
    for _ in range(20):
        rig.own.step()
    assert [rig.status(name).state for name in ("other", "third")] == ["running", "running"]


def test_a_ready_command_is_asked(rig: Rig) -> None:
    files = {"ready": '#!/bin/sh\ntest -e "$STATE_DIRECTORY/there"\n'}
    script = 'sleep 1; : >"$STATE_DIRECTORY/there"; exec sleep 1000'
    rig.installed.service("watch", "1", script, files, ready={"command": ["ready"]})
    rig.start("watch")


@needs_root
def test_as_root_a_service_is_a_user_of_its_own(root_rig: Rig) -> None:
    rig = root_rig
    (rig.state).chmod(0o700)
    for name in ("one", "two"):
        script = (
            'id -u; id -G; ulimit -p; echo x >"$STATE_DIRECTORY/x"; cat ../../../secret; touch here; exec sleep 1000'
        )
        home = rig.installed.service(name, "1", script)
        home.chmod(0o700)
        home.parent.chmod(0o700)
    (rig.state / "secret").write_text("secret")
    (rig.state / "secret").chmod(0o600)
    uids = []
    for name in ("one", "two"):
        assert rig.start(name).warning == ""
        until(lambda name=name: len(rig.lines(name)) >= 6, rig.own.step)  # type: ignore[misc]
        lines = rig.lines(name)
        uids.append(int(lines[1]))
        assert lines[2:4] == [lines[1], "16"]
        assert any("secret: Permission denied" in line for line in lines)
        assert not (rig.installed.folder / name / "1" / "here").exists()
        state = rig.state / "services" / name
        assert (state.stat().st_uid, state.stat().st_mode & 0o777) == (uids[-1], 0o700)
        assert (state / "x").read_text() == "x\n"
    assert DYNAMIC_FIRST <= min(uids) < max(uids) <= DYNAMIC_LAST
    assert rig.state.stat().st_mode & 0o777 == 0o711
    rig.own.forget("one")
    assert not (rig.state / "services" / "one").exists()


def test_a_factory_reset_ends_programs_and_erases_what_is_theirs(rig: Rig, tmp_path: Path) -> None:
    """Also one in a session of its own, which outlives the agent: it would write on after the reset."""
    rig.installed.service(
        "watch", "1", 'cd "$STATE_DIRECTORY"; mkdir -p a/b; setsid sleep 1013 & echo up; exec sleep 1014'
    )
    rig.start("watch")
    until(lambda: sleepers(1013) and sleepers(1014) and rig.lines("watch"), rig.own.step)
    text = MINIMAL.replace("{compatible: board-1}", f"{{compatible: board-1, run_dir: {rig.run}}}")
    config = read(tmp_path, f"{text}state_dir: {rig.state}\n")
    disk = RealDisk()
    Marker("1", "corr-1").write(disk, rig.state)
    erase_if_ordered(disk, rig.state, lambda: erased_by_reset(config), lambda: end_services(config))
    assert sleepers(1013, 1014) == []
    assert not (rig.state / "services").exists()
    assert not (rig.run / "services").exists()
    assert (rig.installed.folder / "watch" / "1" / "run").exists()
    assert (rig.installed.folder / "active" / "watch").is_symlink()


AGENT = """
import sys, threading, pathlib
sys.path.insert(0, {repo!r})
from agent.services.active import Components
from agent.services.own import OwnSupervisor
from agent.services.worker import ServiceWorker
from agent.status import Status, StatusBoard
from tests.agent.services.packages import RealClock
own = OwnSupervisor(RealClock(), state_dir=pathlib.Path({state!r}), run_dir=pathlib.Path({run!r}), root=False)
worker = ServiceWorker(Components(pathlib.Path({software!r})), lambda: own, StatusBoard(Status()), RealClock())
worker.run(threading.Event(), lambda: None)
"""


def test_after_a_kill_of_the_agent_each_service_runs_once(rig: Rig) -> None:
    """Twice: the first program ends with the agent, what it has started is found by the next agent."""
    rig.installed.service("watch", "1", "setsid sleep 1011 & echo up; exec sleep 1012")
    rig.installed.activate("watch", "1")
    source = AGENT.format(repo=str(REPO), state=str(rig.state), run=str(rig.run), software=str(rig.installed.folder))

    seen: set[int] = set()
    for _ in range(3):
        agent = subprocess.Popen([sys.executable, "-c", source])
        try:
            for seconds in (1012, 1011):
                until(partial(is_one_new, seconds, seen))
            seen |= {*sleepers(1011, 1012)}
        finally:
            agent.send_signal(signal.SIGKILL)
            agent.wait()
        until(lambda: not sleepers(1012))
    assert len(sleepers(1011)) == 1  # in a session of its own: the next agent's to find
    rig.own.begin()
    assert sleepers(1011) == []
