"""The job types: `get`, `provision`, `firmware` (FUMO 1.0), `software` (SCOMO 1.0), `order`, `commands`,
`connectivity`, `device`, `log`.

Each is a small object in `JOB_TYPES`: it checks the parameters when the operator queues the job, and makes the steps
when the device opens a session. The node names are those of docs/dm.md.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Protocol

from headend.dm.jobs.commands import CommandsJob
from headend.dm.jobs.connectivity import ConnectivityJob
from headend.dm.jobs.device import DeviceJob
from headend.dm.jobs.firmware import FirmwareJob
from headend.dm.jobs.log import LogJob
from headend.dm.jobs.order import OrderJob
from headend.dm.jobs.params import (
    NODES_PER_JOB_MAX,
    JobError,
    address,
    data,
    known_keys,
    node_value,
    objects,
    text,
    uri,
)
from headend.dm.jobs.steps import (
    Batch,
    CommandName,
    Done,
    Failed,
    Job,
    Json,
    Mode,
    Note,
    Outcome,
    Read,
    Reply,
    Request,
    Steps,
    add,
    add_interior,
    batches,
    below,
    get,
    read,
    replace,
    result_code,
    run_node,
    what_failed,
)
from headend.dm.jobs.tasks import TasksJob
from omadm.codes import SOFTWARE_ROLLED_BACK, Code

SCOMO = "./SCOMO"
DEPLOYED = f"{SCOMO}/Inventory/Deployed"

__all__ = ["JOB_TYPES", "JobError", "JobType"]

_NODE_NAME = r"[A-Za-z0-9_.-]{1,32}"


class JobType(Protocol):
    """A job type: checks a job's parameters, and makes its steps."""

    name: str

    def check(self, params: Mapping[str, Any]) -> Json:
        """The parameters, checked and in canonical form. Raises `JobError`."""

    def steps(self, job: Job) -> Steps: ...


class GetJob:
    """Read nodes and subtrees; the values go to `dm_values`. `{"paths": ["./DevDetail", …]}`; `.` is the whole tree."""

    name = "get"

    def check(self, params: Mapping[str, Any]) -> Json:
        known_keys(params, {"paths"}, {"paths"})
        paths = params["paths"]
        if not isinstance(paths, list) or not 1 <= len(paths) <= NODES_PER_JOB_MAX:
            raise JobError("paths: a list of 1 to 1000 URIs wanted")
        return {"paths": [uri(path, "paths", root=True) for path in paths]}

    def steps(self, job: Job) -> Steps:
        paths = list(job.params["paths"])
        found = yield from read(paths)
        result: Json = {"values": len(found.values)}
        if found.unreadable:
            result["unreadable"] = found.unreadable
        if found.not_kept:
            result |= {"values": len(found.values.keys() - found.not_kept.keys()), "not_kept": found.not_kept}
        if found.missing:
            return Failed(result | {"error": "some paths could not be read", "refused": found.missing})
        if found.not_kept:
            return Failed(result | {"error": "some values came, but could not be kept"})
        return Done(result)


class ProvisionJob:
    """Set nodes, whether they exist or not: Replace, and after 404 Add, including missing nodes above.

    `{"nodes": [{"path": "./A/B", "value": 5, "format": "int"}, {"path": "./C", "delete": true}], "atomic": false}`.
    Without `format` it follows from the value (int, bool, else chr); binary values are hexadecimal text with format
    `bin`. With `atomic` the device is asked which nodes it has, and everything else is one Atomic: all of it
    happens, or nothing. A device that has no Atomic, or takes no message of that size, refuses the job.
    """

    name = "provision"

    def check(self, params: Mapping[str, Any]) -> Json:
        known_keys(params, {"nodes", "atomic"}, {"nodes"})
        if not isinstance(params.get("atomic", False), bool):
            raise JobError("atomic: true or false")
        nodes = objects(params["nodes"], "nodes")
        return {"nodes": [self._node(node) for node in nodes], "atomic": params.get("atomic", False)}

    @staticmethod
    def _node(node: Mapping[str, Any]) -> Json:
        known_keys(node, {"path", "value", "format", "delete"}, {"path"})
        path = uri(node["path"], "nodes: path")
        if not isinstance(node.get("delete", False), bool):
            raise JobError(f"{path}: delete is true or false")
        if node.get("delete"):
            return {"path": path, "delete": True}
        return {"path": path, **node_value(path, node.get("value"), node.get("format"))}

    def steps(self, job: Job) -> Steps:
        if job.params["atomic"]:
            return (yield from self._atomically(job.params["nodes"]))
        nodes = [node for node in job.params["nodes"] if not node.get("delete")]
        doomed = [node["path"] for node in job.params["nodes"] if node.get("delete")]
        replies = yield from batches([Request(CommandName.DELETE, path) for path in doomed])
        deleted = sum(reply.ok for reply in replies)
        refused = {
            path: reply
            for path, reply in zip(doomed, replies, strict=True)
            if not reply.ok and reply.status != Code.NOT_FOUND
        }
        replies = yield from batches([replace(node["path"], data(node), node["format"]) for node in nodes])
        replaced = sum(reply.ok for reply in replies)
        absent = [node for node, reply in zip(nodes, replies, strict=True) if reply.status == Code.NOT_FOUND]
        refused |= {
            node["path"]: reply
            for node, reply in zip(nodes, replies, strict=True)
            if not reply.ok and reply.status != Code.NOT_FOUND
        }
        added = 0
        if absent:
            added, late, more = yield from self._add(absent)
            replaced, refused = replaced + late, refused | more
        return _provisioned({"replaced": replaced, "added": added, "deleted": deleted}, refused)

    def _add(self, nodes: list[Json]) -> Generator[Batch, list[Reply], tuple[int, int, dict[str, Reply]]]:
        """Add the interior nodes above, which may exist, then the leaves; replace leaves that exist. Returns how many
        leaves were added, and replaced, and what was refused."""
        parents = list(dict.fromkeys(above for node in nodes for above in _above(node["path"])))
        adds = [add_interior(uri) for uri in parents]
        adds += [add(node["path"], data(node), node["format"]) for node in nodes]
        replies = (yield from batches(adds))[len(parents) :]
        again = [node for node, reply in zip(nodes, replies, strict=True) if reply.status == Code.ALREADY_EXISTS]
        refused = {
            node["path"]: reply
            for node, reply in zip(nodes, replies, strict=True)
            if not reply.ok and reply.status != Code.ALREADY_EXISTS
        }
        added = sum(reply.ok for reply in replies)
        replies = yield from batches([replace(n["path"], data(n), n["format"]) for n in again])
        refused |= {n["path"]: reply for n, reply in zip(again, replies, strict=True) if not reply.ok}
        return added, sum(reply.ok for reply in replies), refused

    @staticmethod
    def _atomically(wanted: list[Json]) -> Steps:
        """Look which nodes there are, then send everything as one Atomic, which makes, replaces and deletes them."""
        paths = [node["path"] for node in wanted]
        above = list(dict.fromkeys(uri for node in wanted if not node.get("delete") for uri in _above(node["path"])))
        look = list(dict.fromkeys([*above, *paths]))
        replies = yield from batches([get(uri) for uri in look])
        found = dict(zip(look, replies, strict=True))
        unknown = {uri: reply for uri, reply in found.items() if reply.status is None}
        if unknown:
            return _provisioned({"replaced": 0, "added": 0, "deleted": 0}, unknown)
        absent = {uri for uri, reply in found.items() if reply.status == Code.NOT_FOUND}
        requests, counts = ProvisionJob._atomic_requests(wanted, absent)
        replies = (yield Batch(tuple(requests), Mode.ATOMIC)) if requests else []
        refused = {r.uri: reply for r, reply in zip(requests, replies, strict=True) if not reply.ok}
        if not refused:
            return Done(counts)
        return _provisioned({"replaced": 0, "added": 0, "deleted": 0}, refused)

    @staticmethod
    def _atomic_requests(wanted: list[Json], absent: set[str]) -> tuple[list[Request], Json]:
        """The commands for a device that lacks the nodes `absent`, and how many there are of each kind. What is deleted
        goes first; a node that is set twice, or deleted and set, has its last value in the end."""
        requests: list[Request] = []
        counts = {"replaced": 0, "added": 0, "deleted": 0}
        absent = set(absent)
        known = {uri for node in wanted for uri in (*_above(node["path"]), node["path"])}
        last = {node["path"]: node for node in wanted if not node.get("delete")}
        for path in dict.fromkeys(node["path"] for node in wanted if node.get("delete")):
            if path not in absent:
                requests.append(Request(CommandName.DELETE, path))
                counts["deleted"] += 1
                absent |= {uri for uri in known if uri == path or uri.startswith(f"{path}/")}
        for path, node in last.items():
            for parent in _above(path):
                if parent in absent and parent not in last:
                    requests.append(add_interior(parent))
                    absent.discard(parent)
            if path in absent:
                requests.append(add(path, data(node), node["format"]))
                absent.discard(path)
                counts["added"] += 1
            else:
                requests.append(replace(path, data(node), node["format"]))
                counts["replaced"] += 1
        return requests, counts


def _provisioned(counts: Json, refused: Mapping[str, Reply]) -> Outcome:
    if not refused:
        return Done(counts)
    statuses = {path: reply.status for path, reply in refused.items()}
    return Failed({**counts, "error": what_failed(statuses, "the device refused nodes"), "refused": statuses})


def _above(uri: str) -> list[str]:
    """The interior nodes above a node that may be missing: all but the root and the first level."""
    parts = uri.split("/")
    return ["/".join(parts[:depth]) for depth in range(3, len(parts))]


class SoftwareJob:
    """SCOMO: add a download node, Exec DownloadInstall, wait for OperationComplete, read the inventory.

    `{"id": "configs", "url": "https://…", "name": "…", "version": "1"}`; only `id` and `url` are required. The device
    compares `id` and `version` with the package's (InstallParams), and installs no other.
    """

    name = "software"

    def check(self, params: Mapping[str, Any]) -> Json:
        known_keys(params, {"id", "url", "name", "version"}, {"id", "url"})
        checked: Json = {
            "id": text(params, "id", _NODE_NAME, "up to 32 letters, digits and _.-"),
            "url": address(params, "url"),
        }
        for name in ("name", "version"):
            if params.get(name) is not None:
                checked[name] = text(params, name, r"[^\x00-\x1f]{1,64}", "up to 64 printable characters")
        return checked

    def steps(self, job: Job) -> Steps:
        if "alert" in job.progress:
            return (yield from self._report(job))
        node = f"{SCOMO}/Download/job{job.id}"
        leaves = {"PkgID": job.params["id"], "Name": job.params.get("name", job.params["id"])}
        leaves["PkgURL"] = job.params["url"]
        version = job.params.get("version")
        leaves["InstallParams"] = f"id={job.params['id']}" + (f";version={version}" if version else "")
        adds = [add(f"{node}/{name}", value) for name, value in leaves.items()]
        under_way = ("30", "40", "50")  # progressing, complete, installing (SCOMO 1.0)
        return (yield from run_node(job, node, adds, "Operations/DownloadInstall", state="Status", under_way=under_way))

    def _report(self, job: Job) -> Generator[Batch | Note, list[Reply], Outcome]:
        found: Read = yield from read([DEPLOYED])
        code = result_code(job)
        result: Json = {"result_code": code, "deployed": below(found, DEPLOYED)}
        if found.missing:
            result["unread"] = found.missing
        if code is not None and 1200 <= code < 1300:
            return Done(result)
        why = ["its program does not run, and the version of before runs again"] if code == SOFTWARE_ROLLED_BACK else []
        node = f"{SCOMO}/Download/job{job.id}/Ext/LastError"
        told: Read = yield from read([node])  # a device of before does not say why
        if said := told.values.get(node):
            result["device_error"] = str(said)
            why.append(str(said))
        return Failed(result | {"error": ": ".join([f"the installation ended with result {code}", *why])})


JOB_TYPES: Mapping[str, JobType] = {
    one.name: one
    for one in (
        GetJob(),
        ProvisionJob(),
        TasksJob(),
        FirmwareJob(),
        SoftwareJob(),
        OrderJob(),
        CommandsJob(),
        ConnectivityJob(),
        DeviceJob(),
        LogJob(),
    )
}
