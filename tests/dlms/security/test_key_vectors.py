"""Known answers for keys that are agreed on, from the Green Book.

Green Book edition 8, tables 133 and on and C.1 to C.3, as the tests of other stacks quote them: key pairs, signatures,
shared secrets and keys in the Connexo platform (KeyAgreementImplTest, ECDSASignatureImplTest), APDUs and the key of
table C.3 in gurux.dlms.java (GXSymmetricTest) and in dlms-cosem (test_general_ciphering). The authentication tags of
those two APDUs do not come out of the inputs that are quoted with them, whatever is authenticated along; everything
else does.
"""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from dlms import axdr
from dlms.codes import Mechanism
from dlms.security.ecdsa import check_signature, sign
from dlms.security.gcm import TAG_OCTETS, Gcm
from dlms.security.general_formats import GeneralCiphered, GeneralSigned, Header, KeyInfo
from dlms.security.hls import Challenges, prove, verify
from dlms.security.keys import AES_GCM_128, KeyAgreement, KeyId, kdf, public_key, public_octets, shared_secret
from dlms.security.message_keys import one_pass_recipient, static_key
from dlms.security.settings import Hls
from dlms.xdlms.apdu.access import AccessRequest

CLIENT, SERVER = bytes.fromhex("4d4d4d0000bc614e"), bytes.fromhex("4d4d4d0000000001")
TRANSACTION = bytes.fromhex("0102030405060708")
REQUEST_HEADER = Header(TRANSACTION, CLIENT, SERVER)


def private(number: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int(number, 16), ec.SECP256R1())


SIGNING_C = private("418073c239fa6125011de4d6cd2e645780289f761bb21bfb0835cb5585e8b373")
SIGNING_S = private("ae55414ffe079f9fc95649536bd1c2b5653d200813727e07d501a8b550c69207")
AGREEMENT_C = private("a51c16ff5c498fcc89323d4a9267cd71bf81fd6f6a891cd240da7f3d6f283e65")
AGREEMENT_S = private("aad3fd0732e991cf52a74c66c1f2827ddc53522a2e0a169d7c4ffcc0fb5d6a4d")

# Table 133, an ACCESS request, and the general-ciphering APDUs that it becomes with either key agreement scheme.
ACCESS = bytes.fromhex(
    "d94000000000040100010000600100ff020100080000010000ff0202001400000d0000ff0702001400000d0000ff0804000001040203090100"
    "090cffffffffffffff00000000000901ff0203090101090cffffffffffffff00000000000901ff0203090102090cffffffffffffff00000000"
    "000901ff0203090103090cffffffffffffff00000000000901ff0104020809010011ff11ff11ff11ff11ff11ff11ff02080901011102110111"
    "011101110111011101020809010211ff11ff11ff11ff11ff11ff11ff02080901031101110211021102110211021102"
)
ONE_PASS_APDU = bytes.fromhex(
    "dd080102030405060708084d4d4d0000bc614e084d4d4d00000000010000010201018180c323c2bd45711de4688637d919f92e9db8fb2dfc21"
    "3a88d21c9dc8dcba917d8170511de1badb360d50058f794b0960ae11fa28d392cff907a62d13e3357b1dc0b51be089d0b682863b2217201e73"
    "a1a9031968a9b4121dcbc3281a69739af87429f5b3ac5471e7b6a04a2c0f2f8a25fd772a317df97fc5463feac248eb8ab8be81eb3100000000"
    "f435069679270c5bf4425ee5777402a6c8d51c620eed52dbb188378b836e2857d5c053e6ddf27fa87409aef502cd9618ae47017c010224fd10"
    "9cc0beb21e742d44ab40cd11908743ec90ec8c40e221d517f72228e1a26e827f43dc18ed27b5f458d66508b05a2a4cc6fed178c881afc3bc67"
    "064689be8bb41c80abb3c114a31f4cb03b8b64c7e0b4ce77b2399c93347858888f92239713b38df01c4858245827a92ef334172ea636b31cbb"
    "df2a96ad5d035f66aa38f1a2d97d4bba99622e6b5f18789cecb2dfb3937d9f3e17f8b472098e6563238f37528374809836002aea6e7012d2ad"
    "faa7"
)
STATIC_CONTENTS = bytes.fromhex(
    "607581d83815281b561904e6a72b83bf3fb0b1f2a0a23a82a804b39911f6cb1b4ef9b6f76c6338ed058014ffbf4a13a162e0eed11eeb8f5977"
    "57a18215f28e1d3fc2d44586c4b8afe4500b535b579506cdb925cbeff7f1cf6bf96c583b9cf588fe8f6b01a574824d7cec597f057ffa8700af"
    "12ad63a7fa72040439f4392c089b265f9eb1ac308239906dc04e1a8712abe383cf92349842eba166ef2e9eb2f53d0dba025d79875463398bbc"
    "3007bc4a6fc12780c21ee1abf080bf0fa926242834c0ac30d55a1ef8856e7ded48621f17fdf4d5b54eddadd874119251049b6aee111c12fbc2"
    "feaf"
)


def test_one_pass_diffie_hellman_of_table_c_2() -> None:
    apdu = GeneralCiphered.parse(ONE_PASS_APDU)
    assert apdu.emit() == ONE_PASS_APDU
    assert apdu.header == REQUEST_HEADER
    info = apdu.key_info
    assert info is not None
    key = one_pass_recipient(1, apdu.header, info, AGREEMENT_S, SIGNING_C.public_key())
    assert key.hex() == "59a71fd81c929a86a99438da17a66c05"
    control, contents = apdu.contents[:5], apdu.contents[5:-TAG_OCTETS]
    assert control.hex() == "3100000000"
    assert Gcm(key).open(CLIENT + control[1:], contents, None, b"") == ACCESS
    assert AccessRequest.parse(ACCESS).emit() == ACCESS


def test_the_answers_key_of_table_c_2() -> None:
    point = bytes.fromhex(
        "6439724714b47cd9cb988897d8424ab946dcd083d37a954637616011b9c2378773295f0f850d8dafd1bbe9fe666e53e4f097cd10b38b6962"
        "2152724a90987444"
    )
    signature = bytes.fromhex(
        "e1ff47974a1f6931a6502f58147463f0e8cc517d47f55b0ac56dd8ac5c9d0e481934f2d90f9893016bd82b6e3ffe21ff1588f3278b4e9d98"
        "eb4fb62add64b380"
    )
    header, info = Header(TRANSACTION, SERVER, CLIENT), KeyInfo(2, parameters=b"\x01", data=point + signature)
    key = one_pass_recipient(1, header, info, AGREEMENT_C, SIGNING_S.public_key())
    assert key.hex() == "f0184bda9466bfa4601a64a7ef46504a"


def test_the_static_unified_model_of_table_c_3() -> None:
    for ours, theirs in ((AGREEMENT_C, AGREEMENT_S), (AGREEMENT_S, AGREEMENT_C)):
        key = static_key(1, REQUEST_HEADER, ours, theirs.public_key())
        assert key.hex() == "56c46b57df675515c31025455822514a"
    assert Gcm(key).open(CLIENT + bytes(4), STATIC_CONTENTS[:-TAG_OCTETS], None, b"") == ACCESS


def test_the_ephemeral_unified_model_of_table_c_1() -> None:
    theirs = bytes.fromhex(
        "2914d60e10ab705f62ed6cc349d7cb99b9ab3f3978e59278c7af595b3af987941372dab6d5af1fa867e134167e6f23de664a6693e05f4341"
        "4611058d1b48f894"
    )
    signature = bytes.fromhex(
        "06f0607702aa0e2435a183e2f6b1ecd19629712e389a213610c03f77b2590860ea840af5c3fa1f2bcdf055d4744e9a01ce9a0e55026bcaa4"
        "eebeb764ced64bb3"
    )
    ephemeral = private("34a8c23a34dbb519d09b245754c85a6cfe05d14a063efa5aa41545aa8241efae")
    assert public_octets(ephemeral.public_key()).hex().startswith("95f41066009b185b074f5ffff736b71c")
    secret = shared_secret(ephemeral, public_key(1, theirs))
    assert secret.hex() == "c1cf8fe7891aef3617d7190795e61fe6c24efc3cca2e08469bad1a225ce6ea08"
    side = KeyAgreement(
        1, KeyId.GLOBAL_UNICAST_ENCRYPTION, SIGNING_S, party_u=CLIENT, party_v=SERVER, ephemeral=ephemeral
    )
    half = axdr.structure(axdr.enum(0), axdr.octets(theirs + signature))
    assert side.agree(half, SIGNING_C.public_key()) == kdf(1, secret, AES_GCM_128, CLIENT, SERVER)


def test_ecdsa_of_suite_b_implementers_guide_to_fips_186_3() -> None:
    key = public_key(
        2,
        bytes.fromhex(
            "1fbac8eebd0cbf35640b39efe0808dd774debff20a2a329e91713baf7d7f3c3e81546d883730bee7e48678f857b02ca0eb213103bd68ce34"
            "3365a8a4c3d4555fa385f5330203bdd76ffad1f3affb95751c132007e1b240353cb0a4cf1693bdf9"
        ),
    )
    signature = bytes.fromhex(
        "a0c27ec893092dea1e1bd2ccfed3cf945c8134ed0c9f81311a0f4a05942db8dbed8dd59f267471d5462aa14fe72de85620ab3f45b74f10b6"
        "e11f96a2c8eb694d206b9dda86d3c7e331c26b22c987b7537726577667adadf168ebbe803794a402"
    )
    check_signature(key, b"This is only a test message. It is 48 bytes long", signature)


def test_a_signature_is_over_the_header_and_the_content_with_their_lengths() -> None:
    header = Header(TRANSACTION, CLIENT, SERVER, other=b"ab")
    over = "080102030405060708084d4d4d0000bc614e084d4d4d00000000010002616203c00102"
    signed = GeneralSigned(header, bytes.fromhex("c00102"), b"")
    assert signed.signed().hex() == over
    check_signature(SIGNING_C.public_key(), bytes.fromhex(over), sign(SIGNING_C, signed.signed()))


@pytest.mark.parametrize("mechanism", [Mechanism.HLS_SHA256, Mechanism.HLS_ECDSA])
def test_hls_6_and_7_prove_both_titles_and_both_challenges_the_provers_title_and_the_answered_challenge_first(
    mechanism: Mechanism,
) -> None:
    ctos, stoc = b"C" * 32, b"S" * 32
    over = CLIENT + SERVER + stoc + ctos
    hls = Hls(mechanism, b"secret", SIGNING_C, SIGNING_S.public_key())
    proof = prove(hls, Challenges(ctos, stoc, CLIENT, SERVER), None)
    if mechanism is Mechanism.HLS_ECDSA:
        check_signature(SIGNING_C.public_key(), over, proof)
    else:
        assert proof == hashlib.sha256(b"secret" + over).digest()
    meter = Hls(mechanism, b"secret", SIGNING_S, SIGNING_C.public_key())
    verify(meter, Challenges(stoc, ctos, SERVER, CLIENT), proof, None)
