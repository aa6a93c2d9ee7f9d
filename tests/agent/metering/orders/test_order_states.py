"""The state table of an order on one meter: every pair of state and event, and what may never follow."""

from __future__ import annotations

import itertools

import pytest

from agent.metering.orders.order import ENDS, TRANSITIONS, Event, OrderStateError, State

ALLOWED = {
    State.QUEUED: {
        Event.BEGUN: State.ASKING,
        Event.EXPIRED: State.NOT_REACHED,
        Event.CANCELLED: State.CANCELLED,
    },
    State.ASKING: {
        Event.SENDING: State.SENT,
        Event.ANSWERED: State.DONE,
        Event.REFUSED: State.REFUSED,
        Event.LOST: State.QUEUED,
        Event.CUT: State.PARTLY,
    },
    State.SENT: {
        Event.SENDING: State.SENT,
        Event.ANSWERED: State.DONE,
        Event.REFUSED: State.REFUSED,
        Event.LOST: State.UNKNOWN,
        Event.CUT: State.PARTLY,
    },
    State.PARTLY: {
        Event.BEGUN: State.ASKING,
        Event.EXPIRED: State.UNKNOWN,
        Event.CANCELLED: State.UNKNOWN,
        Event.STOPPED: State.INCOMPLETE,
    },
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_pair_leads_where_the_drawing_says_or_is_refused(state: State, event: Event) -> None:
    expected = ALLOWED.get(state, {}).get(event)
    if expected is None:
        with pytest.raises(OrderStateError):
            TRANSITIONS.after(state, event)
    else:
        assert TRANSITIONS.after(state, event) is expected


def reached_from(state: State, *without: Event) -> set[State]:
    reached: set[State] = set()
    todo = [state]
    while todo:
        state = todo.pop()
        reached.add(state)
        todo += [to for (at, event), to in TRANSITIONS.table.items() if at is state and event not in without]
        todo = [state for state in todo if state not in reached]
    return reached


def test_what_was_sent_is_never_asked_again_but_by_a_kind_that_resumes() -> None:
    assert reached_from(State.SENT, Event.CUT) == {State.SENT, State.DONE, State.REFUSED, State.UNKNOWN}


def test_what_is_partly_done_is_never_said_not_to_have_begun() -> None:
    # LOST of what resumes is CUT as soon as something was sent (`test_journal.py`).
    assert not reached_from(State.PARTLY, Event.LOST) & {State.QUEUED, State.NOT_REACHED, State.CANCELLED}


def test_nothing_follows_an_end() -> None:
    assert {state for state, _ in TRANSITIONS.table} == set(State) - ENDS
