"""POSIX TZ strings of named zones, for tests: the last line of their files in the tz database (RFC 9636, 3.3)."""

from __future__ import annotations

import zoneinfo
from pathlib import Path


def posix(name: str) -> str:
    """The rule that holds after the last switch that the file lists."""
    files = [Path(folder, name) for folder in zoneinfo.TZPATH]
    file = next(file for file in files if file.is_file())
    return file.read_bytes().rsplit(b"\n", 2)[1].decode("ascii")


NAMES = (
    "Europe/Madrid",
    "Europe/Dublin",  # winter time is the one that is set
    "America/Santiago",  # the south; switches at 24:00
    "America/Havana",  # midnight does not exist once a year
    "America/Nuuk",  # switches at -1:00 of a day, and over midnight
    "Australia/Lord_Howe",  # half an hour
    "Asia/Gaza",  # at 50:00 of a day
    "Asia/Beirut",
    "Asia/Kolkata",
    "Etc/UTC",
)
