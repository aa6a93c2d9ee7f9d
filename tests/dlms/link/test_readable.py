"""Waiting for what can be read, with descriptors of any number."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from dlms.link.readable import readable

FD_SETSIZE = 1024  # what select(2) takes


@pytest.fixture
def high() -> Iterator[socket.socket]:
    """One end of a pair, with a descriptor beyond what `select` takes; the other end has written to it."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= FD_SETSIZE:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FD_SETSIZE + 64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(fileno=fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, FD_SETSIZE)) as high:
        theirs.send(b"x")
        yield high


def test_a_descriptor_may_have_any_number(high: socket.socket) -> None:
    assert high.fileno() >= FD_SETSIZE
    assert readable([high], 0) == {high.fileno()}
    assert high.recv(1) == b"x"
    assert readable([high, high.fileno()], 0) == set()


def test_the_other_end_that_hung_up_can_be_read() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        assert readable([ours], None) == {ours.fileno()}


def test_a_closed_one_can_be_read_and_its_read_says_why() -> None:
    handle = os.dup(0)
    os.close(handle)
    assert readable([handle], 0) == {handle}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(handle, 1)
    with pytest.raises(ValueError, match="negative"):
        readable([-1], 0)
