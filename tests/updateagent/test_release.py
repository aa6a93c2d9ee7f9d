"""The release file of an image."""

from __future__ import annotations

import pytest

from updateagent.release import built_at, floor_of, parse_release


def test_values_are_read_without_their_quotes_and_what_is_none_is_passed_over() -> None:
    text = 'NAME=DCU\n# VERSION=1\nVERSION="7"\nno line\n  BUILT=\'2027-01-15T08:00:00Z\'  \nHALF="x\n'
    assert parse_release(text) == {"NAME": "DCU", "VERSION": "7", "BUILT": "2027-01-15T08:00:00Z", "HALF": '"x'}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 0.0),
        ("1800000000", 1_800_000_000.0),
        ("2027-01-15T08:00:00Z", 1_800_000_000.0),
        ("2027-01-15T09:00:00+01:00", 1_800_000_000.0),
        ("2027-01-15T08:00:00", 1_800_000_000.0),
    ],
)
def test_the_release_file_says_when_the_image_was_built(text: str, seconds: float) -> None:
    assert built_at({"BUILT": text} if text else {}) == seconds


@pytest.mark.parametrize("text", ["yesterday", "-5", "9" * 400, "1900-01-01T00:00:00Z"])
def test_a_time_of_a_build_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        built_at({"BUILT": text})


@pytest.mark.parametrize(("text", "floor"), [("7", 7), ("", 0), ("-1", 0), ("seven", 0), ("9" * 11, 0), ("٣", 0)])
def test_the_release_file_says_what_is_too_old(text: str, floor: int) -> None:
    assert floor_of({"SECURITY_VERSION_MIN": text}) == floor
