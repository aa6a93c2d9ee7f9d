"""What a program may keep in its folder: when that is too much, and what the head-end is told then. Sans-IO.

There is no quota that every kernel and file system here has, so the folder is looked at every so often
(`agent.services.folders.kept_kib`). In between a single file cannot grow beyond the limit, which the kernel sees to
(RLIMIT_FSIZE). All programs together keep a part of the file system at most (`crowding`): on a small one they could
fill it though each keeps to its limit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from omadm.readings import EventReport

KEPT_KIB = 16 << 10  # unless the settings say otherwise
ENTRY_KIB = 4  # what an entry takes at least, with its inode and its place in a folder
COUNTED_TIMES = 64  # the limit: what is more is not counted, so that looking takes a bounded time
CLEAN_UP_S = 60.0  # that a program has which finds too much at its start, such as a version that mends the one before
NAME = "the program of a software package was stopped: it keeps too much"


OnAlarm = Callable[[str, str, str], None]
"""Told which service, in which version, was stopped for what it keeps, and why."""


class Room:
    """Whether one service, in one version, keeps more than it may."""

    def __init__(self, limit_kib: int) -> None:
        self.limit_kib = limit_kib
        self._allowed: int | None = None
        self._until = 0.0

    def exceeded(self, kib: int, now: float) -> str:
        """Why the program is to be stopped, which keeps so much; empty for nothing. What is too much when it is looked
        at first was there before: it may become less for `CLEAN_UP_S`, and not more."""
        limit = self.limit_kib
        if self._allowed is None:
            self._allowed, self._until = (kib if kib < COUNTED_TIMES * limit else limit), now + CLEAN_UP_S
        if kib <= limit:
            self._allowed = limit
            return ""
        if kib <= self._allowed and now < self._until:
            return ""
        shown = f"{kib} KiB" if kib < COUNTED_TIMES * limit else f"{kib} KiB and more"
        return f"keeps {shown} in its folder, {limit} KiB are allowed"


def crowding(kept: Mapping[str, int], together_kib: int) -> tuple[str, str] | None:
    """Which service is to be stopped, and why, where those that may still write keep more than `together_kib` in all:
    the one that keeps the most. `None` for none."""
    found = sum(kept.values())
    if found <= together_kib:
        return None
    most = max(kept, key=lambda service_id: (kept[service_id], service_id))
    shown = f"keeps {kept[most]} KiB in its folder, more than the others: {found} KiB together"
    return most, f"{shown}, {together_kib} KiB are allowed"


def file_kib_max(kept_kib_max: int) -> int:
    """How large the kernel lets a single file get: just too much, so that what ended the program is seen."""
    return kept_kib_max + ENTRY_KIB


def alarm(service_id: str, version: str, why: str, wall: float) -> EventReport:
    """What the head-end is told."""
    return EventReport(
        event="notice",
        meter="",
        sender=f"service {service_id} {version}",
        code=None,
        name=NAME,
        grave=True,
        obis=None,
        meter_time=None,
        received=round(wall, 3),
        trusted=False,
        invoke=None,
        security="none",
        values=[{"tag": "str", "raw": why}],
        octets=None,
        error=None,
        count=1,
        key=hashlib.sha256(f"{NAME}\0{service_id}\0{version}\0{wall:.0f}".encode()).hexdigest()[:32],
    )
