"""Every (state, event) pair of the session and of both sides of an association: in the table, or refused."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest

from dlms.client import association, session
from dlms.client.association import Association, Proposal
from dlms.client.session import MeterSession
from dlms.errors import LocalError
from dlms.server import server
from dlms.server.server import MeterServer
from tests.dlms.plain_link import PacketLink

MACHINES: dict[str, tuple[Any, Callable[[], Any]]] = {
    "session": (session, lambda: MeterSession(PacketLink(), client=1, server=1)),
    "client": (association, lambda: Association(Proposal())),
    "meter": (server, lambda: MeterServer([]).new_association(1)),
}
PAIRS = [
    (name, state, event)
    for name, (module, _make) in MACHINES.items()
    for state in module.State
    for event in module.Event
]


@pytest.mark.parametrize(("name", "state", "event"), PAIRS)
def test_every_pair(name: str, state: Enum, event: Enum) -> None:
    module, make = MACHINES[name]
    machine = make()
    machine._state = state
    following = module.TRANSITIONS.get((state, event))
    if following is None:
        with pytest.raises(LocalError):
            machine._step(event)
        assert machine.state is state
    else:
        machine._step(event)
        assert machine.state is following


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_every_state_is_reached_and_every_event_moves_something(name: str) -> None:
    module, make = MACHINES[name]
    reached = {make().state}
    for _ in module.State:
        reached |= {to for (state, _event), to in module.TRANSITIONS.items() if state in reached}
    assert reached == set(module.State)
    assert {event for _state, event in module.TRANSITIONS} == set(module.Event)


def test_everything_can_end_from_everywhere() -> None:
    assert {state for state, event in session.TRANSITIONS if event is session.Event.LINK_DOWN} == set(session.State) - {
        session.State.CLOSED
    }
    assert {state for state, event in association.TRANSITIONS if event is association.Event.BREAK} == set(
        association.State
    ) - {association.State.CLOSED}
    assert {state for state, event in server.TRANSITIONS if event is server.Event.END} == set(server.State)


# What a user may do in each state of the client's association, and what it does to it.
VERBS: dict[str, tuple[Callable[[Association], object], set[association.State]]] = {
    "associate": (lambda machine: machine.associate(), {association.State.IDLE}),
    "release": (lambda machine: machine.release(), {association.State.READY, association.State.WAITING}),
}


@pytest.mark.parametrize("verb", sorted(VERBS))
@pytest.mark.parametrize("state", list(association.State))
def test_verbs_of_the_client_follow_the_table(verb: str, state: association.State) -> None:
    act, allowed = VERBS[verb]
    machine = Association(Proposal())
    machine._state = state
    if state in allowed:
        act(machine)
        assert machine.take_output()
    else:
        with pytest.raises(LocalError):
            act(machine)
        assert machine.state is state
        assert not machine.take_output()
