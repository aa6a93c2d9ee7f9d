"""The store: durable, bounded, delivered ones go first, and corruption never becomes a crash loop."""

from __future__ import annotations

import json
import logging
import random
import signal
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.metering.store import store_file, store_schema
from agent.metering.store.reading_store import REFUSED_MAX, REMEMBERED_MAX, Progress, Store, StoreError
from agent.metering.visit.raw_values import UnstorableError, encode
from dlms.axdr import Data, Tag
from omadm.readings import FIELDS, ROW_SIZE_MIN
from tests.agent.metering.readings import reading, visit
from tests.agent.metering.store.stores import delivered, raws, settled, spoil, store
from tests.agent.virtual import VirtualClock

REPO = Path(__file__).resolve().parents[4]


def test_what_was_appended_comes_out_in_order_with_ascending_ids(tmp_path: Path) -> None:
    opened = store(tmp_path)
    assert opened.append(visit(0, 3)) == (1, 3)
    assert opened.append(visit(3, 2, "m2")) == (4, 5)
    batch = opened.batch(1000)
    assert batch is not None
    assert [record["id"] for record in batch.records] == [1, 2, 3, 4, 5]
    assert [record["raw"] for record in batch.records] == [0, 1, 2, 3, 4]
    assert batch.records[4]["meter"] == "m2"
    assert batch.records[0] == {"id": 1, **{name: getattr(reading(0), name) for name in FIELDS[:ROW_SIZE_MIN]}}
    assert (batch.first, batch.last) == (1, 5)


def test_a_cell_of_a_profile_says_so(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append([reading(0), replace(reading(1), profile="1.0.99.1.0.255")])
    batch = opened.batch(10)
    assert batch is not None
    assert [record.get("profile", "none") for record in batch.records] == ["none", "1.0.99.1.0.255"]


def test_a_batch_has_a_limit_and_may_end_inside_a_visit(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 5))
    opened.append(visit(5, 5))
    seen: list[object] = []
    while (batch := opened.batch(3)) is not None:
        assert len(batch.records) <= 3
        seen += [record["raw"] for record in batch.records]
        assert opened.release(batch.store, batch.last) == len(batch.records)
    assert seen == list(range(10))
    assert opened.stats().pending == 0
    assert opened.stats().forwarded == 10


def test_nothing_is_lost_by_closing_and_opening(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 4), [Progress("m1", "t1", 900)], {"m1": {"scalers": {"a": [0, 30]}}})
    first = opened.batch(2)
    assert first is not None
    opened.release(first.store, first.last)
    opened.close()
    again = store(tmp_path)
    assert raws(again) == [2, 3]
    assert again.append(visit(4, 1)) == (5, 5)
    assert again.progress() == {("m1", "t1"): 900}
    assert again.knowledge("m1") == {"scalers": {"a": [0, 30]}}
    assert again.knowledge("m2") is None
    assert again.stats().uuid == first.store


def test_progress_is_replaced_and_forgotten(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append([], [Progress("m1", "t1", 900), Progress("m1", "t2", 900), Progress("m2", "t1", 900)])
    opened.append([], [Progress("m1", "t1", 1800)], {"m2": {}, "m2#t1#1.0.99.1.0.255": {}, "m20": {}})
    assert opened.progress()["m1", "t1"] == 1800
    opened.append([], [], {"m1#t2#1.0.99.1.0.255": {}, "m1#t1#1.0.99.1.0.255": {}})
    opened.forget(meters=["m2"], tasks=["t2"])
    assert opened.knowledge("m1#t2#1.0.99.1.0.255") is None
    assert opened.knowledge("m1#t1#1.0.99.1.0.255") == {}
    assert opened.progress() == {("m1", "t1"): 1800}
    assert opened.knowledge("m2") is None
    assert opened.knowledge("m2#t1#1.0.99.1.0.255") is None
    assert opened.knowledge("m20") == {}


@pytest.mark.slow
def test_meters_that_nobody_knows_any_more_are_forgotten_when_there_are_very_many(tmp_path: Path) -> None:
    opened = store(tmp_path)
    assert opened.retain(["m1"]) == 0
    names = [f"m{number}" for number in range(REMEMBERED_MAX + 1)]
    opened.append([], [Progress(name, "t1", 900) for name in names], {"m1#t1#x": {}, "m2": {}})
    assert opened.retain(["m1", "m7"]) == len(names) - 2
    assert set(opened.progress()) == {("m1", "t1"), ("m7", "t1")}
    assert opened.knowledge("m1#t1#x") == {}


def test_an_acknowledgement_of_another_store_or_of_nothing_releases_nothing(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 3))
    uuid = opened.stats().uuid
    assert opened.release("0" * 32, 3) == 0
    assert opened.release(uuid, 4) == 0
    assert opened.release(uuid, 0) == 0
    assert opened.release(uuid, 2) == 2
    assert opened.release(uuid, 2) == 0
    assert raws(opened) == [2]


def test_when_full_the_delivered_go_first_and_nothing_is_lost(tmp_path: Path) -> None:
    opened = store(tmp_path, records_max=1000, keep=1000)
    for start in range(0, 1000, 100):
        opened.append(visit(start, 100))
    uuid = opened.stats().uuid
    opened.release(uuid, 500)
    assert opened.stats().kept == 500
    for start in range(1000, 1500, 100):
        opened.append(visit(start, 100))
    stats = opened.stats()
    assert (stats.pending, stats.kept, stats.lost) == (1000, 0, 0)
    assert raws(opened)[0] == 500


def test_when_full_of_undelivered_the_oldest_go_counted_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = store(tmp_path, records_max=1000)
    for start in range(0, 1500, 100):
        opened.append(visit(start, 100))
    stats = opened.stats()
    assert (stats.pending, stats.lost) == (1000, 500)
    assert raws(opened)[0] == 500
    losses = [record for record in caplog.records if getattr(record, "event", "") == "store.loss"]
    assert len(losses) == 1


def test_a_partly_delivered_visit_counts_only_its_undelivered_records_as_lost(tmp_path: Path) -> None:
    opened = store(tmp_path, records_max=1000)
    opened.append(visit(0, 600))
    opened.release(opened.stats().uuid, 250)
    opened.append(visit(600, 600))
    stats = opened.stats()
    assert (stats.pending, stats.lost, stats.forwarded) == (600, 350, 250)


def test_delivered_readings_are_kept_within_their_own_bound(tmp_path: Path) -> None:
    opened = store(tmp_path, keep=250)
    for start in range(0, 1000, 100):
        opened.append(visit(start, 100))
    opened.release(opened.stats().uuid, 1000)
    assert opened.stats().kept == 200
    assert opened.batch(10) is None


@pytest.mark.slow
def test_the_file_stays_within_its_bound_by_giving_up_the_oldest(tmp_path: Path) -> None:
    rng = random.Random(1)
    opened = store(tmp_path, records_max=1_000_000, bytes_max=1 << 19)
    for start in range(0, 6000, 20):
        noisy = [
            reading(number, "".join(rng.choices("abcdefghijklmnop0123456789", k=200)))
            for number in range(start, start + 20)
        ]
        before = opened.stats()
        opened.append(noisy)
        # Room is made by an eighth of the visits at a time: most of what is there survives.
        assert opened.stats().lost - before.lost <= before.pending // 4
    stats = opened.stats()
    assert stats.lost > 0
    assert stats.lost + stats.pending == 6000
    assert (tmp_path / "s" / "readings.db").stat().st_size <= 1 << 19
    batch = opened.batch(1_000_000)
    assert batch is not None
    assert batch.first == stats.lost + 1


def test_a_refused_record_is_set_aside_and_the_next_one_comes(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 3))
    batch = opened.batch(1)
    assert batch is not None
    opened.refuse(batch, "no such unit")
    opened.refuse(batch, "no such unit")
    assert raws(opened) == [1, 2]
    assert opened.stats().refused == 1


def test_what_is_refused_is_what_waits_now_and_of_this_store(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 3))
    first = opened.batch(1)
    assert first is not None
    opened.refuse(replace(first, store="0" * 32), "another store's")
    assert (raws(opened), opened.stats().refused, opened.refused(10)) == ([0, 1, 2], 0, [])
    opened.release(first.store, 1)
    opened.refuse(first, "delivered meanwhile")
    assert (raws(opened), opened.stats().refused, opened.refused(10)) == ([1, 2], 0, [])
    second = opened.batch(1)
    assert second is not None
    opened.refuse(second, "no such unit")
    assert (raws(opened), opened.stats().refused) == ([2], 1)
    assert opened.stats().forwarded == 1  # refused is not delivered


def test_of_refused_records_the_newest_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, REFUSED_MAX + 5))
    batch = opened.batch(REFUSED_MAX + 5)
    assert batch is not None
    opened.refuse(batch, "no such unit")
    kept = opened.refused(2 * REFUSED_MAX)
    assert [refusal.id for refusal in kept] == list(range(REFUSED_MAX + 5, 5, -1))
    assert [refusal.record["raw"] for refusal in kept] == [refusal.id - 1 for refusal in kept]
    assert {refusal.reason for refusal in kept} == {"no such unit"}
    assert opened.stats().refused == REFUSED_MAX + 5
    assert [refusal.id for refusal in opened.refused(2)] == [REFUSED_MAX + 5, REFUSED_MAX + 4]


def test_a_visit_larger_than_the_bound_is_stored_whole_and_alone(tmp_path: Path) -> None:
    opened = store(tmp_path, records_max=3)
    assert opened.append(visit(0, 5)) == (1, 5)
    assert (raws(opened), opened.stats().lost) == ([0, 1, 2, 3, 4], 0)
    assert opened.append(visit(5, 4)) == (6, 9)
    assert (raws(opened), opened.stats().lost) == ([5, 6, 7, 8], 5)


def test_a_visit_that_fits_the_bound_exactly_costs_nothing(tmp_path: Path) -> None:
    opened = store(tmp_path, records_max=4)
    opened.append(visit(0, 2))
    opened.append(visit(2, 2))
    assert (raws(opened), opened.stats().lost) == ([0, 1, 2, 3], 0)
    opened.append(visit(4, 1))
    assert (raws(opened), opened.stats().lost) == ([2, 3, 4], 2)


def test_a_visit_too_large_for_the_file_is_an_error_and_the_only_one_in_it_stays(tmp_path: Path) -> None:
    opened = store(tmp_path, bytes_max=256 << 10)
    opened.append(visit(0, 3))
    noise = random.Random(1)
    huge = [reading(number, noise.randbytes(200).hex()) for number in range(3, 4000)]
    with pytest.raises(StoreError) as caught:
        opened.append(huge)
    assert caught.value.full
    assert (raws(opened), opened.stats().lost) == ([0, 1, 2], 0)
    assert opened.append(visit(3, 1)) == (4, 4)


def test_only_whole_visits_that_were_delivered_go_and_the_last_of_them_may(tmp_path: Path) -> None:
    opened = store(tmp_path, keep=0)
    opened.append(visit(0, 4))
    uuid = opened.stats().uuid
    opened.release(uuid, 3)
    # Its first three records are delivered, but the block holds one that is not.
    assert (opened.stats().kept, raws(opened)) == (3, [3])
    opened.release(uuid, 4)
    stats = opened.stats()
    assert (stats.kept, stats.pending, stats.lost, stats.forwarded) == (0, 0, 0, 4)


def test_as_many_delivered_readings_are_kept_as_are_asked_for(tmp_path: Path) -> None:
    opened = store(tmp_path, keep=4)
    opened.append(visit(0, 2))
    opened.append(visit(2, 2))
    opened.append(visit(4, 2))
    opened.release(opened.stats().uuid, 4)
    assert opened.stats().kept == 4
    opened.release(opened.stats().uuid, 5)
    assert opened.stats().kept == 5, "up to a quarter more: few at a time would wear the flash"
    opened.release(opened.stats().uuid, 6)
    assert opened.stats().kept == 4


def test_after_a_delivery_the_next_loss_is_logged_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def losses() -> list[str]:
        return [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "store.loss"]

    opened = store(tmp_path, records_max=4)
    for start in range(0, 12, 2):
        opened.append(visit(start, 2))
    assert losses() == ["the store is full: the oldest undelivered readings are being given up (2 so far)"]
    uuid = opened.stats().uuid
    opened.release(uuid, 8)  # is lost already: no delivery
    opened.append(visit(12, 2))
    assert len(losses()) == 1
    opened.release(uuid, 11)
    for start in range(14, 20, 2):
        opened.append(visit(start, 2))
    assert len(losses()) == 2


def test_a_batch_passes_over_delivered_records_and_blocks(tmp_path: Path) -> None:
    opened = store(tmp_path, keep=100)
    opened.append(visit(0, 3))
    opened.append(visit(3, 3))
    opened.append(visit(6, 3))
    uuid = opened.stats().uuid
    for released in range(1, 9):
        opened.release(uuid, released)
        batch = opened.batch(100)
        assert batch is not None
        assert (batch.first, batch.last, batch.skipped) == (released + 1, 9, 0)
        assert [record["id"] for record in batch.records] == list(range(released + 1, 10))


def test_a_batch_ends_with_the_record_that_fills_it(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 3))
    opened.append(visit(3, 3))
    for limit in range(1, 7):
        batch = opened.batch(limit)
        assert batch is not None
        assert (len(batch.records), batch.first, batch.last) == (limit, 1, limit)


def test_the_age_of_the_queue_is_that_of_its_oldest_undelivered_visit(tmp_path: Path) -> None:
    clock = VirtualClock()
    opened = Store(tmp_path / "readings.db", clock, records_max=1000, keep_forwarded_max=1000)
    made: list[float] = []
    for start in range(0, 30, 10):
        opened.append(visit(start, 10))
        made.append(clock.wall())
        clock.advance(60)
    assert opened.stats().oldest == made[0]
    opened.release(opened.stats().uuid, 9)
    assert opened.stats().oldest == made[0]  # one record of the first visit is left
    opened.release(opened.stats().uuid, 10)
    assert opened.stats().oldest == made[1]
    opened.release(opened.stats().uuid, 15)
    assert opened.stats().oldest == made[1]
    opened.release(opened.stats().uuid, 30)
    assert opened.stats().oldest == 0.0


def test_the_listener_hears_of_everything_that_is_to_be_sent(tmp_path: Path) -> None:
    opened, heard = store(tmp_path), []
    opened.on_append = lambda: heard.append(1)
    opened.append(visit(0, 1))
    opened.append(visit(1, 1))
    opened.append([], also=lambda _db: None)  # as the ledger does every few minutes
    assert heard == [1, 1]


# --- trouble of the file ---


def test_a_damaged_visit_can_be_released_and_is_lost_and_not_forwarded(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 10))
    opened.append(visit(10, 5))
    spoil(opened, "UPDATE block SET body=x'6e6f' WHERE first=1")
    again = store(tmp_path)
    batch = again.batch(5)
    assert batch is not None
    assert (len(batch.records), batch.last, batch.skipped) == (5, 15, 10)
    assert (again.stats().pending, again.stats().lost) == (5, 10)
    assert again.batch(5) == batch  # asked again: the loss is noted once
    assert again.release(batch.store, batch.last) == 5
    stats = again.stats()
    assert (stats.pending, stats.lost, stats.forwarded) == (0, 10, 5)
    assert [(loss.meter, loss.records, loss.reason) for loss in again.losses()] == [("m1", 10, "damaged")]


def test_a_damaged_visit_that_goes_because_the_store_is_full_is_lost_once(tmp_path: Path) -> None:
    opened = store(tmp_path, records_max=20)
    opened.append(visit(0, 10))
    opened.append(visit(10, 10))
    spoil(opened, "UPDATE block SET body=x'6e6f' WHERE first=1")
    again = store(tmp_path, records_max=20)
    assert again.batch(5) is not None
    again.append(visit(20, 10))
    assert (again.stats().pending, again.stats().lost) == (20, 10)
    assert raws(again) == list(range(10, 30))


def test_a_loss_says_whose_values_of_which_time_are_gone(tmp_path: Path) -> None:
    opened = store(tmp_path, records_max=4)
    row = replace(reading(0, meter="m7"), profile="1.0.99.1.0.255", meter_time="2026-11-01T00:15:00Z")
    opened.append([row, reading(1, meter="m7")])
    made = opened.stats().oldest
    opened.append(visit(2, 4))
    (loss,) = opened.losses()
    assert (loss.meter, loss.since, loss.until, loss.records, loss.reason) == ("m7", 1793492100.0, made, 2, "full")
    assert opened.losses(after=loss.seq) == []
    assert opened.stats().lost_at == loss.noted


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def no_database(file: Path) -> None:
    file.write_bytes(b"this was never a database" * 400)


def another_database(file: Path) -> None:
    file.unlink()
    db = sqlite3.connect(file)
    db.execute("CREATE TABLE block (x)")
    db.commit()
    db.close()


def schema_that_is_no_text(file: Path) -> None:
    data = file.read_bytes()
    assert b"CREATE TABLE meta" in data
    file.write_bytes(data.replace(b"CREATE TABLE", b"CREATE \xff\xfeBLE"))


@pytest.mark.parametrize("damage", [no_database, another_database])
def test_a_file_that_says_nothing_is_quarantined_and_the_loss_is_noted(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    opened = store(tmp_path)
    for start in range(0, 5000, 100):
        opened.append(visit(start, 100))
    old = opened.stats().uuid
    opened.close()
    file = tmp_path / "s" / "readings.db"
    damage(file)
    again = settled(store(tmp_path))
    assert again.append(visit(0, 2)) == (1, 2)
    assert raws(again) == [0, 1]
    assert again.stats().uuid != old
    assert (tmp_path / "s" / "readings.db.quarantine-1").exists()
    assert {"store.corrupt", "store.salvaged"} <= {getattr(record, "event", "") for record in caplog.records}
    (loss,) = again.losses()
    # How many those were nobody knows; from when on something may be missing, the sign of life tells.
    assert (loss.meter, loss.records, loss.reason, loss.since) == ("", 0, "damaged", VirtualClock().wall())
    assert loss.reach == 0.0
    (said,) = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "store.salvaged"]
    assert "not known" in said


@pytest.mark.parametrize(("damage", "left"), [(schema_that_is_no_text, 5000), (cut_short, 600)])
def test_visits_are_found_on_their_pages_where_no_table_can_be_found(
    tmp_path: Path, damage: Callable[[Path], None], left: int
) -> None:
    opened = store(tmp_path)
    for start in range(0, 5000, 100):
        opened.append(visit(start, 100), [Progress("m1", "t1", start + 1)])
    old = opened.stats().uuid
    opened.close()
    damage(tmp_path / "s" / "readings.db")
    again = settled(store(tmp_path))
    got = delivered(again)
    assert len(got) >= left
    assert {(name, int(str(record_id)) - int(str(raw))) for name, record_id, raw in got} == {(old, 1)}
    assert again.progress()["m1", "t1"] >= 1


STATEMENTS = [
    "INSERT INTO progress VALUES ('m', 't', 'yesterday', 0)",
    "UPDATE meta SET value=5000000 WHERE key='released'",
    "UPDATE meta SET value='none' WHERE key='lost'",
    "DELETE FROM meta",
    "DROP TABLE knowledge",
    "UPDATE meta SET value='two' WHERE key='format'",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_sound_pages_with_wrong_content_lose_nothing(tmp_path: Path, statement: str) -> None:
    opened = store(tmp_path)
    for start in range(0, 5000, 100):
        opened.append(visit(start, 100), [Progress("m1", "t1", start + 1)])
    old = opened.stats().uuid
    spoil(opened, statement)
    again = settled(store(tmp_path))
    if "released" in statement:  # what says that it was delivered cannot be told from what was
        assert again.stats().uuid != old
        return
    assert (again.stats().pending, again.stats().lost) == (5000, 0)
    assert delivered(again) == [(old, number + 1, number) for number in range(5000)]
    assert again.progress()["m1", "t1"] == 4901


def test_recovery_goes_on_where_a_power_cut_left_it(tmp_path: Path) -> None:
    opened = store(tmp_path)
    for start in range(0, 2000, 10):
        opened.append(visit(start, 10))
    old = opened.stats().uuid
    spoil(opened, "DROP TABLE knowledge")
    steps = 0
    while True:
        again = store(tmp_path)  # one piece of work, then the power goes
        again.stats()
        again.close()
        steps += 1
        if not again.file.recovering:
            break
    assert steps > 3
    assert delivered(store(tmp_path)) == [(old, number + 1, number) for number in range(2000)]


def test_what_was_recovered_waits_beside_what_is_new_and_survives_damage_again(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 30))
    first = opened.stats().uuid
    spoil(opened, "DROP TABLE knowledge")
    again = settled(store(tmp_path))
    again.append(visit(30, 5))
    second = again.stats().uuid
    batch = again.batch(10)
    assert batch is not None
    assert again.release(first, 10) == 10
    assert (again.stats().pending, again.stats().forwarded) == (25, 10)
    spoil(again, "DROP TABLE knowledge")
    third = settled(store(tmp_path))
    assert third.stats().pending == 25
    assert delivered(third, 7) == [
        *[(first, number + 1, number) for number in range(10, 30)],
        *[(second, number - 29, number) for number in range(30, 35)],
    ]
    assert third.stats().forwarded == 35


def test_a_damaged_file_of_format_3_is_recovered_with_what_it_had_of_the_one_before(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 30))
    first = opened.stats().uuid
    spoil(opened, "DROP TABLE knowledge")
    again = settled(store(tmp_path))
    again.append(visit(30, 5))
    second = again.stats().uuid
    for statement in (
        "ALTER TABLE quarantined RENAME TO aside",
        "ALTER TABLE recovered RENAME TO adopted",
        "UPDATE meta SET value=3 WHERE key='format'",
        "DROP TABLE knowledge",
    ):
        spoil(again, statement)
    assert delivered(settled(store(tmp_path)), 7) == [
        *[(first, number + 1, number) for number in range(30)],
        *[(second, number - 29, number) for number in range(30, 35)],
    ]


def test_a_record_of_an_earlier_store_can_be_refused(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 3))
    spoil(opened, "DROP TABLE knowledge")
    again = settled(store(tmp_path))
    batch = again.batch(1)
    assert batch is not None
    again.refuse(batch, "no such unit")
    again.refuse(batch, "no such unit")
    assert raws(again) == [1, 2]
    assert (again.stats().refused, again.stats().forwarded) == (1, 0)


def test_quarantined_files_are_kept_up_to_a_bound_and_never_written_over(tmp_path: Path) -> None:
    for number in range(6):
        opened = settled(store(tmp_path))
        opened.append(visit(number, 1))
        opened.close()
        no_database(tmp_path / "s" / "readings.db")
    settled(store(tmp_path))
    names = sorted(path.name for path in (tmp_path / "s").iterdir() if ".quarantine-" in path.name)
    kept = [f"readings.db.quarantine-{number}" for number in (4, 5, 6)]
    assert names == sorted(kept + [f"{name}-alive" for name in kept])


# --- versions ---


def as_first_version(file: Path) -> None:
    """The store's file as version 0.2.0 made it, with two visits of three records, the first of them delivered."""
    file.parent.mkdir()
    db = sqlite3.connect(file)
    for statement in FORMAT_1:
        db.execute(statement)
    meta = {"format": 1, "uuid": "ab" * 16, "next": 7, "released": 3, "forwarded": 3, "lost": 0, "refused": 0}
    db.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))
    for first in (1, 4):
        body = zlib.compress(json.dumps([each.row() for each in visit(first - 1, 3)]).encode())
        db.execute("INSERT INTO block VALUES (?, ?, ?, ?)", (first, first + 2, 1793492100.0, body))
    db.execute("INSERT INTO progress VALUES ('m1', 't1', 900)")
    db.execute("INSERT INTO knowledge VALUES ('m1', ?)", (zlib.compress(b'{"scalers":{}}'),))
    db.commit()
    db.close()


FORMAT_1 = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE block (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, made REAL NOT NULL, body BLOB NOT NULL,"
    " CHECK (typeof(last) = 'integer' AND last >= first AND typeof(made) = 'real' AND typeof(body) = 'blob'))",
    "CREATE TABLE progress (meter TEXT, task TEXT, run INTEGER NOT NULL, PRIMARY KEY (meter, task),"
    " CHECK (typeof(meter) = 'text' AND typeof(task) = 'text' AND typeof(run) = 'integer')) WITHOUT ROWID",
    "CREATE TABLE knowledge (meter TEXT PRIMARY KEY, body BLOB NOT NULL,"
    " CHECK (typeof(meter) = 'text' AND typeof(body) = 'blob')) WITHOUT ROWID",
    "CREATE TABLE refused (id INTEGER PRIMARY KEY, record TEXT NOT NULL, why TEXT NOT NULL)",
)


def test_a_file_of_the_first_version_is_brought_forward_with_all_that_is_in_it(tmp_path: Path) -> None:
    as_first_version(tmp_path / "s" / "readings.db")
    opened = store(tmp_path, keep=100)
    assert raws(opened) == [3, 4, 5]
    assert opened.append(visit(6, 2), [Progress("m1", "t1", 1800)]) == (7, 8)
    assert opened.progress() == {("m1", "t1"): 1800}
    assert opened.knowledge("m1") == {"scalers": {}}
    opened.close()
    again = store(tmp_path, keep=100)
    assert (again.stats().uuid, again.stats().pending, raws(again)) == ("ab" * 16, 5, [3, 4, 5, 6, 7])
    assert not list((tmp_path / "s").glob("*.quarantine-*"))


def test_a_table_that_nobody_wrote_goes_when_a_file_is_brought_forward(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 3))
    spoil(opened, "CREATE TABLE era (meter TEXT, task TEXT, before INTEGER, PRIMARY KEY (meter, task)) WITHOUT ROWID")
    spoil(opened, "UPDATE meta SET value=6 WHERE key='format'")
    again = store(tmp_path)
    assert raws(again) == [0, 1, 2]
    assert "era" not in again.ask(store_schema.tables)
    assert not list((tmp_path / "s").glob("*.quarantine-*"))


def test_a_damaged_file_of_the_first_version_is_salvaged_too(tmp_path: Path) -> None:
    as_first_version(tmp_path / "s" / "readings.db")
    db = sqlite3.connect(tmp_path / "s" / "readings.db")
    db.execute("DROP TABLE refused")
    db.commit()
    db.close()
    again = settled(store(tmp_path))
    assert delivered(again) == [("ab" * 16, number + 1, number) for number in (3, 4, 5)]
    assert again.progress() == {("m1", "t1"): 900}


def test_what_the_first_version_set_aside_is_recovered(tmp_path: Path) -> None:
    as_first_version(tmp_path / "s" / "readings.db.corrupt")
    again = settled(store(tmp_path))
    assert delivered(again) == [("ab" * 16, number + 1, number) for number in (3, 4, 5)]
    again.close()
    assert settled(store(tmp_path)).stats().pending == 0  # once


def test_a_file_of_a_later_version_waits_for_it_and_its_readings_get_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    opened = store(tmp_path)
    opened.append(visit(0, 20), [Progress("m1", "t1", 900)])
    later = opened.stats().uuid
    spoil(opened, "UPDATE meta SET value=99 WHERE key='format'")

    rolled_back = settled(store(tmp_path))
    assert rolled_back.stats().uuid != later
    assert (rolled_back.stats().pending, rolled_back.stats().lost, rolled_back.losses()) == (0, 0, [])
    rolled_back.append(visit(20, 5))
    earlier = rolled_back.stats().uuid
    rolled_back.close()
    assert [getattr(record, "event", "") for record in caplog.records] == ["store.newer"]
    rolled_back = settled(store(tmp_path))
    assert rolled_back.stats().pending == 5  # at every start of the earlier version
    rolled_back.close()

    monkeypatch.setattr(store_schema, "FORMAT", 99)
    monkeypatch.setattr(store_file, "FORMAT", 99)
    monkeypatch.setattr(store_schema, "_MIGRATIONS", {1: store_schema._MIGRATIONS[1]} | dict.fromkeys(range(2, 99), ()))
    back = settled(store(tmp_path))
    assert delivered(back) == [
        *[(later, number + 1, number) for number in range(20)],
        *[(earlier, number - 19, number) for number in range(20, 25)],
    ]
    assert back.progress()["m1", "t1"] == 900


def test_rot_inside_one_visit_skips_that_visit_only(tmp_path: Path) -> None:
    opened = store(tmp_path)
    for start in range(0, 30, 10):
        opened.append(visit(start, 10))
    opened.close()
    db = sqlite3.connect(tmp_path / "s" / "readings.db")
    db.execute("UPDATE block SET body=zeroblob(100) WHERE first=11")
    db.commit()
    db.close()
    again = store(tmp_path)
    batch = again.batch(1000)
    assert batch is not None
    assert [record["id"] for record in batch.records] == [*range(1, 11), *range(21, 31)]
    assert (batch.last, batch.skipped) == (30, 10)
    again.release(batch.store, batch.last)
    assert again.batch(10) is None


def test_a_file_system_in_trouble_is_an_error_now_and_the_store_works_when_it_is_over(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("a file where the folder should be")
    opened = store(tmp_path)
    health: list[str] = []
    opened.on_health = health.append
    for _ in range(2):
        with pytest.raises(StoreError):
            opened.append(visit(0, 1))
    (tmp_path / "s").unlink()
    assert opened.append(visit(0, 1)) == (1, 1)
    assert [problem == "" for problem in health] == [False, False, True]


def test_a_store_held_by_another_process_is_trouble_and_not_corruption(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 1))
    opened.close()
    holder = sqlite3.connect(tmp_path / "s" / "readings.db", isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    again = store(tmp_path)
    again.file.busy_timeout_s = 0.0
    with pytest.raises(StoreError, match="locked"):
        again.stats()
    holder.close()
    assert raws(again) == [0]


@pytest.mark.parametrize("defect", [ZeroDivisionError, sqlite3.ProgrammingError])
def test_a_defect_in_the_middle_of_a_transaction_leaves_nothing_of_it_and_no_doubt_about_the_file(
    tmp_path: Path, defect: type[Exception]
) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 2))

    def half(db: sqlite3.Connection, counters: dict[str, int]) -> None:
        row = (counters["next"], counters["next"], 1.0, b"half")
        db.execute("INSERT INTO block (first, last, made, body) VALUES (?, ?, ?, ?)", row)
        raise defect("a mistake of ours")

    with pytest.raises(defect):
        opened.file.run(half)
    assert opened.append(visit(2, 1)) == (3, 3)
    assert raws(opened) == [0, 1, 2]
    assert not list((tmp_path / "s").glob("*.quarantine-*"))


# --- power ---

WRITER = """
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from agent.clock import SystemClock
from agent.metering.store import store_file, store_schema
from agent.metering.store.reading_store import Progress, Store
from tests.agent.metering.readings import visit

store = Store(Path(sys.argv[1]), SystemClock(), records_max=10**6, keep_forwarded_max=0)
for number in range(10**6):
    first, last = store.append(visit(number * 7, 7), [Progress("m1", "t1", number + 1)])
    print(number, first, last, flush=True)
"""


@pytest.mark.process
@pytest.mark.parametrize("visits", [1, 5, 23])
def test_a_killed_writer_has_stored_all_that_it_reported_and_whole_visits_only(tmp_path: Path, visits: int) -> None:
    file = tmp_path / "s" / "readings.db"
    command = [sys.executable, "-c", WRITER, str(file)]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        reported = [process.stdout.readline() for _ in range(visits)]
        process.send_signal(signal.SIGKILL)
        reported += process.stdout.readlines()
    whole = [line for line in reported if line.endswith("\n")]
    opened = store(tmp_path, records_max=10**6)
    stats = opened.stats()
    assert stats.pending >= 7 * len(whole)
    assert stats.pending % 7 == 0
    assert raws(opened, 10**6)[: 7 * len(whole)] == list(range(7 * len(whole)))
    assert opened.progress() == {("m1", "t1"): stats.pending // 7}


# --- values ---


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (Data(Tag.NULL, None), ("null", None)),
        (Data(Tag.BOOLEAN, value=True), ("bool", True)),
        (Data(Tag.DOUBLE_LONG_UNSIGNED, 4_294_967_295), ("u32", 4_294_967_295)),
        (Data(Tag.LONG64_UNSIGNED, 2**64 - 1), ("u64", 2**64 - 1)),
        (Data(Tag.INTEGER, -128), ("i8", -128)),
        (Data(Tag.ENUM, 30), ("enum", 30)),
        (Data(Tag.BIT_STRING, "0101"), ("bits", "0101")),
        (Data(Tag.OCTET_STRING, b"\x01\xff"), ("oct", "01ff")),
        (Data(Tag.VISIBLE_STRING, "abc"), ("str", "abc")),
        (Data(Tag.UTF8_STRING, "a\udcff"), ("str", "a\ufffd")),
        (Data(Tag.FLOAT32, 1.5), ("f32", 1.5)),
        (Data(Tag.DATE_TIME, bytes(12)), ("dt", "00" * 12)),
        (
            Data(Tag.STRUCTURE, (Data(Tag.INTEGER, -3), Data(Tag.ARRAY, (Data(Tag.ENUM, 30),)))),
            ("struct", [["i8", -3], ["array", [["enum", 30]]]]),
        ),
    ],
)
def test_a_value_becomes_a_tag_and_what_json_can_hold(data: Data, expected: tuple[str, object]) -> None:
    assert encode(data) == expected
    json.dumps(encode(data), allow_nan=False).encode("utf-8")


def test_twelve_octets_are_a_date_time_only_where_the_list_says_so() -> None:
    twelve = Data(Tag.OCTET_STRING, bytes(12))
    assert encode(twelve)[0] == "oct"
    assert encode(twelve, date_time=True)[0] == "dt"
    assert encode(Data(Tag.OCTET_STRING, bytes(11)), date_time=True)[0] == "oct"


@pytest.mark.parametrize(
    ("value", "raw"), [(float("nan"), "NaN"), (float("inf"), "Infinity"), (float("-inf"), "-Infinity")]
)
def test_what_is_no_number_is_a_word_that_json_can_hold(value: float, raw: str) -> None:
    assert encode(Data(Tag.FLOAT64, value)) == ("f64", raw)


def nested(depth: int) -> Data:
    data = Data(Tag.NULL, None)
    for _ in range(depth):
        data = Data(Tag.STRUCTURE, (data,))
    return data


def test_a_value_that_the_head_end_would_not_take_is_an_error_of_its_own() -> None:
    assert encode(nested(8))[0] == "struct"
    for data, why in (
        (nested(9), "too-deep"),
        (Data(Tag.ARRAY, (Data(Tag.ENUM, 1),) * 3000), "too-large"),
        (Data(Tag.ARRAY, (Data(Tag.OCTET_STRING, bytes(100)),) * 100), "too-large"),
        (Data(Tag.OCTET_STRING, bytes(9000)), "too-large"),
    ):
        with pytest.raises(UnstorableError, match=why):
            encode(data)
