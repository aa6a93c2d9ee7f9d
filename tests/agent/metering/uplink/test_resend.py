"""What the head-end wants once more is sent again where it is still kept, last of all, and what is gone is said so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.https import HttpsError, Response
from omadm import readings
from omadm.readings import RANGES_MAX, RESENDS_MAX, ResendOrder
from tests.agent.metering.readings import visit
from tests.agent.metering.uplink.rig import Rig


def delivered(tmp_path: Path, keep: int = 1000) -> Rig:
    """Thirty visits of ten readings, one per minute, all delivered."""
    rig = Rig(tmp_path, keep=keep)
    for number in range(30):
        rig.store.append(visit(10 * number, 10))
        rig.run(60)
    assert rig.store.stats().pending == 0
    rig.headend.order.clear()
    return rig


def by_ids(rig: Rig, first: int, last: int, request: int = 1) -> dict[str, object]:
    return {"request": request, "store": rig.store.stats().uuid, "first": first, "last": last}


def ask(rig: Rig, *orders: dict[str, object], seconds: float = 60) -> None:
    """Give orders with the answer to a new reading."""
    rig.headend.resend = list(orders)
    rig.store.append(visit(9000, 1))
    rig.run(seconds)


def test_a_range_of_ids_comes_again_and_the_end_is_reported_once(tmp_path: Path) -> None:
    rig = delivered(tmp_path)
    ask(rig, by_ids(rig, 15, 104))
    assert rig.headend.order == [9000, *range(14, 104)]
    assert rig.headend.priorities[-3:] == ["u=7"] * 3  # two batches and the report
    (report,) = rig.headend.reports
    assert (report["request"], report["sent"], report["refused"], report["gone"]) == (1, 90, 0, [])
    assert rig.store.stats().forwarded == 301, "what comes again is not counted again"


def test_readings_of_a_time_come_again_by_whole_visits(tmp_path: Path) -> None:
    rig = delivered(tmp_path)
    # The made-up readings all speak of 1,800,000,000.25 and are stored one visit per minute from 1,800,000,000 on.
    ask(rig, {"request": 4, "since": 1_800_000_000 + 27 * 60 - 1.0, "until": 1_800_100_000.0})
    assert rig.headend.order == [9000, *range(270, 300), 9000]
    (report,) = rig.headend.reports
    assert (report["sent"], report["gone"]) == (31, [])
    assert report["kept_since"] == 1_800_000_000.25


def test_what_is_not_kept_any_more_is_said_so(tmp_path: Path) -> None:
    rig = delivered(tmp_path, keep=100)
    ask(rig, by_ids(rig, 1, 250), by_ids(rig, 400, 420, request=2), {**by_ids(rig, 3, 9, request=3), "store": "0" * 32})
    reports = {report["request"]: report for report in rig.headend.reports}
    gone = reports[1]["gone"]
    assert isinstance(gone, list)
    assert gone[0][0] == 1
    assert rig.headend.order == [9000, *range(gone[0][1], 250)]
    assert reports[1]["sent"] == 250 - gone[0][1]
    assert (reports[2]["sent"], reports[2]["gone"]) == (0, [[400, 420]])
    assert (reports[3]["sent"], reports[3]["gone"]) == (0, [[3, 9]])


def test_it_goes_after_all_that_waits(tmp_path: Path) -> None:
    rig = delivered(tmp_path)
    rig.store.append(visit(5000, 30))
    rig.start()  # so that it is a backlog
    ask(rig, by_ids(rig, 1, 200), seconds=0.06)
    rig.store.append(visit(9001, 1))
    rig.run(60)
    fresh, backlog, again = (rig.headend.order.index(raw) for raw in (9001, 5029, 0))
    assert max(fresh, backlog) < rig.headend.order.index(199)
    assert backlog < again


def test_an_order_survives_a_restart_lost_answers_and_an_outage(tmp_path: Path) -> None:
    rig = delivered(tmp_path)
    rig.headend.mood = [200, "lost", HttpsError("down"), 200, "lost", 503]
    ask(rig, by_ids(rig, 1, 120), seconds=3)
    rig.start()
    rig.run(100)
    assert set(rig.headend.order) == {*range(120), 9000}
    (report, *again) = rig.headend.reports
    assert report["sent"] == 120
    assert all(repeated == report for repeated in again)


def test_what_waits_for_its_first_delivery_is_left_to_that(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keep=1000)
    rig.store.append(visit(0, 10))
    rig.store.append(visit(10, 10))
    rig.store.release(rig.store.stats().uuid, 15, first=8)
    rig.store.order_resend([ResendOrder(1, rig.store.stats().uuid, 1, 20)])
    again = rig.store.resend_batch(5)
    assert again is not None
    assert [record["raw"] for record in again.records] == [7, 8, 9, 10, 11]
    rig.store.resend_sent(again)
    again = rig.store.resend_batch(100)
    assert again is not None
    assert [record["raw"] for record in again.records] == [12, 13, 14]
    assert (again.reached, again.gone) == (20, ())


def test_a_head_end_that_refuses_what_it_wanted_hears_so_and_nothing_is_set_aside(tmp_path: Path) -> None:
    rig = delivered(tmp_path)
    rig.headend.poison = {7}
    ask(rig, by_ids(rig, 1, 100), seconds=100)
    (report,) = rig.headend.reports
    assert (report["sent"], report["refused"]) == (99, 1), "what it refuses costs itself alone"
    assert rig.store.stats().refused == 0


def test_what_was_set_aside_since_it_cannot_be_encoded_holds_up_no_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = delivered(tmp_path)
    emit = readings.emit

    def picky(device: str, store: str, records: Sequence[dict[str, object]], *rest: Any, **more: Any) -> bytes:
        if any(record["id"] == 7 for record in records):
            raise ValueError("Out of range float values are not JSON compliant")
        return emit(device, store, records, *rest, **more)

    monkeypatch.setattr(readings, "emit", picky)
    ask(rig, by_ids(rig, 1, 100), seconds=100)
    (report,) = rig.headend.reports
    assert (report["sent"], report["refused"], report["gone"]) == (99, 1, [])


def test_bodies_keep_to_their_bound_when_records_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = delivered(tmp_path)
    monkeypatch.setattr(readings, "PLAIN_BYTES_MAX", 3000)
    ask(rig, by_ids(rig, 1, 40), seconds=300)
    (report,) = rig.headend.reports
    assert (report["sent"], report["refused"]) == (40, 0)
    assert all(len(json.dumps(request, separators=(",", ":"))) <= 3000 for request in rig.headend.requests[-5:])


@pytest.mark.parametrize(
    "orders",
    [
        7,
        [3],
        [{"request": 1}],
        [{"request": 0, "since": 1, "until": 2}],
        [{"request": 1, "since": 3, "until": 2}],
        [{"request": 1, "store": "x", "first": 1, "last": 2}],
        [{"request": 1, "store": "0" * 32, "first": 5, "last": 2}],
        [{"request": number, "since": 1, "until": 2} for number in range(1, RESENDS_MAX + 2)],
    ],
)
def test_an_order_that_is_none_changes_nothing_and_the_batch_is_delivered(tmp_path: Path, orders: object) -> None:
    rig = delivered(tmp_path)
    rig.headend.resend = orders  # type: ignore[assignment]
    rig.store.append(visit(9000, 1))
    rig.run(30)
    assert rig.headend.order == [9000]
    assert rig.store.resend_reports() == []


def test_a_busy_head_end_puts_it_off(tmp_path: Path) -> None:
    rig = delivered(tmp_path)
    judge = rig.headend.judge
    busy = True

    def answer(document: dict[str, object]) -> Response:
        return (
            Response(503, {"retry-after": "30"}, b"")
            if busy and rig.headend.priorities[-1] == "u=7"
            else judge(document)
        )

    rig.headend.judge = answer  # type: ignore[method-assign]
    ask(rig, by_ids(rig, 1, 10), seconds=20)
    rig.store.append(visit(9001, 1))
    rig.run(1)
    assert rig.headend.order == [9000, 9001]
    busy = False
    rig.run(60)
    assert rig.headend.order == [9000, 9001, *range(10)]


def test_a_report_has_a_bounded_number_of_ranges(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keep=10_000)
    for number in range(100):
        rig.store.append(visit(10 * number, 10))
    uuid = rig.store.stats().uuid
    rig.store.release(uuid, 1000)
    rig.store.file.run(lambda db, _: db.execute("UPDATE block SET body=x'00' WHERE first % 20 = 1"))
    rig.store.order_resend([ResendOrder(1, uuid, 1, 1000)])
    while (again := rig.store.resend_batch(10_000)) is not None:
        rig.store.resend_sent(again)
    (report,) = rig.store.resend_reports()
    assert len(report.gone) == RANGES_MAX
    assert (report.sent, report.gone[0], report.gone[-1]) == (500, (1, 10), (621, 990))
