"""Transition tables of state machines."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Generic, TypeVar

StateT = TypeVar("StateT", bound=Enum)
InputT = TypeVar("InputT", bound=Enum)


class Transitions(Generic[StateT, InputT]):
    """The table `(state, input) → state` of one machine. `error` is raised for a pair that is not in it."""

    def __init__(self, table: Mapping[tuple[StateT, InputT], StateT], error: type[Exception]) -> None:
        self.table = dict(table)
        self._error = error

    def after(self, state: StateT, given: InputT) -> StateT:
        """The next state. Raises the machine's own error for an illegal input; the caller then keeps its state."""
        try:
            return self.table[state, given]
        except KeyError:
            raise self._error(f"{given.name} in {state.name}") from None

    def allow(self, state: StateT, given: InputT) -> bool:
        """Whether the table has the pair."""
        return (state, given) in self.table


class Stateful(Generic[StateT, InputT]):
    """What has a state that only its table moves. Subclasses take the steps."""

    def __init__(self, state: StateT, transitions: Transitions[StateT, InputT]) -> None:
        self._transitions = transitions
        self._state = state

    @property
    def state(self) -> StateT:
        return self._state

    def _step(self, given: InputT) -> None:
        """Move, or raise the table's error and change nothing."""
        self._state = self._transitions.after(self._state, given)
