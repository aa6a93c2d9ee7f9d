"""The uplink: takes readings out of the store and posts them to the head-end.

Events of meters go first, then what was read just now, then what an outage left behind, oldest first and at a bounded
rate (replay.py). A batch is released only after the head-end said that its own transaction is committed, so a reading
is on the wire at least once, and in the head-end exactly once, because it keeps records by (device, store, id). Format:
docs/uplink.md.

What the head-end answers decides what happens next:

* 200 with the highest id it holds: release, and go on at once; with orders to send records again: remember those;
* 400 for a batch: the one record that it cannot take is searched for by halves, and set aside (poison.py); what a
  head-end of before such records cannot know is set aside at once, and offered again to one that does;
* 415: a head-end that cannot read this version of the document; waits for one that can, nothing is set aside;
* 401, 403: the token is wrong; waits for a new one from provisioning, and asks again now and then;
* 413: smaller batches from now on;
* 429, 503 with Retry-After for a backlog: that waits, and what is fresh goes on;
* anything else, or no answer: once more, after a pause that doubles, with jitter, up to its limit.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Protocol

from agent.clock import Clock
from agent.https import HttpsError, Response
from agent.metering.scheduling.schedule import Backoff
from agent.metering.store.reading_store import Batch, Store, StoreError
from agent.metering.store.resend import ResendBatch
from agent.metering.uplink.gap_lists import GapLists
from agent.metering.uplink.poison import PoisonSearch
from agent.metering.uplink.replay import FRESH_S, Freshness, Pace, ReplayLimits, Throughput, TrafficClass
from agent.settings.provisioning import UplinkSettings
from agent.status import ERROR_CHARS_MAX, QueueStatus, SinkStatus
from omadm import readings

LOG = logging.getLogger("agent.metering.uplink")

GZIP_FROM_BYTES = 1024  # smaller bodies gain nothing
GZIP_WBITS = 16 + zlib.MAX_WBITS  # with the header and trailer of gzip, whose module is another 0.1 MB
LIMIT_GROWS = 2  # after each success, back towards the provisioned size
LOOK_EVERY_S = 15.0  # with nothing to send, or in a long pause, the worker beats and publishes this often
HEAD_END = "head-end"  # among the sinks
RETRY_AFTER_MAX_S = 3600.0  # a head-end that asks for more is asked again all the same
RETRY_AFTER_SPREAD = 0.25  # added at random: it may have said the same to everybody
EVENTS_IN_A_ROW_MAX = 8  # batches; then one of readings, should events come without end
FRESH_IN_A_ROW_MAX = 8  # batches; then one of the backlog, which must get through as well
READING = "reading"  # the kind that every head-end knows
ONLY_READINGS = frozenset((READING,))
ENCODER_ERRORS = (ValueError, TypeError, RecursionError, OverflowError)


class Https(Protocol):
    """The part of `agent.https.KeptConnection` that is used. A request may reach the head-end twice."""

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response: ...


class Uplink:
    """A worker. `configure` takes new settings at any time; `notify` says that there is something to send."""

    name = "uplink"
    budget_s = 180.0  # a request that finds its connection gone (40 s), and once more: 60 s, 20 s for the last octet

    def __init__(
        self,
        store: Store,
        https: Https,
        clock: Clock,
        *,
        device_id: str,
        backoff: Backoff,
        rng: random.Random,
        replay: ReplayLimits = ReplayLimits(),  # noqa: B008 - a value that cannot change
        publish: Callable[[QueueStatus], None] = lambda _status: None,
    ) -> None:
        self._store = store
        self._https = https
        self._clock = clock
        self._device_id = device_id
        self._backoff = backoff
        self._rng = rng
        self._publish = publish
        self._wake = threading.Event()
        self._settings = UplinkSettings()
        self._applied = self._settings
        self._limit = _batch_limit(self._settings)
        self._failures = 0
        self._failing_since = 0.0
        self._not_before = 0.0
        self._freshness = Freshness()
        self._fresh_in_a_row = 0
        self._events_in_a_row = 0
        self._pace = Pace(replay, rng.random)
        self._pace.restart(clock.monotonic())  # a whole town may have got its power back
        self._search = PoisonSearch()
        self._again_max = readings.RECORDS_MAX  # records that go once more at a time
        self._lists = GapLists(store, clock.monotonic())
        self._throughput = Throughput()
        self._accepts: frozenset[str] | None = None  # kinds of records, as the head-end said last
        self._status = QueueStatus()

    def configure(self, settings: UplinkSettings) -> None:
        """Use these from the next batch on. Any thread."""
        if settings != self._settings:
            self._settings = settings
            self._wake.set()

    def notify(self) -> None:
        """Say that there is something to send. Any thread."""
        self._wake.set()

    def wake(self) -> None:
        """Have `run` look at its `stop` now. Any thread."""
        self._wake.set()

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        while not stop.is_set():
            beat()
            self._wake.clear()
            pause_s = self.step()
            self.report()
            if pause_s > 0:
                self._rest(pause_s, stop)

    def step(self) -> float:
        """Send at most one batch. Returns after how many seconds to come back; 0 when there may be more to send."""
        settings = self._settings
        if settings != self._applied:
            self._applied = settings
            self._limit = _batch_limit(settings)
            self._failures, self._not_before = 0, 0.0
            self._search = PoisonSearch()
            LOG.info("readings go to %s", settings.url or "nobody", extra={"event": "uplink.configured"})
        now = self._clock.monotonic()
        if not settings.url:
            return LOOK_EVERY_S
        if now < self._not_before:
            return self._not_before - now
        try:
            chosen = self._choose(now)
            if chosen is None:
                if self._search.begin_again():
                    return 0.0
                listed = self._lists.next(now)
                return self._send_again(now, settings) if listed is None else self._send_list(listed, now, settings)
            kind, batch = chosen
            if not batch.records:  # all of it unreadable: there is nothing to send, and no way to get it back
                self._store.release(batch.store, batch.last, first=batch.first)
                return 0.0
            return self._send(kind, batch, settings)
        except StoreError as error:
            return self._failed(f"store: {error}")

    def report(self) -> None:
        """Publish the state of the queue."""
        try:
            stats = self._store.stats()
        except StoreError as error:
            self._publish(replace(self._status, last_error=f"store: {error}"))
            return
        self._status = stats.on(self._status)
        self._publish(self._status)

    def sink_status(self) -> SinkStatus:
        """Return how delivery goes. Any thread."""
        now, status = self._clock.monotonic(), self._status
        return SinkStatus(
            HEAD_END,
            self._throughput.per_min(now),
            status.last_uplink,
            status.last_error,
            failures=self._failures,
            again_in_s=max(0.0, self._not_before - now) if self._failures else 0.0,
            backlog_per_min=self._pace.limits.records_per_min,
            backlog_in_s=max(0.0, self._pace.ready_at - now),
        )

    # --- inside ---

    def _rest(self, pause_s: float, stop: threading.Event) -> None:
        """Wait. New settings and a stop cut the wait short; new readings do so only when no backoff runs."""
        until = self._clock.monotonic() + min(pause_s, LOOK_EVERY_S)
        while not stop.is_set() and (left := until - self._clock.monotonic()) > 0:
            if self._wake.wait(left):
                self._wake.clear()
                if self._settings != self._applied or self._clock.monotonic() >= self._not_before:
                    return

    def _choose(self, now: float) -> tuple[TrafficClass, Batch] | None:
        """Return what is sent next, or `None` when nothing may be."""
        store, search = self._store, self._search
        next_id = store.next_id()
        self._freshness.note(next_id, now)
        if search.window is not None:
            window, own = search.window, search.window.store == store.file.uuid
            ids = {"first": window.first, "last": window.last} if own else {}
            batch = store.batch(min(self._limit, search.limit()), **ids)
            if batch is not None and batch.store == window.store:
                return (
                    TrafficClass.FRESH if own and batch.first >= self._freshness.first else TrafficClass.REPLAY
                ), batch
            search.window = None
        begin, fresh = search.first(store.file.uuid), self._freshness.first
        if self._events_in_a_row < EVENTS_IN_A_ROW_MAX:
            urgent = store.urgent_batch(self._limit, first=begin)
            if urgent is not None:
                self._events_in_a_row += 1
                return TrafficClass.EVENT, urgent
        self._events_in_a_row = 0
        ways = [(TrafficClass.FRESH, {"first": max(begin, fresh)})]
        if now >= self._pace.ready_at or self._failures:  # a backlog may well be what is tried after a failure
            backlog = (TrafficClass.REPLAY, {"first": begin, "last": fresh - 1})
            ways.insert(0 if self._fresh_in_a_row >= FRESH_IN_A_ROW_MAX else 1, backlog)
        for kind, ids in ways:
            if (batch := store.batch(self._limit, **ids)) is not None:
                self._fresh_in_a_row = self._fresh_in_a_row + 1 if kind is TrafficClass.FRESH else 0
                return kind, batch
        return None

    def _send(self, kind: TrafficClass, batch: Batch, settings: UplinkSettings) -> float:
        try:
            body = self.body(batch)
        except ENCODER_ERRORS as error:
            return self._not_taken(batch, f"it cannot be encoded: {type(error).__name__}: {error}")
        if len(body) > readings.PLAIN_BYTES_MAX:
            return self._too_large(batch)
        response = self._post(kind, body, settings)
        return response if isinstance(response, float) else self._answered(response, kind, batch, settings)

    def _post(self, kind: TrafficClass, body: bytes, settings: UplinkSettings) -> Response | float:
        """Return the answer; where there is none, the pause after the failure."""
        headers = {
            "Authorization": f"Bearer {settings.token}",
            "Content-Type": "application/json",
            "Priority": f"u={kind.urgency}",
        }
        if len(body) >= GZIP_FROM_BYTES:
            body = zlib.compress(body, 9, GZIP_WBITS)
            headers["Content-Encoding"] = "gzip"
        try:
            return self._https.request("POST", settings.url, body=body, headers=headers)
        except HttpsError as error:
            return self._failed(str(error))

    def body(self, batch: Batch) -> bytes:
        """Return the body of the request before compression."""
        return readings.emit(self._device_id, batch.store, batch.records)

    def _answered(self, response: Response, kind: TrafficClass, batch: Batch, settings: UplinkSettings) -> float:
        match response.status:
            case 200:
                return self._acknowledged(response, kind, batch, settings)
            case 400 if _is_verdict(response):
                return self._not_taken(batch, _said(response))
            case 413 if len(batch.records) > 1 or _is_verdict(response):
                return self._too_large(batch)
            case _:
                return self._turned_away(response, kind)

    def _turned_away(self, response: Response, kind: TrafficClass) -> float:
        again_s = _retry_after(response, self._clock.wall()) * (1 + RETRY_AFTER_SPREAD * self._rng.random())
        match response.status:
            case 429 | 503 if again_s and kind.may_wait and not self._failures:
                self._pace.hold(self._clock.monotonic(), again_s)
                self._status = replace(self._status, last_error=f"the head-end wants no backlog for {again_s:.0f} s")
                return 0.0
            case 401 | 403:
                return self._failed(f"the head-end refuses the token ({response.status})", again_s=self._backoff.max_s)
            case status:
                return self._failed(f"the head-end answered {status}: {_said(response)}", again_s=again_s)

    def _send_list(self, listed: readings.GapList, now: float, settings: UplinkSettings) -> float:
        """Nothing waits: say what is missing as a whole."""
        body = readings.emit(self._device_id, self._store.file.uuid, (), listed=listed)
        response = self._post(TrafficClass.FRESH, body, settings)
        if isinstance(response, float):
            self._lists.failed(self._clock.monotonic())
            return response
        if response.status == 400 and _is_verdict(response):  # one of before lists, or a defect: no sooner than usual
            LOG.warning(
                "the head-end refuses the list of what is missing: %s",
                _said(response),
                extra={"event": "uplink.list.refused"},
            )
            self._lists.answered(None, now)
            return 0.0
        if response.status != 200:
            self._lists.failed(self._clock.monotonic())
            return 0.0 if response.status == 413 else self._turned_away(response, TrafficClass.FRESH)
        self._lists.answered(_document(response).get("listed"), now)
        self._worked(response)
        return 0.0

    def _send_again(self, now: float, settings: UplinkSettings) -> float:
        """Nothing waits: send what the head-end wants once more, then how that ended."""
        if now < self._pace.ready_at:
            return self._pace.ready_at - now
        again = self._store.resend_batch(min(self._limit, self._again_max))
        if again is not None and not again.records:
            self._store.resend_sent(again)
            return 0.0
        reports = [] if again else self._store.resend_reports()
        if again is None and not reports:
            return LOOK_EVERY_S
        records = again.records if again else ()
        try:
            body = readings.emit(self._device_id, self._store.file.uuid, records, reports)
        except ENCODER_ERRORS as error:
            return self._not_sent_again(again, f"it cannot be encoded: {type(error).__name__}: {error}")
        if len(body) > readings.PLAIN_BYTES_MAX:
            return self._not_sent_again(again, "a single record is too large")
        response = self._post(TrafficClass.RESEND, body, settings)
        if isinstance(response, float):
            return response
        alone = len(records) <= 1
        match response.status:
            case 200 if _acknowledged_id(response) == (records[-1]["id"] if records else None):
                if again is not None:
                    self._store.resend_sent(again)
                    self._pace.sent(len(records), now)
                    self._again_max = min(self._again_max * LIMIT_GROWS, readings.RECORDS_MAX)
                self._store.close_resends(report.request for report in reports)
                self._worked(response)
                return 0.0
            case 400 | 413 if again is not None and _is_verdict(response) and (response.status == 400 or alone):
                return self._not_sent_again(again, f"the head-end refused what it wants again: {_said(response)}")
            case 413 if not alone:
                self._limit = len(records) // 2
                return 0.0
            case _:
                return self._turned_away(response, TrafficClass.RESEND)

    def _not_sent_again(self, again: ResendBatch | None, why: str) -> float:
        """Something in these cannot be had once more: it is looked for by halves, so that it costs itself alone."""
        if again is None:
            return self._failed(why)
        if len(again.records) > 1:
            self._again_max = len(again.records) // 2
            return 0.0
        self._store.resend_sent(again, refused=True)
        return self._failed(why)

    def _acknowledged(self, response: Response, kind: TrafficClass, batch: Batch, settings: UplinkSettings) -> float:
        last = _acknowledged_id(response)
        if last is None or not batch.first <= last <= batch.last:
            return self._failed(f"the head-end acknowledged {_said(response)} of {batch.first} to {batch.last}")
        # The ids between the last record and the end of the batch were unreadable: they go with it.
        sent_last = int(str(batch.records[-1]["id"]))
        released = self._store.release(batch.store, batch.last if last >= sent_last else last, first=batch.first)
        LOG.debug("delivered %d records up to id %d", released, last)
        self._worked(response)
        self._throughput.delivered(released, self._clock.monotonic())
        if kind.may_wait:
            self._pace.sent(released, self._clock.monotonic())
        self._search.taken(batch)
        self._limit = min(_batch_limit(settings), self._limit * LIMIT_GROWS)
        return 0.0

    def _worked(self, response: Response) -> None:
        """The head-end has taken something: failures are over, and it may have orders."""
        now = self._clock.monotonic()
        self._note_kinds(response)
        if self._failures:
            LOG.info("readings are delivered again", extra={"event": "uplink.recovered"})
            if now - self._failing_since > FRESH_S:
                self._pace.restart(now)
        self._failures = 0
        self._status = replace(self._status, last_uplink=self._clock.wall(), last_error="")
        try:
            fresh = self._store.order_resend(readings.parse_orders(_document(response).get("resend", [])))
        except readings.BatchError as error:
            LOG.debug("the head-end's order to send again is malformed: %s", error)
            return
        if fresh:
            LOG.info("the head-end wants readings once more (%d orders)", fresh, extra={"event": "uplink.resend"})

    def _too_large(self, batch: Batch) -> float:
        if len(batch.records) == 1:
            return self._not_taken(batch, "a single record is too large")
        self._limit = max(1, len(batch.records) // 2)
        return 0.0

    def _note_kinds(self, response: Response) -> None:
        """Note which kinds of records the head-end knows. After an update of the head-end, offer again the records that
        its older version did not take because it did not know their kind."""
        said = response.headers.get(readings.ACCEPTS_HEADER.lower(), READING)
        accepts = frozenset(kind.strip() for kind in said.split(","))
        if accepts == self._accepts:
            return
        again = self._store.offer_again(accepts) if accepts > ONLY_READINGS else 0
        self._accepts = accepts
        if again:
            LOG.info(
                "%d records are offered again to a head-end that knows them", again, extra={"event": "uplink.kinds"}
            )

    def _set_unknown_kinds_aside(self, batch: Batch, why: str) -> bool:
        """A batch was refused by a head-end that takes readings and does not say that it knows more: set the others
        aside. Returns whether there were any."""
        if self._accepts != ONLY_READINGS or batch.store != self._store.file.uuid:
            return False  # the first while none has taken anything: something else may answer in its place
        others = [entry for entry in batch.records if readings.kind_of(entry) != READING]
        for entry in others:
            number = int(str(entry["id"]))
            self._store.refuse(Batch(batch.store, number, number, (entry,)), why, unknown_kind=True)
        if others:
            LOG.warning(
                "%d records of kinds that the head-end does not know are set aside for a later one: %s",
                len(others),
                why,
                extra={"event": "uplink.kinds"},
            )
        return bool(others)

    def _not_taken(self, batch: Batch, why: str) -> float:
        if self._set_unknown_kinds_aside(batch, why):
            return 0.0
        if self._search.narrow(batch):
            return 0.0
        if not self._search.condemn(batch):
            return self._failed(f"the head-end refuses record {batch.first}, and takes no other: {why}")
        self._store.refuse(batch, why)
        return self._failed(f"the head-end refused record {batch.first}: {why}")

    def _failed(self, why: str, again_s: float = 0.0) -> float:
        if not self._failures:
            self._failing_since = self._clock.monotonic()
        self._failures += 1
        pause_s = max(self._backoff.pause(self._failures, self._rng.random), again_s)
        self._not_before = self._clock.monotonic() + pause_s
        self._status = replace(self._status, last_error=why[:ERROR_CHARS_MAX])
        level = logging.WARNING if self._failures == 1 else logging.DEBUG
        LOG.log(level, "readings are not delivered: %s", why, extra={"event": "uplink.failed"})
        return pause_s


def _batch_limit(settings: UplinkSettings) -> int:
    return max(1, min(settings.batch_records_max, readings.RECORDS_MAX))


def _document(response: Response) -> dict[str, object]:
    """Return the JSON object of an answer; empty when that is not one."""
    try:
        document = json.loads(response.body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _acknowledged_id(response: Response) -> int | None:
    last = _document(response).get("acknowledged")
    return last if isinstance(last, int) and not isinstance(last, bool) else None


def _is_verdict(response: Response) -> bool:
    """Return whether a refusal comes from the metering server, which says `error`, and not from a proxy in between."""
    return isinstance(_document(response).get("error"), str)


def _said(response: Response) -> str:
    return response.body[:ERROR_CHARS_MAX].decode("utf-8", "replace")


def _retry_after(response: Response, wall: float) -> float:
    """Return the seconds that the head-end asks for, by number or date (RFC 9110, 10.2.3); 0 when it does not."""
    value = response.headers.get("retry-after", "")
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), RETRY_AFTER_MAX_S)
    try:
        return min(max(0.0, parsedate_to_datetime(value).timestamp() - wall), RETRY_AFTER_MAX_S)
    except (ValueError, OverflowError):
        return 0.0
