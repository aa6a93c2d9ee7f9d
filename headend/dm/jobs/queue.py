"""The queue of jobs: what the operator wants a device to do, and the results.

queued → running → done | failed
                 → waiting → queued (the alert came) → running → …
                           → failed (it did not come in time, or the operator gave up)
running → queued   when the session breaks off or the server restarts; `ATTEMPTS_MAX` times, then failed
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import DBAPIError

from headend import access
from headend.dm.accounts import UnknownDevice, exists, void
from headend.dm.jobs import desired
from headend.dm.jobs.firmware import FIRMWARE
from headend.dm.jobs.order import OrderJob
from headend.dm.jobs.params import sendable
from headend.dm.jobs.steps import Done, Failed, Job, Json, Outcome, Waiting
from headend.dm.jobs.types import JOB_TYPES, JobError
from headend.dm.tables import jobs
from headend.passes import without_pass
from headend.sealing import columns
from headend.sealing.errors import SealedValueError, SealingError
from headend.software.releases import PackageInfo, of_version
from omadm.readings import TOKEN_NODE
from omadm.syncml.text import unfit

LOG = logging.getLogger("headend.dm")

ATTEMPTS_MAX = 20  # sessions that may break off during a job; a line that bad needs a person
PATIENCE = 3  # after so many of them in a row the jobs behind it go first
UNREADABLE_MAX = 3  # answers of a device to one job, each of which ended a session because it could not be read
BROKEN_MAX = 3  # sessions that ended at one job through a fault of the head-end's own
HOLD_VALUES = ("nodes", "commands")  # parameters whose entries carry values to set
SECRET_VALUES = frozenset({"access", "pass"})  # parameters that are such a value themselves
ACCESS = "AMI/Access"  # in the paths of keys of meters
KEYS = "keys"  # the kind of an order that transfers them
OPEN_STATES = ("queued", "running", "waiting")


def enqueue(conn: Connection, device_id: str, kind: str, params: Mapping[str, Any], *, now: float | None = None) -> int:
    """Queue a job in the caller's transaction and return its id.

    Raises `JobError` for wrong parameters, for text that no message can carry, and for an unknown job type (`kind`);
    and `UnknownDevice`. Every door for jobs leads through here.
    """
    if kind not in JOB_TYPES:
        raise JobError(f"kind {kind!r} does not exist; there are {', '.join(sorted(JOB_TYPES))}")
    sendable(params)
    checked = JOB_TYPES[kind].check(params)
    if not exists(conn, device_id):
        raise UnknownDevice(device_id)
    return _queue(conn, device_id, kind, checked, time.time() if now is None else now)


def _queue(conn: Connection, device_id: str, kind: str, checked: Json, now: float) -> int:
    row = {
        "device_id": device_id,
        "kind": kind,
        "params": checked,
        "state": "queued",
        "progress": {},
        "correlator": uuid.uuid4().hex,
        "attempts": 0,
        "created": now,
        "updated": now,
    }
    added = conn.execute(insert(jobs).values(columns.seal(conn, jobs, row)))
    key = added.inserted_primary_key
    if key is None:
        raise RuntimeError("the database returned no key for a new job")
    return int(key[0])


def provision_again(conn: Connection, device_id: str, *, now: float | None = None) -> list[int]:
    """Queue jobs that give a device everything it should have; return their ids. None while such jobs wait already."""
    now = time.time() if now is None else now
    query = select(jobs).where(jobs.c.device_id == device_id, jobs.c.state.in_(OPEN_STATES))
    open_ones = [_opened(conn, row) for row in conn.execute(query).all()]
    waiting = [one.params for one in open_ones if isinstance(one, SimpleNamespace)]
    made: list[int] = []
    brought = any(node["path"] == TOKEN_NODE for params in waiting for node in params.get("nodes", ()))
    for kind, params in desired.jobs_for(conn, device_id, now, token=not brought):
        if params not in waiting:
            made.append(_queue(conn, device_id, kind, params, now))
    return made


def show(conn: Connection, job_id: int) -> Json | None:
    """A job as the operator sees it, without the values that its parameters set; None for an unknown id."""
    row = conn.execute(select(jobs).where(jobs.c.id == job_id)).first()
    return None if row is None else _shown(conn, row)


def listing(conn: Connection, device_id: str | None = None, *, kind: str | None = None, limit: int = 100) -> list[Json]:
    """The newest jobs, of one device or of all, of one kind or of all."""
    query = select(jobs).order_by(jobs.c.id.desc()).limit(limit)
    if device_id is not None:
        query = query.where(jobs.c.device_id == device_id)
    if kind is not None:
        query = query.where(jobs.c.kind == kind)
    return [_shown(conn, row) for row in conn.execute(query).all()]


def _shown(conn: Connection, row: Row[Any]) -> Json:
    names = ("id", "device_id", "kind", "state", "correlator", "attempts", "result", "created", "updated")
    told = {name: row._mapping[name] for name in names}
    job = _opened(conn, row)
    if isinstance(job, SealedValueError):
        return told | {"params": {}, "damaged": str(job)}
    told |= {"params": _without_values(job.params)}
    sent = job.progress.get("sent")  # the package that the device is working on
    return told if sent is None else told | {"sent": sent}


def _opened(conn: Connection, row: Row[Any]) -> SimpleNamespace | SealedValueError:
    """A row with what is sealed in it opened, or why it cannot be: that costs this job, and none of the others."""
    try:
        return SimpleNamespace(**columns.unseal(conn, jobs, row))
    except SealedValueError as error:
        return error


def _change(conn: Connection, row: Row[Any], values: Mapping[str, Any]) -> None:
    sealed = columns.seal(conn, jobs, values, device_id=row.device_id, correlator=row.correlator)
    conn.execute(update(jobs).where(jobs.c.id == row.id).values(sealed))


def _progress(conn: Connection, row: Row[Any]) -> Json:
    """The progress of a job; a damaged one has none, and what it knew is asked of the device again."""
    job = _opened(conn, row)
    return {} if isinstance(job, SealedValueError) else dict(job.progress)


def _without_values(params: Mapping[str, Any]) -> Json:
    """Values to set can be tokens and passwords: they are never shown, and not kept after they are set. Nor are the
    passes in URLs."""

    def open_part(name: str, value: Any) -> Any:
        if name in HOLD_VALUES:
            return [{k: v for k, v in entry.items() if k != "value"} for entry in value]
        return without_pass(value) if isinstance(value, str) else value

    return {name: open_part(name, value) for name, value in params.items() if name not in SECRET_VALUES}


def next_for(conn: Connection, device_id: str, now: float) -> Job | None:
    """Take the oldest queued job of a device and mark it as running; None when there is none.

    Jobs under which sessions keep breaking off come last: what breaks them may be the job itself. One that cannot be
    taken, through a fault of ours, is passed over, and failed at last: those behind it run. Raises what the database
    and the sealing raise, of which no job is the reason.
    """
    passed: set[int] = set()
    while True:
        queued = (jobs.c.device_id == device_id) & (jobs.c.state == "queued") & jobs.c.id.not_in(passed)
        first = select(jobs.c.id).where(queued).order_by(jobs.c.attempts >= PATIENCE, jobs.c.id).limit(1)
        number = conn.scalar(first)
        if number is None:
            return None
        try:
            job = _take(conn, number, now)
        except (DBAPIError, SealingError, OSError):
            raise
        except Exception as error:
            LOG.exception(
                "%s: job %d cannot be taken",
                device_id,
                number,
                extra={"event": "dm.job.broken", "device": device_id, "job": number},
            )
            passed.add(number)
            _pass_over(conn, device_id, number, f"{type(error).__name__}: {error}", now)
            continue
        if job is not None:
            return job


def _take(conn: Connection, number: int, now: float) -> Job | None:
    """Mark a queued job as running; None for one that is over instead."""
    row = conn.execute(select(jobs).where(jobs.c.id == number)).one()
    job = _opened(conn, row)
    if isinstance(job, SealedValueError):
        finish(conn, row.id, Failed({"error": f"the database is damaged: {job}"}), now)
        return None
    if row.attempts >= ATTEMPTS_MAX:
        finish(conn, row.id, Failed({"error": f"given up after {row.attempts} broken sessions"}), now)
        return None
    _fail_overtaken(conn, job, now)
    packages: tuple[PackageInfo, ...] = ()
    version = job.params.get("version")
    if row.kind == FIRMWARE and "url" not in job.params and isinstance(version, str) and not unfit(version):
        packages = of_version(conn, version)
    conn.execute(
        update(jobs).where(jobs.c.id == row.id).values(state="running", attempts=row.attempts + 1, updated=now)
    )
    return Job(row.id, row.kind, job.params, row.correlator, job.progress, packages, row.device_id)


def _pass_over(conn: Connection, device_id: str, number: int, why: str, now: float) -> None:
    """Count a fault of ours against a job, or fail it where even that cannot be done."""
    try:
        broken(conn, device_id, number, why, now)
    except (DBAPIError, OSError):
        raise
    except ValueError:  # its row cannot be read, so no count can be kept in it; emptied, it can be listed again
        correlator = conn.scalar(select(jobs.c.correlator).where(jobs.c.id == number))
        row = {"params": {}, "progress": {}, "result": {"error": f"the head-end cannot read this job: {why}"}}
        sealed = columns.seal(conn, jobs, row, device_id=device_id, correlator=str(correlator))
        conn.execute(update(jobs).where(jobs.c.id == number).values(state="failed", updated=now, **sealed))


def _fail_overtaken(conn: Connection, job: SimpleNamespace, now: float) -> None:
    """End orders of keys that were queued before `job`, which writes keys: the device would take them for orders of
    these, and a meter would get others that nobody has (docs/meter-security.md)."""
    if ACCESS not in json.dumps(job.params):
        return
    earlier = (jobs.c.device_id == job.device_id) & (jobs.c.id < job.id) & (jobs.c.kind == OrderJob.name)
    for row in conn.execute(select(jobs).where(earlier, jobs.c.state == "queued")).all():
        order = _opened(conn, row)
        if not isinstance(order, SealedValueError) and order.params["order"] == KEYS and "alert" not in order.progress:
            error = f"job {job.id} writes keys: this is not sent any more; the device may have it from a broken session"
            finish(conn, row.id, Failed({"error": error}), now)


def checkpoint(conn: Connection, job: Job, progress: Json, now: float) -> None:
    """Store the progress of a job. An alert that came since its steps began is kept: they have not seen it yet."""
    row = conn.execute(select(jobs).where(jobs.c.id == job.id)).one()
    known = _progress(conn, row)
    if "alert" in known and "alert" not in job.progress:
        progress = {**progress, "alert": known["alert"]}
    progress = {**progress, **{name: known[name] for name in ("unreadable", "broken") if name in known}}
    _change(conn, row, {"progress": progress, "updated": now})


def finish(conn: Connection, job_id: int, outcome: Outcome, now: float) -> None:
    """Store how the steps of a job ended."""
    row = conn.execute(select(jobs).where(jobs.c.id == job_id)).one()
    content: dict[str, Any]
    match outcome:
        case Waiting(progress):
            known = _progress(conn, row)
            if "alert" in known:  # the alert came together with the 202
                content = {"state": "queued", "progress": {**progress, "alert": known["alert"]}}
            else:
                content = {"state": "waiting", "progress": progress, "attempts": 0}
        case Done(result):
            content = {"state": "done", "result": result}
            job = _opened(conn, row)
            if not isinstance(job, SealedValueError):
                content["params"] = _without_values(job.params)
                desired.note(conn, row.device_id, row.kind, job.params, now)
        case Failed(result):
            content = {"state": "failed", "result": result}
    _change(conn, row, {"updated": now, **content})
    if content["state"] in ("done", "failed"):
        gone = access.order_ended(conn, job_id, now, done=content["state"] == "done")
        if gone is not None:
            void(conn, gone)


def undone(conn: Connection, device_id: str, created: float, why: str, now: float) -> None:
    """Fail the order to register again that was queued at `created`: what it was for cannot be. `why` says so. The job
    itself may be done: the device has erased its account."""
    same = (jobs.c.device_id == device_id) & (jobs.c.created == created) & (jobs.c.kind == "commands")
    for row in conn.execute(select(jobs).where(same)).all():
        _change(conn, row, {"state": "failed", "result": {**(row.result or {}), "error": why}, "updated": now})


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
        progress = _progress(conn, row)
        times = progress.get("unreadable", 0) + 1
        if times >= UNREADABLE_MAX:
            error = f"what the device says to this job cannot be read, {times} times: {why}"
            finish(conn, row.id, Failed({"error": error}), now)
            continue
        _change(conn, row, {"state": "queued", "progress": {**progress, "unreadable": times}, "updated": now})


def broken(conn: Connection, device_id: str, job_id: int, why: str, now: float) -> None:
    """A session could not go on at this job, through a fault of ours, and what it had stored was undone: count that
    against the job, and fail it at last, so that those behind it run."""
    unfinished = (jobs.c.id == job_id) & (jobs.c.device_id == device_id) & jobs.c.state.in_(OPEN_STATES)
    row = conn.execute(select(jobs).where(unfinished)).first()
    if row is None:
        return
    progress = _progress(conn, row)
    times = progress.get("broken", 0) + 1
    if times >= BROKEN_MAX:
        error = f"the head-end cannot go on at this job, {times} times: {why}"
        finish(conn, row.id, Failed({"error": error}), now)
        return
    _change(conn, row, {"state": "queued", "progress": {**progress, "broken": times}, "updated": now})


def renew_pass(conn: Connection, device_id: str, before: str, after: str) -> None:
    """The jobs of a device that wait carry its pass for downloads: give them the one that is good now."""
    for row in conn.execute(select(jobs).where(jobs.c.device_id == device_id, jobs.c.state.in_(OPEN_STATES))).all():
        job = _opened(conn, row)
        if isinstance(job, SealedValueError):
            continue
        named = [name for name in ("url", "pass") if before in str(job.params.get(name, ""))]
        if named:
            renewed = {name: job.params[name].replace(before, after) for name in named}
            _change(conn, row, {"params": {**job.params, **renewed}})


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
    _change(conn, row, {"state": "queued", "progress": {**_progress(conn, row), "alert": alert}, "updated": now})
    return True
