"""The flag that ends a wait."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from agent.wakeup import Wakeup
from dlms.link.readable import readable

LONG_S = 60.0  # a wait that nobody ends fails its test by the clock of the test run


def is_up(wakeup: Wakeup) -> bool:
    return bool(readable([wakeup], 0))


def test_a_flag_that_was_set_ends_the_next_wait_once() -> None:
    wakeup = Wakeup()
    wakeup.set()
    wakeup.set()
    assert not wakeup.wait(LONG_S)
    assert not is_up(wakeup)


def test_another_thread_ends_the_wait_under_way() -> None:
    wakeup = Wakeup()
    thread = threading.Thread(target=wakeup.set)
    thread.start()
    assert not wakeup.wait(LONG_S)
    thread.join()


def test_a_flag_that_was_cleared_before_the_look_is_up_for_what_comes_after_it() -> None:
    wakeup = Wakeup()
    wakeup.clear()
    wakeup.set()
    assert is_up(wakeup)
    wakeup.clear()
    assert not is_up(wakeup)


def test_a_socket_ends_the_wait_as_well_and_is_told_from_the_flag() -> None:
    wakeup = Wakeup()
    near, far = socket.socketpair()
    with near, far:
        wakeup.set()
        assert not wakeup.wait(LONG_S, [near])
        far.send(b"!")
        assert wakeup.wait(LONG_S, [near])
        wakeup.set()
        assert wakeup.wait(LONG_S, [near])
        assert not is_up(wakeup)


def test_a_counter_that_is_full_wakes_all_the_same() -> None:
    wakeup = Wakeup()
    os.eventfd_write(wakeup.fileno(), (1 << 64) - 2)
    wakeup.set()
    assert is_up(wakeup)


def test_nothing_is_left_open_when_the_flag_is_gone() -> None:
    wakeup = Wakeup()
    descriptor = wakeup.fileno()
    os.fstat(descriptor)
    del wakeup
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
