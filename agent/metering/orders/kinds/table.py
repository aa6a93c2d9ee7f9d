"""The kinds of orders: one row each. Sans-IO.

`check` is called before an order is accepted: what it lets pass can be carried out, and nothing is sent for the rest.
`plan` returns a generator that yields what to ask a meter and is sent each reply; its return value is the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.metering.orders.kinds import attributes, basic, calendar, firmware, keys
from agent.metering.orders.kinds.parameters import Checked
from agent.metering.orders.kinds.steps import Context, Plan
from agent.metering.orders.order import Kind, OrderRefusedError, Permission


@dataclass(frozen=True, slots=True)
class KindOfOrder:
    """What there is to know of a kind.

    `resumes`: begun anew after a cut, its plan finds out what was carried out, and goes on. Of the others a request
    that was sent, and not answered, leaves it unknown whether the meter did it. `background`: it takes long, gives way
    to everything, and goes on in steps. `latest`: the civil time before which it cannot end, 0 for none.
    """

    check: Callable[[dict[str, object]], Checked]
    plan: Callable[[Mapping[str, object], Context], Plan]
    resumes: bool = False
    background: bool = False
    latest: Callable[[Mapping[str, object]], float] = lambda _parameters: 0.0


KINDS: Mapping[Kind, KindOfOrder] = {
    Kind.PING: KindOfOrder(basic.check_ping, basic.plan_ping),
    Kind.READ: KindOfOrder(basic.check_read, basic.plan_read),
    Kind.SET: KindOfOrder(basic.check_set, basic.plan_set),
    Kind.ACTION: KindOfOrder(basic.check_action, basic.plan_action),
    Kind.CLOCK: KindOfOrder(basic.check_clock, basic.plan_clock),
    Kind.DISCONNECT: KindOfOrder(basic.check_supply, basic.plan_switch(on=False)),
    Kind.RECONNECT: KindOfOrder(basic.check_supply, basic.plan_switch(on=True)),
    Kind.DEMAND_RESET: KindOfOrder(basic.check_demand_reset, basic.plan_demand_reset),
    Kind.LIMITER: KindOfOrder(attributes.check_limiter, attributes.plan_limiter, resumes=True),
    Kind.CLOCK_PARAMETERS: KindOfOrder(
        attributes.check_clock_parameters, attributes.plan_clock_parameters, resumes=True
    ),
    Kind.DISPLAY: KindOfOrder(attributes.check_display, attributes.plan_display, resumes=True),
    Kind.TARIFF: KindOfOrder(calendar.check_tariff, calendar.plan_tariff, resumes=True),
    Kind.KEYS: KindOfOrder(keys.check_keys, keys.plan_keys, resumes=True),
    Kind.SPECIAL_DAYS: KindOfOrder(calendar.check_special_days, calendar.plan_special_days, resumes=True),
    Kind.FIRMWARE: KindOfOrder(
        firmware.check_firmware, firmware.plan_firmware, resumes=True, background=True, latest=firmware.latest
    ),
}


def check(kind: Kind, parameters: Mapping[str, object]) -> tuple[dict[str, object], Permission]:
    """Return the parameters with their defaults, and the permission that the order needs.

    Raises `OrderRefusedError`, whose text names the parameter.
    """
    try:
        return KINDS[kind].check(dict(parameters))
    except OrderRefusedError as error:
        raise OrderRefusedError(f"{kind}: {error}") from error


def plan(kind: Kind, parameters: Mapping[str, object], context: Context) -> Plan:
    """Return what to do on one meter. `parameters` have passed `check`."""
    return KINDS[kind].plan(parameters, context)
