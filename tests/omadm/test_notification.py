"""Package #0: known answers, the vendor tail, and what is ignored."""

from __future__ import annotations

import hashlib
import hmac
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


def test_values_that_go_over_the_wire() -> None:
    assert [mode.value for mode in UiMode] == [0, 1, 2, 3]
    assert RESYNC_NONCES == (b"\0\0\0\0", b"AAAAAA==", b"0x00000000")


def test_the_vendor_tail_is_magic_counter_and_a_mac_over_all_before_it() -> None:
    data = made(0x0102)
    key = hmac.digest(SECRET.encode(), b"dcu notification 1", hashlib.sha256)
    assert data[-44:-32] == b"DCU\x01" + bytes(6) + b"\x01\x02"
    assert data[-32:] == hmac.digest(key, data[16:-32], hashlib.sha256)


def test_the_longest_notification_is_read_and_no_longer_one() -> None:
    def long(vendor_bytes: int) -> bytes:
        return emit(Notification(1, "s" * 255, vendor=b"v" * vendor_bytes), SECRET, NONCE)

    assert len(parse(long(1024)).vendor) == 1024
    with pytest.raises(NotificationError, match="too many"):
        parse(long(1025))


@pytest.mark.parametrize("server_id", ["s", "s" * 255])
@pytest.mark.parametrize("session_id", [0, 0xFFFF])
@pytest.mark.parametrize("version", [0, 1023])
def test_fields_at_their_limits_are_emitted(server_id: str, session_id: int, version: int) -> None:
    data = trigger(Notification(session_id, server_id, version=version))
    assert int.from_bytes(data[:5], "big") >> 30 == version
    assert data[5:] == session_id.to_bytes(2, "big") + bytes([len(server_id)]) + server_id.encode()


@pytest.mark.parametrize(
    "notification",
    [
        Notification(1, ""),
        Notification(1, "s" * 256),
        Notification(-1, SERVER),
        Notification(0x1_0000, SERVER),
        Notification(1, SERVER, version=-1),
        Notification(1, SERVER, version=1024),
    ],
    ids=["no server", "long server", "session below", "session above", "version below", "version above"],
)
def test_a_field_beyond_its_limits_is_our_mistake(notification: Notification) -> None:
    with pytest.raises(ValueError, match=r"255 bytes|out of range"):
        trigger(notification)


def test_a_counter_has_64_bits_and_the_vendor_field_to_itself() -> None:
    assert [check(made(counter)).counter for counter in (0, 2**64 - 1)] == [0, 2**64 - 1]
    for counter in (-1, 2**64):
        with pytest.raises(ValueError, match="64 bits"):
            made(counter)
    with pytest.raises(ValueError, match="empty vendor field"):
        emit(Notification(1, SERVER, vendor=b"tail"), SECRET, NONCE, counter=1)


def test_a_tail_of_our_length_or_with_our_magic_alone_is_not_ours() -> None:
    assert Notification(1, SERVER, vendor=bytes(44)).counter is None
    short = emit(Notification(1, SERVER, vendor=b"DCU\x01short"), SECRET, NONCE)
    with pytest.raises(NotificationError, match="not ours"):
        check(short, standard=True)


def test_a_notification_without_our_tail_is_refused_unless_it_was_configured() -> None:
    data = made(None)
    with pytest.raises(NotificationError, match="missing"):
        verify(data, server_id=SERVER, secret=SECRET, nonce=NONCE, last_counter=None)
    assert check(data, standard=True).counter is None
