"""Profiles: the rows since the last visit, each once, whatever happened in between."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.metering.visit.profile_catchup import ROWS_PER_VISIT_MAX, ProfileReading, shifted
from agent.settings.provisioning import MeterAccess, Provisioning, ReadingTask
from dlms import axdr
from dlms.axdr import Data
from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.profile import CLOCK_OBIS, CaptureObject
from dlms.cosem.time import CosemDateTime
from dlms.xdlms.apdu.common import AccessError
from tests.agent.metering.test_collector import PASSWORD, PlcRig, metering, replace_config
from tests.sim.meters import SimMeter

PROFILE = Obis.parse("1.0.99.1.0.255")
LOG = Obis.parse("0.0.99.98.0.255")
QUARTER = 900
LATE_S = 120  # the tasks run so long after a row was captured
COLUMNS = 2  # beside the clock
LIST = f"obis,cls,attr\n1.0.1.8.0.255,3,2\n{PROFILE},7,2\n"


class Rig(PlcRig):
    """A PLC rig whose meters capture a row every quarter of an hour of virtual time."""

    def __init__(self, tmp_path: Path, text: str = LIST, meters: int = 1) -> None:
        tmp_path.mkdir(exist_ok=True)
        (tmp_path / "lists").mkdir()
        (tmp_path / "lists" / "profiles.csv").write_text(text)
        super().__init__(tmp_path, meters, replace_config(metering(tmp_path), tmp_path / "lists"))
        for meter in self.meters:
            for profile in meter.profiles.values():
                profile.rows.clear()
        self.captured_until = int(self.clock.wall()) // QUARTER * QUARTER - 86_400 * 3
        self.capture()

    def capture(self) -> None:
        """What the meters do by themselves until now."""
        while self.captured_until + QUARTER <= self.clock.wall():
            self.captured_until += QUARTER
            moment = datetime.fromtimestamp(self.captured_until, UTC)
            for meter in self.meters:
                clock = axdr.octets(CosemDateTime.from_datetime(moment).emit())
                count = self.captured_until // QUARTER
                meter.profiles[PROFILE].capture([clock, axdr.u32(count), axdr.u32(count % 7)])

    def live(self, seconds: float) -> None:
        """Let time pass for meters and concentrator alike."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.run(min(60.0, end - self.clock.now))
            self.capture()

    def cells(self, meter: SimMeter, column: str = "1.0.1.8.0.255") -> list[tuple[str, object]]:
        """(time of the row, raw value) of one column of the profile, in the order of the store."""
        return [
            (str(record["meter_time"]), record["raw"])
            for record in self.records()
            if record.get("profile") == str(PROFILE) and record["obis"] == column and record["meter"] == meter.id
        ]


def tasks(every_s: int = QUARTER) -> Provisioning:
    return Provisioning(
        tasks=(ReadingTask("t1", every_s, "profiles", offset_s=LATE_S),), access=MeterAccess(16, "low", PASSWORD)
    )


def stamps(first: int, last: int) -> list[str]:
    return [
        datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z") for at in range(first, last + 1, QUARTER)
    ]


def expected(first: int, last: int) -> list[tuple[str, object]]:
    return list(zip(stamps(first, last), range(first // QUARTER, last // QUARTER + 1), strict=True))


def test_the_first_visit_reads_as_far_back_as_configured_and_the_next_ones_only_what_is_new(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.collector.configure(tasks())
    start = 1_800_000_000
    rig.live(60)
    first = rig.cells(rig.meters[0])
    assert first == expected(start + QUARTER - 86_400, start)
    rig.live(4 * QUARTER + LATE_S)
    assert rig.cells(rig.meters[0]) == expected(start + QUARTER - 86_400, start + 4 * QUARTER)


def test_cells_have_the_unit_and_scaler_of_what_was_captured(tmp_path: Path) -> None:
    rig = Rig(tmp_path, f"obis,cls,attr\n{PROFILE},7,2\n")
    rig.collector.configure(tasks())
    rig.live(60)
    held = rig.meters[0].records()
    for column in ("1.0.1.8.0.255", "1.0.2.8.0.255"):
        record = next(record for record in rig.records() if record["obis"] == column)
        assert (record["scaler"], record["unit"]) == (held[f"3/{column}/2"]["scaler"], held[f"3/{column}/2"]["unit"])
        assert (record["tag"], record["cls"], record["attr"]) == ("u32", 3, 2)


def test_a_gap_of_days_is_filled_from_the_meter_s_own_rows_none_missing_none_twice(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.collector.configure(tasks())
    rig.live(60)
    rig.network.faults.silent = True
    rig.clock.advance(10 * 86_400)
    rig.capture()
    rig.network.faults.silent = False
    assert len(rig.meters[0].profiles[PROFILE].rows) > 2 * ROWS_PER_VISIT_MAX
    rig.live(5 * QUARTER + LATE_S)
    cells = rig.cells(rig.meters[0])
    assert cells == expected(1_800_000_000 + QUARTER - 86_400, rig.captured_until)


def test_a_meter_that_was_without_power_for_days_leaves_a_hole_and_goes_on_after_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.collector.configure(tasks())
    rig.live(60)
    before = rig.captured_until
    rig.network.faults.silent = True
    rig.clock.advance(6 * 86_400)
    rig.captured_until = int(rig.clock.wall()) // QUARTER * QUARTER
    after = rig.captured_until
    rig.network.faults.silent = False
    rig.live(4 * QUARTER + LATE_S)
    expected_cells = expected(1_800_000_000 + QUARTER - 86_400, before) + expected(after + QUARTER, rig.captured_until)
    assert rig.cells(rig.meters[0]) == expected_cells


def test_the_place_survives_a_restart_and_so_do_two_tasks_positions(tmp_path: Path) -> None:
    rig = Rig(tmp_path, meters=2)
    both = Provisioning(
        tasks=(
            ReadingTask("t1", QUARTER, "profiles", offset_s=LATE_S),
            ReadingTask("t2", 4 * QUARTER, "profiles", offset_s=LATE_S),
        ),
        access=MeterAccess(16, "low", PASSWORD),
    )
    rig.collector.configure(both)
    rig.live(60)
    rig.restart()
    rig.collector.configure(both)
    rig.live(8 * QUARTER + LATE_S)
    for meter in rig.meters:
        for task_id in ("t1", "t2"):
            seen = [
                record["meter_time"]
                for record in rig.records()
                if record.get("profile") and record["task"] == task_id and record["meter"] == meter.id
            ]
            assert len(seen) == COLUMNS * len(set(seen))
        assert len(rig.cells(meter)) == 96 + 8 + 96 + 8


def test_an_event_log_without_period_is_read_the_same_way(tmp_path: Path) -> None:
    rig = Rig(tmp_path, f"obis,cls,attr\n{LOG},7,2\n")
    log = rig.meters[0].profiles[LOG]

    def event(code: int) -> None:
        moment = datetime.fromtimestamp(rig.clock.wall(), UTC)
        log.capture([axdr.octets(CosemDateTime.from_datetime(moment).emit()), axdr.u8(code)])

    event(1)
    rig.collector.configure(tasks())
    rig.live(60)
    event(2)
    event(3)
    rig.live(3 * QUARTER)
    assert [record["raw"] for record in rig.records() if record.get("profile")] == [1, 2, 3]


def test_a_profile_that_the_meter_does_not_have_is_one_error_and_no_failure(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "obis,cls,attr\n1.0.99.77.0.255,7,2\n1.0.1.8.0.255,3,2\n")
    rig.collector.configure(tasks())
    rig.live(60)
    assert [(record["obis"], record["error"]) for record in rig.records()] == [
        ("1.0.99.77.0.255", "object-unavailable"),
        ("1.0.1.8.0.255", None),
    ]
    assert rig.statuses() == {rig.meters[0].id: "read"}


@pytest.mark.slow
def test_a_lossy_line_costs_time_and_no_row(tmp_path: Path) -> None:
    rig = Rig(tmp_path, meters=2)
    rig.network.faults.loss = 0.02
    rig.collector.configure(tasks())
    rig.live(10 * QUARTER)
    for meter in rig.meters:
        cells = rig.cells(meter)
        first = 1_800_000_000 + QUARTER - 86_400
        last = first + QUARTER * (len(cells) - 1)
        assert cells == expected(first, last)
        assert last >= rig.captured_until - 3 * QUARTER


# --- the core by itself ---

CLOCK = CaptureObject(AttributeRef(8, CLOCK_OBIS, 2))
VALUE = CaptureObject(AttributeRef(3, Obis.parse("1.0.1.8.0.255"), 2))
START = datetime(2027, 1, 15, 8, 0, tzinfo=UTC)


def clock_at(minutes: int) -> Data:
    return axdr.octets(CosemDateTime.from_datetime(START + timedelta(minutes=minutes)).emit())


def described(
    columns: tuple[CaptureObject, ...] = (CLOCK, VALUE), period: Data | None = None, position: bytes = b""
) -> ProfileReading:
    reading = ProfileReading(PROFILE, position, START)
    now = CosemDateTime.from_datetime(START + timedelta(days=3))
    reading.describe(axdr.array([column.data() for column in columns]), period or axdr.u32(QUARTER), now)
    return reading


def test_null_data_stands_for_the_value_before_and_for_the_time_one_period_later() -> None:
    reading = described()
    assert reading.next_item() is not None
    reading.answer(
        axdr.array(
            [
                axdr.structure(clock_at(0), axdr.u32(5)),
                axdr.structure(axdr.null(), axdr.u32(6)),
                axdr.structure(axdr.null(), axdr.null()),
            ]
        )
    )
    assert [row.cells[0][1].value for row in reading.rows] == [5, 6, 6]
    times = [CosemDateTime.parse(row.clock).to_datetime() for row in reading.rows]
    assert times == [START, START + timedelta(minutes=15), START + timedelta(minutes=30)]


def test_the_row_that_is_known_is_not_taken_again() -> None:
    position = clock_at(15).octets()
    reading = described(position=position)
    assert reading.next_item() is not None
    reading.answer(axdr.array([axdr.structure(clock_at(m), axdr.u32(m)) for m in (0, 15, 30)]))
    assert [row.cells[0][1].value for row in reading.rows] == [30]
    assert reading.position == clock_at(30).octets()


@pytest.mark.parametrize(
    "answer",
    [
        axdr.u8(1),
        axdr.array([axdr.u8(1)]),
        axdr.array([axdr.structure(clock_at(0))]),
        axdr.array([axdr.structure(axdr.octets(b"short"), axdr.u32(1))]),
        axdr.array([axdr.structure(axdr.null(), axdr.u32(1))]),
        AccessError(3),
    ],
)
def test_an_answer_that_is_no_profile_is_an_error_and_moves_nothing(answer: Data | AccessError) -> None:
    reading = described(position=clock_at(0).octets())
    assert reading.next_item() is not None
    reading.answer(answer)
    assert reading.error
    assert reading.rows == []
    assert reading.position == clock_at(0).octets()
    assert reading.next_item() is None


@pytest.mark.parametrize(("columns", "why"), [((VALUE,), "no-clock-column"), ((), "object-unavailable")])
def test_a_profile_without_a_clock_cannot_be_read_by_time(columns: tuple[CaptureObject, ...], why: str) -> None:
    reading = described(columns)
    assert reading.error == why
    assert reading.next_item() is None


def test_a_place_that_is_damaged_begins_again_where_a_first_visit_would() -> None:
    assert described(position=b"\x00").next_item() is not None


def test_windows_cover_the_time_up_to_now_and_end() -> None:
    reading, windows = described(), 0
    while reading.next_item() is not None:
        windows += 1
        reading.answer(axdr.array([]))
    assert windows == 3
    assert reading.rows == []


def test_a_clock_without_a_definite_time_is_not_shifted() -> None:
    assert shifted(CosemDateTime(), 900) is None
