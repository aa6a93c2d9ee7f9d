"""Software jobs: what Execs on SCOMO have asked for, as a record of the tree, and the inventory that they change.

`agent.mo.scomo` records a job in the transaction of the Exec; `agent.ota.software_jobs` carries jobs out, one at a time
and in order, and ends each in one transaction: the job goes, the inventory changes, the generic alert is queued.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

from agent.jobs import waiting
from agent.tree import alerts
from agent.tree.schema import Path
from agent.tree.tree import Transaction
from agent.tree.uri import node_name, show

DOWNLOAD: Path = ("SCOMO", "Download")
DELIVERED: Path = ("SCOMO", "Inventory", "Delivered")
DEPLOYED: Path = ("SCOMO", "Inventory", "Deployed")
RECORD = "scomo"
JOBS_MAX = 16
ENDED_KEPT = (
    16  # of the downloads whose result the server has acknowledged; a server that makes a node per job is no leak
)
COMPONENTS_MAX = 64

_PLACES: Mapping[str, Path] = {"Download": DOWNLOAD, "Delivered": DELIVERED, "Deployed": DEPLOYED}
OPERATIONS: Mapping[str, Sequence[str]] = {
    "Download": ("Download", "DownloadInstall", "DownloadInstallInactive"),
    "Delivered": ("Install", "InstallInactive", "Remove"),
    "Deployed": ("Activate", "Deactivate", "Remove"),
}
SUCCESS = 1200
DEVICE_ERROR = 1400  # an error of the device, of no kind that has a number of its own
WHY_CHARS_MAX = 500  # of why a job failed
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


@dataclass(frozen=True, slots=True)
class DeployedSoftware:
    """One installed software component, as the installer lists it."""

    software_id: str
    version: str
    active: bool
    name: str = ""


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
    def is_known(self) -> bool:
        """Whether this program knows what is to be done; a later version may have accepted what it does not."""
        return self.operation in OPERATIONS.get(self.kind, ())

    @property
    def base(self) -> Path:
        place = _PLACES.get(self.kind)
        return (*place, self.name) if place is not None else ("SCOMO",)


@dataclass(frozen=True, slots=True)
class Trial:
    """An activation by a job, from before the version is active until the job ends. `before`: the version that was
    active then, empty for none; `starts`: how often it was begun; `failed`: why it is to be taken back."""

    job: str
    software_id: str
    version: str
    before: str
    starts: int = 0
    failed: str = ""


def trial(looking: Transaction) -> Trial | None:
    """The activation under way; `None` for none, and for one that cannot be read."""
    found = looking.record(RECORD).get("trial")
    if not isinstance(found, dict):
        return None
    texts = [found.get(name) for name in ("job", "software_id", "version", "before", "failed")]
    starts = found.get("starts")
    if not all(isinstance(text, str) for text in texts) or not isinstance(starts, int):
        return None
    job, software_id, version, before, failed = map(str, texts)
    return Trial(job, software_id, version, before, starts, failed)


def set_trial(changing: Transaction, wanted: Trial) -> None:
    changing.update_record(RECORD, trial=asdict(wanted))


def _read(entry: Mapping[str, Any]) -> Job | None:
    values = {name: entry.get(name, "" if name == "software_id" else None) for name in Job.__slots__}
    return Job(**values) if all(isinstance(value, str) for value in values.values()) else None


def jobs(looking: Transaction) -> tuple[Job, ...]:
    """The jobs that wait or are under way, in order, but for those that cannot be read: `end_damaged`."""
    return waiting.waiting(looking, RECORD, _read)


def is_damaged(looking: Transaction) -> bool:
    """Whether there are jobs that cannot be read."""
    return waiting.is_damaged(looking, RECORD, _read)


def end_damaged(changing: Transaction) -> None:
    """End the jobs that cannot be read, each with its final alert: what became of them is not known, and the inventory
    says what is installed."""

    def alert(entry: Mapping[str, Any], alert_id: str) -> alerts.GenericAlert:
        kind, name = waiting.text(entry, "kind"), waiting.text(entry, "name")
        is_named = kind in OPERATIONS and bool(name)
        job = Job("", "", kind if is_named else "", name, "", waiting.text(entry, "correlator"))
        if (
            kind == "Download"
            and is_named
            and all((other.kind, other.name) != (kind, name) for other in jobs(changing))
        ):
            installing = status_of(changing, name) == DownloadStatus.INSTALLING
            _over(changing, name, DownloadStatus.INSTALL_FAILED if installing else DownloadStatus.DOWNLOAD_FAILED)
        return _alert(alert_id, job, DEVICE_ERROR, name or "unknown")

    waiting.end_damaged(changing, RECORD, _read, alert)
    known = trial(changing)
    if known is not None and all(job.id != known.job for job in jobs(changing)):
        _drop_trial(changing)


def last_error(looking: Transaction, kind: str, name: str) -> str:
    """Why the last job of a download or component failed; empty where it did not, or is not over."""
    found = waiting.members(looking, RECORD, "why").get(f"{kind}/{name}", "")
    return found if isinstance(found, str) else ""


def _note_error(changing: Transaction, job: Job, why: str) -> None:
    """Keep why a job failed, as long as its node is there."""
    kept = {
        key: text
        for key, text in waiting.members(changing, RECORD, "why").items()
        if key != f"{job.kind}/{job.name}" and changing.find((*_PLACES.get(key.split("/")[0], ()), *key.split("/")[1:]))
    }
    if why:
        said = "".join(letter if letter.isprintable() else " " for letter in why[:WHY_CHARS_MAX])
        kept[f"{job.kind}/{job.name}"] = said
    changing.update_record(RECORD, why=kept)


def taken_back(looking: Transaction) -> Mapping[str, str]:
    """By component the version that was active for its trial only, and is still installed."""
    found = waiting.members(looking, RECORD, "taken_back")
    return {name: version for name, version in found.items() if isinstance(version, str)}


def set_taken_back(changing: Transaction, software_id: str, version: str) -> None:
    """`version`, which does not run, is not to become active unless it is asked for by its name; empty for none."""
    known = {name: other for name, other in taken_back(changing).items() if name != software_id}
    known = dict(list(known.items())[-COMPONENTS_MAX:])  # of components that are gone, too
    changing.update_record(RECORD, taken_back=known | ({software_id: version} if version else {}))


def forget_ended(changing: Transaction) -> None:
    """Remove the nodes of downloads that are over and whose results are acknowledged, but for the newest.

    A node without a status never had a job: it is its server's, who may be about to use it.
    """
    busy = {job.name for job in jobs(changing) if job.kind == "Download"}
    unheard = {alert.source for alert in alerts.pending(changing)}
    ended = _ended(changing)
    # Names of before this list are in no order: they go first.
    names = [*(name for name in waiting.members(changing, RECORD, "status") if name not in ended), *ended]
    over = [
        name
        for name in names
        if status_of(changing, name) not in (DownloadStatus.PROGRESSING, DownloadStatus.INSTALLING)
        and name not in busy
        and show((*DOWNLOAD, name)) not in unheard
        and changing.find((*DOWNLOAD, name))
    ]
    for name in over[: max(0, len(over) - ENDED_KEPT)]:
        changing.drop((*DOWNLOAD, name))


def status_of(looking: Transaction, name: str) -> int:
    found = waiting.members(looking, RECORD, "status").get(name, DownloadStatus.IDLE)
    return found if isinstance(found, int) else int(DownloadStatus.IDLE)  # a word of a later version says nothing here


def set_status(changing: Transaction, name: str, status: DownloadStatus) -> None:
    statuses = waiting.members(changing, RECORD, "status")
    known = {key: value for key, value in statuses.items() if changing.find((*DOWNLOAD, key))}
    changing.update_record(RECORD, status={**known, name: int(status)})


def set_jobs(changing: Transaction, wanted: Sequence[Job]) -> None:
    """Make these the waiting jobs, in order."""
    waiting.set_waiting(changing, RECORD, wanted, _read)


def finish(
    changing: Transaction,
    job: Job,
    result: int,
    identifier: str,
    status: DownloadStatus | None = None,
    why: str = "",
) -> None:
    """End a job: out of the list, and its alert into the queue. `why`: what went wrong."""
    _note_error(changing, job, why)
    set_jobs(changing, [each for each in jobs(changing) if each.id != job.id])
    _drop_trial(changing)
    if status is not None and job.kind == "Download":
        _over(changing, job.name, status)
    alerts.put(changing, _alert(f"scomo-{job.id}", job, result, identifier or job.name))


def _drop_trial(changing: Transaction) -> None:
    record = changing.record(RECORD)
    if record.pop("trial", None) is not None:
        changing.set_record(RECORD, record)


def _ended(looking: Transaction) -> list[str]:
    found = looking.record(RECORD).get("ended", [])
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _over(changing: Transaction, name: str, status: DownloadStatus) -> None:
    """A download has ended, with this status."""
    set_status(changing, name, status)
    before = [other for other in _ended(changing) if other != name and changing.find((*DOWNLOAD, other))]
    changing.update_record(RECORD, ended=[*before, name])


def _alert(alert_id: str, job: Job, result: int, identifier: str) -> alerts.GenericAlert:
    return alerts.GenericAlert(
        id=alert_id,
        type=alerts.SCOMO_TYPE,
        source=show(job.base),
        data=f"<ResultCode>{result}</ResultCode><Identifier>{_escaped(identifier)}</Identifier>",
        correlator=job.correlator,
        mark="informational" if result == SUCCESS else "critical",
    )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def put_delivered(changing: Transaction, name: str, values: Mapping[str, str]) -> None:
    for leaf, value in values.items():
        changing.put((*DELIVERED, name, leaf), value)


def set_deployed(changing: Transaction, deployed: Sequence[DeployedSoftware], package_of: Mapping[str, str]) -> None:
    """Make Inventory/Deployed say what is installed. `package_of` gives the PkgID of components just installed."""
    wanted = {node_name(one.software_id): one for one in deployed[:COMPONENTS_MAX]}
    place = changing.existing(DEPLOYED)
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
