"""The parameters of orders, checked before anything is sent, and the permission that each order needs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.metering.orders.order import OrderRefusedError, OrderType, Permission
from agent.metering.orders.types.table import ORDER_TYPES, check

SELECTION = {"code": "7/1.0.99.1.0.255/2", "selector": 2, "selection": ["struct", [["u32", 1], ["u32", 2]]]}

TARIFF: dict[str, Any] = {
    "name": "2027A",
    "seasons": [{"name": "S1", "start": "****-01-01", "week": "W1"}],
    "weeks": [{"name": "W1", "days": [1, 1, 1, 1, 1, 2, 2]}],
    "days": [
        {"id": 1, "actions": [{"at": "00:00", "script": 2}, {"at": "06:00", "script": 1}]},
        {"id": 2, "actions": [{"at": "00:00", "script": 2}]},
    ],
}


def without(document: Any, *path: str | int, put: object = None) -> Any:
    """A copy in which the member at `path` is `put`."""
    copy: Any = json.loads(json.dumps(document))
    inner = copy
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = put
    return copy


PLACES: list[tuple[OrderType, dict[str, Any], str]] = [
    (
        OrderType.TARIFF,
        without(TARIFF, "seasons", 0, "week", put="W2"),
        "tariff: seasons[0].week: W2 is not among weeks",
    ),
    (OrderType.TARIFF, without(TARIFF, "weeks", 0, "days", 6, put=3), "tariff: weeks[0].days: sunday is day 3"),
    (OrderType.TARIFF, without(TARIFF, "weeks", 0, "days", put=[1]), "tariff: weeks[0].days: a list of 7 to 7"),
    (OrderType.TARIFF, without(TARIFF, "days", 1, "id", put=1), "tariff: days[1].id: day 1 is there twice"),
    (
        OrderType.TARIFF,
        without(TARIFF, "days", 0, "actions", 1, "at", put="00:00"),
        "tariff: days[0].actions[1].at: the",
    ),
    (
        OrderType.TARIFF,
        without(TARIFF, "days", 0, "actions", 1, "at", put="24:00"),
        "tariff: days[0].actions[1].at: there",
    ),
    (
        OrderType.TARIFF,
        without(TARIFF, "days", 0, "actions", 0, "script", put=-1),
        "tariff: days[0].actions[0].script: 0",
    ),
    (
        OrderType.TARIFF,
        without(TARIFF, "seasons", 0, "start", put="2027-02-30"),
        "tariff: seasons[0].start: there is no",
    ),
    (OrderType.TARIFF, without(TARIFF, "name", put="\u00e4"), "tariff: name: 1 to 32 printable"),
    (OrderType.TARIFF, TARIFF | {"activate": "soon"}, "tariff: activate: a time as"),
    (OrderType.LIMITER, {}, "limiter: nothing is to be set"),
    (OrderType.LIMITER, {"threshold_normal": ["u8", 256]}, "limiter: threshold_normal: "),
    (
        OrderType.LIMITER,
        {"emergency_profile": {"id": 1, "from": "unspecified"}},
        "limiter: emergency_profile: dur",
    ),
    (OrderType.LIMITER, {"emergency_groups": [1, 70000]}, "limiter: emergency_groups[1]: 0 to 65535"),
    (OrderType.CLOCK_PARAMETERS, {"time_zone_min": 721}, "clock-parameters: time_zone_min: -720 to 720"),
    (
        OrderType.DISPLAY,
        {"captures": ["3/1.0.1.8.0.255/2"], "obis": "1.0.99.1.0.255"},
        "display: obis: setting the columns",
    ),
    (OrderType.DISPLAY, {"captures": ["1.8.0"]}, "display: captures[0]: "),
    (
        OrderType.SPECIAL_DAYS,
        {"insert": [{"index": 1, "date": "****-13-25", "day": 2}]},
        "special-days: insert[0].date: ",
    ),
    (OrderType.SPECIAL_DAYS, {"replace": [], "delete": [1]}, "special-days: replace: "),
    (
        OrderType.SPECIAL_DAYS,
        {"delete": [1], "insert": [{"index": 1, "date": "2027-05-01", "day": 2}]},
        "special-days: delete",
    ),
    (OrderType.READ, {"codes": ["3/1.0.1.8.0.255/2", "x"]}, "read: codes[1]: "),
]

GOOD: list[tuple[OrderType, dict[str, Any], Permission]] = [
    (OrderType.PING, {}, Permission.READ),
    (OrderType.READ, {"codes": ["3/1.0.1.8.0.255/2", SELECTION]}, Permission.READ),
    (OrderType.SET, {"code": "1/0.0.96.1.0.255/2", "value": ["u16", 5]}, Permission.CHANGE),
    (OrderType.SET, {"code": "71/0.0.17.0.0.255/3", "value": ["u32", 5]}, Permission.SUPPLY),
    (OrderType.SET, {"code": "70/0.0.96.3.10.255/4", "value": ["enum", 4]}, Permission.SUPPLY),
    (OrderType.SET, {"code": "22/0.0.15.0.1.255/4", "value": ["array", []]}, Permission.SUPPLY),
    (OrderType.SET, {"code": "22/0.0.15.0.0.255/4", "value": ["array", []]}, Permission.CHANGE),
    (OrderType.ACTION, {"code": "70/0.0.96.3.10.255/1", "value": ["i8", 0]}, Permission.SUPPLY),
    (OrderType.ACTION, {"code": "68/0.0.96.3.20.255/1", "value": ["i8", 0]}, Permission.SUPPLY),
    (OrderType.ACTION, {"code": "9/0.0.10.0.106.255/1", "value": ["u16", 1]}, Permission.SUPPLY),
    (OrderType.ACTION, {"code": "9/0.1.10.0.106.255/1", "value": ["u16", 1]}, Permission.SUPPLY),
    (OrderType.ACTION, {"code": "9/0.0.10.0.100.255/1", "value": ["u16", 1]}, Permission.CHANGE),
    (OrderType.ACTION, {"code": "15/0.0.40.0.0.255/1"}, Permission.CHANGE),
    (OrderType.CLOCK, {}, Permission.READ),
    (OrderType.CLOCK, {"set": True}, Permission.CHANGE),
    (OrderType.DISCONNECT, {}, Permission.SUPPLY),
    (OrderType.RECONNECT, {}, Permission.SUPPLY),
    (OrderType.DEMAND_RESET, {}, Permission.CHANGE),
    (OrderType.DEMAND_RESET, {"obis": "0.0.10.0.106.255"}, Permission.SUPPLY),
    (OrderType.ACTION, {"code": "18/0.0.44.0.0.255/4", "value": ["i8", 0]}, Permission.FIRMWARE),
    (OrderType.LIMITER, {"threshold_normal": 4600}, Permission.SUPPLY),
    (OrderType.CLOCK_PARAMETERS, {"dst_begin": "****-03-LDT02:00", "dst_enabled": True}, Permission.CHANGE),
    (OrderType.DISPLAY, {"captures": ["3/1.0.1.8.0.255/2"]}, Permission.CHANGE),
    (OrderType.TARIFF, TARIFF, Permission.CHANGE),
    (OrderType.SPECIAL_DAYS, {"insert": [{"index": 1, "date": "****-12-25", "day": 2}]}, Permission.CHANGE),
    (OrderType.SPECIAL_DAYS, {"replace": []}, Permission.CHANGE),
]

BAD: list[tuple[OrderType, dict[str, Any]]] = [
    (OrderType.PING, {"x": 1}),
    (OrderType.READ, {}),
    (OrderType.READ, {"codes": []}),
    (OrderType.READ, {"codes": "3/1.0.1.8.0.255/2"}),
    (OrderType.READ, {"codes": ["3/1.0.1.8.0.255/2"] * 33}),
    (OrderType.READ, {"codes": ["1.8.0"]}),
    (OrderType.READ, {"codes": [{"code": "7/1.0.99.1.0.255/2", "selector": 2}]}),
    (OrderType.READ, {"codes": [SELECTION | {"selector": 256}]}),
    (OrderType.READ, {"codes": [SELECTION | {"selection": 5}]}),
    (OrderType.SET, {"code": "1/0.0.96.1.0.255/2"}),
    (OrderType.SET, {"code": "1/0.0.96.1.0.255/2", "value": ["u8", 256]}),
    (OrderType.SET, {"value": ["u8", 1]}),
    (OrderType.ACTION, {"code": "70/0.0.96.3.10.255/1", "value": 0}),
    (OrderType.CLOCK, {"set": 1}),
    (OrderType.CLOCK, {"min_s": 10, "max_s": 9}),
    (OrderType.CLOCK, {"max_s": float("inf")}),
    (OrderType.CLOCK, {"min_s": -1}),
    (OrderType.DISCONNECT, {"obis": "x"}),
    (OrderType.DEMAND_RESET, {"script": 65536}),
]


@pytest.mark.parametrize(("kind", "parameters", "needed"), GOOD, ids=str)
def test_an_order_needs_this_permission(kind: OrderType, parameters: dict[str, Any], needed: Permission) -> None:
    assert check(kind, parameters)[1] is needed


@pytest.mark.parametrize(("kind", "parameters"), BAD, ids=str)
def test_parameters_that_cannot_be_carried_out_are_refused(kind: OrderType, parameters: dict[str, Any]) -> None:
    with pytest.raises(OrderRefusedError):
        check(kind, parameters)


@pytest.mark.parametrize(("kind", "parameters", "said"), PLACES, ids=str)
def test_a_refusal_names_the_place_of_what_is_wrong(kind: OrderType, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(OrderRefusedError) as refused:
        check(kind, parameters)
    assert str(refused.value).startswith(said)


def test_what_changes_more_than_once_resumes() -> None:
    plain = {
        OrderType.PING,
        OrderType.READ,
        OrderType.SET,
        OrderType.ACTION,
        OrderType.CLOCK,
        OrderType.DISCONNECT,
        OrderType.RECONNECT,
        OrderType.DEMAND_RESET,
    }
    assert set(ORDER_TYPES) == set(OrderType)
    assert {kind for kind, row in ORDER_TYPES.items() if not row.resumes} == plain


@pytest.mark.parametrize("kind", OrderType)
def test_each_type_refuses_a_parameter_that_none_has(kind: OrderType) -> None:
    with pytest.raises(OrderRefusedError, match="nonsense"):
        check(kind, {"nonsense": 1})
