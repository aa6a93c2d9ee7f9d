"""The types of orders: one row each. Sans-IO.

`check` is called before an order is accepted: what it lets pass can be carried out, and nothing is sent for the rest.
`plan` returns a generator that yields what to ask a meter and is sent each reply; its return value is the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.metering.orders.order import OrderRefusedError, OrderType, Permission
from agent.metering.orders.types import attributes, basic, calendar, firmware, keys
from agent.metering.orders.types.parameters import Checked
from agent.metering.orders.types.steps import Context, Plan


@dataclass(frozen=True, slots=True)
class OrderTypeRow:
    """What there is to know of one type of order.

    `resumes`: begun anew after a cut, its plan finds out what was carried out, and goes on. Of the others a request
    that was sent, and not answered, leaves it unknown whether the meter did it. `background`: it takes long, gives way
    to everything, and goes on in steps. `latest`: the civil time before which it cannot end, 0 for none.
    """

    check: Callable[[dict[str, object]], Checked]
    plan: Callable[[Mapping[str, object], Context], Plan]
    resumes: bool = False
    background: bool = False
    latest: Callable[[Mapping[str, object]], float] = lambda _parameters: 0.0


ORDER_TYPES: Mapping[OrderType, OrderTypeRow] = {
    OrderType.PING: OrderTypeRow(basic.check_ping, basic.plan_ping),
    OrderType.READ: OrderTypeRow(basic.check_read, basic.plan_read),
    OrderType.SET: OrderTypeRow(basic.check_set, basic.plan_set),
    OrderType.ACTION: OrderTypeRow(basic.check_action, basic.plan_action),
    OrderType.CLOCK: OrderTypeRow(basic.check_clock, basic.plan_clock),
    OrderType.DISCONNECT: OrderTypeRow(basic.check_supply, basic.plan_switch(on=False)),
    OrderType.RECONNECT: OrderTypeRow(basic.check_supply, basic.plan_switch(on=True)),
    OrderType.DEMAND_RESET: OrderTypeRow(basic.check_demand_reset, basic.plan_demand_reset),
    OrderType.LIMITER: OrderTypeRow(attributes.check_limiter, attributes.plan_limiter, resumes=True),
    OrderType.CLOCK_PARAMETERS: OrderTypeRow(
        attributes.check_clock_parameters, attributes.plan_clock_parameters, resumes=True
    ),
    OrderType.DISPLAY: OrderTypeRow(attributes.check_display, attributes.plan_display, resumes=True),
    OrderType.TARIFF: OrderTypeRow(calendar.check_tariff, calendar.plan_tariff, resumes=True),
    OrderType.KEYS: OrderTypeRow(keys.check_keys, keys.plan_keys, resumes=True),
    OrderType.SPECIAL_DAYS: OrderTypeRow(calendar.check_special_days, calendar.plan_special_days, resumes=True),
    OrderType.FIRMWARE: OrderTypeRow(
        firmware.check_firmware, firmware.plan_firmware, resumes=True, background=True, latest=firmware.latest
    ),
}


def check(kind: OrderType, parameters: Mapping[str, object]) -> tuple[dict[str, object], Permission]:
    """Return the parameters with their defaults, and the permission that the order needs.

    Raises `OrderRefusedError`, whose text names the parameter.
    """
    try:
        return ORDER_TYPES[kind].check(dict(parameters))
    except OrderRefusedError as error:
        raise OrderRefusedError(f"{kind}: {error}") from error


def plan(kind: OrderType, parameters: Mapping[str, object], context: Context) -> Plan:
    """Return what to do on one meter. `parameters` have passed `check`."""
    return ORDER_TYPES[kind].plan(parameters, context)
