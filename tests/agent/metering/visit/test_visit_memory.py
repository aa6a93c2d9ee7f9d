"""What was learned of meters: which of it stays in memory."""

from __future__ import annotations

from pathlib import Path

from agent.metering.store.reading_store import Store
from agent.metering.visit.visit_memory import KNOWLEDGE_KEPT, UNSAVED_KEPT, KnowledgeCache
from tests.agent.virtual import VirtualClock


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
