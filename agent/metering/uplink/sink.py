"""Sinks beside the head-end: the worker that brings readings from the store to one of them.

A sink takes records and says what became of them; the worker moves the sink's position in the store then
(store/sinks.py). What was refused, or may not have arrived, is offered again, and what a sink refuses for good is set
aside (sink_progress.py). A record may come twice, after a failure; (store, id) tells.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from agent.clock import Clock
from agent.metering.scheduling.schedule import Backoff
from agent.metering.store.reading_store import Store, StoreError
from agent.metering.store.sinks import KEPT_MAX, SinkBatch
from agent.metering.uplink.replay import Throughput
from agent.metering.uplink.sink_progress import Delivery, SinkProgress
from agent.status import ERROR_CHARS_MAX, SinkStatus
from omadm.readings import ID_MAX

LOG = logging.getLogger("agent.metering.uplink.sink")

RECORDS_PER_BATCH_MAX = 500
HEARTBEAT_S = 10.0  # between two signs of life, of the sink's connection as well
BEAT_S = 30.0  # between two beats, in a pause that is longer
REASONS_MAX = 256  # of refusals, that are logged once each


class SinkError(Exception):
    """The sink cannot take readings now; the text says why. They are offered again."""


class Sink(Protocol):
    """`name` names its position in the store, and its thread."""

    name: str

    def deliver(self, store: str, records: Sequence[Mapping[str, object]]) -> Delivery:
        """Bring these to where they belong; those that the answer says were taken are there on return. Raises
        `SinkError` when nobody knows of any."""

    def tend(self) -> None:
        """Keep the connection alive while there is nothing to deliver, open it where there is none. Raises
        `SinkError`."""

    def close(self) -> None:
        """Say good-bye."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """The records of a batch, which are all that there are from the id `first` on. `again`: they were held."""

    first: int
    batch: SinkBatch
    again: bool = False


class SinkWorker:
    """A worker. `notify` says that there is something to send."""

    budget_s = 300.0  # a sink may wait for a connection, for its TLS, and then for its answers: 20 s, 120 s, 20 s, 60 s

    def __init__(self, store: Store, sink: Sink, clock: Clock, *, backoff: Backoff, rng: random.Random) -> None:
        self.name = f"sink-{sink.name}"
        self._store = store
        self._sink = sink
        self._clock = clock
        self._backoff = backoff
        self._rng = rng
        self._wake = threading.Event()
        self._failures = 0
        self._not_before = 0.0
        self._known = False
        self._progress = SinkProgress("")
        self._again_at = 0.0  # what is held is offered again then
        self._passes = 0  # over what is held, without any of it having been taken
        self._position = 0  # as the store has it, of the present store
        self._gone = 0  # missed, and not yet in the store
        self._aside: list[tuple[Mapping[str, object], str]] = []  # likewise
        self._reasons: set[tuple[str, bool]] = set()  # that were logged
        self._throughput = Throughput()
        self._status = SinkStatus(sink.name)

    def notify(self) -> None:
        """Say that there is something to send. Any thread."""
        self._wake.set()

    def wake(self) -> None:
        """Have `run` look at its `stop` now. Any thread."""
        self._wake.set()

    def sink_status(self) -> SinkStatus:
        """Return how delivery goes. Any thread."""
        now, failures = self._clock.monotonic(), self._failures
        return replace(
            self._status,
            per_min=self._throughput.per_min(now),
            last_error=self._status.last_error or self._status.refusal,
            failures=failures,
            again_in_s=max(0.0, self._not_before - now) if failures else 0.0,
        )

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        while not stop.is_set():
            beat()
            self._wake.clear()
            self._rest(self.step(), stop, beat)
        self._sink.close()

    def step(self) -> float:
        """Deliver at most one batch. Returns after how many seconds to come back; 0 when there may be more."""
        try:
            if not self._known:
                self._store.add_sink(self._sink.name)
                self._known = True
            offer = self._next_again() or self._next()
            if offer is None:
                self._flush()  # where the store took nothing the last time
                self._sink.tend()
                self._reached("it is reached again, and nothing waits")
                return self._until_again()
            failed = self._offer(offer)
        except (SinkError, StoreError) as error:
            return self._failed(str(error))
        return self._failed(failed) if failed else 0.0

    # --- inside ---

    def _next(self) -> _Offer | None:
        """Return what is new."""
        progress = self._progress
        if not progress.may_go_on():
            return None
        batch = self._batch(progress.reached)
        return _Offer(self._progress.reached + 1, batch) if batch else None

    def _next_again(self) -> _Offer | None:
        """Return what is held and due. A pass over it ends when all was offered; then there is a pause."""
        progress = self._progress
        if not progress.held or self._clock.monotonic() < self._again_at:
            return None
        ids = progress.next_held()
        if ids is None:
            self._pause_held()
            return None
        first, last = ids
        batch = self._batch(first - 1, last)
        if self._progress is not progress:
            return _Offer(1, batch) if batch else None
        # Where there are none, they made room for others.
        return _Offer(first, batch or SinkBatch(progress.store, last, (), last - first + 1), again=True)

    def _batch(self, after: int, last: int = ID_MAX) -> SinkBatch | None:
        """Return records of these ids. What is known of the records of one store is over once there is another one;
        then they are the first records of that. Raises `StoreError`."""
        of = self._progress.store
        batch = self._store.sink_batch(self._sink.name, RECORDS_PER_BATCH_MAX, store=of, after=after, last=last)
        if batch is not None and batch.store != of:
            self._progress = SinkProgress(batch.store)
            self._position = self._gone = 0
        return batch

    def _pause_held(self) -> None:
        self._passes += 1
        self._again_at = self._clock.monotonic() + self._backoff.pause(self._passes, self._rng.random)

    def _until_again(self) -> float:
        left_s = self._again_at - self._clock.monotonic() if self._progress.held else HEARTBEAT_S
        return min(HEARTBEAT_S, max(0.0, left_s))

    def _offer(self, offer: _Offer) -> str:
        """Offer records, and keep what becomes of them. Returns why that is not known of all, empty where it is.
        Raises `SinkError`, `StoreError`."""
        batch, progress = offer.batch, self._progress
        records = {int(str(entry["id"])): entry for entry in batch.records}
        delivery = self._sink.deliver(batch.store, batch.records) if records else Delivery()
        held_before = bool(progress.held)
        aside = progress.settle(offer.first, batch.last, list(records), delivery)
        self._tell(batch, delivery, aside)
        self._keep(batch, [(records[number], why) for number, why in aside.items()])
        self._plan(offer, delivery, held_before=held_before)
        if delivery.taken:
            self._throughput.delivered(len(delivery.taken), self._clock.monotonic())
            self._status = replace(self._status, last_delivery=self._clock.wall())
        if not delivery.failed:
            self._reached("readings are delivered again" if delivery.taken else "it answers again, and takes nothing")
        return delivery.failed

    def _plan(self, offer: _Offer, delivery: Delivery, *, held_before: bool) -> None:
        """See when what is held is offered again, and what of it first."""
        progress, last = self._progress, offer.batch.last
        if offer.again:
            progress.passed(max(delivery.refused, default=offer.first - 1) if delivery.failed else last)
        if not progress.held:
            self._passes = 0
        elif delivery.failed:
            self._again_at = 0.0  # with the next attempt
        elif offer.again:
            if delivery.taken:
                self._passes = 0
            elif not progress.others_taken(offer.first, last):
                self._pause_held()  # a sink that takes nothing is not asked for everything in each pass
        elif not held_before:
            self._pause_held()

    def _keep(self, batch: SinkBatch, aside: list[tuple[Mapping[str, object], str]]) -> None:
        """Keep how far the sink is, and what is set aside. Raises `StoreError`."""
        progress = self._progress
        self._gone += batch.missed + len(aside)
        held = sum(each.last - each.first + 1 for each in progress.held)
        refused = progress.refused()
        self._status = replace(
            self._status, held=held, ahead=progress.ahead(), refusal=refused.why[:ERROR_CHARS_MAX] if refused else ""
        )
        self._aside = [*self._aside, *aside][-KEPT_MAX:]
        self._flush()

    def _flush(self) -> None:
        """Bring the position in the store up to date. Raises `StoreError`."""
        position = self._progress.position()
        moved = position > self._position
        if moved or self._aside:
            gone = self._gone if moved else 0
            self._store.sink_done(self._sink.name, self._progress.store, position, gone, self._aside)
            self._aside = []
        if moved:
            self._position, self._gone = position, 0

    def _tell(self, batch: SinkBatch, delivery: Delivery, aside: Mapping[int, str]) -> None:
        if batch.missed:
            LOG.error(
                "%s: %d readings were gone before it came for them",
                *(self.name, batch.missed),
                extra={"event": "sink.missed"},
            )
        reasons = {why for number, why in delivery.refused.items() if number not in aside}
        for why in sorted(reasons):
            level = logging.WARNING if self._is_new(why, for_good=False) else logging.DEBUG
            text = "%s: readings are refused, and offered again: %s"
            LOG.log(level, text, self.name, why, extra={"event": "sink.refused"})
        for why in sorted(set(aside.values())):
            level = logging.ERROR if self._is_new(why, for_good=True) else logging.DEBUG
            ids = [number for number, reason in aside.items() if reason == why]
            text = "%s: %d readings are set aside (the first one is %d): %s"
            LOG.log(level, text, self.name, len(ids), ids[0], why, extra={"event": "sink.aside"})

    def _is_new(self, why: str, *, for_good: bool) -> bool:
        """Whether this reason is to be said; each is said once."""
        new = (why, for_good) not in self._reasons and len(self._reasons) < REASONS_MAX
        if new:
            self._reasons.add((why, for_good))
        return new

    def _reached(self, how: str) -> None:
        if self._failures:
            LOG.info("%s: %s", self.name, how, extra={"event": "sink.recovered"})
            self._failures = 0
            self._status = replace(self._status, last_error="")

    def _failed(self, why: str) -> float:
        self._failures += 1
        level = logging.WARNING if self._failures == 1 else logging.DEBUG
        LOG.log(level, "%s: readings are not delivered: %s", self.name, why, extra={"event": "sink.failed"})
        pause_s = self._backoff.pause(self._failures, self._rng.random)
        self._not_before = self._clock.monotonic() + pause_s
        self._status = replace(self._status, last_error=why[:ERROR_CHARS_MAX])
        return pause_s

    def _rest(self, pause_s: float, stop: threading.Event, beat: Callable[[], None]) -> None:
        until = self._clock.monotonic() + pause_s
        while not stop.is_set() and (left := until - self._clock.monotonic()) > 0:
            beat()
            if self._wake.wait(min(left, BEAT_S)) and not self._failures:
                return
            self._wake.clear()
