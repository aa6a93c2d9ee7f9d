"""Time zones by the names of the tz database, for devices, which take POSIX TZ strings."""

from __future__ import annotations

import zoneinfo
from importlib import resources
from pathlib import Path

from omadm.local_time import Zone, ZoneError


def posix_zone(name: str) -> str:
    """Return a zone as a POSIX TZ string: as it is, or the rule at the end of its file in the tz database (RFC 9636,
    3.3), which holds from the last switch on that the file lists. Raises `ZoneError`."""
    try:
        return Zone(name).text
    except ZoneError:
        pass
    if name not in zoneinfo.available_timezones():
        raise ZoneError(f"{name!r} is no POSIX TZ string, and no name in the tz database of this machine")
    rule = _file(name).rsplit(b"\n", 2)[1].decode("ascii", "replace")
    try:
        return Zone(rule).text
    except ZoneError as error:
        raise ZoneError(f"{name} has no rule for the time to come ({error})") from error


def _file(name: str) -> bytes:
    for folder in zoneinfo.TZPATH:
        file = Path(folder, name)
        if file.is_file():
            return file.read_bytes()
    return resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()
