"""A device for the DM server's tests: a tree in a dictionary, messages by the book, and every fault on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from headend.dm.server import Answer, DmServer, Request
from omadm.auth import AUTH_MAC, hmac_header, verify_hmac
from omadm.bootstrap import Account
from omadm.syncml.codec import DM_WBXML, decode, encode
from omadm.syncml.messages import (
    Add,
    Alert,
    Atomic,
    Chal,
    Command,
    Delete,
    Exec,
    Get,
    Item,
    Meta,
    Replace,
    Results,
    Sequence,
    Status,
    SyncHdr,
    SyncML,
)

NODE = Meta(format="node")


@dataclass
class Tree:
    """Nodes by URI; `None` is an interior node. `exec_status` answers Exec; `execs` notes (URI, correlator)."""

    nodes: dict[str, str | bytes | None] = field(default_factory=dict)
    exec_status: int = 202
    execs: list[tuple[str, str | None]] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)
    partial: dict[str, bytes] = field(default_factory=dict)

    def run(self, command: Command, msg_ref: str) -> list[Command]:
        """Statuses and results, not numbered."""
        if isinstance(command, Atomic | Sequence):
            return self._nested(command, msg_ref)
        if not isinstance(command, Add | Replace | Delete | Get | Exec):
            return []
        item = command.items[0]
        uri = item.target or ""
        self.seen.append((type(command).__name__, uri))
        code, value = self.refuse.get(uri), None
        if code is None:
            code, value = self._apply(command, item, uri)
        name = type(command).__name__
        answers: list[Command] = [Status("", msg_ref, command.cmd_id, name, code, (uri,))]
        if value is not None:
            answers.append(Results("", command.cmd_id, (value,), msg_ref=msg_ref))
        return answers

    def _nested(self, outer: Atomic | Sequence, msg_ref: str) -> list[Command]:
        before = dict(self.nodes)
        answers: list[Command] = []
        for command in outer.commands:
            reached = not any(isinstance(a, Status) and a.code >= 400 for a in answers)
            answers += self.run(command, msg_ref) if reached else [_unreached(command, msg_ref)]
        code = 200
        if isinstance(outer, Atomic) and any(isinstance(a, Status) and a.code >= 400 for a in answers):
            self.nodes = before
            code = 507
            answers = [replace(a, code=216) if isinstance(a, Status) and a.code == 200 else a for a in answers]
        return [Status("", msg_ref, outer.cmd_id, type(outer).__name__, code), *answers]

    def _apply(self, command: Command, item: Item, uri: str) -> tuple[int, Item | None]:
        if isinstance(command, Get):
            return self._get(uri)
        if isinstance(command, Exec):
            self.execs.append((uri, command.correlator))
            return self.exec_status, None
        if isinstance(command, Delete):
            if uri not in self.nodes:
                return 404, None
            self.nodes = {k: v for k, v in self.nodes.items() if k != uri and not k.startswith(f"{uri}/")}
            return 200, None
        if isinstance(command, Replace) and uri not in self.nodes:
            return 404, None
        if isinstance(command, Add) and uri in self.nodes:
            return 418, None
        if isinstance(command, Add) and uri.rpartition("/")[0] not in {".", *self.nodes}:
            return 404, None
        return self._store(item, uri), None

    def _store(self, item: Item, uri: str) -> int:
        meta = item.meta or Meta()
        if meta.format == "node":
            self.nodes[uri] = None
            return 200
        data = item.data if isinstance(item.data, str | bytes) else ""
        if item.more_data or uri in self.partial:
            piece = data.encode() if isinstance(data, str) else data
            self.partial[uri] = self.partial.get(uri, b"") + piece
            if item.more_data:
                return 213
            data = self.partial.pop(uri)
        self.nodes[uri] = data
        return 200

    def _get(self, uri: str) -> tuple[int, Item | None]:
        if uri not in self.nodes:
            return 404, None
        value = self.nodes[uri]
        if value is not None:
            return 200, Item(source=uri, meta=Meta(format="bin" if isinstance(value, bytes) else "chr"), data=value)
        below = sorted(k[len(uri) + 1 :] for k in self.nodes if k.startswith(f"{uri}/"))
        return 200, Item(source=uri, meta=NODE, data="/".join(name for name in below if "/" not in name))


def _unreached(command: Command, msg_ref: str) -> Status:
    return Status("", msg_ref, command.cmd_id, type(command).__name__, 215)


class Device:
    """Speaks to a `DmServer` in-process. `account` carries the nonces; `faults` are set by the tests."""

    def __init__(self, server: DmServer, account: Account, tree: Tree | None = None) -> None:
        self.server = server
        self.account = account
        self.tree = tree or Tree()
        self.alerts: list[Alert] = []
        self.answers: list[SyncML] = []
        self.content_type = DM_WBXML
        self.max_msg_size: int | None = None
        self.rewrite: Callable[[bytes], bytes] = bytes  # what becomes of a message before it is signed
        self._session = 0
        self._msg_id = 0

    # -- one message -------------------------------------------------------------------------------------------------

    def request(self, commands: Iterable[Command], *, final: bool = True, session: str | None = None) -> Request:
        """A signed message with these commands, numbered."""
        self._msg_id += 1
        numbered = tuple(replace(c, cmd_id=str(n)) for n, c in enumerate(commands, start=1))
        hdr = SyncHdr(
            session or f"{self._session:X}",
            self._msg_id,
            target=self.account.url,
            source=self.account.client_name,
            source_name=self.account.client_name,
            meta=Meta(max_msg_size=self.max_msg_size) if self.max_msg_size else None,
        )
        body = self.rewrite(encode(SyncML(hdr, numbered, final), self.content_type))
        a = self.account
        return Request(body, self.content_type, hmac_header(body, a.client_name, a.client_secret, a.client_nonce))

    def take(self, answer: Answer) -> SyncML:
        """Check the server's answer as a device must, and keep the nonce it brings."""
        assert answer.status == 200, answer.body
        a = self.account
        verify_hmac(answer.mac, answer.body, a.server_name, a.server_secret, a.server_nonce)
        message = decode(answer.body, answer.content_type)
        header = next(s for s in message.of(Status) if s.cmd_ref == "0")
        if header.chal is not None and header.chal.next_nonce is not None:
            self.account = replace(self.account, client_nonce=header.chal.next_nonce)
        self.answers.append(message)
        return message

    def header_status(self, message: SyncML, code: int = 200) -> Status:
        """Our status for the server's header, with the nonce it has to use next."""
        nonce = f"nonce {self._session}.{self._msg_id}".encode()
        self.account = replace(self.account, server_nonce=nonce)
        return Status("", str(message.hdr.msg_id), "0", "SyncHdr", code, chal=Chal(AUTH_MAC, "b64", nonce))

    def begin(self) -> list[Command]:
        """Package 1 of a new session."""
        self._session += 1
        self._msg_id = 0
        info = Item(source="./DevInfo/Man", meta=Meta(format="chr"), data="KETI")
        return [Alert("", 1201), Replace("", (info,)), *self.alerts]

    def reply(self, message: SyncML) -> tuple[list[Command], bool]:
        """What the tree says to the server's commands; whether the server closed its package."""
        ref = str(message.hdr.msg_id)
        answers: list[Command] = [self.header_status(message)]
        for command in message.commands:
            answers += self.tree.run(command, ref)
        if not message.final:
            answers.append(Alert("", 1222))
        return answers, message.final

    # -- whole sessions ----------------------------------------------------------------------------------------------

    def session(self) -> list[SyncML]:
        """From package 1 to the server's empty Final; the server's messages."""
        first = len(self.answers)
        message = self.take(self.server.handle(self.request(self.begin())))
        for _ in range(500):
            if message.final and not any(not isinstance(c, Status) for c in message.commands):
                return self.answers[first:]
            commands, final = self.reply(message)
            message = self.take(self.server.handle(self.request(commands, final=final)))
        raise AssertionError("the session does not end")


def alert(correlator: str | None, data: str, *, kind: str = "org.example.alert", source: str = "./X") -> Alert:
    return Alert("", 1226, (Item(source=source, meta=Meta(format="chr", type=kind), data=data),), correlator)
