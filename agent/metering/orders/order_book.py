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
from functools import partial
from typing import TYPE_CHECKING

from agent.clock import Clock
from agent.jobs.orders import DEADLINE_S, PRIORITY
from agent.metering.access.accessbook import Which
from agent.metering.orders.deadlines import UNTRUSTED, Deadline, Verdict
from agent.metering.orders.images import IMAGES_BYTES_MAX, ImageStore, WantedImage
from agent.metering.orders.journal import DAMAGED, ID, Journal
from agent.metering.orders.order import (
    ENDS,
    TRANSITIONS,
    Event,
    MeterResult,
    Order,
    OrderError,
    OrderRecord,
    OrderRefusedError,
    OrderType,
    Permission,
    State,
)
from agent.metering.orders.targets import is_group
from agent.metering.orders.types import table
from agent.metering.scheduling.schedule import Backoff
from omadm.orders import DEADLINE_S_MAX, METERS_MAX, PRIORITY_MAX

if TYPE_CHECKING:
    from agent.metering.orders.types.steps import Ended, Progress

LOG = logging.getLogger("agent.metering.orders")

OPEN_MAX = 64  # orders that are not over
KEPT_MAX = 256  # orders that are over, the newest, for the record
ATTEMPTS_MAX = 3  # to reach a meter
RETRY = Backoff(2.0, 600.0)
ASKED_BY_CHARS_MAX = 128
UNLISTED = "the meter is not on the whitelist"
WAITING = frozenset({State.QUEUED, State.PARTLY})


class JournalError(OrderError):
    """The journal cannot be written: what must be durable first is not done."""


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks for, not checked yet. The same `id` again is the same order, which is not done again while
    it is kept: until `KEPT_MAX` others are over after it."""

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

    @property
    def edition(self) -> tuple[str, str]:
        """The keys that an order to change them was made upon, and the salt of that."""
        return self.order.edition(self.index), self.order.salt(self.index)

    @property
    def background(self) -> bool:
        """Whether it takes long, and everything else goes first."""
        return table.ORDER_TYPES[self.order.kind].background

    @property
    def resumes(self) -> bool:
        """Whether it is begun anew after a cut, and goes on where it was."""
        return table.ORDER_TYPES[self.order.kind].resumes

    def gives_way_to(self, other: Task) -> bool:
        """Whether a visit for this ends with the answer to come, so that `other` need not wait."""
        if not self.resumes:
            return False
        return self.order.priority < other.order.priority or (self.background and not other.background)


@dataclass(slots=True)
class _Open:
    """An order that is not over. `not_before` is in monotonic seconds, per meter, `until` in seconds since the epoch of
    a trusted clock. `answered`: the meters that have answered every request that was sent, as this process knows."""

    record: OrderRecord
    deadline: Deadline
    not_before: dict[int, float] = field(default_factory=dict)
    until: dict[int, float] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)


class OrderBook:
    """`allowed` are the permissions that dcu.yaml gives, `known` says which meters there are; without `images` there is
    no order of firmware. `expand` gives the meters that a group stands for (`agent.metering.orders.targets`),
    `own_name` the id of a meter that is named by the way it is reached, and any other name as it is, `standing` the
    state of a meter as of `agent.metering.registry`. `boot` is the id of this boot, empty where nothing tells boots
    apart."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        *,
        allowed: Collection[Permission],
        known: Callable[[], set[str]],
        images: ImageStore | None = None,
        expand: Callable[[str], list[str]] = lambda target: [target],
        own_name: Callable[[str], str] = lambda name: name,
        standing: Callable[[str], str] = lambda _meter: "left",
        boot: str = "",
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._allowed = {Permission.READ, *allowed}
        self._known = known
        self.on_submit: Callable[[], None] = lambda: None  # called when an order was accepted
        self.edition: Callable[[str, str], str] = lambda _meter, _salt: ""  # of the keys provisioned for a meter
        self.locked: Callable[[], bool] = lambda: False  # whether no orders are taken now
        self._images = images
        self._expand = expand
        self._own_name = own_name
        self._standing = standing
        self._boot = boot
        self._lock = threading.RLock()
        self._records: dict[str, OrderRecord] = {record.order.id: record for record in journal.load()}
        self._number = max((record.order.number for record in self._records.values()), default=0)
        self._unwritten: set[tuple[str, int]] = set()  # results that the storage has not taken yet
        self._open: dict[str, _Open] = {}
        for record in self._records.values():
            if not record.over:
                deadline = Deadline.of_kept(record.order, boot, clock.monotonic())
                self._open[record.order.id] = _Open(record, deadline)
                self._settle(self._open[record.order.id])
                for meter in record.order.meters:
                    self._rename(record, meter, own_name(meter))

    # --- whoever asks ---

    def submit(self, request: Request) -> OrderRecord:
        """Accept an order; it is durable when this returns. Raises `OrderRefusedError`, `JournalError`."""
        with self._lock:
            order = self._checked(request)
            if self.locked():
                raise OrderRefusedError("the device is locked")
            known = self._records.get(order.id)
            if known is not None:
                if _same(known.order, order):
                    return known
                raise OrderRefusedError(f"there is another order {order.id}")
            if len(self._open) >= OPEN_MAX:
                raise OrderRefusedError(f"{OPEN_MAX} orders are under way")
            order = replace(order, number=self._number + 1, editions=self._editions(order))
            if order.id in self._journal.spoiled:
                return self._spoiled(order)
            try:
                self._journal.accept(order)
            except OSError as error:
                raise JournalError(f"the order cannot be kept: {error}") from error
            self._number = order.number
            record = OrderRecord(order, [MeterResult(at=order.asked_at) for _ in order.meters])
            self._records[order.id] = record
            self._open[order.id] = _Open(record, Deadline.of_new(order, self._clock.monotonic()))
            self._forget_old()
        LOG.info(
            "order %s: %s on %s, asked by %s", order.id, order.kind, _named(order.meters), order.asked_by,
            extra={"event": "order.accepted"},
        )  # fmt: skip
        self.on_submit()
        return record

    def cancel(self, order_id: str) -> dict[str, object]:
        """Cancel what is not under way. Of what was partly done it is then not known what the meter holds.

        Returns the order as it is then. Raises `OrderRefusedError`.
        """
        with self._lock:
            record = self._records.get(order_id)
            if record is None:
                raise OrderRefusedError(f"there is no order {order_id}")
            for index, result in enumerate(record.results):
                if result.state is State.QUEUED:
                    self._move(Task(record.order, index), Event.CANCELLED)
                elif result.state is State.PARTLY:
                    task = Task(record.order, index)
                    self._move(task, self._end_of(task, Event.CANCELLED), error="cancelled when it was partly done")
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
                [each for each in self._open.values() if self._may_go(each) and self._prepared(each.record.order)],
                key=_rank,
            )
            found: dict[str, Task] = {}
            held = self._held()
            for each in ranked:
                for index, meter_id in enumerate(each.record.order.meters):
                    waits = each.record.results[index].state in WAITING
                    waits = waits and not _held_up(each.record, held.get(meter_id, {}))
                    waits = waits and now >= each.not_before.get(index, 0.0) and self._is_time(each, index)
                    if waits and meter_id in meters:
                        found.setdefault(meter_id, Task(each.record.order, index))
            return list(found.values())

    def named(self, key: str, meter_id: str) -> None:
        """The meter that was known as `key` has said its name: what was ordered for it is for that name from now on."""
        with self._lock:
            for each in list(self._open.values()):
                self._rename(each.record, key, meter_id)

    def image(self, task: Task) -> Callable[[int, int], bytes] | None:
        """What gives octets of the image of the order (offset, length); `None` for an order without one."""
        wanted = _image(task.order)
        if wanted is None or self._images is None:
            return None
        return partial(self._images.octets, wanted.sha256)

    def begun(self, task: Task) -> None:
        """A visit for this has begun. Not durable: nothing follows from it."""
        with self._lock:
            result = self._result(task)
            self._move(task, Event.BEGUN, attempts=result.attempts + 1)

    def result(self, task: Task) -> MeterResult:
        with self._lock:
            return self._result(task)

    def which_keys(self, task: Task) -> Which:
        """Which keys the visit for this is to use: the order to change them goes out under the old ones, and the next
        visit shows whether the new ones work."""
        if task.order.kind is not OrderType.KEYS:
            return Which.USUAL
        result = self.result(task)
        if not result.sent:
            return Which.PROVEN
        return Which.USUAL if result.error else Which.WANTED  # an error: this was tried, or is not known

    def sending(self, task: Task, progress: Progress | None = None, *, noted: bool = True) -> None:
        """A request that changes the meter goes out next. Raises `JournalError`: then it must not.

        Not `noted`: where the journal knows of one before it already, it need not know of this one.
        """
        with self._lock:
            before = self._result(task)
            state = TRANSITIONS.after(before.state, Event.SENDING)
            result = replace(before, state=state, at=self._clock.wall(), progress=progress or before.progress)
            if noted or before.state is not State.SENT:
                result = replace(result, sent=before.sent + 1)
                try:
                    self._journal.note(task.order, task.index, result)
                except OSError as error:
                    raise JournalError(f"the journal cannot be written: {error}") from error
            self._records[task.order.id].results[task.index] = result
            self._open[task.order.id].answered.discard(task.index)

    def answered(self, task: Task) -> None:
        """The meter has answered the request that went out last. Not durable: a start takes it as unanswered."""
        with self._lock:
            self._open[task.order.id].answered.add(task.index)

    def paused(self, task: Task, after_s: float, progress: Progress | None = None, until: float | None = None) -> None:
        """The visit ends in good order, and the order goes on in another one, `after_s` seconds later and when a clock
        that is trusted says `until`. Only of kinds that resume."""
        with self._lock:
            before = self._result(task)
            event = Event.CUT if before.sent else Event.LOST
            self._move(task, event, error="", attempts=0, progress=progress or before.progress)
            each = self._open[task.order.id]
            each.answered.add(task.index)  # or its plan has read what the meter made of it
            each.not_before[task.index] = self._clock.monotonic() + after_s
            each.until.pop(task.index, None)
            if until is not None:
                each.until[task.index] = until

    def ended(self, task: Task, ended: Ended) -> None:
        """The meter has answered."""
        with self._lock:
            event = Event.REFUSED if ended.refused else Event.ANSWERED
            self._move(task, event, value=ended.value, error=ended.refused or ended.alarm)
        if ended.alarm:
            LOG.warning("order %s on %s: %s", task.order.id, task.meter_id, ended.alarm, extra={"event": "order.alarm"})

    def lost(self, task: Task, why: str, *, final: bool = False) -> None:
        """The visit ended without an answer. `final`: there is no use in another attempt."""
        kind = table.ORDER_TYPES[task.order.kind]
        with self._lock:
            cut = kind.resumes and self._result(task).sent > 0
            self._move(task, Event.CUT if cut else Event.LOST, error=why)
            result = self._result(task)
            if result.state not in WAITING:
                return
            # What was begun is brought to its end if it can be; what takes long has time until its deadline.
            tried = result.attempts >= ATTEMPTS_MAX and not cut and not kind.background
            if final or tried:
                self._move(task, self._end_of(task, Event.EXPIRED), error=why)
            else:
                each = self._open[task.order.id]
                each.not_before[task.index] = self._clock.monotonic() + RETRY.pause(
                    max(result.attempts, 1), lambda: 1.0
                )

    # --- time ---

    def tick(self) -> None:
        """Give up what is past its deadline, and write what the storage did not take. Called about every second."""
        with self._lock:
            for each in list(self._open.values()):
                self._settle(each)
                wrong = self._wrong(each.record.order)
                if self._judge(each) is not Verdict.OVER and not wrong:
                    continue
                if each.deadline.civil is not None:
                    wrong = wrong or UNTRUSTED
                for index, result in enumerate(each.record.results):
                    if result.state in WAITING:
                        why = wrong or result.error or self._too_late(each.record.order, index, result)
                        task = Task(each.record.order, index)
                        self._move(task, self._end_of(task, Event.EXPIRED), error=why)
            if self._images is not None:
                self._images.want(image for each in self._open.values() if (image := _image(each.record.order)))
            for order_id, index in list(self._unwritten):
                record = self._records.get(order_id)
                if record is None or self._written(record, index):
                    self._unwritten.discard((order_id, index))

    # --- inside ---

    def _rename(self, record: OrderRecord, key: str, meter_id: str) -> None:
        order = record.order
        if key == meter_id or key not in order.meters:
            return
        index = order.meters.index(key)
        if meter_id in order.meters:  # once is enough
            if record.results[index].state in WAITING:
                task, why = Task(order, index), f"it is {meter_id}, which the order is for as well"
                self._move(task, self._end_of(task, Event.EXPIRED), error=why)
            return
        meters = tuple(meter_id if meter == key else meter for meter in order.meters)
        record.order = replace(order, meters=meters, asked_for=order.targets)
        LOG.info("order %s: %s is %s", order.id, key, meter_id, extra={"event": "order.renamed"})
        try:
            self._journal.accept(record.order)
        except OSError as error:  # at the next start the registry says it again
            LOG.debug("the name in order %s cannot be kept: %s", order.id, error)

    def _editions(self, order: Order) -> tuple[str, ...]:
        if order.kind is not OrderType.KEYS:
            return ()
        return tuple(self.edition(meter, order.salt(index)) for index, meter in enumerate(order.meters))

    def _held(self) -> dict[str, dict[OrderType, str]]:
        """Per meter the kinds of which an order has begun to change it and has no end yet, with the ids of the orders.

        What a plan finds by reading is what it did itself only if no other order does the like meanwhile.
        """
        held: dict[str, dict[OrderType, str]] = {}
        for each in self._open.values():
            order = each.record.order
            for meter_id, result in zip(order.meters, each.record.results, strict=True):
                if result.sent and result.state not in ENDS:
                    held.setdefault(meter_id, {})[order.kind] = order.id
        return held

    def _prepared(self, order: Order) -> bool:
        wanted = _image(order)
        return wanted is None or (self._images is not None and self._images.there(wanted.sha256))

    def _wrong(self, order: Order) -> str:
        """Why this order can never be carried out; empty as long as it may."""
        wanted = _image(order)
        return self._images.wrong(wanted.sha256) if wanted is not None and self._images is not None else ""

    def _too_late(self, order: Order, index: int, result: MeterResult) -> str:
        if result.state is State.PARTLY:
            return "the deadline came before its end"
        wanted = _image(order)
        if wanted is not None and self._images is not None and not self._images.there(wanted.sha256):
            return self._images.trouble(wanted.sha256) or "the image was not there before the deadline"
        state = self._standing(order.meters[index])
        if state == "unlisted":
            return UNLISTED
        absent = state in ("left", "expected")
        return f"{'the meter was not in the network' if absent else 'its turn did not come'} before the deadline"

    def _check_image(self, order: Order) -> None:
        """Check that there is room for the image of `order`. Raises `OrderRefusedError`."""
        wanted = _image(order)
        if wanted is None:
            return
        if self._images is None:
            raise OrderRefusedError("firmware: there is no place for images here")
        images = {found.sha256: found for each in self._open.values() if (found := _image(each.record.order))}
        if images.setdefault(wanted.sha256, wanted).size != wanted.size:
            raise OrderRefusedError("firmware: size: another order has this image with another size")
        total = sum(image.size for image in images.values())
        if total > IMAGES_BYTES_MAX:
            raise OrderRefusedError(f"firmware: size: the images of all orders have more than {IMAGES_BYTES_MAX} bytes")

    def _checked(self, request: Request) -> Order:
        if not ID.fullmatch(request.id):
            raise OrderRefusedError("the id of an order has 1 to 64 letters, digits, _ and -")
        try:
            kind = OrderType(request.kind)
        except ValueError:
            raise OrderRefusedError(f"unknown kind {request.kind[:40]!r}; known: {', '.join(OrderType)}") from None
        kept = self._records.get(request.id)
        targets = tuple(dict.fromkeys(request.meters))
        if kept is not None and kept.order.targets == targets:
            meters = kept.order.meters  # a group may be another one by now: this is the order that was accepted
        else:
            named = [self._expand(target) if is_group(target) else [target] for target in targets]
            meters = tuple(dict.fromkeys(self._own_name(meter) for found in named for meter in found))
        if not 1 <= len(meters) <= METERS_MAX:
            raise OrderRefusedError(f"an order is for 1 to {METERS_MAX} meters, not {len(meters)}")
        parameters, needed = table.check(kind, request.parameters)
        if needed not in self._allowed:
            raise OrderRefusedError(f"{kind} is not allowed here: orders.{needed} is false in dcu.yaml")
        if not 0 <= request.priority <= PRIORITY_MAX:
            raise OrderRefusedError(f"priority is 0 to {PRIORITY_MAX}")
        if not 0 < request.deadline_s <= DEADLINE_S_MAX:
            raise OrderRefusedError(f"deadline_s is more than 0, at most {DEADLINE_S_MAX:.0f}")
        unknown = [meter for meter in meters if meter not in self._known()] if request.id not in self._records else []
        if unknown:
            raise OrderRefusedError(f"no meter {_named(unknown)}")
        unlisted = [] if kept is not None else [meter for meter in meters if self._standing(meter) == "unlisted"]
        if unlisted:
            raise OrderRefusedError(f"{_named(unlisted)}: {UNLISTED}")
        order = Order(
            id=request.id,
            kind=kind,
            meters=meters,
            parameters=parameters,
            asked_by=request.asked_by[:ASKED_BY_CHARS_MAX],
            asked_at=self._clock.wall(),
            deadline_s=float(request.deadline_s),
            priority=request.priority,
            asked_for=() if meters == targets else targets,
            asked_trusted=self._clock.trusted(),
            asked_monotonic=self._clock.monotonic(),
            boot=self._boot,
        )
        if table.latest(kind, parameters) >= order.asked_at + order.deadline_s:
            raise OrderRefusedError(f"{kind}: the deadline is before the time of the activation")
        if request.id not in self._records:
            self._check_image(order)
        return order

    def _spoiled(self, order: Order) -> OrderRecord:
        """An order that was accepted once, and of which no record can be read: what of it was done is not known, and
        it is not done again. Raises `JournalError`."""
        record = OrderRecord(
            order, [MeterResult(State.UNKNOWN, error=DAMAGED, at=order.asked_at) for _ in order.meters]
        )
        try:
            for index, result in enumerate(record.results):
                self._journal.note(order, index, result)
            self._journal.accept(order)
        except OSError as error:
            raise JournalError(f"the order cannot be kept: {error}") from error
        self._number = order.number
        self._records[order.id] = record
        self._forget_old()
        return record

    def _judge(self, each: _Open) -> Verdict:
        clock = self._clock
        return each.deadline.judge(clock.monotonic(), clock.wall(), trusted=clock.trusted())

    def _may_go(self, each: _Open) -> bool:
        return self._judge(each) is Verdict.OPEN

    def _is_time(self, each: _Open, index: int) -> bool:
        """Whether the time has come that the meter waits for; a clock that nobody vouches for does not say so."""
        until = each.until.get(index)
        return until is None or (self._clock.trusted() and self._clock.wall() >= until)

    def _settle(self, each: _Open) -> None:
        """Take what a trusted clock says: when the order is over, and when it was asked for."""
        if not self._clock.trusted():
            return
        now, wall, order = self._clock.monotonic(), self._clock.wall(), each.record.order
        each.deadline = each.deadline.settled(now, wall)
        if not order.asked_trusted and self._boot and order.boot == self._boot:
            asked_at = wall - (now - order.asked_monotonic)
            each.record.order = replace(order, asked_at=asked_at, asked_trusted=True)
            try:
                self._journal.accept(each.record.order)
            except OSError as error:  # a start after a power cut then does not know how old it is, and says so
                LOG.debug("when order %s was asked for cannot be kept: %s", order.id, error)

    def _end_of(self, task: Task, event: Event) -> Event:
        """What it is when an order that waits comes to this end: partly done, and nothing without an answer, it has
        stopped, and what the meter holds is known."""
        partly = self._result(task).state is State.PARTLY
        return Event.STOPPED if partly and task.index in self._open[task.order.id].answered else event

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


def _held_up(record: OrderRecord, held: Mapping[OrderType, str]) -> bool:
    """Whether an order waits on its meter until another one of its kind is over; a SET or ACTION of whatever there is,
    until all are over that are not in the background."""
    kind = record.order.kind
    if kind in (OrderType.SET, OrderType.ACTION):
        return any(not table.ORDER_TYPES[other].background for other, of in held.items() if of != record.order.id)
    return kind in held and held[kind] != record.order.id and table.ORDER_TYPES[kind].resumes


def _rank(each: _Open) -> tuple[bool, int, int]:
    """What goes first: orders that are carried out at once before those in the background, then the more important,
    then the older."""
    order = each.record.order
    return table.ORDER_TYPES[order.kind].background, -order.priority, order.number


def _image(order: Order) -> WantedImage | None:
    """The image that an order needs on the concentrator."""
    if order.kind is not OrderType.FIRMWARE:
        return None
    given = order.parameters
    size = given["size"]
    return WantedImage(str(given["sha256"]), size if isinstance(size, int) else 0, str(given["url"]))


def _named(meters: Sequence[str]) -> str:
    return ", ".join(meters[:3]) + (f" and {len(meters) - 3} more" if len(meters) > 3 else "")
