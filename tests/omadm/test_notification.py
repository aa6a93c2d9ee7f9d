"""Package #0: known answers, the vendor tail, and what is ignored."""

from __future__ import annotations

import random

import pytest

from omadm.notification import RESYNC_NONCES, Notification, NotificationError, UiMode, emit, parse, trigger, verify

SERVER, SECRET, NONCE = "headend", "s3cret", b"\x01\x02\x03"


def check(data: bytes, *, last: int | None = None, standard: bool = False, nonce: bytes = NONCE) -> Notification:
    return verify(data, server_id=SERVER, secret=SECRET, nonce=nonce, last_counter=last, standard=standard)


def made(counter: int | None = 1, session_id: int = 0x1234) -> bytes:
    return emit(Notification(session_id, SERVER), SECRET, NONCE, counter=counter)


def test_known_trigger_of_the_standard() -> None:
    notification = Notification(0x1234, "com.mgmtsrv.manage", server_initiated=False)
    assert trigger(notification).hex() == "02d0000000" + "1234" + "12" + b"com.mgmtsrv.manage".hex()


def test_known_answer_that_another_client_accepted() -> None:
    data = emit(Notification(0x1234, "funambol"), "srvpwd", b"")
    assert data[:16].hex() == "619dabc50ca0f985f619649b2d7ce921"
    assert data[16:].hex() == "02d800000012340866756e616d626f6c"


@pytest.mark.parametrize("mode", list(UiMode))
@pytest.mark.parametrize("server_initiated", [False, True])
def test_every_field_is_read_back(mode: UiMode, *, server_initiated: bool) -> None:
    notification = Notification(0xBEEF, "сервер", mode, server_initiated, vendor=b"tail")
    assert parse(emit(notification, SECRET, NONCE)) == notification


def test_the_session_id_is_shown_as_the_header_will_have_it() -> None:
    assert Notification(0x00A7, SERVER).session_text == "A7"
    assert Notification(0, SERVER).session_text == "0"


def test_a_new_counter_is_accepted() -> None:
    assert check(made(7)).counter == 7
    assert check(made(7), last=6).session_id == 0x1234
    assert check(made(2**64 - 1), last=2**64 - 2).counter == 2**64 - 1


@pytest.mark.parametrize("last", [7, 8, 2**64 - 1])
def test_an_old_counter_is_ignored(last: int) -> None:
    with pytest.raises(NotificationError, match="not newer"):
        check(made(7), last=last)


@pytest.mark.parametrize("resync", RESYNC_NONCES)
def test_a_digest_under_each_resync_nonce_is_accepted(resync: bytes) -> None:
    assert check(emit(Notification(1, SERVER), SECRET, resync, counter=3)).counter == 3


def test_a_digest_under_any_other_nonce_is_ignored() -> None:
    with pytest.raises(NotificationError, match="digest"):
        check(emit(Notification(1, SERVER), SECRET, b"other", counter=3))


def test_without_our_tail_it_is_accepted_only_where_that_is_configured() -> None:
    data = made(None)
    assert check(data, standard=True).counter is None
    with pytest.raises(NotificationError, match="tail"):
        check(data)


def test_a_tail_of_ours_that_is_cut_is_no_standard_notification() -> None:
    data = emit(Notification(1, SERVER, vendor=b"DCU\x01short"), SECRET, NONCE)
    with pytest.raises(NotificationError, match="tail"):
        check(data, standard=True)


def test_a_forged_tail_under_a_good_digest_is_ignored() -> None:
    tail = b"DCU\x01" + (9).to_bytes(8, "big") + bytes(32)
    with pytest.raises(NotificationError, match="MAC"):
        check(emit(Notification(1, SERVER, vendor=tail), SECRET, NONCE))


def test_another_server_is_ignored() -> None:
    with pytest.raises(NotificationError, match="not configured"):
        check(emit(Notification(1, "other"), SECRET, NONCE, counter=1))


def test_every_flipped_bit_is_noticed() -> None:
    data = made(5)
    for position in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(NotificationError):
            check(bytes(flipped))


def test_every_cut_is_noticed() -> None:
    data = made(5)
    for length in range(len(data)):
        with pytest.raises(NotificationError):
            check(data[:length])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "too few"),
        (bytes(5000), "too many"),
        (bytes(16) + bytes(8), "version"),
        (bytes(16) + bytes.fromhex("02d8000000 0001 00"), "server id"),
        (bytes(16) + bytes.fromhex("02d8000000 0001 05") + b"abcd", "server id"),
        (bytes(16) + bytes.fromhex("02d8000001 0001 01") + b"a", "reserved"),
        (bytes(16) + bytes.fromhex("02d8000000 0001 01") + b"\xff", "UTF-8"),
    ],
)
def test_what_is_no_notification_says_why(data: bytes, why: str) -> None:
    with pytest.raises(NotificationError, match=why):
        parse(data)


@pytest.mark.parametrize(
    "notification",
    [Notification(1, ""), Notification(1, "x" * 256), Notification(0x10000, "a"), Notification(-1, "a")],
)
def test_fields_out_of_range_are_our_mistake(notification: Notification) -> None:
    with pytest.raises(ValueError, match="notification"):
        emit(notification, SECRET, NONCE)


def test_random_bytes_are_ignored_with_our_own_error() -> None:
    pick = random.Random(20)
    for _ in range(500):
        with pytest.raises(NotificationError):
            check(pick.randbytes(pick.randrange(90)))
