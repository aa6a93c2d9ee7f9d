"""Worlds by their seeds: collection tells the truth in all of them, and a daemon with a fault is found out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent.metering.ledger.keeper import LedgerKeeper
from agent.metering.ledger.ledger import Ledger
from agent.metering.ports import visit_results
from agent.metering.ports.visit_results import VisitResults
from agent.metering.scheduling.epochs import EpochBook
from agent.metering.store import resend
from omadm.schedule import Calendar, schedule_of
from tests.sim.world.__main__ import judge, judge_plan
from tests.sim.world.plan import ALL_KINDS, KINDS, Happening, draw
from tests.sim.world.planted.faults import no_ledger, repetitions_shown
from tests.sim.world.world import KillableStore

SEEDS = 200  # 10,000 in `make torture`
SEEDS_PER_TEST = 10

# Worlds in which something is wrong that is known, each with what it is, which stands in docs/collection.md as well.
NOT_RIGHT_YET: dict[int, str] = {}

pytestmark = pytest.mark.slow


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_PER_TEST))
def test_every_interval_is_in_the_head_end_once_and_right_or_listed(first: int) -> None:
    seeds = range(first, first + SEEDS_PER_TEST)
    wrong = {seed: found for seed in seeds if (found := judge(seed)[1])}
    known = {seed for seed in seeds if seed in NOT_RIGHT_YET}
    assert set(wrong) == known, wrong
    assert all("of another time than" in line for seed in known for line in wrong[seed]), wrong


def no_places(patch: pytest.MonkeyPatch) -> None:
    """How far profiles were read is not kept."""
    patch.setattr(visit_results, "positions", lambda *_: {})


def no_marks(patch: pytest.MonkeyPatch) -> None:
    """What a meter was read for is not durable."""
    append_all = KillableStore.append_all
    patch.setattr(
        KillableStore,
        "append_all",
        lambda self, visits, *also: append_all(self, [replace(visit, progress=()) for visit in visits], *also),
    )


def stored_again(patch: pytest.MonkeyPatch) -> None:
    """A visit that was cut stores its registers again."""
    patch.setattr(VisitResults, "tasks_stored", lambda *_: set())


def nothing_read_again(patch: pytest.MonkeyPatch) -> None:
    """What the store lost of a profile is not asked for again."""
    patch.setattr(KillableStore, "lost_since", lambda self, _meter, heard: (self.file.uuid, heard[1], None))


def nothing_sent_again(patch: pytest.MonkeyPatch) -> None:
    """What a head-end wants once more is said to be gone."""
    patch.setattr(resend, "block_rows", lambda *_: None)


def twice_at_the_end_of_summer(patch: pytest.MonkeyPatch) -> None:
    """A local time that exists twice is a run both times, whatever the task."""
    init = Calendar.__init__

    def careless(self: Calendar, *args: Any) -> None:
        init(self, *args)
        self._each_hour = True

    patch.setattr(Calendar, "__init__", careless)


def never_confirmed(patch: pytest.MonkeyPatch) -> None:
    """What a liar made doubted stays so when he is found out."""
    judge_ = LedgerKeeper.judge
    patch.setattr(
        LedgerKeeper,
        "judge",
        lambda self, verdict, *rest: None if verdict.trusted else judge_(self, verdict, *rest),
    )


def lies_remembered(patch: pytest.MonkeyPatch) -> None:
    """What was read under a liar stays trusted when he is found out."""
    judge_ = LedgerKeeper.judge
    patch.setattr(
        LedgerKeeper,
        "judge",
        lambda self, verdict, *rest: judge_(self, verdict, *rest) if verdict.trusted else None,
    )


def corrections_unlisted(patch: pytest.MonkeyPatch) -> None:
    """The ledger does not hear of corrections of the clock."""
    patch.setattr(Ledger, "correct", lambda *_: [])


def epochs_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A process that starts does not know under which clock the one before it has read."""
    patch.setattr(EpochBook, "write", lambda *_: None)
    patch.setattr(EpochBook, "save", lambda *_: None)


# Worlds that found a fault of the product, and what it was.
FOUND = {
    18: "what was noted of a run under a clock a day ahead counted for the true one",
    29: "what was missing before a clock lied a day ahead was withdrawn for good",
    61: "a row read again had another time stamp where the meter had left its clock out",
    91: "nothing of the store could be read after a power cut, the ledger included",
    138: "a head-end that was put back was not told again of a clock that had lied, since that store was replaced",
    189: "what was read under a clock that lied stayed trusted where the store was replaced before that was found out",
    873: "a later store's range cut short one of an earlier store that began at the same slot",
    1127: "what a clock that lied withdrew was withdrawn for good where the store lost the reports that took it back",
    1145: "slots that a report listed were listed nowhere where the store lost that report, noted later than the slots",
    1907: "a slot with errors in place of values was shown as missing where its device lists it after damage",
    1993: "what a meter owed while another one stood at its address was listed nowhere",
    2763: "a run of a clock that was a day ahead, in which no meter was read, was the last one when that was corrected",
    2761: "the check of the meters was what it had been before the last visits of a run, until the next one",
}


# Worlds in which the judge had asked for what nobody can know.
MISJUDGED = {
    1316: "a meter without power rests, since it had refused its password when it was asked last",
    1711: "the same of one that is mute, and has another password still",
    3511: "the fourth frame in a row that was lost counted as the first, since a visit had ended in between",
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", MISJUDGED)
def test_a_world_that_was_misjudged_is_right(seed: int) -> None:
    assert not judge(seed)[1]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", FOUND)
def test_a_fault_that_a_world_found_is_gone(seed: int) -> None:
    assert not judge(seed)[1]


CALM = replace(
    draw(1, ()), meters=1, ports=1, loss=0.0, trouble=0.0, calendar=None, period_s=900, every_s=3600,
    register_every_s=1800, zone=False, compress="", topology=False,
)  # fmt: skip
# A daemon that is killed twelve times while it reads a month of a meter that it does not know yet, and often enough has
# stored some of it.
CUT = replace(CALM, backlog_days=30, happenings=tuple(Happening(0.8 + 1.0 * number, "kill") for number in range(12)))


@pytest.mark.timeout(600)
def test_a_first_visit_that_is_cut_stores_registers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    repetitions_shown(monkeypatch)
    assert not judge_plan(CUT)
    stored_again(monkeypatch)
    assert judge_plan(CUT)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("plant", "kinds", "seed"),
    [
        (repetitions_shown, ("store-page", "kill"), 2),
        (nothing_read_again, ALL_KINDS, 305),
        (nothing_sent_again, ALL_KINDS, 40),
        (twice_at_the_end_of_summer, ALL_KINDS, 11),
        (never_confirmed, ALL_KINDS, 12),
        (lies_remembered, ALL_KINDS, 12),
    ],
)
def test_a_fault_planted_behind_damage_or_a_liar_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], kinds: tuple[str, ...], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not judge(seed, kinds)[1]
    schedule_of.cache_clear()
    plant(monkeypatch)
    assert judge(seed, kinds)[1]
    schedule_of.cache_clear()


# The process is killed while its clock lies.
LIAR = replace(CALM, happenings=(Happening(36_720.0, "clock-back", 0, 0.6), Happening(42_120.0, "kill")))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("plant", [corrections_unlisted, epochs_forgotten])
def test_a_fault_planted_beside_a_liar_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not judge_plan(LIAR)
    plant(monkeypatch)
    assert judge_plan(LIAR)


# Without what makes rows come again by itself, where the head-end must know repetitions. Here it is kept from knowing
# them, so that what is read twice is seen to come twice.
PLAIN = tuple(kind for kind in KINDS if kind not in {"store-page", "clock-back", "clock-ahead"})


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("plant", "seed"), [(no_places, 0), (no_marks, 1), (no_ledger, 1)])
def test_a_planted_fault_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    repetitions_shown(monkeypatch)
    assert not judge(seed, PLAIN)[1]
    plant(monkeypatch)
    assert judge(seed, PLAIN)[1]
