"""What a job says to a device, without knowing messages: requests, replies, and how a job ends.

A job is a generator. It yields a `Batch` and is resumed with one `Reply` per request, in order; it yields a
`Checkpoint` to have its progress stored together with the message that goes out next; it returns its outcome. It may
be started again from its last checkpoint at any time (the session broke, the server restarted), so what it asks for
must be harmless when asked twice.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from headend.software.releases import PackageInfo
from omadm.codes import Code, succeeded
from omadm.syncml.messages import Item

Json = dict[str, Any]

NO_ANSWER = 0  # the device closed its package without a status for this command


class Verb(Enum):
    GET = "Get"
    ADD = "Add"
    REPLACE = "Replace"
    DELETE = "Delete"
    EXEC = "Exec"
    COPY = "Copy"


class Mode(Enum):
    """How the requests of a batch hang together."""

    PLAIN = "each for itself"
    SEQUENCE = "in order"
    ATOMIC = "all or none"


@dataclass(frozen=True, slots=True)
class Request:
    """One command on one node. `data`, `format` and `type` for Add, Replace, Exec; `source` for Copy.

    `uri` may end in a query (`?prop=ACL`, `?list=TNDS`).
    """

    verb: Verb
    uri: str
    data: str | bytes | None = field(default=None, repr=False)
    format: str | None = None
    type: str | None = None
    source: str | None = None
    correlator: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The device's status for a request (`NO_ANSWER` if none came) and the items of its Results."""

    status: int
    items: tuple[Item, ...] = ()

    @property
    def ok(self) -> bool:
        return succeeded(self.status)


@dataclass(frozen=True, slots=True)
class Batch:
    requests: tuple[Request, ...]
    mode: Mode = Mode.PLAIN


@dataclass(frozen=True, slots=True)
class Checkpoint:
    progress: Json


@dataclass(frozen=True, slots=True)
class Done:
    result: Json


@dataclass(frozen=True, slots=True)
class Failed:
    """`result["error"]` is a sentence for the operator."""

    result: Json


@dataclass(frozen=True, slots=True)
class Waiting:
    """Until the alert with the job's correlator arrives. `progress` replaces what was stored."""

    progress: Json


@dataclass(frozen=True, slots=True)
class Known:
    """Below `root` the device has these nodes and no others: what was stored for others is outdated."""

    root: str
    uris: frozenset[str]


Outcome = Done | Failed | Waiting
Note = Checkpoint | Known  # stored at once, without an answer of the device
Steps = Generator[Batch | Note, list[Reply], Outcome]


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its steps see it. `progress["alert"]` is the alert that a waiting job was waiting for; `packages` are
    those of the firmware release that it is about, as they are uploaded now."""

    id: int
    kind: str
    params: Mapping[str, Any]
    correlator: str
    progress: Mapping[str, Any]
    packages: tuple[PackageInfo, ...] = ()
    device_id: str = ""


def get(uri: str) -> Request:
    return Request(Verb.GET, uri)


def replace(uri: str, data: str | bytes, data_format: str = "chr") -> Request:
    return Request(Verb.REPLACE, uri, data, data_format)


def add(uri: str, data: str | bytes, data_format: str = "chr") -> Request:
    return Request(Verb.ADD, uri, data, data_format)


def add_interior(uri: str) -> Request:
    return Request(Verb.ADD, uri, format="node")


def execute(uri: str, correlator: str) -> Request:
    return Request(Verb.EXEC, uri, correlator=correlator)


NODES_MAX = 5000  # of one subtree
BATCH_MAX = 64  # requests sent together; a message holds as many of them as fit


def batches(requests: list[Request]) -> Generator[Batch, list[Reply], list[Reply]]:
    """Send any number of independent requests; the replies of all, in order."""
    replies: list[Reply] = []
    for start in range(0, len(requests), BATCH_MAX):
        replies += yield Batch(tuple(requests[start : start + BATCH_MAX]))
    return replies


@dataclass(frozen=True, slots=True)
class Read:
    """What `read` found: leaf values by URI, and the status of what could not be read."""

    values: dict[str, str | bytes]
    missing: dict[str, int]


def read(paths: list[str]) -> Generator[Batch | Note, list[Reply], Read]:
    """Read nodes; of an interior node everything below, by asking for the children it names."""
    found = Read({}, {})
    level = list(dict.fromkeys(paths))
    seen = 0
    while level:
        seen += len(level)
        if seen > NODES_MAX:
            found.missing["."] = Code.TOO_LARGE
            return found
        replies = yield from batches([get(uri) for uri in level])
        below: list[str] = []
        for uri, reply in zip(level, replies, strict=True):
            if not reply.ok:
                found.missing[uri] = reply.status
            for item in reply.items:
                below += _note(found, item.source or uri, item)
        level = list(dict.fromkeys(below))
    for path in paths:
        if path not in found.missing or found.missing[path] == Code.NOT_FOUND:
            yield Known(path, frozenset(found.values))
    return found


def _note(found: Read, uri: str, item: Item) -> list[str]:
    """Keep a leaf's value; the URIs of an interior node's children."""
    if item.meta is not None and item.meta.format == "node":
        names = item.data if isinstance(item.data, str) else ""
        return [f"{uri}/{name}" for name in names.split("/") if name]
    if isinstance(item.data, str | bytes):
        found.values[uri] = item.data
    return []


def result_code(job: Job) -> int | None:
    """The result in the alert that a job was waiting for."""
    alert = job.progress.get("alert")
    code = alert.get("result_code") if isinstance(alert, dict) else None
    return code if isinstance(code, int) else None


def only_text(reply: Reply) -> str | None:
    """The text that a Get of one leaf brought."""
    item = reply.items[0] if reply.ok and reply.items else None
    return item.data if item is not None and isinstance(item.data, str) else None


def below(found: Read, root: str) -> dict[str, str]:
    """Leaf values below `root` by relative URI; binary values as hexadecimal text (the result is JSON)."""
    return {
        uri.removeprefix(f"{root}/"): value if isinstance(value, str) else value.hex()
        for uri, value in found.values.items()
        if uri.startswith(f"{root}/")
    }
