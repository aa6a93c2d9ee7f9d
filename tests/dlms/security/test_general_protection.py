"""Associations in general-ciphering and general-signing: every suite and policy, and attacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from dlms import axdr
from dlms.client.events import ItemRead, ReadDone, SessionClosed, SessionFailed, SessionOpened, Value
from dlms.codes import LN_CLIENT_CONFORMANCE, AssociationResult, Conformance, Context, Diagnostic
from dlms.errors import DlmsError, LocalError, PeerError
from dlms.security.ciphering import Ciphering
from dlms.security.gcm import Replayed
from dlms.security.general_formats import GeneralCiphered, GeneralSigned, Header, KeyInfo, sign_apdu
from dlms.security.general_protection import GeneralProtection
from dlms.security.settings import MemoryCounters, NoAuth, Policy, Security, open_auth
from dlms.server.objects import CosemObject, constant
from dlms.server.server import MeterServer, ServerAssociation
from dlms.xdlms.acse import Aare, Aarq, InitiateRequest, InitiateResponse
from tests.dlms.security.test_security import CLIENT, LONG, METER, REF, keys, run

READ = bytes.fromhex("c001c100010000600100ff0200")
REPLAYED, UNDECIPHERED, REFUSED = "d80106", "d80105", "d80101"
OUR_KEYS = {suite: ec.generate_private_key(curve()) for suite, curve in ((1, ec.SECP256R1), (2, ec.SECP384R1))}
METER_KEYS = {suite: ec.generate_private_key(curve()) for suite, curve in ((1, ec.SECP256R1), (2, ec.SECP384R1))}


def sides(suite: int = 1, policy: Policy = Policy.BOTH, *, signs: bool = False) -> tuple[Security, Security]:
    ek, ak = keys(suite)
    client = Security(CLIENT, ek, ak, suite, policy, MemoryCounters(5), general_ciphering=True)
    meter = Security(METER, ek, ak, suite, policy, MemoryCounters(0))
    if signs:
        ours, theirs = OUR_KEYS[suite], METER_KEYS[suite]
        client = replace(client, signing_key=ours, peer_signing_key=theirs.public_key())
        meter = replace(meter, signing_key=theirs, peer_signing_key=ours.public_key())
    return client, meter


@pytest.mark.parametrize("policy", [Policy.NONE, Policy.AUTHENTICATE, Policy.ENCRYPT, Policy.BOTH])
@pytest.mark.parametrize(("suite", "signs"), [(0, False), (1, False), (2, False), (1, True), (2, True)])
def test_every_suite_and_policy_reads_in_blocks(suite: int, signs: bool, policy: Policy) -> None:
    client, meter = sides(suite, policy, signs=signs)
    gmac = open_auth("gmac")
    events, wire = run((gmac, client), (gmac, meter))
    assert [type(event) for event in events] == [SessionOpened, ItemRead, ReadDone, SessionClosed]
    assert isinstance(events[1], ItemRead)
    assert events[1].result == Value(LONG)
    assert all(len(apdu) <= 512 for way, apdu in wire.log if way == "<")
    first = 0xDD if policy else 0xDF if signs else None
    if first is not None:
        assert {apdu[0] for _way, apdu in wire.log[2:-2]} == {first}  # between AARE and RLRQ


def test_answers_repeat_the_transaction_and_name_both_ends() -> None:
    _events, wire = run((NoAuth(), sides(signs=True)[0]), (NoAuth(), sides(signs=True)[1]))
    exchanges = [GeneralCiphered.parse(apdu).header for _way, apdu in wire.log[2:-2]]
    for request, answer in zip(exchanges[::2], exchanges[1::2], strict=True):
        assert (request.originator, request.recipient) == (CLIENT, METER)
        assert answer == Header(request.transaction, METER, CLIENT)
    assert len({header.transaction for header in exchanges}) == len(exchanges) // 2


def test_a_meter_that_does_not_take_general_protection_is_read_in_the_other_form() -> None:
    events, wire = run_refusing(sides()[0], sides()[1])
    assert isinstance(events[-1], SessionClosed)
    assert {apdu[0] for way, apdu in wire.log[2:-2] if way == ">"} == {0xC8}


def test_signatures_are_not_left_out_for_a_meter_that_does_not_take_them() -> None:
    (failed,), wire = run_refusing(*sides(signs=True))
    assert isinstance(failed, SessionFailed)
    assert "does not take signed" in str(failed.error)
    assert not wire.requests("c0")


def run_refusing(client: Security, meter: Security):  # type: ignore[no-untyped-def]
    """A session with a meter that does not grant general protection."""
    spare = replace(meter, counters=MemoryCounters(1 << 20))

    def without(step: int, apdu: bytes) -> bytes:
        if step:
            return apdu
        sealing = Ciphering(spare)
        conformance = LN_CLIENT_CONFORMANCE & ~Conformance.GENERAL_PROTECTION
        information = sealing.protect_initiate(InitiateResponse(conformance, 512).emit())
        return Aare(
            Context.LN_CIPHERED, AssociationResult.ACCEPTED, Diagnostic.NULL, information, system_title=METER
        ).emit()

    meter = replace(meter, counters=MemoryCounters(1 << 21))
    return run((NoAuth(), client), (NoAuth(), meter), without)


# ---------------------------------------------------------------------------------------------- attacks on the meter


def associated(meter: Security, client: Security) -> tuple[ServerAssociation, Ciphering]:
    """A meter with an association, and its client's protection."""
    server = MeterServer([CosemObject(1, REF.obis, readers={2: constant(axdr.u32(7))})], security=meter)
    association, ours = server.new_association(1), Ciphering(client)
    initiate = InitiateRequest(LN_CLIENT_CONFORMANCE | Conformance.GENERAL_PROTECTION, 512).emit()
    aarq = Aarq(Context.LN_CIPHERED, ours.protect_initiate(initiate), system_title=CLIENT)
    aare = Aare.parse(association.receive_apdu(aarq.emit(), 0.0)[0])
    assert aare.accepted
    ours.peer_title = METER
    ours.unprotect(aare.user_information or b"")
    ours.use_named()
    return association, ours


FORMS = [(Policy.BOTH, False), (Policy.AUTHENTICATE, False), (Policy.BOTH, True), (Policy.NONE, True)]


@pytest.mark.parametrize(("policy", "signs"), FORMS)
def test_a_replayed_request_is_refused_and_the_association_stands(policy: Policy, signs: bool) -> None:
    client, meter = sides(1, policy, signs=signs)
    association, ours = associated(meter, client)
    request = ours.protect(READ)
    assert ours.unprotect(association.receive_apdu(request, 0.0)[0]).hex() == "c401c1000600000007"
    assert association.receive_apdu(request, 0.0)[0].hex().startswith(REPLAYED)
    assert ours.unprotect(association.receive_apdu(ours.protect(READ), 0.0)[0])[0] == 0xC4
    again, _other = associated(meter, client)  # a new association remembers
    assert again.receive_apdu(request, 0.0)[0].hex().startswith(REPLAYED)


@pytest.mark.parametrize(("policy", "signs"), FORMS)
def test_every_changed_octet_of_a_request_is_noticed(policy: Policy, signs: bool) -> None:
    client, meter = sides(1, policy, signs=signs)
    association, ours = associated(meter, client)
    request = ours.protect(READ)
    for at in range(1, len(request)):
        damaged = request[:at] + bytes((request[at] ^ 0x01,)) + request[at + 1 :]
        assert association.receive_apdu(damaged, 0.0)[0][0] == 0xD8, at
    assert ours.unprotect(association.receive_apdu(request, 0.0)[0])[0] == 0xC4


def test_requests_weaker_than_agreed_are_refused() -> None:
    client, meter = sides(signs=True)
    association, ours = associated(meter, client)
    assert association.receive_apdu(READ, 0.0)[0].hex() == REFUSED
    unsigned = replace(client, signing_key=None, peer_signing_key=None)
    for weaker in (unsigned, replace(unsigned, general_ciphering=False), replace(client, policy=Policy.NONE)):
        sender = Ciphering(weaker)
        sender.peer_title = METER
        if weaker.named:
            sender.use_named()
        assert association.receive_apdu(sender.protect(READ), 0.0)[0].hex() == UNDECIPHERED
    assert ours.unprotect(association.receive_apdu(ours.protect(READ), 0.0)[0])[0] == 0xC4


def test_a_plain_request_is_refused_where_only_signatures_are_agreed() -> None:
    client, meter = sides(policy=Policy.NONE, signs=True)
    association, _ours = associated(meter, client)
    assert association.receive_apdu(READ, 0.0)[0].hex() == REFUSED


# --------------------------------------------------------------------------------------------- attacks on the client


@pytest.mark.parametrize(("policy", "signs"), FORMS)
def test_a_changed_or_replayed_answer_breaks_the_association(policy: Policy, signs: bool) -> None:
    first: list[bytes] = []

    def replay(step: int, apdu: bytes) -> bytes:
        first.append(apdu)
        return first[1] if step == 2 else apdu

    attacks: list[Callable[[int, bytes], bytes]] = [
        replay,
        lambda step, apdu: apdu[:-1] + bytes((apdu[-1] ^ 1,)) if step == 1 else apdu,
        lambda step, apdu: bytes.fromhex("c401c1001105") if step == 1 else apdu,
    ]
    for attack in attacks:
        client, meter = sides(1, policy, signs=signs)
        events, _wire = run((NoAuth(), client), (NoAuth(), meter), attack)
        assert isinstance(events[-1], SessionFailed)
        assert isinstance(events[-1].error, PeerError)


# --------------------------------------------------------------------------------------------------- general protection


def both_ends(*, signs: bool = True, policy: Policy = Policy.BOTH) -> tuple[GeneralProtection, GeneralProtection]:
    client, meter = sides(1, policy, signs=signs)
    return GeneralProtection(client, is_server=False), GeneralProtection(meter, is_server=True)


def test_protected_for_or_by_somebody_else_is_refused() -> None:
    ours, theirs = both_ends()
    with pytest.raises(PeerError, match="not for us"):
        theirs.open(ours.seal(READ, b"OTHERONE"), CLIENT)
    with pytest.raises(PeerError, match="not the other side"):
        theirs.open(ours.seal(READ, METER), b"OTHERONE")
    with pytest.raises(LocalError):
        ours.seal(READ, None)
    assert theirs.open(ours.seal(READ, METER), CLIENT) == READ


@pytest.mark.parametrize(("policy", "signs"), FORMS)
def test_the_answer_to_another_request_is_refused(policy: Policy, signs: bool) -> None:
    ours, theirs = both_ends(signs=signs, policy=policy)
    theirs.open(ours.seal(READ, METER), CLIENT)
    late = theirs.seal(bytes.fromhex("c401c1001105"), CLIENT)
    theirs.open(ours.seal(READ, METER), CLIENT)
    with pytest.raises(PeerError, match="another request"):
        ours.open(late, METER)
    assert ours.open(theirs.seal(bytes.fromhex("c401c1001106"), CLIENT), METER)[-1] == 6


def test_a_signature_moved_into_another_transaction_is_refused() -> None:
    client, meter = sides(signs=True)
    moved = sign_apdu(READ, Header(bytes(8), CLIENT, METER), OUR_KEYS[1])
    unsigned = GeneralProtection(replace(client, signing_key=None, peer_signing_key=None), is_server=False)
    with pytest.raises(PeerError, match="different transactions"):
        GeneralProtection(meter, is_server=True).open(unsigned.seal(moved, METER), CLIENT)


def test_another_key_or_an_unknown_signer_is_refused() -> None:
    ours, theirs = both_ends(signs=False)
    sealed = GeneralCiphered.parse(ours.seal(READ, METER))
    with pytest.raises(PeerError, match="do not have"):
        theirs.open(replace(sealed, key_info=KeyInfo(0, 1)).emit(), CLIENT)
    assert theirs.open(replace(sealed, key_info=None).emit(), CLIENT) == READ
    signed = GeneralSigned(Header(bytes(8), CLIENT, METER), READ, bytes(64)).emit()
    with pytest.raises(PeerError, match="not known"):
        theirs.open(ours.seal(signed, METER), CLIENT)


def test_a_signed_notification_is_taken_once() -> None:
    client, meter = sides(policy=Policy.NONE, signs=True)
    ours, theirs = GeneralProtection(client, is_server=False), GeneralProtection(meter, is_server=True)
    said = theirs.seal(bytes.fromhex("0f40000001001105"), CLIENT)
    assert ours.open(said, METER)[0] == 0x0F
    with pytest.raises(Replayed):
        ours.open(said, METER)


def test_unfit_settings_are_told_at_once() -> None:
    client, _meter = sides(signs=True)
    changes: list[dict[str, object]] = [
        {"signing_key": None},
        {"peer_signing_key": None},
        {"suite": 0},
        {"dedicated": True},
        {"general": True},
        {"ciphered_context": False},
    ]
    for change in changes:
        with pytest.raises(LocalError):
            replace(client, **change)  # type: ignore[arg-type]


def test_cut_off_apdus_are_refused() -> None:
    for policy, signs in FORMS:
        ours, theirs = both_ends(signs=signs, policy=policy)
        whole = ours.seal(READ, METER)
        for end in range(1, len(whole)):
            with pytest.raises(DlmsError):
                theirs.open(whole[:end], CLIENT)
