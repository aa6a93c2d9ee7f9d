"""Further sinks: each has a position of its own, none holds up another, and what it missed is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.metering.store import reading_store, sinks
from agent.metering.store.reading_store import Store
from agent.metering.store.sinks import SinkState
from tests.agent.metering.readings import reading, visit
from tests.agent.virtual import VirtualClock


def opened(folder: Path, records_max: int = 4000, keep: int = 0) -> Store:
    return Store(folder / "readings.db", VirtualClock(), records_max=records_max, keep_forwarded_max=keep)


def taken(store: Store, name: str = "local") -> list[object]:
    raws: list[object] = []
    while (batch := store.sink_batch(name, 30)) is not None:
        assert len(batch.records) <= 30
        raws += [record["raw"] for record in batch.records]
        store.sink_done(name, batch.store, batch.last, batch.missed)
    return raws


def test_a_sink_gets_what_is_stored_from_its_first_use_on_and_goes_on_there_after_a_restart(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.append(visit(0, 10))
    store.add_sink("local")
    store.append(visit(10, 50))
    assert taken(store) == list(range(10, 60))
    store.close()
    again = opened(tmp_path)
    again.append(visit(60, 5))
    again.add_sink("local")
    assert taken(again) == list(range(60, 65))
    assert again.sink_states()["local"].missed == 0


def test_the_head_end_and_a_sink_do_not_wait_for_each_other(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.add_sink("local")
    store.append(visit(0, 500))
    assert taken(store) == list(range(500))
    assert store.stats().pending == 500
    store.append(visit(500, 500))
    store.release(store.stats().uuid, 1000)
    assert store.batch(10) is None
    assert taken(store) == list(range(500, 1000)), "delivered records are kept for it"


def test_what_is_kept_for_a_sink_that_never_comes_is_bounded_and_it_hears_of_what_it_missed(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.add_sink("local")
    for number in range(50):
        store.append(visit(number * 100, 100))
        store.release(store.stats().uuid, (number + 1) * 100)
        assert store.stats().kept <= 1250
    raws = taken(store)
    assert raws == list(range(5000 - len(raws), 5000))
    assert 1000 <= len(raws) <= 1250
    assert store.sink_states()["local"].missed == 5000 - len(raws)
    assert store.stats().lost == 0


def test_nothing_is_kept_for_a_sink_that_is_not_in_use_any_more(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.add_sink("local")
    store.append(visit(0, 100))
    store.close()
    again = opened(tmp_path)
    again.release(again.stats().uuid, 100)
    assert again.stats().kept == 0


def test_two_sinks_have_two_positions(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.add_sink("a")
    store.append(visit(0, 10))
    store.add_sink("b")
    store.append(visit(10, 10))
    assert (taken(store, "a"), taken(store, "b")) == (list(range(20)), list(range(10, 20)))


def test_a_damaged_visit_is_missed_and_the_others_come(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.add_sink("local")
    for number in range(3):
        store.append(visit(number * 10, 10))
    store.file.run(lambda db, _: db.execute("UPDATE block SET body=x'00' WHERE first=11"))
    assert taken(store) == [*range(10), *range(20, 30)]
    assert store.sink_states()["local"].missed == 10


def test_what_waits_for_a_sink_and_what_is_gone_are_told_before_it_comes(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert store.sink_states() == {}
    store.add_sink("local")
    for number in range(50):
        store.append(visit(number * 100, 100))
        store.release(store.stats().uuid, (number + 1) * 100)
    before = store.sink_states()["local"]
    assert before.waiting + before.missed == 5000
    raws = taken(store)
    assert before == SinkState(len(raws), 5000 - len(raws))
    assert store.sink_states()["local"] == SinkState(0, 5000 - len(raws))
    store.append(visit(0, 7))
    assert store.sink_states()["local"] == SinkState(7, 5000 - len(raws))


def test_visits_of_one_reading_are_neither_passed_over_nor_counted_twice(tmp_path: Path) -> None:
    store = opened(tmp_path, keep=100)
    store.add_sink("local")
    store.append(visit(0, 9))
    for number in range(9, 13):
        store.append(visit(number, 1))
    for number in range(13):
        assert store.sink_states()["local"] == SinkState(13 - number, 0)
        batch = store.sink_batch("local", 1)
        assert batch is not None
        assert ([record["raw"] for record in batch.records], batch.last, batch.missed) == ([number], number + 1, 0)
        store.sink_done("local", batch.store, batch.last, batch.missed)
    assert store.sink_states()["local"] == SinkState(0, 0)
    assert store.sink_batch("local", 1) is None


def test_a_batch_goes_on_behind_a_damaged_visit(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.add_sink("local")
    for number in range(3):
        store.append(visit(number * 10, 10))
    store.file.run(lambda db, _: db.execute("UPDATE block SET body=x'00' WHERE first=11"))
    batch = store.sink_batch("local", 100)
    assert batch is not None
    assert [record["raw"] for record in batch.records] == [*range(10), *range(20, 30)]
    assert (batch.last, batch.missed) == (30, 10)


def test_of_a_store_that_took_the_place_of_a_damaged_one_a_sink_gets_all(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.append(visit(0, 3))
    store.add_sink("local")
    store.file.run(lambda db, _: db.execute("DROP TABLE knowledge"))
    store.close()
    store.append(visit(10, 3))
    assert taken(store) == [10, 11, 12]


@pytest.mark.parametrize("names", [[], ["local"], ["a", "b"]])
def test_nothing_is_kept_for_sinks_that_have_everything(tmp_path: Path, names: list[str]) -> None:
    store = opened(tmp_path)
    for name in names:
        store.add_sink(name)
    store.append(visit(0, 1))
    for name in names:
        assert taken(store, name) == [0]
    store.release(store.stats().uuid, 1)
    assert store.stats().kept == 0


def test_of_what_sinks_and_the_head_end_refused_each_keeps_its_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topic that a broker never takes must not push out what the head-end refused, nor the other way round."""
    monkeypatch.setattr(sinks, "KEPT_MAX", 3)
    monkeypatch.setattr(reading_store, "REFUSED_MAX", 2)
    store = opened(tmp_path)
    store.append(visit(0, 9))
    records = store.sink_batch("local", 9)
    assert records is not None
    for entry in records.records:
        store.sink_done("local", records.store, 0, 0, [(entry, "no")])
        store.sink_done("other", records.store, 0, 0, [(entry, "no")])
        batch = store.batch(1)
        assert batch is not None
        store.refuse(batch, "no")
    kept = [(each.sink, each.id) for each in store.refused(100)]
    assert sorted(kept) == [("", 8), ("", 9), *[(name, number) for name in ("local", "other") for number in (7, 8, 9)]]
    assert store.stats().refused == 9


def test_a_text_that_looks_like_the_mark_of_a_sink_is_none(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.add_sink("local")
    store.append([replace(reading(1), raw='"refused_by": "local"', tag="str")])
    batch = store.batch(1)
    assert batch is not None
    store.refuse(batch, "no")
    assert store.stats().refused_at > 0
    assert store.sink_states()["local"].refused == 0
