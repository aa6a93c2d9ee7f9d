"""Protected APDUs explained as trees, with keys and without."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dlms import axdr
from dlms.__main__ import main
from dlms.codes import CIPHERED_TAGS, Apdu
from dlms.explain.apdus import Keys, explain_apdu
from dlms.security.ciphering import Ciphering
from dlms.security.general_formats import Header, KeyInfo, cipher_apdu, sign_apdu
from dlms.security.settings import KeyChoice, MemoryCounters, Policy, Security
from dlms.xdlms.apdu import set as set_apdu
from dlms.xdlms.apdu.common import HIGH_PRIORITY, Item
from tests.dlms.security.test_general_keys import BROADCAST, MASTER, NOW, pair
from tests.dlms.security.test_key_vectors import AGREEMENT_C, AGREEMENT_S, CLIENT, ONE_PASS_APDU, SERVER, SIGNING_C
from tests.dlms.security.test_security import METER, REF, keys
from tests.dlms.xdlms.test_app_fuzz import mutate

GET = bytes.fromhex("c001c100030100010800ff0200")
CLIENT_TITLE = "4d4d4d0000000001"
INSIDE = "register 1.0.1.8.0.255 attribute 2 value"


def shown(apdu: bytes, known: Keys | None = None) -> str:
    return "\n".join(explain_apdu(apdu, known or Keys()).lines())


def protected(choice: KeyChoice, suite: int = 1, *, sign: bool = False) -> tuple[bytes, Keys]:
    """A request, and every key of the meter's side to look into it with."""
    client, meter = pair(choice, suite, sign=sign)
    options = replace(client.options, date_time=lambda: NOW, other_information=b"desk")
    ours = Ciphering(replace(client, options=options))
    ours.use_named()
    options = meter.options
    assert options.agreement_key is not None
    assert options.peer_agreement_key is not None
    assert meter.peer_signing_key is not None
    known = Keys(
        meter.ek,
        meter.ak,
        master=options.master_key,
        broadcast=options.broadcast_key,
        agreement=(ec.generate_private_key(ec.SECP256R1()), options.agreement_key),
        peer_agreement=(options.peer_agreement_key,),
        verifying=(meter.peer_signing_key,),
    )
    return ours.protect(GET), known


NAMED = {
    KeyChoice.GLOBAL: "identified-key 0 global unicast encryption key",
    KeyChoice.WRAPPED: "wrapped-key, under key 0",
    KeyChoice.ONE_PASS: "agreed-key, one-pass Diffie-Hellman",
    KeyChoice.STATIC: "agreed-key, static unified model",
}


@pytest.mark.parametrize("choice", KeyChoice)
@pytest.mark.parametrize("suite", [1, 2])
def test_general_ciphering_is_a_tree_and_the_keys_open_it(choice: KeyChoice, suite: int) -> None:
    apdu, known = protected(choice, suite)
    closed = shown(apdu)
    for field in (
        f"originator: {CLIENT_TITLE}",
        f"recipient: {METER.hex()}",
        "transaction id: 0000000000000005",
        f"date-time: {NOW.hex()} (2026-11-27",
        'other information: 6465736b "desk"',
        f"key-info: {NAMED[choice]}",
        f"suite {suite}, authenticated and encrypted",
        "give the key",
    ):
        assert field in closed
    assert INSIDE not in closed
    assert INSIDE in shown(apdu, known)
    assert MASTER.hex() not in shown(apdu, known)


def test_general_signing_is_a_tree_and_says_whose_signature_is_good() -> None:
    apdu, known = protected(KeyChoice.ONE_PASS, sign=True)
    tree = shown(apdu, known)
    assert "general-signing" in tree
    assert INSIDE in tree
    assert "signature: 64 octets, good by key 1 of those given" in tree
    other = replace(known, verifying=(ec.generate_private_key(ec.SECP256R1()).public_key(),))
    assert "NOT of a key that was given" in shown(apdu, other)
    bare = sign_apdu(GET, Header(b"1", CLIENT, SERVER), SIGNING_C)
    assert INSIDE in shown(bare)
    assert "signature: 64 octets" in shown(bare)


def test_the_green_books_one_pass_example_is_shown() -> None:
    tree = shown(ONE_PASS_APDU, Keys(agreement=(AGREEMENT_C, AGREEMENT_S)))
    assert "ephemeral public key: c323c2bd45711de4" in tree
    assert "signature: b51be089d0b68286" in tree
    assert "cannot be deciphered: the authentication tag is wrong" in tree  # see test_key_vectors


@pytest.mark.parametrize("choice", KeyChoice)
def test_wrong_keys_are_said_and_nothing_is_made_up(choice: KeyChoice) -> None:
    apdu, known = protected(choice)
    stranger = ec.generate_private_key(ec.SECP256R1())
    wrong = replace(known, ek=bytes(16), master=bytes(16), agreement=(stranger,))
    tree = shown(apdu, wrong)
    assert INSIDE not in tree
    assert "cannot be deciphered" in tree or "give the key" in tree


def test_key_info_that_does_not_exist_is_shown_for_what_it_is() -> None:
    security = Security(CLIENT, *keys(1), 1)
    for info, text in (
        (None, "none: the global unicast encryption key"),
        (KeyInfo(0, 1), "identified-key 1 global broadcast encryption key"),
        (KeyInfo(0, 9), "identified-key 9 (reserved)"),
        (KeyInfo(2, parameters=b"\x07"), "scheme 07"),
        (KeyInfo(2, parameters=b"\x01", data=b"short"), "signature: (none)"),
    ):
        tree = shown(cipher_apdu(GET, Header(b"", CLIENT, b""), security, info), protected(KeyChoice.GLOBAL)[1])
        assert text in tree
        assert "recipient: (everybody)" in tree


@pytest.mark.parametrize("named", [False, True])
def test_broadcasts_open_with_the_broadcast_key(*, named: bool) -> None:
    client, _meter = pair()
    ours = Ciphering(replace(client, general_ciphering=named))
    if named:
        ours.use_named()
    apdu = ours.protect_broadcast(set_apdu.SetRequest(HIGH_PRIORITY | 1, Item(REF), axdr.u32(9)).emit())
    assert "broadcast" in shown(apdu)
    assert "give the key" in shown(apdu, Keys(*keys(1)))
    assert "double-long-unsigned: 9" in shown(apdu, Keys(*keys(1), broadcast=BROADCAST))


@pytest.mark.parametrize("tag", sorted(CIPHERED_TAGS))
def test_every_ciphered_form_has_a_name_and_opens(tag: int) -> None:
    ek, ak = keys(0)
    known = Keys(ek, ak, ek, CLIENT, CLIENT)
    label = shown(bytes((tag,)) + bytes.fromhex("05300000000b")).split(":")[0]
    assert label.startswith(("glo-", "ded-", "general-"))
    sender = Ciphering(Security(CLIENT, ek, ak, counters=MemoryCounters(1)))
    if tag in (Apdu.GENERAL_GLO, Apdu.GENERAL_DED):
        apdu = bytes((tag,)) + sender.protect(GET, Apdu.GENERAL_GLO)[1:]
        assert INSIDE in shown(apdu, known)
        return
    plain = next(
        plain for plain in range(1, 0x100) if label.partition("-")[2] == shown(bytes((plain, 0))).split(":")[0]
    )
    sealed = sender._seal(sender._global, bytes((plain, 1, 2)), int(Policy.BOTH))  # the form is what is looked at
    tree = shown(bytes((tag, len(sealed))) + sealed, known)
    assert "cannot be deciphered" not in tree
    assert label.partition("-")[2] in tree.splitlines()[3]


def test_damaged_ones_are_explained_somehow() -> None:
    chance = random.Random(33)
    seeds = [(protected(choice, suite, sign=True)) for choice in KeyChoice for suite in (1, 2)]
    for apdu, known in seeds:
        for _ in range(60):
            assert explain_apdu(mutate(chance, apdu), known).lines()


def test_dlms_decode_takes_the_keys(tmp_path: Path) -> None:
    apdu, known = protected(KeyChoice.ONE_PASS, sign=True)
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    encoding = serialization.Encoding.PEM
    private.write_bytes(
        known.agreement[1].private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(known.verifying[0].public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "ak").write_text(known.ak.hex())
    arguments = ("decode", apdu.hex(), "--ak", f"@{tmp_path / 'ak'}", "--agreement-key", str(private))
    result = CliRunner().invoke(main, [*arguments, "--peer-key", str(public)])
    assert INSIDE in result.output
    assert "good by key 1" in result.output
    for wrong in (str(public), str(tmp_path / "none"), str(tmp_path / "ak")):
        assert CliRunner().invoke(main, [*arguments[:-1], wrong]).exit_code == 2
        assert (
            CliRunner().invoke(main, ["decode", "c0", "--peer-key", wrong.replace("public", "private")]).exit_code == 2
        )
