"""Keeps the daemon's memory small: gives back what only the start needed, and what a collection left unused.

Figures are of CPython 3.11 on x86-64, 500 meters; `python -m tests.bench memory` measures the whole.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from types import CellType, FunctionType

from agent.clock import Clock
from agent.status import StatusBoard

QUIET_S = 3.0  # without a delivery: the collection is over
_M_ARENA_MAX = -8  # mallopt(3)
_LIBC = ctypes.CDLL(None)


def before_start() -> None:
    """Call it before the configuration is read and threads are started. Where the C library is not glibc, only the
    first of both has an effect."""
    # PyYAML's binding to libyaml, which `SafeLoader` does not use, would keep all of PyYAML in memory. An entry that is
    # `None` says "not to be had" (Python reference, 5.3.1).
    sys.modules.setdefault("yaml._yaml", None)  # type: ignore[arg-type]
    # One arena instead of one per thread, 0.6 MB: what one thread has freed serves the others. They take turns anyhow,
    # as one lock lets only one of them run Python.
    if hasattr(_LIBC, "mallopt"):
        _LIBC.mallopt(_M_ARENA_MAX, 1)


def after_configuration() -> None:
    """Unload PyYAML, 1 MB: the only document of the daemon's life has been read. What is loaded next moves in there."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "yaml"]:
        del sys.modules[name]
    gc.collect()  # classes refer to themselves


def after_start() -> None:
    """Free the twins of dataclasses, 0.9 MB of 290 classes.

    `dataclass(slots=True)` makes its class anew. With `frozen=True` the functions that refuse assignments go on
    referring to the first one, which nobody else can reach. They are given the class that they belong to.
    """
    for found in gc.get_objects():
        if isinstance(found, type) and {"__dataclass_fields__", "__slots__"} <= vars(found).keys():
            for name in ("__setattr__", "__delattr__"):
                for cell in _cells(vars(found).get(name)):
                    if _is_twin(cell.cell_contents, found):
                        cell.cell_contents = found
    gc.collect()


def _cells(function: object) -> tuple[CellType, ...]:
    return function.__closure__ or () if isinstance(function, FunctionType) else ()


def _is_twin(first: object, second: type) -> bool:
    return (
        isinstance(first, type)
        and first is not second
        and (first.__module__, first.__qualname__) == (second.__module__, second.__qualname__)
    )


class Trim:
    """Returns what the allocator holds unused to the system once after each collection, 1 MB: while batches are made
    and visits go on at once, it needs more than at rest. Main thread only."""

    def __init__(self, board: StatusBoard, clock: Clock) -> None:
        self._board = board
        self._clock = clock
        self._delivered, self._at = 0.0, 0.0
        self.due = False

    def tick(self) -> None:
        """Look whether deliveries have ended. Called about every second; takes some milliseconds once."""
        delivered, now = self._board.current.queue.last_uplink, self._clock.monotonic()
        if delivered != self._delivered:
            self._delivered, self._at, self.due = delivered, now, True
        elif self.due and now - self._at >= QUIET_S:
            self.due = False
            if hasattr(_LIBC, "malloc_trim"):
                _LIBC.malloc_trim(0)
