"""What is missing is listed, told once, closed, and the picture of it is the same everywhere: over simulated lines."""

from __future__ import annotations

import logging
import random
import sqlite3
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from agent.metering.collector import SHARE_EVERY_S, UNREAD_SHARE_MAX
from agent.metering.ledger import gap_table
from agent.metering.ledger.keeper import ALIVE_EVERY_S, LedgerKeeper
from agent.metering.scheduling.readinglist import ReadingList
from agent.metering.scheduling.run_tally import SILENT_AFTER
from agent.metering.scheduling.tasks import OwedRun
from agent.metering.store.life_sign import LifeSign, LifeSignFile
from agent.metering.store.reading_store import Store, StoreError
from agent.metering.store.store_schema import StoreCorruptError
from agent.settings.provisioning import ReadingTask
from omadm.readings import Reading
from omadm.schedule import Periodic
from tests.agent.metering.test_collector import (
    EVERY_S,
    PASSWORD,
    ROWS,
    PlcRig,
    metering,
    provisioning,
    replace_config,
    task,
)
from tests.agent.virtual import VirtualClock
from tests.sim.meters import SimMeter

RUN = 1_800_000_000


def told(rig: PlcRig) -> list[tuple[object, ...]]:
    """(gap, meter's number, first, last, reason, how) of each report, slots as numbers of runs."""

    def number(at: object) -> object:
        return (at - RUN) // EVERY_S if isinstance(at, int) else at

    meters = {meter.id: place for place, meter in enumerate(rig.meters)}
    return [
        (gap["gap"], meters.get(str(gap["meter"]), gap["meter"]), number(gap["first"]), number(gap["last"]),
         gap["reason"], gap["how"])
        for gap in rig.gaps()
    ]  # fmt: skip


def events(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [str(getattr(record, "event", "")) for record in caplog.records if record.levelno >= level]


def off(rig: PlcRig, seconds: float) -> None:
    """No power for this long. Meters are on lines of their own."""
    rig.reader.close()
    rig.collector.close()
    rig.store.close()
    rig.clock.advance(seconds)
    rig.start()
    rig.collector.configure(provisioning())


@pytest.mark.slow
def test_the_runs_that_passed_in_six_hours_without_power_are_listed(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=2)
    rig.collector.configure(provisioning())
    rig.run(60)
    assert rig.gaps() == []
    off(rig, 6 * 3600.0)
    rig.run(60)
    assert sorted(told(rig), key=str) == [
        ("open", 0, 1, 23, "concentrator-off", None),
        ("open", 0, 1, None, "concentrator-off", None),
        ("open", 1, 1, 23, "concentrator-off", None),
        ("open", 1, 1, None, "concentrator-off", None),
    ]
    listed = {(gap.first, gap.last) for gap, _ in rig.collector.tasks.gaps()}
    assert listed == {(RUN + EVERY_S, RUN + 23 * EVERY_S)}
    assert {meter for meter, run in rig.count() if run == RUN + 24 * EVERY_S} == {meter.id for meter in rig.meters}
    before = len(rig.gaps())
    rig.run(3 * EVERY_S)
    assert len(rig.gaps()) == before


def test_what_is_owed_is_not_forgotten_before_the_tasks_are_known(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(60)
    rig.restart()
    rig.clock.advance(6 * 3600.0)
    rig.collector.tick()
    rig.collector.configure(provisioning())
    rig.run(30)
    assert len(rig.collector.tasks.gaps()) == 1


def test_a_restart_between_two_runs_lists_nothing(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(60)
    for _ in range(3):
        off(rig, 120.0)
        rig.run(30)
    assert rig.gaps() == []


@pytest.mark.slow
def test_a_silent_meter_is_one_gap_with_two_reports_however_long_it_lasts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = PlcRig(tmp_path, meters=2)
    mute = rig.meters[0].id
    rig.collector.configure(provisioning())
    rig.run(60)
    rig.network.faults.mute = frozenset({mute})
    rig.run(8 * EVERY_S)
    assert told(rig) == [("open", 0, 1, None, "meter-silent", None)]
    assert [(gap.first, gap.last, going_on) for gap, going_on in rig.collector.tasks.gaps()] == [
        (RUN + EVERY_S, RUN + 7 * EVERY_S, True)
    ]
    rig.network.faults.mute = frozenset()
    rig.run(EVERY_S)
    assert told(rig)[1:] == [("open", 0, 1, 8, "meter-silent", None)]
    warnings = [event for event in events(caplog, logging.WARNING) if event.startswith("meter.")]
    assert warnings == ["meter.silent", "meter.recovered"]


@pytest.mark.slow
def test_what_a_meter_owed_before_it_told_its_name_it_owes_under_its_name(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    meter = rig.meters[0].id
    rig.network.faults.mute = frozenset({meter})
    rig.collector.configure(provisioning())
    rig.run(3 * EVERY_S)
    assert [(gap["last"], gap["how"]) for gap in rig.gaps()] == [(None, None)]
    assert rig.gaps()[0]["meter"] != meter
    rig.network.faults.mute = frozenset()
    rig.run(EVERY_S)
    assert [(gap.meter, gap.first, gap.last) for gap, _ in rig.collector.tasks.gaps()] == [
        (meter, RUN, RUN + 2 * EVERY_S)
    ]
    assert [how for _, _, _, _, _, how in told(rig) if how] == ["renamed"]


def test_a_run_that_passes_before_a_meter_counts_as_left_says_that_it_was_away(tmp_path: Path) -> None:
    """A run that can be read for 20 seconds only, and has passed before `leave_after_s`."""
    rig = PlcRig(tmp_path, meters=2)
    rig.collector.configure(provisioning(ReadingTask("t1", EVERY_S, "residential-108", deadline_s=20)))
    rig.run(60)
    rig.run(EVERY_S - 20 - (rig.clock.wall() - RUN) % EVERY_S)
    rig.network.command({"cmd": "leave", "meter": rig.meters[0].id}, rig.clock.now)
    rig.run(60)
    assert {meter.state for meter in rig.collector.meters()} == {"read"}, "none counts as left"
    assert told(rig) == [("open", 0, 1, None, "meter-absent", None)]


@pytest.mark.slow
def test_what_a_meter_owes_while_another_one_has_its_place_is_listed_until_it_is_back_or_forgotten(
    tmp_path: Path,
) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(60)
    old, new = rig.meters[0], SimMeter(99, ROWS, 3, PASSWORD)
    for meter, runs in ((new, 2), (old, 3)):
        for node in rig.network._nodes.values():
            node.meter = meter
        rig.run(runs * EVERY_S)
    open_gaps = [(gap.meter, (gap.first - RUN) // EVERY_S, (gap.last - RUN) // EVERY_S, gap.reason)
                 for gap, _ in rig.collector.tasks.gaps()]  # fmt: skip
    assert open_gaps == [(old.id, 1, 2, "meter-absent"), (new.id, 3, 4, "meter-absent")]
    read_in_turn = (old, new, new, old, old, old)
    assert set(rig.count()) == {(meter.id, RUN + number * EVERY_S) for number, meter in enumerate(read_in_turn)}
    rig.collector.remove(new.id)
    rig.run(2 * EVERY_S)
    assert {gap.meter for gap, _ in rig.collector.tasks.gaps()} == {old.id}
    assert set(rig.statuses()) == {old.id}


def test_a_meter_that_left_and_a_port_that_is_lost_are_told_apart(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=2)
    rig.collector.configure(provisioning())
    rig.run(60)
    rig.network.command({"cmd": "leave", "meter": rig.meters[0].id}, rig.clock.now)
    rig.run(2 * EVERY_S)
    assert told(rig) == [("open", 0, 1, None, "meter-absent", None)]
    rig.open_error = "no such device"
    rig.lines[-1].broken = True
    rig.run(2 * EVERY_S)
    assert ("open", 1, 3, None, "port-lost", None) in told(rig)


@pytest.mark.slow
def test_a_task_that_is_disabled_owes_nothing_and_one_without_a_list_says_so(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning(task("t1"), task("t2", reading_list="none")))
    rig.run(60)
    rig.run(EVERY_S)
    assert [(gap["task"], gap["reason"]) for gap in rig.gaps()] == [("t2", "no-reading-list")]
    rig.collector.configure(provisioning(task("t3")))
    rig.run(3 * EVERY_S)
    assert [(gap["task"], gap["last"] is None) for gap in rig.gaps()] == [("t2", True), ("t2", False)]


@pytest.mark.slow
def test_while_nothing_vouches_for_the_clock_nothing_is_settled_and_afterwards_it_is_known_why(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=2)
    rig.collector.configure(provisioning())
    rig.run(60)
    rig.network.faults.mute = frozenset({rig.meters[0].id})
    rig.clock.is_trusted = False
    rig.run(4 * EVERY_S)
    assert rig.gaps() == []
    assert sum(1 for record in rig.records() if record["trusted"] is False) == 4 * 108
    rig.clock.is_trusted = True
    rig.run(30)
    assert sorted(told(rig), key=str) == [
        ("confirmed", 1, 1, 4, "clock-unknown", None),
        ("open", 0, 1, None, "clock-unknown", None),
    ]
    assert rig.store.progress()[rig.meters[1].id, "t1"] == RUN + 4 * EVERY_S
    assert rig.count()[rig.meters[1].id, RUN + 4 * EVERY_S] == 108, "what was proven later is not read again"


@pytest.mark.slow
def test_an_outage_and_the_time_until_somebody_vouches_for_the_clock_are_told_apart(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(60)
    rig.network.faults.mute = frozenset({rig.meters[0].id})
    rig.clock.is_trusted = False
    off(rig, 6 * 3600.0)
    rig.run(4 * EVERY_S)
    assert rig.gaps() == []
    rig.clock.is_trusted = True
    rig.run(5)
    assert told(rig) == [
        ("open", 0, 1, None, "concentrator-off", None),
        ("open", 0, 1, 23, "concentrator-off", None),
        ("open", 0, 24, None, "clock-unknown", None),
    ]


def test_a_clock_that_was_a_day_ahead_leaves_no_run_done_and_its_readings_in_doubt(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(EVERY_S - 30)
    offset = rig.clock.wall_offset
    rig.clock.wall_offset = offset + 86_400
    rig.run(600)
    assert rig.store.progress()[rig.meters[0].id, "t1"] == RUN + 97 * EVERY_S
    rig.clock.wall_offset = offset
    rig.run(60)
    assert rig.store.progress()[rig.meters[0].id, "t1"] == RUN + EVERY_S
    assert [row for row in told(rig) if row[0] == "doubted" and row[2] == 96]
    rig.run(EVERY_S)
    assert rig.store.progress()[rig.meters[0].id, "t1"] == RUN + 2 * EVERY_S
    right = [int(str(run)) for _, run in rig.count() if int(str(run)) < RUN + 90 * EVERY_S]
    assert sorted(right) == [RUN, RUN + EVERY_S, RUN + 2 * EVERY_S]


def test_what_a_full_store_gave_up_is_listed(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=2)
    rig.store._records_max = 250
    rig.collector.configure(provisioning())
    rig.run(2 * EVERY_S)
    assert rig.store.stats().lost >= 216
    listed = {(gap.meter, gap.first, gap.last, gap.reason) for gap, _ in rig.collector.tasks.gaps()}
    assert {(meter.id, RUN, RUN, "store-lost") for meter in rig.meters} <= listed


def test_the_ledger_survives_a_store_that_is_set_aside(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(60)
    off(rig, 6 * 3600.0)
    rig.run(60)
    before = rig.collector.tasks.gaps()
    assert len(before) == 1
    rig.reader.close()
    rig.store.close()
    with sqlite3.connect(rig.config.store_file) as db:
        db.execute("DROP TABLE refused")
    db.close()
    rig.start()
    rig.collector.configure(provisioning())
    rig.run(30)
    assert list(tmp_path.glob("readings.db.quarantine-*"))
    assert rig.collector.tasks.gaps() == before


def nothing_left(rig: PlcRig, *, sign: bool, seconds: float) -> None:
    """No power for this long, and after it no page of the store can be read, nor, without `sign`, the sign of life."""
    rig.reader.close()
    rig.collector.close()
    rig.store.close()
    rig.config.store_file.write_bytes(b"\xff" * 20_000)
    if not sign:
        Path(f"{rig.config.store_file}-alive").unlink()
    rig.clock.advance(seconds)
    rig.start()
    rig.collector.configure(provisioning())


@pytest.mark.slow
def test_where_the_ledger_is_lost_all_since_the_last_sign_of_life_is_listed(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=2)
    rig.collector.configure(provisioning())
    rig.run(3 * EVERY_S)
    nothing_left(rig, sign=True, seconds=6 * 3600.0)
    rig.run(60)
    newest = rig.clock.wall() // EVERY_S * EVERY_S
    for meter in rig.meters:
        ranges = [(gap.first, gap.last) for gap, _ in rig.collector.tasks.gaps() if gap.meter == meter.id]
        slots = {slot for first, last in ranges for slot in range(first, last + 1, EVERY_S)}
        assert slots >= set(range(RUN + 3 * EVERY_S, int(newest), EVERY_S))
        assert min(slots) >= RUN  # and nothing from before it was ever there
        assert (meter.id, newest) in rig.count()
    reasons = {gap.reason for gap, _ in rig.collector.tasks.gaps()}
    assert "concentrator-off" in reasons
    before = rig.collector.tasks.gaps()
    rig.restart()
    rig.collector.configure(provisioning())
    rig.run(30)
    assert rig.collector.tasks.gaps() == before


def deliver(rig: PlcRig) -> None:
    while (batch := rig.store.batch(10**6)) is not None:
        rig.store.release(batch.store, batch.last, first=batch.first)


def listed_slots(rig: PlcRig) -> set[tuple[str, int]]:
    """(meter, slot) of all that is listed on the device."""
    gaps = [gap for gap, _ in rig.collector.tasks.gaps()]
    return {(gap.meter, slot) for gap in gaps for slot in range(gap.first, gap.last + 1, EVERY_S)}


def delivered_and_off(rig: PlcRig) -> set[tuple[str, int]]:
    """All is at the head-end, and six hours pass without power. Returns what was missed, of which reports wait now."""
    rig.collector.configure(provisioning())
    rig.run(EVERY_S - 60)
    deliver(rig)
    off(rig, 6 * 3600.0)
    rig.run(60)
    missed = {(meter.id, RUN + number * EVERY_S) for meter in rig.meters for number in range(1, 24)}
    assert listed_slots(rig) == missed
    return missed


def spoil_pages(rig: PlcRig, table: str) -> None:
    """No page of this table can be read any more, nor those of the blocks: but what was delivered is known."""
    rig.store.close()
    db = sqlite3.connect(rig.config.store_file)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    pages = [row[0] for name in (table, "block")
             for row in db.execute("SELECT rootpage FROM sqlite_master WHERE name=?", (name,))]  # fmt: skip
    db.close()
    octets = bytearray(rig.config.store_file.read_bytes())
    for page in pages:
        octets[(page - 1) * 512 : page * 512] = b"\xa5" * 512
    rig.config.store_file.write_bytes(octets)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["garbage", "gone", "pages", "pages, at 1970"])
def test_what_a_report_told_that_is_lost_with_the_ledger_is_listed_anew(tmp_path: Path, how: str) -> None:
    """The slots of hours without power are older than the report of them, and than all that waits."""
    rig = PlcRig(tmp_path, meters=2)
    missed = delivered_and_off(rig)
    rig.reader.close()
    rig.collector.close()
    if how.startswith("pages"):
        spoil_pages(rig, "gap")
    else:
        rig.store.close()
        rig.config.store_file.write_bytes(b"\xff" * 20_000)
        if how == "gone":
            rig.config.store_file.unlink()
    rig.clock.advance(60)
    offset = rig.clock.wall_offset
    if how.endswith("1970"):  # the store is opened before anybody has told the time
        rig.clock.wall_offset, rig.clock.is_trusted = -rig.clock.now, False
    rig.start()
    rig.collector.configure(provisioning())
    rig.run(60)
    rig.clock.wall_offset, rig.clock.is_trusted = offset, True
    rig.run(60)
    assert listed_slots(rig) >= missed
    deliver(rig)
    rig.run(EVERY_S)
    deliver(rig)
    rig.store.note_alive(rig.clock.wall())
    assert rig.store.file.sign.lists_from == 0.0


@pytest.mark.slow
def test_what_a_store_tells_of_the_one_before_it_and_loses_is_listed_anew(tmp_path: Path) -> None:
    """Damage twice: the reports that list what the first one lost are lost by the second."""
    rig = PlcRig(tmp_path, meters=2)
    missed = delivered_and_off(rig)
    for seconds in (60.0, 120.0):
        nothing_left(rig, sign=True, seconds=seconds)
        rig.run(60)
        assert listed_slots(rig) >= missed


def test_a_report_of_what_passed_long_ago_has_its_sign_before_it_is_stored(tmp_path: Path) -> None:
    """A clock that is corrected lists what passed hours before the last sign of life."""
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(3 * EVERY_S)
    deliver(rig)
    rig.collector.tick()
    keeper, meter = rig.collector.tasks._keeper, rig.meters[0].id
    keeper.list_judged(meter, "t1", (RUN + EVERY_S, RUN + 2 * EVERY_S), [])
    before = rig.store.file.sign
    with pytest.MonkeyPatch.context() as patch:  # the power is cut before anything of it is in the store
        patch.setattr(gap_table, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            keeper.flush(rig.clock.wall(), alive=False)
    sign = rig.store.file.sign
    assert (before.lists_from, sign.lists_from) == (0.0, RUN + 2 * EVERY_S - 1)
    assert LifeSignFile(Path(f"{rig.config.store_file}-alive")).read() == sign
    keeper.flush(rig.clock.wall(), alive=False)
    assert rig.store.file.sign == sign, "one is enough"
    nothing_left(rig, sign=True, seconds=10.0)
    rig.run(30)
    assert listed_slots(rig) >= {(meter, RUN + EVERY_S), (meter, RUN + 2 * EVERY_S)}


def test_a_report_of_what_passed_since_the_last_sign_costs_none(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=2)
    rig.collector.configure(provisioning())
    rig.run(60)
    deliver(rig)
    rig.network.faults.mute = frozenset({rig.meters[0].id})
    signs: list[LifeSign] = []
    write = LifeSignFile._write

    def counted(self: LifeSignFile, sign: LifeSign) -> None:
        signs.append(sign)
        write(self, sign)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LifeSignFile, "_write", counted)
        rig.run(3 * EVERY_S)
    assert [(one[0], one[1]) for one in told(rig)] == [("open", 0)]
    assert signs[-1].lists_from == RUN + 2 * EVERY_S - 1
    assert [one.alive - before.alive >= ALIVE_EVERY_S for before, one in pairwise(signs)] == [True] * (len(signs) - 1)


@pytest.mark.parametrize("left", [None, b""])
def test_a_store_that_is_gone_beside_its_sign_is_lost_with_what_waited_in_it(
    tmp_path: Path, left: bytes | None
) -> None:  # fmt: skip
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(4 * EVERY_S)
    waiting = rig.store.stats().pending
    rig.reader.close()
    rig.collector.close()
    rig.store.close()
    rig.config.store_file.unlink()
    if left is not None:
        rig.config.store_file.write_bytes(left)
    rig.start()
    rig.collector.configure(provisioning())
    rig.run(60)
    assert 0 < rig.store.stats().lost <= waiting
    gaps = [gap for gap, _ in rig.collector.tasks.gaps()]
    lost = {slot for gap in gaps if gap.reason == "store-lost" for slot in range(gap.first, gap.last + 1, EVERY_S)}
    assert lost >= {RUN + number * EVERY_S for number in range(3)}


@pytest.mark.slow
def test_where_the_sign_of_life_is_lost_as_well_it_is_said_that_nobody_knows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rig = PlcRig(tmp_path, meters=2)
    rig.collector.configure(provisioning())
    rig.run(60)
    assert "ledger.unknown" not in events(caplog)
    nothing_left(rig, sign=False, seconds=6 * 3600.0)
    rig.run(60)
    assert events(caplog, logging.ERROR).count("ledger.unknown") == 1
    rig.restart()
    rig.collector.configure(provisioning())
    rig.run(60)
    assert events(caplog, logging.ERROR).count("ledger.unknown") == 1


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_a_sign_of_life_of_a_time_that_has_not_come_is_said_and_the_one_before_it_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, known: bool
) -> None:
    caplog.set_level(logging.INFO)
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(3 * EVERY_S)
    file = LifeSignFile(Path(f"{rig.config.store_file}-alive"))
    sign = file.read()
    assert sign is not None
    ahead = sign.alive_at(sign.alive + 86_400.0)  # as a clock that was a day ahead has it written
    for number in (1, 2):
        file.write(replace(ahead, number=sign.number + number, steady=ahead.steady if known else 0.0))
    file.close()
    nothing_left(rig, sign=True, seconds=6 * 3600.0)
    rig.run(60)
    assert events(caplog, logging.WARNING).count("ledger.ahead") == 1
    assert events(caplog, logging.ERROR).count("ledger.unknown") == (not known)
    newest = int(rig.clock.wall() // EVERY_S * EVERY_S)
    ranges = [(gap.first, gap.last) for gap, _ in rig.collector.tasks.gaps()]
    slots = {slot for first, last in ranges for slot in range(first, last + 1, EVERY_S)}
    since = int(sign.alive // EVERY_S + 1) * EVERY_S
    if known:  # else what the damaged store may have held is listed, and nobody knows whether that is all
        assert {slot for slot in slots if slot >= since} == set(range(since, newest, EVERY_S))


@pytest.mark.slow
def test_a_meter_that_is_new_owes_nothing_of_the_time_before_it_joined(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=2)
    rig.collector.configure(provisioning())
    rig.run(60)
    rig.reader.close()
    rig.collector.close()
    rig.config.registry_file.unlink()  # so that they join for the first time once more
    nothing_left(rig, sign=True, seconds=6 * 3600.0)
    rig.run(60)
    assert not [gap for gap, _ in rig.collector.tasks.gaps() if gap.reason == "concentrator-off"]


@pytest.mark.slow
def test_a_ledger_in_memory_is_written_into_the_store_that_takes_the_place_of_a_damaged_one(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(60)
    damaged = iter([True])

    def find_damage(_db: sqlite3.Connection) -> None:
        if next(damaged, False):
            rig.config.store_file.write_bytes(b"\xff" * 20_000)
            raise StoreCorruptError("as a page that cannot be read says it")

    rig.store.ask(find_damage)
    rig.collector.tick()
    accounts = "SELECT meter, task FROM account"
    assert rig.store.ask(lambda db: db.execute(accounts).fetchall()) == [(rig.meters[0].id, "t1")]
    off(rig, 6 * 3600.0)
    rig.run(60)
    ranges = [(gap.first, gap.last) for gap, _ in rig.collector.tasks.gaps()]
    slots = {slot for first, last in ranges for slot in range(first, last + 1, EVERY_S)}
    assert slots >= set(range(RUN + EVERY_S, RUN + 24 * EVERY_S, EVERY_S))


# --- a process that is killed under a clock that lies ---


def judged(rig: PlcRig) -> list[tuple[str, int, int]]:
    """What was said of readings, by numbers of runs."""
    return [
        (str(gap["gap"]), (int(str(gap["first"])) - RUN) // EVERY_S, (int(str(gap["last"])) - RUN) // EVERY_S)
        for gap in rig.gaps()
        if gap["gap"] in ("doubted", "confirmed")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("lie_s", [-2 * 3600.0, -86_400.0, 86_400.0])
def test_what_was_read_under_a_liar_is_doubted_also_after_the_process_was_killed(tmp_path: Path, lie_s: float) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(8 * EVERY_S)
    rig.clock.wall_offset += lie_s
    begun = rig.store.next_id()
    rig.run(3 * EVERY_S)
    said = judged(rig)
    assert said[0] == ("doubted", -1, 8)  # as it seems to whoever believes the liar
    lied = {int(str(one["run"])) for one in rig.records() if int(str(one["id"])) >= begun and one["trusted"]}
    assert len(lied) >= 3
    rig.restart()
    rig.clock.wall_offset -= lie_s
    rig.collector.configure(provisioning())
    rig.run(2 * EVERY_S)
    ranges = [(first, last) for verdict, first, last in judged(rig)[len(said) :] if verdict == "doubted"]
    for run in lied:
        assert any(first <= (run - RUN) // EVERY_S <= last for first, last in ranges), (run, judged(rig))
    newest = int(rig.clock.wall() // EVERY_S * EVERY_S)
    assert newest in {run for _, run in rig.count()}
    told = judged(rig)
    rig.restart()  # marks that were corrected are of the epoch in which that was done
    rig.collector.configure(provisioning())
    rig.run(60)
    assert judged(rig) == told
    assert all(first >= -4 * 96 for _, first, _ in told)


@pytest.mark.slow
def test_what_an_earlier_life_read_under_a_right_clock_is_confirmed_when_the_liar_is_found_out(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(3 * EVERY_S)
    rig.restart()
    rig.clock.wall_offset -= 86_400.0
    rig.collector.configure(provisioning())
    rig.run(60)
    rig.clock.wall_offset += 86_400.0
    rig.run(60)
    said = judged(rig)
    assert said[0] == ("doubted", -1, 3)
    assert said[-1] == ("confirmed", -1, 3)  # takes back all that was said of these readings before


@pytest.mark.slow
def test_of_another_boot_nothing_is_known_and_nothing_doubted(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(3 * EVERY_S)
    rig.boot = "another"
    rig.restart()
    rig.clock.wall_offset += 3600.0  # as monotonic time begins anew
    rig.collector.configure(provisioning())
    rig.run(60)
    assert judged(rig) == []


# --- what closes a gap ---


LOAD, EVENTS = "1.0.99.1.0.255", "0.0.99.98.0.255"
PERIODS = {LOAD: EVERY_S, EVENTS: 0.0}


def row(meter: str, at: str, obis: str = "1.0.1.8.0.255") -> Reading:
    return Reading(
        task="profile", meter=meter, cls=3, obis=obis, attr=2, tag="u32", raw=1, scaler=0, unit=30, meter_time=at,
        received=1.0, trusted=True, error=None, run=RUN, profile="1.0.99.1.0.255",
    )  # fmt: skip


def test_rows_of_a_load_profile_close_the_slots_that_they_hold_and_the_head_end_is_told(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    meter = rig.meters[0].id
    rig.collector.configure(provisioning())
    rig.run(60)
    off(rig, 6 * 3600.0)
    rig.run(60)
    # RUN is 2027-01-15T08:00:00Z: the intervals that end at 08:15 to 10:00.
    times = [f"2027-01-15T{8 + quarter // 4:02}:{15 * (quarter % 4):02}:00Z" for quarter in range(1, 9)]
    rig.collector.tasks.stored([row(meter, at) for at in times], PERIODS)
    rig.run(2)
    assert told(rig)[-1] == ("closed", 0, 1, 8, "concentrator-off", "profile")
    assert [(gap.first, gap.last) for gap, _ in rig.collector.tasks.gaps()] == [(RUN + 9 * EVERY_S, RUN + 23 * EVERY_S)]
    rig.collector.tasks.stored([row("another", at) for at in times] + [row(meter, "never")], PERIODS)
    rig.run(2)
    assert len(rig.collector.tasks.gaps()) == 1


@pytest.mark.parametrize(
    ("obis", "profile"),
    [
        ("0.0.96.11.0.255", EVENTS),  # the code of an event
        ("1.0.1.8.0.255", EVENTS),  # a register beside it, at the times of events
        ("0.0.96.10.1.255", LOAD),  # a status word, which the task does not read
        ("1.0.1.8.0.255", "1.0.99.2.0.255"),  # a profile of which no period is known
    ],
)
def test_rows_that_hold_no_interval_of_what_the_task_reads_close_nothing(
    tmp_path: Path, obis: str, profile: str
) -> None:
    """A log of events is fullest after an outage; its rows are no values of the slots that were missed."""
    rig = PlcRig(tmp_path, meters=1)
    meter = rig.meters[0].id
    rig.collector.configure(provisioning())
    rig.run(60)
    off(rig, 6 * 3600.0)
    rig.run(60)
    listed = rig.collector.tasks.gaps()
    times = ("08:15:20", "08:16:10", "09:00:05", "09:01:00", "10:00:30", "10:01:10")
    rows = [replace(row(meter, f"2027-01-15T{at}Z", obis), profile=profile) for at in times]
    rig.collector.tasks.stored(rows, PERIODS)
    rig.run(2)
    assert rig.collector.tasks.gaps() == listed


def test_a_gap_is_given_up_for_a_person_s_reason(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(60)
    off(rig, 6 * 3600.0)
    rig.run(60)
    assert rig.collector.tasks.give_up(rig.meters[0].id, "other", "no") == 0
    assert rig.collector.tasks.give_up(rig.meters[0].id, "", "dark house") == 1
    assert rig.collector.tasks.gaps() == []
    assert told(rig)[-1] == ("closed", 0, 1, 23, "concentrator-off", "dark house")
    off(rig, 60.0)
    rig.run(30)
    assert rig.collector.tasks.gaps() == []


def test_what_the_store_would_not_take_is_written_with_the_next_flush(tmp_path: Path) -> None:
    clock = VirtualClock()
    store = Store(tmp_path / "s.db", clock, records_max=1000, keep_forwarded_max=0)
    keeper = LedgerKeeper(store)
    keeper.load({})
    keeper.expect("m", "t", Periodic(900), RUN)
    (tmp_path / "gone").mkdir()
    store.close()
    (tmp_path / "s.db").rename(tmp_path / "gone" / "s.db")
    (tmp_path / "s.db").mkdir()
    with pytest.raises(StoreError):
        keeper.flush(RUN + 1.0, alive=True)
    (tmp_path / "s.db").rmdir()
    (tmp_path / "gone" / "s.db").rename(tmp_path / "s.db")
    keeper.flush(RUN + 1.0, alive=True)
    other = LedgerKeeper(store)
    other.load({})
    assert other.ledger.settled("m", "t") == RUN - 900
    store.close()


# --- the picture ---


@pytest.mark.slow
def test_two_of_four_are_read_one_is_silent_and_one_is_absent_wherever_one_looks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = PlcRig(tmp_path, meters=4)
    health: list[tuple[bool, str]] = []
    rig.collector._meters_health = lambda ok, detail: health.append((ok, detail))
    rig.collector.configure(provisioning())
    rig.run(60)
    assert health[-1] == (True, "plc0: 4 of 4 read")
    rig.network.faults.mute = frozenset({rig.meters[0].id})
    rig.network.command({"cmd": "leave", "meter": rig.meters[1].id}, rig.clock.now)
    with caplog.at_level(logging.INFO):
        rig.run(2 * EVERY_S - 120)
    text = "2 of 4 read, 1 silent, 1 absent"
    assert rig.collector.task_status("t1").last_result == text
    assert health[-1] == (False, f"plc0: {text}")
    assert sorted(rig.statuses().values()) == ["left", "read", "read", "silent"]
    summaries = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "tasks.run"]
    assert summaries[-1] == f"task t1, run {RUN + EVERY_S}: {text}"
    assert rig.health[-1] == (True, "plc0"), "a new firmware is not judged by meters that are silent"


def test_a_run_of_a_clock_that_was_ahead_is_not_the_last_one_once_it_is_corrected(tmp_path: Path) -> None:
    """Also where no meter was ever read, and none is visited."""
    rig = PlcRig(tmp_path, meters=1)
    rig.network.faults.mute = frozenset({rig.meters[0].id})
    rig.collector.configure(provisioning())
    rig.run(60)
    rig.network.command({"cmd": "leave", "meter": rig.meters[0].id}, rig.clock.now)
    rig.run(EVERY_S)
    rig.clock.wall_offset += 86_400.0
    rig.run(60)
    assert rig.collector.task_status("t1").last_run == RUN + 86_400 + EVERY_S
    rig.clock.wall_offset -= 86_400.0
    rig.run(60)
    status = rig.collector.task_status("t1")
    assert (status.last_run, status.last_result) == (RUN + EVERY_S, "0 of 1 read, 1 absent")


def test_what_came_of_a_run_is_published_soon_after_its_last_visit(tmp_path: Path) -> None:
    """The share of meters that cannot be read is reckoned every few seconds. Whoever calls after that calls again."""
    rig = PlcRig(tmp_path, meters=1)
    rig.collector.configure(provisioning())
    rig.run(60)
    rig.clock.advance(SHARE_EVERY_S)
    assert rig.collector.tick() > SHARE_EVERY_S  # it is reckoned now, and nothing is to be done before the next run
    rig.clock.advance(1.0)
    assert rig.collector.tick() == SHARE_EVERY_S - 1.0
    rig.clock.advance(SHARE_EVERY_S - 1.0)
    assert rig.collector.tick() > SHARE_EVERY_S


@pytest.mark.slow
def test_a_tenth_of_the_meters_may_be_silent(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=11)
    health: list[tuple[bool, str]] = []
    rig.collector._meters_health = lambda ok, detail: health.append((ok, detail))
    rig.network.faults.mute = frozenset({rig.meters[0].id})
    rig.collector.configure(provisioning())
    rig.run(EVERY_S - 60)
    assert UNREAD_SHARE_MAX == 0.1
    assert health[-1] == (True, "plc0: 10 of 11 read, 1 silent")
    rig.network.faults.mute = frozenset(meter.id for meter in rig.meters[:2])
    rig.run(EVERY_S)
    assert health[-1] == (False, "plc0: 9 of 11 read, 2 silent")


@pytest.mark.slow
def test_a_mute_meter_makes_its_event_also_when_its_period_is_shorter_than_its_retries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "a.csv").write_text("obis,cls,attr\n1.0.1.8.0.255,3,2\n")
    rig = PlcRig(tmp_path, meters=1, config=replace_config(metering(tmp_path), tmp_path / "lists"))
    rig.network.faults.mute = frozenset({rig.meters[0].id})
    rig.collector.configure(provisioning(task("a", 30, "a")))
    rig.run(3600)
    assert [event for event in events(caplog, logging.WARNING) if event.startswith("meter.")] == ["meter.silent"]
    assert SILENT_AFTER == 3


@pytest.mark.slow
def test_dead_meters_make_a_line_each_and_then_one_per_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rig = PlcRig(tmp_path, meters=8)
    rig.network.faults.mute = frozenset(meter.id for meter in rig.meters)
    with caplog.at_level(logging.INFO):
        rig.collector.configure(provisioning())
        rig.run(EVERY_S - 60)
        first = len(caplog.records)
        rig.run(6 * EVERY_S)
    assert first < 40
    later = [str(getattr(record, "event", "")) for record in caplog.records[first:]]
    assert set(later) <= {"tasks.run"}
    assert len(later) <= 7


# --- all of it together ---


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.slow
def test_each_scheduled_slot_is_read_once_or_listed_whatever_happens(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "a.csv").write_text("obis,cls,attr\n1.0.1.8.0.255,3,2\n")
    rig = PlcRig(tmp_path, meters=3, config=replace_config(metering(tmp_path), tmp_path / "lists"))
    tasks = provisioning(task("t1", EVERY_S, "a"))
    rig.collector.configure(tasks)
    rig.run(60)
    for _ in range(30):
        what = rng.randrange(6)
        if what == 0:  # killed: nothing is said good-bye to
            rig.store.close()
            rig.clock.advance(rng.choice((1.0, 50.0, 1000.0, 9000.0)))
            rig.start()
            rig.collector.configure(tasks)
        elif what == 1:
            rig.network.faults.mute = frozenset(meter.id for meter in rig.meters if rng.random() < 0.5)
        elif what == 2:
            rig.network.command({"cmd": "leave", "meter": rng.choice(rig.meters).id}, rig.clock.now)
        elif what == 3:
            for meter in rig.meters:
                rig.network.command({"cmd": "join", "meter": meter.id}, rig.clock.now)
        elif what == 4:
            rig.clock.is_trusted = rng.random() < 0.6
        rig.run(rng.choice((3.0, 40.0, 300.0, 1000.0)))
    rig.clock.is_trusted = True
    rig.run(60)
    newest = int(rig.clock.wall()) // EVERY_S * EVERY_S
    listed = {
        (gap.meter, slot) for gap, _ in rig.collector.tasks.gaps() for slot in range(gap.first, gap.last + 1, EVERY_S)
    }
    count = rig.count()
    trusted = Counter((one["meter"], one["run"]) for one in rig.records() if one["trusted"])
    assert max(trusted.values()) == 1
    assert not set(trusted) & listed
    for meter in rig.meters:
        for slot in range(RUN, newest, EVERY_S):
            # What was read in doubt is read again each time that a kill made the process forget it.
            assert count[meter.id, slot] or (meter.id, slot) in listed, f"{meter.id} {slot} is neither read nor listed"


def test_a_task_that_reads_a_profile_alone_is_filled_by_its_rows(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    meter = rig.meters[0].id
    rig.collector.configure(provisioning(ReadingTask("t1", EVERY_S, "", codes=f"7/{LOAD}/2")))
    rig.run(60)
    off(rig, 3 * 3600.0)
    rig.run(60)
    listed = [gap for gap, _ in rig.collector.tasks.gaps()]
    assert listed
    times = [f"2027-01-15T{8 + quarter // 4:02}:{15 * (quarter % 4):02}:00Z" for quarter in range(1, 13)]
    rig.collector.tasks.stored([row(meter, at, "1.0.1.7.0.255") for at in times], PERIODS)
    rig.run(2)
    assert rig.collector.tasks.gaps() == []


def test_a_task_that_reads_logs_alone_has_missed_nothing_once_they_are_read(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, meters=1)
    meter = rig.meters[0].id
    reads = ReadingTask("t1", EVERY_S, "", codes=f"7/{EVENTS}/2")
    rig.collector.configure(provisioning(reads))
    rig.run(60)
    off(rig, 3 * 3600.0)
    rig.run(1)
    gaps = [gap for gap, _ in rig.collector.tasks.gaps()]
    assert gaps
    items = ReadingList("t1", reads.items)
    runs = [OwedRun(reads, run, items, trusted=True, offset=0.0) for run in (gaps[0].first, RUN + 10**6)]
    rig.collector.tasks.caught_up(meter, runs[:1])
    assert [gap.first for gap, _ in rig.collector.tasks.gaps()] == [gaps[0].first + EVERY_S]
    rig.collector.tasks.caught_up(meter, runs[1:])
    assert rig.collector.tasks.gaps() == []


def test_no_meter_is_visited_for_a_store_that_takes_nothing_and_none_is_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk: visits would be wasted, and their retries used up. When there is room again, all are read."""
    rig = PlcRig(tmp_path, meters=2)
    rig.collector.configure(provisioning())
    rig.run(60)
    append, tries = rig.store.append, [0]

    def full(*_: object, **__: object) -> None:
        tries[0] += 1
        rig.store._failed("no room on the medium")
        raise StoreError("no room on the medium", full=True)

    monkeypatch.setattr(rig.store, "append", full)
    monkeypatch.setattr(rig.store.file, "free_bytes", lambda: 0)
    rig.run(3 * EVERY_S)
    assert tries[0] < 20, "a few in the first pauses, and then one in five minutes"
    assert "meter.unstored" not in events(caplog)
    monkeypatch.undo()
    monkeypatch.setattr(rig.store, "append", append)
    rig.run(EVERY_S)
    assert {meter.state for meter in rig.collector.meters()} == {"read"}
    assert {reason for gap, _, _, _, reason, _ in told(rig) if gap == "open"} == {"store-failed"}
    assert rig.store.problem == ""
