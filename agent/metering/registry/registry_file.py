"""The file of the registry: who was ever in the network, with a version and a checksum.

It holds identities and nothing else, in the form that it has always had, with `double_of` where a meter has that: after
a rollback, an earlier version of this software reads it like its own. Members that a later version adds to a meter are
kept and written back.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from agent.metering.registry.entry import Meter
from agent.tree.newer import check_version

VERSION = 1


Foreign = Mapping[str, Mapping[str, object]]
"""By the key of a meter: members that this program does not know."""


def dump(meters: Iterable[Meter], foreign: Foreign) -> bytes:
    """Return the contents of the file."""
    rows = [{**foreign.get(meter.key, {}), **_row(meter)} for meter in meters]
    return json.dumps({"version": VERSION, "crc32": zlib.crc32(_canonical(rows)), "meters": rows}).encode()


def parse(data: bytes) -> tuple[list[Meter], Foreign]:
    """Return the meters of a file, and what this program does not know of them.

    Raises `NewerFormatError` for a file of a later version, `ValueError` for what is not a file of ours.
    """
    try:
        document = json.loads(data)
        check_version(document["version"], VERSION)
        rows = document["meters"]
        if document["crc32"] != zlib.crc32(_canonical(rows)):
            raise ValueError("wrong checksum")
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    meters = [Meter(**_checked(row)) for row in rows]
    known = {*_TYPES, _DOUBLE}
    foreign = {row["key"]: {name: value for name, value in row.items() if name not in known} for row in rows}
    return meters, {key: members for key, members in foreign.items() if members}


def _row(meter: Meter) -> dict[str, object]:
    row = {name: getattr(meter, name) for name in _TYPES}
    return row | {_DOUBLE: meter.double_of} if meter.double_of else row


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
_DOUBLE = "double_of"


def _checked(meter: object) -> dict[str, Any]:
    """The fields of a meter, each of its type. Raises `ValueError`."""
    if not isinstance(meter, dict) or not set(meter) >= set(_TYPES):
        raise ValueError("fields of a meter")
    for name, kind in _TYPES.items():
        if not isinstance(meter[name], kind):
            raise ValueError(f"{name} of a meter")  # noqa: TRY004 - what is wrong is the file, not the call
    double_of = meter.get(_DOUBLE)
    return {name: meter[name] for name in _TYPES} | {_DOUBLE: double_of if isinstance(double_of, str) else ""}
