"""A good line and a meter that answers errors: what is asked again, what is said, what counts as read."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from agent.metering.visit.shortfall import Shortfall
from agent.settings.provisioning import ReadingTask
from dlms import axdr
from dlms.client.events import ItemError, Value
from dlms.codes import DataAccessResult
from dlms.cosem.obis import Obis
from dlms.xdlms.apdu.common import AccessError, Result
from tests.agent.metering.test_collector import EVERY_S, PASSWORD, PLC, ROWS, PlcRig, Rig, provisioning
from tests.sim.meters import SimMeter
from tests.sim.plc_network import BaseNode

ENERGY = "1.0.1.8.0.255"
GOOD = Value(axdr.u32(1))


class Failing(SimMeter):
    """Answers so many times with an error for one object, or for all but its name."""

    code = DataAccessResult.TEMPORARY_FAILURE
    only = ""
    times = 0

    def _value(self, class_id: int, obis: Obis, attribute: int) -> axdr.Data | Result:
        if self.times > 0 and str(obis) == (self.only or str(obis)) and str(obis) != "0.0.42.0.0.255":
            self.times -= 1
            return AccessError(self.code)
        return super()._value(class_id, obis, attribute)


class FailingRig(PlcRig):
    def __init__(self, tmp_path: Path, code: DataAccessResult, only: str, times: int) -> None:
        made = [Failing(serial, ROWS, 3, PASSWORD) for serial in (1, 2)]
        made[0].code, made[0].only, made[0].times = code, only, times
        self.failing, self.meters = made[0], list[SimMeter](made)
        Rig.__init__(self, tmp_path, PLC, None)
        self.network = BaseNode(self.meters, start=self.clock.now, join_interval_s=0.5, latency_s=0.05)
        self.collector.configure(provisioning())

    def result(self) -> str:
        return self.collector.task_status("t1").last_result

    def errors(self) -> set[object]:
        return {record["error"] for record in self.records() if record["meter"] == self.meters[0].id}


@pytest.mark.parametrize("times", [1, 2])
def test_what_fails_for_a_moment_is_asked_again_in_the_visit(tmp_path: Path, times: int) -> None:
    rig = FailingRig(tmp_path, DataAccessResult.TEMPORARY_FAILURE, ENERGY, times)
    rig.run(EVERY_S - 100)
    assert (rig.result(), rig.errors()) == ("2 of 2 read", {None})


def test_what_fails_in_one_visit_is_asked_in_the_next(tmp_path: Path) -> None:
    rig = FailingRig(tmp_path, DataAccessResult.HARDWARE_FAULT, ENERGY, 4)
    rig.run(EVERY_S - 100)
    assert (rig.result(), rig.errors()) == ("2 of 2 read", {None})


def test_what_fails_for_ever_is_stored_as_an_error_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rig = FailingRig(tmp_path, DataAccessResult.HARDWARE_FAULT, ENERGY, 10**6)
    caplog.set_level(logging.INFO)
    rig.run(2 * EVERY_S - 100)
    assert rig.result() == "2 of 2 read, 1 with errors"
    assert rig.errors() == {None, "hardware-fault"}
    (status,) = [meter for meter in rig.collector.meters() if meter.meter_id == rig.meters[0].id]
    assert (status.state, status.last_error) == ("read", "1 of 108 values: hardware-fault")
    rig.failing.times = 0
    rig.run(EVERY_S)
    assert rig.result() == "2 of 2 read"
    events = [getattr(record, "event", "") for record in caplog.records]
    assert (events.count("meter.flawed"), events.count("meter.unflawed")) == (1, 1)


def test_errors_are_those_of_the_task_that_has_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two tasks are read in one visit every second time; the one without errors has none, nothing comes and goes."""
    rig = FailingRig(tmp_path, DataAccessResult.READ_WRITE_DENIED, ENERGY, 10**6)
    clean, denied = (
        ReadingTask("clean", EVERY_S // 2, "", codes="3/1.0.2.8.0.255/2"),
        ReadingTask("denied", EVERY_S, "", codes=f"3/{ENERGY}/2,3/1.0.2.8.0.255/2"),
    )
    rig.collector.configure(replace(provisioning(), tasks=(clean, denied)))
    caplog.set_level(logging.INFO)
    seen = set()
    for _ in range(6):
        rig.run(EVERY_S / 2)
        seen |= {meter.last_error for meter in rig.collector.meters() if meter.meter_id == rig.meters[0].id}
        assert rig.collector.task_status("clean").last_result == "2 of 2 read"
        assert rig.collector.task_status("denied").last_result == "2 of 2 read, 1 with errors"
    assert seen == {"1 of 2 values: read-write-denied"}
    events = [getattr(record, "event", "") for record in caplog.records]
    assert (events.count("meter.flawed"), events.count("meter.unflawed")) == (1, 0)
    rig.collector.configure(replace(provisioning(), tasks=(clean,)))
    rig.run(EVERY_S)
    (status,) = [meter for meter in rig.collector.meters() if meter.meter_id == rig.meters[0].id]
    assert status.last_error == "", "a task that is gone has no errors"


@pytest.mark.parametrize("code", [DataAccessResult.READ_WRITE_DENIED, DataAccessResult.HARDWARE_FAULT])
def test_a_meter_that_gives_next_to_nothing_is_failing_and_its_slots_are_listed(
    tmp_path: Path, code: DataAccessResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.metering.visit.shortfall.GOOD_MIN", 0.2)
    rig = FailingRig(tmp_path, code, "", 10**6)
    rig.run(2 * EVERY_S - 100)
    assert rig.result() == "1 of 2 read, 1 failing"
    assert rig.statuses()[rig.meters[0].id] == "failing"
    gaps = {(gap.meter, str(gap.reason)) for gap, _ in rig.collector.tasks.gaps()}
    assert gaps == {(rig.meters[0].id, "meter-failing")}


@pytest.mark.parametrize(
    ("results", "profiles", "text", "passing", "hopeless"),
    [
        ([GOOD, ItemError("object-undefined")], [], "", False, False),
        ([ItemError("object-undefined")], [], "it has nothing of what is to be read", False, False),
        ([], [("1.0.99.1.0.255", "object-unavailable")], "it has nothing of what is to be read", False, False),
        ([GOOD], [("0.0.99.98.3.255", "object-unavailable")], "", False, False),
        ([], [("0.0.99.98.0.255", ""), ("0.0.99.98.3.255", "object-undefined")], "", False, False),
        (
            [GOOD, ItemError("temporary-failure")],
            [("1.0.99.1.0.255", "")],
            "1 of 3 values: temporary-failure",
            True,
            False,
        ),
        ([ItemError("read-write-denied")] * 3, [], "3 of 3 values: read-write-denied", False, True),
        ([GOOD] + [ItemError("read-write-denied")] * 9, [], "9 of 10 values: read-write-denied", False, False),
        ([GOOD] + [ItemError("read-write-denied")] * 10, [], "10 of 11 values: read-write-denied", False, True),
        ([], [("1.0.99.1.0.255", "other-reason")], "profile 1.0.99.1.0.255: other-reason", False, True),
    ],
)
def test_errors_are_sorted(
    results: list[Value | ItemError], profiles: list[tuple[str, str]], text: str, passing: bool, hopeless: bool
) -> None:
    short = Shortfall.of(results, profiles)
    assert (short.text, short.passing, short.hopeless) == (text, passing, hopeless)
