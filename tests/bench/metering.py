"""Readings from the meter to the head-end: the collector over a virtual line, and the uplink to a loopback head-end.

The collector is measured beside a client of gurux that reads the same values of one meter and keeps nothing, the uplink
beside a script that takes the same readings from a table and posts them in one go.
"""

from __future__ import annotations

import gzip
import http.client
import json
import random
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.https import HttpsClient, KeptConnection
from agent.metering.collector import Collector
from agent.metering.orders.journal import Journal
from agent.metering.orders.order_book import OrderBook
from agent.metering.registry.registry import Registry
from agent.metering.scheduling.readinglist import ReadingLists
from agent.metering.scheduling.schedule import Backoff
from agent.metering.store.reading_store import Store
from agent.metering.uplink.replay import ReplayLimits
from agent.metering.uplink.worker import Uplink
from agent.settings.config import MeteringConfig, PortConfig
from agent.settings.provisioning import MeterAccess, Provisioning, ReadingTask, UplinkSettings
from dlms.simulator.reading_list import rows_from_csv
from headend import db
from headend.metering import readings
from plc.prime.link import PlcLink
from plc.protocols import find_protocol
from tests.agent.metering import wear
from tests.agent.metering.lines import Line, bridge_over
from tests.agent.metering.readings import visit
from tests.agent.virtual import VirtualClock
from tests.bench.dlms import gurux_cpu_s
from tests.bench.figure import Figure, absent, at_least, at_most, plain
from tests.bench.programs import REPO, python
from tests.sim.meters import SimMeter
from tests.sim.plc_network import BaseNode
from updateagent.disk import RealDisk

LISTS = REPO / "etc" / "reading-lists"
LIST = "residential-108"
METERS = 40
ROUNDS = 3
BAUDRATE = 115_200
READINGS = 40_000
VISIT = 108
WRITTEN_MAX = 3
BATCH = 500
DEVICE = "urn:dcu:BENCH"


def run() -> list[Figure]:
    """Collector, then store, then uplink."""
    return [*_collector(), *_wear(), *_uplink()]


def _wear() -> list[Figure]:
    """What the store hands to the file system, log and checkpoints included, per byte of what it keeps compressed."""
    found = {}
    for visit_of in (wear.registers, wear.profile):
        with tempfile.TemporaryDirectory(prefix="dcu-bench-") as name:
            found[visit_of] = wear.written_per_payload(Path(name), visit_of, visits=2400, meters=200, keep=20_000)
    return [
        at_most(
            "store, written per compressed byte, visits of 108 registers", found[wear.registers], WRITTEN_MAX, "x", 1
        ),
        at_most("store, written per compressed byte, visits of 96 rows", found[wear.profile], WRITTEN_MAX, "x", 1),
    ]


# -------------------------------------------------------------------------------------------------- the collector


def _collector() -> list[Figure]:
    count, cpu_s, line_s = min((_collect() for _ in range(ROUNDS)), key=lambda found: found[1])
    per_s = count / cpu_s
    what = "collector : a gurux client of one meter, readings per second of CPU"
    gurux_s = gurux_cpu_s()
    values = len(rows_from_csv(LISTS / f"{LIST}.csv"))
    return [
        plain(f"collector, {METERS} meters behind a base node, virtual line", f"{count} readings in {line_s:.0f} s"),
        plain("collector with its meters and the store, per second of CPU", f"{per_s:,.0f} readings"),
        at_least(what, per_s * gurux_s / values, 1, "x") if gurux_s else absent(what, "no gurux"),
    ]


def _collect() -> tuple[int, float, float]:
    """Let all meters join and be read once: readings, CPU seconds, seconds on the virtual line."""
    rows = rows_from_csv(LISTS / f"{LIST}.csv")
    clock = VirtualClock(wall=1_800_000_007.0)
    network = BaseNode(
        [SimMeter(serial, rows, 3, None) for serial in range(1, METERS + 1)],
        start=clock.now,
        join_interval_s=0.1,
        latency_s=0.02,
    )
    with tempfile.TemporaryDirectory(prefix="dcu-bench-") as name:
        config = _metering(Path(name))
        store = Store(config.store_file, clock, records_max=10**6, keep_forwarded_max=0)
        registry = Registry(RealDisk(), config.registry_file, clock, leave_after_s=60)
        collector = Collector(
            [PortConfig("plc0", find_protocol("prime-usi"), "/dev/plc", BAUDRATE, response_timeout_s=20.0)],
            config,
            store=store,
            registry=registry,
            orders=OrderBook(Journal(RealDisk(), Path(name) / "orders"), clock, allowed=(), known=registry.names),
            lists=ReadingLists(LISTS, Path(name) / "software"),
            clock=clock,
            rng=random.Random(3),
            open_bridge=lambda _port: bridge_over(Line(network, clock, octet_s=10 / BAUDRATE), PlcLink()),
            health=lambda _ok, _detail: None,
        )
        collector.configure(Provisioning(tasks=(ReadingTask("t1", 900, LIST),), access=MeterAccess(16, "none", b"")))
        wanted, first, begin = METERS * len(rows), clock.now, time.process_time()
        while store.stats().pending < wanted and clock.now < first + 800:
            pause = collector.workers[0].step()
            collector.tick()
            clock.advance(pause)
        used = time.process_time() - begin
        count = store.stats().pending
        collector.close()
        store.close()
    if count != wanted:
        raise RuntimeError(f"{count} readings of {wanted}")
    return count, used, clock.now - first


def _metering(folder: Path) -> MeteringConfig:
    return MeteringConfig(
        reading_lists_dir=LISTS,
        store_file=folder / "readings.db",
        registry_file=folder / "meters.json",
        store_records_max=10**6,
        store_keep_forwarded_max=0,
        parallel_max=8,
        retries_max=2,
        retry_backoff_s=10.0,
        visit_timeout_s=120.0,
        catch_up_s=86_400,
        leave_after_s=60.0,
        pdu_size=1024,
        profile_first_s=86_400,
        meter_utc_offset_min=None,
        uplink_backoff_min_s=1.0,
        uplink_backoff_max_s=60.0,
    )


# -------------------------------------------------------------------------------------------------------- the uplink


@contextmanager
def head_end(folder: Path) -> Iterator[tuple[str, int, str, Path]]:
    """The metering server of a new head-end in a process of its own: host, port, the device's token, the authority."""
    subprocess.run(python("-m", "headend", "init", "--dir", folder), cwd=REPO, check=True, capture_output=True)
    command = python("-m", "headend", "serve", "--config", folder / "headend.yaml", "--only", "metering")
    server = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line.startswith("READY "):
            raise RuntimeError(f"the head-end said {line!r}")
        engine = db.open_engine(f"sqlite:///{next(folder.glob('*.db'))}")
        token = readings.issue_token(engine, DEVICE, time.time())
        engine.dispose()
        yield "127.0.0.1", json.loads(line.removeprefix("READY "))["metering"], token, folder / "ca.pem"
    finally:
        server.terminate()
        server.wait(30)
        if server.stdout is not None:
            server.stdout.close()


def _uplink() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="dcu-bench-") as name:
        folder = Path(name)
        with head_end(folder / "headend") as (host, port, token, ca):
            ours, script = [], []
            for turn in range(ROUNDS):
                store = _filled(folder / f"readings-{turn}.db")
                script.append(_script(store, f"{turn:032x}", host, port, token, ca))
                ours.append(_deliver(store, f"https://{host}:{port}/v1/readings", token, ca))
                store.close()
    cpu_s, wall_s = min(cpu for cpu, _wall in ours), min(wall for _cpu, wall in ours)
    return [
        plain(
            f"uplink, {READINGS:,} readings in batches of {BATCH}, per second",
            f"{READINGS / wall_s:,.0f} readings, {READINGS / BATCH / wall_s:.0f} batches",
        ),
        plain("uplink, per second of its own CPU", f"{READINGS / cpu_s:,.0f} readings"),
        at_most("uplink : a script without its promises, CPU", cpu_s / READINGS / min(script), 2, "x"),
    ]


def _filled(path: Path) -> Store:
    store = Store(path, VirtualClock(), records_max=10**6, keep_forwarded_max=0)
    for first in range(0, READINGS, VISIT):
        store.append(visit(first, min(VISIT, READINGS - first), f"KR{first:013}"))
    return store


def _deliver(store: Store, url: str, token: str, ca: Path) -> tuple[float, float]:
    """The agent's uplink with its own HTTPS client, until the store is empty: CPU and wall seconds."""
    clock = VirtualClock()
    connection = KeptConnection(HttpsClient(ca))
    uplink = Uplink(
        store,
        connection,
        clock,
        device_id=DEVICE,
        backoff=Backoff(1, 60),
        rng=random.Random(1),
        replay=ReplayLimits(10**9, 0),
    )
    uplink.configure(UplinkSettings(url=url, token=token, batch_records_max=BATCH))
    begin, cpu = time.perf_counter(), time.thread_time()
    while store.stats().pending:
        clock.advance(1)
        if uplink.step() > 0:
            raise RuntimeError("a batch was not taken")
    connection.close()
    return time.thread_time() - cpu, time.perf_counter() - begin


def _script(store: Store, name: str, host: str, port: int, token: str, ca: Path) -> float:
    """Records of the same store, read before, under another name; each batch to JSON, packed, posted. CPU seconds per
    reading: one look into the store gives fewer than all of them."""
    batch = store.batch(READINGS)
    assert batch is not None
    records = batch.records[: len(batch.records) // BATCH * BATCH]
    headers = {"Authorization": f"Bearer {token}", "Content-Encoding": "gzip", "Content-Type": "application/json"}
    cpu = time.thread_time()
    connection = http.client.HTTPSConnection(host, port, context=ssl.create_default_context(cafile=str(ca)))
    for at in range(0, len(records), BATCH):
        document = {"version": 1, "device": DEVICE, "store": name, "records": records[at : at + BATCH]}
        connection.request("POST", "/v1/readings", gzip.compress(json.dumps(document).encode()), headers)
        answer = connection.getresponse()
        if answer.status != 200 or b"acknowledged" not in answer.read():
            raise RuntimeError(f"the script got {answer.status}")
    connection.close()
    return (time.thread_time() - cpu) / len(records)
