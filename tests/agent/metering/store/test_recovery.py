"""Whatever is damaged in a store's file: what is left of it gets through, and what is lost is counted."""

from __future__ import annotations

import random
import shutil
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.metering.store.reading_store import Progress, Store
from omadm.readings import Reading
from tests.agent.metering.readings import visit
from tests.agent.metering.store.stores import delivered, raws, settled, store
from tests.agent.virtual import VirtualClock

PAGE = 512
ROW_S = 900


def rows(start: int, count: int) -> list[Reading]:
    """Rows of a profile, a quarter of an hour apart."""
    made = visit(start, count)
    return [
        replace(one, profile="1.0.99.1.0.255", meter_time=datetime.fromtimestamp(ROW_S * number, UTC).isoformat())
        for number, one in enumerate(made, start + 1)
    ]


@pytest.mark.parametrize("delivered_last", [True, False])
@pytest.mark.slow
def test_a_bad_page_costs_what_lies_on_it_wherever_it_is(tmp_path: Path, delivered_last: bool) -> None:
    """Every page of a file in turn: what is delivered, and what is counted as lost, is everything; where the newest
    visits were not counted anywhere yet, their number is said to be not known. In any case the profiles are read again
    from before what was lost."""
    clock = VirtualClock(wall=0.0)
    opened = Store(tmp_path / "s" / "readings.db", clock, records_max=10_000, keep_forwarded_max=0)
    for start in range(0, 1200, 40):
        if start == 120 and not delivered_last:
            opened.release(opened.stats().uuid, 100)
        clock.wall_offset = ROW_S * (start + 40) - clock.now
        opened.append(rows(start, 40), [Progress("m1", "t1", start + 1)], {"m1": {"scalers": {}}})
    if delivered_last:
        opened.release(opened.stats().uuid, 100)
    opened.note_alive(clock.wall())  # as the ledger does every five minutes: what was delivered since nobody else knows
    old = opened.stats().uuid
    opened.close()
    file = tmp_path / "s" / "readings.db"
    sound = file.read_bytes()
    pages = len(sound) // PAGE
    lost: list[int] = []
    uncounted = 0
    for page in range(1, pages):
        (tmp_path / f"{page}" / "s").mkdir(parents=True)
        copy = tmp_path / f"{page}" / "s" / "readings.db"
        copy.write_bytes(sound[: page * PAGE] + b"\xa5" * PAGE + sound[(page + 1) * PAGE :])
        shutil.copy(f"{file}-alive", f"{copy}-alive")  # without it, nobody would know how much is lost
        again = settled(store(tmp_path / f"{page}"))
        got = delivered(again)
        stats = again.stats()
        assert len(got) == len(set(got)), page
        assert {name for name, _, _ in got} <= {old}, page
        assert all(record_id == int(str(raw)) + 1 for _, record_id, raw in got), page
        missing = set(range(101, 1201)) - {int(str(record_id)) for _, record_id, _ in got}
        losses = again.losses()
        assert sum(loss.records for loss in losses) == stats.lost, page
        if any(not loss.records for loss in losses):
            assert not delivered_last or stats.lost <= len(missing), page
            uncounted += 1
        else:
            assert stats.lost == len(missing), page
        for number in missing:
            assert any(loss.reach <= ROW_S * number <= loss.until for loss in losses), page
        _, _, since = again.lost_since("m1", (old, 0))
        assert (since is None) == (not losses), page
        assert (since or 0.0) <= ROW_S * min(missing, default=1200), page
        assert bool(stats.lost_at) == bool(losses), page
        lost.append(len(missing))
        again.close()
    # A leaf page has a few visits. Inner pages and those of the schema cost nothing.
    assert max(lost) <= 6 * 40
    assert lost.count(0) >= len(lost) // 3
    assert 0 < uncounted < len(lost) // 4


@pytest.mark.slow
def test_a_second_damage_lists_what_the_first_had_spared(tmp_path: Path) -> None:
    """Every third page in turn of a store that waits to deliver what it recovered from one before it: what is not there
    any more lies within a loss."""
    clock = VirtualClock(wall=0.0)
    opened = Store(tmp_path / "s" / "readings.db", clock, records_max=10_000, keep_forwarded_max=0)
    for start in range(0, 800, 40):
        clock.wall_offset = ROW_S * (start + 40) - clock.now
        opened.append(rows(start, 40), [Progress("m1", "t1", start + 1)])
        if start == 200:
            opened.release(opened.stats().uuid, 80)
            opened.note_alive(clock.wall())
    first = opened.stats().uuid
    opened.close()
    file = tmp_path / "s" / "readings.db"
    data = file.read_bytes()
    bad = len(data) // PAGE - 1
    file.write_bytes(data[: PAGE * bad] + b"\xa5" * PAGE + data[PAGE * (bad + 1) :])
    opened = Store(file, clock, records_max=10_000, keep_forwarded_max=0)
    clock.wall_offset = ROW_S * 840 - clock.now
    opened.append(rows(800, 40))
    settled(opened)
    opened.note_alive(clock.wall())
    before, second = opened.losses(), opened.stats().uuid
    spared = {(name, number) for name, number, _ in waiting(opened)}
    assert before
    assert {name for name, _ in spared} == {first, second}
    assert first != second
    opened.close()
    again_lost = 0
    sound = file.read_bytes()
    for page in range(1, len(sound) // PAGE, 3):
        folder = tmp_path / f"{page}" / "s"
        shutil.copytree(tmp_path / "s", folder)
        (folder / "readings.db").write_bytes(sound[: page * PAGE] + b"\xa5" * PAGE + sound[(page + 1) * PAGE :])
        again = settled(Store(folder / "readings.db", clock, records_max=10_000, keep_forwarded_max=0))
        got = {(name, number) for name, number, _ in delivered(again)}
        losses = again.losses()
        for old in before:
            assert any(one.until >= old.until and one.reach <= old.reach for one in losses), (page, old)
        for name, number in spared - got:
            again_lost += name == first
            row = int(str(number)) + (800 if name == second else 0)
            at, stored = ROW_S * row, ROW_S * 40 * -(-row // 40)
            assert any(one.since <= stored <= one.until and one.reach <= at for one in losses), (page, at)
        again.close()
        shutil.rmtree(folder)
    assert again_lost > 40


def waiting(opened: Store) -> list[tuple[str, object, object]]:
    """Everything that the head-end is still to get."""
    with tempfile.TemporaryDirectory() as folder:
        (file,) = opened.file.names()
        opened.close()
        shutil.copytree(file.parent, folder, dirs_exist_ok=True)
        copy = Store(Path(folder) / file.name, VirtualClock(), records_max=10_000, keep_forwarded_max=0)
        got = delivered(copy)
        copy.close()
        return got


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.slow
def test_whatever_is_damaged_the_store_works_and_invents_nothing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    opened = store(tmp_path)
    for start in range(0, 600, 20):
        opened.append(visit(start, 20), [Progress("m1", "t1", start + 1)])
    old = opened.stats().uuid
    opened.close()
    file = tmp_path / "s" / "readings.db"
    data = bytearray(file.read_bytes())
    for _ in range(rng.choice([1, 1, 2, 5])):
        at, size = rng.randrange(100, len(data)), rng.choice([1, 2, 8, 100, 1024, 5000])
        data[at : at + size] = rng.randbytes(len(data[at : at + size]))
    file.write_bytes(data)
    again = settled(store(tmp_path))
    got = delivered(again)
    assert all(record_id == int(str(raw)) + 1 for _, record_id, raw in got)
    # Every record has one identity, the right one, unless nothing in the file says any more what that was.
    assert len({record_id for _, record_id, _ in got}) == len(got)
    assert len({name for name, _, _ in got} - {old}) <= 1
    again.append(visit(0, 2))
    assert raws(again) == [0, 1]
