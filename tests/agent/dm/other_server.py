"""A DM server of another make, written from the standard with nothing of this project's codecs: XML by hand.

What real ones do differently is a switch each: CmdIDs, prefixed or missing namespaces, missing Meta, where credentials
stand and how long they are good for.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

from agent.https import Response
from omadm.bootstrap import Account

XML = "application/vnd.syncml.dm+xml"
SPACES = {
    "declared": ('xmlns="SYNCML:SYNCML1.2"', 'xmlns="syncml:metinf"', ""),
    "none": ("", "", ""),
    "prefixed": ('xmlns="SYNCML:SYNCML1.2" xmlns:syncml="syncml:metinf"', "", "syncml:"),
}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def md5(user: str, secret: str, nonce: bytes) -> str:
    """OMA-TS-DM_Security 1.2, 5.3."""
    return b64(hashlib.md5(b64(hashlib.md5(f"{user}:{secret}".encode()).digest()).encode() + b":" + nonce).digest())


def mac(body: bytes, user: str, secret: str, nonce: bytes) -> str:
    """OMA-TS-DM_Security 1.2, 5.4."""
    inner = b64(hashlib.md5(f"{user}:{secret}".encode()).digest())
    whole = inner.encode() + b":" + nonce + b":" + b64(hashlib.md5(body).digest()).encode()
    return b64(hashlib.md5(whole).digest())


@dataclass
class OtherServer:
    """`commands` are sent in package 2, as (name, URI, data). `heard` are the client's messages, as elements.

    `once`: valid credentials are good for the session (212). `proves`: the server says who it is in every message, in
    its first, or never.
    """

    account: Account
    commands: Sequence[tuple[str, str, str | None]] = ()
    cmd_ids: str = "{}"
    spaces: str = "declared"
    typed: bool = True  # Meta with Format and Type where they say nothing new
    once: bool = False
    proves: str = "every"
    names_chal: bool = True  # the challenge says which kind it is
    quoted: bool = True  # the name in x-syncml-hmac
    wrong: bool = False  # the server does not know its own secret
    heard: list[ET.Element] = field(default_factory=list)
    creds: list[str | None] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    client_nonce: bytes = b""
    server_nonce: bytes = b""
    challenges: int = 0
    _sent: int = 0
    _accepted: bool = False
    _given: int = 0

    def __post_init__(self) -> None:
        self.client_nonce, self.server_nonce = self.account.client_nonce, self.account.server_nonce

    # -- the https port

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        assert (method, url) == ("POST", self.account.url)
        assert body is not None
        assert headers is not None
        assert headers["Content-Type"] == XML
        message = self._plain(ET.fromstring(body))
        self.heard.append(message)
        number = int(self._text(message, "SyncHdr/MsgID"))
        if number == 1:
            self._sent, self._accepted = 0, False
        self._learn(message)
        proof = message.find("SyncHdr/Cred/Data")
        self.creds.append(None if proof is None else proof.text)
        if not self._believes(message, body, headers):
            self.challenges += 1
            return self._say(message, 407 if proof is None else 401, [], fresh=True)
        code = 212 if self.once else 200
        fresh = not self._accepted
        self._accepted = self._accepted or self.once
        return self._say(message, code, self._package(message), fresh=fresh)

    @staticmethod
    def _plain(element: ET.Element) -> ET.Element:
        for each in element.iter():
            each.tag = each.tag.rpartition("}")[2]
        return element

    @staticmethod
    def _text(element: ET.Element, path: str) -> str:
        found = element.find(path)
        return "" if found is None else found.text or ""

    def _learn(self, message: ET.Element) -> None:
        """The client's nonce for us, and whether it wants our credentials."""
        for status in message.iter("Status"):
            if self._text(status, "CmdRef") == "0":
                self.codes.append(int(self._text(status, "Data")))
                nonce = self._text(status, "Chal/Meta/NextNonce")
                if nonce:
                    self.server_nonce = base64.b64decode(nonce)

    def _believes(self, message: ET.Element, body: bytes, headers: Mapping[str, str]) -> bool:
        a = self.account
        if self._accepted:
            return True
        if a.auth_types[0] == "HMAC":
            given = headers.get("x-syncml-hmac", "")
            return f"mac={mac(body, a.client_name, a.client_secret, self.client_nonce)}" in given
        wanted = {
            "BASIC": b64(f"{a.client_name}:{a.client_secret}".encode()),
            "DIGEST": md5(a.client_name, a.client_secret, self.client_nonce),
        }
        return self._text(message, "SyncHdr/Cred/Data") == wanted[a.auth_types[0]]

    def _package(self, message: ET.Element) -> list[str]:
        """Statuses for everything, and in package 2 our commands."""
        body = message.find("SyncBody")
        assert body is not None
        said = [
            self._status(message, self._text(command, "CmdID"), command.tag, 200)
            for command in body
            if command.tag in ("Alert", "Replace")
        ]
        if self._text(body, "Alert/Data") in ("1200", "1201"):
            said += [self._command(*each) for each in self.commands]
        return said

    # -- what it says

    def _id(self) -> str:
        self._given += 1
        return self.cmd_ids.format(self._given)

    def _meta(self, **values: str) -> str:
        _, space, prefix = SPACES[self.spaces]
        inner = "".join(f"<{prefix}{k} {space}>{v}</{prefix}{k}>" for k, v in values.items())
        return f"<Meta>{inner}</Meta>" if values else ""

    def _command(self, name: str, uri: str, data: str | None) -> str:
        meta = self._meta(Format="chr", Type="text/plain") if self.typed and data is not None else ""
        value = "" if data is None else f"<Data>{data}</Data>"
        target = f"<Target><LocURI>{uri}</LocURI></Target>"
        return f"<{name}><CmdID>{self._id()}</CmdID><Item>{target}{meta}{value}</Item></{name}>"

    def _status(self, message: ET.Element, ref: str, name: str, code: int, chal: str = "") -> str:
        msg = self._text(message, "SyncHdr/MsgID")
        return (
            f"<Status><MsgRef>{msg}</MsgRef><CmdID>{self._id()}</CmdID><CmdRef>{ref}</CmdRef><Cmd>{name}</Cmd>"
            f"{chal}<Data>{code}</Data></Status>"
        )

    def _chal(self) -> str:
        kind = {"HMAC": "syncml:auth-MAC", "DIGEST": "syncml:auth-md5", "BASIC": "syncml:auth-basic"}
        values = {"Type": kind[self.account.auth_types[0]], "Format": "b64"} if self.names_chal else {}
        if self.account.auth_types[0] != "BASIC":
            self.client_nonce = hashlib.sha256(b"%d" % self._given).digest()[:16]
            values["NextNonce"] = b64(self.client_nonce)
        return f"<Chal>{self._meta(**values)}</Chal>"

    def _cred(self) -> str:
        a = self.account
        kind = a.auth_types[1]
        if kind not in ("DIGEST", "BASIC") or self.proves == "never" or (self.proves == "first" and self._sent):
            return ""
        secret = "not it" if self.wrong else a.server_secret
        if kind == "DIGEST":
            data, name = md5(a.server_name, secret, self.server_nonce), "syncml:auth-md5"
        else:
            data, name = b64(f"{a.server_name}:{secret}".encode()), "syncml:auth-basic"
        return f"<Cred>{self._meta(Format='b64', Type=name)}<Data>{data}</Data></Cred>"

    def _say(self, message: ET.Element, code: int, commands: list[str], *, fresh: bool) -> Response:
        chal = self._chal() if fresh and not (code == 200 and self.account.auth_types[0] == "BASIC") else ""
        status = self._status(message, "0", "SyncHdr", code, chal)
        session = self._text(message, "SyncHdr/SessionID")
        name = f"<LocName>{self.account.server_name}</LocName>"
        cred = self._cred()
        self._sent += 1
        body = (
            f"<SyncML {SPACES[self.spaces][0]}>\n  <SyncHdr><SessionID>{session}</SessionID><VerDTD>1.2</VerDTD>"
            f"<VerProto>DM/1.2</VerProto><MsgID>{self._sent}</MsgID>"
            f"<Source><LocURI>{self.account.url}</LocURI>{name}</Source>"
            f"<Target><LocURI>{self._text(message, 'SyncHdr/Source/LocURI')}</LocURI></Target>{cred}</SyncHdr>\n"
            f"  <SyncBody>{status}{''.join(commands)}<Final/></SyncBody>\n</SyncML>"
        ).encode()
        headers = {"content-type": f"{XML}; charset=UTF-8"}
        if self.account.auth_types[1] == "HMAC" and self.proves != "never":
            a = self.account
            user = f'"{a.server_name}"' if self.quoted else a.server_name
            secret = "not it" if self.wrong else a.server_secret
            headers["x-syncml-hmac"] = f"username={user}, mac={mac(body, a.server_name, secret, self.server_nonce)}"
        return Response(200, headers, body)

    # -- what a test asks

    def statuses(self, name: str) -> list[int]:
        """The client's statuses for our commands of that name, over all sessions."""
        return [
            int(self._text(status, "Data"))
            for message in self.heard
            for status in message.iter("Status")
            if self._text(status, "Cmd") == name
        ]

    def values(self) -> dict[str, str]:
        return {
            self._text(item, "Source/LocURI"): self._text(item, "Data")
            for message in self.heard
            for results in message.iter("Results")
            for item in results.iter("Item")
        }
