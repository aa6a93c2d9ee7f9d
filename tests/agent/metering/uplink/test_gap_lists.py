"""The hourly list of what is missing, on its way: pages are bounded, and one without an answer is tried again."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from agent.https import HttpsError, Response
from agent.metering.ledger import gap_table
from agent.metering.ledger.ledger import Change, Gap
from agent.metering.uplink.gap_lists import (
    AGAIN_S,
    FIRST_S,
    PAGE_CHARS,
    PAGE_GAPS,
    PAGE_GAPS_MIN,
    STATED_EVERY_S,
    GapLists,
)
from omadm.readings import LISTED_MAX, GapList, emit, parse
from tests.agent.metering.uplink.rig import Rig
from tests.omadm.test_readings import DEVICE, STORE

T0, EVERY = 1_800_000_000, 900


def missing(rig: Rig, count: int, meter: str = "KEP1", task: str = "billing", reason: str = "meter-silent") -> None:
    """So many gaps of one meter are open on the device."""
    gaps = [Gap(meter, task, "", T0 + at * 2 * EVERY, T0 + at * 2 * EVERY, EVERY, reason) for at in range(count)]
    changes = [Change(None, gap) for gap in gaps]
    rig.store.append([], also=lambda db: gap_table.write(db, changes, [], {}, None))


def pages(rig: Rig, lists: GapLists, now: float) -> list[GapList]:
    found = []
    assert lists.next(now) is not None
    lists.answered("differs", now)
    while (page := lists.next(now)) is not None:
        found.append(page)
        lists.answered("taken", now)
    return found


def test_the_gaps_of_one_meter_are_many_pages_that_follow_each_other(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    missing(rig, 1201)
    found = pages(rig, GapLists(rig.store, 0.0), FIRST_S)
    assert [len(page.gaps) for page in found] == [500, 500, 201]
    assert [page.begin for page in found] == [None, found[0].before, found[1].before]
    assert found[0].before == ("KEP1", "billing", "", T0 + 500 * 2 * EVERY)
    assert found[-1].before is None
    assert [gap.first for page in found for gap in page.gaps] == [T0 + at * 2 * EVERY for at in range(1201)]


def test_a_page_is_bounded_by_its_octets_too(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    missing(rig, 300, meter="\U0001f600" * 128, task="\x01" * 128, reason="é" * 128)  # 12, 6 and 6 characters each
    found = pages(rig, GapLists(rig.store, 0.0), FIRST_S)
    assert sum(len(page.gaps) for page in found) == 300
    bodies = [emit(DEVICE, STORE, (), listed=page) for page in found]
    assert [parse(body).listed for body in bodies] == found
    assert max(map(len, bodies)) < PAGE_CHARS + 1024
    assert min(map(len, bodies[:-1])) > PAGE_CHARS * 0.9


def test_ranges_that_overlap_are_on_one_page_as_long_as_they_fit(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    gaps = [Gap("KEP1", "t", "", T0 + at * EVERY, T0 + (at + 5) * EVERY, EVERY, "port-lost") for at in range(9)]
    gaps += [Gap("KEP1", "u", "", T0, T0, EVERY, "port-lost")]
    changes = [Change(None, gap) for gap in gaps]
    rig.store.append([], also=lambda db: gap_table.write(db, changes, [], {}, None))
    sizes = []
    for size in (1, 3, 4, 5, 9):
        begin, number = None, []
        while True:
            begin, page = rig.store.ask(lambda db, at=begin, size=size: gap_table.page(db, at, size, PAGE_CHARS))  # type: ignore[misc]
            number.append(len(page))
            if begin is None:
                break
        sizes.append(number)
    assert sizes == [[2, 2, 2, 2, 1, 1], [6, 3, 1], [8, 2], [9, 1], [9, 1]]
    assert 2 * PAGE_GAPS <= LISTED_MAX


def test_a_page_that_gets_no_answer_is_tried_again_smaller_after_a_pause_that_doubles(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    missing(rig, 600)
    lists = GapLists(rig.store, 0.0)
    now = FIRST_S
    assert lists.next(now) is not None
    lists.answered("differs", now)
    sizes, pauses = [], []
    for _ in range(8):
        page = lists.next(now)
        assert page is not None
        sizes.append(len(page.gaps))
        lists.failed(now)
        began = now
        while lists.next(now) is None:
            now += AGAIN_S
        pauses.append(now - began)
    assert sizes == [500, 250, 125, 62, 31, 15, PAGE_GAPS_MIN, PAGE_GAPS_MIN]
    assert pauses == [AGAIN_S * 2**at for at in range(6)] + [STATED_EVERY_S] * 2
    lists.answered("taken", now)
    page = lists.next(now)
    assert page is not None
    assert len(page.gaps) == PAGE_GAPS_MIN  # the head-end is slow: the rest is no larger
    lists.answered(None, now)
    now += STATED_EVERY_S
    assert [len(page.gaps) for page in pages(rig, lists, now)] == [500, 100]


class Lister:
    """A head-end that answers lists with what it is told, in turn."""

    def __init__(self, rig: Rig, *answers: Response | HttpsError) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, object]] = []
        rig.headend.judge = self.judge  # type: ignore[method-assign]

    def judge(self, document: dict[str, object]) -> Response:
        listed = document.get("listed")
        if isinstance(listed, dict):
            self.asked.append(listed)
            answer = self.answers.pop(0)
            if isinstance(answer, HttpsError):
                raise answer
            return answer
        return Response(200, {}, b'{"acknowledged":null}')


def said(answer: str) -> Response:
    return Response(200, {}, json.dumps({"acknowledged": None, "listed": answer}).encode())


def run_on(rig: Rig, seconds: float) -> None:
    end = rig.clock.monotonic() + seconds
    while rig.clock.monotonic() < end:
        rig.clock.now += max(1.0, min(rig.uplink.step(), 15.0))


@pytest.mark.parametrize(
    "trouble",
    [
        HttpsError("timed out"),
        Response(503, {}, b'{"error":"the readings could not be stored"}'),
        Response(413, {}, b'{"error":"too large"}'),
        Response(502, {}, b"bad gateway"),
    ],
)
def test_a_list_without_an_answer_is_a_failure_and_comes_again_soon(
    tmp_path: Path, trouble: Response | HttpsError
) -> None:
    rig = Rig(tmp_path)
    missing(rig, 3)
    lister = Lister(rig, trouble, said("differs"), trouble, said("taken"))
    run_on(rig, FIRST_S + 4 * AGAIN_S)
    assert [sorted(asked) for asked in lister.asked] == [["as_of", "digest"]] * 2 + [
        ["as_of", "before", "from", "gaps"]
    ] * 2
    assert lister.answers == []


def test_a_timeout_is_counted_among_the_failures_of_the_uplink(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    Lister(rig, HttpsError("timed out"))
    rig.clock.now += FIRST_S
    assert rig.uplink.step() > 0.0
    assert rig.uplink.sink_status().failures == 1
    assert rig.uplink.sink_status().last_error == "timed out"


def test_a_head_end_that_refuses_the_list_is_asked_again_in_an_hour(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path)
    lister = Lister(rig, Response(400, {}, b'{"error":"listed: what is this"}'), said("agreed"))
    with caplog.at_level(logging.WARNING):
        run_on(rig, FIRST_S + STATED_EVERY_S / 2)
    assert len(lister.asked) == 1
    assert [getattr(record, "event", "") for record in caplog.records] == ["uplink.list.refused"]
    run_on(rig, STATED_EVERY_S)
    assert len(lister.asked) == 2
