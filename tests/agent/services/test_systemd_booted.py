"""systemd as supervisor, with a real one: users, limits, restarts, readiness, logs, state, and a factory reset."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.services.active import Components
from agent.services.folders import DYNAMIC_FIRST, DYNAMIC_LAST, SYSTEMD_ROOTS, SYSTEMD_STATE
from agent.services.systemd import Systemd, stop_all, unit_name
from agent.status import ServiceStatus
from tests.agent.services.booted import Booted, why_not
from tests.agent.services.packages import Installed, RealClock, until

pytestmark = [pytest.mark.process, pytest.mark.skipif(why_not() != "", reason=why_not())]


class Rig:
    """The back end outside, its systemd inside."""

    def __init__(self, booted: Booted, folder: Path) -> None:
        self.inside = booted
        self.state = folder / "state"
        self.installed = Installed(self.state / "software")
        self.units = folder / "units"
        self.units.mkdir()
        assert booted.run(["mkdir", "-p", "/run/systemd/system"])[0] == 0
        assert booted.run(["mount", "--bind", str(self.units), "/run/systemd/system"])[0] == 0
        self.kept = (folder / "private", folder / "lib")  # what is inside, seen from outside
        for root, seen in zip(SYSTEMD_ROOTS, self.kept, strict=True):
            (seen / SYSTEMD_STATE).mkdir(parents=True, mode=0o755)
            assert booted.run(["mkdir", "-p", str(root / SYSTEMD_STATE)])[0] == 0
            assert booted.run(["mount", "--bind", str(seen / SYSTEMD_STATE), str(root / SYSTEMD_STATE)])[0] == 0
        self.backend = self.another()

    def another(self) -> Systemd:
        return Systemd(RealClock(), unit_dir=self.units, state_dir=self.state, run=self.inside.run, kept=self.kept)

    def apply(self) -> None:
        self.backend.apply(Components(self.installed.folder).look().services)

    def start(self, name: str, version: str = "1", state: str = "running") -> ServiceStatus:
        self.installed.activate(name, version)
        self.apply()
        until(lambda: (self.status(name).state, self.status(name).version) == (state, version), self.backend.step)
        return self.status(name)

    def status(self, name: str) -> ServiceStatus:
        (found,) = [one for one in self.backend.statuses() if one.id == name]
        return found

    def printed(self, name: str) -> list[str]:
        """What the program printed, without the journal's own words before it."""
        return [line.partition("]: ")[2] for line in self.backend.log(name, 100) if " run[" in line]

    def out(self, *command: str) -> str:
        return self.inside.run(command)[1].strip()


@pytest.fixture(scope="module")
def booted() -> Iterator[tuple[Booted, Path]]:
    # Not in /tmp, of which each unit has its own.
    folder = Path(tempfile.mkdtemp(prefix="dcu-test-", dir="/var/lib"))
    folder.chmod(0o711)  # other users pass
    made = Booted(folder)
    yield made, folder
    made.close()
    shutil.rmtree(folder)


@pytest.fixture
def rig(booted: tuple[Booted, Path]) -> Iterator[Rig]:
    inside, folder = booted
    below = Path(tempfile.mkdtemp(dir=folder))
    below.chmod(0o711)
    made = Rig(inside, below)
    yield made
    made.backend.close()
    stop_all(inside.run)
    for mounted in ("/run/systemd/system", *(str(root / SYSTEMD_STATE) for root in SYSTEMD_ROOTS)):
        assert inside.run(["umount", mounted])[0] == 0


def test_a_program_runs_as_a_user_of_its_own_within_its_limits(rig: Rig) -> None:
    script = (
        'id -u; ulimit -n; nice; umask; echo kept >"$STATE_DIRECTORY/x"; echo "$DCU_SERVICE_VERSION"; exec sleep 1000'
    )
    (rig.state / "secret").write_text("secret")
    (rig.state / "secret").chmod(0o600)
    rig.installed.service(
        "watch", "1", f"cat {rig.state}/secret; touch here; {script}", limits={"files": 20, "memory_kib": 50_000}
    )
    status = rig.start("watch")
    until(lambda: rig.printed("watch")[-1:] == ["1"])
    printed = rig.printed("watch")
    assert [line.rpartition(": ")[2] for line in printed[:2]] == ["Permission denied", "Read-only file system"]
    uid, *rest = printed[2:]
    assert DYNAMIC_FIRST <= int(uid) <= DYNAMIC_LAST
    assert rest == ["20", "5", "0077", "1"]
    assert rig.out("stat", "-c", "%u", f"/proc/{status.pid}") == uid
    assert rig.out("cat", "/var/lib/dcu-services/watch/x") == "kept"
    shown = rig.out("systemctl", "show", unit_name("watch"), "--property=MemoryMax,TasksMax,CPUQuotaPerSecUSec")
    assert set(shown.split()) == {"MemoryMax=51200000", "TasksMax=16", "CPUQuotaPerSecUSec=500ms"}


def test_a_program_that_was_killed_is_started_again_and_that_is_counted(rig: Rig) -> None:
    rig.installed.service("again", "1", "echo up; exec sleep 1000")
    first = rig.start("again")
    assert rig.out("kill", "-9", str(first.pid)) == ""
    until(lambda: rig.status("again").restarts == 1 and rig.status("again").state == "running", rig.backend.step)
    assert rig.status("again").pid != first.pid
    until(lambda: rig.printed("again") == ["up", "up"])


def test_a_program_that_takes_more_memory_than_it_may_is_ended(rig: Rig) -> None:
    """By the kernel, where systemd has the controller; the limit is the unit's in any case."""
    if "memory" not in rig.out("cat", "/proc/self/cgroup") and not rig.out("ls", "/sys/fs/cgroup/memory"):
        pytest.skip("no memory controller here")
    script = "x=0123456789abcdef; while :; do x=$x$x; done"
    rig.installed.service("eater", "1", script, limits={"memory_kib": 8192}, restart={"when": "never"})
    status = rig.start("eater", state="over")
    assert status.detail in ("oom-kill, exit status 9", "signal, exit status 9")


def test_a_start_that_does_not_get_ready_has_failed_and_says_so(rig: Rig) -> None:
    rig.installed.service("never", "1", "exit 3", restart={"when": "never"}, ready={"after_s": 1})
    status = rig.start("never", state="over")
    assert (status.failed_starts, status.detail) == (1, "exit-code, exit status 3")
    asked = {"command": ["ready"], "deadline_s": 20}
    script = 'sleep 1; touch "$STATE_DIRECTORY/up"; exec sleep 1000'
    ready = '#!/bin/sh\ntest -e "$STATE_DIRECTORY/up"\n'
    rig.installed.service("asked", "1", script, {"ready": ready}, ready=asked)
    assert rig.start("asked").failed_starts == 0


def test_another_version_takes_the_place_of_the_one_before_and_what_is_not_wanted_ends(rig: Rig) -> None:
    for version in ("1", "2"):
        rig.installed.service("other", version, f"echo version {version}; exec sleep 1000")
    first = rig.start("other")
    second = rig.start("other", "2")
    assert first.pid != second.pid
    until(lambda: rig.printed("other")[-2:] == ["version 1", "version 2"])
    rig.apply()  # what has not changed is left alone
    assert rig.status("other").pid == second.pid
    rig.installed.activate("other", None)
    rig.apply()
    assert rig.inside.run(["kill", "-0", str(second.pid)])[0] != 0
    assert rig.out("ls", "/var/lib/dcu-services", "/var/lib/private/dcu-services").count("other") == 2
    rig.backend.forget("other")
    assert rig.out("ls", "/var/lib/dcu-services", "/var/lib/private/dcu-services").count("other") == 0


def test_a_factory_reset_stops_what_an_agent_before_has_started(rig: Rig) -> None:
    rig.installed.service("reset", "1", "echo up; exec sleep 1000")
    pid = rig.start("reset").pid
    stop_all(rig.inside.run)
    assert rig.inside.run(["kill", "-0", str(pid)])[0] != 0
    after = rig.another()
    after.apply(Components(rig.installed.folder).look().services)
    until(lambda: after.statuses()[0].state == "running", after.step)
    assert after.statuses()[0].pid != pid
