"""A device for tests: `DmService` and `PackageWorker` over a disk in memory, with fakes behind every dependency."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.dm.deps import DmConfig, DmDeps, Https
from agent.dm.service import DmService
from agent.dm.trial import Network, NoNetwork
from agent.jobs.firmware import RunningDownload
from agent.jobs.software import DeployedSoftware
from agent.mo.diagmon import Pictures
from agent.mo.objects import DeviceObjects, MoDeps
from agent.ota.deltas import FullPolicy
from agent.ota.deps import NO_VERSIONS, OtaConfig, OtaDeps, SignedSource, SoftwareResult
from agent.ota.download import Downloaded, Progress
from agent.ota.worker import PackageWorker
from agent.settings.device import DeviceInfo
from agent.settings.provisioning import Provisioning, TaskStatus
from agent.status import MeterStatus, Status, StatusBoard
from agent.tree.persistence import ManagementTree
from agent.tree.tree import Transaction
from omadm.descriptor import DeltaSource, Descriptor
from tests.agent.dm.server import DEVICE_ID, PROFILE, FakeDmServer
from tests.agent.virtual import VirtualClock
from tests.sim.faulty_disk import FaultyDisk
from updateagent.disk import Storage
from updateagent.package.manifest import Kind

STATE = Path("/state")
UPDATE = Path("/update")
COMPATIBLE = "dcu-a1"
DEVICE = DeviceInfo(DEVICE_ID, man="Maker", mod="DCU-1", hw_version="hw1", fw_version="1", sw_version="1.0")


@dataclass(frozen=True, slots=True)
class FakeManifest:
    kind: Kind = Kind.FIRMWARE
    software_id: str = ""
    version: str = "2"
    deltas: Mapping[str, SignedSource] = field(default_factory=dict)


class FakeFetcher:
    """`errors` are raised first, one a call; then `content` is stored. A URL in `descriptors` has one."""

    def __init__(self, disk: Storage) -> None:
        self.disk = disk
        self.content = b"package"
        self.errors: list[Exception] = []
        self.urls: list[str] = []
        self.during: Callable[[], None] = lambda: None
        self.descriptors: dict[str, Descriptor] = {}

    def fetch(
        self,
        url: str,
        into: Path,
        *,
        progress: Callable[[Progress], None],
        stop: threading.Event,
        beat: Callable[[], None],
        accept: Callable[[Descriptor], None] = lambda _: None,
        bytes_max: int | None = None,
    ) -> Downloaded:
        self.urls.append(url)
        descriptor = self.descriptors.get(url)
        if descriptor is not None:
            accept(descriptor)
        progress(Progress(3, 7, 3, 1))
        beat()
        self.during()
        if self.errors:
            raise self.errors.pop(0)
        self.disk.write_durable(into, self.content)
        return Downloaded(into, len(self.content), "", len(self.content), 2, "application/octet-stream", descriptor)

    def discard(self, into: Path) -> None:
        self.disk.remove_durable(into)


class FakeSoftware:
    """An installer in memory."""

    def __init__(self) -> None:
        self.components: dict[str, DeployedSoftware] = {}
        self.installs = "lists"
        self.fail: int | None = None
        self.calls: list[str] = []
        self.version = "1"  # of the package that is installed next
        self.latest = ""  # the newest installed one, where that is not the active one
        self.but: dict[str, str] = {}  # by component what stands for it only where there is no other
        self.refuses: set[str] = set()  # versions that must not be active again

    def install(self, package: Path, *, activate: bool, beat: Callable[[], None]) -> SoftwareResult:
        self.calls.append(f"install {package.name}")
        if self.fail is not None:
            return SoftwareResult(self.fail, message="told to fail")
        known = self.components.get(self.installs)
        if known is None or not known.active:
            self.components[self.installs] = DeployedSoftware(self.installs, self.version, active=False)
        return SoftwareResult(1200, self.installs, self.version)

    def _set(self, software_id: str, *, active: bool, version: str = "") -> SoftwareResult:
        known = self.components[software_id]
        self.components[software_id] = DeployedSoftware(software_id, version or known.version, active)
        return SoftwareResult(1200, software_id, version or known.version)

    def activate(self, software_id: str, beat: Callable[[], None], version: str = "") -> SoftwareResult:
        self.calls.append(f"activate {software_id} {version}")
        if version in self.refuses:
            return SoftwareResult(1413, software_id, message="below the floor")
        return self._set(software_id, active=True, version=version)

    def deactivate(self, software_id: str, beat: Callable[[], None]) -> SoftwareResult:
        self.calls.append(f"deactivate {software_id}")
        return self._set(software_id, active=False)

    def remove(self, software_id: str, beat: Callable[[], None]) -> SoftwareResult:
        del self.components[software_id]
        return SoftwareResult(1200, software_id)

    def deployed(self, but: Mapping[str, str] = NO_VERSIONS) -> Sequence[DeployedSoftware]:
        self.but = dict(but)
        return tuple(self.components.values())

    def newest(self, software_id: str, but: str = "") -> str:
        return self.latest or (self.components[software_id].version if software_id in self.components else "")


@dataclass
class Device:
    """Built anew by `restart`; everything durable is in `disk`."""

    server: FakeDmServer
    disk: FaultyDisk = field(default_factory=FaultyDisk)
    clock: VirtualClock = field(default_factory=VirtualClock)
    boot_id: str = "boot 1"
    profile: bytes | Exception = PROFILE
    content_type: str = "application/vnd.syncml.dm+wbxml"
    algorithms: tuple[str, ...] = ("SHA-256",)
    auth_types: tuple[str, ...] = ("HMAC",)
    standard_notifications: bool = False
    other: Https | None = None  # a server of another make, in the place of `server`
    on_commands: Callable[[], None] = lambda: None
    meters: list[MeterStatus] = field(default_factory=list)
    meter_details: dict[str, Mapping[str, object]] = field(default_factory=dict)
    networks: list[Mapping[str, object]] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    network_orders: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)
    provisioned: list[Provisioning] = field(default_factory=list)
    health: list[tuple[str, bool, str]] = field(default_factory=list)
    reboots: int = 0
    push_url: str = ""
    registrations: int = 0
    held: list[bytes] = field(default_factory=list)
    manifest: FakeManifest | Exception = field(default_factory=FakeManifest)
    full_instead_of_delta: bool = False
    full_bytes_max: int = 1 << 30
    check_sources: Callable[[Sequence[DeltaSource]], None] = lambda _: None
    software_problem: Callable[[str, str], str] = lambda _id, _version: ""
    software_changes: list[int] = field(default_factory=list)
    network: Network = field(default_factory=NoNetwork)
    told: list[tuple[float, float, float]] = field(default_factory=list)  # times that the server told, sent, received
    doubts: bool = False  # a certificate was refused for its time
    ask_time: Callable[[], None] | None = None
    pictures: Pictures = field(default_factory=Pictures)
    service_outcome: Callable[[str, str], str | None] = lambda _id, _version: ""
    renewal_due: Callable[[], bool] = lambda: False
    registrar: Callable[[bytes], bytes] | None = None  # in the place of `profile`

    def __post_init__(self) -> None:
        self.board = StatusBoard(Status())
        self.software = FakeSoftware()
        self.on_health: Callable[[], None] = lambda: None
        self.stop = threading.Event()
        self.restart()

    def restart(self, *, boot_id: str | None = None, disk: FaultyDisk | None = None) -> None:
        self.boot_id = boot_id or self.boot_id
        self.disk = disk or self.disk
        self.fetcher = FakeFetcher(self.disk)
        https: Https = self.other or self.server
        download = RunningDownload()
        self.objects = DeviceObjects(
            MoDeps(
                device=DEVICE,
                view=self._view,
                new_id=lambda: str(uuid.uuid4()),
                task_status=lambda task_id: TaskStatus("idle", last_run=1, next_run=2, last_result=f"of {task_id}"),
                meters=lambda: self.meters,
                meter_detail=self.meter_details.get,
                meter_details=lambda: list(self.meter_details.values()),
                networks=lambda: self.networks,
                order_network=self.order_network,
                forget_meter=self.forget_meter,
                push_url=lambda: self.push_url,
                compatible=COMPATIBLE,
                download=download,
                boot=self.boot_id,
                pictures=self.pictures,
                trial_left_s=lambda: self.service.trial.left_s(),  # noqa: PLW0108 - there is no service yet
            )
        )
        self.tree = ManagementTree(self.objects.registry.schema, self.disk, STATE / "dm", self.clock.wall)
        config = DmConfig(
            DEVICE_ID,
            STATE,
            content_type=self.content_type,
            mac_algorithms=self.algorithms,
            auth_types=self.auth_types,
            standard_notifications=self.standard_notifications,
            boot_id=self.boot_id,
        )
        deps = DmDeps(
            tree=self.tree,
            objects=self.objects,
            https=https,
            disk=self.disk,
            clock=self.clock,
            board=self.board,
            register=self._register,
            health=self._health,
            on_provisioning=self.provisioned.append,
            on_commands=lambda: self.on_commands(),  # noqa: PLW0108 - a test sets another
            request_reboot=self._reboot,
            push_url=lambda: self.push_url,
            network=self.network,
            time_told=lambda told, sent, received, _valid: self.told.append((told, sent, received)),
            time_doubted=self._doubted,
            ask_time=self.ask_time,
            renewal_due=lambda: self.renewal_due(),  # noqa: PLW0108 - a test sets another
            rng=random.Random(1),
            entropy=random.Random(2).randbytes,
        )
        self.service = DmService(config, deps)
        packages = OtaDeps(
            tree=self.tree,
            disk=self.disk,
            clock=self.clock,
            board=self.board,
            fetcher=self.fetcher,
            software=self.software,
            verify_package=self._verify,
            on_alert=self.service.report_alerts,
            on_reboot=self.service.reboot,
            check_sources=lambda sources, _: self.check_sources(sources),
            software_changed=lambda: self.software_changes.append(1),
            software_problem=self._software_problem,
            software_mark=lambda: tuple(self.software.components.values()),
            settle=lambda software_id, version, _beat: self.service_outcome(software_id, version),
            download=download,
        )
        full = FullPolicy(self.full_instead_of_delta, self.full_bytes_max)
        self.packages = PackageWorker(OtaConfig(UPDATE, self.boot_id, DEVICE.known_fw_version, full), packages)
        self.disk.mkdir_durable(UPDATE / "outbox")

    def _doubted(self) -> bool:
        doubts, self.doubts = self.doubts, False
        return doubts

    def _software_problem(self, software_id: str, version: str) -> str:
        return self.software_problem(software_id, version)

    def order_network(self, port: str, wanted: Mapping[str, object]) -> None:
        if "kind" not in wanted:
            raise ValueError("no kind")
        self.network_orders.append((port, wanted))

    def forget_meter(self, meter_id: str) -> bool:
        self.forgotten.append(meter_id)
        return meter_id in self.meter_details

    def _view(self) -> Transaction:
        return self.tree.view()

    def _register(self, held: bytes) -> bytes:
        self.registrations += 1
        self.held.append(held)
        if self.registrar is not None:
            return self.registrar(held)
        if isinstance(self.profile, Exception):
            raise self.profile
        return self.profile

    def _verify(self, path: Path) -> FakeManifest:
        assert self.disk.exists(path)
        if isinstance(self.manifest, Exception):
            raise self.manifest
        return self.manifest

    def _health(self, name: str, ok: bool, detail: str) -> None:
        self.health.append((name, ok, detail))
        self.on_health()

    def _reboot(self) -> None:
        self.reboots += 1

    def beat(self) -> None:
        """Nobody watches."""

    def turn(self) -> None:
        """One turn of the DM worker."""
        self.service.step(self.stop, self.beat)

    def work(self) -> None:
        """One turn of the package worker."""
        self.packages.step(self.stop, self.beat)

    def settle(self, boot: Callable[[], None], turns: int) -> None:
        """Both workers in turn, with a boot whenever one is asked for, until nothing moves any more."""
        reboots = self.reboots
        for _ in range(turns):
            self.work()
            self.turn()
            if self.reboots > reboots:
                reboots = self.reboots
                boot()
            self.clock.advance(60)

    def registered(self) -> Device:
        """Register, and hold the first session, in which the server asks for nothing."""
        self.turn()
        packages, self.server.packages = self.server.packages, []
        self.turn()
        self.server.new_session(*packages)
        return self

    def session(self, *packages: Sequence[object], trigger: str = "user") -> None:
        """One session in which the server sends `packages`."""
        self.server.new_session(*packages)  # type: ignore[arg-type]
        self.service.session_now(trigger)
        self.turn()

    @property
    def last_result(self) -> str:
        last = self.board.current.dm.last_session
        return last.result if last else ""
