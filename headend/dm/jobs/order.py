"""The job `order`: something is asked of meters behind a device, once; the result says what became of it per meter.

The device checks kind and parameters and has the last word on what is allowed (docs/orders.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from headend.dm.jobs.params import JobError, known_keys, text
from headend.dm.jobs.steps import (
    DONE,
    Batch,
    Checkpoint,
    CommandName,
    Done,
    Failed,
    Job,
    Json,
    Request,
    Steps,
    add,
    get,
    only_text,
    result_code,
    run_node,
)
from omadm.orders import DEADLINE_S_MAX, METERS_MAX, PARAMETERS_CHARS_MAX, PRIORITY_MAX
from omadm.syncml.text import unfit

ORDERS = "./AMI/Order"


def node_of(job_id: int) -> str:
    """The node that a job makes on the device."""
    return f"{ORDERS}/job{job_id}"


def told_by_device(text: str) -> tuple[Json, str]:
    """What a device has said of an order, as `Result` and `Progress` hold it, and what of it could not be taken: empty
    when all of it could. `meters` is a list of objects whose `meter`, `state` and `error` are texts, `counts` numbers
    by state, `error` a text; other members are as they came."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}, "it is not JSON"
    if not isinstance(found, dict):
        return {}, "it is no object"
    if why := unfit(found):
        return {}, why
    problems = [f"{name}: {wanted} expected" for name, (fits, wanted) in _TOLD.items()
                if name in found and not fits(found[name])]  # fmt: skip
    kept = {name: value for name, value in found.items() if name not in _TOLD or _TOLD[name][0](value)}
    return kept, "; ".join(problems)


def _are_meters(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and all(isinstance(one.get(name), str | None) for name in ("meter", "state", "error"))
        for one in value
    )


def _are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(type(count) is int for count in value.values())


_TOLD: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "meters": (_are_meters, "a list of objects, with texts for meter, state and error, is"),
    "counts": (_are_counts, "an object of numbers is"),
    "error": (lambda value: isinstance(value, str | None), "a text is"),
    "replies": (lambda _: False, "nothing is"),  # that of another kind of job
}


class OrderJob:
    """Add an order node, Exec its Run, wait for OrderComplete, read the result, and delete the node.

    `{"order": "read", "meters": ["KEP0001"], "parameters": {"codes": ["3/1.0.1.8.0.255/2"]}, "priority": 5,
    "deadline_s": 300}`; only `order` and `meters` are required. A meter may be a group:
    `group:kfm`, `port:plc0`, `KEP*`.
    """

    name = "order"

    def check(self, params: Mapping[str, Any]) -> Json:
        known_keys(params, {"order", "meters", "parameters", "priority", "deadline_s"}, {"order", "meters"})
        meters, parameters = params["meters"], params.get("parameters", {})
        if not isinstance(meters, list) or not 1 <= len(meters) <= METERS_MAX:
            raise JobError(f"meters: a list of 1 to {METERS_MAX} ids wanted")
        for meter in meters:
            text({"meters": meter}, "meters", r"[^\x00-\x1f]{1,64}", "ids of up to 64 printable characters")
        if not isinstance(parameters, dict) or len(json.dumps(parameters)) > PARAMETERS_CHARS_MAX:
            raise JobError(f"parameters: an object of at most {PARAMETERS_CHARS_MAX} characters wanted")
        checked: Json = {
            "order": text(params, "order", r"[a-z-]{1,32}", "the kind of an order, as read or clock"),
            "meters": meters,
            "parameters": parameters,
        }
        for name, low, high in (("priority", 0, PRIORITY_MAX), ("deadline_s", 1, DEADLINE_S_MAX)):
            if params.get(name) is not None:
                value = params[name]
                if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                    raise JobError(f"{name}: {low} to {high} wanted, not {value!r}")
                checked[name] = value
        return checked

    def steps(self, job: Job) -> Steps:
        node = node_of(job.id)
        if "alert" in job.progress:
            return (yield from self._report(job, node))
        leaves = self._leaves(job, node)
        return (
            yield from run_node(
                job, node, leaves, "Operations/Run", state="Status/State", under_way=("waiting", "over")
            )
        )

    @staticmethod
    def _leaves(job: Job, node: str) -> list[Request]:
        params = job.params
        leaves = [
            add(f"{node}/Kind", params["order"]),
            add(f"{node}/Meters", "\n".join(params["meters"])),
            add(f"{node}/Parameters", json.dumps(params["parameters"])),
        ]
        for name, leaf in (("priority", "Priority"), ("deadline_s", "Deadline")):
            if name in params:
                leaves.append(add(f"{node}/{leaf}", str(params[name]), "int"))
        return leaves

    @staticmethod
    def _report(job: Job, node: str) -> Steps:
        told, status = job.progress.get("told"), None
        if told is None:
            (reply,) = yield Batch((get(f"{node}/Status/Result"),))
            told, status = only_text(reply), reply.status
        if told is not None:
            # Before the node is deleted: a session that breaks off in between cannot read it again.
            yield Checkpoint({**job.progress, "told": told})
        code = result_code(job)
        found, problem = told_by_device(told or "{}")
        result: Json = {**found, "result_code": code}
        if problem:
            result["unread"] = problem
        yield Batch((Request(CommandName.DELETE, node),))  # the device keeps 64 of them; its record of orders stays
        if told is None:
            error = f"the order ended with result {code}, but what became of it per meter could not be read"
            return Failed({**result, "error": error, "status": status})
        if code == DONE:
            return Done(result)
        return Failed({"error": f"the order ended with result {code}", **result})
