"""What is missing: what devices list, without the slots of which a reading is here, in ranges that add up."""

from __future__ import annotations

import random
from typing import Any

import pytest
from sqlalchemy import Engine

from headend.metering import gaps, missing
from omadm.local_time import Zone
from omadm.schedule import Calendar
from tests.headend.metering.test_gaps import EVERY, T0, a_gap, post, run
from tests.omadm.test_readings import DEVICE, a_record

OTHER = "DCU0000000000099"


def reading(record_id: int, number: int, **fields: Any) -> dict[str, Any]:
    return a_record(record_id) | {"meter": "KFM1", "task": "t1", "run": run(number), "trusted": True} | fields


def shown(database: Engine, state: str | None = "open") -> list[tuple[int, int | None, int | None]]:
    """First and last slot of each range, by number, and how many slots it has."""
    rows = missing.listing(database, device=DEVICE, state=state)
    return sorted(
        ((row["first"] - T0) // EVERY, None if row["last"] is None else (row["last"] - T0) // EVERY, row["slots"])
        for row in rows
    )


def here(database: Engine) -> list[tuple[int, int | None, int | None]]:
    rows = missing.listing(database, device=DEVICE)
    return sorted(
        ((row["first"] - T0) // EVERY, (row["last"] - T0) // EVERY, row["slots"])
        for row in rows
        if row["how"] == missing.HERE and row["state"] == "closed" and row["only_here"]
    )


def test_slots_of_which_a_reading_is_here_are_not_missing(database: Engine) -> None:
    post(database, *[reading(number + 1, number) for number in (3, 4, 7)], a_gap(9, 0, 9))
    assert shown(database) == [(0, 2, 3), (5, 6, 2), (8, 9, 2)]
    assert here(database) == [(3, 4, 2), (7, 7, 1)]
    assert gaps.listing(database)[0]["slots"] == 10, "what the device says stays as it is"


def test_the_order_in_which_reading_and_gap_come_is_of_no_account(database: Engine) -> None:
    post(database, a_gap(1, 0, 2))
    assert shown(database) == [(0, 2, 3)]
    post(database, reading(2, 1))
    assert shown(database) == [(0, 0, 1), (2, 2, 1)]
    post(database, reading(3, 0), reading(4, 2))
    assert shown(database) == []
    assert here(database) == [(0, 2, 3)]


def test_a_gap_that_goes_on_is_missing_to_no_end_until_something_is_read_again(database: Engine) -> None:
    post(database, a_gap(1, 0, None), reading(2, 0))
    assert shown(database) == [(1, None, None)]
    post(database, reading(3, 5), reading(4, 6))
    assert shown(database) == [(1, 4, 4)]
    assert here(database) == [(0, 0, 1), (5, 5, 1)]


def test_a_slot_of_which_a_part_is_here_is_missing(database: Engine) -> None:
    """Batches cut visits: the rest of the slot was in the store that was lost."""
    codes = ("1.0.1.8.0.255", "1.0.2.8.0.255", "1.0.3.8.0.255")
    parts = {0: codes[:2], 1: codes, 2: codes[1:], 3: codes}
    records = [reading(0, number, obis=code) for number, some in parts.items() for code in some]
    post(database, *[record | {"id": number} for number, record in enumerate(records, 1)], a_gap(90, 0, 3))
    assert shown(database) == [(0, 0, 1), (2, 2, 1)]
    assert here(database) == [(1, 1, 1), (3, 3, 1)]


def test_an_error_in_the_place_of_a_value_is_what_the_visit_gave(database: Engine) -> None:
    codes = ("1.0.1.8.0.255", "1.0.2.8.0.255")
    failed = {"error": "temporary-failure", "tag": "null", "raw": None}
    unknown = {"obis": "1.0.9.8.0.255", "error": "object-undefined", "tag": "null", "raw": None}
    records = [
        *(reading(0, 0, obis=code) for code in codes),
        *(reading(0, 1, obis=code) | given for code, given in zip(codes, ({}, failed), strict=True)),
        *(reading(0, 2, obis=code) | failed for code in codes),  # nothing of it is known
        reading(0, 3, obis=codes[0]), reading(0, 3) | unknown,  # of the other one nothing is here, not even an error
        reading(0, 4, obis=codes[0]),
    ]  # fmt: skip
    post(database, *[record | {"id": number} for number, record in enumerate(records, 1)], a_gap(90, 0, 4))
    assert here(database) == [(0, 1, 2)]
    assert shown(database) == [(2, 4, 3)]


@pytest.mark.parametrize(
    "fields",
    [
        {"trusted": False},
        {"error": "object-undefined", "tag": "null", "raw": None},
        {"meter": "KFM2"},
        {"task": "t2"},
        {"run": run(4) + 1},
        {"profile": "1.0.99.1.0.255", "row": "a", "reread": "a"},
    ],
    ids=["under a doubtful clock", "an error", "another meter", "another task", "no slot of it", "a row of a profile"],
)
def test_what_is_no_reading_of_the_slot_fills_none(database: Engine, fields: dict[str, Any]) -> None:
    post(database, a_gap(1, 4, 4), reading(2, 4) | {key: value for key, value in fields.items() if key != "row"})
    assert shown(database) == [(4, 4, 1)]
    assert here(database) == []


def test_what_turns_out_to_have_been_read_under_a_wrong_clock_is_missing_again(database: Engine) -> None:
    post(database, a_gap(1, 0, 2), reading(2, 1))
    assert shown(database) == [(0, 0, 1), (2, 2, 1)]
    doubt = a_gap(3, 1, 1, "doubted", reason="clock-unknown", lowest=1, highest=2)
    post(database, doubt)
    assert shown(database) == [(0, 2, 3)]


def test_another_devices_reading_of_the_same_slot_fills_nothing(database: Engine) -> None:
    post(database, a_gap(1, 0, 0))
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE gaps SET device = ?", (OTHER,))
    post(database, reading(2, 0))
    assert [row["slots"] for row in missing.listing(database, device=OTHER, state="open")] == [1]


def test_profiles_are_listed_as_the_device_says(database: Engine) -> None:
    """A reading of a register fills no interval of a profile."""
    post(database, a_gap(1, 0, 9, profile="1.0.99.1.0.255"), reading(2, 3))
    assert shown(database) == [(0, 9, 10)]


def test_slots_at_local_times_are_told_apart_as_well(database: Engine) -> None:
    calendar = Calendar("0 0 * * *", Zone("CET-1CEST,M3.5.0,M10.5.0/3"))
    first = next(each for each in range(T0, T0 + 2 * 86_400, 900) if calendar.count(each, each))
    days = [first + 86_400 * number for number in range(4)]
    post(
        database,
        a_gap(1, 0, 0, every=calendar.every, times=calendar.times) | {"first": days[0], "last": days[3]},
        reading(2, 0, run=days[1]),
    )
    ranges = [(row["first"], row["last"]) for row in missing.listing(database, device=DEVICE, state="open")]
    assert ranges == [(days[0], days[0]), (days[2], days[3])]


@pytest.mark.parametrize("seed", range(8))
def test_missing_and_here_are_the_listed_range_and_nothing_twice(database: Engine, seed: int) -> None:
    rng = random.Random(seed)
    read = {number for number in range(-2, 42) if rng.random() < 0.5}
    trusted = {number for number in read if rng.random() < 0.7}
    post(
        database,
        a_gap(1, 0, 39),
        *[reading(number + 10, number, trusted=number in trusted) for number in sorted(read)],
    )
    slots = [each for first, last, _ in shown(database) for each in range(first, (last or 0) + 1)]
    found = [each for first, last, _ in here(database) for each in range(first, (last or 0) + 1)]
    assert slots == [each for each in range(40) if each not in trusted]
    assert found == [each for each in range(40) if each in trusted]
    assert sum(slots or 0 for *_, slots in shown(database)) + len(found) == 40


def test_states_are_told_apart(database: Engine) -> None:
    post(database, a_gap(1, 0, 5), a_gap(2, 0, 1, "closed"), reading(3, 4))
    assert shown(database, "open") == [(2, 3, 2), (5, 5, 1)]
    assert sorted(row["how"] for row in missing.listing(database, state="closed")) == ["here", "profile"]
    assert sorted(str(row["how"]) for row in missing.listing(database)) == ["None", "None", "here", "profile"]


def test_pages_are_of_what_is_listed(database: Engine) -> None:
    """Ranges that are here in whole come first; a page without the others would say that nothing is missing."""
    wholly_here = [a_gap(number, 2 * number, 2 * number) for number in range(10, 30)]
    post(database, a_gap(1, 0, 0), *wholly_here, *[reading(30 + number, 2 * number) for number in range(10, 30)])
    assert [row["first"] for row in missing.listing(database, state="open", limit=5)] == [run(0)]
    pages = [missing.listing(database, limit=4, offset=offset) for offset in range(0, 24, 4)]
    assert [len(page) for page in pages] == [4, 4, 4, 4, 4, 1]
    assert [row["first"] for page in pages for row in page] == [*map(run, range(58, 18, -2)), run(0)]
    assert len(missing.listing(database, state="closed", limit=7, offset=15)) == 5
