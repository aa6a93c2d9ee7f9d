"""What is remembered of meters, and for how long; and that what is remembered of a slot is of that slot: a run under a
clock that was a day wrong is another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.metering.registry.entry import Meter
from agent.metering.scheduling.readinglist import ReadingList
from agent.metering.scheduling.slots import CORRECTION_S
from agent.metering.scheduling.tasks import OwedRun
from agent.metering.store.reading_store import Store
from agent.metering.visit.visit_memory import KNOWLEDGE_KEPT, UNSAVED_KEPT, KnowledgeCache, Retries, values_stored
from agent.settings.provisioning import ReadingTask
from tests.agent.metering.test_collector import metering
from tests.agent.virtual import VirtualClock

RUN = 1_800_000_000
METER = Meter("plc0/02dc00000001", "plc0", 2, "02dc00000001", "DCU0000000000001", named=True, joined=1.0)
DAY_S = 86_400.0


def owed(offset: float, run: int = RUN, boot: str = "b1") -> OwedRun:
    return OwedRun(ReadingTask("t1", 3600, "list"), run, ReadingList("list", ()), offset=offset, boot=boot)


@pytest.mark.parametrize(
    ("run", "off_s", "boot", "same"),
    [
        (RUN, 0.0, "b1", True),
        (RUN, CORRECTION_S, "b1", True),
        (RUN, -DAY_S, "b1", False),
        (RUN, 7200.0, "b1", False),
        (RUN + 3600, 0.0, "b1", False),
        (RUN, 0.0, "b2", False),  # by chance: a clock that was ahead, and a boot that began so much later
    ],
)
def test_values_that_a_cut_visit_stored_are_there_for_their_slot_alone(
    tmp_path: Path, run: int, off_s: float, boot: str, same: bool
) -> None:
    store = Store(tmp_path / "readings.db", VirtualClock(), records_max=10, keep_forwarded_max=1)
    store.append([], (), values_stored("m", owed(1000.0)))
    assert KnowledgeCache(store).has_values("m", owed(1000.0 + off_s, run, boot)) is same
    store.close()


def test_a_run_that_was_given_up_under_a_clock_a_day_ahead_is_read_when_its_time_has_come(tmp_path: Path) -> None:
    retries = Retries(metering(tmp_path), VirtualClock(), lambda: 1.0)
    while not retries.note(METER, [owed(DAY_S)]):
        pass
    assert retries.given_up(METER, owed(DAY_S))
    assert not retries.given_up(METER, owed(0.0))
    assert not retries.note(METER, [owed(0.0)])


def test_what_only_memory_knows_stays_longer_than_what_the_store_has(tmp_path: Path) -> None:
    cache = KnowledgeCache(Store(tmp_path / "store.db", VirtualClock(), records_max=100, keep_forwarded_max=10))
    lists, other = cache.of("lists"), cache.of("other")
    lists.list_lost()
    for number in range(KNOWLEDGE_KEPT):
        cache.of(f"meter {number}")
    assert cache.of("other") is not other
    assert cache.of("lists") is lists


def test_that_lists_were_lost_is_kept_of_so_many_meters_only(tmp_path: Path) -> None:
    cache = KnowledgeCache(Store(tmp_path / "store.db", VirtualClock(), records_max=100, keep_forwarded_max=10))
    first = cache.of("first")
    first.list_lost()
    for number in range(UNSAVED_KEPT):
        cache.of(f"meter {number}").list_lost()
    assert cache.of("first") is not first
