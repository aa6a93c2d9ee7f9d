"""High level security and ciphered associations: known answers, every combination, and attacks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from dlms import axdr
from dlms.client.association import Association, AssociationFailed, Proposal
from dlms.client.events import ItemRead, ReadDone, SessionClosed, SessionEvent, SessionFailed, Value
from dlms.client.session import MeterSession
from dlms.codes import LN_CLIENT_CONFORMANCE, Conformance, Context, Mechanism
from dlms.cosem.obis import AttributeRef
from dlms.errors import DecodeError, DlmsError, LocalError, PeerError, SecurityError
from dlms.security.ciphering import Ciphering
from dlms.security.ecdsa import check_signature, sign
from dlms.security.gcm import TAG_OCTETS, Replayed
from dlms.security.hls import Challenges, aes_ecb, check_challenges, make_challenge, prove, verify
from dlms.security.settings import COUNTER_MAX, Auth, Hls, Lls, MemoryCounters, NoAuth, Policy, Security, open_auth
from dlms.server.objects import CosemObject, constant
from dlms.server.server import MeterServer
from dlms.xdlms.acse import Aare, Aarq, InitiateRequest
from tests.dlms.plain_link import PacketLink, Wire

# The keys and titles of the Green Book's examples.
EK, AK = bytes(range(16)), bytes(range(0xD0, 0xE0))
CLIENT, METER = bytes.fromhex("4d4d4d0000000001"), bytes.fromhex("4d4d4d0000bc614e")
GET_CLOCK = bytes.fromhex("c0010000080000010000ff0200")
REF = AttributeRef.parse("1/0.0.96.1.0.255/2")
LONG = axdr.octets(bytes(range(256)) * 12)


def green_book(policy: Policy, title: bytes = METER, counter: int = 0x01234567) -> Ciphering:
    return Ciphering(Security(title, EK, AK, policy=policy, counters=MemoryCounters(counter), peer_title=METER))


@pytest.mark.parametrize(
    ("policy", "ciphered"),
    [
        (Policy.NONE, "c0010000080000010000ff0200"),
        (Policy.AUTHENTICATE, "c81e1001234567c0010000080000010000ff020006725d910f9221d263877516"),
        (Policy.ENCRYPT, "c8122001234567411312ff935a47566827c467bc"),
        (Policy.BOTH, "c81e3001234567411312ff935a47566827c467bc7d825c3be4a77c3fcc056b6b"),
    ],
)
def test_the_standards_example_of_a_ciphered_get(policy: Policy, ciphered: str) -> None:
    assert green_book(policy).protect(GET_CLOCK).hex() == ciphered
    if policy is not Policy.NONE:
        assert green_book(policy).unprotect(bytes.fromhex(ciphered)) == GET_CLOCK


def test_the_standards_example_of_a_ciphered_initiate() -> None:
    plain = bytes.fromhex("01011000112233445566778899aabbccddeeff0000065f1f0400007e1f04b0")
    assert InitiateRequest.parse(plain).emit() == plain
    assert green_book(Policy.BOTH).protect_initiate(plain).hex() == (
        "21303001234567801302ff8a7874133d414ced25b42534d28db0047720606b175bd52211be6841db204d39ee6fdb8e356855"
    )


def test_the_standards_example_of_hls_5() -> None:
    client = Ciphering(Security(CLIENT, EK, AK, counters=MemoryCounters(1), peer_title=METER))
    meter = Ciphering(Security(METER, EK, AK, counters=MemoryCounters(0x01234567), peer_title=CLIENT))
    theirs, ours = b"P6wRJ21F", b"K56iVagY"
    hls = Hls(Mechanism.HLS_GMAC)
    proof = prove(hls, Challenges(ours, theirs, CLIENT, METER), client)
    assert proof.hex() == "10000000011a52fe7dd3e72748973c1e28"
    answer = prove(hls, Challenges(theirs, ours, METER, CLIENT), meter)
    assert answer.hex() == "1001234567fe1466afb3dbcd4f9389e2b7"
    verify(hls, Challenges(ours, theirs, CLIENT, METER), answer, client)
    verify(hls, Challenges(theirs, ours, METER, CLIENT), proof, meter)


def test_digests_of_hls_3_and_4() -> None:
    challenges = Challenges(b"K56iVagY", b"P6wRJ21F")
    for mechanism, size in ((Mechanism.HLS_MD5, 16), (Mechanism.HLS_SHA1, 20), (Mechanism.HLS_SHA256, 32)):
        hls = Hls(mechanism, b"secret")
        proof = prove(hls, challenges, None)
        assert len(proof) == size
        other = Challenges(challenges.theirs, challenges.ours)
        verify(hls, other, proof, None)
        with pytest.raises(PeerError):
            verify(hls, other, proof[:-1] + bytes((proof[-1] ^ 1,)), None)


def test_hls_2_with_aes_encrypts_the_challenge_filled_up_with_zeros() -> None:
    transform = aes_ecb(bytes(range(16)))
    # FIPS 197, appendix C.1
    assert transform(bytes.fromhex("00112233445566778899aabbccddeeff")).hex() == "69c4e0d86a7b0430d8cdb78070b4c55a"
    assert transform(b"12345678") == transform(b"12345678" + bytes(8))
    assert len(transform(bytes(17))) == 32
    with pytest.raises(LocalError):
        aes_ecb(b"short")


def test_ecdsa_challenges_have_32_octets_and_a_shorter_one_of_the_other_side_is_borne() -> None:
    ours, _theirs = ecdsa_pair(ec.SECP256R1())
    assert len(make_challenge(ours)) == 32
    with pytest.raises(LocalError, match="32 to 64"):
        replace(ours, challenge_octets=16)
    check_challenges(make_challenge(ours), b"sixteen octets!!")


@pytest.mark.parametrize("name", ["sha256", "ecdsa"])
def test_system_titles_are_proved_in_a_plain_context_too(name: str) -> None:
    client, meter = ecdsa_pair(ec.SECP256R1())
    if name != "ecdsa":
        client = meter = Hls(Mechanism.HLS_SHA256, b"secret")
    sides = replace(client, system_title=CLIENT), replace(meter, system_title=METER)
    events, wire = run((sides[0], None), (sides[1], None))
    assert isinstance(events[-1], SessionClosed)
    assert Aarq.parse(wire.log[0][1]).system_title == CLIENT
    assert Aare.parse(wire.log[1][1]).system_title == METER
    with pytest.raises(LocalError, match="system title"):
        replace(client, system_title=b"short")


def ecdsa_pair(curve: ec.EllipticCurve) -> tuple[Hls, Hls]:
    ours, theirs = ec.generate_private_key(curve), ec.generate_private_key(curve)
    return (
        Hls(Mechanism.HLS_ECDSA, private_key=ours, peer_key=theirs.public_key()),
        Hls(Mechanism.HLS_ECDSA, private_key=theirs, peer_key=ours.public_key()),
    )


def keys(suite: int = 0) -> tuple[bytes, bytes]:
    return (EK, AK) if suite < 2 else (bytes(range(32)), bytes(range(0x80, 0xA0)))


def pair(
    policy: Policy = Policy.BOTH, suite: int = 0, *, dedicated: bool = False, general: bool = False
) -> tuple[Security, Security]:
    ek, ak = keys(suite)
    client = Security(CLIENT, ek, ak, suite, policy, MemoryCounters(5), dedicated, general)
    meter = Security(METER, ek, ak, suite, policy, MemoryCounters(0))
    return client, meter


def run(
    client: tuple[Auth, Security | None],
    meter: tuple[Auth, Security | None],
    tamper: Callable[[int, bytes], bytes] = lambda _step, apdu: apdu,
) -> tuple[list[SessionEvent], Wire]:
    """A session that reads one long value; `tamper` may change the n-th answer."""
    server = MeterServer([CosemObject(1, REF.obis, readers={2: constant(LONG)})], auth=meter[0], security=meter[1])
    wire = Wire(server.new_association(1))
    session = MeterSession(PacketLink(), client=1, server=1, auth=client[0], security=client[1], pdu_size=512)
    session.read([REF], 0.0)
    steps = itertools.count()
    return wire.run(session, alter=lambda answer: tamper(next(steps), answer)), wire


BACKWARDS = Hls(Mechanism.HLS, transform=lambda challenge: challenge[::-1])
AUTHS: list[tuple[str, Auth, Auth]] = [
    ("none", NoAuth(), NoAuth()),
    ("low", Lls("pw"), Lls("pw")),
    ("2", BACKWARDS, BACKWARDS),
    *((name, open_auth(name, b"secret"), open_auth(name, b"secret")) for name in ("md5", "sha1", "sha256", "gmac")),
    ("ecdsa", *ecdsa_pair(ec.SECP256R1())),
    ("ecdsa-384", *ecdsa_pair(ec.SECP384R1())),
]


@pytest.mark.parametrize(("name", "ours", "theirs"), AUTHS, ids=[line[0] for line in AUTHS])
@pytest.mark.parametrize("policy", [Policy.NONE, Policy.AUTHENTICATE, Policy.ENCRYPT, Policy.BOTH])
def test_every_authentication_with_every_policy_reads_in_blocks(
    name: str, ours: Auth, theirs: Auth, policy: Policy
) -> None:
    client, meter = pair(policy)
    events, wire = run((ours, client), (theirs, meter))
    assert [type(event) for event in events[1:]] == [ItemRead, ReadDone, SessionClosed]
    assert isinstance(events[1], ItemRead)
    assert events[1].result == Value(LONG)
    assert all(len(apdu) <= 512 for way, apdu in wire.log if way == "<")
    if policy & Policy.ENCRYPT:
        assert not any(b"\x09\x82\x0c\x00" in apdu for _way, apdu in wire.log)


@pytest.mark.parametrize("suite", [0, 1, 2])
@pytest.mark.parametrize("dedicated", [False, True])
@pytest.mark.parametrize("general", [False, True])
def test_every_suite_key_and_form_reads(suite: int, dedicated: bool, general: bool) -> None:
    client, meter = pair(suite=suite, dedicated=dedicated, general=general)
    gmac = open_auth("gmac")
    events, wire = run((gmac, client), (gmac, meter))
    assert isinstance(events[1], ItemRead)
    assert events[1].result == Value(LONG)
    first = 0xDB + dedicated if general else 0xD0 if dedicated else 0xC8
    assert {apdu[0] for way, apdu in wire.log[4:-2] if way == ">"} == {first}
    answer = 0xDB + dedicated if general else 0xD4 if dedicated else 0xCC
    assert {apdu[0] for way, apdu in wire.log[4:-2] if way == "<"} == {answer}


def test_hls_5_works_in_a_plain_context_too() -> None:
    client, meter = (replace(security, ciphered_context=False) for security in pair())
    events, wire = run((open_auth("gmac"), client), (open_auth("gmac"), meter))
    assert isinstance(events[-1], SessionClosed)
    assert wire.requests("c3")


@pytest.mark.parametrize("name", ["md5", "sha1", "sha256"])
def test_a_wrong_secret_is_refused_by_the_meter(name: str) -> None:
    events, _wire = run((open_auth(name, b"right"), None), (open_auth(name, b"wrong"), None))
    (failed,) = events
    assert isinstance(failed, SessionFailed)
    assert "our proof was not accepted" in str(failed.error)


def test_a_wrong_key_is_refused_by_the_meter() -> None:
    client, meter = pair()
    for wrong in (replace(client, ek=bytes(16)), replace(client, ak=bytes(16))):
        (failed,), _wire = run((NoAuth(), wrong), (NoAuth(), meter))
        assert isinstance(failed, SessionFailed)
        assert "authentication-failure" in str(failed.error)


@pytest.mark.parametrize("policy", [Policy.AUTHENTICATE, Policy.BOTH])
def test_every_flipped_bit_of_a_ciphered_answer_is_noticed(policy: Policy) -> None:
    client, meter = pair(policy)
    server = MeterServer([CosemObject(1, REF.obis, readers={2: constant(axdr.u32(7))})], security=meter)
    association = server.new_association(1)
    ours = Ciphering(client)
    ours.peer_title = METER
    initiate = InitiateRequest(LN_CLIENT_CONFORMANCE, 512).emit()
    aarq = Aarq(Context.LN_CIPHERED, ours.protect_initiate(initiate), system_title=CLIENT).emit()
    (aare,) = association.receive_apdu(aarq, 0.0)
    ours.unprotect(Aare.parse(aare).user_information or b"")
    (answer,) = association.receive_apdu(ours.protect(bytes.fromhex("c001c100010000600100ff0200")), 0.0)
    for bit in range(8 * len(answer)):
        damaged = bytearray(answer)
        damaged[bit // 8] ^= 1 << bit % 8
        in_tag = bit // 8 >= len(answer) - TAG_OCTETS
        with pytest.raises(DlmsError, match="authentication tag is wrong" if in_tag else None):
            ours.unprotect(bytes(damaged))
    assert ours.unprotect(answer).hex() == "c401c1000600000007"
    with pytest.raises(Replayed):
        ours.unprotect(answer)


def test_a_replayed_or_damaged_request_is_refused_by_the_meter_and_the_association_stands() -> None:
    client, meter = pair()
    server = MeterServer([CosemObject(1, REF.obis, readers={2: constant(axdr.u32(7))})], security=meter)
    association = server.new_association(1)
    ours = Ciphering(client)
    initiate = ours.protect_initiate(InitiateRequest(LN_CLIENT_CONFORMANCE, 512).emit())
    association.receive_apdu(Aarq(Context.LN_CIPHERED, initiate, system_title=CLIENT).emit(), 0.0)
    request = ours.protect(bytes.fromhex("c001c100010000600100ff0200"))
    assert association.receive_apdu(request, 0.0)[0][0] == 0xCC
    assert association.receive_apdu(request, 0.0) == [bytes.fromhex("d8010600000007")]
    damaged = request[:-1] + bytes((request[-1] ^ 1,))
    assert association.receive_apdu(damaged, 0.0) == [bytes.fromhex("d80105")]
    assert association.receive_apdu(bytes.fromhex("c001c100010000600100ff0200"), 0.0) == [bytes.fromhex("d80101")]
    assert association.receive_apdu(ours.protect(bytes.fromhex("c001c100010000600100ff0200")), 0.0)[0][0] == 0xCC


def test_answers_in_the_clear_break_a_ciphered_association() -> None:
    client, meter = pair()
    (opened, failed), _wire = run(
        (NoAuth(), client),
        (NoAuth(), meter),
        lambda step, apdu: bytes.fromhex("c401c10011 05".replace(" ", "")) if step == 1 else apdu,
    )
    assert isinstance(failed, SessionFailed)
    assert "unprotected" in str(failed.error)
    assert opened is not None


def test_weaker_protection_than_agreed_is_refused() -> None:
    sender = Ciphering(Security(METER, EK, AK, policy=Policy.ENCRYPT, counters=MemoryCounters(9)))
    receiver = Ciphering(Security(CLIENT, EK, AK, policy=Policy.BOTH, peer_title=METER))
    with pytest.raises(PeerError, match="weaker"):
        receiver.unprotect(sender.protect(bytes.fromhex("c401c1001105")))


def test_an_invocation_counter_of_zero_is_as_good_as_any() -> None:
    sender = Ciphering(Security(METER, EK, AK, counters=MemoryCounters(0)))
    receiver = Ciphering(Security(CLIENT, EK, AK, peer_title=METER))
    apdu = sender.protect(bytes.fromhex("c401c1001105"))
    assert receiver.unprotect(apdu).hex() == "c401c1001105"
    with pytest.raises(Replayed):
        receiver.unprotect(apdu)


def test_the_peers_counter_is_remembered_over_associations() -> None:
    counters = MemoryCounters(0, seen=100)
    receiver = Ciphering(Security(CLIENT, EK, AK, counters=counters, peer_title=METER))
    with pytest.raises(Replayed):
        receiver.unprotect(Ciphering(Security(METER, EK, AK, counters=MemoryCounters(100))).protect(b"\xc4\x01"))
    receiver.unprotect(Ciphering(Security(METER, EK, AK, counters=MemoryCounters(101))).protect(b"\xc4\x01"))
    assert counters.seen() == 101


def test_a_used_up_counter_stops_before_it_starts_again() -> None:
    ciphering = Ciphering(Security(CLIENT, EK, AK, counters=MemoryCounters(COUNTER_MAX)))
    ciphering.protect(GET_CLOCK)
    with pytest.raises(LocalError, match="used up"):
        ciphering.protect(GET_CLOCK)


@pytest.mark.parametrize(
    "apdu",
    [
        "c4",
        "cc",
        "cc00",
        "cc0530000000",
        "cc1130000000010000000000000000000000000000",
        "cc11b0000000010000000000000000000000000000",
        "cc1131000000010000000000000000000000000000",
        "db084d4d4d00000000020530000000ff",
        "dc084d4d4d0000bc614e0530000000ff",
        "d41130000000010000000000000000000000000000",
    ],
)
def test_what_is_not_ciphered_right_is_refused(apdu: str) -> None:
    with pytest.raises((DecodeError, PeerError)):
        Ciphering(Security(CLIENT, EK, AK, peer_title=METER)).unprotect(bytes.fromhex(apdu))


def test_an_apdu_of_another_service_inside_is_refused() -> None:
    sender = Ciphering(Security(METER, EK, AK))
    apdu = sender.protect(bytes.fromhex("c401c1001105"))
    with pytest.raises(PeerError):
        Ciphering(Security(CLIENT, EK, AK, peer_title=METER)).unprotect(b"\xcd" + apdu[1:])


def test_our_own_challenge_sent_back_is_refused() -> None:
    association = Association(Proposal(auth=open_auth("md5", b"secret")))
    association.associate()
    aarq = Aarq.parse(association.take_output())
    answer = bytes.fromhex("be10040e0800065f1f0400001f1f01f40007")
    body = bytes.fromhex("a109060760857405080101a203020100a305a10302010e88020780890760857405080203")
    challenge = aarq.authentication or b""
    value = bytes((0x80, len(challenge))) + challenge
    body += bytes((0xAA, len(value))) + value + answer
    association.receive_apdu(bytes((0x61, len(body))) + body)
    event = association.next_event()
    assert isinstance(event, AssociationFailed)
    assert "our own challenge" in str(event.error)


@pytest.mark.parametrize("size", [0, 7, 65])
def test_challenges_of_an_unfit_length_are_refused(size: int) -> None:
    with pytest.raises(PeerError):
        check_challenges(b"x" * 16, bytes(size))


def test_challenges_are_fresh_and_sixteen_octets_by_default() -> None:
    hls = Hls(Mechanism.HLS_MD5, b"s")
    made = {make_challenge(hls) for _ in range(50)}
    assert len(made) == 50
    assert {len(challenge) for challenge in made} == {16}


def test_signatures_are_two_numbers_of_the_fields_length() -> None:
    for curve, size in ((ec.SECP256R1(), 64), (ec.SECP384R1(), 96)):
        key = ec.generate_private_key(curve)
        signature = sign(key, b"data")
        assert len(signature) == size
        check_signature(key.public_key(), b"data", signature)
        for wrong in (signature[:-1], bytes((signature[0] ^ 1,)) + signature[1:]):
            with pytest.raises(PeerError):
                check_signature(key.public_key(), b"data", wrong)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Security(CLIENT, bytes(15), AK),
        lambda: Security(CLIENT, EK, bytes(15)),
        lambda: Security(CLIENT, EK),
        lambda: Security(CLIENT[1:], EK, AK),
        lambda: Security(CLIENT, EK, AK, suite=3),
        lambda: Security(CLIENT, EK, AK, suite=2),
        lambda: Hls(Mechanism.LLS, b"x"),
        lambda: Hls(Mechanism.HLS_MD5),
        lambda: Hls(Mechanism.HLS),
        lambda: Hls(Mechanism.HLS_ECDSA),
        lambda: Hls(Mechanism.HLS_GMAC, challenge_octets=4),
        lambda: open_auth("gost"),
        lambda: Lls(""),
    ],
)
def test_unfit_settings_are_told_at_once(make: Callable[[], object]) -> None:
    with pytest.raises(LocalError):
        make()


def test_no_secret_is_in_a_repr() -> None:
    client, _meter = pair()
    for text in (repr(client), repr(Lls("hidden")), repr(Hls(Mechanism.HLS_MD5, b"hidden"))):
        assert "hidden" not in text
        assert EK.hex() not in text
        assert repr(EK) not in text


def test_gmac_without_keys_is_our_own_mistake() -> None:
    with pytest.raises(LocalError):
        prove(Hls(Mechanism.HLS_GMAC), Challenges(b"a" * 8, b"b" * 8), None)


def test_titles_of_another_meter_are_refused() -> None:
    client, meter = pair()
    (failed,), _wire = run((NoAuth(), replace(client, peer_title=bytes(8))), (NoAuth(), meter))
    assert isinstance(failed, SessionFailed)


WRONG: dict[str, tuple[tuple[Auth, Security | None], tuple[Auth, Security | None]]] = {
    "password": ((Lls("wrong"), None), (Lls("right"), None)),
    "no password": ((NoAuth(), None), (Lls("right"), None)),
    "md5": ((open_auth("md5", b"wrong"), None), (open_auth("md5", b"right"), None)),
    "sha256": ((open_auth("sha256", b"wrong"), None), (open_auth("sha256", b"right"), None)),
    "ecdsa": ((ecdsa_pair(ec.SECP256R1())[0], None), (ecdsa_pair(ec.SECP256R1())[1], None)),
    "encryption key": ((open_auth("gmac"), replace(pair()[0], ek=AK)), (open_auth("gmac"), pair()[1])),
    "authentication key": ((open_auth("gmac"), replace(pair()[0], ak=EK)), (open_auth("gmac"), pair()[1])),
    "no ciphering": ((NoAuth(), None), (NoAuth(), pair()[1])),
    "gmac in a plain context": (
        (open_auth("gmac"), replace(pair()[0], ek=AK, ciphered_context=False)),
        (open_auth("gmac"), replace(pair()[1], ciphered_context=False)),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_key_is_an_error_of_its_own_type(name: str) -> None:
    events, _wire = run(*WRONG[name])
    assert [type(event) for event in events] == [SessionFailed]
    assert isinstance(events[0], SessionFailed)
    assert isinstance(events[0].error, SecurityError)


def test_an_answer_sent_again_is_an_error_of_the_same_type() -> None:
    client, meter = pair()
    events, _wire = run((NoAuth(), replace(client, counters=MemoryCounters(5, seen=9))), (NoAuth(), meter))
    assert isinstance(events[-1], SessionFailed)
    assert isinstance(events[-1].error, SecurityError)


def test_a_refusal_that_is_not_about_keys_is_no_error_of_keys() -> None:
    server = MeterServer([], auth=NoAuth(), conformance=Conformance(0))
    wire = Wire(server.new_association(1))
    session = MeterSession(PacketLink(), client=1, server=1)
    session.open(0.0)
    (failed,) = wire.run(session)
    assert isinstance(failed, SessionFailed)
    assert not isinstance(failed.error, SecurityError)


def test_only_the_peers_own_proof_of_the_challenge_is_taken() -> None:
    challenge, mine = bytes(range(16)), green_book(Policy.BOTH)
    proof = green_book(Policy.BOTH).gmac(challenge)
    mine.check_gmac(challenge, proof)
    for wrong in (
        proof[:-1] + bytes((proof[-1] ^ 1,)),  # the tag
        proof[:1] + bytes(4) + proof[5:],  # the counter that the tag is over
        bytes((proof[0] ^ 1,)) + proof[1:],  # the suite
        green_book(Policy.BOTH, title=CLIENT).gmac(challenge),  # another system title
        green_book(Policy.BOTH).gmac(bytes(16)),  # another challenge
    ):
        with pytest.raises(PeerError):
            mine.check_gmac(challenge, wrong)
    for damaged in (proof[:-1], proof + b"\0", b""):
        with pytest.raises(DecodeError):
            mine.check_gmac(challenge, damaged)


def test_a_proof_of_a_side_without_a_known_title_is_not_taken() -> None:
    unknown = Ciphering(Security(METER, EK, AK, policy=Policy.BOTH, counters=MemoryCounters(1)))
    with pytest.raises(PeerError, match="not known"):
        unknown.check_gmac(bytes(16), green_book(Policy.BOTH).gmac(bytes(16)))
    with pytest.raises(PeerError, match="not known"):
        unknown.unprotect(green_book(Policy.BOTH).protect(GET_CLOCK))


@pytest.mark.parametrize("octets", [0, 15, 17, 32])
def test_a_dedicated_key_has_the_length_of_the_suite(octets: int) -> None:
    with pytest.raises(LocalError, match="dedicated key"):
        green_book(Policy.BOTH).use_dedicated(bytes(octets))
