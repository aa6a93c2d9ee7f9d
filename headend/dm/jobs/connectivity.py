"""The job `connectivity`: how a device reaches its head-end is changed on trial (docs/management-objects.md, ConnMO).

Done is only what the device has confirmed by a session over the new values; taken back is failed, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headend.dm.jobs.params import JobError, address, known_keys, text
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
    replace,
    result_code,
    what_failed,
)

CONNECTIVITY = "connectivity"
CONNMO = "./ConnMO"
TRY = f"{CONNMO}/Operations/Try"
STATUS = f"{CONNMO}/Status"
IN_USE = f"{CONNMO}/InUse"
WITHIN_S = (60, 86_400)  # what the device takes
LEAVES = {
    "server": "ServerURL",
    "registration": "RegistrationURL",
    "uplink": "UplinkURL",
    "anchors": "Anchors",
    "time_servers": "TimeServers",
    "access": "Access",
}
BACK = "default"  # to what the device's own configuration says
_CHECKS = {
    "anchors": (r"default|[\x09\x0a\x0d -~]{1,32768}", "PEM of up to 32768 characters, or default,"),
    "time_servers": (r"[A-Za-z0-9 .:-]{1,1024}", "names or addresses separated by spaces, or default,"),
    "access": (r"[^\x00-\x08\x0b\x0c\x0e-\x1f]{1,4096}", "up to 4096 characters, or default,"),
}


def _checked(params: Mapping[str, Any], name: str) -> str:
    if name in _CHECKS:
        return text(params, name, *_CHECKS[name])
    return BACK if name == "registration" and params[name] == BACK else address(params, name)


TAKEN_BACK = "reverted"  # the state of a change whose old values are in use again


class ConnectivityJob:
    """Write `Proposed`, Exec `Try`, wait for ChangeComplete, read why.

    `{"server": "https://…", "registration": …, "uplink": …, "anchors": "PEM", "time_servers": "a b", "access": "…",
    "within_s": 900}`: at least one besides `within_s`; `default` is what the device itself is configured with.
    """

    name = CONNECTIVITY

    def check(self, params: Mapping[str, Any]) -> Json:
        known_keys(params, {*LEAVES, "within_s"}, set())
        checked: Json = {name: _checked(params, name) for name in LEAVES if params.get(name) is not None}
        if not checked:
            raise JobError(f"nothing to change; there are {', '.join(LEAVES)}")
        within_s = params.get("within_s", 900)
        if isinstance(within_s, bool) or not isinstance(within_s, int) or not WITHIN_S[0] <= within_s <= WITHIN_S[1]:
            raise JobError(f"within_s: {WITHIN_S[0]} to {WITHIN_S[1]} wanted, not {within_s!r}")
        return {**checked, "within_s": within_s}

    def steps(self, job: Job) -> Steps:
        if "alert" in job.progress:
            return (yield from self._report(job))
        if job.progress.get("exec_sent"):
            (reply,) = yield Batch((get(f"{STATUS}/Correlator"),))
            if only_text(reply) == job.correlator:
                return Waiting(dict(job.progress))  # only the status was lost: the alert comes, or is on its way
            if not reply.ok:
                return Failed({"error": f"{STATUS}/Correlator {reply.why}", "status": reply.status})
        # All leaves: what a job that failed has left there is not part of this one.
        wanted = [replace(f"{CONNMO}/Proposed/{leaf}", job.params.get(name, "")) for name, leaf in LEAVES.items()]
        wanted.append(replace(f"{CONNMO}/Proposed/Within", str(job.params["within_s"]), "int"))
        replies = yield Batch(tuple(wanted))
        refused = {one.uri: reply.status for one, reply in zip(wanted, replies, strict=True) if not reply.ok}
        if refused:
            error = what_failed(refused, "the device did not take what was proposed")
            return Failed({"error": error, "refused": refused})
        return (yield from ordered(job, TRY, "the trial"))

    @staticmethod
    def _report(job: Job) -> Steps:
        found = yield from read([STATUS, IN_USE])  # the latter for who looks at the device afterwards
        code, status = result_code(job), below(found, STATUS)
        result: Json = {"result_code": code, "state": status.get("State"), "changed": status.get("Changed", "")}
        if found.missing:
            result["unread"] = found.missing
        if code == DONE:
            return Done(result)
        reason = status.get("Reason") or f"result {code}"
        end = "the device has taken the change back" if status.get("State") == TAKEN_BACK else "it was not confirmed"
        return Failed({**result, "error": f"{end}: {reason}"})
