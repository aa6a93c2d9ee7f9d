"""The queue of jobs: what the operator wants a device to do, and the results.

queued → running → done | failed
                 → waiting → queued (the alert came) → running → …
                           → failed (it did not come in time, or the operator gave up)
running → queued   when the session breaks off or the server restarts; `ATTEMPTS_MAX` times, then failed
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select, update

from headend import access
from headend.dm.accounts import UnknownDevice, load, void
from headend.dm.jobs import desired
from headend.dm.jobs.firmware import FIRMWARE
from headend.dm.jobs.steps import Done, Failed, Job, Json, Outcome, Waiting
from headend.dm.jobs.types import JOB_TYPES, JobError
from headend.dm.tables import jobs
from headend.software.releases import PackageInfo, of_version
from omadm.readings import TOKEN_NODE

ATTEMPTS_MAX = 20  # sessions that may break off during a job; a line that bad needs a person
PATIENCE = 3  # after so many of them in a row the jobs behind it go first
UNREADABLE_MAX = 3  # answers of a device to one job, each of which ended a session because it could not be read
HOLD_VALUES = ("nodes", "commands")  # parameters whose entries carry values to set
OPEN_STATES = ("queued", "running", "waiting")


def enqueue(conn: Connection, device_id: str, kind: str, params: Mapping[str, Any], *, now: float | None = None) -> int:
    """Queue a job in the caller's transaction and return its id.

    Raises `JobError` for wrong parameters or an unknown job type (`kind`), and `UnknownDevice`.
    """
    if kind not in JOB_TYPES:
        raise JobError(f"kind {kind!r} does not exist; there are {', '.join(sorted(JOB_TYPES))}")
    checked = JOB_TYPES[kind].check(params)
    if load(conn, device_id) is None:
        raise UnknownDevice(device_id)
    return _queue(conn, device_id, kind, checked, time.time() if now is None else now)


def _queue(conn: Connection, device_id: str, kind: str, checked: Json, now: float) -> int:
    added = conn.execute(
        insert(jobs).values(
            device_id=device_id,
            kind=kind,
            params=checked,
            state="queued",
            progress={},
            correlator=uuid.uuid4().hex,
            attempts=0,
            created=now,
            updated=now,
        )
    )
    key = added.inserted_primary_key
    if key is None:
        raise RuntimeError("the database returned no key for a new job")
    return int(key[0])


def provision_again(conn: Connection, device_id: str, *, now: float | None = None) -> list[int]:
    """Queue jobs that give a device everything it should have; return their ids. None while such jobs wait already."""
    now = time.time() if now is None else now
    open_ones = select(jobs.c.params).where(jobs.c.device_id == device_id, jobs.c.state.in_(OPEN_STATES))
    waiting = list(conn.scalars(open_ones))
    made: list[int] = []
    brought = any(node["path"] == TOKEN_NODE for params in waiting for node in params.get("nodes", ()))
    for kind, params in desired.jobs_for(conn, device_id, now, token=not brought):
        if params not in waiting:
            made.append(_queue(conn, device_id, kind, params, now))
    return made


def show(conn: Connection, job_id: int) -> Json | None:
    """A job as the operator sees it, without the values that its parameters set; None for an unknown id."""
    row = conn.execute(select(jobs).where(jobs.c.id == job_id)).first()
    return None if row is None else _shown(row._mapping)


def listing(conn: Connection, device_id: str | None = None, *, kind: str | None = None, limit: int = 100) -> list[Json]:
    """The newest jobs, of one device or of all, of one kind or of all."""
    query = select(jobs).order_by(jobs.c.id.desc()).limit(limit)
    if device_id is not None:
        query = query.where(jobs.c.device_id == device_id)
    if kind is not None:
        query = query.where(jobs.c.kind == kind)
    return [_shown(row._mapping) for row in conn.execute(query)]


def _shown(row: Mapping[Any, Any]) -> Json:
    names = ("id", "device_id", "kind", "state", "correlator", "attempts", "result", "created", "updated")
    told = {name: row[name] for name in names} | {"params": _without_values(row["params"])}
    sent = row["progress"].get("sent")  # the package that the device is working on
    return told if sent is None else told | {"sent": sent}


def _without_values(params: Mapping[str, Any]) -> Json:
    """Values to set can be tokens and passwords: they are never shown, and not kept after they are set."""
    return {
        name: [{k: v for k, v in entry.items() if k != "value"} for entry in value] if name in HOLD_VALUES else value
        for name, value in params.items()
    }


def next_for(conn: Connection, device_id: str, now: float) -> Job | None:
    """Take the oldest queued job of a device and mark it as running; None when there is none.

    Jobs under which sessions keep breaking off come last: what breaks them may be the job itself.
    """
    while True:
        row = conn.execute(
            select(jobs)
            .where(jobs.c.device_id == device_id, jobs.c.state == "queued")
            .order_by(jobs.c.attempts >= PATIENCE, jobs.c.id)
            .limit(1)
        ).first()
        if row is None:
            return None
        if row.attempts < ATTEMPTS_MAX:
            break
        finish(conn, row.id, Failed({"error": f"given up after {row.attempts} broken sessions"}), now)
    conn.execute(
        update(jobs).where(jobs.c.id == row.id).values(state="running", attempts=row.attempts + 1, updated=now)
    )
    packages: tuple[PackageInfo, ...] = ()
    if row.kind == FIRMWARE and "url" not in row.params:
        packages = of_version(conn, row.params["version"])
    return Job(row.id, row.kind, row.params, row.correlator, row.progress, packages, device_id)


def checkpoint(conn: Connection, job: Job, progress: Json, now: float) -> None:
    """Store the progress of a job. An alert that came since its steps began is kept: they have not seen it yet."""
    row = conn.execute(select(jobs.c.progress).where(jobs.c.id == job.id)).one()
    if "alert" in row.progress and "alert" not in job.progress:
        progress = {**progress, "alert": row.progress["alert"]}
    if "unreadable" in row.progress:
        progress = {**progress, "unreadable": row.progress["unreadable"]}
    conn.execute(update(jobs).where(jobs.c.id == job.id).values(progress=progress, updated=now))


def finish(conn: Connection, job_id: int, outcome: Outcome, now: float) -> None:
    """Store how the steps of a job ended."""
    row = conn.execute(select(jobs).where(jobs.c.id == job_id)).one()
    content: dict[str, Any]
    match outcome:
        case Waiting(progress) if "alert" in row.progress:  # the alert came together with the 202
            content = {"state": "queued", "progress": {**progress, "alert": row.progress["alert"]}}
        case Waiting(progress):
            content = {"state": "waiting", "progress": progress, "attempts": 0}
        case Done(result):
            content = {"state": "done", "result": result, "params": _without_values(row.params)}
            desired.note(conn, row.device_id, row.kind, row.params, now)
        case Failed(result):
            content = {"state": "failed", "result": result}
    conn.execute(update(jobs).where(jobs.c.id == job_id).values(updated=now, **content))
    if content["state"] in ("done", "failed"):
        gone = access.order_ended(conn, job_id, now, done=content["state"] == "done")
        if gone is not None:
            void(conn, gone)


def cancel(conn: Connection, job_id: int, *, now: float | None = None) -> bool:
    """Cancel a job that is queued or waiting. Returns False for one that is running, over, or unknown.

    What was sent to a device cannot be taken back: it may still report, and the alert is stored all the same.
    """
    row = conn.execute(select(jobs).where(jobs.c.id == job_id, jobs.c.state.in_(("queued", "waiting")))).first()
    if row is None:
        return False
    finish(conn, job_id, Failed({"error": "cancelled by the operator"}), time.time() if now is None else now)
    return True


def overdue(conn: Connection, before: float, limit: int) -> list[int]:
    """The ids of jobs that have been waiting for the device's report since before `before`."""
    query = select(jobs.c.id).where(jobs.c.state == "waiting", jobs.c.updated < before).order_by(jobs.c.id)
    return list(conn.scalars(query.limit(limit)))


def expire(conn: Connection, job_id: int, before: float, reason: str, now: float) -> bool:
    """Fail a job if it is still `overdue`. A report that comes later is stored as an alert and changes no job."""
    query = select(jobs.c.id).where(jobs.c.id == job_id, jobs.c.state == "waiting", jobs.c.updated < before)
    if conn.execute(query).first() is None:
        return False
    finish(conn, job_id, Failed({"error": reason}), now)
    return True


def unreadable(conn: Connection, device_id: str, why: str, now: float) -> None:
    """The answer of a device to its running job could not be read: queue the job again, or fail it at last."""
    for row in conn.execute(select(jobs).where(jobs.c.device_id == device_id, jobs.c.state == "running")).all():
        times = row.progress.get("unreadable", 0) + 1
        if times >= UNREADABLE_MAX:
            error = f"what the device says to this job cannot be read, {times} times: {why}"
            finish(conn, row.id, Failed({"error": error}), now)
            continue
        progress = {**row.progress, "unreadable": times}
        conn.execute(update(jobs).where(jobs.c.id == row.id).values(state="queued", progress=progress, updated=now))


def requeue_running(conn: Connection, device_id: str, now: float) -> None:
    """Queue the running jobs of a device again, because their session is gone."""
    conn.execute(
        update(jobs).where(jobs.c.device_id == device_id, jobs.c.state == "running").values(state="queued", updated=now)
    )


def deliver_alert(conn: Connection, device_id: str, correlator: str, alert: Json, now: float) -> bool:
    """Give an alert to the job with its correlator; return whether there is one.

    The job may not be waiting yet: a fast device reports before the server has seen its 202.
    """
    row = conn.execute(
        select(jobs).where(
            jobs.c.device_id == device_id, jobs.c.correlator == correlator, jobs.c.state.in_(OPEN_STATES)
        )
    ).first()
    if row is None:
        return False
    conn.execute(
        update(jobs)
        .where(jobs.c.id == row.id)
        .values(state="queued", progress=dict(row.progress) | {"alert": alert}, updated=now)
    )
    return True
