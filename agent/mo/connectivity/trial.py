"""A change of how the head-end is reached, on trial: it is confirmed by a session, or taken back.

The values in use are one durable truth: the server's address and the uplink's in their own nodes, the others in the
record of the tree. What lies outside the tree (trusted certificates, time service, modem) follows from them, is marked
as out of date in the transaction that changes them, and is put into effect by `agent.dm.trial` until that succeeds.

    IDLE, CONFIRMED, REVERTED  -begin->  TRIAL  -confirm->  CONFIRMED
                                                -revert-->  REVERTED

`begin` keeps the old values beside the new ones; `confirm` and `revert` end the trial, and queue its one alert, in the
transaction that they are called in. Times are monotonic seconds, which say nothing after a boot. So what is left of the
deadline is noted every `NOTED_EVERY_S`; a boot goes on with what was noted last, and the boot after `BOOTS_MAX` of them
takes the change back: a board that restarts again and again never gets the time to hold a session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum, StrEnum, auto
from typing import Any, Final

from agent.jobs import waiting
from agent.mo import dmacc
from agent.tree import alerts
from agent.tree.schema import Path
from agent.tree.tree import Transaction
from omadm.codes import Code, Refusal
from omadm.transitions import Transitions

ROOT: Path = ("ConnMO",)
RECORD = "connectivity"
UPLINK_URL: Path = ("AMI", "Uplink", "URL")
WITHIN_S = 900  # until a session must have succeeded, when the server names no time
NOTED_EVERY_S = 60.0
BOOTS_MAX = 5
REASON_CHARS_MAX = 512
SECONDS_MAX = 1e12  # a number beyond that is none
DAMAGED = "its record was damaged"

ALERT_TYPE = "urn:x-dcu:at:connmo:1.0:ChangeComplete"
CONFIRMED, TAKEN_BACK = 1200, 1450  # ResultCode of the alert

DM_SERVER, REGISTRATION, UPLINK, ANCHORS = "server", "registration", "uplink", "anchors"
TIME_SERVERS, ACCESS = "time_servers", "access"
KEPT_IN_RECORD = (REGISTRATION, ANCHORS, TIME_SERVERS, ACCESS)


class State(StrEnum):
    """What the status node says."""

    IDLE = "idle"
    TRIAL = "trial"
    CONFIRMED = "confirmed"
    REVERTED = "reverted"


class Event(Enum):
    """What moves a change on."""

    BEGIN = auto()
    CONFIRM = auto()
    REVERT = auto()


class TrialStateError(Exception):
    """An event that the state does not have (our mistake). Nothing was changed."""


TRANSITIONS: Final = Transitions(
    {
        **{(state, Event.BEGIN): State.TRIAL for state in (State.IDLE, State.CONFIRMED, State.REVERTED)},
        (State.TRIAL, Event.CONFIRM): State.CONFIRMED,
        (State.TRIAL, Event.REVERT): State.REVERTED,
    },
    TrialStateError,
)


@dataclass(frozen=True, slots=True)
class Values:
    """How the head-end is reached. `server` and `uplink` are always said here. `registration` (the security server),
    `anchors` (PEM), `time_servers` (separated by spaces) and `access` (opaque: proxy, APN) are empty where the device's
    own configuration holds."""

    server: str = ""
    registration: str = ""
    uplink: str = ""
    anchors: str = ""
    time_servers: str = ""
    access: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """The last change, as stored. `old` and `new` have the values that it is about, by the names of `Values`. `boot` is
    the boot that `ends` (monotonic seconds) is in, empty before the change was put into effect; `left_s` was noted."""

    state: str = State.IDLE
    id: str = ""
    correlator: str = ""
    reason: str = ""
    within_s: float = 0.0
    left_s: float = 0.0
    boot: str = ""
    ends: float = 0.0
    boots: int = 0
    old: Mapping[str, str] | None = None
    new: Mapping[str, str] | None = None

    @property
    def under_way(self) -> bool:
        return self.state == State.TRIAL

    @property
    def running(self) -> bool:
        """Whether its deadline runs already."""
        return self.under_way and bool(self.boot)

    def after(self, event: Event, **changes: Any) -> Trial:
        """The change in the state to which `event` leads. Raises `TrialStateError` where none is allowed."""
        return replace(self, state=TRANSITIONS.after(State(self.state), event), **changes)


_TEXTS: Final = frozenset({"state", "id", "correlator", "reason", "boot"})
_NUMBERS: Final = {"within_s": 0.0, "left_s": 0.0, "ends": 0.0, "boots": 0}


def load(looking: Transaction) -> Trial:
    """The last change; a fresh one where there is none. Of one that is damaged, what can be read of it, which is on
    trial while there is something to take back: `end_damaged`."""
    stored = looking.record(RECORD).get("trial", {})
    trial = replace(Trial(), **_readable(stored))
    if trial.state not in set(State) or (_damaged(stored) and "state" not in _readable(stored)):
        # A later version's, before a rollback. While the old values are kept the change is neither confirmed nor
        # taken back: it gets its end here, like any other.
        trial = replace(trial, state=State.TRIAL if trial.old is not None else State.IDLE)
    return trial


def _readable(stored: object) -> dict[str, Any]:
    """The members of a record that are what they should be; of `old` and `new` their texts."""
    found: dict[str, Any] = {}
    for name, value in stored.items() if isinstance(stored, Mapping) else ():
        if name in ("old", "new"):
            if isinstance(value, Mapping):
                found[name] = {one: text for one, text in value.items() if isinstance(text, str)}
            elif value is None:
                found[name] = None
        elif name in _TEXTS and isinstance(value, str):
            found[name] = value
        elif name in _NUMBERS and type(value) in (int, float) and abs(value) < SECONDS_MAX:
            found[name] = type(_NUMBERS[name])(value)
    return found


def _damaged(stored: object) -> bool:
    """Whether this is the record of a change, and not whole. What it lacks an earlier version did not know."""
    if not isinstance(stored, Mapping):
        return True
    found = _readable(stored)
    cut = any(found.get(name) is not None and len(found[name]) < len(stored[name]) for name in ("old", "new"))
    return cut or any(name in stored and name not in found for name in Trial.__slots__)


def is_damaged(looking: Transaction) -> bool:
    """Whether the record of the last change cannot be read whole."""
    return _damaged(looking.record(RECORD).get("trial", {}))


def end_damaged(changing: Transaction) -> None:
    """End a change whose record cannot be read whole, with its alert if it was on trial: what is known of the old
    values comes back. Whether a session had gone well is not known, so nothing is confirmed."""
    stored, last = changing.record(RECORD).get("trial", {}), load(changing)
    waiting.keep_damaged(changing, RECORD, _without_values(stored))
    changing.update_record(RECORD, trial={})
    _save(changing, replace(last, id=last.id or "damaged"))
    if not last.under_way:
        return
    lost = sorted((last.new or {}).keys() - (last.old or {}).keys())
    if last.old and not lost:
        revert(changing, DAMAGED)
        return
    _put(changing, last.old or {})
    why = f"{DAMAGED}; what was there before is not known, and stays changed: {', '.join(lost) or 'what it was about'}"
    _end(changing, replace(load(changing), state=State.IDLE, reason=why[:REASON_CHARS_MAX]), TAKEN_BACK)


def _without_values(stored: object) -> object:
    """A record for a person to look at: its values may be secrets."""
    if not isinstance(stored, Mapping):
        return type(stored).__name__
    names = {name: type(stored[name]).__name__ for name in ("old", "new") if name in stored}
    return {name: stored[name] for name in Trial.__slots__ if name in stored} | names


def in_use(looking: Transaction) -> Values:
    """The values that hold now, on trial or not."""
    kept = waiting.members(looking, RECORD, "in_use")
    account = dmacc.account(looking)
    return Values(
        server=account.url if account else "",
        uplink=looking.text(UPLINK_URL),
        **{name: str(kept.get(name, "")) for name in KEPT_IN_RECORD},
    )


def is_outdated(looking: Transaction) -> bool:
    """Whether what lies outside the tree may not be as the values in use say."""
    return bool(looking.record(RECORD).get("outdated"))


def note_applied(changing: Transaction) -> None:
    """What lies outside the tree is as the values in use say."""
    changing.update_record(RECORD, outdated=False)


def begin(
    changing: Transaction, new: Mapping[str, str], *, trial_id: str, correlator: str = "", within_s: float = WITHIN_S
) -> None:
    """Put new values, by the names of `Values`, on trial. Raises `Refusal`: 500 while there is a trial, 412 for a
    server's address where there is no account."""
    if load(changing).under_way:
        raise Refusal(Code.COMMAND_FAILED, "a change is on trial")
    if DM_SERVER in new and dmacc.account(changing) is None:
        raise Refusal(Code.INCOMPLETE, "there is no account whose address could change")
    now = asdict(in_use(changing))
    started = load(changing).after(
        Event.BEGIN,
        id=trial_id,
        correlator=correlator,
        reason="",
        within_s=within_s,
        left_s=within_s,
        boot="",
        ends=0.0,
        boots=0,
        old={name: now[name] for name in new},
        new=dict(new),
    )
    _put(changing, new)
    _save(changing, started)


def begin_written(changing: Transaction, old_server: str, *, trial_id: str) -> None:
    """A server has replaced the address in the account itself: that is on trial as well. Raises `Refusal` 500."""
    new = in_use(changing).server
    dmacc.set_address(changing, old_server)
    begin(changing, {DM_SERVER: new}, trial_id=trial_id)


def run_from(changing: Transaction, now: float, boot: str) -> None:
    """The change is in effect, or was found on trial at a start: let its deadline run in this boot."""
    trial = load(changing)
    if not trial.under_way:
        return
    if boot and trial.boot == boot and trial.ends - now <= trial.within_s:
        return  # the same boot, whose monotonic clock goes on
    boots = trial.boots + (1 if trial.boot else 0)
    if boots > BOOTS_MAX:
        revert(changing, f"the device was started {boots} times during the trial")
        return
    left_s = min(trial.left_s, trial.within_s)
    _save(changing, replace(trial, boot=boot or "unknown", boots=boots, left_s=left_s, ends=now + left_s))


def note_time(changing: Transaction, now: float) -> None:
    """Keep how much of the deadline is left, for the next boot."""
    trial = load(changing)
    if trial.running:
        _save(changing, replace(trial, left_s=max(0.0, trial.ends - now)))


def confirm(changing: Transaction) -> None:
    """The new values lead to the head-end. Raises `TrialStateError`."""
    trial = load(changing).after(Event.CONFIRM, reason="")
    _end(changing, trial, CONFIRMED)


def revert(changing: Transaction, reason: str) -> None:
    """Take the new values back. Raises `TrialStateError`."""
    trial = load(changing).after(Event.REVERT, reason=reason[:REASON_CHARS_MAX])
    _put(changing, trial.old or {})
    _end(changing, trial, TAKEN_BACK)


def _end(changing: Transaction, trial: Trial, result: int) -> None:
    # The old and new values may have secrets in them; nobody needs them any more. What was changed is said by name.
    names = dict.fromkeys(trial.new or {}, "")
    _save(changing, replace(trial, old=None, new=names))
    alert = alerts.GenericAlert(
        id=f"connmo-{trial.id}",
        type=ALERT_TYPE,
        source="./" + "/".join(ROOT),
        data=f"<ResultCode>{result}</ResultCode>",
        correlator=trial.correlator,
        mark="informational" if result == CONFIRMED else "critical",
    )
    alerts.put(changing, alert)


def _put(changing: Transaction, values: Mapping[str, str]) -> None:
    """Make these values, and none of the others, the ones in use."""
    if DM_SERVER in values and dmacc.account(changing) is not None:  # none: it was deleted meanwhile, address and all
        dmacc.set_address(changing, values[DM_SERVER])
    if UPLINK in values:
        changing.put(UPLINK_URL, values[UPLINK])
    kept = {name: value for name, value in values.items() if name in KEPT_IN_RECORD}
    if kept:
        before = waiting.members(changing, RECORD, "in_use")
        changing.update_record(RECORD, in_use={**before, **kept}, outdated=True)


def _save(changing: Transaction, trial: Trial) -> None:
    before = waiting.members(changing, RECORD, "trial")  # with what a later version keeps there
    changing.update_record(RECORD, trial={**before, **asdict(trial)})
