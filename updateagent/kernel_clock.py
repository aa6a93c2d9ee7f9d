"""Whether the kernel vouches for its clock, by adjtimex(2): something, NTP or PTP, disciplines it."""

from __future__ import annotations

TIME_ERROR = 5  # of linux/timex.h: the clock is not synchronised
_TIMEX_BYTES = 512  # struct timex has 208 on 64 bit, 128 on 32: room for one that grows


def is_disciplined() -> bool:
    """Whether something disciplines the clock. Where the call does not exist nothing does."""
    import ctypes  # half a MiB, which only the check of a package needs

    try:
        state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))  # modes 0: nothing is set
    except (OSError, AttributeError):
        return False
    return 0 <= state < TIME_ERROR
