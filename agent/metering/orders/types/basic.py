"""The plain kinds of orders: ping, read, set, action, clock, disconnect, reconnect, demand-reset. Sans-IO.

Each has at most one request that changes the meter, so that "sent, and no answer" has one meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

from agent.metering.orders.order import OrderRefusedError, OrderType, Permission
from agent.metering.orders.types import parameters as check
from agent.metering.orders.types.parameters import SCRIPT_TABLE, Checked
from agent.metering.orders.types.steps import (
    Change,
    Context,
    Ended,
    Get,
    Plan,
    Read,
    Reply,
    TypeFunctions,
    action_ended,
    calling,
    set_ended,
    setting,
    shown,
)
from agent.metering.orders.types.typed_json import decode
from dlms import axdr
from dlms.axdr import Data
from dlms.client.events import ItemError, Value
from dlms.cosem.obis import CLOCK_TIME, AttributeRef, MethodRef, Obis, Selection
from dlms.cosem.time import DEVIATION_UNKNOWN, ClockPolicy, CosemDateTime
from dlms.errors import DlmsError
from dlms.xdlms.apdu.common import Item
from dlms.xdlms.exchange_write import SetExchange

CODES_MAX = 32  # of one order
DISCONNECTOR = "0.0.96.3.10.255"
END_OF_BILLING_PERIOD = "0.0.10.0.1.255"  # script table (BB 6.2.7): resets the maximum demand
MIN_DEVIATION_S, MAX_DEVIATION_S = 5.0, 600.0
DEVIATION_S_MAX = 366 * 86_400.0

# ------------------------------------------------------------------------------------------------------ parameters


def check_ping(given: dict[str, object]) -> Checked:
    check.only(given)
    return {}, Permission.READ


def check_read(given: dict[str, object]) -> Checked:
    check.only(given, "codes")
    codes = check.members(given.get("codes"), "codes", 1, CODES_MAX)
    for number, code in enumerate(codes):
        _item(code, f"codes[{number}]")
    return {"codes": codes}, Permission.READ


def check_set(given: dict[str, object]) -> Checked:
    check.only(given, "code", "value")
    ref = check.attribute(given.get("code"), "code")
    check.value(given.get("value"), "value")
    return given, check.needed(ref.class_id, ref.obis)


def check_action(given: dict[str, object]) -> Checked:
    check.only(given, "code", "value")
    ref = check.attribute(given.get("code"), "code")
    if given.get("value") is not None:
        check.value(given["value"], "value")
    return given, check.needed(ref.class_id, ref.obis)


def check_clock(given: dict[str, object]) -> Checked:
    check.only(given, "set", "min_s", "max_s")
    wanted = {"set": False, "min_s": MIN_DEVIATION_S, "max_s": MAX_DEVIATION_S} | given
    set_it = check.flag(wanted, "set")
    low, high = (check.seconds(wanted, name, DEVIATION_S_MAX) for name in ("min_s", "max_s"))
    if low > high:
        raise OrderRefusedError("min_s is more than max_s")
    return wanted, Permission.CHANGE if set_it else Permission.READ


def check_supply(given: dict[str, object]) -> Checked:
    check.only(given, "obis")
    wanted = {"obis": DISCONNECTOR} | given
    check.obis(wanted)
    return wanted, Permission.SUPPLY


def check_demand_reset(given: dict[str, object]) -> Checked:
    check.only(given, "obis", "script")
    wanted: dict[str, object] = {"obis": END_OF_BILLING_PERIOD, "script": 1} | given
    check.number(wanted["script"], "script", 0, 0xFFFF)
    return wanted, check.needed(SCRIPT_TABLE, check.obis(wanted))


def _item(code: object, path: str = "codes") -> Item:
    """An attribute `3/1.0.1.8.0.255/2`, or `{"code": …, "selector": 1, "selection": [tag, raw]}` for a part of one."""
    if isinstance(code, str):
        return Item(check.attribute(code, path))
    found = check.record(code, path, ("code", "selector", "selection"))
    selector = check.number(found["selector"], f"{path}.selector", 0, 255)
    selection = Selection(selector, check.value(found["selection"], f"{path}.selection"))
    return Item(check.attribute(found["code"], f"{path}.code"), selection)


# ----------------------------------------------------------------------------------------------------------- plans


def plan_ping(_parameters: Mapping[str, object], context: Context) -> Plan:
    return _ping(context)


def plan_read(parameters: Mapping[str, object], _context: Context) -> Plan:
    codes = parameters["codes"]
    return _read([_item(code) for code in codes] if isinstance(codes, list) else [])


def plan_set(parameters: Mapping[str, object], _context: Context) -> Plan:
    return _set(AttributeRef.parse(check.text(parameters, "code")), decode(parameters["value"]))


def plan_action(parameters: Mapping[str, object], _context: Context) -> Plan:
    value = parameters.get("value")
    return _action(MethodRef.parse(check.text(parameters, "code")), None if value is None else decode(value))


def plan_clock(parameters: Mapping[str, object], context: Context) -> Plan:
    low, high = (check.seconds(parameters, name, DEVIATION_S_MAX) for name in ("min_s", "max_s"))
    return _clock(context, low, high, set_it=bool(parameters["set"]))


def plan_disconnect(parameters: Mapping[str, object], _context: Context) -> Plan:
    return _switch(check.obis(parameters), on=False)


def plan_reconnect(parameters: Mapping[str, object], _context: Context) -> Plan:
    return _switch(check.obis(parameters), on=True)


def plan_demand_reset(parameters: Mapping[str, object], _context: Context) -> Plan:
    script = decode(["u16", parameters["script"]])
    return _action(MethodRef(SCRIPT_TABLE, check.obis(parameters), 1), script)


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
            values.append(shown(item.ref, found[item.ref]))
        else:
            reply = yield Get(item)
            values.append(shown(item.ref, reply.results[0]))
    errors = [str(value["error"]) for value in values if value["error"] is not None]
    return Ended(values, refused=errors[0] if len(errors) == len(values) else "")


def _set(ref: AttributeRef, value: Data) -> Plan:
    return set_ended((yield setting(ref, value)))


def _action(ref: MethodRef, parameter: Data | None) -> Plan:
    return action_ended((yield calling(ref, parameter)))


def _switch(obis: Obis, *, on: bool) -> Plan:
    """Disconnect control (BB 4.5.8): method 1 disconnects, 2 reconnects; then the states say what came of it."""
    changed = yield from _action(MethodRef(70, obis, 2 if on else 1), axdr.i8(0))
    if changed.refused:
        return changed
    reply = yield Read((AttributeRef(70, obis, 2), AttributeRef(70, obis, 3)))
    output, control = (_held(result) for result in reply.results)
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
    ended = set_ended(reply, value | {"set": True})
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


def _held(result: Value | ItemError) -> object:
    return result.data.value if isinstance(result, Value) else None


FUNCTIONS: Mapping[OrderType, TypeFunctions] = {
    OrderType.PING: TypeFunctions(check_ping, plan_ping),
    OrderType.READ: TypeFunctions(check_read, plan_read),
    OrderType.SET: TypeFunctions(check_set, plan_set),
    OrderType.ACTION: TypeFunctions(check_action, plan_action),
    OrderType.CLOCK: TypeFunctions(check_clock, plan_clock),
    OrderType.DISCONNECT: TypeFunctions(check_supply, plan_disconnect),
    OrderType.RECONNECT: TypeFunctions(check_supply, plan_reconnect),
    OrderType.DEMAND_RESET: TypeFunctions(check_demand_reset, plan_demand_reset),
}
