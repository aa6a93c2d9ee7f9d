"""Fuzz targets for everything of DLMS above the links: data, APDUs, both sides of an association, ciphering, profiles.

Success or `DlmsError`; the two sides of an association bear everything and raise nothing.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric import ec

from dlms import axdr
from dlms.axdr import Data
from dlms.client.association import Answered, Association, Proposal
from dlms.client.knowledge import MeterKnowledge
from dlms.client.session import MeterSession
from dlms.codes import Conformance, Mechanism
from dlms.cosem.associations import REPLY_TO_HLS, named_objects_of, objects_of
from dlms.cosem.obis import AttributeRef, MethodRef
from dlms.cosem.profile import RowDecoder, RowStream
from dlms.cosem.short_names import names_of
from dlms.cosem.types import CosemType
from dlms.cosem.values import encode, typed
from dlms.errors import DlmsError
from dlms.security.certificates import CertificateQuery, check_issued, read_certificate, stored_certificate
from dlms.security.ciphering import Ciphering
from dlms.security.general_formats import GeneralCiphered, GeneralSigned
from dlms.security.general_protection import GeneralProtection
from dlms.security.hls import Challenges, aes_ecb, check_challenges, prove, verify
from dlms.security.keys import KeyId, key_transfer, transferred_keys
from dlms.security.settings import Hls, KeyChoice, MemoryCounters, Security
from dlms.server.hls import reply_to_hls
from dlms.server.server import MeterServer
from dlms.server.view import association_object
from dlms.xdlms.acse import Aare, Aarq, ReleaseApdu
from dlms.xdlms.apdu import action, get, notify, sn
from dlms.xdlms.apdu import service_errors as faults
from dlms.xdlms.apdu import set as set_apdu
from dlms.xdlms.apdu.access import Access, AccessRequest, AccessResponse
from dlms.xdlms.apdu.common import Item
from dlms.xdlms.exchange import Exchange, GetAnswer, GetExchange
from dlms.xdlms.exchange_sn import SnReadExchange, SnWriteExchange
from dlms.xdlms.exchange_write import AccessExchange, ActionExchange, SetExchange
from dlms.xdlms.gbt import BlockTransfer
from tests.dlms.client import test_association
from tests.dlms.cosem import test_profile_and_tables as test_cosem
from tests.dlms.cosem.every_class import every_class
from tests.dlms.plain_link import PacketLink
from tests.dlms.random_data import random_of
from tests.dlms.security import test_general_keys, test_security
from tests.dlms.server import test_security_setup, test_server
from tests.dlms.xdlms import test_app_fuzz
from tests.fuzz.guided import Target

PARSERS: tuple[Callable[[bytes], object], ...] = (
    Aarq.parse, Aare.parse, ReleaseApdu.parse, get.parse_request, get.parse_response, set_apdu.parse_request,
    set_apdu.parse_response, action.parse_request, action.parse_response, faults.parse_exception,
    faults.parse_service_error, notify.parse, notify.DataNotificationConfirm.parse, AccessRequest.parse,
    AccessResponse.parse, sn.parse_read_request, sn.parse_read_response, sn.parse_write_request,
    sn.parse_write_response, GeneralCiphered.parse, GeneralSigned.parse,
)  # fmt: skip
REF = AttributeRef.parse("1/0.0.96.1.0.255/2")
METHOD = MethodRef(1, REF.obis, 1)


def run_data(data: bytes) -> None:
    """What reads is written again as it was understood, and reads the same."""
    value = axdr.decode(data)
    assert axdr.decode(value.emit()).emit() == value.emit()
    for reader in (objects_of, names_of, lambda value: named_objects_of(value, value)):
        with suppress(DlmsError):
            reader(value)


@functools.cache
def kinds() -> list[CosemType]:
    """Every type of an attribute, in the order of the table."""
    return [member.type for found in every_class() for member in found.attributes.values()]


def run_values(data: bytes) -> None:
    """The first two octets choose an attribute, the rest is its value: shown by its type, it is written back."""
    kind = kinds()[int.from_bytes(data[:2], "big") % len(kinds())]
    value = axdr.decode(data[2:])
    shown = typed(kind, value)
    if not isinstance(shown, Data):
        assert encode(kind, shown) == value or value.tag != kind.tag


def typed_values() -> list[bytes]:
    """A value of every attribute."""
    chance = random.Random(3)
    return [at.to_bytes(2, "big") + random_of(kind, chance).emit() for at, kind in enumerate(kinds())]


def run_apdu(data: bytes) -> None:
    """Every parser."""
    for parser in PARSERS:
        with suppress(DlmsError):
            message = parser(data)
            emit = getattr(message, "emit", None)
            if emit is not None:
                emit()


def pieces(data: bytes) -> list[bytes]:
    """APDUs out of one input: each behind an octet that says how long it is."""
    out: list[bytes] = []
    at = 0
    while at < len(data) and len(out) < 40:
        size = data[at] or 1
        out.append(data[at + 1 : at + 1 + size])
        at += 1 + size
    return out


def _join(*apdus: bytes) -> bytes:
    return b"".join(bytes((len(apdu),)) + apdu for apdu in apdus if 0 < len(apdu) < 256)


def run_association(data: bytes) -> None:
    """A client that associates, then asks in turn for one thing after the other; the input is what a meter says."""
    exchanges: list[Callable[[], Exchange]] = [
        lambda: GetExchange((Item(REF),)),
        lambda: GetExchange((Item(REF), Item(REF))),
        lambda: SetExchange((Item(REF),), (axdr.octets(bytes(100)),), 64),
        lambda: ActionExchange((METHOD,), (axdr.octets(bytes(100)),), 64),
    ]
    association = Association(Proposal(conformance=Conformance(0xFFFFFF)))
    association.associate()
    for at, apdu in enumerate(pieces(data)):
        association.receive_apdu(apdu)
        while association.take_output():
            pass
        while (event := association.next_event()) is not None:
            if isinstance(event, Answered) and isinstance(event.answer, GetAnswer):
                with suppress(DlmsError):
                    event.answer.results()
        with suppress(DlmsError):
            association.request(exchanges[at % len(exchanges)]())


def run_exchanges(data: bytes) -> None:
    """Every kind of request, each with its own answers out of the input, as an association hands them on."""
    names = {(1, REF.obis): 0x100}
    exchanges: list[Exchange] = [
        GetExchange((Item(REF),)),
        GetExchange((Item(REF), Item(REF))),
        SetExchange((Item(REF),), (axdr.octets(bytes(100)),), 64),
        ActionExchange((METHOD,), (axdr.octets(bytes(100)),), 64),
        AccessExchange((Access(Item(REF), axdr.u8(7)), Access(Item(REF)))),
        SnReadExchange((Item(REF),), names),
        SnReadExchange.reply_to_hls(bytes(16)),
        SnWriteExchange((Item(REF),), (axdr.u8(1),), names),
    ]
    for exchange in exchanges:
        exchange.start(1)
        with suppress(DlmsError):
            for apdu in pieces(data):
                if len(apdu) < 3 or apdu[0] != exchange.response_tag:
                    continue
                answer = exchange.advance(apdu)
                if isinstance(answer, GetAnswer):
                    answer.results()
                if not isinstance(answer, bytes):
                    break


@functools.cache
def challenges_and_proofs() -> tuple[tuple[Hls, Challenges, Ciphering | None], ...]:
    """Every mechanism of high level security as the side that checks a proof sees it."""
    key = ec.derive_private_key(7, ec.SECP256R1())
    keys = Security(test_security.METER, test_security.EK, test_security.AK, counters=MemoryCounters(1))
    checked = Challenges(b"K56iVagY" * 4, b"P6wRJ21F" * 4, test_security.CLIENT, test_security.METER)
    secrets = [Hls(each, b"secret") for each in (Mechanism.HLS_MD5, Mechanism.HLS_SHA1, Mechanism.HLS_SHA256)]
    return (
        *((hls, checked, None) for hls in secrets),
        (Hls(Mechanism.HLS, transform=aes_ecb(bytes(16))), checked, None),
        (Hls(Mechanism.HLS_ECDSA, private_key=key, peer_key=key.public_key()), checked, None),
        (Hls(Mechanism.HLS_GMAC), checked, Ciphering(replace(keys, peer_title=test_security.METER))),
    )


def right_proofs() -> list[bytes]:
    """What the other side would prove, and the two requests that bring a proof to a meter."""
    proofs = []
    for hls, at, _ciphering in challenges_and_proofs():
        keys = Security(test_security.METER, test_security.EK, test_security.AK, counters=MemoryCounters(1))
        other = Challenges(at.theirs, at.ours, at.their_title, at.our_title)
        proofs.append(prove(hls, other, Ciphering(replace(keys, peer_title=test_security.CLIENT))))
    as_action = action.ActionRequest(0xC1, REPLY_TO_HLS, axdr.octets(bytes(16))).emit()
    return [*proofs, as_action, SnReadExchange.reply_to_hls(bytes(16)).start(0)]


def run_proofs(data: bytes) -> None:
    """The input as the challenge of the other side, as its proof, and as the request that brings it."""
    with suppress(DlmsError):
        check_challenges(b"K56iVagY", data)
    for hls, challenges, ciphering in challenges_and_proofs():
        with suppress(DlmsError):
            verify(hls, challenges, data, ciphering)
            assert data in right_proofs() or hls.mechanism in (Mechanism.HLS_ECDSA, Mechanism.HLS_GMAC)
    if data:
        for short_names in (False, True):
            with suppress(DlmsError):
                reply = reply_to_hls(data, short_names=short_names)
                if reply is not None:
                    assert reply.acceptance(b"proof") != reply.refusal()


def run_session(data: bytes) -> None:
    """A session that reads a list; it ends, one way or the other, and says so once."""
    session = MeterSession(PacketLink(), client=1, server=1, known=MeterKnowledge())
    session.read([REF, AttributeRef.parse("3/1.0.1.8.0.255/2"), AttributeRef.parse("8/0.0.1.0.0.255/2")], 0.0)
    ends = 0
    for apdu in pieces(data):
        while session.take_output():
            pass
        session.receive(apdu, 0.0)
        while (event := session.next_event()) is not None:
            ends += type(event).__name__ in ("SessionClosed", "SessionFailed")
    session.receive_eof(1.0)
    while (event := session.next_event()) is not None:
        ends += type(event).__name__ in ("SessionClosed", "SessionFailed")
    assert ends == 1


def run_server(data: bytes) -> None:
    """A meter, with and without ciphering, with short names and everything negotiable."""
    store = test_server.Store()
    _client, security = test_security.pair()
    for keys in (None, security):
        server = MeterServer([store.item], security=keys, conformance=Conformance(0xFFFFFF), short_names=True)
        server.add(association_object(server))
        association = server.new_association(1)
        for apdu in pieces(data):
            for answer in association.receive_apdu(apdu, 0.0):
                assert answer


def run_ciphering(data: bytes) -> None:
    """Ciphered APDUs of every kind."""
    title = bytes.fromhex("4d4d4d0000bc614e")
    security = Security(bytes(8), test_security.EK, test_security.AK, counters=MemoryCounters(), peer_title=title)
    ciphering = Ciphering(security)
    ciphering.use_dedicated(bytes(16))
    ciphering.unprotect(data)


@functools.cache
def message_keys() -> tuple[Security, Security]:
    """A client and a meter with keys of every kind; made once, since making them is slow."""
    return test_general_keys.pair()


def run_general(data: bytes) -> None:
    """A meter that takes keys of every kind and signatures hears an APDU; and what says which certificate is meant."""
    _client, meter = message_keys()
    keyed = replace(meter, counters=MemoryCounters(), sign=False, options=replace(meter.options))
    protection = GeneralProtection(
        keyed, is_server=True, uncipher=lambda apdu: (Ciphering(keyed, is_server=True).unprotect(apdu), 0)
    )
    with suppress(DlmsError):
        protection.open(data, test_security.CLIENT)
    with suppress(DlmsError):
        CertificateQuery.of(axdr.decode(data))
    transferred_keys(test_general_keys.MASTER, axdr.decode(data))


def general_seeds() -> Sequence[bytes]:
    client, _meter = message_keys()
    plain = bytes.fromhex("c001c100010000600100ff0200")
    seeds = [CertificateQuery(title=bytes(8)).data().emit(), CertificateQuery(serial=b"1", issuer=b"0").data().emit()]
    seeds.append(key_transfer(test_general_keys.MASTER, {KeyId.MASTER: bytes(16)}).emit())
    for choice in KeyChoice:
        options = replace(client.options, key=choice)
        sender = GeneralProtection(replace(client, options=options, sign=choice is KeyChoice.STATIC), is_server=False)
        seeds.append(sender.seal(plain, test_security.METER))
    return seeds


def run_certificate(data: bytes) -> None:
    """A meter is brought a certificate."""
    certificate = read_certificate(data)
    stored_certificate(certificate, data, test_security.METER, test_security.CLIENT).info().emit()
    check_issued(certificate, (certificate,))


def certificate_seeds() -> Sequence[bytes]:
    root = test_security_setup.Authority()
    middle = test_security_setup.Authority("Middle", root)
    return [
        test_security_setup.der(root.certificate),
        test_security_setup.der(middle.certificate),
    ]


def run_rows(data: bytes) -> None:
    """A profile buffer, in pieces and whole."""
    stream = RowStream(RowDecoder(test_cosem.COLUMNS, period_s=900))
    for piece in pieces(data):
        stream.feed(piece)
    decoder = RowDecoder(test_cosem.COLUMNS, period_s=900)
    decoder.decode(data)
    for row in (None, (axdr.null(), axdr.u32(1), axdr.i16(1))):
        decoder.resume(row)
        decoder.typed(axdr.decode(data))
    stream.finish()


def run_blocks(data: bytes) -> None:
    """General block transfer, while something is being sent."""
    transfer = BlockTransfer(64, 3)
    transfer.send(bytes(300))
    for apdu in pieces(data):
        with suppress(DlmsError):
            transfer.receive(apdu)


@functools.cache
def conversation() -> tuple[bytes, ...]:
    """Inputs for the sides of an association: what the other side of the tests says."""
    seeds = test_app_fuzz.SEEDS
    aare, aarq = test_association.AARE, test_server.aarq(64)
    answers = [seed for seed in seeds if seed[:1] in (b"\xc4", b"\xc5", b"\xc7", b"\xd8", b"\x0c", b"\x0f", b"\xe0")]
    requests = [seed for seed in seeds if seed[:1] in (b"\xc0", b"\xc1", b"\xc3", b"\xd9", b"\x05", b"\x06", b"\x62")]
    return (
        _join(aare, *answers[:8]),
        _join(aare, *answers[8:]),
        _join(aarq, *requests[:10]),
        _join(aarq, *requests[10:]),
    )


def answers() -> list[bytes]:
    """Every answer of the known ones alone, as the tests have them."""
    return [
        _join(seed)
        for seed in test_app_fuzz.SEEDS
        if seed[:1] in (b"\xc4", b"\xc5", b"\xc7", b"\xda", b"\x0c", b"\x0d")
    ]


def ciphering_seeds() -> Sequence[bytes]:
    sender = Ciphering(Security(test_security.METER, test_security.EK, test_security.AK, counters=MemoryCounters(1)))
    plain = bytes.fromhex("c401c1001105")
    return [sender.protect(plain), sender.protect(plain, 0xDB), sender.protect_initiate(b"\x08" + bytes(13))]


DLMS = (DlmsError,)

TARGETS = {
    "data": Target(run_data, lambda: test_app_fuzz.SEEDS, DLMS, "/dlms/"),
    "apdu": Target(run_apdu, lambda: test_app_fuzz.SEEDS, (), "/dlms/"),
    "association": Target(run_association, conversation, (), "/dlms/"),
    "exchanges": Target(run_exchanges, answers, (), "/dlms/"),
    "proofs": Target(run_proofs, right_proofs, (), "/dlms/"),
    "session": Target(run_session, conversation, (), "/dlms/", mutations=400),
    "meter": Target(run_server, conversation, (), "/dlms/", mutations=300),
    "ciphering": Target(run_ciphering, ciphering_seeds, DLMS, "/dlms/"),
    "values": Target(run_values, typed_values, DLMS, "/dlms/cosem/"),
    "general": Target(run_general, general_seeds, DLMS, "/dlms/"),
    "certificate": Target(run_certificate, certificate_seeds, DLMS, "/dlms/"),
    "rows": Target(run_rows, lambda: [test_cosem.buffer(3), test_cosem.buffer(70)], DLMS, "/dlms/"),
    "blocks": Target(run_blocks, conversation, (), "/dlms/"),
}
