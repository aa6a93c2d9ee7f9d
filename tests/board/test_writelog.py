"""The model of a power cut, without any board."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.board.emulation.writelog import ENTRY, FLUSH, FUA, MAGIC, SECTOR, SUPER, Cut, Write, read, survivors

OLD = Write(0, 4 * SECTOR, 0, 0)
FLUSHED = Write(0, 0, FLUSH, 0)
NEW = Write(SECTOR, 8 * SECTOR, 0, 0)
FORCED = Write(9 * SECTOR, SECTOR, FUA, 0)
SEEDS = range(60)


def make(path: Path, *entries: tuple[int, int, int], cut_bytes: int = 0) -> Path:
    raw = SUPER.pack(MAGIC, 1, 0, SECTOR).ljust(SECTOR, b"\0")
    for sector, sectors, flags in entries:
        raw += ENTRY.pack(sector, sectors, flags, 0).ljust(SECTOR, b"\0") + bytes([65]) * (sectors * SECTOR)
    path.write_bytes(raw[: len(raw) - cut_bytes])
    return path


def test_a_log_is_read_to_its_last_whole_entry(tmp_path: Path) -> None:
    log = make(tmp_path / "log", (4, 2, 0), (0, 0, FLUSH), (8, 1, FUA), cut_bytes=1)
    found = read(log)
    assert [(write.at, write.size, write.flags) for write in found] == [(2048, 1024, 0), (0, 0, FLUSH)]


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 4096)
    with pytest.raises(ValueError, match="no log"):
        read(tmp_path / "log")


def test_what_was_flushed_survives_and_what_was_not_is_kept_torn_or_lost() -> None:
    fates = set()
    for seed in SEEDS:
        left, _ = survivors([OLD, FLUSHED, NEW], Cut(3, seed))
        assert left[0] == (OLD, OLD.size)
        fates.add(sum(size for write, size in left if write is NEW))
    assert {0, NEW.size} < fates
    assert all(size % SECTOR == 0 for size in fates)


def test_what_comes_after_the_cut_never_happened() -> None:
    assert survivors([OLD, FLUSHED, NEW], Cut(0, 1))[0] == []
    assert survivors([OLD, FLUSHED, NEW], Cut(2, 1))[0] == [(OLD, OLD.size)]


def test_a_write_with_forced_unit_access_needs_no_flush() -> None:
    assert all((FORCED, SECTOR) in survivors([NEW, FORCED], Cut(2, seed))[0] for seed in SEEDS)


def test_writes_that_were_not_flushed_are_lost_independently() -> None:
    seen = set()
    for seed in SEEDS:
        left = [write for write, _ in survivors([OLD, NEW], Cut(2, seed))[0]]
        seen.add((OLD in left, NEW in left))
    assert len(seen) == 4
