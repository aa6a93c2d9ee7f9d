"""Our client with a server of another make: what it is allowed to differ in, and what it is not."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest

from omadm.bootstrap import Account, emit_profile
from omadm.notification import Notification, emit
from tests.agent.dm.other_server import XML, OtherServer, md5
from tests.agent.dm.server import ACCOUNT, FakeDmServer
from tests.agent.dm_device import Device

COMMANDS = (
    ("Get", "./DevDetail/FwV", None),
    ("Replace", "./AMI/Uplink/URL", "https://readings.example/"),
    ("Get", "./AMI/Uplink/URL", None),
    ("Get", "./Nothing", None),
)
EVERYTHING = ("HMAC", "DIGEST", "BASIC", "TRANSPORT")
PAIRS = [("HMAC", "HMAC"), ("DIGEST", "DIGEST"), ("BASIC", "BASIC"), ("BASIC", "DIGEST"), ("DIGEST", "TRANSPORT")]


def account(client: str = "DIGEST", server: str = "DIGEST", **more: object) -> Account:
    made = replace(ACCOUNT, auth_type=client, server_auth_type="" if server == client else server)
    return replace(made, **more)  # type: ignore[arg-type]


def device(server: OtherServer, allowed: tuple[str, ...] = EVERYTHING) -> Device:
    made = Device(
        FakeDmServer(),
        profile=emit_profile(server.account),
        content_type=XML,
        algorithms=("MD5",),
        auth_types=allowed,
        other=server,
    )
    made.turn()
    return made


def hold(one: Device, times: int = 1) -> None:
    for _ in range(times):
        one.service.session_now()
        one.turn()
        assert one.last_result == "ok"


def did_it_all(server: OtherServer, times: int = 1) -> None:
    assert server.statuses("Get") == [200, 200, 404] * times
    assert server.statuses("Replace") == [200] * times
    assert server.values() == {"./DevDetail/FwV": "1", "./AMI/Uplink/URL": "https://readings.example/"}


@pytest.mark.parametrize("pair", PAIRS)
def test_commands_are_carried_out_with_every_kind_of_credentials(pair: tuple[str, str]) -> None:
    server = OtherServer(account(*pair), COMMANDS)
    hold(device(server), 3)
    did_it_all(server, 3)
    assert server.challenges == 0


@pytest.mark.parametrize("spaces", ["declared", "none", "prefixed"])
@pytest.mark.parametrize("cmd_ids", ["{}", "{{0d4be6f3-{:08d}}}", "A{}"])
@pytest.mark.parametrize("typed", [True, False])
def test_cmd_ids_namespaces_and_meta_are_the_servers_own_business(spaces: str, cmd_ids: str, *, typed: bool) -> None:
    server = OtherServer(account(), COMMANDS, spaces=spaces, cmd_ids=cmd_ids, typed=typed)
    hold(device(server))
    did_it_all(server)


@pytest.mark.parametrize("kind", ["DIGEST", "BASIC"])
def test_after_a_212_no_credentials_go_out_in_that_session(kind: str) -> None:
    server = OtherServer(account(kind, kind), COMMANDS, once=True)
    one = device(server)
    hold(one, 2)
    did_it_all(server, 2)
    assert [cred is not None for cred in server.creds] == [True, False] * 2
    assert server.challenges == 0


@pytest.mark.parametrize("kind", ["DIGEST", "BASIC"])
def test_after_a_200_credentials_go_out_in_every_message(kind: str) -> None:
    server = OtherServer(account(kind, kind), COMMANDS)
    hold(device(server), 2)
    assert None not in server.creds
    assert (len(set(server.creds)) == 1) == (kind == "BASIC")


@pytest.mark.parametrize("kind", ["HMAC", "DIGEST", "BASIC"])
@pytest.mark.parametrize("names_chal", [True, False])
def test_a_challenge_is_answered_in_the_same_session(kind: str, *, names_chal: bool) -> None:
    server = OtherServer(account(kind, kind), COMMANDS, names_chal=names_chal)
    one = device(server)
    server.client_nonce = b"another one"
    if kind == "BASIC":
        server.account = replace(server.account, client_secret="changed since")
    one.turn()
    assert server.challenges == (2 if kind == "BASIC" else 1)
    assert one.last_result == ("the server refused our credentials" if kind == "BASIC" else "ok")


def test_a_digest_whose_nonces_were_lost_on_both_sides_is_repaired() -> None:
    server = OtherServer(account(), COMMANDS)
    one = device(server)
    server.client_nonce = server.server_nonce = b"restored from a backup"
    hold(one)
    did_it_all(server)
    assert server.challenges == 1


@pytest.mark.parametrize("proves", ["every", "first"])
@pytest.mark.parametrize("kind", ["DIGEST", "BASIC"])
def test_a_server_proves_itself_once_a_session_or_in_every_message(kind: str, proves: str) -> None:
    server = OtherServer(account(kind, kind), COMMANDS, proves=proves)
    hold(device(server), 2)
    did_it_all(server, 2)
    assert server.codes == [212] * len(server.codes)


@pytest.mark.parametrize("kind", ["HMAC", "DIGEST", "BASIC"])
@pytest.mark.parametrize("fault", ["silent", "wrong"])
def test_a_server_that_does_not_prove_itself_gets_nothing_done(kind: str, fault: str) -> None:
    server = OtherServer(
        account(kind, kind), COMMANDS, proves="never" if fault == "silent" else "every", wrong=fault == "wrong"
    )
    one = device(server)
    one.turn()
    assert one.last_result.startswith("the server did not prove itself")
    assert server.statuses("Replace") == [407 if fault == "silent" else 401]
    assert server.values() == {}
    assert one.tree.view().text(("AMI", "Uplink", "URL")) == ""


def test_a_server_that_proves_itself_by_its_certificate_alone_is_believed_where_the_account_says_so() -> None:
    server = OtherServer(account("BASIC", "TRANSPORT"), COMMANDS, proves="never")
    hold(device(server))
    did_it_all(server)
    assert set(server.codes) == {200}


def test_an_unquoted_name_and_no_algorithm_in_the_mac_header_are_read() -> None:
    server = OtherServer(account("HMAC", "HMAC"), COMMANDS, quoted=False)
    hold(device(server))
    did_it_all(server)


# -- what is not allowed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "server", "allowed", "why"),
    [
        ("DIGEST", "DIGEST", ("HMAC",), "the account wants DIGEST, which dm.auth_types does not allow"),
        ("BASIC", "BASIC", ("HMAC", "DIGEST"), "the account wants BASIC, which dm.auth_types does not allow"),
        ("HMAC", "TRANSPORT", ("HMAC",), "the account wants TRANSPORT, which dm.auth_types does not allow"),
        ("HMAC", "HMAC", ("DIGEST",), "the account wants HMAC, which dm.auth_types does not allow"),
        ("TRANSPORT", "HMAC", EVERYTHING, "the account wants a certificate of the device, which it has none of"),
    ],
)
def test_an_account_of_a_kind_that_is_not_allowed_is_not_taken(
    client: str, server: str, allowed: tuple[str, ...], why: str
) -> None:
    peer = OtherServer(account(client, server))
    one = device(peer, allowed)
    assert one.board.current.dm.error == f"registration failed: {why}"
    assert peer.heard == []
    assert one.tree.view().names(one.tree.view().existing(("DMAcc",))) == []


@pytest.mark.parametrize("kind", ["DIGEST", "BASIC", "HMAC"])
def test_an_account_without_tls_is_not_taken(kind: str) -> None:
    peer = OtherServer(account(kind, kind, url="http://dm.example/dm"))
    one = device(peer)
    assert "is no https URL" in one.board.current.dm.error
    assert peer.heard == []


def test_an_account_that_is_no_longer_allowed_is_not_used() -> None:
    server = OtherServer(account(), COMMANDS)
    one = device(server)
    hold(one)
    heard = len(server.heard)
    one.auth_types = ("HMAC",)
    one.restart()
    one.clock.advance(10_000)
    one.service.session_now()
    one.turn()
    assert len(server.heard) == heard
    assert one.board.current.dm.error.endswith("the account wants DIGEST, which dm.auth_types does not allow")


def test_nothing_of_the_secrets_is_in_a_representation() -> None:
    made = account()
    for value in dataclasses.astuple(made.client)[1:]:
        assert str(value) not in repr(made.client)


def test_the_digest_of_the_other_server_is_the_known_answer() -> None:
    assert md5("Bruce2", "OhBehave", b"Nonce") == "Zz6EivR3yeaaENcRN6lpAQ=="


# -- notifications -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("standard", "status"), [(True, 202), (False, 403)])
def test_a_notification_of_the_standard_is_taken_where_that_is_configured(status: int, *, standard: bool) -> None:
    server = OtherServer(account())
    one = device(server)
    one.standard_notifications = standard
    one.restart()
    plain = emit(Notification(0x12, ACCOUNT.server_id), ACCOUNT.server_secret, ACCOUNT.server_nonce)
    assert one.service.on_notification(plain) == status
