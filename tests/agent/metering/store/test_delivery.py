"""What the head-end holds: the watermark, and ranges above it, none of them adjoining another."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.metering.store.delivery import Range, count, without
from agent.metering.store.reading_store import Store
from tests.agent.metering.readings import visit
from tests.agent.metering.store.stores import store


def released(tmp_path: Path, *ranges: Range) -> Store:
    """A store with a hundred records, of which these ranges were delivered, in this order."""
    opened = store(tmp_path, keep=1000)
    opened.append(visit(0, 100))
    for first, last in ranges:
        opened.release(opened.stats().uuid, last, first=first)
    return opened


def above(opened: Store) -> list[Range]:
    return opened.ask(lambda db: db.execute("SELECT first, last FROM delivered ORDER BY first").fetchall())


@pytest.mark.parametrize(
    ("delivered", "left"),
    [
        ([(11, 20), (5, 10)], [(5, 20)]),
        ([(5, 10), (11, 20)], [(5, 20)]),
        ([(5, 10), (15, 20), (11, 14)], [(5, 20)]),
        ([(5, 10), (12, 20)], [(5, 10), (12, 20)]),
        ([(12, 20), (5, 10)], [(5, 10), (12, 20)]),
        ([(5, 10), (8, 20)], [(5, 20)]),
        ([(8, 20), (5, 10)], [(5, 20)]),
        ([(5, 20), (8, 10)], [(5, 20)]),
        ([(8, 10), (5, 20)], [(5, 20)]),
        ([(30, 30), (5, 10), (20, 20), (9, 21)], [(5, 21), (30, 30)]),
    ],
)
def test_ranges_that_overlap_or_adjoin_become_one_and_others_do_not(
    tmp_path: Path, delivered: list[Range], left: list[Range]
) -> None:
    opened = released(tmp_path, *delivered)
    assert above(opened) == left
    assert (opened.stats().pending, opened.stats().forwarded) == (100 - count(left), count(left))


@pytest.mark.parametrize(
    ("delivered", "watermark", "left"),
    [
        ([(1, 10)], 10, []),
        ([(2, 10)], 0, [(2, 10)]),
        ([(2, 10), (1, 1)], 10, []),
        ([(1, 10), (11, 20)], 20, []),
        ([(1, 10), (12, 20)], 10, [(12, 20)]),
        ([(1, 10), (12, 20), (11, 11)], 20, []),
        ([(12, 20), (30, 40), (1, 15)], 20, [(30, 40)]),
    ],
)
def test_a_range_that_reaches_the_watermark_moves_it(
    tmp_path: Path, delivered: list[Range], watermark: int, left: list[Range]
) -> None:
    opened = released(tmp_path, *delivered)
    assert opened.file.run(lambda _, counters: counters["released"]) == watermark
    assert above(opened) == left


@pytest.mark.parametrize(
    ("parts", "left"),
    [
        ([], [(11, 20)]),
        ([(11, 12)], [(13, 20)]),
        ([(19, 20)], [(11, 18)]),
        ([(11, 20)], []),
        ([(1, 30)], []),
        ([(1, 10), (21, 30)], [(11, 20)]),
        ([(1, 11), (13, 13), (20, 30)], [(12, 12), (14, 19)]),
        ([(12, 13), (14, 15)], [(11, 11), (16, 20)]),
    ],
)
def test_what_is_left_of_a_range_without_parts_of_it(parts: list[Range], left: list[Range]) -> None:
    assert without((11, 20), parts) == left


def test_a_range_that_is_none_has_nothing_left() -> None:
    assert without((11, 10), [(1, 5)]) == []


@pytest.mark.parametrize(("first", "last"), [(1, 10), (4, 14), (15, 20), (8, 8), (7, 14), (4, 9)])
def test_damaged_records_are_passed_over_and_are_not_forwarded(tmp_path: Path, first: int, last: int) -> None:
    """The records 6 to 10 are damaged: of each range only the others count."""
    opened = store(tmp_path, keep=1000)
    for start, number in ((0, 5), (5, 5), (10, 90)):
        opened.append(visit(start, number))
    opened.ask(lambda db: db.execute("UPDATE block SET body=x'00' WHERE first=6"))
    opened.batch(1000)
    assert (opened.stats().pending, opened.stats().lost) == (95, 5)
    waited = sum(1 for record_id in range(first, last + 1) if record_id not in range(6, 11))
    assert opened.release(opened.stats().uuid, last, first=first) == waited
    assert opened.stats().pending == 95 - waited
    opened.release(opened.stats().uuid, 100)
    assert (opened.stats().pending, opened.stats().forwarded, opened.stats().lost) == (0, 95, 5)
