"""The earliest time that it can be: how it rises, how a wrong one is taken back, and how rarely it is written."""

from __future__ import annotations

import json

import pytest

from agent.clock_floor import CertificateTime, ClockFloor, Stored, Validity

NOW = 1_800_000_000.0
HOUR = 3600.0
DAY = 86_400.0
YEAR = 365 * DAY
BUILT = NOW - YEAR
YEAR_3000 = 32_503_680_000  # `date -u -d 3000-01-01 +%s`
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
    floor.told(NOW - HOUR, VALID)
    assert floor.earliest(0) == NOW
    floor.told(NOW - HOUR - 0.5, VALID)
    assert floor.earliest(0) == NOW - HOUR - 0.5


def test_without_a_build_or_a_file_nothing_is_known() -> None:
    assert Stored() == Stored(0.0, 0.0, 0.0)
    assert ClockFloor().earliest(0) == 0.0


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


def test_a_refuted_signing_time_counts_for_nothing() -> None:
    assert ClockFloor(0.0, Stored(signed=NOW, refuted=NOW)).earliest(0) == 0.0


def test_a_signing_time_that_a_server_confirms_is_not_refuted() -> None:
    floor = ClockFloor(BUILT, Stored(proven=NOW + 100 * DAY, signed=NOW))
    floor.told(NOW, VALID)
    assert floor.to_store() == Stored(proven=NOW, signed=NOW)


@pytest.mark.parametrize(
    ("time", "why"),
    [
        (BUILT - 300.5, "before the image was built"),
        (0.0, "before the image was built"),
        (VALID.not_after + 300.5, "outside the validity of its own certificate"),
        (VALID.not_before - 300.5, "outside the validity of its own certificate"),
    ],
)
def test_a_time_that_cannot_be_is_not_believed(time: float, why: str) -> None:
    floor = ClockFloor(BUILT)
    assert floor.told(time, VALID) == why
    assert floor.earliest(0) == BUILT


@pytest.mark.parametrize("time", [VALID.not_before - 300, VALID.not_after + 300])
def test_clocks_may_differ_by_five_minutes_from_those_that_made_the_certificate(time: float) -> None:
    assert ClockFloor(BUILT).told(time, VALID) == ""


def test_clocks_may_differ_by_five_minutes_from_the_one_that_built_the_image() -> None:
    floor = ClockFloor(NOW)
    assert floor.told(NOW - 300, VALID) == ""
    assert floor.earliest(0) == NOW


def test_a_floor_never_passes_the_end_of_the_certificates_it_was_told_under() -> None:
    floor = ClockFloor(BUILT)
    assert floor.told(VALID.not_after + 10, VALID) == ""
    assert floor.earliest(0) == VALID.not_after


def test_a_floor_under_which_nothing_is_valid_is_set_aside_until_a_server_tells_the_time() -> None:
    floor = ClockFloor(BUILT)
    floor.signed(NOW + 10 * YEAR)
    floor.refused(100.0)
    late = 100.0 + 6 * HOUR
    floor.refused(late - 0.5)
    assert floor.earliest(late - 0.5) == NOW + 10 * YEAR
    assert (floor.is_aside(late), floor.earliest(late)) == (True, BUILT)
    floor.accepted(late)  # a handshake alone tells no time
    assert floor.earliest(late + 1) == BUILT
    floor.told(NOW, VALID)
    assert (floor.is_aside(late + 2), floor.earliest(late + 2)) == (False, NOW)


def test_one_expired_certificate_among_valid_ones_sets_nothing_aside() -> None:
    floor = ClockFloor(BUILT)
    floor.told(NOW, VALID)
    for minute in range(12 * 60):
        floor.refused(minute * 60.0)
        floor.accepted(minute * 60.0 + 30)
    assert floor.earliest(12 * HOUR) == NOW


def test_the_floor_is_written_once_a_day_and_at_an_orderly_end() -> None:
    floor = ClockFloor(BUILT)
    writes = 0
    for hour in range(24 * 10):
        floor.told(NOW + hour * HOUR, VALID)
        if (kept := floor.to_store()) is not None:
            floor.stored(kept)
            writes += 1
    assert writes == 10
    floor.told(NOW + 9 * DAY + HOUR - 0.5, VALID)
    assert floor.to_store(at_end=True) is None
    floor.told(NOW + 9 * DAY + HOUR, VALID)
    assert floor.to_store() is None
    assert floor.to_store(at_end=True) is not None


def test_a_signing_time_is_written_like_a_told_one() -> None:
    floor = ClockFloor(BUILT, Stored(NOW, NOW))
    assert floor.to_store() is None
    floor.signed(NOW + DAY - 1)
    assert floor.to_store() is None
    floor.signed(NOW + DAY)
    assert floor.to_store() == Stored(NOW, NOW + DAY)


def test_a_floor_that_was_lowered_is_written_at_once() -> None:
    floor = ClockFloor(BUILT, Stored(NOW + 100 * DAY))
    floor.told(NOW, VALID)
    assert floor.to_store() == Stored(NOW)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"null", b'{"proven": "x"}', b'{"proven": true}', b'{"signed": -1}', b"[" * 100_000, b"\xff"]
    + [f'{{"proven": {bad}}}'.encode() for bad in ("NaN", "Infinity", YEAR_3000 + 1)],
)
def test_a_file_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        Stored.parse(data)


def test_the_file_has_a_version_and_the_three_times() -> None:
    kept = Stored(1.5, 2.5, YEAR_3000)
    assert json.loads(kept.emit()) == {"version": 1, "proven": 1.5, "signed": 2.5, "refuted": YEAR_3000}
    assert Stored.parse(kept.emit()) == kept


def test_a_file_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert Stored.parse(b'{"version": 2, "proven": 5, "signed": 6, "other": {}}') == Stored(5.0, 6.0)


def test_a_certificate_is_judged_by_the_later_of_floor_and_believed_clock() -> None:
    assert CertificateTime(NOW, None).least == NOW
    assert CertificateTime(NOW, NOW + 1).least == NOW + 1
    assert CertificateTime(NOW, NOW - 1).least == NOW


def test_who_is_reached_whatever_its_certificates_are_tells_any_time_from_the_build_on() -> None:
    floor = ClockFloor(BUILT, Stored(NOW + YEAR, NOW + 2 * YEAR))
    assert floor.told(NOW, None) == ""
    assert floor.earliest(0) == NOW
    assert floor.told(NOW + 20 * YEAR, None) == ""
    assert floor.earliest(0) == NOW + 20 * YEAR
    assert floor.told(BUILT - HOUR, None) == "before the image was built"
