"""The two SSMP cores against each other, against the known answers, and against everything that can go wrong."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from omadm.ssmp import client_core, wire
from omadm.ssmp import server_core as server
from omadm.ssmp.client_core import Registered, RegistrationFailed, SsmpClient
from omadm.ssmp.crypto import SessionKeys, Transcript
from omadm.ssmp.errors import SsmpError, SsmpRefused, SsmpUsageError
from omadm.ssmp.server_core import Authenticated, Confirmed, ServerSession, SessionTable

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "ssmp.json").read_text())
KEY = bytes.fromhex(VECTORS["device_key"])
INFO = wire.RegistrationInfo(**VECTORS["info"])
DOCUMENT = bytes.fromhex(VECTORS["document"])


def vector(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name])


def a_client(key: bytes = KEY) -> SsmpClient:
    client = SsmpClient(VECTORS["device_id"], key, INFO, vector("client_nonce"))
    client.start(0.0)
    return client


def a_session(key: bytes = KEY, *, known: bool = True, now: float = 0.0) -> ServerSession:
    return ServerSession(vector("session"), vector("server_nonce"), vector("hello"), key, known=known, now=now)


def answer(session: ServerSession, message: bytes, now: float = 1.0) -> bytes:
    """What a server does with one message."""
    session.receive(message, now)
    match session.next_event():
        case Authenticated():
            session.provide(DOCUMENT)
        case Confirmed():
            session.acknowledge()
    return session.take_output()


def failure(client: SsmpClient) -> SsmpError:
    event = client.next_event()
    assert isinstance(event, RegistrationFailed)
    assert client.take_output() == b""
    return event.error


# ---- the good way


def test_the_device_says_what_the_known_answers_say() -> None:
    client = a_client()
    assert client.take_output() == vector("hello")
    client.receive(vector("challenge"), 1.0)
    assert client.take_output() == vector("auth")
    client.receive(vector("bootstrap"), 1.0)
    assert client.take_output() == vector("confirm")
    assert client.next_event() is None
    client.receive(vector("done"), 1.0)
    assert client.next_event() == Registered(DOCUMENT)
    assert client.next_deadline() is None


def test_the_server_says_what_the_known_answers_say() -> None:
    session = a_session()
    assert session.take_output() == vector("challenge")
    session.receive(vector("auth"), 1.0)
    assert session.next_event() == Authenticated(VECTORS["device_id"], INFO)
    session.provide(DOCUMENT)
    assert session.take_output() == vector("bootstrap")
    session.receive(vector("confirm"), 1.0)
    assert session.next_event() == Confirmed(VECTORS["device_id"], INFO)
    session.acknowledge()
    assert session.take_output() == vector("done")
    assert session.over


def test_the_document_is_not_readable_on_the_way() -> None:
    assert DOCUMENT not in vector("bootstrap")


def test_secrets_are_not_in_representations() -> None:
    assert KEY.hex() not in repr(SessionKeys(KEY, bytes(32), bytes(32)))
    assert "document" not in repr(Registered(DOCUMENT))


# ---- wrong keys and forged messages


def test_a_wrong_device_key_is_refused() -> None:
    session = a_session()
    with pytest.raises(SsmpRefused) as refusal:
        answer(session, a_wrong_auth())
    assert refusal.value.code == 401
    assert session.over


def a_wrong_auth() -> bytes:
    client = a_client(bytes(32))
    client.take_output()
    client.receive(vector("challenge"), 1.0)
    return client.take_output()


def test_an_unknown_device_is_refused_with_the_same_words_even_with_the_right_stand_in() -> None:
    refusals = []
    for session, message in ((a_session(known=False), vector("auth")), (a_session(), a_wrong_auth())):
        with pytest.raises(SsmpRefused) as refusal:
            session.receive(message, 1.0)
        refusals.append((refusal.value.code, refusal.value.text))
    assert refusals[0] == refusals[1]


def test_a_server_without_the_device_key_bootstraps_nobody() -> None:
    client = a_client()
    client.take_output()
    client.receive(vector("challenge"), 1.0)
    client.take_output()
    forged = SessionKeys(bytes(32), vector("client_nonce"), vector("server_nonce"))
    transcript = Transcript()
    sealed = forged.seal(b"evil", transcript.digest())
    client.receive(wire.Bootstrap(vector("session"), sealed, forged.server_mac(bytes(32))).emit(), 1.0)
    assert "did not prove" in str(failure(client))


@pytest.mark.parametrize("name", ["challenge", "bootstrap", "done"])
def test_no_changed_bit_of_a_server_message_leads_to_a_registration(name: str) -> None:
    steps = ("challenge", "bootstrap", "done")
    original = vector(name)
    for bit in range(0, len(original) * 8, 5):
        changed = bytearray(original)
        changed[bit // 8] ^= 1 << (bit % 8)
        client = a_client()
        session = a_session()
        message = session.take_output()
        for step in steps:
            client.take_output()
            client.receive(bytes(changed) if step == name else message, 1.0)
            if client.next_deadline() is None:
                break
            try:
                message = answer(session, client.take_output())
            except SsmpError as error:
                client.receive(wire.Error(401, str(error)[:50]).emit(), 1.0)
                break
        assert not isinstance(client.next_event(), Registered)


@pytest.mark.parametrize("name", ["auth", "confirm"])
def test_no_changed_bit_of_a_device_message_is_believed(name: str) -> None:
    original = vector(name)
    for bit in range(0, len(original) * 8, 5):
        changed = bytearray(original)
        changed[bit // 8] ^= 1 << (bit % 8)
        session = a_session()
        if name == "confirm":
            answer(session, vector("auth"))
        try:
            session.receive(bytes(changed), 1.0)
        except SsmpError:
            pass
        else:
            # the session id is not the core's business: the table finds sessions by it; the MAC covers it all the same
            pytest.fail(f"bit {bit} of {name} did not matter")
        assert session.next_event() is None


def test_the_bootstrap_document_of_another_session_does_not_open() -> None:
    keys = SessionKeys(KEY, vector("client_nonce"), vector("server_nonce"))
    sealed = keys.seal(DOCUMENT, b"this session")
    assert keys.open(sealed, b"this session") == DOCUMENT
    with pytest.raises(SsmpError):
        keys.open(sealed, b"another session")
    with pytest.raises(SsmpError):
        SessionKeys(KEY, bytes(32), vector("server_nonce")).open(sealed, b"this session")
    with pytest.raises(SsmpError):
        keys.open(b"", b"this session")


# ---- order


def test_a_replayed_message_is_refused_and_changes_nothing() -> None:
    session = a_session()
    session.take_output()
    answer(session, vector("auth"))
    with pytest.raises(SsmpRefused) as refusal:
        session.receive(vector("auth"), 1.0)
    assert refusal.value.code == 409
    assert answer(session, vector("confirm")) == vector("done")
    with pytest.raises(SsmpRefused):
        session.receive(vector("confirm"), 1.0)


def test_a_confirm_before_its_time_is_refused() -> None:
    session = a_session()
    with pytest.raises(SsmpRefused) as refusal:
        session.receive(vector("confirm"), 1.0)
    assert refusal.value.code == 409
    assert session.state is server.State.CHALLENGED


@pytest.mark.parametrize("name", ["bootstrap", "done", "hello"])
def test_a_message_that_is_not_due_ends_the_attempt(name: str) -> None:
    client = a_client()
    client.receive(vector(name), 1.0)
    assert "HELLO_SENT" in str(failure(client))


def test_a_message_of_another_session_ends_the_attempt() -> None:
    client = a_client()
    client.receive(vector("challenge"), 1.0)
    client.receive(wire.Bootstrap(bytes(16), b"x", bytes(32)).emit(), 1.0)
    assert "another session" in str(failure(client))


def test_a_refusal_is_told_with_code_and_text() -> None:
    client = a_client()
    client.receive(wire.Error(401, "no").emit(), 1.0)
    error = failure(client)
    assert isinstance(error, SsmpRefused)
    assert (error.code, error.text) == (401, "no")


def test_after_the_end_nothing_is_taken() -> None:
    client = a_client()
    client.receive(b"nonsense", 1.0)
    failure(client)
    client.receive(vector("challenge"), 1.0)
    client.receive_eof(1.0)
    client.on_deadline(1e9)
    assert (client.take_output(), client.next_event()) == (b"", None)


def test_every_pair_of_state_and_event_of_the_device_is_a_row_or_impossible() -> None:
    for state, event in itertools.product(client_core.State, client_core.Event):
        target = client_core.TRANSITIONS.table.get((state, event))
        if state in (client_core.State.REGISTERED, client_core.State.FAILED):
            assert target is None
        if event is client_core.Event.FAILURE and target is not None:
            assert target is client_core.State.FAILED


def test_verbs_out_of_order_are_our_mistake_and_change_nothing() -> None:
    client = a_client()
    with pytest.raises(SsmpUsageError):
        client.start(0.0)
    session = a_session()
    verbs: tuple[Callable[[], None], ...] = (lambda: session.provide(b"x"), session.acknowledge)
    for verb in verbs:
        with pytest.raises(SsmpUsageError):
            verb()
    assert session.state is server.State.CHALLENGED


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_a_key_of_another_size_is_not_taken(key: bytes) -> None:
    with pytest.raises(SsmpUsageError):
        SsmpClient("id", key, INFO, bytes(32))


# ---- time and numbers


def test_an_attempt_ends_at_its_deadline() -> None:
    client = a_client()
    deadline = client.next_deadline()
    assert deadline == client_core.REGISTRATION_TIMEOUT_S
    client.on_deadline(deadline - 0.001)
    assert client.next_event() is None
    client.on_deadline(deadline)
    assert "within 60 s" in str(failure(client))


def test_an_expired_session_takes_nothing() -> None:
    session = a_session(now=0.0)
    with pytest.raises(SsmpRefused) as refusal:
        session.receive(vector("auth"), server.SESSION_S)
    assert refusal.value.code == 408


def table_with(count: int, rng: random.Random) -> SessionTable:
    table = SessionTable(rng.randbytes, sessions_max=3)
    for _ in range(count):
        table.open(vector("hello"), KEY, known=True, now=0.0)
    return table


def test_a_full_table_refuses_until_sessions_expire() -> None:
    table = table_with(3, random.Random(1))
    with pytest.raises(SsmpRefused) as refusal:
        table.open(vector("hello"), KEY, known=True, now=1.0)
    assert refusal.value.code == 503
    table.open(vector("hello"), KEY, known=True, now=server.SESSION_S)
    assert len(table) == 1


def test_a_session_that_is_not_there_is_refused() -> None:
    table = table_with(1, random.Random(1))
    with pytest.raises(SsmpRefused) as refusal:
        table.find(bytes(16), 1.0)
    assert refusal.value.code == 408
    assert table.next_deadline() == server.SESSION_S


def test_a_finished_session_leaves_the_table() -> None:
    table = SessionTable(random.Random(1).randbytes)
    session = table.open(vector("hello"), KEY, known=True, now=0.0)
    table.forget_finished(session)
    assert table.find(session.session, 1.0) is session
    session.abort()
    table.forget_finished(session)
    assert len(table) == 0
    assert table.next_deadline() is None


def test_a_session_begins_with_hello_only() -> None:
    with pytest.raises(SsmpUsageError):
        ServerSession(bytes(16), bytes(32), vector("confirm"), KEY, known=True, now=0.0)


def test_random_messages_never_register_and_never_raise_anything_else() -> None:
    rng = random.Random(3)
    messages = [vector(name) for name in ("hello", "challenge", "auth", "bootstrap", "confirm", "done", "error")]
    for _ in range(2000):
        client, session = a_client(), a_session()
        for _ in range(4):
            data = bytearray(rng.choice(messages))
            data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
            client.receive(bytes(data), 1.0)
            with contextlib.suppress(SsmpError):
                session.receive(bytes(data), 1.0)
            assert session.next_event() is None
        assert not isinstance(client.next_event(), Registered)
