"""What goes when there is no room: delivered records before others, the oldest first, and never in silence."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from agent.metering.store.reading_store import BYTES_MAX, Progress, Store, StoreError
from omadm.readings import Reading, ResendOrder
from tests.agent.metering.readings import reading, visit
from tests.agent.metering.store.stores import raws, store
from tests.agent.virtual import VirtualClock


def blocks(opened: Store) -> list[tuple[int, int, bool]]:
    """(first, last, whether its records are still there) of every visit in the file."""
    query = "SELECT first, last, length(body) > 0 FROM block ORDER BY first"
    return opened.ask(lambda db: [(first, last, bool(there)) for first, last, there in db.execute(query)])


def filled(tmp_path: Path, *visits: int, records_max: int, keep: int = 1000) -> Store:
    """Visits of so many records each, of the meters m1, m2 and so on, the last of each being read for its run."""
    opened = store(tmp_path, records_max=records_max, keep=keep)
    for number, count in enumerate(visits, 1):
        opened.append(visit(opened.next_id() - 1, count, f"m{number}"), [Progress(f"m{number}", "t1", 900 * number)])
    return opened


def release(opened: Store, first: int, last: int) -> None:
    opened.release(opened.stats().uuid, last, first=first)


def test_visits_that_were_delivered_out_of_turn_are_emptied_one_by_one_and_become_one_stub(tmp_path: Path) -> None:
    opened = filled(tmp_path, 10, 10, 10, 10, 10, records_max=50)
    release(opened, 11, 40)
    assert (opened.stats().pending, opened.stats().kept) == (20, 30)
    opened.append(visit(50, 1))
    assert blocks(opened) == [
        (1, 10, True), (11, 20, False), (21, 30, True), (31, 40, True), (41, 50, True), (51, 51, True),
    ]  # fmt: skip
    opened.append(visit(51, 19))
    assert blocks(opened)[1:4] == [(11, 30, False), (31, 40, True), (41, 50, True)]
    assert (opened.stats().pending, opened.stats().kept, opened.stats().lost) == (40, 10, 0)
    opened.append(visit(70, 1))
    assert blocks(opened)[1:3] == [(11, 40, False), (41, 50, True)]
    assert (opened.stats().pending, opened.stats().kept, opened.stats().lost) == (41, 0, 0)
    assert raws(opened) == [*range(10), *range(40, 71)]


def test_as_many_are_emptied_as_a_large_visit_needs(tmp_path: Path) -> None:
    opened = filled(tmp_path, 10, 10, 10, 10, records_max=40)
    release(opened, 11, 40)
    opened.append(visit(40, 25))
    assert (opened.stats().pending, opened.stats().kept, opened.stats().lost) == (35, 0, 0)
    assert raws(opened) == [*range(10), *range(40, 65)]


def test_when_one_range_is_emptied_the_next_one_is(tmp_path: Path) -> None:
    opened = filled(tmp_path, 10, 10, 10, 10, 10, records_max=50)
    release(opened, 11, 20)
    release(opened, 31, 40)
    for start in (50, 60):
        opened.append(visit(start, 10))
    assert [there for _, _, there in blocks(opened)] == [True, False, True, False, True, True, True]
    assert (opened.stats().pending, opened.stats().kept, opened.stats().lost) == (50, 0, 0)
    opened.append(visit(70, 10))
    assert opened.stats().lost == 10, "now nothing is left but what waits"


def test_the_progress_of_a_visit_that_was_emptied_stays(tmp_path: Path) -> None:
    opened = filled(tmp_path, 10, 10, 10, records_max=30)
    release(opened, 11, 30)
    opened.append(visit(30, 20))
    assert [there for _, _, there in blocks(opened)] == [True, False, True]
    assert opened.dated_progress() == {("m1", "t1"): (1, 900), ("m2", "t1"): (11, 1800), ("m3", "t1"): (21, 2700)}


def test_of_what_was_delivered_the_oldest_goes_first(tmp_path: Path) -> None:
    opened = filled(tmp_path, 10, 10, 10, records_max=30)
    release(opened, 1, 10)
    release(opened, 21, 30)
    opened.append(visit(30, 10))
    assert blocks(opened) == [(11, 20, True), (21, 30, True), (31, 40, True)]
    assert (opened.stats().pending, opened.stats().kept, opened.stats().lost) == (20, 10, 0)
    opened.order_resend([ResendOrder(1, opened.stats().uuid, 1, 30)])
    again = opened.resend_batch(100)
    assert again is not None
    assert [record["raw"] for record in again.records] == list(range(20, 30))
    assert again.gone == ((1, 10),)


def test_a_visit_delivered_in_part_and_one_lost_count_each_record_once(tmp_path: Path) -> None:
    opened = filled(tmp_path, 10, 10, records_max=20)
    release(opened, 4, 6)
    opened.append(visit(20, 10))
    stats = opened.stats()
    assert (stats.pending, stats.kept, stats.lost, stats.forwarded) == (20, 0, 7, 3)
    assert [(loss.meter, loss.records) for loss in opened.losses()] == [("m1", 7)]
    assert raws(opened) == list(range(10, 30))


def test_a_damaged_visit_is_not_among_those_that_are_kept(tmp_path: Path) -> None:
    opened = filled(tmp_path, 10, 10, records_max=100)
    release(opened, 1, 4)
    opened.ask(lambda db: db.execute("UPDATE block SET body=x'00' WHERE first=1"))
    batch = opened.batch(100)
    assert batch is not None
    stats = opened.stats()
    assert (stats.pending, stats.kept, stats.lost, stats.forwarded) == (10, 0, 6, 4)
    opened.release(batch.store, batch.last, first=batch.first)
    stats = opened.stats()
    assert (stats.pending, stats.kept, stats.lost, stats.forwarded) == (0, 10, 6, 14)


# --- the bound of the file ---


def noise(start: int, count: int, size: int = 200) -> list[Reading]:
    """Readings that cannot be compressed by much."""
    rng = random.Random(start)
    return [reading(number, "".join(rng.choices("abcdefghijklmnop0123456789", k=size))) for number in range(count)]


def test_a_file_grows_to_128_mib_unless_another_bound_is_set(tmp_path: Path) -> None:
    opened = Store(tmp_path / "readings.db", VirtualClock(), records_max=10, keep_forwarded_max=0)
    pages, size = opened.ask(
        lambda db: [db.execute(f"PRAGMA {what}").fetchone()[0] for what in ("max_page_count", "page_size")]
    )
    assert pages * size == BYTES_MAX == 134_217_728


def test_a_full_file_gives_up_an_eighth_of_its_visits_at_a_time(tmp_path: Path) -> None:
    opened = store(tmp_path, records_max=10**6, bytes_max=160 << 10)
    while opened.stats().lost == 0:
        there = len(blocks(opened))
        opened.append(noise(opened.next_id(), 10))
    assert there > 64, "fewer could not tell an eighth from a ninth"
    assert opened.stats().lost == 10 * -(-there // 8)


def test_a_full_file_of_few_visits_gives_up_the_oldest(tmp_path: Path) -> None:
    opened = store(tmp_path, records_max=10**6, bytes_max=160 << 10)
    while opened.stats().lost == 0:
        there = len(blocks(opened))
        opened.append(noise(opened.next_id(), 200))
    assert 1 < there <= 8
    assert opened.stats().lost == 200


def test_health_says_that_a_visit_could_not_be_stored_until_one_can(tmp_path: Path) -> None:
    opened = store(tmp_path, bytes_max=128 << 10)
    opened.append(visit(0, 3))
    health: list[str] = []
    opened.on_health = health.append
    with pytest.raises(StoreError):
        opened.append(noise(3, 2000))
    (problem,) = health  # said once, and not taken back because something else was possible
    assert "full" in problem
    opened.append(visit(3, 1))
    assert health == [problem, ""]
    assert raws(opened) == [0, 1, 2, 3]


def test_health_is_good_again_when_giving_something_up_has_helped(tmp_path: Path) -> None:
    opened = store(tmp_path, records_max=10**6, bytes_max=128 << 10)
    health: list[str] = []
    opened.on_health = health.append
    while not any(health):
        opened.append(noise(opened.next_id(), 50))
    assert [problem == "" for problem in health][-2:] == [False, True]
