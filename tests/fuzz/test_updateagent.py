"""Every target of package and environment, over a fixed number of mutations: success or a typed error, no third one."""

from __future__ import annotations

import random

import pytest

from tests.fuzz import environment, updateagent
from tests.fuzz.guided import exercise, explore

TARGETS = {**updateagent.TARGETS, **environment.TARGETS}
MUTATIONS = {"package": 600, "verity": 300, "marked": 600, "quick": 500}
MUTATIONS_ELSEWHERE = 2000


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_changed_bytes_give_success_or_a_typed_error(name: str) -> None:
    exercise(TARGETS[name], name, MUTATIONS.get(name, MUTATIONS_ELSEWHERE))


def test_the_guided_fuzzer_keeps_inputs_that_reach_new_lines() -> None:
    target = TARGETS["description"]
    corpus = [b"{}"]
    steps = iter(range(400))
    tried, lines = explore(target, random.Random(1), lambda: next(steps, None) is None, corpus)
    assert tried == 400
    assert lines > 10
    assert len(corpus) > 1
