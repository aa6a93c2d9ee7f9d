"""Worlds make much garbage that is in no cycle: it is looked for less often while they run, as in `__main__`."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.sim.world.__main__ import GARBAGE


@pytest.fixture(autouse=True, scope="session")
def seldom_collected() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*GARBAGE)
    yield
    gc.set_threshold(*before)
