"""A clock that stands still until a test moves it."""

from __future__ import annotations


class VirtualClock:
    """Monotonic and civil time move together; `wall_offset` and `is_trusted` may be set to make the clock jump."""

    def __init__(self, wall: float = 1_800_000_000.0, monotonic: float = 100.0) -> None:
        self.now = monotonic
        self.wall_offset = wall - monotonic
        self.is_trusted = True

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self.wall_offset

    def trusted(self) -> bool:
        return self.is_trusted

    def advance(self, seconds: float) -> None:
        self.now += seconds
