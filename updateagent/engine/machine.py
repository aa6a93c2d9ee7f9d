"""The states of one update, as a table; sans-IO.

    idle ──stage──▶ staged ──accept──▶ verified ──write──▶ writing ──complete──▶ written ──try──▶ trial
     ▲                │ refuse            │ refuse          │ fail                │ fail           │
     │                ▼                   ▼                 ▼                     ▼        confirm │ fall back
     │             refused             refused            failed               failed              ▼
     └───────────────────────────── report ◀──────────────────────────── confirmed | rolled back ◀─┘

A slot that a person wants to start, and that is not known to be good, is offered: idle ──offer──▶ trial. Nothing is
written, and everything else is as after an install.

The rule that makes it safe: a state is stored in the journal *before* the effect it stands for is begun, and every
effect can be repeated. So whatever the journal says after a power cut is either done, half done or not begun, and
doing it again is right in all three cases.

| state       | effect that it stands for                                                                  |
|-------------|--------------------------------------------------------------------------------------------|
| staged      | the package is verified; nothing is written                                                |
| verified    | hook; the boot loader is told not to start the target slot (first commit, if it could)     |
| writing     | verified blocks go to the target slot; read back; hook                                     |
| written     | none: synced and read back                                                                 |
| trial       | the boot loader is told to try the target slot (second commit); reboot; state is migrated; |
|             | health is watched                                                                          |
| confirmed   | the boot loader is told that the target is good (third commit); old state goes; result     |
| rolled back | old state comes back; the boot loader is told that the target is bad; result               |
| refused     | result                                                                                     |
| failed      | result; the target slot stays out of the boot order until a package is written completely  |
"""

from __future__ import annotations

from enum import Enum

from updateagent.errors import STATE, RequestError


class State(Enum):
    """Where an update stands."""

    IDLE = "idle"
    STAGED = "staged"
    VERIFIED = "verified"
    WRITING = "writing"
    WRITTEN = "written"
    TRIAL = "trial"
    CONFIRMED = "confirmed"
    ROLLED_BACK = "rolled back"
    REFUSED = "refused"
    FAILED = "failed"


class Event(Enum):
    """What moves an update on."""

    STAGE = "stage"
    OFFER = "offer"  # a slot as it is, for a trial
    ACCEPT = "accept"
    REFUSE = "refuse"
    WRITE = "write"
    CHECKPOINT = "checkpoint"
    COMPLETE = "complete"
    FAIL = "fail"
    TRY = "try"  # also again, when the commit that asks for the trial was lost
    ATTEMPT = "attempt"  # the target slot was started once more
    MIGRATE = "migrate"  # the copies of the state are migrated and durable
    FAILURE = "failure"  # the new system says why it gives up
    CONFIRM = "confirm"
    FALL_BACK = "fall back"
    REPORT = "report"


TABLE: dict[tuple[State, Event], State] = {
    (State.IDLE, Event.STAGE): State.STAGED,
    (State.IDLE, Event.OFFER): State.TRIAL,
    (State.STAGED, Event.ACCEPT): State.VERIFIED,
    (State.STAGED, Event.REFUSE): State.REFUSED,
    (State.VERIFIED, Event.WRITE): State.WRITING,
    (State.VERIFIED, Event.REFUSE): State.REFUSED,
    (State.WRITING, Event.CHECKPOINT): State.WRITING,
    (State.WRITING, Event.COMPLETE): State.WRITTEN,
    (State.WRITING, Event.FAIL): State.FAILED,
    (State.WRITTEN, Event.TRY): State.TRIAL,
    (State.WRITTEN, Event.FAIL): State.FAILED,
    (State.TRIAL, Event.TRY): State.TRIAL,
    (State.TRIAL, Event.ATTEMPT): State.TRIAL,
    (State.TRIAL, Event.MIGRATE): State.TRIAL,
    (State.TRIAL, Event.FAILURE): State.TRIAL,
    (State.TRIAL, Event.CONFIRM): State.CONFIRMED,
    (State.TRIAL, Event.FALL_BACK): State.ROLLED_BACK,
    (State.CONFIRMED, Event.REPORT): State.IDLE,
    (State.ROLLED_BACK, Event.REPORT): State.IDLE,
    (State.REFUSED, Event.REPORT): State.IDLE,
    (State.FAILED, Event.REPORT): State.IDLE,
}

DECIDED = frozenset({State.CONFIRMED, State.ROLLED_BACK, State.REFUSED, State.FAILED})
"""The outcome is known; what is left is to make it so and to report it."""

GIVE_UP: dict[State, Event] = {
    State.STAGED: Event.REFUSE,
    State.VERIFIED: Event.REFUSE,
    State.WRITING: Event.FAIL,
    State.WRITTEN: Event.FAIL,
    State.TRIAL: Event.FALL_BACK,
}
"""How an update that cannot go on ends, by its state."""


class IllegalTransition(RequestError):
    """An event that does not belong to the state; nothing changed."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(STATE, f"not possible now: {event.value} (the update is {state.value})")
        self.state = state
        self.event = event


def next_state(state: State, event: Event) -> State:
    """The state after `event`. Raises `IllegalTransition`."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise IllegalTransition(state, event) from None
