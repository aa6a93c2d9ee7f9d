"""What a server has ordered the device as a whole to do, as a record of the tree: a lock, a reboot, a factory reset.

`agent.mo.lawmo` records an order in the transaction of the Exec; `agent.daemon.device_orders` carries it out. There is
one at a time. It ends in one transaction with its result and its generic alert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from agent.jobs import waiting
from agent.tree import alerts
from agent.tree.schema import Path
from agent.tree.tree import Transaction

LAWMO: Path = ("LAWMO",)
RECORD = "lawmo"
REBOOT, FACTORY_RESET = "Reboot", "FactoryReset"
OPERATIONS: Final = (REBOOT, FACTORY_RESET)

ALERT_TYPE = "urn:x-dcu:at:lawmo:1.0:OperationComplete"
SUCCEEDED, FAILED = 1200, 1450  # ResultCode of the alert


@dataclass(frozen=True, slots=True)
class DeviceOrder:
    """The last order, as stored. `boot` is the boot that it was given in, `attempts` how many processes have set about
    it. `result` is 0 until it is over; then `error` says why it failed."""

    id: str = ""
    operation: str = ""
    correlator: str = ""
    boot: str = ""
    attempts: int = 0
    result: int = 0
    error: str = ""

    @property
    def under_way(self) -> bool:
        return bool(self.id) and not self.result


def load(looking: Transaction) -> DeviceOrder:
    """The last order; one without an id where there is none. Of one that is damaged, what can be read of it, which is
    not under way: `end_damaged`."""
    stored = looking.record(RECORD).get("order", {})
    found = replace(DeviceOrder(), **_readable(stored))
    return replace(found, result=FAILED, error=waiting.FATE_UNKNOWN) if _damaged(stored) and not found.result else found


def _readable(stored: object) -> dict[str, Any]:
    if not isinstance(stored, Mapping):
        return {}
    kinds = {name: type(getattr(DeviceOrder(), name)) for name in DeviceOrder.__slots__}
    return {name: stored[name] for name, kind in kinds.items() if isinstance(stored.get(name), kind)}


def _damaged(stored: object) -> bool:
    """Whether this is the record of an order, and not whole."""
    return stored not in (None, {}) and _readable(stored).keys() != set(DeviceOrder.__slots__)


def is_damaged(looking: Transaction) -> bool:
    """Whether the last order cannot be read."""
    return _damaged(looking.record(RECORD).get("order", {}))


def end_damaged(changing: Transaction) -> None:
    """End an order that cannot be read, with its final alert unless it had that: it is not known what became of it."""
    stored = changing.record(RECORD).get("order", {})
    waiting.keep_damaged(changing, RECORD, stored)
    order = load(changing)
    changing.update_record(RECORD, order={})  # what is not readable of it is not kept in it
    order = replace(order, id=order.id or "damaged")
    if order.error == waiting.FATE_UNKNOWN:
        finish(changing, order, waiting.FATE_UNKNOWN)
    else:
        save(changing, order)


def save(changing: Transaction, order: DeviceOrder) -> None:
    before = waiting.members(changing, RECORD, "order")  # with what a later version keeps there
    changing.update_record(RECORD, order={**before, **asdict(order)})


def finish(changing: Transaction, order: DeviceOrder, error: str = "") -> None:
    """End an order, well without an `error`: its result and its alert."""
    result = FAILED if error else SUCCEEDED
    save(changing, replace(order, result=result, error=error))
    alert = alerts.GenericAlert(
        id=f"lawmo-{order.id}",
        type=ALERT_TYPE,
        source=f"./{LAWMO[0]}",
        data=f"<ResultCode>{result}</ResultCode>",
        correlator=order.correlator,
        mark="critical" if error else "informational",
    )
    alerts.put(changing, alert)


def is_locked(looking: Transaction) -> bool:
    """Whether the device reads no meters and takes no orders."""
    return bool(looking.record(RECORD).get("locked"))


def set_locked(changing: Transaction, locked: bool) -> None:
    changing.update_record(RECORD, locked=locked)
