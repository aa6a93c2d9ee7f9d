"""The earliest time that it can be: how it rises, how a wrong one is taken back, and how rarely it is written."""

from __future__ import annotations

import pytest

from agent.clock_floor import (
    LOWERED_BY_S,
    SET_ASIDE_AFTER_S,
    STORED_AT_END_S,
    STORED_EVERY_S,
    TIME_MAX,
    CertificateTime,
    ClockFloor,
    Stored,
    Validity,
)

NOW = 1_800_000_000.0
DAY = 86_400.0
YEAR = 365 * DAY
BUILT = NOW - YEAR
VALID = Validity(NOW - 200 * DAY, NOW + 200 * DAY)


def test_the_floor_is_the_latest_of_what_was_built_told_and_signed() -> None:
    floor = ClockFloor(BUILT)
    assert floor.earliest(0) == BUILT
    floor.signed(BUILT + DAY)
    assert floor.earliest(0) == BUILT + DAY
    assert floor.told(NOW, VALID) == ""
    assert floor.earliest(0) == NOW
    floor.signed(NOW - DAY)
    assert floor.earliest(0) == NOW


def test_servers_whose_clocks_differ_a_little_do_not_lower_it() -> None:
    floor = ClockFloor(BUILT)
    floor.told(NOW, VALID)
    floor.told(NOW - LOWERED_BY_S, VALID)
    assert floor.earliest(0) == NOW


def test_a_server_that_says_earlier_takes_a_poisoned_floor_back() -> None:
    floor = ClockFloor(BUILT)
    floor.told(NOW + 150 * DAY, VALID)
    floor.told(NOW, VALID)
    assert floor.earliest(0) == NOW


def test_a_server_refutes_a_signing_time_that_lies_ahead_also_after_a_restart() -> None:
    floor = ClockFloor(BUILT)
    floor.signed(NOW + YEAR)
    floor.told(NOW, VALID)
    assert floor.earliest(0) == NOW
    kept = floor.to_store()
    assert kept is not None
    again = ClockFloor(BUILT, Stored.parse(kept.emit()))
    again.signed(NOW + YEAR)  # the same package
    assert again.earliest(0) == NOW
    again.signed(NOW + 2 * YEAR)
    assert again.earliest(0) == NOW + 2 * YEAR


@pytest.mark.parametrize(
    ("time", "why"),
    [
        (BUILT - DAY, "before the image was built"),
        (0.0, "before the image was built"),
        (VALID.not_after + DAY, "outside the validity of its own certificate"),
        (VALID.not_before - DAY, "outside the validity of its own certificate"),
    ],
)
def test_a_time_that_cannot_be_is_not_believed(time: float, why: str) -> None:
    floor = ClockFloor(BUILT)
    assert floor.told(time, VALID) == why
    assert floor.earliest(0) == BUILT


def test_a_floor_never_passes_the_end_of_the_certificates_it_was_told_under() -> None:
    floor = ClockFloor(BUILT)
    assert floor.told(VALID.not_after + 10, VALID) == ""
    assert floor.earliest(0) == VALID.not_after


def test_a_floor_under_which_nothing_is_valid_is_set_aside_until_a_server_tells_the_time() -> None:
    floor = ClockFloor(BUILT)
    floor.signed(NOW + 10 * YEAR)
    floor.refused(100.0)
    floor.refused(100.0 + SET_ASIDE_AFTER_S - 1)
    assert floor.earliest(100.0 + SET_ASIDE_AFTER_S - 1) == NOW + 10 * YEAR
    late = 100.0 + SET_ASIDE_AFTER_S
    assert (floor.is_aside(late), floor.earliest(late)) == (True, BUILT)
    floor.accepted(late)  # a handshake alone tells no time
    assert floor.earliest(late + 1) == BUILT
    floor.told(NOW, VALID)
    assert (floor.is_aside(late + 2), floor.earliest(late + 2)) == (False, NOW)


def test_one_expired_certificate_among_valid_ones_sets_nothing_aside() -> None:
    floor = ClockFloor(BUILT)
    floor.told(NOW, VALID)
    for minute in range(2 * int(SET_ASIDE_AFTER_S / 60)):
        floor.refused(minute * 60.0)
        floor.accepted(minute * 60.0 + 30)
    assert floor.earliest(2 * SET_ASIDE_AFTER_S) == NOW


def test_the_floor_is_written_once_a_day_and_at_an_orderly_end() -> None:
    floor = ClockFloor(BUILT)
    writes = 0
    for hour in range(24 * 10):
        floor.told(NOW + hour * 3600, VALID)
        if (kept := floor.to_store()) is not None:
            floor.stored(kept)
            writes += 1
    assert writes == 10
    assert STORED_EVERY_S == DAY
    floor.told(NOW + 24 * 9 * 3600 + STORED_AT_END_S, VALID)
    assert floor.to_store() is None
    assert floor.to_store(at_end=True) is not None


def test_a_floor_that_was_lowered_is_written_at_once() -> None:
    floor = ClockFloor(BUILT, Stored(NOW + 100 * DAY))
    floor.told(NOW, VALID)
    assert floor.to_store() == Stored(NOW)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"null", b'{"proven": "x"}', b'{"proven": true}', b'{"signed": -1}', b"[" * 100_000, b"\xff"]
    + [f'{{"proven": {bad}}}'.encode() for bad in ("NaN", "Infinity", TIME_MAX + 1)],
)
def test_a_file_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        Stored.parse(data)


def test_a_file_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert Stored.parse(b'{"version": 2, "proven": 5, "signed": 6, "other": {}}') == Stored(5.0, 6.0)


def test_a_certificate_is_judged_by_the_later_of_floor_and_believed_clock() -> None:
    assert CertificateTime(NOW, None).least == NOW
    assert CertificateTime(NOW, NOW + 1).least == NOW + 1
    assert CertificateTime(NOW, NOW - 1).least == NOW
