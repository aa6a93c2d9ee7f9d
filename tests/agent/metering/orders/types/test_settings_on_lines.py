"""Orders in several steps over simulated lines: limiter, clock parameters, display, tariff, special days."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.metering.orders.order_book import Request
from dlms import axdr
from dlms.axdr import Data
from dlms.codes import DataAccessResult
from dlms.cosem.obis import AttributeRef, Obis
from dlms.server.control import Limiter
from dlms.server.objects import CosemObject
from tests.agent.metering.orders.test_orders_on_lines import ended, named, order
from tests.agent.metering.orders.types.test_types import TARIFF
from tests.agent.metering.test_collector import BusRig, PlcRig, Rig, provisioning
from tests.sim.meters import SimMeter

POWER = AttributeRef.parse("3/1.0.1.7.0.255/2")
LIMITER = Obis.parse("0.0.17.0.0.255")
SCRIPTS = Obis.parse("0.0.10.0.106.255")
DISPLAY = "0.0.21.0.1.255"

RIGS: list[Callable[[Path], Rig]] = [PlcRig, BusRig]


@pytest.fixture(params=RIGS, ids=["prime", "bus"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made = request.param(tmp_path)
    named(made)
    return made


def limiter(meter: SimMeter) -> Limiter:
    made = Limiter(meter.server, LIMITER, POWER, axdr.u32(3000), SCRIPTS)
    meter.server.add(made.item)
    return made


def counted(item: CosemObject) -> list[tuple[str, int]]:
    """What is done to an object from here on: ("set", attribute) and ("call", method)."""
    done: list[tuple[str, int]] = []

    def noting(what: tuple[str, int], inner: Any) -> Any:
        def call(value: Data | None) -> Any:
            done.append(what)
            return inner(value)

        return call

    item.writers = {number: noting(("set", number), inner) for number, inner in item.writers.items()}
    item.methods = {number: noting(("call", number), inner) for number, inner in item.methods.items()}
    return done


# --- limiter, clock parameters, display ---


@pytest.mark.slow
def test_a_limiter_is_set_in_the_types_of_the_meter_and_read_back(rig: Any) -> None:
    item = limiter(rig.meters[0]).item
    done = counted(item)
    wanted: dict[str, Any] = {
        "threshold_normal": 4600,
        "threshold_emergency": 1000,
        "min_over_duration_s": 30,
        "emergency_profile": {"id": 3, "from": "2027-01-01T00:00", "duration_s": 3600},
        "emergency_groups": [3, 4],
    }
    (result,) = order(rig, "limiter", rig.meters[0], **wanted)
    assert (result["state"], result["error"]) == ("done", "")
    assert done == [("set", 6), ("set", 4), ("set", 5), ("set", 9), ("set", 8)]
    assert item.get(4, None) == axdr.u32(4600)
    assert item.get(9, None) == axdr.array([axdr.u16(3), axdr.u16(4)])
    start = axdr.octets(bytes.fromhex("07eb010105000000008000ff"))
    assert item.get(8, None) == axdr.structure(axdr.u16(3), start, axdr.u32(3600))
    rows = {row["code"]: (row["before"], row["written"], row["after"]) for row in result["value"]}
    assert rows["71/0.0.17.0.0.255/4"] == (["u32", 3000], True, ["u32", 4600])
    done.clear()
    (result,) = order(rig, "limiter", rig.meters[0], number=2, **wanted)
    assert (result["state"], done) == ("done", []), "what is there already is not sent"
    assert {row["written"] for row in result["value"]} == {False}


def test_of_a_limiter_nothing_is_sent_when_one_value_cannot_be_had_there(rig: Any) -> None:
    done = counted(limiter(rig.meters[0]).item)
    (result,) = order(rig, "limiter", rig.meters[0], min_over_duration_s=9, threshold_normal=2**32)
    assert (result["state"], done) == ("refused", [])
    (result,) = order(rig, "limiter", rig.meters[0], number=2, obis="0.0.17.0.9.255", threshold_normal=1)
    assert (result["state"], result["error"]) == ("refused", "71/0.0.17.0.9.255/4: object-undefined")


def test_the_step_that_the_meter_refuses_is_named_and_what_was_written_before_it(rig: Any) -> None:
    item = limiter(rig.meters[0]).item
    item.writers[4] = lambda _value: DataAccessResult.READ_WRITE_DENIED
    (result,) = order(rig, "limiter", rig.meters[0], min_over_duration_s=30, threshold_normal=1)
    assert (result["state"], result["error"]) == ("refused", "71/0.0.17.0.0.255/4: read-write-denied")
    assert [row["written"] for row in result["value"]] == [True, False]


def test_a_meter_that_accepts_and_does_not_keep_it_is_an_alarm(rig: Any) -> None:
    item = limiter(rig.meters[0]).item
    item.writers[4] = lambda _value: DataAccessResult.SUCCESS
    (result,) = order(rig, "limiter", rig.meters[0], threshold_normal=1)
    assert result["state"] == "done"
    assert result["error"] == "the meter accepted it and holds something else in 71/0.0.17.0.0.255/4"


def test_clock_parameters_are_written(rig: Any) -> None:
    clock = rig.meters[0].clock
    (result,) = order(
        rig, "clock-parameters", rig.meters[0], time_zone_min=-60, dst_begin="****-03-LDT02:00", dst_enabled=True
    )
    assert (result["state"], result["error"]) == ("done", "")
    assert clock.item.get(3, None) == axdr.i16(-60)
    assert clock.item.get(5, None) == axdr.octets(bytes.fromhex("ffff03feff020000008000ff"))
    assert clock.item.get(8, None) == axdr.boolean(value=True)


def test_a_display_list_is_the_columns_of_a_readout_profile(rig: Any) -> None:
    held: list[Data] = [axdr.array([])]
    item = CosemObject(7, Obis.parse(DISPLAY), version=1, readers={3: lambda _selection: held[-1]})

    def write(value: Data) -> DataAccessResult:
        held.append(value)
        return DataAccessResult.SUCCESS

    item.writers = {3: write}
    rig.meters[0].server.add(item)
    captures = ["3/1.0.1.8.0.255/2", {"code": "1/0.0.96.1.0.255/2", "index": 1}]
    (result,) = order(rig, "display", rig.meters[0], captures=captures)
    assert (result["state"], result["error"]) == ("done", "")
    columns = [(c.members()[0].integer(), str(Obis(c.members()[1].octets()))) for c in held[-1].members()]
    assert columns == [(3, "1.0.1.8.0.255"), (1, "0.0.96.1.0.255")]
    assert held[-1].members()[1].members()[3] == axdr.u16(1)


# --- tariff ---


def test_a_calendar_is_written_compared_and_activated(rig: Any) -> None:
    calendar = rig.meters[0].dynamic.calendar
    done = counted(calendar.item)
    (result,) = order(rig, "tariff", rig.meters[0], **TARIFF)
    assert (result["state"], result["error"], result["value"]["active"]) == ("done", "", True)
    assert done == [("set", 6), ("set", 7), ("set", 8), ("set", 9), ("call", 1)]
    assert calendar.attributes[2] == axdr.octets(b"2027A")
    (season,) = calendar.attributes[3].members()
    assert [member.value for member in season.members()] == [b"S1", bytes.fromhex("ffff0101ff000000008000ff"), b"W1"]
    week = calendar.attributes[4].members()[0].members()
    assert [day.integer() for day in week[1:]] == [1, 1, 1, 1, 1, 2, 2]
    action = calendar.attributes[5].members()[0].members()[1].members()[1].members()
    assert [member.value for member in action] == [b"\x06\0\0\0", Obis.parse("0.0.10.0.100.255").code, 1]
    done.clear()
    (result,) = order(rig, "tariff", rig.meters[0], number=2, **TARIFF)
    assert (result["state"], result["value"], done) == ("done", {"active": True, "already": True}, [])


def test_a_calendar_is_left_to_the_meter_until_its_time(rig: Any) -> None:
    calendar = rig.meters[0].dynamic.calendar
    done = counted(calendar.item)
    (result,) = order(rig, "tariff", rig.meters[0], **TARIFF | {"activate": "2027-01-01T00:00"})
    assert (result["state"], result["value"]["active"], calendar.activations) == ("done", False, 0)
    assert calendar.attributes[10] == axdr.octets(bytes.fromhex("07eb010105000000008000ff"))
    assert done[-1] == ("set", 10)
    done.clear()
    # The next calendar: the time that is set would activate half of it.
    (result,) = order(rig, "tariff", rig.meters[0], number=2, **TARIFF | {"name": "2027B", "activate": "never"})
    assert (result["state"], done) == ("done", [("set", 10), ("set", 6)])
    assert calendar.attributes[10] == axdr.octets(bytes.fromhex("ffffffffffffffffff8000ff"))


def test_a_calendar_that_the_meter_does_not_keep_is_not_activated(rig: Any) -> None:
    calendar = rig.meters[0].dynamic.calendar
    calendar.item.writers[8] = lambda _value: DataAccessResult.SUCCESS
    done = counted(calendar.item)
    (result,) = order(rig, "tariff", rig.meters[0], **TARIFF)
    assert (result["state"], calendar.activations) == ("refused", 0)
    assert result["error"] == "not activated: the meter holds something else in 20/0.0.13.0.0.255/8"
    assert ("call", 1) not in done


@pytest.mark.parametrize("at", range(1, 6))
@pytest.mark.slow
def test_a_tariff_order_cut_at_any_step_is_brought_to_its_end_and_activates_once(tmp_path: Path, at: int) -> None:
    """The daemon dies when the meter has carried out request number `at` and its answer is on its way."""
    rig = PlcRig(tmp_path, meters=1)
    named(rig)
    calendar = rig.meters[0].dynamic.calendar
    done = counted(calendar.item)
    rig.orders.submit(Request("o1", "tariff", [rig.meters[0].id], "t", TARIFF))
    rig.run(60, lambda: len(done) >= at)
    assert len(done) == at
    rig.restart()
    found: Any = rig.orders.describe("o1")
    assert found["meters"][0]["state"] == "partly done"
    assert found["meters"][0]["progress"]["step"] in ((at, at + 1) if at < 5 else (1,))
    rig.collector.configure(provisioning())
    (result,) = ended(rig, "o1", 200)
    assert (result["state"], result["error"], result["value"]["active"]) == ("done", "", True)
    assert calendar.activations == 1
    assert sorted(done) == [("call", 1), ("set", 6), ("set", 7), ("set", 8), ("set", 9)], "each once"


# --- special days ---


def test_special_days_are_inserted_deleted_and_replaced(rig: Any) -> None:
    days = rig.meters[0].dynamic.special_days
    done = counted(days.item)
    entries = [{"index": 1, "date": "****-12-25", "day": 2}, {"index": 2, "date": "2027-05-01", "day": 3}]
    (result,) = order(rig, "special-days", rig.meters[0], insert=entries)
    assert (result["state"], result["error"], done) == ("done", "", [("call", 1), ("call", 1)])
    assert [member.value for member in days.entries[2].members()] == [2, bytes.fromhex("07eb050106"), 3]
    done.clear()
    (result,) = order(rig, "special-days", rig.meters[0], number=2, insert=entries, delete=[7])
    assert (result["state"], done) == ("done", [])
    (result,) = order(rig, "special-days", rig.meters[0], number=3, delete=[1])
    assert (result["state"], sorted(days.entries)) == ("done", [2])
    (result,) = order(rig, "special-days", rig.meters[0], number=4, replace=entries[:1])
    assert (result["state"], result["error"], sorted(days.entries)) == ("done", "", [1])


def test_what_was_partly_done_and_never_comes_to_its_end_is_unknown(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    named(rig)
    done = counted(rig.meters[0].dynamic.special_days.item)
    entries = [{"index": index, "date": f"2027-05-{index:02}", "day": 3} for index in range(1, 9)]
    rig.orders.submit(Request("o1", "special-days", [rig.meters[0].id], "t", {"insert": entries}, deadline_s=60))
    rig.run(60, lambda: len(done) >= 3)
    rig.network.faults.mute = frozenset({rig.meters[0].id})
    (result,) = ended(rig, "o1", 200)
    assert result["state"] == "unknown"
    assert result["progress"]["of"] == 8
    assert result["progress"]["step"] in (3, 4)
