"""Keys wrapped and agreed on, general-ciphering and general-signing."""

from __future__ import annotations

import random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from dlms import axdr
from dlms.errors import DlmsError, LocalError, PeerError
from dlms.security.general_formats import (
    TRANSACTION_OCTETS,
    GeneralCiphered,
    GeneralSigned,
    Header,
    KeyInfo,
    cipher_apdu,
    open_ciphered,
    open_signed,
    sign_apdu,
)
from dlms.security.keys import (
    AES_GCM_128,
    KeyAgreement,
    KeyId,
    curve_of,
    kdf,
    key_transfer,
    public_key,
    public_octets,
    transferred_keys,
    unwrap,
    wrap,
)
from dlms.security.message_keys import key_of, one_pass_originator, one_pass_recipient, wrapped_key
from dlms.security.settings import MemoryCounters, Policy, Security
from tests.dlms.security.test_security import AK, EK, keys
from tests.dlms.xdlms.test_app_fuzz import mutate

CLIENT, METER = bytes.fromhex("4d4d4d0000bc614e"), bytes.fromhex("4d4d4d0000000001")
GET = bytes.fromhex("c001c100080000010000ff0200")


def test_the_key_derivation_of_the_standards_example() -> None:
    secret = bytes.fromhex("0d4385ba0dd756cbcab9887eb538396ee8f090a14c1079b4359f115b977f4615")
    assert kdf(1, secret, AES_GCM_128, CLIENT, METER).hex() == "59a71fd81c929a86a99438da17a66c05"
    secret = bytes.fromhex("2b4302dc49790e2e78d990cfb52ed6e2f273dece441a2d95e4301b93812a9fac")
    assert kdf(1, secret, AES_GCM_128, METER, CLIENT).hex() == "f0184bda9466bfa4601a64a7ef46504a"


def test_key_wrap_of_rfc_3394() -> None:
    wrapped = wrap(bytes(range(16)), bytes.fromhex("00112233445566778899aabbccddeeff"))
    assert wrapped.hex() == "1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5"
    assert unwrap(bytes(range(16)), wrapped).hex() == "00112233445566778899aabbccddeeff"
    with pytest.raises(PeerError):
        unwrap(bytes(16), wrapped)
    with pytest.raises(PeerError):
        unwrap(bytes(range(16)), wrapped[:-1])
    with pytest.raises(LocalError):
        wrap(b"short", bytes(16))


def test_transferred_keys_arrive() -> None:
    master = bytes(range(16))
    new = {KeyId.GLOBAL_UNICAST_ENCRYPTION: bytes(16), KeyId.AUTHENTICATION: bytes(range(16))}
    assert transferred_keys(master, key_transfer(master, new)) == new
    for wrong in (axdr.u8(1), axdr.array([axdr.u8(1)]), axdr.array([axdr.structure(axdr.enum(9), axdr.octets(b""))])):
        with pytest.raises(PeerError):
            transferred_keys(master, wrong)


@pytest.mark.parametrize("suite", [1, 2])
def test_both_sides_agree_on_a_key(suite: int) -> None:
    signing = [ec.generate_private_key(curve_of(suite)) for _ in range(2)]
    sides = [KeyAgreement(suite, KeyId.AUTHENTICATION, key, party_u=CLIENT, party_v=METER) for key in signing]
    first = sides[0].agree(sides[1].data(), signing[1].public_key())
    second = sides[1].agree(sides[0].data(), signing[0].public_key())
    assert first == second
    assert len(first) == (16 if suite == 1 else 32)
    with pytest.raises(PeerError, match="signature"):
        sides[0].agree(sides[1].data(), signing[0].public_key())
    other = KeyAgreement(suite, KeyId.MASTER, signing[1], party_u=CLIENT, party_v=METER)
    with pytest.raises(PeerError, match="where 2 is due"):
        sides[0].agree(other.data(), signing[1].public_key())
    with pytest.raises(PeerError):
        sides[0].agree(axdr.u8(1), signing[1].public_key())


def test_suite_0_agrees_on_nothing_and_bad_points_are_refused() -> None:
    with pytest.raises(LocalError):
        curve_of(0)
    with pytest.raises(PeerError):
        public_key(1, bytes(64))
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert public_octets(public_key(1, public_octets(key))) == public_octets(key)


def new_header() -> Header:
    return Header(random.randbytes(TRANSACTION_OCTETS), CLIENT, METER)


def security(policy: Policy = Policy.BOTH, suite: int = 0) -> Security:
    ek, ak = keys(suite)
    return Security(CLIENT, ek, ak, suite, policy, MemoryCounters(7))


@pytest.mark.parametrize("suite", [0, 1, 2])
@pytest.mark.parametrize("policy", [Policy.AUTHENTICATE, Policy.ENCRYPT, Policy.BOTH])
def test_general_ciphering_both_ways(suite: int, policy: Policy) -> None:
    ours = security(policy, suite)
    apdu = cipher_apdu(GET, new_header(), ours)
    counters = MemoryCounters()
    assert open_ciphered(apdu, ours, counters) == GET
    with pytest.raises(PeerError, match="replayed"):
        open_ciphered(apdu, ours, counters)
    with pytest.raises(PeerError, match="of another suite or weaker"):
        open_ciphered(apdu, security(Policy.BOTH, (suite + 1) % 3), MemoryCounters())


def test_every_flipped_bit_of_general_ciphering_is_noticed() -> None:
    ours = security()
    apdu = cipher_apdu(GET, new_header(), ours, KeyInfo(0, 1))
    info_at = len(apdu) - len(GeneralCiphered.parse(apdu).contents) - 1 - 3
    for bit in range(8 * len(apdu)):
        if info_at <= bit // 8 < info_at + 3:
            continue  # which key is meant is said, not protected: a wrong key fails by itself
        damaged = bytearray(apdu)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DlmsError):
            open_ciphered(bytes(damaged), ours, MemoryCounters())


def test_a_key_travels_wrapped() -> None:
    ours = security()
    fresh = bytes(range(16, 32))
    apdu = cipher_apdu(GET, new_header(), ours, wrapped_key(EK, fresh), fresh)
    info = GeneralCiphered.parse(apdu).key_info
    assert info is not None
    assert open_ciphered(apdu, ours, MemoryCounters(), key_of(info, EK)) == GET
    with pytest.raises(PeerError):
        key_of(KeyInfo(0, 1), EK)


@pytest.mark.parametrize("suite", [1, 2])
def test_a_key_is_agreed_on_in_one_pass(suite: int) -> None:
    static, signing = (ec.generate_private_key(curve_of(suite)) for _ in range(2))
    ours = security(suite=suite)
    header = new_header()
    key, info = one_pass_originator(suite, header, static.public_key(), signing)
    apdu = cipher_apdu(GET, header, ours, info, key)
    parsed = GeneralCiphered.parse(apdu)
    assert parsed.key_info == info
    theirs = one_pass_recipient(suite, parsed.header, info, static, signing.public_key())
    assert theirs == key
    assert open_ciphered(apdu, ours, MemoryCounters(), theirs) == GET
    with pytest.raises(PeerError):
        one_pass_recipient(suite, header, info, static, static.public_key())
    with pytest.raises(PeerError):
        one_pass_recipient(suite, header, wrapped_key(EK, AK), static, signing.public_key())


def test_general_signing_both_ways() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    header = new_header()
    apdu = sign_apdu(GET, header, key)
    assert open_signed(apdu, key.public_key()) == GeneralSigned.parse(apdu)
    assert open_signed(apdu, key.public_key()).content == GET
    for at in range(1, len(apdu)):
        damaged = bytearray(apdu)
        damaged[at] ^= 1
        with pytest.raises(DlmsError):
            open_signed(bytes(damaged), key.public_key())


def test_general_ciphering_without_a_policy_is_our_own_mistake() -> None:
    with pytest.raises(LocalError):
        cipher_apdu(GET, new_header(), security(Policy.NONE))
    with pytest.raises(LocalError):
        Header(bytes(300), CLIENT, METER)


def test_damaged_general_apdus_are_read_or_refused() -> None:
    chance = random.Random(29)
    key = ec.generate_private_key(ec.SECP256R1())
    header = new_header()
    seeds = [
        cipher_apdu(GET, header, security(), info) for info in (None, KeyInfo(0, 1), wrapped_key(EK, AK), KeyInfo(2))
    ]
    seeds.append(sign_apdu(GET, header, key))
    for _ in range(2000):
        data = mutate(chance, chance.choice(seeds))
        for parse in (GeneralCiphered.parse, GeneralSigned.parse):
            try:
                assert isinstance(parse(data).emit(), bytes)
            except DlmsError:
                continue
