"""What device and head-end agree on about logs (`./DiagMon/Log`)."""

from __future__ import annotations

LEVELS = ("debug", "info", "warning", "error")
SECONDS_MAX = 2**31 - 1  # of a time: nodes with numbers are 32 bit values (TND 1.2, 9.3.4)
