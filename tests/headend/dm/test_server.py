"""The DM server over its database: who is believed, nonces, repetition, restarts, alerts stored once."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, update

from headend.dm import accounts, tables
from headend.dm.authentication import Authenticator
from headend.dm.jobs import queue
from headend.dm.server import SESSION_IDLE_S, Answer, DmServer, Request, ServerConfig
from headend.dm.session_store import VALUE_MAX, SessionStore
from omadm.auth import hmac_header
from omadm.bootstrap import Account
from omadm.schemes import Schemes
from omadm.server_time import time_in
from omadm.syncml.codec import DM_WBXML, DM_XML, decode, encode
from omadm.syncml.messages import Alert, Command, Get, Item, Meta, Replace, Status, SyncML
from tests.headend.dm_device import Device, Tree, alert
from tests.omadm.syncml.samples import Generator

DEVICE = "urn:dcu:KR-000001"
CONFIG = ServerConfig("headend", "https://headend/dm")


@pytest.fixture
def account(engine: Engine) -> Account:
    with engine.begin() as conn:
        return accounts.create(conn, DEVICE, server_id=CONFIG.server_id, url=CONFIG.url)


@pytest.fixture
def device(engine: Engine, account: Account) -> Device:
    return Device(DmServer(engine, CONFIG), account)


def rows(engine: Engine, table: Any) -> list[Any]:
    with engine.begin() as conn:
        return list(conn.execute(select(table)))


def header(answer: Answer) -> Status:
    return next(s for s in decode(answer.body, answer.content_type).of(Status) if s.cmd_ref == "0")


def wrong(device: Device) -> Device:
    """The same device with a nonce it should not have."""
    return Device(device.server, replace(device.account, client_nonce=b"wrong"), device.tree)


def push_url_of(engine: Engine) -> str:
    (row,) = rows(engine, tables.accounts)
    return str(row.push_url)


def told(device: Device, url: str) -> list[Command]:
    item = Item(source="./DevInfo/Ext/PushURL", meta=Meta(format="chr"), data=url)
    return [*device.begin(), Replace("", (item,))]


# -- one session -------------------------------------------------------------------------------------


def test_a_session_without_jobs_is_two_messages_and_noted(engine: Engine, device: Device) -> None:
    (answer,) = device.session()
    assert [(s.cmd, s.code) for s in answer.of(Status)] == [("SyncHdr", 200), ("Alert", 200), ("Replace", 200)]
    assert answer.final
    (session,) = rows(engine, tables.sessions)
    assert (session.state, session.trigger, session.messages, session.commands) == ("done", 1201, 1, 0)
    (value,) = rows(engine, tables.values)
    assert (value.uri, value.value, value.format) == ("./DevInfo/Man", "KETI", "chr")


@pytest.mark.parametrize("content_type", [DM_XML, DM_WBXML, "application/vnd.syncml+wbxml"])
def test_the_answer_speaks_the_encoding_of_the_request(device: Device, content_type: str) -> None:
    device.content_type = content_type
    assert device.server.handle(device.request(device.begin())).content_type == content_type


def test_every_answer_brings_a_new_nonce_and_sessions_follow_on_one_another(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./A": "1"})
    seen = {device.account.client_nonce}
    for _ in range(3):
        with engine.begin() as conn:
            queue.enqueue(conn, DEVICE, "get", {"paths": ["./A"]})
        device.session()
        assert device.account.client_nonce not in seen
        seen.add(device.account.client_nonce)
    assert [s.state for s in rows(engine, tables.sessions)] == ["done"] * 3


def test_nonces_survive_a_restart_of_the_server(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./A": "1"})
    with engine.begin() as conn:
        queue.enqueue(conn, DEVICE, "get", {"paths": ["./A"]})
    device.session()
    device.server = DmServer(engine, CONFIG)
    assert device.session()[0].commands[0] == replace(header_of(device.answers[-1]), code=200)


def header_of(message: SyncML) -> Status:
    return next(s for s in message.of(Status) if s.cmd_ref == "0")


# -- who is believed ---------------------------------------------------------------------------------


def test_a_lost_nonce_is_repaired_by_one_challenge(engine: Engine, device: Device) -> None:
    lost = wrong(device)
    refusal = lost.take(lost.server.handle(lost.request(lost.begin())))
    assert {s.code for s in refusal.of(Status)} == {401}
    assert len(list(refusal.of(Status))) == 3
    assert rows(engine, tables.sessions) == []
    again: list[Command] = [lost.header_status(refusal), Alert("", 1201)]
    assert header_of(lost.take(lost.server.handle(lost.request(again)))).code == 200


def test_a_device_that_sends_no_credentials_is_answered_407(device: Device) -> None:
    request = replace(device.request(device.begin()), mac=None)
    assert header(device.server.handle(request)).code == 407


def test_the_second_refusal_brings_no_further_challenge(device: Device) -> None:
    stranger = wrong(device)
    assert header(stranger.server.handle(stranger.request(stranger.begin()))).chal is not None
    assert header(stranger.server.handle(stranger.request([Alert("", 1201)]))).chal is None


@pytest.mark.parametrize("messages", [1, 2, 3])
def test_a_stranger_with_the_same_session_id_does_not_end_a_challenge(device: Device, messages: int) -> None:
    lost = wrong(device)
    refusal = lost.take(lost.server.handle(lost.request(lost.begin(), session="7")))
    again: list[Command] = [lost.header_status(refusal), Alert("", 1201)]
    stranger = wrong(device)
    for _ in range(messages):
        assert header(stranger.server.handle(stranger.request(stranger.begin(), session="7"))).code == 401
    assert header_of(lost.take(lost.server.handle(lost.request(again, session="7")))).code == 200


def test_the_nonce_of_a_challenge_is_good_for_one_message(device: Device) -> None:
    lost = wrong(device)
    refusal = lost.take(lost.server.handle(lost.request(lost.begin(), session="7")))
    again: list[Command] = [lost.header_status(refusal), Alert("", 1201)]
    late = Device(lost.server, lost.account)
    lost.take(lost.server.handle(lost.request(again, session="7")))
    assert header(late.server.handle(late.request([Alert("", 1201)], session="7"))).code == 401


def test_a_stranger_changes_neither_the_account_nor_an_open_session(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./A": "1"})
    with engine.begin() as conn:
        number = queue.enqueue(conn, DEVICE, "get", {"paths": ["./A"]})
    message = device.take(device.server.handle(device.request(device.begin())))
    before = rows(engine, tables.accounts)
    stranger = wrong(device)
    for session in ("1", "77"):
        request = stranger.request([Alert("", 1223)], session=session)
        assert header(stranger.server.handle(request)).code == 401
    assert rows(engine, tables.accounts) == before
    commands, final = device.reply(message)
    device.take(device.server.handle(device.request(commands, final=final)))
    with engine.begin() as conn:
        shown = queue.show(conn, number)
    assert shown is not None
    assert shown["state"] == "done"


def test_a_push_url_is_taken_from_the_device_itself_only(engine: Engine, device: Device) -> None:
    good = "http://192.0.2.7:8030/push"
    stranger = wrong(device)
    stranger.server.handle(stranger.request(told(stranger, "http://198.51.100.1/push")))
    assert push_url_of(engine) == ""
    device.take(device.server.handle(device.request(told(device, good))))
    assert push_url_of(engine) == good


@pytest.mark.parametrize(
    "url",
    [
        "ftp://192.0.2.7/push",
        "file:///etc/passwd",
        "192.0.2.7:8030",
        "http://",
        "http://:80/push",
        "http://user:secret@192.0.2.7/",
        "http://192.0.2.7:99999/",
        "http://192.0.2.7:0/",
        "http://[::1/push",
        "http://a b/",
        "http://a/\u00e9",
        "http://a/" + "x" * 255,
    ],
)
def test_a_push_url_that_is_none_leaves_the_one_before(engine: Engine, device: Device, url: str) -> None:
    good = "https://[2001:db8::7]/push"
    device.take(device.server.handle(device.request(told(device, good))))
    device.take(device.server.handle(device.request(told(device, url))))
    assert push_url_of(engine) == good


def test_commands_of_a_stranger_are_not_stored(engine: Engine, device: Device) -> None:
    stranger = wrong(device)
    stranger.alerts = [alert("c", "<ResultCode>200</ResultCode>")]
    stranger.server.handle(stranger.request(stranger.begin()))
    assert rows(engine, tables.alerts) == []
    assert rows(engine, tables.values) == []


def test_an_unknown_device_gets_the_answer_that_a_wrong_one_gets(device: Device) -> None:
    unknown = Device(device.server, replace(device.account, client_name="urn:dcu:nobody"))
    for stranger in (unknown, wrong(device)):
        for code_only in (False, True):
            commands = [Alert("", 1201)] if code_only else stranger.begin()
            answer = stranger.server.handle(stranger.request(commands))
            message = decode(answer.body, answer.content_type)
            assert {s.code for s in message.of(Status)} == {401}
            assert (header_of(message).chal is None) is code_only
            assert answer.mac is not None
            assert answer.mac.startswith('algorithm=SHA-256, username="headend", mac=')


def test_md5_is_off_unless_configured(engine: Engine, account: Account) -> None:
    for algorithms, code in ((("SHA-256",), 401), (("MD5", "SHA-256"), 200)):
        device = Device(DmServer(engine, replace(CONFIG, algorithms=algorithms)), account)
        request = device.request(device.begin())
        mac = hmac_header(request.body, account.client_name, account.client_secret, account.client_nonce, "MD5")
        assert header(device.server.handle(replace(request, mac=mac))).code == code


def test_a_device_that_does_not_believe_us_hears_it_again_once(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./A": "1"})
    device.alerts = [alert("c", "<ResultCode>1</ResultCode>")]
    with engine.begin() as conn:
        number = queue.enqueue(conn, DEVICE, "get", {"paths": ["./A"]})
    message = device.take(device.server.handle(device.request(device.begin())))
    refused = [device.header_status(message, 401), Status("", "1", "5", "Get", 401)]
    repeated = device.take(device.server.handle(device.request(refused)))
    assert [s.cmd for s in repeated.of(Status)] == ["SyncHdr", "Alert", "Replace", "Alert"]
    assert len(list(repeated.of(Get))) == 1
    commands, final = device.reply(repeated)
    device.take(device.server.handle(device.request(commands, final=final)))
    with engine.begin() as conn:
        shown = queue.show(conn, number)
    assert shown is not None
    assert shown["state"] == "done"


def test_a_device_that_never_believes_us_ends_the_session(engine: Engine, device: Device) -> None:
    with engine.begin() as conn:
        queue.enqueue(conn, DEVICE, "get", {"paths": ["./A"]})
    message = device.take(device.server.handle(device.request(device.begin())))
    for _ in range(2):
        message = device.take(device.server.handle(device.request([device.header_status(message, 401)])))
    assert list(message.of(Get)) == []
    assert rows(engine, tables.sessions)[0].state == "failed"
    assert rows(engine, tables.jobs)[0].state == "queued"


def test_a_new_registration_ends_the_old_secrets(engine: Engine, device: Device) -> None:
    device.session()
    with engine.begin() as conn:
        fresh = accounts.create(conn, DEVICE, server_id=CONFIG.server_id, url=CONFIG.url)
    assert header(device.server.handle(device.request(device.begin()))).code == 401
    Device(device.server, fresh).session()


# -- repetition and breakage -------------------------------------------------------------------------


def test_a_repeated_request_gets_the_same_answer_and_is_not_executed_again(engine: Engine, device: Device) -> None:
    device.alerts = [Alert("", 1224, (Item(data="event"),)), alert(None, "no correlator")]
    request = device.request(device.begin())
    first = device.server.handle(request)
    assert device.server.handle(request) == first
    assert DmServer(engine, CONFIG).handle(request) == first
    assert len(rows(engine, tables.alerts)) == 2
    assert len(rows(engine, tables.sessions)) == 1


def test_a_correlated_alert_is_stored_once_however_many_sessions_bring_it(engine: Engine, device: Device) -> None:
    device.alerts = [alert("c1", "<ResultCode>200</ResultCode>"), alert("c2", "<ResultCode>200</ResultCode>")]
    for _ in range(3):
        device.session()
    stored = rows(engine, tables.alerts)
    assert [(a.correlator, a.result_code, a.type) for a in stored] == [
        ("c1", 200, "org.example.alert"),
        ("c2", 200, "org.example.alert"),
    ]


def test_alerts_without_correlator_are_separate_events_in_separate_sessions(engine: Engine, device: Device) -> None:
    device.alerts = [alert(None, "battery")]
    device.session()
    device.session()
    assert len(rows(engine, tables.alerts)) == 2


def test_the_prefix_some_devices_put_before_the_type_is_dropped(engine: Engine, device: Device) -> None:
    device.alerts = [alert("c", "200", kind="Reversed-Domain-Name: org.example.alert")]
    device.session()
    (stored,) = rows(engine, tables.alerts)
    assert (stored.type, stored.result_code) == ("org.example.alert", 200)


def test_a_session_goes_on_after_a_restart_in_a_new_one(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./A": "1"})
    with engine.begin() as conn:
        number = queue.enqueue(conn, DEVICE, "get", {"paths": ["./A"]})
    message = device.take(device.server.handle(device.request(device.begin())))
    device.server = DmServer(engine, CONFIG)
    while any(message.of(Get)):
        commands, final = device.reply(message)
        message = device.take(device.server.handle(device.request(commands, final=final)))
    assert [s.state for s in rows(engine, tables.sessions)] == ["lost", "done"]
    with engine.begin() as conn:
        shown = queue.show(conn, number)
    assert shown is not None
    assert shown["state"] == "done"


@pytest.mark.parametrize(("pause_s", "states"), [(SESSION_IDLE_S - 1, ["done"]), (SESSION_IDLE_S, ["lost", "done"])])
def test_a_session_is_over_after_15_minutes_without_a_message(
    engine: Engine, device: Device, pause_s: float, states: list[str]
) -> None:
    now = 1000.0
    device.server = DmServer(engine, CONFIG, monotonic=lambda: now)
    device.tree = Tree({"./A": "1"})
    with engine.begin() as conn:
        queue.enqueue(conn, DEVICE, "get", {"paths": ["./A"]})
    message = device.take(device.server.handle(device.request(device.begin())))
    now += pause_s
    while any(message.of(Get)):
        commands, final = device.reply(message)
        message = device.take(device.server.handle(device.request(commands, final=final)))
    assert [s.state for s in rows(engine, tables.sessions)] == states
    assert SESSION_IDLE_S == 15 * 60


def test_when_the_commit_fails_nothing_happened_and_the_same_request_works_later(
    engine: Engine, device: Device
) -> None:
    device.tree = Tree({"./A": "1"})
    with engine.begin() as conn:
        number = queue.enqueue(conn, DEVICE, "get", {"paths": ["./A"]})
    message = device.take(device.server.handle(device.request(device.begin())))
    commands, final = device.reply(message)
    request = device.request(commands, final=final)

    def fail(_: object) -> None:
        raise OSError("the disk is full")

    event.listen(engine, "commit", fail)
    with pytest.raises(OSError, match="disk is full"):
        device.server.handle(request)
    event.remove(engine, "commit", fail)
    message = device.take(device.server.handle(request))
    while any(message.of(Get)):
        commands, final = device.reply(message)
        message = device.take(device.server.handle(device.request(commands, final=final)))
    with engine.begin() as conn:
        shown = queue.show(conn, number)
    assert shown is not None
    assert shown["state"] == "done"


def test_an_aborted_session_gives_its_job_back(engine: Engine, device: Device) -> None:
    with engine.begin() as conn:
        queue.enqueue(conn, DEVICE, "get", {"paths": ["./A"]})
    message = device.take(device.server.handle(device.request(device.begin())))
    device.take(device.server.handle(device.request([device.header_status(message), Alert("", 1223)])))
    assert rows(engine, tables.sessions)[0].state == "aborted"
    assert rows(engine, tables.jobs)[0].state == "queued"


# -- the write lock ---------------------------------------------------------------------------------


def test_strangers_are_answered_while_somebody_else_writes(engine: Engine, device: Device) -> None:
    stranger = wrong(device)
    nobody = Device(device.server, replace(device.account, client_name="urn:dcu:NOBODY"))
    with engine.begin() as writing:
        writing.execute(tables.values.delete())
        for one in (stranger, nobody):
            assert header(one.server.handle(one.request(one.begin()))).code == 401
        repeated = device.request(device.begin())
        assert header(device.server.handle(replace(repeated, mac=None))).code == 407
        unreadable = replace(stranger.request(stranger.begin()), body=b"nothing")
        assert device.server.handle(unreadable).status == 400


def test_an_account_that_changes_between_the_look_and_the_work_is_not_believed(engine: Engine, device: Device) -> None:
    class Slow(Authenticator):
        def check(self, *arguments: Any) -> Any:
            believed = super().check(*arguments)
            with engine.begin() as conn:
                accounts.create(conn, DEVICE, server_id=CONFIG.server_id, url=CONFIG.url)
            return believed

    request = device.request(device.begin())
    device.server._authenticator = Slow(Schemes.with_mac(CONFIG.algorithms))
    assert header(device.server.handle(request)).code == 401
    assert rows(engine, tables.sessions) == []


# -- what is not a message ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (Request(b"", "text/html", None), 415),
        (Request(b"", DM_WBXML, None), 400),
        (Request(b"<SyncML/>", DM_XML, None), 400),
        (Request(b"x" * (1 << 21), DM_XML, None), 413),
    ],
)
def test_what_is_no_message_is_refused_with_an_http_status(device: Device, request_: Request, status: int) -> None:
    answer = device.server.handle(request_)
    assert answer.status == status
    assert answer.mac is None


def test_a_source_that_is_too_long_is_refused(device: Device) -> None:
    device.account = replace(device.account, client_name="x" * 256)
    assert device.server.handle(device.request(device.begin())).status == 400


def test_text_that_no_answer_can_repeat_is_refused_and_stores_nothing(engine: Engine, device: Device) -> None:
    device.alerts = [alert("c", "x", source="./NUL")]
    request = device.request(device.begin())
    body = request.body.replace(b"\x03./NUL\x00", b"\xc3\x05./\x00UL")
    a = device.account
    mac = hmac_header(body, a.client_name, a.client_secret, a.client_nonce)
    message = device.take(device.server.handle(Request(body, DM_WBXML, mac)))
    assert [status.code for status in message.of(Status)] == [200, 200, 200, 200]
    (kept,) = rows(engine, tables.alerts)
    assert kept.source == "./\0UL"


# -- what cannot be read -----------------------------------------------------------------------------


def signed(device: Device, body: bytes, content_type: str = DM_XML) -> Request:
    a = device.account
    return Request(body, content_type, hmac_header(body, a.client_name, a.client_secret, a.client_nonce))


def answer_badly(device: Device, how: bytes) -> SyncML:
    """Begin a session, and damage the answer to the server's first command."""
    device.content_type = DM_XML
    message = device.take(device.server.handle(device.request(device.begin())))
    commands, final = device.reply(message)
    request = device.request(commands, final=final)
    old, new = how.split(b" -> ")
    assert old in request.body
    return device.take(device.server.handle(signed(device, request.body.replace(old, new))))


@pytest.mark.parametrize(
    "how",
    [
        b"<Data>poison</Data> -> <Data><a/></Data>",
        b"chr</Format> -> chr</Format><Size>big</Size>",
        b"<Cmd>Get</Cmd> -> <Cmd>Get</Cmd><Data>OK</Data>",
    ],
)
def test_one_bad_value_costs_one_job_and_the_next_runs_in_the_same_session(
    engine: Engine, device: Device, how: bytes
) -> None:
    device.tree = Tree({"./Bad": "poison", "./Good": "1"})
    with engine.begin() as conn:
        bad, good = (queue.enqueue(conn, DEVICE, "get", {"paths": [path]}) for path in ("./Bad", "./Good"))
    message = answer_badly(device, how)
    while any(not isinstance(c, Status) for c in message.commands):
        commands, final = device.reply(message)
        message = device.take(device.server.handle(device.request(commands, final=final)))
    found = {row.id: row for row in rows(engine, tables.jobs)}
    assert (found[bad].state, found[bad].attempts) == ("failed", 1)
    assert found[bad].result["refused"] == {"./Bad": None}
    assert found[good].state == "done"


def test_a_job_whose_answers_cannot_be_read_fails_after_three_and_the_next_one_runs(
    engine: Engine, device: Device
) -> None:
    device.tree = Tree({"./Bad": "poison", "./Good": "1"})
    with engine.begin() as conn:
        bad, good = (queue.enqueue(conn, DEVICE, "get", {"paths": [path]}) for path in ("./Bad", "./Good"))
    for _ in range(3):
        device.take(device.server.handle(device.request(device.begin())))
        assert device.server.handle(signed(device, b"<SyncML><SyncHdr>", DM_XML)).status == 400
    found = {row.id: row for row in rows(engine, tables.jobs)}
    assert (found[bad].state, found[good].state) == ("failed", "queued")
    assert "cannot be read, 3 times" in found[bad].result["error"]
    device.session()
    assert {row.id: row.state for row in rows(engine, tables.jobs)}[good] == "done"


def test_junk_in_the_name_of_a_device_counts_against_no_job(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./A": "1"})
    with engine.begin() as conn:
        queue.enqueue(conn, DEVICE, "get", {"paths": ["./A"]})
    message = device.take(device.server.handle(device.request(device.begin())))
    for _ in range(5):
        request = signed(wrong(device), b"<SyncML>", DM_XML)
        assert device.server.handle(request).status == 400
    commands, final = device.reply(message)
    device.take(device.server.handle(device.request(commands, final=final)))
    (row,) = rows(engine, tables.jobs)
    assert (row.state, row.attempts) == ("done", 1)


def test_a_job_that_keeps_breaking_sessions_lets_the_others_go_first(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./Bad": "1", "./Good": "1"})
    with engine.begin() as conn:
        bad, good = (queue.enqueue(conn, DEVICE, "get", {"paths": [path]}) for path in ("./Bad", "./Good"))
    for _ in range(queue.PATIENCE):
        device.take(device.server.handle(device.request(device.begin())))  # and the device says no more
    message = device.take(device.server.handle(device.request(device.begin())))
    commands, final = device.reply(message)
    device.take(device.server.handle(device.request(commands, final=final)))
    states = {row.id: row.state for row in rows(engine, tables.jobs)}
    assert (states[good], states[bad]) == ("done", "running")


@pytest.mark.parametrize(
    ("order", "path", "state"),
    [
        ("keys", "./AMI/Access/EncKey", "failed"),
        ("keys", "./AMI/Uplink/URL", "queued"),
        ("ping", "./AMI/Access/EncKey", "queued"),
    ],
)
def test_an_order_of_keys_is_not_overtaken_by_other_keys(
    engine: Engine, device: Device, order: str, path: str, state: str
) -> None:
    assert device.account
    parameters = {"wrapped": {"unicast": "00" * 24}} if order == "keys" else {}
    with engine.begin() as conn:
        first = queue.enqueue(conn, DEVICE, "order", {"order": order, "meters": ["KEP1"], "parameters": parameters})
        later = queue.enqueue(conn, DEVICE, "provision", {"nodes": [{"path": path, "value": "11" * 16}]})
        conn.execute(update(tables.jobs).where(tables.jobs.c.id == first).values(attempts=queue.PATIENCE))
        job = queue.next_for(conn, DEVICE, 1000.0)
    assert job is not None
    found = {row.id: row for row in rows(engine, tables.jobs)}
    assert (job.id, found[first].state) == (later, state)
    assert state != "failed" or found[first].result["error"].startswith(f"job {later} writes keys")


def test_a_constant_session_id_and_a_challenge_at_the_beginning_do_not_join_two_sessions(
    engine: Engine, device: Device
) -> None:
    device.tree = Tree({"./A": "1"})
    with engine.begin() as conn:
        number = queue.enqueue(conn, DEVICE, "get", {"paths": ["./A"]})
    device.take(device.server.handle(device.request(device.begin(), session="7")))
    again = device.begin()
    lost = replace(device.account, client_nonce=b"lost")
    device.account, kept = lost, device.account
    device.take(device.server.handle(device.request(again, session="7")))  # challenged, with a new nonce
    assert kept.client_nonce != device.account.client_nonce
    message = device.take(device.server.handle(device.request(again, session="7")))
    commands, final = device.reply(message)
    device.take(device.server.handle(device.request(commands, final=final, session="7")))
    (row,) = (row for row in rows(engine, tables.jobs) if row.id == number)
    assert (row.state, row.attempts, row.result) == ("done", 2, {"values": 1})
    assert [row.state for row in rows(engine, tables.sessions)] == ["lost", "done"]


@pytest.mark.parametrize("content_type", [DM_XML, DM_WBXML])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.slow
def test_a_believed_device_that_talks_nonsense_gets_answers_and_breaks_nothing(
    engine: Engine, device: Device, seed: int, content_type: str
) -> None:
    """Random messages, some damaged, all with a good MAC: HTTP 200 or 400, never an exception."""
    pick, talk = random.Random(seed), Generator(seed)
    with engine.begin() as conn:
        queue.enqueue(conn, DEVICE, "get", {"paths": ["./A"]})
    for number in range(12):
        message = talk.message()
        status = Status("1", str(number), "0", "SyncHdr", pick.choice([200, 212, 401, 500]))
        hdr = replace(message.hdr, source=DEVICE, session_id=pick.choice(["1", "2"]), msg_id=number)
        commands = tuple(replace(c, cmd_id=pick.choice(["1", "2", c.cmd_id])) for c in message.commands)
        body = bytearray(encode(replace(message, hdr=hdr, commands=(status, *commands)), content_type))
        if pick.random() < 0.5:
            at = pick.randrange(len(body))
            body[at : at + 1] = pick.randbytes(pick.randrange(3))
        with engine.begin() as conn:
            row = accounts.load(conn, DEVICE)
        assert row is not None
        a = accounts.from_row(row)
        mac = hmac_header(bytes(body), a.client_name, a.client_secret, a.client_nonce)
        assert device.server.handle(Request(bytes(body), content_type, mac)).status in (200, 400)


def form(pattern: bytes, wanted: bytes) -> Callable[[bytes], bytes]:
    return lambda body: re.sub(pattern, wanted, body)


@pytest.mark.parametrize(
    "rewrite",
    [
        form(rb"<MsgID>(\d+)</MsgID>", rb"<MsgID>message \1</MsgID>"),
        form(rb"<MsgID>(\d+)</MsgID>", rb"<MsgID>00\1</MsgID>"),
        form(rb"<MaxMsgSize>\d+</MaxMsgSize>", b"<MaxMsgSize>plenty</MaxMsgSize>"),
        form(rb"<SessionID>(\d+)</SessionID>", rb"<SessionID>8b7c8f0e-session-\1</SessionID>"),
    ],
    ids=["MsgID no number", "MsgID with zeros", "MaxMsgSize no number", "SessionID long"],
)
def test_a_header_of_another_form_costs_no_job(
    engine: Engine, device: Device, rewrite: Callable[[bytes], bytes]
) -> None:
    device.content_type, device.max_msg_size, device.rewrite = DM_XML, 4096, rewrite
    device.tree.nodes |= {"./A": "1", "./B": "2"}
    with engine.begin() as conn:
        for name in ("./A", "./B"):
            queue.enqueue(conn, DEVICE, "get", {"paths": [name]})
    device.session()
    assert [(row.state, row.attempts) for row in rows(engine, tables.jobs)] == [("done", 1), ("done", 1)]
    assert {row.uri: row.value for row in rows(engine, tables.values)} == {
        "./A": "1", "./B": "2", "./DevInfo/Man": "KETI"
    }  # fmt: skip
    assert [row.state for row in rows(engine, tables.sessions)] == ["done"]


def test_a_value_that_cannot_be_kept_is_named_in_the_result(engine: Engine, device: Device) -> None:
    deep = "./A/" + "x" * 260
    device.tree.nodes |= {"./A": None, deep: "1", "./A/b": "2"}
    with engine.begin() as conn:
        queue.enqueue(conn, DEVICE, "get", {"paths": ["./A"]})
    device.session()
    (row,) = rows(engine, tables.jobs)
    assert (row.state, row.result["values"]) == ("failed", 1)
    assert row.result["error"] == "some values came, but could not be kept"
    assert row.result["not_kept"] == {deep[:255]: "its name has 264 characters, 1 to 255 can be kept"}
    assert "./A/b" in {one.uri for one in rows(engine, tables.values)}


def test_a_value_that_is_too_long_is_named_too(engine: Engine, account: Account) -> None:
    with engine.begin() as conn:
        store = SessionStore(conn, account.client_name, 1, 0.0)
        assert "1048577 octets or characters" in store.value_seen("./A", Item(data="x" * (VALUE_MAX + 1)))
        assert store.value_seen("./A", Item(meta=Meta(format="node"), data="a/b")) == ""
    assert rows(engine, tables.values) == []


def test_secrets_stay_out_of_the_log(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    wrong(device).server.handle(wrong(device).request(wrong(device).begin()))
    device.session()
    assert device.account.client_secret not in caplog.text
    assert device.account.server_secret not in caplog.text


def test_every_answer_tells_the_time_under_its_mac_and_a_repeated_one_that_of_the_first(
    engine: Engine, account: Account
) -> None:
    now = [1_800_000_000.25]
    device = Device(DmServer(engine, CONFIG, wall=lambda: now[0]), account)
    request = device.request(device.begin())
    first = device.server.handle(request)
    message = device.take(first)
    assert message.hdr.meta is not None
    assert time_in(message.hdr.meta.emi) == now[0]
    now[0] += 60.0
    assert device.server.handle(request) == first


@pytest.mark.parametrize("auth_type", ["DIGEST", "BASIC"])
def test_credentials_that_protect_no_message_bring_no_time(engine: Engine, auth_type: str) -> None:
    with engine.begin() as conn:
        account = accounts.create(conn, DEVICE, server_id=CONFIG.server_id, url=CONFIG.url, auth_type=auth_type)
    device = Device(DmServer(engine, CONFIG), account)
    answer = device.server.handle(replace(device.request(device.begin()), mac=None))
    meta = decode(answer.body, answer.content_type).hdr.meta
    assert meta is None or meta.emi == ()
