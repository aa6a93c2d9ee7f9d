"""Gaps at the head-end: each report once, ranges that end, split and close, and what the device's ledger makes them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from agent.metering.ledger.gap_table import report
from agent.metering.ledger.ledger import GOES_ON, PROFILE, Change, Gap, Ledger, Reason
from headend import db
from headend.metering import gaps, readings
from omadm.local_time import Zone
from omadm.readings import emit, parse, record
from omadm.schedule import Calendar, Periodic, Schedule
from tests.headend.database import open_database
from tests.omadm.test_readings import DEVICE, STORE, a_record

T0, EVERY = 1_800_000_000, 900
NOW = 1_800_100_000.0


def run(number: int) -> int:
    return T0 + number * EVERY


def a_gap(record_id: int, first: int, last: int | None, state: str = "open", **fields: Any) -> dict[str, Any]:
    return {
        "id": record_id, "gap": state, "meter": "KFM1", "task": "t1", "profile": None, "first": run(first),
        "last": None if last is None else run(last), "every": EVERY, "reason": "meter-silent",
        "how": "profile" if state == "closed" else None, "noted": NOW, **fields,
    }  # fmt: skip


def post(database: Engine, *records: dict[str, Any], store: str = STORE) -> None:
    body = json.dumps({"version": 1, "device": DEVICE, "store": store, "records": list(records)})
    readings.store(database, parse(body.encode()), NOW)


def shown(database: Engine, state: str = "open") -> list[tuple[int, int | None]]:
    """First and last slot of each range, by number."""
    rows = gaps.listing(database, device=DEVICE, meter="KFM1", state=state)
    return sorted(
        ((row["first"] - T0) // EVERY, None if row["last"] is None else (row["last"] - T0) // EVERY) for row in rows
    )


def test_a_gap_goes_on_until_its_end_is_told(database: Engine) -> None:
    post(database, a_gap(1, 0, None))
    assert shown(database) == [(0, None)]
    post(database, a_gap(2, 0, 22))
    assert shown(database) == [(0, 22)]
    assert gaps.listing(database)[0]["slots"] == 23


def test_each_report_counts_once_however_often_the_batch_comes(database: Engine) -> None:
    opened, closed, again = a_gap(1, 0, 9), a_gap(2, 3, 5, "closed"), a_gap(3, 3, 3)
    for _ in range(3):
        post(database, opened, closed, again)
        post(database, opened)
    assert shown(database) == [(0, 2), (3, 3), (6, 9)]
    post(database, a_gap(1, 20, 21), store="e" * 32)
    assert shown(database)[-1] == (20, 21)


def test_a_part_that_is_closed_leaves_the_rest_open_and_stays_as_history(database: Engine) -> None:
    post(database, a_gap(1, 0, None), a_gap(2, 4, 5, "closed"))
    assert shown(database) == [(0, 3), (6, None)]
    assert shown(database, "closed") == [(4, 5)]
    (row,) = gaps.listing(database, state="closed")
    assert (row["how"], row["reason"], row["slots"]) == ("profile", "meter-silent", 2)


def test_gaps_of_profiles_and_of_other_tasks_are_ranges_of_their_own(database: Engine) -> None:
    post(database, a_gap(1, 0, 9), a_gap(2, 0, 9, task="t2"), a_gap(3, 0, 9, profile="1.0.99.1.0.255"))
    post(database, a_gap(4, 0, 9, "closed", profile="1.0.99.1.0.255"))
    still = {(row["task"], row["profile"]) for row in gaps.listing(database, state="open")}
    assert still == {("t1", ""), ("t2", "")}


def test_an_operator_gives_up_what_has_an_end(database: Engine) -> None:
    post(database, a_gap(1, 0, 9), a_gap(2, 12, None), a_gap(3, 0, 9, task="t2"))
    assert gaps.give_up(database, DEVICE, "KFM1", "exchanged on site", NOW, task="t1") == 1
    assert gaps.give_up(database, DEVICE, "KFM1", "exchanged on site", NOW) == 1
    assert shown(database) == [(12, None)]
    assert {row["how"] for row in gaps.listing(database, state="closed")} == {"exchanged on site"}


def test_what_was_given_up_here_stays_so_when_the_device_tells_it_once_more(database: Engine) -> None:
    post(database, a_gap(1, 2, 3), a_gap(2, 6, 7))
    assert gaps.give_up(database, DEVICE, "KFM1", "exchanged on site", NOW) == 2
    post(database, a_gap(1, 0, 9), store="e" * 32)  # of a store that had it as one range
    assert shown(database) == [(0, 1), (4, 5), (8, 9)]
    assert shown(database, "closed") == [(2, 3), (6, 7)]
    post(database, a_gap(3, 2, 3))  # and again as it was
    assert shown(database) == [(0, 1), (4, 5), (8, 9)]


def test_what_an_earlier_store_listed_beyond_the_end_that_a_later_one_tells_stays_listed(database: Engine) -> None:
    later = "e" * 32
    post(database, a_gap(1, 3, 9), a_gap(2, 20, None), a_gap(3, 40, 41))
    post(database, a_gap(1, 3, 5), a_gap(2, 20, 22), a_gap(3, 40, 43), store=later)
    assert shown(database) == [(3, 5), (6, 9), (20, 22), (23, None), (40, 43)]
    assert {row["store"] for row in gaps.listing(database, state="open") if row["first"] in (run(6), run(23))} == {
        STORE
    }
    post(database, {**a_record(4), "meter": "KFM1", "task": "t1", "run": run(25), "profile": None}, store=later)
    assert shown(database) == [(3, 5), (6, 9), (20, 22), (23, 24), (40, 43)]
    post(database, a_gap(5, 6, 9, "closed"), a_gap(6, 40, 42), store=later)  # of its own ranges it knows the end
    assert shown(database) == [(3, 5), (20, 22), (23, 24), (40, 42)]


def test_the_index_of_what_is_listed_comes_to_a_database_of_before_it(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "old.db")
    db.create_tables(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX ix_gaps_listed")
        connection.exec_driver_sql("ALTER TABLE gaps DROP COLUMN store_gone")
    db.create_tables(engine)
    with engine.begin() as connection:
        (text,) = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name='ix_gaps_listed'").one()
    assert text.endswith(f"(device, meter, task, profile, first) WHERE {gaps.LISTED}")
    post(engine, a_gap(1, 0, 9))
    assert gaps.listing(engine)[0]["store_gone"] is None


def test_a_run_that_was_read_ends_what_a_device_that_lost_its_ledger_would_not(database: Engine) -> None:
    meter, task = a_record(1)["meter"], a_record(1)["task"]
    post(database, a_gap(1, 0, None, meter=meter, task=task))
    post(
        database,
        a_record(2, run=run(-1)),
        a_record(3, run=run(200_000)),
        a_record(4, run=run(8), profile="1.0.99.1.0.255"),
    )
    assert gaps.listing(database)[0]["last"] is None
    post(database, a_record(5, run=run(9)))
    (row,) = gaps.listing(database)
    assert (row["first"], row["last"], row["state"]) == (run(0), run(8), "open")


def test_readings_of_a_clock_that_was_wrong_are_trusted_no_more(database: Engine) -> None:
    post(
        database, a_record(1, run=run(0)), a_record(2, run=run(96)), a_record(3, run=run(96), meter="other"),
        a_gap(4, 96, 96, "doubted", meter="KFM1", task="t1"),
        a_record(5, run=run(96), obis="1.0.2.8.0.255"),
    )  # fmt: skip
    trusted = {row["id"]: row["trusted"] for row in readings.list_readings(database)}
    meter, task = a_record(1)["meter"], a_record(1)["task"]
    assert trusted == {1: True, 2: True, 3: True, 5: True}, "another meter and another task"
    post(database, a_gap(6, 96, 96, "doubted", meter=meter, task=task), a_record(7, run=run(96)))
    trusted = {row["id"]: row["trusted"] for row in readings.list_readings(database)}
    assert trusted == {1: True, 2: False, 3: True, 5: False, 7: True}


SCHEDULES: dict[str, Schedule] = {
    "every quarter-hour": Periodic(EVERY),
    "local midnight": Calendar("0 0 * * *", Zone("CET-1CEST,M3.5.0,M10.5.0/3")),
    "weekly, and the first": Calendar("30 2 1 * sun", Zone("CET-1CEST,M3.5.0,M10.5.0/3")),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SCHEDULES))
@pytest.mark.parametrize("seed", range(4))
def test_the_head_end_knows_the_same_slots_as_the_device(database: Engine, seed: int, kind: str) -> None:
    rng, schedule = random.Random(seed), SCHEDULES[kind]
    ledger, kept, next_id = Ledger(), dict[tuple[str, str, str, int], Gap](), 1
    runs = [schedule.next(T0)]
    while len(runs) < 80:
        runs.append(schedule.next(runs[-1]))
    run = runs.__getitem__
    ledger.expect("KFM1", "t1", schedule, run(0))

    def apply(changes: list[Change]) -> None:
        nonlocal next_id
        told = []
        for change in changes:
            if change.was is not None:
                kept.pop(change.was.key, None)
            if not change.how:
                kept[change.gap.key] = change.gap
            if change.told:
                told.append(record(next_id, report(change, NOW).row()))
                next_id += 1
        readings.store(database, parse(emit(DEVICE, STORE, told)), NOW)

    for number in range(1, 60):
        apply(ledger.settle("KFM1", "t1", run(number), rng.choice((Reason.SILENT, Reason.ABSENT, Reason.PORT))))
        if rng.random() < 0.4:
            apply(ledger.read("KFM1", "t1", run(number)))
        if rng.random() < 0.3 and kept:
            one = rng.choice(list(kept.values()))
            at = runs.index(one.first) + rng.randrange(4)
            apply(ledger.close(one, run(at), run(at + rng.randrange(6)), PROFILE))
        of_device = [
            (runs.index(gap.first), None if gap.last == GOES_ON else runs.index(gap.last)) for gap in kept.values()
        ]
        rows = gaps.listing(database, device=DEVICE, meter="KFM1", state="open")
        of_head_end = {
            (runs.index(row["first"]), None if row["last"] is None else runs.index(row["last"])): row["slots"]
            for row in rows
        }
        assert sorted(of_head_end, key=str) == sorted(of_device, key=str)
        assert all(slots == (None if span[1] is None else span[1] - span[0] + 1) for span, slots in of_head_end.items())


def test_reports_that_come_before_earlier_ones_end_in_the_same_ranges(database: Engine) -> None:
    """What is fresh goes before a backlog: the end of a gap may come before its beginning."""
    post(database, a_gap(3, 0, 9, "closed"))
    post(database, a_gap(2, 0, 9))
    post(database, a_gap(1, 0, None))
    assert (shown(database), shown(database, "closed")) == ([], [(0, 9)])


def test_an_end_that_came_first_is_not_forgotten_for_the_beginning(database: Engine) -> None:
    post(database, a_gap(5, 20, 25))
    post(database, a_gap(4, 20, None))
    assert shown(database) == [(20, 25)]


def test_a_range_that_was_opened_again_is_not_closed_by_an_earlier_report(database: Engine) -> None:
    post(database, a_gap(1, 0, 9))
    post(database, a_gap(3, 0, 9))
    post(database, a_gap(2, 0, 9, "closed"))
    assert shown(database) == [(0, 9)]


def test_a_report_of_a_wrong_clock_counts_for_readings_that_come_after_it(database: Engine) -> None:
    post(database, a_gap(9, 0, 3, "doubted"))
    post(database, a_record(4, meter="KFM1", task="t1", run=run(2)), a_record(5, meter="KFM1", task="t1", run=run(7)))
    post(database, a_record(10, meter="KFM1", task="t1", run=run(2)))
    rows = readings.list_readings(database)
    assert [(row["id"], row["trusted"]) for row in rows] == [(4, False), (5, True), (10, True)]
