"""Repetitions are one event, a babbling meter is an alarm and a number, and nothing else is dropped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.metering.events.intake import ALIKE_S, BURST, EVERY_S, REPEATED_S, SUMMARY_S, Heard, Intake
from agent.metering.events.notification import Notice
from dlms.cosem.time import CosemDateTime
from omadm.readings import EventReport

WALL = 1_800_000_000.0  # 2027-01-15 08:00
CLOCK = CosemDateTime.of("2027-01-15 09:00:05").emit()


def heard(
    content: bytes = b"a", *, meter: str = "m1", invoke: int | None = 1, clock: bytes = b"", at: float = 0.0
) -> Heard:
    notice = Notice(invoke=invoke, clock=clock, values=[{"tag": "u8", "raw": 1}])
    return Heard(meter, "plc0/5", meter or "plc0?", content, notice, None, WALL + at, trusted=True, security="none")


def take(intake: Intake, at: float, content: bytes = b"a", **fields: object) -> list[EventReport]:
    return intake.take(heard(content, at=at, **fields), at)  # type: ignore[arg-type]


def test_the_same_invoke_id_and_content_is_one_event_for_an_hour() -> None:
    intake = Intake()
    assert len(take(intake, 0.0)) == 1
    assert take(intake, 10.0) == take(intake, REPEATED_S - 1) == []
    assert intake.repeated == 2
    assert len(take(intake, 0.0, b"b")) == len(take(intake, 0.0, meter="m2")) == 1
    (again,) = take(intake, REPEATED_S + 1)
    assert again.key != take(Intake(), 0.0)[0].key


def test_what_carries_the_meters_time_is_one_event_for_ever_with_the_same_key() -> None:
    intake = Intake()
    (first,) = take(intake, 0.0, clock=CLOCK)
    assert take(intake, 1e6, clock=CLOCK) == []
    (other_life,) = take(Intake(), 5e5, clock=CLOCK)
    assert other_life.key == first.key


@pytest.mark.parametrize(
    "clock",
    [
        CosemDateTime().emit(),  # nothing specified
        CosemDateTime.of("2000-01-01 00:00:05").emit(),  # of a clock that begins anew with each power-up
        CosemDateTime.of("2027-01-15 09:00:05").emit()[:11],
    ],
)
def test_a_time_that_comes_again_tells_no_two_events_apart(clock: bytes) -> None:
    """A meter without a battery says each time that its power came at 00:00:05: all but the first were dropped."""
    intake, days = Intake(), [day * 86_400.0 for day in range(5)]
    keys = {report.key for day in days for report in take(intake, day, clock=clock)}
    assert len(keys) == 5
    assert take(intake, days[-1] + 10, clock=clock) == []


def test_a_time_is_none_to_go_by_while_ours_is_not_trusted() -> None:
    intake = Intake()
    for at in (0.0, 86_400.0):
        assert len(intake.take(replace(heard(clock=CLOCK, at=at), trusted=False), at)) == 1


def test_a_time_that_was_heard_while_ours_was_not_trusted_is_the_same_event_when_ours_is() -> None:
    intake, later = Intake(), 2 * REPEATED_S
    (first,) = intake.take(replace(heard(clock=CLOCK), trusted=False), 0.0)
    assert take(intake, later, clock=CLOCK) == take(intake, 2 * later, clock=CLOCK) == []
    other_life = Intake()
    other_life.remember([(first.key, later)], now=5.0)
    assert take(other_life, 6.0, clock=CLOCK) == []
    assert (intake.repeated, other_life.repeated) == (2, 1)


def test_what_has_neither_time_nor_invoke_id_may_happen_again_soon() -> None:
    intake = Intake()
    assert len(take(intake, 0.0, invoke=None)) == 1
    assert take(intake, ALIKE_S - 1, invoke=None) == []
    assert len(take(intake, ALIKE_S + 1, invoke=None)) == 1


def test_a_repetition_is_known_after_a_restart() -> None:
    reports = [*take(Intake(), 0.0), *take(Intake(), 0.0, b"t", clock=CLOCK)]
    intake = Intake()
    intake.remember([(report.key, 100.0) for report in reports], now=5.0)
    assert take(intake, 6.0) == take(intake, 6.0, b"t", clock=CLOCK) == []
    assert len(take(intake, 5.0 + REPEATED_S - 99.0)) == 1


def test_what_was_not_stored_is_no_repetition_when_it_comes_again() -> None:
    intake = Intake()
    intake.forget(take(intake, 0.0))
    assert len(take(intake, 1.0)) == 1


def test_a_babbling_meter_is_an_alarm_then_a_number_and_its_neighbours_are_heard() -> None:
    intake = Intake()
    reports = [report for number in range(500) for report in take(intake, 1.0, b"%d" % number)]
    assert [report.event for report in reports] == ["push"] * BURST + ["notice"]
    assert reports[-1].grave
    assert reports[-1].meter == "m1"
    assert len(take(intake, 1.0, meter="m2")) == 1
    deadline = intake.next_deadline()
    assert deadline == 1.0 + SUMMARY_S
    (summary,) = intake.on_deadline(deadline, WALL, trusted=True)
    assert (summary.event, summary.count, summary.grave) == ("notice", 500 - BURST - 1, False)
    assert intake.on_deadline(deadline + SUMMARY_S, WALL, trusted=True) == []
    assert intake.next_deadline() is None


def test_a_meter_that_babbles_on_costs_a_few_records_per_hour() -> None:
    intake, kept = Intake(), 0
    for second in range(4 * 3600):
        kept += len(take(intake, float(second), b"%d" % second))
        if (due := intake.next_deadline()) is not None and due <= second:
            kept += len(intake.on_deadline(float(second), WALL + second, trusted=True))
    assert kept <= BURST + 4 * (3600 / EVERY_S + 3600 / SUMMARY_S) + 2
    assert kept + intake.too_many >= 4 * 3600


def test_strangers_share_the_allowance_of_their_port() -> None:
    intake = Intake()
    reports = [report for number in range(50) for report in take(intake, 0.0, b"%d" % number, meter="")]
    assert sum(report.event == "push" for report in reports) == BURST
