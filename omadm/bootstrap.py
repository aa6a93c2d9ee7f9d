"""Bootstrap: a device's DM account, as a value and as the DM profile that delivers it (OMA-TS-DM_Bootstrap 1.2, 5.2).

The profile is a WBXML DM message with one Add to `./Inbox` whose data is a TNDS document: the DMAcc management object,
and other nodes that the server wants in the tree from the start. It has no response; the device applies it as a whole
or not at all, and then starts a session.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from omadm.addresses import AddressError, check_address
from omadm.auth import AUTH_TYPES, SECRET_TYPES
from omadm.schemes import Credentials
from omadm.ssmp.limits import FINGERPRINT_BYTES
from omadm.syncml.codec import DM_WBXML, decode, encode
from omadm.syncml.document import TNDS_WBXML
from omadm.syncml.errors import SyncmlError
from omadm.syncml.messages import Add, Item, Meta, MgmtTree, SyncHdr, SyncML, TndsNode

INBOX: Final = "./Inbox"
DMACC_URN: Final = "urn:oma:mo:oma-dm-dmacc:1.0"
DMACC_PATH: Final = "./DMAcc"
ACCOUNT_NAME: Final = "main"  # of our account below it
APP_ID: Final = "w7"
CLIENT_LEVEL: Final = "CLCRED"  # the client proves itself to the server
SERVER_LEVEL: Final = "SRVCRED"
TEXT_CHARS_MAX: Final = 1024


class BootstrapError(Exception):
    """The document has no usable DM account. Nothing of it is applied."""


@dataclass(frozen=True, slots=True)
class Account:
    """One DM account, as both ends have it.

    The client authenticates as `client_name` with `client_secret` and `client_nonce` (CLCRED), the server as
    `server_name` with `server_secret` and `server_nonce` (SRVCRED). The nonces are those for the next message.
    `auth_type` is that of the client, and of the server too unless `server_auth_type` names another.
    """

    server_id: str
    url: str
    client_name: str
    client_secret: str = field(repr=False)
    server_name: str
    server_secret: str = field(repr=False)
    client_nonce: bytes = field(repr=False)
    server_nonce: bytes = field(repr=False)
    auth_type: str = "HMAC"
    server_auth_type: str = ""

    @property
    def client(self) -> Credentials:
        """How the device proves itself."""
        return Credentials(self.client_name, self.client_secret, self.client_nonce)

    @property
    def server(self) -> Credentials:
        """How the server proves itself."""
        return Credentials(self.server_name, self.server_secret, self.server_nonce)

    @property
    def auth_types(self) -> tuple[str, str]:
        """The authentication types of client and server."""
        return self.auth_type, self.server_auth_type or self.auth_type

    def __post_init__(self) -> None:
        try:
            check_address(self.url, schemes=())
        except AddressError as error:
            shown = f" {self.url[:TEXT_CHARS_MAX]!r}" if self.url else ""
            raise ValueError(f"account: url{shown} {error}") from error
        for name in ("server_id", "url", "client_name", "server_name"):
            value = getattr(self, name)
            if not value or len(value) > TEXT_CHARS_MAX or not value.isprintable():
                raise ValueError(f"account: {name} is empty, too long or not printable")
        for kind, secret, whose in zip(
            self.auth_types, (self.client_secret, self.server_secret), ("client", "server"), strict=True
        ):
            if kind not in AUTH_TYPES:
                raise ValueError(f"account: authentication type {kind!r} is not supported")
            if kind in SECRET_TYPES and not secret:
                raise ValueError(f"account: {whose}_secret is empty, which proves nothing with {kind}")

    def fingerprint(self) -> bytes:
        """What tells one account of a device from another, 16 bytes: the start of a SHA-256 over its secret of 256
        random bits, which nobody can reverse."""
        return hashlib.sha256(b"dcu-ssmp 2 account " + self.client_secret.encode()).digest()[:FINGERPRINT_BYTES]


def _leaf(name: str, value: str) -> TndsNode:
    return TndsNode(name, format="chr", type="text/plain", value=value)


def _interior(name: str, *children: TndsNode) -> TndsNode:
    return TndsNode(name, format="node", children=children)


def _credentials(name: str, level: str, auth_type: str, user: str, secret: str, nonce: bytes) -> TndsNode:
    return _interior(
        name,
        _leaf("AAuthLevel", level),
        _leaf("AAuthType", auth_type),
        _leaf("AAuthName", user),
        _leaf("AAuthSecret", secret),
        TndsNode("AAuthData", format="bin", value=nonce),
    )


def account_acl(server_id: str) -> str:
    """The ACL of a DM account: only its own server may access it (OMA-TS-DM_Bootstrap 1.2, 5.3)."""
    who = server_id.replace("+", "%2B").replace("&", "%26")
    return f"Get={who}&Replace={who}&Delete={who}"


def dmacc(account: Account, name: str = ACCOUNT_NAME) -> TndsNode:
    """The DMAcc management object of `account`, as the node `./DMAcc/<name>` with its ACL."""
    port = urlsplit(account.url).port
    port_nodes = () if port is None else (_interior("Port", _interior("1", _leaf("PortNbr", str(port)))),)
    return TndsNode(
        name,
        path=DMACC_PATH,
        format="node",
        type=DMACC_URN,
        acl=account_acl(account.server_id),
        children=(
            _leaf("AppID", APP_ID),
            _leaf("ServerID", account.server_id),
            _leaf("Name", account.server_id),
            _interior("AppAddr", _interior("1", _leaf("Addr", account.url), _leaf("AddrType", "URI"), *port_nodes)),
            _leaf("AAuthPref", account.auth_type),
            _interior(
                "AppAuth",
                _credentials(
                    "client",
                    CLIENT_LEVEL,
                    account.auth_type,
                    account.client_name,
                    account.client_secret,
                    account.client_nonce,
                ),
                _credentials(
                    "server",
                    SERVER_LEVEL,
                    account.auth_types[1],
                    account.server_name,
                    account.server_secret,
                    account.server_nonce,
                ),
            ),
        ),
    )


def emit_profile(account: Account, extra_nodes: Sequence[TndsNode] = ()) -> bytes:
    """The bootstrap document in WBXML. `extra_nodes` are added to the tree beside the account, each at its `path`."""
    tree = MgmtTree((dmacc(account), *extra_nodes))
    item = Item(target=INBOX, meta=Meta(format="xml", type=TNDS_WBXML), data=tree)
    hdr = SyncHdr("0", 1, target=account.client_name, source=account.server_id)
    return encode(SyncML(hdr, (Add("1", (item,)),)), DM_WBXML)


def parse_profile(document: bytes) -> MgmtTree:
    """Parse the tree in a profile. Raises `BootstrapError`."""
    try:
        message = decode(document, DM_WBXML)
    except SyncmlError as error:
        raise BootstrapError(f"the profile cannot be read: {error}") from error
    trees = [
        item.data
        for add in message.of(Add)
        for item in add.items
        if item.target == INBOX and isinstance(item.data, MgmtTree)
    ]
    if len(trees) != 1 or len(message.commands) != 1:
        raise BootstrapError(f"one Add of one tree to {INBOX} expected")
    return trees[0]


def account_from_tnds(tree: MgmtTree) -> Account:
    """The DM account in `tree`. Raises `BootstrapError` unless there is exactly one, and it is complete."""
    found = [node for node in _walk(tree.nodes) if _is_account(node)]
    if len(found) != 1:
        raise BootstrapError(f"{len(found)} DM accounts, one expected")
    node = found[0]
    auth = _child(node, "AppAuth")
    client, server = _by_level(auth, CLIENT_LEVEL), _by_level(auth, SERVER_LEVEL)
    auth_type, server_auth_type = _text(client, "AAuthType"), _text(server, "AAuthType")
    server_id = _text(node, "ServerID")
    try:
        return Account(
            server_id=server_id,
            url=_address(_child(node, "AppAddr")),
            client_name=_text(client, "AAuthName"),
            client_secret=_text(client, "AAuthSecret"),
            server_name=_text(server, "AAuthName", server_id),
            server_secret=_text(server, "AAuthSecret"),
            client_nonce=_bytes(client, "AAuthData"),
            server_nonce=_bytes(server, "AAuthData"),
            auth_type=auth_type,
            server_auth_type="" if server_auth_type == auth_type else server_auth_type,
        )
    except ValueError as error:
        raise BootstrapError(str(error)) from error


def _walk(nodes: Sequence[TndsNode]) -> Iterator[TndsNode]:
    for node in nodes:
        yield node
        yield from _walk(node.children)


def _is_account(node: TndsNode) -> bool:
    return node.type == DMACC_URN or any(c.name == "AppID" and c.value == APP_ID for c in node.children)


def _child(node: TndsNode, name: str) -> TndsNode:
    for child in node.children:
        if child.name == name:
            return child
    raise BootstrapError(f"{node.name}/{name} is missing")


def _text(node: TndsNode, name: str, default: str | None = None) -> str:
    if default is not None and all(child.name != name for child in node.children):
        return default
    value = _child(node, name).value
    if not isinstance(value, str):
        raise BootstrapError(f"{node.name}/{name} holds no text")
    return value


def _bytes(node: TndsNode, name: str) -> bytes:
    value = next((child.value for child in node.children if child.name == name), b"")
    return value if isinstance(value, bytes) else (value or "").encode()


def _by_level(auth: TndsNode, level: str) -> TndsNode:
    for node in auth.children:
        if any(child.name == "AAuthLevel" and child.value == level for child in node.children):
            return node
    raise BootstrapError(f"{auth.name} has no credentials of level {level}")


def _address(addresses: TndsNode) -> str:
    for node in addresses.children:
        if _text(node, "AddrType", "URI") == "URI":
            return _text(node, "Addr")
    raise BootstrapError("AppAddr names no URI")
