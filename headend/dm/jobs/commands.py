"""The job `commands`: any OMA DM commands, as the operator gives them; its result has the status of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headend.dm.jobs import params as checks
from headend.dm.jobs.params import JobError
from headend.dm.jobs.steps import Batch, CommandName, Done, Failed, Job, Json, Mode, Reply, Request, Steps, batches
from omadm.syncml.messages import Item, MgmtTree, TndsNode

MODES = {"plain": Mode.PLAIN, "sequence": Mode.SEQUENCE, "atomic": Mode.ATOMIC}
COMMANDS = {command.value.lower(): command for command in CommandName}
SHOWN_CHARS_MAX = 4096  # of one value in the result; whole values are in dm_values


class CommandsJob:
    """`{"commands": [{"command": "replace", "path": "./A?prop=ACL", "value": "Get=*"}, …], "mode": "sequence"}`.

    The commands are get, add, replace, delete, exec, copy (with `source`). An add without a value makes an interior
    node. `mode` is plain (default), sequence or atomic; every device refuses a Get in an Atomic. The result has the
    status of each command and the values of a Get; the job fails when any status is an error.
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
        if mode is Mode.PLAIN:
            replies = yield from batches(requests)
        else:
            replies = yield Batch(tuple(requests), mode)
        said = [_shown(request, reply) for request, reply in zip(requests, replies, strict=True)]
        if all(reply.ok for reply in replies):
            return Done({"replies": said})
        return Failed({"replies": said, "error": "the device refused a command"})

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


def _shown(request: Request, reply: Reply) -> Json:
    shown: Json = {"command": request.command.value.lower(), "path": request.uri, "status": reply.status}
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
