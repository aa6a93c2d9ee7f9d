"""A small DM server for tests: authenticates both ways, sends a script, and remembers what it was told.

Written against the protocol, not against the client: it uses the codecs and MAC functions and nothing of the session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from agent.https import HttpsError, Response
from omadm.auth import AUTH_MAC, AuthError, hmac_header, verify_hmac
from omadm.bootstrap import Account, emit_profile
from omadm.syncml.codec import DM_WBXML, decode, encode
from omadm.syncml.messages import (
    Add,
    Alert,
    Atomic,
    Chal,
    Command,
    Copy,
    Delete,
    Exec,
    Get,
    Item,
    Meta,
    MgmtTree,
    Replace,
    Results,
    Status,
    SyncHdr,
    SyncML,
    TndsNode,
)
from omadm.syncml.messages import Sequence as Sequence_

SERVER_ID = "dm.example"
DEVICE_ID = "urn:dcu:TEST-1"

ACCOUNT = Account(
    server_id=SERVER_ID,
    url="https://dm.example/dm",
    client_name=DEVICE_ID,
    client_secret="client secret",
    server_name=SERVER_ID,
    server_secret="server secret",
    client_nonce=b"client nonce 0",
    server_nonce=b"server nonce 0",
)

PROFILE = emit_profile(ACCOUNT)

Data = str | bytes | MgmtTree | None


def item(uri: str | None, data: Data = None, fmt: str | None = None, source: str | None = None) -> Item:
    return Item(target=uri, source=source, meta=Meta(format=fmt) if fmt else None, data=data)


def get(*uris: str) -> Get:
    return Get("", tuple(item(uri) for uri in uris))


def add(uri: str, data: Data = None, fmt: str | None = None) -> Add:
    return Add("", (item(uri, data, fmt),))


def put(uri: str, data: Data, fmt: str | None = None) -> Replace:
    return Replace("", (item(uri, data, fmt),))


def delete(uri: str) -> Delete:
    return Delete("", (item(uri),))


def copy(source: str, target: str) -> Copy:
    return Copy("", (item(target, source=source),))


def execute(uri: str, correlator: str | None = None) -> Exec:
    return Exec("", (item(uri),), correlator=correlator)


def task(name: str = "t1", every: int = 60) -> list[Command]:
    """The commands that provision a reading task."""
    base = f"./SCHED/Task/{name}"
    return [
        add(base, None, "node"),
        add(f"{base}/Name", "billing", "chr"),
        add(f"{base}/Setting/Every", str(every), "int"),
        add(f"{base}/Setting/ReadingList", "residential-108", "chr"),
    ]


def leaf(name: str, value: str, fmt: str = "chr") -> TndsNode:
    return TndsNode(name, format=fmt, value=value)


class FakeDmServer:
    """`packages` are sent one after the other, each when the client has closed its own package."""

    def __init__(self, packages: Sequence[Sequence[Command]] = (), *, content_type: str = DM_WBXML) -> None:
        self.packages = [list(package) for package in packages]
        self.content_type = content_type
        self.account = ACCOUNT
        self.client_nonce = ACCOUNT.client_nonce
        self.server_nonce = ACCOUNT.server_nonce
        self.algorithm = "SHA-256"
        self.max_msg_size: int | None = None
        self.max_obj_size: int | None = None
        self.emi: tuple[str, ...] = ()
        self.received: list[SyncML] = []
        self.replies: list[Status | Results | Alert] = []  # what came after package 1, in order
        self.alerts: list[Alert] = []
        self.fail_next: list[str] = []  # each entry makes one exchange fail before it is processed
        self.lose_next: list[str] = []  # each entry loses one answer after it was made
        self.acknowledge = 200  # for generic alerts
        self.partial_next = False  # the next package goes out without Final
        self.wrong_macs = 0  # that many of our messages carry a wrong MAC
        self.exchanges = 0
        self._msg_id = 0
        self._counter = 0
        self._last: tuple[list[Command], bool] | None = None

    # -- the https port

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        assert method == "POST"
        assert url == self.account.url
        assert body is not None
        assert headers is not None
        self.exchanges += 1
        if self.fail_next:
            raise HttpsError(self.fail_next.pop(0))
        answer = self._answer(body, headers)
        if self.lose_next:
            raise HttpsError(self.lose_next.pop(0))
        return answer

    def _answer(self, body: bytes, headers: Mapping[str, str]) -> Response:
        message = decode(body, headers["Content-Type"])
        self.received.append(message)
        account = self.account
        try:
            verify_hmac(
                headers.get("x-syncml-hmac"),
                body,
                account.client_name,
                account.client_secret,
                self.client_nonce,
                (self.algorithm,),
            )
        except AuthError as error:
            return self._challenge(message, error)
        ours = next((s for s in message.of(Status) if s.cmd_ref == "0"), None)
        if ours is not None and ours.chal is not None and ours.chal.next_nonce is not None:
            self.server_nonce = ours.chal.next_nonce
        if ours is not None and ours.code in {401, 407} and self._last is not None:
            commands, final = self._last
            return self._respond(message, commands, final=final)
        return self._respond(message, *self._next(message))

    def _next(self, message: SyncML) -> tuple[list[Command], bool]:
        statuses: list[Command] = []
        asks = False
        for command in message.commands:
            if isinstance(command, Alert):
                asks = asks or command.code == 1222
                self.alerts.append(command)
                code = self.acknowledge if command.code == 1226 else 200
                statuses.append(Status("", str(message.hdr.msg_id), command.cmd_id, "Alert", code))
            elif isinstance(command, Replace):
                statuses.append(Status("", str(message.hdr.msg_id), command.cmd_id, "Replace", 200))
            elif isinstance(command, Status | Results) and getattr(command, "cmd_ref", "") != "0":
                self.replies.append(command)
        if not message.final and not asks:
            return [*statuses, Alert("", 1222)], False
        package = self.packages.pop(0) if self.packages else []
        final = not self.partial_next
        self.partial_next = False
        return [*statuses, *package], final

    def _challenge(self, message: SyncML, error: AuthError) -> Response:
        return self._respond(message, [], code=error.status, remember=False)

    def _nonce(self) -> bytes:
        self._counter += 1
        return f"nonce {self._counter}".encode()

    def _respond(
        self, message: SyncML, commands: list[Command], final: bool = True, *, code: int = 200, remember: bool = True
    ) -> Response:
        self._last = (commands, final) if remember else None
        self._msg_id += 1
        self.client_nonce = self._nonce()
        hdr = SyncHdr(
            message.hdr.session_id,
            self._msg_id,
            target=message.hdr.source,
            source=self.account.url,
            meta=Meta(max_msg_size=self.max_msg_size, max_obj_size=self.max_obj_size, emi=self.emi),
        )
        status = Status(
            "", str(message.hdr.msg_id), "0", "SyncHdr", code, chal=Chal(AUTH_MAC, next_nonce=self.client_nonce)
        )
        numbered = number([status, *commands])
        body = self._encode(SyncML(hdr, tuple(numbered), final))
        account = self.account
        secret = account.server_secret
        if self.wrong_macs:
            self.wrong_macs -= 1
            secret = "another secret"
        mac = hmac_header(body, account.server_name, secret, self.server_nonce, self.algorithm)
        return Response(200, {"content-type": self.content_type, "x-syncml-hmac": mac}, body)

    def _encode(self, message: SyncML) -> bytes:
        return encode(message, self.content_type)

    # -- what a test asks

    def new_session(self, *packages: Sequence[Command]) -> None:
        self.packages = [list(package) for package in packages]
        self._msg_id = 0
        self.replies.clear()
        self.alerts.clear()
        self.received.clear()

    @property
    def codes(self) -> list[int]:
        """The statuses of our commands, in the order they came; without those of our requests for more."""
        statuses = [reply for reply in self.replies if isinstance(reply, Status)]
        return [reply.code for reply in statuses if (reply.cmd, reply.code) != ("Alert", 200)]

    @property
    def values(self) -> dict[str, Data]:
        """Results by their source."""
        return {
            one.source or "": one.data for reply in self.replies if isinstance(reply, Results) for one in reply.items
        }

    @property
    def generic(self) -> list[tuple[str, str, Data, str | None]]:
        """Generic alerts: type, source, data, correlator."""
        return [
            (one.meta.type or "" if one.meta else "", one.source or "", one.data, alert.correlator)
            for alert in self.alerts
            if alert.code == 1226
            for one in alert.items
        ]


def number(commands: Sequence[Command], start: int = 1) -> list[Command]:
    """Give every command its CmdID, nested ones too."""
    numbered: list[Command] = []
    following = start
    for command in commands:
        own = str(following)
        following += 1
        if isinstance(command, Atomic | Sequence_):
            inner = number(command.commands, following)
            following += _count(inner)
            numbered.append(replace(command, cmd_id=own, commands=tuple(inner)))
        else:
            numbered.append(replace(command, cmd_id=own))
    return numbered


def _count(commands: Sequence[Command]) -> int:
    return sum(1 + (_count(one.commands) if isinstance(one, Atomic | Sequence_) else 0) for one in commands)
