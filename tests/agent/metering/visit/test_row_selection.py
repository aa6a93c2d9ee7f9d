"""Rows and columns of profiles that a task selects, by number and by time; values of billing resets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.settings.provisioning import ReadingTask
from agent.settings.reading_codes import RowSelection
from dlms.axdr import Data
from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.profile import CaptureObject
from dlms.cosem.time import CosemDateTime
from dlms.simulator.reading_list import rows_from_csv
from tests.agent.metering.test_collector import PASSWORD, PlcRig, provisioning
from tests.agent.metering.visit.profile_meters import MeterModel, Reader
from tests.sim.meters import SimMeter
from tests.sim.plc_network import BaseNode

HOUR, DAY = 3600, 86_400
START = datetime(2027, 1, 15, tzinfo=UTC).timestamp()
WAYS = pytest.mark.parametrize("by_entry", [True, False], ids=["by entry", "by time"])
NAMES = ("1.0.2.8.0.255", "1.0.3.8.0.255", "1.0.4.8.0.255")
MORE = tuple(CaptureObject(AttributeRef(3, Obis.parse(name), 2)) for name in NAMES)


def reader(selected: RowSelection, **options: object) -> Reader:
    made = Reader(MeterModel(START, **options), selected=selected)  # type: ignore[arg-type]
    made.meter.live(5 * DAY)
    return made


@WAYS
def test_the_last_rows_are_at_most_so_many_and_none_twice(*, by_entry: bool) -> None:
    one = reader(RowSelection(last=5), by_entry=by_entry)
    one.visit()
    assert one.held() == one.meter.history[-5:]
    one.meter.live(2 * 900)
    assert len(one.visit()) == 2, "the others of the last five were there before"
    one.meter.live(3 * DAY)
    before = len(one.taken)
    one.visit()
    assert one.held()[before:] == one.meter.history[-5:]
    assert len(one.taken) == len({row.clock for row in one.taken}) == 12


@WAYS
@pytest.mark.parametrize("size", [100, 4000])
def test_the_last_rows_of_a_full_buffer_and_of_one_that_is_shorter(size: int, *, by_entry: bool) -> None:
    one = reader(RowSelection(last=150), by_entry=by_entry, size=size)
    one.visit()
    assert one.held() == one.meter.history[-min(150, size) :]
    for _ in range(6):
        one.meter.live(HOUR)
        one.visit()
    assert one.held() == one.meter.history[-min(150, size) - 24 :]


@WAYS
def test_the_last_rows_of_a_log_without_a_period(*, by_entry: bool) -> None:
    one = reader(RowSelection(last=3), by_entry=by_entry, refused=(4,))
    one.visit()
    assert one.held() == one.meter.history[-3:]
    one.meter.live(HOUR)
    one.visit()
    assert one.held()[3:] == one.meter.history[-3:]


@WAYS
def test_rows_from_one_time_to_another_and_no_more_later(*, by_entry: bool) -> None:
    local = datetime(2027, 1, 16, 6)  # noqa: DTZ001 - the meter's clock is an hour ahead of UTC
    one = reader(RowSelection(first=local, end=local + timedelta(hours=30)), by_entry=by_entry)
    one.visit()
    begin = local.replace(tzinfo=UTC).timestamp() - HOUR
    wanted = [row for at, row in enumerate(one.meter.history) if begin <= START + 900 * (at + 1) <= begin + 30 * HOUR]
    assert len(wanted) == 121
    assert one.held() == wanted
    one.meter.live(DAY)
    assert one.visit() == []
    assert one.requests <= 12


@WAYS
def test_rows_up_to_a_time_that_is_yet_to_come_are_taken_as_they_come(*, by_entry: bool) -> None:
    end = datetime.fromtimestamp(START + 5 * DAY + 3 * HOUR + HOUR, UTC).replace(tzinfo=None)
    one = reader(RowSelection(end=end), by_entry=by_entry)
    for _ in range(8):
        one.visit()
        one.meter.live(HOUR)
    assert one.held() == one.meter.history[4 * 96 - 1 : 5 * 96 + 12]


@pytest.mark.parametrize("selected", [RowSelection(last=200), RowSelection(end=datetime(2027, 6, 1))])  # noqa: DTZ001
def test_a_row_stamped_ahead_among_many_is_none_of_the_newest_and_none_before_the_end(selected: RowSelection) -> None:
    one = reader(selected, by_entry=False)
    one.visit(steps_max=2)
    one.meter.capture(CosemDateTime.of("2028-06-01 00:00"))
    one.meter.live(2 * DAY)
    for _ in range(3):
        one.visit()
        one.meter.live(HOUR)
    assert not any(row.doubt for row in one.taken)
    assert one.held()[-192:] == one.meter.history[-196:-4]


@WAYS
@pytest.mark.parametrize("columns_selected", [True, False], ids=["meter selects", "meter sends all"])
@pytest.mark.parametrize(
    ("columns", "expected"), [(("1.0.1.8.0.255",), 0), (NAMES[:1], 1000), (NAMES[2:], 3000), (("1.0.9.9.9.255",), None)]
)
def test_selected_columns_alone_are_given_and_asked_for(
    columns: tuple[str, ...], expected: int | None, *, columns_selected: bool, by_entry: bool
) -> None:
    names = tuple(Obis.parse(name) for name in columns)
    one = reader(RowSelection(columns=names), by_entry=by_entry, more=MORE, columns_selected=columns_selected)
    one.visit()
    octets = one.octets
    for _ in range(4):
        one.meter.live(2 * HOUR)
        one.visit()
    one.visit()
    rows = len(one.meter.history) - 4 * 96 + 1
    assert not one.error
    assert len(one.taken) == rows
    numbers = range(4 * 96, len(one.meter.history) + 1)
    held = [(str(ref.obis), cell.value) for ref, cell in one.wanted if isinstance(cell, Data)]
    assert held == ([] if expected is None else [(columns[0], expected + number) for number in numbers])
    all_columns = reader(RowSelection(), by_entry=by_entry, more=MORE)
    all_columns.visit()
    if columns_selected:
        assert octets < all_columns.octets * (0.95 if by_entry else 0.6)


LIST = "n,name,obis,cls,attr,type,scaler,unit,ph,note\n"


def billing_rig(tmp_path: Path, stored: list[int], *, counter: bool) -> PlcRig:
    """A meter that has the values of these resets, F being their numbers."""
    rows = [f"{f},stored,1.0.1.8.0.{f},3,2,u32,0,30,1,\n" for f in [*stored, 255]]
    rows += ["0,name,0.0.42.0.0.255,1,2,oct:16,,,1,\n", "0,clock,0.0.1.0.0.255,8,2,clock,,,1,\n"]
    rows += ["0,resets,0.0.0.1.0.255,1,2,u8,,,1,\n"] if counter else []
    file = tmp_path / "meter.csv"
    file.write_text(LIST + "".join(rows))
    rig = PlcRig(tmp_path, meters=1)
    rig.meters = [SimMeter(1, rows_from_csv(file), 3, PASSWORD)]
    rig.network = BaseNode(rig.meters, start=rig.clock.now, join_interval_s=0.5, latency_s=0.05)
    return rig


CODES = "3/1.0.1.8.0.255/2, 3/1.0.1.8.0.VZ/2, 3/1.0.1.8.0.VZ-1/2"


def billing(rig: PlcRig) -> dict[str, object]:
    rig.collector.configure(provisioning(ReadingTask("billing", 900, "", codes=CODES)))
    rig.run(30)
    return {str(record["obis"]): record["error"] or record["raw"] for record in rig.records()}


@pytest.mark.parametrize("counter", [True, False], ids=["meter counts", "meter does not"])
def test_values_of_billing_resets_are_read_by_the_number_of_the_reset(tmp_path: Path, *, counter: bool) -> None:
    rig = billing_rig(tmp_path, [*range(100), 101, 102], counter=counter)
    held = rig.meters[0].records()
    resets = held["1/0.0.0.1.0.255/2"]["raw"] if counter else None
    numbers = [resets % 100, (resets - 1) % 100] if isinstance(resets, int) else [101, 102]
    names = [f"1.0.1.8.0.{f}" for f in (255, *numbers)]
    assert billing(rig) == {name: held[f"3/{name}/2"]["raw"] for name in names}


def test_a_billing_reset_that_the_meter_does_not_hold_is_said_to_be_missing(tmp_path: Path) -> None:
    found = billing(billing_rig(tmp_path, [], counter=False))
    assert found["1.0.1.8.0.101"] == found["1.0.1.8.0.102"] == "object-undefined"
