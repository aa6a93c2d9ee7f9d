"""The steps of a job, independent of messages: requests, replies, and how a job ends.

The steps are a generator. It yields a `Batch` and is resumed with one `Reply` per request, in order; it yields a
`Checkpoint` to have its progress stored together with the next message; it returns the outcome. It may be restarted
from its last checkpoint at any time (the session broke, the server restarted), so its requests must be harmless when
repeated.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from headend.software.releases import PackageInfo
from omadm.codes import Code, carried_out, succeeded
from omadm.syncml.messages import Item

Json = dict[str, Any]


class CommandName(Enum):
    """The commands of OMA DM that act on a node."""

    GET = "Get"
    ADD = "Add"
    REPLACE = "Replace"
    DELETE = "Delete"
    EXEC = "Exec"
    COPY = "Copy"


class Mode(Enum):
    """How the requests of a batch depend on each other."""

    PLAIN = "each for itself"
    SEQUENCE = "in order"
    ATOMIC = "all or none"


@dataclass(frozen=True, slots=True)
class Request:
    """One command on one node. `data`, `format` and `type` for Add, Replace, Exec; `source` for Copy.

    `uri` may end in a query (`?prop=ACL`, `?list=TNDS`).
    """

    command: CommandName
    uri: str
    data: str | bytes | None = field(default=None, repr=False)
    format: str | None = None
    type: str | None = None
    source: str | None = None
    correlator: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What the device said to a request: its status, and the items of its Results.

    `status` is None when the device closed its package without one: whether it carried the request out is not known.
    `lacking`: the status promised a value that did not come, or not whole. `not_kept`: why a value that came could not
    be stored. `later`: it may be carried out later, as an alert will say.
    """

    status: int | None
    items: tuple[Item, ...] = ()
    lacking: bool = False
    not_kept: str = ""
    later: bool = False

    @property
    def ok(self) -> bool:
        return self.status is not None and carried_out(self.status, later=self.later) and not self.lacking

    @property
    def why(self) -> str:
        """What was wrong, to follow the name of a node in a sentence for the operator."""
        if self.status is None:
            return "was not answered: what the device did is not known"
        if self.lacking and carried_out(self.status):
            return f"was answered {self.status}, but without its value"
        if succeeded(self.status) and not self.ok:
            return f"was answered {self.status}: what the device did of it is not known"
        return "was refused"


def what_failed(refused: Mapping[str, int | None], error: str) -> str:
    """A sentence for the operator on nodes and their statuses: `error`, unless one of them was not answered."""
    unanswered = sorted(uri for uri, status in refused.items() if status is None)
    return f"{unanswered[0]} {Reply(None).why}" if unanswered else error


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that are sent together."""

    requests: tuple[Request, ...]
    mode: Mode = Mode.PLAIN


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Progress to store, from which the job can be restarted."""

    progress: Json


@dataclass(frozen=True, slots=True)
class Done:
    """The job succeeded."""

    result: Json


@dataclass(frozen=True, slots=True)
class Failed:
    """The job failed; `result["error"]` is a sentence for the operator. `cause` is what went wrong in the head-end
    itself, for its log."""

    result: Json
    cause: Exception | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Waiting:
    """The job waits for the alert with its correlator. `progress` replaces what was stored."""

    progress: Json


@dataclass(frozen=True, slots=True)
class SubtreeListed:
    """Below `root` the device has exactly these nodes: stored values of others are outdated."""

    root: str
    uris: frozenset[str]


Outcome = Done | Failed | Waiting
Note = Checkpoint | SubtreeListed  # stored at once, without waiting for the device
Steps = Generator[Batch | Note, list[Reply], Outcome]


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its steps see it. `progress["alert"]` is the alert that the job waited for; `packages` are the uploaded
    packages of the firmware release that it is about."""

    id: int
    kind: str
    params: Mapping[str, Any]
    correlator: str
    progress: Mapping[str, Any]
    packages: tuple[PackageInfo, ...] = ()
    device_id: str = ""


def get(uri: str) -> Request:
    return Request(CommandName.GET, uri)


def replace(uri: str, data: str | bytes, data_format: str = "chr") -> Request:
    return Request(CommandName.REPLACE, uri, data, data_format)


def add(uri: str, data: str | bytes, data_format: str = "chr") -> Request:
    return Request(CommandName.ADD, uri, data, data_format)


def add_interior(uri: str) -> Request:
    return Request(CommandName.ADD, uri, format="node")


def execute(uri: str, correlator: str) -> Request:
    return Request(CommandName.EXEC, uri, correlator=correlator)


URI_CHARS_MAX = 255  # of a node that is set, or whose value is kept
NODES_MAX = 10_000  # read by one job; a concentrator with 500 meters has about half as many
NOT_FOR_US = (Code.NOT_ALLOWED, Code.PERMISSION_DENIED)  # as a secret is, which can be written only
BATCH_MAX = 64  # requests per batch; as many as fit are sent in one message
READS_PER_BATCH = 256  # a device has 256 messages for a session (DM 1.2 sets no limit), and half of 512 commands in one


def batches(requests: list[Request], most: int = BATCH_MAX) -> Generator[Batch, list[Reply], list[Reply]]:
    """Send any number of independent requests, `most` in a batch; return all replies, in order."""
    replies: list[Reply] = []
    for start in range(0, len(requests), most):
        replies += yield Batch(tuple(requests[start : start + most]))
    return replies


@dataclass(frozen=True, slots=True)
class Read:
    """The result of `read`: leaf values by URI, the status by URI of what could not be read (None: no answer, or no
    value), which nodes below the paths nobody may read, and why values that came, or would have come, could not be
    stored."""

    values: dict[str, str | bytes]
    missing: dict[str, int | None]
    unreadable: dict[str, int] = field(default_factory=dict)
    not_kept: dict[str, str] = field(default_factory=dict)


def read(paths: list[str]) -> Generator[Batch | Note, list[Reply], Read]:
    """Read nodes; of an interior node everything below it, by reading the children that it lists."""
    found = Read({}, {})
    level = list(dict.fromkeys(paths))
    seen = 0
    while level:
        seen += len(level)
        if seen > NODES_MAX:
            found.missing["."] = Code.TOO_LARGE
            return found
        replies = yield from batches([get(uri) for uri in level], READS_PER_BATCH)
        below: list[str] = []
        for uri, reply in zip(level, replies, strict=True):
            if uri not in paths and reply.status in NOT_FOR_US:
                found.unreadable[uri] = reply.status
            elif not reply.ok and (uri in paths or reply.status != Code.NOT_FOUND):  # it may have gone since
                found.missing[uri] = None if reply.lacking else reply.status
            if reply.not_kept:
                found.not_kept[uri] = reply.not_kept
            for item in reply.items:
                below += _note(found, item.source or uri, item)
        level = list(dict.fromkeys(below))
    for path in paths:
        if any(uri.startswith(f"{path}/") for uri in found.missing):
            continue  # what was not read may well exist
        if path not in found.missing or found.missing[path] == Code.NOT_FOUND:
            yield SubtreeListed(path, frozenset(found.values))
    return found


def _note(found: Read, uri: str, item: Item) -> list[str]:
    """Store a leaf's value; return the URIs of an interior node's children."""
    if item.meta is not None and item.meta.format == "node":
        names = item.data if isinstance(item.data, str) else ""
        below = [f"{uri}/{name}" for name in names.split("/") if name]
        for child in below:
            if why := _why_not_asked(child):
                found.not_kept[child[:URI_CHARS_MAX]] = why
        return [child for child in below if not _why_not_asked(child)]
    if isinstance(item.data, str | bytes):
        found.values[uri] = item.data
    return []


def _why_not_asked(uri: str) -> str:
    """Why a node that a device lists cannot be read and kept: one that lists itself below itself has no end, and a `?`
    makes another question of it. Empty where it can."""
    if len(uri) > URI_CHARS_MAX:
        return f"its name has {len(uri)} characters, 1 to {URI_CHARS_MAX} can be kept"
    return "its name has a ?, and cannot be asked for" if "?" in uri else ""


def result_code(job: Job) -> int | None:
    """The result code in the alert that the job waited for."""
    alert = job.progress.get("alert")
    code = alert.get("result_code") if isinstance(alert, dict) else None
    return code if isinstance(code, int) else None


DONE = 1200  # the result code of SCOMO, and of this project's own alerts, for what was done


def only_text(reply: Reply) -> str | None:
    """The text value from a Get of one leaf; None when there is none."""
    item = reply.items[0] if reply.ok and reply.items else None
    return item.data if item is not None and isinstance(item.data, str) else None


def below(found: Read, root: str) -> dict[str, str]:
    """Leaf values below `root` by relative URI; binary values as hexadecimal text (the result is JSON)."""
    return {
        uri.removeprefix(f"{root}/"): value if isinstance(value, str) else value.hex()
        for uri, value in found.values.items()
        if uri.startswith(f"{root}/")
    }


def run_node(
    job: Job, node: str, adds: list[Request], operation: str, *, state: str, under_way: tuple[str, ...]
) -> Steps:
    """Add a node of the job's own, have the device carry it out by Exec, and wait for its alert.

    `adds` make the leaves below `node`, `operation` takes the Exec. After a cut `state` is read first: with a value
    among `under_way` only the status was lost, and what has run is not run again. The outcome is `Waiting`, or `Failed`
    with the statuses of what the device refused.
    """
    if job.progress.get("exec_sent"):
        (reply,) = yield Batch((get(f"{node}/{state}"),))
        if only_text(reply) in under_way:
            return Waiting(dict(job.progress))
        if reply.status is None or reply.lacking:
            return Failed({"error": f"{node}/{state} {reply.why}", "status": reply.status})
    wanted = [add_interior(node), *adds]
    replies = yield Batch(tuple(wanted))
    refused = {
        request.uri: reply.status
        for request, reply in zip(wanted, replies, strict=True)
        if not reply.ok and reply.status != Code.ALREADY_EXISTS
    }
    if refused:
        unanswered = None in refused.values()
        error = f"the node {node} was not answered whole" if unanswered else f"the device refused the node {node}"
        return Failed({"error": error, "refused": refused})
    return (yield from ordered(job, f"{node}/{operation}", f"the order to run {node}"))


def ordered(job: Job, uri: str, what: str, progress: Mapping[str, Any] | None = None) -> Steps:
    """Exec `uri`, under the job's correlator, after a checkpoint. The outcome is `Waiting` for the alert, or `Failed`
    in words about `what`."""
    noted = {**(progress or {}), "exec_sent": True}
    yield Checkpoint(noted)
    (reply,) = yield Batch((execute(uri, job.correlator),))
    if reply.status not in (Code.OK, Code.ACCEPTED):
        return Failed({"error": f"{what} {reply.why}", "status": reply.status})
    return Waiting(noted)
