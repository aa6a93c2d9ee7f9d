"""The file of the registry: who was ever in the network, with a version and a checksum.

It holds identities and nothing else, in the form that it has always had: after a rollback, an earlier version of this
software reads it like its own.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from typing import Any

from agent.metering.registry.entry import Meter

VERSION = 1


def dump(meters: Iterable[Meter]) -> bytes:
    """Return the contents of the file."""
    rows = [{name: getattr(meter, name) for name in _TYPES} for meter in meters]
    return json.dumps({"version": VERSION, "crc32": zlib.crc32(_canonical(rows)), "meters": rows}).encode()


def parse(data: bytes) -> list[Meter]:
    """Return the meters of a file. Raises `ValueError` for what is not a file of ours."""
    try:
        document = json.loads(data)
        rows = document["meters"]
        if document["version"] != VERSION or document["crc32"] != zlib.crc32(_canonical(rows)):
            raise ValueError("version or checksum")
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return [Meter(**_checked(row)) for row in rows]


def _canonical(rows: Iterable[object]) -> bytes:
    return json.dumps(list(rows), sort_keys=True, separators=(",", ":")).encode()


_TYPES: dict[str, type | tuple[type, ...]] = {
    "key": str,
    "port": str,
    "address": int,
    "eui48": str,
    "meter_id": str,
    "named": bool,
    "joined": (int, float),
}


def _checked(meter: object) -> dict[str, Any]:
    """The fields of a meter, each of its type. Raises `ValueError`."""
    if not isinstance(meter, dict) or set(meter) != set(_TYPES):
        raise ValueError("fields of a meter")
    for name, kind in _TYPES.items():
        if not isinstance(meter[name], kind):
            raise ValueError(f"{name} of a meter")  # noqa: TRY004 - what is wrong is the file, not the call
    return meter
