"""Devices of other makes: credentials in `Cred`, only for the accounts that were made so."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import replace

import pytest
from sqlalchemy import Engine, select, update

from headend.dm import accounts, tables
from headend.dm.jobs import queue
from headend.dm.server import Answer, DmServer, Request, ServerConfig
from headend.sealing import columns
from omadm.auth import AUTH_BASIC, AUTH_MAC, AUTH_MD5
from omadm.bootstrap import Account
from omadm.syncml.codec import DM_WBXML, DM_XML, decode, encode
from omadm.syncml.messages import Alert, Chal, Command, Cred, Get, Status, SyncML
from tests.headend.dm_device import Device, Tree

NAME = "urn:other:1"
CONFIG = ServerConfig("headend", "https://headend/dm")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def digest(user: str, secret: str, nonce: bytes) -> str:
    """OMA-TS-DM_Security 1.2, 5.3, written down a second time."""
    inner = b64(hashlib.md5(f"{user}:{secret}".encode()).digest()).encode()
    return b64(hashlib.md5(inner + b":" + nonce).digest())


class OtherDevice(Device):
    """Speaks `kind`. Expects the server's credentials in `Cred`; with `once`, says 212 to them."""

    kind = AUTH_MD5
    once = False
    proofs = 0
    accepted = False  # the server said 212
    address = ""  # the query of its RespURI

    def cred(self, user: str, secret: str, nonce: bytes) -> Cred:
        data = digest(user, secret, nonce) if self.kind == AUTH_MD5 else b64(f"{user}:{secret}".encode())
        return Cred(data, self.kind)

    def request(self, commands: Iterable[Command], *, final: bool = True, session: str | None = None) -> Request:
        plain = super().request(commands, final=final, session=session)
        if self.accepted:
            return replace(plain, mac=None, session=self.address)
        message = decode(plain.body, plain.content_type)
        a = self.account
        hdr = replace(message.hdr, cred=self.cred(a.client_name, a.client_secret, a.client_nonce))
        return Request(encode(replace(message, hdr=hdr), plain.content_type), plain.content_type, None)

    def take(self, answer: Answer) -> SyncML:
        assert (answer.status, answer.mac) == (200, None)
        message = decode(answer.body, answer.content_type)
        a = self.account
        if not (self.once and self.proofs):
            assert message.hdr.cred == self.cred(a.server_name, a.server_secret, a.server_nonce)
            self.proofs += 1
        else:
            assert message.hdr.cred is None
        status = next(s for s in message.of(Status) if s.cmd_ref == "0")
        chal = status.chal
        self.accepted = status.code == 212
        if self.accepted:
            assert message.hdr.resp_uri is not None
            base, _, self.address = message.hdr.resp_uri.partition("?session=")
            assert base == CONFIG.url
        if chal is not None and chal.next_nonce is not None:
            assert chal.type == self.kind
            self.account = replace(a, client_nonce=chal.next_nonce)
        self.answers.append(message)
        return message

    def begin(self) -> list[Command]:
        self.accepted, self.address, self.proofs = False, "", 0
        return super().begin()

    def header_status(self, message: SyncML, code: int = 200) -> Status:
        status = super().header_status(message, 212 if self.once and code == 200 else code)
        assert status.chal is not None
        return replace(status, chal=replace(status.chal, type=self.kind) if self.kind == AUTH_MD5 else None)


def account(engine: Engine, kind: str, accepts: str = accounts.MESSAGE) -> Account:
    with engine.begin() as conn:
        auth_type = {AUTH_MD5: "DIGEST", AUTH_BASIC: "BASIC", AUTH_MAC: "HMAC"}[kind]
        return accounts.create(conn, NAME, server_id="headend", url=CONFIG.url, auth_type=auth_type, accepts=accepts)


def other(engine: Engine, kind: str, tree: Tree | None = None, *, accepts: str = accounts.MESSAGE) -> OtherDevice:
    device = OtherDevice(DmServer(engine, CONFIG), account(engine, kind, accepts), tree)
    device.kind = kind
    return device


def header(answer: Answer) -> Status:
    return next(s for s in decode(answer.body, answer.content_type).of(Status) if s.cmd_ref == "0")


def fetch(engine: Engine, device: Device) -> str | None:
    with engine.begin() as conn:
        number = queue.enqueue(conn, NAME, "get", {"paths": ["./A"]})
    device.session()
    with engine.begin() as conn:
        shown = queue.show(conn, number)
    return None if shown is None else str(shown["state"])


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("kind", [AUTH_MD5, AUTH_BASIC])
def test_sessions_follow_on_one_another_with_credentials_in_both_directions(
    database: Engine, kind: str, *, once: bool
) -> None:
    device = other(database, kind, Tree({"./A": "1"}))
    device.once = once
    for _ in range(3):
        device.proofs = 0
        assert fetch(database, device) == "done"


def test_a_digest_has_a_new_nonce_for_every_message(database: Engine) -> None:
    device = other(database, AUTH_MD5, Tree({"./A": "1"}))
    seen = {device.account.client_nonce}
    message = device.take(device.server.handle(device.request(device.begin())))
    seen.add(device.account.client_nonce)
    device.take(device.server.handle(device.request([device.header_status(message)])))
    seen.add(device.account.client_nonce)
    assert len(seen) == 3


def test_a_digest_is_good_for_one_message(database: Engine) -> None:
    device = other(database, AUTH_MD5)
    used = device.request(device.begin())
    device.take(device.server.handle(used))
    message = decode(used.body, used.content_type)
    again = replace(message, hdr=replace(message.hdr, msg_id=2))
    answer = device.server.handle(Request(encode(again, used.content_type), used.content_type, None))
    assert header(answer).code == 401


@pytest.mark.parametrize(("kind", "nonced"), [(AUTH_MD5, True), (AUTH_BASIC, False)])
def test_wrong_credentials_are_challenged_once_in_their_own_scheme(
    database: Engine, kind: str, *, nonced: bool
) -> None:
    device = other(database, kind)
    device.account = replace(device.account, client_secret="wrong")
    first = header(device.server.handle(device.request(device.begin())))
    assert first.code == 401
    assert first.chal is not None
    assert (first.chal.type, first.chal.next_nonce is not None) == (kind, nonced)
    assert header(device.server.handle(device.request([Alert("", 1201)]))).chal is None


@pytest.mark.parametrize("kind", [AUTH_MD5, AUTH_BASIC])
def test_a_message_without_credentials_is_407_and_one_of_another_scheme_401(database: Engine, kind: str) -> None:
    device = other(database, kind)
    bare = Device.request(device, device.begin())
    assert header(device.server.handle(replace(bare, mac=None))).code == 407
    assert header(device.server.handle(bare)).code == 407  # a MAC does not stand for Cred
    device.kind = AUTH_BASIC if kind == AUTH_MD5 else AUTH_MD5
    device.begin()
    assert header(device.server.handle(device.request(device.begin()))).code == 401


@pytest.mark.parametrize("kind", [AUTH_MD5, AUTH_BASIC])
def test_credentials_in_the_message_are_off_where_the_account_does_not_say_so(database: Engine, kind: str) -> None:
    device = other(database, AUTH_MAC)
    device.kind = kind
    refused = header(device.server.handle(device.request(device.begin())))
    assert refused.code == 407
    assert refused.chal is not None
    assert refused.chal.type == AUTH_MAC
    with database.begin() as conn:
        assert conn.execute(select(tables.sessions)).all() == []


def test_a_lost_nonce_is_repaired_by_the_challenge(database: Engine) -> None:
    device = other(database, AUTH_MD5)
    device.account = replace(device.account, client_nonce=b"lost")
    refusal = device.take(device.server.handle(device.request(device.begin())))
    again = device.request([device.header_status(refusal), Alert("", 1201)])
    assert header(device.server.handle(again)).code == 200


def test_a_basic_device_whose_sessions_all_look_alike_still_gets_its_jobs(database: Engine) -> None:
    device = other(database, AUTH_BASIC, Tree({"./A": "1"}))
    device.session()
    device._session = 0  # the next session has the same number and the same first message
    assert fetch(database, device) == "done"


def test_a_device_that_begins_again_under_the_same_session_number_gets_a_new_session(database: Engine) -> None:
    device = other(database, AUTH_MD5, Tree({"./A": "1"}))
    with database.begin() as conn:
        queue.enqueue(conn, NAME, "get", {"paths": ["./A"]})
    message = device.take(device.server.handle(device.request(device.begin())))
    assert any(message.of(Get))
    device._session = 0
    assert any(device.take(device.server.handle(device.request(device.begin()))).of(Get))
    with database.begin() as conn:
        assert list(conn.scalars(select(tables.sessions.c.state))) == ["lost", "running"]


# -- credentials that are good for a session ---------------------------------------------------------


def frugal(engine: Engine, kind: str = AUTH_MD5, tree: Tree | None = None) -> OtherDevice:
    """A device that sends no credentials after they were accepted (212), as libdmclient does."""
    device = other(engine, kind, tree or Tree({"./A": "1"}), accepts=accounts.SESSION)
    device.once = True
    return device


@pytest.mark.parametrize("content_type", [DM_XML, DM_WBXML])
@pytest.mark.parametrize("kind", [AUTH_MD5, AUTH_BASIC])
def test_a_device_that_proves_itself_once_a_session_gets_its_jobs(
    database: Engine, kind: str, content_type: str
) -> None:
    device = frugal(database, kind)
    device.content_type = content_type
    for _ in range(3):
        assert fetch(database, device) == "done"
        codes = [s.code for message in device.answers[-2:] for s in message.of(Status) if s.cmd_ref == "0"]
        assert codes == [212, 212]
    with database.begin() as conn:
        assert list(conn.scalars(select(tables.sessions.c.state))) == ["done"] * 3


def test_the_nonce_of_a_212_is_for_the_next_session(database: Engine) -> None:
    device = frugal(database)
    nonces = []
    for _ in range(2):
        assert fetch(database, device) == "done"
        first, second = (next(s for s in m.of(Status) if s.cmd_ref == "0").chal for m in device.answers[-2:])
        assert first is not None
        assert second is None
        nonces.append(first.next_nonce)
        with database.begin() as conn:
            assert accounts.load(conn, NAME).client_nonce == first.next_nonce  # type: ignore[union-attr]
    assert nonces[0] != nonces[1]


def open_session(engine: Engine) -> tuple[OtherDevice, Request]:
    """A device in the middle of a session, and its next message."""
    device = frugal(engine)
    with engine.begin() as conn:
        queue.enqueue(conn, NAME, "get", {"paths": ["./A"]})
    message = device.take(device.server.handle(device.request(device.begin())))
    commands, final = device.reply(message)
    return device, device.request(commands, final=final)


@pytest.mark.parametrize("address", ["", "0" * 32, "é"])
def test_who_does_not_know_the_address_of_the_session_is_refused_and_does_not_disturb_it(
    database: Engine, address: str
) -> None:
    device, good = open_session(database)
    assert header(device.server.handle(replace(good, session=address))).code == 407
    device.take(device.server.handle(good))
    with database.begin() as conn:
        assert list(conn.scalars(select(tables.jobs.c.state))) == ["done"]


def test_the_address_of_a_session_is_good_for_that_session_only(database: Engine) -> None:
    device, good = open_session(database)
    device.take(device.server.handle(good))
    device._session += 1
    device._msg_id = 0
    assert header(device.server.handle(device.request([Alert("", 1201)]))).code == 407
    assert len({m.hdr.resp_uri for m in device.answers}) == 1
    device.session()
    assert len({m.hdr.resp_uri for m in device.answers}) == 2


def test_an_answer_that_was_lost_is_given_again_at_the_same_address_only(database: Engine) -> None:
    device, good = open_session(database)
    answer = device.server.handle(good)
    assert device.server.handle(good) == answer
    assert header(device.server.handle(replace(good, session=""))).code == 407


def test_a_device_that_goes_on_sending_credentials_is_believed_by_them(database: Engine) -> None:
    device = frugal(database)
    device.once = False
    with database.begin() as conn:
        queue.enqueue(conn, NAME, "get", {"paths": ["./A"]})
    message = device.take(device.server.handle(device.request(device.begin())))
    device.accepted = False
    commands, final = device.reply(message)
    device.take(device.server.handle(device.request(commands, final=final)))
    with database.begin() as conn:
        assert list(conn.scalars(select(tables.jobs.c.state))) == ["done"]


def test_a_server_that_was_restarted_asks_for_credentials_again(database: Engine) -> None:
    device, good = open_session(database)
    device.server = DmServer(database, CONFIG)
    assert header(device.server.handle(good)).code == 407


def test_a_mac_is_never_good_for_a_session(database: Engine) -> None:
    with pytest.raises(ValueError, match="one message"):
        account(database, AUTH_MAC, accounts.SESSION)


# -- known answers -----------------------------------------------------------------------------------

MESSAGE = """<SyncML><SyncHdr><VerDTD>1.2</VerDTD><VerProto>DM/1.2</VerProto><SessionID>1</SessionID><MsgID>1</MsgID>
<Target><LocURI>https://headend/dm</LocURI></Target><Source><LocURI>urn:other:1</LocURI><LocName>Bruce2</LocName></Source>
<Cred><Meta><Format xmlns="syncml:metinf">b64</Format><Type xmlns="syncml:metinf">{kind}</Type></Meta>
<Data>{data}</Data></Cred></SyncHdr><SyncBody><Alert><CmdID>1</CmdID><Data>1201</Data></Alert><Final/></SyncBody></SyncML>"""
DIGEST = "Zz6EivR3yeaaENcRN6lpAQ=="  # of Bruce2, OhBehave and the nonce "Nonce"
BASIC = "QnJ1Y2UyOk9oQmVoYXZl"


@pytest.mark.parametrize(
    ("kind", "data", "code"),
    [
        (AUTH_MD5, DIGEST, 200),
        (AUTH_MD5, f"\n  {DIGEST}\n", 200),
        (AUTH_MD5.upper(), DIGEST, 200),
        (AUTH_MD5, "", 401),
        (AUTH_MD5, DIGEST[:-4], 401),
        (AUTH_BASIC, DIGEST, 401),
        (AUTH_BASIC, BASIC, 200),
        (AUTH_BASIC, BASIC[:-1], 401),
        (AUTH_BASIC, "A" * 5000, 401),
        (AUTH_MD5, BASIC, 401),
    ],
)
def test_the_known_answers_of_the_standard_are_believed_and_nothing_else(
    database: Engine, kind: str, data: str, code: int
) -> None:
    account(database, kind.lower())
    with database.begin() as conn:
        values = {"client_name": "Bruce2", "client_secret": "OhBehave", "client_nonce": b"Nonce"}
        conn.execute(update(tables.accounts).values(columns.seal(conn, tables.accounts, values, device_id=NAME)))
    body = MESSAGE.format(kind=kind, data=data).encode()
    answer = header(DmServer(database, CONFIG).handle(Request(body, DM_XML, None)))
    assert answer.code == code
    if code == 200:
        assert (answer.chal is None) == (kind == AUTH_BASIC)
    assert isinstance(answer.chal, Chal | None)


def test_our_own_credentials_are_the_known_answers_too(database: Engine) -> None:
    for kind, data in ((AUTH_MD5, DIGEST), (AUTH_BASIC, BASIC)):
        device = other(database, kind)
        with database.begin() as conn:
            values = {"server_name": "Bruce2", "server_secret": "OhBehave", "server_nonce": b"Nonce"}
            conn.execute(update(tables.accounts).values(columns.seal(conn, tables.accounts, values, device_id=NAME)))
        answer = device.server.handle(device.request(device.begin()))
        hdr = decode(answer.body, answer.content_type).hdr
        assert hdr.cred == Cred(data, kind)
        assert hdr.source_name == "Bruce2"
