"""The orders in force: accepted, handed to the readers of the ports, carried out at most once, kept for the record.

Shared by the control thread, the DM jobs and the port threads; every method is thread-safe. An order that changes
something is never asked of a meter twice: `sending` makes the intent durable before the request may leave, and raises
when that is not possible.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent.clock import Clock
from agent.jobs.orders import DEADLINE_S, PRIORITY
from agent.metering.orders import kinds
from agent.metering.orders.journal import ID, Journal
from agent.metering.orders.order import (
    ENDS,
    TRANSITIONS,
    Event,
    Kind,
    MeterResult,
    Order,
    OrderError,
    OrderRecord,
    OrderRefusedError,
    Permission,
    State,
)
from agent.metering.scheduling.schedule import Backoff
from omadm.orders import DEADLINE_S_MAX, METERS_MAX, PRIORITY_MAX

LOG = logging.getLogger("agent.metering.orders")

OPEN_MAX = 64  # orders that are not over
KEPT_MAX = 256  # orders that are over, the newest, for the record
ATTEMPTS_MAX = 3  # to reach a meter
RETRY = Backoff(2.0, 30.0)
ASKED_BY_CHARS_MAX = 128


class JournalError(OrderError):
    """The journal cannot be written: what must be durable first is not done."""


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks for, not checked yet. The same `id` again is the same order, which is not done again."""

    id: str
    kind: str
    meters: Sequence[str]
    asked_by: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    priority: int = PRIORITY
    deadline_s: float = DEADLINE_S


@dataclass(frozen=True, slots=True)
class Task:
    """One order on one meter, the meter number `index` of the order."""

    order: Order
    index: int

    @property
    def meter_id(self) -> str:
        return self.order.meters[self.index]


@dataclass(slots=True)
class _Open:
    """An order that is not over. `until` and `not_before` are in monotonic seconds, the latter per meter."""

    record: OrderRecord
    until: float
    not_before: dict[int, float] = field(default_factory=dict)


class OrderBook:
    """`allowed` are the permissions that dcu.yaml gives, `known` says which meters there are."""

    def __init__(
        self, journal: Journal, clock: Clock, *, allowed: Collection[Permission], known: Callable[[], set[str]]
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._allowed = {Permission.READ, *allowed}
        self._known = known
        self._lock = threading.RLock()
        self._records: dict[str, OrderRecord] = {record.order.id: record for record in journal.load()}
        self._number = max((record.order.number for record in self._records.values()), default=0)
        self._unwritten: set[tuple[str, int]] = set()  # results that the storage has not taken yet
        self._open: dict[str, _Open] = {}
        for record in self._records.values():
            if not record.over:
                self._open[record.order.id] = _Open(record, self._until(record.order))

    # --- whoever asks ---

    def submit(self, request: Request) -> OrderRecord:
        """Accept an order; it is durable when this returns. Raises `OrderRefusedError`, `JournalError`."""
        with self._lock:
            order = self._checked(request)
            known = self._records.get(order.id)
            if known is not None:
                if _same(known.order, order):
                    return known
                raise OrderRefusedError(f"there is another order {order.id}")
            if len(self._open) >= OPEN_MAX:
                raise OrderRefusedError(f"{OPEN_MAX} orders are under way")
            order = replace(order, number=self._number + 1)
            try:
                self._journal.accept(order)
            except OSError as error:
                raise JournalError(f"the order cannot be kept: {error}") from error
            self._number = order.number
            record = OrderRecord(order, [MeterResult(at=order.asked_at) for _ in order.meters])
            self._records[order.id] = record
            self._open[order.id] = _Open(record, self._until(order))
            self._forget_old()
        LOG.info(
            "order %s: %s on %s, asked by %s", order.id, order.kind, _named(order.meters), order.asked_by,
            extra={"event": "order.accepted"},
        )  # fmt: skip
        return record

    def cancel(self, order_id: str) -> dict[str, object]:
        """Cancel what has not begun. Returns the order as it is then. Raises `OrderRefusedError`."""
        with self._lock:
            record = self._records.get(order_id)
            if record is None:
                raise OrderRefusedError(f"there is no order {order_id}")
            for index, result in enumerate(record.results):
                if result.state is State.QUEUED:
                    self._move(Task(record.order, index), Event.CANCELLED)
            return record.describe()

    def describe(self, order_id: str) -> dict[str, object] | None:
        """Return an order with its results as plain JSON, `None` when it is not known."""
        with self._lock:
            record = self._records.get(order_id)
            return record.describe() if record else None

    def orders(self) -> list[dict[str, object]]:
        """Return all orders that are kept, the newest first."""
        with self._lock:
            return [record.describe() for record in reversed(self._records.values())]

    # --- the readers of the ports ---

    @property
    def waiting(self) -> bool:
        """Whether any order is not over. Cheap: asked in each round."""
        return bool(self._open)

    def due(self, meters: Collection[str]) -> list[Task]:
        """Return what may be done on these meters now, at most one order per meter, the most urgent first."""
        now = self._clock.monotonic()
        with self._lock:
            ranked = sorted(
                self._open.values(), key=lambda each: (-each.record.order.priority, each.record.order.number)
            )
            found: dict[str, Task] = {}
            for each in ranked:
                for index, meter_id in enumerate(each.record.order.meters):
                    queued = each.record.results[index].state is State.QUEUED
                    if queued and meter_id in meters and now >= each.not_before.get(index, 0.0) and now < each.until:
                        found.setdefault(meter_id, Task(each.record.order, index))
            return list(found.values())

    def begun(self, task: Task) -> None:
        """A visit for this has begun. Not durable: nothing follows from it."""
        with self._lock:
            result = self._result(task)
            self._move(task, Event.BEGUN, attempts=result.attempts + 1)

    def sending(self, task: Task) -> None:
        """The request that changes the meter goes out next. Raises `JournalError`: then it must not."""
        with self._lock:
            before = self._result(task)
            result = replace(before, state=TRANSITIONS.after(before.state, Event.SENDING), at=self._clock.wall())
            try:
                self._journal.note(task.order, task.index, result)
            except OSError as error:
                raise JournalError(f"the journal cannot be written: {error}") from error
            self._records[task.order.id].results[task.index] = result

    def ended(self, task: Task, ended: kinds.Ended) -> None:
        """The meter has answered."""
        with self._lock:
            event = Event.REFUSED if ended.refused else Event.ANSWERED
            self._move(task, event, value=ended.value, error=ended.refused or ended.alarm)
        if ended.alarm:
            LOG.warning("order %s on %s: %s", task.order.id, task.meter_id, ended.alarm, extra={"event": "order.alarm"})

    def lost(self, task: Task, why: str, *, final: bool = False) -> None:
        """The visit ended without an answer. `final`: there is no use in another attempt."""
        with self._lock:
            self._move(task, Event.LOST, error=why)
            result = self._result(task)
            if result.state is not State.QUEUED:
                return
            if final or result.attempts >= ATTEMPTS_MAX:
                self._move(task, Event.EXPIRED, error=why)
            else:
                each = self._open[task.order.id]
                each.not_before[task.index] = self._clock.monotonic() + RETRY.pause(result.attempts, lambda: 1.0)

    # --- time ---

    def tick(self) -> None:
        """Give up what is past its deadline, and write what the storage did not take. Called about every second."""
        with self._lock:
            now = self._clock.monotonic()
            for each in [each for each in self._open.values() if now >= each.until]:
                for index, result in enumerate(each.record.results):
                    if result.state is State.QUEUED:
                        why = result.error or "the meter was not in the network before the deadline"
                        self._move(Task(each.record.order, index), Event.EXPIRED, error=why)
            for order_id, index in list(self._unwritten):
                record = self._records.get(order_id)
                if record is None or self._written(record, index):
                    self._unwritten.discard((order_id, index))

    # --- inside ---

    def _checked(self, request: Request) -> Order:
        if not ID.fullmatch(request.id):
            raise OrderRefusedError("the id of an order has 1 to 64 letters, digits, _ and -")
        try:
            kind = Kind(request.kind)
        except ValueError:
            raise OrderRefusedError(f"unknown kind {request.kind[:40]!r}; known: {', '.join(Kind)}") from None
        meters = tuple(dict.fromkeys(request.meters))
        if not 1 <= len(meters) <= METERS_MAX:
            raise OrderRefusedError(f"an order is for 1 to {METERS_MAX} meters")
        parameters, needed = kinds.check(kind, request.parameters)
        if needed not in self._allowed:
            raise OrderRefusedError(f"{kind} is not allowed here: orders.{needed} is false in dcu.yaml")
        if not 0 <= request.priority <= PRIORITY_MAX:
            raise OrderRefusedError(f"priority is 0 to {PRIORITY_MAX}")
        if not 0 < request.deadline_s <= DEADLINE_S_MAX:
            raise OrderRefusedError(f"deadline_s is more than 0, at most {DEADLINE_S_MAX:.0f}")
        unknown = [meter for meter in meters if meter not in self._known()] if request.id not in self._records else []
        if unknown:
            raise OrderRefusedError(f"no meter {_named(unknown)}")
        return Order(
            id=request.id,
            kind=kind,
            meters=meters,
            parameters=parameters,
            asked_by=request.asked_by[:ASKED_BY_CHARS_MAX],
            asked_at=self._clock.wall(),
            deadline_s=float(request.deadline_s),
            priority=request.priority,
        )

    def _until(self, order: Order) -> float:
        """Until when a meter may be asked, in monotonic seconds. A clock that was set back meanwhile does not make it
        longer than it was at first."""
        left = order.asked_at + order.deadline_s - self._clock.wall()
        return self._clock.monotonic() + min(max(left, 0.0), order.deadline_s)

    def _result(self, task: Task) -> MeterResult:
        return self._records[task.order.id].results[task.index]

    def _move(self, task: Task, event: Event, **changes: object) -> None:
        """Take the transition, and keep it if it is an end. Raises `OrderStateError`."""
        record = self._records[task.order.id]
        before = record.results[task.index]
        state = TRANSITIONS.after(before.state, event)
        after = replace(before, state=state, at=self._clock.wall(), **changes)  # type: ignore[arg-type]
        record.results[task.index] = after
        if state not in ENDS:
            return
        LOG.info(
            "order %s: %s on %s: %s%s", task.order.id, task.order.kind, task.meter_id, state.value,
            f" ({after.error})" if after.error else "", extra={"event": "order.ended"},
        )  # fmt: skip
        if not self._written(record, task.index):
            self._unwritten.add((task.order.id, task.index))
        if record.over:
            self._open.pop(task.order.id, None)
            self._forget_old()

    def _written(self, record: OrderRecord, index: int) -> bool:
        """Keep a result. Where the storage fails, what is on it says less, never something else."""
        try:
            self._journal.note(record.order, index, record.results[index])
        except OSError as error:
            LOG.debug("the result of order %s cannot be kept yet: %s", record.order.id, error)
            return False
        return True

    def _forget_old(self) -> None:
        over = [record for record in self._records.values() if record.order.id not in self._open]
        for record in over[: max(0, len(over) - KEPT_MAX)]:
            try:
                self._journal.forget(record.order)
            except OSError as error:
                LOG.debug("order %s cannot be removed yet: %s", record.order.id, error)
                return
            del self._records[record.order.id]


def _same(one: Order, other: Order) -> bool:
    return (one.kind, one.meters, one.parameters) == (other.kind, other.meters, other.parameters)


def _named(meters: Sequence[str]) -> str:
    return ", ".join(meters[:3]) + (f" and {len(meters) - 3} more" if len(meters) > 3 else "")
