"""Credentials: known answers, and who is not believed."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from omadm import auth
from omadm.auth import AuthError, AuthFailure
from omadm.schemes import Mac, next_nonce
from omadm.syncml.messages import Chal, Status, SyncHdr, SyncML

BODY, USER, SECRET, NONCE = b"<SyncML/>", "Bruce2", "OhBehave", b"Nonce"


def test_known_answers() -> None:
    assert auth.basic("Bruce2", "OhBehave") == "QnJ1Y2UyOk9oQmVoYXZl"
    assert auth.md5(USER, SECRET, NONCE) == "Zz6EivR3yeaaENcRN6lpAQ=="
    assert auth.mac(BODY, USER, SECRET, NONCE, "MD5") == "urdCeS3JUmjFgi8SX3webw=="


def test_sha_256_is_the_same_construction_with_another_hash() -> None:
    def digest(data: bytes) -> bytes:
        return base64.b64encode(hashlib.sha256(data).digest())

    expected = digest(digest(b"Bruce2:OhBehave") + b":Nonce:" + digest(BODY)).decode()
    assert auth.mac(BODY, USER, SECRET, NONCE) == expected


def test_the_header_has_its_three_parameters_with_the_name_quoted() -> None:
    header = auth.hmac_header(BODY, USER, SECRET, NONCE, "MD5")
    assert header == 'algorithm=MD5, username="Bruce2", mac=urdCeS3JUmjFgi8SX3webw=='


@pytest.mark.parametrize("algorithm", auth.ALGORITHMS)
@pytest.mark.parametrize("user", [USER, "urn:dcu:KR-000042", 'odd "name\\, x=y'])
def test_a_header_of_ours_is_believed(algorithm: str, user: str) -> None:
    header = auth.hmac_header(BODY, user, SECRET, NONCE, algorithm)
    auth.verify_hmac(header, BODY, user, SECRET, NONCE, allowed=(algorithm,))


@pytest.mark.parametrize(
    "header",
    [
        'username="Bruce2",mac=urdCeS3JUmjFgi8SX3webw==',
        "username=Bruce2, mac=urdCeS3JUmjFgi8SX3webw==",
        'MAC="urdCeS3JUmjFgi8SX3webw==" , Algorithm=md5 ,USERNAME="Bruce2"',
    ],
)
def test_the_spellings_of_practice_are_read(header: str) -> None:
    auth.verify_hmac(header, BODY, USER, SECRET, NONCE, allowed=("MD5",))


def failure(header: str | None, *, body: bytes = BODY, user: str = USER, allowed: tuple[str, ...] = ("MD5",)) -> str:
    with pytest.raises(AuthError) as caught:
        auth.verify_hmac(header, body, user, SECRET, NONCE, allowed)
    return caught.value.failure.name


GOOD = auth.hmac_header(BODY, USER, SECRET, NONCE, "MD5")


def test_who_is_not_believed_and_why() -> None:
    assert failure(None) == failure("  ") == "MISSING"
    assert failure(GOOD, body=BODY + b" ") == "WRONG"
    assert failure(auth.hmac_header(BODY, USER, "other", NONCE, "MD5")) == "WRONG"
    assert failure(auth.hmac_header(BODY, USER, SECRET, b"other", "MD5")) == "WRONG"
    assert failure(GOOD, user="Bruce3") == "USERNAME"
    assert failure(GOOD, allowed=("SHA-256",)) == "ALGORITHM"
    assert failure(GOOD.replace("MD5", "CRC-32")) == "ALGORITHM"


@pytest.mark.parametrize(
    "header",
    [
        "nonsense",
        "username=,mac=",
        'username="Bruce2"',
        "mac=urdCeS3JUmjFgi8SX3webw==",
        'username="Bruce2", mac=!!!',
        'username="Bruce2", mac=AAAA',
        'username="Bruce2", mac=!urdCeS3JUmjFgi8SX3webw==',
        'username="Bruce2", mac=urdCeS3JUmjFgi8SX3webw==, mac=urdCeS3JUmjFgi8SX3webw==',
        'username="Bruce2',
        'x="' + "a" * 5000 + '"',
    ],
)
def test_a_header_that_cannot_be_read_is_malformed(header: str) -> None:
    assert failure(header) == "MALFORMED"


def test_a_header_has_1024_characters_at_most() -> None:
    longest = "b" * (1024 - len(GOOD) + len(USER))
    header = GOOD.replace(USER, longest)
    assert auth.parse_hmac_header(header).username == longest
    assert failure(header.replace(longest, longest + "b")) == "MALFORMED"


def test_hmac_of_rfc_2104_in_the_place_of_the_mac_is_refused() -> None:
    plain = base64.b64encode(hmac.digest(SECRET.encode(), BODY, "md5")).decode()
    assert failure(f'algorithm=MD5, username="Bruce2", mac={plain}') == "WRONG"


def test_missing_credentials_are_answered_407_and_all_others_401() -> None:
    statuses = {kind: AuthError(kind).status for kind in AuthFailure}
    assert statuses.pop(AuthFailure.MISSING) == 407
    assert set(statuses.values()) == {401}


def test_basic_and_md5_are_verified() -> None:
    auth.verify_basic(auth.basic(USER, SECRET), USER, SECRET)
    auth.verify_md5(f" {auth.md5(USER, SECRET, NONCE)}\n", USER, SECRET, NONCE)
    with pytest.raises(AuthError):
        auth.verify_basic(auth.basic(USER, "x"), USER, SECRET)
    with pytest.raises(AuthError):
        auth.verify_md5(auth.md5(USER, SECRET, b"x"), USER, SECRET, NONCE)


def test_an_unknown_algorithm_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="one of"):
        auth.mac(BODY, USER, SECRET, NONCE, "SHA-1")


def test_errors_say_why_and_carry_no_secret() -> None:
    with pytest.raises(AuthError) as caught:
        auth.verify_hmac(GOOD, b"", USER, SECRET, NONCE, ("MD5",))
    assert str(caught.value) == AuthFailure.WRONG.value
    assert SECRET not in str(caught.value)


def test_a_nonce_of_256_octets_is_taken_and_no_longer_one() -> None:
    def brought(nonce: bytes) -> bytes | None:
        chal = Chal("syncml:auth-MAC", "b64", nonce)
        status = Status("1", "1", "0", "SyncHdr", 200, chal=chal)
        return next_nonce(SyncML(SyncHdr("1", 1, "a", "b"), (status,)), Mac(("SHA-256",)))

    assert brought(bytes(256)) == bytes(256)
    assert brought(bytes(257)) is None
