"""Waits until something can be read, whatever numbers its descriptors have.

`select` takes only descriptors below 1024 (FD_SETSIZE, select(2)): in a process with many files open it fails.
"""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import Protocol


class HasDescriptor(Protocol):
    """What can be waited for, beside a bare descriptor: a socket, a serial port."""

    def fileno(self) -> int: ...


def readable(watched: Iterable[HasDescriptor | int], timeout_s: float | None) -> set[int]:
    """Wait until one of `watched` can be read, at most `timeout_s` seconds; `None` waits for ever.

    Returns the descriptors of those that can be read. One whose other end hung up counts, as does one that is in error
    or closed: its read says what is the matter. Raises `ValueError` for a negative descriptor.
    """
    poll = select.poll()
    for one in watched:
        poll.register(one, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(None if timeout_s is None else timeout_s * 1000)}
