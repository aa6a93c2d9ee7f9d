"""Each fault that collection once had, planted into the daemon as it was, is found by a world."""

from __future__ import annotations

import pytest

from omadm.schedule import schedule_of
from tests.sim.world.__main__ import judge
from tests.sim.world.planted.faults import FAULTS, Fault
from tests.sim.world.test_world import NOT_RIGHT_YET, SEEDS

FAULTS_TOLD = 11
SEEDS_MAX = 10

pytestmark = pytest.mark.slow


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.plant.__name__)
def test_a_fault_that_collection_once_had_is_found(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule_of.cache_clear()
    if fault.beside is not None:
        fault.beside(monkeypatch)
        assert not any(judge(seed)[1] for seed in fault.seeds)
    fault.plant(monkeypatch)
    assert any(judge(seed)[1] for seed in fault.seeds)
    schedule_of.cache_clear()


def test_every_fault_told_of_is_planted() -> None:
    assert {fault.number for fault in FAULTS} == set(range(1, FAULTS_TOLD + 1))


def test_worlds_that_find_faults_are_right_without_them() -> None:
    """That is: `test_world` runs them, and nothing is wrong in them."""
    for fault in FAULTS:
        assert 0 < len(fault.seeds) <= SEEDS_MAX
        assert set(fault.seeds) <= set(range(SEEDS)) - set(NOT_RIGHT_YET)
