"""A record that nobody will ever take is set aside, at little cost, and only then."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agent.https import Response
from agent.metering.store.reading_store import Batch
from omadm import readings
from tests.agent.metering.readings import reading, visit
from tests.agent.metering.uplink.rig import Rig

REFUSED = Response(400, {}, b'{"error":"bad request"}')


@pytest.mark.parametrize("where", [1, 2, 500, 777, 1023, 1024])
def test_one_poisonous_record_costs_requests_by_the_logarithm_of_the_batch(tmp_path: Path, where: int) -> None:
    rig = Rig(tmp_path, 1024)
    rig.store.append(visit(10_000, 1))
    rig.run(1)  # the head-end takes something
    rig.headend.poison = {1 + where}
    rig.store.append(visit(0, 1024))
    rig.headend.requests.clear()
    rig.run(20)
    assert rig.store.stats().refused == 1
    assert rig.store.stats().pending == 0
    assert len(rig.headend.requests) <= 10 + 2 + 1  # log2(1024), the batch itself, what is left


def test_a_poisonous_record_found_after_a_restart_is_passed_and_set_aside_once_another_was_taken(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, 1)
    rig.headend.poison = {1}
    rig.store.append(visit(0, 5))
    rig.run(30)
    assert rig.headend.order[0] == 1, "the second one is the first to be taken"
    assert rig.store.stats().refused == 1
    assert rig.store.stats().pending == 0


@pytest.mark.slow
def test_somebody_who_refuses_everything_empties_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.store.append(visit(0, 30))
    rig.run(5)
    judge = rig.headend.judge
    rig.headend.judge = lambda document: REFUSED  # type: ignore[method-assign]
    rig.store.append(visit(30, 300))
    rig.run(86_400)
    # The head-end took one batch before: for that it was believed once.
    assert rig.store.stats().refused == 1
    rig.headend.judge = judge  # type: ignore[method-assign]
    rig.run(600)
    assert rig.store.stats().pending == 0
    assert rig.store.stats().forwarded == 329


@pytest.mark.parametrize("status", [400, 413])
def test_a_proxy_that_answers_in_place_of_the_head_end_costs_no_record(tmp_path: Path, status: int) -> None:
    rig = Rig(tmp_path)
    rig.store.append(visit(0, 30))
    rig.run(5)
    judge = rig.headend.judge
    rig.headend.judge = lambda document: Response(status, {}, b"<html>nginx</html>")  # type: ignore[method-assign]
    rig.store.append(visit(30, 30))
    rig.run(3600)
    assert rig.store.stats().refused == 0
    rig.headend.judge = judge  # type: ignore[method-assign]
    rig.run(100)
    assert rig.delivered() == list(range(60))


def test_a_record_that_cannot_be_encoded_is_set_aside_and_the_others_get_through(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    encode = rig.uplink.body

    def body(batch: Batch) -> bytes:
        if any(record["raw"] == 37 for record in batch.records):
            raise ValueError("Out of range float values are not JSON compliant")
        return encode(batch)

    rig.uplink.body = body  # type: ignore[method-assign]
    rig.store.append(visit(0, 50))
    rig.run(30)
    assert rig.delivered() == [number for number in range(50) if number != 37]
    (refusal,) = rig.store.refused(10)
    assert refusal.record["raw"] == 37
    assert "cannot be encoded" in refusal.reason


def test_a_record_whose_body_can_never_fit_is_set_aside_without_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings, "PLAIN_BYTES_MAX", 5000)
    rig = Rig(tmp_path)
    rig.store.append([*visit(0, 20), replace(reading(20), tag="str", raw="x" * 6000)])
    rig.run(30)
    assert rig.store.stats().refused == 1
    assert rig.delivered() == list(range(20))
    assert all(len(json.dumps(request)) < 6000 for request in rig.headend.requests)


def test_of_an_earlier_store_a_poisonous_record_does_not_hold_up_the_present_one(tmp_path: Path) -> None:
    rig = Rig(tmp_path, 1)
    rig.store.append(visit(0, 3))
    rig.store.file.run(lambda db, _: db.execute("DROP TABLE loss"))
    rig.store.close()
    rig.store = type(rig.store)(tmp_path / "readings.db", rig.clock, records_max=1000, keep_forwarded_max=0)
    rig.start()
    rig.headend.poison = {1}
    rig.store.append(visit(1000, 3))  # its first has the id 1 as well
    rig.run(120)
    rig.store.append(visit(2000, 1))
    rig.run(120)
    assert rig.store.stats().pending == 0
    assert sorted(int(str(raw)) for raw in rig.headend.order) == [1, 2, 1001, 1002, 2000]
    assert rig.store.stats().refused == 2
