"""The DM account, and the profile that brings it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from omadm.auth import SECRET_TYPES
from omadm.bootstrap import DMACC_URN, Account, BootstrapError, account_from_tnds, dmacc, emit_profile, parse_profile
from omadm.syncml.codec import DM_WBXML, DM_XML, decode, encode
from omadm.syncml.messages import Add, Delete, Item, Meta, MgmtTree, SyncHdr, SyncML, TndsNode
from tests.omadm.test_addresses import UNUSABLE

ACCOUNT = Account(
    server_id="headend",
    url="https://127.0.0.1:8443/dm",
    client_name="urn:dcu:KR-000042",
    client_secret="client-secret",
    server_name="headend",
    server_secret="server-secret",
    client_nonce=b"\x00\x01\xff",
    server_nonce=b"",
)


def test_the_account_comes_back_from_its_profile() -> None:
    assert account_from_tnds(parse_profile(emit_profile(ACCOUNT))) == ACCOUNT


def test_the_profile_is_one_add_to_the_inbox_in_wbxml() -> None:
    message = decode(emit_profile(ACCOUNT), DM_WBXML)
    (add,) = message.commands
    assert isinstance(add, Add)
    assert add.items[0].target == "./Inbox"
    assert message.hdr.source == "headend"


def test_extra_nodes_travel_beside_the_account() -> None:
    extra = TndsNode("URL", path="./AMI/Uplink", format="chr", value="https://x/readings")
    tree = parse_profile(emit_profile(ACCOUNT, [extra]))
    assert tree.nodes[1] == extra
    assert account_from_tnds(tree) == ACCOUNT


def test_the_account_node_says_what_it_is_and_who_may_touch_it() -> None:
    node = dmacc(replace(ACCOUNT, server_id="a&b"))
    assert (node.path, node.type) == ("./DMAcc", DMACC_URN)
    assert node.acl == "Get=a%26b&Replace=a%26b&Delete=a%26b"


def test_secrets_are_not_in_the_repr() -> None:
    shown = repr(ACCOUNT)
    assert "client-secret" not in shown
    assert "server-secret" not in shown
    assert "\\xff" not in shown


@pytest.mark.parametrize(
    "change",
    [{"server_id": ""}, {"url": ""}, {"client_name": "a\nb"}, {"server_name": "x" * 2000}, {"auth_type": "X509"}],
)
def test_an_account_without_sense_is_not_made(change: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="account"):
        replace(ACCOUNT, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", SECRET_TYPES)
@pytest.mark.parametrize("whose", ["client", "server"])
def test_an_empty_secret_is_none(kind: str, whose: str) -> None:
    with pytest.raises(ValueError, match=f"{whose}_secret is empty, which proves nothing with {kind}"):
        replace(ACCOUNT, auth_type=kind, **{f"{whose}_secret": ""})  # type: ignore[arg-type]
    assert replace(ACCOUNT, server_auth_type="TRANSPORT", server_secret="").server.secret == ""


NO_URLS = [
    *(url for url, _ in UNUSABLE.values()),
    *("https://h:99999/dm", "https://h:x/dm", "https://[::1/dm", "https://h:0/dm", "https:///dm", "dm"),
]


def with_value(node: TndsNode, name: str, value: str) -> TndsNode:
    children = tuple(with_value(child, name, value) for child in node.children)
    return replace(node, children=children, value=value if node.name == name else node.value)


@pytest.mark.parametrize("url", NO_URLS)
def test_an_address_that_is_no_url_is_refused_by_name(url: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(url))):
        replace(ACCOUNT, url=url)
    tree = MgmtTree((with_value(dmacc(ACCOUNT), "Addr", url),))
    profile = encode(SyncML(HDR, (Add("1", (replace(TREE_ITEM, data=tree),)),)), DM_WBXML)
    with pytest.raises(BootstrapError, match=re.escape(repr(url))):
        account_from_tnds(parse_profile(profile))


@pytest.mark.parametrize("url", ["https://h", "https://h:65535/dm", "https://[::1]:8443/dm", "https://h:/dm"])
def test_an_address_with_or_without_a_port_is_a_url(url: str) -> None:
    assert account_from_tnds(MgmtTree((dmacc(replace(ACCOUNT, url=url)),))).url == url


def without(node: TndsNode, name: str) -> TndsNode:
    kept = tuple(without(child, name) for child in node.children if child.name != name)
    return replace(node, children=kept)


@pytest.mark.parametrize(
    "name", ["ServerID", "AppAddr", "Addr", "AppAuth", "client", "server", "AAuthName", "AAuthSecret"]
)
def test_half_an_account_is_refused(name: str) -> None:
    with pytest.raises(BootstrapError):
        account_from_tnds(MgmtTree((without(dmacc(ACCOUNT), name),)))


@pytest.mark.parametrize("name", ["AAuthData", "Port", "Name", "AAuthPref"])
def test_optional_parts_may_be_missing(name: str) -> None:
    account = account_from_tnds(MgmtTree((without(dmacc(ACCOUNT), name),)))
    assert account.url == ACCOUNT.url


def test_the_account_is_found_by_its_application_id_as_well() -> None:
    anonymous = replace(dmacc(ACCOUNT), type=None, name="x")
    assert account_from_tnds(MgmtTree((TndsNode("DMAcc", children=(anonymous,)),))) == ACCOUNT


def test_no_account_and_two_accounts_are_refused() -> None:
    with pytest.raises(BootstrapError, match="0 DM accounts"):
        account_from_tnds(MgmtTree((TndsNode("x"),)))
    with pytest.raises(BootstrapError, match="2 DM accounts"):
        account_from_tnds(MgmtTree((dmacc(ACCOUNT), dmacc(ACCOUNT, "second"))))


HDR = SyncHdr("0", 1, "d", "s")
TREE_ITEM = Item(target="./Inbox", meta=Meta("bin"), data=MgmtTree((dmacc(ACCOUNT),)))


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\x02\xa4\x01\x6a\x00\x2d",
        encode(SyncML(HDR), DM_WBXML),
        encode(SyncML(HDR, (Add("1", (Item(target="./Inbox", data="text"),)),)), DM_WBXML),
        encode(SyncML(HDR, (Add("1", (replace(TREE_ITEM, target="./Elsewhere"),)),)), DM_WBXML),
        encode(SyncML(HDR, (Add("1", (TREE_ITEM,)), Delete("2", (Item(target="./AMI"),)))), DM_WBXML),
        encode(SyncML(HDR, (Add("1", (TREE_ITEM,)),)), DM_XML),
    ],
)
def test_what_is_no_profile_is_refused(document: bytes) -> None:
    with pytest.raises(BootstrapError):
        parse_profile(document)
