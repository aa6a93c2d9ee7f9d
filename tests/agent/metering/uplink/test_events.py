"""Events of meters go to the head-end ahead of all readings, each once, whatever fails on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.https import HttpsError
from agent.metering.store.events import KEPT
from agent.metering.store.reading_store import Store
from agent.metering.store.store_schema import FORMAT
from agent.metering.uplink.replay import ReplayLimits
from agent.metering.uplink.worker import EVENTS_IN_A_ROW_MAX
from tests.agent.metering.readings import event, visit
from tests.agent.metering.uplink.rig import Rig
from tests.agent.virtual import VirtualClock

SLOW = ReplayLimits(records_per_min=600, spread_s=60)
DOWN = HttpsError("no route to host")


def open_store(tmp_path: Path) -> Store:
    return Store(tmp_path / "readings.db", VirtualClock(), records_max=10_000, keep_forwarded_max=100)


def test_an_event_overtakes_the_readings_of_before_and_of_the_same_moment(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.store.append(visit(0, 120))
    rig.store.append(visit(120, 10), urgent=[event("a"), event("b")])
    rig.run(1)
    assert rig.headend.order == ["a", "b", *range(130)]
    assert rig.headend.priorities[0] == "u=1"
    assert rig.headend.seen_twice == 0
    assert rig.store.stats().pending == 0


def test_an_event_of_an_outage_goes_before_what_is_read_after_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path, replay=SLOW)
    rig.headend.mood = [DOWN] * 10_000
    for number in range(60):
        rig.store.append(visit(number * 10, 10), urgent=[event(f"e{number}")] if number % 20 == 5 else [])
        rig.run(10)
    rig.headend.mood = []
    rig.run(120)
    assert rig.headend.order[:3] == ["e5", "e25", "e45"]
    rig.run(1200)
    assert sorted(str(each) for each in rig.headend.order) == sorted(
        ["e5", "e25", "e45", *(str(number) for number in range(600))]
    )
    assert rig.headend.seen_twice == 0


@pytest.mark.parametrize("mood", ["lost", DOWN, 500, 429])
def test_an_event_whose_acknowledgement_is_lost_is_there_once(tmp_path: Path, mood: str | int | HttpsError) -> None:
    rig = Rig(tmp_path)
    rig.headend.mood = [mood]
    rig.store.append(visit(0, 3), urgent=[event("a")])
    rig.run(0.5)
    rig.start()  # killed before it could try again
    rig.run(600)
    assert sorted(map(str, rig.delivered())) == ["0", "1", "2", "a"]
    assert rig.store.urgent_batch(10) is None


def test_events_without_end_do_not_keep_readings_from_the_head_end(tmp_path: Path) -> None:
    rig = Rig(tmp_path, batch_records_max=1)
    rig.store.append(visit(0, 3))
    rig.store.append([], urgent=[event(f"e{number}") for number in range(3 * EVENTS_IN_A_ROW_MAX)])
    rig.run(1)
    assert [rig.headend.order.index(number) for number in range(3)] == [
        (EVENTS_IN_A_ROW_MAX + 1) * (number + 1) - 1 for number in range(3)
    ]


def test_a_head_end_that_takes_no_event_is_sent_the_readings_nevertheless(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.store.append(visit(0, 3), urgent=[event("bad")])
    rig.headend.poison = {1}
    rig.run(600)
    assert rig.headend.order == [0, 1, 2]
    assert rig.store.stats().refused == 1
    assert [refusal.id for refusal in rig.store.refused(5)] == [1]


def test_an_event_with_a_known_key_is_not_stored_again_after_a_restart_either(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.append([], urgent=[event("a"), event("a"), event("b")])
    store.close()
    again = open_store(tmp_path)
    again.append(visit(0, 1), urgent=[event("a"), event("c")])
    assert [record["key"] for record in again.events(10)] == ["c", "b", "a"]
    assert again.stats().pending == 4


def test_the_newest_events_are_shown_after_their_delivery_too_and_their_number_is_bounded(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for number in range(KEPT + 10):
        store.append([], urgent=[event(f"e{number}")])
    while (batch := store.urgent_batch(500)) is not None:
        store.release(batch.store, batch.last, first=batch.first)
    assert [record["key"] for record in store.events(2)] == [f"e{KEPT + 9}", f"e{KEPT + 8}"]
    assert store.ask(lambda db: db.execute("SELECT COUNT(*) FROM event").fetchone()[0]) == KEPT


def test_a_file_of_the_format_before_gets_the_table(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.append(visit(0, 2))
    store.ask(lambda db: db.execute("DROP TABLE event"))
    store.ask(lambda db: db.execute("DROP TABLE calendar"))  # of the format after it
    store.ask(lambda db: db.execute("UPDATE meta SET value=4 WHERE key='format'"))
    store.close()
    again = open_store(tmp_path)
    again.append([], urgent=[event("a")])
    assert again.ask(lambda db: db.execute("SELECT value FROM meta WHERE key='format'").fetchone()[0]) == FORMAT
    assert again.stats().pending == 3
    batch = again.urgent_batch(5)
    assert batch is not None
    assert (batch.first, batch.last) == (3, 3)


def test_many_single_events_in_a_backlog_are_delivered_once_each(tmp_path: Path) -> None:
    """More ranges out of turn than are kept: the rest waits for its turn."""
    rig = Rig(tmp_path, replay=SLOW)
    rig.headend.mood = [DOWN] * 5
    for number in range(200):
        rig.store.append(visit(number, 1), urgent=[event(f"e{number}")])
    rig.run(1200)
    assert len(rig.headend.order) == 400
    assert rig.headend.seen_twice == 0
    assert rig.store.stats().pending == 0
