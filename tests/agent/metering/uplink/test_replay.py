"""What is read now goes before what an outage left behind, and that follows at a pace the head-end can bear."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest

from agent.https import HttpsError, Response
from agent.metering.uplink.replay import FRESH_S, Freshness, Pace, ReplayLimits, Throughput
from agent.metering.uplink.worker import FRESH_IN_A_ROW_MAX
from tests.agent.metering.readings import visit
from tests.agent.metering.uplink.rig import Rig

SLOW = ReplayLimits(records_per_min=600, spread_s=60)
DOWN = HttpsError("no route to host")


def outage(rig: Rig, seconds: int) -> None:
    """So long nothing gets through, and ten readings are made per 10 s."""
    rig.headend.mood = [DOWN] * 10_000
    for _ in range(seconds // 10):
        rig.store.append(visit(rig.made, 10))
        rig.made += 10
        rig.run(10)
    rig.headend.mood = []


def test_after_an_outage_what_is_read_now_is_there_within_seconds_and_the_backlog_follows_in_order(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, replay=SLOW)
    outage(rig, 3600)
    rig.run(120)  # until the pause is over
    for number in range(20):
        rig.store.append(visit(100_000 + number, 1))
        rig.run(2)
        assert 100_000 + number in rig.headend.order, "what is read now waits"
    rig.run(600)
    old = [raw for raw in rig.headend.order if int(str(raw)) < 100_000]
    assert sorted(old, key=lambda raw: int(str(raw))) == list(range(3600))
    # The first try after the outage had the freshest of what was left behind; the rest is oldest first.
    assert old[50:] == sorted(old[50:], key=lambda raw: int(str(raw)))
    assert rig.headend.seen_twice == 0
    assert rig.store.stats().pending == 0


def test_a_backlog_goes_at_the_pace_that_is_configured_and_begins_within_its_spread(tmp_path: Path) -> None:
    rig = Rig(tmp_path, replay=SLOW)
    outage(rig, 3600)
    while not rig.headend.order:
        rig.run(1)
    sent = len(rig.headend.order)
    for minute in range(1, 5):
        rig.run(60)
        done = len(rig.headend.order) - sent
        assert (minute - 1) * 600 * 0.8 - 50 <= done <= minute * 600 * 1.4 + 50


def test_readings_of_before_a_start_wait_for_the_spread_and_new_ones_do_not(tmp_path: Path) -> None:
    begins = set()
    for seed in range(5):
        rig = Rig(tmp_path / str(seed), replay=SLOW)
        rig.store.append(visit(0, 10))
        rig.rng = random.Random(seed)
        rig.start()
        began = rig.clock.now
        rig.uplink.step()
        rig.store.append(visit(100, 1))
        rig.uplink.step()
        assert rig.headend.order == [100]
        while len(rig.headend.order) < 11:
            rig.run(0.5)
            assert rig.clock.now - began < 62
        begins.add(round(rig.clock.now - began))
    assert len(begins) >= 4, "all at the same moment"


def test_a_backlog_gets_through_although_there_is_always_something_fresh(tmp_path: Path) -> None:
    rig = Rig(tmp_path, 10)
    rig.store.append(visit(0, 10))
    rig.start()
    rig.uplink.step()  # the backlog, as nothing is fresh: and another one, larger
    rig.store.append(visit(10, 40))
    rig.start()
    rig.uplink.step()
    rig.headend.order.clear()
    for number in range(FRESH_IN_A_ROW_MAX * 4):
        rig.store.append(visit(1000 + 10 * number, 10))
        rig.uplink.step()
        rig.clock.advance(1)
    backlog = [raw for raw in rig.headend.order if int(str(raw)) < 1000]
    assert len(backlog) == 30


def test_a_head_end_that_is_too_busy_for_the_backlog_still_gets_what_is_fresh(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    judge = rig.headend.judge
    refused_at = []

    def busy(document: dict[str, object]) -> Response:
        if rig.headend.priorities[-1] == "u=5":
            refused_at.append(rig.clock.now)
            return Response(503, {"retry-after": "30"}, b"")
        return judge(document)

    rig.headend.judge = busy  # type: ignore[method-assign]
    rig.store.append(visit(0, 10))
    rig.start()
    for number in range(60):
        rig.run(2)
        rig.store.append(visit(100 + number, 1))
    rig.run(1)
    assert rig.headend.order == list(range(100, 160))
    assert 3 <= len(refused_at) <= 4
    assert all(30 <= b - a <= 30 * 1.25 + 2 for a, b in pairwise(refused_at))
    rig.headend.judge = judge  # type: ignore[method-assign]
    rig.run(60)
    assert rig.store.stats().pending == 0


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("40", 40, 50),
        ("99999999", 3600, 4500),
        ("Fri, 15 Jan 2027 08:01:00 GMT", 60, 75),  # the virtual clock begins at 08:00:00
        ("Fri, 15 Jan 2027 07:00:00 GMT", 1, 2),
        ("soon", 1, 2),
        ("", 1, 2),
    ],
)
def test_a_head_end_may_say_when_to_come_back_by_number_or_date(
    tmp_path: Path, value: str, low: float, high: float
) -> None:
    rig = Rig(tmp_path)
    rig.store.append(visit(0, 1))
    rig.headend.judge = lambda document: Response(429, {"retry-after": value}, b"")  # type: ignore[method-assign]
    assert low <= rig.uplink.step() <= high


def test_what_is_fresh_is_told_by_ids_and_the_monotonic_clock() -> None:
    freshness = Freshness()
    for second in range(300):
        freshness.note(1 + second * 10, float(second))
    assert 1 + (299 - FRESH_S - 2) * 10 <= freshness.first <= 1 + (299 - FRESH_S) * 10
    freshness.note(5, 300.0)
    assert freshness.first == 5, "of another store"


def test_a_pace_holds_for_the_longest_that_was_asked() -> None:
    pace = Pace(ReplayLimits(600, 100), lambda: 0.5)
    pace.restart(10.0)
    assert pace.ready_at == 60.0
    pace.hold(10.0, 20)
    assert pace.ready_at == 60.0
    pace.sent(100, 70.0)
    assert pace.ready_at == 80.0


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.slow
def test_whatever_the_head_end_does_each_reading_arrives_once_or_is_refused(tmp_path: Path, seed: int) -> None:
    """Random outages, lost answers, restarts, refusals and busy times; then all is well."""
    rng = random.Random(seed)
    rig = Rig(tmp_path, rng.choice([3, 20, 100]), replay=ReplayLimits(rng.choice([600, 60_000]), rng.choice([0, 30])))
    rig.headend.poison = {rng.randint(1, 1500) for _ in range(rng.choice([0, 1, 5]))}
    made = 0
    for _ in range(60):
        count = rng.randint(0, 40)
        if count:
            rig.store.append(visit(made, count))
            made += count
        moods: list[list[int | str | HttpsError]] = [[], [], ["lost"], [DOWN], [DOWN] * 9, [503], [429, "lost"], [413]]
        rig.headend.mood = list(rng.choice(moods))
        rig.run(rng.choice([0.1, 5, 90]))
        if rng.random() < 0.1:
            rig.start()
    rig.headend.mood = []
    for _ in range(400):
        # One reading more: a poisonous one that is alone is never set aside.
        rig.store.append(visit(made, 1))
        made += 1
        rig.run(30)
        if not rig.store.stats().pending:
            break
    refused = {int(str(refusal.record["raw"])) for refusal in rig.store.refused(1000)}
    assert {each + 1 for each in refused} == rig.headend.poison & set(range(1, made + 1))
    assert sorted(int(str(raw)) for raw in rig.headend.kept.values()) == sorted(set(range(made)) - refused)
    stats = rig.store.stats()
    assert (stats.pending, stats.lost, stats.forwarded, stats.refused) == (0, 0, made - len(refused), len(refused))


def test_the_records_of_the_last_minute_are_counted_as_nearly_as_two_numbers_can_say() -> None:
    throughput = Throughput()
    assert throughput.per_min(5000.0) == 0
    for second in range(120):
        throughput.delivered(10, 5000.0 + second)
        if second >= 60:
            assert 590 <= throughput.per_min(5000.0 + second) <= 610
    assert throughput.per_min(5150.0) == 300  # half of the minute before the last half
    assert throughput.per_min(5180.0) == 0
    throughput.delivered(7, 9000.0)
    assert throughput.per_min(9000.0) == 7


def test_the_uplink_says_of_the_head_end_how_delivery_goes(tmp_path: Path) -> None:
    rig = Rig(tmp_path, replay=SLOW)
    told = rig.uplink.sink_status()
    assert (told.name, told.per_min, told.failures, told.again_in_s) == ("head-end", 0, 0, 0.0)
    assert told.backlog_per_min == 600
    assert 0 < told.backlog_in_s <= 60  # as after every start
    rig.store.append(visit(0, 30))
    rig.run(5)
    told = rig.uplink.sink_status()
    assert (told.per_min, told.last_error) == (30, "")
    assert told.last_delivery > 0
    rig.headend.mood = [DOWN]
    rig.store.append(visit(30, 1))
    pause_s = rig.uplink.step()
    told = rig.uplink.sink_status()
    assert (told.failures, told.last_error) == (1, "no route to host")
    assert told.again_in_s == pytest.approx(pause_s)
