"""The job `commands`: any OMA DM commands, as the operator gives them; its result has the status of each.

Commands are not harmless when repeated, as other jobs are. Before any is sent, a checkpoint says so; after a broken
session the device is first asked what is in effect already (`_looked_up`). What cannot be repeated and cannot be seen
(Exec, Copy, a change of name) is never sent again once it may have arrived.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
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
from omadm.syncml.text import plain

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
        before = _Before()
        if job.progress.get("begun"):
            told = {"repeated": True}
            if any(_is_once(request) for request in requests):
                error = "the session broke off: whether the device carried out the commands is not known"
                return Failed({**told, "replies": [_shown(r, Reply(None)) for r in requests], "error": error})
            before = yield from _looked_up(requests, mode)
        else:
            yield Checkpoint({"begun": True})
        left = [at for at in range(len(requests)) if at not in before.done and at not in before.unknown]
        if mode is Mode.PLAIN:
            replies = yield from batches([requests[at] for at in left])
        else:
            replies = (yield Batch(tuple(requests[at] for at in left), mode)) if left else []
        every = {at: Reply(Code.OK) for at in before.done} | {at: Reply(None) for at in before.unknown}
        every |= dict(zip(left, replies, strict=True))
        superseded = set(before.superseded)
        if told:
            echoes = [at for at in left if _may_be_an_echo(requests, at, every[at])]
            carried_out = [at for at in every if every[at].ok]
            superseded |= {at for at in echoes if _is_followed(requests, at, carried_out)}
            every |= {at: Reply(Code.OK if at in superseded else None) for at in echoes}
            if echoes and mode is not Mode.PLAIN:  # what the echo kept from being carried out now may have been before
                every |= {at: Reply(None) for at in left if not every[at].ok}
        said = [_shown(request, every[at]) for at, request in enumerate(requests)]
        for at in before.done - superseded:  # seen on the device, instead of the status that was lost
            said[at] |= {"in_effect": True}
        for at in superseded:
            said[at] |= {"status": None, "superseded": True}
        bad = [(request, every[at]) for at, request in enumerate(requests) if not every[at].ok]
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


WRITES = (CommandName.ADD, CommandName.REPLACE, CommandName.DELETE)


@dataclass(frozen=True, slots=True)
class _Before:
    """What became of the commands of an earlier session, by their places: those whose effect is seen on the device, of
    these the ones that a later one has undone or written over, and those of which nothing can be known any more."""

    done: frozenset[int] = frozenset()
    superseded: frozenset[int] = frozenset()
    unknown: frozenset[int] = frozenset()


def _looked_up(requests: list[Request], mode: Mode) -> Generator[Batch | Note, list[Reply], _Before]:
    """What the device shows of commands that may have arrived. Commands that depend on one another are judged together:
    as many of them, from the first, as lead to what is there now. Those after them are sent again in their order; the
    first ones are not, since they would undo the later ones. An Atomic is one such group."""
    seen = [at for at, request in enumerate(requests) if _is_seen(request)]
    uris = list(dict.fromkeys(requests[at].uri for at in seen))
    replies = yield from batches([get(uri) for uri in uris])
    there = dict(zip(uris, replies, strict=True))
    done: set[int] = set()
    for group in _groups(requests, seen):
        most = next(n for n in range(len(group), -1, -1) if _explains([requests[at] for at in group[:n]], there))
        done |= set(group[:most])
    if mode is Mode.ATOMIC and len(done) < len(seen):
        return _Before()  # nothing of it was carried out
    after = {at for at in range(len(requests)) if _is_followed(requests, at, done)}
    return _Before(frozenset(done), frozenset(done & after), frozenset(after - done))


def _is_followed(requests: list[Request], at: int, done: Iterable[int]) -> bool:
    """Whether one of `done` came after this command, and depends on it."""
    return any(n > at and _depend(requests[at], requests[n]) for n in done)


def _groups(requests: list[Request], seen: list[int]) -> list[list[int]]:
    """The places in `seen`, those of commands that depend on one another together, each group in order."""
    groups: list[list[int]] = []
    for at in seen:
        mine = [group for group in groups if any(_depend(requests[other], requests[at]) for other in group)]
        groups = [group for group in groups if group not in mine]
        groups.append(sorted([at, *(other for group in mine for other in group)]))
    return groups


def _depend(one: Request, other: Request) -> bool:
    """Whether it matters which of the two came first. Of a node and its property, or of two that are made one below the
    other, each shows for itself."""
    (a, _, asked), (b, _, other_asked) = one.uri.partition("?"), other.uri.partition("?")
    if a == b:
        return asked == other_asked or not (_makes(one) and _makes(other))
    nested = a == "." or b == "." or a.startswith(f"{b}/") or b.startswith(f"{a}/")
    return nested and not (_makes(one) and _makes(other))


def _makes(request: Request) -> bool:
    return request.command in (CommandName.ADD, CommandName.REPLACE)


def _explains(requests: list[Request], there: Mapping[str, Reply]) -> bool:
    """Whether these commands, carried out in this order, lead to what was read from the device."""
    wanted: dict[str, Request | None] = {}  # by URI what made or set the node; None for one that is gone
    emptied: set[str] = set()
    for request in requests:
        if request.command is CommandName.DELETE:
            emptied.add(request.uri)
            gone = [uri for uri in wanted if uri.startswith(f"{request.uri}/")]
            wanted |= dict.fromkeys([request.uri, *gone])
        else:
            wanted[request.uri] = request
    return all(
        there[uri].status == Code.NOT_FOUND
        if request is None
        else _has_effect(request, there[uri]) and (uri not in emptied or _holds(there[uri], uri, wanted))
        for uri, request in wanted.items()
    )


def _holds(reply: Reply, uri: str, wanted: Mapping[str, Request | None]) -> bool:
    """Whether a node that was deleted and made again has no children but those that were made since."""
    listed = reply.items[0].data
    names = {name for name in listed.split("/") if name} if isinstance(listed, str) and _is_interior(reply) else set()
    made = {one[len(uri) + 1 :].partition("/")[0] for one, by in wanted.items() if by and one.startswith(f"{uri}/")}
    return names <= made


def _has_effect(request: Request, reply: Reply) -> bool:
    if not reply.ok:
        return False
    return _is_interior(reply) if request.format == "node" else _octets(reply.items[0].data) == _octets(request.data)


def _octets(data: str | bytes | MgmtTree | None) -> bytes | MgmtTree | None:
    """A value to compare: what was set as octets may be told as text, and the other way round."""
    return data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data


def _is_interior(reply: Reply) -> bool:
    meta = reply.items[0].meta
    return meta is not None and meta.format == "node"


def _is_seen(request: Request) -> bool:
    """Whether a Get shows the effect of the command."""
    return request.command in WRITES and "?" not in request.uri


def _is_once(request: Request) -> bool:
    """Whether a second time is another thing than the first, and nothing shows whether there was a first."""
    return request.command in (CommandName.EXEC, CommandName.COPY) or "?prop=Name" in request.uri


def _may_be_an_echo(requests: list[Request], at: int, reply: Reply) -> bool:
    """Whether a refusal of what is sent again may come from the first time having been carried out: the device may have
    written the value in a way of its own, or not show it. Then a node that was made is there, and one that this
    command or a later one deleted is not."""
    if reply.status == Code.NOT_FOUND:
        return any(later.command is CommandName.DELETE and _is_in(requests[at], later) for later in requests[at:])
    return requests[at].command is CommandName.ADD and reply.status == Code.ALREADY_EXISTS


def _is_in(request: Request, root: Request) -> bool:
    """Whether the node of `request` is that of `root`, or below it."""
    uri = request.uri.partition("?")[0]
    return uri == root.uri or uri.startswith(f"{root.uri}/")


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
    found = {} if node.value is None else {uri: _text(plain(node.value, node.format, node.type))}
    for child in node.children:
        found |= _tree(child, uri)
    return found


def _text(data: str | bytes | MgmtTree | None) -> str:
    shown = data.hex() if isinstance(data, bytes) else data if isinstance(data, str) else ""
    return shown[:SHOWN_CHARS_MAX]
