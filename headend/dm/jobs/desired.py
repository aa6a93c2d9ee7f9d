"""The desired state: what the operator's jobs have set on a device, so that one that lost it is provisioned again.

A job `provision` or `tasks` that is done leaves here what it has set; what a later one sets or deletes takes its place.
A device that registers anew may have lost all of it (a storage that failed, a factory reset, a rollback over files that
could not be read): it gets jobs with everything. Setting what is there already changes nothing.

Values that are secrets are not kept (`_SECRET`). The token of the readings is issued anew; the others are said to be
missing, by name, and have to be set by whoever knows them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import JSON, Column, Connection, Float, ForeignKey, String, Table, delete, insert, or_, select

from headend.db import metadata
from headend.dm.jobs.params import NODES_PER_JOB_MAX
from headend.metering import readings
from headend.sealing import columns
from headend.sealing.columns import sealed_by
from omadm.readings import TOKEN_NODE, URL_NODE

LOG = logging.getLogger("headend.dm")

TASKS = "./SCHED/Task"
_SECRET = re.compile(r"(?i)(token|password|secret|key|credential)[a-z]*$")
_TASK, _OF_ALL = "task", "schedule"  # kinds of entries beside nodes: a task by its id, what holds for all tasks

desired = Table(
    "dm_desired",
    metadata,
    Column("device_id", ForeignKey("dm_accounts.device_id", ondelete="CASCADE"), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("name", String(255), primary_key=True),
    # Null: a secret, which is not kept. The rest is sealed all the same: an address can hold a password.
    Column("content", JSON(none_as_null=True), info=sealed_by("device_id", "kind", "name")),
    Column("updated", Float, nullable=False),
)


def note(connection: Connection, device_id: str, kind: str, params: Mapping[str, Any], now: float) -> None:
    """A job of `kind` is done: keep what it has set."""
    if kind == "provision":
        for node in params["nodes"]:
            if node.get("delete"):
                _forget_below(connection, device_id, node["path"])
            else:
                _keep(connection, device_id, "node", node["path"], None if _SECRET.search(node["path"]) else node, now)
    elif kind == "connectivity":
        if "uplink" in params:
            node = {"path": URL_NODE, "value": params["uplink"], "format": "chr"}
            _keep(connection, device_id, "node", URL_NODE, node, now)
    elif kind == "tasks":
        for task_id, wanted in params["tasks"].items():
            _forget_below(connection, device_id, f"{TASKS}/{task_id}")  # a task has exactly what the job gives it
            if wanted is None:
                _forget(connection, device_id, _TASK, task_id)
            else:
                _keep(connection, device_id, _TASK, task_id, wanted, now)
        for name in ("zone", "quiet_hours"):
            if name in params:
                _keep(connection, device_id, _OF_ALL, name, [params[name]], now)


def jobs_for(
    connection: Connection, device_id: str, now: float, *, token: bool = True
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and parameters, checked before, of the jobs that provision a device with everything it should have, in
    their order. Without `token` none is issued: a job that brings one waits already."""
    found = connection.execute(
        select(desired).where(desired.c.device_id == device_id).order_by(desired.c.updated, desired.c.name)
    ).all()
    rows = [columns.unseal(connection, desired, row) for row in found]
    tasks = {row["name"]: row["content"] for row in rows if row["kind"] == _TASK}
    of_all = {row["name"]: row["content"][0] for row in rows if row["kind"] == _OF_ALL}
    if tasks or of_all:
        yield "tasks", {"tasks": tasks, **of_all}
    nodes = [row["content"] for row in rows if row["kind"] == "node" and row["content"] is not None]
    secret = [row["name"] for row in rows if row["kind"] == "node" and row["content"] is None]
    if TOKEN_NODE in secret:
        secret.remove(TOKEN_NODE)
        if token:
            nodes.append({"path": TOKEN_NODE, "value": readings.new_token(connection, device_id, now), "format": "chr"})
    for at in range(0, len(nodes), NODES_PER_JOB_MAX):
        yield "provision", {"nodes": nodes[at : at + NODES_PER_JOB_MAX], "atomic": False}
    if secret:
        LOG.warning(
            "%s: set by hand what is secret and not kept here: %s",
            device_id,
            ", ".join(secret),
            extra={"event": "dm.desired.secrets"},
        )


def _keep(connection: Connection, device_id: str, kind: str, name: str, content: object, now: float) -> None:
    _forget(connection, device_id, kind, name)
    row = {"device_id": device_id, "kind": kind, "name": name, "content": content, "updated": now}
    connection.execute(insert(desired).values(columns.seal(connection, desired, row)))


def _forget(connection: Connection, device_id: str, kind: str, name: str) -> None:
    mine = (desired.c.device_id == device_id) & (desired.c.kind == kind) & (desired.c.name == name)
    connection.execute(delete(desired).where(mine))


def _forget_below(connection: Connection, device_id: str, path: str) -> None:
    below = or_(desired.c.name == path, desired.c.name.startswith(f"{path}/", autoescape=True))
    connection.execute(delete(desired).where(desired.c.device_id == device_id, desired.c.kind == "node", below))
