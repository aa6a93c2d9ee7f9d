"""The job types: `get`, `provision`, `firmware` (FUMO 1.0), `software` (SCOMO 1.0), `order`, `commands`.

Each is a small object in `JOB_TYPES`: it checks the parameters when the operator queues the job, and makes the steps
when the device opens a session. The node names are those of docs/dm.md.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Protocol

from headend.dm.jobs.commands import CommandsJob
from headend.dm.jobs.firmware import FirmwareJob
from headend.dm.jobs.order import OrderJob
from headend.dm.jobs.params import (
    HTTPS_URL,
    NODES_PER_JOB_MAX,
    JobError,
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
    read,
    replace,
    result_code,
    run_node,
)
from headend.dm.jobs.tasks import TasksJob
from omadm.codes import Code

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
    """Read nodes and subtrees; the values go to `dm_values`. `{"paths": ["./DevDetail", …]}`"""

    name = "get"

    def check(self, params: Mapping[str, Any]) -> Json:
        known_keys(params, {"paths"}, {"paths"})
        paths = params["paths"]
        if not isinstance(paths, list) or not 1 <= len(paths) <= NODES_PER_JOB_MAX:
            raise JobError("paths: a list of 1 to 1000 URIs wanted")
        return {"paths": [uri(path, "paths") for path in paths]}

    def steps(self, job: Job) -> Steps:
        paths = list(job.params["paths"])
        found = yield from read(paths)
        refused = {path: found.missing[path] for path in [*paths, "."] if path in found.missing}
        result: Json = {"values": len(found.values)}
        if refused:
            return Failed(result | {"error": "some paths could not be read", "refused": refused})
        return Done(result)


class ProvisionJob:
    """Set nodes, whether they exist or not: Replace, and after 404 Add, including missing nodes above.

    `{"nodes": [{"path": "./A/B", "value": 5, "format": "int"}, {"path": "./C", "delete": true}], "atomic": false}`.
    Without `format` it follows from the value (int, bool, else chr); binary values are hexadecimal text with format
    `bin`. With `atomic` the Replaces are one Atomic; if a node is missing, all are then added or replaced one by one.
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
        if node.get("delete"):
            return {"path": path, "delete": True}
        return {"path": path, **node_value(path, node.get("value"), node.get("format"))}

    def steps(self, job: Job) -> Steps:
        mode = Mode.ATOMIC if job.params["atomic"] else Mode.PLAIN
        nodes = [node for node in job.params["nodes"] if not node.get("delete")]
        doomed = [node["path"] for node in job.params["nodes"] if node.get("delete")]
        refused: dict[str, int] = {}
        replies = yield from batches([Request(CommandName.DELETE, path) for path in doomed])
        refused |= {
            path: reply.status
            for path, reply in zip(doomed, replies, strict=True)
            if not reply.ok and reply.status != Code.NOT_FOUND
        }
        replaces = [replace(node["path"], data(node), node["format"]) for node in nodes]
        replies = yield from self._send(replaces, mode)
        absent = self._absent(nodes, replies, mode, refused)
        if absent:
            refused |= yield from self._add(absent)
        result: Json = {"replaced": len(nodes) - len(absent), "added": len(absent), "deleted": len(doomed)}
        if refused:
            return Failed(result | {"error": "the device refused nodes", "refused": refused})
        return Done(result)

    @staticmethod
    def _absent(nodes: list[Json], replies: list[Reply], mode: Mode, refused: dict[str, int]) -> list[Json]:
        """The nodes to add. Other refusals are noted in `refused`, unless an Atomic failed because a node is missing:
        then nothing was done, and every node is added (which replaces those that exist)."""
        statuses = [reply.status for reply in replies]
        if mode is Mode.ATOMIC and Code.NOT_FOUND in statuses:
            return nodes
        for node, reply in zip(nodes, replies, strict=True):
            if not reply.ok and reply.status != Code.NOT_FOUND:
                refused[node["path"]] = reply.status
        return [node for node, status in zip(nodes, statuses, strict=True) if status == Code.NOT_FOUND]

    def _add(self, nodes: list[Json]) -> Generator[Batch, list[Reply], dict[str, int]]:
        """Add the interior nodes above, which may exist, then the leaves; replace leaves that exist."""
        parents = list(dict.fromkeys(above for node in nodes for above in _above(node["path"])))
        adds = [add_interior(uri) for uri in parents]
        adds += [add(node["path"], data(node), node["format"]) for node in nodes]
        replies = (yield from batches(adds))[len(parents) :]
        again = [node for node, reply in zip(nodes, replies, strict=True) if reply.status == Code.ALREADY_EXISTS]
        refused = {
            node["path"]: reply.status
            for node, reply in zip(nodes, replies, strict=True)
            if not reply.ok and reply.status != Code.ALREADY_EXISTS
        }
        replies = yield from batches([replace(n["path"], data(n), n["format"]) for n in again])
        return refused | {n["path"]: r.status for n, r in zip(again, replies, strict=True) if not r.ok}

    @staticmethod
    def _send(requests: list[Request], mode: Mode) -> Generator[Batch, list[Reply], list[Reply]]:
        if mode is Mode.PLAIN or not requests:
            return (yield from batches(requests))
        return (yield Batch(tuple(requests), mode))


def _above(uri: str) -> list[str]:
    """The interior nodes above a node that may be missing: all but the root and the first level."""
    parts = uri.split("/")
    return ["/".join(parts[:depth]) for depth in range(3, len(parts))]


class SoftwareJob:
    """SCOMO: add a download node, Exec DownloadInstall, wait for OperationComplete, read the inventory.

    `{"id": "configs", "url": "https://…", "name": "…", "version": "1"}`; only `id` and `url` are required.
    """

    name = "software"

    def check(self, params: Mapping[str, Any]) -> Json:
        known_keys(params, {"id", "url", "name", "version"}, {"id", "url"})
        checked: Json = {
            "id": text(params, "id", _NODE_NAME, "up to 32 letters, digits and _.-"),
            "url": text(params, "url", HTTPS_URL, "an https URL"),
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
        adds = [add(f"{node}/{name}", value) for name, value in leaves.items()]
        under_way = ("30", "40", "50")  # progressing, complete, installing (SCOMO 1.0)
        return (yield from run_node(job, node, adds, "Operations/DownloadInstall", state="Status", under_way=under_way))

    def _report(self, job: Job) -> Generator[Batch | Note, list[Reply], Outcome]:
        found: Read = yield from read([DEPLOYED])
        code = result_code(job)
        result: Json = {"result_code": code, "deployed": below(found, DEPLOYED)}
        if code is not None and 1200 <= code < 1300:
            return Done(result)
        return Failed(result | {"error": f"the installation ended with result {code}"})


JOB_TYPES: Mapping[str, JobType] = {
    one.name: one
    for one in (GetJob(), ProvisionJob(), TasksJob(), FirmwareJob(), SoftwareJob(), OrderJob(), CommandsJob())
}
