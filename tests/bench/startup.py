"""Start-up of `dcuctl --help`, `import dlms` and the daemon; the daemon's memory and wake-ups at rest.

The daemon has an account and a task, as in the field: "no meters" is its state before the first one joins; of the
others all 108 values were read once, and the next run is far away. The head-end does not answer, so readings stay in
the store. Meters are not asked for what they are (`inventory`), which takes a meter half a minute, once.

With `--against DIR` the programs of another checkout are measured in the same run, each round one after the other.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.mo import dmacc
from agent.tree.persistence import ManagementTree
from headend import pki
from omadm.bootstrap import parse_profile
from tests.agent.dm.server import PROFILE, FakeDmServer
from tests.agent.dm_device import Device
from tests.bench.dlms import PEERS
from tests.bench.figure import Figure, absent, at_most, plain
from tests.bench.programs import READY_S, REPO, Process, ProgramError, await_answer, least, python, running
from updateagent.disk import RealDisk

ROUNDS = 15
DAEMON_ROUNDS = 3
SETTLE_S = 15.0  # the registry and the counters of keys are written seconds after they changed
IDLE_S = 60.0
DAY_S = 86_400
JOIN_INTERVAL_S = 0.01
BARE = python("-c", "pass")
HELP = python("-m", "agent.cli", "--help")
IMPORT = python("-c", "import dlms")
CLIENT = python("-c", "from dlms import Meter")
METERS = 5

# A program of as many commands by the same library, which does nothing.
_EMPTY_CLICK = """
import click
cli = click.Group("cli")
for name in range(12):
    cli.command(f"command-{name}")(lambda: None)
cli(["--help"])
"""
# The libraries that the daemon cannot do without, loaded, with seven threads that wait.
_LIBRARIES = """
import argparse, gzip, hmac, http.client, json, logging, socket, sqlite3, ssl, subprocess, sys, threading
import serial, yaml
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography import x509
stop = threading.Event()
for _ in range(7):
    threading.Thread(target=stop.wait, daemon=True).start()
ssl.create_default_context()
sqlite3.connect(":memory:").execute("create table t (a)")
print(open("/proc/self/status").read())
"""


@dataclass(frozen=True, slots=True)
class Rest:
    """A daemon that has started and has nothing to do. CPU seconds and seconds until it answered; MiB; per second."""

    start_cpu_s: float
    start_s: float
    memory_mib: float
    wake_ups_per_s: float
    idle_cpu_share: float


@contextmanager
def _board(folder: Path, meters: int) -> Iterator[Path]:
    """A base node with meters, and what a daemon at it needs. No server answers."""
    pki.make(folder, ["localhost"])
    (folder / "device.key").touch(mode=0o600)
    (folder / "device.key").write_text("00" * 31 + "01\n")
    (folder / "release").write_text("VERSION=1\n")
    (folder / "boot_id").write_text("1\n")
    (folder / "dcu.yaml").write_text(
        f"""\
device: {{id: "urn:dcu:B", key_file: device.key, man: M, mod: D, hw_version: "1", release_file: release}}
security_server: {{url: "https://127.0.0.1:9/ssmp", ca_file: ca.pem}}
dm: {{backoff_min_s: 3600, backoff_max_s: 3600}}
ports: [{{name: plc0, protocol: prime-usi, url: {folder}/plc}}]
metering: {{reading_lists_dir: {REPO}/etc/reading-lists, inventory: false}}
clock: {{synchronized_file: synchronized}}
update: {{dir: update, run_dir: run, boot_id_file: boot_id, roots: roots.pem, compatible: HW, command: ["true"]}}
state_dir: state
control_socket: control.sock
reboot_command: ["true"]
"""
    )
    (folder / "roots.pem").touch()
    (folder / "synchronized").touch()
    (folder / "run").mkdir()
    _provision(folder / "state" / "dm")
    reading_list = REPO / "etc" / "reading-lists" / "residential-108.csv"
    where = ("--link", folder / "plc", "--control", folder / "sim.sock")
    who = ("--list", reading_list, "--meters", meters, "--join-interval-s", JOIN_INTERVAL_S)
    with running(python("-m", "tests.sim.plc_network", *map(str, where + who))) as simulator:
        await_answer(simulator, folder / "sim.sock", "meters")
        yield folder / "dcu.yaml"


def _provision(folder: Path) -> None:
    """Write a management tree: an account, and a daily task whose run of today has just begun."""
    schema = Device(FakeDmServer()).objects.registry.schema
    now = int(time.time())
    settings = {"Every": str(DAY_S), "Offset": str(now % DAY_S), "ReadingList": "residential-108"}
    with ManagementTree(schema, RealDisk(), folder, time.time).transaction() as changing:
        dmacc.install(changing, parse_profile(PROFILE))
        for node, value in settings.items():
            changing.put(("SCHED", "Task", "daily", "Setting", node), value)


def _await_all_read(child: subprocess.Popen[bytes], control: Path, meters: int) -> None:
    end = time.monotonic() + READY_S * (1 + meters / 100)
    while time.monotonic() < end:
        found = await_answer(child, control, "meters")["result"]
        if isinstance(found, list) and sum(one["state"] == "read" for one in found) == meters:
            return
        time.sleep(1.0)
    raise ProgramError(f"not all of {meters} meters were read")


def daemon_at_rest(root: Path, meters: int) -> Rest:
    """Start the daemon of a checkout, let it read its meters once, and watch it do nothing."""
    with tempfile.TemporaryDirectory(prefix="dcu-bench-") as name, _board(Path(name), meters) as config:
        begin = time.perf_counter()
        with running(python("-m", "agent", "--config", config), root) as child:
            await_answer(child, config.parent / "control.sock", "status")
            process = Process(child.pid)
            start_s, start_cpu_s = time.perf_counter() - begin, process.cpu_s()
            _await_all_read(child, config.parent / "control.sock", meters)
            time.sleep(SETTLE_S)
            wake_ups, cpu_s, begin = process.wake_ups(), process.cpu_s(), time.perf_counter()
            time.sleep(IDLE_S)
            took_s = time.perf_counter() - begin
            return Rest(
                start_cpu_s,
                start_s,
                process.memory_mib(),
                (process.wake_ups() - wake_ups) / took_s,
                (process.cpu_s() - cpu_s) / took_s,
            )


def _best(rests: list[Rest]) -> Rest:
    return Rest(
        min(rest.start_cpu_s for rest in rests),
        min(rest.start_s for rest in rests),
        statistics.median(rest.memory_mib for rest in rests),
        statistics.median(rest.wake_ups_per_s for rest in rests),
        min(rest.idle_cpu_share for rest in rests),
    )


def _megabytes(rest: Rest) -> float:
    return rest.memory_mib * 2**20 / 1e6


def _libraries_mib() -> float:
    done = subprocess.run(python("-c", _LIBRARIES), check=True, capture_output=True, text=True)
    return next(int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("VmRSS")) / 1024


def run() -> list[Figure]:
    """This checkout beside a bare interpreter, an empty program of the same libraries, and a peer."""
    empty = python("-c", _EMPTY_CLICK)
    libraries = python("-c", _LIBRARIES)
    commands = [(one, REPO) for one in (BARE, HELP, empty, IMPORT, CLIENT, libraries)]
    if PEERS.exists():
        commands.append(([str(PEERS), "-c", "import gurux_dlms"], REPO))
    bare, usage, nothing, door, ours, needed, *theirs = least(ROUNDS, commands)
    rest = _best([daemon_at_rest(REPO, 0) for _ in range(DAEMON_ROUNDS)])
    read = daemon_at_rest(REPO, METERS)
    floor_mib = _libraries_mib()
    imported = "from dlms import Meter : import gurux_dlms, without the interpreter"
    return [
        plain("a bare interpreter, CPU", f"{1000 * bare:.0f} ms"),
        plain("dcuctl --help, CPU", f"{1000 * usage:.0f} ms"),
        at_most("dcuctl --help : a click program of 12 empty commands, CPU", usage / nothing, 1.5, "x"),
        plain("import dlms; from dlms import Meter, CPU", f"{1000 * door:.0f} ms; {1000 * ours:.0f} ms"),
        at_most(imported, (ours - bare) / (theirs[0] - bare), 1, "x") if theirs else absent(imported, "no gurux"),
        plain(
            "dcu-agent until its control socket answers", f"{rest.start_s:.2f} s, CPU {1000 * rest.start_cpu_s:.0f} ms"
        ),
        at_most("dcu-agent, start : its libraries alone, CPU", rest.start_cpu_s / needed, 2, "x"),
        at_most("dcu-agent at rest, no meters : its libraries alone, memory", rest.memory_mib / floor_mib, 1.5, "x"),
        plain("dcu-agent at rest, no meters, memory", f"{_megabytes(rest):.1f} MB"),
        at_most("dcu-agent at rest, no meters, wake-ups of all threads", rest.wake_ups_per_s, 1, "/s"),
        at_most(f"dcu-agent at rest, {METERS} meters, wake-ups of all threads", read.wake_ups_per_s, 1, "/s"),
        plain(
            f"dcu-agent at rest, no and {METERS} meters, CPU",
            f"{100 * rest.idle_cpu_share:.2f} %, {100 * read.idle_cpu_share:.2f} %",
        ),
    ]


def compare(other: Path) -> list[Figure]:
    """This checkout beside another one, interleaved. The other one's modules are compiled, too."""
    packages = [str(other / name) for name in ("agent", "omadm", "dlms", "plc", "updateagent")]
    subprocess.run(python("-m", "compileall", "-q", *packages), check=False, capture_output=True)
    roots = (REPO, other.resolve())
    cpu = least(2 * ROUNDS, [(command, root) for command in (HELP, IMPORT, CLIENT) for root in roots])
    rests: tuple[list[Rest], list[Rest]] = ([], [])
    for _ in range(DAEMON_ROUNDS):
        for root, found in zip(roots, rests, strict=True):
            found.append(daemon_at_rest(root, 0))
    ours, theirs = _best(rests[0]), _best(rests[1])
    pairs = [
        ("dcuctl --help, CPU", 1000 * cpu[0], 1000 * cpu[1], "ms"),
        ("import dlms, CPU", 1000 * cpu[2], 1000 * cpu[3], "ms"),
        ("from dlms import Meter, CPU", 1000 * cpu[4], 1000 * cpu[5], "ms"),
        ("dcu-agent until it answers, CPU", 1000 * ours.start_cpu_s, 1000 * theirs.start_cpu_s, "ms"),
        ("dcu-agent at rest, memory", ours.memory_mib, theirs.memory_mib, "MiB"),
        ("dcu-agent at rest, wake-ups", ours.wake_ups_per_s, theirs.wake_ups_per_s, "/s"),
    ]
    return [
        Figure(
            what,
            f"{here:.1f} {unit}, was {there:.1f} {unit}: {here / there:.2f} x",
            "at most 1.05 x",
            here <= 1.05 * there,
        )
        for what, here, there, unit in pairs
    ]
