"""The server's commands, carried out on the tree: one message, one transaction, its answers.

Everything in a message that succeeded is durable before the first answer leaves; when storing fails, nothing of the
message happened and every answer that said otherwise becomes an error. Within a message:

* `Sequence` is 200 once begun; its children answer for themselves, and after an error the rest is 215;
* `Atomic` restores a savepoint when a child fails: 507 for it, 216 for what was undone, 215 for what was not reached;
  a Get or an Atomic inside is 500 and nothing is begun (DM_RepPro 1.2, section 6.6.2);
* a chunk of a large object is buffered (213) until the last one (DM 1.2, section 7).

The caller numbers the answers: their `cmd_id` is empty here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from agent.tree.chunks import Incoming
from agent.tree.get import results_of
from agent.tree.nodes import Content
from agent.tree.persistence import ManagementTree
from agent.tree.schema import ExecCall, Path
from agent.tree.tnds import from_tnds, replace_tnds
from agent.tree.tree import Transaction
from agent.tree.uri import Address, parse_uri
from omadm.codes import AlertCode, Code, Refusal
from omadm.syncml.messages import (
    Add,
    Alert,
    Atomic,
    Command,
    Copy,
    Delete,
    Exec,
    Get,
    Item,
    Malformed,
    Meta,
    MgmtTree,
    Replace,
    Results,
    Sequence,
    Status,
    SyncML,
    Unsupported,
)

LOG = logging.getLogger("agent.dm")

NESTING_MAX = 4  # Sequence and Atomic inside each other
COMMANDS_MAX = 512  # commands of one message, nested ones included

Reply = Status | Results | Alert
_Single = Add | Replace | Delete | Copy | Get | Exec


class Objects(Protocol):
    """The registry of management objects, as the executor needs it."""

    def execute(self, changing: Transaction, call: ExecCall) -> Code:
        """Carry out an Exec within the transaction. Raises `Refusal`."""

    def written(self, changing: Transaction, path: Path) -> None:
        """A server has added or replaced the value of a leaf. Raises `Refusal` to have it undone."""


@dataclass(slots=True)
class _Answers:
    """What one message is answered with. `changing` marks the answers that promise a change."""

    msg_ref: str
    replies: list[Reply] = field(default_factory=list)
    changing: list[int] = field(default_factory=list)

    def status(self, command: Command, code: int, item: Item | None = None, *, changes: bool = False) -> None:
        if changes:
            self.changing.append(len(self.replies))
        refs = (item.target,) if item is not None and item.target else ()
        sources = (item.source,) if item is not None and item.source and isinstance(command, Copy) else ()
        name = command.name if isinstance(command, Unsupported | Malformed) else type(command).__name__
        self.replies.append(Status("", self.msg_ref, command.cmd_id, name, int(code), refs, sources))

    def withdraw(self, code: Code) -> None:
        """The transaction was not stored."""
        for index in self.changing:
            reply = self.replies[index]
            if isinstance(reply, Status) and reply.code in {Code.OK, Code.ACCEPTED}:
                self.replies[index] = replace(reply, code=int(code))


class Executor:
    """One session's worth: holds the large object that is being received. `server` is the authenticated identifier."""

    def __init__(self, tree: ManagementTree, objects: Objects, server: str) -> None:
        self._tree = tree
        self._objects = objects
        self._server = server
        self.incoming = Incoming()
        self.executed = 0

    def run(self, message: SyncML) -> list[Reply]:
        """Carry out every command of `message` and answer it. Raises nothing."""
        answers = _Answers(message.hdr.msg_ref)
        try:
            with self._tree.transaction(self._server) as changing:
                _Run(self, changing, answers).all(message.commands)
        except Refusal as refusal:
            answers.withdraw(refusal.code)
        return answers.replies

    def execute(self, changing: Transaction, call: ExecCall) -> Code:
        return self._objects.execute(changing, call)

    def written(self, changing: Transaction, path: Path) -> None:
        self._objects.written(changing, path)


class _Run:
    """One message."""

    def __init__(self, executor: Executor, changing: Transaction, answers: _Answers) -> None:
        self._executor = executor
        self._changing = changing
        self._answers = answers
        self._seen = 0

    def all(self, commands: tuple[Command, ...]) -> None:
        for command in commands:
            self._command(command, 0)

    def _command(self, command: Command, depth: int) -> bool:
        """Whether it succeeded."""
        if isinstance(command, Status | Results) or (isinstance(command, Malformed) and command.is_answer):
            return True  # answers to the client; the session reads them
        self._seen += 1
        self._executor.executed += 1
        if self._seen > COMMANDS_MAX or depth > NESTING_MAX:
            self._answers.status(command, Code.TOO_LARGE)
            return False
        if not isinstance(command, Add | Replace):
            self._interrupt(None, None)
        if isinstance(command, Malformed) or not command.cmd_id:
            # Without a CmdID nothing could refer to it: it is not carried out.
            why = command.why if isinstance(command, Malformed) else "no CmdID"
            LOG.warning("a command of the server is bad: %s", why, extra={"event": "dm.malformed"})
            self._answers.status(command, Code.BAD_REQUEST)
            return False
        if isinstance(command, Sequence):
            return self._sequence(command, depth)
        if isinstance(command, Atomic):
            return self._atomic(command, depth)
        if isinstance(command, Alert):
            return self._alert(command)
        if isinstance(command, Unsupported):
            self._answers.status(command, Code.NOT_SUPPORTED)
            return False
        return self._items(command)

    def _interrupt(self, command: Add | Replace | None, item: Item | None) -> None:
        alert = self._executor.incoming.interrupted(command, item)
        if alert is not None:
            self._answers.replies.append(alert)

    def _sequence(self, command: Sequence, depth: int) -> bool:
        self._answers.status(command, Code.OK, changes=True)
        going = True
        for child in command.commands:
            if going:
                going = self._command(child, depth + 1)
            else:
                self._unreached(child)
        return going

    def _atomic(self, command: Atomic, depth: int) -> bool:
        if any(isinstance(child, Get | Atomic) or _goes_on(child) for child in _flat(command.commands)):
            self._answers.status(command, Code.COMMAND_FAILED)
            for child in command.commands:
                self._unreached(child)
            return False
        savepoint = self._changing.state
        parent = len(self._answers.replies)
        self._answers.status(command, Code.OK, changes=True)
        first = len(self._answers.replies)
        going = True
        for child in command.commands:
            if going:
                going = self._command(child, depth + 1)
            else:
                self._unreached(child)
        if not going:
            self._changing.rollback(savepoint)
            self._recode(parent, Code.ATOMIC_FAILED)
            for index in range(first, len(self._answers.replies)):
                reply = self._answers.replies[index]
                if isinstance(reply, Status) and reply.code < 300 and reply.code not in {213, 215, 216}:
                    self._recode(index, Code.ATOMIC_ROLLED_BACK)
        return going

    def _recode(self, index: int, code: Code) -> None:
        reply = self._answers.replies[index]
        if isinstance(reply, Status):
            self._answers.replies[index] = replace(reply, code=int(code))

    def _unreached(self, command: Command) -> None:
        if isinstance(command, Status | Results) or (isinstance(command, Malformed) and command.is_answer):
            return
        self._answers.status(command, Code.NOT_EXECUTED)
        if isinstance(command, Sequence | Atomic):
            for child in command.commands:
                self._unreached(child)

    def _alert(self, command: Alert) -> bool:
        """1222 and 1223 are the session's; user interaction needs a display and a person."""
        if command.code in {AlertCode.NEXT_MESSAGE, AlertCode.SESSION_ABORT}:
            self._answers.status(command, Code.OK)
            return True
        self._answers.status(command, Code.NOT_SUPPORTED)
        return False

    def _items(self, command: _Single) -> bool:
        if not command.items:
            self._answers.status(command, Code.INCOMPLETE)
            return False
        good = True
        for item in command.items:
            savepoint = self._changing.state
            try:
                code = self._item(command, item)
            except Refusal as refusal:
                LOG.debug("%s %s: %s", type(command).__name__, item.target, refusal)
                self._answers.status(command, refusal.code, item)
                good = False
            except Exception:
                # A fault of ours, or of what a node shows: it costs this command, and not the session with the others.
                LOG.exception("%s %s", type(command).__name__, item.target, extra={"event": "dm.command.failed"})
                self._changing.rollback(savepoint)
                self._answers.status(command, Code.COMMAND_FAILED, item)
                good = False
            else:
                if not isinstance(command, Get):
                    self._answers.status(command, code, item, changes=True)
        return good

    def _item(self, command: _Single, item: Item) -> Code:
        if isinstance(command, Get):
            return self._get(command, item)
        if isinstance(command, Add | Replace):
            self._interrupt(command, item)
            if item.more_data or self._executor.incoming.receiving:
                whole = self._executor.incoming.chunk(command, item)
                if whole is None:
                    return Code.CHUNK_BUFFERED
                item = whole
            return self._write(command, item)
        address = parse_uri(item.target)
        if isinstance(command, Delete):
            _plain(address)
            self._changing.delete(address.path)
            return Code.OK
        if isinstance(command, Copy):
            source = parse_uri(item.source)
            _plain(address)
            _plain(source)
            with self._undone_if_refused():
                self._changing.copy(source.path, address.path)
                self._executor.written(self._changing, address.path)
            return Code.OK
        return self._exec(command, item, address)

    def _exec(self, command: Exec, item: Item, address: Address) -> Code:
        _plain(address)
        self._changing.exec(address.path)
        data = item.data if isinstance(item.data, str) else ""
        with self._undone_if_refused():
            return self._executor.execute(self._changing, ExecCall(address.path, command.correlator or "", data))

    def _write(self, command: Add | Replace, item: Item) -> Code:
        address = parse_uri(item.target)
        meta = item.meta or Meta()
        outer = command.meta or Meta()
        format_, type_ = meta.format or outer.format, meta.type or outer.type
        if address.list:
            raise Refusal(Code.NOT_ALLOWED, "a list cannot be written")
        if isinstance(item.data, MgmtTree):
            return self._write_tnds(command, address, item.data)
        if address.prop:
            if isinstance(command, Add):
                raise Refusal(Code.NOT_ALLOWED, "a property cannot be added")
            self._changing.replace_property(address.path, address.prop, _text(item.data))
            return Code.OK
        content = Content(format_, type_, item.data)
        with self._undone_if_refused():
            if isinstance(command, Add):
                self._changing.add(address.path, content)
            else:
                self._changing.replace(address.path, content)
            self._executor.written(self._changing, address.path)
        return Code.OK

    @contextmanager
    def _undone_if_refused(self) -> Iterator[None]:
        """A command of several steps is done whole or not at all."""
        savepoint = self._changing.state
        try:
            yield
        except Refusal:
            self._changing.rollback(savepoint)
            raise

    def _write_tnds(self, command: Add | Replace, address: Address, tree: MgmtTree) -> Code:
        _plain(address)
        with self._undone_if_refused():
            apply = replace_tnds if isinstance(command, Replace) else from_tnds
            for path in apply(self._changing, address.path, tree):
                self._executor.written(self._changing, path)
        return Code.OK

    def _get(self, command: Get, item: Item) -> Code:
        """Replies with Status and Results at once, so that each Results follows its Status."""
        items = results_of(self._changing, item)
        self._answers.status(command, Code.OK, item)
        self._answers.replies.append(Results("", command.cmd_id, items, msg_ref=self._answers.msg_ref))
        return Code.OK


def _plain(address: Address) -> None:
    if address.prop or address.list:
        raise Refusal(Code.NOT_ALLOWED, "not on a property or list")


def _text(data: str | bytes | MgmtTree | None) -> str:
    if data is None:
        return ""
    if isinstance(data, bytes):
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise Refusal(Code.BAD_REQUEST, "not UTF-8 text") from None
    if isinstance(data, MgmtTree):
        raise Refusal(Code.UNSUPPORTED_FORMAT, "text expected")
    return data


def _goes_on(command: Command) -> bool:
    """Whether a value in it is continued in a later message, when the rest of an Atomic would long be in effect."""
    return isinstance(command, Add | Replace) and any(item.more_data for item in command.items)


def _flat(commands: tuple[Command, ...]) -> list[Command]:
    found: list[Command] = []
    pending: list[Command] = list(commands)
    while pending:
        command = pending.pop()
        found.append(command)
        if isinstance(command, Sequence | Atomic):
            pending.extend(command.commands)
    return found
