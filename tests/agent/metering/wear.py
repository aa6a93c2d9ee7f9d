"""How much the store writes: bytes handed to the file system per byte of compressed payload, in its steady state."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

from agent.metering.ports.held_visits import HeldVisits, Taken
from agent.metering.registry.entry import Meter
from agent.metering.store.blocks import pack
from agent.metering.store.reading_store import Progress, Store
from agent.metering.visit.visit import Visit as MeterVisit
from omadm.readings import Reading
from tests.agent.metering.readings import reading
from tests.agent.virtual import VirtualClock

REGISTERS, ROWS = 108, 96
BATCH = 500
EVERY_S = 900

Visit = Callable[[random.Random, str, int], list[Reading]]


def registers(rng: random.Random, meter: str, run: int) -> list[Reading]:
    """A visit that reads the registers of a residential meter."""
    return [
        replace(
            reading(rng.randrange(10**7) + 1000 * number, meter, run),
            obis=f"1.0.{number % 90 + 1}.8.{number // 90}.255",
            meter_time=_iso(run),
            received=round(run + 5 + rng.random(), 3),
        )
        for number in range(REGISTERS)
    ]


def profile(rng: random.Random, meter: str, run: int) -> list[Reading]:
    """A visit that reads a day of a load profile."""
    return [
        replace(
            reading(123_456 + 200 * number + rng.randrange(300), meter, run),
            meter_time=_iso(run - EVERY_S * (ROWS - number)),
            received=run + 5.0,
            profile="1.0.99.1.0.255",
            reread="ab12cd34",
        )
        for number in range(ROWS)
    ]


def written_per_payload(folder: Path, visit: Visit, *, visits: int, meters: int, keep: int) -> float:
    """Store visits of meters in turn, one a second, as a port does, and deliver them in batches; measured is the second
    half of it."""
    rng = random.Random(1)
    clock = VirtualClock(wall=1_800_000_000.0)
    store = Store(folder / "wear.db", clock, records_max=10**6, keep_forwarded_max=keep)
    held = HeldVisits()
    names = [f"KEP{rng.randrange(10**12):013}" for _ in range(meters)]
    before = payload = 0
    for number in range(visits):
        if number == visits // 2:
            before, payload = _written(), 0
        run = 1_800_000_000 + EVERY_S * (number // meters)
        clock.advance(1.0)
        readings = visit(rng, names[number % meters], run)
        payload += len(pack([one.row() for one in readings]))
        held.add(_taken(names[number % meters], readings, run), clock.monotonic())
        if held.due(clock.monotonic(), more_to_come=number < visits - 1):
            store.append_all([brought for one in held.take() if (brought := one.brought()) is not None])
        while store.stats().pending >= BATCH:
            batch = store.batch(BATCH)
            if batch is None:
                break
            store.release(batch.store, batch.last)
    ratio = (_written() - before) / payload
    store.close()
    return ratio


def _taken(name: str, readings: list[Reading], run: int) -> Taken:
    """What a port takes of a visit that is over. Nothing here looks at the visit but for which one it is."""
    marks = [Progress(name, "t1", run)]
    meter = Meter(name, "plc0", 1, "", name, named=True, joined=0.0)
    return Taken(cast("MeterVisit", object()), meter, (), readings, marks, {}, (), trusted=True, final=True, periods={})


def _written() -> int:
    """What this process has handed to the file system so far (proc(5), wchar)."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])


def _iso(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
