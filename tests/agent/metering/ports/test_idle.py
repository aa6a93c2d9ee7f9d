"""A port with nothing to do sleeps, and whatever gives it something to do ends that sleep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.metering.orders.order_book import Request
from agent.metering.ports.port_state import Bridge as BridgePort
from agent.metering.ports.portreader import LOOK_IDLE_S
from agent.metering.ports.probe import LOOK_EVERY_S
from agent.metering.visit.visit_memory import Retries
from agent.settings.provisioning import Provisioning
from dlms.link.readable import readable
from plc.prime.link import PlcLink
from plc.transparent import TransparentLink
from tests.agent.metering.lines import Line, bridge_over
from tests.agent.metering.test_collector import BUS, EVERY_S, BusRig, PlcRig, metering, provisioning, task
from tests.agent.virtual import VirtualClock

RUN = 1_800_000_000
REST_S = 600.0  # from the end of the reading until well before the next run
WAKES_MAX = REST_S / LOOK_IDLE_S + REST_S / LOOK_EVERY_S + 5  # looks at meters, at silent addresses, and the rest


class CountingLine(Line):
    """Knows how long it was waited on, and what may end the wait."""

    waits = 0
    wake: list[int]

    def read(self, wait_s: float) -> bytes:
        self.waits += 1
        return super().read(wait_s)

    def wake_by(self, descriptor: int) -> None:
        self.wake = [descriptor]

    @property
    def woken(self) -> bool:
        return bool(readable(self.wake, 0))


class IdlePlc(PlcRig):
    def new_bridge(self) -> BridgePort:
        self.line = CountingLine(self.network, self.clock, octet_s=10 / 115_200)
        return bridge_over(self.line, PlcLink())


class IdleBus(BusRig):
    def new_bridge(self) -> BridgePort:
        self.line = CountingLine(self.network, self.clock, octet_s=10 / 9600)
        return bridge_over(self.line, TransparentLink())


def at_rest(rig: IdlePlc | IdleBus) -> None:
    """Everything was read, and nobody has woken the reader since it looked."""
    rig.collector.configure(provisioning())
    rig.run(200)
    assert set(rig.count().values()) == {108}
    rig.reader._wakeup.clear()
    assert not rig.line.woken


@pytest.mark.parametrize("kind", [IdlePlc, IdleBus])
def test_a_port_whose_meters_were_read_sleeps_until_the_next_run(tmp_path: Path, kind: type[IdlePlc | IdleBus]) -> None:
    rig = kind(tmp_path)
    at_rest(rig)
    before = rig.line.waits
    rig.run(REST_S)
    asked = (BUS.scan.last - BUS.scan.first + 1) * 3 if kind is IdleBus and BUS.scan else 0  # of a scan that falls due
    assert rig.line.waits - before <= WAKES_MAX + asked
    rig.run(EVERY_S - REST_S)
    received = [float(str(record["received"])) for record in rig.records() if record["run"] == RUN + EVERY_S]
    assert received
    assert min(received) < RUN + EVERY_S + 1.0  # it began on time


def test_a_meter_that_rests_after_a_failure_is_asked_again_on_time(tmp_path: Path) -> None:
    clock = VirtualClock()
    retries = Retries(metering(tmp_path), clock, lambda: 1.0)
    assert retries.next_end(clock.now) == float("inf")
    rig = IdlePlc(tmp_path)
    rig.run(5)
    one, other, _ = rig.registry.present("plc0")
    retries.note(one, [])
    clock.advance(3.0)
    retries.note(other, [])
    assert retries.next_end(clock.now) == pytest.approx(clock.now + 7.0)
    clock.advance(8.0)
    assert retries.next_end(clock.now) == pytest.approx(clock.now + 2.0)
    retries.reset(other)
    assert retries.next_end(clock.now) == float("inf")


def order(rig: IdlePlc) -> None:
    rig.orders.submit(Request("o1", "ping", [rig.meters[0].id], "test"))


def new_task(rig: IdlePlc) -> None:
    rig.collector.configure(provisioning(task(), task("t2", 60)))


def new_lists(rig: IdlePlc) -> None:
    rig.collector.software_changed()


def forgotten_meter(rig: IdlePlc) -> None:
    assert rig.collector.remove(rig.meters[0].id)


def clock_set(rig: IdlePlc) -> None:
    rig.clock.wall_offset += EVERY_S
    rig.collector.tick()


def clock_doubted(rig: IdlePlc) -> None:
    rig.clock.is_trusted = False
    rig.collector._started = rig.clock.now
    rig.collector.tick()


@pytest.mark.parametrize("what", [order, new_task, new_lists, forgotten_meter, clock_set, clock_doubted])
def test_what_comes_from_elsewhere_ends_the_sleep_of_the_port(tmp_path: Path, what: Callable[[IdlePlc], None]) -> None:
    rig = IdlePlc(tmp_path)
    at_rest(rig)
    rig.collector.tick()
    assert not rig.line.woken
    what(rig)
    assert rig.line.woken


def test_a_clock_that_runs_on_wakes_nobody(tmp_path: Path) -> None:
    rig = IdlePlc(tmp_path)
    at_rest(rig)
    for _ in range(100):
        rig.clock.advance(5.0)
        rig.clock.wall_offset += 0.01  # a clock is being slewed
        rig.collector.tick()
    assert not rig.line.woken


def test_an_order_is_carried_out_in_the_round_after_the_wake(tmp_path: Path) -> None:
    rig = IdlePlc(tmp_path)
    at_rest(rig)
    began = rig.clock.now
    order(rig)
    rig.run(30, until=lambda: bool((found := rig.orders.describe("o1")) and found["over"]))
    assert rig.clock.now - began < 2.0


@pytest.mark.slow
def test_a_wake_has_the_port_look_for_what_its_meters_owe(tmp_path: Path) -> None:
    rig = IdlePlc(tmp_path)
    at_rest(rig)
    rig.clock.wall_offset += EVERY_S  # the time of the next run has come, between two looks
    rig.collector.tick()
    began = rig.clock.now
    rig.run(30, until=lambda: any(record["run"] == RUN + EVERY_S for record in rig.records()))
    assert rig.clock.now - began < 5.0


def test_the_main_thread_is_told_to_look_while_a_port_is_busy_and_not_at_rest(tmp_path: Path) -> None:
    rig = IdlePlc(tmp_path)
    hurried: list[float] = []
    rig.reader._deps = type(rig.reader._deps)(
        **{name: getattr(rig.reader._deps, name) for name in rig.reader._deps.__slots__}
        | {"busy": lambda: hurried.append(rig.clock.now)}
    )
    at_rest(rig)
    assert hurried
    count = len(hurried)
    rig.run(300)
    assert len(hurried) == count


@pytest.mark.parametrize(("trusted", "asks_s"), [(True, None), (False, 1.0)])
def test_ticks_are_wanted_each_second_only_while_the_time_is_waited_for(
    tmp_path: Path, trusted: bool, asks_s: float | None
) -> None:
    rig = IdlePlc(tmp_path)
    rig.clock.is_trusted = trusted
    rig.collector.configure(Provisioning())
    assert rig.collector.tick() == (asks_s or 10.0)
    rig.clock.advance(200.0)
    assert rig.collector.tick() == 10.0
