"""Stories of software packages (SCOMO) for the power cuts of `tests.updateagent.engine.power`: from the Exec to the
report.

Production code from end to end: the management object and its jobs, the durable tree with the pending alerts, the
Update Agent's installation and store, packages that are signed. Models are the disk, the line (a package is there when
it is fetched) and the server, which asks for one operation after the other and acknowledges what it hears.

Always:
* exactly the version that the story allows is active, and every version that has a name is whole;
* once the server has heard of success, what it asked for is so;
* the server hears of each operation exactly once, however often the power goes;
* it ends: no job, no alert, nothing half unpacked, no package left behind.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from agent.jobs import software
from agent.jobs.software import DeployedSoftware
from agent.mo.registry import Registry
from agent.mo.scomo import Scomo
from agent.ota.deps import NO_VERSIONS, OtaDeps, SoftwareResult
from agent.ota.download import Downloaded
from agent.ota.software_jobs import SoftwareJobs
from agent.tree import alerts
from agent.tree.persistence import ManagementTree
from agent.tree.schema import ExecCall
from agent.tree.tree import Transaction
from omadm.codes import Refusal
from tests.sim.faulty_disk import FaultyDisk
from tests.updateagent.package.signed import no_hooks
from tests.updateagent.packages import HARDWARE, NOW, Workshop, device, release, root
from updateagent.disk import Storage
from updateagent.engine.journal import Journal
from updateagent.engine.machine import State
from updateagent.errors import UpdateError
from updateagent.layout import version_order
from updateagent.package.manifest import Kind, Manifest, Role, verify_package
from updateagent.package.verifier import SignedPackages, VerifierDeps
from updateagent.software.install import install_software
from updateagent.software.store import SoftwareStore

BOARD = Path("/board")
FOLDER, UPDATE, DM = BOARD / "software", BOARD / "update", BOARD / "dm"
DOWNLOADS = UPDATE / "download"
LISTS = "lists"
URL = "https://packages.example/lists.swu"
LIVES_MAX = 40
TURNS_MAX = 6  # of the package worker in one life, before the power is switched off and on
TROUBLE_RESULTS = frozenset({1402, 1404, 1405, 1406, 1408, 1409, 1410, 1412})
NOTHING: frozenset[str | None] = frozenset({None})

Node = tuple[str, ...]
DOWNLOAD: Node = ("SCOMO", "Download", "x")
DELIVERED: Node = ("SCOMO", "Inventory", "Delivered", "x")
DEPLOYED: Node = ("SCOMO", "Inventory", "Deployed", LISTS)


def files(version: str) -> dict[str, bytes]:
    """The files of a version of the software."""
    return {"list.csv": f"list {version} ".encode() * 100, "sub/other.csv": f"other {version}".encode()}


@dataclass(frozen=True)
class Step:
    """One Exec: the node, the result that the server must hear, and the versions that may be active from its Exec on
    and when it has succeeded (`None`: no version)."""

    node: Node
    result: int = software.SUCCESS
    meanwhile: frozenset[str | None] = NOTHING
    then: str | None = None
    in_trouble: frozenset[str | None] = frozenset()
    """What may be active as well where the disk fails: nothing, where there was no way back."""


@dataclass(frozen=True)
class SoftwareStory:
    """What is installed at first (the last one is active), the package on the line, and what the server asks for."""

    name: str
    package: bytes = field(repr=False)
    installed: tuple[tuple[str, bytes], ...] = field(repr=False)
    steps: tuple[Step, ...] = ()
    damage: bool = False
    """One file of the active version is damaged at first."""
    sick: frozenset[str] = frozenset()
    """Versions whose service does not get ready."""
    pem: Path = Path()
    make_store: Callable[[Storage, Path], SoftwareStore] = SoftwareStore
    make_jobs: Callable[..., SoftwareJobs] = SoftwareJobs
    make_disk: Callable[[], FaultyDisk] = FaultyDisk

    def begin(self) -> SoftwareWorld:
        """The device as it is when the first Exec comes."""
        disk = self.make_disk()
        for folder in (FOLDER, DM, DOWNLOADS):
            disk.mkdir_durable(folder)
        for version, raw in self.installed:
            disk.write_durable(DOWNLOADS / "first.swu", raw)
            self.installer(disk).install(DOWNLOADS / "first.swu", activate=True, beat=_nothing)
            assert SoftwareStore(disk, FOLDER).active_version(LISTS) == version
        disk.remove_durable(DOWNLOADS / "first.swu")
        if self.damage:
            disk.write_durable(FOLDER / LISTS / self.installed[-1][0] / "list.csv", b"damaged")
        one = Device(self, disk)
        one.jobs.refresh()
        one.add_download_node()
        disk.sync_all()
        disk.operations = 0
        return SoftwareWorld(self, disk)

    def installer(self, disk: Storage) -> Installer:
        return Installer(self, disk)


@dataclass(frozen=True)
class Installer:
    """`dcu-update software …`, in this process: what `agent.ota.update_command.SoftwareCommand` runs as a child."""

    story: SoftwareStory
    disk: Storage

    def install(self, package: Path, *, activate: bool, beat: Callable[[], None]) -> SoftwareResult:
        packages = SignedPackages(
            VerifierDeps(
                disk=self.disk,
                roots=self.story.pem,
                newer_roots=UPDATE / "roots.json",
                compatible=HARDWARE,
                partitions={},
                running_version="1",
                clock=lambda: float(NOW),
                run_hook=no_hooks,
            )
        )
        journal = Journal(self.disk, UPDATE)

        def work() -> tuple[str, str]:
            manifest = install_software(self.store, journal, packages, package, activate=activate)
            return manifest.software_id, manifest.version

        return _answer(work)

    def activate(self, software_id: str, beat: Callable[[], None], version: str = "") -> SoftwareResult:
        return _answer(lambda: (software_id, self.store.activate(software_id, version or None)))

    def deactivate(self, software_id: str, beat: Callable[[], None]) -> SoftwareResult:
        def work() -> tuple[str, str]:
            self.store.deactivate(software_id)
            return software_id, ""

        return _answer(work)

    def remove(self, software_id: str, beat: Callable[[], None]) -> SoftwareResult:
        def work() -> tuple[str, str]:
            self.store.remove(software_id)
            return software_id, ""

        return _answer(work)

    def newest(self, software_id: str, but: str = "") -> str:
        found = [one.version for one in self.store.installed()]
        return max([one for one in found if one != but] or found, key=version_order, default="")

    def deployed(self, but: Mapping[str, str] = NO_VERSIONS) -> Sequence[DeployedSoftware] | None:
        found = [DeployedSoftware(one.id, one.version, one.active) for one in self.store.installed()]
        well = [one for one in found if one.version != but.get(one.software_id)] or found
        return [one for one in found if one.active] or well[-1:]

    @property
    def store(self) -> SoftwareStore:
        return self.story.make_store(self.disk, FOLDER)


def _answer(work: Callable[[], tuple[str, str]]) -> SoftwareResult:
    try:
        software_id, version = work()
    except UpdateError as error:
        return SoftwareResult(error.scomo, message=error.message, name=error.name)
    return SoftwareResult(software.SUCCESS, software_id, version)


def _nothing() -> None:
    """No beat."""


class Line:
    """Has the package there when it is asked for."""

    def __init__(self, disk: Storage, content: bytes) -> None:
        self._disk = disk
        self._content = content

    def fetch(self, url: str, into: Path, **_: Any) -> Downloaded:
        if not self._disk.exists(into):
            self._disk.write_durable(into, self._content)
        return Downloaded(into, len(self._content), "", len(self._content), 0, "", None)

    def discard(self, into: Path) -> None:
        self._disk.remove_durable(into)


class Device:
    """The agent's part between two power cuts."""

    def __init__(self, story: SoftwareStory, disk: FaultyDisk) -> None:
        self.story = story
        self.disk = disk
        self.objects = Scomo(self._view, lambda: f"job-{disk.operations}")
        self.registry = Registry([self.objects], [self.objects])
        self.tree = ManagementTree(self.registry.schema, disk, DM, lambda: float(NOW))
        settle = lambda _software, version, _beat: "does not run" if version in story.sick else ""  # noqa: E731
        line, installer = Line(disk, story.package), story.installer(disk)
        deps = _Deps(self.tree, disk, line, installer, self.verify, settle=settle)
        self.jobs = story.make_jobs(cast("OtaDeps", deps), DOWNLOADS)

    def _view(self) -> Transaction:
        return self.tree.view()  # the object needs the tree, the tree needs the object

    def verify(self, package: Path) -> Manifest:
        with self.disk.open_raw(package) as file:
            return verify_package(file, device())

    def add_download_node(self) -> None:
        with self.tree.transaction() as changing:
            changing.put((*DOWNLOAD, "PkgID"), LISTS)
            changing.put((*DOWNLOAD, "PkgURL"), URL)

    def execute(self, node: Node, correlator: str) -> None:
        with self.tree.transaction() as changing:
            self.registry.execute(changing, ExecCall(node, correlator, ""))

    def acknowledge(self, alert: alerts.GenericAlert) -> None:
        with self.tree.transaction() as changing:
            alerts.take(changing, alert.id)


@dataclass(frozen=True)
class _Deps:
    """The part of `OtaDeps` that software jobs use."""

    tree: ManagementTree
    disk: Storage
    fetcher: Line
    software: Installer
    verify_package: Callable[[Path], Manifest]
    software_changed: Callable[[], None] = _nothing
    software_mark: Callable[[], object] = _nothing
    software_problem: Callable[[str, str], str] = lambda _software, _version: ""
    on_alert: Callable[[], None] = _nothing
    settle: Callable[[str, str, object], str] = lambda _software, _version, _beat: ""


@dataclass
class SoftwareWorld:
    """The device's disk, and the server, which remembers."""

    story: SoftwareStory
    disk: FaultyDisk
    step: int = 0
    """The operation that the server waits for; all before it were reported."""
    asked: bool = False
    """The device has answered the Exec of this step."""
    heard: dict[str, int] = field(default_factory=dict)
    """Results by correlator."""
    forgotten: frozenset[str] = frozenset()
    """Correlators whose alert the device has removed for good, after the server had acknowledged it."""
    active: frozenset[str | None] = NOTHING
    """What may be active now."""
    trouble_allowed: bool = False
    in_boot_loader: bool = False
    lives: int = 0
    troubled: int = 0
    ended: bool = False

    def __post_init__(self) -> None:
        if self.story.installed and not self.lives:
            self.active = frozenset({self.story.installed[-1][0]})

    def copy(self, disk: FaultyDisk) -> SoftwareWorld:
        made = replace(self, disk=disk, heard=dict(self.heard))
        made.active = self.active
        return made

    def expect_trouble(self) -> None:
        """From now on operations may fail, and say so."""
        self.trouble_allowed = True

    def state(self, disk: FaultyDisk) -> State | None:
        """None: the Update Agent's machine has no part in software packages."""
        return None

    def resumes(self, disk: FaultyDisk) -> bool:
        """Files are unpacked again from the beginning."""
        return False

    def play(self) -> None:
        """Lives, one after the other, to the end of the story. Raises `Violation`, or `PowerCut`."""
        while not self.ended:
            self.lives += 1
            if self.lives > LIVES_MAX:
                raise _violation(f"no end after {LIVES_MAX} starts, at step {self.step}")
            self._live()
        self._check_end()

    def _live(self) -> None:
        self.check_files()
        try:
            one = Device(self.story, self.disk)
        except OSError:
            return
        refreshed = False
        for _ in range(TURNS_MAX):
            try:
                if not refreshed:  # what the worker does first
                    one.jobs.refresh()
                    refreshed = True
                self._turn(one)
            except (OSError, Refusal):  # the worker tries again later
                continue
            self.check_files()
            if self.step == len(self.story.steps):
                self.ended = True
                return

    def _turn(self, one: Device) -> None:
        """A session, then the package worker."""
        self._session(one)
        one.jobs.step(threading.Event(), _nothing)

    def _session(self, one: Device) -> None:
        for alert in alerts.pending(one.tree.view()):
            self._hear(alert)
            one.acknowledge(alert)
            self.forgotten |= {alert.correlator}
        if self.step == len(self.story.steps):
            return
        wanted = self.story.steps[self.step]
        if not self.asked:
            # A device whose answer was lost is asked again, with the same correlator.
            self.active |= wanted.meanwhile | {wanted.then}
            one.execute(wanted.node, self._correlator)
            self.asked = True

    @property
    def _correlator(self) -> str:
        return f"step-{self.step}"

    def _hear(self, alert: alerts.GenericAlert) -> None:
        code = int(alert.data.partition("<ResultCode>")[2].partition("</ResultCode>")[0])
        if alert.correlator in self.forgotten:
            raise _violation(f"{alert.correlator}: a second report, after the server had acknowledged the first")
        known = self.heard.get(alert.correlator)
        if known is not None:
            if known != code:
                raise _violation(f"{alert.correlator}: reported {known}, and now {code}")
            return
        if alert.correlator != self._correlator or not self.asked:
            raise _violation(f"a report of {alert.correlator} at step {self.step}")
        wanted = self.story.steps[self.step]
        failed_for_trouble = self.trouble_allowed and code in TROUBLE_RESULTS
        if code != wanted.result and not failed_for_trouble:
            raise _violation(f"{wanted.node[-1]} ended with {code}")
        self.heard[alert.correlator] = code
        if not failed_for_trouble:
            self.active = frozenset({wanted.then})
        self.step = len(self.story.steps) if failed_for_trouble else self.step + 1  # the operator looks into it
        self.asked = False

    def check_files(self) -> None:
        """What must hold of the folders, whenever anybody looks."""
        store = SoftwareStore(self.disk, FOLDER)
        found = store.active_version(LISTS)
        degraded = self.story.steps[min(self.step, len(self.story.steps) - 1)].in_trouble
        if found not in self.active | (degraded if self.trouble_allowed else frozenset()):
            raise _violation(f"version {found} is active, {sorted(map(str, self.active))} may be")
        for one in store.installed():
            if not (self.story.damage and one.version == self.story.installed[-1][0]):
                self._check_version(one.version)

    def _check_version(self, version: str) -> None:
        for name, content in files(version).items():
            try:
                folder = SoftwareStore(self.disk, FOLDER).folder(LISTS, version)
                whole = self.disk.read_bytes(folder / name) == content
            except FileNotFoundError:
                whole = False
            if not whole:
                raise _violation(f"version {version} has a name, and its {name} is not whole")

    def _check_end(self) -> None:
        one = Device(self.story, self.disk)
        if software.jobs(one.tree.view()) or alerts.pending(one.tree.view()):
            raise _violation("a job or an alert is left")
        if self.trouble_allowed:
            return
        left = [name for name in self.disk.listdir(DOWNLOADS) if not name.startswith(".")]
        delivered = self.story.steps[-1].node[:3] == DELIVERED[:3] or len(self.story.steps) == 1
        if left and delivered:
            raise _violation(f"packages are left: {left}")
        homes = self.disk.listdir(FOLDER / LISTS)
        if any(name.startswith(".") for name in homes):
            raise _violation(f"half unpacked versions are left: {homes}")
        counts = Counter(code for code in self.heard.values())
        if counts.total() != len(self.story.steps):
            raise _violation(f"{counts.total()} reports of {len(self.story.steps)} operations")
        active = SoftwareStore(self.disk, FOLDER).active_version(LISTS)
        if active is not None and files(active)["list.csv"] != self.disk.read_bytes(FOLDER / "active/lists/list.csv"):
            raise _violation("what is active at the end is damaged")


def _violation(text: str) -> AssertionError:
    from tests.updateagent.engine.power import Violation

    return Violation(text)


@cache
def _package(folder: Path, version: str) -> bytes:
    shop = Workshop(folder)
    images = [shop.image(name, content, Role.FILE) for name, content in files(version).items()]
    said = release(kind=Kind.SOFTWARE, software_id=LISTS, version=version, security_version=int(version))
    return shop.build(images, said)


def software_stories(folder: Path) -> list[SoftwareStory]:
    """The stories; `folder` is a real one, for keys and for building."""
    from tests.updateagent.package.signed import pem

    roots = folder / "software-roots.pem"
    roots.write_bytes(pem(root()))
    one, two, three = (_package(folder, version) for version in "123")
    before = (("1", one), ("2", two))
    at = three.index(files("3")["list.csv"]) + 100
    bad = three[:at] + bytes([three[at] ^ 1]) + three[at + 1 :]
    install = (*DOWNLOAD, "Operations", "DownloadInstall")
    sick, either, first = frozenset({"3"}), frozenset({"2", "3"}), frozenset({None, "3"})

    def story(name: str, package: bytes, installed: tuple[tuple[str, bytes], ...], *steps: Step, **more: Any) -> Any:
        return SoftwareStory(f"software, {name}", package, installed, steps, pem=roots, **more)

    return [
        story("first", three, (), Step(install, then="3")),
        story("update", three, before, Step(install, meanwhile=frozenset({"2"}), then="3")),
        story("one byte changed", bad, before, Step(install, result=1407, then="2")),
        story(
            "does not run",
            three,
            before,
            Step(install, result=1450, meanwhile=either, then="2", in_trouble=NOTHING),
            sick=sick,
        ),
        story("first one does not run", three, (), Step(install, result=1409, meanwhile=first), sick=sick),
        story("remove", three, before, Step((*DEPLOYED, "Operations", "Remove"), meanwhile=frozenset({"2"}))),
        story("repair", two, before, Step(install, meanwhile=frozenset({"2"}), then="2"), damage=True),
        story(
            "step by step",
            three,
            before,
            Step((*DOWNLOAD, "Operations", "Download"), then="2"),
            Step((*DELIVERED, "Operations", "InstallInactive"), then="2"),
            Step((*DEPLOYED, "Operations", "Activate"), meanwhile=frozenset({"2"}), then="3"),
            Step((*DEPLOYED, "Operations", "Deactivate"), meanwhile=frozenset({"3"}), then=None),
            Step((*DEPLOYED, "Operations", "Remove"), then=None),
            Step((*DELIVERED, "Operations", "Remove"), then=None),
        ),
    ]
