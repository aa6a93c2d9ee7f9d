"""What the sans-IO cores of this package have in common: a state that only a table moves, events, bytes, a deadline."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

from dlms.errors import LocalError

StateT = TypeVar("StateT", bound=enum.Enum)
StepT = TypeVar("StepT", bound=enum.Enum)
EventT = TypeVar("EventT")


class Machine(Generic[StateT, StepT, EventT]):
    """Subclasses name their table and fill `_output`, `_events` and `_deadline`."""

    TRANSITIONS: ClassVar[Mapping[tuple[Any, Any], Any]]

    def __init__(self, state: StateT) -> None:
        self._state: StateT = state
        self._output = bytearray()
        self._events: deque[EventT] = deque()
        self._deadline: float | None = None

    @property
    def state(self) -> StateT:
        """Where it is; see the module's text."""
        return self._state

    def take_output(self) -> bytes:
        """All bytes for the line since the last call."""
        output = bytes(self._output)
        self._output.clear()
        return output

    def next_event(self) -> EventT | None:
        """What happened, oldest first."""
        return self._events.popleft() if self._events else None

    def next_deadline(self) -> float | None:
        """When `on_deadline` is due."""
        return self._deadline

    def _step(self, step: StepT) -> None:
        """Move, or raise `LocalError` and change nothing."""
        target = self.TRANSITIONS.get((self._state, step))
        if target is None:
            raise LocalError(f"{step.name.lower()} in state {self._state.name}")
        self._state = target
