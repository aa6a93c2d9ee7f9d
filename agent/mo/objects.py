"""All management objects of this device, in one place: a new object is a module beside this one and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.jobs.firmware import RunningDownload
from agent.mo.ami import Ami, SecretGuard
from agent.mo.connectivity.connmo import AccountGuard, ConnMo, Means, UplinkGuard
from agent.mo.connectivity.trial import Values
from agent.mo.devdetail import DevDetail
from agent.mo.devinfo import DevInfo
from agent.mo.diagmon import DiagMon, Pictures
from agent.mo.dmacc import DmAcc, Inbox
from agent.mo.fumo import Fumo
from agent.mo.lawmo import Lawmo
from agent.mo.meters import Document, MeterRegistry, Meters, Networks
from agent.mo.order import Order
from agent.mo.registry import Registry
from agent.mo.sched import Sched
from agent.mo.scomo import Scomo
from agent.settings.device import DeviceInfo
from agent.settings.provisioning import TaskStatus
from agent.status import MeterStatus, ServiceStatus
from agent.tree.tree import Transaction


@dataclass(frozen=True, slots=True)
class MoDeps:
    """What the objects show and call.

    * `view()`: the tree as it is now; the objects need the tree, the tree needs the objects, hence a callable.
    * `new_id()`: an identifier that ties a job, its request and its result together.
    * `task_status`, `meters`, `meter_detail`, `meter_details`, `meters_not_added`, `networks`: read-only views, called
      from the DM thread.
    * `order_network`: has the base node of a port do something; raises `ValueError`.
    * `forget_meter`: forgets a meter by its id; returns whether there was one.
    * `order_progress(id)`: how far an order to meters is, as JSON text; empty for one that is not known.
    * `system_title()`: ours, as meters see it; empty while it is not known.
    * `push_url()`: where notifications reach this device now, empty for nowhere.
    * `services`, `service_log(id)`: the programs of active components, and what one printed last.
    * `compatible`: the hardware's name, which a firmware package must list.
    * `pictures`: what is told of the device as a whole.
    * `boot`: the id of this boot, empty where nothing tells one from the other.
    * `means`, `configured`, `trial_left_s`: see `agent.mo.connectivity.connmo.ConnMo`.
    """

    device: DeviceInfo
    view: Callable[[], Transaction]
    new_id: Callable[[], str]
    task_status: Callable[[str], TaskStatus]
    meters: Callable[[], Sequence[MeterStatus]]
    system_title: Callable[[], bytes] = lambda: b""
    meter_detail: Callable[[str], Document | None] = lambda _: None
    meter_details: Callable[[], Sequence[Document]] = lambda: ()
    meters_not_added: Callable[[], Mapping[str, str]] = dict
    networks: Callable[[], Sequence[Document]] = lambda: ()
    order_network: Callable[[str, Document], object] = lambda _port, _wanted: None
    forget_meter: Callable[[str], bool] = lambda _: False
    order_progress: Callable[[str], str] = lambda _order: ""
    push_url: Callable[[], str] = lambda: ""
    services: Callable[[], Sequence[ServiceStatus]] = lambda: ()
    service_log: Callable[[str], str] = lambda _id: ""
    compatible: str = ""
    download: RunningDownload = field(default_factory=RunningDownload)
    means: Means = field(default_factory=Means)
    configured: Values = field(default_factory=Values)
    trial_left_s: Callable[[], float] = lambda: 0.0
    boot: str = ""
    pictures: Pictures = field(default_factory=Pictures)


class DeviceObjects:
    """`registry` makes one tree of them; `device_info` is sent at the start of every session."""

    def __init__(self, deps: MoDeps) -> None:
        self.device_info = DevInfo(deps.device, deps.push_url)
        firmware = Fumo(deps.view, deps.new_id, deps.compatible, deps.download)
        software = Scomo(deps.view, deps.new_id, deps.services, deps.service_log)
        order = Order(deps.view, deps.new_id, deps.order_progress)
        networks = Networks(deps.networks, deps.order_network)
        meters = MeterRegistry(deps.forget_meter, deps.meter_details, deps.meters_not_added)
        connectivity = ConnMo(deps.view, deps.new_id, deps.means, deps.configured, deps.trial_left_s)
        diagnostics = DiagMon(deps.pictures)
        lawmo = Lawmo(deps.view, deps.new_id, deps.boot)
        guards = (AccountGuard(deps.view, deps.new_id), UplinkGuard(), SecretGuard())
        objects = (
            self.device_info,
            DevDetail(deps.device),
            DmAcc(),
            Inbox(),
            Sched(deps.task_status),
            Ami(
                (
                    Meters(deps.meters, deps.meter_detail).spec(),
                    meters.spec(),
                    networks.spec(),
                    order.spec(),
                ),
                deps.system_title,
            ),
            firmware,
            software,
            connectivity,
            lawmo,
            diagnostics,
        )
        executables = (firmware, software, order, meters, networks, connectivity, lawmo, diagnostics)
        self.registry = Registry(objects, executables, guards)
