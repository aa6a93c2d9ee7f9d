"""What the uplink gets, and in which order: earlier stores first, events ahead of readings, each record once."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.metering.store import delivery, events
from agent.metering.store.blocks import BLOCKS_PER_BATCH_MAX, pack
from agent.metering.store.life_sign import LifeSign, LifeSignFile
from agent.metering.store.reading_store import Batch, Store
from omadm.readings import GapReport, ResendOrder
from tests.agent.metering.readings import event, visit
from tests.agent.metering.store.stores import settled, spoil, store
from tests.agent.virtual import VirtualClock

NOW = VirtualClock().wall()
OLD, OLDER = "ab" * 16, "cd" * 16  # stores of this device before the present one


def ids(batch: Batch | None) -> list[object]:
    return [record["id"] for record in batch.records] if batch else []


def keys(batch: Batch | None) -> list[object]:
    return [record["key"] for record in batch.records] if batch else []


def release(opened: Store, first: int, last: int) -> None:
    opened.release(opened.stats().uuid, last, first=first)


def gap(meter: str, first: int) -> GapReport:
    return GapReport("open", meter, "t1", None, first, first + 900, 900, "no-answer", None, 1_800_000_000.0)


def test_an_empty_store_has_nothing_to_say(tmp_path: Path) -> None:
    opened = store(tmp_path)
    stats = opened.stats()
    assert (stats.pending, stats.kept, stats.forwarded, stats.lost, stats.refused) == (0, 0, 0, 0, 0)
    assert (stats.oldest, stats.refused_at, stats.lost_at) == (0.0, 0.0, 0.0)
    assert (opened.batch(10), opened.urgent_batch(10), opened.resend_batch(10)) == (None, None, None)
    assert opened.next_id() == 1


# --- parts of a store that are delivered already ---


def test_a_batch_ends_with_the_record_that_fills_it_where_the_next_ones_are_delivered_already(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 20))
    opened.append(visit(20, 20))
    release(opened, 10, 24)
    batch = opened.batch(9)
    assert batch is not None
    assert (ids(batch), batch.first, batch.last) == ([*range(1, 10)], 1, 9)
    batch = opened.batch(10)
    assert batch is not None
    assert (ids(batch), batch.first, batch.last) == ([*range(1, 10), 25], 1, 25)


def test_a_batch_leaves_out_what_is_delivered_at_either_end_of_a_visit(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 10))
    opened.append(visit(10, 10))
    release(opened, 9, 12)
    release(opened, 17, 20)
    batch = opened.batch(100)
    assert batch is not None
    assert (ids(batch), batch.last, batch.skipped) == ([*range(1, 9), *range(13, 17)], 16, 0)
    assert opened.stats().pending == 12


def test_a_batch_looks_at_a_bounded_number_of_visits_however_they_are_delivered(tmp_path: Path) -> None:
    opened = store(tmp_path)
    for number in range(2 * BLOCKS_PER_BATCH_MAX):
        opened.append(visit(number, 1))
    release(opened, 10, 19)
    batch = opened.batch(1000)
    assert len(ids(batch)) == BLOCKS_PER_BATCH_MAX
    assert ids(batch) == [*range(1, 10), *range(20, 20 + BLOCKS_PER_BATCH_MAX - 9)]


def test_all_is_delivered_is_said_with_the_last_id_and_only_when_it_is_so(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 5))
    assert opened.ask_delivered(lambda _: "all") is None
    release(opened, 1, 5)
    assert opened.ask_delivered(lambda _: "all") == (5, "all")
    recovered(opened, OLD, 1, 3)
    assert opened.ask_delivered(lambda _: "all") is None
    opened.release(OLD, 3)
    assert opened.ask_delivered(lambda _: "all") == (5, "all")


# --- records of earlier stores ---


def recovered(opened: Store, of_store: str, first: int, count: int, body: bytes | None = None) -> None:
    """Put a visit of an earlier store there, as its recovery does; with `body`, one that cannot be read back."""
    packed = pack([reading.row() for reading in visit(first - 1, count)]) if body is None else body
    row = (of_store, first, first + count - 1, 1_700_000_000.0, "m1", 1_600_000_000.0, packed)
    columns = "store, first, last, made, meter, marks, since, body"
    opened.ask(lambda db: db.execute(f"INSERT INTO recovered ({columns}) VALUES (?, ?, ?, ?, ?, '[]', ?, ?)", row))


def test_records_of_earlier_stores_come_first_each_store_by_itself(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 3))
    for of_store, first in ((OLD, 5), (OLD, 8), (OLDER, 20), (OLDER, 30), (OLD, 40)):
        recovered(opened, of_store, first, 2)
    got: list[tuple[str, int, int, list[object]]] = []
    while (batch := opened.batch(100)) is not None:
        got.append((batch.store, batch.first, batch.last, ids(batch)))
        assert batch.skipped == 0
        opened.release(batch.store, batch.last, first=batch.first)
    assert got == [
        (OLD, 5, 9, [5, 6, 8, 9]),
        (OLDER, 20, 31, [20, 21, 30, 31]),
        (OLD, 40, 41, [40, 41]),
        (opened.stats().uuid, 1, 3, [1, 2, 3]),
    ]
    assert opened.stats().forwarded == 13


def test_a_batch_may_end_inside_a_visit_of_an_earlier_store_and_the_rest_comes_next(tmp_path: Path) -> None:
    opened = store(tmp_path)
    recovered(opened, OLD, 1, 5)
    recovered(opened, OLD, 6, 5)
    for wanted in ([1, 2, 3, 4, 5, 6, 7], [8, 9, 10]):
        batch = opened.batch(7)
        assert batch is not None
        assert (ids(batch), batch.first, batch.last) == (wanted, wanted[0], wanted[-1])
        assert opened.release(OLD, batch.last, first=batch.first) == len(wanted)
    assert (opened.stats().pending, opened.stats().forwarded) == (0, 10)


def test_blocks_of_one_store_that_do_not_ascend_are_in_two_batches(tmp_path: Path) -> None:
    opened = store(tmp_path)
    recovered(opened, OLD, 20, 2)
    recovered(opened, OLD, 5, 2)
    batch = opened.batch(100)
    assert batch is not None
    assert (ids(batch), batch.first, batch.last) == ([20, 21], 20, 21)


def test_a_damaged_visit_of_an_earlier_store_is_lost_once_and_the_next_one_comes_at_once(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 3))
    recovered(opened, OLD, 11, 10, body=b"rot")
    recovered(opened, OLD, 21, 2)
    for _ in range(2):
        batch = opened.batch(100)
        assert batch is not None
        assert (batch.store, ids(batch)) == (OLD, [21, 22])
    assert (opened.stats().pending, opened.stats().lost) == (5, 10)
    (loss,) = opened.losses()
    assert (loss.meter, loss.since, loss.until, loss.reach) == ("m1", 1_600_000_000.0, 1_700_000_000.0, 1_600_000_000.0)
    assert (loss.records, loss.reason, loss.noted) == (10, "damaged", NOW)


# --- events ---


def test_events_go_ahead_of_all_that_waits_and_each_is_there_once(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 3))
    assert opened.append(visit(3, 2), urgent=[event("a"), event("b")]) == (6, 7)  # the readings'
    batch = opened.urgent_batch(10)
    assert batch is not None
    assert (keys(batch), batch.first, batch.last) == (["a", "b"], 4, 5)
    release(opened, batch.first, batch.last)
    assert opened.urgent_batch(10) is None
    rest = opened.batch(100)
    assert (ids(rest), rest and rest.last) == ([1, 2, 3, 6, 7], 7)
    assert opened.stats().pending == 5


def test_an_event_without_readings_and_readings_without_an_event(tmp_path: Path) -> None:
    opened = store(tmp_path)
    heard: list[int] = []
    opened.on_append = lambda: heard.append(opened.next_id())
    opened.append([], urgent=[event("a", "m7")])
    assert heard == [2]
    opened.append(visit(0, 2))
    assert heard == [2, 4]
    assert opened.urgent_batch(10, first=2) is None
    assert keys(opened.urgent_batch(10, first=1)) == ["a"]
    release(opened, 1, 3)
    assert (opened.stats().pending, opened.stats().forwarded) == (0, 3)


def test_an_event_that_a_meter_repeats_is_known(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append([], urgent=[event("a")])
    assert opened.append([], urgent=[event("a")]) == (2, 1)  # nothing
    assert opened.append([], urgent=[event("b"), event("a")]) == (3, 2)
    assert opened.event_keys() == [("a", VirtualClock().wall()), ("b", VirtualClock().wall())]
    assert [record["key"] for record in opened.events(10)] == ["b", "a"]
    assert keys(opened.urgent_batch(10)) == ["a", "b"]


def test_so_many_of_the_newest_events_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEPT", 3)
    opened = store(tmp_path)
    for known in ("a", "ab", "abc", "bcd", "cde"):
        opened.append([], urgent=[event(known[-1])])
        assert "".join(key for key, _ in opened.event_keys()) == known
    opened.append([], urgent=[event("f"), event("g")])
    assert [key for key, _ in opened.event_keys()] == ["e", "f", "g"]


def test_events_are_shown_as_far_as_they_are_still_there(tmp_path: Path) -> None:
    opened = store(tmp_path)
    for key in "abc":
        opened.append([], urgent=[event(key)])
        opened.append(visit(0, 2))
    opened.ask(lambda db: db.execute("UPDATE block SET body=x'00' WHERE first=4"))
    assert [record["key"] for record in opened.events(10)] == ["c", "a"]
    release(opened, 1, 4)  # nothing is kept
    assert [record["key"] for record in opened.events(10)] == ["c"]


def test_events_that_are_lost_say_whose_they_were_and_of_when(tmp_path: Path) -> None:
    opened = store(tmp_path, records_max=2)
    opened.append([], urgent=[event("a", "m7"), event("b", "m8")])
    opened.append(visit(0, 2))
    (loss,) = opened.losses()
    assert (loss.meter, loss.records, loss.since, loss.reason) == ("m7", 2, event("a").received, "full")


def test_a_delivered_event_is_urgent_no_longer_from_that_moment_on(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append([], urgent=[event("a"), event("b"), event("c")])
    release(opened, 1, 2)
    urgent = opened.ask(lambda db: [key for (key,) in db.execute("SELECT key FROM event WHERE urgent")])
    assert urgent == ["c"]


def test_an_event_waits_for_its_turn_when_too_much_was_delivered_out_of_turn(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 3 * delivery.RANGES_MAX))
    opened.append([], urgent=[event("a"), event("b")])
    for number in range(delivery.RANGES_MAX - 1):
        release(opened, 3 * number + 2, 3 * number + 2)
    assert keys(opened.urgent_batch(10)) == ["a", "b"]
    release(opened, 3 * delivery.RANGES_MAX - 1, 3 * delivery.RANGES_MAX - 1)
    assert opened.urgent_batch(10) is None
    release(opened, 3 * delivery.RANGES_MAX, 3 * delivery.RANGES_MAX)  # right before the events
    assert keys(opened.urgent_batch(10)) == ["a", "b"]


def test_an_event_that_waits_goes_when_there_are_fewer_ranges(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 3 * delivery.RANGES_MAX))
    opened.append([], urgent=[event("a")])
    for number in range(delivery.RANGES_MAX):
        release(opened, 3 * number + 2, 3 * number + 2)
    assert opened.urgent_batch(10) is None
    release(opened, 1, 3)
    assert keys(opened.urgent_batch(10)) == ["a"]


# --- what is refused ---


@pytest.mark.parametrize("unknown_kind", [True, False])
def test_a_refusal_for_good_is_an_error_in_the_log_and_one_for_the_kind_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unknown_kind: bool
) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 1))
    batch = opened.batch(1)
    assert batch is not None
    opened.refuse(batch, "no such unit", unknown_kind=unknown_kind)
    said = [record.levelname for record in caplog.records if getattr(record, "event", "") == "store.refused"]
    assert said == ([] if unknown_kind else ["ERROR"])
    (refusal,) = opened.refused(10)
    assert refusal.record == batch.records[0]
    assert refusal.refused_at == opened.stats().refused_at == VirtualClock().wall()


def test_what_was_refused_for_its_kind_comes_again_and_what_was_refused_for_good_does_not(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append([gap("m1", 900), gap("m1", 3600)], urgent=[event("a")])
    opened.append([gap("m2", 900)])
    opened.append([gap("m3", 900)])
    for number in range(1, 5):
        batch = opened.batch(1)
        assert batch is not None
        assert batch.first == number
        opened.refuse(batch, "no such member", unknown_kind=True)
    batch = opened.batch(1)
    assert batch is not None
    opened.refuse(batch, "not a number")
    assert opened.stats().pending == 0
    assert opened.offer_again(["reading"]) == 0
    assert opened.offer_again(["reading", "gap"]) == 3
    again = opened.batch(10)
    assert again is not None
    assert [(each["id"], each["meter"], each["first"]) for each in again.records] == [
        (6, "m1", 900), (7, "m1", 3600), (8, "m2", 900),
    ]  # fmt: skip
    assert [refusal.id for refusal in opened.refused(10)] == [5, 1]
    assert opened.offer_again(["reading", "gap", "event"]) == 1
    assert keys(opened.urgent_batch(10)) == ["a"]
    assert [refusal.id for refusal in opened.refused(10)] == [5]
    assert opened.offer_again(["reading", "gap", "event"]) == 0
    assert opened.stats().pending == 4


def test_records_of_stores_that_followed_each_other_are_set_aside_beside_each_other(tmp_path: Path) -> None:
    """They have the same ids."""
    opened = store(tmp_path)
    opened.append(visit(0, 3))
    first = opened.stats().uuid
    for number in range(3):
        batch = opened.batch(1)
        assert batch is not None
        if number == 1:
            opened.refuse(batch, "no such unit")
        else:
            opened.release(batch.store, batch.last)
    spoil(opened, "DROP TABLE knowledge")
    again = settled(store(tmp_path))
    again.append(visit(10, 3))
    batch = again.batch(3)
    assert batch is not None
    again.refuse(batch, "no such meter")
    refused = [(one.store, one.id, one.record["raw"], one.reason) for one in again.refused(10)]
    second = again.stats().uuid
    assert second != first
    assert refused == [
        (second, 3, 12, "no such meter"), (second, 2, 11, "no such meter"), (second, 1, 10, "no such meter"),
        (first, 2, 1, "no such unit"),
    ]  # fmt: skip
    assert again.stats().refused == 4


def test_an_event_of_an_earlier_store_that_comes_again_takes_no_other_out_of_its_place(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append([], urgent=[event("a")])
    batch = opened.batch(1)
    assert batch is not None
    opened.refuse(batch, "no such member", unknown_kind=True)
    spoil(opened, "DROP TABLE knowledge")
    again = settled(store(tmp_path))
    again.append([], urgent=[event("b")])
    assert again.offer_again(["reading", "event"]) == 1
    assert keys(again.urgent_batch(10)) == ["b", "a"]
    again.append([], urgent=[event("b")])
    assert keys(again.urgent_batch(10)) == ["b", "a"], "the meter's repetition is known for one"


@pytest.mark.parametrize(
    "text", ['{"id":7,"raw":1}', '{"id":7,"raw":1,"refused_at":"noon"}', '{"id":7,"raw":1,"refused_at":null}']
)
def test_a_refusal_of_which_the_time_is_not_known_says_so(tmp_path: Path, text: str) -> None:
    opened = store(tmp_path)
    opened.ask(lambda db: db.execute("INSERT INTO refused VALUES (7, ?, 'no such unit')", (text,)))
    (refusal,) = opened.refused(10)
    assert (refusal.id, refusal.refused_at, refusal.reason) == (7, 0.0, "no such unit")
    assert refusal.record == {"id": 7, "raw": 1}
    assert opened.stats().refused_at == 0.0


# --- what is wanted once more, and who listens beside the head-end ---


def test_what_is_sent_once_more_is_reported_until_the_report_is_there(tmp_path: Path) -> None:
    opened = store(tmp_path, keep=100)
    opened.append(visit(0, 10))
    release(opened, 1, 10)
    uuid = opened.stats().uuid
    assert opened.order_resend([ResendOrder(1, uuid, 1, 4), ResendOrder(2, uuid, 8, 9)]) == 2
    for refused in (False, True):
        again = opened.resend_batch(100)
        assert again is not None
        assert opened.resend_batch(100) == again, "not yet acknowledged"
        opened.resend_sent(again, refused=refused) if refused else opened.resend_sent(again)
    assert opened.resend_batch(100) is None
    assert [(report.request, report.sent, report.refused) for report in opened.resend_reports()] == [
        (1, 4, 0), (2, 0, 2),
    ]  # fmt: skip
    opened.close_resends([1])
    assert [report.request for report in opened.resend_reports()] == [2]


def test_a_sink_gets_what_is_stored_from_its_first_use_on(tmp_path: Path) -> None:
    opened = store(tmp_path, records_max=40)
    opened.append(visit(0, 2))
    opened.add_sink("local")
    opened.append(visit(2, 5))
    release(opened, 1, 7)
    assert opened.stats().kept == 5, "for the sink"
    batch = opened.sink_batch("local", 3)
    assert batch is not None
    assert [record["raw"] for record in batch.records] == [2, 3, 4]
    assert opened.sink_batch("local", 3) == batch, "not yet taken"
    opened.sink_done("local", batch.store, batch.last, batch.missed)
    rest = opened.sink_batch("local", 3)
    assert rest is not None
    assert [record["raw"] for record in rest.records] == [5, 6]


def test_for_a_sink_that_is_behind_a_quarter_of_the_store_is_kept(tmp_path: Path) -> None:
    opened = store(tmp_path, records_max=400)
    opened.add_sink("local")
    for number in range(30):
        opened.append(visit(10 * number, 10))
        release(opened, 1, 10 * number + 10)
    assert 100 <= opened.stats().kept <= 125


# --- signs of life, and losses ---


def test_an_id_is_in_the_sign_of_life_before_its_record_leaves_and_is_written_there_once(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 10))
    file = LifeSignFile(tmp_path / "s" / "readings.db-alive")
    before = file.read()
    assert before is not None
    assert before.reached == 0
    opened.batch(4)
    after = file.read()
    assert after is not None
    assert (after.number, after.reached) == (before.number + 1, 10)
    opened.batch(10)
    assert opened.file.sign == file.read() == after


def test_when_the_ledger_was_in_order_last_is_known_after_a_restart_and_in_the_next_store(tmp_path: Path) -> None:
    opened = store(tmp_path)
    assert opened.last_alive() == (0.0, 0.0)
    opened.note_alive(1_800_000_300.5)
    spoil(opened, "DROP TABLE knowledge")
    assert settled(store(tmp_path)).last_alive() == (1_800_000_300.5, 0.0)


def test_a_reader_of_profiles_hears_of_each_loss_once(tmp_path: Path) -> None:
    opened = store(tmp_path)
    uuid = opened.stats().uuid
    assert opened.lost_since("m1", ("", 0)) == (uuid, 0, None)
    recovered(opened, OLD, 1, 3, body=b"rot")
    assert opened.batch(10) is None
    assert opened.lost_since("m1", (uuid, 0)) == (uuid, 1, 1_600_000_000.0)
    assert opened.lost_since("m1", (uuid, 1)) == (uuid, 1, None)
    assert opened.lost_since("m1", ("", 0)) == (uuid, 1, None), "who is new is missing nothing"
    assert opened.lost_since("m1", (OLD, 1)) == (uuid, 1, 1_600_000_000.0), "who knows another store's losses only"
    assert opened.lost_since("m2", (uuid, 0)) == (uuid, 1, None)


# --- which events wait, as the sign of life tells it ---


def sign(tmp_path: Path) -> LifeSign:
    found = LifeSignFile(tmp_path / "s" / "readings.db-alive").read()
    assert found is not None
    return found


def test_the_sign_of_life_tells_at_once_which_events_wait(tmp_path: Path) -> None:
    clock = VirtualClock()
    opened = Store(tmp_path / "s" / "readings.db", clock, records_max=100, keep_forwarded_max=0)
    opened.append(visit(0, 3))
    opened.append([], urgent=[event("a"), event("b")])
    assert (sign(tmp_path).events, sign(tmp_path).events_first, sign(tmp_path).events_since) == (2, 4, NOW)
    clock.advance(60)
    opened.append([], urgent=[event("c")])
    assert (sign(tmp_path).events, sign(tmp_path).events_first, sign(tmp_path).events_since) == (3, 4, NOW)
    uuid = opened.stats().uuid
    opened.release(uuid, 5, first=4)
    assert (sign(tmp_path).events, sign(tmp_path).events_first, sign(tmp_path).events_since) == (1, 6, NOW + 60)
    opened.release(uuid, 6, first=6)
    assert (sign(tmp_path).events, sign(tmp_path).events_first, sign(tmp_path).events_since) == (0, 0, 0.0)


def test_readings_that_come_and_go_are_not_in_the_sign(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.append(visit(0, 3))
    before = sign(tmp_path)
    opened.append(visit(3, 3))
    opened.release(opened.stats().uuid, 6)
    assert sign(tmp_path) == before


def test_the_events_that_wait_are_counted_from_an_id_on(tmp_path: Path) -> None:
    opened = store(tmp_path)
    assert opened.ask(events.waiting) == (0, 0, 0.0)
    opened.append([], urgent=[event("a"), event("b"), event("c")])
    assert opened.ask(events.waiting) == (3, 1, NOW)
    assert opened.ask(lambda db: events.waiting(db, 1)) == (3, 1, NOW)
    assert opened.ask(lambda db: events.waiting(db, 2)) == (2, 2, NOW)
    assert opened.ask(lambda db: events.waiting(db, 4)) == (0, 0, 0.0)


@pytest.mark.parametrize(
    ("since", "said"),
    [
        (1_800_000_000.0, "2027-01-15T08:00:00Z"),
        (0.5, "1970-01-01T00:00:00Z"),
        (0.0, "an unknown time"),
        (-1.0, "an unknown time"),
        (2.0**37, "an unknown time"),
        (2.0**39, "an unknown time"),
    ],
)
def test_events_that_are_lost_are_an_event_of_their_own(tmp_path: Path, since: float, said: str) -> None:
    opened = store(tmp_path)
    lost = LifeSign(1, "ab" * 16, 9, 4, events=2, events_first=7, events_since=since)
    for _ in range(2):  # the same ones: said once
        opened.file.run(
            lambda db, counters: events.say_lost(
                db, counters, 1_800_000_900.0, lost, 2, since, when_done=opened.file.when_done
            )
        )
    (record,) = opened.events(10)
    assert (record["event"], record["count"], record["meter"]) == ("notice", 2, "")
    assert (record["grave"], record["trusted"]) == (True, False)
    assert record["values"] == [{"tag": "str", "raw": said}, {"tag": "str", "raw": "2027-01-15T08:15:00Z"}]
    batch = opened.urgent_batch(10)
    assert batch is not None
    assert batch.records == (record,)
