"""Steps of the clock make themselves known. Nobody sets the clock of the machine that runs the tests: what its read
says then is played."""

from __future__ import annotations

import ctypes
import errno
import math
from types import SimpleNamespace

import pytest

from agent.daemon.clock_steps import LOOK_EVERY_S, TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET, ClockSteps
from dlms.link.readable import readable


class Kernel:
    """The kernel's timer of this machine, and a protocol of how it was armed."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.armed: list[int] = []
        self.timerfd_create = self._libc.timerfd_create

    def timerfd_settime(self, descriptor: int, flags: int, when: object, old: object) -> int:
        self.armed.append(flags)
        return int(self._libc.timerfd_settime(descriptor, flags, when, old))


def fails(code: int) -> OSError:
    return OSError(code, "as read(2) says")


def test_a_clock_that_nobody_sets_is_quiet() -> None:
    kernel = Kernel()
    steps = ClockSteps(kernel)
    assert kernel.armed == [TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET]
    assert len(steps.descriptors) == 1
    assert readable(steps.descriptors, 0) == set()
    assert steps.look_every_s == math.inf
    steps.clear()  # readable for nothing
    assert len(steps.descriptors) == 1


def test_after_a_step_it_waits_for_the_next_one() -> None:
    def read(_descriptor: int, _count: int) -> bytes:
        raise fails(errno.ECANCELED)

    kernel = Kernel()
    steps = ClockSteps(kernel, read)
    steps.clear()
    assert len(kernel.armed) == 2
    assert len(steps.descriptors) == 1


@pytest.mark.parametrize("outcome", [b"\1" + bytes(7), fails(errno.EIO)])
def test_a_timer_that_ran_out_or_fails_is_not_waited_for_again(outcome: bytes | OSError) -> None:
    def read(_descriptor: int, _count: int) -> bytes:
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    steps = ClockSteps(Kernel(), read)
    steps.clear()
    assert steps.descriptors == ()
    assert steps.look_every_s == LOOK_EVERY_S


@pytest.mark.parametrize(
    "libc",
    [
        SimpleNamespace(),
        SimpleNamespace(timerfd_create=lambda *_: -1),
        SimpleNamespace(timerfd_create=Kernel().timerfd_create, timerfd_settime=lambda *_: -1),
    ],
)
def test_where_the_system_has_no_such_timer_the_clock_is_looked_at(libc: object) -> None:
    steps = ClockSteps(libc)
    assert steps.descriptors == ()
    assert steps.look_every_s == LOOK_EVERY_S
    steps.clear()
