"""Every target of the serial side, over a fixed number of mutations: success or a typed error, no third outcome."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.guided import mutate
from tests.fuzz.serial_links import TARGETS

MUTATIONS = {"client": 400, "server": 400, "explain": 600}
MUTATIONS_ELSEWHERE = 1000


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_changed_bytes_give_success_or_a_typed_error(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    chance = random.Random(name)
    for seed in seeds:
        target.outcome(seed)
    for _ in range(MUTATIONS.get(name, MUTATIONS_ELSEWHERE)):
        target.outcome(mutate(chance.choice(seeds), chance, seeds))
