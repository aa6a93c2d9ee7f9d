"""Invocation counters in a file: no value twice, whatever happens in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlms.errors import LocalError
from dlms.security.counters import RESERVED, FileCounters
from dlms.security.settings import COUNTER_MAX


def test_a_restart_never_gives_a_value_again(tmp_path: Path) -> None:
    path = tmp_path / "counters"
    given: list[int] = []
    for uses in (1, 3, RESERVED, RESERVED + 1, 0, 2):
        counters = FileCounters(path, start=7)
        given += [counters.next() for _ in range(uses)]  # and then the process is gone
    assert given == sorted(set(given))
    assert given[0] == 7


def test_an_orderly_end_wastes_nothing(tmp_path: Path) -> None:
    counters = FileCounters(tmp_path / "counters")
    assert [counters.next(), counters.next()] == [0, 1]
    counters.note(99)
    counters.close()
    again = FileCounters(tmp_path / "counters")
    assert (again.next(), again.seen()) == (2, 99)


def test_a_value_is_recorded_before_it_is_given(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    counters = FileCounters(folder / "counters")
    folder.rmdir()
    with pytest.raises(OSError):
        counters.next()
    folder.mkdir()
    assert counters.next() == 0


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"version": 1, "next": 5, "seen": null, "crc": 1}'])
def test_a_damaged_file_is_not_taken_for_a_new_one(tmp_path: Path, content: str) -> None:
    (tmp_path / "counters").write_text(content)
    with pytest.raises(LocalError, match="damaged"):
        FileCounters(tmp_path / "counters")


def test_a_file_of_a_later_version_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "counters").write_text('{"version": 2, "next": 5, "seen": null, "crc": 1}')
    with pytest.raises(LocalError, match="later version"):
        FileCounters(tmp_path / "counters")


def test_an_interrupted_write_leaves_the_old_record(tmp_path: Path) -> None:
    counters = FileCounters(tmp_path / "counters")
    counters.next()
    (tmp_path / "counters.new").write_text('{"vers')
    assert FileCounters(tmp_path / "counters").next() == RESERVED


def test_the_last_value_is_the_last(tmp_path: Path) -> None:
    counters = FileCounters(tmp_path / "counters", start=COUNTER_MAX)
    assert counters.next() == COUNTER_MAX
    with pytest.raises(LocalError, match="used up"):
        counters.next()
    with pytest.raises(LocalError):
        FileCounters(tmp_path / "counters").next()


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    FileCounters(tmp_path / "counters").next()
    assert (tmp_path / "counters").stat().st_mode & 0o777 == 0o600
