"""Every target of the application side of DLMS, over a fixed number of mutations: success or a typed error."""

from __future__ import annotations

import pytest

from tests.fuzz.dlms_app import TARGETS
from tests.fuzz.guided import exercise

MUTATIONS = {"meter": 300, "session": 400}
MUTATIONS_ELSEWHERE = 800


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_changed_bytes_give_success_or_a_typed_error(name: str) -> None:
    exercise(TARGETS[name], name, MUTATIONS.get(name, MUTATIONS_ELSEWHERE))
