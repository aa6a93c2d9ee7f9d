"""The job `firmware` (FUMO 1.0): chooses the package for a device, and reports the result.

The operator names either the package (`url`) or only the release (`version`): then the device gets the delta that fits
the version it runs, or the full package if there is none. The descriptor of a delta names the full package; the
device's own policy decides whether it fetches that when the delta is unusable. With `full_after_delta` the job sends
the full package itself after the device has reported an unusable delta.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any
from urllib.parse import quote

from headend.dm.jobs.params import JobError, address, known_keys, text
from headend.dm.jobs.steps import (
    Batch,
    Checkpoint,
    Done,
    Failed,
    Job,
    Json,
    Note,
    Outcome,
    Read,
    Reply,
    Steps,
    Waiting,
    below,
    get,
    only_text,
    ordered,
    read,
    replace,
    result_code,
)
from headend.software.releases import NoPackageError, PackageInfo, choose
from omadm.codes import succeeded

FIRMWARE = "firmware"
FUMO = "./FUMO/Firmware"
EXEC = f"{FUMO}/DownloadAndUpdate"
URL = f"{EXEC}/PkgURL"
STATE = f"{FUMO}/State"
EXT = f"{FUMO}/Ext"
HARDWARE = f"{EXT}/Compatible"
FW_VERSION = "./DevDetail/FwV"
BUSY = frozenset({"30", "40", "50", "60"})  # downloading .. updating (FUMO 1.0, 5.1.1)
DELTA_RESULTS = frozenset({450, 451})  # the delta is unusable; 451: and the device may not fetch the full package
TOLD = {"LastError": "device_error", "FailedCheck": "failed_check", "FullInstead": "full_instead"}


class FirmwareJob:
    """Set the URL, Exec DownloadAndUpdate, wait for its generic alert, and read the result.

    `{"url": "https://…", "version": "2"}`: this package; with `version`, a device that already runs it is left alone.
    `{"version": "2", "delta": true, "full_after_delta": false}`: the package of this release that fits. The operator's
    server adds `packages_url`, the base URL of the package server, and the device's `pass` for it.
    """

    name = FIRMWARE

    def check(self, params: Mapping[str, Any]) -> Json:
        if "url" in params:
            known_keys(params, {"url", "version"}, {"url"})
            checked: Json = {"url": address(params, "url")}
        else:
            known = {"version", "packages_url", "pass", "delta", "full_after_delta"}
            known_keys(params, known, {"version", "packages_url"})
            checked = {"packages_url": address(params, "packages_url")}
            if "pass" in params:
                checked["pass"] = text(params, "pass", r"[0-9a-f]{32}", "32 hexadecimal digits")
            for name, default in (("delta", True), ("full_after_delta", False)):
                checked[name] = params.get(name, default)
                if not isinstance(checked[name], bool):
                    raise JobError(f"{name}: true or false")
        if params.get("version") is not None or "url" not in params:
            checked["version"] = text(params, "version", r"[ -~]{1,64}", "up to 64 printable ASCII characters")
        return checked

    def steps(self, job: Job) -> Steps:
        progress: Json = dict(job.progress)
        if "alert" in progress:
            if not _delta_was_unusable(job):
                return (yield from self._report(job))
            first = {"package": progress["sent"]["package"], "result_code": result_code(job)}
            progress = {"from_version": progress.get("from_version"), "after_delta": first}
            yield Checkpoint(progress)
        replies = yield Batch((get(FW_VERSION), get(STATE), *(() if "url" in job.params else (get(HARDWARE),))))
        version, state, *hardware = (only_text(reply) for reply in replies)
        if version is None:
            return Failed({"error": f"{FW_VERSION} {replies[0].why}", "status": replies[0].status})
        if progress.get("exec_sent") and state is None:
            return Failed({"error": f"{STATE} {replies[1].why}", "status": replies[1].status})
        if progress.get("exec_sent") and state in BUSY:
            return Waiting(progress)  # the Exec had arrived; only its status was lost
        if job.params.get("version") == version and not progress.get("exec_sent"):
            return Done({"result_code": 200, "fw_version": version, "from_version": version, "already": True})
        try:
            url, sent = self._package(job, version, hardware[0] if hardware else None, progress)
        except NoPackageError as error:
            return Failed({"error": str(error), "fw_version": version})
        (reply,) = yield Batch((replace(URL, url),))
        if not reply.ok:
            return Failed({"error": f"{URL} {reply.why}", "status": reply.status})
        progress |= {"from_version": progress.get("from_version") or version, **sent}
        return (yield from ordered(job, EXEC, "the order to update", progress))

    @staticmethod
    def _package(job: Job, running: str, hardware: str | None, progress: Json) -> tuple[str, Json]:
        """The URL for the device, and what to note about the package. Raises `NoPackageError`."""
        if "url" in job.params:
            return job.params["url"], {}
        delta = job.params["delta"] and "after_delta" not in progress
        found: PackageInfo = choose(job.packages, running, hardware or None, delta=delta)
        url = f"{job.params['packages_url']}/descriptors/{quote(found.name)}?device={quote(job.device_id)}"
        url += f"&pass={job.params['pass']}" if "pass" in job.params else ""
        return url, {"sent": {"package": found.name, "delta": found.is_delta, "bytes": found.size}}

    def _report(self, job: Job) -> Generator[Batch | Note, list[Reply], Outcome]:
        found: Read = yield from read([FW_VERSION, STATE, EXT])
        code, ext = result_code(job), below(found, EXT)
        result: Json = {
            "result_code": code,
            "from_version": job.progress.get("from_version"),
            "fw_version": found.values.get(FW_VERSION),
            "state": found.values.get(STATE),
            "ext": ext,
            **job.progress.get("sent", {}),
        }
        if found.missing:
            result["unread"] = found.missing
        result |= {name: ext[leaf] for leaf, name in TOLD.items() if ext.get(leaf)}
        if "after_delta" in job.progress:
            result["after_delta"] = job.progress["after_delta"]
        if code is not None and succeeded(code):
            return Done(result)
        return Failed(result | {"error": f"the update ended with result {code}"})


def _delta_was_unusable(job: Job) -> bool:
    """Whether the device reported an unusable delta, and the operator wants the full package in that case."""
    sent = job.progress.get("sent", {})
    return bool(sent.get("delta")) and bool(job.params.get("full_after_delta")) and result_code(job) in DELTA_RESULTS
