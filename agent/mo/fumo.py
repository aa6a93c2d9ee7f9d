"""FUMO, `urn:oma:mo:oma-fumo:1.0` (OMA-TS-DM_FUMO 1.0): firmware packages, from the Exec to the reported outcome.

The object itself does nothing slow: an Exec records a job in the tree's transaction and is answered 202, so the intent
is durable before the server hears of it. `agent.ota.worker` carries the job out and comes back with events; the last
event of a job puts its generic alert into the same transaction.

The states are FUMO's own (section 5.1). Between `DOWNLOADING` and `UPDATING` a package is `DOWNLOADED` (not yet
verified) and `READY` (verified, or brought by the server in PkgData). An Exec is refused while a job is under way,
except the same one again, by which a server asks once more after losing the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import Enum, IntEnum, auto
from typing import Any, Final

from agent.tree import alerts
from agent.tree.schema import GE, Access, ExecCall, Format, NodeSpec, Path, https_url, interior, live, permanent
from agent.tree.tree import Transaction
from omadm.codes import Code, Refusal

URN = "urn:oma:mo:oma-fumo:1.0"
ROOT: Path = ("FUMO", "Firmware")
PKG_DATA: Path = (*ROOT, "Update", "PkgData")
RECORD = "fumo"
ERROR_CHARS_MAX = 1024
LOG_CHARS_MAX = 8192  # some forty lines
PKG_DATA_BYTES_MAX = 192 * 1024  # what fits MaxObjSize in every encoding

OK_RESULT = 200
DOWNLOAD, UPDATE, BOTH = "download", "update", "downloadandupdate"


class State(IntEnum):
    """FUMO 1.0, section 5.1."""

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

TABLE: Final[dict[tuple[State, Event], State]] = {
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
}


class FumoStateError(Exception):
    """An event that the state does not have (our mistake). Nothing was changed."""


def step(state: State, event: Event) -> State:
    """Raises `FumoStateError` for a pair that the table does not have."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise FumoStateError(f"{event.name} in {state.name}") from None


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
        """Raises `FumoStateError`."""
        return replace(self, state=int(step(State(self.state), event)), **changes)


def load(looking: Transaction) -> Job:
    """The stored job; a fresh one where there is none or one that cannot be read."""
    record = looking.record(RECORD)
    try:
        job = Job(**{name: type(getattr(Job(), name))(record[name]) for name in Job.__slots__ if name in record})
        return replace(job, state=int(State(job.state)))
    except (TypeError, ValueError):
        return Job()


def save(changing: Transaction, job: Job) -> None:
    changing.set_record(RECORD, asdict(job))


@dataclass(frozen=True, slots=True)
class Why:
    """Why a job failed: the error with its number, the health check that was not good, the last lines of the log."""

    error: str = ""
    failed_check: str = ""
    log: str = ""


def finish(changing: Transaction, job: Job, event: Event | None, result: int, why: Why | None = None) -> Job:
    """End a job: its state, its result and the alert that tells the server, together."""
    why = why or Why()
    ended = replace(
        job.after(event) if event else job,
        active=False,
        result=result,
        error=why.error[:ERROR_CHARS_MAX],
        failed_check=why.failed_check[:ERROR_CHARS_MAX],
        log=why.log[-LOG_CHARS_MAX:],
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
    value = looking.value(looking.place(PKG_DATA))
    return value if isinstance(value, bytes) else b""


def drop_data(changing: Transaction) -> None:
    if package_data(changing):
        changing.put(PKG_DATA, b"")


class Fumo:
    """`new_id()` makes the identifier that ties a job, its request and its result together."""

    root = ROOT

    def __init__(self, view: Callable[[], Transaction], new_id: Callable[[], str], compatible: str = "") -> None:
        self._view = view
        self._new_id = new_id
        self._compatible = compatible
        self.progress: tuple[int, int] | None = None  # bytes fetched and resumes of a running download

    def _number(self, path: Path) -> str:
        job = load(self._view())
        fetched, resumes = self.progress or (job.bytes_fetched, job.resumes)
        values = {"State": job.state, "BytesFetched": fetched, "Resumes": resumes, "LastResult": job.result}
        return str(values[path[-1]])

    def _text(self, path: Path) -> str:
        job = load(self._view())
        values = {
            "LastError": job.error,
            "FailedCheck": job.failed_check,
            "LastLog": job.log,
            "FullInstead": job.instead,
            "Compatible": self._compatible,
        }
        return values[path[-1]]

    def spec(self) -> NodeSpec:
        def number(name: str) -> NodeSpec:
            return live(name, Format.INT, self._number)

        def text(name: str) -> NodeSpec:
            return live(name, Format.CHR, self._text)

        url = permanent("PkgURL", Format.CHR, check=https_url, value_chars_max=2048)
        data = permanent("PkgData", Format.BIN, access=Access.REPLACE, value_chars_max=PKG_DATA_BYTES_MAX)
        firmware = interior(
            "Firmware",
            permanent("PkgName", Format.CHR, value_chars_max=128),
            permanent("PkgVersion", Format.CHR, value_chars_max=64),
            interior("Download", url, access=GE),
            interior("Update", data, access=GE),
            interior("DownloadAndUpdate", url, access=GE),
            number("State"),
            interior(
                "Ext",
                number("BytesFetched"),
                number("Resumes"),
                number("LastResult"),
                text("LastError"),
                text("FailedCheck"),
                text("LastLog"),
                text("FullInstead"),
                text("Compatible"),
            ),
            type=URN,
        )
        return interior("FUMO", firmware)

    def execute(self, changing: Transaction, call: ExecCall) -> Code:
        """Exec of Download, Update or DownloadAndUpdate: 202, or 405, 412 without a URL, 500 while busy."""
        operation = call.path[len(ROOT) :][0].lower() if len(call.path) == len(ROOT) + 1 else ""
        if operation not in {DOWNLOAD, UPDATE, BOTH}:
            raise Refusal(Code.NOT_ALLOWED, "nothing to execute")
        job = load(changing)
        url = changing.text((*call.path, "PkgURL"))
        if job.active:
            same = (job.operation, job.correlator) == (operation, call.correlator) and job.url in {url, ""}
            if same and call.correlator:
                return Code.ACCEPTED
            raise Refusal(Code.COMMAND_FAILED, "a firmware job is under way")
        if operation != UPDATE and not url:
            raise Refusal(Code.INCOMPLETE, "PkgURL is empty")
        event = Event.EXEC_UPDATE if operation == UPDATE else Event.EXEC_FETCH
        try:
            new_state = step(State(job.state), event)
        except FumoStateError:
            raise Refusal(Code.COMMAND_FAILED, "there is no package to update with") from None
        started = Job(
            state=int(new_state),
            active=True,
            id=self._new_id(),
            operation=operation,
            url=url if operation != UPDATE else "",
            correlator=call.correlator,
            reported=job.reported,
            full_url=job.full_url if operation == UPDATE else "",  # offered with the package that was kept
            full_bytes=job.full_bytes if operation == UPDATE else 0,
        )
        if operation != UPDATE:
            drop_data(changing)
        save(changing, started)
        return Code.ACCEPTED

    def written(self, changing: Transaction, path: Path) -> None:
        """PkgData: the package came through the tree. Refused (500) while a job is under way."""
        if path != PKG_DATA:
            return
        job = load(changing)
        if job.active:
            raise Refusal(Code.COMMAND_FAILED, "a firmware job is under way")
        save(changing, Job(state=job.after(Event.DATA_BROUGHT).state, reported=job.reported))

    def acknowledged(self, changing: Transaction, alert: alerts.GenericAlert) -> None:
        """Note which result the server knows, so that it is never reported again."""
        save(changing, replace(load(changing), reported=alert.id.removeprefix("fumo-")))
