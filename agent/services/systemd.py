"""systemd as supervisor of services: a unit for each, made when its component becomes active, gone with the system or
with the component. Logs are the journal's.

Units lie in /run/systemd/system, so that nothing of them outlives a boot: what is wanted is what is active. They are
`PartOf=` the agent's unit: systemd stops them when it stops the agent.
"""

from __future__ import annotations

import logging
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from agent.clock import Clock
from agent.services.active import ActiveService
from agent.services.folders import (
    SYSTEMD_ROOTS,
    SYSTEMD_STATE,
    ServiceFolders,
    erase,
    kept_kib,
    make_room,
    together_kib_max,
)
from agent.services.program import PATH
from agent.services.room import KEPT_KIB, OnAlarm, Room, crowding, file_kib_max
from agent.services.service import STOP_S
from agent.status import ServiceStatus
from updateagent.software.component import DYNAMIC_USER, Restart

LOG = logging.getLogger("agent.services")

PREFIX, SUFFIX = "dcu-service-", ".service"
AGENT_UNIT = "dcu-agent.service"
LOOK_S, LOOK_BUSY_S = 10.0, 1.0
COMMAND_S = 20.0
PROPERTIES = (
    *("ActiveState", "SubState", "MainPID", "NRestarts", "Result", "ExecMainStatus", "MemoryCurrent"),
    *("StateChangeTimestampMonotonic", "ActiveEnterTimestampMonotonic"),
)
# ActiveState as systemctl(1) shows it, to our words.
STATES = {
    "active": "running",
    "reloading": "running",
    "activating": "starting",
    "deactivating": "stopping",
    "failed": "over",
    "inactive": "over",
}
RESTARTS = {Restart.ALWAYS: "always", Restart.ON_FAILURE: "on-failure", Restart.NEVER: "no"}

Run = Callable[[Sequence[str]], tuple[int, str]]


def run_command(command: Sequence[str]) -> tuple[int, str]:
    """Exit code and output; 127 when it could not be run or did not end in time."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_S)
    except (OSError, subprocess.SubprocessError) as error:
        return 127, str(error)
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr.strip()


class Systemd:
    """Has systemd run services. `unit_dir`: where it looks for units of this boot; `kept`: where it keeps state."""

    def __init__(
        self,
        clock: Clock,
        *,
        unit_dir: Path,
        state_dir: Path,
        run: Run = run_command,
        kept: Sequence[Path] = SYSTEMD_ROOTS,
        kept_kib_max: int = KEPT_KIB,
        on_alarm: OnAlarm = lambda *_: None,
    ) -> None:
        """`kept_kib_max`: what each program may keep there; `on_alarm` is told of one that was stopped for more."""
        self._kept_kib_max = kept_kib_max
        self._on_alarm = on_alarm
        self._rooms: dict[ActiveService, Room] = {}
        self._full: dict[ActiveService, tuple[str, int]] = {}  # stopped for what it keeps: why, and how much
        self._clock = clock
        self._unit_dir = unit_dir
        self._folders = ServiceFolders(state_dir, root=True)
        self._run = run
        self._kept = kept
        self._wanted: dict[str, ActiveService] = {}
        self._statuses: tuple[ServiceStatus, ...] = ()
        self._failed: dict[str, str] = {}
        self._begun: dict[str, float] = {}  # when we had a unit started, in seconds as systemd counts them

    def begin(self) -> None:
        """Nothing is left behind: units that are not wanted any more go with the first `apply`."""

    def apply(self, wanted: Mapping[str, ActiveService]) -> None:
        """Have exactly these services run."""
        self._failed = {}
        units = {unit_name(name): unit(active, self._kept_kib_max) for name, active in wanted.items()}
        self._rooms = {active: self._rooms.get(active) or Room(self._kept_kib_max) for active in wanted.values()}
        self._full = {active: why for active, why in self._full.items() if active in self._rooms}
        before = {path.name: path for path in self._unit_dir.glob(f"{PREFIX}*{SUFFIX}")}
        changed = [name for name, text in units.items() if name not in before or _text(before[name]) != text]
        gone = [name for name in before if name not in units]
        for name in gone:
            self._systemctl("stop", name)
            before[name].unlink(missing_ok=True)
        for active in wanted.values():
            if unit_name(active.id) in changed:
                self._write(active, units[unit_name(active.id)])
        if changed or gone:
            self._systemctl("daemon-reload")
        for active in wanted.values():
            # A unit that has not changed and runs is left alone by `start`.
            verb = "restart" if unit_name(active.id) in changed else "start"
            if verb == "restart":
                self._begun[active.id] = self._clock.monotonic()
            if active.id not in self._failed and active not in self._full:
                self._must(active.id, "--no-block", verb, unit_name(active.id))
        self._wanted = dict(wanted)
        self._look()

    def step(self) -> float:
        """Look at the units."""
        if not self._wanted:
            return LOOK_S
        self._look()
        return LOOK_S if all(one.state in ("running", "over") for one in self._statuses) else LOOK_BUSY_S

    def descriptors(self) -> Sequence[int]:
        return ()

    def statuses(self) -> Sequence[ServiceStatus]:
        return self._statuses

    def log(self, service_id: str, lines: int) -> list[str]:
        """The journal of the unit."""
        code, text = self._run(
            [
                *("journalctl", "--unit", unit_name(service_id), "--lines", str(lines)),
                *("--output", "short-iso", "--no-pager", "--quiet"),
            ]
        )
        return text.splitlines()[-lines:] if code == 0 else []

    def forget(self, service_id: str) -> None:
        """Remove the state that systemd keeps. Not with `systemctl clean`, which wants a unit and a D-Bus."""
        for root in self._kept:
            erase(root / SYSTEMD_STATE / service_id)

    def close(self) -> None:
        """systemd stops the units with ours (`PartOf=`); where the agent runs outside of its unit, they are stopped
        here."""
        for service_id in self._wanted:
            self._systemctl("--no-block", "stop", unit_name(service_id))

    # -- inside

    def _write(self, active: ActiveService, text: str) -> None:
        try:
            self._folders.open_files(active)
            self._unit_dir.mkdir(parents=True, exist_ok=True)
            (self._unit_dir / unit_name(active.id)).write_text(text, encoding="utf-8")
        except OSError as error:
            self._failed[active.id] = f"its unit cannot be written: {error}"

    def _systemctl(self, *arguments: str) -> tuple[int, str]:
        code, text = self._run(["systemctl", *arguments])
        if code != 0:
            LOG.warning("systemctl %s: %s", " ".join(arguments), text, extra={"event": "service.systemctl"})
        return code, text

    def _must(self, service_id: str, *arguments: str) -> None:
        code, text = self._systemctl(*arguments)
        if code != 0:
            self._failed[service_id] = text or f"systemctl ended with {code}"

    def _look(self) -> None:
        kept = self._see_room()
        self._statuses = tuple(
            replace(self._status(active), kept_kib=kept[active.id]) for _, active in sorted(self._wanted.items())
        )

    def _see_room(self) -> dict[str, int]:
        """Stop what keeps too much, one at a time: a stop may take `STOP_S`. Returns what each keeps."""
        found: dict[str, int] = {}
        stopped = False
        for service_id, active in self._wanted.items():
            if active in self._full:
                found[service_id] = self._full[active][1]
                continue
            found[service_id] = kept_kib(self._home(service_id), self._kept_kib_max)
            why = self._rooms[active].exceeded(found[service_id], self._clock.monotonic())
            if why and not stopped:
                self._stop_for_room(active, why, found[service_id])
                stopped = True
        kept = {name: kib for name, kib in found.items() if self._wanted[name] not in self._full}
        crowded = crowding(kept, together_kib_max(self._kept[0])) if kept and not stopped else None
        if crowded is not None:
            self._stop_for_room(self._wanted[crowded[0]], crowded[1], kept[crowded[0]])
        return found

    def _stop_for_room(self, active: ActiveService, why: str, kib: int) -> None:
        code, _ = self._systemctl("stop", unit_name(active.id))
        if code != 0:
            return  # it is tried again with the next look
        gone = make_room(self._home(active.id))
        why += gone
        self._full[active] = why, 0 if gone else kib
        LOG.warning("service %s %s: over: %s", active.id, active.version, why, extra={"event": "service.over"})
        self._on_alarm(active.id, active.version, why)

    def _home(self, service_id: str) -> Path:
        """Where systemd keeps the state of a service: in the first of these folders that has it, not a link to it."""
        folders = [root / SYSTEMD_STATE / service_id for root in self._kept]
        return next((one for one in folders if one.is_dir() and not one.is_symlink()), folders[0])

    def _status(self, active: ActiveService) -> ServiceStatus:
        if active in self._full:
            return ServiceStatus(active.id, active.version, "over", detail=self._full[active][0])
        if active.id in self._failed:
            return ServiceStatus(active.id, active.version, "over", failed_starts=1, detail=self._failed[active.id])
        code, text = self._run(["systemctl", "show", unit_name(active.id), f"--property={','.join(PROPERTIES)}"])
        if code != 0:
            return ServiceStatus(active.id, active.version, "starting", detail=f"systemctl show: {text}")
        found = dict(line.partition("=")[::2] for line in text.splitlines())
        state = STATES.get(found.get("ActiveState", ""), "starting")
        if found.get("SubState", "").startswith("auto-restart"):
            state = "waiting"
        result, status = found.get("Result", ""), found.get("ExecMainStatus", "")
        bad = state in ("waiting", "over")
        restarts, failed = _number(found.get("NRestarts")), 0
        # `start-post` is the wait for readiness: a unit that has ended without ever having been active has failed, also
        # where it is starting again by now.
        if _number(found.get("ActiveEnterTimestampMonotonic")) / 1e6 <= self._begun.get(active.id, 0.0):
            failed = max(1, restarts) if bad else restarts
        changed = _number(found.get("StateChangeTimestampMonotonic")) / 1e6
        return ServiceStatus(
            id=active.id,
            version=active.version,
            state=state,
            since=float(round(self._clock.wall() - max(0.0, self._clock.monotonic() - changed))) if changed else 0.0,
            restarts=restarts,
            failed_starts=failed,
            pid=_number(found.get("MainPID")),
            memory_kib=_number(found.get("MemoryCurrent")) >> 10,
            detail=f"{result}, exit status {status}" if bad else "",
        )


def stop_all(run: Run = run_command) -> None:
    """Stop the services, whoever has started them. They start again with the first `apply`."""
    code, text = run(["systemctl", "stop", f"{PREFIX}*{SUFFIX}"])
    if code != 0:
        LOG.warning("services are not stopped: %s", text, extra={"event": "service.systemctl"})


def unit_name(service_id: str) -> str:
    """The unit of a component. All characters of an id may stand in the name of a unit."""
    return f"{PREFIX}{service_id}{SUFFIX}"


def unit(active: ActiveService, kept_kib_max: int = KEPT_KIB) -> str:
    """The unit file of a service: systemd.service(5), systemd.exec(5), systemd.resource-control(5).

    `kept_kib_max`: what it may keep; the kernel lets no file be larger. The program counts as started when
    `ExecStartPost=` is over: a sleep, or the ready command again and again.
    """
    spec, limits = active.spec, active.spec.limits
    dynamic = spec.user == DYNAMIC_USER
    variables = {
        **dict(spec.environment),
        "PATH": PATH,
        "DCU_SERVICE": active.id,
        "DCU_SERVICE_VERSION": active.version,
    }
    if spec.libraries:
        variables["LD_LIBRARY_PATH"] = ":".join(str(active.folder / name) for name in spec.libraries)
    if spec.python:
        variables["PYTHONPATH"] = ":".join(str(active.folder / name) for name in spec.python)
        variables |= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    if active.configuration is not None:
        variables["DCU_CONFIGURATION"] = str(active.configuration)
    if spec.ready.command:
        command = shlex.join([str(active.folder / spec.ready.command[0]), *spec.ready.command[1:]])
        post = f"ExecStartPost={_words('/bin/sh', '-c', f'until {command}; do sleep 1; done')}"
    else:
        post = f"ExecStartPost=/bin/sleep {spec.ready.after_s}"
    lines = [
        "[Unit]",
        f"Description=Software component {active.id} {active.version}",
        f"PartOf={AGENT_UNIT}",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        # exec: a program that is not there is a failed start. The post command ends when the program does.
        "Type=exec",
        f"ExecStart={_words(str(active.folder / spec.program), *spec.arguments)}",
        post,
        f"TimeoutStartSec={max(spec.ready.deadline_s, spec.ready.after_s + int(STOP_S))}",
        f"WorkingDirectory={str(active.folder).replace('%', '%%')}",
        # No variable is expanded in Environment=, so that a $ stays one: systemd.exec(5).
        *(f"Environment={_words(f'{name}={value}').replace('$$', '$')}" for name, value in sorted(variables.items())),
        "DynamicUser=yes" if dynamic else f"User={spec.user}",
        f"StateDirectory={SYSTEMD_STATE}/{active.id}",
        "StateDirectoryMode=0700",
        "UMask=0077",
        f"Restart={RESTARTS[spec.restart]}",
        f"RestartSec={spec.restart_min_s}",
        "RestartSteps=8",  # with RestartMaxDelaySec= from systemd 254 on; before, the wait stays the shortest
        f"RestartMaxDelaySec={spec.restart_max_s}",
        f"TimeoutStopSec={STOP_S:.0f}",
        "KillMode=control-group",
        f"MemoryMax={limits.memory_kib}K",
        f"CPUQuota={limits.cpu_percent}%",
        f"LimitNOFILE={limits.files}",
        f"TasksMax={limits.processes}",
        f"LimitFSIZE={file_kib_max(kept_kib_max)}K",
        "LimitCORE=0",
        "Nice=5",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
    ]
    return "\n".join(lines) + "\n"


def _words(*words: str) -> str:
    """A command line of systemd.service(5): quoted, with nothing left for systemd to expand."""
    return " ".join(f'"{_escaped(word)}"' for word in words)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() and len(text) < 19 else 0  # [not set] is 2^64 - 1


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
