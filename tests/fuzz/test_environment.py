"""Every target of the boot environment, over a fixed number of mutations: success or a typed error, no third one."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.environment import TARGETS
from tests.fuzz.guided import mutate

MUTATIONS = {"marked": 600, "quick": 500}
MUTATIONS_ELSEWHERE = 2000


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_changed_bytes_give_success_or_a_typed_error(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    chance = random.Random(name)
    for seed in seeds:
        target.outcome(seed)
    for _ in range(MUTATIONS.get(name, MUTATIONS_ELSEWHERE)):
        target.outcome(mutate(chance.choice(seeds), chance, seeds))
