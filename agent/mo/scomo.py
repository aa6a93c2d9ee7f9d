"""SCOMO, `urn:oma:mo:oma-scomo:1.0` (OMA-TS-DM-SCOMO 1.0): software components.

As with FUMO, an Exec records a job and is answered 202; `agent.ota.worker` carries jobs out, one at a time and in
order, and ends each in one transaction: the job goes, the inventory changes, the generic alert is queued.

    Download/<x>    made by a server: what to fetch; Exec on its Operations
    Delivered/<x>   fetched, verified, not installed
    Deployed/<id>   installed, active or not
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum

from agent.dm.deps import DeployedSoftware
from agent.mo.ami import node_name
from agent.tree import alerts
from agent.tree.schema import (
    AGRD,
    GE,
    Access,
    ExecCall,
    Format,
    NodeSpec,
    Path,
    group,
    https_url,
    interior,
    live,
    setting,
)
from agent.tree.tree import Transaction
from agent.tree.uri import show
from omadm.codes import Code, Refusal

URN = "urn:oma:mo:oma-scomo:1.0"
ROOT: Path = ("SCOMO",)
DOWNLOAD: Path = ("SCOMO", "Download")
DELIVERED: Path = ("SCOMO", "Inventory", "Delivered")
DEPLOYED: Path = ("SCOMO", "Inventory", "Deployed")
RECORD = "scomo"
JOBS_MAX = 16
COMPONENTS_MAX = 64

SUCCESS = 1200
DEPLOYED_INACTIVE, DEPLOYED_ACTIVE = "10", "20"
DELIVERED_STATE, INSTALLED_STATE = "10", "20"


class DownloadStatus(IntEnum):
    """Download/<x>/Status (SCOMO 1.0, section 6.2)."""

    IDLE = 10
    DOWNLOAD_FAILED = 20
    PROGRESSING = 30
    COMPLETE = 40
    INSTALLING = 50
    INSTALL_FAILED = 60
    INSTALL_FAILED_WITH_DATA = 70


OPERATIONS: Mapping[str, Sequence[str]] = {
    "Download": ("Download", "DownloadInstall", "DownloadInstallInactive"),
    "Delivered": ("Install", "InstallInactive", "Remove"),
    "Deployed": ("Activate", "Deactivate", "Remove"),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One accepted Exec. `kind` says in which part of the object, `name` on which component; `software_id` is that of
    an installed one, for when a removal that was cut is taken up again and the node is gone."""

    id: str
    operation: str
    kind: str
    name: str
    url: str
    correlator: str
    software_id: str = ""

    @property
    def base(self) -> Path:
        return (*{"Download": DOWNLOAD, "Delivered": DELIVERED, "Deployed": DEPLOYED}[self.kind], self.name)


def jobs(looking: Transaction) -> tuple[Job, ...]:
    entries = looking.record(RECORD).get("jobs", [])
    known = set(Job.__slots__)
    return tuple(Job(**entry) for entry in entries if known - {"software_id"} <= set(entry) <= known)


def status_of(looking: Transaction, name: str) -> int:
    found = looking.record(RECORD).get("status", {}).get(name, DownloadStatus.IDLE)
    return int(found)


def set_status(changing: Transaction, name: str, status: DownloadStatus) -> None:
    record = changing.record(RECORD)
    known = {key: value for key, value in record.get("status", {}).items() if changing.find((*DOWNLOAD, key))}
    changing.set_record(RECORD, {**record, "status": {**known, name: int(status)}})


def update_job(changing: Transaction, job: Job) -> None:
    """Store a changed job, if it is still wanted."""
    _set_jobs(changing, [job if each.id == job.id else each for each in jobs(changing)])


def _set_jobs(changing: Transaction, wanted: Sequence[Job]) -> None:
    changing.set_record(RECORD, {**changing.record(RECORD), "jobs": [asdict(job) for job in wanted]})


def finish(changing: Transaction, job: Job, result: int, identifier: str, status: DownloadStatus | None = None) -> None:
    """End a job: out of the list, and its alert into the queue."""
    _set_jobs(changing, [each for each in jobs(changing) if each.id != job.id])
    if status is not None and job.kind == "Download":
        set_status(changing, job.name, status)
    alert = alerts.GenericAlert(
        id=f"scomo-{job.id}",
        type=alerts.SCOMO_TYPE,
        source=show(job.base),
        data=f"<ResultCode>{result}</ResultCode><Identifier>{_escaped(identifier or job.name)}</Identifier>",
        correlator=job.correlator,
        mark="informational" if result == SUCCESS else "critical",
    )
    alerts.put(changing, alert)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def put_delivered(changing: Transaction, name: str, values: Mapping[str, str]) -> None:
    for leaf, value in values.items():
        changing.put((*DELIVERED, name, leaf), value)


def set_deployed(changing: Transaction, deployed: Sequence[DeployedSoftware], package_of: Mapping[str, str]) -> None:
    """Make Inventory/Deployed say what is installed. `package_of` gives the PkgID of components just installed."""
    wanted = {node_name(one.software_id): one for one in deployed[:COMPONENTS_MAX]}
    place = changing.place(DEPLOYED)
    for name in changing.names(place):
        if name not in wanted:
            changing.drop((*DEPLOYED, name))
    for name, one in wanted.items():
        base = (*DEPLOYED, name)
        package = package_of.get(one.software_id) or changing.text((*base, "PkgIDRef"))
        values = {
            "ID": one.software_id,
            "PkgIDRef": package,
            "Name": one.name or one.software_id,
            "Version": one.version,
            "State": DEPLOYED_ACTIVE if one.active else DEPLOYED_INACTIVE,
        }
        for leaf, value in values.items():
            if changing.text((*base, leaf), "\0") != value:
                changing.put((*base, leaf), value)


class Scomo:
    root = ROOT

    def __init__(self, view: Callable[[], Transaction], new_id: Callable[[], str]) -> None:
        self._view = view
        self._new_id = new_id

    def spec(self) -> NodeSpec:
        download = group(
            setting("PkgID", Format.CHR, value_chars_max=128),
            setting("Name", Format.CHR, value_chars_max=128),
            setting("PkgURL", Format.CHR, check=https_url, value_chars_max=2048),
            setting("InstallParams", Format.CHR),
            setting("Description", Format.CHR),
            live("Status", Format.INT, lambda path: str(status_of(self._view(), path[2]))),
            setting("EnvType", Format.CHR),
            setting("PkgType", Format.CHR),
            _operations("Download"),
            access=AGRD,
        )
        delivered = _component("Delivered", ("PkgID", "Data", "Name", "Version", "State", "Status", "EnvType"))
        deployed = _component("Deployed", ("ID", "PkgIDRef", "Name", "Version", "EnvType", "State", "Status"))
        return interior(
            "SCOMO",
            interior("Download", download),
            interior("Inventory", interior("Delivered", delivered), interior("Deployed", deployed)),
            type=URN,
        )

    def execute(self, changing: Transaction, call: ExecCall) -> Code:
        """Exec of an operation: 202; 405 where there is none, 412 without PkgURL, 420 with too many jobs waiting."""
        kind, name, operation = _split(call.path)
        waiting = jobs(changing)
        for job in waiting:
            if (job.kind, job.name, job.operation, job.correlator) == (kind, name, operation, call.correlator):
                return Code.ACCEPTED
        url = changing.text((*DOWNLOAD, name, "PkgURL")) if kind == "Download" else ""
        if kind == "Download" and not url:
            raise Refusal(Code.INCOMPLETE, "PkgURL is empty")
        if len(waiting) >= JOBS_MAX:
            raise Refusal(Code.DEVICE_FULL, f"{JOBS_MAX} jobs are waiting")
        software_id = changing.text((*DEPLOYED, name, "ID")) if kind == "Deployed" else ""
        job = Job(self._new_id(), operation, kind, name, url, call.correlator, software_id)
        _set_jobs(changing, [*waiting, job])
        return Code.ACCEPTED

    def written(self, changing: Transaction, path: Path) -> None:
        """Nothing follows from a value."""

    def acknowledged(self, changing: Transaction, alert: alerts.GenericAlert) -> None:
        """Nothing is kept beyond the alert."""


def _split(path: Path) -> tuple[str, str, str]:
    for kind, base in (("Download", DOWNLOAD), ("Delivered", DELIVERED), ("Deployed", DEPLOYED)):
        if path[: len(base)] == base and len(path) == len(base) + 3 and path[-1] in OPERATIONS[kind]:
            return kind, path[len(base)], path[-1]
    raise Refusal(Code.NOT_ALLOWED, f"{show(path)} is no operation")


def _operations(kind: str) -> NodeSpec:
    return interior("Operations", *(NodeSpec(name, Format.NULL, GE) for name in OPERATIONS[kind]))


def _component(kind: str, leaves: Sequence[str]) -> NodeSpec:
    """Made by the device alone."""
    numbers = {"State", "Status"}
    settings = [
        setting(leaf, Format.INT if leaf in numbers else Format.CHR, access=Access.GET, value_chars_max=256)
        for leaf in leaves
    ]
    return group(*settings, _operations(kind), access=Access.GET)
