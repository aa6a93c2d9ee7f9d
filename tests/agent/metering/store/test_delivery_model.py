"""Delivery out of order against a model: whatever is asked of the store in whatever order, nothing is lost, nothing is
freed before it was acknowledged, and the counts agree."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest

from agent.metering.store import delivery
from agent.metering.store.reading_store import Batch, Store
from tests.agent.metering.readings import visit
from tests.agent.virtual import VirtualClock

BLOCK_MAX = 12  # records of one visit


class Model:
    """What waits, by id, beside the real store. `records_max` is the store's bound."""

    def __init__(self, folder: Path, seed: int, records_max: int, keep: int) -> None:
        self.rng = random.Random(seed)
        self.file, self.records_max, self.keep = folder / "readings.db", records_max, keep
        self.store = self.open()
        self.made = 0
        self.waiting: dict[int, int] = {}
        self.forwarded = self.refused = self.lost = 0

    def open(self) -> Store:
        return Store(self.file, VirtualClock(), records_max=self.records_max, keep_forwarded_max=self.keep)

    def append(self) -> None:
        count = self.rng.randint(1, BLOCK_MAX)
        room = self.records_max - len(self.waiting) - count
        first, last = self.store.append(visit(self.made, count))
        self.waiting |= {record_id: self.made + record_id - first for record_id in range(first, last + 1)}
        self.made += count
        lost = self.store.stats().lost - self.lost
        # The only delivered records that cannot make room lie beside waiting ones in a block.
        assert not lost or room < BLOCK_MAX * (len(self.gaps()) + 1) * 2, "given up although there was room"
        for record_id in sorted(self.waiting)[:lost]:
            del self.waiting[record_id]
        self.lost += lost

    def gaps(self) -> list[int]:
        ids = sorted(self.waiting)
        return [a for a, b in pairwise(ids) if b != a + 1]

    def take(self) -> Batch | None:
        limit = self.rng.randint(1, 40)
        ids = sorted(self.waiting)
        if self.rng.random() < 0.5 or not ids:
            first, last = 0, 2**63 - 1
        else:
            first = self.rng.randint(1, ids[-1] + 2)
            last = self.rng.choice([first + self.rng.randint(0, 60), 2**63 - 1])
        batch = self.store.batch(limit, first=first, last=last)
        wanted = [record_id for record_id in ids if first <= record_id <= last][:limit]
        got = [(record["id"], record["raw"]) for record in batch.records] if batch else []
        assert got == [(each, self.waiting[each]) for each in wanted]
        return batch

    def deliver(self) -> None:
        batch = self.take()
        if batch is None:
            return
        ids = [int(str(record["id"])) for record in batch.records]
        fate = self.rng.random()
        if fate < 0.2:  # the answer is lost: nothing may change
            return
        if fate < 0.3:
            self.store.refuse(batch, "no")
            self.refused += len(ids)
        else:
            last = batch.last if fate < 0.9 else self.rng.choice(ids)
            ids = [each for each in ids if each <= last]
            assert self.store.release(batch.store, last, first=batch.first) == len(ids)
            assert self.store.release(batch.store, last, first=batch.first) == 0, "counted twice"
            self.forwarded += len(ids)
        for each in ids:
            del self.waiting[each]

    def restart(self) -> None:
        """As after a kill: without `close` the file is only let go."""
        if self.rng.random() < 0.5:
            self.store.close()
        self.store = self.open()

    def check(self) -> None:
        stats = self.store.stats()
        assert (stats.pending, stats.forwarded, stats.refused, stats.lost) == (
            len(self.waiting), self.forwarded, self.refused, self.lost,
        )  # fmt: skip
        assert stats.pending + stats.forwarded + stats.refused + stats.lost == self.made

    def drain(self) -> None:
        got: dict[int, object] = {}
        while (batch := self.store.batch(100)) is not None:
            got |= {int(str(record["id"])): record["raw"] for record in batch.records}
            self.store.release(batch.store, batch.last, first=batch.first)
        assert got == self.waiting


@pytest.mark.parametrize(("records_max", "keep"), [(100_000, 0), (100_000, 60), (400, 0), (400, 100)])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_nothing_is_lost_nor_freed_before_it_was_acknowledged(
    tmp_path: Path, seed: int, records_max: int, keep: int
) -> None:
    model = Model(tmp_path, seed, records_max, keep)
    appends = 0.7 if records_max == 400 else 0.35
    for _ in range(350):
        draw = model.rng.random()
        if draw < appends:
            model.append()
        elif draw < 0.97:
            model.deliver()
        else:
            model.restart()
        model.check()
    assert records_max > 400 or model.lost, "the bound was never reached"
    model.drain()


def test_what_was_delivered_out_of_order_makes_room_before_what_waits(tmp_path: Path) -> None:
    store = Store(tmp_path / "readings.db", VirtualClock(), records_max=1000, keep_forwarded_max=0)
    for start in range(0, 1000, 100):
        store.append(visit(start, 100))
    store.release(store.stats().uuid, 1000, first=601)
    for start in range(1000, 1400, 100):
        store.append(visit(start, 100))
    assert store.stats().lost == 0
    batch = store.batch(2000)
    assert batch is not None
    assert [record["raw"] for record in batch.records] == [*range(600), *range(1000, 1400)]
    store.append(visit(1400, 100))
    assert store.stats().lost == 100


def test_the_ranges_that_are_delivered_out_of_order_are_bounded(tmp_path: Path) -> None:
    store = Store(tmp_path / "readings.db", VirtualClock(), records_max=100_000, keep_forwarded_max=0)
    store.append(visit(0, 1000))
    delivered = set()
    for first in range(10, 1000, 5):
        batch = store.batch(1, first=first)
        assert batch is not None
        store.release(batch.store, batch.last, first=batch.first)
        delivered.add(batch.records[0]["raw"])
        ranges = store.file.run(lambda db, _: db.execute("SELECT COUNT(*) FROM delivered").fetchone()[0])
        assert ranges <= delivery.RANGES_MAX
    assert len(delivered) == len(range(10, 1000, 5)), "each was another record"


def test_a_store_that_was_set_aside_says_what_was_delivered_out_of_order(tmp_path: Path) -> None:
    store = Store(tmp_path / "readings.db", VirtualClock(), records_max=300, keep_forwarded_max=0)
    for start in range(0, 300, 100):
        store.append(visit(start, 100))
    store.release(store.stats().uuid, 300, first=101)
    store.append(visit(300, 50))  # the body of a delivered visit made room
    store.file.run(lambda db, _: db.execute("DROP TABLE loss"))
    store.close()
    store = Store(tmp_path / "readings.db", VirtualClock(), records_max=300, keep_forwarded_max=0)
    raws: list[object] = []
    for _ in range(9):
        if (batch := store.batch(1000)) is not None:
            raws += [record["raw"] for record in batch.records]
            store.release(batch.store, batch.last, first=batch.first)
    assert raws == [*range(100), *range(300, 350)]
    assert store.stats().lost == 0
