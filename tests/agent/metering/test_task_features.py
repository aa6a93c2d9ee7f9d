"""Tasks over simulated lines: local times, chosen meters, windows, quiet hours, deadlines, retries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from agent.metering.visit.visit_memory import NameQuestions
from agent.settings.provisioning import AccessRule, MeterSelection, ReadingTask
from tests.agent.metering.test_collector import BusRig, PlcRig, Rig, provisioning

RUN = 1_800_000_000  # 2027-01-15T08:00:00Z, a Friday
MADRID = "CET-1CEST,M3.5.0,M10.5.0/3"
CODES = "3/1.0.1.8.0.255/2"


def task(task_id: str = "t1", every_s: int = 900, **more: object) -> ReadingTask:
    return ReadingTask(task_id, every_s, "", **{"codes": CODES} | more)  # type: ignore[arg-type]


def read(rig: Rig, task_id: str = "t1") -> dict[int, set[str]]:
    """run → meters that were read for it."""
    found: dict[int, set[str]] = {}
    for record in rig.records():
        if record["task"] == task_id:
            found.setdefault(int(str(record["run"])), set()).add(str(record["meter"]))
    return found


def ids(rig: PlcRig) -> list[str]:
    return [meter.id for meter in rig.meters]


def test_a_task_at_local_times_is_read_at_them_and_its_missed_runs_are_listed(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    daily = task("daily", 0, times="*/10 9 * * fri", zone=MADRID, deadline_s=300)
    rig.collector.configure(provisioning(daily))
    rig.run(660)  # 09:00 and 09:10 in Madrid are 08:00 and 08:10 in UTC
    assert read(rig, "daily") == {RUN: {rig.meters[0].id}, RUN + 600: {rig.meters[0].id}}
    status = rig.collector.task_status("daily")
    assert (status.next_run, status.local) == (RUN + 1200, "2027-01-15 09:20:00+01:00")
    assert status.times == f"*/10 9 * * fri ({MADRID})"
    rig.reader.close()
    rig.clock.advance(7 * 86_400.0 - 660)
    rig.restart()
    rig.collector.configure(provisioning(daily))
    rig.run(60)
    assert [(gap["first"], gap["last"], gap["every"], gap["times"], gap["reason"]) for gap in rig.gaps()] == [
        (RUN + 1200, None, 60, f"*/10 9 * * fri {MADRID}", "concentrator-off"),
        (RUN + 1200, RUN + 3000, 60, f"*/10 9 * * fri {MADRID}", "concentrator-off"),
    ]
    assert read(rig, "daily")[RUN + 7 * 86_400] == {rig.meters[0].id}
    ((gap, going_on),) = rig.collector.tasks.gaps()
    assert (gap.schedule.count(gap.first, gap.last), going_on) == (4, False)


def test_only_the_meters_of_a_task_are_read_and_each_other_one_is_listed_with_the_reason(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path)
    first, second, third = ids(rig)
    rules = (AccessRule("group/two", pattern=second),)
    tasks = (
        task("by-id", selection=MeterSelection(meters=(first,))),
        task("by-group", selection=MeterSelection(groups=("two",))),
        task("by-model", selection=MeterSelection(models=("DCU*",))),
        task("other-model", selection=MeterSelection(models=("ISK*",))),
        task("all"),
    )
    rig.collector.configure(replace(provisioning(*tasks), access_rules=rules))
    rig.run(60)
    assert read(rig, "by-id") == {RUN: {first}}
    assert read(rig, "by-group") == {RUN: {second}}
    assert read(rig, "by-model") == {RUN: {first, second, third}}
    assert read(rig, "other-model") == {}
    assert read(rig, "all") == {RUN: {first, second, third}}
    status = rig.collector.task_status("by-group")
    assert (status.selection, status.meters, status.last_result) == ("groups two", 1, "1 of 1 read")
    assert dict(status.left_out) == dict.fromkeys((first, third), "it is not in group two")
    others = rig.collector.task_status("other-model")
    assert dict(others.left_out) == dict.fromkeys(ids(rig), "its model is DCU")
    rig.run(900)
    assert rig.gaps() == [], "who is not in a task owes it nothing"


def test_a_meter_whose_name_decides_is_asked_for_its_name(tmp_path: Path) -> None:
    """Without a task that takes all meters nobody else would visit it."""
    rig = PlcRig(tmp_path)
    rig.collector.configure(provisioning(task(selection=MeterSelection(pattern=f"*{ids(rig)[1][-4:]}"))))
    rig.run(60)
    assert read(rig) == {RUN: {ids(rig)[1]}}
    assert rig.collector.task_status("t1").waiting == ()


def test_a_meter_that_will_not_say_its_name_waits_and_is_not_asked_all_the_time(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=2)
    rig.network.faults.set({"mute": [rig.meters[0].id]})
    rig.collector.configure(provisioning(task(selection=MeterSelection(pattern="*"))))
    rig.run(1800)
    status = rig.collector.task_status("t1")
    assert [why for _, why in status.waiting] == ["its name is not known yet"]
    assert status.last_result == "1 of 1 read, 1 undecided"
    jitter, asked = (lambda: 0.5), 0
    questions, (meter, *_) = NameQuestions(jitter), rig.registry.present("plc0")
    for now in range(86_400):
        if questions.due(meter, float(now)):
            questions.asked(meter, float(now))
            asked += 1
    assert asked < 40


def test_a_meter_that_comes_into_a_task_owes_it_from_then_on(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=2)
    first, second = ids(rig)
    rig.collector.configure(provisioning(task(selection=MeterSelection(meters=(first,)))))
    rig.run(1000)
    rig.collector.configure(provisioning(task(selection=MeterSelection(meters=(second,)))))
    rig.run(30)
    assert read(rig) == {RUN: {first}, RUN + 900: {first, second}}
    rig.run(900)
    assert read(rig)[RUN + 1800] == {second}
    assert rig.gaps() == []


def test_a_window_holds_a_run_back_and_a_spread_does_too(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning(task("w", windows="09:05-09:10", zone=MADRID), task("s", spread_s=800)))
    rig.run(200)
    assert read(rig, "w") == {}
    assert rig.collector.task_status("w").state == "closed"
    rig.run(680)
    assert read(rig, "w").keys() == read(rig, "s").keys() == {RUN}
    began = {str(record["task"]): float(str(record["received"])) - RUN for record in rig.records()}
    assert 300 <= began["w"] < 310
    assert 8 < began["s"] < 800
    rig.run(600)
    assert read(rig, "w").keys() == {RUN}, "the next run's window is not open either"


def test_nothing_scheduled_goes_over_a_line_in_quiet_hours(tmp_path: Path) -> None:
    for rig in (PlcRig(tmp_path / "plc"), BusRig(tmp_path / "bus")):
        quiet = replace(provisioning(task()), quiet_hours="09:00-09:10", zone=MADRID)
        rig.collector.configure(quiet)
        rig.run(580)
        assert rig.records() == []
        assert all(meter.last_attempt == 0 for meter in rig.collector.meters()), "not even for a name"
        rig.run(120)
        assert read(rig).keys() == {RUN}


def test_what_is_not_finished_by_its_deadline_is_listed_then_and_not_read_later(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    late = task(windows="09:10-09:14", zone=MADRID, deadline_s=300)
    rig.collector.configure(provisioning(late))
    rig.run(290)
    assert rig.gaps() == []
    rig.run(320)
    assert [(gap["gap"], gap["first"], gap["last"], gap["reason"]) for gap in rig.gaps()] == [
        ("open", RUN, None, "deadline")
    ]
    assert read(rig) == {}
    rig.collector.configure(provisioning(replace(late, windows="")))
    rig.run(600)
    assert read(rig).keys() == {RUN + 900}
    spans = [(gap["gap"], gap["first"], gap["last"], gap["reason"]) for gap in rig.gaps()]
    assert spans[-1] == ("open", RUN, RUN, "deadline")
