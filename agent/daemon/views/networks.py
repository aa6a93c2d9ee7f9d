"""Meters and their networks over the control socket: what each meter is and can, meters added by hand, the picture of
a network with its history, and orders to a base node."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from agent.daemon.control import ControlError, Handler
from agent.metering.registry.history import EVENTS_MAX
from agent.metering.registry.network import CHANGING_KINDS, NetworkOrder, NetworkOrderError
from agent.metering.store.store_file import StoreError
from agent.settings.provisioning import AddedMeter

if TYPE_CHECKING:
    from agent.metering.collector import Collector
    from agent.metering.registry.entry import Meter
    from agent.status import MeterStatus

LOG = logging.getLogger("agent.control")

HISTORY_SHOWN = 50  # unless more are asked for


class NetworkViews:
    """The handlers, by command name, on the control thread. `may_change`: whether orders may change a network."""

    def __init__(self, collector: Collector, *, may_change: bool) -> None:
        self._collector = collector
        self._may_change = may_change

    def handlers(self) -> dict[str, Handler]:
        return {
            "meter": self.meter,
            "add-meter": self.add_meter,
            "network": self.network,
            "network-order": self.order,
            "network-result": self.result,
        }

    def meter(self, request: Mapping[str, object]) -> object:
        """Everything known of one `meter`; with `objects`, the list of its objects."""
        found = meter_document(self._collector, str(request.get("meter")))
        if found is None:
            raise ControlError(f"no meter {request.get('meter')}")
        if request.get("objects") is True:
            key = str(found["key"])
            try:
                listed = self._collector.devices.objects(key)
            except StoreError as error:
                raise ControlError(f"the store: {error}") from error
            found["object_list"] = list(listed.objects) if listed else []
        return found

    def add_meter(self, request: Mapping[str, object]) -> object:
        """Know a meter before it is heard: the fields of `agent.settings.provisioning.AddedMeter`."""
        given = {name: value for name, value in request.items() if name in AddedMeter.__dataclass_fields__}
        try:
            key = self._collector.add(AddedMeter(**given))  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise ControlError(str(error)) from error
        except OSError as error:
            raise ControlError(f"the file of added meters: {error}") from error
        return {"added": key}

    def network(self, request: Mapping[str, object]) -> object:
        """The picture of each network, or of that behind one `port`, with its last `limit` events, newest first."""
        book, port = self._collector.network, request.get("port", "")
        limit = request.get("limit", HISTORY_SHOWN)
        if not isinstance(limit, int) or isinstance(limit, bool) or not 0 <= limit <= EVENTS_MAX:
            raise ControlError(f"limit is 0 to {EVENTS_MAX}")
        if port and port not in book.ports:
            raise ControlError(f"there is no port {port}")
        return network_documents(self._collector, [str(port)] if port else book.ports, limit)

    def order(self, request: Mapping[str, object]) -> object:
        """Have the base node of a `port` do `kind`, see `agent.metering.registry.network.NetworkBook.order`."""
        try:
            order = order_network(self._collector, str(request.get("port")), request, may_change=self._may_change)
        except NetworkOrderError as error:
            raise ControlError(str(error)) from error
        return _order(order)

    def result(self, request: Mapping[str, object]) -> object:
        number = request.get("number")
        try:
            return _order(self._collector.network.result(number if isinstance(number, int) else 0))
        except NetworkOrderError as error:
            raise ControlError(str(error)) from error


def meter_document(collector: Collector, name: str) -> dict[str, object] | None:
    """Everything known of the meter with this id, EUI-48 or key, as plain values; `None` for one that is not known."""
    found = collector.registry.find(name)
    if found is None:
        return None
    meter, status = found
    node = collector.network.node(meter.port, meter.eui48) if meter.eui48 else None
    return {
        **_about(collector, meter, status),
        "security": status.security,
        "node": None if node is None else asdict(node),
    }


def meter_documents(collector: Collector) -> list[dict[str, object]]:
    """All meters in short: without how they are associated with, and their places in the network."""
    statuses = {status.meter_id: status for status in collector.meters()}
    return [
        _about(collector, meter, statuses[meter.meter_id])
        for meter in collector.registry.known()
        if meter.meter_id in statuses
    ]


def _about(collector: Collector, meter: Meter, status: MeterStatus) -> dict[str, object]:
    device = collector.devices.device(meter.key)
    offered = device.offered
    shown = asdict(status)
    del shown["security"]
    return {
        **shown,
        "key": meter.key,
        "eui48": meter.eui48,
        "added": meter.key in collector.added.keys,
        "device_type": device.device_type,
        "firmware": device.firmware,
        "checked": device.checked,
        "offered": None
        if offered is None
        else {
            "services": list(offered.services),
            "pdu_size": offered.pdu_size,
            "get_with_list": offered.get_with_list,
            "list_max": offered.list_max,
            "selective_access": offered.selective_access,
        },
        "objects": {"count": device.object_count, "digest": device.objects, "why_none": device.objects_why},
        "counters": device.counters.dump(),
    }


def network_documents(
    collector: Collector, ports: Sequence[str] = (), limit: int = EVENTS_MAX
) -> list[dict[str, object]]:
    """The networks behind these ports, or all, as plain values, with their last `limit` events, newest first."""
    book = collector.network
    shown: list[dict[str, object]] = []
    for name in ports or book.ports:
        changes = book.history(name)
        newest = [asdict(change) for change in changes[::-1][:limit]]
        orders = [_order(order) for order in book.orders(name)]
        told = {"history": newest, "history_total": len(changes), "orders": orders}
        shown.append({**asdict(book.picture(name)), **told})
    return shown


def order_network(collector: Collector, port: str, wanted: Mapping[str, object], *, may_change: bool) -> NetworkOrder:
    """Have the base node of a port do what `kind`, `pib` and `value` of `wanted` say. Raises `NetworkOrderError`."""
    kind, pib, value = (wanted.get(name, default) for name, default in (("kind", ""), ("pib", 0), ("value", "")))
    if not isinstance(kind, str) or not isinstance(pib, int) or not isinstance(value, str):
        raise NetworkOrderError("kind is a text, pib a number, value hexadecimal")
    if kind in CHANGING_KINDS and not may_change:
        raise NetworkOrderError("orders that change something are not allowed here (orders.change)")
    try:
        octets = bytes.fromhex(value.replace(":", "").replace("-", ""))
    except ValueError:
        raise NetworkOrderError("value is hexadecimal") from None
    return collector.network.order(port, kind, pib=pib, value=octets)


def forget_meter(collector: Collector, meter_id: str) -> bool:
    """Forget a meter by its id. Returns whether there was one, and it could be forgotten durably."""
    try:
        return bool(collector.remove(meter_id))
    except (StoreError, OSError) as error:
        LOG.warning("meter %s cannot be forgotten: %s", meter_id, error, extra={"event": "meter.forget.failed"})
        return False


def _order(order: NetworkOrder) -> dict[str, object]:
    return {**asdict(order), "value": order.value.hex()}
