"""The types of orders: one row each. Sans-IO.

What a type needs is loaded with its first order: most concentrators see few types, and none for days.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.metering.orders.order import OrderRefusedError, OrderType, Permission

if TYPE_CHECKING:
    from agent.metering.orders.types.steps import Context, Plan, TypeFunctions


@dataclass(frozen=True, slots=True)
class OrderTypeRow:
    """What there is to know of one type of order without its functions.

    `resumes`: begun anew after a cut, its plan finds out what was carried out, and goes on. Of the others a request
    that was sent, and not answered, leaves it unknown whether the meter did it. `background`: it takes long, gives way
    to everything, and goes on in steps.
    """

    resumes: bool = False
    background: bool = False


ORDER_TYPES: Mapping[OrderType, OrderTypeRow] = {
    OrderType.PING: OrderTypeRow(),
    OrderType.READ: OrderTypeRow(),
    OrderType.SET: OrderTypeRow(),
    OrderType.ACTION: OrderTypeRow(),
    OrderType.CLOCK: OrderTypeRow(),
    OrderType.DISCONNECT: OrderTypeRow(),
    OrderType.RECONNECT: OrderTypeRow(),
    OrderType.DEMAND_RESET: OrderTypeRow(),
    OrderType.LIMITER: OrderTypeRow(resumes=True),
    OrderType.CLOCK_PARAMETERS: OrderTypeRow(resumes=True),
    OrderType.DISPLAY: OrderTypeRow(resumes=True),
    OrderType.TARIFF: OrderTypeRow(resumes=True),
    OrderType.KEYS: OrderTypeRow(resumes=True),
    OrderType.SPECIAL_DAYS: OrderTypeRow(resumes=True),
    OrderType.FIRMWARE: OrderTypeRow(resumes=True, background=True),
}


def check(kind: OrderType, parameters: Mapping[str, object]) -> tuple[dict[str, object], Permission]:
    """Return the parameters with their defaults, and the permission that the order needs.

    Raises `OrderRefusedError`, whose text names the parameter.
    """
    try:
        return _functions(kind).check(dict(parameters))
    except OrderRefusedError as error:
        raise OrderRefusedError(f"{kind}: {error}") from error


def plan(kind: OrderType, parameters: Mapping[str, object], context: Context) -> Plan:
    """Return what to do on one meter. `parameters` have passed `check`."""
    return _functions(kind).plan(parameters, context)


def latest(kind: OrderType, parameters: Mapping[str, object]) -> float:
    """Return the civil time before which an order with these parameters cannot end, 0 for none."""
    return _functions(kind).latest(parameters)


def _functions(kind: OrderType) -> TypeFunctions:
    match kind:
        case OrderType.LIMITER | OrderType.CLOCK_PARAMETERS | OrderType.DISPLAY:
            from agent.metering.orders.types import attributes

            return attributes.FUNCTIONS[kind]
        case OrderType.TARIFF | OrderType.SPECIAL_DAYS:
            from agent.metering.orders.types import calendar

            return calendar.FUNCTIONS[kind]
        case OrderType.KEYS:
            from agent.metering.orders.types import keys

            return keys.FUNCTIONS[kind]
        case OrderType.FIRMWARE:
            from agent.metering.orders.types import firmware

            return firmware.FUNCTIONS[kind]
        case _:
            from agent.metering.orders.types import basic

            return basic.FUNCTIONS[kind]
