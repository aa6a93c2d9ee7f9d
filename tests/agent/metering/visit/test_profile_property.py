"""Meters of all kinds, whose clocks are set at random: every row is right and there once, or it is said that it is not.

The meters differ in how they compress rows, stamp them, order them and let them be selected; their clocks are set by
minutes, hours and days, fall to 2000 or a year ahead, and come back; buffers are full or not.
"""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime

import pytest

from dlms.cosem.profile import FIFO, LIFO
from tests.agent.metering.visit.profile_meters import LARGEST, MeterModel, Reader

pytestmark = pytest.mark.slow

HOUR = 3600
START = datetime(2027, 1, 15, tzinfo=UTC).timestamp()
SEEDS, PER_TEST = 240, 30
SET_BY = (-1, 1, 14, -14, 15, -15, -45, 45, -60, 60, -120, 120, -180, 180)  # minutes
LOST_BY = (-3 * 1440, -25 * 60, 365 * 1440, -27 * 365 * 1440)  # a clock that is nowhere near, until it is set right


def clock_of(chance: random.Random) -> list[tuple[float, int]]:
    """When the clock is set, and how many minutes it is ahead of UTC from then on."""
    at, changes = START + 8 * HOUR, [(0.0, 60)]
    for _ in range(chance.randrange(4)):
        at += chance.randrange(1, 40) * 1800 + chance.choice((0, 300))
        if chance.random() < 0.3:
            changes.append((at, 60 + chance.choice(LOST_BY)))
            at += chance.randrange(1, 16) * 1800
            changes.append((at, 60))
        else:
            changes.append((at, max(-120, min(240, changes[-1][1] + chance.choice(SET_BY)))))
    return changes


def meter_of(chance: random.Random) -> MeterModel:
    changes = clock_of(chance)
    return MeterModel(
        START,
        offset_at=lambda at: next(offset for since, offset in reversed(changes) if since < at),
        stamps=chance.choice(("local", "status", "deviation")),
        period_s=chance.choice((900, 900, 1800, 3600)),
        size=chance.choice((4000, 4000, 120, 40)),
        by_entry=chance.random() < 0.5,
        packing=chance.choice(("plain", "answer", "buffer")),
        order=chance.choice((FIFO, FIFO, FIFO, LIFO, LARGEST)),
    )


def life_of(seed: int) -> Reader:
    """Two days of a meter, visited often enough that no row leaves its buffer unseen."""
    chance = random.Random(seed)
    meter = meter_of(chance)
    reader = Reader(meter, first_s=30 * 86_400, trusted=chance.random() < 0.8)
    meter.live(5 * HOUR)
    most = min(16, meter.size // 3)
    while meter.at < START + 60 * HOUR:
        reader.visit()
        meter.live(chance.randrange(1, most + 1) * meter.period_s + chance.choice((0, 100, -100)))
    for _ in range(3):
        reader.visit()
        meter.live(meter.period_s)
    reader.visit()
    return reader


@pytest.mark.parametrize("first", range(0, SEEDS, PER_TEST))
def test_every_row_is_right_and_there_once_or_it_is_said_that_it_is_not(first: int) -> None:
    for seed in range(first, first + PER_TEST):
        reader = life_of(seed)
        held, captured = Counter(reader.held()), Counter(reader.meter.history)
        assert not held - captured, f"seed {seed}: rows that were never captured, or are there twice"
        lost, meter = (captured - held).total(), reader.meter
        if meter.size < len(meter.history) and not reader.trusted:
            continue  # rows left the buffer, and nobody knows how much time has passed: nothing tells how many
        said = reader.missing if meter.order != LARGEST else reader.missing and lost  # sorted and full: not all of them
        assert lost <= said or reader.error, f"seed {seed}: {lost} rows are not there, and nothing says so"
