"""Orders to meters as the operator sees them: the jobs of that kind, with what became of each meter.

While an order is under way the device tells how far it is when it is asked (`./AMI/Order/<x>/Status/Progress`, by a job
`get`); what it said last is shown with its time. When the order is over its result has the meters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from headend.dm import tables as dm
from headend.dm.jobs import queue
from headend.dm.jobs.order import OrderJob, node_of, told_by_device

Rows = list[dict[str, Any]]


def listing(connection: Connection, device_id: str | None = None, *, limit: int = 100) -> Rows:
    """The newest orders, of one device or of all."""
    jobs = queue.listing(connection, device_id, kind=OrderJob.name, limit=limit)
    return [_order(connection, job) for job in jobs]


def show(connection: Connection, job_id: int) -> dict[str, Any] | None:
    """An order with its meters; None for an unknown id, or a job that is no order."""
    job = queue.show(connection, job_id)
    return None if job is None or job["kind"] != OrderJob.name else _order(connection, job)


def progress_path(job_id: int) -> str:
    """The node that says how far an order is."""
    return f"{node_of(job_id)}/Status/Progress"


def _order(connection: Connection, job: Mapping[str, Any]) -> dict[str, Any]:
    params, result = job["params"], job["result"] or {}
    told, told_at = _told(connection, job)
    listed = result.get("meters", told.get("meters", []))
    meters = [meter for meter in listed if isinstance(meter, dict)] if isinstance(listed, list) else []
    counts: dict[str, int] = {}
    for meter in meters:
        counts[str(meter.get("state"))] = counts.get(str(meter.get("state")), 0) + 1
    return {
        "id": job["id"],
        "device_id": job["device_id"],
        "order": params.get("order", ""),  # empty in a job that is damaged
        "targets": params.get("meters", []),
        "parameters": params.get("parameters", {}),
        "state": job["state"],
        "created": job["created"],
        "updated": job["updated"],
        "error": result.get("error"),
        "counts": counts or told.get("counts", {}),
        "told_at": told_at,
        "meters": [
            {name: meter.get(name) for name in ("meter", "state", "value", "error", "progress")} for meter in meters
        ],
    }


def _told(connection: Connection, job: Mapping[str, Any]) -> tuple[dict[str, Any], float | None]:
    """What the device last said of how far an order is, and when; nothing once there is a result."""
    if job["result"]:
        return {}, None
    query = select(dm.values.c.value, dm.values.c.updated).where(
        dm.values.c.device_id == job["device_id"], dm.values.c.uri == progress_path(job["id"])
    )
    row = connection.execute(query).first()
    told, _ = told_by_device(row.value) if row is not None and row.value else ({}, "")
    return (told, row.updated) if row is not None and told else ({}, None)
