"""What the kernel answers, and what is made of it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import pytest

from updateagent import cli, kernel_clock
from updateagent.compose import UpdateAgent


class Kernel:
    """A C library whose adjtimex answers `state`; one without it for None."""

    def __init__(self, state: int | None) -> None:
        if state is not None:
            self.adjtimex = lambda _timex: state


@pytest.mark.parametrize(
    ("state", "disciplined"),
    [(0, True), (1, True), (4, True), (kernel_clock.TIME_ERROR, False), (-1, False), (None, False)],
)
def test_the_clock_is_vouched_for_while_the_kernel_says_that_it_is_disciplined(
    state: int | None, disciplined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Kernel(state))
    assert kernel_clock.is_disciplined() is disciplined


def test_this_kernel_answers() -> None:
    assert kernel_clock.is_disciplined() in {True, False}


@dataclass(frozen=True)
class Agent:
    """The parts of which `boot` makes use; it boots with what `vouched` says."""

    vouched: Callable[[], bool]

    def alone(self) -> AbstractContextManager[None]:
        return nullcontext()

    def updater(self) -> Agent:
        return self

    def boot(self) -> int:
        return int(self.vouched())


def test_the_kernel_is_not_asked_while_the_system_starts() -> None:
    assert cli._boot_of(cast("UpdateAgent", Agent(lambda: True))) == 0
