"""What a server has ordered the device as a whole to do, as a record of the tree: a lock, a reboot, a factory reset.

`agent.mo.lawmo` records an order in the transaction of the Exec; `agent.daemon.device_orders` carries it out. There is
one at a time. It ends in one transaction with its result and its generic alert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

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
    """The last order; one without an id where there is none."""
    stored = looking.record(RECORD).get("order", {})
    if not isinstance(stored, Mapping):
        return DeviceOrder()
    standard = DeviceOrder()
    known: dict[str, Any] = {
        name: stored[name]
        for name in DeviceOrder.__slots__
        if isinstance(stored.get(name), type(getattr(standard, name)))
    }
    return replace(standard, **known)


def save(changing: Transaction, order: DeviceOrder) -> None:
    before = changing.record(RECORD).get("order", {})  # with what a later version keeps there
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
