"""What the sans-IO cores of this package have in common: a state that only a table moves, bytes, events, a deadline."""

from __future__ import annotations

import enum
from collections import deque
from typing import Generic, TypeVar

from dlms.errors import LocalError

StateT = TypeVar("StateT", bound=enum.Enum)
StepT = TypeVar("StepT", bound=enum.Enum)
EventT = TypeVar("EventT")


class Transitions(dict[tuple[StateT, StepT], StateT]):
    """A state table: (state, step) to the next state. A pair that is not in it is an illegal step."""

    def after(self, state: StateT, step: StepT) -> StateT:
        """The state that `step` leads to from `state`. Raises `LocalError` when the table does not have the pair."""
        following = self.get((state, step))
        if following is None:
            raise LocalError(f"{step.name.lower()} in state {state.name}")
        return following


class Stateful(Generic[StateT, StepT]):
    """What has a state that only `transitions` moves. Subclasses take the steps."""

    def __init__(self, state: StateT, transitions: Transitions[StateT, StepT]) -> None:
        self.transitions = transitions
        self._state = state

    @property
    def state(self) -> StateT:
        """The state it is in; what each one means is said where the table stands."""
        return self._state

    def _step(self, step: StepT) -> None:
        """Move, or raise `LocalError` and change nothing."""
        self._state = self.transitions.after(self._state, step)


class Machine(Stateful[StateT, StepT], Generic[StateT, StepT, EventT]):
    """A core of octets, events and a deadline. Subclasses fill `_output`, `_events` and `_deadline`."""

    def __init__(self, state: StateT, transitions: Transitions[StateT, StepT]) -> None:
        super().__init__(state, transitions)
        self._output = bytearray()
        self._events: deque[EventT] = deque()
        self._deadline: float | None = None

    def take_output(self) -> bytes:
        """Return all bytes for the line since the last call."""
        output = bytes(self._output)
        self._output.clear()
        return output

    def next_event(self) -> EventT | None:
        """Return the oldest event that was not read yet, None when there is none."""
        return self._events.popleft() if self._events else None

    def next_deadline(self) -> float | None:
        """When `on_deadline` is due, in monotonic seconds; None for never."""
        return self._deadline
