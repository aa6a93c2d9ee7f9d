"""DMAcc, `urn:oma:mo:oma-dm-dmacc:1.0` (OMA-TS-DM_StdObj 1.2, section 5.3.1): the account with the DM server.

The account arrives in the bootstrap document and lives in the tree. The nonces in it (`AAuthData`) are those it was
made with; the running ones change with every message and are kept by `agent.dm.nonces`.
"""

from __future__ import annotations

from collections.abc import Collection

from agent.tree.acl import Acl, identifier
from agent.tree.schema import ARD, Access, Format, NodeSpec, Path, group, interior, one_of, setting
from agent.tree.tnds import put_tnds
from agent.tree.tree import Transaction
from agent.tree.uri import parse_path
from omadm.bootstrap import DMACC_URN, Account, BootstrapError, account_from_tnds
from omadm.codes import Code, Refusal
from omadm.syncml.messages import MgmtTree

ROOT: Path = ("DMAcc",)
MANAGED = tuple((name,) for name in ("SCHED", "AMI", "FUMO", "SCOMO", "ConnMO", "LAWMO", "DiagMon"))
"""What the bootstrapped server may manage."""

BOOTSTRAP_ROOTS = frozenset({"DMAcc", "SCHED", "AMI"})


class DmAcc:
    """The accounts of the servers that may manage this device."""

    root = ROOT

    def spec(self) -> NodeSpec:
        level = one_of("CLCRED", "SRVCRED", "OBEX", "HTTP")
        account = group(
            setting("AppID", Format.CHR, check=one_of("w7")),
            setting("ServerID", Format.CHR),
            setting("Name", Format.CHR),
            setting("PrefConRef", Format.CHR),
            group(group(setting("ConRef", Format.CHR)), name="ToConRef"),
            group(
                group(
                    setting("Addr", Format.CHR),
                    setting("AddrType", Format.CHR, check=one_of("URI", "IPv4", "IPv6")),
                    group(group(setting("PortNbr", Format.CHR)), name="Port"),
                ),
                name="AppAddr",
            ),
            setting("AAuthPref", Format.CHR),
            group(
                group(
                    setting("AAuthLevel", Format.CHR, check=level),
                    setting("AAuthType", Format.CHR),
                    setting("AAuthName", Format.CHR),
                    setting("AAuthSecret", Format.CHR, access=ARD, secret=True, description="no Get"),
                    setting("AAuthData", Format.BIN, access=ARD, secret=True, description="the first nonce; no Get"),
                ),
                name="AppAuth",
            ),
            group(name="Ext"),
            type=DMACC_URN,
            description="comes with the bootstrap",
        )
        return interior("DMAcc", account)


class Inbox:
    """`./Inbox` (DM Bootstrap 1.2, section 5.2): a place to Add profiles to; there is nothing to Get (405)."""

    root: Path = ("Inbox",)

    def spec(self) -> NodeSpec:
        return NodeSpec("Inbox", Format.NODE, Access.NONE, description="for bootstrap documents only")


def checked(tree: MgmtTree, allowed: Collection[str] = ("HMAC",)) -> Account:
    """The account in a bootstrap document, if this device may use it. Raises `BootstrapError`."""
    account = account_from_tnds(tree)
    why = unusable(account, allowed)
    if why:
        raise BootstrapError(why)
    return account


def unusable(account: Account, allowed: Collection[str]) -> str:
    """Why this device may not use an account; empty if it may. `allowed` are kinds of credentials."""
    client, server = account.auth_types
    if client == "TRANSPORT":
        return "the account wants a certificate of the device, which it has none of"
    for kind in (client, server):
        if kind not in allowed:
            return f"the account wants {kind}, which dm.auth_types does not allow"
    if not account.url.startswith("https://"):
        return f"the account's address {account.url} is no https URL"
    return ""


def install(changing: Transaction, tree: MgmtTree, allowed: Collection[str] = ("HMAC",)) -> Account:
    """Put a bootstrap document into the tree, replacing any account. Raises `BootstrapError`, `Refusal`.

    The server it names gets every right on the objects that it is to manage, and nobody else gets any.
    """
    account = checked(tree, allowed)
    for name in changing.names(changing.existing(ROOT)):
        changing.drop((*ROOT, name))
    for node in tree.nodes:
        top = (*parse_path(node.path or "."), node.name)[0]
        if top not in BOOTSTRAP_ROOTS:
            raise Refusal(Code.NOT_ALLOWED, f"a bootstrap document has no business in ./{top}")
    put_tnds(changing, (), tree)
    try:
        rights = Acl.everything_for(identifier(account.server_id))
    except ValueError as error:
        raise BootstrapError(f"the server's identifier cannot stand in an ACL: {error}") from error
    for root in MANAGED:
        if changing.find(root) is not None:
            changing.put(root, acl=rights)
    return account


def grant_new(changing: Transaction) -> None:
    """Give the server of the account every right on managed objects that the program had not when it was bootstrapped.
    An object that was ever granted or written keeps the ACL it has."""
    known = account(changing)
    if known is None:
        return
    for root in MANAGED:
        existing = changing.find(root)
        if existing is not None and existing.node is None:
            changing.put(root, acl=Acl.everything_for(identifier(known.server_id)))


def account(looking: Transaction) -> Account | None:
    """The first complete account in the tree."""
    for name in looking.names(looking.existing(ROOT)):
        found = _account(looking, (*ROOT, name))
        if found is not None:
            return found
    return None


def _account(looking: Transaction, base: Path) -> Account | None:
    client, server = _credentials(looking, base, "CLCRED"), _credentials(looking, base, "SRVCRED")
    if client is None or server is None:
        return None
    server_id = looking.text((*base, "ServerID"))
    try:
        return Account(
            server_id=server_id,
            url=_address(looking, base),
            client_name=looking.text((*client, "AAuthName")),
            client_secret=looking.text((*client, "AAuthSecret")),
            server_name=looking.text((*server, "AAuthName")) or server_id,
            server_secret=looking.text((*server, "AAuthSecret")),
            client_nonce=_bytes(looking, (*client, "AAuthData")),
            server_nonce=_bytes(looking, (*server, "AAuthData")),
            auth_type=(auth_type := looking.text((*client, "AAuthType"))),
            server_auth_type=_other(looking.text((*server, "AAuthType")), auth_type),
        )
    except ValueError:
        return None


def set_address(changing: Transaction, url: str) -> None:
    """Give the account in use another address. There is one, or this raises `Refusal` 404."""
    for name in changing.names(changing.existing(ROOT)):
        base = (*ROOT, name)
        if _account(changing, base) is not None:
            place = _address_node(changing, base)
            if place is not None:
                changing.put((*place, "Addr"), url)
                changing.drop((*place, "Port"))  # it only repeats what stands in the URL
                return
    raise Refusal(Code.NOT_FOUND, "there is no account with an address")


def is_address(path: Path) -> bool:
    """Whether a node is the address of an account."""
    return len(path) == 5 and path[0] == ROOT[0] and path[2] == "AppAddr" and path[4] == "Addr"


def _other(kind: str, than: str) -> str:
    return "" if kind == than else kind


def _below(looking: Transaction, path: Path) -> list[Path]:
    existing = looking.find(path)
    return [] if existing is None else [(*path, name) for name in looking.names(existing)]


def _credentials(looking: Transaction, base: Path, level: str) -> Path | None:
    for path in _below(looking, (*base, "AppAuth")):
        if looking.text((*path, "AAuthLevel")) == level:
            return path
    return None


def _address_node(looking: Transaction, base: Path) -> Path | None:
    for path in _below(looking, (*base, "AppAddr")):
        if looking.text((*path, "AddrType"), "URI") in {"URI", ""}:
            return path
    return None


def _address(looking: Transaction, base: Path) -> str:
    path = _address_node(looking, base)
    return looking.text((*path, "Addr")) if path is not None else ""


def _bytes(looking: Transaction, path: Path) -> bytes:
    existing = looking.find(path)
    value = looking.value(existing) if existing is not None else b""
    return value if isinstance(value, bytes) else value.encode("utf-8")
