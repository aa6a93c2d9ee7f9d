"""The fuzzer itself: what it keeps, its limits, and that it leaves the tracer of others alone."""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.fuzz.guided import (
    Coverage,
    LimitExceeded,
    Target,
    TracerChanged,
    exercise,
    explore,
    keep,
    kept,
    limits,
    lines_of,
    minimised,
    mutate,
)
from tests.fuzz.targets.registry import TARGETS
from tests.fuzz.test_targets import files
from updateagent.errors import UpdateError
from updateagent.package import description


class Outer:
    """A tracer like the one of a coverage measurement: it notes the functions that are entered."""

    def __init__(self) -> None:
        self.entered: set[str] = set()

    def __call__(self, frame: FrameType, _event: str, _argument: Any) -> None:
        self.entered.add(frame.f_code.co_name)


@pytest.fixture
def outer() -> Iterator[Outer]:
    before, tracer = sys.gettrace(), Outer()
    sys.settrace(tracer)
    yield tracer
    sys.settrace(before)


def steps(count: int) -> Any:
    left = iter(range(count))
    return lambda: next(left, None) is None


def after_the_first_target() -> None:
    """Seen only by a tracer that is still there."""


def test_coverage_of_a_test_run_still_grows_after_a_target(outer: Outer) -> None:
    """`sys.settrace(None)` at the end of each input once blinded the measurement of everything that ran later."""
    explore(TARGETS["updateagent/description"], "x/y", random.Random(1), steps(3), [b"{}"])
    after_the_first_target()
    assert sys.gettrace() is outer
    assert "after_the_first_target" in outer.entered


def test_the_tracer_is_put_back_after_a_finding_too(outer: Outer, tmp_path: Path) -> None:
    failing = Target(lambda _: 1 // 0, lambda: [b""], (), "/tests/")
    with pytest.raises(ZeroDivisionError):
        explore(failing, "x/y", random.Random(1), steps(3), [b"1"], tmp_path)
    assert sys.gettrace() is outer


def test_a_target_that_replaces_the_tracer_is_a_finding(outer: Outer) -> None:
    with pytest.raises(TracerChanged):
        Coverage("/tests/").run(lambda: sys.settrace(None))
    assert sys.gettrace() is outer


def test_lines_are_counted_for_each_target_anew() -> None:
    target = TARGETS["updateagent/description"]
    first = lines_of(target, b"{}")
    assert first == lines_of(target, b"{}")
    assert len(first) > 5


def test_inputs_that_reach_new_lines_are_kept_in_the_run() -> None:
    corpus = [b"{}"]
    tried, lines = explore(TARGETS["updateagent/description"], "x/y", random.Random(1), steps(400), corpus)
    assert tried == 400
    assert lines > 10
    assert len(corpus) > 1


def test_what_is_kept_adds_lines_to_the_seeds() -> None:
    target = Target(description.parse, lambda: [b"{}"], (UpdateError,), "/updateagent/")
    assert minimised(target, [b"{}", b"{ }"]) == []
    assert minimised(target, [b"\xff", b"\xff\xff"]) == [b"\xff"]


def test_a_finding_is_kept_and_found_again(tmp_path: Path) -> None:
    def run(data: bytes) -> None:
        assert b"{" not in data

    target = Target(run, lambda: [b"abc"], (), "/tests/")
    with pytest.raises(AssertionError) as caught:
        exercise(target, "x/y", corpus=tmp_path / "corpus", crashes=tmp_path)
    (file,) = files(tmp_path)
    assert b"{" in file.read_bytes()
    assert caught.value.__notes__ == [f"the input is in {file}"]
    assert kept(tmp_path, "x/y") == [file.read_bytes()]


def test_the_kept_corpus_is_tried_before_mutations(tmp_path: Path) -> None:
    tried: list[bytes] = []
    keep(tmp_path, "x/y", b"kept")
    target = Target(tried.append, lambda: [b"seed"], (), "/tests/", mutations=2)
    exercise(target, "x/y", corpus=tmp_path)
    assert tried[:2] == [b"seed", b"kept"]
    assert len(tried) == 4


def test_words_of_the_format_get_into_inputs() -> None:
    chance = random.Random(1)
    assert any(b"characteristic" in mutate(b"abc", chance, [b"abc"], (b"characteristic",)) for _ in range(300))


def test_an_input_that_takes_too_long_is_a_finding() -> None:
    def forever() -> None:
        while True:
            pass

    before = signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(LimitExceeded), limits(time_s=0.05):
        forever()
    assert signal.getsignal(signal.SIGVTALRM) is before


def test_too_long_is_a_finding_even_where_everything_is_caught() -> None:
    with pytest.raises(LimitExceeded), limits(time_s=0.05):
        try:
            while True:
                pass
        except BaseException:
            pass


def test_an_input_that_takes_too_much_memory_is_a_finding() -> None:
    with pytest.raises(LimitExceeded), limits(memory_bytes=64 << 20):
        bytearray(1 << 30)
    assert len(bytearray(128 << 20)) == 128 << 20
