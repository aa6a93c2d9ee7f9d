"""An order to meters: what one who may asks for now, and what became of it per meter. Sans-IO: values and a table.

The state of an order on one meter, and what is durable of it:

```
                    ┌──────────── LOST ────────────┐
                    ▼                              │
    ───────────► QUEUED ── BEGUN ─────────────► ASKING ── ANSWERED, REFUSED ─► DONE, REFUSED
                    │                            ▲ │ │
                    └─ EXPIRED, CANCELLED        │ │ │ SENDING (durable before the first octet leaves)
                          ▼                 BEGUN│ │ ▼
                    NOT_REACHED, CANCELLED       │ │ SENT ◄─┐ ── ANSWERED, REFUSED ─► DONE, REFUSED
                                                 │ │ │ └────┘ SENDING: the next step
          UNKNOWN ◄── EXPIRED, CANCELLED ── PARTLY ◄─┴─ CUT: of a kind that resumes
             ▲        INCOMPLETE ◄─ STOPPED ─┘       │
             └────────────────────────────────── LOST ┘
```

`SENT` says that a request that changes the meter may have left. From there nothing leads back to `QUEUED`. An order of
a plain kind is not sent again, whatever happens: without an answer it is not known whether it was carried out, and a
process that finds `SENT` at its start takes it as `LOST`. An order of a kind that resumes
(`agent.metering.orders.types.table`) is then `PARTLY` done: it is begun anew and reads what was carried out before it
sends the rest. When that never comes about, it is not known either; but where every request that was sent was answered,
and the meter rests, or its time has not come, it is known: it is `INCOMPLETE`. Reading never gets there, so it may be
repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Final

from omadm.transitions import Transitions


class OrderError(Exception):
    """The base of what goes wrong with orders."""


class OrderRefusedError(OrderError):
    """The order is not accepted; the text is a sentence for whoever asked. Nothing was done."""


class OrderStateError(OrderError):
    """An event that the state does not have (our mistake). Nothing was changed."""


class OrderType(StrEnum):
    """What is asked for."""

    PING = "ping"
    READ = "read"
    SET = "set"
    ACTION = "action"
    CLOCK = "clock"
    DISCONNECT = "disconnect"
    RECONNECT = "reconnect"
    DEMAND_RESET = "demand-reset"
    LIMITER = "limiter"
    CLOCK_PARAMETERS = "clock-parameters"
    DISPLAY = "display"
    TARIFF = "tariff"
    SPECIAL_DAYS = "special-days"
    KEYS = "keys"
    FIRMWARE = "firmware"


class Permission(StrEnum):
    """What an order needs to be allowed: `change`, `supply` and `firmware` are switches of dcu.yaml."""

    READ = "read"
    CHANGE = "change"
    SUPPLY = "supply"  # may cut somebody's electricity
    FIRMWARE = "firmware"  # gives a meter another program


class State(StrEnum):
    """How far an order is on one meter."""

    QUEUED = "queued"
    ASKING = "asking"
    SENT = "sent"
    PARTLY = "partly done"
    DONE = "done"
    REFUSED = "refused"
    NOT_REACHED = "not reached"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    INCOMPLETE = "incomplete"


class Event(Enum):
    """What happens to an order on one meter."""

    BEGUN = auto()  # a visit of the meter has begun
    SENDING = auto()  # the request that changes the meter goes out next
    ANSWERED = auto()
    REFUSED = auto()  # by the meter, or because of what was found there
    LOST = auto()  # the visit, or the process, ended without an answer
    CUT = auto()  # as LOST, or a pause, of a kind that resumes, after a request was sent
    EXPIRED = auto()  # the deadline, or the last attempt
    CANCELLED = auto()
    STOPPED = auto()  # as EXPIRED or CANCELLED, where every request that was sent was answered


ENDS: Final = frozenset(
    {State.DONE, State.REFUSED, State.NOT_REACHED, State.CANCELLED, State.UNKNOWN, State.INCOMPLETE}
)

TRANSITIONS: Final = Transitions(
    {
        (State.QUEUED, Event.BEGUN): State.ASKING,
        (State.QUEUED, Event.EXPIRED): State.NOT_REACHED,
        (State.QUEUED, Event.CANCELLED): State.CANCELLED,
        (State.ASKING, Event.SENDING): State.SENT,
        (State.ASKING, Event.ANSWERED): State.DONE,
        (State.ASKING, Event.REFUSED): State.REFUSED,
        (State.ASKING, Event.LOST): State.QUEUED,
        (State.ASKING, Event.CUT): State.PARTLY,
        (State.SENT, Event.SENDING): State.SENT,
        (State.SENT, Event.ANSWERED): State.DONE,
        (State.SENT, Event.REFUSED): State.REFUSED,
        (State.SENT, Event.LOST): State.UNKNOWN,
        (State.SENT, Event.CUT): State.PARTLY,
        (State.PARTLY, Event.BEGUN): State.ASKING,
        (State.PARTLY, Event.EXPIRED): State.UNKNOWN,
        (State.PARTLY, Event.CANCELLED): State.UNKNOWN,
        (State.PARTLY, Event.STOPPED): State.INCOMPLETE,
    },
    OrderStateError,
)


@dataclass(frozen=True, slots=True)
class Order:
    """`parameters` are those of the kind (`agent.metering.orders.types`), checked. `asked_at` is in seconds since the
    epoch, by a clock that was `asked_trusted` or not, and `asked_monotonic` in monotonic seconds of this `boot`;
    `deadline_s` is how long after that a meter may still be asked. A higher `priority` (0 to 9) goes first, among
    equals the one that was accepted earlier (`number`). `asked_by` says who and by which way. `asked_for`: what was
    named in place of `meters`, where groups or ways to reach a meter were among it. `editions`, of orders to change
    keys: per meter what was provisioned when it was asked for (`agent.metering.access.editions`), empty where that is
    not known."""

    id: str
    kind: OrderType
    meters: tuple[str, ...]
    parameters: Mapping[str, object]
    asked_by: str
    asked_at: float
    deadline_s: float
    priority: int = 5
    number: int = 0
    asked_for: tuple[str, ...] = ()
    asked_trusted: bool = True  # as orders were taken of before this field
    asked_monotonic: float = 0.0
    boot: str = ""
    editions: tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """What was named by whoever asked."""
        return self.asked_for or self.meters

    def edition(self, index: int) -> str:
        """Which keys were provisioned for its meter number `index` when it was asked for; empty where not known."""
        return self.editions[index] if index < len(self.editions) else ""

    def salt(self, index: int) -> str:
        """What that edition was made with."""
        return f"{self.id}/{index}"


@dataclass(frozen=True, slots=True)
class MeterResult:
    """What became of an order on one meter.

    `value` is plain JSON; `error` is the DLMS result where the meter refused, otherwise a sentence. `at`: of the last
    change, seconds since the epoch; `attempts`: visits begun for it since it last got on;
    `sent`: requests that may have changed the meter; `progress`: how far it is, plain JSON.
    """

    state: State = State.QUEUED
    value: object = None
    error: str = ""
    at: float = 0.0
    attempts: int = 0
    sent: int = 0
    progress: Mapping[str, object] | None = None


@dataclass(slots=True)
class OrderRecord:
    """An order with its results, in the order of its meters."""

    order: Order
    results: list[MeterResult] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return all(result.state in ENDS for result in self.results)

    @property
    def done(self) -> bool:
        """Whether every meter has carried it out."""
        return all(result.state is State.DONE for result in self.results)

    def describe(self) -> dict[str, object]:
        """The order and its results as plain JSON."""
        order = self.order
        return {
            "id": order.id,
            "kind": order.kind.value,
            "parameters": dict(order.parameters),
            "asked_by": order.asked_by,
            "asked_at": order.asked_at,
            "deadline_s": order.deadline_s,
            "priority": order.priority,
            "asked_for": list(order.targets),
            "over": self.over,
            "meters": [
                {
                    "meter": meter,
                    "state": result.state.value,
                    "value": result.value,
                    "error": result.error,
                    "at": result.at,
                    "attempts": result.attempts,
                    "progress": result.progress,
                }
                for meter, result in zip(order.meters, self.results, strict=True)
            ],
        }
