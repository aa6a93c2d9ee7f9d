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

from agent.jobs.waiting import set_waiting
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


def jobs(looking: Transaction) -> tuple[Job, ...]:
    """The jobs that are not reported yet, in order. An entry that cannot be read is left out."""
    # The meters are a tuple until they have been on the disk.
    kinds: dict[str, tuple[type, ...]] = {"priority": (int,), "deadline_s": (int,), "meters": (list, tuple)}
    known = {name: kinds.get(name, (str,)) for name in Job.__slots__}
    return tuple(
        Job(**{name: entry[name] for name in known} | {"meters": tuple(map(str, entry["meters"]))})
        for entry in looking.record(RECORD).get("jobs", [])
        if isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in known.items())
    )


def set_jobs(changing: Transaction, wanted: Sequence[Job]) -> None:
    """Make these the jobs, in order."""
    set_waiting(changing, RECORD, wanted)


def state_of(looking: Transaction, name: str) -> str:
    """`waiting`, `over`, or `idle` for an order that was never run."""
    if any(job.name == name for job in jobs(looking)):
        return "waiting"
    return "over" if name in looking.record(RECORD).get("results", {}) else "idle"


def result_of(looking: Transaction, name: str) -> str:
    """The result of the last run as JSON text; empty before there is one."""
    return str(looking.record(RECORD).get("results", {}).get(name, ""))


def finish(changing: Transaction, job: Job, code: Result, result: Mapping[str, Any]) -> None:
    """End a job: out of the list, its result kept, and its alert into the queue."""
    results = changing.record(RECORD).get("results", {})
    there = {name: text for name, text in results.items() if changing.find((*ORDERS, name))}
    there.pop(job.name, None)
    there[job.name] = result_text(result)
    newest = list(there)[-RESULTS_MAX:]
    kept = {name: text if name in newest else "" for name, text in there.items()}
    changing.update_record(RECORD, results=kept)
    set_jobs(changing, [each for each in jobs(changing) if each.id != job.id])
    alert = alerts.GenericAlert(
        id=f"order-{job.id}",
        type=ALERT_TYPE,
        source=show(job.base),
        data=f"<ResultCode>{int(code)}</ResultCode>",
        correlator=job.correlator,
        mark="informational" if code is Result.DONE else "critical",
    )
    alerts.put(changing, alert)


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
