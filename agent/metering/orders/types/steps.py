"""What the plan of an order may ask of a meter, and what it gets: the vocabulary of all kinds. Sans-IO.

A plan is a generator: it yields what to ask and is sent each reply; its return value is the outcome. Everything that
changes the meter goes out as a `Change`, of which the journal knows before its first octet leaves. A plan with more
than one `Change`, or one that pauses, is of a kind that *resumes*: cut off anywhere and begun anew, it finds out by
reading what was carried out already, and never asks for that a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field

from agent.metering.orders.order import Permission
from agent.metering.visit.raw_values import UnstorableError, encode
from dlms.axdr import CompactArray, Data, Tag
from dlms.client.events import ItemError, Value
from dlms.codes import ActionResult, DataAccessResult, data_access_text
from dlms.cosem.obis import AttributeRef, MethodRef
from dlms.cosem.time import ClockPolicy
from dlms.errors import LocalError
from dlms.xdlms.apdu.common import AccessError, ActionOutcome, Item, Result
from dlms.xdlms.exchange import ActionAnswer, Answer, Exchange, SetAnswer
from dlms.xdlms.exchange_write import ActionExchange, SetExchange

Progress = Mapping[str, object]  # how far an order is on one meter, as plain JSON


@dataclass(frozen=True, slots=True)
class Read:
    """Read attributes, with their scalers."""

    refs: tuple[AttributeRef, ...]


@dataclass(frozen=True, slots=True)
class Get:
    """Read a part of an attribute, or the whole without its scaler."""

    item: Item


@dataclass(frozen=True, slots=True)
class Change:
    """One request that changes the meter. `make(wall, octets)` is called at the moment of sending, with the time and
    the longest request in octets.

    `progress` is what to say of the order from here on. Without `noted` the journal need not know of this request as
    well, once it knows of one before it: for blocks of an image, which a meter takes any number of times.
    """

    make: Callable[[float, int], Exchange]
    progress: Progress | None = None
    noted: bool = True


@dataclass(frozen=True, slots=True)
class Pause:
    """End this visit, and go on in another one `after_s` seconds later at the earliest, and not before a clock that is
    trusted says `until` (seconds since the epoch). Only in kinds that resume."""

    after_s: float
    progress: Progress | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came. `results` for a `Read` or `Get`, per reference; `answer` for a `Change`. Times are civil seconds,
    `at` is
    when it came, monotonic."""

    asked_at: float
    came_at: float
    results: tuple[Value | ItemError, ...] = ()
    answer: Answer | None = None
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Ended:
    """The outcome. `refused` is empty when the meter did what was asked, `alarm` says that a person should look.
    `broadcast_taken`: the meter says that it has the broadcast key that is provisioned."""

    value: object = None
    refused: str = ""
    alarm: str = ""
    broadcast_taken: bool = False


_KEY_NAMES = {"encryption_key": "unicast", "authentication_key": "authentication", "broadcast_key": "broadcast"}


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of the meter as the access book has them. `provisioned`: names of the keys (`unicast`, `authentication`,
    `broadcast`) that are provisioned and differ from those that last worked, and how many octets each has;
    `new_in_use`: this visit's association uses what is provisioned. `superseded`: others were provisioned since the
    meter was sent some. `as_ordered`: these were provisioned when the order was asked for; `None` where nobody knows.
    """

    provisioned: Mapping[str, int] = field(default_factory=dict)
    new_in_use: bool = True
    superseded: bool = False
    as_ordered: bool | None = True

    @classmethod
    def of(
        cls, pending: Mapping[str, int], *, new_in_use: bool, superseded: bool, as_ordered: bool | None = True
    ) -> Keys:
        """`pending` are the fields of `MeterAccess` that are provisioned anew; those that are no keys keep their
        names."""
        return cls(
            {_KEY_NAMES.get(name, name): octets for name, octets in pending.items()}, new_in_use, superseded, as_ordered
        )


@dataclass(frozen=True, slots=True)
class Context:
    """`name` is that of the meter, as it gave it in this visit; `trusted` whether our own clock is right.

    `progress` is what an earlier visit for this order said last, with `sent` requests that may have changed the meter.
    `image` gives octets of the order's image (offset, length); `began` is the monotonic time at which the visit began.
    """

    name: str
    policy: ClockPolicy
    trusted: bool
    progress: Progress = field(default_factory=dict)
    sent: int = 0
    wall: float = 0.0
    began: float = 0.0
    keys: Keys = field(default_factory=Keys)
    image: Callable[[int, int], bytes] | None = None


Ask = Read | Get | Change | Pause
Plan = Generator[Ask, Reply, Ended]


@dataclass(frozen=True, slots=True)
class TypeFunctions:
    """What a type of order does.

    `check` is called before an order is accepted: what it lets pass can be carried out, and nothing is sent for the
    rest. `plan` returns a generator that yields what to ask a meter and is sent each reply; its return value is the
    outcome. `latest`: the civil time before which it cannot end, 0 for none.
    """

    check: Callable[[dict[str, object]], tuple[dict[str, object], Permission]]
    plan: Callable[[Mapping[str, object], Context], Plan]
    latest: Callable[[Mapping[str, object]], float] = lambda _parameters: 0.0


# -------------------------------------------------------------------------------------------------- single requests


def setting(ref: AttributeRef, value: Data, progress: Progress | None = None) -> Change:
    """The SET of one attribute."""
    return Change(lambda _wall, octets: SetExchange((Item(ref),), (value,), octets), progress)


def calling(ref: MethodRef, parameter: Data | None, progress: Progress | None = None, *, noted: bool = True) -> Change:
    """The ACTION of one method."""
    return Change(lambda _wall, octets: ActionExchange((ref,), (parameter,), octets), progress, noted)


def set_ended(reply: Reply, value: object = None) -> Ended:
    code = reply.answer.results[0] if isinstance(reply.answer, SetAnswer) else DataAccessResult.OTHER_REASON
    return Ended(value, refused="" if code == 0 else data_access_text(code))


def action_ended(reply: Reply) -> Ended:
    if not isinstance(reply.answer, ActionAnswer):
        return Ended(refused=ActionOutcome(ActionResult.OTHER_REASON).text)
    outcome = reply.answer.outcomes[0]
    returned = None if outcome.returned is None else typed(outcome.returned)
    return Ended(returned, refused="" if outcome.code == 0 else outcome.text)


# ------------------------------------------------------------------------------------------- writing and reading back


@dataclass(frozen=True, slots=True)
class AttributeSetting:
    """An attribute and what it is to hold. A plain number takes the type that the attribute has in the meter."""

    ref: AttributeRef
    value: Data | int

    def like(self, present: Data) -> Data:
        """The value to write. Raises `LocalError` when a number does not fit the type of `present`."""
        return Data(present.tag, self.value) if isinstance(self.value, int) else self.value


@dataclass(frozen=True, slots=True)
class Written:
    """What `write` has done: a row per attribute, and which of them hold something else than was written."""

    rows: list[dict[str, object]]
    differ: tuple[str, ...] = ()
    refused: str = ""

    def ended(self) -> Ended:
        alarm = f"the meter accepted it and holds something else in {', '.join(self.differ)}" if self.differ else ""
        return Ended(self.rows, refused=self.refused, alarm=alarm)


def present(wanted: Sequence[AttributeSetting]) -> Generator[Ask, Reply, dict[AttributeRef, Data] | str]:
    """Read what is to be written. Returns the values, or why they cannot be had."""
    refs = tuple(one.ref for one in wanted)
    reply = yield Read(refs)
    found: dict[AttributeRef, Data] = {}
    for ref, result in zip(refs, reply.results, strict=True):
        if isinstance(result, ItemError):
            return f"{ref}: {result.code}"
        found[ref] = result.data
    return found


def write(wanted: Sequence[AttributeSetting]) -> Generator[Ask, Reply, Written]:
    """Write attributes, in this order and only those that hold something else, and read them back.

    Nothing is written when one of them cannot be read, or cannot hold the value.
    """
    before = yield from present(wanted)
    if isinstance(before, str):
        return Written([], refused=before)
    try:
        values = [(one.ref, one.like(before[one.ref])) for one in wanted]
    except LocalError as error:
        return Written([], refused=str(error))
    todo = [(ref, value) for ref, value in values if not same(before[ref], value)]
    rows = {ref: _row(ref, before[ref]) for ref, _ in values}
    for number, (ref, value) in enumerate(todo, start=1):
        reply = yield setting(ref, value, {"step": number, "of": len(todo), "what": f"set {ref}"})
        refused = set_ended(reply).refused
        if refused:
            return Written(list(rows.values()), refused=f"{ref}: {refused}")
        rows[ref]["written"] = True
    differ: list[str] = []
    if todo:
        reply = yield Read(tuple(ref for ref, _ in todo))
        for (ref, value), result in zip(todo, reply.results, strict=True):
            rows[ref]["after"] = shown_value(result)
            if isinstance(result, ItemError) or not same(result.data, value):
                differ.append(str(ref))
    return Written(list(rows.values()), tuple(differ))


def _row(ref: AttributeRef, before: Data) -> dict[str, object]:
    return {"code": str(ref), "before": typed(before), "written": False, "after": typed(before)}


def same(one: Data, other: Data) -> bool:
    """Whether two values say the same: their types may differ where makers disagree (an octet-string or a date-time, a
    visible-string, an array as a compact one)."""
    mine, theirs = _plain(one), _plain(other)
    if isinstance(mine, tuple) and isinstance(theirs, tuple):
        return len(mine) == len(theirs) and all(same(a, b) for a, b in zip(mine, theirs, strict=True))
    return type(mine) is type(theirs) and mine == theirs


def _plain(data: Data) -> object:
    value = data.value
    if isinstance(value, CompactArray):
        return value.elements()
    if isinstance(value, str) and data.tag != Tag.BIT_STRING:
        return value.encode("utf-8", "replace")
    return value


# ---------------------------------------------------------------------------------------------------------- values


def shown(ref: AttributeRef, result: Value | ItemError) -> dict[str, object]:
    """One value that was read, as a row of a result."""
    row: dict[str, object] = {"code": str(ref), "tag": None, "raw": None, "scaler": None, "unit": None, "error": None}
    if isinstance(result, ItemError):
        return row | {"error": result.code}
    try:
        tag, raw = encode(result.data)
    except UnstorableError as error:
        return row | {"error": str(error)}
    return row | {"tag": tag, "raw": raw, "scaler": result.scaler, "unit": result.unit}


def shown_value(result: Value | ItemError) -> object:
    return typed(result.data) if isinstance(result, Value) else {"error": result.code}


def typed(result: Result) -> object:
    """A value as typed JSON, or what is wrong with it."""
    if isinstance(result, AccessError):
        return {"error": result.text}
    try:
        return list(encode(result))
    except UnstorableError as error:
        return {"error": str(error)}
