"""The walk over a state table: one step of a `Machine` in one state."""

from __future__ import annotations

import enum
from typing import Any

import pytest

from dlms.errors import LocalError
from dlms.statemachine import Machine


def drain(machine: Machine[Any, Any, Any]) -> list[object]:
    """Bytes and events that wait."""
    waiting: list[object] = []
    while (found := machine.take_output() or machine.next_event()) is not None:
        waiting.append(found)
    return waiting


def take_step(machine: Machine[Any, Any, Any], step: enum.Enum) -> None:
    """The step moves as the table says; where it says nothing it is refused and changes nothing."""
    drain(machine)
    state = machine.state
    target = machine.transitions.get((state, step))
    if target is None:
        with pytest.raises(LocalError):
            machine._step(step)
        assert machine.state is state
        assert not drain(machine)
    else:
        machine._step(step)
        assert machine.state is target
