"""Carries out orders to the device as a whole: a reboot, a factory reset.

*Reboot*: asked for between sessions, and reported in the boot that follows. A process sets about it once, and after
`STARTS_MAX` processes of one boot, or an hour, the order has failed: nothing reboots for ever.

*Factory reset*: what waits for the head-end is delivered first, for at most `DELIVER_S_MAX`. Then a marker is written,
and from there on there is no way back: at its next start the agent erases what `erased_by_reset` names before it opens
any of it, begins anew, registers, and reports to its server under the old correlator.

    {"version": 1, "id": "…", "correlator": "…", "erased": false}

The marker becomes `erased` when everything is gone, and is removed when the alert is in the new tree; either step can
be repeated. Nothing else knows the correlator by then, so a copy lies beside it for a marker that is damaged.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agent.jobs import device, firmware, waiting
from agent.jobs.device import DeviceOrder
from agent.metering.store.store_file import StoreError
from omadm.codes import Refusal

if TYPE_CHECKING:
    from agent.clock import Clock
    from agent.settings.config import Config
    from agent.tree.persistence import ManagementTree
    from updateagent.disk import Storage

LOG = logging.getLogger("agent.device")

MARKER_FILE = "factory-reset.json"
MARKER_COPY = "factory-reset-copy.json"  # means nothing alone
MARKER_VERSION = 1
WATCH_EVERY_S = 5.0  # while an order is under way
STARTS_MAX = 3
REBOOT_S_MAX = 3600.0  # within which a board that was asked to reboot does, or never will
DELIVER_S_MAX = 900.0


@dataclass(frozen=True, slots=True)
class Marker:
    """What a factory reset leaves for the next start."""

    id: str
    correlator: str
    erased: bool = False

    def emit(self) -> bytes:
        return json.dumps({"version": MARKER_VERSION, **asdict(self)}).encode()

    @classmethod
    def parse(cls, data: bytes) -> Marker | None:
        """Read a marker; `None` for one that is damaged."""
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, dict):
            return None
        order, correlator = found.get("id"), found.get("correlator")
        if not isinstance(order, str) or not isinstance(correlator, str):
            return None
        return cls(order, correlator, found.get("erased") is True)

    def write(self, disk: Storage, state_dir: Path) -> None:
        """Make it the one that holds. Raises `OSError`."""
        for name in (MARKER_COPY, MARKER_FILE):
            disk.write_durable(state_dir / name, self.emit())

    @classmethod
    def there(cls, disk: Storage, state_dir: Path) -> Marker | None:
        """The marker of a reset that is under way. One that is damaged, and its copy too, stands for an order without
        a correlator: the reset is due anyway. Raises `OSError`."""
        if not disk.exists(state_dir / MARKER_FILE):
            return None
        for name in (MARKER_FILE, MARKER_COPY):
            found = cls.parse(disk.read_bytes(state_dir / name)) if disk.exists(state_dir / name) else None
            if found is not None:
                return found
            LOG.error("%s is damaged or missing", name, extra={"event": "device.reset.damaged"})
        return cls("unknown", "")

    @staticmethod
    def remove(disk: Storage, state_dir: Path) -> None:
        """The reset is over. Raises `OSError`."""
        for name in (MARKER_FILE, MARKER_COPY):
            disk.remove_durable(state_dir / name)


class DeviceOrders:
    """`tick` is for the main thread, and called when the tree was changed. `reboot()` asks for one between sessions,
    `report()` for a session that takes an alert, `waiting()` is how many readings the head-end does not have yet."""

    def __init__(
        self,
        tree: ManagementTree,
        disk: Storage,
        clock: Clock,
        state_dir: Path,
        boot: str,
        *,
        reboot: Callable[[], None],
        report: Callable[[], None],
        waiting: Callable[[], int],
    ) -> None:
        self._tree = tree
        self._disk = disk
        self._clock = clock
        self._state_dir = state_dir
        self._boot = boot
        self._reboot = reboot
        self._report = report
        self._waiting = waiting
        self._begun: tuple[str, float] = ("", 0.0)  # the order that this process has seen, and since when
        self._asked = ""  # the order for which this process has asked for a reboot

    def tick(self) -> float | None:
        """Do what is due. Returns in how many seconds to look again, `None` where nothing waits for a time."""
        view = self._tree.view()
        resets = self._disk.exists(self._state_dir / MARKER_FILE)  # that is told by its marker
        if device.is_damaged(view) and not resets:
            self._end_damaged()
            return WATCH_EVERY_S
        order = device.load(view)
        if not order.under_way:
            return None
        if self._begun[0] != order.id:
            self._begun = (order.id, self._clock.monotonic())
            LOG.warning("%s was ordered", order.operation, extra={"event": "device.order"})
        if order.operation == device.REBOOT and order.boot != self._boot:
            self._finish(order)
        elif not firmware.load(view).active:  # never in the middle of a hand-over: that reboots by itself
            since_s = self._clock.monotonic() - self._begun[1]
            if order.operation == device.REBOOT:
                self._reboot_for(order, since_s)
            elif order.operation == device.FACTORY_RESET:
                self._reset_for(order, since_s)
            else:
                self._finish(order, f"this version does not know {order.operation}")
        return WATCH_EVERY_S

    def _end_damaged(self) -> None:
        try:
            with self._tree.transaction() as changing:
                device.end_damaged(changing)
        except Refusal as refusal:
            LOG.debug("the order waits for the storage: %s", refusal)
            return
        LOG.error(waiting.FATE_UNKNOWN, extra={"event": "device.order.damaged"})
        self._report()

    def _reboot_for(self, order: DeviceOrder, since_s: float) -> None:
        if self._asked == order.id:
            if since_s > REBOOT_S_MAX:
                self._finish(order, f"the board did not reboot within {REBOOT_S_MAX:.0f} s")
        elif order.attempts >= STARTS_MAX:
            self._finish(order, f"the board was asked {STARTS_MAX} times, and did not reboot")
        elif self._save(replace(order, attempts=order.attempts + 1)):
            self._asked = order.id
            self._reboot()

    def _reset_for(self, order: DeviceOrder, since_s: float) -> None:
        if self._asked == order.id or (since_s < DELIVER_S_MAX and self._undelivered()):
            return
        try:
            Marker(order.id, order.correlator).write(self._disk, self._state_dir)
        except OSError as error:
            LOG.debug("the reset waits for the storage: %s", error)
            return
        self._asked = order.id
        self._reboot()

    def _undelivered(self) -> bool:
        try:
            return self._waiting() > 0
        except StoreError:  # it may be damaged, which must not keep a device from being reset
            return False

    def _save(self, order: DeviceOrder) -> bool:
        try:
            with self._tree.transaction() as changing:
                device.save(changing, order)
        except Refusal as error:
            LOG.debug("the order waits for the storage: %s", error)
            return False
        return True

    def _finish(self, order: DeviceOrder, error: str = "") -> None:
        try:
            with self._tree.transaction() as changing:
                device.finish(changing, order, error)
        except Refusal as refusal:
            LOG.debug("the order waits for the storage: %s", refusal)
            return
        LOG.warning("%s: %s", order.operation, error or "done", extra={"event": "device.order.over"})
        self._report()


def erased_by_reset(config: Config) -> tuple[Path, ...]:
    """What a factory reset erases, everything that head-end, operator and meters have left here: folders, and files
    with all whose names begin with theirs (journals of the store, files that were set aside).

    Kept are the device's identity and configuration, which lie elsewhere, firmware and its journal, software with its
    floors, the earliest time that it can be, and the log. Programs of software packages begin anew: what they had
    gathered is erased.
    """
    from agent.metering.collector import ADDED_FILE
    from agent.services.backends import kept_by_services

    metering, state = config.metering, config.state_dir
    registry = metering.registry_file
    return (
        state / "dm",
        state / "orders",
        state / "meter-images",
        state / "connectivity",
        metering.store_file,
        registry,
        registry.parent / "keys",
        registry.with_name(ADDED_FILE),
        *kept_by_services(config),
    )


def erase_if_ordered(
    disk: Storage, state_dir: Path, erased: Callable[[], Sequence[Path]], end: Callable[[], None]
) -> None:
    """Carry out a factory reset that was ordered, before any file that it erases is opened. `end` ends the programs
    that could still write there, where the device was not booted in between. Raises `OSError`."""
    marker = Marker.there(disk, state_dir)
    if marker is None or marker.erased:
        return
    LOG.warning("factory reset: everything but identity and firmware is erased", extra={"event": "device.reset"})
    end()
    for path in erased():
        if disk.is_dir(path):
            disk.remove_tree_durable(path)
        elif disk.is_dir(path.parent):
            for name in disk.listdir(path.parent):
                if name.startswith(path.name):
                    disk.remove_durable(path.with_name(name))
    replace(marker, erased=True).write(disk, state_dir)


def report_reset(disk: Storage, state_dir: Path, tree: ManagementTree) -> None:
    """Queue the alert of a finished factory reset in the new tree, then remove the marker.

    Raises `OSError`, `Refusal`.
    """
    marker = Marker.there(disk, state_dir)
    if marker is None:
        return
    with tree.transaction() as changing:
        if device.load(changing).id != marker.id:  # else only the marker had stayed
            device.finish(changing, DeviceOrder(marker.id, device.FACTORY_RESET, marker.correlator))
    Marker.remove(disk, state_dir)
