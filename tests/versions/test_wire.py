"""Readings between programs of different versions: nothing is set aside for good because the other end is older."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.https import Response
from omadm import readings
from omadm.readings import GapReport
from tests.agent.metering.readings import event, visit
from tests.agent.metering.uplink.rig import Headend, Rig

KNOWS_ALL = {readings.ACCEPTS_HEADER.lower(): ", ".join(readings.KINDS)}


class OldHeadend(Headend):
    """Before gaps and events: takes readings only, and does not say so."""

    def judge(self, document: dict[str, object]) -> Response:
        records = document["records"]
        assert isinstance(records, list)
        if any(readings.kind_of(entry) != "reading" for entry in records):
            return Response(400, {}, b'{"error":"records[0].cls: an integer from 0 to 65535 is expected"}')
        return super().judge(document)


class TodaysHeadend(Headend):
    def judge(self, document: dict[str, object]) -> Response:
        records = document["records"]
        assert isinstance(records, list)
        plain = [{**entry, "raw": entry.get("raw", entry.get("first"))} for entry in records]
        answer = super().judge({**document, "records": plain})
        return Response(answer.status, KNOWS_ALL, answer.body)


def gap(first: int) -> GapReport:
    return GapReport("closed", "m", "load", None, first, first + 900, 900, "silent", "read", 5.0)


@pytest.mark.parametrize("restart", [False, True])
def test_what_an_older_headend_does_not_know_waits_for_its_next_version(tmp_path: Path, restart: bool) -> None:
    rig = Rig(tmp_path)
    rig.headend = OldHeadend()
    rig.start()
    for number in range(40):
        rig.store.append([*visit(10 * number, 10), gap(900 * number)], urgent=[event(f"e{number}")])
        rig.run(5)
    rig.run(600)
    assert rig.headend.order == list(range(400))
    assert rig.store.stats().pending == 0
    if restart:
        rig.start()
    rig.headend = TodaysHeadend()
    rig.uplink._https = rig.headend
    rig.store.append(visit(400, 1))
    rig.run(600)
    came = rig.headend.order
    assert sorted(str(one) for one in came if isinstance(one, str)) == sorted(f"e{number}" for number in range(40))
    assert sorted(one for one in came if isinstance(one, int)) == sorted([400, *(900 * n for n in range(40))])
    assert rig.headend.seen_twice == 0
    assert rig.store.refused(100) == []
    assert rig.store.stats().pending == 0


def test_a_headend_that_cannot_read_this_version_of_the_document_loses_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.headend.mood = [415] * 20
    rig.store.append(visit(0, 30), urgent=[event("a")])
    rig.run(3600)
    assert rig.store.refused(10) == []
    assert rig.headend.order == ["a", *range(30)]


def test_a_document_of_a_later_version_is_told_apart_from_a_bad_one() -> None:
    later = {"version": 2, "device": "d", "store": "ab" * 16, "records": {"in": "another form"}}
    with pytest.raises(readings.LaterVersionError, match="version: 2"):
        readings.parse(json.dumps(later).encode())
    for wrong in (0, -1, "2", None):
        with pytest.raises(readings.BatchError) as caught:
            readings.parse(json.dumps({**later, "version": wrong}).encode())
        assert not isinstance(caught.value, readings.LaterVersionError)


def test_a_record_of_a_later_kind_is_kept_beside_those_that_are_known() -> None:
    records = [{"id": 1, "kind": "weather", "sun": 0.5, "of": {"a": [1]}}, {"id": 2, "kind": "x" * 200}]
    document = {"version": 1, "device": "d", "store": "ab" * 16, "later": True, "records": records[:1]}
    batch = readings.parse(json.dumps(document).encode())
    assert (batch.last, batch.records, batch.gaps, batch.events) == (1, (), (), ())
    (one,) = batch.later
    assert (one.id, one.kind, json.loads(one.text)) == (1, "weather", records[0])
    with pytest.raises(readings.BatchError, match="kind"):
        readings.parse(json.dumps({**document, "records": records}).encode())


def test_a_reading_with_members_of_a_later_version_is_a_reading() -> None:
    (row,) = [readings.record(1, one.row()) for one in visit(0, 1)]
    document = {"version": 1, "device": "d", "store": "ab" * 16, "records": [{**row, "quality": {"good": True}}]}
    assert readings.parse(json.dumps(document).encode()).records[0].raw == "0"
