"""The security setup of a meter: keys brought, agreed on, made; certificates; and by whom."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dlms import axdr
from dlms.axdr import Data
from dlms.client.meter import Meter
from dlms.client.reading import ItemFailed
from dlms.codes import ActionResult
from dlms.cosem.obis import AttributeRef
from dlms.errors import DlmsError, LocalError, PeerError
from dlms.security.certificates import (
    CERTIFICATE_BYTES_MAX,
    CertificateQuery,
    CertificateType,
    Entity,
    read_certificate,
)
from dlms.security.keys import KeyAgreement, KeyId, key_transfer, policy_bits, policy_of, rekeyed
from dlms.security.settings import MemoryCounters, Policy, Security
from dlms.server.security_setup import CERTIFICATES_MAX, SecuritySetup
from dlms.server.server import MeterServer
from tests.dlms.meter_port import MeterPort
from tests.dlms.security.test_general_keys import pair
from tests.dlms.security.test_security import CLIENT, METER
from tests.dlms.xdlms.test_app_fuzz import mutate

SETUP = "64/0.0.43.0.0.255/{}"
PAST = datetime(2020, 1, 1, tzinfo=UTC)


class Pair:
    """A meter with a security setup, and what its client knows."""

    def __init__(self, suite: int = 1, **options: object) -> None:
        self.client, self.meter = pair(suite=suite)
        self.client = replace(self.client, general_ciphering=False)
        self.meter = replace(self.meter, general_ciphering=False, peer_title=None)
        self.server = MeterServer([], security=self.meter)
        self.setup = SecuritySetup(self.server, self.meter, **options)  # type: ignore[arg-type]
        self.server.add(self.setup.item)

    def open(self, security: Security | None = None) -> Meter:
        return Meter("loop://", security=security or self.client, port=MeterPort(self.server))

    def read(self, meter: Meter, attribute: int) -> Data:
        return meter.get(AttributeRef.parse(SETUP.format(attribute)))


def test_the_attributes() -> None:
    both = Pair()
    with both.open() as meter:
        assert both.read(meter, 2) == axdr.enum(0x6C)
        assert both.read(meter, 3) == axdr.enum(1)
        assert both.read(meter, 4) == axdr.octets(CLIENT)
        assert both.read(meter, 5) == axdr.octets(METER)
        assert both.read(meter, 6) == axdr.array([])


@pytest.mark.parametrize("suite", [0, 1, 2])
def test_transferred_keys_are_in_force_from_the_next_association_on(suite: int) -> None:
    both = Pair(suite)
    size = len(both.client.ek)
    new = {key: bytes((key + 1,)) * size for key in KeyId}
    with both.open() as meter:
        meter.security_setup.transfer(both.client.options.master_key, new)
        assert both.read(meter, 3) == axdr.enum(suite)  # still with the old ones
    with pytest.raises(DlmsError), both.open():
        raise AssertionError("the old keys opened an association")
    renewed = rekeyed(both.client, new)
    assert renewed.counters.next() == 0
    with both.open(renewed) as meter:
        assert both.read(meter, 3) == axdr.enum(suite)
    held = both.setup.security
    assert [held.ek, held.options.broadcast_key, held.ak, held.options.master_key] == [new[key] for key in KeyId]


def test_of_several_keys_all_are_taken_or_none() -> None:
    both = Pair()
    good, short = bytes(16), bytes(24)
    with both.open() as meter:
        for keys in ({KeyId.AUTHENTICATION: good, KeyId.MASTER: short}, {KeyId.GLOBAL_UNICAST_ENCRYPTION: short}):
            with pytest.raises(ItemFailed, match="other-reason"):
                meter.security_setup.transfer(both.client.options.master_key, keys)
        with pytest.raises(ItemFailed):
            meter.security_setup.transfer(bytes(16), {KeyId.AUTHENTICATION: good})
    assert both.setup.security is both.meter
    with both.open():
        pass


def test_what_must_be_kept_is_told_before_it_is_in_force() -> None:
    told: list[Security] = []
    both = Pair(changed=told.append, new_counters=lambda: MemoryCounters(77))
    with both.open() as meter:
        meter.security_setup.transfer(both.client.options.master_key, {KeyId.GLOBAL_UNICAST_ENCRYPTION: bytes(16)})
    assert told == [both.setup.security]
    assert told[0].counters.next() == 77

    def full(_security: Security) -> None:
        raise LocalError("the disk is full")

    both = Pair(changed=full)
    with both.open() as meter, pytest.raises(ItemFailed):
        meter.security_setup.transfer(both.client.options.master_key, {KeyId.MASTER: bytes(16)})
    assert both.setup.security is both.meter


@pytest.mark.parametrize("suite", [1, 2])
@pytest.mark.parametrize("key_id", KeyId)
def test_a_key_that_was_agreed_on_opens_the_next_association(suite: int, key_id: KeyId) -> None:
    both = Pair(suite)
    client = both.client
    assert client.signing_key is not None
    assert client.peer_signing_key is not None
    ours = KeyAgreement(suite, key_id, client.signing_key, party_u=CLIENT, party_v=METER)
    with both.open() as meter:
        key = meter.security_setup.agree(ours, client.peer_signing_key)
    renewed = rekeyed(client, {key_id: key})
    with both.open(renewed) as meter:
        meter.security_setup.transfer(renewed.options.master_key, {KeyId.AUTHENTICATION: bytes(len(client.ek))})
    held = both.setup.security
    assert key in (held.ek, renewed.ak, held.options.master_key, held.options.broadcast_key)


def test_an_agreement_that_the_client_did_not_sign_is_refused() -> None:
    both = Pair()
    client = both.client
    assert client.peer_signing_key is not None
    stranger = KeyAgreement(1, KeyId.MASTER, ec.generate_private_key(ec.SECP256R1()), party_u=CLIENT, party_v=METER)
    with both.open() as meter, pytest.raises(ItemFailed, match="other-reason"):
        meter.security_setup.agree(stranger, client.peer_signing_key)
    zero = Pair(0)
    with zero.open() as meter, pytest.raises(ItemFailed, match="other-reason"):
        meter.security_setup.agree(stranger, client.peer_signing_key)


def test_the_policy_only_grows() -> None:
    both = Pair()
    lax = replace(both.meter, policy=Policy.NONE)
    both.server.change_security(both.meter, lax)
    setup = SecuritySetup(both.server, lax)
    both.server.add(setup.item)
    with both.open() as meter:
        assert both.read(meter, 2) == axdr.enum(0)
        meter.security_setup.activate(0x24)
        meter.security_setup.activate(0x2C)
        assert both.read(meter, 2) == axdr.enum(0x2C)
        with pytest.raises(ItemFailed, match="read-write-denied"):
            meter.security_setup.activate(0x24)
        for wrong in (0x03, 0xFF):
            with pytest.raises(ItemFailed):
                meter.security_setup.activate(wrong | 0x2C)
    assert setup.security.policy is Policy.BOTH
    weak = replace(both.client, policy=Policy.AUTHENTICATE)
    with pytest.raises(DlmsError), both.open(weak) as meter:
        both.read(meter, 2)
    with both.open() as meter:
        meter.security_setup.activate(0xBC)
    assert setup.security.signs


def test_a_meter_without_signing_keys_does_not_promise_signatures() -> None:
    both = Pair(0)
    with both.open() as meter, pytest.raises(ItemFailed):
        meter.security_setup.activate(0x7C)


def test_policy_octets_both_ways() -> None:
    client, _meter = pair(sign=True)
    assert policy_bits(client) == 0xFC
    assert policy_of(0xFC) == (Policy.BOTH, True)
    assert policy_of(0x20) == (Policy.AUTHENTICATE, False)
    assert policy_of(0) == (Policy.NONE, False)
    for wrong in (1, 2, 0x100, -4):
        with pytest.raises(LocalError):
            policy_of(wrong)


def test_a_client_in_the_clear_changes_nothing() -> None:
    both = Pair()
    plain = MeterServer([], security={2: both.meter})
    plain.add(both.setup.item)
    with Meter("loop://", port=MeterPort(plain, client=1)) as meter:
        assert both.read(meter, 3) == axdr.enum(1)
        verbs = meter.security_setup
        with pytest.raises(ItemFailed, match="read-write-denied"):
            verbs.transfer(both.client.options.master_key, {KeyId.MASTER: bytes(16)})
        with pytest.raises(ItemFailed, match="read-write-denied"):
            verbs.activate(0xFC)
        with pytest.raises(ItemFailed, match="read-write-denied"):
            verbs.generate_key_pair(CertificateType.KEY_AGREEMENT)


# ---------------------------------------------------------------------------------------------------- certificates


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def usage(kind: CertificateType, *, authority: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=kind in (CertificateType.DIGITAL_SIGNATURE, CertificateType.TLS),
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=kind in (CertificateType.KEY_AGREEMENT, CertificateType.TLS),
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


class Authority:
    """Signs certificates."""

    def __init__(self, title: str = "Root", issuer: Authority | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.title = title
        self.certificate = (issuer or self).issue(
            title, self.key.public_key(), CertificateType.OTHER, authority=True, signer=issuer or self
        )

    def issue(
        self,
        subject: str,
        public: ec.EllipticCurvePublicKey,
        kind: CertificateType,
        *,
        authority: bool = False,
        signer: Authority | None = None,
        alternative: bytes | None = None,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject) if subject else x509.Name([]))
            .issuer_name(name((signer or self).title))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(PAST)
            .not_valid_after(PAST + timedelta(days=36500))
            .add_extension(usage(kind, authority=authority), critical=True)
        )
        if authority:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        if alternative is not None:
            other = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.4"), alternative)
            builder = builder.add_extension(x509.SubjectAlternativeName([other]), critical=not subject)
        return builder.sign((signer or self).key, hashes.SHA256())


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


SIGNING, AGREEMENT = CertificateType.DIGITAL_SIGNATURE, CertificateType.KEY_AGREEMENT


@pytest.mark.parametrize("kind", [SIGNING, AGREEMENT])
def test_a_key_pair_is_made_certified_and_used(kind: CertificateType) -> None:
    root = Authority()
    both = Pair(trusted=(root.certificate,))
    before = both.setup.security
    with both.open() as meter:
        verbs = meter.security_setup
        with pytest.raises(ItemFailed, match="object-unavailable"):
            verbs.certificate_request(kind)
        verbs.generate_key_pair(kind)
        request = x509.load_der_x509_csr(verbs.certificate_request(kind))
        assert request.is_signature_valid
        assert request.subject.rfc4514_string() == f"CN={METER.hex().upper()}"
        assert both.setup.security is before
        public = request.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        certificate = root.issue(METER.hex(), public, kind)
        verbs.import_certificate(der(certificate))
        wanted = CertificateQuery(Entity.SERVER, kind, METER)
        assert verbs.export_certificate(wanted) == der(certificate)
        (listed,) = both.read(meter, 6).members()
        entity, certificate_kind, serial, issuer, subject, alternative = listed.members()
        assert (entity.integer(), certificate_kind.integer()) == (Entity.SERVER, kind)
        assert int.from_bytes(serial.octets(), "big") == certificate.serial_number
        assert issuer.octets() == name("Root").public_bytes()
        assert subject.octets() == name(METER.hex()).public_bytes()
        assert alternative.octets() == b""
        by_serial = CertificateQuery(serial=serial.octets(), issuer=issuer.octets())
        assert verbs.export_certificate(by_serial) == der(certificate)
        verbs.remove_certificate(by_serial)
        with pytest.raises(ItemFailed, match="object-unavailable"):
            verbs.export_certificate(wanted)
        with pytest.raises(ItemFailed, match="object-unavailable"):
            verbs.remove_certificate(wanted)
    now = both.setup.security
    used = now.signing_key if kind is SIGNING else now.options.agreement_key
    assert used is not None
    assert used.public_key().public_numbers() == public.public_numbers()


@pytest.mark.parametrize("kind", [SIGNING, AGREEMENT])
@pytest.mark.parametrize("in_alternative", [False, True])
def test_a_clients_certificate_brings_its_key(kind: CertificateType, *, in_alternative: bool) -> None:
    root = Authority()
    middle = Authority("Middle", root)
    both = Pair(trusted=(root.certificate,))
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    hardware = bytes.fromhex("300e06022a030408") + CLIENT if in_alternative else None
    certificate = middle.issue("" if in_alternative else CLIENT.hex(), public, kind, alternative=hardware)
    with both.open() as meter:
        with pytest.raises(ItemFailed, match="other-reason"):
            meter.security_setup.import_certificate(der(certificate))
        meter.security_setup.import_certificate(der(middle.certificate))
        meter.security_setup.import_certificate(der(certificate))
        assert len(both.read(meter, 6).members()) == 2
    now = both.setup.security
    used = now.peer_signing_key if kind is SIGNING else now.options.peer_agreement_key
    assert used is not None
    assert used.public_numbers() == public.public_numbers()


def test_certificates_of_nobody_we_trust_are_refused() -> None:
    root, stranger = Authority(), Authority()
    both = Pair(trusted=(root.certificate,))
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    p384 = ec.generate_private_key(ec.SECP384R1()).public_key()
    with both.open() as meter:
        for bad in (
            der(stranger.issue(CLIENT.hex(), public, SIGNING)),
            der(root.issue(METER.hex(), public, SIGNING)),  # of a key that the meter does not have
            der(root.issue(CLIENT.hex(), p384, SIGNING)),  # of another suite
            b"",
            bytes(100),
        ):
            with pytest.raises(ItemFailed, match="other-reason"):
                meter.security_setup.import_certificate(bad)
        assert both.read(meter, 6) == axdr.array([])
    assert both.setup.security is both.meter
    with pytest.raises(PeerError):
        read_certificate(bytes(CERTIFICATE_BYTES_MAX + 1))


def test_there_is_room_for_so_many_certificates_and_like_ones_replace_each_other() -> None:
    root = Authority()
    both = Pair(trusted=(root.certificate,))
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    act = both.setup.item.act

    def bring(subject: str) -> int:
        return act(6, axdr.octets(der(root.issue(subject, public, SIGNING)))).code

    both.server.asking_title = CLIENT
    assert [bring(CLIENT.hex()), bring(CLIENT.hex())] == [0, 0]
    assert len(both.setup.certificates) == 1
    assert {bring(f"other {number}") for number in range(CERTIFICATES_MAX - 1)} == {0}
    assert bring("one more") == ActionResult.OTHER_REASON
    assert bring(CLIENT.hex()) == 0


def test_damaged_certificates_and_parameters_are_answered() -> None:
    chance = random.Random(31)
    root = Authority()
    both = Pair(trusted=(root.certificate,))
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    seed = der(root.issue(CLIENT.hex(), public, SIGNING, alternative=bytes.fromhex("300e06022a030408") + CLIENT))
    for _ in range(1500):
        both.setup.item.act(6, axdr.octets(mutate(chance, seed)))
    odd = (
        axdr.null(), axdr.enum(99), axdr.u8(3), axdr.octets(b""), axdr.array([]), axdr.array([axdr.u8(1)] * 9),
        axdr.structure(axdr.enum(0), axdr.u8(1)), axdr.structure(axdr.enum(7), axdr.structure()),
    )  # fmt: skip
    for method in range(1, 9):
        for parameters in (None, *odd):
            outcome = both.setup.item.act(method, parameters)
            assert outcome.code != 0 or (method, parameters) == (2, axdr.array([]))


def test_which_certificate_is_meant_reads_as_it_is_written() -> None:
    for wanted in (CertificateQuery(Entity.CLIENT, AGREEMENT, CLIENT), CertificateQuery(serial=b"\x01", issuer=b"0")):
        assert CertificateQuery.of(wanted.data()) == wanted
    for wrong in (
        axdr.null(),
        axdr.structure(axdr.enum(0), axdr.structure(axdr.enum(9), axdr.enum(0), axdr.octets(b""))),
    ):
        with pytest.raises(PeerError):
            CertificateQuery.of(wrong)


def test_more_keys_than_there_are_are_refused() -> None:
    both = Pair()
    one = key_transfer(both.client.options.master_key, {KeyId.MASTER: bytes(16)}).members()
    assert both.setup.item.act(2, axdr.array(one * 5)).code == ActionResult.OTHER_REASON
