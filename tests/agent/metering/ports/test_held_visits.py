"""Visits that are held for one commit: what is stored together, and what becomes of it when something goes wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from agent.metering.ports.held_visits import HOLD_S, READINGS_MAX, HeldVisits, Taken
from agent.metering.registry.entry import Meter
from agent.metering.store.reading_store import Brought, Progress, Store, StoreDefectError, StoreError
from agent.metering.visit.visit import Visit
from omadm.readings import EventReport
from tests.agent.metering.readings import reading
from tests.agent.metering.test_collector import PlcRig, provisioning

RUN = 1_800_000_000


def taken(name: str, visit: object, values: Sequence[int], *, final: bool = True, urgent: bool = False) -> Taken:
    meter = Meter(name, "plc0", 1, "", name, named=True, joined=0.0)
    of = type("OfMeter", (), {"meter": meter})() if visit is None else visit
    events = cast("list[EventReport]", [object()]) if urgent else []
    readings = [reading(value, name, RUN) for value in values]
    marks = [Progress(name, "t1", RUN)] if final else []
    return Taken(
        cast("Visit", of),
        meter,
        (),
        readings,
        marks,
        {name: {"n": len(values)}},
        events,
        trusted=True,
        final=final,
        periods={},
    )


def test_what_is_held_is_due_after_some_seconds_or_when_it_is_much_or_the_last() -> None:
    held = HeldVisits()
    assert (held.deadline(), held.due(9.0, more_to_come=False)) == (math.inf, False)
    held.add(taken("A", None, range(10)), 100.0)
    held.add(taken("B", None, range(10)), 103.0)
    assert held.deadline() == 100.0 + HOLD_S
    assert not held.due(104.9, more_to_come=True)
    assert held.due(105.0, more_to_come=True)
    assert held.due(103.0, more_to_come=False)
    assert [one.meter.key for one in held.take()] == ["A", "B"]
    assert (held.deadline(), held.due(200.0, more_to_come=False)) == (math.inf, False)
    held.add(taken("C", None, range(READINGS_MAX - 1)), 110.0)
    assert not held.due(110.0, more_to_come=True)
    held.add(taken("D", None, range(1)), 110.0)
    assert held.due(110.0, more_to_come=True)


def test_an_event_is_due_at_once() -> None:
    held = HeldVisits()
    held.add(taken("A", None, [1]), 100.0)
    held.add(taken("B", None, [1], final=False, urgent=True), 100.0)
    assert held.due(100.0, more_to_come=True)


def test_the_steps_of_a_visit_are_one_block_and_its_end_has_their_marks() -> None:
    held, first = HeldVisits(), taken("A", None, [1, 2], final=False)
    held.add(first, 100.0)
    held.add(taken("B", None, [9]), 100.0)
    held.add(taken("A", first.visit, [3], final=True), 101.0)
    assert [held.has(one.meter) for one in (first, taken("C", None, []))] == [True, False]
    whole, other = held.take()
    assert ([one.raw for one in whole.readings], whole.final, whole.marks) == (
        [1, 2, 3],
        True,
        [Progress("A", "t1", RUN)],
    )
    assert (whole.knowledge, [one.raw for one in other.readings]) == ({"A": {"n": 1}}, [9])


def hold_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeldVisits, "due", lambda *_, **__: False)
    monkeypatch.setattr(HeldVisits, "deadline", lambda _: math.inf)


class Commits:
    """Sees what the store is given, commit by commit, and may refuse some of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuse: str = "", error: type[Exception] = StoreError) -> None:
        self.meters: list[list[str]] = []
        self.refused = 0
        append_all = Store.append_all

        def seen(store: Store, visits: Sequence[Brought], *also: object) -> object:
            names = [visit.readings[0].meter for visit in visits if visit.readings]
            if refuse in names and self.refused < 2:
                self.refused += 1
                raise error("refused")
            if names:
                self.meters.append(names)
            return append_all(store, visits, *also)  # type: ignore[arg-type]

        monkeypatch.setattr(Store, "append_all", seen)


def test_visits_that_end_within_seconds_come_in_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = PlcRig(tmp_path, meters=6)
    commits = Commits(monkeypatch)
    rig.collector.configure(provisioning())
    rig.run(30)
    assert rig.count() == {(meter.id, RUN): 108 for meter in rig.meters}
    assert sorted(len(names) for names in commits.meters) in ([2, 4], [1, 1, 4]), commits.meters


def test_a_power_cut_before_the_commit_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing says that the meters were read, and they are read again."""
    rig = PlcRig(tmp_path, meters=3)
    hold_on(monkeypatch)
    rig.collector.configure(provisioning())
    rig.run(30)
    assert (rig.records(), rig.store.progress(), rig.statuses()) == ([], {}, dict.fromkeys(rig.statuses(), "joined"))
    monkeypatch.undo()
    rig.store.close()
    rig.start()
    rig.collector.configure(provisioning())
    rig.run(30)
    assert rig.count() == {(meter.id, RUN): 108 for meter in rig.meters}
    assert len(rig.store.progress()) == 3


def test_what_is_held_is_stored_when_the_port_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = PlcRig(tmp_path, meters=3)
    hold_on(monkeypatch)
    rig.collector.configure(provisioning())
    rig.run(30)
    rig.reader.close()
    assert rig.count() == {(meter.id, RUN): 108 for meter in rig.meters}
    assert len(rig.store.progress()) == 3


def test_a_clock_that_is_set_before_the_commit_vouches_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = PlcRig(tmp_path, meters=1)
    hold_on(monkeypatch)
    rig.collector.configure(provisioning())
    rig.run(30)
    rig.clock.wall_offset += 86_400.0
    rig.reader.close()
    assert {record["trusted"] for record in rig.records()} == {False}
    assert rig.store.progress() == {}


def test_what_the_store_does_not_take_of_one_meter_keeps_no_other_from_being_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = PlcRig(tmp_path, meters=4)
    commits = Commits(monkeypatch, rig.meters[1].id, StoreDefectError)
    rig.collector.configure(provisioning())
    rig.run(8)
    assert commits.refused == 2, "in the commit of several, and alone"
    assert {meter for meter, _ in rig.count()} == {rig.meters[at].id for at in (0, 2, 3)}
    rig.run(120)
    assert rig.count() == {(meter.id, RUN): 108 for meter in rig.meters}


def test_a_store_that_fails_fails_all_of_a_commit_and_they_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = PlcRig(tmp_path, meters=3)
    commits = Commits(monkeypatch, rig.meters[1].id)
    rig.collector.configure(provisioning())
    rig.run(300)
    assert commits.refused == 2
    assert rig.count() == {(meter.id, RUN): 108 for meter in rig.meters}
