"""Real processes, killed at any moment, against a hostile head-end: 200 times in `make kills`, a few times here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sim.world import kills

KILLS = 6


@pytest.mark.process
@pytest.mark.timeout(900)
def test_each_scheduled_slot_is_delivered_once_or_listed_whoever_is_killed(tmp_path: Path) -> None:
    found = kills.run(KILLS, 7, tmp_path)
    assert found.wrong == ()
    assert found.delivered + found.listed == found.slots
    assert found.delivered >= kills.METERS * len(kills.EVERY_S)


def test_what_is_neither_delivered_nor_listed_or_comes_twice_is_found_out() -> None:
    """The judge over a head-end with a hole and a repetition."""
    rows = [
        {"meter": "m", "task": "registers", "run": run, "trusted": True, "repeated": repeated, "error": None, "id": 1}
        for run, repeated in ((0, False), (10, False), (40, False), (40, True))
    ]
    ranges = [{"meter": "m", "task": "registers", "first": 20, "last": 20}]
    found = kills.judged(rows, ranges, ["m"], now=80.0)
    assert (found.slots, found.delivered, found.listed) == (6, 3, 1)
    assert [line.removeprefix("m registers ") for line in found.wrong] == [
        "40: came twice, under id 1 too",
        "40: read 2 times",
        "30: neither read nor listed",
        "50: neither read nor listed",
    ]
