"""Every target of the serial side, over a fixed number of mutations: success or a typed error, no third outcome."""

from __future__ import annotations

import pytest

from tests.fuzz.guided import exercise
from tests.fuzz.serial_links import TARGETS

MUTATIONS = {"client": 400, "server": 400, "explain": 600}
MUTATIONS_ELSEWHERE = 1000


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_changed_bytes_give_success_or_a_typed_error(name: str) -> None:
    exercise(TARGETS[name], name, MUTATIONS.get(name, MUTATIONS_ELSEWHERE))
