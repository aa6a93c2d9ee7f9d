"""Associations in general-ciphering with every kind of key, from request to answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from dlms import axdr
from dlms.client.association import Association, Established, Proposal
from dlms.client.events import SessionClosed, SessionFailed, Value
from dlms.codes import LN_CLIENT_CONFORMANCE, Apdu, Conformance, Context, DataAccessResult
from dlms.errors import DlmsError, LocalError, PeerError
from dlms.security.ciphering import Ciphering
from dlms.security.general_formats import (
    AGREED,
    IDENTIFIED,
    WRAPPED,
    GeneralCiphered,
    GeneralSigned,
    Header,
    KeyInfo,
    cipher_apdu,
)
from dlms.security.keys import curve_of
from dlms.security.message_keys import GLOBAL_BROADCAST, GLOBAL_UNICAST, incoming, outgoing, wrapped_key
from dlms.security.settings import GeneralOptions, KeyChoice, MemoryCounters, NoAuth, Policy, Security
from dlms.server.objects import CosemObject
from dlms.server.server import MeterServer
from dlms.xdlms.acse import Aare, Aarq, InitiateRequest
from dlms.xdlms.apdu import set as set_apdu
from dlms.xdlms.apdu.common import HIGH_PRIORITY, Item
from tests.dlms.security.test_security import CLIENT, LONG, METER, REF, keys, run

GET = bytes.fromhex("c001c100010000600100ff0200")
MASTER, BROADCAST = bytes(range(0x40, 0x50)), bytes(range(0x60, 0x70))
NOW = bytes.fromhex("07ea0b1b05061e0000000000")


def pair(
    choice: KeyChoice = KeyChoice.GLOBAL, suite: int = 1, policy: Policy = Policy.BOTH, *, sign: bool = False
) -> tuple[Security, Security]:
    """Both sides with every kind of key; the client sends with `choice`, the meter would not by itself."""
    ek, ak = keys(suite)
    own = [ec.generate_private_key(curve_of(suite or 1)) for _ in range(4)]
    public = [key.public_key() for key in own]
    master = (MASTER * 2)[: len(ek)]
    sides: list[Security] = []
    for at, (title, peer) in enumerate(((CLIENT, METER), (METER, CLIENT))):
        options = GeneralOptions(
            choice if title == CLIENT else KeyChoice.GLOBAL,
            master,
            own[at] if suite else None,
            public[1 - at] if suite else None,
            (BROADCAST * 2)[: len(ek)],
        )
        sides.append(
            Security(
                title,
                ek,
                ak,
                suite,
                policy,
                MemoryCounters(5),
                peer_title=peer,
                general_ciphering=True,
                signing_key=own[2 + at] if suite else None,
                peer_signing_key=public[3 - at] if suite else None,
                sign=sign,
                options=options,
            )
        )
    return sides[0], sides[1]


KINDS = {KeyChoice.GLOBAL: IDENTIFIED, KeyChoice.WRAPPED: WRAPPED, KeyChoice.ONE_PASS: AGREED, KeyChoice.STATIC: AGREED}


EVERY = [
    (suite, choice, sign)
    for suite in (0, 1, 2)
    for choice in KeyChoice
    for sign in (False, True)
    if suite or not (choice.agreed or sign)
]


@pytest.mark.parametrize(("suite", "choice", "sign"), EVERY)
def test_a_session_with_every_kind_of_key_is_answered_in_kind(suite: int, choice: KeyChoice, *, sign: bool) -> None:
    client, meter = pair(choice, suite, sign=sign)
    events, wire = run((NoAuth(), client), (NoAuth(), meter))
    assert isinstance(events[-1], SessionClosed)
    assert Value(LONG) in [getattr(event, "result", None) for event in events]
    protected = [GeneralCiphered.parse(apdu) for _way, apdu in wire.log[2:-2]]
    assert len(protected) > 10
    assert {apdu.key_info.choice for apdu in protected if apdu.key_info} == {KINDS[choice]}
    if choice in (KeyChoice.WRAPPED, KeyChoice.ONE_PASS):
        assert len({apdu.key_info.data for apdu in protected if apdu.key_info}) == len(protected)
        assert {apdu.contents[1:5] for apdu in protected} == {bytes(4)}
    else:
        assert len({(apdu.header.originator, apdu.contents[1:5]) for apdu in protected}) == len(protected)
    assert max(len(apdu) for _way, apdu in wire.log) <= 512


@pytest.mark.parametrize(("suite", "choice", "sign"), EVERY)
def test_protection_adds_no_more_than_is_reckoned_with(suite: int, choice: KeyChoice, *, sign: bool) -> None:
    client, _meter = pair(choice, suite, sign=sign)
    options = client.options
    only = GeneralOptions(
        choice,
        options.master_key if choice is KeyChoice.WRAPPED else b"",
        options.agreement_key if choice.agreed else None,
        options.peer_agreement_key if choice.agreed else None,
    )
    sender = replace(client, options=replace(only, date_time=lambda: NOW, other_information=bytes(64)))
    ours = Ciphering(sender)
    ours.use_named()
    sizes = {len(ours.protect(bytes((0xC0,)) + bytes(size - 1))) - size for size in (1, 40, 100, 200, 500, 60_000)}
    assert max(sizes) <= sender.overhead
    assert sender.overhead - max(sizes) <= 4 * 48 + 12  # what an ephemeral key would take where none is made


def associated(client: Security, meter: Security) -> tuple[Ciphering, MeterServer, object, list[int]]:
    """A client's ciphering with a meter that granted general protection, and what was written to it."""
    written: list[int] = []

    def write(value: axdr.Data) -> DataAccessResult:
        written.append(value.integer())
        return DataAccessResult.SUCCESS

    item = CosemObject(1, REF.obis, readers={2: lambda _selection: axdr.u32(7)}, writers={2: write})
    server = MeterServer([item], security=meter)
    association = server.new_association(1)
    ours = Ciphering(client)
    wanted = LN_CLIENT_CONFORMANCE | Conformance.GENERAL_PROTECTION
    initiate = ours.protect_initiate(InitiateRequest(wanted, 1024).emit())
    (aare,) = association.receive_apdu(Aarq(Context.LN_CIPHERED, initiate, system_title=CLIENT).emit(), 0.0)
    ours.peer_title = METER
    ours.unprotect(Aare.parse(aare).user_information or b"")
    if client.named:
        ours.use_named()
    return ours, server, association, written


def ask(association: object, apdu: bytes) -> list[bytes]:
    return association.receive_apdu(apdu, 0.0)  # type: ignore[attr-defined, no-any-return]


REPLAY = bytes.fromhex("d80106")
UNREADABLE = bytes.fromhex("d80105")


@pytest.mark.parametrize("choice", KeyChoice)
def test_every_kind_of_request_is_taken_once(choice: KeyChoice) -> None:
    ours, _server, association, _written = associated(*pair(choice))
    first, second = ours.protect(GET), ours.protect(GET)
    (answer,) = ask(association, second)
    assert ours.unprotect(answer).hex() == "c401c1000600000007"
    for old in (first, second):
        (refusal,) = ask(association, old)
        assert refusal[:3] == REPLAY
    (answer,) = ask(association, ours.protect(GET))
    assert ours.unprotect(answer).hex() == "c401c1000600000007"


@pytest.mark.parametrize("choice", KeyChoice)
def test_an_answer_to_an_earlier_request_is_refused(choice: KeyChoice) -> None:
    ours, _server, association, _written = associated(*pair(choice))
    (early,) = ask(association, ours.protect(GET))
    (late,) = ask(association, ours.protect(GET))
    with pytest.raises(PeerError, match="another request"):
        ours.unprotect(early)
    assert ours.unprotect(late)


@pytest.mark.parametrize("choice", [KeyChoice.WRAPPED, KeyChoice.ONE_PASS, KeyChoice.STATIC])
def test_every_flipped_bit_is_noticed(choice: KeyChoice) -> None:
    ours, _server, association, _written = associated(*pair(choice))
    request = ours.protect(GET)
    present = len(bytes((Apdu.GENERAL_CIPHERING,)) + GeneralCiphered.parse(request).header.emit())
    for bit in range(0, 8 * len(request), 3):
        if bit // 8 == present:
            continue  # whether key-info is there: anything but 0 says yes
        damaged = bytearray(request)
        damaged[bit // 8] ^= 1 << bit % 8
        answers = ask(association, bytes(damaged))
        assert all(answer[0] == Apdu.EXCEPTION_RESPONSE for answer in answers)
    assert ask(association, request)[0][0] == Apdu.GENERAL_CIPHERING


@pytest.mark.parametrize(
    ("info", "why"),
    [
        (KeyInfo(IDENTIFIED, 5), "do not have"),
        (KeyInfo(WRAPPED, 1, data=bytes(24)), "master key"),
        (KeyInfo(WRAPPED, 0, data=bytes(24)), "unwrap"),
        (wrapped_key(MASTER, bytes(32)), "32 octets"),
        (KeyInfo(AGREED, parameters=b"\x03"), "public signing key is not known"),
        (KeyInfo(AGREED, parameters=b"\x01", data=bytes(128)), "signature"),
        (KeyInfo(AGREED, parameters=b"\x01", data=bytes(9)), "signature"),
        (KeyInfo(AGREED, parameters=b"\x02", data=b"more"), "with key data"),
    ],
)
def test_key_info_that_brings_no_key_is_told_apart(info: KeyInfo, why: str) -> None:
    _client, meter = pair()
    with pytest.raises(PeerError, match=why):
        incoming(meter, Header(bytes(8), CLIENT, METER), info)


def test_without_keys_of_that_kind_nothing_is_taken_or_sent() -> None:
    bare = Security(METER, *keys(1), 1)
    header = Header(bytes(8), CLIENT, METER)
    client, _meter = pair(KeyChoice.ONE_PASS)
    for choice in (KeyChoice.WRAPPED, KeyChoice.ONE_PASS, KeyChoice.STATIC):
        with pytest.raises(PeerError):
            incoming(bare, header, outgoing(client, header, choice).info)
    for choice in (KeyChoice.ONE_PASS, KeyChoice.STATIC):
        with pytest.raises(LocalError, match="do not allow"):
            outgoing(bare, header, choice)
    with pytest.raises(PeerError):
        incoming(bare, header, GLOBAL_BROADCAST)
    with pytest.raises(PeerError, match="without a transaction id"):
        incoming(client, Header(b"", METER, CLIENT), KeyInfo(AGREED, parameters=b"\x02"))


def test_a_point_off_the_curve_is_refused_though_it_is_signed() -> None:
    from dlms.security.ecdsa import sign

    client, meter = pair(KeyChoice.ONE_PASS)
    assert client.signing_key is not None
    point = bytes(31) + b"\x05" + bytes(31) + b"\x01"
    info = KeyInfo(AGREED, parameters=b"\x01", data=point + sign(client.signing_key, point))
    with pytest.raises(PeerError, match="no point"):
        incoming(meter, Header(bytes(8), CLIENT, METER), info)


def test_a_key_that_came_along_is_not_taken_for_what_is_not_authenticated() -> None:
    ours, _server, association, _written = associated(*pair(policy=Policy.ENCRYPT))
    header, key = Header((99).to_bytes(8, "big"), CLIENT, METER), bytes(16)
    weak = replace(pair()[0], policy=Policy.ENCRYPT)
    apdu = cipher_apdu(GET, header, weak, wrapped_key(MASTER, key), key, counter=0)
    assert ask(association, apdu) == [UNREADABLE]
    assert ours


def test_a_transaction_id_beyond_every_counter_cannot_shut_the_others_out() -> None:
    ours, _server, association, _written = associated(*pair(KeyChoice.WRAPPED))
    client, _meter = pair(KeyChoice.WRAPPED)
    header = Header(b"\xff" * 8, CLIENT, METER)
    key = outgoing(client, header, KeyChoice.WRAPPED)
    assert ask(association, cipher_apdu(GET, header, client, key.info, key.key, counter=0)) == [UNREADABLE]
    assert ask(association, ours.protect(GET))[0][0] == Apdu.GENERAL_CIPHERING


def test_date_time_and_other_information_are_sent_and_taken() -> None:
    client, meter = pair(KeyChoice.ONE_PASS, sign=True)
    options = replace(client.options, date_time=lambda: NOW, other_information=b"desk")
    ours, _server, association, _written = associated(replace(client, options=options), meter)
    request = ours.protect(GET)
    header = GeneralCiphered.parse(request).header
    assert (header.date_time, header.other) == (NOW, b"desk")
    (answer,) = ask(association, request)
    assert GeneralCiphered.parse(answer).header.other == b""
    assert ours.unprotect(answer).hex() == "c401c1000600000007"
    damaged = request.replace(b"desk", b"disk")
    assert ask(association, damaged) == [UNREADABLE]
    wrong = Header(bytes(8), CLIENT, METER, date_time=b"noon").emit()
    with pytest.raises(DlmsError, match="date-time of 4 octets"):
        GeneralSigned.parse(bytes((Apdu.GENERAL_SIGNING,)) + wrong + b"\x00\x00")


def test_lengths_in_long_form_are_authenticated_as_they_came() -> None:
    client, meter = pair()
    ours, _server, association, _written = associated(client, meter)
    assert ours
    raw = b"\x81\x08" + (50).to_bytes(8, "big") + b"\x08" + CLIENT + b"\x08" + METER + b"\x00\x00"
    header = Header((50).to_bytes(8, "big"), CLIENT, METER, raw=raw)
    apdu = cipher_apdu(GET, header, client, GLOBAL_UNICAST)
    assert apdu[1:3] == b"\x81\x08"
    assert ask(association, apdu)[0][0] == Apdu.GENERAL_CIPHERING


def test_the_answer_has_the_protection_of_its_request_though_the_policy_asks_for_none() -> None:
    client, meter = pair()
    for named in (True, False):
        sender = replace(client, general_ciphering=named, counters=MemoryCounters(5))
        lax = replace(meter, policy=Policy.NONE, general_ciphering=False, counters=MemoryCounters(5))
        ours, _server, association, _written = associated(sender, lax)
        (answer,) = ask(association, ours.protect(GET))
        assert answer[0] == (Apdu.GENERAL_CIPHERING if named else 0xCC)
        assert ours.unprotect(answer).hex() == "c401c1000600000007"
        assert ask(association, GET)[0].hex() == "c401c1000600000007"


def test_a_signature_around_a_ciphered_form_of_the_service_is_taken() -> None:
    from dlms.security.general_formats import sign_apdu

    client, meter = pair(sign=True)
    plain = replace(client, sign=False, general_ciphering=False)
    ours, _server, association, _written = associated(client, meter)
    inner = Ciphering(replace(plain, counters=client.counters)).protect(GET)
    assert client.signing_key is not None
    header = Header((900).to_bytes(8, "big"), CLIENT, METER)
    (answer,) = ask(association, sign_apdu(inner, header, client.signing_key))
    assert answer[0] == Apdu.GENERAL_CIPHERING
    assert ours
    lax = replace(meter, policy=Policy.NONE, counters=MemoryCounters(5))
    _ours, _server, association, _written = associated(replace(client, counters=MemoryCounters(5)), lax)
    inner = Ciphering(replace(plain, counters=MemoryCounters(50))).protect(GET)
    (answer,) = ask(association, sign_apdu(inner, header, client.signing_key))
    assert answer[0] == Apdu.GENERAL_CIPHERING  # nobody asks for it but the request


# ------------------------------------------------------------------------------------------------------- broadcast

WRITE = set_apdu.SetRequest(HIGH_PRIORITY | 1, Item(REF), axdr.u32(9)).emit()


@pytest.mark.parametrize("named", [False, True])
def test_an_unconfirmed_request_for_everybody_is_carried_out_once_and_not_answered(*, named: bool) -> None:
    client, meter = pair()
    ours, _server, association, written = associated(replace(client, general_ciphering=named), meter)
    told = ours.protect_broadcast(WRITE)
    assert told[0] == (Apdu.GENERAL_CIPHERING if named else Apdu.GENERAL_GLO)
    assert ask(association, told) == []
    assert written == [9]
    assert ask(association, told)[0][:3] == REPLAY
    assert written == [9]


def test_nothing_with_an_answer_goes_with_the_broadcast_key() -> None:
    client, meter = pair()
    ours, _server, association, written = associated(client, meter)
    confirmed = WRITE[:2] + bytes((WRITE[2] | 0x40,)) + WRITE[3:]
    for apdu in (GET, confirmed):
        with pytest.raises(LocalError, match="unconfirmed"):
            ours.protect_broadcast(apdu)
    counters = MemoryCounters(70)
    options = GeneralOptions(broadcast_key=BROADCAST, broadcast_counters=counters)
    header = Header((70).to_bytes(8, "big"), CLIENT, b"")
    for apdu in (GET, confirmed):
        forged = cipher_apdu(apdu, header, client, GLOBAL_BROADCAST, BROADCAST, counter=counters.next())
        assert ask(association, forged) == [UNREADABLE]
    assert written == []
    answer = cipher_apdu(
        bytes.fromhex("c401c1001105"), Header(bytes(8), METER, CLIENT), client, GLOBAL_BROADCAST, BROADCAST
    )
    with pytest.raises(PeerError, match="does not broadcast"):
        ours.unprotect(answer)
    assert options


def test_a_meter_without_the_broadcast_key_does_nothing() -> None:
    client, meter = pair()
    bare = replace(meter, options=GeneralOptions())
    for named in (False, True):
        sender = replace(client, general_ciphering=named, counters=MemoryCounters(5))
        ours, _server, association, written = associated(sender, replace(bare, counters=MemoryCounters(5)))
        assert ask(association, ours.protect_broadcast(WRITE)) == [UNREADABLE]
        assert written == []
    with pytest.raises(LocalError, match="broadcast key"):
        Ciphering(replace(client, options=GeneralOptions())).protect_broadcast(WRITE)
    with pytest.raises(LocalError, match="broadcast key"):
        Ciphering(replace(client, general_ciphering=False, options=GeneralOptions())).protect_broadcast(WRITE)


@pytest.mark.parametrize("ciphered", [False, True])
def test_a_client_tells_everybody(*, ciphered: bool) -> None:
    client, meter = pair()
    written: list[axdr.Data] = []

    def write(value: axdr.Data) -> DataAccessResult:
        written.append(value)
        return DataAccessResult.SUCCESS

    server = MeterServer([CosemObject(1, REF.obis, writers={2: write})], security=meter if ciphered else None)
    far = server.new_association(1)
    near = Association(Proposal(security=client if ciphered else None))
    with pytest.raises(LocalError, match="IDLE"):
        near.send_unconfirmed(WRITE)
    near.associate()
    (aare,) = far.receive_apdu(near.take_output(), 0.0)
    near.receive_apdu(aare)
    assert isinstance(near.next_event(), Established)
    near.send_unconfirmed(WRITE)
    assert far.receive_apdu(near.take_output(), 0.0) == []
    assert written == [axdr.u32(9)]
    with pytest.raises(LocalError):
        near.send_unconfirmed(GET)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"policy": Policy.ENCRYPT}, "authenticates"),
        ({"general_ciphering": False}, "authenticates"),
        ({"signing_key": None, "peer_signing_key": None}, "to sign the ephemeral key"),
        ({"suite": 0}, "suite 0"),
        ({"dedicated": True, "general_ciphering": False, "ciphered_context": False}, "authenticates|plain context"),
    ],
)
def test_unfit_options_are_told_at_once(change: dict[str, object], why: str) -> None:
    client, _meter = pair(KeyChoice.ONE_PASS)
    with pytest.raises(LocalError, match=why):
        replace(client, **change)  # type: ignore[arg-type]


def test_options_without_their_keys_are_told_at_once() -> None:
    for choice in (KeyChoice.WRAPPED, KeyChoice.ONE_PASS, KeyChoice.STATIC):
        with pytest.raises(LocalError):
            GeneralOptions(choice)
    with pytest.raises(LocalError, match="own key agreement key"):
        GeneralOptions(KeyChoice.STATIC, peer_agreement_key=ec.generate_private_key(curve_of(1)).public_key())
    with pytest.raises(LocalError):
        GeneralOptions(other_information=bytes(65))
    client, _meter = pair(suite=2)
    with pytest.raises(LocalError, match="another curve"):
        replace(client, signing_key=ec.generate_private_key(curve_of(1)))
    with pytest.raises(LocalError, match="master key"):
        replace(client, options=GeneralOptions(master_key=bytes(16)))
    with pytest.raises(LocalError):
        replace(client, options=GeneralOptions(broadcast_key=bytes(16)))
    with pytest.raises(LocalError, match="plain context"):
        Security(CLIENT, *keys(0), dedicated=True, ciphered_context=False)


def test_no_key_is_in_a_repr() -> None:
    client, _meter = pair()
    for text in (repr(client), repr(client.options)):
        assert repr(MASTER) not in text
        assert repr(BROADCAST) not in text


def test_a_session_without_the_right_agreement_key_fails_with_the_reason() -> None:
    client, meter = pair(KeyChoice.STATIC)
    other = replace(meter.options, agreement_key=ec.generate_private_key(curve_of(1)))
    events, _wire = run((NoAuth(), client), (NoAuth(), replace(meter, options=other)))
    texts = [str(event.error) for event in events if isinstance(event, SessionFailed)]
    refused = [getattr(getattr(event, "result", None), "code", "") for event in events]
    assert any("deciphering" in text for text in texts + [str(code) for code in refused])
