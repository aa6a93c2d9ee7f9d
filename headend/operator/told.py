"""What a device has told of the programs of its software packages, and of how it reaches its head-end: values that jobs
have read, and jobs that changed something. Read only, without secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from headend.dm import tables as dm
from headend.dm.jobs import queue
from headend.dm.jobs.connectivity import CONNECTIVITY, IN_USE, LEAVES, STATUS
from headend.dm.jobs.types import DEPLOYED

CHANGES = 8
IN_WORDS = {
    "ServerURL": "DM server",
    "RegistrationURL": "Security server",
    "UplinkURL": "Readings go to",
    "Anchors": "Authorities",
    "TimeServers": "Time servers",
}
AS_CONFIGURED = "as configured on the device"
OUTCOMES = {"queued": "not tried yet", "running": "not tried yet", "waiting": "on trial", "done": "confirmed"}

Rows = list[dict[str, Any]]


def services(connection: Connection, device: str) -> Rows:
    """The programs of active components as the device last told them, in the order of their ids."""
    nodes: dict[str, dict[str, str]] = {}
    told: dict[str, float] = {}
    for name, value, updated in _below(connection, device, DEPLOYED):
        key, _, leaf = name.partition("/")
        nodes.setdefault(key, {})[leaf] = value
        told[key] = max(told.get(key, 0.0), updated)
    found = [
        {
            "id": leaves.get("ID") or key,
            "version": leaves.get("Version", ""),
            "state": leaves["Ext/Service"],
            "restarts": leaves.get("Ext/Restarts", ""),
            "detail": leaves.get("Ext/Detail", ""),
            "log": leaves.get("Ext/Log", ""),
            "told": told[key],
        }
        for key, leaves in nodes.items()
        if leaves.get("Ext/Service")
    ]
    return sorted(found, key=lambda one: str(one["id"]))


def connectivity(connection: Connection, device: str) -> dict[str, Any]:
    """How the device reaches its head-end: what is in force as it last told, and the last changes, newest first."""
    in_force = [
        {"what": IN_WORDS[name], "value": _shown(name, value), "told": updated}
        for name, value, updated in _below(connection, device, IN_USE)
        if name in IN_WORDS
    ]
    status = {name: value for name, value, _ in _below(connection, device, STATUS)}
    changes = [_change(job) for job in queue.listing(connection, device, kind=CONNECTIVITY, limit=CHANGES)]
    order = list(IN_WORDS.values())
    return {
        "in_force": sorted(in_force, key=lambda one: order.index(one["what"])),
        "state": status.get("State", ""),
        "changes": changes,
    }


def _change(job: Mapping[str, Any]) -> dict[str, Any]:
    result = job["result"] or {}
    outcome = "taken back" if result.get("state") == "reverted" else OUTCOMES.get(job["state"], job["state"])
    names = {IN_WORDS.get(leaf, "Access"): name for name, leaf in LEAVES.items()}
    wanted = {
        what: _shown(LEAVES[name], str(job["params"][name])) for what, name in names.items() if name in job["params"]
    }
    return {
        "job": job["id"],
        "wanted": wanted,
        "outcome": outcome,
        "why": result.get("error", ""),
        "within_s": job["params"].get("within_s"),
        "updated": job["updated"],
    }


def _shown(leaf: str, value: str) -> str:
    if value == "default":
        return AS_CONFIGURED
    if leaf == "Anchors":
        count = value.count("-----BEGIN CERTIFICATE-----")
        return f"{count} certificate{'s' if count != 1 else ''}"
    return value


def _below(connection: Connection, device: str, root: str) -> list[tuple[str, str, float]]:
    """Relative name, text and time of the values below a node, by their names."""
    query = (
        select(dm.values.c.uri, dm.values.c.value, dm.values.c.updated)
        .where(dm.values.c.device_id == device, dm.values.c.uri.startswith(f"{root}/", autoescape=True))
        .order_by(dm.values.c.uri)
    )
    return [(row.uri.removeprefix(f"{root}/"), row.value or "", row.updated) for row in connection.execute(query)]
