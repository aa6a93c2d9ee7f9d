"""The worker of a further sink: everything in order, again after failures, and never in the way."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from agent.metering.scheduling.schedule import Backoff
from agent.metering.store.reading_store import Store
from agent.metering.uplink.sink import HEARTBEAT_S, SinkError, SinkWorker
from agent.status import SinkStatus
from tests.agent.metering.readings import visit
from tests.agent.virtual import VirtualClock


class Listener:
    name = "listener"

    def __init__(self) -> None:
        self.got: list[object] = []
        self.failures = 0
        self.tended = 0
        self.refuse: set[object] = set()

    def deliver(self, store: str, records: Sequence[Mapping[str, object]]) -> int:
        assert len(store) == 32
        if self.failures:
            self.failures -= 1
            raise SinkError("the broker is away")
        raws = [record["raw"] for record in records]
        self.got += [raw for raw in raws if raw not in self.refuse]
        return len(self.refuse & set(raws))

    def tend(self) -> None:
        self.tended += 1

    def close(self) -> None:
        pass


def rig(tmp_path: Path) -> tuple[Store, Listener, SinkWorker, VirtualClock]:
    clock = VirtualClock()
    store = Store(tmp_path / "readings.db", clock, records_max=10_000, keep_forwarded_max=0)
    listener = Listener()
    worker = SinkWorker(store, listener, clock, backoff=Backoff(2, 60), rng=random.Random(1))
    assert worker.step() == HEARTBEAT_S
    return store, listener, worker, clock


def test_everything_comes_in_order_and_the_connection_is_tended_in_between(tmp_path: Path) -> None:
    store, listener, worker, _ = rig(tmp_path)
    store.append(visit(0, 900))
    assert [worker.step() for _ in range(3)] == [0.0, 0.0, HEARTBEAT_S]
    assert listener.got == list(range(900))
    assert listener.tended == 2


def test_after_failures_it_goes_on_where_it_was_with_pauses_that_double(tmp_path: Path) -> None:
    store, listener, worker, _ = rig(tmp_path)
    store.append(visit(0, 10))
    listener.failures = 4
    pauses = [worker.step() for _ in range(4)]
    assert all(low / 2 <= pause <= low for low, pause in zip([2, 4, 8, 16], pauses, strict=True))
    assert worker.step() == 0.0
    assert listener.got == list(range(10))


def test_what_a_sink_does_not_take_is_missed_and_the_rest_goes_on(tmp_path: Path) -> None:
    store, listener, worker, _ = rig(tmp_path)
    listener.refuse = {3}
    store.append(visit(0, 10))
    assert worker.step() == 0.0
    assert worker.step() == HEARTBEAT_S
    assert store.sink_states()["listener"].missed == 1


def test_a_sink_says_how_it_gets_on(tmp_path: Path) -> None:
    store, listener, worker, clock = rig(tmp_path)
    assert worker.sink_status() == SinkStatus("listener")
    store.append(visit(0, 900))
    listener.refuse = {1, 2}
    while worker.step() == 0.0:
        pass
    told = worker.sink_status()
    assert (told.per_min, told.last_delivery, told.last_error) == (898, clock.wall(), "")
    store.append(visit(900, 1))
    listener.failures = 1
    pause_s = worker.step()
    told = worker.sink_status()
    assert (told.failures, told.last_error) == (1, "the broker is away")
    assert told.again_in_s == pytest.approx(pause_s)
    clock.advance(pause_s)
    while worker.step() == 0.0:
        pass
    told = worker.sink_status()
    assert (told.failures, told.again_in_s, told.last_error) == (0, 0.0, "")
    clock.advance(120.0)
    assert worker.sink_status().per_min == 0
