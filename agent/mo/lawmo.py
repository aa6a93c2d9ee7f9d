"""LAWMO: lock, reboot and factory reset; `urn:x-dcu:mo:lawmo:1.0`, named after OMA's LAWMO 1.0 without claiming it.

    State                                    live: locked, unlocked
    Operations/FullyLock, UnLock             Exec: 200, in effect with the message that brings it
    Operations/Reboot, FactoryReset          Exec: 202, an alert when it is done

An Exec of the latter only records what is wanted (`agent.jobs.device`); `agent.daemon.device_orders` carries it out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agent.jobs import device, firmware
from agent.jobs.device import LAWMO, DeviceOrder
from agent.mo.connectivity import trial
from agent.tree import alerts
from agent.tree.schema import GE, ExecCall, Format, NodeSpec, Path, interior, live
from agent.tree.tree import Transaction
from omadm.codes import Code, Refusal

URN = "urn:x-dcu:mo:lawmo:1.0"
LOCK, UNLOCK = "FullyLock", "UnLock"
LOCKS: Final = {LOCK: True, UNLOCK: False}


@dataclass(frozen=True, slots=True)
class Lawmo:
    """`boot` is the id of this boot, empty where nothing tells one from the other."""

    view: Callable[[], Transaction]
    new_id: Callable[[], str]
    boot: str = ""
    root: Path = LAWMO

    def spec(self) -> NodeSpec:
        def status(name: str, value: Callable[[DeviceOrder], str], description: str) -> NodeSpec:
            return live(name, Format.CHR, lambda _: value(device.load(self.view())), description)

        return interior(
            "LAWMO",
            live(
                "State",
                Format.CHR,
                lambda _: "locked" if device.is_locked(self.view()) else "unlocked",
                "locked, unlocked",
            ),
            interior("Operations", *(NodeSpec(name, Format.NULL, GE) for name in (*LOCKS, *device.OPERATIONS))),
            interior(
                "Status",
                status("Operation", lambda order: order.operation, "of the last order; empty: there was none"),
                status("Correlator", lambda order: order.correlator, "of its Exec"),
                status("State", _state, "idle, waiting, done, failed"),
                status("Error", lambda order: order.error, "why it failed"),
            ),
            type=URN,
        )

    def execute(self, changing: Transaction, call: ExecCall) -> Code:
        """Exec of a lock: 200. Of another operation: 202; 406 for a reboot where boots cannot be told apart, 500 while
        an order, a firmware job or a trial of the connection is under way. 405 elsewhere."""
        operation = call.path[-1]
        if call.path[:-1] != (*LAWMO, "Operations"):
            raise Refusal(Code.NOT_ALLOWED, "nothing to execute")
        if operation in LOCKS:
            device.set_locked(changing, LOCKS[operation])
            return Code.OK
        if device.is_damaged(changing):
            device.end_damaged(changing)  # its server hears of it before the record is another order's
        last = device.load(changing)
        if call.correlator and (last.operation, last.correlator) == (operation, call.correlator):
            return Code.ACCEPTED  # the server has lost our answer
        if last.under_way:
            raise Refusal(Code.COMMAND_FAILED, f"an order is under way: {last.operation}")
        if firmware.load(changing).active:
            raise Refusal(Code.COMMAND_FAILED, "a firmware job is under way")
        if trial.load(changing).under_way:
            raise Refusal(Code.COMMAND_FAILED, "a change of how the head-end is reached is on trial")
        if operation == device.REBOOT and not self.boot:
            raise Refusal(Code.NOT_SUPPORTED, "this device cannot tell that it was booted")
        device.save(changing, DeviceOrder(self.new_id(), operation, call.correlator, self.boot))
        return Code.ACCEPTED

    def written(self, changing: Transaction, path: Path) -> None:
        """There is nothing to write."""

    def acknowledged(self, changing: Transaction, alert: alerts.GenericAlert) -> None:
        """Nothing is kept beyond the alert."""


def _state(order: DeviceOrder) -> str:
    if not order.id:
        return "idle"
    if order.under_way:
        return "waiting"
    return "done" if order.result == device.SUCCEEDED else "failed"
