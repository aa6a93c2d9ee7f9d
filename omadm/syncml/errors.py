"""The errors of this package, split by who is at fault (local misuse is `messages.SyncmlValueError`)."""

from __future__ import annotations


class SyncmlError(Exception):
    """The peer's bytes are not a SyncML document within our limits.

    `what` was being read, `where` is a byte offset or an element path, `why` says what is wrong.
    """

    def __init__(self, what: str, where: int | str, why: str) -> None:
        place = f"byte {where}" if isinstance(where, int) else where
        super().__init__(f"{what}, {place}: {why}")
        self.what = what
        self.where = where
        self.why = why
