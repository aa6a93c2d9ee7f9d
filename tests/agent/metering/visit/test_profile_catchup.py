"""Profiles: the rows since the last visit, each once, whatever happened in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.settings.provisioning import MeterAccess, Provisioning, ReadingTask
from dlms import axdr
from dlms.codes import DataAccessResult
from dlms.cosem.obis import Obis, Selection
from dlms.cosem.time import CosemDateTime
from dlms.xdlms.apdu.common import AccessError, Result
from tests.agent.metering.test_collector import PASSWORD, PlcRig, metering, replace_config
from tests.sim.meters import SimMeter
from tests.sim.plc_network import BaseNode

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


@pytest.mark.slow
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


def test_neither_values_nor_rows_are_stored_while_a_scaler_is_not_known(tmp_path: Path) -> None:
    """Without its scaler a value is wrong by powers of ten, and nothing would say so."""
    rig = Rig(tmp_path)
    meter = rig.meters[0]
    (register,) = (it for it in meter.server.objects() if it.class_id == 3 and str(it.obis) == "1.0.1.8.0.255")
    scaler = register.readers[3]
    register.readers[3] = lambda _selection: AccessError(DataAccessResult.TEMPORARY_FAILURE)
    rig.collector.configure(tasks())
    rig.live(60)
    assert [record for record in rig.records() if record["raw"] is not None and record["cls"] == 3] == []
    register.readers[3] = scaler
    rig.live(2 * QUARTER)
    told = [record for record in rig.records() if record["obis"] == "1.0.1.8.0.255" and record["raw"] is not None]
    held = meter.records()["3/1.0.1.8.0.255/2"]
    assert {(record["scaler"], record["unit"]) for record in told} == {(held["scaler"], held["unit"])}
    start = 1_800_000_000
    assert [raw for _, raw in rig.cells(meter)] == [
        raw for _, raw in expected(start + QUARTER - 86_400, start + QUARTER)
    ]


@pytest.mark.slow
def test_a_gap_of_days_is_filled_from_the_meter_s_own_rows_none_missing_none_twice(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.collector.configure(tasks())
    rig.live(60)
    rig.network.faults.silent = True
    rig.clock.advance(10 * 86_400)
    rig.capture()
    rig.network.faults.silent = False
    assert len(rig.meters[0].profiles[PROFILE].rows) > 900
    rig.live(5 * QUARTER + LATE_S)
    cells = rig.cells(rig.meters[0])
    assert cells == expected(1_800_000_000 + QUARTER - 86_400, rig.captured_until)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.parametrize("minutes", [60, None], ids=["offset known", "offset not known"])
def test_an_event_in_the_hour_that_comes_twice_is_there_once_for_each_time(tmp_path: Path, minutes: int | None) -> None:
    """A clock without deviation or status, at the end of daylight saving: the second 02:30 was taken for the first."""
    rig = Rig(tmp_path, f"obis,cls,attr\n{LOG},7,2\n")
    rig.config = replace(rig.config, meter_utc_offset_min=minutes)
    rig.restart()
    profile = rig.meters[0].profiles[LOG]
    octets = []
    rig.collector.configure(tasks())
    for texts in (["01:59", "02:30", "02:30", "02:45"], ["02:30"], ["02:30", "02:45"], ["03:00"]):
        for text in texts:
            octets.append(CosemDateTime.of(f"2027-01-15 {text}").emit())
            profile.capture([axdr.octets(octets[-1]), axdr.u8(9)])
        rig.run(QUARTER)
    events: list[dict[str, Any]] = rig.store.events(20)[::-1]
    again = (4, 5, 6)  # what is of the second time, and the same second
    known = ["00:59", "01:30", "01:30", "01:45", None, None, None, "02:00"]
    at = [time and f"2027-01-15T{time}:00Z" for time in known] if minutes else [None] * 8
    assert [event["meter_time"] for event in events] == at
    stamped = again if minutes else range(8)
    assert [event["values"][1:] for event in events] == [
        [{"tag": "dt", "raw": clock.hex(), "obis": "0.0.1.0.0.255", "cls": 8, "attr": 2}] * (number in stamped)
        for number, clock in enumerate(octets)
    ]


def test_a_profile_that_the_meter_does_not_have_is_one_error_and_no_failure(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "obis,cls,attr\n1.0.99.77.0.255,7,2\n1.0.1.8.0.255,3,2\n")
    rig.collector.configure(tasks())
    rig.live(60)
    assert [(record["obis"], record["error"]) for record in rig.records()] == [
        ("1.0.1.8.0.255", None),
        ("1.0.99.77.0.255", "object-undefined"),
    ]
    assert rig.statuses() == {rig.meters[0].id: "read"}
    assert rig.collector.task_status("t1").last_result == "1 of 1 read", "a list names what not every model has"


@pytest.mark.parametrize("attribute", [3, 4, 5, 7, 8])
def test_no_row_is_taken_while_the_meter_does_not_say_what_rows_are(tmp_path: Path, attribute: int) -> None:
    """With a guess in the place of the sort method, times that are left out would be those of other rows."""
    rig = Rig(tmp_path, f"obis,cls,attr\n{PROFILE},7,2\n")
    readers = rig.meters[0].profiles[PROFILE].item.readers
    told = readers[attribute]
    readers[attribute] = lambda _selection: AccessError(DataAccessResult.TEMPORARY_FAILURE)
    rig.collector.configure(tasks())
    rig.live(60)
    assert rig.records() == []
    assert [meter.last_error for meter in rig.collector.meters()] == [f"profile {PROFILE}: temporary-failure"]
    readers[attribute] = told
    rig.live(QUARTER + LATE_S)
    start = 1_800_000_000
    assert rig.cells(rig.meters[0]) == expected(start + QUARTER - 86_400, start + QUARTER)


def test_a_profile_that_is_refused_says_with_which_error(tmp_path: Path) -> None:
    rig = Rig(tmp_path, f"obis,cls,attr\n{PROFILE},7,2\n1.0.1.8.0.255,3,2\n")
    rig.meters[0].profiles[PROFILE].item.readers[3] = lambda _selection: AccessError(DataAccessResult.READ_WRITE_DENIED)
    rig.collector.configure(tasks())
    rig.live(60)
    assert rig.records()[-1]["error"] == "read-write-denied"
    assert rig.collector.task_status("t1").last_result == "1 of 1 read, 1 with errors"


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


# --- steps that are durable ---


class SlowRig(Rig):
    """Every exchange takes seconds."""

    def __init__(self, tmp_path: Path, latency_s: float = 2.0, meters: int = 1) -> None:
        super().__init__(tmp_path, meters=meters)
        self.delivered: list[dict[str, object]] = []
        self.network = BaseNode(self.meters, start=self.clock.now, join_interval_s=0.5, latency_s=latency_s)

    def records(self) -> list[dict[str, object]]:
        while (batch := self.store.batch(10**6)) is not None:  # it may be more than one batch holds
            self.delivered += [record for record in batch.records if "gap" not in record]
            self.store.release(batch.store, batch.last)
        return list(self.delivered)

    def check_complete(self) -> None:
        """Every row that the last run could have, and every register, once."""
        cells = self.cells(self.meters[0])
        assert cells == expected(1_800_000_000 + QUARTER - 86_400, self.captured_until)[: len(cells)]
        assert cells[-1][0] >= stamps(self.captured_until - 2 * QUARTER, self.captured_until)[0]
        assert set(self.registers().values()) == {1}

    def registers(self) -> Counter[object]:
        """Of the first meter: run → records that are no cells of a profile."""
        return Counter(record["run"] for record in self.records() if not record.get("profile"))


@pytest.mark.parametrize(("days", "latency_s"), [(60, 2.0), (200, 1.0)])
@pytest.mark.slow
def test_a_meter_that_was_away_for_long_is_read_again_registers_first(
    days: int, latency_s: float, tmp_path: Path
) -> None:
    rig = SlowRig(tmp_path, latency_s)
    rig.collector.configure(tasks())
    rig.live(60)
    before = len(rig.cells(rig.meters[0]))
    rig.network.faults.silent = True
    rig.clock.advance(days * 86_400)
    rig.capture()
    rig.network.faults.silent = False
    held = len(rig.meters[0].profiles[PROFILE].rows)
    rig.live(QUARTER + LATE_S)
    assert len(rig.registers()) >= 2, "the registers of the first run after the return"
    assert len(rig.cells(rig.meters[0])) > before, "and the first steps"
    rig.live(30 * QUARTER)
    cells = rig.cells(rig.meters[0])
    assert set(rig.registers().values()) == {1}
    missing = max(0, days * 96 + before - held)  # what had left the buffer by then
    expected_cells = expected(1_800_000_000 + QUARTER - 86_400, rig.captured_until)
    assert cells[:before] == expected_cells[:before]
    assert cells[before:] == expected_cells[-(len(cells) - before) :]
    assert abs(len(expected_cells) - len(cells) - missing) <= before + 32
    assert rig.statuses() == {rig.meters[0].id: "read"}


@pytest.mark.parametrize("after_s", [3.0, 9.0, 15.0, 27.0, 60.0])
@pytest.mark.slow
def test_a_restart_in_the_middle_of_a_visit_loses_at_most_a_step_and_repeats_nothing(
    after_s: float, tmp_path: Path
) -> None:
    rig = SlowRig(tmp_path)
    rig.collector.configure(tasks())
    rig.live(60)
    rig.network.faults.silent = True
    rig.clock.advance(5 * 86_400)
    rig.capture()
    rig.network.faults.silent = False
    for _ in range(8):
        rig.run(after_s)
        rig.restart()
        rig.collector.configure(tasks())
    rig.live(4 * QUARTER)
    rig.check_complete()


@pytest.mark.slow
def test_a_line_that_is_cut_after_every_step_keeps_the_steps(tmp_path: Path) -> None:
    rig = SlowRig(tmp_path)
    rig.collector.configure(tasks())
    rig.live(60)
    rig.clock.advance(5 * 86_400)
    rig.capture()
    for _ in range(12):
        seen = rig.store.stats().pending
        rig.run(QUARTER, until=lambda seen=seen: rig.store.stats().pending > seen)  # type: ignore[misc]
        rig.lines[-1].broken = True
        rig.run(10)
    rig.live(4 * QUARTER)
    rig.check_complete()


def crowded(tmp_path: Path) -> SlowRig:
    """Three meters of whose rows of three days a visit has time for some, on a line for one of them at a time; runs at
    which everybody's registers are read are hours apart."""
    rig = SlowRig(tmp_path, meters=3)
    rig.config = replace(rig.config, profile_first_s=3 * 86_400, visit_timeout_s=30.0, parallel_max=1)
    rig.restart()
    return rig


@pytest.mark.slow
def test_rows_for_which_a_visit_has_no_time_are_read_in_the_same_run_after_the_others(tmp_path: Path) -> None:
    rig = crowded(tmp_path)
    rig.collector.configure(tasks(6 * 3600))
    until = rig.captured_until
    rig.live(900)
    registers = [at for at, record in enumerate(rig.records()) if not record.get("profile")]
    for meter in rig.meters:
        assert rig.cells(meter) == expected(until - 3 * 86_400 + QUARTER, until)
    assert len(registers) == len(rig.meters), "each slot is read once"
    of_third = [
        at for at, record in enumerate(rig.records()) if record["meter"] == rig.records()[registers[-1]]["meter"]
    ]
    of_first = [at for at, record in enumerate(rig.records()) if record["meter"] == rig.records()[0]["meter"]]
    assert of_first[0] < of_third[0] < of_first[-1]
    assert rig.statuses() == {meter.id: "read" for meter in rig.meters}
    assert rig.collector.task_status("t1").state == "idle"


@pytest.mark.slow
def test_what_goes_on_outlives_a_fault(tmp_path: Path) -> None:
    rig = crowded(tmp_path)
    rig.collector.configure(tasks(6 * 3600))
    until = rig.captured_until
    rig.run(60)
    rig.network.faults.mute = frozenset(meter.id for meter in rig.meters)
    rig.run(50)
    rig.network.faults.mute = frozenset()
    rig.run(300)
    for meter in rig.meters:
        assert rig.cells(meter) == expected(until - 3 * 86_400 + QUARTER, until)
    assert sum(not record.get("profile") for record in rig.records()) == len(rig.meters)
    assert rig.collector.task_status("t1").last_result == "3 of 3 read"


@pytest.mark.slow
def test_what_goes_on_ends_with_its_task(tmp_path: Path) -> None:
    rig = crowded(tmp_path)
    rig.collector.configure(tasks(6 * 3600))
    rig.run(60)
    rig.collector.configure(replace(tasks(), tasks=()))
    rig.run(40)  # what was under way
    before = [len(rig.cells(meter)) for meter in rig.meters]
    rig.run(600)
    assert [len(rig.cells(meter)) for meter in rig.meters] == before
    assert sum(before) < 3 * 3 * 96


def test_with_our_clock_at_1970_the_meter_is_read_with_few_requests(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.clock.wall_offset, rig.clock.is_trusted = 1_000_000.0, False
    asked = 0
    buffer = rig.meters[0].profiles[PROFILE].item.readers

    def counted(selection: Selection | None, whole: Callable[[Selection | None], Result] = buffer[2]) -> Result:
        nonlocal asked
        asked += 1
        return whole(selection)

    buffer[2] = counted
    rig.collector.configure(tasks())
    rig.run(240)
    records = rig.records()
    assert {record["trusted"] for record in records} == {False}
    assert records[0]["obis"] == "1.0.1.8.0.255"
    assert len([record for record in records if record.get("profile")]) > COLUMNS * 90
    assert 0 < asked <= 8


# --- doubtful rows ---


def test_a_doubtful_row_is_stored_with_its_mark_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "agent.metering.port")
    rig = Rig(tmp_path)
    rig.collector.configure(tasks())
    rig.live(60)
    wrong = CosemDateTime.of("2028-06-01 00:00:00").emit()
    for _ in range(2):
        rig.meters[0].profiles[PROFILE].capture([axdr.octets(wrong), axdr.u32(77), axdr.u32(7)])
    rig.live(3 * QUARTER + LATE_S)
    first = 1_800_000_000 + QUARTER - 86_400
    doubtful = [record for record in rig.records() if record.get("doubt")]
    assert [(record["doubt"], record["cls"], record["tag"], record["raw"]) for record in doubtful] == 2 * [
        ("ahead", 8, "dt", wrong.hex()),
        ("ahead", 3, "u32", 77),
        ("ahead", 3, "u32", 7),
    ]
    plausible = [record for record in rig.records() if record.get("profile") and not record.get("doubt")]
    assert [record["meter_time"] for record in plausible][::COLUMNS] == stamps(first, rig.captured_until)
    events = [getattr(record, "event", "") for record in caplog.records]
    assert [event for event in events if event.startswith("profile.")] == ["profile.doubtful", "profile.plausible"]


def test_a_local_time_that_repeats_has_no_instant_and_the_time_stamp_is_a_cell(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.config = replace(rig.config, meter_utc_offset_min=60)
    rig.restart()
    profile = rig.meters[0].profiles[PROFILE]
    profile.rows.clear()
    octets = []
    for text in ("02:30", "02:45", "02:00", "02:15", "02:30", "02:45", "03:00"):
        clock = CosemDateTime.of(f"2027-01-15 {text}").emit()
        octets.append(clock)
        profile.capture([axdr.octets(clock), axdr.u32(len(octets)), axdr.u32(0)])
    rig.collector.configure(tasks())
    rig.run(60)
    rows = [record for record in rig.records() if record.get("profile") and record["obis"] == "1.0.1.8.0.255"]
    times = ["01:30", "01:45", None, None, None, None, "02:00"]
    assert [record["meter_time"] for record in rows] == [at and f"2027-01-15T{at}:00Z" for at in times]
    clocks = [record for record in rig.records() if record.get("profile") and record["cls"] == 8]
    assert [record["raw"] for record in clocks] == [octets[at].hex() for at in range(2, 6)]
