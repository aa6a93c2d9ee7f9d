"""The time in a header of the DM server: `SyncHdr/Meta/EMI` (OMA-TS-SyncML_MetaInfo 1.2) holds `dcu-time=<seconds>`.

EMI is where the standard has what others need not understand. The time is seconds since 1970 (UTC), with up to three
decimals. It is worth something only under a MAC (docs/dm.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_PREFIX = "dcu-time="
_TIME = re.compile(rf"{_PREFIX}([0-9]{{1,11}}(?:\.[0-9]{{1,3}})?)", re.ASCII)


def time_text(seconds: float) -> str:
    """Return what the server writes."""
    return f"{_PREFIX}{seconds:.3f}"


def time_in(emi: Iterable[str]) -> float | None:
    """Return the time that stands in one of these texts; `None` where there is none, and for what is none."""
    found = (_TIME.fullmatch(text) for text in emi)
    return next((float(match[1]) for match in found if match), None)
