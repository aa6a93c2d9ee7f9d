"""The visit of a meter for one order. Sans-IO: driven like any other visit, by the thread of the port.

First the meter says its name: an order for one meter is never carried out on another that has its address now. Then the
plan of the order's kind says what to ask, step by step. What comes of it goes to the order book at once: at the latest
before the request that changes the meter leaves, and as soon as the outcome is known, not only when the visit is over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from agent.metering.orders.order import MeterResult, OrderError
from agent.metering.orders.order_book import Task
from agent.metering.orders.types.steps import (
    Ask,
    Change,
    Context,
    Ended,
    Get,
    Keys,
    Pause,
    Plan,
    Progress,
    Read,
    Reply,
)
from agent.metering.orders.types.table import plan
from agent.metering.visit.visit import CLOSE_S, AttributeResult, Visit
from dlms.client.association import ServiceRefused
from dlms.client.events import ItemError, ItemRead, ReadDone, Replied, SessionEvent, Value
from dlms.cosem.obis import DEVICE_NAME
from dlms.errors import DlmsError
from dlms.xdlms.apdu.common import AccessError
from dlms.xdlms.exchange import GetAnswer

if TYPE_CHECKING:
    from agent.metering.registry.entry import Meter

NOT_VERIFIED = "carried out; what came of it could not be read"


class Book(Protocol):
    """The part of `agent.metering.orders.order_book.OrderBook` that a visit uses."""

    def result(self, task: Task) -> MeterResult: ...

    def sending(self, task: Task, progress: Progress | None = None, *, noted: bool = True) -> None: ...

    def answered(self, task: Task) -> None: ...

    def paused(
        self, task: Task, after_s: float, progress: Progress | None = None, until: float | None = None
    ) -> None: ...

    def ended(self, task: Task, ended: Ended) -> None: ...

    def lost(self, task: Task, why: str, *, final: bool = False) -> None: ...


class KeyTransfer(Protocol):
    """Is told of keys that go to the meter, in an order that transfers some. Both raise `DlmsError`."""

    def sending(self, meter: Meter, edition: str, salt: str) -> None: ...

    def broadcast_taken(self, meter: Meter, edition: str, salt: str) -> None: ...


@dataclass(slots=True)
class OrderVisit(Visit):
    """Call `give_up` when the visit is over, however it went: an order that has no outcome by then is lost.

    `image` gives octets of the order's image, `transfer` is told of keys. `shared` says that two meters answer at the
    address: both would do what only one was told. A visit that gives way is paused with the
    answer to come.
    """

    for_order: ClassVar[bool] = True

    task: Task = field(kw_only=True)
    book: Book = field(kw_only=True)
    trusted: bool = field(kw_only=True)
    keys: Keys = field(default_factory=Keys)
    image: Callable[[int, int], bytes] | None = None
    transfer: KeyTransfer | None = None
    shared: str = ""
    began: float = 0.0
    settled: bool = False
    hopeless: bool = False
    changed: Ended | None = None
    order_plan: Plan | None = None
    asking: Ask | None = None
    sent_at: float = 0.0
    got: dict[object, Value | ItemError] = field(default_factory=dict)

    def start(self, now: float) -> None:
        self.began = now
        self.session.read([DEVICE_NAME], now)
        self._write(now)

    def give_way(self, now: float) -> None:
        """Pause the order once the last request is answered. Only for kinds of orders that can be resumed."""
        del now
        self.gives_way = True

    def give_up(self, why: str) -> None:
        """The visit is over. Does nothing when the outcome is known."""
        if self.settled:
            return
        if self.changed is not None:
            self._settle(self.changed)
            return
        self.settled = True
        self.book.lost(self.task, why, final=self.hopeless)

    # --- inside ---

    def _on_event(self, event: SessionEvent, now: float, wall: float) -> None:
        match event:
            case ItemRead(ref=ref, result=result):
                self.taken[ref] = AttributeResult(result, wall)
                self.got[ref] = result
            case ReadDone() if self.order_plan is None:
                self._named(now, wall)
            case ReadDone():
                refs = self.asking.refs if isinstance(self.asking, Read) else ()
                results = tuple(self.got.get(ref, ItemError("other-reason")) for ref in refs)
                self._go(Reply(self.sent_at, wall, results, at=now), now, wall)
            case Replied(outcome=outcome):
                self._replied(outcome, now, wall)
            case _:
                super(OrderVisit, self)._on_event(event, now, wall)

    def _named(self, now: float, wall: float) -> None:
        name = self.device_name()
        if self.shared:
            self.hopeless = True
            self._leave(self.shared, now)
            return
        if self.meter.named and name != self.meter.meter_id:
            self.hopeless = True
            self._leave(f"at its place there is {name}" if name else "the meter does not say its name", now)
            return
        before = self.book.result(self.task)
        context = Context(
            name,
            self.policy,
            self.trusted,
            before.progress or {},
            before.sent,
            wall,
            self.began,
            self.keys,
            self.image,
        )
        self.order_plan = plan(self.task.order.kind, self.task.order.parameters, context)
        self._go(None, now, wall)

    def _go(self, reply: Reply | None, now: float, wall: float) -> None:
        """Give the plan its reply, and do what it wants next."""
        if self.order_plan is None:
            return
        if reply is not None and reply.answer is not None and not self.task.resumes:
            self.changed = Ended(alarm=NOT_VERIFIED)
        try:
            self.asking = next(self.order_plan) if reply is None else self.order_plan.send(reply)
        except StopIteration as stopped:
            self._settle(stopped.value)
            self._leave("", now)
            return
        except OSError as error:  # the image cannot be read
            self._leave(str(error), now)
            return
        if self.gives_way and not isinstance(self.asking, Pause):
            self.asking = Pause(0.0)
        self.sent_at = wall
        try:
            self._ask(self.asking, now, wall)
        except (DlmsError, OrderError) as error:  # the session is over, or the journal cannot be written
            self._leave(str(error), now)

    def _ask(self, ask: Ask, now: float, wall: float) -> None:
        match ask:
            case Read(refs=refs):
                self.got = {}
                self.session.read(refs, now)
            case Get(item=item):
                self.session.request(self.session.reading((item,)), now)
            case Change(make=make, progress=progress, noted=noted):
                exchange = make(wall, self.session.request_octets)
                if self.transfer is not None:
                    self.transfer.sending(self.meter, *self.task.edition)
                # Durable: from here on it may have been carried out.
                self.book.sending(self.task, progress, noted=noted)
                self.session.request(exchange, now)
            case Pause(after_s=after_s, progress=progress, until=until):
                self.settled = True
                self.book.paused(self.task, after_s, progress, until)
                self._leave("", now)

    def _replied(self, outcome: object, now: float, wall: float) -> None:
        if isinstance(self.asking, Get):
            self._go(Reply(self.sent_at, wall, (_part(outcome),), at=now), now, wall)
        elif isinstance(outcome, ServiceRefused):
            self._settle(Ended(refused=outcome.code))
            self._leave("", now)
        elif isinstance(outcome, DlmsError):  # an answer that is none: what the meter did is not known
            self._leave(str(outcome), now)
        else:
            self.book.answered(self.task)
            self._go(Reply(self.sent_at, wall, (), outcome, now), now, wall)  # type: ignore[arg-type]

    def _settle(self, ended: Ended) -> None:
        if not self.settled:
            self.settled = True
            if self.transfer is not None and ended.broadcast_taken:
                self.transfer.broadcast_taken(self.meter, *self.task.edition)
            self.book.ended(self.task, ended)

    def _leave(self, why: str, now: float) -> None:
        """End the visit: the outcome is known, or `why` says why it will not be."""
        if why:
            self.give_up(why)
        self.complete = True
        self.until = min(self.until, now + CLOSE_S)
        self.session.close(now)


def _part(outcome: object) -> Value | ItemError:
    """The answer to the request of a part of an attribute."""
    if isinstance(outcome, ServiceRefused):
        return ItemError(outcome.code)
    if not isinstance(outcome, GetAnswer):
        return ItemError("other-reason")
    try:
        (result,) = outcome.results()
    except (DlmsError, ValueError):
        return ItemError("other-reason")
    return ItemError(result.text) if isinstance(result, AccessError) else Value(result)
