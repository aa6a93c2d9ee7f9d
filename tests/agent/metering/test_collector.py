"""The collector over simulated lines in virtual time: meters found, read on schedule, and every kind of trouble."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.metering.collector import Collector
from agent.metering.orders.images import ImageStore
from agent.metering.orders.journal import Journal
from agent.metering.orders.order import Permission
from agent.metering.orders.order_book import OrderBook
from agent.metering.ports.port_state import Bridge as BridgePort
from agent.metering.registry.registry import Registry
from agent.metering.scheduling.readinglist import ReadingLists
from agent.metering.store.reading_store import Store
from agent.metering.visit.visit import Channel, ChannelEvent
from agent.settings.config import EventsConfig, MeteringConfig, PortConfig, ScanConfig
from agent.settings.provisioning import MeterAccess, Provisioning, ReadingTask
from dlms.errors import LinkError
from dlms.simulator.reading_list import rows_from_csv
from plc.errors import PlcPortError
from plc.events import DataReceived
from plc.prime.link import PlcLink
from plc.protocols import HDLC, PRIME_USI
from plc.transparent import TransparentLink
from tests.agent.metering.lines import Line, bridge_over
from tests.agent.virtual import VirtualClock
from tests.sim.meters import SimMeter
from tests.sim.plc_network import FIRST_ADDRESS, BaseNode
from tests.sim.rs485_bus import Bus, Station
from updateagent.disk import RealDisk

REPO = Path(__file__).resolve().parents[3]
LISTS = REPO / "etc" / "reading-lists"
ROWS = rows_from_csv(LISTS / "residential-108.csv")
PASSWORD = b"pole42-lls"
EVERY_S = 900

PLC = PortConfig("plc0", PRIME_USI, "/dev/plc", 115_200, response_timeout_s=20.0)
BUS = PortConfig(
    "rs485",
    HDLC,
    "/dev/bus",
    9600,
    scan=ScanConfig(16, 20, every_s=600),
    response_timeout_s=0.5,
    options={"address_bytes": 1},
)


def metering(tmp_path: Path) -> MeteringConfig:
    return MeteringConfig(
        reading_lists_dir=LISTS,
        store_file=tmp_path / "readings.db",
        registry_file=tmp_path / "meters.json",
        store_records_max=1_000_000,
        store_keep_forwarded_max=0,
        parallel_max=4,
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


def task(
    task_id: str = "t1", every_s: int = EVERY_S, reading_list: str = "residential-108", priority: int = 0
) -> ReadingTask:
    return ReadingTask(task_id, every_s, reading_list, priority=priority)


def provisioning(*tasks: ReadingTask, secret: bytes = PASSWORD) -> Provisioning:
    return Provisioning(tasks=tasks or (task(),), access=MeterAccess(16, "low", secret))


class Rig:
    """One collector over one line, in virtual time."""

    allowed = frozenset(Permission)
    events = EventsConfig()
    boot = "one"

    def __init__(self, tmp_path: Path, port: PortConfig, config: MeteringConfig | None = None) -> None:
        self.tmp_path = tmp_path
        self.port = port
        self.config = config or metering(tmp_path)
        self.clock = VirtualClock(wall=1_800_000_000.0 + 7)
        self.health: list[tuple[bool, str]] = []
        self.opened = 0
        self.open_error: str = ""
        self.lines: list[Line] = []
        self.start()

    def start(self) -> None:
        """The agent's part, as after a start of the process."""
        self.store = Store(self.config.store_file, self.clock, records_max=10**6, keep_forwarded_max=0)
        self.registry = Registry(
            RealDisk(), self.config.registry_file, self.clock, leave_after_s=self.config.leave_after_s
        )
        self.orders = OrderBook(
            Journal(RealDisk(), self.tmp_path / "orders"),
            self.clock,
            allowed=self.allowed,
            known=self.registry.names,
            own_name=self.registry.own_name,
            standing=self.registry.standing,
            images=self.make_images(),
        )
        self.collector = Collector(
            [self.port],
            self.config,
            store=self.store,
            registry=self.registry,
            orders=self.orders,
            lists=ReadingLists(self.config.reading_lists_dir, self.tmp_path / "software"),
            clock=self.clock,
            rng=random.Random(3),
            boot=self.boot,
            open_bridge=self.open,
            health=lambda ok, detail: self.health.append((ok, detail)),
            events=self.events,
        )
        self.reader = self.collector.workers[0]

    def make_images(self) -> ImageStore | None:
        """Where images of meter firmware are kept; a rig for such orders has one."""
        return None

    def restart(self) -> None:
        self.reader.close()
        self.collector.close()
        self.store.close()
        self.start()

    def open(self, _port: PortConfig) -> BridgePort:
        self.opened += 1
        if self.open_error:
            raise PlcPortError(self.open_error)
        return self.new_bridge()

    def new_bridge(self) -> BridgePort:
        raise AssertionError("a rig has a line")

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        end = self.clock.now + seconds
        while self.clock.now < end and not until():
            for line in self.lines:
                line.wake_at = end
            pause = self.reader.step()
            self.collector.tick()
            self.clock.advance(min(pause, max(0.0, end - self.clock.now)))

    def records(self) -> list[dict[str, object]]:
        return [record for record in self.uplink() if "gap" not in record and "event" not in record]

    def gaps(self) -> list[dict[str, object]]:
        """What the head-end is told of gaps."""
        return [record for record in self.uplink() if "gap" in record]

    def uplink(self) -> list[dict[str, object]]:
        records: list[dict[str, object]] = []
        first = 0
        while (batch := self.store.batch(10**6, first=first)) is not None:  # one has at most 64 blocks
            records += batch.records
            first = batch.last + 1
        return records

    def count(self) -> Counter[tuple[object, object]]:
        """(meter, run) → records."""
        return Counter((record["meter"], record["run"]) for record in self.records())

    def statuses(self) -> dict[str, str]:
        return {meter.meter_id: meter.state for meter in self.collector.meters()}


class PlcRig(Rig):
    def __init__(self, tmp_path: Path, meters: int = 3, config: MeteringConfig | None = None, phases: int = 3) -> None:
        self.meters = [SimMeter(serial, ROWS, phases, PASSWORD) for serial in range(1, meters + 1)]
        super().__init__(tmp_path, PLC, config)
        self.network = BaseNode(self.meters, start=self.clock.now, join_interval_s=0.5, latency_s=0.05)

    def new_bridge(self) -> BridgePort:
        self.lines.append(Line(self.network, self.clock, octet_s=10 / 115_200))
        return bridge_over(self.lines[-1], PlcLink())


class BusRig(Rig):
    def __init__(self, tmp_path: Path, addresses: tuple[int, ...] = (17, 19), port: PortConfig = BUS) -> None:
        self.meters = [SimMeter(address, ROWS, 3, PASSWORD) for address in addresses]
        self.network = Bus(
            [Station(meter, address, 128, 1) for meter, address in zip(self.meters, addresses, strict=True)]
        )
        super().__init__(tmp_path, port)

    def new_bridge(self) -> BridgePort:
        self.lines.append(Line(self.network, self.clock, octet_s=10 / 9600))
        return bridge_over(self.lines[-1], TransparentLink())


def codes(meter: SimMeter) -> int:
    return len(meter.rows)


# --- the ordinary day ---


def test_meters_that_join_are_registered_and_read_for_the_current_run(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(30)
    run = 1_800_000_000
    assert rig.count() == {(meter.id, run): 108 for meter in rig.meters}
    assert rig.statuses() == {meter.id: "read" for meter in rig.meters}
    status = rig.collector.task_status("t1")
    assert (status.last_run, status.next_run, status.last_result) == (run, run + EVERY_S, "3 of 3 read")
    assert rig.health[-1] == (True, "plc0")


def test_every_value_has_unit_and_scaler_and_is_what_the_meter_holds(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(30)
    held = rig.meters[0].records()
    volatile = set(rig.meters[0].volatile())
    records = {f"{r['cls']}/{r['obis']}/{r['attr']}": r for r in rig.records()}
    assert set(records) == set(held)
    for code, expected in held.items():
        got = records[code]
        assert (got["tag"], got["scaler"], got["unit"]) == (expected["tag"], expected["scaler"], expected["unit"]), code
        assert code in volatile or got["raw"] == expected["raw"], code
    assert all(
        r["trusted"] is True and r["error"] is None and str(r["meter_time"]).endswith("Z") for r in rig.records()
    )


@pytest.mark.slow
def test_each_run_is_read_once_and_at_its_time(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(3 * EVERY_S)
    first = 1_800_000_000
    assert rig.count() == {(meter.id, first + n * EVERY_S): 108 for meter in rig.meters for n in range(4)}
    late = [float(str(r["received"])) - int(str(r["run"])) for r in rig.records() if r["run"] != first]
    assert min(late) >= 0
    assert max(late) < 10


def test_a_restart_neither_repeats_nor_skips_a_run(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(20)
    rig.restart()
    rig.collector.configure(provisioning())
    rig.run(30)
    assert rig.count() == {(meter.id, 1_800_000_000): 108 for meter in rig.meters}
    rig.run(EVERY_S)
    assert set(rig.count().values()) == {108}
    assert len(rig.count()) == 6


def test_what_was_learned_of_a_meter_survives_a_restart(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(20)
    learned = rig.store.knowledge(next(iter(rig.registry.present("plc0"))).key)
    assert learned is not None
    assert learned["lists_work"] is True
    assert len(learned["scalers"]) > 60  # type: ignore[arg-type]


def test_objects_that_a_meter_lacks_are_errors_of_their_own_and_no_failure(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1, phases=1)
    rig.collector.configure(provisioning())
    rig.run(30)
    errors = Counter(str(record["error"]) for record in rig.records())
    assert errors == {"None": codes(rig.meters[0]), "object-undefined": 108 - codes(rig.meters[0])}
    assert rig.statuses()[rig.meters[0].id] == "read"


def test_a_new_task_and_a_new_interval_take_effect_without_a_restart(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "a.csv").write_text("obis,cls,attr\n1.0.1.8.0.255,3,2\n")
    config = metering(tmp_path)
    rig = PlcRig(tmp_path, meters=2, config=replace_config(config, tmp_path / "lists"))
    rig.collector.configure(provisioning(task("a", 900, "a")))
    rig.run(30)
    rig.collector.configure(provisioning(task("a", 60, "a"), task("b", 300, "a")))
    rig.run(60)
    tasks = Counter(str(record["task"]) for record in rig.records())
    assert tasks["b"] == 2
    assert tasks["a"] >= 4
    rig.collector.configure(Provisioning(access=MeterAccess(16, "low", PASSWORD)))
    before = len(rig.records())
    rig.run(600)
    assert len(rig.records()) == before
    assert rig.store.progress() == {}


def replace_config(config: MeteringConfig, lists: Path) -> MeteringConfig:
    return replace(config, reading_lists_dir=lists)


def test_tasks_that_are_due_together_share_one_visit(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning(task("a"), task("b")))
    rig.run(30)
    records = rig.records()
    assert Counter(str(record["task"]) for record in records) == {"a": 108, "b": 108}
    assert len({record["received"] for record in records}) < 30


@pytest.mark.slow
def test_a_task_of_higher_priority_goes_first(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    for name in "ab":
        (tmp_path / "lists" / f"{name}.csv").write_text("obis,cls,attr\n1.0.1.8.0.255,3,2\n")
    rig = PlcRig(tmp_path, meters=1, config=replace_config(metering(tmp_path), tmp_path / "lists"))
    rig.collector.configure(provisioning(task("low", 900, "a", priority=1), task("high", 900, "b", priority=5)))
    rig.run(20)
    assert [record["task"] for record in rig.records()] == ["high", "low"]


def test_an_unknown_reading_list_is_said_in_the_task_s_status(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning(task("a", reading_list="none"), task("b")))
    rig.run(30)
    assert "reading list none" in rig.collector.task_status("a").last_result
    assert rig.collector.task_status("b").last_result == "1 of 1 read"
    (tmp_path / "software" / "active" / "pkg").mkdir(parents=True)
    (tmp_path / "software" / "active" / "pkg" / "none.csv").write_text("obis,cls,attr\n1.0.1.8.0.255,3,2\n")
    rig.collector.software_changed()
    rig.run(5)
    assert rig.collector.task_status("a").last_result == "1 of 1 read"


def test_a_missing_list_is_said_of_every_task_that_wants_it_and_of_none_once_it_is_there(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning(task("a", reading_list="none"), task("b", reading_list="none")))
    rig.run(30)
    assert ["reading list none" in rig.collector.task_status(name).last_result for name in "ab"] == [True, True]
    (tmp_path / "software" / "active" / "pkg").mkdir(parents=True)
    (tmp_path / "software" / "active" / "pkg" / "none.csv").write_text("obis,cls,attr\n1.0.1.8.0.255,3,2\n")
    rig.collector.software_changed()
    rig.run(5)
    assert {rig.collector.task_status(name).last_result for name in "ab"} == {"1 of 1 read"}


# --- trouble ---


def test_a_meter_that_answers_nothing_is_retried_then_left_for_the_run_and_read_in_the_next(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=2)
    mute = rig.meters[0].id
    rig.network.faults.mute = frozenset({mute})
    rig.collector.configure(provisioning())
    rig.run(400)
    assert {meter for meter, _ in rig.count()} == {rig.meters[1].id}
    failing = next(meter for meter in rig.collector.meters() if meter.last_error)
    assert failing.state == "silent"
    assert "no answer" in failing.last_error
    assert rig.collector.task_status("t1").last_result == "1 of 2 read, 1 silent"
    rig.network.faults.mute = frozenset()
    rig.run(EVERY_S)
    assert rig.count()[mute, 1_800_000_000 + EVERY_S] == 108
    assert rig.statuses()[mute] == "read"


def test_a_meter_that_joins_again_is_read_for_the_run_it_missed(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    meter = rig.meters[0]
    rig.network.faults.mute = frozenset({meter.id})
    rig.collector.configure(provisioning())
    rig.run(400)
    assert rig.count() == {}
    rig.network.faults.mute = frozenset()
    rig.network.command({"cmd": "leave", "meter": meter.id}, rig.clock.now)
    rig.network.command({"cmd": "join", "meter": meter.id}, rig.clock.now)
    rig.run(20)
    assert rig.count() == {(meter.id, 1_800_000_000): 108}


@pytest.mark.slow
def test_a_wrong_password_fails_and_the_right_one_provisioned_later_reads_at_once(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=2)
    rig.collector.configure(provisioning(secret=b"wrong"))
    rig.run(300)
    assert rig.count() == {}
    assert set(rig.statuses().values()) == {"failing"}
    rig.collector.configure(provisioning())
    rig.run(20)
    assert set(rig.count().values()) == {108}
    assert len(rig.count()) == 2


def test_a_meter_that_leaves_for_a_moment_never_left(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    meter = rig.meters[0].id
    rig.collector.configure(provisioning())
    rig.run(20)
    rig.network.command({"cmd": "leave", "meter": meter}, rig.clock.now)
    rig.run(30)
    assert rig.statuses() == {meter: "read"}
    rig.network.command({"cmd": "join", "meter": meter}, rig.clock.now)
    rig.run(120)
    assert rig.statuses() == {meter: "read"}
    rig.network.command({"cmd": "leave", "meter": meter}, rig.clock.now)
    rig.run(120)
    assert rig.statuses() == {meter: "left"}


@pytest.mark.slow
def test_a_line_that_breaks_is_opened_again_and_reading_goes_on(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(20)
    rig.lines[-1].broken = True
    rig.run(2)
    assert (False, "plc0: the line is cut") in rig.health
    assert rig.lines[0].closed
    rig.run(2 * EVERY_S)
    assert rig.health[-1] == (True, "plc0")
    assert set(rig.count().values()) == {108}
    assert len(rig.count()) == 9


class CutLine(Line):
    """Can be opened, and then fails."""

    def read(self, wait_s: float) -> bytes:
        raise LinkError("the other side closed the connection")


def test_a_port_that_opens_and_fails_again_and_again_is_news_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = PlcRig(tmp_path, meters=0)
    rig.collector.configure(provisioning())
    new_bridge, cut = rig.new_bridge, lambda: bridge_over(CutLine(rig.network, rig.clock), PlcLink())
    rig.new_bridge = cut  # type: ignore[method-assign]
    caplog.set_level("INFO")
    rig.run(1800)
    assert rig.opened > 20
    events = Counter(getattr(record, "event", "") for record in caplog.records)
    assert (events["port.open"], events["port.lost"], events["port.heard"]) == (1, 1, 0)
    first_good = next(number for number, (ok, _) in enumerate(rig.health) if ok)
    assert all(ok for ok, _ in rig.health[first_good:]), "nobody is there to prove it, after each opening as before"
    assert "closed the connection" in rig.health[-1][1]
    rig.new_bridge = new_bridge  # type: ignore[method-assign]
    rig.run(120)
    events = Counter(getattr(record, "event", "") for record in caplog.records)
    assert (events["port.open"], events["port.lost"], events["port.heard"]) == (1, 1, 1)
    assert rig.health[-1] == (True, "plc0")


class DefectiveLink(PlcLink):
    def receive(self, data: bytes, now: float) -> None:
        raise ZeroDivisionError


def test_a_defect_of_a_protocol_costs_its_port_and_is_news_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    new_bridge, defective = rig.new_bridge, lambda: bridge_over(Line(rig.network, rig.clock), DefectiveLink())
    rig.new_bridge = defective  # type: ignore[method-assign]
    rig.run(600)
    assert 10 <= rig.opened <= 30, "with growing pauses"
    assert [record.exc_info is not None for record in caplog.records
            if getattr(record, "event", "") == "port.defect" and record.levelname == "ERROR"] == [True]  # fmt: skip
    assert "ZeroDivisionError" in rig.health[-1][1]
    rig.new_bridge = new_bridge  # type: ignore[method-assign]
    rig.run(120)
    assert rig.health[-1] == (True, "plc0")
    assert rig.count() == {(rig.meters[0].id, 1_800_000_000): 108}


def test_a_base_node_that_stays_silent_is_excused_also_after_its_port_was_opened_anew(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=0)
    rig.collector.configure(provisioning())
    rig.new_bridge = lambda: bridge_over(Line(Deaf(), rig.clock), PlcLink(), silence_s=60.0)  # type: ignore[method-assign]
    rig.run(3600)
    assert rig.opened > 5
    first_good = next(number for number, (ok, _) in enumerate(rig.health) if ok)
    assert all(ok for ok, _ in rig.health[first_good:])


class Deaf:
    """A network that swallows everything."""

    def receive(self, data: bytes, now: float) -> None: ...

    def take_bursts(self) -> list[bytes]:
        return []

    def next_deadline(self) -> float | None:
        return None

    def on_deadline(self, now: float) -> None: ...


def test_a_port_that_cannot_be_opened_is_tried_with_growing_pauses(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(30)
    rig.open_error = "no such device"
    rig.lines[-1].broken = True
    rig.opened = 0
    rig.run(600)
    assert 10 <= rig.opened <= 30
    assert rig.health[-1] == (False, "plc0: no such device")
    rig.open_error = ""
    rig.run(EVERY_S - 600)
    assert rig.count() == {(rig.meters[0].id, 1_800_000_000 + n * EVERY_S): 108 for n in range(2)}


def test_a_base_node_that_answers_for_meters_that_do_not_proves_nothing(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path)
    rig.collector.configure(provisioning())
    deaf = rig.network.receive

    def without_data(data: bytes, now: float) -> None:
        if b"\x37" not in data[:6]:  # DL_DATA.request: everything else the base node answers
            deaf(data, now)

    rig.network.receive = without_data  # type: ignore[method-assign]
    rig.run(90)
    assert rig.health[-1] == (False, "plc0: the base node answers, none of 3 meters has yet")


def test_after_a_restart_between_two_runs_one_meter_is_greeted_so_that_the_port_is_proven(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(30)
    before = rig.count()
    rig.health.clear()
    rig.restart()
    rig.collector.configure(provisioning())
    rig.run(30)
    assert rig.health[-1] == (True, "plc0")
    assert rig.count() == before


def test_a_port_without_meters_works_when_its_base_node_answers(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=0)
    rig.collector.configure(provisioning())
    rig.run(10)
    assert rig.health[-1] == (True, "plc0")


def test_a_base_node_that_is_silent_makes_the_port_unhealthy(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(30)
    rig.restart()
    rig.network.receive = lambda data, now: None  # type: ignore[method-assign]
    rig.run(120)
    assert rig.health[-1][0] is False
    assert "has not answered" in rig.health[-1][1]


def test_readings_that_cannot_be_stored_are_read_again_when_they_can(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.store.progress()
    rig.store.close()
    rig.config.store_file.rename(tmp_path / "moved.db")
    rig.config.store_file.mkdir()
    rig.run(30)
    assert not [meter for meter in rig.collector.meters() if meter.state == "read"]
    rig.config.store_file.rmdir()
    (tmp_path / "moved.db").rename(rig.config.store_file)
    rig.run(60)
    assert rig.count() == {(rig.meters[0].id, 1_800_000_000): 108}


class Poison(bytes):
    """What no decoder expects: octets that fall apart when they are looked at."""

    def __getitem__(self, key: object) -> bytes:  # type: ignore[override]
        raise ZeroDivisionError


class PoisonedChannel:
    """A channel on which everything received is poison."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.send = channel.send
        self.close = channel.close

    def next_event(self) -> ChannelEvent | None:
        event = self._channel.next_event()
        return replace(event, lsdu=Poison(event.lsdu)) if isinstance(event, DataReceived) else event


class BrokenChannel(PoisonedChannel):
    """A channel on which already the first word is a defect."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self.send = self.fall_apart

    def fall_apart(self, data: bytes, now: float) -> int:
        raise ZeroDivisionError(len(data), now)


class PoisonedBridge:
    """A bridge with one poisoned node."""

    def __init__(self, bridge: BridgePort, address: int, poison: type[PoisonedChannel]) -> None:
        self._bridge = bridge
        self._poison = poison
        self._address = address
        self.shared_bus = bridge.shared_bus
        self.octets_heard = bridge.octets_heard
        self.set_line = bridge.set_line
        self.poll = bridge.poll
        self.wake_by = bridge.wake_by
        self.close = bridge.close
        self.overhear: Callable[[int, bytes], None] | None = None

    def channel(self, address: int, *, dst_lsap: int = 1, src_lsap: int = 16) -> Channel:
        channel = self._bridge.channel(address, dst_lsap=dst_lsap, src_lsap=src_lsap)
        return self._poison(channel) if address == self._address else channel


@pytest.mark.parametrize("poison", [PoisonedChannel, BrokenChannel])
def test_a_defect_that_one_meter_brings_to_light_leaves_the_others_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, poison: type[PoisonedChannel]
) -> None:
    rig = PlcRig(tmp_path)
    whole = rig.new_bridge
    rig.new_bridge = lambda: PoisonedBridge(whole(), FIRST_ADDRESS + 1, poison)  # type: ignore[method-assign]
    rig.collector.configure(provisioning())
    rig.run(60)
    assert set(rig.count()) == {(meter.id, 1_800_000_000) for meter in rig.meters if meter is not rig.meters[1]}
    assert any(getattr(record, "event", "") == "visit.defect" for record in caplog.records)
    failing = [meter.last_error for meter in rig.collector.meters() if meter.state == "failing"]
    assert failing == ["defect: ZeroDivisionError"]


@pytest.mark.slow
def test_an_exchanged_meter_behind_the_same_modem_is_noticed_and_read_as_itself(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(20)
    old = rig.meters[0]
    new = SimMeter(99, ROWS, 3, PASSWORD)
    for node in rig.network._nodes.values():
        node.meter = new
    rig.run(EVERY_S)
    assert rig.count() == {(old.id, 1_800_000_000): 108, (new.id, 1_800_000_000 + EVERY_S): 108}
    assert rig.statuses() == {old.id: "left", new.id: "read"}


def test_noise_on_the_line_costs_time_and_no_value(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=2)
    rig.network.faults.loss = 0.03
    rig.collector.configure(provisioning())
    rig.run(EVERY_S - 60)
    assert rig.count() == {(meter.id, 1_800_000_000): 108 for meter in rig.meters}
    for meter in rig.meters:
        held, volatile = meter.records(), set(meter.volatile())
        for record in rig.records():
            code = f"{record['cls']}/{record['obis']}/{record['attr']}"
            if record["meter"] == meter.id and code not in volatile:
                assert record["raw"] == held[code]["raw"]


# --- clocks ---


def test_before_the_clock_was_ever_set_reading_waits_a_little_then_reads_and_says_so(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.clock.wall_offset = 1_000_000.0
    rig.clock.is_trusted = False
    rig.collector.configure(provisioning())
    rig.run(60)
    assert rig.records() == []
    rig.run(100)
    assert {record["trusted"] for record in rig.records()} == {False}
    rig.clock.wall_offset = 1_800_000_000.0
    rig.clock.is_trusted = True
    rig.run(20)
    trusted = [record for record in rig.records() if record["trusted"]]
    assert len(trusted) == 108


def test_a_clock_that_is_set_in_the_middle_of_a_visit_vouches_for_nothing_before(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.clock.wall_offset, rig.clock.is_trusted = 1_000_000.0, False
    rig.collector.configure(provisioning())
    rig.run(300, until=lambda: rig.collector.task_status("t1").state == "running")
    rig.clock.wall_offset, rig.clock.is_trusted = 1_800_000_000.0, True
    rig.run(30)
    counted = Counter((record["trusted"], int(str(record["run"])) > 1_700_000_000) for record in rig.records())
    assert counted == {(False, False): 108, (True, True): 108}
    assert set(rig.store.progress().values()) == {1_800_000_000}


def test_a_run_that_was_read_is_not_read_again_after_a_restart_without_a_clock(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(20)
    offset = rig.clock.wall_offset
    rig.clock.wall_offset, rig.clock.is_trusted = 0.0, False
    rig.restart()
    rig.collector.configure(provisioning())
    rig.run(30)
    rig.clock.wall_offset, rig.clock.is_trusted = offset, True
    rig.run(30)
    assert rig.count() == {(rig.meters[0].id, 1_800_000_000): 108}


# --- the bus ---


def test_meters_on_a_bus_are_found_by_asking_addresses_and_read_one_after_another(tmp_path: Path) -> None:
    rig = BusRig(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(60)
    assert rig.count() == {(meter.id, 1_800_000_000): 108 for meter in rig.meters}
    assert {meter.address for meter in rig.collector.meters()} == {17, 19}
    assert rig.health[-1] == (True, "rs485")


@pytest.mark.slow
def test_a_meter_that_is_put_on_the_bus_later_is_found_by_the_next_scan(tmp_path: Path) -> None:
    rig = BusRig(tmp_path)
    rig.network.command({"cmd": "leave", "meter": rig.meters[1].id}, rig.clock.now)
    rig.collector.configure(provisioning())
    rig.run(60)
    assert len(rig.collector.meters()) == 1
    rig.network.command({"cmd": "join", "meter": rig.meters[1].id}, rig.clock.now)
    rig.run(650)
    assert len(rig.collector.meters()) == 2
    assert rig.count()[rig.meters[1].id, 1_800_000_000] == 108


def test_a_meter_that_falls_silent_on_the_bus_does_not_hold_up_the_others(tmp_path: Path) -> None:
    rig = BusRig(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(60)
    silent, other = rig.meters
    rig.network.command({"cmd": "leave", "meter": silent.id}, rig.clock.now)
    rig.run(EVERY_S + 60)
    assert rig.count()[other.id, 1_800_000_000 + EVERY_S] == 108
    assert rig.statuses()[silent.id] in ("failing", "left")
    rig.network.command({"cmd": "join", "meter": silent.id}, rig.clock.now)
    rig.run(EVERY_S)
    assert rig.statuses()[silent.id] == "read"


def test_after_a_restart_the_bus_s_meters_are_read_without_waiting_for_a_scan(tmp_path: Path) -> None:
    rig = BusRig(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(60)
    rig.restart()
    rig.collector.configure(provisioning())
    assert len(rig.collector.meters()) == 2
    rig.run(EVERY_S + 10)
    assert len(rig.count()) == 4


def test_without_tasks_meters_are_registered_all_the_same(tmp_path: Path) -> None:
    bus, plc = BusRig(tmp_path / "bus"), PlcRig(tmp_path / "plc")
    for rig in (bus, plc):
        rig.run(60)
        assert set(rig.statuses().values()) == {"joined"}
        assert len(rig.statuses()) == len(rig.meters)


class PointToPoint(TransparentLink):
    """A core whose meters have to be looked for, and whose line is not shared."""

    shared_bus = False


def test_meters_are_looked_for_where_the_protocol_says_so_and_not_because_the_bus_is_shared(tmp_path: Path) -> None:
    rig = BusRig(tmp_path, addresses=(17,), port=replace(BUS, parallel_max=1))
    rig.new_bridge = lambda: bridge_over(Line(rig.network, rig.clock), PointToPoint())  # type: ignore[method-assign]
    rig.collector.configure(provisioning())
    rig.run(60, until=lambda: len(rig.records()) == 108)
    assert rig.count() == {(rig.meters[0].id, 1_800_000_000): 108}


@pytest.mark.parametrize("kind", [PlcRig, BusRig])
def test_the_worker_beats_and_ends_when_told(tmp_path: Path, kind: type[PlcRig | BusRig]) -> None:
    rig = kind(tmp_path)
    rig.collector.configure(provisioning())
    stop, beats = threading.Event(), []

    def beat() -> None:
        beats.append(rig.clock.now)
        if rig.clock.now > 160:
            stop.set()

    rig.reader.run(stop, beat)
    assert max(b - a for a, b in itertools.pairwise(beats)) <= rig.reader.budget_s / 4
    assert rig.lines[-1].closed


def test_a_port_that_was_never_opened_is_told_with_why_and_since_when(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path)
    begin = rig.clock.wall()
    rig.open_error = "/dev/ttyS9: no such file"
    rig.collector.configure(provisioning())
    rig.run(300)
    (port,) = rig.collector.port_statuses()
    assert (port["port"], port["works"], port["problem"]) == ("plc0", False, "/dev/ttyS9: no such file")
    assert port["since"] == begin
    rig.open_error = ""
    rig.run(200)
    (port,) = rig.collector.port_statuses()
    assert (port["works"], port["problem"]) == (True, "")
    assert begin + 300 <= float(str(port["since"])) <= begin + 500


def test_a_key_store_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path)
    told: list[tuple[bool, str]] = []
    rig.collector._keys_health = lambda ok, detail: told.append((ok, detail))
    rig.collector.tick()
    assert told == [(True, "")]
    rig.collector.access._store._trouble = "the keys' files cannot be read"
    rig.collector.tick()
    rig.collector.tick()
    assert told[1:] == [(False, "the keys' files cannot be read")]
