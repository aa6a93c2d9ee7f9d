"""Kill a real device's processes in the middle of what its server asked for, and see that each result is told once.

    python -m tests.sim.world.alerts --runs 120

A run is three jobs: an Atomic, an object in chunks, and a firmware update. The device is `dcu-agent` and `dcu-update`
with their files, booted as its slots and its boot loader's environment say; the server is the head-end's own security,
DM and package server, in this process, so that each message is seen as it passes and the kill falls at that moment or a
random time after it. The verdict is of the wire: one final alert, of the job's Correlator, with the right result,
acknowledged.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headend import config, serve
from headend.dm import engine as dm_engine
from headend.dm import routes, tables
from headend.dm.jobs import queue as jobs
from headend.dm.server import DmServer, ServerConfig
from headend.security import app as security_app
from headend.security import devices
from headend.security.service import SecurityService
from headend.software import app as software_app
from headend.software.repository import PackageStore
from omadm.codes import AlertCode, Code
from omadm.syncml import codec
from omadm.syncml.messages import Alert, Atomic, Command, Status, SyncML
from tests.demo.factory import free_ports
from tests.sim.board.uboot import ENV_BYTES, ENV_OFFSETS, Environment, choose

REPO = Path(__file__).resolve().parents[3]
DEVICE = "urn:dcu:ALERTS"
KEY = bytes(range(32))
PHASES = ("atomic", "chunk", "download", "handover", "flash", "report")
SMALL_MESSAGE_BYTES = 2048  # what the server takes and sends, so that an object of 8 KB takes several messages
IMAGE_BYTES = 2 << 20
SLOT_BYTES = 4 << 20
UPDATED = 200  # FUMO 1.0, 5.5
LATER_S = 0.4  # a kill that is not at the moment itself falls so long after it at most
FLASH_S = 0.5  # of the first boot that installs; those after it fall within the time that one took
LIMIT_S = 120.0  # between two events of a run
NOT_BELIEVED = (Code.UNAUTHORIZED, Code.CREDENTIALS_MISSING)
REBOOT, ON_TRIAL = 10, 11  # exit codes of `dcu-update boot`


@dataclass(frozen=True, slots=True)
class Told:
    """An alert of a device as it passed, and the status that the server gave it; None: the device was dead by then."""

    correlator: str
    content: tuple[str, ...]
    status: int | None


@dataclass
class Found:
    """What came of it. `again`: alerts that came twice because the kill fell around their acknowledgement."""

    runs: int = 0
    again: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Wire:
    """The server's applications, seen message by message. `strike` is called at the moments of the phase in force."""

    def __init__(self, app: ASGIApp, strike: Callable[[str], bool], seen: Callable[[], None]) -> None:
        self._app = app
        self._strike = strike
        self._seen = seen
        self.told: list[Told] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/dm"):
            await self._dm(scope, receive, send)
        elif scope["type"] == "http" and scope["path"].startswith("/packages/") and scope["method"] == "GET":
            await self._package(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _dm(self, scope: Scope, receive: Receive, send: Send) -> None:
        whole: Message = await receive()
        while whole.get("more_body"):
            more = await receive()
            whole = {**more, "body": whole["body"] + more["body"]}
        answer: list[Message] = []

        async def listen(message: Message) -> None:
            answer.append(message)

        once = iter((whole,))

        async def replay() -> Message:
            return next(once, {"type": "http.disconnect"})

        await self._app(scope, replay, listen)
        kind = dict(scope["headers"]).get(b"content-type", b"").decode()
        asked = codec.decode(whole["body"], kind)
        said = codec.decode(b"".join(one.get("body", b"") for one in answer[1:]), kind)
        dead = any(self._strike(phase) for phase in phases_of(asked, said))
        self.told += alerts_of(asked, None if dead else said)
        with contextlib.suppress(OSError):
            for message in answer:
                await send(message)
        self._seen()

    async def _package(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = 0

        async def watch(message: Message) -> None:
            nonlocal sent
            sent += len(message.get("body", b""))
            await send(message)
            if message["type"] == "http.response.body":
                self._strike("download" if message.get("more_body") else "handover")

        await self._app(scope, receive, watch)


def phases_of(asked: SyncML, said: SyncML) -> Iterator[str]:
    """Which phases the exchange of two messages belongs to."""
    if any(isinstance(command, Atomic) for command in said.commands):
        yield "atomic"
    if any(one.more_data for command in said.commands for one in getattr(command, "items", ())):
        yield "chunk"
    if any(True for _ in _finals(asked.commands)):
        yield "report"


def alerts_of(asked: SyncML, said: SyncML | None) -> Iterator[Told]:
    """The final alerts in a message, with the statuses of the answer."""
    for alert in _finals(asked.commands):
        status = None
        if said is not None:
            status = next((s.code for s in said.of(Status) if s.cmd_ref == alert.cmd_id and s.cmd == "Alert"), None)
        content = tuple(f"{one.source} {one.meta and one.meta.type} {one.data!r}" for one in alert.items)
        yield Told(alert.correlator or "", content, status)


def _finals(commands: Sequence[Command]) -> Iterator[Alert]:
    for command in commands:
        if isinstance(command, Alert) and command.code == AlertCode.GENERIC and command.correlator:
            yield command


class Device:
    """The device's folder and processes. What ends, and what asks for a reboot, is an event in `events`."""

    def __init__(self, folder: Path, server: str, authority: Path) -> None:
        self.home = folder
        self.events: queue.Queue[tuple[str, subprocess.Popen[bytes] | None]] = queue.Queue()
        self.log = (folder.parent / "log").open("ab")
        self.agent: subprocess.Popen[bytes] | None = None
        self.guard: subprocess.Popen[bytes] | None = None
        self._server = server
        self._authority = authority
        self.flash_s = FLASH_S  # what a boot that installs takes here
        self._kill_lock = threading.Lock()

    # --- files ---

    def make(self, keys: Path) -> None:
        for name in ("run", "lists"):
            (self.home / name).mkdir()
        (self.home / "lists" / "few.csv").write_text("name,obis,cls,attr,type,scaler,unit,ph\n")
        (self.home / "device.key").touch(mode=0o600)
        (self.home / "device.key").write_text(KEY.hex())
        (self.home / "ca.pem").write_bytes(self._authority.read_bytes())
        (self.home / "synchronized").touch()
        os.mkfifo(self.home / "reboot")
        self._slot("A").write_bytes(image("1").ljust(SLOT_BYTES, b"\0"))
        self._slot("B").write_bytes(b"\xff" * SLOT_BYTES)
        self._environment.create({"BOOT_ORDER": "A B", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "0"})
        env = self._environment.flash
        (self.home / "fw_env.config").write_text("".join(f"{env} {at:#x} {ENV_BYTES:#x}\n" for at in ENV_OFFSETS))
        (self.home / "dcu.yaml").write_text(self._settings(keys))
        (self.home / "dcu-update.toml").write_text(self._update_settings(keys))
        threading.Thread(target=self._reboots, daemon=True).start()

    @property
    def _environment(self) -> Environment:
        return Environment(self.home / "uboot.env")

    def _slot(self, name: str) -> Path:
        return self.home / f"slot-{name}"

    def _settings(self, keys: Path) -> str:
        command = json.dumps([sys.executable, "-m", "updateagent", "--config", str(self.home / "dcu-update.toml")])
        reboot = json.dumps(["/bin/sh", "-c", f"echo reboot >{self.home}/reboot"])
        return f"""\
device: {{id: "{DEVICE}", key_file: device.key, man: M, mod: N, hw_version: A, release_file: release}}
security_server: {{url: "{self._server}/ssmp", ca_file: ca.pem}}
dm: {{push_listen: {{host: 127.0.0.1, port: 0}}, poll_every_s: 1, backoff_min_s: 0.1, backoff_max_s: 1}}
ports: [{{name: plc0, protocol: prime-usi, url: {self.home}/plc}}]
clock: {{synchronized_file: synchronized}}
metering: {{reading_lists_dir: lists}}
update:
  {{compatible: HW, dir: update, run_dir: run, boot_id_file: boot_id, roots: {keys}/root.crt, command: {command}}}
state_dir: state
control_socket: run/control.sock
reboot_command: {reboot}
log: {{level: info}}
"""

    def _update_settings(self, keys: Path) -> str:
        slots = "".join(
            f'[[slot]]\nname = "{name}"\ntype = "file"\npath = "{self._slot(name)}"\nsize = {SLOT_BYTES}\n'
            for name in ("A", "B")
        )
        return f"""\
update_dir = "{self.home}/update"
run_dir = "{self.home}/run"
boot_id_file = "{self.home}/boot_id"
cmdline = "{self.home}/cmdline"
roots = "{keys}/root.crt"
compatible = "HW"
release_file = "{self.home}/release"
log_file = "{self.home}/agent.log"
trial_tries = 3
software_dir = "{self.home}/state/software"
[bootenv]
type = "uboot"
config = "{self.home}/fw_env.config"
lock = "{self.home}/env.lock"
[health]
deadline_s = 100
poll_s = 0.05
checks = ["agent_up", "dm_session"]
{slots}"""

    # --- its life ---

    def power_on(self, flash_kill_s: float | None = None) -> bool:
        """From the boot loader to a running agent; the first `dcu-update boot` is killed after so many seconds. Returns
        whether that was alive to be killed."""
        killed = False
        while True:
            self.end_processes()
            choice = choose(self._environment)
            (self.home / "cmdline").write_text(f"quiet rauc.slot={choice.slot} dcu.boots={choice.boots}\n")
            (self.home / "boot_id").write_text(f"{uuid.uuid4()}\n")
            (self.home / "run" / "health.json").unlink(missing_ok=True)
            version = self._slot(choice.slot).read_bytes()[:20].decode().split()[1]
            (self.home / "release").write_text(f"NAME=test\nVERSION={version}\n")
            begun = time.monotonic()
            boot = self._start("updateagent", "dcu-update.toml", "boot")
            try:
                code = boot.wait(flash_kill_s if flash_kill_s is not None else LIMIT_S)
            except subprocess.TimeoutExpired:
                boot.kill()
                boot.wait()
                killed, flash_kill_s = True, None
                continue
            flash_kill_s = None
            if code == REBOOT:
                self.flash_s = time.monotonic() - begun
                continue
            if code not in (0, ON_TRIAL):
                raise RuntimeError(f"dcu-update boot ended with {code}")
            if code == ON_TRIAL:
                self.guard = self._start("updateagent", "dcu-update.toml", "guard")
                self._watch("guard", self.guard)
            self.start_agent()
            return killed

    def start_agent(self) -> None:
        """Return when it says READY."""
        address = self.home / "run" / "notify"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(address))
            notify.settimeout(LIMIT_S)
            self.agent = self._start("agent", "dcu.yaml", NOTIFY_SOCKET=str(address), WATCHDOG_USEC="600000000")
            self._watch("agent", self.agent)
            if not notify.recv(100).startswith(b"READY=1"):
                raise RuntimeError("the agent does not start")

    def kill_agent(self) -> bool:
        """kill -9, if it is alive. Any thread."""
        with self._kill_lock:
            if self.agent is None or self.agent.poll() is not None:
                return False
            self.agent.send_signal(signal.SIGKILL)
            return True

    def end_processes(self) -> None:
        for process in (self.guard, self.agent):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        self.guard = self.agent = None

    def _start(self, module: str, settings: str, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", module, "--config", str(self.home / settings), *arguments]
        return subprocess.Popen(
            command, cwd=REPO, stdout=self.log, stderr=self.log, env={**os.environ, "PYTHONPATH": str(REPO), **more}
        )

    def _watch(self, name: str, process: subprocess.Popen[bytes]) -> None:
        def wait() -> None:
            process.wait()
            self.events.put((name, process))

        threading.Thread(target=wait, daemon=True).start()

    def _reboots(self) -> None:
        while True:
            with (self.home / "reboot").open() as asked:  # opens when somebody writes
                for _ in asked:
                    self.events.put(("reboot", None))


def image(version: str) -> bytes:
    return (f"system {version} ".encode() * (IMAGE_BYTES // 8))[:IMAGE_BYTES]


class Station:
    """The device, its server, and who kills."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.pick = random.Random(seed)
        self.found = Found()
        self._phase = ""
        self._moment = 0
        self._delay_s = 0.0
        self._lock = threading.Lock()
        self._server: uvicorn.Server | None = None

    def prepare(self) -> None:
        run = (sys.executable, "-m", "headend", "init", "--dir", str(self.folder / "headend"), "--host", "127.0.0.1")
        subprocess.run(run, cwd=REPO, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(REPO)})
        settings = config.load(self.folder / "headend" / config.CONFIG_NAME)
        self.engine = serve.open_database(settings)
        port = free_ports(1)[0]
        self.url = f"https://127.0.0.1:{port}"
        with self.engine.begin() as connection:
            devices.enrol(connection, DEVICE, KEY, 1.0)
        self._publish(PackageStore(self.engine, settings.files))
        (self.folder / "device").mkdir()
        self.device = Device(self.folder / "device", self.url, settings.ca)
        self.device.make(self.folder / "keys")
        self._serve(settings, port)

    def _publish(self, packages: PackageStore) -> None:
        keys = self.folder / "keys"
        pack(["keygen", "--out", keys])
        signing = ("--key", keys / "signer.key", "--cert", keys / "signer.crt")
        for version in ("1", "2"):
            source, out = self.folder / f"rootfs-{version}", self.folder / f"{version}.swu"
            source.write_bytes(image(version))
            about = ("--version", version, "--security-version", "1", "--compatible", "HW")
            pack(["build", *signing, *about, "--image", f"rootfs={source}", "-o", out])
            body = _pieces(out.read_bytes())
            asyncio.run(packages.add(f"{version}.swu", "application/octet-stream", body, 1.0))

    def _serve(self, settings: config.Config, port: int) -> None:
        dm_engine.OUR_MESSAGE_BYTES_MAX = SMALL_MESSAGE_BYTES
        draft = security_app.dm_accounts(settings.server_id, f"{self.url}{routes.PATH}")
        dm = DmServer(self.engine, ServerConfig(settings.server_id, f"{self.url}{routes.PATH}"))
        ssmp = security_app.create_app(SecurityService(self.engine, draft))
        packages = software_app.create_app(PackageStore(self.engine, settings.files), lambda: self.url)
        mounts = Starlette(routes=[*routes.routes(dm), *ssmp.routes[:1], Mount("/", packages)])
        self.wire = Wire(mounts, self.strike, lambda: self.device.events.put(("exchange", None)))
        self._server = uvicorn.Server(
            uvicorn.Config(
                self.wire, host="127.0.0.1", port=port, http="h11", lifespan="off", log_config=None,
                ssl_certfile=str(settings.certificate), ssl_keyfile=str(settings.certificate_key),
            )
        )  # fmt: skip
        threading.Thread(target=self._server.run, daemon=True).start()

    # --- killing ---

    def strike(self, phase: str) -> bool:
        """A moment of `phase` is there: kill now, or a random time later. Returns whether the device is dead now."""
        with self._lock:
            if phase != self._phase:
                return False
            self._moment -= 1
            if self._moment > 0:
                return False
            self._phase = ""
        if self._delay_s:
            threading.Timer(self._delay_s, self._kill, (phase,)).start()
            return False
        return self._kill(phase)

    def _kill(self, phase: str) -> bool:
        if not self.device.kill_agent():
            return False
        self.found.kills[phase] += 1
        return True

    # --- a run ---

    def run(self, number: int) -> None:
        phase = PHASES[number % len(PHASES)]
        version = "2" if number % 2 == 0 else "1"
        some, task = f"run{number}", f"./SCHED/Task/t{number % 4}"
        atomic = [{"path": f"{task}/Name", "value": some}, {"path": f"{task}/Setting/Every", "value": 900 + number}]
        models = ",".join(f"{some}-MODEL-{each}" for each in range(400))
        large = [{"path": f"{task}/Select/Models", "value": models}]
        with self.engine.begin() as connection:
            queued = [
                jobs.enqueue(connection, DEVICE, "provision", {"nodes": atomic, "atomic": True}),
                jobs.enqueue(connection, DEVICE, "provision", {"nodes": large}),
                jobs.enqueue(connection, DEVICE, "firmware", {"url": f"{self.url}/packages/{version}.swu"}),
            ]
        before = len(self.wire.told)
        with self._lock:
            self._phase = phase
            self._moment = self.pick.randrange(1, {"chunk": 4, "download": 30}.get(phase, 1) + 1)
            self._delay_s = self.pick.choice((0.0, self.pick.uniform(0.0, LATER_S)))
        self._live(phase, queued)
        self.found.runs += 1
        self._judge(phase, queued, self.wire.told[before:], f"run {number}, killed in {phase}")

    def _live(self, phase: str, queued: Sequence[int]) -> None:
        """Until the jobs are over, and two exchanges more have gone by in which an alert could come again."""
        more = 2
        while more:
            name, process = self.device.events.get(timeout=LIMIT_S)
            if name == "reboot":
                flashing, self._phase = self._phase == "flash", "" if phase == "flash" else self._phase
                if self.device.power_on(self.pick.uniform(0.0, self.device.flash_s) if flashing else None):
                    self.found.kills["flash"] += 1
            elif name == "agent" and process is self.device.agent:  # else it was ended by a reboot
                if process is None or process.returncode != -signal.SIGKILL:
                    raise RuntimeError(f"the agent ended by itself: {process and process.returncode}")
                self.device.start_agent()
            elif name == "guard" and process is not None and process is self.device.guard and process.returncode:
                self.device.power_on()
            elif name == "exchange" and self._over(queued):
                more -= 1

    def _over(self, queued: Sequence[int]) -> bool:
        with self.engine.begin() as connection:
            states = connection.scalars(select(tables.jobs.c.state).where(tables.jobs.c.id.in_(queued))).all()
        return all(state in ("done", "failed") for state in states)

    def _judge(self, phase: str, queued: Sequence[int], told: Sequence[Told], where: str) -> None:
        with self.engine.begin() as connection:
            shown = [jobs.show(connection, number) for number in queued]
            correlator = str((shown[-1] or {})["correlator"])
            kept = connection.execute(select(tables.alerts).where(tables.alerts.c.correlator == correlator)).all()
        wrong, again = judged([job or {} for job in shown], correlator, told, len(kept), phase)
        self.found.again += again
        self.found.wrong += [f"{where}: {each}" for each in wrong]

    def end(self) -> None:
        self.device.end_processes()
        if self._server is not None:
            self._server.should_exit = True
        self.device.log.close()


def judged(
    shown: Sequence[dict[str, Any]], correlator: str, told: Sequence[Told], kept: int, phase: str
) -> tuple[list[str], int]:
    """What is wrong with a run, and how often an alert came once more because its acknowledgement was cut off. `shown`
    are its jobs, the firmware last; `told` every final alert that passed, `kept` those that the head-end counts."""
    wrong = [f"job {job['kind']} is {job['state']}: {job['result']}" for job in shown if job["state"] != "done"]
    result = (shown[-1].get("result") or {}).get("result_code")
    if result != UPDATED:
        wrong.append(f"the result is {result}, not {UPDATED}")
    wrong += [f"an alert of another Correlator, {one.correlator}" for one in told if one.correlator != correlator]
    # A message whose credentials are refused tells nothing: the nonce went with the kill, and the message comes again.
    mine = [one for one in told if one.correlator == correlator and one.status not in NOT_BELIEVED]
    if len({one.content for one in mine}) != 1:
        wrong.append(f"{len({one.content for one in mine})} different final alerts")
    acknowledged = [one for one in mine if one.status == 200]
    if not acknowledged or any(one.status not in (200, None) for one in mine):
        wrong.append(f"statuses {[one.status for one in mine]} for the final alert")
    # An acknowledgement that is cut off is none to the device: it tells the same once more.
    allowed = 2 if phase == "report" else 1
    if len(mine) > allowed:
        wrong.append(f"the final alert came {len(mine)} times")
    if kept != 1:
        wrong.append(f"the head-end counts {kept} final alerts")
    return wrong, len(acknowledged) - 1 if acknowledged else 0


def pack(arguments: Sequence[object]) -> None:
    command = [sys.executable, "-m", "updateagent.buildhost.pack", *map(str, arguments)]
    subprocess.run(command, cwd=REPO, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(REPO)})


async def _pieces(data: bytes) -> Any:
    for at in range(0, len(data), 65_536):
        yield data[at : at + 65_536]


def run(runs: int, seed: int, folder: Path, say: Callable[[str], None] = lambda _text: None) -> Found:
    """So many runs on one device, each killed in the next phase."""
    station = Station(folder, seed)
    station.prepare()
    try:
        station.device.power_on()
        while station.device.events.get(timeout=LIMIT_S)[0] != "exchange":
            pass  # until it is registered and in its first session
        for number in range(runs):
            station.run(number)
            say(f"{number + 1} runs, kills {dict(station.found.kills)}, {len(station.found.wrong)} wrong")
        return station.found
    finally:
        station.end()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.sim.world.alerts", description="kill -9 between order and report")
    parser.add_argument("--runs", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dcu-alerts-") as name:
        found = run(options.runs, options.seed, Path(name), _say)
        kills = ", ".join(f"{phase} {found.kills[phase]}" for phase in PHASES)
        _say(
            f"{found.runs} runs, {found.kills.total()} kills ({kills}): {found.runs - len(found.wrong)} right, "
            f"{found.again} told again, {len(found.wrong)} wrong"
        )
        for line in found.wrong[:20]:
            _say(f"    {line}")
        if found.wrong:
            _say((Path(name) / "log").read_text()[-3000:])
    sys.exit(1 if found.wrong else 0)


if __name__ == "__main__":
    main()
