"""The daemon's memory in ordinary operation: its meters read, their readings delivered, DM sessions held.

Real processes: the head-end registers the device, provisions it over DM and takes its readings over TLS; the meters
are behind a simulated base node. "In operation" is a daemon that has its account from an earlier start, as nearly all
daemons have: it held its boot session and one that a push asked for, read all 108 values of every meter, and delivered
them. The first start also registers (SSMP), which loads a cryptographic library for good, as would ciphered meters.
Memory is what the kernel counts when nothing is left to do: resident (RSS, in which pages of files count in full, even
if other programs have them, too), proportional (PSS), and the daemon's own (USS). 1 MB is 10^6 bytes.

With `--against DIR` the daemon of another checkout does the same in the same run.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figure import Figure, at_most, plain
from tests.bench.programs import REPO, Process, python
from tests.demo.factory import device_key, free_ports
from tests.demo.headend import HeadEnd
from tests.demo.processes import Processes

METERS = 500
MEMORY_MB_MAX = 40
COUNTS = (100, METERS, 1000)
SLOPE_KB_MAX = 10
VALUES = 108
DEVICE = "urn:dcu:BENCH-1"
READING_LIST = "residential-108"
DAY_S = 86_400
JOIN_INTERVAL_S = 0.01
SETTLE_S = 20.0  # the daemon returns memory some seconds after the last delivery, in a round of its main thread
WAIT_S = 60.0
EACH_METER_S = 1.0  # to be read and delivered, on a machine that is busy with other things


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process takes, in MB (10^6 bytes): resident, proportional, its own; and the highest resident so far."""

    rss: float
    pss: float
    uss: float
    peak: float

    def __str__(self) -> str:
        return f"{self.rss:.1f} MB, PSS {self.pss:.1f}, USS {self.uss:.1f}"


def memory_of(pid: int) -> Memory:
    """Sum up /proc/PID/smaps_rollup."""
    kib = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split()[:2]
        kib[name.rstrip(":")] = int(value)
    own = kib["Private_Clean"] + kib["Private_Dirty"]
    rss, pss, uss = (1024 * value / 1e6 for value in (kib["Rss"], kib["Pss"], own))
    return Memory(rss, pss, uss, Process(pid).memory_mib("VmHWM") * 2**20 / 1e6)


@dataclass
class World:
    """Head-end, base node with meters, and the daemon of one checkout."""

    folder: Path
    root: Path
    meters: int
    processes: Processes
    headend: HeadEnd

    @property
    def pid(self) -> int:
        return self.processes.children["agent"].process.pid

    def start(self) -> None:
        """Start everything, and have the device register and hold its first session."""
        self.headend.init()
        command = python("-m", "headend", "serve", "--config", self.headend.folder / "headend.yaml")
        self.processes.start("head-end", command)
        self.processes.ready("head-end")
        key = device_key()
        self.headend.enrol(DEVICE, key)
        _write_configuration(self.folder, self.headend, key)
        self.processes.start("meters", self._simulator())
        self.processes.ready("meters", WAIT_S + EACH_METER_S * self.meters)
        self.processes.cwd = self.root
        self._start_agent()

    def restart(self) -> None:
        """Start the daemon again, which has its account now, and wait for its session."""
        self.processes.stop("agent")
        self._start_agent()

    def _start_agent(self) -> None:
        before = self._sessions()
        self.processes.start("agent", python("-m", "agent", "--config", self.folder / "dcu.yaml"))
        self.processes.until(lambda: self._sessions() > before, WAIT_S, "a DM session")

    def settled(self) -> Memory:
        """Let the daemon come to rest, and measure it."""
        time.sleep(SETTLE_S)
        return memory_of(self.pid)

    def _simulator(self) -> list[str]:
        return python(
            *("-m", "tests.sim.plc_network", "--link", self.folder / "plc", "--control", self.folder / "sim.sock"),
            *("--list", REPO / "etc" / "reading-lists" / f"{READING_LIST}.csv", "--meters", str(self.meters)),
            *("--join-interval-s", str(JOIN_INTERVAL_S)),
        )

    def _sessions(self) -> int:
        query = "SELECT count(*) FROM dm_sessions WHERE device_id = :d AND state = 'done'"
        return int(self.headend.one(query, d=DEVICE))

    def read_all(self, task: str) -> None:
        """Provision a task whose run of today has just begun, and wait until all of it is at the head-end."""
        url, token = self.headend.metering_token(DEVICE)
        setting = f"./SCHED/Task/{task}/Setting"
        nodes: list[dict[str, object]] = [
            {"path": "./AMI/Uplink/URL", "value": url},
            {"path": "./AMI/Uplink/Token", "value": token},
            {"path": f"{setting}/Every", "value": DAY_S},
            {"path": f"{setting}/Offset", "value": int(time.time()) % DAY_S},
            {"path": f"{setting}/ReadingList", "value": READING_LIST},
            {"path": f"./SCHED/Task/{task}/Enabled", "value": True},
        ]
        self.headend.job(DEVICE, "provision", {"nodes": nodes})
        query = "SELECT count(*) FROM readings WHERE task = :t"
        self.processes.until(
            lambda: self.headend.one(query, t=task) >= VALUES * self.meters,
            WAIT_S + EACH_METER_S * self.meters,
            f"the readings of {self.meters} meters",
            each_s=1.0,
        )


def _write_configuration(folder: Path, headend: HeadEnd, key: str) -> None:
    (folder / "device.key").touch(mode=0o600)
    (folder / "device.key").write_text(key + "\n")
    (folder / "release").write_text("VERSION=1\n")
    (folder / "boot_id").write_text("1\n")
    (folder / "roots.pem").touch()
    (folder / "run").mkdir()
    (folder / "dcu.yaml").write_text(
        f"""\
device: {{id: "{DEVICE}", key_file: device.key, man: M, mod: D, hw_version: "1", release_file: release}}
security_server: {{url: "{headend.url("security")}/ssmp", ca_file: {headend.ca}}}
dm: {{push_listen: {{host: 127.0.0.1, port: {free_ports(1)[0]}}}}}
ports: [{{name: plc0, protocol: prime-usi, url: {folder}/plc}}]
metering: {{reading_lists_dir: {REPO}/etc/reading-lists}}
update: {{dir: update, run_dir: run, boot_id_file: boot_id, roots: roots.pem, compatible: HW, command: ["true"]}}
state_dir: {folder}/state
control_socket: {folder}/control.sock
reboot_command: ["true"]
"""
    )


@contextmanager
def _world(root: Path, meters: int) -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="dcu-bench-") as name:
        folder = Path(name)
        (folder / "logs").mkdir()
        world = World(folder, root, meters, Processes(folder / "logs", REPO), HeadEnd(folder / "headend"))
        try:
            world.start()
            yield world
        finally:
            world.headend.close()
            world.processes.end()


@dataclass(frozen=True, slots=True)
class Operation:
    """One daemon: after its registration and a run, started again, and after another run."""

    first: Memory
    started: Memory
    read: Memory


def operation(root: Path, meters: int) -> Operation:
    """Run the daemon of the checkout `root` with so many meters. Raises `tests.demo.processes.DemoError`."""
    with _world(root, meters) as world:
        world.read_all("first")
        first = world.settled()
        world.restart()
        started = world.settled()
        world.read_all("second")
        return Operation(first, started, world.settled())


def run() -> list[Figure]:
    """This checkout with 100, 500 and 1,000 meters."""
    found = {count: operation(REPO, count) for count in COUNTS}
    usual = found[METERS]
    least, most = COUNTS[0], COUNTS[-1]
    slope_kb = 1000 * (found[most].read.uss - found[least].read.uss) / (most - least)
    return [
        at_most(f"in operation, {METERS} meters: RSS", usual.read.rss, MEMORY_MB_MAX, "MB", 1),
        plain("PSS, USS, and the highest RSS", f"{usual.read.pss:.1f}, {usual.read.uss:.1f}, {usual.read.peak:.1f} MB"),
        plain("started, before a meter is read: RSS, USS", f"{usual.started.rss:.1f}, {usual.started.uss:.1f} MB"),
        plain("the first start, which registers: RSS, USS", f"{usual.first.rss:.1f}, {usual.first.uss:.1f} MB"),
        *(
            plain(f"{count} meters: RSS, USS", f"{one.read.rss:.1f}, {one.read.uss:.1f} MB")
            for count, one in found.items()
        ),
        at_most(f"per meter, {least} to {most}", slope_kb, SLOPE_KB_MAX, "kB", 1),
    ]


def compare(other: Path) -> list[Figure]:
    """This checkout beside another one, one after the other, with 500 meters."""
    packages = [str(other.resolve() / name) for name in ("agent", "omadm", "dlms", "plc", "updateagent")]
    subprocess.run(python("-m", "compileall", "-q", *packages), check=False, capture_output=True)
    ours, theirs = operation(REPO, METERS), operation(other.resolve(), METERS)
    pairs = [
        ("in operation: RSS", ours.read.rss, theirs.read.rss),
        ("in operation: USS", ours.read.uss, theirs.read.uss),
        ("in operation: the highest RSS", ours.read.peak, theirs.read.peak),
        ("started: RSS", ours.started.rss, theirs.started.rss),
        ("the first start: RSS", ours.first.rss, theirs.first.rss),
    ]
    return [
        Figure(what, f"{here:.1f} MB, was {there:.1f} MB: {here / there:.2f} x", "at most 1.05 x", here <= 1.05 * there)
        for what, here, there in pairs
    ]
