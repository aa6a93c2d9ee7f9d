"""Order jobs: the orders to meters that a server has asked for, as a record of the tree, until they are reported.

`agent.mo.order` records a job in the transaction of the Exec, with everything that the order needs: what the server
changes in the nodes afterwards does not change it. `agent.daemon.order_jobs` hands it over under its id, which makes a
repetition harmless, and ends it in one transaction: the job goes, the result stays, the generic alert is queued.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from agent.jobs import waiting
from agent.tree import alerts
from agent.tree.schema import Path
from agent.tree.tree import Transaction
from agent.tree.uri import show

ORDERS: Path = ("AMI", "Order")
RECORD = "orders"
JOBS_MAX = 16
RESULTS_MAX = 16  # kept whole, the newest; of others, while their nodes are there, only that they are over
RESULT_CHARS_MAX = 16 * 1024  # of one result; the tree is written as a whole
PRIORITY = 5  # when the server names none
DEADLINE_S = 300  # likewise

ALERT_TYPE = "urn:x-dcu:at:order:1.0:OrderComplete"


class Result(IntEnum):
    """The ResultCode of the alert."""

    DONE = 1200  # every meter has carried it out
    REFUSED = 1400  # the order was not accepted, nothing was done
    NOT_ON_ALL = 1450  # the result says what became of it on each meter


@dataclass(frozen=True, slots=True)
class Job:
    """One accepted Exec on the order node `name`. `parameters` is JSON text, as the server gave it."""

    id: str
    name: str
    correlator: str
    asked_by: str
    kind: str
    meters: tuple[str, ...]
    parameters: str
    priority: int
    deadline_s: int

    @property
    def base(self) -> Path:
        return (*ORDERS, self.name)


def _read(entry: Mapping[str, Any]) -> Job | None:
    # The meters are a tuple until they have been on the disk.
    kinds: dict[str, tuple[type, ...]] = {"priority": (int,), "deadline_s": (int,), "meters": (list, tuple)}
    if not all(isinstance(entry.get(name), kinds.get(name, (str,))) for name in Job.__slots__):
        return None
    return Job(**{name: entry[name] for name in Job.__slots__} | {"meters": tuple(map(str, entry["meters"]))})


def jobs(looking: Transaction) -> tuple[Job, ...]:
    """The jobs that are not reported yet, in order, but for those that cannot be read: `end_damaged`."""
    return waiting.waiting(looking, RECORD, _read)


def is_damaged(looking: Transaction) -> bool:
    """Whether there are jobs that cannot be read."""
    return waiting.is_damaged(looking, RECORD, _read)


def end_damaged(changing: Transaction) -> None:
    """End the jobs that cannot be read, each with its result and its final alert: what became of them is not known."""

    def alert(entry: Mapping[str, Any], alert_id: str) -> alerts.GenericAlert:
        name = waiting.text(entry, "name")
        if name and changing.find((*ORDERS, name)) and not waiting_id(changing, name):
            _keep_result(changing, name, {"error": waiting.FATE_UNKNOWN, "id": waiting.text(entry, "id")})
        base = (*ORDERS, name) if name else ORDERS
        return _alert(alert_id, base, waiting.text(entry, "correlator"), Result.NOT_ON_ALL)

    waiting.end_damaged(changing, RECORD, _read, alert)


def set_jobs(changing: Transaction, wanted: Sequence[Job]) -> None:
    """Make these the jobs, in order."""
    waiting.set_waiting(changing, RECORD, wanted, _read)


def state_of(looking: Transaction, name: str) -> str:
    """`waiting`, `over`, or `idle` for an order that was never run."""
    if any(job.name == name for job in jobs(looking)):
        return "waiting"
    return "over" if name in waiting.members(looking, RECORD, "results") else "idle"


def result_of(looking: Transaction, name: str) -> str:
    """The result of the last run as JSON text; empty before there is one."""
    return str(waiting.members(looking, RECORD, "results").get(name, ""))


def finish(changing: Transaction, job: Job, code: Result, result: Mapping[str, Any]) -> None:
    """End a job: out of the list, its result kept, and its alert into the queue."""
    _keep_result(changing, job.name, result)
    set_jobs(changing, [each for each in jobs(changing) if each.id != job.id])
    alerts.put(changing, _alert(f"order-{job.id}", job.base, job.correlator, code))


def _keep_result(changing: Transaction, order: str, result: Mapping[str, Any]) -> None:
    results = waiting.members(changing, RECORD, "results")
    there = {name: text for name, text in results.items() if changing.find((*ORDERS, name))}
    there.pop(order, None)
    there[order] = result_text(result)
    newest = list(there)[-RESULTS_MAX:]
    kept = {name: text if name in newest else "" for name, text in there.items()}
    changing.update_record(RECORD, results=kept)


def _alert(alert_id: str, base: Path, correlator: str, code: Result) -> alerts.GenericAlert:
    return alerts.GenericAlert(
        id=alert_id,
        type=ALERT_TYPE,
        source=show(base),
        data=f"<ResultCode>{int(code)}</ResultCode>",
        correlator=correlator,
        mark="informational" if code is Result.DONE else "critical",
    )


def waiting_id(looking: Transaction, name: str) -> str:
    """The id of the job that waits on the order node `name`; empty for none."""
    return next((job.id for job in jobs(looking) if job.name == name), "")


def progress_text(found: Mapping[str, Any]) -> str:
    """How far an order is on each meter, as JSON text that fits: of many meters, how many are in which state."""
    meters = [
        {"meter": meter["meter"], "state": meter["state"], "progress": meter["progress"], "error": meter["error"]}
        for meter in found["meters"]
    ]
    counts: dict[str, int] = {}
    for meter in meters:
        counts[meter["state"]] = counts.get(meter["state"], 0) + 1
    text = json.dumps({"counts": counts, "meters": meters}, separators=(",", ":"))
    return text if len(text) <= RESULT_CHARS_MAX else json.dumps({"counts": counts}, separators=(",", ":"))


def result_text(result: Mapping[str, Any]) -> str:
    """A result as JSON text that fits: too long with the values, it says so and has the states alone."""
    text = json.dumps(result, separators=(",", ":"))
    if len(text) <= RESULT_CHARS_MAX:
        return text
    states = [{"meter": meter["meter"], "state": meter["state"]} for meter in result.get("meters", [])]
    without = {**result, "parameters": {}, "meters": states, "shortened": True}
    return json.dumps(without, separators=(",", ":"))
