"""Every (state, event) pair of the session and of the meter's association: in the table, or an error without effect."""

from __future__ import annotations

import pytest

from dlms import server, session
from dlms.errors import LocalError
from dlms.server import MeterServer
from dlms.session import MeterSession
from tests.dlms.plain_link import PacketLink


@pytest.mark.parametrize("event", list(session.Event))
@pytest.mark.parametrize("state", list(session.State))
def test_every_pair_of_a_session(state: session.State, event: session.Event) -> None:
    machine = MeterSession(PacketLink(), client=1, server=1)
    machine.state = state
    following = session.TRANSITIONS.get((state, event))
    if following is None:
        with pytest.raises(LocalError):
            machine._step(event)
        assert machine.state is state
    else:
        machine._step(event)
        assert machine.state is following


@pytest.mark.parametrize("event", list(server.Event))
@pytest.mark.parametrize("state", list(server.State))
def test_every_pair_of_the_meters_association(state: server.State, event: server.Event) -> None:
    machine = MeterServer([]).new_association(1)
    machine.state = state
    following = server.TRANSITIONS.get((state, event))
    if following is None:
        with pytest.raises(LocalError):
            machine._step(event)
        assert machine.state is state
    else:
        machine._step(event)
        assert machine.state is following


def test_a_session_can_end_from_everywhere_and_reaches_every_state() -> None:
    ends = {state for state, event in session.TRANSITIONS if event is session.Event.LINK_DOWN}
    assert ends == set(session.State) - {session.State.CLOSED}
    assert {session.State.IDLE, *session.TRANSITIONS.values()} == set(session.State)
    assert {state for state, event in server.TRANSITIONS if event is server.Event.END} == set(server.State)
