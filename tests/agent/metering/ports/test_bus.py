"""Buses and ports in virtual time: the dead, the mute, the garbled, two under one address, and nobody at all."""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.metering.orders.order_book import Request
from agent.metering.ports.port_state import Bridge as BridgePort
from agent.settings.config import ScanConfig
from dlms.link.hdlc.frames import HdlcDecoder, HdlcFrame
from plc.bridge import Bridge, Channel
from plc.transparent import TransparentLink
from tests.agent.metering.lines import Line, bridge_over
from tests.agent.metering.test_collector import BUS, EVERY_S, PASSWORD, ROWS, BusRig, PlcRig, provisioning
from tests.agent.virtual import VirtualClock
from tests.sim.meters import SimMeter
from tests.sim.rs485_bus import Bus, Station

SLOW_BUS = replace(BUS, response_timeout_s=1.5)
FIRST_RUN = 1_800_000_000


def events(caplog: pytest.LogCaptureFixture, name: str, level: int = logging.INFO) -> list[str]:
    """What was logged under this event id."""
    found = (record for record in caplog.records if getattr(record, "event", "") == name)
    return [record.getMessage() for record in found if record.levelno >= level]


# --- the dead ---


class TimedBridge(Bridge):
    """A bridge that notes for how long each address has the bus."""

    def __init__(self, line: Line) -> None:
        super().__init__(line, TransparentLink(), line.clock.monotonic)
        self.line_s: dict[int, float] = defaultdict(float)
        self._clock_now = line.clock.monotonic
        self._opened: dict[int, float] = {}

    def channel(self, address: int, *, dst_lsap: int = 1, src_lsap: int = 16) -> Channel:
        self._opened[address] = self._clock_now()
        return super().channel(address, dst_lsap=dst_lsap, src_lsap=src_lsap)

    def forget(self, channel: Channel) -> None:
        if channel.address in self._opened:
            self.line_s[channel.address] += self._clock_now() - self._opened.pop(channel.address)
        super().forget(channel)


def timed(rig: BusRig) -> list[TimedBridge]:
    """Have the rig open its bus with a stop watch."""
    bridges: list[TimedBridge] = []

    def new_bridge() -> BridgePort:
        rig.lines.append(Line(rig.network, rig.clock, octet_s=10 / 9600))
        bridges.append(TimedBridge(rig.lines[-1]))
        return bridges[-1]

    rig.new_bridge = new_bridge  # type: ignore[method-assign]
    return bridges


@pytest.mark.slow
def test_a_dead_meter_costs_at_most_a_second_per_run_after_the_first(tmp_path: Path) -> None:
    rig = BusRig(tmp_path, port=replace(SLOW_BUS, scan=ScanConfig(17, 19, every_s=3600)))
    bridges = timed(rig)
    rig.collector.configure(provisioning())
    rig.run(60)
    alive, dead = rig.meters
    rig.network.command({"cmd": "leave", "meter": dead.id}, rig.clock.now)
    rig.run(EVERY_S)  # the first run without it
    costs: list[float] = []
    for _ in range(8):
        before = bridges[0].line_s[19]
        rig.run(EVERY_S)
        costs.append(bridges[0].line_s[19] - before)
    assert max(costs) <= 1.6  # a question with the full time, once in eight
    assert sorted(costs)[-2] <= 1.0
    assert sum(costs) / len(costs) <= 0.5
    assert {rig.count()[alive.id, FIRST_RUN + n * EVERY_S] for n in range(10)} == {108}


@pytest.mark.slow
def test_addresses_where_nobody_is_are_asked_shortly_from_the_second_scan_on(tmp_path: Path) -> None:
    rig = BusRig(tmp_path, addresses=(17,), port=replace(SLOW_BUS, scan=ScanConfig(17, 36, every_s=3600)))
    bridges = timed(rig)
    rig.collector.configure(provisioning())
    rig.run(3000)
    first_s = sum(bridges[0].line_s[address] for address in range(18, 37))
    rig.run(3600)
    second_s = sum(bridges[0].line_s[address] for address in range(18, 37)) - first_s
    assert first_s > 19 * 3.0
    assert second_s < 19 * 0.4


@pytest.mark.slow
def test_a_meter_that_is_slower_than_all_the_others_is_found_again_all_the_same(tmp_path: Path) -> None:
    rig = BusRig(tmp_path, port=replace(SLOW_BUS, scan=ScanConfig(17, 19, every_s=900)))
    slow = SlowBus(rig.network, rig.clock, address=19, delay_s=1.0)
    rig.new_bridge = lambda: bridge_over(Line(slow, rig.clock, 10 / 9600), TransparentLink())  # type: ignore[method-assign]
    rig.collector.configure(provisioning())
    rig.run(120)
    assert set(rig.statuses().values()) == {"read"}
    rig.network.command({"cmd": "leave", "meter": rig.meters[1].id}, rig.clock.now)
    rig.run(2 * EVERY_S)
    rig.network.command({"cmd": "join", "meter": rig.meters[1].id}, rig.clock.now)
    rig.run(8 * 3600)
    assert set(rig.statuses().values()) == {"read"}


class SlowBus:
    """A bus on which the meter with one address takes its time."""

    def __init__(self, bus: Bus, clock: VirtualClock, address: int, delay_s: float) -> None:
        self._bus = bus
        self._clock = clock
        self._address = address
        self._delay_s = delay_s
        self._held: list[tuple[float, bytes]] = []
        self._asked = 0

    def receive(self, data: bytes, now: float) -> None:
        self._asked = data[3] >> 1
        self._bus.receive(data, now)

    def take_bursts(self) -> list[bytes]:
        delay_s = self._delay_s if self._asked == self._address else 0.0
        self._held += [(self._clock.now + delay_s, burst) for burst in self._bus.take_bursts()]
        due = [burst for at, burst in self._held if at <= self._clock.now]
        self._held = [(at, burst) for at, burst in self._held if at > self._clock.now]
        return due

    def next_deadline(self) -> float | None:
        deadlines = [at for at, _ in self._held]
        below = self._bus.next_deadline()
        return min([*deadlines, below] if below is not None else deadlines, default=None)

    def on_deadline(self, now: float) -> None:
        self._bus.on_deadline(now)


# --- the mute ---


class Swallower:
    """A terminal server that accepts everything and gives nothing."""

    def receive(self, data: bytes, now: float) -> None: ...

    def take_bursts(self) -> list[bytes]:
        return []

    def next_deadline(self) -> float | None:
        return None

    def on_deadline(self, now: float) -> None: ...


@pytest.mark.parametrize("kind", [PlcRig, BusRig])
@pytest.mark.slow
def test_a_port_that_swallows_everything_is_opened_anew_with_growing_pauses_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: type[PlcRig | BusRig]
) -> None:
    rig = kind(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(60)
    core = type(rig.new_bridge().core)  # type: ignore[attr-defined]
    mute = [True]

    def new_bridge() -> BridgePort:
        network = Swallower() if mute[0] else rig.network
        rig.lines.append(Line(network, rig.clock, 10 / 9600))
        return bridge_over(rig.lines[-1], core(), silence_s=60.0)

    rig.new_bridge = new_bridge  # type: ignore[method-assign]
    rig.restart()
    rig.collector.configure(provisioning())
    rig.opened = 0
    caplog.clear()
    caplog.set_level(logging.INFO)
    rig.run(3600)
    assert 5 <= rig.opened <= 40
    assert all(line.closed for line in rig.lines[2:-1])
    good, detail = rig.health[-1]
    assert not good
    assert "nothing was heard in" in detail
    assert len(events(caplog, "port.silent")) == 1
    assert len(events(caplog, "meter.left")) == len(rig.meters)  # once, and not with each opening
    assert not events(caplog, "meter.back")
    mute[0] = False
    rig.run(EVERY_S + 120)
    assert rig.health[-1] == (True, rig.port.name)
    assert all(runs == 108 for runs in rig.count().values())


def test_a_scan_that_is_cut_short_by_silence_comes_to_its_end(tmp_path: Path) -> None:
    rig = BusRig(tmp_path, addresses=(120,), port=replace(SLOW_BUS, scan=ScanConfig(1, 120, every_s=86_400)))

    def new_bridge() -> BridgePort:
        return bridge_over(Line(rig.network, rig.clock, 10 / 9600), TransparentLink(), silence_s=60.0)

    rig.new_bridge = new_bridge  # type: ignore[method-assign]
    rig.run(1800)
    assert set(rig.statuses()) == {"rs485-120"}


# --- the garbled ---


class Garbler:
    """A bus whose answers are made unreadable; `of` says which, by the address that was asked."""

    def __init__(self, bus: Bus, of: Callable[[int], bool]) -> None:
        self._bus = bus
        self._of = of
        self._asked = 0
        self.next_deadline = bus.next_deadline
        self.on_deadline = bus.on_deadline

    def receive(self, data: bytes, now: float) -> None:
        self._asked = data[3] >> 1
        self._bus.receive(data, now)

    def take_bursts(self) -> list[bytes]:
        bursts = self._bus.take_bursts()
        return [bytes(octet ^ 0x55 for octet in burst) for burst in bursts] if self._of(self._asked) else bursts


def garbled_rig(tmp_path: Path, of: Callable[[int], bool]) -> BusRig:
    rig = BusRig(tmp_path, port=SLOW_BUS)
    network = Garbler(rig.network, of)
    rig.new_bridge = lambda: bridge_over(Line(network, rig.clock, 10 / 9600), TransparentLink())  # type: ignore[method-assign]
    return rig


@pytest.mark.slow
def test_a_line_that_answers_with_garbage_alone_is_said_to_be_set_up_wrongly_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = [True]
    rig = garbled_rig(tmp_path, lambda _: wrong[0])
    rig.collector.configure(provisioning())
    rig.run(3 * 3600)
    text = "bytes are heard that are no HDLC frames: baud rate or parity?"
    assert rig.health[-1] == (True, f"rs485 (no meter to prove it: {text})")  # none was ever known here
    assert events(caplog, "port.garbage") == [f"port rs485: {text}"]
    wrong[0] = False
    rig.run(EVERY_S)
    assert rig.health[-1] == (True, "rs485")
    assert len(rig.count()) >= 2


def test_garbage_on_a_port_whose_meters_are_known_makes_it_unhealthy(tmp_path: Path) -> None:
    wrong = [False]
    rig = garbled_rig(tmp_path, lambda _: wrong[0])
    rig.collector.configure(provisioning())
    rig.run(60)
    wrong[0] = True
    rig.restart()
    rig.collector.configure(provisioning())
    rig.run(120)
    assert rig.health[-1] == (False, "rs485: bytes are heard that are no HDLC frames: baud rate or parity?")


def test_garbage_at_one_address_is_told_of_that_address_and_not_of_the_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [0]
    rig = garbled_rig(tmp_path, lambda address: address == bad[0])
    rig.collector.configure(provisioning())
    rig.run(60)
    bad[0] = 19
    rig.run(2 * EVERY_S)
    assert rig.health[-1] == (True, "rs485")
    assert not events(caplog, "port.garbage")
    assert events(caplog, "port.address.shared") == [
        "port rs485: what answers at address 19 is garbled: two meters there, or a damaged line?"
    ]
    failing = next(meter for meter in rig.collector.meters() if meter.address == 19)
    assert "two meters there" in failing.last_error


def test_a_base_node_at_another_speed_is_told_from_one_that_is_silent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = PlcRig(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(30)
    rig.restart()
    whole = rig.network.take_bursts
    rig.network.take_bursts = lambda: [bytes(o ^ 0x55 for o in b) for b in whole()]  # type: ignore[method-assign]
    rig.run(300)
    good, detail = rig.health[-1]
    assert not good
    assert "the base node has not answered" in detail
    assert detail.endswith("bytes are heard that are no prime-usi frames: baud rate or parity?")
    assert len(events(caplog, "port.garbage")) == 1


# --- the echo ---


class EchoingLine:
    """Two wires whose far end is open: everything comes back, and nothing else."""

    def __init__(self) -> None:
        self._bursts: list[bytes] = []

    def receive(self, data: bytes, now: float) -> None:
        del now
        self._bursts.append(data)

    def take_bursts(self) -> list[bytes]:
        taken, self._bursts = self._bursts, []
        return taken

    def next_deadline(self) -> float | None:
        return None

    def on_deadline(self, now: float) -> None: ...


@pytest.mark.slow
def test_a_line_that_gives_nothing_but_the_echo_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rig = BusRig(tmp_path, port=SLOW_BUS)
    lines: list[EchoingLine | Bus] = [EchoingLine()]
    rig.new_bridge = lambda: bridge_over(Line(lines[0], rig.clock, 10 / 9600), TransparentLink())  # type: ignore[method-assign]
    rig.collector.configure(provisioning())
    rig.run(3600)
    text = "what is sent comes back, and nothing else is heard: an adapter that echoes, with no meter behind it?"
    assert rig.health[-1] == (True, f"rs485 (no meter to prove it: {text})")
    assert events(caplog, "port.echo") == [f"port rs485: {text}"]
    lines[0] = rig.network
    rig.restart()
    rig.collector.configure(provisioning())
    rig.run(EVERY_S)
    assert rig.health[-1] == (True, "rs485")


# --- two under one address ---


def shared_address(rig: BusRig, turns: bool) -> None:
    """Put a second meter at the first one's address: both answer, or, when they take `turns`, one by one."""
    twin = Station(SimMeter(99, ROWS, 3, PASSWORD), 17, 128, 1)
    if not turns:
        rig.network.stations.append(twin)
        return
    stations = rig.network.stations
    both = [stations[0], twin]
    whole = rig.network.receive

    def receive(data: bytes, now: float) -> None:
        decoder = HdlcDecoder()
        decoder.feed(data)
        item = decoder.next()
        if isinstance(item, HdlcFrame) and item.control & ~0x10 == 0x83 and data[3] >> 1 == 17:  # SNRM
            both.reverse()
            stations[0] = both[0]
        whole(data, now)

    rig.network.receive = receive  # type: ignore[method-assign]


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.slow
def test_two_meters_that_answer_to_one_address_are_named_as_such_once_and_cost_no_endless_visits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, turns: bool
) -> None:
    rig = BusRig(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(60)
    shared_address(rig, turns)
    bridges = timed(rig)
    rig.lines[-1].broken = True
    rig.run(4 * EVERY_S)
    said = events(caplog, "port.address.shared")
    expected = "two meters answer at address 17"
    if turns:
        expected += f": {' and '.join(sorted((rig.meters[0].id, SimMeter(99, ROWS, 3, PASSWORD).id)))}"
    assert said == [f"port rs485: {expected}"]
    assert bridges[0].line_s[17] < 4 * EVERY_S / 10
    assert rig.count()[rig.meters[1].id, FIRST_RUN + 3 * EVERY_S] == 108


def test_values_that_may_be_of_either_of_two_meters_are_of_neither(tmp_path: Path) -> None:
    """Which of two is the first to answer is chance, for each question: what was stored was of one name and of both."""
    rig = BusRig(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(60)
    before = len(rig.records())
    twin = Station(SimMeter(99, ROWS, 3, PASSWORD), 17, 128, 1)
    stations, whole = rig.network.stations, rig.network.receive
    stations.insert(0, twin)
    chance = random.Random(5)

    def receive(data: bytes, now: float) -> None:
        stations.sort(key=lambda _station: chance.random())
        whole(data, now)

    rig.network.receive = receive  # type: ignore[method-assign]
    rig.run(3 * EVERY_S)
    both = {rig.meters[0].id, twin.meter.id}
    assert [record for record in rig.records()[before:] if record["meter"] in both] == []
    (status,) = [meter for meter in rig.collector.meters() if meter.address == 17 and meter.state != "left"]
    assert (status.state, "two meters answer at address 17" in status.last_error) == ("failing", True)
    assert {(gap.meter, str(gap.reason)) for gap, _ in rig.collector.tasks.gaps()} <= {
        (meter, reason) for meter in both for reason in ("meter-failing", "meter-absent")
    }
    assert rig.count()[rig.meters[1].id, FIRST_RUN + 2 * EVERY_S] == 108
    rig.orders.submit(Request("o1", "ping", [status.meter_id], "t"))
    rig.run(30)
    (found,) = [order["meters"] for order in rig.orders.orders()]
    assert isinstance(found, list)
    assert (found[0]["state"], found[0]["error"]) == ("not reached", "two meters answer at address 17")


# --- a port where no meter was ever known ---


def test_a_bus_without_any_meter_is_excused_and_one_whose_meter_is_gone_is_not(tmp_path: Path) -> None:
    rig = BusRig(tmp_path, addresses=(17,))
    meter = rig.meters[0]
    rig.network.command({"cmd": "leave", "meter": meter.id}, rig.clock.now)
    rig.collector.configure(provisioning())
    rig.run(30)
    assert rig.health[0] == (False, "rs485: not open yet")
    assert rig.health[-1] == (True, "rs485 (no meter to prove it: open, nothing heard yet)")
    rig.network.command({"cmd": "join", "meter": meter.id}, rig.clock.now)
    rig.run(900)
    assert rig.health[-1] == (True, "rs485")
    rig.network.command({"cmd": "leave", "meter": meter.id}, rig.clock.now)
    rig.restart()
    rig.collector.configure(provisioning())
    rig.run(300)
    assert rig.health[-1] == (False, "rs485: open, nothing heard yet")


@pytest.mark.parametrize("kind", [PlcRig, BusRig])
def test_a_port_that_cannot_be_opened_is_excused_where_no_meter_was_ever_known(
    tmp_path: Path, kind: type[PlcRig | BusRig]
) -> None:
    rig = kind(tmp_path)
    rig.open_error = "no such device"
    rig.run(60)
    assert rig.health[-1] == (True, f"{rig.port.name} (no meter to prove it: no such device)")


def test_a_silent_base_node_is_excused_where_no_meter_was_ever_known_but_not_before_it_is_given_up(
    tmp_path: Path,
) -> None:
    rig = PlcRig(tmp_path, meters=0)
    rig.network.receive = lambda data, now: None  # type: ignore[method-assign]
    rig.run(10)
    assert rig.health[-1] == (False, "plc0: open, nothing heard yet")
    rig.run(120)
    assert rig.health[-1][0] is True
    assert "the base node has not answered" in rig.health[-1][1]


def test_a_bus_with_meters_and_without_tasks_is_satisfied_until_there_are_tasks(tmp_path: Path) -> None:
    rig = BusRig(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(60)
    for meter in rig.meters:
        rig.network.command({"cmd": "leave", "meter": meter.id}, rig.clock.now)
    rig.restart()
    rig.run(30)
    assert rig.health[-1][0] is True
    rig.collector.configure(provisioning())
    rig.run(10)
    assert rig.health[-1] == (False, "rs485: open, nothing heard yet")
