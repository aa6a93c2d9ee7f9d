"""The two SSMP cores against each other, against the known answers, and against everything that can go wrong."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from omadm.ssmp import client_core, wire
from omadm.ssmp import server_core as server
from omadm.ssmp.client_core import KeyOffered, Registered, RegistrationFailed, SsmpClient, TimeTold
from omadm.ssmp.crypto import Ephemeral, SessionKeys, Transcript
from omadm.ssmp.errors import SsmpError, SsmpRefused, SsmpUsageError
from omadm.ssmp.identity import SharedKey
from omadm.ssmp.server_core import Authenticated, Challenger, Confirmed, Opening, ServerSession, SessionTable
from tests.omadm.ssmp.releases import of_version

FOLDER = Path(__file__).parents[2] / "vectors"
VECTORS = {number: json.loads((FOLDER / f"ssmp-{number}.json").read_text()) for number in wire.VERSIONS}
DEVICE = VECTORS[3]["device_id"]
KEY = bytes.fromhex(VECTORS[3]["device_key"])
INFO = wire.RegistrationInfo(**VECTORS[3]["info"])
DOCUMENT = bytes.fromhex(VECTORS[3]["document"])
OTHER_VERSION = wire.Error(400, "this is not an SSMP message", 1).emit()
OFFER = b"\x80\0\1\x03"  # what HELLO of an older version says after the refusal of version 3
STEPS = ("hello", "challenge", "auth", "bootstrap", "confirm", "done", "error")
ALL = pytest.mark.parametrize("version", wire.VERSIONS)


def vector(name: str, version: int = 3) -> bytes:
    return bytes.fromhex(VECTORS[version][name])


def octets(*drawn: bytes) -> Callable[[int], bytes]:
    """A source of random octets that gives these."""
    left = iter(drawn)
    return lambda size: next(left)[:size]


def drawn() -> Callable[[int], bytes]:
    return octets(vector("client_nonce"), vector("client_ephemeral"))


def a_client(key: bytes = KEY, version: int = 3) -> SsmpClient:
    """A device that has said HELLO; to a server of an older version after it was told so."""
    client = SsmpClient(DEVICE, SharedKey(key), INFO, drawn(), vector("held"))
    client.start(0.0)
    for _ in range(version, 3):
        client.take_output()
        client.receive(OTHER_VERSION, 0.5)
    return client


def an_old_client(version: int) -> SsmpClient:
    """A device of a release that speaks nothing later than `version`, and has said HELLO."""
    client = of_version(SsmpClient(DEVICE, SharedKey(KEY), INFO, drawn(), vector("held")), version)
    client.start(0.0)
    return client


def a_session(key: bytes = KEY, version: int = 3, *, known: bool = True, now: float = 0.0) -> ServerSession:
    opening = Opening(vector("hello", version), vector("challenge", version), now + server.SESSION_S)
    return ServerSession(vector("session"), opening, key, known=known, ephemeral=vector("server_ephemeral"))


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


@ALL
def test_the_device_says_what_the_known_answers_say(version: int) -> None:
    client = an_old_client(version)
    assert client.take_output() == vector("hello", version)
    client.receive(vector("challenge", version), 1.0)
    assert client.take_output() == vector("auth", version)
    client.receive(vector("bootstrap", version), 1.0)
    assert client.take_output() == vector("confirm", version)
    assert client.next_event() is None
    client.receive(vector("done", version), 1.0)
    assert client.next_event() == Registered(DOCUMENT)
    assert client.next_deadline() is None


@ALL
def test_the_server_says_what_the_known_answers_say(version: int) -> None:
    session = a_session(version=version)
    held = None if version == 1 else vector("held")
    session.receive(vector("auth", version), 1.0)
    assert session.next_event() == Authenticated(DEVICE, INFO, held)
    session.provide(DOCUMENT)
    assert session.take_output() == vector("bootstrap", version)
    session.receive(vector("confirm", version), 1.0)
    assert session.next_event() == Confirmed(DEVICE, INFO, held)
    session.acknowledge()
    assert session.take_output() == vector("done", version)
    assert session.over


# ---- versions


@pytest.mark.parametrize("code", [400, 505])
def test_a_server_that_knows_only_older_versions_hears_a_hello_of_the_version_before(code: int) -> None:
    """What was offered stands behind, in a field that older servers pass over."""
    client = a_client()
    assert client.take_output() == vector("hello")
    for version in (2, 1):
        client.receive(wire.Error(code, "no", 1).emit(), 1.0)
        hello = client.take_output()
        assert hello == offering(version)
        assert wire.parse(hello) == wire.Hello(DEVICE, vector("client_nonce"), version, 3)
    assert client.next_deadline() == client_core.REGISTRATION_TIMEOUT_S


def offering(version: int) -> bytes:
    hello = vector("hello", version)
    return hello[:4] + (len(hello) - 6 + len(OFFER)).to_bytes(2, "big") + hello[6:] + OFFER


def test_a_secret_that_cannot_prove_itself_in_older_versions_is_not_asked_to() -> None:
    class Token(SharedKey):
        version_min = 3

    client = SsmpClient(DEVICE, Token(KEY), INFO, drawn())
    client.start(0.0)
    client.take_output()
    client.receive(OTHER_VERSION, 1.0)
    assert isinstance(failure(client), SsmpRefused)


def test_what_was_offered_is_covered_by_both_proofs() -> None:
    """Whoever takes the offer out of HELLO, so that a server of today answers it, ends the attempt."""
    client = a_client(version=2)
    offered = client.take_output()
    assert offered == offering(2)
    client.receive(vector("challenge", 2), 1.0)
    auth = wire.parse(client.take_output())
    assert isinstance(auth, wire.AuthV2)
    session = a_session(version=2)  # which has heard the HELLO without
    with pytest.raises(SsmpRefused):
        session.receive(replace(auth, hello=vector("hello", 2)).emit(), 1.0)


def test_a_server_that_says_no_to_every_version_is_not_asked_again() -> None:
    client = a_client(version=1)
    client.take_output()
    client.receive(OTHER_VERSION, 1.0)
    assert isinstance(failure(client), SsmpRefused)


@pytest.mark.parametrize("code", [401, 429, 503])
def test_a_refusal_for_another_reason_is_no_question_of_versions(code: int) -> None:
    client = a_client()
    client.receive(wire.Error(code, "no", 1).emit(), 1.0)
    client.take_output()
    event = client.next_event()
    assert isinstance(event, RegistrationFailed)
    assert isinstance(event.error, SsmpRefused)


def test_after_its_hello_was_taken_a_device_does_not_go_back_to_an_older_version() -> None:
    client = a_client()
    client.receive(vector("challenge"), 1.0)
    client.take_output()
    client.take_output()
    client.receive(OTHER_VERSION, 1.0)
    assert isinstance(failure(client), SsmpRefused)


def test_a_server_keeps_to_the_version_of_the_device() -> None:
    client = a_client()
    client.receive(vector("challenge", 1), 1.0)
    client.take_output()
    assert "answered in version 1" in str(client.next_event())
    session = a_session()
    with pytest.raises(SsmpRefused) as refusal:
        session.receive(vector("auth", 1), 1.0)
    assert (refusal.value.code, session.state) == (400, server.State.CHALLENGED)


def test_no_proof_of_one_version_is_one_of_the_other() -> None:
    keys = [SessionKeys(SharedKey(KEY), bytes(32), bytes(32), version) for version in wire.VERSIONS]
    macs = [made for each in keys for made in (each.device_mac(b""), each.server_mac(b""), each.confirm_mac(b""))]
    assert len(set(macs)) == len(macs)


def test_the_document_is_not_readable_on_the_way() -> None:
    assert DOCUMENT not in vector("bootstrap")


def test_a_stolen_key_opens_no_recorded_registration() -> None:
    """Who has every message of a registration, inside TLS, and steals the device key later, gets nothing. Versions 1
    and 2 have no such defence: there the key opens the document."""
    thief = SharedKey(KEY)
    for version in (1, 2):
        bootstrap = wire.parse(vector("bootstrap", version))
        assert isinstance(bootstrap, wire.BootstrapV2)
        keys = SessionKeys(thief, vector("client_nonce"), vector("server_nonce"), version)
        session = vector("session") if version == 2 else b""
        assert keys.open(bootstrap.sealed, sealed_for(version), session) == DOCUMENT
    bootstrap = wire.parse(vector("bootstrap"))
    assert isinstance(bootstrap, wire.Bootstrap)
    early = SessionKeys(thief, vector("client_nonce"), vector("server_nonce"))
    seen = (an_auth(vector("auth")).ephemeral, bootstrap.ephemeral, bytes(32))
    for keys in (early, *(early.agreed(secret) for secret in seen)):
        with pytest.raises(SsmpError, match="does not open"):
            keys.open(bootstrap.sealed, sealed_for(3), vector("session"))
    shared = Ephemeral(vector("client_ephemeral")).agree(bootstrap.ephemeral)  # which the device has forgotten
    assert early.agreed(shared).open(bootstrap.sealed, sealed_for(3), vector("session")) == DOCUMENT


def sealed_for(version: int) -> bytes:
    transcript = Transcript(version)
    transcript.add(vector("hello", version))
    transcript.add(vector("challenge", version))
    transcript.add(wire.unproven(vector("auth", version)))
    return transcript.digest()


def test_the_keys_of_a_session_are_new_in_each() -> None:
    made = []
    for seed in (1, 2):
        client = SsmpClient(DEVICE, SharedKey(KEY), INFO, random.Random(seed).randbytes)
        client.start(0.0)
        client.take_output()
        client.receive(vector("challenge"), 1.0)
        made.append(an_auth(client.take_output()).ephemeral)
    assert made[0] != made[1]


@pytest.mark.parametrize("public", [bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_a_key_of_a_session_on_which_nothing_can_be_agreed_is_refused_by_both(public: bytes) -> None:
    """Points of low order (RFC 7748, 6.1): everybody would know the secret."""
    client = a_client()
    client.receive(vector("challenge"), 1.0)
    bootstrap = wire.parse(vector("bootstrap"))
    assert isinstance(bootstrap, wire.Bootstrap)
    client.take_output()
    client.receive(replace(bootstrap, ephemeral=public).emit(), 1.0)
    client.take_output()
    assert "is none" in str(failure(client))
    client, session = a_client(), a_session()
    client._ephemeral.public = public
    client.receive(vector("challenge"), 1.0)
    client.take_output()
    with pytest.raises(SsmpRefused) as refusal:
        session.receive(client.take_output(), 1.0)
    assert refusal.value.code == 401


def test_secrets_are_not_in_representations() -> None:
    assert KEY.hex() not in repr(SessionKeys(SharedKey(KEY), bytes(32), bytes(32)))
    assert repr(SharedKey(KEY)) == "SharedKey(...)"
    assert repr(Ephemeral(KEY)) == "Ephemeral(...)"
    assert "document" not in repr(Registered(DOCUMENT))


# ---- new keys

NEW_KEY = bytes(range(1, 33))


def a_renewing_client(module: SharedKey | None = None) -> SsmpClient:
    client = SsmpClient(DEVICE, module or SharedKey(KEY), INFO, drawn(), vector("held"), renews=True)
    client.start(0.0)
    client.take_output()
    client.receive(vector("challenge"), 1.0)
    return client


def bootstrapped(session: ServerSession, auth: bytes, new_key: bytes) -> bytes:
    session.receive(auth, 1.0)
    assert isinstance(session.next_event(), Authenticated)
    session.provide(DOCUMENT, new_key)
    return session.take_output()


def test_a_new_key_is_given_before_the_device_says_that_it_is_stored() -> None:
    client, session = a_renewing_client(), a_session()
    auth = client.take_output()
    message = bootstrapped(session, auth, NEW_KEY)
    assert session.renews
    assert NEW_KEY not in message
    client.receive(message, 1.0)
    assert client.next_event() == KeyOffered(NEW_KEY)
    assert "key" not in repr(KeyOffered(NEW_KEY))
    client.receive(answer(session, client.take_output()), 1.0)
    assert client.next_event() == Registered(DOCUMENT)


def test_a_device_that_cannot_store_a_key_says_nothing_and_is_given_none() -> None:
    client, session = a_client(), a_session()
    client.take_output()
    client.receive(vector("challenge"), 1.0)
    message = bootstrapped(session, client.take_output(), NEW_KEY)
    assert not session.renews
    client.receive(message, 1.0)  # from a server that gives it one all the same
    client.receive(answer(session, client.take_output()), 1.0)
    assert client.next_event() == Registered(DOCUMENT)


def test_the_server_takes_the_key_that_it_gave_and_the_one_before() -> None:
    for key, other in ((KEY, NEW_KEY), (NEW_KEY, KEY)):
        opening = Opening(vector("hello"), vector("challenge"), 60.0)
        session = ServerSession(
            vector("session"), opening, KEY, known=True, ephemeral=vector("server_ephemeral"), next_key=NEW_KEY
        )
        client = a_renewing_client(SharedKey(key))
        client.receive(bootstrapped(session, client.take_output(), b""), 1.0)
        client.receive(answer(session, client.take_output()), 1.0)
        assert client.next_event() == Registered(DOCUMENT)
        assert (session.is_of(key), session.is_of(other)) == (True, False)


@pytest.mark.parametrize("new_key", [bytes(31), bytes(33)])
def test_a_key_of_another_size_ends_the_attempt(new_key: bytes) -> None:
    client, session = a_renewing_client(), a_session()
    client.receive(bootstrapped(session, client.take_output(), new_key), 1.0)
    assert f"a key of {len(new_key)} bytes" in str(failure(client))


def test_no_changed_bit_of_a_new_key_is_taken() -> None:
    client, session = a_renewing_client(), a_session()
    message = bootstrapped(session, client.take_output(), NEW_KEY)
    for bit in range(len(message) * 8 - 8 * 60, len(message) * 8):
        changed = bytearray(message)
        changed[bit // 8] ^= 1 << (bit % 8)
        client = a_renewing_client()
        client.take_output()
        client.receive(bytes(changed), 1.0)
        assert isinstance(client.next_event(), RegistrationFailed)


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
    forged = SessionKeys(SharedKey(bytes(32)), vector("client_nonce"), vector("server_nonce"))
    own = Ephemeral(bytes(32))
    keys = forged.agreed(own.agree(Ephemeral(vector("client_ephemeral")).public))
    sealed = keys.seal(b"evil", Transcript().digest(), vector("session"))
    message = wire.Bootstrap(vector("session"), sealed, own.public, b"", keys.server_mac(bytes(32)))
    client.receive(message.emit(), 1.0)
    assert "did not prove" in str(failure(client))


@ALL
@pytest.mark.parametrize("name", ["challenge", "bootstrap", "done"])
def test_no_changed_bit_of_a_server_message_leads_to_a_registration(name: str, version: int) -> None:
    steps = ("challenge", "bootstrap", "done")
    original = vector(name, version)
    for bit in range(len(original) * 8):
        changed = bytearray(original)
        changed[bit // 8] ^= 1 << (bit % 8)
        client = an_old_client(version)
        session = a_session(version=version)
        message = vector("challenge", version)
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


@ALL
@pytest.mark.parametrize("name", ["auth", "confirm"])
def test_no_changed_bit_of_a_device_message_is_believed(name: str, version: int) -> None:
    original = vector(name, version)
    for bit in range(len(original) * 8):
        changed = bytearray(original)
        changed[bit // 8] ^= 1 << (bit % 8)
        session = a_session(version=version)
        if name == "confirm":
            answer(session, vector("auth", version))
        try:
            session.receive(bytes(changed), 1.0)
        except SsmpError:
            pass
        else:
            # the session id is not the core's business: the table finds sessions by it; the MAC covers it all the same
            pytest.fail(f"bit {bit} of {name} did not matter")
        assert session.next_event() is None


def test_the_bootstrap_document_of_another_session_does_not_open() -> None:
    keys = SessionKeys(SharedKey(KEY), vector("client_nonce"), vector("server_nonce"))
    sealed = keys.seal(DOCUMENT, b"transcript", b"this session")
    assert keys.open(sealed, b"transcript", b"this session") == DOCUMENT
    with pytest.raises(SsmpError):
        keys.open(sealed, b"another", b"this session")
    with pytest.raises(SsmpError):
        keys.open(sealed, b"transcript", b"another session")
    with pytest.raises(SsmpError):
        SessionKeys(SharedKey(KEY), bytes(32), vector("server_nonce")).open(sealed, b"transcript", b"this session")
    with pytest.raises(SsmpError):
        keys.open(b"", b"transcript", b"this session")


# ---- order


def test_a_replayed_message_is_refused_and_changes_nothing() -> None:
    session = a_session()
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
    client = an_old_client(1)
    client.receive(vector("challenge", 1), 1.0)
    client.receive(wire.BootstrapV2(bytes(16), b"x", bytes(32), 1).emit(), 1.0)
    assert "another session" in str(failure(client))
    client = a_client()
    for name in ("challenge", "bootstrap"):
        client.receive(vector(name), 1.0)
    client.receive(wire.Done(bytes(16), bytes(32)).emit(), 1.0)
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
        SharedKey(key)


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


# ---- challenges without a memory

NETWORK = "192.0.2.1"


def challenged(challenger: Challenger, now: float = 10.0, network: str = NETWORK, key: bytes = KEY) -> bytes:
    """The AUTH of a device after the challenge of this server."""
    client = a_client(key)
    client.receive(challenger.challenge(client.take_output(), network, now), now)
    return client.take_output()


def an_auth(data: bytes) -> wire.Auth:
    message = wire.parse(data)
    assert isinstance(message, wire.Auth)
    return message


def test_a_challenge_is_known_again_for_a_minute_also_after_the_secret_has_changed() -> None:
    for begin in (0.0, 59.0, 60.0, 119.999):
        challenger = Challenger(random.Random(1).randbytes)
        auth = an_auth(challenged(challenger, begin))
        challenger.challenge(vector("hello"), NETWORK, begin + 59.9)
        opening = challenger.opening(auth, NETWORK, begin + 59.9)
        assert (opening.hello, opening.challenge) == (auth.hello, auth.challenge)
        assert opening.deadline == pytest.approx(begin + 60, abs=0.002)
        with pytest.raises(SsmpRefused) as refusal:
            challenger.opening(auth, NETWORK, begin + 60.0)
        assert refusal.value.code == 408


def test_a_challenge_is_for_one_network_one_hello_and_one_server() -> None:
    challenger, other = Challenger(random.Random(1).randbytes), Challenger(random.Random(2).randbytes)
    auth = an_auth(challenged(challenger))
    other.challenge(vector("hello"), NETWORK, 10.0)
    hello = wire.Hello("urn:dcu:other", vector("client_nonce")).emit()
    for server_, heard, network in (
        (challenger, auth, "192.0.2.2"),
        (challenger, replace(auth, hello=hello), NETWORK),
        (other, auth, NETWORK),
        (Challenger(random.Random(1).randbytes), auth, NETWORK),  # that was started again
    ):
        with pytest.raises(SsmpRefused) as refusal:
            server_.opening(heard, network, 11.0)
        assert refusal.value.code == 408


def test_no_changed_bit_of_a_challenge_is_known_again() -> None:
    challenger = Challenger(random.Random(1).randbytes)
    auth = an_auth(challenged(challenger))
    challenger.opening(auth, NETWORK, 11.0)
    for bit in range(len(auth.challenge) * 8):
        changed = bytearray(auth.challenge)
        changed[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(SsmpRefused):
            challenger.opening(replace(auth, challenge=bytes(changed)), NETWORK, 11.0)
    with pytest.raises(SsmpRefused):
        longer = wire.HEADER_BYTES, auth.challenge[wire.HEADER_BYTES :] + b"\x80\0\0"
        added = auth.challenge[:4] + len(longer[1]).to_bytes(2, "big") + longer[1]
        challenger.opening(replace(auth, challenge=added), NETWORK, 11.0)


def test_a_challenger_keeps_two_secrets_however_many_ask() -> None:
    challenger = Challenger(random.Random(1).randbytes)
    for number in range(10_000):
        challenger.challenge(wire.Hello(f"x{number}", bytes(32)).emit(), NETWORK, number / 10)
    assert len(challenger._secrets) == 2


# ---- the table


def proven(table: SessionTable, challenger: Challenger, now: float, key: bytes = KEY) -> ServerSession:
    """A session whose AUTH has come, as a server begins it."""
    data = challenged(challenger, now, key=key)
    session = table.prepare(challenger.opening(an_auth(data), NETWORK, now), KEY, known=True, now=now)
    try:
        session.receive(data, now)
        session.next_event()
    finally:
        table.settle(session)
    return session


def test_a_session_is_in_the_table_when_it_is_proven_and_not_before() -> None:
    table, challenger = SessionTable(random.Random(1).randbytes), Challenger(random.Random(1).randbytes)
    with pytest.raises(SsmpRefused):
        proven(table, challenger, 10.0, bytes(32))
    assert len(table) == 0
    session = proven(table, challenger, 10.0)
    assert table.find(session.session, 11.0) is session
    assert session.session in table


def test_an_auth_that_comes_twice_begins_one_session() -> None:
    """Its nonces would be those of the first: the seal must not be used for another document."""
    table, challenger = SessionTable(random.Random(1).randbytes), Challenger(random.Random(1).randbytes)
    data = challenged(challenger)
    opening = challenger.opening(an_auth(data), NETWORK, 10.0)
    session = table.prepare(opening, KEY, known=True, now=10.0)
    session.receive(data, 10.0)
    table.settle(session)
    for _ in range(2):
        with pytest.raises(SsmpRefused) as refusal:
            table.prepare(opening, KEY, known=True, now=10.0)
        assert refusal.value.code == 409
        session.abort()  # also when it is over
        table.settle(session)


def test_a_device_has_two_sessions_at_most_and_the_newest_are_kept() -> None:
    table, challenger = SessionTable(random.Random(1).randbytes), Challenger(random.Random(1).randbytes)
    begun = [proven(table, challenger, 10.0 + at) for at in range(4)]
    assert [session.session in table for session in begun] == [False, False, True, True]
    assert [session.over for session in begun] == [True, True, False, False]


def test_a_full_table_refuses_until_sessions_expire() -> None:
    table, challenger = SessionTable(random.Random(1).randbytes, sessions_max=1), Challenger(random.Random(1).randbytes)
    proven(table, challenger, 10.0)
    with pytest.raises(SsmpRefused) as refusal:
        proven(table, challenger, 11.0)
    assert refusal.value.code == 503
    proven(table, challenger, 10.0 + server.SESSION_S)
    assert len(table) == 1


def test_sessions_of_version_1_before_their_proof_have_a_place_of_their_own() -> None:
    """A network keeps no more than its part of it, and the network that holds the most makes room for others."""
    table = SessionTable(random.Random(1).randbytes, half_open_max=40)
    device = table.open(vector("hello", 1), KEY, "192.0.2.7", known=True, now=0.0)
    for number in range(200):
        table.open(vector("hello", 1), KEY, f"203.0.113.{number % 4}", known=False, now=1.0)
    assert len(table) == 40
    assert table.find(device.session, 2.0) is device
    answer(device, proven_v1(device))
    table.settle(device)
    for number in range(200):
        table.open(vector("hello", 1), KEY, f"2001:db8:{number}::/64", known=False, now=1.0)
    assert table.find(device.session, 2.0) is device


def proven_v1(session: ServerSession) -> bytes:
    """The AUTH of version 1 for a session of the table."""
    client = an_old_client(1)
    client.take_output()
    client.receive(session.challenge, 1.0)
    return client.take_output()


def test_a_session_that_is_not_there_is_refused() -> None:
    table = SessionTable(random.Random(1).randbytes)
    table.open(vector("hello", 1), KEY, NETWORK, known=True, now=0.0)
    with pytest.raises(SsmpRefused) as refusal:
        table.find(bytes(16), 1.0)
    assert refusal.value.code == 408
    assert table.next_deadline() == server.SESSION_S
    table.on_deadline(server.SESSION_S)
    assert len(table) == 0


def test_a_finished_session_leaves_the_table() -> None:
    table = SessionTable(random.Random(1).randbytes)
    session = table.open(vector("hello", 1), KEY, NETWORK, known=True, now=0.0)
    table.settle(session)
    assert table.find(session.session, 1.0) is session
    session.abort()
    table.settle(session)
    assert len(table) == 0
    assert table.next_deadline() is None


def test_a_session_begins_with_hello_only() -> None:
    for hello, challenge in (("confirm", "challenge"), ("hello", "confirm")):
        with pytest.raises(SsmpUsageError):
            ServerSession(bytes(16), Opening(vector(hello), vector(challenge), 60.0), KEY, known=True, ephemeral=b"")


@pytest.mark.slow
def test_random_messages_never_register_and_never_raise_anything_else() -> None:
    rng = random.Random(3)
    messages = [vector(name, version) for name in STEPS for version in wire.VERSIONS]
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


# ---- the time

TIME_MS = 1_800_000_000_250


def told(session: ServerSession, auth: bytes, time_ms: int = TIME_MS) -> bytes:
    """The BOOTSTRAP of a server that tells the time."""
    session.receive(auth, 1.0)
    assert isinstance(session.next_event(), Authenticated)
    session.provide(DOCUMENT, time_ms=time_ms)
    return session.take_output()


def a_client_that_asks(*, only_time: bool, key: bytes = KEY) -> SsmpClient:
    client = SsmpClient(DEVICE, SharedKey(key), INFO, drawn(), vector("held"), only_time=only_time)
    client.start(0.0)
    client.take_output()
    client.receive(vector("challenge"), 1.0)
    return client


def test_a_registration_brings_the_time() -> None:
    client, session = a_client_that_asks(only_time=False), a_session()
    client.receive(told(session, client.take_output()), 1.0)
    assert client.time_told == TIME_MS / 1000
    client.receive(answer(session, client.take_output()), 1.0)
    assert client.next_event() == Registered(DOCUMENT)


def test_who_asks_for_the_time_alone_confirms_nothing() -> None:
    client, session = a_client_that_asks(only_time=True), a_session()
    client.receive(told(session, client.take_output()), 1.0)
    assert (client.next_event(), client.next_event(), client.take_output()) == (TimeTold(), None, b"")
    assert (client.time_told, client.next_deadline()) == (TIME_MS / 1000, None)
    assert session.state is server.State.BOOTSTRAPPED, "it forgets that when its time is over"


def test_a_server_that_tells_no_time_is_of_no_use_to_who_asks_for_that_alone() -> None:
    client, session = a_client_that_asks(only_time=True), a_session()
    client.receive(told(session, client.take_output(), 0), 1.0)
    assert "does not tell the time" in str(failure(client))


def test_no_changed_bit_of_the_time_is_believed() -> None:
    ask = a_client_that_asks(only_time=True).take_output()
    message = told(a_session(), ask)
    at = message.index(b"\x86\0\x08")
    for bit in range(8 * (len(message) - at)):
        changed = bytearray(message)
        changed[at + bit // 8] ^= 1 << bit % 8
        client = a_client_that_asks(only_time=True)
        client.receive(bytes(changed), 1.0)
        assert client.time_told is None
        assert isinstance(client.next_event(), RegistrationFailed)


def test_a_time_of_another_attempt_is_not_believed() -> None:
    old = told(a_session(), a_client_that_asks(only_time=True).take_output())
    client = SsmpClient(DEVICE, SharedKey(KEY), INFO, octets(bytes(32), bytes(32)), b"", only_time=True)
    client.start(0.0)
    client.receive(vector("challenge"), 1.0)
    client.receive(old, 1.0)
    assert client.time_told is None


def test_who_asks_for_the_time_goes_back_to_no_older_version() -> None:
    client = SsmpClient(DEVICE, SharedKey(KEY), INFO, drawn(), only_time=True)
    client.start(0.0)
    client.take_output()
    client.receive(OTHER_VERSION, 0.5)
    assert isinstance(failure(client), SsmpRefused)
