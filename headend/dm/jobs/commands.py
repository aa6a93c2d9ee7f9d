"""The job `commands`: any OMA DM commands, as the operator gives them; its result has the status of each.

Commands are not harmless when repeated, as other jobs are. Before any is sent, a checkpoint says so; after a broken
session the device is first asked what is in effect already. An Exec that may have arrived is never sent again.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from headend.dm.jobs import params as checks
from headend.dm.jobs.params import JobError
from headend.dm.jobs.steps import (
    Batch,
    Checkpoint,
    CommandName,
    Done,
    Failed,
    Job,
    Json,
    Mode,
    Note,
    Reply,
    Request,
    Steps,
    batches,
    get,
)
from omadm.codes import Code
from omadm.syncml.messages import Item, MgmtTree, TndsNode

MODES = {"plain": Mode.PLAIN, "sequence": Mode.SEQUENCE, "atomic": Mode.ATOMIC}
COMMANDS = {command.value.lower(): command for command in CommandName}
SHOWN_CHARS_MAX = 4096  # of one value in the result; whole values are in dm_values


class CommandsJob:
    """`{"commands": [{"command": "replace", "path": "./A?prop=ACL", "value": "Get=*"}, …], "mode": "sequence"}`.

    The commands are get, add, replace, delete, exec, copy (with `source`). An add without a value makes an interior
    node. `mode` is plain (default), sequence or atomic; every device refuses a Get in an Atomic. The result has the
    status of each command (null when the device gave none) and the values of a Get; the job fails when any command was
    not carried out, or is not known to be.
    """

    name = "commands"

    def check(self, params: Mapping[str, Any]) -> Json:
        checks.known_keys(params, {"commands", "mode"}, {"commands"})
        mode = params.get("mode", "plain")
        if not isinstance(mode, str) or mode not in MODES:
            raise JobError(f"mode: one of {', '.join(MODES)}")
        return {"commands": [self._command(c) for c in checks.objects(params["commands"], "commands")], "mode": mode}

    @staticmethod
    def _command(given: Mapping[str, Any]) -> Json:
        checks.known_keys(given, {"command", "path", "value", "format", "source"}, {"command", "path"})
        command = given["command"]
        if not isinstance(command, str) or command not in COMMANDS:
            raise JobError(f"command: one of {', '.join(COMMANDS)}")
        path = checks.uri(given["path"], "path", query=command in ("get", "replace"))
        checked: Json = {"command": command, "path": path}
        if command == "copy":
            checked["source"] = checks.uri(given.get("source"), "source")
        if given.get("value") is not None:
            checked |= checks.node_value(path, given["value"], given.get("format"))
        elif command == "replace":
            raise JobError(f"{path}: replace needs a value")
        return checked

    def steps(self, job: Job) -> Steps:
        requests = [self._request(command, job.correlator) for command in job.params["commands"]]
        mode = MODES[job.params["mode"]]
        told: Json = {}
        done: set[int] = set()
        if job.progress.get("begun"):
            told = {"repeated": True}
            if any(request.command is CommandName.EXEC for request in requests):
                error = "the session broke off: whether the device carried out the commands is not known"
                return Failed({**told, "replies": [_shown(r, Reply(None)) for r in requests], "error": error})
            done = yield from _in_effect(requests)
            if mode is not Mode.PLAIN and len(done) < len(requests):
                done = set()  # they are one command to the device
        else:
            yield Checkpoint({"begun": True})
        left = [request for at, request in enumerate(requests) if at not in done]
        if mode is Mode.PLAIN:
            replies = yield from batches(left)
        else:
            replies = (yield Batch(tuple(left), mode)) if left else []
        more = iter(replies)
        all_replies = [Reply(Code.OK) if at in done else next(more) for at in range(len(requests))]
        said = [_shown(request, reply) for request, reply in zip(requests, all_replies, strict=True)]
        for at in done:
            said[at] |= {"in_effect": True}  # seen on the device, instead of the status that was lost
        bad = [(request, reply) for request, reply in zip(requests, all_replies, strict=True) if not reply.ok]
        if not bad:
            return Done({**told, "replies": said})
        request, reply = bad[0]
        return Failed({**told, "replies": said, "error": f"{request.command.value} {request.uri} {reply.why}"})

    @staticmethod
    def _request(given: Mapping[str, Any], correlator: str) -> Request:
        command = COMMANDS[given["command"]]
        has_value = "value" in given
        data_format = given["format"] if has_value else None
        if command is CommandName.ADD and not has_value:
            data_format = "node"
        return Request(
            command,
            given["path"],
            checks.data(given) if has_value else None,
            data_format,
            source=given.get("source"),
            correlator=correlator if command is CommandName.EXEC else None,
        )


def _in_effect(requests: list[Request]) -> Generator[Batch | Note, list[Reply], set[int]]:
    """Which commands of an earlier session can be seen to have been carried out: what they wrote is there, what they
    deleted is not."""
    visible = (CommandName.ADD, CommandName.REPLACE, CommandName.DELETE)
    seen = [at for at, request in enumerate(requests) if request.command in visible and "?" not in request.uri]
    replies = yield from batches([get(requests[at].uri) for at in seen])
    return {at for at, reply in zip(seen, replies, strict=True) if _has_effect(requests[at], reply)}


def _has_effect(request: Request, reply: Reply) -> bool:
    if request.command is CommandName.DELETE:
        return reply.status == Code.NOT_FOUND
    if not reply.ok:
        return False
    item = reply.items[0]
    if request.format == "node":
        return item.meta is not None and item.meta.format == "node"
    return item.data == request.data


def _shown(request: Request, reply: Reply) -> Json:
    shown: Json = {"command": request.command.value.lower(), "path": request.uri, "status": reply.status}
    if reply.lacking:
        shown["lacking"] = True
    if reply.not_kept:
        shown["not_kept"] = reply.not_kept
    if reply.items:
        shown["values"] = {uri: text for item in reply.items for uri, text in _values(item, request.uri).items()}
    return shown


def _values(item: Item, path: str) -> dict[str, str]:
    if isinstance(item.data, MgmtTree):
        return {uri: value for node in item.data.nodes for uri, value in _tree(node, node.path or ".").items()}
    return {item.source or path: _text(item.data)}


def _tree(node: TndsNode, parent: str) -> dict[str, str]:
    uri = f"{parent.rstrip('/')}/{node.name}"
    found = {} if node.value is None else {uri: _text(node.value)}
    for child in node.children:
        found |= _tree(child, uri)
    return found


def _text(data: str | bytes | MgmtTree | None) -> str:
    shown = data.hex() if isinstance(data, bytes) else data if isinstance(data, str) else ""
    return shown[:SHOWN_CHARS_MAX]
