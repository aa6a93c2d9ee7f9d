"""systemd as supervisor, over a fake that records commands; the units are read by systemd's own judge where there is
one. `test_systemd_booted` has a running one."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.services.active import ActiveService, Components
from agent.services.backends import make_backend
from agent.services.own import OwnSupervisor
from agent.services.systemd import Systemd, unit, unit_name
from agent.settings.config import ServicesConfig
from agent.status import ServiceStatus
from tests.agent.services.packages import Installed
from tests.agent.virtual import VirtualClock
from updateagent.software.component import Ready, Restart, ServiceSpec

SHOWN = {
    "ActiveState": "active",
    "SubState": "running",
    "MainPID": "77",
    "NRestarts": "0",
    "Result": "success",
    "ExecMainStatus": "0",
    "MemoryCurrent": "2097152",
    "StateChangeTimestampMonotonic": "90000000",
    "ActiveEnterTimestampMonotonic": "0",
}


class FakeSystemctl:
    """Records what it is asked for, and shows units as the test says."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.shown: dict[str, dict[str, str]] = {}
        self.refuses = ""

    def __call__(self, command: Sequence[str]) -> tuple[int, str]:
        if command[0] == "journalctl":
            assert command[1:3] == ["--unit", "dcu-service-watch.service"]
            return 0, "2026-11-28T10:00:00+0000 board run[77]: up\n"
        assert command[0] == "systemctl"
        if command[1] == "show":
            found = self.shown.get(command[2], SHOWN)
            return 0, "".join(f"{name}={value}\n" for name, value in found.items())
        self.calls.append(" ".join(command[1:]))
        return (1, "told to refuse") if self.refuses and self.refuses in self.calls[-1] else (0, "")


class Rig:
    def __init__(self, folder: Path) -> None:
        self.installed = Installed(folder / "state" / "software")
        self.units = folder / "units"
        self.systemctl = FakeSystemctl()
        self.kept = (folder / "private", folder / "lib")
        self.alarms: list[tuple[str, str, str]] = []
        self.backend = Systemd(
            VirtualClock(),
            unit_dir=self.units,
            state_dir=folder / "state",
            run=self.systemctl,
            kept=self.kept,
            kept_kib_max=256,
            on_alarm=lambda *told: self.alarms.append(told),
        )

    def apply(self) -> list[str]:
        self.systemctl.calls.clear()
        self.backend.apply(Components(self.installed.folder).look().services)
        return self.systemctl.calls


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    made = Rig(tmp_path)
    made.installed.service("watch", "1", "")
    made.installed.service("watch", "2", "")
    return made


UNIT = "dcu-service-watch.service"


def test_units_follow_what_is_active(rig: Rig) -> None:
    rig.installed.activate("watch", "1")
    assert rig.apply() == ["daemon-reload", f"--no-block restart {UNIT}"]
    assert "Description=Software component watch 1" in (rig.units / UNIT).read_text()
    assert rig.apply() == [f"--no-block start {UNIT}"]  # which leaves alone what runs
    rig.installed.activate("watch", "2")
    assert rig.apply() == ["daemon-reload", f"--no-block restart {UNIT}"]
    assert "Description=Software component watch 2" in (rig.units / UNIT).read_text()
    rig.installed.activate("watch", None)
    assert rig.apply() == [f"stop {UNIT}", "daemon-reload"]
    assert list(rig.units.iterdir()) == []
    assert rig.backend.statuses() == ()


@pytest.mark.parametrize(
    ("shown", "state", "failed", "detail"),
    [
        ({}, "running", 0, ""),
        ({"ActiveState": "activating", "SubState": "start-post"}, "starting", 0, ""),
        # Between two looks it has failed twice: that it starts once more is no news.
        ({"ActiveState": "activating", "SubState": "start-post", "NRestarts": "2"}, "starting", 2, ""),
        (
            {"ActiveState": "activating", "NRestarts": "2", "ActiveEnterTimestampMonotonic": "101000000"},
            "starting",
            0,
            "",
        ),
        (
            {"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code", "ExecMainStatus": "3"},
            "waiting",
            1,
            "exit-code, exit status 3",
        ),
        ({"ActiveState": "failed", "SubState": "failed", "Result": "timeout"}, "over", 1, "timeout, exit status 0"),
        ({"ActiveState": "deactivating", "SubState": "stop-sigterm"}, "stopping", 0, ""),
        ({"MemoryCurrent": "[not set]"}, "running", 0, ""),
        ({"ActiveState": "something new"}, "starting", 0, ""),
    ],
)
def test_a_units_state_in_our_words(rig: Rig, shown: dict[str, str], state: str, failed: int, detail: str) -> None:
    rig.installed.activate("watch", "1")
    rig.systemctl.shown[UNIT] = {**SHOWN, **shown}
    rig.apply()
    (status,) = rig.backend.statuses()
    assert (status.state, status.failed_starts, status.detail) == (state, failed, detail)
    assert status.pid == 77
    assert status.since == 1_800_000_000 - 10
    assert status.memory_kib == (0 if "MemoryCurrent" in shown else 2048)


def test_a_unit_that_systemd_does_not_take_is_a_failed_start(rig: Rig) -> None:
    rig.installed.activate("watch", "1")
    rig.systemctl.refuses = "restart"
    rig.apply()
    (status,) = rig.backend.statuses()
    assert status == ServiceStatus("watch", "1", "over", failed_starts=1, detail="told to refuse")


@pytest.mark.parametrize("where", [0, 1], ids=["a user of its own", "a user of the system"])
def test_who_keeps_too_much_is_stopped_says_why_and_stays_so(rig: Rig, where: int) -> None:
    home = rig.kept[where] / "dcu-services" / "watch"
    home.mkdir(parents=True)
    rig.installed.activate("watch", "1")
    rig.apply()
    (home / "data").write_bytes(b"x" * (200 << 10))
    rig.backend.step()
    (found,) = rig.backend.statuses()
    assert (found.state, found.kept_kib) == ("running", 200)
    (home / "more").write_bytes(b"x" * (100 << 10))
    rig.systemctl.calls.clear()
    rig.systemctl.refuses = "stop"
    rig.backend.step()
    assert rig.backend.statuses()[0].state == "running"  # it is, as long as systemd does not stop it
    rig.systemctl.refuses = ""
    for _ in range(3):
        rig.backend.step()
    assert rig.systemctl.calls == [f"stop {UNIT}"] * 2
    why = "keeps 300 KiB in its folder, 256 KiB are allowed"
    (found,) = rig.backend.statuses()
    assert (found.state, found.kept_kib, found.detail) == ("over", 300, why)
    assert rig.alarms == [("watch", "1", why)]
    assert rig.apply() == []
    assert rig.backend.statuses()[0].state == "over"
    (home / "more").unlink()
    rig.installed.activate("watch", "2")
    assert rig.apply() == ["daemon-reload", f"--no-block restart {UNIT}"]
    assert rig.backend.statuses()[0].state == "running"


def test_who_keeps_the_most_is_stopped_where_all_keep_too_much_together(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.services.systemd.together_kib_max", lambda _: 100)
    home = rig.kept[0] / "dcu-services" / "watch"
    home.mkdir(parents=True)
    rig.installed.activate("watch", "1")
    rig.apply()
    (home / "data").write_bytes(b"x" * (120 << 10))
    rig.backend.step()
    rig.backend.step()
    (found,) = rig.backend.statuses()
    assert found.state == "over"
    assert found.detail.startswith("keeps 120 KiB in its folder, more than the others: 120 KiB together")


def test_logs_are_the_journals(rig: Rig) -> None:
    assert rig.backend.log("watch", 10) == ["2026-11-28T10:00:00+0000 board run[77]: up"]


def test_state_goes_with_the_component_and_services_with_the_agent(rig: Rig) -> None:
    real, link = (root / "dcu-services" / "watch" for root in rig.kept)
    (real / "deep").mkdir(parents=True)
    link.parent.mkdir(parents=True)
    link.symlink_to(real)
    rig.backend.forget("watch")
    assert [list(one.parent.iterdir()) for one in (real, link)] == [[], []]
    rig.installed.activate("watch", "1")
    rig.apply()
    rig.systemctl.calls.clear()
    rig.backend.close()
    assert rig.systemctl.calls == [f"--no-block stop {UNIT}"]


def spec(**more: object) -> ServiceSpec:
    said: dict[str, object] = {
        "arguments": ('50% of "$HOME"', "a\\b"),
        "libraries": ("lib",),
        "environment": (("PRICE", "$5 100%"),),
        "restart": Restart.ON_FAILURE,
        "ready": Ready(0, ("ready", "it's"), 30),
    }
    return ServiceSpec("run", **{**said, **more})  # type: ignore[arg-type]


def test_the_unit_has_the_limits_and_nothing_that_systemd_would_expand() -> None:
    lines = unit(ActiveService("watch", "1", Path("/software/watch/1"), spec())).splitlines()
    for wanted in (
        'ExecStart="/software/watch/1/run" "50%% of \\"$$HOME\\"" "a\\\\b"',
        'Environment="PRICE=$5 100%%"',
        'Environment="LD_LIBRARY_PATH=/software/watch/1/lib"',
        "DynamicUser=yes",
        "MemoryMax=65536K",
        "CPUQuota=50%",
        "LimitNOFILE=64",
        "TasksMax=16",
        "LimitFSIZE=16388K",
        "Restart=on-failure",
        "PartOf=dcu-agent.service",
        "StateDirectory=dcu-services/watch",
        "TimeoutStartSec=30",
    ):
        assert wanted in lines, wanted
    assert "User=meter" in unit(ActiveService("watch", "1", Path("/s"), spec(user="meter"))).splitlines()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
@pytest.mark.process
def test_systemds_own_judge_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    folder = tmp_path / "watch" / "1"
    folder.mkdir(parents=True)
    for name in ("run", "ready"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(stat.S_IRWXU)
    path = tmp_path / unit_name("watch")
    path.write_text(unit(ActiveService("watch", "1", folder, spec())))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, check=False, timeout=60
    )
    # An older systemd warns of keys that a newer one brought; everything else would be ours.
    ours = [
        line
        for line in done.stderr.splitlines()
        if path.name in line and not any(key in line for key in ("RestartSteps", "RestartMaxDelaySec"))
    ]
    assert ours == []


@pytest.mark.parametrize(("backend", "kind"), [("own", OwnSupervisor), ("off", OwnSupervisor), ("systemd", Systemd)])
def test_the_settings_choose(tmp_path: Path, backend: str, kind: type) -> None:
    made = make_backend(ServicesConfig(backend, tmp_path), VirtualClock(), tmp_path, tmp_path)
    assert type(made) is kind


def test_without_a_choice_it_is_systemd_only_where_that_is_init_and_we_are_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.services.backends.BOOTED", tmp_path)
    made = make_backend(ServicesConfig(), VirtualClock(), tmp_path, tmp_path)
    assert type(made) is (Systemd if os.geteuid() == 0 else OwnSupervisor)
    monkeypatch.setattr("agent.services.backends.BOOTED", tmp_path / "none")
    assert type(make_backend(ServicesConfig(), VirtualClock(), tmp_path, tmp_path)) is OwnSupervisor


def test_services_that_are_switched_off_say_so(tmp_path: Path) -> None:
    installed = Installed(tmp_path / "state" / "software")
    installed.service("watch", "1", "")
    installed.activate("watch", "1")
    made = make_backend(ServicesConfig("off"), VirtualClock(), tmp_path / "state", tmp_path / "run")
    made.apply(Components(installed.folder).look().services)
    made.step()
    (status,) = made.statuses()
    assert (status.state, status.failed_starts) == ("waiting", 1)
    assert "switched off" in status.detail
