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
    },
    State.SENT: {Event.ANSWERED: State.DONE, Event.REFUSED: State.REFUSED, Event.LOST: State.UNKNOWN},
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_pair_leads_where_the_drawing_says_or_is_refused(state: State, event: Event) -> None:
    expected = ALLOWED.get(state, {}).get(event)
    if expected is None:
        with pytest.raises(OrderStateError):
            TRANSITIONS.after(state, event)
    else:
        assert TRANSITIONS.after(state, event) is expected


def test_what_was_sent_is_never_asked_again() -> None:
    reached, todo = set(), [State.SENT]
    while todo:
        state = todo.pop()
        reached.add(state)
        todo += [to for (at, _), to in TRANSITIONS.table.items() if at is state and to not in reached]
    assert reached == {State.SENT, State.DONE, State.REFUSED, State.UNKNOWN}


def test_nothing_follows_an_end() -> None:
    assert {state for state, _ in TRANSITIONS.table} == set(State) - ENDS
