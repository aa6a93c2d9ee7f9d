"""The clock port: monotonic time for deadlines, civil time for records, and whether civil time can be believed."""

from __future__ import annotations

import time
from typing import Protocol

# The device clock is battery-less: before the first synchronisation it says 1970 or the date of the image.
TRUSTED_SINCE_EPOCH_S = 1_767_225_600.0  # 2026-01-01T00:00:00Z: no device of this software existed before


class Clock(Protocol):
    """What a component may know about time. Protocol cores get `now` as an argument and never hold a clock."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""

    def wall(self) -> float:
        """Seconds since 1970-01-01T00:00:00Z."""

    def trusted(self) -> bool:
        """Return whether `wall()` can be believed: the clock has been set since the device was made."""


class SystemClock:
    """The clock of the machine."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    def trusted(self) -> bool:
        return time.time() >= TRUSTED_SINCE_EPOCH_S
