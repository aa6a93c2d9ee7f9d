"""Orders over simulated lines in virtual time: what a meter is told, how often, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.metering.orders.order import OrderRefusedError
from agent.metering.orders.order_book import Request
from agent.metering.orders.targets import Targets
from dlms import axdr
from dlms.axdr import Data
from dlms.codes import ActionResult, DataAccessResult
from dlms.cosem.obis import Obis
from dlms.server.clock import ClockObject
from dlms.server.objects import CosemObject
from dlms.xdlms.apdu.common import ActionOutcome
from tests.agent.metering.test_collector import EVERY_S, BusRig, PlcRig, Rig, metering, provisioning
from tests.sim.meters import SimMeter

COUNTER = "0.0.96.50.0.255"
ENERGY = "3/1.0.1.8.0.255/2"
RUN = 1_800_000_000


class Counter:
    """An object that counts what is done to it."""

    def __init__(self, meter: SimMeter) -> None:
        self.written: list[Data] = []
        self.called: list[Data | None] = []
        item = CosemObject(1, Obis.parse(COUNTER), readers={2: lambda _selection: axdr.u16(len(self.written))})
        item.writers = {2: self._write}
        item.methods = {1: self._call}
        meter.server.add(item)

    def _write(self, value: Data) -> DataAccessResult:
        self.written.append(value)
        fits = value.tag == axdr.Tag.LONG_UNSIGNED
        return DataAccessResult.SUCCESS if fits else DataAccessResult.TYPE_UNMATCHED

    def _call(self, parameter: Data | None) -> ActionOutcome:
        self.called.append(parameter)
        return ActionOutcome(ActionResult.SUCCESS, axdr.u8(7))


def named(rig: Rig) -> None:
    """Read all meters once, so that they have told their names."""
    rig.collector.configure(provisioning())
    rig.run(60)
    assert {meter.id for meter in rig.meters} <= rig.registry.names()  # type: ignore[attr-defined]


def order(rig: Rig, kind: str, *meters: SimMeter, number: int = 1, seconds: float = 60, **parameters: Any) -> Any:
    """Ask, and wait for the end. Returns the results, per meter."""
    order_id = f"o{number}"
    rig.orders.submit(Request(order_id, kind, [meter.id for meter in meters], "test", parameters))
    return ended(rig, order_id, seconds)


def ended(rig: Rig, order_id: str, seconds: float = 60) -> Any:
    def over() -> bool:
        found = rig.orders.describe(order_id)
        return bool(found and found["over"])

    rig.run(seconds, over)
    found: Any = rig.orders.describe(order_id)
    return found["meters"]


RIGS: list[Callable[[Path], Rig]] = [PlcRig, BusRig]


@pytest.fixture(params=RIGS, ids=["prime", "bus"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made = request.param(tmp_path)
    named(made)
    return made


# --- names ---


def test_an_order_for_the_way_to_a_meter_is_for_that_meter(rig: Any) -> None:
    meter = next(known for known in rig.registry.known() if known.meter_id == rig.meters[0].id)
    rig.orders.submit(Request("o1", "ping", [meter.key], "test"))
    (result,) = ended(rig, "o1")
    assert (result["meter"], result["state"]) == (meter.meter_id, "done")
    assert rig.orders.describe("o1")["asked_for"] == [meter.key]


@pytest.mark.parametrize("kind", RIGS, ids=["prime", "bus"])
def test_an_order_for_a_meter_without_a_name_is_carried_out(kind: Callable[[Path], Rig], tmp_path: Path) -> None:
    rig: Any = kind(tmp_path)
    rig.run(60, lambda: bool(rig.registry.known()))
    (meter, *_) = rig.registry.known()
    assert not meter.named
    rig.orders.submit(Request("o1", "ping", [meter.key], "test"))
    rig.collector.configure(provisioning())
    (result,) = ended(rig, "o1")
    assert result["state"] == "done"
    rig.run(60)
    assert rig.registry.own_name(meter.key) == result["value"]["name"]


# --- kinds ---


def test_ping_says_who_answered(rig: Any) -> None:
    (result,) = order(rig, "ping", rig.meters[0])
    assert (result["state"], result["value"], result["attempts"]) == ("done", {"name": rig.meters[0].id}, 1)


@pytest.mark.slow
def test_read_gives_values_with_scaler_and_unit_and_the_meter_s_own_errors(rig: Any) -> None:
    meter = rig.meters[1]
    (result,) = order(rig, "read", meter, codes=[ENERGY, "3/1.0.99.99.99.255/2"])
    energy, nothing = result["value"]
    held = meter.records()[ENERGY]
    assert (energy["raw"], energy["tag"], energy["scaler"], energy["unit"]) == tuple(
        held[name] for name in ("raw", "tag", "scaler", "unit")
    )
    assert (nothing["error"], nothing["tag"]) == ("object-undefined", None)
    assert result["state"] == "done"


def test_a_read_of_which_nothing_is_there_is_refused_in_the_meter_s_words(rig: Any) -> None:
    (result,) = order(rig, "read", rig.meters[0], codes=["3/1.0.99.99.99.255/2"])
    assert (result["state"], result["error"]) == ("refused", "object-undefined")


def test_set_writes_once_and_a_refusal_is_the_meter_s(rig: Any) -> None:
    counter = Counter(rig.meters[0])
    (result,) = order(rig, "set", rig.meters[0], code=f"1/{COUNTER}/2", value=["u16", 5])
    assert (result["state"], counter.written) == ("done", [axdr.u16(5)])
    (result,) = order(rig, "set", rig.meters[0], number=2, code=f"1/{COUNTER}/2", value=["u8", 5])
    assert (result["state"], result["error"]) == ("refused", "type-unmatched")
    (result,) = order(rig, "set", rig.meters[0], number=3, code="1/0.0.96.51.0.255/2", value=["u8", 5])
    assert (result["state"], result["error"]) == ("refused", "object-undefined")
    assert len(counter.written) == 2


@pytest.mark.slow
def test_action_calls_once_and_says_what_was_returned(rig: Any) -> None:
    counter = Counter(rig.meters[0])
    (result,) = order(rig, "action", rig.meters[0], code=f"1/{COUNTER}/1", value=["struct", [["i8", 1], ["oct", "aa"]]])
    assert (result["state"], result["value"]) == ("done", ["u8", 7])
    assert counter.called == [axdr.structure(axdr.i8(1), axdr.octets(b"\xaa"))]


def test_disconnect_and_reconnect_say_what_became_of_the_output(rig: Any) -> None:
    meter = rig.meters[0]
    (result,) = order(rig, "disconnect", meter)
    assert (result["state"], result["value"]) == ("done", {"output_state": False, "control_state": 0})
    assert not meter.contactor.connected
    (result,) = order(rig, "reconnect", meter, number=2)
    assert (result["state"], result["value"]) == ("done", {"output_state": True, "control_state": 1})
    assert meter.contactor.connected
    meter.contactor.mode = 0
    (result,) = order(rig, "disconnect", meter, number=3)
    assert (result["state"], result["error"]) == ("refused", "read-write-denied")


def test_demand_reset_runs_the_script_of_the_end_of_the_billing_period(rig: Any) -> None:
    called: list[Data | None] = []

    def execute(parameter: Data | None) -> ActionOutcome:
        called.append(parameter)
        return ActionOutcome(ActionResult.SUCCESS)

    rig.meters[0].server.add(CosemObject(9, Obis.parse("0.0.10.0.1.255"), methods={1: execute}))
    (result,) = order(rig, "demand-reset", rig.meters[0])
    assert (result["state"], called) == ("done", [axdr.u16(1)])


@pytest.mark.parametrize(
    ("ahead_s", "set_it", "state", "left_s"),
    [
        (3, True, "done", 3),
        (60, False, "done", 60),
        (60, True, "done", 0),
        (-60, True, "done", 0),
        (700, True, "refused", 700),
        (700, False, "done", 700),
    ],
)
@pytest.mark.slow
def test_a_clock_is_set_between_the_limits_and_reported_beyond(
    rig: Any, ahead_s: float, set_it: bool, state: str, left_s: float
) -> None:
    clock = ClockObject(lambda: datetime.fromtimestamp(rig.clock.wall(), UTC))
    clock.offset = timedelta(seconds=ahead_s)
    rig.meters[0].server.add(clock.item)
    (result,) = order(rig, "clock", rig.meters[0], set=set_it, min_s=5, max_s=600)
    assert result["state"] == state
    assert result["value"]["deviation_s"] == pytest.approx(ahead_s, abs=1)
    assert result["value"]["set"] is (left_s == 0)
    assert clock.offset.total_seconds() == pytest.approx(left_s, abs=1)
    assert bool(result["error"]) is (abs(ahead_s) > 600)
    if left_s == 0:
        assert result["value"]["deviation_after_s"] == pytest.approx(0, abs=1)


def test_a_clock_is_not_compared_with_one_that_was_never_set(rig: Any) -> None:
    rig.clock.is_trusted = False
    (result,) = order(rig, "clock", rig.meters[0])
    assert (result["state"], result["error"]) == ("refused", "the concentrator's own clock is not set")


# --- at most once, and the right meter ---


def test_an_answer_that_is_lost_leaves_it_unknown_and_is_not_sent_again(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = rig.meters[0]
    counter = Counter(meter)

    def write(value: Data) -> DataAccessResult:
        # It hears no more, and the answer to this goes nowhere: what is on its way already is lost in the base node.
        rig.network.faults.mute = frozenset({meter.id})
        if isinstance(rig, PlcRig):
            monkeypatch.setattr(rig.network, "_send", lambda *_arguments: None)
        counter.written.append(value)
        return DataAccessResult.SUCCESS

    item = CosemObject(1, Obis.parse(COUNTER), writers={2: write})
    meter.server.add(item)
    (result,) = order(rig, "set", meter, code=f"1/{COUNTER}/2", value=["u16", 5], seconds=200)
    assert result["state"] == "unknown"
    assert len(counter.written) == 1


def test_a_process_that_dies_between_request_and_answer_says_unknown(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path)
    named(rig)
    counter = Counter(rig.meters[0])
    rig.orders.submit(Request("o1", "set", [rig.meters[0].id], "t", {"code": f"1/{COUNTER}/2", "value": ["u16", 5]}))

    def sent() -> bool:
        found: Any = rig.orders.describe("o1")
        return bool(found["meters"][0]["state"] == "sent")

    rig.run(30, sent)
    assert sent()
    rig.restart()
    rig.collector.configure(provisioning())
    rig.run(120)
    (result,) = ended(rig, "o1")
    assert result["state"] == "unknown"
    assert len(counter.written) <= 1


def test_a_meter_that_does_not_answer_is_not_reached_after_three_attempts(rig: Any) -> None:
    meter = rig.meters[0]
    counter = Counter(meter)
    rig.network.faults.mute = frozenset({meter.id})
    (result,) = order(rig, "set", meter, code=f"1/{COUNTER}/2", value=["u16", 5], seconds=290)
    assert (result["state"], result["attempts"], counter.written) == ("not reached", 3, [])
    assert result["error"]


def test_an_order_waits_for_its_meter_until_the_deadline(tmp_path: Path) -> None:
    rig = BusRig(tmp_path)
    named(rig)
    rig.registry.leave(next(meter.key for meter in rig.registry.present("rs485")))
    away = next(meter for meter in rig.meters if not any(m.meter_id == meter.id for m in rig.registry.present("rs485")))
    rig.network.faults.mute = frozenset({away.id})  # the scan does not find it either
    rig.orders.submit(Request("o1", "ping", [away.id], "t", deadline_s=20))
    (result,) = ended(rig, "o1")
    assert (result["state"], result["attempts"]) == ("not reached", 0)
    assert "not in the network" in result["error"]


def test_a_meter_that_is_not_on_the_whitelist_takes_no_order_and_is_in_no_group(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=2)
    named(rig)
    first, second = rig.meters
    targets = Targets(rig.registry, rig.collector.access)
    assert targets.meters("port:plc0") == sorted([first.id, second.id])
    rig.orders.submit(Request("before", "ping", [second.id], "t", deadline_s=30))
    listed = replace(provisioning(), whitelist=(first.id,), whitelist_enforced=True)
    rig.collector.configure(listed)
    with pytest.raises(OrderRefusedError, match=f"{second.id}: the meter is not on the whitelist"):
        rig.orders.submit(Request("o1", "ping", [first.id, second.id], "t"))
    assert targets.meters("port:plc0") == targets.meters("DCU*") == [first.id]
    (result,) = ended(rig, "before")
    assert (result["state"], result["error"]) == ("not reached", "the meter is not on the whitelist")


def test_an_order_whose_turn_did_not_come_does_not_say_that_the_meter_was_away(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    named(rig)
    rig.orders.submit(Request("o1", "ping", [rig.meters[0].id], "t", deadline_s=30))
    rig.clock.advance(31)
    rig.orders.tick()
    (result,) = ended(rig, "o1", 0)
    assert (result["state"], result["error"]) == ("not reached", "its turn did not come before the deadline")


def test_an_order_is_not_carried_out_on_another_meter_at_the_same_place(tmp_path: Path) -> None:
    rig = BusRig(tmp_path, addresses=(17,))
    named(rig)
    rig.collector.configure(replace(provisioning(), tasks=()))  # nothing finds out before the order does
    wanted = rig.meters[0].id
    other = SimMeter(99, rig.meters[0].rows, 3, b"pole42-lls")
    counter = Counter(other)
    rig.network.stations[0].meter = other
    rig.orders.submit(Request("o1", "set", [wanted], "t", {"code": f"1/{COUNTER}/2", "value": ["u16", 5]}))
    (result,) = ended(rig, "o1")
    assert (result["state"], counter.written) == ("not reached", [])
    assert other.id in result["error"]


# --- before everything else, and nothing is lost by it ---


def test_an_order_goes_before_the_scheduled_visits_of_a_bus_and_costs_them_nothing(tmp_path: Path) -> None:
    rig = BusRig(tmp_path, addresses=(16, 17, 18, 19))
    named(rig)
    rig.run(EVERY_S, lambda: rig.clock.wall() >= RUN + EVERY_S + 1)  # in the middle of the first visit of the next run
    before = rig.clock.now
    busy = {visit.meter.meter_id for visit in rig.reader._visits.values()}
    (asked,) = [meter for meter in rig.meters if meter.id not in busy][:1]
    (result,) = order(rig, "ping", asked)
    assert busy
    assert result["state"] == "done"
    assert rig.clock.now - before < 3.0
    rig.run(120)
    assert rig.count() == {(meter.id, RUN + n * EVERY_S): 108 for meter in rig.meters for n in range(2)}
    assert rig.collector.task_status("t1").last_result == "4 of 4 read"
    assert set(rig.statuses().values()) == {"read"}


@pytest.mark.slow
def test_what_a_visit_had_read_before_it_gave_way_is_not_read_again(tmp_path: Path) -> None:
    rig = BusRig(tmp_path, addresses=(17, 19))
    named(rig)
    rig.run(EVERY_S, lambda: bool(rig.reader._visits) and rig.clock.wall() >= RUN + EVERY_S)
    (visit,) = rig.reader._visits.values()
    rig.run(30, lambda: len(visit.taken) > 20)
    had = dict(visit.taken)
    other = next(meter for meter in rig.meters if meter.id != visit.meter.meter_id)
    order(rig, "ping", other)
    rig.run(60)
    run = [r for r in rig.records() if r["meter"] == visit.meter.meter_id and r["run"] == RUN + EVERY_S]
    assert len(run) == 108
    kept = {(str(ref.obis), ref.attribute, round(taken.received, 3)) for ref, taken in had.items()}
    same = [r for r in run if (str(r["obis"]), r["attr"], r["received"]) in kept]
    assert len(same) >= 20


def test_on_a_power_line_only_the_visit_of_the_same_meter_gives_way(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=3, config=replace(metering(tmp_path), parallel_max=4))
    named(rig)
    rig.run(EVERY_S, lambda: len(rig.reader._visits) == 3 and rig.clock.wall() >= RUN + EVERY_S)
    visits = {visit.meter.meter_id: visit for visit in rig.reader._visits.values()}
    asked = rig.meters[0]
    (result,) = order(rig, "ping", asked)
    assert result["state"] == "done"
    assert [name for name, visit in visits.items() if visit.gives_way] == [asked.id]
    rig.run(60)
    assert rig.count() == {(meter.id, RUN + n * EVERY_S): 108 for meter in rig.meters for n in range(2)}


def test_an_order_for_many_is_done_on_each_and_one_that_is_mute_holds_up_nobody(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=6)
    named(rig)
    counters = [Counter(meter) for meter in rig.meters]
    rig.network.faults.mute = frozenset({rig.meters[2].id})
    results = order(rig, "action", *rig.meters, code=f"1/{COUNTER}/1", seconds=250)
    assert [result["state"] for result in results] == ["done", "done", "not reached", "done", "done", "done"]
    assert [len(counter.called) for counter in counters] == [1, 1, 0, 1, 1, 1]


def test_a_meter_that_refused_its_keys_is_not_tried_for_an_order(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning(secret=b"wrong"))
    rig.run(10)
    (known,) = rig.registry.present("plc0")
    rig.run(2 * EVERY_S, lambda: rig.collector.access.resting(known))
    rig.orders.submit(Request("o1", "ping", [known.meter_id], "t"))
    (result,) = ended(rig, "o1", 5)
    assert (result["state"], result["attempts"]) == ("not reached", 1)
    assert "refused its keys" in result["error"]


def test_orders_are_carried_out_without_any_task(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(replace(provisioning(), tasks=()))
    rig.run(10)
    (known,) = rig.registry.present("plc0")
    rig.orders.submit(Request("o1", "ping", [known.meter_id], "t"))
    (result,) = ended(rig, "o1")
    assert (result["state"], result["value"]) == ("done", {"name": rig.meters[0].id})
