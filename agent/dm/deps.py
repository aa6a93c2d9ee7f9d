"""What the DM client needs from the rest of the daemon, as values and callables that the composition root fills in.

Everything here is a port: the DM code imports no configuration file, no metering code and no supervisor.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agent.clock import Clock
from agent.settings.device import DeviceInfo
from agent.settings.provisioning import Provisioning, TaskStatus
from agent.status import MeterStatus, StatusBoard
from omadm.descriptor import DeltaSource, Descriptor
from updateagent.disk import Disk
from updateagent.package.manifest import Kind

if TYPE_CHECKING:
    from agent.https import Response
    from agent.ota.download import Downloaded, Progress

POLL_EVERY_S = 3600.0
DM_WBXML = "application/vnd.syncml.dm+wbxml"


class Worker(Protocol):
    """A thread of the daemon. It beats at least every `budget_s` seconds and returns only after `stop`."""

    name: str
    budget_s: float

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None: ...


class Https(Protocol):
    """The part of `agent.https.HttpsClient` that a DM session uses. Raises `agent.https.HttpsError`."""

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response: ...


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


@dataclass(frozen=True, slots=True)
class SoftwareResult:
    """Outcome of one operation on a software component. `scomo` is the SCOMO result code (1200 is success), `name` the
    Update Agent's name of the error."""

    scomo: int
    software_id: str = ""
    version: str = ""
    message: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class DeployedSoftware:
    """One installed software component, as the installer lists it."""

    software_id: str
    version: str
    active: bool
    name: str = ""


class Software(Protocol):
    """Operations on software components (`agent.ota.software_command.SoftwareCommand`). They report failure in the
    result.
    """

    def install(self, package: Path, *, activate: bool, beat: Callable[[], None]) -> SoftwareResult: ...
    def activate(self, software_id: str, beat: Callable[[], None]) -> SoftwareResult: ...
    def deactivate(self, software_id: str, beat: Callable[[], None]) -> SoftwareResult: ...
    def remove(self, software_id: str, beat: Callable[[], None]) -> SoftwareResult: ...
    def deployed(self) -> Sequence[DeployedSoftware] | None:
        """What is installed; `None` when that cannot be told."""


@dataclass(frozen=True, slots=True)
class DmConfig:
    """Fixed facts. `state_dir/dm` holds the tree and the nonces; `update_dir` is shared with the Update Agent.

    `boot_id` is the text that identifies this boot (`/proc/sys/kernel/random/boot_id`); it tells a restarted agent
    from a restarted board. `poll_every_s` is the longest time without a session; after a failure the next attempt is
    `backoff_min_s` away, doubling up to `backoff_max_s`. `compatible` is the hardware's name for packages. Where a
    delta cannot be used, a full package of at most `full_bytes_max` bytes is fetched in its place if
    `full_instead_of_delta`.
    """

    device: DeviceInfo
    state_dir: Path
    update_dir: Path
    boot_id: str
    poll_every_s: float = POLL_EVERY_S
    backoff_min_s: float = 5.0
    backoff_max_s: float = 3600.0
    content_type: str = DM_WBXML
    mac_algorithms: tuple[str, ...] = ("SHA-256",)
    compatible: str = ""
    full_instead_of_delta: bool = False
    full_bytes_max: int = 1 << 30


@dataclass(frozen=True, slots=True)
class DmPorts:
    """Everything else the DM client calls.

    * `register()`: one SSMP run; returns the bootstrap document, raises `SsmpRefused` or `SsmpError`.
    * `verify_package(path)`: raises `updateagent.package.manifest.PackageError`; writes nothing.
    * `check_sources(sources, beat)`: raises `DeltaUnfit` when the slot that runs is known not to hold these images.
    * `health(name, ok, detail)`: one health check result, for the Update Agent's trial boot.
    * `on_provisioning(p)`: called from the DM thread at start and after each change; must not block.
    * `software_changed()`: called from the package thread after the set of active software components changed.
    * `request_reboot()`: asks the supervisor to reboot the board; returns at once.
    * `task_status`, `meters`: read-only views for the tree, called from the DM thread.
    * `push_url()`: where notifications reach this device now, empty for nowhere; called from the DM thread.
    """

    https: Https
    disk: Disk
    clock: Clock
    board: StatusBoard
    fetcher: Fetcher
    software: Software
    register: Callable[[], bytes]
    verify_package: Callable[[Path], VerifiedPackage]
    health: Callable[[str, bool, str], None]
    on_provisioning: Callable[[Provisioning], None]
    task_status: Callable[[str], TaskStatus]
    meters: Callable[[], Sequence[MeterStatus]]
    request_reboot: Callable[[], None]
    software_changed: Callable[[], None] = lambda: None
    push_url: Callable[[], str] = lambda: ""
    check_sources: Callable[[Sequence[DeltaSource], Callable[[], None]], None] = lambda _sources, _beat: None
    rng: random.Random = field(default_factory=random.SystemRandom)
    entropy: Callable[[int], bytes] = os.urandom
