"""The kinds of orders: their parameters, the permission they need, and what is done on a meter for each. Sans-IO.

`check` is called before an order is accepted: what it lets pass can be carried out, and nothing is sent for the rest.
`plan` returns a generator that yields what to ask a meter and gets each reply; its return value is the outcome. A plan
has at most one `Change`, so that "sent, and no answer" has one meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone

from agent.metering.orders.order import Kind, OrderRefusedError, Permission
from agent.metering.orders.typed_json import TypedJsonError, decode
from agent.metering.visit.raw_values import UnstorableError, encode
from dlms import axdr
from dlms.axdr import Data
from dlms.client.events import ItemError, Value
from dlms.codes import action_result_text, data_access_text
from dlms.cosem.obis import AttributeRef, MethodRef, Obis, Selection
from dlms.cosem.time import DEVIATION_UNKNOWN, ClockPolicy, CosemDateTime
from dlms.errors import DlmsError, LocalError
from dlms.xdlms.apdu.common import AccessError, Item, Result
from dlms.xdlms.exchange import ActionAnswer, Answer, Exchange, SetAnswer
from dlms.xdlms.exchange_write import ActionExchange, SetExchange

CODES_MAX = 32  # of one order
CLOCK_TIME = AttributeRef.parse("8/0.0.1.0.0.255/2")
DISCONNECTOR = "0.0.96.3.10.255"
END_OF_BILLING_PERIOD = "0.0.10.0.1.255"  # script table (BB 6.2.7): resets the maximum demand
MIN_DEVIATION_S, MAX_DEVIATION_S = 5.0, 600.0
DEVIATION_S_MAX = 366 * 86_400.0

# What else can cut the supply: disconnect control, limiter, arbitrator, and the script table and schedule that are
# there to call the disconnect control (BB 4.5.8, 4.5.9, 4.5.12; 6.2.7, 6.2.8).
_SUPPLY_CLASSES = frozenset({68, 70, 71})
_SCRIPT_TABLE, _SINGLE_ACTION_SCHEDULE = 9, 22


@dataclass(frozen=True, slots=True)
class Read:
    """Read attributes, with their scalers."""

    refs: tuple[AttributeRef, ...]


@dataclass(frozen=True, slots=True)
class Get:
    """Read a part of an attribute."""

    item: Item


@dataclass(frozen=True, slots=True)
class Change:
    """One request that changes the meter. `make(wall, octets)` is called at the moment of sending, with the time and
    the longest request in octets."""

    make: Callable[[float, int], Exchange]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came. `results` for a `Read` or `Get`, per reference; `answer` for a `Change`. Times are civil seconds."""

    asked_at: float
    came_at: float
    results: tuple[Value | ItemError, ...] = ()
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The outcome. `refused` is empty when the meter did what was asked, `alarm` says that a person should look."""

    value: object = None
    refused: str = ""
    alarm: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """`name` is that of the meter, as it gave it in this visit; `trusted` whether our own clock is right."""

    name: str
    policy: ClockPolicy
    trusted: bool


Ask = Read | Get | Change
Plan = Generator[Ask, Reply, Ended]


# ------------------------------------------------------------------------------------------------------ parameters


def check(kind: Kind, parameters: Mapping[str, object]) -> tuple[dict[str, object], Permission]:
    """Return the parameters with their defaults, and the permission that the order needs.

    Raises `OrderRefusedError`.
    """
    try:
        return _CHECKS[kind](dict(parameters))
    except (LocalError, TypedJsonError) as error:
        raise OrderRefusedError(f"{kind}: {error}") from error


def _check_ping(given: dict[str, object]) -> tuple[dict[str, object], Permission]:
    _only(given)
    return {}, Permission.READ


def _check_read(given: dict[str, object]) -> tuple[dict[str, object], Permission]:
    _only(given, "codes")
    codes = given.get("codes")
    if not isinstance(codes, list) or not 1 <= len(codes) <= CODES_MAX:
        raise OrderRefusedError(f"read: codes is a list of 1 to {CODES_MAX}")
    for code in codes:
        _item(code)
    return {"codes": codes}, Permission.READ


def _check_set(given: dict[str, object]) -> tuple[dict[str, object], Permission]:
    _only(given, "code", "value")
    ref = AttributeRef.parse(_text(given, "code"))
    decode(given.get("value"))
    return given, _needed(ref.class_id, ref.obis)


def _check_action(given: dict[str, object]) -> tuple[dict[str, object], Permission]:
    _only(given, "code", "value")
    ref = MethodRef.parse(_text(given, "code"))
    if given.get("value") is not None:
        decode(given["value"])
    return given, _needed(ref.class_id, ref.obis)


def _check_clock(given: dict[str, object]) -> tuple[dict[str, object], Permission]:
    _only(given, "set", "min_s", "max_s")
    wanted = {"set": False, "min_s": MIN_DEVIATION_S, "max_s": MAX_DEVIATION_S} | given
    if not isinstance(wanted["set"], bool):
        raise OrderRefusedError("clock: set is true or false")
    low, high = _seconds(wanted, "min_s"), _seconds(wanted, "max_s")
    if low > high:
        raise OrderRefusedError("clock: min_s is more than max_s")
    return wanted, Permission.CHANGE if wanted["set"] else Permission.READ


def _check_supply(given: dict[str, object]) -> tuple[dict[str, object], Permission]:
    _only(given, "obis")
    wanted = {"obis": DISCONNECTOR} | given
    Obis.parse(_text(wanted, "obis"))
    return wanted, Permission.SUPPLY


def _check_demand_reset(given: dict[str, object]) -> tuple[dict[str, object], Permission]:
    _only(given, "obis", "script")
    wanted: dict[str, object] = {"obis": END_OF_BILLING_PERIOD, "script": 1} | given
    obis = Obis.parse(_text(wanted, "obis"))
    decode(["u16", wanted["script"]])
    return wanted, _needed(_SCRIPT_TABLE, obis)


_CHECKS: Mapping[Kind, Callable[[dict[str, object]], tuple[dict[str, object], Permission]]] = {
    Kind.PING: _check_ping,
    Kind.READ: _check_read,
    Kind.SET: _check_set,
    Kind.ACTION: _check_action,
    Kind.CLOCK: _check_clock,
    Kind.DISCONNECT: _check_supply,
    Kind.RECONNECT: _check_supply,
    Kind.DEMAND_RESET: _check_demand_reset,
}


def _needed(class_id: int, obis: Obis) -> Permission:
    """Return what writing to an object needs: what can cut the supply is not to be had under another name."""
    _, _, c, d, e, _ = obis.code
    scripts = class_id == _SCRIPT_TABLE and (c, d, e) == (10, 0, 106)
    by_schedule = class_id == _SINGLE_ACTION_SCHEDULE and (c, d, e) == (15, 0, 1)
    return Permission.SUPPLY if class_id in _SUPPLY_CLASSES or scripts or by_schedule else Permission.CHANGE


def _only(given: Mapping[str, object], *names: str) -> None:
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise OrderRefusedError(f"unknown parameter {', '.join(unknown)}; known: {', '.join(names) or 'none'}")


def _text(given: Mapping[str, object], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise OrderRefusedError(f"{name}: a text is expected")
    return value


def _seconds(given: Mapping[str, object], name: str) -> float:
    value = given[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise OrderRefusedError(f"{name}: a number of seconds is expected")
    if not 0 <= value <= DEVIATION_S_MAX:
        raise OrderRefusedError(f"{name}: 0 to {DEVIATION_S_MAX:.0f} s are expected")
    return float(value)


def _item(code: object) -> Item:
    """An attribute `3/1.0.1.8.0.255/2`, or `{"code": …, "selector": 1, "selection": [tag, raw]}` for a part of one."""
    if isinstance(code, str):
        return Item(AttributeRef.parse(code))
    if not isinstance(code, dict) or set(code) != {"code", "selector", "selection"}:
        raise OrderRefusedError("codes: a text as 3/1.0.1.8.0.255/2, or an object with code, selector and selection")
    selector = code["selector"]
    if isinstance(selector, bool) or not isinstance(selector, int) or not 0 <= selector <= 255:
        raise OrderRefusedError("selector: 0 to 255 is expected")
    return Item(AttributeRef.parse(_text(code, "code")), Selection(selector, decode(code["selection"])))


# ----------------------------------------------------------------------------------------------------------- plans


def plan(kind: Kind, parameters: Mapping[str, object], context: Context) -> Plan:
    """Return what to do on one meter. `parameters` have passed `check`."""
    match kind:
        case Kind.PING:
            return _ping(context)
        case Kind.READ:
            codes = parameters["codes"]
            return _read([_item(code) for code in codes] if isinstance(codes, list) else [])
        case Kind.SET:
            return _set(AttributeRef.parse(_text(parameters, "code")), decode(parameters["value"]))
        case Kind.ACTION:
            value = parameters.get("value")
            return _action(MethodRef.parse(_text(parameters, "code")), None if value is None else decode(value))
        case Kind.CLOCK:
            return _clock(
                context, _seconds(parameters, "min_s"), _seconds(parameters, "max_s"), set_it=bool(parameters["set"])
            )
        case Kind.DISCONNECT | Kind.RECONNECT:
            return _switch(Obis.parse(_text(parameters, "obis")), on=kind is Kind.RECONNECT)
        case Kind.DEMAND_RESET:
            script = decode(["u16", parameters["script"]])
            return _action(MethodRef(_SCRIPT_TABLE, Obis.parse(_text(parameters, "obis")), 1), script)


def _ping(context: Context) -> Plan:
    """The association was made and the name was read: there is nothing more to ask."""
    yield from ()
    return Ended({"name": context.name})


def _read(items: Sequence[Item]) -> Plan:
    whole = tuple(dict.fromkeys(item.ref for item in items if item.selection is None))
    found: dict[AttributeRef, Value | ItemError] = {}
    if whole:
        reply = yield Read(whole)
        found = dict(zip(whole, reply.results, strict=True))
    values: list[dict[str, object]] = []
    for item in items:
        if item.selection is None:
            values.append(_shown(item.ref, found[item.ref]))
        else:
            reply = yield Get(item)
            values.append(_shown(item.ref, reply.results[0]))
    errors = [str(value["error"]) for value in values if value["error"] is not None]
    return Ended(values, refused=errors[0] if len(errors) == len(values) else "")


def _set(ref: AttributeRef, value: Data) -> Plan:
    reply = yield Change(lambda _wall, octets: SetExchange((Item(ref),), (value,), octets))
    return _set_ended(reply)


def _set_ended(reply: Reply, value: object = None) -> Ended:
    code = reply.answer.results[0] if isinstance(reply.answer, SetAnswer) else 250
    return Ended(value, refused="" if code == 0 else data_access_text(code))


def _action(ref: MethodRef, parameter: Data | None) -> Plan:
    reply = yield Change(lambda _wall, octets: ActionExchange((ref,), (parameter,), octets))
    return _action_ended(reply)


def _action_ended(reply: Reply) -> Ended:
    if not isinstance(reply.answer, ActionAnswer):
        return Ended(refused=action_result_text(250))
    outcome = reply.answer.outcomes[0]
    returned = None if outcome.returned is None else _typed(outcome.returned)
    return Ended(returned, refused="" if outcome.code == 0 else outcome.text)


def _switch(obis: Obis, *, on: bool) -> Plan:
    """Disconnect control (BB 4.5.8): method 1 disconnects, 2 reconnects; then the states say what came of it."""
    changed = yield from _action(MethodRef(70, obis, 2 if on else 1), axdr.i8(0))
    if changed.refused:
        return changed
    reply = yield Read((AttributeRef(70, obis, 2), AttributeRef(70, obis, 3)))
    output, control = (_shown_value(result) for result in reply.results)
    value: dict[str, object] = {"output_state": output, "control_state": control}
    # Connected by hand, in the modes that want it: reconnection then leaves the output off and the state at 2, ready.
    if isinstance(output, bool) and output is not on and not (on and control == 2):
        return Ended(value, alarm=f"the meter accepted it, and its output is {'on' if output else 'off'}")
    return Ended(value)


def _clock(context: Context, low_s: float, high_s: float, *, set_it: bool) -> Plan:
    """Compare the meter's clock with ours, and set it where it is wrong by `low_s` to `high_s` seconds."""
    if not context.trusted:
        return Ended(refused="the concentrator's own clock is not set")
    reply = yield Read((CLOCK_TIME,))
    seen = _seen(reply, context.policy)
    if isinstance(seen, Ended):
        return seen
    clock, deviation, uncertainty = seen
    value: dict[str, object] = {"deviation_s": deviation, "uncertainty_s": uncertainty, "set": False}
    if abs(deviation) < low_s:
        return Ended(value)
    if abs(deviation) > high_s:
        alarm = f"the meter's clock is wrong by {deviation} s, more than {high_s:g} s"
        return Ended(value, refused=alarm if set_it else "", alarm=alarm)
    if not set_it:
        return Ended(value)
    reply = yield Change(
        lambda wall, octets: SetExchange(
            (Item(CLOCK_TIME),), (_meter_time(clock, wall + uncertainty, context.policy),), octets
        )
    )
    ended = _set_ended(reply, value | {"set": True})
    if ended.refused:
        return replace(ended, value=value)
    after = _seen((yield Read((CLOCK_TIME,))), context.policy)
    return Ended(value | {"set": True, "deviation_after_s": None if isinstance(after, Ended) else after[1]})


def _seen(reply: Reply, policy: ClockPolicy) -> tuple[CosemDateTime, float, float] | Ended:
    """Return the meter's clock, how far it is ahead of ours, and how exactly that is known, in seconds."""
    result = reply.results[0]
    if isinstance(result, ItemError):
        return Ended(refused=result.code)
    try:
        clock = CosemDateTime.parse(result.data.octets())
    except DlmsError:
        return Ended(refused="the meter's time is not a date-time")
    moment = clock.to_datetime(policy)
    if moment is None:
        return Ended(refused="the meter's time has no offset: meter_utc_offset_min is not set")
    uncertainty = (reply.came_at - reply.asked_at) / 2  # it looked at its clock somewhere between
    deviation = moment.timestamp() - (reply.asked_at + uncertainty)
    return clock, round(deviation, 1), round(uncertainty, 3)


def _meter_time(before: CosemDateTime, wall: float, policy: ClockPolicy) -> Data:
    """Return `wall` in the meter's own terms: its offset, its daylight-saving bit, and no deviation if it has none."""
    local, utc = before.local(), before.to_datetime(policy)
    offset = local - utc.replace(tzinfo=None) if local is not None and utc is not None else timedelta()
    when = datetime.fromtimestamp(wall, UTC).astimezone(timezone(offset))
    made = CosemDateTime.from_instant(when, replace(policy, utc_offset_minutes=None), dst=before.daylight_saving)
    if before.deviation == DEVIATION_UNKNOWN:
        made = replace(made, deviation=DEVIATION_UNKNOWN)
    return axdr.octets(made.emit())


# ---------------------------------------------------------------------------------------------------------- values


def _shown(ref: AttributeRef, result: Value | ItemError) -> dict[str, object]:
    shown: dict[str, object] = {"code": str(ref), "tag": None, "raw": None, "scaler": None, "unit": None, "error": None}
    if isinstance(result, ItemError):
        return shown | {"error": result.code}
    try:
        tag, raw = encode(result.data)
    except UnstorableError as error:
        return shown | {"error": str(error)}
    return shown | {"tag": tag, "raw": raw, "scaler": result.scaler, "unit": result.unit}


def _shown_value(result: Value | ItemError) -> object:
    return result.data.value if isinstance(result, Value) else None


def _typed(result: Result) -> object:
    if isinstance(result, AccessError):
        return {"error": result.text}
    try:
        return list(encode(result))
    except UnstorableError as error:
        return {"error": str(error)}
