"""The parameters of orders, checked before anything is sent, and the permission that each order needs."""

from __future__ import annotations

from typing import Any

import pytest

from agent.metering.orders.kinds import check
from agent.metering.orders.order import Kind, OrderRefusedError, Permission

SELECTION = {"code": "7/1.0.99.1.0.255/2", "selector": 2, "selection": ["struct", [["u32", 1], ["u32", 2]]]}

GOOD: list[tuple[Kind, dict[str, Any], Permission]] = [
    (Kind.PING, {}, Permission.READ),
    (Kind.READ, {"codes": ["3/1.0.1.8.0.255/2", SELECTION]}, Permission.READ),
    (Kind.SET, {"code": "1/0.0.96.1.0.255/2", "value": ["u16", 5]}, Permission.CHANGE),
    (Kind.SET, {"code": "71/0.0.17.0.0.255/3", "value": ["u32", 5]}, Permission.SUPPLY),
    (Kind.SET, {"code": "70/0.0.96.3.10.255/4", "value": ["enum", 4]}, Permission.SUPPLY),
    (Kind.SET, {"code": "22/0.0.15.0.1.255/4", "value": ["array", []]}, Permission.SUPPLY),
    (Kind.SET, {"code": "22/0.0.15.0.0.255/4", "value": ["array", []]}, Permission.CHANGE),
    (Kind.ACTION, {"code": "70/0.0.96.3.10.255/1", "value": ["i8", 0]}, Permission.SUPPLY),
    (Kind.ACTION, {"code": "68/0.0.96.3.20.255/1", "value": ["i8", 0]}, Permission.SUPPLY),
    (Kind.ACTION, {"code": "9/0.0.10.0.106.255/1", "value": ["u16", 1]}, Permission.SUPPLY),
    (Kind.ACTION, {"code": "9/0.1.10.0.106.255/1", "value": ["u16", 1]}, Permission.SUPPLY),
    (Kind.ACTION, {"code": "9/0.0.10.0.100.255/1", "value": ["u16", 1]}, Permission.CHANGE),
    (Kind.ACTION, {"code": "15/0.0.40.0.0.255/1"}, Permission.CHANGE),
    (Kind.CLOCK, {}, Permission.READ),
    (Kind.CLOCK, {"set": True}, Permission.CHANGE),
    (Kind.DISCONNECT, {}, Permission.SUPPLY),
    (Kind.RECONNECT, {}, Permission.SUPPLY),
    (Kind.DEMAND_RESET, {}, Permission.CHANGE),
    (Kind.DEMAND_RESET, {"obis": "0.0.10.0.106.255"}, Permission.SUPPLY),
]

BAD: list[tuple[Kind, dict[str, Any]]] = [
    (Kind.PING, {"x": 1}),
    (Kind.READ, {}),
    (Kind.READ, {"codes": []}),
    (Kind.READ, {"codes": "3/1.0.1.8.0.255/2"}),
    (Kind.READ, {"codes": ["3/1.0.1.8.0.255/2"] * 33}),
    (Kind.READ, {"codes": ["1.8.0"]}),
    (Kind.READ, {"codes": [{"code": "7/1.0.99.1.0.255/2", "selector": 2}]}),
    (Kind.READ, {"codes": [SELECTION | {"selector": 256}]}),
    (Kind.READ, {"codes": [SELECTION | {"selection": 5}]}),
    (Kind.SET, {"code": "1/0.0.96.1.0.255/2"}),
    (Kind.SET, {"code": "1/0.0.96.1.0.255/2", "value": ["u8", 256]}),
    (Kind.SET, {"value": ["u8", 1]}),
    (Kind.ACTION, {"code": "70/0.0.96.3.10.255/1", "value": 0}),
    (Kind.CLOCK, {"set": 1}),
    (Kind.CLOCK, {"min_s": 10, "max_s": 9}),
    (Kind.CLOCK, {"max_s": float("inf")}),
    (Kind.CLOCK, {"min_s": -1}),
    (Kind.DISCONNECT, {"obis": "x"}),
    (Kind.DEMAND_RESET, {"script": 65536}),
]


@pytest.mark.parametrize(("kind", "parameters", "needed"), GOOD, ids=str)
def test_an_order_needs_this_permission(kind: Kind, parameters: dict[str, Any], needed: Permission) -> None:
    assert check(kind, parameters)[1] is needed


@pytest.mark.parametrize(("kind", "parameters"), BAD, ids=str)
def test_parameters_that_cannot_be_carried_out_are_refused(kind: Kind, parameters: dict[str, Any]) -> None:
    with pytest.raises(OrderRefusedError):
        check(kind, parameters)
