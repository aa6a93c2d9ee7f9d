"""All management objects of this device, in one place: a new object is a module beside this one and a line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agent.jobs.firmware import RunningDownload
from agent.mo.ami import Ami
from agent.mo.devdetail import DevDetail
from agent.mo.devinfo import DevInfo
from agent.mo.dmacc import DmAcc, Inbox
from agent.mo.fumo import Fumo
from agent.mo.order import Order
from agent.mo.registry import Registry
from agent.mo.sched import Sched
from agent.mo.scomo import Scomo
from agent.settings.device import DeviceInfo
from agent.settings.provisioning import TaskStatus
from agent.status import MeterStatus
from agent.tree.tree import Transaction


@dataclass(frozen=True, slots=True)
class MoDeps:
    """What the objects show and call.

    * `view()`: the tree as it is now; the objects need the tree, the tree needs the objects, hence a callable.
    * `new_id()`: an identifier that ties a job, its request and its result together.
    * `task_status`, `meters`: read-only views, called from the DM thread.
    * `order_progress(id)`: how far an order to meters is, as JSON text; empty for one that is not known.
    * `system_title()`: ours, as meters see it; empty while it is not known.
    * `push_url()`: where notifications reach this device now, empty for nowhere.
    * `compatible`: the hardware's name, which a firmware package must list.
    """

    device: DeviceInfo
    view: Callable[[], Transaction]
    new_id: Callable[[], str]
    task_status: Callable[[str], TaskStatus]
    meters: Callable[[], Sequence[MeterStatus]]
    system_title: Callable[[], bytes] = lambda: b""
    order_progress: Callable[[str], str] = lambda _order: ""
    push_url: Callable[[], str] = lambda: ""
    compatible: str = ""
    download: RunningDownload = field(default_factory=RunningDownload)


class DeviceObjects:
    """`registry` makes one tree of them; `device_info` is sent at the start of every session."""

    def __init__(self, deps: MoDeps) -> None:
        self.device_info = DevInfo(deps.device, deps.push_url)
        firmware = Fumo(deps.view, deps.new_id, deps.compatible, deps.download)
        software = Scomo(deps.view, deps.new_id)
        order = Order(deps.view, deps.new_id, deps.order_progress)
        objects = (
            self.device_info,
            DevDetail(deps.device),
            DmAcc(),
            Inbox(),
            Sched(deps.task_status),
            Ami(deps.meters, order.spec(), deps.system_title),
            firmware,
            software,
        )
        self.registry = Registry(objects, executables=(firmware, software, order))
