"""An order to meters: what one who may asks for now, and what became of it per meter. Sans-IO: values and a table.

The state of an order on one meter, and what is durable of it:

```
                    ┌──────────── LOST ────────────┐
                    ▼                              │
    ───────────► QUEUED ── BEGUN ─────────────► ASKING ── ANSWERED, REFUSED ─► DONE, REFUSED
                    │                              │
                    │                           SENDING (durable before the first octet leaves)
                    │                              ▼
                    └─ EXPIRED, CANCELLED       SENT ── ANSWERED, REFUSED ─► DONE, REFUSED
                          ▼                        │
                    NOT_REACHED, CANCELLED         └─ LOST ─► UNKNOWN
```

`SENT` says that a request that changes the meter may have left. From there nothing leads back to `QUEUED`: whatever
happens, the request is not made again, and without an answer it is not known whether it was carried out. A process that
finds `SENT` at its start takes it as `LOST`. Reading never gets there, so it may be repeated.
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


class Kind(StrEnum):
    """What is asked for."""

    PING = "ping"
    READ = "read"
    SET = "set"
    ACTION = "action"
    CLOCK = "clock"
    DISCONNECT = "disconnect"
    RECONNECT = "reconnect"
    DEMAND_RESET = "demand-reset"


class Permission(StrEnum):
    """What an order needs to be allowed: `change` and `supply` are switches of dcu.yaml."""

    READ = "read"
    CHANGE = "change"
    SUPPLY = "supply"  # may cut somebody's electricity


class State(StrEnum):
    QUEUED = "queued"
    ASKING = "asking"
    SENT = "sent"
    DONE = "done"
    REFUSED = "refused"
    NOT_REACHED = "not reached"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class Event(Enum):
    BEGUN = auto()  # a visit of the meter has begun
    SENDING = auto()  # the request that changes the meter goes out next
    ANSWERED = auto()
    REFUSED = auto()  # by the meter, or because of what was found there
    LOST = auto()  # the visit, or the process, ended without an answer
    EXPIRED = auto()  # the deadline, or the last attempt
    CANCELLED = auto()


ENDS: Final = frozenset({State.DONE, State.REFUSED, State.NOT_REACHED, State.CANCELLED, State.UNKNOWN})

TRANSITIONS: Final = Transitions(
    {
        (State.QUEUED, Event.BEGUN): State.ASKING,
        (State.QUEUED, Event.EXPIRED): State.NOT_REACHED,
        (State.QUEUED, Event.CANCELLED): State.CANCELLED,
        (State.ASKING, Event.SENDING): State.SENT,
        (State.ASKING, Event.ANSWERED): State.DONE,
        (State.ASKING, Event.REFUSED): State.REFUSED,
        (State.ASKING, Event.LOST): State.QUEUED,
        (State.SENT, Event.ANSWERED): State.DONE,
        (State.SENT, Event.REFUSED): State.REFUSED,
        (State.SENT, Event.LOST): State.UNKNOWN,
    },
    OrderStateError,
)


@dataclass(frozen=True, slots=True)
class Order:
    """`parameters` are those of the kind (`agent.metering.orders.kinds`), checked. `asked_at` is in seconds since the
    epoch; `deadline_s` is how long after that a meter may still be asked. A higher `priority` (0 to 9) goes first,
    among equals the one that was accepted earlier (`number`). `asked_by` says who and by which way."""

    id: str
    kind: Kind
    meters: tuple[str, ...]
    parameters: Mapping[str, object]
    asked_by: str
    asked_at: float
    deadline_s: float
    priority: int = 5
    number: int = 0


@dataclass(frozen=True, slots=True)
class MeterResult:
    """What became of an order on one meter. `value` is plain JSON; `error` is the DLMS result where the meter refused,
    otherwise a sentence. `at`: of the last change, seconds since the epoch; `attempts`: visits begun for it."""

    state: State = State.QUEUED
    value: object = None
    error: str = ""
    at: float = 0.0
    attempts: int = 0


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
            "over": self.over,
            "meters": [
                {
                    "meter": meter,
                    "state": result.state.value,
                    "value": result.value,
                    "error": result.error,
                    "at": result.at,
                    "attempts": result.attempts,
                }
                for meter, result in zip(order.meters, self.results, strict=True)
            ],
        }
