"""Keeps the daemon's memory small: gives back what only the start needed, and what a collection left unused.

Figures are of CPython 3.11 on x86-64, 500 meters; `python -m tests.bench memory` measures the whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Mapping
from dataclasses import Field
from types import FunctionType, ModuleType

from agent.clock import Clock
from agent.daemon.memory.generated import replace_generated
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


def after_start(*, generated: bool) -> None:
    """Free the twins of frozen dataclasses, 0.9 MB. `generated`: whether `agent.daemon.memory.generated` has to replace
    what `dataclass` has made, 1.3 MB of 360 classes.

    `dataclass(slots=True)` makes the class anew; functions that were generated to refuse assignments go on referring to
    the first one, which nobody else can reach.
    """
    if generated:
        replace_generated()
    gc.collect()


def drop_texts() -> None:
    """Drop the docstrings of modules and classes, 0.4 MB, and the annotations of functions and dataclasses, 0.9 MB:
    nobody asks a daemon for them. Docstrings of functions, 0.6 MB, are constants of their code, which may use the same
    text. `python -OO` would drop these too, and have `dataclass` make a text for each class instead, which takes
    `inspect`; and what a distribution has compiled beforehand is not of that kind."""
    for module in list(sys.modules.values()):
        # A library of cffi, as `cryptography` loads for certificates, is a module by its type, and has no docstring.
        if isinstance(module, ModuleType) and getattr(module, "__doc__", None):
            module.__doc__ = None
    for found in gc.get_objects():
        if isinstance(found, FunctionType):
            del found.__annotations__
        elif isinstance(found, type):
            _drop_texts_of(found)


def _drop_texts_of(found: type) -> None:
    if isinstance(vars(found).get("__doc__"), str):
        with contextlib.suppress(TypeError):  # of a class that is written in C
            found.__doc__ = None
    fields: Mapping[str, Field[object]] | None = vars(found).get("__dataclass_fields__")
    if fields is None:
        return
    for field in fields.values():  # whether it is a field of the class or of instances stands beside it
        field.type = object
    if "__annotations__" in vars(found):
        del found.__annotations__


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
            gc.collect()
            if hasattr(_LIBC, "malloc_trim"):
                _LIBC.malloc_trim(0)
