"""The model of a power cut, without any board."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.board.emulation.writelog import (
    ENTRY,
    FLUSH,
    FUA,
    JOURNAL_COMMIT,
    MAGIC,
    SECTOR,
    SUPER,
    Cut,
    Loss,
    Write,
    read,
    survivors,
    torn_commit,
)

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


@pytest.mark.parametrize("older", [True, False])
def test_a_commit_of_the_journal_is_torn_where_it_replaces_an_older_block(tmp_path: Path, older: bool) -> None:
    log = make(tmp_path / "log", *[(8, 8, 0)] * older, (0, 0, FLUSH), (8, 8, 0))
    with log.open("r+b") as file:
        file.seek(read(log)[-1].data_at)
        file.write(JOURNAL_COMMIT)
    base = tmp_path / "base"
    base.write_bytes(bytes(16 * SECTOR))
    if not older:
        with pytest.raises(ValueError, match="no commit of a journal"):
            torn_commit(base, log, 1)
        return
    cut = torn_commit(base, log, 1)
    left, loss = survivors(read(log), cut)
    assert (cut.index, loss) == (3, Loss(kept=0, torn=1, lost=0))
    assert 0 < left[-1][1] <= 4 * SECTOR
