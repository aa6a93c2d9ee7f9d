"""The job `device`: the device as a whole is locked, unlocked, rebooted or reset (LAWMO, see docs/dm.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headend.dm.jobs.params import known_keys, text
from headend.dm.jobs.steps import (
    DONE,
    Batch,
    Done,
    Failed,
    Job,
    Json,
    Steps,
    Waiting,
    below,
    get,
    only_text,
    ordered,
    read,
    result_code,
)

DEVICE = "device"
LAWMO = "./LAWMO"
OPERATIONS = {"lock": "FullyLock", "unlock": "UnLock", "reboot": "Reboot", "factory-reset": "FactoryReset"}
STATES = {"lock": "locked", "unlock": "unlocked"}  # in effect with the message that orders it


class DeviceJob:
    """Exec one of the operations of LAWMO. `{"operation": "lock"}`, or `unlock`, `reboot`, `factory-reset`.

    A lock is done when the device says that it is in that state; a reboot or reset when its alert has come.
    """

    name = DEVICE

    def check(self, params: Mapping[str, Any]) -> Json:
        known_keys(params, {"operation"}, {"operation"})
        return {"operation": text(params, "operation", "|".join(OPERATIONS), " or ".join(OPERATIONS))}

    def steps(self, job: Job) -> Steps:
        operation: str = job.params["operation"]
        if "alert" in job.progress:
            return (yield from self._report(job))
        if job.progress.get("exec_sent") and operation not in STATES:
            (reply,) = yield Batch((get(f"{LAWMO}/Status/Correlator"),))
            if only_text(reply) == job.correlator:
                return Waiting(dict(job.progress))  # only the status was lost
            # A device that answers but does not know the order may have carried out a reset: its alert is on its way.
            if not reply.ok or operation == "factory-reset":
                return Failed({"error": "it is not known whether the order was carried out", "status": reply.status})
        outcome = yield from ordered(job, f"{LAWMO}/Operations/{OPERATIONS[operation]}", "the order")
        if isinstance(outcome, Failed) or operation not in STATES:
            return outcome
        found = yield from read([f"{LAWMO}/State"])
        state = found.values.get(f"{LAWMO}/State")
        if state == STATES[operation]:
            return Done({"state": state})
        return Failed({"error": f"the device did not say that it is {STATES[operation]}", "state": state})

    @staticmethod
    def _report(job: Job) -> Steps:
        code = result_code(job)
        result: Json = {"result_code": code}
        if code == DONE:
            return Done(result)
        status = below((yield from read([f"{LAWMO}/Status"])), f"{LAWMO}/Status")
        return Failed({**result, "error": status.get("Error") or f"the order ended with result {code}"})
