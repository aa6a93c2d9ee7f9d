"""What devices told of their meters and of the networks that these hang in: topology, signal, history, counters.

A device has them as JSON leaves of its management tree (docs/management-objects.md, `./AMI/Network`, `./AMI/Registry`).
The job `survey` reads them, and they are shown from the last known values with the time at which they were read.
Whatever a leaf holds that is not as described is left out; a leaf that is no JSON counts as not read, and says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from headend.dm import tables as dm

NETWORK = "./AMI/Network/"
REGISTERED = "./AMI/Registry/Meters"
SURVEY = ("./AMI/Network", REGISTERED)
NODES_MAX = 4096  # shown of one network
EVENTS_MAX = 512
TEXT_CHARS_MAX = 160

_LEAF = re.compile(r"\./AMI/Network/([^/]+)/(Topology|History)")
_NODE = {
    "eui48": str,
    "meter_id": str,
    "registered": bool,
    "state": str,
    "level": int,
    "sid": int,
    "lsid": int,
    "path": list,
    "rx_level": int,
    "snr": int,
    "modulation": str,
    "promotions": int,
    "registrations": int,
    "last_heard": float,
}
_EVENT = {"seq": int, "at": float, "kind": str, "eui48": str, "sid": int, "lsid": int, "detail": str}
_METER = {
    "meter_id": str,
    "port": str,
    "address": int,
    "eui48": str,
    "state": str,
    "model": str,
    "firmware": str,
    "last_success": float,
    "last_error": str,
    "key_failures": int,
}
COUNTERS = ("read", "timeout", "refused", "decode", "auth", "other")

Rows = list[dict[str, Any]]


def networks(connection: Connection, device: str | None = None) -> Rows:
    """The networks, by device and port: `nodes` in the order of the device, `history` newest first, `updated`: when
    they were read, `problem`: what is wrong with what was read, empty for nothing."""
    query = select(dm.values.c.device_id, dm.values.c.uri, dm.values.c.value, dm.values.c.updated)
    query = query.where(dm.values.c.uri.startswith(NETWORK, autoescape=True))
    if device is not None:
        query = query.where(dm.values.c.device_id == device)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in connection.execute(query.order_by(dm.values.c.device_id, dm.values.c.uri)):
        leaf = _LEAF.fullmatch(row.uri)
        if leaf is None:
            continue
        port, name = leaf.groups()
        network = found.setdefault(
            (row.device_id, port),
            {"device": row.device_id, "port": port, "nodes": [], "history": [], "updated": 0.0, "problem": ""},
        )
        network["updated"] = max(network["updated"], row.updated)
        columns, kept, most = (_NODE, "nodes", NODES_MAX) if name == "Topology" else (_EVENT, "history", EVENTS_MAX)
        network[kept], problem = rows(row.value, columns, most)
        network["problem"] = network["problem"] or problem
    return list(found.values())


def meters(connection: Connection, device: str | None = None) -> Rows:
    """The registered meters of devices, as each told of them last, with their counters and what they can."""
    query = select(dm.values.c.device_id, dm.values.c.value, dm.values.c.updated)
    query = query.where(dm.values.c.uri == REGISTERED)
    if device is not None:
        query = query.where(dm.values.c.device_id == device)
    found: Rows = []
    for row in connection.execute(query.order_by(dm.values.c.device_id)):
        told, _ = rows(row.value, _METER | {"counters": dict, "offered": dict, "objects": dict}, NODES_MAX)
        for meter in told:
            counters = meter.pop("counters") or {}
            offered, objects = meter.pop("offered") or {}, meter.pop("objects") or {}
            meter["counters"] = {name: _number(counters.get(name)) for name in COUNTERS}
            meter["pdu_size"] = _number(offered.get("pdu_size"))
            meter["get_with_list"] = offered.get("get_with_list") is True
            meter["selective_access"] = offered.get("selective_access") is True
            meter["objects"] = _number(objects.get("count"))
            found.append({"device": row.device_id, "updated": row.updated, **meter})
    return found


def rows(text: str | None, columns: Mapping[str, type], most: int) -> tuple[Rows, str]:
    """Rows of a JSON leaf, at most `most`, each with all `columns`: `None` where a value is not of its type. And what
    is wrong with the leaf as a whole, empty for nothing."""
    try:
        document = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return [], "what the device told is not JSON"
    if not isinstance(document, list):
        return [], "what the device told is not a list"
    found = [
        {name: _value(entry.get(name), kind) for name, kind in columns.items()}
        for entry in document[:most]
        if isinstance(entry, dict)
    ]
    return found, "" if len(document) <= most else f"{most} of {len(document)} are shown"


def _value(value: object, kind: type) -> Any:
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        # Infinity and NaN are no times.
        return float(value) if abs(value) < 1e15 else None
    if kind is int and isinstance(value, bool):
        return None
    if not isinstance(value, kind):
        return None
    if isinstance(value, str):
        return value[:TEXT_CHARS_MAX]
    if isinstance(value, list):
        return [entry[:TEXT_CHARS_MAX] for entry in value if isinstance(entry, str)]
    return value


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
