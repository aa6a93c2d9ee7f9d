"""The session core alone, message by message: its table, credentials, packages, acknowledgements and ends."""

from __future__ import annotations

import itertools
from dataclasses import replace
from random import Random

import pytest

from agent.dm.packing import Outgoing
from agent.dm.session import SESSION_S_MAX, Session
from agent.dm.session_events import (
    Acknowledged,
    Answer,
    CommandsReceived,
    Ended,
    Event,
    NoncesChanged,
    OutgoingMessage,
    SessionSettings,
    Unsendable,
)
from agent.dm.session_states import TRANSITIONS, Input, SessionUsageError, State
from agent.tree.alerts import GenericAlert
from omadm.auth import AUTH_BASIC, AUTH_MAC, AUTH_MD5, basic, hmac_header, md5, verify_hmac
from omadm.codes import AlertCode
from omadm.syncml.codec import DM_WBXML, DM_XML, decode, encode
from omadm.syncml.messages import (
    Alert,
    Chal,
    Command,
    Cred,
    Get,
    Item,
    Meta,
    Replace,
    Results,
    Status,
    SyncHdr,
    SyncML,
)
from tests.agent.dm.server import ACCOUNT, DEVICE_ID, SERVER_ID, FakeDmServer, get, number

ENTROPY = Random(3)
ASKS_FOR_MORE = Alert("", AlertCode.NEXT_MESSAGE)


# -- the table ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "given"), list(itertools.product(State, Input)))
def test_every_pair_of_state_and_input_steps_or_is_refused(state: State, given: Input) -> None:
    assert TRANSITIONS.allow(state, given) == ((state, given) in TRANSITIONS.table)
    if TRANSITIONS.allow(state, given):
        assert TRANSITIONS.after(state, given) is TRANSITIONS.table[state, given]
    else:
        with pytest.raises(SessionUsageError):
            TRANSITIONS.after(state, given)


def test_ended_and_failed_are_final_and_every_other_state_can_fail() -> None:
    for state in State:
        ends = state in {State.ENDED, State.FAILED}
        assert TRANSITIONS.allow(state, Input.BROKEN) != ends
        assert any(pair[0] is state for pair in TRANSITIONS.table) != ends


def session(**changes: object) -> Session:
    settings = SessionSettings(
        account=ACCOUNT,
        client_nonce=ACCOUNT.client_nonce,
        server_nonce=ACCOUNT.server_nonce,
        session_id="1A",
        device_id="urn:dcu:TEST-1",
        device_info=(("./DevInfo/Man", "Maker"),),
        content_type=DM_WBXML,
    )
    return Session(replace(settings, **changes), ENTROPY.randbytes)  # type: ignore[arg-type]


def test_verbs_in_the_wrong_state_are_refused_and_change_nothing() -> None:
    one = session()
    with pytest.raises(SessionUsageError):
        one.receive(Answer(200, DM_WBXML, b""), 0.0)
    with pytest.raises(SessionUsageError):
        one.answer([], 0.0)
    one.start(0.0)
    with pytest.raises(SessionUsageError):
        one.start(0.0)
    with pytest.raises(SessionUsageError):
        one.answer([], 0.0)
    assert (one.state, one.messages, events(one)) == (State.WAIT_PACKAGE, 1, [])
    post = one.take_output()
    assert post is not None
    assert decode(post.body, DM_WBXML).hdr.msg_id == 1


def answered(server: FakeDmServer, one: Session, now: float) -> None:
    """One message to the server and its answer back."""
    post = one.take_output()
    assert post is not None
    headers = {"Content-Type": DM_WBXML, "x-syncml-hmac": post.mac or ""}
    got = server.request("POST", post.url, body=post.body, headers=headers)
    one.receive(Answer(got.status, DM_WBXML, got.body, got.headers["x-syncml-hmac"]), now)


def events(one: Session) -> list[Event]:
    found: list[Event] = []
    while (event := one.next_event()) is not None:
        found.append(event)
    return found


def ended(one: Session) -> Ended:
    last = events(one)[-1]
    assert isinstance(last, Ended)
    return last


def test_an_answer_that_comes_too_late_is_not_read() -> None:
    one = session()
    one.start(0.0)
    answered(FakeDmServer([[get("./DevInfo/Man")]]), one, SESSION_S_MAX)
    assert events(one) == [Ended(ok=False, result=f"no end after {SESSION_S_MAX:.0f} seconds")]
    assert one.take_output() is None


def test_replies_that_come_too_late_are_not_sent() -> None:
    one = session()
    one.start(0.0)
    answered(FakeDmServer([[get("./DevInfo/Man")]]), one, 1.0)
    one.answer([], SESSION_S_MAX)
    assert ended(one) == Ended(ok=False, result=f"no end after {SESSION_S_MAX:.0f} seconds")
    assert one.take_output() is None


@pytest.mark.parametrize("content", [[], [get("./DevInfo/Man")]], ids=["before the first message", "while at work"])
def test_a_session_that_is_given_up_says_so_to_both_sides(content: list[Command]) -> None:
    one = session()
    one.start(0.0)
    server = FakeDmServer([content])
    if content:
        answered(server, one, 1.0)
        events(one)
    one.abort(2.0)
    assert events(one) == [Ended(ok=False, result="given up on this side")]
    assert (one.state, one.over()) == (State.FAILED, True)
    post = one.take_output()
    assert post is not None
    goodbye = decode(post.body, DM_WBXML)
    assert [alert.code for alert in goodbye.of(Alert)] == [AlertCode.SESSION_ABORT]
    assert goodbye.final


def test_a_session_that_waits_for_an_answer_is_given_up_in_silence() -> None:
    one = session()
    one.start(0.0)
    assert one.take_output() is not None
    one.abort(1.0)
    assert events(one) == [Ended(ok=False, result="given up on this side")]
    assert one.take_output() is None
    one.abort(2.0)
    assert events(one) == []


def test_secrets_are_in_no_representation() -> None:
    one = session()
    one.start(0.0)
    shown = f"{one._settings!r}{one.take_output()!r}{NoncesChanged(b'abc', b'def')!r}"
    for secret in ("client secret", "server secret", "client nonce", "mac=", "abc", "def"):
        assert secret not in shown


# -- against a server that says what a test wants ------------------------------------------------------------------


class Peer:
    """A server that knows the protocol's credentials and says whatever a test wants."""

    def __init__(self, one: Session) -> None:
        self.one = one
        self.server_nonce = ACCOUNT.server_nonce
        self.client_nonce = ACCOUNT.client_nonce
        self.msg_id = 0
        self.heard = SyncML(SyncHdr("0", 0, "", ""))
        self.post = OutgoingMessage("", "", b"", "")

    def hears(self) -> SyncML:
        """The session's next message; it has to prove itself."""
        post = self.one.take_output()
        assert post is not None
        verify_hmac(post.mac, post.body, ACCOUNT.client_name, ACCOUNT.client_secret, self.client_nonce)
        self.post, self.heard = post, decode(post.body, post.content_type)
        for status in self.heard.of(Status):
            if status.cmd_ref == "0":
                assert status.chal is not None
                assert status.chal.next_nonce is not None
                self.server_nonce = status.chal.next_nonce
        return self.heard

    def header_status(self, code: int = 200, chal: str | None = AUTH_MAC, nonce: bytes | None = b"") -> Status:
        """The status of the header heard last, with the next nonce."""
        if nonce == b"":
            nonce = self.client_nonce = f"nonce {self.msg_id + 1}".encode()
        asked = None if chal is None else Chal(chal, next_nonce=nonce)
        return Status("", str(self.heard.hdr.msg_id), "0", "SyncHdr", code, chal=asked)

    def answer(self, *commands: Command, final: bool = True, proven: bool = True, **header: object) -> Answer:
        self.msg_id += 1
        hdr = SyncHdr("1A", self.msg_id, target="the device", source="the server")
        hdr = replace(hdr, **header)  # type: ignore[arg-type]
        body = encode(SyncML(hdr, tuple(number(commands)), final), DM_WBXML)
        secret = ACCOUNT.server_secret if proven else "another secret"
        return Answer(200, DM_WBXML, body, hmac_header(body, ACCOUNT.server_name, secret, self.server_nonce))

    def says(
        self, *commands: Command, code: int = 200, final: bool = True, proven: bool = True, **header: object
    ) -> list[Event]:
        """A message with that status of the header and those commands; what happens then."""
        status = self.header_status(code)
        self.one.receive(self.answer(status, *commands, final=final, proven=proven, **header), 1.0)
        return events(self.one)

    def status(self, command: Command, code: int = 200) -> Status:
        """The status of a command that was heard."""
        return Status("", str(self.heard.hdr.msg_id), command.cmd_id, type(command).__name__, code)


def begun(**changes: object) -> Peer:
    """A session whose first message was heard."""
    peer = Peer(session(**changes))
    peer.one.start(0.0)
    peer.hears()
    return peer


def replies(peer: Peer, *content: Outgoing) -> SyncML:
    """The answers to the commands last said, and the message that they go out in."""
    peer.one.answer(list(content), 1.0)
    return peer.hears()


def shown(message: SyncML) -> list[tuple[str, object]]:
    """The commands of a message: what they are, and their code."""
    return [(getattr(each, "cmd", type(each).__name__), getattr(each, "code", None)) for each in message.commands]


ALERTS = tuple(GenericAlert(f"id {number}", "type", f"./source/{number}", "x" * 30_000, "c") for number in range(3))


def test_the_first_message_says_who_is_there_and_what_was_not_acknowledged_yet() -> None:
    alerts = (GenericAlert("a", "type/1", "./source", "data", "correlator"), GenericAlert("b", "type/2", "./other", ""))
    peer = begun(alerts=alerts)
    hdr = peer.heard.hdr
    assert (hdr.session_id, hdr.msg_id, hdr.target, hdr.source) == ("1A", 1, ACCOUNT.url, "urn:dcu:TEST-1")
    assert hdr.source_name == ACCOUNT.client_name
    assert hdr.meta == Meta(max_msg_size=65536, max_obj_size=262144)
    started, info, first, second = peer.heard.commands
    assert started == Alert("1", 1201)
    assert isinstance(info, Replace)
    assert [(each.source, each.data) for each in info.items] == [("./DevInfo/Man", "Maker")]
    assert isinstance(first, Alert)
    assert isinstance(second, Alert)
    assert (first.code, first.correlator, first.items) == (1226, "correlator", (alerts[0].item(),))
    assert (second.code, second.correlator) == (1226, None)
    assert peer.heard.final
    assert (peer.post.url, peer.post.content_type, peer.one.messages) == (ACCOUNT.url, DM_WBXML, 1)


def test_a_server_that_wants_nothing_ends_the_session_and_its_nonce_is_kept_for_the_next() -> None:
    peer = begun()
    assert peer.says() == [NoncesChanged(b"nonce 1", ACCOUNT.server_nonce), Ended(ok=True, result="ok")]
    assert peer.one.take_output() is None


def test_commands_are_work_and_the_answers_go_out_behind_the_status_of_the_header() -> None:
    peer = begun()
    nonces, work = peer.says(get("./DevInfo/Man"))
    assert isinstance(work, CommandsReceived)
    assert [type(each) for each in work.message.commands] == [Status, Get]
    assert peer.one.take_output() is None
    message = replies(peer, Status("", "1", "2", "Get", 200))
    assert (message.final, message.hdr.msg_id, message.hdr.meta) == (True, 2, None)
    header, answer = message.commands
    assert isinstance(header, Status)
    assert header.chal is not None
    fresh = header.chal.next_nonce
    assert header == Status(
        "1", "1", "0", "SyncHdr", 200, ("the device",), ("the server",), Chal(AUTH_MAC, next_nonce=fresh)
    )
    assert fresh is not None
    assert len(fresh) == 16
    assert nonces == NoncesChanged(b"nonce 1", fresh)
    assert answer == Status("2", "1", "2", "Get", 200)
    assert peer.one.messages == 2


@pytest.mark.parametrize(
    ("header", "result"),
    [
        ({"session_id": "01a"}, "ok"),
        ({"session_id": "1B"}, "an answer for session 1B, not 1A"),
        ({"msg_id": 0}, "ok"),
        ({"msg_id": 0, "msg_text": "first"}, "ok"),
        ({"ver_proto": "DM/1.3"}, "ok"),
        ({"ver_proto": "SyncML/1.2"}, "protocol 'SyncML/1.2' is not DM 1.x"),
        ({"resp_uri": "https://other.example/"}, "ok"),
        ({"resp_uri": "http://plain.example/"}, "RespURI is no https URL"),
    ],
)
def test_a_header_holds_or_ends_the_session(header: dict[str, object], result: str) -> None:
    last = begun().says(**header)[-1]  # type: ignore[arg-type]
    assert last == Ended(ok=result == "ok", result=result)


def test_a_response_uri_is_where_the_next_messages_go() -> None:
    peer = begun()
    peer.says(get("./DevInfo/Man"), resp_uri="https://other.example/s")
    assert replies(peer).hdr.target == peer.post.url == "https://other.example/s"
    peer.says(get("./DevInfo/Man"))
    replies(peer)
    assert peer.post.url == "https://other.example/s"


def test_messages_of_a_server_that_does_not_number_them_are_taken_in_turn() -> None:
    peer = begun()
    for name in ("b", "a", "a"):
        peer.says(get("./DevInfo/Man"), msg_id=0, msg_text=name)
        (header,) = replies(peer).of(Status)
        assert header.msg_ref == name
    assert peer.says(msg_id=0, msg_text="end")[-1] == Ended(ok=True, result="ok")


def test_a_message_that_was_there_before_ends_the_session() -> None:
    peer = begun()
    peer.says(get("./DevInfo/Man"))
    replies(peer)
    assert peer.says(msg_id=1)[-1] == Ended(ok=False, result="message 1 after message 1")


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (Answer(503, "text/plain", b"later"), "the server answered HTTP 503"),
        (Answer(201, DM_WBXML, b""), "the server answered HTTP 201"),
        (Answer(200, "text/html", b"<p>"), "the server answered with text/html"),
        (Answer(200, DM_WBXML, bytes(65537)), "a message of 65537 bytes, more than 65536"),
        (Answer(200, "", b""), "the server answered with no content type"),
    ],
)
def test_an_answer_that_cannot_be_a_message_ends_the_session(answer: Answer, result: str) -> None:
    one = begun().one
    one.receive(answer, 1.0)
    assert events(one) == [Ended(ok=False, result=result)]
    assert one.take_output() is None


def test_a_message_of_65536_bytes_is_read() -> None:
    one = begun().one
    one.receive(Answer(200, DM_WBXML, bytes(65536)), 1.0)
    assert "cannot be read" in ended(one).result


@pytest.mark.parametrize(
    ("status", "result", "unproven"),
    [
        ({"code": 212}, "ok", False),
        ({"code": 500}, "the server answered our header with 500", False),
        (None, "the server answered our header with nothing", False),
        ({"chal": None}, "the server gave no next nonce", False),
        ({"nonce": bytes(256)}, "ok", False),
        ({"nonce": bytes(257)}, "the server gave no next nonce", False),
        ({"code": 401, "chal": None}, "the server wants another kind of credentials", True),
        ({"code": 401, "chal": "syncml:auth-md5"}, "the server wants another kind of credentials", True),
        ({"code": 401, "nonce": None}, "the server wants another kind of credentials", True),
        ({"code": 401}, None, False),
        ({"code": 407}, None, False),
        ({"code": 401, "chal": "syncml:AUTH-mac"}, None, False),
    ],
)
def test_the_status_of_our_header_decides(status: dict[str, object] | None, result: str | None, unproven: bool) -> None:
    peer = begun()
    said = () if status is None else (peer.header_status(**status),)  # type: ignore[arg-type]
    peer.one.receive(peer.answer(*said), 1.0)
    if result is None:
        assert not peer.one.over()
        assert peer.hears().hdr.msg_id == 2
    else:
        assert ended(peer.one) == Ended(ok=result == "ok", result=result, unproven=unproven)


@pytest.mark.parametrize(("ref", "cmd"), [("0", "Alert"), ("1", "SyncHdr")])
def test_the_status_of_the_header_is_known_by_its_number_or_by_its_name(ref: str, cmd: str) -> None:
    peer = begun()
    status = replace(peer.header_status(), cmd_ref=ref, cmd=cmd)
    other = Status("", "1", "2", "Replace", 500)
    peer.one.receive(peer.answer(other, status), 1.0)
    assert ended(peer.one).ok


def test_nonces_of_a_server_that_then_refuses_are_kept_when_it_proved_itself() -> None:
    assert begun().says(code=500)[0] == NoncesChanged(b"nonce 1", ACCOUNT.server_nonce)
    (only,) = begun().says(session_id="1B")
    assert isinstance(only, Ended)


# -- challenges ----------------------------------------------------------------------------------------------------


def test_after_a_challenge_the_message_goes_out_again_and_a_second_challenge_is_the_end() -> None:
    peer = begun()
    first = peer.heard
    (nonces,) = peer.says(code=401)
    again = peer.hears()
    assert shown(again) == [("SyncHdr", 200), *shown(first)]
    assert (again.final, again.hdr.meta, peer.one.state) == (True, first.hdr.meta, State.WAIT_PACKAGE)
    assert nonces == NoncesChanged(b"nonce 1", peer.server_nonce)
    assert peer.says(code=401)[-1] == Ended(ok=False, result="the server refused our credentials", unproven=True)
    assert peer.one.take_output() is None


@pytest.mark.parametrize("missing", [False, True])
def test_a_message_without_proof_is_challenged_and_nothing_of_it_done_or_believed(missing: bool) -> None:
    peer = begun(alerts=ALERTS[:1])
    status = peer.header_status()
    answer = peer.answer(
        status, peer.status(peer.heard.commands[2]), Results("", "9", ()), get("./DevInfo/Man"), ASKS_FOR_MORE,
        proven=False,
    )  # fmt: skip
    peer.one.receive(replace(answer, mac=None) if missing else answer, 1.0)
    (nonces,) = events(peer.one)
    code = 407 if missing else 401
    message = peer.hears()  # proves itself with the nonce that came, all the same
    assert shown(message) == [("SyncHdr", code), ("Get", code), ("Alert", code)]
    assert [each.cmd_ref for each in message.of(Status)] == ["0", "4", "5"]
    assert (message.final, peer.one.state, message.hdr.meta is not None) == (True, State.WAIT_PACKAGE, True)
    assert nonces == NoncesChanged(ACCOUNT.client_nonce, peer.server_nonce)
    last = peer.says(proven=False)[-1]
    assert last == Ended(
        ok=False, result="the server did not prove itself: credentials that do not match", unproven=True
    )


CHALLENGE, STRANGER, BOTH, GOOD = (
    {"code": 401}, {"proven": False}, {"code": 401, "proven": False}, {"code": 200},
)  # fmt: skip


@pytest.mark.parametrize(
    ("said", "result"),
    [
        ([CHALLENGE, GOOD], "ok"),
        ([STRANGER, GOOD], "ok"),
        ([BOTH, GOOD], "ok"),
        ([STRANGER, CHALLENGE, GOOD], "ok"),
        ([CHALLENGE, STRANGER, GOOD], "ok"),
        ([CHALLENGE, CHALLENGE], "the server refused our credentials"),
        ([CHALLENGE, STRANGER, CHALLENGE], "the server refused our credentials"),
        ([STRANGER, STRANGER], "did not prove itself"),
        ([BOTH, STRANGER], "did not prove itself"),
        ([STRANGER, BOTH], "did not prove itself"),
        ([STRANGER, CHALLENGE, STRANGER], "did not prove itself"),
        ([CHALLENGE, STRANGER, STRANGER], "did not prove itself"),
    ],
)
def test_each_side_may_challenge_once(said: list[dict[str, object]], result: str) -> None:
    peer = begun()
    for each in said[:-1]:
        assert not any(isinstance(event, Ended) for event in peer.says(**each))  # type: ignore[arg-type]
        peer.hears()
    last = peer.says(**said[-1])[-1]  # type: ignore[arg-type]
    assert isinstance(last, Ended)
    assert result in last.result
    assert (last.ok, last.unproven) == (result == "ok", result != "ok")


# -- credentials in messages ---------------------------------------------------------------------------------------


class Plain:
    """A session of an account with other kinds of credentials, whose first message was heard, and its server."""

    def __init__(self, client: str, server: str) -> None:
        self.one = session(account=replace(ACCOUNT, auth_type=client, server_auth_type=server))
        self.one.start(0.0)
        self.hear()

    def hear(self) -> None:
        post = self.one.take_output()
        assert post is not None
        self.heard = decode(post.body, post.content_type)

    def says(self, code: int, chal: Chal | None = None, cred: Cred | None = None) -> SyncML:
        """A command behind that status of our header; returns what is said to it."""
        ref = self.heard.hdr.msg_id
        status = Status("", str(ref), "0", "SyncHdr", code, chal=chal)
        hdr = SyncHdr("1A", ref, target="the device", source="the server", cred=cred)
        body = encode(SyncML(hdr, tuple(number([status, get("./DevInfo/Man")]))), DM_WBXML)
        self.one.receive(Answer(200, DM_WBXML, body), 1.0)
        if self.one.state is State.ANSWERING:
            self.one.answer([], 1.0)
        self.hear()
        return self.heard


FRESH = Chal(AUTH_MD5, next_nonce=b"fresh")


def test_after_a_212_only_a_nonce_or_a_challenge_wants_credentials_again() -> None:
    server = Plain("DIGEST", "TRANSPORT")
    assert server.heard.hdr.cred == Cred(md5(DEVICE_ID, "client secret", b"client nonce 0"), AUTH_MD5)
    fresh = Cred(md5(DEVICE_ID, "client secret", b"fresh"), AUTH_MD5)
    assert server.says(212, FRESH).hdr.cred is None
    assert server.says(200).hdr.cred is None
    assert server.says(200, FRESH).hdr.cred == fresh
    assert server.says(212, FRESH).hdr.cred is None
    assert server.says(401, FRESH).hdr.cred == fresh


def test_a_server_without_nonces_gets_a_challenge_only_where_it_is_not_believed() -> None:
    server = Plain("DIGEST", "BASIC")
    (refused, *_) = server.says(200, FRESH, Cred(basic(SERVER_ID, "another secret"), AUTH_BASIC)).of(Status)
    assert (refused.code, refused.chal) == (401, Chal(AUTH_BASIC))
    (believed, *_) = server.says(200, FRESH, Cred(basic(SERVER_ID, "server secret"), AUTH_BASIC)).of(Status)
    assert (believed.code, believed.chal) == (212, None)


# -- packages over several messages --------------------------------------------------------------------------------


def test_while_the_server_goes_on_the_session_asks_for_more_and_challenges_change_nothing() -> None:
    peer = begun()
    peer.says(get("./DevInfo/Man"), final=False)
    reply = Status("", "1", "2", "Get", 200)
    message = replies(peer, reply)
    expected = [("Get", 200), ("Alert", 1222)]
    assert (sorted(shown(message)), message.final) == (sorted([("SyncHdr", 200), *expected]), False)
    assert peer.one.state is State.WAIT_REST
    peer.says(code=401)
    message = peer.hears()
    assert (shown(message)[1:], message.final, peer.one.state) == (expected, False, State.WAIT_REST)
    peer.says(proven=False)
    message = peer.hears()
    assert (shown(message), message.final, peer.one.state) == ([("SyncHdr", 401)], False, State.WAIT_REST)
    assert [type(event) for event in peer.says()] == [NoncesChanged]
    message = peer.hears()  # the Final of our own package is owed
    assert (shown(message), message.final, peer.one.state) == ([("SyncHdr", 200)], True, State.WAIT_PACKAGE)
    assert peer.says()[-1] == Ended(ok=True, result="ok")


def test_a_server_that_asks_for_more_though_there_is_none_gets_a_status() -> None:
    peer = begun()
    peer.says(ASKS_FOR_MORE, final=False)
    message = peer.hears()
    assert shown(message)[0] == ("SyncHdr", 200)
    assert sorted(shown(message)[1:]) == [("Alert", 200), ("Alert", 1222)]
    assert not message.final
    assert [type(event) for event in peer.says(ASKS_FOR_MORE)] == [NoncesChanged]
    assert peer.hears().final


def test_alerts_that_fill_several_messages_are_acknowledged_each_by_its_own_status() -> None:
    peer = begun(alerts=ALERTS)
    found: list[str] = []
    for final in (False, True):
        assert peer.heard.final == final
        assert len(peer.post.body) <= 65536
        assert peer.one.state is (State.WAIT_PACKAGE if final else State.WAIT_NEXT)
        generic = [each for each in peer.heard.of(Alert) if each.code == AlertCode.GENERIC]
        sources = [each.items[0].source for each in generic]
        more = () if final else (ASKS_FOR_MORE,)
        got = peer.says(*(peer.status(each) for each in generic), *more, final=final)
        names = [event.alert_id for event in got if isinstance(event, Acknowledged)]
        assert sources == [f"./source/{name[-1]}" for name in names]
        found += names
        if not final:
            assert shown(peer.hears())[:2] == [("SyncHdr", 200), ("Alert", 200)]
        else:
            assert got[-1] == Ended(ok=True, result="ok")
    assert found == ["id 0", "id 1", "id 2"]


def test_alerts_after_one_that_cannot_be_written_are_acknowledged_each_by_its_own_status() -> None:
    bad = GenericAlert("bad", "type", "./\x01", "")
    peer = begun(alerts=(bad, *(replace(each, data="") for each in ALERTS[:2])), content_type=DM_XML)
    *_, first, second = peer.heard.commands
    got = peer.says(peer.status(second), peer.status(first))
    assert [event.alert_id for event in got if isinstance(event, Acknowledged)] == ["id 1", "id 0"]


@pytest.mark.parametrize(("content_type", "data"), [(DM_XML, "a\x01b"), (DM_WBXML, "a\0b"), (DM_XML, "a\0b")])
def test_an_alert_whose_text_has_no_form_in_the_encoding_goes_as_base64(content_type: str, data: str) -> None:
    peer = begun(alerts=(replace(ALERTS[0], data=data),), content_type=content_type)
    *_, alert = peer.heard.of(Alert)
    assert alert.items[0].data == data.encode()
    got = peer.says(peer.status(alert))
    assert [event for event in got if isinstance(event, Acknowledged)] == [Acknowledged("id 0")]


def test_an_alert_that_cannot_be_written_at_all_is_said() -> None:
    one = session(alerts=(replace(ALERTS[0], source="./\x01"),), content_type=DM_XML)
    one.start(0.0)
    assert events(one) == [Unsendable("Alert: not to be written in this encoding")]


def test_what_cannot_be_written_is_said_once() -> None:
    peer = begun(alerts=(replace(ALERTS[0], source="./\x01"),), content_type=DM_XML)
    events(peer.one)
    peer.says(get("./DevInfo/Man"))
    replies(peer)
    assert events(peer.one) == []


def test_two_alerts_that_say_the_same_are_acknowledged_one_by_one() -> None:
    peer = begun(alerts=(replace(ALERTS[0], data=""), replace(ALERTS[0], data="", id="twin")))
    *_, first, second = peer.heard.commands
    got = peer.says(peer.status(first), peer.status(second))
    assert [event.alert_id for event in got if isinstance(event, Acknowledged)] == ["id 0", "twin"]


def test_an_alert_is_acknowledged_once_and_only_by_a_status_of_success() -> None:
    peer = begun(alerts=tuple(replace(each, data="") for each in ALERTS))
    _, _, first, second, third = peer.heard.commands
    said = [peer.status(first), peer.status(first), peer.status(second, 500), peer.status(replace(third, cmd_id="77"))]
    got = peer.says(*said, get("./DevInfo/Man"))
    assert [event for event in got if isinstance(event, Acknowledged)] == [Acknowledged("id 0")]
    peer.one.answer([], 1.0)
    first_ref = peer.status(third)  # of the first message
    peer.hears()
    got = peer.says(first_ref)
    assert [event for event in got if isinstance(event, Acknowledged)] == [Acknowledged("id 2")]


def test_after_a_challenge_an_alert_is_acknowledged_by_the_status_of_either_message() -> None:
    peer = begun(alerts=ALERTS[:1])
    before = peer.status(peer.heard.commands[2])
    peer.says(code=401)
    after = peer.status(peer.hears().commands[3])
    assert (before.msg_ref, before.cmd_ref, after.msg_ref, after.cmd_ref) == ("1", "3", "2", "4")
    got = peer.says(after)
    assert [event for event in got if isinstance(event, Acknowledged)] == [Acknowledged("id 0")]


@pytest.mark.parametrize(
    ("commands", "final", "goes_on"),
    [
        ([ASKS_FOR_MORE], False, True),
        ([ASKS_FOR_MORE], True, True),
        ([], True, True),
        ([], False, False),
        ([get("./DevInfo/Man")], True, False),
        ([ASKS_FOR_MORE, get("./DevInfo/Man")], False, False),
        ([ASKS_FOR_MORE, get("./DevInfo/Man")], True, False),
    ],
)
def test_while_our_package_goes_on_the_server_may_only_ask_for_more(
    commands: list[Command], final: bool, goes_on: bool
) -> None:
    peer = begun(alerts=ALERTS[:2] + ALERTS[:2])
    assert peer.one.state is State.WAIT_NEXT
    got = peer.says(*commands, final=final)
    if goes_on:
        assert [type(event) for event in got] == [NoncesChanged]
        assert [code for _, code in shown(peer.hears())].count(1226) > 0
    else:
        sentence = "the server sent commands while it still waits for answers"
        assert got[-1] == Ended(ok=False, result=sentence)
        assert not any(isinstance(event, CommandsReceived) for event in got)


def test_a_part_of_a_package_that_is_challenged_goes_out_again_as_a_part() -> None:
    peer = begun(alerts=ALERTS)
    part = peer.heard
    peer.says(code=401)
    again = peer.hears()
    assert (shown(again)[1:], again.final, peer.one.state) == (shown(part), False, State.WAIT_NEXT)


def test_an_abort_by_the_server_ends_the_session_before_anything_else_is_done() -> None:
    peer = begun()
    got = peer.says(get("./DevInfo/Man"), Alert("", AlertCode.SESSION_ABORT))
    assert got[1:] == [Ended(ok=False, result="the server aborted the session")]
    assert (peer.one.over(), peer.one.take_output(), peer.one.next_deadline()) == (True, None, None)


# -- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Meta(max_msg_size=2000, max_obj_size=500), None),
        (Meta(max_msg_size=2000), Meta(max_obj_size=500)),
        (Meta(max_obj_size=500), Meta(max_msg_size=2000)),
        (Meta(max_msg_size=9000, max_obj_size=9000), Meta(max_msg_size=2000, max_obj_size=500)),
    ],
)
def test_what_the_server_takes_is_kept_until_it_says_otherwise(first: Meta, second: Meta | None) -> None:
    peer = begun()
    peer.says(get("./DevInfo/Man"), meta=first)
    replies(peer)
    peer.says(*[get("./DevInfo/Man")] * 12, meta=second)
    content: list[Outgoing] = []
    for ref in range(2, 14):
        text = "x" * (501 if ref == 3 else 400)
        content += [Status("", "2", str(ref), "Get", 200), Results("", str(ref), (Item(source="./a", data=text),), "2")]
    message = replies(peer, *content)
    codes = {each.cmd_ref: each.code for each in message.of(Status)}
    assert (codes["2"], codes["3"], codes["4"]) == (200, 413, 200)  # too large an object
    assert not message.final
    assert len(peer.post.body) <= 2000


def test_a_session_has_no_more_than_256_messages_of_ours() -> None:
    peer = begun()
    for _ in range(255):
        assert [type(event) for event in peer.says(final=False)] == [NoncesChanged]
        peer.hears()
    assert peer.heard.hdr.msg_id == peer.one.messages == 256
    assert peer.says(final=False)[-1] == Ended(ok=False, result="no end after 256 messages")
    assert peer.one.take_output() is None


def test_a_session_has_15_minutes_from_its_start() -> None:
    one = session()
    assert one.next_deadline() is None
    one.on_deadline(1e9)
    assert one.state is State.READY
    one.start(10.0)
    assert one.next_deadline() == 910.0
    one.on_deadline(909.9)
    assert (one.next_event(), one.state) == (None, State.WAIT_PACKAGE)
    one.on_deadline(910.0)
    assert events(one) == [Ended(ok=False, result="no end after 900 seconds")]
    assert (one.state, one.next_deadline()) == (State.FAILED, None)
    one.on_deadline(911.0)
    assert (events(one), one.take_output()) == ([], None)


# -- other ends ----------------------------------------------------------------------------------------------------


def test_a_round_trip_that_failed_ends_the_session_once() -> None:
    one = begun().one
    for _ in range(2):
        one.receive_failure("no route", 1.0)
    assert events(one) == [Ended(ok=False, result="no route")]
    assert one.state is State.FAILED


def test_a_session_that_did_not_begin_or_is_over_is_given_up_without_a_word() -> None:
    one = session()
    one.abort(0.0)
    assert (events(one), one.take_output(), one.state) == ([], None, State.READY)
    peer = begun()
    peer.says()
    peer.one.abort(2.0)
    assert (events(peer.one), peer.one.take_output(), peer.one.state) == ([], None, State.ENDED)


def test_our_message_that_cannot_be_written_ends_the_session() -> None:
    one = session(device_id="\x01", content_type=DM_XML)
    one.start(0.0)
    assert ended(one).result.startswith("our message cannot be written: ")
    assert one.take_output() is None


@pytest.mark.parametrize("code", [200, 401])
def test_a_status_of_a_header_that_cannot_be_written_ends_the_session(code: int) -> None:
    """WBXML can carry what XML cannot, and the server may answer in either."""
    peer = begun(content_type=DM_XML)
    got = peer.says(code=code, source="\x01", final=False)
    assert isinstance(got[-1], Ended)
    assert got[-1].result.startswith("our message cannot be written: ")
    assert (peer.one.take_output(), peer.one.state) == (None, State.FAILED)


def test_a_goodbye_that_cannot_be_written_ends_the_session_all_the_same() -> None:
    peer = begun(content_type=DM_XML)
    peer.says(get("./DevInfo/Man"), source="\x01")
    peer.one.abort(2.0)
    assert ended(peer.one).result.startswith("our message cannot be written: ")
    assert (peer.one.take_output(), peer.one.state) == (None, State.FAILED)
