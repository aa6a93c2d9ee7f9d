"""The job `tasks`: the reading tasks of a device are made, changed or deleted, each of them whole or not at all.

Parameters are checked here by what the device checks them with (`omadm.schedule`, `omadm.local_time`), so that a
mistake is told when the job is queued; the device has the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headend.dm.jobs.params import JobError, known_keys, node_value
from headend.dm.jobs.params import text as matching
from headend.dm.jobs.steps import (
    Batch,
    Checkpoint,
    CommandName,
    Done,
    Failed,
    Job,
    Json,
    Mode,
    Request,
    Steps,
    add,
    read,
    replace,
    what_failed,
)
from omadm.local_time import DayTimes, Zone
from omadm.schedule import Calendar

SCHED = "./SCHED"
TASKS = f"{SCHED}/Task"
TASKS_MAX = 64  # of one device
NAMES_MAX = 1000  # of one list of a selection
PERIOD_S_MAX = 31 * 86_400


def _number(low: int, high: int) -> Callable[[str, object], int]:
    def check(name: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise JobError(f"{name}: {low} to {high} wanted, not {value!r}")
        return value

    return check


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise JobError(f"{name}: a text wanted, not {value!r}")
    return value


def _names(name: str, value: object) -> str:
    if not isinstance(value, list) or not 1 <= len(value) <= NAMES_MAX:
        raise JobError(f"{name}: a list of 1 to {NAMES_MAX} names wanted")
    for entry in value:
        if "," in _text(name, entry):
            raise JobError(f"{name}: {entry!r} has a comma, which separates names")
    return ",".join(value)


def _truth(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise JobError(f"{name}: true or false wanted, not {value!r}")
    return value


def _read_by(parse: Callable[[str], object]) -> Callable[[str, object], str]:
    """A check by the parser that the device has."""

    def check(name: str, value: object) -> str:
        text = _text(name, value)
        try:
            parse(text)
        except ValueError as error:
            raise JobError(f"{name}: {error}") from error
        return text

    return check


@dataclass(frozen=True, slots=True)
class _Parameter:
    """A parameter of a task, and the node below that of the task which takes it."""

    node: str
    check: Callable[[str, object], str | int | bool]


PARAMETERS = {
    "name": _Parameter("Name", _text),
    "enabled": _Parameter("Enabled", _truth),
    "every": _Parameter("Setting/Every", _number(1, PERIOD_S_MAX)),
    "offset": _Parameter("Setting/Offset", _number(0, PERIOD_S_MAX)),
    "times": _Parameter("Setting/Times", _read_by(Calendar)),
    "reading_list": _Parameter("Setting/ReadingList", _text),
    "codes": _Parameter("Setting/Codes", _text),
    "priority": _Parameter("Setting/Priority", _number(0, 9)),
    "window": _Parameter("Setting/Window", _read_by(DayTimes)),
    "spread": _Parameter("Setting/Spread", _number(0, 86_400)),
    "deadline": _Parameter("Setting/Deadline", _number(1, PERIOD_S_MAX)),
    "retries": _Parameter("Setting/Retries", _number(0, 20)),
    "meters": _Parameter("Select/Meters", _names),
    "groups": _Parameter("Select/Groups", _names),
    "models": _Parameter("Select/Models", _names),
    "ids": _Parameter("Select/Ids", _text),
    "ports": _Parameter("Select/Ports", _names),
}


class TasksJob:
    """Have these tasks on a device; others stay as they are.

    `{"tasks": {"billing": {"times": "0 0 1 * *", "reading_list": "billing", "window": "00:00-06:00"}, "old": null},
    "zone": "CET-1CEST,M3.5.0,M10.5.0/3", "quiet_hours": "17:00-21:00"}`. A task has exactly what is given here, and
    `null` deletes it. `zone` is a POSIX TZ string; the operator's API takes names as well (`headend.operator.zones`).
    """

    name = "tasks"

    def check(self, params: Mapping[str, Any]) -> Json:
        known_keys(params, {"tasks", "zone", "quiet_hours"}, set())
        tasks = params.get("tasks", {})
        if not isinstance(tasks, dict) or len(tasks) > TASKS_MAX or not params:
            raise JobError(f"tasks: an object with at most {TASKS_MAX} tasks wanted")
        checked: Json = {"tasks": {}}
        for task_id, wanted in tasks.items():
            matching({"a task": task_id}, "a task", r"[A-Za-z0-9_.-]{1,64}", "up to 64 letters, digits and _.-")
            checked["tasks"][task_id] = None if wanted is None else _task(task_id, wanted)
        if "zone" in params:
            checked["zone"] = _read_by(Zone)("zone", params["zone"])
        if "quiet_hours" in params:
            quiet = params["quiet_hours"]
            checked["quiet_hours"] = "" if quiet in ("", None) else _read_by(DayTimes)("quiet_hours", quiet)
        return checked

    def steps(self, job: Job) -> Steps:
        found = yield from read([SCHED])
        if SCHED in found.missing:
            return Failed({"error": f"{SCHED} could not be read", "status": found.missing[SCHED]})
        if found.missing:  # what has to change is not known then
            return Failed({"error": f"{SCHED} could not be read whole", "refused": found.missing})
        result: Json = {"changed": [], "deleted": [], "as_before": []}
        refused: dict[str, int | None] = {}
        tried: dict[str, str] = dict(job.progress.get("tried", {}))  # by an earlier session, which broke off
        of_all = [
            replace(f"{SCHED}/{node}", job.params[name])
            for name, node in (("zone", "Zone"), ("quiet_hours", "QuietHours"))
            if name in job.params and found.values.get(f"{SCHED}/{node}") != job.params[name]
        ]
        if of_all:
            replies = yield Batch(tuple(of_all))
            refused |= {one.uri: got.status for one, got in zip(of_all, replies, strict=True) if not got.ok}
        for task_id, wanted in job.params["tasks"].items():
            requests = _changes(f"{TASKS}/{task_id}", wanted, found.values)
            what = "deleted" if wanted is None else "changed"
            if requests:
                tried[task_id] = what
                yield Checkpoint({**job.progress, "tried": tried})
                replies = yield Batch(tuple(requests), Mode.ATOMIC)
                wrong = {one.uri: got.status for one, got in zip(requests, replies, strict=True) if not got.ok}
                refused |= wrong
                if not wrong:
                    result[what].append(task_id)
            else:
                result[tried.get(task_id, "as_before")].append(task_id)
        yield from read([SCHED])
        if refused:
            return Failed(result | {"error": what_failed(refused, "the device refused nodes"), "refused": refused})
        return Done(result)


def _task(task_id: str, wanted: object) -> Json:
    """The nodes of a task below its own, with their values."""
    if not isinstance(wanted, dict):
        raise JobError(f"{task_id}: an object, or null, wanted")
    known_keys(wanted, set(PARAMETERS), set())
    nodes: Json = {}
    for name, value in wanted.items():
        parameter = PARAMETERS[name]
        nodes[parameter.node] = node_value(f"{task_id}: {name}", parameter.check(f"{task_id}: {name}", value), None)
    for one, other in (("every", "times"), ("reading_list", "codes")):
        if (one in wanted) == (other in wanted):
            raise JobError(f"{task_id}: {one} or {other} wanted")
    if "offset" in wanted and not wanted["offset"] < wanted.get("every", 0):
        raise JobError(f"{task_id}: offset goes with every, and is less")
    if wanted.get("spread", 0) >= wanted.get("deadline", PERIOD_S_MAX + 1):
        raise JobError(f"{task_id}: a spread as long as the deadline leaves no time to read")
    return nodes


def _changes(base: str, wanted: Json | None, values: Mapping[str, str | bytes]) -> list[Request]:
    """What makes the task at `base` the one that is wanted."""
    there = {uri.removeprefix(f"{base}/"): value for uri, value in values.items() if uri.startswith(f"{base}/")}
    if wanted is None:
        return [Request(CommandName.DELETE, base)] if there else []
    settings = {parameter.node for parameter in PARAMETERS.values()} & set(there)
    return [
        *(Request(CommandName.DELETE, f"{base}/{node}") for node in sorted(settings - set(wanted))),
        *(
            (replace if node in there else add)(f"{base}/{node}", one["value"], one["format"])
            for node, one in wanted.items()
            if there.get(node) != one["value"]
        ),
    ]
