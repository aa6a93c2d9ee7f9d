"""Orders over the control socket, from a program that is not `dcuctl`: what is wrong is named, and nothing is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.daemon.control import ControlError
from agent.daemon.views.orders import OrderViews
from agent.metering.orders.journal import Journal
from agent.metering.orders.order_book import OrderBook
from tests.agent.virtual import VirtualClock
from updateagent.disk import RealDisk


@pytest.fixture
def views(tmp_path: Path) -> OrderViews:
    return OrderViews(OrderBook(Journal(RealDisk(), tmp_path), VirtualClock(), allowed=[], known=lambda: {"KEP1"}))


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"kind": "ping"}, "meters is a list of ids"),
        ({"kind": "ping", "meters": "KEP1"}, "meters is a list of ids"),
        ({"kind": "ping", "meters": [1]}, "meters is a list of ids"),
        ({"kind": "ping", "meters": ["KEP1"], "parameters": []}, "parameters is an object"),
        ({"kind": "ping", "meters": ["KEP1"], "priority": "high"}, "are numbers"),
        ({"kind": "ping", "meters": ["KEP1"], "deadline_s": "soon"}, "are numbers"),
        ({"kind": "fly", "meters": ["KEP1"]}, "'fly'; known: ping, read"),
        ({"kind": "clock", "meters": ["KEP1"], "parameters": {"set": True}}, "orders.change is false"),
    ],
)
def test_a_request_that_is_wrong_is_refused_by_name(views: OrderViews, request_: dict[str, object], said: str) -> None:
    with pytest.raises(ControlError, match=said):
        views.handlers()["order"](request_)
    assert views.handlers()["orders"]({}) == []


@pytest.mark.parametrize("limit", [0, -1, True, "1", 1.5, None])
def test_a_limit_is_a_number_of_orders(views: OrderViews, limit: object) -> None:
    with pytest.raises(ControlError, match="limit is 1 or more"):
        views.handlers()["orders"]({"limit": limit})


@pytest.mark.parametrize("name", ["order-status", "order-cancel"])
@pytest.mark.parametrize("order_id", ["never", 5, None])
def test_an_order_that_there_is_not_is_neither_shown_nor_cancelled(
    views: OrderViews, name: str, order_id: object
) -> None:
    with pytest.raises(ControlError, match="no order"):
        views.handlers()[name]({"id": order_id})


def test_the_same_order_asked_for_again_is_one_order(views: OrderViews) -> None:
    order = {"id": "a" * 32, "kind": "ping", "meters": ["KEP1"], "peer": "root"}
    first, again = (views.handlers()["order"](order) for _ in range(2))
    assert first == again
    assert len(views.orders({})) == 1  # type: ignore[arg-type]
