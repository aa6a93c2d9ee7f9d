"""The worker of a further sink: everything in order, again after failures, and never in the way."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from agent.metering.scheduling.schedule import Backoff
from agent.metering.store.reading_store import Store, StoreError
from agent.metering.uplink.sink import HEARTBEAT_S, SinkError, SinkWorker
from agent.metering.uplink.sink_progress import REFUSALS_MAX, Delivery
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
        self.never: set[object] = set()
        self.breaks_after: int | None = None
        self.offered: list[list[object]] = []

    def deliver(self, store: str, records: Sequence[Mapping[str, object]]) -> Delivery:
        assert len(store) == 32
        if self.failures:
            self.failures -= 1
            raise SinkError("the broker is away")
        self.offered.append([record["raw"] for record in records])
        if self.breaks_after is not None:
            records, self.breaks_after, failed = records[: self.breaks_after], None, "the connection broke"
        else:
            failed = ""
        refused = {number(record): "topic/m1 is refused" for record in records if record["raw"] in self.refuse}
        never = {number(record): "no JSON" for record in records if record["raw"] in self.never}
        taken = [record for record in records if number(record) not in {**refused, **never}]
        self.got += [record["raw"] for record in taken]
        return Delivery({number(record) for record in taken}, refused, never, failed)

    def tend(self) -> None:
        self.tended += 1

    def close(self) -> None:
        pass


def number(record: Mapping[str, object]) -> int:
    return int(str(record["id"]))


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
    listener.never = {3}
    store.append(visit(0, 10))
    assert worker.step() == 0.0
    assert worker.step() == HEARTBEAT_S
    assert store.sink_states()["listener"].missed == 1
    assert (store.refused(9)[0].id, store.refused(9)[0].reason, store.refused(9)[0].sink) == (4, "no JSON", "listener")


def test_a_sink_says_how_it_gets_on(tmp_path: Path) -> None:
    store, listener, worker, clock = rig(tmp_path)
    assert worker.sink_status() == SinkStatus("listener")
    store.append(visit(0, 900))
    listener.never = {1, 2}
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


def through(worker: SinkWorker, clock: VirtualClock, steps: int = 200) -> None:
    """Let the worker do what it does, with the pauses that it wants."""
    for _ in range(steps):
        clock.advance(worker.step() or 0.001)


def events_of(caplog: pytest.LogCaptureFixture, *names: str) -> list[tuple[str, str]]:
    return [
        (str(getattr(entry, "event", "")), entry.levelname)
        for entry in caplog.records
        if getattr(entry, "event", "") in names
    ]


def test_a_record_that_is_refused_again_and_again_is_set_aside_and_the_others_come_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker refuses the topic of one meter. What it took is not offered again; what it refused is, with pauses, and
    then it is out of the way, with an alarm and the topic."""
    store, listener, worker, clock = rig(tmp_path)
    listener.refuse = {3, 4}
    store.append(visit(0, 10))
    assert worker.step() == 0.0
    told = worker.sink_status()
    assert (told.held, told.ahead, told.last_error) == (2, 5, "topic/m1 is refused")
    assert told.failures == 0, "the broker is there"
    through(worker, clock)
    assert listener.got == [0, 1, 2, 5, 6, 7, 8, 9]
    assert listener.offered == [list(range(10)), *[[3, 4]] * (REFUSALS_MAX - 1)]
    state = store.sink_states()["listener"]
    assert (state.waiting, state.missed, state.refused, state.refused_why) == (0, 2, 2, "topic/m1 is refused")
    assert state.refused_at > 0
    assert [(each.id, each.sink) for each in store.refused(9)] == [(5, "listener"), (4, "listener")]
    assert store.stats().refused == 0, "the head-end has refused nothing"
    assert store.stats().refused_at == 0.0
    assert events_of(caplog, "sink.refused", "sink.aside") == [("sink.refused", "WARNING"), ("sink.aside", "ERROR")]
    assert worker.sink_status().last_error == ""


def test_what_is_refused_holds_up_nothing_behind_it(tmp_path: Path) -> None:
    store, listener, worker, clock = rig(tmp_path)
    listener.refuse = set(range(1200))
    store.append(visit(0, 1200))
    store.append(visit(1200, 30))
    for _ in range(3):
        worker.step()
    assert listener.got == list(range(1200, 1230))
    through(worker, clock)
    assert listener.got == list(range(1200, 1230)), "none of them comes twice"
    assert store.sink_states()["listener"].missed == 1200
    assert store.sink_states()["listener"].waiting == 0


def test_a_sink_that_refuses_everything_does_not_empty_the_store(tmp_path: Path) -> None:
    """A mistake in the broker's access list, say: until it takes something, nothing is set aside; then all comes."""
    store, listener, worker, clock = rig(tmp_path)
    listener.refuse = set(range(2000))
    store.append(visit(0, 2000))
    through(worker, clock)
    assert store.sink_states()["listener"].missed == 0
    assert worker.sink_status().held == 2000
    assert len(listener.offered) < 60, "with pauses that grow"
    listener.refuse = set()
    through(worker, clock, 400)
    assert sorted(map(int, map(str, listener.got))) == list(range(2000))
    assert store.sink_states()["listener"].waiting == 0


def test_what_a_sink_took_before_the_connection_broke_does_not_come_again(tmp_path: Path) -> None:
    store, listener, worker, clock = rig(tmp_path)
    listener.breaks_after = 4
    store.append(visit(0, 10))
    pause_s = worker.step()
    assert pause_s > 0
    assert worker.sink_status().last_error == "the connection broke"
    store.append(visit(10, 5))
    through(worker, clock)
    assert listener.offered == [list(range(10)), list(range(4, 10)), list(range(10, 15))], "in order"
    assert listener.got == list(range(15))
    assert store.sink_states()["listener"].missed == 0


def test_after_a_restart_everything_behind_the_first_refused_record_is_offered_again(tmp_path: Path) -> None:
    store, listener, worker, clock = rig(tmp_path)
    listener.refuse = {3}
    store.append(visit(0, 10))
    worker.step()
    listener.refuse = set()
    again = SinkWorker(store, listener, clock, backoff=Backoff(2, 60), rng=random.Random(1))
    through(again, clock)
    assert listener.offered[-1] == list(range(3, 10))
    assert set(listener.got) == set(range(10))


def test_that_readings_are_delivered_again_is_said_only_when_some_were(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    store, listener, worker, clock = rig(tmp_path)
    listener.failures = 1
    listener.refuse = set(range(10))
    store.append(visit(0, 10))
    clock.advance(worker.step())
    worker.step()
    assert "delivered again" not in caplog.text
    listener.failures, listener.refuse = 1, set()
    clock.advance(300.0)
    clock.advance(worker.step())
    worker.step()
    assert "readings are delivered again" in caplog.text


def test_what_is_held_while_the_store_gives_it_up_is_missed(tmp_path: Path) -> None:
    store, listener, worker, clock = rig(tmp_path)
    store.append(visit(0, 10))
    store.append(visit(10, 10))
    listener.refuse = set(range(10))
    worker.step()
    store.file.run(lambda db, _: db.execute("DELETE FROM block WHERE first=1"))
    through(worker, clock)
    assert listener.got == list(range(10, 20))
    assert store.sink_states()["listener"].missed == 10


def test_a_store_that_takes_the_place_of_another_is_not_moved_by_what_a_sink_has_of_that_one(tmp_path: Path) -> None:
    store, listener, worker, clock = rig(tmp_path)
    store.append(visit(0, 10))
    before = store.stats().uuid
    listener.refuse = {3}
    worker.step()
    store.file.run(lambda db, _: db.execute("DROP TABLE knowledge"))
    store.close()
    store.append(visit(20, 3))
    assert store.stats().uuid != before
    store.sink_done("listener", before, 10, 0)
    through(worker, clock)
    assert listener.got[-3:] == [20, 21, 22]


def test_a_store_that_takes_nothing_costs_no_repetition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, listener, worker, clock = rig(tmp_path)
    store.append(visit(0, 10))
    listener.never = {2}
    done = store.sink_done

    def broken(*_: object, **__: object) -> None:
        raise StoreError("no room")

    monkeypatch.setattr(store, "sink_done", broken)
    assert worker.step() > 0
    monkeypatch.setattr(store, "sink_done", done)
    through(worker, clock)
    assert len(listener.offered) == 1
    assert store.sink_states()["listener"].waiting == 0
    assert [each.id for each in store.refused(9)] == [3]
