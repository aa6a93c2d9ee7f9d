"""What the head-end wants once more, batch by batch: each delivered record once, and what is gone is named exactly."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.metering.store.delivery import Range
from agent.metering.store.reading_store import Store
from omadm.readings import RANGES_MAX, RESENDS_MAX, ResendOrder
from tests.agent.metering.readings import visit
from tests.agent.metering.store.stores import store


def kept(tmp_path: Path, *visits: int, delivered: tuple[Range, ...] = ()) -> Store:
    """Visits of so many records, all delivered, or these ranges of them; nothing of it has gone."""
    opened = store(tmp_path, keep=1000)
    for count in visits:
        opened.append(visit(opened.next_id() - 1, count))
    for first, last in delivered or ((1, opened.next_id() - 1),):
        opened.release(opened.stats().uuid, last, first=first)
    return opened


def ordered(
    opened: Store, first: int, last: int, records_max: int
) -> list[tuple[list[object], int, tuple[Range, ...]]]:
    """(ids, how far the order is done, what is gone) of every batch of an order, each acknowledged."""
    opened.order_resend([ResendOrder(1, opened.stats().uuid, first, last)])
    got = []
    while (again := opened.resend_batch(records_max)) is not None:
        got.append(([record["id"] for record in again.records], again.reached, again.gone))
        opened.resend_sent(again)
    return got


@pytest.mark.parametrize(
    ("records_max", "batches"),
    [
        (9, [([*range(1, 10)], 9, ()), ([*range(10, 19)], 18, ()), ([19, 20], 20, ())]),
        (10, [([*range(1, 11)], 10, ()), ([*range(11, 21)], 20, ())]),
        (11, [([*range(1, 12)], 11, ()), ([*range(12, 21)], 20, ())]),
        (100, [([*range(1, 21)], 20, ())]),
    ],
)
def test_a_batch_ends_anywhere_and_the_next_one_goes_on_there(
    tmp_path: Path, records_max: int, batches: list[object]
) -> None:
    assert ordered(kept(tmp_path, 10, 10), 1, 20, records_max) == batches


@pytest.mark.parametrize(
    ("records_max", "batches"),
    [
        (2, [([1, 2], 2, ()), ([3, 6], 6, ()), ([7, 8], 10, ())]),
        (3, [([1, 2, 3], 5, ()), ([6, 7, 8], 10, ())]),
        (4, [([1, 2, 3, 6], 6, ()), ([7, 8], 10, ())]),
        (6, [([1, 2, 3, 6, 7, 8], 10, ())]),
        (100, [([1, 2, 3, 6, 7, 8], 10, ())]),
    ],
)
def test_what_waits_within_a_visit_is_left_out(tmp_path: Path, records_max: int, batches: list[object]) -> None:
    assert ordered(kept(tmp_path, 10, delivered=((1, 3), (6, 8))), 1, 10, records_max) == batches


def test_visits_of_one_reading_come_each_once(tmp_path: Path) -> None:
    opened = kept(tmp_path, 9, 1, 1, 1, 1)
    assert ordered(opened, 11, 12, 1) == [([11], 11, ()), ([12], 12, ())]


def test_of_a_damaged_visit_what_was_delivered_is_gone(tmp_path: Path) -> None:
    opened = kept(tmp_path, 10, 5, delivered=((1, 3), (6, 8), (11, 15)))
    opened.ask(lambda db: db.execute("UPDATE block SET body=x'00' WHERE first=1"))
    assert ordered(opened, 1, 15, 100) == [([*range(11, 16)], 15, ((1, 3), (6, 8)))]


def test_what_is_kept_no_more_and_what_never_was_is_gone(tmp_path: Path) -> None:
    opened = kept(tmp_path, 10, 10)
    opened.ask(lambda db: db.execute("DELETE FROM block WHERE first=1"))
    assert ordered(opened, 5, 25, 100) == [([*range(11, 21)], 25, ((5, 10), (21, 25)))]


def test_a_single_record_that_is_gone_is_named(tmp_path: Path) -> None:
    opened = kept(tmp_path, 5, 1, 5)
    opened.ask(lambda db: db.execute("DELETE FROM block WHERE first=6"))
    assert ordered(opened, 1, 11, 100) == [([*range(1, 6), *range(7, 12)], 11, ((6, 6),))]


def test_so_many_orders_are_remembered_at_a_time(tmp_path: Path) -> None:
    opened = kept(tmp_path, 10)
    uuid = opened.stats().uuid
    orders = [ResendOrder(number, uuid, 1, 1) for number in range(1, RESENDS_MAX + 2)]
    assert opened.order_resend(orders[:5]) == 5
    assert opened.order_resend(orders) == RESENDS_MAX - 5, "those that are known are not new"
    assert opened.order_resend(orders) == 0
    while (again := opened.resend_batch(10)) is not None:
        opened.resend_sent(again)
    opened.close_resends([1, 2])
    assert opened.order_resend(orders[RESENDS_MAX:]) == 1


def test_a_report_says_from_when_on_values_are_kept(tmp_path: Path) -> None:
    opened = kept(tmp_path, 10, 10)
    ordered(opened, 1, 5, 100)

    def kept_since() -> float:
        (report,) = opened.resend_reports()
        return report.kept_since

    assert kept_since() == visit(0, 1)[0].received
    opened.ask(lambda db: db.execute("UPDATE block SET since=0, made=1700000000.0"))  # as an older version left it
    assert kept_since() == 1_700_000_000.0
    opened.ask(lambda db: db.execute("UPDATE block SET body=x''"))
    assert kept_since() == 0.0


def gone_in_report(opened: Store) -> tuple[Range, ...]:
    (report,) = opened.resend_reports()
    return report.gone


def test_what_is_gone_side_by_side_is_one_range_and_else_two(tmp_path: Path) -> None:
    opened = kept(tmp_path, 5, 5, 1, 5, 2, 5, 5)
    opened.ask(lambda db: db.execute("UPDATE block SET body=x'00' WHERE last - first = 4"))
    assert [ids for ids, _, _ in ordered(opened, 1, 28, 1)] == [[11], [17], [18], []]
    assert gone_in_report(opened) == ((1, 10), (12, 16), (19, 28))


def test_what_is_gone_is_said_in_so_many_ranges_and_the_last_of_them_covers_the_rest(tmp_path: Path) -> None:
    opened = kept(tmp_path, *[10] * 80)
    opened.ask(lambda db: db.execute("UPDATE block SET body=x'00' WHERE first % 20 = 1"))
    opened.order_resend([ResendOrder(1, opened.stats().uuid, 1, 800)])
    batches = []
    while (again := opened.resend_batch(10_000)) is not None:
        batches.append(again)
        opened.resend_sent(again)
    said = gone_in_report(opened)
    assert len(said) == RANGES_MAX
    assert said[:2] == ((1, 10), (21, 30))
    assert said[-1] == (20 * RANGES_MAX - 19, 790)
    for again in batches:
        opened.resend_sent(again)  # the same once more
    assert gone_in_report(opened) == said
