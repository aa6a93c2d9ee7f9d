"""What package jobs need from the rest of the daemon, as values and callables that the composition root fills in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agent.clock import Clock
from agent.jobs.firmware import RunningDownload
from agent.jobs.software import DeployedSoftware
from agent.ota.deltas import FullPolicy, SourceCheck
from agent.status import StatusBoard
from agent.tree.persistence import ManagementTree
from omadm.descriptor import Descriptor
from updateagent.disk import Disk

if TYPE_CHECKING:
    from agent.ota.download import Downloaded, Progress
    from updateagent.package.description import Kind


class Fetcher(Protocol):
    """The part of `agent.ota.download.Downloader` that package jobs use. Raises `DownloadError`."""

    def fetch(
        self,
        url: str,
        into: Path,
        *,
        progress: Callable[[Progress], None],
        stop: threading.Event,
        beat: Callable[[], None],
        accept: Callable[[Descriptor], None] = ...,
        bytes_max: int | None = None,
    ) -> Downloaded: ...

    def discard(self, into: Path) -> None:
        """Forget a finished or abandoned download: the file and its state."""


class SignedSource(Protocol):
    """What a signed description says of the image that a delta was made from."""

    @property
    def version(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def root(self) -> bytes: ...


class VerifiedPackage(Protocol):
    """What a package job reads of a verified `updateagent.package.manifest.Manifest`."""

    @property
    def kind(self) -> Kind: ...
    @property
    def software_id(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def deltas(self) -> Mapping[str, SignedSource]:
        """The images that come as patches, by name, with what each was made from."""


NO_VERSIONS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class SoftwareResult:
    """Outcome of one operation on a software component. `scomo` is the SCOMO result code (1200 is success), `name` the
    Update Agent's name of the error."""

    scomo: int
    software_id: str = ""
    version: str = ""
    message: str = ""
    name: str = ""


class Software(Protocol):
    """Operations on software components (`agent.ota.update_command.SoftwareCommand`). They report failure in the
    result."""

    def install(self, package: Path, *, activate: bool, beat: Callable[[], None]) -> SoftwareResult: ...
    def activate(self, software_id: str, beat: Callable[[], None], version: str = "") -> SoftwareResult:
        """Without a `version` the newest one that is installed."""

    def deactivate(self, software_id: str, beat: Callable[[], None]) -> SoftwareResult: ...
    def remove(self, software_id: str, beat: Callable[[], None]) -> SoftwareResult: ...
    def deployed(self, but: Mapping[str, str] = NO_VERSIONS) -> Sequence[DeployedSoftware] | None:
        """One entry per installed component: its active version, else the newest. `None` when that cannot be told.
        `but`: by component a version that counts only where there is no other."""

    def newest(self, software_id: str, but: str = "") -> str:
        """The newest version that is installed; empty where there is none, or where that cannot be told. `but`: one
        that counts only where there is no other."""


@dataclass(frozen=True, slots=True)
class OtaConfig:
    """Fixed facts. `update_dir` is shared with the Update Agent.

    `boot_id` is the text that identifies this boot (`/proc/sys/kernel/random/boot_id`); it tells a restarted agent
    from a restarted board. `fw_version` is the firmware that runs, empty where it is not known. `full` says whether a
    full package may be fetched where a delta cannot be used.
    """

    update_dir: Path
    boot_id: str
    fw_version: str = ""
    full: FullPolicy = field(default_factory=FullPolicy)


@dataclass(frozen=True, slots=True)
class OtaDeps:
    """Everything else that package jobs call. All of it is called from the package thread.

    * `tree`: where FUMO and SCOMO have recorded the jobs, and where results and alerts go.
    * `verify_package(path)`: raises `updateagent.package.manifest.PackageError`; writes nothing.
    * `on_alert()`: an alert was queued; `on_reboot()`: the Update Agent has work. Both return at once.
    * `check_sources(sources, beat)`: raises `DeltaUnfit` when the slot that runs is known not to hold these images.
    * `software_changed()`: the set of active software components changed.
    * `software_problem(id, version)`: why an installed version must not become active; empty for nothing.
    * `settle(id, version, beat)`: waits until what that version has to run is ready, or, without a version, until
      nothing of it runs; returns why it does not get ready, empty for success, `None` for not known,
      because the agent ends.
    * `software_mark()`: differs from its last value when somebody changed which versions are active.
    """

    tree: ManagementTree
    disk: Disk
    clock: Clock
    board: StatusBoard
    fetcher: Fetcher
    software: Software
    verify_package: Callable[[Path], VerifiedPackage]
    on_alert: Callable[[], None]
    on_reboot: Callable[[], None]
    check_sources: SourceCheck = lambda _sources, _beat: None
    software_changed: Callable[[], None] = lambda: None
    software_problem: Callable[[str, str], str] = lambda _id, _version: ""
    software_mark: Callable[[], object] = lambda: None
    settle: Callable[[str, str, Callable[[], None]], str | None] = lambda _id, _version, _beat: ""
    download: RunningDownload = field(default_factory=RunningDownload)
