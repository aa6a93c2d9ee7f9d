"""Orders over the control socket: asked for, looked at, cancelled. Who asked is the user that the kernel names."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING

from agent.daemon.control import ControlError, Handler
from agent.jobs.orders import DEADLINE_S, PRIORITY
from agent.metering.orders.order import OrderError
from agent.metering.orders.order_book import Request

if TYPE_CHECKING:
    from agent.metering.orders.order_book import OrderBook

ORDERS_SHOWN = 50  # unless more are asked for


class OrderViews:
    """The handlers, by command name, on the control thread."""

    def __init__(self, orders: OrderBook) -> None:
        self._orders = orders

    def handlers(self) -> dict[str, Handler]:
        return {"order": self.order, "orders": self.orders, "order-status": self.status, "order-cancel": self.cancel}

    def order(self, request: Mapping[str, object]) -> object:
        """Accept `kind` on `meters` with `parameters`. With `id`, asking again after a lost answer is harmless."""
        meters, parameters = request.get("meters"), request.get("parameters", {})
        if not isinstance(meters, list) or not all(isinstance(meter, str) for meter in meters):
            raise ControlError("meters is a list of ids")
        if not isinstance(parameters, dict):
            raise ControlError("parameters is an object")
        priority, deadline_s = request.get("priority", PRIORITY), request.get("deadline_s", DEADLINE_S)
        if not isinstance(priority, int) or not isinstance(deadline_s, int | float):
            raise ControlError("priority and deadline_s are numbers")
        try:
            record = self._orders.submit(
                Request(
                    id=str(request.get("id") or secrets.token_hex(16)),
                    kind=str(request.get("kind", "")),
                    meters=meters,
                    parameters=parameters,
                    asked_by=f"dcuctl: {request.get('peer') or 'unknown'}",
                    priority=priority,
                    deadline_s=float(deadline_s),
                )
            )
        except OrderError as error:
            raise ControlError(str(error)) from error
        return self._described(record.order.id)

    def orders(self, request: Mapping[str, object]) -> object:
        """The orders that are kept, the newest first, at most `limit` of them."""
        limit = request.get("limit", ORDERS_SHOWN)
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise ControlError("limit is 1 or more")
        return self._orders.orders()[:limit]

    def status(self, request: Mapping[str, object]) -> object:
        return self._described(request.get("id"))

    def cancel(self, request: Mapping[str, object]) -> object:
        try:
            return self._orders.cancel(str(request.get("id")))
        except OrderError as error:
            raise ControlError(str(error)) from error

    def _described(self, order_id: object) -> object:
        found = self._orders.describe(order_id) if isinstance(order_id, str) else None
        if found is None:
            raise ControlError(f"there is no order {order_id}")
        return found
