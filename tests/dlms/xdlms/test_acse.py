"""Association control: known APDUs octet for octet, and what meters do differently."""

from __future__ import annotations

import pytest

from dlms.codes import Conformance, Context, Mechanism
from dlms.errors import DecodeError
from dlms.xdlms.acse import Aare, Aarq, InitiateRequest, InitiateResponse, ReleaseApdu

# Examples of the Green Book's annex on AARQ and AARE: no ciphering, lowest / low / high level security.
AARQ_NONE = "601da109060760857405080101be10040e01000000065f1f0400007e1f04b0"
AARQ_LOW = (
    "6036a1090607608574050801018a0207808b0760857405080201ac0a80083132333435363738be10040e01000000065f1f0400007e1f04b0"
)
AARQ_HIGH = (
    "6036a1090607608574050801018a0207808b0760857405080205ac0a80084b35364956616759be10040e01000000065f1f0400007e1f04b0"
)
AARE_OK = "6129a109060760857405080101a203020100a305a103020100be10040e0800065f1f040000501f01f40007"
AARE_NAME = "6129a109060760857405080101a203020101a305a103020102be10040e0800065f1f040000501f01f40007"
AARE_CHALLENGE = (
    "6142a109060760857405080101a203020100a305a10302010e88020780890760857405080205aa0a8008503677524a323146be10040e"
    "0800065f1f040000501f01f40007"
)
AARE_VERSION = "611fa109060760857405080101a203020101a305a103020101be0604040e010600"
PROPOSED = InitiateRequest(Conformance(0x007E1F), 0x04B0)
NEGOTIATED = InitiateResponse(Conformance(0x00501F), 0x01F4)


@pytest.mark.parametrize(
    ("encoded", "aarq"),
    [
        (AARQ_NONE, Aarq(Context.LN, PROPOSED.emit())),
        (AARQ_LOW, Aarq(Context.LN, PROPOSED.emit(), Mechanism.LLS, b"12345678")),
        (AARQ_HIGH, Aarq(Context.LN, PROPOSED.emit(), Mechanism.HLS_GMAC, b"K56IVagY")),
    ],
)
def test_aarq_of_the_standard_both_ways(encoded: str, aarq: Aarq) -> None:
    assert aarq.emit().hex() == encoded
    assert Aarq.parse(bytes.fromhex(encoded)) == aarq


@pytest.mark.parametrize(
    ("encoded", "aare"),
    [
        (AARE_OK, Aare(Context.LN, 0, 0, NEGOTIATED.emit())),
        (AARE_NAME, Aare(Context.LN, 1, 2, NEGOTIATED.emit())),
        (
            AARE_CHALLENGE,
            Aare(Context.LN, 0, 14, NEGOTIATED.emit(), Mechanism.HLS_GMAC, b"P6wRJ21F"),
        ),
        (AARE_VERSION, Aare(Context.LN, 1, 1, bytes.fromhex("0e010600"))),
    ],
)
def test_aare_of_the_standard_both_ways(encoded: str, aare: Aare) -> None:
    assert aare.emit().hex() == encoded
    assert Aare.parse(bytes.fromhex(encoded)) == aare


def test_a_ciphered_aarq_carries_titles_and_certificates() -> None:
    aarq = Aarq(
        Context.LN_CIPHERED, b"\x21\x01\x30", Mechanism.HLS_ECDSA, bytes(16), b"MMM\0\0\0\0\1", b"certificate", 3
    )
    assert Aarq.parse(aarq.emit()) == aarq
    aare = Aare(Context.LN_CIPHERED, 0, 14, b"\x28\x01\x30", Mechanism.HLS_ECDSA, bytes(32), bytes(8), b"cert")
    assert Aare.parse(aare.emit()) == aare


def test_secrets_are_not_in_a_repr() -> None:
    aarq = Aarq(Context.LN, PROPOSED.emit(), Mechanism.LLS, b"12345678")
    assert "12345678" not in repr(aarq)
    assert "secretkey" not in repr(InitiateRequest(Conformance.GET, 100, b"secretkey"))


def test_an_aare_without_user_information_is_a_refusal_that_can_be_read() -> None:
    aare = Aare.parse(bytes.fromhex("6117a109060760857405080101a203020101a305a10302010d"))
    assert not aare.accepted
    assert aare.reason == "authentication-failure"


def test_long_form_lengths_and_unknown_fields_are_taken() -> None:
    body = bytes.fromhex("8002078 4a18109060760857405080101a28103020100a38105a103020100".replace(" ", ""))
    extra = bytes.fromhex("9d03616263")
    aare = Aare.parse(bytes((0x61, 0x82, 0, len(body + extra))) + body + extra)
    assert aare.accepted


def test_an_explicit_mechanism_name_is_taken() -> None:
    plain = bytes.fromhex(AARE_CHALLENGE)
    explicit = plain.replace(bytes.fromhex("890760857405080205"), bytes.fromhex("8909060760857405080205"))
    assert Aare.parse(explicit[:1] + bytes((explicit[1] + 2,)) + explicit[2:]) == Aare.parse(plain)


def test_the_conformance_tag_of_the_first_edition_is_taken() -> None:
    assert InitiateResponse.parse(bytes.fromhex("0800065f040000501f01f40007")) == NEGOTIATED


def test_reasons_of_the_provider_are_told_apart() -> None:
    aare = Aare(Context.LN, 1, 2, by_provider=True)
    assert Aare.parse(aare.emit()) == aare
    assert aare.reason == "no-common-acse-version"
    assert Aare(Context.LN, 1, 99).reason == "diagnostic 99"


@pytest.mark.parametrize(
    ("initiate", "encoded"),
    [
        (
            InitiateRequest(Conformance(0), 0, bytes(16), response_allowed=False, quality_of_service=-1),
            "010110" + "00" * 16 + "010001ff065f1f04000000000000",
        ),
        (InitiateResponse(Conformance(0x1C0320), 300, 0xFA00, 0), "080100065f1f04001c0320012cfa00"),
    ],
)
def test_optional_fields_of_the_initiate(initiate: InitiateRequest | InitiateResponse, encoded: str) -> None:
    assert initiate.emit().hex() == encoded
    assert type(initiate).parse(bytes.fromhex(encoded)) == initiate


@pytest.mark.parametrize(
    "release",
    [
        ReleaseApdu(),
        ReleaseApdu(is_response=True),
        ReleaseApdu(reason=None),
        ReleaseApdu(reason=30, user_information=b"\x21\x00"),
    ],
)
def test_releases_both_ways(release: ReleaseApdu) -> None:
    assert ReleaseApdu.parse(release.emit()) == release


def test_the_plain_release_is_five_octets() -> None:
    assert ReleaseApdu().emit().hex() == "6203800100"
    assert ReleaseApdu(is_response=True).emit().hex() == "6303800100"
    assert ReleaseApdu.parse(bytes.fromhex("6200")) == ReleaseApdu(reason=None)


@pytest.mark.parametrize(
    "encoded",
    [
        "",
        "61",
        "6100",
        "6109a2030201000000",
        "6129a109060760857405080109a203020100a305a103020100be10040e0800065f1f040000501f01f40007",
        "6129a109060760857405080101a203020100a203020100a305a1030201",
        "6117a109060760857405080101a203020101a305a10302010d00",
        "6129a109060760857405999901a203020100a305a103020100be10040e0800065f1f040000501f01f40007",
    ],
)
def test_a_damaged_aare_is_a_decode_error(encoded: str) -> None:
    with pytest.raises(DecodeError):
        Aare.parse(bytes.fromhex(encoded))


@pytest.mark.parametrize("encoded", ["08", "0800065f1f0300501f01f40007", "0800065f1f0404501f0001f40007", "09"])
def test_a_damaged_initiate_is_a_decode_error(encoded: str) -> None:
    with pytest.raises(DecodeError):
        InitiateResponse.parse(bytes.fromhex(encoded))
