"""What is missing follows from which readings are trusted: judgements by ids and by store, in whatever order."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from sqlalchemy import Engine

from headend.metering import missing
from headend.metering.missing import HERE
from tests.headend.metering.test_gaps import a_gap, post, run
from tests.omadm.test_readings import STORE, a_record

LATER, LAST = "b" * 32, "c" * 32
OPEN = a_gap(1, 0, 3, meter="KFM1", task="t1")


def a_reading(record_id: int, number: int, **fields: Any) -> dict[str, Any]:
    return a_record(record_id, run=run(number), meter="KFM1", task="t1", **fields)


def judged(record_id: int, state: str, lowest: int, highest: int, **fields: Any) -> dict[str, Any]:
    return a_gap(record_id, 0, 3, state, lowest=lowest, highest=highest, **fields)


def here(database: Engine) -> list[int]:
    """The slots of the range that are there all the same, by number."""
    rows = [row for row in missing.listing(database, meter="KFM1") if row["how"] == HERE]
    return sorted((first - run(0)) // 900 for row in rows for first in range(row["first"], row["last"] + 1, 900))


def test_a_judgement_is_about_its_ids_both_ends_included_and_no_other(database: Engine) -> None:
    post(database, OPEN, *(a_reading(10 + number, number) for number in range(4)))
    assert here(database) == [0, 1, 2, 3]
    post(database, judged(20, "doubted", 11, 12))
    assert here(database) == [0, 3]
    post(database, judged(21, "confirmed", 12, 12))
    assert here(database) == [0, 2, 3]
    post(database, judged(22, "doubted", 13, 2**63 - 1) | {"last": run(2)})
    assert here(database) == [0, 2, 3], "runs that it does not speak of are not meant"


def test_without_a_meter_and_a_task_all_are_meant(database: Engine) -> None:
    post(database, OPEN, a_reading(10, 0), a_reading(11, 1))
    post(database, judged(20, "doubted", 10, 10, meter="", task="another"))
    assert here(database) == [0, 1]
    post(database, judged(21, "doubted", 10, 10, meter="", task=""))
    assert here(database) == [1]
    post(database, judged(22, "confirmed", 10, 10, meter="", task="t1"))
    assert here(database) == [0, 1]


def test_a_later_store_speaks_of_the_readings_of_the_one_it_names_and_of_no_other(database: Engine) -> None:
    post(database, OPEN, a_reading(10, 0))
    post(database, a_reading(10, 1), judged(11, "doubted", 1, 99, about=STORE, generation=2), store=LATER)
    assert here(database) == [1]
    post(database, judged(12, "confirmed", 10, 10, about=STORE, generation=2), store=LATER)
    assert here(database) == [0, 1]


def test_a_judgement_counts_for_readings_that_come_after_it(database: Engine) -> None:
    post(database, judged(11, "doubted", 1, 10, about=STORE, generation=2), store=LATER)
    post(database, OPEN, a_reading(10, 0), a_reading(11, 1))
    assert here(database) == [1]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_in_whatever_order_reports_come_the_last_word_of_the_newest_store_counts(
    order: tuple[int, ...], database: Engine
) -> None:
    batches: list[tuple[list[dict[str, Any]], str]] = [
        ([OPEN, a_reading(10, 0)], STORE),
        ([judged(20, "doubted", 1, 15)], STORE),
        ([judged(5, "confirmed", 1, 15, about=STORE, generation=2)], LATER),
        ([judged(2, "doubted", 1, 15, about=STORE, generation=3)], LAST),
    ]
    for number in order:
        records, store = batches[number]
        post(database, *records, store=store)
    assert here(database) == []
    post(database, judged(3, "confirmed", 1, 15, about=STORE, generation=3), store=LAST)
    assert here(database) == [0]
    post(database, *batches[1][0], *[judged(21, "doubted", 1, 15)], store=STORE)
    assert here(database) == [0], "what it said itself is older than what a later store says of it"
