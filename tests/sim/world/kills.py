"""Kill a real daemon, and now and then its head-end, at any moment, and see that each slot is delivered once or listed.

    python -m tests.sim.world.kills --kills 200

The daemon is `dcu-agent` with its files; the meters are behind a base node on a pseudo-terminal; the head-end is
`hostile`. All are processes of their own. What this cannot show, since it runs in real time, `world` does.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import Engine, select

from agent.cli.client import NotRunningError, RefusedError, ask
from agent.mo.objects import DeviceObjects, MoDeps
from agent.settings.device import DeviceInfo
from agent.settings.provisioning import TaskStatus
from agent.tree.persistence import ManagementTree
from agent.tree.tree import Transaction
from headend import config, serve
from headend.metering import gaps, readings
from tests.demo.factory import free_ports
from updateagent.disk import RealDisk

REPO = Path(__file__).resolve().parents[3]
DEVICE = "urn:dcu:KILLS"
METERS = 3
EVERY_S = {"registers": 10, "hourly": 15}  # task → period, short, so that there are many runs
LIST = """\
name,obis,cls,attr,type,scaler,unit,ph
ldn,0.0.42.0.0.255,1,2,oct:16,,,1
clock,0.0.1.0.0.255,8,2,clock,,,1
import,1.0.1.8.0.255,3,2,u32,0,30,1
export,1.0.2.8.0.255,3,2,u32,0,30,1
"""
COUNTED = "1.0.1.8.0.255"
START_LIMIT_S = 60.0
DRAIN_LIMIT_S = 180.0
ALIVE_S = (0.0, 4.0)  # so long it lives after it said READY, before it is killed
HEADEND_EVERY = 10  # so many kills of the daemon for one of the head-end


@dataclass(frozen=True, slots=True)
class Found:
    """What came of it. `wrong`: one line per violation."""

    kills: int
    slots: int
    delivered: int
    listed: int
    wrong: tuple[str, ...]


class Station:
    """The folder of all of it, and its processes."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.pick = random.Random(seed)
        self.home = folder / "device"
        self.home.mkdir()
        self.headend_folder = folder / "headend"
        self.port = free_ports(1)[0]
        self.log = (folder / "log").open("ab")
        self.network: subprocess.Popen[bytes] | None = None
        self.headend: subprocess.Popen[bytes] | None = None
        self.daemon: subprocess.Popen[bytes] | None = None
        self._headends = 0

    def prepare(self) -> None:
        run = (sys.executable, "-m", "headend", "init", "--dir", str(self.headend_folder), "--host", "127.0.0.1")
        subprocess.run(run, cwd=REPO, check=True, capture_output=True)
        engine = self.engine()
        token = readings.issue_token(engine, DEVICE, time.time())
        engine.dispose()
        (self.home / "lists").mkdir()
        (self.home / "lists" / "few.csv").write_text(LIST)
        (self.home / "device.key").touch(mode=0o600)
        (self.home / "device.key").write_text("5a" * 32)
        for name in ("ca.pem", "roots.pem"):
            (self.home / name).write_bytes(self._authority.read_bytes())
        (self.home / "release").write_text("NAME=test\nVERSION=7\n")
        (self.home / "boot_id").write_text("boot-1\n")
        (self.home / "dcu.yaml").write_text(self._configuration())
        self._provision(token)

    def engine(self) -> Engine:
        return serve.open_database(config.load(self.headend_folder / config.CONFIG_NAME))

    @property
    def _document(self) -> dict[str, dict[str, str]]:
        return dict(yaml.safe_load((self.headend_folder / "headend.yaml").read_text()))

    @property
    def _authority(self) -> Path:
        return self.headend_folder / self._document["tls"]["ca"]

    def _configuration(self) -> str:
        return f"""\
device: {{id: "{DEVICE}", key_file: device.key, man: M, mod: N, hw_version: A, release_file: release}}
security_server: {{url: "https://127.0.0.1:1/ssmp", ca_file: ca.pem}}
dm: {{push_listen: {{host: 127.0.0.1, port: 0}}, backoff_min_s: 60}}
ports: [{{name: plc0, protocol: prime-usi, url: {self.folder}/plc}}]
clock: {{synchronized_file: synchronized}}
metering:
  reading_lists_dir: lists
  uplink_backoff_min_s: 0.2
  uplink_backoff_max_s: 1
  uplink_replay_records_per_min: 1000000
  uplink_replay_spread_s: 0.1
update:
  {{compatible: board, dir: update, run_dir: run, boot_id_file: boot_id, roots: roots.pem, command: [{sys.executable}]}}
state_dir: state
control_socket: run/control.sock
reboot_command: [{sys.executable}, -c, pass]
log: {{level: info}}
"""

    def _provision(self, token: str) -> None:
        device = DeviceInfo(DEVICE, "M", "N", "A", "7", "0")
        objects = DeviceObjects(
            MoDeps(device, view=_no_view, new_id=str, task_status=lambda _: TaskStatus(), meters=lambda: ())
        )
        tree = ManagementTree(objects.registry.schema, RealDisk(), self.home / "state" / "dm", lambda: 0.0)
        with tree.transaction() as changing:
            changing.put(("AMI", "Uplink", "URL"), f"https://127.0.0.1:{self.port}/v1/readings")
            changing.put(("AMI", "Uplink", "Token"), token)
            changing.put(("AMI", "Uplink", "BatchMax"), "20")
            changing.put(("AMI", "Access", "Client"), "16")
            changing.put(("AMI", "Access", "Auth"), "none")
            for task, every_s in EVERY_S.items():
                where = ("SCHED", "Task", task)
                changing.put((*where, "Setting", "Every"), str(every_s))
                changing.put((*where, "Setting", "ReadingList"), "few")
                changing.put((*where, "Enabled"), "true")

    # --- processes ---

    def start_network(self) -> None:
        command = [sys.executable, "-m", "tests.sim.plc_network", "--link", str(self.folder / "plc"), "--control",
                   str(self.folder / "plc.sock"), "--meters", str(METERS), "--list",
                   str(self.home / "lists" / "few.csv"), "--phases", "1"]  # fmt: skip
        self.network = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=self.log)
        assert self.network.stdout is not None
        assert self.network.stdout.readline() == b"READY\n"

    def start_headend(self) -> None:
        self._headends += 1
        command = [sys.executable, "-m", "tests.sim.world.hostile", "--config",
                   str(self.headend_folder / "headend.yaml"), "--port", str(self.port), "--seed",
                   str(self._headends)]  # fmt: skip
        self.headend = subprocess.Popen(command, cwd=REPO, stdout=self.log, stderr=self.log)

    def start_daemon(self) -> None:
        """Return when it says READY."""
        (self.home / "run").mkdir(exist_ok=True)
        (self.home / "synchronized").touch()
        address = self.home / "run" / "notify"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(address))
            notify.settimeout(START_LIMIT_S)
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "agent", "--config", str(self.home / "dcu.yaml")],
                cwd=REPO,
                stdout=self.log,
                stderr=self.log,
                env={**os.environ, "NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "600000000"},
            )
            if not notify.recv(100).startswith(b"READY=1"):
                raise RuntimeError("the daemon does not start")

    def kill(self, process: subprocess.Popen[bytes] | None) -> None:
        assert process is not None
        if process.poll() is not None:
            raise RuntimeError(f"a process ended by itself with {process.returncode}")
        process.send_signal(signal.SIGKILL)
        process.wait()

    def queue(self) -> int:
        """How many records wait on the device."""
        try:
            found = ask(self.home / "run" / "control.sock", "queue")
        except (NotRunningError, RefusedError, OSError):
            return -1
        return int(found["records"]) if isinstance(found, dict) else -1

    def end(self) -> None:
        for process in (self.daemon, self.headend, self.network):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
            if process is not None and process.stdout is not None:
                process.stdout.close()
        self.log.close()


def run(kills: int, seed: int, folder: Path, say: Callable[[str], None] = lambda _text: None) -> Found:
    """Kill so many times, then let the daemon deliver what it has, and judge."""
    station = Station(folder, seed)
    try:
        station.prepare()
        station.start_network()
        station.start_headend()
        for number in range(kills):
            station.start_daemon()
            time.sleep(station.pick.uniform(*ALIVE_S))
            if number % HEADEND_EVERY == HEADEND_EVERY - 1:
                station.kill(station.headend)
            station.kill(station.daemon)
            if number % HEADEND_EVERY == HEADEND_EVERY - 1:
                station.start_headend()
                say(f"{number + 1} kills")
        station.start_daemon()
        time.sleep(3 * max(EVERY_S.values()))
        _drain(station)
        return _judge(station, kills)
    finally:
        station.end()


def _drain(station: Station) -> None:
    end = time.monotonic() + DRAIN_LIMIT_S
    while station.queue() != 0:
        if time.monotonic() > end:
            raise RuntimeError(f"{station.queue()} records are still on the device")
        time.sleep(0.05)


def _judge(station: Station, kills: int) -> Found:
    engine = station.engine()
    table, now = readings.readings, time.time()
    with engine.begin() as connection:
        counted = select(table).where(table.c.obis == COUNTED)
        rows = [dict(row) for row in connection.execute(counted).mappings()]
        listed = select(gaps.gaps).where(gaps.gaps.c.state == "open")
        ranges = [dict(row) for row in connection.execute(listed).mappings()]
    engine.dispose()
    found = judged(rows, ranges, {row["meter"] for row in rows}, now)
    wrong = found.wrong
    if len({row["meter"] for row in rows}) != METERS:
        wrong = (f"not all of {METERS} meters were read", *wrong)
    return replace(found, kills=kills, wrong=wrong)


def judged(
    rows: Sequence[Mapping[str, Any]], ranges: Sequence[Mapping[str, Any]], meters: Iterable[str], now: float
) -> Found:
    """Judge what the head-end has at `now`: `rows` of its readings, one per slot, and open `ranges` of its gaps."""
    wrong = [f"{row['meter']} {row['task']} {row['run']}: came twice, under id {row['id']} too"
             for row in rows if row["repeated"]]  # fmt: skip
    wrong += [f"{row['meter']} {row['task']} {row['run']}: {row['error']}" for row in rows if row["error"]]
    read = Counter((row["meter"], row["task"], row["run"]) for row in rows if row["trusted"])
    wrong += [f"{' '.join(map(str, slot))}: read {count} times" for slot, count in read.items() if count > 1]
    slots = delivered = listed = 0
    for meter in meters:
        for task, every_s in EVERY_S.items():
            first = min((run for of, by, run in read if (of, by) == (meter, task)), default=int(now))
            for run in range(first, int(now) - 2 * every_s, every_s):
                slots += 1
                delivered += (meter, task, run) in read
                if (meter, task, run) in read:
                    continue
                if any(row["meter"] == meter and row["task"] == task and row["first"] <= run
                       and (row["last"] is None or run <= row["last"]) for row in ranges):  # fmt: skip
                    listed += 1
                else:
                    wrong.append(f"{meter} {task} {run}: neither read nor listed")
    return Found(0, slots, delivered, listed, tuple(wrong))


def _no_view() -> Transaction:
    raise AssertionError("nobody reads the tree here")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.sim.world.kills", description="kill -9 of real processes")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dcu-kills-") as name:
        found = run(options.kills, options.seed, Path(name), _say)
        sys.stdout.write(
            f"{found.kills} kills, {found.slots} slots: {found.delivered} delivered, {found.listed} listed as gaps, "
            f"{len(found.wrong)} wrong\n"
        )
        sys.stdout.writelines(f"    {line}\n" for line in found.wrong[:20])
        if found.wrong:
            sys.stdout.write((Path(name) / "log").read_text()[-3000:])
    sys.exit(1 if found.wrong else 0)


if __name__ == "__main__":
    main()
