"""The states of a firmware job: every pair of state and event."""

from __future__ import annotations

import itertools

import pytest

from agent.jobs import firmware
from agent.jobs.firmware import Event, FumoStateError, Job, State


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
@pytest.mark.slow
def test_every_pair_of_state_and_event_steps_or_is_refused_without_change(state: State, event: Event) -> None:
    job = Job(state=int(state))
    if (state, event) in firmware.TRANSITIONS.table:
        assert job.after(event).state == firmware.TRANSITIONS.table[state, event]
    else:
        with pytest.raises(FumoStateError):
            firmware.TRANSITIONS.after(state, event)
    assert job.state == state


def test_every_state_of_an_active_job_has_an_event_that_ends_it() -> None:
    ends = {Event.FETCH_FAILED, Event.REJECTED, Event.UPDATED, Event.UPDATE_FAILED}
    for state in (State.DOWNLOADING, State.DOWNLOADED, State.UPDATING):
        assert any((state, event) in firmware.TRANSITIONS.table for event in ends)
