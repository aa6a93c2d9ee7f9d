"""The job `log`: lines of a device's log of a time span (docs/management-objects.md, DiagMon)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headend.dm.jobs.params import JobError, known_keys
from headend.dm.jobs.steps import Batch, Done, Failed, Job, Json, Steps, execute, read, replace, what_failed
from omadm.orders import LEVELS, SECONDS_MAX

LOG = "log"
NODE = "./DiagMon/Log"
DATA = f"{NODE}/Data"


class LogJob:
    """Set the span, Exec Collect, read what was collected into `dm_values`.

    `{"since": 1795341600, "until": 1795345200, "level": "warning"}`, seconds since 1970; each may be left out.
    """

    name = LOG

    def check(self, params: Mapping[str, Any]) -> Json:
        known_keys(params, {"since", "until", "level"}, set())
        checked: Json = {"since": 0, "until": 0, "level": "info", **params}
        for name in ("since", "until"):
            value = checked[name]
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= SECONDS_MAX:
                raise JobError(f"{name}: seconds since 1970 wanted, not {value!r}")
        if checked["level"] not in LEVELS:
            raise JobError(f"level: one of {', '.join(LEVELS)} wanted, not {checked['level']!r}")
        if checked["until"] and checked["until"] < checked["since"]:
            raise JobError("until is before since")
        return checked

    def steps(self, job: Job) -> Steps:
        # Again after a cut: a log that is collected twice does no harm.
        wanted = (
            replace(f"{NODE}/From", str(job.params["since"]), "int"),
            replace(f"{NODE}/To", str(job.params["until"]), "int"),
            replace(f"{NODE}/Level", job.params["level"]),
            execute(f"{NODE}/Operations/Collect", job.correlator),
        )
        replies = yield Batch(wanted)
        refused = {one.uri: reply.status for one, reply in zip(wanted, replies, strict=True) if not reply.ok}
        if refused:
            return Failed({"error": what_failed(refused, "the device did not collect its log"), "refused": refused})
        found = yield from read([NODE])
        result: Json = {
            "node": DATA,
            "lines": found.values.get(f"{NODE}/Status/Lines"),
            "shortened": found.values.get(f"{NODE}/Status/Shortened"),
        }
        if found.missing or found.not_kept or DATA not in found.values:
            return Failed({**result, "error": "the log was collected, but could not be read", "refused": found.missing})
        return Done(result)
