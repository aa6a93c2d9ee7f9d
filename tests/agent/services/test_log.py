"""The log of a service: its bound holds whatever the program prints, and what was printed last is there."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from agent.services.log import LINE_CHARS_MAX, LOG_BYTES_MAX, ServiceLog
from tests.sim.faulty_disk import seeded

WALL = 1_800_000_000.0
PIECES = (b"\n", b"x", b"x\n", "\u20ac".encode(), b"\xff", b"\xff\n", "\U0001f50c".encode() + b"\n", b"\0", b"\r\n")


def printed(chance: Random) -> bytes:
    """What a program may print at once: noise, or much of one thing. A read has at most 16 KiB, the last one more."""
    if chance.random() < 0.3:
        return chance.randbytes(chance.randrange(2000))
    return chance.choice(PIECES) * chance.choice([1, chance.randrange(600), chance.randrange(64 << 10)])


def sizes(file: Path) -> list[int]:
    return [path.stat().st_size for path in file.parent.iterdir()]


@pytest.mark.parametrize("seed", range(40))
def test_the_bound_holds_whatever_is_written(tmp_path: Path, seed: int) -> None:
    chance = seeded(Random(seed))
    file = tmp_path / "watch.log"
    log = ServiceLog(file)
    for _ in range(chance.randrange(1, 15)):
        if chance.random() < 0.2:
            log.note(chance.choice("x\n\u20ac\U0001f50c") * chance.randrange(100_000), WALL)
        else:
            log.add(printed(chance), WALL)
        assert len(sizes(file)) <= 2
        assert max(sizes(file), default=0) <= LOG_BYTES_MAX
    log.note("the end", WALL)
    assert log.tail(1) == ["2027-01-15T08:00:00Z -- the end"]


@pytest.mark.parametrize(
    "printed",
    [b"\n" * (16 << 10), ("\u20ac" * LINE_CHARS_MAX + "\n").encode() * 10, b"\xff" * (16 << 10)],
    ids=["empty lines", "long lines of three bytes a character", "what is no text and has no end"],
)
def test_one_read_is_within_the_bound(tmp_path: Path, printed: bytes) -> None:
    log = ServiceLog(tmp_path / "watch.log")
    for _ in range(20):
        log.add(printed, WALL)
    assert len(sizes(tmp_path / "watch.log")) <= 2
    assert max(sizes(tmp_path / "watch.log")) <= LOG_BYTES_MAX


def test_the_latest_lines_are_kept_in_order_across_the_turn(tmp_path: Path) -> None:
    log = ServiceLog(tmp_path / "watch.log")
    log.add(b"".join(b"line %d\n" % number for number in range(5000)), WALL)
    assert [line.split(" ", 1)[1] for line in log.tail(500)] == [f"line {number}" for number in range(4500, 5000)]


def test_a_file_that_was_too_large_before_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "watch.log").write_bytes(b"x" * (5 * LOG_BYTES_MAX))
    ServiceLog(tmp_path / "watch.log").note("started", WALL)
    assert sizes(tmp_path / "watch.log") == [len("2027-01-15T08:00:00Z -- started\n")]
