"""The states of a firmware job: every pair of state and event."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from agent.jobs import firmware
from agent.jobs.firmware import Event, FumoStateError, Job, State
from agent.tree.persistence import ManagementTree
from tests.agent.tree.test_tree import SCHEMA
from tests.sim.faulty_disk import FaultyDisk


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


@pytest.mark.parametrize(("boot", "nearest"), [("", State.DOWNLOADING), ("b1", State.UPDATING)])
def test_a_job_in_a_state_of_a_later_version_goes_on_in_the_nearest_of_ours(boot: str, nearest: State) -> None:
    """After a rollback its correlator was gone, and the head-end waited for two weeks."""
    tree = ManagementTree(SCHEMA, FaultyDisk(), Path("/state"), lambda: 0.0)
    left = Job(active=True, id="i1", operation="DownloadAndUpdate", url="https://p", correlator="c1", boot=boot)
    with tree.transaction() as changing:
        firmware.save(changing, left)
        changing.set_record(firmware.RECORD, {**changing.record(firmware.RECORD), "state": 75})
    found = firmware.load(tree.view())
    assert (found.state, found.active, found.correlator) == (nearest, True, "c1")
    with tree.transaction() as changing:
        changing.set_record(firmware.RECORD, {**changing.record(firmware.RECORD), "active": False})
    assert firmware.load(tree.view()).state == State.IDLE
