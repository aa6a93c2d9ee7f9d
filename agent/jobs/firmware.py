"""The firmware job: what an Exec on FUMO has asked for, as a record of the tree, from the Exec to the reported outcome.

`agent.mo.fumo` begins a job in the transaction of the Exec, so the intent is durable before the server hears of it;
`agent.ota.worker` carries it out, and its last step puts the generic alert into the same transaction as the result.

The states are FUMO's own (OMA-TS-DM_FUMO 1.0, section 5.1). Between `DOWNLOADING` and `UPDATING` a package is
`DOWNLOADED` (not yet verified) and `READY` (verified, or brought by the server in PkgData).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum, IntEnum, auto
from typing import Any, Final

from agent.jobs import waiting
from agent.tree import alerts
from agent.tree.schema import Path
from agent.tree.tree import Transaction
from omadm.transitions import Transitions

ROOT: Path = ("FUMO", "Firmware")
PKG_DATA: Path = (*ROOT, "Update", "PkgData")
RECORD = "fumo"
ERROR_CHARS_MAX = 1024
LOG_CHARS_MAX = 8192  # some forty lines

OK_RESULT = 200
RESULT_DAMAGED = 400  # "management client error", of no kind that has a number of its own (FUMO 1.0, section 7)
DOWNLOAD, UPDATE, BOTH = "download", "update", "downloadandupdate"


class State(IntEnum):
    """States of the Firmware node, as the server reads them (FUMO 1.0, section 5.1)."""

    IDLE = 10
    DOWNLOAD_FAILED = 20
    DOWNLOADING = 30
    DOWNLOADED = 40
    READY = 50
    UPDATING = 60
    FAILED_WITH_DATA = 70
    FAILED = 80
    SUCCEEDED_WITH_DATA = 90
    SUCCEEDED = 100


class Event(Enum):
    """What moves a firmware job on."""

    EXEC_FETCH = auto()  # Download or DownloadAndUpdate
    EXEC_UPDATE = auto()
    DATA_BROUGHT = auto()  # Replace of Update/PkgData
    FETCHED = auto()
    FETCH_FAILED = auto()
    VERIFIED = auto()
    REJECTED = auto()  # by verification, or by the hand-over
    HANDED_OVER = auto()
    UPDATED = auto()
    UPDATE_FAILED = auto()
    FULL_INSTEAD = auto()  # the delta is of no use: the same release is fetched as whole images


_RESTING = (
    State.IDLE,
    State.DOWNLOAD_FAILED,
    State.READY,
    State.FAILED_WITH_DATA,
    State.FAILED,
    State.SUCCEEDED_WITH_DATA,
    State.SUCCEEDED,
)


class FumoStateError(Exception):
    """An event that the state does not have (our mistake). Nothing was changed."""


TRANSITIONS: Final = Transitions(
    {
        **{(state, Event.EXEC_FETCH): State.DOWNLOADING for state in _RESTING},
        **{(state, Event.DATA_BROUGHT): State.READY for state in _RESTING},
        (State.READY, Event.EXEC_UPDATE): State.DOWNLOADED,
        (State.FAILED_WITH_DATA, Event.EXEC_UPDATE): State.DOWNLOADED,
        (State.DOWNLOADING, Event.FETCHED): State.DOWNLOADED,
        (State.DOWNLOADING, Event.FETCH_FAILED): State.DOWNLOAD_FAILED,
        (State.DOWNLOADED, Event.VERIFIED): State.READY,
        (State.DOWNLOADED, Event.REJECTED): State.FAILED,
        (State.DOWNLOADED, Event.HANDED_OVER): State.UPDATING,
        (State.DOWNLOADED, Event.FETCH_FAILED): State.DOWNLOAD_FAILED,  # the file vanished before it was handed over
        (State.DOWNLOADING, Event.FULL_INSTEAD): State.DOWNLOADING,
        (State.DOWNLOADED, Event.FULL_INSTEAD): State.DOWNLOADING,
        (State.UPDATING, Event.FULL_INSTEAD): State.DOWNLOADING,
        (State.UPDATING, Event.UPDATED): State.SUCCEEDED,
        (State.UPDATING, Event.UPDATE_FAILED): State.FAILED,
    },
    FumoStateError,
)


@dataclass(frozen=True, slots=True)
class Job:
    """The one firmware job, as stored. `boot` is the boot in which the package was handed over; `active` ends with
    the result. `reported` is the id of the last job whose result the server has acknowledged.

    `full_url` and `full_bytes` are what the server offers in place of a delta; `instead` says why it is fetched, and is
    empty while the package of `url` is. `replaced` is the id under which the delta was handed over in vain. `error`,
    `failed_check` and `log` tell why the job failed."""

    state: int = State.IDLE
    active: bool = False
    id: str = ""
    operation: str = ""
    url: str = ""
    correlator: str = ""
    bytes_fetched: int = 0
    resumes: int = 0
    result: int = 0
    boot: str = ""
    reported: str = ""
    full_url: str = ""
    full_bytes: int = 0
    instead: str = ""
    replaced: str = ""
    error: str = ""
    failed_check: str = ""
    log: str = ""

    def after(self, event: Event, **changes: Any) -> Job:
        """The job in the state to which `event` leads. Raises `FumoStateError` where none is allowed."""
        return replace(self, state=int(TRANSITIONS.after(State(self.state), event)), **changes)


def load(looking: Transaction) -> Job:
    """The stored job; a fresh one where there is none. Where it cannot be read, one that knows what was reported of
    those before it: `end_damaged`."""
    record = looking.record(RECORD)
    job = _read(record)
    if job is None:
        return Job(reported=waiting.text(record, "reported"), replaced=waiting.text(record, "replaced"))
    return job if job.state in set(State) else replace(job, state=int(_known_state(job)))


def _read(record: Mapping[str, Any]) -> Job | None:
    kinds = {name: type(getattr(Job(), name)) for name in Job.__slots__} | {"state": int}
    try:
        return Job(**{name: kind(record[name]) for name, kind in kinds.items() if name in record})
    except (TypeError, ValueError, OverflowError):
        return None


def is_damaged(looking: Transaction) -> bool:
    """Whether there is a job that cannot be read."""
    return _read(looking.record(RECORD)) is None


def end_damaged(changing: Transaction) -> None:
    """End a job that cannot be read, with its final alert unless it had that: it is not known what became of it."""
    record = changing.record(RECORD)
    kept = {name: record[name] for name in ("damaged",) if name in record}
    job = replace(
        load(changing),
        state=int(State.FAILED),
        id=waiting.text(record, "id") or "damaged",
        operation=waiting.text(record, "operation"),
        correlator=waiting.text(record, "correlator"),
    )
    changing.set_record(RECORD, kept)
    waiting.keep_damaged(changing, RECORD, {name: value for name, value in record.items() if name not in kept})
    if record.get("active") is False:
        save(changing, job)
    else:
        finish(changing, job, None, RESULT_DAMAGED, FailureDetails(waiting.FATE_UNKNOWN))


def _known_state(job: Job) -> State:
    """Where a job goes on whose state is a later version's, from before a rollback: its server waits for a result."""
    if not job.active:
        return State.IDLE
    if job.boot:
        return State.UPDATING  # handed over: the updater says how that ended
    return State.DOWNLOADING if job.url else State.DOWNLOADED


def save(changing: Transaction, job: Job) -> None:
    changing.set_record(RECORD, {**changing.record(RECORD), **asdict(job)})  # with what a later version keeps there


@dataclass(frozen=True, slots=True)
class FailureDetails:
    """Why a job failed: the error with its number, the health check that was not good, the last lines of the log."""

    error: str = ""
    failed_check: str = ""
    log: str = ""


def finish(
    changing: Transaction, job: Job, event: Event | None, result: int, details: FailureDetails | None = None
) -> Job:
    """End a job: its state, its result and the alert that tells the server, together."""
    details = details or FailureDetails()
    ended = replace(
        job.after(event) if event else job,
        active=False,
        result=result,
        error=details.error[:ERROR_CHARS_MAX],
        failed_check=details.failed_check[:ERROR_CHARS_MAX],
        log=details.log[-LOG_CHARS_MAX:],
    )
    save(changing, ended)
    alert = alerts.GenericAlert(
        id=f"fumo-{job.id}",
        type=alerts.FUMO_TYPE + (job.operation or BOTH),
        source="./" + "/".join(ROOT),
        data=f"<ResultCode>{result}</ResultCode>",
        correlator=job.correlator,
        mark="informational" if result < 300 else "critical",
    )
    alerts.put(changing, alert)
    return ended


def package_data(looking: Transaction) -> bytes:
    """A package that a server wrote into the tree; empty when there is none."""
    value = looking.value(looking.existing(PKG_DATA))
    return value if isinstance(value, bytes) else b""


def drop_data(changing: Transaction) -> None:
    if package_data(changing):
        changing.put(PKG_DATA, b"")


@dataclass(slots=True)
class RunningDownload:
    """Bytes fetched and resumes of the download that runs now, `None` between downloads. Too fleeting to be stored:
    the worker sets it, FUMO's live nodes show it."""

    counts: tuple[int, int] | None = None
