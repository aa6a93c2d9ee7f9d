"""Sinks beside the head-end: the worker that brings readings from the store to one of them.

A sink takes records and returns when they are delivered; the worker moves the sink's position in the store then
(store/sinks.py). A record may come twice, after a failure; (store, id) tells.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from agent.clock import Clock
from agent.metering.scheduling.schedule import Backoff
from agent.metering.store.reading_store import Store, StoreError
from agent.metering.uplink.replay import Throughput
from agent.status import ERROR_CHARS_MAX, SinkStatus

LOG = logging.getLogger("agent.metering.uplink.sink")

RECORDS_PER_BATCH_MAX = 500
HEARTBEAT_S = 10.0  # between two signs of life, of the sink's connection as well
BEAT_S = 30.0  # between two beats, in a pause that is longer


class SinkError(Exception):
    """The sink cannot take readings now; the text says why. They are offered again."""


class Sink(Protocol):
    """`name` names its position in the store, and its thread."""

    name: str

    def deliver(self, store: str, records: Sequence[Mapping[str, object]]) -> int:
        """Bring these to where they belong; they are there on return. Returns how many of them will never be taken.
        Raises `SinkError`."""

    def tend(self) -> None:
        """Keep the connection alive while there is nothing to deliver, open it where there is none. Raises
        `SinkError`."""

    def close(self) -> None:
        """Say good-bye."""


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
            batch = self._store.sink_batch(self._sink.name, RECORDS_PER_BATCH_MAX)
            if batch is None:
                self._sink.tend()
            else:
                refused = self._sink.deliver(batch.store, batch.records) if batch.records else 0
                self._store.sink_done(self._sink.name, batch.last, batch.missed + refused)
                self._missed(batch.missed, refused)
                if batch.records:
                    self._throughput.delivered(len(batch.records) - refused, self._clock.monotonic())
                    self._status = replace(self._status, last_delivery=self._clock.wall())
        except (SinkError, StoreError) as error:
            return self._failed(str(error))
        if self._failures:
            LOG.info("%s: readings are delivered again", self.name, extra={"event": "sink.recovered"})
            self._failures = 0
            self._status = replace(self._status, last_error="")
        return HEARTBEAT_S if batch is None else 0.0

    def _missed(self, missed: int, refused: int) -> None:
        if missed or refused:
            LOG.error(
                "%s: %d readings were gone before it came for them, %d it does not take",
                *(self.name, missed, refused),
                extra={"event": "sink.missed"},
            )

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
