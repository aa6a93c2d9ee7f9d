"""Meters and their networks over the control socket: what each meter is and can, meters added by hand, the picture of
a network with its history, and orders to a base node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from agent.daemon.control import ControlError, Handler
from agent.metering.registry.network import CHANGING_KINDS, NetworkOrder, NetworkOrderError
from agent.metering.store.store_file import StoreError
from agent.settings.provisioning import AddedMeter
from plc.prime.topology import HISTORY_MAX

if TYPE_CHECKING:
    from agent.metering.collector import Collector

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
        if not isinstance(limit, int) or isinstance(limit, bool) or not 0 <= limit <= HISTORY_MAX:
            raise ControlError(f"limit is 0 to {HISTORY_MAX}")
        if port and port not in book.ports:
            raise ControlError(f"there is no port {port}")
        shown = []
        for name in [str(port)] if port else book.ports:
            changes = book.history(name)
            newest = [asdict(change) for change in changes[::-1][:limit]]
            shown.append({**asdict(book.picture(name)), "history": newest, "history_total": len(changes)})
        return shown

    def order(self, request: Mapping[str, object]) -> object:
        """Have the base node of a `port` do `kind`, see `agent.metering.registry.network.NetworkBook.order`."""
        kind, pib, value = (request.get(name, default) for name, default in (("kind", ""), ("pib", 0), ("value", "")))
        if not isinstance(kind, str) or not isinstance(pib, int) or not isinstance(value, str):
            raise ControlError("kind is a text, pib a number, value hexadecimal")
        if kind in CHANGING_KINDS and not self._may_change:
            raise ControlError("orders that change something are not allowed here (orders.change)")
        try:
            octets = bytes.fromhex(value.replace(":", "").replace("-", ""))
            order = self._collector.network.order(str(request.get("port")), kind, pib=pib, value=octets)
        except ValueError as error:
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
    meter = next((it for it in collector.registry.known() if name in (it.meter_id, it.eui48, it.key)), None)
    status = next((it for it in collector.meters() if meter and it.meter_id == meter.meter_id), None)
    if meter is None or status is None:
        return None
    device = collector.devices.device(meter.key)
    offered = device.offered
    node = collector.network.node(meter.port, meter.eui48) if meter.eui48 else None
    return {
        **asdict(status),
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
        "node": None if node is None else asdict(node),
    }


def _order(order: NetworkOrder) -> dict[str, object]:
    return {**asdict(order), "value": order.value.hex()}
