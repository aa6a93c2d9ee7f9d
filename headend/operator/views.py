"""Views of the other servers' tables for the operator: read only, without secrets."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Select, Table, func, select

from headend import access
from headend.dm import tables as dm
from headend.dm.jobs.firmware import FW_VERSION
from headend.dm.jobs.queue import OPEN_STATES
from headend.dm.jobs.tasks import SCHED, TASKS
from headend.metering import events, readings
from headend.operator import lifecycle
from headend.security import devices as security
from headend.security import records
from omadm.bootstrap import Account
from omadm.local_time import UTC, Zone
from omadm.schedule import schedule_of

SESSION_COLUMNS = ("session_id", "state", "messages", "commands", "started", "updated")

NEXT_RUNS = 3
VALUES_MAX = 10_000

Rows = list[dict[str, Any]]


def counts(connection: Connection) -> dict[str, int]:
    """The number of devices, jobs and so on, for the overview."""

    def count(query: Select[Any]) -> int:
        return connection.execute(select(func.count()).select_from(query.subquery())).scalar_one()

    return {
        "devices": count(select(access.devices.c.id)),
        "meters": count(select(readings.meters.c.meter)),
        "readings": count(select(readings.readings.c.id)),
        "open_alarms": events.open_alarms(connection),
        "security_alarms": count(select(records.alarms.c.id).where(records.alarms.c.acknowledged.is_(None))),
        "open_jobs": count(select(dm.jobs.c.id).where(dm.jobs.c.state.in_(OPEN_STATES))),
        "failed_jobs": count(select(dm.jobs.c.id).where(dm.jobs.c.state == "failed")),
    }


def devices(connection: Connection) -> Rows:
    """The enrolled devices with data of their DM accounts. `fw` is the version at registration; `fw_version` and
    `push_url` are the latest."""
    rows = security.listing(connection)
    refused = access.all_refused(connection)
    columns = (dm.accounts.c.device_id, dm.accounts.c.created, dm.accounts.c.push_url)
    with_account = {row.device_id: row for row in connection.execute(select(*columns))}
    newest = select(func.max(dm.sessions.c.id)).group_by(dm.sessions.c.device_id)
    last = {
        row["device_id"]: {name: row[name] for name in SESSION_COLUMNS}
        for row in connection.execute(select(dm.sessions).where(dm.sessions.c.id.in_(newest))).mappings()
    }
    told = dict(
        connection.execute(select(dm.values.c.device_id, dm.values.c.value).where(dm.values.c.uri == FW_VERSION)).all()
    )
    return [
        _device(row, with_account.get(row["id"]), last.get(str(row["id"])), told.get(str(row["id"])))
        | {"refused": refused.get(str(row["id"]), {})}
        for row in rows
    ]


def _device(
    row: Mapping[str, Any], account: Any, session: dict[str, Any] | None, version: str | None
) -> dict[str, Any]:
    return dict(row) | {
        "state": lifecycle.state(dict(row)),
        "account_since": None if account is None else account.created,
        "push_url": row["push_url"] if account is None else account.push_url,
        "last_session": session,
        "fw_version": version or row["fw"],
    }


def credentials(account: Account) -> dict[str, str]:
    """The credentials of a DM account, for a device of another make. They are secret, and shown once, to who asked."""
    return {
        "server_id": account.server_id,
        "url": account.url,
        "auth": account.auth_type,
        "client_name": account.client_name,
        "client_secret": account.client_secret,
        "client_nonce": base64.b64encode(account.client_nonce).decode("ascii"),
        "server_name": account.server_name,
        "server_secret": account.server_secret,
        "server_nonce": base64.b64encode(account.server_nonce).decode("ascii"),
    }


def alerts(connection: Connection, device: str | None, limit: int) -> Rows:
    """The alerts, newest first."""
    return _newest(connection, dm.alerts, device, limit, hidden={"identity"})


def sessions(connection: Connection, device: str | None, limit: int) -> Rows:
    """The DM sessions, newest first."""
    return _newest(connection, dm.sessions, device, limit)


def values(connection: Connection, device: str | None, limit: int) -> Rows:
    """The last known node values, by device and URI; binary ones as hexadecimal text."""
    query = select(dm.values).order_by(dm.values.c.device_id, dm.values.c.uri).limit(limit)
    if device is not None:
        query = query.where(dm.values.c.device_id == device)
    rows: Rows = []
    for row in connection.execute(query).mappings():
        data = row["data"]
        rows.append(dict(row) | {"data": None if data is None else bytes(data).hex()})
    return rows


def tasks(connection: Connection, device: str, now: float) -> Rows:
    """The reading tasks of a device as it last told them, each with its nodes below `node`, its next runs by its own
    schedule, and when it told."""
    nodes = {row["uri"]: row for row in values(connection, device, VALUES_MAX) if row["uri"].startswith(f"{SCHED}/")}
    zone = str(nodes.get(f"{SCHED}/Zone", {}).get("value") or UTC.text)
    found: dict[str, dict[str, Any]] = {}
    for uri, row in nodes.items():
        task_id, _, node = uri.removeprefix(f"{TASKS}/").partition("/")
        if uri.startswith(f"{TASKS}/") and node:
            task = found.setdefault(task_id, {"task": task_id, "zone": zone, "told": 0.0, "node": {}})
            task["node"][node] = row["value"]
            task["told"] = max(task["told"], row["updated"])
    return [task | {"next": _next_runs(task["node"], zone, now)} for task in found.values()]


def _next_runs(node: Mapping[str, Any], zone: str, now: float) -> list[str]:
    """The next runs of a task in local time, of one that can run."""
    if node.get("Enabled") == "false" or node.get("Status/State") in ("disabled", "incomplete"):
        return []
    try:
        times = f"{node['Setting/Times']} {zone}" if node.get("Setting/Times") else ""
        schedule = schedule_of(int(node.get("Setting/Every") or 0), int(node.get("Setting/Offset") or 0), times)
        runs = [schedule.next(now)]
        while len(runs) < NEXT_RUNS:
            runs.append(schedule.next(runs[-1]))
        local = Zone(zone)
        return [time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(local.local(run))) for run in runs]
    except (ValueError, ZeroDivisionError):  # what a device of another make says
        return []


def _newest(
    connection: Connection, table: Table, device: str | None, limit: int, hidden: set[str] | None = None
) -> Rows:
    columns = [column for column in table.c if column.name not in (hidden or set())]
    query = select(*columns).order_by(table.c.id.desc()).limit(limit)
    if device is not None:
        query = query.where(table.c.device_id == device)
    return [dict(row) for row in connection.execute(query).mappings()]
